//! Stand-in, replaced by the table.
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::{Charge, LocalStore, Origin, Outcomes, Store, Verdict};
use crate::algorithm::{Moment, Outcome, Program, Ring};
use crate::error::StoreError;
use crate::time::{Clock, SystemClock};

/// Beyond the capacity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// Share.
    #[default]
    Share,
    /// Deny.
    Deny,
}

#[derive(Clone, Copy, Default)]
struct State(u128, Ring);

/// Keeps limits in this process.
pub struct MemoryStore<C = SystemClock> {
    clock: C,
    map: Mutex<HashMap<(u64, u8, Vec<u8>), State>>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_clock(SystemClock::default())
    }
}

impl<C: Clock> MemoryStore<C> {
    /// With a clock.
    pub fn with_clock(clock: C) -> Self {
        Self { clock, map: Mutex::default() }
    }
    /// At most so many keys for each limit.
    pub fn max_keys(self, _keys: usize) -> Self {
        self
    }
    /// Beyond the capacity.
    pub fn overflow(self, _overflow: Overflow) -> Self {
        self
    }
    /// Entries held for a limit.
    pub fn keys(&self, _limit: &crate::Limit) -> usize {
        0
    }
    /// Decisions that found no entry and none free, since the start.
    pub fn overflowed(&self, _limit: &crate::Limit) -> u64 {
        0
    }
}

fn step(state: State, at: Moment, charge: &Charge<'_>) -> (State, Outcome) {
    match charge.limit.program() {
        Program::TokenBucket(p) => {
            let (s, o) = p.step(state.0, at.now, charge.op);
            (State(s.unwrap_or(state.0), state.1), o)
        }
        Program::FixedWindow(p) => {
            let (s, o) = p.step(state.0, at.utc, charge.op);
            (State(s.unwrap_or(state.0), state.1), o)
        }
        Program::Concurrency(p) => {
            let (s, o) = p.step(state.0, charge.op);
            (State(s.unwrap_or(state.0), state.1), o)
        }
        Program::SlidingWindow(p) => {
            let (s, o) = p.step(state.1, at.now, charge.op);
            (State(state.0, s.unwrap_or(state.1)), o)
        }
    }
}

impl<C: Clock> LocalStore for MemoryStore<C> {
    fn decide_now(&self, charges: &[Charge<'_>]) -> Verdict {
        let at = Moment { now: self.clock.now(), utc: self.clock.utc() };
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outcomes = Outcomes::new();
        let mut changes = Vec::new();
        let mut admitted = true;
        for charge in charges {
            let id = (charge.limit.id().get(), 0, charge.key.as_bytes().to_vec());
            let state = map.get(&id).copied().unwrap_or_default();
            let (after, outcome) = step(state, at, charge);
            admitted &= outcome.admitted || charge.limit.is_shadow();
            outcomes.push(outcome);
            changes.push((id, after));
        }
        if admitted {
            map.extend(changes);
        }
        Verdict { admitted, origin: Origin::Store, outcomes }
    }
}

impl<C: Clock> Store for MemoryStore<C> {
    fn try_decide(&self, charges: &[Charge<'_>]) -> Option<Verdict> {
        Some(self.decide_now(charges))
    }
    async fn decide(&self, charges: &[Charge<'_>]) -> Result<Verdict, StoreError> {
        Ok(self.decide_now(charges))
    }
    fn post(&self, charge: Charge<'_>) {
        let _ = self.decide_one(charge);
    }
}
