//! The one integration binary: the built program against real ssh and sshd.
#![allow(clippy::unwrap_used)]

mod accounts;
mod apart;
mod attacks;
mod audit;
mod bad_input;
mod clients;
mod database;
mod databases;
mod decisions;
mod doors;
mod enroll;
mod first_release;
mod full;
mod gate;
mod gateway;
mod help;
mod hook;
mod house;
mod kill;
mod model;
mod recorded;
mod recovery;
mod rotate;
mod served;
mod sessions;
mod slow;
mod snapshot;
mod story;
mod tampered;
mod terminal;
mod trust;
mod world;
