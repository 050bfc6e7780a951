//! I/O: the pods of proxies, from watches by label.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use futures_util::stream::{self, BoxStream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};

use super::fleet::{Fleet, Proxy};
use crate::facts::Named;
use crate::gateway::STATUS_PORT;
use crate::names::{GATEWAY_LABEL, MANAGER};
use crate::settings::Namespaces;

/// Where a watch looks; `None`: everywhere.
type Scope = Option<String>;

/// Something that a watch saw.
pub struct Seen {
    scope: Scope,
    event: Event<Pod>,
}

/// Pods that a list which is under way has named.
#[derive(Debug, Default)]
pub struct Listing(HashMap<Scope, HashSet<(Named, String)>>);

/// What changed for a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A pod is new, moved or became ready: its name.
    Fresh(Named, String),
    /// Something else about its pods.
    Other(Named),
}

impl Listing {
    /// Takes over what was seen and says what to do about it.
    pub fn apply(&mut self, fleet: &Fleet, seen: Seen) -> Vec<Change> {
        let Seen { scope, event } = seen;
        match event {
            Event::Init => {
                self.0.insert(scope, HashSet::new());
                Vec::new()
            }
            Event::InitApply(pod) => {
                let Some(gateway) = gateway_of(&pod) else { return Vec::new() };
                self.0.entry(scope).or_default().insert((gateway.clone(), pod.name_any()));
                vec![put(fleet, gateway, &pod)]
            }
            Event::Apply(pod) => gateway_of(&pod).map(|gateway| put(fleet, gateway, &pod)).into_iter().collect(),
            Event::Delete(pod) => {
                let Some(gateway) = gateway_of(&pod) else { return Vec::new() };
                fleet.lock().entry(gateway.clone()).or_default().proxies.remove(&pod.name_any());
                vec![Change::Other(gateway)]
            }
            Event::InitDone => {
                let listed = self.0.remove(&scope).unwrap_or_default();
                let mut changes = Vec::new();
                for (gateway, state) in fleet.lock().iter_mut() {
                    if scope.as_ref().is_some_and(|scope| *scope != gateway.0) {
                        continue;
                    }
                    state.proxies.retain(|name, _| listed.contains(&(gateway.clone(), name.clone())));
                    changes.push(Change::Other(gateway.clone()));
                }
                changes
            }
        }
    }
}

fn gateway_of(pod: &Pod) -> Option<Named> {
    Some((pod.namespace()?, pod.labels().get(GATEWAY_LABEL)?.clone()))
}

fn put(fleet: &Fleet, gateway: Named, pod: &Pod) -> Change {
    let status = pod.status.as_ref();
    let address = status.and_then(|status| status.pod_ip.as_ref()).and_then(|ip| ip.parse::<IpAddr>().ok());
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let mut proxy = Proxy {
        uid: pod.uid().unwrap_or_default(),
        address: address.map(|ip| SocketAddr::new(ip, STATUS_PORT as u16)),
        ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        deleting: pod.metadata.deletion_timestamp.is_some()
            || status.and_then(|status| status.phase.as_deref()).is_some_and(|phase| {
                // Evicted and finished pods stay as objects.
                phase == "Failed" || phase == "Succeeded"
            }),
        told: None,
    };
    let name = pod.name_any();
    let mut gateways = fleet.lock();
    let proxies = &mut gateways.entry(gateway.clone()).or_default().proxies;
    let before = proxies.get(&name).filter(|before| before.uid == proxy.uid && before.address == proxy.address);
    // One that became ready may have restarted.
    let is_fresh = before.is_none_or(|before| proxy.ready && !before.ready);
    proxy.told = before.filter(|_| !is_fresh).and_then(|before| before.told.clone());
    proxies.insert(name.clone(), proxy);
    if is_fresh { Change::Fresh(gateway, name) } else { Change::Other(gateway) }
}

/// What is seen, for ever; a watch that fails is begun again after a while.
pub fn watch(client: &Client, namespaces: &Namespaces) -> BoxStream<'static, Seen> {
    let scopes: Vec<Scope> = match namespaces {
        Namespaces::All => vec![None],
        Namespaces::Listed(names) => names.iter().cloned().map(Some).collect(),
    };
    stream::select_all(scopes.into_iter().map(|scope| watch_one(client, scope))).boxed()
}

fn watch_one(client: &Client, scope: Scope) -> BoxStream<'static, Seen> {
    let api: Api<Pod> = match &scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let selector = format!("app.kubernetes.io/managed-by={MANAGER},app.kubernetes.io/component=proxy");
    watcher(api, watcher::Config::default().labels(&selector))
        .default_backoff()
        .filter_map(move |event| {
            let seen = match event {
                Ok(event) => Some(Seen { scope: scope.clone(), event }),
                Err(error) => {
                    tracing::warn!(namespace = scope, %error, "cannot watch the proxies' pods");
                    None
                }
            };
            std::future::ready(seen)
        })
        .boxed()
}
