//! The words of the ledger: amounts, units, what a budget promises, what an attempt is and how it ended. Plain data.

use std::sync::Arc;

use crate::budget::{Budget, GrantWait};
use tollgate_allocator::{Mode, Period, Terms, Unit};

/// A name in the dictionary. 0 is no name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameId(pub u32);

/// What an attempt holds or costs, in every unit. Negative values count as 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub nano_usd: i64,
    pub tokens: i64,
    pub requests: i64,
}

/// Larger amounts are cut to this, so that sums of a few of them cannot overflow: 1.1 thousand million USD.
const MAX_AMOUNT: i64 = 1 << 60;

impl Amounts {
    /// The part that a budget of this unit counts, from 0 to 2^60.
    pub fn of(&self, unit: Unit) -> i64 {
        let amount = match unit {
            Unit::NanoUsd => self.nano_usd,
            Unit::Tokens => self.tokens,
            Unit::Requests => self.requests,
        };
        amount.clamp(0, MAX_AMOUNT)
    }

    /// Adds what is not negative, up to what fits.
    pub(crate) fn add(&mut self, other: Amounts) {
        let Amounts { nano_usd, tokens, requests } = self;
        for (sum, more) in [(nano_usd, other.nano_usd), (tokens, other.tokens), (requests, other.requests)] {
            *sum = sum.saturating_add(more.max(0));
        }
    }
}

/// What is added to a limit for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boost {
    /// In the budget's unit.
    pub amount: i64,
    /// Unix seconds; from then on it is not there.
    pub until: i64,
}

/// A budget as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetTerms {
    /// Names the account: `namespace/Kind/name`, and `/member` where there is one for each.
    pub id: String,
    pub unit: Unit,
    /// Without `boost`.
    pub limit: i64,
    pub boost: Option<Boost>,
    pub mode: Mode,
    pub period: Period,
    /// A change starts the period anew, with nothing spent.
    pub reset_token: Option<String>,
    /// Admits while its allocator does not answer: under a Hard budget also what there is no allowance for.
    pub allow_unavailable: bool,
    /// A Soft budget that is spent admits this share of the calls per minute that it admitted before. Percent.
    pub throttle_percent: Option<u32>,
}

impl BudgetTerms {
    /// The boost that is there at a moment, unix seconds.
    pub(crate) fn boost_at(&self, now: i64) -> Option<Boost> {
        self.boost.filter(|boost| now < boost.until)
    }

    /// The limit in force at a moment, unix seconds.
    pub fn limit_at(&self, now: i64) -> i64 {
        self.limit.saturating_add(self.boost_at(now).map_or(0, |boost| boost.amount))
    }

    /// Whether an account that was opened under these terms does not fit those.
    pub(crate) fn wants_another_account(&self, other: &BudgetTerms) -> bool {
        let BudgetTerms {
            id: _,
            unit,
            limit: _,
            boost: _,
            mode: _,
            period,
            reset_token,
            allow_unavailable: _,
            throttle_percent: _,
        } = self;
        *unit != other.unit || *period != other.period || *reset_token != other.reset_token
    }

    /// What an allocator must know of them at a moment, unix seconds.
    pub fn shared(&self, now: i64) -> Terms {
        let limit = self.limit_at(now);
        let BudgetTerms {
            id: _,
            unit,
            limit: _,
            boost: _,
            mode,
            period,
            reset_token,
            allow_unavailable: _,
            throttle_percent: _,
        } = self;
        Terms { unit: *unit, limit, mode: *mode, period: period.clone(), reset_token: reset_token.clone() }
    }

    /// Puts on record that these are the terms of a budget whose period begins anew.
    pub(crate) fn tell_reset(&self) {
        let BudgetTerms { id, reset_token, .. } = self;
        match reset_token {
            Some(token) => {
                tracing::info!(budget = %id, token = %token, "budget `{id}` begins its period again: its resetToken is `{token}`");
            }
            None => {
                tracing::info!(budget = %id, "budget `{id}` has no resetToken any more: what was spent without one counts");
            }
        }
    }
}

/// An attempt that is about to be sent to a provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttemptStart {
    pub attempt_id: u128,
    /// Unix milliseconds. Decides the period of every budget.
    pub started_at_ms: i64,
    pub key: NameId,
    pub team: NameId,
    pub user: NameId,
    /// A hash of who the client says is behind the call; 0 is none.
    pub end_user: u64,
    /// The same as text; none where the dictionary takes no more of what clients choose.
    pub end_user_name: NameId,
    /// A JSON array of the call's tags, sorted, each once.
    pub tags: NameId,
    /// The public name that was asked for.
    pub model: NameId,
    /// The provider's name of the model.
    pub served_model: NameId,
    pub deployment: NameId,
    pub provider: NameId,
    pub namespace: NameId,
    /// From 1, over retries and fallbacks of a call.
    pub attempt_no: u8,
    /// The price that the attempt is settled with.
    pub price_version: NameId,
    /// The worst case. Reserved in all budgets, or a part of it where it is certain that no more is used yet.
    pub hold: Amounts,
}

/// How an attempt ended, and how sure its amounts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// Priced from the provider's own usage.
    Exact = 1,
    /// Counted here: the provider did not say. Only without a Hard budget.
    Estimated = 2,
    /// The model has no price.
    Unpriced = 3,
    /// Answered from the cache; costs nothing.
    Cache = 4,
    /// What was used is unknown: the whole hold, or of a stream that was given up the most it can have used so far.
    Charged = 5,
    /// Never dispatched, or answered by a complete error: nothing.
    Released = 6,
    /// Nobody settled it (a cancelled task, a panic): the whole hold.
    Dropped = 7,
    /// The process died first: what was held then.
    Recovered = 8,
}

impl Outcome {
    /// All outcomes, by their number in rows.
    pub const ALL: [Outcome; 8] = [
        Outcome::Exact,
        Outcome::Estimated,
        Outcome::Unpriced,
        Outcome::Cache,
        Outcome::Charged,
        Outcome::Released,
        Outcome::Dropped,
        Outcome::Recovered,
    ];

    /// Word for people, as the `spend` view shows it.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Exact => "exact",
            Outcome::Estimated => "estimated",
            Outcome::Unpriced => "unpriced",
            Outcome::Cache => "cache",
            Outcome::Charged => "charged",
            Outcome::Released => "released",
            Outcome::Dropped => "dropped",
            Outcome::Recovered => "recovered",
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Outcome> {
        Outcome::ALL.into_iter().find(|outcome| *outcome as u8 == number)
    }
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    pub actual: Amounts,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cache_read_tokens: u64,
    pub cache_write_tokens: u64,
    pub reasoning_tokens: u64,
    /// The provider's HTTP status; 0 if none came.
    pub status: u16,
    pub outcome: Outcome,
    pub duration_ms: u32,
    /// Dispatch to first byte of the answer's body.
    pub first_byte_ms: u32,
}

/// Why nothing was held.
#[derive(Debug)]
pub enum Refusal {
    /// What is settled leaves no room, even if every call in flight came to nothing. `asked`: what was to be held. Unix
    /// seconds; `None`: never.
    Exhausted { budget: Arc<Budget>, spent: i64, limit: i64, asked: i64, resets_at: Option<i64> },
    /// What is settled leaves no room, and of the calls that are let through all the same this is not one.
    Throttled { budget: Arc<Budget>, spent: i64, limit: i64, retry_after_ms: i64 },
    /// Calls in flight hold what is left: [`Budget::wait_for_release`], then try again.
    Reserved { budget: Arc<Budget>, held: i64, limit: i64 },
    /// More allowance is on its way to the disk: wait, then try again.
    Pending(GrantWait),
    /// The journal cannot take the attempt, or the disk cannot take a grant.
    Unavailable { reason: String },
}

/// A budget as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetView {
    pub id: String,
    /// Settled in the current period, by all boots.
    pub spent: i64,
    /// Held by calls in flight.
    pub held: i64,
    pub limit: i64,
    pub unit: Unit,
    pub mode: Mode,
    /// `2026-11`, `2026-11-21`, `24h to 2026-11-21T14:00Z`, `lifetime`; empty before the first use.
    pub period_label: String,
    /// Unix seconds.
    pub resets_at: Option<i64>,
    /// The least that a call had to reserve here which was refused since one was admitted; 0: none was.
    pub refused: i64,
    /// What others have spent was heard, where limits are shared.
    pub is_known: bool,
    /// For how long what this process was granted lasts, if it is used as in the last minute. Milliseconds; `None`: it is
    /// not used, nothing has to be granted, or that was not asked for.
    pub lasts_ms: Option<i64>,
}
