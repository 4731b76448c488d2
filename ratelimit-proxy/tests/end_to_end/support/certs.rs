//! An authority of a test's own, and what it signs.

use std::path::{Path, PathBuf};

use ratelimit_proxy::config::{CertificateFiles, TlsConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;

/// An authority, and a directory for what it signs.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { issuer, directory: tempfile::tempdir().unwrap() };
        std::fs::write(authority.path("authority.pem"), authority.issuer.pem()).unwrap();
        authority
    }

    /// A file in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The authority's own certificate.
    pub fn pem(&self) -> PathBuf {
        self.path("authority.pem")
    }

    /// A certificate for those names, as files that begin with `file`.
    pub fn server(&self, file: &str, names: &[&str]) -> CertificateFiles {
        self.sign(file, Self::params(names))
    }

    /// A certificate that was of use until the year 2001.
    pub fn expired(&self, file: &str, names: &[&str]) -> CertificateFiles {
        let mut params = Self::params(names);
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
        self.sign(file, params)
    }

    /// A certificate for a client; its subject is `CN=name,O=Example`.
    pub fn client(&self, name: &str) -> CertificateFiles {
        let mut params = Self::params(&[]);
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::CommonName, name);
        self.sign(name, params)
    }

    fn params(names: &[&str]) -> CertificateParams {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
    }

    fn sign(&self, file: &str, params: CertificateParams) -> CertificateFiles {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = CertificateFiles {
            cert: self.path(&format!("{file}.pem")),
            key: self.path(&format!("{file}.key")),
        };
        put(&files.cert, &certificate.pem());
        put(&files.key, &key.serialize_pem());
        files
    }

    /// TLS with a certificate for `localhost` and 127.0.0.1.
    pub fn local(&self) -> TlsConfig {
        TlsConfig { certificates: vec![self.server("local", &["localhost", "127.0.0.1"])], client_ca: None }
    }
}

/// Puts a file in its place in one step.
fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}
