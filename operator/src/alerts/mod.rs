//! Tells who wants to know that a budget passed a share of its limit: an Event on the Budget, a metric, a webhook. The leader
//! does it, because it knows what all proxies have spent; what was told is in a ConfigMap of the gateway, so that the next
//! leader does not tell it again. Budgets without thresholds cost nothing here.

mod standing;
mod store;

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tollgate_alerts::{Crossing, Sender, State, deliver};
use tollgate_snapshot::ObjectRef;

use self::standing::{Watched, object_of};
use self::store::{Store, StoreError};
use crate::Context;
use crate::backoff::Backoff;
use crate::error::Ended;
use crate::events::Event;
use crate::facts::Named;

/// How often the gateways that are there are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How often budgets are looked at: about as often as what they spent is known anew.
const LOOK_AT_BUDGETS: Duration = Duration::from_secs(2);

/// Ends only when the operator does.
pub async fn run(context: Context) -> Ended {
    loop {
        // Who leads anew reads what the last one told.
        if let Some(never) = context.leadership.while_leading(lead(&context)).await {
            match never {}
        }
    }
}

async fn lead(context: &Context) -> Infallible {
    let mut gateways: HashMap<Named, JoinSet<()>> = HashMap::new();
    let mut look = interval(LOOK);
    loop {
        look.tick().await;
        let there = context.fleet.callable();
        gateways.retain(|gateway, _| there.contains_key(gateway));
        for gateway in there.into_keys() {
            let tasks = gateways.entry(gateway.clone()).or_default();
            while let Some(ended) = tasks.try_join_next() {
                if let Err(error) = ended {
                    tracing::error!(%error, "telling of budgets failed; it begins anew");
                }
            }
            if tasks.is_empty() {
                tasks.spawn(watch(context.clone(), gateway));
            }
        }
    }
}

/// Watches the budgets of one gateway. Never ends.
async fn watch(context: Context, gateway: Named) {
    let sender = Sender::new(false);
    let mut backoff = Backoff::of_server();
    let mut kept: Option<(Store, State)> = None;
    let mut look = interval(LOOK_AT_BUDGETS);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let Some(snapshot) = context.fleet.snapshot_of(&gateway) else { continue };
        let watched = Watched::of(&snapshot);
        if watched.is_empty() && kept.is_none() {
            continue;
        }
        let (store, state) = match &mut kept {
            Some(known) => known,
            None => match load(&context, &gateway).await {
                Ok(Some(loaded)) => kept.insert(loaded),
                // The gateway is gone.
                Ok(None) => continue,
                Err(error) => {
                    failed(&gateway, &error);
                    backoff.wait().await;
                    continue;
                }
            },
        };
        match round(&context, &gateway, &watched, &sender, store, state).await {
            Ok(()) => backoff.reset(),
            Err(error) => {
                // What is there is not known any more.
                kept = None;
                failed(&gateway, &error);
                backoff.wait().await;
            }
        }
    }
}

fn failed((namespace, name): &Named, error: &StoreError) {
    let gateway = format!("{namespace}/{name}");
    tracing::warn!(%gateway, %error, "what was told of budgets cannot be kept: {error}");
}

async fn load(context: &Context, gateway: &Named) -> Result<Option<(Store, State)>, StoreError> {
    let (namespace, name) = gateway;
    let Some(uid) = context.world.read().gateway_uid(namespace, name) else { return Ok(None) };
    Store::load(&context.client, gateway, &uid, context.metrics.clone()).await.map(Some)
}

/// One look, and one try of what is to be delivered.
async fn round(
    context: &Context,
    gateway: &Named,
    watched: &Watched<'_>,
    sender: &Sender,
    store: &mut Store,
    state: &mut State,
) -> Result<(), StoreError> {
    let now = jiff::Timestamp::now().as_second();
    let before = state.clone();
    let spend = context.facts.read().spend.get(gateway).cloned().unwrap_or_default();
    let mut crossings = Vec::new();
    for (standing, thresholds) in watched.standings(&spend) {
        crossings.extend(state.look(&standing.as_ref(), thresholds, now));
    }
    state.retain(|budget| watched.contains(budget));
    // Kept before it is told: of two leaders one cannot write, and does not tell.
    if *state != before {
        store.save(state).await?;
    }
    crossings.iter().for_each(|crossing| tell(context, crossing));
    let due = state.due(now);
    if due.is_empty() {
        return Ok(());
    }
    let webhooks = context.facts.read().webhooks.get(gateway).cloned();
    let known = webhooks.as_deref().unwrap_or_default();
    let url = |id: &str| known.iter().find(|webhook| *webhook.id == *id).map(|webhook| webhook.value.clone());
    for (delivery, delivered) in deliver(sender, due, url).await {
        state.settle(&delivery, delivered, now);
    }
    store.save(state).await
}

/// An Event on the Budget, and a metric.
fn tell(context: &Context, Crossing { budget, percent, text, event: _ }: &Crossing) {
    let Some((namespace, name)) = object_of(budget) else { return };
    context.metrics.threshold_passed(&format!("{namespace}/Budget/{name}"), *percent);
    tracing::info!(budget = %format!("{namespace}/{name}"), percent, "it is told that a budget passed {percent} % of its limit");
    let object = ObjectRef { kind: "Budget", namespace: namespace.to_owned(), name: name.to_owned() };
    let Some(uid) = context.world.read().record(&object).map(|record| record.uid.clone()) else { return };
    context.events.put(Event {
        object,
        uid,
        warning: *percent >= 100,
        reason: "ThresholdPassed".to_owned(),
        action: format!("Threshold{percent}"),
        note: text.clone(),
    });
}
