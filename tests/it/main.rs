//! The one integration binary: the built program against real ssh and sshd.
#![allow(clippy::unwrap_used)]

mod apart;
mod bad_input;
mod doors;
mod full;
mod help;
mod hook;
mod house;
mod kill;
mod model;
mod served;
mod story;
mod tampered;
mod trust;
mod world;
