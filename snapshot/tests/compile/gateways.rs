//! Several gateways in one cluster: what attaches where, and what is said of it once.

use tollgate_snapshot::compile::{Gateways, Mode};
use tollgate_snapshot::{Finding, GatewayName, Members, Reason};

use crate::world::{Ask, World};

const NAMESPACES: &str = "
kind: Namespace
metadata: {name: team-a, labels: {llm: allowed}}
---
kind: Namespace
metadata: {name: team-b}
---
";

/// The default one takes all, the other only namespaces with a label.
const GATEWAYS: &str = "
kind: LLMGateway
metadata: {name: main, namespace: platform}
spec: {default: true, allowedNamespaces: {from: All}}
---
kind: LLMGateway
metadata: {name: batch, namespace: jobs}
spec: {allowedNamespaces: {from: Selector, selector: {matchLabels: {llm: allowed}}}, egress: {allowedHosts: ['*.test']}}
---
";

fn cluster(yaml: &str) -> World {
    World { mode: Mode::Cluster, ..World::read(&[NAMESPACES, yaml].concat()) }
}

fn name(text: &str) -> GatewayName {
    let (namespace, name) = text.split_once('/').unwrap();
    GatewayName { namespace: namespace.into(), name: name.into() }
}

fn compile_for(world: &World, gateway: &str) -> tollgate_snapshot::compile::Compiled {
    World { gateway: Some(name(gateway)), ..world.clone() }.compile()
}

/// Where an object attaches, or the reason and field of the finding.
fn attaches(world: &World, kind: &str, object: &str) -> Result<Vec<String>, (Reason, String)> {
    let gateways = Gateways::new(&world.documents, &world.namespaces, &world.standing);
    let is_it = |one: &&tollgate_snapshot::compile::Document| one.kind() == kind && one.meta().name == object;
    let document = world.documents.iter().find(is_it).unwrap();
    match gateways.of(document) {
        Ok(names) => Ok(names.iter().map(GatewayName::to_string).collect()),
        Err(finding) => {
            let Finding { reason, field, object, .. } = *finding;
            assert_eq!(object, document.object_ref());
            Err((reason, field))
        }
    }
}

fn to(gateways: &[&str]) -> Result<Vec<String>, (Reason, String)> {
    Ok(gateways.iter().map(|one| (*one).to_owned()).collect())
}

const FREE: &str = "provider: vllm, model: m, pricing: {free: true}";

fn deployment(namespace: &str, name: &str, more: &str) -> String {
    format!(
        "---\nkind: ModelDeployment\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{FREE}, endpoint: {{baseURL: 'http://{name}.test'}}{more}}}\n"
    )
}

fn key(namespace: &str, name: &str, more: &str) -> String {
    format!(
        "---\nkind: VirtualKey\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{models: [m], secret: {{name: {name}}}{more}}}\n"
    )
}

const TO_BATCH: &str = ", gatewayRef: {name: batch, namespace: jobs}";

#[test]
fn keys_and_deployments_attach_to_the_gateway_they_name_or_to_the_default_one() {
    let yaml = [
        GATEWAYS.trim_end_matches("---\n").to_owned(),
        deployment("team-a", "m", ""),
        deployment("team-a", "o", TO_BATCH),
        key("team-a", "k", ""),
        key("team-a", "l", TO_BATCH),
        key("team-b", "refused", TO_BATCH),
        key("team-b", "astray", ", gatewayRef: {name: gone}"),
    ]
    .concat();
    let world = cluster(&yaml);
    assert_eq!(attaches(&world, "ModelDeployment", "m"), to(&["platform/main"]));
    assert_eq!(attaches(&world, "ModelDeployment", "o"), to(&["jobs/batch"]));
    assert_eq!(attaches(&world, "VirtualKey", "l"), to(&["jobs/batch"]));
    assert_eq!(attaches(&world, "LLMGateway", "batch"), to(&["jobs/batch"]));
    assert_eq!(attaches(&world, "VirtualKey", "refused"), Err((Reason::NotGranted, "spec.gatewayRef".into())));
    assert_eq!(attaches(&world, "VirtualKey", "astray"), Err((Reason::NotFound, "spec.gatewayRef".into())));

    let main = compile_for(&world, "platform/main");
    assert!(main.key("k").is_some() && main.key("l").is_none() && main.key("refused").is_none());
    assert!(main.deployment("m").is_some() && main.deployment("o").is_none());
    assert_eq!(main.targets("team-a", "m"), ["team-a/m"]);
    assert_eq!(&*main.snapshot.gateway.name, "main");

    let batch = compile_for(&world, "jobs/batch");
    assert!(batch.key("l").is_some() && batch.key("k").is_none() && batch.key("refused").is_none());
    assert!(batch.deployment("o").is_some() && batch.deployment("m").is_none());
    assert_eq!(&*batch.snapshot.gateway.allowed_hosts[0], "*.test");

    // `l` asks for a model that only the other gateway has: that is all there is to say.
    assert_eq!(main.summary(), Vec::<String>::new());
    assert_eq!(batch.summary(), ["Warning NotFound VirtualKey team-a/l spec.models"]);
    let members = Members::of(&batch.snapshot);
    let is_member = |document: &&tollgate_snapshot::compile::Document| members.contains(&document.object_ref());
    let names: Vec<String> = world.documents.iter().filter(is_member).map(|one| one.object_ref().to_string()).collect();
    assert_eq!(names, ["LLMGateway jobs/batch", "ModelDeployment team-a/o", "VirtualKey team-a/l"]);
}

#[test]
fn the_only_gateway_takes_all_and_of_several_the_oldest_where_none_is_marked() {
    let one = "kind: LLMGateway\nmetadata: {name: one, createdAt: 2}\nspec: {allowedNamespaces: {from: All}}\n";
    let two = "---\nkind: LLMGateway\nmetadata: {name: two, createdAt: 1}\nspec: {allowedNamespaces: {from: All}}\n";
    let world = cluster(&[one, &key("team-a", "k", "")].concat());
    assert_eq!(attaches(&world, "VirtualKey", "k"), to(&["default/one"]));
    assert!(compile_for(&world, "default/one").key("k").is_some());

    let world = cluster(&[one, two, &key("team-a", "k", "")].concat());
    assert_eq!(attaches(&world, "VirtualKey", "k"), to(&["default/two"]));
    let compiled = compile_for(&world, "default/two");
    assert!(compiled.key("k").is_some());
    assert_eq!(compiled.summary()[0], "Warning Duplicate LLMGateway default/two spec.default");
    let compiled = compile_for(&world, "default/one");
    assert!(compiled.key("k").is_none() && compiled.findings.is_empty(), "{:?}", compiled.findings);

    let nothing = cluster(key("team-a", "k", "").trim_start_matches("---\n"));
    assert_eq!(attaches(&nothing, "VirtualKey", "k"), Err((Reason::NotAttached, "spec.gatewayRef".into())));
}

#[test]
fn of_several_defaults_the_oldest_counts_and_the_others_say_so() {
    let gateway = |name: &str, created: u32| {
        format!(
            "---\nkind: LLMGateway\nmetadata: {{name: {name}, createdAt: {created}}}\nspec: {{default: true, allowedNamespaces: {{from: All}}}}\n"
        )
    };
    let yaml = [gateway("b", 1), gateway("a", 2), gateway("c", 3), key("team-a", "k", "")].concat();
    let world = cluster(yaml.trim_start_matches("---\n"));
    assert_eq!(attaches(&world, "VirtualKey", "k"), to(&["default/b"]));
    for (gateway, told) in [("default/b", false), ("default/a", true), ("default/c", true)] {
        let compiled = compile_for(&world, gateway);
        assert_eq!(compiled.key("k").is_some(), !told);
        let expected = format!("Error Duplicate LLMGateway {gateway} spec.default");
        assert_eq!(compiled.errors().len(), usize::from(told), "{:?}", compiled.errors());
        assert_eq!(compiled.summary().contains(&expected), told);
    }
}

/// The platform's gateway in `platform`, which is the operator's namespace, and that of a tenant. For each a spec and when
/// it was made.
fn two_gateways(platform: (&str, u32), tenant: (&str, u32)) -> World {
    let gateway = |place: &str, (spec, created): (&str, u32)| {
        format!(
            "---\nkind: LLMGateway\nmetadata: {{name: g, namespace: {place}, createdAt: {created}}}\nspec: {spec}\n"
        )
    };
    let yaml = [gateway("platform", platform), gateway("team-b", tenant), key("team-a", "k", "")].concat();
    let mut world = cluster(yaml.trim_start_matches("---\n"));
    world.standing.home = Some("platform".to_owned());
    world
}

#[test]
fn a_gateway_that_cannot_be_run_takes_nothing_from_others() {
    const ALL: &str = "{allowedNamespaces: {from: All}}";
    const DEFAULT: &str = "{default: true, allowedNamespaces: {from: All}}";
    for tenant in [("{}", 2), (DEFAULT, 2), (DEFAULT, 1), (ALL, 1)] {
        let mut world = two_gateways((ALL, 1), tenant);
        world.standing.unserved.insert(name("team-b/g"));
        assert_eq!(attaches(&world, "VirtualKey", "k"), to(&["platform/g"]), "{tenant:?}");
        let compiled = compile_for(&world, "platform/g");
        assert!(compiled.key("k").is_some());
        assert_eq!(
            compiled.summary(),
            ["Warning NotFound VirtualKey team-a/k spec.models"],
            "nobody else is to choose"
        );
        assert_eq!(compile_for(&world, "team-b/g").summary(), Vec::<String>::new());
    }
    // There is nothing better.
    let mut world = two_gateways(("{}", 1), (DEFAULT, 2));
    world.standing.unserved.extend([name("platform/g"), name("team-b/g")]);
    assert_eq!(attaches(&world, "VirtualKey", "k"), to(&["team-b/g"]));
    assert_eq!(
        Gateways::new(&world.documents, &world.namespaces, &world.standing).default_name(),
        Some(name("team-b/g"))
    );
}

#[test]
fn a_gateway_of_the_operators_namespace_goes_before_older_ones_elsewhere() {
    const DEFAULT: &str = "{default: true, allowedNamespaces: {from: All}}";
    let mut world = two_gateways((DEFAULT, 2), (DEFAULT, 1));
    assert_eq!(attaches(&world, "VirtualKey", "k"), to(&["platform/g"]));
    assert_eq!(compile_for(&world, "team-b/g").summary(), ["Error Duplicate LLMGateway team-b/g spec.default"]);
    world.standing.home = None;
    assert_eq!(attaches(&world, "VirtualKey", "k"), to(&["team-b/g"]));
    // A mark is a wish, the namespace is not.
    let world = two_gateways(("{}", 1), (DEFAULT, 2));
    assert_eq!(attaches(&world, "VirtualKey", "k"), to(&["team-b/g"]));
}

#[test]
fn what_a_gateway_that_cannot_be_run_thinks_of_others_is_not_told() {
    let account = "---\nkind: ProviderAccount\nmetadata: {name: idle, namespace: team-a}\nspec: {provider: vllm, endpoint: {baseURL: 'http://idle.example'}}\n";
    let group = "---\nkind: RouteGroup\nmetadata: {name: r, namespace: team-b}\nspec: {targets: [{name: t, modelDeploymentRef: {name: gone}}]}\n";
    let mut world = cluster(&[GATEWAYS.trim_end_matches("---\n"), account, group].concat());
    assert_eq!(attaches(&world, "ProviderAccount", "idle"), to(&["jobs/batch", "platform/main"]));
    world.standing.unserved.insert(name("jobs/batch"));
    assert_eq!(attaches(&world, "ProviderAccount", "idle"), to(&["platform/main"]));
    assert_eq!(compile_for(&world, "jobs/batch").summary(), Vec::<String>::new());
    // Where no other one takes a namespace it has its say.
    world.standing.unserved = [name("platform/main")].into();
    assert_eq!(attaches(&world, "ProviderAccount", "idle"), to(&["jobs/batch"]));
    assert_eq!(attaches(&world, "RouteGroup", "r"), to(&["platform/main"]));
}

#[test]
fn what_is_being_deleted_counts_as_gone() {
    let yaml = [
        "kind: LLMGateway\nmetadata: {name: old, createdAt: 1, deleting: true}\nspec: {default: true, allowedNamespaces: {from: All}}\n".to_owned(),
        "---\nkind: LLMGateway\nmetadata: {name: new, createdAt: 2}\nspec: {default: true, allowedNamespaces: {from: All}}\n".to_owned(),
        deployment("team-a", "m", ""),
        key("team-a", "k", ""),
        key("team-a", "named", ", gatewayRef: {name: old, namespace: default}"),
        key("team-a", "going", "").replace("name: going, ", "name: going, deleting: true, "),
    ]
    .concat();
    let world = cluster(&yaml);
    assert_eq!(attaches(&world, "VirtualKey", "k"), to(&["default/new"]));
    assert_eq!(attaches(&world, "VirtualKey", "named"), Err((Reason::NotFound, "spec.gatewayRef".into())));
    let gateways = Gateways::new(&world.documents, &world.namespaces, &world.standing);
    assert_eq!(gateways.names().collect::<Vec<_>>(), [name("default/new")]);
    assert_eq!(gateways.default_name(), Some(name("default/new")));
    let compiled = compile_for(&world, "default/new");
    assert_eq!(compiled.snapshot.keys.len(), 1);
    assert!(compiled.key("k").is_some(), "its deletion is under way, so it lets nobody in");
    assert_eq!(compiled.errors(), Vec::<String>::new());
    let gone = compile_for(&world, "default/old");
    assert_eq!(
        (&*gone.snapshot.gateway.name, gone.snapshot.keys.len(), gone.snapshot.deployments.len()),
        ("old", 0, 0)
    );
}

#[test]
fn accounts_are_judged_by_the_gateway_that_uses_them() {
    let account = |name: &str| {
        format!(
            "---\nkind: ProviderAccount\nmetadata: {{name: {name}, namespace: team-a}}\nspec: {{provider: vllm, endpoint: {{baseURL: 'http://{name}.example'}}}}\n"
        )
    };
    let uses = |account: &str, more: &str| {
        format!(
            "---\nkind: ModelDeployment\nmetadata: {{name: of-{account}, namespace: team-a}}\nspec: {{accountRef: {{name: {account}}}, model: m, pricing: {{free: true}}{more}}}\n"
        )
    };
    let gateways = GATEWAYS.trim_end_matches("---\n").to_owned();
    let yaml = [gateways, account("used"), account("idle"), uses("used", "")].concat();
    let world = cluster(&yaml);
    assert_eq!(compile_for(&world, "platform/main").summary(), Vec::<String>::new());
    // The other gateway does not let that host be called; only the account that nobody uses is its business too.
    assert_eq!(
        compile_for(&world, "jobs/batch").summary(),
        ["Error HostNotAllowed ProviderAccount team-a/idle spec.endpoint.baseURL"]
    );
    assert_eq!(attaches(&world, "ProviderAccount", "used"), to(&["jobs/batch", "platform/main"]));
}

#[test]
fn a_group_belongs_to_the_gateways_of_its_targets() {
    let group = |name: &str, targets: &str| {
        let targets: Vec<String> =
            targets.split(' ').map(|one| format!("{{name: {one}, modelDeploymentRef: {{name: {one}}}}}")).collect();
        format!(
            "---\nkind: RouteGroup\nmetadata: {{name: {name}, namespace: team-a}}\nspec: {{targets: [{}]}}\n",
            targets.join(", ")
        )
    };
    let yaml = [
        GATEWAYS.trim_end_matches("---\n").to_owned(),
        deployment("team-a", "m", ""),
        deployment("team-a", "o", TO_BATCH),
        deployment("team-a", "astray", ", gatewayRef: {name: gone}"),
        group("of-main", "m"),
        group("of-batch", "o"),
        group("of-both", "m o"),
        group("of-none", "astray"),
    ]
    .concat();
    let world = cluster(&yaml);
    let main = compile_for(&world, "platform/main");
    let batch = compile_for(&world, "jobs/batch");
    assert_eq!(main.targets("team-a", "of-both"), ["team-a/m"]);
    assert_eq!(batch.targets("team-a", "of-both"), ["team-a/o"]);
    assert!(main.route("team-a", "of-batch").is_none() && batch.route("team-a", "of-main").is_none());
    // What no gateway serves is told by all: nobody else would.
    let expected = [
        "Error Unreachable RouteGroup team-a/of-none spec.targets",
        "Error NotFound RouteGroup team-a/of-none spec.targets[0].modelDeploymentRef",
    ];
    assert_eq!(
        (main.summary(), batch.summary()),
        (expected.map(String::from).to_vec(), expected.map(String::from).to_vec())
    );
    assert_eq!(attaches(&world, "RouteGroup", "of-main"), to(&["jobs/batch", "platform/main"]));
}

#[test]
fn a_namespace_that_no_gateway_admits_is_told_once() {
    let yaml = [
        "kind: LLMGateway\nmetadata: {name: g, namespace: platform}\nspec: {default: true}\n".to_owned(),
        deployment("team-a", "m", ""),
        key("team-a", "k", ""),
        "---\nkind: RouteGroup\nmetadata: {name: r, namespace: team-a}\nspec: {targets: [{name: t, modelDeploymentRef: {name: m}}]}\n".to_owned(),
        "---\nkind: Team\nmetadata: {name: t, namespace: team-a}\nspec: {models: ['a*b']}\n".to_owned(),
        "---\nkind: Budget\nmetadata: {name: b, namespace: team-a}\nspec: {limit: '1', period: {lifetime: {}}}\n".to_owned(),
    ]
    .concat();
    let world = cluster(&yaml);
    for (kind, object) in [("ModelDeployment", "m"), ("VirtualKey", "k")] {
        assert_eq!(attaches(&world, kind, object), Err((Reason::NotGranted, "metadata.namespace".into())), "{kind}");
    }
    assert_eq!(attaches(&world, "RouteGroup", "r"), Err((Reason::NotAttached, "metadata.namespace".into())));
    // These may be used by others, with their owner's grant.
    assert_eq!(attaches(&world, "Team", "t"), to(&["platform/g"]));
    let compiled = compile_for(&world, "platform/g");
    assert_eq!(compiled.errors(), ["Team team-a/t: spec.models[0] `a*b`: a model name may have one `*`, at its end"]);
    assert!(compiled.snapshot.teams.is_empty() && compiled.snapshot.budgets.is_empty(), "nobody uses them here");
}

#[test]
fn teams_and_budgets_of_other_gateways_are_not_this_ones_business() {
    let team = |namespace: &str, name: &str, more: &str| {
        format!(
            "---\nkind: Team\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{models: [m, 'a*b'], budget: {{limit: '1', period: {{lifetime: {{}}}}}}, allowedNamespaces: {{from: All}}{more}}}\n"
        )
    };
    let yaml = [
        GATEWAYS.trim_end_matches("---\n").to_owned(),
        // `team-b` may attach to `main` only, and lends its teams to `team-a`.
        team("team-b", "company", ""),
        team("team-b", "lent", ", parentRef: {name: company}"),
        team("team-b", "own", ""),
        deployment("team-a", "m", TO_BATCH),
        key("team-a", "k", ", teamRef: {name: lent, namespace: team-b}, gatewayRef: {name: batch, namespace: jobs}"),
        "---\nkind: Budget\nmetadata: {name: cap, namespace: platform}\nspec: {limit: '9', period: {lifetime: {}}, appliesTo: {namespaceSelector: {matchLabels: {llm: allowed}}}}\n".to_owned(),
        "---\nkind: Budget\nmetadata: {name: cap, namespace: jobs}\nspec: {limit: '8', period: {lifetime: {}}, appliesTo: {namespaceSelector: {matchLabels: {llm: allowed}}}}\n".to_owned(),
        "---\nkind: Budget\nmetadata: {name: cap, namespace: team-b}\nspec: {limit: '7', period: {lifetime: {}}, appliesTo: {namespaceSelector: {matchLabels: {llm: allowed}}}}\n".to_owned(),
    ]
    .concat();
    let world = cluster(&yaml);
    let batch = compile_for(&world, "jobs/batch");
    let teams: Vec<&str> = batch.snapshot.teams.iter().map(|team| &*team.name).collect();
    assert_eq!(teams, ["company", "lent"], "those of its keys, and those above");
    let (_, policy) = batch.key("k").unwrap();
    assert_eq!(&*batch.snapshot.teams[policy.team.unwrap() as usize].name, "lent");
    assert_eq!(
        batch.budget_ids_of("k"),
        ["jobs/Budget/cap", "team-b/Team/lent", "team-b/Team/company"],
        "the cap of its own gateway, and of no other"
    );
    assert_eq!(batch.snapshot.budgets.len(), 3);
    assert_eq!(batch.errors(), Vec::<String>::new(), "the names of teams are told where their namespace belongs");
    let main = compile_for(&world, "platform/main");
    assert_eq!(main.snapshot.teams.len(), 3);
    let budgets: Vec<&str> = main.snapshot.budgets.iter().map(|budget| &*budget.id).collect();
    assert!(budgets.contains(&"platform/Budget/cap") && !budgets.contains(&"jobs/Budget/cap"), "{budgets:?}");
    let errors = main.errors();
    assert_eq!(errors.len(), 4, "{errors:?}");
    assert!(
        errors[0].starts_with("Budget team-b/cap: spec.appliesTo.namespaceSelector"),
        "no gateway is there: {errors:?}"
    );
}

#[test]
fn the_same_hash_may_be_at_two_gateways() {
    let hash = "sha256:41a6d46d7e19ce5627b21179a279d750ccc04505ea9cee606552e2acbb4e9148";
    let yaml =
        [GATEWAYS.trim_end_matches("---\n").to_owned(), key("team-a", "k", ""), key("team-a", "l", TO_BATCH)].concat();
    let yaml = yaml.replace("secret: {name: k}", &format!("keyHash: '{hash}'"));
    let world = cluster(&yaml.replace("secret: {name: l}", &format!("keyHash: '{hash}'")));
    for gateway in ["platform/main", "jobs/batch"] {
        let compiled = compile_for(&world, gateway);
        assert_eq!((compiled.snapshot.keys.len(), compiled.errors().len()), (1, 0), "{gateway}");
    }
}
