//! One client's connection, from the moment it was taken in: opened, then served as what it turns out to be.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use futures_util::FutureExt as _;
use http::Response;
use http::request::Parts;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::body::ClientBody;
use super::opening::{Opened, Opening, open};
use super::ports::Port;
use super::{h1, h2};
use crate::call::Call;
use crate::exchange::{Body, exchange};
use crate::fault::Fault;
use crate::state::{Client, Place, Worker};
use crate::telemetry::metrics::ProtocolError;

/// Serves a connection until it ends.
pub(super) async fn serve(worker: Rc<Worker>, port: &Port, tcp: TcpStream, peer: SocketAddr) {
    let place = Place::new(&worker);
    let head = worker.rules().timeouts.head;
    let opened = timeout(head, open(port, &place, tcp, peer)).await.unwrap_or(Err(ProtocolError::Timeout));
    let Opened { stream, peer, guest: _guest } = match opened {
        Ok(Some(opened)) => opened,
        Ok(None) => return,
        Err(error) => return worker.metrics.protocol_error(error),
    };
    // Boxed, so that an idle connection of HTTP/1.1 does not take the room of another.
    match stream {
        Opening::Plain { stream, http2: false } => {
            h1::serve(&Client::new(place, peer, None), Box::new(stream)).await
        }
        Opening::Plain { stream, http2: true } => {
            Box::pin(h2::serve(&Client::new(place, peer, None), stream)).await;
        }
        Opening::Tls { stream, session } => {
            let http2 = session.http2;
            let client = Client::new(place, peer, Some(session));
            if http2 {
                Box::pin(h2::serve(&client, *stream)).await;
            } else {
                h1::serve(&client, stream).await;
            }
        }
    }
}

/// Answers a request; a panic is a 500 and ends the connection or the stream, nothing else.
pub(super) async fn answer(call: Rc<Call>, head: Box<Parts>, body: ClientBody) -> Box<Response<Body>> {
    let answered = AssertUnwindSafe(exchange(&call, head, Some(body))).catch_unwind().await;
    answered.unwrap_or_else(|_| {
        let worker = &call.client.worker;
        worker.metrics.panic();
        worker.rules().answers.fault(Fault::Panic)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F>(_: impl FnOnce() -> F) -> usize {
        size_of::<F>()
    }

    /// Of what no value is needed, since nothing of it is run.
    fn any<T>() -> T {
        std::process::abort()
    }

    /// Everything that is served is a part of it while nothing is, so it is what each idle connection takes.
    #[test]
    fn the_task_of_an_idle_connection_is_small() {
        let serve = size(|| serve(any(), any::<&'static Port>(), any(), any()));
        let h1 = size(|| h1::serve(any::<&'static Rc<Client>>(), any()));
        let answer = size(|| answer(any(), any(), any()));
        assert!(serve <= 4608, "{serve} bytes, of HTTP/1.1 {h1}, of a request {answer}");
    }
}
