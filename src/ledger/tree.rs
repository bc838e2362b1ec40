//! The Merkle tree of RFC 6962, section 2.1: hashes, the frontier of a growing tree, and the checks of proofs.
//!
//! True here: every function is pure. What never happens here: no I/O, no panic on any proof, however long or wrong.
//! Start at [`Frontier`], then [`verify_inclusion`].

use sha2::{Digest, Sha256};

/// A SHA-256 value: of a leaf, a node or a blob.
pub type Hash = [u8; 32];

/// Why a proof does not show what it claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The positions make no sense: an index outside the tree, or a tree that shrinks.
    #[error("the index or the sizes are out of range")]
    Range,
    /// The proof has too few or too many hashes.
    #[error("the proof has the wrong length")]
    Length,
    /// The hashes do not lead to the root.
    #[error("the proof leads to another root")]
    Root,
}

/// The bytes of an encoded frontier are not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an encoded frontier")]
pub struct FrontierError;

/// Hashes a leaf: SHA-256 of 0x00 and the bytes (RFC 6962, section 2.1).
pub fn leaf_hash(bytes: &[u8]) -> Hash {
    Sha256::new().chain_update([0x00]).chain_update(bytes).finalize().into()
}

/// Hashes an inner node: SHA-256 of 0x01, the left and the right child (RFC 6962, section 2.1).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([0x01]).chain_update(left).chain_update(right).finalize().into()
}

/// Hashes a blob: plain SHA-256, without a prefix.
pub fn blob_hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The roots of the complete subtrees of a tree, largest first: all that is needed to make it grow.
///
/// INVARIANT: `nodes.len()` is the number of set bits of `size`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    nodes: Vec<Hash>,
}

impl Frontier {
    /// Starts with the tree without leaves.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Adds the hash of the next leaf.
    pub fn push(&mut self, leaf: Hash) {
        self.push_seen(leaf, &mut |_, _, _| {});
    }

    /// Adds the hash of the next leaf and reports every subtree that it completes: height (1 is two leaves), index among
    /// the subtrees of that height, hash.
    pub(super) fn push_seen(&mut self, leaf: Hash, seen: &mut dyn FnMut(u32, u64, &Hash)) {
        let mut node = leaf;
        for height in 1..=self.size.trailing_ones() {
            let Some(left) = self.nodes.pop() else { break };
            node = node_hash(&left, &node);
            seen(height, self.size >> height, &node);
        }
        self.nodes.push(node);
        self.size = self.size.saturating_add(1);
    }

    /// Tells how many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Computes the root; that of the empty tree is the SHA-256 of nothing (RFC 6962, section 2.1).
    pub fn root(&self) -> Hash {
        let mut nodes = self.nodes.iter().rev();
        let Some(last) = nodes.next() else { return empty_root() };
        nodes.fold(*last, |right, left| node_hash(left, &right))
    }

    /// Writes the size (8 bytes, big endian) and the nodes, largest subtree first.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.size.to_be_bytes().to_vec();
        out.extend(self.nodes.iter().flatten());
        out
    }

    /// Reads what [`Frontier::encode`] wrote.
    ///
    /// # Errors
    /// [`FrontierError`] unless the length is exactly that of the size, and the size fits a store (63 bits).
    pub fn decode(bytes: &[u8]) -> Result<Self, FrontierError> {
        let (size, rest) = bytes.split_first_chunk::<8>().ok_or(FrontierError)?;
        let (nodes, tail) = rest.as_chunks::<32>();
        if !tail.is_empty() {
            return Err(FrontierError);
        }
        Self::from_parts(u64::from_be_bytes(*size), nodes.to_vec()).ok_or(FrontierError)
    }

    /// Takes the roots of the complete subtrees, largest first, if they are as many as `size` has.
    pub(super) fn from_parts(size: u64, nodes: Vec<Hash>) -> Option<Self> {
        let fits = nodes.len() == size.count_ones() as usize && i64::try_from(size).is_ok();
        fits.then_some(Self { size, nodes })
    }
}

/// Checks that the leaf with this hash stands at `seq` in the tree of `size` leaves (RFC 9162, section 2.1.3.2).
///
/// # Errors
/// [`ProofError`]; nothing may be concluded then.
pub fn verify_inclusion(leaf: Hash, seq: u64, size: u64, proof: &[Hash], root: Hash) -> Result<(), ProofError> {
    if seq >= size {
        return Err(ProofError::Range);
    }
    let (mut index, mut last, mut node) = (seq, size - 1, leaf);
    for sibling in proof {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if index & 1 == 1 || index == last {
            node = node_hash(sibling, &node);
            skip_missing_siblings(&mut index, &mut last);
        } else {
            node = node_hash(&node, sibling);
        }
        index >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofError::Length);
    }
    if node == root { Ok(()) } else { Err(ProofError::Root) }
}

/// A node at the right edge may be alone on its level: it moves up until it is somebody's right child.
fn skip_missing_siblings(index: &mut u64, last: &mut u64) {
    while *index & 1 == 0 && *index != 0 {
        *index >>= 1;
        *last >>= 1;
    }
}

/// Checks that the tree of `to_size` begins with the tree of `from_size` (RFC 9162, section 2.1.4.2).
///
/// Every tree begins with the empty one, and with itself: the proof is empty then.
///
/// # Errors
/// [`ProofError`]; nothing may be concluded then.
pub fn verify_consistency(
    from_size: u64,
    from_root: Hash,
    to_size: u64,
    to_root: Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if from_size > to_size {
        return Err(ProofError::Range);
    }
    if from_size == to_size || from_size == 0 {
        let known = if from_size == to_size { to_root } else { empty_root() };
        return match (proof.is_empty(), from_root == known) {
            (false, _) => Err(ProofError::Length),
            (true, false) => Err(ProofError::Root),
            (true, true) => Ok(()),
        };
    }
    // Where the old tree is one complete subtree of the new one its root is left out of the proof.
    let (start, rest) = if from_size.is_power_of_two() {
        (from_root, proof)
    } else {
        let (first, rest) = proof.split_first().ok_or(ProofError::Length)?;
        (*first, rest)
    };
    let (mut index, mut last) = (from_size - 1, to_size - 1);
    let shift = index.trailing_ones();
    index >>= shift;
    last >>= shift;
    let (mut old, mut new) = (start, start);
    for sibling in rest {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if index & 1 == 1 || index == last {
            old = node_hash(sibling, &old);
            new = node_hash(sibling, &new);
            skip_missing_siblings(&mut index, &mut last);
        } else {
            new = node_hash(&new, sibling);
        }
        index >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofError::Length);
    }
    if old == from_root && new == to_root { Ok(()) } else { Err(ProofError::Root) }
}
