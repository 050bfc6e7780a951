//! Has ready proxies probe model deployments: one proxy for each probe, so that it is the way that calls go. `schedule`
//! says which deployment when; what came of it is a fact, told when it is another one and now and then.

mod schedule;
#[cfg(test)]
mod tests;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tollgate_crds::{ConditionStatus, ModelDeploymentSpec, ObjectRef as Reference, ProbeMode, SecretKeyRef};
use tollgate_snapshot::compile::{Object, Secrets};

use self::schedule::{Came, PACE, Schedule, Wanted};
use crate::facts::{Facts, Named, ProbeFact};
use crate::gateway::served;
use crate::proxies::{Asker, Fleet, Verdict};
use crate::world::{Objects, Record};
use crate::{Context, Ended};

/// How often it is looked which deployments there are and what proxies run of them.
const LOOK: Duration = Duration::from_millis(500);

/// A result that is as the one before is told again after this, in seconds: each is a write.
const TELL_AGAIN: i64 = 300;

/// Probes under way at once; a provider may take its time.
const AT_ONCE: usize = 16;

/// Where a deployment's interval cannot be read.
const USUAL_INTERVAL: Duration = Duration::from_secs(30);

/// Ends only when the operator does.
pub async fn run(context: Context) -> Ended {
    loop {
        let prober = Prober::new(context.fleet.clone(), context.facts.clone());
        let look = || {
            let objects = context.world.read();
            let default = served::default(&objects, &context.facts.read(), &context.settings.lease_namespace);
            candidates(&objects, default.as_ref(), &context.secrets.compiled())
        };
        context.leadership.while_leading(prober.run(look)).await;
    }
}

/// A deployment that could be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    gateway: Named,
    /// `metadata.generation` that its proxies run.
    generation: i64,
    wanted: Wanted,
}

/// Deployments that proxies run as they are now. One that was edited comes with its new version once they run that.
/// `default`: the gateway of those that name none.
fn candidates(objects: &Objects, default: Option<&Named>, secrets: &Secrets) -> BTreeMap<Named, Candidate> {
    let mut candidates = BTreeMap::new();
    for (deployment, record) in objects.deployments() {
        let ModelDeploymentSpec { probe, gateway_ref, .. } = &deployment.spec;
        let programmed = record.seen.condition("Programmed").map(|condition| condition.status);
        let is_programmed =
            programmed == Some(ConditionStatus::True) && record.seen.generation == Some(record.generation);
        if probe.mode == ProbeMode::None || !is_programmed {
            continue;
        }
        let namespace = &deployment.meta.namespace;
        let gateway = match gateway_ref {
            Some(Reference { name, namespace: other }) => {
                Some((other.as_ref().unwrap_or(namespace).clone(), name.clone()))
            }
            None => default.cloned(),
        };
        let Some(gateway) = gateway.filter(|(namespace, name)| objects.gateway(namespace, name).is_some()) else {
            continue;
        };
        let interval = probe.interval.get().unwrap_or(USUAL_INTERVAL);
        let wanted = Wanted { interval, version: version(deployment, record, objects, secrets) };
        candidates.insert(
            (namespace.clone(), deployment.meta.name.clone()),
            Candidate { gateway, generation: record.generation, wanted },
        );
    }
    candidates
}

/// Another one when the deployment, its account or a credential is another.
fn version(deployment: &Object<ModelDeploymentSpec>, record: &Record, objects: &Objects, secrets: &Secrets) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&record.uid, record.generation).hash(&mut hasher);
    let mut add = |namespace: &str, reference: &SecretKeyRef| {
        let secret = secrets.get(namespace, &reference.name);
        secret.and_then(|secret| secret.data.get(&reference.key)).hash(&mut hasher);
    };
    let namespace = &deployment.meta.namespace;
    if let Some(credential) = &deployment.spec.credential {
        add(namespace, &credential.secret_ref);
    }
    if let Some(reference) = &deployment.spec.account_ref {
        let namespace = reference.namespace.as_ref().unwrap_or(namespace);
        if let Some((account, record)) = objects.account(namespace, &reference.name) {
            for credential in account.spec.credentials.iter().filter_map(|credential| credential.secret_ref.as_ref()) {
                add(namespace, credential);
            }
            (&record.uid, record.generation).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// Probes what a look finds.
struct Prober {
    fleet: Fleet,
    facts: Facts,
    asker: Asker,
    schedule: Schedule,
    /// As of the last look.
    candidates: BTreeMap<Named, Candidate>,
    /// Versions that were new at the last look: their tables are on the way.
    fresh: HashMap<Named, u64>,
    /// Counts probes, so that they go round the proxies.
    turn: usize,
    probes: FuturesUnordered<BoxFuture<'static, Done>>,
}

/// A probe that is over. `None`: nothing that says anything about the deployment.
struct Done {
    name: Named,
    generation: i64,
    version: u64,
    verdict: Option<Verdict>,
}

impl Prober {
    fn new(fleet: Fleet, facts: Facts) -> Prober {
        Prober {
            fleet,
            facts,
            asker: Asker::default(),
            schedule: Schedule::default(),
            candidates: BTreeMap::new(),
            fresh: HashMap::new(),
            turn: 0,
            probes: FuturesUnordered::new(),
        }
    }

    async fn run(mut self, look: impl Fn() -> BTreeMap<Named, Candidate>) -> Infallible {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut free = Instant::now();
        loop {
            let has_room = self.probes.len() < AT_ONCE;
            let next = self.schedule.next().filter(|_| has_room).map(|at| at.max(free));
            tokio::select! {
                _ = looks.tick() => self.take_over(look()),
                Some(done) = self.probes.next(), if !self.probes.is_empty() => self.done(done),
                () = sleep_until(next.unwrap_or(free)), if next.is_some() => {
                    if self.probe() {
                        free = Instant::now() + PACE;
                    }
                }
            }
        }
    }

    /// A new version is probed when it was there at two looks and the proxies run what is published: what was published
    /// for it is among that.
    fn take_over(&mut self, candidates: BTreeMap<Named, Candidate>) {
        let mut wanted = BTreeMap::new();
        let mut fresh = HashMap::new();
        let mut taken = BTreeMap::new();
        for (name, candidate) in candidates {
            let version = candidate.wanted.version;
            let before = self.candidates.get(&name);
            let is_known = before.is_some_and(|before| before.wanted.version == version);
            let is_settled = self.fresh.get(&name) == Some(&version) && self.fleet.is_settled(&candidate.gateway);
            let candidate = if is_known || is_settled {
                candidate
            } else {
                fresh.insert(name.clone(), version);
                let Some(before) = before else { continue };
                before.clone()
            };
            wanted.insert(name.clone(), candidate.wanted);
            taken.insert(name, candidate);
        }
        for (namespace, name) in self.candidates.keys().filter(|name| !taken.contains_key(*name)) {
            self.facts.forget_probe(namespace, name);
        }
        self.fresh = fresh;
        self.candidates = taken;
        self.schedule.set(wanted, Instant::now());
    }

    /// Begins one probe; `false` when nothing was asked.
    fn probe(&mut self) -> bool {
        let now = Instant::now();
        let Some((name, version)) = self.schedule.take(now) else { return false };
        let Some(Candidate { gateway, generation, .. }) = self.candidates.get(&name) else { return false };
        let generation = *generation;
        self.turn = self.turn.wrapping_add(1);
        let Some((proxy, token)) = self.fleet.pick(gateway, self.turn) else {
            self.schedule.done(&name, version, Came::Nothing, now);
            return false;
        };
        let asker = self.asker.clone();
        self.probes.push(Box::pin(async move {
            let deployment = format!("{}/{}", name.0, name.1);
            let verdict = match asker.probe(proxy, &token, &deployment).await {
                Ok(verdict) => verdict,
                Err(error) => {
                    tracing::debug!(deployment, %proxy, %error, "the proxy did not probe `{deployment}`");
                    None
                }
            };
            Done { name, generation, version, verdict }
        }));
        true
    }

    fn done(&mut self, done: Done) {
        let Done { name, generation, version, verdict } = done;
        let came = match &verdict {
            None => Came::Nothing,
            Some(verdict) if verdict.ok => Came::Good,
            Some(_) => Came::Bad,
        };
        self.schedule.done(&name, version, came, Instant::now());
        let is_current = self.candidates.get(&name).is_some_and(|now| now.wanted.version == version);
        if let Some(verdict) = verdict.filter(|_| is_current) {
            self.tell(&name, generation, verdict);
        }
    }

    fn tell(&self, (namespace, name): &Named, generation: i64, verdict: Verdict) {
        let at = jiff::Timestamp::now().as_second();
        let Verdict { ok, reason, message } = verdict;
        let fact = ProbeFact { generation, ok, reason: known_reason(ok, &reason), message, at };
        let before = self.facts.read().probes.get(&(namespace.clone(), name.clone())).cloned();
        let is_same = before.is_some_and(|before| {
            let same = (before.generation, before.ok, before.reason) == (fact.generation, fact.ok, fact.reason);
            same && at - before.at < TELL_AGAIN
        });
        if !is_same {
            self.facts.set_probe(namespace, name, fact);
        }
    }
}

/// Conditions have reasons of a closed set, whatever a newer proxy says.
fn known_reason(ok: bool, reason: &str) -> &'static str {
    const BAD: [&str; 4] = ["Unauthorized", "ModelNotFound", "Unreachable", "Timeout"];
    if ok {
        return "Reachable";
    }
    BAD.into_iter().find(|known| *known == reason).unwrap_or("ProbeFailed")
}
