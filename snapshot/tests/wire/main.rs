//! Tables as they lie in a cluster: what is written is read again, in pieces that fit, one key changes one shard, and
//! what another version wrote is understood.

#[path = "../documents/mod.rs"]
mod documents;
mod generated;
mod golden;
mod parts;
mod round_trip;
mod shards;
mod versions;
