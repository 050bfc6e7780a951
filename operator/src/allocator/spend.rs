//! I/O: a gateway whose budgets are counted in a Redis: the operator hands out nothing, and reads what was spent, for
//! statuses. Books that it kept itself before are brought there first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tollgate_allocator::{Budget, Terms};
use tollgate_redis::StoreError;

use super::BUDGETS;
use super::caller::own_name;
use super::leave::says_forget;
use super::link::{Link, LinkError};
use super::place::Place;
use crate::Context;
use crate::backoff::Backoff;
use crate::facts::{Named, SpendFact};
use crate::shards::{ShardError, Shards};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// What was told so shortly before a look is looked at again: clocks of a cluster's nodes differ. Milliseconds.
const OVERLAP_MS: i64 = 10_000;

/// Budgets that are read in one look: some tenths of a second.
const AT_ONCE: usize = 4_096;

/// Longest wait for all answers of a look.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest wait for an answer about books that are brought.
const CARRY: Duration = Duration::from_secs(5);

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum SpendError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Redis does not answer")]
    Late,
    #[error("the books that were kept before: {0}")]
    Books(#[from] ShardError),
    #[error("where the books are: {0}")]
    Place(ShardError),
}

/// What is known of one gateway.
pub struct Reader {
    pub link: Link,
    /// That the books are in the server is to be written here; `None`: they are there, and leave it.
    place: Option<Place>,
    /// Whether the server takes this gateway's books.
    stays: bool,
    budgets: BTreeMap<String, Budget>,
    /// Still to be read.
    unread: BTreeSet<String>,
    /// What the operator kept before this gateway had a Redis, and is not there yet; `None`: to be read.
    before: Option<(Shards, BTreeMap<String, Budget>)>,
    /// The server's clock at the last look; `None`: everything is to be read.
    looked_at_ms: Option<i64>,
}

impl Reader {
    pub fn new(link: Link, place: Option<Place>) -> Reader {
        let (budgets, unread) = Default::default();
        Reader { link, place, stays: false, budgets, unread, before: None, looked_at_ms: None }
    }

    /// Until it is cancelled, or somebody else wrote where the books are.
    pub async fn run(mut self) -> ShardError {
        let mut backoff = Backoff::of_server();
        loop {
            let looked = tokio::time::timeout(PATIENCE, self.look()).await;
            match looked.unwrap_or(Err(SpendError::Late)) {
                Ok(_) => {
                    backoff.reset();
                    if self.unread.is_empty() {
                        tokio::time::sleep(LOOK).await;
                    }
                }
                Err(SpendError::Place(error)) => return error,
                Err(error) => {
                    let (namespace, name) = &self.link.gateway;
                    tracing::warn!(%error, "what was spent in `{namespace}/{name}` cannot be read: {error}");
                    self.link.context.metrics.allocation_failed();
                    self.failed();
                    backoff.wait().await;
                }
            }
        }
    }

    /// What is known may be old.
    pub fn failed(&mut self) {
        self.link.forget_store();
        self.before = None;
        // The server may have forgotten something since.
        self.looked_at_ms = None;
        self.stays = false;
    }

    /// Brings what is to be brought, and reads what changed. False: nothing is compiled yet.
    ///
    /// # Errors
    /// Not all of it was done: [`Reader::failed`].
    pub async fn look(&mut self) -> Result<bool, SpendError> {
        if let Some(place) = &mut self.place
            && let Some(snapshot) = self.link.context.fleet.snapshot_of(&self.link.gateway)
            && let Some(redis) = &snapshot.gateway.redis
        {
            // Also where the operator does not reach it: proxies may.
            let says_forget = says_forget(&self.link.context, &self.link.gateway, redis);
            place.enter(redis, says_forget).await.map_err(SpendError::Place)?;
        }
        let Some(is_new) = self.link.follow().await? else { return Ok(false) };
        self.carry().await?;
        let Some((store, snapshot)) = self.link.get() else { return Ok(false) };
        if self.place.is_some() && (is_new || !self.stays) {
            // Books that left it before are here again.
            store.stay().await?;
            self.stays = true;
        }
        let since = self.looked_at_ms.map(|at| at - OVERLAP_MS);
        let (changed, now_ms) = store.changed_since(since.unwrap_or(0)).await?;
        self.unread.extend(changed);
        if is_new || since.is_none() {
            // Budgets that are new here may have been used before, and nobody may have told of members for long.
            let mut all = store.kept().await?;
            all.extend(snapshot.budgets.iter().map(|budget| budget.id.to_string()));
            all.retain(|id| since.is_none() || !self.budgets.contains_key(id));
            self.unread.extend(all);
        }
        self.looked_at_ms = Some(now_ms);
        let some: BTreeSet<String> = self.unread.iter().take(AT_ONCE).cloned().collect();
        self.budgets.extend(store.books(some.iter().map(String::as_str)).await?);
        self.unread.retain(|id| !some.contains(id));
        let now = now_ms.div_euclid(1000);
        self.budgets.retain(|_, budget| {
            budget.forget(now);
            !budget.books.is_empty()
        });
        self.link.context.metrics.allocations(self.budgets.len());
        self.show(now);
        Ok(true)
    }

    /// Brings to Redis what was spent while the operator handed out. Where it is cut off in between, it is done again,
    /// which charges nothing twice.
    async fn carry(&mut self) -> Result<(), SpendError> {
        let Link { context, gateway, terms, .. } = &self.link;
        let (Some((store, _)), (namespace, name)) = (self.link.get(), gateway) else { return Ok(()) };
        if self.before.is_none() {
            let Some(uid) = context.world.read().gateway_uid(namespace, name) else { return Ok(()) };
            let Context { client, metrics, .. } = context;
            let (shards, found) = Shards::load(client, &BUDGETS, gateway, &uid, metrics.clone()).await?;
            let found: Vec<(usize, BTreeMap<String, Budget>)> = found;
            self.before = Some((shards, found.into_iter().flat_map(|(_, budgets)| budgets).collect()));
        }
        let Some((shards, budgets)) = &mut self.before else { return Ok(()) };
        // Budgets that nobody has now are kept: they may come back.
        if !budgets.keys().any(|id| terms.get(id).is_some()) {
            return Ok(());
        }
        let carried = store.carry(&by_own_names(budgets), &self.link.terms_of(), CARRY).await?;
        budgets.retain(|id, _| !carried.contains(id));
        let written: BTreeSet<usize> = carried.iter().map(|id| BUDGETS.shard_of(id)).collect();
        let text = |shard: usize| {
            let left: BTreeMap<&String, &Budget> =
                budgets.iter().filter(|(id, _)| BUDGETS.shard_of(id) == shard).collect();
            serde_json::to_string(&left).expect("names and numbers are JSON")
        };
        shards.write(written.into_iter().map(|shard| (shard, text(shard))).collect()).await?;
        let count = carried.len();
        tracing::info!(count, "what was spent of {count} budgets of `{namespace}/{name}` was brought to Redis");
        Ok(())
    }

    /// All of them: what counts changes with time too.
    fn show(&self, now: i64) {
        let spent = self.budgets.iter().filter_map(|(id, budget)| {
            let terms: &Terms = self.link.terms.get(id)?;
            let totals = budget.totals(terms, now);
            let fact = SpendFact {
                used: totals.used,
                charged: totals.charged,
                held: totals.held,
                refused: totals.refused,
                limit: terms.limit,
                period_starts_at: terms.period.span(now).starts_at,
            };
            Some((id.clone(), fact))
        });
        let Link { context, gateway, .. } = &self.link;
        if context.facts.set_spend(gateway, spent) {
            context.facts.show_again();
        }
    }
}

/// With the names by which replicas call themselves: there they speak for themselves.
fn by_own_names(budgets: &BTreeMap<String, Budget>) -> BTreeMap<String, Budget> {
    let mut budgets = budgets.clone();
    for books in budgets.values_mut().flat_map(|budget| &mut budget.books) {
        let accounts = std::mem::take(&mut books.accounts);
        books.accounts = accounts.into_iter().map(|(replica, account)| (own_name(&replica), account)).collect();
    }
    budgets
}

/// Gateways of these that count elsewhere.
pub fn elsewhere<'a>(context: &Context, gateways: impl Iterator<Item = &'a Named>) -> BTreeSet<Named> {
    let counts =
        |gateway: &Named| context.fleet.snapshot_of(gateway).is_some_and(|snapshot| snapshot.gateway.redis.is_some());
    gateways.filter(|gateway| counts(gateway)).cloned().collect()
}
