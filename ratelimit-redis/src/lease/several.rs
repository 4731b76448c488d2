//! Calls that are decided here as a whole, and calls about several limits of which only some are covered here.
//!
//! No lock is held over several keys: what is spent for a call that is refused after all is put back, and until
//! then another request that finds it gone asks the store. Nobody is denied for it.

use ratelimit_core::algorithm::Outcome;
use ratelimit_core::store::{Charge, Origin, Outcomes, Verdict};
use ratelimit_core::time::Clock;
use ratelimit_core::{Nanos, StoreError};
use smallvec::SmallVec;

use super::store::{LeasedStore, leasable, verdict};
use super::{Ask, GrantSource, Id, Next, Table, Taken};

/// A charge of a call about several limits that is covered here.
struct Covered {
    place: usize,
    id: Id,
    units: u32,
    taken: Taken,
}

impl<S: GrantSource, C: Clock> LeasedStore<S, C> {
    /// A call about several limits: what is held here first, then one strict call for the rest.
    pub(super) async fn decide_several(&self, charges: &[Charge<'_>]) -> Result<Verdict, StoreError> {
        let table = &self.0.table;
        let now = self.0.now();
        let mut covered: SmallVec<[Covered; 4]> = SmallVec::new();
        for (place, charge) in charges.iter().enumerate() {
            let Some((units, terms)) = leasable(charge) else { continue };
            let id = table.id(charge.limit, charge.key);
            match table.arrive(id, now, units, &terms) {
                Next::Taken(taken) => {
                    self.taken(id, charge, &taken);
                    covered.push(Covered { place, id, units, taken });
                }
                // The request does not wait for it: a strict charge is on its way anyway.
                Next::Ask(ask) => {
                    let ahead = Ask { units: 0, ..ask };
                    if table.ask_for_nobody(id, &ahead) {
                        self.ask_ahead(id, charge.limit, charge.key, ahead);
                    }
                }
                // A denial is left to the store: it has to say what all limits say.
                Next::Denied(_) | Next::Wait(_) | Next::Strict => {}
            }
        }
        let is_covered = |place: usize| covered.iter().any(|covered| covered.place == place);
        let rest: SmallVec<[Charge<'_>; 4]> = charges
            .iter()
            .enumerate()
            .filter(|&(place, _)| !is_covered(place))
            .map(|(_, charge)| *charge)
            .collect();
        let undo = Undo { table, now, covered: &covered, done: false };
        let said = self.decide_strictly(&rest).await?;
        undo.unless(said.admitted);
        let mut said_outcomes = said.outcomes.into_iter();
        let mut outcomes = Outcomes::new();
        for place in 0..charges.len() {
            let here = covered.iter().find(|covered| covered.place == place);
            let outcome = match here {
                Some(covered) => Some(covered.taken.outcome),
                None => said_outcomes.next(),
            };
            outcomes.push(outcome.unwrap_or(Outcome::refused(0, None)));
        }
        Ok(Verdict { admitted: said.admitted, origin: said.origin, outcomes })
    }

    /// A call that is admitted or denied here, as a whole.
    pub(super) fn decide_here(&self, charges: &[Charge<'_>]) -> Option<Verdict> {
        let table = &self.0.table;
        let now = self.0.now();
        if let [charge] = charges {
            let (units, terms) = leasable(charge)?;
            let id = table.id(charge.limit, charge.key);
            return match table.at_once(id, now, units, &terms)? {
                Next::Taken(taken) => {
                    Some(verdict(charge.limit, self.taken(id, charge, &taken), Origin::Lease))
                }
                Next::Denied(outcome) => Some(verdict(charge.limit, outcome, Origin::Known)),
                _ => None,
            };
        }
        let mut covered: SmallVec<[Covered; 4]> = SmallVec::new();
        for (place, charge) in charges.iter().enumerate() {
            let taken = leasable(charge).and_then(|(units, terms)| {
                let id = table.id(charge.limit, charge.key);
                match table.at_once(id, now, units, &terms)? {
                    Next::Taken(taken) => Some(Covered { place, id, units, taken }),
                    _ => None,
                }
            });
            let Some(taken) = taken else {
                for Covered { id, units, taken, .. } in covered {
                    table.put_back(id, now, units, &taken, true);
                    if let Some(ask) = taken.refresh {
                        table.unanswered(id, &ask);
                    }
                }
                return None;
            };
            covered.push(taken);
        }
        let outcomes = charges
            .iter()
            .zip(&covered)
            .map(|(charge, covered)| self.taken(covered.id, charge, &covered.taken))
            .collect();
        Some(Verdict { admitted: true, origin: Origin::Lease, outcomes })
    }
}

/// Puts back what was covered here, unless the call is admitted: also when it is given up.
struct Undo<'a> {
    table: &'a Table,
    /// When it was spent.
    now: Nanos,
    covered: &'a [Covered],
    done: bool,
}

impl Undo<'_> {
    fn unless(mut self, admitted: bool) {
        self.done = admitted;
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        for covered in self.covered.iter().filter(|_| !self.done) {
            self.table.put_back(covered.id, self.now, covered.units, &covered.taken, false);
        }
    }
}
