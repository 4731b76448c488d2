//! [`Fault`]: what went wrong with a request when it was not a limit that said no, and whose fault it is.
//!
//! The only table from faults to status codes; [`crate::answer`] turns them into responses.

use http::StatusCode;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Client,
    /// The upstream's.
    Upstream,
    /// The store's.
    Store,
    /// Ours.
    Own,
}

/// Something that keeps a request from being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The head makes no sense, or could be understood in two ways; the text says which.
    Malformed(&'static str),
    /// The path can be read in several ways, so no limit can be trusted to match it.
    AmbiguousPath,
    /// A value that a limit counts by is there several times and differs, so nobody knows which one the upstream
    /// will read.
    AmbiguousKey,
    /// A field or value that says what the request costs is no number.
    BadCost,
    /// The body's framing is broken.
    BadBody,
    /// The body stopped coming.
    SlowBody,
    /// A method that a reverse proxy does not forward.
    Method,
    /// A transfer coding other than `chunked`.
    TransferCoding,
    /// The request is for a host that has another certificate than the one the client was shown.
    Misdirected,
    /// The head is too big.
    HeadTooLarge,
    /// The target is too long.
    TargetTooLong,
    /// The client went away; nobody will read the answer.
    Gone,
    /// There is no upstream for such requests.
    NoUpstream,
    /// The upstream can't be reached.
    Unreachable,
    /// None of the upstream's servers is thought to work, and the one that was tried does not.
    AllDown,
    /// The upstream can't prove that it is the one, or speaks no TLS.
    Untrusted,
    /// The upstream did not accept the connection in time.
    ConnectTimeout,
    /// The upstream closed the connection, or answered what nobody should answer.
    BadAnswer,
    /// The upstream did not answer in time.
    AnswerTimeout,
    /// The store can't say whether the limits allow the request.
    Undecided,
    /// The proxy has less memory left than it needs.
    Overloaded,
    /// A panic, which is a bug.
    Panic,
}

impl Fault {
    /// Whose fault it is.
    #[must_use]
    pub const fn side(self) -> Side {
        match self {
            Self::Malformed(_)
            | Self::AmbiguousPath
            | Self::AmbiguousKey
            | Self::BadCost
            | Self::BadBody
            | Self::SlowBody
            | Self::Method
            | Self::TransferCoding
            | Self::Misdirected
            | Self::HeadTooLarge
            | Self::TargetTooLong
            | Self::NoUpstream
            | Self::Gone => Side::Client,
            Self::Unreachable
            | Self::Untrusted
            | Self::AllDown
            | Self::ConnectTimeout
            | Self::BadAnswer
            | Self::AnswerTimeout => Side::Upstream,
            Self::Undecided => Side::Store,
            Self::Overloaded | Self::Panic => Side::Own,
        }
    }

    /// The status of the answer.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Malformed(_)
            | Self::AmbiguousPath
            | Self::AmbiguousKey
            | Self::BadCost
            | Self::BadBody
            | Self::Gone => StatusCode::BAD_REQUEST,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::NoUpstream => StatusCode::NOT_FOUND,
            Self::Unreachable | Self::Untrusted | Self::BadAnswer => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::AnswerTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Undecided | Self::Overloaded | Self::AllDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::Panic => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What the answer says about it; nothing of what the client sent.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Malformed(what) => what,
            Self::AmbiguousPath => "the path can be read in more than one way",
            Self::AmbiguousKey => "a value that a limit counts by is there more than once",
            Self::BadCost => "the cost of the request is not a number",
            Self::BadBody => "the framing of the body is broken",
            Self::SlowBody => "the body did not arrive in time",
            Self::Method => "this method is not forwarded",
            Self::TransferCoding => "the only transfer coding accepted is chunked",
            Self::Misdirected => "the request is for another host than the connection",
            Self::HeadTooLarge => "the header fields are too large",
            Self::TargetTooLong => "the request target is too long",
            Self::Gone => "the client closed the connection",
            Self::NoUpstream => "nothing here answers such requests",
            Self::AllDown => "no server of the upstream is up",
            Self::Untrusted => "there is no secure connection to the upstream",
            Self::Unreachable => "the upstream can't be reached",
            Self::ConnectTimeout => "the upstream did not accept the connection in time",
            Self::BadAnswer => "the upstream's answer is broken",
            Self::AnswerTimeout => "the upstream did not answer in time",
            Self::Undecided => "the rate limits can't be checked at the moment",
            Self::Overloaded => "the proxy is short of memory",
            Self::Panic => "an internal error",
        }
    }

    /// Whether the connection must not be used again: where a message ends is in doubt, or who sent it is.
    #[must_use]
    pub const fn closes(self) -> bool {
        !matches!(
            self,
            Self::AmbiguousPath
                | Self::AmbiguousKey
                | Self::BadCost
                | Self::NoUpstream
                | Self::Unreachable
                | Self::Untrusted
                | Self::AllDown
                | Self::ConnectTimeout
                | Self::BadAnswer
                | Self::AnswerTimeout
                | Self::Undecided
        )
    }

    /// Seconds after which asking again may help.
    #[must_use]
    pub const fn retry_after(self) -> Option<u64> {
        match self {
            Self::Undecided | Self::Overloaded | Self::AllDown => Some(1),
            _ => None,
        }
    }
}
