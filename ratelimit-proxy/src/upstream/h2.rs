//! HTTP/2 as a client speaks it: hyper's, which carries many requests on a connection. A [`Trunk`] is such a
//! connection, driven by a task of its thread; a [`Stream`] is one request on it.
//!
//! What a request waits for, its own future looks after, as over HTTP/1.1: it takes the pieces of the request's body
//! and puts them where the connection's task finds them, one at a time (`pipe.rs`). So a slow client is noticed by who
//! knows of deadlines, and nothing is buffered.

use std::cell::Cell;
use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Request, Response, Version, request, response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use super::h1::Error;
use super::pipe::{Inlet, Pipe, pipe};
use super::socket::Socket;
use crate::answer::is_grpc;
use crate::exchange::{Broken, RequestBody};

/// Requests on one connection at most; where there are more, another is made. Servers allow 100 or more.
const MOST: usize = 100;

/// How long a connection without requests is kept.
const IDLE: Duration = Duration::from_secs(60);

/// While requests are under way, the server is asked that often whether it is still there, and must answer in time.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// What may be under way to us without our having read it: on one stream, and on all of a connection.
const WINDOWS: (u32, u32) = (256 << 10, 1 << 20);

/// Bytes of a response's head.
const MAX_HEAD: u32 = 64 << 10;

/// Spawns on the thread it is called on.
#[derive(Clone, Copy)]
struct Here;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// A connection that carries many requests.
pub(super) struct Trunk {
    sender: SendRequest<Pipe>,
    scheme: Scheme,
    riders: Rc<Riders>,
}

struct Riders {
    count: Cell<usize>,
    /// Since when there is none.
    idle_since: Cell<Instant>,
}

impl Trunk {
    /// On a fresh connection.
    pub(super) async fn new(socket: Socket, now: Instant) -> hyper::Result<Self> {
        let scheme = if matches!(socket, Socket::Tls(_)) { Scheme::HTTPS } else { Scheme::HTTP };
        let (sender, connection) = Builder::new(Here)
            .timer(TokioTimer::new())
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_header_list_size(MAX_HEAD)
            .handshake(TokioIo::new(socket))
            .await?;
        tokio::task::spawn_local(async {
            // Its requests have heard of it.
            let _ = connection.await;
        });
        let riders = Rc::new(Riders { count: Cell::new(0), idle_since: Cell::new(now) });
        Ok(Self { sender, scheme, riders })
    }

    /// Whether one more request can be sent.
    pub(super) fn has_room(&self) -> bool {
        !self.sender.is_closed() && self.riders.count.get() < MOST
    }

    /// Whether it is to be kept.
    pub(super) fn is_of_use(&self, now: Instant) -> bool {
        let is_used = self.riders.count.get() > 0;
        !self.sender.is_closed()
            && (is_used || now.saturating_duration_since(self.riders.idle_since.get()) < IDLE)
    }

    /// For one request.
    pub(super) fn stream(&self, reused: bool) -> Stream {
        self.riders.count.set(self.riders.count.get() + 1);
        Stream {
            sender: self.sender.clone(),
            scheme: self.scheme.clone(),
            riders: Rc::clone(&self.riders),
            reused,
            upload: None,
            answer: None,
            body: None,
        }
    }
}

type Answering = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>>>>;

/// One request and its response.
pub(crate) struct Stream {
    sender: SendRequest<Pipe>,
    scheme: Scheme,
    riders: Rc<Riders>,
    pub(super) reused: bool,
    /// Where the request's body comes from and goes to, until all of it came.
    upload: Option<(RequestBody, Inlet)>,
    answer: Option<Answering>,
    body: Option<Incoming>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let left = self.riders.count.get().saturating_sub(1);
        self.riders.count.set(left);
        if left == 0 {
            self.riders.idle_since.set(Instant::now());
        }
    }
}

impl Stream {
    /// Takes a request; [`Stream::poll_head`] sees to it. `lines` are whole lines with more fields.
    pub(super) fn send(&mut self, head: &request::Parts, lines: &[u8], body: RequestBody) {
        let is_empty = body.is_end_stream();
        let (inlet, pipe) = pipe(body.size_hint(), is_empty);
        self.upload = (!is_empty).then_some((body, inlet));
        let mut request = Request::new(pipe);
        *request.method_mut() = head.method.clone();
        *request.version_mut() = Version::HTTP_2;
        let mut headers = head.headers.clone();
        let authority = headers.remove(header::HOST);
        *request.uri_mut() = uri(self.scheme.clone(), authority.as_ref(), head.uri.path_and_query());
        // It names `te` at most, and means nothing here.
        headers.remove(header::CONNECTION);
        headers.remove(header::UPGRADE);
        add(&mut headers, lines);
        if is_grpc(&headers) {
            // Servers take a request without it for one whose trailers would be lost.
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        *request.headers_mut() = headers;
        self.answer = Some(Box::pin(self.sender.send_request(request)));
    }

    /// Waits for the head of the response.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<response::Parts, Error<Broken>>> {
        self.poll_upload(cx)?;
        let Some(answer) = &mut self.answer else { return Poll::Ready(Err(Error::Silent)) };
        let answer = ready!(answer.as_mut().poll(cx));
        self.answer = None;
        let (head, body) = answer.map_err(|error| failure(&error))?.into_parts();
        self.body = Some(body);
        Poll::Ready(Ok(head))
    }

    /// The next piece of the response's body, or its trailers, which are the last.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error<Broken>>>> {
        self.poll_upload(cx)?;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(|_| Error::BrokenOff)))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(hyper::body::Body::is_end_stream)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), hyper::body::Body::size_hint)
    }

    pub(super) fn is_uploading(&self) -> bool {
        self.upload.is_some()
    }

    /// Moves what came of the request's body on, as far as there is room.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Error<Broken>> {
        while let Some((body, inlet)) = &mut self.upload {
            match inlet.poll_room(cx) {
                Poll::Ready(true) => {}
                // The server wants no more of it. Its answer says why.
                Poll::Ready(false) => {
                    self.upload = None;
                    break;
                }
                Poll::Pending => break,
            }
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    inlet.push(frame);
                    if body.is_end_stream() {
                        inlet.end();
                        self.upload = None;
                    }
                }
                Poll::Ready(None) => {
                    inlet.end();
                    self.upload = None;
                }
                Poll::Ready(Some(Err(broken))) => {
                    // Dropped before its end, the pipe breaks, too, and the stream is reset.
                    self.upload = None;
                    return Err(Error::Upload(broken));
                }
                Poll::Pending => break,
            }
        }
        Ok(())
    }
}

/// Whether the server has not begun with it: the connection went, or refused it.
fn failure(error: &hyper::Error) -> Error<Broken> {
    let reason = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    match reason {
        Some(reason) if reason.is_reset() && reason.reason() != Some(h2::Reason::REFUSED_STREAM) => {
            Error::BrokenOff
        }
        _ => Error::Silent,
    }
}

fn uri(scheme: Scheme, authority: Option<&HeaderValue>, path: Option<&PathAndQuery>) -> Uri {
    let authority = authority.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(path.cloned().unwrap_or(PathAndQuery::from_static("/")));
    if let Some(authority) = authority {
        parts.scheme = Some(scheme);
        parts.authority = Some(authority);
    }
    Uri::from_parts(parts).unwrap_or_default()
}

/// Adds lines such as HTTP/1.1 would send.
fn add(headers: &mut HeaderMap, lines: &[u8]) {
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
}
