//! The operator: watches the resources of a cluster, compiles them into the tables that proxies run, writes those, and
//! says in every object's status what became of it. `snapshot::compile` is the only place that decides; here is only
//! what reads, writes and waits. Never depends on the data plane.
//!
//! ```text
//! API server ─ watches ─ World ──┬─ tables: compile → publish ─ ConfigMaps, Secrets of each gateway
//!                secrets ────────┤      │ findings, generations
//!   gateway, keys, probe ─ Facts ┘      └─ status: conditions → queue ─ /status, Events
//!                proxies ─ Facts (which generation runs)
//! ```
//!
//! Each box is a part: a future that [`run`](run::run) owns and that ends only when the operator does. Parts share a
//! [`Context`]. All of them watch and compile; only the one that holds the Lease writes.

#![forbid(unsafe_code)]

pub mod alerts;
pub mod allocator;
mod backoff;
mod bucket;
pub mod config_maps;
pub mod context;
pub mod error;
pub mod events;
pub mod facts;
pub mod gateway;
mod http;
pub mod keys;
pub mod kind;
pub mod lease;
pub mod metrics;
pub mod names;
pub mod probe;
pub mod proxies;
pub mod publish;
pub mod rates;
pub mod run;
pub mod secrets;
pub mod settings;
mod shards;
pub mod status;
pub mod tables;
mod tally;
#[cfg(test)]
mod testing;
pub mod world;

pub use context::Context;
pub use error::{Ended, Error};
pub use run::run;
pub use settings::{Namespaces, Settings};
