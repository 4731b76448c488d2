//! How much of a key's quota may lie in leases where it is not wanted, and for how long: what `explain` prints
//! and a gauge shows.

use ratelimit_core::{Limit, Nanos};

use super::{Kind, Policy, Terms};

/// What leases may hold back at most, of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// Units that may lie with other replicas while one looks for them.
    pub units: u32,
    /// Of so many that there are.
    pub capacity: u32,
    /// After so long what was not used is back for everybody.
    pub lasts: Nanos,
    /// Calls a second that all replicas together make for one busy key, at most: each asks anew once a lease is
    /// over. A key whose replicas each see fewer than a few requests in that time is charged strictly.
    pub calls: u32,
}

/// How much, and how long, leases of that limit may hold back at most from one of `replicas` replicas; `None` for
/// a limit that is not leased.
///
/// # Token bucket
/// With h the longest lease and τ the time in which the bucket fills. Whatever the demand, a grant that covers
/// time never takes the bucket below 1 − h/τ, so all of these together hold h/τ of it. A grant that covers
/// demand takes a quarter of what is there at most, so that R − 1 other replicas leave (3/4)ᴿ⁻¹, each as if it
/// wanted that much. Together: burst · (1 − (1 − h/τ) · (3/4)ᴿ⁻¹), and never more than there is. Replicas with
/// little traffic hold no more than λ·h of it each; a burst finds what nobody asked for.
///
/// A unit lapses at its own time. A grant made with u of τ used ends at most max(h, u/2) of demand later, and its
/// slots begin at u; since it takes no more than a quarter of τ − u, they are over within u + (τ − u)/4 < τ. On a
/// bucket that is mostly full they are over within h and what all others have before it.
///
/// # Windows
/// A quarter of what is there each, as above; until the end of the fixed window, or of a tenth of the sliding one.
#[must_use]
pub fn what_may_lie_elsewhere(limit: &Limit, replicas: u32, policy: &Policy) -> Option<HeldBack> {
    let terms = Terms::of(limit)?;
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
    let units = if others == 0 { 0 } else { u32::try_from(capacity - left).unwrap_or(u32::MAX) };
    let each_second = 1_000_000_u64.div_ceil((longest / 2).max(1));
    let calls = u32::try_from(each_second.saturating_mul(replicas.into())).unwrap_or(u32::MAX);
    Some(HeldBack {
        units,
        capacity: terms.capacity,
        lasts: Nanos::new(terms.lapses.saturating_mul(1000)),
        calls,
    })
}
