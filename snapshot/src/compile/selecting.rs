//! Which budgets may select a key, found without holding each key against each budget: with 100,000 keys and 5,000 budgets
//! that would take minutes. What is found is looked at closely afterwards.

use std::collections::HashMap;
use std::ops::ControlFlow;

use foldhash::fast::RandomState;
use tollgate_crds::{BudgetScope, LabelExpression, LabelOperator, LabelSelector};

use super::budget::Holder;

/// Budgets that may select keys, by something that those keys must have, so that a key is held against few of them.
#[derive(Debug, Default)]
pub(super) struct Selecting<'a> {
    any: Vec<usize>,
    by_mark: HashMap<Mark<'a>, Vec<usize>, RandomState>,
    /// Some want a label with any value.
    by_name: bool,
}

/// What a key must have to be selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Mark<'a> {
    User(&'a str),
    /// Name and value; `None`: any.
    Label(&'a str, Option<&'a str>),
    TeamLabel(&'a str, Option<&'a str>),
}

impl<'a> Selecting<'a> {
    pub fn new(scopes: Vec<(usize, &'a BudgetScope)>) -> Selecting<'a> {
        let mut wanted_by: HashMap<Mark<'a>, usize, RandomState> = HashMap::default();
        for (_, scope) in &scopes {
            for mark in alternatives(scope).into_iter().flatten() {
                *wanted_by.entry(mark).or_default() += 1;
            }
        }
        let mut selecting = Selecting::default();
        for (at, scope) in scopes {
            // By what the fewest others want too: what is said of all keys tells none of them apart.
            let others = |marks: &Vec<Mark<'a>>| marks.iter().map(|mark| wanted_by[mark]).sum::<usize>();
            match alternatives(scope).into_iter().min_by_key(others) {
                None => selecting.any.push(at),
                Some(marks) => {
                    for mark in marks {
                        selecting.by_name |= matches!(mark, Mark::Label(_, None) | Mark::TeamLabel(_, None));
                        selecting.by_mark.entry(mark).or_default().push(at);
                    }
                }
            }
        }
        selecting
    }

    /// Calls `see` for each that may select the key, once, until it breaks.
    pub fn each_candidate<'k>(
        &'k self,
        holder: Holder<'k>,
        mut see: impl FnMut(usize) -> ControlFlow<()>,
    ) -> ControlFlow<()>
    where
        'a: 'k,
    {
        self.any.iter().try_for_each(|at| see(*at))?;
        let by_mark: &'k HashMap<Mark<'k>, Vec<usize>, RandomState> = &self.by_mark;
        if by_mark.is_empty() {
            return ControlFlow::Continue(());
        }
        let mut add = |mark: Mark<'k>| by_mark.get(&mark).into_iter().flatten().try_for_each(|at| see(*at));
        if let Some(user) = holder.user {
            add(Mark::User(user))?;
        }
        for (name, value) in holder.labels {
            add(Mark::Label(name, Some(value)))?;
            if self.by_name {
                add(Mark::Label(name, None))?;
            }
        }
        for (name, value) in holder.team.into_iter().flat_map(|(_, _, labels)| labels) {
            add(Mark::TeamLabel(name, Some(value)))?;
            if self.by_name {
                add(Mark::TeamLabel(name, None))?;
            }
        }
        ControlFlow::Continue(())
    }
}

/// Lists of marks: a key that is selected has exactly one of each list.
fn alternatives(scope: &BudgetScope) -> Vec<Vec<Mark<'_>>> {
    fn of_labels<'a>(
        selector: &'a Option<LabelSelector>,
        mark: fn(&'a str, Option<&'a str>) -> Mark<'a>,
        all: &mut Vec<Vec<Mark<'a>>>,
    ) {
        let Some(LabelSelector { match_labels, match_expressions }) = selector else { return };
        all.extend(match_labels.iter().map(|(name, value)| vec![mark(name, Some(value))]));
        for LabelExpression { key, operator, values } in match_expressions {
            match operator {
                LabelOperator::In => all.push(values.iter().map(|value| mark(key, Some(value))).collect()),
                LabelOperator::Exists => all.push(vec![mark(key, None)]),
                // What a key must not have is no mark.
                LabelOperator::NotIn | LabelOperator::DoesNotExist => {}
            }
        }
    }
    let mut all = Vec::new();
    if !scope.users.is_empty() {
        all.push(scope.users.iter().map(|user| Mark::User(user)).collect());
    }
    of_labels(&scope.key_selector, Mark::Label, &mut all);
    of_labels(&scope.team_selector, Mark::TeamLabel, &mut all);
    for marks in &mut all {
        // Else a budget that names a value twice would select a key twice.
        marks.sort_unstable();
        marks.dedup();
    }
    all
}
