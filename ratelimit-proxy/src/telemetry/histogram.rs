//! Durations, counted by size.
//!
//! The same bounds for all: from 50 microseconds to ten seconds, about 2.2 times apart, which is what
//! quantiles of a proxy and of a store nearby need. One thread writes, so no operation is more than a load and a store.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::metrics::{add, read};

/// Upper bounds, in microseconds. What is longer is counted above them all.
const BOUNDS: [u64; 17] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Of one thread.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    counts: [AtomicU64; BOUNDS.len()],
    beyond: AtomicU64,
    /// In nanoseconds: 584 years of requests.
    sum: AtomicU64,
}

/// Of all threads, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    counts: [u64; BOUNDS.len()],
    beyond: u64,
    sum: u64,
}

impl Histogram {
    /// One more.
    pub(super) fn observe(&self, length: Duration) {
        let micros = length.as_micros();
        // Most are short.
        let place = BOUNDS.iter().zip(&self.counts).find(|(bound, _)| micros <= u128::from(**bound));
        add(place.map_or(&self.beyond, |(_, count)| count), 1);
        add(&self.sum, u64::try_from(length.as_nanos()).unwrap_or(u64::MAX));
    }

    /// One more, of no length: no clock was read.
    #[inline]
    pub(super) fn at_once(&self) {
        let [shortest, ..] = &self.counts;
        add(shortest, 1);
    }

    /// Adds what it holds.
    pub(super) fn add_to(&self, all: &mut Distribution) {
        for (count, own) in all.counts.iter_mut().zip(&self.counts) {
            *count += read(own);
        }
        all.beyond += read(&self.beyond);
        all.sum = all.sum.saturating_add(read(&self.sum));
    }
}

impl Distribution {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.beyond
    }

    /// Their sum, in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        Duration::from_nanos(self.sum).as_secs_f64()
    }

    /// Upper bounds in seconds, the last one endless, each with how many lie between it and the one before.
    pub(crate) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS.iter().map(|micros| Duration::from_micros(*micros).as_secs_f64());
        bounds.zip(self.counts).chain([(f64::INFINITY, self.beyond)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_length_lands_under_the_first_bound_that_holds_it() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 9_999_999, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        histogram.observe(Duration::MAX);
        histogram.at_once();
        let mut all = Distribution::default();
        histogram.add_to(&mut all);
        let buckets = all.buckets();
        assert_eq!(buckets[0], (0.00005, 2));
        assert_eq!(buckets[3], (0.0005, 1));
        assert_eq!(buckets[4], (0.001, 1));
        assert_eq!(buckets[16], (10.0, 2));
        assert_eq!(buckets[17], (f64::INFINITY, 2));
        assert_eq!(all.count(), 8);
    }
}
