//! What a server's answer, or its silence, means: a table from codes to kinds and to what is done about it.
//!
//! Redis 7 and Valkey answer a script's troubles with the code itself (`READONLY …`); Redis 6.2 answers
//! `ERR Error running script … -READONLY …`, so the words inside an `ERR` are searched as well.

use ratelimit_core::{StoreError, StoreErrorKind as Kind};
use redis::{ErrorKind, RedisError};

/// What went wrong with one call.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) kind: Kind,
    pub(crate) remedy: Remedy,
    /// The server's code, or a word for what happened: for counters and log lines.
    pub(crate) code: &'static str,
    source: Option<RedisError>,
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Load the script and ask again.
    Load,
    /// Another connection is needed: this one is broken, or leads to the wrong server.
    Reconnect,
    /// Another node of the Cluster has the keys.
    Follow,
    /// Some of the keys have moved to another node and some have not: soon all will have.
    Again,
    /// Nothing but time, or somebody, mends it.
    Wait,
}

/// Codes, with what each says and what mends it.
const CODES: &[(&str, Kind, Remedy)] = &[
    ("NOSCRIPT", Kind::Unavailable, Remedy::Load),
    // A failover made the server a replica: elsewhere is a master.
    ("READONLY", Kind::Unavailable, Remedy::Reconnect),
    ("UNBLOCKED", Kind::Unavailable, Remedy::Reconnect),
    ("LOADING", Kind::Unavailable, Remedy::Wait),
    ("MASTERDOWN", Kind::Unavailable, Remedy::Wait),
    ("CLUSTERDOWN", Kind::Unavailable, Remedy::Wait),
    ("TRYAGAIN", Kind::Unavailable, Remedy::Again),
    ("NOREPLICAS", Kind::Unavailable, Remedy::Wait),
    ("MISCONF", Kind::Unavailable, Remedy::Wait),
    ("OOM", Kind::Unavailable, Remedy::Wait),
    ("BUSY", Kind::Unavailable, Remedy::Wait),
    // The password may have changed, and a connection says it once.
    ("NOAUTH", Kind::Misconfigured, Remedy::Reconnect),
    ("WRONGPASS", Kind::Misconfigured, Remedy::Reconnect),
    ("NOPERM", Kind::Misconfigured, Remedy::Wait),
    ("DENIED", Kind::Misconfigured, Remedy::Reconnect),
    // A member of a Cluster that was not said to be one.
    ("MOVED", Kind::Misconfigured, Remedy::Follow),
    ("ASK", Kind::Misconfigured, Remedy::Follow),
    ("WRONGTYPE", Kind::ForeignData, Remedy::Wait),
    // Keys of one call always share a slot: a fault of ours.
    ("CROSSSLOT", Kind::Protocol, Remedy::Wait),
];

impl Trouble {
    pub(crate) fn timeout() -> Self {
        Self { kind: Kind::Timeout, remedy: Remedy::Wait, code: "timeout", source: None }
    }

    pub(crate) fn garbled() -> Self {
        Self { kind: Kind::Protocol, remedy: Remedy::Reconnect, code: "garbled", source: None }
    }

    pub(crate) fn calendar() -> Self {
        Self { kind: Kind::Protocol, remedy: Remedy::Wait, code: "calendar", source: None }
    }

    pub(crate) fn of(error: RedisError) -> Self {
        let (code, kind, remedy) = classify(&error);
        Self { kind, remedy, code, source: Some(error) }
    }

    /// As what callers get; several may have waited for the same call.
    pub(crate) fn to_error(&self) -> StoreError {
        let error = StoreError::new(self.kind, self.code);
        match &self.source {
            Some(source) => error.with_source(source.clone()),
            None => error,
        }
    }
}

fn classify(error: &RedisError) -> (&'static str, Kind, Remedy) {
    if let Some(code) = error.code() {
        if let Some(&(code, kind, remedy)) = CODES.iter().find(|(known, ..)| *known == code) {
            return (code, kind, remedy);
        }
        // `ERR`: an older server says the code inside.
        let text = error.detail().unwrap_or_default();
        let says = |code: &str| text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == code);
        if let Some(&(code, kind, remedy)) = CODES.iter().find(|(known, ..)| says(known)) {
            return (code, kind, remedy);
        }
        if text.contains("unknown command") || text.contains("AUTH") || text.contains("invalid password") {
            return ("refused", Kind::Misconfigured, Remedy::Reconnect);
        }
        if text.contains("max number of clients") {
            return ("maxclients", Kind::Unavailable, Remedy::Reconnect);
        }
        return ("ERR", Kind::Protocol, Remedy::Wait);
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => ("auth", Kind::Misconfigured, Remedy::Reconnect),
        ErrorKind::InvalidClientConfig | ErrorKind::EmptySentinelList | ErrorKind::RESP3NotSupported => {
            ("config", Kind::Misconfigured, Remedy::Wait)
        }
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => ("garbled", Kind::Protocol, Remedy::Reconnect),
        _ if error.is_timeout() => ("timeout", Kind::Timeout, Remedy::Wait),
        _ => ("connection", Kind::Unavailable, Remedy::Reconnect),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> RedisError {
        let value = redis::parse_redis_value(line.as_bytes()).unwrap();
        value.extract_error().unwrap_err()
    }

    /// Rows 89 to 94, in the words of Redis 7.0, Redis 6.2 and Valkey 9.
    #[test]
    fn every_code_is_known_in_every_version() {
        for (line, code, kind) in [
            ("-NOSCRIPT No matching script. Please use EVAL.", "NOSCRIPT", Kind::Unavailable),
            (
                "-READONLY You can't write against a read only replica. script: 1f",
                "READONLY",
                Kind::Unavailable,
            ),
            (
                "-ERR Error running script (call to f_1): @user_script:3: -READONLY You can't write against a read only replica.",
                "READONLY",
                Kind::Unavailable,
            ),
            ("-OOM command not allowed when used memory > 'maxmemory'. script: 1f", "OOM", Kind::Unavailable),
            (
                "-ERR Error running script (call to f_1): @user_script:3: -OOM command not allowed when used memory > 'maxmemory'.",
                "OOM",
                Kind::Unavailable,
            ),
            (
                "-WRONGTYPE Operation against a key holding the wrong kind of value script: 1f",
                "WRONGTYPE",
                Kind::ForeignData,
            ),
            (
                "-ERR Error running script (call to f_1): @user_script:1: WRONGTYPE Operation against a key",
                "WRONGTYPE",
                Kind::ForeignData,
            ),
            ("-LOADING Redis is loading the dataset in memory", "LOADING", Kind::Unavailable),
            ("-MASTERDOWN Link with MASTER is down", "MASTERDOWN", Kind::Unavailable),
            ("-CLUSTERDOWN Hash slot not served", "CLUSTERDOWN", Kind::Unavailable),
            ("-TRYAGAIN Multiple keys request during rehashing of slot", "TRYAGAIN", Kind::Unavailable),
            ("-BUSY Redis is busy running a script.", "BUSY", Kind::Unavailable),
            ("-NOREPLICAS Not enough good replicas to write.", "NOREPLICAS", Kind::Unavailable),
            ("-MISCONF Redis is configured to save RDB snapshots", "MISCONF", Kind::Unavailable),
            ("-NOAUTH Authentication required.", "NOAUTH", Kind::Misconfigured),
            (
                "-NOPERM this user has no permissions to run the 'evalsha' command",
                "NOPERM",
                Kind::Misconfigured,
            ),
            ("-WRONGPASS invalid username-password pair", "WRONGPASS", Kind::Misconfigured),
            ("-CROSSSLOT Keys in request don't hash to the same slot", "CROSSSLOT", Kind::Protocol),
            ("-MOVED 3999 127.0.0.1:6381", "MOVED", Kind::Misconfigured),
            ("-ERR unknown command 'EVALSHA', with args beginning with:", "refused", Kind::Misconfigured),
            ("-ERR something nobody has heard of", "ERR", Kind::Protocol),
        ] {
            let trouble = Trouble::of(said(&format!("{line}\r\n")));
            assert_eq!((trouble.code, trouble.kind), (code, kind), "{line}");
            assert!(std::error::Error::source(&trouble.to_error()).is_some());
        }
    }
}
