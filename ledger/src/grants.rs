//! The allocator of one process: opens accounts, sizes chunks, and writes both to the grants log, synced, before
//! anything of them may be used. One thread; requests that come together share one sync. Does I/O.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};

use crate::account::Account;
use crate::allowance::Allowances;
use crate::budget::{Books, Budget, Burn, Closed, Resume, closed_amount, counts};
use crate::counters::Counters;
use crate::durable::{BooksId, Durable, Era, Record};
use crate::log::{self, Log};
use crate::members::Members;
use crate::terms::{Amounts, BudgetTerms};
use tollgate_allocator::Mode;

/// Requests that share one sync at most.
const BATCH: usize = 1024;

/// First uses of budgets are synced no more often than this: where ten thousand keys call for the first time in a period,
/// some share one sync, which costs as much as many calls. Who comes alone waits for nobody. Longer would be cheaper, but
/// so many calls would wait that the gateway idles.
const PACE: Duration = Duration::from_millis(4);

/// A low budget is granted what it burns in this time.
const CHUNK_SECONDS: i64 = 10;

/// Longest wait for the end of a boost before the clock is looked at again: somebody may set it.
const LOOK: Duration = Duration::from_secs(1);

/// The log is rewritten when it is larger than this, and twice as large as after the last time.
const REWRITE_ABOVE_BYTES: u64 = 4 << 20;

/// What the grants thread is asked for.
#[derive(Debug)]
pub enum Request {
    /// The asks of this budget; the attempt starts at this time, unix milliseconds.
    Want { budget: Arc<Budget>, at_ms: i64 },
    /// The budget has a boost now.
    Boosted { budget: Arc<Budget> },
    /// The allocator answered about the budget.
    Answered { budget: Arc<Budget>, at_ms: i64 },
    /// A segment's rows are in the database: remember what was used in it. Answers whether that is durable.
    Retire { segment: u64, used: Vec<(u32, Amounts)>, done: SyncSender<bool> },
    /// The file of a retired or counted segment is gone.
    Removed { segment: u64 },
    /// Adjustments up to this are in the database.
    AdjustmentsCopied { id: i64 },
    /// The allocator elsewhere knows what ended boots used.
    Told,
    /// Many members of a budget are in memory: lets go of those that no call wants.
    Rest { members: Arc<Members> },
    /// Closes all accounts; these segments still have rows to copy. Nothing is granted afterwards.
    Close { segments: Vec<u64>, done: SyncSender<Result<(), String>> },
}

impl Request {
    /// The first use of a budget in its period. One that is in use runs low or out of what it was granted.
    fn can_wait(&self) -> bool {
        match self {
            Request::Want { budget, at_ms } => budget.current().is_none_or(|account| *at_ms >= account.ends_at_ms),
            _ => false,
        }
    }
}

/// The grants thread's own.
#[derive(Debug)]
pub struct Grants {
    path: PathBuf,
    log: Log,
    rewritten_bytes: u64,
    /// The last append failed: what is in the file is not known.
    broken: bool,
    closed: bool,
    state: Durable,
    live: HashMap<u32, Arc<Account>>,
    /// Accounts of members that are not in memory, and what they used.
    resting: HashMap<u32, i64, foldhash::fast::RandomState>,
    counters: Arc<Counters>,
    failure: Arc<Mutex<String>>,
    /// `None`: limits are this process's own.
    allowances: Option<Arc<Allowances>>,
    clock: fn() -> i64,
    /// Those with a boost.
    boosted: Vec<Weak<Budget>>,
    /// When the first of their boosts ends, unix milliseconds.
    boost_ends_ms: i64,
}

/// What to do when a budget's records are durable.
struct Staged {
    budget: Arc<Budget>,
    terms: BudgetTerms,
    account: Arc<Account>,
    opened: bool,
    granted: i64,
    refill_below: i64,
    burn: Burn,
    now: i64,
}

impl Grants {
    pub fn new(
        log: Log,
        state: Durable,
        counters: Arc<Counters>,
        failure: Arc<Mutex<String>>,
        allowances: Option<Arc<Allowances>>,
        clock: fn() -> i64,
    ) -> Grants {
        Grants {
            path: log.path().to_owned(),
            rewritten_bytes: log.size_bytes(),
            log,
            broken: false,
            closed: false,
            state,
            live: HashMap::new(),
            resting: HashMap::default(),
            counters,
            failure,
            allowances,
            clock,
            boosted: Vec::new(),
            boost_ends_ms: i64::MAX,
        }
    }

    /// Serves requests until all who could ask are gone.
    pub fn run(mut self, requests: &Receiver<Request>) {
        let mut synced: Option<Instant> = None;
        while let Some(first) = self.next(requests) {
            let mut batch = vec![first];
            batch.extend(requests.try_iter().take(BATCH - 1));
            if let Some(left) = synced.and_then(|synced| PACE.checked_sub(synced.elapsed()))
                && batch.len() < BATCH
                && batch.iter().all(Request::can_wait)
            {
                std::thread::sleep(left);
                batch.extend(requests.try_iter().take(BATCH - batch.len()));
            }
            self.serve(batch);
            synced = Some(Instant::now());
        }
    }

    /// The next request, and at its time the end of a boost. `None`: all who could ask are gone.
    fn next(&mut self, requests: &Receiver<Request>) -> Option<Request> {
        loop {
            if self.boost_ends_ms == i64::MAX {
                return requests.recv().ok();
            }
            let now_ms = (self.clock)();
            if now_ms >= self.boost_ends_ms {
                self.end_boosts(now_ms);
                continue;
            }
            let left = Duration::from_millis(self.boost_ends_ms.abs_diff(now_ms));
            match requests.recv_timeout(left.min(LOOK)) {
                Ok(request) => return Some(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn end_boosts(&mut self, now_ms: i64) {
        self.boost_ends_ms = i64::MAX;
        let Grants { boosted, boost_ends_ms, .. } = self;
        boosted.retain(|budget| {
            let Some(budget) = budget.upgrade() else { return false };
            budget.look(now_ms);
            let until_ms = budget.boosted_until_ms();
            *boost_ends_ms = until_ms.min(*boost_ends_ms);
            let goes_on = until_ms != i64::MAX;
            budget.asks.timed.store(goes_on, Relaxed);
            goes_on
        });
    }

    /// The end of its boost is waited for, if it has one.
    fn time(&mut self, budget: &Arc<Budget>) {
        let until_ms = budget.boosted_until_ms();
        if until_ms == i64::MAX {
            return;
        }
        self.boost_ends_ms = until_ms.min(self.boost_ends_ms);
        if !budget.asks.timed.swap(true, Relaxed) {
            self.boosted.push(Arc::downgrade(budget));
        }
    }

    fn serve(&mut self, batch: Vec<Request>) {
        let mut records = Vec::new();
        let mut staged: Vec<Staged> = Vec::new();
        let mut wanting = Vec::new();
        let mut retired = Vec::new();
        let mut close = None;
        let mut lazy = Vec::new();
        let mut resting = Vec::new();
        for request in batch {
            match request {
                Request::Want { budget, at_ms } => {
                    budget.asks.queued.store(false, Release);
                    if self.closed {
                        self.set_failure("the ledger is closed");
                        budget.set_failed(true);
                        budget.announce();
                        continue;
                    }
                    // A budget that asks twice in a batch is served once: its asks are sums.
                    if staged.iter().any(|other| Arc::ptr_eq(&other.budget, &budget)) {
                        continue;
                    }
                    if let Some(one) = self.plan(&budget, at_ms, &mut records) {
                        staged.push(one);
                    } else if budget.is_shared() {
                        // Who waits is woken by the allocator's answer.
                        continue;
                    }
                    wanting.push(budget);
                }
                Request::Boosted { budget } => self.time(&budget),
                Request::Answered { budget, at_ms } => {
                    if self.closed || staged.iter().any(|other| Arc::ptr_eq(&other.budget, &budget)) {
                        continue;
                    }
                    match self.plan(&budget, at_ms, &mut records) {
                        Some(one) => staged.push(one),
                        None => budget.refresh(&budget.books(), at_ms.div_euclid(1000)),
                    }
                    wanting.push(budget);
                }
                Request::Retire { segment, used, done } => {
                    let used = used
                        .into_iter()
                        .filter_map(|(account, amounts)| {
                            let unit = self.state.accounts.get(&account)?.books.era.unit;
                            Some((account, amounts.of(unit))).filter(|(_, amount)| *amount > 0)
                        })
                        .collect();
                    records.push(Record::Retired { segment, used });
                    retired.push(done);
                }
                Request::Removed { segment } => {
                    self.state.retired.remove(&segment);
                    self.state.counted.remove(&segment);
                }
                Request::AdjustmentsCopied { id } => lazy.push(Record::AdjustmentsCopied { id }),
                Request::Told => lazy.push(Record::Told),
                Request::Rest { members } => resting.push(members),
                Request::Close { segments, done } => close = Some((segments, done)),
            }
        }
        records.extend(lazy);
        let written = if records.is_empty() { Ok(()) } else { self.write(&records) };
        match written {
            Ok(()) => {
                for one in staged {
                    self.publish(one);
                }
                wanting.iter().for_each(|budget| budget.set_failed(false));
            }
            Err(error) => {
                self.broken = true;
                self.counters.grant_failures.fetch_add(1, Relaxed);
                tracing::error!(%error, "cannot write grants to {}", self.path.display());
                self.set_failure(&format!("cannot write {}: {error}", self.path.display()));
                wanting.iter().for_each(|budget| budget.set_failed(true));
            }
        }
        for done in retired {
            // The copier may have gone away; then nobody needs to know.
            let _ = done.send(!self.broken);
        }
        wanting.iter().for_each(|budget| budget.announce());
        drop(wanting);
        resting.iter().for_each(|members| self.rest(members));
        if let Some((segments, done)) = close {
            let result = self.close(segments).map_err(|error| format!("cannot write {}: {error}", self.path.display()));
            let _ = done.send(result);
        }
    }

    /// Lets go of members that no call wants; what they spent is kept with those that are resting.
    fn rest(&mut self, members: &Members) {
        let Grants { state, live, resting, clock, .. } = self;
        members.rest(clock().div_euclid(1000), |budget, now| {
            let era = |id: u32| state.accounts.get(&id).map(|entry| entry.books.era.clone());
            for account in budget.accounts() {
                resting.insert(account.id, account.used());
                live.remove(&account.id);
            }
            budget.into_past(now, era)
        });
    }

    /// Decides what a budget gets. Its records are appended; nothing is published yet.
    fn plan(&mut self, budget: &Arc<Budget>, at_ms: i64, records: &mut Vec<Record>) -> Option<Staged> {
        let asked = budget.asks.amount.swap(0, AcqRel);
        budget.look(at_ms.max((self.clock)()));
        self.time(budget);
        let mut books = budget.books();
        let terms = books.terms.clone();
        let limit = budget.limit();
        let now = at_ms.div_euclid(1000);
        let current = budget.current();
        let resumed = self.resume(budget, &mut books, at_ms, records);
        let fits =
            current.as_ref().filter(|account| !books.reopen && !account.is_sealed() && at_ms < account.ends_at_ms);
        let is_resumed = resumed.is_some();
        let (account, opened) = match fits.cloned().or(resumed) {
            Some(account) => (account, false),
            // There would be another last word to tell, for ever.
            None if self.allowances.as_ref().is_some_and(|allowances| allowances.has_ended()) => return None,
            None => {
                let mut span = terms.period.span(now);
                // Periods never open again, also when the clock is set back.
                let latest = books
                    .closed
                    .iter()
                    .map(|closed| &closed.era)
                    .filter(|era| era.token == terms.reset_token && era.unit == terms.unit)
                    .map(|era| &era.span)
                    .chain(
                        current
                            .iter()
                            .chain(&books.older)
                            .filter(|one| one.token == terms.reset_token)
                            .map(|one| &one.span),
                    )
                    .filter(|other| other.kind == span.kind)
                    .map(|other| other.starts_at)
                    .max();
                if let Some(latest) = latest.filter(|latest| *latest > span.starts_at) {
                    span = terms.period.span(latest);
                }
                if let Some(current) = &current {
                    current.seal();
                }
                let id = self.state.next_account;
                self.state.next_account += 1;
                let era = Era { token: terms.reset_token.clone(), unit: terms.unit, span: span.clone() };
                let books_id = BooksId { budget: budget.shared_id().clone(), era: era.into() };
                // After the one before was seen to be sealed.
                let suffix = self.allowances.as_ref().map_or(0, |allowances| allowances.suffix());
                records.push(Record::Open { account: id, books: books_id, suffix });
                let account = Account::new(
                    id,
                    suffix,
                    terms.unit,
                    terms.reset_token.clone(),
                    span,
                    Arc::downgrade(budget),
                    budget.releases().clone(),
                );
                (Arc::new(account), true)
            }
        };
        if let Some(allowances) = &self.allowances {
            drop(books);
            return plan_shared(allowances, budget, terms, account, opened, asked, at_ms, records);
        }
        let mut granted = account.granted();
        let mut refill_below = i64::MIN;
        let committed = account.committed();
        let mut burn = books.burn;
        if terms.mode == Mode::Hard {
            // What other accounts of this boot do not need any more comes back first.
            let mut taken = closed_amount(&books, &account.span, now);
            let leaving = current.iter().filter(|current| opened && current.id != account.id);
            for older in books.older.iter().chain(leaving).filter(|older| counts(&books, older, &account.span, now)) {
                older.close();
                let net = self.state.accounts.get(&older.id).map_or(0, |entry| entry.granted - entry.returned);
                let needed = older.committed();
                if net > needed {
                    let returned = self.state.accounts.get(&older.id).map_or(0, |entry| entry.granted) - needed;
                    records.push(Record::Return { account: older.id, returned });
                }
                taken = taken.saturating_add(needed);
            }
            let remaining = limit.saturating_sub(taken).saturating_sub(granted.max(committed));
            let seconds = (at_ms - burn.at_ms).max(1000) / 1000;
            let per_chunk = if opened { 0 } else { (committed - burn.committed).max(0) / seconds * CHUNK_SECONDS };
            burn = Burn { at_ms, committed };
            let needed = committed.saturating_add(asked).saturating_sub(granted);
            let low = granted - committed < granted / 4;
            if opened || needed > 0 || low {
                let chunk = chunk(limit, remaining, needed, per_chunk);
                if chunk > 0 {
                    granted = granted.max(0) + chunk;
                    records.push(Record::Grant { account: account.id, granted });
                }
                let rest = remaining - chunk;
                refill_below = if rest > 0 { chunk / 4 } else { i64::MIN };
            } else if is_resumed {
                refill_below = (granted - committed) / 4;
            } else {
                return None;
            }
        } else if !opened && !is_resumed {
            return None;
        }
        drop(books);
        let opened = opened || is_resumed;
        Some(Staged { budget: budget.clone(), terms, account, opened, granted, refill_below, burn, now })
    }

    /// The account that a member goes on with which rested, if its period goes on. One that is over is closed: what was
    /// used in it counts where it counts, and what else it was granted is given back.
    fn resume(
        &self,
        budget: &Arc<Budget>,
        books: &mut Books,
        at_ms: i64,
        records: &mut Vec<Record>,
    ) -> Option<Arc<Account>> {
        let Resume { account: id, era, used } = books.resume.clone()?;
        let entry = self.state.accounts.get(&id);
        let terms = &books.terms;
        let is_of_terms = era.token == terms.reset_token && era.unit == terms.unit && !books.reopen;
        let fits = is_of_terms && terms.period.span(era.span.starts_at) == era.span;
        let is_under_way = at_ms < era.span.ends_at.saturating_mul(1000);
        match entry.filter(|entry| fits && is_under_way && entry.returned == 0) {
            Some(entry) => {
                let Era { token, unit, span } = Era::clone(&era);
                let releases = budget.releases().clone();
                let account = Account::new(id, 0, unit, token, span, Arc::downgrade(budget), releases).resumed(used);
                account.set_granted(entry.granted, i64::MIN);
                Some(Arc::new(account))
            }
            None => {
                books.resume = None;
                books.closed.push(Closed { era, amount: used });
                if let Some(entry) = entry.filter(|entry| entry.granted - entry.returned > used) {
                    records.push(Record::Return { account: id, returned: entry.granted - used });
                }
                None
            }
        }
    }

    /// The records are durable: what they say may be used.
    fn publish(&mut self, staged: Staged) {
        let Staged { budget, terms, account, opened, granted, refill_below, burn, now } = staged;
        let mut books = budget.books();
        account.set_granted(granted, refill_below);
        books.burn = burn;
        self.counters.grants.fetch_add(1, Relaxed);
        if !opened {
            budget.refresh(&books, now);
            return;
        }
        if let Some(allowances) = &self.allowances {
            allowances.opened(budget.id(), account.clone());
        }
        self.live.insert(account.id, account.clone());
        self.resting.remove(&account.id);
        let stale = books.terms.wants_another_account(&terms);
        if stale {
            // The terms changed while the disk worked: the next try opens another.
            account.seal();
        }
        budget.install(&mut books, account, now);
        books.reopen = stale;
    }

    /// Appends, or rewrites where the file is not to be trusted or has grown long. Durable when it returns.
    fn write(&mut self, records: &[Record]) -> std::io::Result<()> {
        let size = self.log.size_bytes();
        if self.broken || (size > REWRITE_ABOVE_BYTES && size > 2 * self.rewritten_bytes) {
            self.forget_over();
            self.log = Log::replace(&self.path, self.state.records())?;
            self.rewritten_bytes = self.log.size_bytes();
            self.broken = false;
        }
        let mut lines = Vec::new();
        records.iter().for_each(|record| log::encode(record, &mut lines));
        self.log.append(&lines)?;
        self.log.sync()?;
        records.iter().for_each(|record| self.state.apply(record));
        Ok(())
    }

    /// Drops accounts of periods that are over for a day.
    fn forget_over(&mut self) {
        let Grants { state, live, resting, clock, .. } = self;
        let now = clock().div_euclid(1000) - 86_400;
        state.accounts.retain(|id, entry| {
            let keep = entry.books.era.span.counts_until > now
                || live.get(id).is_some_and(|account| account.committed() != account.used());
            if !keep {
                live.remove(id);
                resting.remove(id);
            }
            keep
        });
        state.prune(now);
        state.forget_eras();
    }

    /// Moves what each account has committed to the closed books: unused grants are given back.
    fn close(&mut self, segments: Vec<u64>) -> std::io::Result<()> {
        self.closed = true;
        let Grants { state, live, resting, clock, .. } = self;
        for account in live.values() {
            account.seal();
        }
        for (id, entry) in std::mem::take(&mut state.accounts) {
            let committed = match live.get(&id) {
                Some(account) => account.committed(),
                // Otherwise opened, never published: nothing could use it.
                None => resting.get(&id).copied().unwrap_or(0),
            };
            if committed > 0 {
                state.close(&entry.books, committed);
            }
        }
        state.counted.extend(segments);
        state.retired.clear();
        state.stopped = true;
        state.prune(clock().div_euclid(1000));
        state.forget_eras();
        self.log = Log::replace(&self.path, self.state.records())?;
        Ok(())
    }

    fn set_failure(&self, reason: &str) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = reason.to_owned();
    }
}

/// Who runs low asks an allocator no more often than this. Milliseconds.
const LOW_ASK_MS: i64 = 500;

/// What a budget gets whose limit is handed out elsewhere: all that the allocator granted. Where that is too little,
/// it is asked.
#[expect(clippy::too_many_arguments, reason = "the second half of `plan`")]
fn plan_shared(
    allowances: &Allowances,
    budget: &Arc<Budget>,
    terms: BudgetTerms,
    account: Arc<Account>,
    opened: bool,
    asked: i64,
    at_ms: i64,
    records: &mut Vec<Record>,
) -> Option<Staged> {
    let mut granted = account.granted();
    let mut refill_below = i64::MIN;
    if terms.mode == Mode::Hard {
        let (taken, allowed) = (account.taken(), account.elsewhere.granted());
        let wanted = taken.saturating_add(asked);
        if wanted > allowed {
            account.elsewhere.want(wanted, true);
            allowances.urgent.notify_one();
        } else if allowed - taken < granted / 4 && at_ms - account.elsewhere.answered_at_ms() > LOW_ASK_MS {
            // Nobody waits yet.
            account.elsewhere.want(allowed + 1, true);
            allowances.urgent.notify_one();
        }
        if allowed > granted {
            granted = allowed;
            records.push(Record::Grant { account: account.id, granted });
            refill_below = (allowed - taken) / 4;
        } else if !opened {
            return None;
        }
    } else if !opened {
        return None;
    }
    Some(Staged {
        budget: budget.clone(),
        terms,
        account,
        opened,
        granted,
        refill_below,
        burn: Burn::default(),
        now: at_ms.div_euclid(1000),
    })
}

/// How much to grant, of `remaining`, where `needed` is asked for. While more than a fifth of the limit is left, half
/// of the rest, so that requests seldom wait for the disk; below that what is spent in some seconds, so that a power
/// loss charges little; what is needed in any case, as far as there is.
pub fn chunk(limit: i64, remaining: i64, needed: i64, burn: i64) -> i64 {
    if remaining <= 0 {
        return 0;
    }
    let generous = if remaining > limit / 5 { remaining / 2 } else { burn };
    generous.max(needed).clamp(0, remaining)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_large_while_there_is_much_and_exact_at_the_end() {
        for (limit, remaining, needed, burn, expected) in [
            (1000, 1000, 10, 0, 500),
            (1000, 1000, 700, 0, 700),
            (1000, 201, 10, 0, 100),
            (1000, 200, 10, 0, 10),
            (1000, 200, 10, 50, 50),
            (1000, 200, 10, 5000, 200),
            (1000, 5, 10, 0, 5),
            (1000, 0, 10, 10, 0),
            (1000, -5, 10, 10, 0),
            (0, 0, 1, 0, 0),
        ] {
            assert_eq!(chunk(limit, remaining, needed, burn), expected, "{limit} {remaining} {needed} {burn}");
        }
    }
}
