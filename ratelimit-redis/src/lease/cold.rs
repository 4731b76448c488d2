//! Keys that are asked for now and then: a word each in a table of fixed size, enough to notice when one gets hot.
//!
//! Keys that share a word disturb each other's counts; all that can do is to make a key hot late or early.

use std::sync::atomic::{AtomicU64, Ordering};

use ratelimit_core::Nanos;

use super::PerMicro;

/// Words, 8 bytes each.
const WORDS: usize = 1 << 16;
/// A word: 16 bits of the key's hash, 32 of time in 2¹⁶ ns, 16 of units.
const TIME: u32 = 16;

/// Counts what comes for cold keys.
#[derive(Debug)]
pub(super) struct Cold(Box<[AtomicU64]>);

impl Cold {
    pub(super) fn new() -> Self {
        Self((0..WORDS).map(|_| AtomicU64::new(0)).collect())
    }

    /// `units` come for the key with that hash. The rate at which they do, as far as is known; see
    /// [`Arrivals::measure`](super::Arrivals::measure).
    pub(super) fn arrive(
        &self,
        hash: u64,
        now: Nanos,
        units: u32,
        shortest: Nanos,
        quiet: Nanos,
    ) -> PerMicro {
        let word = usize::try_from(hash % 65_536).ok().and_then(|place| self.0.get(place));
        let Some(word) = word else { return PerMicro::default() };
        let tag = hash >> 48;
        let time = (now.get() >> TIME) & u64::from(u32::MAX);
        let before = word.load(Ordering::Relaxed);
        let passed = Nanos::new((time.wrapping_sub(before >> 16) & u64::from(u32::MAX)) << TIME);
        // No order and no exchange: a count that is lost makes nothing wrong.
        if before >> 48 != tag || before == 0 || passed > quiet {
            word.store(tag << 48 | time << 16, Ordering::Relaxed);
            return PerMicro::default();
        }
        let count = ((before & 0xffff) + u64::from(units)).min(0xffff);
        word.store((before & !0xffff) | count, Ordering::Relaxed);
        if passed < shortest {
            PerMicro::of(count.saturating_sub(1), shortest)
        } else {
            PerMicro::of(count, passed)
        }
    }
}
