//! One request whose keys lie in several partitions of a Cluster: no script sees them all.
//!
//! Every partition is asked for its part at the same time, and charges it. If all say yes, the request is
//! admitted. If one says no, it is denied, and those that said yes are told to undo what they charged.
//!
//! # Bound
//! Never more than each limit's own: a request that is admitted is charged everywhere before. A denial charges
//! the others for one round trip, so a competitor may be denied that would not have been; it is told again, and
//! another replica remembers that for a second at most. An undo is sent once, and gives back no more than was
//! charged and time has not given back already, and nothing of a window that is over; one that is lost, or never
//! sent because the process ended, stays charged and comes back at the limit's rate. A partition whose answer was
//! lost may have charged, and is not told anything: nobody knows. Checked in `tests/reserve_model.rs`.

use futures_util::stream::{FuturesUnordered, StreamExt};
use ratelimit_core::algorithm::{Op, Outcome};
use ratelimit_core::store::{Charge, Origin, Outcomes, Verdict};
use ratelimit_core::{Key, Nanos, StoreError, StoreErrorKind};
use smallvec::SmallVec;

use crate::batch::PARTS;
use crate::partition::Partition;
use crate::shape::{Kind, Shape};
use crate::wire::nanos;

/// A request, by partitions.
pub(crate) struct Spread<'s, 'c> {
    charges: &'s [Charge<'c>],
    groups: SmallVec<[Group<'s, 'c>; 4]>,
    under_leases: bool,
}

/// What one partition is asked.
struct Group<'s, 'c> {
    partition: &'s Partition,
    /// Debits, refunds and resets: made once the others are admitted.
    is_unconditional: bool,
    charges: SmallVec<[Charge<'c>; 4]>,
    /// Where the charges stand in the request.
    places: SmallVec<[usize; 4]>,
}

impl<'s, 'c> Spread<'s, 'c> {
    pub(crate) fn new(
        charges: &'s [Charge<'c>],
        under_leases: bool,
        home: impl Fn(Key<'_>) -> &'s Partition,
    ) -> Self {
        let mut groups: SmallVec<[Group<'s, 'c>; 4]> = SmallVec::new();
        for (place, charge) in charges.iter().enumerate() {
            let (partition, is_unconditional) = (home(charge.key), !charge.op.is_conditional());
            let fits = |group: &Group<'_, '_>| {
                std::ptr::eq(group.partition, partition) && group.is_unconditional == is_unconditional
            };
            let at = groups.iter().position(fits).unwrap_or_else(|| {
                let (charges, places) = (SmallVec::new(), SmallVec::new());
                groups.push(Group { partition, is_unconditional, charges, places });
                groups.len() - 1
            });
            if let Some(group) = groups.get_mut(at) {
                group.charges.push(*charge);
                group.places.push(place);
            }
        }
        Self { charges, groups, under_leases }
    }

    /// A denial that is known already.
    pub(crate) fn known(&self) -> Option<Verdict> {
        let asked = self.groups.iter().filter(|group| group.partition.is_up());
        let (group, verdict) = asked
            .filter(|group| !group.is_unconditional)
            .find_map(|group| group.partition.known(&group.charges).map(|verdict| (group, verdict)))?;
        let mut answers = Answers::to(self);
        answers.add(group, Ok(verdict));
        answers.finish().ok()
    }

    /// Asks all partitions.
    pub(crate) async fn decide(&self) -> Result<Verdict, StoreError> {
        if self.charges.len() > PARTS {
            return Err(StoreError::new(StoreErrorKind::Misconfigured, "more than 64 charges in one call"));
        }
        let mut answers = Answers::to(self);
        for is_unconditional in [false, true] {
            let asked = self.groups.iter().filter(|group| group.is_unconditional == is_unconditional);
            let mut asked: FuturesUnordered<_> = asked.map(Group::ask).collect();
            while let Some((group, answer)) = asked.next().await {
                answers.add(group, answer);
            }
            if !answers.are_yes() {
                break;
            }
        }
        answers.finish()
    }

    /// An answer when the store has none.
    pub(crate) fn without_store(&self, why: impl Fn() -> StoreError) -> Result<Verdict, StoreError> {
        let mut answers = Answers::to(self);
        for group in &self.groups {
            answers.add(group, group.partition.without_store(&group.charges, why()));
        }
        answers.finish()
    }
}

impl Group<'_, '_> {
    async fn ask(&self) -> (&Self, Result<Verdict, StoreError>) {
        let answer = match self.partition.try_decide(&self.charges) {
            Some(verdict) => Ok(verdict),
            None => self.partition.decide(&self.charges).await,
        };
        (self, answer)
    }
}

/// What partitions said so far. Unless it comes to a yes, what they charged is undone, also when the request is
/// given up.
struct Answers<'a, 's, 'c> {
    request: &'a Spread<'s, 'c>,
    outcomes: SmallVec<[Option<Outcome>; 4]>,
    /// Who decides, if not the store; or who refused.
    origin: Origin,
    refused: bool,
    failed: Option<StoreError>,
    /// What was charged: the partition, and the charge's place.
    reserved: SmallVec<[(&'s Partition, usize); 4]>,
}

impl<'a, 's, 'c> Answers<'a, 's, 'c> {
    fn to(request: &'a Spread<'s, 'c>) -> Self {
        let outcomes = SmallVec::from_elem(None, request.charges.len());
        let (origin, reserved) = (Origin::Store, SmallVec::new());
        Self { request, outcomes, origin, refused: false, failed: None, reserved }
    }

    fn are_yes(&self) -> bool {
        !self.refused && self.failed.is_none()
    }

    fn add(&mut self, group: &Group<'s, 'c>, answer: Result<Verdict, StoreError>) {
        let verdict = match answer {
            Ok(verdict) => verdict,
            Err(error) => {
                self.failed.get_or_insert(error);
                return;
            }
        };
        if !verdict.admitted && !self.refused {
            (self.refused, self.origin) = (true, verdict.origin);
        } else if !self.refused && verdict.origin != Origin::Store {
            self.origin = verdict.origin;
        }
        let is_charged = verdict.admitted && matches!(verdict.origin, Origin::Store | Origin::Local);
        for ((&place, charge), outcome) in group.places.iter().zip(&group.charges).zip(verdict.outcomes) {
            if is_charged && outcome.admitted && matches!(charge.op, Op::Take(_)) {
                self.reserved.push((group.partition, place));
            }
            if let Some(slot) = self.outcomes.get_mut(place) {
                *slot = Some(outcome);
            }
        }
    }

    fn finish(mut self) -> Result<Verdict, StoreError> {
        // A no is a no whatever another partition would have said.
        if let Some(error) = self.failed.take()
            && !self.refused
        {
            return Err(error);
        }
        if !self.refused {
            self.reserved.clear();
        }
        let reserved = |place| self.reserved.iter().any(|(_, other)| *other == place);
        let outcomes = self.request.charges.iter().zip(&self.outcomes).enumerate();
        let outcomes: Outcomes = outcomes
            .map(|(place, (charge, outcome))| match outcome {
                Some(outcome) if reserved(place) => untouched(charge, outcome),
                Some(outcome) => *outcome,
                // It was not asked, or did not answer; it is not the one that binds.
                None => Outcome::admitted(charge.limit.capacity()),
            })
            .collect();
        Ok(Verdict { admitted: !self.refused, origin: self.origin, outcomes })
    }
}

impl Drop for Answers<'_, '_, '_> {
    fn drop(&mut self) {
        for (partition, place) in self.reserved.drain(..) {
            let charge = self.request.charges.get(place);
            if let (Some(charge), Some(Some(outcome))) = (charge, self.outcomes.get(place)) {
                partition.undo(charge, outcome, self.request.under_leases);
            }
        }
    }
}

/// What a limit says whose charge is undone.
fn untouched(charge: &Charge<'_>, outcome: &Outcome) -> Outcome {
    let Op::Take(units) = charge.op else { return *outcome };
    let capacity = charge.limit.capacity();
    let remaining = outcome.remaining().saturating_add(units).min(capacity);
    let shape = Shape::of(charge.limit);
    let reset_after = match shape.kind {
        Kind::Bucket { .. } => outcome.reset_after.saturating_sub(nanos(shape.amount(units))),
        _ if remaining == capacity => Nanos::ZERO,
        _ => outcome.reset_after,
    };
    Outcome::admitted(remaining).with_reset_after(reset_after)
}
