//! How much is admitted in how long: never more than the bound, all of it when it is there, and at the very
//! moment that was promised.

use super::{Law, Subject, TIMED, ensure, quick};
use crate::algorithm::Op;
use crate::limit::{Algorithm, Limit};
use crate::store::Store;
use crate::time::Nanos;

const SECOND: u64 = 1_000_000_000;

/// An admitted charge: decided between `after` and `before`, at a wall clock of `utc` at the latest.
#[derive(Clone, Copy)]
struct Admitted {
    after: Nanos,
    before: Nanos,
    utc: (Nanos, Nanos),
    units: u32,
}

/// A token bucket admits at most burst + rate · W in every interval of length W.
///
/// # Errors
/// What is wrong with the subject.
pub async fn bound_of_token_bucket<S: Store>(subject: &Subject<S>) -> Law {
    const RATE: u32 = 50;
    const BURST: u32 = 10;
    let limit = quick("bound", Algorithm::TokenBucket, RATE, Some(BURST))?;
    let admitted = traffic(subject, &limit, Nanos::new(SECOND / 2)).await?;
    for (first, start) in admitted.iter().enumerate() {
        let mut units = 0;
        for end in admitted.iter().skip(first) {
            units += u64::from(end.units);
            let length = end.before.saturating_sub(start.after);
            let length = length.saturating_add(subject.tolerance(length)).get();
            let allowed = u64::from(BURST) * SECOND + u64::from(RATE) * length;
            ensure!(
                units * SECOND <= allowed,
                "{RATE}/s with a burst of {BURST} admitted {units} units within {length} ns"
            );
        }
    }
    Ok(())
}

/// A sliding window admits at most its limit in every interval as long as the window.
///
/// # Errors
/// What is wrong with the subject.
pub async fn bound_of_sliding_window<S: Store>(subject: &Subject<S>) -> Law {
    const LIMIT: u32 = 20;
    let limit = quick("bound", Algorithm::SlidingWindow, LIMIT, None)?;
    let admitted = traffic(subject, &limit, Nanos::new(5 * SECOND / 2)).await?;
    for (first, start) in admitted.iter().enumerate() {
        let mut units = 0;
        for end in admitted.iter().skip(first) {
            units += u64::from(end.units);
            let length = end.before.saturating_sub(start.after);
            let length = length.saturating_add(subject.tolerance(length));
            ensure!(
                length.get() >= SECOND || units <= u64::from(LIMIT),
                "{LIMIT} in every second admitted {units} units within {} ns",
                length.get()
            );
        }
    }
    Ok(())
}

/// A fixed window admits at most its limit in each window of the calendar.
///
/// # Errors
/// What is wrong with the subject.
pub async fn bound_of_fixed_window<S: Store>(subject: &Subject<S>) -> Law {
    const LIMIT: u32 = 20;
    let limit = quick("bound", Algorithm::FixedWindow, LIMIT, None)?;
    let admitted = traffic(subject, &limit, Nanos::new(5 * SECOND / 2)).await?;
    // Where the store has a wall clock of its own, what lies near a window's edge may belong to either side.
    let margin = Nanos::new(if subject.is_driven() { 0 } else { SECOND / 10 });
    let window_of = |charge: &Admitted| {
        let from = charge.utc.0.saturating_sub(margin).whole_secs();
        let to = charge.utc.1.saturating_add(margin).whole_secs();
        (from == to).then_some(from)
    };
    let (mut window, mut units) = (None, 0);
    for charge in &admitted {
        let this = window_of(charge);
        if this != window {
            (window, units) = (this, 0);
        }
        units += u64::from(charge.units);
        ensure!(
            window.is_none() || units <= u64::from(LIMIT),
            "{LIMIT} a second admitted {units} units in one second of the calendar"
        );
    }
    Ok(())
}

/// When everything should have come back, everything has.
///
/// # Errors
/// What is wrong with the subject.
pub async fn full_quota_comes_back<S: Store>(subject: &Subject<S>) -> Law {
    for algorithm in TIMED {
        let limit = quick("whole", algorithm, 20, Some(20))?;
        for round in 0..2 {
            let mut taken = 0;
            let reset_after = loop {
                let outcome = subject.take(&limit, "k", 1).await?;
                if !outcome.admitted {
                    break outcome.reset_after;
                }
                taken += 1;
                ensure!(taken <= 1000, "{algorithm}: 20/s never denied");
            };
            ensure!(taken >= 20, "{algorithm}: {taken} of 20 units were there in round {round}");
            ensure!(reset_after > Nanos::ZERO, "{algorithm}: an empty key says that it has recovered");
            subject.pass(reset_after.saturating_add(subject.tolerance(reset_after))).await;
            let recovered = subject.op(&limit, "k", Op::Peek(20)).await?;
            ensure!(
                recovered.admitted && recovered.remaining() == 20,
                "{algorithm}: after its reset_after, {} of 20 units are back",
                recovered.remaining()
            );
        }
    }
    Ok(())
}

/// What was denied is admitted once `retry_after` has passed, and not a tick before.
///
/// # Errors
/// What is wrong with the subject.
pub async fn retry_after_is_tight<S: Store>(subject: &Subject<S>) -> Law {
    for algorithm in TIMED {
        'units: for units in [1, 3] {
            let limit = quick(&format!("tight-{units}"), algorithm, 5, Some(3))?;
            // Off the edges of windows and cells.
            subject.pass(Nanos::new(SECOND / 7)).await;
            let mut promise = None;
            for _ in 0..1000 {
                let after = subject.now();
                let outcome = subject.take(&limit, "k", units).await?;
                if !outcome.admitted {
                    let wait = outcome.retry_after.ok_or_else(|| format!("{algorithm}: denied for good"))?;
                    promise = Some((after, subject.now(), wait));
                    break;
                }
            }
            let (after, before, wait) = promise.ok_or_else(|| format!("{algorithm}: 5/s never denied"))?;
            ensure!(wait > Nanos::ZERO, "{algorithm}: denied, and told to try again at once");
            let tolerance = subject.tolerance(wait);
            // Ever nearer, up to the last tick.
            let early = after.saturating_add(wait).saturating_sub(tolerance);
            for eighths in [4, 7, 8] {
                let aim = after.saturating_add(Nanos::new(wait.get() / 8 * eighths)).min(early);
                subject.pass(aim.saturating_sub(subject.now())).await;
                let outcome = subject.take(&limit, "k", units).await?;
                let now = subject.now();
                ensure!(
                    !outcome.admitted || now > early,
                    "{algorithm}: {units} units were denied for {} ns and admitted after {} ns",
                    wait.get(),
                    now.saturating_sub(after).get()
                );
                if outcome.admitted {
                    // Overslept, but it was admitted as soon as anybody looked.
                    continue 'units;
                }
            }
            let due = before.saturating_add(wait);
            let due = if subject.is_driven() { due } else { due.saturating_add(tolerance) };
            subject.pass(due.saturating_sub(subject.now())).await;
            ensure!(
                subject.take(&limit, "k", units).await?.admitted,
                "{algorithm}: {units} units were denied for {} ns, and are denied still after that",
                wait.get()
            );
        }
    }
    Ok(())
}

/// Greedy traffic of different sizes with pauses of different lengths, and what of it was admitted.
async fn traffic<S: Store>(
    subject: &Subject<S>,
    limit: &Limit,
    length: Nanos,
) -> Result<Vec<Admitted>, String> {
    let mut admitted = Vec::new();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let end = subject.now().saturating_add(length);
    let mut units_seen = 0;
    while subject.now() < end {
        let units = u32::try_from(1 + next(3)).unwrap_or(1);
        let (after, utc_after) = (subject.now(), subject.utc());
        let outcome = subject.take(limit, "k", units).await?;
        if outcome.admitted {
            let utc = (utc_after, subject.utc());
            admitted.push(Admitted { after, before: subject.now(), utc, units });
            units_seen += units;
        }
        // Mostly at once, now and then a pause, sometimes a long one.
        match next(16) {
            0 => subject.pass(Nanos::new(next(100_000_000))).await,
            1..4 => subject.pass(Nanos::new(next(10_000_000))).await,
            _ if subject.is_driven() => subject.pass(Nanos::new(next(500_000))).await,
            _ => {}
        }
    }
    ensure!(
        units_seen >= limit.capacity(),
        "{:?} admitted only {units_seen} units where {} were there from the start",
        limit.name(),
        limit.capacity()
    );
    Ok(admitted)
}
