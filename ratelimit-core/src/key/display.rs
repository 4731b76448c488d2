//! Keys for people: `"ann", 192.0.2.1, missing`. Only for logs and the like: stores and comparisons use the bytes.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use super::{Key, KeyBuf, tag};

/// The parts of a key, separated by commas: text in quotes and escaped, so that it can not forge a part or a
/// line; numbers and addresses as they are. The global key is `-`. Bytes that no [`KeyBuf`](super::KeyBuf) wrote
/// are shown escaped.
impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_global() {
            return f.write_char('-');
        }
        let bytes = self.to_vec();
        let mut rest = &*bytes;
        let mut separator = "";
        while !rest.is_empty() {
            let (part, behind) = Part::read(rest).unwrap_or((Part::Bytes(rest), &[]));
            rest = behind;
            if let Part::Source(_) = part {
                continue;
            }
            write!(f, "{separator}{part}")?;
            separator = ", ";
        }
        Ok(())
    }
}

/// A part of a key, as it was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadPart<'k> {
    /// Text, or any bytes.
    Bytes(&'k [u8]),
    /// A number.
    Unsigned(u64),
    /// A number.
    Signed(i64),
    /// An address.
    Address(IpAddr),
    /// A value that is not there.
    Missing,
    /// Says where the next part is from, and is no part itself.
    Source(u8),
}

use ReadPart as Part;

impl KeyBuf {
    /// The parts that were pushed; `None` for bytes that no [`KeyBuf`] wrote.
    #[must_use]
    pub fn parts(&self) -> Option<Vec<ReadPart<'_>>> {
        let mut rest = self.bytes();
        let mut parts = Vec::new();
        while !rest.is_empty() {
            let (part, behind) = Part::read(rest)?;
            parts.push(part);
            rest = behind;
        }
        Some(parts)
    }
}

impl<'k> Part<'k> {
    /// The first part, and what is behind it; `None` where there is none.
    fn read(bytes: &'k [u8]) -> Option<(Self, &'k [u8])> {
        let (tag, rest) = bytes.split_first()?;
        Some(match *tag {
            tag::BYTES => {
                let (length, rest) = length(rest)?;
                let (value, rest) = rest.split_at_checked(length)?;
                (Self::Bytes(value), rest)
            }
            tag::UNSIGNED => {
                rest.split_first_chunk().map(|(n, rest)| (Self::Unsigned(u64::from_le_bytes(*n)), rest))?
            }
            tag::SIGNED => {
                rest.split_first_chunk().map(|(n, rest)| (Self::Signed(i64::from_le_bytes(*n)), rest))?
            }
            tag::IPV4 => {
                rest.split_first_chunk::<4>().map(|(ip, rest)| (Self::Address((*ip).into()), rest))?
            }
            tag::IPV6 => {
                rest.split_first_chunk::<16>().map(|(ip, rest)| (Self::Address((*ip).into()), rest))?
            }
            tag::MISSING => (Self::Missing, rest),
            tag::SOURCE => rest.split_first().map(|(number, rest)| (Self::Source(*number), rest))?,
            _ => return None,
        })
    }
}

/// A length in groups of seven bits, and what is behind it.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut length = 0_usize;
    let mut shift = 0;
    let mut rest = bytes;
    loop {
        let (group, behind) = rest.split_first()?;
        rest = behind;
        length |= usize::from(group & 0x7f).checked_shl(shift)?;
        if *group < 0x80 {
            return Some((length, rest));
        }
        shift += 7;
    }
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Self::Unsigned(number) => number.fmt(f),
            Self::Signed(number) => number.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Missing => f.write_str("missing"),
            Self::Source(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use crate::key::{AsKey, Key, KeyBuf};

    fn shown(key: impl AsKey) -> String {
        let mut buffer = KeyBuf::new();
        key.encode(&mut buffer);
        buffer.key().to_string()
    }

    #[test]
    fn people_can_read_a_key() {
        assert_eq!(shown(()), "-");
        assert_eq!(shown("ann"), "\"ann\"");
        assert_eq!(shown(("ann", 7_u64, -7_i64)), "\"ann\", 7, -7");
        assert_eq!(shown(IpAddr::from([192, 0, 2, 1])), "192.0.2.1");
        assert_eq!(shown("2001:db8::".parse::<IpAddr>().unwrap()), "2001:db8::");
        assert_eq!(shown("a\", \"b\n\u{e4}"), r#""a\", \"b\n\xc3\xa4""#, "no value can look like two");
        assert_eq!(shown(&*"x".repeat(300)), format!("\"{}\"", "x".repeat(300)));
        let mut buffer = KeyBuf::new();
        buffer.push_source(1);
        buffer.push_bytes(b"k");
        buffer.push_missing();
        assert_eq!(buffer.key().to_string(), "\"k\", missing");
        let parts = [super::ReadPart::Source(1), super::ReadPart::Bytes(b"k"), super::ReadPart::Missing];
        assert_eq!(buffer.parts().as_deref(), Some(&parts[..]));
    }

    #[test]
    fn bytes_that_are_no_key_are_shown_too() {
        assert_eq!(Key::from_canonical(b"\x01\x09ann").to_string(), r#""\x01\tann""#);
        assert_eq!(
            Key::from_canonical(b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").to_string().len(),
            50
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let text = Key::from_canonical(&bytes).to_string();
            prop_assert!(text.is_ascii() && !text.contains(char::is_control));
        }
    }
}
