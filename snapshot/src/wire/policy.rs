//! The policy: everything but keys, a record for each object. Routes and names count deployments and routes in the order
//! in which they are written.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::shard::Lines;
use super::text::sha256;
use crate::model::{Budget, BudgetRules, Deployment, Gateway, Name, Namespace, Route, Snapshot, Team};

/// A line of the policy, as it is written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Record<'a> {
    Gateway(&'a Gateway),
    Deployment(&'a Deployment),
    Route(&'a Route),
    Namespace(&'a Namespace),
    Team(&'a Team),
    Budget(&'a Budget),
}

/// A line of the policy, as it is read: at most one of these. Raw: a newer writer may say what this version does not
/// understand.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Line<'a> {
    pub gateway: Option<Gateway>,
    #[serde(borrow)]
    pub deployment: Option<&'a RawValue>,
    pub route: Option<Route>,
    pub namespace: Option<Namespace>,
    pub team: Option<Team>,
    #[serde(borrow)]
    pub budget: Option<&'a RawValue>,
}

/// What key shards call each budget, by index. An account may have several rows that count different calls, so that its
/// id alone says too little.
pub(super) fn references(budgets: &[Budget]) -> Vec<Name> {
    budgets.iter().map(reference).collect()
}

pub(super) fn reference(budget: &Budget) -> Name {
    let Budget { id, rules, .. } = budget;
    let BudgetRules { models, providers, tags, end_users, .. } = &**rules;
    // Of one account all rows have the same `per`.
    let by_call = !tags.is_empty() || !end_users.is_empty();
    if models.is_none() && providers.is_empty() && !by_call {
        return id.clone();
    }
    let filter = match by_call {
        true => serde_json::to_string(&(models, providers, tags, end_users)),
        false => serde_json::to_string(&(models, providers)),
    };
    let filter = filter.expect("names are valid JSON");
    // An id begins with the name of a namespace, in which there is no `:`.
    format!("{}:{id}", &sha256(&filter)[..16]).into()
}

/// The whole text. Budgets that keys share are in the order of their references, for which of them came first depends
/// on the keys.
pub(super) fn write(snapshot: &Snapshot, references: &[Name]) -> String {
    let Snapshot { gateway, deployments, routes, namespaces, teams, budgets, policies: _, keys } = snapshot;
    let mut lines = Lines::default();
    lines.push(&Record::Gateway(gateway));
    deployments.iter().for_each(|deployment| lines.push(&Record::Deployment(deployment)));
    routes.iter().for_each(|route| lines.push(&Record::Route(route)));
    namespaces.iter().for_each(|namespace| lines.push(&Record::Namespace(namespace)));
    teams.iter().for_each(|team| lines.push(&Record::Team(team)));
    let mut travels_with_key = vec![false; budgets.len()];
    for &budget in keys.iter().flat_map(|key| &key.budgets) {
        travels_with_key[budget as usize] |= budgets[budget as usize].of_one_key;
    }
    let mut shared: Vec<usize> = (0..budgets.len()).filter(|at| !travels_with_key[*at]).collect();
    shared.sort_by(|a, b| references[*a].cmp(&references[*b]));
    shared.into_iter().for_each(|at| lines.push(&Record::Budget(&budgets[at])));
    lines.into_text()
}
