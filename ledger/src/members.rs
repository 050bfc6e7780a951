//! Budgets of which there is one for each member that calls bring: an end user, a tag, a model, a provider. They are
//! opened at their first use, and found again by name. Clients choose some of these names, so their number has a bound;
//! where it is reached, those whose period is over make room.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};

use crate::budget::{Budget, Closed};
use crate::terms::{BudgetTerms, BudgetView};

/// Members of one budget in a period. More are refused: one that shared its account with others, or was forgotten, would
/// have more than its limit after a restart.
pub const MOST_MEMBERS: usize = 10_000;

/// Where there is no room, who is over is looked for this often. Seconds.
const SWEEP_EVERY: i64 = 1;

type ByName = HashMap<Box<str>, Arc<Budget>, foldhash::fast::RandomState>;

/// The members of one budget that are in use.
#[derive(Debug)]
pub struct Members {
    /// Clients choose the names: they are shown nowhere.
    private: bool,
    budgets: RwLock<ByName>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `id`: before the `/` and the member's name.
    terms: BudgetTerms,
    swept_at: i64,
    /// Some were forgotten: the period in which that was. None before it opens again, also when the clock is set back.
    over: Option<Closed>,
}

/// There are [`MOST_MEMBERS`] already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

impl Members {
    pub(crate) fn new(terms: BudgetTerms, private: bool) -> Members {
        let inner = Inner { terms, swept_at: i64::MIN, over: None };
        Members { private, budgets: RwLock::default(), inner: Mutex::new(inner) }
    }

    /// The member of this name, if it is in use.
    pub(crate) fn find(&self, member: &str) -> Option<Arc<Budget>> {
        self.budgets.read().unwrap_or_else(PoisonError::into_inner).get(member).cloned()
    }

    /// The member of this name, which is made where it is not in use. `closed`: what earlier processes used, by id.
    /// `live`: ids that the allocator has yet to hear of.
    ///
    /// # Errors
    /// There are too many.
    pub(crate) fn find_or_make(
        &self,
        member: &str,
        now: i64,
        make: impl FnOnce(BudgetTerms, Option<Closed>) -> Budget,
        live: impl FnOnce() -> HashSet<Arc<str>>,
    ) -> Result<Arc<Budget>, TooMany> {
        let mut budgets = self.write();
        if let Some(budget) = budgets.get(member) {
            return Ok(budget.clone());
        }
        let mut inner = self.inner();
        if budgets.len() >= MOST_MEMBERS && now >= inner.swept_at.saturating_add(SWEEP_EVERY) {
            inner.swept_at = now;
            inner.forget_over(&mut budgets, now, &live());
        }
        if budgets.len() >= MOST_MEMBERS {
            return Err(TooMany);
        }
        let terms = inner.terms_of(member);
        let over = inner.over.clone().filter(|over| over.token == terms.reset_token && over.unit == terms.unit);
        let budget = Arc::new(make(terms, over));
        budgets.insert(member.into(), budget.clone());
        Ok(budget)
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
    pub(crate) fn views(&self, now: i64) -> Vec<BudgetView> {
        let budgets: Vec<Arc<Budget>> =
            self.budgets.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let views = budgets.iter().map(|budget| budget.view(now));
        if !self.private {
            return views.collect();
        }
        let fullest = views.max_by_key(|view| view.spent.saturating_add(view.held));
        fullest.map(|view| BudgetView { id: self.inner().terms.id.clone(), ..view }).into_iter().collect()
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
            Some(over) if over.span.starts_at > span.starts_at => over.clone(),
            _ => Closed { token: reset_token.clone(), unit: *unit, span, amount: 0 },
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
