//! The dashboard in a real browser under traffic: the numbers are those of the API, keys can be looked up and steered,
//! requests explained; on a phone, in the dark, by keyboard. `PICTURES=DIRECTORY` keeps the pictures.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::browser::{Browser, Look};
use crate::support::origin::Origin;
use crate::support::program::{Program, ask};
use crate::support::raw_client::Client;
use crate::support::until;

const LIMITS: &str = "
client_ip: {trusted_proxies: [127.0.0.0/8]}
log: {requests: off}
limits:
  - {name: per-client, key: {first: [header.x-api-key, client.ip]}, rate: 40/s, burst: 80}
  - {name: login, match: {path: /login, methods: [POST]}, key: client.ip, rate: 30/min, algorithm: sliding_window}
  - {name: plan, match: {path: '/v1/{resource}/**', headers: {x-api-key: '*'}}, key: [header.x-api-key, path.resource], rate: 400/h, algorithm: fixed_window}
  - {name: exports, match: {path: /v1/exports/**}, key: header.x-api-key, rate: 2/s, mode: shadow}
";

async fn start(origin: &Origin) -> (Program, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("limits.yaml");
    std::fs::write(&file, format!("upstream: http://{}{LIMITS}", origin.address)).unwrap();
    (Program::run(&["--config", file.to_str().unwrap()]).await, directory)
}

/// Clients that never stop, each with its own habits.
struct Traffic(Vec<JoinHandle<()>>);

impl Traffic {
    fn start(program: &Program) -> Self {
        let proxy = program.proxy;
        let client = |number: u32, line: &'static str, fields: String, pause: u64| {
            tokio::spawn(async move {
                let mut client = Client::connect(proxy).await;
                for beat in 0_u32.. {
                    client
                        .send(format!("{line} HTTP/1.1\r\nHost: api\r\nX-Forwarded-For: 198.51.100.{number}\r\n{fields}\r\n"))
                        .await;
                    if client.response_to("GET").await.is_none() {
                        client = Client::connect(proxy).await;
                    }
                    // In waves, so that there is something to be seen.
                    let wave = if beat / 150 % 2 == 0 { pause } else { pause * 2 };
                    tokio::time::sleep(Duration::from_millis(wave)).await;
                }
            })
        };
        let key = |name: &str| format!("x-api-key: {name}\r\n");
        let mut clients = vec![
            client(7, "GET /v1/users/7", key("acme-live"), 11),
            client(8, "GET /v1/invoices/9", key("globex"), 40),
            client(9, "GET /v1/exports/all", key("initech"), 300),
            client(23, "POST /login", "Content-Length: 0\r\n".to_owned(), 500),
            client(42, "GET /", String::new(), 9),
        ];
        clients.extend((100..130).map(|number| client(number, "GET /catalogue", String::new(), 190)));
        Self(clients)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn stats(program: &Program) -> Value {
    serde_json::from_slice(&program.admin("/api/stats").await.body).unwrap()
}

/// A number as people read it.
fn number(text: &str) -> f64 {
    let digits: String = text.chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
    digits.parse().unwrap_or_else(|_| panic!("no number: {text:?}"))
}

fn pictures() -> Option<PathBuf> {
    std::env::var_os("PICTURES").map(PathBuf::from)
}

#[tokio::test]
async fn a_browser_shows_what_the_proxy_counts() {
    let origin = Origin::hello().await;
    let (program, _directory) = start(&origin).await;
    let traffic = Traffic::start(&program);
    let browser = Browser::start().await;
    browser.look(Look { width: 1280, scheme: "light" }).await;
    browser.open(&format!("http://{}/", program.admin)).await;
    browser.sees("#health", |text| text == "ready").await;
    browser.sees("#tile-denied", |text| number(text) > 0.0).await;
    browser.sees("#limits tr:nth-child(2) [data-label=Denied]", |text| number(text) > 0.0).await;
    until("plots to be drawn", async || {
        browser.run("return document.querySelectorAll('.plot canvas').length").await == 2
    })
    .await;

    // The numbers that grow, at rest: those of the API exactly.
    drop(traffic);
    let mut before = Value::Null;
    until("all to be counted", async || {
        let now = stats(&program).await["limits"].clone();
        std::mem::replace(&mut before, now.clone()) == now
    })
    .await;
    until("the requests to be those of the API", async || {
        let now = stats(&program).await["requests"].clone();
        let all: f64 = now.as_object().unwrap().values().map(|count| count.as_f64().unwrap()).sum();
        number(&browser.text("#note-requests").await) == all
    })
    .await;
    let now = stats(&program).await;
    let names =
        browser.run("return [...document.querySelectorAll('#limits .name')].map(n => n.textContent)").await;
    assert_eq!(names, serde_json::json!(["per-client", "login", "plan", "exports"]));
    for (row, limit) in now["limits"].as_array().unwrap().iter().enumerate() {
        let count = |word: &str| limit["decisions"][word].as_f64().unwrap();
        let all: f64 = limit["decisions"].as_object().unwrap().values().map(|n| n.as_f64().unwrap()).sum();
        let noes = if limit["name"] == "exports" { count("shadow_denied") } else { count("denied") };
        let share = 100.0 * noes / all;
        let cell = format!("#limits tr:nth-child({}) [data-label=Denied]", row + 1);
        browser.sees(&cell, |text| text.contains('<') || (number(text) - share).abs() <= 0.51).await;
    }
    // A list of keys is asked for where there is one.
    let complaints =
        browser.complaints().await.into_iter().filter(|complaint| !complaint.contains("/keys?by="));
    assert_eq!(complaints.collect::<Vec<_>>(), [""; 0], "errors, or something that the policy forbids");
    browser.close().await;
}

#[tokio::test]
async fn it_fits_a_phone_goes_by_keyboard_and_is_told_of_a_proxy_that_is_gone() {
    let origin = Origin::hello().await;
    let (mut program, _directory) = start(&origin).await;
    let traffic = Traffic::start(&program);
    let browser = Browser::start().await;
    browser.open(&format!("http://{}/", program.admin)).await;
    browser.sees("#health", |text| text == "ready").await;
    browser.sees("#tile-denied", |text| number(text) > 0.0).await;
    for width in [360, 768, 1280, 1920] {
        for scheme in ["light", "dark"] {
            browser.look(Look { width, scheme }).await;
            let wide = browser.run("return document.documentElement.scrollWidth - innerWidth").await;
            assert_eq!(wide, 0, "{width} {scheme}: something sticks out");
        }
    }
    let grounds = browser.run("return getComputedStyle(document.body).backgroundColor").await;
    browser.look(Look { width: 1280, scheme: "light" }).await;
    assert_ne!(browser.run("return getComputedStyle(document.body).backgroundColor").await, grounds);

    // By keyboard alone: to a limit, chosen; whatever has the focus shows it, and keeps it while numbers change.
    browser.run("document.querySelector('.skip').focus()").await;
    until("the focus on a limit", async || {
        browser.keys("\u{e004}").await;
        browser.run("return document.activeElement.textContent === 'login'").await == true
    })
    .await;
    browser.keys("\u{e007}").await;
    browser.sees("#decisions-of", |text| text.starts_with("login")).await;
    assert_eq!(browser.run("return document.activeElement.getAttribute('aria-pressed')").await, "true");
    assert_ne!(browser.run("return getComputedStyle(document.activeElement).outlineStyle").await, "none");
    let unnamed = "return [...document.querySelectorAll('input, select, textarea, button')]\
                   .filter(e => !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label'))).length";
    assert_eq!(browser.run(unnamed).await, 0, "controls without a name");

    drop(traffic);
    program.child.kill().await.unwrap();
    browser.sees("#health", |text| text == "not answering").await;
    browser.close().await;
}

/// What stands in the page came from the configuration and from clients: it is text, whatever it looks like.
#[tokio::test]
async fn the_page_holds_all_it_needs_and_runs_nothing_else() {
    let origin = Origin::hello().await;
    let (program, _directory) = start(&origin).await;
    let page = program.admin("/").await;
    let policy = page.field("content-security-policy").unwrap();
    for part in [
        "default-src 'none'",
        "script-src 'sha256-",
        "style-src 'sha256-",
        "connect-src 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    for (field, value) in [
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ] {
        assert_eq!(page.field(field), Some(value));
    }
    // The hashes are those of what stands there, counted here by another hand.
    for (tag, directive) in [("script", "script-src"), ("style", "style-src")] {
        let (_, rest) = page.text().split_once(&format!("<{tag}>")).unwrap();
        let (content, _) = rest.split_once(&format!("</{tag}>")).unwrap();
        let hash = openssl_sha256(content);
        assert!(policy.contains(&format!("{directive} 'sha256-{hash}'")), "{tag}: {policy}");
    }
    assert!(page.text().len() < 150_000, "{}", page.text().len());
}

fn openssl_sha256(text: &str) -> String {
    use std::io::Write as _;
    let mut child = std::process::Command::new("openssl")
        .args(["dgst", "-sha256", "-binary"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    base64::engine::general_purpose::STANDARD.encode(child.wait_with_output().unwrap().stdout)
}

/// Keeps pictures where `PICTURES` says: as they are in the README, and as they are looked at before a release.
#[tokio::test]
async fn pictures_are_taken() {
    let Some(directory) = pictures() else { return };
    let origin = Origin::hello().await;
    let (program, _directory) = start(&origin).await;
    let _traffic = Traffic::start(&program);
    let browser = Browser::start().await;
    browser.look(Look { width: 1280, scheme: "light" }).await;
    browser.open(&format!("http://{}/", program.admin)).await;
    tokio::time::sleep(Duration::from_secs(75)).await;
    for (name, width, scheme, most) in [
        // To the keys at their limits.
        ("dashboard", 1280, "light", 1246),
        ("dashboard-light", 1280, "light", 4000),
        ("dashboard-dark", 1280, "dark", 4000),
        ("dashboard-narrow", 360, "light", 6000),
    ] {
        browser.look(Look { width, scheme }).await;
        if scheme == "dark" {
            // What is asked for is there in the others.
            browser.click("#keys button").await;
            browser.write("#explain-path", "/v1/users/7").await;
            browser.write("#explain-headers", "x-api-key: globex").await;
            browser.click("#explain .main").await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        browser.picture(width, most, &Path::new(&directory).join(format!("{name}.png"))).await;
    }
    browser.close().await;
}

/// `/api/stats` is for programs too.
#[tokio::test]
async fn stats_are_the_numbers_of_the_metrics() {
    let origin = Origin::hello().await;
    let (program, _directory) = start(&origin).await;
    for _ in 0..3 {
        ask(program.proxy, "GET", "/v1/users/1", "x-api-key: k\r\n").await;
    }
    until("the requests to be counted", async || stats(&program).await["requests"]["2xx"] == 3).await;
    let now = stats(&program).await;
    let limit = |name: &str| {
        now["limits"].as_array().unwrap().iter().find(|limit| limit["name"] == name).unwrap()["decisions"]
            .clone()
    };
    assert_eq!((&limit("plan")["allowed"], &limit("per-client")["allowed"]), (&3.into(), &3.into()));
    assert_eq!(limit("login")["allowed"], 0);
    let sizes = now["seconds"]["request"]["counts"].as_array().unwrap();
    assert_eq!(sizes.iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), 3);
    assert_eq!(sizes.len(), now["seconds"]["bounds"].as_array().unwrap().len() + 1);
    assert_eq!((&now["store"]["kind"], &now["unready"]), (&"memory".into(), &Value::Null));
    assert!(now["process"]["resident_bytes"].as_u64() > Some(1 << 20));
    assert!(now["time"].as_f64() > Some(1.7e9) && now["upstreams"][0]["servers"][0]["url"].is_string());
}

#[tokio::test]
async fn a_key_is_found_reset_and_given_another_quota_and_a_request_explained() {
    let origin = Origin::hello().await;
    let (program, _directory) = start(&origin).await;
    for _ in 0..100 {
        ask(program.proxy, "GET", "/catalogue", "x-api-key: <b>acme</b>, live\r\n").await;
    }
    let browser = Browser::start().await;
    browser.open(&format!("http://{}/", program.admin)).await;
    // What a client sent is text, whatever it looks like.
    browser.sees("#keys code", |text| text == "<b>acme</b>, live").await;
    assert_eq!(browser.run("return document.querySelectorAll('#keys b').length").await, 0);
    browser.click("#keys button").await;
    browser.sees("#found .left", |text| text.ends_with("of 80 left")).await;
    browser.click("#reset").await;
    browser.sees("#found .done", |text| text.contains("afresh")).await;
    browser.sees("#found .left", |text| text == "80 of 80 left").await;

    browser.write("#rate", "1/h").await;
    browser.write("#burst", "3").await;
    browser.click("#change fieldset button:not([type])").await;
    browser.sees("#found", |text| text.contains("of 3 left") && text.contains("until")).await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(ask(program.proxy, "GET", "/", "x-api-key: <b>acme</b>, live\r\n").await.status);
    }
    assert_eq!(statuses, [200, 200, 200, 429]);
    browser.click("#forbid").await;
    browser.sees("#found .left", |text| text.contains("Denied")).await;
    browser.click("#restore").await;
    browser.sees("#found .left", |text| text.ends_with("of 80 left")).await;
    browser.write("#rate", "fast").await;
    browser.click("#change fieldset button:not([type])").await;
    browser.sees("#found .problem", |text| text.contains("fast")).await;

    browser.write("#explain-path", "/v1/users/7").await;
    browser.write("#explain-headers", "x-api-key: globex").await;
    browser.click("#explain .main").await;
    browser
        .sees("#explained tbody tr:nth-child(3)", |text| text.contains("counts") && text.contains("globex"))
        .await;
    browser.sees("#explained tbody tr:nth-child(2)", |text| text.contains("no match")).await;
    // A token is for this tab, and goes nowhere but to the proxy.
    browser.write("#token", "secret").await;
    assert_eq!(
        browser.run("return [sessionStorage.token, localStorage.length, document.cookie]").await,
        serde_json::json!(["secret", 0, ""])
    );
    browser.close().await;
}
