//! The Secrets that objects name, each read and watched by its name: roles allow single names, and nobody who holds the
//! operator's token can list what they did not name. One that may not be read says so on the objects that name it and
//! stops no other.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Secret as Object;
use kube::Client;
use kube::api::{Api, WatchEvent, WatchParams};
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tollgate_crds::{BudgetSpec, KeyPolicy, LLMGatewaySpec, ModelDeploymentSpec, ProviderAccountSpec, VirtualKeySpec};
use tollgate_snapshot::compile::{Document, Meta, Secret, Secrets, Unread};

use crate::Context;
use crate::backoff::Backoff;
use crate::error::Ended;
use crate::facts::Named;
use crate::metrics::Metrics;
use crate::world::{Objects, World};

/// After which the server ends a watch and it begins anew.
pub(crate) const WATCH: Duration = Duration::from_secs(290);

/// Longer silence than this means that the connection is dead.
pub(crate) const SILENCE: Duration = Duration::from_secs(295);

/// Between two tries to read one that may not be read: a RoleBinding may come.
const FORBIDDEN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(20));

/// How often one is read that may be read but not watched.
const POLL: Duration = Duration::from_secs(20);

/// A watch that ends sooner is no sign of health.
pub(crate) const AT_LEAST: Duration = Duration::from_secs(5);

/// Reads at once; watches are not counted.
const READS: usize = 16;

/// What is known of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Nothing yet.
    Unread(Option<String>),
    Found(Secret),
    Missing,
    Forbidden,
}

/// What is known of all Secrets that objects name. A handle, cheap to clone.
#[derive(Clone, Debug)]
pub struct SecretStore {
    states: Arc<Mutex<HashMap<Named, State>>>,
    changed: watch::Sender<u64>,
}

impl Default for SecretStore {
    fn default() -> SecretStore {
        SecretStore { states: Arc::default(), changed: watch::Sender::new(0) }
    }
}

impl SecretStore {
    /// Changes when what is known changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// For compile.
    pub fn compiled(&self) -> Secrets {
        let mut secrets = Secrets::default();
        for ((namespace, name), state) in self.lock().iter() {
            match state {
                State::Found(secret) => {
                    secrets.insert(secret.clone());
                }
                State::Missing => {}
                State::Forbidden => secrets.insert_unread(namespace, name, Unread::Forbidden),
                State::Unread(why) => {
                    let why = why.clone().unwrap_or_else(|| "it is being read".to_owned());
                    secrets.insert_unread(namespace, name, Unread::Failed(why));
                }
            }
        }
        secrets
    }

    /// Whether something can be said of every one of these.
    pub(crate) fn has_tried(&self, wanted: &BTreeSet<Named>) -> bool {
        let states = self.lock();
        wanted.iter().all(|name| !matches!(states.get(name), None | Some(State::Unread(None))))
    }

    pub(crate) fn count(&self, metrics: &Metrics) {
        let (mut found, mut missing, mut forbidden, mut unread) = (0, 0, 0, 0);
        for state in self.lock().values() {
            *match state {
                State::Found(_) => &mut found,
                State::Missing => &mut missing,
                State::Forbidden => &mut forbidden,
                State::Unread(_) => &mut unread,
            } += 1;
        }
        for (state, number) in [("found", found), ("missing", missing), ("forbidden", forbidden), ("unread", unread)] {
            metrics.secrets(state, number);
        }
    }

    fn see(&self, name: &Named, sight: Sight) {
        match sight {
            Sight::Found(object) => self.set(name, State::Found(decode(*object))),
            Sight::Missing => self.set(name, State::Missing),
            Sight::Forbidden => self.set(name, State::Forbidden),
            Sight::Failed(why) => self.failed(name, why),
        }
    }

    fn set(&self, name: &Named, state: State) {
        let before = self.lock().insert(name.clone(), state.clone());
        if before != Some(state) {
            self.changed.send_modify(|times| *times += 1);
        }
    }

    /// What was read stays where reading it again fails.
    fn failed(&self, name: &Named, why: String) {
        if !matches!(self.lock().get(name), Some(State::Found(_) | State::Missing)) {
            self.set(name, State::Unread(Some(why)));
        }
    }

    fn forget(&self, name: &Named) {
        self.lock().remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Named, State>> {
        self.states.lock().expect("no holder of the lock panics")
    }
}

/// The Secrets that the objects name and whose values decide something. Those that generated keys are written into are not
/// among them: what is known of them is the hash.
pub(crate) fn wanted(objects: &Objects) -> BTreeSet<Named> {
    let mut wanted = BTreeSet::new();
    let mut want = |namespace: &str, name: &str| wanted.insert((namespace.to_owned(), name.to_owned()));
    for document in objects.documents() {
        let namespace = &document.meta().namespace;
        match document {
            Document::LLMGateway(object) => {
                let LLMGatewaySpec { master_key, stores, listeners, .. } = &object.spec;
                for tls in listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
                    want(namespace, &tls.certificate_ref.name);
                }
                for source in master_key.iter().chain(&stores.redis) {
                    want(namespace, &source.secret_ref.name);
                }
                if let Some(store) = &stores.postgres {
                    want(namespace, &store.secret_ref.name);
                }
            }
            Document::ProviderAccount(object) => {
                let ProviderAccountSpec { credentials, .. } = &object.spec;
                for reference in credentials.iter().filter_map(|credential| credential.secret_ref.as_ref()) {
                    want(namespace, &reference.name);
                }
            }
            Document::ModelDeployment(object) => {
                let ModelDeploymentSpec { credential, .. } = &object.spec;
                if let Some(source) = credential {
                    want(namespace, &source.secret_ref.name);
                }
            }
            Document::VirtualKey(object) => {
                let VirtualKeySpec { secret, .. } = &object.spec;
                if let Some(secret) = secret.as_ref().filter(|secret| secret.policy == KeyPolicy::Adopt) {
                    want(namespace, &secret.name);
                }
            }
            Document::Budget(object) => {
                let BudgetSpec { thresholds, .. } = &object.spec;
                for source in thresholds.iter().filter_map(|threshold| threshold.webhook.as_ref()) {
                    want(namespace, &source.secret_ref.name);
                }
            }
            Document::RouteGroup(_) | Document::Team(_) => {}
        }
    }
    wanted
}

/// Ends only when the operator does.
pub async fn run(context: Context) -> Ended {
    let Context { client, world, secrets, .. } = context;
    let store = secrets.clone();
    follow_all(client, world, wanted, move |name, sight| store.see(name, sight), move |name| secrets.forget(name)).await
}

/// Follows the objects of a kind that are `wanted`, as that changes.
pub(crate) async fn follow_all<K: Followed>(
    client: Client,
    world: World,
    wanted: fn(&Objects) -> BTreeSet<Named>,
    see: impl Fn(&Named, Sight<K>) + Clone + Send + Sync + 'static,
    forget: impl Fn(&Named) + Send,
) -> Ended {
    let reads = Arc::new(Semaphore::new(READS));
    let mut watches: JoinSet<()> = JoinSet::new();
    let mut running: HashMap<Named, AbortHandle> = HashMap::new();
    let mut changed = world.subscribe();
    loop {
        tokio::select! {
            changed = changed.changed() => changed.expect("the world is there as long as its handle"),
            // Only those that were aborted end.
            Some(_) = watches.join_next() => continue,
        }
        let wanted = wanted(&world.read());
        running.retain(|name, watch| {
            let keep = wanted.contains(name);
            if !keep {
                watch.abort();
                forget(name);
            }
            keep
        });
        for name in wanted {
            running.entry(name).or_insert_with_key(|name| {
                let (client, name, see, reads) = (client.clone(), name.clone(), see.clone(), reads.clone());
                watches.spawn(async move { follow(client, &name, &reads, |sight| see(&name, sight)).await })
            });
        }
    }
}

/// What can be read and watched by its name: a Secret, a ConfigMap.
pub(crate) trait Followed:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + std::fmt::Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl Followed for Object {}
impl Followed for k8s_openapi::api::core::v1::ConfigMap {}

/// What was seen of one.
pub(crate) enum Sight<K = Object> {
    Found(Box<K>),
    Missing,
    Forbidden,
    /// In a few words why.
    Failed(String),
}

/// Reads one, watches it by its name, and begins anew when the watch ends. Never returns.
pub(crate) async fn follow<K: Followed>(client: Client, name: &Named, reads: &Semaphore, see: impl Fn(Sight<K>)) {
    let kind = K::kind(&());
    let api: Api<K> = Api::namespaced(client, &name.0);
    let mut forbidden = Backoff::new(FORBIDDEN.0, FORBIDDEN.1);
    let mut failed = Backoff::of_server();
    loop {
        let place = reads.acquire().await.expect("the semaphore is never closed");
        let read = api.get_opt(&name.1).await;
        drop(place);
        match read {
            Ok(found) => {
                forbidden.reset();
                see(found.map_or(Sight::Missing, |found| Sight::Found(Box::new(found))));
            }
            Err(kube::Error::Api(status)) if status.code == 403 => {
                see(Sight::Forbidden);
                forbidden.wait().await;
                continue;
            }
            Err(error) => {
                tracing::debug!(%error, "cannot read {kind} `{}/{}`: {error}", name.0, name.1);
                see(Sight::Failed("the API server does not answer".to_owned()));
                failed.wait().await;
                continue;
            }
        }
        let begun = Instant::now();
        // Not from the object's own version: that of one that did not change for long is too old for a server that
        // started anew. Without one the watch tells what is there first, then changes.
        match watch_one(&api, name, "", &see).await {
            Ok(()) if begun.elapsed() >= AT_LEAST => failed.reset(),
            Ok(()) => failed.wait().await,
            Err(kube::Error::Api(status)) if status.code == 403 => tokio::time::sleep(POLL).await,
            Err(error) => {
                tracing::debug!(%error, "watch of {kind} `{}/{}` failed: {error}", name.0, name.1);
                failed.wait().await;
            }
        }
    }
}

/// Returns when the watch ended and it should be read again.
async fn watch_one<K: Followed>(
    api: &Api<K>,
    name: &Named,
    version: &str,
    see: &impl Fn(Sight<K>),
) -> Result<(), kube::Error> {
    let parameters = WatchParams::default()
        .fields(&format!("metadata.name={}", name.1))
        .timeout(u32::try_from(WATCH.as_secs()).expect("five minutes fit"));
    let mut events = api.watch(&parameters, version).await?.boxed();
    while let Ok(Some(event)) = timeout(SILENCE, events.next()).await {
        match event? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => see(Sight::Found(Box::new(object))),
            WatchEvent::Deleted(_) => see(Sight::Missing),
            WatchEvent::Bookmark(_) => {}
            // 410: read it again.
            WatchEvent::Error(_) => return Ok(()),
        }
    }
    Ok(())
}

/// Without entries that are no text: no header can carry them.
fn decode(object: Object) -> Secret {
    let Object { metadata, data, .. } = object;
    let entries = data.unwrap_or_default().into_iter().filter_map(|(entry, value)| {
        let text = String::from_utf8(value.0).ok()?;
        Some((entry, text.into()))
    });
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.retain(|name, _| name.starts_with("tollgate.dev/"));
    let meta =
        Meta { annotations, ..Meta::new(metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default()) };
    Secret { meta, data: entries.collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tollgate_snapshot::compile::{Meta, Object};

    use super::*;
    use crate::testing::FakeApi;

    const PATH: &str = "/api/v1/namespaces/n/secrets/openai";

    async fn until(store: &SecretStore, is_so: impl Fn(&Secrets) -> bool) {
        let mut changed = store.subscribe();
        let seen = async {
            while !is_so(&store.compiled()) {
                changed.changed().await.unwrap();
            }
        };
        timeout(Duration::from_secs(600), seen).await.expect("it becomes so");
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_that_may_not_be_read_is_told_and_read_once_it_may() {
        let api = FakeApi::default();
        api.put(PATH, json!({"metadata": {"namespace": "n", "name": "openai"}, "data": {"key": "dmFsdWU="}}));
        api.state().refused = vec![(format!("GET {PATH}"), 403)];
        let (store, name) = (SecretStore::default(), ("n".to_owned(), "openai".to_owned()));
        let reads = Semaphore::new(1);
        let following = follow(api.client(), &name, &reads, |sight| store.see(&name, sight));
        let looking = async {
            until(&store, |secrets| secrets.unread("n", "openai") == Some(&Unread::Forbidden)).await;
            api.state().refused.clear();
            until(&store, |secrets| secrets.get("n", "openai").is_some()).await;
            assert_eq!(&*store.compiled().get("n", "openai").unwrap().data["key"], "value");
            // The API server goes away: what was read stays.
            api.state().refused = vec![(format!("GET {PATH}"), 500)];
            let before = api.state().asked.len();
            while api.state().asked.len() < before + 3 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            assert!(store.compiled().get("n", "openai").is_some());
            api.state().refused.clear();
            api.state().objects.clear();
            until(&store, |secrets| secrets.get("n", "openai").is_none()).await;
        };
        tokio::select! {
            () = following => unreachable!("it never returns"),
            () = looking => {}
        }
    }

    #[test]
    fn only_what_objects_name_is_wanted() {
        let mut objects = Objects::default();
        let account = Object {
            meta: Meta::new("n", "a"),
            spec: serde_json::from_value::<ProviderAccountSpec>(json!({
                "provider": "openai",
                "credentials": [{"name": "one", "secretRef": {"name": "s1", "key": "k"}}],
            }))
            .unwrap(),
        };
        let gateway = Object {
            meta: Meta::new("n", "g"),
            spec: serde_json::from_value::<LLMGatewaySpec>(json!({
                "listeners": [{"name": "https", "port": 443, "tls": {"certificateRef": {"name": "s5"}}}],
            }))
            .unwrap(),
        };
        let budget = Object {
            meta: Meta::new("n", "b"),
            spec: serde_json::from_value::<BudgetSpec>(json!({
                "limit": "1",
                "period": {"calendar": "Day"},
                "thresholds": [{"percent": 80}, {"percent": 90, "webhook": {"secretRef": {"name": "s4", "key": "k"}}}],
            }))
            .unwrap(),
        };
        let key = |name: &str, secret: serde_json::Value| Object {
            meta: Meta::new("n", name),
            spec: serde_json::from_value::<VirtualKeySpec>(json!({ "secret": secret })).unwrap(),
        };
        objects.put_documents(vec![
            Document::ProviderAccount(Box::new(account)),
            Document::LLMGateway(Box::new(gateway)),
            Document::VirtualKey(Box::new(key("generated", json!({"name": "s2"})))),
            Document::Budget(Box::new(budget)),
            Document::VirtualKey(Box::new(key("adopted", json!({"name": "s3", "policy": "Adopt"})))),
        ]);
        let names: Vec<String> = wanted(&objects).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["s1", "s3", "s4", "s5"]);
    }
}
