//! [`Body`]: the inner service's body, or one of ours; and what is held until it ends.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;

use super::config::Held;

pin_project! {
    /// The body of a response from behind limits. Permits of concurrency limits are given back when it has
    /// ended: read to its end, failed, or dropped.
    pub struct Body<T> {
        #[pin]
        content: Content<T>,
        held: Option<Held>,
    }
}

pin_project! {
    #[project = ContentProjection]
    enum Content<T> {
        Inner { #[pin] body: T },
        /// An answer of the layer's own; empty once it was read.
        Whole { bytes: Bytes },
    }
}

impl<T> Body<T> {
    pub(super) const fn unlimited(body: T) -> Self {
        Self::holding(body, None)
    }

    pub(super) const fn holding(body: T, held: Option<Held>) -> Self {
        Self { content: Content::Inner { body }, held }
    }

    pub(super) const fn whole(bytes: Bytes) -> Self {
        Self { content: Content::Whole { bytes }, held: None }
    }
}

impl<T: http_body::Body<Data = Bytes>> http_body::Body for Body<T> {
    type Data = Bytes;
    type Error = T::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.project();
        match this.content.project() {
            ContentProjection::Inner { mut body } => {
                let frame = ready!(body.as_mut().poll_frame(cx));
                // Servers may drop a body that says it has ended without polling it once more, but need not do
                // so soon.
                if !matches!(frame, Some(Ok(_))) || body.is_end_stream() {
                    *this.held = None;
                }
                Poll::Ready(frame)
            }
            ContentProjection::Whole { bytes } if bytes.is_empty() => Poll::Ready(None),
            ContentProjection::Whole { bytes } => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Inner { body } => body.is_end_stream(),
            Content::Whole { bytes } => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Inner { body } => body.size_hint(),
            Content::Whole { bytes } => SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
        }
    }
}
