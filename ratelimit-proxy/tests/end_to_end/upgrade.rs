//! Requests that become tunnels: WebSocket and other protocols that begin with `Upgrade` (rows 64 to 70 of
//! `docs/faults.md`).

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::support::origin::{Origin, Reply, Seen};
use crate::support::program::{self, Lines, Program};
use crate::support::proxy::{Proxy, Setup};
use crate::support::raw_client::Client;
use crate::support::{soon, until};

const ASK: &str = "GET /socket HTTP/1.1\r\nhost: test\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Switches, sends `first`, then sends back what comes until the other side closes.
fn echo(first: &'static [u8]) -> impl Fn(&Seen) -> Reply + Send + Sync {
    move |seen| {
        if seen.fields("upgrade").is_empty() {
            return Reply::ok("hello");
        }
        Reply::Take(Box::new(move |mut socket| {
            Box::pin(async move {
                socket.write_all(&[SWITCH, first].concat()).await.unwrap();
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.write_all(b"the end").await;
            })
        }))
    }
}

async fn open(proxy: &Proxy) -> Client {
    let mut client = Client::connect(proxy.address).await;
    client.send(ASK).await;
    let response = client.response().await;
    assert_eq!(response.status, 101, "{}", response.head);
    assert_eq!(response.field("connection"), Some("upgrade"));
    assert_eq!(response.field("upgrade"), Some("websocket"));
    assert_eq!(response.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!((response.fields("content-length"), response.fields("transfer-encoding")), (vec![], vec![]));
    client
}

/// What the client sends, before the answer and after it, comes out at the other end as it is, and the other way
/// round; either end may stop first.
#[tokio::test]
async fn bytes_pass_both_ways_until_both_sides_have_ended() {
    let origin = Origin::start(echo(b"first")).await;
    let proxy = Proxy::plain(origin.address);
    let mut client = Client::connect(proxy.address).await;
    client.send([ASK.as_bytes(), b"GET / HTTP/1.1\r\n\r\n"].concat()).await;
    assert_eq!(client.response().await.status, 101);
    assert_eq!(client.exactly(5).await, b"first");
    assert_eq!(client.exactly(18).await, b"GET / HTTP/1.1\r\n\r\n");
    let large: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let (mut read, mut write) = client.socket.split();
    let sent = async {
        write.write_all(&large).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let came = async {
        let mut came = Vec::new();
        read.read_to_end(&mut came).await.unwrap();
        came
    };
    let ((), came) = soon("all bytes", async { tokio::join!(sent, came) }).await;
    assert!(came == [&large[..], b"the end"].concat(), "{} bytes", came.len());
    origin.until("the upstream's connection to end", |record| record.open == 0).await;
    let seen = origin.only();
    assert_eq!(seen.field("connection"), Some("upgrade"));
    assert_eq!(seen.field("upgrade"), Some("WebSocket"));
    assert_eq!(seen.field("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
}

#[tokio::test]
async fn who_ends_ends_both() {
    let origin = Origin::start(|_| Reply::SendAndClose([SWITCH, b"bye"].concat())).await;
    let proxy = Proxy::plain(origin.address);
    let mut client = open(&proxy).await;
    assert_eq!(client.exactly(3).await, b"bye");
    let mut rest = Vec::new();
    assert_eq!(soon("the end", client.socket.read_to_end(&mut rest)).await.unwrap(), 0);

    let origin = Origin::start(echo(b"")).await;
    let proxy = Proxy::plain(origin.address);
    let client = open(&proxy).await;
    client.socket.set_zero_linger().unwrap();
    drop(client);
    origin.until("the upstream's connection to end", |record| record.open == 0).await;
}

/// Row 69: a permit is held until the tunnel closes.
#[tokio::test]
async fn a_permit_is_held_until_the_tunnel_closes() {
    let origin = Origin::start(echo(b"")).await;
    let proxy = Setup::yaml("limits: [{name: open, key: client.ip, concurrency: 1}]").start(origin.address);
    let client = open(&proxy).await;
    let status = async || {
        let mut other = Client::connect(proxy.address).await;
        other.get("/").await.status
    };
    assert_eq!(status().await, 429);
    drop(client);
    until("the permit to come back", async || status().await == 200).await;
}

/// Row 69, "black-holes": where nothing moves any more both sides are let go.
#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_is_closed() {
    let origin = Origin::start(echo(b"first")).await;
    let short = Duration::from_millis(300);
    let proxy = Setup::timeouts(|timeouts| (timeouts.response, timeouts.tunnel) = (short, short));
    let proxy = proxy.start(origin.address);
    let mut client = open(&proxy).await;
    assert_eq!(client.exactly(5).await, b"first");
    assert!(client.is_closed().await);
    origin.until("the upstream's connection to end", |record| record.open == 0).await;
}

/// Row 70: those that say nothing take little, and each its permit.
#[tokio::test]
async fn idle_tunnels_hold_their_permits_and_little_memory() {
    const TUNNELS: u64 = 200;
    let origin = Origin::start(echo(b"first")).await;
    let proxy = Program::start(origin.address, &[&format!("{TUNNELS} at once by client.ip")]).await;
    let mut tunnels = Vec::new();
    let mut before = 0;
    for number in 0..TUNNELS {
        let mut client = Client::connect(proxy.proxy).await;
        client.send(ASK).await;
        assert_eq!(client.response().await.status, 101, "{number}");
        assert_eq!(client.exactly(5).await, b"first");
        tunnels.push(client);
        // What only the first ones take is not theirs.
        before = if number == TUNNELS / 10 { program::kib(&proxy, "VmRSS:") } else { before };
    }
    let each = (program::kib(&proxy, "VmRSS:") - before) * 10 / 9 / TUNNELS;
    assert!(each <= 64, "{each} KiB each");
    assert_eq!(proxy.get("/").await.status, 429);
    tunnels.pop();
    until("a permit to come back", async || proxy.get("/").await.status == 200).await;
    for client in &mut tunnels {
        client.send("still there").await;
        assert_eq!(client.exactly(11).await, b"still there");
    }
}

/// Row 67: a denied upgrade is an answer like any other.
#[tokio::test]
async fn a_denied_upgrade_leaves_the_connection_usable() {
    let origin = Origin::start(echo(b"")).await;
    let proxy = Setup::yaml("limits: [{name: a, key: path, rate: 1/h, match: {path: /socket}}]")
        .start(origin.address);
    open(&proxy).await;
    let mut client = Client::connect(proxy.address).await;
    client.send(ASK).await;
    let denied = client.response().await;
    assert_eq!((denied.status, denied.fields("upgrade"), denied.fields("connection")), (429, vec![], vec![]));
    assert_eq!(client.get("/other").await.status, 200);
}

/// Row 64: what is behind the head of a request that was not switched is the next request, decided as such.
#[tokio::test]
async fn where_the_server_does_not_switch_the_next_request_is_one() {
    let origin = Origin::hello().await;
    let proxy = Setup::yaml("limits: [{name: a, key: client.ip, rate: 2/h}]").start(origin.address);
    let mut client = Client::connect(proxy.address).await;
    let next = "GET /smuggled HTTP/1.1\r\nhost: test\r\n\r\n";
    client.send([ASK, next, next].concat()).await;
    for status in [200, 200, 429] {
        assert_eq!(client.response().await.status, status);
    }
    assert_eq!(origin.seen().len(), 2);
}

/// Row 65: what does not ask in the one right way asks for nothing.
#[tokio::test]
async fn others_are_not_upgraded() {
    let origin = Origin::hello().await;
    let proxy = Proxy::plain(origin.address);
    for request in [
        "GET / HTTP/1.1\r\nhost: test\r\nupgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 1\r\n\r\nx",
        "GET / HTTP/1.0\r\nhost: test\r\nconnection: upgrade, keep-alive\r\nupgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAM\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: h2c, websocket\r\n\r\n",
    ] {
        let mut client = Client::connect(proxy.address).await;
        client.send(request).await;
        assert_eq!(client.response().await.status, 200, "{request}");
        let seen = origin.seen().pop().unwrap();
        for name in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(seen.fields(name), [""; 0], "{request}");
        }
    }
}

/// Row 66: a server that switches without being asked, or to something else, is not believed.
#[tokio::test]
async fn a_server_can_only_switch_to_what_it_was_asked_for() {
    for (asks, answer) in [
        ("GET / HTTP/1.1\r\nhost: test\r\n\r\n", SWITCH),
        (ASK, b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"),
        (ASK, b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n"),
        (ASK, b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\n\r\n"),
        (ASK, b"HTTP/1.1 101 Switching\r\n\r\n"),
    ] {
        let origin = Origin::start(move |_| Reply::SendAndHang(answer.to_vec())).await;
        let proxy = Proxy::plain(origin.address);
        let mut client = Client::connect(proxy.address).await;
        client.send(asks).await;
        assert_eq!(client.response().await.status, 502, "{}", String::from_utf8_lossy(answer));
        origin.until("the connection to be given up", |record| record.open == 0).await;
    }
}

/// Row 71: nothing of a tunnel is left when the proxy has ended.
#[tokio::test]
async fn a_drain_ends_tunnels_at_its_deadline() {
    let origin = Origin::start(echo(b"")).await;
    let mut proxy = Proxy::plain(origin.address);
    let mut client = open(&proxy).await;
    client.send("before").await;
    assert_eq!(client.exactly(6).await, b"before");
    let drained = proxy.drain(Duration::from_millis(200)).await;
    assert_eq!(drained.forced, 1);
    assert_eq!(soon("the end", client.socket.read(&mut [0])).await.unwrap_or(0), 0);
}

/// One of our scripts of Python.
pub(crate) fn script(name: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/end_to_end/scripts").join(name));
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A client and a server that know WebSocket (PyPI's `websockets`), with compression, fragments, pings and closes.
#[tokio::test]
async fn websocket_with_a_library_on_both_ends() {
    let mut server = script("websocket_server.py").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = Lines::of(server.stdout.take().unwrap());
    let port = lines.until("a port", |text| text.lines().next()?.parse::<u16>().ok()).await;
    let proxy = Program::start_with(([127, 0, 0, 1], port).into(), &["100/s by client.ip"], &[]).await;
    let url = format!("ws://{}/chat", proxy.proxy);
    let output = soon("the client", script("websocket_client.py").arg(url).output()).await.unwrap();
    let (code, out, err) = program::parts(&output);
    assert_eq!((code, out.trim()), (0, "all messages came back"), "{err}");
}

/// Row 68: the cases of the Autobahn test suite (PyPI's `kosoku`) end through the proxy as they end without it.
#[tokio::test]
async fn the_cases_of_autobahn_end_as_they_do_without_a_proxy() {
    let mut server =
        script("websocket_server.py").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = Lines::of(server.stdout.take().unwrap());
    let port = lines.until("a port", |text| text.lines().next()?.parse::<u16>().ok()).await;
    let proxy = Program::start_with(([127, 0, 0, 1], port).into(), &["1000/s by client.ip"], &[]).await;
    // The judge has time limits of its own and was seen to die by a signal: on a busy machine that says nothing of what
    // it judges. What a proxy does wrong it does each time.
    let judge = async |address: std::net::SocketAddr| {
        let run = script("websocket_cases.py").arg(format!("ws://{address}/")).output().await.unwrap();
        (run.status.code(), String::from_utf8(run.stdout).unwrap(), String::from_utf8(run.stderr).unwrap())
    };
    let mut verdicts = Vec::new();
    for _ in 0..4 {
        let direct = judge(([127, 0, 0, 1], port).into()).await;
        let through = judge(proxy.proxy).await;
        if direct.0 == Some(0) && !direct.1.is_empty() && direct.1 == through.1 {
            return;
        }
        verdicts.push((direct, through));
    }
    panic!("through the proxy they never ended as without it: {verdicts:#?}");
}
