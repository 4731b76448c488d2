//! Several replicas with leases on one real server, and a judge that knows nothing of leases: whatever happens to
//! the server and to replicas, no interval is admitted more than the limit and what the faults cost by themselves.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ratelimit_core::algorithm::{Gcra, Op};
use ratelimit_core::store::Origin;
use ratelimit_core::time::Clock;
use ratelimit_core::{Algorithm, Limit, Limiter, Nanos, SystemClock};
use ratelimit_redis::lease::LeasedStore;
use ratelimit_redis::{OnFailure, RedisStore};
use redis_testkit::{Program, Server};
use support::{ask, strict};

const REPLICAS: usize = 4;
/// What the machine's two clocks, and the microsecond of the store's, may differ by in a few seconds.
const TOLERANCE: i64 = 2_000_000;

/// A decision: between which times it was made, in nanoseconds.
type Admitted = (u64, u64);

/// By how much the worst interval exceeds burst + W / T, in nanoseconds of refill; nothing if none does.
///
/// An interval from s to e holds what was admitted after s and before e for certain: decisions that began and
/// ended within.
fn excess(admitted: &[Admitted], interval: u64, burst: u32) -> i64 {
    let interval = interval as i64;
    let mut by_start = admitted.to_vec();
    by_start.sort_unstable();
    // For each decision as the first of an interval: its start, and `interval` for each that is in it.
    let mut firsts = Firsts::new(by_start.len());
    let mut by_end: Vec<usize> = (0..by_start.len()).collect();
    by_end.sort_unstable_by_key(|&place| by_start[place].1);
    let mut worst = 0;
    for place in by_end {
        let (start, end) = by_start[place];
        firsts.set(place, start as i64 + firsts.added(place));
        let until = by_start.partition_point(|&(other, _)| other <= start);
        firsts.add(until, interval);
        worst = worst.max(firsts.largest() - end as i64 - i64::from(burst) * interval);
    }
    worst
}

/// Numbers of which the first so many can be added to at once, and the largest is known: a tree.
struct Firsts {
    leaves: usize,
    /// The largest below a node, and what was added to all below it.
    nodes: Vec<(i64, i64)>,
}

impl Firsts {
    fn new(count: usize) -> Self {
        let leaves = count.next_power_of_two();
        Self { leaves, nodes: vec![(i64::MIN / 4, 0); 2 * leaves] }
    }

    fn mend(&mut self, mut node: usize) {
        while node > 1 {
            node /= 2;
            let below = self.nodes[2 * node].0.max(self.nodes[2 * node + 1].0);
            self.nodes[node].0 = below + self.nodes[node].1;
        }
    }

    /// What was added to that number since the beginning.
    fn added(&self, place: usize) -> i64 {
        let mut node = self.leaves + place;
        let mut sum = self.nodes[node].1;
        while node > 1 {
            node /= 2;
            sum += self.nodes[node].1;
        }
        sum
    }

    /// Makes it that number.
    fn set(&mut self, place: usize, number: i64) {
        let node = self.leaves + place;
        self.nodes[node].0 = number - self.added(place) + self.nodes[node].1;
        self.mend(node);
    }

    /// Adds to the first `count`.
    fn add(&mut self, count: usize, number: i64) {
        let (mut low, mut high) = (self.leaves, self.leaves + count);
        let (first, last) = (low, high - 1);
        while low < high {
            if high % 2 == 1 {
                high -= 1;
                self.nodes[high].0 += number;
                self.nodes[high].1 += number;
            }
            if low % 2 == 1 {
                self.nodes[low].0 += number;
                self.nodes[low].1 += number;
                low += 1;
            }
            low /= 2;
            high /= 2;
        }
        self.mend(first);
        self.mend(last);
    }

    fn largest(&self) -> i64 {
        self.nodes[1].0
    }
}

#[test]
fn the_judge_sees_a_unit_too_many() {
    let mut admitted: Vec<Admitted> = [0, 0, 0, 10, 20].map(|at| (at, at)).to_vec();
    assert_eq!(excess(&admitted, 10, 3), 0);
    admitted.push((15, 15));
    assert_eq!(excess(&admitted, 10, 3), 10, "six units in 20 ns, of three and one each 10 ns");
    admitted.extend([(20, 20), (20, 20)]);
    assert_eq!(excess(&admitted, 10, 3), 30);
    assert_eq!(excess(&[(0, 5), (2, 9), (3, 4), (4, 12)], 10, 3), 0, "four in 12 ns");
    let by_hand = |admitted: &[Admitted]| {
        let within = |s: u64, e: u64| admitted.iter().filter(|&&(b, a)| b >= s && a <= e).count() as i64;
        let pairs = admitted.iter().flat_map(|&(s, _)| admitted.iter().map(move |&(_, e)| (s, e)));
        let pairs = pairs.filter(|(s, e)| s <= e);
        pairs.map(|(s, e)| within(s, e) * 10 - (e as i64 - s as i64) - 30).max().unwrap_or(0).max(0)
    };
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..200 {
        let one = |_| {
            let at = random.u64(..150) * random.u64(..3);
            (at, at + random.u64(..20))
        };
        let admitted: Vec<Admitted> = (0..40).map(one).collect();
        assert_eq!(excess(&admitted, 10, 3), by_hand(&admitted), "{admitted:?}");
    }
}

/// A replica, and how many requests of its reached the store.
struct Replica {
    limiter: Limiter<LeasedStore<RedisStore>>,
    asked: Arc<AtomicU64>,
}

async fn replica(server: &Server, on_failure: OnFailure) -> Replica {
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let count = move |call: &ratelimit_redis::Call| {
        counted.fetch_add(call.requests as u64, Ordering::Relaxed);
    };
    let builder = RedisStore::builder(server.url()).on_failure(on_failure).observe(count);
    let builder = builder.deadline(Duration::from_secs(1)).replicas(REPLICAS as u32);
    Replica { limiter: Limiter::new(builder.connect().await.expect("a store").leased()), asked }
}

async fn replicas(server: &Server) -> Vec<Replica> {
    replicas_that(server, OnFailure::Deny).await
}

async fn replicas_that(server: &Server, on_failure: OnFailure) -> Vec<Replica> {
    let mut all = Vec::new();
    for _ in 0..REPLICAS {
        all.push(replica(server, on_failure).await);
    }
    all
}

/// What came of a run.
#[derive(Default)]
struct Seen {
    admitted: Vec<Admitted>,
    /// When each request was made, admitted or not.
    begun: Vec<u64>,
    leased: u64,
    /// Decided by the replica's share, or by nothing but what is said for an outage.
    local: u64,
    open: u64,
    closed: u64,
    calls: u64,
}

/// Requests to every replica, until they are ended: tests end them by what has happened, not by the time, so that
/// a machine that is slow makes them longer and not wrong.
struct Load {
    tasks: Vec<tokio::task::JoinHandle<Seen>>,
    progress: Arc<Progress>,
}

#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    requests: AtomicU64,
    admitted: AtomicU64,
    local: AtomicU64,
}

impl Load {
    /// Every replica asks for `rate` units a second.
    fn start(replicas: &[Replica], limit: &Limit, rate: u32) -> Self {
        let (clock, progress) = (Arc::new(SystemClock::default()), Arc::new(Progress::default()));
        let one = |Replica { limiter, asked }: &Replica| {
            let (limiter, asked, limit) = (limiter.clone(), Arc::clone(asked), limit.clone());
            let (clock, progress) = (Arc::clone(&clock), Arc::clone(&progress));
            tokio::spawn(async move { requests(&limiter, &asked, &limit, rate, &clock, &progress).await })
        };
        Self { tasks: replicas.iter().map(one).collect(), progress }
    }

    /// Waits until so many more were admitted.
    async fn admits(&self, more: u64) {
        let before = self.progress.admitted.load(Ordering::Relaxed);
        let admits = async || self.progress.admitted.load(Ordering::Relaxed) >= before + more;
        support::until("what is admitted", admits).await;
    }

    /// Waits until so many more were made.
    async fn makes(&self, more: u64) {
        let before = self.progress.requests.load(Ordering::Relaxed);
        let makes = async || self.progress.requests.load(Ordering::Relaxed) >= before + more;
        support::until("requests", makes).await;
    }

    async fn end(self) -> Seen {
        self.progress.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for task in self.tasks {
            let seen = task.await.expect("a replica");
            all.admitted.extend(seen.admitted);
            all.begun.extend(seen.begun);
            all.leased += seen.leased;
            all.local += seen.local;
            all.open += seen.open;
            all.closed += seen.closed;
            all.calls += seen.calls;
        }
        all
    }
}

async fn requests(
    limiter: &Limiter<LeasedStore<RedisStore>>,
    asked: &AtomicU64,
    limit: &Limit,
    rate: u32,
    clock: &SystemClock,
    progress: &Progress,
) -> Seen {
    let (mut seen, before) = (Seen::default(), asked.load(Ordering::Relaxed));
    let start = clock.now().get();
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let stopped = || progress.stop.load(Ordering::Relaxed);
    while !stopped() {
        let due = (clock.now().get() - start) * u64::from(rate) / 1_000_000_000;
        while (seen.begun.len() as u64) < due && !stopped() {
            let begun = clock.now().get();
            seen.begun.push(begun);
            progress.requests.fetch_add(1, Ordering::Relaxed);
            let decision = limiter.check(limit, "k").await.expect("a decision");
            match decision.origin() {
                Origin::Lease => seen.leased += 1,
                Origin::Local => {
                    seen.local += 1;
                    progress.local.fetch_add(1, Ordering::Relaxed);
                }
                Origin::FailedOpen => seen.open += 1,
                Origin::FailedClosed => seen.closed += 1,
                _ => {}
            }
            // What is let through without asking has no bound.
            if decision.is_allowed() && decision.origin() != Origin::FailedOpen {
                seen.admitted.push((begun, clock.now().get()));
                progress.admitted.fetch_add(1, Ordering::Relaxed);
            }
        }
        tick.tick().await;
    }
    seen.calls = asked.load(Ordering::Relaxed) - before;
    seen
}

impl Seen {
    /// Part of what one bucket for all would have admitted of the same requests at the same times.
    fn used(&self, rate: u32, burst: u32) -> f64 {
        let interval = Nanos::new(1_000_000_000 / u64::from(rate));
        let bucket = Gcra::new(1, interval, burst, 0).unwrap();
        let mut begun = self.begun.clone();
        begun.sort_unstable();
        let (mut state, mut ideal) = (0, 0_u32);
        for at in begun {
            let (after, outcome) = bucket.step(state, Nanos::new(at), Op::Take(1));
            state = after.unwrap_or(state);
            ideal += u32::from(outcome.admitted);
        }
        self.admitted.len() as f64 / f64::from(ideal)
    }

    fn calls_a_request(&self) -> f64 {
        self.calls as f64 / self.begun.len() as f64
    }

    /// Prints the figures. By how much too much was admitted.
    fn report(&self, what: &str, rate: u32, burst: u32) -> i64 {
        let excess = excess(&self.admitted, 1_000_000_000 / u64::from(rate), burst);
        println!(
            "{what}: {} requests, {} admitted, {:.3} of the quota, {:.4} calls a request, {:.3} leased, {} µs too much",
            self.begun.len(),
            self.admitted.len(),
            self.used(rate, burst),
            self.calls_a_request(),
            self.leased as f64 / self.begun.len() as f64,
            excess / 1000
        );
        excess
    }
}

/// Four replicas, one key, more demand than quota and a little less: never too much. How much of it is used and how
/// few the calls are depends on the machine's other work: `lease_sim` asserts the figures, here they are printed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_a_limit_exactly_and_call_seldom() {
    let server = Server::start();
    for (rate, demand) in [(5000, 1200), (5000, 5000), (1000, 2500), (1000, 240)] {
        let limit = Limit::new(format!("l-{rate}-{demand}"), format!("{rate}/s").parse().unwrap());
        let replicas = replicas(&server).await;
        let load = Load::start(&replicas, &limit, demand);
        load.makes(u64::from(demand) * 4 * 4).await;
        let seen = load.end().await;
        let what = format!("{rate}/s, 4 × {demand}/s");
        assert!(seen.report(&what, rate, rate) <= TOLERANCE, "{what}: too much");
        // Far from what is measured, near enough to see leases that nobody gets or uses.
        assert!(seen.used(rate, rate) >= 0.5, "{what}: too little is used");
        assert!(seen.leased > 0 && seen.calls_a_request() <= 0.5, "{what}: too many calls");
    }
}

/// Windows over four replicas: no window is admitted more than its limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_a_sliding_window() {
    let server = Server::start();
    let limit = Limit::new("w", "4000/s".parse().unwrap()).algorithm(Algorithm::SlidingWindow);
    let replicas = replicas(&server).await;
    let load = Load::start(&replicas, &limit, 3000);
    load.admits(10_000).await;
    let seen = load.end().await;
    let mut admitted = seen.admitted.clone();
    admitted.sort_unstable();
    for (first, &(start, _)) in admitted.iter().enumerate() {
        let inside = |&&(_, end): &&Admitted| end < start + 999_000_000;
        let units = admitted[first..].iter().take_while(|(begun, _)| *begun < start + 999_000_000);
        let units = units.filter(inside).count();
        assert!(units <= 4000, "{units} of 4000 in a second");
    }
    println!(
        "{} of {} admitted, {:.4} calls a request",
        admitted.len(),
        seen.begun.len(),
        seen.calls_a_request()
    );
    assert!(seen.leased > 0 && seen.calls_a_request() <= 0.5);
}

/// Permits that come and go are kept for the next request: few calls, never more out than there are, and what nobody
/// takes goes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_permits_exactly_and_call_seldom() {
    let server = Server::start();
    let limit = Limit::concurrency("permits", 20);
    let replicas = replicas(&server).await;
    let (here, there) = (&replicas[0], &replicas[1]);
    let take =
        async |replica: &Replica| replica.limiter.check(&limit, "k").await.expect("a decision").is_allowed();
    for _ in 0..12 {
        assert!(take(here).await);
    }
    let before = here.asked.load(Ordering::Relaxed);
    for _ in 0..200 {
        here.limiter.refund(&limit, "k", 1);
        assert!(take(here).await, "one was given back");
    }
    let calls = here.asked.load(Ordering::Relaxed) - before;
    assert!(calls < 100, "{calls} calls for 200 requests");
    here.limiter.refund(&limit, "k", 1);
    assert_eq!(here.limiter.store().leased_units(), 1, "one is kept");
    // Eleven are in use here, and one is kept.
    let mut theirs = 0;
    while take(there).await {
        theirs += 1;
        assert!(theirs <= 9, "more are out than there are");
    }
    assert!(theirs >= 7, "{theirs} of 8 or 9 were there");
    support::until("what is kept for nothing", async || {
        theirs += u32::from(take(there).await);
        theirs == 9
    })
    .await;
    assert!(!take(there).await, "all are out");
    for _ in 0..11 {
        here.limiter.refund(&limit, "k", 1);
    }
    for _ in 0..9 {
        there.limiter.refund(&limit, "k", 1);
    }
    support::until("all of them", async || {
        let taken = replicas[2].limiter.check_all(&[(&limit, "k")], 20).await;
        taken.is_ok_and(|decision| decision.is_allowed())
    })
    .await;
}

/// Row 105: a replica goes with leases in hand. What it held is there again as time passes over it: at the latest
/// when the bucket would have been full anyway, and to the moment that the store promises.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_share_of_a_replica_that_is_gone_comes_back() {
    let server = Server::start();
    let limit = Limit::new("gone", "1000/s".parse().unwrap());
    let replicas = replicas(&server).await;
    let load = Load::start(&replicas, &limit, 300);
    let held = || replicas.iter().map(|replica| replica.limiter.store().leased_units()).sum::<u64>();
    support::until("leases", async || held() > 0).await;
    load.end().await;
    drop(replicas);
    let store = strict(&server.url()).await;
    let all = || ask(&store, &limit, "k", Op::Take(1000));
    let verdict = all().await.expect("a decision");
    if !verdict.admitted {
        let wait = verdict.outcomes[0].retry_after.expect("it comes back");
        assert!(wait <= Nanos::from_secs(1), "all of it is back in {wait:?} only");
        tokio::time::sleep(Duration::from(wait) + Duration::from_millis(2)).await;
        let again = all().await.expect("a decision");
        assert!(again.admitted, "after {wait:?} all of it was to be there: {again:?}");
    }
}

/// The server dies in the middle and comes back with what it knew: nothing is admitted beyond the limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_data_admits_nothing_more() {
    let arguments = ["--appendonly", "yes", "--appendfsync", "always"];
    let (excess, admitted) = through_a_restart(Server::start_with(Program::Redis, &arguments)).await;
    assert!(excess <= TOLERANCE, "{excess} ns of refill too much, {admitted} admitted");
}

/// It comes back empty: at most a burst more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_without_data_costs_a_burst_at_most() {
    let (excess, admitted) = through_a_restart(Server::start()).await;
    assert!(excess <= 20_000_000_000 + TOLERANCE, "{excess} ns of refill too much, {admitted} admitted");
    assert!(excess > TOLERANCE, "this test sees a server that forgot everything");
}

/// A bucket that takes twenty seconds to fill, so that what comes back during the restart hides nothing.
async fn through_a_restart(mut server: Server) -> (i64, usize) {
    let limit = Limit::new("restart", "100/s".parse().unwrap()).burst(2000);
    let replicas = replicas(&server).await;
    let load = Load::start(&replicas, &limit, 2000);
    load.admits(2000).await;
    let restarted = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    let _server = restarted.await.expect("a server");
    // The limit is used again.
    load.admits(100).await;
    load.makes(10_000).await;
    let seen = load.end().await;
    (seen.report("restart", 100, 2000), seen.admitted.len())
}

/// Rows 85 and 111: the server stands still for a while. Leases are spent meanwhile and lapse, nothing is admitted
/// beyond the limit, and it is used again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_admits_nothing_more() {
    let server = Server::start();
    let limit = Limit::new("frozen", "2000/s".parse().unwrap());
    let replicas = replicas(&server).await;
    let load = Load::start(&replicas, &limit, 1000);
    for _ in 0..2 {
        load.admits(2000).await;
        server.freeze();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        server.thaw();
    }
    load.admits(2000).await;
    let seen = load.end().await;
    assert!(seen.report("frozen", 2000, 2000) <= TOLERANCE, "too much");
}

/// What came of an outage.
struct Outage {
    seen: Seen,
    excess: i64,
    /// Whether all were without the store at the same time, and only then.
    together: bool,
}

/// The store goes while leases are held, and comes back with what it knew. What is held is spent meanwhile, the
/// rest is what `on_failure` says, and afterwards nobody finds more than there is.
async fn through_an_outage(on_failure: OnFailure) -> Outage {
    let arguments = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = Server::start_with(Program::Redis, &arguments);
    let limit = Limit::new("outage", "100/s".parse().unwrap()).burst(2000);
    let replicas = replicas_that(&server, on_failure).await;
    let load = Load::start(&replicas, &limit, 250);
    let held = || replicas.iter().map(|replica| replica.limiter.store().leased_units()).sum::<u64>();
    let local = || load.progress.local.load(Ordering::Relaxed);
    load.admits(500).await;
    support::until("leases", async || held() > 0).await;
    let before = local();
    server.kill();
    let up = |up: bool| replicas.iter().all(|replica| replica.limiter.store().source().is_up() == up);
    support::until("the outage", async || up(false)).await;
    load.makes(2000).await;
    let (clock, during) = (SystemClock::default(), local());
    let back = clock.now();
    let restarted = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    let _server = restarted.await.expect("a server");
    support::until("the store", async || up(true)).await;
    // Each goes on by itself for two seconds, so that the others find back meanwhile.
    let in_time = clock.now().saturating_sub(back) < Nanos::from_secs(4);
    let after = local();
    load.admits(100).await;
    let seen = load.end().await;
    let together = before == 0 && in_time && after == seen.local;
    println!("local: {before} before, {during} then, {after} at the end, together: {together}");
    Outage { excess: seen.report("outage", 100, 2000), seen, together }
}

/// What a unit of that limit is, in nanoseconds of refill.
const UNIT: i64 = 10_000_000;

/// Row 84: by shares; a unit for each replica more, and one for what is rounded. Where a busy machine keeps one from
/// finding back in time, or from the store before, up to a burst and the rate as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_leases_are_spent_and_then_shares() {
    let Outage { seen, excess, together } = through_an_outage(OnFailure::Local).await;
    assert!(seen.local > 0 && seen.open == 0 && seen.closed == 0, "nobody decided by itself");
    let first = seen.begun.iter().min().unwrap();
    let lasted = (seen.begun.iter().max().unwrap() - first) as i64;
    let most = if together { 2 * REPLICAS as i64 * UNIT } else { 2000 * UNIT + lasted };
    assert!(excess <= most + TOLERANCE, "{excess} of {most} ns of refill too much");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_leases_are_spent_and_then_nothing() {
    let Outage { seen, excess, .. } = through_an_outage(OnFailure::Deny).await;
    assert!(seen.closed > 0 && seen.open == 0 && seen.local == 0, "nobody was refused for it");
    assert!(excess <= TOLERANCE, "{excess} ns of refill too much");
}

/// What is let through meanwhile has no bound; what is counted has, before and after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_leases_are_spent_and_then_everything_passes() {
    let Outage { seen, excess, .. } = through_an_outage(OnFailure::Allow).await;
    assert!(seen.open > 0 && seen.closed == 0 && seen.local == 0, "nothing was let through");
    assert!(excess <= TOLERANCE, "{excess} ns of refill too much");
}
