//! The program itself, run as a user runs it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::raw_client::{Client, Response};
use super::soon;

/// The program with these arguments, to be changed or run.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ratelimit-proxy"));
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs it to its end.
pub async fn run(arguments: &[&str]) -> Output {
    soon("the program to end", command(arguments).output()).await.unwrap()
}

/// Runs it with an stdout that nobody reads.
pub async fn run_unread(arguments: &[&str]) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    // Not `output`, which would read after all.
    let child = command(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    soon("the program to end", child.wait_with_output()).await.unwrap()
}

/// Exit code, stdout and stderr of a program that ran to its end.
pub fn parts(output: &Output) -> (i32, &str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// The text that a stream brought so far.
#[derive(Clone)]
pub struct Lines(watch::Receiver<String>);

impl Lines {
    /// Reads a stream to its end.
    pub fn of(stream: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let (sender, receiver) = watch::channel(String::new());
        tokio::spawn(async move {
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                sender.send_modify(|text| text.extend([&line, "\n"]));
            }
        });
        Self(receiver)
    }

    /// What there is.
    pub fn now(&self) -> String {
        self.0.borrow().clone()
    }

    /// Waits until `found` finds something.
    pub async fn until<T>(&mut self, what: &str, found: impl Fn(&str) -> Option<T>) -> T {
        let _ = soon(what, self.0.wait_for(|text| found(text).is_some())).await;
        let text = self.now();
        found(&text).unwrap_or_else(|| panic!("the stream ended without {what}: {text}"))
    }

    /// Waits until some line contains all of `words`, and returns it.
    pub async fn line(&mut self, words: &[&str]) -> String {
        self.until(&format!("{words:?}"), |text| {
            text.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
        })
        .await
    }
}

/// A running proxy. Killed when dropped.
pub struct Program {
    pub child: Child,
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
    pub log: Lines,
}

impl Program {
    /// In front of that upstream, with these limits, on free ports.
    pub async fn start(upstream: SocketAddr, limits: &[&str]) -> Self {
        Self::start_with(upstream, limits, &[]).await
    }

    /// With more arguments.
    pub async fn start_with(upstream: SocketAddr, limits: &[&str], more: &[&str]) -> Self {
        let upstream = format!("http://{upstream}");
        let mut arguments = vec!["--upstream", &upstream];
        arguments.extend(limits.iter().flat_map(|limit| ["--limit", limit]));
        arguments.extend(more);
        Self::run(&arguments).await
    }

    /// With these arguments, on free ports.
    pub async fn run(arguments: &[&str]) -> Self {
        Self::spawn(&[arguments, &["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]].concat()).await
    }

    /// As a file says.
    pub async fn configured(config: &Path) -> Self {
        Self::spawn(&["--config", config.to_str().unwrap()]).await
    }

    async fn spawn(arguments: &[&str]) -> Self {
        Self::with(arguments, &[]).await
    }

    /// With these arguments and that environment.
    pub async fn with(arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = command(arguments).envs(env.iter().copied()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = Lines::of(child.stderr.take().unwrap());
        let proxy = address(&log.line(&["listening"]).await);
        let admin = address(&log.line(&["administration"]).await);
        Self { child, proxy, admin, log }
    }

    /// Sends it a signal, such as `TERM`.
    pub async fn signal(&self, name: &str) {
        signal(&self.child, name).await;
    }

    /// Its exit code, once it has ended.
    pub async fn exit(&mut self) -> i32 {
        soon("the program to end", self.child.wait()).await.unwrap().code().unwrap()
    }

    /// Asks the administration.
    pub async fn admin(&self, path: &str) -> Response {
        ask(self.admin, "GET", path, "").await
    }

    /// Asks the proxy, on a connection of its own.
    pub async fn get(&self, path: &str) -> Response {
        ask(self.proxy, "GET", path, "").await
    }
}

/// A sample of the program's metrics, by its name and labels as they are written.
pub async fn metric(program: &Program, name: &str) -> Option<f64> {
    let page = program.admin("/metrics").await;
    let sample = page.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    sample.map(|value| value.parse().unwrap())
}

/// A line of a running proxy's status in the system, in KiB.
pub fn kib(program: &Program, name: &str) -> u64 {
    let id = program.child.id().unwrap();
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// One request on a connection of its own; `fields` are lines that end in CRLF.
pub async fn ask(address: SocketAddr, method: &str, path: &str, fields: &str) -> Response {
    let mut client = Client::connect(address).await;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Connection: close\r\n\r\n");
    client.send(head).await;
    client.response_to(method).await.unwrap_or_else(|| panic!("{method} {path} got no response"))
}

/// Sends a signal to a child of ours.
pub async fn signal(child: &Child, name: &str) {
    let id = child.id().expect("it runs");
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {id}")]).status();
    assert!(soon("kill", sent).await.unwrap().success());
}

/// The address in a line of the log, as text or JSON.
pub fn address(line: &str) -> SocketAddr {
    let (_, rest) = line.split_once("://").unwrap_or_else(|| panic!("no address in {line}"));
    let end = rest.find(|c: char| !(c.is_ascii_digit() || ".:".contains(c))).unwrap_or(rest.len());
    rest[..end].parse().unwrap_or_else(|_| panic!("no address in {line}"))
}
