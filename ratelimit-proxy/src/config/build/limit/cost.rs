//! What requests cost: before they are served, and once they were.

use ratelimit_core::{Limit, Rate};

use crate::config::decode::Either;
use crate::config::fault::{Faults, Place};
use crate::config::model::{Actual, Cost, Late, Outcomes};
use crate::config::raw::{self, CostWord};

pub(super) fn cost(raw: &raw::Limit, faults: &mut Faults) -> Cost {
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
pub(super) fn late(raw: &raw::Limit, faults: &mut Faults) -> Option<Late> {
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
pub(super) fn debt(raw: &raw::Limit, rate: Option<Rate>, burst: Option<u32>) -> u32 {
    let late = matches!(raw.cost.get().map(|cost| &cost.value), Some(Either::Section(_)));
    let overdraft = raw.overdraft.get().is_some_and(|overdraft| overdraft.value);
    if late || overdraft {
        burst.or(rate.map(|rate| rate.count())).unwrap_or_default().saturating_mul(4)
    } else {
        0
    }
}

/// Refuses a cost that could never be admitted.
pub(super) fn check_cost(cost: u32, limit: &Limit, place: &Place, whose: &str, faults: &mut Faults) {
    let most = limit.capacity();
    if cost > most {
        faults
            .refuse(place, format!("a cost of {cost} could never be admitted: {whose} holds {most} at most"));
    }
}
