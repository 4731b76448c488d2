//! [`Listener`]: where clients connect, and how.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where clients connect, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The address.
    pub address: SocketAddr,
    /// TLS, unless it is plain.
    pub tls: Option<TlsConfig>,
    /// Whether each connection begins with a PROXY header, whose address is the peer's.
    pub proxy_protocol: bool,
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificates, at least one; the first is for names that no other is for.
    pub certificates: Vec<CertificateFiles>,
    /// File with the authorities one of which must have signed a client's certificate; nobody is asked for one if
    /// `None`.
    pub client_ca: Option<PathBuf>,
}

/// The files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate and those that lead to its authority, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

impl From<SocketAddr> for Listener {
    fn from(address: SocketAddr) -> Self {
        Self { address, tls: None, proxy_protocol: false }
    }
}
