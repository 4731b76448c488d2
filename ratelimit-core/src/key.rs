//! Keys: what a limit counts by, as canonical bytes.
//!
//! Every part is tagged with its type and, where its length is not fixed by that, with its length, so that
//! different tuples can never have the same bytes: `("a", "bc")`, `("ab", "c")` and `"abc"` are three keys.
//! Only a store hashes these bytes, each in its own way.

mod as_key;
mod buffer;
mod display;
#[cfg(test)]
mod tests;

pub use as_key::AsKey;
pub use buffer::KeyBuf;
pub use display::ReadPart;

/// One byte before each part says what it is. Part of the key's identity: never renumber.
mod tag {
    pub(super) const BYTES: u8 = 1;
    pub(super) const UNSIGNED: u8 = 2;
    pub(super) const SIGNED: u8 = 3;
    pub(super) const IPV4: u8 = 4;
    pub(super) const IPV6: u8 = 5;
    pub(super) const MISSING: u8 = 6;
    pub(super) const SOURCE: u8 = 7;
}

/// The canonical bytes of a key, borrowed.
///
/// The first two bytes are kept apart, so that the key of a short string, which is two bytes and the string,
/// can be lent without being copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key<'a> {
    /// One number, not two bytes: a processor that has just written the bytes apart would wait to read them
    /// together.
    lead: u16,
    rest: &'a [u8],
}

impl<'a> Key<'a> {
    /// The key of a limit that counts everything in one bucket.
    pub const GLOBAL: Key<'static> = Key { lead: 0, rest: &[] };

    #[inline(always)]
    const fn led(first: u8, second: u8, rest: &'a [u8]) -> Self {
        Self { lead: first as u16 | (second as u16) << 8, rest }
    }

    /// Takes bytes that a [`KeyBuf`] wrote, for instance ones that were kept side by side in a buffer.
    #[must_use]
    #[inline]
    pub const fn from_canonical(bytes: &'a [u8]) -> Self {
        match bytes {
            [first, second, rest @ ..] => Self::led(*first, *second, rest),
            // No part begins with 0, so what is shorter than two bytes stays distinct.
            _ => Self { lead: 0, rest: bytes },
        }
    }

    /// What a store hashes: two bytes and the rest. Different keys differ in one of them.
    #[must_use]
    #[inline]
    pub const fn parts(self) -> ([u8; 2], &'a [u8]) {
        (self.lead.to_le_bytes(), self.rest)
    }

    /// From what [`Key::parts`] gave.
    #[inline]
    pub(crate) const fn from_parts(lead: [u8; 2], rest: &'a [u8]) -> Self {
        Self::led(lead[0], lead[1], rest)
    }

    /// Whether this is the one key of a limit without key.
    #[must_use]
    #[inline]
    pub fn is_global(self) -> bool {
        self == Self::GLOBAL
    }

    /// The canonical bytes in memory of their own.
    #[must_use]
    pub fn to_vec(self) -> Vec<u8> {
        let lead = self.lead.to_le_bytes();
        [if self.lead == 0 { &[][..] } else { &lead }, self.rest].concat()
    }
}
