//! The money engine of one process: budgets that hold, a journal that no crash empties, and a database to ask.
//!
//! An attempt is held in all budgets that bind it, or in none, and written to the journal of its core before it is
//! sent ([`Writer::try_hold`]); what it really cost is written beside it afterwards ([`Hold::settle`]). One that comes
//! bit by bit may hold a part and more as it goes on ([`Writer::extend`]). None of them makes a system call. Allowance comes in chunks that are synced to disk before use (`grants`), so that no crash, power loss
//! or restart lets a Hard budget go above its limit; rows are copied to SQLite by a thread of its own (`copier`).
//!
//! ```text
//! try_hold ─► account (atomics) ─► journal slot: intent ─► ... ─► settle: settlement, account
//!    │ runs low                        │ a segment is full, its attempts ended
//!    ▼                                  ▼
//! grants thread ─► grants.log (fsync)  copier thread ─► ledger.sqlite ─► sums to grants.log ─► file removed
//!                                          └─► spool ─► sender thread ─► PostgreSQL, where there is one
//! ```
//! Files of the data folder: `lock`, `grants.log` and `names.log` (text), `journal/*.segment`, `ledger.sqlite`,
//! `spool/*.spool` where rows go to PostgreSQL.
#![deny(unsafe_code)]

mod account;
mod allowance;
mod budget;
mod copier;
mod counters;
mod durable;
mod grants;
mod hold;
mod inserts;
mod journal;
mod ledger;
mod lock;
mod log;
mod map;
mod members;
mod names;
mod oldest;
mod pace;
mod postgres;
mod record;
mod recover;
mod resting;
mod spool;
mod store;
mod tally;
mod terms;
mod throttle;

pub use budget::{Budget, GrantWait};
pub use counters::CounterValues;
pub use hold::{Hold, Short, Writer};
pub use journal::KernelBoot;
pub use ledger::{Allocation, FlushError, Ledger, OpenError, Options, kernel_boot};
pub use members::{Members, Room, TooMany};
pub use postgres::{PostgresTarget, PostgresView};
pub use record::MAX_BUDGETS;
pub use recover::{LastEnd, RecoveryReport};
pub use terms::{Amounts, AttemptStart, Boost, BudgetTerms, BudgetView, NameId, Outcome, Refusal, Settlement};
pub use throttle::LetThrough;
pub use tollgate_allocator::{
    Answer, Answers, Batch, CalendarUnit, Exchange, Exchanged, Kind, Mode, Period, ReplicaId, Report, Span, Terms,
    Unit, leases, rates, tally as tallies,
};
