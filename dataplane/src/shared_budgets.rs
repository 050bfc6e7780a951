//! I/O: budgets and rate limits that several proxies count together in a Redis or Valkey: a thread that keeps the ledger,
//! the leases of limits and the server together, and where the server is. Which allocator a process has is decided by the first tables, once: accounts of
//! one mean nothing to another.

use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};
use tollgate_ledger::{Answer, Batch, ReplicaId, Terms};
use tollgate_redis::{Address, Client, CounterValues, Counters, LeaseClient, Spender};
use tollgate_snapshot::model;

use crate::core::Shared;
use crate::exact::LeaseHolder;
use crate::tables::terms;

/// Where budgets are counted, as the tables say.
#[derive(Debug)]
pub struct RedisLink {
    /// `namespace/name` of the gateway; `None`: no Redis.
    decided: OnceLock<Option<String>>,
    address: watch::Sender<Option<Address>>,
    counters: Arc<Counters>,
    rate_counters: Arc<Counters>,
}

impl Default for RedisLink {
    fn default() -> RedisLink {
        let (counters, rate_counters) = Default::default();
        RedisLink { decided: OnceLock::new(), address: watch::Sender::new(None), counters, rate_counters }
    }
}

impl RedisLink {
    /// Takes over what tables say. `value`: of a credential.
    pub fn follow(&self, generation: u64, gateway: &model::Gateway, value: impl Fn(&str) -> Option<Arc<str>>) {
        if generation == 0 {
            return;
        }
        let wanted = gateway.redis.as_ref().map(|_| format!("{}/{}", gateway.namespace, gateway.name));
        let decided = self.decided.get_or_init(|| wanted.clone());
        if *decided != wanted {
            tracing::error!(
                "spec.stores.redis was added or removed: this process goes on as it is, and counts budgets the new way \
                 when it is started again"
            );
            return;
        }
        // A Secret that cannot be read now: the last good URL stays in use.
        let Some(url) = gateway.redis.as_deref().and_then(value) else { return };
        match Address::parse(&url) {
            Ok(address) => {
                self.address.send_if_modified(|known| {
                    let differs = known.as_ref() != Some(&address);
                    if differs {
                        *known = Some(address);
                    }
                    differs
                });
            }
            Err(error) => tracing::error!("the URL of Redis cannot be used: {error}"),
        }
    }

    /// Whether budgets are counted there.
    pub fn in_use(&self) -> bool {
        self.decided.get().is_some_and(Option::is_some)
    }

    /// `namespace/name` of the gateway whose budgets are counted there.
    pub fn gateway(&self) -> Option<&str> {
        self.decided.get()?.as_deref()
    }

    /// Where the server is, if that is known.
    pub fn address(&self) -> Option<Address> {
        self.address.borrow().clone()
    }

    /// What the client of budgets counted. `None`: there is none.
    pub fn counters(&self) -> Option<CounterValues> {
        self.in_use().then(|| self.counters.values())
    }

    /// What the client of rate limits counted. `None`: there is none.
    pub fn rate_counters(&self) -> Option<CounterValues> {
        self.in_use().then(|| self.rate_counters.values())
    }
}

/// The thread that talks to the server.
#[derive(Debug)]
pub struct SharedBudgets {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl SharedBudgets {
    /// Starts it, where the tables that are in use want it.
    ///
    /// # Errors
    /// No thread or runtime is to be had.
    pub fn start(shared: &Arc<Shared>) -> std::io::Result<Option<SharedBudgets>> {
        let link = &shared.builder.persistent.redis;
        let Some(Some(gateway)) = link.decided.get() else { return Ok(None) };
        let client = Client::new(
            link.address.subscribe(),
            gateway,
            LedgerSpender { shared: shared.clone() },
            link.counters.clone(),
        );
        let rates = shared.builder.persistent.hub.as_ref().map(|hub| {
            LeaseClient::new(
                link.address.subscribe(),
                gateway,
                hub.exact.process(),
                LeaseHolder::new(shared.clone(), hub.clone()),
                link.rate_counters.clone(),
            )
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("allocator".into()).spawn(move || {
            runtime.block_on(async {
                // Asked to stop, or nobody is left who could ask.
                let stopped = async { _ = stopped.await };
                let ended = async {
                    match rates {
                        Some(rates) => rates.run(stopped).await,
                        None => stopped.await,
                    }
                };
                tokio::select! {
                    never = client.run() => match never {},
                    () = ended => {}
                }
            });
        })?;
        Ok(Some(SharedBudgets { stop, thread }))
    }

    /// Ends it. What was not told is told by the next process of the data folder.
    pub fn stop(self) {
        // It has ended by itself where nobody listens.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the thread that shares budgets panicked");
        }
    }
}

/// The ledger, and the tables that know the terms of its budgets.
struct LedgerSpender {
    shared: Arc<Shared>,
}

impl Spender for LedgerSpender {
    fn replica(&self) -> ReplicaId {
        self.shared.builder.ledger.replica().expect("the ledger was opened for shared limits")
    }

    fn due(&self) -> Vec<Batch> {
        self.shared.builder.ledger.due()
    }

    fn answered(&self, replica: &ReplicaId, answers: &[Answer]) {
        self.shared.builder.ledger.answered(replica, answers);
    }

    fn unanswered(&self) {
        self.shared.builder.ledger.unanswered();
    }

    async fn urgent(&self) {
        self.shared.builder.ledger.urgent().await;
    }

    fn recalled(&self, budgets: &[String]) {
        self.shared.builder.ledger.recalled(budgets);
    }

    fn tell_all(&self) {
        self.shared.builder.ledger.tell_all();
    }

    fn terms(&self, budget: &str) -> Option<Terms> {
        // Those of a process that ended may not be in use yet.
        self.shared.builder.ledger.terms(budget).or_else(|| {
            let tables = self.shared.tables.load();
            // Members that calls bring have the id of their budget, and `/member`.
            let is_it = |one: &&model::Budget| match budget.strip_prefix(&*one.id) {
                Some("") => one.per.is_none(),
                Some(member) => one.per.is_some() && member.starts_with('/'),
                None => false,
            };
            let found = tables.snapshot.budgets.iter().find(is_it)?;
            Some(terms(found).shared(jiff::Timestamp::now().as_second()))
        })
    }
}
