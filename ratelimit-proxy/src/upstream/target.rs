//! [`Target`]: a server's URL.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Uri};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

/// A server that requests are forwarded to.
#[derive(Clone, Debug)]
pub struct Target {
    scheme: Scheme,
    place: Place,
    /// Which of the addresses of its name it is at, where that is known.
    at: Option<IpAddr>,
    authority: HeaderValue,
}

/// What is spoken there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 or HTTP/1.1 over TLS, as the server prefers.
    Https,
    /// HTTP/2 without TLS, which both know beforehand.
    H2c,
}

impl Scheme {
    const ALL: [(Self, &'static str, u16); 3] =
        [(Self::Http, "http", 80), (Self::Https, "https", 443), (Self::H2c, "h2c", 80)];

    const fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
        }
    }
}

#[derive(Clone, Debug)]
enum Place {
    Address(SocketAddr),
    /// To be looked up, so that a changed address is followed.
    Name(Box<str>, u16),
    /// This machine under a name of its own, whatever it listens on; never looked up (RFC 6761, §6.3).
    Here(Box<str>, u16),
}

/// Why a URL can't be an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetError {
    /// It is no URL.
    NotAUrl,
    /// Its scheme is none of `http`, `https` and `h2c`.
    Scheme,
    /// It names no host.
    NoHost,
    /// It has a path, a query or a user: requests keep their own.
    Surplus,
}

impl Target {
    /// The server that a URL such as `http://127.0.0.1:9000` names.
    ///
    /// # Errors
    /// When the URL is more, less or other than that.
    pub fn from_uri(uri: &Uri) -> Result<Self, TargetError> {
        let known = Scheme::ALL.iter().find(|(_, word, _)| uri.scheme_str() == Some(word));
        let (scheme, _, port) = known.copied().ok_or(TargetError::Scheme)?;
        let authority = uri.authority().ok_or(TargetError::NoHost)?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(TargetError::Surplus);
        }
        Self::from_authority(scheme, authority, port)
    }

    fn from_authority(scheme: Scheme, authority: &Authority, port: u16) -> Result<Self, TargetError> {
        let port = authority.port_u16().unwrap_or(port);
        let host = authority.host();
        if host.is_empty() {
            return Err(TargetError::NoHost);
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let place = match bare.parse() {
            Ok(address) => Place::Address(SocketAddr::new(address, port)),
            Err(_) if is_here(host) => Place::Here(host.into(), port),
            Err(_) => Place::Name(host.into(), port),
        };
        let authority = HeaderValue::from_str(authority.as_str()).map_err(|_| TargetError::NotAUrl)?;
        Ok(Self { scheme, place, at: None, authority })
    }

    /// What is spoken there.
    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The name that a certificate must have.
    ///
    /// # Errors
    /// When there can be no certificate for such a name.
    pub(super) fn name(&self) -> io::Result<ServerName<'static>> {
        match &self.place {
            Place::Address(address) => Ok(ServerName::IpAddress(address.ip().into())),
            Place::Name(host, _) | Place::Here(host, _) => {
                let host = host.strip_suffix('.').unwrap_or(host);
                ServerName::try_from(host.to_owned()).map_err(io::Error::other)
            }
        }
    }

    /// The URL of something there.
    pub(super) fn uri(&self, path: &PathAndQuery) -> Uri {
        let scheme =
            if self.scheme == Scheme::Https { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP };
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(scheme);
        parts.authority = Authority::try_from(self.authority.as_bytes()).ok();
        parts.path_and_query = Some(path.clone());
        Uri::from_parts(parts).unwrap_or_default()
    }

    /// Its host and port, as a `Host` field says it.
    pub(crate) fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// The name that has to be looked up, in lower case.
    pub(super) fn host(&self) -> Option<Box<str>> {
        match &self.place {
            Place::Name(host, _) => Some(host.to_ascii_lowercase().into()),
            Place::Address(_) | Place::Here(..) => None,
        }
    }

    /// The same, at that address of its name.
    pub(super) fn at(&self, address: IpAddr) -> Self {
        Self { at: Some(address), ..self.clone() }
    }

    /// Which of the addresses of its name it is at, where that is known.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.at
    }

    /// Connects to it. `found`: where its name leads, if it is at none of the addresses in particular.
    pub(super) async fn connect(
        &self,
        found: impl Future<Output = io::Result<Arc<[IpAddr]>>>,
    ) -> io::Result<TcpStream> {
        let socket = match (&self.place, self.at) {
            (Place::Address(address), _) => TcpStream::connect(address).await?,
            (Place::Name(_, port), Some(address)) => TcpStream::connect((address, *port)).await?,
            (Place::Name(_, port), None) => {
                let sockets: Vec<_> =
                    found.await?.iter().map(|address| SocketAddr::new(*address, *port)).collect();
                TcpStream::connect(&*sockets).await?
            }
            (Place::Here(_, port), _) => {
                let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                TcpStream::connect(&both.map(|address| SocketAddr::new(address, *port))[..]).await?
            }
        };
        socket.set_nodelay(true)?;
        Ok(socket)
    }
}

/// `localhost` and what is below it.
fn is_here(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost"))
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(url: &str) -> Result<Self, TargetError> {
        Self::from_uri(&url.parse().map_err(|_| TargetError::NotAUrl)?)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Address(address) => write!(f, "{}://{address}", self.scheme.word()),
            Place::Name(host, port) | Place::Here(host, port) => {
                write!(f, "{}://{host}:{port}", self.scheme.word())
            }
        }
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAUrl => "this is no URL; write one such as http://127.0.0.1:9000",
            Self::Scheme => "the scheme of an upstream is http, https or h2c",
            Self::NoHost => "the upstream's URL names no host",
            Self::Surplus => "an upstream's URL has no path, query or user: requests keep their own",
        })
    }
}

impl std::error::Error for TargetError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_have_to_be_looked_up() {
        for (url, host) in [
            ("http://App.Test.:81", Some("app.test.")),
            ("http://localhost", None),
            ("http://a.LOCALHOST.", None),
            ("http://notlocalhost", Some("notlocalhost")),
            ("http://[::1]", None),
            ("http://127.1", Some("127.1")),
        ] {
            assert_eq!(url.parse::<Target>().unwrap().host().as_deref(), host, "{url}");
        }
    }

    #[test]
    fn urls_that_are_upstreams_and_urls_that_are_not() {
        for (url, shown) in [
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
            ("http://localhost", "http://localhost:80"),
            ("http://[::1]:81/", "http://[::1]:81"),
            ("https://a.example", "https://a.example:443"),
            ("h2c://a", "h2c://a:80"),
        ] {
            assert_eq!(url.parse::<Target>().unwrap().to_string(), shown);
        }
        for (url, error) in [
            ("127.0.0.1:9000", TargetError::Scheme),
            ("h2://a", TargetError::Scheme),
            ("ftp://a", TargetError::Scheme),
            ("http://a/path", TargetError::Surplus),
            ("http://a?q", TargetError::Surplus),
            ("http://user@a", TargetError::Surplus),
            ("not a url", TargetError::NotAUrl),
        ] {
            assert_eq!(url.parse::<Target>().err(), Some(error), "{url}");
        }
    }
}
