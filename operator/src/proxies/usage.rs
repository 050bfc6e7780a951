//! What proxies say was used, thinned out before it is written anywhere: a date to the minute, a median when it moved.
//! Pure: time is an argument.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::facts::Named;

/// To the minute is enough to see whether a key is in use.
const MINUTE: i64 = 60;

/// How many keys' dates go on each second: each is a write to the API server, and none of them is urgent.
const DATES_PER_SECOND: usize = 20;

/// A median is written again when it moved by a fifth, and not sooner than this.
const MEDIAN_REST: Duration = Duration::from_secs(300);

/// What waits to be written, and what was.
#[derive(Debug, Default)]
pub struct Usage {
    /// Unix seconds, to the minute.
    dates: BTreeMap<Named, i64>,
    /// Milliseconds by the proxy that says so.
    medians: HashMap<Named, HashMap<String, u64>>,
    written: HashMap<Named, (u64, Instant)>,
}

impl Usage {
    /// A key was used; `written` is what is known so far.
    pub fn used(&mut self, key: Named, at: i64, written: Option<i64>) {
        let at = at - at.rem_euclid(MINUTE);
        if written.is_none_or(|written| at - written >= MINUTE) {
            let date = self.dates.entry(key).or_insert(at);
            *date = at.max(*date);
        }
    }

    /// Dates to write in this second.
    pub fn take_dates(&mut self) -> Vec<(Named, i64)> {
        let names: Vec<Named> = self.dates.keys().take(DATES_PER_SECOND).cloned().collect();
        names.into_iter().filter_map(|name| self.dates.remove_entry(&name)).collect()
    }

    /// All medians that one proxy has now, instead of those before.
    pub fn measured(&mut self, proxy: &str, medians: impl IntoIterator<Item = (Named, u64)>) {
        self.forget(proxy);
        for (deployment, milliseconds) in medians {
            self.medians.entry(deployment).or_default().insert(proxy.to_owned(), milliseconds);
        }
    }

    /// The proxy is gone.
    pub fn forget(&mut self, proxy: &str) {
        self.medians.retain(|_, medians| {
            medians.remove(proxy);
            !medians.is_empty()
        });
    }

    /// Medians to write now: of a deployment's proxies the middle one.
    pub fn take_medians(&mut self, now: Instant) -> Vec<(Named, u64)> {
        let mut moved = Vec::new();
        for (deployment, medians) in &self.medians {
            let mut all: Vec<u64> = medians.values().copied().collect();
            all.sort_unstable();
            let Some(&median) = all.get(all.len() / 2) else { continue };
            let is_due = self.written.get(deployment).is_none_or(|(before, at)| {
                now.saturating_duration_since(*at) >= MEDIAN_REST && median.abs_diff(*before) * 5 >= (*before).max(1)
            });
            if is_due {
                moved.push((deployment.clone(), median));
            }
        }
        self.written.extend(moved.iter().map(|(deployment, median)| (deployment.clone(), (*median, now))));
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Named {
        ("team-a".to_owned(), name.to_owned())
    }

    #[test]
    fn a_date_is_written_when_it_moved_by_a_minute() {
        let mut usage = Usage::default();
        usage.used(named("new"), 125, None);
        usage.used(named("new"), 119, None);
        usage.used(named("same"), 179, Some(120));
        usage.used(named("later"), 180, Some(120));
        assert_eq!(usage.take_dates(), [(named("later"), 180), (named("new"), 120)]);
        assert_eq!(usage.take_dates(), []);
    }

    #[test]
    fn twenty_dates_go_each_second() {
        let mut usage = Usage::default();
        (0..50).for_each(|at| usage.used(named(&at.to_string()), 60, None));
        let counts: Vec<usize> = (0..4).map(|_| usage.take_dates().len()).collect();
        assert_eq!(counts, [20, 20, 10, 0]);
    }

    #[test]
    fn a_median_is_written_when_it_moved_by_a_fifth_and_five_minutes_passed() {
        let begun = Instant::now();
        let mut usage = Usage::default();
        let mut at = |minutes: u64, milliseconds| {
            usage.measured("a", [(named("m"), milliseconds)]);
            usage.take_medians(begun + Duration::from_secs(60 * minutes)).first().map(|(_, median)| *median)
        };
        assert_eq!(at(0, 100), Some(100));
        assert_eq!(at(1, 200), None, "too soon");
        assert_eq!(at(5, 119), None, "not far enough");
        assert_eq!(at(6, 120), Some(120));
        assert_eq!(at(11, 96), Some(96));
    }

    #[test]
    fn of_several_proxies_the_middle_one_counts_and_gone_ones_do_not() {
        let mut usage = Usage::default();
        for (proxy, milliseconds) in [("a", 10), ("b", 20), ("c", 900)] {
            usage.measured(proxy, [(named("m"), milliseconds)]);
        }
        assert_eq!(usage.take_medians(Instant::now()), [(named("m"), 20)]);
        ["a", "b", "c"].iter().for_each(|proxy| usage.forget(proxy));
        assert_eq!(usage.take_medians(Instant::now() + MEDIAN_REST), []);
    }
}
