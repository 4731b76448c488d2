//! The metrics as text, for Prometheus. What they are is in `families.rs`.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::families::{Kind, Snapshot, Value};

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

/// All of it, in that format.
pub(crate) fn expose(snapshot: Snapshot, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(Arc::new(snapshot))));
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
struct Scrape(Arc<Snapshot>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in self.0.families() {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut lines = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for sample in &family.samples {
                let labels = &*sample.labels;
                if labels.is_empty() {
                    line(&mut lines, family.kind, sample.value)?;
                } else {
                    line(&mut lines.encode_family(&labels)?, family.kind, sample.value)?;
                }
            }
        }
        Ok(())
    }
}

fn line(lines: &mut MetricEncoder<'_>, kind: Kind, value: Value<'_>) -> fmt::Result {
    match (value, kind) {
        (Value::Distribution(all), _) => {
            lines.encode_histogram::<NoLabelSet>(all.seconds(), all.count(), &all.buckets(), None)
        }
        (Value::Whole(value), Kind::Counter) => lines.encode_counter::<NoLabelSet, _, u64>(&value, None),
        (Value::Real(value), Kind::Counter) => lines.encode_counter::<NoLabelSet, _, u64>(&value, None),
        (Value::Whole(value), _) => lines.encode_gauge(&value),
        (Value::Real(value), _) => lines.encode_gauge(&value),
    }
}
