//! The part of a sliding window's state that does not fit into a slot: one cache line beside it, read and
//! written only by who holds the slot's lock.

use crate::algorithm::{CELLS, Ring};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// A [`Ring`] in memory that threads share. The slot's lock orders all accesses, so each is relaxed.
#[repr(align(64))]
#[derive(Debug)]
pub(super) struct Record {
    cells: [AtomicU32; CELLS],
    index: AtomicU64,
    cell: AtomicU64,
}

impl Record {
    pub(super) fn empty() -> Self {
        Self {
            cells: std::array::from_fn(|_| AtomicU32::new(0)),
            index: AtomicU64::new(0),
            cell: AtomicU64::new(0),
        }
    }

    pub(super) fn load(&self) -> Ring {
        let mut cells = [0; CELLS];
        for (count, cell) in cells.iter_mut().zip(&self.cells) {
            *count = cell.load(Ordering::Relaxed);
        }
        Ring { cells, index: self.index.load(Ordering::Relaxed), cell: self.cell.load(Ordering::Relaxed) }
    }

    pub(super) fn store(&self, ring: &Ring) {
        for (count, cell) in ring.cells.iter().zip(&self.cells) {
            cell.store(*count, Ordering::Relaxed);
        }
        self.index.store(ring.index, Ordering::Relaxed);
        self.cell.store(ring.cell, Ordering::Relaxed);
    }
}
