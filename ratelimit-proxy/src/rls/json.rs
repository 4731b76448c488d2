//! An answer as JSON: what `protojson` makes of it, so that who asks envoyproxy/ratelimit's `/json` reads it alike.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Duration, Value};
use serde_json::{Map, json};

/// The answer; fields that have their default are left out.
pub(crate) fn of(answer: &RateLimitResponse) -> serde_json::Value {
    let mut all = Map::new();
    all.insert("overallCode".to_owned(), answer.overall_code().as_str_name().into());
    if !answer.statuses.is_empty() {
        all.insert("statuses".to_owned(), answer.statuses.iter().map(status).collect());
    }
    if !answer.response_headers_to_add.is_empty() {
        let line = |header: &envoy_types::pb::envoy::config::core::v3::HeaderValue| json!({"key": header.key, "value": header.value});
        all.insert(
            "responseHeadersToAdd".to_owned(),
            answer.response_headers_to_add.iter().map(line).collect(),
        );
    }
    if !answer.raw_body.is_empty() {
        all.insert("rawBody".to_owned(), STANDARD.encode(&answer.raw_body).into());
    }
    if let Some(metadata) = &answer.dynamic_metadata {
        let fields = metadata.fields.iter().map(|(name, value)| (name.clone(), plain(value)));
        all.insert("dynamicMetadata".to_owned(), serde_json::Value::Object(fields.collect()));
    }
    serde_json::Value::Object(all)
}

/// Whether it says no.
pub(crate) fn is_over_limit(answer: &RateLimitResponse) -> bool {
    answer.overall_code() == Code::OverLimit
}

fn status(status: &DescriptorStatus) -> serde_json::Value {
    let mut all = Map::new();
    all.insert("code".to_owned(), status.code().as_str_name().into());
    if let Some(limit) = &status.current_limit {
        all.insert(
            "currentLimit".to_owned(),
            json!({"name": limit.name, "requestsPerUnit": limit.requests_per_unit, "unit": limit.unit().as_str_name()}),
        );
    }
    if status.limit_remaining > 0 {
        all.insert("limitRemaining".to_owned(), status.limit_remaining.into());
    }
    if let Some(reset) = &status.duration_until_reset {
        all.insert("durationUntilReset".to_owned(), duration(reset).into());
    }
    serde_json::Value::Object(all)
}

/// Seconds with 0, 3, 6 or 9 digits behind the point.
fn duration(Duration { seconds, nanos }: &Duration) -> String {
    match nanos {
        0 => format!("{seconds}s"),
        nanos if nanos % 1_000_000 == 0 => format!("{seconds}.{:03}s", nanos / 1_000_000),
        nanos if nanos % 1_000 == 0 => format!("{seconds}.{:06}s", nanos / 1_000),
        nanos => format!("{seconds}.{nanos:09}s"),
    }
}

/// What our metadata is made of: lists of texts.
fn plain(value: &Value) -> serde_json::Value {
    match &value.kind {
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::ListValue(list)) => list.values.iter().map(plain).collect(),
        _ => serde_json::Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, nanos, text) in [
            (0, 0, "0s"),
            (41, 0, "41s"),
            (1, 500_000_000, "1.500s"),
            (1, 500_000, "1.000500s"),
            (0, 1, "0.000000001s"),
        ] {
            assert_eq!(duration(&Duration { seconds, nanos }), text);
        }
    }
}
