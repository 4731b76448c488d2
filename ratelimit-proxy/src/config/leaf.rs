//! The values that are written as one text: numbers, durations, addresses, rates, patterns. Each is checked where
//! it stands.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, Method};
use ipnet::IpNet;
use ratelimit_core::{Rate, RateError};
use serde_json::{Value, json};

use super::decode::{Decode, Here};
use super::fault::{Faults, Place, shown};
use super::schema::{Shapes, or_variable};
use super::words::{Glob, PathPattern, Source, SourceError};
use crate::upstream::{Target, TargetError};

/// The longest duration: a year.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

fn text<'n>(here: &Here<'n>, wanted: &str, faults: &mut Faults) -> Option<&'n str> {
    let Some(scalar) = here.scalar() else {
        here.wrong(wanted, faults);
        return None;
    };
    Some(&scalar.text)
}

/// A text without quotes: in quotes it is no number and no switch.
fn plain<'n>(here: &Here<'n>, wanted: &str, faults: &mut Faults) -> Option<&'n str> {
    let text = text(here, wanted, faults)?;
    if here.scalar().is_some_and(|scalar| !scalar.plain) {
        faults.refuse_with(&here.place, format!("{} is text, not {wanted}", shown(text)), "write it without quotes");
        return None;
    }
    Some(text)
}

fn parsed<T: FromStr>(here: &Here<'_>, wanted: &str, faults: &mut Faults) -> Option<T>
where
    T::Err: Display,
{
    let text = text(here, wanted, faults)?;
    text.parse().map_err(|error| faults.refuse(&here.place, format!("{}: {error}", shown(text)))).ok()
}

/// Any text but an empty one.
#[derive(Debug)]
pub(super) struct Text(pub(super) String);

impl Decode for Text {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let text = text(here, "a text", faults)?;
        if text.is_empty() {
            faults.refuse(&here.place, "is empty");
            return None;
        }
        Some(Self(text.to_owned()))
    }

    fn schema(_: &mut Shapes) -> Value {
        json!({"type": "string", "minLength": 1})
    }
}

/// A whole number in a range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole<const LEAST: u32, const MOST: u32>(pub(super) u32);

impl<const LEAST: u32, const MOST: u32> Decode for Whole<LEAST, MOST> {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let wanted = format!("a whole number from {LEAST} to {MOST}");
        let text = plain(here, &wanted, faults)?;
        // Digits only: no sign, no fraction, no exponent, no other base.
        let number = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        match number.filter(|number| (LEAST..=MOST).contains(number)) {
            Some(number) => Some(Self(number)),
            None => {
                here.wrong(&wanted, faults);
                None
            }
        }
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(json!({"type": "integer", "minimum": LEAST, "maximum": MOST}))
    }
}

impl Decode for bool {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        match plain(here, "true or false", faults)? {
            "true" => Some(true),
            "false" => Some(false),
            _ => {
                here.wrong("true or false", faults);
                None
            }
        }
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(json!({"type": "boolean"}))
    }
}

/// A number from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share(pub(super) f64);

impl Decode for Share {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        const WANTED: &str = "a number from 0 to 1";
        let text = plain(here, WANTED, faults)?;
        let proper = |text: &&str| text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        match Some(text).filter(proper).and_then(|text| text.parse::<f64>().ok()) {
            Some(share) if (0.0..=1.0).contains(&share) => Some(Self(share)),
            _ => {
                here.wrong(WANTED, faults);
                None
            }
        }
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(json!({"type": "number", "minimum": 0, "maximum": 1}))
    }
}

/// `off`, or something.
#[derive(Debug)]
pub(super) enum OrOff<T> {
    Off,
    On(T),
}

impl<T: Decode> Decode for OrOff<T> {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        if here.scalar().is_some_and(|scalar| scalar.text == "off") {
            return Some(Self::Off);
        }
        T::decode(here, faults).map(Self::On)
    }

    fn schema(shapes: &mut Shapes) -> Value {
        json!({"anyOf": [{"const": "off"}, T::schema(shapes)]})
    }
}

/// A length of time: `50ms`, `5s`, `1m`, `2h`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lasting(pub(super) Duration);

impl Lasting {
    fn parse(text: &str) -> Option<Duration> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits)?;
        let number: u64 = number.parse().ok()?;
        let millis = match unit.trim_start() {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        Some(Duration::from_millis(number.checked_mul(millis)?)).filter(|duration| *duration <= LONGEST)
    }
}

impl Decode for Lasting {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let text = text(here, "a duration", faults)?;
        let Some(duration) = Self::parse(text) else {
            let hint = "write a whole number and a unit, such as 50ms, 5s, 1m or 2h, a year at most";
            faults.refuse_with(&here.place, format!("{} is not a duration", shown(text)), hint);
            return None;
        };
        Some(Self(duration))
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(json!({"type": "string", "pattern": "^[0-9]+ *(ms|s|m|min|h)$", "examples": ["50ms", "5s", "1m"]}))
    }
}

/// A network, or one address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Net(pub(super) IpNet);

impl Decode for Net {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let text = text(here, "a network", faults)?;
        let net = match text.parse::<IpAddr>() {
            Ok(address) => Ok(IpNet::from(address.to_canonical())),
            Err(_) => text.parse::<IpNet>().map(canonical),
        };
        let Ok(net) = net else {
            let hint = "write a network such as 10.0.0.0/8 or 2001:db8::/32, or an address";
            faults.refuse_with(&here.place, format!("{} is not a network", shown(text)), hint);
            return None;
        };
        if net.trunc() != net {
            let message = format!("{} has bits behind its prefix; {} is meant", shown(text), net.trunc());
            faults.warn(&here.place, message);
        }
        Some(Self(net.trunc()))
    }

    fn schema(_: &mut Shapes) -> Value {
        json!({"type": "string", "examples": ["10.0.0.0/8", "2001:db8::/32"]})
    }
}

/// A network of IPv4 addresses within IPv6 is a network of IPv4 addresses, as the addresses are.
fn canonical(net: IpNet) -> IpNet {
    match (net.addr().to_canonical(), net.prefix_len().checked_sub(96)) {
        (IpAddr::V4(address), Some(prefix)) if matches!(net, IpNet::V6(_)) => {
            IpNet::new(address.into(), prefix).unwrap_or(net)
        }
        _ => net,
    }
}

impl Decode for SocketAddr {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let text = text(here, "an address", faults)?;
        text.parse()
            .map_err(|_| {
                let hint = "write an IP address and a port, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080";
                faults.refuse_with(&here.place, format!("{} is not an address to listen on", shown(text)), hint);
            })
            .ok()
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(json!({"type": "string", "pattern": ":[0-9]+$", "examples": ["127.0.0.1:8080", "[::]:8080"]}))
    }
}

impl Decode for HeaderName {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        header_name(text(here, "a name of a header field", faults)?, &here.place, faults)
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(json!({"type": "string", "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"}))
    }
}

/// The name of a header field that stands at `place`.
pub(super) fn header_name(
    text: &str,
    place: &Place,
    faults: &mut Faults,
) -> Option<HeaderName> {
    HeaderName::try_from(text)
        .map_err(|_| faults.refuse(place, format!("{} is not a name of a header field", shown(text))))
        .ok()
}

impl Decode for Method {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let text = text(here, "a method", faults)?;
        method(text).map_err(|hint| {
            faults.refuse_with(&here.place, format!("{} is not a method", shown(text)), hint);
        }).ok()
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(json!({"type": "string", "pattern": "^[A-Z0-9!#$%&'*+.^_`|~-]+$", "examples": METHODS}))
    }
}

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// A method, or what to write instead: they are written in capitals, and `get` is another method than `GET`.
pub(super) fn method(text: &str) -> Result<Method, String> {
    let upper = text.to_ascii_uppercase();
    match Method::try_from(text) {
        Ok(method) if upper == text => Ok(method),
        _ => Err(match near_method(&upper) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("methods are written in capitals, such as {}", METHODS.join(", ")),
        }),
    }
}

fn near_method(upper: &str) -> Option<&'static str> {
    if upper.len() > 16 {
        return None;
    }
    METHODS.iter().copied().find(|known| strsim::damerau_levenshtein(upper, known) <= 1)
}

impl Decode for Glob {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        text(here, "a pattern", faults).map(Self::new)
    }

    fn schema(_: &mut Shapes) -> Value {
        json!({"type": ["string", "number", "boolean"]})
    }
}

impl Decode for PathPattern {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        parsed(here, "a pattern of paths", faults)
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(json!({"type": "string", "pattern": "^/", "examples": ["/login", "/v1/{resource}/**"]}))
    }
}

impl Decode for Rate {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let text = text(here, "a rate", faults)?;
        text.parse()
            .map_err(|error: RateError| match error {
                // The whole text says more than its empty count.
                RateError::Count(count) if count.is_empty() => here.wrong("a rate of at least 1", faults),
                error => faults.refuse(&here.place, error.to_string()),
            })
            .ok()
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(json!({
            "type": "string",
            "pattern": "^[0-9]+ */ *([0-9]* *(s|min|h|day|week)|1?month)$",
            "examples": ["100/s", "5/15min", "10000/day"],
        }))
    }
}

impl Decode for Source {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        source(text(here, "a value of a request", faults)?, &here.place, faults)
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(json!({
            "type": "string",
            "pattern": r"^(client\.ip|method|host|path|basic\.user|digest\.user|tls\.client|(header|query|cookie|path|jwt|descriptor)\..+)$",
            "examples": ["client.ip", "header.x-api-key", "path.resource"],
        }))
    }
}

/// The value of a request that is named at `place`.
pub(super) fn source(text: &str, place: &Place, faults: &mut Faults) -> Option<Source> {
    let error = match text.parse() {
        Ok(source) => return Some(source),
        Err(error) => error,
    };
    match error {
        SourceError::NotYet(_) => faults.refuse(place, error.to_string()),
        SourceError::Unknown(Some(near)) => {
            faults.refuse_with(place, format!("{} is {error}", shown(text)), format!("did you mean {near}?"));
        }
        SourceError::Unknown(None) => faults.refuse(place, format!("{} is {error}", shown(text))),
        error => faults.refuse(place, format!("{}: {error}", shown(text))),
    }
    None
}

/// The URL of a server behind the proxy.
impl Decode for Target {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let text = text(here, "a URL", faults)?;
        let later = |scheme: &&&str| text.strip_prefix(**scheme).is_some_and(|rest| rest.starts_with("://"));
        if let Some(scheme) = ["https", "h2c"].iter().find(later) {
            faults.refuse(&here.place, format!("{scheme} to upstreams is not available yet"));
            return None;
        }
        text.parse()
            .map_err(|error: TargetError| match error {
                TargetError::NotAUrl | TargetError::Scheme | TargetError::NoHost => faults.refuse_with(
                    &here.place,
                    // Not the URL itself, which may hold a password.
                    error.to_string(),
                    "write one such as http://127.0.0.1:9000",
                ),
                error => faults.refuse(&here.place, error.to_string()),
            })
            .ok()
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(json!({"type": "string", "pattern": "^(http|https|h2c)://", "examples": ["http://127.0.0.1:9000"]}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in
            [("50ms", Some(50)), ("5s", Some(5000)), ("1m", Some(60_000)), ("1min", Some(60_000)), ("2 h", Some(7_200_000))]
        {
            assert_eq!(Lasting::parse(text), millis.map(Duration::from_millis), "{text}");
        }
        for text in ["", "5", "s", "-5s", "1.5s", "5d", "1m30s", "9000h", "99999999999999999999s", "5sec"] {
            assert_eq!(Lasting::parse(text), None, "{text}");
        }
    }

    #[test]
    fn networks_of_ipv4_within_ipv6() {
        let net = |text: &str| canonical(text.parse().unwrap()).to_string();
        assert_eq!(net("::ffff:10.0.0.0/104"), "10.0.0.0/8");
        assert_eq!(net("::ffff:10.1.2.3/128"), "10.1.2.3/32");
        assert_eq!(net("10.0.0.0/8"), "10.0.0.0/8");
        assert_eq!(net("2001:db8::/32"), "2001:db8::/32");
        assert_eq!(net("::/0"), "::/0");
    }

    #[test]
    fn methods_are_written_in_capitals() {
        assert_eq!(method("POST"), Ok(Method::POST));
        assert_eq!(method("PURGE").unwrap().as_str(), "PURGE");
        assert_eq!(method("post"), Err("did you mean POST?".to_owned()));
        assert!(method("P OST").is_err());
    }
}
