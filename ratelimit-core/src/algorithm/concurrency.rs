//! Concurrency: how many may be under way at once. A counting semaphore (Dijkstra); the state is the number
//! of permits held.
//!
//! # Bound
//! The count moves by compare-and-swap from a value at which `count + n ≤ limit` was tested, and each permit
//! is released once; so at every instant at most `limit` are held.

use super::{Op, Outcome};
use crate::time::Nanos;

/// Nobody can know when a permit comes back; this is the wait that a refused client is told.
const RETRY: Nanos = Nanos::from_secs(1);

/// A concurrency limit's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concurrency {
    limit: u32,
}

impl Concurrency {
    /// At most `limit` at once; `None` for zero.
    #[must_use]
    pub fn new(limit: u32) -> Option<Self> {
        (limit > 0).then_some(Self { limit })
    }

    /// Most permits held at once.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// One step; `None` in the first place: the count stays as it is.
    #[inline]
    #[must_use]
    pub fn step(&self, held: u128, op: Op) -> (Option<u128>, Outcome) {
        let held = u32::try_from(held).unwrap_or(u32::MAX);
        let left = self.limit.saturating_sub(held);
        match op {
            Op::Take(permits) | Op::Peek(permits) => {
                if permits > self.limit {
                    (None, Outcome::refused(left, None))
                } else if permits > left || held > self.limit {
                    (None, Outcome::refused(left, Some(RETRY)))
                } else if permits == 0 || matches!(op, Op::Peek(_)) {
                    (None, Outcome::admitted(left))
                } else {
                    (Some(u128::from(held + permits)), Outcome::admitted(left - permits))
                }
            }
            Op::Debit(permits) => {
                let after = held.saturating_add(permits);
                (Some(after.into()), Outcome::admitted(self.limit.saturating_sub(after)))
            }
            Op::Refund(permits, _) => {
                let after = held.saturating_sub(permits);
                ((after < held).then_some(after.into()), Outcome::admitted(self.limit.saturating_sub(after)))
            }
            Op::Reset => ((held > 0).then_some(0), Outcome::admitted(self.limit)),
            Op::Rescale(_) => (None, Outcome::admitted(left)),
        }
    }
}
