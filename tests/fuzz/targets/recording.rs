//! A recording's bytes, in pieces of any size: no panic, bounded memory, and what is read whole reads the same in other pieces.
#![no_main]
use jit_broker::record::{Decoder, Stamped};
use libfuzzer_sys::fuzz_target;

fn read(bytes: &[u8], step: usize) -> (Vec<Stamped>, bool) {
    let (mut decoder, mut out) = (Decoder::default(), Vec::new());
    for piece in bytes.chunks(step) {
        decoder.push(piece);
        loop {
            match decoder.chunk() {
                Ok(Some(frames)) => out.extend(frames),
                Ok(None) => break,
                Err(_) => return (out, false),
            }
        }
    }
    (out, true)
}

fuzz_target!(|bytes: &[u8]| {
    assert_eq!(read(bytes, 7), read(bytes, 4096));
});
