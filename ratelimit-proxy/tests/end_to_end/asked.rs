//! `POST /api/check`: one key of one limit, asked by any program, is the key that requests have.

use serde_json::{Value, json};

use crate::rls::post;
use crate::support::origin::Origin;
use crate::support::program::{Program, ask};
use crate::support::raw_client::Client;

async fn start(limits: &str) -> (Program, Origin, tempfile::NamedTempFile) {
    let origin = Origin::hello().await;
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let text = format!("upstream: http://{}\nrls: 127.0.0.1:0\nlimits:\n{limits}", origin.address);
    std::fs::write(file.path(), text).unwrap();
    (Program::run(&["--config", file.path().to_str().unwrap()]).await, origin, file)
}

async fn check(program: &Program, question: Value) -> (u16, Value) {
    post(program.admin, "/api/check", &question.to_string()).await
}

#[tokio::test]
async fn a_key_is_the_one_that_requests_have() {
    let limits = "  - {name: client, match: {path: /a}, key: client.ip, rate: 3/h}
  - {name: plan, match: {path: /b}, key: {first: [header.x-api-key, client.ip]}, rate: 2/h}
  - {name: all, match: {path: /c}, rate: 2/h}
  - {name: pair, match: {path: '/d/{what}'}, key: [header.x-api-key, path.what], rate: 2/h}
";
    let (program, _origin, _file) = start(limits).await;
    let (status, told) = check(&program, json!({"limit": "client", "key": ["127.0.0.1"]})).await;
    assert_eq!((status, &told["allowed"], &told["remaining"]), (200, &json!(true), &json!(2)));
    assert_eq!(told["limit"], "client");
    assert!((1100.0..=1200.0).contains(&told["reset_after"].as_f64().unwrap()), "{told}");
    assert!(told.get("retry_after").is_none());
    assert!(program.get("/a").await.field("ratelimit").unwrap().starts_with("\"client\";r=1"));
    let (status, told) =
        check(&program, json!({"limit": "client", "key": "::ffff:127.0.0.1", "cost": 2})).await;
    assert_eq!((status, &told["allowed"]), (429, &json!(false)));
    assert!((1100.0..=1200.0).contains(&told["retry_after"].as_f64().unwrap()), "{told}");
    let (status, told) = check(&program, json!({"limit": "client", "key": "127.0.0.1", "cost": 0})).await;
    assert_eq!((status, &told["remaining"]), (200, &json!(1)), "a denial costs nothing, and asking neither");
    // Which of several sources it is from.
    for (key, fields) in [
        (json!(["127.0.0.1"]), ""),
        (json!([{"client.ip": "127.0.0.1"}]), ""),
        (json!(["k"]), "x-api-key: k\r\n"),
        (json!([{"header.x-api-key": "127.0.0.1"}]), "x-api-key: 127.0.0.1\r\n"),
    ] {
        let (status, _) = check(&program, json!({"limit": "plan", "key": key})).await;
        let response = ask(program.proxy, "GET", "/b", fields).await;
        let expected = if key == json!([{"client.ip": "127.0.0.1"}]) { (429, 429) } else { (200, 200) };
        assert_eq!((status, response.status), expected, "{key}");
    }
    assert_eq!(check(&program, json!({"limit": "all"})).await.0, 200);
    assert!(program.get("/c").await.field("ratelimit").unwrap().starts_with("\"all\";r=0"));
    // A value that no request has.
    assert_eq!(check(&program, json!({"limit": "pair", "key": [null, "x"]})).await.0, 200);
    assert!(program.get("/d/x").await.field("ratelimit").unwrap().starts_with("\"pair\";r=0"));
    assert_eq!(check(&program, json!({"limit": "pair", "key": ["7", "x"]})).await.0, 200);
    assert_eq!(check(&program, json!({"limit": "pair", "key": [7, "x"]})).await.1["remaining"], 0);
}

#[tokio::test]
async fn overrides_modes_and_envoys_limits() {
    let limits = "  - name: plan
    key: header.x-api-key
    rate: 2/h
    overrides: [{key: gold, rate: 9/h}, {key: free, unlimited: true}, {key: stolen, deny: true}]
  - {name: watched, rate: 1/h, mode: shadow}
  - {name: off, rate: 1/h, mode: off}
  - {name: under-way, concurrency: 1}
  - {name: user, key: descriptor.user, rate: 2/h}
  - {name: edge, match: {domain: edge}, key: descriptor.user, rate: 2/h}
";
    let (program, _origin, _file) = start(limits).await;
    let ask = async |limit: &str, key: &str| check(&program, json!({"limit": limit, "key": [key]})).await;
    assert_eq!(ask("plan", "gold").await.1["remaining"], 8);
    assert_eq!(
        ask("plan", "free").await,
        (200, json!({"allowed": true, "limit": "plan", "unlimited": true}))
    );
    let (status, told) = ask("plan", "stolen").await;
    assert_eq!((status, &told["allowed"], &told["retry_after"]), (429, &json!(false), &json!(3600.0)));
    for _ in 0..2 {
        assert_eq!(check(&program, json!({"limit": "watched"})).await.0, 200);
    }
    assert_eq!(ask("edge", "ann").await.1["remaining"], 1);
    let given = json!({"limit": "user", "key": ["ann"], "domain": "d"});
    assert_eq!(check(&program, given).await.1["remaining"], 1);
    let question = r#"{"domain": "d", "descriptors": [{"entries": [{"key": "user", "value": "ann"}]}]}"#;
    assert!(post(program.admin, "/json", question).await.1["statuses"][0].get("limitRemaining").is_none());

    for (question, status) in [
        (json!({"limit": "nobody"}), 404),
        (json!({"limit": "off"}), 409),
        (json!({"limit": "under-way"}), 409),
        (json!({"limit": "plan"}), 422),
        (json!({"limit": "plan", "key": ["a", "b"]}), 422),
        (json!({"limit": "plan", "key": [{"query.x": "a"}]}), 422),
        (json!({"limit": "user", "key": ["ann"]}), 422),
        (json!({"limit": "plan", "key": ["a"], "cost": 3}), 413),
        (json!({"limit": "plan", "key": ["a"], "cost": -1}), 400),
        (json!({"limit": "plan", "key": ["a"], "cots": 1}), 400),
        (json!({"limit": "plan", "key": [[]]}), 400),
        (json!({}), 400),
        (json!([]), 400),
    ] {
        let (found, problem) = check(&program, question.clone()).await;
        assert_eq!(found, status, "{question} {problem}");
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].is_string(), "{problem}");
    }
}

#[tokio::test]
async fn who_may_ask_and_how() {
    let (program, _origin, _file) = start("  - {name: all, rate: 9/h}\n").await;
    for path in ["/json", "/api/check"] {
        let got = ask(program.admin, "GET", path, "").await;
        assert_eq!((got.status, got.field("allow")), (405, Some("POST")), "{path}");
        let mut client = Client::connect(program.admin).await;
        client
            .send(format!("POST {path} HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 2\r\n\r\n{{}}"))
            .await;
        assert_eq!(client.response().await.status, 421, "{path}");
        let fields = "Origin: http://evil.example\r\nContent-Length: 0\r\n";
        assert_eq!(ask(program.admin, "POST", path, fields).await.status, 403, "{path}");
        let mut huge = Client::connect(program.admin).await;
        huge.send(format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n"))
            .await;
        assert_eq!(huge.response().await.status, 413, "{path}");
    }
    assert_eq!(check(&program, json!({"limit": "all"})).await.1["remaining"], 8, "none of it was charged");
}
