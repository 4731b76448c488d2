//! Gets the keys from their issuer: OpenID Connect Discovery, JSON Web Key Sets. It runs in the background only,
//! with a bound on time and size; redirections are not followed, so that the keys come from where it was said.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;

use crate::outgoing::{AGENT, Causes};

/// Most bytes of a document.
const MOST_BYTES: usize = 1 << 20;

pub(super) struct Fetcher {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    timeout: Duration,
}

/// Why there is no document.
#[derive(Debug)]
pub(super) enum FetchError {
    Slow,
    Transport(Box<dyn std::error::Error + Send + Sync>),
    Status(http::StatusCode),
    Discovery,
    /// The document is about another issuer (OpenID Connect Discovery §4.3).
    OtherIssuer,
    Url,
    /// From `https` to `http`.
    Downgrade,
}

impl Fetcher {
    /// # Errors
    /// When TLS can't be set up.
    pub(super) fn new(timeout: Duration) -> io::Result<Self> {
        let provider = || rustls::crypto::ring::default_provider();
        // An operator's own authorities are known to the system; a bare container has none at all.
        let builder = match HttpsConnectorBuilder::new().with_provider_and_native_roots(provider()) {
            Ok(builder) => builder,
            Err(_none) => HttpsConnectorBuilder::new()
                .with_provider_and_webpki_roots(provider())
                .map_err(io::Error::other)?,
        };
        let connector = builder.https_or_http().enable_http1().build();
        // Minutes lie between two fetches: a kept connection would be closed by then.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { client, timeout })
    }

    /// The key set that an issuer names.
    pub(super) async fn discovered(&self, issuer: &str) -> Result<Bytes, FetchError> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            jwks_uri: String,
        }
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let url: Uri = url.parse().map_err(|_| FetchError::Url)?;
        let document = self.get(url.clone()).await?;
        let document: Document = serde_json::from_slice(&document).map_err(|_| FetchError::Discovery)?;
        if document.issuer != issuer {
            return Err(FetchError::OtherIssuer);
        }
        let keys: Uri = document.jwks_uri.parse().map_err(|_| FetchError::Url)?;
        match (url.scheme_str(), keys.scheme_str()) {
            (Some("https"), Some("https")) | (Some("http"), Some("http" | "https")) => self.get(keys).await,
            (Some("https"), _) => Err(FetchError::Downgrade),
            _ => Err(FetchError::Url),
        }
    }

    /// What stands at a URL.
    pub(super) async fn get(&self, url: Uri) -> Result<Bytes, FetchError> {
        let request = Request::get(url)
            .header(header::ACCEPT, "application/json, application/jwk-set+json")
            .header(header::USER_AGENT, AGENT)
            .body(Empty::new())
            .map_err(|_| FetchError::Url)?;
        let answer = async {
            let response =
                self.client.request(request).await.map_err(|error| FetchError::Transport(Box::new(error)))?;
            if response.status() != http::StatusCode::OK {
                return Err(FetchError::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
            body.map(http_body_util::Collected::to_bytes).map_err(FetchError::Transport)
        };
        tokio::time::timeout(self.timeout, answer).await.unwrap_or(Err(FetchError::Slow))
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow => f.write_str("no complete answer in time"),
            Self::Transport(error) => Causes(&**error).fmt(f),
            Self::Status(status) => write!(f, "status {}", status.as_u16()),
            Self::Discovery => f.write_str("no document of OpenID Connect Discovery"),
            Self::OtherIssuer => f.write_str("the document is about another issuer"),
            Self::Url => f.write_str("the key set has no usable URL"),
            Self::Downgrade => f.write_str("the issuer's https leads to keys without"),
        }
    }
}
