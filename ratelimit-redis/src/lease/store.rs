//! [`LeasedStore`]: runs the protocol over a shared store.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ratelimit_core::algorithm::{Op, Outcome, Receipt};
use ratelimit_core::store::{Charge, Origin, Outcomes, Verdict};
use ratelimit_core::time::Clock;
use ratelimit_core::{Key, Limit, Nanos, Store, StoreError, StoreErrorKind, SystemClock};
use smallvec::SmallVec;
use tokio::runtime::Handle;

use crate::fallback::is_local;

use super::debts::{self, Debts};
use super::keeping::is_permits;
use super::sleep::Sleep;
use super::spares::Spares;
use super::table::mark_of;
use super::{
    Ask, GrantSource, HeldBack, Id, Kind, Next, Policy, Table, Taken, Terms, what_may_lie_elsewhere,
};
use crate::notes::Forgotten;

/// Hot keys unless said otherwise; about 700 bytes each.
const DEFAULT_KEYS: usize = 65_536;
/// How often a request waits for somebody else's question before it asks the store itself.
const PATIENCE: usize = 8;

/// A shared store whose hot keys are decided in this process, out of leases; see [the module](super).
///
/// Calls about one limit ask for leases; calls about several use what is held, and decide the rest in one strict
/// call, all or nothing. Of permits, a few that are given back are kept for the next request. Everything but takes is
/// the shared store's.
///
/// Leases are asked for in tasks of the runtime that a call is made in, so that an answer is not lost when its
/// request is given up; outside of a runtime nothing is asked for ahead.
pub struct LeasedStore<S, C = SystemClock>(pub(super) Arc<Shared<S, C>>);

pub(super) struct Shared<S, C> {
    pub(super) source: S,
    clock: C,
    pub(super) table: Table,
    pub(super) spares: Spares,
    /// Whether somebody sees that what is kept goes back.
    pub(super) sweeps: AtomicBool,
    sleep: Sleep,
    debts: Debts,
}

impl<S: GrantSource> LeasedStore<S> {
    /// Over that store, by the machine's clocks.
    #[must_use]
    pub fn new(source: S) -> Self {
        Self::by(source, Policy::default())
    }

    /// Over that store, by the machine's clocks, with that policy.
    #[must_use]
    pub fn by(source: S, policy: Policy) -> Self {
        Self::with(source, SystemClock::default(), policy, DEFAULT_KEYS)
    }
}

impl<S: GrantSource, C: Clock> LeasedStore<S, C> {
    /// Over that store, by that clock, with that policy, and at most so many hot keys.
    #[must_use]
    pub fn with(source: S, clock: C, policy: Policy, keys: usize) -> Self {
        let sleep = Sleep::new(&clock);
        let (table, spares) = (Table::new(policy, keys), Spares::new(keys));
        let (sweeps, debts) = (AtomicBool::new(false), Debts::default());
        Self(Arc::new(Shared { source, clock, table, spares, sweeps, sleep, debts }))
    }

    /// The shared store.
    #[must_use]
    pub fn source(&self) -> &S {
        &self.0.source
    }

    /// What of a limit may lie with the other replicas at most, where this one looks for it; `None` for a limit
    /// that is not leased. See [`what_may_lie_elsewhere`].
    #[must_use]
    pub fn what_may_lie_elsewhere(&self, limit: &Limit, replicas: u32) -> Option<HeldBack> {
        what_may_lie_elsewhere(limit, replicas, self.0.table.policy())
    }

    /// Units that lie in this process's leases, and permits that it keeps. Walks the table: for gauges, not for
    /// requests.
    #[must_use]
    pub fn leased_units(&self) -> u64 {
        self.0.table.held_in_all(self.0.now()).saturating_add(self.0.spares.kept_in_all())
    }

    /// Drops what is known and held of a key: it was reset, or its quota changed, elsewhere.
    pub fn forget(&self, limit: &Limit, key: Key<'_>) {
        let id = self.0.table.id(limit, key);
        self.0.table.forget(id);
        // The store counts these as held here, whatever became of the key.
        let permits = self.0.spares.let_go(id);
        if permits > 0 {
            self.0.source.post(Charge { limit, key, op: Op::Refund(permits, None) });
        }
    }

    /// Drops everything that is known and held.
    pub fn forget_all(&self) {
        self.0.table.forget_all();
    }

    /// What drops keys that begin anew elsewhere.
    pub(crate) fn forgetter(&self) -> impl Fn(Forgotten<'_>) + Send + Sync + use<S, C> {
        let shared = Arc::downgrade(&self.0);
        move |what| {
            let Some(shared) = shared.upgrade() else { return };
            match what {
                Forgotten::Key { limit, key, .. } => shared.table.forget_key(limit, key),
                Forgotten::All => shared.table.forget_all(),
            }
        }
    }

    /// Sends what was charged after the fact and still waits, and gives back the permits that are kept: before the
    /// process ends.
    pub fn flush(&self) {
        self.0.debts.send_all(&self.0.source);
        self.0.give_back_idle(Nanos::MAX);
    }

    /// Sends a question in a task of its own.
    pub(super) fn ask_ahead(&self, id: Id, limit: &Limit, key: Key<'_>, ask: Ask) {
        let Ok(runtime) = Handle::try_current() else {
            self.0.table.unanswered(id, &ask);
            return;
        };
        let (shared, limit, key) = (Arc::clone(&self.0), limit.clone(), key.to_vec());
        runtime.spawn(async move { shared.ask(id, &limit, Key::from_canonical(&key), ask).await });
    }

    /// Sends a question for a request that waits for it. `None` in `Ok`: the answer came too late.
    async fn ask(
        &self,
        id: Id,
        limit: &Limit,
        key: Key<'_>,
        ask: Ask,
    ) -> Result<Option<Outcome>, StoreError> {
        let (shared, limit, key) = (Arc::clone(&self.0), limit.clone(), key.to_vec());
        // Drives itself on when the request is given up, so that what was granted gets here.
        let flight = async move { shared.ask(id, &limit, Key::from_canonical(&key), ask).await };
        match Handle::try_current() {
            Ok(runtime) => runtime.spawn(flight).await.unwrap_or(Ok(None)),
            Err(_) => flight.await,
        }
    }

    pub(super) fn taken(&self, id: Id, charge: &Charge<'_>, taken: &Taken) -> Outcome {
        if let Some(ask) = taken.refresh {
            self.ask_ahead(id, charge.limit, charge.key, ask);
        }
        taken.outcome
    }

    /// What a charge takes, and by which terms, if a lease could cover it.
    pub(super) fn leasable(&self, charge: &Charge<'_>) -> Option<(u32, Terms)> {
        let Op::Take(units) = charge.op else { return None };
        Some((units, self.0.table.terms(charge.limit, units)?))
    }

    /// A call about one limit that leases.
    async fn decide_one(&self, charge: Charge<'_>, units: u32, terms: &Terms) -> Result<Verdict, StoreError> {
        let id = self.0.table.id(charge.limit, charge.key);
        let next = self.0.table.arrive(id, self.0.now(), units, terms);
        if matches!(next, Next::Strict) {
            return self.decide_strictly(&[charge]).await;
        }
        let deciding = async {
            match self.lease_one(id, charge, units, terms, next).await {
                Led::To(verdict) => return Ok(verdict),
                Led::Failed(kind) => {
                    if let Some(answer) = self.0.source.without(&[charge], kind) {
                        return answer;
                    }
                }
                Led::Nowhere => {}
            }
            self.decide_strictly(&[charge]).await
        };
        self.within(&[charge], deciding).await
    }

    /// One deadline over all that is waited for here: somebody else's question, one of our own, a strict charge.
    async fn within(
        &self,
        charges: &[Charge<'_>],
        deciding: impl Future<Output = Result<Verdict, StoreError>>,
    ) -> Result<Verdict, StoreError> {
        let Some(deadline) = self.0.source.deadline().filter(|_| Handle::try_current().is_ok()) else {
            return deciding.await;
        };
        match tokio::time::timeout(deadline, deciding).await {
            Ok(answer) => answer,
            Err(_) => self.0.source.without(charges, StoreErrorKind::Timeout).unwrap_or_else(|| {
                Err(StoreError::new(StoreErrorKind::Timeout, "waiting for a lease, and for a decision"))
            }),
        }
    }

    /// Waits until no question about these keys is under way: what it grants is neither there nor here meanwhile.
    pub(super) async fn settled(&self, charges: &[Charge<'_>]) {
        for charge in charges {
            let id = self.0.table.id(charge.limit, charge.key);
            if let Some(answered) = self.0.table.under_way(id) {
                answered.await;
            }
        }
    }

    async fn lease_one(&self, id: Id, charge: Charge<'_>, units: u32, terms: &Terms, mut next: Next) -> Led {
        let mut waits = 0;
        loop {
            match next {
                Next::Taken(taken) => {
                    return Led::To(verdict(charge.limit, self.taken(id, &charge, &taken), Origin::Lease));
                }
                Next::Denied(outcome) => return Led::To(verdict(charge.limit, outcome, Origin::Known)),
                Next::Ask(ask) => {
                    self.0.debts.send(id, &self.0.source);
                    return match self.ask(id, charge.limit, charge.key, ask).await {
                        Ok(Some(outcome)) => Led::To(verdict(charge.limit, outcome, Origin::Store)),
                        Ok(None) => Led::Nowhere,
                        Err(error) => Led::Failed(error.kind()),
                    };
                }
                Next::Wait(answered) if waits < PATIENCE => {
                    answered.await;
                    waits += 1;
                    next = self.0.table.again(id, self.0.now(), units, terms);
                }
                Next::Wait(_) | Next::Strict => return Led::Nowhere,
            }
        }
    }

    /// Asks the shared store, and remembers what it refuses.
    pub(super) async fn decide_strictly(&self, charges: &[Charge<'_>]) -> Result<Verdict, StoreError> {
        let shared = &self.0;
        let ids: SmallVec<[Id; 4]> =
            charges.iter().map(|charge| shared.table.id(charge.limit, charge.key)).collect();
        for id in &ids {
            shared.debts.send(*id, &shared.source);
        }
        let sent = shared.now();
        let mut verdict = match shared.source.try_decide(charges) {
            Some(verdict) => verdict,
            None => shared.source.decide(charges).await?,
        };
        let (now, admitted, origin) = (shared.now(), verdict.admitted, verdict.origin);
        for ((charge, id), outcome) in charges.iter().zip(ids).zip(&mut verdict.outcomes) {
            if let (Op::Take(units), false, Some(wait)) = (charge.op, outcome.admitted, outcome.retry_after) {
                shared.table.refused(id, sent, now, units, wait);
            }
            if matches!(charge.op, Op::Reset) {
                shared.table.forget(id);
            }
            if is_permits(charge) && admitted && origin == Origin::Store {
                shared.spares.decided(id, charge, outcome, now);
            }
            // What the store has, and what lies here.
            let held = match is_permits(charge) {
                true => shared.spares.kept(id),
                false => shared.table.held(id, now),
            };
            if held > 0 {
                *outcome = with_held(charge, outcome, held);
            }
        }
        if charges.iter().all(|charge| matches!(charge.op, Op::Peek(_))) {
            let all = charges.iter().zip(&verdict.outcomes);
            verdict.admitted = all
                .fold(true, |all, (charge, outcome)| all && (outcome.admitted || charge.limit.is_shadow()));
        }
        Ok(verdict)
    }

    fn debit(&self, charge: Charge<'_>, units: u32, terms: &Terms) {
        let shared = &self.0;
        let id = shared.table.id(charge.limit, charge.key);
        let left = shared.table.debit(id, shared.now(), units, terms);
        if left == 0 || !shared.debts.add(id, charge.limit, charge.key, left, &shared.source) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            shared.debts.send_all(&shared.source);
            return;
        };
        let shared = Arc::clone(shared);
        runtime.spawn(async move {
            tokio::time::sleep(debts::DELAY).await;
            shared.debts.send_all(&shared.source);
        });
    }

    /// Whether the refund was made here.
    fn refund(&self, charge: &Charge<'_>, units: u32, receipt: Option<Receipt>, terms: &Terms) -> bool {
        let shared = &self.0;
        let id = shared.table.id(charge.limit, charge.key);
        shared.table.forget_denial(id);
        let Some(receipt) = receipt else { return false };
        if let Some((mark, epoch)) = mark_of(receipt) {
            shared.table.give_back(id, mark, Some(epoch), units, shared.now());
            return true;
        }
        let end = shared.source.end_of(receipt).filter(|_| terms.kind == Kind::Bucket);
        end.is_some_and(|end| shared.table.give_back(id, end, None, units, shared.now()))
    }
}

/// What came of looking for a lease.
#[expect(clippy::large_enum_variant, reason = "nearly all are of the large one, and are moved once")]
enum Led {
    To(Verdict),
    /// To nothing: it is for the shared store to decide.
    Nowhere,
    /// The shared store can't answer.
    Failed(StoreErrorKind),
}

impl<S: GrantSource, C: Clock> Shared<S, C> {
    pub(super) fn now(&self) -> Nanos {
        self.sleep.check(&self.clock, || self.table.forget_all())
    }

    async fn ask(
        &self,
        id: Id,
        limit: &Limit,
        key: Key<'_>,
        ask: Ask,
    ) -> Result<Option<Outcome>, StoreError> {
        // A question that is given up is over, too.
        let over = Over { table: &self.table, id, ask };
        let reply = self.source.lease(limit, key, &ask).await?;
        let now = self.now();
        let outcome = self.table.answered(id, &ask, now, reply);
        drop(over);
        self.table.sweep(now);
        Ok(outcome)
    }
}

/// Ends a question that got no answer, however that came. One that was answered it does not touch.
pub(super) struct Over<'a> {
    pub(super) table: &'a Table,
    pub(super) id: Id,
    pub(super) ask: Ask,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.table.unanswered(self.id, &self.ask);
    }
}

impl<S: GrantSource, C: Clock> Store for LeasedStore<S, C> {
    fn try_decide(&self, charges: &[Charge<'_>]) -> Option<Verdict> {
        match charges {
            [] => None,
            [charge] => self.decide_one_here(charge),
            _ => self.decide_several_here(charges),
        }
    }

    async fn decide(&self, charges: &[Charge<'_>]) -> Result<Verdict, StoreError> {
        if let [charge] = charges
            && let Some((units, terms)) = self.leasable(charge)
        {
            return self.decide_one(*charge, units, &terms).await;
        }
        if charges.iter().any(|charge| self.leasable(charge).is_some()) {
            return self.within(charges, self.decide_several(charges)).await;
        }
        let asks_what_is_there = |charge: &Charge<'_>| matches!(charge.op, Op::Peek(_) | Op::Reset);
        if !charges.iter().any(asks_what_is_there) {
            return self.decide_strictly(charges).await;
        }
        let deciding = async {
            self.settled(charges).await;
            self.decide_strictly(charges).await
        };
        self.within(charges, deciding).await
    }

    fn post(&self, charge: Charge<'_>) {
        let terms = Terms::of(charge.limit);
        match (charge.op, terms) {
            (Op::Debit(units), Some(terms)) => return self.debit(charge, units, &terms),
            (Op::Refund(units, receipt), Some(terms)) if self.refund(&charge, units, receipt, &terms) => {
                return;
            }
            (Op::Refund(permits, receipt), None) if !is_local(charge.op) => {
                return self.release(charge, permits, receipt);
            }
            (Op::Reset, _) => self.forget(charge.limit, charge.key),
            _ => {}
        }
        self.0.debts.send(self.0.table.id(charge.limit, charge.key), &self.0.source);
        self.0.source.post(charge);
    }
}

impl<S, C> Clone for LeasedStore<S, C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S, C> std::fmt::Debug for LeasedStore<S, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeasedStore").field("table", &self.0.table).finish_non_exhaustive()
    }
}

pub(super) fn verdict(limit: &Limit, outcome: Outcome, origin: Origin) -> Verdict {
    let admitted = outcome.admitted || limit.is_shadow();
    Verdict { admitted, origin, outcomes: Outcomes::from_slice(&[outcome]) }
}

fn with_held(charge: &Charge<'_>, outcome: &Outcome, held: u32) -> Outcome {
    let remaining = outcome.remaining().saturating_add(held).min(charge.limit.capacity());
    let enough = matches!(charge.op, Op::Peek(units) if units <= remaining);
    let with = match outcome.admitted || enough {
        true => Outcome::admitted(remaining),
        false => Outcome::refused(remaining, outcome.retry_after),
    };
    with.with_reset_after(outcome.reset_after).with_receipt(outcome.receipt)
}
