//! What is still to be read of a request that was answered without its body.
//!
//! A kernel that closes a socket with unread bytes resets the connection, and the client may lose the answer
//! it was about to read: for a rate limiter, the 429. So a small rest is read and thrown away while the
//! connection goes on ([`Leftover`]); otherwise the connection is closed for writing first, and only later for
//! reading ([`linger`]), as nginx does with `lingering_close`.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::Body as _;
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::socket::Stream;

/// The rest of a body, being read so that the connection can be used again.
pub(crate) struct Leftover {
    body: Incoming,
    /// Bytes that may still come.
    left: u64,
}

/// A body that is too long to be read for nothing, or may be.
pub(crate) struct TooMuch;

impl Leftover {
    /// Longest body read for the sake of keeping a connection.
    const MAX: u64 = 256 * 1024;

    /// How long that may take.
    pub(crate) const TIME: Duration = Duration::from_secs(1);

    /// Takes a body to be read. A client that expects a `100 Continue` may send the body or not, so nobody
    /// could tell what its next bytes are.
    pub(crate) fn new(body: Incoming, expects_continue: bool) -> Result<Self, TooMuch> {
        let length = body.size_hint().exact();
        let short = length.is_some_and(|length| length <= Self::MAX);
        let left = Self::MAX;
        if body.is_end_stream() || short && !expects_continue {
            Ok(Self { body, left })
        } else {
            Err(TooMuch)
        }
    }

    /// Takes the body of a stream, which can be reset at any time.
    pub(crate) fn of_stream(body: Incoming) -> Self {
        Self { body, left: Self::MAX }
    }

    /// Reads until that was all, there was too much, or it took too long.
    pub(crate) async fn discard(mut self) {
        let _ = tokio::time::timeout(Self::TIME, poll_fn(|cx| self.poll(cx))).await;
    }

    /// Reads what is there; ready when that was all or more than should be, or when there never will be more.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let length = frame.data_ref().map_or(0, |data| data.len());
                    match self.left.checked_sub(u64::try_from(length).unwrap_or(u64::MAX)) {
                        Some(left) => self.left = left,
                        None => return Poll::Ready(()),
                    }
                }
                Poll::Ready(None | Some(Err(_))) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Most bytes read from a connection that is closed for writing.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// How long a client may take to read its answer and close.
const LINGER_TIME: Duration = Duration::from_secs(5);

/// Tells the client that nothing more comes, and reads what it still sends, within bounds.
pub(super) async fn linger<S: Stream>(mut socket: S) {
    if socket.shutdown().await.is_err() {
        return;
    }
    // When the time is over there is nothing left to be done but to close.
    let _ = tokio::time::timeout(LINGER_TIME, discard(socket.tcp())).await;
}

async fn discard(socket: &TcpStream) {
    let mut buffer = vec![0; 16 * 1024];
    let mut left = LINGER_BYTES;
    while left > 0 {
        if poll_fn(|cx| socket.poll_read_ready(cx)).await.is_err() {
            return;
        }
        match socket.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => left = left.saturating_sub(read),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
