//! Replicas and a store in one thread; time jumps to the next event. Everything follows from the seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use fastrand::Rng;
use ratelimit_core::algorithm::{Gcra, Op};
use ratelimit_core::{Limit, Nanos, Rate};
use ratelimit_redis::lease::grant::{Grant, Level, grant};
use ratelimit_redis::lease::{
    Answer, Arrivals, Ask, Given, Kind, Lease, Policy, Reply, Spent, Step, Terms, Ticks,
};

use crate::judge::Judge;
use crate::share::{self, Share};

pub const MICRO: u64 = 1000;
pub const MILLI: u64 = 1_000_000;
pub const SECOND: u64 = 1_000_000_000;
/// Ticks of the token bucket's in a microsecond.
const BUCKET_TICKS: u128 = 1_024_000;
/// The store's clock at the beginning.
const ORIGIN: u64 = 1_000_000 * SECOND;

/// A quota whose T is whole microseconds, so that both kinds of ticks hold it exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Microseconds in which one unit comes back.
    pub interval: u64,
    pub burst: u32,
}

impl Quota {
    pub fn per_second(rate: u64, burst: u32) -> Self {
        assert_eq!(1_000_000 % rate, 0, "T must be whole microseconds");
        Self { interval: 1_000_000 / rate, burst }
    }

    pub fn terms(self) -> Terms {
        let unit = Ticks::from_micros(self.interval);
        let span = self.interval * u64::from(self.burst);
        Terms { kind: Kind::Bucket, unit, capacity: self.burst, span, lapses: span, rate: None }
    }

    pub fn nanos(self) -> u64 {
        self.interval * MICRO
    }

    pub fn refill(self) -> u64 {
        self.nanos() * u64::from(self.burst)
    }

    pub fn limit(self) -> Limit {
        let fits = |seconds: &&u64| (*seconds * 1_000_000).is_multiple_of(self.interval);
        let seconds = [1, 60, 86_400].iter().find(fits).unwrap();
        let count = u32::try_from(seconds * 1_000_000 / self.interval).unwrap();
        let rate = Rate::new(count, std::time::Duration::from_secs(*seconds)).unwrap();
        Limit::new("simulated", rate).burst(self.burst)
    }

    pub fn bucket(self) -> Gcra {
        Gcra::new(1, Nanos::new(self.nanos()), self.burst, 0).unwrap()
    }
}

/// A request that comes in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub at: u64,
    pub replica: usize,
    pub key: u32,
    pub units: u32,
}

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// A replica ends and begins anew, knowing nothing.
    Kill(usize),
    /// A replica's machine sleeps for so long; its monotonic clock sleeps too.
    Suspend(usize, u64),
    /// A replica and the store don't hear each other for so long.
    CutOff(usize, u64),
    /// The store's clock is set, by so many microseconds.
    Step(i64),
    /// The store forgets everything.
    Lose,
    /// A replica learns of another quota.
    Requote(usize, Quota),
}

/// What the network does. Times are nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    pub delay: (u64, u64),
    /// In thousandths.
    pub lost: u32,
    pub doubled: u32,
    /// Delayed until long after anybody waits for it.
    pub late: u32,
}

impl Default for Network {
    fn default() -> Self {
        Self { delay: (100 * MICRO, 400 * MICRO), lost: 0, doubled: 0, late: 0 }
    }
}

pub struct Setup {
    pub quota: Quota,
    pub replicas: usize,
    pub policy: Policy,
    pub network: Network,
    pub faults: Vec<(u64, Fault)>,
    /// Replicas' clocks run faster or slower by up to so many parts in a million.
    pub drift: i64,
    /// Of a thousand requests that are admitted out of leases, so many turn out not to be after all.
    pub undone: u32,
    /// Whether replicas notice that they slept.
    pub notices_sleep: bool,
    /// Whether replicas that can't reach the store decide by their share; otherwise their requests fail.
    pub local: bool,
    pub seed: u64,
}

impl Setup {
    pub fn new(quota: Quota, replicas: usize, seed: u64) -> Self {
        Self {
            quota,
            replicas,
            policy: Policy::default(),
            network: Network::default(),
            faults: Vec::new(),
            drift: 200,
            undone: 0,
            notices_sleep: true,
            local: false,
            seed,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Question {
    Take { call: u64, units: u32 },
    Lease(Ask),
}

#[derive(Clone, Copy, Debug)]
enum Said {
    Took { call: u64, at: u64, wait: Option<Nanos> },
    Lease(u64, Reply),
}

#[derive(Clone, Copy, Debug)]
enum Event {
    ToStore(usize, u32, u32, Question, Quota),
    ToReplica(usize, u32, u32, Said),
    /// Nobody waits for an answer any longer.
    GiveUp(usize, u32, u32, Question),
    Wake(usize),
    /// A replica that was cut off uses the store again.
    Rejoin(usize, u64),
    PutBack(usize, u32, u32, Spent, u32),
    Fault(Fault),
}

#[derive(Clone, Copy, Debug)]
struct Call {
    sent: Nanos,
    units: u32,
}

struct Replica {
    /// Counts restarts; what was addressed to an earlier life is not for this one.
    life: u32,
    quota: Quota,
    leases: HashMap<u32, Lease>,
    waiting: HashMap<u32, Vec<u32>>,
    calls: HashMap<u64, Call>,
    drift: i64,
    slept: u64,
    sleeps_until: u64,
    cut_off_until: u64,
    held_back: Vec<Event>,
    share: Share,
}

impl Replica {
    fn clock(&self, now: u64) -> Nanos {
        let awake = i128::from(now.saturating_sub(self.slept));
        Nanos::new(u64::try_from(awake + awake * i128::from(self.drift) / 1_000_000).unwrap() + 5 * SECOND)
    }
}

/// How long a replica waits for an answer.
const DEADLINE: u64 = 50 * MILLI;

pub struct World {
    setup: Setup,
    rng: Rng,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    pending: HashMap<u64, Event>,
    numbers: u64,
    replicas: Vec<Replica>,
    buckets: HashMap<u32, u128>,
    step: i64,
    pub judges: HashMap<u32, Judge>,
    pub seen: Seen,
}

/// What is counted.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub requests: u64,
    pub calls: u64,
    pub admitted: u64,
    pub denied: u64,
    pub failed: u64,
    /// Decided by a replica's share, without the store.
    pub alone: u64,
    /// Of the calls: strict ones, leases for a request, and refreshes; admitted and refused.
    pub kinds: [[u64; 2]; 3],
    pub held: f64,
    /// Most that lay with others while one might look for it.
    pub elsewhere: u32,
    pub samples: u64,
}

impl World {
    pub fn new(setup: Setup) -> Self {
        let mut rng = Rng::with_seed(setup.seed);
        let replica = |drift| Replica {
            life: 0,
            quota: setup.quota,
            leases: HashMap::new(),
            waiting: HashMap::new(),
            calls: HashMap::new(),
            drift,
            slept: 0,
            sleeps_until: 0,
            cut_off_until: 0,
            held_back: Vec::new(),
            share: Share::default(),
        };
        let replicas = (0..setup.replicas).map(|_| replica(rng.i64(-setup.drift..=setup.drift))).collect();
        let faults = setup.faults.clone();
        let mut world = Self {
            setup,
            rng,
            now: 0,
            events: BinaryHeap::new(),
            pending: HashMap::new(),
            numbers: 0,
            replicas,
            buckets: HashMap::new(),
            step: 0,
            judges: HashMap::new(),
            seen: Seen::default(),
        };
        for (at, fault) in faults {
            world.schedule(at, Event::Fault(fault));
        }
        world
    }

    /// Lets all arrivals come in, and everything that follows from them happen.
    pub fn run(mut self, arrivals: &[Arrival]) -> Self {
        for arrival in arrivals {
            self.until(arrival.at);
            self.now = arrival.at;
            self.arrive(*arrival);
        }
        self.until(u64::MAX);
        self
    }

    fn until(&mut self, end: u64) {
        while let Some(&Reverse((at, number))) = self.events.peek() {
            if at > end {
                return;
            }
            self.events.pop();
            self.now = at;
            let event = self.pending.remove(&number).unwrap();
            self.happen(event);
        }
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.numbers += 1;
        self.pending.insert(self.numbers, event);
        self.events.push(Reverse((at, self.numbers)));
    }

    fn arrive(&mut self, arrival: Arrival) {
        let replica = &mut self.replicas[arrival.replica];
        if replica.sleeps_until > self.now {
            return;
        }
        self.seen.requests += 1;
        let now = replica.clock(self.now);
        let (terms, policy) = (replica.quota.terms(), self.setup.policy);
        let step = match replica.leases.get_mut(&arrival.key) {
            Some(lease) => lease.arrive(now, arrival.units, &terms, &policy),
            None => {
                let lease = Lease::new(terms, Arrivals::beginning(now, Default::default()));
                replica.leases.entry(arrival.key).or_insert(lease).again(now, arrival.units, &terms, &policy)
            }
        };
        self.follow(arrival.replica, arrival.key, arrival.units, step);
        if self.seen.requests.is_multiple_of(16) {
            let held = |replica: &Replica| {
                replica.leases.get(&arrival.key).map_or(0, |lease| lease.held(replica.clock(self.now)))
            };
            let each: Vec<u32> = self.replicas.iter().map(held).collect();
            let held: u32 = each.iter().sum();
            let elsewhere = held - each.iter().min().unwrap();
            self.seen.elsewhere = self.seen.elsewhere.max(elsewhere);
            self.seen.held += f64::from(held) / f64::from(self.setup.quota.burst);
            self.seen.samples += 1;
        }
    }

    fn follow(&mut self, number: usize, key: u32, units: u32, step: Step) {
        match step {
            Step::Spent(spent) => {
                if self.rng.u32(0..1000) < self.setup.undone {
                    self.seen.denied += 1;
                    let (life, epoch) = {
                        let replica = &self.replicas[number];
                        (replica.life, replica.leases[&key].epoch())
                    };
                    let after = self.rng.u64(0..10 * MILLI);
                    self.schedule(self.now + after, Event::PutBack(number, life, key, spent, epoch));
                } else {
                    self.admit(key, self.now, units);
                }
                let replica = &mut self.replicas[number];
                let now = replica.clock(self.now);
                let ask =
                    replica.leases.get_mut(&key).and_then(|lease| lease.refresh(now, &self.setup.policy));
                if let Some(ask) = ask {
                    self.send(number, key, Question::Lease(ask));
                }
            }
            Step::Denied(_) => self.seen.denied += 1,
            Step::Ask(ask) if self.replicas[number].share.is_alone() => {
                if let Some(lease) = self.replicas[number].leases.get_mut(&key) {
                    lease.unanswered(ask.flight);
                }
                self.decide_alone(number, key, units);
            }
            Step::Strict if self.replicas[number].share.is_alone() => self.decide_alone(number, key, units),
            Step::Wait => self.replicas[number].waiting.entry(key).or_default().push(units),
            Step::Ask(ask) => self.send(number, key, Question::Lease(ask)),
            Step::Strict => {
                self.numbers += 1;
                let call = self.numbers;
                let replica = &mut self.replicas[number];
                let sent = replica.clock(self.now);
                replica.calls.insert(call, Call { sent, units });
                self.send(number, key, Question::Take { call, units });
            }
        }
    }

    /// The store did not answer somebody.
    fn failed(&mut self, number: usize, key: u32, units: u32) {
        if !self.setup.local {
            self.seen.failed += 1;
            return;
        }
        let until = self.replicas[number].cut_off_until;
        if self.replicas[number].share.failed(self.now) {
            // Probes find out once it is back, and some time later all have.
            let back = until.max(self.now) + self.rng.u64(0..=share::LONGEST_PAUSE) + share::OVERLAP;
            self.schedule(back, Event::Rejoin(number, self.now));
        }
        self.decide_alone(number, key, units);
    }

    fn decide_alone(&mut self, number: usize, key: u32, units: u32) {
        let (now, quota, replicas) = (self.now, self.setup.quota, self.setup.replicas as u32);
        self.seen.alone += 1;
        if self.replicas[number].share.take(key, now, quota, replicas, units) {
            self.admit(key, now, units);
        } else {
            self.seen.denied += 1;
        }
    }

    fn admit(&mut self, key: u32, at: u64, units: u32) {
        self.seen.admitted += 1;
        self.judges.entry(key).or_default().admit(at, units);
    }

    fn send(&mut self, number: usize, key: u32, question: Question) {
        self.seen.calls += 1;
        let replica = &self.replicas[number];
        let (life, quota) = (replica.life, replica.quota);
        let cut_off = replica.cut_off_until > self.now;
        self.schedule(self.now + DEADLINE, Event::GiveUp(number, life, key, question));
        if !cut_off {
            self.transmit(Event::ToStore(number, life, key, question, quota));
        }
    }

    fn transmit(&mut self, event: Event) {
        let Network { delay, lost, doubled, late } = self.setup.network;
        if self.rng.u32(0..1000) < lost {
            return;
        }
        let copies = 1 + u32::from(self.rng.u32(0..1000) < doubled);
        for _ in 0..copies {
            let mut after = self.rng.u64(delay.0..=delay.1);
            if self.rng.u32(0..1000) < late {
                after += self.rng.u64(0..4 * DEADLINE);
            }
            self.schedule(self.now + after, event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToStore(number, life, key, question, quota) => {
                let said = self.store(key, question, quota);
                if self.replicas[number].cut_off_until <= self.now {
                    self.transmit(Event::ToReplica(number, life, key, said));
                }
            }
            Event::ToReplica(number, life, ..)
            | Event::GiveUp(number, life, ..)
            | Event::PutBack(number, life, ..)
                if self.replicas[number].life != life => {}
            Event::ToReplica(number, ..) | Event::GiveUp(number, ..) | Event::PutBack(number, ..)
                if self.replicas[number].sleeps_until > self.now =>
            {
                self.replicas[number].held_back.push(event);
            }
            Event::ToReplica(number, _, key, said) => self.hear(number, key, said),
            Event::GiveUp(number, _, key, Question::Take { call, .. }) => {
                if let Some(call) = self.replicas[number].calls.remove(&call) {
                    self.failed(number, key, call.units);
                }
            }
            Event::GiveUp(number, _, key, Question::Lease(ask)) => {
                let lease = self.replicas[number].leases.get_mut(&key).unwrap();
                let waits = lease.asking().is_some_and(|asked| asked.flight == ask.flight);
                lease.unanswered(ask.flight);
                if waits {
                    if ask.units > 0 {
                        self.failed(number, key, ask.units);
                    }
                    self.retry(number, key);
                }
            }
            Event::PutBack(number, _, key, spent, epoch) => {
                let replica = &mut self.replicas[number];
                let now = replica.clock(self.now);
                if let Some(lease) = replica.leases.get_mut(&key) {
                    lease.put_back(spent, epoch, now);
                }
            }
            Event::Wake(number) => {
                let replica = &mut self.replicas[number];
                if self.setup.notices_sleep {
                    replica.leases.values_mut().for_each(Lease::forget);
                }
                let keys: Vec<u32> = replica.waiting.keys().copied().collect();
                for event in std::mem::take(&mut replica.held_back) {
                    self.happen(event);
                }
                for key in keys {
                    self.retry(number, key);
                }
            }
            Event::Rejoin(number, since) => {
                let (now, until, quota) = (self.now, self.replicas[number].cut_off_until, self.setup.quota);
                if until > now {
                    self.schedule(until + share::OVERLAP, Event::Rejoin(number, since));
                    return;
                }
                // What was spent and has not come back is charged before the key is next decided.
                for (key, units) in self.replicas[number].share.rejoin(now, quota, self.setup.replicas as u32)
                {
                    let store_now = Nanos::new(self.store_micros() * MICRO);
                    let tat = self.buckets.entry(key).or_default();
                    let (after, _) = quota.bucket().step(*tat, store_now, Op::Debit(units));
                    *tat = after.unwrap_or(*tat);
                }
            }
            Event::Fault(fault) => self.fail(fault),
        }
    }

    fn hear(&mut self, number: usize, key: u32, said: Said) {
        let replica = &mut self.replicas[number];
        let now = replica.clock(self.now);
        match said {
            Said::Took { call, at, wait } => {
                replica.share.answered();
                let Some(call) = replica.calls.remove(&call) else { return };
                if let Some(wait) = wait {
                    self.seen.denied += 1;
                    if let Some(lease) = replica.leases.get_mut(&key) {
                        lease.refused(call.sent, now, call.units, wait);
                    }
                } else {
                    self.admit(key, at, call.units);
                }
            }
            Said::Lease(flight, reply) => {
                replica.share.answered();
                let Some(lease) = replica.leases.get_mut(&key) else { return };
                let units = lease.asking().map_or(0, |ask| ask.units);
                match lease.answered(flight, now, reply) {
                    // It was decided in the store, at the store's time: the beginning of that microsecond.
                    Answer::Admitted(_) if units > 0 => self.admit(key, self.unstep(reply.at), units),
                    Answer::Denied(_) if units > 0 => self.seen.denied += 1,
                    Answer::Admitted(_) | Answer::Denied(_) => {}
                    Answer::Ignored => return,
                }
                self.retry(number, key);
            }
        }
    }

    /// Those that waited begin again.
    fn retry(&mut self, number: usize, key: u32) {
        let waiting = self.replicas[number].waiting.remove(&key).unwrap_or_default();
        for units in waiting {
            let replica = &mut self.replicas[number];
            let now = replica.clock(self.now);
            let terms = replica.quota.terms();
            let Some(lease) = replica.leases.get_mut(&key) else { continue };
            let step = lease.again(now, units, &terms, &self.setup.policy);
            self.follow(number, key, units, step);
        }
    }

    /// What the store's clock says, in whole microseconds.
    fn store_micros(&self) -> u64 {
        u64::try_from(i64::try_from((ORIGIN + self.now) / MICRO).unwrap() + self.step).unwrap()
    }

    /// True time, rounded down to what the store's clock shows of it. Only right for the step it was said under;
    /// replies that a step overtakes are off by it, which the judge of such runs allows for.
    fn unstep(&self, micros: u64) -> u64 {
        let micros = i64::try_from(micros).unwrap() - self.step;
        (u64::try_from(micros).unwrap() * MICRO).saturating_sub(ORIGIN)
    }

    /// The real step of the token bucket, and the grant.
    fn store(&mut self, key: u32, question: Question, quota: Quota) -> Said {
        let at = self.store_micros();
        let now = Nanos::new(at * MICRO);
        let bucket = quota.bucket();
        let tat = self.buckets.entry(key).or_default();
        match question {
            Question::Take { call, units } => {
                let (after, outcome) = bucket.step(*tat, now, Op::Take(units));
                *tat = after.unwrap_or(*tat);
                self.seen.kinds[0][usize::from(!outcome.admitted)] += 1;
                Said::Took { call, at: self.unstep(at), wait: outcome.retry_after }
            }
            Question::Lease(ask) => {
                let ahead = tat.saturating_sub(u128::from(at) * BUCKET_TICKS) / BUCKET_TICKS;
                let cap = quota.interval * u64::from(quota.burst);
                let used = u64::try_from(ahead).unwrap().min(cap);
                let level =
                    Level { used: used as f64, cap: cap as f64, unit: quota.interval as f64, lapses: None };
                let given = match grant(level, ask.wish()) {
                    Grant::Units(units) => {
                        let (after, outcome) = bucket.step(*tat, now, Op::Take(units));
                        assert!(
                            outcome.admitted,
                            "a grant of {units} is no ordinary charge: {level:?} {ask:?}"
                        );
                        *tat = after.unwrap();
                        let used = *tat - u128::from(at) * BUCKET_TICKS;
                        let used = Ticks::from_micros(u64::try_from(used / BUCKET_TICKS).unwrap());
                        Given::Units { units, used, lapses: None }
                    }
                    Grant::Missing(micros) => Given::Refused(Nanos::new(micros.ceil() as u64 * MICRO)),
                };
                let kind = if ask.units > 0 { 1 } else { 2 };
                self.seen.kinds[kind][usize::from(matches!(given, Given::Refused(_)))] += 1;
                Said::Lease(ask.flight, Reply { at, given })
            }
        }
    }

    fn fail(&mut self, fault: Fault) {
        match fault {
            Fault::Kill(number) => {
                let replica = &mut self.replicas[number];
                replica.life += 1;
                replica.leases.clear();
                replica.waiting.clear();
                replica.calls.clear();
                replica.held_back.clear();
            }
            Fault::Suspend(number, length) => {
                // The clock stands still at once; that it sleeps for so long is known to nobody inside.
                let replica = &mut self.replicas[number];
                replica.sleeps_until = self.now + length;
                replica.slept += length;
                self.schedule(self.now + length, Event::Wake(number));
            }
            Fault::CutOff(number, length) => self.replicas[number].cut_off_until = self.now + length,
            Fault::Step(micros) => self.step += micros,
            Fault::Lose => self.buckets.clear(),
            Fault::Requote(number, quota) => self.replicas[number].quota = quota,
        }
    }
}
