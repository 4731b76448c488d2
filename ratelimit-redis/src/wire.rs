//! What `scripts/decide.lua` and `scripts/takes.lua` are sent and what they answer, and nothing else knows: pure
//! functions from requests to arguments and from replies to outcomes.

mod arguments;
#[cfg(fuzzing)]
#[allow(clippy::indexing_slicing, clippy::panic, missing_docs, reason = "for the fuzzer")]
pub(crate) mod fuzzed;
mod reply;

use ratelimit_core::Limit;
use ratelimit_core::algorithm::{Op, Receipt};
use smallvec::SmallVec;

pub(crate) use self::arguments::{Arguments, More};
pub(crate) use self::reply::{Reply, Unanswered, nanos, ring};
use crate::keys::Digest;
use crate::lease::grant::Wish;
use crate::shape::{Kind, Shape};

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

    /// Whether `scripts/takes.lua` decides about it.
    pub(crate) fn is_bucket_take(&self) -> bool {
        matches!(self.shape.kind, Kind::Bucket { .. })
            && matches!(self.what, What::Do(Op::Take(1..)))
            && !self.limit.is_shadow()
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

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tests")]
mod tests {
    use super::arguments::marks;
    use super::*;
    use proptest::prelude::*;
    use ratelimit_core::{Algorithm, Nanos, Rate};

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
    fn takes_alone_are_shorter_still() {
        let [bucket, sliding, ..] = limits();
        let parts = [part(&bucket, Op::Take(2)), part(&bucket, Op::Take(1))];
        let mut arguments = Arguments::default();
        arguments.takes([&parts[..], &parts[..1]].into_iter());
        let (format, numbers) = arguments.finished();
        assert_eq!(format, b"<BddddddBddd");
        let two = bytes(&[1_000_000.0, 1_000_000.0, 200_000.0]);
        let one = bytes(&[1_000_000.0, 1_000_000.0, 100_000.0]);
        assert_eq!(numbers, [&[2][..], &two, &one, &[1], &two].concat());

        let shadow = bucket.shadow();
        for other in [
            part(&sliding, Op::Take(1)),
            part(&bucket, Op::Peek(1)),
            part(&bucket, Op::Take(0)),
            part(&shadow, Op::Take(1)),
        ] {
            assert!(parts[0].is_bucket_take() && !other.is_bucket_take(), "{other:?}");
        }
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

    /// Found by the fuzzer: a client was told of one unit more than the limit has.
    #[test]
    fn a_level_between_refused_and_admitted_is_garbled() {
        let [bucket, ..] = limits();
        let reply = bytes(&[1_795_466_076_996_512.0, -5e-324]);
        let verdict = Reply::new(&reply).unwrap().verdict(&[part(&bucket, Op::Take(1))]);
        assert_eq!(verdict.err(), Some(Unanswered::Garbled));
    }

    #[test]
    fn a_receipt_comes_back_as_it_was() {
        for (limit, about) in limits().iter().zip([0.0, 40_000.0 * 256.0 + 16.0, 2_000_000.0, 1.0]) {
            let part = part(limit, Op::Take(1));
            let time = bytes(&[1_795_466_076_996_512.0]);
            let reply = Reply::new(&time).unwrap();
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
