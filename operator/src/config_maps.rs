//! The ConfigMaps with prices that gateways name, each read and watched by its name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use k8s_openapi::api::core::v1::ConfigMap as Object;
use tokio::sync::watch;
use tollgate_snapshot::compile::{ConfigMaps, Unread};

use crate::Context;
use crate::error::Ended;
use crate::facts::Named;
use crate::secrets::{Sight, follow_all};
use crate::world::Objects;

/// What is known of a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Found(BTreeMap<String, Arc<str>>),
    Missing,
    Unread(Unread),
}

/// What is known of all ConfigMaps that gateways name. A handle, cheap to clone.
#[derive(Clone, Debug)]
pub struct ConfigMapStore {
    states: Arc<Mutex<BTreeMap<Named, State>>>,
    changed: watch::Sender<u64>,
}

impl Default for ConfigMapStore {
    fn default() -> ConfigMapStore {
        ConfigMapStore { states: Arc::default(), changed: watch::Sender::new(0) }
    }
}

impl ConfigMapStore {
    /// Changes when what is known changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// For compile. `wanted`: those that it will ask for.
    pub(crate) fn compiled(&self, wanted: &BTreeSet<Named>) -> ConfigMaps {
        let mut all = ConfigMaps::default();
        let states = self.lock();
        for name in wanted {
            let (namespace, name, state) = (&name.0, &name.1, states.get(name));
            match state {
                Some(State::Found(entries)) => all.insert(namespace, name, entries.clone()),
                Some(State::Missing) => {}
                Some(State::Unread(why)) => all.insert_unread(namespace, name, why.clone()),
                None => all.insert_unread(namespace, name, Unread::Failed("it is being read".to_owned())),
            }
        }
        all
    }

    /// Whether something can be said of every one of these.
    pub(crate) fn has_tried(&self, wanted: &BTreeSet<Named>) -> bool {
        let states = self.lock();
        wanted.iter().all(|name| states.contains_key(name))
    }

    fn see(&self, name: &Named, sight: Sight<Object>) {
        let state = match sight {
            Sight::Found(object) => {
                let entries = object.data.unwrap_or_default().into_iter();
                State::Found(entries.map(|(entry, text)| (entry, text.into())).collect())
            }
            Sight::Missing => State::Missing,
            Sight::Forbidden => State::Unread(Unread::Forbidden),
            Sight::Failed(why) => State::Unread(Unread::Failed(why)),
        };
        let mut states = self.lock();
        // What was read stays where reading it again fails.
        let is_known = matches!(states.get(name), Some(State::Found(_) | State::Missing));
        if is_known && matches!(state, State::Unread(Unread::Failed(_))) {
            return;
        }
        if states.insert(name.clone(), state.clone()) != Some(state) {
            self.changed.send_modify(|times| *times += 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Named, State>> {
        self.states.lock().expect("no holder of the lock panics")
    }
}

/// The ConfigMaps that price overlays name.
pub(crate) fn wanted(objects: &Objects) -> BTreeSet<Named> {
    let mut wanted = BTreeSet::new();
    for (gateway, _) in objects.gateways() {
        for reference in gateway.spec.prices.overlays.iter().filter_map(|overlay| overlay.config_map_ref.as_ref()) {
            wanted.insert((gateway.meta.namespace.clone(), reference.name.clone()));
        }
    }
    wanted
}

/// Ends only when the operator does.
pub async fn run(context: Context) -> Ended {
    let Context { client, world, config_maps, .. } = context;
    let store = config_maps.clone();
    let forget = move |name: &Named| {
        config_maps.lock().remove(name);
    };
    follow_all(client, world, wanted, move |name, sight| store.see(name, sight), forget).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tollgate_crds::LLMGatewaySpec;
    use tollgate_snapshot::compile::{Document, Meta, Object as Resource};

    use super::*;

    #[test]
    fn what_was_read_stays_while_the_api_server_is_away() {
        let (store, name) = (ConfigMapStore::default(), ("n".to_owned(), "prices".to_owned()));
        let wanted = BTreeSet::from([name.clone()]);
        assert!(!store.has_tried(&wanted));
        assert!(matches!(store.compiled(&wanted).unread("n", "prices"), Some(Unread::Failed(_))));
        store.see(&name, Sight::Forbidden);
        assert_eq!(store.compiled(&wanted).unread("n", "prices"), Some(&Unread::Forbidden));
        let object: Object = serde_json::from_value(json!({"metadata": {}, "data": {"a": "text"}})).unwrap();
        store.see(&name, Sight::Found(Box::new(object)));
        store.see(&name, Sight::Failed("gone".to_owned()));
        assert_eq!(&*store.compiled(&wanted).get("n", "prices").unwrap()["a"], "text");
        store.see(&name, Sight::Missing);
        assert_eq!(store.compiled(&wanted), ConfigMaps::default());
    }

    #[test]
    fn only_what_overlays_name_is_wanted() {
        let overlays = json!([
            {"name": "a", "configMapRef": {"name": "contract", "key": "p"}},
            {"name": "b", "discountPercent": "5"},
        ]);
        let spec: LLMGatewaySpec = serde_json::from_value(json!({"prices": {"overlays": overlays}})).unwrap();
        let mut objects = Objects::default();
        objects.put_documents(vec![Document::LLMGateway(Box::new(Resource { meta: Meta::new("gw", "main"), spec }))]);
        assert_eq!(wanted(&objects), BTreeSet::from([("gw".to_owned(), "contract".to_owned())]));
    }
}
