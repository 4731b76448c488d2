//! [`Connection`]: sends a request and reads its response, whenever the request's future is polled.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, request, response};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::head::{self, Parsed};
use super::{Error, encode};
use crate::http1::fields::{elements, may_end};
use crate::http1::{Decoder, Framing, Inbox, Outbox};

/// Bytes that the heads of one response may have, informational ones included.
const MAX_HEADS: usize = 64 * 1024;

/// A piece of a response's body, or why there is none.
type Piece<E> = Result<Frame<Bytes>, Error<E>>;

/// What a connection runs over.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Whether nothing has come. Before a request is sent it must be so: bytes, the end and an error all mean that
    /// none should be. The connection is given up if it is not, so bytes may be lost.
    fn is_silent(&mut self) -> bool;
}

/// A connection to a server.
pub(crate) struct Connection<S, B> {
    io: S,
    /// What came and has not been looked at.
    inbox: Inbox,
    /// What is to be sent.
    outbox: Outbox,
    /// Where that comes from, until all of it came.
    upload: Option<Upload<B>>,
    /// Whether the other side is to be told that nothing more comes, once all was sent.
    closing: bool,
    /// Whether the head of the response is still to come.
    awaits_head: bool,
    /// Whether the request was HEAD.
    bodiless: bool,
    /// Bytes of this response's heads that have been taken from the inbox.
    heads: usize,
    /// Bytes of the inbox that have been found to be less than a head.
    searched: usize,
    /// What is to come of the response's body.
    decoder: Decoder,
    /// Whether nothing has been said or done that keeps it from being used again.
    keep: bool,
    /// Whether it has served a request before.
    pub(crate) reused: bool,
    /// Since when nobody has used it.
    pub(crate) idle_since: Instant,
}

struct Upload<B> {
    body: B,
    framing: Framing,
    /// The trailers that the head announces. Others are not sent: the server could not know what to make of them.
    trailers: Option<HeaderValue>,
}

impl<S, B> Connection<S, B>
where
    S: Transport,
    B: Body<Data = Bytes> + Unpin,
{
    /// On a fresh connection.
    pub(crate) fn new(io: S, now: Instant) -> Self {
        Self {
            io,
            inbox: Inbox::new(),
            outbox: Outbox::default(),
            upload: None,
            closing: false,
            awaits_head: false,
            bodiless: false,
            heads: 0,
            searched: 0,
            decoder: Decoder::Done,
            keep: true,
            reused: false,
            idle_since: now,
        }
    }

    /// Takes a request; [`Connection::poll_head`] sends it. The one before must be complete. `lines` are whole lines
    /// with more fields.
    pub(crate) fn send(&mut self, head: &request::Parts, lines: &[u8], body: B) {
        let framing = framing(head, &body);
        encode::head(self.outbox.text(), head, lines, framing);
        self.upload = (!body.is_end_stream()).then(|| {
            let announced = head.headers.get(header::TRAILER).filter(|_| framing == Framing::Chunked);
            Upload { body, framing, trailers: announced.cloned() }
        });
        self.awaits_head = true;
        self.bodiless = head.method == Method::HEAD;
        self.heads = 0;
        self.searched = 0;
    }

    /// The server has switched to another protocol: from now on `body` is sent as it comes, and what comes back is the
    /// body of the response, until either side closes.
    pub(crate) fn open(&mut self, body: B) {
        self.keep = false;
        self.decoder = Decoder::UntilClose;
        self.upload = Some(Upload { body, framing: Framing::UntilClose, trailers: None });
    }

    /// Sends what can be sent, and waits for the head of the response. `headers` is emptied and becomes its
    /// fields.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        headers: &mut HeaderMap,
    ) -> Poll<Result<response::Parts, Error<B::Error>>> {
        self.poll_send(cx)?;
        loop {
            if let Some(head) = self.take_head(headers)? {
                return Poll::Ready(Ok(head));
            }
            let silent = self.inbox.is_empty() && self.heads == 0;
            match ready!(self.poll_read(cx)) {
                Ok(1..) => {}
                Ok(0) => return Poll::Ready(Err(if silent { Error::Silent } else { Error::BrokenOff })),
                Err(error) => {
                    let gone = matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionReset
                            | io::ErrorKind::ConnectionAborted
                            | io::ErrorKind::BrokenPipe
                    );
                    return Poll::Ready(Err(if silent && gone { Error::Silent } else { Error::BrokenOff }));
                }
            }
        }
    }

    fn take_head(&mut self, headers: &mut HeaderMap) -> Result<Option<response::Parts>, Error<B::Error>> {
        // Parsed anew only where there may be an end: bytes that trickle in would cost their square otherwise.
        while self.searched == 0 || may_end(&self.inbox.bytes, self.searched) {
            let before = self.inbox.len();
            if before == 0 {
                break;
            }
            match head::take(&mut self.inbox.bytes, self.bodiless, headers)? {
                Parsed::Partial => {
                    self.searched = before;
                    break;
                }
                Parsed::Informational(length) => {
                    self.heads += length;
                    self.searched = 0;
                }
                Parsed::Final(head) => {
                    self.heads += before - self.inbox.len();
                    if self.heads > MAX_HEADS {
                        break;
                    }
                    self.awaits_head = false;
                    self.keep &= head.keep;
                    self.decoder = head.decoder;
                    return Ok(Some(head.parts));
                }
            }
        }
        self.searched = self.inbox.len();
        if self.heads + self.inbox.len() > MAX_HEADS {
            return Err(Error::Malformed("the head is too large"));
        }
        Ok(None)
    }

    /// The next piece of the response's body, or its trailers, which are the last. The request goes on being sent
    /// meanwhile.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Piece<B::Error>>> {
        self.poll_send(cx)?;
        loop {
            if let Some(frame) = self.decoder.take(&mut self.inbox.bytes).map_err(Error::from)? {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.decoder.is_done() {
                return Poll::Ready(None);
            }
            match ready!(self.poll_read(cx)) {
                Ok(1..) => {}
                Ok(0) if self.decoder.end() => return Poll::Ready(None),
                Ok(0) | Err(_) => return Poll::Ready(Some(Err(Error::BrokenOff))),
            }
        }
    }

    /// Whether all of the response's body has been taken.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.decoder.is_done()
    }

    /// What is known of the length of what is left of it.
    pub(crate) fn size_hint(&self) -> SizeHint {
        self.decoder.size_hint()
    }

    /// Whether some of the request's body is still to come.
    pub(crate) fn is_uploading(&self) -> bool {
        self.upload.is_some()
    }

    /// Whether another request can be sent, as far as is known without asking the socket.
    pub(crate) fn can_be_kept(&self) -> bool {
        self.keep
            && !self.awaits_head
            && self.decoder.is_done()
            && self.inbox.is_empty()
            && self.upload.is_none()
            && self.outbox.is_empty()
    }

    /// The same, having asked the socket.
    pub(crate) fn is_ready(&mut self) -> bool {
        self.can_be_kept() && self.io.is_silent()
    }

    /// Gives back the room that a large response took.
    pub(crate) fn rest(&mut self) {
        self.inbox.rest();
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.inbox.poll_read(&mut self.io, cx)
    }

    /// Sends what there is. When nobody takes it any more, that is no error yet: there may be a response that
    /// says why.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), Error<B::Error>> {
        let mut waits = false;
        loop {
            while !waits && self.outbox.has_room() {
                let Some(upload) = &mut self.upload else { break };
                match upload.poll(&mut self.outbox, cx) {
                    Poll::Ready(Ok(true)) => {
                        self.closing = upload.framing == Framing::UntilClose;
                        self.upload = None;
                    }
                    Poll::Ready(Ok(false)) => {}
                    Poll::Ready(Err(error)) => {
                        self.keep = false;
                        return Err(error);
                    }
                    Poll::Pending => waits = true,
                }
            }
            if self.outbox.is_empty() {
                if self.closing {
                    // Where that fails, reading says why.
                    self.closing = Pin::new(&mut self.io).poll_shutdown(cx).is_pending();
                }
                return Ok(());
            }
            match self.outbox.poll_send(&mut self.io, cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    self.keep = false;
                    self.upload = None;
                    self.outbox.clear();
                    return Ok(());
                }
            }
        }
    }
}

/// How the end of a body is to be told. That a body is empty is said only where the client said it.
fn framing(head: &request::Parts, body: &impl Body) -> Framing {
    match body.size_hint().exact() {
        Some(0) if !head.headers.contains_key(header::CONTENT_LENGTH) => Framing::None,
        Some(length) => Framing::Length(length),
        None if body.is_end_stream() => Framing::None,
        None => Framing::Chunked,
    }
}

impl<B: Body<Data = Bytes> + Unpin> Upload<B> {
    /// Moves the next piece into the outbox; `true`: it was the last.
    fn poll(&mut self, outbox: &mut Outbox, cx: &mut Context<'_>) -> Poll<Result<bool, Error<B::Error>>> {
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    // A request must not be another one than its head says.
                    if !self.framing.passes(data.len()) {
                        return Poll::Ready(Err(Error::Length));
                    }
                    outbox.push(data, self.framing == Framing::Chunked);
                    if self.body.is_end_stream() { self.end(outbox, None) } else { Poll::Ready(Ok(false)) }
                }
                // Nothing comes behind them.
                Err(frame) => self.end(outbox, frame.into_trailers().ok()),
            },
            Some(Err(error)) => Poll::Ready(Err(Error::Upload(error))),
            None => self.end(outbox, None),
        }
    }

    fn end(&self, outbox: &mut Outbox, trailers: Option<HeaderMap>) -> Poll<Result<bool, Error<B::Error>>> {
        if !self.framing.may_end() {
            return Poll::Ready(Err(Error::Length));
        }
        if self.framing == Framing::Chunked {
            match (trailers, &self.trailers) {
                (Some(trailers), Some(announced)) => {
                    let is_announced = |name: &HeaderName| {
                        elements(announced).any(|other| other.eq_ignore_ascii_case(name.as_ref()))
                    };
                    outbox.push_trailers(trailers.iter().filter(|(name, _)| is_announced(name)));
                }
                _ => outbox.push_last_chunk(),
            }
        }
        Poll::Ready(Ok(true))
    }
}

#[cfg(test)]
pub(super) mod tests;
