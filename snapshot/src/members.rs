//! Which objects a snapshot holds, by name: what proxies that run it act on.

use std::collections::HashSet;

use foldhash::fast::RandomState;

use crate::finding::ObjectRef;
use crate::model::{Budget, Deployment, Key, Route, Snapshot, Team};

/// The objects of one snapshot. An account that no deployment uses, and a budget for each key, user or team that has none
/// of these yet, are not among them, though nothing is wrong with them.
#[derive(Debug)]
pub struct Members<'a>(HashSet<(&'static str, &'a str, &'a str), RandomState>);

impl<'a> Members<'a> {
    pub fn of(snapshot: &'a Snapshot) -> Members<'a> {
        let Snapshot { gateway, deployments, routes, namespaces, teams, budgets, policies, keys } = snapshot;
        let mut members = HashSet::with_capacity_and_hasher(keys.len() + budgets.len(), RandomState::default());
        members.insert(("LLMGateway", &*gateway.namespace, &*gateway.name));
        for Deployment { namespace, name, account, .. } in deployments {
            members.insert(("ModelDeployment", namespace, name));
            let account = account.as_ref().and_then(|account| account.id.split_once('/'));
            members.extend(account.map(|(namespace, name)| ("ProviderAccount", namespace, name)));
        }
        for Route { owner, .. } in routes.iter().filter(|route| route.explicit) {
            members.extend(owner.split_once('/').map(|(namespace, name)| ("RouteGroup", namespace, name)));
        }
        for Team { namespace, name, .. } in teams {
            members.insert(("Team", namespace, name));
        }
        for Budget { id, .. } in budgets {
            let mut parts = id.splitn(4, '/');
            if let (Some(namespace), Some("Budget"), Some(name)) = (parts.next(), parts.next(), parts.next()) {
                members.insert(("Budget", namespace, name));
            }
        }
        for Key { name, policy, .. } in keys {
            let namespace = &namespaces[policies[*policy as usize].namespace as usize];
            members.insert(("VirtualKey", &namespace.name, name));
        }
        Members(members)
    }

    pub fn contains(&self, object: &ObjectRef) -> bool {
        self.0.contains(&(object.kind, object.namespace.as_str(), object.name.as_str()))
    }
}
