//! A body from one task to another of the same thread, one piece at a time: the [`Inlet`] is filled by the future of a
//! request, the [`Pipe`] is emptied by the task of a connection. A body whose inlet is dropped before its end is broken,
//! never complete.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// Why a body has no end: who sends it gave up.
#[derive(Debug)]
pub(super) struct GivenUp;

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request's body broke off")
    }
}

impl std::error::Error for GivenUp {}

#[derive(Default)]
struct Shared {
    piece: Option<Frame<Bytes>>,
    ended: bool,
    /// Whether one of the two is gone.
    gone: bool,
    filler: Option<Waker>,
    taker: Option<Waker>,
}

/// Where pieces are put in.
pub(super) struct Inlet(Rc<RefCell<Shared>>);

/// Where they come out.
pub(super) struct Pipe {
    shared: Rc<RefCell<Shared>>,
    hint: SizeHint,
}

/// For a body of which that is known; `empty`: it has ended already.
pub(super) fn pipe(hint: SizeHint, empty: bool) -> (Inlet, Pipe) {
    let shared = Rc::new(RefCell::new(Shared { ended: empty, ..Shared::default() }));
    (Inlet(Rc::clone(&shared)), Pipe { shared, hint })
}

impl Inlet {
    /// Whether a piece can be put in; `false`: nobody wants any more.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut shared = self.0.borrow_mut();
        if shared.gone {
            return Poll::Ready(false);
        }
        if shared.piece.is_none() {
            return Poll::Ready(true);
        }
        shared.filler = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Puts one in. There must be room.
    pub(super) fn push(&self, piece: Frame<Bytes>) {
        let mut shared = self.0.borrow_mut();
        shared.piece = Some(piece);
        wake(&mut shared.taker);
    }

    /// There is nothing more to come.
    pub(super) fn end(&self) {
        let mut shared = self.0.borrow_mut();
        shared.ended = true;
        wake(&mut shared.taker);
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        let mut shared = self.0.borrow_mut();
        shared.gone = true;
        wake(&mut shared.taker);
    }
}

impl http_body::Body for Pipe {
    type Data = Bytes;
    type Error = GivenUp;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, GivenUp>>> {
        let mut shared = self.shared.borrow_mut();
        if let Some(piece) = shared.piece.take() {
            wake(&mut shared.filler);
            return Poll::Ready(Some(Ok(piece)));
        }
        if shared.ended {
            return Poll::Ready(None);
        }
        if shared.gone {
            return Poll::Ready(Some(Err(GivenUp)));
        }
        shared.taker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.shared.borrow();
        shared.ended && shared.piece.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut shared = self.shared.borrow_mut();
        shared.gone = true;
        wake(&mut shared.filler);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    fn taken(pipe: &mut Pipe) -> Result<Option<String>, &'static str> {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(pipe).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => {
                Ok(Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()))
            }
            Poll::Ready(None) => Ok(None),
            Poll::Ready(Some(Err(_))) => Err("broken"),
            Poll::Pending => Err("pending"),
        }
    }

    #[test]
    fn one_piece_at_a_time_and_an_end() {
        let mut cx = Context::from_waker(Waker::noop());
        let (inlet, mut pipe) = pipe(SizeHint::new(), false);
        assert_eq!(taken(&mut pipe), Err("pending"));
        assert_eq!(inlet.poll_room(&mut cx), Poll::Ready(true));
        inlet.push(data("a"));
        assert!(inlet.poll_room(&mut cx).is_pending());
        assert_eq!(taken(&mut pipe), Ok(Some("a".to_owned())));
        inlet.push(data("b"));
        inlet.end();
        drop(inlet);
        assert!(!pipe.is_end_stream());
        assert_eq!(taken(&mut pipe), Ok(Some("b".to_owned())));
        assert!(pipe.is_end_stream());
        assert_eq!(taken(&mut pipe), Ok(None));
    }

    #[test]
    fn what_is_given_up_is_broken_and_what_nobody_wants_is_not_waited_for() {
        let mut cx = Context::from_waker(Waker::noop());
        let (inlet, mut half) = pipe(SizeHint::new(), false);
        inlet.push(data("a"));
        drop(inlet);
        assert_eq!(taken(&mut half), Ok(Some("a".to_owned())));
        assert_eq!(taken(&mut half), Err("broken"));
        let (inlet, unread) = pipe(SizeHint::new(), false);
        inlet.push(data("a"));
        drop(unread);
        assert_eq!(inlet.poll_room(&mut cx), Poll::Ready(false));
        let (_inlet, empty) = pipe(SizeHint::with_exact(0), true);
        assert!(empty.is_end_stream());
    }
}
