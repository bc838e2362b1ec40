//! The SSH gateway: real ssh, scp, sftp, rsync and git through it to a real sshd.

mod admit;
mod allow;
mod asking;
mod bounds;
mod ends;
mod host;
mod strangers;
mod ways;
mod world;
