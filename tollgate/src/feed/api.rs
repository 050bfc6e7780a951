//! I/O: the Kubernetes API. ConfigMaps of the gateway are listed and watched; Secrets are read and watched one by one by
//! name, which is all that the proxies' Role allows. Everything ends in [`Change`]s; failures are told and tried again
//! for ever, sooner while they are fresh.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tollgate_snapshot::wire::names;

/// How long one watch lasts. A connection that died without a word is noticed when it should have ended.
const WATCH_SECONDS: u32 = 60;

/// Longest silence of the API server in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 15);

const CONNECT: Duration = Duration::from_secs(5);

/// ConfigMaps listed at once. Each may have a MiB.
const PAGE: u32 = 16;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Something that was seen in the API.
pub enum Change {
    /// An object has this text.
    Present { name: String, text: String },
    /// An object is gone, or has no such text.
    Absent { name: String },
    /// These are all ConfigMaps; those that were told before and are not among them are gone.
    Listed(BTreeSet<String>),
    /// `of`: what was asked for.
    Trouble { of: String, error: String },
    /// What was asked for is answered again.
    Well { of: String },
}

/// Finds the API server: by a kubeconfig file where one is named, else from inside a pod or as `kubectl` does.
///
/// # Errors
/// There is no usable configuration. That the server answers is not needed.
pub async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).with_context(|| format!("cannot read `{}`", path.display()))?;
            let found = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            found.with_context(|| format!("`{}` names no cluster that can be used", path.display()))?
        }
        None => Config::infer().await.context("found no Kubernetes API: run in a pod, or name a --kubeconfig")?,
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    // Else the time that a connection was idle counts too.
    config.reset_reader_on_write = true;
    Client::try_from(config).context("cannot make a client for the Kubernetes API")
}

/// Tells every change of the gateway's ConfigMaps. Ends when nobody listens.
pub async fn follow_config_maps(client: Client, namespace: String, gateway: String, changes: Sender<Change>) {
    let (gateway_label, tables_label) = (names::GATEWAY_LABEL, names::TABLES_LABEL);
    let labels = format!("{gateway_label}={gateway},{tables_label}");
    let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let of = format!("ConfigMaps of `{namespace}`");
    Watched { api, what: What::Labelled(labels), of, changes, told, version: None }.follow().await;
}

/// Tells every change of one Secret. Ends when nobody listens.
pub async fn follow_secret(client: Client, namespace: String, name: String, changes: Sender<Change>) {
    let api: Api<Secret> = Api::namespaced(client, &namespace);
    let of = format!("Secret `{namespace}/{name}`");
    Watched { api, what: What::Named(name), of, changes, told: told_secret, version: None }.follow().await;
}

/// What a ConfigMap says. Each kind has its text under an entry of its own, and none has two of them.
fn told(map: ConfigMap) -> Change {
    let name = map.name_any();
    let mut data = map.data.unwrap_or_default();
    let entries = [names::MANIFEST_ENTRY, names::POLICY_ENTRY, names::KEYS_ENTRY];
    match entries.iter().find_map(|entry| data.remove(*entry)) {
        Some(text) => Change::Present { name, text },
        None => Change::Absent { name },
    }
}

fn told_secret(secret: Secret) -> Change {
    let name = secret.name_any();
    let mut data = secret.data.unwrap_or_default();
    match data.remove(names::CREDENTIALS_ENTRY).and_then(|bytes| String::from_utf8(bytes.0).ok()) {
        Some(text) => Change::Present { name, text },
        None => Change::Absent { name },
    }
}

/// Nobody listens any more, or the server forgot where we were.
enum Over {
    Closed,
    Expired,
    Failed(kube::Error),
}

impl From<kube::Error> for Over {
    fn from(error: kube::Error) -> Over {
        match error {
            kube::Error::Api(status) if status.code == 410 => Over::Expired,
            other => Over::Failed(other),
        }
    }
}

/// What is watched.
enum What {
    /// All objects with these labels.
    Labelled(String),
    /// One object.
    Named(String),
}

/// One list, or one object, that is watched. Written out instead of kube's `watcher`, which does not tell when a watch
/// that failed works again, and needs the verb `list` even for one Secret.
struct Watched<K> {
    api: Api<K>,
    what: What,
    /// What it is, for people.
    of: String,
    changes: Sender<Change>,
    told: fn(K) -> Change,
    /// Up to where everything was told; `None`: nothing was, or the server forgot.
    version: Option<String>,
}

impl<K> Watched<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// Reads what there is, watches from there, and again whenever it ends.
    async fn follow(mut self) {
        let mut pauses = Pauses::default();
        loop {
            let turn = async {
                if self.version.is_none() {
                    self.version = Some(match &self.what {
                        What::Labelled(labels) => self.list(labels).await?,
                        What::Named(name) => self.get(name).await?,
                    });
                }
                self.watch().await
            };
            match turn.await {
                Ok(()) => {}
                Err(Over::Closed) => return,
                // Nothing that anybody should worry about, unless it goes on and on.
                Err(Over::Expired) => {
                    self.version = None;
                    tokio::time::sleep(pauses.next_pause()).await;
                }
                Err(Over::Failed(error)) => {
                    let error = match &error {
                        // Its other fields say the same again.
                        kube::Error::Api(status) => status.message.clone(),
                        other => chain(other),
                    };
                    let trouble = Change::Trouble { of: self.of.clone(), error };
                    if self.tell(trouble).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pauses.next_pause()).await;
                }
            }
        }
    }

    async fn tell(&self, change: Change) -> Result<(), Over> {
        self.changes.send(change).await.map_err(|_| Over::Closed)
    }

    /// Tells one object. Its own version is no place to watch from: it may be older than anything that the server
    /// remembers. Without a version a watch begins with what there is.
    async fn get(&self, name: &str) -> Result<String, Over> {
        let change = match self.api.get_opt(name).await? {
            Some(object) => (self.told)(object),
            None => Change::Absent { name: name.to_owned() },
        };
        self.tell(change).await?;
        Ok(String::new())
    }

    /// Tells all objects, and the version of the list.
    async fn list(&self, labels: &str) -> Result<String, Over> {
        let mut names = BTreeSet::new();
        let mut page = ListParams::default().labels(labels).limit(PAGE);
        loop {
            let list = self.api.list(&page).await?;
            for object in list.items {
                names.insert(object.name_any());
                self.tell((self.told)(object)).await?;
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => {
                    self.tell(Change::Listed(names)).await?;
                    return Ok(list.metadata.resource_version.unwrap_or_default());
                }
            }
        }
    }

    /// Tells changes until the watch ends.
    async fn watch(&mut self) -> Result<(), Over> {
        let begun = Instant::now();
        let from = self.version.clone().unwrap_or_default();
        let parameters = match &self.what {
            What::Labelled(labels) => WatchParams::default().labels(labels),
            What::Named(name) => WatchParams::default().fields(&format!("metadata.name={name}")),
        };
        let parameters = parameters.timeout(WATCH_SECONDS);
        let mut events = std::pin::pin!(self.api.watch(&parameters, &from).await?);
        self.tell(Change::Well { of: self.of.clone() }).await?;
        loop {
            let event = tokio::select! {
                event = events.try_next() => event?,
                () = self.changes.closed() => return Err(Over::Closed),
            };
            let Some(event) = event else { break };
            let (version, change) = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    (object.resource_version(), Some((self.told)(object)))
                }
                WatchEvent::Deleted(object) => {
                    (object.resource_version(), Some(Change::Absent { name: object.name_any() }))
                }
                WatchEvent::Bookmark(bookmark) => (Some(bookmark.metadata.resource_version), None),
                WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
            };
            if let Some(change) = change {
                self.tell(change).await?;
            }
            self.version = version.or(self.version.take());
        }
        if begun.elapsed() < LONGEST_PAUSE {
            // Something between us and the server ends watches early: not as fast as it can.
            tokio::time::sleep(FIRST_PAUSE).await;
        }
        Ok(())
    }
}

/// An error with its causes: the outer one alone says only that something failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Pauses between two tries: short after a time without failures, then longer and longer, with some chance in them so
/// that not all proxies come back at once.
#[derive(Debug)]
struct Pauses {
    next: Duration,
    last_failure: Option<Instant>,
}

impl Default for Pauses {
    fn default() -> Pauses {
        Pauses { next: FIRST_PAUSE, last_failure: None }
    }
}

impl Pauses {
    fn next_pause(&mut self) -> Duration {
        let now = Instant::now();
        let quiet = self.last_failure.is_none_or(|at| now.saturating_duration_since(at) > 3 * LONGEST_PAUSE);
        let pause = if quiet { FIRST_PAUSE } else { self.next };
        self.last_failure = Some(now);
        self.next = (pause * 2).min(LONGEST_PAUSE);
        let mut random = [0];
        // Without chance the pause is only less fair.
        let _ = getrandom::fill(&mut random);
        pause.mul_f64(0.75 + f64::from(random[0]) / 512.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut pauses = Pauses::default();
        let seen: Vec<Duration> = (0..12).map(|_| pauses.next_pause()).collect();
        assert!(seen[0] <= FIRST_PAUSE * 5 / 4, "{seen:?}");
        assert!(seen[11] >= LONGEST_PAUSE * 3 / 4 && seen[11] <= LONGEST_PAUSE * 5 / 4, "{seen:?}");
    }
}
