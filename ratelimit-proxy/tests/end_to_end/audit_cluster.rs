//! The audit over a Cluster of six nodes, strict and leased: three proxies, keys on all masters, and a nemesis that kills
//! nodes, freezes them, cuts them off and moves their slots. The judge is the one of `audit.rs`, and holds each key
//! against what happened to the node that has it.
//!
//! Clients come to each node through a relay, whose port the node announces; nodes know each other without it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::audit::{Audit, BURST, Fault, RATE, REFILL, again_and_again, all_is_used, judge, seed};
use crate::support::raw_client::Client;
use crate::support::until;
use redis_testkit::{Cluster, Relay};

const KEYS: [&str; 6] = ["hot", "ann", "ben", "cleo", "dora", "emil"];

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nemesis {
    /// With `kill -9`; its replica takes over, and it comes back as a replica of that.
    FailOver,
    /// With `kill -9`; it is back with its data before others notice, most of the time.
    RestartNode,
    FreezeNode,
    /// All clients lose the node, which the others see.
    CutNode,
    CutAll,
    DropAnswers,
    /// A slot goes to another master while its key is asked for.
    MoveSlot,
}

impl Nemesis {
    const ALL: [Self; 7] = [
        Self::FailOver,
        Self::RestartNode,
        Self::FreezeNode,
        Self::CutNode,
        Self::CutAll,
        Self::DropAnswers,
        Self::MoveSlot,
    ];
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_a_cluster_every_interval_of_every_key_is_within_its_bound() {
    again_and_again(async || audit("strict").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_a_cluster_leases_add_nothing() {
    again_and_again(async || audit("leased").await).await;
}

/// The Cluster, and which name each key has in it.
struct Keys {
    cluster: Cluster,
    ports: Vec<u16>,
    names: BTreeMap<&'static str, String>,
}

impl Keys {
    async fn start() -> (Self, Vec<Relay>) {
        let options = ["--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"];
        let partly = ["--cluster-require-full-coverage", "no"];
        let options = [&options[..], &partly].concat();
        let start = move || Cluster::start_with(1, &options);
        let cluster = tokio::task::spawn_blocking(start).await.unwrap();
        let mut relays = Vec::new();
        for node in cluster.nodes() {
            relays.push(Relay::start(node.port()).await);
        }
        let ports: Vec<u16> = relays.iter().map(Relay::port).collect();
        ports.iter().enumerate().for_each(|(node, port)| cluster.announce(node, *port));
        let keys = Self { cluster, ports, names: BTreeMap::new() };
        keys.well().await;
        (keys, relays)
    }

    async fn well(&self) {
        until("the Cluster to be well", async || self.cluster.is_well(&self.ports)).await;
    }

    /// Asks for each key once, and looks what name appears.
    async fn learn(&mut self, audit: &Audit) {
        let mut client = Client::connect(audit.replicas[0].address()).await;
        for key in KEYS {
            let text =
                format!("GET / HTTP/1.1\r\nHost: test\r\nX-Key: {key}\r\nX-Sent: {}\r\n\r\n", audit.now());
            client.send(text).await;
            assert_eq!(client.response().await.status, 200);
            *audit.answers.lock().unwrap().by_status.entry(200).or_default() += 1;
            let buckets = (0..self.ports.len()).flat_map(|node| self.cluster.names(node, "rl:v1:"));
            let new = buckets
                .filter(|name| name.contains("}:t"))
                .find(|name| !self.names.values().any(|known| known == name));
            self.names.insert(key, new.expect("a bucket"));
        }
    }

    /// The hash tag in a key's name.
    fn slot_of(&self, key: &str) -> &str {
        self.names[key].split('}').next().unwrap()
    }

    /// The master of each key.
    fn masters(&self) -> BTreeMap<&'static str, Option<usize>> {
        self.names.iter().map(|(key, name)| (*key, self.cluster.find_master(name))).collect()
    }

    async fn strike(&mut self, nemesis: Nemesis, relays: &[Relay], random: &mut fastrand::Rng) {
        let pause = Duration::from_millis(random.u64(300..1500));
        let name = self.names[KEYS[random.usize(..KEYS.len())]].clone();
        let master = self.cluster.master_of(&name);
        match nemesis {
            Nemesis::FailOver => {
                self.cluster.kill(master);
                let taken = async || self.cluster.find_master(&name).is_some_and(|heir| heir != master);
                until("somebody to take over", taken).await;
                self.cluster.restart(master);
                self.cluster.announce(master, self.ports[master]);
            }
            Nemesis::RestartNode => {
                self.cluster.restart(master);
                self.cluster.announce(master, self.ports[master]);
            }
            Nemesis::FreezeNode => {
                self.cluster.nodes()[master].freeze();
                tokio::time::sleep(pause / 2).await;
                self.cluster.nodes()[master].thaw();
            }
            Nemesis::CutNode | Nemesis::DropAnswers => {
                match nemesis {
                    Nemesis::CutNode => relays[master].cut(),
                    _ => relays[master].drop_answers(),
                }
                tokio::time::sleep(pause).await;
                relays[master].heal();
            }
            Nemesis::CutAll => {
                relays.iter().for_each(Relay::cut);
                tokio::time::sleep(pause).await;
                relays.iter().for_each(Relay::heal);
            }
            Nemesis::MoveSlot => {
                let masters: Vec<usize> = self.masters().into_values().flatten().collect();
                let other = masters.into_iter().find(|other| *other != master).expect("another master");
                let hot = self.names["hot"].clone();
                let from = self.cluster.master_of(&hot);
                let to = if from == master { other } else { master };
                tokio::task::block_in_place(|| {
                    self.cluster.move_slot(&hot, from, to, Duration::from_millis(30))
                });
            }
        }
        self.well().await;
    }
}

async fn audit(consistency: &str) {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut nemeses = Nemesis::ALL;
    random.shuffle(&mut nemeses);

    let (mut keys, relays) = Keys::start().await;
    let urls: Vec<String> = relays.iter().map(|relay| format!("'{}'", relay.url())).collect();
    let store = format!(
        "redis: [{}], deadline: 250ms, on_failure: local, consistency: {consistency}",
        urls.join(", ")
    );
    let mut audit = Audit::start(relays, &KEYS, |_| store.clone()).await;
    for replica in &*audit.replicas {
        until("all", async || replica.metric("ratelimit_store_replicas").await == Some(3.0)).await;
    }
    keys.learn(&audit).await;
    let masters = keys.masters();
    assert!(masters.values().any(|master| *master != masters["hot"]), "all keys on one node: {masters:?}");
    for first in 0..3 {
        audit.client("hot", first, Duration::from_millis(20));
        KEYS[1..].iter().for_each(|key| audit.client(key, first, Duration::from_millis(90)));
    }
    let (mut quiet, mut leased) = (Vec::new(), 0.0);
    let mut losses: BTreeMap<&str, Vec<Fault>> = BTreeMap::new();
    for nemesis in nemeses {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let from = audit.now();
        tokio::time::sleep(Duration::from_millis(1200)).await;
        quiet.push((from, audit.now()));
        for replica in &*audit.replicas {
            leased += replica.metric("ratelimit_leased_tokens").await.unwrap_or_default();
        }
        let (from, before) = (audit.now(), keys.masters());
        keys.strike(nemesis, &audit.relays, &mut random).await;
        audit.settled(audit.now()).await;
        eprintln!("{from:5.1} s: {nemesis:?}, settled at {:.1} s", audit.now());
        for (key, master) in keys.masters() {
            let moved = nemesis == Nemesis::MoveSlot && keys.slot_of(key) == keys.slot_of("hot");
            assert!(!moved || master != before[key], "the slot has not moved");
            if master == before[key] || moved {
                continue;
            }
            // Another node took over, without what had not reached it yet. Leases are spent until their time.
            let to = audit.now() + if consistency == "leased" { REFILL } else { 0.0 };
            let what = format!("{nemesis:?}: failover of the node with {key}");
            losses.entry(key).or_default().push(Fault { what, from, to, units: BURST });
        }
    }
    let mut faults = audit.end().await;
    for (key, losses) in &losses {
        faults.get_mut(key).unwrap().extend(losses.iter().cloned());
    }
    assert!(losses.len() < KEYS.len(), "no node kept its keys: {losses:?}");
    let answers = std::mem::take(&mut *audit.answers.lock().unwrap());
    assert_eq!(leased > 0.0, consistency == "leased", "{leased} units were seen in leases");
    let admitted = audit.admitted();
    judge(&admitted, &faults, &answers, &format!("Cluster, {consistency}, AUDIT_SEED={seed}"));
    all_is_used(&admitted["hot"], &quiet, &faults["hot"], &answers);
    let seconds = audit.now();
    assert!(admitted["hot"].len() as f64 >= seconds * RATE / 2.0, "{} in {seconds} s", admitted["hot"].len());
}
