//! A decision in this process allocates nothing once its key is known: allowed or denied, about one limit or
//! four, at once or awaited, while the keys of the call have at most 64 bytes together.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::net::IpAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use ratelimit_core::algorithm::Op;
use ratelimit_core::store::Charge;
use ratelimit_core::{Algorithm, AsKey, KeyBuf, Limit, Limiter, ManualClock, MemoryStore, Store};

const ROUNDS: u32 = 200;
const USER: &str = "user-4711";
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn limiter() -> Limiter<MemoryStore<ManualClock>> {
    Limiter::new(MemoryStore::with_clock(ManualClock::default()))
}

/// One limit of each algorithm, with room for `count`.
fn limits(count: u32) -> [Limit; 4] {
    let rate = ratelimit_core::Rate::per_hour(count);
    [
        Limit::new("bucket", rate),
        Limit::new("sliding", rate).algorithm(Algorithm::SlidingWindow),
        Limit::new("fixed", rate).algorithm(Algorithm::FixedWindow),
        Limit::concurrency("at-once", count),
    ]
}

/// Runs the job until its keys are known, then counts what it allocates.
fn allocates_nothing(what: &str, mut job: impl FnMut() -> bool) {
    for allowed in [true, false] {
        assert_eq!(job(), allowed, "{what}: the first call is allowed, the second denied");
    }
    let mut denied = 0;
    let counted = allocation_counter::measure(|| {
        for _ in 0..ROUNDS {
            denied += u32::from(!job());
        }
    });
    assert_eq!(denied, ROUNDS);
    assert_eq!(counted.count_total, 0, "{what}, denied: {counted:?}");
}

/// The same for what is allowed as often as it is tried.
fn allowed_allocates_nothing(what: &str, mut job: impl FnMut() -> bool) {
    assert!(job(), "{what}");
    let mut allowed = 0;
    let counted = allocation_counter::measure(|| {
        for _ in 0..ROUNDS {
            allowed += u32::from(job());
        }
    });
    assert_eq!(allowed, ROUNDS);
    assert_eq!(counted.count_total, 0, "{what}, allowed: {counted:?}");
}

/// A future over a store in this process is ready at once.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a store in this process answers at once"),
    }
}

/// Both counts of a job that is made for a limit's room.
fn both<J: FnMut() -> bool>(what: &str, job: impl Fn(u32) -> J) {
    allocates_nothing(what, job(1));
    allowed_allocates_nothing(what, job(1_000_000));
}

#[test]
fn the_counter_counts() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![1_u8; 10])));
    assert_eq!(counted.count_total, 1);
}

#[test]
fn try_check() {
    for algorithm in 0..4 {
        both(&format!("try_check of algorithm {algorithm}"), |count| {
            let (limiter, limits) = (limiter(), limits(count));
            move || limits.get(algorithm).is_some_and(|limit| limiter.try_check(limit, USER).is_allowed())
        });
    }
}

#[test]
fn check() {
    for algorithm in 0..4 {
        both(&format!("check of algorithm {algorithm}"), |count| {
            let (limiter, limits) = (limiter(), limits(count));
            move || {
                limits
                    .get(algorithm)
                    .is_some_and(|limit| now(limiter.check(limit, (USER, ADDRESS))).unwrap().is_allowed())
            }
        });
    }
}

#[test]
fn check_all_of_up_to_four_limits() {
    for number in 1..=4 {
        both(&format!("check_all of {number}"), |count| {
            let (limiter, limits) = (limiter(), limits(count));
            move || {
                let [bucket, sliding, fixed, at_once] = &limits;
                let of = [(bucket, 1_u32), (sliding, 2), (fixed, 3), (at_once, 4)];
                now(limiter.check_all(of.get(..number).unwrap(), 1)).unwrap().is_allowed()
            }
        });
    }
}

#[test]
fn try_check_all_of_four_limits() {
    both("try_check_all", |count| {
        let (limiter, limits) = (limiter(), limits(count));
        move || {
            let [bucket, sliding, fixed, at_once] = &limits;
            let of = [(bucket, USER), (sliding, USER), (fixed, USER), (at_once, USER)];
            limiter.try_check_all(&of, 1).unwrap().is_allowed()
        }
    });
}

#[test]
fn try_decide_and_decide_of_charges() {
    both("try_decide, decide and post", |count| {
        let (limiter, limits) = (limiter(), limits(count));
        let mut key = KeyBuf::new();
        USER.encode(&mut key);
        move || {
            let [bucket, sliding, fixed, at_once] = &limits;
            let charge = |limit| Charge { limit, key: key.key(), op: Op::Take(1) };
            let charges = [charge(bucket), charge(sliding), charge(fixed), charge(at_once)];
            let peeks = charges.map(|charge| Charge { op: Op::Peek(1), ..charge });
            let store = limiter.store();
            store.post(Charge { op: Op::Refund(0, None), ..charge(bucket) });
            let at_once = now(store.decide(&peeks)).unwrap().admitted;
            at_once == store.try_decide(&charges).unwrap().admitted && at_once
        }
    });
}
