//! What parts found out about objects beside what is written in them. Whoever finds something out sets it here; compile
//! and conditions read it. Setting what is there already wakes nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use tollgate_allocator::tally::{Of, Totals};
use tollgate_crds::{TimestampText, VirtualKeyStatus};
use tollgate_snapshot::{Credential, KeyHash};

use crate::gateway::served::OF_SPEC;
use crate::world::Record;

/// `namespace` and `name` of an object whose kind is clear.
pub type Named = (String, String);

/// Something that keeps an object from working, for its conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// CamelCase, of a closed set.
    pub reason: &'static str,
    /// One line, lower case, for humans.
    pub message: String,
}

/// The key of a VirtualKey with `secret`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyFact {
    /// The uid of the VirtualKey: another one of the same name has another key. Empty in what a status remembers.
    pub uid: String,
    /// `None`: there is none yet.
    pub hash: Option<KeyHash>,
    /// The key before it, and until when it works. Unix seconds.
    pub previous: Option<(KeyHash, i64)>,
    /// The public beginning of the key.
    pub prefix: Option<String>,
    /// When the key in use was made. Unix seconds.
    pub made_at: Option<i64>,
    /// Name of the Secret that it was written into.
    pub secret: Option<String>,
    /// The wish for another key that was acted on last: the value of an annotation.
    pub request: Option<String>,
    pub problem: Option<Problem>,
}

impl KeyFact {
    /// What a status remembers. `None`: nothing.
    pub fn of_status(status: &VirtualKeyStatus) -> Option<KeyFact> {
        let hash = status.key_hash.as_deref().and_then(KeyHash::parse)?;
        let moment = |text: &TimestampText| text.as_str().parse::<jiff::Timestamp>().ok().map(|time| time.as_second());
        let previous = status.previous_key_hash.as_deref().and_then(KeyHash::parse);
        // An end that cannot be read has come.
        let ends_at = status.previous_key_ends_at.as_ref().and_then(moment).unwrap_or(0);
        Some(KeyFact {
            uid: String::new(),
            hash: Some(hash),
            previous: previous.map(|previous| (previous, ends_at)),
            prefix: status.key_prefix.clone(),
            made_at: status.rotated_at.as_ref().and_then(moment),
            secret: status.secret_name.clone(),
            request: status.rotation_request.clone(),
            problem: None,
        })
    }

    /// Puts what [`KeyFact::of_status`] reads into a status.
    pub fn write_status(&self, status: &mut VirtualKeyStatus) {
        let KeyFact { uid: _, hash, previous, prefix, made_at, secret, request, problem: _ } = self;
        let text = |at: i64| jiff::Timestamp::from_second(at).ok().map(|time| TimestampText::new(time.to_string()));
        status.key_hash = hash.map(|hash| format!("sha256:{hash}"));
        status.previous_key_hash = previous.map(|(hash, _)| format!("sha256:{hash}"));
        status.previous_key_ends_at = previous.and_then(|(_, ends_at)| text(ends_at));
        status.key_prefix = prefix.clone();
        status.rotated_at = made_at.and_then(text);
        status.secret_name = secret.clone();
        status.rotation_request = request.clone();
    }
}

/// The last probe of a ModelDeployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFact {
    /// Which version of the object it was of: `metadata.generation`.
    pub generation: i64,
    pub ok: bool,
    /// CamelCase, of a closed set; `Reachable` when ok.
    pub reason: &'static str,
    pub message: String,
    /// Unix seconds.
    pub at: i64,
}

/// What runs for an LLMGateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayFact {
    /// Of the gateway: another one of the same name is another one.
    pub uid: String,
    /// Which version of the gateway was looked at: its `metadata.generation`.
    pub generation: i64,
    /// Whether it is known what there is of it; otherwise the number of replicas says nothing.
    pub is_looked_at: bool,
    /// Where clients call it. Example: `default.tollgate.svc:4000`.
    pub address: Option<String>,
    /// Replicas of the Deployment.
    pub replicas: i32,
    /// Label selector of the pods.
    pub selector: Option<String>,
    /// Why its Deployment or Service cannot be made or does not get ready.
    pub problem: Option<Problem>,
}

impl GatewayFact {
    /// Whether it cannot be run before its spec or its namespace is changed.
    pub fn is_refused(&self) -> bool {
        self.problem.as_ref().is_some_and(|problem| OF_SPEC.contains(&problem.reason))
    }
}

/// The proxies of an LLMGateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxiesFact {
    /// Pods that are there and not on their way out.
    pub total: u32,
    pub ready: u32,
    /// Of the tables: the lowest that a ready proxy runs. `None`: no ready proxy, or one of them does not say.
    pub generation: Option<u64>,
    /// Of a proxy that cannot use what is published: which, of which version, and why.
    pub error: Option<String>,
}

/// Where a budget stands in its present period, over all proxies. In its unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpendFact {
    /// Settled, and what is charged for proxies that ended without a word.
    pub used: i64,
    /// What proxies may spend or have spent.
    pub charged: i64,
    /// Held by calls in flight, a moment ago.
    pub held: i64,
    /// The least that a call had to reserve which was refused since one was admitted; 0: none was.
    pub refused: i64,
    pub limit: i64,
    /// Which period it speaks of. Unix seconds.
    pub period_starts_at: i64,
}

/// How the operator's allocator gets on with the budgets of a gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllocationFact {
    /// There are more accounts than are known to be served in time.
    pub is_degraded: bool,
    /// There is no room for more.
    pub is_full: bool,
    /// What was spent is in a Redis that the gateway does not have any more.
    pub is_elsewhere: bool,
    /// The same, and it does not come back from there.
    pub is_unreached: bool,
}

/// What was used of each thing in the month that it was used last, over all proxies of a gateway.
#[derive(Clone, Debug, Default)]
pub struct Tallies {
    keys: HashMap<Named, Totals>,
    teams: HashMap<Named, Totals>,
    deployments: HashMap<Named, Totals>,
}

impl Tallies {
    pub fn get(&self, of: Of, name: &Named) -> Option<Totals> {
        match of {
            Of::Key => self.keys.get(name).copied(),
            Of::Team => self.teams.get(name).copied(),
            Of::Deployment => self.deployments.get(name).copied(),
        }
    }

    fn put(&mut self, (of, name, totals): (Of, Named, Totals)) {
        match of {
            Of::Key => self.keys.insert(name, totals),
            Of::Team => self.teams.insert(name, totals),
            Of::Deployment => self.deployments.insert(name, totals),
        };
    }
}

/// All of them. A copy costs little: what may be large is shared until one of the two changes.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub keys: Arc<HashMap<Named, KeyFact>>,
    pub probes: HashMap<Named, ProbeFact>,
    pub gateways: HashMap<Named, GatewayFact>,
    pub proxies: HashMap<Named, ProxiesFact>,
    /// When a VirtualKey was used last, Unix seconds.
    pub last_used: Arc<HashMap<Named, i64>>,
    /// Median time to the first byte of a ModelDeployment, milliseconds.
    pub p50_ms: HashMap<Named, u64>,
    /// Of each gateway, by id of the budget. A gateway that is not there: nothing was read yet.
    pub spend: HashMap<Named, Arc<HashMap<String, SpendFact>>>,
    /// Of each gateway whose budgets the operator hands out.
    pub allocations: HashMap<Named, AllocationFact>,
    /// Of each gateway. One that is not there: nothing was read yet.
    pub tallies: HashMap<Named, Arc<Tallies>>,
    /// URLs that budgets of a gateway's snapshot name.
    pub webhooks: HashMap<Named, Arc<[Credential]>>,
}

impl SpendFact {
    /// Nothing is left.
    pub fn is_spent(&self) -> bool {
        self.used >= self.limit
    }

    /// So little is left that calls are refused. A call that asks for most of a budget says nothing about others.
    pub fn is_near_limit(&self) -> bool {
        tollgate_alerts::is_near_limit(self.used.saturating_add(self.held), self.refused, self.limit)
    }
}

impl Known {
    /// The key of a VirtualKey: what was found out since this process leads, else what its status remembers.
    pub fn key<'a>(&'a self, namespace: &str, name: &str, record: &'a Record) -> Option<&'a KeyFact> {
        let found = self.keys.get(&named(namespace, name)).filter(|fact| fact.uid == record.uid);
        found.or(record.seen.key.as_deref())
    }

    /// What was found out about a gateway; nothing of another one that had its name.
    pub fn gateway(&self, name: &Named, record: &Record) -> Option<&GatewayFact> {
        self.gateways.get(name).filter(|fact| fact.uid == record.uid)
    }
}

/// A handle on [`Known`], cheap to clone.
#[derive(Clone, Debug)]
pub struct Facts {
    known: Arc<Mutex<Known>>,
    /// How often something changed that compile reads, and that only conditions read.
    compiled: watch::Sender<u64>,
    shown: watch::Sender<u64>,
}

impl Default for Facts {
    fn default() -> Facts {
        Facts { known: Arc::default(), compiled: watch::Sender::new(0), shown: watch::Sender::new(0) }
    }
}

impl Facts {
    /// For a moment: all parts run on one thread, which waits for whoever holds it. Not to be held across an await.
    pub fn read(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no holder of the lock panics")
    }

    /// What is known now, for who looks at much of it. Nobody waits for that.
    pub fn snapshot(&self) -> Known {
        self.read().clone()
    }

    /// The key of a VirtualKey; compiles again when its hashes changed.
    pub fn set_key(&self, namespace: &str, name: &str, fact: KeyFact) {
        let hashes = (fact.hash, fact.previous);
        let before = Arc::make_mut(&mut self.read().keys).insert(named(namespace, name), fact.clone());
        if before.as_ref().map(|before| (before.hash, before.previous)) != Some(hashes) {
            self.compile_again();
        } else if before.as_ref() != Some(&fact) {
            self.show_again();
        }
    }

    /// Forgets all keys: whoever leads now knows better, and says so in their statuses.
    pub fn forget_keys(&self) {
        self.read().keys = Arc::default();
        self.compile_again();
    }

    pub fn forget_probe(&self, namespace: &str, name: &str) {
        self.set(|known| known.probes.remove(&named(namespace, name)).is_some());
    }

    pub fn set_probe(&self, namespace: &str, name: &str, fact: ProbeFact) {
        self.set(|known| known.probes.insert(named(namespace, name), fact.clone()).as_ref() != Some(&fact));
    }

    pub fn set_gateway(&self, namespace: &str, name: &str, fact: GatewayFact) {
        self.set(|known| known.gateways.insert(named(namespace, name), fact.clone()).as_ref() != Some(&fact));
    }

    pub fn set_proxies(&self, namespace: &str, name: &str, fact: ProxiesFact) {
        self.set(|known| known.proxies.insert(named(namespace, name), fact.clone()).as_ref() != Some(&fact));
    }

    /// `used`: name and Unix seconds of VirtualKeys that were used since the last call.
    pub fn set_last_used(&self, used: impl IntoIterator<Item = (Named, i64)>) {
        self.set(|known| {
            let last_used = Arc::make_mut(&mut known.last_used);
            let mut changed = false;
            for (name, at) in used {
                let before = last_used.entry(name).or_default();
                changed |= at > *before;
                *before = at.max(*before);
            }
            changed
        });
    }

    /// `medians`: name of ModelDeployments and milliseconds.
    pub fn set_p50(&self, medians: impl IntoIterator<Item = (Named, u64)>) {
        self.set(|known| {
            let mut changed = false;
            for (name, milliseconds) in medians {
                changed |= known.p50_ms.insert(name, milliseconds) != Some(milliseconds);
            }
            changed
        });
    }

    /// Wakes nobody: they are looked up when there is something to tell.
    pub fn set_webhooks(&self, namespace: &str, name: &str, webhooks: Arc<[Credential]>) {
        self.read().webhooks.insert(named(namespace, name), webhooks);
    }

    /// Whether anything changed. Wakes nobody: spend moves all the time, and is shown at the allocator's pace.
    pub fn set_spend(&self, gateway: &Named, spend: impl IntoIterator<Item = (String, SpendFact)>) -> bool {
        let mut known = self.read();
        let budgets = Arc::make_mut(known.spend.entry(gateway.clone()).or_default());
        let mut changed = false;
        for (budget, fact) in spend {
            changed |= budgets.insert(budget, fact) != Some(fact);
        }
        changed
    }

    /// What is known may be old: it is as statuses say, until it is known again.
    pub fn forget_spend(&self) {
        let mut known = self.read();
        known.spend.clear();
        known.allocations.clear();
    }

    pub fn set_allocation(&self, gateway: &Named, fact: AllocationFact) {
        self.set(|known| known.allocations.insert(gateway.clone(), fact) != Some(fact));
    }

    /// All totals of a gateway.
    pub fn set_tallies(&self, gateway: &Named, all: impl IntoIterator<Item = (Of, Named, Totals)>) {
        let mut tallies = Tallies::default();
        all.into_iter().for_each(|one| tallies.put(one));
        self.set(|known| {
            known.tallies.insert(gateway.clone(), tallies.into());
            true
        });
    }

    /// Totals that moved, of a gateway whose totals are known.
    pub fn add_tallies(&self, gateway: &Named, moved: impl IntoIterator<Item = (Of, Named, Totals)>) {
        self.set(|known| {
            let Some(tallies) = known.tallies.get_mut(gateway) else { return false };
            let tallies = Arc::make_mut(tallies);
            moved.into_iter().for_each(|one| tallies.put(one));
            true
        });
    }

    /// As [`Facts::forget_spend`], of totals.
    pub fn forget_tallies(&self) {
        self.read().tallies.clear();
    }

    /// Asks for a compilation although no object changed.
    pub fn compile_again(&self) {
        self.compiled.send_modify(|times| *times += 1);
    }

    /// Changes when compile should run again.
    pub fn subscribe_compiled(&self) -> watch::Receiver<u64> {
        self.compiled.subscribe()
    }

    /// Changes when conditions should be looked at again.
    pub fn subscribe_shown(&self) -> watch::Receiver<u64> {
        self.shown.subscribe()
    }

    /// Asks for a look at conditions and columns.
    pub fn show_again(&self) {
        self.shown.send_modify(|times| *times += 1);
    }

    fn set(&self, change: impl FnOnce(&mut Known) -> bool) {
        if change(&mut self.read()) {
            self.show_again();
        }
    }
}

fn named(namespace: &str, name: &str) -> Named {
    (namespace.to_owned(), name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Seen;

    #[test]
    fn who_looks_at_what_was_known_keeps_nobody_from_saying_more() {
        let facts = Facts::default();
        let gateway = named("n", "g");
        let spent = |used: i64| [("b".to_owned(), SpendFact { used, ..SpendFact::default() })];
        facts.set_last_used([(named("n", "a"), 1)]);
        facts.set_spend(&gateway, spent(1));
        let seen = facts.snapshot();
        assert!(Arc::ptr_eq(&seen.last_used, &facts.read().last_used), "it is not copied");
        facts.set_last_used([(named("n", "a"), 2)]);
        facts.set_spend(&gateway, spent(2));
        facts.set_key("n", "a", KeyFact::default());
        assert_eq!((seen.last_used[&named("n", "a")], seen.spend[&gateway]["b"].used, seen.keys.len()), (1, 1, 0));
        let now = facts.read();
        assert_eq!((now.last_used[&named("n", "a")], now.spend[&gateway]["b"].used, now.keys.len()), (2, 2, 1));
    }

    #[test]
    fn a_key_of_another_object_of_that_name_is_not_its_key() {
        let facts = Facts::default();
        let hash = |text: &str| Some(KeyHash::of(text.as_bytes()));
        facts.set_key("n", "a", KeyFact { uid: "1".to_owned(), hash: hash("new"), ..KeyFact::default() });
        let remembered = KeyFact { hash: hash("old"), ..KeyFact::default() };
        let record = |uid: &str, key: Option<&KeyFact>| Record {
            uid: uid.to_owned(),
            seen: Seen { key: key.cloned().map(Box::new), ..Seen::default() },
            ..Record::default()
        };
        let of = |record: &Record| facts.read().key("n", "a", record).and_then(|fact| fact.hash);
        assert_eq!(of(&record("1", Some(&remembered))), hash("new"));
        assert_eq!(of(&record("2", Some(&remembered))), hash("old"));
        assert_eq!(of(&record("2", None)), None);
        facts.forget_keys();
        assert_eq!(of(&record("1", Some(&remembered))), hash("old"));
    }
}
