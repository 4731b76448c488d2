//! Another configuration while the proxy runs: the program itself, real files, links and signals.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::origin::{Origin, Reply};
use crate::support::program::{Program, ask};
use crate::support::raw_client::{Client, Response};
use crate::support::soon;
use crate::support::tokens::{Issuer, Signer, jwks, now};
use tokio::process::Command;
use tokio::sync::{mpsc, watch};

/// A directory of its own, removed when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ratelimit-reload-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A proxy with its configuration in a file.
struct Setup {
    program: Program,
    upstream: SocketAddr,
    file: PathBuf,
    _directory: Directory,
}

impl Setup {
    /// `limits` is the list, `rest` are more lines.
    async fn start(name: &str, upstream: SocketAddr, limits: &str, rest: &str) -> Self {
        let directory = Directory::new(name);
        let file = directory.0.join("proxy.yaml");
        std::fs::write(&file, text(upstream, limits, rest)).unwrap();
        let program = Program::run(&["--config", file.to_str().unwrap()]).await;
        Self { program, upstream, file, _directory: directory }
    }

    /// Writes another file and has it read.
    async fn reload(&self, limits: &str, rest: &str) -> Response {
        std::fs::write(&self.file, text(self.upstream, limits, rest)).unwrap();
        post(&self.program).await
    }

    /// `RateLimit-Policy`, and units left, of an answer that is allowed.
    async fn left(&self, path: &str) -> (String, u32) {
        let response = self.program.get(path).await;
        assert_eq!(response.status, 200, "{}", response.head);
        let left = response.field("ratelimit").unwrap().split_once(";r=").unwrap().1;
        let left = left.split(';').next().unwrap().parse().unwrap();
        (response.field("ratelimit-policy").unwrap().to_owned(), left)
    }
}

fn text(upstream: SocketAddr, limits: &str, rest: &str) -> String {
    format!("upstream: http://{upstream}\nlimits: [{limits}]\n{rest}\n")
}

async fn post(program: &Program) -> Response {
    ask(program.admin, "POST", "/api/reload", "").await
}

/// The value of a metric, labels and all; `None` if there is no such series.
async fn metric(program: &Program, name: &str) -> Option<f64> {
    let page = program.admin("/metrics").await;
    let found = page.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.map(|value| value.parse().unwrap())
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    soon(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

const APPLIED: &str = "ratelimit_config_reloads_total{outcome=\"applied\"}";
const REFUSED: &str = "ratelimit_config_reloads_total{outcome=\"refused\"}";

/// Row 127, "reload valid": a signal, and the next request is served by the new rules.
#[tokio::test]
async fn sighup_puts_another_configuration_in_force() {
    let origin = Origin::hello().await;
    let mut setup = Setup::start("hup", origin.address, "{name: a, rate: 2/h, key: client.ip}", "").await;
    assert_eq!(metric(&setup.program, APPLIED).await, Some(0.0));
    assert_eq!(setup.left("/").await, ("\"a\";q=2;w=3600".into(), 1));
    let mut client = Client::connect(setup.program.proxy).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(client.get("/").await.status, 429);
    let new = text(origin.address, "{name: b, rate: 7/h, key: client.ip}", "response: {status: 403}");
    std::fs::write(&setup.file, new).unwrap();
    setup.program.signal("HUP").await;
    setup.program.log.line(&["in force", "limits=1"]).await;
    // On the connection that was there before.
    let response = client.get("/").await;
    assert_eq!((response.status, response.field("ratelimit-policy")), (200, Some("\"b\";q=7;w=3600")));
    for _ in 0..6 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(client.get("/").await.status, 403);
    assert_eq!(metric(&setup.program, APPLIED).await, Some(1.0));
    // What went has no series any more; what comes back goes on where it was.
    let denied = |name: &str| format!("ratelimit_decisions_total{{limit=\"{name}\",outcome=\"denied\"}}");
    assert_eq!(metric(&setup.program, &denied("a")).await, None);
    assert_eq!(metric(&setup.program, &denied("b")).await, Some(1.0));
    assert_eq!(setup.reload("{name: a, rate: 2/h, key: client.ip}", "").await.status, 200);
    assert_eq!(metric(&setup.program, &denied("a")).await, Some(1.0));
    assert_eq!(setup.program.get("/").await.status, 429, "its counters lived on");
    assert_eq!(metric(&setup.program, &denied("a")).await, Some(2.0));
    let limits = setup.program.admin("/api/limits").await;
    assert!(limits.text().contains("\"name\":\"a\"") && !limits.text().contains("\"name\":\"b\""));
    assert_eq!(setup.program.child.try_wait().unwrap(), None);
}

/// Row 128, "reload lowers or raises B, r; renames a rule": a key keeps its time to recovery, cut to the new full
/// one; a new name is a new limit.
#[tokio::test]
async fn a_key_keeps_its_time_to_recovery() {
    let origin = Origin::hello().await;
    let limit = |rate: &str| format!("{{name: a, rate: {rate}, key: client.ip}}");
    let setup = Setup::start("keeps", origin.address, &limit("10/h"), "").await;
    for left in [9, 8, 7, 6, 5] {
        assert_eq!(setup.left("/").await.1, left);
    }
    // Half an hour to recover: half of a hundred an hour, and then one.
    assert_eq!(setup.reload(&limit("100/h"), "").await.status, 200);
    assert_eq!(setup.left("/").await, ("\"a\";q=100;w=3600".into(), 49));
    // Half an hour and 36 s: two of four an hour and a little, and then one.
    assert_eq!(setup.reload(&limit("4/h"), "").await.status, 200);
    assert_eq!(setup.left("/").await.1, 0);
    // Nearly an hour, cut to the minute that this one takes.
    assert_eq!(setup.reload(&limit("6/min"), "").await.status, 200);
    let denied = setup.program.get("/").await;
    assert_eq!(denied.status, 429);
    let wait: u32 = denied.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=10).contains(&wait), "{wait} s for one of six a minute");
    // Another algorithm or another name: a fresh start.
    let sliding = "{name: a, rate: 6/min, key: client.ip, algorithm: sliding_window}";
    assert_eq!(setup.reload(sliding, "").await.status, 200);
    assert_eq!(setup.left("/").await.1, 5);
    assert_eq!(setup.reload("{name: b, rate: 6/min, key: client.ip}", "").await.status, 200);
    assert_eq!(setup.left("/").await.1, 5);
}

/// Row 127, "invalid / half-written file": the old one stays in force, and each fault is told.
#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_why() {
    let origin = Origin::hello().await;
    let limit = "{name: a, rate: 5/h, key: client.ip}";
    let mut setup = Setup::start("bad", origin.address, limit, "").await;
    assert_eq!(setup.left("/").await.1, 4);
    let refused = setup.reload("{name: a, rat: 5/h}", "lissten: 1").await;
    assert_eq!((refused.status, refused.field("content-type")), (422, Some("application/problem+json")));
    let told = refused.text();
    for words in ["proxy.yaml:2:", "rat", "proxy.yaml:3:", "lissten", "stays in force"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    for words in ["rat", "lissten"] {
        setup.program.log.line(&["ERROR", "refused", words]).await;
    }
    // Half of a file, no text, nothing, and no file at all.
    let whole = text(origin.address, limit, "");
    let half = &whole.as_bytes()[..whole.len() / 2];
    for (bytes, refusals) in [(half, 2.0), (b"\xff\xfe", 3.0), (b"", 4.0)] {
        std::fs::write(&setup.file, bytes).unwrap();
        setup.program.signal("HUP").await;
        until("a refusal", async || metric(&setup.program, REFUSED).await >= Some(refusals)).await;
    }
    std::fs::remove_file(&setup.file).unwrap();
    assert_eq!(post(&setup.program).await.status, 422);
    assert_eq!(metric(&setup.program, APPLIED).await, Some(0.0));
    assert_eq!(setup.left("/").await, ("\"a\";q=5;w=3600".into(), 3));
    // And it is not the worse for that.
    assert_eq!(setup.reload("{name: a, rate: 10/h, key: client.ip}", "").await.status, 200);
    assert_eq!(setup.left("/").await.0, "\"a\";q=10;w=3600");
}

/// Without being told: a file that is written anew, one that is renamed into its place, and one behind a link
/// that is swapped in the middle of the path, as Kubernetes does.
#[tokio::test]
async fn a_changed_file_is_noticed_however_it_changes() {
    let origin = Origin::hello().await;
    let directory = Directory::new("links");
    let at = |path: &str| directory.0.join(path);
    let version = |name: &str, count: u32| {
        std::fs::create_dir(at(name)).unwrap();
        let limit = format!("{{name: a, rate: {count}/h, key: client.ip}}");
        std::fs::write(at(name).join("proxy.yaml"), text(origin.address, &limit, "")).unwrap();
    };
    let link = |to: &str| {
        std::os::unix::fs::symlink(to, at("..data.new")).unwrap();
        std::fs::rename(at("..data.new"), at("..data")).unwrap();
    };
    version("..1", 100);
    link("..1");
    std::os::unix::fs::symlink("..data/proxy.yaml", at("proxy.yaml")).unwrap();
    let program = Program::run(&["--config", at("proxy.yaml").to_str().unwrap()]).await;
    let in_force = async |count: u32| {
        let policy = format!("\"a\";q={count};w=3600");
        until(&policy, async || program.get("/").await.field("ratelimit-policy") == Some(&policy)).await;
    };
    in_force(100).await;
    version("..2", 200);
    link("..2");
    in_force(200).await;
    std::fs::remove_dir_all(at("..1")).unwrap();
    let write = |path: &Path, count: u32| {
        let limit = format!("{{name: a, rate: {count}/h, key: client.ip}}");
        std::fs::write(path, text(origin.address, &limit, "")).unwrap();
    };
    write(&at("..2/proxy.yaml"), 300);
    in_force(300).await;
    write(&at("other.yaml"), 400);
    std::fs::rename(at("other.yaml"), at("..2/proxy.yaml")).unwrap();
    in_force(400).await;
    // Counted as soon as it is in force, not before.
    until("it to be counted", async || metric(&program, APPLIED).await == Some(3.0)).await;
    assert_eq!(metric(&program, REFUSED).await, Some(0.0));
}

/// Row 34: trailers are cleaned by the rules that their request began with, whatever has come into force since.
#[tokio::test]
async fn trailers_are_cleaned_by_the_rules_that_their_request_began_with() {
    let origin = Origin::hello().await;
    let by = |key: &str| format!("{{name: a, rate: 1000/s, key: header.{key}}}");
    let one = "server: {threads: 1}";
    let setup = Setup::start("trailers", origin.address, &by("x-before"), one).await;
    let mut client = Client::connect(setup.program.proxy).await;
    let head =
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\ntrailer: x-before, x-after\r\n\r\n";
    client.send([head, "5\r\nhello\r\n"].concat()).await;
    origin.until("the request to be on its way", |record| record.accepted == 1).await;
    assert_eq!(setup.reload(&by("x-after"), one).await.status, 200);
    assert_eq!(setup.program.get("/").await.status, 200);
    client.send("0\r\nx-before: 1\r\nx-after: 2\r\n\r\n").await;
    assert_eq!(client.response().await.status, 200);
    let seen = origin.seen().into_iter().find(|seen| seen.line().starts_with("POST")).unwrap();
    assert_eq!(seen.trailers, ["x-after: 2"]);
}

/// Row 127, "in-flight finish under the old rules": where it goes, what it is told, what it holds.
#[tokio::test]
async fn what_is_under_way_ends_as_it_began() {
    let (asked, mut asks) = mpsc::channel(1);
    let (answer, answered) = watch::channel(false);
    let old = Origin::start(move |seen| {
        if seen.line() != "GET /slow HTTP/1.1" {
            return Reply::ok("old");
        }
        let (asked, mut answered) = (asked.clone(), answered.clone());
        Reply::Take(Box::new(move |mut socket| {
            Box::pin(async move {
                asked.send(()).await.unwrap();
                answered.wait_for(|answered| *answered).await.unwrap();
                let response = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nslow old";
                tokio::io::AsyncWriteExt::write_all(&mut socket, response).await.unwrap();
                // It would take another request.
                let _ = tokio::io::AsyncReadExt::read(&mut socket, &mut [0]).await;
            })
        }))
    })
    .await;
    let new = Origin::start(|_| Reply::ok("new")).await;
    let permits = |count: u32| format!("{{name: slow, concurrency: {count}, match: {{path: /slow}}}}");
    let limits =
        |count: u32, rate: &str| format!("{}, {{name: a, rate: {rate}, key: client.ip}}", permits(count));
    let mut setup = Setup::start("under-way", old.address, &limits(1, "5/h"), "server: {threads: 1}").await;
    assert_eq!(setup.program.get("/").await.text(), "old");
    let mut slow = Client::connect(setup.program.proxy).await;
    slow.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").await;
    soon("the request", asks.recv()).await.unwrap();
    assert_eq!(old.record().open, 1, "the connection of the first request is used again");

    setup.upstream = new.address;
    let more = "server: {threads: 1}\nresponse: {headers: legacy}";
    assert_eq!(setup.reload(&limits(1, "9/h"), more).await.status, 200);
    assert_eq!(setup.program.get("/slow").await.status, 429, "its permit is held under the new rules, too");
    let other = setup.program.get("/").await;
    assert_eq!((other.text(), other.field("x-ratelimit-limit")), ("new", Some("9")));
    answer.send(true).unwrap();
    let response = slow.response().await;
    assert_eq!(response.text(), "slow old");
    assert!(response.field("ratelimit-policy").unwrap().contains("\"a\";q=5;w=3600"), "{}", response.head);
    assert_eq!(response.field("x-ratelimit-limit"), None);
    // Its connection leads where nothing goes any more, and its permit is free.
    old.until("the old connection to be given up", |record| record.open == 0).await;
    until("the permit", async || setup.program.get("/slow").await.text() == "new").await;
    assert_eq!(slow.get("/").await.text(), "new");
}

/// What can't change while it runs is kept, and said to be; flags stand, whatever the file says.
#[tokio::test]
async fn what_can_not_change_is_kept_and_said_to_be() {
    let origin = Origin::hello().await;
    let limit = "{name: a, rate: 5/h, key: client.ip}";
    let mut setup = Setup::start("kept", origin.address, limit, "").await;
    let rest =
        "listen: 127.0.0.1:1\nadmin: off\nstore: {memory: {max_keys: 5}}\nserver: {threads: 7, drain: 1s}";
    let told = setup.reload("{name: a, rate: 6/h, key: client.ip}", rest).await;
    let kept = r#"{"detail":"store, server.threads, server.drain can't change before the next start","kept":["store","server.threads","server.drain"],"limits":1,"outcome":"applied"}"#;
    assert_eq!((told.status, told.text()), (200, kept));
    setup.program.log.line(&["WARN", "next start", "store, server.threads, server.drain"]).await;
    assert_eq!(setup.left("/").await.0, "\"a\";q=6;w=3600");
}

/// Who is believed changes with the limits that ask for it, as one; and not before there are keys.
#[tokio::test]
async fn other_keys_of_tokens_come_into_force_with_their_limits_and_not_before_they_are_there() {
    let origin = Origin::hello().await;
    let (old, new) = (Signer::p256(), Signer::p256());
    let limit = "{name: a, rate: 2/h, key: jwt.sub, missing: deny}";
    let setup = Setup::start("jwt", origin.address, "{name: a, rate: 1000/h, key: client.ip}", "").await;
    let file = |name: &str, text: &str| {
        let path = setup.file.with_file_name(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let status = async |signer: &Signer, who: &str| {
        let token = signer.token(None, serde_json::json!({"sub": who, "exp": now() + 600}));
        ask(setup.program.proxy, "GET", "/", &format!("Authorization: Bearer {token}\r\n")).await.status
    };
    assert_eq!(status(&old, "ann").await, 200);

    let rest = format!("jwt: {{public_key_file: {}}}", file("old.pem", &old.pem()));
    assert_eq!(setup.reload(limit, &rest).await.status, 200);
    assert_eq!((status(&old, "ann").await, status(&new, "ann").await), (200, 429));
    // The same again keeps what was counted.
    assert_eq!(setup.reload(limit, &format!("{rest}\nresponse: {{status: 403}}")).await.status, 200);
    assert_eq!((status(&old, "ann").await, status(&old, "ann").await), (200, 403));

    // Nothing that could vouch for anybody: the old ones stay.
    let gone = crate::beside::free_port();
    for (jwt, why) in [
        (format!("public_key_file: {}", file("none.pem", "no key")), "none.pem"),
        (format!("jwks_url: http://127.0.0.1:{gone}/keys"), "no keys were to be had"),
    ] {
        let told = setup.reload(limit, &format!("jwt: {{{jwt}}}")).await;
        assert!(told.status == 422 && told.text().contains(why), "{why}: {}", told.text());
        assert_eq!((status(&old, "bob").await, status(&new, "bob").await), (200, 403), "{why}");
    }

    let issuer = Issuer::start(jwks(&[("new", &new)])).await;
    assert_eq!(setup.reload(limit, &format!("jwt: {{jwks_url: {}/keys}}", issuer.name())).await.status, 200);
    assert_eq!((status(&new, "cid").await, status(&old, "cid").await), (200, 429));
    // What was used stays used, whoever vouches for it.
    assert_eq!(status(&new, "ann").await, 429);
    assert_eq!(setup.reload("{name: a, rate: 1000/h, key: client.ip}", "").await.status, 200);
    assert_eq!(status(&old, "ann").await, 200);
}

/// Who may ask, and how.
#[tokio::test]
async fn only_operators_reload() {
    let origin = Origin::hello().await;
    let setup = Setup::start("who", origin.address, "1/h by client.ip", "").await;
    let admin = setup.program.admin;
    let get = setup.program.admin("/api/reload").await;
    assert_eq!((get.status, get.field("allow")), (405, Some("POST")));
    for origin in ["http://evil.example", "null", "http://localhost:1"] {
        let response = ask(admin, "POST", "/api/reload", &format!("Origin: {origin}\r\n")).await;
        assert_eq!(response.status, 403, "{origin}");
    }
    let own = ask(admin, "POST", "/api/reload", "Origin: http://localhost\r\n").await;
    assert_eq!(own.status, 200, "{}", own.text());
    let flags = Program::start(origin.address, &["1/h by client.ip"]).await;
    assert_eq!(post(&flags).await.status, 409);
}

/// Row 129, "reload storm 100/s": what comes together is done together, and traffic does not notice.
#[tokio::test]
async fn a_storm_of_signals_is_a_few_reloads() {
    let origin = Origin::hello().await;
    let setup = Setup::start("storm", origin.address, "{name: a, rate: 1000000/s, key: client.ip}", "").await;
    let id = setup.program.child.id().unwrap();
    let storm = format!("for i in $(seq 200); do kill -HUP {id}; sleep 0.01; done");
    let mut storm = Command::new("sh").args(["-c", &storm]).spawn().unwrap();
    let mut client = Client::connect(setup.program.proxy).await;
    let (start, mut requests) = (std::time::Instant::now(), 0);
    while storm.try_wait().unwrap().is_none() {
        assert_eq!(client.get("/").await.status, 200);
        requests += 1;
    }
    let most = 3.0 + start.elapsed().as_secs_f64() / 0.25;
    until("the last one", async || metric(&setup.program, APPLIED).await >= Some(2.0)).await;
    let applied = metric(&setup.program, APPLIED).await.unwrap();
    assert!(applied <= most, "{applied} reloads for 200 signals");
    assert!(requests > 10, "{requests} requests were served meanwhile");
}

/// Row 129, "no leak of old rule sets (memory flat)": a thousand reloads of two hundred limits.
#[tokio::test]
async fn a_thousand_reloads_leave_nothing_behind() {
    let origin = Origin::hello().await;
    let limits = |round: u32| {
        let limit = |n: u32| {
            let rate = round % 50 + 1;
            format!(
                "{{name: limit-{n}, rate: {rate}/s, key: client.ip, match: {{path: /{n}/**, host: \"*.example.com\"}}}}"
            )
        };
        (0..200).map(limit).collect::<Vec<_>>().join(", ")
    };
    let setup = Setup::start("leak", origin.address, &limits(0), "server: {threads: 1}").await;
    let mut client = Client::connect(setup.program.proxy).await;
    let mut resident = Vec::new();
    for round in 1..=1000 {
        let told = setup.reload(&limits(round), "server: {threads: 1}").await;
        assert_eq!(told.status, 200, "{}", told.text());
        // So that the thread takes the new rules up.
        assert_eq!(client.get("/").await.status, 200);
        if round % 200 == 0 {
            resident.push(metric(&setup.program, "process_resident_memory_bytes").await.unwrap());
        }
    }
    let (first, last) = (resident[0], resident[4]);
    assert!(last - first < f64::from(4 << 20), "resident memory: {resident:?}");
    let applied = metric(&setup.program, APPLIED).await.unwrap();
    assert!((1000.0..1030.0).contains(&applied), "{applied}");
}
