//! What the budgets of a gateway promise, out of its compiled snapshot.

use std::collections::{BTreeMap, HashMap};
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
    /// Boosts that are in a limit, by when they end.
    boosts: BTreeMap<(i64, Name), i64>,
}

impl AllTerms {
    /// At a moment, unix seconds; see [`AllTerms::end_boosts`].
    pub fn of(snapshot: &Snapshot, now: i64) -> AllTerms {
        let mut all = AllTerms::default();
        for budget in &snapshot.budgets {
            let map = if budget.per.is_some() { &mut all.of_members } else { &mut all.budgets };
            map.entry(budget.id.clone()).or_insert_with(|| Arc::new(terms(budget, now)));
            if let Some(boost) = boost_at(budget, now) {
                all.boosts.insert((boost.until, budget.id.clone()), budget.limit);
            }
        }
        all
    }

    /// Boosts that are over at a moment, unix seconds, are not in a limit any more, whether anybody compiles or not.
    pub fn end_boosts(&mut self, now: i64) {
        while let Some(first) = self.boosts.first_entry().filter(|first| first.key().0 <= now) {
            let ((_, id), limit) = first.remove_entry();
            for map in [&mut self.budgets, &mut self.of_members] {
                if let Some(terms) = map.get_mut(&id) {
                    Arc::make_mut(terms).limit = limit;
                }
            }
        }
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

fn boost_at(budget: &model::Budget, now: i64) -> Option<model::Boost> {
    budget.boost.filter(|boost| now < boost.until)
}

/// What one budget promises at a moment, unix seconds.
pub fn terms(budget: &model::Budget, now: i64) -> Terms {
    Terms {
        unit: match budget.unit {
            model::BudgetUnit::Usd => Unit::NanoUsd,
            model::BudgetUnit::Tokens => Unit::Tokens,
            model::BudgetUnit::Requests => Unit::Requests,
        },
        limit: budget.limit.saturating_add(boost_at(budget, now).map_or(0, |boost| boost.amount)),
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
    fn a_boost_is_in_the_limit_until_it_ends_also_of_members() {
        let budget = |id: &str, per, until| {
            let rules = BudgetRules { per, boost: Some(model::Boost { amount: 100, until }), ..BudgetRules::default() };
            Budget { id: id.into(), limit: 5, rules: rules.into(), ..Budget::default() }
        };
        let snapshot = Snapshot {
            budgets: vec![
                budget("n/Budget/plain", None, 20),
                budget("n/Budget/ends", Some(PerCall::EndUser), 30),
                budget("n/Budget/over", None, 10),
            ],
            ..Snapshot::default()
        };
        let mut terms = AllTerms::of(&snapshot, 10);
        for (now, expected) in [(10, [105, 105, 5]), (19, [105, 105, 5]), (20, [5, 105, 5]), (31, [5, 5, 5])] {
            terms.end_boosts(now);
            let limit = |id: &str| terms.get(id).map(|terms| terms.limit);
            let limits = ["n/Budget/plain", "n/Budget/ends/alice", "n/Budget/over"].map(limit);
            assert_eq!(limits, expected.map(Some), "{now}");
        }
    }

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
        let terms = AllTerms::of(&snapshot, 0);
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
