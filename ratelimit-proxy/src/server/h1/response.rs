//! [`Reply`]: a response on its way to the client.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, Version, header};
use http_body::{Body as _, Frame};

use super::encode::{self, Persistence};
use super::wire::Wire;
use crate::call::Call;
use crate::exchange::Body;
use crate::http1::Framing;

/// A response that is to be sent.
pub(super) struct Reply {
    response: Box<Response<Body>>,
    framing: Framing,
    is_1_1: bool,
    /// Whether the connection goes on.
    pub(super) keep: bool,
    pub(super) takes_trailers: bool,
}

/// What became of it.
pub(super) enum Sent {
    /// The client has it, or will. These were its fields.
    All(HeaderMap),
    /// The client has a part of it, and no more is to come.
    Broken,
    /// The client does not take it.
    Gone,
}

/// What has become of a response's body.
enum Source {
    /// More is to come.
    Open,
    /// That was all.
    Done,
    /// That was not all.
    Broken,
}

impl Reply {
    /// The answer to a request of that version; `bodiless`: to HEAD.
    pub(super) fn new(mut response: Box<Response<Body>>, version: Version, bodiless: bool) -> Self {
        let is_1_1 = version == Version::HTTP_11;
        if bodiless
            && let Some(length @ 1..) = response.body().size_hint().exact()
            && !response.headers().contains_key(header::CONTENT_LENGTH)
        {
            // The length of what a GET would get.
            response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        }
        let framing = framing(&response, bodiless, is_1_1);
        let closes = response.headers().get(header::CONNECTION).is_some_and(|option| option == "close");
        let keep = framing != Framing::UntilClose && !closes;
        Self { response, framing, is_1_1, keep, takes_trailers: false }
    }

    /// Sends it.
    pub(super) async fn send(mut self, wire: &Wire, call: &Call) -> Sent {
        let persistence = match (self.keep, self.is_1_1) {
            _ if self.response.status() == StatusCode::SWITCHING_PROTOCOLS => Persistence::Upgraded,
            (false, _) => Persistence::Close,
            (true, true) => Persistence::Kept,
            (true, false) => Persistence::KeepAlive,
        };
        wire.outbox(|outbox| {
            let date = |out: &mut Vec<u8>| call.client.worker.write_date(call.deadlines.now(), out);
            encode::head(outbox.text(), &self.response, self.framing, persistence, date);
        });
        let mut source = match self.framing {
            Framing::None | Framing::Length(0) => Source::Done,
            _ => Source::Open,
        };
        let headers = std::mem::take(self.response.headers_mut());
        let sent = poll_fn(|cx| self.poll(&mut source, wire, call, cx)).await;
        match (sent, source) {
            (Err(Away), _) => Sent::Gone,
            (Ok(()), Source::Done) => Sent::All(headers),
            (Ok(()), _) => Sent::Broken,
        }
    }

    fn poll(
        &mut self,
        source: &mut Source,
        wire: &Wire,
        call: &Call,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Away>> {
        loop {
            let mut waits = false;
            while matches!(source, Source::Open) && wire.outbox(|outbox| outbox.has_room()) {
                let Poll::Ready(frame) = Pin::new(self.response.body_mut()).poll_frame(cx) else {
                    waits = true;
                    break;
                };
                *source = self.push(frame.map(|frame| frame.ok()), wire);
            }
            match wire.poll_send(cx) {
                Poll::Ready(Ok(())) if waits => {
                    return if wire.is_gone(cx) { Poll::Ready(Err(Away)) } else { Poll::Pending };
                }
                Poll::Ready(Ok(())) if matches!(source, Source::Open) => {}
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Away)),
                Poll::Pending => {
                    // Two that wait for each other to read would wait for ever.
                    if call.is_aside() {
                        let _ = wire.poll_discard(cx);
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Puts a piece of the body into the outbox: `None` is its end, `Some(None)` that it broke.
    fn push(&mut self, frame: Option<Option<Frame<Bytes>>>, wire: &Wire) -> Source {
        let Some(frame) = frame else { return self.end(None, wire) };
        let Some(frame) = frame else { return Source::Broken };
        match frame.into_data() {
            Ok(data) => {
                if !self.framing.passes(data.len()) {
                    return Source::Broken;
                }
                let chunked = self.framing == Framing::Chunked;
                wire.outbox(|outbox| outbox.push(data, chunked));
                if self.response.body().is_end_stream() { self.end(None, wire) } else { Source::Open }
            }
            Err(frame) => self.end(frame.into_trailers().ok(), wire),
        }
    }

    fn end(&self, trailers: Option<HeaderMap>, wire: &Wire) -> Source {
        if !self.framing.may_end() {
            return Source::Broken;
        }
        if self.framing == Framing::Chunked {
            wire.outbox(|outbox| match trailers.filter(|_| self.takes_trailers) {
                None => outbox.push_last_chunk(),
                Some(trailers) => outbox.push_trailers(trailers.iter()),
            });
        }
        Source::Done
    }
}

/// The client does not take what is sent to it.
struct Away;

/// How the end of a body is told.
fn framing(response: &Response<Body>, bodiless: bool, is_1_1: bool) -> Framing {
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Framing::UntilClose;
    }
    let never =
        status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if bodiless || never {
        return Framing::None;
    }
    match response.body().size_hint().exact() {
        Some(length) => Framing::Length(length),
        None if is_1_1 => Framing::Chunked,
        None => Framing::UntilClose,
    }
}
