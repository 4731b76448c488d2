//! How much of a key's quota may lie in leases where it is not wanted, and for how long: what `explain` prints
//! and a gauge shows.

use ratelimit_core::{Algorithm, Limit, Nanos};

use super::{Kind, Policy, Terms, spares};

/// What leases may hold back at most, of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// Units that may lie with other replicas while one looks for them.
    pub units: u32,
    /// Of so many that there are.
    pub capacity: u32,
    /// After so long what was not used is back for everybody.
    pub lasts: Nanos,
    /// Calls a second that all replicas together make for one busy key, about: each asks anew once a lease is
    /// over. Fewer on an exhausted key, which is given out in batches, unless many replicas wait for little. 0 for
    /// permits, of which it depends on how long they are held.
    pub calls: u32,
}

/// How much, and how long, leases of that limit may hold back at most from one of `replicas` replicas; `None` for
/// a limit that is not leased.
///
/// # Token bucket
/// With h the longest lease and τ the time in which the bucket fills. A grant that covers *time* never takes the
/// bucket below 1 − h/τ, so all of these together hold h/τ of it. A grant that covers *demand* takes a quarter of
/// what is there at most, so R − 1 other replicas leave (3/4)ᴿ⁻¹; and as each asks ahead, it may still have a
/// quarter of its lease before. Together at most 5/4 · burst · (1 − (1 − h/τ) · (3/4)ᴿ⁻¹), and never more than there
/// is. That is with all others overrun. Replicas with a demand of λ each hold λ·h and their part of h/τ.
///
/// Every unit lapses at its own time, so after τ nothing of it is missing; on a bucket that is mostly full
/// already after h and what others had leased before.
///
/// # Permits
/// A quarter of what is in use elsewhere is kept there: a fifth of all at most, until nobody took it for a second.
///
/// # Windows
/// A quarter of what is there each, as above; until the fixed window ends, or a tenth of the sliding one.
#[must_use]
pub fn what_may_lie_elsewhere(limit: &Limit, replicas: u32, policy: &Policy) -> Option<HeldBack> {
    if limit.spec().algorithm == Algorithm::Concurrency {
        return kept_elsewhere(limit.capacity(), replicas);
    }
    let terms = Terms::of(limit).filter(|terms| policy.leases(terms))?;
    let others = replicas.max(1) - 1;
    let longest = policy.longest(&terms);
    let capacity = u64::from(terms.capacity);
    // In integers, rounded so that more is held back rather than less.
    let mut left = match terms.kind {
        Kind::Bucket if others > 0 => capacity * terms.span.saturating_sub(longest) / terms.span.max(1),
        _ => capacity,
    };
    for _ in 0..others.min(64) {
        left = left * 3 / 4;
    }
    let held = if others == 0 { 0 } else { (capacity - left).saturating_mul(5).div_ceil(4).min(capacity) };
    let units = u32::try_from(held).unwrap_or(u32::MAX);
    let each_second = 1_000_000_u64.div_ceil((longest / 2).max(1));
    let calls = u32::try_from(each_second.saturating_mul(replicas.into())).unwrap_or(u32::MAX);
    Some(HeldBack {
        units,
        capacity: terms.capacity,
        lasts: Nanos::new(terms.lapses.saturating_mul(1000)),
        calls,
    })
}

/// Of permits; `None` where there are too few for any to be kept.
fn kept_elsewhere(capacity: u32, replicas: u32) -> Option<HeldBack> {
    let units = if replicas > 1 { capacity / (spares::FOR_EACH + 1) } else { 0 };
    let lasts = spares::IDLE.saturating_add(spares::LOOK);
    (capacity > spares::FOR_EACH).then_some(HeldBack { units, capacity, lasts, calls: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_replica_misses_nothing_and_many_may_miss_much() {
        let limit = Limit::new("l", "1000/s".parse().unwrap());
        let policy = Policy::default();
        let of = |replicas| what_may_lie_elsewhere(&limit, replicas, &policy).unwrap();
        assert_eq!(of(1).units, 0);
        // 5/4 of 1000 · (1 − 7/8 · 3/4).
        assert_eq!(of(2).units, 430);
        assert_eq!((of(16).units, of(16).capacity), (1000, 1000));
        assert_eq!(of(4).lasts, Nanos::from_secs(1));
        // Four that ask each 62.5 ms at the soonest.
        assert_eq!(of(4).calls, 64);
        let permits = |count| what_may_lie_elsewhere(&Limit::concurrency("c", count), 4, &policy);
        assert_eq!(permits(4), None);
        assert_eq!(permits(19).map(|held| (held.units, held.capacity)), Some((3, 19)));
    }
}
