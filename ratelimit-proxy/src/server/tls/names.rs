//! [`Names`]: which certificate is shown to whom. The name that a client asks for (SNI) decides, by the certificates'
//! own list of names; where none fits, or no name is asked for, it is the first certificate.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use ratelimit_core::SystemClock;
use ratelimit_core::time::Clock as _;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use webpki::EndEntityCert;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use super::{TlsError, chain, read};
use crate::config::CertificateFiles;

/// Certificates by their names.
#[derive(Debug)]
pub(super) struct Names {
    first: Arc<CertifiedKey>,
    rest: Vec<Arc<CertifiedKey>>,
    /// By the whole name.
    exact: HashMap<Box<str>, usize>,
    /// By what stands behind `*.`.
    wildcards: HashMap<Box<str>, usize>,
}

impl Names {
    /// Reads certificates and keys.
    pub(super) fn load(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Self, TlsError> {
        let (mut exact, mut wildcards) = (HashMap::new(), HashMap::new());
        let mut keys = Vec::with_capacity(files.len());
        for (number, files) in files.iter().enumerate() {
            let key = certified(files, provider)?;
            for name in names(&key, &files.cert)? {
                // Whichever comes first in the configuration keeps the name.
                match name.strip_prefix("*.") {
                    Some(behind) => wildcards.entry(behind.into()).or_insert(number),
                    None => exact.entry(name.as_str().into()).or_insert(number),
                };
            }
            keys.push(Arc::new(key));
        }
        let mut keys = keys.into_iter();
        let first = keys.next().ok_or_else(|| TlsError::new(Path::new(""), "no certificate"))?;
        Ok(Self { first, rest: keys.collect(), exact, wildcards })
    }

    /// Whether there is anything to choose from.
    pub(super) fn are_several(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Which certificate is for that name, in lower case; `None`: nobody says so.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let wildcard = || self.wildcards.get(name.split_once('.')?.1);
        self.exact.get(name).or_else(wildcard).copied()
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let number = hello.server_name().and_then(|name| self.find(name)).unwrap_or(0);
        let key = number.checked_sub(1).and_then(|number| self.rest.get(number)).unwrap_or(&self.first);
        Some(Arc::clone(key))
    }
}

/// A certificate with its key, which must fit and be of use today.
fn certified(files: &CertificateFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = chain(&files.cert)?;
    if let Some(certificate) = chain.first() {
        holds(certificate).map_err(|why| TlsError::new(&files.cert, why))?;
    }
    let pem = read(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        TlsError::new(&files.key, format!("there is no private key in PEM in it: {error}"))
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        let why = match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("not the key of {:?}", files.cert.display().to_string())
            }
            error => error.to_string(),
        };
        TlsError::new(&files.key, why)
    })
}

/// Whether clients could believe a certificate at this time.
fn holds(certificate: &CertificateDer<'_>) -> Result<(), String> {
    let parsed = Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let validity = parsed.tbs_certificate().validity();
    let now = SystemClock::default().utc().whole_secs();
    if validity.not_after.to_unix_duration().as_secs() < now {
        return Err(format!("the certificate has expired ({})", validity.not_after));
    }
    if validity.not_before.to_unix_duration().as_secs() > now {
        return Err(format!("the certificate holds from {} only", validity.not_before));
    }
    Ok(())
}

/// The names that a certificate is for, in lower case.
fn names(key: &CertifiedKey, path: &Path) -> Result<Vec<String>, TlsError> {
    let refused = |error: String| TlsError::new(path, error);
    let certificate = key.end_entity_cert().map_err(|error| refused(error.to_string()))?;
    let parsed = EndEntityCert::try_from(certificate).map_err(|error| refused(error.to_string()))?;
    Ok(parsed.valid_dns_names().map(str::to_ascii_lowercase).collect())
}
