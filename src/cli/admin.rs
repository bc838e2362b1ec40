//! Administration: bundles, people, keys, targets, policy.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use super::ask::{me, words};
use super::client::Client;
use super::failure::Failure;
use super::files::{bundle_files, taken};
use super::home::Home;
use super::{Globals, keys, output, prompt};
use crate::domain::act::Deed;
use crate::domain::bundle::{Bundle, BundleText, plan};
use crate::domain::names::{PersonName, TargetName};
use crate::domain::refusal::Code;
use crate::wire::{BundleDoc, LinkDoc, List, LogDoc, PersonDoc};

/// Reads and checks a bundle; every problem is listed.
///
/// # Errors
/// [`Code::BUNDLE_REFUSED`].
pub fn read_bundle(dir: &Path, admins: &[PersonName]) -> Result<(BundleText, Bundle), Failure> {
    let text = BundleText { files: bundle_files(dir)? };
    let lines = |all: Vec<String>| Failure::new(Code::BUNDLE_REFUSED, all.join("\n"));
    let bundle = Bundle::parse(&text, admins).map_err(|all| lines(all.iter().map(ToString::to_string).collect()))?;
    let failures = crate::domain::policy::run_tests(&bundle, crate::clock::wall_s());
    if failures.is_empty() {
        return Ok((text, bundle));
    }
    Err(lines(failures.iter().map(ToString::to_string).collect()))
}

/// Names that rules may use though people.toml has none of them: those of [trust] in a jit-broker.toml beside, else the administrators that
/// the broker tells of, where one is signed in; and one's own.
async fn administrators(dir: &Path) -> Vec<PersonName> {
    let settings = crate::settings::Settings::read(&dir.join("jit-broker.toml"));
    let beside = settings.map(|s| s.admins.into_keys().collect());
    let Ok(mut client) = Home::find().and_then(|home| Client::remembered(&home)) else {
        return beside.unwrap_or_default();
    };
    let mut names: Vec<PersonName> = match beside {
        Ok(names) => names,
        Err(_) => client.get("/v1/log").await.map(|log: LogDoc| log.admins).unwrap_or_default(),
    };
    names.extend(me(&client).ok());
    names
}

/// `apply`
pub async fn apply(dir: &Path, dry_run: bool, yes: bool, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let by = me(&client)?;
    let log: LogDoc = client.get("/v1/log").await?;
    let (text, new) = read_bundle(dir, &log.admins)?;
    let adopted: BundleDoc = client.get("/v1/bundle").await?;
    let (old, adopted_digest) = (taken(adopted.files, &log.admins)?, adopted.digest);
    if text.digest() == adopted_digest {
        output::done(globals.output, "apply.unchanged", "Nothing changes.")?;
        return Ok(ExitCode::SUCCESS);
    }
    let changes = plan(&old, &new);
    let json = |adopted: bool, request: Option<&crate::wire::RequestDoc>| {
        let lines =
            |all: &[crate::domain::bundle::plan::Access]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        let fields = serde_json::json!({ "digest": text.digest(), "base": adopted_digest, "adopted": adopted, "request": request,
            "added": changes.lines.added, "removed": changes.lines.removed, "changed": changes.lines.changed,
            "gains": lines(&changes.gains), "loses": lines(&changes.loses), "moves": lines(&changes.moves),
            "not_compared": changes.not_compared });
        output::answer(globals.output, "apply", fields, "", &[])
    };
    if !globals.json() {
        show_plan(&changes);
    }
    if dry_run {
        return if globals.json() { json(false, None) } else { Ok(()) }.map(|()| ExitCode::SUCCESS);
    }
    if !yes && !prompt::confirm("Adopt this?", "--yes")? {
        return Err(Failure::new(Code::CANCELLED, "Nothing was changed."));
    }
    let deed = Deed::Apply { by, bundle: text.digest(), base: adopted_digest };
    let outcome = client.act(deed, None, Some(&text)).await?;
    let waiting = outcome.request.filter(|request| request.state == "pending");
    if globals.json() {
        json(waiting.is_none(), waiting.as_ref())?;
        return Ok(ExitCode::SUCCESS);
    }
    match waiting {
        Some(request) => {
            super::ask::print_request(&request, globals)?;
            eprintln!("It takes effect when {} agrees.", super::wait::waits_for(&request));
        }
        None => eprintln!("Adopted {}.", text.digest()),
    }
    Ok(ExitCode::SUCCESS)
}

/// `jit-broker person …`
#[derive(Debug, Subcommand)]
pub enum PersonVerb {
    /// Who there is
    Ls,
    /// Ends everything that a person has, and lets them do nothing any more
    Disable {
        /// Whom
        name: PersonName,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Lifts a disabling
    Enable {
        /// Whom
        name: PersonName,
    },
}

impl PersonVerb {
    /// Runs the verb.
    ///
    /// # Errors
    /// As the broker says.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let mut client = Client::remembered(&Home::find()?)?;
        match self {
            Self::Ls => {
                let list: List<PersonDoc> = client.get("/v1/people").await?;
                output::list(
                    globals.output,
                    "person",
                    &list.items,
                    &["name", "kind", "groups", "state", "keys"],
                    |p| {
                        let groups: Vec<String> = p.groups.iter().map(ToString::to_string).collect();
                        let state = if p.disabled { "disabled" } else { "active" };
                        vec![p.name.to_string(), p.kind.clone(), groups.join(", "), state.to_owned(), p.keys.join(" ")]
                    },
                )?;
            }
            Self::Disable { name, reason } => {
                let reason = match reason {
                    Some(reason) => reason.clone(),
                    None => prompt::ask("Reason: ", "--reason TEXT")?,
                };
                let deed = Deed::Disable { by: me(&client)?, person: name.clone() };
                let outcome = client.act(deed, words(Some(&reason), None)?, None).await?;
                eprintln!("{name} is disabled.");
                if outcome.grants.is_empty() && globals.json() {
                    output::done(globals.output, "person.disabled", &format!("{name} held nothing."))?;
                }
                return super::answer::watch(&mut client, outcome.grants.iter().map(|g| g.id).collect(), globals).await;
            }
            Self::Enable { name } => {
                let deed = Deed::Enable { by: me(&client)?, person: name.clone() };
                let outcome = client.act(deed, None, None).await?;
                outcome.request.iter().try_for_each(|request| super::ask::print_request(request, globals))?;
                if outcome.request.is_none() {
                    output::done(globals.output, "person.enabled", &format!("{name} may sign in and ask again."))?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// `jit-broker key …`
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Everybody's keys
    Ls,
    /// Gives a person one more key
    Enroll {
        /// Whose
        person: PersonName,
        /// The public key
        #[arg(long, value_name = "PUB")]
        key: PathBuf,
    },
    /// Takes a key away for ever
    Revoke {
        /// The public key
        #[arg(long, value_name = "PUB")]
        key: PathBuf,
    },
}

impl KeyVerb {
    /// Runs the verb.
    ///
    /// # Errors
    /// As the broker says.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let mut client = Client::remembered(&Home::find()?)?;
        let by = me(&client)?;
        let (deed, what, said) = match self {
            Self::Ls => return list_keys(&mut client, globals).await,
            Self::Enroll { person, key } => {
                let key = keys::public(key)?;
                let said = format!("{person} may sign with {} too.", key.0.fingerprint());
                (Deed::Enroll { by, person: person.clone(), key }, "key.enrolled", said)
            }
            Self::Revoke { key } => {
                let key = keys::public(key)?;
                let said = format!("{} is refused from now on.", key.0.fingerprint());
                (Deed::RevokeKey { by, key }, "key.revoked", said)
            }
        };
        let outcome = client.act(deed, None, None).await?;
        outcome.request.iter().try_for_each(|request| super::ask::print_request(request, globals))?;
        if outcome.request.is_none() {
            output::done(globals.output, what, &said)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// One line a key: its fingerprint, and whose it is.
async fn list_keys(client: &mut Client, globals: &Globals) -> Result<ExitCode, Failure> {
    let people: List<PersonDoc> = client.get("/v1/people").await?;
    let keys = people
        .items
        .iter()
        .flat_map(|p| p.keys.iter().map(|k| serde_json::json!({ "fingerprint": k, "person": p.name })));
    let keys: Vec<_> = keys.collect();
    output::list(globals.output, "key", &keys, &["fingerprint", "person"], |key| {
        ["fingerprint", "person"].map(|name| key[name].as_str().unwrap_or_default().to_owned()).into()
    })?;
    Ok(ExitCode::SUCCESS)
}

/// `jit-broker target …`
#[derive(Debug, Subcommand)]
pub enum TargetVerb {
    /// What there is to reach
    Ls,
    /// One target
    Show {
        /// Which
        name: TargetName,
    },
    /// Tries each link that a database needs, and names what is missing; operators
    Test {
        /// Which
        name: TargetName,
    },
}

async fn test_target(name: &TargetName, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let links: List<LinkDoc> = client.post(&format!("/v1/targets/{name}/test"), &serde_json::json!({})).await?;
    let broken = links.items.iter().any(|link| link.ok == Some(false));
    output::list(globals.output, "link", &links.items, &["link", "", "seen", "to do"], |link| {
        let mark = link.ok.map_or("?", |ok| if ok { "ok" } else { "NOT" });
        vec![link.what.clone(), mark.to_owned(), link.detail.clone(), link.todo.clone()]
    })?;
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl TargetVerb {
    /// Runs the verb.
    ///
    /// # Errors
    /// As the broker says.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        match self {
            Self::Ls => super::ask::ls(None, globals).await,
            Self::Test { name } => test_target(name, globals).await,
            Self::Show { name } => {
                let mut client = Client::remembered(&Home::find()?)?;
                let doc = super::ask::target(&mut client, name).await?;
                output::one(globals.output, &doc, doc.name.as_str(), |t| {
                    let mut lines = vec![
                        format!("{}  {}  {}:{}  {}", t.name, t.kind, t.host, t.port, t.mode),
                        format!("  {}", t.known_hosts),
                    ];
                    for role in &t.roles {
                        let logins: Vec<String> = role.logins.iter().map(ToString::to_string).collect();
                        lines.push(format!("  {}: {}  {}", role.name, logins.join(", "), role.verdict));
                    }
                    lines
                })?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// `jit-broker policy …`
#[derive(Debug, Subcommand)]
pub enum PolicyVerb {
    /// Reads a bundle, lists every problem, and runs its tests
    Check {
        /// The folder
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// The same
    Test {
        /// The folder
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// The adopted bundle
    Show,
    /// Everybody who may have a role on a target, at once or after whose answer
    WhoCan(super::who_can::WhoCanArgs),
}

impl PolicyVerb {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Code::BUNDLE_REFUSED`], or as the broker says.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        match self {
            Self::Check { dir } | Self::Test { dir } => {
                let (text, bundle) = read_bundle(dir, &administrators(dir).await)?;
                let (rules, tests) = (bundle.policy.rules.len(), bundle.policy.tests.len());
                // The broker's own target for changes of the bundle is nobody's to count.
                let targets = bundle.targets.keys().filter(|name| name.as_str() != "broker/policy").count();
                let people = bundle.people.len();
                let fields = serde_json::json!({ "digest": text.digest(), "people": people, "targets": targets, "rules": rules, "tests": tests });
                let passed = if tests == 1 { "1 test passes".to_owned() } else { format!("{tests} tests pass") };
                let who = if people == 1 { "1 person".to_owned() } else { format!("{people} people") };
                let (targets, rules) = (output::count(targets, "target"), output::count(rules, "rule"));
                let line = format!("{}: {who}, {targets}, {rules}, {passed}.", text.digest());
                output::answer(globals.output, "policy", fields, &text.digest().to_string(), &[line])?;
            }
            Self::WhoCan(args) => return args.run(globals).await,
            Self::Show => {
                let mut client = Client::remembered(&Home::find()?)?;
                let doc: BundleDoc = client.get("/v1/bundle").await?;
                output::one(globals.output, &doc, &doc.digest.to_string(), |doc| {
                    doc.files
                        .iter()
                        .flat_map(|(name, text)| {
                            std::iter::once(format!("# {name}")).chain(text.lines().map(str::to_owned))
                        })
                        .collect()
                })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Shows what a proposed bundle would change, out of the texts themselves: that is what its approval signs.
///
/// # Errors
/// [`Code::STALE_TERMS`] when the text is not the one that was signed; [`Code::BUNDLE_REFUSED`] when one of the two cannot be read.
pub async fn show_proposal(client: &mut Client, request: &crate::wire::RequestDoc) -> Result<(), Failure> {
    let digest = request.terms.target_digest;
    let (new, old): (BundleDoc, BundleDoc) =
        (client.get(&format!("/v1/bundle?digest={digest}")).await?, client.get("/v1/bundle").await?);
    let log: LogDoc = client.get("/v1/log").await?;
    if (BundleText { files: new.files.clone() }).digest() != digest {
        return Err(Failure::new(
            Code::STALE_TERMS,
            "The proposed bundle is not the one that was signed. Do not approve this.",
        ));
    }
    show_plan(&plan(&taken(old.files, &log.admins)?, &taken(new.files, &log.admins)?));
    Ok(())
}

fn show_plan(plan: &crate::domain::bundle::Plan) {
    let sections = [("+", &plan.lines.added), ("-", &plan.lines.removed), ("~", &plan.lines.changed)];
    for (mark, lines) in sections {
        lines.iter().for_each(|line| println!("{mark} {}", crate::domain::text::shown(line)));
    }
    for (word, accesses) in [("gains", &plan.gains), ("loses", &plan.loses), ("moves", &plan.moves)] {
        accesses.iter().for_each(|access| println!("{word}: {access}"));
    }
    if plan.not_compared > 0 {
        println!("{} more combinations of person, target and role were not compared.", plan.not_compared);
    }
}
