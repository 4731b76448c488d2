//! HTTP/2 from clients: what passes, what is refused, and what floods come to (docs/faults.md, C).

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Version};
use ratelimit_core::{Limit, Rate};
use ratelimit_proxy::config::LimitConfig;
use tokio::io::AsyncWriteExt;

use crate::support::http2::{
    CONTINUATION, Connection, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PING, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, fields, frame, get,
};
use crate::support::origin::{Origin, Reply};
use crate::support::proxy::{Proxy, Setup};
use crate::support::{soon, until};

const ENHANCE_YOUR_CALM: u32 = 11;

async fn served() -> (Origin, Proxy) {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let proxy = Proxy::plain(origin.address);
    (origin, proxy)
}

/// Whether an honest client is served, on a connection of its own.
async fn is_served(proxy: &Proxy) -> bool {
    Connection::open(proxy.address).await.get("/honest").await.status() == 200
}

#[tokio::test]
async fn a_request_and_its_answer() {
    let (origin, proxy) = served().await;
    let connection = Connection::open(proxy.address).await;
    let answer = connection.get("/path?query=1").await;
    assert_eq!((answer.status(), &answer.body[..]), (200, &b"hello"[..]));
    assert_eq!(answer.head.version, Version::HTTP_2);
    assert_eq!(answer.field("connection"), None);
    let seen = origin.seen().pop().unwrap();
    assert_eq!(seen.line(), "GET /path?query=1 HTTP/1.1");
    assert_eq!(seen.field("host"), Some("test"));
    assert_eq!(seen.field("x-forwarded-host"), Some("test"));
    assert_eq!(seen.field("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.field("via"), Some("2.0 ratelimit-proxy"));
}

/// Streams do not wait for each other, and each has its own deadline.
#[tokio::test]
async fn a_slow_stream_times_out_alone() {
    let origin = Origin::start(|seen| match seen.line() {
        "GET /hangs HTTP/1.1" => Reply::hang(),
        _ => Reply::ok("hello"),
    })
    .await;
    let proxy =
        Setup::timeouts(|timeouts| timeouts.response = Duration::from_millis(500)).start(origin.address);
    let connection = Connection::open(proxy.address).await;
    let (hangs, served) = tokio::join!(connection.get("/hangs"), async {
        let mut served = 0;
        while served < 100 {
            assert_eq!(connection.get("/served").await.status(), 200);
            served += 1;
        }
        served
    });
    assert_eq!((hangs.status(), served), (504, 100));
    assert_eq!(connection.get("/after").await.status(), 200);
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: grpc-status\r\n\r\n\
                  3\r\nabc\r\n0\r\ngrpc-status: 0\r\ncontent-length: 7\r\n\r\n";
    let origin = Origin::start(move |_| Reply::raw(answer)).await;
    let proxy = Proxy::plain(origin.address);
    let connection = Connection::open(proxy.address).await;
    let body = Bytes::from(vec![b'x'; 300_000]);
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let request = Request::builder().method(&method).uri("http://test/").body(()).unwrap();
        let answer = connection.ask(request, Some(body.clone())).await;
        assert_eq!((answer.status(), &answer.body[..]), (200, &b"abc"[..]));
        let trailers = answer.trailers.unwrap();
        assert_eq!(trailers.get("grpc-status").unwrap(), "0");
        assert!(!trailers.contains_key("content-length"));
        let seen = origin.seen().pop().unwrap();
        assert_eq!(seen.field("transfer-encoding"), Some("chunked"), "{method}");
        assert!(seen.complete && seen.body == body, "{method}: {} bytes", seen.body.len());
    }
    let request = Request::post("http://test/").header("content-length", "300000").body(()).unwrap();
    connection.ask(request, Some(body.clone())).await;
    let seen = origin.seen().pop().unwrap();
    assert_eq!(seen.field("content-length"), Some("300000"));
    assert_eq!(seen.body, body);
}

#[tokio::test]
async fn cookies_that_come_one_by_one_arrive_as_one_list() {
    let (origin, proxy) = served().await;
    let request =
        Request::get("http://test/").header("cookie", "a=1").header("cookie", "b=2").header("cookie", "c=3");
    Connection::open(proxy.address).await.ask(request.body(()).unwrap(), None).await;
    assert_eq!(origin.seen().pop().unwrap().field("cookie"), Some("a=1; b=2; c=3"));
}

#[tokio::test]
async fn a_denial_of_grpc_is_trailers_alone() {
    let (_origin, proxy) = {
        let origin = Origin::start(|_| Reply::ok("")).await;
        let proxy = Setup::limits([Limit::new("calls", Rate::per_hour(1))]).start(origin.address);
        (origin, proxy)
    };
    let connection = Connection::open(proxy.address).await;
    let call = || {
        let request = Request::post("http://test/service/Call").header("content-type", "application/grpc");
        request.header("te", "trailers").body(()).unwrap()
    };
    assert_eq!(connection.ask(call(), Some(Bytes::from_static(b"\0\0\0\0\0"))).await.status(), 200);
    let denied = connection.ask(call(), Some(Bytes::from_static(b"\0\0\0\0\0"))).await;
    assert_eq!((denied.status(), denied.field("grpc-status")), (200, Some("8")));
    assert!(denied.field("retry-after").is_some());
    assert!(denied.body.is_empty() && denied.trailers.is_none());
}

/// Row 134: a client in the middle of an upload reads its 429, on one connection, again and again.
#[tokio::test]
async fn five_thousand_denied_uploads_on_one_connection() {
    let origin = Origin::start(|_| Reply::ok("")).await;
    let proxy = Setup::limits([Limit::new("uploads", Rate::per_hour(1))]).start(origin.address);
    let connection = Connection::open(proxy.address).await;
    connection.get("/").await;
    let body = Bytes::from(vec![b'x'; 100_000]);
    let upload = async |number: usize| {
        let mut denied = 0;
        for _ in 0..number {
            let request = Request::post("http://test/upload").body(()).unwrap();
            denied += usize::from(connection.ask(request, Some(body.clone())).await.status() == 429);
        }
        denied
    };
    let all: Vec<usize> = futures_util::future::join_all((0..50).map(|_| upload(100))).await;
    assert_eq!(all.iter().sum::<usize>(), 5000);
    assert!(!connection.driven.is_finished());
}

/// Row 47.
#[tokio::test]
async fn the_host_is_named_in_one_way() {
    let (origin, proxy) = served().await;
    let base = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
    let head = |more: &[(&str, &str)]| fields(&[&base[..], more].concat());
    for (more, served) in [
        (&[(":authority", "a.test")][..], true),
        (&[(":authority", "a.test"), ("host", "A.test")], true),
        (&[("host", "a.test")], true),
        (&[(":authority", "a.test"), ("host", "b.test")], false),
        (&[(":authority", "a.test"), ("host", "a.test"), ("host", "a.test")], false),
        (&[("host", "a.test"), ("host", "a.test")], false),
        (&[], false),
        (&[(":authority", "user@a.test")], false),
        (&[(":authority", "a.test,b.test")], false),
        (&[(":authority", "")], false),
    ] {
        let before = origin.seen().len();
        let mut frames = Frames::open(proxy.address, &[]).await;
        frames.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head(more))).await;
        let answer = frames.find(|frame| frame.stream == 1 || frame.kind == GOAWAY).await;
        let answer = answer.unwrap_or_else(|| panic!("{more:?}: no answer"));
        let seen = origin.seen().len() - before;
        assert_eq!(seen, usize::from(served), "{more:?}: {answer:?}");
        if served {
            assert_eq!(answer.payload.first(), Some(&0x88), "{more:?}");
            assert!(origin.seen().pop().unwrap().fields("host").len() == 1);
        } else {
            assert!(answer.is_bad_request() || answer.kind == RST_STREAM, "{more:?}: {answer:?}");
        }
    }
}

/// Rows 48, 49 and 55: whatever else can't be said in HTTP/1.1, or would be another request there.
#[tokio::test]
async fn heads_that_would_be_something_else_upstream() {
    let (origin, proxy) = served().await;
    let line = |method: &'static str, scheme: &'static str, path: &'static str| {
        vec![(":method", method), (":scheme", scheme), (":authority", "test"), (":path", path)]
    };
    let with = |name: &'static str, value: &'static str| {
        let mut head = line("GET", "http", "/");
        head.push((name, value));
        head
    };
    for head in [
        line("GET", "http", ""),
        line("GET", "http", "foo"),
        line("GET", "http", "@evil"),
        line("GET", "http", "*"),
        line("GET", "http", "http://evil/"),
        line("GET", "http", "/a b"),
        line("GET", "http", "/\r\nx: y"),
        line("GET", "ftp", "/"),
        line("GET / HTTP/1.1\r\nx: y\r\n\r\nGET", "http", "/"),
        line("CONNECT", "http", "/"),
        line("TRACE", "http", "/"),
        vec![(":method", "CONNECT"), (":authority", "evil:443")],
        vec![
            (":method", "CONNECT"),
            (":protocol", "connect-udp"),
            (":scheme", "http"),
            (":authority", "test"),
            (":path", "/"),
        ],
        with(":protocol", "websocket"),
        with("connection", "keep-alive"),
        with("transfer-encoding", "chunked"),
        with("upgrade", "websocket"),
        with("keep-alive", "1"),
        with("proxy-connection", "close"),
        with("te", "gzip"),
        with("Upper", "case"),
        with("a b", "c"),
        with("a:b", "c"),
        with("a", "b\r\nc: d"),
        with("a", "b\0c"),
        with("a", "b\nc"),
        with(":status", "200"),
        with(":unknown", "x"),
        with(":path", "/again"),
        with("content-length", "5"),
    ] {
        let mut frames = Frames::open(proxy.address, &[]).await;
        frames.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&head))).await;
        let answer = frames.find(|frame| frame.stream == 1 || frame.kind == GOAWAY).await;
        let answer = answer.unwrap_or_else(|| panic!("{head:?}: no answer"));
        // Not 200 or any other word of the upstream's: it was never asked.
        assert_ne!((answer.kind, answer.payload.first()), (HEADERS, Some(&0x88)), "{head:?}");
        assert!(origin.seen().is_empty(), "{head:?} arrived: {:?}", origin.seen());
    }
    // A fragment is not sent by anybody who speaks HTTP; it is no part of the target.
    let mut frames = Frames::open(proxy.address, &[]).await;
    frames.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get("/a#b"))).await;
    frames.find(|frame| frame.stream == 1).await.unwrap();
    assert!(origin.seen().iter().all(|seen| seen.line() == "GET /a HTTP/1.1"));
    assert!(is_served(&proxy).await);
}

/// Row 56: a connection that has lived long enough is told so, and not a request is lost over it.
#[tokio::test]
async fn connections_come_of_age_and_lose_no_request() {
    let (release, held) = tokio::sync::watch::channel(false);
    let origin = Origin::start(move |seen| {
        let mut held = held.clone();
        match seen.line() {
            "GET /held HTTP/1.1" => Reply::Take(Box::new(move |mut socket| {
                Box::pin(async move {
                    let _ = held.wait_for(|held| *held).await;
                    let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nheld").await;
                })
            })),
            _ => Reply::ok("hello"),
        }
    })
    .await;
    let proxy = Setup::timeouts(|timeouts| timeouts.age = Duration::from_millis(200)).start(origin.address);
    let first = Connection::open(proxy.address).await;
    let held = tokio::spawn({
        let send = first.send.clone();
        async move { Connection { send, driven: tokio::spawn(async { Ok(()) }) }.get("/held").await }
    });
    until("the request", async || !origin.seen().is_empty()).await;
    let (mut connections, mut served, mut connection) = (0, 0, first);
    while connections < 3 {
        match connection.try_ask(Request::get("http://test/").body(()).unwrap(), None).await {
            Ok(answer) => {
                assert_eq!(answer.status(), 200);
                served += 1;
            }
            // It was told before, in so many words, and nothing of the request was sent.
            Err(error) => {
                assert!(error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR), "{error:?}");
                connection = Connection::open(proxy.address).await;
                connections += 1;
            }
        }
    }
    assert_eq!(origin.seen().len(), served + 1);
    // What was under way when the first came of age is under way still.
    assert!(!held.is_finished());
    release.send_replace(true);
    assert_eq!(soon("the held answer", held).await.unwrap().body, b"held");
}

/// Row 56: the last numbers that streams can have.
#[tokio::test]
async fn streams_may_have_any_number_there_is() {
    let (_origin, proxy) = served().await;
    let mut frames = Frames::open(proxy.address, &[]).await;
    for stream in [1, 0x7fff_fffd, 0x7fff_ffff] {
        frames.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &get("/"))).await;
        let answer = frames.find(|frame| frame.stream == stream || frame.kind == GOAWAY).await.unwrap();
        assert_eq!((answer.kind, answer.payload.first()), (HEADERS, Some(&0x88)), "{stream}: {answer:?}");
    }
    // No other can come.
    frames.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &get("/"))).await;
    assert!(frames.find(|frame| frame.kind == GOAWAY).await.is_some_and(|goaway| goaway.code() != 0));
    assert!(is_served(&proxy).await);
}

/// Row 50.
#[tokio::test]
async fn a_body_that_is_not_as_long_as_it_said_never_ends_well() {
    let (origin, proxy) = served().await;
    let head = |length: &str| {
        fields(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "test"),
            (":path", "/"),
            ("content-length", length),
        ])
    };
    for (length, data) in [("5", &b"abc"[..]), ("5", b"abcdefgh"), ("1", b"")] {
        let mut frames = Frames::open(proxy.address, &[]).await;
        frames.send(&frame(HEADERS, END_HEADERS, 1, &head(length))).await;
        frames.send(&frame(DATA, END_STREAM, 1, data)).await;
        let answer = frames.find(|frame| frame.stream == 1 || frame.kind == GOAWAY).await.unwrap();
        assert!(answer.kind == RST_STREAM || answer.is_bad_request(), "{length} and {data:?}: {answer:?}");
        assert!(origin.seen().iter().all(|seen| !seen.complete), "{length} and {data:?}");
    }
    assert!(is_served(&proxy).await);
}

/// Row 39: requests that are taken back as soon as they are made.
#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let (origin, proxy) = served().await;
    let mut frames = Frames::open(proxy.address, &[]).await;
    let mut burst = Vec::new();
    for stream in (1..20_001).step_by(2) {
        burst.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &get("/")));
        burst.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    frames.send(&burst).await;
    let goaway = frames.find(|frame| frame.kind == GOAWAY && frame.code() != 0).await;
    assert!(goaway.is_none_or(|goaway| goaway.code() == ENHANCE_YOUR_CALM));
    assert!(origin.record().accepted < 100, "{} connections to the upstream", origin.record().accepted);
    assert!(is_served(&proxy).await);
}

/// The same, a little slower: each request is begun before it is taken back.
#[tokio::test]
async fn slower_resets_end_the_connection_too() {
    let origin = Origin::start(|_| Reply::hang()).await;
    let proxy = Proxy::plain(origin.address);
    let mut frames = Frames::open(proxy.address, &[]).await;
    let mut stream = 1;
    let ended = loop {
        let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &get("/"));
        if !frames.send(&head).await {
            break true;
        }
        // When the ping is answered the stream is under way.
        if !frames.send(&frame(PING, 0, 0, &[0; 8])).await {
            break true;
        }
        match frames.find(|frame| frame.kind == PING && frame.flags == 1 || frame.kind == GOAWAY).await {
            Some(frame) if frame.kind == PING => {}
            _ => break true,
        }
        if !frames.send(&frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())).await {
            break true;
        }
        stream += 2;
        if stream > 4000 {
            break false;
        }
    };
    assert!(ended, "{stream} streams were begun and taken back");
}

/// Row 40: frames that make us reset streams.
#[tokio::test]
async fn resets_that_we_are_made_to_send_end_the_connection() {
    let (_origin, proxy) = served().await;
    let mut frames = Frames::open(proxy.address, &[]).await;
    let mut burst = Vec::new();
    for stream in (1..6001).step_by(2) {
        burst.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &get("/")));
        // A window can't be opened by nothing.
        burst.extend(frame(WINDOW_UPDATE, 0, stream, &[0; 4]));
    }
    frames.send(&burst).await;
    let goaway = frames.find(|frame| frame.kind == GOAWAY).await;
    assert!(goaway.is_none_or(|goaway| goaway.code() != 0));
    assert!(is_served(&proxy).await);
}

/// Row 41: a head without an end.
#[tokio::test]
async fn endless_continuations_end_the_connection() {
    let (_origin, proxy) = served().await;
    let mut frames = Frames::open(proxy.address, &[]).await;
    let mut burst = frame(HEADERS, 0, 1, &get("/"));
    for _ in 0..10_000 {
        burst.extend(frame(CONTINUATION, 0, 1, &fields(&[("a", "b")])));
    }
    frames.send(&burst).await;
    let goaway = frames.find(|frame| frame.kind == GOAWAY).await;
    assert!(goaway.is_none_or(|goaway| goaway.code() != 0));
    assert!(is_served(&proxy).await);
}

/// Row 42: many small fields, and few large ones.
#[tokio::test]
async fn too_many_fields_are_431_or_the_end() {
    let (origin, proxy) = served().await;
    let connection = Connection::open(proxy.address).await;
    let mut many = Request::get("http://test/");
    for number in 0..1000 {
        many = many.header(format!("x-{number}"), "1");
    }
    let large = Request::get("http://test/").header("x-large", "x".repeat(60_000));
    for request in [many, large] {
        match connection.try_ask(request.body(()).unwrap(), None).await {
            Ok(answer) => assert_eq!(answer.status(), 431),
            Err(error) => assert!(error.is_reset() || error.is_go_away() || error.is_io(), "{error}"),
        }
    }
    assert!(origin.seen().is_empty());
    assert!(is_served(&proxy).await);
}

/// Row 43: answers that nobody reads.
#[tokio::test]
async fn floods_of_settings_and_pings_without_reading_are_cut() {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let proxy = Setup::timeouts(|timeouts| timeouts.write = Duration::from_millis(300)).start(origin.address);
    for flood in [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[7; 8])] {
        let mut frames = Frames::open(proxy.address, &[]).await;
        let many = flood.repeat(10_000);
        // Never reads, so the proxy stops reading, and then the connection is over.
        until("the end of the flood", async || !soon("room", frames.send(&many)).await).await;
    }
    assert!(is_served(&proxy).await);
}

/// Row 44: frames with nothing in them.
#[tokio::test]
async fn empty_frames_are_refused() {
    let (_origin, proxy) = served().await;
    let head = fields(&[(":method", "POST"), (":scheme", "http"), (":authority", "test"), (":path", "/")]);
    let mut frames = Frames::open(proxy.address, &[]).await;
    frames.send(&frame(HEADERS, END_HEADERS, 1, &head)).await;
    frames.send(&frame(DATA, 0, 1, &[]).repeat(1000)).await;
    let goaway = frames.find(|frame| frame.kind == GOAWAY).await;
    assert!(goaway.is_none_or(|goaway| goaway.code() == ENHANCE_YOUR_CALM));
    assert!(is_served(&proxy).await);
}

/// Row 44, the honest client: messages of one byte without end, as fast as the upstream takes them.
#[tokio::test]
async fn small_frames_are_passed_on_without_end() {
    const MESSAGES: usize = 50_000;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    let (taken, mut took) = tokio::sync::watch::channel(0);
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 64 * 1024];
        while *taken.borrow() < MESSAGES {
            let read = tokio::io::AsyncReadExt::read(&mut socket, &mut bytes).await.unwrap();
            // No head has a Z.
            taken.send_modify(|taken| *taken += bytes[..read].iter().filter(|byte| **byte == b'Z').count());
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut socket, answer).await.unwrap();
        while !matches!(tokio::io::AsyncReadExt::read(&mut socket, &mut bytes).await, Ok(0) | Err(_)) {}
    });
    let proxy = Proxy::plain(upstream);
    let connection = Connection::open(proxy.address).await;
    let mut send = connection.send.clone().ready().await.unwrap();
    let request = Request::post("http://test/small").body(()).unwrap();
    let (answer, mut stream) = send.send_request(request, false).unwrap();
    for burst in 1..=MESSAGES / 500 {
        for _ in 0..500 {
            stream.send_data(Bytes::from_static(b"Z"), false).unwrap();
        }
        soon("the upstream", took.wait_for(|took| *took == 500 * burst)).await.unwrap();
    }
    stream.send_data(Bytes::new(), true).unwrap();
    assert_eq!(soon("an answer", answer).await.unwrap().status(), 200);
    assert!(!connection.driven.is_finished());
}

/// Row 45: a client that asks for much and takes nothing.
#[tokio::test]
async fn streams_that_nobody_reads_are_reset() {
    let large = format!("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n{}", "x".repeat(1_000_000));
    let origin = Origin::start(move |_| Reply::raw(&large)).await;
    let proxy = Setup::timeouts(|timeouts| timeouts.write = Duration::from_millis(300)).start(origin.address);
    // No window at all.
    let mut frames = Frames::open(proxy.address, &[(4, 0)]).await;
    for number in 0..100 {
        frames.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &get("/"))).await;
    }
    let mut reset = std::collections::HashSet::new();
    while reset.len() < 100 {
        let frame = frames.find(|frame| frame.kind == RST_STREAM).await.expect("every stream is reset");
        reset.insert(frame.stream);
    }
    // The connection is of use yet.
    frames.send(&frame(PING, 0, 0, &[1; 8])).await;
    assert!(frames.find(|frame| frame.kind == PING && frame.flags == 1).await.is_some());
}

/// Row 46: more streams than there may be.
#[tokio::test]
async fn the_hundred_and_first_stream_is_refused_and_costs_nothing() {
    let origin = Origin::start(|_| Reply::hang()).await;
    let proxy = Setup::limits([Limit::new("all", Rate::per_hour(10_000))]).start(origin.address);
    let mut frames = Frames::open(proxy.address, &[]).await;
    for number in 0..101 {
        frames.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &get("/"))).await;
    }
    let refused = frames.find(|frame| frame.kind == RST_STREAM).await.unwrap();
    assert_eq!((refused.stream, refused.code()), (201, 7));
    until("a hundred requests", async || origin.seen().len() == 100).await;
}

/// Row 54, and a client that says nothing once it has said hello.
#[tokio::test]
async fn a_silent_connection_is_closed() {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let proxy = Setup::timeouts(|timeouts| {
        timeouts.head = Duration::from_millis(300);
        timeouts.idle = Duration::from_millis(300);
        timeouts.write = Duration::from_millis(300);
    })
    .start(origin.address);
    let mut frames = Frames::open(proxy.address, &[]).await;
    while frames.next().await.is_some() {}
    // One that has been of use is told first.
    let mut frames = Frames::open(proxy.address, &[]).await;
    frames.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get("/"))).await;
    assert!(frames.find(|frame| frame.kind == GOAWAY && frame.code() == 0).await.is_some());
    while frames.next().await.is_some() {}
}

/// A body that stops coming is that stream's trouble.
#[tokio::test]
async fn a_slow_body_times_out_alone() {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let proxy = Setup::timeouts(|timeouts| timeouts.body = Duration::from_millis(300)).start(origin.address);
    let connection = Connection::open(proxy.address).await;
    let mut send = connection.send.clone().ready().await.unwrap();
    let request = Request::post("http://test/slow").body(()).unwrap();
    let (answer, mut stream) = send.send_request(request, false).unwrap();
    stream.send_data(Bytes::from_static(b"some"), false).unwrap();
    assert_eq!(soon("an answer", answer).await.unwrap().status(), 408);
    assert_eq!(connection.get("/after").await.status(), 200);
}

/// A permit is held as long as its stream lives, whoever ends it.
#[tokio::test]
async fn a_stream_that_is_reset_gives_back_its_permit() {
    let origin = Origin::start(|seen| match seen.line() {
        "GET /hangs HTTP/1.1" => Reply::hang(),
        _ => Reply::ok("hello"),
    })
    .await;
    let proxy = Setup::rules([LimitConfig::new(Limit::concurrency("one", 1))]).start(origin.address);
    let connection = Connection::open(proxy.address).await;
    let mut send = connection.send.clone().ready().await.unwrap();
    let (answer, mut stream) =
        send.send_request(Request::get("http://test/hangs").body(()).unwrap(), true).unwrap();
    until("the request", async || origin.seen().len() == 1).await;
    assert_eq!(connection.get("/").await.status(), 429);
    stream.send_reset(h2::Reason::CANCEL);
    drop(answer);
    until("the permit", async || connection.get("/").await.status() == 200).await;
}

/// What is under way ends; nothing new begins.
#[tokio::test]
async fn a_drain_says_goaway_and_finishes_streams() {
    let origin = Origin::start(|seen| match seen.line() {
        "GET /slow HTTP/1.1" => Reply::Take(Box::new(|mut socket| {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(500)).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow";
                tokio::io::AsyncWriteExt::write_all(&mut socket, answer).await.unwrap();
            })
        })),
        _ => Reply::ok("hello"),
    })
    .await;
    let mut proxy = Proxy::plain(origin.address);
    let connection = Connection::open(proxy.address).await;
    let idle = Connection::open(proxy.address).await;
    idle.get("/").await;
    let (slow, drained) = tokio::join!(connection.get("/slow"), async {
        until("the request", async || origin.seen().iter().any(|seen| seen.line().contains("slow"))).await;
        proxy.drain(Duration::from_secs(20)).await
    });
    assert_eq!((slow.status(), &slow.body[..]), (200, &b"slow"[..]));
    assert_eq!((drained.finished, drained.forced), (2, 0));
    soon("the end", connection.driven).await.unwrap().unwrap();
    soon("the end", idle.driven).await.unwrap().unwrap();
}
