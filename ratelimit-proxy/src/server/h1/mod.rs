//! HTTP/1.1 with a client: one request after the other on a connection, all in one task, with its deadlines and its
//! end. Ours rather than hyper's, whose server side alone took more instructions for a denial than nginx takes in all
//! (`benches/README.md`).
//!
//! * `head.rs` takes a request's head out of what came, `encode.rs` writes a response's;
//! * `wire.rs` does the input and output, and is the request's body;
//! * `response.rs` sends a response;
//! * what both sides of HTTP/1.1 share is in [`crate::http1`].
//!
//! # What must always hold
//! * What could be read in more than one way is refused, and the connection ends: nothing behind it is looked at.
//! * A request is served only after the response before it was sent in full and its body read in full.
//! * A response that breaks off never looks complete.
//! * The connection ends so that the client can read what was sent to it: [`linger`].

mod encode;
mod head;
mod response;
mod wire;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Method, Version};
use tokio::task::coop::consume_budget;
use tokio::time::Sleep;

pub(crate) use self::wire::{Body, Broken};

use self::head::Head;
use self::response::{Reply, Sent};
use self::wire::{Begun, Wire};
use super::body::ClientBody;
use super::connection::answer;
use super::linger::linger;
use crate::call::Call;
use crate::deadlines::Wait;
use crate::fault::Fault;
use crate::socket::Stream;
use crate::state::Client;
use crate::telemetry::metrics::ProtocolError;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nobody has anything more to say.
    Close,
    /// The client may be sending still, and must be able to read what was sent to it.
    Linger,
    /// At once.
    Cut,
}

/// Serves one request after the other, until the connection ends.
pub(super) async fn serve(client: &Rc<Client>, stream: Box<dyn Stream>) {
    let call = Call::new(client);
    let wire = Wire::new(stream, &call);
    let end = {
        let mut requests = pin!(requests(&wire, &call));
        let mut timer = pin!(tokio::time::sleep(call.timeouts().head));
        let mut registered = false;
        poll_fn(|cx| {
            call.deadlines.tick();
            if !registered {
                registered = true;
                client.register(cx.waker());
            }
            drive(&wire, &call, requests.as_mut(), timer.as_mut(), cx)
        })
        .await
    };
    match end {
        End::Close => {
            let _ = poll_fn(|cx| Poll::Ready(wire.poll_close(cx))).await;
        }
        End::Linger => {
            if let Some(wire) = Rc::into_inner(wire) {
                linger(wire.into_io()).await;
            }
        }
        End::Cut => {}
    }
}

/// Lets everything that belongs to the connection do what it can; ready when it is over.
fn drive(
    wire: &Wire,
    call: &Call,
    mut requests: Pin<&mut impl Future<Output = End>>,
    mut timer: Pin<&mut Sleep>,
    cx: &mut Context<'_>,
) -> Poll<End> {
    let deadlines = &call.deadlines;
    let late = || {
        call.client.worker.metrics.protocol_error(ProtocolError::Timeout);
        Poll::Ready(End::Cut)
    };
    loop {
        if let Poll::Ready(end) = requests.as_mut().poll(cx) {
            return Poll::Ready(end);
        }
        // What has expired by now was not noticed by who waits for it, so nobody does: close.
        if deadlines.any_expired().is_some() {
            return late();
        }
        let Some(earliest) = deadlines.earliest() else { return Poll::Pending };
        // The timer may ring too early, which costs one wake-up; setting it anew for each request would cost more. That it
        // has rung shows how long the connection has been there.
        let rang = timer.is_elapsed();
        if rang && call.is_between() {
            wire.shrink();
        }
        if earliest < timer.deadline() || rang {
            timer.as_mut().reset(earliest);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        deadlines.tick();
        if deadlines.expired(Wait::Head) {
            return late();
        }
    }
}

async fn requests(wire: &Rc<Wire>, call: &Rc<Call>) -> End {
    let metrics = &call.client.worker.metrics;
    loop {
        match poll_fn(|cx| wire.poll_head(cx)).await {
            Begun::Request(head) => {
                if let Some(end) = request(wire, call, head).await {
                    return end;
                }
            }
            Begun::Nothing => return End::Close,
            Begun::BrokenOff => {
                metrics.protocol_error(ProtocolError::Other);
                return End::Cut;
            }
            Begun::Refused { fault, bodiless } => {
                metrics.protocol_error(ProtocolError::Head);
                return refuse(wire, call, fault, bodiless).await;
            }
        }
        // Who sends many requests at once does not keep others waiting.
        if wire.is_ahead() {
            consume_budget().await;
        }
    }
}

/// Serves a request. Says how the connection ends, if it does.
async fn request(wire: &Rc<Wire>, call: &Rc<Call>, head: Head) -> Option<End> {
    let Head { parts, decoder, keep, expects_continue, takes_trailers } = head;
    let bodiless = parts.method == Method::HEAD;
    let version = parts.version;
    let body = ClientBody::Http1(wire.body(decoder, expects_continue));
    let answered = {
        let mut answer = pin!(answer(Rc::clone(call), parts, body));
        poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Pending if wire.is_gone(cx) => Poll::Ready(None),
            polled => polled.map(Some),
        })
        .await
    };
    let Some(response) = answered else {
        call.client.worker.metrics.protocol_error(ProtocolError::Other);
        return Some(End::Cut);
    };
    let mut reply = Reply::new(response, version, bodiless);
    reply.keep &= keep && !call.client.worker.is_draining();
    reply.takes_trailers = takes_trailers;
    let keep = reply.keep;
    match reply.send(wire, call).await {
        Sent::All(fields) => wire.rest(fields),
        Sent::Broken => return Some(End::Linger),
        Sent::Gone => {
            call.client.worker.metrics.protocol_error(ProtocolError::Other);
            return Some(End::Cut);
        }
    }
    if !wire.is_body_taken() && !leftover(wire, call).await {
        return Some(End::Linger);
    }
    match (keep, wire.is_ahead()) {
        (true, _) => None,
        (false, true) => Some(End::Linger),
        (false, false) => Some(End::Close),
    }
}

/// Reads what nobody wanted of a request's body, if that was found to be worth it. Returns whether that was all.
async fn leftover(wire: &Rc<Wire>, call: &Call) -> bool {
    if !call.is_aside() {
        return false;
    }
    poll_fn(|cx| match wire.poll_discard(cx) {
        Poll::Pending if !call.deadlines.expired(Wait::Leftover) => Poll::Pending,
        _ => Poll::Ready(()),
    })
    .await;
    call.deadlines.disarm(Wait::Leftover);
    wire.is_body_taken()
}

/// Says what is wrong with what came, and ends the connection.
async fn refuse(wire: &Rc<Wire>, call: &Rc<Call>, fault: Fault, bodiless: bool) -> End {
    let rules = call.begin();
    call.request_began();
    let mut reply = Reply::new(rules.answers.fault(fault), Version::HTTP_11, bodiless);
    reply.keep = false;
    match reply.send(wire, call).await {
        Sent::All(_) | Sent::Broken => End::Linger,
        Sent::Gone => End::Cut,
    }
}
