//! The one integration binary: the built program against real ssh and sshd.
#![allow(clippy::unwrap_used)]

mod audit;
mod bad_input;
mod doors;
mod gate;
mod help;
mod hook;
mod house;
mod model;
mod story;
mod trust;
mod world;
