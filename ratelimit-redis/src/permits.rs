//! What this replica holds of concurrency limits, beside what the store remembers of it. Pure.
//!
//! Takes and releases are sent as differences, each batch with a number greater than all before, so that one
//! that was overtaken counts for nothing. After a call of which nobody knows whether it was carried out, and
//! whenever the store's count differs from ours, the whole count is said once no call about the key is under
//! way; that heals either way. Everything held is said again before it lapses.

use std::collections::HashMap;

use ratelimit_core::algorithm::Op;
use ratelimit_core::store::Verdict;
use ratelimit_core::{Limit, Nanos};

use crate::keys::Digest;
use crate::wire::{Part, What};

/// What is held at one key.
#[derive(Debug)]
struct Holding {
    limit: Limit,
    /// Permits that were granted and not given back.
    granted: u32,
    /// Calls about it that are not answered yet.
    busy: u32,
    /// The store may think otherwise.
    doubtful: bool,
    /// When the store was last told in a way that puts the expiry off.
    told: Nanos,
}

/// All holdings of a partition.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    holdings: HashMap<Digest, Holding>,
}

impl Ledger {
    /// A request is about to be sent.
    pub(crate) fn sending(&mut self, parts: &[Part], now: Nanos) {
        for part in parts.iter().filter(|part| part.is_permits()) {
            let fresh =
                || Holding { limit: part.limit.clone(), granted: 0, busy: 0, doubtful: false, told: now };
            let holding = self.holdings.entry(part.digest).or_insert_with(fresh);
            holding.busy = holding.busy.saturating_add(1);
            if let What::Do(Op::Refund(permits, _)) = part.what {
                holding.granted = holding.granted.saturating_sub(permits);
            }
        }
    }

    /// A request was answered: `held` is what the store says of each permits part, in order.
    pub(crate) fn answered(&mut self, parts: &[Part], verdict: &Verdict, held: &[u32], now: Nanos) {
        let mut held = held.iter();
        for (part, outcome) in parts.iter().zip(&verdict.outcomes).filter(|(part, _)| part.is_permits()) {
            let stored = held.next().copied();
            let Some(holding) = self.holdings.get_mut(&part.digest) else { continue };
            holding.busy = holding.busy.saturating_sub(1);
            let charged = verdict.admitted && outcome.admitted;
            match part.what {
                What::Do(Op::Take(permits) | Op::Debit(permits)) if charged => {
                    holding.granted = holding.granted.saturating_add(permits);
                    holding.told = now;
                }
                What::Do(Op::Reset) if charged => holding.granted = 0,
                What::Do(Op::Refund(..)) | What::Hold(_) | What::Renew => holding.told = now,
                What::Do(_) | What::Undo(..) | What::Lease(_) => {}
            }
            let differs = holding.busy == 0 && stored.is_some_and(|stored| stored != holding.granted);
            holding.doubtful = (holding.doubtful && !matches!(part.what, What::Hold(_))) || differs;
            self.forget_if_idle(part.digest);
        }
    }

    /// Nobody knows whether a request was carried out.
    pub(crate) fn lost(&mut self, parts: &[Part]) {
        for part in parts.iter().filter(|part| part.is_permits()) {
            if let Some(holding) = self.holdings.get_mut(&part.digest) {
                holding.busy = holding.busy.saturating_sub(1);
                holding.doubtful = true;
            }
        }
    }

    /// What has to be said to the store now: at most `most` keys.
    pub(crate) fn due(&self, now: Nanos, expiry: Nanos, most: usize) -> Vec<(Digest, Limit, What)> {
        let old = |holding: &Holding| now.saturating_sub(holding.told).get() >= expiry.get() / 3;
        let what = |(digest, holding): (&Digest, &Holding)| {
            let what = match (holding.busy, holding.doubtful) {
                (0, true) => What::Hold(holding.granted),
                (0, false) if holding.granted > 0 && old(holding) => What::Hold(holding.granted),
                // Calls are under way all the time: put the expiry off without saying a number.
                (1.., _) if holding.granted > 0 && old(holding) => What::Renew,
                _ => return None,
            };
            Some((*digest, holding.limit.clone(), what))
        };
        self.holdings.iter().filter_map(what).take(most).collect()
    }

    /// Whether there is anything that will be due one day.
    pub(crate) fn is_empty(&self) -> bool {
        self.holdings.is_empty()
    }

    fn forget_if_idle(&mut self, digest: Digest) {
        let idle = |holding: &Holding| holding.granted == 0 && holding.busy == 0 && !holding.doubtful;
        if self.holdings.get(&digest).is_some_and(idle) {
            self.holdings.remove(&digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;
    use ratelimit_core::algorithm::Outcome;
    use ratelimit_core::store::{Origin, Outcomes};

    const EXPIRY: Nanos = Nanos::from_secs(9);

    fn part(what: What) -> Part {
        let limit = Limit::concurrency("permits", 5);
        let digest = Digest::of(&limit, ratelimit_core::Key::GLOBAL);
        Part { digest, shape: Shape::of(&limit), limit, what }
    }

    fn verdict(admitted: bool) -> Verdict {
        let outcome = if admitted { Outcome::admitted(1) } else { Outcome::refused(0, None) };
        Verdict { admitted, origin: Origin::Store, outcomes: Outcomes::from_slice(&[outcome]) }
    }

    fn call(ledger: &mut Ledger, what: What, admitted: bool, held: u32, now: Nanos) {
        let part = part(what);
        ledger.sending(std::slice::from_ref(&part), now);
        ledger.answered(&[part], &verdict(admitted), &[held], now);
    }

    fn due(ledger: &Ledger, now: Nanos) -> Vec<What> {
        ledger.due(now, EXPIRY, 10).into_iter().map(|(.., what)| what).collect()
    }

    #[test]
    fn what_is_held_is_said_again_before_it_lapses() {
        let mut ledger = Ledger::default();
        let (start, later) = (Nanos::from_secs(1), Nanos::from_secs(4));
        call(&mut ledger, What::Do(Op::Take(2)), true, 2, start);
        assert_eq!(due(&ledger, start), []);
        assert_eq!(due(&ledger, later), [What::Hold(2)]);
        // While a call is under way no number can be said.
        let take = part(What::Do(Op::Take(1)));
        ledger.sending(std::slice::from_ref(&take), later);
        assert_eq!(due(&ledger, later), [What::Renew]);
        ledger.answered(&[take], &verdict(false), &[2], later);
        call(&mut ledger, What::Hold(2), true, 2, later);
        assert_eq!(due(&ledger, later), []);
        call(&mut ledger, What::Do(Op::Refund(2, None)), true, 0, later);
        assert!(ledger.is_empty());
    }

    /// Row 88: a call that may or may not have been carried out is healed by saying the number.
    #[test]
    fn a_lost_call_is_healed() {
        let mut ledger = Ledger::default();
        let now = Nanos::from_secs(1);
        call(&mut ledger, What::Do(Op::Take(1)), true, 1, now);
        for what in [What::Do(Op::Take(1)), What::Do(Op::Refund(1, None))] {
            let part = part(what);
            ledger.sending(std::slice::from_ref(&part), now);
            assert_eq!(due(&ledger, now), [], "not while it is under way");
            ledger.lost(&[part]);
        }
        assert_eq!(due(&ledger, now), [What::Hold(0)]);
        call(&mut ledger, What::Hold(0), true, 0, now);
        assert!(ledger.is_empty());
    }

    /// The store lost its state, or somebody reset the key.
    #[test]
    fn a_store_that_thinks_otherwise_is_told() {
        let mut ledger = Ledger::default();
        let now = Nanos::from_secs(1);
        call(&mut ledger, What::Do(Op::Take(1)), true, 1, now);
        call(&mut ledger, What::Do(Op::Take(1)), true, 1, now);
        assert_eq!(due(&ledger, now), [What::Hold(2)]);
    }
}
