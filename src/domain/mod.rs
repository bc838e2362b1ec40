//! Facts and rules.
//!
//! True here: everything is a value; time, randomness and ids come in as arguments; the same input gives the same answer
//! in the daemon, in the signer and in a verifier years later.
//! Never here: IO, clocks, threads, async, SQL, HTTP.
//! Start with [`judge`] for what policy says, and with [`decide`] for what may happen next.

pub mod act;
pub mod authority;
pub mod bundle;
mod canonical;
#[cfg(feature = "server")]
pub mod cel;
#[cfg(not(feature = "server"))]
#[path = "cel_unread.rs"]
pub mod cel;
pub mod code;
pub mod codes;
pub mod concerns;
pub mod confirmed;
pub mod database;
pub mod decide;
pub mod digest;
pub mod epoch;
pub mod event;
pub mod grant;
pub mod ids;
pub mod index;
pub mod judge;
pub mod key;
mod kind;
pub mod names;
mod newer;
mod office;
pub mod person;
pub mod policy;
pub mod pool;
pub mod refusal;
pub mod request;
pub mod retire;
pub mod session;
pub mod shelf;
pub mod snapshot;
pub mod span;
pub mod state;
pub mod table;
pub mod target;
pub mod text;
