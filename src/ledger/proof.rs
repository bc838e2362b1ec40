//! Which subtrees a proof consists of, and how the hash of one is put together from stored hashes.
//!
//! True here: pure arithmetic; the hashes come from the store. What never happens here: no recursion deeper than 64.
//! Start at [`inclusion_spans`].

use super::tree::{Hash, node_hash};

/// Leaves `from..to` of the log, a subtree of RFC 6962: `from` is a multiple of a power of two that is at least its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: u64,
    pub(super) to: u64,
}

/// A run of stored hashes of one level: level 0 are leaves, level `n` complete subtrees of 256 to the `n` leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) level: u32,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// The largest power of two below `n`; `n` is at least 2.
fn split(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

/// Lists the subtrees of an inclusion proof, nearest the leaf first (RFC 6962, section 2.1.1).
pub(super) fn inclusion_spans(seq: u64, size: u64) -> Vec<Span> {
    let (mut from, mut to, mut spans) = (0, size, Vec::new());
    while to - from > 1 {
        let middle = from + split(to - from);
        if seq < middle {
            spans.push(Span { from: middle, to });
            to = middle;
        } else {
            spans.push(Span { from, to: middle });
            from = middle;
        }
    }
    spans.reverse();
    spans
}

/// Lists the subtrees of a consistency proof (RFC 6962, section 2.1.2); `0 < old <= size`.
pub(super) fn consistency_spans(old: u64, size: u64) -> Vec<Span> {
    let (mut from, mut to, mut spans, mut whole) = (0, size, Vec::new(), true);
    while old != to {
        let middle = from + split(to - from);
        if old <= middle {
            spans.push(Span { from: middle, to });
            to = middle;
        } else {
            spans.push(Span { from, to: middle });
            from = middle;
            whole = false;
        }
    }
    if !whole {
        spans.push(Span { from, to });
    }
    spans.reverse();
    spans
}

/// Cuts a span into runs of the highest stored levels, left to right.
pub(super) fn runs(span: Span) -> Vec<Run> {
    let (mut at, mut out) = (span.from, Vec::new());
    while at < span.to {
        let mut level = 0;
        while level < 7 && at.is_multiple_of(256 << (8 * level)) && at + (256 << (8 * level)) <= span.to {
            level += 1;
        }
        let width = 1_u64 << (8 * level);
        // On this level to the end, or to where a larger subtree begins.
        let mut count = (span.to - at) / width;
        if level < 7 {
            let next = at.next_multiple_of(width << 8);
            if next > at && next < span.to {
                count = count.min((next - at) / width);
            }
        }
        out.push(Run { level, from: at / width, to: at / width + count });
        at += count * width;
    }
    out
}

/// Puts the hash of a span together from hashes of complete subtrees, left to right.
#[derive(Debug, Default)]
pub(super) struct SpanHash {
    nodes: Vec<(Hash, u64)>,
}

impl SpanHash {
    pub(super) fn push(&mut self, hash: Hash, leaves: u64) {
        let (mut hash, mut leaves) = (hash, leaves);
        while let Some((left, width)) = self.nodes.pop() {
            if width != leaves {
                self.nodes.push((left, width));
                break;
            }
            hash = node_hash(&left, &hash);
            leaves *= 2;
        }
        self.nodes.push((hash, leaves));
    }

    pub(super) fn finish(self) -> Option<Hash> {
        self.nodes.into_iter().rev().map(|(hash, _)| hash).reduce(|right, left| node_hash(&left, &right))
    }

    /// The complete subtrees, largest first: the frontier of a span that begins at leaf 0.
    pub(super) fn nodes(self) -> Vec<Hash> {
        self.nodes.into_iter().map(|(hash, _)| hash).collect()
    }
}
