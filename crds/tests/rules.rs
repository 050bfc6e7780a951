//! Each rule of the schemas once kept and once broken, with the message that its user reads.

mod support;

use serde_json::{Value, json};
use support::{documents, problems, read, schema_of};
use tollgate_crds::{API_VERSION, Resource};

/// The messages of the rules that an object of `kind` with `spec` breaks.
fn broken(kind: &str, spec: &Value) -> Vec<String> {
    messages(object(kind, spec), None)
}

/// The messages of the rules that a change of the spec breaks.
fn broken_by_change(kind: &str, old: &Value, new: &Value) -> Vec<String> {
    messages(object(kind, new), Some(object(kind, old)))
}

fn object(kind: &str, spec: &Value) -> Resource {
    let document = json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "x"}, "spec": spec});
    let (resource, ignored) = read(&document);
    assert_eq!(ignored, Vec::<String>::new(), "the test writes fields that exist");
    resource
}

fn messages(new: Resource, old: Option<Resource>) -> Vec<String> {
    macro_rules! check {
        ($($kind:ident),*) => {
            match (new, old) {
                $((Resource::$kind(new), None) => new.validate_cel(),)*
                $((Resource::$kind(new), Some(Resource::$kind(old))) => new.validate_cel_update(&old),)*
                (new, old) => panic!("{} became {:?}", old.map(|old| old.kind()).unwrap_or_default(), new.kind()),
            }
        };
    }
    let checked = check!(LLMGateway, ProviderAccount, ModelDeployment, RouteGroup, Team, VirtualKey, Budget);
    match checked {
        Ok(()) => vec![],
        Err(errors) => errors.into_vec().into_iter().map(|error| error.message).collect(),
    }
}

/// `base` with the fields of `more`; null removes one.
fn with(base: &Value, more: Value) -> Value {
    let mut spec = base.clone();
    for (name, value) in more.as_object().expect("fields") {
        match value {
            Value::Null => spec.as_object_mut().expect("fields").remove(name),
            value => spec.as_object_mut().expect("fields").insert(name.clone(), value.clone()),
        };
    }
    spec
}

fn deployment() -> Value {
    json!({"provider": "openai", "model": "gpt-4o"})
}

fn key() -> Value {
    json!({"secret": {"name": "k"}})
}

fn budget() -> Value {
    json!({"limit": "1", "period": {"calendar": "Month"}})
}

fn overlay(change: Value) -> Value {
    json!({"prices": {"overlays": [with(&json!({"name": "contract"}), change)]}})
}

fn group() -> Value {
    json!({"targets": [{"name": "a", "modelDeploymentRef": {"name": "a"}}]})
}

#[test]
fn the_smallest_objects_keep_every_rule() {
    for (kind, spec) in [
        ("LLMGateway", json!({})),
        ("ProviderAccount", json!({"provider": "openai"})),
        ("ModelDeployment", deployment()),
        ("RouteGroup", group()),
        ("Team", json!({})),
        ("VirtualKey", key()),
        ("Budget", budget()),
    ] {
        assert_eq!(broken(kind, &spec), Vec::<String>::new(), "{kind}");
    }
}

#[test]
fn each_rule_is_kept_by_one_spec_and_broken_by_another() {
    let hash = format!("sha256:{}", "0".repeat(64));
    let account = json!({"accountRef": {"name": "a"}, "model": "m"});
    let target = |name: &str, to: &str| json!({"name": name, "modelDeploymentRef": {"name": to}});
    let credential = |more: Value| json!({"provider": "p", "credentials": [with(&json!({"name": "a"}), more)]});
    let secret = json!({"name": "s", "key": "k"});
    let env = |more: Value| json!({"podTemplate": {"env": [with(&json!({"name": "A"}), more)]}});
    let selector = |expression: Value| json!({"allowedNamespaces": {"from": "Selector", "selector": {"matchExpressions": [expression]}}});
    let cases: Vec<(&str, &str, Value, Value)> = vec![
        (
            "LLMGateway",
            "endUserHeaders must not name a header that holds a credential",
            json!({"attribution": {"endUserHeaders": ["X-OpenWebUI-User-Id"]}}),
            json!({"attribution": {"endUserHeaders": ["X-OpenWebUI-User-Id", "authorization"]}}),
        ),
        (
            "LLMGateway",
            "tagHeaders must not name a header that holds a credential",
            json!({"attribution": {"tagHeaders": ["User-Agent"]}}),
            json!({"attribution": {"tagHeaders": ["X-API-Key"]}}),
        ),
        (
            "ModelDeployment",
            "exactly one of accountRef, provider must be set",
            account.clone(),
            with(&deployment(), json!({"accountRef": {"name": "a"}})),
        ),
        ("ModelDeployment", "exactly one of accountRef, provider must be set", deployment(), json!({"model": "m"})),
        (
            "ModelDeployment",
            "credential, backendRef and endpoint belong beside provider only; an account brings its own",
            with(&deployment(), json!({"credential": {"secretRef": secret}})),
            with(&account, json!({"credential": {"secretRef": secret}})),
        ),
        (
            "ModelDeployment",
            "set backendRef or endpoint, not both",
            with(&deployment(), json!({"backendRef": {"name": "s", "port": 80}})),
            with(&deployment(), json!({"backendRef": {"name": "s", "port": 80}, "endpoint": {}})),
        ),
        (
            "ModelDeployment",
            "baseURL must begin with http:// or https://",
            with(&deployment(), json!({"endpoint": {"baseURL": "https://a.example.com/v1"}})),
            with(&deployment(), json!({"endpoint": {"baseURL": "file:///etc/passwd"}})),
        ),
        (
            "ModelDeployment",
            "weight must be greater than 0",
            with(&deployment(), json!({"weight": 1})),
            with(&deployment(), json!({"weight": 0})),
        ),
        (
            "ModelDeployment",
            "free excludes perMillionTokens, like and rates",
            with(&deployment(), json!({"pricing": {"free": true}})),
            with(&deployment(), json!({"pricing": {"free": true, "like": "openai/gpt-4o"}})),
        ),
        (
            "ModelDeployment",
            "set at least one of perMillionTokens, free, like, rates",
            with(&deployment(), json!({"pricing": {"rates": [{"unit": "OutputImage", "price": "0.04"}]}})),
            with(&deployment(), json!({"pricing": {}})),
        ),
        (
            "ModelDeployment",
            "selector belongs beside `from: Selector`, and only there",
            with(&deployment(), json!({"allowedNamespaces": {"from": "Selector", "selector": {}}})),
            with(&deployment(), json!({"allowedNamespaces": {"from": "All", "selector": {}}})),
        ),
        (
            "Team",
            "values belong beside the operators In and NotIn, and only there",
            selector(json!({"key": "env", "operator": "In", "values": ["dev"]})),
            selector(json!({"key": "env", "operator": "Exists", "values": ["dev"]})),
        ),
        (
            "ProviderAccount",
            "exactly one of secretRef, workloadIdentity must be set",
            credential(json!({"secretRef": secret})),
            credential(json!({"secretRef": secret, "workloadIdentity": {}})),
        ),
        (
            "ProviderAccount",
            "weight must be greater than 0",
            credential(json!({"secretRef": secret, "weight": 2})),
            credential(json!({"secretRef": secret, "weight": -1})),
        ),
        (
            "RouteGroup",
            "a modelDeploymentRef may appear in one target only",
            json!({"targets": [target("a", "x"), target("b", "y")]}),
            json!({"targets": [target("a", "x"), target("b", "x")]}),
        ),
        (
            "RouteGroup",
            "weight must be greater than 0",
            json!({"targets": [with(&target("a", "x"), json!({"weight": 1}))]}),
            json!({"targets": [with(&target("a", "x"), json!({"weight": 0}))]}),
        ),
        (
            "RouteGroup",
            "header belongs beside `by: Header`, and only there",
            with(&group(), json!({"affinity": {"by": "Header", "header": "x-session"}})),
            with(&group(), json!({"affinity": {"by": "Header"}})),
        ),
        ("VirtualKey", "exactly one of secret, keyHash must be set", json!({"keyHash": hash}), json!({})),
        ("VirtualKey", "exactly one of secret, keyHash must be set", key(), with(&key(), json!({"keyHash": hash}))),
        (
            "VirtualKey",
            "keyHash must be `sha256:` and 64 lower case hexadecimal digits",
            json!({"keyHash": hash}),
            json!({"keyHash": "sha256:sk-my-key"}),
        ),
        (
            "VirtualKey",
            "set budget or budgetRefs, not both",
            with(&key(), json!({"budgetRefs": [{"name": "b"}]})),
            with(&key(), json!({"budgetRefs": [{"name": "b"}], "budget": budget()})),
        ),
        (
            "VirtualKey",
            "rotation belongs beside secret only: a key that exists elsewhere cannot be rotated here",
            with(&key(), json!({"rotation": {"every": "720h"}})),
            json!({"keyHash": hash, "rotation": {"every": "720h"}}),
        ),
        (
            "VirtualKey",
            "overlap must be shorter than every",
            with(&key(), json!({"rotation": {"every": "720h", "overlap": "24h"}})),
            with(&key(), json!({"rotation": {"every": "24h", "overlap": "24h"}})),
        ),
        (
            "Budget",
            "exactly one of calendar, rolling, lifetime must be set",
            with(&budget(), json!({"period": {"lifetime": {}}})),
            with(&budget(), json!({"period": {"calendar": "Day", "rolling": "24h"}})),
        ),
        (
            "Budget",
            "exactly one of calendar, rolling, lifetime must be set",
            with(&budget(), json!({"period": {"rolling": "24h"}})),
            with(&budget(), json!({"period": {}})),
        ),
        (
            "Budget",
            "timeZone belongs beside calendar only",
            with(&budget(), json!({"period": {"calendar": "Day", "timeZone": "Europe/Vienna"}})),
            with(&budget(), json!({"period": {"rolling": "24h", "timeZone": "Europe/Vienna"}})),
        ),
        (
            "Budget",
            "a boost needs an end: set until",
            with(&budget(), json!({"boost": {"amount": "1", "until": "2026-12-31T00:00:00Z"}})),
            with(&budget(), json!({"boost": {"amount": "1"}})),
        ),
        (
            "Budget",
            "whenExhausted.action Throttle works only with enforcement Soft",
            with(&budget(), json!({"enforcement": "Soft", "whenExhausted": {"action": "Throttle", "percent": 10}})),
            with(&budget(), json!({"whenExhausted": {"action": "Throttle", "percent": 10}})),
        ),
        (
            "Budget",
            "percent belongs beside `action: Throttle`, and only there",
            with(&budget(), json!({"whenExhausted": {"action": "Block"}})),
            with(&budget(), json!({"whenExhausted": {"action": "Block", "percent": 10}})),
        ),
        (
            "Budget",
            "onAllocatorUnavailable Allow works only with enforcement Soft",
            with(&budget(), json!({"onAllocatorUnavailable": "Deny"})),
            with(&budget(), json!({"onAllocatorUnavailable": "Allow"})),
        ),
        (
            "LLMGateway",
            "set replicas or autoscaling, not both",
            json!({"replicas": 2}),
            json!({"replicas": 2, "autoscaling": {"maxReplicas": 3}}),
        ),
        (
            "LLMGateway",
            "minReplicas must not be above maxReplicas",
            json!({"autoscaling": {"minReplicas": 2, "maxReplicas": 2}}),
            json!({"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}),
        ),
        (
            "LLMGateway",
            "two listeners cannot have the same port",
            json!({"listeners": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]}),
            json!({"listeners": [{"name": "a", "port": 1}, {"name": "b", "port": 1}]}),
        ),
        (
            "LLMGateway",
            "minOutputTokens must not be above maxOutputTokens",
            json!({"defaults": {"minOutputTokens": 16, "maxOutputTokens": 16}}),
            json!({"defaults": {"minOutputTokens": 17, "maxOutputTokens": 16}}),
        ),
        (
            "LLMGateway",
            "budgetExceededStatus must be 429 or 422",
            json!({"defaults": {"budgetExceededStatus": 422}}),
            json!({"defaults": {"budgetExceededStatus": 200}}),
        ),
        (
            "LLMGateway",
            "endpoint must begin with http:// or https://",
            json!({"telemetry": {"otlp": {"endpoint": "http://collector:4317"}}}),
            json!({"telemetry": {"otlp": {"endpoint": "collector:4317"}}}),
        ),
        (
            "LLMGateway",
            "say at least one limit",
            json!({"rateLimits": [{"name": "users", "per": "User", "outputTokensPerMinute": 5}]}),
            json!({"rateLimits": [{"name": "users", "per": "User"}]}),
        ),
        (
            "LLMGateway",
            "exactly one of value, secretRef, configMapRef must be set",
            env(json!({"value": "a"})),
            env(json!({"value": "a", "secretRef": secret})),
        ),
        (
            "LLMGateway",
            "exactly one of pricing, discountPercent, surchargePercent, configMapRef must be set",
            overlay(json!({"discountPercent": "5"})),
            overlay(json!({"discountPercent": "5", "surchargePercent": "5"})),
        ),
    ];
    for (kind, message, good, bad) in &cases {
        assert_eq!(broken(kind, good), Vec::<String>::new(), "{kind}: {good}");
        assert_eq!(broken(kind, bad), [*message], "{kind}: {bad}");
    }
    let tested: Vec<&str> = cases.iter().map(|(_, message, _, _)| *message).chain(IMMUTABLE.map(|(_, m)| m)).collect();
    for kind in Resource::KINDS {
        for message in rule_messages(&schema_of(kind)) {
            assert!(tested.contains(&message.as_str()), "no test breaks the rule `{message}` of {kind}");
        }
    }
}

const IMMUTABLE: [(&str, &str); 3] = [
    ("gatewayRef", "gatewayRef is immutable; delete the object and create it again"),
    ("provider", "provider is immutable; delete the object and create it again"),
    ("unit", "unit is immutable; delete the object and create it again"),
];

/// The messages of all rules in a schema.
fn rule_messages(schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        found.push(rule["message"].as_str().unwrap_or_else(|| panic!("{rule} has no message")).to_owned());
    }
    for property in schema["properties"].as_object().into_iter().flat_map(|properties| properties.values()) {
        found.extend(rule_messages(property));
    }
    if schema["items"].is_object() {
        found.extend(rule_messages(&schema["items"]));
    }
    found
}

#[test]
fn what_is_immutable_cannot_be_changed_added_or_removed() {
    let message = |field: &str| IMMUTABLE.into_iter().find(|(name, _)| *name == field).expect("a field of the table").1;
    for (kind, base) in [("VirtualKey", key()), ("ModelDeployment", deployment())] {
        let at = |name: &str| with(&base, json!({"gatewayRef": {"name": name}}));
        assert_eq!(broken_by_change(kind, &base, &base), Vec::<String>::new());
        assert_eq!(broken_by_change(kind, &at("a"), &at("a")), Vec::<String>::new());
        for (old, new) in [(at("a"), at("b")), (base.clone(), at("a")), (at("a"), base.clone())] {
            assert_eq!(broken_by_change(kind, &old, &new), [message("gatewayRef")], "{kind}: {old} became {new}");
        }
    }
    let at = |provider: &str| json!({"provider": provider});
    assert_eq!(broken_by_change("ProviderAccount", &at("azure"), &at("azure")), Vec::<String>::new());
    assert_eq!(broken_by_change("ProviderAccount", &at("azure"), &at("openai")), [message("provider")]);
    let tokens = with(&budget(), json!({"unit": "Tokens"}));
    assert_eq!(broken_by_change("Budget", &budget(), &with(&budget(), json!({"limit": "2"}))), Vec::<String>::new());
    assert_eq!(broken_by_change("Budget", &budget(), &tokens), [message("unit")]);
}

#[test]
fn prices_and_limits_below_zero_are_refused_by_their_pattern() {
    let schema = schema_of("ModelDeployment");
    for (price, accepted) in [("0", true), ("0.10", true), ("-0.10", false), ("1e-7", false), ("free", false)] {
        let document = json!({"metadata": {}, "spec": with(&deployment(), json!({"pricing": {"perMillionTokens": {"input": price}}}))});
        assert_eq!(problems(&schema, &document, "").is_empty(), accepted, "{price}");
    }
    let schema = schema_of("Budget");
    let document = json!({"metadata": {}, "spec": with(&budget(), json!({"limit": "-1"}))});
    assert_eq!(problems(&schema, &document, "").len(), 1);
}

#[test]
fn the_fixtures_cover_every_field_of_every_spec() {
    let documents = documents();
    for kind in Resource::KINDS {
        let schema = schema_of(kind);
        let specs: Vec<&Value> =
            documents.iter().filter(|document| document["kind"] == kind).map(|document| &document["spec"]).collect();
        for name in schema["properties"]["spec"]["properties"].as_object().expect("spec has fields").keys() {
            assert!(specs.iter().any(|spec| !spec[name].is_null()), "no document has {kind} spec.{name}");
        }
    }
}
