//! Calls that are decided here as a whole, and calls about several limits of which only some are covered here.
//!
//! No lock is held over several keys: what is spent for a call that is refused after all is put back, and until
//! then another request that finds it gone asks the store. Nobody is denied for it.

use ratelimit_core::algorithm::{Op, Outcome};
use ratelimit_core::store::{Charge, Origin, Outcomes, Verdict};
use ratelimit_core::time::Clock;
use ratelimit_core::{Nanos, StoreError};
use smallvec::SmallVec;

use super::store::{LeasedStore, Over, verdict};
use super::{GrantSource, Id, Next, Table, Taken};

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
        // Never while a question of our own waits for its turn: others might wait for that one.
        self.settled(charges).await;
        let table = &self.0.table;
        let now = self.0.now();
        // What is covered is put back when the call is not admitted, or given up.
        let mut undo = Undo { table, now, covered: SmallVec::new(), done: false };
        let mut asks: SmallVec<[(Over<'_>, &Charge<'_>); 4]> = SmallVec::new();
        for (place, charge) in charges.iter().enumerate() {
            let Some((units, terms)) = self.leasable(charge) else { continue };
            let id = table.id(charge.limit, charge.key);
            match table.arrive(id, now, units, &terms) {
                Next::Taken(taken) => {
                    self.taken(id, charge, &taken);
                    undo.covered.push(Covered { place, id, units, taken });
                }
                // A strict charge is made first, so that it says what there is; this one's turn comes after it.
                Next::Ask(ask) => asks.push((Over { table, id, ask }, charge)),
                // A denial is left to the store: it has to say what all limits say.
                Next::Denied(_) | Next::Wait(_) | Next::Strict => {}
            }
        }
        let covered = &undo.covered;
        let is_covered = |place: usize| covered.iter().any(|covered| covered.place == place);
        let rest: SmallVec<[Charge<'_>; 4]> = charges
            .iter()
            .enumerate()
            .filter(|&(place, _)| !is_covered(place))
            .map(|(_, charge)| *charge)
            .collect();
        let said = self.decide_strictly(&rest).await?;
        for (over, charge) in asks {
            if let Some(ask) = table.ask_for_nobody(over.id, &over.ask, self.0.now()) {
                self.ask_ahead(over.id, charge.limit, charge.key, ask);
            }
        }
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
        undo.done = said.admitted;
        Ok(Verdict { admitted: said.admitted, origin: said.origin, outcomes })
    }

    /// A call about one limit that is admitted or denied here.
    pub(super) fn decide_one_here(&self, charge: &Charge<'_>) -> Option<Verdict> {
        let Op::Take(units) = charge.op else { return None };
        let table = &self.0.table;
        let id = table.id(charge.limit, charge.key);
        match table.at_once(id, self.0.now(), units, charge.limit)? {
            Next::Taken(taken) => Some(verdict(charge.limit, self.taken(id, charge, &taken), Origin::Lease)),
            Next::Denied(outcome) => Some(verdict(charge.limit, outcome, Origin::Known)),
            _ => None,
        }
    }

    /// A call about several limits that is admitted here, as a whole.
    pub(super) fn decide_several_here(&self, charges: &[Charge<'_>]) -> Option<Verdict> {
        let table = &self.0.table;
        let now = self.0.now();
        let mut covered: SmallVec<[Covered; 4]> = SmallVec::new();
        for (place, charge) in charges.iter().enumerate() {
            let taken = match charge.op {
                Op::Take(units) => {
                    let id = table.id(charge.limit, charge.key);
                    match table.at_once(id, now, units, charge.limit) {
                        Some(Next::Taken(taken)) => Some(Covered { place, id, units, taken }),
                        _ => None,
                    }
                }
                _ => None,
            };
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
    covered: SmallVec<[Covered; 4]>,
    done: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        for covered in self.covered.iter().filter(|_| !self.done) {
            self.table.put_back(covered.id, self.now, covered.units, &covered.taken, false);
        }
    }
}
