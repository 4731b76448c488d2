//! The values that are written as one text. Each is checked where it stands: numbers and durations here,
//! addresses in [`net`], words of HTTP and of limits in [`request`].

mod net;
mod request;

use std::time::Duration;

use serde_json::{Value, json};

use super::decode::{Decode, Here};
use super::fault::{Faults, shown};
use super::schema::{self, Shapes, or_variable};

pub(super) use self::net::Net;
pub(super) use self::request::{header_name, method, source};

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
        faults.refuse_with(
            &here.place,
            format!("{} is text, not {wanted}", shown(text)),
            "write it without quotes",
        );
        return None;
    }
    Some(text)
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
        schema::text(json!({"minLength": 1}))
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
        or_variable(
            json!({"type": "string", "pattern": "^[0-9]+ *(ms|s|m|min|h)$", "examples": ["50ms", "5s", "1m"]}),
        )
    }
}

/// A part of a whole, in hundredths: `12%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Percent(pub(super) u32);

impl Decode for Percent {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let text = text(here, "a part in percent", faults)?;
        let percent = text.strip_suffix('%').and_then(|number| number.trim_end().parse().ok());
        let Some(percent) = percent.filter(|percent| (1..=50).contains(percent)) else {
            let hint = "write 1% to 50%, in whole numbers";
            faults.refuse_with(&here.place, format!("{} is no such part", shown(text)), hint);
            return None;
        };
        Some(Self(percent))
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(json!({"type": "string", "pattern": "^[0-9]+ *%$", "examples": ["12%", "25%"]}))
    }
}

/// An amount of memory: `512MiB`, `2GiB`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size(pub(super) u64);

impl Size {
    /// Less than that no proxy runs in.
    const LEAST: u64 = 16 << 20;

    fn parse(text: &str) -> Option<u64> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits)?;
        let number: u64 = number.parse().ok()?;
        let bytes = match unit.trim_start() {
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        number.checked_mul(bytes)
    }
}

impl Decode for Size {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let text = text(here, "an amount of memory", faults)?;
        let hint = "write a whole number and a unit, such as 512MiB or 2GiB, 16MiB at least";
        let Some(bytes) = Self::parse(text).filter(|bytes| *bytes >= Self::LEAST) else {
            faults.refuse_with(&here.place, format!("{} is no amount of memory", shown(text)), hint);
            return None;
        };
        Some(Self(bytes))
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(
            json!({"type": "string", "pattern": "^[0-9]+ *(KiB|MiB|GiB)$", "examples": ["512MiB", "2GiB"]}),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("512MiB", 512 << 20), ("2 GiB", 2 << 30), ("1KiB", 1024)] {
            assert_eq!(Size::parse(text), Some(bytes), "{text}");
        }
        for text in ["", "5", "512MB", "-1MiB", "1.5GiB", "99999999999999999999GiB", "17179869184GiB"] {
            assert_eq!(Size::parse(text), None, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("50ms", Some(50)),
            ("5s", Some(5000)),
            ("1m", Some(60_000)),
            ("1min", Some(60_000)),
            ("2 h", Some(7_200_000)),
        ] {
            assert_eq!(Lasting::parse(text), millis.map(Duration::from_millis), "{text}");
        }
        for text in ["", "5", "s", "-5s", "1.5s", "5d", "1m30s", "9000h", "99999999999999999999s", "5sec"] {
            assert_eq!(Lasting::parse(text), None, "{text}");
        }
    }
}
