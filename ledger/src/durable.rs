//! What the grants log says, as records and as their sum. Applying the records of a log in order gives the state;
//! writing the state gives a shorter log that means the same. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use tollgate_allocator::Span;
use tollgate_allocator::Unit;

/// One line of the grants log. Totals, never differences, so that none can count twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A process started. What follows is its own.
    Boot { boot: u64, kernel_boot: String, at_ms: i64, next_account: u32 },
    /// An account was opened. `suffix`: of the replica that an allocator elsewhere knows it by; a log without has 0.
    Open {
        account: u32,
        books: BooksId,
        #[serde(default, skip_serializing_if = "is_first")]
        suffix: u32,
    },
    /// An account may commit up to this.
    Grant { account: u32, granted: i64 },
    /// Of what was granted, an account gave this back.
    Return { account: u32, returned: i64 },
    /// A journal segment is copied and about to be removed; this was used in it.
    Retired { segment: u64, used: Vec<(u32, i64)> },
    /// Used by boots that have ended.
    Closed { books: BooksId, amount: i64 },
    /// A segment of an ended boot whose amounts are in the closed books already; only its rows are wanted.
    Counted { segment: u64 },
    /// Charged without a row: a power loss took the rows.
    Adjustment(Adjustment),
    /// Adjustments up to this are in the database.
    AdjustmentsCopied { id: i64 },
    /// The process closed its accounts and stopped.
    Stopped { boot: u64 },
    /// An allocator elsewhere knows what ended boots used.
    Told,
}

fn is_first(suffix: &u32) -> bool {
    *suffix == 0
}

/// A budget that is over for so long opens no older period again even where the clock is set back by more than that:
/// nobody remembers it then. Seconds.
const REMEMBERED_AFTER: i64 = 31 * 86_400;

/// Uses of one account in one record, where a log is written anew.
const RETIRED_TOGETHER: usize = 4096;

/// Which books an amount belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BooksId {
    pub budget: Arc<str>,
    #[serde(flatten)]
    pub era: Arc<Era>,
}

/// A period of certain terms. Accounts share it: there may be a million of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Era {
    pub token: Option<String>,
    pub unit: Unit,
    pub span: Span,
}

/// Money that is charged to a budget although no attempt is known for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjustment {
    pub id: i64,
    /// Unix milliseconds.
    pub at_ms: i64,
    pub budget: String,
    pub period: String,
    pub unit: Unit,
    pub amount: i64,
    pub reason: String,
}

/// An account as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountEntry {
    pub books: BooksId,
    /// See [`Record::Open`].
    pub suffix: u32,
    pub granted: i64,
    pub returned: i64,
    /// Used in segments that are gone.
    pub retired: i64,
}

/// The state of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    pub boot: u64,
    pub kernel_boot: String,
    pub at_ms: i64,
    pub next_account: u32,
    pub accounts: BTreeMap<u32, AccountEntry>,
    pub closed: HashMap<BooksId, i64, foldhash::fast::RandomState>,
    /// Segments whose amounts are in the closed books.
    pub counted: BTreeSet<u64>,
    /// Segments of this boot whose amounts are in `retired`, until their file is gone.
    pub retired: BTreeSet<u64>,
    pub adjustments: Vec<Adjustment>,
    pub stopped: bool,
    /// An allocator elsewhere knows what is in the closed books.
    pub told: bool,
    /// Those of accounts and closed books, each once.
    pub eras: HashSet<Arc<Era>>,
}

impl Durable {
    /// The books, with the era that others of it have.
    fn shared(&mut self, books: &BooksId) -> BooksId {
        let budget = books.budget.clone();
        if let Some(era) = self.eras.get(&books.era) {
            return BooksId { budget, era: era.clone() };
        }
        self.eras.insert(books.era.clone());
        books.clone()
    }

    /// Lets go of eras that nothing is of any more.
    pub fn forget_eras(&mut self) {
        self.eras.retain(|era| Arc::strong_count(era) > 1);
    }

    /// Takes one record in. Records about accounts that are not known are about periods that are over.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Boot { boot, kernel_boot, at_ms, next_account } => {
                self.boot = *boot;
                self.kernel_boot = kernel_boot.clone();
                self.at_ms = *at_ms;
                self.next_account = *next_account;
                self.stopped = false;
            }
            Record::Open { account, books, suffix } => {
                let books = self.shared(books);
                let entry = AccountEntry { books, suffix: *suffix, granted: 0, returned: 0, retired: 0 };
                self.accounts.insert(*account, entry);
                self.next_account = self.next_account.max(account + 1);
            }
            Record::Grant { account, granted } => {
                if let Some(entry) = self.accounts.get_mut(account) {
                    entry.granted = entry.granted.max(*granted);
                }
            }
            Record::Return { account, returned } => {
                if let Some(entry) = self.accounts.get_mut(account) {
                    entry.returned = entry.returned.max(*returned);
                }
            }
            Record::Retired { segment, used } => {
                // 0 stands for all segments before a rewrite of the log.
                if *segment == 0 || self.retired.insert(*segment) {
                    for (account, amount) in used {
                        if let Some(entry) = self.accounts.get_mut(account) {
                            entry.retired = entry.retired.saturating_add(*amount);
                        }
                    }
                }
            }
            Record::Closed { books, amount } => self.close(books, *amount),
            Record::Counted { segment } => {
                self.counted.insert(*segment);
            }
            Record::Adjustment(adjustment) => self.adjustments.push(adjustment.clone()),
            Record::AdjustmentsCopied { id } => self.adjustments.retain(|adjustment| adjustment.id > *id),
            Record::Stopped { boot } => self.stopped = *boot == self.boot,
            Record::Told => self.told = true,
        }
    }

    /// Adds to what ended boots used.
    pub fn close(&mut self, books: &BooksId, amount: i64) {
        let sum = match self.closed.get_mut(books) {
            Some(sum) => sum,
            None => {
                let books = self.shared(books);
                self.closed.entry(books).or_default()
            }
        };
        *sum = sum.saturating_add(amount);
    }

    /// Drops what can never count again. The newest period of each budget stays for a while, so that a clock set back
    /// does not open an older one again.
    pub fn prune(&mut self, now: i64) {
        let mut newest: HashMap<(Arc<str>, Option<String>), i64> = HashMap::new();
        for books in self.closed.keys().filter(|books| books.era.span.counts_until <= now) {
            newest.insert((books.budget.clone(), books.era.token.clone()), i64::MIN);
        }
        if newest.is_empty() {
            return;
        }
        for BooksId { budget, era } in self.closed.keys() {
            if let Some(newest) = newest.get_mut(&(budget.clone(), era.token.clone())) {
                *newest = (*newest).max(era.span.starts_at);
            }
        }
        self.closed.retain(|BooksId { budget, era }, _| {
            let Era { token, span, .. } = &**era;
            let is_newest = || newest.get(&(budget.clone(), token.clone())) == Some(&span.starts_at);
            span.counts_until > now || (span.counts_until.saturating_add(REMEMBERED_AFTER) > now && is_newest())
        });
    }

    /// A log that means this state, record by record.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        let Durable {
            boot,
            kernel_boot,
            at_ms,
            next_account,
            accounts,
            closed,
            counted,
            retired,
            adjustments,
            stopped,
            told,
            eras: _,
        } = self;
        let begin =
            Record::Boot { boot: *boot, kernel_boot: kernel_boot.clone(), at_ms: *at_ms, next_account: *next_account };
        let closed = closed.iter().map(|(books, amount)| Record::Closed { books: books.clone(), amount: *amount });
        let opened = accounts.iter().flat_map(|(account, entry)| {
            let AccountEntry { books, suffix, granted, returned, retired: _ } = entry;
            let open = Record::Open { account: *account, books: books.clone(), suffix: *suffix };
            let grant = (*granted > 0).then_some(Record::Grant { account: *account, granted: *granted });
            let give_back = (*returned > 0).then_some(Record::Return { account: *account, returned: *returned });
            [Some(open), grant, give_back].into_iter().flatten()
        });
        let mut used = accounts.iter().filter(|(_, entry)| entry.retired > 0).map(|(id, entry)| (*id, entry.retired));
        let used = std::iter::from_fn(move || {
            let some: Vec<(u32, i64)> = used.by_ref().take(RETIRED_TOGETHER).collect();
            (!some.is_empty()).then_some(Record::Retired { segment: 0, used: some })
        });
        std::iter::once(begin)
            .chain(closed)
            .chain(counted.iter().map(|segment| Record::Counted { segment: *segment }))
            .chain(opened)
            .chain(used)
            .chain(retired.iter().map(|segment| Record::Retired { segment: *segment, used: Vec::new() }))
            .chain(adjustments.iter().cloned().map(Record::Adjustment))
            .chain(stopped.then_some(Record::Stopped { boot: *boot }))
            .chain(told.then_some(Record::Told))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_allocator::Period;

    fn books(budget: &str, at: i64) -> BooksId {
        let period = Period::Calendar { unit: tollgate_allocator::CalendarUnit::Day, time_zone: "UTC".to_owned() };
        let era = Era { token: None, unit: Unit::NanoUsd, span: period.span(at) };
        BooksId { budget: budget.into(), era: era.into() }
    }

    fn closed(state: &Durable) -> Vec<(BooksId, i64)> {
        let mut closed: Vec<(BooksId, i64)> =
            state.closed.iter().map(|(books, amount)| (books.clone(), *amount)).collect();
        closed.sort_by_key(|(books, _)| (books.budget.clone(), books.era.span.starts_at));
        closed
    }

    #[test]
    fn a_rewritten_log_means_the_same() {
        let mut state = Durable::default();
        for record in [
            Record::Boot { boot: 3, kernel_boot: "k".to_owned(), at_ms: 5, next_account: 1 },
            Record::Closed { books: books("a", 0), amount: 10 },
            Record::Closed { books: books("a", 0), amount: 5 },
            Record::Counted { segment: 9 },
            Record::Open { account: 1, books: books("a", 0), suffix: 0 },
            Record::Open { account: 2, books: books("b", 0), suffix: 3 },
            Record::Grant { account: 1, granted: 100 },
            Record::Grant { account: 1, granted: 60 },
            Record::Return { account: 1, returned: 20 },
            Record::Retired { segment: 11, used: vec![(1, 7), (2, 8), (99, 1)] },
            Record::Retired { segment: 11, used: vec![(1, 7)] },
        ] {
            state.apply(&record);
        }
        assert_eq!(closed(&state), [(books("a", 0), 15)]);
        let AccountEntry { granted, returned, retired, .. } = state.accounts[&1];
        assert_eq!((granted, returned, retired), (100, 20, 7), "totals, not differences; a segment retires once");
        let mut again = Durable::default();
        state.records().for_each(|record| again.apply(&record));
        assert_eq!(again, state);
        assert_eq!(state.eras.len(), 1, "accounts of one period share it");
    }

    #[test]
    fn what_counts_and_the_newest_period_survive_pruning() {
        const DAY: i64 = 86_400;
        let mut state = Durable::default();
        for (budget, day) in [("a", 0), ("a", 1), ("a", 2), ("b", 0)] {
            state.close(&books(budget, day * DAY), 1);
        }
        state.prune(2 * DAY + 5);
        assert_eq!(closed(&state), [(books("a", 2 * DAY), 1), (books("b", 0), 1)]);
        state.prune(40 * DAY);
        assert_eq!(closed(&state), [], "whoever comes once is not remembered for ever");
    }
}
