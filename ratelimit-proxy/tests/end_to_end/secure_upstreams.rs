//! Upstreams that speak TLS, HTTP/2, or both.

use std::time::Duration;

use http::Version;
use redis_testkit::Certificates;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::program::Program;
use crate::support::proxy::Proxy;
use crate::support::raw_client::{Client, get};
use crate::support::secure_origin::{SecureOrigin, Speaks};
use crate::support::until;

fn proxy(url: &str, rest: &str) -> Proxy {
    Proxy::of(&format!("limits: []\nupstreams: [{{servers: \"{url}\"{rest}}}]"))
}

fn trusting(certificates: &Certificates) -> String {
    format!(", tls: {{ca: {}}}", certificates.authority().display())
}

/// A body that is sent and comes back.
async fn echoed(client: &mut Client, body: &[u8]) -> (u16, Vec<u8>) {
    let length = body.len();
    client.send(format!("POST /echo?a=b HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n")).await;
    // Both at once: nothing in between holds all of it.
    let mut sent = 0;
    while sent < length {
        let end = (sent + 50_000).min(length);
        client.send(&body[sent..end]).await;
        sent = end;
    }
    let response = client.response().await;
    (response.status, response.body)
}

#[tokio::test]
async fn https_with_an_authority_of_its_own() {
    let certificates = Certificates::new();
    let origin = SecureOrigin::start(Speaks::Tls(&certificates, &["http/1.1"])).await;
    let proxy = proxy(&format!("https://{}", origin.address), &trusting(&certificates));
    let mut client = Client::connect(proxy.address).await;
    for _ in 0..3 {
        assert_eq!(echoed(&mut client, b"hello").await, (200, b"hello".to_vec()));
    }
    let seen = origin.seen();
    assert!(seen.iter().all(|seen| seen.connection == 0 && seen.version == Version::HTTP_11));
    assert_eq!(seen[0].headers["host"], "test");
}

/// Row 61.
#[tokio::test]
async fn who_can_not_prove_to_be_the_server_gets_nothing() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let origin = SecureOrigin::start(Speaks::Tls(&certificates, &["h2", "http/1.1"])).await;
    let url = format!("https://{}", origin.address);
    let trusted = trusting(&certificates);
    let wrong_name = format!("{}, server_name: example.com}}", trusted.strip_suffix('}').unwrap());
    let right_name = wrong_name.replace("example.com", "localhost");
    for (rest, status) in [
        ("", 502),
        (&*trusting(&others), 502),
        (&wrong_name, 502),
        (&trusted, 200),
        (&right_name, 200),
        (&format!("{trusted}, retries: 3"), 200),
    ] {
        let proxy = proxy(&url, rest);
        assert_eq!(get(proxy.address, "/").await.status, status, "{rest}");
    }
    assert_eq!(origin.seen().len(), 3);
    // A server without TLS proves nothing either.
    let plain = crate::support::origin::Origin::hello().await;
    let proxy = proxy(&format!("https://{}", plain.address), ", timeout: {connect: 500ms}");
    assert!([502, 504].contains(&get(proxy.address, "/").await.status));
    assert!(plain.seen().is_empty());
    // The log says why.
    let mut program = Program::run(&["--upstream", &url, "--limit", "9/s"]).await;
    assert_eq!(program.get("/").await.status, 502);
    program.log.line(&["WARN", "can't be reached", "TLS", "certificate"]).await;
}

/// Row 63: an answer without a length ends when the connection does, and who ends it has to prove to be the server.
#[tokio::test]
async fn an_answer_that_anybody_could_have_cut_off_is_not_whole() {
    let certificates = Certificates::new();
    let acceptor = crate::support::secure_origin::acceptor(&certificates, &["http/1.1"], false);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut tls) = acceptor.accept(socket).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(tls.read_u8().await.unwrap());
            }
            tls.write_all(b"HTTP/1.1 200 OK\r\n\r\nas far as it goes").await.unwrap();
            tls.flush().await.unwrap();
            if head.starts_with(b"GET /whole") {
                tls.shutdown().await.unwrap();
            }
        }
    });
    let proxy = proxy(&format!("https://{address}"), &trusting(&certificates));
    for (path, whole) in [("/whole", true), ("/cut", false)] {
        let mut client = Client::connect(proxy.address).await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")).await;
        let answer = String::from_utf8(client.rest().await).unwrap();
        assert!(answer.contains("as far as it goes\r\n"), "{answer}");
        assert_eq!(answer.ends_with("\r\n0\r\n\r\n"), whole, "{path}: {answer}");
    }
    served.abort();
}

#[tokio::test]
async fn servers_that_want_a_certificate_are_shown_one() {
    let certificates = Certificates::new();
    let origin = SecureOrigin::start(Speaks::Mutual(&certificates, &["http/1.1"])).await;
    let url = format!("https://{}", origin.address);
    let trusted = trusting(&certificates);
    let without = proxy(&url, &trusted);
    assert_eq!(get(without.address, "/").await.status, 502);
    let (cert, key) = (certificates.certificate(), certificates.key());
    let rest =
        format!("{}, cert: {}, key: {}}}", trusted.strip_suffix('}').unwrap(), cert.display(), key.display());
    let with = proxy(&url, &rest);
    assert_eq!(get(with.address, "/").await.status, 200);
}

/// By ALPN and by prior knowledge: many requests share a connection, bodies stream, trailers come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_to_servers() {
    let certificates = Certificates::new();
    let h2c = SecureOrigin::start(Speaks::H2c).await;
    let alpn = SecureOrigin::start(Speaks::Tls(&certificates, &["h2", "http/1.1"])).await;
    for (origin, url, rest) in [
        (&h2c, format!("h2c://{}", h2c.address), String::new()),
        (&alpn, format!("https://{}", alpn.address), trusting(&certificates)),
    ] {
        let proxy = proxy(&url, &rest);
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..20 {
            let address = proxy.address;
            clients.spawn(async move {
                let mut client = Client::connect(address).await;
                let body = vec![number; 100_000];
                assert_eq!(echoed(&mut client, &body).await, (200, body));
                // And another on the same.
                assert_eq!(echoed(&mut client, b"").await, (200, Vec::new()));
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        let seen = origin.seen();
        assert_eq!(seen.len(), 40);
        assert!(seen.iter().all(|seen| seen.connection == 0 && seen.version == Version::HTTP_2));
        let first = &seen[0];
        assert_eq!(
            (first.method.as_str(), first.uri.path(), first.uri.query()),
            ("POST", "/echo", Some("a=b"))
        );
        assert_eq!(first.uri.authority().unwrap().as_str(), "test");
        assert_eq!(first.headers["x-forwarded-for"], "127.0.0.1");
        assert_eq!(first.headers["content-length"], "100000");
        for gone in ["host", "connection", "transfer-encoding", "te"] {
            assert!(!first.headers.contains_key(gone), "{gone}");
        }
    }
}

/// gRPC, as far as a client of HTTP/1.1 can say it: pieces go both ways as they come, and the status in the trailers.
#[tokio::test]
async fn trailers_and_pieces_pass_as_they_come() {
    let origin = SecureOrigin::start(Speaks::H2c).await;
    let proxy = proxy(&format!("h2c://{}", origin.address), "");
    let mut client = Client::connect(proxy.address).await;
    client
        .send(
            "POST /pkg.Service/Method HTTP/1.1\r\nhost: test\r\nte: trailers\r\nconnection: te\r\n\
             content-type: application/grpc+proto\r\ntransfer-encoding: chunked\r\n\r\n4\r\nping\r\n",
        )
        .await;
    let mut came = String::new();
    let mut more = async |client: &mut Client, wanted: &str| {
        crate::support::soon(wanted, async {
            while !came.contains(wanted) {
                let mut buffer = [0; 1000];
                let read = tokio::io::AsyncReadExt::read(&mut client.socket, &mut buffer).await.unwrap();
                assert!(read > 0, "{came}");
                came += std::str::from_utf8(&buffer[..read]).unwrap();
            }
        })
        .await;
    };
    more(&mut client, "ping").await;
    client.send("4\r\npong\r\n").await;
    more(&mut client, "pong").await;
    client.send("0\r\n\r\n").await;
    more(&mut client, "grpc-status: 0\r\n").await;
    let seen = &origin.seen()[0];
    assert_eq!(seen.headers["te"], "trailers");
    assert_eq!(seen.headers["content-type"], "application/grpc+proto");
}

#[tokio::test]
async fn a_client_that_goes_away_resets_its_stream_and_no_other() {
    let origin = SecureOrigin::start(Speaks::H2c).await;
    let proxy = proxy(&format!("h2c://{}", origin.address), "");
    let mut leaving = Client::connect(proxy.address).await;
    leaving.send("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\nsome").await;
    let mut hanging = Client::connect(proxy.address).await;
    hanging.send("GET /hang HTTP/1.1\r\nhost: test\r\n\r\n").await;
    until("both to arrive", async || origin.seen().len() == 2).await;
    drop((leaving, hanging));
    let mut client = Client::connect(proxy.address).await;
    for _ in 0..3 {
        assert_eq!(echoed(&mut client, b"still here").await, (200, b"still here".to_vec()));
    }
    assert!(origin.seen().iter().all(|seen| seen.connection == 0));
}

/// Row 53: a server that goes away takes its connections along; nobody notices.
#[tokio::test]
async fn a_connection_that_ended_is_replaced() {
    let origin = SecureOrigin::start(Speaks::H2c).await;
    let address = origin.address;
    let proxy = proxy(&format!("h2c://{address}"), "");
    assert_eq!(get(proxy.address, "/").await.status, 200);
    drop(origin);
    until("the server to be gone", async || get(proxy.address, "/").await.status == 502).await;
    let again = crate::support::secure_origin::SecureOrigin::start_at(address, Speaks::H2c).await;
    until("the server to be back", async || get(proxy.address, "/").await.status == 200).await;
    assert!(!again.seen().is_empty());
}

#[tokio::test]
async fn answers_that_do_not_come_are_504_over_http_2_too() {
    let origin = SecureOrigin::start(Speaks::H2c).await;
    let proxy = proxy(&format!("h2c://{}", origin.address), ", timeout: {response: 200ms}");
    let mut client = Client::connect(proxy.address).await;
    assert_eq!(client.get("/hang").await.status, 504);
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn health_checks_speak_as_requests_do() {
    let certificates = Certificates::new();
    let h2c = SecureOrigin::start(Speaks::H2c).await;
    let tls = SecureOrigin::start(Speaks::Tls(&certificates, &["h2"])).await;
    let check = ", health_check: {path: /up, interval: 50ms}";
    let first = proxy(&format!("h2c://{}", h2c.address), check);
    let second = proxy(&format!("https://{}", tls.address), &format!("{}{check}", trusting(&certificates)));
    for origin in [&h2c, &tls] {
        until("checks", async || origin.seen().len() > 2).await;
        let seen = &origin.seen()[0];
        assert_eq!((seen.method.as_str(), seen.uri.path(), seen.version), ("GET", "/up", Version::HTTP_2));
    }
    tokio::time::timeout(Duration::from_secs(10), async {
        for proxy in [&first, &second] {
            assert_eq!(get(proxy.address, "/").await.status, 200);
        }
    })
    .await
    .unwrap();
}
