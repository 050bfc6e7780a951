//! Whether somebody else changes or deletes tables: then they are written again. Metadata only; ConfigMaps by their label
//! in each namespace that has a gateway, Secrets by their names.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tollgate_snapshot::GatewayName;
use tollgate_snapshot::wire::names;

use crate::backoff::Backoff;
use crate::facts::Named;
use crate::metrics::Metrics;
use crate::secrets::{self, Sight};

/// What was seen of an object that may hold tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub namespace: String,
    pub name: String,
    /// `None`: it is gone.
    pub resource_version: Option<String>,
}

/// Sightings that wait. A watch that finds no place waits: the server keeps what comes meanwhile.
const WAITING: usize = 256;

/// All watches. They end with it.
pub struct Watches {
    client: Client,
    metrics: Metrics,
    tasks: JoinSet<()>,
    namespaces: HashMap<String, AbortHandle>,
    secrets: HashMap<Named, AbortHandle>,
    reads: Arc<Semaphore>,
    sender: mpsc::Sender<Seen>,
    receiver: mpsc::Receiver<Seen>,
}

impl Watches {
    pub fn new(client: Client, metrics: Metrics) -> Watches {
        let (sender, receiver) = mpsc::channel(WAITING);
        Watches {
            client,
            metrics,
            tasks: JoinSet::new(),
            namespaces: HashMap::new(),
            secrets: HashMap::new(),
            reads: Arc::new(Semaphore::new(4)),
            sender,
            receiver,
        }
    }

    /// The next sighting.
    pub async fn next(&mut self) -> Seen {
        self.receiver.recv().await.expect("a sender is kept beside it")
    }

    /// One that is there already.
    pub fn try_next(&mut self) -> Option<Seen> {
        self.receiver.try_recv().ok()
    }

    /// Watches what these gateways need: each with the names of its credentials Secrets.
    pub fn set<'g>(&mut self, gateways: impl Iterator<Item = (&'g GatewayName, Vec<String>)>) {
        let mut namespaces: BTreeSet<String> = BTreeSet::new();
        let mut names: BTreeSet<Named> = BTreeSet::new();
        for (gateway, credentials) in gateways {
            namespaces.insert(gateway.namespace.clone());
            names.extend(credentials.into_iter().map(|name| (gateway.namespace.clone(), name)));
        }
        self.namespaces.retain(|namespace, task| keep(namespaces.contains(namespace), task));
        self.secrets.retain(|name, task| keep(names.contains(name), task));
        for namespace in namespaces {
            if !self.namespaces.contains_key(&namespace) {
                let watch = watch_config_maps(
                    self.client.clone(),
                    namespace.clone(),
                    self.sender.clone(),
                    self.metrics.clone(),
                );
                self.namespaces.insert(namespace, self.tasks.spawn(watch));
            }
        }
        for name in names {
            if !self.secrets.contains_key(&name) {
                let watch = watch_secret(self.client.clone(), name.clone(), self.sender.clone(), self.reads.clone());
                self.secrets.insert(name, self.tasks.spawn(watch));
            }
        }
        // Those that were aborted.
        while self.tasks.try_join_next().is_some() {}
    }
}

fn keep(wanted: bool, task: &AbortHandle) -> bool {
    if !wanted {
        task.abort();
    }
    wanted
}

async fn watch_config_maps(client: Client, namespace: String, sender: mpsc::Sender<Seen>, metrics: Metrics) {
    let api: Api<PartialObjectMeta<ConfigMap>> = Api::namespaced(client, &namespace);
    let config = watcher::Config::default().labels(names::TABLES_LABEL);
    let mut events = std::pin::pin!(watcher(api, config));
    let mut backoff = Backoff::of_server();
    while let Some(event) = events.next().await {
        let (object, is_gone) = match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => (object, false),
            Ok(Event::Delete(object)) => (object, true),
            Ok(Event::Init) => continue,
            Ok(Event::InitDone) => {
                backoff.reset();
                continue;
            }
            Err(error) => {
                metrics.watch_restarted("ConfigMap");
                tracing::warn!(%error, "watch of ConfigMaps in namespace `{namespace}` failed and is tried again: {error}");
                backoff.wait().await;
                continue;
            }
        };
        let resource_version = object.resource_version().filter(|_| !is_gone);
        let seen = Seen { namespace: namespace.clone(), name: object.name_any(), resource_version };
        if sender.send(seen).await.is_err() {
            return;
        }
    }
}

async fn watch_secret(client: Client, name: Named, sender: mpsc::Sender<Seen>, reads: Arc<Semaphore>) {
    let see = |sight: Sight| {
        let resource_version = match sight {
            Sight::Found(object) => object.metadata.resource_version,
            Sight::Missing => None,
            Sight::Forbidden | Sight::Failed(_) => return,
        };
        let (namespace, name) = name.clone();
        // Where there is no place the next read sees it.
        let _ = sender.try_send(Seen { namespace, name, resource_version });
    };
    secrets::follow(client, &name, &reads, see).await;
}
