//! Who may call what.

use tollgate_snapshot::Reason;
use tollgate_snapshot::compile::ReplacedKey;
use tollgate_snapshot::model::{KeyHash, ModelSet};

use crate::names::deployment;
use crate::world::{Ask, NOW, World};

/// One model, and what is written.
pub fn world(yaml: &str) -> World {
    World::read(&[deployment("default", "chat", ""), "---\n".to_owned(), yaml.to_owned()].concat())
}

#[test]
fn a_key_without_models_and_without_team_may_call_nothing() {
    let compiled = world("kind: VirtualKey\nmetadata: {name: k}\nspec: {secret: {name: s}}").compile();
    assert_eq!(compiled.key("k").unwrap().1.models, Some(ModelSet::default()));
    assert_eq!(compiled.summary(), ["Warning NoModels VirtualKey default/k spec.models"]);
}

#[test]
fn a_team_bounds_its_keys_and_the_teams_below() {
    let compiled = world(
        "
kind: Team
metadata: {name: company}
spec: {models: ['chat', 'gpt-*'], limits: {requestsPerMinute: 100}}
---
kind: Team
metadata: {name: research}
spec: {parentRef: {name: company}, models: ['gpt-4*', llama], limits: {requestsPerMinute: 500}, keyDefaults: {limits: {parallelRequests: 8, tokensPerMinute: 9}}}
---
kind: VirtualKey
metadata: {name: k}
spec: {teamRef: {name: research}, limits: {tokensPerMinute: 5}, secret: {name: s}}
",
    )
    .compile();
    let (_, policy) = compiled.key("k").unwrap();
    assert_eq!(
        (policy.models.as_ref(), policy.limits.parallel_requests, policy.limits.tokens_per_minute),
        (None, Some(8), Some(5))
    );
    let team = &compiled.snapshot.teams[policy.team.unwrap() as usize];
    assert_eq!((&*team.name, team.models.clone()), ("research", Some(ModelSet::new(["gpt-4*"]))));
    assert_eq!((team.limits.requests_per_minute, team.blocked), (Some(100), false));
    let above: Vec<&str> = team.above.iter().map(|at| &*compiled.snapshot.teams[*at as usize].name).collect();
    assert_eq!(above, ["company"], "its limits hold for all teams below together");
    assert_eq!(compiled.summary(), ["Warning AboveParent Team default/research spec.limits.requestsPerMinute"]);
}

#[test]
fn budgets_of_all_teams_above_bind_a_key_and_one_that_is_never_reached_is_told() {
    let team = |name: &str, limit: &str, period: &str, parent: &str| {
        format!(
            "---\nkind: Team\nmetadata: {{name: {name}}}\nspec: {{models: [chat], budget: {{limit: '{limit}', period: {{calendar: {period}}}}}{parent}}}\n"
        )
    };
    let yaml = [
        team("lab", "20", "Day", ", parentRef: {name: unit}"),
        team("unit", "10", "Month", ", parentRef: {name: company}"),
        team("company", "5", "Day", ""),
        "---\nkind: VirtualKey\nmetadata: {name: k}\nspec: {teamRef: {name: lab}, secret: {name: s}}\n".to_owned(),
    ]
    .concat();
    let compiled = world(&yaml[4..]).compile();
    assert_eq!(compiled.budget_ids_of("k"), ["default/Team/lab", "default/Team/unit", "default/Team/company"]);
    // A month's 10 may be reached although a day has 5.
    assert_eq!(compiled.summary(), ["Warning AboveParent Team default/lab spec.budget.limit"]);
}

#[test]
fn teams_above_each_other_in_a_circle_are_told() {
    let team = |name: &str, parent: &str| {
        format!(
            "---\nkind: Team\nmetadata: {{name: {name}}}\nspec: {{models: [chat], parentRef: {{name: {parent}}}}}\n"
        )
    };
    let compiled = world(&[team("a", "b"), team("b", "a")].concat()[4..]).compile();
    assert_eq!(
        compiled.summary(),
        ["Error Cycle Team default/a spec.parentRef", "Error Cycle Team default/b spec.parentRef"]
    );
}

#[test]
fn a_team_whose_parent_is_gone_is_blocked() {
    let yaml = "
kind: Team
metadata: {name: t}
spec: {models: [chat], parentRef: {name: gone}}
---
kind: VirtualKey
metadata: {name: k}
spec: {teamRef: {name: t}, secret: {name: s}}
---
kind: VirtualKey
metadata: {name: orphan}
spec: {teamRef: {name: gone}, models: [chat], secret: {name: s2}}
";
    let compiled = world(yaml).compile();
    assert!(compiled.snapshot.teams[0].blocked);
    assert!(compiled.key("k").is_some() && compiled.key("orphan").is_none());
    assert_eq!(
        compiled.summary(),
        ["Error NotFound Team default/t spec.parentRef", "Error NotFound VirtualKey default/orphan spec.teamRef"]
    );
}

#[test]
fn teams_in_a_circle_bind_each_other() {
    let yaml = "
kind: Team
metadata: {name: a}
spec: {models: [chat, x], parentRef: {name: b}}
---
kind: Team
metadata: {name: b}
spec: {models: [chat, z], blocked: true, parentRef: {name: a}}
";
    let compiled = world(yaml).compile();
    for team in &compiled.snapshot.teams {
        assert_eq!((team.models.clone(), team.blocked), (Some(ModelSet::new(["chat"])), true));
    }
    assert_eq!(
        compiled.summary(),
        ["Error Cycle Team default/a spec.parentRef", "Error Cycle Team default/b spec.parentRef"]
    );
}

#[test]
fn of_two_keys_with_the_same_hash_the_newer_is_refused() {
    let hash = KeyHash::of(b"sk-the-same-for-both-of-them");
    let yaml = format!(
        "
kind: VirtualKey
metadata: {{name: second, createdAt: 2}}
spec: {{models: [chat], keyHash: 'sha256:{hash}'}}
---
kind: VirtualKey
metadata: {{name: first, createdAt: 1}}
spec: {{models: [chat], keyHash: 'sha256:{hash}'}}
"
    );
    let compiled = world(&yaml).compile();
    assert!(compiled.key("first").is_some() && compiled.key("second").is_none());
    assert_eq!(compiled.summary(), ["Error Duplicate VirtualKey default/second spec"]);
    assert!(!compiled.findings[0].message.contains("first"), "the other key is not named");
}

#[test]
fn adopted_keys_are_hashed_and_short_ones_are_told() {
    let yaml = "
kind: Secret
metadata: {name: s}
stringData: {key: sk-short}
---
kind: VirtualKey
metadata: {name: k}
spec: {models: [chat], secret: {name: s, policy: Adopt}}
";
    let compiled = world(yaml).compile();
    assert_eq!(compiled.key("k").unwrap().0.hash, KeyHash::of(b"sk-short"));
    assert_eq!(compiled.summary(), ["Warning WeakKey VirtualKey default/k spec.secret"]);
    assert!(!format!("{compiled:?}").contains("sk-short"));
}

#[test]
fn a_key_that_is_not_generated_yet_waits() {
    let mut world = world("kind: VirtualKey\nmetadata: {name: k}\nspec: {models: [chat], secret: {name: s}}");
    world.key_hashes = Default::default();
    let compiled = world.compile();
    assert!(compiled.key("k").is_none());
    assert_eq!(compiled.summary(), ["Error NotFound VirtualKey default/k spec.secret"]);
}

#[test]
fn keys_with_faults_are_told_and_never_gain_by_them() {
    let key = |spec: &str| world(&format!("kind: VirtualKey\nmetadata: {{name: k}}\nspec: {{{spec}}}")).compile();
    for (spec, reason, field, is_left_out) in [
        ("models: [chat]", Reason::ExactlyOne, "spec", true),
        ("models: [chat], keyHash: 'sha256:12'", Reason::InvalidValue, "spec.keyHash", true),
        (
            "models: [chat], secret: {name: s}, limits: {requestsPerMinute: -1}",
            Reason::InvalidValue,
            "spec.limits.requestsPerMinute",
            true,
        ),
        ("models: [chat], secret: {name: s}, maxOutputTokens: 0", Reason::InvalidValue, "spec.maxOutputTokens", true),
        ("models: [chat], secret: {name: s}, budgetRefs: [{name: gone}]", Reason::NotFound, "spec.budgetRefs[0]", true),
        ("models: [chat], secret: {name: s}, gatewayRef: {name: gone}", Reason::NotFound, "spec.gatewayRef", true),
        ("models: [chat], secret: {name: s}, expiresAt: tomorrow", Reason::InvalidValue, "spec.expiresAt", false),
        ("models: [chat, gone], secret: {name: s}", Reason::NotFound, "spec.models", false),
        (
            "models: [chat], secret: {name: s}, modelAliases: {fast: gone}",
            Reason::NotGranted,
            "spec.modelAliases.fast",
            false,
        ),
        ("models: [chat], secret: {name: s}, guardrails: [x]", Reason::NotSupportedYet, "spec.guardrails", false),
    ] {
        let compiled = key(spec);
        let found: Vec<(Reason, &str)> = compiled.findings.iter().map(|one| (one.reason, one.field.as_str())).collect();
        assert_eq!(found, [(reason, field)], "{spec}");
        assert_eq!(compiled.key("k").is_none(), is_left_out, "{spec}");
    }
    let expired = key("models: [chat], secret: {name: s}, expiresAt: tomorrow");
    assert!(expired.key("k").unwrap().0.expires_at.unwrap() < NOW, "a moment that cannot be read is over");
    let nothing = key("models: ['a*b'], secret: {name: s}");
    assert_eq!(nothing.key("k").unwrap().1.models, Some(ModelSet::default()), "a bad name does not become all names");
}

#[test]
fn keys_that_say_the_same_share_one_policy() {
    let one = "kind: VirtualKey\nmetadata: {name: NAME}\nspec: {models: [chat], tags: [a], secret: {name: s}}\n---\n";
    let yaml: String = (0..50).map(|at| one.replace("NAME", &format!("k{at}"))).collect();
    let compiled = world(yaml.trim_end_matches("---\n")).compile();
    assert_eq!((compiled.snapshot.keys.len(), compiled.snapshot.policies.len()), (50, 1));
    assert!(compiled.snapshot.keys.windows(2).all(|pair| pair[0].hash < pair[1].hash));
}

#[test]
fn a_replaced_key_works_until_it_ends() {
    let key = |more: &str| {
        format!(
            "kind: VirtualKey\nmetadata: {{name: k}}\nspec: {{models: [chat], budget: {{limit: '1', period: {{lifetime: {{}}}}}}, secret: {{name: s}}{more}}}"
        )
    };
    let replaced = [
        ReplacedKey { hash: KeyHash::of(b"older"), ends_at: NOW + 60 },
        ReplacedKey { hash: KeyHash::of(b"oldest"), ends_at: NOW - 60 },
    ];
    let ends = |more: &str| -> Vec<Option<i64>> {
        let mut world = world(&key(more));
        replaced.iter().for_each(|one| world.key_hashes.insert_replaced("default", "k", *one));
        let compiled = world.compile();
        assert_eq!(compiled.errors(), Vec::<String>::new());
        let (keys, policies, budgets) =
            (&compiled.snapshot.keys, &compiled.snapshot.policies, &compiled.snapshot.budgets);
        assert_eq!((keys.len(), policies.len(), budgets.len()), (3, 1, 1), "one VirtualKey, one budget");
        assert!(keys.iter().all(|key| &*key.name == "k" && key.policy == 0 && key.budgets == [0]));
        let of = |hash: KeyHash| keys.iter().find(|key| key.hash == hash).unwrap().expires_at;
        vec![of(KeyHash::of(b"default/k")), of(replaced[0].hash), of(replaced[1].hash)]
    };
    assert_eq!(ends(""), [None, Some(NOW + 60), Some(NOW - 60)]);
    let at = "2026-11-21T12:00:30Z";
    assert_eq!(
        ends(&format!(", expiresAt: '{at}'")),
        [Some(NOW + 30), Some(NOW + 30), Some(NOW - 60)],
        "the earlier end"
    );
}

#[test]
fn a_replaced_key_never_takes_the_place_of_another() {
    let yaml = "
kind: VirtualKey
metadata: {name: a}
spec: {models: [chat], secret: {name: a}}
---
kind: VirtualKey
metadata: {name: b}
spec: {models: [chat], secret: {name: b}}
";
    let mut world = world(yaml);
    let of_b = KeyHash::of(b"default/b");
    for hash in [of_b, KeyHash::of(b"default/a"), KeyHash::of(b"x"), KeyHash::of(b"x")] {
        world.key_hashes.insert_replaced("default", "a", ReplacedKey { hash, ends_at: NOW + 60 });
    }
    let compiled = world.compile();
    assert_eq!((compiled.snapshot.keys.len(), compiled.summary()), (3, Vec::<String>::new()));
    let of = |hash: KeyHash| compiled.snapshot.keys.iter().find(|key| key.hash == hash).unwrap();
    assert_eq!((&*of(of_b).name, of(of_b).expires_at), ("b", None));
    assert_eq!((&*of(KeyHash::of(b"x")).name, of(KeyHash::of(b"x")).expires_at), ("a", Some(NOW + 60)));
    world.key_hashes.remove("default", "a");
    let compiled = world.compile();
    assert_eq!((compiled.snapshot.keys.len(), compiled.errors().len()), (1, 1));
}

#[test]
fn a_broken_edit_keeps_the_key_in_use_and_none_that_it_replaced() {
    let mut before = world("kind: VirtualKey\nmetadata: {name: k}\nspec: {models: [chat], secret: {name: s}}");
    for text in ["1", "2", "3"] {
        let hash = KeyHash::of(text.as_bytes());
        before.key_hashes.insert_replaced("default", "k", ReplacedKey { hash, ends_at: NOW + 60 });
    }
    let broken = [
        deployment("default", "chat", ""),
        "---\nkind: VirtualKey\nmetadata: {name: k}\nspec: {models: [chat]}".to_owned(),
    ];
    let compiled = before.edited(&broken.concat()).compile();
    assert_eq!(compiled.snapshot.keys.len(), 1);
    assert_eq!(compiled.key("k").unwrap().0.hash, KeyHash::of(b"default/k"));
}

#[test]
fn teams_above_teams_have_an_end() {
    let team = |at: usize| {
        format!(
            "---\nkind: Team\nmetadata: {{name: t{at:02}}}\nspec: {{models: [chat], parentRef: {{name: t{:02}}}}}\n",
            at + 1
        )
    };
    let yaml: String = (0..40).map(team).collect();
    let top = "---\nkind: Team\nmetadata: {name: t40}\nspec: {models: [chat]}\n";
    let compiled = world(&[&yaml[4..], top].concat()).compile();
    let blocked = compiled.snapshot.teams.iter().filter(|team| team.blocked).count();
    let told = compiled.findings.iter().filter(|finding| finding.reason == Reason::InvalidValue).count();
    assert_eq!((compiled.snapshot.teams.len(), blocked, told), (41, 8, 8), "{:?}", compiled.errors());
}
