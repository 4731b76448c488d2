//! OTLP: traces, metrics and lines of the log, for a collector of OpenTelemetry.
//!
//! Whoever has something to tell puts it into a bounded queue ([`Outbox`]) and goes on; what finds no room is dropped
//! and counted. A thread of its own ([`Otlp`]) empties the queues once a second, so that no more is sent in a second
//! than they hold, whatever clients ask to be traced. What the collector can't take now is kept and tried again, while
//! the queues fill up; that it is away is logged once, and once that it is back.
//!
//! Messages are the protocol's own types, of the crate `opentelemetry-proto`. The SDK is not used: it would count a
//! second time what `metrics/` counts, and has no way in for distributions that somebody else has counted.

mod logs;
mod metrics;
mod pump;
mod signal;
mod traces;
mod wire;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::{Mutex, mpsc, watch};

pub(crate) use self::logs::Lines;
use self::pump::Pump;
use self::wire::Wire;
use crate::admin::View;
use crate::config::OtlpConfig;
use crate::supervise;
use crate::telemetry::trace::Record;

/// Requests that may wait to be told: as many are traced in a second at most.
const TRACES: usize = 4096;
/// Lines of the log that may.
const LINES: usize = 4096;
/// How long the last words may take.
const LAST: Duration = Duration::from_secs(2);

/// What a collector is told, in the order of [`Lost`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Traces,
    Metrics,
    Logs,
}

/// Traces, metrics and lines that the collector was never told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost([u64; 3]);

impl Lost {
    /// With the words that stand for them.
    pub(crate) fn by_signal(self) -> [(&'static str, u64); 3] {
        let [traces, metrics, logs] = self.0;
        [("traces", traces), ("metrics", metrics), ("logs", logs)]
    }
}

/// What waits to be told.
pub(crate) struct Outbox {
    traces: Queue<Record>,
    lines: Queue<logs::Line>,
    lost: [AtomicU64; 3],
}

struct Queue<T> {
    sender: mpsc::Sender<T>,
    /// Held by the one task that empties it.
    receiver: Mutex<mpsc::Receiver<T>>,
}

impl<T> Queue<T> {
    fn new(room: usize) -> Self {
        let (sender, receiver) = mpsc::channel(room);
        Self { sender, receiver: Mutex::new(receiver) }
    }
}

impl Outbox {
    /// Where nothing waits yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { traces: Queue::new(TRACES), lines: Queue::new(LINES), lost: Default::default() })
    }

    /// Whether there is room for one more trace; if not, one is lost.
    pub(crate) fn takes_traces(&self) -> bool {
        let takes = self.traces.sender.capacity() > 0;
        if !takes {
            self.lose(Told::Traces, 1);
        }
        takes
    }

    /// Tells of a request.
    pub(crate) fn trace(&self, record: Record) {
        if self.traces.sender.try_send(record).is_err() {
            self.lose(Told::Traces, 1);
        }
    }

    fn line(&self, line: logs::Line) {
        if self.lines.sender.try_send(line).is_err() {
            self.lose(Told::Logs, 1);
        }
    }

    fn lose(&self, what: Told, count: u64) {
        if let Some(lost) = self.lost.get(what as usize) {
            lost.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// What was lost.
    pub(crate) fn lost(&self) -> Lost {
        Lost(self.lost.each_ref().map(|lost| lost.load(Ordering::Relaxed)))
    }
}

/// The thread that tells a collector.
pub(crate) struct Otlp {
    stop: watch::Sender<bool>,
    thread: std::thread::JoinHandle<()>,
}

impl Otlp {
    /// Tells the collector what is in the outbox, and the metrics.
    ///
    /// # Errors
    /// When its authorities can't be read, or there is no thread to be had.
    pub(crate) fn start(config: &OtlpConfig, view: &Arc<View>, outbox: &Arc<Outbox>) -> io::Result<Self> {
        // To fail before anything is started.
        let wire = Wire::new(config)?;
        if config.logs {
            logs::export(outbox);
        }
        let (stop, stopped) = watch::channel(false);
        let (config, view, outbox) = (config.clone(), Arc::clone(view), Arc::clone(outbox));
        let shared = Arc::clone(&view.shared().metrics);
        let thread = supervise::thread("otlp", &shared, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(tell(&wire, &config, &view, &outbox, &stopped));
            Ok(())
        })?;
        Ok(Self { stop, thread })
    }

    /// Tells what is left, if the collector takes it soon, and ends.
    pub(crate) fn stop(self) {
        self.stop.send_replace(true);
        let _ = self.thread.join();
    }
}

async fn tell(
    wire: &Wire,
    config: &OtlpConfig,
    view: &View,
    outbox: &Outbox,
    stopped: &watch::Receiver<bool>,
) {
    let resource = resource(config);
    let pump = Pump::new(wire, outbox, stopped);
    let traces = pump.drain(&outbox.traces, |records| traces::request(&resource, records));
    let lines = pump.drain(&outbox.lines, |lines| logs::request(&resource, lines));
    let metrics = pump.repeat(config.metrics, || metrics::request(&resource, &view.snapshot()));
    tokio::join!(traces, lines, metrics);
}

/// What is said of this process.
fn resource(config: &OtlpConfig) -> Resource {
    let given = |name: &str| config.attributes.iter().any(|(given, _)| given == name);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let known = [
        ("service.name", "ratelimit-proxy".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", instance()),
        ("host.name", host),
        ("process.pid", std::process::id().to_string()),
    ];
    let mut attributes: Vec<_> = known
        .into_iter()
        .filter(|(name, _)| !given(name))
        .map(|(name, value)| attribute(name, Any::StringValue(value)))
        .collect();
    attributes.extend(
        config.attributes.iter().map(|(name, value)| attribute(name, Any::StringValue(value.clone()))),
    );
    Resource { attributes, ..Resource::default() }
}

/// A number that no other process has: a UUID of version 4.
fn instance() -> String {
    let random = (fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{random:032x}");
    let mut text = String::with_capacity(36);
    for (place, digit) in hex.chars().enumerate() {
        if matches!(place, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

fn attribute(name: &str, value: Any) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(name: &str, value: impl Into<String>) -> KeyValue {
    attribute(name, Any::StringValue(value.into()))
}

fn number(name: &str, value: impl Into<i64>) -> KeyValue {
    attribute(name, Any::IntValue(value.into()))
}

/// Who says it.
fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "ratelimit-proxy".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// Nanoseconds since the epoch as the protocol has them.
fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_a_uuid_of_its_own() {
        let (one, other) = (instance(), instance());
        assert_ne!(one, other);
        assert_eq!(one.len(), 36);
        assert_eq!(one.as_bytes()[14], b'4', "{one}");
        assert!(matches!(one.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{one}");
    }

    #[test]
    fn what_operators_say_of_the_process_wins() {
        let mut config = OtlpConfig::new("http://127.0.0.1:4318".parse().unwrap());
        let names = |config: &OtlpConfig| {
            let name = |attribute: &KeyValue| match attribute.value.as_ref().unwrap().value.as_ref() {
                Some(Any::StringValue(value)) if attribute.key == "service.name" => Some(value.clone()),
                _ => None,
            };
            resource(config).attributes.iter().filter_map(name).collect::<Vec<_>>()
        };
        assert_eq!(names(&config), ["ratelimit-proxy"]);
        config.attributes.push(("service.name".to_owned(), "edge".to_owned()));
        assert_eq!(names(&config), ["edge"]);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let outbox = Outbox::new();
        for _ in 0..LINES + 3 {
            outbox.line(logs::Line::default());
        }
        assert!(outbox.takes_traces());
        assert_eq!(outbox.lost().by_signal(), [("traces", 0), ("metrics", 0), ("logs", 3)]);
    }
}
