//! Concurrency against a plain set of holders.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs, reason = "tests")]

mod oracle;

use proptest::prelude::*;
use ratelimit_core::Nanos;
use ratelimit_core::algorithm::{Concurrency, Op, Receipt};

proptest! {
    #![proptest_config(oracle::cases(1000))]

    /// Never more than the limit, refused only if it would be more, each permit worth one.
    #[test]
    fn as_many_as_hold_one(limit in 1u32..=8, steps in prop::collection::vec((0u32..12, any::<prop::sample::Index>(), 0u32..4), 1..80)) {
        let permits = Concurrency::new(limit).unwrap();
        let mut state = 0;
        let mut holders: Vec<(u32, Receipt)> = Vec::new();
        for (units, which, kind) in steps {
            let held: u32 = holders.iter().map(|(permits, _)| permits).sum();
            let before = state;
            let (next, outcome) = match kind {
                0 | 1 => permits.step(state, Op::Take(units)),
                2 => permits.step(state, Op::Peek(units)),
                _ if holders.is_empty() => continue,
                _ => {
                    let (units, receipt) = holders.remove(which.index(holders.len()));
                    let (next, outcome) = permits.step(state, Op::Refund(units, Some(receipt)));
                    state = next.unwrap_or(state);
                    prop_assert_eq!((state, outcome.remaining()), (u128::from(held - units), limit - held + units));
                    continue;
                }
            };
            state = next.unwrap_or(state);
            prop_assert_eq!(outcome.admitted, held + units <= limit);
            prop_assert_eq!(outcome.is_never(), units > limit);
            prop_assert_eq!(outcome.retry_after.is_some(), !outcome.admitted && units <= limit);
            if kind < 2 && outcome.admitted {
                if units > 0 {
                    holders.push((units, outcome.receipt));
                }
                prop_assert_eq!(outcome.remaining(), limit - held - units);
            } else {
                prop_assert_eq!((state, outcome.remaining()), (before, limit - held));
            }
            prop_assert_eq!(state, u128::from(holders.iter().map(|(permits, _)| permits).sum::<u32>()));
            prop_assert!(state <= u128::from(limit));
            prop_assert_eq!(outcome.reset_after, Nanos::ZERO);
        }
    }

    /// A smaller limit takes nothing from who holds a permit; nobody gets one until there is room.
    #[test]
    fn the_limit_shrinks(large in 2u32..=20, small in 1u32..=20, units in 0u32..=20) {
        let held = Concurrency::new(large).unwrap().step(0, Op::Take(large)).0.unwrap();
        let small = Concurrency::new(small.min(large - 1)).unwrap();
        prop_assert!(!small.step(held, Op::Take(units)).1.admitted);
        let held = small.step(held, Op::Refund(large, None)).0.unwrap();
        prop_assert_eq!(held, 0);
        prop_assert!(small.step(held, Op::Take(small.limit())).1.admitted);
    }

    #[test]
    fn no_number_is_too_large(limit in 1u32.., state in 0u128..1 << 71, units in 0u32.., mark in 0u128..) {
        let permits = Concurrency::new(limit).unwrap();
        for op in [Op::Take(units), Op::Peek(units), Op::Debit(units), Op::Refund(units, None), Op::Refund(units, Some(Receipt::new(mark))), Op::Reset] {
            let (next, outcome) = permits.step(state, op);
            prop_assert!(next.is_none_or(|next| next <= u128::from(u32::MAX)));
            prop_assert!(outcome.remaining() <= limit);
            if outcome.admitted && matches!(op, Op::Take(_)) {
                prop_assert!(next.unwrap_or(state) <= u128::from(limit));
            }
        }
    }
}

#[test]
fn nothing_is_released_below_zero() {
    let permits = Concurrency::new(3).unwrap();
    assert_eq!(permits.step(0, Op::Refund(1, None)).0, None);
    assert_eq!(permits.step(2, Op::Refund(u32::MAX, None)).0, Some(0));
    assert_eq!(permits.step(0, Op::Reset).0, None);
    assert_eq!(permits.step(3, Op::Reset).0, Some(0));
    assert_eq!(permits.step(3, Op::Debit(u32::MAX)).0, Some(u128::from(u32::MAX)));
    assert!(Concurrency::new(0).is_none());
}
