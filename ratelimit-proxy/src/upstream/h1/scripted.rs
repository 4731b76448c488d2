//! A [`Connection`] to a server that exists in a test or under a fuzzer only.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "never part of the program"
)]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, request};
use http_body::Frame;
use http_body_util::Empty;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::connection::Transport;
use super::{Connection, Error};

/// A server that says what it was told to, one piece a read, and then ends the connection, breaks it or waits.
pub(super) struct Script {
    pub(super) pieces: VecDeque<Vec<u8>>,
    pub(super) end: End,
    /// What it was sent.
    pub(super) sent: Vec<u8>,
    /// How much it takes; beyond that it is `when_full`.
    pub(super) takes: usize,
    pub(super) when_full: io::ErrorKind,
    pub(super) reads: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    Closes,
    Breaks,
    Waits,
}

impl Script {
    pub(super) fn new(pieces: impl IntoIterator<Item = Vec<u8>>, end: End) -> Self {
        let when_full = io::ErrorKind::WouldBlock;
        Self {
            pieces: pieces.into_iter().collect(),
            end,
            sent: Vec::new(),
            takes: usize::MAX,
            when_full,
            reads: 0,
        }
    }
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.reads += 1;
        // Nothing comes at the first asking, as on a socket.
        if self.reads % 2 == 1 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let end = self.end;
        match (self.pieces.front_mut(), end) {
            (Some(piece), _) => {
                let taken = piece.len().min(buf.remaining());
                buf.put_slice(&piece[..taken]);
                piece.drain(..taken);
                if piece.is_empty() {
                    self.pieces.pop_front();
                }
                Poll::Ready(Ok(()))
            }
            (None, End::Closes) => Poll::Ready(Ok(())),
            (None, End::Breaks) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            (None, End::Waits) => Poll::Pending,
        }
    }
}

impl Transport for Script {
    fn is_silent(&mut self) -> bool {
        self.pieces.is_empty() && self.end == End::Waits
    }
}

impl AsyncWrite for Script {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = bytes.len().min(self.takes - self.sent.len());
        if taken == 0 && self.when_full == io::ErrorKind::WouldBlock {
            return Poll::Pending;
        }
        if taken == 0 {
            return Poll::Ready(Err(self.when_full.into()));
        }
        self.sent.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// All that a response comes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<HeaderMap>,
    /// Whether the body came to its end.
    pub(super) complete: bool,
}

pub(super) fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Polls until something comes of it. A pipe that waits for ever is not asked for ever.
pub(super) fn until<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    for _ in 0..200_000 {
        if let Poll::Ready(value) = poll(&mut cx()) {
            return Some(value);
        }
    }
    None
}

pub(super) fn get() -> request::Parts {
    request("GET")
}

pub(super) fn request(method: &str) -> request::Parts {
    Request::builder().method(method).uri("/").header("host", "a").body(()).unwrap().into_parts().0
}

pub(super) type Bodiless = Connection<Script, Empty<Bytes>>;

/// Reads a response to its end.
pub(super) fn read(connection: &mut Bodiless, head: &request::Parts) -> Result<Outcome, Error<Infallible>> {
    connection.send(head, b"", Empty::new());
    let mut headers = HeaderMap::new();
    let head = until(|cx| connection.poll_head(cx, &mut headers)).expect("a head or an error")?;
    let mut outcome = Outcome {
        status: head.status,
        fields: head.headers,
        body: Vec::new(),
        trailers: None,
        complete: false,
    };
    while let Some(Some(frame)) = until(|cx| connection.poll_frame(cx)) {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => outcome.body.extend_from_slice(&data),
            Ok(Err(frame)) => outcome.trailers = frame.into_trailers().ok(),
            Err(_) => return Ok(outcome),
        }
    }
    outcome.complete = connection.is_end_stream();
    Ok(outcome)
}

pub(super) fn connection(pieces: impl IntoIterator<Item = Vec<u8>>, end: End) -> Bodiless {
    Connection::new(Script::new(pieces, end), Instant::now())
}

/// What is understood must not depend on how the bytes came. Errors are one and the same to the client.
pub(super) fn outcome(pieces: impl IntoIterator<Item = Vec<u8>>, head: &request::Parts) -> Option<Outcome> {
    read(&mut connection(pieces, End::Closes), head).ok()
}

/// Reads a response whole, and in pieces of these sizes over and over, and compares.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8], sizes: &[u8], is_head: bool) {
    let head = request(if is_head { "HEAD" } else { "GET" });
    let whole = outcome([bytes.to_vec()], &head);
    let mut sizes = sizes.iter().cycle().map(|size| usize::from(*size).max(1));
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let (piece, others) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
        pieces.push(piece.to_vec());
        rest = others;
    }
    assert_eq!(outcome(pieces, &head), whole);
    if let Some(whole) = whole.filter(|whole| whole.complete) {
        assert!(whole.body.len() <= bytes.len() && whole.fields.len() <= 100);
        assert!(!is_head || whole.body.is_empty());
    }
}
