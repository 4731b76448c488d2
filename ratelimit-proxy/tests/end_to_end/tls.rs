//! TLS with clients: what passes, what is refused, certificates that change (docs/faults.md, D).

use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use ratelimit_core::{Limit, Rate};
use ratelimit_proxy::config::words::{KeyPart, Source};
use ratelimit_proxy::config::{CertificateFiles, LimitConfig, Listener, Missing, TlsConfig, load_str};
use ratelimit_proxy::identity::token::{JwtConfig, KeySource};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::certs::Authority;
use crate::support::origin::{Origin, Reply};
use crate::support::program::{Program, metric};
use crate::support::proxy::{Proxy, Setup};
use crate::support::raw_client::Client;
use crate::support::tokens::{SECRET, Signer, b64, fingerprint};
use crate::support::{soon, until};

fn listener(tls: TlsConfig) -> Listener {
    Listener { tls: Some(tls), ..Listener::from(std::net::SocketAddr::from(([127, 0, 0, 1], 0))) }
}

/// Runs curl with the authority's certificate and these arguments; `{port}` is the proxy's.
async fn curl(authority: &Authority, proxy: &Proxy, arguments: &[&str]) -> Output {
    let port = proxy.address.port().to_string();
    let arguments = arguments.iter().map(|argument| argument.replace("{port}", &port));
    let mut command = Command::new("curl");
    command.arg("-sS").arg("--cacert").arg(authority.pem()).args(arguments).kill_on_drop(true);
    soon("curl", command.output()).await.unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A connection under TLS, as a client with that certificate.
async fn connect(
    authority: &Authority,
    address: std::net::SocketAddr,
    name: &'static str,
    certificate: Option<&CertificateFiles>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.pem()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match certificate {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let chain = vec![CertificateDer::from_pem_file(&files.cert).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap()).unwrap()
        }
    };
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name).unwrap();
    soon("a handshake", TlsConnector::from(Arc::new(config)).connect(name, socket)).await
}

/// A GET on it, to the end of the connection or of the answer's head.
async fn get(stream: &mut TlsStream<TcpStream>, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        let read = soon("an answer", stream.read_buf(&mut answer)).await;
        if !matches!(read, Ok(1..)) {
            break;
        }
    }
    String::from_utf8(answer).unwrap()
}

/// The last request on it, with more fields, and the answer.
async fn get_last(mut stream: TlsStream<TcpStream>, fields: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon("an answer", stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn curl_speaks_both_and_the_upstream_is_told() {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let authority = Authority::new();
    let proxy = Setup { listen: Some(listener(authority.local())), ..Setup::default() }.start(origin.address);
    for (option, version, via) in
        [("--http2", "2", "2.0 ratelimit-proxy"), ("--http1.1", "1.1", "1.1 ratelimit-proxy")]
    {
        let url = "https://localhost:{port}/path";
        let output = curl(&authority, &proxy, &[option, "-w", " %{http_version}", url]).await;
        assert_eq!(text(&output), format!("hello {version}"));
        let seen = origin.seen().pop().unwrap();
        assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
        assert!(seen.field("forwarded").unwrap().ends_with(";proto=https"), "{}", seen.head);
        assert_eq!(seen.field("via"), Some(via));
    }
    let output = curl(&authority, &proxy, &["--http1.1", "http://localhost:{port}/"]).await;
    assert!(!output.status.success(), "plain on a port with TLS: {output:?}");
}

/// A client in the middle of an upload reads its 429, whichever HTTP it speaks.
#[tokio::test]
async fn a_denied_upload_is_answered_over_tls() {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let authority = Authority::new();
    let setup = Setup::limits([Limit::new("uploads", Rate::per_hour(1))]);
    let proxy = Setup { listen: Some(listener(authority.local())), ..setup }.start(origin.address);
    let large = authority.path("large");
    std::fs::write(&large, vec![b'x'; 5 << 20]).unwrap();
    let data = format!("@{}", large.display());
    let url = "https://localhost:{port}/";
    assert_eq!(text(&curl(&authority, &proxy, &[url]).await), "hello");
    for option in ["--http1.1", "--http2"] {
        let arguments = [option, "-o", "/dev/null", "-w", "%{http_code}", "--data-binary", &data, url];
        let output = curl(&authority, &proxy, &arguments).await;
        assert_eq!(String::from_utf8_lossy(&output.stdout), "429", "{option}: {output:?}");
    }
}

async fn shown(proxy: &Proxy, arguments: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &proxy.address.to_string()]).args(arguments);
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = soon("openssl", command.output()).await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Row 60.
#[tokio::test]
async fn the_name_asked_for_chooses_the_certificate() {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let authority = Authority::new();
    let certificates =
        vec![authority.server("a", &["a.test", "localhost"]), authority.server("b", &["b.test", "*.b.test"])];
    let tls = TlsConfig { certificates: certificates.clone(), client_ca: None };
    let proxy = Setup { listen: Some(listener(tls)), ..Setup::default() }.start(origin.address);
    let pem = |number: usize| std::fs::read_to_string(&certificates[number].cert).unwrap().replace('\r', "");
    for (arguments, number) in [
        (&["-servername", "a.test"][..], 0),
        (&["-servername", "B.test"], 1),
        (&["-servername", "x.b.test"], 1),
        (&["-servername", "x.y.b.test"], 0),
        (&["-servername", "unknown"], 0),
        (&["-noservername"], 0),
    ] {
        let shown = shown(&proxy, &[&["-showcerts"], arguments].concat()).await;
        assert!(shown.contains(pem(number).trim()), "{arguments:?}: {shown}");
    }
    // A request for a host with another certificate has come to the wrong place.
    for (version, host, status) in [
        ("--http1.1", "b.test", "421"),
        ("--http2", "b.test", "421"),
        ("--http2", "a.test", "200"),
        ("--http2", "localhost", "200"),
        ("--http2", "unknown", "200"),
    ] {
        let host = format!("host: {host}");
        let arguments =
            [version, "-o", "/dev/null", "-w", "%{http_code}", "-H", &host, "https://localhost:{port}/"];
        assert_eq!(text(&curl(&authority, &proxy, &arguments).await), status, "{version} {host}");
    }
}

/// Rows 57 and 58.
#[tokio::test]
async fn handshakes_that_never_end_or_do_not_fit_are_over_soon() {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let authority = Authority::new();
    let mut setup = Setup { listen: Some(listener(authority.local())), ..Setup::default() };
    setup.timeouts.head = Duration::from_millis(500);
    setup.max_connections = 2;
    let proxy = setup.start(origin.address);
    for bytes in [&b""[..], b"\x16", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03random"] {
        let mut client = Client::connect(proxy.address).await;
        client.send(bytes).await;
        // Another beside it: places are free again, or this would wait for ever.
        let mut other = Client::connect(proxy.address).await;
        assert!(client.is_closed().await);
        assert!(other.is_closed().await);
    }
    let errors = || {
        let totals = proxy.shared.metrics.totals();
        ratelimit_proxy::telemetry::metrics::ProtocolError::ALL
            .iter()
            .zip(totals.errors)
            .map(|((_, name), count)| (*name, count))
            .collect::<std::collections::HashMap<_, _>>()
    };
    until("six timeouts", async || errors()["timeout"] == 6).await;
    for (number, arguments) in
        [&["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"][..], &["-alpn", "spdy/3"]].into_iter().enumerate()
    {
        let shown = shown(&proxy, arguments).await;
        assert!(shown.contains("SSL alert number"), "{arguments:?}: {shown}");
        until("it to be counted", async || errors()["tls"] > u64::try_from(number).unwrap()).await;
    }
    let output = curl(&authority, &proxy, &["https://localhost:{port}/"]).await;
    assert_eq!(text(&output), "hello");
}

/// Row 59, at start.
#[test]
fn certificates_that_nobody_would_believe_are_refused() {
    let authority = Authority::new();
    let faults = |files: &str| {
        let text = format!(
            "upstream: http://127.0.0.1:1\nlimits: []\nlisten: [{{address: 127.0.0.1:0, tls: {files}}}]"
        );
        match load_str(&text, "test.yaml", &|_| None, Path::new("")) {
            Ok(loaded) => loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
            Err(faults) => faults.iter().map(|fault| format!("refused: {fault}\n")).collect(),
        }
    };
    let written = |files: &CertificateFiles| {
        format!("{{cert: \"{}\", key: \"{}\"}}", files.cert.display(), files.key.display())
    };
    let (one, other) = (authority.server("one", &["one"]), authority.server("other", &["other"]));
    assert!(!faults(&written(&one)).contains("refused"), "{}", faults(&written(&one)));
    let mismatch = CertificateFiles { key: other.key.clone(), ..one.clone() };
    assert!(faults(&written(&mismatch)).contains("not the key of"), "{}", faults(&written(&mismatch)));
    let expired = authority.expired("old", &["old"]);
    assert!(faults(&written(&expired)).contains("has expired"), "{}", faults(&written(&expired)));
    let swapped = CertificateFiles { cert: one.key.clone(), key: one.cert.clone() };
    assert!(faults(&written(&swapped)).contains("no certificate in PEM"), "{}", faults(&written(&swapped)));
    let absent = CertificateFiles { cert: authority.path("absent"), ..one.clone() };
    // It may be there where the proxy runs.
    let told = faults(&written(&absent));
    assert!(told.contains("can't read") && !told.contains("refused"), "{told}");
    let list = format!("[{}, {}]", written(&one), written(&other));
    assert!(!faults(&list).contains("refused"));
    let missing = format!("{{cert: \"{}\"}}", one.cert.display());
    assert!(
        faults(&missing).contains("refused: test.yaml:3:38: listen[0].tls: key is missing"),
        "{}",
        faults(&missing)
    );
}

/// Row 62: who has no certificate of the authority does not come in; who has one is counted by its subject.
#[tokio::test]
async fn clients_are_known_by_their_certificates() {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let authority = Authority::new();
    let tls = TlsConfig { client_ca: Some(authority.pem()), ..authority.local() };
    let rule = LimitConfig {
        key: vec![KeyPart::One(Source::TlsClient)],
        ..LimitConfig::new(Limit::new("certified", Rate::per_hour(1)))
    };
    let proxy = Setup { listen: Some(listener(tls)), ..Setup::rules([rule]) }.start(origin.address);
    for (name, status) in [("ann", 200), ("bob", 200), ("ann", 429), ("ann, O=Example", 200)] {
        let files = authority.client(name);
        let stream = connect(&authority, proxy.address, "localhost", Some(&files)).await.unwrap();
        let answer = get_last(stream, "").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {answer}");
    }
    let stranger = Authority::new().client("ann");
    for certificate in [None, Some(&stranger)] {
        // Under TLS 1.3 the client learns of it when it reads.
        if let Ok(mut stream) = connect(&authority, proxy.address, "localhost", certificate).await {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.ok();
            let error = soon("an alert", stream.read_u8()).await.unwrap_err();
            assert!(error.to_string().contains("alert"), "{error}");
        }
    }
    assert_eq!(origin.seen().len(), 3);
}

/// Row 59, at reload: new files are in force for new connections, old connections stay, and files that are wrong
/// change nothing.
#[tokio::test]
async fn certificates_are_read_again_when_they_change() {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let authority = Authority::new();
    // As Kubernetes mounts secrets: the directory is a link that is swapped.
    let (old, new, broken) = ("old", "new", "broken");
    for name in [old, new, broken] {
        std::fs::create_dir(authority.path(name)).unwrap();
        authority.server(&format!("{name}/tls"), &["localhost"]);
    }
    std::fs::write(authority.path("broken/tls.key"), "no key").unwrap();
    let point = |to: &str| {
        std::os::unix::fs::symlink(authority.path(to), authority.path("link.new")).unwrap();
        std::fs::rename(authority.path("link.new"), authority.path("link")).unwrap();
    };
    point(old);
    let config = authority.path("config.yaml");
    let listen = "listen: {address: 127.0.0.1:0, tls: {cert: link/tls.pem, key: link/tls.key}}";
    let upstream = origin.address;
    std::fs::write(
        &config,
        format!("upstream: http://{upstream}\nlimits: []\n{listen}\nadmin: 127.0.0.1:0\n"),
    )
    .unwrap();
    let mut program = Program::configured(&config).await;
    let leaf = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let file = |name: &str| {
        CertificateDer::from_pem_file(authority.path(&format!("{name}/tls.pem"))).unwrap().to_vec()
    };
    let mut first = connect(&authority, program.proxy, "localhost", None).await.unwrap();
    assert_eq!(leaf(&first), file(old));
    assert!(get(&mut first, "/").await.ends_with("hello"));

    point(broken);
    program.log.line(&["the old ones stay in force", "tls.key"]).await;
    let now = connect(&authority, program.proxy, "localhost", None).await.unwrap();
    assert_eq!(leaf(&now), file(old));

    point(new);
    program.log.line(&["certificates were read again"]).await;
    let mut now = connect(&authority, program.proxy, "localhost", None).await.unwrap();
    assert_eq!(leaf(&now), file(new));
    assert!(get(&mut now, "/").await.ends_with("hello"));
    assert!(get(&mut first, "/again").await.ends_with("hello"), "the old connection lives");
    assert!(metric(&program, "ratelimit_config_reloads_total{outcome=\"refused\"}").await >= Some(1.0));
}

/// A token that is bound to a certificate (RFC 8705) is worth nothing in other hands.
#[tokio::test]
async fn a_bound_token_is_believed_from_its_own_certificate_only() {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let authority = Authority::new();
    let tls = TlsConfig { client_ca: Some(authority.pem()), ..authority.local() };
    let rule = LimitConfig {
        key: vec![KeyPart::One(Source::Jwt("sub".to_owned()))],
        missing: Missing::Deny,
        ..LimitConfig::new(Limit::new("bound", Rate::per_hour(100)))
    };
    let jwt = JwtConfig { bound: true, ..JwtConfig::new(KeySource::Secret(SECRET.to_vec())) };
    let setup = Setup { listen: Some(listener(tls)), jwt: Some(jwt), ..Setup::rules([rule]) };
    let proxy = setup.start(origin.address);
    let (ann, bob) = (authority.client("ann"), authority.client("bob"));
    let print = b64(fingerprint(&CertificateDer::from_pem_file(&ann.cert).unwrap()));
    let token = Signer::Secret(SECRET.to_vec())
        .token(None, serde_json::json!({"sub": "ann", "cnf": {"x5t#S256": print}}));
    for (certificate, status) in [(&ann, 200), (&bob, 429)] {
        let stream = connect(&authority, proxy.address, "localhost", Some(certificate)).await.unwrap();
        let answer = get_last(stream, &format!("Authorization: Bearer {token}\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}
