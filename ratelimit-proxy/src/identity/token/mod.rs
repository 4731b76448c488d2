//! Verified tokens: JSON Web Tokens (RFC 7519) in `Authorization: Bearer`. Only what was signed by a configured
//! key, holds now and was made for us becomes [`Claims`]; everything else is as if there were no token.
//!
//! - [`TokenVerifier::verify`] never waits: keys are fetched in the background (`refresh.rs`).
//! - What a key may verify follows from its type (`keys.rs`), so no token can choose how it is judged.
//! - A token that comes again costs a hash: verified ones are kept, within a bound, until they expire or the
//!   keys change. Whether it still holds, and for this client, is judged each time.

mod claims;
mod credentials;
mod fetch;
mod keys;
mod refresh;
mod signature;

use std::cell::OnceCell;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, Uri};
use jsonwebtoken::errors::ErrorKind;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use ratelimit_core::SystemClock;
use ratelimit_core::time::Clock;

pub use claims::{Claims, Fingerprint};
pub use credentials::{Credentials, basic_user, digest_user};
pub use keys::KeyError;

use self::keys::KeySet;
use self::refresh::{Keys, Print, print};
use crate::supervise;
use crate::telemetry::metrics::Metrics;

/// Longest token that is looked at, in bytes.
const LONGEST: usize = 16 << 10;

/// Whose tokens are believed, and how far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtConfig {
    /// Where the keys are.
    pub source: KeySource,
    /// What `iss` must be; the issuer whose keys are used where that is said.
    pub issuer: Option<String>,
    /// What one of `aud` must be; anything if empty.
    pub audience: Vec<String>,
    /// How far the clocks of the issuer and of this machine may be apart; whole seconds.
    pub leeway: Duration,
    /// Whether a token must be bound to the client's certificate (RFC 8705).
    pub bound: bool,
    /// How often keys are fetched while all is well.
    pub refresh: Duration,
    /// Shortest time between two fetches because of tokens with unknown keys.
    pub cooldown: Duration,
    /// How long a fetch may take.
    pub timeout: Duration,
    /// Room for verified tokens, in bytes.
    pub cache: u64,
}

impl JwtConfig {
    /// The defaults around a source.
    #[must_use]
    pub fn new(source: KeySource) -> Self {
        Self {
            source,
            issuer: None,
            audience: Vec::new(),
            leeway: Duration::from_secs(30),
            bound: false,
            refresh: Duration::from_secs(300),
            cooldown: Duration::from_secs(10),
            timeout: Duration::from_secs(10),
            cache: 16 << 20,
        }
    }
}

/// Where keys are.
#[derive(Clone, PartialEq, Eq)]
pub enum KeySource {
    /// An issuer that tells where, by OpenID Connect Discovery.
    Issuer(String),
    /// A key set at a URL.
    JwksUrl(Uri),
    /// A key set in a file, followed as it changes.
    JwksFile(PathBuf),
    /// A secret shared with the issuer.
    Secret(Vec<u8>),
    /// A public key in a file in PEM, followed as it changes.
    PublicKeyFile(PathBuf),
}

/// Why a request has no verified claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unverified {
    /// It has no token.
    NoToken,
    /// It has several `Authorization` fields.
    Several,
    /// It is no signed token, or lacks what a token needs.
    Malformed,
    /// There are no keys yet.
    NoKeys,
    /// Its key is not known; it was asked for.
    UnknownKey,
    /// Its key is not for that algorithm.
    Algorithm,
    /// The signature is wrong.
    Signature,
    /// It is over.
    Expired,
    /// Its time has not come.
    TooEarly,
    /// It is another issuer's.
    Issuer,
    /// It is for somebody else.
    Audience,
    /// It is not bound to the client's certificate.
    Unbound,
}

/// Verifies tokens.
pub struct TokenVerifier {
    keys: Arc<Keys>,
    cache: Cache<Print, Kept, Weights>,
    clock: Box<dyn Clock>,
    checked: AtomicU64,
}

#[derive(Clone)]
struct Kept {
    claims: Arc<Claims>,
    /// Of the keys it was verified with.
    generation: u64,
    /// Bytes of the token.
    size: usize,
}

#[derive(Clone)]
struct Weights;

impl Weighter<Print, Kept> for Weights {
    fn weight(&self, _: &Print, kept: &Kept) -> u64 {
        // Parsed claims take a few times their text.
        u64::try_from(kept.size).unwrap_or(u64::MAX).saturating_mul(3).saturating_add(256)
    }
}

impl TokenVerifier {
    /// A verifier whose keys are renewed on a thread of its own until it is dropped.
    ///
    /// # Errors
    /// When a source on this machine has no keys, or there is no thread to be had.
    pub fn start(config: JwtConfig, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let verifier = Self::new(config, SystemClock::default()).map_err(io::Error::other)?;
        if verifier.keys.is_renewed() {
            let keys = Arc::clone(&verifier.keys);
            supervise::thread("token-keys", metrics, move || keys.renew())?;
        }
        Ok(verifier)
    }

    /// A verifier that nothing renews: for a source on this machine that is asked once.
    ///
    /// # Errors
    /// When a source on this machine has no keys.
    pub fn new(config: JwtConfig, clock: impl Clock) -> Result<Self, KeyError> {
        signature::install();
        let room = config.cache;
        let items = usize::try_from(room / 2048).unwrap_or(1);
        Ok(Self {
            keys: Arc::new(Keys::new(config)?),
            cache: Cache::with_weighter(items, room, Weights),
            clock: Box::new(clock),
            checked: AtomicU64::new(0),
        })
    }

    /// The claims of a request's token. `certificate` is the client's, if it has one.
    ///
    /// # Errors
    /// When there is no token that holds.
    pub fn verify(
        &self,
        headers: &HeaderMap,
        certificate: Option<&Fingerprint>,
    ) -> Result<Arc<Claims>, Unverified> {
        let token = match Credentials::of(headers) {
            Credentials::Several => return Err(Unverified::Several),
            credentials => credentials.with("bearer").ok_or(Unverified::NoToken)?,
        };
        if token.len() > LONGEST {
            return Err(Unverified::Malformed);
        }
        let keys = self.keys.current();
        let keys = keys.as_deref().ok_or(Unverified::NoKeys)?;
        let now = self.clock.utc().whole_secs();
        let leeway = self.keys.config.leeway.as_secs();
        let name = print(token);
        let kept = self.cache.get(&name).filter(|kept| kept.generation == keys.generation);
        let claims = match kept {
            Some(kept) => {
                kept.claims.holds_at(now, leeway).inspect_err(|_| drop(self.cache.remove(&name)))?;
                kept.claims
            }
            None => {
                let claims = Arc::new(self.check(token, keys)?);
                claims.holds_at(now, leeway)?;
                let kept =
                    Kept { claims: Arc::clone(&claims), generation: keys.generation, size: token.len() };
                self.cache.insert(name, kept);
                claims
            }
        };
        if self.keys.config.bound && !claims.is_bound_to(certificate) {
            return Err(Unverified::Unbound);
        }
        Ok(claims)
    }

    fn check(&self, token: &[u8], keys: &KeySet) -> Result<Claims, Unverified> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Unverified::Malformed)?;
        // Whoever does not understand what is critical must not accept it (RFC 7515 §4.1.11).
        if header.crit.is_some() || header.zip.is_some() {
            return Err(Unverified::Malformed);
        }
        if !keys.knows(&header) {
            self.keys.want();
            return Err(Unverified::UnknownKey);
        }
        let mut why = Unverified::Algorithm;
        for key in keys.fitting(&header) {
            self.checked.fetch_add(1, Ordering::Relaxed);
            match jsonwebtoken::decode(token, &key.decoding, &key.validation) {
                Ok(verified) => return Claims::new(verified.claims),
                Err(error) => {
                    why = match error.kind() {
                        ErrorKind::InvalidSignature => Unverified::Signature,
                        ErrorKind::InvalidIssuer => return Err(Unverified::Issuer),
                        ErrorKind::InvalidAudience => return Err(Unverified::Audience),
                        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => {
                            return Err(Unverified::Issuer);
                        }
                        ErrorKind::MissingRequiredClaim(_) => return Err(Unverified::Audience),
                        ErrorKind::InvalidAlgorithm => Unverified::Algorithm,
                        _ => Unverified::Malformed,
                    };
                }
            }
        }
        Err(why)
    }

    /// Whether it is one for that configuration.
    pub(crate) fn is_for(&self, config: &JwtConfig) -> bool {
        self.keys.config == *config
    }

    /// Waits until there are keys to verify with, no longer than that. Returns whether there are.
    pub(crate) fn wait(&self, patience: Duration) -> bool {
        self.keys.wait(patience)
    }

    /// Whether there are keys to verify with.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.keys.current().is_some()
    }

    /// How often keys were fetched from elsewhere.
    #[must_use]
    pub fn fetches(&self) -> u64 {
        self.keys.fetches()
    }

    /// How many signatures were checked.
    #[must_use]
    pub fn checked(&self) -> u64 {
        self.checked.load(Ordering::Relaxed)
    }
}

impl Drop for TokenVerifier {
    fn drop(&mut self) {
        self.keys.close();
    }
}

/// The claims of one request: verified when they are first asked for, and then no more.
pub struct LazyClaims<'r> {
    verifier: &'r TokenVerifier,
    headers: &'r HeaderMap,
    certificate: Option<&'r Fingerprint>,
    verified: OnceCell<Result<Arc<Claims>, Unverified>>,
}

impl<'r> LazyClaims<'r> {
    /// Those of a request with such a head, from a client with such a certificate.
    #[must_use]
    pub fn new(
        verifier: &'r TokenVerifier,
        headers: &'r HeaderMap,
        certificate: Option<&'r Fingerprint>,
    ) -> Self {
        Self { verifier, headers, certificate, verified: OnceCell::new() }
    }

    /// What they are.
    ///
    /// # Errors
    /// When there is no token that holds.
    pub fn verified(&self) -> Result<&Claims, Unverified> {
        match self.verified.get_or_init(|| self.verifier.verify(self.headers, self.certificate)) {
            Ok(claims) => Ok(claims),
            Err(why) => Err(*why),
        }
    }
}

impl fmt::Debug for LazyClaims<'_> {
    /// Only whether they are known: a token is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.verified.get().map(|verified| verified.as_ref().map(|_| ()));
        f.debug_struct("LazyClaims").field("verified", &known).finish_non_exhaustive()
    }
}

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenVerifier").field("source", &self.keys.config.source).finish_non_exhaustive()
    }
}

impl fmt::Debug for KeySource {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Issuer(issuer) => f.debug_tuple("Issuer").field(issuer).finish(),
            Self::JwksUrl(url) => f.debug_tuple("JwksUrl").field(url).finish(),
            Self::JwksFile(path) => f.debug_tuple("JwksFile").field(path).finish(),
            Self::Secret(_) => f.write_str("Secret"),
            Self::PublicKeyFile(path) => f.debug_tuple("PublicKeyFile").field(path).finish(),
        }
    }
}

impl fmt::Display for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoToken => "there is no bearer token",
            Self::Several => "there are several Authorization fields",
            Self::Malformed => "the token is malformed",
            Self::NoKeys => "there are no keys to verify it with yet",
            Self::UnknownKey => "the token's key is not known",
            Self::Algorithm => "the token's algorithm is not its key's",
            Self::Signature => "the token's signature is wrong",
            Self::Expired => "the token has expired",
            Self::TooEarly => "the token does not hold yet",
            Self::Issuer => "the token is another issuer's",
            Self::Audience => "the token is for somebody else",
            Self::Unbound => "the token is not bound to the client's certificate",
        })
    }
}

impl std::error::Error for Unverified {}
