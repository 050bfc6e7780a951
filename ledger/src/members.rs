//! Budgets of which there is one for each member that calls bring: an end user, a tag, a model, a provider. They are
//! opened at their first use, and found again by name. Clients choose some of these names, so their number has a bound;
//! where it is reached, those whose period is over make room. Of many, those that no call wants are kept as a few numbers
//! until one does: nothing is forgotten that counts.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};

use crate::budget::{Budget, Closed, Past};
use crate::durable::Era;
use crate::resting::Resting;
use crate::terms::{BudgetTerms, BudgetView};

/// Where there is no room, who is over is looked for this often. Seconds.
const SWEEP_EVERY: i64 = 1;

/// More than wanted are in memory: those of them rest that no call wanted for so long. Seconds.
const REST_EVERY: i64 = 10;

/// So many rest at once, and their budget is locked for so many.
const REST_AT_ONCE: usize = 16_384;
const REST_TOGETHER: usize = 128;

type ByName = HashMap<Box<str>, Arc<Budget>, foldhash::fast::RandomState>;

/// How many members one budget has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// In a period. More are refused: one that shared its account with others, or was forgotten, would have more than its
    /// limit after a restart.
    pub most: usize,
    /// In memory with all that serves a call: beyond it, those that no call wants rest. Of those whose names are shown,
    /// none does.
    pub awake: usize,
}

impl Room {
    /// Where limits are this process's own.
    pub const OWN: Room = Room { most: 1_000_000, awake: 4096 };

    /// Where an allocator elsewhere is told of each of them, again and again.
    pub const SHARED: Room = Room { most: 10_000, awake: usize::MAX };
}

/// The members of one budget that are in use.
#[derive(Debug)]
pub struct Members {
    /// Clients choose the names: they are shown nowhere.
    private: bool,
    room: Room,
    budgets: RwLock<ByName>,
    resting: Resting,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `id`: before the `/` and the member's name.
    terms: BudgetTerms,
    swept_at: i64,
    rested_at: i64,
    /// Some were forgotten: the period in which that was. None before it opens again, also when the clock is set back.
    over: Option<Closed>,
}

/// There are as many already as there is [`Room`] for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// A member was found or made.
pub(crate) struct Found {
    pub budget: Arc<Budget>,
    /// It is time to look whether some can rest.
    pub may_rest: bool,
}

impl Members {
    /// `past`: what earlier processes used, by whole ids.
    pub(crate) fn new(terms: BudgetTerms, private: bool, room: Room, past: Vec<(Arc<str>, Past)>, now: i64) -> Members {
        let resting = Resting::default();
        past.into_iter().for_each(|(id, past)| resting.add(id, past, &terms, now));
        let inner = Inner { terms, swept_at: i64::MIN, rested_at: i64::MIN, over: None };
        Members { private, room, budgets: RwLock::default(), resting, inner: Mutex::new(inner) }
    }

    /// How many are in memory with all that serves a call, and how many rest.
    pub fn count(&self) -> (usize, usize) {
        let awake = self.budgets.read().unwrap_or_else(PoisonError::into_inner);
        (awake.len(), self.resting.len())
    }

    /// The member of this name, if it is in use.
    pub(crate) fn find(&self, member: &str) -> Option<Arc<Budget>> {
        let budget = self.budgets.read().unwrap_or_else(PoisonError::into_inner).get(member).cloned();
        budget.inspect(|budget| budget.see())
    }

    /// The member of this name, which is made where it is not in use. `live`: ids that the allocator has yet to hear of.
    ///
    /// # Errors
    /// There are too many.
    pub(crate) fn find_or_make(
        &self,
        member: &str,
        now: i64,
        make: impl FnOnce(BudgetTerms, Past) -> Budget,
        live: impl FnOnce() -> HashSet<Arc<str>>,
    ) -> Result<Found, TooMany> {
        let mut budgets = self.write();
        if let Some(budget) = budgets.get(member) {
            return Ok(Found { budget: budget.clone(), may_rest: false });
        }
        let mut inner = self.inner();
        let terms = inner.terms_of(member);
        let past = self.resting.take(&terms.id);
        if past.is_none() {
            let is_full = |awake: usize| awake + self.resting.len() >= self.room.most;
            if is_full(budgets.len()) && now >= inner.swept_at.saturating_add(SWEEP_EVERY) {
                inner.swept_at = now;
                inner.forget_over(&mut budgets, now, &live());
                if self.resting.forget_over(now) {
                    inner.over = Some(inner.nothing_before(now));
                }
            }
            if is_full(budgets.len()) {
                return Err(TooMany);
            }
        }
        let mut past = past.unwrap_or_default();
        past.closed.extend(inner.over.clone().filter(|over| {
            let Era { token, unit, .. } = &*over.era;
            *token == terms.reset_token && *unit == terms.unit
        }));
        let budget = Arc::new(make(terms, past));
        budgets.insert(member.into(), budget.clone());
        let may_rest = self.private
            && budgets.len() > self.room.awake
            && now >= inner.rested_at.saturating_add(if budgets.len() / 4 > self.room.awake { 1 } else { REST_EVERY });
        if may_rest {
            inner.rested_at = now;
        }
        Ok(Found { budget, may_rest })
    }

    /// Lets go of those in memory that no call wanted since this was done last, and in which nothing is held. `into_past`
    /// says all that is to be known of one; `None`: nothing of it counts any more.
    pub(crate) fn rest(&self, now: i64, mut into_past: impl FnMut(Budget, i64) -> Option<Past>) {
        let unwanted: Vec<Box<str>> = {
            let budgets = self.budgets.read().unwrap_or_else(PoisonError::into_inner);
            let is_unwanted = |budget: &Arc<Budget>| !budget.was_seen() && Arc::strong_count(budget) == 1;
            let unwanted = budgets.iter().filter(|(_, budget)| is_unwanted(budget) && budget.is_idle());
            unwanted.map(|(member, _)| member.clone()).take(REST_AT_ONCE).collect()
        };
        for some in unwanted.chunks(REST_TOGETHER) {
            // Who comes now waits, and finds each in one of the two places.
            let mut budgets = self.write();
            for member in some {
                let Some(budget) = budgets.remove(member) else { continue };
                let id = budget.shared_id().clone();
                // Where nobody else has the budget or its accounts, nobody else gets them while this is locked.
                let is_idle = Arc::strong_count(&budget) == 1 && budget.is_idle();
                let budget = match if is_idle { Arc::try_unwrap(budget) } else { Err(budget) } {
                    Ok(budget) => budget,
                    Err(budget) => {
                        budgets.insert(member.clone(), budget);
                        continue;
                    }
                };
                let mut inner = self.inner();
                match into_past(budget, now) {
                    Some(past) => self.resting.add(id, past, &inner.terms, now),
                    None => inner.over = Some(inner.nothing_before(now)),
                }
            }
        }
        if self.resting.forget_over(now) {
            let mut inner = self.inner();
            inner.over = Some(inner.nothing_before(now));
        }
    }

    /// Takes the terms over, for all members.
    pub(crate) fn update(&self, terms: &BudgetTerms, now: i64) {
        let budgets = self.write();
        let mut inner = self.inner();
        if inner.terms == *terms {
            return;
        }
        if inner.terms.reset_token != terms.reset_token {
            terms.tell_reset();
        }
        inner.terms = terms.clone();
        for (member, budget) in budgets.iter() {
            budget.update(&inner.terms_of(member), now);
        }
    }

    /// Where they stand. Of those whose names are shown nowhere, only the fullest, under the name of all.
    pub(crate) fn views(&self, now_ms: i64) -> Vec<BudgetView> {
        let budgets: Vec<Arc<Budget>> =
            self.budgets.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let views = budgets.iter().map(|budget| budget.view_and_pace(now_ms));
        if !self.private {
            return views.collect();
        }
        let terms = self.inner().terms.clone();
        let resting = self.resting.fullest(&terms, now_ms.div_euclid(1000));
        let fullest = views.chain(resting).max_by_key(|view| view.spent.saturating_add(view.held));
        fullest.map(|view| BudgetView { id: terms.id, ..view }).into_iter().collect()
    }

    fn write(&self) -> RwLockWriteGuard<'_, ByName> {
        self.budgets.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn terms_of(&self, member: &str) -> BudgetTerms {
        BudgetTerms { id: format!("{}/{member}", self.terms.id), ..self.terms.clone() }
    }

    /// The period of this moment, or a later one that is known already, with nothing in it.
    fn nothing_before(&self, now: i64) -> Closed {
        let BudgetTerms { unit, period, reset_token, .. } = &self.terms;
        let span = period.span(now);
        match &self.over {
            Some(over) if over.era.span.starts_at > span.starts_at => over.clone(),
            _ => Closed { era: Era { token: reset_token.clone(), unit: *unit, span }.into(), amount: 0 },
        }
    }

    /// Lets go of members that nothing is known of that still counts.
    fn forget_over(&mut self, budgets: &mut ByName, now: i64, live: &HashSet<Arc<str>>) {
        let over: Vec<Box<str>> =
            budgets.iter().filter(|(_, budget)| budget.is_over(now)).map(|(member, _)| member.clone()).collect();
        for member in over {
            let Some(budget) = budgets.remove(&member) else { continue };
            if live.contains(budget.id()) {
                budgets.insert(member, budget);
                continue;
            }
            // Whoever still has it, has the only one of this name: another beside it could spend the limit again.
            match Arc::try_unwrap(budget) {
                Ok(_) => self.over = Some(self.nothing_before(now)),
                Err(budget) => _ = budgets.insert(member, budget),
            }
        }
    }
}
