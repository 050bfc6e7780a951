//! What one core owns and what all share. A core is one thread with its own runtime, listener, connections, counters
//! and journal; only the tables, the ledger's accounts and the limits are shared, and those are atomics.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use crate::current::{Current, Reader};
use crate::metrics::{Bank, Registry};
use crate::settings::Settings;
use crate::tables::{Builder, Tables};
use crate::upstream::{Connector, Pool, SWEEP};

/// What all cores share.
#[derive(Debug)]
pub struct Shared {
    pub tables: Current,
    pub builder: Builder,
    pub settings: Settings,
    pub registry: Arc<Registry>,
    pub status: crate::status::Status,
    /// Clients can connect: readiness is off before.
    pub listening: AtomicBool,
    /// Set once the process was asked to stop: readiness is off.
    pub draining: AtomicBool,
    /// Bytes of request bodies in memory.
    pub body_bytes: AtomicUsize,
    pub started: Instant,
}

/// What one core owns.
pub struct Core {
    pub shared: Arc<Shared>,
    pub pool: Pool,
    pub bank: Rc<Bank>,
    pub writer: RefCell<tollgate_ledger::Writer>,
    tables: RefCell<Reader>,
    pub in_flight: Cell<usize>,
    pub abandoned: Cell<usize>,
    clock: Cell<Clock>,
}

/// Wall clock and the moment it was read, so that the time of day costs one monotonic read.
#[derive(Clone, Copy)]
struct Clock {
    read_at: Instant,
    unix_ms: i64,
}

impl Core {
    pub fn new(shared: Arc<Shared>, writer: tollgate_ledger::Writer) -> Core {
        Core {
            pool: Pool::new(Connector::new(shared.settings.allow_loopback)),
            bank: shared.registry.bank(),
            writer: RefCell::new(writer),
            tables: RefCell::new(shared.tables.reader()),
            in_flight: Cell::new(0),
            abandoned: Cell::new(0),
            clock: Cell::new(Clock { read_at: Instant::now(), unix_ms: unix_ms() }),
            shared,
        }
    }

    /// The snapshot that is current now.
    pub fn tables(&self) -> Arc<Tables> {
        self.tables.borrow_mut().load().clone()
    }

    /// What is to be done beside calls.
    pub async fn tend(&self) -> Infallible {
        let mut sweep = tokio::time::interval(SWEEP);
        let mut swapped = self.shared.tables.swapped();
        loop {
            tokio::select! {
                _ = sweep.tick() => self.pool.sweep(),
                // An idle core lets go of the tables before, too.
                _ = swapped.changed() => drop(self.tables()),
            }
        }
    }

    /// Milliseconds since the process began, never 0.
    pub fn uptime_ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.shared.started).as_millis() as u64 + 1
    }

    /// Seconds since the process began, never 0: the clock of rate limits.
    pub fn uptime_seconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.shared.started).as_secs() + 1
    }

    /// Milliseconds since 1970. Follows steps of the system's clock within a second.
    pub fn unix_ms(&self, now: Instant) -> i64 {
        let clock = self.clock.get();
        let since = now.saturating_duration_since(clock.read_at).as_millis() as i64;
        if since < 1_000 {
            return clock.unix_ms + since;
        }
        let unix_ms = unix_ms();
        self.clock.set(Clock { read_at: now, unix_ms });
        unix_ms
    }
}

fn unix_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Counts a call under way; refused when the core has enough of them.
pub struct Entry {
    core: Rc<Core>,
}

impl Entry {
    pub fn new(core: &Rc<Core>) -> Option<Entry> {
        let open = core.in_flight.get();
        if open >= core.shared.settings.max_in_flight {
            return None;
        }
        core.in_flight.set(open + 1);
        core.bank.own.in_flight.store(open as i64 + 1, Relaxed);
        Some(Entry { core: core.clone() })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let open = self.core.in_flight.get() - 1;
        self.core.in_flight.set(open);
        self.core.bank.own.in_flight.store(open as i64, Relaxed);
    }
}

/// A share of the memory for request bodies.
pub struct BodyShare {
    shared: Arc<Shared>,
    bytes: usize,
}

impl BodyShare {
    /// Takes `bytes`; `None` when the bodies in memory are enough already.
    pub fn take(shared: &Arc<Shared>, bytes: usize) -> Option<BodyShare> {
        let mut share = BodyShare { shared: shared.clone(), bytes: 0 };
        share.grow(bytes).then_some(share)
    }

    /// Takes more. False: there is no more, and the share stays as it was.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let limit = self.shared.settings.max_bodies_bytes;
        let within = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= limit);
        let taken = self.shared.body_bytes.fetch_update(Relaxed, Relaxed, within).is_ok();
        if taken {
            self.bytes += bytes;
        }
        taken
    }
}

impl Drop for BodyShare {
    fn drop(&mut self) {
        self.shared.body_bytes.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tollgate_ledger::{Ledger, Options};
    use tollgate_snapshot::Snapshot;

    use super::*;

    #[tokio::test]
    async fn an_idle_core_lets_go_of_the_tables_before_and_a_call_does_not() {
        const PATIENCE: Duration = Duration::from_secs(30);
        let folder = tempfile::tempdir().unwrap();
        let (ledger, mut writers, _) = Ledger::open(Options::new(folder.path(), 1)).unwrap();
        let registry = Arc::new(Registry::default());
        let builder = Builder { ledger, registry: registry.clone(), persistent: Arc::default() };
        let tables = |generation| builder.build(generation, Snapshot::default(), &[]);
        let shared = Arc::new(Shared {
            tables: Current::new(tables(1)),
            builder: builder.clone(),
            settings: Settings::default(),
            registry,
            status: Default::default(),
            listening: true.into(),
            draining: false.into(),
            body_bytes: 0.into(),
            started: Instant::now(),
        });
        let core = Core::new(shared.clone(), writers.pop().unwrap());
        let swaps = async {
            for generation in 2..4 {
                let call = core.tables();
                let old = shared.tables.swap(tables(generation));
                let mut unused = std::pin::pin!(old.unused());
                // The core has seen the swap by then, and the call goes on.
                while core.tables().generation != generation {
                    tokio::task::yield_now().await;
                }
                assert!(
                    tokio::time::timeout(Duration::from_millis(50), unused.as_mut()).await.is_err(),
                    "a call uses it"
                );
                assert_eq!(call.generation, generation - 1);
                drop(call);
                tokio::time::timeout(PATIENCE, unused).await.expect("nobody uses it any more");
            }
            let idle = shared.tables.swap(tables(4));
            tokio::time::timeout(PATIENCE, idle.unused()).await.expect("an idle core does not hold it");
        };
        tokio::select! {
            never = core.tend() => match never {},
            () = swaps => {}
        }
    }
}
