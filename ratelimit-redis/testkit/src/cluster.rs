//! A Redis Cluster.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::server::{Program, Server, free_port};

/// Servers that share the slots, and their replicas.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
}

impl Cluster {
    /// Three masters with so many replicas each.
    ///
    /// # Panics
    /// When it does not form within 60 s.
    #[must_use]
    pub fn start(replicas: usize) -> Self {
        Self::start_with(replicas, &[])
    }

    /// The same, each node with those options.
    ///
    /// # Panics
    /// When it does not form within 60 s.
    #[must_use]
    pub fn start_with(replicas: usize, options: &[&str]) -> Self {
        let node = |_| {
            // The bus is 10000 above the port unless it is said, and that may be no port at all.
            let bus = free_port().to_string();
            let timeout = ["--cluster-node-timeout", "1000"];
            let arguments = ["--cluster-enabled", "yes", "--cluster-port", &bus, timeout[0], timeout[1]];
            Server::start_with(Program::Redis, &[&arguments[..], options].concat())
        };
        let cluster = Self { nodes: (0..3 * (1 + replicas)).map(node).collect() };
        let addresses = cluster.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port()));
        let status = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(addresses)
            .args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"])
            .stdout(Stdio::null())
            .status();
        assert!(status.is_ok_and(|status| status.success()), "redis-cli can't create the cluster");
        cluster.wait(|text| text.contains("cluster_state:ok") && text.contains("cluster_slots_ok:16384"));
        // A replica that has not caught up is not allowed to take over.
        let linked = |node: &Server| {
            let role = node.command(&["INFO", "replication"]).ok();
            let text = role.and_then(|role| redis::from_redis_value::<String>(role).ok()).unwrap_or_default();
            text.contains("master_link_status:up")
        };
        let end = Instant::now() + Duration::from_secs(60);
        while cluster.nodes.iter().filter(|node| linked(node)).count() < 3 * replicas {
            assert!(Instant::now() < end, "the replicas don't follow");
            std::thread::sleep(Duration::from_millis(20));
        }
        cluster
    }

    /// Addresses of all nodes.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Server::url).collect()
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// The master that serves the slot of `key`, by its place among the nodes.
    ///
    /// # Panics
    /// When nobody serves it.
    #[must_use]
    pub fn master_of(&self, key: &str) -> usize {
        let serves = |node: &&Server| {
            // A node that does not serve the slot of a key answers with a redirection.
            let role = node.command(&["ROLE"]).ok().map(|role| format!("{role:?}"));
            role.is_some_and(|role| role.contains("master")) && node.command(&["GET", key]).is_ok()
        };
        let found = self.nodes.iter().position(|node| serves(&node));
        found.expect("the slot is served")
    }

    /// Kills a node.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Moves so many slots from one node to another, as an operator does, while clients go on.
    ///
    /// # Panics
    /// When it fails.
    pub fn reshard(&self, from: usize, to: usize, slots: u32) {
        let id = |node: usize| -> String {
            let id = self.nodes[node].command(&["CLUSTER", "MYID"]).expect("an id");
            redis::from_redis_value(id).expect("a text")
        };
        let status = Command::new("redis-cli")
            .args(["--cluster", "reshard", &format!("127.0.0.1:{}", self.nodes[from].port())])
            .args(["--cluster-from", &id(from), "--cluster-to", &id(to)])
            .args(["--cluster-slots", &slots.to_string(), "--cluster-yes"])
            .stdout(Stdio::null())
            .status();
        assert!(status.is_ok_and(|status| status.success()), "redis-cli can't move the slots");
    }

    /// Waits until every living node says so.
    fn wait(&self, says: impl Fn(&str) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        let all = || {
            self.nodes.iter().all(|node| {
                let info = node.command(&["CLUSTER", "INFO"]).ok();
                info.and_then(|info| redis::from_redis_value::<String>(info).ok())
                    .is_some_and(|text| says(&text))
            })
        };
        while !all() {
            assert!(Instant::now() < end, "the cluster does not form");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
