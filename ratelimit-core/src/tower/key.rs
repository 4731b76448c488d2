//! Keys of requests: what a key function may return, and the ready-made ones.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::header::{HeaderName, HeaderValue};
use http::{Extensions, Request};

use crate::key::{AsKey, KeyBuf};

/// The peer's address, for servers that have no such extension of their own: whoever accepts the connection
/// inserts it into each request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddr(pub SocketAddr);

/// Why a request has no key.
///
/// Return it from a key function to refuse the request. To count all requests without a value together
/// instead, return an `Option`: `None` is a key of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// Nobody put the peer's address into the request's extensions. The server's fault: answered 500.
    MissingPeer,
    /// The request lacks this header. The client's fault: answered 400.
    MissingHeader(HeaderName),
    /// Something else; the text is for the log, not for the client. Answered 500.
    Other(Cow<'static, str>),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingPeer => f.write_str(
                "the request does not carry its peer's address: with axum (feature `axum`), serve \
                 `app.into_make_service_with_connect_info::<SocketAddr>()`; with tonic, enable the feature \
                 `tonic`; elsewhere insert `ratelimit_core::tower::PeerAddr` into its extensions",
            ),
            Self::MissingHeader(name) => write!(f, "the request has no header {name}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl Error for KeyError {}

/// What a key function may return: anything that [is a key](AsKey), or a `Result` of it.
pub trait IntoKey {
    /// Appends the key's canonical bytes.
    ///
    /// # Errors
    /// When there is none.
    fn write(self, to: &mut KeyBuf) -> Result<(), KeyError>;
}

impl<K: AsKey> IntoKey for K {
    fn write(self, to: &mut KeyBuf) -> Result<(), KeyError> {
        self.encode(to);
        Ok(())
    }
}

impl<K: AsKey> IntoKey for Result<K, KeyError> {
    fn write(self, to: &mut KeyBuf) -> Result<(), KeyError> {
        self?.write(to)
    }
}

/// The value's bytes, so that `req.headers().get("x-api-key").cloned()` is a key that copies nothing.
impl AsKey for HeaderValue {
    fn encode(&self, to: &mut KeyBuf) {
        to.push_bytes(self.as_bytes());
    }
}

/// The address of the connection's other end, an IPv6 address cut to its /64, which is what one customer of a
/// provider has at least; counted by whole addresses, every one of them would have 2⁶⁴ buckets.
///
/// Behind a proxy that is the proxy's address: every client would share one bucket. There, take the client's
/// from the header that *your* proxy sets, and from no other: clients can send any.
///
/// # Errors
/// [`KeyError::MissingPeer`] as for [`peer_addr`].
pub fn peer_ip<B>(request: &Request<B>) -> Result<IpAddr, KeyError> {
    Ok(match peer_addr(request)?.ip().to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    })
}

/// The address and port of the connection's other end, as the first of these extensions tells it:
/// [`PeerAddr`], `SocketAddr`, axum's `ConnectInfo<SocketAddr>` (feature `axum`), tonic's `TcpConnectInfo`
/// (feature `tonic`).
///
/// # Errors
/// [`KeyError::MissingPeer`] when there is none; its text says how to get one.
pub fn peer_addr<B>(request: &Request<B>) -> Result<SocketAddr, KeyError> {
    let extensions = request.extensions();
    extensions
        .get::<PeerAddr>()
        .map(|peer| peer.0)
        .or_else(|| extensions.get::<SocketAddr>().copied())
        .or_else(|| from_axum(extensions))
        .or_else(|| from_tonic(extensions))
        .ok_or(KeyError::MissingPeer)
}

fn from_axum(_extensions: &Extensions) -> Option<SocketAddr> {
    #[cfg(feature = "axum")]
    return _extensions.get::<axum::extract::ConnectInfo<SocketAddr>>().map(|info| info.0);
    #[cfg(not(feature = "axum"))]
    None
}

fn from_tonic(_extensions: &Extensions) -> Option<SocketAddr> {
    #[cfg(feature = "tonic")]
    return _extensions.get::<tonic::transport::server::TcpConnectInfo>().and_then(|info| info.remote_addr());
    #[cfg(not(feature = "tonic"))]
    None
}
