//! [`Session`]: what a handshake said about a connection.

use std::io;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use rustls::ServerConnection;
use x509_cert::der::Decode as _;

use super::names::Names;
use crate::identity::token::Fingerprint;

/// A connection under TLS.
pub(crate) struct Session {
    /// The client's certificate, verified; `None` where none is asked for.
    pub(crate) certificate: Option<Certificate>,
    /// Whether the two sides speak HTTP/2.
    pub(crate) http2: bool,
    /// Where there are several certificates: they, and which one was shown.
    shown: Option<(Arc<Names>, usize)>,
}

/// A verified certificate of a client.
pub(crate) struct Certificate {
    /// Its subject as RFC 4514 writes it, `CN=ann,O=Example`; `None` if it has none.
    pub(crate) subject: Option<Box<str>>,
    /// The SHA-256 of all of it, as tokens bound to it say (RFC 8705).
    pub(crate) fingerprint: Fingerprint,
}

impl Session {
    pub(super) fn of(connection: &ServerConnection, names: &Arc<Names>) -> io::Result<Self> {
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        let shown = connection.server_name().and_then(|name| names.find(name)).unwrap_or(0);
        Ok(Self {
            certificate: certificate.map(|der| Certificate::of(der)).transpose()?,
            http2: connection.alpn_protocol() == Some(b"h2"),
            shown: names.are_several().then(|| (Arc::clone(names), shown)),
        })
    }

    /// Whether a request for that host must not come here, because another certificate is for it: a client that was
    /// shown the wrong one may have been led here, or uses a connection for more than it was made for.
    pub(crate) fn is_misdirected(&self, host: &str) -> bool {
        let Some((names, shown)) = &self.shown else { return false };
        names.find(host).is_some_and(|meant| meant != *shown)
    }
}

impl Certificate {
    fn of(der: &[u8]) -> io::Result<Self> {
        // Who can't be named must not be taken for somebody without a name.
        let parsed = x509_cert::Certificate::from_der(der).map_err(io::Error::other)?;
        let subject = parsed.tbs_certificate().subject();
        let mut fingerprint = Fingerprint::default();
        fingerprint.copy_from_slice(digest(&SHA256, der).as_ref());
        Ok(Self { subject: (!subject.is_empty()).then(|| subject.to_string().into()), fingerprint })
    }
}
