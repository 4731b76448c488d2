//! The table under a model checker: every order in which two threads can interleave.
//!
//!     RUSTFLAGS="--cfg ratelimit_loom" cargo test --release -p ratelimit-core --lib loom

use loom::sync::Arc;
use smallvec::SmallVec;

use super::Overflow;
use super::kind::Kind;
use super::operate::operate;
use super::slot::Tag;
use super::table::{Geometry, Grown, Table};
use super::transaction::{Part, decide_together};
use crate::algorithm::{Moment, Op};
use crate::key::Key;
use crate::limit::{Algorithm, Limit};
use crate::store::{Charge, Outcomes};
use crate::time::Nanos;

/// One root segment of `pairs` pairs of two slots each, which may split `splits` times.
fn table(kind: Kind, pairs: usize, splits: u32) -> Table {
    let grown = [Grown { pairs, depth: splits }; 8];
    let geometry = Geometry { root_bits: 0, first_pairs: pairs, grown };
    Table::new(kind, geometry, Overflow::Share)
}

/// A tag with these bits for the directory, and for its first and second pair out of two.
fn tag(directory: u64, first: u64, sum: u64, rest: u64) -> Tag {
    Tag::of(directory | rest << 4 | sum << 39 | first << 55)
}

fn at(seconds: u64) -> Moment {
    Moment { now: Nanos::from_secs(seconds), utc: Nanos::from_secs(seconds) }
}

fn once_a_day() -> Limit {
    Limit::new("once", "1/day".parse().unwrap())
}

fn take(table: &Table, tag: Tag, limit: &Limit, seconds: u64) -> bool {
    operate(table, tag, limit.program(), Op::Take(1), || at(seconds)).admitted
}

/// Runs both in parallel, in every order; gives what they returned to `judge`.
fn both<T: Send + Sync + 'static, A: 'static, B: 'static>(
    make: impl Fn() -> T + Send + Sync + 'static,
    one: impl Fn(&T) -> A + Copy + Send + Sync + 'static,
    other: impl Fn(&T) -> B + Copy + Send + Sync + 'static,
    judge: impl Fn(&T, A, B) + Send + Sync + 'static,
) where
    A: Send,
    B: Send,
{
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let shared = Arc::new(make());
        let theirs = Arc::clone(&shared);
        let thread = loom::thread::spawn(move || other(&theirs));
        let mine = one(&shared);
        let their = thread.join().unwrap();
        judge(&shared, mine, their);
    });
}

#[test]
fn loom_one_new_key_has_one_entry() {
    let key = || tag(0, 0, 0, 1);
    both(
        || table(Kind::Bucket, 1, 0),
        move |table| take(table, key(), &once_a_day(), 1),
        move |table| take(table, key(), &once_a_day(), 1),
        |table, a, b| {
            assert!(a ^ b, "exactly one is admitted");
            assert_eq!(table.live(&at(1)), 1);
        },
    );
}

#[test]
fn loom_a_slot_reused_for_another_key_is_never_charged_for_the_former() {
    let (old, neighbour, new) = (tag(0, 0, 0, 1), tag(0, 0, 0, 2), tag(0, 0, 0, 3));
    both(
        move || {
            let table = table(Kind::Bucket, 1, 0);
            assert!(take(&table, old, &once_a_day(), 1));
            assert!(take(&table, neighbour, &once_a_day(), 90_000));
            table
        },
        // The former key's entry has recovered: it comes back while its slot is given away.
        move |table| take(table, old, &once_a_day(), 90_000),
        move |table| take(table, new, &once_a_day(), 90_000),
        move |table, a, b| {
            // One got the slot, the other shares the overflow entry; both are admitted, and neither twice.
            assert!(a && b);
            assert!(!take(table, old, &once_a_day(), 90_001));
            assert!(!take(table, new, &once_a_day(), 90_001));
            assert!(!take(table, neighbour, &once_a_day(), 90_001));
        },
    );
}

#[test]
fn loom_a_split_loses_no_charge() {
    let (low, high, newcomer) = (tag(0, 0, 0, 1), tag(1, 0, 0, 2), tag(1, 0, 0, 3));
    let two = || Limit::new("two", "2/day".parse().unwrap());
    both(
        move || {
            let table = table(Kind::Bucket, 1, 1);
            assert!(take(&table, low, &two(), 1));
            assert!(take(&table, high, &two(), 1));
            table
        },
        move |table| take(table, high, &two(), 1),
        // Finds the segment full and splits it.
        move |table| take(table, newcomer, &two(), 1),
        move |table, a, b| {
            assert!(a && b);
            assert_eq!(table.overflowed(), 0);
            assert!(!take(table, high, &two(), 1), "both charges moved");
            assert!(take(table, newcomer, &two(), 1) && !take(table, newcomer, &two(), 1));
            assert!(take(table, low, &two(), 1) && !take(table, low, &two(), 1));
        },
    );
}

#[test]
fn loom_an_entry_that_moves_is_found_and_charged_once() {
    // `mover` may live in either pair; `stay` and `newcomer` only in the first.
    let (mover, stay, newcomer) = (tag(0, 0, 1, 1), tag(0, 0, 0, 2), tag(0, 0, 0, 3));
    let two = || Limit::new("two", "2/day".parse().unwrap());
    both(
        move || {
            let table = table(Kind::Bucket, 2, 0);
            assert!(take(&table, mover, &two(), 1));
            assert!(take(&table, stay, &two(), 1));
            table
        },
        move |table| take(table, mover, &two(), 1),
        move |table| take(table, newcomer, &two(), 1),
        move |table, a, b| {
            assert!(a && b);
            assert_eq!(table.overflowed(), 0, "there was room in the other pair");
            for key in [mover] {
                assert!(!take(table, key, &two(), 1));
            }
            assert!(take(table, newcomer, &two(), 1) && !take(table, newcomer, &two(), 1));
        },
    );
}

#[test]
fn loom_what_is_moved_is_not_taken_for_absent() {
    let (low, high, newcomer) = (tag(0, 0, 0, 1), tag(1, 0, 0, 2), tag(1, 0, 0, 3));
    let one = || Limit::concurrency("one", 1);
    both(
        move || {
            let table = table(Kind::Permits, 1, 1);
            assert!(take(&table, low, &one(), 1));
            assert!(take(&table, high, &one(), 1));
            table
        },
        // An absent key holds no permits: releasing one of them would come to nothing.
        move |table| operate(table, high, one().program(), Op::Refund(1, None), || at(1)),
        move |table| take(table, newcomer, &one(), 1),
        move |table, _, b| {
            assert!(b);
            assert!(take(table, high, &one(), 1), "the permit got lost");
            assert!(!take(table, high, &one(), 1));
        },
    );
}

#[test]
fn loom_a_window_with_its_record_moves_whole() {
    let (low, high, newcomer) = (tag(0, 0, 0, 1), tag(1, 0, 0, 2), tag(1, 0, 0, 3));
    let two = || Limit::new("two", "2/day".parse().unwrap()).algorithm(Algorithm::SlidingWindow);
    both(
        move || {
            let table = table(Kind::Ring, 1, 1);
            assert!(take(&table, low, &two(), 1));
            assert!(take(&table, high, &two(), 1));
            table
        },
        move |table| take(table, high, &two(), 1),
        move |table| take(table, newcomer, &two(), 1),
        move |table, a, b| {
            assert!(a && b);
            assert!(!take(table, high, &two(), 1));
            assert!(take(table, low, &two(), 1) && !take(table, low, &two(), 1));
        },
    );
}

/// Charges two limits together, in that order.
fn take_two(tables: &[Table; 2], limits: &[Limit; 2], order: [usize; 2]) -> bool {
    let charges =
        limits.each_ref().map(|limit| Charge { limit, key: Key::from_canonical(b"k"), op: Op::Take(1) });
    let parts: SmallVec<[Part<'_>; 4]> = order
        .into_iter()
        .map(|index| Part {
            charge: &charges[index],
            table: &tables[index],
            tag: tag(0, 0, 0, 1),
            global: false,
        })
        .collect();
    decide_together(&parts, at(1), || at(1), &mut Outcomes::new())
}

fn two_limits(first: Algorithm) -> [Limit; 2] {
    [Limit::new("a", "1/day".parse().unwrap()).algorithm(first), Limit::new("b", "1/day".parse().unwrap())]
}

#[test]
fn loom_two_limits_in_opposite_orders_admit_exactly_one() {
    both(
        || {
            let tables = [table(Kind::Bucket, 1, 0), table(Kind::Bucket, 1, 0)];
            // Entries that exist already keep the model small; insertion has its own tests.
            for table in &tables {
                operate(table, tag(0, 0, 0, 1), once_a_day().program(), Op::Take(1), || at(1));
                operate(table, tag(0, 0, 0, 1), once_a_day().program(), Op::Reset, || at(1));
            }
            tables
        },
        |tables| take_two(tables, &two_limits(Algorithm::TokenBucket), [0, 1]),
        |tables| take_two(tables, &two_limits(Algorithm::TokenBucket), [1, 0]),
        |tables, a, b| {
            assert!(a ^ b, "one unit in each: exactly one of two requests, and never none");
            assert!(tables.iter().all(|table| !take(table, tag(0, 0, 0, 1), &once_a_day(), 1)));
        },
    );
}

#[test]
fn loom_two_limits_with_room_for_both_requests_count_both() {
    let twice = || ["a", "b"].map(|name| Limit::new(name, "2/day".parse().unwrap()));
    both(
        || {
            let tables = [table(Kind::Bucket, 1, 0), table(Kind::Bucket, 1, 0)];
            for table in &tables {
                operate(table, tag(0, 0, 0, 1), once_a_day().program(), Op::Take(1), || at(1));
                operate(table, tag(0, 0, 0, 1), once_a_day().program(), Op::Reset, || at(1));
            }
            tables
        },
        // Who finds a word changed since it was looked at judges the new one: no charge is lost, none refused.
        move |tables| take_two(tables, &twice(), [0, 1]),
        move |tables| take_two(tables, &twice(), [1, 0]),
        move |tables, a, b| {
            assert!(a && b);
            for (table, limit) in tables.iter().zip(&twice()) {
                assert!(!take(table, tag(0, 0, 0, 1), limit, 1));
            }
        },
    );
}

#[test]
fn loom_a_window_and_a_bucket_together_admit_exactly_one() {
    both(
        || [table(Kind::Ring, 1, 0), table(Kind::Bucket, 1, 0)],
        |tables| take_two(tables, &two_limits(Algorithm::SlidingWindow), [0, 1]),
        |tables| take_two(tables, &two_limits(Algorithm::SlidingWindow), [1, 0]),
        |_, a, b| assert!(a ^ b),
    );
}

#[test]
fn loom_a_denial_beside_a_charge_changes_nothing() {
    let tables = || {
        let tables = [table(Kind::Bucket, 1, 0), table(Kind::Bucket, 1, 0)];
        assert!(take(&tables[0], tag(0, 0, 0, 1), &once_a_day(), 1));
        tables
    };
    both(
        tables,
        // The first limit is used up: this must not cost the second anything, not even for a moment.
        |tables| take_two(tables, &two_limits(Algorithm::TokenBucket), [1, 0]),
        |tables| take(&tables[1], tag(0, 0, 0, 1), &once_a_day(), 1),
        |_, together, alone| assert!(!together && alone),
    );
}

#[test]
fn loom_permits_are_counted_and_released_once() {
    let limit = || Limit::concurrency("one", 1);
    let hold = move |table: &Table| {
        let outcome = operate(table, tag(0, 0, 0, 1), limit().program(), Op::Take(1), || at(1));
        if outcome.admitted {
            let op = Op::Refund(1, Some(outcome.receipt));
            operate(table, tag(0, 0, 0, 1), limit().program(), op, || at(1));
        }
        outcome.admitted
    };
    both(
        || table(Kind::Permits, 1, 0),
        hold,
        hold,
        |table, a, b| {
            assert!(a || b);
            assert_eq!(table.live(&at(1)), 0);
        },
    );
}
