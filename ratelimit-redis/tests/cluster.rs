//! Clusters: rows 92, 93 and 97 of the fault catalogue.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod support;

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ratelimit_core::algorithm::{Op, Outcome};
use ratelimit_core::store::{Charge, Origin, Verdict};
use ratelimit_core::{AsKey, KeyBuf, Limit, Store, StoreError};
use ratelimit_redis::{Builder, OnFailure, RedisStore};
use redis_testkit::Cluster;
use support::{ask, take, until};

/// Nodes answer for what they have although another one is gone.
const PARTLY: [&str; 2] = ["--cluster-require-full-coverage", "no"];

fn builder(cluster: &Cluster) -> Builder {
    let mut urls = cluster.urls().into_iter();
    RedisStore::builder(urls.next().expect("a node")).nodes(urls).deadline(Duration::from_secs(1))
}

async fn store(cluster: &Cluster) -> RedisStore {
    builder(cluster).on_failure(OnFailure::Error).connect().await.expect("a store")
}

fn daily(name: &str, units: u32) -> Limit {
    Limit::new(name, format!("{units}/day").parse().expect("a rate"))
}

/// Takes one unit of each limit, each for a key of its own, or of none.
async fn take_all<K: AsKey>(store: &RedisStore, asked: &[(&Limit, K)]) -> Result<Verdict, StoreError> {
    let keys: Vec<KeyBuf> = asked
        .iter()
        .map(|(_, key)| {
            let mut buffer = KeyBuf::new();
            key.encode(&mut buffer);
            buffer
        })
        .collect();
    let charges: Vec<Charge<'_>> = asked
        .iter()
        .zip(&keys)
        .map(|((limit, _), key)| Charge { limit, key: key.key(), op: Op::Take(1) })
        .collect();
    match store.try_decide(&charges) {
        Some(verdict) => Ok(verdict),
        None => store.decide(&charges).await,
    }
}

async fn left(store: &RedisStore, limit: &Limit, key: impl AsKey) -> u32 {
    ask(store, limit, key, Op::Peek(1)).await.expect("a decision").outcomes[0].remaining()
}

/// Every node has its share of the keys, and so of the work.
#[tokio::test]
async fn the_nodes_share_the_keys() {
    let cluster = Cluster::start(0);
    let store = store(&cluster).await;
    let limit = daily("l", 10);
    for key in 0..600_u64 {
        take(&store, &limit, key).await.expect("a decision");
    }
    for node in cluster.nodes() {
        let size = node.command(&["DBSIZE"]).expect("a number");
        let keys: u32 = redis::from_redis_value(size).expect("a number");
        assert!((120..320).contains(&keys), "{keys} of 600");
    }
    // One connection a node, whatever the number of partitions; one more is the question.
    for node in cluster.nodes() {
        let clients = node.command(&["CLIENT", "LIST", "TYPE", "normal"]).expect("a list");
        let clients: String = redis::from_redis_value(clients).expect("a text");
        let ours =
            clients.lines().filter(|line| line.contains("lib-name=ratelimit") || line.contains("evalsha"));
        assert!(ours.count() <= 1, "{clients}");
    }
}

/// Limits of keys on several nodes: what the others were charged for a request that one refuses is given back.
#[tokio::test]
async fn all_or_nothing_over_several_nodes() {
    let cluster = Cluster::start(0);
    let store = store(&cluster).await;
    let limits = [1, 2, 3, 4, 5].map(|n| daily(&format!("l{n}"), n * 10));
    let asked: Vec<(&Limit, u64)> = limits.iter().zip(0..).collect();
    let mut admitted = 0;
    for _ in 0..40 {
        let verdict = take_all(&store, &asked).await.expect("a decision");
        admitted += u32::from(verdict.admitted);
        if !verdict.admitted {
            let said: Vec<u32> = verdict.outcomes.iter().skip(1).map(Outcome::remaining).collect();
            let known = verdict.origin == Origin::Known;
            assert!(known || said == [10, 20, 30, 40], "as if they had not been charged: {said:?}");
        }
        // Ask the store again, not the memory of the denial.
        tokio::time::sleep(Duration::from_millis(if verdict.admitted { 0 } else { 40 })).await;
    }
    assert_eq!(admitted, 10);
    for ((limit, key), expected) in asked.into_iter().zip([0, 10, 20, 30, 40]) {
        assert_eq!(left(&store, limit, key).await, expected);
    }
}

/// Limits that count by the same key lie on one node and are decided in one step: a competitor never sees a
/// charge that comes to nothing.
#[tokio::test]
async fn limits_of_one_key_are_decided_in_one_step() {
    let cluster = Cluster::start(0);
    let store = store(&cluster).await;
    let (few, many) = (daily("few", 1), daily("many", 1000));
    for key in 0..50_u64 {
        take(&store, &few, key).await.expect("a decision");
    }
    let refused = async {
        for key in (0..50_u64).cycle().take(2000) {
            let verdict = take_all(&store, &[(&few, key), (&many, key)]).await.expect("a decision");
            assert!(!verdict.admitted);
        }
    };
    let watched = async {
        for key in (0..50_u64).cycle().take(2000) {
            assert_eq!(left(&store, &many, key).await, 1000);
        }
    };
    tokio::join!(refused, watched);
}

/// A permit that was reserved for a request another node refuses, or that is given up, is free again.
#[tokio::test]
async fn permits_that_were_reserved_come_back() {
    let cluster = Cluster::start(0);
    let store = store(&cluster).await;
    let (permits, once) = (Limit::concurrency("permits", 3), daily("once", 1));
    for _ in 0..5 {
        // Of these 40 keys some lie elsewhere than the permits.
        for key in 0..40_u64 {
            let _ = take_all(&store, &[(&permits, 1000), (&once, key)]).await;
        }
    }
    // The first three hold theirs; every other one was refused.
    assert_eq!(left(&store, &permits, 1000_u64).await, 0);
    ask(&store, &permits, 1000_u64, Op::Refund(3, None)).await.expect("a decision");
    for key in 100..160_u64 {
        let asked = [(&permits, 1000), (&once, key)];
        let given_up = tokio::time::timeout(Duration::from_micros(key * 5), take_all(&store, &asked)).await;
        if let Ok(Ok(Verdict { admitted: true, .. })) = given_up {
            ask(&store, &permits, 1000_u64, Op::Refund(1, None)).await.expect("a decision");
        }
    }
    until("all permits", async || left(&store, &permits, 1000_u64).await == 3).await;
}

/// With one partition everything is on one node, and decided in one step.
#[tokio::test]
async fn one_partition_is_one_node() {
    let cluster = Cluster::start(0);
    let one = builder(&cluster).partitions(NonZero::<u8>::MIN).on_failure(OnFailure::Error);
    let store = one.connect().await.expect("a store");
    let limits = [1, 2].map(|n| daily(&format!("l{n}"), n * 10));
    let asked: Vec<(&Limit, u64)> = limits.iter().zip(0..).collect();
    let mut admitted = 0;
    for _ in 0..30 {
        admitted += u32::from(take_all(&store, &asked).await.expect("a decision").admitted);
    }
    assert_eq!((admitted, left(&store, &limits[1], 1_u64).await), (10, 10));
    let sizes = cluster.nodes().iter().map(|node| {
        redis::from_redis_value::<u32>(node.command(&["DBSIZE"]).expect("a number")).expect("a number")
    });
    assert_eq!(sizes.filter(|size| *size > 0).count(), 1);
}

/// When admissions of a key were asked for, and when they were answered.
type Admissions = HashMap<(u32, u64), Vec<(Instant, Instant)>>;

/// When requests were admitted: from when they were asked to when they were answered.
#[derive(Clone, Default)]
struct Judge(Arc<Mutex<Admissions>>);

impl Judge {
    fn admitted(&self, limit: u32, key: u64, asked: Instant) {
        self.0.lock().unwrap().entry((limit, key)).or_default().push((asked, Instant::now()));
    }

    /// For every interval: not more than `burst` and what comes back in it. Decisions lie somewhere between the
    /// question and the answer, so an interval is as long as it can have been.
    fn check(&self, limit: u32, burst: f64, rate: f64) -> usize {
        let mut total = 0;
        for ((of, key), admitted) in &*self.0.lock().unwrap() {
            if *of != limit {
                continue;
            }
            total += admitted.len();
            for &(start, _) in admitted {
                let mut answered: Vec<Instant> = admitted
                    .iter()
                    .filter(|(asked, _)| *asked >= start)
                    .map(|&(_, answered)| answered)
                    .collect();
                answered.sort_unstable();
                for (before, end) in answered.iter().enumerate() {
                    let bound = burst + rate * (*end - start).as_secs_f64();
                    assert!((before + 1) as f64 <= bound, "key {key}: {} in {:?}", before + 1, *end - start);
                }
            }
        }
        total
    }
}

/// Row 92: slots move while decisions are made: no limit is exceeded, and hardly a decision fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_92_resharding_under_load_keeps_every_bound() {
    let cluster = Arc::new(Cluster::start(0));
    let store = Arc::new(store(&cluster).await);
    let user = Limit::new("user", "20/s".parse().expect("a rate")).burst(10);
    let group = Limit::new("group", "100/s".parse().expect("a rate")).burst(30);
    let (judge, over) = (Judge::default(), Arc::new(AtomicBool::new(false)));
    let start = Instant::now();
    let tasks: Vec<_> = (0..8_u64)
        .map(|task| {
            let (store, judge, over) = (Arc::clone(&store), judge.clone(), Arc::clone(&over));
            let (user, group) = (user.clone(), group.clone());
            tokio::spawn(async move {
                let (mut asked, mut failed) = (0, 0);
                while !over.load(Ordering::Relaxed) {
                    let (key, at) = (asked * 8 + task, Instant::now());
                    let (one, all) = (key % 64, 1000 + key % 4);
                    asked += 1;
                    match take_all(&store, &[(&user, one), (&group, all)]).await {
                        Ok(verdict) if verdict.admitted => {
                            judge.admitted(0, one, at);
                            judge.admitted(1, all, at);
                        }
                        Ok(_) => {}
                        Err(_) => failed += 1,
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                (asked, failed)
            })
        })
        .collect();
    let moving = Arc::clone(&cluster);
    tokio::task::spawn_blocking(move || {
        // All that one node has, there and partly on.
        moving.reshard(0, 1, 5461);
        moving.reshard(1, 2, 5000);
    })
    .await
    .expect("the slots moved");
    over.store(true, Ordering::Relaxed);
    let (mut asked, mut failed) = (0, 0);
    for task in tasks {
        let (more, amiss) = task.await.expect("no panic");
        (asked, failed) = (asked + more, failed + amiss);
    }
    let seconds = start.elapsed().as_secs_f64();
    let users = judge.check(0, 10.0, 20.0);
    let groups = judge.check(1, 30.0, 100.0);
    println!("{asked} asked in {seconds:.1} s, {failed} failed, {users} admitted");
    assert_eq!(users, groups);
    assert!(failed * 100 <= asked, "{failed} of {asked} failed");
    // Demand is higher than the four groups' quota, most of which is used.
    assert!(groups as f64 >= 0.6 * (4.0 * 100.0 * seconds).min(asked as f64), "{groups} in {seconds} s");
}

/// Row 97: a master dies and its replica takes over. What the other nodes have is decided all the while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_97_a_failover_is_followed() {
    let mut cluster = Cluster::start_with(1, &PARTLY);
    let store = store(&cluster).await;
    let limit = daily("l", 1000);
    let keys: Vec<u64> = (0..64).collect();
    for &key in &keys {
        for _ in 0..4 {
            take(&store, &limit, key).await.expect("a decision");
        }
    }
    let master = cluster.master_of("rl:v1:{10}:x");
    cluster.kill(master);
    let mut failed = std::collections::HashSet::new();
    until("the replica's decisions", async || {
        let mut all = true;
        for &key in &keys {
            if take(&store, &limit, key).await.is_err() {
                failed.insert(key);
                all = false;
            }
        }
        all
    })
    .await;
    // A third of the partitions were on it.
    assert!((5..40).contains(&failed.len()), "{} keys", failed.len());
    for &key in &keys {
        // What was not replicated yet is lost: a burst at most.
        assert!(left(&store, &limit, key).await <= 1000);
        if !failed.contains(&key) {
            assert!(left(&store, &limit, key).await < 997);
        }
    }
}

/// A node that stands still takes only its own keys along: for these each replica decides by itself, and nobody
/// waits for it who asks for others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_node_takes_only_its_own_keys_along() {
    let cluster = Cluster::start_with(0, &PARTLY);
    let builder = builder(&cluster).deadline(Duration::from_millis(400)).replicas(1);
    let store = builder.on_failure(OnFailure::Local).connect().await.expect("a store");
    let limit = daily("l", 1000);
    let keys: Vec<u64> = (0..64).collect();
    let mut home = HashMap::new();
    for &key in &keys {
        assert_eq!(take(&store, &limit, key).await.expect("a decision").origin, Origin::Store);
    }
    let lost = cluster.master_of("rl:v1:{10}:x");
    cluster.nodes()[lost].freeze();
    let end = Instant::now() + Duration::from_secs(6);
    while Instant::now() < end {
        for &key in &keys {
            let verdict = take(&store, &limit, key).await.expect("a decision");
            assert!(verdict.origin != Origin::Local || verdict.outcomes[0].remaining() < 1000);
            home.entry(key).or_insert_with(Vec::new).push(verdict.origin);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let part = |origins: &Vec<Origin>| {
        origins.iter().filter(|origin| **origin == Origin::Local).count() as f64 / origins.len() as f64
    };
    // A busy machine may keep an answer of the others for too long now and then.
    let elsewhere = home.values().filter(|origins| part(origins) < 0.2).count();
    let alone = home.values().filter(|origins| part(origins) > 0.8).count();
    println!("{elsewhere} decided by the store, {alone} alone");
    assert_eq!(elsewhere + alone, keys.len(), "{home:?}");
    let amiss: f64 = home.values().map(part).filter(|part| *part < 0.2).sum();
    assert!(amiss < 1.0, "{home:?}");
    assert!((5..40).contains(&alone), "{alone}");
    assert!(!store.is_up());
    cluster.nodes()[lost].thaw();
    until("the node", async || store.is_up()).await;
    for &key in &keys {
        assert_eq!(take(&store, &limit, key).await.expect("a decision").origin, Origin::Store);
    }
}
