//! Clients that are slow on purpose, by a program made for that: slowhttptest. The honest client beside them is served,
//! and the slow ones are gone after their time.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;

use crate::support::origin::{Origin, Reply};
use crate::support::program::Program;
use crate::support::raw_client::Client;
use crate::support::until;

/// More than the tool opens.
const ROOM: usize = 600;
const SLOW: &str = "300";

async fn open(program: &Program) -> f64 {
    crate::support::program::metric(program, "proxy_connections").await.unwrap()
}

/// Runs it against a large answer with these options; the client beside it asks until the slow ones are gone. `head`: how
/// long a head may take. Where none is slow it may take longer, since this thread is busy with large answers for seconds.
async fn beside(head: &str, options: &[&str]) {
    let large = vec![b'x'; 8 << 20];
    let origin = Origin::start(move |seen| match seen.line().split(' ').nth(1) {
        Some("/large") => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", large.len());
            Reply::Send([head.as_bytes(), &large].concat())
        }
        _ => Reply::ok("hello"),
    })
    .await;
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let text = format!(
        "upstream: http://{}\nlimits: []\nserver: {{threads: 1, max_connections: {ROOM}, \
         timeouts: {{head: {head}, body: 2s, write: 2s, idle: 2s}}}}",
        origin.address
    );
    std::fs::write(file.path(), text).unwrap();
    let program = Program::run(&["--config", file.path().to_str().unwrap()]).await;
    let url = format!("http://{}/large", program.proxy);
    let tool = Command::new("slowhttptest")
        .args(["-c", SLOW, "-r", "300", "-l", "60", "-i", "1", "-p", "3", "-u", &url])
        .args(options)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let tool = tokio::spawn(tool);
    until("slow clients", async || open(&program).await > 100.0).await;
    let mut served = 0;
    let mut slowest = Duration::ZERO;
    while open(&program).await > 10.0 {
        assert!(!tool.is_finished(), "{:?}", tool.await);
        let begun = Instant::now();
        let mut client = Client::connect(program.proxy).await;
        assert_eq!(client.get("/").await.text(), "hello");
        slowest = slowest.max(begun.elapsed());
        served += 1;
    }
    // The upstream's copies of large answers are made on this thread, too, and take seconds.
    assert!(served > 10 && slowest < Duration::from_secs(10), "{served} served, {slowest:?} at worst");
    tool.abort();
}

#[tokio::test]
async fn slow_heads() {
    beside("2s", &["-H", "-x", "24"]).await;
}

#[tokio::test]
async fn slow_bodies() {
    // A body of 8 KB, of which a few bytes come each five seconds.
    beside("20s", &["-B", "-s", "8192", "-x", "10", "-i", "5"]).await;
}

#[tokio::test]
async fn slow_reading() {
    beside("20s", &["-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "1"]).await;
}
