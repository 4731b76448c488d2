//! What must not grow while a proxy runs: after rounds of churning keys and connections, reloads and overrides it has
//! as many descriptors and threads as before, hardly more memory, and nothing in the background has died. Minutes and
//! hours of it are `benches/soak.py`.

use crate::support::origin::Origin;
use crate::support::program::{Program, ask, metric};
use crate::support::raw_client::Client;
use crate::support::until;

/// Rounds before it is looked at, and between the two looks.
const ROUNDS: (usize, usize) = (4, 40);
/// Connections of a round.
const CONNECTIONS: usize = 25;

struct Soaked {
    program: Program,
    file: tempfile::NamedTempFile,
    origin: Origin,
    keys: usize,
}

impl Soaked {
    async fn start() -> Self {
        let origin = Origin::hello().await;
        let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
        std::fs::write(file.path(), configuration(&origin, 0)).unwrap();
        let program = Program::run(&["--config", file.path().to_str().unwrap()]).await;
        Self { program, file, origin, keys: 0 }
    }

    fn key(&mut self) -> String {
        self.keys += 1;
        format!("x-key: key-{}\r\n", self.keys)
    }

    /// Clients that come and go in every way there is, then an operator who changes things.
    async fn round(&mut self, number: usize) {
        for connection in 0..CONNECTIONS {
            let mut client = Client::connect(self.program.proxy).await;
            let key = self.key();
            let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\n{key}");
            match connection % 5 {
                // Some requests, and it stays open until it is dropped.
                0 => {
                    for _ in 0..3 {
                        let key = self.key();
                        client.send(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{key}\r\n")).await;
                        assert!(client.response_to("GET").await.is_some());
                    }
                }
                // Half a head; half a body; a message that is none.
                1 => client.send(&head).await,
                2 => client.send(format!("{head}Content-Length: 1000\r\n\r\nhalf")).await,
                3 => client.send("nonsense\r\n\r\n").await,
                // One that is denied in the middle of its upload.
                _ => {
                    for _ in 0..2 {
                        let mut denied = Client::connect(self.program.proxy).await;
                        denied
                            .send("POST /once HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nhalf")
                            .await;
                    }
                }
            }
        }
        let admin = self.program.admin;
        let json = "content-type: application/json\r\nContent-Length: 17\r\n";
        let path = format!("/api/limits/key/overrides/key-{}", self.keys);
        let mut operator = Client::connect(admin).await;
        operator
            .send(format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\n{json}\r\n{{\"rate\": \"100/s\"}}"))
            .await;
        let given = operator.response_to("PUT").await.unwrap();
        assert!(given.status < 300, "{}", given.text());
        assert!(ask(admin, "DELETE", &path, "").await.status < 300);
        std::fs::write(self.file.path(), configuration(&self.origin, number)).unwrap();
        let read = ask(admin, "POST", "/api/reload", "Content-Length: 0\r\n").await;
        assert_eq!(read.status, 200, "{}", read.text());
        for path in ["/api/stats", "/api/limits/key/keys?by=denied", "/metrics"] {
            assert_eq!(ask(admin, "GET", path, "").await.status, 200, "{path}");
        }
    }

    /// Descriptors and threads, when all clients are gone and one connection to the upstream is left.
    async fn rest(&self) -> (usize, usize) {
        let connections = async || metric(&self.program, "proxy_connections").await;
        until("all clients to be gone", async || connections().await == Some(0.0)).await;
        for _ in 0..3 {
            assert_eq!(ask(self.program.proxy, "GET", "/", "").await.status, 200);
        }
        // What is closed is closed soon, not at once: the fewest that are seen in a while.
        let mut least = usize::MAX;
        for _ in 0..20 {
            least = least.min(self.count("fd"));
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        (least, self.count("task"))
    }

    fn count(&self, what: &str) -> usize {
        let id = self.program.child.id().unwrap();
        std::fs::read_dir(format!("/proc/{id}/{what}")).unwrap().count()
    }

    /// In MiB.
    async fn memory(&self) -> f64 {
        metric(&self.program, "process_resident_memory_bytes").await.unwrap() / 1_048_576.0
    }
}

/// One thread, so that there is one connection to the upstream at rest; not many keys, so that the table is soon as
/// large as it gets.
fn configuration(origin: &Origin, number: usize) -> String {
    format!(
        "upstream: http://{}\nserver: {{threads: 1}}\nstore: {{memory: {{max_keys: 1000}}}}\nlimits:\n  \
         - {{name: key, key: header.x-key, rate: {}/h}}\n  - {{name: once, match: {{path: /once}}, rate: 1/day}}\n",
        origin.address,
        1000 + number
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_grows_and_nothing_dies() {
    let mut soaked = Soaked::start().await;
    for number in 0..ROUNDS.0 {
        soaked.round(number).await;
    }
    let (before, memory) = (soaked.rest().await, soaked.memory().await);
    for number in 0..ROUNDS.1 {
        soaked.round(number).await;
    }
    let (after, grown) = (soaked.rest().await, soaked.memory().await - memory);
    // A descriptor more may be a call of ours that is just being closed; one lost in a round would be forty.
    assert!(
        after.0 <= before.0 + 3 && after.1 == before.1,
        "descriptors, threads: {before:?}, then {after:?}"
    );
    // Of a thousand connections and forty reloads: what they leave is less than 16 KiB each.
    assert!(grown < 16.0, "{memory} MiB, and {grown} more");
    for name in ["proxy_panics_total", "proxy_task_restarts_total"] {
        assert_eq!(metric(&soaked.program, name).await, Some(0.0), "{name}");
    }
    let log = soaked.program.log.now();
    let failed: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(failed.is_empty(), "{failed:?}");
}
