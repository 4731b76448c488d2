//! The three services of the protocol, alike but for their names and types.

use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;

use super::Told;

/// A message that a collector takes.
pub(super) trait Signal: Message + Clone + Default + 'static {
    type Response: Message + Default + 'static;
    const TOLD: Told;
    /// Behind the endpoint, over HTTP.
    const PATH: &'static str;
    /// In gRPC.
    const METHOD: &'static str;
    /// Of what was taken in as a whole: how much was thrown away all the same, and why.
    fn rejected(response: Self::Response) -> Option<(i64, String)>;
}

impl Signal for ExportTraceServiceRequest {
    type Response = ExportTraceServiceResponse;
    const TOLD: Told = Told::Traces;
    const PATH: &'static str = "/v1/traces";
    const METHOD: &'static str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

    fn rejected(response: Self::Response) -> Option<(i64, String)> {
        response.partial_success.map(|some| (some.rejected_spans, some.error_message))
    }
}

impl Signal for ExportMetricsServiceRequest {
    type Response = ExportMetricsServiceResponse;
    const TOLD: Told = Told::Metrics;
    const PATH: &'static str = "/v1/metrics";
    const METHOD: &'static str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

    fn rejected(response: Self::Response) -> Option<(i64, String)> {
        response.partial_success.map(|some| (some.rejected_data_points, some.error_message))
    }
}

impl Signal for ExportLogsServiceRequest {
    type Response = ExportLogsServiceResponse;
    const TOLD: Told = Told::Logs;
    const PATH: &'static str = "/v1/logs";
    const METHOD: &'static str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

    fn rejected(response: Self::Response) -> Option<(i64, String)> {
        response.partial_success.map(|some| (some.rejected_log_records, some.error_message))
    }
}
