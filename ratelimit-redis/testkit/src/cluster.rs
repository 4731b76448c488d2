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
        self.find_master(key).expect("the slot is served")
    }

    /// The same, where there is one.
    #[must_use]
    pub fn find_master(&self, key: &str) -> Option<usize> {
        let serves = |node: &&Server| {
            // A node that does not serve the slot of a key answers with a redirection.
            let role = node.command(&["ROLE"]).ok().map(|role| format!("{role:?}"));
            role.is_some_and(|role| role.contains("master")) && node.command(&["GET", key]).is_ok()
        };
        self.nodes.iter().position(|node| serves(&node))
    }

    /// Kills a node.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Starts a node again, with what it has stored.
    pub fn restart(&mut self, node: usize) {
        self.nodes[node].restart();
    }

    /// Lets a node say that it is at another port of 127.0.0.1, such as a relay's. Nodes that were started again
    /// have forgotten it.
    ///
    /// # Panics
    /// When it does not want to.
    pub fn announce(&self, node: usize, port: u16) {
        let port = port.to_string();
        self.nodes[node]
            .command(&["CONFIG", "SET", "cluster-announce-port", &port])
            .expect("it is announced");
    }

    /// Whether every node says that all is well, knows that the others are at those ports, and as a replica
    /// has what its master has.
    #[must_use]
    pub fn is_well(&self, ports: &[u16]) -> bool {
        self.nodes.iter().all(|node| {
            let (info, nodes) = (says(node, &["CLUSTER", "INFO"]), says(node, &["CLUSTER", "NODES"]));
            let replication = says(node, &["INFO", "replication"]);
            info.contains("cluster_state:ok")
                && info.contains("cluster_slots_ok:16384")
                && !nodes.contains("fail")
                && ports.iter().all(|port| nodes.contains(&format!(":{port}@")))
                && (replication.contains("role:master") || replication.contains("master_link_status:up"))
        })
    }

    /// Moves one slot to another master, key by key, as an operator does, while clients go on.
    ///
    /// # Panics
    /// When a node refuses.
    pub fn move_slot(&self, key: &str, from: usize, to: usize, pause: Duration) {
        let id = |node: usize| says(&self.nodes[node], &["CLUSTER", "MYID"]);
        let command = |node: usize, words: &[&str]| self.nodes[node].command(words).expect("it is done");
        let slot: u16 = redis::from_redis_value(command(from, &["CLUSTER", "KEYSLOT", key])).expect("a slot");
        let (slot, port) = (slot.to_string(), self.nodes[to].port().to_string());
        command(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
        command(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
        std::thread::sleep(pause);
        loop {
            let keys = command(from, &["CLUSTER", "GETKEYSINSLOT", &slot, "1"]);
            let keys: Vec<String> = redis::from_redis_value(keys).expect("keys");
            let Some(key) = keys.first() else { break };
            // It may be gone by itself meanwhile.
            command(from, &["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
            std::thread::sleep(pause);
        }
        for node in [to, from] {
            command(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]);
        }
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

    /// The names that lie on a node and begin so.
    ///
    /// # Panics
    /// When it can't be asked.
    #[must_use]
    pub fn names(&self, node: usize, prefix: &str) -> Vec<String> {
        let names = self.nodes[node].command(&["KEYS", &format!("{prefix}*")]).expect("names");
        redis::from_redis_value(names).expect("texts")
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

/// What a node answers, as text; nothing if it does not.
fn says(node: &Server, words: &[&str]) -> String {
    match node.command(words) {
        Ok(redis::Value::Array(parts)) => format!("{parts:?}"),
        Ok(said) => redis::from_redis_value(said).unwrap_or_default(),
        Err(_) => String::new(),
    }
}
