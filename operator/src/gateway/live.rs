//! I/O: the children that are there, from watches by label, one for each kind (and namespace, where those are listed).

use std::collections::{HashMap, HashSet};

use futures_util::stream::{self, BoxStream, StreamExt};
use kube::api::{Api, DynamicObject};
use kube::core::TypeMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use serde_json::Value;

use super::child::Kind;
use super::children::PROXY;
use crate::names::{GATEWAY_LABEL, MANAGER};
use crate::settings::Namespaces;

/// A child as the API server has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    pub uid: String,
    pub resource_version: String,
    /// The uid of the object that controls it.
    pub owner: Option<String>,
    /// Of a Deployment: `spec.replicas` is ours, so that leaving it out would reset it to 1.
    pub owns_replicas: bool,
    /// The whole object, but for who manages which field.
    pub object: Value,
}

impl Child {
    pub fn of(kind: Kind, mut object: DynamicObject) -> Child {
        let owner = object.owner_references().iter().find(|owner| owner.controller == Some(true));
        let owner = owner.map(|owner| owner.uid.clone());
        let owns_replicas = object.managed_fields().iter().any(|entry| {
            let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
            entry.manager.as_deref() == Some(MANAGER)
                && entry.subresource.is_none()
                && fields.is_some_and(|fields| fields["f:spec"]["f:replicas"].is_object())
        });
        object.metadata.managed_fields = None;
        // What comes in a list does not say what it is.
        let resource = kind.resource();
        object.types = Some(TypeMeta { api_version: resource.api_version, kind: resource.kind });
        Child {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            resource_version: object.metadata.resource_version.clone().unwrap_or_default(),
            owner,
            owns_replicas,
            object: serde_json::to_value(&object).expect("what was read from JSON can be written as JSON"),
        }
    }
}

/// Where a watch looks; `None`: everywhere.
type Scope = (Kind, Option<String>);

/// Something that a watch saw; no event: it failed.
pub struct Seen {
    scope: Scope,
    event: Option<Event<DynamicObject>>,
}

/// Whether what is absent of a kind is really absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    Yes,
    /// Its first list is under way.
    NotYet,
    /// Its first list failed.
    Failed,
}

/// All children of all gateways.
#[derive(Debug, Default)]
pub struct Live {
    children: HashMap<(Kind, String, String), Child>,
    /// Which of them a list that is under way has named.
    listing: HashMap<Scope, HashSet<(String, String)>>,
    /// Scopes that were listed once.
    complete: HashSet<Scope>,
    /// Scopes whose first list failed so far.
    failed: HashSet<Scope>,
}

impl Live {
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Child> {
        self.children.get(&(kind, namespace.to_owned(), name.to_owned()))
    }

    pub fn set(&mut self, kind: Kind, namespace: &str, name: &str, child: Option<Child>) {
        let key = (kind, namespace.to_owned(), name.to_owned());
        match child {
            Some(child) => self.children.insert(key, child),
            None => self.children.remove(&key),
        };
    }

    /// Of this kind in this namespace.
    pub fn listed(&self, kind: Kind, namespace: &str) -> Listed {
        let scopes = [(kind, None), (kind, Some(namespace.to_owned()))];
        if scopes.iter().any(|scope| self.complete.contains(scope)) {
            Listed::Yes
        } else if scopes.iter().any(|scope| self.failed.contains(scope)) {
            Listed::Failed
        } else {
            Listed::NotYet
        }
    }

    /// Takes over what was seen; the gateways whose children it was, by namespace and name. `None`: any may be.
    pub fn apply(&mut self, seen: Seen) -> Option<(String, String)> {
        let Seen { scope, event } = seen;
        let kind = scope.0;
        let Some(event) = event else {
            let is_news = !self.complete.contains(&scope) && self.failed.insert(scope);
            return if is_news { None } else { Some(Default::default()) };
        };
        match event {
            Event::Init => {
                self.listing.insert(scope, HashSet::new());
                Some(Default::default())
            }
            Event::InitApply(object) => {
                let gateway = gateway_of(&object);
                let key = (object.namespace().unwrap_or_default(), object.name_any());
                self.set(kind, &key.0, &key.1, Some(Child::of(kind, object)));
                self.listing.entry(scope).or_default().insert(key);
                Some(gateway)
            }
            Event::InitDone => {
                let listed = self.listing.remove(&scope).unwrap_or_default();
                self.children.retain(|(other, namespace, name), _| {
                    let in_scope = *other == kind && scope.1.as_ref().is_none_or(|scope| scope == namespace);
                    !in_scope || listed.contains(&(namespace.clone(), name.clone()))
                });
                self.failed.remove(&scope);
                self.complete.insert(scope);
                None
            }
            Event::Apply(object) => {
                let gateway = gateway_of(&object);
                let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
                self.set(kind, &namespace, &name, Some(Child::of(kind, object)));
                Some(gateway)
            }
            Event::Delete(object) => {
                let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
                self.set(kind, &namespace, &name, None);
                Some(gateway_of(&object))
            }
        }
    }
}

fn gateway_of(object: &DynamicObject) -> (String, String) {
    let name = object.labels().get(GATEWAY_LABEL).cloned();
    (object.namespace().unwrap_or_default(), name.unwrap_or_default())
}

/// What is seen, for ever; a watch that fails is begun again after a while.
pub fn watch(client: &Client, namespaces: &Namespaces) -> BoxStream<'static, Seen> {
    let scopes: Vec<Option<String>> = match namespaces {
        Namespaces::All => vec![None],
        Namespaces::Listed(names) => names.iter().cloned().map(Some).collect(),
    };
    let watches = Kind::ALL.into_iter().flat_map(|kind| scopes.iter().map(move |scope| (kind, scope.clone())));
    let watches: Vec<_> = watches.map(|scope| watch_one(client, scope)).collect();
    stream::select_all(watches).boxed()
}

fn watch_one(client: &Client, scope: Scope) -> BoxStream<'static, Seen> {
    let (kind, namespace) = &scope;
    let resource = kind.resource();
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let selector = format!("app.kubernetes.io/managed-by={MANAGER},app.kubernetes.io/component={PROXY}");
    watcher(api, watcher::Config::default().labels(&selector))
        .default_backoff()
        .map(move |event| {
            let scope = scope.clone();
            let failed = |error: watcher::Error| {
                tracing::warn!(kind = ?scope.0, namespace = scope.1, %error, "cannot watch {:?}s", scope.0);
            };
            let event = event.map_err(failed).ok();
            Seen { scope, event }
        })
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_list_that_failed_is_worth_telling() {
        let scope = (Kind::Service, None);
        let mut live = Live::default();
        let mut saw = |event| {
            let whose = live.apply(Seen { scope: scope.clone(), event });
            (live.listed(Kind::Service, "n"), whose.is_none())
        };
        assert_eq!(saw(Some(Event::Init)), (Listed::NotYet, false));
        assert_eq!(saw(None), (Listed::Failed, true));
        assert_eq!(saw(None), (Listed::Failed, false), "said once");
        assert_eq!(saw(Some(Event::InitDone)), (Listed::Yes, true));
        assert_eq!(saw(None), (Listed::Yes, false), "a watch that breaks later is taken up again");
    }
}
