//! Issuing: which certificate a live grant allows, down to the bytes that will be signed.

use jit_ca::spec::{CertWindow, CriticalOption, Extension, KeyId, Principal, Principals, Serial, UserSpec};

use super::answer::progress;
use super::{Now, Verified, missing};
use crate::domain::authority::Purpose;
use crate::domain::database::Auth;
use crate::domain::digest::Digest;
use crate::domain::event::Event;
use crate::domain::grant::{BACKDATE_S, Credential, CredentialKind, Grant, GrantState, LiveGrant, MAX_CREDENTIALS};
use crate::domain::ids::GrantId;
use crate::domain::key::Key;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::state::State;
use crate::domain::target::Allow;

/// The most keys under one grant.
const MAX_KEYS: usize = 8;

pub(super) fn issue(
    state: &State,
    id: GrantId,
    key: &Key,
    nonce: Digest,
    verifier: Option<Digest>,
    now: Now<'_>,
) -> Result<Vec<Event>, Refusal> {
    let grant = state.grants.get(&id).ok_or_else(|| missing("grant"))?;
    let live = grant.live_at(now.at)?;
    if state.disabled.contains(&live.person) {
        return Err(Refusal::new(Code::DISABLED, format!("{} is disabled.", live.person)));
    }
    if !live.keys.contains(key) {
        let message = format!("Grant {id} is not for the key {}.", key.0.fingerprint());
        let hint = format!("jit-broker cert {} --key PUB binds one more key to the grant.", live.terms.target);
        return Err(Refusal::new(Code::OTHER_KEY, message).hint(hint));
    }
    if state.revoked_keys.contains(key) {
        return Err(Refusal::new(Code::BAD_KEY, "That key was revoked, for ever."));
    }
    not_attested(state, &live)?;
    if live.terms.database.is_some() {
        return super::account::issue(state, &live, key, nonce, verifier, now);
    }
    if verifier.is_some() {
        return Err(Refusal::new(Code::BAD_BODY, "A password is for databases."));
    }
    let valid_before = credential_end(&live, now.at);
    if held(state, &live, key, now.at) {
        return Ok(Vec::new());
    }
    if let Some(refusal) = first_use(state, &live, now)? {
        return Ok(vec![Event::GrantCancelled { grant: id, refusal }]);
    }
    if live.credentials.len() >= MAX_CREDENTIALS {
        return Err(Refusal::new(Code::TOO_MANY, format!("Grant {id} has had {MAX_CREDENTIALS} certificates.")));
    }
    let (kind, last, ca) = authority(state, &live)?;
    let mut credential = Credential {
        kind,
        serial: last + 1,
        key: key.clone(),
        valid_after: now.at - BACKDATE_S,
        valid_before,
        nonce,
        tbs_sha256: Digest::new([0; 32]),
    };
    let spec = user_spec(&live, &credential)?;
    credential.tbs_sha256 = Digest::of(&jit_ca::ssh::tbs_user(&spec, &ca.0));
    Ok(vec![credential.issued(id)])
}

/// SECURITY: what a gateway asked for is used inside it; no certificate of it ever leaves (decisions.md 29).
fn not_attested(state: &State, grant: &Grant) -> Result<(), Refusal> {
    if state.is_attested(grant) {
        let message = format!("Grant {} was asked for inside ssh and is used there alone.", grant.id);
        return Err(Refusal::new(Code::OTHER_KEY, message).hint(format!("jit-broker request {}", grant.terms.target)));
    }
    Ok(())
}

/// Which authority certifies the key of a grant, and its last serial. What is for the gateway opens no host (decisions.md 28).
fn authority(state: &State, grant: &Grant) -> Result<(CredentialKind, u64, Key), Refusal> {
    if !grant.terms.gateway {
        let ca = state.authorities.ssh(Purpose::SshUser).ok_or_else(|| missing("authority"))?;
        return Ok((CredentialKind::SshUser, state.last_serial, ca));
    }
    let ca = state.authorities.ssh(Purpose::SshGateway).ok_or_else(|| {
        Refusal::new(Code::BAD_CONFIG, "This installation has no authority over certificates for the gateway.")
            .hint("Say mode = \"direct\" in targets.toml.")
    })?;
    Ok((CredentialKind::SshGateway, state.last_gateway_serial, ca))
}

impl Credential {
    /// The event that allows it.
    pub(super) fn issued(self, grant: GrantId) -> Event {
        Event::CredentialIssued {
            credential: self.kind,
            grant,
            serial: self.serial,
            key: self.key,
            valid_after: self.valid_after,
            valid_before: self.valid_before,
            nonce: self.nonce,
            tbs_sha256: self.tbs_sha256,
        }
    }
}

/// True when a key has a certificate that holds: issue is idempotent. A shorter one inside the window is renewed when two thirds of
/// its life are over.
pub(super) fn held(state: &State, live: &LiveGrant<'_>, key: &Key, at: i64) -> bool {
    live.credential_for(key, at).is_some_and(|held| {
        let life = held.valid_before - held.valid_after;
        !state.authorities.is_worthless(held.kind.purpose(), held.serial)
            && (held.valid_before == live.ends_at || (held.valid_before - at) * 3 > life)
    })
}

/// What is judged once, when a grant is used for the first time; gives why it is refused then.
///
/// # Errors
/// When it was not used in time.
pub(super) fn first_use(state: &State, live: &LiveGrant<'_>, now: Now<'_>) -> Result<Option<Refusal>, Refusal> {
    if live.state != GrantState::Ready {
        return Ok(None);
    }
    if live.claim_by <= now.at {
        let message = format!("Grant {} was not used in time.", live.id);
        return Err(Refusal::new(Code::WINDOW_CLOSED, message).hint(live.terms.ask_again()));
    }
    Ok(refused_at_first_use(state, live, now))
}

/// INVARIANT (I2): never after the grant's end.
pub(super) fn credential_end(live: &LiveGrant<'_>, at: i64) -> i64 {
    let piece = live.credential_s.map_or(live.ends_at, |s| at.saturating_add(i64::try_from(s).unwrap_or(i64::MAX)));
    piece.min(live.ends_at)
}

fn refused_at_first_use(state: &State, live: &LiveGrant<'_>, now: Now<'_>) -> Option<Refusal> {
    let request = state.requests.get(&live.request)?;
    let rejudged = |why: String| Refusal::new(Code::REJUDGED, why).hint(live.terms.ask_again());
    match progress(state, request, now) {
        Err(refusal) => Some(rejudged(format!("Policy changed since it was approved: {}", refusal.message))),
        Ok((_, views)) => views.iter().find(|v| v.need_left() > 0).map(|v| {
            rejudged(format!(
                "Step {} no longer has the approvals it needs: an approver lost the right to approve.",
                v.step.name
            ))
        }),
    }
}

/// The specification of a certificate: fully determined by the grant and the log's own entry.
///
/// # Errors
/// [`Code::LINT`] when a name cannot be in a certificate; the grammar of names makes that a defect.
pub fn user_spec(grant: &Grant, credential: &Credential) -> Result<UserSpec, Refusal> {
    let lint = |what: &str| Refusal::new(Code::LINT, format!("The {what} cannot be in a certificate."));
    let principals = grant
        .terms
        .logins
        .iter()
        .map(|login| Principal::new(format!("{}/{login}", grant.terms.target)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| lint("principal"))?;
    let allow = &grant.terms.allow;
    let mut extensions = Vec::new();
    if allow.contains(&Allow::Shell) {
        extensions.push(Extension::PermitPty);
    }
    if allow.contains(&Allow::Forward) {
        extensions.push(Extension::PermitPortForwarding);
    }
    extensions.push(named("grant@jit-broker", grant.id.to_string()));
    extensions.push(named("grant-until@jit-broker", grant.ends_at.to_string()));
    // The gateway keeps to `allow` by itself.
    let sftp_only = !grant.terms.gateway && allow.iter().all(|a| *a == Allow::Sftp);
    let critical = if sftp_only { vec![CriticalOption::ForceCommand("internal-sftp".to_owned())] } else { Vec::new() };
    let seconds = |at: i64| u64::try_from(at).map_err(|_| lint("time"));
    Ok(UserSpec {
        serial: Serial::new(credential.serial).map_err(|_| lint("serial"))?,
        key: credential.key.0.clone(),
        key_id: KeyId::new(format!("jit:{}:{}", grant.id, grant.person)).map_err(|_| lint("key id"))?,
        principals: Principals::new(principals).map_err(|_| lint("list of principals"))?,
        window: CertWindow::new(seconds(credential.valid_after)?, seconds(credential.valid_before)?)
            .map_err(|_| lint("window"))?,
        critical,
        extensions,
        nonce: *credential.nonce.as_bytes(),
    })
}

fn named(name: &str, value: String) -> Extension {
    Extension::Named { name: name.to_owned(), value }
}

pub(super) fn bind_key(
    state: &State,
    by: &Verified<'_>,
    id: GrantId,
    key: &Key,
    now: Now<'_>,
) -> Result<Vec<Event>, Refusal> {
    let grant = state.grants.get(&id).filter(|g| g.person == by.person).ok_or_else(|| missing("grant"))?;
    let live = grant.live_at(now.at)?;
    not_attested(state, &live)?;
    if live.keys.contains(key) {
        return Ok(Vec::new());
    }
    if live.keys.len() >= MAX_KEYS {
        return Err(Refusal::new(Code::TOO_MANY, format!("Grant {id} has {MAX_KEYS} keys already.")));
    }
    if state.authorities.is_one(key) {
        return Err(Refusal::new(Code::BAD_KEY, "The broker's own keys are never certified."));
    }
    if state.revoked_keys.contains(key) {
        return Err(Refusal::new(Code::BAD_KEY, "That key was revoked, for ever."));
    }
    if live.account.as_ref().is_some_and(|a| a.auth == Auth::Cert) && !jit_ca::x509::fits_client(&key.0) {
        return Err(Refusal::new(Code::BAD_KEY, "A client certificate is for an ECDSA P-256 or Ed25519 key."));
    }
    Ok(vec![Event::KeyBound { grant: id, act: by.signed.id(), key: key.clone() }])
}
