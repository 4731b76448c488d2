//! [`AsKey`]: which values of Rust are keys, and their canonical bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Key, KeyBuf, tag};

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
        self.as_str().encode(to);
    }

    #[inline(always)]
    fn lend<'k>(&'k self, room: &'k mut Option<KeyBuf>) -> Key<'k> {
        self.as_str().lend(room)
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
