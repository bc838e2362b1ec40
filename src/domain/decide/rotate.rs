//! The replacement of an authority, step by step, and who has not heard of it yet.

use super::missing;
use crate::domain::authority::{Former, Purpose, Ring, Rotation, Wait};
use crate::domain::database::Auth;
use crate::domain::event::Event;
use crate::domain::grant::Grant;
use crate::domain::ids::ActId;
use crate::domain::key::Key;
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::state::State;
use crate::domain::target::TargetKind;

/// For how long a key is trusted before it signs what clients look at, in seconds: clients look at least every 15 s while they are in use.
const CLIENTS_S: i64 = 60;
/// How many of those that lack a key are named; of the rest the number is told.
const NAMED: usize = 32;

/// Somebody who would be shut out by the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    /// A target, a grant, or clients as a whole.
    pub who: String,
    /// What is missing, and what to do.
    pub why: String,
}

impl Lacking {
    fn new(who: impl ToString, why: impl Into<String>) -> Self {
        Self { who: who.to_string(), why: why.into() }
    }
}

pub(super) fn rotate(
    state: &State,
    by: &PersonName,
    act: ActId,
    ca: Purpose,
    step: &Rotation,
    at: i64,
) -> Result<Vec<Event>, Refusal> {
    let ring = state.authorities.rings.get(&ca).ok_or_else(|| missing("authority"))?;
    let by = by.clone();
    match step {
        Rotation::Stage(public) => {
            free(state, ca, ring, public)?;
            Ok(vec![Event::CaStaged { by, act, ca, public: public.clone() }])
        }
        Rotation::Activate(wait) => {
            if ring.next.is_none() {
                return Err(out_of_step(ca, "has no new key", format!("jit-broker ca rotate {ca}")));
            }
            let lacking = waited_for(state, ca, *wait, at, "--activate")?;
            Ok(vec![Event::CaActivated { by, act, ca, lacking }])
        }
        Rotation::Retire(wait) => {
            if ring.former.is_none() {
                return Err(out_of_step(ca, "has no old key", "jit-broker ca rotate --status".to_owned()));
            }
            let lacking = waited_for(state, ca, *wait, at, "--retire")?;
            Ok(vec![Event::CaRetired { by, act, ca, lacking }])
        }
        Rotation::Abandon if ring.next.is_none() => {
            Err(out_of_step(ca, "has no new key", "jit-broker ca rotate --status".to_owned()))
        }
        Rotation::Abandon => Ok(vec![Event::CaAbandoned { by, act, ca }]),
    }
}

fn out_of_step(ca: Purpose, what: &str, next: String) -> Refusal {
    Refusal::new(Code::NOT_STAGED, format!("The authority {ca} {what}.")).hint(next)
}

/// A new key stands in for nobody: not for a person, a host or another authority, and one replacement is finished before the next.
fn free(state: &State, ca: Purpose, ring: &Ring, public: &str) -> Result<(), Refusal> {
    if ring.former.is_some() || ring.next.is_some() {
        let next = format!("jit-broker ca rotate {ca} {}", if ring.next.is_some() { "--activate" } else { "--retire" });
        return Err(out_of_step(ca, "is being replaced already", next));
    }
    let taken = || Refusal::new(Code::BAD_KEY, "That key is in use for somebody or something else.");
    if state.authorities.is_one_of(public) || public.len() > crate::domain::act::MAX_ACT_BYTES {
        return Err(taken());
    }
    if ca.is_ssh() {
        let bad = |e: jit_ca::key::KeyError| Refusal::new(Code::BAD_KEY, format!("The new key cannot be read: {e}."));
        let key = Key::try_from(public.to_owned()).map_err(bad)?;
        let log = state.genesis.as_ref().is_some_and(|genesis| genesis.log_key == key);
        let host = state.hosts.values().any(|host| host.key == key);
        if key.to_string() != public || log || host || state.owner_of(&key).is_some() {
            return Err(taken());
        }
    } else if ca == Purpose::X509Client {
        jit_ca::x509::CaCert::from_pem(public)
            .map_err(|e| Refusal::new(Code::BAD_KEY, format!("The new certificate cannot be read: {e}.")))?;
    }
    Ok(())
}

/// Those who lack the key, where nobody waits for them; refused where they are waited for.
fn waited_for(state: &State, ca: Purpose, wait: Wait, at: i64, flag: &str) -> Result<Vec<String>, Refusal> {
    let lacking = lacking(state, ca, at);
    let mut names: Vec<String> = lacking.iter().take(NAMED).map(|l| format!("{}: {}", l.who, l.why)).collect();
    if lacking.len() > NAMED {
        names.push(format!("and {} more", lacking.len() - NAMED));
    }
    if wait == Wait::ForNobody || names.is_empty() {
        return Ok(names);
    }
    let message = format!("The next step for {ca} would shut out:\n  {}", names.join("\n  "));
    Err(Refusal::new(Code::NOT_HEARD, message).hint(format!(
        "Wait for them, or jit-broker ca rotate {ca} {flag} --force takes access from them until they are told by hand."
    )))
}

/// Who would be shut out by the next step of a replacement: by the activation of a key that is staged, or by the retirement of the one before.
pub fn lacking(state: &State, ca: Purpose, at: i64) -> Vec<Lacking> {
    let Some(ring) = state.authorities.rings.get(&ca) else { return Vec::new() };
    match (&ring.next, &ring.former) {
        (Some(next), _) => match ca {
            Purpose::SshUser => hosts(state, next.version),
            Purpose::SshGateway => Vec::new(),
            Purpose::SshHost => clients(next.at, at),
            Purpose::X509Client => databases(state),
            Purpose::X509Server => {
                let mut all = clients(next.at, at);
                all.extend(enrolled(state, next.version));
                all
            }
        },
        (None, Some(former)) => match ca {
            Purpose::SshHost => shown(state, &ring.active),
            Purpose::X509Server => Vec::new(),
            _ => holders(state, ca, former, at),
        },
        (None, None) => Vec::new(),
    }
}

/// Every host that people enter; of one that is not enrolled nobody knows whom it trusts.
fn hosts(state: &State, version: u64) -> Vec<Lacking> {
    let unknown = "it is not enrolled; add the new key to its TrustedUserCAKeys (jit-broker ca export --kind ssh-user)";
    let targets = state.bundle.targets.values().filter(|target| target.kind == TargetKind::Ssh);
    let strangers = targets.filter(|target| !state.hosts.contains_key(&target.name));
    let mut all: Vec<Lacking> = strangers.map(|target| Lacking::new(&target.name, unknown)).collect();
    all.extend(enrolled(state, version));
    all
}

/// The enrolled hosts of the inventory that have not confirmed this version of the authorities.
fn enrolled(state: &State, version: u64) -> Vec<Lacking> {
    let known = state.hosts.iter().filter(|(name, _)| state.bundle.targets.contains_key(*name));
    let behind = known.filter(|(_, host)| host.trust < version || host.confirmed_at.is_none());
    let why = "it has not confirmed the new key; jit-broker host run there, of this version, takes it";
    behind.map(|(name, _)| Lacking::new(name, why)).collect()
}

/// Clients learn of a key at their next contact.
fn clients(staged_at: i64, at: i64) -> Vec<Lacking> {
    let left = staged_at + CLIENTS_S - at;
    if left <= 0 {
        return Vec::new();
    }
    vec![Lacking::new("clients", format!("they learn of the new key within {CLIENTS_S} s; wait {left} s"))]
}

/// Whether a database server trusts an authority only the server knows.
fn databases(state: &State) -> Vec<Lacking> {
    let why = "its ssl_ca_file must have the new certificate too (jit-broker ca export --kind x509-client), and be reloaded; the broker cannot see it";
    let by_cert = state.bundle.targets.values().filter(|t| t.database.as_ref().is_some_and(|d| d.auth == Auth::Cert));
    by_cert.map(|target| Lacking::new(&target.name, why)).collect()
}

/// Hosts that show a certificate of another authority than the one that signs.
fn shown(state: &State, active: &str) -> Vec<Lacking> {
    let active = Key::try_from(active.to_owned()).map(|key| key.0.fingerprint()).unwrap_or_default();
    let why = "it shows a host certificate of the old key; jit-broker host run there renews it, then sshd is reloaded";
    let known = state.hosts.iter().filter(|(name, _)| state.bundle.targets.contains_key(*name));
    let old = known.filter(|(_, host)| host.host_ca.as_ref() != Some(&active));
    old.map(|(name, _)| Lacking::new(name, why)).collect()
}

/// Grants with certificates of the old key that still hold.
fn holders(state: &State, ca: Purpose, former: &Former, at: i64) -> Vec<Lacking> {
    let holds = |grant: &&Grant| {
        let mut old = grant.credentials.iter().filter(|c| c.kind.purpose() == ca && c.serial <= former.serial);
        !grant.over() && old.any(|c| at < c.valid_before)
    };
    let open = state.open_grants.iter().filter_map(|id| state.grants.get(id)).filter(holds);
    let until = |grant: &Grant| grant.credentials.iter().map(|c| c.valid_before).max().unwrap_or(at) - at;
    let why =
        |grant: &Grant| format!("{} holds a certificate of the old key for {} s more", grant.person, until(grant));
    open.map(|grant| Lacking::new(grant.id, why(grant))).collect()
}
