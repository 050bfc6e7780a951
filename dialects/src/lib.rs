//! The wire formats Tollgate speaks: what a request asks for, what an answer cost, and how one
//! dialect is told in another.
//!
//! Pure: no I/O, no clock, no randomness. The pass-through parts (`json`, `head`, `splice`,
//! `sniff`, `usage`) work on byte spans and never build a document; only translation between
//! dialects does, beside the fast path.
#![forbid(unsafe_code)]

mod anthropic;
pub mod chat;
mod completions;
pub mod dialect;
pub mod error;
pub mod estimate;
pub mod head;
pub mod json;
mod openai;
mod output;
mod said;
pub mod sniff;
pub mod splice;
pub mod sse;
mod text;
pub mod usage;

pub use dialect::Dialect;
pub use usage::Usage;
