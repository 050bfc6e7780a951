//! I/O: a gateway whose budgets are counted in a Redis: the operator hands out nothing, and reads what was spent, for
//! statuses. Books that it kept itself before are brought there first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tollgate_allocator::{Budget, Terms};
use tollgate_redis::{Address, GatewayKeys, Store, StoreError};
use tollgate_snapshot::Snapshot;

use super::BUDGETS;
use super::caller::own_name;
use super::terms::AllTerms;
use crate::Context;
use crate::backoff::Backoff;
use crate::facts::{Named, SpendFact};
use crate::shards::{ShardError, Shards};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// What was told so shortly before a look is looked at again: clocks of a cluster's nodes differ. Milliseconds.
const OVERLAP_MS: i64 = 10_000;

/// Longest wait for all answers of a look.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest wait for an answer about books that are brought.
const CARRY: Duration = Duration::from_secs(5);

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum SpendError {
    #[error("the Secret with the URL of Redis is not there, or has no such entry")]
    NoUrl,
    #[error("the URL of Redis: {0}")]
    Address(#[from] tollgate_redis::AddressError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Redis does not answer")]
    Late,
    #[error("the books that were kept before: {0}")]
    Books(#[from] ShardError),
}

/// What is known of one gateway.
pub struct Reader {
    context: Context,
    gateway: Named,
    terms: AllTerms,
    snapshot: Option<Arc<Snapshot>>,
    store: Option<(Address, Store)>,
    budgets: BTreeMap<String, Budget>,
    /// What the operator kept before this gateway had a Redis, and is not there yet; `None`: to be read.
    before: Option<(Shards, BTreeMap<String, Budget>)>,
    /// The server's clock at the last look; `None`: everything is to be read.
    looked_at_ms: Option<i64>,
}

impl Reader {
    pub fn new(context: Context, gateway: Named) -> Reader {
        Reader {
            context,
            gateway,
            terms: AllTerms::default(),
            snapshot: None,
            store: None,
            budgets: BTreeMap::new(),
            before: None,
            looked_at_ms: None,
        }
    }

    /// Until it is cancelled.
    pub async fn run(mut self) {
        let mut backoff = Backoff::of_server();
        loop {
            let looked = tokio::time::timeout(PATIENCE, self.look()).await;
            match looked.unwrap_or(Err(SpendError::Late)) {
                Ok(()) => {
                    backoff.reset();
                    tokio::time::sleep(LOOK).await;
                }
                Err(error) => {
                    let (namespace, name) = &self.gateway;
                    tracing::warn!(%error, "what was spent in `{namespace}/{name}` cannot be read: {error}");
                    self.context.metrics.allocation_failed();
                    self.store = None;
                    self.before = None;
                    backoff.wait().await;
                }
            }
        }
    }

    async fn look(&mut self) -> Result<(), SpendError> {
        let Some(snapshot) = self.context.fleet.snapshot_of(&self.gateway) else { return Ok(()) };
        let address = address_of(&self.context, &snapshot)?;
        if !self.snapshot.as_ref().is_some_and(|known| Arc::ptr_eq(known, &snapshot)) {
            self.terms = AllTerms::of(&snapshot);
            self.snapshot = Some(snapshot.clone());
            // Budgets that are new here may have been used before.
            self.looked_at_ms = None;
        }
        if self.store.as_ref().is_none_or(|(known, _)| *known != address) {
            let store = open(&address, &self.gateway).await?;
            self.store = Some((address, store));
            self.looked_at_ms = None;
        }
        self.carry().await?;
        let Some((_, store)) = &self.store else { return Ok(()) };
        let since = self.looked_at_ms.map(|at| at - OVERLAP_MS);
        let (mut changed, now_ms) = store.changed_since(since.unwrap_or(0)).await?;
        if since.is_none() {
            // Members that calls brought are only among those that changed.
            changed.extend(snapshot.budgets.iter().map(|budget| budget.id.to_string()));
        }
        self.budgets.extend(store.books(changed.iter().map(String::as_str)).await?);
        self.looked_at_ms = Some(now_ms);
        self.context.metrics.allocations(self.budgets.len());
        self.show(now_ms.div_euclid(1000));
        Ok(())
    }

    /// Brings to Redis what was spent while the operator handed out. Where it is cut off in between, it is done again,
    /// which charges nothing twice.
    async fn carry(&mut self) -> Result<(), SpendError> {
        let (Some((_, store)), (namespace, name)) = (&self.store, &self.gateway) else { return Ok(()) };
        if self.before.is_none() {
            let Some(uid) = self.context.world.read().gateway_uid(namespace, name) else { return Ok(()) };
            let Context { client, metrics, .. } = &self.context;
            let (shards, found) = Shards::load(client, &BUDGETS, &self.gateway, &uid, metrics.clone()).await?;
            let found: Vec<(usize, BTreeMap<String, Budget>)> = found;
            self.before = Some((shards, found.into_iter().flat_map(|(_, budgets)| budgets).collect()));
        }
        let Some((shards, budgets)) = &mut self.before else { return Ok(()) };
        let terms = &self.terms;
        // Budgets that nobody has now are kept: they may come back.
        if !budgets.keys().any(|id| terms.get(id).is_some()) {
            return Ok(());
        }
        let of = |id: &str| terms.get(id).map(|terms| Terms::clone(terms));
        let carried = store.carry(&by_own_names(budgets), &of, CARRY).await?;
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
            let terms: &Terms = self.terms.get(id)?;
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
        if self.context.facts.set_spend(&self.gateway, spent) {
            self.context.facts.show_again();
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

/// Where the server of a gateway is, out of the Secret that it names.
pub fn address_of(context: &Context, snapshot: &Snapshot) -> Result<Address, SpendError> {
    let id = snapshot.gateway.redis.as_deref().ok_or(SpendError::NoUrl)?;
    let mut parts = id.splitn(3, '/');
    let (Some(namespace), Some(name), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(SpendError::NoUrl);
    };
    let secrets = context.secrets.compiled();
    let url = secrets.get(namespace, name).and_then(|secret| secret.data.get(key)).ok_or(SpendError::NoUrl)?;
    Ok(Address::parse(url)?)
}

/// The books of a gateway there.
pub async fn open(address: &Address, (namespace, name): &Named) -> Result<Store, StoreError> {
    Store::open(address, GatewayKeys::new(&format!("{namespace}/{name}"))).await
}

/// Gateways of these that count elsewhere.
pub fn elsewhere<'a>(context: &Context, gateways: impl Iterator<Item = &'a Named>) -> BTreeSet<Named> {
    let counts =
        |gateway: &Named| context.fleet.snapshot_of(gateway).is_some_and(|snapshot| snapshot.gateway.redis.is_some());
    gateways.filter(|gateway| counts(gateway)).cloned().collect()
}
