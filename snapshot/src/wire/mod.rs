//! The tables of a gateway as they lie in a cluster: text in ConfigMaps and Secrets, written by the operator with
//! [`write`], read by proxies with [`read`]. No I/O: whoever calls brings the texts.
//!
//! ```text
//! Snapshot ─┬─ gateway, deployments, routes, teams, budgets ── policy-0 policy-1 ...   a few pieces of one text
//!           └─ keys, their policies, their own budgets ─────── keys-00 ... keys-ff     a shard by the hash's first digits
//! Credentials, token ───────────────────────────────────────── credentials-0 ... -7    Secrets
//! manifest: generation, names and sha256 of all of these                               written last
//! ```
//!
//! A text is a line of JSON for each record, cut where an object would be too large. Key shards name what is outside of
//! them (namespaces, teams, shared budgets) instead of counting, so that one key's change rewrites its shard and the
//! manifest only.
//!
//! Readers ignore fields and records that they do not know, and take defaults for those that are missing, so that
//! operator and proxies of neighbouring versions understand each other. A change that an older reader must not ignore
//! raises [`FORMAT`]. The files in `tests/wire/golden` are read by every later version.

mod again;
pub(crate) mod credentials;
mod manifest;
pub mod names;
mod policy;
mod read;
mod shard;
mod tables;
mod text;

pub use crate::model::GatewayName;
pub use again::Before;
pub use manifest::{Manifest, PartRef, SecretRef};
pub use read::{LeftOut, Read, ReadError, read};
pub use shard::ShardDigits;
pub use tables::{Last, Part, Sealing, Tables, write};

/// Of everything that is written here. Readers refuse a higher one and keep what they have.
pub const FORMAT: u32 = 1;
