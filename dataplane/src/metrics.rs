//! Counters and histograms. Each core writes its own bank of plain words (no locked instruction), summed when someone
//! scrapes. Labels come from configured names only, so the number of series is bounded by the configuration: routes x
//! deployments x teams x statuses that occurred, at most [`MAX_SERIES`] a core; what comes after is counted under
//! `other`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Series per core before new ones are counted as `other`.
pub const MAX_SERIES: usize = 20_000;

/// Seconds; LiteLLM's dashboards expect 0.005 to 600.
pub const BUCKETS: [f64; 20] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0, 120.0, 600.0,
];

/// A configured name, numbered for the life of the process. 0 is no name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(u32);

impl Label {
    /// Place of its name in [`Registry::names`]; `None` for no name.
    pub fn index(self) -> Option<usize> {
        self.0.checked_sub(1).map(|index| index as usize)
    }
}

/// What a finished call is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallLabels {
    pub operation: &'static str,
    /// Public name of the route asked for.
    pub model: Label,
    /// The deployment that answered last.
    pub deployment: Label,
    pub team: Label,
    pub status: u16,
}

/// What an attempt is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptLabels {
    pub model: Label,
    pub deployment: Label,
    /// `success`, or the class of the failure.
    pub outcome: &'static str,
    /// Of the provider; 0 when none came.
    pub status: u16,
}

/// A number only one core writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Durations in [`BUCKETS`].
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BUCKETS.len()],
    count: Counter,
    sum_us: Counter,
}

impl Histogram {
    pub fn observe(&self, duration: Duration) {
        let us = duration.as_micros() as u64;
        if let Some(bucket) = BUCKETS_US.iter().position(|bound| us <= *bound) {
            self.buckets[bucket].add(1);
        }
        self.count.add(1);
        self.sum_us.add(us);
    }
}

const BUCKETS_US: [u64; BUCKETS.len()] = {
    let mut bounds = [0; BUCKETS.len()];
    let mut index = 0;
    while index < bounds.len() {
        bounds[index] = (BUCKETS[index] * 1e6) as u64;
        index += 1;
    }
    bounds
};

/// All that is counted of calls with the same labels.
#[derive(Debug, Default)]
pub struct CallSeries {
    pub requests: Counter,
    pub spend_nano_usd: Counter,
    pub input_tokens: Counter,
    pub output_tokens: Counter,
    pub cache_read_tokens: Counter,
    pub cache_write_tokens: Counter,
    pub reasoning_tokens: Counter,
}

/// What durations are counted under: less than calls, because a histogram is large and every call touches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DurationLabels {
    pub operation: &'static str,
    pub deployment: Label,
}

/// Durations of calls that ended well.
#[derive(Debug, Default)]
pub struct Durations {
    pub whole: Histogram,
    pub provider: Histogram,
    pub first_token: Histogram,
    pub overhead: Histogram,
}

/// The counters of one core.
#[derive(Debug)]
pub struct Bank {
    calls: RefCell<HashMap<CallLabels, Arc<CallSeries>, foldhash::fast::RandomState>>,
    attempts: RefCell<HashMap<AttemptLabels, Arc<Counter>, foldhash::fast::RandomState>>,
    durations: RefCell<HashMap<DurationLabels, Arc<Durations>, foldhash::fast::RandomState>>,
    registry: Arc<Registry>,
    pub own: Arc<CoreCounters>,
}

/// What has no labels.
#[derive(Debug, Default)]
pub struct CoreCounters {
    pub connections: Counter,
    pub open_connections: AtomicI64,
    pub in_flight: AtomicI64,
    pub shed: Counter,
    pub unauthenticated: Counter,
    pub bad_requests: Counter,
    pub usage_missing: Counter,
    pub client_gone: Counter,
    pub drained: Counter,
    pub budget_ended: Counter,
    pub unpriced: Counter,
}

/// All banks and all names of a process.
#[derive(Debug, Default)]
pub struct Registry {
    labels: Mutex<Labels>,
    calls: Mutex<Vec<(CallLabels, Arc<CallSeries>)>>,
    attempts: Mutex<Vec<(AttemptLabels, Arc<Counter>)>>,
    durations: Mutex<Vec<(DurationLabels, Arc<Durations>)>>,
    cores: Mutex<Vec<Arc<CoreCounters>>>,
    /// Deployments that were benched, by label.
    cooled_down: Mutex<std::collections::BTreeMap<Label, u64>>,
}

#[derive(Debug, Default)]
struct Labels {
    numbers: HashMap<Arc<str>, Label>,
    names: Vec<Arc<str>>,
}

impl Registry {
    /// The number of a configured name.
    pub fn label(&self, name: &Arc<str>) -> Label {
        let mut labels = lock(&self.labels);
        if let Some(label) = labels.numbers.get(name) {
            return *label;
        }
        labels.names.push(name.clone());
        let label = Label(labels.names.len() as u32);
        labels.numbers.insert(name.clone(), label);
        label
    }

    /// All names, by [`Label::index`].
    pub fn names(&self) -> Vec<Arc<str>> {
        lock(&self.labels).names.clone()
    }

    /// A bank for one more core.
    pub fn bank(self: &Arc<Registry>) -> Rc<Bank> {
        let own = Arc::new(CoreCounters::default());
        lock(&self.cores).push(own.clone());
        Rc::new(Bank {
            calls: RefCell::default(),
            attempts: RefCell::default(),
            durations: RefCell::default(),
            registry: self.clone(),
            own,
        })
    }

    /// Sums over all cores, sorted by labels.
    pub fn calls(&self) -> Vec<(CallLabels, Vec<Arc<CallSeries>>)> {
        group(&lock(&self.calls))
    }

    pub fn durations(&self) -> Vec<(DurationLabels, Vec<Arc<Durations>>)> {
        group(&lock(&self.durations))
    }

    pub fn attempts(&self) -> Vec<(AttemptLabels, u64)> {
        let grouped = group(&lock(&self.attempts));
        grouped.into_iter().map(|(labels, series)| (labels, series.iter().map(|counter| counter.get()).sum())).collect()
    }

    /// Counts that a deployment was benched.
    pub fn cooled_down(&self, deployment: Label) {
        *lock(&self.cooled_down).entry(deployment).or_default() += 1;
    }

    pub fn cooled_down_counts(&self) -> Vec<(Label, u64)> {
        lock(&self.cooled_down).iter().map(|(label, count)| (*label, *count)).collect()
    }

    /// The sum of one counter over all cores.
    pub fn sum(&self, read: impl Fn(&CoreCounters) -> i64) -> i64 {
        lock(&self.cores).iter().map(|core| read(core)).sum()
    }
}

fn group<L: Copy + Ord, S>(series: &[(L, Arc<S>)]) -> Vec<(L, Vec<Arc<S>>)> {
    let mut grouped = std::collections::BTreeMap::<L, Vec<Arc<S>>>::new();
    for (labels, one) in series {
        grouped.entry(*labels).or_default().push(one.clone());
    }
    grouped.into_iter().collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bank {
    /// The series of these labels, made at its first use.
    pub fn call(&self, labels: CallLabels) -> Arc<CallSeries> {
        let mut calls = self.calls.borrow_mut();
        if let Some(series) = calls.get(&labels) {
            return series.clone();
        }
        let labels = if calls.len() < MAX_SERIES {
            labels
        } else {
            CallLabels { model: Label(0), deployment: Label(0), team: Label(0), ..labels }
        };
        let registry = &self.registry;
        calls
            .entry(labels)
            .or_insert_with(|| {
                let series = Arc::new(CallSeries::default());
                lock(&registry.calls).push((labels, series.clone()));
                series
            })
            .clone()
    }

    /// The histograms of these labels. As many as there are deployments, so there is no bound of its own.
    pub fn durations(&self, labels: DurationLabels) -> Arc<Durations> {
        let registry = &self.registry;
        self.durations
            .borrow_mut()
            .entry(labels)
            .or_insert_with(|| {
                let series = Arc::new(Durations::default());
                lock(&registry.durations).push((labels, series.clone()));
                series
            })
            .clone()
    }

    /// Counts one attempt.
    pub fn attempt(&self, labels: AttemptLabels) {
        let mut attempts = self.attempts.borrow_mut();
        let full = attempts.len() >= MAX_SERIES && !attempts.contains_key(&labels);
        let labels = if full { AttemptLabels { model: Label(0), deployment: Label(0), ..labels } } else { labels };
        let registry = &self.registry;
        attempts
            .entry(labels)
            .or_insert_with(|| {
                let counter = Arc::new(Counter::default());
                lock(&registry.attempts).push((labels, counter.clone()));
                counter
            })
            .add(1);
    }
}

/// Sums of several cores' histograms, as Prometheus wants them: cumulative.
#[derive(Debug, Default)]
pub struct HistogramSum {
    pub cumulative: [u64; BUCKETS.len()],
    pub count: u64,
    pub sum_seconds: f64,
}

impl HistogramSum {
    pub fn of<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> HistogramSum {
        let mut sum = HistogramSum::default();
        for histogram in histograms {
            let mut below = 0;
            for (total, bucket) in sum.cumulative.iter_mut().zip(&histogram.buckets) {
                below += bucket.get();
                *total += below;
            }
            sum.count += histogram.count.get();
            sum.sum_seconds += histogram.sum_us.get() as f64 / 1e6;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banks_of_two_cores_are_summed() {
        let registry = Arc::new(Registry::default());
        let model = registry.label(&"gpt-4o".into());
        let labels = CallLabels { operation: "chat", model, deployment: Label(0), team: Label(0), status: 200 };
        for bank in [registry.bank(), registry.bank()] {
            let series = bank.call(labels);
            series.requests.add(2);
            let durations = bank.durations(DurationLabels { operation: "chat", deployment: Label(0) });
            durations.whole.observe(Duration::from_millis(7));
        }
        let calls = registry.calls();
        assert_eq!(calls.len(), 1);
        let sum = HistogramSum::of(registry.durations()[0].1.iter().map(|series| &series.whole));
        assert_eq!((sum.count, sum.cumulative[0], sum.cumulative[1]), (2, 0, 2));
        assert_eq!(calls[0].1.iter().map(|series| series.requests.get()).sum::<u64>(), 4);
        assert_eq!(&*registry.names()[model.index().unwrap()], "gpt-4o");
    }
}
