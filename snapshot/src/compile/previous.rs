//! What the last good snapshot said about single objects. Looked up only when an edit is broken, so indexed only then.

use std::cell::OnceCell;
use std::collections::HashMap;

use crate::model::{Budget, Deployment, Key, Policy, Route, Snapshot, Team};

/// The last good snapshot, by names.
#[derive(Debug, Default)]
pub(super) struct Previous<'a> {
    snapshot: Option<&'a Snapshot>,
    keys: OnceCell<HashMap<(&'a str, &'a str), &'a Key>>,
    budgets: OnceCell<HashMap<&'a str, &'a Budget>>,
}

impl<'a> Previous<'a> {
    pub fn new(snapshot: Option<&'a Snapshot>) -> Previous<'a> {
        Previous { snapshot, keys: OnceCell::new(), budgets: OnceCell::new() }
    }

    pub fn deployment(&self, namespace: &str, name: &str) -> Option<&'a Deployment> {
        let mut deployments = self.snapshot?.deployments.iter();
        deployments.find(|deployment| *deployment.namespace == *namespace && *deployment.name == *name)
    }

    /// Any route of the RouteGroup: all its names have the same targets.
    pub fn route_of_group(&self, namespace: &str, name: &str) -> Option<(&'a Snapshot, &'a Route)> {
        let snapshot = self.snapshot?;
        let is_owner = |route: &&Route| {
            route.explicit && route.owner.split_once('/').is_some_and(|owner| owner == (namespace, name))
        };
        Some((snapshot, snapshot.routes.iter().find(is_owner)?))
    }

    pub fn team(&self, namespace: &str, name: &str) -> Option<&'a Team> {
        self.snapshot?.teams.iter().find(|team| *team.namespace == *namespace && *team.name == *name)
    }

    pub fn budget(&self, id: &str) -> Option<&'a Budget> {
        let snapshot = self.snapshot?;
        let by_id = || snapshot.budgets.iter().map(|budget| (&*budget.id, budget)).collect();
        self.budgets.get_or_init(by_id).get(id).copied()
    }

    /// Any of the budgets that a Budget object with `per` stood for: they differ in their member only.
    pub fn budget_of_any_member(&self, id: &str) -> Option<&'a Budget> {
        let is_member = |budget: &&Budget| budget.id.strip_prefix(id).is_some_and(|rest| rest.starts_with('/'));
        self.budget(id).or_else(|| self.snapshot?.budgets.iter().find(is_member))
    }

    /// Of several rows of one VirtualKey the one that ends last: the others are of keys that it replaced.
    pub fn key(&self, namespace: &str, name: &str) -> Option<(&'a Key, &'a Policy)> {
        let snapshot = self.snapshot?;
        let by_name = || {
            let mut last: HashMap<(&str, &str), &Key> = HashMap::with_capacity(snapshot.keys.len());
            for key in &snapshot.keys {
                let Some(policy) = snapshot.policies.get(key.policy as usize) else { continue };
                let Some(namespace) = snapshot.namespaces.get(policy.namespace as usize) else { continue };
                let end = |key: &Key| key.expires_at.unwrap_or(i64::MAX);
                let kept = last.entry((&*namespace.name, &*key.name)).or_insert(key);
                if end(kept) < end(key) {
                    *kept = key;
                }
            }
            last
        };
        let key = *self.keys.get_or_init(by_name).get(&(namespace, name))?;
        Some((key, snapshot.policies.get(key.policy as usize)?))
    }
}
