//! [`ClientBody`]: a request's body, whatever version of HTTP brings it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::h1::{self, Broken};

/// A body on its way in.
pub(crate) enum ClientBody {
    /// What comes on a connection until the request is over.
    Http1(h1::Body),
    /// A stream.
    Http2(Incoming),
}

impl ClientBody {
    /// The request has become a tunnel: whatever comes from now on is its body.
    pub(crate) fn open(&self) {
        match self {
            Self::Http1(body) => body.open(),
            // It is one from the start.
            Self::Http2(_) => {}
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
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
