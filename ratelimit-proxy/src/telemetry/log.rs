//! The log: lines to stderr, for people or as JSON, never waited for.
//!
//! Lines go through a bounded queue to a thread that writes them; when nobody reads them, they are dropped and
//! counted, and requests go on. What a client sent stands in them escaped and cut short.

use std::fmt::{self, Write as _};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use governor::{DefaultDirectRateLimiter, Quota};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Uri};
use ratelimit_core::{Decision, Key, KeyBuf, Limit};
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Registry, reload};

use crate::config::{LogConfig, LogKeys, LogRequests};
use crate::decide::Ruling;
use crate::policy::Selection;
use crate::rules::Rules;
use crate::telemetry::otlp::Lines;
use crate::upstream::Unconnected;

/// Lines that may wait to be written.
const QUEUE: usize = 4096;
/// Characters of a client's that are shown.
const SHOWN: usize = 200;

/// Lines a minute about upstreams that fail; the first few come at once.
const TROUBLES: NonZeroU32 = NonZeroU32::MIN.saturating_add(5);

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Style {
    /// For people.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// How much is logged; set when the log is started.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();
/// Lines that are lost to a full queue; set when the log is started.
static QUEUE_LOST: OnceLock<ErrorCounter> = OnceLock::new();
/// Lines that stderr would not take.
static WRITE_LOST: AtomicU64 = AtomicU64::new(0);

/// Starts the log of this process. What is queued is written before the value is dropped, if it can be.
pub(crate) fn start(style: Style, least: LevelFilter) -> Option<WorkerGuard> {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUE)
        .thread_name("log")
        .finish(Stderr);
    let _ = QUEUE_LOST.set(writer.error_counter());
    let (filter, handle) = reload::Layer::new(least);
    // Libraries warn of what single clients do, who could fill the log with it.
    let ours = Targets::new().with_default(LevelFilter::ERROR).with_target("ratelimit", LevelFilter::TRACE);
    let subscriber = Registry::default().with(filter).with(ours).with(Lines);
    let layer = tracing_subscriber::fmt::layer().with_target(false).with_writer(writer);
    let started = match style {
        Style::Text => {
            let terminal = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
            tracing::subscriber::set_global_default(subscriber.with(layer.with_ansi(terminal)))
        }
        Style::Json => {
            tracing::subscriber::set_global_default(subscriber.with(layer.json().flatten_event(true)))
        }
    };
    // The default hook would wait for stderr.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let cause = panic.payload_as_str().unwrap_or_default();
        tracing::error!(place, cause = %Shown(cause.as_bytes()), "panic: a bug, please report it");
    }));
    // A second log in one process is a test's; the first one goes on.
    started.is_ok().then(|| {
        let _ = LEVEL.set(handle);
        guard
    })
}

/// How much is logged; `None` if the log is somebody else's.
pub(crate) fn level() -> Option<LevelFilter> {
    LEVEL.get()?.with_current(|level| *level).ok()
}

/// Logs so much from now on.
///
/// # Errors
/// When the log is somebody else's.
pub(crate) fn set_level(level: LevelFilter) -> Result<(), NotOurs> {
    LEVEL.get().and_then(|handle| handle.reload(level).ok()).ok_or(NotOurs)
}

/// The log of this process was started by somebody else.
#[derive(Debug)]
pub(crate) struct NotOurs;

/// Lines of the log that were lost because nobody read them.
pub(crate) fn lost() -> u64 {
    let queue = QUEUE_LOST.get().map_or(0, ErrorCounter::dropped_lines);
    u64::try_from(queue).unwrap_or(u64::MAX).saturating_add(WRITE_LOST.load(Ordering::Relaxed))
}

/// Standard error; a line that it refuses is counted and forgotten.
#[derive(Debug)]
struct Stderr;

impl io::Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if io::Write::write_all(&mut io::stderr(), line).is_err() {
            WRITE_LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log of requests, as a configuration asks for it.
#[derive(Debug)]
pub struct RequestLog {
    requests: LogRequests,
    keys: LogKeys,
    /// `None`: all lines are written.
    sample: Option<DefaultDirectRateLimiter>,
    /// When a line about the upstream may be written again.
    troubles: DefaultDirectRateLimiter,
    /// Keyed anew in each process, so that a line does not give away a guessable key.
    hasher: RandomState,
}

impl Default for RequestLog {
    fn default() -> Self {
        Self::new(LogConfig { requests: LogRequests::Off, ..LogConfig::default() })
    }
}

/// Writes a line about a request that a limit said no to, if such lines are asked for.
#[inline]
pub(crate) fn ruled(
    ruling: &Ruling<'_>,
    rules: &Rules,
    head: &Parts,
    peer: IpAddr,
    selection: Option<&Selection<'_>>,
    keys: &KeyBuf,
) {
    let (Ruling::Deny(decision) | Ruling::Never(decision)) = ruling else { return };
    if rules.log.requests != LogRequests::Off {
        let key = selection.and_then(|selection| {
            let binding = decision.limit()?.id();
            let hit = selection.hits.iter().find(|hit| hit.limit.id() == binding)?;
            Some(keys.slice(hit.key.clone()))
        });
        rules.log.denied(decision, head, rules.policy.client(peer, &head.headers), key);
    }
}

/// What is known of a request before it is decided; only if it will be needed.
#[derive(Debug)]
pub(crate) struct Entry {
    method: Method,
    uri: Uri,
    peer: IpAddr,
}

impl RequestLog {
    /// That one.
    #[must_use]
    pub fn new(config: LogConfig) -> Self {
        // No lines a second are no lines.
        let sample = config.sample.map(NonZeroU32::new);
        Self {
            requests: if sample == Some(None) { LogRequests::Off } else { config.requests },
            keys: config.keys,
            sample: sample.flatten().map(|lines| DefaultDirectRateLimiter::direct(Quota::per_second(lines))),
            troubles: DefaultDirectRateLimiter::direct(Quota::per_minute(TROUBLES)),
            hasher: RandomState::new(),
        }
    }

    /// As another configuration asks for it, in the same run.
    #[must_use]
    pub(crate) fn again(&self, config: LogConfig) -> Self {
        Self { hasher: self.hasher.clone(), ..Self::new(config) }
    }

    /// The upstream did not do its part. Told whatever is logged about requests, and not for each of them:
    /// one that is down fails all.
    #[cold]
    pub(crate) fn upstream_failed(&self, upstream: &HeaderValue, what: &'static str) {
        if self.troubles.check().is_ok() {
            tracing::warn!(upstream = %Shown(upstream.as_bytes()), "{what}");
        }
    }

    /// There is no connection to an upstream, and why.
    #[cold]
    pub(crate) fn upstream_unconnected(&self, upstream: &HeaderValue, why: &Unconnected) {
        if self.troubles.check().is_ok() {
            tracing::warn!(upstream = %Shown(upstream.as_bytes()), %why, "the upstream can't be reached");
        }
    }

    /// Keeps what a line about the request will need, if there will be one.
    #[inline]
    pub(crate) fn note(&self, head: &Parts, peer: IpAddr) -> Option<Entry> {
        (self.requests == LogRequests::All).then(|| Entry {
            method: head.method.clone(),
            uri: head.uri.clone(),
            peer,
        })
    }

    /// The request was answered.
    pub(crate) fn answered(&self, entry: &Entry, status: StatusCode) {
        if self.sampled() {
            tracing::info!(
                client = %entry.peer,
                method = %method(&entry.method),
                path = %Shown(entry.uri.path().as_bytes()),
                status = status.as_u16(),
                "answered"
            );
        }
    }

    #[cold]
    fn denied(&self, decision: &Decision<'_>, head: &Parts, client: IpAddr, key: Option<Key<'_>>) {
        if !self.sampled() {
            return;
        }
        let key = key.and_then(|key| self.key(key));
        tracing::info!(
            limit = decision.limit().map_or("-", Limit::name),
            %client,
            method = %method(&head.method),
            path = %Shown(head.uri.path().as_bytes()),
            key = key.as_ref().map(tracing::field::display),
            retry_after = decision.retry_after().map(ratelimit_core::Nanos::secs_rounded_up),
            "denied"
        );
    }

    /// A limit said no to a question of Envoy's about that domain.
    pub(crate) fn asked(&self, decision: &Decision<'_>, domain: &[u8], key: Option<Key<'_>>) {
        if self.requests == LogRequests::Off || !self.sampled() {
            return;
        }
        let key = key.and_then(|key| self.key(key));
        tracing::info!(
            limit = decision.limit().map_or("-", Limit::name),
            domain = %Shown(domain),
            key = key.as_ref().map(tracing::field::display),
            retry_after = decision.retry_after().map(ratelimit_core::Nanos::secs_rounded_up),
            "denied"
        );
    }

    fn sampled(&self) -> bool {
        self.sample.as_ref().is_none_or(|sample| sample.check().is_ok())
    }

    /// A key as the configuration wants it shown.
    pub(crate) fn key(&self, key: Key<'_>) -> Option<String> {
        match self.keys {
            LogKeys::Off => None,
            LogKeys::Hash => Some(format!("{:016x}", self.hasher.hash_one(key.to_vec()))),
            // A key escapes itself; what is too long is cut.
            LogKeys::Plain => Some(cut(key.to_string())),
        }
    }
}

/// Not too much of a text of ASCII.
fn cut(mut text: String) -> String {
    let more = text.len().saturating_sub(SHOWN);
    if more > 0 {
        text.truncate(SHOWN);
        let _ = write!(text, "... ({more} more bytes)");
    }
    text
}

/// The methods that there are; what else a client may call one has no business in a line.
fn method(method: &Method) -> &str {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS => method.as_str(),
        _ => "OTHER",
    }
}

/// A client's bytes: printable ASCII as it is, everything else escaped, and not too much of it.
pub(crate) struct Shown<'b>(pub(crate) &'b [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.get(..SHOWN).unwrap_or(self.0);
        for byte in shown.escape_ascii() {
            f.write_char(char::from(byte))?;
        }
        match self.0.len().saturating_sub(shown.len()) {
            0 => Ok(()),
            more => write!(f, "... ({more} more bytes)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_bytes_are_escaped_and_cut() {
        assert_eq!(Shown(b"/plain?").to_string(), "/plain?");
        assert_eq!(Shown(b"\r\nfake line \x1b[31m\xc3\xa4").to_string(), r"\r\nfake line \x1b[31m\xc3\xa4");
        let long = Shown(&[b'a'; 1 << 20]).to_string();
        assert!(long.len() < 300, "{}", long.len());
        assert!(long.ends_with("(1048376 more bytes)"));
    }

    #[test]
    fn a_sample_of_none_is_off_and_no_bound_is_all() {
        let log = |sample| RequestLog::new(LogConfig { sample, ..LogConfig::default() });
        assert_eq!(log(Some(0)).requests, LogRequests::Off);
        assert_eq!((0..1000).filter(|_| log(None).sampled()).count(), 1000);
        let twenty = log(Some(20));
        assert!((20..25).contains(&(0..1000).filter(|_| twenty.sampled()).count()));
    }

    #[test]
    fn a_plain_key_can_be_read_and_is_cut() {
        let log = RequestLog::new(LogConfig { keys: LogKeys::Plain, ..LogConfig::default() });
        assert_eq!(log.key(Key::from_canonical(b"\x01\x03ann")).as_deref(), Some("\"ann\""));
        let mut long = KeyBuf::new();
        long.push_bytes(&[b'\n'; 1 << 16]);
        let shown = log.key(long.key()).unwrap();
        assert!(shown.len() < 300 && shown.ends_with(" more bytes)"), "{shown}");
    }

    #[test]
    fn a_key_is_the_same_within_a_run_and_not_to_be_guessed() {
        let (one, other) = (RequestLog::default(), RequestLog::default());
        let key = Key::from_canonical(b"\x01\x03ann");
        assert_eq!(one.key(key), one.key(key));
        assert_ne!(one.key(key), other.key(key));
        assert_eq!(one.key(key).map(|hash| hash.len()), Some(16));
    }
}
