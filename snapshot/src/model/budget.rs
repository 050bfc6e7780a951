//! Budgets. A gateway may have one for each of its keys, and most of them differ in nothing but name and limit: what they
//! have in common is stored once.

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::Arc;

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};

use super::{ModelSet, Name, says_nothing};

/// A limit on what may be used in a period. One for each member where the resource says `per`. Its rules are read as if
/// they were its own fields; written, they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Row", into = "Row")]
pub struct Budget {
    /// `namespace/Kind/name`, and `/member` for `per`; names the ledger's account.
    pub id: Name,
    /// Nano-USD, tokens or requests; without `boost`, which versions that do not know it leave out.
    pub limit: i64,
    /// No other key can ever be bound by it.
    pub of_one_key: bool,
    pub rules: Arc<BudgetRules>,
}

/// What many budgets have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BudgetRules {
    pub unit: BudgetUnit,
    pub hard: bool,
    pub period: Period,
    /// Only calls to these public names; `None`: all.
    pub models: Option<ModelSet>,
    /// Only calls to these providers; empty: all.
    pub providers: Vec<Name>,
    /// Only calls that bring one of these tags; empty: all. Sorted.
    pub tags: Vec<Name>,
    /// Only calls that name one of these end users; empty: all. Sorted.
    pub end_users: Vec<Name>,
    /// One for each of these that a call brings: the account's name is `id`, `/` and the member. Of `tags`, where there
    /// are any, only those. A call that brings none is not counted.
    pub per: Option<PerCall>,
    /// A change starts the period anew.
    pub reset_token: Option<Name>,
    /// A Hard budget admits also what it has no allowance for while nobody can be asked for more.
    pub allow_unavailable: bool,
    /// A Soft budget admits nothing while nobody can be asked what others have spent.
    pub deny_unavailable: bool,
    pub when_low: Option<WhenLow>,
    /// A Soft budget that is spent admits this share of the usual rate of calls. Percent.
    pub throttle_percent: Option<u32>,
    /// Shares of the limit at which somebody is told.
    pub thresholds: Vec<Threshold>,
    /// What is written cannot be used, so that nothing may be spent. The limit is 0.
    pub denied: bool,
    /// Added to the limit until a moment. Whoever enforces the limit ends it then, whether anybody compiles or not.
    pub boost: Option<Boost>,
}

impl Deref for Budget {
    type Target = BudgetRules;

    fn deref(&self) -> &BudgetRules {
        &self.rules
    }
}

impl Budget {
    /// Whether it lets no call through, whatever was spent: it is Hard and its limit is nothing. So is one that cannot be
    /// read and never could.
    pub fn denies(&self) -> bool {
        self.hard && self.limit == 0 && self.boost.is_none()
    }
}

impl BudgetRules {
    /// Whether every call of the keys that it binds counts, whatever the call is.
    pub fn counts_every_call(&self) -> bool {
        let BudgetRules { models, providers, tags, end_users, per, .. } = self;
        models.is_none() && providers.is_empty() && tags.is_empty() && end_users.is_empty() && per.is_none()
    }
}

/// Rules that are known already.
#[derive(Debug, Default)]
pub(crate) struct KnownRules(HashSet<Arc<BudgetRules>, RandomState>);

impl KnownRules {
    /// Lets go of the budget's own rules where the same ones are known.
    pub fn share(&mut self, budget: &mut Budget) {
        match self.0.get(&budget.rules) {
            Some(known) => budget.rules = known.clone(),
            None => _ = self.0.insert(budget.rules.clone()),
        }
    }
}

/// A budget as it is written.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Row {
    id: Name,
    limit: i64,
    unit: BudgetUnit,
    hard: bool,
    period: Period,
    #[serde(skip_serializing_if = "says_nothing")]
    models: Option<ModelSet>,
    #[serde(skip_serializing_if = "says_nothing")]
    providers: Vec<Name>,
    #[serde(skip_serializing_if = "says_nothing")]
    tags: Vec<Name>,
    #[serde(skip_serializing_if = "says_nothing")]
    end_users: Vec<Name>,
    #[serde(skip_serializing_if = "says_nothing")]
    per: Option<PerCall>,
    #[serde(skip_serializing_if = "says_nothing")]
    reset_token: Option<Name>,
    #[serde(skip_serializing_if = "says_nothing")]
    of_one_key: bool,
    #[serde(skip_serializing_if = "says_nothing")]
    allow_unavailable: bool,
    #[serde(skip_serializing_if = "says_nothing")]
    deny_unavailable: bool,
    #[serde(skip_serializing_if = "says_nothing")]
    when_low: Option<WhenLow>,
    #[serde(skip_serializing_if = "says_nothing")]
    throttle_percent: Option<u32>,
    #[serde(skip_serializing_if = "says_nothing")]
    thresholds: Vec<Threshold>,
    #[serde(skip_serializing_if = "says_nothing")]
    denied: bool,
    #[serde(skip_serializing_if = "says_nothing")]
    boost: Option<Boost>,
}

impl From<Row> for Budget {
    fn from(row: Row) -> Budget {
        let Row {
            id,
            limit,
            of_one_key,
            unit,
            hard,
            period,
            models,
            providers,
            tags,
            end_users,
            per,
            reset_token,
            allow_unavailable,
            deny_unavailable,
            when_low,
            throttle_percent,
            thresholds,
            denied,
            boost,
        } = row;
        let rules = BudgetRules {
            unit,
            hard,
            period,
            models,
            providers,
            tags,
            end_users,
            per,
            reset_token,
            allow_unavailable,
            deny_unavailable,
            when_low,
            throttle_percent,
            thresholds,
            denied,
            boost,
        };
        Budget { id, limit, of_one_key, rules: Arc::new(rules) }
    }
}

impl From<Budget> for Row {
    fn from(budget: Budget) -> Row {
        let Budget { id, limit, of_one_key, rules } = budget;
        let BudgetRules {
            unit,
            hard,
            period,
            models,
            providers,
            tags,
            end_users,
            per,
            reset_token,
            allow_unavailable,
            deny_unavailable,
            when_low,
            throttle_percent,
            thresholds,
            denied,
            boost,
        } = Arc::unwrap_or_clone(rules);
        Row {
            id,
            limit,
            of_one_key,
            unit,
            hard,
            period,
            models,
            providers,
            tags,
            end_users,
            per,
            reset_token,
            allow_unavailable,
            deny_unavailable,
            when_low,
            throttle_percent,
            thresholds,
            denied,
            boost,
        }
    }
}

/// What is added to a limit for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Boost {
    /// In the budget's unit.
    pub amount: i64,
    /// Unix seconds; from then on it is not there.
    pub until: i64,
}

/// A share of the limit at which somebody is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Threshold {
    /// Spent of the limit.
    pub percent: u32,
    /// [`super::Credential::id`] of the URL that is called.
    #[serde(skip_serializing_if = "says_nothing")]
    pub webhook: Option<Name>,
}

/// What is called first when little is left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct WhenLow {
    /// Of the limit.
    pub below_percent: u32,
    /// Public names in the namespace of the key, in this order.
    pub models: Vec<Name>,
}

/// What only a call tells, and of which each has a budget of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PerCall {
    EndUser,
    Tag,
    /// The public name.
    Model,
    Provider,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BudgetUnit {
    #[default]
    Usd,
    Tokens,
    Requests,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Period {
    Calendar {
        unit: CalendarUnit,
        time_zone: Name,
    },
    Rolling {
        seconds: i64,
    },
    #[default]
    Lifetime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CalendarUnit {
    Hour,
    Day,
    Week,
    Month,
    Year,
}
