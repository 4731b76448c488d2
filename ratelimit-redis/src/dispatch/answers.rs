//! What becomes of a batch that is over: everybody who waits is told, or sent again.

use std::sync::Arc;

use ratelimit_core::algorithm::Op;
use ratelimit_core::store::{Origin, Outcomes, Verdict};
use ratelimit_core::{Nanos, StoreError, StoreErrorKind};
use smallvec::SmallVec;

use super::Dispatcher;
use crate::batch::{Batch, Judged, Request, Said};
use crate::calls::Call;
use crate::error::Trouble;
use crate::wire::{Part, Parts, Unanswered, What};

impl Dispatcher {
    pub(super) fn tell(&self, batch: &Batch, sent: Nanos, judged: &Result<Judged, Trouble>) {
        let Some(observer) = &self.settings.observer else { return };
        let foreign = match judged {
            Ok(Judged::Answered { answers, .. }) => answers.iter().filter(|answer| answer.is_err()).count(),
            _ => 0,
        };
        let failed = judged.as_ref().err().map(|trouble| trouble.kind);
        let took = self.now().saturating_sub(sent).into();
        observer.tell(&Call { took, requests: batch.requests.len(), foreign, failed });
    }

    /// Tells those who wait for it that nothing is waiting any more, or that nothing will be done.
    pub(super) fn flushed(&mut self) {
        if self.flushes.is_empty() {
            return;
        }
        let done = self.waiting.is_empty() && self.batches + self.apart == 0 && self.spent.is_empty();
        if !done && !self.breaker.is_open() {
            return;
        }
        for flush in self.flushes.drain(..) {
            let verdict = Verdict { admitted: true, origin: Origin::Store, outcomes: Outcomes::new() };
            let gone = || StoreError::new(StoreErrorKind::Unavailable, "the store is gone");
            let _ = flush.answer(if done { Ok(Said::Verdict(Box::new(verdict))) } else { Err(gone()) });
        }
    }

    pub(super) fn answer(
        &mut self,
        batch: Batch,
        answers: Vec<Result<Said, Unanswered>>,
        held: &[SmallVec<[u32; 2]>],
    ) {
        let now = self.now();
        let mut held = held.iter();
        for (request, answer) in batch.requests.into_iter().zip(answers) {
            let held = held.next().map_or(&[][..], |held| held);
            let permits = batch.has_permits && request.parts.iter().any(Part::is_permits);
            let answer = match answer {
                Ok(said) => {
                    if let (Said::Verdict(verdict), true) = (&said, permits) {
                        self.ledger.answered(&request.parts, verdict, held, now);
                    }
                    Ok(said)
                }
                Err(unanswered) => {
                    if permits {
                        self.ledger.lost(&request.parts);
                    }
                    self.shared.counters.foreign();
                    Err(foreign(unanswered))
                }
            };
            let Some(waiting) = request.answer else { continue };
            if !permits {
                self.couriers.take(waiting, answer);
            // Nobody waits any more: permits that were granted go back. Other charges stay, as after a time-out.
            } else if let Err(Ok(Said::Verdict(verdict))) = waiting.answer(answer)
                && let Some(release) = release_of(&request.parts, &verdict)
            {
                self.waiting.push_back(release);
            }
        }
        self.couriers.go();
    }

    /// The calendars were computed for another time than the store has.
    pub(super) fn ask_again(&mut self, batch: Batch, time: f64) {
        self.store_time = Some((time, self.now()));
        for mut request in batch.requests.into_iter().rev() {
            if batch.has_permits {
                self.ledger.lost(&request.parts);
            }
            if std::mem::replace(&mut request.again, true) {
                if let Some(answer) = request.answer {
                    let _ = answer.answer(Err(Trouble::calendar().to_error()));
                }
            } else {
                self.waiting.push_front(request);
            }
        }
    }

    /// Some of a batch's keys have moved to another node and some have not. Each request's keys may well be
    /// together; one that was alone already has waited for them.
    pub(super) fn send_apart(&mut self, batch: Batch, trouble: &Trouble) {
        if batch.is_apart() {
            return self.fail(batch, trouble);
        }
        for request in batch.requests.into_iter().rev() {
            if batch.has_permits {
                self.ledger.lost(&request.parts);
            }
            self.waiting.push_front(Request { alone: true, ..request });
        }
    }

    pub(super) fn fail(&mut self, batch: Batch, trouble: &Trouble) {
        self.shared.counters.failed(trouble.kind, batch.requests.len());
        for request in batch.requests {
            if batch.has_permits {
                self.ledger.lost(&request.parts);
            }
            if let Some(answer) = request.answer {
                self.couriers.take(answer, Err(trouble.to_error()));
            }
        }
        self.couriers.go();
    }
}

fn foreign(unanswered: Unanswered) -> StoreError {
    match unanswered {
        Unanswered::Foreign => {
            StoreError::new(StoreErrorKind::ForeignData, "somebody else uses the key, or the database")
        }
        Unanswered::Garbled => Trouble::garbled().to_error(),
    }
}

/// What gives the permits of a request back that nobody waits for any more.
pub(crate) fn release_of(parts: &[Part], verdict: &Verdict) -> Option<Request> {
    if !verdict.admitted {
        return None;
    }
    let granted = parts.iter().zip(&verdict.outcomes).filter_map(|(part, outcome)| match part.what {
        What::Do(Op::Take(permits)) if part.is_permits() && outcome.admitted => {
            Some(Part { what: What::Do(Op::Refund(permits, None)), ..part.clone() })
        }
        _ => None,
    });
    let parts: Parts = granted.collect();
    (!parts.is_empty()).then(|| Request { parts: Arc::new(parts), answer: None, again: false, alone: false })
}
