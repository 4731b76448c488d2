//! `replay`: what the limits would have said to recorded traffic.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::program::{command, parts, run};
use crate::support::soon;

/// A configuration and logs in a directory of their own.
struct Files(TempDir);

impl Files {
    fn new(limits: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("limits.yaml", format!("upstream: http://127.0.0.1:1\n{limits}").as_bytes());
        files
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    async fn replay(&self, arguments: &[&str]) -> (i32, String, String) {
        let config = self.path("limits.yaml");
        let output = run(&[&["replay", "--config", &config], arguments].concat()).await;
        let (code, out, err) = parts(&output);
        (code, out.to_owned(), err.to_owned())
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let (code, out, err) = self.replay(&[&["--json"], arguments].concat()).await;
        assert_eq!((code, &*err), (0, ""));
        serde_json::from_str(&out).unwrap()
    }
}

fn line(client: &str, second: u32, request: &str, status: u16) -> String {
    let (minute, second) = (second / 60, second % 60);
    format!(
        "{client} - - [01/Nov/2026:10:{minute:02}:{second:02} +0000] \"{request} HTTP/1.1\" {status} 5 \"-\" \"curl\"\n"
    )
}

/// What the limits of the proxy do to a client that asks too often, and what that client would need.
#[tokio::test]
async fn who_would_have_been_denied_by_which_limit() {
    let files = Files::new(
        "limits:\n\
         - {name: per-client, key: client.ip, rate: 10/min, algorithm: fixed_window}\n\
         - {name: login, match: {path: /login, methods: [POST]}, key: client.ip, rate: 1/min, burst: 2, mode: shadow}\n",
    );
    let mut log = String::new();
    for second in 0..60 {
        // Fifteen in this minute: five too many.
        if second % 4 == 0 {
            log += &line("192.0.2.1", second, "GET /items?page=2", 200);
        }
        if second % 20 == 0 {
            log += &line("192.0.2.2", second, "POST /login", 401);
        }
    }
    log += "what is this\n";
    let log = files.write("access.log", log.as_bytes());
    let report = files.json(&[&log]).await;
    assert_eq!(
        (&report["requests"], &report["allowed"], &report["denied"], &report["broken_lines"]),
        (&18.into(), &13.into(), &5.into(), &1.into())
    );
    let limit = &report["limits"][0];
    assert_eq!((&limit["denied"], &limit["keys"], &limit["keys_denied"]), (&5.into(), &2.into(), &1.into()));
    assert_eq!(limit["top"][0]["key"], "192.0.2.1");
    assert_eq!((&limit["top"][0]["needs"], &limit["top"][0]["denied"]), (&"15/min".into(), &5.into()));
    let shadow = &report["limits"][1];
    assert_eq!(
        (&shadow["denied"], &shadow["shadow_denied"], &shadow["matched"]),
        (&0.into(), &1.into(), &3.into())
    );

    let page = files.path("report.html");
    let (code, out, _) = files.replay(&["--html", &page, &log]).await;
    assert_eq!(code, 0);
    for part in
        ["18 requests", "per-client", "15/min", "192.0.2.1", "1 lines are no requests", "what is this", &page]
    {
        assert!(out.contains(part), "{part}: {out}");
    }
    let page = std::fs::read_to_string(&page).unwrap();
    assert!(page.contains("<svg") && page.contains("192.0.2.1") && page.contains("15/min"));
    assert!(
        !page.contains("<script") && !page.contains("http://")
            || page.contains("xmlns=\"http://www.w3.org/2000/svg\"")
    );
}

/// Whatever the log is written in, the same is said: combined and JSON, compressed, in several files, from standard input.
#[tokio::test]
async fn formats_and_sources() {
    let files = Files::new("limits: [{name: keys, key: header.x-api-key, rate: 2/h}]\n");
    let nginx = r#"{"time_iso8601":"2026-11-01T10:00:00+00:00","remote_addr":"192.0.2.1","request_method":"GET","request_uri":"/a","host":"a","status":"200","http_x_api_key":"k\"1","request_time":"0.010"}"#;
    let caddy = r#"{"level":"info","ts":1793527201.25,"logger":"http.log.access","request":{"remote_ip":"192.0.2.1","client_ip":"192.0.2.1","proto":"HTTP/2.0","method":"GET","host":"a","uri":"/a","headers":{"X-Api-Key":["k\"1"]}},"duration":0.0009,"status":200}"#;
    let traefik = r#"{"StartUTC":"2026-11-01T10:00:02.5Z","ClientHost":"192.0.2.1","RequestMethod":"GET","RequestPath":"/a","RequestHost":"a","DownstreamStatus":200,"Duration":1000000,"request_X-Api-Key":"k\"1"}"#;
    let plain = files.write("one.log", format!("{nginx}\n{caddy}\n").as_bytes());
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(format!("{traefik}\n\n").as_bytes()).unwrap();
    let packed = files.write("two.log.gz", &gz.finish().unwrap());
    let report = files.json(&[&plain, &packed]).await;
    assert_eq!((&report["requests"], &report["denied"]), (&3.into(), &1.into()), "{report}");
    assert_eq!(report["limits"][0]["top"][0]["key"], r#""k\"1""#);
    assert_eq!(report["limits"][0]["top"][0]["needs"], "2/h, burst 3");
    assert_eq!(
        (&report["from"], &report["to"]),
        (&"2026-11-01T09:59:59Z".into(), &"2026-11-01T10:00:02Z".into())
    );

    let mut child = command(&["replay", "--config", &files.path("limits.yaml"), "--json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut input, format!("{nginx}\n{caddy}\n{traefik}").as_bytes())
        .await
        .unwrap();
    drop(input);
    let output = soon("the report", child.wait_with_output()).await.unwrap();
    let piped: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(piped["denied"], 1);
}

/// Failed log-ins alone count, permits are held as long as requests took, and seconds are not moments.
#[tokio::test]
async fn what_a_log_knows_about_the_end_of_requests_counts() {
    let files = Files::new(
        "limits:\n\
         - {name: failures, match: {path: /login}, key: client.ip, rate: 1/day, count: {status: [401]}}\n\
         - {name: slow, match: {path: /slow}, key: client.ip, concurrency: 1}\n\
         - {name: steady, match: {path: /fast}, key: client.ip, rate: 10/s, burst: 1}\n",
    );
    let mut log = String::new();
    for (second, status) in [(0, 200), (1, 200), (2, 401), (3, 200)] {
        log += &line("192.0.2.1", second, "POST /login", status);
    }
    for (second, took) in [(10.0, 5.0), (12.0, 1.0), (15.5, 1.0)] {
        let ts = 1_793_527_200.0 + second;
        writeln!(
            log,
            r#"{{"time":{ts},"client":"192.0.2.1","path":"/slow","duration":{took},"status":200}}"#
        )
        .unwrap();
    }
    // Ten in one second are ten a second.
    for _ in 0..10 {
        log += &line("192.0.2.1", 20, "GET /fast", 200);
    }
    let log = files.write("access.log", log.as_bytes());
    let report = files.json(&[&log]).await;
    let denied: Vec<_> = (0..3).map(|limit| report["limits"][limit]["denied"].as_u64().unwrap()).collect();
    assert_eq!(denied, [1, 1, 0], "{report}");
    assert_eq!(report["limits"][1]["top"][0]["needs"], "2 at once");
}

#[tokio::test]
async fn logs_that_are_none_and_times_that_run_backwards() {
    let files = Files::new("limits: [{name: all, rate: 1/h}]\n");
    let (code, out, err) = files.replay(&[&files.path("missing.log"), &files.path("")]).await;
    assert_eq!((code, &*out), (2, ""));
    let faults: Vec<_> = err.lines().collect();
    assert_eq!(faults.len(), 2, "{err}");
    assert!(faults[0].contains("missing.log") && faults[1].contains("this is a directory"), "{err}");

    let empty = files.write("empty.log", b"");
    let (code, out, _) = files.replay(&["--html", &files.path("empty.html"), &empty]).await;
    assert!(code == 0 && out.contains("no requests"), "{out}");

    let mut log = line("192.0.2.1", 100, "GET /", 200) + &line("192.0.2.1", 10, "GET /", 200);
    log += &"x".repeat(70_000);
    log += "\n\0\u{1b}[31m evil\n<script>alert(1)</script>\n";
    log += &line("192.0.2.1", 101, "GET /", 200);
    let log = files.write("odd.log", log.as_bytes());
    let page = files.path("odd.html");
    let (code, out, _) = files.replay(&["--html", &page, &log]).await;
    assert_eq!(code, 0);
    assert!(out.contains("3 requests") && out.contains("1 requests stand behind later ones"), "{out}");
    assert!(
        out.contains("1 lines are no requests: longer than 64 KiB")
            && out.contains("2 lines are no requests"),
        "{out}"
    );
    assert!(!out.contains('\u{1b}'), "a log writes nothing on the terminal: {out}");
    assert!(!std::fs::read_to_string(&page).unwrap().contains("<script"));
}
