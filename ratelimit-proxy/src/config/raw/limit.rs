//! Limits: which requests, counted by what, how much.

use std::rc::Rc;

use http::Method;
use ratelimit_core::Rate;
use serde_json::{Value, json};

use super::later::{CountOnly, LateCost, Tiers};
use super::{Count, Positive};
use crate::config::decode::{Decode, Either, Entries, Here, Items, Many, choice, section};
use crate::config::fault::Faults;
use crate::config::leaf::{Net, Text};
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
        jwt: Entries<Glob> [later],
        /// This does not hold.
        not: Rc<Match>,
        /// Envoy's domain.
        domain: Text [later],
        /// Envoy's descriptors, in order, with patterns of their values.
        descriptors: Items<Entries<Glob>> [later],
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
        count: CountOnly [later],
        /// Quotas by what the client has paid for.
        tiers: Tiers [later],
        /// Admit while there is any quota left, and charge the full cost.
        overdraft: bool [later],
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
