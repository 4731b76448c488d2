//! The conformance kit finds nothing wrong with the stores there are, and finds what is wrong with broken ones.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use ratelimit_core::algorithm::{Op, Outcome, Program};
use ratelimit_core::store::{Charge, LocalStore, Origin, Outcomes, Verdict};
use ratelimit_core::testing::{self, Subject};
use ratelimit_core::{Key, KeyBuf, Limit, LimitSpec, ManualClock, MemoryStore, Nanos, Store, StoreError};

type Memory = MemoryStore<ManualClock>;

mod driven_by_hand {
    use super::*;

    async fn fresh() -> Subject<Memory> {
        let clock = ManualClock::default();
        Subject::driven(MemoryStore::with_clock(clock.clone()), clock)
    }
    ratelimit_core::store_laws!(fresh);
}

mod by_the_machines_clock {
    use super::*;

    async fn fresh() -> Subject<MemoryStore> {
        Subject::waiting(MemoryStore::default())
    }
    ratelimit_core::store_laws!(fresh);
}

mod asked_from_afar {
    use super::*;

    async fn fresh() -> Subject<Broken> {
        broken(Fault::None)
    }
    ratelimit_core::store_laws!(fresh);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_law_finds_what_breaks_it() {
    let mut wrong = Vec::new();
    for &(fault, laws) in FAULTS {
        let found = testing::violations(async || broken(fault)).await;
        let missed = laws.iter().filter(|law| !found.iter().any(|violation| violation.law == **law));
        wrong.extend(missed.map(|law| format!("{law} does not see {fault:?}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for law in testing::LAWS {
        assert!(FAULTS.iter().any(|(_, laws)| laws.contains(law)), "no fault here is meant to break {law}");
    }
}

/// What can be wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Every tenth denial becomes an admission.
    Leaky,
    /// The last unit is never given out.
    Stingy,
    PromisesTooSoon,
    PromisesATickTooLate,
    ResetTimeTooShort,
    ChargesDenials,
    PeekCharges,
    ZeroCostsOne,
    NeverMeansLater,
    DebitCanBeRefused,
    IgnoresReceipts,
    IgnoresResets,
    LosesPermits,
    PostsTwice,
    /// Charges what comes before the denial.
    OneByOne,
    /// Says that all after the first denial deny too.
    StopsLooking,
    ChargesDuplicatesOnce,
    ShadowVetoes,
    DebitsAlthoughRefused,
    ShortKeys,
    NamesWithoutCase,
    OverrideStartsAnew,
    /// Looks, then charges.
    LooksThenCharges,
    ChargesAgainWhenDropped,
}

const FAULTS: &[(Fault, &[&str])] = &[
    (
        Fault::Leaky,
        &["bound_of_token_bucket", "bound_of_sliding_window", "bound_of_fixed_window", "parallel_quota"],
    ),
    (Fault::Stingy, &["full_quota_comes_back", "parallel_quota"]),
    (Fault::PromisesTooSoon, &["retry_after_is_tight"]),
    (Fault::PromisesATickTooLate, &["retry_after_is_tight"]),
    (Fault::ResetTimeTooShort, &["full_quota_comes_back"]),
    (Fault::ChargesDenials, &["denied_changes_nothing"]),
    (Fault::PeekCharges, &["peek_charges_nothing"]),
    (Fault::ZeroCostsOne, &["zero_charges_nothing"]),
    (Fault::NeverMeansLater, &["more_than_the_capacity_is_never"]),
    (Fault::DebitCanBeRefused, &["debit_goes_into_debt_and_no_further"]),
    (Fault::IgnoresReceipts, &["refund_gives_back_what_time_has_not"]),
    (Fault::IgnoresResets, &["reset_is_a_fresh_start"]),
    (Fault::LosesPermits, &["permits_are_counted", "parallel_permits"]),
    (Fault::PostsTwice, &["post_is_made"]),
    (Fault::OneByOne, &["all_or_nothing", "parallel_all_or_nothing"]),
    (Fault::StopsLooking, &["all_or_nothing", "order_does_not_matter"]),
    (Fault::ChargesDuplicatesOnce, &["duplicates_are_both_charged"]),
    (Fault::ShadowVetoes, &["shadow_never_vetoes"]),
    (Fault::DebitsAlthoughRefused, &["unconditional_follows_the_rest"]),
    (Fault::ShortKeys, &["keys_are_separate"]),
    (Fault::NamesWithoutCase, &["limits_are_separate"]),
    (Fault::OverrideStartsAnew, &["overrides_share_state"]),
    (Fault::LooksThenCharges, &["parallel_quota", "parallel_permits"]),
    (Fault::ChargesAgainWhenDropped, &["dropped_calls_charge_at_most_once"]),
];

/// A store elsewhere, right but for one thing.
struct Broken {
    store: Memory,
    fault: Fault,
    denials: AtomicU32,
    one_at_a_time: Mutex<()>,
}

fn broken(fault: Fault) -> Subject<Broken> {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone());
    let (denials, one_at_a_time) = (AtomicU32::new(0), Mutex::new(()));
    Subject::driven(Broken { store, fault, denials, one_at_a_time }, clock)
}

fn counts_permits(limit: &Limit) -> bool {
    matches!(limit.program(), Program::Concurrency(_))
}

impl Broken {
    fn answer(&self, charges: &[Charge<'_>]) -> Verdict {
        let _turn = self.one_at_a_time.lock().unwrap();
        let ask = |charges: &[Charge<'_>]| self.store.decide_now(charges);
        match self.fault {
            Fault::ChargesDenials => {
                let verdict = ask(charges);
                if !verdict.admitted {
                    let debits: Vec<_> =
                        charges.iter().map(|charge| Charge { op: Op::Debit(1), ..*charge }).collect();
                    ask(&debits);
                }
                verdict
            }
            Fault::OneByOne => {
                let mut all = Verdict { admitted: true, origin: Origin::Store, outcomes: Outcomes::new() };
                for charge in charges {
                    let charge = if all.admitted { *charge } else { peek(charge) };
                    let one = ask(&[charge]);
                    all.admitted &= one.admitted;
                    all.outcomes.extend(one.outcomes);
                }
                all
            }
            Fault::StopsLooking => {
                let mut verdict = ask(charges);
                if let Some(first) = verdict.outcomes.iter().position(|outcome| !outcome.admitted) {
                    for outcome in &mut verdict.outcomes[first..] {
                        *outcome = Outcome::refused(0, Some(Nanos::from_secs(1)));
                    }
                }
                verdict
            }
            Fault::ChargesDuplicatesOnce if charges.len() == 2 && charges[0].key == charges[1].key => {
                let same = charges[0].limit.id() == charges[1].limit.id();
                let mut verdict = ask(&charges[usize::from(same)..]);
                if same {
                    let outcome = verdict.outcomes[0];
                    verdict.outcomes.push(outcome);
                }
                verdict
            }
            Fault::DebitsAlthoughRefused => {
                let verdict = ask(charges);
                if !verdict.admitted {
                    for charge in charges.iter().filter(|charge| !charge.op.is_conditional()) {
                        ask(&[*charge]);
                    }
                }
                verdict
            }
            Fault::ShadowVetoes => {
                let enforced: Vec<_> = charges.iter().map(|charge| enforced(charge.limit)).collect();
                let charges: Vec<_> =
                    enforced.iter().zip(charges).map(|(limit, charge)| Charge { limit, ..*charge }).collect();
                ask(&charges)
            }
            Fault::NamesWithoutCase => {
                let folded: Vec<_> = charges.iter().map(|charge| without_case(charge.limit)).collect();
                let charges: Vec<_> =
                    folded.iter().zip(charges).map(|(limit, charge)| Charge { limit, ..*charge }).collect();
                ask(&charges)
            }
            Fault::ShortKeys => {
                let mut keys: Vec<_> = charges.iter().map(|charge| charge.key.to_vec()).collect();
                keys.iter_mut().for_each(|key| key.truncate(100));
                let charges: Vec<_> = keys
                    .iter()
                    .zip(charges)
                    .map(|(key, charge)| Charge { key: Key::from_canonical(key), ..*charge })
                    .collect();
                ask(&charges)
            }
            Fault::OverrideStartsAnew => {
                let keys: Vec<_> = charges
                    .iter()
                    .map(|charge| {
                        let mut key = KeyBuf::new();
                        key.push_bytes(&charge.key.to_vec());
                        key.push_u64(charge.limit.capacity().into());
                        key
                    })
                    .collect();
                let charges: Vec<_> = keys
                    .iter()
                    .zip(charges)
                    .map(|(key, charge)| Charge { key: key.key(), ..*charge })
                    .collect();
                ask(&charges)
            }
            _ => {
                let charges: Vec<_> = charges.iter().map(|charge| self.bent(charge)).collect();
                let mut verdict = ask(&charges);
                for (outcome, charge) in verdict.outcomes.iter_mut().zip(&charges) {
                    self.bend(outcome, charge);
                }
                if self.fault == Fault::Stingy || self.fault == Fault::Leaky {
                    verdict.admitted = verdict.outcomes.iter().all(|outcome| outcome.admitted);
                }
                verdict
            }
        }
    }

    /// The operation as this store understands it.
    fn bent<'a>(&self, charge: &Charge<'a>) -> Charge<'a> {
        let op = match (self.fault, charge.op) {
            (Fault::PeekCharges, Op::Peek(units)) => Op::Take(units),
            (Fault::ZeroCostsOne, Op::Take(0)) => Op::Take(1),
            (Fault::DebitCanBeRefused, Op::Debit(units)) => Op::Take(units),
            (Fault::IgnoresReceipts, Op::Refund(units, _)) => Op::Refund(units, None),
            (Fault::IgnoresResets, Op::Reset) => Op::Peek(0),
            (Fault::LosesPermits, Op::Refund(..)) if counts_permits(charge.limit) => Op::Peek(0),
            (_, op) => op,
        };
        Charge { op, ..*charge }
    }

    /// The outcome as this store tells it.
    #[allow(clippy::collapsible_match, reason = "the guard would hide that it counts")]
    fn bend(&self, outcome: &mut Outcome, charge: &Charge<'_>) {
        match self.fault {
            Fault::Leaky if !outcome.admitted => {
                if self.denials.fetch_add(1, Ordering::SeqCst) % 10 == 9 {
                    *outcome = Outcome::admitted(0);
                }
            }
            Fault::Stingy if matches!(charge.op, Op::Take(_)) && outcome.remaining() == 0 => {
                if outcome.admitted {
                    self.store.decide_now(&[Charge { op: Op::Refund(1, None), ..*charge }]);
                }
                outcome.admitted = false;
                outcome.retry_after = Some(Nanos::from_secs(1));
            }
            Fault::PromisesTooSoon => {
                outcome.retry_after =
                    outcome.retry_after.map(|wait| Nanos::new(wait.get() - wait.get() / 100));
            }
            Fault::PromisesATickTooLate => {
                outcome.retry_after = outcome.retry_after.map(|wait| Nanos::new(wait.get() + 1));
            }
            Fault::ResetTimeTooShort => outcome.reset_after = Nanos::new(outcome.reset_after.get() / 2),
            Fault::NeverMeansLater if !outcome.admitted => {
                outcome.retry_after = outcome.retry_after.or(Some(Nanos::from_secs(1)));
            }
            _ => {}
        }
    }
}

fn peek<'a>(charge: &Charge<'a>) -> Charge<'a> {
    let op = if let Op::Take(units) = charge.op { Op::Peek(units) } else { Op::Peek(0) };
    Charge { op, ..*charge }
}

fn enforced(limit: &Limit) -> Limit {
    Limit::try_from(LimitSpec { mode: ratelimit_core::Mode::Enforce, ..limit.spec().clone() }).unwrap()
}

fn without_case(limit: &Limit) -> Limit {
    Limit::try_from(LimitSpec { name: limit.name().to_lowercase(), ..limit.spec().clone() }).unwrap()
}

/// Charges when it is dropped.
struct OnDrop<'a, 'c>(&'a Memory, Option<&'a [Charge<'c>]>);

impl Drop for OnDrop<'_, '_> {
    fn drop(&mut self) {
        if let Some(charges) = self.1.take() {
            self.0.decide_now(charges);
            self.0.decide_now(charges);
        }
    }
}

impl Store for Broken {
    fn try_decide(&self, _: &[Charge<'_>]) -> Option<Verdict> {
        None
    }

    async fn decide(&self, charges: &[Charge<'_>]) -> Result<Verdict, StoreError> {
        if self.fault == Fault::ChargesAgainWhenDropped {
            let mut again = OnDrop(&self.store, Some(charges));
            tokio::task::yield_now().await;
            again.1 = None;
            return Ok(self.answer(charges));
        }
        if self.fault == Fault::LooksThenCharges {
            let looked: Vec<_> = charges.iter().map(peek).collect();
            let verdict = self.store.decide_now(&looked);
            tokio::task::yield_now().await;
            if verdict.admitted {
                for charge in charges {
                    let op = if let Op::Take(units) = charge.op { Op::Debit(units) } else { charge.op };
                    self.store.decide_now(&[Charge { op, ..*charge }]);
                }
            }
            return Ok(verdict);
        }
        tokio::task::yield_now().await;
        Ok(self.answer(charges))
    }

    fn post(&self, charge: Charge<'_>) {
        self.answer(&[charge]);
        if self.fault == Fault::PostsTwice {
            self.answer(&[charge]);
        }
    }
}
