//! [`ClientIo`]: a client's connection, with an eye on who keeps whom waiting.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};

use crate::deadlines::Wait;
use crate::socket::Socket;
use crate::state::Client;

/// What hyper reads from and writes to.
pub(super) struct ClientIo {
    pub(super) socket: Socket,
    pub(super) client: Rc<Client>,
}

impl ClientIo {
    /// A client that does not read what is written to it must not hold the connection for ever.
    fn watch<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let deadlines = &self.client.deadlines;
        if polled.is_ready() {
            deadlines.disarm(Wait::Write);
        } else if deadlines.expired(Wait::Write) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        } else {
            deadlines.arm_once(Wait::Write, self.client.timeouts().write);
            // It is the client that is waited for, not the upstream.
            deadlines.disarm(Wait::Upstream);
        }
        polled
    }
}

impl Read for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.socket).poll_read(cx, buf);
        if polled.is_ready() {
            self.client.bytes_came();
        }
        polled
    }
}

impl Write for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.watch(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.watch(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
