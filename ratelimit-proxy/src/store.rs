//! [`AnyStore`]: the store that a configuration asks for, and what operators are told about it.
//!
//! In memory an answer is a function call away, and nothing here may stand in between but a branch. The shared
//! store's future is boxed, so that requests that never wait for it don't carry its size around.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ratelimit_core::store::{Charge, Verdict};
use ratelimit_core::{Limit, LocalStore as _, MemoryStore, Store, StoreError};
use ratelimit_redis::lease::{HeldBack, LeasedStore};
use ratelimit_redis::{Builder, RedisStore};

use crate::config::{MemoryConfig, RedisConfig, Servers, StoreConfig};
use crate::telemetry::{StoreCalls, StoreGauges};

/// Where counters live.
#[derive(Debug)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "there is one in a process, and memory should be near")]
pub enum AnyStore {
    /// In this process.
    Memory(MemoryStore),
    /// In Redis or Valkey.
    Shared(SharedStore),
    /// In Redis or Valkey, out of which this process takes pieces for keys that are hot.
    Leased(SharedStore<LeasedStore<RedisStore>>),
}

/// A store that all replicas share.
#[derive(Debug)]
pub struct SharedStore<S = RedisStore> {
    store: S,
    calls: Arc<StoreCalls>,
}

/// A store can't be used: what it is, and what it said.
#[derive(Debug)]
pub struct Unusable {
    servers: Servers,
    error: StoreError,
}

impl AnyStore {
    /// What a configuration asks for. A shared store that can't be reached is waited for a moment and then done
    /// without; decisions are what the configuration says for that case until it answers.
    ///
    /// # Errors
    /// When the shared store refuses us: nothing but another configuration helps.
    pub async fn open(config: &StoreConfig) -> Result<Self, Unusable> {
        match config {
            StoreConfig::Memory(MemoryConfig { max_keys, overflow }) => {
                Ok(Self::Memory(MemoryStore::default().max_keys(*max_keys).overflow(*overflow)))
            }
            StoreConfig::Redis(config) => {
                let calls = Arc::new(StoreCalls::default());
                let counted = Arc::clone(&calls);
                let opened = builder(config).observe(move |call| counted.record(call)).connect().await;
                let unusable = |error| Unusable { servers: config.servers.clone(), error };
                let store = opened.map_err(unusable)?;
                Ok(match config.leases {
                    Some(policy) => Self::Leased(SharedStore { store: store.leased_by(policy), calls }),
                    None => Self::Shared(SharedStore { store, calls }),
                })
            }
        }
    }

    /// Whether it answers, as far as is known.
    #[must_use]
    pub fn is_up(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Shared(shared) => shared.store.is_up(),
            Self::Leased(leased) => leased.store.source().is_up(),
        }
    }

    /// The store that is shared with other replicas.
    pub(crate) fn shared(&self) -> Option<&RedisStore> {
        match self {
            Self::Memory(_) => None,
            Self::Shared(shared) => Some(&shared.store),
            Self::Leased(leased) => Some(leased.store.source()),
        }
    }

    /// One charge, answered here or after waiting.
    pub(crate) async fn ask(&self, charge: Charge<'_>) -> Result<Verdict, StoreError> {
        match self.try_decide(&[charge]) {
            Some(verdict) => Ok(verdict),
            None => self.decide(&[charge]).await,
        }
    }

    /// Keys of a limit that have not fully recovered, if this process knows. Walks the table.
    #[must_use]
    pub fn keys(&self, limit: &Limit) -> Option<usize> {
        match self {
            Self::Memory(store) => Some(store.keys(limit)),
            Self::Shared(_) | Self::Leased(_) => None,
        }
    }

    /// Decisions for keys of a limit that found no room.
    #[must_use]
    pub fn overflowed(&self, limit: &Limit) -> u64 {
        match self {
            Self::Memory(store) => store.overflowed(limit),
            Self::Shared(_) | Self::Leased(_) => 0,
        }
    }

    /// What leases of the other replicas may hold back of a limit at most, where there are any.
    pub(crate) fn held_back(&self, limit: &Limit) -> Option<HeldBack> {
        match self {
            Self::Memory(_) | Self::Shared(_) => None,
            Self::Leased(SharedStore { store, .. }) => {
                store.what_may_lie_elsewhere(limit, store.source().replicas())
            }
        }
    }

    /// What is to be said of charges that the store was asked about too late, or not at all.
    ///
    /// # Errors
    /// When that is to be an error.
    pub(crate) fn without(&self, charges: &[Charge<'_>]) -> Result<Verdict, StoreError> {
        match self {
            Self::Memory(store) => Ok(store.decide_now(charges)),
            Self::Shared(shared) => shared.store.decide_without(charges),
            Self::Leased(leased) => leased.store.source().decide_without(charges),
        }
    }

    /// What there is to tell about a store that is shared.
    pub(crate) fn gauges(&self) -> Option<StoreGauges> {
        let (store, calls, leased_tokens) = match self {
            Self::Memory(_) => return None,
            Self::Shared(SharedStore { store, calls }) => (store, calls, None),
            Self::Leased(SharedStore { store, calls }) => (store.source(), calls, Some(store.leased_units())),
        };
        let troubles = store.troubles();
        Some(StoreGauges {
            up: store.is_up(),
            replicas: store.replicas(),
            calls: calls.totals(),
            overloaded: troubles.overloaded,
            lost_posts: troubles.lost_posts,
            leased_tokens,
        })
    }

    /// Lets what was posted be made, for so long at most; whether it was.
    pub(crate) async fn flush(&self, within: Duration) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Shared(shared) => flush(&shared.store, within).await,
            Self::Leased(leased) => {
                // What is owed first; what is held lapses by itself.
                leased.store.flush();
                flush(leased.store.source(), within).await
            }
        }
    }
}

async fn flush(store: &RedisStore, within: Duration) -> bool {
    matches!(tokio::time::timeout(within, store.flush()).await, Ok(Ok(())))
}

fn builder(config: &RedisConfig) -> Builder {
    let RedisConfig {
        servers,
        leases: _,
        deadline,
        on_failure,
        replicas,
        prefix,
        username,
        password_file,
        tls_authority,
        tls_identity,
        permit_expiry,
        required_for_ready: _,
    } = config;
    let mut urls = servers.urls().iter().map(|url| url.with_secrets());
    let mut builder = RedisStore::builder(urls.next().unwrap_or_default())
        .nodes(urls)
        .prefix(prefix)
        .deadline(*deadline)
        .on_failure(*on_failure)
        .permit_expiry(*permit_expiry)
        .start_degraded(true);
    if let Servers::Sentinels { master, .. } = servers {
        builder = builder.sentinel_master(master);
    }
    if let Some(replicas) = replicas {
        builder = builder.replicas(*replicas);
    }
    if let Some(name) = username {
        builder = builder.username(name);
    }
    if let Some(path) = password_file {
        builder = builder.password_file(path);
    }
    if let Some(path) = tls_authority {
        builder = builder.tls_authority(path);
    }
    if let Some((certificate, key)) = tls_identity {
        builder = builder.tls_identity(certificate, key);
    }
    builder
}

impl Default for AnyStore {
    fn default() -> Self {
        Self::Memory(MemoryStore::default())
    }
}

impl Store for AnyStore {
    #[inline]
    fn try_decide(&self, charges: &[Charge<'_>]) -> Option<Verdict> {
        match self {
            Self::Memory(store) => store.try_decide(charges),
            Self::Shared(shared) => shared.store.try_decide(charges),
            Self::Leased(leased) => leased.store.try_decide(charges),
        }
    }

    #[inline]
    fn try_decide_into(&self, charges: &[Charge<'_>], verdict: &mut Verdict) -> bool {
        match self {
            Self::Memory(store) => store.try_decide_into(charges, verdict),
            Self::Shared(shared) => shared.store.try_decide_into(charges, verdict),
            Self::Leased(leased) => leased.store.try_decide_into(charges, verdict),
        }
    }

    async fn decide(&self, charges: &[Charge<'_>]) -> Result<Verdict, StoreError> {
        match self {
            Self::Memory(store) => store.decide(charges).await,
            Self::Shared(shared) => Box::pin(shared.store.decide(charges)).await,
            Self::Leased(leased) => Box::pin(leased.store.decide(charges)).await,
        }
    }

    #[inline]
    fn post(&self, charge: Charge<'_>) {
        match self {
            Self::Memory(store) => store.post(charge),
            Self::Shared(shared) => shared.store.post(charge),
            Self::Leased(leased) => leased.store.post(charge),
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store at {} can't be used: {}", self.servers, self.error)?;
        // What a server says of us, or a library of a file; no address of ours is part of it.
        match std::error::Error::source(&self.error) {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Unusable {}
