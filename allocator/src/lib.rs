//! Who may spend how much: the protocol between replicas, which spend, and the allocator, which owns a budget's limit
//! and hands out allowance. Pure: messages, the allocator's state, and the size of grants; whoever calls brings time,
//! durability and transport. One state serves every backend that keeps it in a process (standalone, operator); the
//! Redis script does the same and runs the same contract.
//!
//! ```text
//! replica: admits while used + held + R <= granted - returned      allocator: closed + sum(granted - returned) <= limit
//!    │  Report {returned, used, held, wanted}  (totals, never differences: lost, doubled, late messages are harmless)
//!    └────────────────────────► sync ────► state is durable ────► Answer {granted, limit, used elsewhere, tight}
//! ```
//!
//! What keeps a Hard budget whole, and is proved in `tests/model.rs`: an answer leaves only when the grant in it is
//! durable; state is written only over the version that it was computed from; totals only grow; a replica gives back
//! before it says so; a process that starts is a new replica; closing an account charges all that it was granted and
//! did not give back.
#![forbid(unsafe_code)]

mod budget;
pub mod leases;
mod message;
mod period;
pub mod rates;
mod size;
pub mod tally;
mod terms;

pub use budget::{Account, Asker, Books, Budget, Synced, Totals};
pub use message::{Answer, Answers, Batch, Exchange, Exchanged, ReplicaId, Report};
pub use period::{CalendarUnit, Kind, Period, Span};
pub use size::grant;
pub use terms::{Mode, Terms, Unit};
