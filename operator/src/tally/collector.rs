//! I/O: asks the proxies of one gateway for their sums, adds them up, and writes the totals. Whatever is not written when
//! this process dies is told again by the proxies, which keep a batch until they hear that it was taken.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use http::StatusCode;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tollgate_allocator::tally::{Ask, Month, Of, Shard, Sum, Told, Totals};

use super::TOTALS;
use super::shown::{Shown, Thing};
use crate::Context;
use crate::backoff::Backoff;
use crate::bucket::Bucket;
use crate::facts::Named;
use crate::proxies::{AskError, Asker};
use crate::shards::{ShardError, Shards};

/// How often it is looked whether there is something to do.
const TICK: Duration = Duration::from_millis(250);

/// Ticks between two shows.
const SHOW_TICKS: u32 = 4;

/// Between two questions to a proxy. One that is on its way out is asked at each tick: it waits for the last word.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Before a proxy is asked again that does not answer, and one of a version that tells no sums.
const AWAY: Duration = Duration::from_secs(5);
const UNKNOWN: Duration = Duration::from_secs(60);

/// Questions under way at once: answers may be long.
const AT_ONCE: usize = 8;

/// A proxy that told so many batches which are not written yet is not asked for more.
const MOST_OPEN: usize = 8;

/// Writes a second over a while, and at once after a pause: of 64 shards with a hundred thousand keys each is 90 kB.
const WRITES: u32 = 2;
const BURST: u32 = 16;

/// A shard that changed is written after so long.
const LAZY: Duration = Duration::from_secs(5);

/// A pod must be gone so long before it is forgotten what was taken of it. Its volume went with it.
const GONE: Duration = Duration::from_secs(600);

/// How often that is looked at, and months that are over.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// One gateway's.
pub struct Collector {
    context: Context,
    gateway: Named,
    asker: Asker,
    /// `None`: to be read.
    books: Option<Books>,
    shown: Shown,
    /// By uid.
    pods: HashMap<String, PodState>,
    gone_since: HashMap<String, Instant>,
    writes: Bucket,
    tidied: Instant,
    /// Nothing is read or written until then.
    rests_until: Instant,
    backoff: Backoff,
}

/// What is known of a pod.
struct PodState {
    /// As it called itself; empty: not heard yet.
    source: String,
    next: Instant,
    is_asked: bool,
}

/// Totals, and how far they are written.
struct Books {
    store: Shards,
    shards: Vec<Shard>,
    /// Shards that are not written, and since when.
    dirty: BTreeMap<usize, Instant>,
    open: Open,
}

/// Batches that are not written yet.
#[derive(Debug, Default)]
struct Open {
    /// By source and number: the shards that each waits for.
    waits: BTreeMap<(String, u64), BTreeSet<usize>>,
    /// The last batch heard of each source.
    heard: HashMap<String, u64>,
}

/// What a question brought: the pod, its uid.
struct Heard {
    pod: String,
    uid: String,
    told: Result<Told, AskError>,
}

/// Somebody to ask.
struct Question {
    pod: String,
    uid: String,
    address: SocketAddr,
    token: Arc<str>,
    ask: Ask,
}

impl Open {
    fn of<'o>(&'o self, source: &str) -> impl Iterator<Item = &'o (String, u64)> {
        let (first, last) = ((source.to_owned(), 0), (source.to_owned(), u64::MAX));
        self.waits.range(first..=last).map(|(batch, _)| batch)
    }

    /// Batches of a source up to this one are written.
    fn taken(&self, source: &str) -> u64 {
        match self.of(source).next() {
            Some((_, number)) => number - 1,
            None => self.heard.get(source).copied().unwrap_or(0),
        }
    }

    fn is_written(&mut self, shards: &BTreeSet<usize>) {
        self.waits.retain(|_, waits| {
            waits.retain(|shard| !shards.contains(shard));
            !waits.is_empty()
        });
    }
}

impl Collector {
    pub fn new(context: Context, gateway: Named) -> Collector {
        let now = Instant::now();
        Collector {
            context,
            gateway,
            asker: Asker::default(),
            books: None,
            shown: Shown::default(),
            pods: HashMap::new(),
            gone_since: HashMap::new(),
            writes: Bucket::new(WRITES, BURST, now),
            tidied: now,
            rests_until: now,
            backoff: Backoff::of_server(),
        }
    }

    /// Until it is cancelled.
    pub async fn run(mut self) {
        match self.collect().await {}
    }

    async fn collect(&mut self) -> Infallible {
        let mut asking: FuturesUnordered<BoxFuture<'static, Heard>> = FuturesUnordered::new();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks: u32 = 0;
        loop {
            tokio::select! {
                Some(heard) = asking.next(), if !asking.is_empty() => self.heard(heard),
                _ = tick.tick() => {
                    if Instant::now() < self.rests_until || !self.load().await {
                        continue;
                    }
                    self.tidy();
                    self.write().await;
                    ticks = ticks.wrapping_add(1);
                    if ticks.is_multiple_of(SHOW_TICKS) {
                        self.show();
                    }
                    let room = AT_ONCE.saturating_sub(asking.len());
                    for question in self.due(room) {
                        asking.push(ask(self.asker.clone(), question).boxed());
                    }
                }
            }
        }
    }

    /// Reads the totals if they are not known.
    async fn load(&mut self) -> bool {
        if self.books.is_some() {
            return true;
        }
        let (namespace, name) = &self.gateway;
        let Some(uid) = self.context.world.read().gateway_uid(namespace, name) else { return false };
        let Context { client, metrics, .. } = &self.context;
        match Shards::load::<Shard>(client, &TOTALS, &self.gateway, &uid, metrics.clone()).await {
            Ok((store, found)) => {
                let mut shards = vec![Shard::default(); TOTALS.count];
                found.into_iter().for_each(|(at, shard)| shards[at] = shard);
                let totals =
                    |of| shards.iter().flat_map(move |shard: &Shard| shard.totals(of)).map(move |one| (of, one));
                let all = [Of::Key, Of::Team, Of::Deployment].into_iter().flat_map(totals);
                let all = all.filter_map(|(of, (name, totals))| Some((of, split(name)?, *totals)));
                self.context.facts.set_tallies(&self.gateway, all);
                self.books = Some(Books { store, shards, dirty: BTreeMap::new(), open: Open::default() });
                self.backoff.reset();
                true
            }
            Err(error) => {
                tracing::warn!(%error, gateway = %format!("{namespace}/{name}"), "totals of this month cannot be read: {error}");
                self.rest();
                false
            }
        }
    }

    fn rest(&mut self) {
        self.rests_until = Instant::now() + self.backoff.next_delay();
    }

    /// Whom to ask now.
    fn due(&mut self, room: usize) -> Vec<Question> {
        let Some(Books { open, .. }) = &self.books else { return Vec::new() };
        let now = Instant::now();
        let proxies = self.context.fleet.askable(&self.gateway);
        self.pods.retain(|uid, _| proxies.iter().any(|proxy| proxy.uid == *uid));
        let mut questions = Vec::new();
        for proxy in proxies {
            let state = self.pods.entry(proxy.uid.clone());
            let state = state.or_insert(PodState { source: String::new(), next: now, is_asked: false });
            let source = full_name(&proxy.pod, &state.source);
            let is_due = state.next <= now || (proxy.deleting && state.next <= now + ASK_EVERY);
            if questions.len() >= room || state.is_asked || !is_due || open.of(&source).count() >= MOST_OPEN {
                continue;
            }
            state.is_asked = true;
            let taken = open.taken(&source);
            let ask = Ask { source: state.source.clone(), taken };
            questions.push(Question {
                pod: proxy.pod,
                uid: proxy.uid,
                address: proxy.address,
                token: proxy.token,
                ask,
            });
        }
        questions
    }

    fn heard(&mut self, Heard { pod, uid, told }: Heard) {
        let now = Instant::now();
        let wait = match &told {
            Ok(_) => ASK_EVERY,
            Err(AskError::Status(StatusCode::NOT_FOUND)) => UNKNOWN,
            Err(error) => {
                tracing::debug!(pod, %error, "proxy `{pod}` does not say what was used: {error}");
                AWAY
            }
        };
        if let Some(state) = self.pods.get_mut(&uid) {
            state.is_asked = false;
            state.next = now + wait;
            if let Ok(told) = &told
                && !told.source.is_empty()
            {
                state.source.clone_from(&told.source);
            }
        }
        if let Ok(told) = told {
            self.take(&pod, &told, now);
        }
    }

    fn take(&mut self, pod: &str, Told { source, batches }: &Told, now: Instant) {
        let Some(Books { shards, dirty, open, .. }) = &mut self.books else { return };
        let source = full_name(pod, source);
        for batch in batches {
            let mut parts: BTreeMap<usize, Vec<&Sum>> = BTreeMap::new();
            for sum in &batch.sums {
                parts.entry(TOTALS.shard_of(&sum.name)).or_default().push(sum);
            }
            for (at, sums) in parts {
                if !shards[at].take(&source, batch.number, sums.iter().copied()) {
                    continue;
                }
                dirty.entry(at).or_insert(now);
                open.waits.entry((source.clone(), batch.number)).or_default().insert(at);
                sums.iter().for_each(|sum| self.shown.changed((sum.of, sum.name.clone()), now));
            }
            let heard = open.heard.entry(source.clone()).or_default();
            *heard = batch.number.max(*heard);
        }
    }

    /// Writes shards that wait long enough, and those that a proxy on its way out waits for.
    async fn write(&mut self) {
        let now = Instant::now();
        let leaving: Vec<String> = self.context.fleet.leaving(&self.gateway);
        let Some(Books { store, shards, dirty, open }) = &mut self.books else { return };
        let is_leaving = |source: &str| leaving.iter().any(|pod| pod_of(source) == pod);
        let urgent: BTreeSet<usize> = open
            .waits
            .iter()
            .filter(|((source, _), _)| is_leaving(source))
            .flat_map(|(_, waits)| waits)
            .copied()
            .collect();
        let is_due =
            |(at, since): &(&usize, &Instant)| urgent.contains(*at) || now.saturating_duration_since(**since) >= LAZY;
        let mut due: Vec<(&usize, &Instant)> = dirty.iter().filter(is_due).collect();
        due.sort_by_key(|(at, since)| (!urgent.contains(*at), **since));
        let due: BTreeSet<usize> =
            due.into_iter().take(self.writes.available(now) as usize).map(|(at, _)| *at).collect();
        if due.is_empty() {
            return;
        }
        let text = |at: &usize| serde_json::to_string(&shards[*at]).expect("names and numbers are JSON");
        let texts = due.iter().map(|at| (*at, text(at))).collect();
        due.iter().for_each(|_| self.writes.take(now));
        match store.write(texts).await {
            Ok(()) => {
                dirty.retain(|at, _| !due.contains(at));
                open.is_written(&due);
                self.backoff.reset();
            }
            Err(ShardError::Conflict(name)) => {
                tracing::debug!(%name, "totals were written by somebody else; they are read again");
                self.books = None;
            }
            // Kept: of a proxy that is gone nobody else has them. If they were written after all, the next is a conflict.
            Err(error) => {
                tracing::warn!(%error, "totals of this month are not written: {error}");
                self.rest();
            }
        }
    }

    /// Forgets what can never count again.
    fn tidy(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.tidied) < TIDY_EVERY {
            return;
        }
        self.tidied = now;
        let there = self.context.fleet.pods_of(&self.gateway);
        let Some(Books { shards, dirty, open, .. }) = &mut self.books else { return };
        let sources = shards.iter().flat_map(|shard| shard.taken.keys());
        let absent: BTreeSet<String> =
            sources.map(|source| pod_of(source).to_owned()).filter(|pod| !there.contains(pod)).collect();
        self.gone_since.retain(|pod, _| absent.contains(pod));
        for pod in absent {
            self.gone_since.entry(pod).or_insert(now);
        }
        let gone_since = &self.gone_since;
        let is_gone = |source: &str| {
            let since = gone_since.get(pod_of(source));
            since.is_some_and(|since| now.saturating_duration_since(*since) >= GONE) && open.of(source).next().is_none()
        };
        let month = Month::of(jiff::Timestamp::now().as_millisecond());
        for (at, shard) in shards.iter_mut().enumerate() {
            if shard.forget(month, is_gone) {
                dirty.entry(at).or_insert(now);
            }
        }
    }

    fn show(&mut self) {
        let Some(Books { shards, .. }) = &self.books else { return };
        let totals = |(of, name): &Thing| {
            let totals: Option<&Totals> = shards[TOTALS.shard_of(name)].totals(*of).get(name);
            totals.copied().unwrap_or_default()
        };
        let shown = self.shown.take(Instant::now(), totals);
        if !shown.is_empty() {
            let shown = shown.into_iter().filter_map(|((of, name), totals)| Some((of, split(&name)?, totals)));
            self.context.facts.add_tallies(&self.gateway, shown);
        }
    }
}

async fn ask(asker: Asker, Question { pod, uid, address, token, ask }: Question) -> Heard {
    let told = asker.tally(address, &token, &ask).await;
    Heard { pod, uid, told }
}

/// Of a source, over all pods: a database belongs to one.
fn full_name(pod: &str, source: &str) -> String {
    format!("{pod}/{source}")
}

fn pod_of(source: &str) -> &str {
    source.split_once('/').map_or(source, |(pod, _)| pod)
}

/// `namespace/name` in two. `None`: what has no namespace, such as the master key.
fn split(name: &str) -> Option<Named> {
    let (namespace, name) = name.split_once('/')?;
    Some((namespace.to_owned(), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_taken_when_all_its_shards_are_written() {
        let mut open = Open::default();
        for (source, number, shards) in [("a", 4, vec![1, 2]), ("a", 5, vec![2]), ("ab", 9, vec![1])] {
            open.waits.insert((source.to_owned(), number), shards.into_iter().collect());
            open.heard.insert(source.to_owned(), number);
        }
        let taken = |open: &Open| ["a", "ab", "b"].map(|source| open.taken(source));
        assert_eq!(taken(&open), [3, 8, 0]);
        open.is_written(&[2].into());
        assert_eq!(taken(&open), [3, 8, 0], "5 is written, and comes after 4");
        open.is_written(&[1].into());
        assert_eq!(taken(&open), [5, 9, 0]);
    }
}
