//! WebSocket over HTTP/2 (RFC 8441): an extended CONNECT from a client, an upgrade of HTTP/1.1 to the upstream (rows 55
//! and 64 to 71 of `docs/faults.md`).

use std::process::Stdio;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response};
use ratelimit_proxy::server::Drained;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::io::AsyncWriteExt as _;

use crate::support::http2::{Connection, Frames, SETTINGS};
use crate::support::origin::{Origin, Reply, Seen};
use crate::support::program::{Lines, Program};
use crate::support::proxy::{Proxy, Setup};
use crate::support::raw_client::Client;
use crate::support::{soon, until};
use crate::upgrade::script;

/// A server's answer to the key that it was sent.
fn accept(seen: &Seen) -> String {
    let text = format!("{}258EAFA5-E914-47DA-95CA-C5AB0DC85B11", seen.field("sec-websocket-key").unwrap());
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

fn switch(accept: &str) -> Vec<u8> {
    let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n";
    format!("{head}sec-websocket-protocol: chat\r\nsec-websocket-accept: {accept}\r\n\r\n").into_bytes()
}

/// Sends back what comes until the other side closes, then `the end`. Other requests get `hello`.
fn echo(seen: &Seen) -> Reply {
    if seen.fields("upgrade").is_empty() {
        return Reply::ok("hello");
    }
    let switch = switch(&accept(seen));
    Reply::Take(Box::new(move |mut socket| {
        Box::pin(async move {
            socket.write_all(&switch).await.unwrap();
            let (mut read, mut write) = socket.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.write_all(b"the end").await;
        })
    }))
}

/// A stream that may become a WebSocket.
struct Socket {
    response: Response<RecvStream>,
    send: SendStream<Bytes>,
}

fn asks(path: &str) -> Request<()> {
    Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://test{path}"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .extension(Protocol::from_static("websocket"))
        .body(())
        .unwrap()
}

async fn ask(connection: &Connection, request: Request<()>) -> Socket {
    let mut ready = soon("room for a stream", connection.send.clone().ready()).await.unwrap();
    // It may be used once the proxy's settings have come, which say so.
    until("the proxy to say that it takes them", async || ready.is_extended_connect_protocol_enabled()).await;
    let (response, send) = ready.send_request(request, false).unwrap();
    Socket { response: soon("an answer", response).await.unwrap(), send }
}

async fn open(connection: &Connection) -> Socket {
    let socket = ask(connection, asks("/socket")).await;
    assert_eq!(socket.response.status(), 200);
    socket
}

impl Socket {
    fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    fn say(&mut self, text: &'static str) {
        self.send.send_data(Bytes::from_static(text.as_bytes()), false).unwrap();
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let body = self.response.body_mut();
        let data = soon("bytes or the end", body.data()).await?.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        Some(data)
    }

    async fn exactly(&mut self, length: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < length {
            all.extend(self.next().await.expect("more bytes"));
        }
        assert_eq!(all.len(), length);
        all
    }

    /// All that comes to the end.
    async fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(data) = self.next().await {
            all.extend(data);
        }
        all
    }
}

#[tokio::test]
async fn the_proxy_says_that_it_takes_them() {
    let origin = Origin::hello().await;
    let proxy = Proxy::plain(origin.address);
    let mut frames = Frames::open(proxy.address, &[]).await;
    let settings = frames.find(|frame| frame.kind == SETTINGS && frame.flags == 0).await.unwrap();
    assert!(settings.payload.chunks(6).any(|setting| setting == [0, 8, 0, 0, 0, 1]), "{settings:?}");
}

/// The upstream is asked as a client of HTTP/1.1 would ask it, and never hears of the difference.
#[tokio::test]
async fn bytes_pass_both_ways_until_both_sides_have_ended() {
    let origin = Origin::start(echo).await;
    let proxy = Proxy::plain(origin.address);
    let connection = Connection::open(proxy.address).await;
    let mut socket = open(&connection).await;
    let head = socket.response.headers();
    assert_eq!(head.get("sec-websocket-protocol").unwrap(), "chat");
    for name in ["upgrade", "connection", "sec-websocket-accept", "content-length", "transfer-encoding"] {
        assert_eq!(head.get(name), None);
    }
    let seen = origin.only();
    assert_eq!(seen.line(), "GET /socket HTTP/1.1");
    for (name, value) in [
        ("host", "test"),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("via", "2.0 ratelimit-proxy"),
    ] {
        assert_eq!(seen.field(name), Some(value));
    }
    assert_eq!(BASE64_STANDARD.decode(seen.field("sec-websocket-key").unwrap()).unwrap().len(), 16);

    socket.say("one");
    assert_eq!(socket.exactly(3).await, b"one");
    // Beside it the connection serves requests.
    assert_eq!(connection.get("/").await.status(), 200);
    let large: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    let came = soon("all of it", async {
        let (send, body) = (&mut socket.send, socket.response.body_mut());
        let sent = async {
            let mut left = Bytes::from(large.clone());
            while !left.is_empty() {
                send.reserve_capacity(left.len());
                let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
                send.send_data(left.split_to(room.min(left.len())), false).unwrap();
            }
            send.send_data(Bytes::new(), true).unwrap();
        };
        let came = async {
            let mut came = Vec::new();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                came.extend(data);
            }
            came
        };
        tokio::join!(sent, came).1
    })
    .await;
    assert!(came == [&large[..], b"the end"].concat(), "{} bytes", came.len());
    origin.until("the tunnel to the upstream to end", |record| record.open == 1).await;
    assert_eq!(connection.get("/").await.status(), 200);
}

/// Row 69: a permit is held until the tunnel closes, whoever closes it and however.
#[tokio::test]
async fn a_permit_is_held_until_the_tunnel_closes() {
    let origin = Origin::start(echo).await;
    let proxy = Setup::yaml("limits: [{name: open, key: client.ip, concurrency: 1}]").start(origin.address);
    let status = async || Client::connect(proxy.address).await.get("/").await.status;
    for way in ["ended", "reset", "left alone", "the connection cut"] {
        let connection = Connection::open(proxy.address).await;
        let mut socket = open(&connection).await;
        socket.say("hello");
        assert_eq!(socket.exactly(5).await, b"hello");
        assert_eq!(status().await, 429, "{way}");
        match way {
            "ended" => {
                socket.send.send_data(Bytes::new(), true).unwrap();
                assert_eq!(socket.rest().await, b"the end");
            }
            "reset" => socket.send.send_reset(h2::Reason::CANCEL),
            "left alone" => drop(socket),
            _ => {
                connection.driven.abort();
                drop(socket);
            }
        }
        until("the permit to come back", async || status().await == 200).await;
        origin.until("the upstream to be let go", |record| record.open <= 1).await;
    }
}

/// A frame of a client, masked as the standard wants it (RFC 6455 §5.2).
fn masked(kind: u8, payload: &[u8]) -> Bytes {
    let mask = [1, 2, 3, 4];
    let head = [0x80 | kind, 0x80 | u8::try_from(payload.len()).unwrap()];
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    head.into_iter().chain(mask).chain(payload).collect()
}

/// Row 68: PyPI's `websockets`, which knows nothing of HTTP/2.
#[tokio::test]
async fn a_server_that_was_not_written_here() {
    let mut server = script("websocket_server.py").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = Lines::of(server.stdout.take().unwrap());
    let port = lines.until("a port", |text| text.lines().next()?.parse::<u16>().ok()).await;
    let proxy = Program::start(([127, 0, 0, 1], port).into(), &["100/s by client.ip"]).await;
    let connection = Connection::open(proxy.proxy).await;
    let mut socket = open(&connection).await;
    let mut exchange = async |kind: u8, payload: &[u8], answer: &[u8]| {
        socket.send.send_data(masked(kind, payload), false).unwrap();
        assert_eq!(socket.exactly(answer.len()).await, answer);
    };
    let (text, close, ping) = (1, 8, 9);
    exchange(text, b"hello", b"\x81\x05hello").await;
    exchange(ping, b"?", b"\x8a\x01?").await;
    exchange(close, b"\x03\xe8", b"\x88\x02\x03\xe8").await;
    assert_eq!(socket.rest().await, b"");
}

/// A server that goes ends the stream, with all that it has said.
#[tokio::test]
async fn the_server_may_end_it() {
    let origin =
        Origin::start(|seen| Reply::SendAndClose([&switch(&accept(seen))[..], b"bye"].concat())).await;
    let proxy = Proxy::plain(origin.address);
    let connection = Connection::open(proxy.address).await;
    let mut socket = open(&connection).await;
    assert_eq!(socket.rest().await, b"bye");
}

/// Row 69, "black-holes": where nothing moves any more both sides are let go.
#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_is_closed() {
    let origin = Origin::start(echo).await;
    let short = Duration::from_millis(300);
    let proxy = Setup::timeouts(|timeouts| (timeouts.response, timeouts.tunnel) = (short, short));
    let proxy = proxy.start(origin.address);
    let connection = Connection::open(proxy.address).await;
    let mut socket = open(&connection).await;
    socket.say("hello");
    assert_eq!(socket.exactly(5).await, b"hello");
    assert_eq!(socket.rest().await, b"");
    origin.until("the upstream's connection to end", |record| record.open == 0).await;
    assert_eq!(connection.get("/").await.status(), 200);
}

/// Rows 55 and 67: it is decided as the GET that it stands for, and a denial is an answer like any other.
#[tokio::test]
async fn it_is_decided_as_the_get_that_it_stands_for() {
    let origin = Origin::start(echo).await;
    let proxy = Setup::yaml(
        "limits:\n  - {name: gets, key: path, rate: 1/h, match: {path: /socket, methods: [GET]}}\n  \
         - {name: connects, key: path, rate: 1/h, match: {methods: [CONNECT]}}",
    )
    .start(origin.address);
    let connection = Connection::open(proxy.address).await;
    let mut socket = open(&connection).await;
    let denied = ask(&connection, asks("/socket")).await;
    assert_eq!(denied.status(), 429);
    assert!(denied.response.headers().contains_key("retry-after"));
    // Nor does it help to look like gRPC, whose denials are a 200.
    let mut request = asks("/socket");
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    assert_eq!(ask(&connection, request).await.status(), 429);
    assert_eq!(connection.get("/socket").await.status(), 429);
    assert_eq!(connection.get("/other").await.status(), 200);
    socket.say("still there");
    assert_eq!(socket.exactly(11).await, b"still there");
    assert_eq!(origin.seen().len(), 2);
}

/// Row 66: what is no tunnel must not look like one, and a server has to have read the key.
#[tokio::test]
async fn a_server_that_does_not_switch_or_not_rightly() {
    for (answer, status) in [
        (Reply::ok("hello"), 502),
        (Reply::raw("HTTP/1.1 204 No Content\r\n\r\n"), 502),
        (Reply::raw("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"), 403),
        (Reply::raw("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n"), 302),
        (Reply::SendAndHang(switch("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")), 502),
        (
            Reply::SendAndHang(
                b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".into(),
            ),
            502,
        ),
        (Reply::close(), 502),
    ] {
        let answer = std::sync::Mutex::new(Some(answer));
        let origin = Origin::start(move |_| answer.lock().unwrap().take().unwrap_or(Reply::close())).await;
        let proxy =
            Setup::yaml("limits: [{name: open, key: client.ip, concurrency: 1}]").start(origin.address);
        let connection = Connection::open(proxy.address).await;
        let mut socket = ask(&connection, asks("/socket")).await;
        assert_eq!(socket.status(), status);
        let body = socket.rest().await;
        assert!(status != 403 || body == b"no");
        let answers = async || Client::connect(proxy.address).await.get("/").await.status;
        until("the permit to come back", async || answers().await != 429).await;
    }
}

/// Rows 22 and 55: other tunnels are not made.
#[tokio::test]
async fn other_tunnels_are_not_made() {
    let origin = Origin::start(echo).await;
    let proxy = Proxy::plain(origin.address);
    let connection = Connection::open(proxy.address).await;
    for protocol in ["connect-udp", "connect-ip", "webtransport", "h2c", "websocket2"] {
        let mut request = asks("/socket");
        request.extensions_mut().insert(Protocol::from(protocol));
        assert_eq!(ask(&connection, request).await.status(), 405, "{protocol}");
    }
    let plain = Request::builder().method(Method::CONNECT).uri("test:443").body(()).unwrap();
    // Without a scheme there is nothing to be asked for, so its stream is reset or refused.
    match connection.try_ask(plain, None).await {
        Ok(answer) => assert!((400..500).contains(&answer.status()), "{answer:?}"),
        Err(error) => assert!(error.is_reset(), "{error}"),
    }
    assert!(origin.seen().is_empty());
}

/// Row 71: the client is told, may end its tunnels, and is cut at the deadline if it does not.
#[tokio::test]
async fn a_drain_waits_for_tunnels_until_its_deadline() {
    let origin = Origin::start(echo).await;
    let mut proxy = Proxy::plain(origin.address);
    let connection = Connection::open(proxy.address).await;
    let mut socket = open(&connection).await;
    assert_eq!(proxy.drain(Duration::from_millis(200)).await, Drained { finished: 0, forced: 1 });
    let body = socket.response.body_mut();
    assert!(!matches!(soon("the end", body.data()).await, Some(Ok(_))));

    let mut proxy = Proxy::plain(origin.address);
    let connection = Connection::open(proxy.address).await;
    let mut socket = open(&connection).await;
    let drained = tokio::spawn(proxy.take().drain(Duration::from_secs(3600)));
    // The stream goes on while others are refused.
    until("the connection to take no more", async || {
        let Ok(mut ready) = connection.send.clone().ready().await else { return true };
        ready.send_request(Request::get("http://test/").body(()).unwrap(), true).is_err()
    })
    .await;
    socket.say("goodbye");
    assert_eq!(socket.exactly(7).await, b"goodbye");
    socket.send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(socket.rest().await, b"the end");
    let drained = soon("the end", drained).await.unwrap().unwrap();
    assert_eq!(drained, Drained { finished: 1, forced: 0 });
}
