//! Stopping without anybody noticing, and stopping all the same when somebody does not let us.

use std::time::Duration;

use crate::support::origin::{Origin, Reply};
use crate::support::program::{Program, metric};
use crate::support::proxy::{Proxy, Setup};
use crate::support::raw_client::Client;
use crate::support::{PATIENCE, soon, until};
use ratelimit_proxy::server::Drained;
use redis_testkit::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Waits for a request.
async fn request(upstream: &TcpListener) -> TcpStream {
    let (mut socket, _) = soon("the request", upstream.accept()).await.unwrap();
    let mut buffer = Vec::new();
    while !buffer.ends_with(b"\r\n\r\n") {
        soon("the head", socket.read_buf(&mut buffer)).await.unwrap();
    }
    socket
}

#[tokio::test]
async fn what_is_under_way_is_finished_and_what_is_idle_ends_at_once() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut proxy = Proxy::plain(upstream.local_addr().unwrap());
    let mut busy = Client::connect(proxy.address).await;
    busy.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    let mut socket = request(&upstream).await;
    let mut half = Client::connect(proxy.address).await;
    half.send("GET /half HTTP/1.1\r\nhost: test\r\n\r\n").await;
    let mut streaming = request(&upstream).await;
    streaming.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf ").await.unwrap();
    let mut idle = Client::connect(proxy.address).await;

    let server = proxy.take();
    let draining = tokio::spawn(server.drain(PATIENCE));
    assert!(idle.is_closed().await);
    until("nobody to listen", async || TcpStream::connect(proxy.address).await.is_err()).await;

    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
    let response = busy.response().await;
    assert_eq!((response.text(), response.field("connection")), ("done", Some("close")));
    assert!(busy.is_closed().await);
    streaming.write_all(b"half.").await.unwrap();
    assert_eq!(half.response().await.text(), "half half.");
    assert!(half.is_closed().await);
    let drained = soon("the end", draining).await.unwrap().unwrap();
    // Three, and those that found out that nobody listens.
    assert!(drained.finished >= 3 && drained.forced == 0, "{drained:?}");
}

#[tokio::test]
async fn what_takes_too_long_is_cut() {
    let origin = Origin::start(|_| Reply::hang()).await;
    let mut proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    origin.until("the request", |record| record.seen.len() == 1).await;
    assert_eq!(proxy.drain(Duration::from_millis(100)).await, Drained { finished: 0, forced: 1 });
    assert!(client.is_closed().await);
    origin.until("the upstream's connection to be closed", |record| record.open == 0).await;
}

#[tokio::test]
async fn a_second_word_ends_it_at_once() {
    let origin = Origin::start(|_| Reply::hang()).await;
    let mut proxy = Setup { threads: 2, ..Setup::default() }.start(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    origin.until("the request", |record| record.seen.len() == 1).await;
    let server = proxy.take();
    let closer = server.closer();
    let draining = tokio::spawn(server.drain(Duration::from_secs(3600)));
    closer.close();
    let drained = soon("the end", draining).await.unwrap().unwrap();
    assert_eq!(drained, Drained { finished: 0, forced: 1 });
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_every_request_that_was_forwarded_is_answered() {
    let origin = Origin::hello().await;
    let mut proxy = Setup { threads: 2, ..Setup::default() }.start(origin.address);
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let address = proxy.address;
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut answered = 0;
                loop {
                    if !client.try_send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await {
                        return answered;
                    }
                    // Closed without an answer is what a client may try again; half an answer would fail here.
                    let Some(response) = client.response_to("GET").await else { return answered };
                    assert_eq!(response.text(), "hello");
                    answered += 1;
                    if response.field("connection") == Some("close") {
                        assert!(client.is_closed().await);
                        return answered;
                    }
                }
            })
        })
        .collect();
    origin.until("some load", |record| record.seen.len() > 200).await;
    let drained = proxy.drain(PATIENCE).await;
    assert_eq!(drained.forced, 0);
    let mut answered = 0;
    for client in clients {
        answered += client.await.unwrap();
    }
    assert_eq!(answered, origin.seen().len());
}

/// Row 133: a replica that is killed in the middle of its drain has held its permits until then, and leaves no more behind
/// than one that is killed at any other time (row 105): its permits lapse, and nothing is admitted beyond the limit.
#[tokio::test]
async fn killed_in_the_middle_of_a_drain_its_permits_lapse_and_nothing_more_is_admitted() {
    let redis = Server::start();
    let origin = Origin::start(|seen| match seen.line() {
        "GET /held?hangs HTTP/1.1" => Reply::hang(),
        _ => Reply::ok("hello"),
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    let text = format!(
        "upstream: http://{}\nstore: {{redis: '{}', consistency: leased, permit_expiry: 2s}}\nlimits:\n  \
         - {{name: held, match: {{path: /held}}, concurrency: 2}}\n  - {{name: rest, match: {{path: /}}, rate: 20/day}}\n",
        origin.address,
        redis.url()
    );
    std::fs::write(&file, text).unwrap();
    let start = async || Program::run(&["--config", file.to_str().unwrap()]).await;
    let (mut dies, lives) = (start().await, start().await);
    for replica in [&dies, &lives] {
        until("both replicas", async || metric(replica, "ratelimit_store_replicas").await == Some(2.0)).await;
    }
    for replica in [&dies, &lives] {
        assert_eq!(replica.get("/").await.status, 200);
    }
    let mut held = Vec::new();
    for number in 3..=4 {
        let mut client = Client::connect(dies.proxy).await;
        client.send("GET /held?hangs HTTP/1.1\r\nhost: test\r\n\r\n").await;
        origin.until("the request", |record| record.seen.len() == number).await;
        held.push(client);
    }
    assert_eq!(lives.get("/held").await.status, 429);
    dies.signal("TERM").await;
    until("nobody to listen", async || TcpStream::connect(dies.proxy).await.is_err()).await;
    assert_eq!(lives.get("/held").await.status, 429, "what is under way holds its permits");
    dies.child.kill().await.unwrap();
    for client in &mut held {
        assert!(client.is_closed().await);
    }
    let mut statuses = Vec::new();
    until("the permits to lapse", async || {
        statuses.push(lives.get("/held").await.status);
        statuses.last() == Some(&200)
    })
    .await;
    while lives.get("/").await.status == 200 {}
    let admitted = origin.seen().iter().filter(|seen| seen.line().starts_with("GET / ")).count();
    assert!((2..=20).contains(&admitted), "{admitted} of 20");
}
