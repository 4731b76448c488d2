//! Access logs in JSON, one object a line, as nginx (`log_format … escape=json` with the variables' names), Caddy, Traefik,
//! Envoy's examples and this proxy write them. Every name that is known counts, in any mixture.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use ratelimit_core::Nanos;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::entry::{Entry, EntryError, Head, nanos};

pub(super) fn read(line: &[u8]) -> Result<Entry, EntryError> {
    let mut found = Found::default();
    let mut json = serde_json::Deserializer::from_slice(line);
    json.deserialize_map(Object { found: &mut found, inside: "" }).map_err(|_| EntryError::Shape)?;
    json.end().map_err(|_| EntryError::Shape)?;
    found.entry()
}

/// What an object says.
#[derive(Default)]
struct Found<'l> {
    time: Option<Value<'l>>,
    /// Whether that is when the request ended, and not when it came.
    ended: bool,
    client: Option<Cow<'l, str>>,
    method: Option<Cow<'l, str>>,
    target: Option<Cow<'l, str>>,
    /// `GET / HTTP/1.1`.
    request: Option<Cow<'l, str>>,
    host: Option<Cow<'l, str>>,
    user: Option<Cow<'l, str>>,
    status: Option<u16>,
    duration: Option<Duration>,
    fields: Vec<(Cow<'l, str>, Cow<'l, str>)>,
    answer: HeaderMap,
}

/// A value that is no object; of a list its first one.
enum Value<'l> {
    Text(Cow<'l, str>),
    Number(f64),
    Other,
}

impl<'l> Value<'l> {
    fn text(self) -> Option<Cow<'l, str>> {
        match self {
            Value::Text(text) => Some(text),
            Value::Number(number) => Some(number.to_string().into()),
            Value::Other => None,
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Value::Text(text) => text.parse().ok(),
            Value::Number(number) => Some(*number),
            Value::Other => None,
        }
    }
}

impl<'l> Found<'l> {
    /// Takes what a name says, if it is known.
    fn take(&mut self, inside: &str, name: &str, value: Value<'l>) {
        match (inside, name) {
            (
                "" | "fields",
                "time" | "timestamp" | "@timestamp" | "time_iso8601" | "time_local" | "ts" | "msec",
            ) => {
                // nginx writes when it is done; a fraction of a second is worth more than a whole one.
                self.ended = matches!(name, "time_iso8601" | "time_local" | "msec") || name == "ts";
                if self.time.is_none() || name == "msec" {
                    self.time = Some(value);
                }
            }
            ("", "StartUTC" | "start_time") => self.time = Some(value),
            (_, "client" | "client_ip" | "ClientHost") => self.client = value.text(),
            (_, "remote_addr" | "remote_ip" | "downstream_remote_address") if self.client.is_none() => {
                self.client = value.text();
            }
            (_, "method" | "request_method" | "RequestMethod") => self.method = value.text(),
            (_, "uri" | "request_uri" | "target" | "RequestPath" | "x-envoy-original-path") => {
                self.target = value.text();
            }
            (_, "path") if self.target.is_none() => self.target = value.text(),
            ("", "request") => self.request = value.text(),
            (_, "host" | "http_host" | "RequestHost" | "authority") => self.host = value.text(),
            (_, "remote_user" | "user_id" | "ClientUsername") => self.user = value.text(),
            ("", "status" | "DownstreamStatus" | "response_code") => {
                self.status = value.number().and_then(|code| u16::try_from(whole(code)?).ok());
            }
            ("", "request_time" | "duration") => self.duration = seconds(value.number()),
            // Traefik's are nanoseconds.
            ("", "Duration") => self.duration = seconds(value.number().map(|nanos| nanos / 1e9)),
            ("headers" | "request.headers", name) => self.field(name, value),
            ("resp_headers" | "response_headers", name) => self.answer(name, value),
            ("", name) => {
                if let Some(field) = name.strip_prefix("http_").or_else(|| name.strip_prefix("request_")) {
                    self.field(&field.replace('_', "-"), value);
                } else if let Some(field) = name.strip_prefix("sent_http_") {
                    self.answer(&field.replace('_', "-"), value);
                } else if let Some(field) = name.strip_prefix("downstream_") {
                    self.answer(field, value);
                }
            }
            _ => {}
        }
    }

    fn field(&mut self, name: &str, value: Value<'l>) {
        if let Some(value) = value.text().filter(|value| !matches!(&**value, "" | "-")) {
            self.fields.push((name.to_owned().into(), value));
        }
    }

    fn answer(&mut self, name: &str, value: Value<'l>) {
        let name = name.parse::<HeaderName>().ok();
        let value = value.text().and_then(|value| HeaderValue::from_str(&value).ok());
        if let (Some(name), Some(value)) = (name, value) {
            self.answer.append(name, value);
        }
    }

    fn entry(self) -> Result<Entry, EntryError> {
        let (mut time, coarse) = time(&self.time.ok_or(EntryError::Time)?)?;
        if let (true, Some(duration)) = (self.ended, self.duration) {
            time = time.saturating_sub(duration.into());
        }
        let client = address(&self.client.ok_or(EntryError::Client)?).ok_or(EntryError::Client)?;
        let (method, target) = match (&self.target, &self.request) {
            (Some(target), _) => (self.method.as_deref().unwrap_or_default(), &**target),
            (None, Some(line)) => {
                let (method, target) = line.split_once(' ').ok_or(EntryError::Request)?;
                (method, target.rsplit_once(" HTTP/").map_or(target, |(target, _)| target))
            }
            (None, None) => return Err(EntryError::Request),
        };
        let mut head = Head::new(method, target)?;
        for (name, value) in &self.fields {
            head.field(name, value);
        }
        if let Some(host) = self.host {
            head.host(&host);
        }
        if let Some(user) = self.user {
            head.user(&user);
        }
        let (status, duration, answer) = (self.status, self.duration, self.answer);
        Ok(Entry { time, coarse, client, head: head.done(), status, duration, answer })
    }
}

/// An address, maybe with a port.
fn address(text: &str) -> Option<IpAddr> {
    let socket = || text.parse::<std::net::SocketAddr>().map(|socket| socket.ip());
    text.parse().or_else(|_| socket()).ok()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked before")]
fn whole(number: f64) -> Option<u64> {
    ((0.0..1e15).contains(&number) && number.fract() == 0.0).then_some(number as u64)
}

fn seconds(number: Option<f64>) -> Option<Duration> {
    Duration::try_from_secs_f64(number?).ok()
}

/// Seconds since the epoch, or milliseconds where that would be after the year 5138; RFC 3339; what nginx calls local time.
/// Also says whether it is only known to the second.
fn time(value: &Value<'_>) -> Result<(Nanos, bool), EntryError> {
    if let Some(number) = value.number() {
        let number = if number > 1e11 { number / 1e3 } else { number };
        let time = Duration::try_from_secs_f64(number).map_err(|_| EntryError::Time)?;
        return Ok((Nanos::from(time), number.fract() == 0.0));
    }
    let Value::Text(text) = value else { return Err(EntryError::Time) };
    let parsed = text.parse::<Timestamp>().or_else(|_| {
        jiff::fmt::strtime::parse("%d/%b/%Y:%H:%M:%S %z", &**text).and_then(|time| time.to_timestamp())
    });
    let parsed = parsed.map_err(|_| EntryError::Time)?;
    Ok((nanos(parsed)?, parsed.subsec_nanosecond() == 0))
}

/// An object, and the objects in it.
struct Object<'f, 'l> {
    found: &'f mut Found<'l>,
    /// Its name; empty for the line itself.
    inside: &'static str,
}

impl<'l> Visitor<'l> for Object<'_, 'l> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'l>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            let inside = match (self.inside, &*name) {
                ("", "request") => "request",
                ("", "fields") => "fields",
                ("", "headers" | "request_headers") => "headers",
                ("request", "headers") => "request.headers",
                ("", "resp_headers" | "response_headers") => "response_headers",
                _ => "other",
            };
            let member = Member { found: &mut *self.found, inside: self.inside, name: &name, below: inside };
            map.next_value_seed(member)?;
        }
        Ok(())
    }
}

/// A name, borrowed where it can be.
struct Name<'l>(Cow<'l, str>);

impl<'l> Deserialize<'l> for Name<'l> {
    fn deserialize<D: Deserializer<'l>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'l> Visitor<'l> for Text {
            type Value = Name<'l>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'l str) -> Result<Name<'l>, E> {
                Ok(Name(text.into()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Name<'l>, E> {
                Ok(Name(text.to_owned().into()))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// One member of an object.
struct Member<'f, 'l, 'n> {
    found: &'f mut Found<'l>,
    inside: &'static str,
    name: &'n str,
    /// What an object here is.
    below: &'static str,
}

impl<'l> Member<'_, 'l, '_> {
    fn take(self, value: Value<'l>) {
        self.found.take(self.inside, self.name, value);
    }
}

impl<'l> DeserializeSeed<'l> for Member<'_, 'l, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'l>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'l> Visitor<'l> for Member<'_, 'l, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'l str) -> Result<(), E> {
        self.take(Value::Text(text.into()));
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.take(Value::Text(text.to_owned().into()));
        Ok(())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.take(Value::Number(number));
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "a nanosecond is nothing here")]
    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "a nanosecond is nothing here")]
    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.take(Value::Other);
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'l>>(self, mut list: A) -> Result<(), A::Error> {
        let Member { found, inside, name, .. } = self;
        // Lists in here are values of a field that stood on several lines.
        while list.next_element_seed(Member { found: &mut *found, inside, name, below: "other" })?.is_some() {
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'l>>(self, mut map: A) -> Result<(), A::Error> {
        if self.below == "other" {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        Object { found: self.found, inside: self.below }.visit_map(map)
    }
}
