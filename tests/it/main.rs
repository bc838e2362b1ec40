//! The one integration binary: the built program against real ssh and sshd.
#![allow(clippy::unwrap_used)]

mod house;
mod story;
mod trust;
