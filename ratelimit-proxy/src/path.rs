//! [`NormalPath`]: the one normaliser of request paths. Pure.
//!
//! What is matched is what is forwarded, so every spelling that some upstream would read as the same resource
//! must come to one text here, or be refused:
//!
//! * escapes of unreserved characters are decoded, all others written in upper case; characters that may not
//!   stand raw in a path are escaped;
//! * dot segments are removed, also as `%2e` and with parameters (`..;x`); empty segments are merged;
//! * refused: escaped or raw `\`, escaped `/`, NUL, broken escapes, bytes that are not UTF-8 (overlong forms
//!   included), and a dot followed by an escaped `;`, which some servers decode first and split then.
//!
//! Parameters (`/a;v=1`) and a trailing slash carry meaning for some upstreams, so they are forwarded, but
//! [`NormalPath::segments`], which matching uses, leaves them out: `/login/` and `/login;x=1` are `/login`.
//! Case is kept: upstreams that ignore it are for the operator to name in several patterns.
//!
//! Invariant: a normal path parses to itself.
//! Sources: RFC 3986 §5.2.4 and §6.2.2; the bypasses of CVE-2021-29492 and CVE-2026-73553 in Envoy.

use std::borrow::Cow;
use std::fmt;

/// A path in its normal form; always starts with `/`. Borrows the raw path where that was normal already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'r>(Cow<'r, str>);

/// Why a path has no normal form that every upstream would read alike. The client's fault: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathError {
    /// It does not start with `/`.
    NotAbsolute,
    /// A `%` without two hexadecimal digits.
    BrokenEscape,
    /// `%2f`: a slash to some upstreams, a character to others.
    EscapedSlash,
    /// `\` or `%5c`: a slash to some upstreams.
    Backslash,
    /// `%00`.
    Nul,
    /// The decoded bytes are not UTF-8.
    NotUtf8,
    /// A dot segment followed by an escaped `;`.
    DotParameter,
    /// A raw `?` or `#`: not part of a path.
    Delimiter,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAbsolute => "the path does not start with /",
            Self::BrokenEscape => "the path holds a % without two hexadecimal digits",
            Self::EscapedSlash => "the path holds an escaped slash (%2f)",
            Self::Backslash => "the path holds a backslash",
            Self::Nul => "the path holds a NUL (%00)",
            Self::NotUtf8 => "the path is not UTF-8 once decoded",
            Self::DotParameter => "the path holds a dot segment with an escaped semicolon",
            Self::Delimiter => "the path holds a ? or #",
        })
    }
}

impl std::error::Error for PathError {}

impl<'r> NormalPath<'r> {
    /// The normal form of a path without its query. The empty path is `/`.
    ///
    /// # Errors
    /// When upstreams would not agree on what the path means.
    pub fn parse(raw_path: &'r str) -> Result<Self, PathError> {
        if raw_path.is_empty() {
            return Ok(Self(Cow::Borrowed("/")));
        }
        if !raw_path.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        if is_plain(raw_path.as_bytes()) {
            return Ok(Self(Cow::Borrowed(raw_path)));
        }
        let normal = normalise(raw_path)?;
        Ok(Self(if normal == raw_path { Cow::Borrowed(raw_path) } else { Cow::Owned(normal) }))
    }

    /// The text to forward.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the path came in its normal form.
    #[must_use]
    pub const fn is_unchanged(&self) -> bool {
        matches!(self.0, Cow::Borrowed(_))
    }

    /// The segments that matching looks at, still escaped: without parameters and trailing slash.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        segments(&self.0)
    }
}

/// The segments of a normal path, without parameters and trailing slash; none for `/`.
pub fn segments(normal: &str) -> impl Iterator<Item = &str> {
    let inner = normal.strip_prefix('/').unwrap_or(normal);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    let whole = (!inner.is_empty()).then(|| inner.split('/'));
    whole.into_iter().flatten().map(|segment| segment.split_once(';').map_or(segment, |(name, _)| name))
}

/// The bytes a segment of a normal path stands for; borrowed where nothing is escaped.
#[must_use]
pub fn decoded(segment: &str) -> Cow<'_, [u8]> {
    percent_encoding::percent_decode_str(segment).into()
}

/// Characters that stand raw in a normal path: unreserved, sub-delims, `:` and `@` (RFC 3986 `pchar`).
const fn is_raw(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b':'
                | b'@'
        )
}

/// The common case, in one pass: nothing that could need a change, at the price of saying no to a few that don't.
fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    for &byte in path {
        let suspect = if byte == b'/' { before == b'/' } else { !is_raw(byte) || byte == b';' };
        if suspect || (byte == b'.' && before == b'/') {
            return false;
        }
        before = byte;
    }
    true
}

fn normalise(raw: &str) -> Result<String, PathError> {
    let mut kept: Vec<String> = Vec::new();
    // Whether the path ends in a slash once the segments so far are taken in.
    let mut open = true;
    for segment in raw.split('/').skip(1) {
        let segment = normal_segment(segment)?;
        let name = segment.split_once(';').map_or(&*segment, |(name, _)| name);
        if name.starts_with(".%3B") || name.starts_with("..%3B") {
            return Err(PathError::DotParameter);
        }
        match name {
            "" | "." => open = true,
            ".." => {
                kept.pop();
                open = true;
            }
            _ => {
                kept.push(segment);
                open = false;
            }
        }
    }
    let mut normal = String::with_capacity(raw.len());
    for segment in &kept {
        normal.push('/');
        normal.push_str(segment);
    }
    if open {
        normal.push('/');
    }
    Ok(normal)
}

/// One segment with its escapes in order.
fn normal_segment(raw: &str) -> Result<String, PathError> {
    let mut normal = String::with_capacity(raw.len());
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        let (byte, escaped) = if byte == b'%' {
            let mut digit =
                || bytes.next().and_then(|b| char::from(b).to_digit(16)).ok_or(PathError::BrokenEscape);
            let (high, low) = (digit()?, digit()?);
            (u8::try_from(high * 16 + low).map_err(|_| PathError::BrokenEscape)?, true)
        } else {
            (byte, false)
        };
        match byte {
            b'\\' => return Err(PathError::Backslash),
            b'/' => return Err(PathError::EscapedSlash),
            0 => return Err(PathError::Nul),
            b'?' | b'#' if !escaped => return Err(PathError::Delimiter),
            _ => {}
        }
        decoded.push(byte);
        let raw = if escaped {
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
        } else {
            is_raw(byte)
        };
        if raw {
            normal.push(char::from(byte));
        } else {
            normal.push_str(percent_encoding::percent_encode_byte(byte));
        }
    }
    std::str::from_utf8(&decoded).map_err(|_| PathError::NotUtf8)?;
    Ok(normal)
}
