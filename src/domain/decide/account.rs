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

/// The most proofs, and the most lines of what is kept and of what is left, that one entry takes; the last one says how many more there were.
const MAX_LINES: usize = 64;
/// The most bytes of one such line.
const MAX_LINE_BYTES: usize = 256;
/// The most bytes of all proofs, and of all lines of what is kept and of what is left, as JSON. An entry holds the three twice, in the
/// command and in the event; a leaf of the ledger takes 65,535 bytes.
const MAX_PROOFS_BYTES: usize = 12 * 1024;
const MAX_LINES_BYTES: usize = 8 * 1024;
/// What the last one takes of them.
const MORE_BYTES: usize = 128;

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
    let proofs = bounded_proofs(proofs);
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

/// Keeps an entry small, whatever a server says: so many lines as it takes, and how many more there were. Once more changes nothing.
pub fn bounded(lines: &[String]) -> Vec<String> {
    let mut out: Vec<String> = lines.iter().map(|line| cut(line)).collect();
    let fit = fitting(out.iter().map(json_bytes), MAX_LINES_BYTES);
    if fit < out.len() {
        out.truncate(fit);
        out.push(format!("and {} more", lines.len() - fit));
    }
    out
}

/// As [`bounded`]. What was done to single objects and databases gives way: the lock, the cut and the absence are always told.
pub fn bounded_proofs(proofs: &[Proof]) -> Vec<Proof> {
    let single = |p: &Proof| matches!(p.what.as_str(), "dropped" | "rollback prepared") || p.what.starts_with("clear ");
    let told = |p: &Proof| Proof { what: cut(&p.what), detail: cut(&p.detail), ..p.clone() };
    let mut order: Vec<(usize, Proof)> = proofs.iter().map(told).enumerate().collect();
    order.sort_by_key(|(_, p)| single(p));
    let fit = fitting(order.iter().map(|(_, p)| json_bytes(p)), MAX_PROOFS_BYTES);
    let at = order.last().map_or(0, |(_, p)| p.at);
    order.truncate(fit);
    order.sort_by_key(|(place, _)| *place);
    let mut out: Vec<Proof> = order.into_iter().map(|(_, p)| p).collect();
    if fit < proofs.len() {
        let detail = format!("and {} more", proofs.len() - fit);
        out.push(Proof { what: "more".to_owned(), ok: None, at, detail });
    }
    out
}

/// How many of a list are told: all, or as many as leave room for the one that says how many more there were.
fn fitting(sizes: impl Iterator<Item = usize> + Clone, max_bytes: usize) -> usize {
    let within = |lines: usize, bytes: usize| {
        let sums = sizes.clone().scan(0, |sum, size| {
            *sum += size;
            Some(*sum)
        });
        sums.take(lines).take_while(|sum| *sum <= bytes).count()
    };
    let all = sizes.clone().count();
    if within(MAX_LINES, max_bytes) == all { all } else { within(MAX_LINES - 1, max_bytes - MORE_BYTES) }
}

/// What something takes in an entry.
fn json_bytes(of: &impl serde::Serialize) -> usize {
    serde_json::to_vec(of).map_or(usize::MAX / 4096, |json| json.len() + 1)
}

fn cut(line: &str) -> String {
    let end = (0..=MAX_LINE_BYTES.min(line.len())).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    line.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<T: serde::Serialize>(of: &[T]) -> usize {
        serde_json::to_vec(of).unwrap_or_default().len()
    }

    #[test]
    fn whatever_an_account_left_an_entry_takes_it() {
        // 63 bytes: of three each, escaped by us and again by JSON; controls, which JSON escapes; quotes.
        for name in ["\u{200b}".repeat(21), "\u{1}".repeat(63), "\"".repeat(63), "表".repeat(21), "t".to_owned()] {
            let shown = crate::domain::text::shown(&name);
            for line in [format!("app: table {shown}.{shown}"), name.repeat(9), name] {
                let lines: Vec<String> = (0..5_000).map(|n| format!("{line}{n}")).collect();
                let short = bounded(&lines);
                assert!(short.len() <= MAX_LINES && bytes(&short) <= MAX_LINES_BYTES + 2, "{}", bytes(&short));
                assert_eq!(short.last(), Some(&format!("and {} more", 5_001 - short.len())));
                assert_eq!(bounded(&short), short);
                let proof = |what: &str| Proof { what: what.to_owned(), ok: Some(true), at: 1, detail: line.clone() };
                let mut proofs = vec![proof("lock"), proof("terminate")];
                proofs.extend((0..5_000).map(|n| proof(["dropped", "rollback prepared", "clear app"][n % 3])));
                proofs.extend([proof("drop"), proof("read back"), proof("account")]);
                let told = bounded_proofs(&proofs);
                assert!(told.len() <= MAX_LINES && bytes(&told) <= MAX_PROOFS_BYTES + 2, "{}", bytes(&told));
                for what in ["lock", "terminate", "dropped", "drop", "read back", "account"] {
                    assert!(told.iter().any(|p| p.what == what), "{what}: {told:?}");
                }
                assert_eq!(told.last().map(|p| p.detail.clone()), Some(format!("and {} more", 5_006 - told.len())));
                assert_eq!(bounded_proofs(&told), told);
                // Both, twice, and what else is in an entry.
                assert!(2 * (bytes(&short) * 2 + bytes(&told)) < 58_000);
            }
        }
    }

    #[test]
    fn what_fits_is_told_in_full() {
        let lines: Vec<String> = (0..64).map(|n| format!("app: table public.t{n}")).collect();
        assert_eq!(bounded(&lines), lines);
        assert_eq!(bounded(&[]), Vec::<String>::new());
    }
}
