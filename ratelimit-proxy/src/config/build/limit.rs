//! Limits: what their sections mean, and how these go together.

mod cost;
mod key;
mod numbers;
mod quota;

use std::sync::Arc;

use ratelimit_core::Limit;

use super::{requests, rls};
use crate::config::decode::{Either, Field};
use crate::config::fault::{Faults, Place};
use crate::config::model::{Cost, LimitConfig, Match, Missing};
use crate::config::raw::{self, MissingWord, ModeWord, Root};

use self::cost::{check_cost, cost, late};
pub(super) use self::key::key;
use self::numbers::{refuse, spec};
use self::quota::{overrides, tiers};

/// The name of a limit that was given none.
pub(super) fn generated(number: usize) -> String {
    format!("limit-{number}")
}

/// Where the limit of that name stands; as near as can be said if it has no name of its own.
pub(super) fn place<'r>(root: &'r Root, name: &str, top: &'r Place) -> &'r Place {
    let Some(limits) = root.limits.get() else { return top };
    let named = limits.0.iter().find_map(|entry| {
        let raw = match &entry.value {
            Either::Word(short) => &short.0,
            Either::Section(raw) => raw,
        };
        raw.name.get().filter(|given| given.value.0 == name).map(|_| &entry.place)
    });
    named.unwrap_or(&limits.place)
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
