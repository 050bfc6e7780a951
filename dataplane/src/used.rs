//! What was used lately, for the operator: keys since a moment, and how fast deployments answer. Reads what calls count
//! anyway.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::core::Core;
use crate::metrics::{BUCKETS, HistogramSum, Label};

/// Medians are of the last one to two windows: old enough to mean something, new enough to show a change.
const WINDOW: Duration = Duration::from_secs(300);

/// Answer to `/operator/used`.
#[derive(Clone, Debug, Serialize)]
pub struct Used {
    /// What to ask with next time.
    pub cursor: i64,
    pub keys: Vec<UsedKey>,
    pub deployments: Vec<Speed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UsedKey {
    /// `namespace/name`
    pub name: String,
    /// Unix seconds.
    pub last_used_at: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Speed {
    /// `namespace/name`
    pub name: String,
    pub p50_ms: u64,
}

type Counts = HashMap<Label, [u64; BUCKETS.len() + 1]>;

/// Counts of the windows before: medians are of what came since.
#[derive(Debug)]
pub struct Speeds {
    base: Counts,
    next_base: Counts,
    next_base_at: Instant,
}

impl Speeds {
    pub fn new(now: Instant) -> Speeds {
        Speeds { base: Counts::new(), next_base: Counts::new(), next_base_at: now }
    }

    /// Medians of calls that ended well, by deployment; none for a deployment that had none.
    fn medians(&mut self, counts: Counts, now: Instant) -> Vec<(Label, u64)> {
        let medians = counts.iter().filter_map(|(label, counts)| {
            let before = self.base.get(label).copied().unwrap_or_default();
            let since: Vec<u64> = counts.iter().zip(before).map(|(now, before)| now.saturating_sub(before)).collect();
            Some((*label, median_ms(&since)?))
        });
        let medians = medians.collect();
        if now.saturating_duration_since(self.next_base_at) >= WINDOW {
            self.base = std::mem::replace(&mut self.next_base, counts);
            self.next_base_at = now;
        }
        medians
    }
}

/// Calls by bucket (not cumulative), and in the last place those above all buckets.
fn counts(core: &Core) -> Counts {
    let mut counts = Counts::new();
    for (labels, series) in core.shared.registry.durations() {
        let sum = HistogramSum::of(series.iter().map(|one| &one.whole));
        let row = counts.entry(labels.deployment).or_insert([0; BUCKETS.len() + 1]);
        let mut below = 0;
        for (count, cumulative) in row.iter_mut().zip(sum.cumulative.into_iter().chain([sum.count])) {
            *count += cumulative.saturating_sub(below);
            below = cumulative;
        }
    }
    counts
}

/// The median within its bucket, as if calls were spread evenly there.
fn median_ms(counts: &[u64]) -> Option<u64> {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    let half = total as f64 / 2.0;
    let (mut below, mut lower) = (0.0, 0.0);
    for (count, upper) in counts.iter().zip(BUCKETS) {
        let count = *count as f64;
        if below + count >= half {
            return Some(((lower + (upper - lower) * (half - below) / count) * 1000.0).round() as u64);
        }
        below += count;
        lower = upper;
    }
    Some((lower * 1000.0) as u64)
}

/// What changed since `after`, a cursor of before or 0.
pub fn used(core: &Core, speeds: &mut Speeds, after: i64) -> Used {
    let now = Instant::now();
    // Read before the keys: what is noted meanwhile comes again next time.
    let cursor = core.unix_ms(now) / 1000;
    let keys = core.shared.builder.persistent.used_since(after);
    let names = core.shared.registry.names();
    let medians = speeds.medians(counts(core), now);
    let mut deployments: Vec<Speed> = medians
        .into_iter()
        .filter_map(|(label, p50_ms)| Some(Speed { name: names.get(label.index()?)?.to_string(), p50_ms }))
        .collect();
    deployments.sort_by(|a, b| a.name.cmp(&b.name));
    let keys = keys.into_iter().map(|(name, last_used_at)| UsedKey { name, last_used_at }).collect();
    Used { cursor, keys, deployments }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts_of(bucket: usize, count: u64) -> [u64; BUCKETS.len() + 1] {
        let mut counts = [0; BUCKETS.len() + 1];
        counts[bucket] = count;
        counts
    }

    #[test]
    fn a_median_lies_inside_its_bucket() {
        // 0.1 to 0.25 s
        assert_eq!(median_ms(&counts_of(5, 10)), Some(175));
        assert_eq!(median_ms(&counts_of(BUCKETS.len(), 3)), Some(600_000));
        assert_eq!(median_ms(&counts_of(0, 0)), None);
    }

    #[test]
    fn medians_forget_what_was_two_windows_ago() {
        let mut registry = crate::metrics::Registry::default();
        let label = std::sync::Arc::new(std::mem::take(&mut registry)).label(&"a/b".into());
        let begun = Instant::now();
        let mut speeds = Speeds::new(begun);
        let at = |windows: u32| begun + WINDOW * windows;
        assert_eq!(speeds.medians([(label, counts_of(5, 10))].into(), at(1)), [(label, 175)]);
        assert_eq!(speeds.medians([(label, counts_of(5, 10))].into(), at(2)), [(label, 175)]);
        assert_eq!(speeds.medians([(label, counts_of(5, 10))].into(), at(3)), [], "nothing was called since");
    }
}
