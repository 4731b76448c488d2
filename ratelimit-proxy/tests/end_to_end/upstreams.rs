//! Several upstreams, and several servers of one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::support::origin::{Origin, Reply, Seen};
use crate::support::program::{Program, ask as ask_admin, metric};
use crate::support::proxy::Proxy;
use crate::support::raw_client::{Client, Response, ask, expect, get};
use crate::support::until;

/// Origins that say their number.
async fn numbered(count: usize) -> Vec<Origin> {
    let mut origins = Vec::new();
    for number in 0..count {
        origins.push(Origin::start(move |_| Reply::ok(&number.to_string())).await);
    }
    origins
}

/// `servers` of an upstream.
fn list(addresses: impl IntoIterator<Item = SocketAddr>) -> String {
    let urls: Vec<_> = addresses.into_iter().map(|address| format!("http://{address}")).collect();
    format!("[{}]", urls.join(", "))
}

fn all(origins: &[Origin]) -> String {
    list(origins.iter().map(|origin| origin.address))
}

/// An upstream for everything.
fn proxy(servers: &str, rest: &str) -> Proxy {
    Proxy::of(&format!("limits: []\nupstreams: [{{servers: {servers}{rest}}}]"))
}

/// An address where nobody listens, and nobody else can.
fn nowhere() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    socket
}

fn address(socket: &TcpSocket) -> SocketAddr {
    socket.local_addr().unwrap()
}

/// How often each answer came.
async fn answers(address: SocketAddr, requests: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut client = Client::connect(address).await;
    for _ in 0..requests {
        *counts.entry(text(&client.get("/").await)).or_default() += 1;
    }
    counts
}

fn text(response: &Response) -> String {
    assert_eq!(response.status, 200, "{}{}", response.head, response.text());
    response.text().to_owned()
}

#[tokio::test]
async fn the_first_match_takes_a_request_and_where_there_is_none_it_is_404() {
    let origins = numbered(3).await;
    let server = |number: usize| format!("http://{}", origins[number].address);
    let proxy = Proxy::of(&format!(
        "limits: [{{name: all, rate: 6/h}}]
upstreams:
  - {{match: {{path: '/api/v2/**'}}, servers: {}}}
  - {{match: {{path: '/api/**'}}, servers: {}}}
  - {{match: {{host: '*.example.com'}}, servers: {}}}",
        server(0),
        server(1),
        server(2)
    ));
    for (request, number) in [
        ("GET /api/v2/x", "0"),
        // Other spellings of that path go where it goes, as that path.
        ("GET //api/./v2/%78", "0"),
        ("GET /api/v1", "1"),
        ("GET /\nhost: WWW.example.com:8080", "2"),
        ("GET /api/v1\nhost: www.example.com", "1"),
    ] {
        assert_eq!(text(&ask(proxy.address, request).await), number, "{request}");
    }
    assert!(origins[0].seen().iter().all(|seen| seen.line() == "GET /api/v2/x HTTP/1.1"));
    let nowhere = ask(proxy.address, "GET /").await;
    assert_eq!((nowhere.status, nowhere.field("content-type")), (404, Some("application/problem+json")));
    // It counted like any other.
    expect(proxy.address, &[("GET /", 429)]).await;
}

/// An address where connections are neither taken nor refused: whoever could is busy for ever.
async fn black_hole() -> (std::net::SocketAddr, Vec<tokio::net::TcpStream>, tokio::net::TcpListener) {
    let socket = nowhere();
    let address = address(&socket);
    let listener = socket.listen(1).unwrap();
    let mut waiting = Vec::new();
    loop {
        let connect = tokio::net::TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(300), connect).await {
            Ok(connection) => waiting.push(connection.unwrap()),
            Err(_full) => return (address, waiting, listener),
        }
    }
}

/// Row 73.
#[tokio::test]
async fn a_server_that_swallows_connections_is_504_in_time_or_another_is_asked() {
    let origins = numbered(1).await;
    let (hole, _waiting, _listener) = black_hole().await;
    let alone = proxy(&list([hole]), ", timeout: {connect: 200ms}");
    let begun = std::time::Instant::now();
    assert_eq!(get(alone.address, "/").await.status, 504);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let both = proxy(&list([hole, origins[0].address]), ", timeout: {connect: 200ms}");
    for _ in 0..8 {
        assert_eq!(text(&get(both.address, "/").await), "0");
    }
}

#[tokio::test]
async fn servers_take_turns() {
    let origins = numbered(3).await;
    let proxy = proxy(&all(&origins), "");
    let counts = answers(proxy.address, 30).await;
    assert_eq!(
        counts,
        [("0", 10), ("1", 10), ("2", 10)].map(|(name, count)| (name.to_owned(), count)).into()
    );
    // Each on one connection that is kept.
    assert!(origins.iter().all(|origin| origin.record().accepted == 1));
}

#[tokio::test]
async fn the_server_with_the_fewest_requests_under_way_is_taken() {
    let hanging = |seen: &Seen| seen.line().contains("/hang");
    let mut origins = Vec::new();
    for number in 0..3 {
        let reply = move |seen: &Seen| {
            if hanging(seen) { Reply::hang() } else { Reply::ok(&number.to_string()) }
        };
        origins.push(Origin::start(reply).await);
    }
    let proxy = proxy(&all(&origins), ", balance: least_requests");
    // Two servers are busy.
    let mut clients = Vec::new();
    for busy in 1..=2 {
        let mut client = Client::connect(proxy.address).await;
        client.send("GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await;
        clients.push(client);
        until("the request to arrive", async || {
            origins.iter().filter(|origin| origin.seen().iter().any(hanging)).count() == busy
        })
        .await;
    }
    let free = origins.iter().position(|origin| origin.seen().is_empty()).unwrap();
    let counts = answers(proxy.address, 10).await;
    assert_eq!(counts, [(free.to_string(), 10)].into());
    // They are free once their requests are over, however these end.
    clients.clear();
    until("all servers to be taken", async || answers(proxy.address, 6).await.len() == 3).await;
}

#[tokio::test]
async fn a_value_decides_the_server_and_a_lost_one_moves_its_own_share() {
    let mut origins = numbered(3).await;
    let gone = Arc::new(AtomicBool::new(false));
    let is_gone = Arc::clone(&gone);
    let reply = move |_: &Seen| if is_gone.load(Ordering::Relaxed) { Reply::close() } else { Reply::ok("3") };
    origins.push(Origin::start(reply).await);
    let servers = all(&origins);
    let rest = ", balance: {hash: header.x-user}, retries: 3, timeout: {connect: 5s}";
    let proxy = proxy(&servers, rest);
    async fn of(proxy: &Proxy, user: usize) -> String {
        text(&ask(proxy.address, &format!("GET /\nx-user: user-{user}")).await)
    }
    let mut before = Vec::new();
    for user in 0..40 {
        before.push(of(&proxy, user).await);
    }
    // Another replica agrees.
    let other = self::proxy(&servers, rest);
    for (user, server) in before.iter().enumerate() {
        assert_eq!(*server, of(&other, user).await);
        assert_eq!(*server, of(&proxy, user).await);
    }
    for number in 0..4 {
        assert!(before.contains(&number.to_string()), "{number} of {before:?}");
    }
    gone.store(true, Ordering::Relaxed);
    for (user, server) in before.iter().enumerate() {
        let after = of(&proxy, user).await;
        assert!(after != "3" && (after == *server || server == "3"), "{server} {after}");
    }
    // Without a value they take turns.
    assert_eq!(answers(other.address, 9).await.len(), 3);
}

#[tokio::test]
async fn each_upstream_has_its_own_patience() {
    let hang = Origin::start(|_| Reply::hang()).await;
    let slow = Origin::start(|_| {
        Reply::Take(Box::new(|mut socket| {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(400)).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                let _ = socket.write_all(answer).await;
            })
        }))
    })
    .await;
    let proxy = Proxy::of(&format!(
        "limits: []
upstreams:
  - {{match: {{path: /hasty}}, servers: http://{}, timeout: {{response: 100ms}}}}
  - {{servers: http://{}}}",
        hang.address, slow.address
    ));
    let mut client = Client::connect(proxy.address).await;
    assert_eq!(client.get("/hasty").await.status, 504);
    // On the same connection, as patient as ever.
    assert_eq!(client.get("/").await.status, 200);
}

/// Rows 72 and 78.
#[tokio::test]
async fn a_server_that_went_away_is_not_noticed() {
    let origins = numbered(1).await;
    let gone = nowhere();
    let servers = list([address(&gone), origins[0].address]);
    let proxy = proxy(&servers, "");
    // Nothing was sent, so it goes for any method, with a body or without.
    for _ in 0..4 {
        assert_eq!(text(&get(proxy.address, "/").await), "0");
        let mut client = Client::connect(proxy.address).await;
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody").await;
        assert_eq!(text(&client.response().await), "0");
        assert_eq!(origins[0].seen().pop().unwrap().body, b"body");
    }
    let without = self::proxy(&servers, ", retries: 0");
    let statuses = [get(without.address, "/").await.status, get(without.address, "/").await.status];
    assert!(statuses == [502, 200] || statuses == [200, 502], "{statuses:?}");
}

#[tokio::test]
async fn a_request_that_was_sent_is_tried_again_only_where_that_changes_nothing() {
    let origins = numbered(1).await;
    let closing = Origin::start(|_| Reply::close()).await;
    for (request, again) in [
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", true),
        ("DELETE / HTTP/1.1\r\nhost: a\r\n\r\n", true),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", false),
        ("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody", false),
    ] {
        let proxy = proxy(&list([closing.address, origins[0].address]), "");
        let (before, mut failed) = (closing.seen().len(), 0);
        for _ in 0..2 {
            let mut client = Client::connect(proxy.address).await;
            client.send(request).await;
            failed += usize::from(client.response().await.status == 502);
        }
        assert_eq!(closing.seen().len() - before, 1, "{request}");
        assert_eq!(failed, usize::from(!again), "{request}");
    }
}

#[tokio::test]
async fn an_answer_that_began_is_not_asked_for_again() {
    let half = Origin::start(|_| Reply::SendAndClose(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec())).await;
    let proxy = proxy(&list([half.address]), ", retries: 3");
    assert_eq!(get(proxy.address, "/").await.status, 502);
    assert_eq!(half.seen().len(), 1);
}

/// Row 81: all fail, and each request is tried ten times more. It is not, for long.
#[tokio::test]
async fn tries_have_a_budget() {
    let closing = Origin::start(|_| Reply::close()).await;
    let proxy = proxy(&list([closing.address]), ", retries: 10");
    for _ in 0..50 {
        assert_eq!(get(proxy.address, "/").await.status, 502);
    }
    // Ten at first, then one for every fifth.
    let sent = closing.seen().len();
    assert!((65..=71).contains(&sent), "{sent} for 50");
}

#[tokio::test]
async fn a_server_that_fails_is_left_out_for_a_while() {
    let origins = numbered(1).await;
    let closing = Origin::start(|_| Reply::close()).await;
    let proxy = proxy(&list([closing.address, origins[0].address]), "");
    for _ in 0..40 {
        assert_eq!(text(&get(proxy.address, "/").await), "0");
    }
    // Once more where the machine takes seconds for this.
    assert!((5..8).contains(&closing.seen().len()));
    // The last one stays, however it fails.
    let (one, two) = (Origin::start(|_| Reply::close()).await, Origin::start(|_| Reply::close()).await);
    let failing = self::proxy(&list([one.address, two.address]), ", retries: 0");
    for _ in 0..40 {
        assert_eq!(get(failing.address, "/").await.status, 502);
    }
    assert_eq!(one.seen().len() + two.seen().len(), 40);
}

/// A server that says its number, and whose `/healthz` says what is wanted.
async fn checked(number: usize, healthy: &Arc<AtomicBool>) -> Origin {
    let healthy = Arc::clone(healthy);
    Origin::start(move |seen| match (seen.line().contains("/healthz"), healthy.load(Ordering::Relaxed)) {
        (true, false) => Reply::raw("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"),
        _ => Reply::ok(&number.to_string()),
    })
    .await
}

fn checks(origin: &Origin) -> usize {
    origin.seen().iter().filter(|seen| seen.line().contains("/healthz")).count()
}

const CHECK: &str = ", health_check: {path: /healthz, interval: 50ms}";

#[tokio::test]
async fn a_server_whose_health_check_fails_gets_no_requests_until_it_succeeds() {
    let (well, ill) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let origins = [checked(0, &well).await, checked(1, &ill).await];
    let proxy = proxy(&all(&origins), CHECK);
    let only = |numbers: &'static [&str]| {
        let address = proxy.address;
        async move || answers(address, 8).await.keys().eq(numbers)
    };
    until("the failing server to be left out", only(&["0"])).await;
    let check = origins[1].seen().into_iter().find(|seen| seen.line().contains("/healthz")).unwrap();
    assert_eq!(check.line(), "GET /healthz HTTP/1.1");
    assert_eq!(check.field("host"), Some(origins[1].address.to_string().as_str()));
    ill.store(true, Ordering::Relaxed);
    until("the server to be back", only(&["0", "1"])).await;
    // Where all checks fail, they are more likely wrong than all servers: they go on.
    well.store(false, Ordering::Relaxed);
    until("the first to be left out", only(&["1"])).await;
    ill.store(false, Ordering::Relaxed);
    until("both to be taken", only(&["0", "1"])).await;
}

/// Rows 72 and 81.
#[tokio::test]
async fn where_no_server_is_up_it_is_503_and_over_as_soon_as_one_is() {
    let (one, two) = (nowhere(), nowhere());
    let proxy = proxy(&list([address(&one), address(&two)]), CHECK);
    until("503", async || get(proxy.address, "/").await.status == 503).await;
    let response = get(proxy.address, "/").await;
    assert_eq!((response.status, response.field("retry-after")), (503, Some("1")));
    // One comes.
    let listener = two.listen(100).unwrap();
    let served = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 1000]).await;
            let _ =
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        }
    });
    until("200", async || get(proxy.address, "/").await.status == 200).await;
    served.abort();
}

/// What is known of a server stays known, and what asks it goes on, when other things change.
#[tokio::test]
async fn operators_see_the_servers_and_a_reload_forgets_nothing_of_those_that_stay() {
    let (well, ill) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let origins = [checked(0, &well).await, checked(1, &ill).await, checked(2, &well).await];
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    let written = |servers: &str, limits: &str, interval: &str| {
        format!(
            "limits: [{limits}]\nupstreams: [{{match: {{headers: {{x-secret: s3cret}}}}, servers: {servers}, \
             health_check: {{path: /healthz, interval: {interval}}}}}]"
        )
    };
    // The first check is made at once, and no other comes.
    std::fs::write(&file, written(&all(&origins), "", "1h")).unwrap();
    let program = Program::run(&["--config", file.to_str().unwrap()]).await;
    let urls: Vec<_> = origins.iter().map(|origin| format!("http://{}", origin.address)).collect();
    let up = async |number: usize| {
        let name = format!("proxy_upstream_up{{upstream=\"header x-secret\",server=\"{}\"}}", urls[number]);
        metric(&program, &name).await
    };
    until("the server to be down", async || up(1).await == Some(0.0)).await;
    until("all to be asked", async || origins.iter().all(|origin| checks(origin) == 1)).await;
    assert_eq!((up(0).await, up(2).await), (Some(1.0), Some(1.0)));
    let page = program.admin("/api/upstreams").await;
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(page.text()).unwrap(),
        serde_json::json!({"upstreams": [{
            "match": "header x-secret",
            "balance": "round_robin",
            "retries": 1,
            "health_check": "/healthz",
            "servers": [
                {"url": urls[0], "state": "up"},
                {"url": urls[1], "state": "down"},
                {"url": urls[2], "state": "up"},
            ],
        }]})
    );
    // Another limit, one server less.
    std::fs::write(&file, written(&all(&origins[..2]), "{name: a, rate: 1000/s}", "1h")).unwrap();
    assert_eq!(ask_admin(program.admin, "POST", "/api/reload", "").await.status, 200);
    for _ in 0..10 {
        let response = ask(program.proxy, "GET /\nx-secret: s3cret").await;
        assert_eq!(text(&response), "0");
    }
    assert_eq!((up(1).await, up(2).await), (Some(0.0), None));
    assert_eq!(origins.iter().map(checks).collect::<Vec<_>>(), [1, 1, 1], "nobody was asked anew");
    // Other checks are asked at once.
    ill.store(true, Ordering::Relaxed);
    std::fs::write(&file, written(&all(&origins[..2]), "", "50ms")).unwrap();
    assert_eq!(ask_admin(program.admin, "POST", "/api/reload", "").await.status, 200);
    until("checks", async || checks(&origins[0]) > 3 && checks(&origins[1]) > 3).await;
    assert_eq!((up(1).await, checks(&origins[2])), (Some(1.0), 1));
}
