//! What the ledger counts about itself, for metrics. Rare events only: nothing here is touched by an attempt that ends
//! as it should.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Live counters.
#[derive(Debug, Default)]
pub struct Counters {
    pub rows_copied: AtomicU64,
    /// The oldest rows of the database, for want of room.
    pub rows_removed: AtomicU64,
    pub copy_failures: AtomicU64,
    pub grants: AtomicU64,
    pub grant_failures: AtomicU64,
    pub bound_violations: AtomicU64,
    pub charged: AtomicU64,
    pub dropped: AtomicU64,
    pub unavailable: AtomicU64,
}

/// Their values at a moment. All rise from 0 at the start of the process, but `segments`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CounterValues {
    /// Rows written to the database.
    pub rows_copied: u64,
    pub rows_removed: u64,
    /// Attempts to copy that failed; rows wait in the journal meanwhile.
    pub copy_failures: u64,
    /// Grants made durable.
    pub grants: u64,
    /// Batches of grants that the disk refused.
    pub grant_failures: u64,
    /// Attempts that cost more than was held in a Hard budget.
    pub bound_violations: u64,
    /// Attempts whose whole hold was charged because what they used is unknown.
    pub charged: u64,
    /// Attempts that nobody settled; their whole hold was charged.
    pub dropped: u64,
    /// Attempts refused because journal or grants log could not take them.
    pub unavailable: u64,
    /// Journal segments on disk now.
    pub segments: u64,
}

impl Counters {
    pub(crate) fn values(&self, segments: usize) -> CounterValues {
        let Counters {
            rows_copied,
            rows_removed,
            copy_failures,
            grants,
            grant_failures,
            bound_violations,
            charged,
            dropped,
            unavailable,
        } = self;
        CounterValues {
            rows_copied: rows_copied.load(Relaxed),
            rows_removed: rows_removed.load(Relaxed),
            copy_failures: copy_failures.load(Relaxed),
            grants: grants.load(Relaxed),
            grant_failures: grant_failures.load(Relaxed),
            bound_violations: bound_violations.load(Relaxed),
            charged: charged.load(Relaxed),
            dropped: dropped.load(Relaxed),
            unavailable: unavailable.load(Relaxed),
            segments: segments as u64,
        }
    }
}
