//! The proxies of each gateway as they were seen last, and what they should run. A handle that whoever publishes tables,
//! asks proxies or has them probe shares.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use tollgate_snapshot::Snapshot;

use crate::facts::{Named, ProxiesFact};

/// A proxy's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub uid: String,
    /// Where its status port is; `None`: it has no address yet.
    pub address: Option<SocketAddr>,
    /// As Kubernetes has it: whether it gets calls.
    pub ready: bool,
    /// It is on its way out.
    pub deleting: bool,
    /// What it said of itself.
    pub told: Option<Told>,
}

/// Answer to `/snapshot`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct Told {
    /// Of the tables that it runs; 0: none.
    pub generation: u64,
    #[serde(default)]
    pub version: String,
    /// Why it cannot use what is published.
    #[serde(default)]
    pub error: Option<String>,
}

/// What a gateway's proxies should run, and how they know that it is us who ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub generation: u64,
    /// The token of the first credentials Secret.
    pub token: Arc<str>,
}

/// One gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gateway {
    /// By name of the pod.
    pub proxies: BTreeMap<String, Proxy>,
    pub published: Option<Published>,
    /// What was compiled last.
    pub compiled: Compiled,
}

/// A snapshot that is equal to itself only: comparing two takes long.
#[derive(Clone, Debug, Default)]
pub struct Compiled(pub Option<Arc<Snapshot>>);

impl PartialEq for Compiled {
    fn eq(&self, other: &Compiled) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
}

impl Eq for Compiled {}

impl Gateway {
    /// What is known, for conditions.
    pub fn fact(&self) -> ProxiesFact {
        let there: Vec<(&String, &Proxy)> = self.proxies.iter().filter(|(_, proxy)| !proxy.deleting).collect();
        let ready: Vec<&(&String, &Proxy)> = there.iter().filter(|(_, proxy)| proxy.ready).collect();
        let generations: Option<Vec<u64>> =
            ready.iter().map(|(_, proxy)| proxy.told.as_ref().map(|told| told.generation)).collect();
        let error = there.iter().find_map(|(name, proxy)| {
            let Told { version, error, .. } = proxy.told.as_ref()?;
            Some(format!("proxy `{name}` of version {version}: {}", error.as_ref()?))
        });
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        ProxiesFact {
            total: count(there.len()),
            ready: count(ready.len()),
            generation: generations.and_then(|generations| generations.into_iter().min()),
            error,
        }
    }

    /// Proxies that get calls and can be asked.
    pub fn ready(&self) -> impl Iterator<Item = (&String, SocketAddr)> {
        let ready = self.proxies.iter().filter(|(_, proxy)| proxy.ready && !proxy.deleting);
        ready.filter_map(|(name, proxy)| Some((name, proxy.address?)))
    }
}

/// A pod that can be asked, also on its way out.
#[derive(Clone, Debug)]
pub struct Askable {
    pub pod: String,
    pub uid: String,
    pub address: SocketAddr,
    pub token: Arc<str>,
    pub deleting: bool,
}

/// All gateways. A handle, cheap to clone.
#[derive(Clone, Debug)]
pub struct Fleet {
    gateways: Arc<Mutex<HashMap<Named, Gateway>>>,
    published: watch::Sender<u64>,
}

impl Default for Fleet {
    fn default() -> Fleet {
        Fleet { gateways: Arc::default(), published: watch::Sender::new(0) }
    }
}

impl Fleet {
    /// Tables of the gateway were written, or found as they should be.
    pub fn publish(&self, namespace: &str, name: &str, published: Published) {
        let published = Some(published);
        let gateway = (namespace.to_owned(), name.to_owned());
        let before = std::mem::replace(&mut self.lock().entry(gateway).or_default().published, published.clone());
        if before != published {
            self.published.send_modify(|times| *times += 1);
        }
    }

    /// What the tables of the gateway were made of.
    pub fn compiled(&self, namespace: &str, name: &str, snapshot: Arc<Snapshot>) {
        let gateway = (namespace.to_owned(), name.to_owned());
        self.lock().entry(gateway).or_default().compiled = Compiled(Some(snapshot));
    }

    /// As [`Fleet::compiled`] had it last.
    pub fn snapshot_of(&self, gateway: &Named) -> Option<Arc<Snapshot>> {
        self.lock().get(gateway)?.compiled.0.clone()
    }

    /// Each gateway's pods that can be asked, also those on their way out: name, uid and where.
    pub fn callable(&self) -> HashMap<Named, Vec<(String, String, SocketAddr)>> {
        let gateways = self.lock();
        let published = gateways.iter().filter(|(_, gateway)| gateway.published.is_some());
        let callable = published.map(|(name, gateway)| {
            let pods = gateway.proxies.iter();
            let pods = pods.filter_map(|(pod, proxy)| Some((pod.clone(), proxy.uid.clone(), proxy.address?)));
            (name.clone(), pods.collect())
        });
        callable.collect()
    }

    /// The pods of a gateway that can be asked.
    pub fn askable(&self, gateway: &Named) -> Vec<Askable> {
        let gateways = self.lock();
        let Some(gateway) = gateways.get(gateway) else { return Vec::new() };
        let Some(Published { token, .. }) = &gateway.published else { return Vec::new() };
        let askable = gateway.proxies.iter().filter_map(|(pod, proxy)| {
            let Proxy { uid, address, deleting, .. } = proxy;
            let (pod, uid, token) = (pod.clone(), uid.clone(), token.clone());
            Some(Askable { pod, uid, address: (*address)?, token, deleting: *deleting })
        });
        askable.collect()
    }

    /// Names of the pods of a gateway that are on their way out.
    pub fn leaving(&self, gateway: &Named) -> Vec<String> {
        let gateways = self.lock();
        let proxies = gateways.get(gateway).into_iter().flat_map(|gateway| &gateway.proxies);
        proxies.filter(|(_, proxy)| proxy.deleting).map(|(pod, _)| pod.clone()).collect()
    }

    /// The token to show a pod, as long as it is that one.
    pub fn token_of(&self, gateway: &Named, pod: &str, uid: &str, address: SocketAddr) -> Option<Arc<str>> {
        let gateways = self.lock();
        let gateway = gateways.get(gateway)?;
        gateway.proxies.get(pod).filter(|proxy| proxy.uid == uid && proxy.address == Some(address))?;
        Some(gateway.published.as_ref()?.token.clone())
    }

    /// Names of all pods of a gateway.
    pub fn pods_of(&self, gateway: &Named) -> BTreeSet<String> {
        self.lock().get(gateway).map(|gateway| gateway.proxies.keys().cloned().collect()).unwrap_or_default()
    }

    /// The gateway is gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// A proxy that can be asked and the token to show it, another one with each `turn`. `None`: no proxy is ready, or
    /// nothing was published.
    pub fn pick(&self, gateway: &Named, turn: usize) -> Option<(SocketAddr, Arc<str>)> {
        let gateways = self.lock();
        let gateway = gateways.get(gateway)?;
        let token = gateway.published.as_ref()?.token.clone();
        let ready: Vec<SocketAddr> = gateway.ready().map(|(_, address)| address).collect();
        Some((*ready.get(turn.checked_rem(ready.len())?)?, token))
    }

    /// Whether a proxy is ready, and every one that is runs what is published.
    pub fn is_settled(&self, gateway: &Named) -> bool {
        let gateways = self.lock();
        let Some(gateway) = gateways.get(gateway) else { return false };
        let Some(published) = &gateway.published else { return false };
        gateway.fact().generation.is_some_and(|generation| generation >= published.generation)
    }

    /// Changes when tables were published.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// Not to be held across an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<Named, Gateway>> {
        self.gateways.lock().expect("no holder of the lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(ready: bool, deleting: bool, generation: Option<u64>) -> Proxy {
        let told = generation.map(|generation| Told { generation, ..Told::default() });
        Proxy { uid: String::new(), address: Some(([10, 0, 0, 1], 4001).into()), ready, deleting, told }
    }

    fn fact(proxies: &[Proxy]) -> ProxiesFact {
        let named = proxies.iter().enumerate().map(|(at, proxy)| (at.to_string(), proxy.clone()));
        Gateway { proxies: named.collect(), ..Gateway::default() }.fact()
    }

    #[test]
    fn the_slowest_ready_proxy_counts() {
        let proxies = [proxy(true, false, Some(7)), proxy(true, false, Some(5)), proxy(false, false, Some(1))];
        assert_eq!(fact(&proxies), ProxiesFact { total: 3, ready: 2, generation: Some(5), error: None });
    }

    #[test]
    fn a_ready_proxy_that_says_nothing_leaves_the_generation_open() {
        let proxies = [proxy(true, false, Some(7)), proxy(true, false, None)];
        assert_eq!(fact(&proxies).generation, None);
        assert_eq!(fact(&[]), ProxiesFact::default());
    }

    #[test]
    fn a_proxy_on_its_way_out_counts_for_nothing() {
        let proxies = [proxy(true, false, Some(7)), proxy(true, true, Some(1))];
        assert_eq!(fact(&proxies), ProxiesFact { total: 1, ready: 1, generation: Some(7), error: None });
    }

    #[test]
    fn a_proxy_that_cannot_read_its_tables_is_named() {
        let mut sick = proxy(false, false, Some(3));
        sick.told = Some(Told { generation: 3, version: "0.0.9".to_owned(), error: Some("format 2".to_owned()) });
        assert_eq!(fact(&[sick]).error.as_deref(), Some("proxy `0` of version 0.0.9: format 2"));
    }

    #[test]
    fn picks_go_round_ready_proxies() {
        let fleet = Fleet::default();
        let gateway = ("a".to_owned(), "b".to_owned());
        assert_eq!(fleet.pick(&gateway, 0), None);
        fleet.publish("a", "b", Published { generation: 1, token: "secret".into() });
        assert_eq!(fleet.pick(&gateway, 0), None, "no proxy is ready");
        for (name, last) in [("x", 1), ("y", 2)] {
            let address = Some(([10, 0, 0, last], 4001).into());
            let proxy = Proxy { address, ..proxy(true, false, None) };
            fleet.lock().get_mut(&gateway).unwrap().proxies.insert(name.to_owned(), proxy);
        }
        let picked = |turn| fleet.pick(&gateway, turn).unwrap().0.to_string();
        assert_eq!([picked(0), picked(1), picked(2)], ["10.0.0.1:4001", "10.0.0.2:4001", "10.0.0.1:4001"]);
    }
}
