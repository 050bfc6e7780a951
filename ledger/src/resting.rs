//! Members of a budget that no call wants at the moment: of each its id, what it used in which period, and the number of
//! its account, so that it goes on exactly where it was. Some 150 bytes each, because there may be a million.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::budget::{Closed, Past, Resume, ends_at, era_counts};
use crate::durable::Era;
use crate::terms::{BudgetTerms, BudgetView};

/// Each part has a lock of its own, so that none is held for long while one of them grows or is searched.
const PARTS: usize = 16;

type ById = HashMap<Arc<str>, Rested, foldhash::fast::RandomState>;

/// The members of one budget that rest.
#[derive(Debug)]
pub struct Resting {
    parts: [Mutex<ById>; PARTS],
    hasher: foldhash::fast::RandomState,
    count: AtomicUsize,
    /// Nothing of them is over before. Unix seconds.
    over_at: AtomicI64,
    fullest: Mutex<Option<Fullest>>,
}

/// One of them. Most have one amount.
#[derive(Debug)]
struct Rested {
    era: Arc<Era>,
    used: i64,
    /// Goes on with the next call. 0: the amount is of an earlier process.
    account: u32,
    more: Option<Box<More>>,
}

/// Amounts of other periods: buckets of a rolling budget, mostly.
#[derive(Debug)]
struct More(Vec<Closed>);

/// What the fullest of them has used.
#[derive(Debug)]
struct Fullest {
    used: i64,
    /// Of the terms that this was counted by, and until when that is so.
    era: Era,
}

impl Default for Resting {
    fn default() -> Resting {
        Resting {
            parts: Default::default(),
            hasher: Default::default(),
            count: AtomicUsize::new(0),
            over_at: AtomicI64::new(i64::MAX),
            fullest: Mutex::default(),
        }
    }
}

impl Resting {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// One comes to rest. Nothing is kept of one that has nothing behind it.
    pub fn add(&self, id: Arc<str>, past: Past, terms: &BudgetTerms, now: i64) {
        let Past { mut closed, resume } = past;
        let first =
            resume.or_else(|| closed.pop().map(|Closed { era, amount }| Resume { account: 0, era, used: amount }));
        let Some(Resume { account, era, used }) = first else { return };
        closed.shrink_to_fit();
        let more = (!closed.is_empty()).then(|| Box::new(More(closed)));
        let rested = Rested { era, used, account, more };
        self.over_at.fetch_min(rested.over_at(), Relaxed);
        if let Some(fullest) = &mut *guard(&self.fullest) {
            fullest.used = fullest.used.max(rested.counted(terms, now));
        }
        if guard(self.part(&id)).insert(id, rested).is_none() {
            self.count.fetch_add(1, Relaxed);
        }
    }

    /// One is wanted again: all that is behind it.
    pub fn take(&self, id: &str) -> Option<Past> {
        let Rested { era, used, account, more } = guard(self.part(id)).remove(id)?;
        self.count.fetch_sub(1, Relaxed);
        let mut past = Past { closed: more.map(|more| more.0).unwrap_or_default(), resume: None };
        match account {
            0 => past.closed.push(Closed { era, amount: used }),
            account => past.resume = Some(Resume { account, era, used }),
        }
        Some(past)
    }

    /// Lets go of those of which nothing counts any more. Whether there were any.
    pub fn forget_over(&self, now: i64) -> bool {
        if now < self.over_at.load(Relaxed) {
            return false;
        }
        self.over_at.store(i64::MAX, Relaxed);
        let mut forgotten = 0;
        for part in &self.parts {
            let mut part = guard(part);
            let before = part.len();
            part.retain(|_, rested| {
                let over_at = rested.over_at();
                if over_at > now {
                    self.over_at.fetch_min(over_at, Relaxed);
                }
                over_at > now
            });
            forgotten += before - part.len();
            if part.len() < part.capacity() / 4 {
                part.shrink_to_fit();
            }
        }
        self.count.fetch_sub(forgotten, Relaxed);
        forgotten > 0
    }

    /// Where the fullest of them stands; looked for once in a period, or in a bucket of a rolling budget.
    pub fn fullest(&self, terms: &BudgetTerms, now: i64) -> Option<BudgetView> {
        if self.len() == 0 {
            return None;
        }
        let span = terms.period.span(now);
        let era = Era { token: terms.reset_token.clone(), unit: terms.unit, span: span.clone() };
        let known = guard(&self.fullest).as_ref().filter(|known| known.era == era).map(|known| known.used);
        let used = known.unwrap_or_else(|| {
            let fullest = |part: &Mutex<ById>| guard(part).values().map(|rested| rested.counted(terms, now)).max();
            let used = self.parts.iter().filter_map(fullest).max().unwrap_or(0);
            *guard(&self.fullest) = Some(Fullest { used, era });
            used
        });
        Some(BudgetView {
            id: terms.id.clone(),
            spent: used,
            held: 0,
            limit: terms.limit_at(now),
            unit: terms.unit,
            mode: terms.mode,
            resets_at: ends_at(terms, &span),
            period_label: span.label,
            refused: 0,
            is_known: true,
            lasts_ms: None,
        })
    }

    fn part(&self, id: &str) -> &Mutex<ById> {
        &self.parts[self.hasher.hash_one(id) as usize % PARTS]
    }
}

impl Rested {
    /// When nothing of it counts any more. Unix seconds.
    fn over_at(&self) -> i64 {
        let more = self.more.iter().flat_map(|more| &more.0).map(|closed| closed.era.span.counts_until);
        more.fold(self.era.span.counts_until, i64::max)
    }

    /// What of it counts at a moment.
    fn counted(&self, terms: &BudgetTerms, now: i64) -> i64 {
        let span = terms.period.span(now);
        let counts = |era: &Era| era_counts(terms, era, &span, now);
        let more = self.more.iter().flat_map(|more| &more.0).filter(|closed| counts(&closed.era));
        let first = if counts(&self.era) { self.used } else { 0 };
        more.fold(first, |sum, closed| sum.saturating_add(closed.amount))
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
