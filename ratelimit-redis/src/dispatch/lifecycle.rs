//! The connection's life: lost, made anew, given up, found back; and what the store has to be told then.

use std::sync::Arc;
use std::time::Duration;

use ratelimit_core::time::Clock;
use ratelimit_core::{Nanos, StoreError, StoreErrorKind};
use smallvec::smallvec;
use tokio::time::sleep;

use super::{Dispatcher, Done};
use crate::batch::{REQUESTS, Request};
use crate::connection::Line;
use crate::error::{Remedy, Trouble};
use crate::fallback::OVERLAP;
use crate::keys::Digest;
use crate::link::{Link, connect};
use crate::survey::Survey;
use crate::wire::Part;

/// A server that says it is a replica leads to another connection so often at most.
const REBUILD: Nanos = Nanos::from_secs(3);

impl Dispatcher {
    /// What a failed call says about the store.
    pub(super) fn failed(&mut self, trouble: &Trouble, generation: u64) {
        // Somebody else's data at one key says nothing about the store.
        // Nor do keys that are on their way to another node.
        let is_no_fault = trouble.kind == StoreErrorKind::ForeignData || trouble.remedy == Remedy::Again;
        if generation != self.generation || is_no_fault {
            return;
        }
        let now = self.now();
        if trouble.remedy == Remedy::Reconnect
            && (trouble.code == "connection" || now.saturating_sub(self.rebuilt) >= REBUILD)
        {
            self.rebuilt = now;
            self.lose_line(trouble.code);
        }
        if self.breaker.failed(now) {
            self.lose_line(trouble.code);
            self.store_is_gone(trouble.code);
        }
    }

    /// Gives the connection up and makes another one at once; meanwhile requests wait, not longer than they may.
    fn lose_line(&mut self, why: &'static str) {
        let Link::Up(line) = &self.link else { return };
        line.discard();
        tracing::debug!(why, "the connection to the store is made anew");
        self.generation += 1;
        self.link = Link::Connecting(connect(&self.settings, &self.census));
        self.grace = Some(Box::pin(sleep(self.settings.deadline)));
    }

    pub(super) fn connected(&mut self, line: Result<Line, Trouble>) {
        match line {
            Ok(line) => {
                self.grace = None;
                self.generation += 1;
                let survey = Survey::of(line.clone(), self.settings.deadline);
                self.under_way.push(Box::pin(async move { Done::Survey(survey.await) }));
                self.link = Link::Up(line);
                let now = self.now();
                if self.breaker.close(now) {
                    self.settings.standing.answers();
                    // At the start there is nothing that others might not know yet.
                    let settled = self.shared.fallback.current().is_none();
                    self.shared.set_up(settled);
                    self.back = (!settled).then_some(now);
                    if settled {
                        self.settings.standing.decides(false);
                    }
                }
                self.next_census = Box::pin(sleep(Duration::ZERO));
                self.report_ready(Ok(()));
            }
            Err(trouble) => {
                self.grace = None;
                self.gone(trouble.code);
                let pause = self.breaker.pause(fastrand::u64(..));
                self.link = Link::Pausing(Box::pin(sleep(pause.into())));
                self.report_ready(Err(trouble.to_error()));
            }
        }
    }

    /// The server has said what it is. What matters is told once, and again when it has changed.
    pub(super) fn surveyed(&mut self, survey: Survey) {
        if let (Some(known), Some(run)) = (&self.survey.run_id, &survey.run_id)
            && known != run
        {
            self.shared.counters.restarted();
            tracing::warn!("the store was started again, or is another server than before");
        }
        let same = |a: &Survey, b: &Survey| (&a.evicts, a.writes_alone) == (&b.evicts, b.writes_alone);
        if !same(&self.survey, &survey) {
            survey.warn();
        }
        let run_id = survey.run_id.clone().or_else(|| self.survey.run_id.take());
        self.survey = Survey { run_id, ..survey };
    }

    /// The store has said what its data is called.
    pub(super) fn heard_of_data(&mut self, name: Option<&[u8]>) {
        let Some(name) = name else { return };
        if self.dataset.as_deref().is_some_and(|known| known != name) {
            self.shared.counters.data_lost();
            tracing::warn!("the store has lost its data: every key has a fresh burst");
        }
        self.dataset = Some(name.to_vec());
    }

    fn report_ready(&mut self, how: Result<(), StoreError>) {
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(how);
        }
    }

    pub(super) fn gone(&mut self, why: &'static str) {
        if self.breaker.open(self.now()) {
            self.store_is_gone(why);
        }
    }

    fn store_is_gone(&mut self, why: &'static str) {
        self.settings.standing.is_gone(why);
        self.back = None;
        self.shared.set_up(false);
        self.refuse_waiting();
    }

    /// Nobody waits for a store that is known to be gone.
    pub(super) fn refuse_waiting(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            self.waiting.push_back(request);
        }
        for request in self.waiting.drain(..) {
            self.ledger.sending(&request.parts, self.shared.clock.now());
            self.ledger.lost(&request.parts);
            if let Some(answer) = request.answer {
                let gone = StoreError::new(StoreErrorKind::Unavailable, "the store is gone");
                self.couriers.take(answer, Err(gone));
            }
        }
        self.couriers.go();
    }

    /// Ends local decisions once everybody had time to find the store back.
    pub(super) fn return_to_store(&mut self) {
        let now = self.now();
        if self.breaker.is_open() {
            return;
        }
        match self.back {
            Some(back) if now.saturating_sub(back) < OVERLAP => return,
            Some(_) => {
                self.back = None;
                self.settings.standing.decides(true);
            }
            // Single requests that the store did not answer were decided here.
            None if self.shared.fallback.current().is_none_or(|outage| !outage.is_idle(now)) => return,
            None => {}
        }
        if let Some(outage) = self.shared.fallback.end() {
            self.spent.extend(outage.spent(now).into_iter().map(|part| (part.digest, part)));
        }
        self.shared.set_up(true);
    }

    /// Lets the store know what was spent without it: before a key is decided again, and the rest when nothing
    /// else waits.
    pub(super) fn tell_spent(&mut self) {
        if self.spent.is_empty() {
            return;
        }
        let asked = self.waiting.iter().flat_map(|request| request.parts.iter());
        let mut first: Vec<Part> = asked.filter_map(|part| self.spent.remove(&part.digest)).collect();
        if self.waiting.is_empty() && self.batches == 0 {
            let some: Vec<Digest> = self.spent.keys().take(REQUESTS).copied().collect();
            first.extend(some.iter().filter_map(|digest| self.spent.remove(digest)));
        }
        for part in first {
            self.waiting.push_front(Request {
                parts: Arc::new(smallvec![part]),
                answer: None,
                again: false,
                alone: false,
            });
        }
    }
}
