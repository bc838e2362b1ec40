//! The SSH gateway: real ssh, scp, sftp, rsync and git through it to a real sshd.

mod admit;
mod allow;
mod ansible;
mod asking;
mod bounds;
mod ends;
mod host;
mod lost;
mod strangers;
mod terminal;
mod unproved;
mod ways;
mod wire;
pub mod world;
