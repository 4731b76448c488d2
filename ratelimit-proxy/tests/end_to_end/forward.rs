//! What passes through, in both directions.

use std::time::Duration;

use crate::support::origin::{Origin, Reply, counter};
use crate::support::proxy::{Proxy, Setup};
use crate::support::raw_client::{Client, get};
use crate::support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_request_and_its_response() {
    let origin = Origin::hello().await;
    let proxy = Proxy::plain(origin.address);
    let response = get(proxy.address, "/a/b?c=d%20e").await;
    assert_eq!((response.status, response.text()), (200, "hello"));
    assert_eq!(response.field("via"), Some("1.1 ratelimit-proxy"));
    let seen = origin.only();
    assert_eq!(seen.line(), "GET /a/b?c=d%20e HTTP/1.1");
    assert_eq!(seen.field("host"), Some("test"));
    assert_eq!(seen.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.field("x-forwarded-host"), Some("test"));
    assert_eq!(seen.field("forwarded"), Some("for=127.0.0.1;host=\"test\";proto=http"));
    assert_eq!(seen.field("via"), Some("1.1 ratelimit-proxy"));
    assert_eq!(seen.fields("connection"), [""; 0]);
}

#[tokio::test]
async fn bodies_with_a_length_and_in_chunks_arrive_whole() {
    let origin = Origin::start(|seen| Reply::ok(&format!("got {}", seen.body.len()))).await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    let long = vec![b'x'; 300_000];
    client.send("POST /length HTTP/1.1\r\nhost: test\r\ncontent-length: 300000\r\n\r\n").await;
    client.send(&long).await;
    assert_eq!(client.response().await.text(), "got 300000");
    client.send("PUT /chunks HTTP/1.1\r\nhost: test\r\ntransfer-encoding: Chunked\r\n\r\n").await;
    client.send("5;name=value\r\nhello\r\n6\r\n world\r\n0\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "got 11");
    client.send("POST /empty HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "got 0");
    let seen = origin.seen();
    assert_eq!(seen[0].field("content-length"), Some("300000"));
    assert_eq!(seen[0].body, long);
    assert_eq!(seen[1].field("transfer-encoding"), Some("chunked"));
    assert_eq!(seen[1].body, b"hello world");
    assert_eq!(seen[2].field("content-length"), Some("0"));
}

#[tokio::test]
async fn a_chunked_body_of_a_get_is_not_lost() {
    let origin = Origin::hello().await;
    let proxy = Proxy::plain(origin.address);
    for method in ["GET", "DELETE", "OPTIONS"] {
        let mut client = Client::connect(proxy.address).await;
        client.send(format!("{method} / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n")).await;
        client.send("4\r\nbody\r\n0\r\n\r\n").await;
        assert_eq!(client.response().await.status, 200);
        assert_eq!(origin.seen().pop().unwrap().body, b"body", "{method}");
    }
}

#[tokio::test]
async fn request_trailers_are_dropped() {
    let origin = Origin::hello().await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client
        .send(
            "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\ntrailer: x-forwarded-for\r\n\r\n",
        )
        .await;
    client.send("4\r\nbody\r\n0\r\nx-forwarded-for: 6.6.6.6\r\ncontent-length: 3\r\n\r\n").await;
    assert_eq!(client.response().await.status, 200);
    let seen = origin.only();
    assert_eq!((seen.complete, &*seen.body), (true, &b"body"[..]));
    assert_eq!(seen.fields("trailer"), [""; 0]);
}

#[tokio::test]
async fn responses_in_chunks_and_until_the_end_of_the_connection() {
    let origin = Origin::start(|seen| match seen.line() {
        "GET /chunks HTTP/1.1" => {
            Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        }
        "GET /both HTTP/1.1" => Reply::SendAndClose(
            b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec(),
        ),
        _ => Reply::SendAndClose(b"HTTP/1.0 200 OK\r\nx-a: 1\r\n\r\nto the end".to_vec()),
    })
    .await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    assert_eq!(client.get("/chunks").await.text(), "abcde");
    let both = client.get("/both").await;
    assert_eq!((both.text(), both.field("content-length")), ("abc", None));
    let end = client.get("/end").await;
    assert_eq!((end.text(), end.field("x-a")), ("to the end", Some("1")));
    assert!(end.head.starts_with("HTTP/1.1 "), "{}", end.head);
}

#[tokio::test]
async fn connections_are_reused_on_both_sides() {
    let origin = Origin::hello().await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(get(proxy.address, "/").await.status, 200);
    assert_eq!(origin.record().accepted, 1);
}

#[tokio::test]
async fn head_and_bodiless_statuses() {
    let origin = Origin::start(|seen| match seen.line().split(' ').nth(1).unwrap() {
        "/204" => Reply::raw("HTTP/1.1 204 No Content\r\n\r\n"),
        "/304" => Reply::raw("HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\n\r\n"),
        "/205" => Reply::raw("HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n"),
        _ => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"),
    })
    .await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client.send("HEAD / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    let head = client.response_to("HEAD").await.unwrap();
    assert_eq!((head.status, head.field("content-length")), (200, Some("1234")));
    for status in [204, 304, 205] {
        assert_eq!(client.get(&format!("/{status}")).await.status, status);
    }
    assert_eq!(origin.record().accepted, 1, "all of them leave the connection usable");
}

#[tokio::test]
async fn bytes_after_a_response_do_not_become_the_next_one() {
    let origin = Origin::start(|_| {
        Reply::raw(
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        )
    })
    .await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    for number in 1..=3 {
        assert_eq!(client.get("/").await.text(), "ok");
        assert_eq!(origin.record().accepted, number, "the connection is not used again");
    }
}

#[tokio::test]
async fn a_body_where_none_may_be_is_not_relayed() {
    let origin = Origin::start(|seen| match seen.line().split(' ').next().unwrap() {
        "HEAD" => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"),
        _ => Reply::raw("HTTP/1.1 204 No Content\r\n\r\nevil"),
    })
    .await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client.send("HEAD / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(client.response_to("HEAD").await.unwrap().status, 200);
    assert_eq!(client.get("/").await.status, 204);
    client.send("GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await;
    let last = client.rest().await;
    assert!(
        last.starts_with(b"HTTP/1.1 204 ") && last.ends_with(b"\r\n\r\n"),
        "{}",
        String::from_utf8_lossy(&last)
    );
    assert_eq!(origin.record().accepted, 3);
}

#[tokio::test]
async fn hop_by_hop_fields_end_here_in_both_directions() {
    let origin = Origin::start(|_| {
        Reply::raw(
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: x-internal, Content-Type\r\nconnection: keep-alive\r\n\
             keep-alive: timeout=5\r\nproxy-authenticate: Basic\r\nupgrade: h2c\r\nx-internal: 1\r\n\
             content-type: text/plain\r\nx-kept: 2\r\n\r\nok",
        )
    })
    .await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client
        .send(
            "GET / HTTP/1.1\r\nhost: test\r\nconnection: X-Secret, X-Forwarded-For, Host\r\n\
             connection: Authorization, upgrade\r\nx-secret: 1\r\nauthorization: Bearer t\r\nupgrade: h2c\r\n\
             http2-settings: AAMAAABkAAQ\r\nproxy-connection: keep-alive\r\nkeep-alive: 5\r\nte: gzip\r\n\
             x-forwarded-for: 192.0.2.7\r\nx_forwarded_for: 6.6.6.6\r\nx-forwarded-proto: https\r\n\r\n",
        )
        .await;
    let response = client.response().await;
    let seen = origin.only();
    for gone in
        ["x-secret", "upgrade", "http2-settings", "proxy-connection", "keep-alive", "te", "connection"]
    {
        assert_eq!(seen.fields(gone), [""; 0], "{gone}");
    }
    assert_eq!(seen.fields("x_forwarded_for"), [""; 0]);
    assert_eq!(seen.fields("x-forwarded-for"), ["127.0.0.1"], "nobody trusts this peer");
    assert_eq!(seen.field("x-forwarded-proto"), Some("http"), "nobody trusts this peer");
    assert_eq!(seen.field("authorization"), Some("Bearer t"));
    assert_eq!(seen.field("host"), Some("test"));
    for gone in ["connection", "keep-alive", "proxy-authenticate", "upgrade", "x-internal"] {
        assert_eq!(response.fields(gone), [""; 0], "{gone}");
    }
    assert_eq!((response.field("x-kept"), response.field("content-type")), (Some("2"), Some("text/plain")));
}

#[tokio::test]
async fn response_trailers_pass_to_who_asks_for_them() {
    let origin = Origin::start(|_| {
        Reply::raw(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: grpc-status\r\n\r\n2\r\nok\r\n0\r\n\
             grpc-status: 0\r\n\r\n",
        )
    })
    .await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nhost: test\r\nte: trailers\r\nconnection: te\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "ok");
    assert_eq!(origin.only().field("te"), Some("trailers"));
    client.send("GET / HTTP/1.1\r\nhost: test\r\nte: trailers\r\nconnection: te, close\r\n\r\n").await;
    let all = String::from_utf8(client.rest().await).unwrap();
    assert!(all.ends_with("2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n"), "{all}");
    assert_eq!(origin.record().accepted, 1, "trailers leave the connection usable");
}

#[tokio::test]
async fn http_1_0_clients() {
    let origin = Origin::start(|_| {
        Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    })
    .await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client.send("POST / HTTP/1.0\r\ncontent-length: 3\r\n\r\nabc").await;
    let response = client.response().await;
    assert_eq!(response.text(), "hello");
    assert_eq!(response.fields("transfer-encoding"), [""; 0]);
    assert!(client.is_closed().await);
    let seen = origin.only();
    assert_eq!(seen.line(), "POST / HTTP/1.1");
    assert_eq!(seen.body, b"abc");
    assert_eq!(seen.field("host"), Some(&*origin.address.to_string()));
    assert_eq!(seen.field("via"), Some("1.0 ratelimit-proxy"));
}

#[tokio::test]
async fn expect_continue_is_answered_here_and_not_passed_on() {
    let origin = Origin::hello().await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.response().await.status, 100);
    client.send("body").await;
    assert_eq!(client.response().await.status, 200);
    let seen = origin.only();
    assert_eq!((&*seen.body, seen.field("expect")), (&b"body"[..], None));
}

#[tokio::test]
async fn a_thousand_pipelined_requests_are_answered_in_order() {
    let origin = Origin::start(|seen| Reply::ok(seen.line())).await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    let all: String = (0..1000).map(|n| format!("GET /{n} HTTP/1.1\r\nhost: test\r\n\r\n")).collect();
    client.send(all).await;
    for n in 0..1000 {
        assert_eq!(client.response().await.text(), format!("GET /{n} HTTP/1.1"));
    }
}

#[tokio::test]
async fn large_bodies_stream_both_ways_at_the_slower_sides_pace() {
    const MEGABYTES: usize = 20;
    let origin = Origin::start(|_| {
        Reply::Take(Box::new(|mut socket| {
            Box::pin(async move {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", MEGABYTES << 20);
                socket.write_all(head.as_bytes()).await.unwrap();
                for n in 0..MEGABYTES {
                    socket.write_all(&vec![n as u8; 1 << 20]).await.unwrap();
                }
            })
        }))
    })
    .await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client
        .send(format!("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n", MEGABYTES << 20))
        .await;
    for n in 0..MEGABYTES {
        client.send(vec![n as u8; 1 << 20]).await;
    }
    let response = client.response().await;
    let expected: Vec<u8> = (0..MEGABYTES).flat_map(|n| vec![n as u8; 1 << 20]).collect();
    assert!(response.body == expected, "{} bytes came", response.body.len());
    assert!(origin.only().body == expected);
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_upload_is_passed_on_at_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::plain(listener.local_addr().unwrap());
    let mut client = Client::connect(proxy.address).await;
    client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000\r\n\r\nstart").await;
    let (mut upstream, _) = soon("the request", listener.accept()).await.unwrap();
    let mut buffer = Vec::new();
    while !buffer.ends_with(b"start") {
        soon("the start of the body", upstream.read_buf(&mut buffer)).await.unwrap();
    }
    upstream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
    let response = client.response().await;
    assert_eq!((response.status, response.text()), (403, "no"));
}

/// Whoever refuses an upload and closes at once, unread bytes and all, is still heard.
#[tokio::test]
async fn an_answer_to_an_upload_is_passed_on_though_the_upstream_closed_on_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::plain(listener.local_addr().unwrap());
    let mut client = Client::connect(proxy.address).await;
    client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 50000000\r\n\r\n").await;
    client.send([b'x'; 10_000]).await;
    let (mut upstream, _) = soon("the request", listener.accept()).await.unwrap();
    let mut buffer = Vec::new();
    soon("the head", upstream.read_buf(&mut buffer)).await.unwrap();
    upstream
        .write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
        .await
        .unwrap();
    drop(upstream);
    client.try_send(vec![b'x'; 1 << 20]).await;
    let response = client.response().await;
    assert_eq!((response.status, response.text()), (413, "no"));
}

#[tokio::test]
async fn an_upstream_that_refuses_is_502_and_one_that_hangs_is_504() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = nobody.local_addr().unwrap();
    drop(nobody);
    let response = get(Proxy::plain(refusing).address, "/").await;
    assert_eq!((response.status, response.field("content-type")), (502, Some("application/problem+json")));

    let origin = Origin::start(|_| Reply::hang()).await;
    let proxy =
        Setup::timeouts(|timeouts| timeouts.response = Duration::from_millis(200)).start(origin.address);
    let mut client = Client::connect(proxy.address).await;
    assert_eq!(client.get("/").await.status, 504);
    origin.until("the hanging connection to be closed", |record| record.open == 0).await;
    assert_eq!(client.get("/").await.status, 504, "the client's connection lives on");
}

#[tokio::test]
async fn broken_answers_are_502_and_their_connections_are_not_used_again() {
    let head_of =
        |size: usize| format!("HTTP/1.1 200 OK\r\nx-big: {}\r\n\r\n", "x".repeat(size)).into_bytes();
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let broken: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("half a head", b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()),
        ("no HTTP", b"220 smtp.example.com ESMTP\r\n".to_vec()),
        ("two lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!".to_vec()),
        ("a bad length", b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello".to_vec()),
        ("a folded field", b"HTTP/1.1 200 OK\r\nx-a: 1\r\n 2\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ("a megabyte of head", head_of(1 << 20)),
        ("two hundred fields", format!("HTTP/1.1 200 OK\r\n{many}\r\n").into_bytes()),
        (
            "ten thousand hints",
            [&b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n".repeat(10_000)[..], b"HTTP/1.1 204 \r\n\r\n"]
                .concat(),
        ),
        (
            "a coding that nobody could undo",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_vec(),
        ),
        ("a switch nobody asked for", b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n".to_vec()),
    ];
    for (name, bytes) in broken {
        let origin = Origin::start(move |_| Reply::SendAndClose(bytes.clone())).await;
        let proxy = Proxy::plain(origin.address);
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get("/").await.status, 502, "{name}");
        assert_eq!(origin.record().accepted, 1, "{name}");
        assert_eq!(client.get("/").await.status, 502, "{name}");
    }
}

#[tokio::test]
async fn informational_answers_are_skipped_as_long_as_the_final_one_comes_in_time() {
    let origin = Origin::start(|_| {
        Reply::Send(
            [
                &b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n".repeat(500)[..],
                b"HTTP/1.1 204 No Content\r\n\r\n",
            ]
            .concat(),
        )
    })
    .await;
    assert_eq!(get(Proxy::plain(origin.address).address, "/").await.status, 204);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_completed() {
    for framing in ["content-length: 100", "transfer-encoding: chunked"] {
        let origin = Origin::start(move |_| {
            Reply::SendAndClose(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhello\r\n").into_bytes())
        })
        .await;
        let proxy = Proxy::plain(origin.address);
        let mut client = Client::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
        let all = String::from_utf8(client.rest().await).unwrap();
        assert!(all.starts_with("HTTP/1.1 200 OK"), "{all}");
        assert!(all.contains("hello") && !all.ends_with("0\r\n\r\n"), "{all}");
    }
}

#[tokio::test]
async fn a_body_that_stops_coming_from_the_upstream_is_cut() {
    let origin = Origin::start(|_| {
        Reply::SendAndHang(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello".to_vec())
    })
    .await;
    let proxy =
        Setup::timeouts(|timeouts| timeouts.response = Duration::from_millis(200)).start(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert!(client.rest().await.ends_with(b"hello"));
    origin.until("the upstream's connection to be closed", |record| record.open == 0).await;
}

/// The upstream closes each connection once it has answered twice on it, without saying so.
#[tokio::test]
async fn a_connection_closed_between_requests_is_replaced_but_nothing_is_sent_twice() {
    let origin = Origin::start({
        let count = counter();
        move |seen| match (count() % 2, seen.line().starts_with("GET")) {
            (1, _) => Reply::ok("first"),
            // Closed after the request was read: the same for the proxy as closing before it came.
            (_, true) if seen.fields("x-retried").is_empty() && seen.connection == 0 => Reply::close(),
            _ => Reply::close(),
        }
    })
    .await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    assert_eq!(client.get("/a").await.status, 200);
    // Request 2 is closed upon, tried again as request 3, answered.
    assert_eq!(client.get("/b").await.status, 200);
    assert_eq!(origin.seen().iter().filter(|seen| seen.line() == "GET /b HTTP/1.1").count(), 2);
    // A POST is not tried again.
    client.send("POST /c HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n\r\nx").await;
    assert_eq!(client.response().await.status, 502);
    assert_eq!(origin.seen().iter().filter(|seen| seen.line() == "POST /c HTTP/1.1").count(), 1);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_noticed_before_it_is_used() {
    let origin =
        Origin::start(|_| Reply::SendAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()))
            .await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    for round in 1..=5 {
        origin.until("the last connection to be closed", |record| record.open == 0).await;
        client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n\r\nx").await;
        assert_eq!(client.response().await.status, 200, "round {round}");
    }
}

#[tokio::test]
async fn who_goes_away_cancels_what_was_asked_for() {
    let origin = Origin::start(|_| Reply::hang()).await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    origin.until("the request", |record| record.seen.len() == 1).await;
    drop(client);
    origin.until("the request to be cancelled", |record| record.open == 0).await;
}

#[tokio::test]
async fn an_upload_that_stalls_is_408_and_the_upstream_never_sees_its_end() {
    for framing in ["content-length: 100", "transfer-encoding: chunked"] {
        let origin = Origin::hello().await;
        let proxy =
            Setup::timeouts(|timeouts| timeouts.body = Duration::from_millis(200)).start(origin.address);
        let mut client = Client::connect(proxy.address).await;
        client.send(format!("POST / HTTP/1.1\r\nhost: test\r\n{framing}\r\n\r\n5\r\nhello\r\n")).await;
        let response = client.response().await;
        assert_eq!((response.status, response.field("connection")), (408, Some("close")), "{framing}");
        let record = origin.until("the upstream's connection to be closed", |record| record.open == 0).await;
        assert!(record.seen.iter().all(|seen| !seen.complete), "{framing}");
    }
}

#[tokio::test]
async fn who_does_not_read_is_cut_off() {
    let origin = Origin::start(|_| Reply::ok(&"x".repeat(32 << 20))).await;
    let proxy = Setup::timeouts(|timeouts| timeouts.write = Duration::from_millis(200)).start(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    origin.until("the transfer to be given up", |record| record.accepted == 1 && record.open == 0).await;
    assert!(client.rest().await.len() < 32 << 20);
}

#[tokio::test]
async fn heads_must_be_complete_in_time_and_idle_connections_end() {
    let origin = Origin::hello().await;
    let proxy = Setup::timeouts(|timeouts| {
        timeouts.head = Duration::from_millis(200);
        timeouts.idle = Duration::from_millis(300);
    })
    .start(origin.address);
    // Nothing at all; half a head; a head that trickles in; half the preface of HTTP/2.
    assert!(Client::connect(proxy.address).await.is_closed().await);
    for start in ["GET / HTTP/1.1\r\nhos", "PRI * HT"] {
        let mut client = Client::connect(proxy.address).await;
        client.send(start).await;
        assert!(client.is_closed().await, "{start:?}");
    }
    let mut client = Client::connect(proxy.address).await;
    let mut trickled = 0;
    while client.try_send("G").await {
        trickled += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(trickled < 500, "a head may take for ever");
    }
    let mut client = Client::connect(proxy.address).await;
    assert_eq!(client.get("/").await.status, 200);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn beyond_the_most_connections_clients_wait_and_are_served() {
    let origin = Origin::hello().await;
    let proxy = Setup { max_connections: 2, ..Setup::default() }.start(origin.address);
    let mut first = Client::connect(proxy.address).await;
    let mut second = Client::connect(proxy.address).await;
    assert_eq!(first.get("/").await.status, 200);
    assert_eq!(second.get("/").await.status, 200);
    let mut third = Client::connect(proxy.address).await;
    third.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    drop(first);
    assert_eq!(third.response().await.status, 200);
    assert_eq!(second.get("/").await.status, 200);
}
