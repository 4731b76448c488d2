//! A replica without the store: the rules of `src/breaker.rs` and `src/fallback.rs`, written down once more, since those run
//! on clocks of their own. Five failures in a row, and the replica decides by the R-th part of the quota; a key begins
//! with one unit; for two seconds after the store is back the share is kept; then what it spent is charged.

use std::collections::HashMap;

use ratelimit_core::Nanos;
use ratelimit_core::algorithm::{Gcra, Op};

use crate::world::{Quota, SECOND};

const FAILURES: u32 = 5;
pub const LONGEST_PAUSE: u64 = 3 * SECOND / 2;
pub const OVERLAP: u64 = 2 * SECOND;

/// What a replica decides by when it is alone.
#[derive(Default)]
pub struct Share {
    failures: u32,
    since: Option<u64>,
    keys: HashMap<u32, u128>,
}

/// The R-th part of a quota.
fn part(quota: Quota, replicas: u32) -> Gcra {
    let burst = (quota.burst / replicas).max(1);
    Gcra::new(1, Nanos::new(quota.nanos() * u64::from(replicas)), burst, 0).unwrap()
}

impl Share {
    pub fn is_alone(&self) -> bool {
        self.since.is_some()
    }

    /// The store answered.
    pub fn answered(&mut self) {
        self.failures = 0;
    }

    /// It did not; whether it is known to be gone from now on.
    pub fn failed(&mut self, now: u64) -> bool {
        self.failures += 1;
        let goes = self.since.is_none() && self.failures >= FAILURES;
        if goes {
            self.since = Some(now);
        }
        goes
    }

    pub fn take(&mut self, key: u32, now: u64, quota: Quota, replicas: u32, units: u32) -> bool {
        let bucket = part(quota, replicas);
        // With one unit at the beginning: all others are charged then.
        let began = Nanos::new(self.since.unwrap_or(now));
        let tat = self
            .keys
            .entry(key)
            .or_insert_with(|| bucket.step(0, began, Op::Take(bucket.burst() - 1)).0.unwrap_or(0));
        let (after, outcome) = bucket.step(*tat, Nanos::new(now), Op::Take(units));
        *tat = after.unwrap_or(*tat);
        outcome.admitted
    }

    /// The store is used again: what was spent of each key, and has not come back.
    pub fn rejoin(&mut self, now: u64, quota: Quota, replicas: u32) -> Vec<(u32, u32)> {
        let bucket = part(quota, replicas);
        self.failures = 0;
        self.since = None;
        let spent = |(key, tat): (u32, u128)| {
            let ahead = tat.saturating_sub(u128::from(now) << 10);
            (key, u32::try_from(ahead.div_ceil(bucket.interval_ticks())).unwrap())
        };
        self.keys.drain().map(spent).filter(|&(_, units)| units > 0).collect()
    }
}
