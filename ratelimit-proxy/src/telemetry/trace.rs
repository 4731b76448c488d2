//! Traces of requests, after W3C Trace Context: which requests are traced, what is noted of one, and what the upstream
//! is told. How a trace gets to a collector is the affair of `otlp/`.
//!
//! A caller that traces decides for us too; where nobody has decided, a share of the requests is traced. One that is not
//! traced costs a look at one field, and its `traceparent` goes on as it came. Questions of other proxies are requests
//! of their own: the proxy that asks is the caller.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use ratelimit_core::store::Origin;
use ratelimit_core::time::Clock as _;
use ratelimit_core::{Decision, Limit};
use tokio::time::Instant;
use tonic::Code;

use super::log::Shown;
use super::otlp::Outbox;
use crate::config::OtlpConfig;
use crate::decide::Ruling;
use crate::rules::Rules;
use crate::state::{Client, Shared};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Bits of a trace's number that decide about it where a share is traced: the last ones, which are random.
const RANDOM: u64 = (1 << 56) - 1;
/// That the limits said no.
const DENIED: &str = "denied";

/// Which requests are traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sampling {
    /// Below which of 2⁵⁶ numbers; `None`: none, whatever callers say.
    below: Option<u64>,
}

impl Sampling {
    /// As a configuration says.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share from 0 to 1 of a number that a double holds"
    )]
    pub(crate) fn of(config: Option<&OtlpConfig>) -> Self {
        let share = config.and_then(|config| config.traces);
        Self { below: share.map(|share| (share.clamp(0.0, 1.0) * (RANDOM + 1) as f64) as u64) }
    }

    /// The trace that a request belongs to, if it is traced.
    fn trace(self, headers: &HeaderMap) -> Option<(u128, Option<u64>)> {
        let below = self.below?;
        match Parent::of(headers) {
            Some(parent) => parent.sampled.then_some((parent.trace, Some(parent.span))),
            None => {
                let low = fastrand::u64(..);
                let number = (u128::from(fastrand::u64(1..)) << 64) | u128::from(low);
                (low & RANDOM < below).then_some((number, None))
            }
        }
    }
}

/// What a caller says of its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parent {
    trace: u128,
    span: u64,
    sampled: bool,
}

impl Parent {
    /// `None` where nothing is said, or nothing that can be read: then the trace begins here.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let first = headers.get(TRACEPARENT)?;
        let mut all = headers.get_all(TRACEPARENT).iter();
        all.next();
        if all.next().is_some() {
            return None;
        }
        Self::parse(first.as_bytes())
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (known, more) = text.split_at_checked(55)?;
        let mut parts = known.split(|byte| *byte == b'-');
        let (version, trace) = (hex(parts.next()?, 2)?, hex(parts.next()?, 32)?);
        let (span, flags) = (hex(parts.next()?, 16)?, hex(parts.next()?, 2)?);
        // A later version may say more, behind another dash.
        let fits = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.first().is_none_or(|byte| *byte == b'-'),
        };
        let span = u64::try_from(span).ok()?;
        (fits && trace != 0 && span != 0).then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

/// A number of that many digits, small ones only.
fn hex(text: &[u8], digits: usize) -> Option<u128> {
    let proper = text.len() == digits && text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    proper.then(|| str::from_utf8(text).ok().and_then(|text| u128::from_str_radix(text, 16).ok())).flatten()
}

fn traceparent(trace: u128, span: u64) -> HeaderValue {
    HeaderValue::from_maybe_shared(format!("00-{trace:032x}-{span:016x}-01").into_bytes())
        .unwrap_or(HeaderValue::from_static(""))
}

/// What is known of a traced request when it is over.
#[derive(Debug)]
pub(crate) struct Record {
    pub(super) trace: u128,
    /// The caller's span.
    pub(super) parent: Option<u64>,
    pub(super) own: u64,
    pub(super) state: String,
    /// In nanoseconds since the Unix epoch.
    pub(super) began: u64,
    pub(super) took: Duration,
    pub(super) client: IpAddr,
    pub(super) asked: Asked,
    pub(super) decision: Option<Decided>,
    pub(super) upstream: Option<Heard>,
}

/// How it was asked.
#[derive(Debug)]
pub(super) enum Asked {
    Http(Message),
    /// A question of another proxy's, over gRPC.
    Grpc(Call),
}

/// A request of HTTP.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) host: Option<String>,
    pub(super) scheme: &'static str,
    pub(super) version: Version,
    pub(super) status: StatusCode,
}

/// A call of gRPC.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) service: &'static str,
    pub(super) method: &'static str,
    pub(super) code: Code,
}

/// A part of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) span: u64,
    /// How long after the request.
    pub(super) after: Duration,
    pub(super) took: Duration,
}

/// What the limits said.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) step: Step,
    /// By the words of metrics.
    pub(super) outcome: &'static str,
    /// The limit that binds, and what it has left.
    pub(super) limit: Option<(Box<str>, u32)>,
}

/// What the upstream said.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) step: Step,
    /// Which server it was, and the status of its answer, if there was one.
    pub(super) answer: Option<(String, StatusCode)>,
}

/// The trace of a request under way, if it is traced.
#[derive(Default)]
pub(crate) struct Trace(Option<Box<Open>>);

struct Open {
    record: Record,
    started: Instant,
    /// When what is under way began.
    step: Instant,
    outbox: Arc<Outbox>,
}

impl Open {
    fn step(&self, span: u64) -> Step {
        Step { span, after: self.step.duration_since(self.started), took: self.step.elapsed() }
    }
}

fn number() -> u64 {
    fastrand::u64(1..)
}

impl Trace {
    /// Of a request that begins now.
    #[inline]
    pub(crate) fn begin(client: &Client, rules: &Rules, head: &Parts) -> Self {
        let shared = &*client.worker.shared;
        let asked = || Asked::Http(Message::of(head, client.scheme()));
        Self(
            shared
                .outbox
                .as_ref()
                .and_then(|outbox| Open::new(outbox, shared, rules, client.peer, &head.headers, asked)),
        )
    }

    /// Of a question that the administration's listener is asked.
    pub(crate) fn question(shared: &Shared, peer: IpAddr, head: &Parts) -> Self {
        Self::foreign(shared, peer, &head.headers, || Asked::Http(Message::of(head, "http")))
    }

    /// Of a call of that method, with its metadata.
    pub(crate) fn call(
        shared: &Shared,
        peer: IpAddr,
        metadata: &HeaderMap,
        service: &'static str,
        method: &'static str,
    ) -> Self {
        Self::foreign(shared, peer, metadata, || Asked::Grpc(Call { service, method, code: Code::Unknown }))
    }

    fn foreign(shared: &Shared, peer: IpAddr, headers: &HeaderMap, asked: impl FnOnce() -> Asked) -> Self {
        let Some(outbox) = &shared.outbox else { return Self(None) };
        Self(Open::new(outbox, shared, &shared.rules.load(), peer.to_canonical(), headers, asked))
    }

    /// The limits are asked now.
    #[inline]
    pub(crate) fn deciding(&mut self) {
        if let Some(open) = &mut self.0 {
            open.step = Instant::now();
        }
    }

    /// They said that.
    #[inline]
    pub(crate) fn decided(&mut self, ruling: &Ruling<'_>) {
        if let Some(open) = &mut self.0 {
            let (outcome, decision) = said(ruling);
            open.decided(outcome, decision);
        }
    }

    /// They said no, whatever is counted.
    pub(crate) fn denied(&mut self, decision: &Decision<'_>) {
        if let Some(open) = &mut self.0 {
            open.decided(DENIED, Some(decision));
        }
    }

    /// The request goes on to the upstream, with that head.
    #[inline]
    pub(crate) fn forwarding(&mut self, headers: &mut HeaderMap) {
        if let Some(open) = &mut self.0 {
            let span = number();
            open.step = Instant::now();
            open.record.upstream = Some(Heard { step: open.step(span), answer: None });
            headers.insert(TRACEPARENT, traceparent(open.record.trace, span));
        }
    }

    /// That server answered so.
    #[inline]
    pub(crate) fn heard(&mut self, server: &HeaderValue, status: StatusCode) {
        if let Some(open) = &mut self.0
            && let Some(span) = open.record.upstream.as_ref().map(|heard| heard.step.span)
        {
            let answer = Some((Shown(server.as_bytes()).to_string(), status));
            open.record.upstream = Some(Heard { step: open.step(span), answer });
        }
    }

    /// It is over.
    #[inline]
    pub(crate) fn end(&mut self, status: StatusCode) {
        if let Some(open) = self.0.take() {
            open.end(status);
        }
    }

    /// A call is over.
    pub(crate) fn end_call(&mut self, code: Code) {
        if let Some(open) = self.0.take() {
            open.end_call(code);
        }
    }
}

/// The outcome in the word of metrics, and the decision behind it.
fn said<'r>(ruling: &'r Ruling<'_>) -> (&'static str, Option<&'r Decision<'r>>) {
    match ruling {
        Ruling::Admit(admission) => {
            let decision = admission.decision.as_deref();
            let outcome = match decision.map(Decision::origin) {
                Some(Origin::Local) => "local",
                Some(Origin::FailedOpen) => "failed_open",
                _ => "allowed",
            };
            (outcome, decision)
        }
        Ruling::Deny(decision) | Ruling::Never(decision) => (DENIED, Some(&**decision)),
        Ruling::Undecided => ("failed_closed", None),
    }
}

impl Message {
    fn of(head: &Parts, scheme: &'static str) -> Self {
        let host = head.headers.get(header::HOST).map(HeaderValue::as_bytes);
        let host = host.or_else(|| head.uri.authority().map(|authority| authority.as_str().as_bytes()));
        Self {
            method: head.method.clone(),
            path: Shown(head.uri.path().as_bytes()).to_string(),
            host: host.map(|host| Shown(host).to_string()),
            scheme,
            version: head.version,
            status: StatusCode::BAD_REQUEST,
        }
    }
}

impl Open {
    /// What is to be noted of it, if it is traced.
    fn new(
        outbox: &Arc<Outbox>,
        shared: &Shared,
        rules: &Rules,
        peer: IpAddr,
        headers: &HeaderMap,
        asked: impl FnOnce() -> Asked,
    ) -> Option<Box<Self>> {
        let (trace, parent) = rules.sampling.trace(headers)?;
        if !outbox.takes_traces() {
            return None;
        }
        // Without its parent it is about another trace.
        let state = headers.get(TRACESTATE).filter(|_| parent.is_some());
        let state = state.and_then(|state| state.to_str().ok()).filter(|state| state.len() <= 512);
        let record = Record {
            trace,
            parent,
            own: number(),
            state: state.unwrap_or_default().to_owned(),
            began: shared.clock.utc().get(),
            took: Duration::ZERO,
            client: rules.policy.client(peer, headers),
            asked: asked(),
            decision: None,
            upstream: None,
        };
        let now = Instant::now();
        Some(Box::new(Self { record, started: now, step: now, outbox: Arc::clone(outbox) }))
    }

    fn decided(&mut self, outcome: &'static str, decision: Option<&Decision<'_>>) {
        let limit =
            decision.and_then(|decision| Some((Limit::name(decision.limit()?).into(), decision.remaining())));
        self.record.decision = Some(Decided { step: self.step(number()), outcome, limit });
    }

    fn end(mut self: Box<Self>, status: StatusCode) {
        let unanswered = self.record.upstream.as_ref().filter(|heard| heard.answer.is_none());
        if let Some(span) = unanswered.map(|heard| heard.step.span) {
            self.record.upstream = Some(Heard { step: self.step(span), answer: None });
        }
        if let Asked::Http(message) = &mut self.record.asked {
            message.status = status;
        }
        self.tell();
    }

    fn end_call(mut self: Box<Self>, code: Code) {
        if let Asked::Grpc(call) = &mut self.record.asked {
            call.code = code;
        }
        self.tell();
    }

    fn tell(mut self: Box<Self>) {
        self.record.took = self.started.elapsed();
        let Self { record, outbox, .. } = *self;
        outbox.trace(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, HeaderValue::from_static(value));
        }
        headers
    }

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const NOT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    #[test]
    fn what_callers_say_is_read_or_ignored() {
        let (trace, span) = (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331);
        let known = |sampled| Some(Parent { trace, span, sampled });
        for (text, said) in [
            (SAMPLED, known(true)),
            (NOT, known(false)),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-fb", known(true)),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", known(true)),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what", known(true)),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01what", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what", None),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", None),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", None),
            ("00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("", None),
        ] {
            assert_eq!(Parent::of(&headers(&[text])), said, "{text}");
        }
        assert_eq!(Parent::of(&headers(&[SAMPLED, SAMPLED])), None);
        let written = traceparent(trace, span);
        assert_eq!(written, SAMPLED);
    }

    #[test]
    fn callers_decide_and_where_they_do_not_a_share_is_traced() {
        let sampling = |share| {
            let mut config = OtlpConfig::new("http://localhost".parse().unwrap());
            config.traces = share;
            Sampling::of(Some(&config))
        };
        assert!(sampling(Some(0.0)).trace(&headers(&[SAMPLED])).is_some());
        assert!(sampling(Some(1.0)).trace(&headers(&[NOT])).is_none());
        assert!(sampling(None).trace(&headers(&[SAMPLED])).is_none());
        assert!(Sampling::of(None).trace(&headers(&[SAMPLED])).is_none());
        let traced =
            |share| (0..10_000).filter(move |_| sampling(Some(share)).trace(&HeaderMap::new()).is_some());
        assert_eq!(traced(0.0).count(), 0);
        assert_eq!(traced(1.0).count(), 10_000);
        // Ten standard deviations.
        assert!((800..1200).contains(&traced(0.1).count()));
    }
}
