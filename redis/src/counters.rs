//! What the client counts about itself, for metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the histogram of answers, microseconds.
pub const BUCKETS_US: [u64; 8] = [250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000];

/// Counters of one client. All grow, but for `up` and `doubt`.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) up: AtomicBool,
    pub(crate) doubt: AtomicBool,
    pub(crate) asked: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) denied: AtomicU64,
    pub(crate) lost_tails: AtomicU64,
    pub(crate) adjusted: AtomicU64,
    pub(crate) sum_us: AtomicU64,
    pub(crate) buckets: [AtomicU64; BUCKETS_US.len() + 1],
}

/// The counters at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CounterValues {
    /// The server answers.
    pub up: bool,
    /// The server may have lost writes, and Hard budgets get nothing until all replicas have told what they know.
    pub doubt: bool,
    /// Questions that were answered.
    pub asked: u64,
    /// Questions that were not answered, or not in time.
    pub failed: u64,
    /// Reports that wanted more and got nothing because of a doubt.
    pub denied: u64,
    /// Times that this client was the first to see that the server may have lost writes.
    pub lost_tails: u64,
    /// Accounts of replicas that were taken for gone and then proved that they spent less.
    pub adjusted: u64,
    /// Time that answers took, microseconds.
    pub sum_us: u64,
    /// Answers up to each of [`BUCKETS_US`], and all.
    pub buckets: [u64; BUCKETS_US.len() + 1],
}

impl Counters {
    pub(crate) fn answered_after(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.asked.fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
        let at = BUCKETS_US.iter().position(|bound| us <= *bound).unwrap_or(BUCKETS_US.len());
        self.buckets[at].fetch_add(1, Relaxed);
    }

    pub fn values(&self) -> CounterValues {
        let mut sum = 0;
        let buckets = std::array::from_fn(|at| {
            sum += self.buckets[at].load(Relaxed);
            sum
        });
        CounterValues {
            up: self.up.load(Relaxed),
            doubt: self.doubt.load(Relaxed),
            asked: self.asked.load(Relaxed),
            failed: self.failed.load(Relaxed),
            denied: self.denied.load(Relaxed),
            lost_tails: self.lost_tails.load(Relaxed),
            adjusted: self.adjusted.load(Relaxed),
            sum_us: self.sum_us.load(Relaxed),
            buckets,
        }
    }
}
