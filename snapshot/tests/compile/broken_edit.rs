//! A broken edit keeps what was good, and never more authority than is written.

use tollgate_snapshot::Reason;

use crate::names::deployment;
use crate::world::{Ask, World};

const SECRET: &str = "---\nkind: Secret\nmetadata: {name: s}\nstringData: {key: sk-one}\n";

fn openai(rest: &str) -> String {
    format!(
        "---\nkind: ModelDeployment\nmetadata: {{name: m}}\n\
         spec: {{provider: openai, model: gpt-4o, credential: {{secretRef: {{name: s, key: key}}}}, {rest}}}\n"
    )
}

#[test]
fn a_broken_deployment_stays_as_it_was_in_its_routes() {
    let good = World::read(&[SECRET, &openai("")].concat());
    let before = good.compile();
    let compiled =
        good.edited(&[SECRET, &openai("timeouts: {total: soon}, modelNames: [m, other]")].concat()).compile();
    assert_eq!(compiled.deployment("m"), before.deployment("m"));
    assert_eq!(compiled.credentials, before.credentials);
    assert_eq!(compiled.targets("default", "other"), ["default/m"], "names come from the new text");
    assert_eq!(
        compiled.summary(),
        [
            "Warning LastGoodKept ModelDeployment default/m ",
            "Error InvalidValue ModelDeployment default/m spec.timeouts.total"
        ]
    );
}

#[test]
fn a_broken_deployment_without_a_past_is_left_out() {
    let compiled = World::read(&[SECRET, &openai("timeouts: {total: soon}")].concat()).compile();
    assert!(compiled.deployment("m").is_none());
}

#[test]
fn a_secret_that_is_gone_ends_what_used_it() {
    let good = World::read(&[SECRET, &openai("")].concat());
    let compiled = good.edited(&openai("targets: [], timeouts: {total: soon}")).compile();
    assert!(compiled.deployment("m").is_none() && compiled.credentials.is_empty());
    assert!(compiled.said("m", Reason::LastGoodKept).is_empty());
}

#[test]
fn a_host_that_is_no_longer_allowed_ends_what_used_it() {
    let good = World::read(&[SECRET, &openai("")].concat());
    let gateway = "---\nkind: LLMGateway\nmetadata: {name: g}\nspec: {egress: {allowedHosts: [a.example]}}\n";
    let compiled = good.edited(&[SECRET, gateway, &openai("timeouts: {total: soon}")].concat()).compile();
    assert!(compiled.deployment("m").is_none());
}

fn conditional(when: &str) -> String {
    let when = serde_json::to_string(when).unwrap();
    let group = format!(
        "---\nkind: RouteGroup\nmetadata: {{name: r}}\nspec: {{targets: [\
         {{name: a, modelDeploymentRef: {{name: a}}, when: {when}}}, {{name: b, modelDeploymentRef: {{name: b}}}}]}}\n"
    );
    [deployment("default", "a", ""), deployment("default", "b", ""), group].concat()
}

#[test]
fn a_condition_that_cannot_be_read_is_a_finding_and_keeps_what_was_good() {
    let mut loops = "true".to_owned();
    for name in ["a", "b", "c", "d", "e", "f"] {
        loops = format!("[{}].all({name}, {loops})", ["1"; 60].join(","));
    }
    let brackets = format!("{}true{}", "(".repeat(500), ")".repeat(500));
    let lists = "[".repeat(500);
    let long = format!("'{}' in request.tags", "x".repeat(1 << 20));
    for (when, expected) in [
        ("this is (", "unknown name `this` at character 1; there are `request` and `key`"),
        ("request.nosuch == ''", "`request` has no `nosuch`, at character 9; it has model, tags, headers and endUser"),
        (
            &loops,
            "`all` at character 123 cannot be used: conditions have no loops; \
             there are contains, startsWith, endsWith, size and has",
        ),
        (&brackets, "brackets and choices nest deeper than 16 at character 17"),
        (&lists, "brackets and choices nest deeper than 16 at character 17"),
        (&long, "the condition is longer than 1024 characters"),
    ] {
        let broken = World::read(&conditional(when)).compile();
        assert_eq!(broken.targets("default", "r"), ["default/b"], "{when}");
        assert_eq!(broken.summary(), ["Error InvalidValue RouteGroup default/r spec.targets[0].when"]);
        assert_eq!(broken.said("r", Reason::InvalidValue)[0].message, expected);

        let good = World::read(&conditional("'eu' in request.tags"));
        assert_eq!(good.compile().summary(), [""; 0]);
        let edited = good.edited(&conditional(when)).compile();
        assert_eq!(edited.targets("default", "r"), ["default/a", "default/b"], "{when}");
        assert_eq!(edited.said("r", Reason::LastGoodKept).len(), 1, "{when}");
    }
}

fn key(rest: &str) -> String {
    format!("---\nkind: VirtualKey\nmetadata: {{name: k}}\nspec: {{models: [chat], secret: {{name: s}}, {rest}}}\n")
}

#[test]
fn a_broken_key_keeps_its_limits_and_loses_what_is_taken() {
    let model = deployment("default", "chat", "");
    let good = World::read(
        &[model.as_str(), &key("limits: {requestsPerMinute: 60, tokensPerMinute: 900}, maxOutputTokens: 70")].concat(),
    );
    let edit = key(
        "limits: {requestsPerMinute: 0, tokensPerMinute: 100}, maxOutputTokens: 0, disabled: true, expiresAt: '2027-01-01T00:00:00Z'",
    );
    let compiled = good.edited(&[model.as_str(), &edit].concat()).compile();
    let (key, policy) = compiled.key("k").unwrap();
    assert_eq!((policy.limits.requests_per_minute, policy.limits.tokens_per_minute), (Some(60), Some(100)));
    assert_eq!(policy.max_output_tokens, Some(70));
    assert_eq!((key.disabled, key.expires_at), (true, Some(1_798_761_600)));
    assert_eq!(compiled.said("k", Reason::LastGoodKept).len(), 1);
}

#[test]
fn a_key_that_is_removed_is_gone() {
    let model = deployment("default", "chat", "");
    let good = World::read(&[model.as_str(), &key("disabled: false")].concat());
    assert!(good.edited(&model).compile().key("k").is_none());
}

#[test]
fn a_broken_hash_keeps_the_key() {
    let hash = tollgate_snapshot::KeyHash::of(b"sk-0123456789abcdefghij");
    let with = |hash: &str| {
        let key =
            format!("---\nkind: VirtualKey\nmetadata: {{name: k}}\nspec: {{models: [chat], keyHash: '{hash}'}}\n");
        [deployment("default", "chat", ""), key].concat()
    };
    let good = World::read(&with(&format!("sha256:{hash}")));
    let compiled = good.edited(&with("sha256:oops")).compile();
    assert_eq!(compiled.key("k").unwrap().0.hash, hash);
}

#[test]
fn a_broken_budget_keeps_its_limit_but_not_a_higher_one() {
    let with = |spec: &str| {
        [
            deployment("default", "chat", ""),
            key("budgetRefs: [{name: b}]"),
            format!("---\nkind: Budget\nmetadata: {{name: b}}\nspec: {{{spec}}}\n"),
        ]
        .concat()
    };
    let good = World::read(&with("limit: '10', period: {calendar: Day}"));
    for (edit, limit) in [
        ("limit: 'ten', period: {calendar: Day}", 10_000_000_000),
        ("limit: '5', period: {}", 5_000_000_000),
        ("limit: '500', period: {}", 10_000_000_000),
    ] {
        let compiled = good.edited(&with(edit)).compile();
        assert_eq!(compiled.budgets_of("k")[0].limit, limit, "{edit}");
        assert_eq!(compiled.said("b", Reason::LastGoodKept).len(), 1, "{edit}");
    }
}

#[test]
fn a_broken_group_keeps_its_targets_but_not_those_that_are_gone() {
    let with = |a: bool, spec: &str| {
        let a = if a { deployment("default", "a", "") } else { String::new() };
        let group = format!("---\nkind: RouteGroup\nmetadata: {{name: chat}}\nspec: {{{spec}}}\n");
        [a, deployment("default", "b", ""), group].concat()
    };
    let targets = "targets: [{name: a, modelDeploymentRef: {name: a}, weight: 7}, {name: b, modelDeploymentRef: {name: b}}], \
                   fallbacks: [{name: x, errors: [Any], models: [b]}]";
    let good = World::read(&with(true, targets));
    let broken = "modelNames: [chat, talk], targets: [{name: a, modelDeploymentRef: {name: a}, weight: 0}]";
    let compiled = good.edited(&with(true, broken)).compile();
    assert_eq!(compiled.targets("default", "talk"), ["default/a", "default/b"]);
    let chat = compiled.route("default", "chat").unwrap();
    assert_eq!((chat.targets[0].weight, chat.fallbacks.len()), (7, 1));
    assert_eq!(compiled.said("chat", Reason::LastGoodKept).len(), 1);
    let compiled = good.edited(&with(false, "targets: [], timeouts: {total: soon}")).compile();
    assert_eq!(compiled.targets("default", "chat"), ["default/b"]);
}

#[test]
fn a_team_that_cannot_be_read_lets_nobody_through_unless_it_has_a_past() {
    let with = |limits: &str| {
        let team = format!("---\nkind: Team\nmetadata: {{name: t}}\nspec: {{models: [chat], limits: {{{limits}}}}}\n");
        [deployment("default", "chat", ""), team].concat()
    };
    assert!(World::read(&with("requestsPerMinute: 0")).compile().snapshot.teams[0].blocked);
    let good = World::read(&with("requestsPerMinute: 9"));
    let team = good.edited(&with("requestsPerMinute: 0, tokensPerMinute: 5")).compile().snapshot.teams.remove(0);
    assert_eq!(
        (team.blocked, team.limits.requests_per_minute, team.limits.tokens_per_minute),
        (false, Some(9), Some(5))
    );
}

#[test]
fn a_budget_that_never_could_be_read_has_no_good_state_to_keep() {
    let budget = |enforcement: &str| {
        format!(
            "kind: Budget\nmetadata: {{name: b}}\nspec: {{limit: '1', period: {{calendar: Day, timeZone: Mars/Base}}{enforcement}}}\n"
        )
    };
    let mut world = World::read(&budget(""));
    // However often it is compiled, and whatever is written next that cannot be read either.
    for enforcement in ["", "", ", enforcement: Soft"] {
        world = world.edited(&budget(enforcement));
        let compiled = world.compile();
        assert!(compiled.snapshot.budgets[0].denies(), "{enforcement}");
        assert_eq!(compiled.said("b", Reason::InvalidValue).len(), 1);
        assert!(compiled.said("b", Reason::LastGoodKept).is_empty(), "{enforcement}");
    }
}
