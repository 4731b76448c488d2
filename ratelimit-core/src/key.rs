//! Keys: what a limit counts by, as canonical bytes.
//!
//! Every part is tagged with its type and, where its length is not fixed by that, with its length, so that
//! different tuples can never have the same bytes: `("a", "bc")`, `("ab", "c")` and `"abc"` are three keys.
//! Only a store hashes these bytes, each in its own way.

mod display;

pub use display::ReadPart;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes a key may have before it needs memory of its own.
const INLINE: usize = 64;

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

/// A buffer that keys are written into; up to 64 bytes without allocating.
#[derive(Clone)]
pub struct KeyBuf {
    inline: [u8; INLINE],
    length: usize,
    /// Everything, once it is more than fits in line.
    spilled: Vec<u8>,
}

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

impl Default for KeyBuf {
    #[inline]
    fn default() -> Self {
        Self { inline: [0; INLINE], length: 0, spilled: Vec::new() }
    }
}

impl KeyBuf {
    /// An empty buffer: the key of a limit without key.
    #[must_use]
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }

    /// The key written so far.
    #[must_use]
    #[inline]
    pub fn key(&self) -> Key<'_> {
        Key::from_canonical(self.bytes())
    }

    /// Forgets what was written and keeps the memory.
    pub fn clear(&mut self) {
        self.length = 0;
        self.spilled.clear();
    }

    /// How many bytes were written so far; with [`KeyBuf::slice`] several keys can share a buffer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The key that lies in `range` of the buffer, as [`KeyBuf::len`] told before and after writing it;
    /// the global key where the range lies outside.
    #[must_use]
    pub fn slice(&self, range: std::ops::Range<usize>) -> Key<'_> {
        Key::from_canonical(self.bytes().get(range).unwrap_or(&[]))
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.inline.get(..self.length).unwrap_or(&self.spilled)
    }

    #[inline]
    fn append(&mut self, bytes: &[u8]) {
        let end = self.length.saturating_add(bytes.len());
        match self.inline.get_mut(self.length..end) {
            Some(room) => copy(bytes, room),
            None => self.spill(bytes),
        }
        self.length = end;
    }

    #[cold]
    fn spill(&mut self, bytes: &[u8]) {
        if self.spilled.is_empty() {
            self.spilled.extend_from_slice(self.inline.get(..self.length).unwrap_or(&[]));
        }
        self.spilled.extend_from_slice(bytes);
    }

    /// Adds a part of arbitrary bytes.
    #[inline]
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        match u8::try_from(bytes.len()) {
            Ok(length) if length < 0x80 => self.append(&[tag::BYTES, length]),
            _ => self.push_long(bytes.len()),
        }
        self.append(bytes);
    }

    /// Lengths in groups of seven bits, the last group without the high bit.
    fn push_long(&mut self, mut length: usize) {
        self.append(&[tag::BYTES]);
        while length >= 0x80 {
            self.append(&[0x80 | u8::try_from(length & 0x7f).unwrap_or_default()]);
            length >>= 7;
        }
        self.append(&[u8::try_from(length).unwrap_or_default()]);
    }

    /// Adds a part that is an unsigned number.
    pub fn push_u64(&mut self, number: u64) {
        self.append(&[tag::UNSIGNED]);
        self.append(&number.to_le_bytes());
    }

    /// Adds a part that is a signed number.
    pub fn push_i64(&mut self, number: i64) {
        self.append(&[tag::SIGNED]);
        self.append(&number.to_le_bytes());
    }

    /// Adds a part that is an address. An IPv4 address mapped into IPv6 is the IPv4 address.
    pub fn push_ip(&mut self, address: IpAddr) {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                self.append(&[tag::IPV4]);
                self.append(&v4.octets());
            }
            IpAddr::V6(v6) => {
                self.append(&[tag::IPV6]);
                self.append(&v6.octets());
            }
        }
    }

    /// Adds a part that stands for "there was no value", which no value can imitate.
    pub fn push_missing(&mut self) {
        self.append(&[tag::MISSING]);
    }

    /// Says where the next part comes from when there are several places it could come from, so that equal
    /// values of different origin stay apart.
    pub fn push_source(&mut self, number: u8) {
        self.append(&[tag::SOURCE, number]);
    }
}

/// As `copy_from_slice`, without a call for the lengths that most keys have: two overlapping halves.
#[inline]
fn copy(from: &[u8], to: &mut [u8]) {
    if let (Some(first), Some(last)) = (from.first_chunk::<16>(), from.last_chunk::<16>())
        && from.len() <= 32
        && let Some(room) = to.first_chunk_mut::<16>()
    {
        *room = *first;
        if let Some(room) = to.last_chunk_mut::<16>() {
            *room = *last;
        }
    } else {
        to.copy_from_slice(from);
    }
}

impl PartialEq for KeyBuf {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for KeyBuf {}

impl std::hash::Hash for KeyBuf {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl fmt::Debug for KeyBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyBuf").field(&self.bytes()).finish()
    }
}

/// What can be a key, or a part of one.
///
/// Strings, byte slices, integers, addresses, `Option`s of them (`None` is a value of its own), and tuples.
/// The unit type is the key of a limit that counts everything together.
pub trait AsKey {
    /// Appends the canonical bytes of this key.
    fn encode(&self, to: &mut KeyBuf);

    /// Lends the key, writing it into `room` only where its canonical bytes are not at hand.
    #[inline(always)]
    fn lend<'k>(&'k self, room: &'k mut Option<KeyBuf>) -> Key<'k> {
        let buffer = room.insert(KeyBuf::new());
        self.encode(buffer);
        buffer.key()
    }
}

/// As [`AsKey::lend`], for a part of bytes.
#[inline(always)]
fn lend_bytes<'k>(bytes: &'k [u8], room: &'k mut Option<KeyBuf>) -> Key<'k> {
    match u8::try_from(bytes.len()) {
        Ok(length) if length < 0x80 => Key::led(tag::BYTES, length, bytes),
        _ => Key::from_canonical(written(bytes, room)),
    }
}

/// Out of the way of short keys.
#[cold]
#[inline(never)]
fn written<'k>(bytes: &[u8], room: &'k mut Option<KeyBuf>) -> &'k [u8] {
    let buffer = room.insert(KeyBuf::new());
    buffer.push_bytes(bytes);
    buffer.bytes()
}

impl AsKey for KeyBuf {
    /// Takes the key as it was written.
    fn encode(&self, to: &mut KeyBuf) {
        to.append(self.bytes());
    }

    fn lend<'k>(&'k self, _: &'k mut Option<KeyBuf>) -> Key<'k> {
        self.key()
    }
}

impl AsKey for Key<'_> {
    fn encode(&self, to: &mut KeyBuf) {
        if self.lead != 0 {
            to.append(&self.lead.to_le_bytes());
        }
        to.append(self.rest);
    }

    fn lend<'k>(&'k self, _: &'k mut Option<KeyBuf>) -> Key<'k> {
        *self
    }
}

impl AsKey for str {
    #[inline]
    fn encode(&self, to: &mut KeyBuf) {
        to.push_bytes(self.as_bytes());
    }

    #[inline(always)]
    fn lend<'k>(&'k self, room: &'k mut Option<KeyBuf>) -> Key<'k> {
        lend_bytes(self.as_bytes(), room)
    }
}

impl AsKey for String {
    #[inline]
    fn encode(&self, to: &mut KeyBuf) {
        to.push_bytes(self.as_bytes());
    }

    #[inline(always)]
    fn lend<'k>(&'k self, room: &'k mut Option<KeyBuf>) -> Key<'k> {
        lend_bytes(self.as_bytes(), room)
    }
}

impl AsKey for [u8] {
    fn encode(&self, to: &mut KeyBuf) {
        to.push_bytes(self);
    }

    #[inline(always)]
    fn lend<'k>(&'k self, room: &'k mut Option<KeyBuf>) -> Key<'k> {
        lend_bytes(self, room)
    }
}

impl AsKey for Vec<u8> {
    fn encode(&self, to: &mut KeyBuf) {
        to.push_bytes(self);
    }

    #[inline(always)]
    fn lend<'k>(&'k self, room: &'k mut Option<KeyBuf>) -> Key<'k> {
        lend_bytes(self, room)
    }
}

impl<const N: usize> AsKey for [u8; N] {
    fn encode(&self, to: &mut KeyBuf) {
        to.push_bytes(self);
    }
}

impl AsKey for IpAddr {
    fn encode(&self, to: &mut KeyBuf) {
        to.push_ip(*self);
    }
}

impl AsKey for Ipv4Addr {
    fn encode(&self, to: &mut KeyBuf) {
        to.push_ip((*self).into());
    }
}

impl AsKey for Ipv6Addr {
    fn encode(&self, to: &mut KeyBuf) {
        to.push_ip((*self).into());
    }
}

macro_rules! integers {
    ($push:ident as $wide:ty: $($narrow:ty),*) => {$(
        impl AsKey for $narrow {
            fn encode(&self, to: &mut KeyBuf) {
                to.$push(<$wide>::from(*self));
            }
        }
    )*};
}
integers!(push_u64 as u64: u8, u16, u32, u64, bool);
integers!(push_i64 as i64: i8, i16, i32, i64);

impl AsKey for u128 {
    fn encode(&self, to: &mut KeyBuf) {
        to.push_bytes(&self.to_le_bytes());
    }
}

impl<T: AsKey> AsKey for Option<T> {
    fn encode(&self, to: &mut KeyBuf) {
        match self {
            Some(value) => value.encode(to),
            None => to.push_missing(),
        }
    }
}

impl<T: AsKey + ?Sized> AsKey for &T {
    #[inline]
    fn encode(&self, to: &mut KeyBuf) {
        (**self).encode(to);
    }

    #[inline(always)]
    fn lend<'k>(&'k self, room: &'k mut Option<KeyBuf>) -> Key<'k> {
        (**self).lend(room)
    }
}

impl AsKey for () {
    fn encode(&self, _: &mut KeyBuf) {}
}

macro_rules! tuples {
    ($(($($part:ident)+))*) => {$(
        impl<$($part: AsKey),+> AsKey for ($($part,)+) {
            #[expect(non_snake_case, reason = "the type parameters name the fields")]
            fn encode(&self, to: &mut KeyBuf) {
                let ($($part,)+) = self;
                $($part.encode(to);)+
            }
        }
    )*};
}
tuples!((A)(A B)(A B C)(A B C D)(A B C D E));

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(key: impl AsKey) -> Vec<u8> {
        let mut buffer = KeyBuf::new();
        key.encode(&mut buffer);
        buffer.key().to_vec()
    }

    #[test]
    fn neighbours_that_must_not_meet() {
        let keys = [
            bytes(("a", "bc")),
            bytes(("ab", "c")),
            bytes("abc"),
            bytes(("a", "b", "c")),
            bytes(("", "abc")),
            bytes(("abc", "")),
            bytes(None::<&str>),
            bytes(""),
            bytes(()),
            bytes(1u8),
            bytes(1i8),
            bytes("1"),
            bytes(IpAddr::from([1, 2, 3, 4])),
            bytes("1.2.3.4"),
            bytes("a|b"),
            bytes(("a", "b")),
            bytes("a\0b"),
            bytes("A"),
            bytes("a"),
        ];
        for (i, one) in keys.iter().enumerate() {
            for other in keys.iter().skip(i + 1) {
                assert_ne!(one, other);
            }
        }
    }

    #[test]
    fn one_address_has_one_key_however_it_is_written() {
        let v4: IpAddr = "1.2.3.4".parse().unwrap();
        for text in ["::ffff:1.2.3.4", "::ffff:102:304", "0:0:0:0:0:ffff:0102:0304"] {
            assert_eq!(bytes(text.parse::<IpAddr>().unwrap()), bytes(v4), "{text}");
        }
        assert_ne!(bytes("2001:db8::1.2.3.4".parse::<IpAddr>().unwrap()), bytes(v4));
        assert_ne!(bytes("64:ff9b::1.2.3.4".parse::<IpAddr>().unwrap()), bytes(v4));
    }

    #[test]
    fn what_is_lent_is_what_would_be_written() {
        for length in [0, 1, 2, 16, 127, 128, 129, 1000] {
            let text = "x".repeat(length);
            assert_eq!(text.lend(&mut None).to_vec(), bytes(&text), "{length}");
            assert_eq!(text.lend(&mut None), Key::from_canonical(&bytes(&text)));
            assert_eq!(Some(&text).lend(&mut None).to_vec(), bytes(&text));
        }
        assert!(().lend(&mut None).is_global() && !"".lend(&mut None).is_global());
        assert!(!None::<&str>.lend(&mut None).is_global());
    }

    proptest! {
        #[test]
        fn different_tuples_have_different_bytes(
            a in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..200)), 0..4),
            b in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..200)), 0..4),
        ) {
            let encode = |parts: &[Option<Vec<u8>>]| {
                let mut buffer = KeyBuf::new();
                parts.iter().for_each(|part| part.encode(&mut buffer));
                buffer
            };
            prop_assert_eq!(encode(&a) == encode(&b), a == b);
        }
    }
}
