//! The administration: every path, the numbers, and that nothing which happens there or comes from clients makes
//! it grow or touches traffic.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::origin::Origin;
use crate::support::program::{Program, ask};
use crate::support::raw_client::{Client, Response};

/// Samples by name and labels as they were written.
type Samples = BTreeMap<String, f64>;

/// Reads Prometheus text, strictly: every sample belongs to the family described above it, whose type fits the
/// sample's suffix, and nothing comes twice.
fn parse(text: &str) -> Samples {
    let mut samples = Samples::new();
    let mut families = BTreeSet::new();
    let mut family = None;
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(!words.is_empty() && families.insert(name.to_owned()), "{line}");
            family = Some((name, None));
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(family, Some((name, None)), "{line}");
            family = Some((name, Some(kind)));
        } else if line != "# EOF" {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = labels.strip_suffix('}').unwrap();
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (name, value) = label.split_once('=').unwrap();
                assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
                let value = value.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
                assert!(!value.contains(['"', '\\', '\n']), "{line}");
            }
            let (described, kind) = family.unwrap();
            let suffix = name.strip_prefix(described).unwrap_or_else(|| panic!("{line} under {described}"));
            match kind.unwrap() {
                "counter" => {
                    assert!(suffix == "_total" || suffix.is_empty() && name.ends_with("_total"), "{line}")
                }
                "gauge" => assert_eq!(suffix, "", "{line}"),
                _ => assert!(["_sum", "_count", "_bucket"].contains(&suffix), "{line}"),
            }
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(value >= 0.0, "{line}");
            assert_eq!(samples.insert(series.to_owned(), value), None, "twice: {line}");
        }
    }
    samples
}

async fn metrics(program: &Program) -> Samples {
    let response = program.admin("/metrics").await;
    assert_eq!(response.status, 200);
    assert_eq!(response.field("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    parse(response.text())
}

fn assert_problem(response: &Response, status: u16) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.field("content-type"), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(problem["status"], status);
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
}

#[tokio::test]
async fn every_path_and_no_other() {
    let origin = Origin::hello().await;
    let program = Program::start(origin.address, &["5/min by client.ip"]).await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/livez", "text/plain; charset=utf-8"),
        ("/readyz", "text/plain; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/api/limits", "application/json"),
        ("/api/stats", "application/json"),
    ] {
        let response = program.admin(path).await;
        assert_eq!((response.status, response.field("content-type")), (200, Some(kind)), "{path}");
        assert_eq!(response.field("x-content-type-options"), Some("nosniff"));
        assert!(response.field("content-security-policy").unwrap().starts_with("default-src 'none'"));
        let head = ask(program.admin, "HEAD", path, "").await;
        assert_eq!((head.status, &*head.body), (200, &b""[..]), "{path}");
        // Those have other numbers from one moment to the next.
        if path != "/metrics" && path != "/api/stats" {
            assert_eq!(head.field("content-length").unwrap(), response.body.len().to_string());
        }
        let post = ask(program.admin, "POST", path, "Content-Length: 0\r\n").await;
        assert_problem(&post, 405);
        assert_eq!(post.field("allow"), Some("GET, HEAD"));
    }
    for path in ["/api", "/metrics/", "/../etc/passwd", "/api/limits/none"] {
        assert_problem(&program.admin(path).await, 404);
    }
    // Everything the page names is there, and nothing elsewhere.
    let page = program.admin("/").await;
    for (at, _) in page.text().match_indices("=\"/") {
        let path = page.text()[at + 2..].split('"').next().unwrap();
        assert_eq!(program.admin(path).await.status, 200, "{path}");
    }
    // Names of where a library and a vocabulary are from; nothing is loaded from there.
    let named = page
        .text()
        .replace("https://github.com/leeoniya/uPlot", "")
        .replace("http://www.w3.org/2000/svg", "");
    assert!(!named.contains("://"));
}

#[tokio::test]
async fn other_names_of_this_machine_are_not_answered_on_loopback() {
    let origin = Origin::hello().await;
    let program = Program::start(origin.address, &[]).await;
    for (host, status) in [("127.0.0.1:9090", 200), ("localhost", 200), ("evil.example", 421), ("", 421)] {
        let mut client = Client::connect(program.admin).await;
        client.send(format!("GET /api/limits HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(client.response().await.status, status, "{host:?}");
    }
}

#[tokio::test]
async fn the_numbers_are_those_of_what_was_sent() {
    let origin = Origin::hello().await;
    let program = Program::start(origin.address, &["5/min by client.ip"]).await;
    let limits =
        |response: Response| -> serde_json::Value { serde_json::from_slice(&response.body).unwrap() };
    let name = limits(program.admin("/api/limits").await)["limits"][0]["name"].as_str().unwrap().to_owned();
    for _ in 0..8 {
        program.get("/").await;
    }
    let mut broken = Client::connect(program.proxy).await;
    broken.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    assert_eq!(broken.response().await.status, 400);
    drop(broken);

    // Counted when the response has ended, which may be a moment after the client has it.
    let requests = |samples: &Samples| -> f64 {
        ["2xx", "4xx"]
            .iter()
            .map(|class| samples[&format!("proxy_requests_total{{code_class=\"{class}\"}}")])
            .sum()
    };
    let samples = crate::support::soon("all to be counted", async {
        loop {
            let samples = metrics(&program).await;
            if requests(&samples) >= 9.0 && samples["proxy_connections"] == 0.0 {
                break samples;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let decisions = |outcome: &str| {
        samples[&format!("ratelimit_decisions_total{{limit=\"{name}\",outcome=\"{outcome}\"}}")]
    };
    assert_eq!((decisions("allowed"), decisions("denied"), decisions("shadow_denied")), (5.0, 3.0, 0.0));
    assert_eq!(samples["proxy_requests_total{code_class=\"2xx\"}"], 5.0);
    assert_eq!(samples["proxy_requests_total{code_class=\"4xx\"}"], 4.0);
    assert_eq!(samples["proxy_requests_total{code_class=\"5xx\"}"], 0.0);
    assert_eq!(samples["proxy_request_seconds_count"], 9.0);
    assert_eq!(samples["proxy_request_seconds_bucket{le=\"+Inf\"}"], 9.0);
    assert_eq!(samples["proxy_upstream_seconds_count"], 5.0);
    assert_eq!(samples["proxy_protocol_errors_total{kind=\"head\"}"], 1.0);
    assert_eq!(samples["proxy_panics_total"], 0.0);
    assert_eq!(samples[&format!("ratelimit_quota{{limit=\"{name}\"}}")], 5.0);
    // The fifth left nothing.
    assert_eq!(samples[&format!("ratelimit_near_limit_total{{limit=\"{name}\"}}")], 1.0);
    assert!(samples["process_resident_memory_bytes"] > 1e6 && samples["process_open_fds"] > 5.0);
    assert!(samples["process_start_time_seconds"] > 1.7e9);

    let view = limits(program.admin("/api/limits").await);
    let limit = &view["limits"][0];
    assert_eq!(limit["decisions"]["allowed"], 5);
    assert_eq!(limit["decisions"]["denied"], 3);
    assert_eq!((&limit["algorithm"], &limit["rate"]), (&"token_bucket".into(), &"5/min".into()));
    assert_eq!((&limit["capacity"], &limit["mode"]), (&5.into(), &"enforce".into()));
    assert_eq!(limit["key"], serde_json::json!(["client.ip"]));
    // Live keys are counted once a second at most.
    crate::support::soon("the key to be seen", async {
        while limits(program.admin("/api/limits").await)["limits"][0]["keys"] != 1 {}
    })
    .await;

    let open =
        ask(program.admin, "GET", "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n").await;
    assert_eq!(
        open.field("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(open.text().ends_with("# EOF\n"));
    assert_eq!(parse(open.text())["proxy_request_seconds_count"], 9.0);
}

#[tokio::test]
async fn clients_add_no_series() {
    let origin = Origin::hello().await;
    let program = Program::start(origin.address, &["100000/s by client.ip"]).await;
    let names = |samples: Samples| samples.into_keys().collect::<BTreeSet<_>>();
    let before = names(metrics(&program).await);
    let mut client = Client::connect(program.proxy).await;
    for number in 0..1000 {
        let head = format!("METHOD{number} /path/{number}?{number} HTTP/1.1\r\nHost: host-{number}\r\n");
        client.send(format!("{head}x-api-key: key-{number}\r\nUser-Agent: agent-{number}\r\n\r\n")).await;
        assert_eq!(client.response().await.status, 200);
    }
    let after = names(metrics(&program).await);
    assert_eq!(before, after);
    assert!(after.len() < 150, "{}", after.len());
}

/// More connections than the administration takes, none of which asks anything.
#[tokio::test]
async fn a_flood_of_the_administration_does_not_touch_traffic() {
    let origin = Origin::hello().await;
    let program = Program::start(origin.address, &["100000/s by client.ip"]).await;
    let mut flood = Vec::new();
    for number in 0..300 {
        let mut client = Client::connect(program.admin).await;
        if number % 2 == 0 {
            client.send("GET /metrics HTTP/1.1\r\n").await;
        }
        flood.push(client);
    }
    let mut client = Client::connect(program.proxy).await;
    for _ in 0..100 {
        assert_eq!(client.get("/").await.status, 200);
    }
    // Those who say nothing lose their place, so that others get an answer in the end.
    assert_eq!(program.admin("/livez").await.status, 200);
}
