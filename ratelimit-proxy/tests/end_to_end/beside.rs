//! Other proxies ask about each request (`/auth`): a real nginx with the configuration of `docs/beside-nginx.md`;
//! Traefik and Caddy by the requests that they send, recorded.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::support::origin::Origin;
use crate::support::program::{Program, ask};
use crate::support::raw_client::{Client, Response};
use crate::support::until;

/// The block of that kind in a page of `docs/`.
pub(crate) fn block(page: &str, kind: &str) -> String {
    block_of(&format!("docs/{page}"), kind)
}

/// The block of that kind in a page of the documentation.
pub(crate) fn block_of(page: &str, kind: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join(page)).unwrap();
    let mut blocks = text.split("```").skip(1).step_by(2);
    let found = blocks.find_map(|block| {
        let (first, rest) = block.split_once('\n')?;
        let named = rest.lines().next()?.trim_start_matches("# ");
        (first == kind || named == kind).then(|| rest.to_owned())
    });
    found.unwrap_or_else(|| panic!("{page} has no {kind}"))
}

/// A port that is free at the moment.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The proxy as a page configures it, on free ports, in front of that service.
pub(crate) async fn configured(page: &str, service: SocketAddr) -> (Program, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let text = block(page, "limits.yaml").replace("127.0.0.1:9000", &service.to_string());
    let text = text.replace("rls: 127.0.0.1:8081", "rls: 127.0.0.1:0");
    let file = directory.path().join("limits.yaml");
    std::fs::write(&file, text).unwrap();
    (Program::run(&["--config", file.to_str().unwrap()]).await, directory)
}

/// A program of somebody else's. Killed when dropped.
pub(crate) struct Beside {
    pub(crate) address: SocketAddr,
    _child: Child,
    _directory: tempfile::TempDir,
}

impl Beside {
    /// Started with its configuration as `{}` among the arguments, and waited for.
    pub(crate) async fn start(
        directory: tempfile::TempDir,
        port: u16,
        program: &str,
        arguments: &[&str],
        configuration: &str,
    ) -> Self {
        let file = directory.path().join("beside.conf");
        std::fs::write(&file, configuration).unwrap();
        let (file, inside) = (file.to_str().unwrap().to_owned(), directory.path().to_str().unwrap());
        let arguments = arguments.iter().map(|word| word.replace("{}", &file).replace("{dir}", inside));
        let log = std::fs::File::create(directory.path().join("stderr")).unwrap();
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}; ./test installs it"));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        until(program, async || {
            let told = || std::fs::read_to_string(directory.path().join("stderr")).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "{program} ended: {}", told());
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
        Self { address, _child: child, _directory: directory }
    }
}

async fn nginx(admin: SocketAddr, service: SocketAddr) -> Beside {
    let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
    let inside = directory.path().display().to_string();
    let server = block("beside-nginx.md", "nginx")
        .replace("127.0.0.1:9090", &admin.to_string())
        .replace("127.0.0.1:9000", &service.to_string())
        .replace("listen 8000", &format!("listen 127.0.0.1:{port}"));
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let paths: String = paths.iter().map(|name| format!("{name}_temp_path {inside}/{name};\n")).collect();
    let whole = format!(
        "daemon off;\nmaster_process off;\npid {inside}/pid;\nerror_log stderr;\nevents {{}}\n\
         http {{\naccess_log off;\n{paths}{server}}}\n"
    );
    Beside::start(directory, port, "nginx", &["-p", "{dir}", "-c", "{}"], &whole).await
}

#[tokio::test]
async fn nginx_asks_about_each_request() {
    let origin = Origin::hello().await;
    let (program, _limits) = configured("beside-nginx.md", origin.address).await;
    let nginx = nginx(program.admin, origin.address).await;
    for left in (0..5).rev() {
        let response = ask(nginx.address, "POST", "/login?next=%2F", "X-Own: 1\r\n").await;
        assert_eq!((response.status, response.text()), (200, "hello"), "{response:?}");
        let expected = format!("\"login\";r={left};t=");
        assert!(response.field("ratelimit").unwrap().starts_with(&expected), "{response:?}");
        assert_eq!(response.field("ratelimit-policy"), Some("\"login\";q=5;w=60, \"per-client\";q=100;w=1"));
    }
    assert_eq!(origin.seen().len(), 5);
    assert_eq!(origin.seen()[0].field("x-own"), Some("1"));
    // Whatever the client says of itself, and however it writes the path.
    for (path, fields) in [
        ("/login", ""),
        ("/%6cogin/", ""),
        ("/login", "X-Forwarded-For: 9.9.9.9\r\nX-Original-URI: /\r\nX-Forwarded-Uri: /\r\n"),
        ("/login", "X-Forwarded-Method: GET\r\nX-Forwarded-Host: other\r\n"),
    ] {
        let denied = ask(nginx.address, "POST", path, fields).await;
        assert_eq!(denied.status, 429, "{path} {fields} {denied:?}");
        let wait: u32 = denied.field("retry-after").unwrap().parse().unwrap();
        assert!((1..=12).contains(&wait), "{denied:?}");
        assert_eq!(denied.field("content-type"), Some("application/problem+json"));
        assert!(denied.text().contains("#quota-exceeded"), "{denied:?}");
        assert!(denied.field("ratelimit").unwrap().starts_with("\"login\";r=0"));
    }
    assert_eq!(origin.seen().len(), 5, "nothing that was denied came through");
    assert_eq!(ask(nginx.address, "GET", "/login", "").await.status, 200);
    let ambiguous = ask(nginx.address, "GET", "/a%2fb", "").await;
    assert_eq!(ambiguous.status, 500, "what can be read in two ways is our 400, and nginx knows none");
    // Without the proxy nobody can say.
    drop(program);
    assert_eq!(ask(nginx.address, "GET", "/", "").await.status, 500);
}

/// Sends a recorded question.
async fn sent(admin: SocketAddr, request: &str) -> Response {
    let mut client = Client::connect(admin).await;
    client.send(request.replace('\n', "\r\n").replace("ADMIN", &admin.to_string()) + "\r\n").await;
    client.response_to("GET").await.unwrap()
}

fn traefik(method: &str, uri: &str, more: &str) -> String {
    format!(
        "GET /auth HTTP/1.1\nHost: ADMIN\nUser-Agent: curl/8.14.1\nAccept: */*\nX-Forwarded-For: 192.0.2.7\n\
         X-Forwarded-Host: api.example.com\nX-Forwarded-Method: {method}\nX-Forwarded-Port: 443\n\
         X-Forwarded-Proto: https\nX-Forwarded-Server: traefik\nX-Forwarded-Uri: {uri}\nX-Real-Ip: 192.0.2.7\n\
         {more}Accept-Encoding: gzip\n"
    )
}

fn caddy(method: &str, uri: &str, more: &str) -> String {
    format!(
        "GET /auth HTTP/1.1\nHost: api.example.com:8000\nUser-Agent: curl/8.14.1\nAccept: */*\n\
         X-Forwarded-For: 192.0.2.8\nX-Forwarded-Host: api.example.com:8000\nX-Forwarded-Method: {method}\n\
         X-Forwarded-Proto: http\nX-Forwarded-Uri: {uri}\n{more}Via: 1.1 Caddy\nAccept-Encoding: gzip\n"
    )
}

#[tokio::test]
async fn traefik_and_caddy_ask_about_each_request() {
    type Asks = fn(&str, &str, &str) -> String;
    let origin = Origin::hello().await;
    for (page, asks) in [("beside-traefik.md", traefik as Asks), ("beside-caddy.md", caddy)] {
        let (program, _limits) = configured(page, origin.address).await;
        for left in (0..5).rev() {
            let allowed = sent(program.admin, &asks("POST", "/login?a=1", "")).await;
            assert_eq!((allowed.status, allowed.body.len()), (200, 0), "{page} {allowed:?}");
            assert!(allowed.field("ratelimit").unwrap().starts_with(&format!("\"login\";r={left};t=")));
        }
        let denied = sent(program.admin, &asks("POST", "/login", "")).await;
        assert_eq!(denied.status, 429, "{page}");
        assert_eq!(denied.field("content-type"), Some("application/problem+json"));
        assert!(denied.field("retry-after").is_some() && denied.text().contains("\"login\""), "{denied:?}");
        // Another method, another path, another client: the address is the one that the proxy tells.
        assert_eq!(sent(program.admin, &asks("GET", "/login", "")).await.status, 200);
        assert_eq!(sent(program.admin, &asks("POST", "/logins", "")).await.status, 200);
        let other = asks("POST", "/login", "").replace("192.0.2.", "198.51.100.");
        assert_eq!(sent(program.admin, &other).await.status, 200);
        // What the client writes itself.
        for more in ["X-Original-URI: /\n", "X-Original-Method: GET\n", "X-Forwarded-Uri: /\n"] {
            let spoofed = sent(program.admin, &asks("POST", "/login", more)).await;
            assert_eq!(spoofed.status, 400, "{page} {more} {spoofed:?}");
            assert_eq!(spoofed.field("content-type"), Some("application/problem+json"));
        }
        // Of a gRPC call too the answer is a status that the asking proxy understands.
        let call = asks("POST", "/login", "Content-Type: application/grpc\n");
        assert_eq!(sent(program.admin, &call).await.status, 429);
        assert_eq!(origin.seen().len(), 0);
    }
}

#[tokio::test]
async fn questions_about_requests_that_are_none() {
    let origin = Origin::hello().await;
    let (program, _limits) = configured("beside-caddy.md", origin.address).await;
    let auth = async |method: &str, fields: &str| ask(program.admin, method, "/auth", fields).await.status;
    assert_eq!(auth("GET", "").await, 400, "a limit looks at the path, and none is told");
    for (fields, status) in [
        ("X-Forwarded-Uri: /\r\n", 200),
        ("X-Original-URI: /a?b=c\r\nX-Original-Method: PATCH\r\n", 200),
        ("X-Forwarded-Uri: login\r\n", 400),
        ("X-Forwarded-Uri: /%2f\r\n", 400),
        ("X-Forwarded-Uri: \r\n", 400),
        ("X-Forwarded-Uri: /\r\nX-Forwarded-Method: G T\r\n", 400),
        ("X-Forwarded-Uri: /\r\nX-Forwarded-Method: CONNECT\r\n", 405),
        ("X-Forwarded-Uri: /\r\nX-Forwarded-Host: a, b\r\n", 400),
    ] {
        assert_eq!(auth("GET", fields).await, status, "{fields}");
    }
    assert_eq!(auth("POST", "X-Forwarded-Uri: /\r\nContent-Length: 0\r\n").await, 200);
    assert_eq!(auth("DELETE", "X-Forwarded-Uri: /\r\n").await, 405);
}

/// Nobody tells how a request ended: permits are not taken, for they would never come back.
#[tokio::test]
async fn what_the_end_of_a_request_decides() {
    let origin = Origin::hello().await;
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let text = format!(
        "upstream: http://{}
limits:
  - {{name: under-way, concurrency: 1}}
  - {{name: failed, rate: 3/h, count: {{status: 401}}}}
  - {{name: kept, rate: 100/h, cost: {{reserve: 10, actual: {{response_header: x-used}}}}}}
  - {{name: given-back, rate: 100/h, cost: {{reserve: 10, actual: {{response_header: x-used}}, if_unknown: refund}}}}
",
        origin.address
    );
    std::fs::write(file.path(), text).unwrap();
    let program = Program::run(&["--config", file.path().to_str().unwrap()]).await;
    for _ in 0..3 {
        assert_eq!(program.admin("/auth").await.status, 200);
    }
    let denied = program.admin("/auth").await;
    assert_eq!(denied.status, 429);
    assert!(denied.text().contains(r#""violated-policies":["failed"]"#), "{denied:?}");
    let left = async |name: &str| {
        let body = format!(r#"{{"limit": "{name}", "cost": 0}}"#);
        crate::rls::post(program.admin, "/api/check", &body).await.1["remaining"].as_u64().unwrap()
    };
    assert_eq!((left("kept").await, left("given-back").await), (70, 100));
}
