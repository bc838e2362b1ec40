//! Accounts on databases: made when a grant is used, removed when it is over, and looked for when nobody knows of them.
//!
//! True here: the log names an account before its server hears of it; one thing at a time happens to an account; what could not be
//! removed is tried again for ever, and a server that is down holds up no other.
//! Start with [`run`] and [`Broker::plan_and_make`].

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedMutexGuard, watch};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::left::{LEFT, Strangers};
use super::view::instant;
use super::{Broker, granted};
use crate::accounts::postgres::{Postgres, SecretSource, Server};
use crate::accounts::scram::{self, Verifier};
use crate::accounts::{Account, AccountError, Ending, MarkerKey, Probe, ProbeLogin, Proof as AccountProof};
use crate::domain::authority::Purpose;
use crate::domain::database::{Auth, DatabaseRole, Route};
use crate::domain::decide::{bounded, bounded_proofs};
use crate::domain::digest::Digest;
use crate::domain::event::{Command, Proof};
use crate::domain::grant::CredentialKind;
use crate::domain::ids::GrantId;
use crate::domain::key::Key;
use crate::domain::names::{AccountName, PersonName, SecretName, TargetName};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::target::Address;
use crate::wire::{AccountDoc, CredentialDoc, DatabaseDoc, LinkDoc};

/// The longest pause between two tries at a server that may come back by itself.
const SOON: Duration = Duration::from_secs(4);
/// The longest pause between two tries at what somebody must mend.
const LATE: Duration = Duration::from_secs(300);
/// How often a server that is down is tried.
const PROBE: Duration = Duration::from_secs(1);
/// How often a server is tried that refuses the admin; a secret that changed is tried at once. Servers count refused logins.
const REFUSED: Duration = Duration::from_secs(5);
/// How long a trial account could be used, in seconds.
const PROBE_S: i64 = 60;
/// The longest nap: a retry may fall due, or a wake-up may have been missed.
const NAP: Duration = Duration::from_millis(500);

/// Who makes accounts on a server.
pub struct Admin {
    /// The role there.
    pub user: String,
    /// Its secret, read anew when it is needed.
    pub secret: SecretSource,
}

/// Gives the admin of a secret's name, for one address and no other.
pub type Admins = Arc<dyn Fn(&SecretName, &Address) -> Result<Admin, Refusal> + Send + Sync>;

/// The servers that this broker works with, and what is under way there.
pub struct Accounts {
    admins: Admins,
    key: MarkerKey,
    places: Mutex<HashMap<Route, Arc<Place>>>,
    locks: Mutex<HashMap<GrantId, Arc<tokio::sync::Mutex<()>>>>,
    tries: Mutex<HashMap<GrantId, Try>>,
    finished: Notify,
    pub(super) strangers: Strangers,
}

/// One server as one target reaches it.
pub(super) struct Place {
    pub(super) postgres: Postgres,
    health: Mutex<Health>,
}

/// Whose fault a try was that did not do its work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Something of the account itself.
    Account,
    /// Somebody who holds something of the account, which may still be in use: its server is as good for others as ever.
    Held,
    /// The server is away, busy or read-only.
    Away,
    /// The server does not let the admin in, or there is no secret.
    Refused,
}

impl Fault {
    fn of(error: &AccountError) -> Self {
        match error {
            AccountError::RefusedLogin { .. } | AccountError::Secret(_) => Self::Refused,
            AccountError::Blocked => Self::Held,
            other if other.passing() => Self::Away,
            _ => Self::Account,
        }
    }
}

#[derive(Clone, Copy)]
struct Health {
    /// Away or closed to us: of all its removals one at a time is tried.
    down: bool,
    /// Whether it is down because the admin is refused.
    refused: bool,
    /// When it last answered after it had been down, or was first used.
    up_since: Instant,
    probed_at: Instant,
}

#[derive(Clone, Copy)]
struct Try {
    running: bool,
    failures: u32,
    tried_at: Instant,
    next_at: Instant,
}

fn hold<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a server's failure is called on the faces.
pub fn account_refusal(target: &str, error: &AccountError) -> Refusal {
    let message = format!("The server of {target}: {error}.");
    let code = if error.passing() { Code::TARGET_AWAY } else { Code::TARGET_REFUSED };
    Refusal::new(code, message).hint(format!("jit-broker target test {target}"))
}

impl Accounts {
    /// Takes where admins come from, the key of the marks, and the folder of the file that says what is left.
    pub fn new(admins: Admins, key: MarkerKey, state_dir: &std::path::Path) -> Self {
        Self {
            admins,
            key,
            places: Mutex::default(),
            locks: Mutex::default(),
            tries: Mutex::default(),
            finished: Notify::new(),
            strangers: Strangers::new(state_dir.join(LEFT)),
        }
    }

    /// Nothing else happens to the account of this grant meanwhile.
    async fn alone(&self, grant: GrantId) -> OwnedMutexGuard<()> {
        let lock = hold(&self.locks).entry(grant).or_default().clone();
        lock.lock_owned().await
    }

    fn forget(&self, grant: GrantId) {
        hold(&self.tries).remove(&grant);
        // Who waits for the lock holds a clone of it.
        hold(&self.locks).retain(|id, lock| *id != grant || Arc::strong_count(lock) > 1);
    }
}

impl Broker {
    pub(super) fn accounts(&self) -> &Accounts {
        &self.inner.accounts
    }

    /// Forgets how servers are reached: their secrets may come from elsewhere now.
    pub fn forget_places(&self) {
        hold(&self.accounts().places).clear();
    }

    /// The server of a route; the same one for everybody who asks.
    pub(super) async fn place(&self, route: &Route) -> Result<Arc<Place>, Refusal> {
        let accounts = self.accounts();
        if let Some(place) = hold(&accounts.places).get(route) {
            return Ok(place.clone());
        }
        let install = self.memory().await.state.genesis.as_ref().map(|g| g.install);
        let install = install.ok_or_else(|| Refusal::new(Code::LEDGER_CORRUPT, "The log has no beginning."))?;
        let admin = (accounts.admins)(&route.admin, &route.address)?;
        let server = Server {
            host: route.address.host.clone(),
            port: route.address.port,
            tls_name: route.tls_name.clone(),
            ca_pem: route.tls_ca.clone(),
            database: route.database.to_string(),
            admin: admin.user,
            secret: admin.secret,
        };
        let now = Instant::now();
        let place = Arc::new(Place {
            postgres: Postgres::new(server, install, accounts.key.clone()),
            health: Mutex::new(Health { down: false, refused: false, up_since: now, probed_at: now }),
        });
        Ok(hold(&accounts.places).entry(route.clone()).or_insert(place).clone())
    }

    /// Asks, before an account is planned, whether there is an admin for its server: what was planned must be removed, and without
    /// one it never could be.
    ///
    /// # Errors
    /// [`Code::SECRET`].
    pub(super) async fn may_plan(&self, grant: GrantId) -> Result<(), Refusal> {
        let route = {
            let state = &self.memory().await.state;
            let fresh = state.grants.get(&grant).filter(|g| g.account.is_none());
            fresh.and_then(|g| state.bundle.targets.get(&g.terms.target)).and_then(crate::domain::target::Target::route)
        };
        match route {
            Some(route) => self.place(&route).await.map(drop),
            None => Ok(()),
        }
    }

    /// Has the clerk plan the account of a grant, and makes it, unless its server has it already.
    ///
    /// # Errors
    /// As decided; [`Code::TARGET_AWAY`], [`Code::TARGET_REFUSED`]; that the grant is over. Asking again goes on where it stopped.
    pub(super) async fn plan_and_make(
        &self,
        grant: GrantId,
        plan: Command,
        verifier: Option<Verifier>,
    ) -> Result<(), Refusal> {
        // A client that hangs up does not stop it half way: what is planned is made.
        let broker = self.clone();
        let made = tokio::spawn(async move {
            granted(&broker.command(plan, Vec::new()).await?)?;
            broker.make_now(grant, verifier).await
        });
        made.await.map_err(|_| Refusal::new(Code::BUG, "Making the account failed."))?
    }

    async fn make_now(&self, id: GrantId, verifier: Option<Verifier>) -> Result<(), Refusal> {
        let _alone = self.accounts().alone(id).await;
        let (target, route, account) = {
            let memory = self.memory().await;
            let grant = memory.state.grants.get(&id).ok_or_else(missing)?;
            let live = grant.live_at(self.now())?;
            let (Some(account), Some(role)) = (&live.account, &live.terms.database) else { return Err(missing()) };
            if live.account_made {
                return Ok(());
            }
            let proof = match (account.auth, verifier) {
                (Auth::Cert, _) => AccountProof::Cert,
                (Auth::Password, Some(verifier)) if Some(digest(&verifier)) == account.verifier => {
                    AccountProof::Password(verifier)
                }
                _ => return Err(Refusal::new(Code::BAD_BODY, "Another password was asked for meanwhile; ask again.")),
            };
            let spec = Account {
                name: account.name.clone(),
                grant: id,
                member_of: role.member_of.iter().map(ToString::to_string).collect(),
                read_only: role.read_only,
                statement_timeout_ms: role.statement_timeout_ms,
                connection_limit: Some(role.connection_limit),
                valid_until: live.ends_at,
                proof,
            };
            (live.terms.target.to_string(), account.route.clone(), spec)
        };
        let place = self.place(&route).await?;
        place.postgres.make(&account).await.map_err(|error| account_refusal(&target, &error))?;
        self.command(Command::AccountMade { grant: id }, Vec::new()).await.map(drop)
    }

    /// What the holder of an account is given: with the certificate, PEM, unless a password proves it.
    ///
    /// # Errors
    /// [`Code::MISSING`] when the grant or its target is gone meanwhile.
    pub async fn account_credential(
        &self,
        id: GrantId,
        key: &Key,
        pem: Option<String>,
    ) -> Result<CredentialDoc, Refusal> {
        let memory = self.memory().await;
        let grant = memory.state.grants.get(&id).ok_or_else(missing)?;
        let account = grant.account.as_ref().ok_or_else(missing)?;
        let issued = grant.credentials.iter().rev().find(|c| c.key == *key).filter(|_| pem.is_some());
        let serial = issued.map_or(0, |c| c.serial);
        let kind = if pem.is_some() { CredentialKind::X509Client.word() } else { "password" };
        let ends_at = issued.map_or(grant.ends_at, |c| c.valid_before);
        Ok(CredentialDoc {
            schema: "jit-broker/credential/v1".to_owned(),
            id: if pem.is_some() { format!("{kind}-{serial}") } else { format!("{kind}-{}", account.name) },
            grant_id: id,
            kind: kind.to_owned(),
            serial,
            key_id: format!("jit:{id}"),
            principals: vec![account.name.to_string()],
            valid_after: instant(issued.map_or(grant.starts_at, |c| c.valid_after)),
            valid_before: instant(ends_at),
            valid_before_s: ends_at,
            fingerprint: key.0.fingerprint(),
            certificate: pem.unwrap_or_default(),
            account: Some(AccountDoc {
                user: account.name.clone(),
                host: account.route.address.host.clone(),
                port: account.route.address.port,
                database: DatabaseDoc {
                    name: account.route.database.clone(),
                    auth: account.auth,
                    tls_name: account.route.tls_name.clone(),
                    tls_ca: account.route.tls_ca.clone(),
                },
            }),
            path: None,
            files: Vec::new(),
        })
    }

    /// Tries each link that a target needs, with an account of its own for the occasion where passwords prove accounts.
    ///
    /// # Errors
    /// [`Code::NOT_OFFICE`] for everybody but operators, [`Code::MISSING`] for what is no database.
    pub async fn test_target(&self, viewer: &PersonName, name: &TargetName) -> Result<Vec<LinkDoc>, Refusal> {
        let (route, auth, gives, roles, ca_pem) = {
            let memory = self.memory().await;
            if !memory.state.is_operator(viewer) {
                return Err(Refusal::new(Code::NOT_OFFICE, "Operators alone test targets."));
            }
            let target = memory.state.bundle.targets.get(name);
            let target = target.ok_or_else(|| Refusal::new(Code::MISSING, format!("There is no target {name}.")))?;
            let (Some(route), Some(database)) = (target.route(), &target.database) else {
                return Err(Refusal::new(Code::MISSING, format!("{name} is no database; only those are tested.")));
            };
            let gives: Vec<_> = target.roles.values().filter_map(|role| role.database.clone()).collect();
            let roles: BTreeSet<String> =
                gives.iter().flat_map(|role| &role.member_of).map(ToString::to_string).collect();
            let ring = memory.state.authorities.rings.get(&Purpose::X509Client);
            let ca = ring.map(|ring| ring.active.clone()).unwrap_or_default();
            (route, database.auth, gives, roles, ca)
        };
        let place = self.place(&route).await?;
        let probe = probe(auth, &gives, roles, ca_pem, self.now())?;
        // A client that hangs up does not stop it half way: its account is removed.
        let links = tokio::spawn(async move { place.postgres.check(&probe).await }).await;
        let links = links.map_err(|_| Refusal::new(Code::BUG, "Testing the target failed."))?;
        Ok(links.into_iter().map(|l| LinkDoc { what: l.what, ok: l.ok, detail: l.detail, todo: l.todo }).collect())
    }

    /// Begins every removal that is due.
    async fn begin_removals(&self) {
        self.accounts().look_at_secrets();
        let due = {
            let memory = self.memory().await;
            let mut due: Vec<(i64, GrantId, Route)> = Vec::new();
            for grant in memory.state.removing() {
                if let (Some((_, since)), Some(account)) = (grant.removing(), &grant.account)
                    && !self.accounts().is_running(grant.id)
                    && self.accounts().may_try(grant.id, &account.route)
                {
                    due.push((since, grant.id, account.route.clone()));
                }
            }
            due
        };
        // Those that are over for longest come first.
        let mut due = due;
        due.sort_by_key(|(since, id, _)| (*since, *id));
        for (_, grant, route) in due {
            if self.accounts().begin(grant, &route) {
                let broker = self.clone();
                tokio::spawn(async move { broker.remove(grant, route).await });
            }
        }
    }

    async fn remove(&self, grant: GrantId, route: Route) {
        let (gone, fault) = self.remove_now(grant, &route).await;
        self.accounts().end_try(grant, &route, gone, fault);
    }

    /// Removes an account and writes down what its server showed; tells whether it is gone, and else whose fault that is.
    async fn remove_now(&self, id: GrantId, route: &Route) -> (bool, Fault) {
        let place = match self.place(route).await {
            Ok(place) => place,
            Err(refusal) => {
                return (self.report(id, Vec::new(), Vec::new(), vec![refusal.message]).await, Fault::Account);
            }
        };
        let _alone = self.accounts().alone(id).await;
        let name = self
            .memory()
            .await
            .state
            .grants
            .get(&id)
            .filter(|g| g.removing().is_some())
            .and_then(|g| g.account.as_ref().map(|account| account.name.clone()));
        let Some(name) = name else { return (true, Fault::Account) };
        let ended = place.postgres.end(&name, id).await;
        match ended {
            Ok(ending) => {
                let (proofs, left) = told(&name, &ending, self.now());
                let fault = if ending.usable { Fault::Held } else { Fault::Account };
                (self.report(id, proofs, ending.kept, left).await, fault)
            }
            Err(error) => {
                let left = vec![format!("{name} on {}: {error}", route.address)];
                (self.report(id, Vec::new(), Vec::new(), left).await, Fault::of(&error))
            }
        }
    }

    async fn report(&self, grant: GrantId, proofs: Vec<Proof>, kept: Vec<String>, left: Vec<String>) -> bool {
        let gone = left.is_empty();
        // The entry holds the command too, and an account leaves as much as it likes.
        let (proofs, kept, left) = (bounded_proofs(&proofs), bounded(&kept), bounded(&left));
        match self.command(Command::AccountRemoved { grant, proofs, kept, left }, Vec::new()).await {
            Ok(_) => gone,
            Err(refusal) => {
                tracing::error!(code = %refusal.code, "a removal was not recorded, it is done again: {}", refusal.message);
                false
            }
        }
    }
}

impl Accounts {
    fn is_running(&self, grant: GrantId) -> bool {
        hold(&self.tries).get(&grant).is_some_and(|tried| tried.running)
    }

    fn may_try(&self, grant: GrantId, route: &Route) -> bool {
        let now = Instant::now();
        let health = hold(&self.places).get(route).map(|place| *hold(&place.health));
        if health.is_some_and(|h| h.down && now < h.probed_at + if h.refused { REFUSED } else { PROBE }) {
            return false;
        }
        hold(&self.tries).get(&grant).is_none_or(|tried| {
            !tried.running && (tried.next_at <= now || health.is_some_and(|h| !h.down && h.up_since > tried.tried_at))
        })
    }

    /// Marks a try as begun; of a server that is down only one at a time begins.
    fn begin(&self, grant: GrantId, route: &Route) -> bool {
        if !self.may_try(grant, route) {
            return false;
        }
        let now = Instant::now();
        if let Some(place) = hold(&self.places).get(route) {
            hold(&place.health).probed_at = now;
        }
        let mut tries = hold(&self.tries);
        let failures = tries.get(&grant).map_or(0, |tried| tried.failures);
        tries.insert(grant, Try { running: true, failures, tried_at: now, next_at: now });
        true
    }

    /// Lets every removal of a server begin whose admin was refused and whose secret is another one now.
    fn look_at_secrets(&self) {
        for place in hold(&self.places).values() {
            let mut health = hold(&place.health);
            if health.down && health.refused && place.postgres.secret_changed() {
                (health.down, health.up_since) = (false, Instant::now());
            }
        }
    }

    fn end_try(&self, grant: GrantId, route: &Route, gone: bool, fault: Fault) {
        let (now, away) = (Instant::now(), matches!(fault, Fault::Away | Fault::Refused));
        if let Some(place) = hold(&self.places).get(route) {
            let mut health = hold(&place.health);
            if health.down && !away {
                health.up_since = now;
            }
            (health.down, health.refused) = (away, fault == Fault::Refused);
        }
        if gone {
            self.forget(grant);
        } else if let Some(tried) = hold(&self.tries).get_mut(&grant) {
            tried.failures = tried.failures.saturating_add(1);
            let longest = if fault == Fault::Account { LATE } else { SOON };
            let pause = Duration::from_millis(250 << tried.failures.min(11)).min(longest);
            (tried.running, tried.next_at) = (false, now + pause);
        }
        self.finished.notify_one();
    }
}

/// What a server showed, as proofs; and what is left there.
fn told(name: &AccountName, ending: &Ending, at: i64) -> (Vec<Proof>, Vec<String>) {
    let mut proofs: Vec<Proof> = ending
        .steps
        .iter()
        .map(|step| Proof { what: step.what.clone(), ok: step.ok, at, detail: step.detail.clone() })
        .collect();
    let mut left = ending.residue.clone();
    if ending.gone {
        let detail = format!("{name} was read back as gone, with its sessions, memberships and prepared transactions");
        proofs.push(Proof { what: "account".to_owned(), ok: Some(true), at, detail });
        left.clear();
    } else if left.is_empty() {
        left.push(format!("{name} is still there"));
    }
    (proofs, left)
}

/// The digest by which the log knows a password's verifier.
pub fn digest(verifier: &Verifier) -> Digest {
    Digest::of(verifier.as_str().as_bytes())
}

/// A trial account: in no grant, with the rights of a role, for a minute.
fn probe(
    auth: Auth,
    gives: &[DatabaseRole],
    roles: BTreeSet<String>,
    ca_pem: String,
    now: i64,
) -> Result<Probe, Refusal> {
    let role = gives.first().ok_or_else(missing)?;
    let names = |role: &DatabaseRole| role.member_of.iter().map(ToString::to_string).collect();
    let broken = |e: crate::accounts::scram::VerifierError| Refusal::new(Code::BUG, e.to_string());
    let (proof, login) = match auth {
        Auth::Cert => (AccountProof::Cert, ProbeLogin::NoCert { ca_pem }),
        Auth::Password => {
            let password = Zeroizing::new(data_encoding::HEXLOWER.encode(&crate::clock::random16()));
            let verifier = scram::verifier(&password, &crate::clock::random16()).map_err(broken)?;
            (AccountProof::Password(verifier), ProbeLogin::Password(password))
        }
    };
    let account = Account {
        name: AccountName::of_random(&crate::clock::random16()),
        grant: GrantId::new(crate::clock::random16()),
        member_of: names(role),
        read_only: role.read_only,
        statement_timeout_ms: role.statement_timeout_ms,
        connection_limit: Some(role.connection_limit),
        valid_until: now + PROBE_S,
        proof,
    };
    Ok(Probe { account, login, roles: roles.into_iter().collect(), sets: gives.iter().map(names).collect() })
}

fn missing() -> Refusal {
    Refusal::new(Code::MISSING, "There is no such account.")
}

/// Removes accounts as their grants end, until the broker stops.
pub async fn run(broker: Broker, mut stop: watch::Receiver<bool>) {
    let mut changed = broker.changed();
    loop {
        let begun = Instant::now();
        broker.begin_removals().await;
        broker.write_left().await;
        // While thousands end, each end wakes this up, and each look goes through all of them: it may take a fifth of the time.
        tokio::time::sleep((begun.elapsed() * 4).min(NAP)).await;
        tokio::select! {
            _ = changed.changed() => {}
            () = broker.accounts().finished.notified() => {}
            () = tokio::time::sleep(NAP) => {}
            _ = stop.changed() => return,
        }
    }
}
