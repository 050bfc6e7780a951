//! The allocator's side of one budget: the books of its periods, and the accounts of replicas in them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::message::{Answer, ReplicaId, Report};
use crate::period::Span;
use crate::size::grant;
use crate::terms::{Mode, Terms, Unit};

/// Books are kept so long after they stopped to count, for reports that come late. Seconds.
const KEEP_AFTER: i64 = 86_400;

/// For how long after a shortage everybody is asked for what no call holds. Milliseconds.
const TIGHT_MS: i64 = 2_000;

/// What was spent in this time is granted at once where little is left. Milliseconds.
const BURN_MS: i64 = 10_000;

/// Closed accounts whose process may still prove that it spent less; what is beyond is added up.
const MOST_CLOSED: usize = 64;

/// All that is known of one budget, over its periods.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    pub books: Vec<Books>,
    /// Books that began before this are gone, and never open again.
    pub gone_before: i64,
    /// Until when somebody is short, unix milliseconds. Not durable: the next shortage says it again.
    #[serde(skip)]
    pub tight_until_ms: i64,
}

/// One period, under one reset token.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Books {
    pub unit: Unit,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_token: Option<String>,
    pub span: Span,
    /// Charged for accounts that are not listed any more.
    pub closed: i64,
    pub accounts: BTreeMap<ReplicaId, Account>,
}

/// What one replica was granted, gave back and used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Account {
    pub granted: i64,
    pub returned: i64,
    pub used: i64,
    /// Nothing is granted any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// Held by calls in flight at the last report. Nothing is decided by it.
    #[serde(skip)]
    pub held: i64,
    /// [`Report::refused`] of the last report. Nothing is decided by it.
    #[serde(skip)]
    pub refused: i64,
    /// When the last report came, unix milliseconds.
    #[serde(skip)]
    pub seen_at_ms: i64,
}

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    pub replica: &'a ReplicaId,
    /// How many replicas share what is left.
    pub replicas: usize,
    /// The allocator's clock, unix milliseconds. Sizes grants, and says which buckets of a rolling window are over; a
    /// wrong one opens no period again.
    pub now_ms: i64,
}

/// What came of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    pub answer: Answer,
    /// A closed account turned out to have spent so much less than it was charged.
    pub adjusted: i64,
}

/// Where a budget stands in its present period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Settled, and what closed accounts are charged.
    pub used: i64,
    /// What may be spent or has been: `used`, and the allowance that replicas have.
    pub charged: i64,
    /// Held by calls in flight, as of the last reports.
    pub held: i64,
    /// The least that a call had to reserve which some replica that is there refused since it admitted one; 0: none was.
    pub refused: i64,
}

impl Account {
    /// What counts against the limit: the allowance that was not given back. More only where a bound was broken and more
    /// was used; and in a Soft budget, which has no grants.
    pub fn charged(&self) -> i64 {
        self.granted.saturating_sub(self.returned).max(self.used)
    }

    /// What is known to be spent.
    fn settled(&self) -> i64 {
        if self.closed { self.charged() } else { self.used }
    }
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { books: Vec::new(), gone_before: i64::MIN, tight_until_ms: 0 }
    }
}

impl Budget {
    /// Takes a report over and decides what is granted. The answer may leave only when the changed state is durable.
    pub fn sync(&mut self, terms: &Terms, asker: Asker<'_>, report: &Report) -> Synced {
        let Asker { replica, replicas, now_ms } = asker;
        let known = report.unit == terms.unit && report.reset_token == terms.reset_token;
        let at = match self.find(report) {
            Some(at) => Some(at),
            None if known => self.open(report, terms),
            None => None,
        };
        let Some(at) = at else { return Synced { answer: unknown(report, terms), adjusted: 0 } };
        let (burn, adjusted) = self.books[at].take_over(replica, report, now_ms);
        let elsewhere = self.elsewhere(terms, at, replica, now_ms.div_euclid(1000));
        let account = self.books[at].accounts.entry(replica.clone()).or_default();
        if known && !account.closed && terms.mode == Mode::Hard {
            let room = terms.limit.saturating_sub(elsewhere.charged).saturating_sub(account.charged());
            let needed = report.wanted.saturating_sub(account.granted);
            let given = if self.tight_until_ms > now_ms {
                // Others wait too: exactly what is asked for.
                needed.min(room).max(0)
            } else {
                grant(terms.limit, room, needed, burn, replicas, 0)
            };
            account.granted = account.granted.saturating_add(given);
            if given < needed {
                self.tight_until_ms = now_ms.saturating_add(TIGHT_MS);
            }
        }
        let answer = Answer { unknown: !known, ..self.answer(&report.budget, terms, at, replica, now_ms) };
        self.books[at].add_up_closed();
        Synced { answer, adjusted }
    }

    /// Whether somebody waits for allowance of this budget.
    pub fn is_tight(&self, now_ms: i64) -> bool {
        now_ms < self.tight_until_ms
    }

    /// What to tell a replica that did not ask: while somebody waits, that it holds allowance which nobody uses.
    pub fn recall(&self, budget: &str, terms: &Terms, replica: &ReplicaId, now_ms: i64) -> Vec<Answer> {
        if !self.is_tight(now_ms) {
            return Vec::new();
        }
        let is_idle =
            |account: &Account| !account.closed && account.charged() > account.used.saturating_add(account.held);
        let idle = self.books.iter().enumerate().filter(|(_, books)| books.accounts.get(replica).is_some_and(is_idle));
        idle.map(|(at, _)| self.answer(budget, terms, at, replica, now_ms)).collect()
    }

    fn answer(&self, budget: &str, terms: &Terms, at: usize, replica: &ReplicaId, now_ms: i64) -> Answer {
        let elsewhere = self.elsewhere(terms, at, replica, now_ms.div_euclid(1000));
        let Account { granted, closed, .. } = self.books[at].accounts.get(replica).cloned().unwrap_or_default();
        Answer {
            budget: budget.to_owned(),
            span: self.books[at].span.clone(),
            granted,
            limit: terms.limit,
            used_elsewhere: elsewhere.used,
            charged_elsewhere: elsewhere.charged,
            tight: self.is_tight(now_ms),
            closed,
            unknown: false,
        }
    }

    /// Grants nothing more to a replica that is gone: all that it was granted and did not give back is charged. Safe
    /// also where it lives on. False: it had no open account.
    pub fn close(&mut self, replica: &ReplicaId) -> bool {
        let mut changed = false;
        for books in &mut self.books {
            if let Some(account) = books.accounts.get_mut(replica) {
                changed |= !std::mem::replace(&mut account.closed, true);
            }
            books.add_up_closed();
        }
        changed
    }

    /// Forgets books that stopped to count a day ago. `now`: unix seconds. False: there were none.
    pub fn forget(&mut self, now: i64) -> bool {
        self.forget_after(KEEP_AFTER, now)
    }

    /// As [`Budget::forget`], so many seconds after they stopped to count: where there is little room.
    pub fn forget_after(&mut self, seconds: i64, now: i64) -> bool {
        let before = self.books.len();
        let over = |books: &Books| books.span.counts_until.saturating_add(seconds) < now;
        for books in self.books.iter().filter(|books| over(books)) {
            self.gone_before = self.gone_before.max(books.span.starts_at.saturating_add(1));
        }
        self.books.retain(|books| !over(books));
        self.books.len() != before
    }

    /// Where it stands at a moment, unix seconds.
    pub fn totals(&self, terms: &Terms, now: i64) -> Totals {
        self.sum(terms, &terms.period.span(now), now, None)
    }

    fn find(&self, report: &Report) -> Option<usize> {
        self.books.iter().position(|books| {
            books.unit == report.unit && books.reset_token == report.reset_token && same_time(&books.span, &report.span)
        })
    }

    /// New books, where the terms have such a period and it is not over for good.
    fn open(&mut self, report: &Report, terms: &Terms) -> Option<usize> {
        let is_period = same_time(&terms.period.span(report.span.starts_at), &report.span);
        if !is_period || report.span.starts_at < self.gone_before {
            return None;
        }
        self.books.push(Books {
            unit: report.unit,
            reset_token: report.reset_token.clone(),
            span: report.span.clone(),
            closed: 0,
            accounts: BTreeMap::new(),
        });
        Some(self.books.len() - 1)
    }

    /// Of all accounts that count in the period of `at`, but the one of `replica` there.
    fn elsewhere(&self, terms: &Terms, at: usize, replica: &ReplicaId, now: i64) -> Totals {
        self.sum(terms, &self.books[at].span, now, Some((at, replica)))
    }

    fn sum(&self, terms: &Terms, current: &Span, now: i64, without: Option<(usize, &ReplicaId)>) -> Totals {
        let mut totals = Totals::default();
        let counts = |books: &Books| {
            books.unit == terms.unit
                && books.reset_token == terms.reset_token
                && terms.period.counts(&books.span, current, now)
        };
        for (at, books) in self.books.iter().enumerate().filter(|(_, books)| counts(books)) {
            totals.used = totals.used.saturating_add(books.closed);
            totals.charged = totals.charged.saturating_add(books.closed);
            let others = books.accounts.iter().filter(|(replica, _)| Some((at, *replica)) != without);
            for (_, account) in others {
                totals.used = totals.used.saturating_add(account.settled());
                totals.charged = totals.charged.saturating_add(account.charged());
                totals.held = totals.held.saturating_add(account.held);
                // A process that is gone refuses nobody any more.
                let refused = if account.closed { 0 } else { account.refused };
                totals.refused = match (totals.refused, refused) {
                    (0, refused) | (refused, 0) => refused,
                    (a, b) => a.min(b),
                };
            }
        }
        totals
    }
}

impl Books {
    /// Keeps the larger of what is known and what is told. Answers what was spent in about ten seconds, and by how much
    /// a closed account was charged too much.
    fn take_over(&mut self, replica: &ReplicaId, report: &Report, now_ms: i64) -> (i64, i64) {
        let account = self.accounts.entry(replica.clone()).or_default();
        let since_ms = now_ms.saturating_sub(account.seen_at_ms).max(1_000);
        let spent = report.used.saturating_sub(account.used).max(0);
        let burn = (i128::from(spent) * i128::from(BURN_MS) / i128::from(since_ms)) as i64;
        let (was_closed, before) = (account.closed, account.charged());
        account.used = account.used.max(report.used);
        account.returned = account.returned.max(report.returned.min(account.granted));
        if report.last {
            account.closed = true;
            account.returned = account.returned.max(account.granted.saturating_sub(account.used));
        }
        account.held = if report.last { 0 } else { report.held };
        account.refused = if report.last { 0 } else { report.refused };
        account.seen_at_ms = now_ms;
        (burn, if was_closed { before.saturating_sub(account.charged()) } else { 0 })
    }

    fn add_up_closed(&mut self) {
        let mut surplus = self.accounts.values().filter(|account| account.closed).count().saturating_sub(MOST_CLOSED);
        let closed = &mut self.closed;
        self.accounts.retain(|_, account| {
            let goes = account.closed && surplus > 0;
            if goes {
                surplus -= 1;
                *closed = closed.saturating_add(account.charged());
            }
            !goes
        });
    }
}

/// Labels may differ between versions; the times do not.
fn same_time(a: &Span, b: &Span) -> bool {
    a.kind == b.kind && a.starts_at == b.starts_at && a.ends_at == b.ends_at
}

fn unknown(report: &Report, terms: &Terms) -> Answer {
    Answer {
        budget: report.budget.clone(),
        span: report.span.clone(),
        granted: 0,
        limit: terms.limit,
        used_elsewhere: 0,
        charged_elsewhere: 0,
        tight: false,
        closed: false,
        unknown: true,
    }
}
