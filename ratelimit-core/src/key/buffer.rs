//! [`KeyBuf`]: where keys are written, part by part.

use std::fmt;
use std::net::IpAddr;

use super::{Key, tag};

/// Bytes a key may have before it needs memory of its own.
const INLINE: usize = 64;

/// A buffer that keys are written into; up to 64 bytes without allocating.
#[derive(Clone)]
pub struct KeyBuf {
    inline: [u8; INLINE],
    length: usize,
    /// Everything, once it is more than fits in line.
    spilled: Vec<u8>,
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
    pub(super) fn bytes(&self) -> &[u8] {
        self.inline.get(..self.length).unwrap_or(&self.spilled)
    }

    #[inline]
    pub(super) fn append(&mut self, bytes: &[u8]) {
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
