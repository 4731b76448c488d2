//! The words of the limit language that are written as text: what a key is made of ([`Source`], [`KeyPart`]),
//! patterns of paths ([`PathPattern`]) and of other values ([`Glob`]). Each is parsed here, once, and shown again
//! as it was written.

use std::fmt;
use std::str::FromStr;

use http::HeaderName;

use crate::path::{NormalPath, segments};

/// Where a value of a request stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// The client's address, an IPv6 one as its network.
    ClientIp,
    /// A header field; all lines of it, joined with `, `.
    Header(HeaderName),
    /// The first query parameter of that name, decoded.
    Query(String),
    /// The first cookie of that name.
    Cookie(String),
    /// The segment that `{name}` of the limit's path pattern captured, decoded.
    Capture(String),
    /// The method.
    Method,
    /// The host, in lower case and without port.
    Host,
    /// The path in its normal form, without parameters and trailing slash.
    Path,
    /// A claim of a verified token; dots lead into objects.
    Jwt(String),
    /// The user that Basic credentials name, unchecked.
    BasicUser,
    /// The user that Digest credentials name, unchecked.
    DigestUser,
    /// The subject of the client's verified certificate, as RFC 4514 writes it.
    TlsClient,
    /// The value of an entry of Envoy's descriptor.
    Descriptor(String),
}

/// A part of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyPart {
    /// This value.
    One(Source),
    /// The first of these that the request has; which one it was is part of the key.
    First(Vec<Source>),
}

impl Source {
    /// Whether it stands in a verified token.
    #[must_use]
    pub const fn is_claim(&self) -> bool {
        matches!(self, Self::Jwt(_))
    }

    /// Whether it stands in a client's verified certificate.
    #[must_use]
    pub const fn is_certificate(&self) -> bool {
        matches!(self, Self::TlsClient)
    }
}

impl KeyPart {
    /// Whether some of it stands in a descriptor of Envoy's.
    #[must_use]
    pub fn is_of_descriptor(&self) -> bool {
        let is = |source: &Source| matches!(source, Source::Descriptor(_));
        match self {
            Self::One(source) => is(source),
            Self::First(sources) => sources.iter().any(is),
        }
    }

    /// Whether some of it stands in a verified token.
    #[must_use]
    pub fn is_claim(&self) -> bool {
        match self {
            Self::One(source) => source.is_claim(),
            Self::First(sources) => sources.iter().any(Source::is_claim),
        }
    }

    /// Whether some of it stands in a client's verified certificate.
    #[must_use]
    pub fn is_certificate(&self) -> bool {
        match self {
            Self::One(source) => source.is_certificate(),
            Self::First(sources) => sources.iter().any(Source::is_certificate),
        }
    }
}

/// Why a text names no [`Source`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceError {
    /// There is no such word; the nearest that is there, if one is near.
    Unknown(Option<&'static str>),
    /// The part behind the dot is missing.
    NoName(&'static str),
    /// What stands behind `header.` is no name of a header field.
    HeaderName,
    /// `header.host`, which is not the host that the request is for where the target names another.
    HostField,
}

/// The words without a name behind them.
const PLAIN: [&str; 7] = ["client.ip", "method", "host", "path", "basic.user", "digest.user", "tls.client"];
/// The words with one.
const NAMED: [&str; 6] = ["header", "query", "cookie", "path", "jwt", "descriptor"];

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        match text {
            "client.ip" => return Ok(Self::ClientIp),
            "method" => return Ok(Self::Method),
            "host" => return Ok(Self::Host),
            "path" => return Ok(Self::Path),
            "basic.user" => return Ok(Self::BasicUser),
            "digest.user" => return Ok(Self::DigestUser),
            "tls.client" => return Ok(Self::TlsClient),
            _ => {}
        }
        let (word, name) = text.split_once('.').unwrap_or((text, ""));
        let Some(&word) = NAMED.iter().find(|known| **known == word) else {
            return Err(SourceError::Unknown(nearest(text)));
        };
        if name.is_empty() {
            return Err(SourceError::NoName(word));
        }
        Ok(match word {
            "header" => match HeaderName::try_from(name) {
                Ok(http::header::HOST) => return Err(SourceError::HostField),
                Ok(name) => Self::Header(name),
                Err(_) => return Err(SourceError::HeaderName),
            },
            "query" => Self::Query(name.to_owned()),
            "cookie" => Self::Cookie(name.to_owned()),
            "jwt" => Self::Jwt(name.to_owned()),
            "descriptor" => Self::Descriptor(name.to_owned()),
            _ => Self::Capture(name.to_owned()),
        })
    }
}

fn nearest(text: &str) -> Option<&'static str> {
    let word = text.split_once('.').map_or(text, |(word, _)| word);
    let distance = |known: &&'static str| {
        let of = if known.contains('.') { text } else { word };
        strsim::damerau_levenshtein(of, known)
    };
    let best = PLAIN.iter().chain(&NAMED).copied().min_by_key(distance)?;
    (distance(&best) <= 2).then_some(best)
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientIp => f.write_str("client.ip"),
            Self::Header(name) => write!(f, "header.{name}"),
            Self::Query(name) => write!(f, "query.{name}"),
            Self::Cookie(name) => write!(f, "cookie.{name}"),
            Self::Capture(name) => write!(f, "path.{name}"),
            Self::Method => f.write_str("method"),
            Self::Host => f.write_str("host"),
            Self::Path => f.write_str("path"),
            Self::Jwt(claim) => write!(f, "jwt.{claim}"),
            Self::BasicUser => f.write_str("basic.user"),
            Self::DigestUser => f.write_str("digest.user"),
            Self::TlsClient => f.write_str("tls.client"),
            Self::Descriptor(name) => write!(f, "descriptor.{name}"),
        }
    }
}

impl fmt::Display for KeyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(source) => source.fmt(f),
            Self::First(sources) => {
                f.write_str("first of ")?;
                for (number, source) in sources.iter().enumerate() {
                    write!(f, "{}{source}", if number == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(_) => f.write_str(
                "not a value of a request: write client.ip, header.NAME, query.NAME, cookie.NAME, path.NAME, \
                 jwt.CLAIM, basic.user, digest.user, tls.client, method, host, path or descriptor.NAME",
            ),
            Self::NoName(word) => write!(f, "{word}. needs a name behind the dot"),
            Self::HeaderName => f.write_str("not a name of a header field"),
            Self::HostField => f.write_str("write host: a target may name another host than this field does"),
        }
    }
}

impl std::error::Error for SourceError {}

/// A pattern of paths: `*` is any one segment, `{name}` too and captures it, a final `**` is whatever follows,
/// nothing included. Everything else is itself, in normal form; parameters and a trailing slash of a path do
/// not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    /// In order.
    pub(crate) segments: Vec<Segment>,
    /// Whether it ends in `**`.
    pub(crate) open: bool,
    written: String,
}

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// This one, as a normal path writes it.
    Literal(String),
    /// Any one.
    Any,
    /// Any one, to be known by that name.
    Capture(String),
}

/// Why a text is no [`PathPattern`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PatternError {
    /// It does not start with `/`.
    NotAbsolute,
    /// `**` before the end.
    RestInside,
    /// `*` or braces within a segment.
    Partial(String),
    /// `{}`, or a name that is no word.
    CaptureName(String),
    /// One name twice.
    Twice(String),
    /// No path could ever be equal to it.
    Path(String),
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let Some(inner) = text.strip_prefix('/') else { return Err(PatternError::NotAbsolute) };
        let mut pattern = Self { segments: Vec::new(), open: false, written: text.to_owned() };
        for segment in inner.strip_suffix('/').unwrap_or(inner).split('/').filter(|_| !inner.is_empty()) {
            if pattern.open {
                return Err(PatternError::RestInside);
            }
            match segment {
                "**" => pattern.open = true,
                "*" => pattern.segments.push(Segment::Any),
                _ => pattern.segments.push(pattern.segment(segment)?),
            }
        }
        Ok(pattern)
    }
}

impl PathPattern {
    fn segment(&self, text: &str) -> Result<Segment, PatternError> {
        if let Some(name) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if name.is_empty() || !name.chars().all(word) {
                return Err(PatternError::CaptureName(name.to_owned()));
            }
            if self.captures().any(|known| known == name) {
                return Err(PatternError::Twice(name.to_owned()));
            }
            return Ok(Segment::Capture(name.to_owned()));
        }
        if text.contains(['*', '{', '}']) {
            return Err(PatternError::Partial(text.to_owned()));
        }
        let path = format!("/{text}");
        let wrong = |why: &dyn fmt::Display| PatternError::Path(format!("{text:?}: {why}"));
        let normal = NormalPath::parse(&path).map_err(|error| wrong(&error))?;
        let mut found = segments(normal.as_str());
        match (found.next(), found.next()) {
            (Some(segment), None) if !text.contains(';') => Ok(Segment::Literal(segment.to_owned())),
            _ => Err(wrong(&"not a segment of a path in normal form")),
        }
    }

    /// The names that it captures, in order.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Capture(name) => Some(name.as_str()),
            _ => None,
        })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAbsolute => f.write_str("a path pattern starts with /"),
            Self::RestInside => f.write_str("** stands for the rest of a path: nothing can follow it"),
            Self::Partial(segment) => {
                write!(f, "{segment:?}: * and {{name}} stand for a whole segment, not for a part of one")
            }
            Self::CaptureName(name) => {
                write!(f, "{{{name}}}: a capture is named with letters, digits, _ and -")
            }
            Self::Twice(name) => write!(f, "{{{name}}} is captured twice"),
            Self::Path(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for PatternError {}

/// A pattern of a value: `*` stands for any run of characters, also none; everything else is itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Glob(String);

impl Glob {
    /// The pattern that is written so; every text is one.
    #[must_use]
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    /// Whether any value will do.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0 == "*"
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it fits `value`, in time proportional to the product of their lengths at worst.
    #[must_use]
    pub fn fits(&self, value: &[u8]) -> bool {
        let mut parts = self.0.as_bytes().split(|byte| *byte == b'*');
        let Some(first) = parts.next() else { return value.is_empty() };
        let Some(mut rest) = value.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            // Taking the first place that fits leaves most for the parts that follow.
            let Some(at) = find(rest, part) else { return false };
            rest = rest.get(at + part.len()..).unwrap_or_default();
        }
        rest.ends_with(last)
    }
}

fn find(within: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    within.windows(part.len()).position(|window| window == part)
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_shown_as_they_are_written() {
        for text in [
            "client.ip",
            "header.x-api-key",
            "query.user",
            "cookie.sid",
            "path.resource",
            "method",
            "host",
            "path",
            "descriptor.user",
        ] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        assert_eq!("clint.ip".parse::<Source>(), Err(SourceError::Unknown(Some("client.ip"))));
        assert_eq!("headers.x".parse::<Source>(), Err(SourceError::Unknown(Some("header"))));
        assert_eq!("header.".parse::<Source>(), Err(SourceError::NoName("header")));
        assert_eq!("header.Host".parse::<Source>(), Err(SourceError::HostField));
        assert_eq!("jwt.".parse::<Source>(), Err(SourceError::NoName("jwt")));
        assert_eq!("descriptor".parse::<Source>(), Err(SourceError::NoName("descriptor")));
    }

    #[test]
    fn patterns_of_paths() {
        let pattern: PathPattern = "/v1/{resource}/*/**".parse().unwrap();
        assert_eq!(pattern.captures().collect::<Vec<_>>(), ["resource"]);
        assert!(pattern.open);
        assert_eq!(pattern.segments.len(), 3);
        assert_eq!("/".parse::<PathPattern>().unwrap().segments, []);
        assert_eq!("/%7Euser".parse::<PathPattern>().unwrap().segments, [Segment::Literal("~user".into())]);
        for (text, error) in [
            ("login", PatternError::NotAbsolute),
            ("/a/**/b", PatternError::RestInside),
            ("/v*/b", PatternError::Partial("v*".into())),
            ("/{}", PatternError::CaptureName(String::new())),
            ("/{a}/{a}", PatternError::Twice("a".into())),
        ] {
            assert_eq!(text.parse::<PathPattern>(), Err(error), "{text}");
        }
        assert!("/a//b".parse::<PathPattern>().is_err());
        assert!("/a/../b".parse::<PathPattern>().is_err());
        assert!("/a%2fb".parse::<PathPattern>().is_err());
    }

    #[test]
    fn globs() {
        for (pattern, value, fits) in [
            ("*", "", true),
            ("*", "anything", true),
            ("", "", true),
            ("", "x", false),
            ("gold-*", "gold-7", true),
            ("gold-*", "silver", false),
            ("*.example.com", "api.example.com", true),
            ("*.example.com", "example.com", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "ac", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(Glob::new(pattern).fits(value.as_bytes()), fits, "{pattern} {value}");
        }
    }
}
