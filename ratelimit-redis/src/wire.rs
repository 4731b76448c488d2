//! What `scripts/decide.lua` is sent and what it answers, and nothing else knows: pure functions from requests
//! to arguments and from replies to outcomes.

use ratelimit_core::algorithm::{Op, Outcome, Receipt};
use ratelimit_core::store::{Origin, Outcomes, Verdict};
use ratelimit_core::{Limit, Nanos};
use smallvec::SmallVec;

use crate::keys::Digest;
use crate::lease::grant::Wish;
use crate::shape::{Kind, Shape, float, whole};

/// What a client is told that found no permit free; nobody can know when one comes back.
const PERMIT_RETRY: Nanos = Nanos::from_secs(1);

/// One operation on one key. Charges of one request that meet in one key are one part.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) digest: Digest,
    pub(crate) limit: Limit,
    pub(crate) shape: Shape,
    pub(crate) what: What,
}

/// What is done to the key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum What {
    /// As charges say.
    Do(Op),
    /// That many permits are held by this replica, whatever the store remembers.
    Hold(u32),
    /// What this replica holds lapses later, however much it is.
    Renew,
    /// A take is undone, if nothing was charged after it.
    Undo(u32, Receipt),
    /// A lease; see `grants.rs`. The only part of its request.
    Lease(Wish),
}

/// The parts of one request.
pub(crate) type Parts = SmallVec<[Part; 2]>;

impl Part {
    /// Whether it can stop the request.
    fn can_veto(&self) -> bool {
        self.is_conditional() && !self.limit.is_shadow()
    }

    pub(crate) fn is_conditional(&self) -> bool {
        matches!(self.what, What::Do(op) if op.is_conditional())
    }

    pub(crate) fn is_permits(&self) -> bool {
        self.shape.kind == Kind::Permits
    }

    fn units(&self) -> u32 {
        match self.what {
            What::Do(Op::Take(units) | Op::Peek(units) | Op::Debit(units) | Op::Refund(units, _)) => units,
            What::Hold(permits) => permits,
            What::Undo(units, _) => units,
            What::Do(_) | What::Renew | What::Lease(_) => 0,
        }
    }

    /// Numbers that the reply has about it.
    fn numbers(&self) -> usize {
        if matches!(self.shape.kind, Kind::Bucket { .. }) { 1 } else { 2 }
    }
}

/// The arguments of one script call, put together request by request.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    format: Vec<u8>,
    numbers: Vec<u8>,
}

/// What a batch with permits or calendars says besides.
#[derive(Debug, Default)]
pub(crate) struct More<'a> {
    /// Keys that follow a calendar, by their place among the keys, with their boundaries in microseconds.
    pub(crate) calendars: &'a [(u8, [f64; 4])],
    /// Number of the batch.
    pub(crate) sequence: u64,
    /// Microseconds until permits lapse.
    pub(crate) expiry: u64,
}

impl Arguments {
    /// Begins a batch over keys of those shapes, in order.
    pub(crate) fn begin<'s>(&mut self, shapes: impl IntoIterator<Item = &'s Shape>, more: Option<&More<'_>>) {
        self.format.clear();
        self.numbers.clear();
        self.format.push(b'<');
        for shape in shapes {
            for number in [shape.capacity, shape.ceiling, shape.code()] {
                self.double(number);
            }
        }
        let Some(more) = more else { return self.byte(0) };
        self.byte(1);
        self.byte(u8::try_from(more.calendars.len()).unwrap_or(u8::MAX));
        for (key, boundaries) in more.calendars {
            self.byte(*key);
            boundaries.iter().for_each(|&boundary| self.double(boundary));
        }
        self.double(float(more.sequence));
        self.double(float(more.expiry));
    }

    /// Adds a request; `key_of` tells the place of a part's key among the keys, counted from 1.
    pub(crate) fn request(&mut self, parts: &[Part], mut key_of: impl FnMut(&Part) -> u8) {
        if let [part] = parts
            && let What::Lease(wish) = &part.what
        {
            return self.lease(key_of(part), &part.shape, wish);
        }
        let plain = |part: &Part| matches!(part.what, What::Do(Op::Take(_))) && !part.limit.is_shadow();
        if parts.iter().all(plain) && !parts.is_empty() {
            self.byte(count(parts));
            for part in parts {
                self.byte(key_of(part));
                self.double(part.shape.amount(part.units()));
            }
            return;
        }
        self.byte(0);
        self.byte(count(parts));
        for part in parts {
            let shadow = part.limit.is_shadow();
            let (operation, receipt) = match part.what {
                What::Do(Op::Take(_)) => (if shadow { 8 } else { 1 }, None),
                What::Do(Op::Peek(_)) => (if shadow { 9 } else { 2 }, None),
                What::Do(Op::Debit(_)) => (3, None),
                What::Do(Op::Refund(_, None)) => (4, None),
                What::Do(Op::Refund(_, Some(receipt))) if part.is_permits() => (4, Some(receipt)),
                What::Do(Op::Refund(_, Some(receipt))) => (5, Some(receipt)),
                What::Do(Op::Reset) => (6, None),
                What::Do(Op::Rescale(_)) => (12, None),
                What::Hold(_) => (7, None),
                What::Renew => (10, None),
                What::Undo(_, receipt) => (11, Some(receipt)),
                // An operation that this version does not know changes nothing.
                What::Do(_) | What::Lease(_) => (2, None),
            };
            let (mark, mark2) = receipt.map_or((0.0, 0.0), |receipt| marks(&part.shape, receipt));
            self.byte(operation);
            self.byte(key_of(part));
            self.double(match part.what {
                // Rounded down: the share that is used is never less than it was.
                What::Do(Op::Rescale(former)) => float(former.get() / 1000),
                _ => part.shape.amount(part.units()),
            });
            self.double(mark);
            self.double(mark2);
        }
    }

    /// Format and numbers as they are sent.
    pub(crate) fn finished(&self) -> (&[u8], &[u8]) {
        (&self.format, &self.numbers)
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.format.push(b'B');
        self.numbers.push(byte);
    }

    pub(crate) fn double(&mut self, number: f64) {
        self.format.push(b'd');
        self.numbers.extend_from_slice(&number.to_le_bytes());
    }
}

fn count(parts: &[Part]) -> u8 {
    u8::try_from(parts.len()).unwrap_or(u8::MAX)
}

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
        if !said.iter().all(|(level, about)| level.is_finite() && *about >= 0.0 && about.is_finite()) {
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

    fn outcome(&self, part: &Part, level: f64, about: f64) -> Outcome {
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

/// A receipt's two marks. One that was made by another store, or for another algorithm, gives nothing back.
fn marks(shape: &Shape, receipt: Receipt) -> (f64, f64) {
    let part = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).map_or(0.0, f64::from_bits);
    let (high, low) = (part(receipt.mark() >> 64), part(receipt.mark()));
    let plausible = |mark: f64| (0.0..9e15).contains(&mark);
    match shape.kind {
        _ if !plausible(high) || !plausible(low) => (0.0, 0.0),
        // Never more ahead than a charge could have been.
        Kind::Bucket { .. } => (high, low.min(shape.ceiling)),
        _ => (high, low),
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

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ratelimit_core::{Algorithm, Rate};

    fn part(limit: &Limit, op: Op) -> Part {
        let digest = Digest::of(limit, ratelimit_core::Key::GLOBAL);
        Part { digest, limit: limit.clone(), shape: Shape::of(limit), what: What::Do(op) }
    }

    fn limits() -> [Limit; 4] {
        let rate = Rate::per_second(10);
        [
            Limit::new("bucket", rate),
            Limit::new("sliding", rate).algorithm(Algorithm::SlidingWindow),
            Limit::new("fixed", rate).algorithm(Algorithm::FixedWindow),
            Limit::concurrency("permits", 10),
        ]
    }

    fn bytes(numbers: &[f64]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    #[test]
    fn a_single_take_is_short() {
        let [bucket, ..] = limits();
        let part = part(&bucket, Op::Take(2));
        let mut arguments = Arguments::default();
        arguments.begin([&part.shape], None);
        arguments.request(&[part], |_| 1);
        let (format, numbers) = arguments.finished();
        assert_eq!(format, b"<dddBBBd");
        let mut expected = bytes(&[1_000_000.0, 1_000_000.0, 0.0]);
        expected.extend([0, 1, 1]);
        expected.extend(bytes(&[200_000.0]));
        assert_eq!(numbers, expected);
    }

    #[test]
    fn a_reply_is_read_exactly() {
        let [bucket, sliding, ..] = limits();
        let parts = [part(&bucket, Op::Take(3)), part(&sliding, Op::Take(3))];
        let now = 1_795_466_076_996_512.0;
        let index = (now / 100_000.0_f64).floor();
        let reply = bytes(&[now, 300_000.0, -1.0 - 9.0, index * 256.0 + 11.0 * 16.0 + 4.0]);
        let mut reply = Reply::new(&reply).unwrap();
        let verdict = reply.verdict(&parts).unwrap().unwrap();
        assert!(!verdict.admitted);
        let [one, two] = verdict.outcomes[..] else { panic!() };
        assert_eq!((one.admitted, one.remaining(), one.reset_after.get()), (true, 7, 300_000_000));
        assert_eq!((two.admitted, two.remaining()), (false, 1));
        let until = |cells: f64| ((index + cells) * 100_000.0 - now) as u64 * 1000;
        assert_eq!(two.reset_after.get(), until(11.0));
        assert_eq!(two.retry_after.map(Nanos::get), Some(until(4.0)));
        assert!(reply.foreign_keys().unwrap().is_empty());
    }

    #[test]
    fn a_receipt_comes_back_as_it_was() {
        for (limit, about) in limits().iter().zip([0.0, 40_000.0 * 256.0 + 16.0, 2_000_000.0, 1.0]) {
            let part = part(limit, Op::Take(1));
            let reply = Reply { now: 1_795_466_076_996_512.0, rest: &[] };
            let outcome = reply.outcome(&part, 1.0, about);
            let expected = match part.shape.kind {
                Kind::Bucket { .. } => (reply.now, 1.0),
                Kind::Sliding { cell } => (40_000.0, cell),
                Kind::Fixed { .. } => (about, 0.0),
                _ => (0.0, 0.0),
            };
            assert_eq!(marks(&part.shape, outcome.receipt), expected);
        }
    }

    proptest! {
        /// Row 101: whatever bytes come back, there is an answer or an error, never a panic.
        #[test]
        fn any_reply_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..200), kinds in proptest::collection::vec(0..4_usize, 1..6)) {
            let limits = limits();
            if let Ok(mut reply) = Reply::new(&bytes) {
                for kind in kinds {
                    if reply.verdict(&[part(&limits[kind], Op::Take(1))]).is_err() {
                        return Ok(());
                    }
                }
                let _ = reply.foreign_keys();
            }
        }

        /// Whatever numbers come back.
        #[test]
        fn any_numbers_are_read(numbers in proptest::collection::vec(any::<f64>(), 0..20), mark in any::<u128>()) {
            let limits = limits();
            let reply = bytes(&numbers);
            if let Ok(mut reply) = Reply::new(&reply) {
                for limit in &limits {
                    let _ = reply.verdict(&[part(limit, Op::Refund(1, Some(Receipt::new(mark))))]);
                }
            }
            for limit in &limits {
                let (one, other) = marks(&Shape::of(limit), Receipt::new(mark));
                prop_assert!(one >= 0.0 && other >= 0.0);
            }
        }
    }
}
