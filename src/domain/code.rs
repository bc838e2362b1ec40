//! The match code: two words by which people recognise a request on every channel.

use super::digest::Digest;

const FIRST: [&str; 64] = [
    "amber", "ample", "azure", "basic", "brave", "brisk", "broad", "calm", "civic", "clear", "coral", "crisp",
    "dapper", "deep", "early", "even", "fair", "fine", "firm", "fresh", "gentle", "glad", "golden", "grand", "green",
    "happy", "hazel", "honest", "indigo", "ivory", "jolly", "keen", "kind", "late", "lemon", "light", "lively",
    "lucky", "maple", "mellow", "merry", "mild", "misty", "modest", "neat", "noble", "olive", "pearl", "plain", "plum",
    "proud", "quick", "quiet", "rapid", "royal", "ruby", "silver", "sleek", "solid", "steady", "sunny", "tidy",
    "vivid", "warm",
];
const SECOND: [&str; 64] = [
    "acorn", "anchor", "apple", "badger", "barley", "basket", "beacon", "beetle", "birch", "bridge", "canyon",
    "castle", "cedar", "comet", "cricket", "daisy", "dolphin", "falcon", "feather", "fern", "finch", "forest",
    "fossil", "garden", "glacier", "harbor", "heron", "island", "jasmine", "kettle", "lantern", "lark", "lily",
    "lotus", "magnet", "marble", "meadow", "nectar", "nutmeg", "orchid", "otter", "owl", "pebble", "pepper", "pigeon",
    "planet", "poplar", "quartz", "rabbit", "raven", "reef", "river", "rocket", "saddle", "salmon", "sparrow",
    "thistle", "tiger", "timber", "tulip", "violet", "walnut", "willow", "zebra",
];

/// How many codes there are.
pub const CODES: u32 = 64 * 64;

/// The `n`-th code that a digest proposes; the broker takes the first that no open request has.
pub fn match_code(digest: &Digest, n: u32) -> String {
    let bytes = digest.as_bytes();
    let (tail, _) = bytes.split_at(8);
    let seed = tail.iter().fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
    let pick = seed.wrapping_add(u64::from(n)) % (64 * 64);
    let first = FIRST.get((pick / 64) as usize).copied().unwrap_or("plain");
    let second = SECOND.get((pick % 64) as usize).copied().unwrap_or("pebble");
    format!("{first}-{second}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_differ_until_all_are_used() {
        let digest = Digest::of(b"x");
        let all: std::collections::BTreeSet<_> = (0..4096).map(|n| match_code(&digest, n)).collect();
        assert_eq!(all.len(), 4096);
    }
}
