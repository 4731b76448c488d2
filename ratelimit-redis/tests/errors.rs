//! What a server can answer instead of a decision: rows 89 to 94, 99 to 101 of the fault catalogue. Each server
//! is real, and in the state that makes it say so.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use ratelimit_core::algorithm::Op;
use ratelimit_core::store::Origin;
use ratelimit_core::{Algorithm, Limit, StoreErrorKind};
use ratelimit_redis::{OnFailure, RedisStore};
use redis_testkit::{Program, Server};
use support::{ask, kind, strict, take, until_decided};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn limits() -> [Limit; 4] {
    let of =
        |name: &str, algorithm| Limit::new(name, "1000/day".parse().expect("a rate")).algorithm(algorithm);
    [
        of("bucket", Algorithm::TokenBucket),
        of("sliding", Algorithm::SlidingWindow),
        of("fixed", Algorithm::FixedWindow),
        Limit::concurrency("permits", 1000),
    ]
}

fn limit() -> Limit {
    Limit::new("l", "1000/day".parse().expect("a rate"))
}

fn only_key(server: &Server, kind: &str) -> String {
    let found = server.command(&["KEYS", &format!("rl:v1:{{10}}:{kind}????*")]).expect("keys");
    let keys: Vec<String> = redis::from_redis_value(found).expect("texts");
    let [key] = &keys[..] else { panic!("{keys:?}") };
    key.clone()
}

/// Row 89: the scripts are gone; the same request is decided, and charged once.
#[tokio::test]
async fn flushed_scripts_are_loaded_again() {
    let server = Server::start();
    let store = strict(&server.url()).await;
    for left in (990..1000).rev() {
        server.command(&["SCRIPT", "FLUSH"]).expect("a flush");
        let verdict = take(&store, &limit(), "k").await.expect("a decision");
        assert_eq!(verdict.outcomes[0].remaining(), left);
    }
    assert_eq!(store.troubles(), Default::default());
}

/// Row 90: the server has become a replica, and a master again.
#[tokio::test]
async fn a_replica_heals_when_it_is_a_master_again() {
    let (server, master) = (Server::start(), Server::start());
    let store = strict(&server.url()).await;
    take(&store, &limit(), "k").await.expect("a decision");
    server.command(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]).expect("replication");
    assert_eq!(kind(take(&store, &limit(), "k").await), StoreErrorKind::Unavailable);
    server.command(&["REPLICAOF", "NO", "ONE"]).expect("a master");
    until_decided(&store, &limit()).await;
}

/// Row 91: the memory is full.
#[tokio::test]
async fn out_of_memory_is_unavailable_and_heals() {
    let server = Server::start();
    let store = strict(&server.url()).await;
    take(&store, &limit(), "k").await.expect("a decision");
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).expect("a setting");
    assert_eq!(kind(take(&store, &limit(), "k").await), StoreErrorKind::Unavailable);
    assert!(store.troubles().unavailable > 0);
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).expect("a setting");
    until_decided(&store, &limit()).await;
}

/// Row 91: not enough replicas.
#[tokio::test]
async fn missing_replicas_are_unavailable_and_heal() {
    let server = Server::start();
    let store = strict(&server.url()).await;
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).expect("a setting");
    assert_eq!(kind(take(&store, &limit(), "k").await), StoreErrorKind::Unavailable);
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).expect("a setting");
    until_decided(&store, &limit()).await;
}

/// Row 91: another client's script runs for ever, until it is killed.
#[tokio::test]
async fn a_busy_server_is_waited_for_no_longer_than_the_deadline() {
    let server = Server::start_with(Program::Redis, &["--busy-reply-threshold", "50"]);
    let store =
        RedisStore::builder(server.url()).on_failure(OnFailure::Error).connect().await.expect("a store");
    until_decided(&store, &limit()).await;
    let mut other = server.connection();
    let script = std::thread::spawn(move || {
        let _: redis::RedisResult<()> = redis::cmd("EVAL").arg("while true do end").arg(0).query(&mut other);
    });
    support::until("trouble", async || take(&store, &limit(), "k").await.is_err()).await;
    let asked = tokio::time::timeout(Duration::from_millis(500), take(&store, &limit(), "k")).await;
    let kind = kind(asked.expect("the deadline is 50 ms"));
    assert!(matches!(kind, StoreErrorKind::Unavailable | StoreErrorKind::Timeout), "{kind:?}");
    support::until("the script's end", async || server.command(&["SCRIPT", "KILL"]).is_ok()).await;
    script.join().expect("the other client");
    until_decided(&store, &limit()).await;
}

/// Row 91: a wrong password at the start is an error at once, and loud.
#[tokio::test]
async fn a_wrong_password_is_misconfigured() {
    let server = Server::start_with(Program::Redis, &["--requirepass", "secret"]);
    for url in [server.url(), server.url().replace("//", "//:wrong@")] {
        for degraded in [false, true] {
            let store = RedisStore::builder(url.clone()).start_degraded(degraded).connect().await;
            assert_eq!(store.expect_err("refused").kind(), StoreErrorKind::Misconfigured, "{url}");
        }
    }
    let store = strict(&server.url().replace("//", "//:secret@")).await;
    take(&store, &limit(), "k").await.expect("a decision");
}

/// Row 91: the password changes while we run, and the file that holds it.
#[tokio::test]
async fn a_changed_password_is_read_again() {
    let server = Server::start_with(Program::Redis, &["--requirepass", "old"]);
    let file = server.directory().join("password");
    std::fs::write(&file, "old\n").expect("a file");
    let builder = RedisStore::builder(server.url())
        .password_file(&file)
        .on_failure(OnFailure::Error)
        .deadline(Duration::from_secs(1));
    let store = builder.connect().await.expect("a store");
    take(&store, &limit(), "k").await.expect("a decision");
    let mut admin = redis::Client::open(server.url().replace("//", "//:old@"))
        .expect("a client")
        .get_connection()
        .expect("a connection");
    let set: redis::RedisResult<()> =
        redis::cmd("CONFIG").arg(&["SET", "requirepass", "new"]).query(&mut admin);
    set.expect("a setting");
    std::fs::write(&file, "new\n").expect("a file");
    let killed: redis::RedisResult<i64> =
        redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]).query(&mut admin);
    killed.expect("other clients are gone");
    until_decided(&store, &limit()).await;
}

/// Row 91: a user who may not run scripts.
#[tokio::test]
async fn a_user_without_rights_is_misconfigured() {
    let server = Server::start();
    server
        .command(&["ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", "-@scripting"])
        .expect("a user");
    let url = server.url().replace("//", "//limited:pw@");
    let store = RedisStore::connect(&url).await;
    assert_eq!(store.expect_err("refused").kind(), StoreErrorKind::Misconfigured);
}

/// Row 94: whatever somebody else wrote at our key stays as it is; that key has no decision and others do.
#[tokio::test]
async fn foreign_data_is_never_overwritten() {
    let server = Server::start();
    let store = strict(&server.url()).await;
    for limit in limits() {
        let kind_of_key = &limit.name()[..1].replace('b', "t").replace('p', "c");
        take(&store, &limit, "k").await.expect("a decision");
        let key = only_key(&server, kind_of_key);
        for words in [
            &["SET", &key, "not ours"][..],
            &["LPUSH", &key, "a", "b"],
            &["SET", &key, "123456789012345"],
            &["HSET", &key, "field", "value"],
        ] {
            server.command(&["DEL", &key]).expect("deleted");
            server.command(words).expect("written");
            let before = server.command(&["DUMP", &key]).expect("a dump");
            for op in [Op::Take(1), Op::Take(1), Op::Debit(1), Op::Refund(1, None), Op::Peek(1), Op::Reset] {
                let answer = ask(&store, &limit, "k", op).await;
                assert_eq!(kind(answer), StoreErrorKind::ForeignData, "{op:?} {limit:?} {words:?}");
            }
            take(&store, &limit, "other").await.expect("another key is decided");
            assert_eq!(server.command(&["DUMP", &key]).expect("a dump"), before, "{words:?} {limit:?}");
            server.command(&["FLUSHALL"]).expect("flushed");
            take(&store, &limit, "k").await.expect("a decision");
        }
        server.command(&["FLUSHALL"]).expect("flushed");
        until_decided(&store, &limit).await;
        server.command(&["FLUSHALL"]).expect("flushed");
    }
    assert!(store.is_up() && store.troubles().foreign_data > 0);
}

/// Row 94: with a policy, that key is decided by it and others by the store.
#[tokio::test]
async fn foreign_data_falls_back_for_that_key_alone() {
    let server = Server::start();
    let store = RedisStore::builder(server.url())
        .replicas(1)
        .deadline(Duration::from_secs(1))
        .connect()
        .await
        .expect("a store");
    take(&store, &limit(), "k").await.expect("a decision");
    let key = only_key(&server, "t");
    server.command(&["SET", &key, "not ours"]).expect("written");
    assert_eq!(take(&store, &limit(), "k").await.expect("an answer").origin, Origin::Local);
    assert_eq!(take(&store, &limit(), "other").await.expect("an answer").origin, Origin::Store);
}

/// Row 100: nothing we write lives for ever.
#[tokio::test]
async fn every_key_has_an_expiry() {
    let server = Server::start();
    let store = strict(&server.url()).await;
    for limit in limits() {
        for op in [Op::Take(1), Op::Take(3), Op::Debit(1), Op::Refund(1, None), Op::Take(1)] {
            ask(&store, &limit, "k", op).await.expect("a decision");
        }
    }
    let keys: Vec<String> =
        redis::from_redis_value(server.command(&["KEYS", "*"]).expect("keys")).expect("texts");
    assert!(keys.len() >= 4, "{keys:?}");
    for key in keys {
        let ttl: i64 =
            redis::from_redis_value(server.command(&["PTTL", &key]).expect("ttl")).expect("a number");
        assert!(ttl > 0, "{key} lives for {ttl} ms");
    }
}

/// Row 101: what answers is no Redis, or one gone mad.
#[tokio::test]
async fn nonsense_is_an_error_of_its_own() {
    let answers: [&[u8]; 4] =
        [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n:1\r\n+WHAT\r\n", b"\xff\xfe\xfd", b"$5\r\nab"];
    for answer in answers {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("redis://{}", listener.local_addr().expect("its address"));
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(1..) = stream.read(&mut buffer).await {
                        let _ = stream.write_all(answer).await;
                    }
                });
            }
        });
        let started = tokio::time::timeout(Duration::from_secs(5), RedisStore::connect(&url)).await;
        started.expect("it is noticed").expect_err("that is no store");
        let builder =
            RedisStore::builder(url).start_degraded(true).replicas(1).deadline(Duration::from_secs(1));
        if let Ok(store) = builder.connect().await {
            assert_eq!(take(&store, &limit(), "k").await.expect("an answer").origin, Origin::Local);
        }
        server.abort();
    }
}

/// Addresses and settings that can't be right are refused before anything is connected to.
#[tokio::test]
async fn wrong_settings_are_refused() {
    for builder in [
        RedisStore::builder("localhost:6379"),
        RedisStore::builder("http://127.0.0.1"),
        RedisStore::builder("redis://127.0.0.1:99999"),
        RedisStore::builder("redis://127.0.0.1").prefix("{x}"),
        RedisStore::builder("redis://127.0.0.1").prefix(""),
        RedisStore::builder("redis://127.0.0.1").deadline(Duration::ZERO),
    ] {
        let refused = builder.clone().connect().await.expect_err("it is wrong");
        assert_eq!(refused.kind(), StoreErrorKind::Misconfigured, "{builder:?}");
    }
}

/// Row 91: the server has started and reads its data; it says so, and is used when it is done.
#[tokio::test]
async fn a_loading_server_is_unavailable_and_heals() {
    let slow = ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"];
    let mut server = Server::start_with(Program::Redis, &slow);
    let store = strict(&server.url()).await;
    take(&store, &limit(), "k").await.expect("a decision");
    let mut pipe = redis::pipe();
    for number in 0..2000 {
        pipe.cmd("SET").arg(format!("other:{number}")).arg(format!("{number:0100}"));
    }
    let _: Vec<String> = pipe.query(&mut server.connection()).expect("written");
    server.command(&["SAVE"]).expect("saved");
    server.restart();
    let patient = RedisStore::builder(server.url()).deadline(Duration::from_secs(1));
    let refused = patient.connect().await.expect_err("it takes two seconds to load");
    assert_eq!(
        (refused.kind(), refused.to_string().contains("LOADING")),
        (StoreErrorKind::Unavailable, true)
    );
    assert_eq!(kind(take(&store, &limit(), "k").await), StoreErrorKind::Unavailable);
    until_decided(&store, &limit()).await;
    let seen = ask(&store, &limit(), "k", Op::Peek(1)).await.expect("a decision");
    assert_eq!(seen.outcomes[0].remaining(), 999, "the data was there");
}

/// Row 91: a replica that has lost its master and may not answer from what it has.
#[tokio::test]
async fn a_replica_without_its_master_is_unavailable_and_heals() {
    let (server, mut master) = (Server::start(), Server::start());
    let store = strict(&server.url()).await;
    take(&store, &limit(), "k").await.expect("a decision");
    let port = master.port().to_string();
    master.kill();
    server.command(&["CONFIG", "SET", "replica-serve-stale-data", "no"]).expect("a setting");
    server.command(&["REPLICAOF", "127.0.0.1", &port]).expect("replication");
    let refused = take(&store, &limit(), "k").await.expect_err("it has no master");
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
    assert!(refused.to_string().contains("MASTERDOWN"), "{refused}");
    server.command(&["REPLICAOF", "NO", "ONE"]).expect("a master");
    until_decided(&store, &limit()).await;
}

/// Row 91: the server can't write its snapshot, and takes no more data until it can.
#[tokio::test]
async fn a_server_that_can_not_save_is_unavailable_and_heals() {
    let server = Server::start();
    let store = strict(&server.url()).await;
    take(&store, &limit(), "k").await.expect("a decision");
    // Where the snapshot belongs there is a directory.
    let in_the_way = server.directory().join("dump.rdb");
    std::fs::create_dir(&in_the_way).expect("a directory");
    server.command(&["CONFIG", "SET", "save", "3600 1"]).expect("a setting");
    server.command(&["BGSAVE"]).expect("begun");
    support::until("MISCONF", async || {
        let answer = take(&store, &limit(), "k").await;
        answer.is_err_and(|error| {
            error.kind() == StoreErrorKind::Unavailable && error.to_string().contains("MISCONF")
        })
    })
    .await;
    std::fs::remove_dir(&in_the_way).expect("out of the way");
    server.command(&["BGSAVE"]).expect("begun");
    until_decided(&store, &limit()).await;
}
