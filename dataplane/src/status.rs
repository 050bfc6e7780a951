//! What the process says about its configuration: which generation runs, what is wrong with which object, when the last
//! reload was and whether it worked. Written by whoever loads, read by `/health`, `/snapshot` and `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tollgate_snapshot::Finding;
use tollgate_snapshot::model::{KeyHash, Name};

/// The state of the configuration.
#[derive(Debug, Default)]
pub struct Status(Mutex<Loaded>);

#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Where it comes from, for people.
    pub source: String,
    pub generation: u64,
    /// Unix seconds of the last change that is live.
    pub applied_at: i64,
    /// The last attempt to load worked.
    pub healthy: bool,
    /// Loads since the process began, and how many of them failed as a whole.
    pub reloads: u64,
    pub failures: u64,
    pub findings: Vec<Finding>,
    /// SHA-256 of the manifest that is served, in a cluster; hexadecimal.
    pub manifest_sha256: Option<String>,
    /// Why something newer is not served, in a cluster.
    pub error: Option<String>,
    /// SHA-256 of the token that the operator shows, in a cluster.
    pub operator_token: Option<KeyHash>,
    /// How often a budget passed a share of its limit, by its id and percent, where this process tells of it.
    pub passed: BTreeMap<(Name, u32), u64>,
}

impl Status {
    pub fn read(&self) -> Loaded {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads without a copy of everything.
    pub fn with<T>(&self, read: impl FnOnce(&Loaded) -> T) -> T {
        read(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A budget passed a share of its limit.
    pub fn passed(&self, budget: &Name, percent: u32) {
        self.update(|loaded| *loaded.passed.entry((budget.clone(), percent)).or_default() += 1);
    }

    pub fn update(&self, change: impl FnOnce(&mut Loaded)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
