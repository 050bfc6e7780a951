//! The feed of a data plane in a cluster: watches the gateway's tables through the Kubernetes API, waits until they are
//! whole, and swaps them in. Whatever goes wrong (no API, no manifest, a missing part, nonsense), the last good tables
//! stay in use, and what is wrong is told at `/snapshot`, in metrics and once in the log.
//!
//! ```text
//! api (list, watch) ─ Change → store (texts by hash) → parts (is it whole?) → load (read, index, swap)
//! ```

mod api;
mod load;
mod parts;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tollgate_dataplane::core::Shared;
use tollgate_snapshot::model::GatewayName;
use tollgate_snapshot::wire::names;

use crate::memory;
use api::Change;
use load::{Live, LoadError, load};
use parts::{Parts, Progress, named};

pub use api::connect;
pub use store::Store;

/// How long the API server has to deliver whole tables to a process that starts, before the last good ones are taken
/// from the cache. They may hold a key that was revoked meanwhile, so fresh ones are worth a moment.
const CACHE_AFTER: Duration = Duration::from_secs(3);

/// How long parts may be under way before somebody is told.
const WAIT: Duration = Duration::from_secs(5);

/// Texts on their way from the watches. Each may have a MiB; a watch waits while it is full.
const CHANGES: usize = 8;

/// Feeds one data plane.
pub struct Feed {
    client: Client,
    gateway: GatewayName,
    shared: Arc<Shared>,
    store: Store,
    parts: Parts,
    changes: mpsc::Sender<Change>,
    arriving: mpsc::Receiver<Change>,
    watches: JoinSet<()>,
    /// Secrets that are followed.
    followed: BTreeSet<String>,
    /// All ConfigMaps were told at least once.
    listed: bool,
    served: Option<Live>,
    /// A manifest that cannot be used, by its hash, and why.
    refused: Option<(String, String)>,
    /// What the API does not answer now, and why.
    troubles: BTreeMap<String, String>,
    waiting_since: Option<Instant>,
    begun: Instant,
    cache_was_tried: bool,
    /// What was logged last as wrong.
    said: Option<Wrong>,
    first: Option<oneshot::Sender<()>>,
}

/// Why something newer, or anything, is not in use.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wrong {
    Tables(String),
    Api(String),
}

impl Wrong {
    fn text(&self) -> &str {
        match self {
            Wrong::Tables(text) | Wrong::Api(text) => text,
        }
    }
}

/// A load under way.
struct Loading {
    sha256: String,
    from_cache: bool,
    task: JoinHandle<Result<Live, LoadError>>,
}

impl Feed {
    /// `first` is told when the first tables are in use.
    pub fn new(
        client: Client,
        gateway: GatewayName,
        shared: Arc<Shared>,
        store: Store,
        first: oneshot::Sender<()>,
    ) -> Feed {
        let (changes, arriving) = mpsc::channel(CHANGES);
        Feed {
            parts: Parts::new(names::manifest(&gateway.name)),
            client,
            gateway,
            shared,
            store,
            changes,
            arriving,
            watches: JoinSet::new(),
            followed: BTreeSet::new(),
            listed: false,
            served: None,
            refused: None,
            troubles: BTreeMap::new(),
            waiting_since: None,
            begun: Instant::now(),
            cache_was_tried: false,
            said: None,
            first: Some(first),
        }
    }

    /// Follows the tables. Cancelling ends the watches; tables in use stay.
    pub async fn run(mut self) -> Infallible {
        self.watch();
        let mut loading: Option<Loading> = None;
        loop {
            let alarm = self.alarm();
            tokio::select! {
                Some(change) = self.arriving.recv() => {
                    self.note(change);
                    // What is here already belongs to the same edit, mostly.
                    while let Ok(change) = self.arriving.try_recv() {
                        self.note(change);
                    }
                }
                loaded = finished(&mut loading) => {
                    let (sha256, from_cache, loaded) = loaded;
                    self.loaded(sha256, from_cache, loaded);
                }
                Some(ended) = self.watches.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!("a watch of the API panicked and begins anew: {error}");
                        tokio::time::sleep(WAIT).await;
                        self.begin_again();
                    }
                }
                () = tokio::time::sleep_until(alarm.into()) => {}
            }
            self.follow_secrets();
            if loading.is_none() {
                loading = self.next_load();
            }
            self.report();
        }
    }

    fn watch(&mut self) {
        let GatewayName { namespace, name } = self.gateway.clone();
        self.watches.spawn(api::follow_config_maps(self.client.clone(), namespace, name, self.changes.clone()));
    }

    /// Follows the Secrets that the manifest names, of those that a gateway may have.
    fn follow_secrets(&mut self) {
        let allowed: BTreeSet<String> = names::all_credentials(&self.gateway.name).collect();
        let new: Vec<String> = self
            .parts
            .secrets()
            .filter(|name| allowed.contains(*name) && !self.followed.contains(*name))
            .map(str::to_owned)
            .collect();
        for name in new {
            let namespace = self.gateway.namespace.clone();
            self.watches.spawn(api::follow_secret(self.client.clone(), namespace, name.clone(), self.changes.clone()));
            self.followed.insert(name);
        }
    }

    fn note(&mut self, change: Change) {
        match change {
            Change::Present { name, text } => {
                let sha256 = self.store.put(&text);
                self.parts.present(&name, &text, sha256);
            }
            Change::Absent { name } => self.parts.absent(&name),
            Change::Listed(names) => {
                self.listed = true;
                self.parts.listed(&names, |name| self.followed.contains(name));
            }
            Change::Trouble { of, error } => {
                self.troubles.insert(of, error);
            }
            Change::Well { of } => {
                self.troubles.remove(&of);
            }
        }
        match self.parts.progress() {
            Progress::Waiting { .. } => {
                self.waiting_since.get_or_insert_with(Instant::now);
            }
            Progress::NoManifest | Progress::Refused(_) | Progress::Complete { .. } => self.waiting_since = None,
        }
    }

    /// When something must be done even if nothing comes.
    fn alarm(&self) -> Instant {
        let cache = (self.served.is_none() && !self.cache_was_tried).then_some(self.begun + CACHE_AFTER);
        let wait = self.waiting_since.map(|since| since + WAIT).filter(|at| *at > Instant::now());
        let alarms = [cache, wait].into_iter().flatten();
        alarms.min().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    /// What to load now: whole tables that are not in use; or the cache, where nothing is and the API does not help.
    fn next_load(&mut self) -> Option<Loading> {
        if let Progress::Complete { sha256, .. } = self.parts.progress() {
            let is_served = self.served.as_ref().is_some_and(|live| live.sha256 == sha256);
            let is_refused = self.refused.as_ref().is_some_and(|(refused, _)| refused == sha256);
            if !is_served && !is_refused {
                return Some(self.load(sha256.to_owned(), false));
            }
        }
        let is_time = self.begun.elapsed() >= CACHE_AFTER;
        if self.served.is_some() || self.cache_was_tried || !is_time {
            return None;
        }
        self.cache_was_tried = true;
        match self.store.last() {
            Ok(None) => None,
            Ok(Some(manifest)) => Some(self.load(self.store.put(&manifest), true)),
            Err(error) => {
                tracing::warn!("the cache of the last good tables cannot be read and is ignored: {error}");
                None
            }
        }
    }

    fn load(&self, sha256: String, from_cache: bool) -> Loading {
        let (shared, store, gateway) = (self.shared.clone(), self.store.clone(), self.gateway.clone());
        let of = sha256.clone();
        let before = self.served.as_ref().filter(|live| live.left_out.is_none()).map(|live| live.manifest.clone());
        let task = tokio::task::spawn_blocking(move || load(&shared, &store, &gateway, &of, before.as_deref()));
        Loading { sha256, from_cache, task }
    }

    fn loaded(&mut self, sha256: String, from_cache: bool, loaded: Result<Live, LoadError>) {
        match loaded {
            Ok(live) => {
                if from_cache {
                    let generation = live.manifest.generation;
                    tracing::warn!(
                        "generation {generation} comes from the cache: the API server did not give newer tables"
                    );
                }
                let served = named(&live.manifest).map(|(_, sha256)| sha256).chain([&*live.sha256]);
                let kept = served.chain(self.parts.hashes()).collect();
                if let Err(error) = self.store.retain(&kept) {
                    tracing::warn!("cannot take texts that nobody needs out of the cache: {error}");
                }
                self.served = Some(live);
                self.refused = None;
                // This thread held the texts for a moment.
                memory::give_back();
                if let Some(first) = self.first.take() {
                    // Whoever started us may be about to stop.
                    let _ = first.send(());
                }
            }
            Err(error) if from_cache => tracing::warn!("the cache of the last good tables is ignored: {error}"),
            Err(LoadError::Lost(what)) => {
                tracing::warn!("{what} is not in the cache any more; all tables are asked for again");
                self.begin_again();
            }
            Err(error) => {
                self.shared.status.update(|loaded| loaded.failures += 1);
                self.refused = Some((sha256, error.to_string()));
            }
        }
    }

    /// Forgets what is in the API, so that it is told anew.
    fn begin_again(&mut self) {
        self.watches.abort_all();
        let (changes, arriving) = mpsc::channel(CHANGES);
        self.changes = changes;
        self.arriving = arriving;
        self.followed.clear();
        self.troubles.clear();
        self.parts = Parts::new(names::manifest(&self.gateway.name));
        self.listed = false;
        self.watch();
    }

    fn wrong(&self) -> Option<Wrong> {
        if let Some((_, error)) = &self.refused {
            return Some(Wrong::Tables(format!("the tables in the cluster cannot be used: {error}")));
        }
        let about_parts = match self.parts.progress() {
            Progress::NoManifest if self.listed => {
                let GatewayName { namespace, name } = &self.gateway;
                Some(format!("there is no ConfigMap `{namespace}/{}`", names::manifest(name)))
            }
            Progress::NoManifest => None,
            Progress::Refused(error) => Some(format!("the tables in the cluster cannot be used: {error}")),
            Progress::Waiting { generation, missing } => {
                let is_long = self.waiting_since.is_some_and(|since| since.elapsed() >= WAIT);
                is_long.then(|| format!("generation {generation} is incomplete: waits for {}", missing.join(", ")))
            }
            Progress::Complete { .. } => None,
        };
        let about_api = || self.troubles.iter().next().map(|(of, error)| Wrong::Api(format!("no {of}: {error}")));
        let left_out = || self.served.as_ref().and_then(|live| live.left_out.clone()).map(Wrong::Tables);
        about_parts.map(Wrong::Tables).or_else(about_api).or_else(left_out)
    }

    /// Tells what is wrong, and logs it when it begins and ends.
    fn report(&mut self) {
        let wrong = self.wrong();
        self.shared.status.update(|loaded| {
            loaded.healthy = wrong.is_none();
            loaded.error = wrong.as_ref().map(|wrong| wrong.text().to_owned());
        });
        if wrong == self.said {
            return;
        }
        let goes_on = if self.served.is_some() { "; the last good tables stay in use" } else { "" };
        match (&wrong, &self.said) {
            // The words change with what is tried; that the API is away was said.
            (Some(Wrong::Api(_)), Some(Wrong::Api(_))) => {}
            (Some(wrong), _) => tracing::warn!("{}{goes_on}", wrong.text()),
            (None, Some(_)) => tracing::info!("the tables in the cluster are whole and in use"),
            (None, None) => {}
        }
        self.said = wrong;
    }
}

/// Waits for the load under way, if there is one. Cancel-safe.
async fn finished(loading: &mut Option<Loading>) -> (String, bool, Result<Live, LoadError>) {
    let Some(Loading { task, .. }) = loading else { return std::future::pending().await };
    let loaded = task.await.unwrap_or_else(|error| Err(LoadError::Panicked(error.to_string())));
    let Loading { sha256, from_cache, task: _ } = loading.take().expect("it was there");
    (sha256, from_cache, loaded)
}
