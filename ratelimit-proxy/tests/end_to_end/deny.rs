//! What a client sees when a limit says no.

use crate::support::origin::{Origin, Reply};
use crate::support::proxy::{Proxy, Setup};
use crate::support::raw_client::{Client, get};
use crate::support::soon;
use ratelimit_core::{FieldStyle, Fields, Limit, Rate};
use ratelimit_proxy::{Answers, DenialBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// One request an hour, so that the second is denied however slow the machine is.
fn one() -> Limit {
    Limit::new("one", Rate::per_hour(1))
}

async fn exhausted(setup: Setup) -> (Origin, Proxy) {
    let origin = Origin::hello().await;
    let proxy = setup.start(origin.address);
    assert_eq!(get(proxy.address, "/").await.status, 200);
    (origin, proxy)
}

#[tokio::test]
async fn allowed_answers_tell_what_is_left() {
    let origin = Origin::start(|_| {
        Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nratelimit: \"inner\";r=1;t=9\r\nratelimit-policy: \"inner\";q=2;w=9\r\n\r\n")
    })
    .await;
    let proxy = Setup::limits([Limit::new("outer", Rate::per_hour(10)), one()]).start(origin.address);
    let response = get(proxy.address, "/").await;
    assert_eq!(
        response.field("ratelimit-policy"),
        Some("\"outer\";q=10;w=3600, \"one\";q=1;w=3600, \"inner\";q=2;w=9")
    );
    assert_eq!(response.field("ratelimit"), Some("\"one\";r=0;t=3600, \"inner\";r=1;t=9"));
    assert_eq!(response.fields("retry-after"), [""; 0]);
}

/// Row 82: where a limit of ours was decided, our figures are told; where none was, the upstream's.
#[tokio::test]
async fn figures_of_an_upstream_in_our_names_are_not_mixed_with_ours() {
    let origin = Origin::start(|_| {
        Reply::raw(
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-ratelimit-limit: 99\r\nx-ratelimit-remaining: 98\r\n\
             x-ratelimit-remaining: 97\r\nx-ratelimit-reset: 1\r\n\r\n",
        )
    })
    .await;
    let yaml = "limits: [{name: a, match: {path: /limited}, rate: 5/h}]\nresponse: {headers: legacy}";
    let proxy = Proxy::from_yaml(yaml, origin.address);
    let limited = get(proxy.address, "/limited").await;
    for (name, value) in [("limit", "5"), ("remaining", "4"), ("reset", "720")] {
        assert_eq!(limited.fields(&format!("x-ratelimit-{name}")), [value], "{}", limited.head);
    }
    assert_eq!(get(proxy.address, "/").await.fields("x-ratelimit-remaining"), ["98", "97"]);
}

#[tokio::test]
async fn a_denial_says_why_and_until_when_and_the_upstream_hears_nothing() {
    let (origin, proxy) = exhausted(Setup::limits([one()])).await;
    let mut client = Client::connect(proxy.address).await;
    for _ in 0..3 {
        let response = client.get("/").await;
        assert_eq!(response.status, 429);
        assert_eq!(response.field("retry-after"), Some("3600"));
        assert_eq!(response.field("ratelimit"), Some("\"one\";r=0;t=3600"));
        assert_eq!(response.field("ratelimit-policy"), Some("\"one\";q=1;w=3600"));
        assert_eq!(response.field("content-type"), Some("application/problem+json"));
        assert_eq!(
            response.text(),
            concat!(
                r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","#,
                r#""title":"Request cannot be satisfied as assigned quota has been exceeded","#,
                r#""status":429,"violated-policies":["one"]}"#
            )
        );
    }
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn a_denied_head_has_no_body() {
    let (_origin, proxy) = exhausted(Setup::limits([one()])).await;
    let mut client = Client::connect(proxy.address).await;
    client.send("HEAD / HTTP/1.1\r\nhost: test\r\n\r\nGET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(client.response_to("HEAD").await.unwrap().status, 429);
    assert_eq!(client.response().await.status, 429);
}

#[tokio::test]
async fn all_limits_or_none_are_charged() {
    let origin = Origin::hello().await;
    let proxy = Setup::limits([Limit::new("two", Rate::per_hour(2)), one()]).start(origin.address);
    assert_eq!(get(proxy.address, "/").await.status, 200);
    for _ in 0..5 {
        assert_eq!(get(proxy.address, "/").await.status, 429);
    }
    let last = get(proxy.address, "/").await;
    assert!(last.text().contains(r#""violated-policies":["one"]"#), "{}", last.text());
}

#[tokio::test]
async fn grpc_clients_get_trailers_only() {
    let (_origin, proxy) = exhausted(Setup::limits([one()])).await;
    for (content_type, grpc) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("Application/gRPC; charset=utf-8", true),
        ("application/grpc-web", false),
        ("application/json", false),
    ] {
        let mut client = Client::connect(proxy.address).await;
        client
            .send(format!(
                "POST / HTTP/1.1\r\nhost: test\r\ncontent-type: {content_type}\r\ncontent-length: 0\r\n\r\n"
            ))
            .await;
        let response = client.response().await;
        assert_eq!(response.field("retry-after"), Some("3600"));
        if grpc {
            assert_eq!((response.status, response.text()), (200, ""), "{content_type}");
            assert_eq!(response.field("grpc-status"), Some("8"));
            assert!(response.field("grpc-message").is_some());
            assert_eq!(response.field("content-type"), Some("application/grpc"));
        } else {
            assert_eq!(response.status, 429, "{content_type}");
        }
    }
}

#[tokio::test]
async fn the_operator_chooses_status_body_and_fields() {
    let answers =
        Answers { status: 503_u16.try_into().unwrap(), body: DenialBody::Text, ..Answers::default() };
    let (_origin, proxy) = exhausted(Setup { answers, ..Setup::limits([one()]) }).await;
    let response = get(proxy.address, "/").await;
    assert_eq!((response.status, response.text()), (503, "Too many requests. Try again in 3600 seconds.\n"));

    let body =
        DenialBody::File { content: "<p>slow down</p>".into(), content_type: "text/html".parse().unwrap() };
    let fields = Fields { style: FieldStyle::None, ..Fields::default() };
    let answers = Answers { body, fields, retry_jitter: 0.5, ..Answers::default() };
    let (_origin, proxy) = exhausted(Setup { answers, ..Setup::limits([one()]) }).await;
    let mut waits = Vec::new();
    for _ in 0..20 {
        let response = get(proxy.address, "/").await;
        assert_eq!(
            (response.text(), response.field("content-type")),
            ("<p>slow down</p>", Some("text/html"))
        );
        assert_eq!(response.fields("ratelimit"), [""; 0]);
        waits.push(response.field("retry-after").unwrap().parse::<u64>().unwrap());
    }
    assert!(waits.iter().all(|wait| (3590..=5400).contains(wait)), "{waits:?}");
    waits.dedup();
    assert!(waits.len() > 1, "no spread");
}

/// The client writes all of its 5 MB before it reads a byte, as most do.
#[tokio::test]
async fn who_is_in_the_middle_of_an_upload_can_read_its_denial() {
    let (origin, proxy) = exhausted(Setup::limits([one()])).await;
    for framing in ["content-length: 5242880\r\n\r\n", "transfer-encoding: chunked\r\n\r\n500000\r\n"] {
        for _ in 0..20 {
            let mut client = Client::connect(proxy.address).await;
            client.send(format!("POST / HTTP/1.1\r\nhost: test\r\n{framing}")).await;
            client.send(vec![b'x'; 5 << 20]).await;
            let response = client.response().await;
            assert_eq!((response.status, response.field("connection")), (429, Some("close")));
            assert!(client.is_closed().await);
        }
    }
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn a_small_upload_that_is_denied_leaves_the_connection_usable() {
    let (_origin, proxy) = exhausted(Setup::limits([one()])).await;
    let mut client = Client::connect(proxy.address).await;
    for _ in 0..5 {
        client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\n").await;
        let response = client.response().await;
        assert_eq!((response.status, response.field("connection")), (429, None));
        client.send(vec![b'x'; 100_000]).await;
    }
    assert_eq!(client.get("/").await.status, 429);
}

#[tokio::test]
async fn a_denied_upload_that_never_comes_does_not_hold_the_connection() {
    let (_origin, proxy) = exhausted(Setup::limits([one()])).await;
    let mut client = Client::connect(proxy.address).await;
    client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 1000\r\n\r\n").await;
    assert_eq!(client.response().await.status, 429);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn who_asks_before_uploading_is_not_invited() {
    let (_origin, proxy) = exhausted(Setup::limits([one()])).await;
    let mut client = Client::connect(proxy.address).await;
    client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n").await;
    let response = client.response().await;
    assert_eq!((response.status, response.field("connection")), (429, Some("close")));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn permits_are_held_until_the_body_ends() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Setup::limits([Limit::concurrency("two", 2)]).start(listener.local_addr().unwrap());
    let mut upstreams = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
        let (mut upstream, _) = soon("the request", listener.accept()).await.unwrap();
        let mut buffer = Vec::new();
        while !buffer.ends_with(b"\r\n\r\n") {
            soon("the head", upstream.read_buf(&mut buffer)).await.unwrap();
        }
        upstream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf ").await.unwrap();
        upstreams.push(upstream);
        clients.push(client);
    }
    let denied = get(proxy.address, "/").await;
    assert_eq!((denied.status, denied.field("retry-after")), (429, Some("1")));
    assert_eq!(denied.field("ratelimit"), Some("\"two\";r=0"));

    // One response is completed.
    upstreams[0].write_all(b"half.").await.unwrap();
    assert_eq!(clients[0].response().await.text(), "half half.");
    let mut third = Client::connect(proxy.address).await;
    third.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    let mut buffer = Vec::new();
    while !buffer.ends_with(b"\r\n\r\n") {
        soon("the third request", upstreams[0].read_buf(&mut buffer)).await.unwrap();
    }
    assert_eq!(get(proxy.address, "/").await.status, 429);

    // One client goes away in the middle of its response, another before it has one.
    drop(clients);
    drop(third);
    for upstream in &mut upstreams {
        let mut rest = Vec::new();
        let _ = soon("the upstream to be told", upstream.read_to_end(&mut rest)).await;
    }
    let mut fourth = Client::connect(proxy.address).await;
    fourth.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    soon("the fourth request", listener.accept()).await.unwrap();
}

#[tokio::test]
async fn permits_come_back_whatever_happens_upstream() {
    for reply in ["", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbroken", "nonsense\r\n\r\n"] {
        let origin = Origin::start(move |_| Reply::SendAndClose(reply.as_bytes().to_vec())).await;
        let proxy = Setup::limits([Limit::concurrency("single", 1)]).start(origin.address);
        for _ in 0..5 {
            let mut client = Client::connect(proxy.address).await;
            client.send("GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await;
            let answer = client.rest().await;
            assert!(!answer.starts_with(b"HTTP/1.1 429"), "{}", String::from_utf8_lossy(&answer));
        }
    }
}

#[tokio::test]
async fn shadow_limits_deny_nobody() {
    let origin = Origin::hello().await;
    let proxy = Setup::limits([one().shadow(), Limit::concurrency("none", 1).shadow()]).start(origin.address);
    for _ in 0..5 {
        let response = get(proxy.address, "/").await;
        assert_eq!(response.status, 200);
        assert_eq!(response.fields("ratelimit"), [""; 0]);
    }
}

#[tokio::test]
async fn a_denied_connection_frees_its_slot() {
    let setup = Setup { max_connections: 1, ..Setup::limits([one()]) };
    let (_origin, proxy) = exhausted(setup).await;
    for _ in 0..10 {
        assert_eq!(soon("a slot", get(proxy.address, "/")).await.status, 429);
    }
}
