//! From the reply of a call to outcomes.

use ratelimit_core::Nanos;
use ratelimit_core::algorithm::{Outcome, Receipt};
use ratelimit_core::store::{Origin, Outcomes, Verdict};
use smallvec::SmallVec;

use super::Part;
use crate::shape::{Kind, Shape, whole};

/// What a client is told that found no permit free; nobody can know when one comes back.
const PERMIT_RETRY: Nanos = Nanos::from_secs(1);

/// A reply that is read from the front, one request after the other.
#[derive(Debug)]
pub(crate) struct Reply<'a> {
    /// The store's time in microseconds since the epoch.
    pub(crate) now: f64,
    rest: &'a [u8],
}

/// Why a request has no verdict although the script ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// Something that is not ours lies at one of its keys.
    Foreign,
    /// The reply is shorter than it must be, or not made of such numbers.
    Garbled,
}

impl<'a> Reply<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, Unanswered> {
        let mut reply = Self { now: 0.0, rest: bytes };
        reply.now = reply.double()?;
        let plausible = reply.now >= 0.0 && reply.now < 9e15 && bytes.len().is_multiple_of(8);
        if plausible { Ok(reply) } else { Err(Unanswered::Garbled) }
    }

    /// Whether nothing was done because a calendar's boundaries did not cover the store's time.
    pub(crate) fn is_only_the_time(&self) -> bool {
        self.rest.is_empty()
    }

    /// What the store says this replica holds, for each permits part of the next request.
    pub(crate) fn held(&self, parts: &[Part]) -> SmallVec<[u32; 2]> {
        let mut ahead = Self { now: self.now, rest: self.rest };
        let mut held = SmallVec::new();
        for part in parts {
            let _ = ahead.double();
            let about = if part.numbers() == 2 { ahead.double().unwrap_or(0.0) } else { 0.0 };
            if part.is_permits() {
                held.push(u32::try_from(whole(about)).unwrap_or(u32::MAX));
            }
        }
        held
    }

    /// The verdict on the next request. Foreign data does not end the reply; garbled numbers do.
    pub(crate) fn verdict(&mut self, parts: &[Part]) -> Result<Result<Verdict, Unanswered>, Unanswered> {
        let mut said: SmallVec<[(f64, f64); 4]> = SmallVec::new();
        for part in parts {
            let level = self.double()?;
            said.push((level, if part.numbers() == 2 { self.double()? } else { 0.0 }));
        }
        if said.iter().any(|&(level, _)| level == f64::NEG_INFINITY) {
            return Ok(Err(Unanswered::Foreign));
        }
        // Refused, it is -1 less what is used: nothing lies between -1 and 0.
        let is_level = |level: f64| level.is_finite() && (level >= 0.0 || level <= -1.0);
        if !said.iter().all(|(level, about)| is_level(*level) && *about >= 0.0 && about.is_finite()) {
            return Err(Unanswered::Garbled);
        }
        let admitted = parts.iter().zip(&said).all(|(part, &(level, _))| level >= 0.0 || !part.can_veto());
        let outcomes = parts.iter().zip(&said);
        let outcomes: Outcomes =
            outcomes.map(|(part, &(level, about))| self.outcome(part, level, about)).collect();
        Ok(Ok(Verdict { admitted, origin: Origin::Store, outcomes }))
    }

    /// The keys, counted from 1, that turned out to be foreign when they were written; at the end of a reply.
    pub(crate) fn foreign_keys(mut self) -> Result<SmallVec<[u8; 4]>, Unanswered> {
        let mut keys = SmallVec::new();
        while !self.rest.is_empty() {
            keys.push(u8::try_from(whole(self.double()?)).map_err(|_| Unanswered::Garbled)?);
        }
        Ok(keys)
    }

    pub(super) fn outcome(&self, part: &Part, level: f64, about: f64) -> Outcome {
        let (shape, units) = (&part.shape, part.units());
        let (admits, used) = if level >= 0.0 { (true, level) } else { (false, -1.0 - level) };
        let left = shape.left(used);
        let (reset_after, retry_after) = match shape.kind {
            Kind::Bucket { .. } => (nanos(used), nanos(used + shape.amount(units) - shape.capacity)),
            Kind::Fixed { .. } | Kind::Calendar => {
                let end = nanos(about - self.now);
                (if used > 0.0 { end } else { Nanos::ZERO }, end)
            }
            Kind::Sliding { cell } => {
                let (index, newest, leaving) = ring(about);
                let leaves = |after: f64| nanos((index + after) * cell - self.now);
                (if newest > 0.0 { leaves(newest) } else { Nanos::ZERO }, leaves(leaving))
            }
            Kind::Permits => (Nanos::ZERO, PERMIT_RETRY),
        };
        let outcome = if admits {
            Outcome::admitted(left)
        } else {
            Outcome::refused(left, Some(retry_after).filter(|_| units <= part.limit.capacity()))
        };
        outcome.with_reset_after(reset_after).with_receipt(self.receipt(shape, used, about))
    }

    fn receipt(&self, shape: &Shape, used: f64, about: f64) -> Receipt {
        let (high, low) = match shape.kind {
            Kind::Bucket { .. } => (self.now, used),
            Kind::Fixed { .. } | Kind::Calendar => (about, 0.0),
            Kind::Sliding { cell } => (ring(about).0, cell),
            Kind::Permits => (0.0, 0.0),
        };
        Receipt::new(u128::from(high.to_bits()) << 64 | u128::from(low.to_bits()))
    }

    pub(crate) fn double(&mut self) -> Result<f64, Unanswered> {
        let (first, rest) = self.rest.split_first_chunk::<8>().ok_or(Unanswered::Garbled)?;
        self.rest = rest;
        Ok(f64::from_le_bytes(*first))
    }
}

/// Number of the current cell, and after how many more the newest count leaves and enough for the request.
pub(crate) fn ring(about: f64) -> (f64, f64, f64) {
    let index = (about / 256.0).floor();
    let low = about - index * 256.0;
    let newest = (low / 16.0).floor();
    (index, newest, low - newest * 16.0)
}

/// Microseconds as nanoseconds, rounded up so that waiting that long is always enough.
pub(crate) fn nanos(micros: f64) -> Nanos {
    let full = micros.max(0.0).floor();
    let fraction = ((micros.max(0.0) - full) * 1000.0).ceil();
    Nanos::new(whole(full).saturating_mul(1000).saturating_add(whole(fraction)))
}
