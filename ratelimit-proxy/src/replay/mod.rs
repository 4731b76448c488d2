//! What the limits would have said to recorded traffic: lines of access logs in, a report out.
//!
//! ```text
//! line ─▶ Entry ─▶ Facts ─▶ the policy and the store of the proxy, at the recorded time ─▶ Report
//!         entry            judge                                                           report, page
//! ```
//!
//! Nothing here decides: the policy selects, the memory store counts, by a clock that the log drives.

mod combined;
mod entry;
mod json;
mod judge;
mod need;
mod page;
mod report;
mod series;

pub use entry::{Entry, EntryError, Reader};
pub(crate) use judge::Judge;
pub(crate) use page::page;
pub(crate) use report::Report;
