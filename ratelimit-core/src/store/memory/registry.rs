//! Which table belongs to which limit.
//!
//! Limits are few and seldom new, so tables are only ever added: finding one takes no lock and no reference
//! count. A limit that goes out of use keeps its table until the store is dropped.

use std::sync::OnceLock;

use super::kind::Kind;
use super::table::Table;
use crate::limit::{Limit, LimitId};

/// Levels beyond the first, of 64, 128, 256, … places.
const LEVELS: usize = 20;
/// Places in the first level.
const FIRST_LEVEL: u64 = 64;
/// Places that are tried in a level before going on to the next.
const PROBES: u64 = 8;

/// Tables by limit and kind of state: a limit whose algorithm changes must not read the former's states.
#[derive(Debug)]
pub(super) struct Registry {
    first: Box<[OnceLock<Home>]>,
    more: [OnceLock<Box<[OnceLock<Home>]>>; LEVELS],
}

#[derive(Debug)]
struct Home {
    id: LimitId,
    table: Table,
}

impl Registry {
    pub(super) fn new() -> Self {
        Self { first: level(FIRST_LEVEL), more: std::array::from_fn(|_| OnceLock::new()) }
    }

    /// The table of a limit that is where one looks first: nearly always, if there is one.
    #[inline(always)]
    pub(super) fn known(&self, id: LimitId, kind: Kind) -> Option<&Table> {
        let place = usize::try_from(id.get() & (FIRST_LEVEL - 1)).ok()?;
        let home = self.first.get(place)?.get()?;
        home.holds(id, kind).then_some(&home.table)
    }

    /// The limit's table, made by `make` when it is asked for first. `None` only if more limits are in use
    /// than memory could hold.
    pub(super) fn table(&self, limit: &Limit, make: impl Fn(Kind) -> Table) -> Option<&Table> {
        let (id, kind) = (limit.id(), Kind::of(limit.program()));
        self.known(id, kind).or_else(|| self.search(id, kind, make))
    }

    fn search(&self, id: LimitId, kind: Kind, make: impl Fn(Kind) -> Table) -> Option<&Table> {
        let more = self
            .more
            .iter()
            .enumerate()
            .map(|(number, more)| more.get_or_init(|| level(FIRST_LEVEL << number)));
        for places in std::iter::once(&self.first).chain(more) {
            for probe in 0..PROBES {
                let index = id.get().wrapping_add(probe) & (places.len() as u64 - 1);
                let place = places.get(usize::try_from(index).ok()?)?;
                let home = place.get_or_init(|| Home { id, table: make(kind) });
                if home.holds(id, kind) {
                    return Some(&home.table);
                }
            }
        }
        None
    }
}

impl Home {
    #[inline]
    fn holds(&self, id: LimitId, kind: Kind) -> bool {
        self.id == id && self.table.kind() == kind
    }
}

fn level(places: u64) -> Box<[OnceLock<Home>]> {
    (0..places).map(|_| OnceLock::new()).collect()
}
