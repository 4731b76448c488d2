//! [`Inbox`]: what came from the other side and has not been looked at.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Room for one read: enough for most messages whole, and more for those that fill it.
const READ: usize = 8 * 1024;
const MAX_READ: usize = 64 * 1024;

/// Bytes that came.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) bytes: BytesMut,
    /// For the next read.
    room: usize,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { bytes: BytesMut::new(), room: READ }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Reads more; 0 is the end.
    pub(crate) fn poll_read(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        // What is left of the last read's room serves as long as it is likely to be enough.
        if self.bytes.capacity() - self.bytes.len() < self.room / 2 {
            self.bytes.reserve(self.room);
        }
        let space = self.bytes.capacity() - self.bytes.len();
        let read = ready!(pin!(io.read_buf(&mut self.bytes)).poll(cx))?;
        if read == space {
            self.room = (self.room * 2).min(MAX_READ);
        }
        Poll::Ready(Ok(read))
    }

    /// Gives back the room that a large message took.
    pub(crate) fn rest(&mut self) {
        if self.room > READ {
            self.room = READ;
            if self.bytes.is_empty() {
                self.bytes = BytesMut::new();
            }
        }
    }
}
