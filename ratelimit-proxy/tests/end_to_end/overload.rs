//! More than there is room for: keys, connections, file descriptors, memory. What is served goes on being served,
//! operators can see what is wrong, and it is over when it is over.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::origin::Origin;
use crate::support::program::{Lines, Program, address};
use crate::support::raw_client::{Client, Response};
use crate::support::{PATIENCE, soon};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::process::Command;

/// A configuration in a file of its own, removed when dropped.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ratelimit-{name}-{}.yaml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A proxy of one thread in front of that upstream; `rest` are more lines of its configuration.
async fn start(name: &str, upstream: SocketAddr, rest: &str) -> (Program, File) {
    let file = File::new(name, &format!("upstream: http://{upstream}\n{rest}\n"));
    (Program::run(&["--config", file.path()]).await, file)
}

/// The value of a metric, labels and all.
async fn metric(program: &Program, name: &str) -> f64 {
    let page = program.admin("/metrics").await;
    let mut lines = page.text().lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {}", page.text())).parse().unwrap()
}

/// Waits until a metric is what it should be.
async fn until(program: &Program, name: &str, holds: impl Fn(f64) -> bool) -> f64 {
    soon(name, async {
        loop {
            let value = metric(program, name).await;
            if holds(value) {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

fn fds(program: &Program) -> Vec<u64> {
    let directory = std::fs::read_dir(format!("/proc/{}/fd", program.child.id().unwrap())).unwrap();
    directory.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// Seconds of processor time that a process has used.
fn processor_time(program: &Program) -> f64 {
    let process = procfs::process::Process::new(program.child.id().unwrap() as i32).unwrap();
    let stat = process.stat().unwrap();
    (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64
}

fn limit_descriptors(program: &Program, most: Option<u64>) {
    let pid = Pid::from_raw(program.child.id().unwrap() as i32);
    let before = prlimit(pid, Resource::Nofile, Rlimit { current: most, maximum: None });
    // An ordinary user may not take the hard limit away, but may keep it.
    if before.is_err() {
        let now = rustix::process::getrlimit(Resource::Nofile);
        let limit = Rlimit { current: most.or(now.maximum), maximum: now.maximum };
        prlimit(pid, Resource::Nofile, limit).unwrap();
    }
}

/// Rows 114 and 115 through the proxy: whoever invents keys finds no room for them at last, which is counted, and
/// resets nobody's counter.
#[tokio::test]
async fn invented_keys_find_no_room_and_reset_no_victim() {
    let origin = Origin::hello().await;
    let rest = "store: {memory: {max_keys: 100, overflow: deny}}\n\
                limits: [{name: key, key: header.x-key, rate: 2/day}]\nserver: {threads: 1}";
    let (program, _file) = start("keys", origin.address, rest).await;
    let mut client = Client::connect(program.proxy).await;
    let mut ask = async |key: &str| {
        client.send(format!("GET / HTTP/1.1\r\nhost: test\r\nx-key: {key}\r\n\r\n")).await;
        client.response().await.status
    };
    assert_eq!([ask("victim").await, ask("victim").await, ask("victim").await], [200, 200, 429]);
    let mut admitted = 0;
    for key in 0..3000 {
        admitted += usize::from(ask(&format!("invented-{key}")).await == 200);
    }
    assert_eq!(ask("victim").await, 429, "the victim's counter was reset");
    assert!((99..2000).contains(&admitted), "{admitted} keys found room");
    let (keys, overflowed) =
        ("ratelimit_keys{limit=\"key\"}", "ratelimit_keys_overflowed_total{limit=\"key\"}");
    assert_eq!(until(&program, keys, |keys| keys > 99.0).await, f64::from(admitted as u32 + 1));
    assert_eq!(metric(&program, overflowed).await, f64::from(3000 - admitted as u32));
}

/// Row 122, "fd limit": clients get only so many that each can have a connection to the upstream, more of them
/// wait, and none of it is an error.
#[tokio::test]
async fn few_file_descriptors_are_shared_out_beforehand() {
    let origin = Origin::hello().await;
    let program = env!("CARGO_BIN_EXE_ratelimit-proxy");
    let file =
        File::new("few", &format!("upstream: http://{}\nlimits: []\nserver: {{threads: 1}}", origin.address));
    let mut child = Command::new("prlimit")
        .args(["--nofile=128:128", program, "--config", file.path()])
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = Lines::of(child.stderr.take().unwrap());
    log.line(&["too few file descriptors", "wanted=10000", "served=36"]).await;
    let (proxy, admin) =
        (address(&log.line(&["listening"]).await), address(&log.line(&["administration"]).await));
    let program = Program { child, proxy, admin, log };
    assert_eq!(metric(&program, "proxy_max_connections").await, 36.0);

    let mut served = Vec::new();
    for _ in 0..36 {
        let mut client = Client::connect(proxy).await;
        assert_eq!(client.get("/").await.status, 200);
        served.push(client);
    }
    let mut waiting = Vec::new();
    for _ in 0..100 {
        let mut client = Client::connect(proxy).await;
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
        waiting.push(client);
    }
    until(&program, "proxy_connections_full_total", |times| times >= 1.0).await;
    assert_eq!(metric(&program, "proxy_connections").await, 36.0);
    // All at once, each with a connection of its own to the upstream.
    for client in &mut served {
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    }
    for client in &mut served {
        assert_eq!(client.response().await.status, 200);
    }
    drop(served);
    for mut client in waiting {
        assert_eq!(client.response().await.status, 200);
    }
    assert_eq!(metric(&program, "proxy_accept_errors_total").await, 0.0);
}

/// Row 122, "EMFILE back-off, existing traffic fine, admin port has reserve": the limit falls while the proxy runs.
#[tokio::test]
async fn without_file_descriptors_what_is_served_goes_on_and_the_rest_waits() {
    let origin = Origin::hello().await;
    let (mut program, _file) =
        start("emfile", origin.address, "limits: []\nserver: {threads: 1, timeouts: {head: 1h}}").await;
    let mut served = Client::connect(program.proxy).await;
    assert_eq!(served.get("/").await.status, 200);
    // Not until the connection that asked is gone is there one that can be used.
    until(&program, "proxy_connections", |connections| connections == 1.0).await;
    // The lowest number that is free is the next to be given out.
    let fds = fds(&program);
    let most = (0..).find(|number| !fds.contains(number)).unwrap();
    limit_descriptors(&program, Some(most));
    // More than the operators' connections give back meanwhile.
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(Client::connect(program.proxy).await);
    }
    program.log.line(&["connections can't be taken in"]).await;
    let (start, used) = (Instant::now(), processor_time(&program));
    assert_eq!(served.get("/").await.status, 200, "it has its connection to the upstream already");
    until(&program, "proxy_accept_errors_total", |errors| errors >= 6.0).await;
    assert_eq!(program.admin("/livez").await.status, 200);
    assert_eq!(served.get("/").await.status, 200);
    let (elapsed, used) = (start.elapsed().as_secs_f64(), processor_time(&program) - used);
    assert!(used < 0.1 + elapsed / 3.0, "{used} s of processor time in {elapsed} s");
    let errors = metric(&program, "proxy_accept_errors_total").await;
    assert!(errors < 20.0 + 2.0 * elapsed, "{errors} attempts in {elapsed} s");

    limit_descriptors(&program, None);
    for client in &mut waiting {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(program.get("/").await.status, 200);
}

/// Row 123, "memory limit (cgroup) near": new requests are shed with 503, nothing is killed, and it recovers.
#[tokio::test]
async fn short_of_memory_new_requests_are_refused_until_there_is_some_again() {
    const MOST: f64 = 48.0 * 1024.0 * 1024.0;
    let origin = Origin::hello().await;
    let rest = "limits: [1000/s by client.ip]\n\
                server: {threads: 1, max_memory: 48MiB, timeouts: {head: 1h, idle: 1h}}";
    let (program, _file) = start("memory", origin.address, rest).await;
    let mut old = Client::connect(program.proxy).await;
    assert_eq!(old.get("/").await.status, 200);
    origin.until("a connection to the upstream", |record| record.open == 1).await;

    // Heads of 60 KiB that never end.
    let mut hogs = Vec::new();
    let start = Instant::now();
    while metric(&program, "process_resident_memory_bytes").await <= MOST {
        for _ in 0..20 {
            let mut client = Client::connect(program.proxy).await;
            client.send(format!("GET / HTTP/1.1\r\nhost: test\r\nx-hog: {}", "x".repeat(60 << 10))).await;
            hogs.push(client);
        }
        assert!(start.elapsed() < PATIENCE, "{} connections take no memory", hogs.len());
    }
    soon("the log", async {
        while !program.log.now().contains("short of memory") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let refused = |response: &Response| {
        assert_eq!((response.status, response.field("connection")), (503, Some("close")));
        assert_eq!(response.field("retry-after"), Some("1"));
        assert!(
            response.text().contains("http-problem-types#temporary-reduced-capacity"),
            "{}",
            response.text()
        );
        // No limit said that, and none was charged.
        assert_eq!(response.field("ratelimit"), None);
    };
    refused(&old.get("/").await);
    assert!(old.is_closed().await);
    refused(&program.get("/").await);
    origin.until("the idle connection to be given up", |record| record.open == 0).await;
    assert!(metric(&program, "proxy_requests_shed_total").await >= 2.0);
    assert_eq!(origin.seen().len(), 1);

    drop(hogs);
    soon("memory to come back", async {
        while program.get("/").await.status == 503 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(program.get("/").await.status, 200);
    assert!(program.log.now().contains("there is memory again"));
}

/// The cap on connections is one for all threads together; who is beyond it waits, which is counted.
#[tokio::test]
async fn the_most_connections_are_counted_over_all_threads() {
    let origin = Origin::hello().await;
    let rest = "limits: []\nserver: {threads: 2, max_connections: 4}";
    let (program, _file) = start("most", origin.address, rest).await;
    assert_eq!(metric(&program, "proxy_max_connections").await, 4.0);
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(program.proxy).await;
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
        clients.push(client);
    }
    // Both threads are full: the kernel spreads twenty connections over them, and never all on one.
    until(&program, "proxy_connections_full_total", |times| times >= 2.0).await;
    assert!(metric(&program, "proxy_connections").await <= 4.0);
    let mut open = Vec::new();
    // In whatever order: each that is answered makes room for another.
    for mut client in clients {
        open.push(tokio::spawn(async move {
            let status = client.response().await.status;
            drop(client);
            status
        }));
    }
    for client in open {
        assert_eq!(client.await.unwrap(), 200);
    }
}
