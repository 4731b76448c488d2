//! The fields that frame a message and say whether the connection goes on (RFC 9112 §6, §9), and how fields are
//! written.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::Malformed;

/// What fields say about where a message ends, and what comes behind it.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) length: Option<u64>,
    /// Whether there is a transfer coding, and whether chunked is all there is.
    pub(crate) coding: Option<bool>,
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
}

impl Found {
    /// A length. Several may be given if they are one and the same.
    pub(crate) fn length(&mut self, digits: &[u8]) -> Result<(), Malformed> {
        let length = number(digits).ok_or(Malformed("a length is no number"))?;
        if self.length.is_some_and(|before| before != length) {
            return Err(Malformed("there are two lengths"));
        }
        self.length = Some(length);
        Ok(())
    }

    /// A list of transfer codings.
    pub(crate) fn coding(&mut self, value: &HeaderValue) {
        for coding in elements(value) {
            self.coding = Some(self.coding.is_none() && coding.eq_ignore_ascii_case(b"chunked"));
        }
    }

    /// A list of what is about the connection. Returns whether it is about nothing else than persistence.
    pub(crate) fn connection(&mut self, value: &HeaderValue) -> bool {
        let mut nothing_else = true;
        for option in elements(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else {
                self.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                nothing_else = false;
            }
        }
        nothing_else
    }

    /// Whether the connection is to be kept.
    pub(crate) fn keeps(&self, is_1_1: bool) -> bool {
        // Who says both a length and a coding may have been made to say so.
        let ambiguous = self.coding.is_some() && self.length.is_some();
        !self.close && !ambiguous && (is_1_1 || self.keep_alive)
    }
}

/// Whether bytes from `from` on can hold the end of a head, which is an empty line.
pub(crate) fn may_end(inbox: &[u8], from: usize) -> bool {
    let mut line_ends = inbox.get(from.saturating_sub(2)..).unwrap_or_default().split(|byte| *byte == b'\n');
    // What comes before the first line end is part of a longer line.
    line_ends.next();
    let Some(_unfinished) = line_ends.next_back() else { return false };
    line_ends.any(|line| matches!(line, b"" | b"\r"))
}

/// What `httparse` means.
pub(crate) fn explain(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "the head has a field with an invalid name",
        httparse::Error::HeaderValue => "the head has a field with an invalid value",
        httparse::Error::NewLine => "the head has an invalid line end",
        httparse::Error::Status => "the status is no number of three digits",
        httparse::Error::TooManyHeaders => "the head has too many fields",
        httparse::Error::Version => "it is no HTTP/1",
        httparse::Error::Token => "the head has an invalid token",
    }
}

/// Where something is, from the start of the head.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    /// Of `part` within what begins at the address `start`.
    pub(crate) fn of(part: &[u8], start: usize) -> Self {
        let from = part.as_ptr().addr().wrapping_sub(start);
        Self { start: from, end: from.wrapping_add(part.len()) }
    }
}

/// The fields of a head, where they are in it.
pub(crate) struct Fields(SmallVec<[(Span, Span); 24]>);

impl Fields {
    /// What `httparse` found in the head that begins at the address `start`.
    #[inline(always)] // Made where it stays: what is made apart is moved as a whole, 776 bytes.
    pub(crate) fn of(parsed: &[httparse::Header<'_>], start: usize) -> Self {
        let mut fields = Self(SmallVec::new());
        fields.0.extend(
            parsed.iter().map(|field| (Span::of(field.name.as_bytes(), start), Span::of(field.value, start))),
        );
        fields
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Names and values, which are slices of the head.
    pub(crate) fn read(
        &self,
        head: &Bytes,
    ) -> impl Iterator<Item = Result<(HeaderName, HeaderValue), Malformed>> {
        self.0.iter().map(|(name, value)| {
            let name = head.get(name.start..name.end).unwrap_or_default();
            let name =
                HeaderName::from_bytes(name).map_err(|_| Malformed(explain(httparse::Error::HeaderName)))?;
            let value = HeaderValue::from_maybe_shared(head.slice(value.start..value.end))
                .map_err(|_| Malformed(explain(httparse::Error::HeaderValue)))?;
            Ok((name, value))
        })
    }
}

/// The elements of a list, of which there is at least one, if an empty one.
pub(crate) fn elements(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Writes a field.
#[inline]
pub(crate) fn write(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// How the end of a body is told to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none, and nothing is said about it.
    None,
    /// By its length.
    Length(u64),
    /// By a last chunk.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

impl Framing {
    /// A piece of the body passes. Returns whether it may: a body must not be longer than was said.
    pub(crate) fn passes(&mut self, length: usize) -> bool {
        match self {
            Self::None => length == 0,
            Self::Length(left) => match left.checked_sub(u64::try_from(length).unwrap_or(u64::MAX)) {
                Some(less) => {
                    *left = less;
                    true
                }
                None => false,
            },
            Self::Chunked | Self::UntilClose => true,
        }
    }

    /// Whether a body may end here.
    pub(crate) fn may_end(self) -> bool {
        !matches!(self, Self::Length(1..))
    }

    /// Writes the field that says it, if there is one.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::None | Self::UntilClose => {}
            Self::Length(length) => {
                write(out, "content-length", itoa::Buffer::new().format(length).as_bytes());
            }
            Self::Chunked => write(out, "transfer-encoding", b"chunked"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end is never missed, however the bytes came.
    #[test]
    fn an_end_is_suspected_wherever_there_is_one() {
        for head in ["a\r\nb\r\n\r\n", "a\nb\n\n", "a\r\nb\n\r\n", "\r\n\r\n"] {
            let bytes = head.as_bytes();
            for before in 0..bytes.len() {
                assert!(may_end(bytes, before), "{head:?} after {before}");
            }
        }
        assert!(!may_end(b"a\r\nb\r\nc", 0) && !may_end(b"a\r\nb\r\n", 0) && !may_end(b"", 0));
    }
}
