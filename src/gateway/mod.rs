//! The gateways: what people's own programs connect to instead of the target.
//!
//! True here: every byte is in the recorder before it goes on; nothing goes on once the lease is over.
//! Never here: decisions about access (those are the broker's), keys of the broker.
//! Start with [`ssh::serve`].

pub mod ssh;
