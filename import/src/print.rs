//! Resources as YAML for people: only what was set, in the order of the types, Secrets first.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::json;
use tollgate_crds::{API_VERSION, BudgetSpec, LLMGatewaySpec, ModelDeploymentSpec, RouteGroupSpec};
use yaml_serde::{Mapping, Value};

use crate::Output;
use crate::draft::{BUDGET, Draft, GATEWAY};
use crate::environment::Resolved;
use crate::secret::SecretDraft;

/// The annotation that lets the value of a Secret be sent to further hosts.
const HOSTS: &str = "tollgate.dev/hosts";

const HEADER: &str = "\
# Made by `tollgate import` from a LiteLLM configuration. Serve it with `tollgate serve --config FILE`.
# ${NAME} in a Secret is filled from the environment.
";

const HEADER_FILLED: &str = "\
# Made by `tollgate import --fill` from a LiteLLM configuration. Holds secrets. Apply it with `kubectl apply -f FILE`.
";

/// All documents of a draft.
pub fn print(draft: &Draft, output: Output<'_>) -> String {
    let Draft { secrets, gateway, deployments, groups, budget } = draft;
    let Output { namespace, fill, gateway: with_gateway } = output;
    let mut text = if fill.is_some() { HEADER_FILLED } else { HEADER }.to_owned();
    let is_master = |secret: &SecretDraft| {
        let reference = gateway.master_key.as_ref().map(|source| &source.secret_ref);
        reference.is_some_and(|reference| reference.name == secret.name)
    };
    let secrets: Vec<&SecretDraft> = secrets.iter().filter(|secret| with_gateway || !is_master(secret)).collect();
    if fill.is_some() {
        for secret in &secrets {
            text.push_str(&missing(secret, namespace));
        }
    }
    let mut is_first = true;
    let mut add = |document: Value| {
        if !std::mem::replace(&mut is_first, false) {
            text.push_str("---\n");
        }
        text.push_str(&yaml_serde::to_string(&document).expect("maps with text keys and scalars are always YAML"));
    };
    for secret in secrets {
        if fill.is_none() || matches!(secret.value, Resolved::Text(_)) {
            add(print_secret(secret, namespace));
        }
    }
    if with_gateway {
        add(resource("LLMGateway", namespace, GATEWAY, gateway, &LLMGatewaySpec::default()));
    }
    let usual: ModelDeploymentSpec = usual(json!({"model": ""}));
    for (name, spec) in deployments {
        add(resource("ModelDeployment", namespace, name, spec, &usual));
    }
    let usual_group: RouteGroupSpec = self::usual(json!({"targets": []}));
    for (name, spec) in groups {
        add(resource("RouteGroup", namespace, name, spec, &usual_group));
    }
    if let Some(spec) = budget {
        let usual: BudgetSpec = self::usual(json!({"limit": "", "period": {}}));
        add(resource("Budget", namespace, BUDGET, spec, &usual));
    }
    text
}

/// How to make a Secret that is left out, as a comment; nothing for one that is there.
fn missing(secret: &SecretDraft, namespace: &str) -> String {
    let SecretDraft { name, key, value, hosts, .. } = secret;
    let variable = match value {
        Resolved::Text(_) => return String::new(),
        Resolved::Variable(variable) | Resolved::Missing(variable) => variable,
    };
    let create = format!("kubectl -n {namespace} create secret generic {name} --from-literal={key}=VALUE");
    let annotate = match hosts.is_empty() {
        true => String::new(),
        false => format!("#   kubectl -n {namespace} annotate secret {name} {HOSTS}={}\n", join(hosts)),
    };
    format!("# Left out, because {variable} is not set:\n#   {create}\n{annotate}")
}

fn join(hosts: &BTreeSet<String>) -> String {
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    hosts.join(",")
}

fn print_secret(secret: &SecretDraft, namespace: &str) -> Value {
    let SecretDraft { name, key, value, hosts, .. } = secret;
    let value = match value {
        Resolved::Text(text) => text.clone(),
        Resolved::Variable(name) | Resolved::Missing(name) => format!("${{{name}}}"),
    };
    let mut metadata = metadata(namespace, name);
    if !hosts.is_empty() {
        metadata.insert("annotations".into(), map([(HOSTS, join(hosts).into())]).into());
    }
    let data = map([(*key, value.into())]);
    map([
        ("apiVersion", "v1".into()),
        ("kind", "Secret".into()),
        ("metadata", metadata.into()),
        ("stringData", data.into()),
    ])
    .into()
}

/// `usual`: a spec of the kind in which nothing was set.
fn resource<S: Serialize>(kind: &str, namespace: &str, name: &str, spec: &S, usual: &S) -> Value {
    let mut spec = value(spec);
    prune(&mut spec, &value(usual));
    tidy(&mut spec);
    map([
        ("apiVersion", API_VERSION.into()),
        ("kind", kind.into()),
        ("metadata", metadata(namespace, name).into()),
        ("spec", spec),
    ])
    .into()
}

fn metadata(namespace: &str, name: &str) -> Mapping {
    map([("name", name.into()), ("namespace", namespace.into())])
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Mapping {
    entries.into_iter().map(|(key, value)| (Value::from(key), value)).collect()
}

fn value<S: Serialize>(spec: &S) -> Value {
    yaml_serde::to_value(spec).expect("specs have text keys only, so they are always YAML")
}

/// What a type says of itself when only its required fields are given.
fn usual<S: serde::de::DeserializeOwned>(required: serde_json::Value) -> S {
    serde_json::from_value(required).expect("all required fields are given")
}

/// Removes what is as it would be if nobody had set it.
fn prune(value: &mut Value, usual: &Value) {
    let (Value::Mapping(entries), Value::Mapping(usual)) = (value, usual) else { return };
    entries.retain(|key, value| usual.get(key) != Some(value));
    for (key, value) in entries.iter_mut() {
        if let Some(usual) = usual.get(key) {
            prune(value, usual);
        }
    }
}

/// Removes the defaults of parts that a spec without them does not show: prices and rates.
fn tidy(spec: &mut Value) {
    let Some(Value::Mapping(pricing)) = spec.get_mut("pricing") else { return };
    if pricing.get("free") == Some(&Value::Bool(false)) {
        pricing.shift_remove("free");
    }
    let Some(Value::Sequence(rates)) = pricing.get_mut("rates") else { return };
    for rate in rates.iter_mut().filter_map(Value::as_mapping_mut) {
        rate.retain(|key, value| {
            let is_usual = |name: &str, usual: i64| key.as_str() == Some(name) && value.as_i64() == Some(usual);
            !is_usual("per", 1) && !is_usual("aboveInputTokens", 0)
        });
    }
}
