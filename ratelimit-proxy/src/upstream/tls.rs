//! [`Tls`]: how servers prove who they are, and how we do. Always verified; there is no way to leave that out.
//!
//! Without authorities of its own, an upstream is verified by those of the system, where an operator's own are known;
//! a bare container has none at all, and Mozilla's are taken.

use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

/// How a server is spoken to with TLS.
#[derive(Clone)]
pub struct Tls {
    pub(super) config: Arc<ClientConfig>,
    /// The name that its certificate must have; that of the URL if `None`.
    pub(super) name: Option<ServerName<'static>>,
    /// Of everything that it was made of.
    digest: blake3::Hash,
}

/// What [`Tls`] is made of.
#[derive(Clone, Default)]
pub struct TlsParts {
    /// Certificates of authorities, in PEM; the system's if `None`.
    pub authorities: Option<Vec<u8>>,
    /// Our certificates and their key, in PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the server's certificate must have; that of the URL if `None`.
    pub name: Option<String>,
}

/// What is wrong with such a part.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// The authorities are no certificates in PEM, or there are none.
    Authorities,
    /// The certificates are none in PEM, or there are none.
    Certificate,
    /// The key is none in PEM.
    Key,
    /// The key is another certificate's, or of no use.
    Identity(rustls::Error),
    /// The name is no name of a host.
    Name,
}

impl Tls {
    /// Made of these.
    ///
    /// # Errors
    /// When one of them is not what it should be.
    pub fn new(parts: &TlsParts) -> Result<Self, TlsError> {
        let roots = match &parts.authorities {
            Some(pem) => Arc::new(authorities(pem)?),
            None => Arc::clone(&SYSTEM),
        };
        let name = parts.name.as_ref().map(|name| ServerName::try_from(name.clone()));
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Identity)?
            .with_root_certificates(roots);
        let mut config = match &parts.identity {
            Some((certificates, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::Key)?;
                let chain = certificates_in(certificates).ok_or(TlsError::Certificate)?;
                builder.with_client_auth_cert(chain, key).map_err(TlsError::Identity)?
            }
            None => builder.with_no_client_auth(),
        };
        // What the server prefers is spoken.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            name: name.transpose().map_err(|_| TlsError::Name)?,
            digest: digest(parts),
        })
    }

    /// For clients that say themselves what they speak.
    pub(crate) fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols.clear();
        config
    }

    /// The same for the same parts.
    pub(super) fn digest(&self) -> blake3::Hash {
        self.digest
    }
}

/// The authorities of the system, or Mozilla's where it has none.
static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    Arc::new(roots)
});

fn authorities(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_in(pem).ok_or(TlsError::Authorities)? {
        roots.add(certificate).map_err(|_| TlsError::Authorities)?;
    }
    Ok(roots)
}

/// One at least.
fn certificates_in(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!all.is_empty()).then_some(all)
}

fn digest(parts: &TlsParts) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let (certificates, key) = parts.identity.as_ref().map_or((None, None), |(c, k)| (Some(c), Some(k)));
    let name = parts.name.as_ref().map(|name| name.as_bytes().to_vec());
    for part in [parts.authorities.as_ref(), certificates, key, name.as_ref()] {
        hasher.update(&[u8::from(part.is_some())]);
        let part = part.map_or(&[][..], Vec::as_slice);
        hasher.update(blake3::hash(part).as_bytes());
    }
    hasher.finalize()
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for TlsParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the key.
        f.debug_struct("TlsParts").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authorities => f.write_str("no certificates of authorities in PEM"),
            Self::Certificate => f.write_str("no certificates in PEM"),
            Self::Key => f.write_str("no private key in PEM"),
            Self::Identity(error) => write!(f, "certificate and key do not do: {error}"),
            Self::Name => f.write_str("no name of a host"),
        }
    }
}

impl std::error::Error for TlsError {}
