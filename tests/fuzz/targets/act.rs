//! Signed acts: only bytes that would be written the same are read (decisions.md 4).
#![no_main]
use jit_broker::domain::act::SignedAct;
use jit_broker::ledger::SignedNote;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let signed = SignedAct { act: text.to_owned(), signature: String::new() };
    if let Ok(act) = signed.read() {
        assert_eq!(act.bytes().ok().as_deref(), Some(text.as_bytes()));
    }
    let _ = SignedNote::open(text, "host/audit/x/e1", &[7; 32]);
});
