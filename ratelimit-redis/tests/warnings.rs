//! What an operator is told of a store that may lose counts, or has: rows 95, 98 and 99 of the fault catalogue.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ratelimit_core::Limit;
use ratelimit_redis::{OnFailure, RedisStore};
use redis_testkit::{Program, Server};
use support::{take, until, until_decided};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Keeps warnings.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn count(&self, words: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|line| line.contains(words)).count()
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        if *event.metadata().level() == Level::WARN {
            let mut line = Line(String::new());
            event.record(&mut line);
            self.0.lock().unwrap().push(line.0);
        }
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// A store whose task runs on this thread, where the log is.
async fn store(server: &Server) -> RedisStore {
    let builder = RedisStore::builder(server.url()).runtime(tokio::runtime::Handle::current());
    let builder = builder.on_failure(OnFailure::Error).deadline(Duration::from_secs(1));
    builder.connect().await.expect("a store")
}

fn limit() -> Limit {
    Limit::new("l", "1000/day".parse().expect("a rate"))
}

const EVICTS: &str = "evicts keys";
const ALONE: &str = "min-replicas-to-write is 0";
const LOST: &str = "has lost its data";
const RESTARTED: &str = "started again";

/// Row 99: keys may be evicted.
#[tokio::test]
async fn row_99_an_evicting_store_is_warned_of() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let evicting = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    let server = Server::start_with(Program::Redis, &evicting);
    let store = store(&server).await;
    until("a warning", async || log.count(EVICTS) == 1).await;
    assert_eq!(log.count("allkeys-lru"), 1);
    // The same again is not said again.
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]).expect("clients are gone");
    until_decided(&store, &limit()).await;
    assert_eq!((log.count(EVICTS), log.count(ALONE), log.count(RESTARTED)), (1, 0, 0));
}

/// Row 98: a master with a replica, that would go on without it.
#[tokio::test]
async fn row_98_a_master_that_writes_alone_is_warned_of() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let master = Server::start();
    let follow = format!("127.0.0.1 {}", master.port());
    let _replica =
        Server::start_with(Program::Redis, &["--replicaof", &follow, "--repl-diskless-sync-delay", "0"]);
    until("the replica", async || {
        let info = master.command(&["INFO", "replication"]).expect("an answer");
        redis::from_redis_value::<String>(info).expect("a text").contains("connected_slaves:1")
    })
    .await;
    let _store = store(&master).await;
    until("a warning", async || log.count(ALONE) == 1).await;
    assert_eq!(log.count(EVICTS), 0);
}

/// Rows 98 and 99: a server that may not be asked for its settings is used without.
#[tokio::test]
async fn a_store_that_keeps_its_settings_to_itself_is_used() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let server = Server::start();
    let rights = ["ACL", "SETUSER", "default", "on", "nopass", "~*", "+@all", "-config", "-info"];
    server.command(&rights).expect("a user");
    let store = store(&server).await;
    take(&store, &limit(), "k").await.expect("a decision");
    tokio::time::sleep(Duration::from_millis(50)).await;
    take(&store, &limit(), "k").await.expect("a decision");
    assert_eq!((log.count(EVICTS), log.count(ALONE), store.troubles().misconfigured), (0, 0, 0));
}

/// Row 95: lost data is noticed, logged and counted; a restart that kept it is told apart.
#[tokio::test]
async fn row_95_lost_data_is_an_event() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let mut server = Server::start();
    let store = store(&server).await;
    let named = async |server: &Server| {
        until("a name of the data", async || {
            let exists = server.command(&["EXISTS", "rl:v1:{10}:dataset"]).expect("an answer");
            exists == redis::Value::Int(1)
        })
        .await;
    };
    named(&server).await;
    // The name is known when a replica counted itself.
    until("the census", async || store.replicas() == 1).await;
    server.command(&["FLUSHALL"]).expect("flushed");
    until("the loss", async || store.troubles().data_losses == 1).await;
    assert_eq!((log.count(LOST), log.count(RESTARTED)), (1, 0));
    server.command(&["SAVE"]).expect("saved");
    server.restart();
    until_decided(&store, &limit()).await;
    until("the restart", async || store.troubles().restarts == 1).await;
    assert_eq!((store.troubles().data_losses, log.count(LOST), log.count(RESTARTED)), (1, 1, 1));
    std::fs::remove_file(server.directory().join("dump.rdb")).expect("removed");
    server.restart();
    until("the second loss", async || store.troubles().data_losses == 2).await;
    until("the second restart", async || store.troubles().restarts == 2).await;
}
