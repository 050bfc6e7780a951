//! I/O: the books as they are in the server, for those who show them. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;
use tollgate_allocator::{Account, Books, Budget, Kind, ReplicaId, Span, Unit};

use crate::connection::StoreError;
use crate::keys::{SHARDS, shard_of};
use crate::store::Store;

/// Budgets read at once.
const TOGETHER: usize = 256;

impl Store {
    /// The books of these budgets, by id; those that nobody has used are not among them.
    ///
    /// # Errors
    /// The server is not reached, or refuses.
    pub async fn books<'a>(
        &self,
        budgets: impl IntoIterator<Item = &'a str>,
    ) -> Result<BTreeMap<String, Budget>, StoreError> {
        let budgets: Vec<&str> = budgets.into_iter().collect();
        let mut all = BTreeMap::new();
        for some in budgets.chunks(TOGETHER) {
            let read = some.iter().map(|id| async move {
                let key = self.keys().budget(shard_of(id), id);
                let value = self.connection().query(redis::cmd("HGETALL").arg(key)).await?;
                let fields: Vec<(String, String)> = redis::from_redis_value(value).map_err(|_| StoreError::Nonsense)?;
                Ok::<_, StoreError>(((*id).to_owned(), budget(fields)))
            });
            let read = try_join_all(read).await?;
            all.extend(read.into_iter().filter_map(|(id, budget)| Some((id, budget?))));
        }
        Ok(all)
    }

    /// Budgets that were told of at a moment or later, and the server's clock. Unix milliseconds.
    ///
    /// # Errors
    /// The server is not reached, or refuses.
    pub async fn changed_since(&self, at_ms: i64) -> Result<(BTreeSet<String>, i64), StoreError> {
        let value = self.connection().query(&redis::cmd("TIME")).await?;
        let (seconds, micros): (i64, i64) = redis::from_redis_value(value).map_err(|_| StoreError::Nonsense)?;
        let changed = (0..SHARDS).map(|shard| async move {
            let [.., changed, _] = self.keys().shard(shard);
            let mut command = redis::cmd("ZRANGEBYSCORE");
            let value = self.connection().query(command.arg(changed).arg(at_ms).arg("+inf")).await?;
            redis::from_redis_value::<BTreeSet<String>>(value).map_err(|_| StoreError::Nonsense)
        });
        let changed = try_join_all(changed).await?;
        Ok((changed.into_iter().flatten().collect(), seconds * 1000 + micros / 1000))
    }

    /// Budgets that have books: also those that were not told of for long, and members that calls brought.
    ///
    /// # Errors
    /// The server is not reached, or refuses.
    pub async fn kept(&self) -> Result<BTreeSet<String>, StoreError> {
        let kept = (0..SHARDS).map(|shard| async move {
            let [.., kept] = self.keys().shard(shard);
            let value = self.connection().query(redis::cmd("ZRANGE").arg(kept).arg(0).arg(-1)).await?;
            redis::from_redis_value::<Vec<String>>(value).map_err(|_| StoreError::Nonsense)
        });
        Ok(try_join_all(kept).await?.into_iter().flatten().collect())
    }
}

/// `None`: there is none, or it is not understood.
fn budget(fields: Vec<(String, String)>) -> Option<Budget> {
    let mut budget = Budget::default();
    let mut books: BTreeMap<String, Books> = BTreeMap::new();
    let mut accounts: Vec<(String, ReplicaId, Account)> = Vec::new();
    let mut refused: Vec<(String, ReplicaId, i64)> = Vec::new();
    for (field, value) in fields {
        let mut parts = field.splitn(3, ':');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("b"), Some(number), None) => {
                books.insert(number.to_owned(), read_books(&value)?);
            }
            (Some("a"), Some(number), Some(replica)) => {
                accounts.push((number.to_owned(), ReplicaId(replica.to_owned()), read_account(&value)?));
            }
            (Some("r"), Some(number), Some(replica)) => {
                refused.push((number.to_owned(), ReplicaId(replica.to_owned()), value.parse().ok()?));
            }
            (Some("g"), None, None) => budget.gone_before = value.parse().ok()?,
            (Some("t"), None, None) => budget.tight_until_ms = value.parse().ok()?,
            _ => {}
        }
    }
    for (number, replica, account) in accounts {
        books.get_mut(&number)?.accounts.insert(replica, account);
    }
    for (number, replica, amount) in refused {
        // The account may be gone, or closed by a process that is: it refuses nothing any more.
        let account = books.get_mut(&number).and_then(|books| books.accounts.get_mut(&replica));
        if let Some(account) = account.filter(|account| !account.closed) {
            account.refused = amount;
        }
    }
    budget.books = books.into_values().collect();
    Some(budget).filter(|budget| !budget.books.is_empty())
}

fn read_books(text: &str) -> Option<Books> {
    let mut words = text.splitn(7, ' ');
    let unit = match words.next()? {
        "N" => Unit::NanoUsd,
        "T" => Unit::Tokens,
        "R" => Unit::Requests,
        _ => return None,
    };
    let kind = match words.next()? {
        "hour" => Kind::Hour,
        "day" => Kind::Day,
        "week" => Kind::Week,
        "month" => Kind::Month,
        "year" => Kind::Year,
        "bucket" => Kind::Bucket,
        "lifetime" => Kind::Lifetime,
        _ => return None,
    };
    let mut number = || words.next()?.parse().ok();
    let (starts_at, ends_at, counts_until, closed) = (number()?, number()?, number()?, number()?);
    let span = Span { kind, starts_at, ends_at, counts_until, label: String::new() };
    let reset_token = words.next()?.strip_prefix('=').map(str::to_owned);
    Some(Books { unit, reset_token, span, closed, accounts: BTreeMap::new() })
}

fn read_account(text: &str) -> Option<Account> {
    let mut numbers = text.split(' ').map(|word| word.parse::<i64>().ok());
    let mut next = || numbers.next().flatten();
    Some(Account {
        granted: next()?,
        returned: next()?,
        used: next()?,
        closed: next()? == 1,
        held: next()?,
        // Beside it.
        refused: 0,
        seen_at_ms: next()?,
    })
}
