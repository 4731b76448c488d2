//! Where OTLP is sent to.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, Uri};

/// A collector of OpenTelemetry, and what it is told.
#[derive(Clone, PartialEq)]
pub struct OtlpConfig {
    /// Where it is.
    pub endpoint: Uri,
    /// Whether it is spoken to in gRPC; over HTTP/1.1 if not.
    pub grpc: bool,
    /// What is sent along with every message.
    pub headers: HeaderMap,
    /// File with the authorities that it is verified by; the system's if `None`.
    pub ca: Option<PathBuf>,
    /// The share of requests that are traced where their caller does not say; none at all if `None`.
    pub traces: Option<f64>,
    /// How often metrics are sent; never if `None`.
    pub metrics: Option<Duration>,
    /// Whether lines of the log are sent.
    pub logs: bool,
    /// What is said of this process.
    pub attributes: Vec<(String, String)>,
}

impl OtlpConfig {
    /// There, with the defaults.
    #[must_use]
    pub fn new(endpoint: Uri) -> Self {
        Self {
            endpoint,
            grpc: false,
            headers: HeaderMap::new(),
            ca: None,
            traces: Some(0.01),
            metrics: Some(Duration::from_secs(15)),
            logs: true,
            attributes: Vec::new(),
        }
    }
}

impl fmt::Debug for OtlpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The fields of HTTP may hold a key.
        f.debug_struct("OtlpConfig").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
