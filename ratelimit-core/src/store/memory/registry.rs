//! Which table belongs to which limit.
//!
//! Limits are few and seldom new, so tables are only ever added: finding one takes no lock and no reference
//! count. A limit that goes out of use keeps its table until the store is dropped.

use std::sync::OnceLock;

use super::kind::Kind;
use super::table::Table;
use crate::limit::{Limit, LimitId};

/// Levels of 64, 128, 256, … places.
const LEVELS: usize = 20;
const FIRST_LEVEL: u64 = 64;
/// Places that are tried in a level before going on to the next.
const PROBES: u64 = 8;

/// Tables by limit and kind of state: a limit whose algorithm changes must not read the former's states.
#[derive(Debug)]
pub(super) struct Registry([OnceLock<Box<[OnceLock<Home>]>>; LEVELS]);

#[derive(Debug)]
struct Home {
    id: LimitId,
    table: Table,
}

impl Registry {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }

    /// The limit's table, made by `make` when it is asked for first. `None` only if more limits are in use
    /// than memory could hold.
    #[inline]
    pub(super) fn table(&self, limit: &Limit, make: impl Fn(Kind) -> Table) -> Option<&Table> {
        let (id, kind) = (limit.id(), Kind::of(limit.program()));
        for (number, level) in self.0.iter().enumerate() {
            let length = FIRST_LEVEL << number;
            let places = level.get_or_init(|| (0..length).map(|_| OnceLock::new()).collect());
            for probe in 0..PROBES {
                let place = usize::try_from(id.get().wrapping_add(probe) & (length - 1)).ok().and_then(|index| places.get(index))?;
                let home = match place.get() {
                    Some(home) => home,
                    None => place.get_or_init(|| Home { id, table: make(kind) }),
                };
                if home.id == id && home.table.kind() == kind {
                    return Some(&home.table);
                }
            }
        }
        None
    }
}
