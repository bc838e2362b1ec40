//! The operator's three files and a condition: no panic; every mistake is a list of problems; a condition is a tree of bounded depth.
#![no_main]
use jit_broker::domain::bundle::{Bundle, BundleText};
use jit_broker::domain::cel::Condition;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|files: (String, String, String)| {
    let (people, targets, policy) = files;
    let _ = Condition::compile(&policy);
    let files = [("people.toml", people), ("targets.toml", targets), ("policy.toml", policy)];
    let files = files.map(|(name, text)| (name.to_owned(), text)).into();
    if let Err(problems) = Bundle::parse(&BundleText { files }, &[]) {
        assert!(!problems.is_empty());
    }
});
