//! The store contract for the keys of one partition, over the task that owns the connection.

use std::sync::Arc;
use std::time::Duration;

use ratelimit_core::algorithm::{Op, Outcome};
use ratelimit_core::store::{Charge, Origin, Outcomes, Verdict};
use ratelimit_core::time::Clock;
use ratelimit_core::{Nanos, StoreError, StoreErrorKind};
use smallvec::SmallVec;
use tokio::sync::{mpsc, oneshot};

use crate::batch::{Answer, PARTS, Request, Said};
use crate::config::OnFailure;
use crate::couriers::Asker;
use crate::error::Trouble;
use crate::fallback::{UNCHARGED, is_local};
use crate::keys::Digest;
use crate::shape::{Kind, Shape};
use crate::shared::{Shared, Troubles};
use crate::wire::{Part, Parts, What};

/// A handle on one partition. All of a store's are used the same way, and none waits for another.
pub(crate) struct Partition {
    requests: mpsc::Sender<Request>,
    shared: Arc<Shared>,
    deadline: Duration,
    on_failure: OnFailure,
}

impl Partition {
    pub(crate) fn new(
        requests: mpsc::Sender<Request>,
        shared: Arc<Shared>,
        deadline: Duration,
        on_failure: OnFailure,
    ) -> Self {
        Self { requests, shared, deadline, on_failure }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Whether the store answers, as far as is known.
    pub(crate) fn is_up(&self) -> bool {
        self.shared.is_up()
    }

    pub(crate) fn replicas(&self) -> u32 {
        self.shared.replicas.count()
    }

    pub(crate) fn troubles(&self) -> Troubles {
        self.shared.counters.snapshot()
    }

    /// Waits until everything that was posted before is made.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        let (asker, receiver) = Asker::here();
        // A request for nothing, which the task answers when there is nothing else.
        let request =
            Request { parts: Arc::new(Parts::new()), answer: Some(asker), again: false, alone: false };
        self.requests.send(request).await.map_err(|_| ended())?;
        receiver.await.unwrap_or_else(|_| Err(ended())).map(drop)
    }

    /// As [`Store::try_decide`].
    pub(crate) fn try_decide(&self, charges: &[Charge<'_>]) -> Option<Verdict> {
        if !self.shared.is_up() || charges.iter().any(|charge| is_local(charge.op)) {
            return self.without_store(charges, gone()).ok();
        }
        self.known(charges)
    }

    /// As [`Store::decide`].
    pub(crate) async fn decide(&self, charges: &[Charge<'_>]) -> Result<Verdict, StoreError> {
        if charges.is_empty() {
            return Ok(Verdict { admitted: true, origin: Origin::Store, outcomes: Outcomes::new() });
        }
        if charges.len() > PARTS {
            return Err(StoreError::new(StoreErrorKind::Misconfigured, "more than 64 charges in one call"));
        }
        if !self.shared.is_up() {
            return self.without_store(charges, gone());
        }
        let asked = Asked::of(charges);
        let changes = |part: &Part| self.shared.denied.changes(&part.digest);
        let changes: SmallVec<[u32; 4]> = asked.parts.iter().map(changes).collect();
        let at = self.shared.clock.now();
        self.forget(&asked.parts);
        match self.ask(&asked).await {
            Ok(verdict) => {
                self.remember(&asked, &verdict, at, &changes);
                self.forget(&asked.parts);
                Ok(asked.spread(verdict))
            }
            Err(error) => self.without_store(charges, error),
        }
    }

    /// As [`Store::post`].
    pub(crate) fn post(&self, charge: Charge<'_>) {
        let now = self.shared.clock.now();
        if is_local(charge.op) {
            // The outage it belongs to may be over; then it stays charged.
            if let Some(outage) = self.shared.fallback.current() {
                outage.post(charge, now);
            }
            return;
        }
        let asked = Asked::of(&[charge]);
        self.forget(&asked.parts);
        if !self.shared.is_up() && !asked.parts.iter().any(Part::is_permits) {
            match self.on_failure {
                OnFailure::Local => self.shared.outage(now).post(charge, now),
                _ => self.shared.counters.lost_post(),
            }
            return;
        }
        self.queue_unwaited(Request { parts: asked.parts, answer: None, again: false, alone: false });
    }

    /// Gives a charge back that another partition's refusal made void, if it was made here. By its receipt, so
    /// never more than was charged, and nothing of a window that is over. `under_leases`: only while nobody was
    /// charged after it, since what lies behind it on a time line may be somebody's lease.
    pub(crate) fn undo(&self, charge: &Charge<'_>, outcome: &Outcome, under_leases: bool) {
        let Op::Take(units) = charge.op else { return };
        let op = Op::Refund(units, Some(outcome.receipt));
        if !under_leases || is_local(op) {
            return self.post(Charge { op, ..*charge });
        }
        let mut asked = Asked::of(&[Charge { op, ..*charge }]);
        self.forget(&asked.parts);
        for part in Arc::make_mut(&mut asked.parts) {
            if matches!(part.shape.kind, Kind::Bucket { .. }) {
                part.what = What::Undo(units, outcome.receipt);
            }
        }
        self.queue_unwaited(Request { parts: asked.parts, answer: None, again: false, alone: false });
    }

    /// An answer from what is known of earlier denials.
    pub(crate) fn known(&self, charges: &[Charge<'_>]) -> Option<Verdict> {
        if self.shared.denied.is_empty() {
            return None;
        }
        let (asked, now) = (Asked::of(charges), self.shared.clock.now());
        let denies = |part: &Part| match part.what {
            What::Do(Op::Take(units)) if !part.is_permits() => {
                self.shared.denied.look(&part.digest, &part.shape, units, now)
            }
            _ => None,
        };
        let known: SmallVec<[Option<Outcome>; 4]> = asked.parts.iter().map(denies).collect();
        let veto = |(part, known): (&Part, &Option<Outcome>)| known.is_some() && !part.limit.is_shadow();
        if !asked.parts.iter().zip(&known).any(veto) {
            return None;
        }
        // Of the other limits nothing is known; none of them is the one that binds.
        let outcome = |(part, known): (&Part, Option<Outcome>)| {
            known.unwrap_or(Outcome::admitted(part.limit.capacity()))
        };
        let outcomes = asked.parts.iter().zip(known).map(outcome).collect();
        Some(asked.spread(Verdict { admitted: false, origin: Origin::Known, outcomes }))
    }

    /// Remembers what was denied, so that it need not be asked again too soon.
    fn remember(&self, asked: &Asked, verdict: &Verdict, at: Nanos, changes: &[u32]) {
        for ((part, outcome), &changes) in asked.parts.iter().zip(&verdict.outcomes).zip(changes) {
            if let What::Do(Op::Take(units)) = part.what
                && !outcome.admitted
                && !part.is_permits()
            {
                self.shared.denied.keep(part.digest, part.shape, units, outcome, at, changes);
            }
        }
    }

    /// What is given back ends what is known of the key.
    fn forget(&self, parts: &[Part]) {
        for part in parts {
            if matches!(part.what, What::Do(Op::Refund(..) | Op::Reset | Op::Rescale(_))) {
                self.shared.denied.forget(&part.digest);
            }
        }
    }

    /// An answer when the store has none.
    pub(crate) fn without_store(
        &self,
        charges: &[Charge<'_>],
        error: StoreError,
    ) -> Result<Verdict, StoreError> {
        let all = |origin, outcome: fn(&Charge<'_>) -> Outcome| {
            let outcomes: Outcomes = charges.iter().map(outcome).collect();
            Ok(Verdict { admitted: origin == Origin::FailedOpen, origin, outcomes })
        };
        match self.on_failure {
            OnFailure::Allow => all(Origin::FailedOpen, |charge| {
                Outcome::admitted(charge.limit.capacity()).with_receipt(UNCHARGED)
            }),
            OnFailure::Deny => all(Origin::FailedClosed, |_| Outcome::refused(0, Some(Nanos::from_secs(1)))),
            OnFailure::Local => {
                let now = self.shared.clock.now();
                Ok(self.shared.outage(now).decide(charges, now))
            }
            OnFailure::Error => Err(error),
        }
    }

    /// Queues what nobody waits for. Where there is no room a charge is lost and counted; a permit's release is not.
    fn queue_unwaited(&self, request: Request) {
        match self.requests.try_send(request) {
            Err(mpsc::error::TrySendError::Full(request)) if request.parts.iter().any(Part::is_permits) => {
                self.shared.release_later(request);
            }
            Err(_) => self.shared.counters.lost_post(),
            Ok(()) => {}
        }
    }

    async fn ask(&self, asked: &Asked) -> Result<Verdict, StoreError> {
        let said = self.say(&asked.parts).await?;
        said.verdict().ok_or_else(|| Trouble::garbled().to_error())
    }

    /// Sends a request and waits for what the store says, not longer than the deadline.
    pub(crate) async fn say(&self, parts: &Arc<Parts>) -> Answer {
        let (asker, receiver) = Asker::here();
        let has_timers = asker.has_timers();
        let request = Request { parts: Arc::clone(parts), answer: Some(asker), again: false, alone: false };
        if let Err(refused) = self.requests.try_send(request) {
            return Err(match refused {
                mpsc::error::TrySendError::Full(_) => {
                    self.shared.counters.failed(StoreErrorKind::Overloaded, 1);
                    StoreError::new(StoreErrorKind::Overloaded, "the queue is full")
                }
                mpsc::error::TrySendError::Closed(_) => ended(),
            });
        }
        let mut waiting = Waiting { partition: self, parts, receiver };
        // The call has its own deadline.
        if !has_timers {
            return (&mut waiting.receiver).await.unwrap_or_else(|_| Err(ended()));
        }
        match tokio::time::timeout(self.deadline, &mut waiting.receiver).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(ended())),
            Err(_) => {
                self.shared.counters.failed(StoreErrorKind::Timeout, 1);
                Err(StoreError::new(StoreErrorKind::Timeout, "waiting for a decision"))
            }
        }
    }
}

fn ended() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "the store's task has ended")
}

pub(crate) fn gone() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "the store is gone")
}

/// A call as parts that the store is asked about.
#[derive(Debug)]
struct Asked {
    /// Shared with the request that is sent.
    parts: Arc<Parts>,
    /// For each charge the part that answers it.
    of_charge: SmallVec<[u8; 4]>,
}

impl Asked {
    /// Conditional charges that meet in one key are asked about in one, and charged in sum.
    fn of(charges: &[Charge<'_>]) -> Self {
        let (mut parts, mut of_charge) = (Parts::new(), SmallVec::new());
        for charge in charges {
            let digest = Digest::of(charge.limit, charge.key);
            let known = parts.iter().position(|part| part.digest == digest);
            let shape = known.and_then(|at| parts.get(at)).map(|part| part.shape);
            let part = Part {
                digest,
                limit: charge.limit.clone(),
                // A key has one quota in a call.
                shape: shape.unwrap_or_else(|| Shape::of(charge.limit)),
                what: What::Do(charge.op),
            };
            let shared = part.is_conditional().then(|| join(&mut parts, &part)).flatten();
            let place = shared.unwrap_or(parts.len());
            if shared.is_none() {
                parts.push(part);
            }
            of_charge.push(u8::try_from(place).unwrap_or(u8::MAX));
        }
        Self { parts: Arc::new(parts), of_charge }
    }

    /// The verdict with an outcome for each charge.
    fn spread(&self, verdict: Verdict) -> Verdict {
        if self.of_charge.len() == self.parts.len() {
            return verdict;
        }
        let outcome = |place: &u8| verdict.outcomes.get(usize::from(*place)).copied();
        let outcomes = self.of_charge.iter().map(|place| outcome(place).unwrap_or(Outcome::refused(0, None)));
        Verdict { outcomes: outcomes.collect(), ..verdict }
    }
}

/// Adds a conditional part to one of the same key, if there is one, and says which.
fn join(parts: &mut [Part], part: &Part) -> Option<usize> {
    let same = |other: &Part| other.digest == part.digest && other.is_conditional();
    let at = parts.iter().position(same)?;
    let other = parts.get_mut(at)?;
    other.what = match (other.what, part.what) {
        (What::Do(Op::Take(one)), What::Do(Op::Take(two))) => What::Do(Op::Take(one.saturating_add(two))),
        (take @ What::Do(Op::Take(_)), _) | (_, take @ What::Do(Op::Take(_))) => take,
        (one, _) => one,
    };
    if other.limit.is_shadow() {
        other.limit = part.limit.clone();
    }
    Some(at)
}

/// A call that is waited for. Given up after it was answered, it gives back the permits it was granted.
struct Waiting<'a> {
    partition: &'a Partition,
    parts: &'a Parts,
    receiver: oneshot::Receiver<Answer>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.parts.iter().any(Part::is_permits) {
            return;
        }
        self.receiver.close();
        if let Ok(Ok(Said::Verdict(verdict))) = self.receiver.try_recv()
            && let Some(request) = crate::dispatch::release_of(self.parts, &verdict)
        {
            self.partition.queue_unwaited(request);
        }
    }
}
