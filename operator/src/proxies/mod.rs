//! Asks each proxy which tables it runs, soon after tables were published and now and then, and what was used. `pods`
//! says which proxies there are, `pace` when to ask, `usage` what of it is worth a write.

mod ask;
mod fleet;
mod pace;
mod pods;
#[cfg(test)]
pub(crate) mod tests;
mod usage;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

pub use ask::{AskError, Asker, Speed, Used, UsedKey, Verdict};
pub use fleet::{Askable, Fleet, Gateway, Proxy, Published, Told};

use self::pace::{Answer, Pace};
use self::pods::{Change, Listing, Seen};
use self::usage::Usage;
use crate::facts::{Facts, Named};
use crate::{Context, Ended};

/// Questions about tables that are under way at once.
const AT_ONCE: usize = 16;

/// Answers about usage that are read at once: they are long.
const LISTS_AT_ONCE: usize = 4;

/// How often proxies are asked what was used.
const USED_EVERY: Duration = Duration::from_secs(25);

/// A gateway and the name of a pod.
type Key = (Named, String);

/// What a question brought.
enum Heard {
    Snapshot(Key, Result<Told, AskError>),
    Used(Key, Result<Used, AskError>),
}

/// Ends only when the operator does.
pub async fn run(context: Context) -> Ended {
    loop {
        let seen = pods::watch(&context.client, &context.settings.namespaces);
        let follower = Follower::new(context.fleet.clone(), context.facts.clone());
        context.leadership.while_leading(follower.run(seen)).await;
    }
}

/// Follows all proxies.
struct Follower {
    fleet: Fleet,
    facts: Facts,
    asker: Asker,
    pace: Pace<Key>,
    listing: Listing,
    usage: Usage,
    /// Where each proxy's list of used keys is read on, by uid.
    cursors: HashMap<String, i64>,
    asking: FuturesUnordered<BoxFuture<'static, Heard>>,
    /// Those of them that are about tables.
    asking_snapshots: usize,
    lists: Arc<Semaphore>,
}

impl Follower {
    fn new(fleet: Fleet, facts: Facts) -> Follower {
        Follower {
            fleet,
            facts,
            asker: Asker::default(),
            pace: Pace::default(),
            listing: Listing::default(),
            usage: Usage::default(),
            cursors: HashMap::new(),
            asking: FuturesUnordered::new(),
            asking_snapshots: 0,
            lists: Arc::new(Semaphore::new(LISTS_AT_ONCE)),
        }
    }

    async fn run(mut self, mut seen: BoxStream<'static, Seen>) -> Infallible {
        let mut published = self.fleet.subscribe();
        let mut second = interval(Duration::from_secs(1));
        let mut used = interval(USED_EVERY);
        for ticks in [&mut second, &mut used] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let room = AT_ONCE.saturating_sub(self.asking_snapshots);
            let next = self.pace.next().filter(|_| room > 0);
            tokio::select! {
                Some(seen) = seen.next() => {
                    let changes = self.listing.apply(&self.fleet, seen);
                    self.changed(changes);
                }
                changed = published.changed() => {
                    changed.expect("the fleet is there as long as its handle");
                    self.published();
                }
                Some(heard) = self.asking.next(), if !self.asking.is_empty() => self.heard(heard),
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.ask(room),
                _ = second.tick() => self.write(),
                _ = used.tick() => self.ask_used(),
            }
        }
    }

    fn changed(&mut self, changes: Vec<Change>) {
        let now = Instant::now();
        for change in changes {
            let gateway = match change {
                Change::Fresh(gateway, name) => {
                    self.pace.now((gateway.clone(), name), now);
                    gateway
                }
                Change::Other(gateway) => {
                    self.forget_gone();
                    gateway
                }
            };
            self.tell(&gateway);
        }
    }

    fn forget_gone(&mut self) {
        let gateways = self.fleet.lock();
        let is_there = |(gateway, name): &Key| {
            gateways.get(gateway).and_then(|gateway| gateway.proxies.get(name)).is_some_and(|proxy| !proxy.deleting)
        };
        self.pace.retain(is_there);
        let uids = gateways.values().flat_map(|gateway| gateway.proxies.values()).map(|proxy| proxy.uid.as_str());
        let uids: std::collections::HashSet<&str> = uids.collect();
        let gone: Vec<String> = self.cursors.keys().filter(|uid| !uids.contains(uid.as_str())).cloned().collect();
        for uid in gone {
            self.cursors.remove(&uid);
            self.usage.forget(&uid);
        }
    }

    /// Those that are behind are asked soon.
    fn published(&mut self) {
        let now = Instant::now();
        for (gateway, state) in self.fleet.lock().iter() {
            let Some(published) = &state.published else { continue };
            for (name, proxy) in &state.proxies {
                let runs = proxy.told.as_ref().map_or(0, |told| told.generation);
                if !proxy.deleting && runs < published.generation {
                    self.pace.published((gateway.clone(), name.clone()), now);
                }
            }
        }
    }

    fn ask(&mut self, room: usize) {
        for key in self.pace.take(Instant::now(), room) {
            let address = self.proxy(&key).and_then(|proxy| proxy.address);
            let Some(address) = address else {
                self.pace.answered(&key, Answer::None, Instant::now());
                continue;
            };
            let asker = self.asker.clone();
            self.asking_snapshots += 1;
            self.asking.push(async move { Heard::Snapshot(key, asker.snapshot(address).await) }.boxed());
        }
    }

    fn ask_used(&mut self) {
        let gateways = self.fleet.lock();
        for (gateway, state) in gateways.iter() {
            let Some(published) = &state.published else { continue };
            for (name, address) in state.ready() {
                let uid = &state.proxies[name].uid;
                let after = self.cursors.get(uid).copied().unwrap_or(0);
                let (asker, token, key) =
                    (self.asker.clone(), published.token.clone(), (gateway.clone(), name.clone()));
                let lists = self.lists.clone();
                let asked = async move {
                    let _place = lists.acquire_owned().await.expect("the semaphore is never closed");
                    Heard::Used(key, asker.used(address, &token, after).await)
                };
                self.asking.push(asked.boxed());
            }
        }
    }

    fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Snapshot(key, told) => {
                self.asking_snapshots -= 1;
                let answer = self.told(&key, told);
                self.pace.answered(&key, answer, Instant::now());
                self.tell(&key.0);
            }
            Heard::Used(key, Ok(used)) => self.used(&key, used),
            Heard::Used((gateway, pod), Err(error)) => {
                tracing::debug!(namespace = gateway.0, pod, %error, "proxy `{pod}` does not say what was used");
            }
        }
    }

    fn told(&mut self, key: &Key, told: Result<Told, AskError>) -> Answer {
        let mut gateways = self.fleet.lock();
        let Some(gateway) = gateways.get_mut(&key.0) else { return Answer::None };
        let wanted = gateway.published.as_ref().map_or(0, |published| published.generation);
        let Some(proxy) = gateway.proxies.get_mut(&key.1) else { return Answer::None };
        match told {
            Ok(told) => {
                let answer = if told.generation >= wanted { Answer::Current } else { Answer::Behind };
                proxy.told = Some(told);
                answer
            }
            Err(error) => {
                tracing::debug!(namespace = key.0.0, pod = key.1, %error, "proxy `{}` does not say what it runs", key.1);
                Answer::None
            }
        }
    }

    fn used(&mut self, key: &Key, used: Used) {
        let Some(proxy) = self.proxy(key) else { return };
        let Used { cursor, keys, deployments } = used;
        self.cursors.insert(proxy.uid.clone(), cursor);
        let known = self.facts.read();
        for UsedKey { name, last_used_at } in keys {
            let Some(name) = split(&name) else { continue };
            let written = known.last_used.get(&name).copied();
            self.usage.used(name, last_used_at, written);
        }
        drop(known);
        let medians = deployments.iter().filter_map(|Speed { name, p50_ms }| Some((split(name)?, *p50_ms)));
        self.usage.measured(&proxy.uid, medians);
    }

    fn write(&mut self) {
        let dates = self.usage.take_dates();
        if !dates.is_empty() {
            self.facts.set_last_used(dates);
        }
        let medians = self.usage.take_medians(Instant::now());
        if !medians.is_empty() {
            self.facts.set_p50(medians);
        }
    }

    fn tell(&self, gateway: &Named) {
        let fact = self.fleet.lock().get(gateway).map(Gateway::fact);
        if let Some(fact) = fact {
            self.facts.set_proxies(&gateway.0, &gateway.1, fact);
        }
    }

    fn proxy(&self, (gateway, name): &Key) -> Option<Proxy> {
        self.fleet.lock().get(gateway)?.proxies.get(name).cloned()
    }
}

/// `namespace/name` in two.
fn split(name: &str) -> Option<Named> {
    let (namespace, name) = name.split_once('/')?;
    Some((namespace.to_owned(), name.to_owned()))
}
