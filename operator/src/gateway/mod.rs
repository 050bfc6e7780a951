//! What runs for an LLMGateway: Deployment, Service, NetworkPolicy, PodDisruptionBudget, autoscaler. `children` says what
//! there should be, `live` what there is, `reconcile` makes the one the other; here is only when.

mod child;
mod children;
mod deployment;
mod live;
mod network_policy;
mod reconcile;
mod rollout;
mod scaling;
pub mod served;
mod service;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{Instant, sleep_until, timeout};
use tollgate_crds::{LLMGateway, LLMGatewaySpec, ObjectMeta};
use tollgate_snapshot::compile::Object;

pub use children::{Children, STATUS_PORT, children, selector_text};
pub use service::address;

use self::live::Live;
use self::reconcile::{Reconciler, Settled};
use crate::facts::Named;
use crate::world::Record;
use crate::{Context, Ended};

/// A rollout changes its Deployment several times in a moment.
const SETTLE: Duration = Duration::from_millis(50);

/// Longest that one gateway keeps the others waiting.
const LONGEST: Duration = Duration::from_secs(30);

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Gateways to look at, and when.
#[derive(Debug, Default)]
struct Due {
    at: BTreeMap<Named, Instant>,
    failures: HashMap<Named, u32>,
}

impl Due {
    /// `gateway` is looked at after `delay`, or before if that was said already.
    fn put(&mut self, gateway: Named, delay: Duration) {
        let at = Instant::now() + delay;
        self.at.entry(gateway).and_modify(|before| *before = at.min(*before)).or_insert(at);
    }

    fn failed(&mut self, gateway: Named) {
        let failures = self.failures.entry(gateway.clone()).or_default();
        let delay = FIRST_RETRY.saturating_mul(1 << (*failures).min(16)).min(LAST_RETRY);
        *failures += 1;
        self.put(gateway, delay);
    }

    fn next(&self) -> Option<(&Named, Instant)> {
        self.at.iter().map(|(gateway, at)| (gateway, *at)).min_by_key(|(_, at)| *at)
    }
}

/// Ends only when the operator does.
pub async fn run(context: Context) -> Ended {
    loop {
        context.leadership.while_leading(lead(&context)).await;
    }
}

async fn lead(context: &Context) -> std::convert::Infallible {
    let mut live = Live::default();
    let mut settled = Settled::default();
    let mut due = Due::default();
    let mut known: HashMap<Named, (String, i64)> = HashMap::new();
    let mut seen = live::watch(&context.client, &context.settings.namespaces);
    let mut world = context.world.subscribe();
    world.mark_changed();
    loop {
        let next = due.next().map_or_else(|| Instant::now() + LAST_RETRY, |(_, at)| at);
        tokio::select! {
            Some(seen) = seen.next() => match live.apply(seen) {
                Some(gateway) if known.contains_key(&gateway) => due.put(gateway, SETTLE),
                Some(_) => {}
                None => known.keys().for_each(|gateway| due.put(gateway.clone(), SETTLE)),
            },
            changed = world.changed() => {
                changed.expect("the world is there as long as its handle");
                if *world.borrow_and_update() > 0 {
                    changed_gateways(context, &mut known).into_iter().for_each(|gateway| due.put(gateway, Duration::ZERO));
                }
            }
            () = sleep_until(next), if !due.at.is_empty() => {
                let Some(gateway) = due.next().map(|(gateway, _)| gateway.clone()) else { continue };
                due.at.remove(&gateway);
                look_at(context, gateway, &mut live, &mut settled, &mut due).await;
            }
        }
    }
}

/// Takes over which gateways there are; those that are new or have another spec.
fn changed_gateways(context: &Context, known: &mut HashMap<Named, (String, i64)>) -> Vec<Named> {
    let objects = context.world.read();
    let now: HashMap<Named, (String, i64)> = objects
        .gateways()
        .map(|(gateway, record)| {
            ((gateway.meta.namespace.clone(), gateway.meta.name.clone()), (record.uid.clone(), record.generation))
        })
        .collect();
    let changed = now.iter().filter(|(name, version)| known.get(*name) != Some(version));
    let changed = changed.map(|(name, _)| name.clone()).collect();
    *known = now;
    changed
}

async fn look_at(context: &Context, name: Named, live: &mut Live, settled: &mut Settled, due: &mut Due) {
    let gateway = context.world.read().gateway(&name.0, &name.1).map(|(object, record)| as_object(object, record));
    // Its children go with it: they are owned.
    let Some(gateway) = gateway else { return };
    let mut reconciler = Reconciler { client: &context.client, settings: &context.settings, live, settled };
    match timeout(LONGEST, reconciler.run(&gateway)).await {
        // The list that is missing brings it here again.
        Ok(Ok(None)) => {}
        Ok(Ok(Some(outcome))) => {
            due.failures.remove(&name);
            if let Some(again) = outcome.again {
                due.put(name.clone(), again);
            }
            let standing =
                || served::standing(&context.world.read(), &context.facts.read(), &context.settings.lease_namespace);
            let before = standing();
            context.facts.set_gateway(&name.0, &name.1, outcome.fact);
            if standing() != before {
                context.facts.compile_again();
            }
        }
        // The watch brings what it is now.
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
            tracing::debug!(
                namespace = name.0,
                name = name.1,
                "somebody else wrote first to a child of gateway `{}/{}`",
                name.0,
                name.1
            );
            due.failed(name);
        }
        Ok(Err(error)) => {
            tracing::warn!(namespace = name.0, name = name.1, %error, "cannot bring the children of gateway `{}/{}` up to date", name.0, name.1);
            due.failed(name);
        }
        Err(_) => {
            tracing::warn!(
                namespace = name.0,
                name = name.1,
                "the API server did not answer for gateway `{}/{}`",
                name.0,
                name.1
            );
            due.failed(name);
        }
    }
}

/// The gateway as an owner of others.
fn as_object(object: &Object<LLMGatewaySpec>, record: &Record) -> LLMGateway {
    LLMGateway {
        metadata: ObjectMeta {
            name: Some(object.meta.name.clone()),
            namespace: Some(object.meta.namespace.clone()),
            uid: Some(record.uid.clone()),
            generation: Some(record.generation),
            ..ObjectMeta::default()
        },
        spec: object.spec.clone(),
        status: None,
    }
}
