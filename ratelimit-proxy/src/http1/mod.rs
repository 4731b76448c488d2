//! What both sides of HTTP/1.1 have in common: [`crate::server`] speaks to clients, [`crate::upstream`] to servers, and
//! a message is a message.
//!
//! * `inbox.rs` holds what came, `outbox.rs` what is still to be sent;
//! * `decoder.rs` takes a body out of the inbox;
//! * `fields.rs` reads the fields that frame a message, and writes fields.
//!
//! None of them knows what a message says. Source: RFC 9112.

mod decoder;
pub(crate) mod fields;
mod inbox;
mod outbox;

pub(crate) use self::decoder::Decoder;
pub(crate) use self::fields::Framing;
pub(crate) use self::inbox::Inbox;
pub(crate) use self::outbox::Outbox;

/// Fields that a head may have.
pub(crate) const MAX_FIELDS: usize = 100;

/// What came makes no sense, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);
