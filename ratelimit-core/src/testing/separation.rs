//! Who shares a counter, and who does not.

use super::{ALL, Law, Subject, TIMED, encoded, ensure, slow};
use crate::algorithm::Op;
use crate::key::KeyBuf;
use crate::limit::Algorithm;
use crate::rate::Rate;
use crate::store::{Charge, Store};

/// Keys that look alike are not: parts, kinds, case, length, bytes that mean something elsewhere.
///
/// # Errors
/// What is wrong with the subject.
pub async fn keys_are_separate<S: Store>(subject: &Subject<S>) -> Law {
    let long = "x".repeat(5000);
    let keys: Vec<KeyBuf> = vec![
        encoded(()),
        encoded(""),
        encoded(None::<&str>),
        encoded("a"),
        encoded("A"),
        encoded("a "),
        encoded("a\0"),
        encoded("a\r\n"),
        encoded("{a}"),
        encoded("a:b"),
        encoded(("a", "b")),
        encoded(("ab", "")),
        encoded(("", "ab")),
        encoded("ab"),
        encoded("*"),
        encoded(1_u64),
        encoded(1_i64),
        encoded("1"),
        encoded([0xff_u8, 0xfe]),
        encoded(long.as_str()),
        encoded((long.as_str(), "x")),
        encoded(std::net::IpAddr::from([1, 2, 3, 4])),
        encoded("1.2.3.4"),
    ];
    for algorithm in ALL {
        let limit = slow("keys", algorithm, 1)?;
        for admitted in [true, false] {
            for (number, key) in keys.iter().enumerate() {
                let charge = Charge { limit: &limit, key: key.key(), op: Op::Take(1) };
                let verdict = subject.decide(&[charge]).await?;
                ensure!(
                    verdict.admitted == admitted,
                    "{algorithm}: key number {number} was {}: it {}",
                    if verdict.admitted { "admitted" } else { "denied" },
                    if admitted { "shares its counter with one before it" } else { "was forgotten" }
                );
            }
        }
    }
    Ok(())
}

/// Limits of different names count apart, though their keys are equal.
///
/// # Errors
/// What is wrong with the subject.
pub async fn limits_are_separate<S: Store>(subject: &Subject<S>) -> Law {
    for algorithm in ALL {
        for name in ["limits", "limits-", "limit", "limits.a", "Limits"] {
            let limit = slow(name, algorithm, 1)?;
            ensure!(
                subject.take(&limit, "k", 1).await?.admitted,
                "{algorithm}: the limit {name:?} shares a counter with another"
            );
            ensure!(!subject.take(&limit, "k", 1).await?.admitted, "{algorithm}: {name:?} forgot its charge");
        }
    }
    Ok(())
}

/// A limit with another quota and the same name counts by the same counter: what was used stays used.
///
/// # Errors
/// What is wrong with the subject.
pub async fn overrides_share_state<S: Store>(subject: &Subject<S>) -> Law {
    let years = std::time::Duration::from_secs(3660 * 86_400);
    for algorithm in TIMED {
        let usual = slow("override", algorithm, 10)?;
        let rate = Rate::new(20, years).map_err(|error| error.to_string())?;
        let burst = (algorithm == Algorithm::TokenBucket).then_some(20);
        let more = usual.with_quota(rate, burst).map_err(|error| error.to_string())?;
        subject.take(&usual, "k", 6).await?;
        let left = subject.left(&more, "k").await?;
        ensure!(left < 20, "{algorithm}: used 6 of 10, and with a quota of 20 nothing seems to be used");
        ensure!(left >= 4, "{algorithm}: used 6 of 10, and with a quota of 20 only {left} are left");
        let left = subject.left(&usual, "k").await?;
        ensure!(left == 4, "{algorithm}: looked at through another quota, 4 left became {left}");
        subject.take(&more, "k", 2).await?;
        let left = subject.left(&usual, "k").await?;
        ensure!(left < 4, "{algorithm}: what was taken by another quota is not charged to the usual one");
    }
    Ok(())
}
