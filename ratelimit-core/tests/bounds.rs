//! The bounds with many threads at once, through the public face only: as many as the limit says, not one
//! more, and not one less where there was enough for all.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "tests"
)]

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use ratelimit_core::time::Clock;
use ratelimit_core::{Algorithm, Limit, Limiter, ManualClock, MemoryStore, Nanos, SystemClock};

const THREADS: u32 = 8;
const RATED: [Algorithm; 3] = [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::FixedWindow];

type Frozen = Limiter<MemoryStore<ManualClock>>;

/// A limiter for which no time passes.
fn frozen() -> Frozen {
    Limiter::new(MemoryStore::with_clock(ManualClock::default()))
}

fn limit(name: &str, count: u32, algorithm: Algorithm) -> Limit {
    Limit::new(name, format!("{count}/h").parse().unwrap()).algorithm(algorithm)
}

/// Runs the same on all threads at once, and gives back what each came to.
fn on_all_threads<T: Send>(work: impl Fn(u32) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(THREADS as usize);
    let (start, work) = (&start, &work);
    thread::scope(|scope| {
        let spawn = |number| {
            scope.spawn(move || {
                start.wait();
                work(number)
            })
        };
        let threads: Vec<_> = (0..THREADS).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Numbers that look random, a different sequence for each thread.
fn scattered(thread: u32) -> impl Iterator<Item = u32> {
    let mut state = u64::from(thread) + 1;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    })
}

/// A future over memory is ready at once.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a store in memory waited"),
    }
}

#[test]
fn one_key_gets_exactly_its_burst() {
    for algorithm in RATED {
        for (burst, demand) in [(1, 100), (1000, 250), (1999, 250), (2000, 250), (5000, 250)] {
            let (limiter, limit) = (frozen(), limit("one", burst, algorithm));
            let admitted: u32 = on_all_threads(|_| {
                (0..demand).filter(|_| limiter.try_check(&limit, "key").is_allowed()).count() as u32
            })
            .into_iter()
            .sum();
            assert_eq!(admitted, burst.min(THREADS * demand), "{algorithm}");
            let left = ready(limiter.peek(&limit, "key")).unwrap().remaining();
            assert_eq!(left, burst - admitted, "{algorithm}");
        }
    }
}

#[test]
fn many_keys_get_exactly_their_bursts() {
    const KEYS: u32 = 700;
    for algorithm in RATED {
        let (limiter, limit) = (frozen(), limit("many", 5, algorithm));
        // Entries are made while others are charged: every thread begins with another key.
        let admitted = on_all_threads(|thread| {
            let mut admitted = vec![0_u32; KEYS as usize];
            for round in 0..2 {
                for step in 0..KEYS {
                    let key = (step * (2 * round + 1) + thread * KEYS / THREADS) % KEYS;
                    admitted[key as usize] += u32::from(limiter.try_check(&limit, key).is_allowed());
                }
            }
            admitted
        });
        for key in 0..KEYS {
            let admitted: u32 = admitted.iter().map(|thread| thread[key as usize]).sum();
            assert_eq!(admitted, 5, "{algorithm}, key {key}");
        }
    }
}

#[test]
fn costs_add_up_exactly() {
    for algorithm in RATED {
        let (limiter, limit) = (frozen(), limit("costs", 3001, algorithm));
        let spent: u32 = on_all_threads(|thread| {
            let costs = scattered(thread).map(|number| number % 7).take(400);
            let admitted =
                |&cost: &u32| limiter.try_check_all(&[(&limit, "key")], cost).unwrap().is_allowed();
            costs.filter(admitted).sum::<u32>()
        })
        .into_iter()
        .sum();
        let left = ready(limiter.peek(&limit, "key")).unwrap().remaining();
        assert_eq!(spent + left, 3001, "{algorithm}");
        assert!(left < 6, "{algorithm}: {left} left though all were asked for");
    }
}

/// Each request charges a shared limit, one for its group and one of its own, in an order that changes; there
/// is exactly enough for all of them, so nobody may be refused.
#[test]
fn together_nobody_is_refused_while_there_is_enough() {
    const EACH: u32 = 300;
    for [first, second, third] in [
        [Algorithm::TokenBucket, Algorithm::TokenBucket, Algorithm::TokenBucket],
        [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::FixedWindow],
        [Algorithm::SlidingWindow, Algorithm::FixedWindow, Algorithm::SlidingWindow],
    ] {
        let limiter = frozen();
        let all = limit("all", THREADS * EACH, first);
        let group = limit("group", THREADS * EACH / 2, second);
        let own = limit("own", EACH, third);
        let refused: u32 = on_all_threads(|thread| {
            let mut request = [(&all, 1000_u32), (&group, thread % 2), (&own, thread)];
            (0..EACH)
                .map(|number| {
                    request.rotate_left(((number + thread) % 3) as usize);
                    request[..2].reverse();
                    u32::from(!limiter.try_check_all(&request, 1).unwrap().is_allowed())
                })
                .sum::<u32>()
        })
        .into_iter()
        .sum();
        assert_eq!(refused, 0, "{first} {second} {third}");
        for (limit, key) in [(&all, 1000_u32), (&group, 0), (&group, 1), (&own, 3)] {
            assert_eq!(ready(limiter.peek(limit, key)).unwrap().remaining(), 0, "{limit:?}");
        }
    }
}

/// One limit says no, and the others are not charged: what the requests that passed took is all that is gone.
#[test]
fn together_a_refusal_charges_nothing() {
    for (first, second) in [
        (Algorithm::TokenBucket, Algorithm::FixedWindow),
        (Algorithm::SlidingWindow, Algorithm::TokenBucket),
        (Algorithm::FixedWindow, Algorithm::SlidingWindow),
    ] {
        let (limiter, wide, narrow) = (frozen(), limit("wide", 4000, first), limit("narrow", 601, second));
        let admitted: u32 = on_all_threads(|thread| {
            let request =
                if thread % 2 == 0 { [(&wide, "k"), (&narrow, "k")] } else { [(&narrow, "k"), (&wide, "k")] };
            (0..150).filter(|_| limiter.try_check_all(&request, 2).unwrap().is_allowed()).count() as u32
        })
        .into_iter()
        .sum();
        assert_eq!(admitted, 300, "{first} {second}");
        assert_eq!(ready(limiter.peek(&wide, "k")).unwrap().remaining(), 4000 - 600);
        assert_eq!(ready(limiter.peek(&narrow, "k")).unwrap().remaining(), 1);
    }
}

/// Keys that cross: every thread charges two keys of the same limit, in both orders.
#[test]
fn together_on_two_keys_of_one_limit() {
    let (limiter, limit) = (frozen(), limit("pairs", 1200, Algorithm::TokenBucket));
    let admitted: u32 = on_all_threads(|thread| {
        let request = if thread % 2 == 0 { [(&limit, 1), (&limit, 2)] } else { [(&limit, 2), (&limit, 1)] };
        (0..300).filter(|_| limiter.try_check_all(&request, 1).unwrap().is_allowed()).count() as u32
    })
    .into_iter()
    .sum();
    assert_eq!(admitted, 1200);
    for key in [1, 2] {
        assert_eq!(ready(limiter.peek(&limit, key)).unwrap().remaining(), 0);
    }
}

#[test]
fn refunds_and_settlements_lose_nothing() {
    const EACH: u32 = 400;
    for algorithm in RATED {
        let (limiter, limit) = (frozen(), limit("settled", 5 * THREADS * EACH, algorithm));
        on_all_threads(|thread| {
            for number in 0..EACH {
                match (number + thread) % 4 {
                    0 => ready(limiter.reserve(&limit, "key", 5)).unwrap().unwrap().settle(3),
                    1 => ready(limiter.reserve(&limit, "key", 3)).unwrap().unwrap().settle(5),
                    2 => ready(limiter.reserve(&limit, "key", 5)).unwrap().unwrap().refund(),
                    _ => {
                        assert!(limiter.try_check(&limit, "key").is_allowed());
                        limiter.refund(&limit, "key", 1);
                    }
                }
            }
        });
        let left = ready(limiter.peek(&limit, "key")).unwrap().remaining();
        assert_eq!(left, 5 * THREADS * EACH - (3 + 5) * THREADS * EACH / 4, "{algorithm}");
    }
}

/// With refunds and no time passing, a bucket is a semaphore; so is a concurrency limit, which is one.
#[test]
fn never_more_at_once_than_the_limit() {
    for most in [1, 3, 7] {
        let (limiter, permits, bucket) =
            (frozen(), Limit::concurrency("permits", most), limit("bucket", most, Algorithm::TokenBucket));
        let (held, highest, admitted) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
        let enter = || {
            highest.fetch_max(held.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            admitted.fetch_add(1, Ordering::SeqCst);
            thread::yield_now();
            held.fetch_sub(1, Ordering::SeqCst);
        };
        on_all_threads(|_| {
            for _ in 0..1500 {
                if let Ok(permit) = ready(limiter.acquire(&permits, "key")).unwrap() {
                    enter();
                    drop(permit);
                }
            }
        });
        assert!(highest.swap(0, Ordering::SeqCst) <= most);
        assert!(admitted.swap(0, Ordering::SeqCst) > 0);
        on_all_threads(|_| {
            for _ in 0..1500 {
                if limiter.try_check(&bucket, "key").is_allowed() {
                    enter();
                    limiter.refund(&bucket, "key", 1);
                }
            }
        });
        assert!(highest.load(Ordering::SeqCst) <= most);
        // Everything came back, once.
        let held: Vec<_> =
            (0..most).map(|_| ready(limiter.acquire(&permits, "key")).unwrap().unwrap()).collect();
        assert!(ready(limiter.acquire(&permits, "key")).unwrap().is_err());
        drop(held);
        assert_eq!(ready(limiter.peek(&bucket, "key")).unwrap().remaining(), most);
    }
}

/// In real time, with real threads: no interval, however it is chosen, holds more than burst + rate · length.
#[test]
fn bound_in_every_interval_of_real_time() {
    const RATE: u64 = 4000;
    const BURST: u64 = 40;
    let clock = SystemClock::default();
    let limiter = Limiter::new(MemoryStore::with_clock(clock.clone()));
    let limit = Limit::new("real", format!("{RATE}/s").parse().unwrap()).burst(BURST as u32);
    let end = clock.now().saturating_add(Nanos::from(Duration::from_millis(250)));
    let mut admitted: Vec<(u64, u64)> = on_all_threads(|_| {
        let mut admitted = Vec::new();
        loop {
            let before = clock.now();
            if before > end {
                return admitted;
            }
            // The decision lies between the two readings.
            if limiter.try_check(&limit, "key").is_allowed() {
                admitted.push((before.get(), clock.now().get()));
            }
        }
    })
    .into_iter()
    .flatten()
    .collect();
    assert!(admitted.len() as u64 >= BURST);
    admitted.sort_unstable_by_key(|&(_, after)| after);
    for &(from, _) in &admitted {
        let mut count = 0;
        for &(before, to) in &admitted {
            // Processors' counters may differ by some nanoseconds.
            if before >= from {
                count += 1;
                let length = to - from + 1000;
                assert!(
                    count * 1_000_000_000 <= BURST * 1_000_000_000 + RATE * length,
                    "{count} in {length} ns"
                );
            }
        }
    }
}

/// A clock that holds one thread up after it has read the time.
#[derive(Clone)]
struct HeldUp {
    time: ManualClock,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    Armed(thread::ThreadId),
    Holding,
}

impl HeldUp {
    fn set(&self, gate: Gate) {
        *self.gate.0.lock().unwrap() = gate;
        self.gate.1.notify_all();
    }

    fn wait_until_it_holds(&self) {
        let guard = self.gate.0.lock().unwrap();
        let (guard, _) = self
            .gate
            .1
            .wait_timeout_while(guard, Duration::from_secs(20), |gate| *gate != Gate::Holding)
            .unwrap();
        assert_eq!(*guard, Gate::Holding);
    }
}

impl Clock for HeldUp {
    fn now(&self) -> Nanos {
        let now = self.time.now();
        let mut gate = self.gate.0.lock().unwrap();
        if *gate == Gate::Armed(thread::current().id()) {
            *gate = Gate::Holding;
            self.gate.1.notify_all();
            drop(
                self.gate
                    .1
                    .wait_timeout_while(gate, Duration::from_secs(20), |gate| *gate == Gate::Holding)
                    .unwrap(),
            );
        }
        now
    }

    fn utc(&self) -> Nanos {
        self.time.utc()
    }
}

/// A thread reads the clock and is interrupted; meanwhile others use the key up. Its old reading must not give
/// anything back, whatever it asks for then.
#[test]
fn a_thread_that_is_held_up_gives_nothing_back() {
    let limit = Limit::new("held-up", "100/s".parse().unwrap()).burst(10).debt(5);
    type Operation = fn(&Limiter<MemoryStore<HeldUp>>, &Limit);
    let operations: [Operation; 4] = [
        |limiter, limit| assert!(!limiter.try_check(limit, "key").is_allowed()),
        |limiter, limit| limiter.debit(limit, "key", 1),
        |limiter, limit| drop(ready(limiter.peek(limit, "key")).unwrap()),
        |limiter, limit| limiter.refund(limit, "key", 0),
    ];
    for operation in operations {
        let clock =
            HeldUp { time: ManualClock::default(), gate: Arc::new((Mutex::new(Gate::Open), Condvar::new())) };
        let limiter = Limiter::new(MemoryStore::with_clock(clock.clone()));
        assert!(limiter.try_check(&limit, "key").is_allowed());
        thread::scope(|scope| {
            scope.spawn(|| {
                clock.set(Gate::Armed(thread::current().id()));
                operation(&limiter, &limit);
            });
            clock.wait_until_it_holds();
            clock.time.advance(Duration::from_millis(900));
            for _ in 0..10 {
                assert!(limiter.try_check(&limit, "key").is_allowed());
            }
            clock.set(Gate::Open);
        });
        assert!(!limiter.try_check(&limit, "key").is_allowed());
    }
}
