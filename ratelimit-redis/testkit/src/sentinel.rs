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
    /// Starts all and waits until they know each other and the replicas have what the master has.
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
            // Sentinels that call a server down after half a second do so with the one they have just named, and name
            // the other: two masters by turns, each a loss of data that no test has asked for.
            let lines = format!(
                "sentinel monitor {MASTER} 127.0.0.1 {port} 2\nsentinel down-after-milliseconds {MASTER} 2000\n\
                 sentinel failover-timeout {MASTER} 10000\n"
            );
            Server::start_sentinel(&lines)
        };
        let all = Self { servers, sentinels: (0..3).map(watch).collect() };
        let end = Instant::now() + Duration::from_secs(60);
        while !all.sentinels.iter().all(knows_all) || !all.servers.iter().skip(1).all(follows) {
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
    let said = info(sentinel, "sentinel");
    said.contains("slaves=2,sentinels=3") && said.contains("status=ok")
}

fn follows(replica: &Server) -> bool {
    info(replica, "replication").contains("master_link_status:up")
}

fn info(server: &Server, section: &str) -> String {
    let said = server.command(&["INFO", section]);
    said.ok().and_then(|said| redis::from_redis_value(said).ok()).unwrap_or_default()
}
