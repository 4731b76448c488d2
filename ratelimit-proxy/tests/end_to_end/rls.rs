//! Envoy's rate-limit service, asked by a client of gRPC that is generated from Envoy's own declarations.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{
    Entry, RateLimitOverride,
};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code as Said;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::google::protobuf::UInt64Value;
use envoy_types::pb::google::protobuf::value::Kind;
use redis_testkit::{Relay, Server};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::certs::Authority;
use crate::support::origin::Origin;
use crate::support::program::{Program, address, metric, parts, run};
use crate::support::raw_client::Client;
use crate::support::{soon, until};

/// A proxy that answers Envoy.
pub(crate) struct Asked {
    pub(crate) program: Program,
    pub(crate) rls: SocketAddr,
    _origin: Origin,
    _file: tempfile::NamedTempFile,
}

impl Asked {
    /// With these limits, and more lines of configuration.
    pub(crate) async fn start(limits: &str, rest: &str) -> Self {
        let origin = Origin::hello().await;
        let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
        let rls = if rest.contains("rls:") { "" } else { "rls: 127.0.0.1:0\n" };
        let text = format!("upstream: http://{}\n{rls}limits:\n{limits}{rest}", origin.address);
        std::fs::write(file.path(), text).unwrap();
        let mut program = Program::run(&["--config", file.path().to_str().unwrap()]).await;
        let rls = address(&program.log.line(&["rate-limit service"]).await);
        Self { program, rls, _origin: origin, _file: file }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.rls)).unwrap();
        soon("a connection", endpoint.connect()).await.unwrap()
    }

    async fn client(&self) -> RateLimitServiceClient<Channel> {
        RateLimitServiceClient::new(self.channel().await)
    }

    async fn ask(&self, question: RateLimitRequest) -> Result<RateLimitResponse, Status> {
        let answer = soon("an answer", self.client().await.should_rate_limit(question)).await;
        answer.map(tonic::Response::into_inner)
    }

    /// An answer that there must be.
    async fn told(&self, question: RateLimitRequest) -> RateLimitResponse {
        self.ask(question).await.unwrap()
    }

    async fn questions(&self, outcome: &str) -> f64 {
        let name = format!("ratelimit_questions_total{{outcome=\"{outcome}\"}}");
        metric(&self.program, &name).await.unwrap()
    }
}

fn descriptor(entries: &[(&str, &str)]) -> RateLimitDescriptor {
    let entry = |(key, value): &(&str, &str)| Entry { key: (*key).to_owned(), value: (*value).to_owned() };
    RateLimitDescriptor { entries: entries.iter().map(entry).collect(), ..RateLimitDescriptor::default() }
}

fn costing(units: u64, descriptor: RateLimitDescriptor) -> RateLimitDescriptor {
    RateLimitDescriptor { hits_addend: Some(UInt64Value { value: units }), ..descriptor }
}

fn bringing(count: u32, unit: i32, descriptor: RateLimitDescriptor) -> RateLimitDescriptor {
    let limit = RateLimitOverride { requests_per_unit: count, unit };
    RateLimitDescriptor { limit: Some(limit), ..descriptor }
}

fn question(domain: &str, descriptors: Vec<RateLimitDescriptor>) -> RateLimitRequest {
    RateLimitRequest { domain: domain.to_owned(), descriptors, hits_addend: 0 }
}

pub(crate) fn about(entries: &[(&str, &str)]) -> RateLimitRequest {
    question("edge", vec![descriptor(entries)])
}

/// Statuses as code, name of the limit, units left.
fn statuses(answer: &RateLimitResponse) -> Vec<(Said, String, u32)> {
    let status =
        |status: &envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::DescriptorStatus| {
            let name = status.current_limit.as_ref().map_or("-", |limit| &limit.name);
            (status.code(), name.to_owned(), status.limit_remaining)
        };
    answer.statuses.iter().map(status).collect()
}

fn field<'a>(answer: &'a RateLimitResponse, name: &str) -> Option<&'a str> {
    let mut found = answer.response_headers_to_add.iter().filter(|header| header.key == name);
    let value = found.next().map(|header| header.value.as_str());
    assert!(found.next().is_none(), "{name} comes twice");
    value
}

fn metadata(answer: &RateLimitResponse, name: &str) -> Vec<String> {
    let Some(value) = answer.dynamic_metadata.as_ref().and_then(|metadata| metadata.fields.get(name)) else {
        return Vec::new();
    };
    let Some(Kind::ListValue(list)) = &value.kind else { panic!("{value:?}") };
    let text = |value: &envoy_types::pb::google::protobuf::Value| match &value.kind {
        Some(Kind::StringValue(text)) => text.clone(),
        other => panic!("{other:?}"),
    };
    list.values.iter().map(text).collect()
}

const USERS: &str =
    "  - {name: user, match: {domain: edge, descriptors: [{user: '*'}]}, key: descriptor.user, rate: 3/h}
";

#[tokio::test]
async fn a_descriptor_is_counted_and_denied() {
    let asked = Asked::start(USERS, "").await;
    for left in [2, 1, 0] {
        let answer = asked.told(about(&[("user", "ann")])).await;
        assert_eq!(answer.overall_code(), Said::Ok);
        assert_eq!(statuses(&answer), [(Said::Ok, "user".to_owned(), left)]);
        let status = &answer.statuses[0];
        let limit = status.current_limit.as_ref().unwrap();
        assert_eq!((limit.requests_per_unit, limit.unit().as_str_name()), (3, "HOUR"));
        assert!(status.duration_until_reset.unwrap().seconds > 1100);
        assert_eq!(field(&answer, "ratelimit-policy"), Some("\"user\";q=3;w=3600"));
        assert!(field(&answer, "ratelimit").unwrap().starts_with(&format!("\"user\";r={left};t=")));
        assert_eq!((field(&answer, "retry-after"), &*answer.raw_body), (None, &b""[..]));
        assert_eq!(metadata(&answer, "limits"), ["user"]);
    }
    let denied = asked.told(about(&[("user", "ann")])).await;
    assert_eq!(denied.overall_code(), Said::OverLimit);
    assert_eq!(statuses(&denied), [(Said::OverLimit, "user".to_owned(), 0)]);
    let wait = denied.statuses[0].duration_until_reset.unwrap();
    assert!((1100..=1200).contains(&wait.seconds), "the wait until it is admitted: {wait:?}");
    let retry_after: i64 = field(&denied, "retry-after").unwrap().parse().unwrap();
    assert_eq!(retry_after, wait.seconds + i64::from(wait.nanos > 0));
    assert_eq!(field(&denied, "content-type"), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_slice(&denied.raw_body).unwrap();
    assert_eq!(
        (problem["status"].as_u64(), &problem["violated-policies"]),
        (Some(429), &serde_json::json!(["user"]))
    );
    assert_eq!(
        (metadata(&denied, "limits"), metadata(&denied, "denied_by")),
        (vec!["user".to_owned()], vec!["user".to_owned()])
    );
    // Another key, and an entry that is not there.
    assert_eq!(asked.told(about(&[("user", "bob")])).await.overall_code(), Said::Ok);
    let unmatched = asked.told(about(&[("user", "ann"), ("more", "1")])).await;
    assert_eq!(
        (unmatched.overall_code(), statuses(&unmatched)),
        (Said::Ok, vec![(Said::Ok, "-".to_owned(), 0)])
    );
    assert!(unmatched.dynamic_metadata.is_none() && unmatched.response_headers_to_add.is_empty());
    let counted = [
        asked.questions("allowed").await,
        asked.questions("denied").await,
        asked.questions("unmatched").await,
    ];
    assert_eq!(counted, [4.0, 1.0, 1.0]);
    let name = "ratelimit_decisions_total{limit=\"user\",outcome=\"denied\"}";
    assert_eq!(metric(&asked.program, name).await, Some(1.0));
    let log = asked.program.log.clone().line(&["denied", "domain"]).await;
    assert!(log.contains("edge") && !log.contains("ann"), "keys are hashed: {log}");
    // Requests are not judged by it.
    for _ in 0..5 {
        assert_eq!(asked.program.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn the_domain_is_part_of_the_key_and_the_order_of_entries_counts() {
    let limits = "  - {name: any, key: descriptor.user, rate: 1/h}
  - {name: two, match: {descriptors: [{service: auth}, {user: 'a*'}]}, rate: 1/h}
";
    let asked = Asked::start(limits, "").await;
    let ann = || vec![descriptor(&[("user", "ann")])];
    for domain in ["edge", "other"] {
        assert_eq!(asked.told(question(domain, ann())).await.overall_code(), Said::Ok, "{domain}");
        assert_eq!(asked.told(question(domain, ann())).await.overall_code(), Said::OverLimit, "{domain}");
    }
    for (entries, limits) in [
        (&[("service", "auth"), ("user", "alf")][..], &["any", "two"][..]),
        (&[("user", "alf2"), ("service", "auth")], &["any"]),
        (&[("service", "auth"), ("user", "bob")], &["any"]),
        (&[("service", "auth"), ("user", "alf3"), ("x", "y")], &["any"]),
    ] {
        let answer = asked.told(question("third", vec![descriptor(entries)])).await;
        assert_eq!(metadata(&answer, "limits"), limits, "{entries:?}");
    }
}

/// A limit that names no domain has a counter for a key in each, and one override for it in all.
#[tokio::test]
async fn a_key_in_a_domain_is_looked_up_and_steered() {
    let limits = "  - {name: any, key: descriptor.user, rate: 2/h}
  - {name: all, match: {descriptors: [{user: '*'}]}, rate: 9/h}
";
    let asked = Asked::start(limits, "").await;
    let question = || question("edge", vec![descriptor(&[("user", "a=n,n")])]);
    for code in [Said::Ok, Said::Ok, Said::OverLimit] {
        assert_eq!(asked.told(question()).await.overall_code(), code);
    }
    let call = async |method: &str, path: &str, body: &str| {
        let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        let mut client = Client::connect(asked.program.admin).await;
        client
            .send(format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Connection: close\r\n\r\n{body}"
            ))
            .await;
        let response = client.response_to(method).await.unwrap();
        let told: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        (response.status, told)
    };
    let (_, denied) = call("GET", "/api/limits/any/keys?by=denied", "").await;
    let path = denied["keys"][0]["path"].as_str().unwrap();
    assert_eq!(path, "domain=edge,a%3Dn%2Cn");
    let of = |limit: &str, what: &str, key: &str| format!("/api/limits/{limit}/{what}/{key}");
    for (path, remaining) in [
        (of("any", "keys", path), 0),
        (of("any", "keys", "domain=other,a%3Dn%2Cn"), 2),
        (of("all", "keys", "domain=edge"), 7),
    ] {
        let (status, told) = call("GET", &path, "").await;
        assert_eq!((status, &told["remaining"]), (200, &remaining.into()), "{path}: {told}");
    }
    let (status, told) = call("GET", &of("any", "keys", "ann"), "").await;
    assert_eq!(status, 400);
    assert!(told["detail"].as_str().unwrap().contains("domain=NAME"), "{told}");
    // A fresh start is for the domain, a quota for all of them.
    assert_eq!(call("DELETE", &of("any", "keys", path), "").await.1["remaining"], 2);
    assert_eq!(asked.told(question()).await.overall_code(), Said::Ok);
    let (status, told) = call("PUT", &of("any", "overrides", path), r#"{"deny":true}"#).await;
    assert_eq!((status, &told["denied"]), (200, &true.into()), "{told}");
    let (_, overrides) = call("GET", "/api/limits/any/overrides", "").await;
    assert_eq!(overrides["overrides"][0]["path"], "a%3Dn%2Cn");
    until("all domains to know", async || asked.told(question()).await.overall_code() == Said::OverLimit)
        .await;
    let (status, told) = call("DELETE", &of("any", "overrides", "a%3Dn%2Cn"), "").await;
    assert_eq!((status, &told["denied"]), (200, &false.into()), "{told}");
    until("all domains to know", async || asked.told(question()).await.overall_code() == Said::Ok).await;
}

/// Envoy over TLS: the certificate is shown, others are not spoken to, and a new one is taken up.
#[tokio::test]
async fn it_is_asked_over_tls() {
    let authority = Authority::new();
    let files = authority.server("rls", &["localhost"]);
    let (cert, key) = (files.cert.display().to_string(), files.key.display().to_string());
    let asked = Asked::start(
        "  - {name: any, key: descriptor.user, rate: 1/h}\n",
        &format!("rls: {{listen: 127.0.0.1:0, tls: {{cert: {cert}, key: {key}}}}}\n"),
    )
    .await;
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(authority.pem()).unwrap();
    for certificate in rustls::pki_types::pem::PemObject::pem_slice_iter(&pem) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .enable_http2()
        .build();
    let executor = hyper_util::rt::TokioExecutor::new();
    let client = hyper_util::client::legacy::Client::builder(executor).http2_only(true).build(connector);
    let origin = format!("https://localhost:{}", asked.rls.port()).parse().unwrap();
    let mut client = RateLimitServiceClient::with_origin(client, origin);
    for code in [Said::Ok, Said::OverLimit] {
        let question = question("edge", vec![descriptor(&[("user", "ann")])]);
        let answer = soon("an answer", client.should_rate_limit(question)).await.unwrap().into_inner();
        assert_eq!(answer.overall_code(), code);
    }
    // Who speaks without is not answered, and counted.
    let mut plain = Client::connect(asked.rls).await;
    plain.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(!String::from_utf8_lossy(&plain.rest().await).contains("HTTP"));
    let errors = "proxy_protocol_errors_total{kind=\"tls\"}";
    until("the error to be counted", async || metric(&asked.program, errors).await == Some(1.0)).await;
    std::fs::copy(authority.server("next", &["localhost"]).cert, &cert).unwrap();
    // The key is another one's: it is refused, and the old one stays.
    asked.program.log.clone().line(&["new certificates are refused"]).await;
}

#[tokio::test]
async fn descriptors_are_decided_together() {
    let limits = "  - {name: user, match: {descriptors: [{user: '*'}]}, key: descriptor.user, rate: 5/h}
  - {name: path, match: {descriptors: [{path: '*'}]}, key: descriptor.path, rate: 2/h}
  - {name: watched, match: {descriptors: [{path: '*'}]}, rate: 1/h, mode: shadow}
";
    let asked = Asked::start(limits, "").await;
    let both = || {
        let descriptors =
            [descriptor(&[("path", "/a")]), descriptor(&[("no", "limit")]), descriptor(&[("user", "ann")])];
        question("edge", descriptors.to_vec())
    };
    let name = |said, name: &str, left| (said, name.to_owned(), left);
    for left in [1, 0] {
        let answer = asked.told(both()).await;
        let expected =
            [name(Said::Ok, "path", left), name(Said::Ok, "-", 0), name(Said::Ok, "user", left + 3)];
        assert_eq!(statuses(&answer), expected);
        assert_eq!(metadata(&answer, "limits"), ["path", "watched", "user"]);
    }
    for _ in 0..3 {
        let denied = asked.told(both()).await;
        assert_eq!(denied.overall_code(), Said::OverLimit);
        let expected = [name(Said::OverLimit, "path", 0), name(Said::Ok, "-", 0), name(Said::Ok, "user", 3)];
        assert_eq!(statuses(&denied), expected, "one denial, and nothing is charged");
        assert_eq!(metadata(&denied, "denied_by"), ["path"]);
    }
    let answer = asked.told(about(&[("user", "ann")])).await;
    assert_eq!(statuses(&answer), [name(Said::Ok, "user", 2)]);
}

#[tokio::test]
async fn addends() {
    let limits = "  - {name: user, match: {descriptors: [{user: '*'}]}, key: descriptor.user, rate: 10/h}
";
    let asked = Asked::start(limits, "").await;
    let ann = || descriptor(&[("user", "ann")]);
    let with =
        |hits_addend, descriptor| RateLimitRequest { hits_addend, ..question("edge", vec![descriptor]) };
    let refund = RateLimitDescriptor { is_negative_hits: true, ..costing(2, ann()) };
    for (question, said, left) in [
        (with(0, ann()), Said::Ok, 9),
        (with(3, ann()), Said::Ok, 6),
        (with(3, costing(1, ann())), Said::Ok, 5),
        (with(3, costing(0, ann())), Said::Ok, 5),
        (with(0, costing(6, ann())), Said::OverLimit, 0),
        (with(0, costing(5, ann())), Said::Ok, 0),
        (with(0, costing(0, ann())), Said::OverLimit, 0),
        (with(0, refund), Said::Ok, 2),
        (with(0, costing(0, ann())), Said::Ok, 2),
    ] {
        let answer = asked.told(question.clone()).await;
        let expected = [(said, "user".to_owned(), left)];
        assert_eq!(statuses(&answer), expected, "{question:?}");
    }
    // More than it can ever hold.
    for question in [with(u32::MAX, ann()), with(0, costing(u64::MAX, ann()))] {
        let answer = asked.told(question).await;
        assert_eq!(answer.overall_code(), Said::OverLimit);
        assert!(answer.statuses[0].duration_until_reset.is_none() && field(&answer, "retry-after").is_none());
    }
}

#[tokio::test]
async fn overrides_of_the_configuration_and_of_descriptors() {
    let limits = "  - name: user
    match: {descriptors: [{user: '*'}]}
    key: descriptor.user
    rate: 2/h
    overrides:
      - {key: root, unlimited: true}
      - {key: eve, deny: true}
";
    let rls = "rls: {listen: 127.0.0.1:0, max_override: 5/h}\n";
    let asked = Asked::start(limits, rls).await;
    let ask = async |descriptors: Vec<RateLimitDescriptor>| asked.told(question("edge", descriptors)).await;
    let user = |name| descriptor(&[("user", name)]);
    let free = ask(vec![user("root")]).await;
    assert_eq!(statuses(&free), [(Said::Ok, "-".to_owned(), u32::MAX)]);
    let denied = ask(vec![user("ann"), user("eve")]).await;
    assert_eq!(denied.overall_code(), Said::OverLimit);
    assert_eq!(statuses(&denied), [(Said::Ok, "-".to_owned(), 0), (Said::OverLimit, "user".to_owned(), 0)]);
    assert_eq!(field(&denied, "retry-after"), Some("3600"));
    let ann = ask(vec![user("ann")]).await;
    assert_eq!(statuses(&ann), [(Said::Ok, "user".to_owned(), 1)], "and ann was not charged");
    // A descriptor's own limit, up to the highest that is allowed.
    let own = ask(vec![bringing(4, 3, user("bob"))]).await;
    assert_eq!(statuses(&own), [(Said::Ok, "user".to_owned(), 3)]);
    assert_eq!(own.statuses[0].current_limit.as_ref().unwrap().requests_per_unit, 4);
    let cut = ask(vec![bringing(1000, 1, user("cid"))]).await;
    assert_eq!(statuses(&cut), [(Said::Ok, "user".to_owned(), 4)]);
    let nothing = ask(vec![bringing(0, 1, user("dan"))]).await;
    assert_eq!(statuses(&nothing), [(Said::OverLimit, "user".to_owned(), 0)]);
    let senseless = asked.ask(question("edge", vec![bringing(1, 0, user("dan"))])).await.unwrap_err();
    assert_eq!(senseless.code(), Code::InvalidArgument);
    // What no limit is about has no quota to replace.
    let unmatched = ask(vec![bringing(1, 1, descriptor(&[("no", "limit")]))]).await;
    assert_eq!(statuses(&unmatched), [(Said::Ok, "-".to_owned(), 0)]);
}

/// What a client may have made Envoy send is judged; what only Envoy's own configuration could do wrong is told.
#[tokio::test]
async fn bad_questions() {
    let asked = Asked::start(USERS, "").await;
    let no_domain = asked.ask(question("", vec![descriptor(&[("user", "ann")])])).await.unwrap_err();
    assert_eq!(
        (no_domain.code(), no_domain.message()),
        (Code::InvalidArgument, "the question names no domain")
    );
    let nothing = asked.told(question("edge", Vec::new())).await;
    assert_eq!((nothing.overall_code(), nothing.statuses.len()), (Said::Ok, 0));
    let entries: Vec<(&str, &str)> = (0..10_000).map(|_| ("user", "ann")).collect();
    assert_eq!(asked.told(about(&entries)).await.overall_code(), Said::Ok);
    assert_eq!(asked.told(about(&[])).await.statuses.len(), 1);
    let many = asked.ask(question("edge", vec![descriptor(&[]); 1001])).await.unwrap_err();
    assert_eq!(many.code(), Code::InvalidArgument);
    let met = asked.ask(question("edge", vec![descriptor(&[("user", "ann")]); 65])).await.unwrap_err();
    assert_eq!(met.code(), Code::InvalidArgument);
    let huge = "x".repeat(2 << 20);
    let huge = asked.ask(about(&[("user", &huge)])).await.unwrap_err();
    assert_eq!(huge.code(), Code::OutOfRange, "{huge:?}");
    assert!(asked.questions("invalid").await >= 3.0);

    // Bytes that are no text are a key like any other.
    for (said, value) in [(Said::Ok, 1), (Said::Ok, 1), (Said::Ok, 1), (Said::OverLimit, 1), (Said::Ok, 2)] {
        let value = if value == 1 { &b"\xff\xfe"[..] } else { b"\xff\xfd" };
        assert_eq!(asked.told_of_bytes(b"user", value).await.overall_code(), said);
    }
    // And what is no message, no method, no gRPC.
    let garbage = asked.raw("ShouldRateLimit", vec![0xff; 20]).await.unwrap_err();
    assert!(matches!(garbage.code(), Code::Internal | Code::InvalidArgument), "{garbage:?}");
    let unknown = asked.raw("Shrug", Vec::new()).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented);
    let mut plain = Client::connect(asked.rls).await;
    plain.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    drop(plain);
    assert_eq!(asked.told(about(&[("user", "zoe")])).await.overall_code(), Said::Ok, "it lives");
    assert_eq!(metric(&asked.program, "proxy_panics_total").await, Some(0.0));
}

/// Bytes as they are, to be sent and to be got.
#[derive(Clone, PartialEq, prost::Message)]
struct Raw {
    #[prost(bytes = "vec", tag = "1")]
    domain: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    descriptors: Vec<RawDescriptor>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RawDescriptor {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<RawEntry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RawEntry {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

impl Asked {
    async fn told_of_bytes(&self, key: &[u8], value: &[u8]) -> RateLimitResponse {
        let entry = RawEntry { key: key.to_vec(), value: value.to_vec() };
        let descriptors = vec![RawDescriptor { entries: vec![entry] }];
        self.call("ShouldRateLimit", Raw { domain: b"edge".to_vec(), descriptors }).await.unwrap()
    }

    /// A message that is none of ours: its field of number 1 has those bytes, as a text that none is.
    async fn raw(&self, method: &str, bytes: Vec<u8>) -> Result<RateLimitResponse, Status> {
        let descriptors = vec![RawDescriptor { entries: vec![RawEntry { key: bytes, value: Vec::new() }] }];
        let message =
            Broken { descriptors: prost::Message::encode_to_vec(&Raw { domain: Vec::new(), descriptors }) };
        self.call(method, message).await
    }

    async fn call<M: prost::Message + 'static>(
        &self,
        method: &str,
        message: M,
    ) -> Result<RateLimitResponse, Status> {
        let mut client = tonic::client::Grpc::new(self.channel().await);
        client.ready().await.unwrap();
        let path = format!("/envoy.service.ratelimit.v3.RateLimitService/{method}").parse().unwrap();
        let codec = tonic_prost::ProstCodec::<M, RateLimitResponse>::default();
        let answer = client.unary(tonic::Request::new(message), path, codec).await;
        answer.map(tonic::Response::into_inner)
    }
}

/// Descriptors that are a number.
#[derive(Clone, PartialEq, prost::Message)]
struct Broken {
    #[prost(bytes = "vec", tag = "3")]
    descriptors: Vec<u8>,
}

#[tokio::test]
async fn what_the_store_can_not_say_in_time_is_said_without_it() {
    let redis = Server::start();
    let relay = Relay::start(redis.port()).await;
    let store = |prefix: &str, policy: &str| {
        format!(
            "store: {{redis: '{}', deadline: 10s, on_failure: {policy}, replicas: 1, prefix: {prefix}}}\n",
            relay.url()
        )
    };
    let deny = Asked::start(USERS, &store("a", "deny")).await;
    let allow = Asked::start(USERS, &store("b", "allow")).await;
    let local = Asked::start(USERS, &store("c", "local")).await;
    for asked in [&deny, &allow, &local] {
        until("the store", async || metric(&asked.program, "ratelimit_store_up").await == Some(1.0)).await;
        // Longer than 15 ms, which a busy machine may take.
        let mut patient = tonic::Request::new(about(&[("user", "ann")]));
        patient.set_timeout(Duration::from_secs(10));
        let answer = asked.client().await.should_rate_limit(patient).await.unwrap().into_inner();
        assert_eq!(statuses(&answer), [(Said::Ok, "user".to_owned(), 2)]);
    }
    relay.freeze();
    let timed = async |asked: &Asked| {
        let mut client = asked.client().await;
        let began = Instant::now();
        (client.should_rate_limit(about(&[("user", "bob")])).await, began.elapsed())
    };
    // The store itself would be waited for ten seconds.
    let (denied, waited) = timed(&deny).await;
    assert_eq!(denied.unwrap_err().code(), Code::Unavailable);
    assert!(waited >= Duration::from_millis(15) && waited < Duration::from_secs(5), "{waited:?}");
    let (allowed, _) = timed(&allow).await;
    assert_eq!(allowed.unwrap().into_inner().overall_code(), Said::Ok);
    let (own, _) = timed(&local).await;
    assert_eq!(own.unwrap().into_inner().overall_code(), Said::Ok);
    assert_eq!(deny.questions("undecided").await, 1.0);
    // A caller that says how long it waits is not made to wait longer, nor answered sooner for nothing.
    let mut patient = tonic::Request::new(about(&[("user", "cid")]));
    patient.set_timeout(Duration::from_millis(400));
    let began = Instant::now();
    let late = deny.client().await.should_rate_limit(patient).await.unwrap_err();
    assert_eq!(late.code(), Code::Unavailable, "and not the client's own deadline: {late:?}");
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[tokio::test]
async fn health_age_and_the_end() {
    let mut asked = Asked::start(USERS, "rls: {listen: 127.0.0.1:0, max_connection_age: 1s}\n").await;
    let mut health = HealthClient::new(asked.channel().await);
    for service in ["", "envoy.service.ratelimit.v3.RateLimitService"] {
        let ask = HealthCheckRequest { service: service.to_owned() };
        until("health", async || {
            let answer = health.check(ask.clone()).await.unwrap().into_inner();
            answer.status == ServingStatus::Serving as i32
        })
        .await;
    }
    let unknown = health.check(HealthCheckRequest { service: "x".to_owned() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    // A connection that has reached its age ends; who asks on goes on.
    let began = Instant::now();
    let mut client = asked.client().await;
    while began.elapsed() < Duration::from_millis(1500) {
        let answer = client.should_rate_limit(about(&[("user", "ann")])).await;
        assert!(answer.is_ok(), "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    asked.program.signal("TERM").await;
    assert_eq!(asked.program.exit().await, 0);
    soon("the listener to be gone", async {
        while tokio::net::TcpStream::connect(asked.rls).await.is_ok() {}
    })
    .await;
}

#[tokio::test]
async fn the_same_as_json() {
    let limits = "  - {name: user, match: {domain: edge, descriptors: [{user: '*'}]}, key: descriptor.user, rate: 2/min}
";
    let asked = Asked::start(limits, "").await;
    let post = async |body: &str| post(asked.program.admin, "/json", body).await;
    let question = r#"{"domain": "edge", "descriptors": [{"entries": [{"key": "user", "value": "ann"}]}, {"entries": []}]}"#;
    let (status, told) = post(question).await;
    assert_eq!((status, told["overallCode"].as_str()), (200, Some("OK")));
    assert_eq!(told["statuses"][0]["currentLimit"]["unit"], "MINUTE");
    assert_eq!(told["statuses"][0]["currentLimit"]["requestsPerUnit"], 2);
    assert_eq!(told["statuses"][0]["limitRemaining"], 1);
    assert_eq!(told["statuses"][1], serde_json::json!({"code": "OK"}));
    // Over gRPC it is the same bucket.
    assert_eq!(asked.told(about(&[("user", "ann")])).await.statuses[0].limit_remaining, 0);
    let (status, told) = post(question).await;
    assert_eq!((status, told["overallCode"].as_str()), (429, Some("OVER_LIMIT")));
    assert!(told["statuses"][0]["durationUntilReset"].as_str().unwrap().ends_with('s'));
    assert_eq!(told["dynamicMetadata"]["denied_by"], serde_json::json!(["user"]));
    assert!(told["rawBody"].is_string());
    for (body, status) in
        [("{}", 400), ("", 400), (r#"{"domain": "edge", "x": 1}"#, 400), (r#"{"domain": "edge"}"#, 200)]
    {
        assert_eq!(post(body).await.0, status, "{body}");
    }
}

/// The status and the JSON of an answer.
pub(crate) async fn post(admin: SocketAddr, path: &str, body: &str) -> (u16, serde_json::Value) {
    let mut client = Client::connect(admin).await;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    client.send(format!("{head}{body}")).await;
    let response = client.response_to("POST").await.unwrap();
    (response.status, serde_json::from_slice(&response.body).unwrap())
}

#[tokio::test]
async fn explain_says_what_a_descriptor_meets() {
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let limits = "  - {name: per-client, key: client.ip, rate: 1/s}
  - {name: two, match: {descriptors: [{service: auth}, {user: '*'}]}, rate: 2/s}
  - {name: other, match: {domain: other}, rate: 2/s}
";
    let text = format!("upstream: http://127.0.0.1:9\nrls: 127.0.0.1:0\nlimits:\n{USERS}{limits}");
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().to_str().unwrap();
    let asked = ["explain", "--config", path, "--domain", "edge", "--descriptor", "user=ann"];
    let output = run(&asked).await;
    let (code, shown, errors) = parts(&output);
    assert_eq!((code, errors), (0, ""));
    let expected = "domain edge, user=ann
user        counts     quota 3/h; key descriptor.user = \"ann\"; cost 1
per-client  no match   it judges requests only
two         no match   the descriptor is not service=auth, user=*
other       no match   the domain is not other
";
    assert_eq!(shown, expected);
    let output = run(&["explain", "--config", path, "/"]).await;
    let (code, shown, _) = parts(&output);
    assert!(
        code == 0 && shown.contains("user        no match   it judges Envoy's questions only"),
        "{shown}"
    );
    for wrong in [&["--descriptor", "user=ann"][..], &["--domain", "edge", "/"], &[]] {
        let output = run(&[&["explain", "--config", path], wrong].concat()).await;
        assert_eq!(parts(&output).0, 2, "{wrong:?}");
    }
}
