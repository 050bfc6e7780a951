//! What the budgets of a gateway promise, out of its compiled snapshot.

use std::collections::HashMap;
use std::sync::Arc;

use tollgate_allocator::{CalendarUnit, Mode, Period, Terms, Unit};
use tollgate_snapshot::Snapshot;
use tollgate_snapshot::model::{self, Name};

/// By id.
#[derive(Clone, Debug, Default)]
pub struct AllTerms(HashMap<Name, Arc<Terms>>);

impl AllTerms {
    pub fn of(snapshot: &Snapshot) -> AllTerms {
        AllTerms(snapshot.budgets.iter().map(|budget| (budget.id.clone(), Arc::new(terms(budget)))).collect())
    }

    pub fn get(&self, budget: &str) -> Option<&Arc<Terms>> {
        self.0.get(budget)
    }
}

fn terms(budget: &model::Budget) -> Terms {
    Terms {
        unit: match budget.unit {
            model::BudgetUnit::Usd => Unit::NanoUsd,
            model::BudgetUnit::Tokens => Unit::Tokens,
            model::BudgetUnit::Requests => Unit::Requests,
        },
        limit: budget.limit,
        mode: if budget.hard { Mode::Hard } else { Mode::Soft },
        period: match &budget.period {
            model::Period::Calendar { unit, time_zone } => {
                let unit = match unit {
                    model::CalendarUnit::Hour => CalendarUnit::Hour,
                    model::CalendarUnit::Day => CalendarUnit::Day,
                    model::CalendarUnit::Week => CalendarUnit::Week,
                    model::CalendarUnit::Month => CalendarUnit::Month,
                    model::CalendarUnit::Year => CalendarUnit::Year,
                };
                Period::Calendar { unit, time_zone: time_zone.to_string() }
            }
            model::Period::Rolling { seconds } => Period::Rolling { seconds: *seconds },
            model::Period::Lifetime => Period::Lifetime,
        },
        reset_token: budget.reset_token.as_deref().map(str::to_owned),
    }
}
