//! `compile` from the outside: documents as users write them in, a snapshot and findings out.

mod broken_edit;
mod budgets;
mod deployments;
mod keys;
mod names;
mod samples;
mod world;
