//! [`Link`]: one connection to the upstream, driven by the request that uses it.
//!
//! hyper would have the connection spawned as a task of its own. Then every request costs two hops between
//! tasks; here the request's own future polls the connection, and while it is idle nobody does.
//!
//! Two halves of one task need not wake each other: what the connection brings is looked for right after it was
//! polled, and it is polled again whenever more is wanted. So who waits for the connection passes a waker that
//! does nothing, and [`Bell`] mutes the wake-ups with which hyper tells the connection that there is a request to
//! send and that a piece of the body was taken. Each would have cost a poll of the whole task that finds nothing to do.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::exchange::RequestBody;
use crate::socket::Socket;

/// Bytes of a response's head, and of its body that may lie between the upstream and a slow client.
const MAX_BUFFER: usize = 64 * 1024;

/// A connection to the upstream.
pub(crate) struct Link {
    sender: SendRequest<RequestBody>,
    /// Only to be asked for news.
    socket: Socket,
    /// `None` once it has ended. It must be dropped then, not just left: only that tells a request which was
    /// handed over too late that nobody will send it.
    connection: Option<Connection<Socket, RequestBody>>,
    bell: Arc<Bell>,
    /// Wakes through the bell.
    waker: Waker,
    /// Whether it has served a request before.
    pub(crate) reused: bool,
    /// Since when nobody has used it.
    pub(crate) idle_since: Instant,
}

impl Link {
    /// Speaks HTTP/1.1 over that socket.
    pub(crate) async fn new(socket: TcpStream, now: Instant) -> hyper::Result<Box<Self>> {
        let socket = Socket::new(socket);
        let (sender, connection) =
            http1::Builder::new().max_buf_size(MAX_BUFFER).handshake(socket.clone()).await?;
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        Ok(Box::new(Self {
            sender,
            socket,
            connection: Some(connection),
            bell,
            waker,
            reused: false,
            idle_since: now,
        }))
    }

    /// Lets the connection do what it can.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) {
        let Some(connection) = &mut self.connection else { return };
        self.bell.task.register(cx.waker());
        // How it ended is told to whoever waits for a response or a body.
        if Pin::new(connection).poll(&mut Context::from_waker(&self.waker)).is_ready() {
            self.connection = None;
        }
    }

    /// Takes what the connection has brought of a body. When nothing is there, [`Link::poll`] must be called
    /// before the task sleeps: it is not woken for the sake of the body alone.
    pub(crate) fn poll_body(&self, body: &mut Incoming) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        self.bell.muted.store(true, Ordering::Relaxed);
        let polled = Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()));
        self.bell.muted.store(false, Ordering::Relaxed);
        polled
    }

    /// Hands a request over; [`Link::poll`], which must come next, sends it and brings the response.
    pub(crate) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
        self.bell.muted.store(true, Ordering::Relaxed);
        let response = self.sender.send_request(request);
        self.bell.muted.store(false, Ordering::Relaxed);
        response
    }

    /// Whether another request can be sent: the last exchange is complete in both directions, and the upstream
    /// has not closed the connection or sent anything since.
    pub(crate) fn is_ready(&mut self) -> bool {
        if self.socket.has_news() {
            self.poll(&mut Context::from_waker(Waker::noop()));
        }
        self.can_be_kept()
    }

    /// Whether it can be kept, as far as is known without asking the socket again.
    pub(crate) fn can_be_kept(&self) -> bool {
        self.connection.is_some() && self.sender.is_ready()
    }
}

/// Wakes the task that uses a link at the moment.
#[derive(Default)]
struct Bell {
    task: AtomicWaker,
    /// Only ever set while its thread is in [`Link::poll_body`] or [`Link::send`], where nothing else can ring.
    muted: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.muted.load(Ordering::Relaxed) {
            self.task.wake();
        }
    }
}

/// Polls the response of a link, whose own poll came just before, without asking to be woken: only the link
/// can make it ready.
pub(crate) fn poll_response<F: Future>(response: Pin<&mut F>) -> Poll<F::Output> {
    response.poll(&mut Context::from_waker(Waker::noop()))
}
