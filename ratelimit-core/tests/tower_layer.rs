//! The tower layer over services without a network: what a client sees, what is charged, and for how long
//! permits are held.
#![cfg(feature = "tower")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full};
use ratelimit_core::store::{Charge, Verdict};
use ratelimit_core::tower::{Body, KeyError, LayerError, PeerAddr, RateLimitLayer, key};
use ratelimit_core::{
    CheckError, Decision, FieldStyle, Fields, Limit, LimitSpec, Limiter, ManualClock, MemoryStore,
    ResetFormat, Store, StoreError, StoreErrorKind,
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

type Memory = MemoryStore<ManualClock>;
type Layered<S = Memory> = RateLimitLayer<S, ()>;

fn memory() -> (Limiter<Memory>, ManualClock) {
    let clock = ManualClock::default();
    (Limiter::new(MemoryStore::with_clock(clock.clone())), clock)
}

fn limit(name: &str, rate: &str) -> Limit {
    Limit::new(name, rate.parse().unwrap())
}

/// Answers "done" and counts its calls.
#[derive(Clone, Default)]
struct Inner {
    calls: Arc<AtomicU32>,
    seen: Arc<Mutex<Option<Decision<'static>>>>,
}

impl Inner {
    fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Service<Request<()>> for Inner {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::SeqCst);
        *self.seen.lock().unwrap() = request.extensions().get::<Decision<'static>>().cloned();
        std::future::ready(Ok(Response::new(Full::from("done"))))
    }
}

fn request() -> Request<()> {
    Request::new(())
}

fn with(name: &'static str, value: &'static str) -> Request<()> {
    Request::builder().header(name, value).body(()).unwrap()
}

async fn send<Svc, T>(service: &Svc, request: Request<()>) -> Response<T>
where
    Svc: Service<Request<()>, Response = Response<T>, Error = Infallible> + Clone,
{
    service.clone().oneshot(request).await.unwrap()
}

async fn text<T: http_body::Body<Data = Bytes>>(response: Response<T>) -> String
where
    T::Error: std::fmt::Debug,
{
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn allowed_goes_through_with_fields_and_the_decision_in_the_request() {
    let (limiter, _) = memory();
    let inner = Inner::default();
    let service = Layered::new(limiter, limit("per-user", "5/min")).layer(inner.clone());
    let response = send(&service, request()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["ratelimit-policy"], r#""per-user";q=5;w=60"#);
    assert_eq!(response.headers()["ratelimit"], r#""per-user";r=4;t=12"#);
    assert_eq!(response.headers()["access-control-expose-headers"], "ratelimit, ratelimit-policy");
    assert!(!response.headers().contains_key(RETRY_AFTER));
    assert_eq!(response.body().size_hint().exact(), Some(4));
    assert_eq!(text(response).await, "done");
    let seen = inner.seen.lock().unwrap().take().expect("the decision is in the request");
    assert!(seen.is_allowed());
    assert_eq!((seen.limit().unwrap().name(), seen.remaining()), ("per-user", 4));
}

#[tokio::test]
async fn denied_is_answered_429_without_calling_the_service() {
    let (limiter, clock) = memory();
    let inner = Inner::default();
    let service = Layered::new(limiter, limit("login", "2/min")).layer(inner.clone());
    for _ in 0..2 {
        assert_eq!(send(&service, request()).await.status(), StatusCode::OK);
    }
    let response = send(&service, request()).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()[RETRY_AFTER], "30");
    assert_eq!(response.headers()["ratelimit"], r#""login";r=0;t=30"#);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    let decision = response.extensions().get::<Decision<'static>>().expect("the decision is in the response");
    assert!(!decision.is_allowed());
    let problem: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!(problem["status"], 429);
    assert_eq!(problem["violated-policies"], serde_json::json!(["login"]));
    assert_eq!(inner.calls(), 2);
    // What Retry-After promised is kept.
    clock.advance(Duration::from_secs(30));
    assert_eq!(send(&service, request()).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn keys_keep_clients_apart_and_a_missing_value_is_a_key_of_its_own() {
    let (limiter, _) = memory();
    let service = ServiceBuilder::new()
        .layer(
            RateLimitLayer::new(limiter, limit("per-user", "1/min"))
                .key(|req: &Request<_>| req.headers().get("x-user").cloned()),
        )
        .service(Inner::default());
    for request in [with("x-user", "ann"), with("x-user", "bob"), with("x-user", ""), request()] {
        let again = request.clone();
        assert_eq!(send(&service, request).await.status(), StatusCode::OK);
        assert_eq!(send(&service, again).await.status(), StatusCode::TOO_MANY_REQUESTS);
    }
}

#[tokio::test]
async fn several_limits_are_charged_all_or_none() {
    let (limiter, _) = memory();
    let (wide, narrow) = (limit("wide", "10/min"), limit("narrow", "1/min"));
    let service = Layered::new(limiter.clone(), wide.clone())
        .and(narrow, |req: &Request<()>| req.headers().get("x-user").cloned())
        .layer(Inner::default());
    let first = send(&service, with("x-user", "ann")).await;
    assert_eq!(first.headers()["ratelimit-policy"], r#""wide";q=10;w=60, "narrow";q=1;w=60"#);
    assert_eq!(first.headers()["ratelimit"], r#""narrow";r=0;t=60"#, "the most constrained one");
    for _ in 0..5 {
        let denied = send(&service, with("x-user", "ann")).await;
        assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(text(denied).await.contains(r#""violated-policies":["narrow"]"#));
    }
    assert_eq!(limiter.peek(&wide, ()).await.unwrap().remaining(), 9, "denials charged nothing");
}

#[tokio::test]
async fn skipped_requests_are_neither_limited_nor_told() {
    let (limiter, _) = memory();
    let inner = Inner::default();
    let service = Layered::new(limiter.clone(), limit("one", "1/min"))
        .skip(|request| request.uri().path() == "/healthz")
        .layer(inner.clone());
    for _ in 0..5 {
        let response = send(&service, Request::builder().uri("/healthz").body(()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.headers().is_empty());
    }
    assert_eq!(send(&service, request()).await.status(), StatusCode::OK);
    assert_eq!(send(&service, request()).await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(inner.calls(), 6);
}

#[tokio::test]
async fn cost_is_per_limit_and_what_can_never_pass_is_413() {
    let (limiter, _) = memory();
    let (requests, units) = (limit("requests", "10/min"), limit("units", "5/min"));
    let service = Layered::new(limiter.clone(), requests.clone())
        .and(units.clone(), |_: &Request<()>| ())
        .cost(|req| req.headers().get("x-cost").and_then(|n| n.to_str().ok()?.parse().ok()).unwrap_or(1))
        .layer(Inner::default());
    assert_eq!(send(&service, with("x-cost", "4")).await.status(), StatusCode::OK);
    assert_eq!(limiter.peek(&requests, ()).await.unwrap().remaining(), 9);
    assert_eq!(limiter.peek(&units, ()).await.unwrap().remaining(), 1);
    assert_eq!(send(&service, with("x-cost", "0")).await.status(), StatusCode::OK);

    let never = send(&service, with("x-cost", "6")).await;
    assert_eq!(never.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(!never.headers().contains_key(RETRY_AFTER));
    let error = never.extensions().get::<Arc<LayerError>>().unwrap();
    assert!(
        matches!(**error, LayerError::Check(CheckError::CostExceedsLimit { cost: 6, capacity: 5, .. })),
        "{error}"
    );
    let problem: serde_json::Value = serde_json::from_str(&text(never).await).unwrap();
    assert_eq!(problem["status"], 413);
}

#[tokio::test]
async fn a_quota_may_depend_on_the_request() {
    let (limiter, _) = memory();
    let free = limit("plan", "1/min");
    let gold = free.with_quota("3/min".parse().unwrap(), None).unwrap();
    let service = Layered::new(limiter, free)
        .quota(move |req| (req.headers().get("x-plan")? == "gold").then(|| gold.clone()))
        .layer(Inner::default());
    let first = send(&service, request()).await;
    assert_eq!(first.headers()["ratelimit-policy"], r#""plan";q=1;w=60"#);
    assert_eq!(send(&service, request()).await.status(), StatusCode::TOO_MANY_REQUESTS);
    // The same key with another quota: what was used stays used.
    let golden = send(&service, with("x-plan", "gold")).await;
    assert_eq!(golden.headers()["ratelimit-policy"], r#""plan";q=3;w=60"#);
    assert_eq!(golden.status(), StatusCode::TOO_MANY_REQUESTS, "60 s of debt to a quota that holds 60 s");
}

#[tokio::test]
async fn shadow_limits_never_deny() {
    let (limiter, _) = memory();
    let service = Layered::new(limiter, limit("trial", "1/min").shadow())
        .and(limit("real", "3/min"), |_: &Request<()>| ())
        .layer(Inner::default());
    for left in [2, 1, 0] {
        let response = send(&service, request()).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(
            response.headers()["ratelimit"].to_str().unwrap().starts_with(&format!(r#""real";r={left}"#))
        );
    }
    assert_eq!(send(&service, request()).await.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn on_denied_makes_the_answer_and_the_fields_are_added() {
    let (limiter, _) = memory();
    let service = Layered::new(limiter, limit("one", "1/min"))
        .on_denied(|decision, req| {
            let name = decision.limit().unwrap().name();
            let mut response = Response::new(format!("{name} says no to {}", req.uri().path()));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            if req.uri().path() == "/patient" {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("77"));
            }
            response
        })
        .layer(Inner::default());
    drop(send(&service, request()).await);
    let denied = send(&service, request()).await;
    assert_eq!(denied.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(denied.headers()[RETRY_AFTER], "60");
    assert_eq!(denied.headers()["ratelimit"], r#""one";r=0;t=60"#);
    assert_eq!(text(denied).await, "one says no to /");
    let patient = send(&service, Request::builder().uri("/patient").body(()).unwrap()).await;
    assert_eq!(patient.headers()[RETRY_AFTER], "77", "a wait of one's own stays");
    assert_eq!(patient.headers()["ratelimit"], r#""one";r=0;t=77"#);
}

#[tokio::test]
async fn grpc_clients_get_trailers_in_the_head() {
    let (limiter, _) = memory();
    let service = Layered::new(limiter, limit("rpc", "1/min")).layer(Inner::default());
    drop(send(&service, with("content-type", "application/grpc")).await);
    for content_type in ["application/grpc", "application/grpc+proto", "Application/GRPC-web"] {
        let denied = send(&service, with("content-type", content_type)).await;
        assert_eq!(denied.status(), StatusCode::OK);
        assert_eq!(denied.headers()["grpc-status"], "8");
        assert_eq!(denied.headers()["grpc-message"], "rate limit rpc exceeded, retry after 60 s");
        assert_eq!(denied.headers()[RETRY_AFTER], "60");
        assert_eq!(denied.headers()[CONTENT_TYPE], "application/grpc");
        assert_eq!(denied.headers()["ratelimit"], r#""rpc";r=0;t=60"#);
        assert!(denied.body().is_end_stream(), "no body, so that the head is the last frame");
    }
    for content_type in ["application/grp", "text/plain"] {
        let denied = send(&service, with("content-type", content_type)).await;
        assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS, "{content_type}");
    }
}

#[tokio::test]
async fn a_missing_peer_is_a_500_that_says_what_to_add() {
    let (limiter, _) = memory();
    let inner = Inner::default();
    let service = Layered::new(limiter, limit("peer", "1/min")).key(key::peer_ip).layer(inner.clone());
    let response = send(&service, request()).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let error = response.extensions().get::<Arc<LayerError>>().unwrap();
    assert!(matches!(**error, LayerError::Key(KeyError::MissingPeer)), "{error}");
    let problem: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
    assert!(
        problem["detail"].as_str().unwrap().contains("into_make_service_with_connect_info::<SocketAddr>()")
    );
    assert_eq!(inner.calls(), 0);
    let grpc = send(&service, with("content-type", "application/grpc")).await;
    assert_eq!((grpc.status(), &grpc.headers()["grpc-status"]), (StatusCode::OK, &HeaderValue::from(13)));
}

#[tokio::test]
async fn peers_are_told_apart_by_address_and_ipv6_by_network() {
    let (limiter, _) = memory();
    let service = Layered::new(limiter, limit("peer", "1/min")).key(key::peer_ip).layer(Inner::default());
    let from = |address: &str| {
        let mut request = request();
        request.extensions_mut().insert(PeerAddr(address.parse().unwrap()));
        request
    };
    for (address, status) in [
        ("192.0.2.1:1000", StatusCode::OK),
        ("192.0.2.1:2000", StatusCode::TOO_MANY_REQUESTS),
        ("[::ffff:192.0.2.1]:1000", StatusCode::TOO_MANY_REQUESTS),
        ("192.0.2.2:1000", StatusCode::OK),
        ("[2001:db8:0:1::1]:1000", StatusCode::OK),
        ("[2001:db8:0:1:ffff::2]:1000", StatusCode::TOO_MANY_REQUESTS),
        ("[2001:db8:0:2::1]:1000", StatusCode::OK),
    ] {
        assert_eq!(send(&service, from(address)).await.status(), status, "{address}");
    }
    let mut plain = request();
    plain.extensions_mut().insert("192.0.2.1:5".parse::<std::net::SocketAddr>().unwrap());
    assert_eq!(send(&service, plain).await.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn a_key_function_may_refuse_and_on_error_may_let_through() {
    let key = |req: &Request<()>| {
        let name = http::HeaderName::from_static("x-api-key");
        req.headers().get(&name).cloned().ok_or(KeyError::MissingHeader(name))
    };
    let (limiter, _) = memory();
    let strict = Layered::new(limiter.clone(), limit("a", "1/min")).key(key);
    let refused = send(&strict.clone().layer(Inner::default()), request()).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert!(text(refused).await.contains("no header x-api-key"));

    let inner = Inner::default();
    let lenient = strict.on_error(|error, _| {
        assert!(matches!(error, LayerError::Key(KeyError::MissingHeader(_))));
        None::<Response<Bytes>>
    });
    let response = send(&lenient.layer(inner.clone()), request()).await;
    assert_eq!((response.status(), inner.calls()), (StatusCode::OK, 1));
    assert!(response.headers().is_empty(), "not judged, so nothing is told");
}

#[tokio::test]
async fn nested_layers_join_their_lists() {
    let (limiter, _) = memory();
    let service = ServiceBuilder::new()
        .layer(Layered::new(limiter.clone(), limit("outer", "10/min")))
        .layer(Layered::new(limiter, limit("inner", "1/min")))
        .service(Inner::default());
    let response = send(&service, request()).await;
    assert_eq!(response.headers()["ratelimit-policy"], r#""outer";q=10;w=60, "inner";q=1;w=60"#);
    assert_eq!(response.headers()["ratelimit"], r#""outer";r=9;t=6, "inner";r=0;t=60"#);
    let denied = send(&service, request()).await;
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(denied.headers()["ratelimit"], r#""outer";r=8;t=12, "inner";r=0;t=60"#);
    assert_eq!(denied.headers()[RETRY_AFTER], "60", "the outer layer leaves the inner's denial as it is");
    assert_eq!(text(denied).await.matches("quota-exceeded").count(), 1);
}

#[tokio::test]
async fn fields_can_be_chosen() {
    let (limiter, clock) = memory();
    let fields = Fields { style: FieldStyle::Legacy, reset: ResetFormat::Epoch, expose: false };
    let service =
        Layered::new(limiter, limit("one", "5/min")).fields(fields).clock(clock).layer(Inner::default());
    let response = send(&service, request()).await;
    assert_eq!(response.headers().len(), 3);
    assert_eq!(response.headers()["x-ratelimit-limit"], "5");
    assert_eq!(response.headers()["x-ratelimit-remaining"], "4");
    assert_eq!(response.headers()["x-ratelimit-reset"], (1_767_225_600 + 12).to_string());
}

#[tokio::test]
async fn clones_of_the_layer_and_its_services_share_the_counters() {
    let (limiter, _) = memory();
    let layer = Layered::new(limiter, limit("one", "2/min"));
    let (a, b) = (layer.clone().layer(Inner::default()), layer.layer(Inner::default()));
    assert_eq!(send(&a, request()).await.status(), StatusCode::OK);
    assert_eq!(send(&b, request()).await.status(), StatusCode::OK);
    assert_eq!(send(&a, request()).await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(send(&b, request()).await.status(), StatusCode::TOO_MANY_REQUESTS);
}

/// A body that hands out what it is told to, and an error for `Err`.
struct Scripted(VecDeque<Result<&'static str, &'static str>>);

impl http_body::Body for Scripted {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(
            self.0.pop_front().map(|part| part.map(|data| Frame::data(Bytes::from_static(data.as_bytes())))),
        )
    }
}

fn streaming(
    parts: &'static [Result<&'static str, &'static str>],
) -> impl Service<Request<()>, Response = Response<Scripted>, Error = Infallible, Future: Send> + Clone {
    service_fn(async move |_: Request<()>| Ok(Response::new(Scripted(parts.iter().copied().collect()))))
}

async fn free<S: Store>(limiter: &Limiter<S>, limit: &Limit) -> u32 {
    limiter.peek(limit, ()).await.unwrap().remaining()
}

#[tokio::test]
async fn a_permit_is_held_until_the_body_was_read_to_its_end() {
    let (limiter, _) = memory();
    let at_once = Limit::concurrency("at-once", 1);
    let service = Layered::new(limiter.clone(), at_once.clone()).layer(streaming(&[Ok("a"), Ok("b")]));
    let mut body = send(&service, request()).await.into_body();
    assert_eq!(free(&limiter, &at_once).await, 0);
    let denied = send(&service, request()).await;
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(denied.headers()["ratelimit"], r#""at-once";r=0"#);
    for part in ["a", "b"] {
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), part);
        assert_eq!(free(&limiter, &at_once).await, 0, "not before the end");
    }
    assert!(body.frame().await.is_none());
    assert_eq!(free(&limiter, &at_once).await, 1, "at the end, not only when the body is dropped");
    let _second = send(&service, request()).await.into_body();
    drop(body);
    assert_eq!(free(&limiter, &at_once).await, 0, "given back once, so the second one's is still held");
}

#[tokio::test]
async fn a_permit_comes_back_when_the_body_knows_that_it_ended() {
    let (limiter, _) = memory();
    let at_once = Limit::concurrency("at-once", 1);
    let service = Layered::new(limiter.clone(), at_once.clone()).layer(Inner::default());
    let mut body = send(&service, request()).await.into_body();
    drop(body.frame().await);
    // `Full` says `is_end_stream` after its only frame, and servers stop there.
    assert_eq!(free(&limiter, &at_once).await, 1);
}

#[tokio::test]
async fn a_permit_comes_back_when_the_body_fails_or_is_dropped() {
    let (limiter, _) = memory();
    let at_once = Limit::concurrency("at-once", 1);
    let layer = Layered::new(limiter.clone(), at_once.clone());
    let service = layer.layer(streaming(&[Ok("a"), Err("broken"), Ok("never read")]));
    let mut body = send(&service, request()).await.into_body();
    drop(body.frame().await.unwrap().unwrap());
    assert_eq!(body.frame().await.unwrap().unwrap_err(), "broken");
    assert_eq!(free(&limiter, &at_once).await, 1);
    let body = send(&service, request()).await.into_body();
    assert_eq!(free(&limiter, &at_once).await, 0);
    drop(body);
    assert_eq!(free(&limiter, &at_once).await, 1);
}

#[tokio::test]
async fn a_permit_comes_back_when_the_call_fails_or_is_dropped() {
    let (limiter, _) = memory();
    let at_once = Limit::concurrency("at-once", 1);
    let layer = Layered::new(limiter.clone(), at_once.clone());
    let failing = layer.layer(service_fn(async |_: Request<()>| Err::<Response<Full<Bytes>>, _>("down")));
    assert_eq!(
        failing.oneshot(request()).await.map(drop).unwrap_err(),
        "down",
        "the inner service's own error"
    );
    assert_eq!(free(&limiter, &at_once).await, 1);

    let hanging = layer.layer(service_fn(async |_: Request<()>| {
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
    }));
    let mut call = by_hand(hanging.oneshot(request()));
    assert!(call.poll().is_pending());
    assert_eq!(free(&limiter, &at_once).await, 0);
    drop(call);
    assert_eq!(free(&limiter, &at_once).await, 1);
}

#[tokio::test]
async fn permits_are_taken_with_the_other_limits_or_not_at_all() {
    let (limiter, _) = memory();
    let at_once = Limit::concurrency("at-once", 3);
    let service = Layered::new(limiter.clone(), at_once.clone())
        .cost(|_| 2)
        .and(limit("rate", "1/min"), |_: &Request<()>| ())
        .layer(Inner::default());
    let first = send(&service, request()).await;
    assert_eq!(free(&limiter, &at_once).await, 1);
    drop(first);
    assert_eq!(free(&limiter, &at_once).await, 3, "as many come back as were taken");
    assert_eq!(send(&service, request()).await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(free(&limiter, &at_once).await, 3);
}

#[tokio::test]
async fn a_full_shadow_limit_gives_no_permit_and_takes_none_back() {
    let (limiter, _) = memory();
    let trial = Limit::concurrency("trial", 1).shadow();
    let service = Layered::new(limiter.clone(), trial.clone()).layer(Inner::default());
    let first = send(&service, request()).await;
    let second = send(&service, request()).await;
    assert_eq!(second.status(), StatusCode::OK);
    drop(second);
    let spec = LimitSpec::concurrency("trial", 1);
    assert_eq!(free(&limiter, &Limit::try_from(spec).unwrap()).await, 0, "the first one's is still held");
    drop(first);
    assert_eq!(free(&limiter, &trial).await, 1);
}

/// A store elsewhere: never answers at once, and only when it is let.
struct Remote {
    store: Memory,
    gate: Option<tokio::sync::Semaphore>,
    failure: Option<StoreErrorKind>,
}

impl Store for Remote {
    fn try_decide(&self, _: &[Charge<'_>]) -> Option<Verdict> {
        None
    }

    async fn decide(&self, charges: &[Charge<'_>]) -> Result<Verdict, StoreError> {
        match &self.gate {
            Some(gate) => gate.acquire().await.unwrap().forget(),
            None => tokio::task::yield_now().await,
        }
        match self.failure {
            Some(kind) => Err(StoreError::new(kind, "the test says so")),
            None => self.store.decide(charges).await,
        }
    }

    fn post(&self, charge: Charge<'_>) {
        self.store.post(charge);
    }
}

fn remote(failure: Option<StoreErrorKind>) -> Limiter<Remote> {
    Limiter::new(Remote { store: MemoryStore::with_clock(ManualClock::default()), gate: None, failure })
}

/// As strict as a service may be: it must have been asked, itself and not a clone, before each call.
#[derive(Default)]
struct Strict {
    ready: bool,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { ready: false }
    }
}

impl Service<Request<()>> for Strict {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without having been ready");
        std::future::ready(Ok(Response::new(Full::from("done"))))
    }
}

#[tokio::test]
async fn only_a_service_that_was_ready_is_called() {
    let mut remote = Layered::new(remote(None), limit("r", "9/min")).layer(Strict::default());
    let mut memory = Layered::new(memory().0, limit("m", "9/min")).layer(Strict::default());
    for _ in 0..3 {
        assert_eq!(remote.ready().await.unwrap().call(request()).await.unwrap().status(), StatusCode::OK);
        assert_eq!(memory.ready().await.unwrap().call(request()).await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_remote_store_is_waited_for() {
    let inner = Inner::default();
    let service = Layered::new(remote(None), limit("shared", "2/min")).layer(inner.clone());
    for left in [1, 0] {
        let response = send(&service, request()).await;
        let told = response.headers()["ratelimit"].to_str().unwrap().to_owned();
        assert!(told.starts_with(&format!(r#""shared";r={left};"#)), "{told}");
        assert!(inner.seen.lock().unwrap().take().unwrap().is_allowed());
    }
    assert_eq!(send(&service, request()).await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(inner.calls(), 2);
}

#[tokio::test]
async fn a_call_dropped_while_the_store_thinks_neither_calls_nor_holds() {
    let gate = Some(tokio::sync::Semaphore::new(0));
    let store = Remote { store: MemoryStore::with_clock(ManualClock::default()), gate, failure: None };
    let limiter = Limiter::new(store);
    let at_once = Limit::concurrency("at-once", 1);
    let inner = Inner::default();
    let service = Layered::new(limiter.clone(), at_once.clone()).layer(inner.clone());
    let mut call = by_hand(service.clone().oneshot(request()));
    assert!(call.poll().is_pending());
    drop(call);
    limiter.store().gate.as_ref().unwrap().add_permits(3);
    assert_eq!(inner.calls(), 0);
    assert_eq!(free(&limiter, &at_once).await, 1);
    let response = send(&service, request()).await;
    assert_eq!(free(&limiter, &at_once).await, 0);
    drop(response);
    limiter.store().gate.as_ref().unwrap().add_permits(1);
    assert_eq!(free(&limiter, &at_once).await, 1);
}

#[tokio::test]
async fn a_store_that_cannot_answer_is_a_503_not_a_429() {
    let inner = Inner::default();
    let layer = Layered::new(remote(Some(StoreErrorKind::Timeout)), limit("shared", "2/min"));
    let response = send(&layer.clone().layer(inner.clone()), request()).await;
    assert_eq!((response.status(), inner.calls()), (StatusCode::SERVICE_UNAVAILABLE, 0));
    let error = response.extensions().get::<Arc<LayerError>>().unwrap();
    assert!(
        matches!(&**error, LayerError::Check(CheckError::Store(error)) if error.kind() == StoreErrorKind::Timeout)
    );
    let problem: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity");
    let grpc = send(&layer.clone().layer(inner.clone()), with("content-type", "application/grpc")).await;
    assert_eq!(grpc.headers()["grpc-status"], "14");

    let open = layer.on_error(|_, _| None::<Response<Bytes>>).layer(inner.clone());
    assert_eq!((send(&open, request()).await.status(), inner.calls()), (StatusCode::OK, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_at_once_use_the_whole_quota_and_no_more() {
    fn multi_threaded<S: Store>(limiter: Limiter<S>) -> impl Future<Output = u32> + Send {
        let inner = Inner::default();
        let service = Layered::new(limiter, limit("shared", "100/h")).layer(inner.clone());
        async move {
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let service = service.clone();
                tasks.spawn(async move {
                    for _ in 0..50 {
                        drop(send(&service, request()).await);
                    }
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
            inner.calls()
        }
    }
    assert_eq!(tokio::spawn(multi_threaded(memory().0)).await.unwrap(), 100);
    assert_eq!(tokio::spawn(multi_threaded(remote(None))).await.unwrap(), 100);
}

#[test]
fn bodies_need_not_be_sync() {
    fn send<T: Send>() {}
    send::<Body<std::cell::Cell<u8>>>();
}

/// Polls a future by hand.
struct Task<F>(Pin<Box<F>>);

fn by_hand<F: Future>(future: F) -> Task<F> {
    Task(Box::pin(future))
}

impl<F: Future> Task<F> {
    fn poll(&mut self) -> Poll<F::Output> {
        self.0.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()))
    }
}
