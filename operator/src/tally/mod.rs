//! What keys, teams and deployments used this month, over all proxies of a gateway, for the columns of `kubectl get`. Each
//! proxy tells sums of its rows in batches (`tollgate_allocator::tally`); the leader adds them up in ConfigMaps beside the
//! gateway, and says that a batch was taken once it is written there. Totals are there, and not in statuses, because a
//! batch and what it is added to must be written together, and a status for each key would be a write for each key.
//!
//! ```text
//! proxy ◄── POST /operator/tally {taken} ── collector (one for each gateway) ─► shards, lazily ─► taken
//!       ──► {batches}                            └─ shown: what is worth a look ─► facts ─► statuses
//! ```

mod collector;
mod shown;

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use tokio::task::JoinSet;

use self::collector::Collector;
use crate::Context;
use crate::error::Ended;
use crate::facts::Named;
use crate::shards::Series;

/// ConfigMaps of totals: enough that a hundred thousand keys with long names fit.
const TOTALS: Series = Series { what: "usage", label: "tollgate.dev/usage", entry: "usage.json", count: 64 };

/// How often the gateways that are there are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Ends only when the operator does.
pub async fn run(context: Context) -> Ended {
    loop {
        // What was known may be old when this process leads again.
        context.facts.forget_tallies();
        if let Some(never) = context.leadership.while_leading(lead(&context)).await {
            match never {}
        }
    }
}

async fn lead(context: &Context) -> Infallible {
    let mut collectors: HashMap<Named, JoinSet<()>> = HashMap::new();
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let there = context.fleet.callable();
        collectors.retain(|gateway, tasks| there.contains_key(gateway) && !tasks.is_empty());
        for gateway in there.into_keys() {
            let tasks = collectors.entry(gateway.clone()).or_default();
            if tasks.is_empty() {
                tasks.spawn(Collector::new(context.clone(), gateway).run());
            }
            // It ends only by a panic, and is begun again.
            if let Some(Err(error)) = tasks.try_join_next() {
                tracing::error!(%error, "the collector of sums failed");
            }
        }
    }
}
