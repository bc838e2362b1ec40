#![allow(clippy::unwrap_used)]
use super::*;
use crate::domain::digest::{canonical, read_canonical};
use crate::domain::state::{Beside, State};

struct Nothing;

impl Beside for Nothing {
    fn words(&self, _: &Digest) -> Option<crate::domain::text::Words> {
        None
    }

    fn bundle(&self, _: &Digest) -> Option<std::sync::Arc<crate::domain::bundle::Bundle>> {
        None
    }
}

#[test]
fn a_list_of_a_hundred_thousand_serials_is_a_small_entry_and_the_old_form_is_still_read() {
    let old = br#"{"kind":"krl.published","serials":[3,5],"version":7}"#;
    let event: Event = read_canonical(old).unwrap();
    assert_eq!(event, Event::KrlPublished { version: 7, serials: vec![3, 5], listed: None });
    let mut state = State::default();
    let entry = |event| Entry { v: 1, seq: 0, at: 1000, boot: Boot { id: String::new(), ms: 0 }, cause: None, event };
    state.apply(&entry(event), &Nothing);
    assert_eq!(state.krl.serials, BTreeSet::from([3, 5]));
    state.revoked = (1..=100_000).map(|serial| (serial, 5000)).collect();
    state.revoked.insert(200_000, 950);
    let now = crate::domain::decide::Now { at: 1000, beside: &Nothing };
    let genesis = Genesis {
        x509_client: None,
        ssh_gateway: None,
        install: InstallId::new([0; 16]),
        admins: BTreeMap::new(),
        log_key: key(),
        ssh_user: key(),
        ssh_host: key(),
        x509_server: String::new(),
    };
    state.genesis = Some(std::sync::Arc::new(genesis));
    let next = crate::domain::decide::decide(&state, &Command::PublishKrl, now).unwrap();
    assert!(canonical(&next).unwrap().len() < 300);
    state.apply(&entry(next.into_iter().next().unwrap()), &Nothing);
    assert_eq!((state.krl.version, state.krl.serials.len()), (8, 100_001), "200,000 is inside the skew");
}

fn key() -> Key {
    Key(jit_ca::key::PrivateKey::from_seed([1; 32]).public().clone())
}
