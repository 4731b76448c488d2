//! What goes in and out of a [`Lease`](super::Lease): steps for requests, questions for the store, and answers.

use ratelimit_core::Nanos;

use super::grant::Wish;
use super::{PerMicro, Policy, Spent, Ticks};

/// What to do about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Admitted, from what is held.
    Spent(Spent),
    /// Denied; it can pass in that time at the earliest.
    Denied(Nanos),
    /// A question about the key is under way; [retry](super::Lease::again) when it has been answered.
    Wait,
    /// Send this; the answer goes to [`Lease::answered`](super::Lease::answered), which decides the request too.
    Ask(Ask),
    /// Charge it strictly; if that is refused, say so to [`Lease::refused`](super::Lease::refused).
    Strict,
}

/// A question for the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    /// Which one, for the answer.
    pub flight: u64,
    /// When it was sent, here.
    pub sent: Nanos,
    /// Units for the request that waits for it; 0 when none does.
    pub units: u32,
    /// Units that come here.
    pub rate: PerMicro,
    /// µs that the lease should last.
    pub horizon: u64,
    /// Whether to rather wait for a batch than get units one at a time.
    pub patient: bool,
}

impl Ask {
    /// In the script's numbers.
    #[must_use]
    pub fn wish(&self) -> Wish {
        #[expect(clippy::cast_precision_loss, reason = "60 s at most: 2^26 µs")]
        let horizon = self.horizon as f64;
        Wish {
            least: f64::from(self.units.max(1)),
            rate: self.rate.to_script(),
            horizon,
            share: Policy::SHARE,
            patience: if self.patient { Policy::PATIENCE } else { 0.0 },
        }
    }
}

/// What the store said to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reply {
    /// Its clock, in µs since the epoch.
    pub at: u64,
    /// What it gave.
    pub given: Given,
}

/// What the store gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Given {
    /// So many units.
    Units {
        /// How many.
        units: u32,
        /// The level of the key with them, rounded down if at all: µs to full recovery, or units counted.
        used: Ticks,
        /// Of a window: when what was given lapses.
        lapses: Option<Ticks>,
    },
    /// Nothing; in that time at the earliest there is enough.
    Refused(Nanos),
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The request that waited for it is admitted. Its charge ended there; see [`Spent::mark`].
    Admitted(Ticks),
    /// It is denied, for that long.
    Denied(Nanos),
    /// Nothing: it was answered already, given up, or asked under terms that changed since.
    Ignored,
}
