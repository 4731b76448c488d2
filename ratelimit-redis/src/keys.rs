//! Names of keys in the store: `{prefix}:v1:{tag}:{kind}{digest}`.
//!
//! The digest is 128 bits of BLAKE3 over the limit's id, its kind and the key's canonical bytes, so it is the
//! same on every replica and nobody can find two keys that share one. No byte of a client's stands in a name.
//! `v1` is the layout of the values: versions of this crate with different layouts never read each other's.
//! The kind is part of the name for the same reason. The tag in braces puts all keys of a partition into one
//! slot of a Cluster; see [`crate::partitions`].

use ratelimit_core::algorithm::Program;
use ratelimit_core::{Key, KeyBuf, Limit};
use smallvec::SmallVec;

/// Layout of the values; changes whenever `scripts/*.lua` change what they store.
pub(crate) const LAYOUT: &str = "v1";

/// What tells a key of a limit apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Digest([u8; 16]);

/// Length of a digest in a name.
const TEXT: usize = 22;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl Digest {
    pub(crate) fn of(limit: &Limit, key: Key<'_>) -> Self {
        let (lead, rest) = key.parts();
        // Everything before `rest` has a fixed length, so no two inputs run into each other.
        let mut input: SmallVec<[u8; 128]> = SmallVec::new();
        input.extend_from_slice(&limit.id().get().to_le_bytes());
        input.extend_from_slice(&[kind(limit), lead[0], lead[1]]);
        input.extend_from_slice(rest);
        // In one go: what hashes piece by piece is two kilobytes to set up.
        let hash = blake3::hash(&input);
        let mut digest = [0; 16];
        digest.iter_mut().zip(hash.as_bytes()).for_each(|(byte, &hashed)| *byte = hashed);
        Self(digest)
    }

    /// The one that was written as those bytes.
    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub(crate) const fn bytes(&self) -> [u8; 16] {
        self.0
    }

    /// A number spread evenly over all keys.
    pub(crate) fn spread(&self) -> u64 {
        let Self([a, b, c, d, e, f, g, h, ..]) = *self;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Writes it as a key of a store in this process.
    pub(crate) fn write_key(&self, key: &mut KeyBuf) {
        key.push_bytes(&self.0);
    }

    /// Appends it as 22 letters of base64url.
    fn write(&self, name: &mut Vec<u8>) {
        let mut number = u128::from_le_bytes(self.0);
        for _ in 0..TEXT {
            let letter = usize::try_from(number & 63).unwrap_or(0);
            name.push(ALPHABET.get(letter).copied().unwrap_or(b'A'));
            number >>= 6;
        }
    }
}

/// The letter of a limit's algorithm.
fn kind(limit: &Limit) -> u8 {
    match limit.program() {
        Program::TokenBucket(_) => b't',
        Program::SlidingWindow(_) => b's',
        Program::FixedWindow(_) => b'f',
        Program::Concurrency(_) => b'c',
        _ => b'?',
    }
}

/// Writes names of one partition.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    /// Everything up to the kind.
    head: Vec<u8>,
}

impl Names {
    pub(crate) fn new(prefix: &str, tag: &str) -> Self {
        Self { head: [prefix, ":", LAYOUT, ":{", tag, "}:"].concat().into_bytes() }
    }

    /// Appends the name of a key of `limit`; all have the same length.
    pub(crate) fn write(&self, limit: &Limit, digest: &Digest, names: &mut Vec<u8>) {
        names.extend_from_slice(&self.head);
        names.push(kind(limit));
        digest.write(names);
    }

    /// The length of every name.
    pub(crate) fn length(&self) -> usize {
        self.head.len() + 1 + TEXT
    }

    /// The name of something there is one of in a partition.
    pub(crate) fn single(&self, what: &str) -> Vec<u8> {
        [&self.head, what.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratelimit_core::{Algorithm, AsKey, Rate};

    fn digest(limit: &Limit, key: impl AsKey) -> Digest {
        let mut buffer = KeyBuf::new();
        key.encode(&mut buffer);
        Digest::of(limit, buffer.key())
    }

    /// Replicas of different versions must agree on names for as long as the layout is the same.
    #[test]
    fn names_never_change() {
        let limit = Limit::new("per-user", Rate::per_second(10));
        let mut name = Vec::new();
        Names::new("rl", "10").write(&limit, &digest(&limit, "ann"), &mut name);
        assert_eq!(String::from_utf8(name).unwrap(), "rl:v1:{10}:t4FNUZAErVV1YSL_BDdmCtD");
    }

    #[test]
    fn limits_kinds_and_keys_are_told_apart() {
        let a = Limit::new("a", Rate::per_second(1));
        let b = Limit::new("b", Rate::per_second(1));
        let sliding = a.algorithm(Algorithm::SlidingWindow);
        let seen = [
            digest(&a, "x"),
            digest(&b, "x"),
            digest(&sliding, "x"),
            digest(&a, ""),
            digest(&a, ()),
            digest(&a, ("x", "")),
        ];
        for (number, one) in seen.iter().enumerate() {
            assert!(seen.iter().skip(number + 1).all(|other| other != one));
        }
        assert_eq!(digest(&a, "x"), digest(&a.burst(7), "x"), "a quota is no part of the name");
    }

    #[test]
    fn no_byte_of_a_client_stands_in_a_name() {
        let limit = Limit::new("l", Rate::per_second(1));
        let mut name = Vec::new();
        for key in ["{x}", "a\r\nSET b 1", "*", "\0"] {
            name.clear();
            Names::new("rl", "10").write(&limit, &digest(&limit, key), &mut name);
            let proper = |b: &u8| b.is_ascii_alphanumeric() || b"-_:{}".contains(b);
            assert!(name.iter().all(proper) && name.starts_with(b"rl:v1:{10}:t") && name.len() == 34);
        }
    }
}
