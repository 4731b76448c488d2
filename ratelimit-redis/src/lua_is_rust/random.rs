//! Random limits, operations and questions.

use ratelimit_core::algorithm::{Op, Receipt};
use ratelimit_core::{Algorithm, Limit, LimitSpec, Mode, Nanos, Rate};

use crate::lease::{Ask, PerMicro};

pub(super) fn random_limit(random: &mut fastrand::Rng, number: usize) -> Limit {
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

pub(super) fn secs(seconds: u32) -> std::time::Duration {
    std::time::Duration::from_secs(seconds.into())
}

pub(super) fn random_op(
    random: &mut fastrand::Rng,
    limit: &Limit,
    receipts: &[(u32, Receipt, Receipt)],
) -> (Op, Op) {
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

pub(super) fn random_ask(random: &mut fastrand::Rng, limit: &Limit) -> Ask {
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
