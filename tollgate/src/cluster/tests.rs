//! Looks at a cluster that is a list of answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use clap::Parser;
use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;
use crate::config::load::line;

#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    arguments: Arguments,
    #[arg(long, short)]
    namespace: Option<String>,
}

/// An API server that knows objects by path and what nobody may see.
#[derive(Clone, Default)]
struct Server {
    /// `{path of the list}/{name}` → object.
    objects: BTreeMap<String, Value>,
    /// Paths, or beginnings that end in `*`.
    forbidden: Vec<&'static str>,
    /// What ServiceAccounts may do, as `verb resource namespace/name`; the end may be `*`.
    granted: Vec<&'static str>,
    asked: Arc<Mutex<Vec<String>>>,
}

fn matches(patterns: &[&str], text: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => *pattern == text,
    })
}

impl Server {
    fn with(mut self, kind: &str, namespace: &str, name: &str, more: Value) -> Server {
        let (start, plural, api_version) = match kind {
            "Namespace" | "Secret" | "ServiceAccount" | "ConfigMap" => {
                ("/api/v1".to_owned(), kind.to_lowercase() + "s", "v1")
            }
            "Deployment" => ("/apis/apps/v1".to_owned(), "deployments".to_owned(), "apps/v1"),
            _ => ("/apis/tollgate.dev/v1alpha1".to_owned(), kind.to_lowercase() + "s", "tollgate.dev/v1alpha1"),
        };
        let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "generation": 1}});
        let place = if namespace.is_empty() { start } else { format!("{start}/namespaces/{namespace}") };
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        for (field, value) in more.as_object().expect("fields") {
            match field.as_str() {
                "labels" | "annotations" => object["metadata"][field] = value.clone(),
                _ => object[field] = value.clone(),
            }
        }
        self.objects.insert(format!("{place}/{plural}/{name}"), object);
        self
    }

    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
        let refuse = |code: u16, reason: &str| {
            let status =
                json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason});
            (StatusCode::from_u16(code).expect("a status"), status)
        };
        if matches(&self.forbidden, path) {
            return refuse(403, "Forbidden");
        }
        if *method == Method::POST {
            let mut review: Value = serde_json::from_slice(body).expect("a review");
            let attributes = &review["spec"]["resourceAttributes"];
            let text = |field: &str| attributes[field].as_str().unwrap_or_default();
            let asked = format!("{} {} {}/{}", text("verb"), text("resource"), text("namespace"), text("name"));
            review["status"] = json!({"allowed": matches(&self.granted, &asked)});
            self.asked.lock().expect("no test panics in it").push(asked);
            return (StatusCode::CREATED, review);
        }
        if let Some(object) = self.objects.get(path) {
            return (StatusCode::OK, object.clone());
        }
        let last = path.rsplit('/').next().unwrap_or_default();
        let below = |known: &str| match path.split_once("/namespaces/") {
            // All of one namespace.
            Some(_) => known.rsplit_once('/').is_some_and(|(list, _)| list == path),
            // All of the cluster.
            None => {
                let start = path.trim_end_matches(last);
                known.starts_with(start) && known.rsplit('/').nth(1) == Some(last)
            }
        };
        if !last.ends_with('s') || last.contains('-') {
            return refuse(404, "NotFound");
        }
        let items: Vec<&Value> =
            self.objects.iter().filter(|(known, _)| below(known)).map(|(_, object)| object).collect();
        (StatusCode::OK, json!({"kind": "List", "metadata": {}, "items": items}))
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.expect("the body is in memory");
                let (status, value) = server.answer(&parts.method, parts.uri.path(), &body);
                let answer = Response::builder().status(status).body(Body::from(value.to_string().into_bytes()));
                Ok::<_, std::convert::Infallible>(answer.expect("a plain answer"))
            }
        });
        Client::new(service, "team-a")
    }

    /// Every line that `check` would print.
    fn check(&self, flags: &[&str], path: Option<&Path>) -> Vec<String> {
        let flags = Flags::try_parse_from(["check", "--cluster"].iter().chain(flags)).expect("the flags are right");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let look = runtime
            .block_on(async { look_at(self.client(), &flags.arguments, flags.namespace.as_deref(), path).await });
        let look = look.expect("the server answers");
        let findings = look.findings.iter().filter(|placed| look.is_told(&placed.finding.object));
        let findings = findings.map(|placed| line(placed, path));
        findings.chain(look.remarks.iter().map(ToString::to_string)).collect()
    }
}

/// A platform with a gateway, and a team with a model and a key. Everything works.
fn working() -> Server {
    let status = json!({"observedGeneration": 1, "conditions": []});
    let secret = |value: &str| {
        use base64::Engine;
        json!({"api-key": base64::engine::general_purpose::STANDARD.encode(value)})
    };
    let pod = json!({"spec": {"serviceAccountName": "tollgate-operator", "containers": []}});
    let operator = json!({"spec": {"selector": {}, "template": pod}});
    let mut server = Server::default()
        .with("Namespace", "", "team-a", json!({"labels": {"llm": "allowed"}}))
        .with("Namespace", "", "tollgate", json!({}))
        .with("Deployment", "tollgate", "tollgate-operator", operator)
        .with("ServiceAccount", "tollgate", "tollgate-proxy", json!({}))
        .with(
            "LLMGateway",
            "tollgate",
            "default",
            json!({"spec": {"default": true, "allowedNamespaces": {"from": "All"}}, "status": status}),
        )
        .with("Secret", "team-a", "openai", json!({"data": secret("sk-0123456789")}))
        .with(
            "ModelDeployment",
            "team-a",
            "gpt-4o",
            json!({
                "spec": {"provider": "openai", "model": "gpt-4o", "credential": {"secretRef": {"name": "openai", "key": "api-key"}}},
                "status": status,
            }),
        )
        .with(
            "VirtualKey",
            "team-a",
            "ci",
            json!({
                "spec": {"models": ["gpt-4o"], "keyHash": format!("sha256:{}", "1a".repeat(32))},
                "status": status,
            }),
        );
    server.granted = vec!["*"];
    server
}

fn with_spec(server: Server, kind: &str, name: &str, spec: Value) -> Server {
    server.with(kind, "team-a", name, json!({"spec": spec, "status": {"observedGeneration": 1, "conditions": []}}))
}

#[test]
fn a_cluster_in_which_everything_works_has_no_findings() {
    assert_eq!(working().check(&[], None), Vec::<String>::new());
    assert_eq!(working().check(&["-A"], None), Vec::<String>::new());
    assert_eq!(working().check(&["--gateway", "tollgate/default"], None), Vec::<String>::new());
}

#[test]
fn findings_name_the_object_and_only_of_the_namespace_that_was_asked_for() {
    let spec = json!({"provider": "openai", "model": "x", "pricing": {"free": true}, "credential": {"secretRef": {"name": "gone", "key": "k"}}});
    let server = with_spec(working(), "ModelDeployment", "broken", spec);
    let expected = "error: ModelDeployment team-a/broken: spec.credential.secretRef: Secret `gone` does not exist in namespace `team-a` [NotFound]";
    assert_eq!(server.check(&[], None), [expected]);
    assert_eq!(server.check(&["-n", "team-a"], None), [expected]);
    assert_eq!(server.check(&["-n", "tollgate"], None), Vec::<String>::new());
}

#[test]
fn a_secret_that_may_not_be_read_is_said_so_and_not_taken_for_missing() {
    let mut server = working();
    server.forbidden = vec!["/api/v1/namespaces/team-a/secrets/openai"];
    assert_eq!(
        server.check(&[], None),
        [
            "warning: Secret team-a/openai: you may not read it; taken to have `api-key`, for ModelDeployment team-a/gpt-4o [NotReadable]"
        ]
    );
}

#[test]
fn a_config_map_with_prices_is_read_by_its_name() {
    let overlay = json!({"name": "agreed", "configMapRef": {"name": "agreed", "key": "prices"}});
    let spec = json!({"default": true, "allowedNamespaces": {"from": "All"}, "prices": {"overlays": [overlay]}});
    let status = json!({"observedGeneration": 1, "conditions": []});
    let named = working().with("LLMGateway", "tollgate", "default", json!({"spec": spec, "status": status}));
    let start = "error: LLMGateway tollgate/default: spec.prices.overlays[0].configMapRef: ";
    let missing = format!("{start}there is no ConfigMap `agreed` in `tollgate` [NotFound]");
    assert_eq!(named.check(&["-A"], None), [missing]);
    let line = r#"{"m":"gpt-4o","p":"openai","k":"chat","r":["in 0.000002","out 0.000008"]}"#;
    let mut there = named.with("ConfigMap", "tollgate", "agreed", json!({"data": {"prices": line}}));
    assert_eq!(there.check(&["-A"], None), Vec::<String>::new());
    there.forbidden = vec!["/api/v1/namespaces/tollgate/configmaps/agreed"];
    assert_eq!(there.check(&["-A"], None), [format!("{start}ConfigMap `agreed` may not be read [NotFound]")]);
}

#[test]
fn who_may_read_one_namespace_only_is_told_what_cannot_be_known() {
    let account = json!({"accountRef": {"name": "shared", "namespace": "platform"}, "model": "gpt-4o"});
    let mut server = with_spec(working(), "ModelDeployment", "through-account", account);
    server.forbidden = vec![
        "/apis/tollgate.dev/v1alpha1/llmgateways",
        "/apis/tollgate.dev/v1alpha1/provideraccounts",
        "/apis/tollgate.dev/v1alpha1/modeldeployments",
        "/apis/tollgate.dev/v1alpha1/routegroups",
        "/apis/tollgate.dev/v1alpha1/teams",
        "/apis/tollgate.dev/v1alpha1/virtualkeys",
        "/apis/tollgate.dev/v1alpha1/budgets",
        "/api/v1/namespaces",
        "/apis/apps/v1/deployments",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
    ];
    let lines = server.check(&[], None);
    let [line] = lines.as_slice() else { panic!("one line, found {lines:#?}") };
    assert!(
        line.starts_with("warning: ModelDeployment team-a/through-account: spec.accountRef: it cannot be told"),
        "{line}"
    );
    assert!(line.contains("you may not read namespace `platform`"), "{line}");
}

#[test]
fn a_missing_binding_is_an_error_with_the_command_that_makes_it() {
    let mut server = working();
    server.granted = vec![
        "get configmaps*",
        "list configmaps*",
        "watch configmaps*",
        "get secrets tollgate/*",
        "watch secrets tollgate/*",
    ];
    assert_eq!(
        server.check(&[], None),
        [
            "error: ModelDeployment team-a/gpt-4o: the operator may not get, watch secrets `openai` in namespace `team-a` \
          (kubectl -n team-a create rolebinding tollgate-secret-reader --clusterrole=tollgate-secret-reader \
          --serviceaccount=tollgate:tollgate-operator) [BindingMissing]"
        ]
    );
    let of_gateway = server.check(&["-n", "tollgate"], None);
    assert_eq!(of_gateway.len(), 1, "{of_gateway:#?}");
    assert!(of_gateway[0].contains("create, patch deployments"), "{of_gateway:#?}");
    // The key has no Secret: nobody asks for it.
    let asked = server.asked.lock().unwrap();
    assert!(asked.iter().all(|asked| !asked.contains("team-a/ci")), "{asked:?}");
}

#[test]
fn a_gateway_in_a_namespace_that_nobody_prepared_is_an_error() {
    let mut server = working();
    server.objects.remove("/api/v1/namespaces/tollgate/serviceaccounts/tollgate-proxy").expect("it was there");
    let lines = server.check(&["-n", "tollgate"], None);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].starts_with("error: LLMGateway tollgate/default: ServiceAccount `tollgate-proxy` does not exist"));
    assert!(lines[0].ends_with("[NamespaceNotPrepared]"));
}

#[test]
fn files_count_as_applied() {
    let folder = tempfile::tempdir().unwrap();
    let write = |text: &str| std::fs::write(folder.path().join("a.yaml"), text).unwrap();
    let document = |name: &str, secret: &str| {
        format!(
            "apiVersion: tollgate.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {{name: {name}}}\n\
             spec: {{provider: openai, model: gpt-4o, credential: {{secretRef: {{name: {secret}, key: api-key}}}}}}\n"
        )
    };
    write(&document("new", "openai"));
    assert_eq!(working().check(&[], Some(folder.path())), Vec::<String>::new());
    write(&document("gpt-4o", "gone"));
    let lines = working().check(&[], Some(folder.path()));
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[1].starts_with("a.yaml:4:") && lines[1].contains("Secret `gone` does not exist"), "{lines:#?}");
    assert!(
        lines[0].contains("VirtualKey team-a/ci") && lines[0].contains("no model is called `gpt-4o`"),
        "{lines:#?}"
    );
}

#[test]
fn a_cluster_without_our_kinds_says_what_to_install() {
    let flags = Flags::try_parse_from(["check", "--cluster"]).unwrap();
    let service = tower::service_fn(|_: Request<Body>| async {
        let status =
            json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "gone"});
        let answer = Response::builder().status(404).body(Body::from(status.to_string().into_bytes()));
        Ok::<_, std::convert::Infallible>(answer.unwrap())
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let look = runtime.block_on(async { look_at(Client::new(service, "default"), &flags.arguments, None, None).await });
    let error = look.err().expect("nothing can be looked at").to_string();
    assert!(error.contains("tollgate crds | kubectl apply"), "{error}");
}
