//! Who may spend how much over all proxies of a gateway: the leader asks each proxy what its budgets need, decides by
//! `tollgate_allocator`, and answers once the decision is written to the API server. Two leaders cannot grant the same
//! money: each write carries the resourceVersion that it was computed from.
//!
//! ```text
//! proxy ◄── POST /operator/allowance {answers} ── caller (one for each proxy) ──► desk (one for each gateway)
//!       ──► {reports}, at once when a call waits                                  │ sync, write shards, then answer
//! ```
//!
//! A gateway with `stores.redis` counts there: a reader brings the operator's books there and tells what was spent, and a
//! bridge serves proxies that began before, until they are started again. One that has none any more goes the same way
//! back. Where its books are is written down ([`place::Place`]), so that nobody grants what is granted elsewhere.

mod bridge;
mod caller;
mod capacity;
mod desk;
mod keep;
mod leave;
mod link;
mod place;
mod spend;
pub mod terms;

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::Context;
use crate::error::Ended;
use crate::facts::Named;
use crate::proxies::Asker;
use crate::shards::Series;

pub use self::capacity::CEILING;

use self::caller::Caller;

/// The books of a gateway's budgets: few enough to be written at once, enough that none grows to its limit.
pub const BUDGETS: Series =
    Series { what: "budgets", label: "tollgate.dev/allocations", entry: "budgets.json", count: 16 };

/// How often the proxies that are there are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Batches that wait for a desk. A proxy has one under way.
const WAITING: usize = 256;

/// Ends only when the operator does.
pub async fn run(context: Context) -> Ended {
    loop {
        // What was known may be old when this process leads again.
        context.facts.forget_spend();
        if let Some(never) = context.leadership.while_leading(lead(&context)).await {
            match never {}
        }
    }
}

/// Who decides for a gateway, and the proxies that call on it. All end with it.
struct Counter {
    /// In Redis.
    is_elsewhere: bool,
    tasks: JoinSet<()>,
    desk: mpsc::Sender<desk::Ask>,
    /// Name, uid and address of each: a pod whose node was started again has another address.
    called: BTreeSet<(String, String, SocketAddr)>,
}

async fn lead(context: &Context) -> Infallible {
    let asker = Asker::default();
    let mut counters: HashMap<Named, Counter> = HashMap::new();
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let there = context.fleet.callable();
        let elsewhere = spend::elsewhere(context, there.keys());
        counters.retain(|gateway, counter| {
            there.contains_key(gateway) && counter.is_elsewhere == elsewhere.contains(gateway)
        });
        for (gateway, proxies) in there {
            let counter = counters.entry(gateway.clone()).or_insert_with(|| {
                let is_elsewhere = elsewhere.contains(&gateway);
                let (desk, asks) = mpsc::channel(WAITING);
                let mut tasks = JoinSet::new();
                tasks.spawn(keep::keep(context.clone(), gateway.clone(), is_elsewhere, asks));
                Counter { is_elsewhere, tasks, desk, called: BTreeSet::new() }
            });
            // A caller ends when its proxy does.
            while let Some(ended) = counter.tasks.try_join_next() {
                if let Err(error) = ended {
                    tracing::error!(%error, "a part of the allocator failed");
                }
            }
            let there: BTreeSet<(String, String, SocketAddr)> = proxies.iter().cloned().collect();
            counter.called.retain(|called| there.contains(called));
            for (name, uid, address) in proxies {
                if counter.called.insert((name.clone(), uid.clone(), address)) {
                    let caller = Caller {
                        asker: asker.clone(),
                        fleet: context.fleet.clone(),
                        gateway: gateway.clone(),
                        pod: name,
                        uid,
                        address,
                        desk: counter.desk.clone(),
                        until_elsewhere: counter.is_elsewhere,
                    };
                    counter.tasks.spawn(caller.run());
                }
            }
        }
    }
}
