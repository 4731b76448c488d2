//! [`Limiter`]: what library users call.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::algorithm::{Op, Outcome, Program, Receipt};
use crate::decision::Decision;
use crate::error::CheckError;
use crate::key::{AsKey, KeyBuf};
use crate::limit::Limit;
use crate::store::{Charge, LocalStore, Store, Verdict};
use crate::time::Nanos;

#[cfg(feature = "tokio")]
mod wait;

/// Asks a store about limits. Cheap to clone; clones share the store.
///
/// The asynchronous calls wait only where the store is elsewhere; over a [`MemoryStore`](crate::MemoryStore)
/// they are ready at once and allocate nothing.
#[derive(Debug)]
pub struct Limiter<S> {
    store: Arc<S>,
    #[cfg(feature = "tokio")]
    queues: Arc<wait::Queues>,
}

impl<S> Clone for Limiter<S> {
    // Derived, it would ask for `S: Clone`.
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            #[cfg(feature = "tokio")]
            queues: Arc::clone(&self.queues),
        }
    }
}

impl<S: Store> Limiter<S> {
    /// Over that store.
    #[must_use]
    pub fn new(store: S) -> Self {
        Self {
            store: Arc::new(store),
            #[cfg(feature = "tokio")]
            queues: Arc::default(),
        }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Charges one unit to one key of one limit.
    ///
    /// # Errors
    /// When the store can't answer.
    pub fn check<'l, K: AsKey>(
        &self,
        limit: &'l Limit,
        key: K,
    ) -> impl Future<Output = Result<Decision<'l>, CheckError>> + Send + use<'_, 'l, K, S> {
        self.check_n(limit, key, 1)
    }

    /// Charges `cost` units to one key of one limit.
    ///
    /// # Errors
    /// When the cost is more than the limit can ever hold, or the store can't answer.
    pub fn check_n<'l, K: AsKey>(
        &self,
        limit: &'l Limit,
        key: K,
        cost: u32,
    ) -> impl Future<Output = Result<Decision<'l>, CheckError>> + Send + use<'_, 'l, K, S> {
        let key = encoded(&key);
        async move { self.ask(limit, &key, Op::Take(cost)).await }
    }

    /// Charges `cost` units to each limit's key, all or nothing: one denial, and none is charged.
    ///
    /// # Errors
    /// When the cost is more than one of the limits can ever hold, or the store can't answer.
    pub fn check_all<'l, K: AsKey>(
        &self,
        of: &[(&'l Limit, K)],
        cost: u32,
    ) -> impl Future<Output = Result<Decision<'l>, CheckError>> + Send + use<'_, 'l, K, S> {
        let together = Together::new(of);
        async move {
            let charges = together.charges(cost);
            let verdict = match self.store.try_decide(&charges) {
                Some(verdict) => verdict,
                None => self.store.decide(&charges).await?,
            };
            refuse_impossible(&charges, &verdict)?;
            Ok(together.decision(verdict))
        }
    }

    /// Asks what `check` would say, without charging.
    ///
    /// # Errors
    /// When the store can't answer.
    pub fn peek<'l, K: AsKey>(
        &self,
        limit: &'l Limit,
        key: K,
    ) -> impl Future<Output = Result<Decision<'l>, CheckError>> + Send + use<'_, 'l, K, S> {
        let key = encoded(&key);
        async move { self.ask(limit, &key, Op::Peek(1)).await }
    }

    /// Charges what a request turned out to cost, whatever is left: the balance may go below zero by the
    /// limit's [debt](Limit::debt); what lies beyond is cut. Does not wait.
    pub fn debit(&self, limit: &Limit, key: impl AsKey, cost: u32) {
        self.store.post(Charge { limit, key: encoded(&key).key(), op: Op::Debit(cost) });
    }

    /// Gives back up to `units` of what was charged. Does not wait. Where a particular charge is to be undone,
    /// [`Limiter::reserve`] is more exact: it gives back only what time has not already.
    pub fn refund(&self, limit: &Limit, key: impl AsKey, units: u32) {
        self.store.post(Charge { limit, key: encoded(&key).key(), op: Op::Refund(units, None) });
    }

    /// Gives a key a fresh start.
    ///
    /// # Errors
    /// When the store can't answer.
    pub async fn reset<K: AsKey>(&self, limit: &Limit, key: K) -> Result<(), CheckError> {
        let key = encoded(&key);
        self.ask(limit, &key, Op::Reset).await.map(drop)
    }

    /// Carries one key over from a quota to another of the same limit ([`Limit::with_quota`]), keeping the share
    /// of it that is used: who had used half of 100 has used half of 1000. Windows and permits keep their counts.
    ///
    /// Without it nothing has to be done either: a bucket then keeps its time to full recovery, cut to that of
    /// the new quota. In both cases the bound of the new quota holds from the change on.
    ///
    /// # Errors
    /// When the store can't answer.
    pub async fn rescale<K: AsKey>(&self, from: &Limit, to: &Limit, key: K) -> Result<(), CheckError> {
        let key = encoded(&key);
        let former = match from.program() {
            Program::TokenBucket(bucket) => bucket.refill(),
            _ => Nanos::ZERO,
        };
        self.ask(to, &key, Op::Rescale(former)).await.map(drop)
    }

    /// Holds `estimate` units for a request whose cost is known only when it is over. Call
    /// [`Reservation::settle`] then; a reservation that is dropped instead stays charged.
    ///
    /// The `Err` inside is the denial.
    ///
    /// # Errors
    /// When the estimate is more than the limit can ever hold, or the store can't answer.
    pub async fn reserve<'l, K: AsKey>(
        &self,
        limit: &'l Limit,
        key: K,
        estimate: u32,
    ) -> Result<Result<Reservation<S>, Decision<'l>>, CheckError> {
        let key = encoded(&key);
        let decision = self.ask(limit, &key, Op::Take(estimate)).await?;
        if !decision.is_allowed() {
            return Ok(Err(decision));
        }
        let outcome = decision.limits().next().map(|(_, outcome)| *outcome);
        let outcome = outcome.unwrap_or(Outcome::admitted(0));
        Ok(Ok(Reservation { store: Arc::clone(&self.store), limit: limit.clone(), key, estimate, outcome }))
    }

    /// Acquires one permit of a concurrency limit, to be held while the work is under way.
    ///
    /// The `Err` inside is the denial.
    ///
    /// # Errors
    /// When the store can't answer.
    pub async fn acquire<'l, K: AsKey>(
        &self,
        limit: &'l Limit,
        key: K,
    ) -> Result<Result<Permit<S>, Decision<'l>>, CheckError> {
        let key = encoded(&key);
        let decision = self.ask(limit, &key, Op::Take(1)).await?;
        if !decision.is_allowed() {
            return Ok(Err(decision));
        }
        let outcome = decision.limits().next().map(|(_, outcome)| *outcome);
        // A shadow limit that is full admits without giving a permit away: nothing to release then.
        let held = outcome.filter(|outcome| outcome.admitted).map(|outcome| outcome.receipt);
        Ok(Ok(Permit { store: Arc::clone(&self.store), limit: limit.clone(), key, held }))
    }

    async fn ask<'l>(&self, limit: &'l Limit, key: &KeyBuf, op: Op) -> Result<Decision<'l>, CheckError> {
        let charges = [Charge { limit, key: key.key(), op }];
        let verdict = match self.store.try_decide(&charges) {
            Some(verdict) => verdict,
            None => self.store.decide(&charges).await?,
        };
        refuse_impossible(&charges, &verdict)?;
        Ok(Decision::new([limit], verdict))
    }
}

impl<S: LocalStore> Limiter<S> {
    /// As [`Limiter::check`], at once.
    #[inline(always)]
    pub fn try_check<'l, K: AsKey>(&self, limit: &'l Limit, key: K) -> Decision<'l> {
        let mut room = None;
        let key = key.lend(&mut room);
        Decision::one(limit, self.store.decide_one(Charge { limit, key, op: Op::Take(1) }))
    }

    /// As [`Limiter::check_all`], at once.
    ///
    /// # Errors
    /// When the cost is more than one of the limits can ever hold.
    pub fn try_check_all<'l, K: AsKey>(
        &self,
        of: &[(&'l Limit, K)],
        cost: u32,
    ) -> Result<Decision<'l>, CheckError> {
        let (mut few, mut many) = ([None, None, None, None], Vec::new());
        let rooms = match few.get_mut(..of.len()) {
            Some(rooms) => rooms,
            None => {
                many.resize_with(of.len(), || None);
                &mut many
            }
        };
        // Pushed, not collected: what is collected is moved as a whole once more.
        let mut charges = SmallVec::<[Charge<'_>; 4]>::new();
        for ((limit, key), room) in of.iter().zip(rooms) {
            charges.push(Charge { limit, key: key.lend(room), op: Op::Take(cost) });
        }
        let mut verdict = Verdict::empty();
        self.store.decide_into(&charges, &mut verdict);
        refuse_impossible(&charges, &verdict)?;
        let mut answer = Ok(Decision::of_nothing());
        if let Ok(decision) = &mut answer {
            decision.fill(of.iter().map(|(limit, _)| *limit), &verdict);
        }
        answer
    }
}

#[inline]
fn encoded(key: &impl AsKey) -> KeyBuf {
    let mut buffer = KeyBuf::new();
    key.encode(&mut buffer);
    buffer
}

/// The limits of one call and their keys, side by side in one buffer.
struct Together<'l> {
    keys: KeyBuf,
    parts: SmallVec<[(&'l Limit, usize); 4]>,
}

impl<'l> Together<'l> {
    fn new<K: AsKey>(of: &[(&'l Limit, K)]) -> Self {
        let mut keys = KeyBuf::new();
        let encode = |(limit, key): &(&'l Limit, K)| {
            key.encode(&mut keys);
            (*limit, keys.len())
        };
        let parts = of.iter().map(encode).collect();
        Self { keys, parts }
    }

    fn charges(&self, cost: u32) -> SmallVec<[Charge<'_>; 4]> {
        let mut start = 0;
        let charge = |&(limit, end): &(&'l Limit, usize)| {
            let key = self.keys.slice(start..end);
            start = end;
            Charge { limit, key, op: Op::Take(cost) }
        };
        self.parts.iter().map(charge).collect()
    }
    fn decision(&self, verdict: Verdict) -> Decision<'l> {
        Decision::new(self.parts.iter().map(|&(limit, _)| limit), verdict)
    }
}

/// A cost that no wait makes possible is an error of its own kind, not a denial to be retried.
pub(crate) fn refuse_impossible(charges: &[Charge<'_>], verdict: &Verdict) -> Result<(), CheckError> {
    if verdict.admitted {
        return Ok(());
    }
    for (charge, outcome) in charges.iter().zip(&verdict.outcomes) {
        if let (true, false, Op::Take(cost)) = (outcome.is_never(), charge.limit.is_shadow(), charge.op) {
            let (limit, capacity) = (charge.limit.name().to_owned(), charge.limit.capacity());
            return Err(CheckError::CostExceedsLimit { limit, cost, capacity });
        }
    }
    Ok(())
}

/// Units held for a request whose cost is known only when it is over. Dropped without being settled, it
/// stays charged.
#[derive(Debug)]
#[must_use = "a reservation stays charged in full unless it is settled"]
pub struct Reservation<S: Store> {
    store: Arc<S>,
    limit: Limit,
    key: KeyBuf,
    estimate: u32,
    outcome: Outcome,
}

impl<S: Store> Reservation<S> {
    /// What the limit said when the units were reserved.
    #[must_use]
    pub const fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Charges what the request really cost: gives the rest of the estimate back, as far as time has not done
    /// so already, or charges what goes beyond it, as a debt if need be. Does not wait.
    pub fn settle(self, actual: u32) {
        let op = match self.estimate.checked_sub(actual) {
            Some(0) => return,
            Some(_) if !self.outcome.admitted => return,
            Some(surplus) => Op::Refund(surplus, Some(self.outcome.receipt)),
            None => Op::Debit(actual - self.estimate),
        };
        self.store.post(Charge { limit: &self.limit, key: self.key.key(), op });
    }

    /// Undoes the charge, as far as time has not done so already.
    pub fn refund(self) {
        self.settle(0);
    }
}

/// A permit of a concurrency limit; dropping it releases it. Leaking it (`std::mem::forget`) loses it.
#[derive(Debug)]
#[must_use = "a permit is released as soon as it is dropped"]
pub struct Permit<S: Store> {
    store: Arc<S>,
    limit: Limit,
    key: KeyBuf,
    held: Option<Receipt>,
}

impl<S: Store> Drop for Permit<S> {
    fn drop(&mut self) {
        if let Some(receipt) = self.held.take() {
            let op = Op::Refund(1, Some(receipt));
            self.store.post(Charge { limit: &self.limit, key: self.key.key(), op });
        }
    }
}
