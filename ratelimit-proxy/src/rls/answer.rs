//! What the limits said, in Envoy's words. Limits in shadow mode are not told, here as elsewhere.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::HeaderValue;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{
    Code, DescriptorStatus, RateLimit,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Duration, ListValue, Struct, Value};
use http::HeaderMap;
use ratelimit_core::algorithm::Outcome;
use ratelimit_core::store::Verdict;
use ratelimit_core::{Decision, Limit, Nanos, Period};

use super::Met;
use crate::rules::Rules;
use crate::state::Shared;

/// What is told of a decision about all limits that were met; `None`: there were none.
pub(super) fn decided(
    decision: Option<&Decision<'_>>,
    met: &[Met<'_>],
    shared: &Shared,
    rules: &Rules,
) -> RateLimitResponse {
    let parts: Vec<(&Limit, &Outcome)> =
        decision.into_iter().flat_map(|decision| decision.limits()).collect();
    let statuses = met.iter().map(|met| match (decision, parts.get(met.hits.clone())) {
        // The only one, whose limits are all there are.
        (Some(whole), Some(own)) if own.len() == parts.len() => status(met, Some(whole)),
        (Some(whole), Some(own)) if !own.is_empty() => {
            let verdict = Verdict {
                admitted: own.iter().all(|(limit, outcome)| outcome.admitted || limit.is_shadow()),
                origin: whole.origin(),
                outcomes: own.iter().map(|(_, outcome)| **outcome).collect(),
            };
            status(met, Some(&Decision::new(own.iter().map(|(limit, _)| *limit), verdict)))
        }
        _ => status(met, None),
    });
    response(decision, statuses.collect(), shared, rules)
}

/// What is told where limits said no without a store, which then was not asked about the others.
pub(super) fn unasked(
    decision: &Decision<'_>,
    met: &[Met<'_>],
    shared: &Shared,
    rules: &Rules,
) -> RateLimitResponse {
    let mut parts = decision.limits();
    let statuses = met.iter().map(|met| {
        // The decision has those of the first descriptor first; what they say is the same for all of one.
        let mut own = parts.by_ref().take(met.denied.len());
        let status = match own.next() {
            Some((limit, outcome)) => over(limit, outcome.retry_after),
            None => status(met, None),
        };
        own.for_each(drop);
        status
    });
    response(Some(decision), statuses.collect(), shared, rules)
}

/// The status of a descriptor whose limits said that.
fn status(met: &Met<'_>, decision: Option<&Decision<'_>>) -> DescriptorStatus {
    let mut status = DescriptorStatus { code: Code::Ok.into(), ..DescriptorStatus::default() };
    match decision.and_then(|decision| Some((decision, decision.limit()?))) {
        Some((decision, limit)) if !decision.is_allowed() => return over(limit, decision.retry_after()),
        Some((decision, limit)) if !limit.is_shadow() => {
            status.current_limit = Some(current(limit));
            status.limit_remaining = decision.remaining();
            status.duration_until_reset = Some(duration(decision.reset_after()));
        }
        _ if met.unlimited => status.limit_remaining = u32::MAX,
        _ => {}
    }
    status
}

/// The status of a descriptor that a limit denies.
fn over(limit: &Limit, retry_after: Option<Nanos>) -> DescriptorStatus {
    DescriptorStatus {
        code: Code::OverLimit.into(),
        current_limit: Some(current(limit)),
        limit_remaining: 0,
        duration_until_reset: retry_after.map(duration),
        ..DescriptorStatus::default()
    }
}

fn response(
    decision: Option<&Decision<'_>>,
    statuses: Vec<DescriptorStatus>,
    shared: &Shared,
    rules: &Rules,
) -> RateLimitResponse {
    let mut response =
        RateLimitResponse { overall_code: Code::Ok.into(), statuses, ..RateLimitResponse::default() };
    let Some(decision) = decision else { return response };
    let utc = shared.utc(rules);
    let headers = if decision.is_allowed() {
        let mut headers = HeaderMap::new();
        rules.answers.fields.write(decision, utc, &mut headers);
        headers
    } else {
        response.overall_code = Code::OverLimit.into();
        let (headers, body) = rules.answers.denial(decision, rules.answers.status, utc);
        response.raw_body = body.to_vec();
        headers
    };
    let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| HeaderValue {
        key: name.as_str().to_owned(),
        value: text(value),
        ..HeaderValue::default()
    };
    response.response_headers_to_add = headers.iter().map(line).collect();
    let all = names(decision.limits().map(|(limit, _)| limit));
    let said_no = names(decision.denials().map(|(limit, _)| limit));
    let mut fields = HashMap::from([("limits".to_owned(), all)]);
    if !decision.is_allowed() {
        fields.insert("denied_by".to_owned(), said_no);
    }
    response.dynamic_metadata = Some(Struct { fields });
    response
}

/// Names of limits, each once.
fn names<'l>(limits: impl Iterator<Item = &'l Limit>) -> Value {
    let mut names: Vec<&str> = Vec::new();
    for limit in limits {
        if !names.contains(&limit.name()) {
            names.push(limit.name());
        }
    }
    let text = |name: &str| Value { kind: Some(Kind::StringValue(name.to_owned())) };
    Value { kind: Some(Kind::ListValue(ListValue { values: names.into_iter().map(text).collect() })) }
}

/// A limit's quota. A time that is none of Envoy's units has no name there; the count is the one of that time.
fn current(limit: &Limit) -> RateLimit {
    let rate = limit.spec().rate;
    let unit = match rate.map(ratelimit_core::Rate::period) {
        Some(Period::Seconds(1)) => Unit::Second,
        Some(Period::Seconds(60)) => Unit::Minute,
        Some(Period::Seconds(3_600)) => Unit::Hour,
        Some(Period::Seconds(86_400)) => Unit::Day,
        Some(Period::Seconds(604_800)) => Unit::Week,
        Some(Period::Seconds(31_536_000)) => Unit::Year,
        Some(Period::Seconds(2_592_000) | Period::Month) => Unit::Month,
        _ => Unit::Unknown,
    };
    RateLimit {
        name: limit.name().to_owned(),
        requests_per_unit: rate.map_or(limit.capacity(), ratelimit_core::Rate::count),
        unit: unit.into(),
    }
}

fn duration(time: Nanos) -> Duration {
    Duration {
        seconds: i64::try_from(time.get() / 1_000_000_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(time.get() % 1_000_000_000).unwrap_or_default(),
    }
}
