//! Leases: hot keys get batches of units that are spent in this process, and still nothing is admitted beyond
//! the limit's own bound, over all replicas.
//!
//! A lease has no expiry to choose, no identity and no return: it is a piece of the bucket's time line
//! ([`segment`]), each unit of which can be spent until its own time. A replica that is killed takes nothing
//! with it for longer than that. The price is on the other side: what lies in other replicas' leases is missing
//! for a moment.
//!
//! ```text
//! LeasedStore     store.rs, several.rs   runs it over a shared store: tasks, waiting, refunds, late charges
//!   Spares        spares.rs, keeping.rs  permits of concurrency limits, kept for the next request
//!   Table         table.rs, cold.rs      all keys of this process, behind their locks; bounded
//!     Lease       protocol.rs            one key: what to do about a request, a reply, a fault (pure)
//!       Holding   segment.rs             what it has, and until when
//! grant           grant.rs               the store's side: how much it gives; scripts/decide.lua has a transcription
//! ```
//!
//! # What bounds what
//!
//! | what happens | admitted beyond the limit's own bound |
//! |---|---|
//! | replicas are killed, cut off, asleep; answers are lost, late, repeated; clocks run 0.1 % apart | nothing |
//! | the store's clock is set back | nothing |
//! | the store's clock is set forwards | what it skips, at most a burst, as without leases |
//! | the store loses its state, or a failover its last operations | what was lost, at most a burst, as without leases |
//! | a key is reset | what lies in leases of replicas that don't know of it yet |
//! | units are refunded without receipt, or strict ones by a receipt the store can't place | what is refunded, while others hold leases |
//! | a cost is charged after the response | what is admitted within 50 ms, or until 64 such charges |
//!
//! What leases may hold back from others is another matter: [`what_may_lie_elsewhere`].

mod anchor;
mod arrivals;
mod bound;
mod cold;
mod debts;
pub mod grant;
mod holding;
mod keeping;
mod message;
mod policy;
mod protocol;
pub mod segment;
mod several;
mod sleep;
mod source;
mod spares;
mod store;
mod table;
mod terms;
mod ticks;

pub use anchor::Anchor;
pub use arrivals::{Arrivals, PerMicro};
pub use bound::{HeldBack, what_may_lie_elsewhere};
pub use holding::{Batch, Holding, Spent};
pub use message::{Answer, Ask, Given, Reply, Step};
pub use policy::Policy;
pub use protocol::Lease;
pub use source::GrantSource;
pub use store::LeasedStore;
pub use table::{Id, Next, Table, Taken};
pub use terms::{Kind, Terms};
pub use ticks::Ticks;
