//! What `deploy/` holds for Prometheus and Grafana: alerts and a dashboard that fit the metrics there are, judged by
//! Prometheus' own tool.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Instant;

use redis_testkit::Server;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::support::origin::Origin;
use crate::support::program::{Program, ask};
use crate::support::soon;

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

async fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(deploy("prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of the Debian package prometheus");
    let mut stdin = child.stdin.take().unwrap();
    let write = async {
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), write);
    output.unwrap()
}

async fn assert_fine(arguments: &[&str], input: &str) {
    let output = soon("promtool", promtool(arguments, input)).await;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {text}");
}

/// Names of families, as the program describes them.
fn families(exposition: &str) -> BTreeSet<String> {
    let described = exposition.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names = described.flat_map(|line| {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        suffixes.iter().map(move |suffix| format!("{name}{suffix}"))
    });
    names.collect()
}

/// The metrics there can be: with a shared store, leased, and a collector, there are most.
async fn all_families() -> BTreeSet<String> {
    let (origin, redis) = (Origin::hello().await, Server::start());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("limits.yaml");
    // Nobody listens there.
    let text = format!(
        "upstream: http://{}\nstore: {{redis: '{}', consistency: leased}}\notlp: http://127.0.0.1:1\n\
         limits: [100/s by client.ip]\n",
        origin.address,
        redis.url()
    );
    std::fs::write(&file, text).unwrap();
    let shared = Program::run(&["--config", file.to_str().unwrap()]).await;
    families(shared.admin("/metrics").await.text())
}

/// The names in a text that look like ours.
fn mentioned(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours =
        |word: &&str| ["ratelimit_", "proxy_", "process_"].iter().any(|prefix| word.starts_with(prefix));
    words.filter(ours).map(str::to_owned).collect()
}

#[tokio::test]
async fn alerts_are_rules_that_prometheus_takes_and_fire_when_they_should() {
    assert_fine(&["check", "rules", "alerts.yaml"], "").await;
    assert_fine(&["test", "rules", "alerts_test.yaml"], "").await;
}

#[tokio::test]
async fn alerts_and_dashboard_speak_of_metrics_that_exist_and_of_all_that_matter() {
    let known = all_families().await;
    let alerts = std::fs::read_to_string(deploy("prometheus/alerts.yaml")).unwrap();
    // What is said to people may name other things than metrics.
    let said = ["#", "summary:", "description:"];
    let rules: Vec<&str> =
        alerts.lines().filter(|line| !said.iter().any(|said| line.trim_start().starts_with(said))).collect();
    let rules = rules.join("\n");
    let dashboard = std::fs::read_to_string(deploy("grafana/dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    for text in expressions.iter().copied().chain([rules.as_str()]) {
        let unknown: Vec<_> = mentioned(text).into_iter().filter(|name| !known.contains(name)).collect();
        assert_eq!(unknown, [""; 0], "{text}");
    }
    let shown = mentioned(&expressions.join("\n"));
    // What is left out is told by others: when a process started, how much address space and how many threads it has.
    let quiet = ["process_start_time_seconds", "process_virtual_memory_bytes", "process_threads"];
    let stems = |name: &str| {
        let stem = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        stem.unwrap_or(name).to_owned()
    };
    let (shown, known): (BTreeSet<_>, BTreeSet<_>) =
        (shown.iter().map(|name| stems(name)).collect(), known.iter().map(|name| stems(name)).collect());
    let missing: Vec<_> = known.difference(&shown).filter(|name| !quiet.contains(&name.as_str())).collect();
    assert_eq!(missing, [""; 0], "not on the dashboard");
    // Panels lie side by side, each with a place and a number of its own.
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for (x, y) in
            (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
        {
            assert!(x < 24 && taken.insert((x, y)), "{}: {x} {y}", panel["title"]);
        }
    }
    // A query as Grafana sends it is one that Prometheus takes.
    for expression in expressions {
        let sent = expression
            .replace("$__rate_interval", "1m")
            .replace("$job", ".*")
            .replace("$instance", ".*")
            .replace("$limit", ".*");
        let rule = serde_json::json!({"groups": [{"name": "g", "rules": [{"record": "r", "expr": sent}]}]});
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rule.yaml");
        std::fs::write(&file, rule.to_string()).unwrap();
        assert_fine(&["check", "rules", file.to_str().unwrap()], "").await;
    }
}

/// A thousand limits, all that can happen, and Prometheus' own parser.
#[tokio::test]
async fn the_metrics_are_read_by_prometheus_and_cost_little_with_a_thousand_limits() {
    let origin = Origin::hello().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("limits.yaml");
    let mut text = format!("upstream: http://{}\nlog: {{requests: off}}\nlimits:\n", origin.address);
    for number in 0..1000 {
        let _ = writeln!(
            text,
            "  - {{name: limit-{number}, match: {{path: /{number}/**}}, key: client.ip, rate: 1/s}}"
        );
    }
    std::fs::write(&file, text).unwrap();
    let program = Program::run(&["--config", file.to_str().unwrap()]).await;
    program.get("/7/x").await;
    let page = program.admin("/metrics").await;
    assert_fine(&["check", "metrics"], page.text()).await;
    let open = ask(program.admin, "GET", "/metrics", "Accept: application/openmetrics-text\r\n").await;
    assert!(open.text().ends_with("# EOF\n"));
    assert_eq!(page.text().lines().filter(|line| line.starts_with("ratelimit_quota{")).count(), 1000);
    let mut times: Vec<_> = Vec::new();
    for _ in 0..9 {
        let asked = Instant::now();
        assert_eq!(program.admin("/metrics").await.status, 200);
        times.push(asked.elapsed());
    }
    times.sort();
    // Built for release it is a few milliseconds; here, what would be felt on any machine.
    println!("/metrics with 1000 limits: {:?} of {} bytes", times[4], page.body.len());
    assert!(times[4].as_millis() < 1000, "{times:?}");
}
