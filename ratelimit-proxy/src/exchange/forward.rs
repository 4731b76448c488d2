//! Sends a request to a server of the upstream and waits for the head of its answer.
//!
//! As the server speaks, whatever the client does. It goes to another server only where it can't do anything twice:
//!
//! * where no connection was to be had, so that nothing of it was sent;
//! * where a connection ended without a word, the method is idempotent and there is no body. On one that had been idle
//!   that is a race, which says nothing of the server: it gets the request once more, on a new one.
//!
//! How often, and how much in all, is the upstream's affair.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::request;
use http::response;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::Body as _;

use super::body::{RequestBody, fault};
use super::hop::Told;
use super::inbound::Onward;
use super::upgrade;
use crate::answer::is_grpc;
use crate::call::Call;
use crate::deadlines::Wait;
use crate::fault::{Fault, Side};
use crate::rules::{Adopted, Rules};
use crate::server::ClientBody;
use crate::upstream::h1::Error;
use crate::upstream::{Carrier, Link, LocalGroup, Picked, Tried, Unconnected};

/// The upstream's answer up to its body, and the connection that brings the body.
pub(super) struct Answer {
    pub(super) head: response::Parts,
    pub(super) link: Link,
    /// The protocol that is spoken from here on, if that is another.
    pub(super) switched: Option<HeaderValue>,
}

/// Sends the request; its head must be fit for the upstream already. `hash` is what decides the server, if anything
/// does.
pub(super) async fn forward(
    call: &Rc<Call>,
    rules: &Adopted,
    upstream: &LocalGroup,
    hash: Option<u64>,
    mut head: Box<request::Parts>,
    Onward { told, asked }: Onward,
    mut body: Option<ClientBody>,
) -> Result<Answer, Fault> {
    call.wait_for(upstream.group.timeouts);
    // What is behind its head is the next request until the server has switched.
    let tunnel = asked.and_then(|asked| Some((asked, body.take()?)));
    let mut body = RequestBody::new(body, call, rules);
    let is_repeatable = body.is_end_stream() && head.method.is_idempotent();
    let left = upstream.begin();
    let mut search = Search { call, rules, upstream, hash, left, tried: Tried::new() };
    let mut link = search.first().await?;
    loop {
        if link.is_shared() && is_grpc(&head.headers) {
            call.may_be_silent(upstream.group.silence);
        }
        send(call, &mut link, &head, told, std::mem::replace(&mut body, RequestBody::EMPTY));
        let failure = match receive(call, &mut link, &mut head.headers).await {
            Ok(head) => {
                link.to().succeeded();
                let switched = switch(call, rules, &mut link, &head, tunnel)?;
                return Ok(Answer { head, link, switched });
            }
            Err(failure) => failure,
        };
        let is_silent = matches!(failure, Failure::Silent);
        link = if is_silent && is_repeatable && link.is_reused() {
            search.connect(link.close()).await?
        } else {
            search.failed(link.to(), failure.fault());
            let to = link.close();
            let next = if is_silent && is_repeatable { search.next(&to) } else { None };
            drop(to);
            search.link(next.ok_or(failure.fault())?).await?
        };
    }
}

/// Makes a tunnel of it where the server has switched. Nobody else may say so.
fn switch(
    call: &Rc<Call>,
    rules: &Adopted,
    link: &mut Link,
    head: &response::Parts,
    tunnel: Option<(HeaderValue, ClientBody)>,
) -> Result<Option<HeaderValue>, Fault> {
    let websocket = tunnel.as_ref().and_then(|(_, body)| body.websocket());
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        // To a client of HTTP/2 any success would say that there is a tunnel.
        let is_misleading = websocket.is_some() && head.status.is_success();
        return if is_misleading { Err(Fault::BadAnswer) } else { Ok(None) };
    }
    if websocket.is_some_and(|websocket| !websocket.is_accepted(&head.headers)) {
        return Err(Fault::BadAnswer);
    }
    let (asked, body) = tunnel.ok_or(Fault::BadAnswer)?;
    let switched = upgrade::switched(&asked, &head.headers).ok_or(Fault::BadAnswer)?;
    let timeouts = call.timeouts();
    call.wait_for((None, Some(timeouts.response.max(timeouts.tunnel))));
    link.open(RequestBody::tunnel(body, call, rules));
    Ok(Some(switched))
}

fn send(call: &Call, link: &mut Link, head: &request::Parts, told: Told, body: RequestBody) {
    let mut known = call.client.forwarding.borrow_mut();
    link.send(head, known.lines(call.client.peer, call.client.scheme(), head, told), body);
}

/// The search for a server that answers a request.
struct Search<'s> {
    call: &'s Call,
    rules: &'s Rules,
    upstream: &'s LocalGroup,
    hash: Option<u64>,
    /// How often it may be tried again.
    left: u32,
    tried: Tried,
}

impl Search<'_> {
    /// A connection to the server whose turn it is, or to another if that can't be reached.
    async fn first(&mut self) -> Result<Link, Fault> {
        let to = self.upstream.pick(self.hash, self.call.deadlines.now(), &self.tried);
        self.link(to.ok_or(Fault::AllDown)?).await
    }

    /// A connection to that server, or to another if it can't be reached.
    async fn link(&mut self, to: Picked) -> Result<Link, Fault> {
        match Link::idle(to, self.call.deadlines.now()) {
            Ok(link) => Ok(link),
            Err(to) => self.connect(to).await,
        }
    }

    /// The same, a new one.
    async fn connect(&mut self, mut to: Picked) -> Result<Link, Fault> {
        loop {
            let fault = match connect(self.call, self.rules, &to).await {
                Ok(carrier) => return Ok(Link::new(to, carrier)),
                Err(fault) => fault,
            };
            self.failed(&to, fault);
            // Who can't be trusted is not a server that is down; nor are the others better.
            let next = if fault == Fault::Untrusted { None } else { self.next(&to) };
            let fault = if self.upstream.any_up() { fault } else { Fault::AllDown };
            drop(to);
            to = match Link::idle(next.ok_or(fault)?, self.call.deadlines.now()) {
                Ok(link) => return Ok(link),
                Err(to) => to,
            };
        }
    }

    /// A server that was not tried yet, if the request may be tried again.
    fn next(&mut self, last: &Picked) -> Option<Picked> {
        self.left = self.left.checked_sub(1)?;
        self.tried.push(last.number);
        let next = self.upstream.pick_again(self.hash, self.call.deadlines.now(), &self.tried)?;
        self.call.client.worker.metrics.retry();
        Some(next)
    }

    /// Takes note of a server that failed, if it is its fault.
    fn failed(&self, to: &Picked, fault: Fault) {
        if fault.side() == Side::Upstream {
            to.failed(&self.upstream.group, self.call.deadlines.now());
            // Why there is no connection is told where that is known.
            if !matches!(fault, Fault::Unreachable | Fault::Untrusted) {
                self.rules.log.upstream_failed(to.server().target.authority(), fault.detail());
            }
        }
    }
}

/// What carries a request to that server.
async fn connect(call: &Call, rules: &Rules, to: &Picked) -> Result<Carrier, Fault> {
    let deadlines = &call.deadlines;
    deadlines.arm(Wait::Upstream, call.timeouts().connect);
    let mut connecting = pin!(to.connect(deadlines.now()));
    let carrier = poll_fn(|cx| match connecting.as_mut().poll(cx) {
        Poll::Ready(Ok(carrier)) => Poll::Ready(Ok(carrier)),
        Poll::Ready(Err(why)) => {
            rules.log.upstream_unconnected(to.server().target.authority(), &why);
            Poll::Ready(Err(match why {
                Unconnected::Unreachable(_) => Fault::Unreachable,
                Unconnected::Untrusted(_) => Fault::Untrusted,
            }))
        }
        Poll::Pending if deadlines.expired(Wait::Upstream) => Poll::Ready(Err(Fault::ConnectTimeout)),
        Poll::Pending => Poll::Pending,
    })
    .await;
    deadlines.disarm(Wait::Upstream);
    carrier
}

/// Why there is no answer.
enum Failure {
    /// The connection was closed without a word, as it is when the upstream gives it up at the moment the request
    /// is sent.
    Silent,
    Fault(Fault),
}

impl Failure {
    const fn fault(&self) -> Fault {
        match self {
            Self::Silent => Fault::BadAnswer,
            Self::Fault(fault) => *fault,
        }
    }
}

/// Waits for the head of the answer to what `link` was given. `headers` becomes its fields.
async fn receive(call: &Call, link: &mut Link, headers: &mut HeaderMap) -> Result<response::Parts, Failure> {
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
    Ok(head)
}
