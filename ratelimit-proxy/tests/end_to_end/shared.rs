//! One limit for all replicas: the program three times over a real Redis, as the README shows it. Where a test counts
//! exactly, replicas wait for the store longer than a busy machine stands still; see [`replicas`].

use std::time::{Duration, Instant};

use crate::support::origin::{Origin, Reply};
use crate::support::program::{Program, metric};
use crate::support::proxy::{Proxy, Setup};
use crate::support::raw_client::{Client, Response};
use crate::support::{replicas, replicas_with, soon, until};
use ratelimit_core::{Limit, LimitSpec};
use ratelimit_proxy::AnyStore;
use ratelimit_proxy::config::{LimitConfig, RedisConfig, StoreConfig};
use redis_testkit::{Relay, Server};

/// How many of them were allowed; every other answer must be a denial.
fn allowed(responses: &[Response]) -> usize {
    let allowed = responses.iter().filter(|response| response.status == 200).count();
    let denied = responses.iter().filter(|response| response.status == 429).count();
    assert_eq!(allowed + denied, responses.len(), "{responses:?}");
    allowed
}

/// So many requests to each replica at once, over some connections.
async fn flood(replicas: &[Program], each: usize) -> Vec<Response> {
    let mut clients = Vec::new();
    for number in 0..replicas.len() * 4 {
        let address = replicas[number % replicas.len()].proxy;
        clients.push(tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            let mut responses = Vec::new();
            for _ in 0..each / 4 {
                responses.push(client.get("/").await);
            }
            responses
        }));
    }
    let mut responses = Vec::new();
    for client in clients {
        responses.extend(client.await.unwrap());
    }
    responses
}

#[tokio::test]
async fn three_replicas_share_one_limit_exactly() {
    let redis = Server::start();
    let origin = Origin::hello().await;
    let replicas = replicas(3, &origin, &["100/day by client.ip"], &redis.url()).await;
    let responses = flood(&replicas, 60).await;
    assert_eq!((responses.len(), allowed(&responses)), (180, 100));
    assert_eq!(origin.seen().len(), 100);
    // What is left is told as if there were one proxy.
    let mut left: Vec<u32> = responses
        .iter()
        .filter(|response| response.status == 200)
        .map(|response| {
            let field = response.field("ratelimit").unwrap();
            field.split(';').find_map(|part| part.strip_prefix("r=")).unwrap().parse().unwrap()
        })
        .collect();
    left.sort_unstable();
    assert_eq!(left, (0..100).collect::<Vec<_>>());
    for denied in responses.iter().filter(|response| response.status == 429) {
        assert_eq!(denied.field("content-type"), Some("application/problem+json"));
        assert!(denied.field("retry-after").is_some());
    }
}

/// The README's promise: one limit before, during and after a restart of Redis. This one comes back with its
/// data; without, there would be one burst more.
#[tokio::test]
async fn before_during_and_after_a_restart_of_redis() {
    let mut redis = Server::start_with(
        redis_testkit::Program::Redis,
        &["--appendonly", "yes", "--appendfsync", "always"],
    );
    let origin = Origin::hello().await;
    let replicas = replicas(3, &origin, &["90/day by client.ip"], &redis.url()).await;
    assert_eq!(allowed(&flood(&replicas, 20).await), 60, "before");

    redis.kill();
    for replica in &replicas {
        until("the outage", async || metric(replica, "ratelimit_store_up").await == Some(0.0)).await;
    }
    // Each has a third of the quota, and begins with one unit of it.
    assert_eq!(allowed(&flood(&replicas, 20).await), 3, "during");

    redis.restart();
    for replica in &replicas {
        until("the store", async || metric(replica, "ratelimit_store_up").await == Some(1.0)).await;
    }
    // What was spent by themselves is told to the store before it decides about the key again.
    assert_eq!(allowed(&flood(&replicas, 40).await), 90 - 60 - 3, "after");
    assert_eq!(origin.seen().len(), 90);
    for replica in &replicas {
        let log = replica.log.now();
        for (line, times) in [("the store is gone", 1), ("the store answers", 2), ("the store's again", 1)] {
            assert_eq!(log.matches(line).count(), times, "{line} in {log}");
        }
    }
}

#[tokio::test]
async fn permits_are_shared_and_come_back() {
    let redis = Server::start();
    let origin = Origin::start(|seen| match seen.line().contains("/slow") {
        true => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf "),
        false => Reply::ok("hello"),
    })
    .await;
    let mut replicas = replicas(2, &origin, &["2 at once by client.ip"], &redis.url()).await;
    let mut held = Vec::new();
    for replica in &replicas {
        let mut client = Client::connect(replica.proxy).await;
        client.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").await;
        held.push(client);
    }
    origin.until("both", |record| record.seen.len() == 2).await;
    for replica in &replicas {
        assert_eq!(replica.get("/").await.status, 429, "the body of neither has ended");
    }
    // A client that goes gives its permit back, wherever it is wanted.
    held.pop();
    until("a permit", async || replicas[0].get("/").await.status == 200).await;
    // So does a replica that is stopped, well before its permits lapse.
    let start = Instant::now();
    replicas[0].signal("TERM").await;
    // Two signals at once may arrive as one.
    replicas[0].log.line(&["draining"]).await;
    replicas[0].signal("TERM").await;
    assert_eq!(replicas[0].exit().await, 1, "a connection was cut");
    let mut both = Vec::new();
    until("two permits", async || {
        both.clear();
        for _ in 0..2 {
            let mut client = Client::connect(replicas[1].proxy).await;
            client.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").await;
            both.push(client);
        }
        let seen = origin.seen().len();
        replicas[1].get("/").await.status == 429 && seen >= 5
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(8), "they lapsed instead: {:?}", start.elapsed());
}

/// In this process, over a relay.
async fn behind(relay: &Relay, limit: LimitSpec, origin: &Origin, deadline: Duration) -> Proxy {
    let mut redis = RedisConfig::at(relay.url().parse().unwrap());
    redis.deadline = deadline;
    let store = AnyStore::open(&StoreConfig::Redis(Box::new(redis))).await.unwrap();
    let limit = LimitConfig::by_client(Limit::try_from(limit).unwrap());
    Setup { store, ..Setup::rules([limit]) }.start(origin.address)
}

#[tokio::test]
async fn a_client_that_goes_while_it_waits_is_charged_once_at_most() {
    let redis = Server::start();
    let relay = Relay::start(redis.port()).await;
    let origin = Origin::hello().await;
    let limit = LimitSpec::new("l", "20/day".parse().unwrap());
    let proxy = behind(&relay, limit, &origin, Duration::from_secs(5)).await;
    assert_eq!(crate::support::raw_client::get(proxy.address, "/").await.status, 200);
    relay.delay(Duration::from_millis(50));
    for _ in 0..5 {
        let mut client = Client::connect(proxy.address).await;
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(client);
    }
    relay.heal();
    let response = until_answered(&proxy).await;
    let field = response.field("ratelimit").unwrap();
    let left: u32 = field.split(';').find_map(|part| part.strip_prefix("r=")).unwrap().parse().unwrap();
    assert!((13..=18).contains(&left), "{left} left of 20 after 2 requests and 5 that went away");
    assert_eq!(origin.seen().iter().filter(|seen| seen.line().starts_with("POST")).count(), 0);
}

async fn until_answered(proxy: &Proxy) -> Response {
    soon("an answer", crate::support::raw_client::get(proxy.address, "/")).await
}

/// A denial holds until the key could pass; nobody needs to be asked again before.
#[tokio::test]
async fn known_denials_cost_the_store_nothing() {
    let redis = Server::start();
    let origin = Origin::hello().await;
    let replicas = replicas(1, &origin, &["1/day by client.ip"], &redis.url()).await;
    let proxy = &replicas[0];
    let mut client = Client::connect(proxy.proxy).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(client.get("/").await.status, 429);
    let start = Instant::now();
    let asked = metric(proxy, "ratelimit_store_requests_total{outcome=\"ok\"}").await.unwrap();
    for _ in 0..300 {
        assert_eq!(client.get("/").await.status, 429);
    }
    let again = metric(proxy, "ratelimit_store_requests_total{outcome=\"ok\"}").await.unwrap() - asked;
    // Remembered for a second at most.
    assert!(again <= start.elapsed().as_secs_f64() + 1.0, "{again} calls in {:?}", start.elapsed());
    let denied = "ratelimit_decisions_total{limit=\"limit-1\",outcome=\"denied\"}";
    assert_eq!(metric(proxy, denied).await, Some(301.0));
}

#[tokio::test]
async fn the_numbers_about_the_store_are_those_of_what_was_sent() {
    let redis = Server::start();
    let origin = Origin::hello().await;
    let replicas = replicas(2, &origin, &["1000/s by client.ip", "500/min"], &redis.url()).await;
    let proxy = &replicas[0];
    let mut client = Client::connect(proxy.proxy).await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let value = async |name| metric(proxy, name).await;
    assert_eq!(value("ratelimit_store_up").await, Some(1.0));
    assert_eq!(value("ratelimit_store_requests_total{outcome=\"ok\"}").await, Some(50.0));
    assert_eq!(value("ratelimit_store_requests_total{outcome=\"timeout\"}").await, Some(0.0));
    assert_eq!(value("ratelimit_store_seconds_count").await, Some(50.0), "nobody else waited");
    assert_eq!(value("ratelimit_decision_seconds_count").await, Some(50.0));
    let (store, decisions) =
        (value("ratelimit_store_seconds_sum").await, value("ratelimit_decision_seconds_sum").await);
    assert!(store > Some(0.0) && decisions >= store, "{store:?} of {decisions:?}");
    assert_eq!(value("ratelimit_decisions_total{limit=\"limit-1\",outcome=\"allowed\"}").await, Some(50.0));
    assert_eq!(value("ratelimit_keys{limit=\"limit-1\"}").await, None, "the store knows, not this process");
    until("both replicas", async || metric(proxy, "ratelimit_store_replicas").await == Some(2.0)).await;
}

/// Three replicas that lease, more demand than quota: what reaches the upstream stays within burst and rate over
/// the whole time, and the store is asked less often than there are requests. At the end nothing is held for long.
/// How much less, and how much of the quota is used, is printed here and asserted by the simulation of leases.
#[tokio::test]
async fn three_replicas_with_leases_share_one_limit() {
    let redis = Server::start();
    let origin = Origin::hello().await;
    let options = ["--redis", &redis.url(), "--leased"];
    let mut replicas = replicas_with(3, &origin, &["300/s by client.ip"], &options).await;
    let start = Instant::now();
    let responses = flood(&replicas, 800).await;
    let seconds = start.elapsed().as_secs_f64();
    let count = allowed(&responses);
    let most = 300.0 + 300.0 * seconds;
    println!("{count} of {} in {seconds:.2} s", responses.len());
    assert!(count as f64 <= most, "{count} allowed, {most} at most");
    assert!(count >= 150, "{count} allowed, not even half of the burst");
    assert_eq!(origin.seen().len(), count);
    let mut calls = 0.0;
    for replica in &replicas {
        calls += metric(replica, "ratelimit_store_requests_total{outcome=\"ok\"}").await.unwrap_or(0.0);
        assert!(metric(replica, "ratelimit_leased_tokens").await.is_some());
        // What `explain` says: 5/4 of 300 · (1 − 7/8 · (3/4)²), for as long as the bucket takes to fill.
        let bound = async |what| metric(replica, &format!("{what}{{limit=\"limit-1\"}}")).await;
        until("the others to be known", async || bound("ratelimit_lease_bound_tokens").await == Some(192.0))
            .await;
        let lasts = bound("ratelimit_lease_bound_seconds").await.unwrap();
        assert!((lasts - 1.0).abs() < 0.001, "{lasts}");
    }
    println!("{calls} requests to the store");
    assert!(calls < 1200.0, "{calls} requests to the store");
    // It lapses by itself.
    for replica in &replicas {
        until("leases to lapse", async || metric(replica, "ratelimit_leased_tokens").await == Some(0.0))
            .await;
    }
    replicas[0].signal("TERM").await;
    assert_eq!(replicas[0].exit().await, 0);
}
