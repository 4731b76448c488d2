//! The conformance kit of `ratelimit-core` against a real server.
#![allow(clippy::expect_used, reason = "tests")]

use std::time::Duration;

use ratelimit_core::store::{Charge, Verdict};
use ratelimit_core::testing::Subject;
use ratelimit_core::{Store, StoreError};
use ratelimit_redis::{OnFailure, RedisStore};
use redis_testkit::Server;

/// A store with a server of its own.
struct OnServer {
    store: RedisStore,
    _server: Server,
}

impl Store for OnServer {
    fn try_decide(&self, charges: &[Charge<'_>]) -> Option<Verdict> {
        self.store.try_decide(charges)
    }

    fn decide(&self, charges: &[Charge<'_>]) -> impl Future<Output = Result<Verdict, StoreError>> + Send {
        self.store.decide(charges)
    }

    fn post(&self, charge: Charge<'_>) {
        self.store.post(charge);
    }
}

async fn on_server() -> OnServer {
    let server = Server::start();
    let builder = RedisStore::builder(server.url()).on_failure(OnFailure::Error);
    let store = builder.deadline(Duration::from_secs(5)).connect().await.expect("a store");
    OnServer { store, _server: server }
}

async fn fresh() -> Subject<OnServer> {
    Subject::waiting(on_server().await)
}

ratelimit_core::store_laws!(fresh);

/// The same laws with leases on top.
mod leased {
    use ratelimit_redis::lease::LeasedStore;

    use super::*;

    struct Leased {
        store: LeasedStore<RedisStore>,
        _server: Server,
    }

    impl Store for Leased {
        fn try_decide(&self, charges: &[Charge<'_>]) -> Option<Verdict> {
            self.store.try_decide(charges)
        }

        fn decide(&self, charges: &[Charge<'_>]) -> impl Future<Output = Result<Verdict, StoreError>> + Send {
            self.store.decide(charges)
        }

        fn post(&self, charge: Charge<'_>) {
            self.store.post(charge);
        }
    }

    async fn fresh() -> Subject<Leased> {
        let super::OnServer { store, _server } = super::on_server().await;
        Subject::waiting(Leased { store: store.leased(), _server })
    }

    ratelimit_core::store_laws!(fresh);
}

/// The same laws on a Cluster, where the keys of different limits lie on different nodes.
mod cluster {
    use std::sync::{Arc, Mutex, PoisonError, Weak};

    use ratelimit_core::KeyBuf;
    use redis_testkit::Cluster;

    use super::*;

    /// One Cluster for all laws that run at the same time; the last one ends it.
    static RUNNING: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());

    struct OnCluster {
        store: RedisStore,
        _cluster: Arc<Cluster>,
    }

    /// Keys that are another's for each limit, with the buffer that they stand in.
    fn scattered(charges: &[Charge<'_>]) -> Vec<KeyBuf> {
        let key = |charge: &Charge<'_>| {
            let (lead, rest) = charge.key.parts();
            let mut key = KeyBuf::new();
            key.push_u64(charge.limit.id().get());
            key.push_bytes(&lead);
            key.push_bytes(rest);
            key
        };
        charges.iter().map(key).collect()
    }

    fn with<'a>(charges: &[Charge<'a>], keys: &'a [KeyBuf]) -> Vec<Charge<'a>> {
        charges.iter().zip(keys).map(|(charge, key)| Charge { key: key.key(), ..*charge }).collect()
    }

    impl Store for OnCluster {
        fn try_decide(&self, charges: &[Charge<'_>]) -> Option<Verdict> {
            let keys = scattered(charges);
            self.store.try_decide(&with(charges, &keys))
        }

        async fn decide(&self, charges: &[Charge<'_>]) -> Result<Verdict, StoreError> {
            let keys = scattered(charges);
            self.store.decide(&with(charges, &keys)).await
        }

        fn post(&self, charge: Charge<'_>) {
            let keys = scattered(&[charge]);
            for charge in with(&[charge], &keys) {
                self.store.post(charge);
            }
        }
    }

    fn running() -> Arc<Cluster> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Cluster::start(0));
            *running = Arc::downgrade(&cluster);
            cluster
        })
    }

    async fn fresh() -> Subject<OnCluster> {
        let cluster = tokio::task::spawn_blocking(running).await.expect("a Cluster");
        let mut urls = cluster.urls().into_iter();
        let builder = RedisStore::builder(urls.next().expect("a node")).nodes(urls);
        let builder = builder.prefix(format!("law-{}", fastrand::u64(..))).on_failure(OnFailure::Error);
        let store = builder.deadline(Duration::from_secs(5)).connect().await.expect("a store");
        Subject::waiting(OnCluster { store, _cluster: cluster })
    }

    ratelimit_core::store_laws!(fresh);
}
