//! Reads the documents of the fixtures, and checks values against schemas as far as an API server does.

#![allow(dead_code, reason = "each test file uses its part")]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use tollgate_crds::{Resource, all_crds};

/// All documents of the fixtures.
pub fn documents() -> Vec<Value> {
    [include_str!("../samples.yaml"), include_str!("../every_field.yaml")]
        .into_iter()
        .flat_map(|text| serde_saphyr::from_multiple::<Value>(text).expect("the fixtures are YAML"))
        .collect()
}

/// An object, and the paths of fields that its type does not know.
pub fn read(document: &Value) -> (Resource, Vec<String>) {
    let mut ignored = Vec::new();
    let kind = document["kind"].as_str().expect("a document has a kind");
    // The envelope, which the caller has looked at already.
    let mut note = |path: serde_ignored::Path<'_>| match path.to_string().as_str() {
        "apiVersion" | "kind" => {}
        path => ignored.push(path.to_owned()),
    };
    let resource = Resource::deserialize(kind, serde_ignored::Deserializer::new(document, &mut note))
        .expect("the kind is one of ours")
        .unwrap_or_else(|error| panic!("{kind} {}: {error}", document["metadata"]["name"]));
    (resource, ignored)
}

/// The schema of a kind, as JSON.
pub fn schema_of(kind: &str) -> Value {
    static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
        let schema = |definition: CustomResourceDefinition| {
            let schema = definition.spec.versions.into_iter().next().and_then(|version| version.schema);
            let schema = schema.and_then(|schema| schema.open_api_v3_schema);
            (definition.spec.names.kind, serde_json::to_value(schema).expect("a schema is JSON"))
        };
        all_crds().into_iter().map(schema).collect()
    });
    SCHEMAS.get(kind).unwrap_or_else(|| panic!("no definition of {kind}")).clone()
}

/// What an API server would say against `value`: types, enums, patterns, bounds, required and unknown fields.
pub fn problems(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |what: &str| found.push(format!("{path}: {what}"));
    let type_ = schema["type"].as_str().unwrap_or_default();
    let fits = match type_ {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    if !fits {
        say(&format!("{value} is no {type_}"));
        return found;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        say(&format!("{value} is none of {allowed:?}"));
    }
    if let Some(text) = value.as_str() {
        if let Some(pattern) = schema["pattern"].as_str()
            && !regex::Regex::new(pattern).expect("patterns are regular expressions").is_match(text)
        {
            say(&format!("`{text}` does not match {pattern}"));
        }
        let length = text.chars().count() as u64;
        if schema["maxLength"].as_u64().is_some_and(|most| length > most)
            || schema["minLength"].as_u64().is_some_and(|least| length < least)
        {
            say("length");
        }
    }
    if let Some(number) = value.as_f64()
        && (schema["maximum"].as_f64().is_some_and(|most| number > most)
            || schema["minimum"].as_f64().is_some_and(|least| number < least))
    {
        say("out of range");
    }
    if let Some(items) = value.as_array() {
        let length = items.len() as u64;
        if schema["maxItems"].as_u64().is_some_and(|most| length > most)
            || schema["minItems"].as_u64().is_some_and(|least| length < least)
        {
            say("number of items");
        }
        for (index, item) in items.iter().enumerate() {
            found.extend(problems(&schema["items"], item, &format!("{path}[{index}]")));
        }
        return found;
    }
    let Some(fields) = value.as_object() else { return found };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !fields.contains_key(name.as_str().expect("names are text")) {
            say(&format!("{name} is missing"));
        }
    }
    for (name, field) in fields {
        let below = format!("{path}.{name}");
        let property = &schema["properties"][name];
        let additional = &schema["additionalProperties"];
        if property.is_object() {
            found.extend(problems(property, field, &below));
        } else if additional.is_object() {
            found.extend(problems(additional, field, &below));
        } else if schema["x-kubernetes-preserve-unknown-fields"] != true && !is_known_to_the_server(path, name) {
            found.push(format!("{below}: unknown field"));
        }
    }
    found
}

/// What an API server adds to every schema: the envelope, and all of `metadata`.
fn is_known_to_the_server(path: &str, name: &str) -> bool {
    path == ".metadata" || (path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&name))
}
