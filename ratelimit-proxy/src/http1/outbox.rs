//! [`Outbox`]: what is still to be sent of a message. What is small is gathered and sent at once; what is large is
//! not copied.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::{HeaderName, HeaderValue};
use tokio::io::AsyncWrite;

use super::fields;

/// Up to this many bytes are copied together: `send` is cheaper than `writev` by more than the copy costs.
const TOGETHER: usize = 2048;

/// Room that is kept from one request to the next.
const KEPT: usize = 16 * 1024;

/// Bytes in the order in which they are to be sent.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    text: Vec<u8>,
    /// How much of `text` has been sent.
    sent: usize,
    /// Comes behind the text.
    data: Bytes,
    /// Comes behind the data.
    tail: &'static [u8],
    /// Whether something was written that may lie in a buffer of TLS.
    unflushed: bool,
}

impl Outbox {
    /// Where a head is written to.
    pub(crate) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Whether more should be put in before it is sent.
    pub(crate) fn has_room(&self) -> bool {
        self.data.is_empty() && self.text.len() - self.sent < TOGETHER
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.is_written() && !self.unflushed
    }

    fn is_written(&self) -> bool {
        self.text.len() == self.sent && self.data.is_empty() && self.tail.is_empty()
    }

    /// Puts in a piece of a body. There must be room.
    pub(crate) fn push(&mut self, data: Bytes, chunked: bool) {
        debug_assert!(self.has_room(), "what is put in would overtake what is there");
        // An empty chunk would be the last one.
        if data.is_empty() {
            return;
        }
        let tail: &[u8] = if chunked { b"\r\n" } else { b"" };
        if chunked {
            // Nothing fails to be written to a vector.
            let _ = write!(self.text, "{:x}\r\n", data.len());
        }
        if data.len() <= TOGETHER {
            self.text.extend_from_slice(&data);
            self.text.extend_from_slice(tail);
        } else {
            self.data = data;
            self.tail = tail;
        }
    }

    /// Puts in the end of a body in chunks.
    pub(crate) fn push_last_chunk(&mut self) {
        if self.data.is_empty() {
            self.text.extend_from_slice(b"0\r\n\r\n");
        } else {
            self.tail = b"\r\n0\r\n\r\n";
        }
    }

    /// Puts in the end of a body in chunks, and these trailers behind it. There must be room.
    pub(crate) fn push_trailers<'t>(
        &mut self,
        trailers: impl Iterator<Item = (&'t HeaderName, &'t HeaderValue)>,
    ) {
        debug_assert!(self.has_room(), "what is put in would overtake what is there");
        self.text.extend_from_slice(b"0\r\n");
        for (name, value) in trailers {
            fields::write(&mut self.text, name.as_str(), value.as_bytes());
        }
        self.text.extend_from_slice(b"\r\n");
    }

    /// Throws everything away.
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(KEPT);
        self.sent = 0;
        self.data = Bytes::new();
        self.tail = b"";
        self.unflushed = false;
    }

    /// Sends it; ready when it is empty.
    pub(crate) fn poll_send(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_written() {
            let text = self.text.get(self.sent..).unwrap_or_default();
            let written = if self.data.is_empty() && self.tail.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, text))?
            } else {
                let pieces = [text, &self.data, self.tail].map(IoSlice::new);
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &pieces))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(written);
        }
        if self.unflushed {
            ready!(Pin::new(&mut *io).poll_flush(cx))?;
        }
        self.clear();
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        let text = written.min(self.text.len() - self.sent);
        self.sent += text;
        written -= text;
        let data = written.min(self.data.len());
        self.data.advance(data);
        self.tail = self.tail.get(written - data..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes at a time.
    struct Narrow(usize, Vec<u8>);

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.0);
            self.1.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
            let taken = all.len().min(self.0);
            self.1.extend_from_slice(&all[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn sent(width: usize, chunked: bool, pieces: &[Vec<u8>]) -> Vec<u8> {
        let mut outbox = Outbox::default();
        let mut io = Narrow(width, Vec::new());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        outbox.text().extend_from_slice(b"head");
        for piece in pieces {
            if !outbox.has_room() {
                assert!(outbox.poll_send(&mut io, &mut cx).is_ready());
            }
            outbox.push(piece.clone().into(), chunked);
        }
        if chunked {
            outbox.push_last_chunk();
        }
        assert!(matches!(outbox.poll_send(&mut io, &mut cx), Poll::Ready(Ok(()))));
        assert!(outbox.is_empty() && outbox.has_room());
        io.1
    }

    #[test]
    fn all_is_sent_in_order_however_little_the_socket_takes() {
        let large = vec![b'l'; TOGETHER + 1];
        for pieces in
            [vec![], vec![b"a".to_vec(), vec![], b"bc".to_vec()], vec![large.clone(), b"d".to_vec(), large]]
        {
            for width in [1, 2, 3, 1000, 1 << 20] {
                let plain = [b"head".to_vec(), pieces.concat()].concat();
                assert_eq!(sent(width, false, &pieces), plain);
                let mut chunks = b"head".to_vec();
                for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                    chunks.extend(format!("{:x}\r\n", piece.len()).bytes());
                    chunks.extend(piece);
                    chunks.extend(b"\r\n");
                }
                chunks.extend(b"0\r\n\r\n");
                assert_eq!(sent(width, true, &pieces), chunks);
            }
        }
    }

    #[test]
    fn what_is_small_goes_in_one_write_and_a_socket_that_takes_nothing_is_broken() {
        let mut outbox = Outbox::default();
        outbox.text().extend_from_slice(b"head");
        outbox.push(Bytes::from_static(b"body"), true);
        outbox.push_last_chunk();
        assert_eq!((outbox.text.len(), outbox.data.len()), (4 + 3 + 6 + 5, 0));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(matches!(outbox.poll_send(&mut Narrow(0, Vec::new()), &mut cx), Poll::Ready(Err(_))));
    }
}
