//! Idle connections to the upstream, one pool a thread: no lock, and no connection changes threads.

use std::cell::RefCell;
use std::time::Duration;

use tokio::time::Instant;

use super::Link;

/// Idle connections kept at most, each thread.
const CAPACITY: usize = 256;

/// How long one is kept. Upstreams close theirs after a time of their own; that is noticed before reuse.
const IDLE: Duration = Duration::from_secs(60);

/// How often connections that nobody asks for any more are looked through.
pub(crate) const SWEEP: Duration = Duration::from_secs(5);

/// The pool of a thread. The last one put back is the first one taken, so that surplus ones grow old.
#[derive(Default)]
pub(crate) struct Pool {
    // Boxed, because a link moves from here to a request's future and on to its response's body.
    #[expect(clippy::vec_box, reason = "links move often and are large")]
    idle: RefCell<Vec<Box<Link>>>,
}

impl Pool {
    /// A connection that was fine a moment ago.
    pub(crate) fn take(&self, now: Instant) -> Option<Box<Link>> {
        loop {
            let mut link = self.idle.borrow_mut().pop()?;
            if now.saturating_duration_since(link.idle_since) < IDLE && link.is_ready() {
                return Some(link);
            }
        }
    }

    /// Keeps a connection for the next request, unless it can't be used again.
    pub(crate) fn put_back(&self, mut link: Box<Link>, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        if link.can_be_kept() && idle.len() < CAPACITY {
            link.rest();
            link.reused = true;
            link.idle_since = now;
            idle.push(link);
        }
    }

    /// Drops all of them.
    pub(crate) fn clear(&self) {
        self.idle.take();
    }

    /// Drops the connections that were closed by the upstream or have not been used for long.
    pub(crate) fn sweep(&self, now: Instant) {
        let fresh =
            |link: &mut Box<Link>| now.saturating_duration_since(link.idle_since) < IDLE && link.is_ready();
        self.idle.borrow_mut().retain_mut(fresh);
    }
}
