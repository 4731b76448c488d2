//! [`Judge`]: recorded requests, one after the other, before the limits.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;

use futures_util::FutureExt as _;
use ratelimit_core::{Key, KeyBuf, Limit, ManualClock, MemoryStore, Nanos};
use smallvec::SmallVec;

use super::entry::{Entry, EntryError};
use super::need::Need;
use super::series::Series;
use crate::config::Config;
use crate::decide::{Admission, Hold, Ruling, decide};
use crate::exchange::admit;
use crate::facts::Facts;
use crate::policy::{Ending, Hit, Policy, Refusal};
use crate::telemetry::metrics::{Metrics, WorkerMetrics};

/// Requests of one second that are spread over it at most at a time.
const MOST_AT_ONCE: usize = 1 << 16;
/// Lines kept to show what was not understood.
const SHOWN: usize = 3;

/// The limits, a clock that the log drives, and what they said so far.
pub(crate) struct Judge {
    policy: Policy,
    store: MemoryStore<ManualClock>,
    clock: ManualClock,
    metrics: Arc<WorkerMetrics>,
    keys: KeyBuf,
    /// When the clock began, and what it shows.
    time: Option<(Nanos, Nanos)>,
    /// Requests whose time is known to the second, and which share it.
    waiting: Vec<Entry>,
    /// What requests under way hold, the next to end first.
    ends: BinaryHeap<Reverse<End>>,
    pub(super) seen: Seen,
}

/// What was seen.
pub(super) struct Seen {
    pub(super) requests: u64,
    pub(super) allowed: u64,
    pub(super) denied: u64,
    /// Cost more than a limit can hold.
    pub(super) never: u64,
    /// Would be refused as malformed, or ambiguous.
    pub(super) refused: u64,
    pub(super) exempt: u64,
    /// Met no limit.
    pub(super) free: u64,
    /// Came with a time before that of the line above.
    pub(super) backwards: u64,
    pub(super) without_duration: u64,
    pub(super) broken: BTreeMap<EntryError, u64>,
    pub(super) examples: Vec<(u64, String)>,
    pub(super) first: Nanos,
    pub(super) last: Nanos,
    pub(super) series: Series,
    pub(super) limits: Vec<SeenLimit>,
}

/// What was seen of one limit.
#[derive(Default)]
pub(super) struct SeenLimit {
    pub(super) matched: u64,
    pub(super) denied: u64,
    /// In shadow mode: would have been denied.
    pub(super) shadow: u64,
    pub(super) keys: HashMap<Box<[u8]>, SeenKey>,
}

/// What was seen of one key.
pub(super) struct SeenKey {
    pub(super) shown: String,
    pub(super) requests: u64,
    pub(super) denied: u64,
    pub(super) need: Need,
    /// With the quota that is in force for it.
    pub(super) limit: Limit,
}

/// What became of one request.
#[derive(Default)]
struct Fate {
    denied: bool,
    /// The limits that denied it.
    by: SmallVec<[usize; 4]>,
    holds: Vec<Hold>,
    flights: Vec<(usize, Box<[u8]>, u32)>,
}

impl Seen {
    /// Limits said no, or can't be asked, without looking at a counter.
    fn refusal(&mut self, refusal: &Refusal<'_>, fate: &mut Fate) {
        let Refusal::Denied(rules) = refusal else {
            self.refused += 1;
            return;
        };
        self.denied += 1;
        fate.denied = true;
        for (rule, _) in rules {
            if let Some(limit) = self.limits.get_mut(*rule) {
                limit.matched += 1;
                limit.denied += 1;
            }
            fate.by.push(*rule);
        }
    }
}

impl SeenLimit {
    /// A request was counted by it, or would have been but for another limit's "no".
    fn met(&mut self, hit: &Hit<'_>, key: Key<'_>, now: Nanos, lasts: bool, admitted: bool, fate: &mut Fate) {
        self.matched += 1;
        let known = self.keys.entry(key.to_vec().into()).or_insert_with(|| SeenKey {
            shown: key.to_string(),
            requests: 0,
            denied: 0,
            need: Need::new(hit.limit),
            limit: hit.limit.clone(),
        });
        known.requests += 1;
        known.need.ask(hit.limit, now, hit.cost);
        if hit.holds && lasts {
            fate.flights.push((hit.rule, key.to_vec().into(), hit.cost));
        } else {
            known.need.give_back(hit.cost);
        }
        if admitted {
            return;
        }
        known.denied += 1;
        if hit.limit.is_shadow() {
            self.shadow += 1;
        } else {
            self.denied += 1;
            fate.by.push(hit.rule);
        }
    }
}

/// The end of a request.
struct End {
    at: Nanos,
    holds: Vec<Hold>,
    ending: Ending,
    /// Permits that it would hold if nothing were denied: of that limit and key.
    flights: Vec<(usize, Box<[u8]>, u32)>,
}

impl PartialEq for End {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for End {}

impl PartialOrd for End {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for End {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl Judge {
    /// With the limits of a configuration, and counters that nothing was charged to.
    pub(crate) fn new(config: &Config) -> Self {
        let policy = Policy::of(config);
        let names: Vec<_> = policy.rules().iter().map(|rule| rule.limit.name()).collect();
        let metrics = Metrics::new(&names).worker();
        let clock = ManualClock::at(Nanos::ZERO);
        let limits = policy.rules().iter().map(|_| SeenLimit::default()).collect();
        let seen = Seen {
            requests: 0,
            allowed: 0,
            denied: 0,
            never: 0,
            refused: 0,
            exempt: 0,
            free: 0,
            backwards: 0,
            without_duration: 0,
            broken: BTreeMap::new(),
            examples: Vec::new(),
            first: Nanos::ZERO,
            last: Nanos::ZERO,
            series: Series::new(policy.rules().len()),
            limits,
        };
        Self {
            store: MemoryStore::with_clock(clock.clone()),
            policy,
            clock,
            metrics,
            keys: KeyBuf::new(),
            time: None,
            waiting: Vec::new(),
            ends: BinaryHeap::new(),
            seen,
        }
    }

    /// Its limits.
    pub(super) const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// A line that is no request; nothing else comes of it.
    pub(crate) fn broken(&mut self, number: u64, line: &[u8], error: EntryError) {
        *self.seen.broken.entry(error).or_default() += 1;
        if self.seen.examples.len() < SHOWN {
            let shown: String = line.escape_ascii().take(120).map(char::from).collect();
            self.seen.examples.push((number, shown));
        }
    }

    /// A request.
    pub(crate) fn entry(&mut self, entry: Entry) {
        let together = self.waiting.first().is_none_or(|first| first.time == entry.time);
        if !together || !entry.coarse || self.waiting.len() >= MOST_AT_ONCE {
            self.flush();
        }
        if entry.coarse {
            self.waiting.push(entry);
        } else {
            let time = entry.time;
            self.judge(&entry, time);
        }
    }

    /// The end of the log.
    pub(crate) fn end(&mut self) {
        self.flush();
    }

    /// Judges those that share a second, evenly spread over it: at one moment they never came.
    fn flush(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let step = 1_000_000_000 / u64::try_from(waiting.len().max(1)).unwrap_or(1);
        for (entry, number) in waiting.iter().zip(0..) {
            self.judge(entry, entry.time.saturating_add(Nanos::new(step * number)));
        }
        self.waiting = waiting;
        self.waiting.clear();
    }

    /// Sets the clock; it never goes back.
    fn set(&mut self, time: Nanos) -> Nanos {
        let (origin, last) = *self.time.get_or_insert((time, time));
        if time < last {
            self.seen.backwards += 1;
        }
        let now = time.max(last);
        self.time = Some((origin, now));
        self.clock.set_utc(now);
        self.clock.set_now(now.saturating_sub(origin));
        now
    }

    fn judge(&mut self, entry: &Entry, time: Nanos) {
        let now = self.set(time);
        while self.ends.peek().is_some_and(|end| end.0.at <= now) {
            if let Some(Reverse(end)) = self.ends.pop() {
                self.over(end);
            }
        }
        let seen = &mut self.seen;
        if seen.requests == 0 {
            seen.first = now;
        }
        seen.last = now;
        seen.requests += 1;
        seen.without_duration += u64::from(entry.duration.is_none());

        let Ok(inbound) = admit(&entry.head, self.policy.path_scoped()) else {
            seen.refused += 1;
            seen.series.add(now.whole_secs(), false, std::iter::empty());
            return;
        };
        let facts = inbound.facts(&entry.head, &self.policy, entry.client.to_canonical());
        let Fate { denied, by, mut holds, flights } = self.ask(&facts, now, entry.duration.is_some());
        self.seen.series.add(now.whole_secs(), denied, by.into_iter());
        if holds.is_empty() && flights.is_empty() {
            return;
        }
        holds.iter_mut().for_each(|hold| hold.hear(&entry.answer));
        let at = now.saturating_add(entry.duration.map_or(Nanos::ZERO, Nanos::from));
        let ending = Ending { status: entry.status, grpc: grpc(entry), complete: true };
        let end = End { at, holds, ending, flights };
        if entry.duration.is_some() {
            self.ends.push(Reverse(end));
        } else {
            self.over(end);
        }
    }

    /// Asks the limits. `lasts`: it is known for how long the request holds permits.
    fn ask(&mut self, facts: &Facts<'_>, now: Nanos, lasts: bool) -> Fate {
        let mut fate = Fate::default();
        self.keys.clear();
        let selection = match self.policy.select(facts, &mut self.keys) {
            Ok(selection) => selection,
            Err(refusal) => {
                self.seen.refusal(&refusal, &mut fate);
                return fate;
            }
        };
        if selection.exempt {
            self.seen.exempt += 1;
            return fate;
        }
        let deciding = decide(&self.store, &selection, &self.keys, &self.metrics);
        // Memory answers at once.
        let ruling = deciding.now_or_never().unwrap_or(Ruling::Undecided);
        fate.denied = !matches!(ruling, Ruling::Admit(_));
        let decision = match ruling {
            Ruling::Admit(Admission { decision, holds }) => {
                fate.holds = holds;
                let seen = &mut self.seen;
                *(if selection.hits.is_empty() { &mut seen.free } else { &mut seen.allowed }) += 1;
                decision
            }
            Ruling::Deny(decision) => {
                self.seen.denied += 1;
                Some(decision)
            }
            Ruling::Never(decision) => {
                self.seen.never += 1;
                Some(decision)
            }
            Ruling::Undecided => None,
        };
        let said = decision.iter().flat_map(|decision| decision.limits());
        for (hit, (_, outcome)) in selection.hits.iter().zip(said) {
            let Some(limit) = self.seen.limits.get_mut(hit.rule) else { continue };
            limit.met(hit, self.keys.slice(hit.key.clone()), now, lasts, outcome.admitted, &mut fate);
        }
        fate
    }

    /// A request is over: what it held is given back, or charged.
    fn over(&mut self, end: End) {
        let End { holds, ending, flights, .. } = end;
        for hold in holds {
            hold.settle(&ending, &self.store);
        }
        for (rule, key, units) in flights {
            if let Some(known) = self.seen.limits.get_mut(rule).and_then(|limit| limit.keys.get_mut(&key)) {
                known.need.give_back(units);
            }
        }
    }
}

fn grpc(entry: &Entry) -> Option<u16> {
    entry.answer.get("grpc-status")?.to_str().ok()?.parse().ok()
}
