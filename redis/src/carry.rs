//! I/O: books that another allocator kept, brought into the server account by account: what was spent counts here too, and
//! a process that ends later gives back what it was granted there and did not use.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tollgate_allocator::{Account, Batch, Books, Budget, ReplicaId, Report, Terms};

use crate::connection::StoreError;
use crate::keys::SHARDS;
use crate::memory::Memory;
use crate::store::Store;

/// Who is charged what accounts come to that are not listed any more.
const ADDED_UP: &str = "before";

impl Store {
    /// Charges what these books charge, by id of the budget. Doing it again changes nothing, as long as the accounts are
    /// listed here. `terms`: as for [`Store::exchange`]; a budget without any is left out. `deadline`: for each answer.
    ///
    /// Answers whose books are here now.
    ///
    /// # Errors
    /// The server did not take all of them; which it took is not known.
    pub async fn carry(
        &self,
        books: &BTreeMap<String, Budget>,
        terms: &(dyn Fn(&str) -> Option<Terms> + Sync),
        deadline: Duration,
    ) -> Result<BTreeSet<String>, StoreError> {
        let ids: BTreeSet<String> = books.keys().filter(|id| terms(id).is_some()).cloned().collect();
        let here = self.books(ids.iter().map(String::as_str)).await?;
        let mut memory = Memory::default();
        let mut reports: BTreeMap<ReplicaId, Vec<Report>> = BTreeMap::new();
        for (id, books) in ids.iter().flat_map(|id| books[id].books.iter().map(move |books| (id, books))) {
            if books.closed > 0 {
                let added_up = Report { used: books.closed, last: true, ..report(id, books, &Account::default()) };
                reports.entry(ReplicaId(ADDED_UP.to_owned())).or_default().push(added_up);
            }
            for (replica, account) in &books.accounts {
                let report = report(id, books, account);
                // One that has told its last word here has given back what it did not use.
                if !here.get(id).is_some_and(|budget| is_closed(budget, books, replica)) {
                    memory.granted(replica, &report, account.granted);
                }
                reports.entry(replica.clone()).or_default().push(report);
            }
        }
        let Some(first) = reports.keys().next() else { return Ok(ids) };
        // Who has not told everything under an epoch would keep the server in doubt.
        let signs = self.exchange(&[], &mut memory, &[0; SHARDS], Some(first), terms, deadline).await;
        if let Some(error) = signs.failed {
            return Err(error);
        }
        let mut told = [0; SHARDS];
        signs.headers.iter().for_each(|(shard, header)| told[*shard] = header.epoch);
        let batches: Vec<Batch> = reports.into_iter().map(|(replica, reports)| Batch { replica, reports }).collect();
        let exchanged = self.exchange(&batches, &mut memory, &told, None, terms, deadline).await;
        exchanged.failed.map_or(Ok(ids), Err)
    }
}

/// As the account stands.
pub(crate) fn report(budget: &str, books: &Books, account: &Account) -> Report {
    Report {
        budget: budget.to_owned(),
        unit: books.unit,
        reset_token: books.reset_token.clone(),
        span: books.span.clone(),
        returned: account.returned,
        used: account.used,
        held: 0,
        wanted: 0,
        refused: 0,
        last: false,
    }
}

fn is_closed(budget: &Budget, of: &Books, replica: &ReplicaId) -> bool {
    let same = |books: &&Books| {
        books.unit == of.unit
            && books.reset_token == of.reset_token
            && (books.span.starts_at, books.span.ends_at) == (of.span.starts_at, of.span.ends_at)
    };
    budget.books.iter().find(same).and_then(|books| books.accounts.get(replica)).is_some_and(|account| account.closed)
}
