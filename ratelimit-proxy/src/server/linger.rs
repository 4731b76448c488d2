//! What is still to be read of a request that was answered without its body.
//!
//! A kernel that closes a socket with unread bytes resets the connection, and the client may lose the answer
//! it was about to read: for a rate limiter, the 429. So a small rest is read and thrown away while the
//! connection goes on; otherwise the connection is closed for writing first, and only later for reading
//! ([`linger`]), as nginx does with `lingering_close`.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::time::Duration;

use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::socket::Stream;

/// Longest body read for the sake of keeping a connection.
pub(crate) const LEFTOVER: u64 = 256 * 1024;

/// How long that may take.
pub(crate) const LEFTOVER_TIME: Duration = Duration::from_secs(1);

/// Reads a body for nothing, until that was all, there was too much, or it took too long.
pub(crate) async fn discard(body: impl Body<Data = bytes::Bytes>) {
    let mut body = pin!(body);
    let read = async {
        let mut left = LEFTOVER;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, |data| data.len());
            match left.checked_sub(u64::try_from(length).unwrap_or(u64::MAX)) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    let _ = timeout(LEFTOVER_TIME, read).await;
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
    let _ = timeout(LINGER_TIME, drain(socket.tcp())).await;
}

async fn drain(socket: &TcpStream) {
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
