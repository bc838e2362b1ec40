//! Somebody comes with a key alone and has no grant.

use tokio::sync::watch;

use super::live::Standing;
use crate::domain::names::{LoginName, TargetName};

/// Says what to type.
pub fn none(target: &TargetName, login: &LoginName) -> watch::Receiver<Standing> {
    let line = format!("jit-broker: you have no grant for {login} on {target} now; ask: jit-broker request {target}");
    watch::channel(Standing::Shut(line.into())).1
}
