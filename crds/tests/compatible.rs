//! What the definitions of the version before accepted is still accepted, and means the same: `v1alpha1` only grows.
//! `previous/crds.yaml` is what `tollgate crds` of that version printed; it is replaced when a version is released, and
//! at no other time. Columns and descriptions may change.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use tollgate_crds::all_crds;

const PREVIOUS: &str = include_str!("previous/crds.yaml");

/// Rules and patterns that are new or were reworded although their field is not new, as `Kind.path: rule`. Each refuses nothing that
/// was accepted before; say why beside it.
const HARMLESS_RULES: [&str; 5] = [
    // `configMapRef` was required, and the others are new.
    r#"LLMGateway.spec.prices.overlays[]: the rule "(has(self.pricing) ? 1 : 0) + (has(self.discountPercent) ? 1 : 0) + (has(self.surchargePercent) ? 1 : 0) + (has(self.configMapRef) ? 1 : 0) == 1" is new"#,
    // The same as before where `free` has its default, which items of lists have not.
    r#"ModelDeployment.spec.pricing: the rule "!has(self.free) || !self.free || !(has(self.perMillionTokens) || has(self.like) || (has(self.rates) && self.rates.size() > 0))" is new"#,
    r#"ModelDeployment.spec.pricing: the rule "(has(self.free) && self.free) || has(self.perMillionTokens) || has(self.like) || (has(self.rates) && self.rates.size() > 0)" is new"#,
    // What it refuses, the API server refused in the gateway's Deployment.
    r#"LLMGateway.spec.podTemplate.resources.limits{}: pattern was null and is "^[+-]?([0-9]+(\\.[0-9]*)?|\\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$""#,
    r#"LLMGateway.spec.podTemplate.resources.requests{}: pattern was null and is "^[+-]?([0-9]+(\\.[0-9]*)?|\\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$""#,
];

/// Bounds that narrow when the number falls, and those that narrow when it rises.
const UPPER: [&str; 4] = ["maxLength", "maximum", "maxItems", "maxProperties"];
const LOWER: [&str; 4] = ["minLength", "minimum", "minItems", "minProperties"];

/// What must stay as it is, where it is set at all.
const FIXED: [&str; 7] = [
    "type",
    "format",
    "pattern",
    "default",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
];

/// Everything in which `new` refuses, or reads in another way, what `old` accepted.
fn broken(old: &[Value], new: &[Value]) -> Vec<String> {
    let mut found = Vec::new();
    let by_name = |all: &[Value]| -> BTreeMap<String, Value> {
        let name = |definition: &Value| definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        all.iter().map(|definition| (name(definition), definition.clone())).collect()
    };
    let new = by_name(new);
    for (name, old) in by_name(old) {
        match new.get(&name) {
            None => found.push(format!("{name}: the kind is gone; objects of it would be deleted")),
            Some(new) => compare_definitions(&old["spec"], &new["spec"], &mut found),
        }
    }
    found.retain(|line| !HARMLESS_RULES.contains(&line.as_str()));
    found
}

fn compare_definitions(old: &Value, new: &Value, found: &mut Vec<String>) {
    let kind = old["names"]["kind"].as_str().unwrap_or_default();
    for pointer in ["/group", "/scope", "/names/kind", "/names/plural", "/names/singular"] {
        if old.pointer(pointer) != new.pointer(pointer) {
            found.push(format!("{kind}: {pointer} changed; the server refuses that"));
        }
    }
    for list in ["shortNames", "categories"] {
        for name in gone(&old["names"][list], &new["names"][list]) {
            found.push(format!("{kind}: {list} no longer has {name}; commands that people know would fail"));
        }
    }
    for old in items(&old["versions"]) {
        let version = &old["name"];
        let Some(new) = items(&new["versions"]).iter().find(|new| new["name"] == *version && new["served"] == true)
        else {
            found.push(format!("{kind}: version {version} is no longer served"));
            continue;
        };
        for (name, subresource) in old["subresources"].as_object().into_iter().flatten() {
            if new["subresources"][name] != *subresource {
                found.push(format!("{kind}: the subresource {name} is gone or has other paths"));
            }
        }
        for field in gone(&old["selectableFields"], &new["selectableFields"]) {
            found.push(format!("{kind}: {field} can no longer be selected by"));
        }
        compare(&old["schema"]["openAPIV3Schema"], &new["schema"]["openAPIV3Schema"], kind, found);
    }
}

/// Compares a node that both have, and all below it.
fn compare(old: &Value, new: &Value, path: &str, found: &mut Vec<String>) {
    let mut say = |what: String| found.push(format!("{path}: {what}"));
    for name in FIXED {
        // Inside of lists defaults are the reader's: kubectl compares lists as a whole.
        if name == "default" && new[name].is_null() && path.contains("[]") {
            continue;
        }
        let is_narrower = !new[name].is_null() || ["type", "default", "x-kubernetes-list-type"].contains(&name);
        if old[name] != new[name] && is_narrower {
            say(format!("{name} was {} and is {}", old[name], new[name]));
        }
    }
    for name in UPPER.into_iter().chain(LOWER) {
        let (old, new) = (&old[name], &new[name]);
        let is_wider = |old: f64, new: f64| if UPPER.contains(&name) { new >= old } else { new <= old };
        let is_fine = match (old.as_f64(), new.as_f64()) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(old), Some(new)) => is_wider(old, new),
        };
        if !is_fine {
            say(format!("{name} was {old} and is {new}: values that were accepted would be refused"));
        }
    }
    if new["enum"].is_array() {
        if old["enum"].is_null() {
            say("takes a fixed set of values now".to_owned());
        }
        for value in gone(&old["enum"], &new["enum"]) {
            say(format!("the value {value} is gone"));
        }
    }
    for name in gone(&new["required"], &old["required"]) {
        say(format!("{name} is required now; objects without it would be refused"));
    }
    if old["x-kubernetes-preserve-unknown-fields"] == true && new["x-kubernetes-preserve-unknown-fields"] != true {
        say("drops unknown fields now".to_owned());
    }
    let rules = |node: &Value| -> Vec<Value> {
        items(&node["x-kubernetes-validations"]).iter().map(|rule| rule["rule"].clone()).collect()
    };
    let before = rules(old);
    for rule in rules(new).into_iter().filter(|rule| !before.contains(rule)) {
        say(format!("the rule {rule} is new"));
    }
    for (name, old) in old["properties"].as_object().into_iter().flatten() {
        let below = format!("{path}.{name}");
        match new["properties"].get(name) {
            None => found.push(format!("{below}: the field is gone; what users wrote there would be dropped")),
            Some(new) => compare(old, new, &below, found),
        }
    }
    for (name, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if old[name].is_object() {
            compare(&old[name], &new[name], &format!("{path}{mark}"), found);
        }
    }
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

/// Items of `old` that `new` does not have.
fn gone<'v>(old: &'v Value, new: &Value) -> Vec<&'v Value> {
    items(old).iter().filter(|item| !items(new).contains(item)).collect()
}

fn current() -> Vec<Value> {
    all_crds().iter().map(|definition| serde_json::to_value(definition).expect("definitions are JSON")).collect()
}

#[test]
fn objects_of_the_version_before_stay_valid_and_mean_the_same() {
    let previous: Vec<Value> = serde_saphyr::from_multiple(PREVIOUS).expect("the definitions are YAML");
    assert_eq!(previous.len(), 7);
    let broken = broken(&previous, &current());
    assert!(
        broken.is_empty(),
        "v1alpha1 is additive, but against the version before:\n  {}\nMake the change without this, or in a new \
         version of the API.",
        broken.join("\n  ")
    );
}

/// One change of a definition, and what is said of it.
#[test]
fn every_way_to_break_an_object_is_seen() {
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let cases: [(&str, Value, &str); 18] = [
        ("/spec/scope", json!("Cluster"), "Budget: /scope changed"),
        ("/spec/names/shortNames", json!([]), "Budget: shortNames no longer has \"bud\""),
        ("/spec/versions/0/served", json!(false), "Budget: version \"v1alpha1\" is no longer served"),
        ("/spec/versions/0/subresources", json!({}), "Budget: the subresource status is gone"),
        ("{spec}/properties/limit", Value::Null, "Budget.spec.limit: the field is gone"),
        ("{spec}/properties/limit/type", json!("integer"), "Budget.spec.limit: type was \"string\" and is \"integer\""),
        ("{spec}/properties/limit/maxLength", json!(3), "Budget.spec.limit: maxLength was"),
        ("{spec}/properties/limit/minLength", json!(9), "Budget.spec.limit: minLength was"),
        ("{spec}/properties/limit/pattern", json!("^1$"), "Budget.spec.limit: pattern was"),
        ("{spec}/properties/limit/enum", json!(["1"]), "Budget.spec.limit: takes a fixed set of values now"),
        ("{spec}/properties/enforcement/enum", json!(["Hard"]), "Budget.spec.enforcement: the value \"Soft\" is gone"),
        ("{spec}/properties/enforcement/default", json!("Soft"), "Budget.spec.enforcement: default was \"Hard\""),
        ("{spec}/properties/thresholds/maxItems", json!(1), "Budget.spec.thresholds: maxItems was"),
        (
            "{spec}/properties/thresholds/x-kubernetes-list-type",
            json!("atomic"),
            "Budget.spec.thresholds: x-kubernetes-list-type",
        ),
        (
            "{spec}/properties/thresholds/items/properties/percent/maximum",
            json!(1),
            "Budget.spec.thresholds[].percent: maximum was",
        ),
        (
            "{spec}/properties/thresholds/items/properties/webhook",
            Value::Null,
            "Budget.spec.thresholds[].webhook: the field is gone",
        ),
        ("{spec}/required", json!(["limit", "period", "per"]), "Budget.spec: \"per\" is required now"),
        (
            "{spec}/x-kubernetes-validations",
            json!([{"rule": "self.limit != '7'"}]),
            "Budget.spec: the rule \"self.limit != '7'\" is new",
        ),
    ];
    for (pointer, value, expected) in cases {
        let mut changed = current();
        let budget = changed.iter_mut().find(|definition| definition["spec"]["names"]["kind"] == "Budget");
        let budget = budget.expect("there is such a kind");
        let pointer = pointer.replace("{spec}", spec);
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer has a parent");
        let parent = budget.pointer_mut(parent).and_then(Value::as_object_mut);
        let parent = parent.unwrap_or_else(|| panic!("{pointer} has a parent"));
        match value {
            Value::Null => assert!(parent.remove(field).is_some(), "{pointer} was there"),
            value => drop(parent.insert(field.to_owned(), value)),
        }
        let found = broken(&current(), &changed);
        assert!(found.iter().any(|line| line.starts_with(expected)), "{expected}: found {found:#?}");
    }
}

#[test]
fn what_only_grows_breaks_nothing() {
    let mut grown = current();
    for definition in &mut grown {
        definition["spec"]["versions"][0]["additionalPrinterColumns"] = json!([]);
        let spec = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        spec["properties"]["brandNew"] = json!({"type": "string", "maxLength": 1, "enum": ["a"]});
        spec["description"] = json!("Other words.");
        spec["maxProperties"] = Value::Null;
    }
    let without_a_kind = &current()[1..];
    assert_eq!(broken(&current(), &grown), Vec::<String>::new());
    assert_eq!(broken(without_a_kind, &current()), Vec::<String>::new());
    assert_eq!(broken(&current(), without_a_kind).len(), 1);
}
