//! Several charges in one call.

use super::{ALL, Law, Subject, encoded, ensure, limit_of, slow, slow_spec};
use crate::algorithm::Op;
use crate::limit::{Algorithm, Limit, Mode};
use crate::store::{Charge, Store, Verdict};

/// Asks for `units` of each limit, all of key "k".
async fn ask<S: Store>(subject: &Subject<S>, limits: &[(&Limit, u32)]) -> Result<Verdict, String> {
    let key = encoded("k");
    let charges: Vec<_> =
        limits.iter().map(|&(limit, units)| Charge { limit, key: key.key(), op: Op::Take(units) }).collect();
    subject.decide(&charges).await
}

/// One denial, and no limit is charged; whichever limit denies, and wherever it stands.
///
/// # Errors
/// What is wrong with the subject.
pub async fn all_or_nothing<S: Store>(subject: &Subject<S>) -> Law {
    for (number, short) in ALL.into_iter().enumerate() {
        // One limit of each algorithm; that of `short` has less than the others.
        let capacity = |algorithm| if algorithm == short { 2 } else { 9 };
        let limits: Vec<Limit> = ALL
            .into_iter()
            .map(|algorithm| slow(&format!("all-{number}"), algorithm, capacity(algorithm)))
            .collect::<Result<_, _>>()?;
        let mut asked: Vec<_> = limits.iter().map(|limit| (limit, 1)).collect();
        for round in 0..6 {
            asked.rotate_left(1);
            let verdict = ask(subject, &asked).await?;
            ensure!(verdict.admitted == (round < 2), "{short} has 2 of 2, round {round}: {verdict:?}");
            for ((limit, _), outcome) in asked.iter().zip(&verdict.outcomes) {
                let says_no = round >= 2 && limit.capacity() == 2;
                ensure!(
                    outcome.admitted != says_no,
                    "{:?} has {} of {} left, and said {}",
                    limit.name(),
                    outcome.remaining(),
                    limit.capacity(),
                    outcome.admitted
                );
            }
        }
        for limit in &limits {
            let (left, due) = (subject.left(limit, "k").await?, limit.capacity() - 2);
            ensure!(left == due, "{:?} has {left} left, not {due}: a refused call was charged", limit.name());
        }
    }
    Ok(())
}

/// The same charges in another order get the same answers.
///
/// # Errors
/// What is wrong with the subject.
pub async fn order_does_not_matter<S: Store>(subject: &Subject<S>) -> Law {
    let mut seen: Vec<(bool, Vec<(bool, u32)>)> = Vec::new();
    for reversed in [false, true] {
        let limits: Vec<Limit> = ALL
            .into_iter()
            .zip([5, 3, 4, 6])
            .map(|(algorithm, capacity)| slow(&format!("order-{reversed}"), algorithm, capacity))
            .collect::<Result<_, _>>()?;
        let mut history = Vec::new();
        for costs in [[1, 1, 1, 1], [2, 0, 1, 2], [3, 3, 3, 3], [1, 2, 2, 2], [2, 1, 1, 1], [1, 1, 0, 1]] {
            let mut asked: Vec<_> = limits.iter().zip(costs).collect();
            if reversed {
                asked.reverse();
            }
            let verdict = ask(subject, &asked).await?;
            let said = verdict.outcomes.iter().map(|outcome| (outcome.admitted, outcome.remaining()));
            let mut said: Vec<_> = said.collect();
            if reversed {
                said.reverse();
            }
            history.push((verdict.admitted, said));
        }
        if reversed {
            ensure!(history == seen, "forwards the limits said {seen:?}, backwards {history:?}");
        }
        seen = history;
    }
    Ok(())
}

/// One key of one limit, twice in a call, is charged twice or not at all.
///
/// # Errors
/// What is wrong with the subject.
pub async fn duplicates_are_both_charged<S: Store>(subject: &Subject<S>) -> Law {
    for algorithm in ALL {
        let limit = slow("twice", algorithm, 5)?;
        for left in [3, 1] {
            let verdict = ask(subject, &[(&limit, 1), (&limit, 1)]).await?;
            ensure!(verdict.admitted, "{algorithm}: twice 1 was denied with {} of 5 left", left + 2);
            let seen = subject.left(&limit, "k").await?;
            ensure!(seen == left, "{algorithm}: twice 1 was charged, and {seen} are left, not {left}");
        }
        let verdict = ask(subject, &[(&limit, 1), (&limit, 1)]).await?;
        let seen = subject.left(&limit, "k").await?;
        ensure!(
            !verdict.admitted && seen == 1,
            "{algorithm}: twice 1 with 1 left: {}, and {seen} left",
            verdict.admitted
        );
    }
    Ok(())
}

/// A limit in shadow mode stops nobody, says what it would have said, and is charged when it and all others
/// admit.
///
/// # Errors
/// What is wrong with the subject.
pub async fn shadow_never_vetoes<S: Store>(subject: &Subject<S>) -> Law {
    for algorithm in ALL {
        let mut spec = slow_spec("shadow", algorithm, 2)?;
        spec.mode = Mode::Shadow;
        let (shadow, real) = (limit_of(spec)?, slow("beside-shadow", algorithm, 4)?);
        for round in 0..4 {
            let verdict = ask(subject, &[(&shadow, 1), (&real, 1)]).await?;
            ensure!(verdict.admitted, "{algorithm}: a shadow limit denied in round {round}");
            let said = verdict.outcomes.first().map(|outcome| outcome.admitted);
            ensure!(
                said == Some(round < 2),
                "{algorithm}: a shadow limit of 2 said {said:?} in round {round}"
            );
        }
        let left = subject.left(&real, "k").await?;
        ensure!(left == 0, "{algorithm}: beside a shadow limit that says no, {left} of 0 are left");
        subject.op(&shadow, "k", Op::Reset).await?;
        let verdict = ask(subject, &[(&real, 1), (&shadow, 1)]).await?;
        let left = subject.left(&shadow, "k").await?;
        ensure!(
            !verdict.admitted && left == 2,
            "{algorithm}: a refused call charged the shadow limit beside it: {left} of 2 left"
        );
    }
    Ok(())
}

/// Debits and the like are made with the conditional charges of their call, or not.
///
/// # Errors
/// What is wrong with the subject.
pub async fn unconditional_follows_the_rest<S: Store>(subject: &Subject<S>) -> Law {
    let gate = slow("gate", Algorithm::TokenBucket, 1)?;
    let behind = slow("behind", Algorithm::TokenBucket, 10)?;
    let key = encoded("k");
    for (admitted, left) in [(true, 7), (false, 7)] {
        let charges = [
            Charge { limit: &behind, key: key.key(), op: Op::Debit(3) },
            Charge { limit: &gate, key: key.key(), op: Op::Take(1) },
        ];
        let verdict = subject.decide(&charges).await?;
        let seen = subject.left(&behind, "k").await?;
        ensure!(
            verdict.admitted == admitted && seen == left,
            "a debit of 3 beside a charge that should be {admitted} and was {}: {seen} of 10 left, not {left}",
            verdict.admitted
        );
    }
    Ok(())
}
