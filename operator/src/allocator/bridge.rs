//! I/O: proxies that began while the operator handed out budgets, at a gateway that counts in a Redis now. What they tell
//! goes there, and the answers back, until they are started again: nothing they hold is lost, and nobody waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tollgate_allocator::{Batch, Terms};
use tollgate_redis::{Address, Memory, SHARDS, Store};
use tollgate_snapshot::Snapshot;

use super::caller::own_name;
use super::desk::Ask;
use super::spend::{SpendError, address_of, open};
use super::terms::AllTerms;
use crate::Context;
use crate::backoff::Backoff;
use crate::facts::Named;

/// Asks that go together.
const TOGETHER: usize = 64;

/// An answer of Redis has this long.
const DEADLINE: Duration = Duration::from_millis(250);

/// The way of one gateway's old proxies to its Redis.
pub struct Bridge {
    context: Context,
    gateway: Named,
    terms: AllTerms,
    snapshot: Option<Arc<Snapshot>>,
    store: Option<(Address, Store)>,
    memory: Memory,
    /// The epochs in which it was first heard of each shard. A later one may have lost what they told.
    told: [i64; SHARDS],
}

impl Bridge {
    pub fn new(context: Context, gateway: Named) -> Bridge {
        Bridge {
            context,
            gateway,
            terms: AllTerms::default(),
            snapshot: None,
            store: None,
            memory: Memory::default(),
            told: [0; SHARDS],
        }
    }

    /// Serves until all who could ask are gone.
    pub async fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        let mut backoff = Backoff::of_server();
        while let Some(first) = asks.recv().await {
            let mut together = vec![first];
            while together.len() < TOGETHER
                && let Ok(more) = asks.try_recv()
            {
                together.push(more);
            }
            match self.serve(together).await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    // Who asked hears nothing, and tells the same again.
                    let (namespace, name) = &self.gateway;
                    tracing::debug!(%error, "proxies of `{namespace}/{name}` that began without Redis do not reach it: {error}");
                    self.store = None;
                    backoff.wait().await;
                }
            }
        }
    }

    async fn serve(&mut self, asks: Vec<Ask>) -> Result<(), SpendError> {
        let Some(snapshot) = self.context.fleet.snapshot_of(&self.gateway) else { return Ok(()) };
        let address = address_of(&self.context, &snapshot)?;
        if !self.snapshot.as_ref().is_some_and(|known| Arc::ptr_eq(known, &snapshot)) {
            self.terms = AllTerms::of(&snapshot);
            self.snapshot = Some(snapshot);
        }
        if self.store.as_ref().is_none_or(|(known, _)| *known != address) {
            let store = open(&address, &self.gateway).await?;
            self.store = Some((address, store));
        }
        let Some((_, store)) = &self.store else { return Ok(()) };
        let batch = |ask: &Ask| Batch { replica: own_name(&ask.replica), reports: ask.reports.clone() };
        let batches: Vec<Batch> = asks.iter().map(batch).collect();
        let of = |id: &str| self.terms.get(id).map(|terms| Terms::clone(terms));
        let exchanged = store.exchange(&batches, &mut self.memory, &self.told, None, &of, DEADLINE).await;
        for (shard, header) in &exchanged.headers {
            if self.told[*shard] == 0 {
                self.told[*shard] = header.epoch;
            }
        }
        for (ask, batch) in asks.into_iter().zip(batches) {
            let its = exchanged.answers.iter().filter(|answers| answers.replica == batch.replica);
            // Its caller ended: the proxy is gone.
            let _ = ask.tell.send(its.flat_map(|answers| answers.answers.iter().cloned()).collect());
        }
        exchanged.failed.map_or(Ok(()), |error| Err(error.into()))
    }
}
