//! HTTP/1.1 as a client speaks it, and no more of it than a reverse proxy needs: one request at a time on a
//! [`Connection`], whose reading and writing is done by the future of that request.
//!
//! * `encode.rs` writes a request's head;
//! * `head.rs` reads a response's head, whose syntax is `httparse`'s affair, and says how its body is framed;
//! * `connection.rs` does the input and output and says whether the connection can be used again.
//!
//! None but the last knows a socket. What a client's side needs as well is in [`crate::http1`]. Sources: RFC 9112, and
//! RFC 9110 for what fields mean.
//!
//! # What must always hold
//! * What is read in more than one way by others is no answer here: [`Error::Malformed`], and the connection is
//!   not used again.
//! * A body that breaks off is an error, never an end.
//! * A connection is used again only if the response was complete, nothing came behind it, and the request was
//!   sent in full.

mod connection;
mod encode;
mod head;
#[cfg(any(test, fuzzing))]
pub(crate) mod scripted;

#[cfg(test)]
mod differential;

pub(crate) use connection::{Connection, Transport};

use crate::http1::Malformed;

/// Why there is no response, or no more of it.
#[derive(Debug)]
pub(crate) enum Error<E> {
    /// The connection ended before a byte of a response came.
    Silent,
    /// It ended within a response.
    BrokenOff,
    /// What came is no response that can be understood in one way; the text says why.
    Malformed(&'static str),
    /// The request's own body broke.
    Upload(E),
    /// The request's body had another length than was announced.
    Length,
}

impl<E> From<Malformed> for Error<E> {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed.0)
    }
}
