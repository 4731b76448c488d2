//! Permits that are kept for the next request: where a concurrency limit is in use all the time, one that is given
//! back need not go to the store, and another be fetched a moment later.
//!
//! The store counts what is kept as held here, so that never more are out than there are. Kept are at most a quarter
//! of those in use, which is a fifth of the limit at most, over all replicas; with fewer than four in use, none. What
//! nobody took for [`IDLE`] goes back.

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use ratelimit_core::algorithm::{Op, Outcome};
use ratelimit_core::store::Charge;
use ratelimit_core::{Key, Limit, Nanos};

use super::Id;

/// For so long a permit is kept that nobody takes.
pub(super) const IDLE: Nanos = Nanos::from_secs(1);
/// Between two looks for such.
pub(super) const LOOK: Nanos = Nanos::new(500_000_000);
/// Of so many in use, one more may be kept.
pub(super) const FOR_EACH: u32 = 4;

/// Of one key, what is in use here and what is kept.
#[derive(Debug)]
struct Permits {
    limit: Limit,
    key: Box<[u8]>,
    in_use: u32,
    kept: u32,
    /// What the store had left when it was last asked.
    left: u32,
    /// When some were last taken or kept.
    touched: Nanos,
}

/// Permits that go back to the store.
#[derive(Debug)]
pub(super) struct Back {
    pub(super) limit: Limit,
    pub(super) key: Box<[u8]>,
    pub(super) permits: u32,
}

/// What this process keeps.
#[derive(Debug)]
pub(super) struct Spares {
    keys: DashMap<Id, Permits, foldhash::fast::RandomState>,
    /// Keys that are followed; permits of others are never kept.
    most: usize,
}

impl Spares {
    pub(super) fn new(most: usize) -> Self {
        Self { keys: DashMap::default(), most }
    }

    /// Takes some that are kept.
    pub(super) fn take(&self, id: Id, limit: &Limit, permits: u32, now: Nanos) -> Option<Outcome> {
        let mut of = self.keys.get_mut(&id).filter(|of| of.limit.capacity() == limit.capacity())?;
        of.kept = of.kept.checked_sub(permits)?;
        of.in_use = of.in_use.saturating_add(permits);
        of.touched = now;
        Some(Outcome::admitted(of.left.saturating_add(of.kept)))
    }

    /// The store made a charge.
    pub(super) fn decided(&self, id: Id, charge: &Charge<'_>, outcome: &Outcome, now: Nanos) {
        match charge.op {
            Op::Take(permits) if outcome.admitted => {
                self.granted(id, charge.limit, charge.key, permits, outcome.remaining(), now);
            }
            Op::Refund(permits, _) => self.gave_back(id, permits),
            // It counts none as held here any more.
            Op::Reset => {
                self.keys.remove(&id);
            }
            _ => {}
        }
    }

    fn granted(&self, id: Id, limit: &Limit, key: Key<'_>, permits: u32, left: u32, now: Nanos) {
        let full = self.keys.len() >= self.most;
        match self.keys.entry(id) {
            Entry::Occupied(mut of) => {
                let of = of.get_mut();
                of.in_use = of.in_use.saturating_add(permits);
                (of.limit, of.left) = (limit.clone(), left);
            }
            Entry::Vacant(vacant) if !full => {
                let (limit, key) = (limit.clone(), key.to_vec().into());
                vacant.insert(Permits { limit, key, in_use: permits, kept: 0, left, touched: now });
            }
            Entry::Vacant(_) => {}
        }
    }

    /// Some are given back. How many the store is to be told of; the others are kept.
    pub(super) fn give_back(&self, id: Id, permits: u32, now: Nanos) -> u32 {
        let Entry::Occupied(mut entry) = self.keys.entry(id) else { return permits };
        let of = entry.get_mut();
        of.in_use = of.in_use.saturating_sub(permits);
        of.touched = now;
        let there = of.kept.saturating_add(permits);
        of.kept = there.min(of.in_use / FOR_EACH);
        let back = there - of.kept;
        if of.in_use == 0 {
            entry.remove();
        }
        back
    }

    /// The store was told that some are given back.
    pub(super) fn gave_back(&self, id: Id, permits: u32) {
        let Entry::Occupied(mut entry) = self.keys.entry(id) else { return };
        let of = entry.get_mut();
        of.in_use = of.in_use.saturating_sub(permits);
        if of.in_use == 0 && of.kept == 0 {
            entry.remove();
        }
    }

    /// How many are kept of a key.
    pub(super) fn kept(&self, id: Id) -> u32 {
        self.keys.get(&id).map_or(0, |of| of.kept)
    }

    /// How many are kept in all. Walks the keys.
    pub(super) fn kept_in_all(&self) -> u64 {
        self.keys.iter().map(|of| u64::from(of.kept)).sum()
    }

    /// Lets go of what is kept of a key.
    pub(super) fn let_go(&self, id: Id) -> u32 {
        self.keys.get_mut(&id).map_or(0, |mut of| std::mem::take(&mut of.kept))
    }

    /// Lets go of what nobody took since `before`.
    pub(super) fn idle_since(&self, before: Nanos) -> Vec<Back> {
        let idle = |mut of: dashmap::mapref::multiple::RefMutMulti<'_, Id, Permits>| {
            let permits = if of.touched <= before { std::mem::take(&mut of.kept) } else { 0 };
            (permits > 0).then(|| Back { limit: of.limit.clone(), key: of.key.clone(), permits })
        };
        let back = self.keys.iter_mut().filter_map(idle).collect();
        self.keys.retain(|_, of| of.in_use > 0 || of.kept > 0);
        back
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::lease::{Policy, Table};

    const NOW: Nanos = Nanos::from_secs(1);

    struct Here {
        spares: Spares,
        id: Id,
        limit: Limit,
    }

    impl Here {
        fn new() -> Self {
            let limit = Limit::concurrency("permits", 20);
            let id = Table::new(Policy::default(), 10).id(&limit, Key::GLOBAL);
            Self { spares: Spares::new(10), id, limit }
        }

        fn granted(&self, permits: u32, left: u32) {
            self.spares.granted(self.id, &self.limit, Key::GLOBAL, permits, left, NOW);
        }

        fn take(&self, permits: u32) -> Option<u32> {
            self.spares.take(self.id, &self.limit, permits, NOW).map(|outcome| outcome.remaining())
        }

        fn give_back(&self, permits: u32) -> u32 {
            self.spares.give_back(self.id, permits, NOW)
        }
    }

    #[test]
    fn a_quarter_of_what_is_in_use_is_kept_and_taken_again() {
        let here = Here::new();
        assert_eq!((here.take(1), here.give_back(1)), (None, 1), "nothing is known of this key");
        here.granted(8, 12);
        assert_eq!(here.give_back(1), 0, "seven in use, one kept");
        assert_eq!(here.give_back(1), 1, "six in use, one kept");
        assert_eq!((here.take(2), here.take(1), here.take(1)), (None, Some(12), None));
        assert_eq!(here.give_back(1), 0);
        assert_eq!(here.give_back(2), 2, "four in use, one kept");
        assert_eq!(here.give_back(1), 2, "three in use, none kept");
        assert_eq!(here.give_back(3), 3);
        assert!(here.spares.keys.is_empty());
    }

    #[test]
    fn another_quota_takes_nothing_that_is_kept() {
        let here = Here::new();
        here.granted(8, 12);
        here.give_back(1);
        let fewer = Limit::concurrency("permits", 5);
        assert_eq!(here.spares.take(here.id, &fewer, 1, NOW), None);
        let charge = Charge { limit: &here.limit, key: Key::GLOBAL, op: Op::Reset };
        here.spares.decided(here.id, &charge, &Outcome::admitted(20), NOW);
        assert_eq!((here.take(1), here.give_back(7)), (None, 7), "a reset forgets all");
    }

    #[test]
    fn what_nobody_takes_goes_back() {
        let here = Here::new();
        here.granted(8, 12);
        here.give_back(1);
        assert!(here.spares.idle_since(Nanos::ZERO).is_empty());
        let back = here.spares.idle_since(NOW);
        assert_eq!(back.iter().map(|back| back.permits).collect::<Vec<_>>(), [1]);
        assert_eq!((here.spares.kept(here.id), here.take(1)), (0, None));
        assert_eq!((here.spares.kept_in_all(), here.give_back(7)), (0, 7));
    }
}
