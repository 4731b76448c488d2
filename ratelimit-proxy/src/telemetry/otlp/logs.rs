//! Lines of the log as the protocol has them: a layer of `tracing` beside the one that writes to stderr, under the same
//! level and filters.

use std::fmt;
use std::sync::{Arc, OnceLock};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use ratelimit_core::SystemClock;
use ratelimit_core::time::Clock as _;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::{Outbox, attribute, scope, whole};

/// Where lines go; set when there is somewhere.
static OUTBOX: OnceLock<(Arc<Outbox>, SystemClock)> = OnceLock::new();

/// From now on, lines of this process's log go there.
pub(super) fn export(outbox: &Arc<Outbox>) {
    // A second proxy in one process is a test's; the first one goes on.
    let _ = OUTBOX.set((Arc::clone(outbox), SystemClock::default()));
}

/// A line.
#[derive(Debug, Default)]
pub(crate) struct Line {
    at: u64,
    level: Option<Level>,
    message: String,
    fields: Vec<(&'static str, Any)>,
}

/// The layer that takes lines.
#[derive(Debug)]
pub(crate) struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some((outbox, clock)) = OUTBOX.get() else { return };
        let mut line =
            Line { at: clock.utc().get(), level: Some(*event.metadata().level()), ..Line::default() };
        event.record(&mut line);
        outbox.line(line);
    }
}

impl Line {
    fn put(&mut self, field: &Field, value: Any) {
        match (field.name(), value) {
            ("message", Any::StringValue(message)) => self.message = message,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Any::DoubleValue(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Any::IntValue(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Any::IntValue(whole(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Any::BoolValue(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Any::StringValue(value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Any::StringValue(format!("{value:?}")));
    }
}

/// Those lines.
pub(super) fn request(resource: &Resource, lines: Vec<Line>) -> ExportLogsServiceRequest {
    let log_records = lines.into_iter().map(record).collect();
    let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() }];
    let resource_logs =
        vec![ResourceLogs { resource: Some(resource.clone()), scope_logs, ..ResourceLogs::default() }];
    ExportLogsServiceRequest { resource_logs }
}

fn record(line: Line) -> LogRecord {
    let (severity, word) = match line.level {
        Some(Level::ERROR) => (SeverityNumber::Error, "ERROR"),
        Some(Level::WARN) => (SeverityNumber::Warn, "WARN"),
        Some(Level::INFO) => (SeverityNumber::Info, "INFO"),
        Some(Level::DEBUG) => (SeverityNumber::Debug, "DEBUG"),
        Some(Level::TRACE) => (SeverityNumber::Trace, "TRACE"),
        None => (SeverityNumber::Unspecified, ""),
    };
    let field = |(name, value): (&'static str, Any)| -> KeyValue { attribute(name, value) };
    LogRecord {
        time_unix_nano: line.at,
        observed_time_unix_nano: line.at,
        severity_number: severity.into(),
        severity_text: word.to_owned(),
        body: Some(AnyValue { value: Some(Any::StringValue(line.message)) }),
        attributes: line.fields.into_iter().map(field).collect(),
        ..LogRecord::default()
    }
}
