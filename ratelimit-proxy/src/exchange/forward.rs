//! Sends a request to the upstream and waits for the head of its answer.
//!
//! Always HTTP/1.1, whatever the client speaks. One retry, and only where it can't do anything twice: the
//! method is idempotent, there is no body, the connection had been idle, and nothing came back on it.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::request;
use http::response;
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;

use super::body::{RequestBody, fault};
use super::hop::Told;
use crate::call::Call;
use crate::deadlines::Wait;
use crate::fault::Fault;
use crate::rules::Rules;
use crate::upstream::Link;
use crate::upstream::h1::Error;

/// The upstream's answer up to its body, and the connection that brings the body.
pub(super) struct Answer {
    pub(super) head: response::Parts,
    pub(super) link: Box<Link>,
}

/// Sends the request; its head must be fit for the upstream already.
pub(super) async fn forward(
    call: &Rc<Call>,
    rules: &Rules,
    mut head: Box<request::Parts>,
    told: Told,
    body: Option<Incoming>,
) -> Result<Answer, Fault> {
    let body = RequestBody::new(body, call);
    let mut link = match call.client.worker.take_link(rules, call.deadlines.now()) {
        Some(link) => link,
        None => connect(call, rules).await?,
    };
    let may_retry = link.reused && body.is_end_stream() && head.method.is_idempotent();
    send(call, &mut link, &head, told, body);
    match receive(call, link, &mut head.headers).await {
        Ok(answer) => Ok(answer),
        Err(Failure::Silent) if may_retry => {
            let mut link = connect(call, rules).await?;
            send(call, &mut link, &head, told, RequestBody::EMPTY);
            receive(call, link, &mut head.headers).await.map_err(Failure::fault)
        }
        Err(failure) => Err(failure.fault()),
    }
}

fn send(call: &Call, link: &mut Link, head: &request::Parts, told: Told, body: RequestBody) {
    let mut known = call.client.forwarding.borrow_mut();
    link.send(head, known.lines(call.client.peer, head, told), body);
}

async fn connect(call: &Call, rules: &Rules) -> Result<Box<Link>, Fault> {
    let deadlines = &call.deadlines;
    deadlines.arm(Wait::Upstream, call.timeouts().connect);
    let mut connecting = pin!(rules.upstream.connect());
    let socket = poll_fn(|cx| match connecting.as_mut().poll(cx) {
        Poll::Ready(Ok(socket)) => Poll::Ready(Ok(socket)),
        Poll::Ready(Err(_)) => Poll::Ready(Err(Fault::Unreachable)),
        Poll::Pending if deadlines.expired(Wait::Upstream) => Poll::Ready(Err(Fault::ConnectTimeout)),
        Poll::Pending => Poll::Pending,
    })
    .await;
    deadlines.disarm(Wait::Upstream);
    let mut link = Link::new(socket?, deadlines.now());
    link.destination = rules.destination;
    Ok(Box::new(link))
}

/// Why there is no answer.
enum Failure {
    /// The connection was closed without a word, as it is when the upstream gives it up at the moment the request
    /// is sent.
    Silent,
    Fault(Fault),
}

impl Failure {
    fn fault(self) -> Fault {
        match self {
            Self::Silent => Fault::BadAnswer,
            Self::Fault(fault) => fault,
        }
    }
}

/// Waits for the head of the answer to what `link` was given. `headers` becomes its fields.
async fn receive(call: &Call, mut link: Box<Link>, headers: &mut HeaderMap) -> Result<Answer, Failure> {
    let deadlines = &call.deadlines;
    let started = deadlines.now();
    deadlines.arm(Wait::Upstream, call.timeouts().response);
    let answered = poll_fn(|cx| match link.poll_head(cx, headers) {
        Poll::Ready(answered) => Poll::Ready(Some(answered)),
        Poll::Pending if deadlines.expired(Wait::Upstream) => Poll::Ready(None),
        Poll::Pending => {
            if !link.is_uploading() {
                deadlines.arm_once(Wait::Upstream, call.timeouts().response);
            }
            Poll::Pending
        }
    })
    .await;
    deadlines.disarm(Wait::Upstream);
    let head = match answered {
        Some(Ok(head)) => head,
        Some(Err(Error::Silent)) => return Err(Failure::Silent),
        Some(Err(Error::Malformed(why))) => {
            tracing::debug!(why, "the upstream's answer is malformed");
            return Err(Failure::Fault(Fault::BadAnswer));
        }
        Some(Err(error)) => return Err(Failure::Fault(fault(&error))),
        None => return Err(Failure::Fault(Fault::AnswerTimeout)),
    };
    call.client.worker.metrics.upstream(deadlines.now().saturating_duration_since(started));
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked for that.
        return Err(Failure::Fault(Fault::BadAnswer));
    }
    Ok(Answer { head, link })
}
