//! Where counters live, as a configuration says it. No address is ever shown with what may be a password in it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ratelimit_core::Overflow;
use ratelimit_redis::lease::Policy;
use ratelimit_redis::{OnFailure, RedisStore};

/// Where counters live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// In the memory of this process.
    Memory(MemoryConfig),
    /// In Redis or Valkey.
    Redis(Box<RedisConfig>),
}

/// Room for the counters in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Keys a limit, at least.
    pub max_keys: usize,
    /// What happens to keys beyond that.
    pub overflow: Overflow,
}

/// How the store that all replicas share is reached, and what is done without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConfig {
    /// Where it is.
    pub servers: Servers,
    /// How pieces are taken from it that replicas spend by themselves; `None`: every decision is taken there.
    pub leases: Option<Policy>,
    /// Longest a decision may wait for it.
    pub deadline: Duration,
    /// Who decides while it can't.
    pub on_failure: OnFailure,
    /// How many replicas share what [`OnFailure::Local`] allows; learnt from the store if `None`.
    pub replicas: Option<u32>,
    /// What keys begin with.
    pub prefix: String,
    /// The user to log in as, if the address names none.
    pub username: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// File with the authorities to trust, instead of the system's.
    pub tls_authority: Option<PathBuf>,
    /// Files with the certificate and the key that the store is shown.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
    /// After how long the permits of a replica that is gone come back.
    pub permit_expiry: Duration,
    /// Whether a proxy without its store is not ready.
    pub required_for_ready: bool,
}

/// Servers of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// One server, or several nodes of a Cluster.
    Nodes(Vec<StoreUrl>),
    /// Those that know which server it is.
    Sentinels {
        /// Where they are.
        sentinels: Vec<StoreUrl>,
        /// What they call the server.
        master: String,
    },
}

/// The address of a store, which may hold a password: it is shown without.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl(String);

/// Why a text is no address of a store. Says nothing of the text, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreUrlError {
    /// The scheme is none that leads to a store.
    Scheme,
    /// What follows the scheme can't be read.
    Unreadable,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self::Memory(MemoryConfig::default())
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { max_keys: 1_000_000, overflow: Overflow::Share }
    }
}

impl RedisConfig {
    /// The defaults around some servers.
    #[must_use]
    pub fn new(servers: Servers) -> Self {
        Self {
            servers,
            leases: None,
            deadline: Duration::from_millis(50),
            on_failure: OnFailure::Local,
            replicas: None,
            prefix: "rl".to_owned(),
            username: None,
            password_file: None,
            tls_authority: None,
            tls_identity: None,
            permit_expiry: Duration::from_secs(10),
            required_for_ready: false,
        }
    }

    /// A single server.
    #[must_use]
    pub fn at(url: StoreUrl) -> Self {
        Self::new(Servers::Nodes(vec![url]))
    }
}

impl Servers {
    /// Their addresses.
    #[must_use]
    pub fn urls(&self) -> &[StoreUrl] {
        match self {
            Self::Nodes(urls) | Self::Sentinels { sentinels: urls, .. } => urls,
        }
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Sentinels { master, .. } = self {
            write!(f, "{master} of ")?;
        }
        for (number, url) in self.urls().iter().enumerate() {
            write!(f, "{}{url}", if number == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl StoreUrl {
    /// The whole text, password and all: to connect with, not to show.
    #[must_use]
    pub fn with_secrets(&self) -> &str {
        &self.0
    }

    /// Whether connections are encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        ["rediss://", "valkeys://"].iter().any(|scheme| self.0.starts_with(scheme))
    }
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        if !matches!(scheme, Some("redis" | "rediss" | "valkey" | "valkeys" | "unix")) {
            return Err(StoreUrlError::Scheme);
        }
        RedisStore::builder(text).check().map_err(|_| StoreUrlError::Unreadable)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("", ""));
        // A user and a password stand before an @, or behind a ?.
        let bare = rest.split(['?', '#']).next().unwrap_or_default();
        let bare = bare.rsplit_once('@').map_or(bare, |(_, bare)| bare);
        write!(f, "{scheme}://{bare}")
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StoreUrlError {
    /// What to do about it.
    pub(crate) const HINT: &str = "write one such as redis://127.0.0.1:6379, rediss://user:password@host:6380/0 or \
                                   unix:///run/redis.sock, with special characters of a password as %XX";
}

impl fmt::Display for StoreUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "the scheme of a store must be redis, rediss (TLS) or unix",
            Self::Unreadable => "the address of the store can't be read",
        })
    }
}

impl std::error::Error for StoreUrlError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_secrets() {
        for (text, shown) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("rediss://ann:p%40ss@redis.example:6380/2", "rediss://redis.example:6380/2"),
            ("redis://:secret@[::1]:6379/0", "redis://[::1]:6379/0"),
            ("unix:///run/redis.sock?pass=secret&db=1", "unix:///run/redis.sock"),
            ("valkey://host#secret", "valkey://host"),
        ] {
            let url: StoreUrl = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{:?}", RedisConfig::at(url.clone()).servers), format!("Nodes([{shown}])"));
            assert_eq!(url.with_secrets(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_not_repeated() {
        for (text, error) in [
            ("", StoreUrlError::Scheme),
            ("127.0.0.1:6379", StoreUrlError::Scheme),
            ("http://:secret@a", StoreUrlError::Scheme),
            ("redis://", StoreUrlError::Unreadable),
            ("redis://:secret@a:port", StoreUrlError::Unreadable),
            ("redis://:secret@a:6379/db", StoreUrlError::Unreadable),
            ("redis://:sec/ret@a:6379", StoreUrlError::Unreadable),
            ("redis://0.0.0.0", StoreUrlError::Unreadable),
        ] {
            assert_eq!(text.parse::<StoreUrl>(), Err(error), "{text}");
            assert!(!error.to_string().contains("secret"));
        }
    }
}
