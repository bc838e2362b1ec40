//! Faults of the machine below the built program, by force: every write that can fail fails once, and the clocks are set (shim.c).
//!
//! `JIT_FAULT_STRIDE=1` has each single write fail and not a few of them; `JIT_FAULT_AT=n` that one alone.

mod clocks;
mod closing;
mod nth;
mod page;
pub mod site;
