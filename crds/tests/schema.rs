//! What every schema must be: structural, bounded, documented, with its defaults, and with references of few shapes.

mod support;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::LazyLock;
use support::schema_of;
use tollgate_crds::{Resource, all_crds};

/// Every node below `spec` and `status` of every kind, with its path.
fn nodes() -> Vec<(String, Value)> {
    static NODES: LazyLock<Vec<(String, Value)>> = LazyLock::new(walk);
    NODES.clone()
}

fn walk() -> Vec<(String, Value)> {
    let mut nodes = Vec::new();
    for kind in Resource::KINDS {
        let schema = schema_of(kind);
        for part in ["spec", "status"] {
            collect(&schema["properties"][part], format!("{kind}.{part}"), &mut nodes);
        }
    }
    assert!(nodes.len() > 300, "the walk reaches everything, {} nodes", nodes.len());
    nodes
}

fn collect(schema: &Value, path: String, nodes: &mut Vec<(String, Value)>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        collect(property, format!("{path}.{name}"), nodes);
    }
    if schema["items"].is_object() {
        collect(&schema["items"], format!("{path}[]"), nodes);
    }
    if schema["additionalProperties"].is_object() {
        collect(&schema["additionalProperties"], format!("{path}{{}}"), nodes);
    }
    nodes.push((path, schema.clone()));
}

#[test]
fn schemas_are_structural() {
    for (path, node) in nodes() {
        let type_ = node["type"].as_str().unwrap_or_default();
        assert!(["string", "integer", "boolean", "array", "object"].contains(&type_), "{path} has the type `{type_}`");
        for unions in ["oneOf", "anyOf", "allOf", "not"] {
            assert!(node[unions].is_null(), "{path} has {unions}");
        }
        assert!(node["nullable"].is_null(), "{path} is nullable");
    }
}

#[test]
fn only_parameters_are_free_form() {
    let free: Vec<String> = nodes()
        .into_iter()
        .filter(|(_, node)| node["x-kubernetes-preserve-unknown-fields"] == true)
        .map(|(path, _)| path)
        .collect();
    assert_eq!(free, ["ModelDeployment.spec.parameters.defaults", "ModelDeployment.spec.parameters.forced"]);
}

#[test]
fn every_text_list_map_and_number_is_bounded() {
    for (path, node) in nodes() {
        match node["type"].as_str() {
            Some("string") => {
                assert!(node["maxLength"].is_u64() || node["enum"].is_array(), "{path} is a text without maxLength");
            }
            Some("array") => assert!(node["maxItems"].is_u64(), "{path} is a list without maxItems"),
            Some("integer") => {
                let is_status = path.contains(".status.");
                assert!(
                    is_status || node["maximum"].is_number() || node["x-kubernetes-validations"].is_array(),
                    "{path}"
                );
                assert!(node["minimum"].is_number() || node["x-kubernetes-validations"].is_array(), "{path}");
                assert!(["int32", "int64"].contains(&node["format"].as_str().unwrap_or_default()), "{path}");
            }
            Some("object") if node["properties"].is_null() => {
                let is_empty_by_design = path.ends_with(".lifetime");
                assert!(is_empty_by_design || node["maxProperties"].is_u64(), "{path} is a map without maxProperties");
            }
            _ => {}
        }
    }
}

#[test]
fn every_field_is_documented_in_sentences() {
    for (path, node) in nodes() {
        if path.ends_with("[]") || path.ends_with("{}") {
            continue;
        }
        let text = node["description"].as_str().unwrap_or_default();
        assert!(text.len() >= 15, "{path} says only `{text}`");
        assert!(text.trim_end().ends_with(['.', '`', ')']), "{path} ends without an end: `{text}`");
    }
    for definition in all_crds() {
        let kind = &definition.spec.names.kind;
        let text = schema_of(kind)["description"].as_str().unwrap_or_default().to_owned();
        assert!(!text.is_empty() && !text.starts_with("Auto-generated"), "{kind} says `{text}`");
    }
}

#[test]
fn references_have_one_of_four_shapes() {
    let shapes: [&[&str]; 4] = [&["name"], &["name", "namespace"], &["key", "name"], &["kind", "name", "port"]];
    let mut seen = 0;
    for (path, node) in nodes() {
        let last = path.rsplit('.').next().unwrap_or_default();
        if !(last.ends_with("Ref") || last.ends_with("Refs[]")) {
            continue;
        }
        let fields: BTreeSet<&str> =
            node["properties"].as_object().expect("a reference is an object").keys().map(String::as_str).collect();
        let fields: Vec<&str> = fields.into_iter().collect();
        let shape = shapes.iter().position(|shape| *shape == fields);
        match (last, shape) {
            ("secretRef" | "configMapRef", Some(2)) => {}
            ("backendRef", Some(3)) => {}
            ("certificateRef" | "budgetRefs[]", Some(0)) => {}
            (_, Some(1)) => {}
            _ => panic!("{path} is a reference of another shape: {fields:?}"),
        }
        seen += 1;
    }
    assert!(seen >= 20, "only {seen} references");
}

#[test]
fn no_name_or_value_is_a_boolean_to_yaml() {
    let booleans = ["on", "off", "yes", "no", "y", "n", "true", "false"];
    for (path, node) in nodes() {
        let is_condition = path.contains(".conditions[]");
        for value in node["enum"].as_array().into_iter().flatten() {
            let value = value.as_str().expect("enum values are texts");
            assert!(is_condition || !booleans.contains(&value.to_lowercase().as_str()), "{path} has the value {value}");
        }
        let name = path.rsplit('.').next().unwrap_or_default();
        assert!(!booleans.contains(&name.to_lowercase().as_str()), "{path}");
    }
}

#[test]
fn defaults_are_in_the_schema() {
    for (kind, pointer, wanted) in [
        ("Budget", "/unit", json!("USD")),
        ("Budget", "/enforcement", json!("Hard")),
        ("Budget", "/whenExhausted", json!({"action": "Block"})),
        ("Budget", "/allowedNamespaces", json!({"from": "Same"})),
        ("VirtualKey", "/disabled", json!(false)),
        ("VirtualKey", "/secret/properties/key", json!("key")),
        ("VirtualKey", "/secret/properties/policy", json!("Generate")),
        ("VirtualKey", "/budget/properties/unit", json!("USD")),
        ("ModelDeployment", "/weight", json!(1)),
        ("ModelDeployment", "/priority", json!(0)),
        ("ModelDeployment", "/probe", json!({"mode": "Models", "interval": "30s"})),
        ("ModelDeployment", "/backendRef/properties/kind", json!("Service")),
        ("RouteGroup", "/strategy", json!("WeightedShuffle")),
        ("LLMGateway", "/listeners", json!([{"name": "http", "port": 4000}])),
        ("LLMGateway", "/egress", json!({"allowedHosts": ["*"]})),
        ("LLMGateway", "/defaults/properties/maxAttempts", json!(6)),
        ("LLMGateway", "/defaults/properties/budgetExceededStatus", json!(429)),
        ("LLMGateway", "/telemetry/properties/logs", json!({"format": "JSON", "level": "Info"})),
    ] {
        let schema = schema_of(kind);
        let node = schema.pointer(&format!("/properties/spec/properties{pointer}"));
        assert_eq!(node.map(|node| &node["default"]), Some(&wanted), "{kind} {pointer}");
    }
}

#[test]
fn no_default_is_inside_a_list() {
    for (path, node) in nodes() {
        assert!(!path.contains("[]") || node["default"].is_null(), "{path} has the default {}", node["default"]);
    }
}

#[test]
fn what_an_empty_object_gets_from_the_schema_is_what_the_types_say() {
    let schema = schema_of("LLMGateway");
    let filled = support::problems(&schema["properties"]["spec"], &json!({}), "");
    assert_eq!(filled, Vec::<String>::new());
    let spec: tollgate_crds::LLMGatewaySpec = serde_json::from_value(json!({})).expect("all fields have defaults");
    assert_eq!(spec, tollgate_crds::LLMGatewaySpec::default());
    for (name, property) in schema["properties"]["spec"]["properties"].as_object().expect("spec has fields") {
        let default = &property["default"];
        let written = serde_json::to_value(&spec).expect("a spec is JSON")[name].clone();
        assert_eq!(default, &written, "{name}");
    }
}

#[test]
fn lists_of_named_objects_merge_by_their_key() {
    for (path, key) in [
        ("RouteGroup.spec.targets", "name"),
        ("RouteGroup.spec.fallbacks", "name"),
        ("ProviderAccount.spec.credentials", "name"),
        ("LLMGateway.spec.listeners", "name"),
        ("LLMGateway.spec.rateLimits", "name"),
        ("LLMGateway.spec.priorities", "name"),
        ("Team.spec.members", "user"),
        ("VirtualKey.spec.budgetRefs", "name"),
        ("VirtualKey.spec.limits.perModel", "model"),
        ("Budget.spec.thresholds", "percent"),
        ("Budget.status.conditions", "type"),
    ] {
        let (_, node) = nodes().into_iter().find(|(found, _)| found == path).unwrap_or_else(|| panic!("no {path}"));
        assert_eq!(node["x-kubernetes-list-type"], "map", "{path}");
        assert_eq!(node["x-kubernetes-list-map-keys"], json!([key]), "{path}");
    }
    for (path, node) in nodes() {
        let named = node["items"]["required"].as_array().is_some_and(|required| required.contains(&json!("name")));
        assert!(!named || node["x-kubernetes-list-type"] == "map", "{path} has named items and is no map");
        if node["x-kubernetes-list-type"] == "map" {
            let key = &node["x-kubernetes-list-map-keys"][0];
            assert!(node["items"]["required"].as_array().is_some_and(|required| required.contains(key)), "{path}");
        }
    }
}

#[test]
fn names_columns_and_subresources_are_those_that_users_know() {
    let wide = |columns: &str| columns.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for (kind, plural, short, columns, more) in [
        ("LLMGateway", "llmgateways", "lgw", "READY ADDRESS PROXIES KEYS GENERATION AGE", ""),
        ("ProviderAccount", "provideraccounts", "pacct", "READY PROVIDER CREDENTIALS AGE", ""),
        (
            "ModelDeployment",
            "modeldeployments",
            "mdep",
            "READY PROVIDER MODEL NAMES P50 AGE",
            "REASON LAST-PROBE IN/1M OUT/1M SPENT",
        ),
        ("RouteGroup", "routegroups", "rg", "READY MODEL TARGETS STRATEGY AGE", "FALLBACKS"),
        ("Team", "teams", "team", "KEYS SPENT LIMIT USED% AGE", ""),
        (
            "VirtualKey",
            "virtualkeys",
            "vk",
            "ACTIVE TEAM SPENT LIMIT USED% RESETS LAST-USED AGE",
            "KEY REQUESTS TOKENS EXPIRES REASON",
        ),
        ("Budget", "budgets", "bud", "AVAILABLE SPENT LIMIT USED% HELD RESETS MODE AGE", "SCOPE BOUND KEYS"),
    ] {
        let definition = all_crds().into_iter().find(|definition| definition.spec.names.kind == kind).expect(kind);
        assert_eq!(definition.metadata.name.as_deref(), Some(format!("{plural}.tollgate.dev").as_str()));
        assert_eq!(definition.spec.names.short_names.as_deref(), Some(&[short.to_owned()][..]));
        let version = &definition.spec.versions[0];
        let subresources = version.subresources.as_ref().expect("a status subresource");
        assert!(subresources.status.is_some());
        assert_eq!(subresources.scale.is_some(), kind == "LLMGateway");
        let (normal, wide_only): (Vec<_>, Vec<_>) = version
            .additional_printer_columns
            .as_ref()
            .expect("columns")
            .iter()
            .partition(|column| column.priority.unwrap_or(0) == 0);
        let names = |columns: Vec<&CustomResourceColumnDefinition>| {
            columns.into_iter().map(|column| column.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(normal), wide(columns), "{kind}");
        assert_eq!(names(wide_only).join(" "), more, "{kind}");
    }
}

#[test]
fn columns_and_selectable_fields_name_fields_that_exist() {
    for definition in all_crds() {
        let kind = definition.spec.names.kind.clone();
        let schema = schema_of(&kind);
        let version = &definition.spec.versions[0];
        let columns = version.additional_printer_columns.iter().flatten().map(|column| column.json_path.as_str());
        let selectable = version.selectable_fields.iter().flatten().map(|field| field.json_path.as_str());
        for path in columns.chain(selectable) {
            if path.starts_with(".metadata") || path.contains("conditions[") {
                continue;
            }
            let pointer: String = path.split('.').skip(1).map(|name| format!("/properties/{name}")).collect();
            assert!(schema.pointer(&pointer).is_some_and(|node| node["type"].is_string()), "{kind} {path}");
        }
    }
}
