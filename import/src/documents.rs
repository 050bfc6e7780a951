//! A draft as what `compile` reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use tollgate_snapshot::compile::{Document, Meta, Object, Secret};

use crate::draft::{BUDGET, Draft, GATEWAY};
use crate::environment::Resolved;
use crate::secret::SecretDraft;

/// Documents and Secrets of a draft whose variables are all known.
pub fn documents(draft: Draft, namespace: &str) -> (Vec<Document>, Vec<Secret>) {
    let Draft { secrets, gateway, deployments, groups, budget } = draft;
    let mut documents = vec![Document::LLMGateway(object(namespace, GATEWAY, gateway))];
    let deployments = deployments.into_iter();
    documents.extend(deployments.map(|(name, spec)| Document::ModelDeployment(object(namespace, &name, spec))));
    let groups = groups.into_iter();
    documents.extend(groups.map(|(name, spec)| Document::RouteGroup(object(namespace, &name, spec))));
    documents.extend(budget.map(|spec| Document::Budget(object(namespace, BUDGET, spec))));
    let secrets = secrets.into_iter().map(|draft| secret(draft, namespace)).collect();
    (documents, secrets)
}

fn object<S>(namespace: &str, name: &str, spec: S) -> Box<Object<S>> {
    Box::new(Object { meta: Meta::new(namespace, name), spec })
}

fn secret(draft: SecretDraft, namespace: &str) -> Secret {
    let SecretDraft { name, key, value, hosts, .. } = draft;
    let mut meta = Meta::new(namespace, name);
    if !hosts.is_empty() {
        let hosts: Vec<String> = hosts.into_iter().collect();
        meta.annotations.insert("tollgate.dev/hosts".to_owned(), hosts.join(","));
    }
    // A variable without a value has been noted; its entry is missing, which is what `compile` will say.
    let data = match value {
        Resolved::Text(text) => BTreeMap::from([(key.to_owned(), Arc::from(text))]),
        Resolved::Variable(_) | Resolved::Missing(_) => BTreeMap::new(),
    };
    Secret { meta, data }
}
