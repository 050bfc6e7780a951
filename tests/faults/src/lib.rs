//! What tests of faults have in common: a test tells what a fault came to ([`Run`]), `tests/run chaos` makes the table of
//! `docs/faults.md` of it ([`Table`]) and fails where a fault of the fixed list ([`FAULTS`]) was not told of. And random
//! histories that a seed repeats ([`seeds`]). Used by tests only.
#![forbid(unsafe_code)]

mod list;
mod run;
pub mod seeds;
mod table;

pub use list::{FAULTS, Fault, Level};
pub use run::{Money, Run};
pub use table::{Table, insert};
