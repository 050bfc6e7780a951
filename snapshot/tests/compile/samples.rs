//! The documents that show every kind as users write it.

use proptest::prelude::*;
use tollgate_snapshot::compile::{Gateways, Mode};
use tollgate_snapshot::model::{self, BudgetUnit};
use tollgate_snapshot::{GatewayName, Members, Reason, Snapshot};

use crate::world::{Ask, World};

static SAMPLES: &str = include_str!("../../../crds/tests/samples.yaml");

/// What stands beside the documents of our own kinds.
static AROUND: &str = "
kind: Namespace
metadata: {name: team-a, labels: {llm: allowed}}
---
kind: Secret
metadata: {name: openai, namespace: team-a}
stringData: {api-key: sk-openai}
---
kind: Secret
metadata: {name: azure-1, namespace: platform, annotations: {tollgate.dev/hosts: example.openai.azure.com}}
stringData: {api-key: azure-key-one}
---
kind: Secret
metadata: {name: azure-2, namespace: platform, annotations: {tollgate.dev/hosts: example.openai.azure.com}}
stringData: {api-key: azure-key-two}
---
kind: Secret
metadata: {name: alerts, namespace: team-a, annotations: {tollgate.dev/hosts: hooks.example.com}}
stringData: {url: https://hooks.example.com/x}
---
kind: Secret
metadata: {name: tollgate-master, namespace: tollgate}
stringData: {key: sk-change-me-0123456789abcdef}
---
";

fn samples() -> World {
    World::read(&[AROUND, SAMPLES].concat())
}

#[test]
fn samples_compile_with_only_what_is_not_there_yet_to_say() {
    let compiled = samples().compile();
    let expected = [
        "Warning NotSupportedYet ModelDeployment team-a/llama-3-70b spec.backendRef",
        "Warning NotSupportedYet Team team-a/research spec.members[0].role",
        "Warning NotSupportedYet VirtualKey team-a/alice-notebook spec.rotation",
    ];
    assert_eq!(compiled.summary(), expected);
}

#[test]
fn samples_compile_in_a_cluster_too() {
    let world = World { mode: Mode::Cluster, ..samples() };
    let gateway = GatewayName { namespace: "tollgate".into(), name: "default".into() };
    let compiled = World { gateway: Some(gateway.clone()), ..world.clone() }.compile();
    let expected = ["Warning NotSupportedYet Team team-a/research spec.members[0].role"];
    assert_eq!(compiled.summary(), expected);
    let gateways = Gateways::new(&world.documents, &world.namespaces, &world.standing);
    let members = Members::of(&compiled.snapshot);
    for document in &world.documents {
        assert_eq!(gateways.of(document), Ok(vec![gateway.clone()]), "{}", document.object_ref());
        assert!(members.contains(&document.object_ref()), "{}", document.object_ref());
    }
    assert_eq!(compiled.snapshot, World { gateway: None, ..world }.compile().snapshot, "there is only one");
    let llama = compiled.deployment("llama-3-70b").unwrap();
    assert_eq!((&*llama.endpoint.host, llama.endpoint.port, &*llama.endpoint.path), ("vllm.team-a.svc", 8000, "/v1"));
}

#[test]
fn variables_of_the_samples_are_not_filled_in_a_cluster() {
    let filled = World { mode: Mode::Cluster, ..samples() };
    let mut world = World::read(
        &[AROUND.replace("api-key: sk-openai", "api-key: '${OPENAI_API_KEY}'"), SAMPLES.to_owned()].concat(),
    );
    world.mode = Mode::Cluster;
    let mut expected = filled.compile().summary();
    // What stands on it falls with it, and says so once.
    expected.extend([
        "Error VariableMissing ModelDeployment team-a/gpt-4o spec.credential.secretRef".to_owned(),
        "Error NotFound RouteGroup team-a/chat spec.targets[0].modelDeploymentRef".to_owned(),
    ]);
    let mut summary = world.compile().summary();
    expected.sort();
    summary.sort();
    assert_eq!(summary, expected);
}

#[test]
fn names_of_the_samples_lead_to_their_deployments() {
    let compiled = samples().compile();
    assert_eq!(compiled.targets("team-a", "gpt-4o"), ["team-a/gpt-4o", "team-a/gpt-4o-azure"]);
    assert_eq!(compiled.targets("team-a", "llama-*"), ["team-a/llama-3-70b"]);
    let chat = compiled.route("team-a", "chat").unwrap();
    assert_eq!((chat.explicit, &*chat.owner, chat.strategy), (true, "team-a/chat", model::Strategy::WeightedShuffle));
    assert_eq!(compiled.targets("team-a", "chat"), ["team-a/gpt-4o", "team-a/gpt-4o-azure", "team-a/llama-3-70b"]);
    assert_eq!(
        chat.targets.iter().map(|target| (target.weight, target.priority)).collect::<Vec<_>>(),
        [(80, 0), (20, 0), (10, 1)]
    );
    assert_eq!(chat.targets[1].when.as_deref(), Some("'eu' in request.tags"));
    let names: Vec<Vec<&str>> = chat
        .fallbacks
        .iter()
        .map(|fallback| fallback.routes.iter().map(|route| &*compiled.snapshot.routes[*route as usize].name).collect())
        .collect();
    assert_eq!(names, [["llama"], ["gpt-4o"], ["llama"]]);
    assert!(chat.cooldown.even_alone && !compiled.route("team-a", "gpt-4o").unwrap().cooldown.even_alone);
    assert!(compiled.namespace("tollgate").exact.is_empty(), "nothing is offered to others");
}

#[test]
fn accounts_of_the_samples_bring_credentials_and_limits() {
    let compiled = samples().compile();
    let azure = compiled.deployment("gpt-4o-azure").unwrap();
    let credentials: Vec<(&str, u32)> = azure.credentials.iter().map(|one| (&*one.id, one.weight)).collect();
    assert_eq!(credentials, [("platform/azure-1/api-key", 2), ("platform/azure-2/api-key", 1)]);
    let account = azure.account.as_ref().unwrap();
    assert_eq!((&*account.id, account.limits.tokens_per_minute), ("platform/azure-eu", Some(2_000_000)));
    assert_eq!(azure.api_version.as_deref(), Some("2025-04-01-preview"));
    assert!(azure.price.is_some());
    let ids: Vec<&str> = compiled.credentials.iter().map(|credential| &*credential.id).collect();
    assert_eq!(ids, ["platform/azure-1/api-key", "platform/azure-2/api-key", "team-a/openai/api-key"]);
}

#[test]
fn keys_of_the_samples_are_under_their_budgets() {
    let compiled = samples().compile();
    assert_eq!(
        compiled.budget_ids_of("alice-notebook"),
        [
            "team-a/VirtualKey/alice-notebook",
            "team-a/Budget/dev-daily/alice-notebook",
            "team-a/Budget/research-year",
            "tollgate/Budget/all-tenants/team-a",
            "team-a/Team/research",
        ]
    );
    assert_eq!(compiled.budgets_of("ci")[0].limit, 25_000_000_000);
    let daily = compiled.budgets_of("adopted")[0];
    assert_eq!(
        (&*daily.id, daily.limit, daily.boost.map(|boost| boost.amount), daily.unit),
        ("team-a/Budget/dev-daily/adopted", 20_000_000_000, Some(10_000_000_000), BudgetUnit::Usd)
    );
    assert!(daily.models.as_ref().unwrap().contains("gpt-4o") && !daily.models.as_ref().unwrap().contains("llama"));
    let (alice, policy) = compiled.key("alice-notebook").unwrap();
    assert_eq!(policy.limits.parallel_requests, Some(8), "from the team's keyDefaults");
    assert_eq!(alice.expires_at, Some(1_814_313_600));
    assert!(compiled.snapshot.gateway.master_key.is_some() && compiled.snapshot.gateway.deny_unpriced);
}

#[test]
fn a_boost_ends() {
    let compiled = World { now: 1_800_000_000, ..samples() }.compile();
    let found = compiled.budgets_of("adopted")[0];
    assert_eq!((found.limit, found.boost), (20_000_000_000, None));
}

/// Names and what stands behind them, without indices, which other objects move.
fn offers(snapshot: &Snapshot, namespace: &str) -> Vec<String> {
    let found = snapshot.namespaces.iter().find(|one| &*one.name == namespace);
    let all = found.into_iter().flat_map(|one| one.exact.iter().chain(&one.prefixes));
    all.map(|(name, route)| {
        let route = &snapshot.routes[*route as usize];
        let targets = route.targets.iter().map(|target| &snapshot.deployments[target.deployment as usize].name);
        format!("{name} {} {:?}", route.owner, targets.collect::<Vec<_>>())
    })
    .collect()
}

#[test]
fn a_missing_document_disturbs_no_other_namespace() {
    let other = "
kind: ModelDeployment
metadata: {name: other, namespace: elsewhere}
spec: {provider: mock, model: m, pricing: {free: true}}
---
kind: VirtualKey
metadata: {name: other, namespace: elsewhere}
spec: {models: [other], secret: {name: k}}
";
    let mut world = samples();
    let extra = World::read(other);
    world.documents.extend(extra.documents);
    world.key_hashes.insert("elsewhere", "other", tollgate_snapshot::KeyHash::of(b"other"));
    let whole = offers(&world.compile().snapshot, "elsewhere");
    assert_eq!(whole.len(), 1);
    for at in 0..world.documents.len() {
        let mut less = world.clone();
        let removed = less.documents.remove(at);
        if removed.meta().namespace != "elsewhere" && removed.kind() != "LLMGateway" {
            let compiled = less.compile();
            assert_eq!(offers(&compiled.snapshot, "elsewhere"), whole, "without {}", removed.object_ref());
            assert!(compiled.key("other").is_some());
        }
    }
}

#[test]
fn a_snapshot_survives_json() {
    let snapshot = samples().compile().snapshot;
    let text = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
    assert!(!text.contains("azure-key-one") && !text.contains("sk-openai") && !text.contains("sk-change-me"));
}

#[test]
fn nothing_prints_a_secret() {
    let world = samples();
    let compiled = world.compile();
    let printed = format!("{:?} {compiled:?}", world.secrets);
    assert!(!printed.contains("azure-key-one") && !printed.contains("sk-openai"));
    assert!(compiled.said("dev-daily", Reason::SecretKeyMissing).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_order_of_documents_does_not_matter(order in Just((0..samples().documents.len()).collect::<Vec<_>>()).prop_shuffle()) {
        let world = samples();
        let mut shuffled = world.clone();
        shuffled.documents = order.iter().map(|at| world.documents[*at].clone()).collect();
        let (expected, got) = (world.compile(), shuffled.compile());
        prop_assert_eq!(expected.snapshot, got.snapshot);
        prop_assert_eq!(expected.findings, got.findings);
    }
}
