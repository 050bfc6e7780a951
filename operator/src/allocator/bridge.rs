//! I/O: proxies that began while the operator handed out budgets, at a gateway that counts in a Redis now. What they tell
//! goes there, and the answers back, until they are started again: nothing they hold is lost, and nobody waits.

use std::time::Duration;

use tokio::sync::mpsc;
use tollgate_allocator::Batch;
use tollgate_redis::{Memory, SHARDS};

use super::caller::own_name;
use super::desk::Ask;
use super::link::{Link, LinkError};
use crate::Context;
use crate::backoff::Backoff;
use crate::facts::Named;

/// Asks that go together.
const TOGETHER: usize = 64;

/// An answer of Redis has this long.
const DEADLINE: Duration = Duration::from_millis(250);

/// The way of one gateway's old proxies to its Redis.
pub struct Bridge {
    link: Link,
    memory: Memory,
    /// The epochs in which it was first heard of each shard. A later one may have lost what they told.
    told: [i64; SHARDS],
}

impl Bridge {
    pub fn new(context: Context, gateway: Named) -> Bridge {
        Bridge { link: Link::new(context, gateway), memory: Memory::default(), told: [0; SHARDS] }
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
                    let (namespace, name) = &self.link.gateway;
                    tracing::debug!(%error, "proxies of `{namespace}/{name}` that began without Redis do not reach it: {error}");
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
