//! Clients that are slow, silent, gone, too many at once, or not speaking HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::origin::{Origin, Reply};
use crate::support::proxy::{Proxy, Setup};
use crate::support::raw_client::{Client, get};
use crate::support::soon;
use ratelimit_core::{Limit, Rate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Row 27, "connect, send nothing; 1 byte/10 s head; half the h2 preface": closed at the deadline, and the slot is
/// free again.
#[tokio::test]
async fn silent_clients_give_their_slots_back() {
    let origin = Origin::hello().await;
    let mut setup = Setup { max_connections: 2, ..Setup::default() };
    setup.timeouts.head = Duration::from_millis(200);
    let proxy = setup.start(origin.address);
    for start in ["", "GET / HTTP/1.1\r\nhos", "PRI * HTTP/2.0\r\n\r\n"] {
        let mut silent = Vec::new();
        for _ in 0..2 {
            let mut client = Client::connect(proxy.address).await;
            client.send(start).await;
            silent.push(client);
        }
        // Waits for a slot, which only the deadline frees: the silent ones stay connected.
        assert_eq!(get(proxy.address, "/").await.status, 200, "{start:?}");
        drop(silent);
    }
}

/// Row 28, "slow body 1 B/s": what keeps coming, however slowly, is passed on byte by byte, and it is cut as soon
/// as it stops.
#[tokio::test]
async fn a_body_that_trickles_is_passed_on_until_it_stops() {
    let (seen, mut came) = mpsc::channel(1);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut upstream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        while matches!(upstream.read_buf(&mut bytes).await, Ok(1..)) {
            seen.send(bytes.clone()).await.unwrap();
        }
    });
    let proxy = Setup::timeouts(|timeouts| timeouts.body = Duration::from_millis(500)).start(address);
    let mut client = Client::connect(proxy.address).await;
    client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 20\r\n\r\n").await;
    for n in 0..10 {
        client.send("x").await;
        let body = vec![b'x'; n + 1];
        while !soon("the byte", came.recv()).await.unwrap().ends_with(&body) {}
    }
    assert_eq!(client.response().await.status, 408);
    assert!(soon("the upstream's connection to end", came.recv()).await.is_none());
}

/// Row 29, "slow read of a 100 MB response": the upstream is held back, so what lies in between is what the
/// kernel's buffers hold and a little of ours, not the response.
#[tokio::test]
async fn a_slow_reader_of_a_large_response_holds_the_upstream_back() {
    const SIZE: usize = 100 << 20;
    let (stalls, mut stalled) = mpsc::channel(1);
    let origin = Origin::start(move |_| {
        let stalls = stalls.clone();
        Reply::Take(Box::new(move |mut socket| {
            Box::pin(async move {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n");
                socket.write_all(head.as_bytes()).await.unwrap();
                let piece = vec![b'x'; 64 << 10];
                let mut written = 0;
                while written < SIZE {
                    let end = piece.len().min(SIZE - written);
                    let write = socket.write(&piece[..end]);
                    match tokio::time::timeout(Duration::from_millis(300), write).await {
                        Ok(count) => written += count.unwrap(),
                        // Nobody takes more.
                        Err(_) => drop(stalls.try_send(written)),
                    }
                }
                let _ = stalls.try_send(written);
            })
        }))
    })
    .await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    let written = soon("the upstream to be held back", stalled.recv()).await.unwrap();
    // Two connections, each with a buffer to send (4 MiB at most) and one to receive (6 MiB, counted double).
    assert!(written < 40 << 20, "{written} bytes were taken for a client that reads none");
    assert_eq!(client.response().await.body.len(), SIZE);
}

/// Row 30, "10 000 pipelined GETs": each is decided, in order, and others are served meanwhile.
#[tokio::test]
async fn ten_thousand_pipelined_requests_are_each_decided_in_order() {
    const ALL: usize = 10_000;
    const LIMIT: usize = 6_000;
    let origin = Origin::hello().await;
    let limit = Limit::new("six-thousand", Rate::per_hour(LIMIT as u32));
    let proxy = Setup::limits([limit]).start(origin.address);
    let mut other = Client::connect(proxy.address).await;
    let (mut read, mut write) = TcpStream::connect(proxy.address).await.unwrap().into_split();
    let flood = "GET / HTTP/1.1\r\nhost: test\r\n\r\n".repeat(ALL);
    let sending = tokio::spawn(async move { write.write_all(flood.as_bytes()).await.map(|()| write) });
    let answered = Arc::new(AtomicUsize::new(0));
    let (begun, mut begin) = mpsc::channel(1);
    let count = Arc::clone(&answered);
    let reading = tokio::spawn(async move {
        let (mut text, mut statuses) = (Vec::new(), Vec::new());
        while statuses.len() < ALL && matches!(read.read_buf(&mut text).await, Ok(1..)) {
            let mut start = 0;
            while let Some(at) = text[start..].windows(9).position(|window| window == b"HTTP/1.1 ") {
                let Some(status) = text.get(start + at + 9..start + at + 12) else { break };
                statuses.push(std::str::from_utf8(status).unwrap().parse::<u16>().unwrap());
                start += at + 12;
            }
            // What is left may be the beginning of the next status.
            text.drain(..start.max(text.len().saturating_sub(11)));
            count.store(statuses.len(), Ordering::SeqCst);
            let _ = begun.try_send(());
        }
        statuses
    });
    soon("the first answers", begin.recv()).await.unwrap();
    assert!([200, 429].contains(&other.get("/").await.status));
    assert!(answered.load(Ordering::SeqCst) < ALL, "the other client had to wait for all of them");
    let statuses = soon("all answers", reading).await.unwrap();
    drop(sending.await.unwrap().unwrap());
    assert_eq!(statuses.len(), ALL);
    // The other client's request was charged too, if it came early enough, and a unit comes back every 600 ms.
    assert!(statuses[..LIMIT - 1].iter().all(|status| *status == 200));
    assert!(statuses[LIMIT..].iter().all(|status| [200, 429].contains(status)));
    let allowed = statuses.iter().filter(|status| **status == 200).count();
    assert!((LIMIT - 1..LIMIT + 100).contains(&allowed), "{allowed} allowed");
}

/// Row 33, "client disconnects mid-request / mid-response": cancelled, charged once, not refunded.
#[tokio::test]
async fn who_goes_away_has_been_charged_once() {
    for reply in ["", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"] {
        let origin = Origin::start(move |seen| match seen.line() {
            "GET /cut HTTP/1.1" => Reply::SendAndHang(reply.as_bytes().to_vec()),
            _ => Reply::ok("hello"),
        })
        .await;
        let proxy = Setup::limits([Limit::new("three", Rate::per_hour(3))]).start(origin.address);
        let mut client = Client::connect(proxy.address).await;
        client.send("GET /cut HTTP/1.1\r\nhost: test\r\n\r\n").await;
        if reply.is_empty() {
            origin.until("the request", |record| record.seen.len() == 1).await;
        } else {
            let mut half = Vec::new();
            while !half.ends_with(b"half") {
                soon("half an answer", client.socket.read_buf(&mut half)).await.unwrap();
            }
        }
        drop(client);
        origin.until("the request to be cancelled", |record| record.open == 0).await;
        let mut client = Client::connect(proxy.address).await;
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(client.get("/").await.status);
        }
        assert_eq!(statuses, [200, 200, 429], "{reply:?}");
    }
}

/// Row 34, "Trailers containing Content-Length, Host, Authorization": those that the head announces and that mean
/// nothing but themselves arrive behind the last chunk; no others, and never as fields of the head.
#[tokio::test]
async fn trailers_that_are_announced_and_harmless_reach_the_upstream() {
    let origin = Origin::hello().await;
    let proxy = Setup::yaml("limits: [{name: a, rate: 100/s, key: header.x-api-key}]").start(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client
        .send(concat!(
            "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n",
            "trailer: content-length, x-forwarded-for, X-Late\r\ntrailer: x_api_key, range, x-later\r\n\r\n",
            "5\r\nhello\r\n0\r\ncontent-length: 99\r\nx-forwarded-for: 6.6.6.6\r\nx-late: 1\r\nx_api_key: stolen\r\n",
            "range: bytes=0-1\r\nx-later: 2\r\nX-Late: 3\r\nx-unannounced: 4\r\n\r\n",
        ))
        .await;
    assert_eq!(client.response().await.status, 200);
    // The length is told, so nothing can be behind it.
    client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\ntrailer: x-late\r\n\r\nhi").await;
    assert_eq!(client.response().await.status, 200);
    assert_eq!(client.get("/").await.status, 200);
    let seen = origin.seen();
    assert_eq!((seen.len(), &*seen[0].body), (3, &b"hello"[..]));
    for name in ["content-length", "x-late", "x-later", "x_api_key", "range"] {
        assert_eq!(seen[0].field(name), None, "{name}");
    }
    assert_eq!(seen[0].field("trailer"), Some("x-late, x-later"));
    // Those of one name stay in order, and nothing else is promised.
    let mut trailers = seen[0].trailers.clone();
    trailers.sort();
    assert_eq!(trailers, ["x-late: 1", "x-late: 3", "x-later: 2"]);
    assert_eq!(seen[0].field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!((seen[1].field("trailer"), &*seen[1].body), (None, &b"hi"[..]));
    assert!(seen[2].line().starts_with("GET / "), "{}", seen[2].head);
}

/// Row 37, "1 MB of CRLF before request; HTTP/0.9; TLS ClientHello on the plain port; PROXY v1/v2 header unasked":
/// 400, 431 or closed, the upstream hears nothing, and others are served.
#[tokio::test]
async fn what_is_not_http_is_refused() {
    let origin = Origin::hello().await;
    let proxy = Setup::timeouts(|timeouts| timeouts.head = Duration::from_millis(500)).start(origin.address);
    let tls = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03random random random random random";
    let proxy_v2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01\x30\x39\x00\x50";
    // 431, because what comes before a head counts as part of it, and so can't become more memory.
    for (name, message) in [
        ("empty lines without end", "\r\n".repeat(512 << 10).into_bytes()),
        ("HTTP/0.9", b"GET /\r\n\r\n".to_vec()),
        ("TLS", tls.to_vec()),
        ("PROXY v1", b"PROXY TCP4 127.0.0.1 127.0.0.1 12345 80\r\n".to_vec()),
        ("PROXY v2", proxy_v2.to_vec()),
    ] {
        let mut client = Client::connect(proxy.address).await;
        client.try_send(message).await;
        client.try_send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
        let answer = client.rest().await;
        let answer = String::from_utf8_lossy(&answer);
        let refused = answer.is_empty() || ["400", "431"].iter().any(|s| answer[9..].starts_with(s));
        assert!(refused, "{name}: {answer}");
        assert_eq!(origin.seen().len(), 0, "{name}");
    }
    assert_eq!(get(proxy.address, "/").await.status, 200);
}
