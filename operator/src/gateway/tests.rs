//! Children as whole documents, which are reviewed like code, and the rules between them as tables.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use tollgate_crds::LLMGateway;

use super::child::Kind;
use super::children::{APPLIED, Children, children};
use super::live::Child;
use super::reconcile::{Action, Settled};
use super::service::address;
use crate::settings::{Namespaces, Settings};

pub(crate) fn settings() -> Settings {
    Settings {
        namespaces: Namespaces::All,
        image: "registry.example.com/tollgate:0.1.0".to_owned(),
        proxy_service_account: "tollgate-proxy".to_owned(),
        leader_elect: true,
        lease_namespace: "tollgate".to_owned(),
        identity: "operator-0".to_owned(),
        metrics_port: 0,
        health_port: 0,
        kubeconfig: None,
    }
}

fn gateway(name: &str, spec: Value) -> LLMGateway {
    let document = json!({
        "apiVersion": "tollgate.dev/v1alpha1",
        "kind": "LLMGateway",
        "metadata": {"name": name, "namespace": "team-a", "uid": "uid-of-the-gateway"},
        "spec": spec,
    });
    serde_json::from_value(document).expect("the gateway is valid")
}

fn made(name: &str, spec: Value) -> Children {
    children(&gateway(name, spec), &settings()).expect("the gateway can have children")
}

/// All documents of a golden file, and what is really made.
fn assert_golden(file: &str, children: &Children) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway").join(file);
    let text = std::fs::read_to_string(&path).expect("the golden file is there");
    let golden: Vec<Value> = yaml_serde::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).expect("the golden file is YAML"))
        .collect();
    let mut made: Vec<Value> = children.objects().into_iter().filter_map(|(_, object)| object).collect();
    for object in &mut made {
        // Follows from the rest.
        object["metadata"].as_object_mut().expect("metadata is an object").remove("annotations").expect("a stamp");
    }
    let shown: Vec<String> =
        made.iter().map(|object| yaml_serde::to_string(object).expect("JSON can be YAML")).collect();
    assert!(made == golden, "{} should be:\n{}", path.display(), shown.join("---\n"));
}

#[test]
fn the_smallest_gateway_has_safe_children() {
    assert_golden("smallest.yaml", &made("default", json!({})));
}

#[test]
fn every_field_about_pods_arrives() {
    let spec = json!({
        "autoscaling": {"minReplicas": 3, "maxReplicas": 20, "targetCPUPercent": 60},
        "listeners": [
            {"name": "http", "port": 4000},
            {"name": "https", "port": 443, "tls": {"certificateRef": {"name": "gateway-tls"}}},
        ],
        "service": {"type": "LoadBalancer", "annotations": {"example.com/internal": "true"}},
        "telemetry": {"logs": {"format": "Human", "level": "Debug"}},
        "podTemplate": {
            "labels": {"team": "platform", "tollgate.dev/gateway": "another"},
            "annotations": {"example.com/scrape": "true"},
            "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}},
            "nodeSelector": {"kubernetes.io/arch": "amd64"},
            "tolerations": [{"key": "dedicated", "value": "llm", "effect": "NoSchedule"}],
            "topologySpread": [{"topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}],
            "priorityClassName": "high",
            "env": [
                {"name": "TOLLGATE_LOG", "value": "trace"},
                {"name": "HTTPS_PROXY", "secretRef": {"name": "proxy", "key": "url"}},
                {"name": "NO_PROXY", "configMapRef": {"name": "proxy", "key": "except"}},
            ],
        },
    });
    assert_golden("every_field.yaml", &made("edge", spec));
}

#[test]
fn every_golden_file_is_used() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(files, ["every_field.yaml", "smallest.yaml"].map(str::to_owned).into());
}

#[test]
fn nothing_of_what_is_routed_changes_a_child() {
    let usual = made("default", json!({}));
    for spec in [
        json!({"default": true}),
        json!({"allowedNamespaces": {"from": "All"}}),
        json!({"defaults": {"maxOutputTokens": 7}}),
        json!({"masterKey": {"secretRef": {"name": "master", "key": "key"}}}),
        json!({"stores": {"postgres": {"secretRef": {"name": "postgres", "key": "url"}}}}),
        json!({"prices": {"overlays": [{"name": "a", "configMapRef": {"name": "a", "key": "b"}}]}}),
        json!({"egress": {"allowedHosts": ["api.openai.com"]}}),
        json!({"telemetry": {"metrics": {"requireAuth": true}}}),
    ] {
        assert_eq!(made("default", spec.clone()), usual, "{spec}");
    }
}

#[test]
fn proxies_are_started_again_where_somebody_else_hands_out_budgets() {
    let template = |spec| made("default", spec).deployment.spec.expect("a spec").template;
    let of = |name| template(json!({"stores": {"redis": {"secretRef": {"name": name, "key": "url"}}}}));
    assert_ne!(of("redis"), template(json!({})));
    assert_eq!(of("redis"), of("other"), "another server is followed");
}

#[test]
fn replicas_change_no_pod_template() {
    let template = |spec| made("default", spec).deployment.spec.expect("a spec").template;
    let usual = template(json!({}));
    assert_eq!(template(json!({"replicas": 7})), usual);
    assert_eq!(template(json!({"autoscaling": {"maxReplicas": 9}})), usual);
    assert_eq!(template(json!({"service": {"type": "NodePort"}})), usual);
}

#[test]
fn who_decides_the_number_of_pods_decides_what_protects_them() {
    let parts = |spec| {
        let children = made("default", spec);
        let replicas = children.deployment.spec.expect("a spec").replicas;
        (replicas, children.disruption_budget.is_some(), children.autoscaler.is_some())
    };
    assert_eq!(parts(json!({})), (Some(2), true, false));
    assert_eq!(parts(json!({"replicas": 0})), (Some(0), false, false));
    assert_eq!(parts(json!({"replicas": 1})), (Some(1), false, false));
    assert_eq!(parts(json!({"replicas": 3})), (Some(3), true, false));
    assert_eq!(parts(json!({"autoscaling": {"maxReplicas": 5}})), (None, true, true));
    assert_eq!(parts(json!({"autoscaling": {"minReplicas": 1, "maxReplicas": 1}})), (None, false, true));
}

#[test]
fn the_address_needs_a_port_only_where_the_usual_one_is_taken() {
    let tls = json!({"certificateRef": {"name": "tls"}});
    for (listeners, expected) in [
        (json!([{"name": "http", "port": 4000}]), "http://tollgate.team-a.svc"),
        (json!([{"name": "http", "port": 80}]), "http://tollgate.team-a.svc"),
        (json!([{"name": "https", "port": 8443, "tls": tls}]), "https://tollgate.team-a.svc"),
        (json!([{"name": "a", "port": 4000}, {"name": "b", "port": 80}]), "http://tollgate.team-a.svc:4000"),
    ] {
        let gateway = gateway("default", json!({"listeners": listeners}));
        assert_eq!(address(&gateway).as_deref(), Some(expected), "{listeners}");
    }
}

#[test]
fn names_and_ports_that_cannot_be_are_problems() {
    let problem = |name: &str, spec| children(&gateway(name, spec), &settings()).map_err(|problem| problem.reason);
    assert_eq!(problem(&"a".repeat(55), json!({})).map(drop), Err("InvalidName"));
    assert!(problem(&"a".repeat(54), json!({})).is_ok());
    assert_eq!(problem("a.b", json!({})).map(drop), Err("InvalidName"));
    assert_eq!(problem("a", json!({"listeners": [{"name": "http", "port": 4001}]})).map(drop), Err("PortTaken"));
}

fn live(object: &Value, owner: &str) -> Child {
    Child {
        uid: "1".to_owned(),
        resource_version: "1".to_owned(),
        owner: Some(owner.to_owned()),
        owns_replicas: true,
        object: object.clone(),
    }
}

#[test]
fn a_child_is_written_only_where_it_differs() {
    let objects = made("default", json!({})).objects();
    let settled = Settled::default();
    let fewer = made("default", json!({"podTemplate": {"env": [{"name": "A", "value": "b"}]}})).objects();
    for ((kind, wanted), (_, before)) in objects.iter().zip(&fewer) {
        let (Some(wanted), Some(before)) = (wanted, before) else { continue };
        let decide = |live: Option<&Child>, wanted| settled.decide(*kind, "me", live, wanted);
        assert_eq!(decide(None, Some(wanted)), Action::Apply);
        assert_eq!(decide(Some(&live(wanted, "me")), Some(wanted)), Action::Nothing);
        assert_eq!(decide(Some(&live(wanted, "you")), Some(wanted)), Action::Foreign);
        assert_eq!(decide(Some(&live(wanted, "me")), None), Action::Delete);
        assert_eq!(decide(Some(&live(wanted, "you")), None), Action::Nothing);
        // A variable that is not wanted any more is gone, though everything that is wanted is there.
        let expected = if *kind == Kind::Deployment { Action::Apply } else { Action::Nothing };
        assert_eq!(decide(Some(&live(before, "me")), Some(wanted)), expected, "{kind:?}");
    }
}

#[test]
fn the_stamp_follows_from_the_rest() {
    let stamp = |spec| {
        made("default", spec).objects()[2].1.as_ref().expect("a Deployment")["metadata"]["annotations"][APPLIED].clone()
    };
    assert_eq!(stamp(json!({})), stamp(json!({"default": true})));
    assert_ne!(stamp(json!({})), stamp(json!({"replicas": 3})));
}
