//! No secret gets out: a proxy is run with marked ones wherever one may stand, at the most talkative level, through what
//! goes well and what fails; then everything that it said to anybody is searched for them.

use std::fmt::Write as _;
use std::process::Stdio;

use redis_testkit::{Program as Store, Server};
use serde_json::json;

use crate::support::origin::{Origin, Reply};
use crate::support::program::{Lines, Program, address, ask, command, metric};
use crate::support::raw_client::Client;
use crate::support::tokens::{Signer, b64};
use crate::support::until;

/// Stands in every secret.
const MARK: &str = "MARKED";
const ADMIN: &str = "MARKED-token-of-the-administration";
const STORE: &str = "MARKED-password-of-the-store";
const JWT: &str = "MARKED-secret-that-signs-the-tokens-of-users";

/// What a client shows of itself; none of it may be repeated, but to who may see keys.
fn credentials() -> Vec<String> {
    let basic = b64("MARKED-user:MARKED-password").replace('-', "+").replace('_', "/");
    let digest = "Digest username=\"MARKED-digest\", realm=\"r\", nonce=\"n\", uri=\"/\", response=\"MARKED-response\"";
    let token = Signer::Secret(JWT.as_bytes().to_vec()).token(None, json!({"sub": "MARKED-subject"}));
    let forged = Signer::Secret(vec![b'x'; 32]).token(None, json!({"sub": "MARKED-forged"}));
    vec![
        format!("Authorization: Bearer {token}"),
        format!("Authorization: Bearer {forged}"),
        "Authorization: Bearer MARKED-no-token".to_owned(),
        format!("Authorization: Basic {basic}"),
        format!("Authorization: {digest}"),
        "Proxy-Authorization: Basic MARKED-of-a-proxy".to_owned(),
        "Cookie: session=MARKED-session; other=MARKED-cookie".to_owned(),
        "X-Api-Key: MARKED-api-key".to_owned(),
        "X-Unknown: MARKED-field".to_owned(),
    ]
}

/// What to look for: the mark, and the encoded forms that it stands in.
fn needles() -> Vec<String> {
    let mut needles = vec![MARK.to_owned()];
    for field in credentials() {
        let value = field.rsplit(' ').next().unwrap();
        needles.extend(
            value.split('.').filter(|part| part.len() > 20 && !part.contains('"')).map(str::to_owned),
        );
    }
    // The head of a token is no secret, and the same in all.
    needles.retain(|needle| !needle.starts_with("eyJhbGciOi"));
    needles
}

fn config(upstream: &str, store: &str) -> String {
    format!(
        r#"
listen: 127.0.0.1:0
admin: {{listen: 127.0.0.1:0, token_env: TEST_ADMIN_TOKEN}}
upstream: {upstream}
jwt: {{secret_env: TEST_JWT_SECRET}}
log: {{requests: all, sample: off}}
store: {{redis: '{store}', on_failure: local, deadline: 1s}}
limits:
  - name: api-key
    key: header.x-api-key
    rate: 3/h
    overrides: [{{key: MARKED-gold, rate: 5/h}}, {{key: MARKED-stolen, deny: true}}]
  - {{name: session, key: cookie.session, rate: 3/h, missing: skip}}
  - {{name: token, key: query.token, rate: 3/h, missing: skip}}
  - {{name: subject, key: jwt.sub, rate: 3/h, missing: skip}}
  - {{name: basic, key: basic.user, rate: 3/h, missing: skip}}
  - {{name: digest, key: digest.user, rate: 3/h, missing: skip}}
  - {{name: all, rate: 100000/s}}
"#
    )
}

/// Runs it with the secrets in its environment, as text or JSON.
async fn start(file: &std::path::Path, style: &str) -> Program {
    let mut child = command(&["--config", file.to_str().unwrap(), "--log", style])
        .env("TEST_ADMIN_TOKEN", ADMIN)
        .env("TEST_JWT_SECRET", JWT)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = Lines::of(child.stderr.take().unwrap());
    let proxy = address(&log.line(&["listening"]).await);
    let admin = address(&log.line(&["administration"]).await);
    Program { child, proxy, admin, log }
}

/// Traffic with every credential, alone and all at once, often enough to be denied; well formed and not.
async fn traffic(program: &Program) {
    let each = credentials();
    for _ in 0..4 {
        for field in &each {
            let mut client = Client::connect(program.proxy).await;
            client.send(format!("GET /a?token=MARKED-query HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n")).await;
            let status = client.response().await.status;
            assert!([200, 429].contains(&status), "{status}: {field}");
        }
    }
    let all = each.join("\r\n");
    for broken in [
        format!("GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n{all}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: MARKED@h\r\n{all}\r\n\r\n"),
        "GET / HTTP/1.1\r\nHost: h\r\nX-Api-Key: MARKED-a\r\nX-Api-Key: MARKED-b\r\n\r\n".to_owned(),
        format!("GET http://MARKED-user:MARKED-password@h/ HTTP/1.1\r\nHost: h\r\n{all}\r\n\r\n"),
        format!("GET /%2f?token=MARKED-query HTTP/1.1\r\nHost: h\r\n{all}\r\n\r\n"),
        format!("MARKED / HTTP/1.1\r\nHost: h\r\n{all}\r\n\r\n"),
        "MARKED-nonsense\r\n\r\n".to_owned(),
    ] {
        let mut client = Client::connect(program.proxy).await;
        client.send(broken).await;
        client.response().await;
    }
}

/// What operators may do, with and without the token.
async fn operations(program: &Program, said: &mut String) {
    let right = format!("Authorization: Bearer {ADMIN}\r\n");
    let wrong = "Authorization: Bearer MARKED-wrong-token\r\n";
    for field in [&*right, wrong] {
        for (method, path, body) in [
            ("PUT", "/api/log-level", r#"{"level":"trace"}"#),
            ("PUT", "/api/limits/api-key/overrides/MARKED-given", r#"{"rate":"7/h"}"#),
            ("DELETE", "/api/limits/api-key/overrides/MARKED-given", ""),
            ("DELETE", "/api/limits/api-key/keys/MARKED-api-key", ""),
            ("POST", "/api/reload", ""),
        ] {
            let length = body.len();
            let fields =
                format!("{field}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
            let mut client = Client::connect(program.admin).await;
            client.send(format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{fields}", program.admin)).await;
            let response = client.response().await;
            if field == wrong {
                assert_ne!(response.status, 200, "{method} {path} with a wrong token");
                // The key that was asked about is not repeated to who may not see keys.
                let _ = writeln!(said, "{} {}", response.head, response.text());
            } else {
                // A change that the store can't be told of is none, and can't be taken back.
                assert!([200, 404, 503].contains(&response.status), "{method} {path}: {}", response.text());
            }
        }
    }
    let seen = [
        "/metrics",
        "/livez",
        "/readyz",
        "/api/limits",
        "/api/stats",
        "/api/history",
        "/api/upstreams",
        "/api/log-level",
        "/",
    ];
    for path in seen {
        for fields in ["", "Accept: application/openmetrics-text\r\n"] {
            let response = ask(program.admin, "GET", path, fields).await;
            assert_eq!(response.status, 200, "{path}");
            let _ = writeln!(said, "{path}: {} {}", response.head, response.text());
        }
    }
    let refused = ask(program.admin, "GET", "/api/limits/api-key/keys", wrong).await;
    let _ = writeln!(said, "keys: {} {}", refused.head, refused.text());
}

#[track_caller]
fn search(what: &str, text: &str) {
    for needle in needles() {
        let found = text.lines().find(|line| line.contains(&needle));
        assert!(found.is_none(), "{what} says {needle}: {}", found.unwrap_or_default());
    }
}

async fn nothing_is_told(style: &str) {
    let redis = Server::start_with(Store::Redis, &["--requirepass", STORE]);
    let origin = Origin::start(|_| {
        Reply::raw("HTTP/1.1 200 OK\r\nSet-Cookie: session=MARKED-answer\r\nContent-Length: 2\r\n\r\nok")
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("limits.yaml");
    let store = format!("redis://:{STORE}@127.0.0.1:{}", redis.port());
    std::fs::write(&file, config(&format!("http://{}", origin.address), &store)).unwrap();
    let mut program = start(&file, style).await;
    until("the store", async || metric(&program, "ratelimit_store_up").await == Some(1.0)).await;
    let mut said = String::new();
    operations(&program, &mut said).await;
    traffic(&program).await;
    // The store goes, and comes back with another password.
    drop(redis);
    traffic(&program).await;
    operations(&program, &mut said).await;
    // A file that is wrong, about where a secret stands.
    let wrong = config(&format!("http://{}", origin.address), &store).replace("redis://", "redish://");
    std::fs::write(&file, wrong).unwrap();
    program.signal("HUP").await;
    program.log.line(&["store.redis"]).await;
    program.signal("TERM").await;
    program.exit().await;
    let log = program.log.now();
    assert!(
        log.contains("denied") && log.contains("answered") && log.contains("changed by an operator"),
        "{log}"
    );
    search("the log", &log);
    search("the administration", &said);
    assert!(said.contains("ratelimit_decisions_total") && said.contains("api-key"), "something was asked");
}

#[tokio::test]
async fn a_log_for_people_and_the_administration_tell_no_secret() {
    nothing_is_told("text").await;
}

#[tokio::test]
async fn a_log_for_machines_tells_no_secret() {
    nothing_is_told("json").await;
}

/// `check` and `explain` show which key a request has, as they are asked to, and nothing else of it.
#[tokio::test]
async fn check_and_explain_tell_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("limits.yaml");
    std::fs::write(&file, config("http://127.0.0.1:9", &format!("redis://:{STORE}@127.0.0.1:9"))).unwrap();
    let path = file.to_str().unwrap();
    let mut fields = Vec::new();
    for field in credentials() {
        if !field.starts_with("X-Api-Key")
            && !field.contains("session")
            && !field.starts_with("Authorization: D")
        {
            fields.push(field);
        }
    }
    for field in &fields {
        for arguments in [
            vec!["check", "--config", path],
            vec!["explain", "--config", path, "GET /", "-H", field],
            vec!["explain", "--config", path, "GET /", "-H", field, "--log", "json"],
        ] {
            let run = command(&arguments)
                .env("TEST_ADMIN_TOKEN", ADMIN)
                .env("TEST_JWT_SECRET", JWT)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let output = run.wait_with_output().await.unwrap();
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8(text).unwrap();
            assert_eq!(output.status.code(), Some(0), "{arguments:?}: {text}");
            // Who a request is from is what was asked.
            let text = text.replace("\"MARKED-subject\"", "").replace("\"MARKED-user\"", "");
            search(&format!("{arguments:?}"), &text);
        }
    }
}

/// The search finds what there is.
#[test]
fn what_is_told_is_found() {
    let told = |text: &str| std::panic::catch_unwind(|| search("it", text)).is_err();
    assert!(told("a key: MARKED-key") && !told("a key: 0123456789abcdef"));
    let token = credentials().first().unwrap().rsplit(' ').next().unwrap().to_owned();
    let signature = token.rsplit('.').next().unwrap();
    assert!(told(signature) && told(&format!("forwarded {token}")));
}
