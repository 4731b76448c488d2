//! Limits: their numbers, keys, costs and overrides, and how these go together.

use std::collections::HashSet;
use std::sync::Arc;

use ratelimit_core::{Algorithm, Limit, LimitError, LimitSpec, Mode, Period, Rate};

use super::{requests, rls};
use crate::config::decode::{At, Either, Field, Many};
use crate::config::fault::{Faults, Place, nearest, shown};
use crate::config::model::{
    Actual, Cost, Late, LimitConfig, Match, Missing, Outcomes, Override, Quota, Tiers,
};
use crate::config::raw::{self, AlgorithmWord, CostWord, KeyPart as RawPart, MissingWord, ModeWord};
use crate::config::words::{Glob, KeyPart, Source};

/// Most parts of a key, and most values of which one part is the first.
const MOST_PARTS: usize = 16;

/// The name of a limit that was given none.
pub(super) fn generated(number: usize) -> String {
    format!("limit-{number}")
}

/// What a limit means; `number` names it where it has no name, `place` is where it begins.
pub(in crate::config) fn limit(
    raw: &raw::Limit,
    number: usize,
    place: &Place,
    faults: &mut Faults,
) -> Option<LimitConfig> {
    let matches = raw.r#match.get().map_or_else(Match::default, |given| requests::matches(given, faults));
    let key = raw.key.get().map(|parts| key(parts, &raw.r#match, &matches, faults));
    let cost = cost(raw, faults);
    let late = late(raw, faults);
    let overdraft = raw.overdraft.get().is_some_and(|overdraft| overdraft.value);
    let built = spec(raw, number, place, faults).and_then(|spec| {
        let algorithm = spec.algorithm;
        Limit::try_from(spec).map_err(|error| refuse(&error, algorithm, raw, place, faults)).ok()
    });
    let parts = match &raw.key {
        Field::Absent => Some(0),
        Field::Broken => None,
        Field::Given(parts) => Some(parts.0.len()),
    };
    let overrides = overrides(raw, parts, built.as_ref(), faults);
    let tiers = tiers(raw, built.as_ref(), &matches, faults);
    let limit = built?;
    if let (Cost::Fixed(fixed), Some(given), false) = (&cost, raw.cost.get(), overdraft) {
        check_cost(*fixed, &limit, &given.place, "the limit", faults);
    }
    let missing = match raw.missing.get().map(|given| given.value) {
        Some(MissingWord::Skip) => Missing::Skip,
        Some(MissingWord::Deny) => Missing::Deny,
        Some(MissingWord::Share) | None => Missing::Share,
    };
    let config = LimitConfig {
        off: raw.mode.get().is_some_and(|mode| mode.value == ModeWord::Off),
        matches,
        key: key.unwrap_or_default(),
        missing,
        cost,
        late: late.map(Arc::new),
        overdraft,
        overrides,
        tiers,
        limit,
    };
    if config.names_descriptors() {
        rls::check(raw, &config, faults);
    }
    Some(config)
}

/// The numbers of a limit, once they go together; `None` if they do not, or some were refused.
fn spec(raw: &raw::Limit, number: usize, place: &Place, faults: &mut Faults) -> Option<LimitSpec> {
    let algorithm = algorithm(raw, place, faults)?;
    let mut sound = true;
    let mut surplus = |given: Option<&Place>, what: &str, hint: &str, faults: &mut Faults| {
        if let Some(place) = given {
            faults.refuse_with(place, format!("{algorithm} has no {what}"), hint);
            sound = false;
        }
    };
    if algorithm == Algorithm::Concurrency {
        surplus(raw.rate.get().map(|given| &given.place), "rate", "make it a limit of its own", faults);
    }
    if algorithm != Algorithm::TokenBucket {
        surplus(raw.burst.get().map(|given| &given.place), "burst", "only token_bucket has one", faults);
    }
    if algorithm != Algorithm::FixedWindow {
        let zone = raw.timezone.get().map(|given| &given.place);
        surplus(zone, "time zone", "only fixed_window follows a calendar", faults);
        if let Some(rate) = raw.rate.get().filter(|rate| rate.period() == Period::Month) {
            surplus(Some(&rate.place), "month", "only fixed_window counts by the month", faults);
        }
    }
    let broken = raw.name.is_broken()
        || raw.rate.is_broken()
        || raw.burst.is_broken()
        || raw.concurrency.is_broken()
        || raw.timezone.is_broken();
    if !sound || broken {
        return None;
    }
    let first = first_tier(raw);
    let rate = raw.rate.get().or_else(|| first?.rate.get()).map(|rate| rate.value);
    Some(LimitSpec {
        name: raw.name.get().map_or_else(|| generated(number), |name| name.value.0.clone()),
        algorithm,
        rate,
        burst: raw.burst.get().map(|burst| burst.0),
        permits: raw.concurrency.get().map(|permits| permits.0),
        debt: debt(raw, rate, raw.burst.get().map(|burst| burst.0)),
        time_zone: raw.timezone.get().map(|zone| zone.value.0.clone()),
        mode: match raw.mode.get().map(|mode| mode.value) {
            Some(ModeWord::Shadow) => Mode::Shadow,
            _ => Mode::Enforce,
        },
    })
}

fn algorithm(raw: &raw::Limit, place: &Place, faults: &mut Faults) -> Option<Algorithm> {
    if raw.algorithm.is_broken() {
        return None;
    }
    let named = raw.algorithm.get().map(|word| match word.value {
        AlgorithmWord::TokenBucket => Algorithm::TokenBucket,
        AlgorithmWord::SlidingWindow => Algorithm::SlidingWindow,
        AlgorithmWord::FixedWindow => Algorithm::FixedWindow,
        AlgorithmWord::Concurrency => Algorithm::Concurrency,
    });
    let word = raw.algorithm.get().map_or(place, |word| &word.place);
    if !raw.concurrency.is_absent() {
        if let Some(other) = named.filter(|named| *named != Algorithm::Concurrency) {
            let hint = "concurrency is an algorithm of its own: write one of them";
            faults.refuse_with(word, format!("{other} stands beside concurrency"), hint);
            return None;
        }
        return Some(Algorithm::Concurrency);
    }
    if named == Some(Algorithm::Concurrency) {
        faults.refuse_with(word, "how many at once is missing", "write concurrency: 4, say");
        return None;
    }
    // The rates of tiers stand within them.
    if raw.rate.is_absent() && raw.tiers.is_absent() {
        faults.refuse_with(place, "rate is missing", "write rate: 100/s, say, or concurrency: 4");
    }
    (!raw.rate.is_absent() || !raw.tiers.is_absent()).then_some(named.unwrap_or_default())
}

/// Tells what the library refuses, where it was written.
fn refuse(error: &LimitError, algorithm: Algorithm, raw: &raw::Limit, place: &Place, faults: &mut Faults) {
    let rate = raw.rate.get().map(|given| &given.place);
    let at = match error {
        LimitError::Name(_) => raw.name.get().map(|given| &given.place),
        LimitError::TimeZone(_) => raw.timezone.get().map(|given| &given.place),
        LimitError::TooSlow { .. } => raw.burst.get().map(|given| &given.place).or(rate),
        LimitError::CalendarNeedsFixedWindow if algorithm == Algorithm::FixedWindow => rate,
        _ => rate.or(raw.concurrency.get().map(|given| &given.place)),
    };
    faults.refuse(at.unwrap_or(place), error.to_string());
}

/// What a key is made of.
pub(super) fn key(
    parts: &Many<RawPart>,
    raw_match: &Field<raw::Match>,
    matches: &Match,
    faults: &mut Faults,
) -> Vec<KeyPart> {
    // What a pattern captures is not known where it was refused.
    let known = match raw_match {
        Field::Broken => None,
        Field::Given(raw) if raw.path.is_broken() => None,
        _ => Some(matches.path.iter().flat_map(|path| path.captures()).collect::<Vec<_>>()),
    };
    let check = |source: &Source, place: &Place, faults: &mut Faults| {
        if let (Source::Capture(name), Some(known)) = (source, &known)
            && !known.contains(&name.as_str())
        {
            let hint = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean path.{near}?"),
                None if known.is_empty() => format!("write match: {{path: \"/{{{name}}}/**\"}}, say"),
                None => format!("it captures {}", known.join(", ")),
            };
            faults.refuse_with(place, format!("the path of match captures no {}", shown(name)), hint);
        }
    };
    let mut built = Vec::new();
    if let Some(surplus) = parts.0.get(MOST_PARTS) {
        faults.refuse(&surplus.place, format!("a key has at most {MOST_PARTS} parts"));
    }
    for part in parts.0.iter().take(MOST_PARTS) {
        let part = match &part.value {
            Either::Word(source) => {
                check(source, &part.place, faults);
                KeyPart::One(source.clone())
            }
            Either::Section(first) => {
                let sources: &[At<Source>] = first.first.get().map_or(&[], |sources| &sources.0);
                if let Some(surplus) = sources.get(MOST_PARTS) {
                    faults.refuse(&surplus.place, format!("at most {MOST_PARTS} values to choose from"));
                }
                for source in sources {
                    check(source, &source.place, faults);
                }
                KeyPart::First(sources.iter().map(|source| source.value.clone()).collect())
            }
        };
        if built.contains(&part) {
            let place = parts.0.get(built.len()).map_or_else(Place::default, |part| part.place.clone());
            faults.refuse(&place, format!("{part} is part of the key already"));
        }
        built.push(part);
    }
    built
}

fn cost(raw: &raw::Limit, faults: &mut Faults) -> Cost {
    let Some(given) = raw.cost.get() else { return Cost::Fixed(1) };
    match &given.value {
        Either::Word(CostWord::Fixed(cost)) => Cost::Fixed(*cost),
        Either::Word(CostWord::Value(source)) => Cost::Value { source: source.clone(), default: 1 },
        Either::Section(late) => {
            let default = late.default.get().map_or(1, |default| default.value.0);
            match late.reserve.get().map(|reserve| &reserve.value) {
                Some(CostWord::Fixed(cost)) => Cost::Fixed(*cost),
                Some(CostWord::Value(source)) => Cost::Value { source: source.clone(), default },
                None => {
                    if late.reserve.is_absent()
                        && !raw.overdraft.get().is_some_and(|overdraft| overdraft.value)
                    {
                        let hint = "write reserve: 500, say, or overdraft: true to hold nothing";
                        faults.refuse_with(&given.place, "reserve is missing", hint);
                    }
                    Cost::Fixed(0)
                }
            }
        }
    }
}

/// How the end of a request decides what it costs.
fn late(raw: &raw::Limit, faults: &mut Faults) -> Option<Late> {
    let mut late = Late::default();
    if let Some(given) = raw.count.get() {
        let mut outcomes = Outcomes::default();
        if given.status.is_absent() && given.grpc_status.is_absent() {
            faults.refuse_with(&given.place, "says nothing", "write status: [401, 403], say");
        }
        for status in given.status.get().into_iter().flat_map(|list| &list.0) {
            outcomes.status.push(status.value.0.clone());
        }
        for status in given.grpc_status.get().into_iter().flat_map(|list| &list.0) {
            outcomes.grpc.extend(u16::try_from(status.value.0).ok());
        }
        late.count = Some(outcomes);
    }
    if let Some(Either::Section(section)) = raw.cost.get().map(|cost| &cost.value)
        && let Some(header) = section.actual.get().and_then(|actual| actual.response_header.get())
    {
        let unknown = section.if_unknown.get().map(|word| word.value);
        late.actual = Some(Actual {
            header: header.value.clone(),
            refund_unknown: unknown == Some(raw::IfUnknown::Refund),
        });
    }
    if !raw.concurrency.is_absent() {
        let places = [
            raw.count.get().map(|given| &given.place),
            raw.overdraft.get().map(|given| &given.place),
            late.actual.as_ref().and_then(|_| raw.cost.get().map(|given| &given.place)),
        ];
        for place in places.into_iter().flatten() {
            faults.refuse(place, "a concurrency limit gives all back when the request ends");
        }
    }
    (late != Late::default()).then_some(late)
}

/// How far a key may go below zero: four times its burst where the cost may turn out larger than what was held.
fn debt(raw: &raw::Limit, rate: Option<Rate>, burst: Option<u32>) -> u32 {
    let late = matches!(raw.cost.get().map(|cost| &cost.value), Some(Either::Section(_)));
    let overdraft = raw.overdraft.get().is_some_and(|overdraft| overdraft.value);
    if late || overdraft {
        burst.or(rate.map(|rate| rate.count())).unwrap_or_default().saturating_mul(4)
    } else {
        0
    }
}

/// Refuses a cost that could never be admitted.
fn check_cost(cost: u32, limit: &Limit, place: &Place, whose: &str, faults: &mut Faults) {
    let most = limit.capacity();
    if cost > most {
        faults
            .refuse(place, format!("a cost of {cost} could never be admitted: {whose} holds {most} at most"));
    }
}

fn overrides(
    raw: &raw::Limit,
    parts: Option<usize>,
    limit: Option<&Limit>,
    faults: &mut Faults,
) -> Vec<Override> {
    let mut built = Vec::new();
    let Some(given) = raw.overrides.get() else { return built };
    if parts == Some(0) {
        faults.refuse_with(
            &given.place,
            "the limit has no key",
            "overrides choose by it: give the limit one",
        );
    }
    let (mut seen, mut all) = (HashSet::new(), false);
    // A cost of 1 fits everywhere.
    let cost = match raw.cost.get().map(|cost| &cost.value) {
        Some(Either::Word(CostWord::Fixed(cost))) => *cost,
        _ => 1,
    };
    for entry in &given.0 {
        let quota = quota(entry, limit, faults);
        let Some(key) = entry.key.get() else { continue };
        if let Some(parts) = parts.filter(|parts| *parts > 0 && *parts != key.0.len()) {
            let message = format!("{} given, but the key has {}", count(key.0.len()), count(parts));
            faults.refuse_with(&key.place, message, "write one pattern for each part; \"*\" fits any");
        }
        if let Some(Quota::Limit(limit)) = &quota {
            check_cost(cost, limit, &entry.place, "the override", faults);
        }
        let key: Vec<_> = key.0.iter().map(|glob| glob.value.clone()).collect();
        let before = if all { Some("one before fits every key") } else { None };
        all |= key.iter().all(Glob::is_any);
        let again = (!seen.insert(key.clone())).then_some("the same key stands before");
        if let Some(before) = before.or(again) {
            faults.warn(&entry.place, format!("is never used: {before}"));
        }
        built.extend(quota.map(|quota| Override { key, quota }));
    }
    built
}

/// The tier whose rate stands for the limit's where the limit has none of its own.
fn first_tier(raw: &raw::Limit) -> Option<&raw::Tier> {
    let tiers = raw.tiers.get().filter(|_| raw.rate.is_absent())?;
    let default = tiers.default.get().map(|default| default.value.0.as_str());
    let rated = || tiers.tiers.iter().filter(|(_, tier)| tier.rate.get().is_some());
    let found = rated().find(|(name, _)| Some(name.value.as_str()) == default).or_else(|| rated().next());
    found.map(|(_, tier)| &tier.value)
}

fn tiers(raw: &raw::Limit, limit: Option<&Limit>, matches: &Match, faults: &mut Faults) -> Option<Tiers> {
    let given = raw.tiers.get()?;
    let mut built = Vec::new();
    if given.tiers.is_empty() {
        faults.refuse_with(&given.place, "there is no tier", "write free: {rate: 100/h}, say");
    }
    let fixed = match raw.cost.get().map(|cost| &cost.value) {
        Some(Either::Word(CostWord::Fixed(cost))) => *cost,
        _ => 1,
    };
    for (name, tier) in &given.tiers {
        let as_override = At {
            place: tier.place.clone(),
            value: raw::Override {
                key: Field::Absent,
                rate: tier.rate.clone(),
                burst: tier.burst.clone(),
                concurrency: tier.concurrency.clone(),
                unlimited: tier.unlimited.clone(),
                deny: tier.deny.clone(),
            },
        };
        if let Some(quota) = quota(&as_override, limit, faults) {
            if let Quota::Limit(limit) = &quota {
                check_cost(fixed, limit, &tier.place, "the tier", faults);
            }
            built.push((name.value.clone(), quota));
        }
    }
    let default = given.default.get().and_then(|default| {
        let known = given.tiers.iter().position(|(name, _)| name.value == default.value.0);
        if known.is_none() {
            let hint = nearest(&default.value.0, given.tiers.iter().map(|(name, _)| name.value.as_str()))
                .map_or_else(|| "name one of the tiers".to_owned(), |near| format!("did you mean {near}?"));
            faults.refuse_with(&default.place, format!("there is no tier {}", shown(&default.value.0)), hint);
        }
        known
    });
    if given.default.is_absent() && raw.rate.is_absent() && raw.concurrency.is_absent() {
        let hint = "name a tier as default, or give the limit a rate";
        faults.refuse_with(&given.place, "nothing is said about those in no tier", hint);
    }
    let by = given.by.get()?;
    if let Source::Capture(name) = &by.value {
        let mut known = matches.path.iter().flat_map(|path| path.captures());
        if !known.any(|known| known == name) {
            faults.refuse(&by.place, format!("the path of match captures no {}", shown(name)));
        }
    }
    Some(Tiers { by: by.value.clone(), tiers: built, default })
}

fn count(parts: usize) -> String {
    if parts == 1 { "1 part".to_owned() } else { format!("{parts} parts") }
}

/// What an override gives; `None` if that was refused or rests on something that was.
fn quota(raw: &At<raw::Override>, limit: Option<&Limit>, faults: &mut Faults) -> Option<Quota> {
    let mut kinds = Vec::new();
    let rated = !raw.rate.is_absent() || !raw.burst.is_absent();
    for (given, kind) in [
        (rated, "rate"),
        (!raw.concurrency.is_absent(), "concurrency"),
        (!raw.unlimited.is_absent(), "unlimited"),
        (!raw.deny.is_absent(), "deny"),
    ] {
        kinds.extend(given.then_some(kind));
    }
    for flag in [&raw.unlimited, &raw.deny] {
        if let Some(flag) = flag.get().filter(|flag| !flag.value) {
            faults.refuse_with(&flag.place, "false says nothing", "leave the field out");
        }
    }
    let [kind] = kinds.as_slice() else {
        let hint = "write rate (with burst, if it is to differ), concurrency, unlimited: true or deny: true";
        let message = match kinds.as_slice() {
            [] => "gives nothing".to_owned(),
            kinds => format!("gives {} at once", kinds.join(" and ")),
        };
        faults.refuse_with(&raw.place, message, hint);
        return None;
    };
    match *kind {
        "unlimited" => return Some(Quota::Unlimited),
        "deny" => return Some(Quota::Deny),
        _ => {}
    }
    if raw.rate.is_broken() || raw.burst.is_broken() || raw.concurrency.is_broken() {
        return None;
    }
    let limit = limit?;
    let algorithm = limit.spec().algorithm;
    let (rate, burst) = (raw.rate.get(), raw.burst.get());
    let places = [rate.map(|g| &g.place), burst.map(|g| &g.place), raw.concurrency.get().map(|g| &g.place)];
    let first = places.into_iter().flatten().next().unwrap_or(&raw.place);
    if (algorithm == Algorithm::Concurrency) != (*kind == "concurrency") {
        faults.refuse(first, format!("the limit is of the kind {algorithm}: it has no {kind}"));
        return None;
    }
    if let Some(burst) = burst.filter(|_| algorithm != Algorithm::TokenBucket) {
        faults.refuse_with(&burst.place, format!("{algorithm} has no burst"), "only token_bucket has one");
        return None;
    }
    let new_rate = rate.map(|rate| rate.value).or(limit.spec().rate);
    let debt = match limit.spec().debt {
        0 => 0,
        // Four times the burst, of the new quota too.
        _ => burst
            .map(|burst| burst.0)
            .or(new_rate.map(|rate| rate.count()))
            .unwrap_or_default()
            .saturating_mul(4),
    };
    let spec = LimitSpec {
        debt,
        rate: new_rate,
        burst: burst.map(|burst| burst.0),
        permits: raw.concurrency.get().map(|permits| permits.0).or(limit.spec().permits),
        ..limit.spec().clone()
    };
    Limit::try_from(spec).map(Quota::Limit).map_err(|error| faults.refuse(first, error.to_string())).ok()
}
