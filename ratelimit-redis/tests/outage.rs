//! The store is gone, slow, silent or back: rows 83 to 88, 95, 103 and 111 of the fault catalogue, with the bound
//! of each policy.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use ratelimit_core::algorithm::Op;
use ratelimit_core::store::Origin;
use ratelimit_core::time::Clock;
use ratelimit_core::{Limit, LimitSpec, Store, StoreErrorKind, SystemClock};
use ratelimit_redis::{Builder, OnFailure, RedisStore};
use redis_testkit::{Relay, Server};
use support::{ask, kind, strict, take, until, until_decided};

const DEADLINE: Duration = Duration::from_millis(50);
/// What a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_millis(150);

/// A hundred units that come back over a day.
fn limit() -> Limit {
    Limit::new("l", "100/day".parse().expect("a rate"))
}

fn local(url: &str, replicas: u32) -> Builder {
    RedisStore::builder(url).replicas(replicas).deadline(Duration::from_millis(500))
}

/// How many of `times` takes are admitted, and by whom the last was answered.
async fn admitted(store: &RedisStore, limit: &Limit, times: u32) -> (u32, Origin) {
    let (mut count, mut origin) = (0, Origin::Store);
    for _ in 0..times {
        let verdict = take(store, limit, "k").await.expect("an answer");
        count += u32::from(verdict.admitted);
        origin = verdict.origin;
    }
    (count, origin)
}

async fn took(work: impl Future) -> Duration {
    let clock = SystemClock::default();
    let start = clock.now();
    work.await;
    clock.now().saturating_sub(start).into()
}

async fn until_up(store: &RedisStore, up: bool) {
    until(if up { "the store" } else { "the outage" }, async || {
        let _ = take(store, &limit(), "probe").await;
        store.is_up() == up
    })
    .await;
}

/// Row 83: down at the start. An error unless it may start degraded, and then it finds the store by itself.
#[tokio::test]
async fn down_at_the_start() {
    let mut server = Server::start();
    server.kill();
    let refused = RedisStore::connect(&server.url()).await.expect_err("nobody is there");
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
    let store = local(&server.url(), 4).start_degraded(true).connect().await.expect("it starts");
    assert!(!store.is_up());
    assert_eq!(admitted(&store, &limit(), 50).await, (1, Origin::Local));
    server.restart();
    until_up(&store, true).await;
    assert_eq!(take(&store, &limit(), "other").await.expect("a decision").origin, Origin::Store);
}

/// Each policy says what it says, at once, once the store is known to be gone (row 84).
#[tokio::test]
async fn each_policy_and_its_bound() {
    for (policy, most, origin) in [
        (OnFailure::Local, 1, Origin::Local),
        (OnFailure::Allow, 50, Origin::FailedOpen),
        (OnFailure::Deny, 0, Origin::FailedClosed),
    ] {
        let mut server = Server::start();
        let store = local(&server.url(), 4).on_failure(policy).connect().await.expect("a store");
        take(&store, &limit(), "k").await.expect("a decision");
        server.kill();
        until_up(&store, false).await;
        let time = took(async { assert_eq!(admitted(&store, &limit(), 50).await, (most, origin)) }).await;
        assert!(time < Duration::from_millis(100), "{policy:?}: 50 decisions took {time:?}");
    }
    let mut server = Server::start();
    let store = strict(&server.url()).await;
    server.kill();
    until_up(&store, false).await;
    assert_eq!(kind(take(&store, &limit(), "k").await), StoreErrorKind::Unavailable);
}

/// What was let through without the store was charged to nobody: given back later, it takes nobody's permit away.
#[tokio::test]
async fn what_was_let_through_is_not_given_back() {
    let mut server = Server::start();
    let store = local(&server.url(), 1).on_failure(OnFailure::Allow).connect().await.expect("a store");
    let limit = Limit::concurrency("permits", 3);
    assert!(take(&store, &limit, "k").await.expect("a decision").admitted);
    server.kill();
    until_up(&store, false).await;
    let verdict = take(&store, &limit, "k").await.expect("an answer");
    assert_eq!((verdict.origin, verdict.admitted), (Origin::FailedOpen, true));
    server.restart();
    until_up(&store, true).await;
    let left = async || {
        let verdict = ask(&store, &limit, "k", Op::Peek(0)).await.expect("a decision");
        (verdict.origin == Origin::Store).then(|| verdict.outcomes[0].remaining())
    };
    until("the permit that is held", async || left().await == Some(2)).await;
    let mut key = ratelimit_core::KeyBuf::new();
    ratelimit_core::AsKey::encode("k", &mut key);
    let op = Op::Refund(1, Some(verdict.outcomes[0].receipt));
    store.post(ratelimit_core::store::Charge { limit: &limit, key: key.key(), op });
    store.flush().await.expect("the store");
    assert_eq!(left().await, Some(2));
}

/// Row 85: silence. Each call waits for its deadline, and soon nobody waits at all.
#[tokio::test]
async fn a_frozen_server_costs_a_few_deadlines_and_then_nothing() {
    let server = Server::start();
    let store = local(&server.url(), 4).deadline(DEADLINE).connect().await.expect("a store");
    take(&store, &limit(), "k").await.expect("a decision");
    server.freeze();
    let mut slow = 0;
    for _ in 0..100 {
        let time = took(take(&store, &limit(), "k")).await;
        assert!(time < DEADLINE + SLACK, "{time:?}");
        slow += u32::from(time > DEADLINE / 2);
    }
    assert!((1..=7).contains(&slow), "{slow} calls waited");
    assert!(store.troubles().timeouts > 0 && !store.is_up());
    server.thaw();
    until_up(&store, true).await;
}

/// Rows 85 and 86: the same through a network that swallows everything, or is slow, or drips.
#[tokio::test]
async fn a_bad_network_is_an_outage_and_heals() {
    let server = Server::start();
    let relay = Relay::start(server.port()).await;
    let store = local(&relay.url(), 4).deadline(DEADLINE).connect().await.expect("a store");
    type Change = fn(&Relay);
    let weathers: [(&str, Change); 5] = [
        ("freeze", Relay::freeze),
        ("delay", |relay| relay.delay(Duration::from_millis(200))),
        ("no answers", Relay::drop_answers),
        ("drip", |relay| relay.drip(Duration::from_millis(10))),
        ("cut", Relay::cut),
    ];
    for (name, weather) in weathers {
        weather(&relay);
        until_up(&store, false).await;
        let time = took(take(&store, &limit(), "k")).await;
        assert!(time < DEADLINE / 2, "{name}: {time:?}");
        relay.heal();
        until_up(&store, true).await;
    }
}

/// Row 87: a store that comes and goes is not stormed with connections.
#[tokio::test]
async fn no_storm_of_connections() {
    let server = Server::start();
    let relay = Relay::start(server.port()).await;
    let store = local(&relay.url(), 1).connect().await.expect("a store");
    let before = relay.accepted();
    relay.cut();
    let clock = SystemClock::default();
    let start = clock.now();
    while Duration::from(clock.now().saturating_sub(start)) < Duration::from_secs(3) {
        let _ = take(&store, &limit(), "k").await;
        tokio::task::yield_now().await;
    }
    // Pauses of 50 to 100 ms, then twice that, and so on.
    let made = relay.accepted() - before;
    assert!((2..=12).contains(&made), "{made} connections in 3 s");
}

/// Row 88: nobody knows whether the charge was made: it is made once at most, and not asked for again.
#[tokio::test]
async fn a_lost_answer_charges_once_at_most() {
    let server = Server::start();
    let relay = Relay::start(server.port()).await;
    let store = strict(&relay.url()).await;
    assert_eq!(take(&store, &limit(), "k").await.expect("a decision").outcomes[0].remaining(), 99);
    relay.drop_answers();
    assert_eq!(kind(take(&store, &limit(), "k").await), StoreErrorKind::Timeout);
    relay.heal();
    until_decided(&store, &limit()).await;
    let left = ask(&store, &limit(), "k", Op::Peek(1)).await.expect("a decision").outcomes[0].remaining();
    assert!((98..=99).contains(&left), "{left} left after a charge and one that may have been made");
}

/// Row 95: a restart without data costs one burst for a key, and the store goes on by itself.
#[tokio::test]
async fn a_restart_without_data_costs_one_burst() {
    let mut server = Server::start();
    let store = strict(&server.url()).await;
    let small = Limit::new("small", "5/day".parse().expect("a rate"));
    let all = async |store: &RedisStore| {
        let mut count = 0;
        for _ in 0..20 {
            count += u32::from(take(store, &small, "k").await.is_ok_and(|verdict| verdict.admitted));
        }
        count
    };
    assert_eq!(all(&store).await, 5);
    server.restart();
    until_decided(&store, &limit()).await;
    // What is known to be denied is known for a second at most.
    until("a fresh burst", async || all(&store).await == 5).await;
    assert_eq!(all(&store).await, 0);
}

/// Row 96: with its data, nothing at all.
#[tokio::test]
async fn a_restart_with_data_costs_nothing() {
    let mut server = Server::start();
    let store = strict(&server.url()).await;
    for _ in 0..30 {
        take(&store, &limit(), "k").await.expect("a decision");
    }
    server.command(&["SAVE"]).expect("saved");
    server.restart();
    until_decided(&store, &limit()).await;
    let left = ask(&store, &limit(), "k", Op::Peek(1)).await.expect("a decision").outcomes[0].remaining();
    assert_eq!(left, 70);
}

/// What was spent without the store is charged to it before the key is decided again.
#[tokio::test]
async fn the_store_is_told_what_was_spent_without_it() {
    let mut server = Server::start();
    let store = local(&server.url(), 1).connect().await.expect("a store");
    // Fast enough that the share is more than one unit after a moment, slow enough to be seen.
    let limit = Limit::new("back", "10/s".parse().expect("a rate")).burst(1000);
    server.kill();
    until_up(&store, false).await;
    let mut spent = 0;
    until("local units", async || {
        spent += u32::from(take(&store, &limit, "k").await.expect("an answer").admitted);
        spent >= 8
    })
    .await;
    server.restart();
    until_up(&store, true).await;
    let verdict = ask(&store, &limit, "k", Op::Peek(1)).await.expect("a decision");
    assert_eq!(verdict.origin, Origin::Store);
    // The server has lost its data, so all that is missing is what it was told; ten a second come back.
    let left = verdict.outcomes[0].remaining();
    assert!((900..=1000 - 8 + 5).contains(&left), "{left} of 1000 left after {spent} were spent elsewhere");
}

/// A burst spent locally is missing in the store afterwards.
#[tokio::test]
async fn a_local_burst_is_not_given_twice() {
    let mut server = Server::start();
    let store = local(&server.url(), 1).connect().await.expect("a store");
    let limit = Limit::new("twice", "100/day".parse().expect("a rate"));
    server.kill();
    until_up(&store, false).await;
    // The share begins with one unit; a reset is a fresh start, here of all hundred.
    ask(&store, &limit, "k", Op::Reset).await.expect("an answer");
    let (count, origin) = {
        let (mut count, mut origin) = (0, Origin::Store);
        for _ in 0..60 {
            let verdict = take(&store, &limit, "k").await.expect("an answer");
            (count, origin) = (count + u32::from(verdict.admitted), verdict.origin);
        }
        (count, origin)
    };
    assert_eq!((count, origin), (60, Origin::Local));
    server.restart();
    until_up(&store, true).await;
    let verdict = ask(&store, &limit, "k", Op::Peek(1)).await.expect("a decision");
    assert_eq!(verdict.origin, Origin::Store);
    assert_eq!(verdict.outcomes[0].remaining(), 40);
}

/// Row 103: more than can be sent is shed, not queued without end.
#[tokio::test]
async fn too_much_is_shed() {
    let server = Server::start();
    let builder = RedisStore::builder(server.url()).on_failure(OnFailure::Error).queue(100);
    let store = std::sync::Arc::new(builder.connect().await.expect("a store"));
    server.freeze();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..1000_u64 {
        let store = std::sync::Arc::clone(&store);
        tasks.spawn(async move { take(&store, &limit(), number).await.map_err(|error| error.kind()) });
    }
    let mut shed = 0;
    while let Some(answer) = tasks.join_next().await {
        shed += u32::from(matches!(answer.expect("no panic"), Err(StoreErrorKind::Overloaded)));
    }
    assert!(shed > 0);
    server.thaw();
    until_decided(&store, &limit()).await;
}

/// Rows 85 and 105: permits of a replica that is gone come back after their expiry, those of one that lives don't.
#[tokio::test]
async fn permits_lapse_with_their_replica_and_not_before() {
    let server = Server::start();
    let limit = Limit::try_from(LimitSpec::concurrency("permits", 3)).expect("a limit");
    let short = || {
        RedisStore::builder(server.url())
            .permit_expiry(Duration::from_secs(1))
            .deadline(Duration::from_secs(1))
            .on_failure(OnFailure::Error)
    };
    let (lives, dies) =
        (short().connect().await.expect("a store"), short().connect().await.expect("a store"));
    assert!(take(&lives, &limit, "k").await.expect("a decision").admitted);
    assert!(take(&dies, &limit, "k").await.expect("a decision").admitted);
    assert!(take(&dies, &limit, "k").await.expect("a decision").admitted);
    assert!(!take(&lives, &limit, "k").await.expect("a decision").admitted);
    drop(dies);
    until("the permits of the dead", async || take(&lives, &limit, "k").await.expect("a decision").admitted)
        .await;
    assert!(take(&lives, &limit, "k").await.expect("a decision").admitted);
    // Three expiries later the living one's three are still held.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!take(&lives, &limit, "k").await.expect("a decision").admitted);
}

/// A replica whose permits the store forgot says so again.
#[tokio::test]
async fn permits_are_said_again_after_a_loss() {
    let server = Server::start();
    let limit = Limit::concurrency("permits", 3);
    let short = || {
        RedisStore::builder(server.url())
            .permit_expiry(Duration::from_secs(1))
            .deadline(Duration::from_secs(1))
            .on_failure(OnFailure::Error)
    };
    let (holder, other) =
        (short().connect().await.expect("a store"), short().connect().await.expect("a store"));
    for _ in 0..3 {
        assert!(take(&holder, &limit, "k").await.expect("a decision").admitted);
    }
    server.command(&["FLUSHALL"]).expect("flushed");
    until("the holder's word", async || {
        let seen = ask(&other, &limit, "k", Op::Peek(1)).await.expect("a decision");
        seen.outcomes[0].remaining() == 0
    })
    .await;
}

/// Releases find a full queue and are not lost.
#[tokio::test]
async fn releases_survive_a_full_queue() {
    let server = Server::start();
    let builder = RedisStore::builder(server.url()).on_failure(OnFailure::Error).queue(1);
    let store = builder.deadline(Duration::from_secs(5)).connect().await.expect("a store");
    let limit = Limit::concurrency("permits", 200);
    let mut receipts = Vec::new();
    for _ in 0..200 {
        receipts.push(take(&store, &limit, "k").await.expect("a decision").outcomes[0].receipt);
    }
    let mut key = ratelimit_core::KeyBuf::new();
    ratelimit_core::AsKey::encode(&"k", &mut key);
    for receipt in receipts {
        let op = Op::Refund(1, Some(receipt));
        store.post(ratelimit_core::store::Charge { limit: &limit, key: key.key(), op });
    }
    until("all permits", async || {
        ask(&store, &limit, "k", Op::Peek(1)).await.is_ok_and(|seen| seen.outcomes[0].remaining() == 200)
    })
    .await;
}

/// Three replicas share one limit exactly, before and after a restart of the store, and know how many they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_share_one_limit_exactly() {
    let mut server = Server::start();
    let mut stores = Vec::new();
    for _ in 0..3 {
        let builder = RedisStore::builder(server.url()).on_failure(OnFailure::Error);
        stores.push(std::sync::Arc::new(
            builder.deadline(Duration::from_secs(5)).connect().await.expect("a store"),
        ));
    }
    for round in 0..2 {
        let limit = Limit::new(format!("shared-{round}"), "500/day".parse().expect("a rate"));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..12 {
            let (store, limit) = (std::sync::Arc::clone(&stores[number % 3]), limit.clone());
            tasks.spawn(async move {
                let mut count = 0;
                for _ in 0..100 {
                    count += u32::from(take(&store, &limit, "k").await.expect("a decision").admitted);
                }
                count
            });
        }
        let admitted: u32 = tasks.join_all().await.into_iter().sum();
        assert_eq!(admitted, 500);
        until("three replicas", async || stores.iter().all(|store| store.replicas() == 3)).await;
        server.restart();
        for store in &stores {
            until_decided(store, &limit).await;
        }
    }
}
