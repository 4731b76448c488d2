//! [`Link`]: a connection while a request uses it.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, request, response};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use super::h1;
use super::h2::Stream;
use super::local::Picked;
use super::socket::Socket;
use crate::exchange::{Broken, RequestBody};

/// A connection to a server over HTTP/1.1, driven by the request that uses it: a task of its own would cost each
/// request two hops between tasks. While it is idle nobody polls it.
pub(crate) type Connection = h1::Connection<Socket, RequestBody>;

type Error = h1::Error<Broken>;

/// What carries a request.
pub(crate) enum Carrier {
    /// A connection of its own.
    H1(Box<Connection>),
    /// A part of one that carries others, too.
    H2(Box<Stream>),
}

/// A connection that carries a request and its response.
pub(crate) struct Link {
    carrier: Carrier,
    to: Picked,
}

impl Link {
    /// A connection to that server that is there already; the server, if there is none.
    pub(crate) fn idle(to: Picked, now: Instant) -> Result<Self, Picked> {
        match to.take(now) {
            Some(carrier) => Ok(Self { carrier, to }),
            None => Err(to),
        }
    }

    /// A connection to that server.
    pub(crate) fn new(to: Picked, carrier: Carrier) -> Self {
        Self { carrier, to }
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
        match &self.carrier {
            Carrier::H1(connection) => connection.reused,
            Carrier::H2(stream) => stream.reused,
        }
    }

    /// Whether it is a part of one that carries others, too.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.carrier, Carrier::H2(_))
    }

    /// Takes a request; [`Link::poll_head`] sends it. `lines` are whole lines with more fields.
    #[inline]
    pub(crate) fn send(&mut self, head: &request::Parts, lines: &[u8], body: RequestBody) {
        match &mut self.carrier {
            Carrier::H1(connection) => connection.send(head, lines, body),
            Carrier::H2(stream) => stream.send(head, lines, body),
        }
    }

    /// The server has switched to another protocol: from now on `body` is sent as it comes, and what comes back is the
    /// body of the response.
    pub(crate) fn open(&mut self, body: RequestBody) {
        match &mut self.carrier {
            Carrier::H1(connection) => connection.open(body),
            // There nothing can be switched.
            Carrier::H2(_) => {}
        }
    }

    /// Sends what can be sent, and waits for the head of the response. `headers` may be emptied and become its fields.
    #[inline]
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        headers: &mut HeaderMap,
    ) -> Poll<Result<response::Parts, Error>> {
        match &mut self.carrier {
            Carrier::H1(connection) => connection.poll_head(cx, headers),
            Carrier::H2(stream) => stream.poll_head(cx),
        }
    }

    /// The next piece of the response's body, or its trailers, which are the last.
    #[inline]
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut self.carrier {
            Carrier::H1(connection) => connection.poll_frame(cx),
            Carrier::H2(stream) => stream.poll_frame(cx),
        }
    }

    /// Whether all of the response's body has been taken.
    #[inline]
    pub(crate) fn is_end_stream(&self) -> bool {
        match &self.carrier {
            Carrier::H1(connection) => connection.is_end_stream(),
            Carrier::H2(stream) => stream.is_end_stream(),
        }
    }

    /// What is known of the length of what is left of it.
    #[inline]
    pub(crate) fn size_hint(&self) -> SizeHint {
        match &self.carrier {
            Carrier::H1(connection) => connection.size_hint(),
            Carrier::H2(stream) => stream.size_hint(),
        }
    }

    /// Whether some of the request's body is still to come.
    pub(crate) fn is_uploading(&self) -> bool {
        match &self.carrier {
            Carrier::H1(connection) => connection.is_uploading(),
            Carrier::H2(stream) => stream.is_uploading(),
        }
    }

    /// Keeps the connection for the next request, unless it can't be used again.
    #[inline]
    pub(crate) fn put_back(self, now: Instant) {
        match self.carrier {
            Carrier::H1(connection) => self.to.put_back(connection, now),
            // Its connection is where it was.
            Carrier::H2(_) => {}
        }
    }
}
