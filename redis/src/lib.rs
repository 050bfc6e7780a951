//! The allocator that keeps its books in a Redis or Valkey server, and the counter of rate limits there: for proxies that
//! share budgets and limits without a cluster's operator, and for more accounts than its ConfigMaps hold. One script
//! decides about budgets as [`tollgate_allocator::Budget`] does; this crate brings reports to it and answers back.
//!
//! ```text
//! Spender (a ledger) ── due ──► Client ──► Store: one call of sync.lua for each shard ──► server
//!                    ◄ answered ─┘ deadline, breaker      └ remembers answers: proof of what a server has lost
//! ```
//!
//! A server that restarts or fails over may have lost what it wrote last. It is recognised by its replication id, and by
//! sequence numbers below what was answered before. Then Hard budgets get nothing until every replica has told what it
//! was granted and what it last knew of the whole; what no replica that lives explains stays charged.
//!
//! Rate limits have a script and a task of their own, beside that of budgets and by the same ways:
//! [`tollgate_allocator::leases`] says what holds. They need no proof of what was lost, for a minute later all is counted
//! anew.
#![forbid(unsafe_code)]

mod address;
mod breaker;
mod carry;
mod claims;
mod client;
mod connection;
mod counters;
mod decode;
mod keys;
mod lease_client;
mod leases;
mod leave;
mod memory;
mod read;
mod store;

pub use address::{Address, AddressError};
pub use claims::Claims;
pub use client::{Client, Spender};
pub use connection::StoreError;
pub use counters::{BUCKETS_US, CounterValues, Counters};
pub use decode::{Decided, Header};
pub use keys::{GatewayKeys, SHARDS, shard_of};
pub use lease_client::{Due, Holder, LeaseClient};
pub use leases::{AllShards, LeaseHeader, LeaseStore, Leased};
pub use memory::Memory;
pub use store::{Exchanged, MOST, Store};
