//! The two bodies that pass through: [`RequestBody`] on its way to the upstream, [`Body`] on its way to the
//! client. Neither is buffered; both watch that the other side does not let them wait too long.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::tail::Tail;
use super::{hop, upgrade};
use crate::call::Call;
use crate::deadlines::Wait;
use crate::fault::Fault;
use crate::rules::Adopted;
use crate::server::ClientBody;
use crate::upstream::Link;
use crate::upstream::h1::Error;

/// A body that broke. What it means is a [`Fault`]; the text is for whoever reads hyper's errors.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) Fault);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.detail())
    }
}

impl std::error::Error for Broken {}

/// What it means when the upstream's connection fails.
pub(super) fn fault(error: &Error<Broken>) -> Fault {
    match error {
        Error::Upload(broken) => broken.0,
        Error::Length => Fault::BadBody,
        Error::Silent | Error::BrokenOff | Error::Malformed(_) => Fault::BadAnswer,
    }
}

/// A request's body on its way to the upstream. Its trailers are cleaned as its head was, by the same rules. Servers that
/// speak HTTP/2 get them all, others those that the head announces.
pub(crate) struct RequestBody(Option<Upload>);

struct Upload {
    body: ClientBody,
    call: Rc<Call>,
    rules: Adopted,
    is_tunnel: bool,
}

impl RequestBody {
    pub(crate) const EMPTY: Self = Self(None);

    /// Passes `body` on.
    pub(crate) fn new(body: Option<ClientBody>, call: &Rc<Call>, rules: &Adopted) -> Self {
        let Some(body) = body.filter(|body| !body.is_end_stream()) else { return Self::EMPTY };
        Self(Some(Upload { body, call: Rc::clone(call), rules: rules.clone(), is_tunnel: false }))
    }

    /// Passes on everything that comes from now on.
    pub(super) fn tunnel(body: ClientBody, call: &Rc<Call>, rules: &Adopted) -> Self {
        body.open();
        Self(Some(Upload { body, call: Rc::clone(call), rules: rules.clone(), is_tunnel: true }))
    }
}

impl Upload {
    fn fail(&mut self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.call.deadlines.disarm(Wait::Body);
        Poll::Ready(Some(Err(Broken(fault))))
    }

    /// Something was passed on, so it is the upstream's turn.
    fn passed(&self) {
        self.call.deadlines.disarm(Wait::Body);
        let is_half = self.is_tunnel && self.body.is_end_stream();
        let wait = if is_half { upgrade::HALF_CLOSED } else { self.call.timeouts().response };
        self.call.deadlines.arm(Wait::Upstream, wait);
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(upload) = &mut self.0 else { return Poll::Ready(None) };
        match Pin::new(&mut upload.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    upload.passed();
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                Err(frame) => {
                    upload.passed();
                    let trailers = frame.into_trailers().ok().map(|mut trailers| {
                        hop::strip_request_trailers(&mut trailers, &upload.rules.policy);
                        Frame::trailers(trailers)
                    });
                    Poll::Ready(trailers.map(Ok))
                }
            },
            Poll::Ready(Some(Err(_))) => upload.fail(Fault::BadBody),
            Poll::Ready(None) => {
                upload.passed();
                Poll::Ready(None)
            }
            // Either side may be silent.
            Poll::Pending if upload.is_tunnel => Poll::Pending,
            Poll::Pending if upload.call.deadlines.expired(Wait::Body) => upload.fail(Fault::SlowBody),
            Poll::Pending => {
                // It is the client's turn, not the upstream's.
                upload.call.deadlines.disarm(Wait::Upstream);
                upload.call.deadlines.arm_once(Wait::Body, upload.call.timeouts().body);
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|upload| upload.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |upload| upload.body.size_hint())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.call.deadlines.disarm(Wait::Body);
    }
}

/// A response's body on its way to the client, with what is to be done when it ends.
pub(crate) struct Body {
    source: Source,
    tail: Option<Tail>,
    broken: Option<Broken>,
}

enum Source {
    Own {
        bytes: Option<Bytes>,
        lines: Option<Bytes>,
    },
    /// The connection that brings it; gone when there is nothing more to come.
    Upstream {
        link: Option<Link>,
        call: Rc<Call>,
    },
}

impl Body {
    /// One of our own.
    pub(crate) fn own(bytes: Bytes) -> Self {
        Self::own_with(bytes, None)
    }

    /// One of our own, of a response of HTTP/1.1 whose head has these lines beside its fields.
    pub(crate) fn own_with(bytes: Bytes, lines: Option<Bytes>) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Self { source: Source::Own { bytes, lines }, tail: None, broken: None }
    }

    /// Lines of the head beside its fields, each with its end.
    pub(crate) fn lines(&self) -> &[u8] {
        match &self.source {
            Source::Own { lines: Some(lines), .. } => lines,
            Source::Own { .. } | Source::Upstream { .. } => &[],
        }
    }

    /// The upstream's.
    pub(crate) fn upstream(link: Link, call: &Rc<Call>) -> Self {
        let complete = link.is_end_stream();
        let source = Source::Upstream { link: Some(link), call: Rc::clone(call) };
        let mut passing = Self { source, tail: None, broken: None };
        if complete {
            passing.complete();
        }
        passing
    }

    /// What is to be done at its end.
    pub(crate) fn set_tail(&mut self, mut tail: Tail) {
        if self.is_end_stream() {
            tail.complete();
        } else {
            self.tail = Some(tail);
        }
    }

    /// All of it was handed over.
    fn complete(&mut self) {
        if let Source::Upstream { link, call, .. } = &mut self.source {
            call.deadlines.disarm(Wait::Upstream);
            if let Some(link) = link.take() {
                link.put_back(call.deadlines.now());
            }
        }
        if let Some(mut tail) = self.tail.take() {
            tail.complete();
        }
    }

    fn poll_upstream(
        link: &mut Option<Link>,
        call: &Call,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(link) = link else { return Poll::Ready(None) };
        match link.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                call.deadlines.disarm(Wait::Upstream);
                return Poll::Ready(Some(Ok(clean(frame))));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(Broken(fault(&error))))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        if call.deadlines.expired(Wait::Upstream) {
            call.deadlines.disarm(Wait::Upstream);
            return Poll::Ready(Some(Err(Broken(Fault::AnswerTimeout))));
        }
        call.deadlines.arm_once(Wait::Upstream, call.timeouts().response);
        Poll::Pending
    }
}

fn clean(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            hop::strip_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        if let Some(broken) = this.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        let polled = match &mut this.source {
            Source::Own { bytes, .. } => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Upstream { link, call } => Self::poll_upstream(link, call, cx),
        };
        if let (Poll::Ready(Some(Ok(frame))), Some(tail)) = (&polled, &mut this.tail)
            && let Some(trailers) = frame.trailers_ref()
        {
            tail.hear(trailers);
        }
        match polled {
            Poll::Ready(None) => this.complete(),
            Poll::Ready(Some(Err(broken))) => {
                if let Source::Upstream { link, .. } = &mut this.source {
                    *link = None;
                }
                this.tail = None;
                // At an error hyper throws away what it has not written yet. The client shall see what came
                // before it, and then that it is not all.
                this.broken = Some(broken);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // Behind trailers nothing comes, and hyper does not ask.
            Poll::Ready(Some(Ok(ref frame))) if frame.is_trailers() || this.is_end_stream() => {
                this.complete()
            }
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own { bytes, .. } => bytes.is_none(),
            Source::Upstream { link, .. } => link.as_ref().is_none_or(|link| link.is_end_stream()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own { bytes, .. } => SizeHint::with_exact(
                bytes.as_ref().map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            ),
            Source::Upstream { link, .. } => {
                link.as_ref().map_or_else(|| SizeHint::with_exact(0), |link| link.size_hint())
            }
        }
    }
}
