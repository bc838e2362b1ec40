//! One session behind a connection: opened in the log, recorded, cut at its end.
//!
//! [`live`] begins and ends it, [`channel`] and [`forward`] open what the person asks for, [`upstream`] reaches the target, [`relay`] passes
//! the bytes and [`tape`] records them first. [`sftp`] reads what happens to files, from [`packets`]; it is pure.
//! A target that takes nothing costs a file ([`backlog`]) and room of its connection ([`throttle`]), and nobody else's time.

mod backlog;
pub(super) mod channel;
pub(super) mod forward;
pub(super) mod live;
mod packets;
mod relay;
mod screen;
mod sender;
pub mod sftp;
mod tape;
mod throttle;
pub(super) mod upstream;
