//! What the operator counts. Labels are kinds, states and outcomes, and the names of gateways: their number is bounded by
//! what administrators create, never by keys or calls.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::facts::{Named, ProxiesFact};

/// All metrics, and where they are registered. A handle, cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    leading: Gauge,
    compile: Histogram,
    round: Histogram,
    publish: Histogram,
    writes: Family<Write, Counter>,
    watch_restarts: Family<OfKind, Counter>,
    queue: Gauge,
    events_dropped: Counter,
    objects: Family<OfKind, Gauge>,
    findings: Family<OfSeverity, Gauge>,
    generation: Family<OfGateway, Gauge<u64, AtomicU64>>,
    programmed: Family<OfGateway, Gauge<u64, AtomicU64>>,
    proxies: Family<OfState, Gauge>,
    secrets: Family<OfSecrets, Gauge>,
    allocated: Gauge,
    accounts: Family<OfGateway, Gauge>,
    allocation_failures: Counter,
    allocation_adjustments: Counter,
    thresholds: Family<OfThreshold, Counter>,
}

/// What was written, and how it went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSeverity {
    severity: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfGateway {
    namespace: String,
    gateway: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    namespace: String,
    gateway: String,
    state: &'static str,
}

/// As many as there are thresholds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfThreshold {
    budget: String,
    percent: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSecrets {
    state: &'static str,
}

/// From a millisecond to about half a minute.
fn seconds() -> Histogram {
    Histogram::new([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0])
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::with_prefix("tollgate_operator");
        let metrics = Metrics {
            registry: Arc::default(),
            leading: Gauge::default(),
            compile: seconds(),
            round: seconds(),
            publish: seconds(),
            writes: Family::default(),
            watch_restarts: Family::default(),
            queue: Gauge::default(),
            events_dropped: Counter::default(),
            objects: Family::default(),
            findings: Family::default(),
            generation: Family::default(),
            programmed: Family::default(),
            proxies: Family::default(),
            secrets: Family::default(),
            allocated: Gauge::default(),
            accounts: Family::default(),
            allocation_failures: Counter::default(),
            allocation_adjustments: Counter::default(),
            thresholds: Family::default(),
        };
        let Metrics {
            registry: _,
            leading,
            compile,
            round,
            publish,
            writes,
            watch_restarts,
            queue,
            events_dropped,
            objects,
            findings,
            generation,
            programmed,
            proxies,
            secrets,
            allocated,
            accounts,
            allocation_failures,
            allocation_adjustments,
            thresholds,
        } = metrics.clone();
        registry.register("leading", "1 where this process writes, else 0", leading);
        registry.register_with_unit("compile", "Time to compile one gateway", Unit::Seconds, compile);
        registry.register_with_unit("reconcile", "Time from a change to its tables written", Unit::Seconds, round);
        registry.register_with_unit("publish", "Time to write the tables of one gateway", Unit::Seconds, publish);
        registry.register("writes", "Requests that write, by kind of object and result", writes);
        registry.register("watch_restarts", "Watches that failed and were taken up again, by kind", watch_restarts);
        registry.register("status_queue", "Statuses that wait to be written", queue);
        registry.register("events_dropped", "Events that were dropped because too many waited", events_dropped);
        registry.register("objects", "Objects that are watched, by kind", objects);
        registry.register("findings", "Findings of the last compilation, by severity", findings);
        registry.register("snapshot_generation", "Generation of the tables that are published", generation);
        registry.register("programmed_generation", "Lowest generation that a ready proxy runs", programmed);
        registry.register("proxies", "Proxies, by state: ready, not_ready", proxies);
        registry.register("secrets", "Secrets that objects name, by state", secrets);
        registry.register("allocated_budgets", "Budgets with books, of the gateway that was looked at last", allocated);
        registry.register(
            "allocation_accounts",
            "Accounts that are open: budgets in processes of proxies, of gateways whose budgets the operator hands out",
            accounts,
        );
        registry.register(
            "allocation_failures",
            "Times that books of budgets could not be read or written; proxies got no allowance",
            allocation_failures,
        );
        registry.register(
            "allocation_adjustments",
            "Proxies that ended and proved later that they spent less of a budget than it was charged",
            allocation_adjustments,
        );
        registry.register(
            "budget_thresholds",
            "Times that a budget passed a share of its limit, once in a period",
            thresholds,
        );
        Metrics { registry: Arc::new(Mutex::new(registry)), ..metrics }
    }
}

impl Metrics {
    /// For parts that count things of their own.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock().expect("no holder of the lock panics"));
    }

    /// As Prometheus reads them.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().expect("no holder of the lock panics");
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("a String takes everything");
        text
    }

    /// A request that writes. `kind`: of the object, or `events`, `leases`. Call it for every one.
    pub fn wrote<T>(&self, kind: &'static str, result: &Result<T, kube::Error>) {
        let result = match result {
            Ok(_) => "ok",
            Err(kube::Error::Api(status)) => match status.code {
                409 => "conflict",
                403 => "forbidden",
                404 => "not_found",
                _ => "refused",
            },
            Err(_) => "unreachable",
        };
        self.writes.get_or_create(&Write { kind, result }).inc();
    }

    pub(crate) fn leading(&self, leading: bool) {
        self.leading.set(i64::from(leading));
    }

    pub(crate) fn watch_restarted(&self, kind: &str) {
        self.watch_restarts.get_or_create(&OfKind { kind: kind.to_owned() }).inc();
    }

    pub(crate) fn compiled(&self, took: Duration) {
        self.compile.observe(took.as_secs_f64());
    }

    pub(crate) fn published(&self, took: Duration) {
        self.publish.observe(took.as_secs_f64());
    }

    pub(crate) fn reconciled(&self, took: Duration) {
        self.round.observe(took.as_secs_f64());
    }

    pub(crate) fn statuses_waiting(&self, number: usize) {
        self.queue.set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    pub(crate) fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    pub(crate) fn objects(&self, kind: &str, number: usize) {
        self.objects.get_or_create(&OfKind { kind: kind.to_owned() }).set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    pub(crate) fn findings(&self, errors: usize, warnings: usize) {
        for (severity, number) in [("error", errors), ("warning", warnings)] {
            let number = i64::try_from(number).unwrap_or(i64::MAX);
            self.findings.get_or_create(&OfSeverity { severity }).set(number);
        }
    }

    pub(crate) fn secrets(&self, state: &'static str, number: usize) {
        self.secrets.get_or_create(&OfSecrets { state }).set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    pub(crate) fn gateway(&self, namespace: &str, name: &str, generation: u64, proxies: &ProxiesFact) {
        let gateway = OfGateway { namespace: namespace.to_owned(), gateway: name.to_owned() };
        self.generation.get_or_create(&gateway).set(generation);
        self.programmed.get_or_create(&gateway).set(proxies.generation.unwrap_or(0));
        for (state, number) in [("ready", proxies.ready), ("not_ready", proxies.total.saturating_sub(proxies.ready))] {
            let of_state = OfState { namespace: namespace.to_owned(), gateway: name.to_owned(), state };
            self.proxies.get_or_create(&of_state).set(i64::from(number));
        }
    }

    pub(crate) fn allocations(&self, budgets: usize) {
        self.allocated.set(i64::try_from(budgets).unwrap_or(i64::MAX));
    }

    pub(crate) fn accounts(&self, (namespace, name): &Named, accounts: usize) {
        let gateway = OfGateway { namespace: namespace.clone(), gateway: name.clone() };
        self.accounts.get_or_create(&gateway).set(i64::try_from(accounts).unwrap_or(i64::MAX));
    }

    pub(crate) fn allocation_failed(&self) {
        self.allocation_failures.inc();
    }

    /// `budget`: `namespace/Budget/name`, never a member.
    pub(crate) fn threshold_passed(&self, budget: &str, percent: u32) {
        self.thresholds.get_or_create(&OfThreshold { budget: budget.to_owned(), percent }).inc();
    }

    pub(crate) fn allocation_adjusted(&self) {
        self.allocation_adjustments.inc();
    }

    pub(crate) fn forget_gateway(&self, namespace: &str, name: &str) {
        let gateway = OfGateway { namespace: namespace.to_owned(), gateway: name.to_owned() };
        self.generation.remove(&gateway);
        self.programmed.remove(&gateway);
        self.accounts.remove(&gateway);
        for state in ["ready", "not_ready"] {
            self.proxies.remove(&OfState { namespace: namespace.to_owned(), gateway: name.to_owned(), state });
        }
    }
}
