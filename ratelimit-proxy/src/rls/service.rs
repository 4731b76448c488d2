//! What comes over a connection: the rate-limit service, and the health of it (`grpc.health.v1`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service as _};
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;
use tonic_prost::ProstCodec;

use super::server::Thread;
use super::{Question, Refused, ask};
use crate::telemetry::trace::Trace;

/// The service's name, as its health is asked for.
pub(super) const NAME: &str = "envoy.service.ratelimit.v3.RateLimitService";
const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
const HEALTH: &str = "/grpc.health.v1.Health/";
/// Bytes of a question.
const MOST_BYTES: usize = 1024 * 1024;

/// The health service.
pub(super) type Health = HealthServer<HealthService>;

/// Answers a call.
pub(super) async fn answer(
    thread: Arc<Thread>,
    mut health: Health,
    call: Request<Incoming>,
    peer: IpAddr,
) -> Response<Body> {
    match call.uri().path() {
        SHOULD_RATE_LIMIT => {
            let codec = ProstCodec::<RateLimitResponse, Question>::default();
            Grpc::new(codec)
                .max_decoding_message_size(MOST_BYTES)
                .unary(ShouldRateLimit { thread, peer }, call)
                .await
        }
        path if path.starts_with(HEALTH) => match health.call(call).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        _ => Status::new(Code::Unimplemented, "there is no such method").into_http(),
    }
}

struct ShouldRateLimit {
    thread: Arc<Thread>,
    /// Who asks.
    peer: IpAddr,
}

impl UnaryService<Question> for ShouldRateLimit {
    type Response = RateLimitResponse;
    type Future = BoxFuture<tonic::Response<RateLimitResponse>, Status>;

    fn call(&mut self, call: tonic::Request<Question>) -> Self::Future {
        let (thread, peer) = (Arc::clone(&self.thread), self.peer);
        Box::pin(async move {
            let shared = thread.view.shared();
            let metadata = call.metadata().as_ref();
            let mut trace = Trace::call(shared, peer, metadata, NAME, "ShouldRateLimit");
            let answer = ask(shared, &thread.metrics, call.get_ref(), patience(metadata), &mut trace).await;
            let answer = answer.map(tonic::Response::new).map_err(status);
            trace.end_call(answer.as_ref().map_or_else(Status::code, |_| Code::Ok));
            answer
        })
    }
}

/// Only who can't decide is unavailable: Envoy then does what it is told to do without its rate-limit service.
fn status(refused: Refused) -> Status {
    let code = match refused {
        Refused::NoDomain | Refused::TooMany | Refused::Quota => Code::InvalidArgument,
        Refused::Undecided | Refused::Overloaded => Code::Unavailable,
    };
    Status::new(code, refused.to_string())
}

/// How long the store may take for a caller that says how long it waits (`grpc-timeout`): a quarter of that is left
/// for the way here and back.
fn patience(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        "n" => 1,
        _ => return None,
    };
    // At most 99 999 999 hours, which 64 bits do not hold in nanoseconds.
    let whole = digits.parse::<u64>().ok()?.saturating_mul(nanos);
    Some(Duration::from_nanos(whole - whole / 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn how_long_a_caller_waits() {
        for (text, patience) in [
            ("20m", Some(Duration::from_millis(15))),
            ("1S", Some(Duration::from_millis(750))),
            ("100u", Some(Duration::from_micros(75))),
            ("0m", Some(Duration::ZERO)),
            ("2M", Some(Duration::from_secs(90))),
            ("4n", Some(Duration::from_nanos(3))),
            ("99999999H", Some(Duration::from_nanos(u64::MAX - u64::MAX / 4))),
            ("100000000n", None),
            ("m", None),
            ("", None),
            ("20", None),
            ("+2m", None),
            ("20x", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_static(text));
            assert_eq!(super::patience(&headers), patience, "{text}");
        }
        assert_eq!(super::patience(&HeaderMap::new()), None);
    }
}
