//! Keys that Tollgate makes: generation into Secrets, and rotation. `plan` decides, `work` does it for one key, `rounds`
//! says which key when. Nothing here is between an edit and the tables: a key that is disabled or deleted is so with the
//! next compilation.

mod plan;
mod rounds;
mod secret;
#[cfg(test)]
mod tests;
mod text;
mod watch;
mod work;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tollgate_crds::{KeyPolicy, VirtualKeySpec};
use tollgate_snapshot::compile::{Meta, Object};

pub use secret::LABEL;
pub use text::{new_key, prefix};

use self::plan::Wish;
use self::rounds::Rounds;
use self::secret::Place;
use self::watch::Watches;
use self::work::{InStatus, Outcome, Work};
use crate::facts::Named;
use crate::{Context, Ended};

/// Asks for another key: any value that was not there before.
pub const ROTATE: &str = "tollgate.dev/rotate";

/// Looks that are under way at once.
const AT_ONCE: usize = 16;

/// Between the beginnings of two looks: what many new keys may ask of the API server.
const PACE: Duration = Duration::from_millis(5);

/// The slow round: how often one key is looked at, for few keys and at most.
const ROUND: Duration = Duration::from_secs(300);
const SHORTEST_STEP: Duration = Duration::from_millis(200);

/// Ends only when the operator does.
pub async fn run(context: Context) -> Ended {
    loop {
        context.leadership.while_leading(Keeper::new(&context).run()).await;
        context.facts.forget_keys();
    }
}

/// Looks after all generated keys.
struct Keeper<'a> {
    context: &'a Context,
    rounds: Rounds,
    /// The round of the world that was looked through last.
    seen: u64,
    watches: Watches,
    /// Keys whose Secret somebody touched.
    touched: mpsc::Receiver<Named>,
    looks: FuturesUnordered<BoxFuture<'static, (Named, Outcome)>>,
}

impl Keeper<'_> {
    fn new(context: &Context) -> Keeper<'_> {
        let (watches, touched) = Watches::new(context.client.clone());
        let looks = FuturesUnordered::new();
        Keeper { context, rounds: Rounds::default(), seen: 0, watches, touched, looks }
    }

    async fn run(mut self) -> Infallible {
        let mut world = self.context.world.subscribe();
        world.mark_changed();
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut step = Instant::now() + ROUND;
        loop {
            let has_room = self.looks.len() < AT_ONCE;
            let wait = self
                .rounds
                .next()
                .filter(|_| has_room)
                .map(|at| Duration::from_secs(u64::try_from(at - now()).unwrap_or(0)));
            tokio::select! {
                changed = world.changed() => {
                    changed.expect("the world is there as long as its handle");
                    if *world.borrow_and_update() > 0 {
                        self.look_through();
                    }
                }
                Some(key) = self.touched.recv() => self.rounds.touch(key, now()),
                Some((key, outcome)) = self.looks.next(), if !self.looks.is_empty() => self.done(&key, outcome),
                () = pause(wait, &mut pace), if wait.is_some() => {
                    if let Some(key) = self.rounds.take(now()) {
                        self.look(key);
                    }
                }
                () = sleep_until(step), if has_room => {
                    if let Some(key) = self.rounds.take_next() {
                        self.look(key);
                    }
                    let keys = u32::try_from(self.rounds.len()).unwrap_or(u32::MAX).max(1);
                    step = Instant::now() + (ROUND / keys).max(SHORTEST_STEP);
                }
            }
        }
    }

    /// Takes over which keys there are. At first only those are due of which the status says that something is open;
    /// afterwards each that was touched.
    fn look_through(&mut self) {
        let objects = self.context.world.read();
        let known = self.context.facts.read();
        let first = self.seen == 0;
        let now = now();
        let mut count = 0;
        let mut namespaces = BTreeSet::new();
        for (key, record) in objects.keys() {
            let Some(wish) = wish(key) else { continue };
            let Meta { namespace, name, .. } = &key.meta;
            if record.round > self.seen {
                let fact = known.key(namespace, name, record).cloned().unwrap_or_default();
                let at = if first { wish.next(&fact, true, now) } else { Some(now) };
                self.rounds.put((namespace.clone(), name.clone()), at);
            }
            namespaces.insert(namespace.as_str());
            count += 1;
        }
        self.seen = objects.round();
        if count != self.rounds.len() {
            let is_there =
                |(namespace, name): &Named| objects.key(namespace, name).and_then(|(key, _)| wish(key)).is_some();
            self.rounds.retain(is_there);
        }
        self.watches.keep(namespaces);
    }

    fn look(&mut self, key: Named) {
        let Some(work) = self.work(&key) else {
            self.rounds.remove(&key);
            return;
        };
        let (client, facts, world) =
            (self.context.client.clone(), self.context.facts.clone(), self.context.world.clone());
        self.looks.push(Box::pin(async move {
            let uid = work.place.uid.clone();
            let in_status = || match world.read().key(&key.0, &key.1) {
                Some((_, record)) if record.uid == uid => {
                    InStatus::Key(record.seen.key.as_ref().and_then(|key| key.hash))
                }
                _ => InStatus::Gone,
            };
            let outcome = work.run(&client, &facts, in_status, now()).await;
            (key, outcome)
        }));
    }

    fn work(&self, key: &Named) -> Option<Work> {
        let objects = self.context.world.read();
        let (object, record) = objects.key(&key.0, &key.1)?;
        let wish = wish(object)?;
        let known = self.context.facts.read().key(&key.0, &key.1, record).cloned().unwrap_or_default();
        let place = Place {
            namespace: key.0.clone(),
            name: key.1.clone(),
            uid: record.uid.clone(),
            secret: wish.secret.name.clone(),
            entry: wish.secret.key.clone(),
        };
        Some(Work { place, wish, known })
    }

    fn done(&mut self, key: &Named, outcome: Outcome) {
        let now = now();
        match outcome {
            Outcome::Settled => {
                let next = self.work(key).and_then(|work| work.wish.next(&work.known, false, now));
                self.rounds.settled(key, next);
            }
            Outcome::Again => self.rounds.settled(key, Some(now)),
            Outcome::Blocked => self.rounds.blocked(key, now),
            Outcome::Failed => self.rounds.failed(key, now),
        }
    }
}

/// `None`: the key is not generated.
fn wish(key: &Object<VirtualKeySpec>) -> Option<Wish> {
    let secret = key.spec.secret.as_ref().filter(|secret| secret.policy == KeyPolicy::Generate)?;
    let request = key.meta.annotations.get(ROTATE).map(String::as_str);
    Some(Wish::new(secret, key.spec.rotation.as_ref(), request))
}

async fn pause(wait: Option<Duration>, pace: &mut tokio::time::Interval) {
    tokio::time::sleep(wait.unwrap_or_default()).await;
    pace.tick().await;
}

/// Unix seconds.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
