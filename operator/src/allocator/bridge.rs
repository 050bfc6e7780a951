//! I/O: proxies that ask the operator, at a gateway whose books are in a Redis: because they began before it had one, or
//! after it had none any more. What they tell goes there, and the answers back: nothing they hold is lost, and nobody waits.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tollgate_allocator::{Batch, ReplicaId};
use tollgate_redis::{Memory, SHARDS};

use super::caller::own_name;
use super::desk::Ask;
use super::link::{Link, LinkError};
use crate::backoff::Backoff;

/// Asks that go together.
const TOGETHER: usize = 64;

/// An answer of Redis has this long.
const DEADLINE: Duration = Duration::from_millis(250);

/// Who came over a bridge. A handle, cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Crossed(Arc<Mutex<BTreeSet<ReplicaId>>>);

impl Crossed {
    pub fn contains(&self, replica: &ReplicaId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(replica)
    }

    fn extend(&self, replicas: impl Iterator<Item = ReplicaId>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(replicas);
    }
}

/// The way of one gateway's proxies to its Redis.
pub struct Bridge {
    link: Link,
    crossed: Crossed,
    memory: Memory,
    /// The epochs in which it was first heard of each shard. A later one may have lost what they told.
    told: [i64; SHARDS],
}

impl Bridge {
    pub fn new(link: Link, crossed: Crossed) -> Bridge {
        Bridge { link, crossed, memory: Memory::default(), told: [0; SHARDS] }
    }

    /// Serves until all who could ask are gone. Where it is cut off, who asked tells the same again.
    pub async fn run(&mut self, asks: &mut mpsc::Receiver<Ask>) {
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
                    let (namespace, name) = &self.link.gateway;
                    tracing::debug!(%error, "proxies of `{namespace}/{name}` that do not count in Redis do not reach it: {error}");
                    self.link.forget_store();
                    backoff.wait().await;
                }
            }
        }
    }

    async fn serve(&mut self, asks: Vec<Ask>) -> Result<(), LinkError> {
        if self.link.follow().await?.is_none() {
            return Ok(());
        }
        let Some((store, _)) = self.link.get() else { return Ok(()) };
        let batch = |ask: &Ask| Batch { replica: own_name(&ask.replica), reports: ask.reports.clone() };
        let batches: Vec<Batch> = asks.iter().map(batch).collect();
        self.crossed.extend(batches.iter().map(|batch| batch.replica.clone()));
        let terms = self.link.terms_of();
        let exchanged = store.exchange(&batches, &mut self.memory, &self.told, None, &terms, DEADLINE).await;
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
