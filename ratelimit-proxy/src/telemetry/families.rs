//! Every metric there is, as data: names, labels, what they mean. Whoever tells them, Prometheus's text
//! (`exposition.rs`) or OTLP, tells these. Labels hold the names of limits, which the operator chose, and words of our
//! own; nothing that a client sent can become one.

use ratelimit_redis::lease::HeldBack;
use smallvec::{SmallVec, smallvec};

use super::histogram::Distribution;
use super::metrics::{CODE_CLASSES, DecisionOutcome, Pressure, ProtocolError, Questioned, Reloaded, Totals};
use super::otlp::Lost;
use super::process::Reading;
use super::store::{Answered, StoreGauges};

/// What is measured at the moment of asking rather than counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauges {
    /// One for each limit, in their order.
    pub(crate) limits: Vec<LimitGauges>,
    /// Most connections of clients.
    pub(crate) max_connections: usize,
    /// Lines of the log that were lost because nobody read them in time.
    pub(crate) log_lost: u64,
    /// Of a store that is shared.
    pub(crate) store: Option<StoreGauges>,
    /// Likely mistakes in the configuration by the word for their kind, all kinds.
    pub(crate) doubts: Vec<(&'static str, u64)>,
    /// Of all upstreams.
    pub(crate) upstreams: Vec<ServerGauges>,
    /// What a collector was never told, if there is one.
    pub(crate) otlp_lost: Option<Lost>,
}

/// Of one server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerGauges {
    /// Which requests the upstream takes, in words of the configuration.
    pub(crate) upstream: Box<str>,
    /// Its URL.
    pub(crate) server: String,
    /// Whether it is thought to work.
    pub(crate) up: bool,
}

/// Of one limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LimitGauges {
    /// Its name.
    pub(crate) name: Box<str>,
    /// Units or permits that a fully recovered key has.
    pub(crate) quota: u32,
    /// Keys that have not fully recovered, if this process knows.
    pub(crate) keys: Option<usize>,
    /// Decisions for keys that found no room.
    pub(crate) overflowed: u64,
    /// What leases of the other replicas may hold back, if there are any.
    pub(crate) held_back: Option<HeldBack>,
}

/// All that is told, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// What was counted.
    pub(crate) totals: Totals,
    /// What is measured.
    pub(crate) gauges: Gauges,
    /// What the kernel says.
    pub(crate) process: Reading,
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Durations in seconds, by size.
    Histogram,
}

/// A metric of that name, with all its samples.
#[derive(Clone, Debug)]
pub(crate) struct Family<'s> {
    /// Without the `_total` that Prometheus gives counters.
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) kind: Kind,
    pub(crate) samples: Vec<Sample<'s>>,
}

/// Names and values of labels.
pub(crate) type Labels<'s> = SmallVec<[(&'static str, &'s str); 2]>;

/// A value and its labels.
#[derive(Clone, Debug)]
pub(crate) struct Sample<'s> {
    pub(crate) labels: Labels<'s>,
    pub(crate) value: Value<'s>,
}

/// A value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'s> {
    Whole(u64),
    Real(f64),
    Distribution(&'s Distribution),
}

impl Snapshot {
    /// All metrics.
    pub(crate) fn families(&self) -> Vec<Family<'_>> {
        let Self { totals, gauges, process } = self;
        let mut told = Told(Vec::with_capacity(40));
        limits(&mut told, totals, gauges);
        if let Some(gauges) = &gauges.store {
            store(&mut told, gauges);
        }
        leases(&mut told, &gauges.limits);
        proxy(&mut told, totals);
        upstreams(&mut told, totals, gauges);
        pressure(&mut told, totals, gauges);
        questions(&mut told, totals);
        configuration(&mut told, totals, gauges);
        own(&mut told, totals, gauges, process);
        told.0
    }
}

/// What was told so far.
struct Told<'s>(Vec<Family<'s>>);

impl<'s> Told<'s> {
    fn family(
        &mut self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels<'s>, Value<'s>)>,
    ) {
        let sample = |(labels, value)| Sample { labels, value };
        self.0.push(Family { name, help, kind, samples: samples.into_iter().map(sample).collect() });
    }

    /// A metric with one sample.
    fn one(&mut self, kind: Kind, name: &'static str, help: &'static str, value: Value<'s>) {
        self.family(kind, name, help, [(Labels::new(), value)]);
    }

    fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.one(Kind::Counter, name, help, Value::Whole(value));
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.one(Kind::Gauge, name, help, Value::Whole(value));
    }

    fn histogram(&mut self, name: &'static str, help: &'static str, all: &'s Distribution) {
        self.one(Kind::Histogram, name, help, Value::Distribution(all));
    }

    /// A counter with one sample for each word of a label.
    fn words(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        samples: impl IntoIterator<Item = (&'s str, u64)>,
    ) {
        let sample = |(word, count)| (smallvec![(label, word)], Value::Whole(count));
        self.family(Kind::Counter, name, help, samples.into_iter().map(sample));
    }
}

fn limits<'s>(told: &mut Told<'s>, totals: &'s Totals, gauges: &'s Gauges) {
    let outcomes = totals.limits.iter().flat_map(|limit| {
        DecisionOutcome::ALL.map(|(outcome, word)| {
            (smallvec![("limit", &*limit.name), ("outcome", word)], Value::Whole(limit.said(outcome)))
        })
    });
    let help = "Decisions by limit: of a denied request, only the limits that said no";
    told.family(Kind::Counter, "ratelimit_decisions", help, outcomes);
    let help = "Decisions that left less than a fifth of a key's quota";
    let near = totals.limits.iter().map(|limit| (&*limit.name, limit.near));
    told.words("ratelimit_near_limit", help, "limit", near);
    let of_limit = |gauge: &'s LimitGauges| -> Labels<'s> { smallvec![("limit", &*gauge.name)] };
    let keys = gauges.limits.iter().filter_map(|gauge| Some((of_limit(gauge), whole(gauge.keys?))));
    told.family(Kind::Gauge, "ratelimit_keys", "Keys that have not fully recovered", keys);
    let quotas = gauges.limits.iter().map(|gauge| (of_limit(gauge), Value::Whole(gauge.quota.into())));
    let help = "Units or permits that a fully recovered key has";
    told.family(Kind::Gauge, "ratelimit_quota", help, quotas);
    let help = "Decisions for keys that found no room and shared an entry, or were denied";
    let overflowed = gauges.limits.iter().map(|gauge| (&*gauge.name, gauge.overflowed));
    told.words("ratelimit_keys_overflowed", help, "limit", overflowed);
    let help = "How long requests waited for what their limits say; what was known at once counts as nothing";
    told.histogram("ratelimit_decision_seconds", help, &totals.decisions);
}

fn store<'s>(told: &mut Told<'s>, store: &'s StoreGauges) {
    told.gauge("ratelimit_store_up", "Whether the shared store answers", store.up.into());
    let help = "Replicas that share the store, as far as is known";
    told.gauge("ratelimit_store_replicas", help, store.replicas.into());
    let help = "Requests to the shared store, several to a call under load, by what became of them";
    let requests = Answered::ALL.map(|(how, word)| (word, store.requests(how)));
    told.words("ratelimit_store_requests", help, "outcome", requests);
    told.histogram(
        "ratelimit_store_seconds",
        "How long calls of the shared store took",
        &store.calls.seconds,
    );
    let help = "Charges after the fact that the shared store was never told of";
    told.counter("ratelimit_store_posts_lost", help, store.lost_posts);
    let Some(tokens) = store.leased_tokens else { return };
    let help = "Units taken from the shared store that this replica has not spent yet";
    told.gauge("ratelimit_leased_tokens", help, tokens);
}

fn leases<'s>(told: &mut Told<'s>, limits: &'s [LimitGauges]) {
    let bounds = || {
        limits.iter().filter_map(|limit| -> Option<(Labels<'s>, HeldBack)> {
            Some((smallvec![("limit", &*limit.name)], limit.held_back?))
        })
    };
    if bounds().next().is_none() {
        return;
    }
    let help = "Units of a key that leases of the other replicas may hold back from this one at most";
    let units = bounds().map(|(labels, bound)| (labels, Value::Whole(bound.units.into())));
    told.family(Kind::Gauge, "ratelimit_lease_bound_tokens", help, units);
    let help = "For how long at most: then what was not used is back for every replica";
    let seconds = bounds()
        .map(|(labels, bound)| (labels, Value::Real(std::time::Duration::from(bound.lasts).as_secs_f64())));
    told.family(Kind::Gauge, "ratelimit_lease_bound_seconds", help, seconds);
}

fn proxy<'s>(told: &mut Told<'s>, totals: &'s Totals) {
    let classes = CODE_CLASSES.into_iter().zip(totals.classes);
    told.words("proxy_requests", "Requests answered", "code_class", classes);
    let help = "From a request's head to its response's end";
    told.histogram("proxy_request_seconds", help, &totals.requests);
    let help = "From sending a request to the head of the upstream's response";
    told.histogram("proxy_upstream_seconds", help, &totals.upstream);
    told.gauge("proxy_connections", "Connections of clients", totals.connections);
    let help = "Messages of clients that could not be understood, or came too slowly";
    let errors = ProtocolError::ALL.iter().map(|(_, word)| *word).zip(totals.errors);
    told.words("proxy_protocol_errors", help, "kind", errors);
}

fn upstreams<'s>(told: &mut Told<'s>, totals: &Totals, gauges: &'s Gauges) {
    let up = gauges.upstreams.iter().map(|ServerGauges { upstream, server, up }| {
        (smallvec![("upstream", &**upstream), ("server", server.as_str())], Value::Whole(u64::from(*up)))
    });
    let help = "Whether a server of an upstream is thought to work";
    told.family(Kind::Gauge, "proxy_upstream_up", help, up);
    let help = "Requests that were tried again, on another server if there is one";
    told.counter("proxy_upstream_retries", help, totals.retries);
}

fn pressure(told: &mut Told<'_>, totals: &Totals, gauges: &Gauges) {
    told.one(
        Kind::Gauge,
        "proxy_max_connections",
        "Most connections of clients that are served; more wait",
        whole(gauges.max_connections),
    );
    for (name, help, pressure) in [
        (
            "proxy_connections_full",
            "Times that a thread had as many connections as it may and let the next ones wait",
            Pressure::Full,
        ),
        (
            "proxy_accept_errors",
            "Times that connections had to wait for want of file descriptors or memory of the kernel",
            Pressure::Starved,
        ),
        (
            "proxy_connections_refused",
            "Connections refused because their client had too many, or made them too fast",
            Pressure::Crowded,
        ),
        ("proxy_requests_shed", "Requests refused because the process is short of memory", Pressure::Shed),
    ] {
        told.counter(name, help, totals.pressure(pressure));
    }
}

fn questions(told: &mut Told<'_>, totals: &Totals) {
    let help = "Questions of Envoy's, over gRPC and as JSON; no limit is about those that are unmatched";
    let questions = Questioned::ALL.iter().map(|(_, word)| *word).zip(totals.questions);
    told.words("ratelimit_questions", help, "outcome", questions);
}

fn configuration<'s>(told: &mut Told<'s>, totals: &Totals, gauges: &'s Gauges) {
    let doubts = gauges.doubts.iter().map(|(kind, count)| (smallvec![("kind", *kind)], Value::Whole(*count)));
    let help = "Likely mistakes in the configuration, as they show at the moment";
    told.family(Kind::Gauge, "ratelimit_config_warnings", help, doubts);
    let help =
        "Times that the configuration was read again: it is in force, or was refused and the old one stays";
    let reloads = Reloaded::ALL.iter().map(|(_, word)| *word).zip(totals.reloads);
    told.words("ratelimit_config_reloads", help, "outcome", reloads);
}

fn own(told: &mut Told<'_>, totals: &Totals, gauges: &Gauges, process: &Reading) {
    told.counter("proxy_panics", "Panics, which are bugs; each is one failed request at most", totals.panics);
    told.counter("proxy_task_restarts", "Background tasks that died and were started again", totals.restarts);
    told.counter("proxy_log_lines_lost", "Lines of the log that nobody read in time", gauges.log_lost);
    if let Some(lost) = gauges.otlp_lost {
        let help = "Spans, lines of the log and sets of metrics that the collector of OTLP was never told";
        told.words("proxy_otlp_lost", help, "signal", lost.by_signal());
    }
    let Reading { cpu_seconds, resident_bytes, virtual_bytes, open_fds, max_fds, threads, start_seconds } =
        *process;
    if let Some(seconds) = cpu_seconds {
        told.one(Kind::Counter, "process_cpu_seconds", "Processor time used", Value::Real(seconds));
    }
    if let Some(seconds) = start_seconds {
        let help = "Start, since the Unix epoch";
        told.one(Kind::Gauge, "process_start_time_seconds", help, Value::Real(seconds));
    }
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Memory in use", resident_bytes),
        ("process_virtual_memory_bytes", "Address space", virtual_bytes),
        ("process_open_fds", "File descriptors in use", open_fds),
        ("process_max_fds", "Most file descriptors there may be", max_fds),
        ("process_threads", "Threads", threads),
    ] {
        if let Some(value) = value {
            told.gauge(name, help, value);
        }
    }
}

fn whole<'s>(count: usize) -> Value<'s> {
    Value::Whole(u64::try_from(count).unwrap_or(u64::MAX))
}
