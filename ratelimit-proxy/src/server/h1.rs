//! HTTP/1.1 with a client: hyper with every limit set, the deadlines, and the end.
//!
//! hyper's own timer for heads is left off: [`Deadlines`](crate::deadlines::Deadlines) does the same and more
//! without a timer for each request.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, Connection};
use hyper::service::{HttpService, service_fn};
use tokio::time::Sleep;

use super::connection::answer;
use super::io::ClientIo;
use super::linger::linger;
use crate::call::Call;
use crate::deadlines::Wait;
use crate::exchange::Body;
use crate::socket::{Socket, Stream};
use crate::state::Client;
use crate::telemetry::metrics::ProtocolError;

/// Bytes that hyper holds of one message. A head of 64 KiB fits whole, so that what is too long can be told
/// from what is too much: a target of more than 65 534 bytes is 414, more or larger fields are 431.
const MAX_BUFFER: usize = 96 * 1024;

/// Serves one request after the other, until the connection ends.
pub(super) async fn serve<S: Stream>(client: &Rc<Client>, stream: S) {
    let call = Call::new(client);
    let socket = Socket::new(stream);
    let io = ClientIo { socket: socket.clone(), call: Rc::clone(&call) };
    let broken = {
        let service = service_fn(|request: Request<Incoming>| {
            let (head, body) = request.into_parts();
            answer(Rc::clone(&call), Box::new(head), body)
        });
        let mut connection =
            pin!(http1::Builder::new().max_buf_size(MAX_BUFFER).serve_connection(io, service));
        let mut timer = pin!(tokio::time::sleep(call.timeouts().head));
        let mut draining = false;
        let mut registered = false;
        poll_fn(|cx| {
            call.deadlines.tick();
            if !registered {
                registered = true;
                client.register(cx.waker());
                // A request that came with the connection is served, even where the proxy drains by now.
                let polled = drive(&call, connection.as_mut(), timer.as_mut(), cx);
                if polled.is_ready() || !client.worker.is_draining() {
                    return polled;
                }
            }
            if client.worker.is_draining() && !draining {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            drive(&call, connection.as_mut(), timer.as_mut(), cx)
        })
        .await
    };
    call.leftover.take();
    if (broken || call.has_unread())
        && let Some(socket) = socket.into_inner()
    {
        linger(socket).await;
    }
}

/// Lets everything that belongs to the connection do what it can. Ready when it is over; the value says whether
/// the client may be sending still.
fn drive<I, S>(
    call: &Call,
    mut connection: Pin<&mut Connection<ClientIo<I>, S>>,
    mut timer: Pin<&mut Sleep>,
    cx: &mut Context<'_>,
) -> Poll<bool>
where
    I: Stream,
    S: HttpService<Incoming, ResBody = Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    loop {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            let Err(error) = ended else { return Poll::Ready(false) };
            call.client.worker.metrics.protocol_error(kind(&error));
            return Poll::Ready(!error.is_incomplete_message());
        }
        poll_leftover(call, cx);
        let deadlines = &call.deadlines;
        // What has expired by now was not noticed by who waits for it, so nobody does: close.
        if deadlines.any_expired().is_some() {
            call.client.worker.metrics.protocol_error(ProtocolError::Timeout);
            return Poll::Ready(false);
        }
        let Some(earliest) = deadlines.earliest() else { return Poll::Pending };
        // The timer may ring too early, which costs one wake-up; setting it anew for each request would cost
        // more.
        if earliest < timer.deadline() || timer.is_elapsed() {
            timer.as_mut().reset(earliest);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        deadlines.tick();
        if deadlines.expired(Wait::Head) {
            call.client.worker.metrics.protocol_error(ProtocolError::Timeout);
            return Poll::Ready(false);
        }
    }
}

/// hyper parses heads and bodies, so what it complains about is one of them.
pub(super) fn kind(error: &hyper::Error) -> ProtocolError {
    if error.is_parse() {
        ProtocolError::Head
    } else if error.is_timeout() {
        ProtocolError::Timeout
    } else {
        ProtocolError::Other
    }
}

fn poll_leftover(call: &Call, cx: &mut Context<'_>) {
    let mut leftover = call.leftover.borrow_mut();
    let Some(body) = &mut *leftover else { return };
    let done = body.poll(cx).is_ready();
    let late = call.deadlines.expired(Wait::Leftover);
    if done || late {
        *leftover = None;
        call.deadlines.disarm(Wait::Leftover);
        if late && !done {
            call.left_unread();
        }
    }
}
