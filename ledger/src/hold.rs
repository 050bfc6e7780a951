//! The request path: an attempt is held in all its budgets or in none, and ends exactly once. Belongs to one core; no
//! system call, no lock that waits, no allocation, unless it is refused, a segment is full, or a grant runs out.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::{Mutex, PoisonError};

use crate::account::{Account, NotAdded};
use crate::allowance::Allowances;
use crate::budget::{Budget, Decision};
use crate::counters::Counters;
use crate::grants::Request;
use crate::journal::{Journal, Open};
use crate::ledger::Shared;
use crate::record::{MAX_BUDGETS, charged};
use crate::terms::{Amounts, AttemptStart, Outcome, Refusal, Settlement};
use crate::throttle::LetThrough;
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

/// Why an attempt does not hold more.
#[derive(Debug)]
pub struct Short {
    /// What has no room; `None`: it is gone from the configuration.
    pub budget: Option<Arc<Budget>>,
    /// Whoever hands out its limit does not answer.
    pub is_away: bool,
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
        self.try_hold_part(start, start.hold, budgets, &mut LetThrough::default())
    }

    /// The same, but of `start.hold` only a part; it grows by [`Writer::extend`]. What the attempt may use must be no more
    /// than the part at any time: it is what is charged where nobody says what was used. `let_through`: kept for all attempts
    /// of a call.
    ///
    /// # Errors
    /// As [`Writer::try_hold`].
    pub fn try_hold_part(
        &mut self,
        start: &AttemptStart,
        part: Amounts,
        budgets: &[Arc<Budget>],
        let_through: &mut LetThrough,
    ) -> Result<Hold, Refusal> {
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
            match self.hold_one(budget, &part, start.started_at_ms, let_through) {
                Ok(account) => {
                    ids[count] = account.id;
                    accounts.0[count] = Some(account);
                    count += 1;
                }
                Err(refusal) => {
                    for account in accounts.iter() {
                        account.settle(part.of(account.unit), 0);
                    }
                    return Err(refusal);
                }
            }
        }
        let marked = (part != start.hold).then_some(&part);
        let (open, slot) = self.journal.write(start, &ids[..count], marked);
        let counters = self.shared.counters.clone();
        Ok(Hold { open, slot, ended: false, amounts: part, accounts, counters })
    }

    /// Holds more for an attempt: `to`, no more than its `start.hold`, in all of its budgets, or nothing more in any.
    /// Durable like the hold itself when it returns. `asks`: where there is too little allowance, more is asked for; it
    /// comes later, so try again then.
    ///
    /// # Errors
    /// The budget that has no room for it now.
    pub fn extend(&self, hold: &mut Hold, to: Amounts, now_ms: i64, asks: bool) -> Result<(), Short> {
        let more = |account: &Account| to.of(account.unit) - hold.amounts.of(account.unit);
        for (at, account) in hold.accounts.iter().enumerate() {
            let wanted = more(account);
            if wanted <= 0 {
                continue;
            }
            if now_ms >= account.looks_at_ms()
                && let Some(budget) = account.budget.upgrade()
            {
                budget.look(now_ms);
            }
            match account.extend(wanted) {
                Ok(false) => {}
                Ok(true) => {
                    if let Some(budget) = account.budget.upgrade() {
                        self.ask(&budget, 0, now_ms);
                    }
                }
                Err(_) if self.goes_on_without(account, wanted) => {}
                Err(why) => {
                    for earlier in hold.accounts.iter().take(at) {
                        earlier.settle(more(earlier).max(0), 0);
                    }
                    let budget = account.budget.upgrade();
                    // Who is sealed gets no more.
                    let may_grow = why == NotAdded::Full && !account.is_sealed();
                    if let Some(budget) = budget.as_ref().filter(|_| asks && may_grow) {
                        self.ask(budget, wanted, now_ms);
                    }
                    return Err(Short { budget, is_away: self.is_away() });
                }
            }
        }
        // The journal before anybody uses it.
        hold.open.mark(hold.slot, &to);
        hold.amounts = to;
        Ok(())
    }

    /// Whether a budget whose allocator is away lets its calls go on all the same. More is committed then.
    #[cold]
    fn goes_on_without(&self, account: &Account, more: i64) -> bool {
        let allows = self.is_away() && account.budget.upgrade().is_some_and(|budget| budget.allows_unavailable());
        allows && account.hold(more).is_ok()
    }

    #[inline]
    fn hold_one(
        &self,
        budget: &Arc<Budget>,
        hold: &Amounts,
        at_ms: i64,
        let_through: &mut LetThrough,
    ) -> Result<Arc<Account>, Refusal> {
        let amount = hold.of(budget.unit());
        if budget.denies_unavailable() && self.is_away() {
            return Err(self.unavailable(NO_ANSWER.to_owned()));
        }
        match budget.try_hold(amount, at_ms, let_through) {
            Decision::Held { account, refill } if account.unit == budget.unit() => {
                if refill {
                    self.ask(budget, 0, at_ms);
                }
                Ok(account)
            }
            // The unit changed in this moment, so that another amount should be held.
            Decision::Held { account, .. } => {
                account.settle(amount, 0);
                self.hold_slowly(budget, hold, at_ms, let_through)
            }
            Decision::Exhausted | Decision::Throttled { .. } | Decision::Reserved { .. } | Decision::Wanting => {
                self.hold_slowly(budget, hold, at_ms, let_through)
            }
        }
    }

    #[cold]
    fn hold_slowly(
        &self,
        budget: &Arc<Budget>,
        hold: &Amounts,
        at_ms: i64,
        let_through: &mut LetThrough,
    ) -> Result<Arc<Account>, Refusal> {
        // Registered before the second look: a grant that comes in between is not missed.
        let wait = budget.grant_wait();
        let amount = hold.of(budget.unit());
        match budget.try_hold(amount, at_ms, let_through) {
            Decision::Held { account, .. } if account.unit == budget.unit() => Ok(account),
            Decision::Held { account, .. } => {
                account.settle(amount, 0);
                Err(Refusal::Pending(wait))
            }
            Decision::Exhausted => {
                if let Some(account) = budget.current() {
                    account.elsewhere.refuse(amount.max(1), account.used());
                }
                Err(Refusal::Exhausted {
                    spent: budget.spent(),
                    limit: budget.limit(),
                    asked: amount,
                    resets_at: budget.resets_at(at_ms.div_euclid(1000)),
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
                    self.ask(budget, amount.max(1), at_ms);
                }
                Err(Refusal::Reserved { held, limit: budget.limit(), budget: budget.clone() })
            }
            Decision::Wanting => {
                self.ask(budget, amount.max(1), at_ms);
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
    pub fn charge(self, status: u16, duration_ms: u32) {
        let all = self.amounts;
        self.charge_up_to(all, status, duration_ms);
    }

    /// What was used is not known, but it cannot be more than `most`: that is charged, and never more than the hold.
    pub fn charge_up_to(mut self, most: Amounts, status: u16, duration_ms: u32) {
        self.counters.charged.fetch_add(1, Relaxed);
        let Amounts { nano_usd, tokens, requests } = self.amounts;
        let most = Amounts { nano_usd: nano_usd.min(most.nano_usd), tokens: tokens.min(most.tokens), requests };
        self.end(Settlement { status, duration_ms, ..charged(most, Outcome::Charged) });
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
