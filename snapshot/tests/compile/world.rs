//! What tests ask of what was compiled.

use tollgate_snapshot::compile::Compiled;
use tollgate_snapshot::model::{Budget, Deployment, Key, Namespace, Policy, Route};
use tollgate_snapshot::{Finding, Reason, Severity};

pub use crate::documents::{NOW, World, mock_endpoint};

impl World {
    /// What is written now replaces what was; what it said remains the last good state.
    pub fn edited(&self, yaml: &str) -> World {
        World { previous: Some(self.compile().snapshot), ..World::read(yaml) }
    }
}

/// Questions that tests ask of a result.
pub trait Ask {
    fn namespace(&self, name: &str) -> &Namespace;
    fn route(&self, namespace: &str, name: &str) -> Option<&Route>;
    fn targets(&self, namespace: &str, name: &str) -> Vec<String>;
    fn deployment(&self, name: &str) -> Option<&Deployment>;
    fn key(&self, name: &str) -> Option<(&Key, &Policy)>;
    fn budgets_of(&self, key: &str) -> Vec<&Budget>;
    fn budget_ids_of(&self, key: &str) -> Vec<&str>;
    fn said(&self, name: &str, reason: Reason) -> Vec<&Finding>;
    fn summary(&self) -> Vec<String>;
    fn errors(&self) -> Vec<String>;
}

impl Ask for Compiled {
    fn namespace(&self, name: &str) -> &Namespace {
        self.snapshot.namespaces.iter().find(|namespace| &*namespace.name == name).expect("the namespace is there")
    }

    /// By the exact name or the pattern as it is written.
    fn route(&self, namespace: &str, name: &str) -> Option<&Route> {
        let Namespace { exact, prefixes, .. } = self.namespace(namespace);
        let found = match name.strip_suffix('*') {
            Some(prefix) => prefixes.iter().find(|(known, _)| &**known == prefix),
            None => exact.iter().find(|(known, _)| &**known == name),
        };
        found.map(|(_, route)| &self.snapshot.routes[*route as usize])
    }

    /// `namespace/name` of each.
    fn targets(&self, namespace: &str, name: &str) -> Vec<String> {
        let targets = self.route(namespace, name).map_or(&[][..], |route| &route.targets);
        let deployments = targets.iter().map(|target| &self.snapshot.deployments[target.deployment as usize]);
        deployments.map(|deployment| format!("{}/{}", deployment.namespace, deployment.name)).collect()
    }

    fn deployment(&self, name: &str) -> Option<&Deployment> {
        self.snapshot.deployments.iter().find(|deployment| &*deployment.name == name)
    }

    fn key(&self, name: &str) -> Option<(&Key, &Policy)> {
        let key = self.snapshot.keys.iter().find(|key| &*key.name == name)?;
        Some((key, &self.snapshot.policies[key.policy as usize]))
    }

    fn budgets_of(&self, key: &str) -> Vec<&Budget> {
        let (key, _) = self.key(key).expect("the key is there");
        key.budgets.iter().map(|budget| &self.snapshot.budgets[*budget as usize]).collect()
    }

    fn budget_ids_of(&self, key: &str) -> Vec<&str> {
        self.budgets_of(key).into_iter().map(|budget| &*budget.id).collect()
    }

    fn said(&self, name: &str, reason: Reason) -> Vec<&Finding> {
        self.findings.iter().filter(|finding| finding.object.name == name && finding.reason == reason).collect()
    }

    fn summary(&self) -> Vec<String> {
        let line = |finding: &Finding| {
            let Finding { object, severity, reason, field, .. } = finding;
            format!("{severity:?} {reason} {} {}/{} {field}", object.kind, object.namespace, object.name)
        };
        self.findings.iter().map(line).collect()
    }

    fn errors(&self) -> Vec<String> {
        let errors = self.findings.iter().filter(|finding| finding.severity == Severity::Error);
        errors.map(|finding| format!("{}: {} {}", finding.object, finding.field, finding.message)).collect()
    }
}
