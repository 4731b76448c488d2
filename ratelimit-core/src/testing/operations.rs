//! What each operation does to one key.

use super::{ALL, Law, Subject, TIMED, encoded, ensure, limit_of, quick, slow, slow_spec};
use crate::algorithm::Op;
use crate::limit::Algorithm;
use crate::store::{Charge, Store};
use crate::time::Nanos;

/// A denial costs nothing, however often it is repeated.
///
/// # Errors
/// What is wrong with the subject.
pub async fn denied_changes_nothing<S: Store>(subject: &Subject<S>) -> Law {
    for algorithm in ALL {
        let limit = slow("denied", algorithm, 10)?;
        for units in [8, 3, 3, 10, 3] {
            let admitted = subject.take(&limit, "k", units).await?.admitted;
            ensure!(
                admitted == (units == 8),
                "{algorithm}: {units} units, with 10 or 2 of 10 left: {admitted}"
            );
        }
        let left = subject.left(&limit, "k").await?;
        ensure!(left == 2, "{algorithm}: 2 of 10 units were left, and {left} are after four denials");
        ensure!(subject.take(&limit, "k", 2).await?.admitted, "{algorithm}: the last 2 units were denied");
        let before = subject.op(&limit, "k", Op::Peek(1)).await?;
        for _ in 0..20 {
            subject.take(&limit, "k", 1).await?;
        }
        let after = subject.op(&limit, "k", Op::Peek(1)).await?;
        ensure!(
            after.retry_after <= before.retry_after && after.reset_after <= before.reset_after,
            "{algorithm}: denials put recovery off, from {before:?} to {after:?}"
        );
    }
    Ok(())
}

/// Asking is free, and says what taking then says.
///
/// # Errors
/// What is wrong with the subject.
pub async fn peek_charges_nothing<S: Store>(subject: &Subject<S>) -> Law {
    for algorithm in ALL {
        let limit = slow("peek", algorithm, 3)?;
        for left in [3, 2, 1, 0] {
            for units in [0, 1, 2, 3] {
                let asked = subject.op(&limit, "k", Op::Peek(units)).await?;
                ensure!(
                    asked.remaining() == left && asked.admitted == (units <= left),
                    "{algorithm}: asked for {units} with {left} of 3 left: {asked:?}"
                );
            }
            let taken = subject.take(&limit, "k", 1).await?;
            ensure!(taken.admitted == (left > 0), "{algorithm}: took one with {left} left: {taken:?}");
            let left = left.saturating_sub(1);
            ensure!(taken.remaining() == left, "{algorithm}: {} left, not {left}", taken.remaining());
        }
    }
    Ok(())
}

/// A cost of zero is free, and admitted while nobody owes anything.
///
/// # Errors
/// What is wrong with the subject.
pub async fn zero_charges_nothing<S: Store>(subject: &Subject<S>) -> Law {
    for algorithm in ALL {
        let limit = slow("zero", algorithm, 2)?;
        for left in [2, 1, 0] {
            let free = subject.take(&limit, "k", 0).await?;
            ensure!(
                free.admitted && free.remaining() == left,
                "{algorithm}: nothing was taken with {left} of 2 left: {free:?}"
            );
            subject.take(&limit, "k", 1).await?;
        }
    }
    Ok(())
}

/// More than the capacity is refused for good, which is another answer than "not now".
///
/// # Errors
/// What is wrong with the subject.
pub async fn more_than_the_capacity_is_never<S: Store>(subject: &Subject<S>) -> Law {
    for algorithm in ALL {
        let limit = slow("never", algorithm, 5)?;
        for units in [6, 7, u32::MAX] {
            let outcome = subject.take(&limit, "k", units).await?;
            ensure!(outcome.is_never(), "{algorithm}: {units} units of a capacity of 5: {outcome:?}");
        }
        ensure!(subject.take(&limit, "k", 5).await?.admitted, "{algorithm}: the capacity itself was denied");
        let later = subject.take(&limit, "k", 5).await?;
        ensure!(
            !later.admitted && !later.is_never(),
            "{algorithm}: the capacity, when it is used up, is denied for now: {later:?}"
        );
    }
    Ok(())
}

/// A debit is made whatever is left, and goes below zero by the limit's debt at most.
///
/// # Errors
/// What is wrong with the subject.
pub async fn debit_goes_into_debt_and_no_further<S: Store>(subject: &Subject<S>) -> Law {
    for algorithm in TIMED {
        let mut spec = slow_spec("debit", algorithm, 10)?;
        spec.debt = 4;
        let limit = limit_of(spec)?;
        subject.op(&limit, "k", Op::Debit(7)).await?;
        let left = subject.left(&limit, "k").await?;
        ensure!(left == 3, "{algorithm}: {left} of 10 left after a debit of 7");
        for _ in 0..3 {
            subject.op(&limit, "k", Op::Debit(50)).await?;
        }
        let free = subject.take(&limit, "k", 0).await?;
        ensure!(!free.admitted, "{algorithm}: a key in debt was admitted at no cost");
        subject.op(&limit, "k", Op::Refund(4, None)).await?;
        let owed = subject.take(&limit, "k", 0).await?;
        ensure!(
            owed.admitted && owed.remaining() == 0,
            "{algorithm}: a debt of 4 and a refund of 4 make nothing: {owed:?}"
        );
        subject.op(&limit, "k", Op::Refund(2, None)).await?;
        let left = subject.left(&limit, "k").await?;
        ensure!(left == 2, "{algorithm}: {left} left after 2 more were given back");

        let without = slow("no-debt", algorithm, 10)?;
        subject.op(&without, "k", Op::Debit(50)).await?;
        subject.op(&without, "k", Op::Refund(1, None)).await?;
        let left = subject.left(&without, "k").await?;
        ensure!(
            left == 1,
            "{algorithm}: without debt a debit stops at zero, but {left} are left after 1 came back"
        );
    }
    Ok(())
}

/// A refund gives back what was charged, never more than there is, and with the charge's receipt only what
/// time has not given back already.
///
/// # Errors
/// What is wrong with the subject.
pub async fn refund_gives_back_what_time_has_not<S: Store>(subject: &Subject<S>) -> Law {
    for algorithm in TIMED {
        let limit = slow("refund", algorithm, 10)?;
        let charge = subject.take(&limit, "k", 6).await?;
        subject.op(&limit, "k", Op::Refund(2, Some(charge.receipt))).await?;
        let left = subject.left(&limit, "k").await?;
        ensure!(left == 6, "{algorithm}: took 6 of 10, gave 2 back by receipt: {left} left");
        subject.op(&limit, "k", Op::Refund(1, None)).await?;
        let left = subject.left(&limit, "k").await?;
        ensure!(left == 7, "{algorithm}: gave 1 more back: {left} left");
        subject.op(&limit, "k", Op::Refund(100, None)).await?;
        let full = subject.op(&limit, "k", Op::Peek(1)).await?;
        ensure!(full.remaining() == 10, "{algorithm}: gave 100 back: {} of 10 left", full.remaining());
        subject.take(&limit, "k", 10).await?;
        let empty = subject.take(&limit, "k", 1).await?;
        ensure!(!empty.admitted, "{algorithm}: refunds beyond the capacity were kept for later");
        subject.op(&limit, "other", Op::Refund(5, None)).await?;
        let left = subject.left(&limit, "other").await?;
        ensure!(left == 10, "{algorithm}: a key that used nothing has {left} of 10 after a refund");

        let limit = quick("late-refund", algorithm, 5, Some(5))?;
        let charge = subject.take(&limit, "k", 5).await?;
        subject.pass(charge.reset_after.saturating_add(subject.tolerance(charge.reset_after))).await;
        let before = subject.now();
        let again = subject.take(&limit, "k", 5).await?;
        ensure!(again.admitted, "{algorithm}: 5 of 5 were not back after reset_after");
        subject.op(&limit, "k", Op::Refund(5, Some(charge.receipt))).await?;
        let left = subject.left(&limit, "k").await?;
        // Where time passes by itself, it may have given something back since.
        let first_back = again.reset_after.min(Nanos::new(Nanos::from_secs(1).get() / 5));
        let slow_call = subject.now() >= before.saturating_add(first_back);
        ensure!(
            left == 0 || slow_call,
            "{algorithm}: time had given the charge back already, and a refund gave {left} more"
        );
    }
    Ok(())
}

/// A reset key is as new, whatever it owed.
///
/// # Errors
/// What is wrong with the subject.
pub async fn reset_is_a_fresh_start<S: Store>(subject: &Subject<S>) -> Law {
    for algorithm in ALL {
        let limit = slow("reset", algorithm, 4)?;
        subject.take(&limit, "k", 4).await?;
        subject.take(&limit, "other", 1).await?;
        ensure!(!subject.take(&limit, "k", 1).await?.admitted, "{algorithm}: 5 of 4 were admitted");
        subject.op(&limit, "k", Op::Reset).await?;
        let fresh = subject.op(&limit, "k", Op::Peek(4)).await?;
        ensure!(
            fresh.admitted && fresh.remaining() == 4 && fresh.reset_after == Nanos::ZERO,
            "{algorithm}: after a reset: {fresh:?}"
        );
        let left = subject.left(&limit, "other").await?;
        ensure!(left == 3, "{algorithm}: a reset of one key left {left} of 3 to another");
    }
    Ok(())
}

/// As many permits as the limit says, and each comes back once.
///
/// # Errors
/// What is wrong with the subject.
pub async fn permits_are_counted<S: Store>(subject: &Subject<S>) -> Law {
    let limit = slow("permits", Algorithm::Concurrency, 3)?;
    let mut receipts = Vec::new();
    for left in [2, 1, 0] {
        let permit = subject.take(&limit, "k", 1).await?;
        ensure!(
            permit.admitted && permit.remaining() == left,
            "{left} of 3 permits should be left: {permit:?}"
        );
        receipts.push(permit.receipt);
    }
    let denied = subject.take(&limit, "k", 1).await?;
    ensure!(!denied.admitted && denied.retry_after.is_some(), "a fourth permit of 3: {denied:?}");
    // Held permits don't come back by waiting, at least not within a minute.
    if subject.is_driven() {
        subject.pass(Nanos::from_secs(50)).await;
        ensure!(!subject.take(&limit, "k", 1).await?.admitted, "a permit came back while it was held");
    }
    for (number, receipt) in receipts.into_iter().enumerate() {
        subject.op(&limit, "k", Op::Refund(1, Some(receipt))).await?;
        let left = subject.left(&limit, "k").await?;
        ensure!(
            usize::try_from(left) == Ok(number + 1),
            "{left} permits are free after {} came back",
            number + 1
        );
    }
    subject.op(&limit, "k", Op::Refund(5, None)).await?;
    ensure!(subject.take(&limit, "k", 3).await?.admitted, "all came back, but not all can be had at once");
    ensure!(!subject.take(&limit, "k", 1).await?.admitted, "more permits came back than were given");
    Ok(())
}

/// What is posted is made, if not at once then soon, and once.
///
/// # Errors
/// What is wrong with the subject.
pub async fn post_is_made<S: Store>(subject: &Subject<S>) -> Law {
    for algorithm in TIMED {
        let limit = slow("post", algorithm, 100)?;
        subject.take(&limit, "k", 50).await?;
        let key = encoded("k");
        for (op, left) in [(Op::Debit(20), 30), (Op::Refund(60, None), 90), (Op::Debit(1), 89)] {
            subject.store().post(Charge { limit: &limit, key: key.key(), op });
            let mut seen = subject.left(&limit, "k").await?;
            for _ in 0..500 {
                if seen == left {
                    break;
                }
                subject.settle().await;
                seen = subject.left(&limit, "k").await?;
            }
            ensure!(seen == left, "{algorithm}: {seen} of 100 left after {op:?} was posted, not {left}");
        }
        subject.settle().await;
        let seen = subject.left(&limit, "k").await?;
        ensure!(seen == 89, "{algorithm}: a posted charge was made again later: {seen} left, not 89");
    }
    Ok(())
}
