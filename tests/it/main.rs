//! The one integration binary: the built program against real ssh and sshd.
#![allow(clippy::unwrap_used)]

mod accounts;
mod bad_input;
mod doors;
mod help;
mod hook;
mod house;
mod model;
mod story;
mod trust;
mod world;
