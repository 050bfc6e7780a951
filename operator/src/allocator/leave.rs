//! I/O: the books of a gateway that has no Redis any more come back from there. Until every proxy that counts in Redis was
//! started again, all go on through it, the others over a [`Bridge`]: nobody is refused for it, and nothing counts twice.
//! Then the script grants nothing more, the books are written to ConfigMaps, and the operator hands out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::mpsc;
use tollgate_allocator::{Account, Books, Budget, ReplicaId, Span};
use tollgate_redis::{Memory, SHARDS, StoreError};

use super::BUDGETS;
use super::bridge::{Bridge, Crossed};
use super::caller::stranger;
use super::capacity::OVERFULL;
use super::desk::Ask;
use super::link::{Link, LinkError, parts_of};
use super::place::Place;
use super::spend::{Reader, SpendError};
use super::terms::AllTerms;
use crate::Context;
use crate::backoff::Backoff;
use crate::facts::{AllocationFact, Named};
use crate::names::ABANDON_ANNOTATION;
use crate::shards::{ShardError, Shards};

/// Between two looks whether a proxy still counts there.
const LOOK: Duration = Duration::from_secs(1);

/// Who has not spoken for so long there does not count there any more. If it does after all, it gets nothing.
const SILENT_MS: i64 = 10_000;

/// Longest wait for all of a step.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// It is told when so many looks failed, one after the other.
const FAILURES: u32 = 2;

/// As the operator calls itself there.
const OPERATOR: &str = "operator";

/// Why the books are not here.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    #[error(transparent)]
    Spend(#[from] SpendError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Books(#[from] ShardError),
    #[error("Redis does not answer")]
    Late,
    #[error("{0} bytes of books fall to one ConfigMap, which is too much: keep spec.stores.redis")]
    TooLarge(usize),
}

/// Brings the books of one gateway back.
pub struct Leaver<'a> {
    reader: Reader,
    place: &'a mut Place,
    crossed: Crossed,
    memory: Memory,
    told: [i64; SHARDS],
}

/// Until the books are in ConfigMaps. Asks are answered meanwhile. `place`: of a gateway whose books are in a Redis.
/// `wants_redis`: it has one again; then what was begun is ended, and nothing is begun. False: nobody asks any more.
///
/// # Errors
/// The books were not taken: `place` is to be read again.
pub async fn leave(
    context: &Context,
    gateway: &Named,
    place: &mut Place,
    wants_redis: bool,
    asks: &mut mpsc::Receiver<Ask>,
) -> Result<bool, LeaveError> {
    let Some(secret) = place.redis().map(str::to_owned) else { return Ok(true) };
    let (namespace, name) = gateway;
    let link = || Link::former(context.clone(), gateway.clone(), &secret);
    let crossed = Crossed::default();
    let mut bridge = Bridge::new(link(), crossed.clone());
    let reader = Reader::new(link(), None);
    let mut leaver = Leaver { reader, place, crossed, memory: Memory::default(), told: [0; SHARDS] };
    let mut backoff = Backoff::of_server();
    let mut failures = 0;
    loop {
        // What was begun is ended; nobody counts there meanwhile.
        let is_left = leaver.place.is_left();
        if !is_left && wants_redis {
            return Ok(true);
        }
        if (is_left || !leaver.has_redis()) && leaver.place.is_to_forget(says_forget(context, gateway, &secret)).await?
        {
            leaver.place.come_home().await?;
            tracing::warn!(
                "what was spent in Redis by `{namespace}/{name}` is forgotten, as `{ABANDON_ANNOTATION}` says"
            );
            return Ok(true);
        }
        let mut pause = LOOK;
        let is_quiet = if is_left {
            Ok(true)
        } else {
            tokio::select! {
                looked = tokio::time::timeout(PATIENCE, leaver.is_quiet()) => looked.unwrap_or(Err(LeaveError::Late)),
                () = bridge.run(asks) => return Ok(false),
            }
        };
        match is_quiet {
            Ok(is_quiet) => {
                failures = 0;
                backoff.reset();
                let taken = tokio::time::timeout(PATIENCE, async { Ok(is_quiet && leaver.take().await?) }).await;
                if taken.unwrap_or(Err(LeaveError::Late))? {
                    tracing::info!("the books of `{namespace}/{name}` are back from Redis");
                    return Ok(true);
                }
                say_where(context, gateway, false);
            }
            Err(error) => {
                failures += 1;
                failed(context, gateway, &error, failures >= FAILURES);
                leaver.reader.failed();
                pause = backoff.next_delay();
            }
        }
        if is_left {
            tokio::time::sleep(pause).await;
        } else {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = bridge.run(asks) => return Ok(false),
            }
        }
    }
}

/// For people. `is_unreached`: it is worth telling.
pub fn failed(context: &Context, gateway: &Named, error: &LeaveError, is_unreached: bool) {
    let (namespace, name) = gateway;
    tracing::warn!(%error, "what was spent in `{namespace}/{name}` is still in Redis: {error}");
    context.metrics.allocation_failed();
    if is_unreached {
        say_where(context, gateway, true);
    }
}

/// That the books are in Redis still.
fn say_where(context: &Context, gateway: &Named, is_unreached: bool) {
    let fact = AllocationFact { is_elsewhere: true, is_unreached, ..AllocationFact::default() };
    context.facts.set_allocation(gateway, fact);
}

impl Leaver<'_> {
    /// Whether no proxy counts there by itself, and all that was told there is there.
    async fn is_quiet(&mut self) -> Result<bool, LeaveError> {
        if !self.reader.look().await? || self.has_redis() {
            return Ok(false);
        }
        let Some((now_ms, _)) = self.sign().await? else { return Ok(false) };
        let Some((store, _)) = self.reader.link.get() else { return Ok(false) };
        let speakers = store.speakers(now_ms - SILENT_MS).await?;
        Ok(speakers.iter().all(|replica| replica.0 == OPERATOR || self.crossed.contains(replica)))
    }

    /// By now.
    fn has_redis(&self) -> bool {
        let Link { context, gateway, .. } = &self.reader.link;
        let is_compiled = context.fleet.snapshot_of(gateway).is_none_or(|snapshot| snapshot.gateway.redis.is_some());
        let world = context.world.read();
        let is_written =
            world.gateway(&gateway.0, &gateway.1).is_none_or(|(object, _)| object.spec.stores.redis.is_some());
        is_compiled || is_written
    }

    /// The server's clock and the epochs of all shards; `None`: it may have lost something, and waits for who knows it.
    async fn sign(&mut self) -> Result<Option<(i64, [i64; SHARDS])>, LeaveError> {
        let Some((store, _)) = self.reader.link.get() else { return Ok(None) };
        let (terms, operator) = (self.reader.link.terms_of(), ReplicaId(OPERATOR.to_owned()));
        let exchanged = store.exchange(&[], &mut self.memory, &self.told, Some(&operator), &terms, DEADLINE).await;
        if let Some(error) = exchanged.failed {
            return Err(error.into());
        }
        let mut now_ms = 0;
        for (shard, header) in &exchanged.headers {
            // It has nothing to tell.
            self.told[*shard] = header.epoch;
            now_ms = now_ms.max(header.now_ms);
        }
        let has_doubt = exchanged.headers.iter().any(|(_, header)| header.doubt);
        Ok(Some((now_ms, self.told)).filter(|_| !has_doubt))
    }

    /// Takes the books. False: not now. Where it is cut off in between, it is done again.
    async fn take(&mut self) -> Result<bool, LeaveError> {
        if self.reader.link.follow().await?.is_none() {
            return Ok(false);
        }
        let Some((_, epochs)) = self.sign().await? else { return Ok(false) };
        let Some((store, snapshot)) = self.reader.link.get() else { return Ok(false) };
        store.leave().await?;
        let mut ids = store.kept().await?;
        ids.extend(snapshot.budgets.iter().map(|budget| budget.id.to_string()));
        let books = store.books(ids.iter().map(String::as_str)).await?;
        store.resolve(&books, &ReplicaId(OPERATOR.to_owned()), &self.reader.link.terms_of(), DEADLINE).await?;
        // What was resolved is in them now; from the mark on they only fall.
        let mut books = store.books(ids.iter().map(String::as_str)).await?;
        for (id, budget) in &mut books {
            come_home(id, budget, &self.reader.link.terms);
        }
        if self.sign().await?.is_none_or(|(_, now)| now != epochs) {
            // It lost something meanwhile, maybe the mark.
            return Ok(false);
        }
        let Link { context, gateway, .. } = &self.reader.link;
        let Some(uid) = context.world.read().gateway_uid(&gateway.0, &gateway.1) else { return Ok(false) };
        let (mut shards, found): (_, Vec<(usize, BTreeMap<String, Budget>)>) =
            Shards::load(&context.client, &BUDGETS, gateway, &uid, context.metrics.clone()).await?;
        let here = found.into_iter().flat_map(|(_, budgets)| budgets).collect();
        let texts = merged(here, books, self.place.is_left());
        let Some((store, _)) = self.reader.link.get() else { return Ok(false) };
        if let Some(most) = texts.iter().map(|(_, text)| text.len()).max().filter(|most| *most > OVERFULL) {
            if !self.place.is_left() {
                store.stay().await?;
            }
            return Err(LeaveError::TooLarge(most));
        }
        // From here on nobody may say that they stay.
        self.place.leave().await?;
        shards.write(texts).await?;
        store.wipe(&ids).await?;
        self.place.come_home().await?;
        Ok(true)
    }
}

/// Whether people say that what is in a Redis is to be forgotten: the annotation has the name of its Secret. `secret`:
/// `namespace/name/entry`.
pub fn says_forget(context: &Context, (namespace, name): &Named, secret: &str) -> bool {
    let world = context.world.read();
    let object = world.gateway(namespace, name).map(|(object, _)| object);
    let said = object.and_then(|object| object.meta.annotations.get(ABANDON_ANNOTATION));
    said.zip(parts_of(secret)).is_some_and(|(said, (_, name, _))| said == name)
}

/// Makes of a budget as Redis has it one of the operator's: names of replicas have no pod before the first `/` until they
/// speak, and periods have their labels.
fn come_home(id: &str, budget: &mut Budget, terms: &AllTerms) {
    for books in &mut budget.books {
        let Books { span, accounts, .. } = books;
        if let Some(terms) = terms.get(id) {
            let known = terms.period.span(span.starts_at);
            if (known.kind, known.starts_at, known.ends_at) == (span.kind, span.starts_at, span.ends_at) {
                *span = Span { counts_until: span.counts_until, ..known };
            }
        }
        let taken = std::mem::take(accounts);
        let counts = |account: &Account| !account.closed || account.charged() > 0;
        let taken = taken.into_iter().filter(|(_, account)| counts(account));
        accounts.extend(taken.map(|(replica, account)| (stranger(&replica), account)));
    }
}

/// The texts of all shards, out of what is here and what comes. `is_again`: what is here of what comes was written by a
/// try before; else what comes knows it all.
fn merged(here: BTreeMap<String, Budget>, coming: BTreeMap<String, Budget>, is_again: bool) -> Vec<(usize, String)> {
    let (mut all, over) = if is_again { (coming, here) } else { (here, coming) };
    all.extend(over);
    let shards: BTreeSet<usize> = all.keys().map(|id| BUDGETS.shard_of(id)).collect();
    let text = |shard: usize| {
        let of_shard: BTreeMap<&String, &Budget> = all.iter().filter(|(id, _)| BUDGETS.shard_of(id) == shard).collect();
        serde_json::to_string(&of_shard).expect("names and numbers are JSON")
    };
    shards.into_iter().map(|shard| (shard, text(shard))).collect()
}

#[cfg(test)]
mod tests {
    use tollgate_allocator::{Asker, Mode, Period, Report, Terms, Unit};
    use tollgate_snapshot::Snapshot;
    use tollgate_snapshot::model;

    use super::*;

    const ID: &str = "n/Budget/b";

    fn terms() -> Terms {
        Terms { unit: Unit::NanoUsd, limit: 1_000, mode: Mode::Hard, period: Period::Lifetime, reset_token: None }
    }

    fn budget_with(accounts: &[(&str, i64, bool)]) -> Budget {
        let mut budget = Budget::default();
        for (name, granted, is_over) in accounts {
            let replica = ReplicaId((*name).to_owned());
            let report = Report {
                budget: ID.to_owned(),
                unit: Unit::NanoUsd,
                reset_token: None,
                span: Span { label: String::new(), ..terms().period.span(0) },
                returned: 0,
                used: 0,
                held: 0,
                wanted: *granted,
                refused: 0,
                last: *is_over,
            };
            budget.sync(&terms(), Asker { replica: &replica, replicas: 500, now_ms: 0 }, &report);
        }
        budget
    }

    fn names(budget: &Budget) -> Vec<&str> {
        budget.books.iter().flat_map(|books| books.accounts.keys()).map(|replica| replica.0.as_str()).collect()
    }

    #[test]
    fn replicas_have_no_pod_until_they_speak_and_what_is_nothing_goes() {
        let one = model::Budget { id: ID.into(), limit: 1_000, ..model::Budget::default() };
        let all = AllTerms::of(&Snapshot { budgets: vec![one], ..Snapshot::default() }, 0);
        let mut budget = budget_with(&[("folder.1", 300, false), ("operator", 0, true)]);
        let before = budget.totals(&terms(), 0);
        come_home(ID, &mut budget, &all);
        assert_eq!(names(&budget), ["/folder.1"]);
        assert_eq!(budget.totals(&terms(), 0), before);
    }

    #[test]
    fn what_comes_knows_it_all_unless_a_try_before_wrote_it() {
        let here = || {
            BTreeMap::from([
                (ID.to_owned(), budget_with(&[("p/a.1", 100, false)])),
                ("n/Budget/kept".to_owned(), Budget::default()),
            ])
        };
        let coming = || BTreeMap::from([(ID.to_owned(), budget_with(&[("/a.1", 200, false)]))]);
        let read = |texts: Vec<(usize, String)>| -> BTreeMap<String, Budget> {
            texts
                .into_iter()
                .flat_map(|(_, text)| serde_json::from_str::<BTreeMap<String, Budget>>(&text).unwrap())
                .collect()
        };
        for (is_again, expected) in [(false, "/a.1"), (true, "p/a.1")] {
            let texts = merged(here(), coming(), is_again);
            assert!(texts.iter().all(|(shard, text)| text.contains(if *shard == BUDGETS.shard_of(ID) {
                ID
            } else {
                "kept"
            })));
            let all = read(texts);
            assert_eq!(all.len(), 2, "nothing is forgotten");
            assert_eq!(names(&all[ID]), [expected]);
        }
        // A part of them was forgotten in Redis when that try ended.
        assert_eq!(names(&read(merged(here(), BTreeMap::new(), true))[ID]), ["p/a.1"]);
    }
}
