//! Charging by how a request ends: failures only, costs that the response says, overdraft. Through real sockets.

use std::net::SocketAddr;

use crate::support::origin::{Origin, Reply, Seen};
use crate::support::proxy::{Proxy, Setup};
use crate::support::raw_client::Client;

/// Answers with the status and fields that the request's path asks for: `/401`, `/200?x-used:%20300`.
fn asked(seen: &Seen) -> Reply {
    let target = seen.line().split(' ').nth(1).unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let fields: String = query.split('&').filter(|f| !f.is_empty()).map(|f| format!("{f}\r\n")).collect();
    match path {
        "/close" => Reply::close(),
        "/hang" => Reply::hang(),
        "/trailers" => Reply::raw(&format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\ntrailer: grpc-status, x-used\r\n\r\n\
             1\r\nx\r\n0\r\n{fields}\r\n"
        )),
        "/half" => Reply::SendAndClose(
            format!("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n{fields}\r\nhalf").into_bytes(),
        ),
        _ => Reply::raw(&format!("HTTP/1.1 {} X\r\ncontent-length: 0\r\n{fields}\r\n", &path[1..])),
    }
}

/// The status of the answer, or 0; the connection ends with it.
async fn status(proxy: SocketAddr, path: &str) -> u16 {
    let mut client = Client::connect(proxy).await;
    let fields = "host: test\r\nte: trailers\r\nconnection: close, te\r\nx-max: 4\r\n";
    client.send(format!("GET {path} HTTP/1.1\r\n{fields}\r\n")).await;
    let answer = String::from_utf8(client.rest().await).unwrap();
    answer.split(' ').nth(1).map_or(0, |status| status.parse().unwrap())
}

/// Waits until so many requests are over.
async fn over(proxy: &Proxy, requests: u64) {
    let done = async {
        while proxy.shared.metrics.totals().classes.iter().sum::<u64>() < requests {
            tokio::task::yield_now().await;
        }
    };
    crate::support::soon("the requests to be over", done).await;
}

/// Asks one after the other; each is over before the next.
async fn all(limits: &str, asks: &[(&str, u16)]) {
    let origin = Origin::start(asked).await;
    let proxy = Setup::yaml(limits).start(origin.address);
    for (number, (path, expected)) in asks.iter().enumerate() {
        assert_eq!(status(proxy.address, path).await, *expected, "{number}: {path}");
        over(&proxy, number as u64 + 1).await;
    }
}

#[tokio::test]
async fn only_failures_count() {
    for algorithm in ["token_bucket", "sliding_window", "fixed_window"] {
        let limits = format!(
            "limits: [{{name: a, rate: 2/week, algorithm: {algorithm}, count: {{status: [401, 5xx]}}}}]"
        );
        all(
            &limits,
            &[
                ("/200", 200),
                ("/404", 404),
                ("/401", 401),
                ("/200", 200),
                ("/204", 204),
                ("/200", 200),
                ("/503", 503),
                ("/200", 429),
                ("/401", 429),
            ],
        )
        .await;
    }
}

/// An upstream that fails is a 502 to the client, and counts as one.
#[tokio::test]
async fn an_upstream_that_fails_counts_as_the_status_that_the_client_gets() {
    let limits = "limits: [{name: a, rate: 1/week, count: {status: 5xx}}]";
    all(limits, &[("/200", 200), ("/close", 502), ("/200", 429)]).await;
    let limits = "limits: [{name: a, rate: 1/week, count: {status: 401}}]";
    all(limits, &[("/close", 502), ("/close", 502), ("/401", 401), ("/401", 429)]).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_has_used_its_try() {
    let origin = Origin::start(asked).await;
    let limits = "limits: [{name: a, rate: 1/week, count: {status: 401}}]";
    let proxy = Setup::yaml(limits).start(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client.send("GET /hang HTTP/1.1\r\nhost: test\r\n\r\n").await;
    origin.until("the request", |record| record.seen.len() == 1).await;
    assert_eq!(status(proxy.address, "/200").await, 429, "guesses under way are held");
    drop(client);
    over(&proxy, 2).await;
    assert_eq!(status(proxy.address, "/200").await, 429);
}

#[tokio::test]
async fn the_status_of_grpc_from_the_head_or_the_trailers() {
    let limits = "limits: [{name: a, rate: 2/week, count: {grpc_status: 16}}]";
    all(
        limits,
        &[
            ("/trailers?grpc-status:0", 200),
            ("/200?grpc-status:0", 200),
            ("/200", 200),
            ("/trailers?grpc-status:16", 200),
            ("/trailers?grpc-status:0", 200),
            ("/200?grpc-status:16", 200),
            ("/trailers?grpc-status:0", 429),
        ],
    )
    .await;
    // Cut before its trailers: it may have been one.
    let limits = "limits: [{name: a, rate: 1/week, count: {grpc_status: 16}}]";
    all(limits, &[("/half", 200), ("/200", 429)]).await;
}

#[tokio::test]
async fn a_reservation_is_settled_by_what_the_response_says() {
    let cost = "cost: {reserve: 5, actual: {response_header: x-used}}";
    let limits = format!("limits: [{{name: a, rate: 10/week, {cost}}}]");
    // 10: 5 held, 1 used; 9 left; 4 left while one is held, 7 used: 2 left, and 5 can't be held.
    all(&limits, &[("/200?x-used:1", 200), ("/200?x-used:7", 200), ("/200?x-used:1", 429)]).await;
    // More than what was left is charged all the same.
    all(&limits, &[("/200?x-used:30", 200), ("/200", 429)]).await;
    // Nothing is said, or nothing that is a number: what was held is the cost.
    all(&limits, &[("/200", 200), ("/200?x-used:many", 200), ("/200", 429)]).await;
    all(&limits, &[("/close", 502), ("/half", 200), ("/200", 429)]).await;
    // In the trailers, as with gRPC.
    all(&limits, &[("/trailers?x-used:0", 200), ("/trailers?x-used:6", 200), ("/200", 429)]).await;
}

#[tokio::test]
async fn a_reservation_whose_cost_never_comes_can_be_given_back() {
    let cost =
        "cost: {reserve: header.x-max, default: 9, actual: {response_header: x-used}, if_unknown: refund}";
    let limits = format!("limits: [{{name: a, rate: 4/week, {cost}}}]");
    let free = [("/close", 502), ("/200", 200), ("/half?x-used:many", 200)];
    let asks = [&free[..], &[("/half?x-used:1", 200), ("/200", 429)]].concat();
    all(&limits, &asks).await;
}

#[tokio::test]
async fn overdraft_admits_while_anything_is_left_and_charges_in_full() {
    // Known before: 10 - 4 - 4 - 4 is below zero.
    let limits = "limits: [{name: a, rate: 10/week, cost: header.x-max, overdraft: true}]";
    all(limits, &[("/200", 200), ("/200", 200), ("/200", 200), ("/200", 429)]).await;
    // Known after.
    let limits =
        "limits: [{name: a, rate: 10/week, overdraft: true, cost: {actual: {response_header: x-used}}}]";
    all(limits, &[("/200?x-used:9", 200), ("/200", 200), ("/200?x-used:500", 200), ("/200", 429)]).await;
}

#[tokio::test]
async fn a_denied_request_settles_nothing() {
    let limits = "limits:\n  - {name: a, rate: 2/week, match: {path: /401}}\n  \
                  - {name: b, rate: 3/week, count: {status: 401}}";
    all(limits, &[("/401", 401), ("/401", 401), ("/401", 429), ("/200", 200), ("/401", 429), ("/200", 200)])
        .await;
}
