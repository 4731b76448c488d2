//! The promise itself, end to end: however many clients hammer however many threads, no interval sees more
//! requests arrive upstream than the limit allows.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use crate::support::origin::{Origin, Reply, Seen};
use crate::support::proxy::Setup;
use crate::support::raw_client::Client;
use ratelimit_core::{Algorithm, Limit, Rate};
use tokio::io::AsyncWriteExt;

const CLIENTS: usize = 24;
const REQUESTS: usize = 150;

/// Hammers the proxy and gives back when each admitted request was sent and when it arrived upstream. It was
/// admitted at some time in between.
async fn hammer(limit: Limit) -> Vec<(Instant, Instant)> {
    let origin = Origin::hello().await;
    let proxy = Setup { threads: 2, ..Setup::limits([limit]) }.start(origin.address);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let address = proxy.address;
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut sent = HashMap::new();
                let mut admitted = 0;
                for request in 0..REQUESTS {
                    let path = format!("/{number}/{request}");
                    sent.insert(path.clone(), Instant::now());
                    match client.get(&path).await.status {
                        200 => admitted += 1,
                        429 => {}
                        other => panic!("status {other}"),
                    }
                }
                (sent, admitted)
            })
        })
        .collect();
    let mut sent = HashMap::new();
    let mut admitted = 0;
    for client in clients {
        let (times, count) = client.await.unwrap();
        sent.extend(times);
        admitted += count;
    }
    let seen = origin.seen();
    assert_eq!(seen.len(), admitted, "what arrived is what was admitted");
    let path = |seen: &Seen| seen.line().split(' ').nth(1).unwrap().to_owned();
    seen.iter().map(|seen| (sent[&path(seen)], seen.at)).collect()
}

/// Every set of requests that were sent after one moment and arrived before another was admitted between the
/// two, so `bound` of the time between must hold their number.
fn judge(requests: &[(Instant, Instant)], bound: impl Fn(f64) -> f64) {
    for (start, _) in requests {
        let mut arrivals: Vec<_> =
            requests.iter().filter(|(sent, _)| sent >= start).map(|(_, arrived)| *arrived).collect();
        arrivals.sort_unstable();
        for (before, end) in arrivals.iter().enumerate() {
            let length = end.duration_since(*start).as_secs_f64();
            let count = (before + 1) as f64;
            assert!(count <= bound(length), "{count} requests in {length} s, allowed are {}", bound(length));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_bucket_holds_over_two_threads() {
    let requests = hammer(Limit::new("bucket", Rate::per_second(200)).burst(50)).await;
    assert!(requests.len() >= 50, "the burst is there to be used, but only {} came through", requests.len());
    judge(&requests, |seconds| 50.0 + 200.0 * seconds);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sliding_window_holds_over_two_threads() {
    let limit = Limit::new("window", Rate::per_second(100)).algorithm(Algorithm::SlidingWindow);
    let requests = hammer(limit).await;
    assert!(requests.len() >= 100, "{}", requests.len());
    judge(&requests, |seconds| 100.0 * (1.0 + seconds.floor()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrency_holds_over_two_threads() {
    // The upstream's own count of requests it is busy with, and the most there ever were.
    let busy = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let counted = Arc::clone(&busy);
    let origin = Origin::start(move |_| {
        let counted = Arc::clone(&counted);
        let now = counted.0.fetch_add(1, Relaxed) + 1;
        counted.1.fetch_max(now, Relaxed);
        Reply::Take(Box::new(move |mut socket| {
            Box::pin(async move {
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                // Counted down before the answer, which lets the proxy admit the next.
                counted.0.fetch_sub(1, Relaxed);
                socket
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
                    .await
                    .unwrap();
            })
        }))
    })
    .await;
    let proxy = Setup { threads: 2, ..Setup::limits([Limit::concurrency("three", 3)]) }.start(origin.address);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let address = proxy.address;
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                for _ in 0..REQUESTS {
                    assert!(matches!(client.get("/").await.status, 200 | 429));
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let most = busy.1.load(Relaxed);
    assert!((1..=3).contains(&most), "{most} at once");
    // All permits came back.
    for _ in 0..10 {
        assert_eq!(Client::connect(proxy.address).await.get("/").await.status, 200);
    }
}
