//! What a table keeps: one kind of state, so that "recovered" can be told without knowing the limit.

use super::slot::Word;
use crate::algorithm::{FixedWindow, Gcra, Moment, Program};

/// Which algorithm's states a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Theoretical arrival time, in ticks.
    Bucket,
    /// End and count of a window of the calendar.
    FixedWindow,
    /// Permits held.
    Permits,
    /// Time at which the ring in the record has run empty, in nanoseconds.
    Ring,
}

impl Kind {
    pub(super) const fn of(program: &Program) -> Self {
        match program {
            Program::TokenBucket(_) => Self::Bucket,
            Program::FixedWindow(_) => Self::FixedWindow,
            Program::Concurrency(_) => Self::Permits,
            Program::SlidingWindow(_) => Self::Ring,
        }
    }

    pub(super) const fn has_record(self) -> bool {
        matches!(self, Self::Ring)
    }

    /// Whether it needs the wall clock.
    pub(super) const fn follows_calendar(self) -> bool {
        matches!(self, Self::FixedWindow)
    }

    /// Whether the entry equals an absent one.
    pub(super) fn is_recovered(self, word: Word, at: &Moment) -> bool {
        let state = word.state();
        match self {
            Self::Bucket => Gcra::is_recovered(state, at.now),
            Self::FixedWindow => FixedWindow::is_recovered(state, at.utc),
            Self::Permits => state == 0,
            Self::Ring => state <= u128::from(at.now.get()),
        }
    }

    /// Whether the slot can be given to another key.
    pub(super) fn is_reusable(self, word: Word, at: &Moment) -> bool {
        !word.is_locked() && (word == Word::EMPTY || self.is_recovered(word, at))
    }
}
