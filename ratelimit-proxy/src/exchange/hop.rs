//! What changes in a message's head on its way through, in either direction (RFC 9110 §7.6).
//!
//! Hop-by-hop fields are removed *before* ours are added, so that a client can't nominate ours away. Deviation
//! from the RFC, on purpose: a `Connection` field that nominates what routing, framing or authentication needs
//! is not obeyed for those names, because obeying it lets a client hide them from the upstream (CVE-2022-31813
//! was of that kind).

use std::net::IpAddr;

use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderValue as Value, Version};
use smallvec::SmallVec;

use super::upgrade;
use crate::http1::fields::elements;
use crate::policy::Policy;
use crate::state::{Client, Forwarding};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Never removed because a `Connection` field says so.
const NOT_NOMINABLE: [&str; 16] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "forwarded",
    "host",
    "set-cookie",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "retry-after",
];

/// Names that upstreams read as the same thing when they are written with underscores (CGI, WSGI and their
/// kin), and that say who a request comes from.
const NO_TWINS: [&str; 12] = [
    "authorization",
    "cf-connecting-ip",
    "content-length",
    "content-type",
    "forwarded",
    "host",
    "transfer-encoding",
    "true-client-ip",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// What else says how a request is to be read, sent or answered (RFC 9110 §6.5.1): never behind its body.
const NEVER_TRAILS: [&str; 13] = [
    "connection",
    "expect",
    "keep-alive",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Takes from a request's head what must not reach the upstream, and returns what was found. Fields that limits
/// depend on can't be nominated away, or a client would be counted by a value that the upstream never sees, and
/// no twin of them may pass.
///
/// `may_upgrade`: the request is one that may ask for another protocol. If it does, that is left in, and returned.
pub(super) fn strip_request(
    headers: &mut HeaderMap,
    policy: &Policy,
    may_upgrade: bool,
) -> (Hop, Option<HeaderValue>) {
    let found = Hop::of(headers);
    let takes_trailers = found.has(Hop::TE) && wants_trailers(headers);
    let asks = may_upgrade && found.has(Hop::UPGRADE) && found.has(Hop::CONNECTION);
    let upgrade = if asks { upgrade::protocols(headers) } else { None };
    strip(headers, found, |name| policy.is_key(name));
    if found.has(Hop::TRAILER) {
        announce_trailers(headers, policy);
    }
    if found.has(Hop::EXPECT) {
        headers.remove(header::EXPECT);
    }
    if found.has(Hop::UNDERSCORE) || policy.has_underscores() {
        remove_twins(headers, policy);
    }
    let kept = match (takes_trailers, &upgrade) {
        (false, None) => None,
        (true, None) => Some("te"),
        (false, Some(_)) => Some("upgrade"),
        (true, Some(_)) => Some("te, upgrade"),
    };
    if let Some(kept) = kept {
        headers.insert(header::CONNECTION, Value::from_static(kept));
    }
    if takes_trailers {
        headers.insert(header::TE, Value::from_static("trailers"));
    }
    if let Some(protocols) = &upgrade {
        headers.insert(header::UPGRADE, protocols.clone());
    }
    (found, upgrade)
}

/// HTTP/2 may send cookies one by one; everybody else reads one list of them (RFC 9113 §8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return };
    let mut list = first.as_bytes().to_vec();
    for line in std::iter::once(second).chain(lines) {
        list.extend_from_slice(b"; ");
        list.extend_from_slice(line.as_bytes());
    }
    if let Ok(list) = HeaderValue::from_maybe_shared(list) {
        headers.insert(header::COOKIE, list);
    }
}

/// Makes a response's head fit for the client. `Trailer` stays: it tells which trailers may follow.
pub(super) fn strip_response(headers: &mut HeaderMap, length: Option<u64>) {
    strip(headers, Hop::of(headers), |_| false);
    canonical_length(headers, length);
}

/// Leaves at most one `Content-Length`, written as we would write it. `length` is what the body was found to
/// have; a response to HEAD tells the length of a body that does not come.
pub(super) fn canonical_length(headers: &mut HeaderMap, length: Option<u64>) {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lines.next() else { return };
    let canonical = |value: &HeaderValue| match value.as_bytes() {
        [b'0'] => true,
        [b'0', ..] | [] => false,
        digits => digits.iter().all(u8::is_ascii_digit),
    };
    if lines.next().is_none() && canonical(first) {
        return;
    }
    let told = first.to_str().ok().and_then(|text| text.split(',').next()?.trim().parse().ok());
    match length.filter(|length| *length > 0).or(told) {
        Some(length) => drop(headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length))),
        None => drop(headers.remove(header::CONTENT_LENGTH)),
    }
}

/// Trailers can carry nothing that belongs to a head.
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    strip(trailers, Hop::of(trailers), |_| false);
    for name in [header::CONTENT_LENGTH, header::HOST, header::SET_COOKIE, header::AUTHORIZATION] {
        trailers.remove(name);
    }
}

/// Nor those of a request anything that says who it comes from, in any spelling, that limits depend on, or that changes
/// what the request means: some servers read them as fields of the head.
pub(super) fn strip_request_trailers(trailers: &mut HeaderMap, policy: &Policy) {
    strip_trailers(trailers);
    let names: SmallVec<[HeaderName; 2]> =
        trailers.keys().filter(|name| !may_trail(name, policy)).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
}

/// Whether a request may have that field behind its body.
fn may_trail(name: &HeaderName, policy: &Policy) -> bool {
    let dashed = name.as_str().replace('_', "-");
    !(policy.is_key(name)
        || policy.is_twin(name)
        || NO_TWINS.contains(&&*dashed)
        || NOT_NOMINABLE.contains(&&*dashed)
        || NEVER_TRAILS.contains(&&*dashed)
        || dashed.starts_with("if-"))
}

/// Leaves of `Trailer` the fields that will pass; nothing where no trailers can come, as behind a body whose length was
/// told. On one line.
fn announce_trailers(headers: &mut HeaderMap, policy: &Policy) {
    let named = headers.get_all(header::TRAILER).iter().flat_map(elements);
    let passing =
        named.filter_map(|name| HeaderName::from_bytes(name).ok()).filter(|name| may_trail(name, policy));
    let line = passing.map(|name| name.as_str().to_owned()).collect::<Vec<_>>().join(", ");
    match HeaderValue::from_maybe_shared(line) {
        Ok(line) if !line.is_empty() && !headers.contains_key(header::CONTENT_LENGTH) => {
            headers.insert(header::TRAILER, line);
        }
        _ => drop(headers.remove(header::TRAILER)),
    }
}

/// Which fields of interest a head has, found in one pass over the names.
#[derive(Clone, Copy, Default)]
pub(super) struct Hop(u16);

impl Hop {
    const CONNECTION: u16 = 1;
    const TE: u16 = 1 << 1;
    const TRANSFER_ENCODING: u16 = 1 << 2;
    const UPGRADE: u16 = 1 << 3;
    const PROXY: u16 = 1 << 4;
    const TRAILER: u16 = 1 << 5;
    const EXPECT: u16 = 1 << 6;
    const OTHER: u16 = 1 << 7;
    const UNDERSCORE: u16 = 1 << 8;
    /// What [`Told`] is about.
    const FORWARDING: u16 = 1 << 9;

    fn of(headers: &HeaderMap) -> Self {
        let mut found = 0;
        for name in headers.keys() {
            found |= match name.as_str() {
                "connection" => Self::CONNECTION,
                "te" => Self::TE,
                "transfer-encoding" => Self::TRANSFER_ENCODING,
                "upgrade" => Self::UPGRADE,
                "proxy-authenticate" | "proxy-authorization" => Self::PROXY,
                "trailer" => Self::TRAILER,
                "expect" => Self::EXPECT,
                "keep-alive" | "proxy-connection" | "http2-settings" => Self::OTHER,
                "forwarded" | "via" | "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host"
                | "x-real-ip" => Self::FORWARDING,
                text if text.as_bytes().contains(&b'_') => Self::UNDERSCORE,
                _ => 0,
            };
        }
        Self(found)
    }

    const fn has(self, field: u16) -> bool {
        self.0 & field != 0
    }
}

fn strip(headers: &mut HeaderMap, found: Hop, is_key: impl Fn(&HeaderName) -> bool) {
    if found.has(Hop::CONNECTION) {
        let nominated = nominated(headers);
        for name in nominated.into_iter().filter(|name| !is_key(name)) {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    if found.has(Hop::TE) {
        headers.remove(header::TE);
    }
    if found.has(Hop::TRANSFER_ENCODING) {
        headers.remove(header::TRANSFER_ENCODING);
        // Beside a transfer coding a length means nothing, and who reads it all the same can be misled.
        headers.remove(header::CONTENT_LENGTH);
    }
    if found.has(Hop::UPGRADE) {
        headers.remove(header::UPGRADE);
    }
    if found.has(Hop::PROXY) {
        headers.remove(header::PROXY_AUTHENTICATE);
        headers.remove(header::PROXY_AUTHORIZATION);
    }
    if found.has(Hop::OTHER) {
        headers.remove(KEEP_ALIVE);
        headers.remove(PROXY_CONNECTION);
        headers.remove(HTTP2_SETTINGS);
    }
}

/// The fields that all `Connection` lines together name.
fn nominated(headers: &HeaderMap) -> SmallVec<[HeaderName; 4]> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(elements)
        .filter(|token| !token.eq_ignore_ascii_case(b"close") && !token.eq_ignore_ascii_case(b"keep-alive"))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| !NOT_NOMINABLE.contains(&name.as_str()))
        .collect()
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::TE)
        .iter()
        .flat_map(elements)
        .any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

fn remove_twins(headers: &mut HeaderMap, policy: &Policy) {
    let mistaken = |name: &HeaderName| {
        name.as_str().contains('_') && NO_TWINS.contains(&name.as_str().replace('_', "-").as_str())
    };
    let twin = |name: &&HeaderName| !policy.is_key(name) && mistaken(name) || policy.is_twin(name);
    let twins: SmallVec<[HeaderName; 2]> = headers.keys().filter(twin).cloned().collect();
    for name in twins {
        headers.remove(name);
    }
}

/// How the upstream is told where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// In the fields of its head.
    InFields,
    /// In lines to be sent behind them, which are the same for all requests to one host.
    InLines,
}

/// Tells the upstream where a request came from. `trusted`: the peer is a proxy whose word on the client and the
/// original protocol and host is taken. Anybody else's is replaced: upstreams often read the first address of
/// a list, which would be the client's own invention. `told_by` is the field that proxies write the client in.
pub(super) fn tell(
    head: &mut Parts,
    found: Hop,
    client: &Client,
    trusted: bool,
    told_by: Option<&HeaderName>,
) -> Told {
    let (peer, scheme) = (client.peer, client.scheme());
    let headers = &mut head.headers;
    if !trusted && let Some(name) = told_by {
        headers.remove(name);
    }
    if !found.has(Hop::FORWARDING) && head.version != Version::HTTP_10 {
        return Told::InLines;
    }
    let Some(host) = headers.get(header::HOST).cloned() else { return Told::InFields };
    if !trusted {
        for name in [X_FORWARDED_FOR, header::FORWARDED, X_FORWARDED_PROTO, X_FORWARDED_HOST, X_REAL_IP] {
            headers.remove(name);
        }
    }
    extend(headers, X_FORWARDED_FOR, value(peer.to_string().into(), "unknown"));
    extend(headers, header::FORWARDED, value(forwarded(peer, scheme, &host), "for=unknown"));
    if !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, Value::from_static(scheme));
    }
    if !headers.contains_key(X_FORWARDED_HOST) {
        headers.insert(X_FORWARDED_HOST, host);
    }
    add_via(headers, head.version);
    Told::InFields
}

fn value(bytes: Vec<u8>, otherwise: &'static str) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes).unwrap_or(HeaderValue::from_static(otherwise))
}

/// Says that the message passed through here, having come in that version.
pub(super) fn add_via(headers: &mut HeaderMap, version: Version) {
    extend(headers, header::VIA, via(version));
}

fn via(version: Version) -> HeaderValue {
    match version {
        Version::HTTP_10 => const { Value::from_static("1.0 ratelimit-proxy") },
        Version::HTTP_2 => const { Value::from_static("2.0 ratelimit-proxy") },
        _ => const { Value::from_static("1.1 ratelimit-proxy") },
    }
}

/// Appends to a list, on one line: some upstreams read the first line only.
fn extend(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    let mut lines = match headers.entry(name) {
        Entry::Vacant(nothing) => {
            nothing.insert(value);
            return;
        }
        Entry::Occupied(lines) => lines,
    };
    let mut list = Vec::with_capacity(128);
    for line in lines.iter() {
        list.extend_from_slice(line.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(value.as_bytes());
    lines.insert(HeaderValue::from_maybe_shared(list).unwrap_or(value));
}

impl Forwarding {
    /// The lines for a request from `peer`; made anew only where its host is another than the last.
    pub(super) fn lines(&mut self, peer: IpAddr, scheme: &str, head: &Parts, told: Told) -> &[u8] {
        let host = head.headers.get(header::HOST).filter(|_| told == Told::InLines);
        let Some(host) = host else { return b"" };
        if self.host.as_ref() != Some(host) {
            // Not a slice of what came, which it would keep for as long as the connection is there.
            self.host = HeaderValue::from_bytes(host.as_bytes()).ok();
            self.lines = lines(peer, scheme, head.version, host);
        }
        &self.lines
    }
}

/// What [`tell`] would put into fields where none of them is.
fn lines(peer: IpAddr, scheme: &str, version: Version, host: &HeaderValue) -> Vec<u8> {
    let mut lines = Vec::with_capacity(256);
    for (name, value) in [
        (X_FORWARDED_FOR, peer.to_string().as_bytes()),
        (header::FORWARDED, &forwarded(peer, scheme, host)),
        (X_FORWARDED_PROTO, scheme.as_bytes()),
        (X_FORWARDED_HOST, host.as_bytes()),
        (header::VIA, via(version).as_bytes()),
    ] {
        lines.extend_from_slice(name.as_str().as_bytes());
        lines.extend_from_slice(b": ");
        lines.extend_from_slice(value);
        lines.extend_from_slice(b"\r\n");
    }
    lines
}

/// One element of `Forwarded` (RFC 7239).
fn forwarded(peer: IpAddr, scheme: &str, host: &HeaderValue) -> Vec<u8> {
    let mut element = match peer {
        IpAddr::V4(peer) => format!("for={peer}"),
        IpAddr::V6(peer) => format!("for=\"[{peer}]\""),
    }
    .into_bytes();
    // A host that was let in has no character that a quoted string would escape.
    element.extend_from_slice(b";host=\"");
    element.extend_from_slice(host.as_bytes());
    element.extend_from_slice(b"\";proto=");
    element.extend_from_slice(scheme.as_bytes());
    element
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::words::{KeyPart, Source};
    use crate::config::{ClientIp, LimitConfig};
    use ratelimit_core::{Limit, Rate};

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    /// Limits by these fields.
    fn keyed(names: &[&'static str]) -> Policy {
        let limit = |name: &&'static str| LimitConfig {
            key: vec![KeyPart::One(Source::Header(HeaderName::from_static(name)))],
            ..LimitConfig::new(Limit::new(*name, Rate::per_hour(1)))
        };
        let limits: Vec<_> = names.iter().map(limit).collect();
        Policy::build(&ClientIp::default(), &[], &limits)
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn hop_by_hop_fields_go_whatever_line_names_them() {
        let mut request = headers(&[
            ("host", "a"),
            ("connection", "close, X-One"),
            ("connection", "x-two ,, X-Forwarded-For, Host, Authorization"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("x-forwarded-for", "1.2.3.4"),
            ("authorization", "Bearer t"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip"),
            ("trailer", "x-late"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQ"),
            ("proxy-authorization", "Basic x"),
            ("expect", "100-continue"),
        ]);
        strip_request(&mut request, &keyed(&[]), false);
        assert_eq!(names(&request), ["authorization", "host", "trailer", "x-forwarded-for", "x-three"]);
    }

    #[test]
    fn trailers_may_be_asked_for() {
        let mut request = headers(&[("host", "a"), ("te", "gzip, Trailers"), ("connection", "TE")]);
        strip_request(&mut request, &keyed(&[]), false);
        assert_eq!(request["te"], "trailers");
        assert_eq!(request["connection"], "te");
    }

    #[test]
    fn a_length_beside_a_transfer_coding_goes() {
        let mut response =
            headers(&[("content-length", "5"), ("transfer-encoding", "chunked"), ("etag", "x")]);
        strip_response(&mut response, None);
        assert_eq!(names(&response), ["etag"]);
    }

    #[test]
    fn lengths_are_written_one_way() {
        for (lines, length, written) in [
            (&["5"][..], Some(5), Some("5")),
            (&["0"], Some(0), Some("0")),
            (&["005"], Some(5), Some("5")),
            (&["5, 5"], Some(5), Some("5")),
            (&["5", "5"], Some(5), Some("5")),
            (&["7", "7"], Some(0), Some("7")),
            (&["x"], Some(0), None),
        ] {
            let mut response = HeaderMap::new();
            for line in lines {
                response.append(header::CONTENT_LENGTH, HeaderValue::from_static(line));
            }
            canonical_length(&mut response, length);
            let lines: Vec<_> = response.get_all(header::CONTENT_LENGTH).iter().collect();
            assert_eq!(lines, written.as_slice(), "{lines:?}");
        }
    }

    #[test]
    fn twins_with_underscores_go_where_they_could_be_mistaken() {
        let mut request = headers(&[
            ("x_forwarded_for", "6.6.6.6"),
            ("x-forwarded_for", "6.6.6.6"),
            ("content_length", "3"),
            ("x_api_key", "stolen"),
            ("my_own", "fine"),
            ("own_key", "fine"),
        ]);
        strip_request(&mut request, &keyed(&["x-api-key", "own_key"]), false);
        assert_eq!(names(&request), ["my_own", "own_key"]);
        // The other way round: the key has the underscore.
        let mut request = headers(&[("own-key", "stolen"), ("x-other", "fine")]);
        strip_request(&mut request, &keyed(&["own_key"]), false);
        assert_eq!(names(&request), ["x-other"]);
    }

    #[test]
    fn what_limits_depend_on_can_not_be_nominated_away() {
        let mut request = headers(&[("connection", "X-Api-Key, x-one"), ("x-api-key", "k"), ("x-one", "1")]);
        strip_request(&mut request, &keyed(&["x-api-key"]), false);
        assert_eq!(names(&request), ["x-api-key"]);
    }

    #[test]
    fn trailers_of_requests_say_nothing_of_who_they_are_from() {
        let mut trailers = headers(&[
            ("x-checksum", "1"),
            ("x_forwarded_for", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("cookie", "a=b"),
            ("authorization", "Basic x"),
            ("x-api-key", "stolen"),
            ("x_api_key", "stolen"),
            ("content-length", "5"),
            ("connection", "close"),
            ("te", "trailers"),
            ("range", "bytes=0-1"),
            ("if-none-match", "*"),
            ("max-forwards", "0"),
        ]);
        strip_request_trailers(&mut trailers, &keyed(&["x-api-key"]));
        assert_eq!(names(&trailers), ["x-checksum"]);
    }

    #[test]
    fn trailers_are_announced_that_will_pass() {
        let clean = |lines: &[(&'static str, &'static str)]| {
            let mut request = headers(lines);
            strip_request(&mut request, &keyed(&["x-api-key"]), false);
            request.remove(header::TRAILER)
        };
        for (lines, announced) in [
            (&[("trailer", "X-One, x-two"), ("trailer", "x-three,")][..], Some("x-one, x-two, x-three")),
            (&[("trailer", "host, x_api_key, X-Api-Key, x-one, if-match, transfer_encoding")], Some("x-one")),
            (&[("trailer", "content-length, upgrade")], None),
            (&[("trailer", "a b, \"")], None),
            (&[("trailer", "")], None),
            // Nothing is behind such a body.
            (&[("trailer", "x-one"), ("content-length", "5")], None),
            (
                &[("trailer", "x-one"), ("transfer-encoding", "chunked"), ("content-length", "5")],
                Some("x-one"),
            ),
        ] {
            assert_eq!(
                clean(lines).as_ref().map(HeaderValue::as_bytes),
                announced.map(str::as_bytes),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn lists_are_extended_on_one_line() {
        let mut request = headers(&[("via", "1.0 a"), ("via", "1.1 b")]);
        add_via(&mut request, Version::HTTP_11);
        let lines: Vec<_> = request.get_all("via").iter().collect();
        assert_eq!(lines, ["1.0 a, 1.1 b, 1.1 ratelimit-proxy"]);
    }

    #[test]
    fn forwarded_quotes_what_is_no_token() {
        let host = HeaderValue::from_static("example.com:8080");
        let v4 = forwarded(IpAddr::from([192, 0, 2, 1]), "http", &host);
        assert_eq!(v4, b"for=192.0.2.1;host=\"example.com:8080\";proto=http");
        let v6 = forwarded("2001:db8::1".parse().unwrap(), "http", &host);
        assert_eq!(v6, b"for=\"[2001:db8::1]\";host=\"example.com:8080\";proto=http");
    }

    #[test]
    fn lines_are_for_one_host() {
        let peer = IpAddr::from([192, 0, 2, 1]);
        let mut known = Forwarding::default();
        for host in ["a", "b", "b", "a"] {
            let head = http::Request::get("/").header("host", host).body(()).unwrap().into_parts().0;
            let expected = format!(
                "x-forwarded-for: 192.0.2.1\r\nforwarded: for=192.0.2.1;host=\"{host}\";proto=http\r\n\
                 x-forwarded-proto: http\r\nx-forwarded-host: {host}\r\nvia: 1.1 ratelimit-proxy\r\n"
            );
            assert_eq!(known.lines(peer, "http", &head, Told::InLines), expected.as_bytes());
            assert_eq!(known.lines(peer, "http", &head, Told::InFields), b"");
        }
    }
}
