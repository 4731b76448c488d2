//! From requests to the arguments of a call.

use ratelimit_core::algorithm::{Op, Receipt};

use super::{Part, What};
use crate::shape::{Kind, Shape, float};

/// The arguments of one script call, put together request by request.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    format: Vec<u8>,
    numbers: Vec<u8>,
}

/// What a batch with permits or calendars says besides.
#[derive(Debug, Default)]
pub(crate) struct More<'a> {
    /// Keys that follow a calendar, by their place among the keys, with their boundaries in microseconds.
    pub(crate) calendars: &'a [(u8, [f64; 4])],
    /// Number of the batch.
    pub(crate) sequence: u64,
    /// Microseconds until permits lapse.
    pub(crate) expiry: u64,
}

impl Arguments {
    /// Begins a batch over keys of those shapes, in order.
    pub(crate) fn begin<'s>(&mut self, shapes: impl IntoIterator<Item = &'s Shape>, more: Option<&More<'_>>) {
        self.format.clear();
        self.numbers.clear();
        self.format.push(b'<');
        for shape in shapes {
            for number in [shape.capacity, shape.ceiling, shape.code()] {
                self.double(number);
            }
        }
        let Some(more) = more else { return self.byte(0) };
        self.byte(1);
        self.byte(u8::try_from(more.calendars.len()).unwrap_or(u8::MAX));
        for (key, boundaries) in more.calendars {
            self.byte(*key);
            boundaries.iter().for_each(|&boundary| self.double(boundary));
        }
        self.double(float(more.sequence));
        self.double(float(more.expiry));
    }

    /// A whole batch for `scripts/takes.lua`: takes from buckets, all of them different.
    pub(crate) fn takes<'p>(&mut self, requests: impl Iterator<Item = &'p [Part]>) {
        self.format.clear();
        self.numbers.clear();
        self.format.push(b'<');
        for parts in requests {
            self.byte(count(parts));
            for part in parts {
                self.double(part.shape.capacity);
                self.double(part.shape.ceiling);
                self.double(part.shape.amount(part.units()));
            }
        }
    }

    /// Adds a request; `key_of` tells the place of a part's key among the keys, counted from 1.
    pub(crate) fn request(&mut self, parts: &[Part], mut key_of: impl FnMut(&Part) -> u8) {
        if let [part] = parts
            && let What::Lease(wish) = &part.what
        {
            return self.lease(key_of(part), &part.shape, wish);
        }
        let plain = |part: &Part| matches!(part.what, What::Do(Op::Take(_))) && !part.limit.is_shadow();
        if parts.iter().all(plain) && !parts.is_empty() {
            self.byte(count(parts));
            for part in parts {
                self.byte(key_of(part));
                self.double(part.shape.amount(part.units()));
            }
            return;
        }
        self.byte(0);
        self.byte(count(parts));
        for part in parts {
            let shadow = part.limit.is_shadow();
            let (operation, receipt) = match part.what {
                What::Do(Op::Take(_)) => (if shadow { 8 } else { 1 }, None),
                What::Do(Op::Peek(_)) => (if shadow { 9 } else { 2 }, None),
                What::Do(Op::Debit(_)) => (3, None),
                What::Do(Op::Refund(_, None)) => (4, None),
                What::Do(Op::Refund(_, Some(receipt))) if part.is_permits() => (4, Some(receipt)),
                What::Do(Op::Refund(_, Some(receipt))) => (5, Some(receipt)),
                What::Do(Op::Reset) => (6, None),
                What::Do(Op::Rescale(_)) => (12, None),
                What::Hold(_) => (7, None),
                What::Renew => (10, None),
                What::Undo(_, receipt) => (11, Some(receipt)),
                // An operation that this version does not know changes nothing.
                What::Do(_) | What::Lease(_) => (2, None),
            };
            let (mark, mark2) = receipt.map_or((0.0, 0.0), |receipt| marks(&part.shape, receipt));
            self.byte(operation);
            self.byte(key_of(part));
            self.double(match part.what {
                // Rounded down: the share that is used is never less than it was.
                What::Do(Op::Rescale(former)) => float(former.get() / 1000),
                _ => part.shape.amount(part.units()),
            });
            self.double(mark);
            self.double(mark2);
        }
    }

    /// Format and numbers as they are sent.
    pub(crate) fn finished(&self) -> (&[u8], &[u8]) {
        (&self.format, &self.numbers)
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.format.push(b'B');
        self.numbers.push(byte);
    }

    pub(crate) fn double(&mut self, number: f64) {
        self.format.push(b'd');
        self.numbers.extend_from_slice(&number.to_le_bytes());
    }
}

fn count(parts: &[Part]) -> u8 {
    u8::try_from(parts.len()).unwrap_or(u8::MAX)
}

/// A receipt's two marks. One that was made by another store, or for another algorithm, gives nothing back.
pub(super) fn marks(shape: &Shape, receipt: Receipt) -> (f64, f64) {
    let part = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).map_or(0.0, f64::from_bits);
    let (high, low) = (part(receipt.mark() >> 64), part(receipt.mark()));
    let plausible = |mark: f64| (0.0..9e15).contains(&mark);
    match shape.kind {
        _ if !plausible(high) || !plausible(low) => (0.0, 0.0),
        // Never more ahead than a charge could have been.
        Kind::Bucket { .. } => (high, low.min(shape.ceiling)),
        _ => (high, low),
    }
}
