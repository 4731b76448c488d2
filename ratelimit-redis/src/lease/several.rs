//! Calls that are decided here as a whole, and calls about several limits of which only some are covered here.
//!
//! No lock is held over several keys: what is spent for a call that is refused after all is put back, and until
//! then another request that finds it gone asks the store. Nobody is denied for it.

use ratelimit_core::algorithm::{Op, Outcome};
use ratelimit_core::store::{Charge, Origin, Outcomes, Verdict};
use ratelimit_core::time::Clock;
use ratelimit_core::{Nanos, StoreError};
use smallvec::SmallVec;

use super::keeping::is_permits;
use super::store::{LeasedStore, Over, verdict};
use super::{GrantSource, Id, Next, Taken};

/// A charge of a call about several limits that is covered here.
struct Covered {
    place: usize,
    id: Id,
    units: u32,
    by: By,
}

/// What covers it.
#[derive(Clone, Copy)]
enum By {
    Lease(Taken),
    /// Permits that are kept.
    Kept(Outcome),
}

impl<S: GrantSource, C: Clock> LeasedStore<S, C> {
    /// A call about several limits: what is held here first, then one strict call for the rest.
    pub(super) async fn decide_several(&self, charges: &[Charge<'_>]) -> Result<Verdict, StoreError> {
        // Never while a question of our own waits for its turn: others might wait for that one.
        self.settled(charges).await;
        let table = &self.0.table;
        let now = self.0.now();
        // What is covered is put back when the call is not admitted, or given up.
        let mut undo = Undo { store: self, charges, now, covered: SmallVec::new(), done: false };
        let mut asks: SmallVec<[(Over<'_>, &Charge<'_>); 4]> = SmallVec::new();
        for (place, charge) in charges.iter().enumerate() {
            let Some((units, terms)) = self.leasable(charge) else {
                undo.covered.extend(self.kept(charge, now).map(|(id, units, outcome)| Covered {
                    place,
                    id,
                    units,
                    by: By::Kept(outcome),
                }));
                continue;
            };
            let id = table.id(charge.limit, charge.key);
            match table.arrive(id, now, units, &terms) {
                Next::Taken(taken) => {
                    self.taken(id, charge, &taken);
                    undo.covered.push(Covered { place, id, units, by: By::Lease(taken) });
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
                Some(Covered { by: By::Lease(Taken { outcome, .. }) | By::Kept(outcome), .. }) => {
                    Some(*outcome)
                }
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
        if is_permits(charge) {
            let (_, _, outcome) = self.kept(charge, self.0.now())?;
            return Some(verdict(charge.limit, outcome, Origin::Lease));
        }
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
        // What is covered is put back unless all is.
        let mut undo = Undo { store: self, charges, now, covered: SmallVec::new(), done: false };
        for (place, charge) in charges.iter().enumerate() {
            let covered = match charge.op {
                Op::Take(_) if is_permits(charge) => self
                    .kept(charge, now)
                    .map(|(id, units, outcome)| Covered { place, id, units, by: By::Kept(outcome) }),
                Op::Take(units) => {
                    let id = table.id(charge.limit, charge.key);
                    match table.at_once(id, now, units, charge.limit) {
                        Some(Next::Taken(taken)) => Some(Covered { place, id, units, by: By::Lease(taken) }),
                        _ => None,
                    }
                }
                _ => None,
            };
            let Some(covered) = covered else {
                for Covered { id, units, by, .. } in &undo.covered {
                    // The request comes again, and so does the question.
                    if let By::Lease(Taken { refresh, .. }) = by {
                        table.uncount(*id, *units);
                        if let Some(ask) = refresh {
                            table.unanswered(*id, ask);
                        }
                    }
                }
                return None;
            };
            undo.covered.push(covered);
        }
        undo.done = true;
        let outcome = |(charge, covered): (&Charge<'_>, &Covered)| match &covered.by {
            By::Lease(taken) => self.taken(covered.id, charge, taken),
            By::Kept(outcome) => *outcome,
        };
        let outcomes = charges.iter().zip(&undo.covered).map(outcome).collect();
        Some(Verdict { admitted: true, origin: Origin::Lease, outcomes })
    }
}

/// Puts back what was covered here, unless the call is admitted: also when it is given up.
struct Undo<'a, S: GrantSource, C: Clock> {
    store: &'a LeasedStore<S, C>,
    charges: &'a [Charge<'a>],
    /// When it was spent.
    now: Nanos,
    covered: SmallVec<[Covered; 4]>,
    done: bool,
}

impl<S: GrantSource, C: Clock> Drop for Undo<'_, S, C> {
    fn drop(&mut self) {
        for Covered { place, id, units, by } in self.covered.iter().filter(|_| !self.done) {
            match (by, self.charges.get(*place)) {
                (By::Lease(taken), _) => self.store.0.table.put_back(*id, self.now, taken),
                (By::Kept(_), Some(charge)) => self.store.release(*charge, *units, None),
                (By::Kept(_), None) => {}
            }
        }
    }
}
