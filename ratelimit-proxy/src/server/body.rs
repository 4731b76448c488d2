//! [`ClientBody`]: a request's body, whatever version of HTTP brings it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::h1::{self, Broken};
use super::websocket::Tunnel;

/// A body on its way in.
pub(crate) enum ClientBody {
    /// What comes on a connection until the request is over.
    Http1(h1::Body),
    /// A stream.
    Http2(Incoming),
    /// A stream that is to be a WebSocket.
    WebSocket(Tunnel),
}

impl ClientBody {
    /// The request has become a tunnel: whatever comes from now on is its body.
    pub(crate) fn open(&self) {
        match self {
            Self::Http1(body) => body.open(),
            // Nothing can be switched there.
            Self::Http2(_) => {}
            Self::WebSocket(tunnel) => tunnel.open(),
        }
    }

    /// Whether the request may become a tunnel: nothing else comes with it.
    pub(crate) fn may_be_tunnel(&self) -> bool {
        !matches!(self, Self::Http2(_)) && http_body::Body::is_end_stream(self)
    }

    /// The stream that is to be a WebSocket, if it is one.
    pub(crate) fn websocket(&self) -> Option<&Tunnel> {
        match self {
            Self::WebSocket(tunnel) => Some(tunnel),
            Self::Http1(_) | Self::Http2(_) => None,
        }
    }
}

impl http_body::Body for ClientBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Self::Http1(body) => body.poll_frame(cx),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(|_| Broken),
            Self::WebSocket(tunnel) => tunnel.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::WebSocket(tunnel) => tunnel.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::WebSocket(tunnel) if tunnel.is_end_stream() => SizeHint::with_exact(0),
            Self::WebSocket(_) => SizeHint::default(),
        }
    }
}
