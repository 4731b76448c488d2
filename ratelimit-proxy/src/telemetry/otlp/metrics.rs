//! The metrics as the protocol has them: cumulative, under the names that `/metrics` has. A collector that hands them
//! to Prometheus adds `_total` to counters, so that they are called the same however they came.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Point;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use ratelimit_core::SystemClock;
use ratelimit_core::time::Clock as _;

use super::{scope, text, whole};
use crate::telemetry::families::{Family, Kind, Labels, Snapshot, Value};

/// All metrics, as they are now.
pub(super) fn request(resource: &Resource, snapshot: &Snapshot) -> ExportMetricsServiceRequest {
    let now = SystemClock::default().utc().get();
    let started = snapshot.process.start_seconds.map_or(0, |seconds| {
        u64::try_from(Duration::try_from_secs_f64(seconds).unwrap_or_default().as_nanos()).unwrap_or_default()
    });
    let times = Times { started, now };
    let metrics = snapshot.families().iter().filter_map(|family| metric(family, times)).collect();
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() }];
    let resource = Some(resource.clone());
    let resource_metrics = vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }
}

/// Since when it was counted, and until when.
#[derive(Clone, Copy)]
struct Times {
    started: u64,
    now: u64,
}

/// `None` for a metric without a sample, which the protocol does not have.
fn metric(family: &Family<'_>, times: Times) -> Option<Metric> {
    let temporality = AggregationTemporality::Cumulative.into();
    let numbers = || family.samples.iter().filter_map(|sample| number(&sample.labels, sample.value, times));
    let data = match family.kind {
        Kind::Counter => Data::Sum(Sum {
            data_points: numbers().collect(),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        Kind::Gauge => Data::Gauge(Gauge { data_points: numbers().collect() }),
        Kind::Histogram => Data::Histogram(Histogram {
            data_points: family
                .samples
                .iter()
                .filter_map(|sample| histogram(&sample.labels, sample.value, times))
                .collect(),
            aggregation_temporality: temporality,
        }),
    };
    let unit = match family.name {
        name if name.ends_with("_seconds") => "s",
        name if name.ends_with("_bytes") => "By",
        _ => "",
    };
    (!family.samples.is_empty()).then(|| Metric {
        name: family.name.to_owned(),
        description: family.help.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

fn number(labels: &Labels<'_>, value: Value<'_>, times: Times) -> Option<NumberDataPoint> {
    let value = match value {
        Value::Whole(value) => Point::AsInt(whole(value)),
        Value::Real(value) => Point::AsDouble(value),
        Value::Distribution(_) => return None,
    };
    Some(NumberDataPoint {
        attributes: labels.iter().map(|(name, value)| text(name, *value)).collect(),
        start_time_unix_nano: times.started,
        time_unix_nano: times.now,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn histogram(labels: &Labels<'_>, value: Value<'_>, times: Times) -> Option<HistogramDataPoint> {
    let Value::Distribution(all) = value else { return None };
    let buckets = all.buckets();
    Some(HistogramDataPoint {
        attributes: labels.iter().map(|(name, value)| text(name, *value)).collect(),
        start_time_unix_nano: times.started,
        time_unix_nano: times.now,
        count: all.count(),
        sum: Some(all.seconds()),
        bucket_counts: buckets.iter().map(|(_, count)| *count).collect(),
        // The last one is endless, and not said.
        explicit_bounds: buckets.iter().map(|(bound, _)| *bound).filter(|bound| bound.is_finite()).collect(),
        ..HistogramDataPoint::default()
    })
}
