//! What runs in the background until the daemon stops, and how it is noticed that one of them does not any more.

use std::collections::HashMap;
use std::future::Future;

use tokio::task::{Id, JoinSet};

/// The parts of a daemon, with their names.
#[derive(Default)]
pub(super) struct Tasks {
    set: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Tasks {
    /// Starts one.
    pub(super) fn start(&mut self, name: &'static str, run: impl Future<Output = ()> + Send + 'static) {
        let id = self.set.spawn(run).id();
        self.names.insert(id, name);
    }

    /// Waits for the first that ends; its name. For ever, where there are none.
    pub(super) async fn ended(&mut self) -> &'static str {
        let id = match self.set.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => return std::future::pending().await,
        };
        self.names.get(&id).copied().unwrap_or("a part")
    }

    /// Waits for all; they were told to stop.
    pub(super) async fn all(mut self) {
        while self.set.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_part_that_dies_is_named() {
        let mut tasks = Tasks::default();
        tasks.start("what goes on", std::future::pending());
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(50), tasks.ended()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        tasks.start("what dies", async { panic!("a part of a test") });
        assert_eq!(tasks.ended().await, "what dies");
        tasks.start("what returns", async {});
        assert_eq!(tasks.ended().await, "what returns");
    }
}
