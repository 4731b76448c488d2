//! [`Link`]: a connection while a request uses it.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, request, response};
use http_body::{Frame, SizeHint};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::h1;
use super::local::Picked;
use crate::exchange::{Broken, RequestBody};

/// A connection to a server, driven by the request that uses it: a task of its own would cost each request two hops
/// between tasks. While it is idle nobody polls it.
pub(super) type Connection = h1::Connection<TcpStream, RequestBody>;

type Error = h1::Error<Broken>;

/// A connection that carries a request and its response.
pub(crate) struct Link {
    connection: Box<Connection>,
    to: Picked,
}

impl Link {
    /// An idle connection to that server, if there is one.
    pub(crate) fn idle(to: Picked, now: Instant) -> Result<Self, Picked> {
        match to.take(now) {
            Some(connection) => Ok(Self { connection, to }),
            None => Err(to),
        }
    }

    /// A new connection to that server.
    pub(crate) fn new(to: Picked, socket: TcpStream, now: Instant) -> Self {
        Self { connection: Box::new(Connection::new(socket, now)), to }
    }

    /// The server it leads to.
    pub(crate) fn to(&self) -> &Picked {
        &self.to
    }

    /// The server it leads to, without it.
    pub(crate) fn close(self) -> Picked {
        self.to
    }

    /// Whether it served a request before.
    pub(crate) fn is_reused(&self) -> bool {
        self.connection.reused
    }

    /// Takes a request; [`Link::poll_head`] sends it. `lines` are whole lines with more fields.
    pub(crate) fn send(&mut self, head: &request::Parts, lines: &[u8], body: RequestBody) {
        self.connection.send(head, lines, body);
    }

    /// Sends what can be sent, and waits for the head of the response. `headers` is emptied and becomes its fields.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        headers: &mut HeaderMap,
    ) -> Poll<Result<response::Parts, Error>> {
        self.connection.poll_head(cx, headers)
    }

    /// The next piece of the response's body, or its trailers, which are the last.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.connection.poll_frame(cx)
    }

    /// Whether all of the response's body has been taken.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.connection.is_end_stream()
    }

    /// What is known of the length of what is left of it.
    pub(crate) fn size_hint(&self) -> SizeHint {
        self.connection.size_hint()
    }

    /// Whether some of the request's body is still to come.
    pub(crate) fn is_uploading(&self) -> bool {
        self.connection.is_uploading()
    }

    /// Keeps the connection for the next request, unless it can't be used again.
    pub(crate) fn put_back(self, now: Instant) {
        self.to.put_back(self.connection, now);
    }
}
