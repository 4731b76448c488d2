//! Judges that share no code with what they judge: naive, exact, slow.
#![allow(dead_code, missing_docs, reason = "each test file uses some of it")]

use proptest::test_runner::Config;

pub(crate) const SECOND: u64 = 1_000_000_000;
/// How long a thread may be held up between reading the clock and acting on it: a state that lies ahead of
/// now by no more than this is left alone.
pub(crate) const HELD_UP: u64 = SECOND;

/// That many cases; a failure prints its shortest input and writes no file.
pub(crate) fn cases(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}

/// Units admitted (or ticks of them) and when.
pub(crate) type Event = (u64, u128);

/// Whether in every interval, however it is chosen, the sum of the events is at most `burst` and what comes
/// back in its length: `sum · per ≤ burst · per + length · rate`. Looks at all pairs of first and last event.
pub(crate) fn holds_in_every_interval(
    events: &[Event],
    burst: u128,
    rate: u128,
    per: u128,
) -> Result<(), String> {
    let mut events = events.to_vec();
    events.sort_unstable();
    for (first, &(from, _)) in events.iter().enumerate() {
        let mut sum = 0;
        for &(to, units) in &events[first..] {
            sum += units;
            // Several events may share the last moment; the check at the last of them sees them all.
            if sum * per > burst * per + u128::from(to - from) * rate {
                return Err(format!("{sum} from {from} to {to}, at most {burst} + {rate}/{per} each ns"));
            }
        }
    }
    Ok(())
}

/// A bucket that holds tokens: the text-book's, in integers that stand for `1/unit` of a token, so that
/// nothing is ever rounded. Time is in nanoseconds, `gain` parts come in each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Tokens {
    pub(crate) unit: i128,
    pub(crate) gain: i128,
    pub(crate) capacity: i128,
    pub(crate) floor: i128,
    pub(crate) balance: i128,
    pub(crate) at: u64,
}

impl Tokens {
    /// Exactly `count` in `period`.
    pub(crate) fn exact(count: u32, period: u64, burst: u32, debt: u32) -> Self {
        Self::with_unit(i128::from(period), i128::from(count), burst, debt)
    }

    /// One token in `ticks / 1024` nanoseconds.
    pub(crate) fn in_ticks(ticks: u128, burst: u32, debt: u32) -> Self {
        Self::with_unit(i128::try_from(ticks).unwrap(), 1024, burst, debt)
    }

    fn with_unit(unit: i128, gain: i128, burst: u32, debt: u32) -> Self {
        let capacity = unit * i128::from(burst);
        Self { unit, gain, capacity, floor: -unit * i128::from(debt), balance: capacity, at: 0 }
    }

    pub(crate) fn advance(&mut self, now: u64) {
        assert!(now >= self.at);
        self.balance = (self.balance + i128::from(now - self.at) * self.gain).min(self.capacity);
        self.at = now;
    }

    pub(crate) fn take(&mut self, units: u32) -> bool {
        let fits = self.balance >= self.unit * i128::from(units);
        if fits {
            self.balance -= self.unit * i128::from(units);
        }
        fits
    }

    pub(crate) fn debit(&mut self, units: u32) {
        self.balance = (self.balance - self.unit * i128::from(units)).max(self.floor.min(self.balance));
    }

    pub(crate) fn refund(&mut self, units: u32) {
        self.balance = (self.balance + self.unit * i128::from(units)).min(self.capacity);
    }

    pub(crate) fn remaining(&self) -> u32 {
        u32::try_from(self.balance.max(0) / self.unit).unwrap()
    }

    /// Nanoseconds until `units` are there.
    pub(crate) fn wait_for(&self, units: u32) -> u64 {
        self.wait_until(self.unit * i128::from(units))
    }

    pub(crate) fn wait_for_all(&self) -> u64 {
        self.wait_until(self.capacity)
    }

    fn wait_until(&self, level: i128) -> u64 {
        let missing = (level - self.balance).max(0);
        u64::try_from((missing + self.gain - 1) / self.gain).unwrap()
    }
}

/// Days since 1970-01-01 of a date, and back, by the rules of the Gregorian calendar written out year by year.
pub(crate) fn civil(mut day: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1)
}
