//! What is counted, and the words that stand for it in metrics.

/// What a limit said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionOutcome {
    /// Yes.
    Allowed,
    /// No.
    Denied,
    /// No, in shadow mode.
    ShadowDenied,
    /// Nobody could say, so yes.
    FailedOpen,
    /// Nobody could say, so no.
    FailedClosed,
    /// Yes, by this process alone.
    Local,
}

impl DecisionOutcome {
    /// All of them, with the words that stand for them in metrics.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Allowed, "allowed"),
        (Self::Denied, "denied"),
        (Self::ShadowDenied, "shadow_denied"),
        (Self::FailedOpen, "failed_open"),
        (Self::FailedClosed, "failed_closed"),
        (Self::Local, "local"),
    ];
}

/// What a peer did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// A head that makes no sense.
    Head,
    /// A body that makes no sense.
    Body,
    /// Too slow.
    Timeout,
    /// No TLS, or not with each other.
    Tls,
    /// No PROXY header where there must be one.
    Proxy,
    /// Anything else.
    Other,
}

impl ProtocolError {
    /// All of them, with the words that stand for them in metrics.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Head, "head"),
        (Self::Body, "body"),
        (Self::Timeout, "timeout"),
        (Self::Tls, "tls"),
        (Self::Proxy, "proxy"),
        (Self::Other, "other"),
    ];
}

/// What became of a question of Envoy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Questioned {
    /// Yes.
    Allowed,
    /// No.
    Denied,
    /// No limit is about it, so yes.
    Unmatched,
    /// It makes no sense.
    Invalid,
    /// Nobody could say.
    Undecided,
}

impl Questioned {
    /// All of them, with the words that stand for them in metrics.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Allowed, "allowed"),
        (Self::Denied, "denied"),
        (Self::Unmatched, "unmatched"),
        (Self::Invalid, "invalid"),
        (Self::Undecided, "undecided"),
    ];
}

/// What there was not enough of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Connections: a thread had as many as it may, and the next ones waited.
    Full,
    /// What the machine has to give for a connection: file descriptors, memory of the kernel.
    Starved,
    /// Memory: a request was refused.
    Shed,
    /// Connections of one client: it had as many as it may, or made them too fast.
    Crowded,
}

/// How many there are.
pub(super) const PRESSURES: usize = 4;

/// The classes of status codes, as they stand in metrics.
pub const CODE_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What became of reading the configuration again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// It is in force.
    Applied,
    /// The old one stays in force.
    Refused,
}

impl Reloaded {
    /// All of them, with the words that stand for them in metrics.
    pub const ALL: [(Self, &'static str); 2] = [(Self::Applied, "applied"), (Self::Refused, "refused")];
}
