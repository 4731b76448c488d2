//! A master with two replicas, and three Sentinels that watch it.

use std::time::{Duration, Instant};

use crate::server::{Program, Server};

/// What the Sentinels call the master.
const MASTER: &str = "limits";

/// Servers and Sentinels.
#[derive(Debug)]
pub struct Sentinels {
    servers: Vec<Server>,
    sentinels: Vec<Server>,
}

impl Sentinels {
    /// Starts all and waits until they know each other.
    ///
    /// # Panics
    /// When they don't within 60 s.
    #[must_use]
    pub fn start() -> Self {
        let master = Server::start();
        let port = master.port().to_string();
        let follow = ["--replicaof", &format!("127.0.0.1 {port}"), "--repl-diskless-sync-delay", "0"];
        let mut servers = vec![master];
        servers.extend((0..2).map(|_| Server::start_with(Program::Redis, &follow)));
        let watch = |_| {
            let lines = format!(
                "sentinel monitor {MASTER} 127.0.0.1 {port} 2\nsentinel down-after-milliseconds {MASTER} 500\n\
                 sentinel failover-timeout {MASTER} 3000\n"
            );
            Server::start_sentinel(&lines)
        };
        let all = Self { servers, sentinels: (0..3).map(watch).collect() };
        let end = Instant::now() + Duration::from_secs(60);
        while !all.sentinels.iter().all(knows_all) {
            assert!(Instant::now() < end, "the Sentinels don't find each other");
            std::thread::sleep(Duration::from_millis(20));
        }
        all
    }

    /// Addresses of the Sentinels.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(Server::url).collect()
    }

    /// What they call the master.
    #[must_use]
    pub fn master_name(&self) -> &'static str {
        MASTER
    }

    /// The first master.
    #[must_use]
    pub fn master(&self) -> &Server {
        &self.servers[0]
    }

    /// Kills all Sentinels.
    pub fn kill_sentinels(&mut self) {
        self.sentinels.iter_mut().for_each(Server::kill);
    }

    /// Kills the first master.
    pub fn kill_master(&mut self) {
        self.servers[0].kill();
    }
}

fn knows_all(sentinel: &Server) -> bool {
    let Ok(info) = sentinel.command(&["INFO", "sentinel"]) else { return false };
    let text: String = redis::from_redis_value(info).unwrap_or_default();
    text.contains("slaves=2,sentinels=3") && text.contains("status=ok")
}
