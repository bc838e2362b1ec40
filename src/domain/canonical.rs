//! The form of canonical JSON: checked while it is read, without a tree of it.
//!
//! True here: what was read is written again at once and compared, so that only the one way of writing passes. What never happens here: a
//! value is used. Start at [`check`].

use std::borrow::Cow;
use std::fmt;
use std::io::{self, ErrorKind, Write};

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use super::digest::CanonicalError;

/// Checks that bytes are JSON as [`super::digest::canonical`] writes it: keys sorted by their bytes and none twice, no spaces, integers of 64
/// bits only, no escape that need not be.
///
/// # Errors
/// [`CanonicalError::Shape`] for what is no JSON, [`CanonicalError::Form`] for JSON that is written in another way.
pub fn check(bytes: &[u8]) -> Result<(), CanonicalError> {
    let mut rest = Rest(bytes);
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let read = Next(&mut rest).deserialize(&mut from).and_then(|()| from.end());
    match read {
        Ok(()) if rest.0.is_empty() => Ok(()),
        Err(error) if error.classify() != Category::Data => Err(CanonicalError::Shape(error.to_string())),
        _ => Err(CanonicalError::Form),
    }
}

/// What of the text is still to be written again.
struct Rest<'a>(&'a [u8]);

impl Write for Rest<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.strip_prefix(bytes).ok_or(ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Rest<'_> {
    /// Writes a number, a text, `true`, `false` or `null`.
    fn scalar<E: Error>(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), E> {
        serde_json::to_writer(self, value).map_err(E::custom)
    }

    fn mark<E: Error>(&mut self, mark: &str) -> Result<(), E> {
        self.write_all(mark.as_bytes()).map_err(E::custom)
    }
}

/// The next value of the text.
struct Next<'r, 'a>(&'r mut Rest<'a>);

impl<'de> DeserializeSeed<'de> for Next<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Next<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer, a text, a list or an object")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.0.scalar(&())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.0.scalar(&value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.0.scalar(&value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.0.scalar(&value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.0.scalar(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.0.mark("[")?;
        let mut before = "";
        while items.next_element_seed(Item(before, self.0))?.is_some() {
            before = ",";
        }
        self.0.mark("]")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.0.mark("{")?;
        let mut before: Option<Cow<'de, str>> = None;
        while let Some(key) = items.next_key_seed(Name)? {
            match &before {
                Some(before) if **before >= *key => return Err(Error::custom("keys are not in order")),
                Some(_) => self.0.mark(",")?,
                None => {}
            }
            self.0.scalar(&*key)?;
            self.0.mark(":")?;
            items.next_value_seed(Next(self.0))?;
            before = Some(key);
        }
        self.0.mark("}")
    }
}

/// An item of a list, and the mark before it.
struct Item<'r, 'a>(&'static str, &'r mut Rest<'a>);

impl<'de> DeserializeSeed<'de> for Item<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        self.1.mark(self.0)?;
        Next(self.1).deserialize(from)
    }
}

/// An object's key.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::domain::digest::{canonical, read_canonical};

    const GOOD: &str =
        r#"{"":[],"a":1,"b":["x",null,true,{}],"c":{"k":-7,"l":"\n\u0001ü\"\\/"},"d":18446744073709551615,"é":[[0]]}"#;

    /// The same by way of a tree.
    fn by_tree(bytes: &[u8]) -> Option<Value> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        (canonical(&value).ok()? == bytes).then_some(value)
    }

    #[test]
    fn only_one_way_of_writing_is_read() {
        assert_eq!(read_canonical::<Value>(GOOD.as_bytes()).ok(), by_tree(GOOD.as_bytes()));
        assert!(by_tree(GOOD.as_bytes()).is_some());
        for (other, form) in [
            (r#"{"b":["x",null,true],"a":1}"#, true),
            (r#"{"a": 1,"b":["x",null,true]}"#, true),
            (r#" {"a":1}"#, true),
            (r#"{"a":1} "#, true),
            (r#"[1, 2]"#, true),
            (r#"{"a":1,"a":1}"#, true),
            (r#"{"a":{"b":1,"b":2}}"#, true),
            (r#"["\u0078"]"#, true),
            (r#"["\/"]"#, true),
            (r#"["\u000a"]"#, true),
            (r#"{"\u0061":1}"#, true),
            (r#"{"a":1.0}"#, true),
            (r#"{"a":1e0}"#, true),
            (r#"{"a":99999999999999999999}"#, true),
            (r#"{"a":-9223372036854775809}"#, true),
            (r#"{"a":-0}"#, true),
            (r#"{"a":01}"#, false),
            (r#"{"a":1,}"#, false),
            (r#"[1,]"#, false),
            (r#"{"a":1}{"#, false),
            (r#"{"a":1"#, false),
            ("", false),
        ] {
            let error = check(other.as_bytes()).unwrap_err();
            assert_eq!(error == CanonicalError::Form, form, "{other}: {error}");
            assert_eq!(by_tree(other.as_bytes()), None, "{other}");
        }
        assert!(matches!(check(b"[\"\xff\"]"), Err(CanonicalError::Shape(_))));
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        assert!(matches!(check(deep.as_bytes()), Err(CanonicalError::Shape(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        /// Whatever is done to a text, it is judged as by a tree of it that is written again.
        #[test]
        fn a_changed_text_is_judged_as_by_its_tree(edits in proptest::collection::vec((0..GOOD.len(), 0..4_u8, any::<prop::sample::Index>()), 0..4)) {
            let mut text = GOOD.as_bytes().to_vec();
            for (at, what, of) in edits {
                let at = at.min(text.len().saturating_sub(1));
                let (piece, byte) = (GOOD.as_bytes()[of.index(GOOD.len())], of.index(256) as u8);
                match what {
                    0 => text[at] = piece,
                    1 => text.insert(at, piece),
                    2 => drop(text.remove(at)),
                    _ => text[at] = byte,
                }
            }
            let told = read_canonical::<Value>(&text);
            prop_assert_eq!(told.ok(), by_tree(&text), "{}", String::from_utf8_lossy(&text));
        }
    }
}
