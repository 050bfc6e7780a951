//! Writes statuses: what users edited just now first, at most so many a second, each with the resourceVersion that it was
//! computed from.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tollgate_snapshot::ObjectRef;

use crate::Context;
use crate::bucket::Bucket;
use crate::events::{Event, Events};
use crate::kind;
use crate::metrics::Metrics;
use crate::names::MANAGER;
use crate::world::Seen;

/// Writes a second, so that a storm of edits leaves the API server to others.
const RATE: u32 = 200;

/// Of these, writes of statuses in which only figures moved.
const FIGURES_RATE: u32 = 20;

/// Writes that may be made at once after a pause.
const BURST: u32 = 40;

/// Writes under way at once.
const AT_ONCE: usize = 16;

/// Delays before a write that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A status that should be written.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub object: ObjectRef,
    pub uid: String,
    /// Of the object that it was computed from.
    pub resource_version: String,
    pub status: Value,
    /// The status as it will be seen.
    pub seen: Seen,
    pub urgency: Urgency,
    /// Put once it is written.
    pub events: Vec<Event>,
}

/// What is written before what: later ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Only figures moved: spend, times, speed.
    Figures,
    /// The object was there before this process led, and nobody edited it since: there may be a hundred thousand.
    Backlog,
    /// Something turned out about it, or an edit of another object concerns it.
    Usual,
    /// It was created since, and has no status yet.
    Created,
    /// It was edited since, or it is a gateway: somebody waits for what became of it, to the last condition.
    Edited,
}

impl Urgency {
    /// From the least to the most.
    const ALL: [Urgency; 5] = [Urgency::Figures, Urgency::Backlog, Urgency::Usual, Urgency::Created, Urgency::Edited];
}

/// What was wanted last of an object at a resourceVersion: until the watch brings another one, it is what is there.
#[derive(Clone, Debug)]
pub struct Assertion {
    pub resource_version: String,
    pub seen: Seen,
}

pub(super) type Asserted = HashMap<ObjectRef, Assertion>;

/// A handle on the queue.
#[derive(Clone)]
pub struct StatusQueue {
    waiting: Arc<Mutex<Waiting>>,
    asserted: Arc<Mutex<Asserted>>,
    arrived: Arc<Notify>,
    metrics: Metrics,
}

/// What waits, each object once.
#[derive(Default)]
pub(super) struct Waiting {
    wanted: HashMap<ObjectRef, Wanted>,
    /// By urgency.
    places: [VecDeque<ObjectRef>; Urgency::ALL.len()],
}

impl Waiting {
    pub(super) fn put(&mut self, mut wanted: Wanted) {
        let object = wanted.object.clone();
        let before = self.wanted.remove(&object);
        let mut moves = true;
        if let Some(before) = before {
            // It has its place already, and moves forward only: out of the backlog where somebody edited it.
            let forward = match (before.urgency, wanted.urgency) {
                (Urgency::Backlog, Urgency::Usual) => Urgency::Backlog,
                (before, now) => before.max(now),
            };
            moves = forward > before.urgency;
            wanted.urgency = forward;
            // What turned since is still worth saying.
            let events = std::mem::take(&mut wanted.events);
            wanted.events = before.events.into_iter().filter(|event| !events.contains(event)).collect();
            wanted.events.extend(events);
        }
        if moves {
            self.places[wanted.urgency as usize].push_back(object.clone());
        }
        self.wanted.insert(object, wanted);
    }

    /// `figures`: also what only figures moved in.
    pub(super) fn take(&mut self, figures: bool) -> Option<Wanted> {
        let may_be_taken = |urgency: &Urgency| figures || *urgency != Urgency::Figures;
        for urgency in Urgency::ALL.into_iter().rev().filter(may_be_taken) {
            // An object that moved forward has left its old place behind.
            while let Some(object) = self.places[urgency as usize].pop_front() {
                if let Some(wanted) = self.wanted.remove(&object) {
                    return Some(wanted);
                }
            }
        }
        None
    }
}

impl StatusQueue {
    /// The queue and who empties it.
    pub fn new(context: &Context) -> (StatusQueue, StatusWriter) {
        let queue = StatusQueue {
            waiting: Arc::default(),
            asserted: Arc::default(),
            arrived: Arc::default(),
            metrics: context.metrics.clone(),
        };
        let writer = StatusWriter {
            queue: queue.clone(),
            client: context.client.clone(),
            events: context.events.clone(),
            metrics: context.metrics.clone(),
        };
        (queue, writer)
    }

    pub(super) fn asserted(&self) -> Arc<Mutex<Asserted>> {
        self.asserted.clone()
    }

    /// Wants these; what was wanted of the same objects before is forgotten.
    pub fn put(&self, statuses: Vec<Wanted>) {
        if statuses.is_empty() {
            return;
        }
        let mut asserted = self.asserted.lock().expect("no holder of the lock panics");
        let mut waiting = self.waiting();
        for wanted in statuses {
            let Wanted { object, resource_version, seen, .. } = &wanted;
            let assertion = Assertion { resource_version: resource_version.clone(), seen: seen.clone() };
            asserted.insert(object.clone(), assertion);
            waiting.put(wanted);
        }
        self.metrics.statuses_waiting(waiting.wanted.len());
        self.arrived.notify_one();
    }

    /// Whether the status of the object is what was written here, so that there is nothing to look at.
    pub fn is_echo(&self, object: &ObjectRef, seen: &Seen) -> bool {
        let mut asserted = self.asserted.lock().expect("no holder of the lock panics");
        let is_echo = asserted.get(object).is_some_and(|assertion| assertion.seen.digest == seen.digest);
        if is_echo {
            asserted.remove(object);
        }
        is_echo
    }

    /// Forgets what was asserted of objects that have changed since. `is_current`: whether the object still has that
    /// resourceVersion.
    pub fn forget(&self, is_current: impl Fn(&ObjectRef, &str) -> bool) {
        let mut asserted = self.asserted.lock().expect("no holder of the lock panics");
        asserted.retain(|object, assertion| is_current(object, &assertion.resource_version));
    }

    /// Figures wait until `figures_at`.
    async fn take(&self, figures_at: Instant) -> Wanted {
        loop {
            let taken = {
                let mut waiting = self.waiting();
                let taken = waiting.take(Instant::now() >= figures_at);
                self.metrics.statuses_waiting(waiting.wanted.len());
                taken
            };
            if let Some(wanted) = taken {
                return wanted;
            }
            tokio::select! {
                () = self.arrived.notified() => {}
                () = sleep_until(figures_at), if Instant::now() < figures_at => {}
            }
        }
    }

    /// One that failed and of which nothing newer is wanted.
    fn put_back(&self, wanted: Wanted) {
        let mut waiting = self.waiting();
        if !waiting.wanted.contains_key(&wanted.object) {
            waiting.put(wanted);
            self.arrived.notify_one();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder of the lock panics")
    }
}

/// Empties the queue.
pub struct StatusWriter {
    queue: StatusQueue,
    client: Client,
    events: Events,
    metrics: Metrics,
}

/// What became of a write.
enum Outcome {
    /// Written, or not to be tried again.
    Done,
    Again(Box<Wanted>, Duration),
}

impl StatusWriter {
    /// Never returns; dropped with what leads.
    pub async fn run(self) -> Infallible {
        let mut writes = FuturesUnordered::new();
        let mut retries = FuturesUnordered::new();
        let mut buckets = [Bucket::new(RATE, BURST, Instant::now()), Bucket::new(FIGURES_RATE, 1, Instant::now())];
        let mut failures: HashMap<ObjectRef, u32> = HashMap::new();
        loop {
            tokio::select! {
                wanted = self.next(&mut buckets), if writes.len() < AT_ONCE => writes.push(self.write(wanted, &failures)),
                Some((object, outcome)) = writes.next() => match outcome {
                    Outcome::Done => {
                        failures.remove(&object);
                    }
                    Outcome::Again(wanted, delay) => {
                        *failures.entry(object).or_default() += 1;
                        retries.push(async move {
                            sleep(delay).await;
                            *wanted
                        });
                    }
                },
                Some(wanted) = retries.next() => self.queue.put_back(wanted),
            }
        }
    }

    /// The next that may be written now. Waits for its turn first, so that what is dropped is nothing.
    async fn next(&self, [all, figures]: &mut [Bucket; 2]) -> Wanted {
        sleep_until(all.ready_at()).await;
        let wanted = self.queue.take(figures.ready_at()).await;
        all.take(Instant::now());
        if wanted.urgency == Urgency::Figures {
            figures.take(Instant::now());
        }
        wanted
    }

    fn write(
        &self,
        wanted: Wanted,
        failures: &HashMap<ObjectRef, u32>,
    ) -> impl Future<Output = (ObjectRef, Outcome)> + use<> {
        let failed = failures.get(&wanted.object).copied().unwrap_or(0);
        let (client, events, metrics) = (self.client.clone(), self.events.clone(), self.metrics.clone());
        async move {
            let object = wanted.object.clone();
            let Some(resource) = kind::resource(object.kind) else { return (object, Outcome::Done) };
            let api: Api<DynamicObject> = Api::namespaced_with(client, &object.namespace, &resource);
            let patch = json!({
                "apiVersion": resource.api_version,
                "kind": resource.kind,
                "metadata": {
                    "namespace": object.namespace,
                    "name": object.name,
                    "uid": wanted.uid,
                    "resourceVersion": wanted.resource_version,
                },
                "status": wanted.status,
            });
            let parameters = PatchParams::apply(MANAGER).force();
            let written = api.patch_status(&object.name, &parameters, &Patch::Apply(&patch)).await;
            metrics.wrote(object.kind, &written);
            let outcome = match written {
                Ok(_) => {
                    wanted.events.into_iter().for_each(|event| events.put(event));
                    Outcome::Done
                }
                // Changed or gone meanwhile: the watch brings what it is now, and then it is looked at again.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Outcome::Done,
                Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => {
                    tracing::error!(%status, "the status of {object} is refused: {status}");
                    Outcome::Done
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot write the status of {object}, trying again: {error}");
                    Outcome::Again(Box::new(wanted), RETRY.0.saturating_mul(1 << failed.min(8)).min(RETRY.1))
                }
            };
            (object, outcome)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, urgency: Urgency) -> Wanted {
        Wanted {
            object: ObjectRef { kind: "Team", namespace: "n".into(), name: name.into() },
            uid: String::new(),
            resource_version: String::new(),
            status: Value::Null,
            seen: Seen::default(),
            urgency,
            events: Vec::new(),
        }
    }

    #[test]
    fn what_users_edited_comes_first_and_each_object_once() {
        use Urgency::{Backlog, Created, Edited, Figures, Usual};
        let mut waiting = Waiting::default();
        for (name, urgency) in [
            ("f", Figures),
            ("old", Backlog),
            ("a", Usual),
            ("b", Usual),
            ("new", Created),
            ("c", Edited),
            ("b", Edited),
            ("a", Figures),
            ("d", Figures),
        ] {
            waiting.put(wanted(name, urgency));
        }
        let taken = std::iter::from_fn(|| waiting.take(false)).map(|wanted| wanted.object.name);
        let order: Vec<String> = taken.collect();
        assert_eq!(order, ["c", "b", "new", "a", "old"]);
        let figures: Vec<String> = std::iter::from_fn(|| waiting.take(true)).map(|wanted| wanted.object.name).collect();
        assert_eq!(figures, ["f", "d"]);
    }

    #[test]
    fn what_turns_while_it_waits_in_the_backlog_stays_there() {
        use Urgency::{Backlog, Edited, Usual};
        let mut waiting = Waiting::default();
        for (name, urgency) in
            [("a", Backlog), ("b", Backlog), ("c", Backlog), ("b", Usual), ("d", Usual), ("c", Edited)]
        {
            waiting.put(wanted(name, urgency));
        }
        let order: Vec<String> = std::iter::from_fn(|| waiting.take(false)).map(|wanted| wanted.object.name).collect();
        assert_eq!(order, ["c", "d", "a", "b"]);
    }
}
