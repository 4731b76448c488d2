//! Fixed window: a counter for each window of the calendar.
//!
//! Windows of a day, an hour or a minute begin where people expect; any other length is aligned to the Unix
//! epoch. In a time zone, days, weeks (which begin on Monday) and months follow its calendar, summer time
//! included. The state is the end of the window in seconds since the epoch and the count.
//!
//! # Bound
//! The count is tested and added to in one step and starts anew only at the window's end; so each window of
//! the calendar admits at most the limit. Any interval as long as a window meets at most two: 2 · limit.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Unit, ZonedDateTime};

use super::{Op, Outcome, Receipt};
use crate::rate::Period;
use crate::sync::{AtomicU64, Ordering};
use crate::time::Nanos;

/// Bits of the count in a packed state.
const COUNT_BITS: u32 = 37;
const COUNT_MASK: u128 = (1 << COUNT_BITS) - 1;
/// Seconds since the epoch have 34 bits: until the year 2514.
const LAST_SECOND: u64 = (1 << 34) - 1;

const DAY: u32 = 86_400;
const WEEK: u32 = 7 * DAY;
/// Monday, 5 January 1970: the first whole week of the epoch.
const FIRST_MONDAY: u64 = 4 * DAY as u64;

/// A fixed window's numbers.
#[derive(Debug)]
pub struct FixedWindow {
    limit: u32,
    debt: u32,
    period: Period,
    zone: Option<TimeZone>,
    /// The window that was found last, start and length packed: finding one in a calendar takes longer than
    /// all the rest, and needs doing once a window.
    last: AtomicU64,
}

impl Clone for FixedWindow {
    fn clone(&self) -> Self {
        Self { zone: self.zone.clone(), last: AtomicU64::new(self.last.load(Ordering::Relaxed)), ..*self }
    }
}

/// Seconds since the epoch at which a window begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    start: u64,
    end: u64,
}

impl FixedWindow {
    /// At most `limit` units in each window, `debt` units beyond it; windows are those of `zone`'s calendar,
    /// UTC's if `None`. `None` for zeros.
    #[must_use]
    pub fn new(limit: u32, period: Period, zone: Option<TimeZone>, debt: u32) -> Option<Self> {
        let counts = limit > 0 && period != Period::Seconds(0);
        counts.then(|| Self { limit, debt, period, zone, last: AtomicU64::new(0) })
    }

    /// Most units in a window.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Length of a window; 30 days stand for a month.
    #[must_use]
    pub const fn nominal_seconds(&self) -> u32 {
        match self.period {
            Period::Seconds(seconds) => seconds,
            Period::Month => 30 * DAY,
        }
    }

    /// Whether an entry in this state equals an absent one.
    #[must_use]
    pub fn is_recovered(state: u128, utc: Nanos) -> bool {
        let (end, count) = unpack(state);
        count == 0 || end <= utc.whole_secs()
    }

    /// One step; `None` in the first place: the state stays as it is.
    #[inline]
    #[must_use]
    pub fn step(&self, state: u128, utc: Nanos, op: Op) -> (Option<u128>, Outcome) {
        let second = utc.whole_secs();
        let window = self.window_at(second);
        let (stored_end, stored_count) = unpack(state);
        let (end, used) = if stored_end <= second {
            (window.end, 0)
        } else if stored_end > second.saturating_add(window.end - window.start) {
            // The clock stepped back by a window or more, or the windows became shorter: the count stays, but
            // nobody waits longer for it than a window.
            (window.end, stored_count)
        } else {
            (stored_end.max(window.end), stored_count)
        };
        let reset_after = Nanos::from_secs(end).saturating_sub(utc);
        let limit = u64::from(self.limit);
        let left = |used: u64| u32::try_from(limit.saturating_sub(used)).unwrap_or(u32::MAX);
        let told = |outcome: Outcome, used: u64| {
            let reset_after = if used == 0 { Nanos::ZERO } else { reset_after };
            outcome.with_reset_after(reset_after).with_receipt(Receipt::new(end.into()))
        };
        let stay = |outcome: Outcome| (None, told(outcome, used));
        let become_ = |used: u64| (Some(pack(end, used)), told(Outcome::admitted(left(used)), used));
        match op {
            Op::Take(units) | Op::Peek(units) => {
                let wanted = used + u64::from(units);
                if units > self.limit {
                    stay(Outcome::refused(left(used), None))
                } else if wanted > limit {
                    stay(Outcome::refused(left(used), Some(reset_after)))
                } else if units == 0 || matches!(op, Op::Peek(_)) {
                    stay(Outcome::admitted(left(used)))
                } else {
                    become_(wanted)
                }
            }
            Op::Debit(units) => become_((used + u64::from(units)).min(limit + u64::from(self.debt)).max(used)),
            Op::Refund(units, receipt) => {
                let same_window = receipt.is_none_or(|charge| charge.mark() == u128::from(end));
                if used == 0 || !same_window {
                    return stay(Outcome::admitted(left(used)));
                }
                become_(used.saturating_sub(u64::from(units)))
            }
            Op::Reset if state == 0 => stay(Outcome::admitted(self.limit)),
            Op::Reset => (Some(0), Outcome::admitted(self.limit)),
        }
    }

    fn window_at(&self, second: u64) -> Window {
        let second = second.min(LAST_SECOND - 1);
        if let (Period::Seconds(seconds), None) = (self.period, &self.zone) {
            let length = u64::from(seconds);
            let origin = if seconds.is_multiple_of(WEEK) { FIRST_MONDAY } else { 0 };
            // The first days of 1970 belong to the first window.
            let start = second.checked_sub(origin).map_or(0, |since| origin + since / length * length);
            return Window { start, end: start.saturating_add(length).min(LAST_SECOND) };
        }
        let known = unpack_window(self.last.load(Ordering::Relaxed));
        if (known.start..known.end).contains(&second) {
            return known;
        }
        let found = self.calendar_window(second).unwrap_or(Window { start: second, end: second + u64::from(DAY) });
        self.last.store(pack_window(found), Ordering::Relaxed);
        found
    }

    /// The window by the calendar; fails only for times that no calendar has.
    fn calendar_window(&self, second: u64) -> Result<Window, jiff::Error> {
        let zone = self.zone.clone().unwrap_or(TimeZone::UTC);
        let at = Timestamp::from_second(i64::try_from(second).unwrap_or(i64::MAX))?.to_zoned_datetime(zone);
        let (start, length) = match self.period {
            Period::Month => (at.first_of_month()?.start_of_day()?, Span::new().months(1)),
            Period::Seconds(seconds) if seconds.is_multiple_of(DAY) => {
                let days = i64::from(seconds / DAY);
                let day = i64::from(at.date().since((Unit::Day, jiff::civil::date(1970, 1, 1)))?.get_days());
                let origin = if seconds.is_multiple_of(WEEK) { 4 } else { 0 };
                (at.checked_sub(Span::new().days((day - origin).rem_euclid(days)))?.start_of_day()?, Span::new().days(days))
            }
            Period::Seconds(seconds) => {
                // Shorter than a day: counted from the zone's midnight, the day's last window cut short.
                let midnight = at.start_of_day()?;
                let since = second.saturating_sub(seconds_of(&midnight));
                let start = seconds_of(&midnight) + since / u64::from(seconds) * u64::from(seconds);
                let next_day = seconds_of(&midnight.tomorrow()?.start_of_day()?);
                return Ok(Window { start, end: (start + u64::from(seconds)).min(next_day) });
            }
        };
        let end = start.checked_add(length)?;
        Ok(Window { start: seconds_of(&start), end: seconds_of(&end) })
    }
}

fn seconds_of(at: &ZonedDateTime) -> u64 {
    u64::try_from(at.timestamp().as_second()).unwrap_or(0)
}

fn pack(end: u64, count: u64) -> u128 {
    (u128::from(end) << COUNT_BITS) | u128::from(count).min(COUNT_MASK)
}

fn unpack(state: u128) -> (u64, u64) {
    let end = u64::try_from(state >> COUNT_BITS).unwrap_or(u64::MAX);
    (end, u64::try_from(state & COUNT_MASK).unwrap_or(u64::MAX))
}

const LENGTH_BITS: u32 = 30;

fn pack_window(window: Window) -> u64 {
    let length = (window.end - window.start).min((1 << LENGTH_BITS) - 1);
    (window.start << LENGTH_BITS) | length
}

fn unpack_window(packed: u64) -> Window {
    let start = packed >> LENGTH_BITS;
    Window { start, end: start + (packed & ((1 << LENGTH_BITS) - 1)) }
}
