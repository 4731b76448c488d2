//! One operation on one key: find its entry, make it if need be, try, and begin anew if it was moved meanwhile.

use super::entry::{absent, attempt};
use super::segment::Found;
use super::slot::Tag;
use super::table::{Inserted, Table};
use crate::algorithm::{Moment, Op, Outcome, Program, Receipt};
use crate::time::Nanos;

/// What a client is told that was refused because the table is full.
pub(super) const NO_ROOM_RETRY: Nanos = Nanos::from_secs(1);

/// In a receipt: the charge was made on a shared overflow entry, and has to return to it.
const ON_OVERFLOW: u128 = 1 << 127;

/// Does `op` to the key of that tag.
pub(super) fn operate(
    table: &Table,
    tag: Tag,
    program: &Program,
    op: Op,
    clock: impl Fn() -> Moment,
) -> Outcome {
    let mut at = clock();
    loop {
        let (found, op) = match op {
            Op::Refund(units, Some(receipt)) if is_for_overflow(op) => {
                let receipt = Receipt::new(receipt.mark() & !ON_OVERFLOW);
                (table.overflow(tag), Op::Refund(units, Some(receipt)))
            }
            op => (table.find(tag), op),
        };
        let found = match found {
            Some(found) => found,
            None => match without_entry(table, tag, program, op, &mut at, &clock) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(outcome) => return outcome,
            },
        };
        if let Some(outcome) = attempt(program, &found, &at, op) {
            return marked(outcome, &found);
        }
    }
}

/// Whether the operation belongs to a charge that was made on a shared entry.
#[inline]
fn is_for_overflow(op: Op) -> bool {
    matches!(op, Op::Refund(_, Some(receipt)) if receipt.mark() & ON_OVERFLOW != 0)
}

/// An entry to work on for a key that has none; `Ok(None)`: look again; `Err`: there is nothing to do.
fn without_entry<'t>(
    table: &'t Table,
    tag: Tag,
    program: &Program,
    op: Op,
    at: &mut Moment,
    clock: &impl Fn() -> Moment,
) -> Result<Option<Found<'t>>, Outcome> {
    let (needs_entry, outcome) = absent(program, at, op);
    if !needs_entry {
        if !table.is_absent(tag) {
            return Ok(None);
        }
        // What the key may have spent is in the shared entry, if in any; what is done to one key leaves the others theirs.
        return match table.shared(tag, at) {
            Some(shared) if !matches!(op, Op::Reset | Op::Rescale(_)) => Ok(Some(shared)),
            _ => Err(outcome),
        };
    }
    match table.insert(tag, clock) {
        Inserted::New(found, now) => {
            *at = now;
            Ok(Some(found))
        }
        Inserted::Again => Ok(None),
        Inserted::Full(Some(shared)) => Ok(Some(shared)),
        Inserted::Full(None) => Err(Outcome::refused(0, Some(NO_ROOM_RETRY))),
    }
}

/// The outcome with a receipt that leads back to the entry that was charged.
pub(super) fn marked(outcome: Outcome, found: &Found<'_>) -> Outcome {
    if found.is_overflow() {
        let mark = outcome.receipt.mark() | ON_OVERFLOW;
        return outcome.with_receipt(Receipt::new(mark));
    }
    outcome
}
