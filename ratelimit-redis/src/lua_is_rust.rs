//! The script against the steps of `ratelimit_core::algorithm`, on random traces with a clock driven by hand,
//! forwards and back (rows 106 to 109): every outcome must be the same, to the nanosecond.

use std::collections::VecDeque;

use ratelimit_core::algorithm::{
    Concurrency, FixedWindow, Gcra, Op, Outcome, Program, Receipt, Ring, SlidingWindow,
};
use ratelimit_core::{Algorithm, KeyBuf, Limit, LimitSpec, Mode, Nanos, Period, Rate};
use redis_testkit::Server;
use smallvec::{SmallVec, smallvec};

use crate::batch::{Batch, Batcher, Context, Judged, Request, Said};
use crate::connection::ScriptCall;
use crate::keys::{Digest, Names};
use crate::lease::grant::{Grant, Level, grant};
use crate::lease::{self, Ask, Given, PerMicro, Ticks};
use crate::shape::{Kind, Shape};
use crate::wire::{Part, What};

/// Long ago enough for every step back, and late enough for the bucket's clock, which ends after 36 years.
const ORIGIN: u64 = 1_700_000_000_000_000;

/// The script with a clock in `ARGV[4]` instead of its own, and expiries that outlive the test.
fn driven() -> String {
    let script = crate::script::Script::decide();
    let text = script.text().replace(
        "local clock = call('TIME')\nlocal now = clock[1] * 1000000 + clock[2]",
        "local now = tonumber(ARGV[4])",
    );
    let text = text.replace("string.format('%d', milliseconds)", "'3600000'");
    assert_eq!(text.matches("ARGV[4]").count() + text.matches("'3600000'").count(), 2);
    text
}

/// A key in the oracle: the state and what steps it.
enum Oracle {
    Bucket(Gcra, u128),
    Sliding(SlidingWindow, Ring),
    Fixed(FixedWindow, u128),
    Permits(Concurrency, u128),
}

impl Oracle {
    fn new(limit: &Limit) -> Self {
        let spec = limit.spec();
        match (limit.program(), Shape::of(limit).kind) {
            // The store's own T, which is a whole number of nanoseconds in these tests.
            (Program::TokenBucket(_), Kind::Bucket { unit }) => {
                let unit = Nanos::new((unit * 1000.0) as u64);
                Self::Bucket(Gcra::new(1, unit, limit.capacity(), spec.debt).unwrap(), 0)
            }
            (Program::SlidingWindow(window), _) => Self::Sliding(*window, Ring::default()),
            (Program::FixedWindow(window), _) => Self::Fixed(window.clone(), 0),
            (Program::Concurrency(permits), _) => Self::Permits(*permits, 0),
            _ => unreachable!(),
        }
    }

    fn step(&mut self, micros: u64, op: Op) -> Outcome {
        let now = Nanos::new(micros * 1000);
        match self {
            Self::Bucket(bucket, tat) => {
                let (next, outcome) = bucket.step(*tat, Nanos::new((micros - ORIGIN) * 1000), op);
                *tat = next.unwrap_or(*tat);
                outcome
            }
            Self::Sliding(window, ring) => {
                let (next, outcome) = window.step(*ring, now, op);
                *ring = next.unwrap_or(*ring);
                outcome
            }
            Self::Fixed(window, state) => {
                let (next, outcome) = window.step(*state, now, op);
                *state = next.unwrap_or(*state);
                outcome
            }
            Self::Permits(permits, held) => {
                let (next, outcome) = permits.step(*held, op);
                *held = next.unwrap_or(*held);
                outcome
            }
        }
    }

    /// As `step`, without charging; a refusal may still store a cut.
    fn look(&mut self, micros: u64, op: Op) -> Outcome {
        match op {
            Op::Take(units) => self.step(micros, Op::Peek(units)),
            op => self.step(micros, op),
        }
    }
}

struct Subject {
    connection: redis::Connection,
    script: String,
    batcher: Batcher,
    names: Names,
    sequence: u64,
}

impl Subject {
    fn run(&mut self, requests: Vec<Request>, micros: u64) -> (Batch, Vec<Said>) {
        self.sequence += 1;
        let context = Context {
            names: &self.names,
            replica: *b"replica1",
            sequence: self.sequence,
            expiry: Nanos::from_secs(1_000_000_000),
            time: micros as f64,
        };
        let mut waiting = VecDeque::from(requests);
        let (batch, call) = self.batcher.next(&mut waiting, &context).unwrap();
        assert!(waiting.is_empty());
        let reply = self.send(&call, micros);
        let Judged::Answered { answers, time, .. } = batch.judge(&reply).unwrap() else { panic!("calendar") };
        assert_eq!(time, micros as f64);
        (batch, answers.into_iter().map(|answer| answer.unwrap()).collect())
    }

    fn send(&mut self, call: &ScriptCall, micros: u64) -> Vec<u8> {
        let keys: Vec<&[u8]> = call.keys.chunks_exact(call.key_length).collect();
        let mut command = redis::cmd("EVAL");
        command.arg(&self.script).arg(keys.len()).arg(keys);
        call.arguments.iter().for_each(|argument| {
            command.arg(argument.as_slice());
        });
        if call.arguments.len() == 2 {
            command.arg("");
        }
        command.arg(micros).query(&mut self.connection).unwrap()
    }
}

fn random_limit(random: &mut fastrand::Rng, number: usize) -> Limit {
    let name = format!("l{number}");
    let mode = if random.u8(..8) == 0 { Mode::Shadow } else { Mode::Enforce };
    let debt = if random.bool() { 0 } else { random.u32(1..20) };
    let pick = |random: &mut fastrand::Rng, of: &[u32]| of[random.usize(..of.len())];
    let spec = match random.u8(..9) {
        0..4 => {
            let period = pick(random, &[1, 3, 60, 3600]);
            let rate = Rate::new(pick(random, &[1, 3, 7, 30, 60, 100, 1000]), secs(period)).unwrap();
            LimitSpec { burst: Some(pick(random, &[1, 3, 10, 100])), debt, ..LimitSpec::new(name, rate) }
        }
        4..6 => {
            let rate = Rate::new(random.u32(1..30), secs(pick(random, &[1, 2, 10, 60]))).unwrap();
            LimitSpec { algorithm: Algorithm::SlidingWindow, debt, ..LimitSpec::new(name, rate) }
        }
        6 | 7 => {
            let period = pick(random, &[1, 5, 7, 60, 3600, 86_400, 604_800]);
            let rate = Rate::new(random.u32(1..30), secs(period)).unwrap();
            let zone = random.u8(..3) == 0;
            let rate = if zone && random.bool() { Rate::per_month(5).unwrap() } else { rate };
            let zone = zone.then(|| "Europe/Berlin".to_owned());
            LimitSpec {
                algorithm: Algorithm::FixedWindow,
                time_zone: zone,
                debt,
                ..LimitSpec::new(name, rate)
            }
        }
        _ => LimitSpec::concurrency(name, random.u32(1..6)),
    };
    Limit::try_from(LimitSpec { mode, ..spec }).unwrap()
}

fn secs(seconds: u32) -> std::time::Duration {
    std::time::Duration::from_secs(seconds.into())
}

fn random_op(random: &mut fastrand::Rng, limit: &Limit, receipts: &[(u32, Receipt, Receipt)]) -> (Op, Op) {
    let units = match random.u8(..8) {
        0 => 0,
        1 => limit.capacity().saturating_add(random.u32(..2)),
        _ => random.u32(1..4),
    };
    let same = |op| (op, op);
    let without_debit = limit.spec().rate.is_none();
    match random.u8(..20) {
        0 | 1 => same(Op::Peek(units)),
        2 if !without_debit => same(Op::Debit(units)),
        3 => same(Op::Refund(units, None)),
        4 | 5 if !receipts.is_empty() => {
            let (most, ours, theirs) = receipts[random.usize(..receipts.len())];
            let units = random.u32(..=most);
            (Op::Refund(units, Some(ours)), Op::Refund(units, Some(theirs)))
        }
        6 if random.u8(..4) == 0 => same(Op::Reset),
        _ => same(Op::Take(units)),
    }
}

struct Entry {
    limit: Limit,
    digest: Digest,
    oracle: Oracle,
    /// Of admitted takes: units, the script's receipt, the oracle's.
    receipts: Vec<(u32, Receipt, Receipt)>,
}

/// A request of a trace.
#[derive(Debug)]
enum Asked {
    Charges(Vec<(usize, Op, Op)>),
    Lease(usize, Ask),
}

fn random_ask(random: &mut fastrand::Rng, limit: &Limit) -> Ask {
    let rate = PerMicro::of(random.u64(0..200), Nanos::new(1 + random.u64(..2_000_000_000)));
    Ask {
        flight: 1,
        sent: Nanos::ZERO,
        units: random.u32(0..=limit.capacity().min(3)),
        rate,
        horizon: random.u64(1..10_000_000) >> random.u8(..10),
        patient: random.bool(),
    }
}

/// A lease is an ordinary charge, of as much as the reference says.
fn judge_lease(entry: &mut Entry, ask: &Ask, reply: &lease::Reply, micros: u64, place: &str) {
    assert_eq!(reply.at, micros, "{place}");
    let (limit, wish) = (entry.limit.clone(), ask.wish());
    let shape = Shape::of(&limit);
    let before = entry.oracle.clone_state();
    let (found, wanted) =
        (entry.oracle.look(micros, Op::Peek(0)), entry.oracle.look(micros, Op::Peek(ask.units.max(1))));
    let is_bucket = matches!(shape.kind, Kind::Bucket { .. });
    let used = match is_bucket {
        true => found.reset_after.get() as f64 / 1000.0,
        false => f64::from(limit.capacity() - found.remaining()),
    };
    let level = |lapses| Level { used, cap: shape.capacity, unit: shape.unit(), lapses };
    let Given::Units { units, used: after, lapses } = reply.given else {
        let Given::Refused(wait) = reply.given else { unreachable!() };
        let expected = match is_bucket {
            false => wanted.retry_after,
            true => match grant(level(None), wish) {
                Grant::Missing(missing) => Some(Nanos::new((missing * 1000.0).ceil() as u64)),
                Grant::Units(units) => panic!("{place}: {units} are there"),
            },
        };
        assert_eq!(Some(wait), expected, "{place}\n{limit:?}");
        return;
    };
    entry.oracle.restore(before);
    let taken = entry.oracle.step(micros, Op::Take(units));
    assert!(taken.admitted, "{place}: {units} are no ordinary charge of {limit:?}");
    let recovers = micros + taken.reset_after.get() / 1000;
    let expected = match shape.kind {
        Kind::Bucket { .. } => None,
        // The current cell leaves ten cells after its end.
        Kind::Sliding { cell } => Some(recovers as f64 - 10.0 * cell),
        _ => Some(recovers as f64),
    };
    assert_eq!(lapses, expected.map(Ticks::from_script), "{place}\n{limit:?}");
    let left = expected.map(|end| end - micros as f64);
    assert_eq!(Grant::Units(units), grant(level(left), wish), "{place}\n{limit:?}");
    let used = match is_bucket {
        true => Ticks::from_script(taken.reset_after.get() as f64 / 1000.0),
        false => Ticks::from_micros((limit.capacity() - taken.remaining()).into()),
    };
    assert_eq!(after, used, "{place}\n{limit:?}");
}

fn trace(subject: &mut Subject, seed: u64) {
    let random = &mut fastrand::Rng::with_seed(seed);
    let mut micros = ORIGIN + 90_000_000_000_000 + random.u64(..100_000_000_000_000);
    let mut entries: Vec<Entry> = (0..8)
        .map(|number| {
            let limit = random_limit(random, number);
            let mut key = KeyBuf::new();
            key.push_u64(seed);
            let (digest, oracle) = (Digest::of(&limit, key.key()), Oracle::new(&limit));
            Entry { limit, digest, oracle, receipts: Vec::new() }
        })
        .collect();
    for step in 0..60 {
        if random.u8(..16) == 0 {
            settle(subject, &mut entries, micros);
            // Back by a little, by a minute, by an hour, by a day.
            micros -= [300_000, 50_000_000, 3_600_000_000, 86_400_000_000][random.usize(..4)];
        }
        let jump = [0, 1, 10, 1000, 50_000, 1_000_000, 10_000_000, 3_600_000_000][random.usize(..8)]
            * random.u64(..3);
        micros += jump;
        let mut requests = Vec::new();
        let mut asked: Vec<Asked> = Vec::new();
        for _ in 0..random.usize(1..10) {
            let at = random.usize(..entries.len());
            let Entry { limit, digest, .. } = &entries[at];
            if random.u8(..4) == 0 && limit.spec().rate.is_some() {
                let ask = random_ask(random, limit);
                let (shape, what) = (Shape::of(limit), What::Lease(ask.wish()));
                let part = Part { digest: *digest, limit: limit.clone(), shape, what };
                requests.push(Request { parts: smallvec![part], answer: None, again: false, alone: false });
                asked.push(Asked::Lease(at, ask));
                continue;
            }
            let mut order: Vec<usize> = (0..entries.len()).collect();
            random.shuffle(&mut order);
            let several = if random.bool() { 1 } else { random.usize(1..5) };
            let parts: Vec<(usize, Op, Op)> = order[..several]
                .iter()
                .map(|&at| {
                    let (ours, theirs) = random_op(random, &entries[at].limit, &entries[at].receipts);
                    (at, ours, theirs)
                })
                .collect();
            let part = |&(at, op, _): &(usize, Op, Op)| {
                let Entry { limit, digest, .. } = &entries[at];
                Part { digest: *digest, limit: limit.clone(), shape: Shape::of(limit), what: What::Do(op) }
            };
            requests.push(Request {
                parts: parts.iter().map(part).collect(),
                answer: None,
                again: false,
                alone: false,
            });
            asked.push(Asked::Charges(parts));
        }
        let (_, said) = subject.run(requests, micros);
        for (number, (asked, said)) in asked.iter().zip(said).enumerate() {
            let place = format!("seed {seed}, step {step}, request {number}: {asked:?}");
            match (asked, said) {
                (Asked::Charges(parts), Said::Verdict(verdict)) => {
                    judge(&mut entries, parts, &verdict, micros, &place);
                }
                (Asked::Lease(at, ask), Said::Lease(reply)) => {
                    judge_lease(&mut entries[*at], ask, &reply, micros, &place);
                }
                (_, said) => panic!("{place}: {said:?}"),
            }
        }
    }
}

/// Before the clock steps back. What time has given back already may come back or not when it does, as the script
/// does not write what did not change: so both sides write it now.
fn settle(subject: &mut Subject, entries: &mut [Entry], micros: u64) {
    let ops: Vec<Op> = entries
        .iter_mut()
        .map(|entry| {
            let recovered = entry.oracle.look(micros, Op::Peek(0)).reset_after == Nanos::ZERO;
            let op = if recovered && entry.limit.spec().rate.is_some() { Op::Reset } else { Op::Debit(0) };
            match op {
                // A sliding window leaves what it no longer counts where it is.
                Op::Reset => entry.oracle = Oracle::new(&entry.limit),
                op => drop(entry.oracle.step(micros, op)),
            }
            op
        })
        .collect();
    let part = |(entry, op): (&Entry, Op)| {
        let (digest, limit) = (entry.digest, entry.limit.clone());
        Part { digest, shape: Shape::of(&limit), limit, what: What::Do(op) }
    };
    let parts = entries.iter().zip(ops).map(part).collect();
    subject.run(vec![Request { parts, answer: None, again: false, alone: false }], micros);
}

/// What the oracle says to one request, and whether it is the same.
fn judge(
    entries: &mut [Entry],
    parts: &[(usize, Op, Op)],
    verdict: &ratelimit_core::store::Verdict,
    micros: u64,
    place: &str,
) {
    // Looking does not charge, but stores cuts, as a refusal does; do it on what is refused only.
    let admits = |entries: &mut [Entry], &(at, _, op): &(usize, Op, Op)| {
        let entry = &mut entries[at];
        let before = entry.oracle.clone_state();
        let admitted = entry.oracle.look(micros, op).admitted;
        entry.oracle.restore(before);
        admitted
    };
    let conditional = |part: &&(usize, Op, Op)| part.2.is_conditional();
    let admitted = parts
        .iter()
        .filter(conditional)
        .all(|part| entries[part.0].limit.is_shadow() || admits(entries, part));
    assert_eq!(verdict.admitted, admitted, "{place}");
    let expected: SmallVec<[Option<Outcome>; 4]> = parts
        .iter()
        .map(|&(at, _, op)| {
            let entry = &mut entries[at];
            match (op.is_conditional(), admitted) {
                (_, true) => Some(entry.oracle.step(micros, op)),
                (true, false) => Some(entry.oracle.look(micros, op)),
                (false, false) => None,
            }
        })
        .collect();
    for ((&(at, _, op), got), expected) in parts.iter().zip(&verdict.outcomes).zip(expected) {
        let Some(expected) = expected else { continue };
        let entry = &mut entries[at];
        let seen = |outcome: &Outcome| {
            (outcome.admitted, outcome.remaining(), outcome.reset_after, outcome.retry_after)
        };
        assert_eq!(seen(got), seen(&expected), "{place}\n{op:?} of {:?}", entry.limit);
        if op == Op::Reset {
            // A key that was reset is absent; a ring remembers the cell it was in.
            entry.oracle = Oracle::new(&entry.limit);
        }
        if let (Op::Take(units @ 1..), true, true) = (op, admitted, got.admitted) {
            entry.receipts.push((units, got.receipt, expected.receipt));
        }
    }
}

#[derive(Clone, Copy)]
enum State {
    Word(u128),
    Ring(Ring),
}

impl Oracle {
    fn clone_state(&self) -> State {
        match self {
            Self::Bucket(_, word) | Self::Fixed(_, word) | Self::Permits(_, word) => State::Word(*word),
            Self::Sliding(_, ring) => State::Ring(*ring),
        }
    }

    fn restore(&mut self, state: State) {
        match (self, state) {
            (Self::Bucket(_, word) | Self::Fixed(_, word) | Self::Permits(_, word), State::Word(old)) => {
                *word = old
            }
            (Self::Sliding(_, ring), State::Ring(old)) => *ring = old,
            _ => unreachable!(),
        }
    }
}

/// What a bucket has used is the same share of another one, whoever computes it: rounded up, by two microseconds.
#[test]
fn a_rescaled_bucket_keeps_its_share() {
    let server = Server::start();
    let mut subject = Subject {
        connection: server.connection(),
        script: driven(),
        batcher: Batcher::default(),
        names: Names::new("rl", "10"),
        sequence: 0,
    };
    let mut random = fastrand::Rng::with_seed(11);
    let micros = ORIGIN + 90_000_000_000_000;
    for number in 0..500_u64 {
        let limit = |random: &mut fastrand::Rng| {
            let period = [1, 60, 3600, 86_400][random.usize(..4)];
            let rate = Rate::new([1, 10, 100, 1000][random.usize(..4)], secs(period)).unwrap();
            let spec = LimitSpec { burst: Some([1, 7, 100][random.usize(..3)]), ..LimitSpec::new("l", rate) };
            Limit::try_from(spec).unwrap()
        };
        let (from, to) = (limit(&mut random), limit(&mut random));
        let units = random.u32(..=from.capacity());
        let mut key = KeyBuf::new();
        key.push_u64(number);
        let mut run = |limit: &Limit, op: Op| {
            let (digest, shape) = (Digest::of(limit, key.key()), Shape::of(limit));
            let part = Part { digest, limit: limit.clone(), shape, what: What::Do(op) };
            let request = Request { parts: smallvec![part], answer: None, again: false, alone: false };
            match subject.run(vec![request], micros).1.remove(0) {
                Said::Verdict(verdict) => verdict.outcomes[0],
                said => panic!("{said:?}"),
            }
        };
        let place = format!("{units} of {from:?} to {to:?}");
        run(&from, Op::Take(units));
        let (before, after) = (Oracle::new(&from), Oracle::new(&to));
        let (Oracle::Bucket(from, mut tat), Oracle::Bucket(bucket, _)) = (before, after) else {
            unreachable!()
        };
        let now = Nanos::new((micros - ORIGIN) * 1000);
        tat = from.step(tat, now, Op::Take(units)).0.unwrap_or(tat);
        let op = Op::Rescale(if number % 5 == 0 { Nanos::ZERO } else { from.refill() });
        let expected = bucket.step(tat, now, op).1.reset_after;
        let found = run(&to, op).reset_after;
        assert!(found >= expected && found.get() - expected.get() <= 2000, "{place}: {found:?} {expected:?}");
        // And it is written.
        let again = run(&to, Op::Peek(1)).reset_after;
        assert_eq!(again, found, "{place}");
    }
}

#[test]
fn the_script_does_what_the_steps_do() {
    let server = Server::start();
    let mut subject = Subject {
        connection: server.connection(),
        script: driven(),
        batcher: Batcher::default(),
        names: Names::new("rl", "10"),
        sequence: 0,
    };
    let first = 7_000;
    for seed in first..first + 300 {
        trace(&mut subject, seed);
    }
    let mut connection = server.connection();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    assert!(keys.len() > 1000);
    for key in keys {
        let ttl: i64 = redis::cmd("PTTL").arg(&key).query(&mut connection).unwrap();
        assert!(ttl > 0, "row 100: {key} has no expiry");
    }
}

/// The periods of this file's limits are in seconds or months, so that both sides see the same windows.
#[test]
fn random_limits_are_exact() {
    let mut random = fastrand::Rng::with_seed(1);
    for number in 0..1000 {
        let limit = random_limit(&mut random, number);
        if let Kind::Bucket { unit } = Shape::of(&limit).kind {
            assert_eq!((unit * 1000.0).fract(), 0.0, "{limit:?}");
        }
        assert!(limit.spec().rate.is_none_or(|rate| rate.period() != Period::Seconds(0)));
    }
}
