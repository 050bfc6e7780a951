//! What the compiled snapshots say of objects, by their names: built once for all statuses of a round.

use std::collections::{HashMap, HashSet};

use tollgate_crds::VirtualKeySpec;
use tollgate_snapshot::GatewayName;
use tollgate_snapshot::compile::Document;
use tollgate_snapshot::model::{Deployment, Key, Snapshot};

use crate::tables::compiled::Compiled;
use crate::world::Objects;

type Name<'a> = (&'a str, &'a str);

/// By namespace and name.
#[derive(Debug, Default)]
pub struct Index<'a> {
    pub deployments: HashMap<Name<'a>, &'a Deployment>,
    pub keys: HashMap<Name<'a>, &'a Key>,
    /// Ids of the budgets that bind every call of a key, and let none through when they are spent.
    pub budgets_of_key: HashMap<Name<'a>, Vec<&'a str>>,
    /// Ids of the accounts that a key has for itself of Budgets, each once, those of Budgets that it names first.
    pub accounts_of_key: HashMap<Name<'a>, Vec<&'a str>>,
    /// Ids of budgets that let no call through.
    pub denying: HashSet<&'a str>,
    /// Budgets that have such rows.
    pub denying_objects: HashSet<Name<'a>>,
    /// RouteGroups that serve a name.
    pub groups: HashSet<Name<'a>>,
    pub teams: HashSet<Name<'a>>,
    /// How many keys are bound by a Budget.
    pub keys_of_budget: HashMap<Name<'a>, i64>,
    /// How many VirtualKeys name a Team.
    pub keys_of_team: HashMap<Name<'a>, i64>,
    /// How many keys work at a gateway.
    pub keys_of_gateway: HashMap<Name<'a>, i64>,
}

impl<'a> Index<'a> {
    pub fn new(objects: &'a Objects, compiled: &'a Compiled, now: i64) -> Index<'a> {
        let mut index = Index::default();
        for (GatewayName { namespace, name }, snapshot) in &compiled.snapshots {
            index.add(snapshot);
            let works = |key: &&Key| !key.disabled && key.expires_at.is_none_or(|end| end > now);
            let working = snapshot.keys.iter().filter(works).count();
            index.keys_of_gateway.insert((namespace, name), i64::try_from(working).unwrap_or(i64::MAX));
        }
        for document in objects.documents() {
            let Document::VirtualKey(object) = document else { continue };
            let VirtualKeySpec { team_ref, .. } = &object.spec;
            let Some(team) = team_ref else { continue };
            let namespace = team.namespace.as_deref().unwrap_or(&object.meta.namespace);
            *index.keys_of_team.entry((namespace, &team.name)).or_default() += 1;
        }
        index
    }

    fn add(&mut self, snapshot: &'a Snapshot) {
        let Snapshot { gateway: _, deployments, routes, namespaces, teams, budgets, policies, keys } = snapshot;
        self.deployments.extend(deployments.iter().map(|one| ((&*one.namespace, &*one.name), one)));
        self.groups
            .extend(routes.iter().filter(|route| route.explicit).filter_map(|route| route.owner.split_once('/')));
        self.teams.extend(teams.iter().map(|team| (&*team.namespace, &*team.name)));
        let rows = budgets;
        let budgets: Vec<Option<Name<'a>>> = budgets.iter().map(|budget| budget_object(&budget.id)).collect();
        for budget in budgets.iter().flatten() {
            self.keys_of_budget.entry(*budget).or_default();
        }
        for (row, budget) in rows.iter().zip(&budgets).filter(|(row, _)| row.denies()) {
            self.denying.insert(&row.id);
            self.denying_objects.extend(budget);
        }
        self.keys.reserve(keys.len());
        for key in keys {
            let policy = policies.get(key.policy as usize);
            let Some(namespace) = policy.and_then(|policy| namespaces.get(policy.namespace as usize)) else { continue };
            self.keys.insert((&namespace.name, &key.name), key);
            let bound = || key.budgets.iter().filter_map(|at| rows.get(*at as usize));
            let binding = bound().filter(|row| row.counts_every_call() && row.throttle_percent.is_none());
            self.budgets_of_key.insert((&namespace.name, &key.name), binding.map(|row| &*row.id).collect());
            for row in bound().filter(|row| row.of_one_key && budget_object(&row.id).is_some()) {
                let accounts = self.accounts_of_key.entry((&namespace.name, &key.name)).or_default();
                if !accounts.contains(&&*row.id) {
                    accounts.push(&row.id);
                }
            }
            let mut counted: Vec<Name<'a>> = Vec::new();
            for at in &key.budgets {
                let Some(Some(budget)) = budgets.get(*at as usize) else { continue };
                // One Budget may bind a key with several rows.
                if !counted.contains(budget) {
                    counted.push(*budget);
                    *self.keys_of_budget.entry(*budget).or_default() += 1;
                }
            }
        }
    }
}

/// The Budget object behind `namespace/Budget/name` and `namespace/Budget/name/member`.
pub fn budget_object(id: &str) -> Option<(&str, &str)> {
    let (namespace, rest) = id.split_once("/Budget/")?;
    Some((namespace, rest.split('/').next().unwrap_or(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_told_from_those_of_keys_and_teams() {
        for (id, object) in [
            ("n/Budget/b", Some(("n", "b"))),
            ("n/Budget/b/team/x", Some(("n", "b"))),
            ("n/VirtualKey/k", None),
            ("n/Team/t/alice", None),
        ] {
            assert_eq!(budget_object(id), object, "{id}");
        }
    }
}
