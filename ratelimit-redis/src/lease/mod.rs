//! Leases: hot keys get batches of units that are spent in this process, and still nothing is admitted beyond
//! the limit's own bound, over all replicas.
//!
//! A lease has no expiry to choose, no identity and no return: it is a piece of the bucket's time line
//! ([`segment`]), each unit of which can be spent until its own time. A replica that is killed takes nothing
//! with it for longer than that. The price is on the other side: what lies in other replicas' leases is missing
//! for a moment.
//!
//! * [`grant`]: how much the store gives; its script is a transcription.
//! * [`Lease`]: what a replica knows of a key and does next (pure).

mod anchor;
mod arrivals;
mod bound;
mod cold;
mod debts;
pub mod grant;
mod holding;
mod policy;
mod protocol;
pub mod segment;
mod sleep;
mod source;
mod store;
mod table;
mod terms;
mod ticks;

pub use anchor::Anchor;
pub use arrivals::{Arrivals, PerMicro};
pub use bound::{HeldBack, what_may_lie_elsewhere};
pub use holding::{Batch, Holding, Spent};
pub use policy::Policy;
pub use protocol::{Answer, Ask, Given, Lease, Reply, Step};
pub use source::GrantSource;
pub use store::LeasedStore;
pub use table::{Id, Next, Table, Taken};
pub use terms::{Kind, Terms};
pub use ticks::Ticks;
