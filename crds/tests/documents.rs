//! Documents as users write them: read without an ignored field, written back whole, and accepted by the schemas in the
//! way an API server would check them.

mod support;

use serde_json::Value;
use support::{documents, problems, read, schema_of};
use tollgate_crds::{API_VERSION, Resource};

#[test]
fn every_document_is_read_with_no_field_ignored() {
    let documents = documents();
    assert_eq!(documents.len(), 20);
    for document in documents {
        assert_eq!(document["apiVersion"], API_VERSION);
        let (resource, ignored) = read(&document);
        assert_eq!(ignored, Vec::<String>::new(), "{} {}", resource.kind(), resource.name());
        assert_eq!(Some(resource.kind()), document["kind"].as_str());
        assert_eq!(resource.namespace(), document["metadata"]["namespace"].as_str());
        assert_eq!(Some(resource.name()), document["metadata"]["name"].as_str());
    }
}

#[test]
fn every_document_survives_a_round_trip() {
    for document in documents() {
        let (resource, _) = read(&document);
        let written = resource.to_value();
        assert_eq!(missing(&document, &written, ""), Vec::<String>::new(), "{}", resource.name());
        assert_eq!(read(&written), (resource, vec![]));
    }
}

#[test]
fn every_document_is_accepted_by_the_schema_of_its_kind() {
    for document in documents() {
        let (resource, _) = read(&document);
        let schema = schema_of(resource.kind());
        assert_eq!(problems(&schema, &document, ""), Vec::<String>::new(), "{}", resource.name());
        assert_eq!(problems(&schema, &resource.to_value(), ""), Vec::<String>::new(), "{}", resource.name());
    }
}

#[test]
fn every_document_keeps_every_rule() {
    for document in documents() {
        let (resource, _) = read(&document);
        let kept = match &resource {
            Resource::LLMGateway(object) => object.validate_cel(),
            Resource::ProviderAccount(object) => object.validate_cel(),
            Resource::ModelDeployment(object) => object.validate_cel(),
            Resource::RouteGroup(object) => object.validate_cel(),
            Resource::Team(object) => object.validate_cel(),
            Resource::VirtualKey(object) => object.validate_cel(),
            Resource::Budget(object) => object.validate_cel(),
        };
        assert!(kept.is_ok(), "{} {}: {kept:?}", resource.kind(), resource.name());
    }
}

#[test]
fn an_unknown_field_is_noticed() {
    let mut document = documents().remove(0);
    document["spec"]["modell"] = Value::from("typing error");
    assert_eq!(read(&document).1, ["spec.modell"]);
}

/// Paths in `wanted` whose values are not in `found`.
fn missing(wanted: &Value, found: &Value, path: &str) -> Vec<String> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted
            .iter()
            .flat_map(|(key, wanted)| missing(wanted, found.get(key).unwrap_or(&Value::Null), &format!("{path}.{key}")))
            .collect(),
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => wanted
            .iter()
            .zip(found)
            .enumerate()
            .flat_map(|(index, (wanted, found))| missing(wanted, found, &format!("{path}[{index}]")))
            .collect(),
        (wanted, found) if wanted == found => vec![],
        _ => vec![path.to_owned()],
    }
}
