//! Boundaries of windows that only a calendar knows, for the script, which knows none. The store's time decides
//! which window it is: the script is told the boundaries around the time it is thought to have, and says so
//! when they don't cover the time it really has.

use ratelimit_core::algorithm::{FixedWindow, Program};
use ratelimit_core::{Limit, Nanos};

use crate::shape::{float, whole};

/// Calendars that are remembered.
const MOST: usize = 64;

/// Boundaries that were found last, by limit.
#[derive(Debug, Default)]
pub(crate) struct Calendars {
    known: Vec<(Limit, [f64; 4])>,
}

impl Calendars {
    /// Four boundaries one after the other, in microseconds since the epoch, with `now` between the first two.
    pub(crate) fn boundaries(&mut self, limit: &Limit, now: f64) -> [f64; 4] {
        let same = |known: &Limit| {
            let (one, other) = (known.spec(), limit.spec());
            let period = |limit: &Limit| limit.spec().rate.map(ratelimit_core::Rate::period);
            one.time_zone == other.time_zone && period(known) == period(limit)
        };
        let known = self.known.iter().find(|(known, _)| same(known));
        if let Some((_, boundaries @ [first, second, ..])) = known
            && (*first..*second).contains(&now)
        {
            return *boundaries;
        }
        let Program::FixedWindow(window) = limit.program() else { return [0.0; 4] };
        let found = find(window, now);
        self.known.retain(|(known, _)| !same(known));
        if self.known.len() < MOST {
            self.known.push((limit.clone(), found));
        }
        found
    }
}

fn find(window: &FixedWindow, now: f64) -> [f64; 4] {
    let (first, second) = window.window(Nanos::new(whole(now).saturating_mul(1000)));
    let (_, third) = window.window(second);
    let (_, fourth) = window.window(third);
    [first, second, third, fourth].map(|boundary| float(boundary.get() / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratelimit_core::{LimitSpec, Rate};

    #[test]
    fn months_of_a_zone() {
        let mut spec = LimitSpec::new("plan", Rate::per_month(10).unwrap());
        spec.time_zone = Some("Europe/Berlin".to_owned());
        let limit = Limit::try_from(spec).unwrap();
        let mut calendars = Calendars::default();
        // 2026-03-15 12:00 UTC; April begins in summer time.
        let march = 1_773_576_000e6;
        let [first, second, third, fourth] = calendars.boundaries(&limit, march);
        let hour = 3600e6;
        assert_eq!([first, second], [1_772_319_600e6, 1_774_994_400e6]);
        assert_eq!(third - second, 30.0 * 24.0 * hour);
        assert_eq!(fourth - third, 31.0 * 24.0 * hour);
        assert_eq!(calendars.boundaries(&limit, second)[0], second);
        assert_eq!(calendars.known.len(), 1);
    }
}
