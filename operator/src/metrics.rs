//! What the operator counts.

use std::sync::{Arc, Mutex};

use prometheus_client::registry::Registry;

/// All metrics, and where they are registered. A handle, cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    pub(crate) fn watch_restarted(&self, kind: &str) {
        let _ = kind;
    }

    /// For parts that count things of their own.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock().expect("no holder of the lock panics"));
    }
}
