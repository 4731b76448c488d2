//! [`Stream`]: a client's connection, and [`Socket`]: the same as hyper sees it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Up to this many bytes in several pieces are copied together and sent as one: `send` is the cheaper system
/// call by more than what copying costs. A head with a small body is well below it.
const TOGETHER: usize = 2048;

/// What bytes of a client come and go through.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + 'static {
    /// The connection below.
    fn tcp(&self) -> &TcpStream;
}

impl Stream for Box<dyn Stream> {
    fn tcp(&self) -> &TcpStream {
        (**self).tcp()
    }
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

/// A connection as hyper sees it.
#[derive(Debug)]
pub(crate) struct Socket<S>(TokioIo<S>);

impl<S> Socket<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self(TokioIo::new(stream))
    }
}

impl<S: Stream> Read for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: Stream> Write for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut socket = Pin::new(&mut self.0);
        if let [buf] = bufs {
            return socket.as_mut().poll_write(cx, buf);
        }
        if bufs.iter().map(|buf| buf.len()).sum::<usize>() > TOGETHER {
            return socket.as_mut().poll_write_vectored(cx, bufs);
        }
        let mut together = SmallVec::<[u8; TOGETHER]>::new();
        bufs.iter().for_each(|buf| together.extend_from_slice(buf));
        socket.as_mut().poll_write(cx, &together)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Socket<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Socket::new(near.unwrap()), far.unwrap().0)
    }

    async fn sent(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut socket, mut far) = pair().await;
        let bufs: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let count = poll_fn(|cx| Pin::new(&mut socket).poll_write_vectored(cx, &bufs)).await.unwrap();
        let mut read = vec![0; count];
        far.read_exact(&mut read).await.unwrap();
        read
    }

    /// Whether copied together, sent as they are, or one: the bytes and their order are the same, and what is
    /// said to be sent was.
    #[tokio::test]
    async fn pieces_are_sent_in_order_however_many_and_large() {
        let large: Vec<u8> = (0..4096_u32).flat_map(u32::to_le_bytes).collect();
        for pieces in [
            &[][..],
            &[&b""[..]],
            &[b"one"],
            &[b"head", b"body"],
            &[b"", b"head", b"", b"body", b""],
            &[&large[..TOGETHER - 1], b"x"],
            &[&large[..TOGETHER], b"x"],
            &[b"head", &large],
        ] {
            let all = pieces.concat();
            assert_eq!(sent(pieces).await, all, "{} bytes", all.len());
        }
    }
}
