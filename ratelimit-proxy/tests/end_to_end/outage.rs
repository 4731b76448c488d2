//! The store is down at the start, refuses us, goes, freezes: what clients and operators see of it.

use std::time::{Duration, Instant};

use crate::support::origin::Origin;
use crate::support::program::{Program, metric, parts, run};
use crate::support::raw_client::Response;
use crate::support::until;
use redis_testkit::{Relay, Server};

/// A proxy whose configuration has this `store` section.
async fn with_store(origin: &Origin, store: &str) -> (Program, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let upstream = origin.address;
    let text = format!("upstream: http://{upstream}\nlimits: [10/day by client.ip]\nstore: {{{store}}}\n");
    std::fs::write(file.path(), text).unwrap();
    (Program::run(&["--config", file.path().to_str().unwrap()]).await, file)
}

async fn decisions(proxy: &Program, outcome: &str) -> f64 {
    let name = format!("ratelimit_decisions_total{{limit=\"limit-1\",outcome=\"{outcome}\"}}");
    metric(proxy, &name).await.unwrap()
}

async fn until_up(proxy: &Program, up: bool) {
    let up = if up { 1.0 } else { 0.0 };
    until("the store's state", async || metric(proxy, "ratelimit_store_up").await == Some(up)).await;
}

fn assert_reduced_capacity(response: &Response) {
    assert_eq!(response.status, 503);
    assert_eq!(response.field("content-type"), Some("application/problem+json"));
    assert!(response.text().contains("#temporary-reduced-capacity"), "{}", response.text());
    assert_eq!(response.field("retry-after"), Some("1"));
}

/// Row 83, and each policy.
#[tokio::test]
async fn down_at_the_start() {
    let mut redis = Server::start();
    let url = redis.url();
    redis.kill();
    let origin = Origin::hello().await;
    let (deny, _deny) = with_store(
        &origin,
        &format!("redis: '{url}', on_failure: deny, prefix: a, required_for_ready: true"),
    )
    .await;
    let (allow, _allow) = with_store(&origin, &format!("redis: '{url}', on_failure: allow, prefix: b")).await;
    let (local, _local) = with_store(&origin, &format!("redis: '{url}', replicas: 2, prefix: c")).await;
    assert_reduced_capacity(&deny.get("/").await);
    assert_eq!(decisions(&deny, "failed_closed").await, 1.0);
    let response = deny.admin("/readyz").await;
    assert!(response.status == 503 && response.text().contains("store"), "{response:?}");
    assert_eq!(deny.admin("/livez").await.status, 200);

    for _ in 0..20 {
        assert_eq!(allow.get("/").await.status, 200);
    }
    assert_eq!(decisions(&allow, "failed_open").await, 20.0);
    assert_eq!(allow.admin("/readyz").await.status, 200, "nobody asked for anything else");

    // A share begins with one unit.
    let statuses = [local.get("/").await.status, local.get("/").await.status];
    assert_eq!(statuses, [200, 429]);
    assert_eq!((decisions(&local, "local").await, decisions(&local, "denied").await), (1.0, 1.0));

    redis.restart();
    for proxy in [&deny, &allow, &local] {
        until_up(proxy, true).await;
    }
    assert_eq!(deny.admin("/readyz").await.status, 200);
    let mut allowed = 0;
    for _ in 0..12 {
        allowed += u32::from(deny.get("/").await.status == 200);
    }
    assert_eq!((allowed, decisions(&deny, "allowed").await), (10, 10.0), "the store decides");
    for proxy in [&deny, &allow, &local] {
        let log = proxy.log.now();
        assert_eq!(log.matches("the store can't be reached").count(), 1, "{log}");
        assert_eq!(log.matches("the store answers").count(), 1, "{log}");
        assert_eq!(log.matches("the store is gone").count(), 0, "{log}");
    }
}

/// Row 101: nothing but another configuration helps, and the password stays where it is.
#[tokio::test]
async fn a_store_that_refuses_us_is_not_started_with() {
    let redis = Server::start_with(redis_testkit::Program::Redis, &["--requirepass", "right"]);
    let url = format!("redis://:wrong-secret@127.0.0.1:{}", redis.port());
    let free = ["--listen", "127.0.0.1:0", "--admin", "off"];
    let given = ["--upstream", "http://127.0.0.1:9", "--limit", "1/s by client.ip", "--redis", &url];
    let output = run(&[&given[..], &free[..]].concat()).await;
    let (code, out, err) = parts(&output);
    assert_eq!((code, out), (1, ""), "{err}");
    assert!(err.contains(&format!("the store at redis://127.0.0.1:{}", redis.port())), "{err}");
    assert!(err.contains("Password authentication failed") && !err.contains("secret"), "{err}");
}

/// Rows 84 to 87: a store that goes silent costs its deadline until it is known, and then nothing.
#[tokio::test]
async fn a_silent_store_is_waited_for_no_longer_than_the_deadline() {
    let redis = Server::start();
    let relay = Relay::start(redis.port()).await;
    let origin = Origin::hello().await;
    let (proxy, _file) =
        with_store(&origin, &format!("redis: '{}', on_failure: allow, deadline: 100ms", relay.url())).await;
    until_up(&proxy, true).await;
    relay.freeze();
    let start = Instant::now();
    let mut slow = 0;
    while metric(&proxy, "ratelimit_store_up").await == Some(1.0) {
        let asked = Instant::now();
        assert_eq!(proxy.get("/").await.status, 200);
        let took = asked.elapsed();
        assert!(took < Duration::from_millis(400), "{took:?}");
        slow += u32::from(took >= Duration::from_millis(90));
        assert!(start.elapsed() < crate::support::PATIENCE, "it is never known to be gone");
    }
    assert!((1..=10).contains(&slow), "{slow} requests waited");
    let waited = metric(&proxy, "ratelimit_decision_seconds_sum").await.unwrap();
    for _ in 0..50 {
        assert_eq!(proxy.get("/").await.status, 200);
    }
    assert_eq!(metric(&proxy, "ratelimit_decision_seconds_sum").await, Some(waited), "nobody waits any more");
    assert!(metric(&proxy, "ratelimit_store_requests_total{outcome=\"timeout\"}").await >= Some(1.0));
    relay.heal();
    until_up(&proxy, true).await;
    until("a decision of the store", async || {
        proxy.get("/").await;
        decisions(&proxy, "allowed").await >= 1.0
    })
    .await;
}
