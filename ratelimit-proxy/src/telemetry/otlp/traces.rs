//! Traced requests as the protocol has them, named as OpenTelemetry's conventions for HTTP have it: a span for the
//! request, one for the decision of its limits, one for the upstream.

use std::time::Duration;

use http::{Method, StatusCode, Version};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Outcome;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use super::{number, scope, text};
use crate::telemetry::trace::{Decided, Heard, Record, Step};

/// That a span is sampled, and that it is known whether its parent is in another process.
const FLAGS: u32 = 0x1 | 0x100;
/// That it is.
const REMOTE: u32 = 0x200;

/// Those requests.
pub(super) fn request(resource: &Resource, records: Vec<Record>) -> ExportTraceServiceRequest {
    let mut spans = Vec::with_capacity(records.len() * 3);
    for record in records {
        spans.extend(record.decision.as_ref().map(|decided| decision(&record, decided)));
        spans.extend(record.upstream.as_ref().map(|heard| upstream(&record, heard)));
        spans.push(whole(record));
    }
    let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }];
    let resource = Some(resource.clone());
    let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }
}

fn whole(record: Record) -> Span {
    let mut attributes = vec![
        method(&record.method),
        text("url.path", record.path),
        text("url.scheme", record.scheme),
        text("client.address", record.client.to_string()),
        text("network.protocol.version", version(record.version)),
        number("http.response.status_code", record.status.as_u16()),
    ];
    attributes.extend(record.host.map(|host| text("server.address", host)));
    // What a client does wrong is no error of ours.
    let status = record.status.is_server_error().then(|| failed(&mut attributes, record.status));
    Span {
        trace_id: record.trace.to_be_bytes().to_vec(),
        span_id: record.own.to_be_bytes().to_vec(),
        parent_span_id: record.parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default(),
        trace_state: record.state,
        flags: if record.parent.is_some() { FLAGS | REMOTE } else { FLAGS },
        name: name(&record.method).to_owned(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: record.began,
        end_time_unix_nano: later(record.began, record.took),
        attributes,
        status,
        ..Span::default()
    }
}

fn decision(record: &Record, decided: &Decided) -> Span {
    let mut attributes = vec![text("ratelimit.outcome", decided.outcome)];
    if let Some((limit, remaining)) = &decided.limit {
        attributes.push(text("ratelimit.limit", &**limit));
        attributes.push(number("ratelimit.remaining", *remaining));
    }
    Span {
        name: "decide".to_owned(),
        kind: SpanKind::Internal.into(),
        attributes,
        ..within(record, decided.step)
    }
}

fn upstream(record: &Record, heard: &Heard) -> Span {
    let mut attributes = vec![method(&record.method)];
    let mut status = None;
    match &heard.answer {
        Some((server, answer)) => {
            attributes.push(text("server.address", server));
            attributes.push(number("http.response.status_code", answer.as_u16()));
            if answer.is_client_error() || answer.is_server_error() {
                status = Some(failed(&mut attributes, *answer));
            }
        }
        None => {
            attributes.push(text("error.type", "no_answer"));
            status = Some(Status { code: Outcome::Error.into(), ..Status::default() });
        }
    }
    Span {
        name: name(&record.method).to_owned(),
        kind: SpanKind::Client.into(),
        attributes,
        status,
        ..within(record, heard.step)
    }
}

/// A part of a request.
fn within(record: &Record, step: Step) -> Span {
    let start = later(record.began, step.after);
    Span {
        trace_id: record.trace.to_be_bytes().to_vec(),
        span_id: step.span.to_be_bytes().to_vec(),
        parent_span_id: record.own.to_be_bytes().to_vec(),
        trace_state: record.state.clone(),
        flags: FLAGS,
        start_time_unix_nano: start,
        end_time_unix_nano: later(start, step.took),
        ..Span::default()
    }
}

fn failed(attributes: &mut Vec<KeyValue>, status: StatusCode) -> Status {
    attributes.push(text("error.type", status.as_str()));
    Status { code: Outcome::Error.into(), ..Status::default() }
}

/// Methods that there are; what else a client may call one is no name for anything.
fn known(method: &Method) -> Option<&str> {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::TRACE,
        Method::CONNECT,
    ];
    known.contains(method).then(|| method.as_str())
}

fn method(method: &Method) -> KeyValue {
    text("http.request.method", known(method).unwrap_or("_OTHER"))
}

fn name(method: &Method) -> &str {
    known(method).unwrap_or("HTTP")
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

fn later(time: u64, length: Duration) -> u64 {
    time.saturating_add(u64::try_from(length.as_nanos()).unwrap_or(u64::MAX))
}
