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

impl Wait {
    const ALL: [Self; 5] = [Self::Head, Self::Body, Self::Write, Self::Upstream, Self::Leftover];
}

/// The deadlines of one connection.
#[derive(Debug)]
pub(crate) struct Deadlines {
    now: Cell<Instant>,
    head: Cell<Option<Instant>>,
    body: Cell<Option<Instant>>,
    write: Cell<Option<Instant>>,
    upstream: Cell<Option<Instant>>,
    leftover: Cell<Option<Instant>>,
}

impl Deadlines {
    /// None armed.
    pub(crate) fn new() -> Self {
        Self {
            now: Cell::new(Instant::now()),
            head: Cell::default(),
            body: Cell::default(),
            write: Cell::default(),
            upstream: Cell::default(),
            leftover: Cell::default(),
        }
    }

    /// Reads the clock.
    pub(crate) fn tick(&self) {
        self.now.set(Instant::now());
    }

    /// The time at the last [`Deadlines::tick`].
    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }

    /// From now on, that long.
    pub(crate) fn arm(&self, wait: Wait, length: Duration) {
        self.cell(wait).set(self.now().checked_add(length));
    }

    /// The same, unless it is armed already.
    pub(crate) fn arm_once(&self, wait: Wait, length: Duration) {
        if self.cell(wait).get().is_none() {
            self.arm(wait, length);
        }
    }

    /// Nobody waits for that any more.
    pub(crate) fn disarm(&self, wait: Wait) {
        self.cell(wait).set(None);
    }

    /// Whether the wait has been too long.
    pub(crate) fn expired(&self, wait: Wait) -> bool {
        self.cell(wait).get().is_some_and(|deadline| deadline <= self.now())
    }

    /// Some wait that has been too long.
    pub(crate) fn any_expired(&self) -> Option<Wait> {
        Wait::ALL.into_iter().find(|wait| self.expired(*wait))
    }

    /// The next deadline.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        Wait::ALL.into_iter().filter_map(|wait| self.cell(wait).get()).min()
    }

    fn cell(&self, wait: Wait) -> &Cell<Option<Instant>> {
        match wait {
            Wait::Head => &self.head,
            Wait::Body => &self.body,
            Wait::Write => &self.write,
            Wait::Upstream => &self.upstream,
            Wait::Leftover => &self.leftover,
        }
    }
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
