//! For the fuzzer: replies of the script's, whatever their bytes, to questions of every kind.

use std::collections::VecDeque;
use std::sync::LazyLock;

use ratelimit_core::algorithm::{Op, Receipt};
use ratelimit_core::{Algorithm, Key, Limit, Nanos, Rate};
use smallvec::SmallVec;

use super::{Part, What};
use crate::batch::{Batch, Batcher, Context, Judged, Request, Said};
use crate::keys::{Digest, Names};
use crate::lease::grant::Wish;
use crate::shape::Shape;

static LIMITS: LazyLock<[Limit; 5]> = LazyLock::new(|| {
    let rate = Rate::per_second(10);
    [
        Limit::new("bucket", rate).burst(20),
        Limit::new("sliding", rate).algorithm(Algorithm::SlidingWindow),
        Limit::new("fixed", rate).algorithm(Algorithm::FixedWindow),
        Limit::concurrency("permits", 10),
        Limit::new("shadow", rate).shadow(),
    ]
});

fn part(kind: u8) -> Part {
    let place = usize::from(kind) % LIMITS.len();
    let limit = LIMITS.get(place).unwrap_or(&LIMITS[0]);
    let what = match kind / 16 % 6 {
        0 => What::Do(Op::Take(1)),
        1 => What::Do(Op::Peek(3)),
        2 => What::Do(Op::Take(u32::MAX)),
        3 => What::Do(Op::Refund(1, Some(Receipt::new(u128::from(kind) << 64)))),
        4 => What::Do(Op::Debit(2)),
        _ => What::Do(Op::Reset),
    };
    Part { digest: Digest::of(limit, Key::GLOBAL), limit: limit.clone(), shape: Shape::of(limit), what }
}

fn batch(requests: &[Vec<u8>]) -> Option<Batch> {
    let wish = Wish { least: 1.0, rate: 0.001, horizon: 1000.0, share: 0.25, patience: 0.0 };
    let mut waiting: VecDeque<Request> = requests
        .iter()
        .take(20)
        .map(|kinds| {
            let mut parts: SmallVec<[Part; 2]> = kinds.iter().take(6).map(|&kind| part(kind)).collect();
            if let [only] = &mut parts[..] {
                if !only.is_permits() && kinds.first().is_some_and(|kind| *kind >= 200) {
                    only.what = What::Lease(wish);
                }
            }
            Request { parts: std::sync::Arc::new(parts), answer: None, again: false, alone: false }
        })
        .filter(|request| !request.parts.is_empty())
        .collect();
    let names = Names::new("rl", "10");
    let context =
        Context { names: &names, replica: [0; 8], sequence: 1, expiry: Nanos::from_secs(10), time: 0.0 };
    Batcher::default().next(&mut waiting, &context).map(|(batch, _)| batch)
}

/// Any bytes as the reply to those requests: an answer for each of them or none for any; what is admitted and what is
/// left follow from the parts, and the same bytes say the same.
///
/// # Panics
/// When they don't.
pub fn reply(requests: &[Vec<u8>], bytes: &[u8]) {
    let Some(batch) = batch(requests) else { return };
    let Ok(Judged::Answered { answers, held, time }) = batch.judge(bytes) else { return };
    assert!(time >= 0.0 && bytes.len() > 8 && bytes.len().is_multiple_of(8));
    assert_eq!(answers.len(), batch.requests.len());
    assert_eq!(held.len(), if batch.has_permits { batch.requests.len() } else { 0 });
    for (request, answer) in batch.requests.iter().zip(&answers) {
        let parts = &request.parts;
        match answer {
            Ok(Said::Verdict(verdict)) => {
                assert_eq!(verdict.outcomes.len(), parts.len());
                let vetoed = verdict.outcomes.iter().zip(parts.iter()).any(|(outcome, part)| {
                    !outcome.admitted && part.is_conditional() && !part.limit.is_shadow()
                });
                assert_eq!(verdict.admitted, !vetoed, "one refuses, and all is refused");
                for (outcome, part) in verdict.outcomes.iter().zip(parts.iter()) {
                    assert!(outcome.remaining() <= part.limit.capacity(), "{outcome:?}");
                    assert_eq!(outcome.is_never(), !outcome.admitted && part.units() > part.limit.capacity());
                }
            }
            Ok(Said::Lease(_)) => assert!(matches!(parts[..], [Part { what: What::Lease(_), .. }])),
            Err(_) => {}
        }
    }
    // What ends early is no answer: the numbers of foreign keys at the end are all that may be missing.
    let said = answers.iter().filter(|answer| answer.is_ok()).count();
    if let Some(Ok(Judged::Answered { answers, .. })) =
        bytes.len().checked_sub(8).map(|less| batch.judge(&bytes[..less]))
    {
        assert!(
            answers.iter().filter(|answer| answer.is_ok()).count() >= said,
            "fewer bytes accuse no more keys"
        );
    }
    assert!(!matches!(batch.judge(&bytes[..bytes.len() - 1]), Ok(Judged::Answered { .. })), "half a number");
}
