//! [`Entry`]: one recorded request, whatever the log it stood in looks like.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Uri, Version};
use jiff::Timestamp;
use jiff::fmt::strtime;
use ratelimit_core::Nanos;

/// One recorded request.
#[derive(Debug)]
pub struct Entry {
    /// When it came, since the Unix epoch.
    pub time: Nanos,
    /// Whether that is only known to the second.
    pub coarse: bool,
    /// Who sent it.
    pub client: IpAddr,
    /// What was asked for.
    pub head: Parts,
    /// What was answered.
    pub status: Option<u16>,
    /// How long it took.
    pub duration: Option<Duration>,
    /// Fields of the answer.
    pub answer: HeaderMap,
}

/// Why a line is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum EntryError {
    /// It is neither in the combined format nor a JSON object.
    Shape,
    /// It says no time, or none that can be read.
    Time,
    /// It does not say from which address the request came.
    Client,
    /// The request's line or its parts are none.
    Request,
    /// It is longer than 64 KiB.
    Long,
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shape => "neither the combined log format nor a JSON object",
            Self::Time => "no time that can be read",
            Self::Client => "no address of a client",
            Self::Request => "no request that can be read",
            Self::Long => "longer than 64 KiB",
        })
    }
}

impl std::error::Error for EntryError {}

/// Reads lines. It remembers the last time it read, because neighbours often have the same.
#[derive(Debug, Default)]
pub struct Reader {
    last: Option<(Box<[u8]>, Nanos)>,
}

impl Reader {
    /// What a line says: JSON where it begins with a brace, else the combined or the common log format.
    ///
    /// # Errors
    /// When it says no request.
    pub fn read(&mut self, line: &[u8]) -> Result<Entry, EntryError> {
        let line = line.trim_ascii();
        if line.first() == Some(&b'{') {
            super::json::read(line)
        } else {
            super::combined::read(line, |time| self.time(time))
        }
    }

    /// `10/Oct/2000:13:55:36 -0700`.
    fn time(&mut self, text: &[u8]) -> Result<Nanos, EntryError> {
        if let Some((last, time)) = &self.last
            && **last == *text
        {
            return Ok(*time);
        }
        let parsed = strtime::parse("%d/%b/%Y:%H:%M:%S %z", text).and_then(|time| time.to_timestamp());
        let time = nanos(parsed.map_err(|_| EntryError::Time)?)?;
        self.last = Some((text.into(), time));
        Ok(time)
    }
}

/// A point in time that limits can count by: after 1970.
pub(super) fn nanos(time: Timestamp) -> Result<Nanos, EntryError> {
    u64::try_from(time.as_nanosecond()).map(Nanos::new).map_err(|_| EntryError::Time)
}

/// The head of a request, made of what a log says about it.
pub(super) struct Head(Parts);

impl Head {
    /// A log that names no method means GET.
    pub(super) fn new(method: &str, target: &str) -> Result<Self, EntryError> {
        let method =
            if method.is_empty() { Method::GET } else { method.parse().map_err(|_| EntryError::Request)? };
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = target.parse::<Uri>().map_err(|_| EntryError::Request)?;
        // The version of those that need no host: many logs do not tell it.
        *request.version_mut() = Version::HTTP_10;
        Ok(Self(request.into_parts().0))
    }

    /// A field that can't be one is left out, as if the log had not told it.
    pub(super) fn field(&mut self, name: &str, value: &str) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            self.0.headers.append(name, value);
        }
    }

    /// A host, unless it is told already.
    pub(super) fn host(&mut self, host: &str) {
        if !host.is_empty() && host != "-" && !self.0.headers.contains_key(header::HOST) {
            self.field("host", host);
        }
    }

    /// The user that somebody has logged in as. `basic.user` reads it from where the client had written it.
    pub(super) fn user(&mut self, user: &str) {
        if user.is_empty() || user == "-" || self.0.headers.contains_key(header::AUTHORIZATION) {
            return;
        }
        use base64::Engine as _;
        let text = base64::prelude::BASE64_STANDARD.encode(format!("{user}:"));
        self.field("authorization", &format!("Basic {text}"));
    }

    pub(super) fn done(self) -> Parts {
        self.0
    }
}
