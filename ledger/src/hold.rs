//! The request path: an attempt is held in all its budgets or in none, and ends exactly once. Belongs to one core; no
//! system call, no lock that waits, no allocation, unless it is refused, a segment is full, or a grant runs out.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::{Mutex, PoisonError};

use crate::account::Account;
use crate::allowance::Allowances;
use crate::budget::{Budget, Decision};
use crate::counters::Counters;
use crate::grants::Request;
use crate::journal::{Journal, Open};
use crate::ledger::Shared;
use crate::record::{MAX_BUDGETS, charged};
use crate::terms::{Amounts, AttemptStart, Outcome, Refusal, Settlement};
use tollgate_allocator::Mode;

const NO_ANSWER: &str = "the allocator of budgets does not answer";

/// Holds money for the attempts of one core. Give it to the core's thread; it is not shared.
#[derive(Debug)]
pub struct Writer {
    journal: Journal,
    shared: Arc<Shared>,
}

/// Money held for one attempt. Ends by [`Hold::settle`], [`Hold::release`] or [`Hold::charge`]; dropped without, the
/// whole hold is charged and the row says `dropped`.
#[must_use = "a hold that is dropped is charged"]
#[derive(Debug)]
pub struct Hold {
    open: Arc<Open>,
    slot: u32,
    ended: bool,
    amounts: Amounts,
    accounts: Accounts,
    counters: Arc<Counters>,
}

/// The accounts of a hold.
#[derive(Debug, Default)]
struct Accounts([Option<Arc<Account>>; MAX_BUDGETS]);

impl Accounts {
    fn iter(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.0.iter().map_while(Option::as_ref)
    }
}

impl Writer {
    pub(crate) fn new(journal: Journal, shared: Arc<Shared>) -> Writer {
        Writer { journal, shared }
    }

    /// Holds `start.hold` in all of the budgets, or in none. A budget that is named twice is held once. Without
    /// budgets the attempt is only written down.
    ///
    /// # Errors
    /// See [`Refusal`]; nothing is held then. `Pending` and `Reserved` are to be waited for and tried again.
    pub fn try_hold(&mut self, start: &AttemptStart, budgets: &[Arc<Budget>]) -> Result<Hold, Refusal> {
        if budgets.len() > MAX_BUDGETS {
            let reason = format!("{} budgets apply to the call, at most {MAX_BUDGETS} can", budgets.len());
            return Err(self.unavailable(reason));
        }
        if let Err(reason) = self.journal.prepare() {
            return Err(self.unavailable(reason));
        }
        // One order for all calls, so that two that want the same budgets do not get in each other's way.
        let mut order = [0u8; MAX_BUDGETS];
        let order = &mut order[..budgets.len()];
        for (at, place) in order.iter_mut().enumerate() {
            *place = at as u8;
        }
        order.sort_unstable_by_key(|at| budgets[usize::from(*at)].order);
        let mut accounts = Accounts::default();
        let mut ids = [0; MAX_BUDGETS];
        let mut count = 0;
        let mut last = None;
        for at in order {
            let budget = &budgets[usize::from(*at)];
            if last.replace(budget.order) == Some(budget.order) {
                continue;
            }
            match self.hold_one(budget, start) {
                Ok(account) => {
                    ids[count] = account.id;
                    accounts.0[count] = Some(account);
                    count += 1;
                }
                Err(refusal) => {
                    for account in accounts.iter() {
                        account.settle(start.hold.of(account.unit), 0);
                    }
                    return Err(refusal);
                }
            }
        }
        let (open, slot) = self.journal.write(start, &ids[..count]);
        let counters = self.shared.counters.clone();
        Ok(Hold { open, slot, ended: false, amounts: start.hold, accounts, counters })
    }

    #[inline]
    fn hold_one(&self, budget: &Arc<Budget>, start: &AttemptStart) -> Result<Arc<Account>, Refusal> {
        let amount = start.hold.of(budget.unit());
        if budget.denies_unavailable() && self.is_away() {
            return Err(self.unavailable(NO_ANSWER.to_owned()));
        }
        match budget.try_hold(amount, start.started_at_ms) {
            Decision::Held { account, refill } if account.unit == budget.unit() => {
                if refill {
                    self.ask(budget, 0, start.started_at_ms);
                }
                Ok(account)
            }
            // The unit changed in this moment, so that another amount should be held.
            Decision::Held { account, .. } => {
                account.settle(amount, 0);
                self.hold_slowly(budget, start)
            }
            Decision::Exhausted | Decision::Throttled { .. } | Decision::Reserved { .. } | Decision::Wanting => {
                self.hold_slowly(budget, start)
            }
        }
    }

    #[cold]
    fn hold_slowly(&self, budget: &Arc<Budget>, start: &AttemptStart) -> Result<Arc<Account>, Refusal> {
        // Registered before the second look: a grant that comes in between is not missed.
        let wait = budget.grant_wait();
        let amount = start.hold.of(budget.unit());
        match budget.try_hold(amount, start.started_at_ms) {
            Decision::Held { account, .. } if account.unit == budget.unit() => Ok(account),
            Decision::Held { account, .. } => {
                account.settle(amount, 0);
                Err(Refusal::Pending(wait))
            }
            Decision::Exhausted => {
                if let Some(account) = budget.current().filter(|_| budget.is_shared()) {
                    account.elsewhere.refuse(amount.max(1), account.used());
                }
                Err(Refusal::Exhausted {
                    spent: budget.spent(),
                    limit: budget.limit(),
                    resets_at: budget.resets_at(start.started_at_ms.div_euclid(1000)),
                    budget: budget.clone(),
                })
            }
            Decision::Throttled { retry_after_ms } => Err(Refusal::Throttled {
                spent: budget.spent(),
                limit: budget.limit(),
                retry_after_ms,
                budget: budget.clone(),
            }),
            Decision::Reserved { held } => {
                if budget.is_shared() {
                    // Others may give back what they do not need.
                    self.ask(budget, amount.max(1), start.started_at_ms);
                }
                Err(Refusal::Reserved { held, limit: budget.limit(), budget: budget.clone() })
            }
            Decision::Wanting => {
                self.ask(budget, amount.max(1), start.started_at_ms);
                if budget.asks.failed.load(Acquire) {
                    return Err(self.unavailable(lock(&self.shared.failure).clone()));
                }
                if self.is_away() {
                    return match budget.current().filter(|_| budget.allows_unavailable()) {
                        Some(account) if account.hold(amount).is_ok() => Ok(account),
                        Some(_) => Err(Refusal::Pending(wait)),
                        None => Err(self.unavailable(NO_ANSWER.to_owned())),
                    };
                }
                Err(Refusal::Pending(wait))
            }
        }
    }

    /// Whether the allocator does not answer.
    fn is_away(&self) -> bool {
        self.shared.allowances.as_ref().is_some_and(|allowances: &Arc<Allowances>| allowances.away.load(Acquire))
    }

    fn ask(&self, budget: &Arc<Budget>, amount: i64, at_ms: i64) {
        budget.asks.amount.fetch_add(amount, AcqRel);
        if budget.asks.queued.swap(true, AcqRel) {
            return;
        }
        let request = Request::Want { budget: budget.clone(), at_ms };
        let sent = lock(&self.shared.grants).as_ref().is_some_and(|grants| grants.try_send(request).is_ok());
        if !sent {
            // A full queue: who waits tries again in a moment.
            budget.asks.queued.store(false, Release);
        }
    }

    fn unavailable(&self, reason: String) -> Refusal {
        self.shared.counters.unavailable.fetch_add(1, Relaxed);
        Refusal::Unavailable { reason }
    }
}

impl Hold {
    /// What is held.
    pub fn amounts(&self) -> Amounts {
        self.amounts
    }

    /// What the attempt really used. More than the hold is booked in full, and counted.
    pub fn settle(mut self, settlement: Settlement) {
        self.end(settlement);
    }

    /// Nothing was used: the attempt was never dispatched, or answered by a complete error without usage.
    pub fn release(mut self, status: u16, duration_ms: u32) {
        let nothing = charged(Amounts::default(), Outcome::Released);
        self.end(Settlement { status, duration_ms, ..nothing });
    }

    /// What was used is not known: the whole hold is charged.
    pub fn charge(mut self, status: u16, duration_ms: u32) {
        self.counters.charged.fetch_add(1, Relaxed);
        let all = charged(self.amounts, Outcome::Charged);
        self.end(Settlement { status, duration_ms, ..all });
    }

    fn end(&mut self, settlement: Settlement) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let over = |account: &Arc<Account>| settlement.actual.of(account.unit) > self.amounts.of(account.unit);
        let over_hold = self.accounts.iter().any(over);
        if over_hold && self.accounts.iter().any(|one| over(one) && is_hard(one)) {
            self.counters.bound_violations.fetch_add(1, Relaxed);
        }
        // The journal first: what frees money must not be lost after the money was used again.
        self.open.settle(self.slot, &settlement, over_hold);
        for account in self.accounts.iter() {
            account.settle(self.amounts.of(account.unit), settlement.actual.of(account.unit));
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.ended {
            self.counters.dropped.fetch_add(1, Relaxed);
            self.end(charged(self.amounts, Outcome::Dropped));
        }
    }
}

fn is_hard(account: &Account) -> bool {
    account.budget.upgrade().is_some_and(|budget| budget.mode() == Mode::Hard)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
