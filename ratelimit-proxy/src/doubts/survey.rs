//! [`Survey`]: what one thread saw of requests under one set of rules, as shares of the last of them.
//!
//! Counts are halved when they grow past [`RECENT`], so what is long ago fades. Who sends most is found by a majority
//! vote (Boyer and Moore, MJRTY, 1981): one candidate, whose votes are never more than its requests.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{Doubts, locked};
use crate::facts::Facts;
use crate::rules::Rules;

/// Requests that a share is about, at most.
const RECENT: u64 = 1000;
/// The least time from one request of a thread that is surveyed to the next: with it, a survey costs next to nothing,
/// and where there are few requests, all are seen.
const GAP: Duration = Duration::from_millis(1);

/// Written by one thread, read by the judge. Counts may be a moment apart.
#[derive(Debug)]
pub(super) struct Survey {
    /// Of the rules.
    pub(super) edition: u64,
    /// Requests surveyed.
    asked: AtomicU64,
    /// Those of them that told of a client and were not believed.
    told: AtomicU64,
    /// Who sends most of these, if anyone does: an address of 128 bits, and its votes.
    candidate: [AtomicU64; 2],
    votes: AtomicU64,
    limits: Box<[Met]>,
}

/// One limit.
#[derive(Debug, Default)]
struct Met {
    met: AtomicU64,
    lacked: AtomicU64,
}

/// What was seen of one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Meetings {
    /// Requests that it was about.
    pub(super) met: u64,
    /// Those of them that lacked a value of its key.
    pub(super) lacked: u64,
}

/// What all threads saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Requests.
    pub(super) asked: u64,
    /// Those of them that told of a client and were not believed.
    pub(super) told: u64,
    /// Who sent most of these, and how many at least.
    pub(super) client: Option<(IpAddr, u64)>,
    /// In the order of the rules.
    pub(super) limits: Vec<Meetings>,
}

/// Surveys the requests of one thread.
#[derive(Debug)]
pub(crate) struct Surveyor {
    next: Cell<Option<Instant>>,
    own: RefCell<Option<Arc<Survey>>>,
}

impl Surveyor {
    /// Of a thread that has seen nothing.
    pub(crate) const fn new() -> Self {
        Self { next: Cell::new(None), own: RefCell::new(None) }
    }

    /// Takes note of a request, if it is time for one.
    #[inline]
    pub(crate) fn look(&self, doubts: &Doubts, rules: &Rules, facts: &Facts<'_>, peer: IpAddr, now: Instant) {
        if self.next.get().is_none_or(|next| next <= now) {
            self.next.set(now.checked_add(GAP));
            self.note(doubts, rules, facts, peer);
        }
    }

    #[inline(never)]
    fn note(&self, doubts: &Doubts, rules: &Rules, facts: &Facts<'_>, peer: IpAddr) {
        if rules.doubted_after.is_none() {
            return;
        }
        let mut own = self.own.borrow_mut();
        let survey = match &*own {
            Some(survey) if survey.edition == rules.edition() => Arc::clone(survey),
            _ => {
                let new = Arc::new(Survey::new(rules.edition(), rules.policy.rules().len()));
                let mut all = locked(&doubts.surveys);
                // Those of threads that serve under older rules are of no use to the judge.
                all.retain(|survey| survey.edition >= rules.edition());
                all.push(Arc::clone(&new));
                *own = Some(Arc::clone(&new));
                new
            }
        };
        let told = rules.policy.tells_in_vain(peer, facts.headers).then_some(peer);
        survey.request(told);
        rules.policy.survey(facts, |rule, lacks| survey.met(rule, lacks));
    }
}

impl Survey {
    fn new(edition: u64, limits: usize) -> Self {
        Self {
            edition,
            asked: AtomicU64::new(0),
            told: AtomicU64::new(0),
            candidate: <[AtomicU64; 2]>::default(),
            votes: AtomicU64::new(0),
            limits: (0..limits).map(|_| Met::default()).collect(),
        }
    }

    /// A request; whoever sent it, if it told of a client in vain.
    fn request(&self, told: Option<IpAddr>) {
        if read(&self.asked) >= RECENT {
            // The whole last, so that no part is larger for long.
            [&self.told, &self.votes, &self.asked].into_iter().for_each(halve);
        }
        add(&self.asked);
        let Some(peer) = told else { return };
        add(&self.told);
        let (peer, [high, low]) = (bits(peer), &self.candidate);
        match read(&self.votes) {
            0 => {
                write(high, peer.0);
                write(low, peer.1);
                write(&self.votes, 1);
            }
            _ if (read(high), read(low)) == peer => add(&self.votes),
            votes => write(&self.votes, votes - 1),
        }
    }

    /// A limit was about a request.
    fn met(&self, rule: usize, lacks: bool) {
        let Some(limit) = self.limits.get(rule) else { return };
        if read(&limit.met) >= RECENT {
            [&limit.lacked, &limit.met].into_iter().for_each(halve);
        }
        add(&limit.met);
        if lacks {
            add(&limit.lacked);
        }
    }
}

impl Sample {
    /// What all threads saw under those rules.
    pub(super) fn of(doubts: &Doubts, edition: u64, limits: usize) -> Self {
        let mut all = Self { limits: vec![Meetings::default(); limits], ..Self::default() };
        let mut clients: Vec<(IpAddr, u64)> = Vec::new();
        for survey in locked(&doubts.surveys).iter().filter(|survey| survey.edition == edition) {
            all.asked += read(&survey.asked);
            all.told += read(&survey.told);
            let ([high, low], votes) = (&survey.candidate, read(&survey.votes));
            if votes > 0 {
                let client = address((read(high), read(low)));
                match clients.iter_mut().find(|(known, _)| *known == client) {
                    Some((_, sum)) => *sum += votes,
                    None => clients.push((client, votes)),
                }
            }
            for (sum, own) in all.limits.iter_mut().zip(&survey.limits) {
                sum.met += read(&own.met);
                sum.lacked += read(&own.lacked);
            }
        }
        all.client = clients.into_iter().max_by_key(|(_, votes)| *votes);
        all
    }
}

fn bits(address: IpAddr) -> (u64, u64) {
    let bits = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    };
    let [a, b, c, d, e, f, g, h, rest @ ..] = bits.to_be_bytes();
    (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes(rest))
}

fn address((high, low): (u64, u64)) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low))).to_canonical()
}

fn read(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

fn write(count: &AtomicU64, value: u64) {
    count.store(value, Ordering::Relaxed);
}

/// Only one thread writes, so no operation has to be one.
fn add(count: &AtomicU64) {
    write(count, read(count).wrapping_add(1));
}

fn halve(count: &AtomicU64) {
    write(count, read(count) / 2);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(survey: Survey) -> Sample {
        let doubts = Doubts::default();
        let (edition, limits) = (survey.edition, survey.limits.len());
        locked(&doubts.surveys).push(Arc::new(survey));
        Sample::of(&doubts, edition, limits)
    }

    #[test]
    fn who_sends_nearly_all_is_found_and_never_overstated() {
        let (one, others) = (IpAddr::from([10, 0, 0, 1]), |n: u8| IpAddr::from([10, 0, 1, n]));
        for (share, most) in [(10, 1.0), (9, 0.9), (5, 0.5)] {
            let survey = Survey::new(0, 0);
            for n in 0..u64::from(u16::MAX) {
                let other = others(u8::try_from(n % 251).unwrap());
                survey.request(Some(if n % 10 < share { one } else { other }));
            }
            let Sample { asked, told, client, .. } = sample(survey);
            let (client, votes) = client.unwrap_or((one, 0));
            let found = votes as f64 / asked as f64;
            assert_eq!(asked, told);
            assert!(asked <= RECENT && client == one || share == 5);
            assert!(found <= most + 0.01 && found >= 2.0 * most - 1.01, "{share}: {found}");
        }
    }

    #[test]
    fn what_is_long_ago_fades() {
        let survey = Survey::new(0, 1);
        (0..RECENT).for_each(|_| survey.met(0, true));
        assert_eq!(sample_of(&survey), 1.0);
        (0..8 * RECENT).for_each(|_| survey.met(0, false));
        assert!(sample_of(&survey) < 0.01);
    }

    fn sample_of(survey: &Survey) -> f64 {
        read(&survey.limits[0].lacked) as f64 / read(&survey.limits[0].met) as f64
    }

    #[test]
    fn addresses_survive_their_bits() {
        for text in ["0.0.0.0", "10.1.2.3", "::1", "2001:db8::9", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            let known: IpAddr = text.parse().unwrap();
            assert_eq!(address(bits(known)), known);
        }
    }
}
