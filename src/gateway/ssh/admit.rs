//! Who a proved key or certificate is, and what it opens. One pure function decides it all.
//!
//! SECURITY: the SSH library checks a certificate's signature by the CA that the certificate itself names, and its window a second too
//! generously; nothing else. So everything is asked here again: authority, type, window, principal, options, revocation, and that the
//! log really has this certificate under a grant that is open.

use std::net::IpAddr;

use jit_ca::spec::Cidr;
use jit_ca::ssh::{CertKind, CertificateFacts};

use super::user::User;
use crate::domain::authority::Purpose;
use crate::domain::digest::Digest;
use crate::domain::grant::{CredentialKind, Grant};
use crate::domain::ids::GrantId;
use crate::domain::key::Key;
use crate::domain::names::{LoginName, PersonName, TargetName};
use crate::domain::state::State;

/// What a client proved to have.
#[derive(Debug)]
pub enum Proof<'a> {
    /// A key, by itself.
    Key(&'a Key),
    /// The key of a certificate, whose CA's signature was checked.
    Certificate(&'a CertificateFacts),
}

/// From where and when somebody knocks.
#[derive(Debug, Clone, Copy)]
pub struct Knock<'a> {
    /// The client's address.
    pub peer: IpAddr,
    /// The target in whose name this server stands, inside a jump.
    pub inside: Option<&'a TargetName>,
    /// The time that counts, in Unix seconds.
    pub now: i64,
    /// The latest that any clock says: what ends, ends by it.
    pub latest: i64,
}

/// Somebody who may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Who.
    pub person: PersonName,
    /// By which key.
    pub key: Key,
    /// Whereto.
    pub way: Way,
}

/// Where an admitted person may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Into a target, under the grant of the certificate.
    Granted {
        /// The grant.
        grant: GrantId,
        /// Its target.
        target: TargetName,
        /// The account.
        login: LoginName,
    },
    /// To a target, if a grant is live or can be had.
    Asking {
        /// The target that was named.
        target: TargetName,
        /// The account.
        login: LoginName,
    },
    /// Only through, to a server in a target's name.
    Jump,
}

/// Why not; for the log alone, clients are told nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Outside the grammar.
    #[error("the user name is none")]
    User,
    /// A key of nobody, of somebody disabled, revoked, or of a kind that does not count.
    #[error("the key is nobody's")]
    Key,
    /// Another CA.
    #[error("the certificate is of another authority")]
    Authority,
    /// A host certificate.
    #[error("the certificate is not for users")]
    Type,
    /// Too early or too late.
    #[error("the certificate is not valid now")]
    Window,
    /// Not for this account or target.
    #[error("the certificate does not speak for this account")]
    Principal,
    /// A critical option that is unknown, not kept or cannot be read.
    #[error("the certificate has an option that is not kept")]
    Option,
    /// Not in the log, or under a grant that is over.
    #[error("the certificate is under no open grant")]
    Grant,
    /// The key, its CA or its person is out.
    #[error("the key, its authority or its person was revoked")]
    Revoked,
}

/// Decides who a client is and where it may go.
///
/// # Errors
/// The first thing that is wrong.
pub fn admit(proof: &Proof<'_>, user: &str, knock: Knock<'_>, state: &State) -> Result<Admitted, Denied> {
    let user = User::read(user).ok_or(Denied::User)?;
    match proof {
        Proof::Key(key) => by_key(key, user, knock, state),
        Proof::Certificate(facts) => by_certificate(facts, user, knock, state),
    }
}

/// True for a key that might be admitted, alone or in a certificate. The answer does not depend on what is asked for.
pub fn known(key: &Key, state: &State) -> bool {
    if state.revoked_keys.contains(key) {
        return false;
    }
    state.owner_of(key).is_some() || state.has_gateway_key(key)
}

fn by_key(key: &Key, user: User, knock: Knock<'_>, state: &State) -> Result<Admitted, Denied> {
    let person = state.owner_of(key).ok_or(Denied::Key)?;
    if state.disabled.contains(&person) {
        return Err(Denied::Revoked);
    }
    if !key.0.signs_acts() {
        return Err(Denied::Key);
    }
    let way = match (user, knock.inside) {
        (User::Login(_), None) => Way::Jump,
        (User::Login(login), Some(target)) => Way::Asking { target: target.clone(), login },
        (User::At(login, target), None) => Way::Asking { target, login },
        (User::At(..), Some(_)) => return Err(Denied::User),
    };
    Ok(Admitted { person, key: key.clone(), way })
}

fn by_certificate(facts: &CertificateFacts, user: User, knock: Knock<'_>, state: &State) -> Result<Admitted, Denied> {
    let User::Login(login) = user else { return Err(Denied::User) };
    let (ca, key) = (Key(facts.ca.clone()), Key(facts.key.clone()));
    if !state.authorities.ssh_trusted(Purpose::SshGateway).contains(&ca) {
        return Err(Denied::Authority);
    }
    if facts.kind != CertKind::User {
        return Err(Denied::Type);
    }
    let seconds = |at: i64| u64::try_from(at).unwrap_or(0);
    if seconds(knock.now) < facts.valid_after
        || seconds(knock.latest) >= facts.valid_before
        || facts.valid_before == u64::MAX
    {
        return Err(Denied::Window);
    }
    options(facts, knock.peer)?;
    if state.revoked_keys.contains(&ca) || state.revoked_keys.contains(&key) {
        return Err(Denied::Revoked);
    }
    let grant = granted(facts, &key, knock, state)?;
    if state.disabled.contains(&grant.person) {
        return Err(Denied::Revoked);
    }
    let target = &grant.terms.target;
    let principal = format!("{target}/{login}");
    let named = grant.terms.logins.contains(&login) && facts.principals.contains(&principal);
    if !named || knock.inside.is_some_and(|inside| inside != target) {
        return Err(Denied::Principal);
    }
    let way = Way::Granted { grant: grant.id, target: target.clone(), login };
    Ok(Admitted { person: grant.person.clone(), key, way })
}

/// SECURITY: an option that is not kept to the letter refuses, as sshd does with those that it does not know.
fn options(facts: &CertificateFacts, peer: IpAddr) -> Result<(), Denied> {
    for (name, value) in &facts.critical {
        let kept = name == "source-address" && lies_in(value, peer).ok_or(Denied::Option)?;
        if !kept {
            return Err(Denied::Option);
        }
    }
    Ok(())
}

/// Whether an address is in a list of ranges; nothing when the list cannot be read (ssh-keygen(1), `source-address`).
fn lies_in(list: &str, peer: IpAddr) -> Option<bool> {
    let ranges = list.split(',').map(|text| text.parse::<Cidr>().ok()).collect::<Option<Vec<_>>>()?;
    Some(ranges.iter().any(|range| range.contains(peer.to_canonical())))
}

/// The open grant whose credential this certificate is, byte for byte.
fn granted<'a>(facts: &CertificateFacts, key: &Key, knock: Knock<'_>, state: &'a State) -> Result<&'a Grant, Denied> {
    let named = facts.extensions.get("grant@jit-broker").and_then(|id| id.parse::<GrantId>().ok());
    let grant = named.and_then(|id| state.grants.get(&id)).ok_or(Denied::Grant)?;
    if facts.key_id != format!("jit:{}:{}", grant.id, grant.person) || !grant.terms.gateway {
        return Err(Denied::Grant);
    }
    if grant.live_at(knock.now).is_err() || knock.latest >= grant.ends_at {
        return Err(Denied::Grant);
    }
    let logged = grant.credentials.iter().any(|credential| {
        credential.kind == CredentialKind::SshGateway
            && credential.serial == facts.serial
            && credential.key == *key
            && credential.tbs_sha256 == Digest::new(facts.tbs_sha256)
    });
    if logged { Ok(grant) } else { Err(Denied::Grant) }
}
