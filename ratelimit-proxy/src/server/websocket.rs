//! WebSocket over HTTP/2 (RFC 8441): an extended CONNECT becomes the GET that it stands for, with an upgrade that
//! servers of HTTP/1.1 know, and their 101 becomes a 200. Limits see the GET, so a client can't choose between two
//! requests by choosing a version of HTTP.
//!
//! hyper is done with a stream when it was answered with 200 and hands it over; from then on [`Handshake::carry`] brings
//! the client what the server sends, and [`Tunnel`] is what comes from the client, the body of the request. Both are
//! polled by one task, and the deadlines of the stream are those of any other response.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::{Buf as _, Bytes};
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body::{Body as _, Frame};
use hyper::ext::Protocol;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::h1::Broken;
use crate::answer::is_grpc;
use crate::exchange::Body;

/// What a server shows that it has understood, by hashing it together with the key (RFC 6455 §1.3).
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes taken from a client at once.
const PIECE: usize = 16 * 1024;

/// A stream that its client wants to be a WebSocket, until it was answered.
pub(super) struct Handshake {
    stream: Rc<Stream>,
    handed_over: OnUpgrade,
}

/// What comes from the client once the stream is a tunnel; before that, nothing.
pub(crate) struct Tunnel(Rc<Stream>);

struct Stream {
    /// What the server has to answer to the key that it is sent.
    accept: HeaderValue,
    socket: RefCell<Option<TokioIo<Upgraded>>>,
    open: Cell<bool>,
    /// Whether the client has said that nothing more comes.
    ended: Cell<bool>,
}

impl Handshake {
    /// Makes the GET of it, if it is an extended CONNECT for a WebSocket. Other tunnels are not made.
    pub(super) fn begin(head: &mut Parts) -> Option<(Self, Tunnel)> {
        let protocol = head.extensions.get::<Protocol>().filter(|_| head.method == Method::CONNECT)?;
        if !protocol.as_str().eq_ignore_ascii_case("websocket") {
            return None;
        }
        let handed_over = head.extensions.remove::<OnUpgrade>()?;
        let key = BASE64_STANDARD.encode(fastrand::u128(..).to_ne_bytes());
        let accept = accept(&key);
        head.method = Method::GET;
        let headers = &mut head.headers;
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_maybe_shared(key).ok()?);
        // Such requests have no content. Denied as gRPC is, one would look as if it had been let in.
        if is_grpc(headers) {
            headers.remove(header::CONTENT_TYPE);
        }
        let accept = HeaderValue::from_maybe_shared(accept).ok()?;
        let (socket, open, ended) = (RefCell::default(), Cell::new(false), Cell::new(false));
        let stream = Rc::new(Stream { accept, socket, open, ended });
        Some((Self { stream: Rc::clone(&stream), handed_over }, Tunnel(stream)))
    }

    /// Makes a success of a response with which the server has switched, and keeps its body, which
    /// [`Handshake::carry`] brings to the client. Any other stays as it is: it is no success.
    pub(super) fn answered(response: Response<Body>) -> (Response<Body>, Option<Body>) {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return (response, None);
        }
        let (mut head, body) = response.into_parts();
        head.status = StatusCode::OK;
        for name in
            [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT, header::CONTENT_LENGTH]
        {
            head.headers.remove(name);
        }
        (Response::from_parts(head, Body::own(Bytes::new())), Some(body))
    }

    /// Brings the client what `body` is, to its end or until the client is gone.
    pub(super) async fn carry(self, mut body: Body) {
        // It is not when the client went away in that very moment.
        let Ok(socket) = self.handed_over.await else { return };
        self.stream.socket.replace(Some(TokioIo::new(socket)));
        let mut piece = Bytes::new();
        poll_fn(|cx| self.stream.poll_carry(&mut body, &mut piece, cx)).await;
    }
}

/// The answer to a key (RFC 6455 §4.2.2).
fn accept(key: &str) -> String {
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{MAGIC}").as_bytes()))
}

impl Stream {
    fn poll_carry(&self, body: &mut Body, piece: &mut Bytes, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // That there is room, or that nobody is there.
            if ready!(self.poll(|socket| socket.poll_flush(cx))).is_err() {
                return Poll::Ready(());
            }
            if !piece.is_empty() {
                let Ok(written) = ready!(self.poll(|socket| socket.poll_write(cx, piece))) else {
                    return Poll::Ready(());
                };
                piece.advance(written.min(piece.len()));
                continue;
            }
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => *piece = frame.into_data().unwrap_or_default(),
                Some(Err(_)) => return Poll::Ready(()),
                None => return self.poll(|socket| socket.poll_shutdown(cx)).map(drop),
            }
        }
    }

    fn poll<T>(
        &self,
        work: impl FnOnce(Pin<&mut TokioIo<Upgraded>>) -> Poll<std::io::Result<T>>,
    ) -> Poll<std::io::Result<T>> {
        match &mut *self.socket.borrow_mut() {
            Some(socket) => work(Pin::new(socket)),
            None => Poll::Ready(Err(std::io::ErrorKind::NotConnected.into())),
        }
    }
}

impl Tunnel {
    /// Whether a server that has switched is one that speaks WebSocket, and has read what it was sent.
    pub(crate) fn is_accepted(&self, response: &HeaderMap) -> bool {
        let mut lines = response.get_all(header::SEC_WEBSOCKET_ACCEPT).iter();
        lines.next() == Some(&self.0.accept) && lines.next().is_none()
    }

    pub(super) fn open(&self) {
        self.0.open.set(true);
    }

    pub(super) fn is_end_stream(&self) -> bool {
        !self.0.open.get() || self.0.ended.get()
    }

    pub(super) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let mut room = [MaybeUninit::uninit(); PIECE];
        let mut read = ReadBuf::uninit(&mut room);
        if ready!(self.0.poll(|socket| socket.poll_read(cx, &mut read))).is_err() {
            return Poll::Ready(Some(Err(Broken)));
        }
        if read.filled().is_empty() {
            self.0.ended.set(true);
            // hyper takes a stream that was given up for one that has ended. Which it was shows when there is something
            // to be written, and who writes is to look once more.
            cx.waker().wake_by_ref();
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(read.filled())))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_that_of_the_standard() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
