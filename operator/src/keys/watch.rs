//! I/O: tells which keys' Secrets somebody deleted or wrote to. One watch for each namespace with generated keys, of those
//! with our label and of their metadata: a watch by name would be a connection for each of a hundred thousand keys, and
//! no value is needed to know that there is something to look at. What it misses the slow round finds.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PartialObjectMeta, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use super::LABEL;
use crate::backoff::Backoff;
use crate::facts::Named;
use crate::secrets::{AT_LEAST, SILENCE, WATCH};

/// Keys that wait to be taken; more of them make the watches wait.
const WAITING: usize = 256;

/// Between two tries, also where it may not be watched: a RoleBinding may come.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The watches that run; they end with it.
pub struct Watches {
    client: Client,
    running: HashMap<String, AbortHandle>,
    tasks: JoinSet<()>,
    touched: mpsc::Sender<Named>,
}

impl Watches {
    /// Beside it what is received: keys whose Secret somebody touched.
    pub fn new(client: Client) -> (Watches, mpsc::Receiver<Named>) {
        let (touched, receiver) = mpsc::channel(WAITING);
        (Watches { client, running: HashMap::new(), tasks: JoinSet::new(), touched }, receiver)
    }

    /// Watches exactly these namespaces.
    pub fn keep(&mut self, namespaces: BTreeSet<&str>) {
        self.running.retain(|namespace, watch| {
            let keep = namespaces.contains(namespace.as_str());
            if !keep {
                watch.abort();
            }
            keep
        });
        for namespace in namespaces {
            if !self.running.contains_key(namespace) {
                let watch = follow(Api::namespaced(self.client.clone(), namespace), self.touched.clone());
                self.running.insert(namespace.to_owned(), self.tasks.spawn(watch));
            }
        }
        // Those that were aborted.
        while self.tasks.try_join_next().is_some() {}
    }
}

/// Never returns.
async fn follow(api: Api<Secret>, touched: mpsc::Sender<Named>) {
    let mut again = Backoff::new(AGAIN.0, AGAIN.1);
    // From now on at first; then from where it ended, so that nothing is missed in between.
    let mut version = String::new();
    loop {
        let begun = Instant::now();
        if let Err(error) = watch_one(&api, &mut version, &touched).await {
            tracing::debug!(%error, "watch of Secrets with generated keys failed: {error}");
            // Where it was may be too long ago.
            if matches!(error, kube::Error::Api(_)) {
                version.clear();
            }
        }
        if begun.elapsed() >= AT_LEAST {
            again.reset();
        }
        again.wait().await;
    }
}

/// Returns when the watch ended.
async fn watch_one(api: &Api<Secret>, version: &mut String, touched: &mpsc::Sender<Named>) -> Result<(), kube::Error> {
    let seconds = u32::try_from(WATCH.as_secs()).expect("five minutes fit");
    let parameters = WatchParams::default().labels(LABEL).timeout(seconds);
    let mut events = api.watch_metadata(&parameters, version).await?.boxed();
    while let Ok(Some(event)) = timeout(SILENCE, events.next()).await {
        let (secret, is_touched) = match event? {
            // What is there already, or what was made just now.
            WatchEvent::Added(secret) => (secret, false),
            WatchEvent::Modified(secret) | WatchEvent::Deleted(secret) => (secret, true),
            WatchEvent::Bookmark(bookmark) => {
                *version = bookmark.metadata.resource_version;
                continue;
            }
            // 410: what was in between is the slow round's.
            WatchEvent::Error(_) => {
                version.clear();
                return Ok(());
            }
        };
        *version = secret.resource_version().unwrap_or_default();
        if let Some(key) = key_of(&secret).filter(|_| is_touched)
            && touched.send(key).await.is_err()
        {
            break;
        }
    }
    Ok(())
}

/// The VirtualKey whose Secret it is.
fn key_of(secret: &PartialObjectMeta<Secret>) -> Option<Named> {
    let is_key = |owner: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| {
        owner.controller == Some(true) && owner.kind == "VirtualKey" && owner.api_version.starts_with("tollgate.dev/")
    };
    let owner = secret.owner_references().iter().find(is_key)?;
    Some((secret.namespace()?, owner.name.clone()))
}
