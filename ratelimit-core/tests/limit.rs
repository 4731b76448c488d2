//! Limits as users make them: what is refused and in which words, what an override keeps, which limit a
//! decision names.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs, reason = "tests")]

mod oracle;

use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;
use ratelimit_core::algorithm::{Op, Outcome};
use ratelimit_core::store::{Origin, Verdict};
use ratelimit_core::{
    Algorithm, CheckError, Decision, Limit, LimitError, LimitSpec, Limiter, ManualClock, MemoryStore, Mode,
    Nanos, Rate,
};

fn rate(text: &str) -> Rate {
    text.parse().unwrap()
}

fn spec(change: impl FnOnce(&mut LimitSpec)) -> LimitSpec {
    let mut spec = LimitSpec::new("x", rate("5/min"));
    change(&mut spec);
    spec
}

#[test]
fn what_is_refused_and_in_which_words() {
    let set = |algorithm: Algorithm| move |spec: &mut LimitSpec| spec.algorithm = algorithm;
    let cases: Vec<(LimitSpec, LimitError, &str)> = vec![
        (spec(|s| s.name = String::new()), LimitError::Name(String::new()), "1 to 64 of A-Z a-z 0-9 _ . -"),
        (spec(|s| s.name = "a b".into()), LimitError::Name("a b".into()), "\"a b\" is not a name"),
        (spec(|s| s.name = "ä".into()), LimitError::Name("ä".into()), "1 to 64"),
        (spec(|s| s.name = "x".repeat(65)), LimitError::Name("x".repeat(65)), "1 to 64"),
        (spec(|s| s.rate = None), LimitError::Missing("rate"), "no rate given"),
        (spec(|s| s.burst = Some(0)), LimitError::Zero("burst"), "burst must be at least 1"),
        (
            spec(|s| s.permits = Some(1)),
            LimitError::Surplus("permits", Algorithm::TokenBucket),
            "token_bucket has no permits",
        ),
        (
            spec(|s| (s.algorithm, s.burst) = (Algorithm::SlidingWindow, Some(5))),
            LimitError::Surplus("burst", Algorithm::SlidingWindow),
            "sliding_window has no burst",
        ),
        (
            spec(|s| (s.algorithm, s.burst) = (Algorithm::FixedWindow, Some(5))),
            LimitError::Surplus("burst", Algorithm::FixedWindow),
            "fixed_window has no burst",
        ),
        (
            spec(set(Algorithm::Concurrency)),
            LimitError::Surplus("rate", Algorithm::Concurrency),
            "concurrency has no rate",
        ),
        (
            LimitSpec { permits: None, ..LimitSpec::concurrency("x", 1) },
            LimitError::Missing("permits"),
            "no permits given",
        ),
        (LimitSpec::concurrency("x", 0), LimitError::Zero("permits"), "permits must be at least 1"),
        (
            LimitSpec { debt: 1, ..LimitSpec::concurrency("x", 1) },
            LimitError::Surplus("debt", Algorithm::Concurrency),
            "concurrency has no debt",
        ),
        (
            LimitSpec { time_zone: Some("UTC".into()), ..LimitSpec::concurrency("x", 1) },
            LimitError::CalendarNeedsFixedWindow,
            "only the algorithm fixed_window",
        ),
        (
            spec(|s| s.time_zone = Some("Europe/Berlin".into())),
            LimitError::CalendarNeedsFixedWindow,
            "in a time zone",
        ),
        (
            spec(|s| (s.rate, s.algorithm) = (Some(rate("5/month")), Algorithm::TokenBucket)),
            LimitError::CalendarNeedsFixedWindow,
            "by the month",
        ),
        (
            spec(|s| (s.rate, s.algorithm) = (Some(rate("5/month")), Algorithm::SlidingWindow)),
            LimitError::CalendarNeedsFixedWindow,
            "by the month",
        ),
        (
            spec(|s| (s.algorithm, s.time_zone) = (Algorithm::FixedWindow, Some("Europe/Atlantis".into()))),
            LimitError::TimeZone("Europe/Atlantis".into()),
            "no time zone \"Europe/Atlantis\"",
        ),
        (
            spec(|s| (s.rate, s.burst) = (Some(rate("1/day")), Some(20_000))),
            LimitError::TooSlow { burst: 20_000, rate: rate("1/day") },
            "at 1/day a burst of 20000 (with the debt) would take 55 years to refill",
        ),
        (
            spec(|s| (s.rate, s.debt) = (Some(rate("1/day")), 20_000)),
            LimitError::TooSlow { burst: 20_001, rate: rate("1/day") },
            "55 years",
        ),
        (
            spec(|s| (s.rate, s.burst, s.debt) = (Some(rate("1/520week")), Some(u32::MAX), u32::MAX)),
            LimitError::TooSlow { burst: u32::MAX, rate: rate("1/520week") },
            "years to refill",
        ),
    ];
    for (spec, error, words) in cases {
        let got = Limit::try_from(spec.clone()).expect_err(&format!("{spec:?}"));
        assert_eq!(got, error, "{spec:?}");
        assert!(got.to_string().contains(words), "{got}");
        assert!(!got.to_string().contains('\n'));
    }
}

#[test]
fn names_that_are_names() {
    for name in ["a", "Per-User_2.v1", &"x".repeat(64), "-", "."] {
        assert_eq!(Limit::new(name, rate("1/s")).name(), name);
    }
}

#[test]
#[should_panic(expected = "sliding_window has no burst")]
fn builders_panic_with_the_same_words() {
    let _ = Limit::new("x", rate("1/s")).algorithm(Algorithm::SlidingWindow).burst(2);
}

#[test]
fn names_have_numbers_of_their_own() {
    let mut numbers = HashSet::new();
    for number in 0..20_000 {
        assert!(numbers.insert(Limit::new(format!("limit-{number}"), rate("1/s")).id()));
    }
    let (one, other) = (Limit::new("per-user", rate("1/s")), Limit::concurrency("per-user", 3));
    assert_eq!(one.id(), other.id());
    assert_ne!(one.id(), Limit::new("per-User", rate("1/s")).id());
}

#[test]
fn an_override_is_the_same_limit_with_other_numbers() {
    let limit = Limit::new("plan", rate("100/s")).burst(200).debt(7).shadow();
    let gold = limit.with_quota(rate("1000/s"), Some(5000)).unwrap();
    assert_eq!((gold.id(), gold.name(), gold.capacity()), (limit.id(), "plan", 5000));
    assert_eq!((gold.spec().mode, gold.spec().debt), (Mode::Shadow, 7));
    assert_eq!(limit.with_quota(rate("10/min"), None).unwrap().capacity(), 10);
    assert_eq!(limit.capacity(), 200);
    assert_eq!(limit.with_quota(rate("10/min"), Some(0)).unwrap_err(), LimitError::Zero("burst"));
    assert_eq!(limit.with_quota(rate("10/month"), None).unwrap_err(), LimitError::CalendarNeedsFixedWindow);

    let calendar = Limit::new("calendar", rate("10/month")).time_zone("Europe/Berlin");
    let gold = calendar.with_quota(rate("9/day"), None).unwrap();
    assert_eq!(gold.spec().time_zone.as_deref(), Some("Europe/Berlin"));
    assert_eq!(gold.spec().algorithm, Algorithm::FixedWindow);
    let permits = Limit::concurrency("p", 3);
    assert_eq!(
        permits.with_quota(rate("1/s"), None).unwrap_err(),
        LimitError::Surplus("rate", Algorithm::Concurrency)
    );
}

#[test]
fn what_was_used_stays_used_under_another_quota() {
    let clock = ManualClock::default();
    let limiter = Limiter::new(MemoryStore::with_clock(clock.clone()));
    let plain = Limit::new("plan", rate("10/min"));
    let gold = plain.with_quota(rate("20/2min"), Some(20)).unwrap();
    for _ in 0..8 {
        assert!(limiter.try_check(&plain, "ann").is_allowed());
    }
    assert_eq!(limiter.try_check(&gold, "ann").remaining(), 11);
    assert_eq!(limiter.try_check(&plain, "ann").remaining(), 0);
    clock.advance(Duration::from_secs(60));
    assert_eq!(limiter.try_check(&plain, "ann").remaining(), 9);
}

#[test]
fn seconds_in_which_the_capacity_comes_back() {
    for (limit, seconds) in [
        (Limit::new("x", rate("100/s")).burst(200), Some(2)),
        (Limit::new("x", rate("100/s")).burst(201), Some(3)),
        (Limit::new("x", rate("100/s")).burst(1), Some(1)),
        (Limit::new("x", rate("10000000/s")), Some(1)),
        (Limit::new("x", rate("3/s")), Some(1)),
        (Limit::new("x", rate("7/min")), Some(60)),
        (Limit::new("x", rate("7/min")).burst(1), Some(9)),
        (Limit::new("x", rate("5/15min")).algorithm(Algorithm::SlidingWindow), Some(900)),
        (Limit::new("x", rate("10000/day")).algorithm(Algorithm::FixedWindow), Some(86_400)),
        (Limit::new("x", rate("1000/month")), Some(2_592_000)),
        (Limit::concurrency("x", 4), None),
    ] {
        assert_eq!(limit.window_seconds(), seconds, "{limit:?}");
    }
}

fn decide<'a>(limits: &'a [Limit], outcomes: &[Outcome]) -> Decision<'a> {
    let denied = limits.iter().zip(outcomes).any(|(limit, outcome)| !limit.is_shadow() && !outcome.admitted);
    let verdict =
        Verdict { admitted: !denied, origin: Origin::Store, outcomes: outcomes.iter().copied().collect() };
    Decision::new(limits, verdict)
}

const fn no(seconds: u64) -> Outcome {
    Outcome::refused(0, Some(Nanos::from_secs(seconds)))
}

#[test]
fn the_limit_that_binds() {
    let limits = [
        Limit::new("small", rate("10/s")),
        Limit::new("large", rate("1000/s")),
        Limit::new("shadow", rate("5/s")).shadow(),
    ];
    let yes = Outcome::admitted;
    // Allowed: the smallest share left, not the smallest number.
    for (outcomes, binding, remaining) in [
        ([yes(5), yes(900), yes(5)], "small", 5),
        ([yes(5), yes(300), yes(5)], "large", 300),
        ([yes(10), yes(1000), yes(0)], "small", 10),
        ([yes(0), yes(0), no(9)], "small", 0),
        ([yes(9), yes(899), no(9)], "large", 899),
    ] {
        let decision = decide(&limits, &outcomes);
        assert!(decision.is_allowed());
        let named = decision.limit().map(Limit::name);
        assert_eq!((named, decision.remaining(), decision.retry_after()), (Some(binding), remaining, None));
        assert_eq!(decision.denials().count(), 0);
    }
    // Denied: the longest wait, and never the shadow's.
    for (outcomes, binding, wait, denials) in [
        ([no(3), yes(0), no(9)], "small", 3, 1),
        ([no(3), no(4), yes(5)], "large", 4, 2),
        ([no(5), no(4), no(6)], "small", 5, 2),
        ([yes(0), no(1), no(6)], "large", 1, 1),
    ] {
        let decision = decide(&limits, &outcomes);
        assert!(!decision.is_allowed());
        let named = decision.limit().map(Limit::name);
        assert_eq!((named, decision.retry_after()), (Some(binding), Some(Nanos::from_secs(wait))));
        assert_eq!(decision.denials().count(), denials);
        let names: Vec<_> = decision.limits().map(|(limit, _)| limit.name()).collect();
        assert_eq!(names, ["small", "large", "shadow"]);
        let owned = decision.into_owned();
        assert_eq!(owned.limit().map(Limit::name), Some(binding));
    }
}

#[test]
fn a_shadow_limit_binds_only_alone() {
    let alone = [Limit::new("shadow", rate("5/s")).shadow()];
    let decision = decide(&alone, &[no(9)]);
    assert!(decision.is_allowed());
    assert_eq!(decision.limit().map(Limit::name), Some("shadow"));
    assert_eq!((decision.retry_after(), decision.denials().count()), (None, 0));
    let nothing = decide(&[], &[]);
    assert!(nothing.is_allowed() && nothing.limit().is_none());
    assert_eq!((nothing.remaining(), nothing.reset_after()), (u32::MAX, Nanos::ZERO));
}

#[test]
fn no_wait_is_long_enough_for_what_can_never_be() {
    let limits = [Limit::new("small", rate("10/s")), Limit::new("large", rate("1000/s"))];
    let decision = decide(&limits, &[no(3), Outcome::refused(7, None)]);
    assert_eq!(decision.limit().map(Limit::name), Some("large"));
    let limiter = Limiter::new(MemoryStore::with_clock(ManualClock::default()));
    let both = [(&limits[1], "k"), (&limits[0], "k")];
    let error = limiter.try_check_all(&both, 11).unwrap_err();
    assert!(
        matches!(&error, CheckError::CostExceedsLimit { limit, cost: 11, capacity: 10 } if limit == "small"),
        "{error}"
    );
    assert_eq!(limiter.try_check_all(&both, 10).unwrap().remaining(), 0);
    assert_eq!(limiter.try_check(&limits[1], "k").remaining(), 989);
}

proptest! {
    #![proptest_config(oracle::cases(500))]

    /// Whatever the order of the limits: the same verdict, the same wait, a limit that is no less pressing.
    #[test]
    fn order_does_not_matter(
        parts in prop::collection::vec((1u32..=100, 0u32..=100, prop::option::of(1u64..=100), any::<bool>()), 1..6),
        rotate in 0usize..6,
    ) {
        let make = |parts: &[(u32, u32, Option<u64>, bool)]| {
            let limit = |&(count, _, _, shadow): &(u32, u32, Option<u64>, bool)| {
                let limit = Limit::new(format!("x{count}"), Rate::per_second(count));
                if shadow { limit.shadow() } else { limit }
            };
            let outcome = |&(count, left, wait, _): &(u32, u32, Option<u64>, bool)| match wait {
                Some(seconds) => Outcome::refused(left.min(count), Some(Nanos::from_secs(seconds))),
                None => Outcome::admitted(left.min(count)),
            };
            (parts.iter().map(limit).collect::<Vec<_>>(), parts.iter().map(outcome).collect::<Vec<_>>())
        };
        let mut turned = parts.clone();
        turned.rotate_left(rotate % parts.len());
        let ((limits, outcomes), (turned_limits, turned_outcomes)) = (make(&parts), make(&turned));
        let (one, other) = (decide(&limits, &outcomes), decide(&turned_limits, &turned_outcomes));
        prop_assert_eq!(one.is_allowed(), other.is_allowed());
        prop_assert_eq!(one.retry_after(), other.retry_after());
        prop_assert_eq!(one.denials().count(), other.denials().count());
        let enforced: Vec<_> = parts.iter().filter(|part| !part.3).collect();
        prop_assert_eq!(one.retry_after(), enforced.iter().filter_map(|part| part.2).max().map(Nanos::from_secs));
        if !enforced.is_empty() {
            prop_assert!(!one.limit().unwrap().is_shadow());
        }
        if one.is_allowed() {
            let shares = parts.iter().filter(|part| enforced.is_empty() && part.2.is_none() || !part.3);
            let share = |count: u32, left: u32| f64::from(left.min(count)) / f64::from(count);
            let least = shares.map(|&(count, left, ..)| share(count, left)).fold(1.0, f64::min);
            let outcome = one.limits().find(|(limit, _)| Some(limit.id()) == one.limit().map(Limit::id));
            prop_assert!(outcome.is_some());
            if !enforced.is_empty() {
                let capacity = one.limit().unwrap().capacity();
                prop_assert!((share(capacity, one.remaining()) - least).abs() < 1e-6);
            }
        }
    }

    /// What a program says of a fresh key is what the limit says of itself.
    #[test]
    fn any_quota_that_loads_works(count in 1u32.., seconds in 1u32.., burst in prop::option::of(1u32..), debt in 0u32.., kind in 0u8..3) {
        let Ok(rate) = Rate::new(count, Duration::from_secs(seconds.into())) else { return Ok(()) };
        let mut spec = LimitSpec::new("x", rate);
        spec.algorithm = [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::FixedWindow][usize::from(kind)];
        spec.burst = burst.filter(|_| kind == 0);
        spec.debt = debt >> 16;
        let limit = match Limit::try_from(spec) {
            Ok(limit) => limit,
            Err(error) => {
                prop_assert!(matches!(error, LimitError::TooSlow { .. }), "{}", error);
                return Ok(());
            }
        };
        prop_assert!(limit.window_seconds().is_some_and(|seconds| seconds >= 1));
        let limiter = Limiter::new(MemoryStore::with_clock(ManualClock::default()));
        let capacity = limit.capacity();
        prop_assert_eq!(limiter.try_check_all(&[(&limit, ())], capacity).unwrap().remaining(), 0);
        let denied = limiter.try_check(&limit, ());
        prop_assert!(!denied.is_allowed());
        prop_assert!(denied.retry_after().unwrap() <= denied.reset_after());
    }
}

/// `Op` says which operations can be refused; limits rely on it.
#[test]
fn what_can_be_refused() {
    assert!(Op::Take(0).is_conditional() && Op::Peek(1).is_conditional());
    assert!(
        !Op::Debit(1).is_conditional()
            && !Op::Refund(1, None).is_conditional()
            && !Op::Reset.is_conditional()
    );
}
