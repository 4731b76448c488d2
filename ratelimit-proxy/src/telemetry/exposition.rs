//! The metrics as text: every name and label there is. Labels hold the names of limits, which the operator chose,
//! and words of our own; nothing that a client sent can become one.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use ratelimit_redis::lease::HeldBack;

use super::histogram::Distribution;
use super::metrics::{CODE_CLASSES, DecisionOutcome, Pressure, ProtocolError, Questioned, Reloaded, Totals};
use super::process::Reading;
use super::store::{Answered, StoreGauges};

/// Which text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus text 0.0.4, which everything reads.
    Prometheus,
    /// OpenMetrics 1.0, for those who ask for it.
    OpenMetrics,
}

impl Format {
    /// The media type.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

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

/// All of it, in that format.
pub(crate) fn expose(totals: Totals, gauges: Gauges, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(Arc::new((totals, gauges, Reading::now())))));
    let mut page = String::with_capacity(16 * 1024);
    text::encode(&mut page, &registry)?;
    Ok(match format {
        Format::OpenMetrics => page,
        Format::Prometheus => to_prometheus(&page),
    })
}

/// The older text names a counter with its `_total` in comments too, and has no end mark.
fn to_prometheus(open_metrics: &str) -> String {
    let mut page = String::with_capacity(open_metrics.len() + 512);
    let mut described = None;
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        match line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            // Which type it is, is said on the next line.
            Some(help) => described = Some(help),
            None => {
                let kind = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '));
                let suffix = if kind.is_some_and(|(_, kind)| kind == "counter") { "_total" } else { "" };
                if let Some((name, help)) = described.take() {
                    page.extend(["# HELP ", name, suffix, " ", help, "\n"]);
                }
                match kind {
                    Some((name, kind)) => page.extend(["# TYPE ", name, suffix, " ", kind, "\n"]),
                    None => page.extend([line, "\n"]),
                }
            }
        }
    }
    page
}

#[derive(Clone, Debug)]
struct Scrape(Arc<(Totals, Gauges, Reading)>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (totals, gauges, process) = &*self.0;
        limits(&mut encoder, totals, gauges)?;
        if let Some(gauges) = &gauges.store {
            store(&mut encoder, gauges)?;
        }
        leases(&mut encoder, &gauges.limits)?;
        proxy(&mut encoder, totals)?;
        upstreams(&mut encoder, totals, gauges)?;
        pressure(&mut encoder, totals, gauges)?;
        questions(&mut encoder, totals)?;
        configuration(&mut encoder, totals, gauges)?;
        own(&mut encoder, totals, gauges, process)
    }
}

fn limits(encoder: &mut DescriptorEncoder<'_>, totals: &Totals, gauges: &Gauges) -> fmt::Result {
    let help = "Decisions by limit: of a denied request, only the limits that said no";
    let mut family = encoder.encode_descriptor("ratelimit_decisions", help, None, MetricType::Counter)?;
    for limit in &totals.limits {
        for (outcome, word) in DecisionOutcome::ALL {
            family
                .encode_family(&[("limit", &*limit.name), ("outcome", word)])?
                .encode_counter::<NoLabelSet, _, u64>(&limit.said(outcome), None)?;
        }
    }
    let help = "Decisions that left less than a fifth of a key's quota";
    let mut family = encoder.encode_descriptor("ratelimit_near_limit", help, None, MetricType::Counter)?;
    for limit in &totals.limits {
        family
            .encode_family(&[("limit", &*limit.name)])?
            .encode_counter::<NoLabelSet, _, u64>(&limit.near, None)?;
    }
    let names = || gauges.limits.iter().map(|gauge| (&*gauge.name, gauge));
    let help = "Keys that have not fully recovered";
    let mut family = encoder.encode_descriptor("ratelimit_keys", help, None, MetricType::Gauge)?;
    for (name, gauge) in names() {
        if let Some(keys) = gauge.keys {
            family.encode_family(&[("limit", name)])?.encode_gauge(&wide(keys))?;
        }
    }
    let help = "Units or permits that a fully recovered key has";
    let mut family = encoder.encode_descriptor("ratelimit_quota", help, None, MetricType::Gauge)?;
    for (name, gauge) in names() {
        family.encode_family(&[("limit", name)])?.encode_gauge(&gauge.quota)?;
    }
    let help = "Decisions for keys that found no room and shared an entry, or were denied";
    let mut family =
        encoder.encode_descriptor("ratelimit_keys_overflowed", help, None, MetricType::Counter)?;
    for (name, gauge) in names() {
        family
            .encode_family(&[("limit", name)])?
            .encode_counter::<NoLabelSet, _, u64>(&gauge.overflowed, None)?;
    }
    let help = "How long requests waited for what their limits say; what was known at once counts as nothing";
    histogram(encoder, "ratelimit_decision_seconds", help, &totals.decisions)
}

fn store(encoder: &mut DescriptorEncoder<'_>, store: &StoreGauges) -> fmt::Result {
    let help = "Whether the shared store answers";
    gauge(encoder, "ratelimit_store_up", help, &u32::from(store.up))?;
    let help = "Replicas that share the store, as far as is known";
    gauge(encoder, "ratelimit_store_replicas", help, &store.replicas)?;
    let help = "Requests to the shared store, several to a call under load, by what became of them";
    let mut family =
        encoder.encode_descriptor("ratelimit_store_requests", help, None, MetricType::Counter)?;
    for (how, word) in Answered::ALL {
        let count = store.requests(how);
        family.encode_family(&[("outcome", word)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    let help = "How long calls of the shared store took";
    histogram(encoder, "ratelimit_store_seconds", help, &store.calls.seconds)?;
    let help = "Charges after the fact that the shared store was never told of";
    counter(encoder, "ratelimit_store_posts_lost", help, &store.lost_posts)?;
    let Some(tokens) = store.leased_tokens else { return Ok(()) };
    let help = "Units taken from the shared store that this replica has not spent yet";
    gauge(encoder, "ratelimit_leased_tokens", help, &tokens)
}

fn leases(encoder: &mut DescriptorEncoder<'_>, limits: &[LimitGauges]) -> fmt::Result {
    let bounds = || limits.iter().filter_map(|limit| Some((&*limit.name, limit.held_back?)));
    if bounds().next().is_none() {
        return Ok(());
    }
    let help = "Units of a key that leases of the other replicas may hold back from this one at most";
    let mut family =
        encoder.encode_descriptor("ratelimit_lease_bound_tokens", help, None, MetricType::Gauge)?;
    for (name, bound) in bounds() {
        family.encode_family(&[("limit", name)])?.encode_gauge(&bound.units)?;
    }
    let help = "For how long at most: then what was not used is back for every replica";
    let mut family =
        encoder.encode_descriptor("ratelimit_lease_bound_seconds", help, None, MetricType::Gauge)?;
    for (name, bound) in bounds() {
        let seconds = std::time::Duration::from(bound.lasts).as_secs_f64();
        family.encode_family(&[("limit", name)])?.encode_gauge(&seconds)?;
    }
    Ok(())
}

fn proxy(encoder: &mut DescriptorEncoder<'_>, totals: &Totals) -> fmt::Result {
    let help = "Requests answered";
    let mut family = encoder.encode_descriptor("proxy_requests", help, None, MetricType::Counter)?;
    for (class, count) in CODE_CLASSES.iter().zip(totals.classes) {
        family
            .encode_family(&[("code_class", *class)])?
            .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    histogram(
        encoder,
        "proxy_request_seconds",
        "From a request's head to its response's end",
        &totals.requests,
    )?;
    histogram(
        encoder,
        "proxy_upstream_seconds",
        "From sending a request to the head of the upstream's response",
        &totals.upstream,
    )?;
    gauge(encoder, "proxy_connections", "Connections of clients", &totals.connections)?;
    let help = "Messages of clients that could not be understood, or came too slowly";
    let mut family = encoder.encode_descriptor("proxy_protocol_errors", help, None, MetricType::Counter)?;
    for ((_, word), count) in ProtocolError::ALL.iter().zip(totals.errors) {
        family.encode_family(&[("kind", *word)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    Ok(())
}

fn upstreams(encoder: &mut DescriptorEncoder<'_>, totals: &Totals, gauges: &Gauges) -> fmt::Result {
    let help = "Whether a server of an upstream is thought to work";
    let mut family = encoder.encode_descriptor("proxy_upstream_up", help, None, MetricType::Gauge)?;
    for ServerGauges { upstream, server, up } in &gauges.upstreams {
        family
            .encode_family(&[("upstream", &**upstream), ("server", server.as_str())])?
            .encode_gauge(&u32::from(*up))?;
    }
    let help = "Requests that were tried again, on another server if there is one";
    counter(encoder, "proxy_upstream_retries", help, &totals.retries)
}

fn pressure(encoder: &mut DescriptorEncoder<'_>, totals: &Totals, gauges: &Gauges) -> fmt::Result {
    gauge(
        encoder,
        "proxy_max_connections",
        "Most connections of clients that are served; more wait",
        &wide(gauges.max_connections),
    )?;
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
        counter(encoder, name, help, &totals.pressure(pressure))?;
    }
    Ok(())
}

fn questions(encoder: &mut DescriptorEncoder<'_>, totals: &Totals) -> fmt::Result {
    let help = "Questions of Envoy's, over gRPC and as JSON; no limit is about those that are unmatched";
    let mut family = encoder.encode_descriptor("ratelimit_questions", help, None, MetricType::Counter)?;
    for ((_, word), count) in Questioned::ALL.iter().zip(totals.questions) {
        family.encode_family(&[("outcome", *word)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    Ok(())
}

fn configuration(encoder: &mut DescriptorEncoder<'_>, totals: &Totals, gauges: &Gauges) -> fmt::Result {
    let help = "Likely mistakes in the configuration, as they show at the moment";
    let mut family = encoder.encode_descriptor("ratelimit_config_warnings", help, None, MetricType::Gauge)?;
    for (kind, count) in &gauges.doubts {
        family.encode_family(&[("kind", *kind)])?.encode_gauge(count)?;
    }
    let help =
        "Times that the configuration was read again: it is in force, or was refused and the old one stays";
    let mut family =
        encoder.encode_descriptor("ratelimit_config_reloads", help, None, MetricType::Counter)?;
    for ((_, word), count) in Reloaded::ALL.iter().zip(totals.reloads) {
        family.encode_family(&[("outcome", *word)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    Ok(())
}

fn own(
    encoder: &mut DescriptorEncoder<'_>,
    totals: &Totals,
    gauges: &Gauges,
    process: &Reading,
) -> fmt::Result {
    counter(
        encoder,
        "proxy_panics",
        "Panics, which are bugs; each is one failed request at most",
        &totals.panics,
    )?;
    counter(
        encoder,
        "proxy_task_restarts",
        "Background tasks that died and were started again",
        &totals.restarts,
    )?;
    counter(encoder, "proxy_log_lines_lost", "Lines of the log that nobody read in time", &gauges.log_lost)?;
    let Reading { cpu_seconds, resident_bytes, virtual_bytes, open_fds, max_fds, threads, start_seconds } =
        process;
    if let Some(seconds) = cpu_seconds {
        let help = "Processor time used";
        let mut metric = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(seconds, None)?;
    }
    if let Some(seconds) = start_seconds {
        gauge(encoder, "process_start_time_seconds", "Start, since the Unix epoch", seconds)?;
    }
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Memory in use", resident_bytes),
        ("process_virtual_memory_bytes", "Address space", virtual_bytes),
        ("process_open_fds", "File descriptors in use", open_fds),
        ("process_max_fds", "Most file descriptors there may be", max_fds),
        ("process_threads", "Threads", threads),
    ] {
        if let Some(value) = value {
            gauge(encoder, name, help, value)?;
        }
    }
    Ok(())
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: &impl EncodeGaugeValue,
) -> fmt::Result {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(value)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: &u64) -> fmt::Result {
    encoder
        .encode_descriptor(name, help, None, MetricType::Counter)?
        .encode_counter::<NoLabelSet, _, u64>(value, None)
}

fn histogram(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, all: &Distribution) -> fmt::Result {
    encoder.encode_descriptor(name, help, None, MetricType::Histogram)?.encode_histogram::<NoLabelSet>(
        all.seconds(),
        all.count(),
        &all.buckets(),
        None,
    )
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
