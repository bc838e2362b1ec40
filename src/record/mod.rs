//! Recordings of sessions: what passed a gateway, in the order and at the time it passed.
//!
//! True here: bytes are in the recorder before they are forwarded; what is on the disk is a chain of hashes, whose last link the log
//! keeps for ever; a recording that cannot be written ends its session. Never here: blocking on the disk in a worker of the runtime, a
//! name that a client chose, keystrokes that the terminal did not show.
//! Start at [`Store::begin`] and [`Recorder::put`]; [`mod@format`] has the bytes of a file.

mod error;
pub mod export;
mod folder;
pub mod format;
mod frame;
mod index;
mod live;
mod reader;
pub mod screen;
mod store;
mod typed;
mod utf8;
mod writer;

pub use error::RecordError;
pub use format::{Broken, Decoder};
pub use frame::{Frame, Header, Stamped, Stored};
pub use index::Found;
pub use live::Recorder;
pub use reader::Reader;
pub use store::Store;
pub use writer::written_bytes;
