//! Decides for one gateway. What arrives together is decided together and written once; an answer leaves only when every
//! grant in it is written. Where somebody else wrote meanwhile, all is read and decided again: reports are totals, so
//! deciding twice changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tollgate_allocator::{Answer, Asker, Budget, ReplicaId, Report, Synced, Terms, Totals};

use super::BUDGETS;
use super::caller::{own_name, pod_of, process_of, stranger};
use super::capacity::Capacity;
use super::terms::AllTerms;
use crate::Context;
use crate::backoff::Backoff;
use crate::bucket::Bucket;
use crate::facts::{Named, SpendFact};
use crate::shards::{ShardError, Shards};

/// A replica's reports, and where the answers go.
pub struct Ask {
    pub replica: ReplicaId,
    pub reports: Vec<Report>,
    pub tell: oneshot::Sender<Vec<Answer>>,
}

/// Asks that are decided together.
const TOGETHER: usize = 256;

/// Writes a second over a while: those that wait meanwhile go with the next. All shards may be written at once.
const WRITES: u32 = 10;
const BURST: u32 = BUDGETS.count as u32;

/// What was used is written this often where no grant carries it.
const LAZY: Duration = Duration::from_secs(3);

/// Writes that are left for grants then.
const FOR_GRANTS: u32 = 6;

/// A pod must be gone so long before its accounts are closed. Safe at any length: closing charges all that was granted.
const GONE: Duration = Duration::from_secs(30);

/// Members of one budget that calls bring. Clients choose their names, and all books must fit into some objects.
const MOST_MEMBERS: usize = 5_000;

/// Tries over conflicts before a batch is left unanswered.
const CONFLICTS: usize = 4;

/// What one gateway's desk remembers.
pub struct Desk {
    context: Context,
    gateway: Named,
    /// `None`: to be read.
    books: Option<Books>,
    terms: AllTerms,
    /// Of which snapshot the terms are.
    snapshot: Option<Arc<tollgate_snapshot::Snapshot>>,
    gone_since: HashMap<String, Instant>,
    /// The last process of each data folder that spoke.
    newest: HashMap<String, u64>,
    writes: Bucket,
    lazy_write: Instant,
    capacity: Capacity,
    /// Something changed that nobody was told to look at.
    unshown: bool,
    backoff: Backoff,
}

struct Books {
    shards: Shards,
    budgets: BTreeMap<String, Budget>,
    /// Shards with something that is not written.
    dirty: BTreeSet<usize>,
    /// There are accounts whose pod is not known: they came from a Redis.
    has_strangers: bool,
}

impl Desk {
    pub fn new(context: Context, gateway: Named) -> Desk {
        let now = Instant::now();
        Desk {
            context,
            gateway,
            books: None,
            terms: AllTerms::default(),
            snapshot: None,
            gone_since: HashMap::new(),
            newest: HashMap::new(),
            writes: Bucket::new(WRITES, BURST, now),
            lazy_write: now + LAZY,
            capacity: Capacity::default(),
            unshown: false,
            backoff: Backoff::of_server(),
        }
    }

    /// Serves until all who could ask are gone.
    pub async fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        loop {
            let wake = self.lazy_write;
            let first = tokio::select! {
                first = asks.recv() => match first {
                    Some(first) => Some(first),
                    None => return,
                },
                () = sleep_until(wake) => None,
            };
            let Some(first) = first else {
                self.housekeeping().await;
                continue;
            };
            let mut together = vec![first];
            while together.len() < TOGETHER
                && let Ok(more) = asks.try_recv()
            {
                together.push(more);
            }
            self.decide(together).await;
            if Instant::now() >= self.lazy_write {
                self.housekeeping().await;
            }
        }
    }

    /// Takes the terms of what was compiled last. False: nothing was published yet.
    fn refresh_terms(&mut self) -> bool {
        let Some(snapshot) = self.context.fleet.snapshot_of(&self.gateway) else { return false };
        if !self.snapshot.as_ref().is_some_and(|known| Arc::ptr_eq(known, &snapshot)) {
            self.terms = AllTerms::of(&snapshot, jiff::Timestamp::now().as_second());
            self.snapshot = Some(snapshot);
        }
        self.terms.end_boosts(jiff::Timestamp::now().as_second());
        true
    }

    async fn decide(&mut self, asks: Vec<Ask>) {
        if !self.refresh_terms() {
            return;
        }
        for _ in 0..CONFLICTS {
            if !self.load().await {
                return;
            }
            let (answers, must_write) = self.sync(&asks);
            match self.write(must_write).await {
                Ok(()) => {
                    self.show(&asks);
                    for (ask, answers) in asks.into_iter().zip(answers) {
                        // Its caller ended: the proxy is gone.
                        let _ = ask.tell.send(answers);
                    }
                    return;
                }
                Err(ShardError::Conflict(name)) => {
                    tracing::debug!(%name, "books were written by somebody else; they are read again");
                    self.books = None;
                }
                Err(error) => {
                    tracing::warn!(%error, "budgets get no allowance: {error}");
                    self.context.metrics.allocation_failed();
                    self.books = None;
                    self.backoff.wait().await;
                    return;
                }
            }
        }
    }

    /// Reads the books if they are not known.
    async fn load(&mut self) -> bool {
        if self.books.is_some() {
            return true;
        }
        let (namespace, name) = &self.gateway;
        let Some(uid) = self.context.world.read().gateway_uid(namespace, name) else { return false };
        let Context { client, metrics, .. } = &self.context;
        match Shards::load::<BTreeMap<String, Budget>>(client, &BUDGETS, &self.gateway, &uid, metrics.clone()).await {
            Ok((shards, found)) => {
                let budgets: BTreeMap<String, Budget> = found.into_iter().flat_map(|(_, budgets)| budgets).collect();
                self.capacity.loaded(&budgets);
                let has_strangers = strangers(&budgets).next().is_some();
                self.books = Some(Books { shards, budgets, dirty: BTreeSet::new(), has_strangers });
                self.backoff.reset();
                true
            }
            Err(error) => {
                tracing::warn!(%error, gateway = %format!("{namespace}/{name}"), "the books of budgets cannot be read: {error}");
                metrics.allocation_failed();
                self.backoff.wait().await;
                false
            }
        }
    }

    /// Answers to each ask, and the shards that must be written before they leave.
    fn sync(&mut self, asks: &[Ask]) -> (Vec<Vec<Answer>>, BTreeSet<usize>) {
        let Some(Books { budgets, dirty, has_strangers, .. }) = &mut self.books else {
            return (Vec::new(), BTreeSet::new());
        };
        let now_ms = jiff::Timestamp::now().as_millisecond();
        self.terms.end_boosts(now_ms.div_euclid(1000));
        let replicas = self.context.fleet.pods_of(&self.gateway).len().max(1);
        let mut must_write = BTreeSet::new();
        let mut answers = Vec::with_capacity(asks.len());
        for Ask { replica, reports, .. } in asks {
            if let Some((folder, process)) = process_of(replica) {
                let newest = self.newest.entry(folder.to_owned()).or_default();
                *newest = process.max(*newest);
            }
            if *has_strangers {
                introduce(budgets, replica, dirty);
                *has_strangers = strangers(budgets).next().is_some();
            }
            let mut told = Vec::with_capacity(reports.len());
            for report in reports {
                let Some(terms) = self.terms.get(&report.budget) else {
                    told.extend(unknown_budget(budgets, report, replica, now_ms, dirty));
                    continue;
                };
                if let Some(of) = self.terms.members_of(&report.budget)
                    && !budgets.contains_key(&report.budget)
                    && members(budgets, of) >= MOST_MEMBERS
                {
                    told.push(no_room(report, terms));
                    continue;
                }
                let shard = BUDGETS.shard_of(&report.budget);
                if !self.capacity.has_room(budgets.get(&report.budget), report, replica) {
                    told.push(no_room(report, terms));
                    continue;
                }
                let budget = budgets.entry(report.budget.clone()).or_default();
                let before = durable(budget, report, replica);
                let Synced { answer, adjusted } = budget.sync(terms, Asker { replica, replicas, now_ms }, report);
                let after = durable(budget, report, replica);
                if after.granted > before.granted || after.closed != before.closed {
                    must_write.insert(shard);
                }
                if after != before {
                    dirty.insert(shard);
                }
                if adjusted > 0 {
                    self.context.metrics.allocation_adjusted();
                    tracing::info!(budget = %report.budget, adjusted, "a proxy that ended proved that it spent less of `{}` than it was charged", report.budget);
                }
                told.push(answer);
            }
            answers.push(told);
        }
        self.recall(asks, &mut answers, now_ms);
        (answers, must_write)
    }

    /// Tells who holds allowance that nobody uses while somebody waits for it.
    fn recall(&self, asks: &[Ask], answers: &mut [Vec<Answer>], now_ms: i64) {
        let Some(Books { budgets, .. }) = &self.books else { return };
        for (id, budget) in budgets.iter().filter(|(_, budget)| budget.is_tight(now_ms)) {
            let Some(terms) = self.terms.get(id) else { continue };
            for (Ask { replica, .. }, told) in asks.iter().zip(answers.iter_mut()) {
                if told.iter().all(|answer| answer.budget != *id) {
                    told.extend(budget.recall(id, terms, replica, now_ms));
                }
            }
        }
    }

    /// Writes shards, not more often than it should.
    async fn write(&mut self, shards: BTreeSet<usize>) -> Result<(), ShardError> {
        if shards.is_empty() {
            return Ok(());
        }
        sleep_until(self.writes.ready_at()).await;
        let Some(Books { shards: store, budgets, dirty, .. }) = &mut self.books else { return Ok(()) };
        let mut of_shards: BTreeMap<usize, BTreeMap<&str, &Budget>> =
            shards.iter().map(|shard| (*shard, BTreeMap::new())).collect();
        for (id, budget) in budgets.iter() {
            if let Some(of_shard) = of_shards.get_mut(&BUDGETS.shard_of(id)) {
                of_shard.insert(id, budget);
            }
        }
        let mut texts = Vec::with_capacity(shards.len());
        for (shard, budgets) in of_shards {
            let text = serde_json::to_string(&budgets).expect("names and numbers are JSON");
            self.capacity.is_written(shard, text.len());
            self.writes.take(Instant::now());
            texts.push((shard, text));
        }
        store.write(texts).await?;
        dirty.retain(|shard| !shards.contains(shard));
        Ok(())
    }

    /// Closes accounts of pods that are gone, forgets old periods, writes what waits.
    async fn housekeeping(&mut self) {
        self.lazy_write = Instant::now() + LAZY;
        if !self.refresh_terms() || !self.load().await {
            return;
        }
        let pods = self.context.fleet.pods_of(&self.gateway);
        let now = Instant::now();
        let Some(Books { budgets, dirty, .. }) = &mut self.books else { return };
        let replicas: BTreeSet<ReplicaId> = budgets
            .values()
            .flat_map(|budget| &budget.books)
            .flat_map(|books| &books.accounts)
            .filter(|(_, account)| !account.closed)
            .map(|(replica, _)| replica.clone())
            .collect();
        self.gone_since.retain(|pod, _| !pods.contains(pod));
        let mut gone = BTreeSet::new();
        for replica in replicas.iter().filter(|replica| !pods.contains(pod_of(replica))) {
            let since = *self.gone_since.entry(pod_of(replica).to_owned()).or_insert(now);
            if since.elapsed() >= GONE {
                gone.insert(replica);
            }
        }
        // A process tells what the one before it used, not what those before that did: nobody else will.
        self.newest.retain(|folder, _| folder.split_once('/').is_some_and(|(pod, _)| pods.contains(pod)));
        let is_past = |replica: &&ReplicaId| {
            process_of(replica).is_some_and(|(folder, process)| self.newest.get(folder) > Some(&process))
        };
        gone.extend(replicas.iter().filter(is_past));
        for (id, budget) in budgets.iter_mut() {
            let shard = BUDGETS.shard_of(id);
            let mut changed = budget.forget_after(self.capacity.keeps(shard), jiff::Timestamp::now().as_second());
            for replica in &gone {
                changed |= budget.close(replica);
            }
            if changed {
                dirty.insert(shard);
            }
        }
        for replica in gone {
            tracing::info!(replica = %replica.0, "a process of proxy `{}` is gone: its budgets are charged what it was granted", pod_of(replica));
        }
        budgets.retain(|_, budget| !budget.books.is_empty() || budget.gone_before > i64::MIN);
        // Those that were not written longest first: what is left of the writes is for grants.
        let room = self.writes.available(Instant::now()).saturating_sub(FOR_GRANTS).max(1) as usize;
        let waiting: BTreeSet<usize> = self.capacity.oldest(dirty).into_iter().take(room).collect();
        self.context.metrics.allocations(budgets.len());
        self.context.facts.set_allocation(&self.gateway, self.capacity.count(budgets));
        self.context.metrics.accounts(&self.gateway, self.capacity.accounts());
        if let Err(error) = self.write(waiting).await {
            if !matches!(error, ShardError::Conflict(_)) {
                tracing::warn!(%error, "the books of budgets are not written: {error}");
                self.context.metrics.allocation_failed();
            }
            self.books = None;
        }
        self.show_all();
    }

    /// Tells conditions and columns what changed.
    fn show(&mut self, asks: &[Ask]) {
        let ids: BTreeSet<&str> =
            asks.iter().flat_map(|ask| &ask.reports).map(|report| report.budget.as_str()).collect();
        self.show_these(ids.into_iter());
    }

    /// Also what changed because time passed.
    fn show_all(&mut self) {
        let ids: Vec<String> = self.books.iter().flat_map(|books| books.budgets.keys().cloned()).collect();
        self.show_these(ids.iter().map(String::as_str));
        if std::mem::take(&mut self.unshown) {
            self.context.facts.show_again();
        }
    }

    fn show_these<'a>(&mut self, ids: impl Iterator<Item = &'a str>) {
        let Some(Books { budgets, .. }) = &self.books else { return };
        let now = jiff::Timestamp::now().as_second();
        let spent = ids.filter_map(|id| {
            let (budget, terms) = (budgets.get(id)?, self.terms.get(id)?);
            let Terms { limit, ref period, .. } = **terms;
            let Totals { used, charged, held, refused } = budget.totals(terms, now);
            let period_starts_at = period.span(now).starts_at;
            Some((id.to_owned(), SpendFact { used, charged, held, refused, limit, period_starts_at }))
        });
        self.unshown |= self.context.facts.set_spend(&self.gateway, spent);
    }
}

/// The part of an account that must not be lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Durable {
    granted: i64,
    returned: i64,
    used: i64,
    closed: bool,
}

fn durable(budget: &Budget, report: &Report, replica: &ReplicaId) -> Durable {
    let books = budget.books.iter().find(|books| {
        books.unit == report.unit
            && books.reset_token == report.reset_token
            && books.span.starts_at == report.span.starts_at
            && books.span.ends_at == report.span.ends_at
    });
    books.and_then(|books| books.accounts.get(replica)).map_or_else(Durable::default, |account| Durable {
        granted: account.granted,
        returned: account.returned,
        used: account.used,
        closed: account.closed,
    })
}

/// Accounts whose pod is not known.
fn strangers(budgets: &BTreeMap<String, Budget>) -> impl Iterator<Item = &ReplicaId> {
    let accounts = budgets.values().flat_map(|budget| &budget.books).flat_map(|books| books.accounts.keys());
    accounts.filter(|replica| pod_of(replica).is_empty())
}

/// The pod of a replica is known now: its accounts get its name.
fn introduce(budgets: &mut BTreeMap<String, Budget>, replica: &ReplicaId, dirty: &mut BTreeSet<usize>) {
    let before = stranger(&own_name(replica));
    for (id, budget) in budgets.iter_mut() {
        for books in &mut budget.books {
            if let Some(account) = books.accounts.remove(&before) {
                books.accounts.insert(replica.clone(), account);
                dirty.insert(BUDGETS.shard_of(id));
            }
        }
    }
}

/// How many members of a budget have books.
fn members(budgets: &BTreeMap<String, Budget>, of: &str) -> usize {
    let first = format!("{of}/");
    // `0` follows `/`.
    budgets.range(first..format!("{of}0")).count()
}

/// Nothing is granted to a member that there is no room for: as if others had spent its limit.
fn no_room(report: &Report, terms: &Terms) -> Answer {
    Answer {
        budget: report.budget.clone(),
        span: report.span.clone(),
        granted: 0,
        limit: terms.limit,
        used_elsewhere: terms.limit,
        charged_elsewhere: terms.limit,
        tight: false,
        closed: false,
        unknown: false,
    }
}

/// A budget that the configuration does not have any more, or not yet: what was used is kept, nothing is granted. An
/// ended process must not tell its last word for ever.
fn unknown_budget(
    budgets: &mut BTreeMap<String, Budget>,
    report: &Report,
    replica: &ReplicaId,
    now_ms: i64,
    dirty: &mut BTreeSet<usize>,
) -> Option<Answer> {
    let terms = Terms {
        unit: report.unit,
        limit: 0,
        mode: tollgate_allocator::Mode::Hard,
        period: tollgate_allocator::Period::Lifetime,
        reset_token: report.reset_token.clone(),
    };
    let asker = Asker { replica, replicas: 1, now_ms };
    let answer = match budgets.get_mut(&report.budget) {
        Some(budget) => {
            dirty.insert(BUDGETS.shard_of(&report.budget));
            budget.sync(&terms, asker, report).answer
        }
        None => Budget::default().sync(&terms, asker, report).answer,
    };
    Some(Answer { unknown: true, ..answer })
}
