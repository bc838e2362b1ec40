//! The SSH gateway: real ssh, scp, sftp, rsync and git through it to a real sshd.

mod ways;
mod world;
