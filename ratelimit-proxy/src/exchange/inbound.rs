//! Takes a request in: what the grammar lets through and must not pass (RFC 9112 §3, §6; the request smuggling
//! literature), and what the rest of the exchange needs to know of it. Pure; nothing is changed here.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Uri, Version};

use super::hop;
use crate::facts::Facts;
use crate::fault::Fault;
use crate::path::NormalPath;
use crate::policy::Policy;
use crate::rules::Rules;
use crate::state::Client;
use crate::upstream::LocalGroup;

/// Bytes that the names and values of a head may have together.
const MAX_HEAD: usize = 64 * 1024;

/// A request that may be asked about.
#[derive(Debug)]
pub(crate) struct Inbound<'r> {
    /// In lower case, without port; empty if an HTTP/1.0 client names none.
    pub(crate) host: Cow<'r, str>,
    /// What limits match.
    pub(crate) path: Path<'r>,
    pub(crate) query: &'r str,
    /// What `Host` has to say, where it must be said differently from how it came.
    authority: Option<&'r str>,
    absolute: bool,
}

/// The path as limits see it.
#[derive(Debug)]
pub(crate) enum Path<'r> {
    /// As it came, because no limit looks at it, or because it is the `*` of OPTIONS.
    Raw(&'r str),
    /// Its one canonical form.
    Normal(NormalPath<'r>),
}

/// What is to be changed before the request is forwarded; independent of the head it was worked out from.
#[derive(Debug)]
pub(super) struct Outbound {
    /// The target, if it is not the one that came.
    pub(super) target: Option<Uri>,
    /// The host, if it is not the one that came.
    pub(super) host: Option<HeaderValue>,
}

/// How a head goes on to the upstream.
#[derive(Debug)]
pub(super) struct Onward {
    pub(super) told: hop::Told,
    /// The protocols that it asks for instead of HTTP.
    pub(super) asked: Option<HeaderValue>,
}

impl Path<'_> {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Path::Raw(path) => path,
            Path::Normal(path) => path.as_str(),
        }
    }
}

/// Takes a request in. `path_scoped`: some limit looks at the path, so it must be readable in one way only.
pub(crate) fn admit(head: &Parts, path_scoped: bool) -> Result<Inbound<'_>, Fault> {
    method(&head.method)?;
    let seen = Survey::of(&head.headers);
    if seen.bytes > MAX_HEAD {
        return Err(Fault::HeadTooLarge);
    }
    let uri = &head.uri;
    let named = match uri.authority() {
        Some(authority) if head.version == Version::HTTP_2 => seen.host_beside(authority.as_str())?,
        _ => seen.host(head.version)?,
    };
    let (authority, absolute) = match (uri.scheme(), uri.authority()) {
        (None, None) => (None, false),
        (Some(scheme), Some(authority)) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => {
            (Some(authority.as_str()), true)
        }
        (Some(_), _) => return Err(Fault::Malformed("the scheme of the request target is not http")),
        (None, Some(_)) => return Err(Fault::Malformed("the request target is neither a path nor a URL")),
    };
    // The target's host wins over the field (RFC 9112 §3.2.2).
    let host = match authority {
        Some(authority) => host(authority)?,
        None => named,
    };
    let path = match uri.path() {
        "*" if head.method == Method::OPTIONS => Path::Raw("*"),
        "*" => return Err(Fault::Malformed("the request target * is for OPTIONS only")),
        path if !path.starts_with('/') => {
            return Err(Fault::Malformed("the request target is neither a path nor a URL"));
        }
        path if path_scoped => Path::Normal(NormalPath::parse(path).map_err(|_| Fault::AmbiguousPath)?),
        path => Path::Raw(path),
    };
    Ok(Inbound { host: canonical(host), path, query: uri.query().unwrap_or_default(), authority, absolute })
}

impl Inbound<'_> {
    /// What the limits may look at of a request that comes from `peer`: nothing but its head. Who knows more of the
    /// client than that adds it.
    #[inline]
    pub(crate) fn facts<'f>(&'f self, head: &'f Parts, policy: &Policy, peer: IpAddr) -> Facts<'f> {
        Facts {
            method: &head.method,
            host: &self.host,
            path: self.path.as_str(),
            query: self.query,
            headers: &head.headers,
            client: policy.client(peer, &head.headers),
            claims: None,
            descriptor: None,
            tls_client: None,
        }
    }

    /// Whether it fits the connection that it came on.
    pub(super) fn suits(&self, head: &Parts, scheme: &str) -> Result<(), Fault> {
        // Over TLS nothing is plain. The other way round, somebody in front of us may have taken TLS away.
        let plain = head.version == Version::HTTP_2 && head.uri.scheme() == Some(&Scheme::HTTP);
        if plain && scheme == "https" {
            return Err(Fault::Malformed("the scheme of the request is not that of the connection"));
        }
        Ok(())
    }

    /// What must be changed before it is forwarded.
    pub(super) fn outbound(&self, uri: &Uri) -> Result<Outbound, Fault> {
        let bad = |_| Fault::Malformed("the request target is neither a path nor a URL");
        let rewritten = match &self.path {
            Path::Normal(path) if !path.is_unchanged() => {
                let mut target = path.as_str().to_owned();
                if let Some(query) = uri.query() {
                    target.push('?');
                    target.push_str(query);
                }
                Some(PathAndQuery::from_maybe_shared(target).map_err(bad)?.into())
            }
            _ if self.absolute => {
                Some(uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")).into())
            }
            _ => None,
        };
        let host = match self.authority {
            Some(authority) => {
                Some(HeaderValue::from_str(authority).map_err(|_| Fault::Malformed(BAD_HOST))?)
            }
            None => None,
        };
        Ok(Outbound { target: rewritten, host })
    }
}

impl Outbound {
    /// Makes the head of a request that was let in fit for the upstream.
    pub(super) fn apply(
        self,
        head: &mut Parts,
        client: &Client,
        rules: &Rules,
        upstream: &LocalGroup,
        may_upgrade: bool,
    ) -> Onward {
        if let Some(target) = self.target {
            head.uri = target;
        }
        let (found, asked) = hop::strip_request(&mut head.headers, &rules.policy, may_upgrade);
        if let Some(host) = self.host {
            head.headers.insert(header::HOST, host);
        } else if !head.headers.contains_key(header::HOST)
            && let Some(server) = upstream.group.servers.first()
        {
            head.headers.insert(header::HOST, server.target.authority().clone());
        }
        let trusted = rules.policy.trusts(client.peer);
        Onward { told: hop::tell(head, found, client, trusted, rules.policy.told_by()), asked }
    }
}

fn method(method: &Method) -> Result<(), Fault> {
    // CONNECT makes tunnels, and TRACE echoes fields that scripts must not see.
    if *method == Method::CONNECT || *method == Method::TRACE { Err(Fault::Method) } else { Ok(()) }
}

/// What is to be known of a head's fields, found in one pass.
#[derive(Default)]
struct Survey<'r> {
    /// Of names and values.
    bytes: usize,
    host: Option<&'r HeaderValue>,
    hosts: usize,
}

impl<'r> Survey<'r> {
    fn of(headers: &'r HeaderMap) -> Self {
        let mut seen = Self::default();
        for (name, value) in headers {
            seen.bytes += name.as_str().len() + value.len();
            if *name == header::HOST {
                seen.host = Some(value);
                seen.hosts += 1;
            }
        }
        seen
    }

    /// The host of `:authority`, which a `Host` field beside it must not deny (RFC 9113 §8.3.1).
    fn host_beside(&self, authority: &'r str) -> Result<&'r str, Fault> {
        match (self.host, self.hosts) {
            (None, _) => host(authority),
            (Some(line), 1) if line.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => host(authority),
            _ => Err(Fault::Malformed(BAD_HOST)),
        }
    }

    /// The one `Host` field; HTTP/1.0 may do without.
    fn host(&self, version: Version) -> Result<&'r str, Fault> {
        match (self.host, self.hosts) {
            (Some(line), 1) => host(line.to_str().map_err(|_| Fault::Malformed(BAD_HOST))?),
            (None, _) if version == Version::HTTP_10 => Ok(""),
            _ => Err(Fault::Malformed(BAD_HOST)),
        }
    }
}

const BAD_HOST: &str = "the host is missing, invalid or given more than once";

/// The host of an authority, without its port; nothing else may be there (RFC 3986 §3.2). A comma is a valid
/// character of a name there, but on the wire it means two fields that somebody joined.
fn host(authority: &str) -> Result<&str, Fault> {
    let bad = Err(Fault::Malformed(BAD_HOST));
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return bad };
        if address.parse::<Ipv6Addr>().is_err() {
            return bad;
        }
        (authority.get(..address.len() + 2).unwrap_or_default(), port)
    } else {
        let end = authority.bytes().position(|byte| !is_reg_name(byte)).unwrap_or(authority.len());
        // What ends it can only be the colon before a port.
        match authority.split_at_checked(end) {
            Some(parts) if end > 0 => parts,
            _ => return bad,
        }
    };
    let digits = port.strip_prefix(':').unwrap_or("0");
    if !port.is_empty() && !port.starts_with(':')
        || !digits.bytes().all(|byte| byte.is_ascii_digit())
        || !digits.is_empty() && digits.parse::<u16>().is_err()
    {
        return bad;
    }
    Ok(host)
}

/// Whether that is a character of a name (RFC 3986 §3.2.2); the comma is not. A bit for each, in words of the processor,
/// because every request asks for every character of its host.
const fn is_reg_name(byte: u8) -> bool {
    const LOW: u64 = names(0);
    const HIGH: u64 = names(64);
    let names = match byte {
        0..64 => LOW,
        64..128 => HIGH,
        _ => 0,
    };
    names >> (byte & 63) & 1 == 1
}

/// Which of the 64 characters from `first` on may stand in a name.
const fn names(first: u8) -> u64 {
    let mut names = 0;
    let mut bit = 0;
    while bit < 64 {
        let is_one = matches!(
            first + bit,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9'
            | b'-' | b'.' | b'_' | b'~' | b'%'
            | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'='
        );
        names |= (is_one as u64) << bit;
        bit += 1;
    }
    names
}

/// A host as limits see it: in lower case and without the dot that may end a full name, since upstreams take
/// both spellings for the same host.
fn canonical(host: &str) -> Cow<'_, str> {
    let host = host.strip_suffix('.').filter(|name| !name.is_empty()).unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (authority, expected) in [
            ("example.com", "example.com"),
            ("example.com:8080", "example.com"),
            ("example.com:", "example.com"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("[::1]:80", "[::1]"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("under_score", "under_score"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(host(authority).unwrap_or_default(), expected, "{authority}");
        }
        for authority in [
            "", ":80", "a,b", "a b", "user@a", "a:b", "a:65536", "a:-1", "a:1:2", "[::1", "[::1]x", "[zz]",
            "a/b", "a?b", "a#b", "a\\b", "a\"b", "a<b", "\u{e4}",
        ] {
            assert!(host(authority).is_err(), "{authority}");
        }
        assert_eq!(canonical("Example.COM"), "example.com");
        assert_eq!(canonical("example.com."), "example.com");
    }
}
