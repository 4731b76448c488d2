//! [`ClientIo`]: a client's connection as hyper sees it, with an eye on who keeps whom waiting.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};

use crate::call::Call;
use crate::deadlines::Wait;
use crate::socket::{Socket, Stream};

/// What hyper reads from and writes to.
pub(super) struct ClientIo<S> {
    pub(super) socket: Socket<S>,
    pub(super) call: Rc<Call>,
}

/// A client that does not read what is written to it must not hold the connection for ever.
pub(super) fn watch<T>(call: &Call, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
    let deadlines = &call.deadlines;
    if polled.is_ready() {
        deadlines.disarm(Wait::Write);
    } else if deadlines.expired(Wait::Write) {
        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
    } else {
        deadlines.arm_once(Wait::Write, call.timeouts().write);
        // It is the client that is waited for, not the upstream.
        deadlines.disarm(Wait::Upstream);
    }
    polled
}

impl<S: Stream> Read for ClientIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.socket).poll_read(cx, buf);
        if polled.is_ready() {
            self.call.bytes_came();
        }
        polled
    }
}

impl<S: Stream> Write for ClientIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(cx, buf);
        watch(&self.call, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        watch(&self.call, polled)
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
