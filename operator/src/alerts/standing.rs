//! Budgets with thresholds, and where they stand. Pure.

use std::collections::{BTreeMap, HashMap};

use tollgate_alerts::Standing;
use tollgate_allocator::Period;
use tollgate_snapshot::Snapshot;
use tollgate_snapshot::model::{Budget, BudgetUnit, PerCall, Threshold};

use crate::allocator::terms::terms;
use crate::facts::SpendFact;

/// The budgets of a gateway that have thresholds, by id.
pub struct Watched<'s>(BTreeMap<&'s str, &'s Budget>);

/// As [`Standing`], with texts of its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Stands {
    budget: String,
    unit: BudgetUnit,
    spent: i64,
    held: i64,
    refused: i64,
    limit: i64,
    period: String,
    resets_at: Option<i64>,
}

impl Stands {
    fn new(budget: &str, row: &Budget, period: &Period, spend: &SpendFact) -> Stands {
        let span = period.span(spend.period_starts_at);
        let begins_anew = !matches!(period, Period::Rolling { .. });
        Stands {
            budget: budget.to_owned(),
            unit: row.unit,
            spent: spend.used,
            held: spend.held,
            refused: spend.refused,
            limit: spend.limit,
            period: if begins_anew { span.label.clone() } else { String::new() },
            resets_at: matches!(period, Period::Calendar { .. }).then_some(span.ends_at),
        }
    }

    pub fn as_ref(&self) -> Standing<'_> {
        let Stands { budget, unit, spent, held, refused, limit, period, resets_at } = self;
        Standing {
            budget,
            unit: *unit,
            spent: *spent,
            held: *held,
            refused: *refused,
            limit: *limit,
            period,
            resets_at: *resets_at,
        }
    }
}

impl<'s> Watched<'s> {
    pub fn of(snapshot: &'s Snapshot) -> Watched<'s> {
        let rows = snapshot.budgets.iter().filter(|row| !row.thresholds.is_empty());
        Watched(rows.map(|row| (&*row.id, row)).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Also members that calls bring.
    pub fn contains(&self, id: &str) -> bool {
        self.0.contains_key(id) || members_of(id).is_some_and(|id| self.0.get(id).is_some_and(|row| row.per.is_some()))
    }

    /// Those that were used. Of members whose names clients choose, the fullest stands for all, under the budget's name.
    pub fn standings(&self, spend: &HashMap<String, SpendFact>) -> Vec<(Stands, &'s [Threshold])> {
        let mut standings = Vec::new();
        let mut by_call: HashMap<&str, Vec<(&str, &SpendFact)>> = HashMap::new();
        if self.0.values().any(|row| row.per.is_some()) {
            for (id, fact) in spend {
                if let Some(of) = members_of(id) {
                    by_call.entry(of).or_default().push((id, fact));
                }
            }
        }
        for (id, row) in &self.0 {
            let period = terms(row, 0).period;
            let mut add = |id: &str, fact| standings.push((Stands::new(id, row, &period, fact), &*row.thresholds));
            let members = by_call.get(id).map(Vec::as_slice).unwrap_or_default();
            match row.per {
                None => spend.get(*id).into_iter().for_each(|fact| add(id, fact)),
                Some(PerCall::EndUser | PerCall::Tag) => {
                    let fullest = members.iter().max_by_key(|(_, fact)| (fact.period_starts_at, fact.used));
                    fullest.into_iter().for_each(|(_, fact)| add(id, fact));
                }
                Some(PerCall::Model | PerCall::Provider) => members.iter().for_each(|(id, fact)| add(id, fact)),
            }
        }
        standings
    }
}

/// `namespace/Budget/name` of an id that has a member behind it.
fn members_of(id: &str) -> Option<&str> {
    let end = id.match_indices('/').nth(2)?.0;
    Some(&id[..end])
}

/// Namespace and name of the Budget behind an id.
pub fn object_of(id: &str) -> Option<(&str, &str)> {
    let (namespace, rest) = id.split_once("/Budget/")?;
    Some((namespace, rest.split('/').next().unwrap_or(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_snapshot::model::{self, BudgetRules};

    #[test]
    fn who_clients_name_is_not_named_and_the_others_are() {
        let period = model::Period::Calendar { unit: model::CalendarUnit::Day, time_zone: "UTC".into() };
        let row = |id: &str, per, thresholds| {
            let rules = BudgetRules { per, period: period.clone(), thresholds, ..BudgetRules::default() };
            Budget { id: id.into(), limit: 100, rules: rules.into(), ..Budget::default() }
        };
        let silent = row("n/Budget/silent", None, Vec::new());
        let row = |id, per| row(id, per, vec![Threshold { percent: 80, webhook: None }]);
        let budgets = vec![
            row("n/Budget/one", None),
            row("n/Budget/ends", Some(PerCall::EndUser)),
            row("n/Budget/models", Some(PerCall::Model)),
            row("n/Budget/unused", None),
            silent,
        ];
        let snapshot = Snapshot { budgets, ..Snapshot::default() };
        let watched = Watched::of(&snapshot);
        const DAY: i64 = 1_795_219_200;
        let fact = |used| SpendFact { used, limit: 100, period_starts_at: DAY, ..SpendFact::default() };
        let spend: HashMap<String, SpendFact> = [
            ("n/Budget/one", 5),
            ("n/Budget/ends/alice", 70),
            ("n/Budget/ends/bob", 90),
            ("n/Budget/models/m", 1),
            ("n/Budget/models/n", 2),
            ("n/Budget/silent", 3),
        ]
        .map(|(id, used)| (id.to_owned(), fact(used)))
        .into();
        let mut told: Vec<(String, i64)> =
            watched.standings(&spend).into_iter().map(|(stands, _)| (stands.budget, stands.spent)).collect();
        told.sort();
        let expected = [("n/Budget/ends", 90), ("n/Budget/models/m", 1), ("n/Budget/models/n", 2), ("n/Budget/one", 5)];
        assert_eq!(told, expected.map(|(id, spent)| (id.to_owned(), spent)));
        let one = watched.standings(&spend).into_iter().find(|(stands, _)| stands.budget.ends_with("one")).unwrap().0;
        assert_eq!((&*one.period, one.resets_at), ("2026-11-21", Some(DAY + 86_400)));
        for (id, is_watched) in
            [("n/Budget/one", true), ("n/Budget/models/m", true), ("n/Budget/one/x", false), ("n/Budget/silent", false)]
        {
            assert_eq!(watched.contains(id), is_watched, "{id}");
        }
    }
}
