//! TLS of a listener: certificates chosen by the name that a client asks for, read again when their files change.
//!
//! A handshake takes what is in force when it begins; connections that are there keep what they have. Files that are
//! wrong change nothing, and the log says so. TLS 1.2 and 1.3 with `rustls`'s own choice of ciphers, on `ring`;
//! nothing is accepted before the handshake is over (no early data).

mod names;
mod peer;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::names::Names;
pub(crate) use self::peer::{Certificate, Session};
use crate::config::{TlsConfig, read_regular};
use crate::stamp::{LOOK, SETTLED, Stamp};
use crate::telemetry::metrics::{Metrics, Reloaded};

/// What the two sides may agree to speak.
const HTTP: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why certificates can't be used.
#[derive(Debug)]
pub(crate) struct TlsError {
    file: PathBuf,
    why: String,
    /// Whether the file can't be read here, whatever is in it.
    pub(crate) unreadable: bool,
}

impl TlsError {
    fn new(file: &Path, why: impl Into<String>) -> Self {
        Self { file: file.to_owned(), why: why.into(), unreadable: false }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    read_regular(file)
        .map_err(|error| TlsError { unreadable: true, ..TlsError::new(file, error.to_string()) })
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.file.display().to_string(), self.why)
    }
}

impl std::error::Error for TlsError {}

/// TLS of one listener.
pub(crate) struct Tls {
    config: TlsConfig,
    current: ArcSwap<Current>,
    /// How the files were when they were read.
    stamps: Mutex<Vec<Option<Stamp>>>,
}

struct Current {
    acceptor: TlsAcceptor,
    names: Arc<Names>,
}

impl Tls {
    /// With the files as they are.
    ///
    /// # Errors
    /// When a file can't be read, or what is in it can't be used.
    pub(crate) fn load(config: &TlsConfig) -> Result<Arc<Self>, TlsError> {
        let stamps = stamps(config);
        let current = ArcSwap::from_pointee(Current::load(config)?);
        Ok(Arc::new(Self { config: config.clone(), current, stamps: Mutex::new(stamps) }))
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// When the two can't agree, or the client breaks off.
    pub(crate) async fn accept<S>(&self, stream: S) -> io::Result<(TlsStream<S>, Session)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let current = self.current.load_full();
        let stream = current.acceptor.accept(stream).await?;
        let session = Session::of(stream.get_ref().1, &current.names)?;
        Ok((stream, session))
    }

    /// How the files are now, if that is not how they were read.
    fn changed(&self) -> Option<Vec<Option<Stamp>>> {
        let now = stamps(&self.config);
        (now != *self.stamps()).then_some(now)
    }

    /// Reads the files again, unless they change yet: they should be as they were `seen` a moment ago.
    fn read_again(&self, seen: Vec<Option<Stamp>>, metrics: &Metrics) {
        if seen != stamps(&self.config) {
            return;
        }
        *self.stamps() = seen;
        match Current::load(&self.config) {
            Ok(current) => {
                self.current.store(Arc::new(current));
                tracing::info!("certificates were read again and are in force");
                metrics.reloaded(Reloaded::Applied);
            }
            Err(error) => {
                tracing::error!(%error, "the new certificates are refused; the old ones stay in force");
                metrics.reloaded(Reloaded::Refused);
            }
        }
    }

    fn stamps(&self) -> std::sync::MutexGuard<'_, Vec<Option<Stamp>>> {
        self.stamps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn load(config: &TlsConfig) -> Result<Self, TlsError> {
        let provider = Arc::new(default_provider());
        let names = Arc::new(Names::load(&config.certificates, &provider)?);
        let file = config.certificates.first().map_or(Path::new(""), |files| &files.cert);
        let refused = |error: rustls::Error| TlsError::new(file, error.to_string());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(refused)?;
        let builder = match &config.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(authorities(path)?, provider)
                    .build()
                    .map_err(|error| TlsError::new(path, error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut server = builder.with_cert_resolver(Arc::clone(&names) as _);
        server.alpn_protocols = HTTP.map(Vec::from).into();
        // Sealed by a key of ours, so that resumption costs no memory and works on every thread.
        server.ticketer = Ticketer::new().map_err(refused)?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(server)), names })
    }
}

/// Those whose word about clients is taken.
fn authorities(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(path)? {
        roots.add(certificate).map_err(|error| TlsError::new(path, error.to_string()))?;
    }
    Ok(Arc::new(roots))
}

/// The certificates in a file, at least one.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(TlsError::new(path, "there is no certificate in PEM in it")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(TlsError::new(path, error.to_string())),
    }
}

/// Reads certificates again whenever their files change, until dropped.
pub(crate) async fn follow(all: &impl Fn() -> Vec<Arc<Tls>>, metrics: &Metrics) -> Infallible {
    loop {
        sleep(LOOK).await;
        let tls = all();
        let changed: Vec<_> = tls.iter().filter_map(|tls| Some((tls, tls.changed()?))).collect();
        if !changed.is_empty() {
            // A certificate and its key are seldom replaced in one step.
            sleep(SETTLED).await;
            changed.into_iter().for_each(|(tls, seen)| tls.read_again(seen, metrics));
        }
    }
}

/// Whether a listener could use these files.
///
/// # Errors
/// When it could not.
pub(crate) fn check(config: &TlsConfig) -> Result<(), TlsError> {
    Current::load(config).map(drop)
}

fn stamps(config: &TlsConfig) -> Vec<Option<Stamp>> {
    let files = config.certificates.iter().flat_map(|files| [&files.cert, &files.key]);
    files.chain(&config.client_ca).map(|path| Stamp::of(path)).collect()
}
