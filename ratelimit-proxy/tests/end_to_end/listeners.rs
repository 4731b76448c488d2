//! Listeners: PROXY headers, and ports that come and go with the configuration.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ratelimit_core::{Limit, Rate};
use ratelimit_proxy::config::Listener;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::certs::Authority;
use crate::support::origin::{Origin, Reply};
use crate::support::program::Program;
use crate::support::proxy::{Proxy, Setup};
use crate::support::raw_client::{Client, get};
use crate::support::{soon, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

fn introduced() -> Listener {
    Listener { proxy_protocol: true, ..Listener::from(SocketAddr::from(([127, 0, 0, 1], 0))) }
}

/// A header of version 2 for TCP over IPv4, with something more behind the addresses.
fn version_2(source: [u8; 4], command: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, 0x11, 0, 16]);
    header.extend(source);
    header.extend([10, 0, 0, 1, 0x30, 0x39, 0, 80]);
    // A field of a kind that nobody knows.
    header.extend([0xe0, 0, 1, b'x']);
    header
}

#[tokio::test]
async fn the_address_of_a_header_is_the_peers() {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let setup = Setup::limits([Limit::new("clients", Rate::per_hour(1))]);
    let proxy = Setup { listen: Some(introduced()), ..setup }.start(origin.address);
    for (header, address, status) in [
        (b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n".to_vec(), "192.0.2.1", 200),
        (b"PROXY TCP4 192.0.2.1 10.0.0.1 12346 80\r\n".to_vec(), "", 429),
        (version_2([192, 0, 2, 1], 1), "", 429),
        (version_2([192, 0, 2, 2], 1), "192.0.2.2", 200),
        (b"PROXY TCP6 2001:db8::1 ::1 12345 80\r\n".to_vec(), "2001:db8::1", 200),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 12345 80\r\n".to_vec(), "", 429),
        // What the balancer itself asks, to see whether we are here.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1", 200),
        (version_2([192, 0, 2, 3], 0), "", 429),
    ] {
        let mut client = Client::connect(proxy.address).await;
        client.send([&header, GET.as_bytes()].concat()).await;
        assert_eq!(client.response().await.status, status, "{}", header.escape_ascii());
        if status == 200 {
            assert_eq!(origin.seen().pop().unwrap().field("x-forwarded-for"), Some(address));
        }
    }
    // Byte by byte, and the request long after it.
    let mut client = Client::connect(proxy.address).await;
    for byte in version_2([192, 0, 2, 9], 1) {
        client.send([byte]).await;
        tokio::task::yield_now().await;
    }
    client.send(GET).await;
    assert_eq!(client.response().await.status, 200);
    assert_eq!(origin.seen().pop().unwrap().field("x-forwarded-for"), Some("192.0.2.9"));
}

#[tokio::test]
async fn without_a_header_nobody_comes_in_where_there_must_be_one() {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let mut setup = Setup { listen: Some(introduced()), ..Setup::default() };
    setup.timeouts.head = Duration::from_millis(500);
    let proxy = setup.start(origin.address);
    for bytes in [
        GET.as_bytes().to_vec(),
        b"PROXY TCP4 192.0.2.1 10.0.0.1 12345\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.300 10.0.0.1 1 80\r\n".to_vec(),
        [b"PROXY ".to_vec(), vec![b'x'; 5000]].concat(),
        version_2([192, 0, 2, 1], 7),
        // These break off.
        b"PROXY TCP4 192".to_vec(),
        version_2([192, 0, 2, 1], 1)[..20].to_vec(),
    ] {
        let mut client = Client::connect(proxy.address).await;
        client.try_send(&bytes).await;
        assert!(client.is_closed().await, "{}", bytes.escape_ascii());
    }
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn a_header_that_nobody_asked_for_is_a_malformed_request() {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let proxy = Proxy::plain(origin.address);
    for header in [b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n".to_vec(), version_2([192, 0, 2, 1], 1)] {
        let mut client = Client::connect(proxy.address).await;
        client.send([&header, GET.as_bytes()].concat()).await;
        assert_eq!(client.response().await.status, 400);
    }
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn curl_introduces_itself_before_tls_too() {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let authority = Authority::new();
    let listen = Listener { tls: Some(authority.local()), ..introduced() };
    let proxy = Setup { listen: Some(listen), ..Setup::default() }.start(origin.address);
    for version in ["--http1.1", "--http2"] {
        let mut command = Command::new("curl");
        command.args(["-sS", "--haproxy-protocol", version, "--cacert"]).arg(authority.pem());
        command.arg(format!("https://localhost:{}/", proxy.address.port())).kill_on_drop(true);
        let output = soon("curl", command.output()).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hello", "{output:?}");
        assert_eq!(origin.seen().pop().unwrap().field("x-forwarded-for"), Some("127.0.0.1"));
    }
}

/// One client's crowd keeps nobody else out; a header says whose a connection is.
#[tokio::test]
async fn one_client_can_not_have_all_connections() {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let setup = || Setup { max_connections_per_client: Some(2), ..Setup::default() };
    let proxy = setup().start(origin.address);
    let mut first = Client::connect(proxy.address).await;
    assert_eq!(first.get("/").await.status, 200);
    let silent = Client::connect(proxy.address).await;
    until("the second to be counted", async || Client::connect(proxy.address).await.is_closed().await).await;
    let other = std::net::IpAddr::from([127, 0, 0, 2]);
    assert_eq!(Client::connect_from(other, proxy.address).await.get("/").await.status, 200);
    drop(silent);
    until("room", async || {
        let mut again = Client::connect(proxy.address).await;
        again.try_send(GET).await && again.response_to("GET").await.is_some()
    })
    .await;
    assert_eq!(first.get("/").await.status, 200);

    let proxy = Setup { listen: Some(introduced()), ..setup() }.start(origin.address);
    let mut held = Vec::new();
    for (source, served) in [(1, true), (1, true), (1, false), (2, true)] {
        let mut client = Client::connect(proxy.address).await;
        client.send([&version_2([192, 0, 2, source], 1), GET.as_bytes()].concat()).await;
        assert_eq!(client.response_to("GET").await.is_some(), served, "{source}");
        held.push(client);
    }
}

async fn takes_connections(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_ok()
}

fn write(config: &Path, upstream: SocketAddr, listen: &str) {
    let text = format!("upstream: http://{upstream}\nlimits: []\nlisten: {listen}\nadmin: 127.0.0.1:0\n");
    std::fs::write(config.with_extension("new"), text).unwrap();
    std::fs::rename(config.with_extension("new"), config).unwrap();
}

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn listeners_come_and_go_and_connections_stay() {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let authority = Authority::new();
    authority.local();
    let config = authority.path("config.yaml");
    let (kept, gone, new) = (free(), free(), free());
    write(&config, origin.address, &format!("[{kept}, {gone}]"));
    let mut program = Program::configured(&config).await;
    let mut on_kept = Client::connect(kept).await;
    let mut on_gone = Client::connect(gone).await;
    assert_eq!(on_kept.get("/").await.status, 200);
    assert_eq!(on_gone.get("/").await.status, 200);

    // One that is taken already: nothing changes.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    write(&config, origin.address, &format!("[{}, {new}]", taken.local_addr().unwrap()));
    program.log.line(&["can't listen on"]).await;
    assert!(takes_connections(kept).await && takes_connections(gone).await && !takes_connections(new).await);

    write(&config, origin.address, &format!("[{kept}, {new}]"));
    until("the new one", async || takes_connections(new).await).await;
    assert_eq!(get(new, "/").await.status, 200);
    until("the end of the old one", async || !takes_connections(gone).await).await;
    assert_eq!(on_gone.get("/still").await.status, 200);
    assert_eq!(on_kept.get("/still").await.status, 200);

    // The same address, and TLS from now on; nobody is refused meanwhile.
    let tls = format!("{{address: \"{kept}\", tls: {{cert: local.pem, key: local.key}}}}");
    write(&config, origin.address, &format!("[{tls}, {new}]"));
    let over_tls = async || {
        let mut command = Command::new("curl");
        command.arg("-sS").arg("--cacert").arg(authority.pem()).kill_on_drop(true);
        command.arg(format!("https://localhost:{}/", kept.port()));
        let output = soon("curl", command.output()).await.unwrap();
        assert_ne!(output.status.code(), Some(7), "refused");
        output.stdout == b"hello"
    };
    until("TLS", over_tls).await;
    assert_eq!(on_kept.get("/still").await.status, 200);
    program.signal("TERM").await;
    assert_eq!(program.exit().await, 0);
}
