//! The program as a user runs it: what it says, with which code it ends, and that it serves, limits and stops in
//! order.

use std::sync::{Arc, Mutex};

use crate::support::origin::{Origin, Reply};
use crate::support::program::{Program, address, ask, command, parts, run, run_unread};
use crate::support::raw_client::Client;
use crate::support::soon;
use tokio::sync::oneshot;

#[tokio::test]
async fn help_names_what_there_is() {
    let output = run(&["--help"]).await;
    let (code, out, err) = parts(&output);
    assert_eq!((code, err), (0, ""));
    for word in
        ["demo", "check", "explain", "schema", "--config", "--upstream", "--limit", "Examples:", "Exit codes"]
    {
        assert!(out.contains(word), "{word} in {out}");
    }
    assert!(!out.contains('\u{1b}'), "colours are for terminals: {out:?}");
    let output = run(&["--version"]).await;
    assert_eq!(parts(&output), (0, concat!("ratelimit-proxy ", env!("CARGO_PKG_VERSION"), "\n"), ""));
}

#[tokio::test]
async fn bad_usage_is_two_and_a_line_for_each_fault() {
    let up = ["--upstream", "http://127.0.0.1:9"];
    let cases: [(&[&str], &[&str]); 14] = [
        (&[], &["--config FILE"]),
        (&["--nonsense"], &["'--nonsense'"]),
        (&["demmo"], &["'demmo'"]),
        (&["--upstream", "ftp://x"], &["scheme of an upstream must be http"]),
        (&["--limit", "1/s by client.ip"], &["--upstream"]),
        (&[up[0], up[1], "--config", "x.yaml"], &["--config"]),
        (&[up[0], up[1], "--listen", "nowhere"], &["address and a port"]),
        (&[up[0], up[1], "--admin", "maybe"], &["address and a port"]),
        (&[up[0], up[1], "--redis", "http://:secret@x"], &["the scheme of a store must be redis"]),
        (&[up[0], up[1], "--leased"], &["--leased needs a store to lease from: --redis URL"]),
        (&[up[0], up[1], "--limit", "1/x", "--limit", "x by client.ip"], &["\"1/x\"", "\"x by client.ip\""]),
        (&["--listen", "127.0.0.1:0", "demo"], &["behind the command"]),
        (&["demo", "--for", "soon"], &["10s"]),
        (&["--config", "/there/is/no/such/file.yaml"], &["/there/is/no/such/file.yaml"]),
    ];
    for (arguments, words) in cases {
        let output = run(arguments).await;
        let (code, out, err) = parts(&output);
        assert_eq!((code, out), (2, ""), "{arguments:?}: {err}");
        assert!(!err.contains("secret"), "{err}");
        let lines: Vec<_> = err.lines().collect();
        assert_eq!(lines.len(), words.len(), "{arguments:?}: {err}");
        for (line, word) in lines.iter().zip(words) {
            assert!(line.contains(word), "{arguments:?}: {word} in {line}");
        }
    }
}

#[tokio::test]
async fn output_that_nobody_reads_is_no_error() {
    let output = run_unread(&["--help"]).await;
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
}

#[tokio::test]
async fn it_serves_and_limits_and_says_so() {
    let origin = Origin::hello().await;
    let mut program = Program::start(origin.address, &["3/min by client.ip"]).await;
    for _ in 0..3 {
        let response = program.get("/a").await;
        assert_eq!((response.status, response.text()), (200, "hello"));
    }
    let denied = program.get("/b").await;
    assert_eq!(denied.status, 429);
    assert!(denied.text().contains("quota-exceeded"), "{}", denied.text());
    let line = program.log.line(&["denied", "path=/b"]).await;
    assert!(
        line.contains("limit=") && line.contains("client=127.0.0.1") && line.contains("retry_after="),
        "{line}"
    );
    assert_eq!(origin.seen().len(), 3);
    let start = program.log.now();
    assert!(start.contains(&format!("http://{}", origin.address)) && start.contains("3/min"), "{start}");
    program.signal("TERM").await;
    assert_eq!(program.exit().await, 0);
}

#[tokio::test]
async fn sigterm_lets_requests_finish_and_sheds_the_rest() {
    let (release, hold) = oneshot::channel::<()>();
    let hold = Arc::new(Mutex::new(Some(hold)));
    let origin = Origin::start(move |_| {
        let hold = hold.lock().unwrap().take().unwrap();
        Reply::Take(Box::new(move |mut socket| {
            Box::pin(async move {
                hold.await.unwrap();
                let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate";
                tokio::io::AsyncWriteExt::write_all(&mut socket, bytes).await.unwrap();
            })
        }))
    })
    .await;
    let mut program = Program::start(origin.address, &["100/s by client.ip"]).await;
    assert_eq!(program.admin("/readyz").await.status, 200);
    let mut client = Client::connect(program.proxy).await;
    client.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").await;
    origin.until("the request", |record| record.seen.len() == 1).await;

    program.signal("TERM").await;
    program.log.line(&["draining"]).await;
    // Not ready any more, but alive, and reachable for those who want to know.
    assert_eq!(program.admin("/readyz").await.status, 503);
    assert_eq!(program.admin("/livez").await.status, 200);
    release.send(()).unwrap();
    let response = client.response().await;
    assert_eq!(
        (response.status, response.text(), response.field("connection")),
        (200, "late", Some("close"))
    );
    assert_eq!(program.exit().await, 0);
    program.log.line(&["stopped", "finished=1", "cut=0"]).await;
}

#[tokio::test]
async fn a_second_signal_cuts_what_is_under_way_and_is_a_failure() {
    let origin = Origin::start(|_| Reply::hang()).await;
    let mut program = Program::start(origin.address, &["100/s by client.ip"]).await;
    let mut client = Client::connect(program.proxy).await;
    client.send("GET /never HTTP/1.1\r\nHost: test\r\n\r\n").await;
    origin.until("the request", |record| record.seen.len() == 1).await;
    program.signal("INT").await;
    program.log.line(&["draining", "SIGINT"]).await;
    program.signal("TERM").await;
    assert_eq!(program.exit().await, 1);
    program.log.line(&["stopped", "cut=1"]).await;
}

/// Two proxies could share an address without an error, each getting some of the connections.
#[tokio::test]
async fn an_address_in_use_is_named_and_nothing_half_starts() {
    let origin = Origin::hello().await;
    let upstream = format!("http://{}", origin.address);
    let program = Program::start(origin.address, &["100/s by client.ip"]).await;
    let (proxy, admin) = (program.proxy.to_string(), program.admin.to_string());
    for (arguments, taken) in [
        (["--listen", &*proxy, "--admin", "127.0.0.1:0"], &proxy),
        (["--listen", "127.0.0.1:0", "--admin", &*admin], &admin),
    ] {
        let mut all = vec!["--upstream", &upstream];
        all.extend(arguments);
        let output = run(&all).await;
        let (code, _, err) = parts(&output);
        assert_eq!(code, 1, "{err}");
        // Where `ulimit -n` is low, a warning says so.
        let said: Vec<_> = err.lines().filter(|line| !line.contains("WARN")).collect();
        assert_eq!(said.len(), 1, "nothing listened: {err}");
        assert!(err.contains(&format!("can't listen on {taken}")), "{err}");
    }
    assert_eq!(program.get("/").await.status, 200);
}

#[tokio::test]
async fn a_log_for_machines_is_json_and_clients_write_nothing_into_it() {
    let origin = Origin::hello().await;
    let limits = ["1/h by client.ip"];
    let mut program = Program::start_with(origin.address, &limits, &["--log", "json"]).await;
    program.get("/").await;
    let evil = format!("/%0d%0afake%1b%5b31m{}", "a".repeat(10_000));
    assert_eq!(program.get(&evil).await.status, 429);
    let odd = ask(program.proxy, "M\"ETHOD", "/x", "").await;
    assert!(matches!(odd.status, 400 | 429), "{odd:?}");
    assert_eq!(ask(program.proxy, "BREW", "/y\u{7f}", "").await.status / 100, 4);
    assert_eq!(ask(program.proxy, "BREW", "/y", "").await.status, 429);
    let line = program.log.line(&["denied", "/y", "OTHER"]).await;
    assert!(!line.contains("BREW"), "{line}");
    let text = program.log.now();
    for line in text.lines() {
        assert!(line.len() < 1000, "{line}");
        let value: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(value["level"].is_string() && value["message"].is_string(), "{line}");
    }
    assert!(text.contains("more bytes"), "{text}");
    address(text.lines().find(|line| line.contains("listening")).unwrap());
}

/// A wrong port in `--upstream` must not be a riddle; a broken upstream must not flood the log either.
#[tokio::test]
async fn an_upstream_that_is_down_is_told_and_not_for_every_request() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut program = Program::start(nobody, &["100/s by client.ip"]).await;
    for _ in 0..30 {
        assert_eq!(program.get("/").await.status, 502);
    }
    program.log.line(&["WARN", "the upstream can't be reached", &nobody.to_string()]).await;
    program.signal("TERM").await;
    assert_eq!(program.exit().await, 0);
    // Six at once, and one every ten seconds.
    let told = program.log.now().matches("can't be reached").count();
    assert!((1..15).contains(&told), "{told} lines");
}

/// A key that an operator asked to see can be read.
#[tokio::test]
async fn a_plain_key_in_the_log_is_for_people() {
    let origin = Origin::hello().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("limits.yaml");
    let yaml = format!(
        "upstream: http://{}\nlisten: 127.0.0.1:0\nadmin: 127.0.0.1:0\nlog: {{keys: plain}}\n\
         limits: [{{name: one, key: [header.k, client.ip], rate: 1/day}}]",
        origin.address
    );
    std::fs::write(&file, yaml).unwrap();
    let mut program = Program::run(&["--config", file.to_str().unwrap()]).await;
    for _ in 0..2 {
        ask(program.proxy, "GET", "/", "k: ann\r\n").await;
    }
    program.log.line(&["denied", "key=\"ann\", 127.0.0.1"]).await;
}

/// Requests go on when stderr is full, and when it is closed.
#[tokio::test]
async fn nobody_waits_for_the_log() {
    let origin = Origin::hello().await;
    let upstream = format!("http://{}", origin.address);
    let (reader, writer) = std::io::pipe().unwrap();
    let mut filler = writer.try_clone().unwrap();
    let arguments = [
        "--upstream",
        &upstream,
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--limit",
        "1/h by client.ip",
    ];
    let mut child = command(&arguments).stderr(writer).spawn().unwrap();
    // The start-up lines come one by one, so that nothing behind them is read.
    let (reader, lines) = tokio::task::spawn_blocking(move || {
        let mut reader = reader;
        let (mut text, mut byte) = (String::new(), [0]);
        while text.matches('\n').count() < 4 {
            assert_eq!(std::io::Read::read(&mut reader, &mut byte).unwrap(), 1, "{text}");
            text.push(char::from(byte[0]));
        }
        (reader, text)
    })
    .await
    .unwrap();
    let find = |word| address(lines.lines().find(|line| line.contains(word)).unwrap());
    let (proxy, admin) = (find("listening"), find("administration"));

    // More than a pipe holds: the thread ends when there is nobody to read.
    let full = std::thread::spawn(move || {
        let _ = std::io::Write::write_all(&mut filler, &vec![b'.'; 4 << 20]);
    });
    let mut client = Client::connect(proxy).await;
    assert_eq!(client.get("/").await.status, 200);
    for _ in 0..200 {
        assert_eq!(client.get("/").await.status, 429);
    }
    drop(reader);
    full.join().unwrap();
    // Now every line is lost, and counted.
    loop {
        assert_eq!(client.get("/").await.status, 429);
        let metrics = ask(admin, "GET", "/metrics", "").await;
        let lost = metrics.text().lines().find_map(|line| line.strip_prefix("proxy_log_lines_lost_total "));
        if lost.unwrap().parse::<u64>().unwrap() > 0 {
            break;
        }
    }
    crate::support::program::signal(&child, "TERM").await;
    assert_eq!(soon("the end", child.wait()).await.unwrap().code(), Some(0));
}

/// A file in a directory of its own, gone when dropped.
struct File(std::path::PathBuf);

impl File {
    fn new(text: &str) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("ratelimit-cli-{}-{number}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("limits.yaml"), text).unwrap();
        Self(directory)
    }

    fn path(&self) -> String {
        self.0.join("limits.yaml").to_str().unwrap().to_owned()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn check_and_run_tell_every_fault_and_where_it_is() {
    let file = File::new(
        "upstream: http://a\nlimits:\n  - {name: x, rate: 5/minn}\n  - {name: y, brust: 3, rate: 1/s}\n",
    );
    let path = file.path();
    for arguments in [&["check", "--config", &path][..], &["--config", &path], &["run", "--config", &path]] {
        let output = run(arguments).await;
        let (code, out, err) = parts(&output);
        assert_eq!((code, out), (2, ""), "{err}");
        let lines: Vec<_> = err.lines().collect();
        assert_eq!(lines.len(), 2, "{err}");
        assert!(lines[0].contains(&format!("{path}:3:")) && lines[0].contains("minn"), "{err}");
        assert!(lines[1].contains(&format!("{path}:4:")) && lines[1].contains("burst"), "{err}");
    }
    let file = File::new("{upstream: 'http://a', limits: [{name: x, rate: 5/min}]}");
    let output = run(&["check", "--config", &file.path()]).await;
    let (code, out, err) = parts(&output);
    assert_eq!((code, err), (0, ""));
    assert!(out.contains("1 limits in force"), "{out}");
}

#[tokio::test]
async fn the_schema_is_json() {
    let output = run(&["schema"]).await;
    let (code, out, err) = parts(&output);
    assert_eq!((code, err), (0, ""));
    let schema: serde_json::Value = serde_json::from_str(out).unwrap();
    assert!(schema["$defs"].is_object(), "{out}");
}

#[tokio::test]
async fn a_file_runs_and_flags_say_where() {
    let origin = Origin::hello().await;
    let text = format!(
        "upstream: http://{}\nlimits: [{{name: mine, key: client.ip, rate: 2/h}}]\nresponse: {{body: text}}\n\
         log: {{requests: all}}\n",
        origin.address
    );
    let file = File::new(&text);
    let path = file.path();
    let mut program = Program::run(&["--config", &path]).await;
    for status in [200, 200, 429] {
        let response = program.get("/all").await;
        assert_eq!(response.status, status);
        assert_eq!(response.text().starts_with("Too many requests"), status == 429);
    }
    program.log.line(&["answered", "path=/all", "status=429"]).await;
    program.log.line(&["answered", "path=/all", "status=200"]).await;
    program.log.line(&["denied", "limit=\"mine\""]).await;
    program.signal("TERM").await;
    assert_eq!(program.exit().await, 0);
}

#[tokio::test]
async fn explain_answers_as_the_proxy_would() {
    let file = File::new(
        "upstream: http://a\nlimits: [{name: login, match: {path: /login, methods: [POST]}, key: client.ip, rate: 5/min}]\n",
    );
    let path = file.path();
    let output = run(&["explain", "--config", &path, "POST /login", "-H", "x-api-key: k"]).await;
    assert_eq!(parts(&output).0, 0, "{output:?}");
    let output =
        run(&["explain", "--config", &path, "POST /login", "--json", "--client", "2001:db8::1"]).await;
    let (code, out, _) = parts(&output);
    assert_eq!(code, 0, "{output:?}");
    let _: serde_json::Value = serde_json::from_str(out).unwrap();
    // What leases may hold back: a figure that only the store's section decides.
    let leased = File::new(
        "upstream: http://a\nstore: {redis: redis://a, consistency: leased, replicas: 2}\nlimits: [{name: plan, key: header.x-api-key, \
         rate: 1000/s, overrides: [{key: gold, rate: 2000/s}, {key: free, unlimited: true}]}]\n",
    );
    for (key, words) in [
        ("x-api-key: any", "leases of 1 other replica may hold back 430 of 1000 at most, 1 s at most"),
        // Of the quota that is in force for the key.
        ("x-api-key: gold", "leases of 1 other replica may hold back 860 of 2000 at most, 1 s at most"),
    ] {
        let output = run(&["explain", "--config", &leased.path(), "/", "-H", key]).await;
        assert!(parts(&output).1.contains(words), "{output:?}");
    }
    let output = run(&["explain", "--config", &leased.path(), "/", "-H", "x-api-key: free"]).await;
    assert!(!parts(&output).1.contains("leases"), "{output:?}");
    for (request, words) in [
        ("GET /a%2fb", "the proxy would answer 400"),
        ("TRACE /", "the proxy would answer 405"),
        ("G(T /", "not a method"),
        ("GET not a url", "neither a path nor a URL"),
    ] {
        let output = run(&["explain", "--config", &path, request]).await;
        let (code, _, err) = parts(&output);
        assert_eq!(code, 2, "{request}");
        assert!(err.contains(words), "{request}: {err}");
    }
}
