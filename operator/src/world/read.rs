//! From what a watch brings to a document, one object at a time: one that cannot be read is a finding on that object and
//! takes nothing else with it.

use kube::core::DynamicObject;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tollgate_crds::{
    BudgetSpec, LLMGatewaySpec, ModelDeploymentSpec, ProviderAccountSpec, RouteGroupSpec, TeamSpec, VirtualKeySpec,
};
use tollgate_snapshot::compile::{self, Document, Meta, Object};
use tollgate_snapshot::{Finding, ObjectRef, Reason};

use super::{Record, Seen};

/// An object as it was read.
#[derive(Debug)]
pub(super) struct Read {
    pub object: ObjectRef,
    /// `Err`: its spec, which is not of the shape of its kind.
    pub document: Result<Document, Value>,
    pub meta: Meta,
    pub record: Record,
}

/// `kind`: one of ours.
pub(super) fn read(kind: &'static str, object: DynamicObject) -> Read {
    let DynamicObject { types: _, metadata, data } = object;
    let meta = Meta {
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
        annotations: own_annotations(metadata.annotations.unwrap_or_default()),
        created_at: metadata.creation_timestamp.map(|time| time.0.as_second()),
        deleting: metadata.deletion_timestamp.is_some(),
    };
    let object = ObjectRef { kind, namespace: meta.namespace.clone(), name: meta.name.clone() };
    let (spec, status) = match data {
        Value::Object(mut fields) => (fields.remove("spec").unwrap_or_default(), fields.remove("status")),
        _ => (Value::Null, None),
    };
    let mut findings = Vec::new();
    let document = document(&object, &meta, &spec, &mut findings).map_err(|error| {
        findings.push(unreadable(&object, &error));
        spec
    });
    let record = Record {
        uid: metadata.uid.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
        findings,
        seen: Seen::read(kind, status.as_ref()),
        round: 0,
    };
    Read { object, document, meta, record }
}

/// What is used instead of a spec that cannot be read: the last good document, with those of its bounds that can be.
pub(super) fn last_good(object: &ObjectRef, meta: &Meta, kept: &Document, written: &Value) -> Document {
    let wrap = |spec: Value| serde_json::json!({ "spec": spec });
    let merged = compile::with_bounds(object.kind, &wrap(spec_of(kept)), &wrap(written.clone()), &|candidate| {
        document(object, meta, &candidate["spec"], &mut Vec::new()).is_ok()
    });
    document(object, meta, &merged["spec"], &mut Vec::new()).unwrap_or_else(|_| kept.clone())
}

fn document(
    object: &ObjectRef,
    meta: &Meta,
    spec: &Value,
    findings: &mut Vec<Finding>,
) -> Result<Document, serde_json::Error> {
    match object.kind {
        "LLMGateway" => typed::<LLMGatewaySpec>(object, meta, spec, findings).map(Document::LLMGateway),
        "ProviderAccount" => typed::<ProviderAccountSpec>(object, meta, spec, findings).map(Document::ProviderAccount),
        "ModelDeployment" => typed::<ModelDeploymentSpec>(object, meta, spec, findings).map(Document::ModelDeployment),
        "RouteGroup" => typed::<RouteGroupSpec>(object, meta, spec, findings).map(Document::RouteGroup),
        "Team" => typed::<TeamSpec>(object, meta, spec, findings).map(Document::Team),
        "VirtualKey" => typed::<VirtualKeySpec>(object, meta, spec, findings).map(Document::VirtualKey),
        _ => typed::<BudgetSpec>(object, meta, spec, findings).map(Document::Budget),
    }
}

fn typed<S: DeserializeOwned>(
    object: &ObjectRef,
    meta: &Meta,
    spec: &Value,
    findings: &mut Vec<Finding>,
) -> Result<Box<Object<S>>, serde_json::Error> {
    // The API server drops what its definition does not have. What is left and unknown here comes with a newer one.
    let spec = serde_ignored::deserialize(spec, |path| {
        let path = format!("spec.{path}");
        let message = format!("`{path}` is not a field that this version of the operator knows");
        findings.push(
            Finding::warning(object, Reason::UnknownField, path, message)
                .hint("the CustomResourceDefinitions are newer than the operator: upgrade it"),
        );
    })?;
    Ok(Box::new(Object { meta: meta.clone(), spec }))
}

fn spec_of(document: &Document) -> Value {
    let spec = match document {
        Document::LLMGateway(object) => serde_json::to_value(&object.spec),
        Document::ProviderAccount(object) => serde_json::to_value(&object.spec),
        Document::ModelDeployment(object) => serde_json::to_value(&object.spec),
        Document::RouteGroup(object) => serde_json::to_value(&object.spec),
        Document::Team(object) => serde_json::to_value(&object.spec),
        Document::VirtualKey(object) => serde_json::to_value(&object.spec),
        Document::Budget(object) => serde_json::to_value(&object.spec),
    };
    spec.expect("specs are made of what JSON has")
}

fn unreadable(object: &ObjectRef, error: &serde_json::Error) -> Finding {
    Finding::error(object, Reason::Malformed, "spec", error.to_string())
        .hint("apply it again with the CustomResourceDefinitions of this version, which say what is wrong")
}

/// Of the annotations only ours decide something; `kubectl apply` keeps a copy of the whole object in one.
fn own_annotations(mut annotations: compile::Labels) -> compile::Labels {
    annotations.retain(|name, _| name.starts_with("tollgate.dev/"));
    annotations
}
