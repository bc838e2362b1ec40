//! The ways in.

use jit_broker::domain::session::SessionCause;

use super::world::{Gw, TARGET};
use crate::world::Done;

#[test]
fn a_certificate_opens_its_target_and_what_passed_is_recorded() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let done = world.ssh(&pass, &["echo out; echo err >&2; exit 7"]);
    assert_eq!((done.code, done.out.as_str()), (Some(7), "out\n"), "{done:?}");
    assert!(done.err.contains("err\n"), "{done:?}");
    let (session, end) = world.end(pass.grant);
    assert_eq!(end.cause, SessionCause::Closed);
    assert_eq!((end.bytes_in, end.bytes_out), (0, 8));
    let frames = format!("{:?}", world.recorded(session, &end));
    assert!(frames.contains("echo out") || frames.contains("Open"), "{frames}");
    let _ = TARGET;
    let _: Option<Done> = None;
}
