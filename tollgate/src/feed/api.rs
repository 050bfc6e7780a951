//! I/O: the Kubernetes API. ConfigMaps of the gateway are listed and watched; Secrets are read and watched one by one by
//! name, which is all that the proxies' Role allows. Everything ends in [`Change`]s; failures are told and tried again
//! for ever, sooner while they are fresh.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_all};
use kube::{Client, Config, ResourceExt};
use tokio::sync::mpsc::Sender;
use tollgate_snapshot::wire::names;

/// How long one watch lasts. A connection that died without a word is noticed when it should have ended.
const WATCH_SECONDS: u32 = 60;

/// Longest silence of the API server in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 15);

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
    config.read_timeout = Some(SILENCE);
    // Else the time that a connection was idle counts too.
    config.reset_reader_on_write = true;
    Client::try_from(config).context("cannot make a client for the Kubernetes API")
}

/// Tells every change of the gateway's ConfigMaps. Ends when nobody listens.
pub async fn follow_config_maps(client: Client, namespace: String, gateway: String, changes: Sender<Change>) {
    let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let (gateway_label, tables_label) = (names::GATEWAY_LABEL, names::TABLES_LABEL);
    let of = format!("ConfigMaps of `{namespace}`");
    let config = watcher::Config::default()
        .labels(&format!("{gateway_label}={gateway},{tables_label}"))
        .timeout(WATCH_SECONDS)
        .page_size(PAGE);
    let mut events = std::pin::pin!(watch_all(api, config).backoff(Pauses::default()));
    let mut listed = BTreeSet::new();
    while let Some(event) = events.next().await {
        let change = match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(map)) => {
                listed.insert(map.name_any());
                told(map)
            }
            Ok(Event::InitDone) => {
                if changes.send(Change::Well { of: of.clone() }).await.is_err() {
                    return;
                }
                Change::Listed(std::mem::take(&mut listed))
            }
            Ok(Event::Apply(map)) => told(map),
            Ok(Event::Delete(map)) => Change::Absent { name: map.name_any() },
            // The server forgot where we were: listed anew at once, and no reason to worry anybody.
            Err(watcher::Error::WatchError(status)) if status.code == 410 => continue,
            Err(error) => Change::Trouble { of: of.clone(), error: chain(&error) },
        };
        if changes.send(change).await.is_err() {
            return;
        }
    }
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

/// Tells every change of one Secret. Ends when nobody listens.
pub async fn follow_secret(client: Client, namespace: String, name: String, changes: Sender<Change>) {
    let api: Api<Secret> = Api::namespaced(client, &namespace);
    let of = format!("Secret `{namespace}/{name}`");
    let mut pauses = Pauses::default();
    while !changes.is_closed() {
        let Err(error) = read_and_watch(&api, &name, &of, &changes).await else { continue };
        if changes.send(Change::Trouble { of: of.clone(), error: chain(&error) }).await.is_err() {
            return;
        }
        tokio::time::sleep(pauses.next_pause()).await;
    }
}

/// Reads once, then watches from there for as long as the server knows where we are.
async fn read_and_watch(api: &Api<Secret>, name: &str, of: &str, changes: &Sender<Change>) -> kube::Result<()> {
    let told = |secret: Secret| {
        let mut data = secret.data.unwrap_or_default();
        let text = data.remove(names::CREDENTIALS_ENTRY).and_then(|bytes| String::from_utf8(bytes.0).ok());
        match text {
            Some(text) => Change::Present { name: name.to_owned(), text },
            None => Change::Absent { name: name.to_owned() },
        }
    };
    let found = api.get_opt(name).await?;
    // Without a version a watch begins with what there is.
    let mut version = found.as_ref().and_then(ResourceExt::resource_version).unwrap_or_default();
    let first = found.map_or_else(|| Change::Absent { name: name.to_owned() }, told);
    // A closed channel shows at the next turn.
    let _ = changes.send(first).await;
    let _ = changes.send(Change::Well { of: of.to_owned() }).await;
    let parameters = WatchParams::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECONDS);
    while !changes.is_closed() {
        let begun = Instant::now();
        let mut events = std::pin::pin!(api.watch(&parameters, &version).await?);
        while let Some(event) = events.try_next().await? {
            let change = match event {
                WatchEvent::Added(secret) | WatchEvent::Modified(secret) => {
                    version = secret.resource_version().unwrap_or_default();
                    told(secret)
                }
                WatchEvent::Deleted(secret) => {
                    version = secret.resource_version().unwrap_or_default();
                    Change::Absent { name: name.to_owned() }
                }
                WatchEvent::Bookmark(bookmark) => {
                    version = bookmark.metadata.resource_version;
                    continue;
                }
                // The server forgot where we were.
                WatchEvent::Error(status) if status.code == 410 => return Ok(()),
                WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
            };
            if changes.send(change).await.is_err() {
                return Ok(());
            }
        }
        if begun.elapsed() < LONGEST_PAUSE {
            // Something between us and the server ends watches early: not as fast as it can.
            tokio::time::sleep(FIRST_PAUSE).await;
        }
    }
    Ok(())
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

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.next_pause())
    }
}

impl Backoff for Pauses {
    /// Does nothing: a watcher calls it when it begins to list, before it knows whether it can.
    fn reset(&mut self) {}
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
