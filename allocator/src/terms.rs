//! What a budget promises, as the configuration has it.

use serde::{Deserialize, Serialize};

use crate::period::Period;

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Unit {
    NanoUsd,
    Tokens,
    Requests,
}

/// What a budget promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// What is admitted never costs more than the limit.
    Hard,
    /// Admits while what was settled is below the limit.
    Soft,
}

/// A budget's terms, without its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    pub unit: Unit,
    /// In the unit.
    pub limit: i64,
    pub mode: Mode,
    pub period: Period,
    /// A change starts the period anew, with nothing spent.
    pub reset_token: Option<String>,
}
