//! UTF-8 that comes in pieces; pure.

/// Joins characters that are split between pieces; what is no UTF-8 becomes U+FFFD.
#[derive(Debug, Clone, Default)]
pub struct Utf8 {
    part: Vec<u8>,
}

impl Utf8 {
    /// Takes the next bytes; gives the text that is whole.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let joined;
        let mut rest = bytes;
        if !self.part.is_empty() {
            joined = [self.part.as_slice(), bytes].concat();
            self.part.clear();
            rest = &joined;
        }
        let mut out = String::with_capacity(rest.len());
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    return out;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    out.push_str(std::str::from_utf8(good).unwrap_or_default());
                    let Some(length) = error.error_len() else {
                        self.part.extend_from_slice(bad);
                        return out;
                    };
                    out.push('\u{fffd}');
                    rest = &bad[length..];
                }
            }
        }
    }

    /// The end: what is not whole by now never will be.
    pub fn finish(&mut self) -> &'static str {
        if std::mem::take(&mut self.part).is_empty() { "" } else { "\u{fffd}" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_mean_what_the_whole_means(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xe2), Just(0x82), Just(0xac), Just(0xf0)], 0..60), cut in 1usize..7) {
            let mut utf8 = Utf8::default();
            let mut text: String = bytes.chunks(cut).map(|piece| utf8.push(piece)).collect();
            text.push_str(utf8.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
