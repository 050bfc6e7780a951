//! What a name means, where, and who may ask for it.

use tollgate_snapshot::Reason;
use tollgate_snapshot::model::{ErrorClass, Strategy};

use crate::world::{Ask, World};

/// A deployment of the mock. `rest` goes into its spec.
pub fn deployment(namespace: &str, name: &str, rest: &str) -> String {
    format!(
        "---\nkind: ModelDeployment\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{provider: mock, model: m, pricing: {{free: true}}, {rest}}}\n"
    )
}

fn group(namespace: &str, name: &str, spec: &str) -> String {
    format!("---\nkind: RouteGroup\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n")
}

fn key(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\nkind: VirtualKey\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{secret: {{name: s}}, {spec}}}\n"
    )
}

/// A gateway that everybody may attach to.
const GATEWAY: &str = "
kind: LLMGateway
metadata: {name: default, namespace: tollgate}
spec: {default: true, allowedNamespaces: {from: All}}
";

#[test]
fn deployments_with_the_same_name_are_one_group() {
    let compiled = World::read(
        &[
            deployment("default", "a", "modelNames: [chat], weight: 3, priority: 1"),
            deployment("default", "b", "modelNames: [chat, other]"),
        ]
        .concat(),
    )
    .compile();
    assert_eq!(compiled.summary(), Vec::<String>::new());
    assert_eq!(compiled.targets("default", "chat"), ["default/b", "default/a"], "lower priority first");
    let chat = compiled.route("default", "chat").unwrap();
    assert_eq!((chat.targets[1].weight, chat.targets[1].priority), (3, 1));
    assert_eq!((chat.explicit, chat.strategy, chat.hidden), (false, Strategy::WeightedShuffle, false));
    assert_eq!(compiled.targets("default", "other"), ["default/b"]);
}

#[test]
fn a_group_comes_before_deployments_of_the_same_name() {
    let compiled = World::read(
        &[
            deployment("default", "chat", ""),
            deployment("default", "b", ""),
            group(
                "default",
                "chat",
                "targets: [{name: b, modelDeploymentRef: {name: b}}], aliases: [talk], strategy: LeastBusy",
            ),
        ]
        .concat(),
    )
    .compile();
    assert_eq!(compiled.targets("default", "chat"), ["default/b"]);
    assert_eq!(compiled.targets("default", "talk"), ["default/b"]);
    assert!(compiled.route("default", "talk").unwrap().hidden && !compiled.route("default", "chat").unwrap().hidden);
    assert_eq!(compiled.route("default", "chat").unwrap().strategy, Strategy::LeastBusy);
    assert_eq!(compiled.summary(), ["Warning Shadowed ModelDeployment default/chat spec.modelNames"]);
}

#[test]
fn of_two_groups_the_older_has_the_name() {
    let groups = "
kind: RouteGroup
metadata: {name: a, createdAt: 200}
spec: {modelNames: [chat], targets: [{name: a, modelDeploymentRef: {name: a}}]}
---
kind: RouteGroup
metadata: {name: b, createdAt: 100}
spec: {modelNames: [chat], targets: [{name: b, modelDeploymentRef: {name: b}}]}
";
    let yaml = [groups.to_owned(), deployment("default", "a", ""), deployment("default", "b", "")].concat();
    let compiled = World::read(&yaml).compile();
    assert_eq!(compiled.targets("default", "chat"), ["default/b"]);
    assert_eq!(compiled.summary(), ["Error Duplicate RouteGroup default/a spec.modelNames"]);
}

#[test]
fn others_get_only_what_is_offered_to_them() {
    let platform = [
        "---\nkind: Namespace\nmetadata: {name: team-a, labels: {llm: allowed}}\n".to_owned(),
        deployment("platform", "all", "allowedNamespaces: {from: All}"),
        deployment("platform", "some", "allowedNamespaces: {from: Selector, selector: {matchLabels: {llm: allowed}}}"),
        deployment("platform", "none", ""),
        key("team-a", "a", "models: ['*']"),
        key("team-b", "b", "models: ['*']"),
    ];
    let compiled = World::read(&[GATEWAY.to_owned(), platform.concat()].concat()).compile();
    assert_eq!(compiled.errors(), Vec::<String>::new());
    for (namespace, name, is_there) in [
        ("team-a", "all", true),
        ("team-a", "some", true),
        ("team-a", "none", false),
        ("team-b", "all", true),
        ("team-b", "some", false),
        ("platform", "none", true),
        ("tollgate", "all", true),
    ] {
        assert_eq!(compiled.route(namespace, name).is_some(), is_there, "{namespace} {name}");
    }
    assert_eq!(compiled.snapshot.routes.len(), 3, "a name that several namespaces see is one route");
}

#[test]
fn what_a_namespace_has_itself_hides_what_is_offered() {
    let yaml = [
        GATEWAY.to_owned(),
        deployment("platform", "gpt-4o", "allowedNamespaces: {from: All}"),
        deployment("platform", "llama", "allowedNamespaces: {from: All}"),
        deployment("team-a", "gpt-4o", ""),
        deployment("team-b", "any", "modelNames: ['gpt-*']"),
    ];
    let compiled = World::read(&yaml.concat()).compile();
    assert_eq!(compiled.targets("team-a", "gpt-4o"), ["team-a/gpt-4o"]);
    assert_eq!(compiled.targets("team-a", "llama"), ["platform/llama"]);
    assert_eq!(
        compiled.route("team-b", "gpt-4o"),
        None,
        "the pattern is local, so it comes before an exact name of others"
    );
    assert_eq!(
        compiled.summary(),
        [
            "Warning Shadowed ModelDeployment team-a/gpt-4o spec.modelNames",
            "Warning Shadowed ModelDeployment team-b/any spec.modelNames",
        ]
    );
}

#[test]
fn of_two_offers_the_older_wins() {
    let old = "
kind: ModelDeployment
metadata: {name: chat, namespace: p2, createdAt: 1}
spec: {provider: mock, model: m, pricing: {free: true}, allowedNamespaces: {from: All}}
";
    let new = old.replace("p2, createdAt: 1", "p1, createdAt: 2");
    let yaml = [GATEWAY, "---", &new, "---", old, &key("team-a", "a", "models: [chat]")].concat();
    let compiled = World::read(&yaml).compile();
    assert_eq!(compiled.targets("team-a", "chat"), ["p2/chat"]);
    assert!(!compiled.said("chat", Reason::Shadowed).is_empty());
}

#[test]
fn fallbacks_mean_names_of_the_groups_namespace() {
    let yaml = [
        deployment("default", "a", ""),
        deployment("default", "b", "modelNames: ['b-*']"),
        group(
            "default",
            "chat",
            "targets: [{name: a, modelDeploymentRef: {name: a}}], \
             fallbacks: [{name: x, errors: [Any, Timeout], models: [b-1, gone]}, {name: z, errors: [Any], models: [gone]}]",
        ),
    ];
    let compiled = World::read(&yaml.concat()).compile();
    let chat = compiled.route("default", "chat").unwrap();
    assert_eq!(chat.fallbacks.len(), 1);
    assert_eq!(chat.fallbacks[0].errors, [ErrorClass::Any, ErrorClass::Timeout]);
    assert_eq!(&*compiled.snapshot.routes[chat.fallbacks[0].routes[0] as usize].name, "b-*");
    assert_eq!(
        compiled.summary(),
        [
            "Error NotFound RouteGroup default/chat spec.fallbacks[0].models[1]",
            "Error NotFound RouteGroup default/chat spec.fallbacks[1].models[0]",
        ]
    );
}

#[test]
fn fallbacks_in_a_circle_are_told() {
    let circle = |name: &str, next: &str| {
        let spec = format!(
            "targets: [{{name: a, modelDeploymentRef: {{name: a}}}}], fallbacks: [{{name: x, errors: [Any], models: [{next}]}}]"
        );
        group("default", name, &spec)
    };
    let yaml = [deployment("default", "a", ""), circle("x", "z"), circle("z", "x"), circle("into", "x")].concat();
    let compiled = World::read(&yaml).compile();
    assert_eq!(
        compiled.summary(),
        ["Warning Cycle RouteGroup default/x spec.fallbacks", "Warning Cycle RouteGroup default/z spec.fallbacks"]
    );
    assert_eq!(compiled.route("default", "into").unwrap().fallbacks[0].routes.len(), 1);
}

#[test]
fn targets_that_cannot_be_used_are_left_out_one_by_one() {
    let yaml = [
        GATEWAY.to_owned(),
        deployment("team-a", "a", ""),
        deployment("platform", "shared", "allowedNamespaces: {from: All}"),
        deployment("platform", "private", ""),
        group(
            "team-a",
            "chat",
            "targets: [{name: a, modelDeploymentRef: {name: a}}, {name: gone, modelDeploymentRef: {name: gone}}, \
             {name: s, modelDeploymentRef: {name: shared, namespace: platform}, when: ' '}, \
             {name: p, modelDeploymentRef: {name: private, namespace: platform}}, \
             {name: z, modelDeploymentRef: {name: nothing, namespace: platform}}, \
             {name: twice, modelDeploymentRef: {name: a}}]",
        ),
    ];
    let compiled = World::read(&yaml.concat()).compile();
    assert_eq!(compiled.targets("team-a", "chat"), ["team-a/a"]);
    let fields: Vec<String> = compiled.summary();
    assert_eq!(
        fields,
        [
            "Error NotFound RouteGroup team-a/chat spec.targets[1].modelDeploymentRef",
            "Error InvalidValue RouteGroup team-a/chat spec.targets[2].when",
            "Error NotGranted RouteGroup team-a/chat spec.targets[3].modelDeploymentRef",
            "Error NotGranted RouteGroup team-a/chat spec.targets[4].modelDeploymentRef",
            "Error Duplicate RouteGroup team-a/chat spec.targets[5].modelDeploymentRef",
        ]
    );
    let texts: Vec<String> =
        compiled.said("chat", Reason::NotGranted).iter().map(|one| one.message.replace("private", "nothing")).collect();
    assert_eq!(texts[0], texts[1], "what exists and what does not reads alike to whom it is not granted");
}

#[test]
fn what_is_not_there_yet_is_told_and_the_rest_works() {
    let yaml = [
        deployment("default", "a", "probe: {mode: Completion}, capabilities: [vision]"),
        group(
            "default",
            "chat",
            "targets: [{name: a, modelDeploymentRef: {name: a}}], strategy: LowestCost, \
             canary: {modelDeploymentRef: {name: a}, percent: 5}, mirror: {modelDeploymentRef: {name: a}, percent: 1}, affinity: {}",
        ),
    ];
    let compiled = World::read(&yaml.concat()).compile();
    assert_eq!(
        compiled.summary(),
        [
            "Warning NotSupportedYet ModelDeployment default/a spec.capabilities",
            "Warning NotSupportedYet ModelDeployment default/a spec.probe",
            "Warning NotSupportedYet RouteGroup default/chat spec.affinity",
            "Warning NotSupportedYet RouteGroup default/chat spec.canary",
            "Warning NotSupportedYet RouteGroup default/chat spec.mirror",
            "Warning NotSupportedYet RouteGroup default/chat spec.strategy",
        ]
    );
    assert_eq!(compiled.route("default", "chat").unwrap().strategy, Strategy::WeightedShuffle);
}

#[test]
fn who_may_not_attach_is_not_served() {
    let gateway = GATEWAY.replace("from: All", "from: Same");
    let yaml = [gateway, deployment("team-a", "a", ""), key("team-a", "k", "models: [a]")].concat();
    let compiled = World::read(&yaml).compile();
    assert!(compiled.snapshot.deployments.is_empty() && compiled.snapshot.keys.is_empty());
    assert_eq!(compiled.said("a", Reason::NotGranted).len() + compiled.said("k", Reason::NotGranted).len(), 2);
}

#[test]
fn the_oldest_default_gateway_is_served() {
    let yaml = "
kind: LLMGateway
metadata: {name: a, createdAt: 2}
spec: {default: true, defaults: {maxAttempts: 1}}
---
kind: LLMGateway
metadata: {name: b, createdAt: 1}
spec: {default: true, defaults: {maxAttempts: 3, cooldown: {duration: 1m}, retries: {attempts: 0}}}
";
    let compiled = World::read(yaml).compile();
    let gateway = &compiled.snapshot.gateway;
    assert_eq!((&*gateway.name, gateway.max_attempts, gateway.retries.attempts), ("b", 3, 0));
    assert_eq!(
        (gateway.cooldown.duration_ms, gateway.cooldown.failures, gateway.cooldown.even_alone),
        (60_000, 3, true)
    );
    assert_eq!(compiled.summary(), ["Error Duplicate LLMGateway default/a spec.default"]);
    assert_eq!(World::read("kind: Namespace\nmetadata: {name: x}").compile().snapshot.gateway, Default::default());
}

#[test]
fn the_same_name_twice_is_one_object_whatever_the_order() {
    let (one, two) = (deployment("default", "a", "weight: 1"), deployment("default", "a", "weight: 2"));
    let first = World::read(&[one.clone(), two.clone()].concat()).compile();
    let second = World::read(&[two, one].concat()).compile();
    assert_eq!(first.snapshot, second.snapshot);
    assert_eq!(first.summary(), ["Error Duplicate ModelDeployment default/a metadata.name"]);
}
