//! A CPU profile of the running program.

use std::time::Duration;

use crate::support::origin::Origin;
use crate::support::program::{Program, ask};
use crate::support::raw_client::Client;
use crate::support::until;

#[tokio::test]
async fn a_profile_under_traffic_shows_what_the_proxy_does() {
    let origin = Origin::hello().await;
    let program = Program::start(origin.address, &["1000000/s by client.ip"]).await;
    let proxy = program.proxy;
    let traffic = tokio::spawn(async move {
        let mut client = Client::connect(proxy).await;
        loop {
            client.get("/").await;
        }
    });
    let asked = ask(program.admin, "GET", "/debug/profile?seconds=2", "").await;
    traffic.abort();
    assert_eq!(asked.status, 200, "{}", asked.text());
    assert_eq!(asked.field("content-type"), Some("image/svg+xml"));
    let svg = asked.text();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>"));
    // A thread of traffic, and what it does.
    for frame in ["ratelimit_proxy::server", "ratelimit_proxy::exchange"] {
        assert!(svg.contains(frame), "no {frame}: {svg}");
    }
    // Over and over, and the process lives.
    for _ in 0..2 {
        assert_eq!(ask(program.admin, "GET", "/debug/profile?seconds=1", "").await.status, 200);
    }
    assert_eq!(program.get("/").await.status, 200);
}

#[tokio::test]
async fn one_at_a_time_and_not_for_ever() {
    let origin = Origin::hello().await;
    let mut program = Program::start(origin.address, &[]).await;
    let long = tokio::spawn(ask_profile(program.admin, "?seconds=25"));
    program.log.line(&["asked for", "profile"]).await;
    assert_eq!(ask_profile(program.admin, "?seconds=1").await, 409);
    // Who goes away ends it.
    long.abort();
    until("the next", async || ask_profile(program.admin, "?seconds=1").await == 200).await;
    for wrong in ["0", "26", "-1", "1.5", "", "many", "99999999999999999999"] {
        assert_eq!(ask_profile(program.admin, &format!("?seconds={wrong}")).await, 422, "{wrong}");
    }
    let posted = ask(program.admin, "POST", "/debug/profile", "Content-Length: 0\r\n").await;
    assert_eq!((posted.status, posted.field("allow")), (405, Some("GET")));
    let elsewhere = "Sec-Fetch-Site: cross-site\r\n";
    assert_eq!(ask(program.admin, "GET", "/debug/profile?seconds=1", elsewhere).await.status, 403);
    // The end of the process does not wait for one.
    let said = |text: &str| text.lines().filter(|line| line.contains("profile")).count();
    let before = said(&program.log.now());
    let _long = tokio::spawn(ask_profile(program.admin, "?seconds=25"));
    program.log.until("another", |text| (said(text) > before).then_some(())).await;
    let asked = std::time::Instant::now();
    program.signal("TERM").await;
    program.exit().await;
    assert!(asked.elapsed() < Duration::from_secs(15));
}

async fn ask_profile(admin: std::net::SocketAddr, query: &str) -> u16 {
    ask(admin, "GET", &format!("/debug/profile{query}"), "").await.status
}

#[tokio::test]
async fn it_needs_the_token() {
    let origin = Origin::hello().await;
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let text = format!(
        "listen: 127.0.0.1:0\nupstream: http://{}\nadmin: {{listen: 127.0.0.1:0, token_env: TOKEN}}\nlimits: []\n",
        origin.address
    );
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().to_str().unwrap();
    let program = Program::with(&["--config", path], &[("TOKEN", "a-token-of-many-letters")]).await;
    let fields = "Authorization: Bearer a-token-of-many-letters\r\n";
    for (fields, status) in [("", 401), ("Authorization: Bearer other\r\n", 401), (fields, 200)] {
        let asked = ask(program.admin, "GET", "/debug/profile?seconds=1", fields).await;
        assert_eq!(asked.status, status, "{fields}");
    }
}
