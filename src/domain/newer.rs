//! What a newer version of this program wrote, told apart from what is damaged.

use super::event::{Command, ENTRY_VERSION, Entry, Event};

impl Entry {
    /// True for bytes that a newer version of this program must have written: it has a version, or a kind, that this one does not know.
    pub fn is_newer(bytes: &[u8]) -> bool {
        let Ok(entry) = serde_json::from_slice::<serde_json::Value>(bytes) else { return false };
        let version = entry.get("v").and_then(serde_json::Value::as_u64);
        let known = |field: &str, tag: &str| {
            let Some(word) = entry.get(field).and_then(|of| of.get(tag)).and_then(|word| word.as_str()) else {
                return true;
            };
            // Of a kind that is known only its fields are missing here.
            let alone = serde_json::json!({ tag: word }).to_string();
            let tried = match field {
                "event" => serde_json::from_str::<Event>(&alone).err(),
                _ => serde_json::from_str::<Command>(&alone).err(),
            };
            tried.is_none_or(|error| !error.to_string().starts_with("unknown variant"))
        };
        version.is_some_and(|v| v > u64::from(ENTRY_VERSION)) || !known("event", "kind") || !known("cause", "command")
    }
}
