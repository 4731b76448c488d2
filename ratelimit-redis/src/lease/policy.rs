//! [`Policy`]: how large leases are asked for. Nothing in here can admit too much.

use ratelimit_core::Nanos;

use super::{Kind, PerMicro, Terms, Ticks};

/// How large leases are asked for.
///
/// The numbers were chosen by simulation (`tests/lease_sim.rs` has the scenarios).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a lease lasts at most, in 1024ths of what the bucket takes to fill, or of the window. More saves
    /// calls, less leaves more for the other replicas.
    horizon: u32,
    /// Only for tests that show that they can fail: slots are spent whatever their time.
    pub(super) spends_after_its_time: bool,
}

impl Default for Policy {
    /// An eighth.
    fn default() -> Self {
        Self { horizon: 128, spends_after_its_time: false }
    }
}

impl Policy {
    /// Requests that a lease should serve.
    const SERVED: u64 = 64;
    /// Units in a horizon from which on a key is worth a lease.
    pub(super) const HOT: u64 = 2;
    /// Most of what is there that one replica takes: R of them leave (3/4)ᴿ.
    pub(super) const SHARE: f64 = 0.25;
    /// Below this part of what it wants, a replica that found too little waits.
    pub(super) const PATIENCE: f64 = 0.25;
    /// The longest lease.
    const LONGEST: u64 = 60_000_000;
    /// For so long a denial is believed at most.
    pub(super) const LONGEST_DENIAL: Nanos = Nanos::from_secs(1);
    /// For so long nobody asks again at least, when the last answer was too little as well.
    pub(super) const SHORTEST_DENIAL: Nanos = Nanos::new(1_000_000);

    /// With leases that last at most that many 1024ths of what the bucket takes to fill.
    #[must_use]
    pub fn horizon_of(parts: u32) -> Self {
        Self { horizon: parts.clamp(1, 512), ..Self::default() }
    }

    /// Broken on purpose.
    #[doc(hidden)]
    #[must_use]
    pub const fn spending_after_its_time(mut self) -> Self {
        self.spends_after_its_time = true;
        self
    }

    /// Whether it is.
    #[doc(hidden)]
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        self.spends_after_its_time
    }

    /// µs that a lease lasts at most.
    #[must_use]
    pub fn longest(&self, terms: &Terms) -> u64 {
        let parts = u128::from(terms.span) * u128::from(self.horizon) / 1024;
        u64::try_from(parts).unwrap_or(u64::MAX).clamp(1, Self::LONGEST)
    }

    /// Whether leases are of use: several units of a bucket come back while one lasts. Of fewer, time would pass over
    /// most of a unit before anybody spends it, and it would be missing for as long as one takes to come back.
    #[must_use]
    pub(super) fn leases(&self, terms: &Terms) -> bool {
        terms.kind == Kind::Window || terms.unit.times(2) <= Ticks::from_micros(self.longest(terms))
    }

    /// µs that a lease should last where so many units come: as many as serve 64 of them, between half of the
    /// longest and the longest.
    #[must_use]
    pub(super) fn horizon(&self, terms: &Terms, rate: PerMicro) -> u64 {
        let longest = self.longest(terms);
        rate.micros_for(Self::SERVED).clamp(longest / 2, longest)
    }

    /// The shortest time a rate is made of, and the longest silence within traffic.
    #[must_use]
    pub(super) fn measuring(&self, terms: &Terms) -> (Nanos, Nanos) {
        let nanos = self.longest(terms).saturating_mul(1000);
        (Nanos::new(nanos / 8), Nanos::new(nanos.saturating_mul(2)))
    }
}
