//! What time it is at the store, as far as a replica can know.

use ratelimit_core::Nanos;

use super::Ticks;

/// A reading of the store's clock, and when here it was asked for.
///
/// The store read its clock after the question was sent; so its time now is at most what it said, and all the
/// time since *sending*, and a thousandth of that for clocks that run at different speeds. Slots lapse by this
/// estimate: a round trip and 0.1 % early, never late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Anchor {
    /// The end of the microsecond that the store said it was.
    said: Ticks,
    sent: Nanos,
    /// How long the answer took.
    round_trip: Nanos,
}

impl Anchor {
    /// The store said that it was `micros` since the epoch, to a question sent at `sent` and answered at `now`.
    #[must_use]
    pub fn new(micros: u64, sent: Nanos, now: Nanos) -> Self {
        let said = Ticks::from_micros(micros.saturating_add(1));
        Self { said, sent, round_trip: now.saturating_sub(sent) }
    }

    /// The latest it can be at the store when it is `now` here.
    #[must_use]
    pub fn at(&self, now: Nanos) -> Ticks {
        self.said.plus(Ticks::at_most(now.saturating_sub(self.sent)))
    }

    /// How long the answer took.
    #[must_use]
    pub const fn round_trip(&self) -> Nanos {
        self.round_trip
    }

    /// Whether a later reading shows that the store's clock was set back since this one.
    #[must_use]
    pub fn is_ahead_of(&self, later: &Self, now: Nanos) -> bool {
        let passed = now.saturating_sub(self.sent);
        // By so much this estimate may be ahead of the truth: a round trip, and the clocks' difference, twice,
        // since theirs may have been the slower one.
        let error = Ticks::at_most(self.round_trip).plus(Ticks::from_micros(passed.get() / 250_000 + 2));
        self.at(now) > later.at(now).plus(error)
    }
}
