//! [`Judge`]: from what was seen to what is likely wrong. Time is an argument.
//!
//! A doubt has to show for the whole of a while before it is told, and it is gone as soon as it does not show any
//! more; a share that was told may fall a little before that, so that what lies at the edge is not told again and
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::survey::{Meetings, Sample};
use super::{Doubt, Kind};
use crate::config::Missing;
use crate::policy::RuleMode;
use crate::rules::Rules;
use crate::state::Shared;

/// Surveyed requests before a share of them means something.
const LEAST: u64 = 100;
/// Requests before it is odd that a limit met none of them.
const MANY: u64 = 1000;
/// "Nearly all", in percent: to be doubted, and to stay so.
const NEARLY: (u64, u64) = (90, 80);
/// The same of votes: of nine in ten, eight remain when the tenth votes against one.
const MAJORITY: (u64, u64) = (80, 65);

/// What there is to be judged.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Of the rules.
    pub(super) edition: u64,
    /// Requests answered since the start.
    pub(super) requests: u64,
    /// The limits in force, in the order of the rules.
    pub(super) limits: Vec<SeenLimit>,
    pub(super) sample: Sample,
}

/// One limit.
#[derive(Clone, Debug, Default)]
pub(super) struct SeenLimit {
    pub(super) name: Box<str>,
    pub(super) off: bool,
    /// Its key, in words.
    pub(super) key: String,
    pub(super) missing: Missing,
    /// Whether its key can be the client's address.
    pub(super) by_address: bool,
    /// Decisions since the start.
    pub(super) decisions: u64,
}

impl Seen {
    /// As it is.
    pub(super) fn now(shared: &Shared, rules: &Rules) -> Self {
        let totals = shared.metrics.totals();
        let limit = |(number, config): (usize, &crate::config::LimitConfig)| {
            let rule = rules.policy.rules().get(number);
            let name = config.limit.name();
            let counted = totals.limits.get(number).filter(|totals| &*totals.name == name);
            SeenLimit {
                name: name.into(),
                off: rule.is_none_or(|rule| rule.mode() == RuleMode::Off),
                key: rule.map(|rule| rule.key().to_string()).unwrap_or_default(),
                missing: config.missing,
                by_address: rule.is_some_and(crate::policy::Rule::counts_by_address),
                decisions: counted.map_or(0, |totals| totals.outcomes.iter().sum()),
            }
        };
        Self {
            edition: rules.edition(),
            requests: totals.classes.iter().sum(),
            limits: rules.limits.iter().enumerate().map(limit).collect(),
            sample: Sample::of(&shared.doubts, rules.edition(), rules.limits.len()),
        }
    }
}

/// What it is about: a limit by its number, or all of them.
type Subject = (Kind, Option<usize>);

/// Something that shows.
#[derive(Clone, Debug)]
struct Showing {
    since: Instant,
    doubt: Doubt,
    told: bool,
}

/// What was judged so far.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// What was counted when the rules came into force.
    base: Option<Base>,
    showing: BTreeMap<Subject, Showing>,
    /// What the log has been told of, under these rules.
    logged: BTreeSet<Subject>,
}

#[derive(Debug)]
struct Base {
    edition: u64,
    requests: u64,
    decisions: Vec<u64>,
}

impl Judge {
    /// Judges. Returns what the log has to be told.
    pub(super) fn look(&mut self, now: Instant, after: Duration, seen: &Seen) -> Vec<Doubt> {
        if self.base.as_ref().is_none_or(|base| base.edition != seen.edition) {
            let before = seen.edition > 0;
            self.base = Some(Base {
                edition: seen.edition,
                requests: if before { seen.requests } else { 0 },
                decisions: seen.limits.iter().map(|limit| if before { limit.decisions } else { 0 }).collect(),
            });
            self.showing.clear();
            self.logged.clear();
        }
        let mut shows = BTreeMap::new();
        self.proxy(seen, &mut shows);
        for (number, limit) in seen.limits.iter().enumerate().filter(|(_, limit)| !limit.off) {
            let met = seen.sample.limits.get(number).copied().unwrap_or_default();
            self.unmet(seen, number, limit, met, &mut shows);
            self.missing(number, limit, met, &mut shows);
        }
        self.showing.retain(|subject, _| shows.contains_key(subject));
        let mut news = Vec::new();
        for (subject, doubt) in shows {
            let showing = self.showing.entry(subject).or_insert_with(|| Showing {
                since: now,
                doubt: doubt.clone(),
                told: false,
            });
            showing.doubt = doubt;
            showing.told |= now.saturating_duration_since(showing.since) >= after;
            if showing.told && self.logged.insert(subject) {
                news.push(showing.doubt.clone());
            }
        }
        news
    }

    /// What has shown for long enough, and still does.
    pub(super) fn doubts(&self) -> Vec<Doubt> {
        let told = self.showing.values().filter(|showing| showing.told);
        told.map(|showing| showing.doubt.clone()).collect()
    }

    /// Whether so many of all are nearly all.
    fn nearly(&self, subject: Subject, bounds: (u64, u64), part: u64, all: u64) -> bool {
        let told = self.showing.get(&subject).is_some_and(|showing| showing.told);
        let bound = if told { bounds.1 } else { bounds.0 };
        all >= LEAST && part.saturating_mul(100) >= all.saturating_mul(bound)
    }

    fn proxy(&self, seen: &Seen, shows: &mut BTreeMap<Subject, Doubt>) {
        let subject = (Kind::UntrustedProxy, None);
        let Sample { asked, told, client: Some((client, votes)), .. } = &seen.sample else { return };
        let by_address = seen.limits.iter().filter(|limit| limit.by_address && !limit.off);
        let names: Vec<&str> = by_address.map(|limit| &*limit.name).collect();
        if names.is_empty()
            || !self.nearly(subject, NEARLY, *told, *asked)
            || !self.nearly(subject, MAJORITY, *votes, *asked)
        {
            return;
        }
        let text = format!(
            "nearly all requests come from {client} and name their clients in X-Forwarded-For or Forwarded, which \
             is not believed: {} count{} them all as one client; if {client} is a proxy of yours, name it in \
             client_ip.trusted_proxies",
            names.join(", "),
            if names.len() == 1 { "s" } else { "" },
        );
        shows.insert(subject, Doubt { kind: Kind::UntrustedProxy, limit: None, text });
    }

    fn unmet(
        &self,
        seen: &Seen,
        number: usize,
        limit: &SeenLimit,
        met: Meetings,
        shows: &mut BTreeMap<Subject, Doubt>,
    ) {
        let Some(base) = &self.base else { return };
        let requests = seen.requests.saturating_sub(base.requests);
        let decisions =
            limit.decisions.saturating_sub(base.decisions.get(number).copied().unwrap_or_default());
        if met.met > 0 || decisions > 0 || requests < MANY {
            return;
        }
        let text = format!(
            "none of {requests} requests met it: is what it matches written as requests have it? \
             `ratelimit-proxy explain` tells why one does not"
        );
        let doubt = Doubt { kind: Kind::NeverMatched, limit: Some(limit.name.clone()), text };
        shows.insert((Kind::NeverMatched, Some(number)), doubt);
    }

    fn missing(&self, number: usize, limit: &SeenLimit, met: Meetings, shows: &mut BTreeMap<Subject, Doubt>) {
        let subject = (Kind::KeyMissing, Some(number));
        if !self.nearly(subject, NEARLY, met.lacked, met.met) {
            return;
        }
        let fate = match limit.missing {
            Missing::Share => "they share one bucket",
            Missing::Skip => "they are not limited by it",
            Missing::Deny => "they are denied",
        };
        let text = format!(
            "{} of the last {} requests that it is about have no value for its key ({}): {fate}",
            met.lacked, met.met, limit.key
        );
        shows.insert(subject, Doubt { kind: Kind::KeyMissing, limit: Some(limit.name.clone()), text });
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const WHILE: Duration = Duration::from_secs(60);

    fn limit(name: &str) -> SeenLimit {
        SeenLimit { name: name.into(), key: "client.ip".to_owned(), by_address: true, ..SeenLimit::default() }
    }

    fn seen(asked: u64, told: u64, votes: u64) -> Seen {
        let proxy = IpAddr::from([10, 0, 0, 9]);
        Seen {
            requests: asked,
            limits: vec![SeenLimit { decisions: 1, ..limit("a") }],
            sample: Sample {
                asked,
                told,
                client: (votes > 0).then_some((proxy, votes)),
                limits: vec![Meetings { met: asked, lacked: 0 }],
            },
            ..Seen::default()
        }
    }

    fn kinds(doubts: &[Doubt]) -> Vec<Kind> {
        doubts.iter().map(|doubt| doubt.kind).collect()
    }

    #[test]
    fn what_shows_for_a_while_is_told_once_and_ends_when_it_does() {
        let (mut judge, start) = (Judge::default(), Instant::now());
        let mut look = |seconds: u64, seen: &Seen| {
            let news = judge.look(start + Duration::from_secs(seconds), WHILE, seen);
            (kinds(&news), kinds(&judge.doubts()))
        };
        let (doubtful, edge, fine) = (seen(1000, 950, 900), seen(1000, 850, 700), seen(1000, 500, 300));
        assert_eq!(look(0, &doubtful), (vec![], vec![]));
        assert_eq!(look(59, &doubtful), (vec![], vec![]));
        assert_eq!(look(60, &doubtful), (vec![Kind::UntrustedProxy], vec![Kind::UntrustedProxy]));
        assert_eq!(look(61, &doubtful), (vec![], vec![Kind::UntrustedProxy]));
        assert_eq!(look(62, &edge), (vec![], vec![Kind::UntrustedProxy]));
        assert_eq!(look(63, &fine), (vec![], vec![]));
        // From the beginning; and the log knows.
        assert_eq!(look(64, &doubtful), (vec![], vec![]));
        assert_eq!(look(120, &edge), (vec![], vec![]));
        assert_eq!(look(121, &doubtful), (vec![], vec![]));
        assert_eq!(look(181, &doubtful), (vec![], vec![Kind::UntrustedProxy]));
        // Another configuration is another matter.
        let next = Seen { edition: 1, ..doubtful };
        assert_eq!(look(182, &next), (vec![], vec![]));
        assert_eq!(look(242, &next), (vec![Kind::UntrustedProxy], vec![Kind::UntrustedProxy]));
    }

    #[test]
    fn what_is_no_sign_of_anything() {
        let told = |seen: &Seen| {
            let (mut judge, start) = (Judge::default(), Instant::now());
            judge.look(start, WHILE, seen);
            kinds(&judge.look(start + WHILE, WHILE, seen))
        };
        assert_eq!(told(&seen(1000, 900, 800)), [Kind::UntrustedProxy]);
        // Few requests, few that tell of a client, several proxies.
        assert_eq!(told(&seen(99, 99, 99)), []);
        assert_eq!(told(&seen(1000, 899, 899)), []);
        assert_eq!(told(&seen(1000, 1000, 799)), []);
        // No limit looks at addresses, or one that is off.
        let mut other = seen(1000, 1000, 1000);
        other.limits[0].by_address = false;
        assert_eq!(told(&other), []);
        other.limits[0] = SeenLimit { off: true, ..limit("a") };
        assert_eq!(told(&other), []);
    }

    #[test]
    fn a_limit_that_meets_nothing() {
        let (mut judge, start) = (Judge::default(), Instant::now());
        let mut look = |seconds: u64, seen: &Seen| {
            judge.look(start + Duration::from_secs(seconds), WHILE, seen);
            judge.doubts().into_iter().map(|doubt| doubt.limit.unwrap().into()).collect::<Vec<String>>()
        };
        let with = |requests, decisions, met| Seen {
            requests,
            limits: vec![SeenLimit { decisions, ..limit("b") }, SeenLimit { off: true, ..limit("c") }],
            sample: Sample {
                asked: requests,
                limits: vec![Meetings { met, lacked: 0 }],
                ..Sample::default()
            },
            ..Seen::default()
        };
        assert_eq!(look(0, &with(999, 0, 0)), [""; 0]);
        assert_eq!(look(100, &with(1000, 0, 0)), [""; 0]);
        assert_eq!(look(160, &with(9000, 0, 0)), ["b"]);
        assert_eq!(look(161, &with(9001, 0, 1)), [""; 0], "a request that was let off met it too");
        assert_eq!(look(300, &with(9001, 1, 0)), [""; 0]);
        // What was counted under other rules counts for nothing.
        let next = |requests| Seen { edition: 1, ..with(requests, 7, 0) };
        look(301, &next(10_000));
        look(302, &next(11_000));
        assert_eq!(look(361, &next(11_000)), [""; 0]);
        assert_eq!(look(362, &next(11_000)), ["b"]);
    }

    #[test]
    fn a_key_that_nobody_has() {
        let (mut judge, start) = (Judge::default(), Instant::now());
        let mut look = |seconds: u64, met, lacked| {
            let mut seen = seen(1000, 0, 0);
            seen.sample.limits = vec![Meetings { met, lacked }];
            judge.look(start + Duration::from_secs(seconds), WHILE, &seen);
            kinds(&judge.doubts())
        };
        for (seconds, met, lacked, doubted) in [
            (0, 100, 90, false),
            (60, 100, 90, true),
            (61, 100, 80, true),
            (62, 100, 79, false),
            (63, 99, 99, false),
            (200, 99, 99, false),
        ] {
            assert_eq!(look(seconds, met, lacked) == [Kind::KeyMissing], doubted, "{seconds}");
        }
    }
}
