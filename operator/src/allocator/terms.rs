//! What the budgets of a gateway promise, out of its compiled snapshot.

use std::collections::HashMap;
use std::sync::Arc;

use tollgate_allocator::{CalendarUnit, Mode, Period, Terms, Unit};
use tollgate_snapshot::Snapshot;
use tollgate_snapshot::model::{self, Name};

/// By id.
#[derive(Clone, Debug, Default)]
pub struct AllTerms {
    budgets: HashMap<Name, Arc<Terms>>,
    /// Of those that have one for each member that calls bring, by what is before the `/` and the member.
    of_members: HashMap<Name, Arc<Terms>>,
}

impl AllTerms {
    pub fn of(snapshot: &Snapshot) -> AllTerms {
        let mut all = AllTerms::default();
        for budget in &snapshot.budgets {
            let map = if budget.per.is_some() { &mut all.of_members } else { &mut all.budgets };
            map.entry(budget.id.clone()).or_insert_with(|| Arc::new(terms(budget)));
        }
        all
    }

    pub fn get(&self, budget: &str) -> Option<&Arc<Terms>> {
        self.budgets.get(budget).or_else(|| self.of_members.get(self.members_of(budget)?))
    }

    /// The budget of which this one is of a member that a call brought.
    pub fn members_of<'b>(&self, budget: &'b str) -> Option<&'b str> {
        if self.of_members.is_empty() || self.budgets.contains_key(budget) {
            return None;
        }
        // `namespace/Budget/name`, and what follows: members may have a `/` in them.
        let end = budget.match_indices('/').nth(2)?.0;
        Some(&budget[..end]).filter(|id| self.of_members.contains_key(*id))
    }
}

/// What one budget promises.
pub fn terms(budget: &model::Budget) -> Terms {
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

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_snapshot::model::{Budget, BudgetRules, PerCall};

    #[test]
    fn members_that_calls_bring_have_the_terms_of_their_budget() {
        let budget = |id: &str, limit, per| {
            let rules = BudgetRules { per, ..BudgetRules::default() };
            Budget { id: id.into(), limit, rules: rules.into(), ..Budget::default() }
        };
        let snapshot = Snapshot {
            budgets: vec![
                budget("n/Budget/ends", 5, Some(PerCall::EndUser)),
                budget("n/Budget/keys/k", 7, None),
                budget("n/VirtualKey/k", 9, None),
            ],
            ..Snapshot::default()
        };
        let terms = AllTerms::of(&snapshot);
        let limit = |id: &str| terms.get(id).map(|terms| terms.limit);
        for (id, expected) in [
            ("n/Budget/ends/alice", Some(5)),
            ("n/Budget/ends/a/b/c", Some(5)),
            ("n/Budget/ends", None),
            ("n/Budget/keys/k", Some(7)),
            ("n/Budget/keys/other", None),
            ("n/VirtualKey/k", Some(9)),
            ("n/VirtualKey/k/x", None),
        ] {
            assert_eq!(limit(id), expected, "{id}");
        }
    }
}
