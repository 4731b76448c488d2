//! Quotas of their own for some keys: overrides and tiers.

use std::collections::HashSet;

use ratelimit_core::{Algorithm, Limit};

use super::cost::check_cost;
use crate::config::decode::{At, Either, Field};
use crate::config::fault::{Faults, nearest, shown};
use crate::config::model::{Match, Override, Quota, Tiers};
use crate::config::raw::{self, CostWord};
use crate::config::words::{Glob, Source};

pub(super) fn overrides(
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
pub(super) fn first_tier(raw: &raw::Limit) -> Option<&raw::Tier> {
    let tiers = raw.tiers.get().filter(|_| raw.rate.is_absent())?;
    let default = tiers.default.get().map(|default| default.value.0.as_str());
    let rated = || tiers.tiers.iter().filter(|(_, tier)| tier.rate.get().is_some());
    let found = rated().find(|(name, _)| Some(name.value.as_str()) == default).or_else(|| rated().next());
    found.map(|(_, tier)| &tier.value)
}

pub(super) fn tiers(
    raw: &raw::Limit,
    limit: Option<&Limit>,
    matches: &Match,
    faults: &mut Faults,
) -> Option<Tiers> {
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
    let (rate, burst) = (rate.map(|rate| rate.value), burst.map(|burst| burst.0));
    let permits = raw.concurrency.get().map(|permits| permits.0);
    Quota::of(limit, rate, burst, permits).map_err(|error| faults.refuse(first, error.to_string())).ok()
}
