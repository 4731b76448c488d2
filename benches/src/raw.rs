//! What the decision alone costs over maps that are at hand: a theoretical arrival time for each key in nanoseconds,
//! nothing dropped, nothing told but yes or no. No limiter, but what one could write in an afternoon.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use dashmap::DashMap;
use foldhash::fast::RandomState;
use ratelimit_core::SystemClock;
use ratelimit_core::time::Clock as _;

use crate::{Contender, WIDE};

/// The generic cell rate algorithm.
#[derive(Clone, Copy)]
struct Quota {
    interval: u64,
    tolerance: u64,
}

impl Quota {
    fn new(denying: bool) -> Self {
        let (interval, burst) =
            if denying { (86_400_000_000_000, 1) } else { (1_000_000_000, u64::from(WIDE)) };
        Self { interval, tolerance: interval * burst }
    }

    #[inline]
    fn step(self, arrival: &mut u64, now: u64) -> bool {
        let next = (*arrival).max(now) + self.interval;
        let admitted = next <= now + self.tolerance;
        if admitted {
            *arrival = next;
        }
        admitted
    }
}

/// Over dashmap with foldhash.
pub struct OverDashMap {
    maps: Vec<DashMap<String, u64, RandomState>>,
    clock: SystemClock,
    quota: Quota,
}

impl Contender for OverDashMap {
    const NAME: &'static str = "dashmap";

    fn new(limits: usize, denying: bool) -> Self {
        let maps = (0..limits).map(|_| DashMap::default()).collect();
        Self { maps, clock: SystemClock::default(), quota: Quota::new(denying) }
    }

    #[inline]
    fn check(&self, key: &String) -> bool {
        let now = self.clock.now().get();
        self.maps.iter().all(|map| match map.get_mut(key) {
            Some(mut arrival) => self.quota.step(&mut arrival, now),
            None => self.quota.step(&mut map.entry(key.clone()).or_default(), now),
        })
    }
}

/// Over the standard library's map with foldhash, behind one mutex.
pub struct OverMutex {
    maps: Vec<Mutex<HashMap<String, u64, RandomState>>>,
    clock: SystemClock,
    quota: Quota,
}

impl Contender for OverMutex {
    const NAME: &'static str = "mutex";

    fn new(limits: usize, denying: bool) -> Self {
        let maps = (0..limits).map(|_| Mutex::default()).collect();
        Self { maps, clock: SystemClock::default(), quota: Quota::new(denying) }
    }

    #[inline]
    fn check(&self, key: &String) -> bool {
        let now = self.clock.now().get();
        self.maps.iter().all(|map| {
            let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
            match map.get_mut(key) {
                Some(arrival) => self.quota.step(arrival, now),
                None => self.quota.step(map.entry(key.clone()).or_default(), now),
            }
        })
    }
}
