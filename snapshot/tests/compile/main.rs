//! `compile` from the outside: documents as users write them in, a snapshot and findings out.

mod attribution;
mod broken_edit;
mod budgets;
mod cluster;
mod deployments;
#[path = "../documents/mod.rs"]
mod documents;
mod gateways;
mod keys;
mod names;
mod prices;
mod rates;
mod samples;
mod stores;
mod world;
