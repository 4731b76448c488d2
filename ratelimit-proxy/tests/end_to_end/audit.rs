//! The end-to-end audit: three proxies over one Redis, clients that ask for more than there is, a nemesis, and a
//! judge, with a store that is asked each time and with leases. The judge looks at every interval of every key, and
//! holds what reached the upstream against what the limit admits and against what the faults that happened may have
//! cost, by the table of bounds in the README.
//!
//! It needs no slack for slow machines. When a request was decided is not known, but it was after the client sent
//! it and before the upstream got it; so those that were sent after `a` and arrived before `b` were admitted
//! within `[a, b]`, whatever was delayed. Whether the quota is used is judged only where the clients were not held
//! up themselves.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::RwLock;

use crate::support::origin::Origin;
use crate::support::program::{Program, metric};
use crate::support::raw_client::{Client, Response};
use crate::support::{soon, until};
use redis_testkit::{Relay, Server};

pub(super) const REPLICAS: usize = 3;
pub(super) const RATE: f64 = 20.0;
pub(super) const BURST: f64 = 60.0;
/// Seconds in which the bucket fills: no lease lives longer.
pub(super) const REFILL: f64 = BURST / RATE;

/// A request that was admitted: in seconds, when it was sent and when it arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admitted {
    pub(super) sent: f64,
    pub(super) arrived: f64,
}

/// Something that may cost units, somewhere in a time.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "what happened is read in the list that a failure prints")]
pub(super) struct Fault {
    pub(super) what: String,
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) units: f64,
}

/// The interval in which most was admitted beyond what may be: by how much, and the interval. Negative: nowhere.
pub(super) fn worst(admitted: &[Admitted], faults: &[Fault]) -> (f64, f64, f64) {
    let mut by_arrival = admitted.to_vec();
    by_arrival.sort_by(|one, other| one.arrived.total_cmp(&other.arrived));
    let mut worst = (f64::NEG_INFINITY, 0.0, 0.0);
    for Admitted { sent: a, .. } in admitted {
        let mut count = 0.0;
        for last in by_arrival.iter().filter(|request| request.sent >= *a) {
            let b = last.arrived;
            count += 1.0;
            let happened = faults.iter().filter(|fault| fault.to >= *a && fault.from <= b);
            let may = BURST + RATE * (b - a) + happened.map(|fault| fault.units).sum::<f64>();
            if count - may > worst.0 {
                worst = (count - may, *a, b);
            }
        }
    }
    worst
}

/// What a replica that decided by itself may have added: from one unit up, at its part of the rate.
fn cost_of_being_away(seconds: f64) -> f64 {
    (1.0 + seconds * RATE / REPLICAS as f64).ceil()
}

/// A replica; after it was killed, another process in its place.
pub(super) struct Replica {
    /// Held to read while it is asked how it is, and to write while it is none.
    pub(super) program: RwLock<Program>,
    /// Where it listens.
    port: AtomicU16,
    configuration: tempfile::NamedTempFile,
}

impl Replica {
    async fn start(configuration: tempfile::NamedTempFile) -> Self {
        let program = Self::run(&configuration).await;
        let port = AtomicU16::new(program.proxy.port());
        Self { program: RwLock::new(program), port, configuration }
    }

    async fn run(configuration: &tempfile::NamedTempFile) -> Program {
        Program::run(&["--config", configuration.path().to_str().unwrap()]).await
    }

    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.load(Ordering::Relaxed)))
    }

    pub(super) async fn metric(&self, name: &str) -> Option<f64> {
        metric(&*self.program.read().await, name).await
    }
}

/// One replica's time by itself, or without any time at all.
type Span = (usize, f64, f64);

/// A look at a replica, from when to when, that did not find the store, or that found a decision of its own.
#[derive(Clone, Copy, Debug)]
struct Look {
    replica: usize,
    from: f64,
    to: f64,
    decided: bool,
}

/// What clients got, and when they asked.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) by_status: BTreeMap<u16, u64>,
    /// Without an answer: the replica was killed.
    pub(super) cut: u64,
    /// When answers came for the key that the use of the quota is judged by.
    pub(super) hot: Vec<f64>,
}

/// Three proxies, each behind a relay of its own, and all that is known of a run.
pub(super) struct Audit {
    start: Instant,
    origin: Origin,
    pub(super) relays: Vec<Relay>,
    pub(super) replicas: Arc<Vec<Replica>>,
    keys: &'static [&'static str],
    stop: Arc<AtomicBool>,
    pub(super) answers: Arc<Mutex<Answers>>,
    /// For each key, when replicas were found to be without the store, or to decide by themselves.
    away: Arc<Mutex<Vec<Vec<Look>>>>,
    /// From when to when it stood still.
    frozen: Vec<Span>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Audit {
    /// Replica by replica with another store section, each behind a relay of its own.
    async fn over(redis: &Server, store: impl Fn(usize) -> String) -> Self {
        let mut relays = Vec::new();
        for _ in 0..REPLICAS {
            relays.push(Relay::start(redis.port()).await);
        }
        let urls: Vec<String> = relays.iter().map(Relay::url).collect();
        let store = |number: usize| format!("redis: '{}', deadline: 250ms, {}", urls[number], store(number));
        Self::start(relays, &["hot", "warm"], store).await
    }

    /// Each key has a limit of its own, so that what it is decided by is known of each.
    pub(super) async fn start(
        relays: Vec<Relay>,
        keys: &'static [&'static str],
        store: impl Fn(usize) -> String,
    ) -> Self {
        let start = Instant::now();
        let origin = Origin::hello().await;
        let mut replicas = Vec::new();
        for number in 0..REPLICAS {
            let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
            let (upstream, store) = (origin.address, store(number));
            let mut text = format!(
                "upstream: http://{upstream}\nlog: {{requests: off}}\nserver: {{threads: 1}}\n\
                 store: {{{store}}}\nlimits:\n"
            );
            for key in keys {
                let only = format!("match: {{headers: {{x-key: {key}}}}}");
                text += &format!(
                    "- {{name: {key}, key: header.x-key, {only}, rate: {RATE}/s, burst: {BURST}}}\n"
                );
            }
            std::fs::write(file.path(), text).unwrap();
            replicas.push(Replica::start(file).await);
        }
        let mut audit = Self {
            start,
            origin,
            relays,
            replicas: Arc::new(replicas),
            keys,
            stop: Arc::default(),
            answers: Arc::default(),
            away: Arc::new(Mutex::new(vec![Vec::new(); keys.len()])),
            frozen: Vec::new(),
            tasks: Vec::new(),
        };
        audit.all_up().await;
        for number in 0..REPLICAS {
            let (replicas, away) = (Arc::clone(&audit.replicas), Arc::clone(&audit.away));
            audit.tasks.push(tokio::spawn(watch(
                start,
                replicas,
                number,
                keys,
                away,
                Arc::clone(&audit.stop),
            )));
        }
        audit
    }

    pub(super) fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    pub(super) async fn all_up(&self) {
        for replica in &*self.replicas {
            until("the store", async || replica.metric("ratelimit_store_up").await == Some(1.0)).await;
        }
    }

    /// A client that asks for a key at every replica in turn, with a pause in between.
    pub(super) fn client(&mut self, key: &'static str, first: usize, pause: Duration) {
        let (start, replicas, stop) = (self.start, Arc::clone(&self.replicas), Arc::clone(&self.stop));
        let answers = Arc::clone(&self.answers);
        self.tasks.push(tokio::spawn(async move {
            let mut clients: [Option<Client>; REPLICAS] = [const { None }; REPLICAS];
            for turn in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let number = (first + turn) % REPLICAS;
                let client = &mut clients[number];
                if client.is_none() {
                    *client = Client::try_connect(replicas[number].address()).await;
                }
                if let Some(connected) = client {
                    let status = ask(connected, key, start).await;
                    let mut answers = answers.lock().unwrap();
                    match status {
                        Some(status) => *answers.by_status.entry(status).or_default() += 1,
                        None => (answers.cut, *client) = (answers.cut + 1, None),
                    }
                    if key == "hot" {
                        answers.hot.push(start.elapsed().as_secs_f64());
                    }
                }
                tokio::time::sleep(pause).await;
            }
        }));
    }

    /// Waits until every replica has used the store alone for a moment since then.
    pub(super) async fn settled(&self, since: f64) {
        self.all_up().await;
        soon("local decisions to end", async {
            loop {
                let last =
                    self.away.lock().unwrap().iter().flatten().map(|look| look.to).fold(since, f64::max);
                if self.now() - last > 0.4 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// What reached the upstream, by key.
    pub(super) fn admitted(&self) -> BTreeMap<String, Vec<Admitted>> {
        let mut admitted: BTreeMap<String, Vec<Admitted>> = BTreeMap::new();
        for seen in self.origin.seen() {
            let sent = seen.field("x-sent").unwrap().parse().unwrap();
            let arrived = seen.at.duration_since(self.start).as_secs_f64();
            let key = seen.field("x-key").unwrap().to_owned();
            admitted.entry(key).or_default().push(Admitted { sent, arrived });
        }
        admitted
    }

    /// Ends the load; for each key, what the replicas' own decisions about it may have cost.
    pub(super) async fn end(&mut self) -> BTreeMap<&'static str, Vec<Fault>> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            soon("the clients to end", task).await.unwrap();
        }
        let away = self.away.lock().unwrap();
        self.keys.iter().zip(&*away).map(|(key, looks)| (*key, self.cost(looks.clone()))).collect()
    }

    fn cost(&self, mut looks: Vec<Look>) -> Vec<Fault> {
        looks
            .sort_by(|one, other| (one.replica, one.from).partial_cmp(&(other.replica, other.from)).unwrap());
        let mut spans: Vec<Look> = Vec::new();
        for look in looks {
            match spans.last_mut() {
                // Its share lives on for two seconds without use.
                Some(last) if last.replica == look.replica && look.from - last.to < 2.1 => {
                    (last.to, last.decided) = (look.to, last.decided || look.decided);
                }
                _ => spans.push(look),
            }
        }
        let fault = |Look { replica, from, to, .. }: Look| {
            let still = |&&(which, ..): &&Span| which == replica;
            let still = self.frozen.iter().filter(still);
            let still: f64 = still.map(|&(_, a, b)| (b.min(to) - a.max(from)).max(0.0)).sum();
            let what = format!("replica {replica} decides by itself");
            Fault { what, from, to, units: cost_of_being_away(to - from - still) }
        };
        spans.into_iter().filter(|span| span.decided).map(fault).collect()
    }

    /// What is done to the store or to a replica.
    async fn strike(&mut self, nemesis: Nemesis, redis: &mut Server, random: &mut fastrand::Rng) {
        let pause = Duration::from_millis(random.u64(300..1500));
        let first = random.usize(..REPLICAS);
        match nemesis {
            Nemesis::RestartWithData => redis.restart(),
            Nemesis::RestartWithoutData => {
                redis.kill();
                std::fs::remove_dir_all(redis.directory().join("appendonlydir")).unwrap();
                redis.restart();
            }
            Nemesis::KillAndReturn => {
                redis.kill();
                tokio::time::sleep(pause).await;
                redis.restart();
            }
            Nemesis::Freeze => {
                redis.freeze();
                tokio::time::sleep(pause).await;
                redis.thaw();
            }
            Nemesis::CutOne | Nemesis::CutAll | Nemesis::DropAnswers => {
                let count = if nemesis == Nemesis::CutOne { 1 } else { REPLICAS };
                let hit = || (0..count).map(|number| &self.relays[(first + number) % REPLICAS]);
                match nemesis {
                    Nemesis::DropAnswers => hit().for_each(Relay::drop_answers),
                    _ => hit().for_each(Relay::cut),
                }
                tokio::time::sleep(pause).await;
                hit().for_each(Relay::heal);
            }
            Nemesis::KillReplica => {
                let replica = &self.replicas[first];
                if let Some(tokens) = replica.metric("ratelimit_leased_tokens").await {
                    eprintln!("replica {first} holds {tokens} when it is killed");
                }
                let mut program = replica.program.write().await;
                program.child.kill().await.unwrap();
                *program = Replica::run(&replica.configuration).await;
                replica.port.store(program.proxy.port(), Ordering::Relaxed);
            }
            Nemesis::FreezeReplica => {
                let program = self.replicas[first].program.write().await;
                let from = self.now();
                program.signal("STOP").await;
                // Every lease that it holds has lapsed when it goes on.
                tokio::time::sleep(Duration::from_secs_f64(REFILL + 0.5)).await;
                program.signal("CONT").await;
                drop(program);
                self.frozen.push((first, from, self.now()));
            }
        }
    }
}

/// One request; its status, if that and all that goes with it is in the contract. `None` if nobody answered.
async fn ask(client: &mut Client, key: &str, start: Instant) -> Option<u16> {
    let sent = start.elapsed().as_secs_f64();
    let text = format!("GET / HTTP/1.1\r\nHost: test\r\nX-Key: {key}\r\nX-Sent: {sent}\r\n\r\n");
    if !client.try_send(text).await {
        return None;
    }
    let response: Response = client.response_to("GET").await?;
    match response.status {
        200 => assert_eq!(response.text(), "hello"),
        429 => {
            let wait: u64 = response.field("retry-after").unwrap().parse().unwrap();
            assert!((1..=60).contains(&wait), "{response:?}");
            assert_eq!(response.field("content-type"), Some("application/problem+json"));
            let violated = format!("\"violated-policies\":[\"{key}\"]");
            assert!(response.text().contains(&violated), "{response:?}");
        }
        _ => panic!("no answer of the contract: {response:?}"),
    }
    assert!(response.field("ratelimit").is_some() && response.field("ratelimit-policy").is_some());
    Some(response.status)
}

/// Notes when a replica decides by itself.
async fn watch(
    start: Instant,
    replicas: Arc<Vec<Replica>>,
    number: usize,
    keys: &'static [&'static str],
    away: Arc<Mutex<Vec<Vec<Look>>>>,
    stop: Arc<AtomicBool>,
) {
    let (mut before, mut decided) = (start.elapsed().as_secs_f64(), vec![0.0; keys.len()]);
    let mut process = None;
    while !stop.load(Ordering::Relaxed) {
        let program = replicas[number].program.read().await;
        let asked = start.elapsed().as_secs_f64();
        if program.child.id() != process {
            (process, decided) = (program.child.id(), vec![0.0; keys.len()]);
        }
        let page = program.admin("/metrics").await;
        let samples = page.text().lines().filter_map(|line| line.rsplit_once(' '));
        let samples: BTreeMap<&str, &str> = samples.collect();
        let up = samples.get("ratelimit_store_up") == Some(&"1");
        let to = start.elapsed().as_secs_f64();
        for (at, key) in keys.iter().enumerate() {
            let local = format!("ratelimit_decisions_total{{limit=\"{key}\",outcome=\"local\"}}");
            let now_decided = samples[&*local].parse().unwrap();
            let look = Look { replica: number, from: before, to, decided: now_decided > decided[at] };
            if !up || look.decided {
                away.lock().unwrap()[at].push(look);
            }
            decided[at] = now_decided;
        }
        before = asked;
        drop(program);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nemesis {
    RestartWithData,
    RestartWithoutData,
    KillAndReturn,
    Freeze,
    CutOne,
    CutAll,
    DropAnswers,
    /// With `kill -9`, leases and all; another takes its place.
    KillReplica,
    /// For longer than anything that it holds is good for.
    FreezeReplica,
}

impl Nemesis {
    const ALL: [Self; 9] = [
        Self::RestartWithData,
        Self::RestartWithoutData,
        Self::KillAndReturn,
        Self::Freeze,
        Self::CutOne,
        Self::CutAll,
        Self::DropAnswers,
        Self::KillReplica,
        Self::FreezeReplica,
    ];
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_the_store_every_interval_of_every_key_is_within_its_bound() {
    again_and_again(async || audit("strict").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_store_and_replicas_leases_add_nothing() {
    again_and_again(async || audit("leased").await).await;
}

/// Once, or for `AUDIT_MINUTES`.
pub(super) async fn again_and_again(audit: impl AsyncFn()) {
    let minutes: f64 = std::env::var("AUDIT_MINUTES").map_or(0.0, |text| text.parse().unwrap());
    let start = Instant::now();
    loop {
        audit().await;
        if start.elapsed().as_secs_f64() >= minutes * 60.0 {
            return;
        }
    }
}

/// What the order of faults and their lengths come from: `AUDIT_SEED`, or anything.
pub(super) fn seed() -> u64 {
    let seed = std::env::var("AUDIT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("AUDIT_SEED={seed}");
    seed
}

async fn audit(consistency: &str) {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut nemeses = Nemesis::ALL;
    random.shuffle(&mut nemeses);

    let persist = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut redis = Server::start_with(redis_testkit::Program::Redis, &persist);
    let store = format!("on_failure: local, consistency: {consistency}");
    let mut audit = Audit::over(&redis, |_| store.clone()).await;
    // The replicas have to have heard of each other before the first of them is away.
    for replica in &*audit.replicas {
        until("all", async || replica.metric("ratelimit_store_replicas").await == Some(3.0)).await;
    }
    for first in 0..REPLICAS {
        audit.client("hot", first, Duration::from_millis(20));
        audit.client("warm", first, Duration::from_millis(100));
    }
    let (mut quiet, mut losses, mut leased) = (Vec::new(), Vec::new(), 0.0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for nemesis in nemeses {
        // The burst is used up by now, or after the last fault.
        let from = audit.now();
        tokio::time::sleep(Duration::from_millis(2200)).await;
        quiet.push((from, audit.now()));
        for replica in &*audit.replicas {
            leased += replica.metric("ratelimit_leased_tokens").await.unwrap_or_default();
        }
        let from = audit.now();
        audit.strike(nemesis, &mut redis, &mut random).await;
        audit.settled(audit.now()).await;
        eprintln!("{from:5.1} s: {nemesis:?}, settled at {:.1} s", audit.now());
        if nemesis == Nemesis::RestartWithoutData {
            // Leases of the time line that is lost are spent until their time.
            let lasts = if consistency == "leased" { REFILL } else { 0.0 };
            let what = "the counters are lost".to_owned();
            losses.push(Fault { what, from, to: audit.now() + lasts, units: BURST });
        }
    }
    let mut faults = audit.end().await;
    faults.values_mut().for_each(|faults| faults.extend(losses.iter().cloned()));
    let answers = std::mem::take(&mut *audit.answers.lock().unwrap());
    assert_eq!(leased > 0.0, consistency == "leased", "{leased} units were seen in leases");
    let admitted = audit.admitted();
    judge(&admitted, &faults, &answers, &format!("{consistency}, AUDIT_SEED={seed}"));
    all_is_used(&admitted["hot"], &quiet, &faults["hot"], &answers);
}

/// What is there is used where nothing fails: more is asked for than the rate all the time.
pub(super) fn all_is_used(hot: &[Admitted], quiet: &[(f64, f64)], faults: &[Fault], answers: &Answers) {
    for &(from, to) in quiet {
        let held_up = longest_pause(&answers.hot, from, to);
        if held_up > 0.2 || faults.iter().any(|fault| fault.to >= from && fault.from <= to) {
            continue;
        }
        let within =
            hot.iter().filter(|request| request.arrived >= from && request.arrived < to).count() as f64;
        // A unit for each replica may have been told to the store in excess, and the ends may fall between two.
        let least = (to - from) * RATE * 0.9 - REPLICAS as f64 - 1.0;
        eprintln!("{within} used from {from:.1} s to {to:.1} s, at least {least:.1}");
        assert!(within >= least, "{within} of {least} used from {from} s to {to} s");
    }
}

/// Holds what was admitted of each key against the limit and against what happened to that key.
pub(super) fn judge(
    admitted: &BTreeMap<String, Vec<Admitted>>,
    faults: &BTreeMap<&'static str, Vec<Fault>>,
    answers: &Answers,
    run: &str,
) {
    let (statuses, cut) = (&answers.by_status, answers.cut);
    eprintln!("{run}: {statuses:?}, {cut} cut off");
    assert!(statuses[&200] > 500 && statuses[&429] > 500);
    assert!(faults.values().flatten().any(|fault| fault.units < BURST), "the nemesis had no effect");
    let arrived = admitted.values().map(Vec::len).sum::<usize>() as u64;
    assert!((statuses[&200]..=statuses[&200] + cut).contains(&arrived), "{arrived} arrived");
    for (key, admitted) in admitted {
        let faults = &faults[&**key];
        let (beyond, a, b) = worst(admitted, faults);
        let (count, may) = (admitted.len(), faults.iter().map(|fault| fault.units).sum::<f64>());
        eprintln!(
            "{key}: {count} admitted; faults that may cost {may} units; at most {beyond:.2} beyond the bound \
             ({a:.2} s to {b:.2} s)"
        );
        assert!(
            beyond <= 0.0,
            "{key}: {beyond} more than the bound from {a} s to {b} s ({run}); {faults:#?}"
        );
    }
}

/// The longest time between two of them from `from` to `to`.
fn longest_pause(times: &[f64], from: f64, to: f64) -> f64 {
    let mut times: Vec<f64> = times.iter().copied().filter(|time| (from..to).contains(time)).collect();
    times.extend([from, to]);
    times.sort_by(f64::total_cmp);
    times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
}

/// The judge itself: replicas that do not share are found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_do_not_share_are_found_out() {
    let redis = Server::start();
    let mut audit = Audit::over(&redis, |number| format!("prefix: p{number}")).await;
    for first in 0..REPLICAS {
        audit.client("hot", first, Duration::from_millis(1));
        audit.client("hot", first, Duration::from_millis(1));
    }
    audit.origin.until("more than one burst", |record| record.seen.len() > 200).await;
    let faults = audit.end().await;
    let (beyond, ..) = worst(&audit.admitted()["hot"], &faults["hot"]);
    assert!(beyond > 20.0, "{beyond}");
}

#[test]
fn the_judge_counts() {
    let at = |time: f64| Admitted { sent: time, arrived: time + 0.001 };
    let mut admitted: Vec<_> = (0..60).map(|number| at(f64::from(number) * 1e-6)).collect();
    admitted.extend((1..50).map(|number| at(f64::from(number) * 0.05)));
    assert!(worst(&admitted, &[]).0 <= 0.0);
    // One more, anywhere, is one too many, less what the request was under way for.
    let more = [&admitted[..], &[at(1.275)]].concat();
    assert!(worst(&more, &[]).0 > 0.4);
    // Unless something happened that allows for it.
    let fault = |from, to| Fault { what: String::new(), from, to, units: 1.0 };
    assert!(worst(&more, &[fault(1.0, 1.2)]).0 <= 0.0);
    assert!(worst(&more, &[fault(30.0, 31.0)]).0 > 0.4, "it was later");
    // What may have been decided at any time of a long wait is no proof.
    let slow = Admitted { sent: 0.0, arrived: 2.45 };
    assert!(worst(&[&admitted[..], &[slow]].concat(), &[]).0 <= 1.0);
    assert_eq!((cost_of_being_away(0.0), cost_of_being_away(3.0)), (1.0, 21.0));
    assert_eq!((longest_pause(&[0.5, 2.0, 2.1], 1.0, 3.0), longest_pause(&[], 1.0, 3.0)), (1.0, 2.0));
}
