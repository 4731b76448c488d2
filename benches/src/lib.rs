//! What the benchmarks measure: the same work done by our limiter and by governor.
//!
//! Keys are strings of 27 bytes, made on the fly from a number. Each limiter reads its own default clock.

#![allow(clippy::ptr_arg, reason = "governor looks keys up by a reference to their own type")]

mod raw;
pub mod report;
pub mod request;
pub mod served;

use std::num::NonZeroU32;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use governor::{DefaultKeyedRateLimiter, Quota};
use ratelimit_core::{Limit, Limiter, MemoryStore};

pub use raw::{OverDashMap, OverMutex};

/// A limiter under measurement.
pub trait Contender: Sync {
    /// Its name in reports.
    const NAME: &'static str;
    /// With so many limits, each with a quota that no run reaches, or one that is used up at once and does not
    /// come back while it runs.
    fn new(limits: usize, denying: bool) -> Self;
    /// One decision about that key of every limit: whether it was allowed.
    fn check(&self, key: &String) -> bool;
}

/// Most limits a decision is about.
const MOST_LIMITS: usize = 32;
/// A bucket so wide that no run empties it, refilled so slowly that no entry recovers: an entry that has could
/// be dropped, and the next decision would be another one than was meant.
const WIDE: u32 = 1_000_000_000;

/// `ratelimit-core`, over its memory store.
pub struct Ours {
    limiter: Limiter<MemoryStore>,
    limits: Vec<Limit>,
}

impl Contender for Ours {
    const NAME: &'static str = "ratelimit-core";

    fn new(limits: usize, denying: bool) -> Self {
        if denying { Self::with(limits, "1/day", 1) } else { Self::with(limits, "1/s", WIDE) }
    }

    #[inline]
    fn check(&self, key: &String) -> bool {
        match self.limits.as_slice() {
            [limit] => self.limiter.try_check(limit, key).is_allowed(),
            [first, ..] => self.check_several(first, key),
            [] => true,
        }
    }
}

impl Ours {
    /// With so many token buckets of that quota.
    #[must_use]
    pub fn with(limits: usize, rate: &str, burst: u32) -> Self {
        let rate = rate.parse().expect("a rate");
        let limit = |number| Limit::new(format!("bench-{number}"), rate).burst(burst);
        let limiter = Limiter::new(MemoryStore::default().max_keys(8_000_000));
        Self { limiter, limits: (0..limits).map(limit).collect() }
    }

    /// All or nothing. Apart, so that its arrays cost nothing where there is one limit.
    #[inline(never)]
    fn check_several(&self, first: &Limit, key: &String) -> bool {
        // Two are what most requests have, and are written as one would; the rest are not known to the compiler.
        if let [one, two] = self.limits.as_slice() {
            return self.admits(&[(one, key), (two, key)]);
        }
        let mut of = [(first, key); MOST_LIMITS];
        for (place, limit) in of.iter_mut().zip(&self.limits) {
            place.0 = limit;
        }
        self.admits(&of[..self.limits.len()])
    }

    #[inline]
    fn admits(&self, of: &[(&Limit, &String)]) -> bool {
        matches!(&self.limiter.try_check_all(of, 1), Ok(decision) if decision.is_allowed())
    }
}

/// governor, keyed, over dashmap.
pub struct Governor(Vec<DefaultKeyedRateLimiter<String>>);

impl Contender for Governor {
    const NAME: &'static str = "governor";

    fn new(limits: usize, denying: bool) -> Self {
        let one = NonZeroU32::MIN;
        let quota = if denying {
            Quota::with_period(Duration::from_secs(86_400)).expect("a period")
        } else {
            Quota::per_second(one).allow_burst(NonZeroU32::new(WIDE).unwrap_or(one))
        };
        Self((0..limits).map(|_| DefaultKeyedRateLimiter::dashmap(quota)).collect())
    }

    #[inline]
    fn check(&self, key: &String) -> bool {
        // One after the other, up to the first that denies: it has no way to charge all or nothing.
        self.0.iter().all(|limiter| limiter.check_key(key).is_ok())
    }
}

const PREFIX: &str = "client-000000000000";

/// Writes keys without allocating and without looking anything up: what making them costs is not what is measured,
/// and tables would compete with the limiters' for the processor's caches.
pub struct Keys {
    text: String,
    count: u64,
    state: u64,
}

impl Keys {
    /// Of `count` different keys, in an order that begins at `seed` and visits them evenly and irregularly.
    #[must_use]
    pub fn new(count: u64, seed: u64) -> Self {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { text: format!("{PREFIX}00000000"), count, state }
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
        self.text.truncate(PREFIX.len());
        self.text.push_str(std::str::from_utf8(&digits(number)).unwrap_or_default());
        &self.text
    }
}

/// The last eight digits of a number, as text: halved three times, all parts at once.
#[inline]
const fn digits(number: u64) -> [u8; 8] {
    let number = number % 100_000_000;
    let fours = (number / 10_000) | ((number % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x7f_0000_007f;
    let twos = hundreds | ((fours - 100 * hundreds) << 16);
    let tens = ((twos * 103) >> 10) & 0xf_000f_000f_000f;
    let ones = tens | ((twos - 10 * tens) << 8);
    (ones | 0x3030_3030_3030_3030).to_le_bytes()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_their_numbers() {
        let mut keys = Keys::new(1, 1);
        for number in (0..10_000).chain((0..100_000_000).step_by(9973)).chain([99_999_999]) {
            assert_eq!(*keys.write(number), format!("client-{number:020}"));
        }
    }
}
