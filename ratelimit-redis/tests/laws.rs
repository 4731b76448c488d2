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
