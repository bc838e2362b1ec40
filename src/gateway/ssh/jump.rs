//! A hop: `ssh -J gateway target`. The inner connection ends here as well, at a server in the target's name, so that it is judged, recorded
//! and cut like any other.

use std::net::SocketAddr;
use std::sync::Arc;

use russh::server::{ChannelOpenHandle, Msg};
use russh::{Channel, ChannelOpenFailure};

use super::admit::Admitted;
use super::connection::{self, Connection};
use super::gate::{Alive, Gate};
use super::switch::Switch;
use crate::domain::names::TargetName;
use crate::domain::person::Person;
use crate::domain::state::State;
use crate::domain::target::{Mode, Target, TargetKind};

/// What a hop needs.
pub struct Hop {
    /// What all connections share.
    pub gate: Arc<Gate>,
    /// The client's address.
    pub peer: SocketAddr,
    /// Kept while it lasts.
    pub alive: Alive,
}

/// True for the name of a target that is reached through this gateway and that the person could reach at all. What they may not know of
/// is answered as what is not there.
pub async fn leads(gate: &Gate, admitted: &Admitted, host: &str) -> bool {
    let Ok(name) = TargetName::new(host) else { return false };
    let memory = gate.broker.memory().await;
    let state = &memory.state;
    let Some(target) = state.bundle.targets.get(&name) else { return false };
    let person = state.person(&admitted.person);
    target.mode == Mode::Gateway && target.kind == TargetKind::Ssh && person.is_some_and(|p| reaches(state, &p, target))
}

fn reaches(state: &State, person: &Person, target: &Target) -> bool {
    let granted = state.open_grants_of(&person.name).any(|grant| grant.terms.target == target.name);
    let ruled = || {
        let rules = state.bundle.policy.rules.iter();
        rules.filter(|rule| rule.targets.selects(target)).any(|rule| rule.who.iter().any(|who| who.names(person)))
    };
    granted || ruled()
}

impl Hop {
    /// Runs a server in the target's name on a channel.
    pub async fn serve(self, host: &str, channel: Channel<Msg>, reply: ChannelOpenHandle) {
        let Ok(target) = TargetName::new(host) else { return };
        let face = match self.gate.faces.face(Some(&target)).await {
            Ok(face) => face,
            Err(refusal) => {
                tracing::warn!(code = %refusal.code, target = %target, "no host certificate: {}", refusal.message);
                return reply.reject(ChannelOpenFailure::ConnectFailed).await;
            }
        };
        reply.accept().await;
        let switch = Switch::default();
        let connection =
            Connection { gate: self.gate, peer: self.peer, inside: Some(target), face, switch, alive: self.alive };
        let _ = connection::run(connection, channel.into_stream(), None).await;
    }
}
