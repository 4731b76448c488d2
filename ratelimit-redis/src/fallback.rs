//! Decisions of this replica alone, while the store can't make them.
//!
//! Each of R replicas enforces its share: the R-th part of rate, burst and count, at least one unit. A request
//! that costs more than the share holds is admitted when the share is full, and goes into debt for it.
//!
//! # Bound
//! Nobody knows what the store had handed out before it went; so a key begins with one unit, not with a full
//! share, and going over to local decisions costs at most R units. While every replica is cut off, together they
//! admit at most the larger of burst and R, and the rate. When the store is back, the share is kept for
//! [`OVERLAP`] more, so that all find back before any uses the store, and then what was spent and time has not
//! given back is charged to the store before the key is next decided. A replica that comes back later than the
//! others adds its share.
//!
//! The store's own permits are not known here: those that are held when it goes come on top of the share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use ratelimit_core::algorithm::{Op, Outcome, Program, Receipt};
use ratelimit_core::store::{Charge, Origin, Outcomes, Verdict};
use ratelimit_core::{Key, KeyBuf, Limit, LimitSpec, LocalStore, MemoryStore, Nanos, Rate, Store};
use smallvec::SmallVec;

use crate::keys::Digest;
use crate::shape::Shape;
use crate::wire::{Part, What};

/// How long local decisions go on after the store is back.
pub(crate) const OVERLAP: Nanos = Nanos::from_secs(2);
/// Keys that are followed one by one; what comes beyond shares entries.
const MOST: usize = 100_000;
const SHARED_ENTRIES: u64 = 1024;
/// In a receipt: the charge was made here. No number that the store's receipts are made of looks like this.
const LOCAL: u128 = 0x7f << 120;

/// Local decisions, if there are any.
#[derive(Debug, Default)]
pub(crate) struct Fallback {
    current: RwLock<Option<Arc<Outage>>>,
}

/// One time without the store.
#[derive(Debug)]
pub(crate) struct Outage {
    began: Nanos,
    replicas: u32,
    /// When a decision was last made here, in nanoseconds.
    used: AtomicU64,
    store: MemoryStore,
    shares: DashMap<Digest, (Shape, Limit), foldhash::fast::RandomState>,
    touched: DashMap<Digest, Touched, foldhash::fast::RandomState>,
}

/// A share, where the charge's key lies among those of the call, what is asked of it, and what goes into debt.
type Place = (Limit, std::ops::Range<usize>, Op, Option<u32>);

/// A key that was decided here.
#[derive(Clone, Debug)]
struct Touched {
    limit: Limit,
    share: Limit,
    /// Units that were taken out of the share to begin with.
    kept_back: u32,
}

impl Fallback {
    /// The outage, which begins now if there is none.
    pub(crate) fn outage(&self, now: Nanos, replicas: u32) -> Arc<Outage> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        let outage = current.unwrap_or_else(|| {
            let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(current.get_or_insert_with(|| Arc::new(Outage::new(now, replicas))))
        });
        outage.used.store(now.get(), Ordering::Relaxed);
        outage
    }

    /// The outage that is under way.
    pub(crate) fn current(&self) -> Option<Arc<Outage>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it.
    pub(crate) fn end(&self) -> Option<Arc<Outage>> {
        self.current.write().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Of what was let through without a charge: there is nothing to give back, now or when the store is back.
pub(crate) const UNCHARGED: Receipt = Receipt::new(LOCAL);

/// Whether a receipt is of a charge that was made here.
pub(crate) fn is_local(op: Op) -> bool {
    matches!(op, Op::Refund(_, Some(receipt)) if receipt.mark() & LOCAL == LOCAL)
}

impl Outage {
    fn new(began: Nanos, replicas: u32) -> Self {
        Self {
            began,
            replicas: replicas.max(1),
            used: AtomicU64::new(began.get()),
            store: MemoryStore::default(),
            shares: DashMap::default(),
            touched: DashMap::default(),
        }
    }

    /// Whether nothing was decided here for a while.
    pub(crate) fn is_idle(&self, now: Nanos) -> bool {
        now.saturating_sub(Nanos::new(self.used.load(Ordering::Relaxed))) >= OVERLAP
    }

    /// Decides by the shares. Never fails.
    pub(crate) fn decide(&self, charges: &[Charge<'_>], now: Nanos) -> Verdict {
        let mut keys = KeyBuf::new();
        let mut places: SmallVec<[Place; 4]> = SmallVec::new();
        for charge in charges {
            let start = keys.len();
            let share = self.entry(charge, now, &mut keys);
            let key = start..keys.len();
            let (op, beyond) = self.within(&share, charge);
            places.push((share, key, op, beyond));
        }
        let mut local: SmallVec<[Charge<'_>; 8]> = SmallVec::new();
        for (share, key, op, beyond) in &places {
            let key = keys.slice(key.clone());
            local.push(Charge { limit: share, key, op: *op });
            if let Some(units) = beyond {
                local.push(Charge { limit: share, key, op: Op::Debit(*units) });
            }
        }
        let verdict = self.store.decide_now(&local);
        let mut outcomes = verdict.outcomes.into_iter();
        let mut said = Outcomes::new();
        for ((.., beyond), charge) in places.iter().zip(charges) {
            let outcome = outcomes.next().unwrap_or(Outcome::refused(0, Some(Nanos::from_secs(1))));
            if beyond.is_some() {
                outcomes.next();
            }
            let receipt = Receipt::new(outcome.receipt.mark() | LOCAL);
            let mut outcome = outcome.with_receipt(receipt);
            if outcome.is_never() && !is_beyond(charge) {
                // It is too much for the share; the store may hold it when it is back.
                outcome.retry_after = Some(Nanos::from_secs(1));
            }
            said.push(outcome);
        }
        Verdict { admitted: verdict.admitted, origin: Origin::Local, outcomes: said }
    }

    /// Makes a charge that nobody waits for.
    pub(crate) fn post(&self, charge: Charge<'_>, now: Nanos) {
        self.decide(&[charge], now);
    }

    /// What the store has to be told: the units that were spent here and that time has not given back.
    pub(crate) fn spent(&self, now: Nanos) -> Vec<Part> {
        let part = |entry: dashmap::mapref::multiple::RefMulti<'_, Digest, Touched>| {
            let (digest, touched) = (*entry.key(), entry.value());
            let units = self.spent_on(&digest, touched, now);
            let (shape, limit) = (Shape::of(&touched.limit), touched.limit.clone());
            (units > 0).then_some(Part { digest, limit, shape, what: What::Do(Op::Debit(units)) })
        };
        self.touched.iter().filter_map(part).collect()
    }

    fn spent_on(&self, digest: &Digest, touched: &Touched, now: Nanos) -> u32 {
        let mut key = KeyBuf::new();
        digest.write_key(&mut key);
        let op = Op::Peek(0);
        let seen = self.store.decide_one(Charge { limit: &touched.share, key: key.key(), op });
        match touched.share.program() {
            Program::TokenBucket(bucket) => {
                // Until when an entry nobody used would not have been full either.
                let untouched = self.full_at(&touched.share).saturating_sub(now).get();
                let untouched = u128::from(if touched.kept_back > 0 { untouched } else { 0 });
                let ahead = u128::from(seen.reset_after.get()).saturating_sub(untouched) << 10;
                u32::try_from(ahead.div_ceil(bucket.interval_ticks().max(1))).unwrap_or(u32::MAX)
            }
            // Permits come back by themselves.
            Program::Concurrency(_) => 0,
            _ => touched.share.capacity().saturating_sub(seen.remaining()).saturating_sub(touched.kept_back),
        }
    }

    /// Writes the key of a charge's entry and gives the share; a new entry begins with one unit.
    fn entry(&self, charge: &Charge<'_>, now: Nanos, keys: &mut KeyBuf) -> Limit {
        let digest = Digest::of(charge.limit, charge.key);
        let share = self.share(charge.limit);
        if self.touched.len() >= MOST && !self.touched.contains_key(&digest) {
            keys.push_u64(digest.spread() % SHARED_ENTRIES);
            return share;
        }
        digest.write_key(keys);
        if charge.op == Op::Reset {
            // A fresh start: nothing is kept back any more.
            let limit = charge.limit.clone();
            self.touched.insert(digest, Touched { limit, share: share.clone(), kept_back: 0 });
        } else if let Entry::Vacant(vacant) = self.touched.entry(digest) {
            let kept_back = self.kept_back(&share, now);
            if kept_back > 0 {
                let mut key = KeyBuf::new();
                digest.write_key(&mut key);
                self.store.post(Charge { limit: &share, key: key.key(), op: Op::Debit(kept_back) });
            }
            vacant.insert(Touched { limit: charge.limit.clone(), share: share.clone(), kept_back });
        }
        share
    }

    /// Units by which a new entry is charged, so that one is left at the outage's beginning.
    fn kept_back(&self, share: &Limit, now: Nanos) -> u32 {
        let but_one = share.capacity().saturating_sub(1);
        match share.program() {
            Program::TokenBucket(bucket) => {
                let missing = u128::from(self.full_at(share).saturating_sub(now).get()) << 10;
                u32::try_from(missing.div_ceil(bucket.interval_ticks().max(1)))
                    .unwrap_or(but_one)
                    .min(but_one)
            }
            Program::Concurrency(_) => 0,
            _ => {
                let window = Nanos::from_secs(share.window_seconds().unwrap_or(0));
                if now < self.began.saturating_add(window) { but_one } else { 0 }
            }
        }
    }

    /// When a bucket with one unit at the outage's beginning is full.
    fn full_at(&self, share: &Limit) -> Nanos {
        let Program::TokenBucket(bucket) = share.program() else { return self.began };
        let ticks = bucket.interval_ticks().saturating_mul(u128::from(share.capacity().saturating_sub(1)));
        self.began.saturating_add(Nanos::new(u64::try_from(ticks >> 10).unwrap_or(u64::MAX)))
    }

    /// What of a charge fits into the share, and what goes into debt if that is there.
    fn within(&self, share: &Limit, charge: &Charge<'_>) -> (Op, Option<u32>) {
        let most = share.capacity();
        match charge.op {
            Op::Take(units) if units > most && !is_beyond(charge) => (Op::Take(most), Some(units - most)),
            Op::Peek(units) if units > most && !is_beyond(charge) => (Op::Peek(most), None),
            Op::Refund(units, Some(receipt)) if is_local(charge.op) => {
                (Op::Refund(units, Some(Receipt::new(receipt.mark() & !LOCAL))), None)
            }
            // What the store charged is not here to be given back.
            Op::Refund(..) => (Op::Peek(0), None),
            op => (op, None),
        }
    }

    /// This replica's part of a limit.
    fn share(&self, limit: &Limit) -> Limit {
        let (id, shape) = (Digest::of(limit, Key::GLOBAL), Shape::of(limit));
        if let Some(known) = self.shares.get(&id)
            && known.0 == shape
        {
            return known.1.clone();
        }
        let share = share_of(limit, self.replicas).unwrap_or_else(|| limit.clone());
        self.shares.insert(id, (shape, share.clone()));
        share
    }
}

/// Whether a charge is more than the limit itself can ever hold.
fn is_beyond(charge: &Charge<'_>) -> bool {
    matches!(charge.op, Op::Take(units) | Op::Peek(units) if units > charge.limit.capacity())
}

fn share_of(limit: &Limit, replicas: u32) -> Option<Limit> {
    let part = |whole: u32| (whole / replicas).max(1);
    let spec = limit.spec();
    let capacity = part(limit.capacity());
    // What a request may cost beyond the share goes into debt.
    let debt = (limit.capacity() - capacity).saturating_add(spec.debt / replicas);
    let share = match limit.program() {
        Program::Concurrency(_) => LimitSpec { permits: Some(capacity), ..spec.clone() },
        Program::TokenBucket(_) => {
            let rate = spec.rate?;
            let slower = match rate.period() {
                ratelimit_core::Period::Seconds(seconds) => {
                    let period = std::time::Duration::from_secs(u64::from(seconds) * u64::from(replicas));
                    Rate::new(rate.count(), period).ok()
                }
                _ => None,
            };
            let rate = match slower {
                Some(rate) => rate,
                None => with_count(rate, part(rate.count()))?,
            };
            LimitSpec { rate: Some(rate), burst: Some(capacity), debt, ..spec.clone() }
        }
        _ => LimitSpec { rate: Some(with_count(spec.rate?, capacity)?), debt, ..spec.clone() },
    };
    // A debt that would take too long to come back is left out.
    Limit::try_from(share.clone()).or_else(|_| Limit::try_from(LimitSpec { debt: 0, ..share })).ok()
}

fn with_count(rate: Rate, count: u32) -> Option<Rate> {
    match rate.period() {
        ratelimit_core::Period::Seconds(seconds) => {
            Rate::new(count, std::time::Duration::from_secs(seconds.into())).ok()
        }
        _ => Rate::per_month(count).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratelimit_core::{Algorithm, AsKey};

    fn encoded(key: impl AsKey) -> KeyBuf {
        let mut buffer = KeyBuf::new();
        key.encode(&mut buffer);
        buffer
    }

    fn admitted(outage: &Outage, limit: &Limit, units: u32, times: u32) -> u32 {
        let key = encoded("k");
        let charge = Charge { limit, key: key.key(), op: Op::Take(units) };
        (0..times).map(|_| u32::from(outage.decide(&[charge], outage.began).admitted)).sum()
    }

    #[test]
    fn shares_are_parts_and_at_least_one() {
        let bucket = Limit::new("b", "100/s".parse().unwrap()).burst(200);
        let share = share_of(&bucket, 4).unwrap();
        assert_eq!((share.capacity(), share.spec().rate.unwrap().to_string()), (50, "100/4s".to_owned()));
        let few = Limit::new("f", "3/min".parse().unwrap()).algorithm(Algorithm::SlidingWindow);
        assert_eq!(share_of(&few, 8).unwrap().capacity(), 1);
        let months = Limit::new("m", Rate::per_month(100).unwrap());
        assert_eq!(share_of(&months, 4).unwrap().capacity(), 25);
        assert_eq!(share_of(&Limit::concurrency("c", 10), 4).unwrap().capacity(), 2);
    }

    /// The switch itself costs one unit a key and replica.
    #[test]
    fn a_key_begins_with_one_unit() {
        for algorithm in [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::FixedWindow] {
            let limit = Limit::new("l", "1000/day".parse().unwrap()).algorithm(algorithm);
            let outage = Outage::new(Nanos::from_secs(1), 4);
            assert_eq!(admitted(&outage, &limit, 1, 20), 1, "{algorithm}");
        }
    }

    #[test]
    fn what_was_spent_is_reported_and_what_was_kept_back_is_not() {
        for algorithm in [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::FixedWindow] {
            let limit = Limit::new("l", "1000/day".parse().unwrap()).algorithm(algorithm);
            let outage = Outage::new(Nanos::from_secs(1), 4);
            assert_eq!(admitted(&outage, &limit, 1, 2), 1);
            let spent = outage.spent(outage.began);
            let [Part { what: What::Do(Op::Debit(units)), .. }] = spent[..] else {
                panic!("{algorithm}: {spent:?}")
            };
            assert_eq!(units, 1, "{algorithm}");
        }
    }

    #[test]
    fn a_heavy_request_needs_a_full_share_and_goes_into_debt() {
        let limit = Limit::new("l", "100/day".parse().unwrap());
        // A day after the beginning the share of 25 is full.
        let mut outage = Outage::new(Nanos::from_secs(1), 4);
        let later = Nanos::from_secs(100_000);
        let key = encoded("k");
        let charge = |units| Charge { limit: &limit, key: key.key(), op: Op::Take(units) };
        assert!(outage.decide(&[charge(60)], later).admitted);
        assert!(!outage.decide(&[charge(1)], later).admitted);
        assert!(outage.decide(&[charge(101)], later).outcomes[0].is_never());
        let spent = outage.spent(later);
        let [Part { what: What::Do(Op::Debit(60)), .. }] = spent[..] else { panic!("{spent:?}") };
        // One unit too little, and it is denied for now, not for good.
        outage = Outage::new(Nanos::from_secs(1), 4);
        let denied = outage.decide(&[charge(60)], outage.began).outcomes[0];
        assert!(!denied.admitted && !denied.is_never());
    }

    #[test]
    fn receipts_of_local_charges_are_known() {
        let limit = Limit::new("l", "100/day".parse().unwrap());
        let outage = Outage::new(Nanos::from_secs(1), 1);
        let key = encoded("k");
        let charge = |op| Charge { limit: &limit, key: key.key(), op };
        let taken = outage.decide(&[charge(Op::Take(1))], outage.began).outcomes[0];
        let refund = Op::Refund(1, Some(taken.receipt));
        assert!(
            is_local(refund)
                && !is_local(Op::Refund(1, Some(Receipt::new(u128::from(9e15_f64.to_bits()) << 64))))
        );
        outage.post(charge(refund), outage.began);
        assert!(outage.decide(&[charge(Op::Take(1))], outage.began).admitted);
    }
}
