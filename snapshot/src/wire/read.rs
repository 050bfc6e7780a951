//! A snapshot out of the texts that a manifest names.

use std::sync::Arc;

use crate::model::{Credential, Snapshot};

/// What was read.
#[derive(Clone)]
pub struct Read {
    /// As it was written, but for the order of policies and budgets.
    pub snapshot: Snapshot,
    /// Sorted by id.
    pub credentials: Vec<Credential>,
    /// What the operator shows when it asks for something that only it may know; empty: nobody may.
    pub token: Arc<str>,
    /// What a newer writer wrote and this reader does not understand; all else is in use.
    pub left_out: Vec<LeftOut>,
}

/// A record that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Kind and name of the object, as in `ModelDeployment team-a/gpt-4o`.
    pub object: String,
    pub error: String,
}

/// Why there is no snapshot. The last good one stays in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It may come: parts arrive one by one.
    #[error("`{part}` is missing")]
    Missing { part: String },
    /// It may come: the part is of another generation than the manifest.
    #[error("`{part}` is not what the manifest names: its sha256 differs")]
    OtherContent { part: String },
    #[error("`{part}` cannot be read: {error}")]
    Unreadable { part: String, error: String },
    #[error("`{part}` has format {format}, which is newer than this version understands")]
    NewerFormat { part: String, format: u32 },
}

impl ReadError {
    /// Whether parts that are still under way may cure it.
    pub fn is_incomplete(&self) -> bool {
        match self {
            ReadError::Missing { .. } | ReadError::OtherContent { .. } => true,
            ReadError::Unreadable { .. } | ReadError::NewerFormat { .. } => false,
        }
    }
}
