//! `policy who-can`: everybody who may have a role, by the adopted files or by those of a folder. Judged on this machine.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::client::Client;
use super::failure::Failure;
use super::files::{bundle_files, taken};
use super::home::Home;
use super::{Globals, output};
use crate::domain::bundle::Bundle;
use crate::domain::judge::{Ask, Verdict, preview};
use crate::domain::names::{PersonName, RoleName, TargetName};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::target::{Target, TargetKind};
use crate::wire::{BundleDoc, List, PersonDoc};

/// `jit-broker policy who-can`
#[derive(Debug, Args)]
pub struct WhoCanArgs {
    /// The target
    target: TargetName,
    /// Only this role
    #[arg(long)]
    role: Option<RoleName>,
    /// The files of a folder instead of the adopted ones, and no broker
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

const HEAD: [&str; 6] = ["person", "role", "verdict", "longest", "who answers", "rules"];

impl WhoCanArgs {
    /// Runs the verb.
    ///
    /// # Errors
    /// As the broker says; [`Code::MISSING`], [`Code::NO_ROLE`].
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let (bundle, disabled) = match &self.dir {
            Some(dir) => (taken(bundle_files(dir)?, &[])?, BTreeSet::new()),
            None => adopted().await?,
        };
        let target = bundle.targets.get(&self.target).ok_or_else(|| {
            Failure(Refusal::new(Code::MISSING, format!("There is no target {}.", self.target)).hint("jit-broker ls"))
        })?;
        if let Some(role) = self.role.as_ref().filter(|role| !target.roles.contains_key(*role)) {
            let roles: Vec<&str> = target.roles.keys().map(RoleName::as_str).collect();
            let message = format!("{} has no role {role}; it has {}.", self.target, roles.join(", "));
            return Err(Failure::new(Code::NO_ROLE, message));
        }
        let roles = target.roles.keys().filter(|role| self.role.as_ref().is_none_or(|wanted| wanted == *role));
        let rows: Vec<serde_json::Value> = roles.flat_map(|role| who(&bundle, target, role, &disabled)).collect();
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::Array(all) => {
                all.iter().map(|one| one.as_str().unwrap_or_default()).collect::<Vec<_>>().join(", ")
            }
            serde_json::Value::Number(s) => output::span(s.as_i64().unwrap_or(0)),
            other => other.as_str().unwrap_or_default().to_owned(),
        };
        output::list(globals.output, "who-can", &rows, &HEAD, |row| {
            ["person", "role", "verdict", "max_s", "who", "rules"].map(|key| text(&row[key])).into()
        })?;
        if rows.is_empty() && !globals.json() {
            let governed = bundle.policy.governs_itself() || target.kind != TargetKind::Broker;
            eprintln!("{}", if governed { "Nobody." } else { "No rule: each administrator alone changes the bundle." });
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Those who may have a role, in the order of their names. A condition on the last sign-in is taken to hold, because whoever asks can sign in.
fn who(bundle: &Bundle, target: &Target, role: &RoleName, disabled: &BTreeSet<PersonName>) -> Vec<serde_json::Value> {
    let now = crate::clock::wall_s();
    let judged = |person| {
        let ask =
            Ask { person, target, role, for_s: None, reason: None, ticket: None, signed_in_s: Some(0), disabled, now };
        let (verdict, allowed, who) = match preview(bundle, &ask).0 {
            Verdict::Refused(_) => return None,
            Verdict::Automatic(allowed) => ("automatic", allowed, BTreeSet::new()),
            Verdict::Steps(allowed, steps) => ("ask", allowed, steps.into_iter().flat_map(|step| step.from).collect()),
        };
        Some(
            serde_json::json!({ "schema": "jit-broker/who-can/v1", "person": person.name, "target": target.name, "role": role,
            "verdict": verdict, "max_s": allowed.max_s, "who": who, "rules": allowed.rules }),
        )
    };
    let active = bundle.people.values().filter(|person| !disabled.contains(&person.name));
    active.filter_map(judged).collect()
}

async fn adopted() -> Result<(Bundle, BTreeSet<PersonName>), Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let doc: BundleDoc = client.get("/v1/bundle").await?;
    let people: List<PersonDoc> = client.get("/v1/people").await?;
    let disabled = people.items.into_iter().filter(|person| person.disabled).map(|person| person.name).collect();
    Ok((taken(doc.files, &[])?, disabled))
}
