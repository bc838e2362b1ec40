//! The Merkle tree of RFC 6962 section 2.1: hashes, roots and proofs, without a store.
//!
//! True here: pure arithmetic on hashes. What never happens here: no panic on any proof, however long or wrong. Start at [`Frontier`].

use sha2::{Digest as _, Sha256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// A proof that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the proof does not fit the roots")]
pub struct ProofError;

/// Hashes a leaf: SHA-256 of 0x00 and its bytes.
pub fn leaf_hash(bytes: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(bytes).finalize().into()
}

/// Hashes two nodes: SHA-256 of 0x01, left, right.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of a tree without leaves.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The right edge of a tree: enough to add leaves and to know the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// Roots of the complete subtrees, largest first: one for each bit of `size`.
    edge: Vec<Hash>,
}

impl Frontier {
    /// A tree without leaves.
    pub fn empty() -> Self {
        Self::default()
    }

    /// How many leaves there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds the hash of a leaf.
    pub fn push(&mut self, leaf: Hash) {
        self.push_nodes(leaf, |_, _, _| {});
    }

    /// Adds the hash of a leaf and shows every subtree that it completes: height (1 has two leaves), index on that height, hash.
    pub fn push_nodes(&mut self, leaf: Hash, mut completed: impl FnMut(u32, u64, &Hash)) {
        let (mut hash, mut index, mut height) = (leaf, self.size, 0);
        // INVARIANT: `edge` has one hash for each bit of `size`, so every carry finds its left half.
        while index & 1 == 1
            && let Some(left) = self.edge.pop()
        {
            hash = node_hash(&left, &hash);
            index >>= 1;
            height += 1;
            completed(height, index, &hash);
        }
        self.edge.push(hash);
        self.size += 1;
    }

    /// Writes the frontier: the size as 8 bytes, big-endian, then the hashes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.size.to_be_bytes().to_vec();
        out.extend(self.edge.iter().flatten());
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// When the length does not fit the size.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProofError> {
        let (size, hashes) = bytes.split_first_chunk::<8>().ok_or(ProofError)?;
        let (edge, rest) = hashes.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(ProofError);
        }
        Self::of_edge(u64::from_be_bytes(*size), edge.to_vec())
    }

    /// A frontier of known subtrees, largest first.
    pub(super) fn of_edge(size: u64, edge: Vec<Hash>) -> Result<Self, ProofError> {
        let fits = edge.len() == size.count_ones() as usize && size <= i64::MAX as u64;
        if fits { Ok(Self { size, edge }) } else { Err(ProofError) }
    }

    /// The root.
    pub fn root(&self) -> Hash {
        let mut edges = self.edge.iter().rev();
        let Some(last) = edges.next() else { return empty_root() };
        edges.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// The largest power of two below `n`, for `n > 1`.
fn split(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

/// The hashes that an inclusion proof needs, as half-open ranges of leaves, lowest first (RFC 6962 section 2.1.1).
pub fn inclusion_ranges(seq: u64, size: u64) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    let (mut from, mut to) = (0, size);
    while to - from > 1 {
        let middle = from + split(to - from);
        if seq < middle {
            out.push((middle, to));
            to = middle;
        } else {
            out.push((from, middle));
            from = middle;
        }
    }
    out.reverse();
    out
}

/// The hashes that a consistency proof needs, as half-open ranges of leaves (RFC 6962 section 2.1.2).
pub fn consistency_ranges(old: u64, new: u64) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    if old == 0 || old >= new {
        return out;
    }
    let (mut from, mut to) = (0, new);
    let mut whole = true;
    loop {
        if old == to {
            if !whole {
                out.push((from, to));
            }
            break;
        }
        let middle = from + split(to - from);
        if old <= middle {
            out.push((middle, to));
            to = middle;
        } else {
            out.push((from, middle));
            from = middle;
            whole = false;
        }
    }
    out.reverse();
    out
}

/// Checks that a leaf is in a tree (RFC 9162 section 2.1.3.2).
///
/// # Errors
/// When it is not, or the proof has another length than it must have.
pub fn verify_inclusion(leaf: Hash, seq: u64, size: u64, proof: &[Hash], root: Hash) -> Result<(), ProofError> {
    if seq >= size {
        return Err(ProofError);
    }
    let (mut index, mut last) = (seq, size - 1);
    let mut hash = leaf;
    for node in proof {
        if last == 0 {
            return Err(ProofError);
        }
        if index & 1 == 1 || index == last {
            hash = node_hash(node, &hash);
            while index & 1 == 0 && index != 0 {
                index >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, node);
        }
        index >>= 1;
        last >>= 1;
    }
    if last == 0 && hash == root { Ok(()) } else { Err(ProofError) }
}

/// Checks that one tree is the beginning of another (RFC 9162 section 2.1.4.2).
///
/// # Errors
/// When it is not, or the proof has another length than it must have.
pub fn verify_consistency(
    from_size: u64,
    from_root: Hash,
    to_size: u64,
    to_root: Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if from_size > to_size {
        return Err(ProofError);
    }
    if from_size == to_size {
        return if from_root == to_root && proof.is_empty() { Ok(()) } else { Err(ProofError) };
    }
    if from_size == 0 {
        return if from_root == empty_root() && proof.is_empty() { Ok(()) } else { Err(ProofError) };
    }
    let mut nodes = proof.iter();
    let (mut index, mut last) = (from_size - 1, to_size - 1);
    while index & 1 == 1 {
        index >>= 1;
        last >>= 1;
    }
    let first = if from_size.is_power_of_two() { from_root } else { *nodes.next().ok_or(ProofError)? };
    let (mut old, mut new) = (first, first);
    for node in nodes {
        if last == 0 {
            return Err(ProofError);
        }
        if index & 1 == 1 || index == last {
            old = node_hash(node, &old);
            new = node_hash(node, &new);
            while index & 1 == 0 && index != 0 {
                index >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, node);
        }
        index >>= 1;
        last >>= 1;
    }
    if last == 0 && old == from_root && new == to_root { Ok(()) } else { Err(ProofError) }
}
