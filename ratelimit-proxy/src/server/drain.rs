//! Stopping: no new connections, `Connection: close` on the answers under way, and an end to those that take
//! too long.

use tokio::time::Instant;

/// What the threads are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Go on.
    Serving,
    /// Take nothing new, finish what is under way until then.
    Draining {
        /// When what is left is closed.
        until: Instant,
    },
    /// Close everything.
    Closed,
}

/// How stopping went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Connections that ended by themselves.
    pub finished: usize,
    /// Connections that had to be cut.
    pub forced: usize,
}

impl Drained {
    /// Both, of two threads.
    pub(super) fn and(self, other: Self) -> Self {
        Self { finished: self.finished + other.finished, forced: self.forced + other.forced }
    }
}
