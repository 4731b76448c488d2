//! Fixed window: a counter for each window of the calendar.
//!
//! Windows of a day, an hour or a minute begin where people expect; any other length is aligned to the Unix
//! epoch. In a time zone, days, weeks (which begin on Monday) and months follow its calendar, summer time
//! included. The state is the end of the window in seconds since the epoch and the count.
//!
//! # Bound
//! The count is tested and added to in one step and starts anew only at the window's end; so each window of
//! the calendar admits at most the limit. Any interval as long as a window meets at most two: 2 · limit.
//!
//! The wall clock may step. Where it steps back across a boundary by up to a minute, as time servers make it,
//! the later window goes on: it has been counted in already. Further back the count stays, and nobody waits
//! longer for it than a window.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Unit};

use super::{Op, Outcome, Receipt};
use crate::rate::Period;
use crate::sync::{AtomicU64, Ordering};
use crate::time::Nanos;

/// Bits of the count in a packed state.
const COUNT_BITS: u32 = 37;
const COUNT_MASK: u128 = (1 << COUNT_BITS) - 1;
/// Seconds since the epoch have 34 bits: until the year 2514, beyond which time stands still.
const LAST_SECOND: u64 = (1 << 34) - 1;

const DAY: u32 = 86_400;
const WEEK: u32 = 7 * DAY;
/// A step back of so many seconds is a correction; windows go on.
const CORRECTION: u64 = 60;

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

    /// When the window that `utc` lies in began and when it ends: what a store elsewhere needs, which knows no
    /// calendar.
    #[must_use]
    pub fn window(&self, utc: Nanos) -> (Nanos, Nanos) {
        let window = self.window_at(utc.whole_secs());
        (Nanos::from_secs(window.start), Nanos::from_secs(window.end))
    }

    /// Whether an entry in this state equals an absent one.
    #[must_use]
    pub fn is_recovered(state: u128, utc: Nanos) -> bool {
        let (end, count) = unpack(state);
        count == 0 || end <= utc.whole_secs().min(LAST_SECOND - 1)
    }

    /// One step; `None` in the first place: the state stays as it is. A refused step may return a state that
    /// was [cut](super#cuts).
    #[inline]
    #[must_use]
    pub fn step(&self, state: u128, utc: Nanos, op: Op) -> (Option<u128>, Outcome) {
        let utc = utc.min(Nanos::from_secs(LAST_SECOND - 1));
        let second = utc.whole_secs();
        let window = self.window_at(second);
        let (stored_end, stored_count) = unpack(state);
        let (end, used) = if stored_end <= second {
            (window.end, 0)
        } else if stored_end > window.end && stored_end > self.soon(second, &window).end {
            // The clock stepped back, or the windows became shorter.
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
                    let moved = used > 0 && end != stored_end;
                    let refused = Outcome::refused(left(used), Some(reset_after));
                    (moved.then(|| pack(end, used)), told(refused, used))
                } else if units == 0 || matches!(op, Op::Peek(_)) {
                    stay(Outcome::admitted(left(used)))
                } else {
                    become_(wanted)
                }
            }
            Op::Debit(units) => {
                become_((used + u64::from(units)).min(limit + u64::from(self.debt)).max(used))
            }
            Op::Refund(units, receipt) => {
                let same_window = receipt.is_none_or(|charge| charge.mark() == u128::from(end));
                if used == 0 || !same_window {
                    return stay(Outcome::admitted(left(used)));
                }
                become_(used.saturating_sub(u64::from(units)))
            }
            Op::Reset if state == 0 => stay(Outcome::admitted(self.limit)),
            Op::Reset => (Some(0), Outcome::admitted(self.limit)),
            Op::Rescale(_) => stay(Outcome::admitted(left(used))),
        }
    }

    /// The window that the clock may have been set back from.
    fn soon(&self, second: u64, window: &Window) -> Window {
        self.window_at(second.saturating_add(CORRECTION.min(window.end - window.start)))
    }

    fn window_at(&self, second: u64) -> Window {
        let second = second.min(LAST_SECOND - 1);
        if let (Period::Seconds(seconds), None) = (self.period, &self.zone) {
            return Window::in_utc(second, seconds);
        }
        let known = unpack_window(self.last.load(Ordering::Relaxed));
        if known.contains(second) {
            return known;
        }
        let found =
            self.calendar_window(second).unwrap_or(Window { start: second, end: second + u64::from(DAY) });
        let found = Window { end: found.end.min(LAST_SECOND), ..found };
        self.last.store(pack_window(found), Ordering::Relaxed);
        found
    }

    /// The window by the calendar; fails only for times that no calendar has.
    fn calendar_window(&self, second: u64) -> Result<Window, jiff::Error> {
        let zone = &self.zone.clone().unwrap_or(TimeZone::UTC);
        let at = Timestamp::from_second(i64::try_from(second).unwrap_or(i64::MAX))?;
        let date = zone.to_datetime(at).date();
        let window = self.window_of(date, second, zone)?;
        // Where midnight comes twice, a date is also shown before its window begins.
        if second < window.start {
            return self.window_of(date.yesterday()?, second, zone);
        }
        Ok(window)
    }

    /// The window to which a date, or a time on it, belongs. Its boundaries are found each by itself from the
    /// date: not every day has a midnight, and not every date a day.
    fn window_of(&self, date: Date, second: u64, zone: &TimeZone) -> Result<Window, jiff::Error> {
        let (first, next) = match self.period {
            Period::Month => {
                (date.first_of_month(), date.first_of_month().checked_add(Span::new().months(1))?)
            }
            Period::Seconds(seconds) if seconds.is_multiple_of(DAY) => {
                let days = i64::from(seconds / DAY);
                let day = i64::from(date.since((Unit::Day, jiff::civil::date(1970, 1, 1)))?.get_days());
                let since = (day - i64::from(origin(seconds))).rem_euclid(days);
                let first = date.checked_sub(Span::new().days(since))?;
                (first, first.checked_add(Span::new().days(days))?)
            }
            Period::Seconds(_) => (date, date.tomorrow()?),
        };
        let days = Window { start: midnight(first, zone)?, end: midnight(next, zone)? };
        match self.period {
            // Shorter than a day: counted from the zone's midnight, the day's last window cut short.
            Period::Seconds(seconds) if !seconds.is_multiple_of(DAY) && days.contains(second) => {
                let length = u64::from(seconds);
                let start = days.start + (second - days.start) / length * length;
                Ok(Window { start, end: start.saturating_add(length).min(days.end) })
            }
            _ => Ok(days),
        }
    }
}

impl Window {
    fn contains(&self, second: u64) -> bool {
        (self.start..self.end).contains(&second)
    }

    /// In UTC, where every day has as many seconds.
    fn in_utc(second: u64, length: u32) -> Self {
        let origin = u64::from(origin(length)) * u64::from(DAY);
        let length = u64::from(length);
        // The first days of 1970 are the end of a week.
        let Some(since) = second.checked_sub(origin) else { return Self { start: 0, end: origin } };
        let start = origin + since / length * length;
        Self { start, end: start.saturating_add(length).min(LAST_SECOND) }
    }
}

/// Days after 1 January 1970 from which windows of that length are counted: weeks from Monday, the fifth.
fn origin(length: u32) -> u32 {
    if length.is_multiple_of(WEEK) { 4 } else { 0 }
}

/// Seconds since the epoch at which a date begins: where its midnight was skipped, with the first second after
/// that; where it came twice, with the second one.
fn midnight(date: Date, zone: &TimeZone) -> Result<u64, jiff::Error> {
    let begins = zone.to_ambiguous_timestamp(date.at(0, 0, 0, 0)).later()?;
    Ok(u64::try_from(begins.as_second()).unwrap_or(0))
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
