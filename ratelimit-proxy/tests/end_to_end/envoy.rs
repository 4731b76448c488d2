//! A real Envoy with the configuration of `docs/beside-envoy.md`: its client sees what our limits say.

use crate::beside::{Beside, block, configured, free_port};
use crate::support::origin::Origin;
use crate::support::program::{Program, address, ask};
use crate::support::until;

/// Envoy between us, who answer its questions, and a service.
async fn envoy(program: &mut Program, origin: &Origin) -> Beside {
    let rls = address(&program.log.line(&["rate-limit service"]).await);
    let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
    let text = block("beside-envoy.md", "envoy.yaml")
        .replace("port_value: 8000", &format!("port_value: {port}"))
        .replace("port_value: 8081", &format!("port_value: {}", rls.port()))
        .replace("port_value: 9000", &format!("port_value: {}", origin.address.port()));
    let words =
        ["-c", "{dir}/envoy.yaml", "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning"];
    std::fs::write(directory.path().join("envoy.yaml"), &text).unwrap();
    Beside::start(directory, port, "envoy", &words, &text).await
}

#[tokio::test]
async fn envoy_asks_and_tells_its_clients() {
    let origin = Origin::hello().await;
    let (mut program, _limits) = configured("beside-envoy.md", origin.address).await;
    let envoy = envoy(&mut program, &origin).await;
    // The first question may find the connection to us not made yet: Envoy waits 20 ms and then says 500.
    until("Envoy to reach us", async || {
        ask(envoy.address, "GET", "/", "x-user: first\r\n").await.status == 200
    })
    .await;
    let response = ask(envoy.address, "GET", "/", "x-user: ann\r\n").await;
    assert_eq!((response.status, response.text()), (200, "hello"), "{response:?}");
    assert_eq!(response.field("ratelimit-policy"), Some("\"per-user\";q=100;w=60"), "{response:?}");
    assert!(response.field("ratelimit").unwrap().starts_with("\"per-user\";r=99;t="), "{response:?}");

    for attempt in 0..5 {
        let response = ask(envoy.address, "POST", "/login", "").await;
        assert_eq!(response.status, 200, "{attempt} {response:?}");
    }
    let seen = origin.seen().len();
    let denied = ask(envoy.address, "POST", "/login", "x-user: bob\r\n").await;
    assert_eq!(denied.status, 429, "{denied:?}");
    let wait: u32 = denied.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=66).contains(&wait), "{denied:?}");
    assert_eq!(denied.field("content-type"), Some("application/problem+json"));
    assert!(denied.text().contains(r#""violated-policies":["login"]"#), "{denied:?}");
    assert!(denied.field("ratelimit").unwrap().starts_with("\"login\";r=0;t="), "{denied:?}");
    assert_eq!(origin.seen().len(), seen, "the service saw none of it");
    // All or nothing: bob was not charged for what the log-in's limit denied.
    let bob = ask(envoy.address, "GET", "/", "x-user: bob\r\n").await;
    assert!(bob.field("ratelimit").unwrap().starts_with("\"per-user\";r=99;t="), "{bob:?}");

    // A client can't get past the limits with bytes that are no text: its question is judged like any other.
    let mut odd = crate::support::raw_client::Client::connect(envoy.address).await;
    odd.send(b"POST /login HTTP/1.1\r\nHost: a\r\nx-user: \xff\xfe\r\nContent-Length: 0\r\n\r\n").await;
    let denied = odd.response().await;
    assert_eq!(denied.status, 429, "{denied:?}");
    let policy = denied.field("ratelimit-policy").unwrap();
    assert!(policy.contains("\"per-user\"") && policy.contains("\"login\""), "{policy}");

    // Without us Envoy does what `failure_mode_deny` says.
    program.child.kill().await.unwrap();
    let alone = ask(envoy.address, "GET", "/", "x-user: ann\r\n").await;
    assert_eq!(alone.status, 500, "{alone:?}");
}
