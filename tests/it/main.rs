//! The one integration binary: the built program against real ssh and sshd.
#![allow(clippy::unwrap_used)]

mod accounts;
mod attacks;
mod bad_input;
mod databases;
mod decisions;
mod doors;
mod enroll;
mod gate;
mod help;
mod hook;
mod house;
mod model;
mod slow;
mod snapshot;
mod story;
mod terminal;
mod trust;
mod world;
