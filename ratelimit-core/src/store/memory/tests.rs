//! The store against a reference that could not be simpler: a map from keys to states behind one lock.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::time::Duration;

use proptest::prelude::*;

use super::kind::Kind;
use super::segment::Segment;
use super::slot::Word;
use super::table;
use super::*;
use crate::algorithm::{Program, Ring};
use crate::key::{AsKey, KeyBuf};
use crate::limit::Algorithm;
use crate::time::ManualClock;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct State(u128, Ring);

/// Steps of the same algorithms, over a map.
#[derive(Default)]
struct Reference(HashMap<(String, Vec<u8>), State>);

impl Reference {
    fn step(state: State, at: Moment, limit: &Limit, op: Op) -> (State, Outcome) {
        let word =
            |(next, outcome): (Option<u128>, Outcome)| (State(next.unwrap_or(state.0), state.1), outcome);
        match limit.program() {
            Program::TokenBucket(program) => word(program.step(state.0, at.now, op)),
            Program::FixedWindow(program) => word(program.step(state.0, at.utc, op)),
            Program::Concurrency(program) => word(program.step(state.0, op)),
            Program::SlidingWindow(program) => {
                let (next, outcome) = program.step(state.1, at.now, op);
                (State(state.0, next.unwrap_or(state.1)), outcome)
            }
        }
    }

    fn decide(&mut self, at: Moment, charges: &[Charge<'_>]) -> (bool, Vec<bool>) {
        let mut after = self.0.clone();
        let mut said = Vec::new();
        for charge in charges {
            let state = after.entry((charge.limit.name().to_owned(), charge.key.to_vec())).or_default();
            let (next, outcome) = Self::step(*state, at, charge.limit, charge.op);
            *state = next;
            said.push(outcome.admitted);
        }
        let admitted = said.iter().zip(charges).all(|(said, charge)| *said || charge.limit.is_shadow());
        if admitted {
            self.0 = after;
        }
        (admitted, said)
    }
}

fn limits() -> Vec<Limit> {
    vec![
        Limit::new("bucket", "5/s".parse().unwrap()).burst(7).debt(3),
        Limit::new("sliding", "6/2s".parse().unwrap()).algorithm(Algorithm::SlidingWindow).debt(2),
        Limit::new("fixed", "9/3s".parse().unwrap()).algorithm(Algorithm::FixedWindow),
        Limit::concurrency("at-once", 4),
        Limit::new("watched", "1/s".parse().unwrap()).shadow(),
    ]
}

#[derive(Clone, Debug)]
struct Step {
    wait: u64,
    op: u8,
    units: u32,
    /// Limit and key of each charge; limits differ within a step.
    of: Vec<(usize, u8)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let of = prop::collection::btree_map(0..5_usize, 0..3_u8, 1..4).prop_map(|of| of.into_iter().collect());
    let step =
        (0..900_u64, 0..8_u8, 0..4_u32, of).prop_map(|(wait, op, units, of)| Step { wait, op, units, of });
    prop::collection::vec(step, 1..120)
}

proptest! {
    #[test]
    fn decides_as_a_map_behind_a_lock_would(steps in steps()) {
        let clock = ManualClock::default();
        let store = MemoryStore::with_clock(clock.clone());
        let mut reference = Reference::default();
        let limits = limits();
        let keys: Vec<KeyBuf> = (0..3_u8).map(|key| { let mut buffer = KeyBuf::new(); key.encode(&mut buffer); buffer }).collect();
        for step in steps {
            clock.advance(Duration::from_millis(step.wait));
            let op = match step.op {
                0 => Op::Peek(step.units),
                1 => Op::Debit(step.units),
                2 => Op::Refund(step.units, None),
                3 if step.units == 3 => Op::Reset,
                3 if step.units == 2 => Op::Rescale(Nanos::from_secs(3)),
                _ => Op::Take(step.units),
            };
            let charges: Vec<_> = step.of.iter()
                .map(|&(limit, key)| Charge { limit: &limits[limit], key: keys[usize::from(key)].key(), op })
                .collect();
            let verdict = store.decide_now(&charges);
            let (admitted, said) = reference.decide(store.moment(true), &charges);
            prop_assert_eq!(verdict.admitted, admitted);
            let outcomes: Vec<_> = verdict.outcomes.iter().map(|outcome| outcome.admitted).collect();
            prop_assert_eq!(outcomes, said);
            // And what every key has left is the same afterwards.
            for limit in &limits {
                for key in &keys {
                    let peek = Charge { limit, key: key.key(), op: Op::Peek(1) };
                    let at = store.moment(true);
                    let state = reference.0.get(&(limit.name().to_owned(), key.key().to_vec()));
                    let (_, expected) = Reference::step(state.copied().unwrap_or_default(), at, limit, Op::Peek(1));
                    let found = store.decide_one(peek);
                    prop_assert_eq!(found.remaining(), expected.remaining());
                    prop_assert_eq!(found.retry_after, expected.retry_after);
                    prop_assert_eq!(found.reset_after, expected.reset_after);
                }
            }
        }
    }
}

fn take<C: Clock>(store: &MemoryStore<C>, limit: &Limit, key: impl AsKey) -> Outcome {
    act(store, limit, key, Op::Take(1))
}

fn act<C: Clock>(store: &MemoryStore<C>, limit: &Limit, key: impl AsKey, op: Op) -> Outcome {
    let mut buffer = KeyBuf::new();
    key.encode(&mut buffer);
    store.decide_one(Charge { limit, key: buffer.key(), op })
}

proptest! {
    /// The way for token buckets alone, and the general one, which a limit in shadow mode takes.
    #[test]
    fn token_buckets_are_decided_as_anything_else_is(
        calls in prop::collection::vec(
            (0..4_u64, prop::collection::vec((0..3_usize, 0..2_u8, 0..4_u32), 2..=4)),
            1..60,
        ),
    ) {
        let limits = [("a", "5/s", 6), ("b", "3/s", 3), ("c", "1/s", 2)]
            .map(|(name, rate, burst)| Limit::new(name, rate.parse().unwrap()).burst(burst));
        let watched = Limit::new("watched", "1/s".parse().unwrap()).shadow();
        let clock = ManualClock::default();
        let usual = MemoryStore::with_clock(clock.clone());
        let general = MemoryStore::with_clock(clock.clone());
        for (wait, charges) in calls {
            clock.advance(Duration::from_millis(wait * 90));
            let keys: Vec<_> = charges.iter().map(|(_, key, _)| encoded(*key)).collect();
            let mut asked: Vec<_> = charges
                .iter()
                .zip(&keys)
                .map(|((limit, _, units), key)| Charge { limit: &limits[*limit], key: key.key(), op: Op::Take(*units) })
                .collect();
            let ours = usual.decide_now(&asked);
            asked.push(Charge { limit: &watched, key: Key::GLOBAL, op: Op::Take(1) });
            let theirs = general.decide_now(&asked);
            prop_assert_eq!(ours.admitted, theirs.admitted);
            prop_assert_eq!(&ours.outcomes[..], &theirs.outcomes[..charges.len()]);
        }
    }
}

fn encoded(key: impl AsKey) -> KeyBuf {
    let mut buffer = KeyBuf::new();
    key.encode(&mut buffer);
    buffer
}

#[test]
fn the_same_key_twice_in_one_request_is_charged_twice() {
    let store = MemoryStore::with_clock(ManualClock::default());
    let limit = Limit::new("three", "3/day".parse().unwrap());
    let charge = Charge { limit: &limit, key: Key::GLOBAL, op: Op::Take(1) };
    assert!(store.decide_now(&[charge, charge]).admitted);
    let second = store.decide_now(&[charge, charge]);
    assert!(!second.admitted, "one is left, two are asked for");
    assert_eq!(second.outcomes[0].remaining(), 1);
    assert!(store.decide_now(&[charge]).admitted);
}

#[test]
fn no_key_loses_its_charges_while_the_table_grows() {
    for algorithm in [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::FixedWindow] {
        let store = MemoryStore::with_clock(ManualClock::default());
        let limit = Limit::new("two", "2/day".parse().unwrap()).algorithm(algorithm);
        let keys = 40_000_u32;
        for _ in 0..2 {
            for key in 0..keys {
                assert!(take(&store, &limit, key).admitted, "{algorithm} {key}");
            }
        }
        for key in 0..keys {
            assert!(!take(&store, &limit, key).admitted, "{algorithm} {key}");
        }
        assert_eq!(store.keys(&limit), usize::try_from(keys).unwrap());
        assert_eq!(store.overflowed(&limit), 0);
    }
}

#[test]
fn entries_that_recovered_are_reused() {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone());
    let limit = Limit::new("one", "1/s".parse().unwrap());
    for key in 0..1_000_000_u32 {
        assert!(take(&store, &limit, key).admitted);
        // A thousand keys are live at any time.
        clock.advance(Duration::from_millis(1));
    }
    assert!(store.keys(&limit) <= 1001);
    assert!(store.bytes(&limit) < 250_000, "{}", store.bytes(&limit));
}

#[test]
fn at_the_capacity_keys_share_and_none_is_pushed_out() {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone()).max_keys(2_000);
    let limit = Limit::new("login", "5/day".parse().unwrap());
    for _ in 0..5 {
        assert!(take(&store, &limit, "victim").admitted);
    }
    let admitted = (0..200_000_u32).filter(|key| take(&store, &limit, *key).admitted).count();
    assert!(!take(&store, &limit, "victim").admitted, "inventing keys must not reset a victim's counter");
    assert!(store.overflowed(&limit) > 100_000);
    assert!(store.bytes(&limit) < 80_000, "{}", store.bytes(&limit));
    assert!((2_000..4_000).contains(&admitted), "{admitted}");
    // Everyone is served again when the flood has recovered.
    clock.advance(Duration::from_secs(86_400));
    assert!(take(&store, &limit, "newcomer").admitted);
}

#[test]
fn at_the_capacity_no_key_is_admitted_more_than_its_quota() {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone()).max_keys(100);
    for limit in &limits()[..3] {
        let mut admitted: HashMap<u32, u32> = HashMap::new();
        // Keys come and go between the shared entry and their own as entries recover.
        for round in 0..60_u32 {
            for key in 0..3_000_u32 {
                if take(&store, limit, key * 7 + round % 3).admitted {
                    *admitted.entry(key * 7 + round % 3).or_default() += 1;
                }
            }
        }
        let most = admitted.values().max().copied().unwrap();
        assert!(most <= limit.capacity(), "{limit:?}: {most}");
    }
}

#[test]
fn permits_taken_from_a_shared_entry_return_to_it() {
    let store = MemoryStore::with_clock(ManualClock::default()).max_keys(1);
    let limit = Limit::concurrency("at-once", 2);
    let mut held = Vec::new();
    for key in 0..5_000_u32 {
        let outcome = take(&store, &limit, key);
        if outcome.admitted {
            held.push((key, outcome.receipt));
        }
    }
    assert!(store.overflowed(&limit) > 0);
    for (key, receipt) in held {
        act(&store, &limit, key, Op::Refund(1, Some(receipt)));
    }
    for key in 0..200_u32 {
        let outcome = take(&store, &limit, key);
        assert!(outcome.admitted, "{key}: a permit was lost");
        act(&store, &limit, key, Op::Refund(1, Some(outcome.receipt)));
    }
    assert_eq!(store.keys(&limit), 0);
}

#[test]
fn denying_overflow_denies_newcomers_alone() {
    let store = MemoryStore::with_clock(ManualClock::default()).max_keys(1).overflow(Overflow::Deny);
    let limit = Limit::new("two", "2/day".parse().unwrap());
    let known: Vec<u32> = (0..5_000).filter(|key| take(&store, &limit, *key).admitted).collect();
    assert!(known.len() >= 400 && known.len() < 5_000, "{}", known.len());
    assert!(known.iter().all(|key| take(&store, &limit, *key).admitted));
    assert!(known.iter().all(|key| !take(&store, &limit, *key).admitted));
    let refused = take(&store, &limit, "newcomer");
    assert_eq!((refused.admitted, refused.retry_after), (false, Some(Nanos::from_secs(1))));
}

#[test]
fn a_token_bucket_takes_about_25_bytes_a_key() {
    let store = MemoryStore::with_clock(ManualClock::default()).max_keys(4_000_000);
    let limit = Limit::new("day", "1/day".parse().unwrap());
    let mut next = 100_000_u32;
    for key in 0..1_000_000_u32 {
        take(&store, &limit, key);
        if key + 1 == next {
            let per_key = store.bytes(&limit) as f64 / f64::from(next);
            assert!(per_key <= 28.0, "{next} keys: {per_key:.1} bytes each");
            next += next / 7;
        }
    }
    assert_eq!(store.overflowed(&limit), 0);
}

#[test]
fn clones_of_a_limit_and_overrides_share_counters_and_other_names_do_not() {
    let store = MemoryStore::with_clock(ManualClock::default());
    let limit = Limit::new("plan", "2/day".parse().unwrap());
    let faster = limit.with_quota("5/day".parse().unwrap(), None).unwrap();
    let wider = limit.with_quota("2/day".parse().unwrap(), Some(5)).unwrap();
    let other = Limit::new("other", "2/day".parse().unwrap());
    assert!(take(&store, &limit, "k").admitted && take(&store, &limit.clone(), "k").admitted);
    assert!(!take(&store, &limit, "k").admitted);
    // What is kept is the time to full recovery: all of it is used by any quota that fills in a day.
    assert!(!take(&store, &faster, "k").admitted);
    assert!(take(&store, &wider, "k").admitted);
    assert!(take(&store, &other, "k").admitted);
    // Another algorithm under the same name never reads the former's state.
    let window = Limit::new("plan", "2/day".parse().unwrap()).algorithm(Algorithm::FixedWindow);
    assert!(take(&store, &window, "k").admitted);
}

#[test]
fn many_limits_each_have_their_table() {
    let store = MemoryStore::with_clock(ManualClock::default());
    let limits: Vec<_> =
        (0..3_000).map(|n| Limit::new(format!("limit-{n}"), "1/day".parse().unwrap())).collect();
    assert!(limits.iter().all(|limit| take(&store, limit, ()).admitted));
    assert!(limits.iter().all(|limit| !take(&store, limit, ()).admitted));
}

/// Different tags, so many.
fn tags(seed: u64, count: usize) -> impl Iterator<Item = Tag> {
    let hasher = foldhash::quality::FixedState::with_seed(seed);
    (0..count).map(move |number| Tag::of(hasher.hash_one(number)))
}

#[test]
fn a_segment_that_may_not_grow_fills_to_nine_tenths_whatever_the_seed() {
    let at = Moment { now: Nanos::from_secs(1), utc: Nanos::ZERO };
    for pairs in [8, 9, 15, 32, 51, 128, 240] {
        for seed in 0..40 {
            let segment = Segment::new(pairs, 0, Kind::Bucket);
            let wanted = segment.slots() * 9 / 10;
            for (number, tag) in tags(seed, wanted).enumerate() {
                let found = segment.insert(tag, table::MOVES, Kind::Bucket, &at);
                let found =
                    found.unwrap_or_else(|| panic!("{pairs} pairs, seed {seed}: {number} of {wanted}"));
                found.slot.store(Word::new(tag, 1 << 60));
            }
            for tag in tags(seed, wanted) {
                assert_eq!(segment.find(tag).map(|found| found.word), Some(Word::new(tag, 1 << 60)));
            }
        }
    }
}

#[test]
fn there_is_room_for_as_many_keys_as_promised_whatever_the_seed() {
    let at = Moment { now: Nanos::from_secs(1), utc: Nanos::ZERO };
    let limit = Limit::new("day", "1/day".parse().unwrap());
    for (keys, seeds) in
        [(1, 20), (100, 60), (185, 60), (700, 60), (2_000, 300), (5_600, 20), (12_000, 10), (60_000, 3)]
    {
        for seed in 0..seeds {
            let table = Table::new(Kind::Bucket, Geometry::for_keys(keys), Overflow::Share);
            let take = |tag| operate(&table, tag, limit.program(), Op::Take(1), || at).admitted;
            assert!(tags(seed, keys).all(take), "{keys} keys, seed {seed}");
            assert_eq!(table.overflowed(), 0, "{keys} keys, seed {seed}");
            assert_eq!(table.live(&at), keys);
        }
    }
}

#[test]
fn a_flood_takes_no_more_memory_than_the_capacity_says() {
    for keys in (2_000..10_000_000).step_by(7_919) {
        let geometry = Geometry::for_keys(keys);
        let per_key = geometry.most_slots() as f64 * 16.0 / keys as f64;
        assert!((16.0..37.0).contains(&per_key), "{keys} keys: {per_key:.1} bytes each");
    }
}

#[tokio::test]
async fn one_key_is_carried_over_to_another_quota() {
    let limiter = crate::Limiter::new(MemoryStore::with_clock(ManualClock::default()));
    let plan = Limit::new("plan", "10/h".parse().unwrap());
    let gold = plan.with_quota("1000/day".parse().unwrap(), None).unwrap();
    for key in ["ann", "bob"] {
        assert!(limiter.check_n(&plan, key, 4).await.unwrap().is_allowed());
    }
    limiter.rescale(&plan, &gold, "ann").await.unwrap();
    assert_eq!(limiter.peek(&gold, "ann").await.unwrap().remaining(), 600);
    // Whom nobody carried over keeps the time to full recovery: 24 minutes of a day.
    assert_eq!(limiter.peek(&gold, "bob").await.unwrap().remaining(), 983);
    limiter.rescale(&plan, &gold, "new").await.unwrap();
    assert_eq!(limiter.peek(&gold, "new").await.unwrap().remaining(), 1000);
    for window in [plan.algorithm(Algorithm::SlidingWindow), plan.algorithm(Algorithm::FixedWindow)] {
        assert!(limiter.check_n(&window, "ann", 4).await.unwrap().is_allowed());
        let wider = window.with_quota("20/h".parse().unwrap(), None).unwrap();
        limiter.rescale(&window, &wider, "ann").await.unwrap();
        assert_eq!(limiter.peek(&wider, "ann").await.unwrap().remaining(), 16);
    }
}
