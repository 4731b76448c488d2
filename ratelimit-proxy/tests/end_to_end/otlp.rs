//! OTLP: a collector built on the protocol's own types sees traces, metrics and lines of the log; and what comes of it
//! when it is away, slow, or says no.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Point;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use redis_testkit::Certificates;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::origin::Origin;
use crate::support::program::{Program, address, ask, metric};
use crate::support::raw_client::Client;
use crate::support::secure_origin::acceptor;
use crate::support::until;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// What came in.
#[derive(Clone, Default)]
struct Taken {
    traces: Vec<ExportTraceServiceRequest>,
    metrics: Vec<ExportMetricsServiceRequest>,
    logs: Vec<ExportLogsServiceRequest>,
    headers: HeaderMap,
    paths: Vec<String>,
}

impl Taken {
    fn spans(&self) -> Vec<Span> {
        let resources = self.traces.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }

    fn of_kind(&self, kind: SpanKind) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.kind() == kind).collect()
    }

    fn records(&self) -> Vec<LogRecord> {
        let resources = self.logs.iter().flat_map(|request| &request.resource_logs);
        resources
            .flat_map(|resource| &resource.scope_logs)
            .flat_map(|scope| scope.log_records.clone())
            .collect()
    }

    /// The metrics of the last message.
    fn last_metrics(&self) -> Vec<Metric> {
        let resources = self.metrics.last().into_iter().flat_map(|request| &request.resource_metrics);
        resources
            .flat_map(|resource| &resource.scope_metrics)
            .flat_map(|scope| scope.metrics.clone())
            .collect()
    }

    fn resources(&self) -> Vec<Resource> {
        let traces = self.traces.iter().flat_map(|request| &request.resource_spans);
        let metrics = self.metrics.iter().flat_map(|request| &request.resource_metrics);
        let logs = self.logs.iter().flat_map(|request| &request.resource_logs);
        let all = traces.map(|traces| traces.resource.clone());
        let all = all.chain(metrics.map(|metrics| metrics.resource.clone()));
        all.chain(logs.map(|logs| logs.resource.clone())).map(Option::unwrap).collect()
    }
}

/// A receiver of OTLP over HTTP.
struct Collector {
    address: SocketAddr,
    taken: Arc<Mutex<Taken>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    async fn start() -> Self {
        Self::saying(StatusCode::OK).await
    }

    async fn saying(status: StatusCode) -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").await.unwrap(), status)
    }

    /// With a certificate of its own authority.
    async fn secure(certificates: &Certificates) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::over(listener, StatusCode::OK, Some(acceptor(certificates, &["http/1.1"], false)))
    }

    fn at(listener: TcpListener, status: StatusCode) -> Self {
        Self::over(listener, status, None)
    }

    fn over(listener: TcpListener, status: StatusCode, tls: Option<TlsAcceptor>) -> Self {
        let address = listener.local_addr().unwrap();
        let taken = Arc::new(Mutex::new(Taken::default()));
        let store = Arc::clone(&taken);
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let taken = Arc::clone(&store);
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let taken = Arc::clone(&taken);
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        assert_eq!(head.headers["content-type"], "application/x-protobuf");
                        if status == StatusCode::OK {
                            let mut taken = taken.lock().unwrap();
                            let path = head.uri.path().to_owned();
                            match path.split("/v1/").nth(1).unwrap() {
                                "traces" => {
                                    taken.traces.push(ExportTraceServiceRequest::decode(body).unwrap())
                                }
                                "metrics" => {
                                    taken.metrics.push(ExportMetricsServiceRequest::decode(body).unwrap());
                                }
                                "logs" => taken.logs.push(ExportLogsServiceRequest::decode(body).unwrap()),
                                other => panic!("{other}"),
                            }
                            taken.headers = head.headers;
                            taken.paths.push(path);
                        }
                        let response = Response::builder().status(status).body(Full::new(Bytes::new()));
                        Ok::<_, Infallible>(response.unwrap())
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                let Some(tls) = tls.clone() else {
                    tokio::spawn(connection.serve_connection(TokioIo::new(socket), service));
                    continue;
                };
                tokio::spawn(async move {
                    // Who does not trust us goes away.
                    if let Ok(socket) = tls.accept(socket).await {
                        let _ = connection.serve_connection(TokioIo::new(socket), service).await;
                    }
                });
            }
        });
        Self { address, taken, task }
    }

    fn taken(&self) -> Taken {
        self.taken.lock().unwrap().clone()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Taken) -> bool) -> Taken {
        until(what, async || holds(&self.taken())).await;
        self.taken()
    }
}

/// A proxy that tells a collector.
struct Told {
    program: Program,
    origin: Origin,
    file: tempfile::NamedTempFile,
}

impl Told {
    /// With that section `otlp`.
    async fn start(otlp: &str) -> Self {
        Self::with(otlp, "").await
    }

    /// With that section `otlp`, and more limits and sections.
    async fn with(otlp: &str, more: &str) -> Self {
        let origin = Origin::hello().await;
        let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
        let text = format!(
            "upstream: http://{}\notlp: {otlp}\nlimits:\n  - {{name: few, rate: 2/h, key: header.x-key, missing: skip}}\n{more}",
            origin.address
        );
        std::fs::write(file.path(), text).unwrap();
        let program = Program::run(&["--config", file.path().to_str().unwrap()]).await;
        Self { program, origin, file }
    }

    async fn get(&self, fields: &str) -> u16 {
        ask(self.program.proxy, "GET", "/some/path?secret", fields).await.status
    }

    async fn lost(&self, signal: &str) -> Option<f64> {
        metric(&self.program, &format!("proxy_otlp_lost_total{{signal=\"{signal}\"}}")).await
    }
}

fn value(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    Some(match found.value.clone()?.value? {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_traced_request_has_a_span_for_itself_its_decision_and_its_upstream() {
    let collector = Collector::start().await;
    let told =
        Told::start(&format!("{{endpoint: 'http://{}', traces: 0, metrics: off}}", collector.address)).await;
    let traced = format!("traceparent: 00-{TRACE}-{CALLER}-01\r\ntracestate: vendor=x\r\nx-key: a\r\n");
    for status in [200, 200, 429] {
        assert_eq!(told.get(&traced).await, status);
    }
    let taken = collector.until("three requests", |taken| taken.of_kind(SpanKind::Server).len() == 3).await;
    let servers = taken.of_kind(SpanKind::Server);
    for span in &servers {
        assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), CALLER.to_owned()));
        assert_eq!(span.trace_state, "vendor=x");
        assert_eq!(span.name, "GET");
        assert!(span.start_time_unix_nano > 0 && span.end_time_unix_nano >= span.start_time_unix_nano);
        let of = |name| value(&span.attributes, name).unwrap();
        assert_eq!(of("http.request.method"), "GET");
        // A query often holds secrets.
        assert_eq!(of("url.path"), "/some/path");
        assert_eq!(of("client.address"), "127.0.0.1");
        assert_eq!(of("server.address"), "localhost");
    }
    let statuses: Vec<_> =
        servers.iter().map(|span| value(&span.attributes, "http.response.status_code").unwrap()).collect();
    assert_eq!(statuses, ["200", "200", "429"]);
    // Each decision and each upstream belongs to a request; the denied one never got to the upstream.
    let decisions = taken.of_kind(SpanKind::Internal);
    let upstreams = taken.of_kind(SpanKind::Client);
    assert_eq!((decisions.len(), upstreams.len()), (3, 2));
    for (span, server) in decisions.iter().zip(&servers).chain(upstreams.iter().zip(&servers)) {
        assert_eq!(span.parent_span_id, server.span_id);
        assert_eq!(span.trace_id, server.trace_id);
        assert!(span.start_time_unix_nano >= server.start_time_unix_nano);
        assert!(span.end_time_unix_nano <= server.end_time_unix_nano);
    }
    let said: Vec<_> = decisions
        .iter()
        .map(|span| {
            let of = |name| value(&span.attributes, name).unwrap();
            (of("ratelimit.limit"), of("ratelimit.outcome"), of("ratelimit.remaining"))
        })
        .collect();
    let said: Vec<_> = said.iter().map(|(l, o, r)| (l.as_str(), o.as_str(), r.as_str())).collect();
    assert_eq!(said, [("few", "allowed", "1"), ("few", "allowed", "0"), ("few", "denied", "0")]);
    assert_eq!(value(&upstreams[0].attributes, "server.address"), Some(told.origin.address.to_string()));
    // The upstream is told of the span that it belongs to, and nothing else is changed.
    for (seen, span) in told.origin.seen().iter().zip(&upstreams) {
        let parent = format!("00-{TRACE}-{}-01", hex(&span.span_id));
        assert_eq!(seen.field("traceparent"), Some(&*parent));
        assert_eq!(seen.field("tracestate"), Some("vendor=x"));
    }
    assert_eq!(told.lost("traces").await, Some(0.0));
}

#[tokio::test]
async fn a_request_that_is_not_traced_passes_as_it_came() {
    let collector = Collector::start().await;
    let endpoint = format!("endpoint: 'http://{}', metrics: 50ms", collector.address);
    let own = format!("00-{TRACE}-{CALLER}-01");
    // Nobody is traced; one that must not be, though all are.
    for (traces, parent) in [("off", own.as_str()), ("1", &own.replace("-01", "-00"))] {
        let told = Told::start(&format!("{{{endpoint}, traces: {traces}}}")).await;
        assert_eq!(told.get(&format!("traceparent: {parent}\r\n")).await, 200);
        assert_eq!(told.origin.seen()[0].field("traceparent"), Some(parent));
        let before = collector.taken().metrics.len();
        // Traces go once a second, and these come after more than that.
        collector.until("metrics", |taken| taken.metrics.len() > before + 30).await;
        assert!(collector.taken().spans().is_empty());
    }
    // One that nobody has decided about begins a trace here.
    let told = Told::start(&format!("{{{endpoint}, traces: 1}}")).await;
    told.get("").await;
    let taken = collector.until("a trace", |taken| taken.spans().len() == 3).await;
    let server = &taken.of_kind(SpanKind::Server)[0];
    assert!(server.parent_span_id.is_empty());
    let parent = told.origin.seen()[0].field("traceparent").unwrap().to_owned();
    assert!(parent.contains(&hex(&server.trace_id)), "{parent}");
}

/// The numbers of `/metrics`, under the same names.
#[tokio::test]
async fn metrics_are_those_of_the_page() {
    let collector = Collector::start().await;
    let told = Told::start(&format!("{{endpoint: 'http://{}', metrics: 100ms}}", collector.address)).await;
    for _ in 0..5 {
        told.get("x-key: a\r\n").await;
    }
    let number = |metric: &Metric, wanted: &[(&str, &str)]| {
        let points = match metric.data.as_ref().unwrap() {
            Data::Sum(sum) => {
                assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
                &sum.data_points
            }
            Data::Gauge(gauge) => &gauge.data_points,
            _ => return None,
        };
        let found = points.iter().find(|point| {
            point.attributes.len() == wanted.len()
                && wanted.iter().all(|(name, of)| value(&point.attributes, name).as_deref() == Some(of))
        })?;
        Some(match found.value? {
            Point::AsInt(value) => value as f64,
            Point::AsDouble(value) => value,
        })
    };
    let of = |taken: &Taken, name: &str, labels: &[(&str, &str)]| {
        let metrics = taken.last_metrics();
        number(metrics.iter().find(|metric| metric.name == name)?, labels)
    };
    let denied = [("limit", "few"), ("outcome", "denied")];
    let taken =
        collector.until("the denials", |taken| of(taken, "ratelimit_decisions", &denied) == Some(3.0)).await;
    assert_eq!(of(&taken, "ratelimit_quota", &[("limit", "few")]), Some(2.0));
    assert_eq!(of(&taken, "proxy_requests", &[("code_class", "4xx")]), Some(3.0));
    let histogram =
        taken.last_metrics().into_iter().find(|metric| metric.name == "proxy_request_seconds").unwrap();
    assert_eq!(histogram.unit, "s");
    let Some(Data::Histogram(histogram)) = histogram.data else { panic!("no histogram") };
    let point = &histogram.data_points[0];
    assert_eq!((point.count, point.bucket_counts.iter().sum::<u64>()), (5, 5));
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    assert!(point.sum.unwrap() > 0.0 && point.start_time_unix_nano > 0);
    // All that the page has, and nothing else.
    let page = told.program.admin("/metrics").await;
    let named: BTreeMap<String, String> = page
        .text()
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| {
            let name = if kind == "counter" { name.strip_suffix("_total").unwrap() } else { name };
            (name.to_owned(), kind.to_owned())
        })
        .filter(|(name, _)| page.text().lines().any(|line| line.starts_with(name.as_str())))
        .collect();
    let sent: BTreeMap<String, String> = taken
        .last_metrics()
        .into_iter()
        .map(|metric| {
            let kind = match metric.data.unwrap() {
                Data::Sum(_) => "counter",
                Data::Gauge(_) => "gauge",
                _ => "histogram",
            };
            (metric.name, kind.to_owned())
        })
        .collect();
    assert_eq!(sent, named);
}

#[tokio::test]
async fn lines_of_the_log_come_with_what_they_say() {
    let collector = Collector::start().await;
    let told = Told::start(&format!(
        "{{endpoint: 'http://{}/tenant/', headers: {{api-key: open-sesame}}, \
         attributes: {{service.name: edge, deployment.environment.name: test}}, metrics: 100ms, traces: 1}}",
        collector.address
    ))
    .await;
    for _ in 0..3 {
        told.get("x-key: a\r\n").await;
    }
    let is_denial = |record: &LogRecord| matches!(&record.body.as_ref().unwrap().value, Some(Value::StringValue(text)) if text == "denied");
    let taken = collector
        .until("all three", |taken| {
            taken.records().iter().any(is_denial) && !taken.metrics.is_empty() && !taken.spans().is_empty()
        })
        .await;
    let record = taken.records().into_iter().find(is_denial).unwrap();
    assert_eq!((record.severity_text.as_str(), record.severity_number), ("INFO", 9));
    let of = |name| value(&record.attributes, name).unwrap();
    assert_eq!((of("limit"), of("client"), of("method")), ("few".into(), "127.0.0.1".into(), "GET".into()));
    assert_eq!(of("path"), "/some/path");
    assert_eq!(taken.headers["api-key"], "open-sesame");
    // A path of the endpoint stays in front.
    assert!(taken.paths.iter().all(|path| path.starts_with("/tenant/v1/")), "{:?}", taken.paths);
    // All three say of whom they are.
    let resources = taken.resources();
    let names: Vec<_> = resources.iter().map(|of| value(&of.attributes, "service.name").unwrap()).collect();
    assert!(names.len() >= 3 && names.iter().all(|name| name == "edge"), "{names:?}");
    let instance = |resource: &Resource| value(&resource.attributes, "service.instance.id").unwrap();
    assert!(resources.iter().all(|resource| instance(resource) == instance(&resources[0])));
    assert_eq!(value(&resources[0].attributes, "deployment.environment.name").unwrap(), "test");
}

#[tokio::test]
async fn a_collector_that_is_away_costs_nothing_and_is_told_later() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut told = Told::start(&format!("{{endpoint: 'http://{address}', traces: 1, metrics: 200ms}}")).await;
    assert_eq!(told.get("").await, 200);
    told.program.log.line(&["WARN", "collector of OTLP"]).await;
    until("lost metrics", async || told.lost("metrics").await > Some(3.0)).await;
    assert_eq!(told.get("").await, 200);
    // Said once, however often it is tried.
    let said = |text: &str| text.lines().filter(|line| line.contains("collector of OTLP")).count();
    assert_eq!(said(&told.program.log.now()), 1);
    let collector = Collector::at(TcpListener::bind(address).await.unwrap(), StatusCode::OK);
    let taken = collector.until("what was kept", |taken| taken.of_kind(SpanKind::Server).len() == 2).await;
    assert!(!taken.records().is_empty());
    told.program.log.line(&["INFO", "collector of OTLP"]).await;
    assert_eq!((told.lost("traces").await, told.lost("logs").await), (Some(0.0), Some(0.0)));
}

#[tokio::test]
async fn what_a_collector_refuses_for_good_is_dropped_and_counted() {
    let collector = Collector::saying(StatusCode::BAD_REQUEST).await;
    let told =
        Told::start(&format!("{{endpoint: 'http://{}', traces: 1, logs: false}}", collector.address)).await;
    for _ in 0..3 {
        assert_eq!(told.get("").await, 200);
    }
    until("three lost", async || told.lost("traces").await == Some(3.0)).await;
    assert_eq!(told.lost("logs").await, Some(0.0));
}

/// It takes connections and says nothing: neither requests nor the end of the process wait for it.
#[tokio::test]
async fn nobody_waits_for_a_collector_that_is_slow() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let held = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
        }
    });
    let mut told = Told::start(&format!("{{endpoint: 'http://{address}', traces: 1, metrics: 100ms}}")).await;
    for _ in 0..20 {
        let asked = Instant::now();
        assert_eq!(told.get("").await, 200);
        assert!(asked.elapsed() < Duration::from_secs(2));
    }
    let asked = Instant::now();
    told.program.signal("TERM").await;
    assert_eq!(told.program.exit().await, 0);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    held.abort();
}

/// What is under way when the process ends is told before it does.
#[tokio::test]
async fn the_last_words_are_told() {
    let collector = Collector::start().await;
    let mut told =
        Told::start(&format!("{{endpoint: 'http://{}', traces: 1, metrics: 1h}}", collector.address)).await;
    assert_eq!(told.get("").await, 200);
    told.program.signal("TERM").await;
    assert_eq!(told.program.exit().await, 0);
    let taken = collector.taken();
    assert_eq!(taken.of_kind(SpanKind::Server).len(), 1);
    assert_eq!(taken.metrics.len(), 1);
}

/// A key that came along, and traces.
type Keyed = (Option<String>, ExportTraceServiceRequest);

/// Traces over gRPC.
struct Grpc(Arc<Mutex<Vec<Keyed>>>);

#[tonic::async_trait]
impl TraceService for Grpc {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let key = request.metadata().get("api-key").map(|key| key.to_str().unwrap().to_owned());
        self.0.lock().unwrap().push((key, request.into_inner()));
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test]
async fn a_collector_is_told_over_grpc() {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = TraceServiceServer::new(Grpc(Arc::clone(&taken)));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
    let server = tokio::spawn(server);
    let told = Told::start(&format!(
        "{{endpoint: 'http://{address}', protocol: grpc, traces: 1, logs: false, metrics: off, \
         headers: {{api-key: open-sesame}}}}"
    ))
    .await;
    assert_eq!(told.get("").await, 200);
    until("a trace", async || !taken.lock().unwrap().is_empty()).await;
    let taken = taken.lock().unwrap();
    let (key, request) = &taken[0];
    assert_eq!(key.as_deref(), Some("open-sesame"));
    assert_eq!(request.resource_spans[0].scope_spans[0].spans.len(), 3);
    server.abort();
}

#[tokio::test]
async fn a_collector_is_told_over_tls_if_it_can_prove_who_it_is() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let collector = Collector::secure(&certificates).await;
    let otlp = |trusted: &Certificates| {
        format!(
            "{{endpoint: 'https://localhost:{}', ca: {}, traces: 1, metrics: 100ms}}",
            collector.address.port(),
            trusted.authority().display()
        )
    };
    // Somebody else's certificate: nothing is told, and the log says why.
    let mut told = Told::start(&otlp(&others)).await;
    assert_eq!(told.get("").await, 200);
    told.program.log.line(&["WARN", "collector of OTLP", "certificate"]).await;
    until("lost metrics", async || told.lost("metrics").await > Some(0.0)).await;
    assert!(collector.taken().paths.is_empty());
    drop(told);
    let told = Told::start(&otlp(&certificates)).await;
    assert_eq!(told.get("").await, 200);
    let all = |taken: &Taken| {
        taken.of_kind(SpanKind::Server).len() == 1 && !taken.metrics.is_empty() && !taken.logs.is_empty()
    };
    collector.until("all three", all).await;
    assert_eq!((told.lost("traces").await, told.lost("metrics").await), (Some(0.0), Some(0.0)));
    // The same over gRPC, for which both sides have to agree on HTTP/2.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let service = TraceServiceServer::new(Grpc(Arc::clone(&taken)));
    let tls = acceptor(&certificates, &["h2"], false);
    let server = tokio::spawn(async move {
        let socket = tls.accept(listener.accept().await.unwrap().0).await.unwrap();
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            tonic::codegen::Service::call(&mut service.clone(), request)
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = connection.serve_connection(TokioIo::new(socket), service).await;
    });
    let told = Told::start(&format!(
        "{{endpoint: 'https://localhost:{port}', protocol: grpc, ca: {}, traces: 1, logs: false, metrics: off}}",
        certificates.authority().display()
    ))
    .await;
    assert_eq!(told.get("").await, 200);
    until("a trace", async || !taken.lock().unwrap().is_empty()).await;
    server.abort();
}

/// What other proxies and programs ask is traced as requests are, each as its caller says.
#[tokio::test]
async fn a_question_has_a_span_for_itself_and_its_decision() {
    let collector = Collector::start().await;
    let mut told = Told::with(
        &format!("{{endpoint: 'http://{}', traces: 0, metrics: off}}", collector.address),
        "  - {name: user, match: {domain: edge, descriptors: [{user: '*'}]}, key: descriptor.user, rate: 1/h}\n\
         \x20 - {name: gone, match: {domain: edge, descriptors: [{gone: '*'}]}, key: descriptor.gone, rate: 1/h, overrides: [{key: x, deny: true}]}\n\
         rls: 127.0.0.1:0\n",
    )
    .await;
    let rls = address(&told.program.log.line(&["rate-limit service"]).await);
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let channel = tonic::transport::Channel::from_shared(format!("http://{rls}")).unwrap();
    let mut envoy = RateLimitServiceClient::new(channel.connect().await.unwrap());
    let mut calls = 0;
    let mut call = async |question: RateLimitRequest, traced: bool| {
        let mut question = tonic::Request::new(question);
        if traced {
            calls += 1;
            question.metadata_mut().insert("traceparent", parent.parse().unwrap());
        }
        envoy.should_rate_limit(question).await
    };
    // One that nobody traces; one that is allowed, denied, denied for good, and one that is none.
    let about = crate::rls::about;
    call(about(&[("user", "bob")]), false).await.unwrap();
    for question in [about(&[("user", "ann")]), about(&[("user", "ann")]), about(&[("gone", "x")])] {
        call(question, true).await.unwrap();
    }
    call(RateLimitRequest::default(), true).await.unwrap_err();
    let post = async |path: &str, body: &str| {
        let mut client = Client::connect(told.program.admin).await;
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\ntraceparent: {parent}\r\n");
        client.send(format!("{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())).await;
        client.response_to("POST").await.unwrap().status
    };
    assert_eq!(post("/api/check", r#"{"limit": "few", "key": "a"}"#).await, 200);
    let body = r#"{"domain": "edge", "descriptors": [{"entries": [{"key": "user", "value": "ann"}]}]}"#;
    assert_eq!(post("/json", body).await, 429);
    let fields = format!("traceparent: {parent}\r\nX-Original-URI: /some\r\nx-key: a\r\n");
    assert_eq!(ask(told.program.admin, "GET", "/auth", &fields).await.status, 200);
    let taken =
        collector.until("all seven", |taken| taken.of_kind(SpanKind::Server).len() == calls + 3).await;
    let servers = taken.of_kind(SpanKind::Server);
    let decisions = taken.of_kind(SpanKind::Internal);
    let mut said = Vec::new();
    for span in &servers {
        assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), CALLER.to_owned()));
        assert_eq!(value(&span.attributes, "client.address").as_deref(), Some("127.0.0.1"));
        let own = value(&span.attributes, "rpc.grpc.status_code");
        let own = own.or_else(|| value(&span.attributes, "http.response.status_code")).unwrap();
        let decision = decisions.iter().find(|decision| decision.parent_span_id == span.span_id);
        let of = |name| decision.and_then(|decision| value(&decision.attributes, name)).unwrap_or_default();
        let path = value(&span.attributes, "url.path").unwrap_or_default();
        let what =
            format!("{} {path} {own} {} {}", span.name, of("ratelimit.outcome"), of("ratelimit.limit"));
        said.push(what);
    }
    let envoys = "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit ";
    let expected = [
        &format!("{envoys} 0 allowed user"),
        &format!("{envoys} 0 denied user"),
        &format!("{envoys} 0 denied gone"),
        &format!("{envoys} 3  "),
        "POST /api/check 200 allowed few",
        "POST /json 429 denied user",
        "GET /auth 200 allowed few",
    ];
    assert_eq!(said, expected);
}

/// Which requests are traced changes with the file; where it goes does not, and that is said.
#[tokio::test]
async fn what_is_traced_can_change_while_it_runs() {
    let collector = Collector::start().await;
    let endpoint = format!("endpoint: 'http://{}', metrics: off", collector.address);
    let told = Told::start(&format!("{{{endpoint}, traces: off}}")).await;
    told.get("").await;
    let text = std::fs::read_to_string(told.file.path()).unwrap();
    let reload = async |text: &str| {
        std::fs::write(told.file.path(), text).unwrap();
        ask(told.program.admin, "POST", "/api/reload", "Content-Length: 0\r\n").await
    };
    let all = text.replace("traces: off", "traces: 1");
    let answer = reload(&all).await;
    assert!(answer.text().contains("\"kept\":[]"), "{}", answer.text());
    told.get("").await;
    collector.until("a trace", |taken| taken.of_kind(SpanKind::Server).len() == 1).await;
    let answer = reload(&all.replace("metrics: off", "metrics: 1s")).await;
    assert!(answer.text().contains("\"kept\":[\"otlp\"]"), "{}", answer.text());
}

/// The configurations of collectors in the documentation: YAML, whose pipelines name what there is and use all of it, and
/// whose receiver is where our own configuration sends to.
#[tokio::test]
async fn the_collectors_of_the_documentation_hold_together() {
    const CHECK: &str = r#"
import sys, yaml
config = yaml.safe_load(sys.stdin)
assert set(config) == {"receivers", "processors", "exporters", "service"}, set(config)
pipelines = config["service"]["pipelines"]
assert set(pipelines) == {"traces", "metrics", "logs"}, set(pipelines)
for kind in ("receivers", "processors", "exporters"):
    used = {name for pipeline in pipelines.values() for name in pipeline[kind]}
    assert used == set(config[kind]), (kind, used, set(config[kind]))
print(config["receivers"]["otlp"]["protocols"]["http"]["endpoint"])
"#;
    let ours = crate::beside::block("telemetry.md", "limits.yaml");
    for page in ["collector.yaml", "datadog.yaml"] {
        let text = crate::beside::block("telemetry.md", page);
        let mut child = std::process::Command::new("python3")
            .args(["-c", CHECK])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{page}");
        let endpoint = String::from_utf8(output.stdout).unwrap();
        assert!(ours.contains(&format!("endpoint: http://{}", endpoint.trim())), "{page}: {endpoint}");
    }
    // Ours does what it says, to another place.
    let collector = Collector::start().await;
    let origin = Origin::hello().await;
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let ours = ours.replace("127.0.0.1:4318", &collector.address.to_string());
    std::fs::write(file.path(), ours.replace("127.0.0.1:9000", &origin.address.to_string())).unwrap();
    let program = Program::run(&["--config", file.path().to_str().unwrap()]).await;
    let traced = format!("traceparent: 00-{TRACE}-{CALLER}-01\r\n");
    ask(program.proxy, "GET", "/", &traced).await;
    let taken = collector
        .until("a trace and a line", |taken| !taken.traces.is_empty() && !taken.logs.is_empty())
        .await;
    let name = value(&taken.resources()[0].attributes, "service.name");
    assert_eq!(name.as_deref(), Some("edge"));
}
