//! The end-to-end audit: three proxies over one Redis, clients that ask for more than there is, a nemesis, and a
//! judge. The judge looks at every interval of every key, and holds what reached the upstream against what the
//! limit admits and against what the faults that happened may have cost, by the table of bounds in the README.
//!
//! It needs no slack for slow machines. When a request was decided is not known, but it was after the client sent
//! it and before the upstream got it; so those that were sent after `a` and arrived before `b` were admitted
//! within `[a, b]`, whatever was delayed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::origin::Origin;
use crate::support::program::{Program, metric};
use crate::support::raw_client::Client;
use crate::support::{soon, until};
use redis_testkit::{Relay, Server};

const REPLICAS: usize = 3;
const RATE: f64 = 10.0;
const BURST: f64 = 120.0;

/// A request that was admitted: in seconds, when it was sent and when it arrived.
#[derive(Clone, Copy, Debug)]
struct Admitted {
    sent: f64,
    arrived: f64,
}

/// Something that may cost units, somewhere in a time.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "what happened is read in the list that a failure prints")]
struct Fault {
    what: String,
    from: f64,
    to: f64,
    units: f64,
}

/// The interval in which most was admitted beyond what may be: by how much, and the interval. Negative: nowhere.
fn worst(admitted: &[Admitted], faults: &[Fault]) -> (f64, f64, f64) {
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

/// The shares of a replica that decided by itself: from one unit up, at its part of the rate, as far as its part
/// of the burst.
fn cost_of_being_away(seconds: f64) -> f64 {
    let replicas = REPLICAS as f64;
    (1.0 + seconds * RATE / replicas).ceil().min(BURST / replicas)
}

/// Three proxies, each behind a relay of its own, and all that is known of a run.
struct Audit {
    start: Instant,
    origin: Origin,
    relays: Vec<Relay>,
    programs: Arc<Vec<Program>>,
    stop: Arc<AtomicBool>,
    /// Requests answered, by status.
    answers: Arc<Mutex<BTreeMap<u16, u64>>>,
    /// From when to when each replica decided by itself.
    away: Arc<Mutex<Vec<(usize, f64, f64)>>>,
    sent: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    _files: Vec<tempfile::NamedTempFile>,
}

impl Audit {
    /// Replica by replica with another store section.
    async fn start(redis: &Server, store: impl Fn(usize) -> String) -> Self {
        let start = Instant::now();
        let origin = Origin::hello().await;
        let (mut relays, mut programs, mut files) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..REPLICAS {
            let relay = Relay::start(redis.port()).await;
            let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
            let (upstream, url, store) = (origin.address, relay.url(), store(number));
            let text = format!(
                "upstream: http://{upstream}\nlog: {{requests: off}}\nserver: {{threads: 1}}\n\
                 store: {{redis: '{url}', deadline: 250ms, {store}}}\n\
                 limits: [{{name: audit, key: header.x-key, rate: {RATE}/s, burst: {BURST}}}]\n"
            );
            std::fs::write(file.path(), text).unwrap();
            programs.push(Program::run(&["--config", file.path().to_str().unwrap()]).await);
            relays.push(relay);
            files.push(file);
        }
        let mut audit = Self {
            start,
            origin,
            relays,
            programs: Arc::new(programs),
            stop: Arc::default(),
            answers: Arc::default(),
            away: Arc::default(),
            sent: Arc::default(),
            tasks: Vec::new(),
            _files: files,
        };
        audit.all_up().await;
        for number in 0..REPLICAS {
            audit.tasks.push(tokio::spawn(watch(
                start,
                Arc::clone(&audit.programs),
                number,
                Arc::clone(&audit.away),
                Arc::clone(&audit.stop),
            )));
        }
        audit
    }

    fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    async fn all_up(&self) {
        for program in &*self.programs {
            until("the store", async || metric(program, "ratelimit_store_up").await == Some(1.0)).await;
        }
    }

    /// A client that asks for a key at every replica in turn, with a pause in between.
    fn client(&mut self, key: &'static str, first: usize, pause: Duration) {
        let (start, programs, stop) = (self.start, Arc::clone(&self.programs), Arc::clone(&self.stop));
        let (answers, sent) = (Arc::clone(&self.answers), Arc::clone(&self.sent));
        self.tasks.push(tokio::spawn(async move {
            let mut clients = Vec::new();
            for number in 0..REPLICAS {
                clients.push(Client::connect(programs[(first + number) % REPLICAS].proxy).await);
            }
            for turn in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let status = ask(&mut clients[turn % REPLICAS], key, start).await;
                sent.fetch_add(1, Ordering::Relaxed);
                *answers.lock().unwrap().entry(status).or_default() += 1;
                tokio::time::sleep(pause).await;
            }
        }));
    }

    /// Waits until every replica has used the store alone for a moment since then.
    async fn settled(&self, since: f64) {
        self.all_up().await;
        soon("local decisions to end", async {
            loop {
                let last = self.away.lock().unwrap().iter().map(|(_, _, to)| *to).fold(since, f64::max);
                if self.now() - last > 0.4 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// What reached the upstream, by key.
    fn admitted(&self) -> BTreeMap<String, Vec<Admitted>> {
        let mut admitted: BTreeMap<String, Vec<Admitted>> = BTreeMap::new();
        for seen in self.origin.seen() {
            let sent = seen.field("x-sent").unwrap().parse().unwrap();
            let arrived = seen.at.duration_since(self.start).as_secs_f64();
            let key = seen.field("x-key").unwrap().to_owned();
            admitted.entry(key).or_default().push(Admitted { sent, arrived });
        }
        admitted
    }

    /// Ends the load; what the replicas' own decisions may have cost.
    async fn end(&mut self) -> Vec<Fault> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            soon("the clients to end", task).await.unwrap();
        }
        let mut spans: Vec<(usize, f64, f64)> = Vec::new();
        let mut polls = self.away.lock().unwrap().clone();
        polls.sort_by(|one, other| (one.0, one.1).partial_cmp(&(other.0, other.1)).unwrap());
        for (replica, from, to) in polls {
            match spans.last_mut() {
                // Its share lives on for two seconds without use.
                Some((last, _, end)) if *last == replica && from - *end < 2.1 => *end = to,
                _ => spans.push((replica, from, to)),
            }
        }
        let fault = |(replica, from, to): (usize, f64, f64)| Fault {
            what: format!("replica {replica} decides by itself"),
            from,
            to,
            units: cost_of_being_away(to - from),
        };
        spans.into_iter().map(fault).collect()
    }
}

/// One request; its status, if that and all that goes with it is in the contract.
async fn ask(client: &mut Client, key: &str, start: Instant) -> u16 {
    let sent = start.elapsed().as_secs_f64();
    client.send(format!("GET / HTTP/1.1\r\nHost: test\r\nX-Key: {key}\r\nX-Sent: {sent}\r\n\r\n")).await;
    let response = client.response().await;
    match response.status {
        200 => assert_eq!(response.text(), "hello"),
        429 => {
            let wait: u64 = response.field("retry-after").unwrap().parse().unwrap();
            assert!((1..=60).contains(&wait), "{response:?}");
            assert_eq!(response.field("content-type"), Some("application/problem+json"));
            assert!(response.text().contains("\"violated-policies\":[\"audit\"]"), "{response:?}");
        }
        _ => panic!("no answer of the contract: {response:?}"),
    }
    assert!(response.field("ratelimit").is_some() && response.field("ratelimit-policy").is_some());
    response.status
}

/// Notes when a replica decides by itself.
async fn watch(
    start: Instant,
    programs: Arc<Vec<Program>>,
    number: usize,
    away: Arc<Mutex<Vec<(usize, f64, f64)>>>,
    stop: Arc<AtomicBool>,
) {
    let local = "ratelimit_decisions_total{limit=\"audit\",outcome=\"local\"}";
    let (mut before, mut decided) = (start.elapsed().as_secs_f64(), 0.0);
    while !stop.load(Ordering::Relaxed) {
        let asked = start.elapsed().as_secs_f64();
        let up = metric(&programs[number], "ratelimit_store_up").await == Some(1.0);
        let now_decided = metric(&programs[number], local).await.unwrap();
        if !up || now_decided > decided {
            away.lock().unwrap().push((number, before, start.elapsed().as_secs_f64()));
        }
        (before, decided) = (asked, now_decided);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What is done to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nemesis {
    RestartWithData,
    RestartWithoutData,
    KillAndReturn,
    Freeze,
    CutOne,
    CutAll,
    DropAnswers,
}

impl Nemesis {
    const ALL: [Self; 7] = [
        Self::RestartWithData,
        Self::RestartWithoutData,
        Self::KillAndReturn,
        Self::Freeze,
        Self::CutOne,
        Self::CutAll,
        Self::DropAnswers,
    ];

    async fn strike(self, redis: &mut Server, relays: &[Relay], random: &mut fastrand::Rng) {
        let pause = Duration::from_millis(random.u64(300..1500));
        match self {
            Self::RestartWithData => redis.restart(),
            Self::RestartWithoutData => {
                redis.kill();
                std::fs::remove_dir_all(redis.directory().join("appendonlydir")).unwrap();
                redis.restart();
            }
            Self::KillAndReturn => {
                redis.kill();
                tokio::time::sleep(pause).await;
                redis.restart();
            }
            Self::Freeze => {
                redis.freeze();
                tokio::time::sleep(pause).await;
                redis.thaw();
            }
            Self::CutOne | Self::CutAll | Self::DropAnswers => {
                let first = random.usize(..relays.len());
                let count = if self == Self::CutOne { 1 } else { relays.len() };
                let hit = || (0..count).map(|number| &relays[(first + number) % relays.len()]);
                match self {
                    Self::DropAnswers => hit().for_each(Relay::drop_answers),
                    _ => hit().for_each(Relay::cut),
                }
                tokio::time::sleep(pause).await;
                hit().for_each(Relay::heal);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_the_store_every_interval_of_every_key_is_within_its_bound() {
    let seed = std::env::var("AUDIT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("AUDIT_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut nemeses = Nemesis::ALL;
    random.shuffle(&mut nemeses);

    let persist = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut redis = Server::start_with(redis_testkit::Program::Redis, &persist);
    let mut audit = Audit::start(&redis, |_| "on_failure: local".to_owned()).await;
    // The replicas have to have heard of each other before the first of them is away.
    for program in &*audit.programs {
        until("all", async || metric(program, "ratelimit_store_replicas").await == Some(3.0)).await;
    }
    for first in 0..REPLICAS {
        audit.client("hot", first, Duration::from_millis(20));
        audit.client("warm", first, Duration::from_millis(100));
    }
    let mut quiet = Vec::new();
    let mut losses = Vec::new();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for nemesis in nemeses {
        // The burst is used up by now, or after the last fault.
        let from = audit.now();
        tokio::time::sleep(Duration::from_millis(2200)).await;
        quiet.push((from, audit.now()));
        let from = audit.now();
        nemesis.strike(&mut redis, &audit.relays, &mut random).await;
        audit.settled(audit.now()).await;
        eprintln!("{from:5.1} s: {nemesis:?}, settled at {:.1} s", audit.now());
        if nemesis == Nemesis::RestartWithoutData {
            losses.push(Fault {
                what: "the counters are lost".to_owned(),
                from,
                to: audit.now(),
                units: BURST,
            });
        }
    }
    let mut faults = audit.end().await;
    faults.extend(losses);
    let answers = audit.answers.lock().unwrap().clone();
    eprintln!("{} requests, {answers:?}, in {:.1} s", audit.sent.load(Ordering::Relaxed), audit.now());
    assert!(answers[&200] > 500 && answers[&429] > 500);
    assert!(faults.iter().any(|fault| fault.units < BURST), "the nemesis had no effect");

    let admitted = audit.admitted();
    assert_eq!(admitted.values().map(Vec::len).sum::<usize>() as u64, answers[&200]);
    for (key, admitted) in &admitted {
        let (beyond, a, b) = worst(admitted, &faults);
        eprintln!(
            "{key}: {} admitted, at most {beyond:.2} beyond the bound ({a:.2} s to {b:.2} s)",
            admitted.len()
        );
        assert!(
            beyond <= 0.0,
            "{key}: {beyond} more than the bound from {a} s to {b} s (AUDIT_SEED={seed}); {faults:#?}"
        );
    }
    // What is there is used where nothing fails: more is asked for than the rate all the time.
    let hot = &admitted["hot"];
    for (from, to) in quiet {
        if faults.iter().any(|fault| fault.to >= from && fault.from <= to) {
            continue;
        }
        let within =
            hot.iter().filter(|request| request.arrived >= from && request.arrived < to).count() as f64;
        // A unit for each replica may have been told to the store in excess, and the ends may fall between two.
        let least = (to - from) * RATE * 0.9 - REPLICAS as f64 - 1.0;
        eprintln!("{within} used from {from:.1} s to {to:.1} s, at least {least:.1}");
        assert!(within >= least, "{within} of {least} used from {from} s to {to} s (AUDIT_SEED={seed})");
    }
}

/// The judge itself: replicas that do not share are found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_do_not_share_are_found_out() {
    let redis = Server::start();
    let mut audit = Audit::start(&redis, |number| format!("prefix: p{number}")).await;
    for first in 0..REPLICAS {
        audit.client("hot", first, Duration::from_millis(1));
        audit.client("hot", first, Duration::from_millis(1));
    }
    audit.origin.until("more than one burst", |record| record.seen.len() > 200).await;
    let faults = audit.end().await;
    let (beyond, ..) = worst(&audit.admitted()["hot"], &faults);
    assert!(beyond > 20.0, "{beyond}");
}

#[test]
fn the_judge_counts() {
    let at = |time: f64| Admitted { sent: time, arrived: time + 0.001 };
    let mut admitted: Vec<_> = (0..120).map(|number| at(f64::from(number) * 1e-6)).collect();
    admitted.extend((1..50).map(|number| at(f64::from(number) * 0.1)));
    assert!(worst(&admitted, &[]).0 <= 0.0);
    // One more, anywhere, is one too many, less what the request was under way for.
    let more = [&admitted[..], &[at(2.55)]].concat();
    assert!(worst(&more, &[]).0 > 0.4);
    // Unless something happened that allows for it.
    let fault = |from, to| Fault { what: String::new(), from, to, units: 1.0 };
    assert!(worst(&more, &[fault(1.0, 1.5)]).0 <= 0.0);
    assert!(worst(&more, &[fault(30.0, 31.0)]).0 > 0.4, "it was later");
    // What may have been decided at any time of a long wait is no proof.
    let slow = Admitted { sent: 0.0, arrived: 4.9 };
    assert!(worst(&[&admitted[..], &[slow]].concat(), &[]).0 <= 1.0);
    assert_eq!(
        (cost_of_being_away(0.0), cost_of_being_away(3.0), cost_of_being_away(60.0)),
        (1.0, 11.0, 40.0)
    );
}
