//! What the benchmarks measure: the same work done by our limiter and by governor.
//!
//! Keys are strings of 27 bytes, made on the fly from a number. Each limiter reads its own default clock.

#![allow(clippy::ptr_arg, reason = "governor looks keys up by a reference to their own type")]

use std::num::NonZeroU32;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use governor::{DefaultKeyedRateLimiter, Quota};
use ratelimit_core::{Limit, Limiter, MemoryStore};

/// A limiter under measurement.
pub trait Contender: Sync {
    /// Its name in reports.
    const NAME: &'static str;
    /// With a quota no run reaches, or one that is used up at once and never comes back while it runs.
    fn new(denying: bool) -> Self;
    /// One keyed decision: whether it was allowed.
    fn check(&self, key: &String) -> bool;
}

/// `ratelimit-core`, over its memory store.
pub struct Ours {
    limiter: Limiter<MemoryStore>,
    limit: Limit,
}

impl Contender for Ours {
    const NAME: &'static str = "ratelimit-core";

    fn new(denying: bool) -> Self {
        // So slow and so wide that no run is denied and no entry recovers, which would let it be dropped.
        let (rate, burst) = if denying { ("1/day", 1) } else { ("1/s", 1_000_000_000) };
        let limit = Limit::new("bench", rate.parse().expect("a rate")).burst(burst);
        Self { limiter: Limiter::new(MemoryStore::default().max_keys(8_000_000)), limit }
    }

    #[inline]
    fn check(&self, key: &String) -> bool {
        self.limiter.try_check(&self.limit, key).is_allowed()
    }
}

/// governor, keyed, over dashmap.
pub struct Governor(DefaultKeyedRateLimiter<String>);

impl Contender for Governor {
    const NAME: &'static str = "governor";

    fn new(denying: bool) -> Self {
        let one = NonZeroU32::MIN;
        let quota = if denying {
            Quota::with_period(Duration::from_secs(86_400)).expect("a period")
        } else {
            let many = NonZeroU32::new(1_000_000_000).unwrap_or(one);
            Quota::per_second(many).allow_burst(many)
        };
        Self(DefaultKeyedRateLimiter::dashmap(quota))
    }

    #[inline]
    fn check(&self, key: &String) -> bool {
        self.0.check_key(key).is_ok()
    }
}

const PREFIX: &str = "client-000000000000";

/// Writes keys without allocating.
pub struct Keys {
    text: String,
    /// "0000" to "9999".
    digits: Vec<String>,
    count: u64,
    state: u64,
}

impl Keys {
    /// Of `count` different keys, in an order that begins at `seed` and visits them evenly and irregularly.
    #[must_use]
    pub fn new(count: u64, seed: u64) -> Self {
        let digits = (0..10_000).map(|number| format!("{number:04}")).collect();
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { text: PREFIX.to_owned(), digits, count, state }
    }

    /// The next key.
    #[inline]
    #[allow(clippy::should_implement_trait, reason = "it lends what it returns")]
    pub fn next(&mut self) -> &String {
        // A linear congruential generator (constants of Steele and Vigna); only its high bits are used.
        self.state = self.state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
        let number = (u128::from(self.state) * u128::from(self.count)) >> 64;
        self.write(number as u64)
    }

    /// The key of that number: `client-` and twenty digits, of which eight count.
    #[inline]
    pub fn write(&mut self, number: u64) -> &String {
        // Four digits at a time, so that making keys costs little beside using them.
        self.text.truncate(PREFIX.len());
        self.text.push_str(&self.digits[(number / 10_000 % 10_000) as usize]);
        self.text.push_str(&self.digits[(number % 10_000) as usize]);
        &self.text
    }
}

/// Uses every key once, so that runs measure decisions and not insertions.
pub fn warm_up<C: Contender>(limiter: &C, keys: u64) {
    let mut writer = Keys::new(keys, 1);
    for number in 0..keys {
        limiter.check(writer.write(number));
    }
}

/// How long `threads` threads take for `decisions` decisions each, over `keys` keys.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub fn run<C: Contender>(limiter: &C, keys: u64, threads: usize, decisions: u64) -> Duration {
    let barrier = Barrier::new(threads);
    let work = |seed: u64| {
        let mut writer = Keys::new(keys, seed);
        let mut allowed = 0_u64;
        barrier.wait();
        let start = Instant::now();
        for _ in 0..decisions {
            allowed += u64::from(limiter.check(writer.next()));
        }
        let took = start.elapsed();
        std::hint::black_box(allowed);
        took
    };
    if threads == 1 {
        return work(7);
    }
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads as u64).map(|seed| scope.spawn(move || work(seed + 7))).collect();
        let own = work(7);
        others.into_iter().filter_map(|thread| thread.join().ok()).fold(own, Duration::max)
    })
}
