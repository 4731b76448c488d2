//! A configuration that is likely wrong says so, through sockets: in the log once, in the metrics, on the dashboard.

use crate::support::origin::Origin;
use crate::support::program::{Program, metric};
use crate::support::raw_client::Client;
use crate::support::until;

/// A proxy that takes two tenths of a second for a while, with these limits.
async fn doubtful(origin: &Origin, yaml: &str) -> (Program, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("limits.yaml");
    let text = format!("upstream: http://{}\nlog: {{requests: off, doubts: 200ms}}\n{yaml}", origin.address);
    std::fs::write(&file, text).unwrap();
    (Program::run(&["--config", file.to_str().unwrap()]).await, directory)
}

/// Asks on one connection until it is interrupted by the end of `enough`.
async fn ask_until(program: &Program, head: &str, mut enough: impl AsyncFnMut() -> bool) {
    let mut client = Client::connect(program.proxy).await;
    until("enough to be asked", async || {
        for _ in 0..50 {
            client.send(format!("GET /?n=1 HTTP/1.1\r\nHost: test\r\n{head}\r\n")).await;
            client.response().await;
        }
        enough().await
    })
    .await;
}

async fn warnings(program: &Program, kind: &str) -> f64 {
    metric(program, &format!("ratelimit_config_warnings{{kind=\"{kind}\"}}")).await.unwrap()
}

async fn told(program: &Program) -> serde_json::Value {
    let stats: serde_json::Value = serde_json::from_slice(&program.admin("/api/stats").await.body).unwrap();
    stats["warnings"].clone()
}

const BY_CLIENT: &str = "limits: [{name: a, key: client.ip, rate: 1000000/s}, {name: b, rate: 1000000/s}]";

#[tokio::test]
async fn all_traffic_through_a_proxy_that_is_not_trusted() {
    let origin = Origin::hello().await;
    let (mut program, _directory) = doubtful(&origin, BY_CLIENT).await;
    assert_eq!(warnings(&program, "untrusted_proxy").await, 0.0);
    ask_until(&program, "X-Forwarded-For: 192.0.2.7\r\n", async || {
        warnings(&program, "untrusted_proxy").await == 1.0
    })
    .await;
    let warning = told(&program).await[0].clone();
    assert_eq!(warning["kind"], "untrusted_proxy");
    let text = warning["text"].as_str().unwrap();
    assert!(text.contains("from 127.0.0.1 ") && text.contains(": a counts them"), "{text}");
    assert!(text.contains("client_ip.trusted_proxies"), "{text}");
    let line = program.log.line(&["WARN", "likely wrong"]).await;
    assert!(line.contains("127.0.0.1") && line.contains("untrusted_proxy"), "{line}");
    // It ends when it does not show any more.
    ask_until(&program, "", async || warnings(&program, "untrusted_proxy").await == 0.0).await;
    ask_until(&program, "Forwarded: for=192.0.2.7\r\n", async || {
        warnings(&program, "untrusted_proxy").await == 1.0
    })
    .await;
    assert_eq!(program.log.now().matches("likely wrong").count(), 1, "{}", program.log.now());
}

#[tokio::test]
async fn a_proxy_that_is_trusted_and_clients_without_a_word_are_no_sign() {
    let origin = Origin::hello().await;
    let trusting = format!("client_ip: {{trusted_proxies: [127.0.0.0/8]}}\n{BY_CLIENT}");
    for (yaml, head) in [(&*trusting, "X-Forwarded-For: 192.0.2.7\r\n"), (BY_CLIENT, "")] {
        let (program, _directory) = doubtful(&origin, yaml).await;
        // As long as the others take to be told: `c` was never met, so time has passed when that is said.
        let (witness, _witness) =
            doubtful(&origin, "limits: [{name: c, match: {path: /c}, rate: 1/s}]").await;
        ask_until(&program, head, async || {
            metric(&program, "proxy_request_seconds_count").await > Some(500.0)
        })
        .await;
        ask_until(&witness, "", async || warnings(&witness, "never_matched").await == 1.0).await;
        assert_eq!(warnings(&program, "untrusted_proxy").await, 0.0, "{head}");
        assert_eq!(told(&program).await, serde_json::json!([]), "{head}");
    }
}

#[tokio::test]
async fn a_limit_that_never_matched_until_it_does() {
    let origin = Origin::hello().await;
    let limits = "limits: [{name: met, rate: 1000000/s}, {name: never, match: {path: /v1/users}, rate: 1000000/s}, \
                  {name: parked, match: {path: /x}, rate: 1/s, mode: off}]";
    let (mut program, _directory) = doubtful(&origin, limits).await;
    ask_until(&program, "", async || warnings(&program, "never_matched").await == 1.0).await;
    let warning = told(&program).await[0].clone();
    assert_eq!((&warning["kind"], &warning["limit"]), (&"never_matched".into(), &"never".into()));
    program.log.line(&["WARN", "likely wrong", "never"]).await;
    program.get("/v1/users").await;
    until("it to be withdrawn", async || warnings(&program, "never_matched").await == 0.0).await;
}

#[tokio::test]
async fn a_key_that_is_missing_in_nearly_every_request() {
    let origin = Origin::hello().await;
    for (missing, fate) in [("share", "share one bucket"), ("skip", "not limited"), ("deny", "denied")] {
        let limits = format!(
            "limits: [{{name: by-key, key: [header.x-api-key, method], rate: 1000000/s, missing: {missing}}}]"
        );
        let (program, _directory) = doubtful(&origin, &limits).await;
        ask_until(&program, "", async || warnings(&program, "key_missing").await == 1.0).await;
        let warning = told(&program).await[0].clone();
        let text = warning["text"].as_str().unwrap();
        assert!(text.contains("header.x-api-key") && text.contains(fate), "{text}");
        ask_until(&program, "x-api-key: k\r\n", async || warnings(&program, "key_missing").await == 0.0)
            .await;
    }
}

/// What the file says by itself, too; and another file says something else.
#[tokio::test]
async fn what_is_doubtful_about_the_file_is_counted() {
    let origin = Origin::hello().await;
    let (program, directory) =
        doubtful(&origin, "exempt: [{path: /**}]\nlimits: [{name: a, rate: 1/s}]").await;
    until("it to be told", async || warnings(&program, "file").await == 1.0).await;
    assert!(told(&program).await[0]["text"].as_str().unwrap().contains("all requests are exempt"));
    let text = format!("upstream: http://{}\nlimits: [{{name: a, rate: 1/s}}]", origin.address);
    std::fs::write(directory.path().join("limits.yaml"), text).unwrap();
    program.signal("HUP").await;
    until("it to be withdrawn", async || warnings(&program, "file").await == 0.0).await;
}
