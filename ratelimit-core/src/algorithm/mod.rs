//! The four algorithms, as pure steps in integers: no clock, no store, no atomics, no floating point.
//!
//! Each takes a state, the time and an [`Op`], and gives back the state to store, if it changed, and an
//! [`Outcome`]. A state that has fully recovered equals an absent one.
//!
//! # Cuts
//! A state can lie further ahead of now than its limit could ever have brought it, because the clock stepped
//! back or the quota of the key shrank. It is then cut to the most the limit could have, so that nobody is
//! locked out for longer than the quota takes to refill. A *refused* step returns the cut state too, and it
//! has to be stored although nothing is charged: otherwise every later refusal would cut anew, relative to
//! its own now, and the key would stay locked out until the clock is back where it was.
//!
//! A thread that is held up between reading the clock and acting on it also finds states that lie ahead. Up
//! to [`HELD_UP`] they are left as they are, since a cut would give back what others were just charged. A
//! store that reads the clock after the state it acts on excludes even that.
//!
//! # Bounds
//!
//! | algorithm | never admits more than | in | source |
//! |---|---|---|---|
//! | [`Gcra`] (token bucket) | burst + rate · W | every interval of length W | virtual scheduling, ITU-T I.371 / ATM Forum TM 4.0 |
//! | [`SlidingWindow`] | the limit | every interval as long as the window | ring of sub-windows counted in full |
//! | [`FixedWindow`] | the limit | every window of the calendar (twice that across a boundary) | plain counter |
//! | [`Concurrency`] | the limit | every instant | counting semaphore (Dijkstra) |

mod concurrency;
mod fixed_window;
mod gcra;
mod sliding_window;

pub use concurrency::Concurrency;
pub use fixed_window::FixedWindow;
pub use gcra::Gcra;
pub use sliding_window::{CELLS, Ring, SlidingWindow};

use crate::time::Nanos;

/// How far ahead of now a state may lie without being [cut](self#cuts): one second.
pub const HELD_UP: Nanos = Nanos::from_secs(1);

/// What to do to one key of one limit.
///
/// `Take` and `Peek` can be refused; the others always happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// Charge that many units if they are there. For a concurrency limit: acquire that many permits.
    /// `Take(0)` charges nothing and is refused only to a key in debt.
    Take(u32),
    /// Ask whether `Take` of as many would be admitted, without charging.
    Peek(u32),
    /// Charge that many units whatever is left: what a request turned out to cost once it was over. The
    /// balance goes below zero at most by the limit's debt; what lies beyond is cut.
    Debit(u32),
    /// Give back up to that many units of a charge, which must not be more than it had, nor twice. With the
    /// receipt of the charge, only the part that time has not given back already; without it as much as there
    /// is. For a concurrency limit: release permits.
    Refund(u32, Option<Receipt>),
    /// Forget everything: a fresh start.
    Reset,
    /// The key's quota has changed, from one that fills in that time to the one of this charge: keep the share
    /// that is used. For a token bucket; the counts of other algorithms stay as they are. Without it a bucket
    /// keeps its time to full recovery, cut to what the new quota can have.
    Rescale(Nanos),
}

impl Op {
    /// Whether the operation can be refused, so that it takes part in "all or nothing".
    #[must_use]
    pub const fn is_conditional(self) -> bool {
        matches!(self, Self::Take(_) | Self::Peek(_))
    }
}

/// Where on its key's time line a charge was made. Stores give it out and take it back; nobody else needs to
/// understand it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt(u128);

impl Receipt {
    /// A receipt with a mark of the store's own.
    #[must_use]
    pub const fn new(mark: u128) -> Self {
        Self(mark)
    }

    /// The mark it was made with.
    #[must_use]
    pub const fn mark(self) -> u128 {
        self.0
    }
}

/// What one limit said to one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether this limit admits the operation.
    pub admitted: bool,
    /// How much is left, in parts of which `unit` make one; divided only when somebody asks.
    room: u128,
    unit: u128,
    /// Time until everything is available again, if nothing else is charged.
    pub reset_after: Nanos,
    /// When refused: the shortest wait after which the same operation would be admitted, if nothing else is
    /// charged meanwhile. `None` when admitted, and when no wait is long enough: the operation asks for more
    /// than the limit can ever hold.
    pub retry_after: Option<Nanos>,
    /// Proof of the charge, for [`Op::Refund`].
    pub receipt: Receipt,
}

/// The fields of an [`Outcome`] on the way out of a function that is seldom called. As they are of another type,
/// the compiler does not make one place in memory of this outcome and of one that is usually in registers.
pub(crate) type Fields = (bool, u128, u128, Nanos, Option<Nanos>, Receipt);

impl Outcome {
    /// An outcome with `remaining` whole units left, admitted, fully recovered.
    #[must_use]
    pub const fn admitted(remaining: u32) -> Self {
        Self {
            admitted: true,
            room: remaining as u128,
            unit: 1,
            reset_after: Nanos::ZERO,
            retry_after: None,
            receipt: Receipt(0),
        }
    }

    /// An outcome with `remaining` whole units left, refused for `retry_after` (`None`: for good).
    #[must_use]
    pub const fn refused(remaining: u32, retry_after: Option<Nanos>) -> Self {
        let mut outcome = Self::admitted(remaining);
        outcome.admitted = false;
        outcome.retry_after = retry_after;
        outcome
    }

    /// The same with another time to full recovery.
    #[must_use]
    pub const fn with_reset_after(mut self, reset_after: Nanos) -> Self {
        self.reset_after = reset_after;
        self
    }

    /// The same with a receipt.
    #[must_use]
    pub const fn with_receipt(mut self, receipt: Receipt) -> Self {
        self.receipt = receipt;
        self
    }

    pub(crate) const fn into_fields(self) -> Fields {
        let Self { admitted, room, unit, reset_after, retry_after, receipt } = self;
        (admitted, room, unit, reset_after, retry_after, receipt)
    }

    #[inline(always)]
    pub(crate) const fn from_fields(fields: Fields) -> Self {
        let (admitted, room, unit, reset_after, retry_after, receipt) = fields;
        Self { admitted, room, unit, reset_after, retry_after, receipt }
    }

    /// Whole units that could be taken now.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        u32::try_from(self.room.checked_div(self.unit).unwrap_or(self.room)).unwrap_or(u32::MAX)
    }

    /// Whether the operation asked for more than the limit can ever hold.
    #[must_use]
    pub const fn is_never(&self) -> bool {
        !self.admitted && self.retry_after.is_none()
    }
}

/// Both hands of a clock, read once for all limits of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Time since the store's clock's origin.
    pub now: Nanos,
    /// Time since the Unix epoch.
    pub utc: Nanos,
}

/// What a limit runs: its algorithm with all numbers worked out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Program {
    /// Token bucket.
    TokenBucket(Gcra),
    /// Sliding window.
    SlidingWindow(SlidingWindow),
    /// Fixed window.
    FixedWindow(FixedWindow),
    /// Concurrency.
    Concurrency(Concurrency),
}

impl Program {
    /// What a fully recovered key has: units, or permits.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        match self {
            Self::TokenBucket(bucket) => bucket.burst(),
            Self::SlidingWindow(window) => window.limit(),
            Self::FixedWindow(window) => window.limit(),
            Self::Concurrency(permits) => permits.limit(),
        }
    }
}
