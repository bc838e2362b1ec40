//! Accounts on databases: which one a live grant allows, its certificate, and what came of its removal.

use jit_ca::x509::{CaCert, ClientLeafSpec};

use super::issue::{credential_end, first_use, held};
use super::{Now, missing};
use crate::domain::authority::Purpose;
use crate::domain::database::{Account, Auth};
use crate::domain::digest::Digest;
use crate::domain::event::{Event, Proof};
use crate::domain::grant::{BACKDATE_S, Credential, CredentialKind, Grant, GrantState, LiveGrant, MAX_CREDENTIALS};
use crate::domain::ids::GrantId;
use crate::domain::key::Key;
use crate::domain::names::AccountName;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::state::State;

/// The most lines of what is kept or left that one entry takes; of the rest the number is told.
const MAX_LINES: usize = 64;
/// The most bytes of one such line.
const MAX_LINE_BYTES: usize = 256;

/// The events that give a key, or a password's verifier, the grant's account.
pub(super) fn issue(
    state: &State,
    live: &LiveGrant<'_>,
    key: &Key,
    nonce: Digest,
    verifier: Option<Digest>,
    now: Now<'_>,
) -> Result<Vec<Event>, Refusal> {
    let target = state.bundle.targets.get(&live.terms.target).ok_or_else(|| missing("target"))?;
    let database = target.database.as_ref().ok_or_else(|| missing("database"))?;
    if (database.auth == Auth::Password) != verifier.is_some() {
        let takes = database.auth.word();
        return Err(Refusal::new(Code::BAD_BODY, format!("{} proves accounts by {takes}.", live.terms.target)));
    }
    let mut events = Vec::new();
    let account = match &live.account {
        // The same account again, with another password: the one before is forgotten.
        Some(account) if account.verifier != verifier => Some(Account { verifier, ..account.clone() }),
        Some(_) => None,
        None => {
            if let Some(refusal) = first_use(state, live, now)? {
                return Ok(vec![Event::GrantCancelled { grant: live.id, refusal }]);
            }
            let random: [u8; 16] = nonce.as_bytes().first_chunk().copied().unwrap_or_default();
            let name = AccountName::of_random(&random);
            let route = target.route().ok_or_else(|| missing("database"))?;
            Some(Account { name, route, auth: database.auth, verifier })
        }
    };
    let standing = account.clone().or_else(|| live.account.clone()).ok_or_else(|| missing("account"))?;
    if let Some(account) = account {
        let (grant, valid_until) = (live.id, live.ends_at);
        events.push(Event::AccountPlanned { grant, key: key.clone(), account: Box::new(account), valid_until });
    }
    if database.auth == Auth::Cert && !held(state, live, key, now.at) {
        events.push(certificate(state, live, &standing.name, key, now.at)?);
    }
    if !events.is_empty() && live.credentials.len() >= MAX_CREDENTIALS {
        return Err(Refusal::new(Code::TOO_MANY, format!("Grant {} has had {MAX_CREDENTIALS} certificates.", live.id)));
    }
    Ok(events)
}

fn certificate(
    state: &State,
    live: &LiveGrant<'_>,
    account: &AccountName,
    key: &Key,
    at: i64,
) -> Result<Event, Refusal> {
    let mut credential = Credential {
        kind: CredentialKind::X509Client,
        serial: state.last_client_serial + 1,
        key: key.clone(),
        valid_after: at - BACKDATE_S,
        valid_before: credential_end(live, at),
        nonce: Digest::new([0; 32]),
        tbs_sha256: Digest::new([0; 32]),
    };
    let tbs = jit_ca::x509::tbs_client(&client_ca(state)?, &client_spec(live, account, &credential));
    credential.tbs_sha256 = Digest::of(&tbs.map_err(|e| Refusal::new(Code::BAD_KEY, format!("No certificate: {e}.")))?);
    Ok(credential.issued(live.id))
}

/// The authority over client certificates.
///
/// # Errors
/// [`Code::BAD_CONFIG`] in an installation that began without one.
pub fn client_ca(state: &State) -> Result<CaCert, Refusal> {
    let pem = state.authorities.rings.get(&Purpose::X509Client).map(|ring| ring.active.as_str());
    let pem = pem.ok_or_else(|| {
        Refusal::new(Code::BAD_CONFIG, "This installation has no authority over client certificates.")
            .hint("Say auth = \"password\" in targets.toml.")
    })?;
    CaCert::from_pem(pem).map_err(|e| Refusal::new(Code::BAD_CONFIG, format!("The client authority: {e}.")))
}

/// The specification of a client certificate: fully determined by the grant and the log's own entry.
///
/// `notAfter` is the last second that counts (RFC 5280 section 4.1.2.5), so it is the one before the end.
pub fn client_spec(grant: &Grant, account: &AccountName, credential: &Credential) -> ClientLeafSpec {
    ClientLeafSpec {
        account: account.to_string(),
        uri: format!("jit:{}", grant.id),
        key: credential.key.0.clone(),
        serial: credential.serial,
        not_before: credential.valid_after,
        not_after: credential.valid_before - 1,
    }
}

pub(super) fn made(state: &State, id: GrantId) -> Result<Vec<Event>, Refusal> {
    let grant = state.grants.get(&id).ok_or_else(|| missing("grant"))?;
    let account = grant.account.as_ref().ok_or_else(|| missing("account"))?;
    if grant.account_made {
        return Ok(Vec::new());
    }
    Ok(vec![Event::AccountMade { grant: id, account: account.name.clone() }])
}

/// What came of a removal: the end when nothing is left, else residue, told when it changes.
pub(super) fn removed(
    state: &State,
    id: GrantId,
    proofs: &[Proof],
    kept: &[String],
    left: &[String],
) -> Result<Vec<Event>, Refusal> {
    let grant = state.grants.get(&id).ok_or_else(|| missing("grant"))?;
    let Some((cause, _)) = grant.removing() else { return Ok(Vec::new()) };
    let account = grant.account.as_ref().ok_or_else(|| missing("account"))?;
    let (kept, left) = (bounded(kept), bounded(left));
    let told = |p: &Proof| Proof { what: cut(&p.what), detail: cut(&p.detail), ..p.clone() };
    let proofs: Vec<Proof> = proofs.iter().take(MAX_LINES).map(told).collect();
    if left.is_empty() {
        // INVARIANT (I7): the end of an account is read back from its server, or it is no end.
        if !proofs.iter().any(|p| p.what == "account" && p.ok == Some(true)) {
            return Err(Refusal::new(Code::BAD_BODY, "Nothing shows that the account is gone."));
        }
        return Ok(vec![Event::GrantEnded { grant: id, cause, proofs, kept }]);
    }
    if matches!(&grant.state, GrantState::Residue { left: told, .. } if *told == left) {
        return Ok(Vec::new());
    }
    Ok(vec![Event::AccountResidue { grant: id, account: account.name.clone(), kept, left }])
}

/// Keeps an entry small, whatever a server says.
fn bounded(lines: &[String]) -> Vec<String> {
    let mut out: Vec<String> = lines.iter().take(MAX_LINES).map(|line| cut(line)).collect();
    if lines.len() > MAX_LINES {
        out.push(format!("and {} more", lines.len() - MAX_LINES));
    }
    out
}

fn cut(line: &str) -> String {
    let end = (0..=MAX_LINE_BYTES.min(line.len())).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    line.get(..end).unwrap_or_default().to_owned()
}
