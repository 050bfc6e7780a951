//! What is different in a cluster, where many owners need not trust each other and nobody fills in variables.

use tollgate_snapshot::compile::{Mode, Unread};
use tollgate_snapshot::{GatewayName, Reason, Severity};

use crate::world::{Ask, World};

fn cluster(yaml: &str) -> World {
    World { mode: Mode::Cluster, ..World::read(yaml) }
}

#[test]
fn a_variable_in_a_secret_is_told_and_never_sent() {
    let yaml = "
kind: Secret
metadata: {name: s}
stringData: {whole: '${OPENAI_API_KEY}', part: 'sk-${A}', plain: 'sk-$a{b}${}'}
---
kind: LLMGateway
metadata: {name: g}
spec: {masterKey: {secretRef: {name: s, key: whole}}}
---
kind: VirtualKey
metadata: {name: k}
spec: {secret: {name: s, key: part, policy: Adopt}}
---
kind: ModelDeployment
metadata: {name: variable}
spec: {provider: openai, model: gpt-4o, credential: {secretRef: {name: s, key: whole}}}
---
kind: ModelDeployment
metadata: {name: plain}
spec: {provider: openai, model: gpt-4o, credential: {secretRef: {name: s, key: plain}}}
";
    let mut world = cluster(yaml);
    world.key_hashes = Default::default();
    let compiled = world.compile();
    assert_eq!(
        compiled.summary(),
        [
            "Error VariableMissing LLMGateway default/g spec.masterKey.secretRef",
            "Error VariableMissing ModelDeployment default/variable spec.credential.secretRef",
            "Error VariableMissing VirtualKey default/k spec.secret",
        ]
    );
    assert!(compiled.snapshot.gateway.master_key.is_none() && compiled.key("k").is_none());
    assert!(compiled.deployment("variable").is_none() && compiled.deployment("plain").is_some());
    assert!(compiled.findings.iter().all(|finding| !finding.message.contains("OPENAI")));
    let standalone = World { mode: Mode::Standalone, ..world }.compile();
    assert!(standalone.said("variable", Reason::VariableMissing).is_empty(), "whoever reads files has filled them");
}

#[test]
fn a_backend_is_a_service_of_its_own_namespace() {
    let yaml = "
kind: ModelDeployment
metadata: {name: m, namespace: team-a}
spec: {provider: vllm, model: m, pricing: {free: true}, backendRef: {name: vllm, port: 8000}}
";
    let compiled = cluster(yaml).compile();
    assert_eq!(compiled.summary(), Vec::<String>::new());
    let endpoint = &compiled.deployment("m").unwrap().endpoint;
    assert_eq!(
        (endpoint.tls, &*endpoint.host, endpoint.port, &*endpoint.path),
        (false, "vllm.team-a.svc", 8000, "/v1")
    );
}

#[test]
fn addresses_of_the_machine_and_its_links_are_refused() {
    for host in ["localhost", "127.0.0.1", "[::1]", "169.254.169.254", "[fe80::1]", "0.0.0.0", "a.localhost"] {
        let yaml = format!(
            "kind: ModelDeployment\nmetadata: {{name: m}}\nspec: {{provider: vllm, model: m, pricing: {{free: true}}, endpoint: {{baseURL: 'http://{host}/v1'}}}}"
        );
        let compiled = cluster(&yaml).compile();
        assert_eq!(
            compiled.summary(),
            ["Error HostNotAllowed ModelDeployment default/m spec.endpoint.baseURL"],
            "{host}"
        );
    }
}

#[test]
fn what_describes_pods_is_taken_as_it_is() {
    let yaml = "
kind: LLMGateway
metadata: {name: g}
spec:
  replicas: 3
  listeners: [{name: http, port: 8080}, {name: https, port: 4443, tls: {certificateRef: {name: tls}}}]
  service: {type: LoadBalancer}
  telemetry: {logs: {format: Human, level: Debug}}
  podTemplate: {resources: {requests: {cpu: 500m}}}
---
kind: Secret
metadata: {name: tls}
stringData: {tls.crt: a certificate, tls.key: its key}
";
    let compiled = cluster(yaml).compile();
    assert_eq!(compiled.summary(), Vec::<String>::new());
    assert!(World { mode: Mode::Standalone, ..cluster(yaml) }.compile().findings.len() > 1);
}

#[test]
fn a_certificate_that_is_missing_is_told_by_the_name_of_its_secret() {
    let gateway = "
kind: LLMGateway
metadata: {name: g}
spec: {listeners: [{name: https, port: 4443, tls: {certificateRef: {name: tls}}}]}
";
    let compiled = cluster(gateway).compile();
    assert_eq!(compiled.summary(), ["Error NotFound LLMGateway default/g spec.listeners[0].tls.certificateRef"]);
    assert!(compiled.errors()[0].contains("Secret `tls` does not exist in namespace `default`"));
    let half = format!("{gateway}---\nkind: Secret\nmetadata: {{name: tls}}\nstringData: {{tls.crt: a certificate}}\n");
    let compiled = cluster(&half).compile();
    assert_eq!(
        compiled.summary(),
        ["Error SecretKeyMissing LLMGateway default/g spec.listeners[0].tls.certificateRef"]
    );
    // Whether the operator may read it does not matter: the kubelet brings it.
    let mut world = cluster(gateway);
    world.secrets.insert_unread("default", "tls", Unread::Forbidden);
    assert_eq!(world.compile().summary(), Vec::<String>::new());
}

#[test]
fn rotation_is_done_in_a_cluster_only() {
    let yaml =
        "kind: VirtualKey\nmetadata: {name: k}\nspec: {models: ['*'], rotation: {every: 720h}, secret: {name: k}}";
    assert_eq!(cluster(yaml).compile().summary(), Vec::<String>::new());
    let standalone = World::read(yaml).compile();
    assert_eq!(standalone.summary(), ["Warning NotSupportedYet VirtualKey default/k spec.rotation"]);
}

#[test]
fn nobody_fills_all_the_room_for_credentials() {
    let deployment = |namespace: &str, at: usize, length: usize| {
        let value = "x".repeat(length);
        format!(
            "---\nkind: Secret\nmetadata: {{name: s{at}, namespace: {namespace}}}\nstringData: {{key: {value}}}\n---\nkind: ModelDeployment\nmetadata: {{name: m{at:03}, namespace: {namespace}}}\nspec: {{provider: openai, model: gpt-4o, credential: {{secretRef: {{name: s{at}, key: key}}}}}}\n"
        )
    };
    let mut yaml: String = (0..80).map(|at| deployment("greedy", at, 8_000)).collect();
    yaml.push_str(&deployment("modest", 0, 100));
    yaml.push_str(&deployment("odd", 0, 10_000));
    let compiled = cluster(yaml.trim_start_matches("---\n")).compile();
    let count = |namespace: &str| compiled.credentials.iter().filter(|one| one.id.starts_with(namespace)).count();
    assert_eq!((count("greedy/"), count("modest/"), count("odd/")), (54, 1, 0));
    assert_eq!(compiled.snapshot.deployments.len(), 55);
    let told = |finding: &&tollgate_snapshot::Finding| {
        (finding.severity, finding.reason) == (Severity::Error, Reason::InvalidValue)
    };
    assert_eq!(compiled.findings.iter().filter(told).count(), 27);
    assert!(compiled.errors()[0].ends_with("the gateway has no room for more credentials"));
    let gateway = GatewayName { namespace: "default".into(), name: "default".into() };
    assert_eq!(World { gateway: Some(gateway), ..cluster(&yaml[4..]) }.compile().credentials, []);
}

#[test]
fn the_url_of_the_database_travels_with_the_credentials_and_nowhere_else() {
    let yaml = "
kind: Secret
metadata: {name: db}
stringData: {url: 'postgres://u:secret@db.test/rows', other: 'mysql://u:secret@db.test/rows'}
---
kind: LLMGateway
metadata: {name: g}
spec: {stores: {postgres: {secretRef: {name: db, key: url}, retentionDays: 90}}}
";
    let compiled = cluster(yaml).compile();
    assert_eq!(compiled.summary(), Vec::<String>::new());
    let store = compiled.snapshot.gateway.postgres.as_ref().map(|store| (&*store.credential, store.retention_days));
    assert_eq!(store, Some(("default/db/url", 90)));
    let credentials: Vec<(&str, &str)> = compiled.credentials.iter().map(|one| (&*one.id, &*one.value)).collect();
    assert_eq!(credentials, [("default/db/url", "postgres://u:secret@db.test/rows")]);

    // One that cannot be used is told, and the store stays: rows wait for it.
    for (key, reason) in [("other", "InvalidValue"), ("missing", "SecretKeyMissing")] {
        let compiled = cluster(&yaml.replace("key: url", &format!("key: {key}"))).compile();
        assert_eq!(compiled.summary(), [format!("Error {reason} LLMGateway default/g spec.stores.postgres.secretRef")]);
        assert!(compiled.snapshot.gateway.postgres.is_some() && compiled.credentials.is_empty());
        assert!(compiled.findings.iter().all(|finding| !finding.message.contains("secret@")));
    }
}
