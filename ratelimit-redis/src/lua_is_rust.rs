//! The script against the steps of `ratelimit_core::algorithm`, on random traces with a clock driven by hand,
//! forwards and back (rows 106 to 109): every outcome must be the same, to the nanosecond.

mod oracle;
mod random;

use std::collections::VecDeque;
use std::sync::Arc;

use ratelimit_core::algorithm::{Op, Outcome, Receipt};
use ratelimit_core::{KeyBuf, Limit, LimitSpec, Nanos, Period, Rate};
use redis_testkit::Server;
use smallvec::{SmallVec, smallvec};

use self::oracle::Oracle;
use self::random::{random_ask, random_limit, random_op, secs};
use crate::batch::{Batch, Batcher, Context, Judged, Request, Said};
use crate::connection::ScriptCall;
use crate::keys::{Digest, Names};
use crate::lease::grant::{Grant, Level, grant};
use crate::lease::{self, Ask, Given, Ticks};
use crate::script::Script;
use crate::shape::{Kind, Shape};
use crate::wire::{Part, What};

/// Long ago enough for every step back, and late enough for the bucket's clock, which ends after 36 years.
const ORIGIN: u64 = 1_700_000_000_000_000;

/// The script with a clock in `ARGV[4]` instead of its own, and expiries that outlive the test.
fn driven(script: &Script) -> String {
    let text = script.text().replace(
        "local clock = call('TIME')\nlocal now = clock[1] * 1000000 + clock[2]",
        "local now = tonumber(ARGV[4])",
    );
    let text = text.replace("string.format('%d', milliseconds)", "'3600000'");
    assert_eq!(text.matches("ARGV[4]").count() + text.matches("'3600000'").count(), 2);
    text
}

struct Subject {
    connection: redis::Connection,
    decide: String,
    takes: String,
    /// Batches that the shorter one decided.
    short: usize,
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
        self.short += usize::from(batch.is_takes);
        let reply = self.send(&batch, &call, micros);
        let Judged::Answered { answers, time, .. } = batch.judge(&reply).unwrap() else { panic!("calendar") };
        assert_eq!(time, micros as f64);
        (batch, answers.into_iter().map(|answer| answer.unwrap()).collect())
    }

    fn send(&mut self, batch: &Batch, call: &ScriptCall, micros: u64) -> Vec<u8> {
        let script = if batch.is_takes { &self.takes } else { &self.decide };
        let keys: Vec<&[u8]> = call.keys.chunks_exact(call.key_length).collect();
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(keys.len()).arg(keys);
        call.arguments.iter().for_each(|argument| {
            command.arg(argument.as_slice());
        });
        if call.arguments.len() == 2 {
            command.arg("");
        }
        command.arg(micros).query(&mut self.connection).unwrap()
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
        let asked =
            if random.u8(..3) == 0 { only_takes(random, &entries) } else { anything(random, &entries) };
        if asked.is_empty() {
            continue;
        }
        let requests = asked.iter().map(|asked| request(&entries, asked)).collect();
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

/// Requests of any kind.
fn anything(random: &mut fastrand::Rng, entries: &[Entry]) -> Vec<Asked> {
    let mut any = || {
        let at = random.usize(..entries.len());
        let limit = &entries[at].limit;
        if random.u8(..4) == 0 && limit.spec().rate.is_some() {
            return Asked::Lease(at, random_ask(random, limit));
        }
        let mut order: Vec<usize> = (0..entries.len()).collect();
        random.shuffle(&mut order);
        let several = if random.bool() { 1 } else { random.usize(1..5) };
        let charge = |&at: &usize| {
            let (ours, theirs) = random_op(random, &entries[at].limit, &entries[at].receipts);
            (at, ours, theirs)
        };
        Asked::Charges(order[..several].iter().map(charge).collect())
    };
    (0..1 + entries.len()).map(|_| any()).collect()
}

/// Takes from buckets, no bucket twice: what the shorter script decides.
fn only_takes(random: &mut fastrand::Rng, entries: &[Entry]) -> Vec<Asked> {
    let is_bucket = |at: &usize| {
        let limit = &entries[*at].limit;
        matches!(Shape::of(limit).kind, Kind::Bucket { .. }) && !limit.is_shadow()
    };
    let mut order: Vec<usize> = (0..entries.len()).filter(is_bucket).collect();
    random.shuffle(&mut order);
    let charge = |&at: &usize| {
        let most = entries[at].limit.capacity().saturating_add(1);
        let units = if random.u8(..8) == 0 { most } else { random.u32(1..4) };
        (at, Op::Take(units), Op::Take(units))
    };
    let charges: Vec<_> = order.iter().map(charge).collect();
    charges.chunks(random.usize(1..4)).map(|some| Asked::Charges(some.to_vec())).collect()
}

fn request(entries: &[Entry], asked: &Asked) -> Request {
    let part = |at: usize, what: What| {
        let Entry { limit, digest, .. } = &entries[at];
        Part { digest: *digest, limit: limit.clone(), shape: Shape::of(limit), what }
    };
    let parts = match asked {
        Asked::Lease(at, ask) => smallvec![part(*at, What::Lease(ask.wish()))],
        Asked::Charges(parts) => parts.iter().map(|&(at, op, _)| part(at, What::Do(op))).collect(),
    };
    Request { parts: Arc::new(parts), answer: None, again: false, alone: false }
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
    let parts = Arc::new(entries.iter().zip(ops).map(part).collect());
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

fn subject(server: &Server) -> Subject {
    Subject {
        connection: server.connection(),
        decide: driven(&Script::decide()),
        takes: driven(&Script::takes()),
        short: 0,
        batcher: Batcher::default(),
        names: Names::new("rl", "10"),
        sequence: 0,
    }
}

/// What a bucket has used is the same share of another one, whoever computes it: rounded up, by two microseconds.
#[test]
fn a_rescaled_bucket_keeps_its_share() {
    let server = Server::start();
    let mut subject = subject(&server);
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
            let request =
                Request { parts: Arc::new(smallvec![part]), answer: None, again: false, alone: false };
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
    let mut subject = subject(&server);
    let first = 7_000;
    for seed in first..first + 300 {
        trace(&mut subject, seed);
    }
    assert!(subject.short > 3000, "{} batches for the shorter script", subject.short);
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

/// Under leases a charge is undone only while it is the last: what lies behind it may be somebody's lease.
#[test]
fn an_undo_moves_nothing_that_lies_behind_it() {
    let server = Server::start();
    let mut subject = subject(&server);
    let limit = Limit::new("l", Rate::per_second(1)).burst(10);
    let mut key = KeyBuf::new();
    key.push_u64(1);
    let mut run = |what, micros| {
        let (digest, shape) = (Digest::of(&limit, key.key()), Shape::of(&limit));
        let parts = Arc::new(smallvec![Part { digest, limit: limit.clone(), shape, what }]);
        let request = Request { parts, answer: None, again: false, alone: false };
        let (_, mut said) = subject.run(vec![request], ORIGIN + micros);
        said.pop().unwrap().verdict().unwrap().outcomes[0]
    };
    let first = run(What::Do(Op::Take(3)), 0);
    assert_eq!(
        run(What::Undo(3, first.receipt), 1_000_000).remaining(),
        10,
        "what time has given back stays"
    );
    let first = run(What::Do(Op::Take(3)), 2_000_000);
    let second = run(What::Do(Op::Take(2)), 2_000_000);
    assert_eq!(run(What::Undo(3, first.receipt), 2_000_000).remaining(), 5);
    assert_eq!(run(What::Undo(2, second.receipt), 2_500_000).remaining(), 7);
}
