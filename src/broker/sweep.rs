//! Compares what servers have with what the log knows: an account that carries our mark and that no open grant explains is locked and told.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;

use super::Broker;
use crate::accounts::Found;
use crate::domain::database::Route;
use crate::domain::event::Command;
use crate::domain::ids::GrantId;
use crate::domain::names::AccountName;
use crate::domain::refusal::Code;
use crate::wire::StrangerDoc;

/// How often servers are looked at.
const EVERY: Duration = Duration::from_secs(600);
/// How soon a server is looked at again that could not be looked at, or had a stranger of ours: somebody may be clearing up.
const AGAIN: Duration = Duration::from_secs(30);

/// What was told already, so that it is told once in the life of a process.
#[derive(Debug, Default)]
pub struct Told(BTreeSet<(String, String)>);

/// Looks at start and every ten minutes, until the broker stops.
pub async fn run(broker: Broker, mut stop: watch::Receiver<bool>) {
    let mut told = Told::default();
    loop {
        let all = broker.sweep(&mut told).await;
        let pause = if all && !broker.accounts().strangers.any_of_ours() { EVERY } else { AGAIN };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.changed() => return,
        }
    }
}

/// An account whose end was proven after the look began is no stranger: it is gone when it is looked for again. What cannot be read
/// counts as there, and is told.
async fn still_there(place: &super::accounts::Place, name: &AccountName) -> bool {
    let again = place.postgres.sweep().await;
    again.map_or(true, |all| all.iter().any(|one| matches!(one, Found::Ours { name: found, .. } if found == name)))
}

impl Broker {
    /// Looks at every server once; true when all could be looked at.
    pub async fn sweep(&self, told: &mut Told) -> bool {
        // SECURITY: accounts that a restored log does not know may be those of the broker that it is a copy of.
        if self.health().is_some_and(|why| why.code == Code::RECOVERY) {
            return false;
        }
        let routes: BTreeSet<Route> = {
            let memory = self.memory().await;
            let targets = memory.state.bundle.targets.values().filter_map(crate::domain::target::Target::route);
            let open = memory.state.open_grants.iter().filter_map(|id| memory.state.grants.get(id));
            targets.chain(open.filter_map(|g| g.account.as_ref().map(|a| a.route.clone()))).collect()
        };
        let mut all = true;
        for route in routes {
            all &= self.sweep_server(&route, told).await;
        }
        all
    }

    async fn sweep_server(&self, route: &Route, told: &mut Told) -> bool {
        let Ok(place) = self.place(route).await else { return false };
        let found = match place.postgres.sweep().await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!("{} could not be looked at: {error}", route.address);
                return false;
            }
        };
        let mut strangers = Vec::new();
        let server = route.address.to_string();
        let stranger =
            |account: &str, ours, what| StrangerDoc { server: server.clone(), account: account.to_owned(), ours, what };
        for one in found {
            match one {
                Found::Ours { name, marker, can_login } => {
                    if self.explained(&name, marker.grant).await || !still_there(&place, &name).await {
                        continue;
                    }
                    // SECURITY (T94): only what carries the mark that this installation alone can make is touched.
                    let locked =
                        if can_login { place.postgres.lock(&name, marker.grant).await.map(drop) } else { Ok(()) };
                    let what = match locked {
                        Ok(()) => format!("no open grant explains it (its mark says {}); it is locked", marker.grant),
                        Err(error) => format!("no open grant explains it, and it could not be locked: {error}"),
                    };
                    strangers.push(stranger(name.as_str(), true, what));
                }
                Found::Stranger { role, why } => {
                    let what = format!("it looks like an account of a broker, but {why}; not touched");
                    strangers.push(stranger(&role, false, what));
                }
                Found::Kept { .. } => {}
            }
        }
        for one in &strangers {
            self.tell(one, told).await;
        }
        self.accounts().strangers.saw(server, strangers);
        self.write_left().await;
        true
    }

    async fn explained(&self, name: &AccountName, grant: GrantId) -> bool {
        let memory = self.memory().await;
        let account = memory.state.grants.get(&grant).filter(|g| !g.over()).and_then(|g| g.account.as_ref());
        account.is_some_and(|account| account.name == *name)
    }

    async fn tell(&self, stranger: &StrangerDoc, told: &mut Told) {
        let StrangerDoc { server, account, what, .. } = stranger.clone();
        if !told.0.insert((server.clone(), account.clone())) {
            return;
        }
        tracing::warn!(server, account, "{what}");
        let command = Command::AccountFound { server, account, what };
        if let Err(refusal) = self.command(command, Vec::new()).await {
            tracing::error!(code = %refusal.code, "a stranger was not recorded: {}", refusal.message);
        }
    }
}
