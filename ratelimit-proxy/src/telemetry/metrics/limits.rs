//! Counters of limits.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use super::words::DecisionOutcome;

/// Counters of limits, by number: they never move, and there may always be more of them.
#[derive(Debug, Default)]
pub(super) struct LimitTable([OnceLock<Box<[LimitCounters]>>; 24]);

impl LimitTable {
    /// Counters in the first piece; each other one has as many as all before it.
    const FIRST: usize = 16;

    /// Those of a number; made when they are asked for first.
    #[inline]
    pub(super) fn at(&self, number: usize) -> Option<&LimitCounters> {
        let (piece, offset) = Self::place(number);
        let size = Self::FIRST << piece.saturating_sub(1);
        let piece = self.0.get(piece)?;
        piece.get_or_init(|| (0..size).map(|_| LimitCounters::default()).collect()).get(offset)
    }

    /// Those of a number, if anything was counted near it.
    pub(super) fn seen(&self, number: usize) -> Option<&LimitCounters> {
        let (piece, offset) = Self::place(number);
        self.0.get(piece)?.get()?.get(offset)
    }

    fn place(number: usize) -> (usize, usize) {
        match (number / Self::FIRST).checked_ilog2() {
            None => (0, number),
            Some(log) => {
                (usize::try_from(log).unwrap_or(usize::MAX).saturating_add(1), number - (Self::FIRST << log))
            }
        }
    }
}

#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct LimitCounters {
    pub(super) outcomes: [AtomicU64; DecisionOutcome::ALL.len()],
    pub(super) near: AtomicU64,
}

/// What one limit said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitTotals {
    /// Its name.
    pub name: Box<str>,
    /// In the order of [`DecisionOutcome::ALL`].
    pub outcomes: [u64; DecisionOutcome::ALL.len()],
    /// Decisions that left less than a fifth.
    pub near: u64,
}

impl LimitTotals {
    /// What it said, by the words of metrics.
    #[must_use]
    pub fn by_word(&self) -> BTreeMap<&'static str, u64> {
        DecisionOutcome::ALL.iter().map(|(outcome, word)| (*word, self.said(*outcome))).collect()
    }

    /// How often it said that.
    #[must_use]
    pub fn said(&self, outcome: DecisionOutcome) -> u64 {
        self.outcomes.get(outcome as usize).copied().unwrap_or_default()
    }
}
