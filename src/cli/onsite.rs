//! What is done with the broker's own files, on its machine.

pub use crate::daemon::folded;
pub use crate::daemon::reset::reset;
