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
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ratelimit_core::store::Origin;
use ratelimit_core::time::Clock;
use ratelimit_core::{Algorithm, Limit, Limiter, SystemClock};
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

async fn replica(server: &Server) -> Replica {
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let count = move |call: &ratelimit_redis::Call| {
        counted.fetch_add(call.requests as u64, Ordering::Relaxed);
    };
    let builder = RedisStore::builder(server.url()).on_failure(OnFailure::Deny).observe(count);
    Replica { limiter: Limiter::new(builder.connect().await.expect("a store").leased()), asked }
}

async fn replicas(server: &Server) -> Vec<Replica> {
    let mut all = Vec::new();
    for _ in 0..REPLICAS {
        all.push(replica(server).await);
    }
    all
}

/// What came of a run.
#[derive(Default)]
struct Seen {
    admitted: Vec<Admitted>,
    requests: u64,
    leased: u64,
    calls: u64,
    /// How long it lasted.
    nanos: u64,
}

/// Every replica asks for `rate` units a second, for so long.
async fn hammer(replicas: &[Replica], limit: &Limit, rate: u32, length: Duration) -> Seen {
    let clock = Arc::new(SystemClock::default());
    let start = clock.now().get();
    let end = start + length.as_nanos() as u64;
    let mut tasks = Vec::new();
    for Replica { limiter, asked } in replicas {
        let (limiter, asked, clock, limit) =
            (limiter.clone(), Arc::clone(asked), Arc::clone(&clock), limit.clone());
        tasks.push(tokio::spawn(async move {
            let mut seen = Seen::default();
            let before = asked.load(Ordering::Relaxed);
            let mut tick = tokio::time::interval(Duration::from_millis(1));
            loop {
                let now = clock.now().get();
                if now >= end {
                    break;
                }
                let due = (now - start) * u64::from(rate) / 1_000_000_000;
                while seen.requests < due {
                    let begun = clock.now().get();
                    let decision = limiter.check(&limit, "k").await.expect("a decision");
                    seen.requests += 1;
                    seen.leased += u64::from(decision.origin() == Origin::Lease);
                    if decision.is_allowed() {
                        seen.admitted.push((begun, clock.now().get()));
                    }
                }
                tick.tick().await;
            }
            seen.calls = asked.load(Ordering::Relaxed) - before;
            seen
        }));
    }
    let mut all = Seen::default();
    for task in tasks {
        let seen = task.await.expect("a replica");
        all.admitted.extend(seen.admitted);
        all.requests += seen.requests;
        all.leased += seen.leased;
        all.calls += seen.calls;
    }
    all.nanos = clock.now().get() - start;
    all
}

impl Seen {
    /// Part of what the limit allows in that time.
    fn used(&self, rate: u32, burst: u32) -> f64 {
        let allowed = f64::from(burst) + f64::from(rate) * self.nanos as f64 / 1e9;
        self.admitted.len() as f64 / allowed.min(self.requests as f64)
    }

    fn calls_a_request(&self) -> f64 {
        self.calls as f64 / self.requests as f64
    }

    fn report(&self, what: &str, rate: u32, burst: u32) -> i64 {
        let excess = excess(&self.admitted, 1_000_000_000 / u64::from(rate), burst);
        println!(
            "{what}: {} requests, {} admitted, {:.3} of the quota, {:.4} calls a request, {:.3} leased, {} µs too much",
            self.requests,
            self.admitted.len(),
            self.used(rate, burst),
            self.calls_a_request(),
            self.leased as f64 / self.requests as f64,
            excess / 1000
        );
        excess
    }
}

/// Four replicas, one key, more demand than quota and a little less: never too much, nearly all of it, few calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_a_limit_exactly_and_call_seldom() {
    let server = Server::start();
    for (rate, demand, most) in
        [(5000, 1200, 0.02), (5000, 5000, 0.02), (1000, 2500, 0.02), (1000, 240, 0.07)]
    {
        let limit = Limit::new(format!("l-{rate}-{demand}"), format!("{rate}/s").parse().unwrap());
        let replicas = replicas(&server).await;
        let seen = hammer(&replicas, &limit, demand, Duration::from_secs(4)).await;
        let what = format!("{rate}/s, 4 × {demand}/s");
        assert!(seen.report(&what, rate, rate) <= TOLERANCE, "{what}: too much");
        assert!(seen.used(rate, rate) >= 0.97, "{what}: too little is used");
        assert!(seen.calls_a_request() <= most, "{what}: too many calls");
    }
}

/// Windows over four replicas: no window is admitted more than its limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_a_sliding_window() {
    let server = Server::start();
    let limit = Limit::new("w", "4000/s".parse().unwrap()).algorithm(Algorithm::SlidingWindow);
    let seen = hammer(&replicas(&server).await, &limit, 3000, Duration::from_secs(4)).await;
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
        seen.requests,
        seen.calls_a_request()
    );
    assert!(admitted.len() > 4 * 4000 * 85 / 100 && seen.calls_a_request() < 0.05);
}

/// Row 105: a replica goes with leases in hand. What it held is there again as time passes over it, at the latest
/// when the bucket would have been full anyway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_share_of_a_replica_that_is_gone_comes_back() {
    let server = Server::start();
    let limit = Limit::new("gone", "1000/s".parse().unwrap());
    let replicas = replicas(&server).await;
    hammer(&replicas, &limit, 300, Duration::from_secs(2)).await;
    let held: u64 = replicas.iter().map(|replica| replica.limiter.store().leased_units()).sum();
    assert!(held > 0, "nothing is held");
    drop(replicas);
    let store = strict(&server.url()).await;
    let key = "k";
    let all = ratelimit_core::algorithm::Op::Take(1000);
    let clock = SystemClock::default();
    let begun = clock.now();
    support::until("all of the bucket", async || {
        ask(&store, &limit, key, all).await.is_ok_and(|verdict| verdict.admitted)
    })
    .await;
    let took: Duration = clock.now().saturating_sub(begun).into();
    assert!(took < Duration::from_millis(1500), "all of it is back after {took:?}");
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
    assert!(excess <= 1_000_000_000 + TOLERANCE, "{excess} ns of refill too much, {admitted} admitted");
    assert!(excess > TOLERANCE, "this test sees a server that forgot everything");
}

async fn through_a_restart(mut server: Server) -> (i64, usize) {
    let limit = Limit::new("restart", "2000/s".parse().unwrap());
    let replicas = replicas(&server).await;
    let hammered = hammer(&replicas, &limit, 2000, Duration::from_secs(6));
    let restarted = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        tokio::task::spawn_blocking(move || {
            server.restart();
            server
        })
        .await
        .expect("a server")
    };
    let (seen, _server) = tokio::join!(hammered, restarted);
    let late = seen.admitted.iter().map(|&(start, _)| start).max().unwrap_or(0);
    let last = seen.admitted.iter().filter(|&&(start, _)| start + 500_000_000 > late).count();
    assert!(last > 500, "the limit is not used again: {last} in the last half second");
    (seen.report("restart", 2000, 2000), seen.admitted.len())
}

/// Rows 85 and 111: the server stands still for a while. Nobody waits longer than the deadline, leases are spent
/// meanwhile and lapse, and nothing is admitted beyond the limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_admits_nothing_more() {
    let server = Server::start();
    let limit = Limit::new("frozen", "2000/s".parse().unwrap());
    let replicas = replicas(&server).await;
    let hammered = hammer(&replicas, &limit, 1000, Duration::from_secs(5));
    let frozen = async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(1000)).await;
            server.freeze();
            tokio::time::sleep(Duration::from_millis(700)).await;
            server.thaw();
        }
    };
    let (seen, ()) = tokio::join!(hammered, frozen);
    assert!(seen.report("frozen", 2000, 2000) <= TOLERANCE, "too much");
    assert!(seen.used(2000, 2000) > 0.5, "{} of {} admitted", seen.admitted.len(), seen.requests);
}
