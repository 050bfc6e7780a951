//! From text to resources, one document at a time, so that a broken one never takes the others with it. Fields that a
//! kind does not have are findings, never dropped in silence.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use tollgate_crds::{
    BudgetSpec, LLMGatewaySpec, ModelDeploymentSpec, ProviderAccountSpec, RouteGroupSpec, TeamSpec, VirtualKeySpec,
};
use tollgate_snapshot::compile::{Document, Meta, Object, Secret};
use tollgate_snapshot::{Finding, ObjectRef, Reason};

use super::simple_yaml::{self, Node};

/// A document of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    pub text: &'a str,
    /// Line of the file that the text begins on, from 1.
    pub line: usize,
}

/// What a document turned out to be.
#[derive(Debug)]
pub enum Parsed {
    Resource(Document),
    Secret(Secret),
    Namespace {
        name: String,
        labels: BTreeMap<String, String>,
    },
    /// Its entries may hold prices.
    ConfigMap {
        namespace: String,
        name: String,
        data: BTreeMap<String, Arc<str>>,
    },
    /// Of a kind that is not ours.
    Foreign,
}

/// Splits a stream of YAML documents. A `---` at the beginning of a line always ends a document.
pub fn split(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let bare = line.trim_end();
        let marker = bare == "---" || bare.starts_with("--- ") || bare.starts_with("---\t");
        if marker {
            parts.push(Part { text: &text[start..offset], line: start_line });
            // What stands behind the marker belongs to the next document.
            let rest = if bare == "---" { offset + line.len() } else { offset + 3 };
            (start, start_line) = (rest, if bare == "---" { index + 2 } else { index + 1 });
        }
        offset += line.len();
    }
    parts.push(Part { text: &text[start..], line: start_line });
    parts.retain(|part| part.text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')));
    parts
}

/// Where environment variables come from.
pub type Variables<'a> = &'a (dyn Fn(&str) -> Option<String> + Sync);

/// What a document holds, and what is wrong with it.
pub struct Read {
    pub object: ObjectRef,
    pub parsed: Option<Parsed>,
    pub findings: Vec<Finding>,
    /// Line and column in the part of an error of syntax or shape.
    pub at: Option<(usize, usize)>,
}

/// What a cluster makes of `${VAR}`: text like any other.
pub fn as_written(name: &str) -> Option<String> {
    Some(format!("${{{name}}}"))
}

/// Reads one document. `default_namespace`: where documents live that name none.
pub fn read(part: Part<'_>, default_namespace: &str, variables: Variables<'_>) -> Read {
    let simple = simple_yaml::parse(part.text);
    let simple = simple.as_ref();
    let head = match head(part.text, simple) {
        Ok(head) => head,
        Err(error) => return malformed(unknown_object(), &error),
    };
    let object = |kind| ObjectRef {
        kind,
        namespace: head.metadata.namespace.clone().unwrap_or_else(|| default_namespace.to_owned()),
        name: head.metadata.name.clone(),
    };
    if head.kind == "Secret" || head.kind == "Namespace" || head.kind == "ConfigMap" {
        return core_kind(part.text, &head, default_namespace, variables);
    }
    let Some(kind) = tollgate_crds::Resource::KINDS.iter().copied().find(|kind| *kind == head.kind) else {
        let ours = head.api_version.starts_with("tollgate.dev/");
        let mut foreign =
            Read { object: object("Document"), parsed: Some(Parsed::Foreign), findings: Vec::new(), at: None };
        let message = format!("kind `{}` is not one of ours and is passed over", head.kind);
        let hint = format!("kinds: {}", tollgate_crds::Resource::KINDS.join(", "));
        foreign.findings.push(if ours {
            foreign.parsed = None;
            Finding::error(&foreign.object, Reason::Malformed, "kind", message).hint(hint)
        } else {
            Finding::warning(&foreign.object, Reason::Malformed, "kind", message)
        });
        return foreign;
    };
    if head.api_version != tollgate_crds::API_VERSION {
        let object = object(kind);
        let message = format!("apiVersion `{}` is not known", head.api_version);
        let finding = Finding::error(&object, Reason::Malformed, "apiVersion", message);
        let findings = vec![finding.hint(format!("write `{}`", tollgate_crds::API_VERSION))];
        return Read { object, parsed: None, findings, at: None };
    }
    if head.metadata.name.is_empty() {
        let object = object(kind);
        let findings = vec![Finding::error(&object, Reason::Malformed, "metadata.name", "the object has no name")];
        return Read { object, parsed: None, findings, at: None };
    }
    let object = object(kind);
    match kind {
        "LLMGateway" => typed::<LLMGatewaySpec>(part.text, simple, object, Document::LLMGateway),
        "ProviderAccount" => typed::<ProviderAccountSpec>(part.text, simple, object, Document::ProviderAccount),
        "ModelDeployment" => typed::<ModelDeploymentSpec>(part.text, simple, object, Document::ModelDeployment),
        "RouteGroup" => typed::<RouteGroupSpec>(part.text, simple, object, Document::RouteGroup),
        "Team" => typed::<TeamSpec>(part.text, simple, object, Document::Team),
        "VirtualKey" => typed::<VirtualKeySpec>(part.text, simple, object, Document::VirtualKey),
        _ => typed::<BudgetSpec>(part.text, simple, object, Document::Budget),
    }
}

#[derive(Debug, Default, Deserialize)]
struct Head {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    creation_timestamp: Option<String>,
}

#[derive(Deserialize)]
struct Whole<S> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: Metadata,
    spec: S,
    #[serde(rename = "status", default)]
    _status: serde::de::IgnoredAny,
}

fn head(text: &str, simple: Option<&Node<'_>>) -> Result<Head, yaml_serde::Error> {
    match simple.and_then(|node| Head::deserialize(node).ok()) {
        Some(head) => Ok(head),
        None => yaml_serde::from_str(text),
    }
}

/// Reads an object as an API server has it, of one of our kinds.
pub fn read_value(kind: &'static str, value: serde_json::Value) -> Read {
    let text = |name: &str| value["metadata"][name].as_str().unwrap_or_default().to_owned();
    let object = ObjectRef { kind, namespace: text("namespace"), name: text("name") };
    match kind {
        "LLMGateway" => from_server::<LLMGatewaySpec>(value, object, Document::LLMGateway),
        "ProviderAccount" => from_server::<ProviderAccountSpec>(value, object, Document::ProviderAccount),
        "ModelDeployment" => from_server::<ModelDeploymentSpec>(value, object, Document::ModelDeployment),
        "RouteGroup" => from_server::<RouteGroupSpec>(value, object, Document::RouteGroup),
        "Team" => from_server::<TeamSpec>(value, object, Document::Team),
        "VirtualKey" => from_server::<VirtualKeySpec>(value, object, Document::VirtualKey),
        _ => from_server::<BudgetSpec>(value, object, Document::Budget),
    }
}

fn from_server<S: DeserializeOwned>(
    value: serde_json::Value,
    object: ObjectRef,
    document: fn(Box<Object<S>>) -> Document,
) -> Read {
    let mut findings = Vec::new();
    let deleting = value["metadata"]["deletionTimestamp"].is_string();
    match whole::<S, _>(value, &object, &mut findings) {
        Ok(whole) => resource(whole, object, deleting, findings, document),
        Err(error) => {
            let findings = vec![Finding::error(&object, Reason::Malformed, "", error.to_string())];
            Read { object, parsed: None, findings, at: None }
        }
    }
}

/// The object itself. Whatever is wrong with it is said by the full reader.
fn typed<S: DeserializeOwned>(
    text: &str,
    simple: Option<&Node<'_>>,
    object: ObjectRef,
    document: fn(Box<Object<S>>) -> Document,
) -> Read {
    let mut findings = Vec::new();
    let simple = simple.and_then(|node| whole::<S, _>(node, &object, &mut findings).ok());
    let whole = match simple.filter(|_| findings.is_empty()) {
        Some(whole) => Ok(whole),
        None => {
            findings.clear();
            whole(yaml_serde::Deserializer::from_str(text), &object, &mut findings)
        }
    };
    match whole {
        Err(error) => malformed(object, &error),
        Ok(whole) => resource(whole, object, false, findings, document),
    }
}

fn resource<S>(
    whole: Whole<S>,
    object: ObjectRef,
    deleting: bool,
    findings: Vec<Finding>,
    document: fn(Box<Object<S>>) -> Document,
) -> Read {
    let Whole { metadata, spec, .. } = whole;
    let meta = Meta {
        namespace: object.namespace.clone(),
        name: metadata.name,
        labels: metadata.labels,
        annotations: metadata.annotations,
        created_at: metadata.creation_timestamp.as_deref().and_then(unix_seconds),
        deleting,
    };
    Read { object, parsed: Some(Parsed::Resource(document(Box::new(Object { meta, spec })))), findings, at: None }
}

fn whole<'de, S: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
    object: &ObjectRef,
    findings: &mut Vec<Finding>,
) -> Result<Whole<S>, D::Error> {
    serde_ignored::deserialize(deserializer, |path| {
        let path = path.to_string();
        // What API servers add to an object that was read from one.
        if !path.starts_with("metadata.") && !path.starts_with("status") {
            let message = format!("`{path}` is not a field of {}", object.kind);
            findings.push(
                Finding::error(object, Reason::UnknownField, path, message).hint("see `tollgate crds` for its fields"),
            );
        }
    })
}

fn unix_seconds(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(|at| at.as_second())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CoreKind {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    string_data: BTreeMap<String, String>,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

fn core_kind(text: &str, head: &Head, default_namespace: &str, variables: Variables<'_>) -> Read {
    let kind = match head.kind.as_str() {
        "Secret" => "Secret",
        "ConfigMap" => "ConfigMap",
        _ => "Namespace",
    };
    let namespace = head.metadata.namespace.clone().unwrap_or_else(|| default_namespace.to_owned());
    let object = ObjectRef { kind, namespace: namespace.clone(), name: head.metadata.name.clone() };
    let whole: CoreKind = match yaml_serde::from_str(text) {
        Ok(whole) => whole,
        Err(error) => return malformed(object, &error),
    };
    let CoreKind { metadata, string_data, data } = whole;
    if kind == "Namespace" {
        let parsed = Parsed::Namespace { name: metadata.name, labels: metadata.labels };
        return Read { object, parsed: Some(parsed), findings: Vec::new(), at: None };
    }
    if kind == "ConfigMap" {
        let data = data.into_iter().map(|(entry, text)| (entry, text.into())).collect();
        let parsed = Parsed::ConfigMap { namespace, name: metadata.name, data };
        return Read { object, parsed: Some(parsed), findings: Vec::new(), at: None };
    }
    let mut findings = Vec::new();
    let mut values: BTreeMap<String, Arc<str>> = BTreeMap::new();
    for (name, text) in data {
        use base64::Engine;
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(text.trim())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded {
            Some(value) => {
                values.insert(name, value.into());
            }
            None => findings.push(
                Finding::error(
                    &object,
                    Reason::InvalidValue,
                    format!("data.{name}"),
                    "the value is not base64 of a text",
                )
                .hint("plain text belongs under stringData"),
            ),
        }
    }
    for (name, text) in string_data {
        match fill(&text, variables) {
            Ok(value) => {
                values.insert(name, value.into());
            }
            Err(variable) => findings.push(
                Finding::error(
                    &object,
                    Reason::VariableMissing,
                    format!("stringData.{name}"),
                    format!("environment variable `{variable}` is not set"),
                )
                .hint(format!("export {variable}=...")),
            ),
        }
    }
    let Metadata { name, annotations, labels, .. } = metadata;
    let secret = Secret { meta: Meta { namespace, name, labels, annotations, ..Meta::default() }, data: values };
    Read { object, parsed: Some(Parsed::Secret(secret)), findings, at: None }
}

/// Fills `${VAR}` from the environment. Err: the variable that is not set.
fn fill(text: &str, variables: Variables<'_>) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else { break };
        let name = &rest[start + 2..start + length];
        filled.push_str(&rest[..start]);
        filled.push_str(&variables(name).ok_or_else(|| name.to_owned())?);
        rest = &rest[start + length + 1..];
    }
    filled.push_str(rest);
    Ok(filled)
}

fn unknown_object() -> ObjectRef {
    ObjectRef { kind: "Document", namespace: String::new(), name: String::new() }
}

fn malformed(object: ObjectRef, error: &yaml_serde::Error) -> Read {
    let at = error.location().map(|location| (location.line(), location.column()));
    let text = error.to_string();
    // The place is shown apart, as a line of the file.
    let message = text.split(" at line ").next().unwrap_or(&text).to_owned();
    let findings = vec![Finding::error(&object, Reason::Malformed, "", message)];
    Read { object, parsed: None, findings, at }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn documents_are_split_at_markers_only() {
        let text = "a: 1\n---\n# only a comment\n---\nb: |\n  ---\n  x\n--- {c: 3}\n";
        let parts = split(text);
        let texts: Vec<(&str, usize)> = parts.iter().map(|part| (part.text, part.line)).collect();
        assert_eq!(texts, [("a: 1\n", 1), ("b: |\n  ---\n  x\n", 5), (" {c: 3}\n", 8)]);
    }

    #[test]
    fn variables_are_filled_and_missing_ones_named() {
        let variables = |name: &str| (name == "A").then(|| "1".to_owned());
        assert_eq!(fill("x${A}y", &variables), Ok("x1y".into()));
        assert_eq!(fill("${B}", &variables), Err("B".into()));
        assert_eq!(fill("$A ${", &variables), Ok("$A ${".into()));
    }

    #[test]
    fn an_unknown_field_is_a_finding_and_the_object_lives() {
        let text =
            "apiVersion: tollgate.dev/v1alpha1\nkind: Team\nmetadata: {name: t}\nspec: {models: [a], colour: red}\n";
        let read = read(Part { text, line: 1 }, "default", &none);
        assert!(matches!(read.parsed, Some(Parsed::Resource(Document::Team(_)))));
        assert_eq!(read.findings[0].reason, Reason::UnknownField);
        assert_eq!(read.findings[0].field, "spec.colour");
    }

    #[test]
    fn a_broken_document_is_a_finding_with_its_place() {
        let text = "apiVersion: tollgate.dev/v1alpha1\nkind: Team\nmetadata: {name: t}\nspec: {models: 3}\n";
        let read = read(Part { text, line: 1 }, "default", &none);
        assert!(read.parsed.is_none());
        assert_eq!(read.findings[0].reason, Reason::Malformed);
        assert!(read.at.is_some());
    }
}
