//! [`Reader`]: takes one value out of a request. Compiled from a [`Source`], so that nothing is looked up by
//! text but what the client sent.
//!
//! Work is bounded by the size of a head; values are borrowed wherever the request holds them in one piece.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

use http::header::{self, HeaderMap, HeaderName};

use crate::config::words::{PathPattern, Segment, Source};
use crate::facts::Facts;
use crate::identity::token::{basic_user, digest_user};
use crate::path;

/// Where a value stands.
#[derive(Clone, Debug)]
pub(super) enum Reader {
    /// The client's address; an IPv6 one as its network of that many bits.
    Client(u8),
    Header(HeaderName),
    Query(Box<str>),
    Cookie(Box<str>),
    /// A segment of the path by its place: what comes before it in a pattern is one segment a word.
    Segment(usize),
    Method,
    Host,
    Path,
    Jwt(Box<str>),
    BasicUser,
    DigestUser,
    Descriptor(Box<[u8]>),
    TlsClient,
}

/// A value of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value<'r> {
    Text(Cow<'r, [u8]>),
    Address(IpAddr),
}

/// The request gives a value several times, and not the same each time. Upstreams differ in which one they
/// read: with any choice of ours a client could be counted by one value and served by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ambiguous;

impl Reader {
    pub(super) fn new(source: &Source, pattern: Option<&PathPattern>, ipv6_prefix: u8) -> Self {
        match source {
            Source::ClientIp => Self::Client(ipv6_prefix),
            Source::Header(name) => Self::Header(name.clone()),
            Source::Query(name) => Self::Query(name.as_str().into()),
            Source::Cookie(name) => Self::Cookie(name.as_str().into()),
            Source::Capture(name) => {
                let named = |segment: &Segment| matches!(segment, Segment::Capture(known) if known == name);
                let place = pattern.and_then(|pattern| pattern.segments.iter().position(named));
                // A configuration does not name what it does not capture; such a value would be missing.
                Self::Segment(place.unwrap_or(usize::MAX))
            }
            Source::Method => Self::Method,
            Source::Host => Self::Host,
            Source::Path => Self::Path,
            Source::Jwt(claim) => Self::Jwt(claim.as_str().into()),
            Source::BasicUser => Self::BasicUser,
            Source::DigestUser => Self::DigestUser,
            Source::Descriptor(name) => Self::Descriptor(name.as_bytes().into()),
            Source::TlsClient => Self::TlsClient,
        }
    }

    /// The value, `None` if the request has none. A value may be empty: that is not the same as none.
    ///
    /// # Errors
    /// [`Ambiguous`] where a field, a parameter or a cookie is there with different values.
    #[inline]
    pub(super) fn read<'r>(&self, facts: &Facts<'r>) -> Result<Option<Value<'r>>, Ambiguous> {
        let text = match self {
            Self::Client(prefix) => return Ok(Some(Value::Address(masked(facts.client, *prefix)))),
            Self::Header(name) => {
                let lines = facts.headers.get_all(name).iter();
                one(lines.map(|line| Cow::Borrowed(line.as_bytes())))?
            }
            Self::Query(name) => one(parameters(facts.query)
                .filter(|(raw, _)| is_named(raw, name))
                .map(|(_, value)| form_decoded(value)))?,
            Self::Cookie(name) => one(cookies(facts.headers, name.as_bytes()).map(Cow::Borrowed))?,
            Self::Segment(place) => path::segments(facts.path).nth(*place).map(path::decoded),
            Self::Method => Some(method(facts.method.as_str().as_bytes())),
            Self::Host => (!facts.host.is_empty()).then_some(Cow::Borrowed(facts.host.as_bytes())),
            Self::Path => Some(match plain_path(facts.path) {
                Cow::Borrowed(path) => Cow::Borrowed(path.as_bytes()),
                Cow::Owned(path) => Cow::Owned(path.into_bytes()),
            }),
            Self::Jwt(claim) => {
                let text = facts.claims.and_then(|claims| claims.verified().ok()?.text(claim));
                text.map(|text| match text {
                    Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                    Cow::Owned(text) => Cow::Owned(text.into_bytes()),
                })
            }
            Self::BasicUser => basic_user(facts.headers).map(Cow::Owned),
            Self::DigestUser => digest_user(facts.headers),
            // A name that comes twice has its first value: the descriptor is Envoy's own, and no client's.
            Self::Descriptor(name) => {
                facts.descriptor.and_then(|descriptor| descriptor.value(name)).map(Cow::Borrowed)
            }
            Self::TlsClient => facts.tls_client.map(|subject| Cow::Borrowed(subject.as_bytes())),
        };
        Ok(text.map(Value::Text))
    }

    /// The field that the value depends on.
    pub(super) fn field(&self) -> Option<&HeaderName> {
        match self {
            Self::Header(name) => Some(name),
            Self::Cookie(_) => Some(&header::COOKIE),
            Self::Jwt(_) | Self::BasicUser | Self::DigestUser => Some(&header::AUTHORIZATION),
            _ => None,
        }
    }

    pub(super) fn looks_at_path(&self) -> bool {
        matches!(self, Self::Segment(_) | Self::Path)
    }
}

/// The one value that all say.
#[inline]
fn one<'r>(mut values: impl Iterator<Item = Cow<'r, [u8]>>) -> Result<Option<Cow<'r, [u8]>>, Ambiguous> {
    let Some(first) = values.next() else { return Ok(None) };
    if values.all(|other| other == first) { Ok(Some(first)) } else { Err(Ambiguous) }
}

/// An address as a key has it: an IPv4 address inside IPv6 is the IPv4 address, before anything is masked; an
/// IPv6 address is its network.
pub(super) fn masked(address: IpAddr, ipv6_prefix: u8) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let host_bits = 128_u32.saturating_sub(ipv6_prefix.into());
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

/// A method in capitals: some upstreams read `post` as `POST`, and it must not have a bucket of its own there.
fn method(written: &[u8]) -> Cow<'_, [u8]> {
    if written.iter().any(u8::is_ascii_lowercase) {
        Cow::Owned(written.to_ascii_uppercase())
    } else {
        Cow::Borrowed(written)
    }
}

/// All lines of a field, joined with `, `: what one line with all of it would say (RFC 9110 §5.3).
pub(super) fn header_value<'r>(headers: &'r HeaderMap, name: &HeaderName) -> Option<Cow<'r, [u8]>> {
    let mut lines = headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
    let first = lines.next()?;
    let Some(second) = lines.next() else { return Some(Cow::Borrowed(first)) };
    let mut joined = [first, b", ", second].concat();
    for line in lines {
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(line);
    }
    Some(Cow::Owned(joined))
}

/// The parameters of a query, still encoded: names and values.
pub(super) fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Whether an encoded name is that one.
pub(super) fn is_named(raw: &str, name: &str) -> bool {
    raw == name || raw.bytes().any(is_coded) && *form_decoded(raw) == *name.as_bytes()
}

/// The bytes that a part of a query stands for: `+` is a space, a broken escape is itself.
pub(super) fn form_decoded(raw: &str) -> Cow<'_, [u8]> {
    if raw.contains('+') {
        let spaced = raw.replace('+', " ");
        return Cow::Owned(percent_encoding::percent_decode_str(&spaced).collect());
    }
    percent_encoding::percent_decode_str(raw).into()
}

const fn is_coded(byte: u8) -> bool {
    matches!(byte, b'%' | b'+')
}

/// The cookies of that name over all lines (RFC 6265 §4.2), without the quotes that may stand around a value:
/// upstreams take them off, so they must not make another key.
fn cookies<'r>(headers: &'r HeaderMap, name: &[u8]) -> impl Iterator<Item = &'r [u8]> {
    let pairs = headers.get_all(header::COOKIE).iter().flat_map(|line| line.as_bytes().split(|b| *b == b';'));
    pairs.filter_map(move |pair| {
        let (found, value) = pair.split_at_checked(pair.iter().position(|byte| *byte == b'=')?)?;
        let value = value.get(1..).filter(|_| found.trim_ascii() == name)?.trim_ascii();
        Some(value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value))
    })
}

/// A normal path without parameters and trailing slash.
pub(super) fn plain_path(path: &str) -> Cow<'_, str> {
    if !path.contains(';') {
        return Cow::Borrowed(path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(path));
    }
    let mut plain = String::with_capacity(path.len());
    for segment in path::segments(path) {
        plain.push('/');
        plain.push_str(segment);
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn query(query: &str, name: &str) -> Option<String> {
        let found = parameters(query).find(|(raw, _)| is_named(raw, name));
        found.map(|(_, value)| String::from_utf8(form_decoded(value).into()).unwrap())
    }

    #[test]
    fn queries() {
        for (text, name, value) in [
            ("a=1&b=2", "b", Some("2")),
            ("a=1&a=2", "a", Some("1")),
            ("a", "a", Some("")),
            ("a=", "a", Some("")),
            ("a=b=c", "a", Some("b=c")),
            ("a=x+y%2Bz", "a", Some("x y+z")),
            ("%61=1", "a", Some("1")),
            ("a+b=1", "a b", Some("1")),
            ("a%2=1", "a%2", Some("1")),
            ("a=%zz", "a", Some("%zz")),
            ("&&a=1", "a", Some("1")),
            ("A=1", "a", None),
            ("", "a", None),
            ("=1", "", Some("1")),
        ] {
            assert_eq!(query(text, name).as_deref(), value, "{text} {name}");
        }
        assert_eq!(*form_decoded("%ff"), *b"\xff", "bytes that are no text stay themselves");
    }

    #[test]
    fn cookies() {
        for (lines, value) in [
            (&[("cookie", "sid=1")][..], Some("1")),
            (&[("cookie", "a=b; sid=1; sid=\"1\"")], Some("1")),
            (&[("cookie", "a=b"), ("cookie", "sid=1")], Some("1")),
            (&[("cookie", "sid=\"1\"")], Some("1")),
            (&[("cookie", "sid=\"1")], Some("\"1")),
            (&[("cookie", "sid=a=b")], Some("a=b")),
            (&[("cookie", "sid = 1 ;b")], Some("1")),
            (&[("cookie", "sid=")], Some("")),
            (&[("cookie", "sid")], None),
            (&[("cookie", "SID=1; xsid=2")], None),
            (&[], None),
        ] {
            let value = value.map(|value| Cow::Borrowed(value.as_bytes()));
            let headers = headers(lines);
            let found = one(super::cookies(&headers, b"sid").map(Cow::Borrowed));
            assert_eq!(found, Ok(value), "{lines:?}");
        }
    }

    /// Express reads the first cookie and Django the last; Go reads the first line of a field, others a list.
    #[test]
    fn a_value_that_is_there_twice_is_one_only_if_both_are_the_same() {
        let text = |value: &'static str| Ok(Some(Value::Text(Cow::Borrowed(value.as_bytes()))));
        let header = Reader::Header(HeaderName::from_static("x-api-key"));
        let (query, cookie) = (Reader::Query("k".into()), Reader::Cookie("k".into()));
        for (lines, parameters, reader, value) in [
            (&[("x-api-key", "a"), ("x-api-key", "a")][..], "", &header, text("a")),
            (&[("x-api-key", "a"), ("x-api-key", "b")], "", &header, Err(Ambiguous)),
            (&[("x-api-key", "a"), ("x-api-key", "a"), ("x-api-key", "")], "", &header, Err(Ambiguous)),
            (&[("x-api-key", "a, b")], "", &header, text("a, b")),
            (&[], "k=a&x=1&%6b=%61", &query, text("a")),
            (&[], "k=a&%6b=b", &query, Err(Ambiguous)),
            (&[], "k=a&k", &query, Err(Ambiguous)),
            (&[("cookie", "k=a; k=a")], "", &cookie, text("a")),
            (&[("cookie", "k=a; k=b")], "", &cookie, Err(Ambiguous)),
            (&[("cookie", "k=a"), ("cookie", "k=b")], "", &cookie, Err(Ambiguous)),
        ] {
            let (headers, method) = (headers(lines), http::Method::GET);
            let facts = Facts {
                claims: None,
                descriptor: None,
                tls_client: None,
                method: &method,
                host: "",
                path: "/",
                query: parameters,
                headers: &headers,
                client: IpAddr::from([192, 0, 2, 1]),
            };
            assert_eq!(reader.read(&facts), value, "{lines:?} {parameters}");
        }
    }

    #[test]
    fn lines_of_a_field_are_one_value() {
        let name = HeaderName::from_static("x-key");
        let value = |lines: &[&'static str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("x-key", *line)).collect();
            header_value(&headers(&lines), &name).map(|value| value.to_vec())
        };
        assert_eq!(value(&[]), None);
        assert_eq!(value(&[""]), Some(b"".to_vec()));
        assert_eq!(value(&["a", "b", "c"]), value(&["a, b, c"]));
        assert_ne!(value(&["a", "b"]), value(&["b", "a"]));
    }

    #[test]
    fn paths() {
        for (path, plain) in
            [("/", "/"), ("/a", "/a"), ("/a/", "/a"), ("/a;v=1", "/a"), ("/a;v=1/b;c/", "/a/b"), ("*", "*")]
        {
            assert_eq!(plain_path(path), plain);
        }
    }

    /// Faults row 118 and CVE-2026-30827: IPv4 inside IPv6 is not masked into one bucket for everybody.
    #[test]
    fn addresses_are_canonical_before_they_are_masked() {
        for (address, prefix, key) in [
            ("::ffff:1.2.3.4", 64, "1.2.3.4"),
            ("::ffff:102:304", 48, "1.2.3.4"),
            ("1.2.3.4", 48, "1.2.3.4"),
            ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::"),
            ("2001:db8:1:2:3:4:5:6", 56, "2001:db8:1::"),
            ("2001:db8:1:2:3:4:5:6", 48, "2001:db8:1::"),
            ("2001:db8:1:2:3:4:5:6", 128, "2001:db8:1:2:3:4:5:6"),
            ("2001:db8::1.2.3.4", 64, "2001:db8::"),
            ("64:ff9b::1.2.3.4", 64, "64:ff9b::"),
            ("2002:102:304:1::1", 64, "2002:102:304:1::"),
        ] {
            assert_eq!(masked(address.parse().unwrap(), prefix).to_string(), key, "{address}/{prefix}");
        }
    }
}
