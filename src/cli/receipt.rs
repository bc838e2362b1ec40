//! `receipt` makes a proof for outsiders; `verify` judges one, or a certificate: is it in the log, and why was it issued?

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::answer::{find_grant, find_request};
use super::certificate::{Authorities, Shown};
use super::client::Client;
use super::context::Context;
use super::failure::Failure;
use super::home::Home;
use super::output::{instant, span};
use super::{Globals, keys, output};
use crate::broker::evidence::{self, Evidence};
use crate::broker::receipt::About;
use crate::daemon::dig::{Sought, dig};
use crate::daemon::verify::{audit, first_origin};
use crate::domain::digest::Digest;
use crate::domain::grant::GrantState;
use crate::domain::key::Key;
use crate::domain::refusal::Code;
use crate::ledger::note::Checkpoint;
use crate::wire::ReceiptDoc;

/// The largest file that is read as a certificate or receipt, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// `jit-broker receipt`
#[derive(Debug, Args)]
pub struct ReceiptArgs {
    /// A request or a grant: its id or a prefix; or a certificate: its file, or the SHA-256 of what its authority signed
    id: String,
    /// Where to; default stdout
    #[arg(long)]
    out: Option<PathBuf>,
}

/// `jit-broker verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// An OpenSSH certificate, an X.509 certificate as PEM, or a receipt; - is stdin
    file: PathBuf,
    /// The log's public key; default: the pinned one
    #[arg(long, value_name = "PUB")]
    key: Option<PathBuf>,
    /// Asks no broker: a receipt about the certificate, an export, a ledger, or a folder that has one
    #[arg(long, value_name = "FILE|DIR")]
    offline: Option<PathBuf>,
}

fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let file: Box<dyn std::io::Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(|e| Failure::local(path.display(), e))?)
    };
    let read = file.take(MAX_FILE).read_to_string(&mut text);
    read.map_err(|e| Failure::local(path.display(), e))?;
    Ok(text)
}

fn parse(text: &str) -> Result<ReceiptDoc, Failure> {
    if text.starts_with("{\"format\":\"jit-broker-ledger\"") {
        let mut failure = Failure::new(Code::USAGE, "This is a whole log, and neither a certificate nor a receipt.");
        failure.0.hint = Some("jit-broker audit verify --offline FILE --key PUB".to_owned());
        return Err(failure);
    }
    serde_json::from_str(text)
        .map_err(|e| Failure::new(Code::FALSE_PROOF, format!("It is not a receipt of jit-broker: {e}.")))
}

impl ReceiptArgs {
    /// Runs the verb: what the broker gives is judged before it is handed on.
    ///
    /// # Errors
    /// As the broker says, or [`Code::FALSE_PROOF`].
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let mut client = Client::remembered(&Home::find()?)?;
        let about = self.about(&mut client).await?;
        let doc: ReceiptDoc = client.get(&format!("/v1/receipts/{about}")).await?;
        let (evidence, checkpoint) = evidence::open(&doc, &client.context()?.about.log_key)?;
        let text = serde_json::to_string(&doc).map_err(|e| Failure::local("the receipt", e))? + "\n";
        match &self.out {
            Some(path) => {
                // Nobody else may read it, whoever could read what was there: reasons of people stand in it.
                crate::signer::keys::replace(path, text.as_bytes(), 0o600)?;
                let judged =
                    Judged { evidence: &evidence, checkpoint: Some(&checkpoint), about: &doc.about, cert: None };
                judged.print(globals)?;
                eprintln!(
                    "kept in {}; anybody judges it with: jit-broker verify {} --key LOGKEY",
                    path.display(),
                    path.display()
                );
            }
            None => print!("{}", crate::domain::text::shown_json(text.trim_end()) + "\n"),
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn about(&self, client: &mut Client) -> Result<About, Failure> {
        let id = &self.id;
        if let Ok(about) = id.parse::<About>() {
            return Ok(about);
        }
        if Path::new(id).is_file() {
            let cert = Shown::read(&read(Path::new(id))?)?;
            return Ok(match cert.host() {
                Some((target, serial)) => About::Host(target, serial),
                None => About::Certificate(cert.tbs()),
            });
        }
        if id.starts_with("gr_") {
            return Ok(About::Grant(find_grant(client, id).await?.id));
        }
        Ok(About::Request(find_request(client, id).await?.id))
    }
}

impl VerifyArgs {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Code::NOT_IN_LOG`], [`Code::FALSE_PROOF`], or as the broker says.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let text = read(&self.file)?;
        if text.trim_start().starts_with('{') {
            let doc = parse(&text)?;
            let (evidence, checkpoint) = evidence::open(&doc, &self.log_key()?)?;
            let judged = Judged { evidence: &evidence, checkpoint: Some(&checkpoint), about: &doc.about, cert: None };
            judged.print(globals)?;
            return Ok(ExitCode::SUCCESS);
        }
        let cert = Shown::read(&text)?;
        let (evidence, checkpoint) = match &self.offline {
            Some(path) => self.offline(path, &cert).await?,
            None => online(&cert, self.key.as_deref()).await?,
        };
        let judged =
            Judged { evidence: &evidence, checkpoint: checkpoint.as_ref(), about: "certificate", cert: Some(&cert) };
        judged.signer()?;
        judged.print(globals)?;
        Ok(ExitCode::SUCCESS)
    }

    fn log_key(&self) -> Result<Key, Failure> {
        match &self.key {
            Some(path) => keys::public(path),
            None => Context::load(&Home::find()?)
                .map(|context| context.about.log_key)
                .map_err(|_| Failure::new(Code::USAGE, "Which key signs this log? Say it with --key PUB.")),
        }
    }

    async fn offline(&self, path: &Path, cert: &Shown) -> Result<(Evidence, Option<Checkpoint>), Failure> {
        let log_key = self.log_key()?;
        let path = super::verify::ledger_in(path);
        let mut head = [0; 1024];
        let read_head = std::fs::File::open(&path).and_then(|mut file| file.read(&mut head));
        let length = read_head.map_err(|e| Failure::local(path.display(), e))?;
        if String::from_utf8_lossy(&head[..length]).contains("\"about\"") {
            let (evidence, checkpoint) = evidence::open(&parse(&read(&path)?)?, &log_key)?;
            if cert.signed_by(&Authorities::of(&evidence)).is_ok() && known(&evidence, cert).is_none() {
                let what = "The receipt does not speak of this certificate; what else the log has, it does not tell.";
                let mut failure = Failure::new(Code::NOT_IN_LOG, what);
                failure.0.hint = Some(format!("jit-broker verify {}, as an auditor", self.file.display()));
                return Err(failure);
            }
            return Ok((evidence, Some(checkpoint)));
        }
        let begins = || Failure::new(Code::LEDGER_CORRUPT, "The log does not begin with its beginning.");
        let origin = first_origin(&path).await?.ok_or_else(begins)?;
        let report = audit(&path, origin, &log_key, &[], None).await?;
        if !report.ok {
            let first = report.problems.first().map(|p| format!("{}: {}", p.kind, p.detail)).unwrap_or_default();
            let message = format!("The log itself does not hold, so nothing in it may be believed: {first}");
            return Err(Failure::new(Code::LEDGER_CORRUPT, message));
        }
        let sought =
            cert.host().map_or_else(|| Sought::Bytes(cert.tbs()), |(target, serial)| Sought::Host(target, serial));
        let dug = dig(&path, &sought).await?;
        let about =
            cert.host().map_or_else(|| About::Certificate(cert.tbs()), |(target, serial)| About::Host(target, serial));
        let evidence = Evidence::read(&dug.entries, dug.texts.iter().map(Vec::as_slice), &about);
        Ok((evidence, None))
    }
}

/// Asks the broker for the receipt of a certificate, and believes only what is proven in it.
async fn online(cert: &Shown, key: Option<&Path>) -> Result<(Evidence, Option<Checkpoint>), Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let log_key = key.map_or_else(|| Ok(client.context()?.about.log_key.clone()), keys::public)?;
    // Of authorities that were, the log alone knows.
    let mut ours = cert.signed_by(&Authorities::believed(client.context()?));
    let mut paths: Vec<About> = cert.host().map(|(target, serial)| About::Host(target, serial)).into_iter().collect();
    if paths.is_empty() {
        // Whoever it concerns finds it through its grant; auditors look for the bytes themselves.
        paths.extend(cert.grant().map(About::Grant));
        paths.push(About::Certificate(cert.tbs()));
    }
    let mut last = None;
    for path in paths {
        match client.get::<ReceiptDoc>(&format!("/v1/receipts/{path}")).await {
            Ok(doc) => {
                let (evidence, checkpoint) = evidence::open(&doc, &log_key)?;
                if known(&evidence, cert).is_some() {
                    return Ok((evidence, Some(checkpoint)));
                }
                ours = cert.signed_by(&Authorities::of(&evidence));
            }
            Err(failure) if matches!(failure.0.code, Code::MISSING | Code::NOT_IN_LOG) => last = Some(failure),
            Err(failure) => return Err(failure),
        }
    }
    ours?;
    Err(last.unwrap_or_else(not_in_log))
}

fn not_in_log() -> Failure {
    Failure::new(
        Code::NOT_IN_LOG,
        "NOT IN THE LOG: an authority of this installation signed this, and no entry allows it.",
    )
}

/// Where the evidence allows exactly the bytes of a certificate: in words.
fn known(evidence: &Evidence, cert: &Shown) -> Option<String> {
    let tbs = cert.tbs();
    let credential = evidence.grant.iter().flat_map(|grant| &grant.credentials).find(|c| c.tbs_sha256 == tbs);
    let leg = evidence.legs.iter().find(|(_, leg)| leg.tbs_sha256 == tbs);
    let host = evidence.host_of(tbs);
    credential
        .map(|c| format!("{} serial {}", c.kind.word(), c.serial))
        .or_else(|| leg.map(|(id, leg)| format!("the gateway's own, ssh-user serial {}, for session {id}", leg.serial)))
        .or_else(|| host.map(|(target, host)| format!("host certificate of {target}, serial {}", host.serial)))
}

/// Evidence on its way to whoever asked.
struct Judged<'a> {
    evidence: &'a Evidence,
    checkpoint: Option<&'a Checkpoint>,
    about: &'a str,
    cert: Option<&'a Shown>,
}

impl Judged<'_> {
    /// Demands that the certificate is of this installation and in the evidence.
    fn signer(&self) -> Result<(), Failure> {
        let Some(cert) = self.cert else { return Ok(()) };
        cert.signed_by(&Authorities::of(self.evidence))?;
        if let [first, ..] = self.evidence.problems.as_slice() {
            return Err(Failure::new(Code::FALSE_PROOF, format!("What the log says of it does not hold: {first}")));
        }
        known(self.evidence, cert).map(drop).ok_or_else(not_in_log)
    }

    fn print(&self, globals: &Globals) -> Result<(), Failure> {
        output::answer(globals.output, "proof", self.json(), self.about, &self.lines())
    }

    fn json(&self) -> serde_json::Value {
        let evidence = self.evidence;
        let request = evidence.request.as_ref().map(|request| {
            let words = evidence.words(request.words);
            let approvals = request.approvals.iter().map(|a| {
                serde_json::json!({ "by": a.by, "step": a.step, "at": instant(a.at), "for_s": a.terms.for_s, "role": a.terms.role,
                    "key": a.key_fp, "touched": a.touched, "note": evidence.words(a.words).and_then(|w| w.reason) })
            });
            serde_json::json!({ "id": request.id, "state": request.state.word(), "requester": request.person, "attested": request.attested,
                "target": request.terms.target, "role": request.terms.role, "for_s": request.terms.for_s, "at": instant(request.created_at),
                "key": request.key_fp, "rules": request.rules, "reason": words.as_ref().and_then(|w| w.reason.clone()),
                "ticket": words.and_then(|w| w.ticket), "approvals": approvals.collect::<Vec<_>>() })
        });
        let grant = evidence.grant.as_ref().map(|grant| {
            let credentials = grant.credentials.iter().map(|c| {
                serde_json::json!({ "kind": c.kind.word(), "serial": c.serial, "fingerprint": c.key.0.fingerprint(),
                    "valid_after": instant(c.valid_after), "valid_before": instant(c.valid_before), "tbs_sha256": c.tbs_sha256 })
            });
            serde_json::json!({ "id": grant.id, "state": grant.state.word(), "starts_at": instant(grant.starts_at),
                "ends_at": instant(grant.ends_at), "credentials": credentials.collect::<Vec<_>>() })
        });
        let said = evidence.said.iter().map(|said| {
            serde_json::json!({ "seq": said.seq, "person": said.person, "act": said.deed, "key": said.key_fp, "shown_theirs": said.theirs })
        });
        serde_json::json!({ "ok": true, "about": self.about, "certificate": self.cert.and_then(|cert| known(evidence, cert)),
            "size": self.checkpoint.map(|c| c.size), "root": self.checkpoint.map(|c| Digest::new(c.root)),
            "origin": self.checkpoint.map(|c| c.origin.clone()), "bundle": evidence.bundle, "judged_again": evidence.judged,
            "request": request, "grant": grant, "signed": said.collect::<Vec<_>>(), "gaps": evidence.gaps })
    }

    fn lines(&self) -> Vec<String> {
        let evidence = self.evidence;
        let mut lines = Vec::new();
        if let Some(cert) = self.cert {
            let (fingerprint, _, until) = cert.facts();
            lines.push(format!("in the log: {}", known(evidence, cert).unwrap_or_default()));
            lines.push(format!("  {fingerprint}, valid until {}", instant(until)));
        }
        if let Some(request) = &evidence.request {
            let terms = &request.terms;
            let how = if request.attested { "asked inside ssh, attested by the gateway" } else { "asked, signed" };
            let time = span(i64::try_from(terms.for_s).unwrap_or(i64::MAX));
            lines.push(format!(
                "{}  {} {how} for {} on {} for {time}, {}",
                request.id,
                request.person,
                terms.role,
                terms.target,
                instant(request.created_at)
            ));
            if let Some(words) = evidence.words(request.words) {
                let ticket = words.ticket.map(|ticket| format!(" [{ticket}]")).unwrap_or_default();
                lines.push(format!("  reason: {}{ticket}", words.reason.unwrap_or_default()));
            }
            for approval in &request.approvals {
                let key = approval.key_fp.as_deref().unwrap_or("?");
                let note = evidence.words(approval.words).and_then(|w| w.reason).map(|note| format!(": {note}"));
                lines.push(format!(
                    "  step {}: {} agreed {}, signed by {key}{}",
                    approval.step,
                    approval.by,
                    instant(approval.at),
                    note.unwrap_or_default()
                ));
            }
            let rules: Vec<&str> = request.rules.iter().map(|rule| rule.as_str()).collect();
            let bundle = evidence.bundle.map(|digest| digest.to_string()).unwrap_or_default();
            let again = if evidence.judged { ", run again here with the same outcome" } else { "" };
            lines.push(format!("  rules {} of bundle {:.16}…{again}", rules.join(", "), bundle));
        }
        if let Some(grant) = &evidence.grant {
            let why = match &grant.state {
                GrantState::Ending { cause, at, .. } | GrantState::Ended { cause, at, .. } => {
                    format!(" ({}, {})", cause.state(), instant(*at))
                }
                _ => String::new(),
            };
            lines.push(format!(
                "{}  {}{why}: {} .. {}",
                grant.id,
                grant.state.word(),
                instant(grant.starts_at),
                instant(grant.ends_at)
            ));
            lines.extend(grant.credentials.iter().map(|c| {
                let (until, key) = (instant(c.valid_before), c.key.0.fingerprint());
                format!("  {} serial {} for {key}, until {until}", c.kind.word(), c.serial)
            }));
        }
        for said in evidence.said.iter().filter(|said| !matches!(said.deed, "request" | "approve")) {
            let words =
                said.words.as_ref().and_then(|w| w.reason.as_deref()).map(|r| format!(": {r}")).unwrap_or_default();
            lines.push(format!("  {} signed {}{words} (entry {})", said.person, said.deed, said.seq));
        }
        lines.extend(evidence.gaps.iter().map(|gap| format!("not shown: {gap}")));
        if let Some(checkpoint) = self.checkpoint {
            lines.push(format!(
                "proven in {}, {} entries; what came later, and what is not in the log, no receipt shows",
                checkpoint.origin, checkpoint.size
            ));
        }
        lines
    }
}
