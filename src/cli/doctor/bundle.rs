//! What is adopted: whether the files beside are that, whether those who are asked can answer, and who can change it alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Findings;
use crate::cli::files::{bundle_files, has_bundle};
use crate::domain::bundle::BundleText;
use crate::domain::judge::{Ask, Verdict, matchable, preview};
use crate::domain::names::{PersonName, RoleName, StepName, TargetName};
use crate::domain::state::State;
use crate::domain::target::TargetKind;
use crate::ledger::Reader;
use crate::settings::Settings;

/// The most combinations of person, target and role that are judged.
const MOST: usize = 50_000;

/// So many names are listed.
const NAMES: usize = 4;

/// Looks at the adopted bundle.
pub async fn examine(settings: &Settings, config: &Path, state: &State, found: &mut Findings) {
    if state.bundle.policy.rules.is_empty() {
        let folder = config.parent().unwrap_or(Path::new(".")).display().to_string();
        return found.problem(
            "policy",
            "no rule is adopted, so nobody gets anything",
            format!("jit-broker apply {folder}"),
        );
    }
    files(settings, config, state, found).await;
    alone(settings, state, found);
    approvers(state, found);
}

/// The files beside the configuration against what was signed.
async fn files(settings: &Settings, config: &Path, state: &State, found: &mut Findings) {
    let folder = config.parent().unwrap_or(Path::new("."));
    if !has_bundle(folder) {
        return found.ok("files", "the bundle is not kept here");
    }
    let next = format!("jit-broker apply {} --dry-run", folder.display());
    let here = match bundle_files(folder) {
        Ok(files) => BundleText { files },
        Err(refusal) => return found.refused("files", &refusal.into(), ""),
    };
    if here.digest() == state.bundle.digest {
        return found.ok("files", format!("those in {} are what is adopted", folder.display()));
    }
    let adopted = adopted(settings, state).await.unwrap_or_default();
    let names: BTreeSet<&String> = here.files.keys().chain(adopted.keys()).collect();
    let changed: Vec<&str> =
        names.into_iter().filter(|name| here.files.get(*name) != adopted.get(*name)).map(String::as_str).collect();
    let detail =
        format!("{} differ from what is adopted: nobody signed that, and it has no effect", changed.join(", "));
    found.problem("files", detail, next);
}

async fn adopted(settings: &Settings, state: &State) -> Option<BTreeMap<String, String>> {
    let reader = Reader::open(&settings.ledger).await.ok()?;
    let bytes = reader.blob(state.bundle.digest.as_bytes()).await.ok()??;
    BundleText::from_bytes(&bytes).ok().map(|text| text.files)
}

/// Whether one administrator can give themselves access (decisions.md 8).
fn alone(settings: &Settings, state: &State, found: &mut Findings) {
    let governed = state.bundle.policy.governs_itself();
    let admins: Vec<&str> = settings.admins.keys().map(PersonName::as_str).collect();
    match (governed, admins.as_slice()) {
        (true, _) => found.ok("administrators", "changes of the bundle need approvals"),
        (false, all) => {
            let who = if let [one] = all { format!("{one} alone") } else { format!("each of {}", all.join(", ")) };
            let detail =
                format!("{who} can write a rule for themselves and apply it: no rule on broker/policy asks anybody");
            let rule = "Add to policy.toml, and apply: [[rule]] id = \"bundle\" who = [\"person:ADMIN\"] targets = { name = \"broker/policy\" } \
                        roles = [\"apply\"], with a [[rule.step]] for others";
            found.problem("administrators", detail, rule);
        }
    }
}

/// Steps that can never be met, and people who are asked and cannot answer.
fn approvers(state: &State, found: &mut Findings) {
    let bundle = &state.bundle;
    let now = crate::clock::wall_s().max(state.last_at);
    let mut stuck: BTreeMap<(&TargetName, &RoleName, StepName), Vec<&str>> = BTreeMap::new();
    let mut asked: BTreeSet<PersonName> = BTreeSet::new();
    let targets = bundle.targets.values().filter(|t| t.kind != TargetKind::Broker);
    let roles: Vec<_> = targets.flat_map(|t| t.roles.keys().map(move |r| (t, r))).collect();
    let combinations = roles.len() * bundle.people.len();
    if combinations > MOST {
        let detail = format!(
            "of {combinations} combinations of person, target and role the first {MOST} were looked at, by the targets' names"
        );
        found.note("approvers", detail, "");
    }
    let all =
        roles.into_iter().flat_map(|(target, role)| bundle.people.values().map(move |person| (person, target, role)));
    for (person, target, role) in all.take(MOST) {
        let signed_in_s = state.signed_in.get(&person.name).map(|at| u64::try_from(now - at).unwrap_or(0));
        let ask = Ask {
            person,
            target,
            role,
            for_s: None,
            reason: None,
            ticket: None,
            signed_in_s,
            disabled: &state.disabled,
            now,
        };
        let Verdict::Steps(_, steps) = preview(bundle, &ask).0 else { continue };
        asked.extend(steps.iter().flat_map(|step| step.eligible.iter().cloned()));
        let open: Vec<_> = steps.iter().map(|step| (step.name.clone(), step.need, &step.eligible)).collect();
        if let Err(step) = matchable(&open, &BTreeSet::from([person.name.clone()])) {
            stuck.entry((&target.name, role, step)).or_default().push(person.name.as_str());
        }
    }
    for ((target, role, step), people) in &stuck {
        let who = match people.as_slice() {
            few if few.len() <= NAMES => few.join(", "),
            many => format!(
                "{} and {} others",
                many.iter().take(NAMES).copied().collect::<Vec<_>>().join(", "),
                many.len() - NAMES
            ),
        };
        let detail = format!("step {step} for {role} on {target} can never be met when {who} asks");
        found.problem(
            "approvers",
            detail,
            format!(
                "jit-broker policy who-can {target} --role {role}; then more people into the groups that the step asks"
            ),
        );
    }
    let (mut silent, mut good) = (Vec::new(), 0);
    for name in &asked {
        if !has_key(state, name) {
            let next =
                "Their public key into people.toml, then jit-broker apply; or: jit-broker key enroll NAME --key PUB";
            found.problem(
                "approvers",
                format!("{name} is asked, and has no key to answer with"),
                next.replace("NAME", name.as_str()),
            );
        } else if state.signed_in.contains_key(name) {
            good += 1;
        } else {
            silent.push(name.as_str());
        }
    }
    if !silent.is_empty() {
        let detail = format!("{} would be asked, and never signed in", silent.join(", "));
        found.note("approvers", detail, "They type once: jit-broker auth login --server … --fingerprint …");
    }
    if stuck.is_empty() && good > 0 {
        let which = if combinations > MOST { "every step of these" } else { "every step" };
        found.ok("approvers", format!("{which} can be met; {good} of {} have signed in", asked.len()));
    }
}

fn has_key(state: &State, name: &PersonName) -> bool {
    let listed = state.bundle.people.get(name).into_iter().flat_map(|person| &person.keys);
    let enrolled = state.enrolled.iter().filter(|(_, owner)| *owner == name).map(|(key, _)| key);
    let pinned = state.admins.get(name);
    listed.chain(enrolled).chain(pinned).any(|key| !state.revoked_keys.contains(key) && key.0.signs_acts())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fmt::Write;

    use super::*;
    use crate::domain::bundle::Bundle;
    use crate::wire::Health;

    /// What is found with so many targets of one role each, which a thousand people may ask for.
    fn found(targets: usize) -> Vec<(Health, String)> {
        let key = |seed: u8| jit_ca::key::PrivateKey::from_seed([seed; 32]).public().to_string();
        let mut people = format!("[[person]]\nname = \"bob\"\ngroups = [\"leads\"]\nkeys = [\"{}\"]\n", key(1));
        (1..1000).for_each(|n| write!(people, "[[person]]\nname = \"p{n}\"\n").unwrap());
        let mut list = String::new();
        for n in 0..targets {
            let text = format!(
                "[[target]]\nname = \"web-{n:02}\"\nkind = \"ssh\"\naddress = \"10.0.0.1:22\"\nhost_key = \"{}\"\n\
                 [target.roles.ops]\nlogins = [\"ops\"]\n",
                key(2)
            );
            list.push_str(&text);
        }
        let policy = "schema = 1\n[[rule]]\nid = \"r\"\nwho = [\"person:p1\"]\ntargets = { name = \"web-00\" }\nroles = [\"ops\"]\n\
                      max = \"1h\"\n[[rule.step]]\nname = \"peer\"\nneed = 1\nfrom = [\"group:leads\"]\n";
        let files = [("people.toml", people), ("targets.toml", list), ("policy.toml", policy.to_owned())];
        let text = BundleText { files: files.map(|(name, text)| (name.to_owned(), text)).into() };
        let mut state = State::default();
        state.bundle = Bundle::parse(&text, &[]).unwrap().into();
        state.signed_in.insert(PersonName::new("bob").unwrap(), 0);
        let mut found = Findings::default();
        approvers(&state, &mut found);
        found.all.into_iter().map(|finding| (finding.health, finding.detail)).collect()
    }

    #[test]
    fn what_was_not_looked_at_is_not_said_to_hold() {
        let all = found(50);
        assert_eq!(all, [(Health::Ok, "every step can be met; 1 of 1 have signed in".to_owned())]);
        let [(note, looked), (_, held)] = &*found(51) else { panic!() };
        assert_eq!(*note, Health::Note);
        assert!(looked.contains("of 51000") && looked.contains("first 50000"), "{looked}");
        assert!(held.starts_with("every step of these can be met"), "{held}");
    }
}
