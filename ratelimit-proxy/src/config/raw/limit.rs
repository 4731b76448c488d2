//! Limits: which requests, counted by what, how much.

use std::ops::RangeInclusive;
use std::rc::Rc;

use http::{HeaderName, Method};
use ratelimit_core::Rate;
use serde_json::{Value, json};

use super::{Count, Positive};
use crate::config::decode::{At, Decode, Either, Entries, Field, Here, Items, Many, choice, section};
use crate::config::fault::Faults;
use crate::config::leaf::{Net, Text, Whole};
use crate::config::schema::{self, Shapes, or_variable};
use crate::config::words::{Glob, PathPattern, Source};

section! {
    /// Which requests: those for which everything that is given holds.
    Match {
        /// Pattern of the path: * is one segment, {name} captures one, a final ** is the rest.
        path: PathPattern,
        /// One of these methods.
        methods: Many<Method>,
        /// Pattern of the host, without port: * is any run of characters.
        host: Glob,
        /// Header fields that are there, with patterns of their values.
        headers: Entries<Glob>,
        /// Query parameters that are there, with patterns of their values.
        query: Entries<Glob>,
        /// The client's address is in one of these networks.
        client_ip: Many<Net>,
        /// Claims of a verified token, with patterns of their values.
        jwt: Entries<Glob>,
        /// This does not hold.
        not: Rc<Match>,
        /// Envoy's domain.
        domain: Text,
        /// A descriptor of Envoy's: its entries, all of them and in order, with patterns of their values.
        descriptors: Items<Entries<Glob>>,
    }
}

section! {
    /// A limit.
    Limit {
        /// Its name: 1 to 64 of A-Z a-z 0-9 _ . -
        name: LimitName [required],
        /// Which requests; all if absent.
        r#match: Match,
        /// What it counts by; one bucket for all requests if absent.
        key: Many<KeyPart>,
        /// What becomes of a request without a value for the key; share if absent.
        missing: MissingWord,
        /// How much in how long: COUNT/UNIT with s, min, h, day, week, or month.
        rate: Rate,
        /// Most at once; the count of the rate if absent. For token_bucket.
        burst: Positive,
        /// How it counts; token_bucket if absent.
        algorithm: AlgorithmWord,
        /// The time zone whose calendar a fixed_window follows; UTC if absent.
        timezone: Text,
        /// Most requests under way at once, instead of a rate.
        concurrency: Positive,
        /// What a request costs: a number, or header.NAME or query.NAME that says it; 1 if absent.
        cost: Either<CostWord, LateCost>,
        /// Other quotas for some keys; the first that fits wins.
        overrides: Items<Override>,
        /// Whether it denies; enforce if absent.
        mode: ModeWord,
        /// Only requests that ended so use it up.
        count: CountOnly,
        /// Quotas by what the client has paid for.
        tiers: Tiers,
        /// Admit while there is any quota left, and charge the full cost.
        overdraft: bool,
    }
}

choice! {
    /// How a limit counts.
    AlgorithmWord {
        /// Refills steadily and allows a burst.
        TokenBucket = "token_bucket",
        /// Never more than the count in any interval as long as the period.
        SlidingWindow = "sliding_window",
        /// Never more than the count in each period of the calendar.
        FixedWindow = "fixed_window",
        /// Never more than so many under way at once.
        Concurrency = "concurrency",
    }
}

choice! {
    /// Whether a limit denies.
    ModeWord {
        /// It does.
        Enforce = "enforce",
        /// It is evaluated, counted and reported, but never denies.
        Shadow = "shadow",
        /// It is not evaluated.
        Off = "off",
    }
}

choice! {
    /// What becomes of a request without a value for a key.
    MissingWord {
        /// All such requests share one bucket.
        Share = "share",
        /// The limit does not apply.
        Skip = "skip",
        /// It is denied.
        Deny = "deny",
    }
}

section! {
    /// Another quota for some keys: one of rate, burst, concurrency, unlimited and deny.
    Override {
        /// One pattern for each part of the key: * is any run of characters.
        key: Many<Glob> [required],
        /// How much in how long.
        rate: Rate,
        /// Most at once; the count of its rate if absent.
        burst: Positive,
        /// Most requests under way at once.
        concurrency: Positive,
        /// No limit for them.
        unlimited: bool,
        /// Nothing for them.
        deny: bool,
    }
}

section! {
    /// The first of several values that a request has.
    First {
        /// In order.
        first: Many<Source> [required],
    }
}

/// A part of a key.
pub(in crate::config) type KeyPart = Either<Source, First>;

/// A name of a limit.
#[derive(Debug)]
pub(in crate::config) struct LimitName(pub(in crate::config) String);

impl LimitName {
    /// What a name is, for those who wrote another.
    pub(in crate::config) const WANTED: &'static str =
        "a name of a limit: write 1 to 64 of A-Z a-z 0-9 _ . -";

    /// The name that a text is.
    pub(in crate::config) fn parse(text: &str) -> Option<Self> {
        let proper = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        ((1..=64).contains(&text.len()) && text.chars().all(proper)).then(|| Self(text.to_owned()))
    }
}

impl Decode for LimitName {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let name = here.scalar().and_then(|scalar| Self::parse(&scalar.text));
        if name.is_none() {
            here.wrong(Self::WANTED, faults);
        }
        name
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(schema::text(json!({"pattern": "^[A-Za-z0-9_.-]{1,64}$"})))
    }
}

/// A cost, or the value of a request that says it.
#[derive(Debug)]
pub(in crate::config) enum CostWord {
    Fixed(u32),
    Value(Source),
}

impl Decode for CostWord {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let word =
            here.scalar().is_some_and(|scalar| scalar.text.starts_with(|c: char| c.is_ascii_lowercase()));
        if word {
            let source = Source::decode(here, faults)?;
            if !matches!(source, Source::Header(_) | Source::Query(_)) {
                faults.refuse_with(
                    &here.place,
                    format!("{source} can't say what a request costs"),
                    "write a number, header.NAME or query.NAME",
                );
                return None;
            }
            return Some(Self::Value(source));
        }
        Count::decode(here, faults).map(|number| Self::Fixed(number.0))
    }

    fn schema(shapes: &mut Shapes) -> Value {
        json!({"anyOf": [Count::schema(shapes), {"type": "string", "pattern": r"^(header|query)\..+"}]})
    }
}

section! {
    /// The quota of a tier.
    Tier {
        /// How much in how long.
        rate: Rate,
        /// Most at once.
        burst: Positive,
        /// Most requests under way at once.
        concurrency: Positive,
        /// No limit for them.
        unlimited: bool,
        /// Nothing for them.
        deny: bool,
    }
}

/// Quotas by what some value of the request says.
#[derive(Debug, Default)]
pub(in crate::config) struct Tiers {
    pub(in crate::config) by: Field<Source>,
    pub(in crate::config) default: Field<Text>,
    pub(in crate::config) tiers: Vec<(At<String>, At<Tier>)>,
}

impl Decode for Tiers {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let mut tiers = Self::default();
        let Some(fields) = here.fields(faults) else {
            here.wrong("a section", faults);
            return None;
        };
        for (name, place, value) in fields {
            match name {
                "by" => tiers.by.take(&value, faults),
                "default" => tiers.default.take(&value, faults),
                name => tiers.tiers.extend(
                    At::decode(&value, faults).map(|tier| (At { place, value: name.to_owned() }, tier)),
                ),
            }
        }
        if tiers.by.is_absent() {
            faults.refuse(&here.place, "by is missing");
        }
        Some(tiers)
    }

    fn schema(shapes: &mut Shapes) -> Value {
        shapes.shape("Tiers", |shapes| {
            let (by, default) = (Source::schema(shapes), Text::schema(shapes));
            json!({
                "description": "Quotas by what some value of the request says.",
                "type": "object",
                "properties": {"by": by, "default": default},
                "required": ["by"],
                "additionalProperties": {"allOf": [Tier::schema(shapes), {"minProperties": 1}]},
            })
        })
    }
}

section! {
    /// A cost that is known only when the response ends.
    LateCost {
        /// What is held at admission: a number, or header.NAME or query.NAME; nothing if absent, with overdraft.
        reserve: CostWord,
        /// What is held where the request does not say; 1 if absent.
        default: Count,
        /// Where the response says the cost, in its head or its trailers.
        actual: Actual [required],
        /// What becomes of the reservation if it is found nowhere; keep if absent.
        if_unknown: IfUnknown,
    }
}

section! {
    /// Where a cost is found in the end.
    Actual {
        /// A field of the response.
        response_header: HeaderName [required],
    }
}

choice! {
    /// What becomes of a reservation whose cost never comes.
    IfUnknown {
        /// It is charged.
        Keep = "keep",
        /// It is given back.
        Refund = "refund",
    }
}

section! {
    /// Which requests use a limit up.
    CountOnly {
        /// Those with such a status: 401, 5xx.
        status: Many<StatusWord>,
        /// Those with such a status of gRPC.
        grpc_status: Many<Whole<0, 16>>,
    }
}

/// Statuses: one, or a hundred of them as in `5xx`.
#[derive(Clone, Debug)]
pub(in crate::config) struct StatusWord(pub(in crate::config) RangeInclusive<u16>);

impl Decode for StatusWord {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let status = here.scalar().and_then(|scalar| {
            let text = scalar.text.as_str();
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            match text.strip_suffix("xx").and_then(|class| class.parse::<u16>().ok()) {
                Some(class @ 1..=5) if text.len() == 3 => Some(class * 100..=class * 100 + 99),
                _ if digits && text.len() == 3 => text
                    .parse()
                    .ok()
                    .filter(|status| (100..=599).contains(status))
                    .map(|status| status..=status),
                _ => None,
            }
        });
        if status.is_none() {
            here.wrong("a status, such as 401 or 5xx", faults);
        }
        status.map(Self)
    }

    fn schema(_: &mut Shapes) -> Value {
        or_variable(json!({"anyOf": [
            {"type": "integer", "minimum": 100, "maximum": 599},
            {"type": "string", "pattern": "^([1-5]xx|[1-5][0-9][0-9])$", "examples": ["5xx"]},
        ]}))
    }
}
