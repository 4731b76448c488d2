//! Traced requests as the protocol has them, named as OpenTelemetry's conventions for HTTP have it: a span for the
//! request, one for the decision of its limits, one for the upstream.

use std::time::Duration;

use http::{Method, Version};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Outcome;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use tonic::Code;

use super::{number, scope, text};
use crate::telemetry::trace::{Asked, Call, Decided, Heard, Message, Record, Step};

/// That a span is sampled, and that it is known whether its parent is in another process.
const FLAGS: u32 = 0x1 | 0x100;
/// That it is.
const REMOTE: u32 = 0x200;

/// Those requests.
pub(super) fn request(resource: &Resource, records: Vec<Record>) -> ExportTraceServiceRequest {
    let mut spans = Vec::with_capacity(records.len() * 3);
    for record in records {
        spans.extend(record.decision.as_ref().map(|decided| decision(&record, decided)));
        if let (Some(heard), Asked::Http(message)) = (&record.upstream, &record.asked) {
            spans.push(upstream(&record, message, heard));
        }
        spans.push(whole(record));
    }
    let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }];
    let resource = Some(resource.clone());
    let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }
}

fn whole(record: Record) -> Span {
    let (name, mut attributes, status) = match record.asked {
        Asked::Http(message) => http(message),
        Asked::Grpc(call) => grpc(&call),
    };
    attributes.push(text("client.address", record.client.to_string()));
    Span {
        trace_id: record.trace.to_be_bytes().to_vec(),
        span_id: record.own.to_be_bytes().to_vec(),
        parent_span_id: record.parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default(),
        trace_state: record.state,
        flags: if record.parent.is_some() { FLAGS | REMOTE } else { FLAGS },
        name,
        kind: SpanKind::Server.into(),
        start_time_unix_nano: record.began,
        end_time_unix_nano: later(record.began, record.took),
        attributes,
        status,
        ..Span::default()
    }
}

/// Name, attributes and status of what was asked so.
type Named = (String, Vec<KeyValue>, Option<Status>);

fn http(message: Message) -> Named {
    let mut attributes = vec![
        method(&message.method),
        text("url.path", message.path),
        text("url.scheme", message.scheme),
        text("network.protocol.version", version(message.version)),
        number("http.response.status_code", message.status.as_u16()),
    ];
    attributes.extend(message.host.map(|host| text("server.address", host)));
    // What a client does wrong is no error of ours.
    let status = message.status.is_server_error().then(|| failed(&mut attributes, message.status.as_str()));
    (name(&message.method).to_owned(), attributes, status)
}

fn grpc(call: &Call) -> Named {
    let code = i32::from(call.code);
    let mut attributes = vec![
        text("rpc.system", "grpc"),
        text("rpc.service", call.service),
        text("rpc.method", call.method),
        number("rpc.grpc.status_code", code),
    ];
    let ours = matches!(call.code, Code::Unknown | Code::Internal | Code::Unavailable);
    let status = ours.then(|| failed(&mut attributes, &code.to_string()));
    (format!("{}/{}", call.service, call.method), attributes, status)
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

fn upstream(record: &Record, message: &Message, heard: &Heard) -> Span {
    let mut attributes = vec![method(&message.method)];
    let mut status = None;
    match &heard.answer {
        Some((server, answer)) => {
            attributes.push(text("server.address", server));
            attributes.push(number("http.response.status_code", answer.as_u16()));
            if answer.is_client_error() || answer.is_server_error() {
                status = Some(failed(&mut attributes, answer.as_str()));
            }
        }
        None => {
            attributes.push(text("error.type", "no_answer"));
            status = Some(Status { code: Outcome::Error.into(), ..Status::default() });
        }
    }
    Span {
        name: name(&message.method).to_owned(),
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

/// A failure that has a word.
fn failed(attributes: &mut Vec<KeyValue>, how: &str) -> Status {
    attributes.push(text("error.type", how));
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
