//! What is known to be denied until when. Saves the calls of clients that hammer a closed door.
//!
//! Bound: an entry lives for a second at most, and less if the key could pass earlier; counted from before the
//! store was asked, so it ends early and never late. A denial that was under way while the key was refunded or
//! reset here is not kept. So it can only deny, and by at most a second more than the store would.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use dashmap::DashMap;
use ratelimit_core::Nanos;
use ratelimit_core::algorithm::Outcome;

use crate::keys::Digest;
use crate::shape::Shape;

/// Longest life of an entry.
const LIFE: Nanos = Nanos::from_secs(1);
/// Most entries; beyond them the store is asked.
const MOST: usize = 100_000;
/// Changes are counted by groups of keys.
const GROUPS: usize = 1024;

/// Denials that are still worth something.
#[derive(Debug)]
pub(crate) struct Denied {
    entries: DashMap<Digest, Entry, foldhash::fast::RandomState>,
    /// How many there are, or a few more: the map would have to look at all of its parts for it.
    count: AtomicUsize,
    changes: Vec<AtomicU32>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// What was denied: so much or more is denied still.
    units: u32,
    /// With what quota: another one must ask.
    shape: Shape,
    remaining: u32,
    /// When the key has recovered, may pass, and is forgotten here.
    reset_at: Nanos,
    retry_at: Nanos,
    until: Nanos,
}

impl Denied {
    pub(crate) fn new() -> Self {
        let changes = (0..GROUPS).map(|_| AtomicU32::new(0)).collect();
        Self { entries: DashMap::default(), count: AtomicUsize::new(0), changes }
    }

    /// Whether nothing is known at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// What the key is known to say to `units`, if it is known.
    pub(crate) fn look(&self, digest: &Digest, shape: &Shape, units: u32, now: Nanos) -> Option<Outcome> {
        let entry = *self.entries.get(digest)?;
        if now >= entry.until || units < entry.units || entry.shape != *shape {
            return None;
        }
        let retry_after = entry.retry_at.saturating_sub(now);
        let reset_after = entry.reset_at.saturating_sub(now);
        Some(Outcome::refused(entry.remaining, Some(retry_after)).with_reset_after(reset_after))
    }

    /// To be asked for before the store is, and given to [`Denied::keep`].
    pub(crate) fn changes(&self, digest: &Digest) -> u32 {
        self.group(digest).map_or(0, |group| group.load(Ordering::Acquire))
    }

    /// Keeps a denial that was asked for at `asked`, when the key's changes were those.
    pub(crate) fn keep(
        &self,
        digest: Digest,
        shape: Shape,
        units: u32,
        outcome: &Outcome,
        asked: Nanos,
        changes: u32,
    ) {
        let Some(retry_after) = outcome.retry_after else { return };
        if self.count.load(Ordering::Relaxed) >= MOST || self.changes(&digest) != changes {
            return;
        }
        let retry_at = asked.saturating_add(retry_after);
        let until = retry_at.min(asked.saturating_add(LIFE));
        let reset_at = asked.saturating_add(outcome.reset_after);
        let entry = Entry { units, shape, remaining: outcome.remaining(), reset_at, retry_at, until };
        if self.entries.insert(digest, entry).is_none() {
            self.count.fetch_add(1, Ordering::AcqRel);
        }
        // A change between the look above and the insertion.
        if self.changes(&digest) != changes {
            self.entries.remove(&digest);
        }
    }

    /// Something was given back to the key: what is known of it is worth nothing.
    pub(crate) fn forget(&self, digest: &Digest) {
        if let Some(group) = self.group(digest) {
            group.fetch_add(1, Ordering::AcqRel);
        }
        self.entries.remove(digest);
    }

    /// Nothing that is known is worth anything.
    pub(crate) fn forget_all(&self) {
        for group in &self.changes {
            group.fetch_add(1, Ordering::AcqRel);
        }
        self.entries.clear();
    }

    /// Drops what has ended.
    pub(crate) fn sweep(&self, now: Nanos) {
        let counted = self.count.load(Ordering::Acquire);
        self.entries.retain(|_, entry| now < entry.until);
        // What is kept meanwhile may be counted twice until the next time.
        self.count.fetch_sub(counted.saturating_sub(self.entries.len()), Ordering::AcqRel);
    }

    fn group(&self, digest: &Digest) -> Option<&AtomicU32> {
        usize::try_from(digest.spread() % 1024).ok().and_then(|group| self.changes.get(group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratelimit_core::{Key, Limit, Rate};

    const fn millis(millis: u64) -> Nanos {
        Nanos::new(millis * 1_000_000)
    }

    struct Case {
        denied: Denied,
        digest: Digest,
        shape: Shape,
    }

    fn case(retry_after: Nanos) -> Case {
        let limit = Limit::new("l", Rate::per_second(10));
        let (denied, digest, shape) = (Denied::new(), Digest::of(&limit, Key::GLOBAL), Shape::of(&limit));
        let outcome = Outcome::refused(2, Some(retry_after)).with_reset_after(millis(5000));
        denied.keep(digest, shape, 3, &outcome, millis(100), denied.changes(&digest));
        Case { denied, digest, shape }
    }

    #[test]
    fn it_is_known_until_the_key_could_pass() {
        let Case { denied, digest, shape } = case(millis(400));
        let known = denied.look(&digest, &shape, 3, millis(499)).unwrap();
        assert_eq!((known.admitted, known.remaining(), known.retry_after), (false, 2, Some(millis(1))));
        assert_eq!(known.reset_after, millis(4601));
        assert!(denied.look(&digest, &shape, 4, millis(499)).is_some());
        assert!(denied.look(&digest, &shape, 2, millis(499)).is_none(), "less was not denied");
        assert!(denied.look(&digest, &shape, 3, millis(500)).is_none(), "it may pass now");
    }

    #[test]
    fn it_is_known_for_a_second_at_most_and_told_in_full() {
        let Case { denied, digest, shape } = case(millis(60_000));
        let known = denied.look(&digest, &shape, 3, millis(1099)).unwrap();
        assert_eq!(known.retry_after, Some(millis(60_000 - 999)));
        assert!(denied.look(&digest, &shape, 3, millis(1100)).is_none());
        denied.sweep(millis(1099));
        assert_eq!(denied.entries.len(), 1);
        denied.sweep(millis(1100));
        assert_eq!(denied.entries.len(), 0);
    }

    #[test]
    fn refunds_resets_and_overrides_end_it() {
        let Case { denied, digest, shape } = case(millis(400));
        let other = Shape { capacity: shape.capacity * 2.0, ..shape };
        assert!(denied.look(&digest, &other, 3, millis(100)).is_none(), "another quota asks");
        let before = denied.changes(&digest);
        denied.forget(&digest);
        assert!(denied.look(&digest, &shape, 3, millis(100)).is_none());
        let outcome = Outcome::refused(2, Some(millis(400)));
        denied.keep(digest, shape, 3, &outcome, millis(100), before);
        assert!(denied.look(&digest, &shape, 3, millis(100)).is_none(), "it was asked before the refund");
    }
}
