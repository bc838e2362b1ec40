//! What happens when this program is wrong: a panic is counted, told by its place, and ends as little as it can.
//!
//! Never here: the data that the program was wrong about. The text of a panic is shown only where it stands in the source as it is.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// How often this process has panicked.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Has every panic counted and told, in one sentence without data. `spare` looks at it first, and may end the process in another way.
pub fn watch(
    spare: impl Fn(&PanicHookInfo<'_>) + Send + Sync + 'static,
    tell: impl Fn(String) + Send + Sync + 'static,
) {
    std::panic::set_hook(Box::new(move |panic| {
        spare(panic);
        PANICS.fetch_add(1, Ordering::Relaxed);
        tell(sentence(panic));
    }));
}

/// Runs something; nothing when it panicked.
pub fn caught<T>(run: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(run)).ok()
}

/// SECURITY (T158, F61): a text that was put together at run time may have a password or a token in it, so it is kept back; the place in
/// the source is enough to find the defect.
fn sentence(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    match panic.payload().downcast_ref::<&'static str>() {
        Some(text) => format!("A defect of jit-broker {} at {place}: {text}.", env!("CARGO_PKG_VERSION")),
        None => format!("A defect of jit-broker {} at {place}.", env!("CARGO_PKG_VERSION")),
    }
}
