//! How long a connection waits for whom, and the time as its task last saw it.
//!
//! One timer serves a whole connection: each part that waits notes its deadline here, and the connection's
//! future sleeps until the earliest ([`crate::server`]). A request that is served in time touches no timer at
//! all, only these cells. The clock is read once each time the task is woken.
//!
//! Invariant: a part arms its deadline only while it waits, and looks at it whenever it is polled.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// What a connection can be waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The client's next request, or the rest of its head.
    Head,
    /// The next piece of a request's body.
    Body,
    /// The client reading what was written to it.
    Write,
    /// The upstream: a connection, a response's head, the next piece of its body.
    Upstream,
    /// The rest of a body that nobody wants.
    Leftover,
}

/// How many there are.
const WAITS: usize = 5;

impl Wait {
    const ALL: [Self; WAITS] = [Self::Head, Self::Body, Self::Write, Self::Upstream, Self::Leftover];
}

/// The deadlines of one connection.
///
/// They are nanoseconds since it began: each time a task is woken all of them are looked at, and a number is compared
/// in one step.
#[derive(Debug)]
pub(crate) struct Deadlines {
    began: Instant,
    now: Cell<Instant>,
    /// The same as `now`.
    elapsed: Cell<u64>,
    head: Cell<u64>,
    body: Cell<u64>,
    write: Cell<u64>,
    upstream: Cell<u64>,
    leftover: Cell<u64>,
}

/// What is not armed.
const NEVER: u64 = u64::MAX;

impl Deadlines {
    /// None armed.
    pub(crate) fn new() -> Self {
        let began = Instant::now();
        let never = || Cell::new(NEVER);
        Self {
            began,
            now: Cell::new(began),
            elapsed: Cell::new(0),
            head: never(),
            body: never(),
            write: never(),
            upstream: never(),
            leftover: never(),
        }
    }

    /// Reads the clock.
    pub(crate) fn tick(&self) {
        let now = Instant::now();
        self.now.set(now);
        self.elapsed.set(nanos(now.saturating_duration_since(self.began)));
    }

    /// The time at the last [`Deadlines::tick`].
    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }

    /// From now on, that long.
    pub(crate) fn arm(&self, wait: Wait, length: Duration) {
        self.cell(wait).set(self.elapsed.get().saturating_add(nanos(length)));
    }

    /// The same, unless it is armed already.
    pub(crate) fn arm_once(&self, wait: Wait, length: Duration) {
        if self.cell(wait).get() == NEVER {
            self.arm(wait, length);
        }
    }

    /// Nobody waits for that any more.
    pub(crate) fn disarm(&self, wait: Wait) {
        self.cell(wait).set(NEVER);
    }

    /// Whether somebody waits for that.
    pub(crate) fn is_armed(&self, wait: Wait) -> bool {
        self.cell(wait).get() != NEVER
    }

    /// Whether the wait has been too long.
    pub(crate) fn expired(&self, wait: Wait) -> bool {
        self.cell(wait).get() <= self.elapsed.get()
    }

    /// Some wait that has been too long.
    pub(crate) fn any_expired(&self) -> Option<Wait> {
        if self.first() > self.elapsed.get() {
            return None;
        }
        Wait::ALL.into_iter().find(|wait| self.expired(*wait))
    }

    /// The next deadline.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        let first = self.first();
        if first == NEVER { None } else { self.began.checked_add(Duration::from_nanos(first)) }
    }

    fn first(&self) -> u64 {
        Wait::ALL.into_iter().map(|wait| self.cell(wait).get()).fold(NEVER, u64::min)
    }

    fn cell(&self, wait: Wait) -> &Cell<u64> {
        match wait {
            Wait::Head => &self.head,
            Wait::Body => &self.body,
            Wait::Write => &self.write,
            Wait::Upstream => &self.upstream,
            Wait::Leftover => &self.leftover,
        }
    }
}

/// Up to 584 years, which is never.
fn nanos(length: Duration) -> u64 {
    length.as_secs().saturating_mul(1_000_000_000).saturating_add(length.subsec_nanos().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_earliest_counts_and_arming_once_does_not_extend() {
        let deadlines = Deadlines::new();
        let start = deadlines.now();
        assert_eq!(deadlines.earliest(), None);
        deadlines.arm(Wait::Head, Duration::from_secs(10));
        deadlines.arm(Wait::Write, Duration::from_secs(3));
        tokio::time::advance(Duration::from_secs(2)).await;
        deadlines.tick();
        deadlines.arm_once(Wait::Write, Duration::from_secs(3));
        assert_eq!(deadlines.earliest(), Some(start + Duration::from_secs(3)));
        assert_eq!(deadlines.any_expired(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        deadlines.tick();
        assert_eq!(deadlines.any_expired(), Some(Wait::Write));
        deadlines.disarm(Wait::Write);
        assert_eq!(deadlines.any_expired(), None);
        assert_eq!(deadlines.earliest(), Some(start + Duration::from_secs(10)));
    }
}
