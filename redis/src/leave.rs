//! I/O: books that are taken away from the server, because another allocator keeps them from now on: from a mark on, the
//! script grants nothing more, so what is read then is all that may be spent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::try_join_all;
use redis::Cmd;
use tollgate_allocator::{Account, Batch, Budget, ReplicaId, Report, Terms};

use crate::carry::report;
use crate::connection::StoreError;
use crate::keys::SHARDS;
use crate::memory::Memory;
use crate::store::Store;

/// Keys that are deleted in one call.
const TOGETHER: usize = 256;

impl Store {
    /// From now on nothing more is granted, and who asks is told so; what replicas have they may spend. Until
    /// [`Store::stay`].
    ///
    /// # Errors
    /// The server is not reached, or refuses; which shards are marked is not known.
    pub async fn leave(&self) -> Result<(), StoreError> {
        self.each_shard(|[life, ..]| redis::cmd("HSET").arg(life).arg("left").arg("1").take()).await.map(drop)
    }

    /// Takes [`Store::leave`] back.
    ///
    /// # Errors
    /// The server is not reached, or refuses; which shards are marked is not known.
    pub async fn stay(&self) -> Result<(), StoreError> {
        self.each_shard(|[life, ..]| redis::cmd("HDEL").arg(life).arg("left").take()).await.map(drop)
    }

    /// Who spoke at this moment or later; Unix milliseconds of the server's clock.
    ///
    /// # Errors
    /// The server is not reached, or refuses.
    pub async fn speakers(&self, since_ms: i64) -> Result<BTreeSet<ReplicaId>, StoreError> {
        let mut speakers = BTreeSet::new();
        for members in self.each_shard(|[_, members, ..]| redis::cmd("HGETALL").arg(members).take()).await? {
            let members: Vec<(String, String)> = redis::from_redis_value(members).map_err(|_| StoreError::Nonsense)?;
            let spoke = |said: &str| said.split(' ').next()?.parse::<i64>().ok();
            let late = members.into_iter().filter(|(_, said)| spoke(said).is_none_or(|at| at >= since_ms));
            speakers.extend(late.map(|(replica, _)| ReplicaId(replica)));
        }
        Ok(speakers)
    }

    /// Has what was lost and not explained charged for good, in budgets that nobody told of since a doubt. `books`: as
    /// they were read. Those without terms stay as they are. `replica`: who says it.
    ///
    /// # Errors
    /// The server did not do all of it.
    pub async fn resolve(
        &self,
        books: &BTreeMap<String, Budget>,
        replica: &ReplicaId,
        terms: &(dyn Fn(&str) -> Option<Terms> + Sync),
        deadline: Duration,
    ) -> Result<(), StoreError> {
        let ids: Vec<&String> = books.keys().collect();
        let mut reports: Vec<Report> = Vec::new();
        for some in ids.chunks(TOGETHER) {
            let read = some.iter().map(|id| async move {
                let key = self.budget_key(id);
                let value = self.connection().query(redis::cmd("HGET").arg(key).arg("u")).await?;
                redis::from_redis_value::<Option<String>>(value).map_err(|_| StoreError::Nonsense)
            });
            for (id, unresolved) in some.iter().zip(try_join_all(read).await?) {
                let of = books[*id].books.first().filter(|_| unresolved.as_deref() == Some("1") && terms(id).is_some());
                // Nothing was used: only that it is told.
                reports.extend(of.map(|of| Report { last: true, ..report(id, of, &Account::default()) }));
            }
        }
        if reports.is_empty() {
            return Ok(());
        }
        let batches = [Batch { replica: replica.clone(), reports }];
        let exchanged = self.exchange(&batches, &mut Memory::default(), &[0; SHARDS], None, terms, deadline).await;
        exchanged.failed.map_or(Ok(()), Err)
    }

    /// Forgets all books of the gateway; marks stay.
    ///
    /// # Errors
    /// The server is not reached, or refuses; what is left is not known.
    pub async fn wipe(&self, budgets: &BTreeSet<String>) -> Result<(), StoreError> {
        // In cluster mode keys of one call must be of one shard.
        let mut keys: [Vec<String>; SHARDS] = Default::default();
        budgets.iter().for_each(|id| keys[crate::keys::shard_of(id)].push(self.budget_key(id)));
        for some in keys.iter().flat_map(|of_shard| of_shard.chunks(TOGETHER)) {
            self.connection().query(redis::cmd("DEL").arg(some)).await?;
        }
        let rest = |[_, members, tight, changed, kept]: [String; 5]| {
            redis::cmd("DEL").arg(&[members, tight, changed, kept]).take()
        };
        self.each_shard(rest).await.map(drop)
    }

    async fn each_shard(&self, command: impl Fn([String; 5]) -> Cmd) -> Result<Vec<redis::Value>, StoreError> {
        let command = &command;
        try_join_all((0..SHARDS).map(|shard| async move {
            let command = command(self.keys().shard(shard));
            self.connection().query(&command).await
        }))
        .await
    }

    fn budget_key(&self, id: &str) -> String {
        self.keys().budget(crate::keys::shard_of(id), id)
    }
}
