//! The watches of the seven kinds and of Namespaces: a list, then what changes. A server that goes away, a list that is
//! too old, a kind that is not installed (any more): each watch tries again by itself, and what it last said stays.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, PartialObjectMeta};
use kube::core::DynamicObject;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tollgate_snapshot::ObjectRef;

use super::changes::{Change, Source};
use super::{World, read};
use crate::Context;
use crate::backoff::Backoff;
use crate::error::{Ended, Error};
use crate::kind;
use crate::metrics::Metrics;
use crate::settings::Namespaces;

/// After which the server ends a watch and it is taken up again where it was. A connection that died without a word is
/// found five seconds later.
const WATCH: Duration = Duration::from_secs(50);

/// A namespace that may not be listed is waited for so long at the start: its Roles may come with the operator, and those of
/// one that was deleted went with it.
const FORBIDDEN: Duration = Duration::from_secs(15);

/// Ends only when the operator does.
pub async fn run(context: Context) -> Ended {
    let Context { client, settings, world, metrics, .. } = context;
    let scopes: Vec<Option<String>> = match &settings.namespaces {
        Namespaces::All => vec![None],
        Namespaces::Listed(names) => names.iter().cloned().map(Some).collect(),
    };
    let sources: Vec<Source> = scopes
        .iter()
        .flat_map(|namespace| kind::KINDS.map(|kind| Source { kind, namespace: namespace.clone() }))
        .collect();
    world.expect(sources.len() + 1);
    let mut watches = JoinSet::new();
    for source in sources {
        watches.spawn(watch_kind(client.clone(), source, world.clone(), metrics.clone()));
    }
    match &settings.namespaces {
        Namespaces::All => {
            watches.spawn(watch_namespaces(client, world, metrics));
        }
        Namespaces::Listed(names) => {
            watches.spawn(read_namespaces(client, names.clone(), world));
        }
    }
    watches.join_next().await;
    Err(Error::PartEnded("watches"))
}

fn config() -> watcher::Config {
    watcher::Config::default().timeout(u32::try_from(WATCH.as_secs()).expect("a minute fits"))
}

async fn watch_kind(client: Client, source: Source, world: World, metrics: Metrics) {
    let Source { kind, namespace } = &source;
    let resource = kind::resource(kind).expect("sources are made of our kinds");
    let api: Api<DynamicObject> = match namespace {
        None => Api::all_with(client, &resource),
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
    };
    let mut events = std::pin::pin!(watcher(api.clone(), config()));
    let mut listing = Listing::new(source.clone(), metrics);
    // The stream of a watcher never ends.
    while let Some(event) = events.next().await {
        let name = |object: &DynamicObject| (object.namespace().unwrap_or_default(), object.name_any());
        match event {
            Ok(Event::Init) => listing.there.clear(),
            Ok(Event::InitApply(object)) => {
                listing.there.insert(name(&object));
                world.push(Change::Object(Box::new(read::read(kind, object))));
            }
            Ok(Event::InitDone) => world.push(listing.done()),
            Ok(Event::Apply(object)) => {
                listing.backoff.reset();
                world.push(Change::Object(Box::new(read::read(kind, object))));
            }
            Ok(Event::Delete(object)) => {
                let (namespace, name) = name(&object);
                world.push(Change::Gone(ObjectRef { kind, namespace, name }));
            }
            Err(error) => {
                if has_vanished(&error) {
                    // When the kind is installed again, its history is another: list it.
                    events.set(watcher(api.clone(), config()));
                }
                if namespace.is_some() && is_forbidden(&error) {
                    listing.give_up_waiting(&world);
                }
                listing.failed(&error).await;
            }
        }
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 403)
}

/// Whether the kind is not installed any more, or its history is not.
fn has_vanished(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => matches!(status.code, 404 | 410),
        _ => false,
    }
}

async fn watch_namespaces(client: Client, world: World, metrics: Metrics) {
    let mut events = std::pin::pin!(watcher(Api::<PartialObjectMeta<Namespace>>::all(client), config()));
    let source = Source { kind: "Namespace", namespace: None };
    let mut listing = Listing::new(source, metrics);
    let put = |namespace: PartialObjectMeta<Namespace>| {
        let name = namespace.name_any();
        world.push(Change::Namespace { name, labels: namespace.metadata.labels.unwrap_or_default() });
    };
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listing.there.clear(),
            Ok(Event::InitApply(namespace)) => {
                listing.there.insert((String::new(), namespace.name_any()));
                put(namespace);
            }
            Ok(Event::InitDone) => world.push(listing.done()),
            Ok(Event::Apply(namespace)) => put(namespace),
            Ok(Event::Delete(namespace)) => world.push(Change::NamespaceGone(namespace.name_any())),
            Err(error) => listing.failed(&error).await,
        }
    }
}

/// How often labels of namespaces are read where they cannot be watched.
const READ_NAMESPACES: Duration = Duration::from_secs(30);

/// Labels of single namespaces, where a role lets us get them. Where none does, a namespace has no labels: selectors do
/// not match it, which refuses and never allows.
async fn read_namespaces(client: Client, names: Vec<String>, world: World) {
    let api: Api<Namespace> = Api::all(client);
    let mut first = true;
    loop {
        let mut there = BTreeSet::new();
        for name in &names {
            match api.get_metadata_opt(name).await {
                Ok(Some(namespace)) => {
                    there.insert((String::new(), name.clone()));
                    let labels = namespace.metadata.labels.unwrap_or_default();
                    world.push(Change::Namespace { name: name.clone(), labels });
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, namespace = %name, "cannot read labels of namespace `{name}`: {error}");
                    // What was known of it stays.
                    there.insert((String::new(), name.clone()));
                }
            }
        }
        let source = Source { kind: "Namespace", namespace: None };
        world.push(Change::Listed { source, first: std::mem::take(&mut first), there });
        tokio::time::sleep(READ_NAMESPACES).await;
    }
}

/// How far a watch is.
struct Listing {
    source: Source,
    /// Nothing was listed yet.
    first: bool,
    there: BTreeSet<(String, String)>,
    begun: Instant,
    backoff: Backoff,
    metrics: Metrics,
}

impl Listing {
    fn new(source: Source, metrics: Metrics) -> Listing {
        let (begun, backoff) = (Instant::now(), Backoff::of_server());
        Listing { source, first: true, there: BTreeSet::new(), begun, backoff, metrics }
    }

    /// Goes on without a namespace that never could be listed, as if it were empty: the others must not wait for ever.
    fn give_up_waiting(&mut self, world: &World) {
        if self.first && self.begun.elapsed() >= FORBIDDEN {
            let Source { kind, namespace } = &self.source;
            let namespace = namespace.as_deref().unwrap_or_default();
            tracing::error!(
                "{kind} of namespace `{namespace}` may not be listed: it counts as empty until it can be. Was it deleted? \
                 Then take it out of watchNamespaces"
            );
            self.first = false;
            self.there.clear();
            world.push(Change::Listed { source: self.source.clone(), first: true, there: BTreeSet::new() });
        }
    }

    fn done(&mut self) -> Change {
        self.backoff.reset();
        let first = std::mem::take(&mut self.first);
        Change::Listed { source: self.source.clone(), first, there: std::mem::take(&mut self.there) }
    }

    async fn failed(&mut self, error: &watcher::Error) {
        let Source { kind, namespace } = &self.source;
        let place = namespace.as_deref().map_or_else(String::new, |namespace| format!(" in namespace `{namespace}`"));
        self.metrics.watch_restarted(kind);
        tracing::warn!(%error, "watch of {kind}{place} failed and is tried again: {error}");
        self.backoff.wait().await;
    }
}
