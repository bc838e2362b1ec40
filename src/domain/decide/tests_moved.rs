#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::sync::Arc;

use jit_ca::key::PrivateKey;

use super::*;
use crate::domain::act::Terms;
use crate::domain::bundle::Bundle;
use crate::domain::event::{Boot, Entry, Genesis};
use crate::domain::grant::GrantState;
use crate::domain::ids::{GrantId, InstallId, RequestId, SessionId};
use crate::domain::session::{Leg, Session};
use crate::domain::text::Words;

/// When all of it begins, in Unix seconds.
const AT: i64 = 1_800_000_000;

struct Nothing;

impl Beside for Nothing {
    fn words(&self, _: &Digest) -> Option<Words> {
        None
    }

    fn bundle(&self, _: &Digest) -> Option<Arc<Bundle>> {
        None
    }
}

fn key() -> Key {
    Key(PrivateKey::from_seed([1; 32]).public().clone())
}

fn apply(state: &mut State, event: Event) {
    let boot = Boot { id: String::new(), ms: 0 };
    let (seq, at) = (state.size, state.last_at.max(AT));
    state.apply(&Entry { v: 1, seq, at, boot, cause: None, event }, &Nothing);
}

fn genesis() -> Genesis {
    Genesis {
        x509_client: None,
        ssh_gateway: None,
        install: InstallId::new([0; 16]),
        admins: BTreeMap::new(),
        log_key: key(),
        ssh_user: key(),
        ssh_host: key(),
        x509_server: String::new(),
    }
}

fn opened(grant: GrantId, for_s: i64, claim_s: i64) -> Event {
    let terms = Terms {
        target: "web-07".parse().unwrap(),
        target_digest: Digest::new([0; 32]),
        role: "deploy".parse().unwrap(),
        logins: vec!["deploy".parse().unwrap()],
        allow: Vec::new(),
        database: None,
        gateway: true,
        for_s: for_s.unsigned_abs(),
    };
    Event::GrantOpened {
        grant,
        request: RequestId::of_digest(&Digest::of(grant.to_string().as_bytes())),
        person: "alice".parse().unwrap(),
        key: key(),
        terms,
        starts_at: AT,
        ends_at: AT + for_s,
        claim_by: AT + claim_s,
        credential_s: None,
    }
}

fn entered(grant: GrantId) -> Event {
    let leg = Leg {
        serial: 1,
        key: key(),
        valid_after: AT - 60,
        valid_before: AT + 600,
        source: vec!["127.0.0.1/32".to_owned()],
        nonce: Digest::new([0; 32]),
        tbs_sha256: Digest::new([0; 32]),
    };
    let session = Session {
        id: SessionId::new([7; 16]),
        grant,
        person: "alice".parse().unwrap(),
        target: "web-07".parse().unwrap(),
        login: "deploy".parse().unwrap(),
        by_key: key(),
        opened_at: AT,
        end_asked_by: None,
        leg,
    };
    Event::SessionOpened { session: Box::new(session) }
}

/// Alice is inside under one grant, and has another one that lasts longer.
fn two(first: GrantId, second: Event) -> State {
    let mut state = State::default();
    for event in [Event::Begun(Box::new(genesis())), opened(first, 600, 600), second, entered(first)] {
        apply(&mut state, event);
    }
    state
}

/// What a wall clock that is so far ahead does.
fn ahead(state: &mut State, drift_s: i64) -> Vec<Event> {
    let now = Now { at: AT + 10, beside: &Nothing };
    let events = decide(state, &Command::Clock { drift_s, synchronised: false }, now).unwrap();
    state.last_at = now.at;
    events.iter().cloned().for_each(|event| apply(state, event));
    assert!(state.indexes_hold(), "{events:#?}");
    events
}

fn ids() -> [[GrantId; 2]; 2] {
    let (low, high) = (GrantId::new([1; 16]), GrantId::new([2; 16]));
    [[low, high], [high, low]]
}

#[test]
fn a_clock_that_is_ahead_moves_no_session_into_a_grant_that_it_ends() {
    let moved = |events: &[Event]| events.iter().any(|e| matches!(e, Event::SessionMoved { .. }));
    for [first, second] in ids() {
        // Both end by that clock; or the second was not used in time by it.
        for (other, drift_s) in [(opened(second, 1200, 1200), 3600), (opened(second, 7200, 1800), 3600)] {
            let mut state = two(first, other);
            let events = ahead(&mut state, drift_s);
            assert!(!moved(&events), "{events:#?}");
            assert!(state.grants.get(&second).unwrap().over(), "{events:#?}");
            assert!(matches!(state.grants.get(&first).unwrap().state, GrantState::Ending { .. }), "{events:#?}");
            let again = ahead(&mut state, drift_s);
            assert!(!moved(&again) && state.grants.get(&second).unwrap().over(), "what is over stays over");
        }
        // The second goes on by either clock.
        let mut state = two(first, opened(second, 7200, 7200));
        assert!(moved(&ahead(&mut state, 3600)));
        assert_eq!(state.grants.get(&second).unwrap().state, GrantState::Active);
        assert!(state.grants.get(&first).unwrap().over());
    }
}
