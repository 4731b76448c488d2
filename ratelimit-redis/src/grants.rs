//! Leases over the store: how the question travels and what the answer says; see [`crate::lease`].

use std::sync::Arc;

use ratelimit_core::algorithm::Receipt;
use ratelimit_core::store::{Charge, Verdict};
use ratelimit_core::{Key, Limit, StoreError, StoreErrorKind};
use smallvec::smallvec;

use crate::batch::Said;
use crate::error::Trouble;
use crate::keys::Digest;
use crate::lease::grant::Wish;
use crate::lease::{self, Ask, Given, GrantSource, LeasedStore, Policy, Ticks};
use crate::partition::gone;
use crate::shape::{Kind, Shape, whole};
use crate::store::RedisStore;
use crate::wire::{Arguments, Part, Reply, Unanswered, What, nanos, ring};

/// The script's number for a lease.
const LEASE: u8 = 255;
/// No time of the store's is later: the year 2255.
const LATEST: f64 = 9e15;

impl RedisStore {
    /// Hot keys are decided in this process from now on, out of leases; see [`crate::lease`].
    #[must_use]
    pub fn leased(self) -> LeasedStore<Self> {
        self.leased_by(Policy::default())
    }

    /// As [`RedisStore::leased`], with leases as large as that policy asks for.
    #[must_use]
    pub fn leased_by(self, policy: Policy) -> LeasedStore<Self> {
        let shared = Arc::clone(self.shared());
        let leased = LeasedStore::by(self.under_leases(), policy);
        shared.known.listen(leased.forgetter());
        leased
    }
}

impl GrantSource for RedisStore {
    async fn lease(&self, limit: &Limit, key: Key<'_>, ask: &Ask) -> Result<lease::Reply, StoreError> {
        let (digest, shape) = (Digest::of(limit, key), Shape::of(limit));
        let part = Part { digest, limit: limit.clone(), shape, what: What::Lease(ask.wish()) };
        let partition = self.home(key);
        if !partition.is_up() {
            return Err(gone());
        }
        match partition.say(&Arc::new(smallvec![part])).await? {
            Said::Lease(reply) => Ok(reply),
            Said::Verdict(_) => Err(Trouble::garbled().to_error()),
        }
    }

    fn end_of(&self, receipt: Receipt) -> Option<Ticks> {
        let part = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).map_or(0.0, f64::from_bits);
        let (at, level) = (part(receipt.mark() >> 64), part(receipt.mark()));
        let plausible = at > 0.0 && at < LATEST && (0.0..LATEST).contains(&level);
        plausible.then(|| Ticks::from_micros(whole(at)).plus(Ticks::from_script(level)))
    }

    fn deadline(&self) -> Option<std::time::Duration> {
        Some(self.deadline)
    }

    fn without(&self, charges: &[Charge<'_>], kind: StoreErrorKind) -> Option<Result<Verdict, StoreError>> {
        let why = || StoreError::new(kind, "asking for a lease");
        Some(match self.spread(charges) {
            Ok(partition) => partition.without_store(charges, why()),
            Err(several) => several.without_store(why),
        })
    }
}

impl Arguments {
    /// Adds a request for a lease.
    pub(crate) fn lease(&mut self, key: u8, shape: &Shape, wish: &Wish) {
        self.byte(LEASE);
        self.byte(key);
        for number in [shape.unit(), wish.least, wish.rate, wish.horizon, wish.share, wish.patience] {
            self.double(number);
        }
    }
}

impl Reply<'_> {
    /// What the store says to a request for a lease.
    pub(crate) fn grant(&mut self, part: &Part) -> Result<Result<lease::Reply, Unanswered>, Unanswered> {
        let (units, level) = (self.double()?, self.double()?);
        let is_window = !matches!(part.shape.kind, Kind::Bucket { .. });
        let about = if is_window { self.double()? } else { 0.0 };
        if units == f64::NEG_INFINITY {
            return Ok(Err(Unanswered::Foreign));
        }
        let plausible = |number: &f64| (0.0..f64::MAX).contains(number);
        if ![units, level, about].iter().all(plausible) {
            return Err(Unanswered::Garbled);
        }
        let given = match u32::try_from(whole(units)) {
            Err(_) => return Err(Unanswered::Garbled),
            Ok(0) => Given::Refused(match part.shape.kind {
                Kind::Sliding { cell } => {
                    let (index, _, leaving) = ring(about);
                    nanos((index + leaving) * cell - self.now)
                }
                Kind::Bucket { .. } => nanos(level),
                _ => nanos(about - self.now),
            }),
            Ok(units) => {
                let lapses = match part.shape.kind {
                    Kind::Bucket { .. } => None,
                    // To the end of the cell that it was charged to.
                    Kind::Sliding { cell } => Some((ring(about).0 + 1.0) * cell),
                    _ => Some(about),
                };
                Given::Units {
                    units,
                    used: Ticks::from_script(level),
                    lapses: lapses.map(Ticks::from_script),
                }
            }
        };
        Ok(Ok(lease::Reply { at: whole(self.now), given }))
    }
}
