//! Access to a real PostgreSQL through a real broker: from the ask to the proof that it is over.

mod cert;
mod crash;
mod ends;
mod faults;
mod links;
mod owned;
mod password;
mod secrets;
mod sweep;
mod world;
