//! The fixed window against calendars: one written out by hand for UTC, and one that asks, second by second,
//! which date a zone's clocks show.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "tests"
)]

mod oracle;

use std::collections::HashMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use oracle::{SECOND, civil};
use proptest::prelude::*;
use ratelimit_core::algorithm::{FixedWindow, Op, Outcome, Receipt};
use ratelimit_core::{Nanos, Period};

const HOUR: u64 = 3600;
const DAY: u64 = 86_400;
/// 2514-05-30, where 34 bits of seconds end.
const LAST: u64 = (1 << 34) - 1;

struct Key {
    window: FixedWindow,
    state: u128,
}

impl Key {
    fn new(limit: u32, period: Period, zone: Option<&str>, debt: u32) -> Self {
        Self { window: window(limit, period, zone, debt), state: 0 }
    }

    fn step(&mut self, utc: Nanos, op: Op) -> Outcome {
        let (next, outcome) = self.window.step(self.state, utc, op);
        if let Some(next) = next {
            assert!(next < 1 << 71, "{next} does not fit a slot");
            self.state = next;
        }
        outcome
    }

    fn asked(&self, utc: Nanos, units: u32) -> bool {
        self.window.step(self.state, utc, Op::Peek(units)).1.admitted
    }

    fn used(&self, utc: Nanos) -> u32 {
        self.window.limit() - self.window.step(self.state, utc, Op::Peek(0)).1.remaining()
    }
}

fn window(limit: u32, period: Period, zone: Option<&str>, debt: u32) -> FixedWindow {
    let zone = zone.map(|name| TimeZone::get(name).unwrap());
    FixedWindow::new(limit, period, zone, debt).unwrap()
}

fn at(second: u64) -> Nanos {
    Nanos::from_secs(second)
}

/// The window's end, as a key that has just been charged is told it.
fn end_of_window(window: &FixedWindow, second: u64) -> u64 {
    let (_, outcome) = window.step(0, at(second), Op::Take(1));
    assert!(outcome.admitted);
    second + outcome.reset_after.get() / SECOND
}

/// Which window of UTC's calendar a second belongs to: equal numbers, same window.
fn utc_window(period: Period, second: u64) -> u64 {
    let day = second / DAY;
    match period {
        Period::Month => {
            let (year, month, _) = civil(day);
            year * 12 + month
        }
        // 1 January 1970 was a Thursday; weeks begin on Monday.
        Period::Seconds(seconds) if u64::from(seconds).is_multiple_of(7 * DAY) => {
            let weeks = u64::from(seconds) / (7 * DAY);
            let monday = (day + 3) / 7;
            monday.div_ceil(weeks)
        }
        Period::Seconds(seconds) => second / u64::from(seconds),
        _ => unreachable!(),
    }
}

fn period() -> impl Strategy<Value = Period> {
    prop_oneof![
        Just(Period::Month),
        prop::sample::select(vec![
            1u32,
            7,
            60,
            420,
            3600,
            86_400,
            2 * 86_400,
            604_800,
            1_209_600,
            316_224_000
        ])
        .prop_map(Period::Seconds),
        (1u32..=1_000_000).prop_map(Period::Seconds),
    ]
}

proptest! {
    #![proptest_config(oracle::cases(1000))]

    #[test]
    fn windows_are_those_of_the_utc_calendar(period in period(), second in 0u64..LAST - 400 * 31 * DAY) {
        let window = window(5, period, None, 0);
        let end = end_of_window(&window, second);
        prop_assert!(end > second);
        prop_assert_eq!(utc_window(period, end - 1), utc_window(period, second));
        prop_assert_ne!(utc_window(period, end), utc_window(period, second));
        let zone = FixedWindow::new(5, period, Some(TimeZone::UTC), 0).unwrap();
        if matches!(period, Period::Month) || matches!(period, Period::Seconds(s) if DAY.is_multiple_of(s.into()) || s.is_multiple_of(86_400)) {
            prop_assert_eq!(end_of_window(&zone, second), end);
        }
    }

    /// At most the limit in each window of the calendar, refused only if it would be more, and for exactly as
    /// long as the window lasts; threads may see the clock in any order within a second.
    #[test]
    fn a_counter_for_each_window(
        period in period(),
        limit in 1u32..=10,
        start in 0u64..LAST / 2,
        trace in prop::collection::vec((0u32..=1100, 0u64..SECOND, 0u32..=12), 1..60),
    ) {
        let nominal = match period { Period::Seconds(seconds) => u64::from(seconds), _ => 31 * DAY };
        let mut key = Key::new(limit, period, None, 0);
        let mut counters: HashMap<u64, u32> = HashMap::new();
        let mut now = start;
        for (share, nanos, units) in trace {
            now += nominal * u64::from(share) / 4000;
            let utc = at(now).saturating_add(Nanos::new(nanos));
            let used = counters.entry(utc_window(period, now)).or_default();
            let before = key.state;
            let outcome = key.step(utc, Op::Take(units));
            prop_assert_eq!(outcome.admitted, *used + units <= limit);
            prop_assert_eq!(outcome.is_never(), units > limit);
            if outcome.admitted {
                *used += units;
            } else {
                prop_assert_eq!(key.state, before);
            }
            prop_assert_eq!(outcome.remaining(), limit - *used);
            prop_assert_eq!(outcome.reset_after == Nanos::ZERO, *used == 0);
            if let Some(wait) = outcome.retry_after {
                prop_assert_eq!(wait, outcome.reset_after);
                prop_assert!(!key.asked(utc.saturating_add(Nanos::new(wait.get() - 1)), units));
                prop_assert!(key.asked(utc.saturating_add(wait), units));
                prop_assert!(FixedWindow::is_recovered(key.state, utc.saturating_add(wait)));
            }
        }
    }

    /// Refunds come back to their own window only; debits go beyond the limit by the debt at most.
    #[test]
    fn refunds_and_debits(
        limit in 1u32..=10, debt in 0u32..=10, spent in 1u32..=10, owed in 0u32.., back in 0u32..=20, later in 0u64..3 * HOUR,
    ) {
        let mut key = Key::new(limit, Period::Seconds(3600), None, debt);
        let now = 500_000 * HOUR + 1800;
        let spent = spent.min(limit);
        let receipt = key.step(at(now), Op::Take(spent)).receipt;
        key.step(at(now), Op::Debit(owed));
        let used = (u64::from(spent) + u64::from(owed)).min(u64::from(limit + debt));
        prop_assert_eq!(u64::from(key.step(at(now), Op::Peek(0)).remaining()), u64::from(limit).saturating_sub(used));
        prop_assert_eq!(key.asked(at(now), 0), used <= u64::from(limit));
        let now = now + later;
        key.step(at(now), Op::Debit(1));
        let used = if later < 1800 { (used + 1).min(u64::from(limit + debt)) } else { 1 };
        let given = if later < 1800 { used.min(back.min(spent).into()) } else { 0 };
        key.step(at(now), Op::Refund(back.min(spent), Some(receipt)));
        let left = u64::from(limit).saturating_sub(used - given);
        prop_assert_eq!(u64::from(key.step(at(now), Op::Peek(0)).remaining()), left);
        key.step(at(now), Op::Refund(u32::MAX, None));
        prop_assert_eq!(key.step(at(now), Op::Peek(0)).remaining(), limit);
    }

    /// A wall clock may step anywhere. Nobody is locked out for longer than a window, or by a step of up to a
    /// minute longer than a window and that step.
    #[test]
    fn clock_steps_back(
        period in period(), limit in 1u32..=10, debit in any::<bool>(), now in 10 * DAY..LAST / 2,
        back in prop_oneof![0..100u64, 0..4 * DAY, 0..LAST / 2],
    ) {
        let mut key = Key::new(limit, period, None, 5);
        key.step(at(now), Op::Take(limit));
        if debit {
            key.step(at(now), Op::Debit(3));
        }
        let now = now.saturating_sub(back);
        let outcome = key.step(at(now), Op::Take(1));
        prop_assert!(!outcome.admitted);
        let wait = outcome.retry_after.unwrap();
        let longest = match period { Period::Seconds(seconds) => u64::from(seconds), _ => 31 * DAY };
        prop_assert!(wait <= at(longest + back.min(60).min(longest)), "locked out for {wait:?}");
        prop_assert!(!key.asked(at(now).saturating_add(Nanos::new(wait.get() - 1)), 1));
        prop_assert!(key.asked(at(now).saturating_add(wait), limit));
    }

    /// A step back across a boundary by what a time server corrects: the later window's count stays its count,
    /// so that it holds the limit, not twice that.
    #[test]
    fn small_steps_back_do_not_double_a_window(period in period(), boundary in 10 * DAY..LAST / 2, after in 0u64..60, back in 0u64..=60) {
        let mut key = Key::new(5, period, None, 0);
        let start = end_of_window(&key.window, boundary);
        let longest = match period { Period::Seconds(seconds) => u64::from(seconds), _ => 28 * DAY };
        let now = start + after.min(longest - 1);
        prop_assert!(key.step(at(now), Op::Take(5)).admitted);
        let again = now - back.min(longest);
        prop_assert!(!key.asked(at(again), 1));
        prop_assert!(!key.step(at(again), Op::Take(1)).admitted);
        for second in [again, start - 1, start, now, end_of_window(&key.window, now) - 1] {
            prop_assert!(second < again || !key.step(at(second), Op::Take(1)).admitted, "{second}");
        }
        prop_assert!(key.step(at(end_of_window(&key.window, now)), Op::Take(5)).admitted);
    }

    /// Another length: the count stays, until the later end, at most a new window.
    #[test]
    fn the_window_changes(periods in (period(), period()), now in 30 * DAY..LAST / 2, spent in 1u32..=10) {
        let mut key = Key::new(10, periods.0, None, 0);
        key.step(at(now), Op::Take(spent));
        let old_end = end_of_window(&key.window, now);
        key.window = window(10, periods.1, None, 0);
        let new_end = end_of_window(&key.window, now);
        prop_assert_eq!(key.used(at(now)), spent);
        let refused = key.step(at(now), Op::Take(10));
        prop_assert!(!refused.admitted);
        let until = now + refused.retry_after.unwrap().get() / SECOND;
        let longest = match periods.1 { Period::Seconds(seconds) => u64::from(seconds), _ => 31 * DAY };
        prop_assert!(until >= new_end.min(old_end) && until <= now + longest + 60.min(longest));
        prop_assert!(until == new_end || until == old_end);
        prop_assert!(!key.asked(at(until - 1), 10));
        prop_assert!(key.asked(at(until), 10));
    }

    #[test]
    fn recovered_equals_absent(period in period(), limit in 1u32..=10, now in 0u64..LAST / 2, later in 0u64..LAST / 4, units in 0u32..=12) {
        let mut key = Key::new(limit, period, None, 3);
        key.step(at(now), Op::Take(limit));
        let now = now + later;
        if FixedWindow::is_recovered(key.state, at(now)) {
            for op in [Op::Take(units), Op::Peek(units), Op::Debit(units), Op::Refund(units, None)] {
                prop_assert_eq!(key.window.step(key.state, at(now), op), key.window.step(0, at(now), op));
            }
        }
        prop_assert_eq!(key.step(at(now), Op::Reset).remaining(), limit);
        prop_assert_eq!(key.state, 0);
    }

    /// Nothing overflows, for any numbers at all, and a state from anywhere is survived.
    #[test]
    fn no_number_is_too_large(
        limit in 1u32.., debt in 0u32.., seconds in 1u32.., state in 0u128..1 << 71, now in 0u64..,
        units in 0u32.., mark in 0u128.., zone in any::<bool>(), month in any::<bool>(),
    ) {
        let period = if month { Period::Month } else { Period::Seconds(seconds) };
        let window = window(limit, period, zone.then_some("Europe/Berlin"), debt);
        for op in [
            Op::Take(units),
            Op::Peek(units),
            Op::Debit(units),
            Op::Refund(units, None),
            Op::Refund(units, Some(Receipt::new(mark))),
            Op::Reset,
        ] {
            let (next, outcome) = window.step(state, Nanos::new(now), op);
            prop_assert!(next.is_none_or(|next| next < 1 << 71));
            prop_assert!(outcome.remaining() <= limit);
        }
    }
}

/// What the clocks of a zone show decides: all seconds of a window show one date (or month, or hour), and the
/// first one after it another.
fn follow(zone: &str, period: Period, from: &str, to: &str, every: u64) {
    let tz = TimeZone::get(zone).unwrap();
    let shown = |second: u64| {
        let local = Timestamp::from_second(second as i64).unwrap().to_zoned_datetime(tz.clone());
        let date = local.date();
        match period {
            Period::Month => format!("{}-{}", date.year(), date.month()),
            Period::Seconds(seconds) if u64::from(seconds).is_multiple_of(DAY) => {
                let weeks = u64::from(seconds).is_multiple_of(7 * DAY);
                let first = if weeks { jiff::civil::date(1970, 1, 5) } else { jiff::civil::date(1970, 1, 1) };
                let days = date.since((jiff::Unit::Day, first)).unwrap().get_days() as u64;
                (days / (u64::from(seconds) / DAY)).to_string()
            }
            Period::Seconds(seconds) => {
                // How long the day has lasted is found out by walking back to its first second.
                let mut first = second - second % 900;
                let date_at = |second: u64| {
                    Timestamp::from_second(second as i64).unwrap().to_zoned_datetime(tz.clone()).date()
                };
                while date_at(first - 1) == date {
                    first -= 900;
                }
                format!("{date} {}", (second - first) / u64::from(seconds))
            }
            _ => unreachable!(),
        }
    };
    let second_of = |text: &str| text.parse::<Timestamp>().unwrap().as_second() as u64;
    let window = window(1_000_000, period, Some(zone), 0);
    let fresh = || FixedWindow::new(1_000_000, period, Some(tz.clone()), 0).unwrap();
    let mut second = second_of(from);
    while second < second_of(to) {
        let end = end_of_window(&window, second);
        assert_eq!(end, end_of_window(&fresh(), second), "{zone} {second}: not what was found before");
        assert_eq!(shown(end - 1), shown(second), "{zone} {second}: ends too late, at {end}");
        assert_ne!(shown(end), shown(second), "{zone} {second}: ends too early, at {end}");
        second += every;
    }
}

#[test]
fn days_in_berlin_through_summer_time() {
    let day = Period::Seconds(86_400);
    follow("Europe/Berlin", day, "2026-03-27T00:00:00Z", "2026-04-01T00:00:00Z", 617);
    follow("Europe/Berlin", day, "2026-10-23T00:00:00Z", "2026-10-28T00:00:00Z", 617);
    // A day of 23 hours and one of 25.
    let window = window(5, day, Some("Europe/Berlin"), 0);
    let second_of = |text: &str| text.parse::<Timestamp>().unwrap().as_second() as u64;
    for (start, hours) in
        [("2026-03-28T23:00:00Z", 23), ("2026-10-24T22:00:00Z", 25), ("2026-01-09T23:00:00Z", 24)]
    {
        assert_eq!(end_of_window(&window, second_of(start)), second_of(start) + hours * HOUR, "{start}");
    }
}

#[test]
fn weeks_and_months_in_berlin() {
    follow(
        "Europe/Berlin",
        Period::Seconds(604_800),
        "2025-12-01T00:00:00Z",
        "2026-12-01T00:00:00Z",
        7 * HOUR - 1,
    );
    follow("Europe/Berlin", Period::Month, "2023-12-01T00:00:00Z", "2026-12-01T00:00:00Z", 7 * HOUR - 1);
    follow(
        "Europe/Berlin",
        Period::Seconds(2 * 86_400),
        "2026-03-01T00:00:00Z",
        "2026-04-15T00:00:00Z",
        HOUR - 1,
    );
}

#[test]
fn hours_in_berlin_are_counted_from_midnight() {
    for length in [900, 3600, 5 * 3600, 43_200] {
        follow("Europe/Berlin", Period::Seconds(length), "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z", 433);
        follow("Europe/Berlin", Period::Seconds(length), "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z", 433);
    }
}

/// São Paulo's summer began at midnight: that day had no first hour. In Asunción it was the first of a month.
#[test]
fn days_whose_midnight_was_skipped() {
    for period in [
        Period::Seconds(86_400),
        Period::Seconds(2 * 86_400),
        Period::Seconds(604_800),
        Period::Month,
        Period::Seconds(3600),
    ] {
        follow("America/Sao_Paulo", period, "2017-10-12T00:00:00Z", "2017-10-20T00:00:00Z", 1201);
        follow("America/Sao_Paulo", period, "2018-02-14T00:00:00Z", "2018-02-21T00:00:00Z", 1201);
        follow("America/Asuncion", period, "2017-09-29T00:00:00Z", "2017-11-03T00:00:00Z", 2399);
    }
}

/// Samoa had no 30 December 2011.
#[test]
fn a_day_that_was_skipped() {
    for period in [
        Period::Seconds(86_400),
        Period::Seconds(2 * 86_400),
        Period::Seconds(3 * 86_400),
        Period::Seconds(604_800),
        Period::Month,
    ] {
        follow("Pacific/Apia", period, "2011-12-25T00:00:00Z", "2012-01-10T00:00:00Z", 1201);
    }
}

/// In Newfoundland clocks went back at 0:01, so that the new day began, ended, and began again. Each second
/// belongs to one window, and windows follow each other without a gap.
#[test]
fn a_midnight_that_came_twice() {
    let newfoundland = || window(5, Period::Seconds(86_400), Some("America/St_Johns"), 0);
    let remembering = newfoundland();
    let second_of = |text: &str| text.parse::<Timestamp>().unwrap().as_second() as u64;
    let (start, stop) = (second_of("2010-11-05T00:00:00Z"), second_of("2010-11-10T00:00:00Z"));
    // The clocks went back to 23:01 at 2:31 UTC on the seventh.
    let change = second_of("2010-11-07T02:31:00Z");
    let mut ends: Vec<u64> = Vec::new();
    for second in start..stop {
        let near = second.abs_diff(change) < 2 * HOUR;
        let at_end = ends.last().is_none_or(|&end| second >= end);
        if !(at_end || near && second % 17 == 0 || second % 997 == 0) {
            continue;
        }
        let end = end_of_window(&newfoundland(), second);
        assert_eq!(end_of_window(&remembering, second), end, "{second}: not what was found before");
        assert!(end > second, "no window at {second}");
        if ends.last() != Some(&end) {
            assert!(ends.last().is_none_or(|&last| last == second), "{ends:?} {second}");
            ends.push(end);
        }
    }
    assert!(ends.windows(2).all(|pair| (23 * HOUR..=26 * HOUR).contains(&(pair[1] - pair[0]))), "{ends:?}");
}

#[test]
fn every_zone_has_windows_without_gaps() {
    for zone in [
        "Asia/Kolkata",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",
        "Africa/Casablanca",
        "America/Havana",
        "Pacific/Kiritimati",
        "Antarctica/Troll",
    ] {
        for period in
            [Period::Seconds(86_400), Period::Seconds(604_800), Period::Month, Period::Seconds(3600)]
        {
            let window = window(5, period, Some(zone), 0);
            let mut second = 1_700_000_000;
            for _ in 0..400 {
                let end = end_of_window(&window, second);
                assert!(end > second && end_of_window(&window, end - 1) == end, "{zone} {second}");
                second = end;
            }
        }
    }
}

/// The window that was found last is remembered; times that jump to and fro must not be misled by it.
#[test]
fn what_is_remembered_does_not_mislead() {
    let window = window(9, Period::Month, Some("Europe/Berlin"), 0);
    let copy = window.clone();
    let mut state = 12_345_u64;
    for _ in 0..2000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let second = state >> 31;
        let fresh = self::window(9, Period::Month, Some("Europe/Berlin"), 0);
        assert_eq!(end_of_window(&window, second), end_of_window(&fresh, second), "{second}");
        assert_eq!(end_of_window(&copy, second), end_of_window(&fresh, second), "{second}");
    }
}

/// Where the calendar ends time stands still: nobody gets more for it.
#[test]
fn the_end_of_time() {
    for (period, zone) in [
        (Period::Seconds(1), None),
        (Period::Month, Some("Europe/Berlin")),
        (Period::Month, None),
        (Period::Seconds(604_800), None),
    ] {
        let mut key = Key::new(5, period, zone, 0);
        for utc in [at(LAST), at(LAST + DAY), Nanos::new(u64::MAX - 1), Nanos::MAX] {
            key.step(utc, Op::Take(5));
            assert_eq!(key.used(utc), 5, "{period:?} {utc:?}");
            assert!(!key.step(utc, Op::Take(1)).admitted);
            assert!(!FixedWindow::is_recovered(key.state, utc));
        }
        let mut key = Key::new(5, period, zone, 0);
        assert!(key.step(Nanos::ZERO, Op::Take(5)).admitted);
        assert!(!key.step(Nanos::ZERO, Op::Take(1)).admitted);
    }
}

#[test]
fn the_largest_numbers_are_kept_exactly() {
    let mut key = Key::new(u32::MAX, Period::Month, None, u32::MAX);
    assert!(key.step(at(5), Op::Take(u32::MAX)).admitted);
    key.step(at(5), Op::Debit(u32::MAX));
    key.step(at(5), Op::Debit(u32::MAX));
    key.step(at(5), Op::Refund(u32::MAX, None));
    assert_eq!(key.step(at(5), Op::Peek(0)).remaining(), 0);
    key.step(at(5), Op::Refund(1, None));
    assert_eq!(key.step(at(5), Op::Peek(0)).remaining(), 1);
}

#[test]
fn numbers_that_make_no_window() {
    assert!(FixedWindow::new(0, Period::Month, None, 0).is_none());
    assert!(FixedWindow::new(1, Period::Seconds(0), None, 0).is_none());
}
