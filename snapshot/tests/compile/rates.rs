//! Rates that a gateway sets for many, members' limits, and classes of keys.

use tollgate_snapshot::Reason;
use tollgate_snapshot::model::{Limits, ModelSet, RateLimitPer};

use crate::keys::world;
use crate::names::deployment;
use crate::world::{Ask, World};

fn gateway(rest: &str) -> String {
    format!("kind: LLMGateway\nmetadata: {{name: default}}\nspec: {{default: true, {rest}}}\n---\n")
}

fn keys() -> &'static str {
    "
kind: Team
metadata: {name: free, labels: {tier: free}}
spec: {models: [chat], priority: batch}
---
kind: VirtualKey
metadata: {name: dev, labels: {env: dev}}
spec: {models: [chat], priority: production, secret: {name: a}}
---
kind: VirtualKey
metadata: {name: poor}
spec: {teamRef: {name: free}, secret: {name: b}}
"
}

fn per_minute(requests: u64) -> Limits {
    Limits { requests_per_minute: Some(requests), ..Limits::default() }
}

#[test]
fn a_rule_names_the_keys_that_it_selects() {
    let rules = "rateLimits: [
        {name: all, per: User, requestsPerMinute: 5, appliesTo: {models: ['gpt*', chat], users: [alice], endUsers: [c], tags: [t]}},
        {name: of-dev, requestsPerMinute: 6, appliesTo: {keySelector: {matchLabels: {env: dev}}}},
        {name: of-free, per: Key, requestsPerMinute: 7, appliesTo: {teamSelector: {matchLabels: {tier: free}}}},
        {name: of-others, requestsPerMinute: 8, appliesTo: {namespaceSelector: {matchLabels: {llm: allowed}}}},
    ]";
    let classes = "priorities: [{name: production, sharePercent: 70}, {name: batch, sharePercent: 10}]";
    let compiled = world(&[&gateway(&format!("{rules}, {classes}")), keys()].concat()).compile();
    let rules = &compiled.snapshot.gateway.rate_limits;
    let told: Vec<(&str, RateLimitPer, bool, Limits)> =
        rules.iter().map(|rule| (&*rule.name, rule.per, rule.of_some_keys, rule.limits)).collect();
    assert_eq!(
        told,
        [
            ("all", RateLimitPer::User, false, per_minute(5)),
            ("of-dev", RateLimitPer::All, true, per_minute(6)),
            ("of-free", RateLimitPer::Key, true, per_minute(7)),
            ("of-others", RateLimitPer::All, true, per_minute(8)),
        ]
    );
    assert_eq!(rules[0].models, Some(ModelSet::new(["gpt*", "chat"])));
    assert_eq!([&rules[0].users, &rules[0].end_users, &rules[0].tags].map(|names| &*names[0]), ["alice", "c", "t"]);
    let of = |key: &str| {
        let policy = compiled.key(key).unwrap().1;
        let rules: Vec<&str> = policy.rate_limits.iter().map(|name| &**name).collect();
        (rules, policy.priority.as_deref())
    };
    assert_eq!(of("dev"), (vec!["of-dev"], Some("production")));
    assert_eq!(of("poor"), (vec!["of-free"], Some("batch")));
    assert_eq!(
        compiled.summary(),
        ["Warning InvalidValue LLMGateway default/default spec.priorities"],
        "no limits to share"
    );
}

#[test]
fn what_does_nothing_is_said() {
    let rules = "rateLimits: [{name: a}, {name: b, requestsPerMinute: 5}, {name: b, requestsPerMinute: 6}]";
    let classes = "priorities: [{name: one, sharePercent: 70}, {name: two, sharePercent: 40}, {name: one, sharePercent: 1}, {name: three, sharePercent: 0}]";
    let limited = "kind: ModelDeployment\nmetadata: {name: d}\nspec: {provider: mock, model: m, pricing: {free: true}, limits: {requestsPerMinute: 9}}\n---\n";
    let compiled = world(&[&gateway(&format!("{rules}, {classes}")), limited, keys()].concat()).compile();
    let names: Vec<&str> = compiled.snapshot.gateway.rate_limits.iter().map(|rule| &*rule.name).collect();
    assert_eq!(names, ["b"]);
    let shares: Vec<u8> = compiled.snapshot.gateway.priorities.iter().map(|class| class.share_percent).collect();
    assert_eq!(shares, [70, 30, 0]);
    assert_eq!(
        compiled.summary(),
        [
            "Error InvalidValue LLMGateway default/default spec.priorities[1].sharePercent",
            "Error Duplicate LLMGateway default/default spec.priorities[2].name",
            "Error InvalidValue LLMGateway default/default spec.priorities[3].sharePercent",
            "Error InvalidValue LLMGateway default/default spec.rateLimits[0]",
            "Error Duplicate LLMGateway default/default spec.rateLimits[2].name",
            "Warning NotFound Team default/free spec.priority",
            "Warning NotFound VirtualKey default/dev spec.priority",
        ]
    );
}

/// A gateway with one rule and a team with one member.
fn limited(requests: i64, tokens: i64) -> String {
    let rule = format!("{{name: all, requestsPerMinute: {requests}, inputTokensPerMinute: {tokens}}}");
    let member = format!("{{user: alice, limits: {{requestsPerMinute: {requests}, outputTokensPerMinute: {tokens}}}}}");
    let team = format!("kind: Team\nmetadata: {{name: t}}\nspec: {{models: [chat], members: [{member}]}}\n");
    let model = deployment("default", "chat", "");
    [&model, "---\n", &gateway(&format!("rateLimits: [{rule}]")), &team].concat()
}

#[test]
fn a_broken_rule_and_a_broken_member_keep_their_last_limits() {
    let compiled = World::read(&limited(9, 50)).edited(&limited(-1, 5)).compile();
    let rule = &compiled.snapshot.gateway.rate_limits[0];
    assert_eq!((rule.limits.requests_per_minute, rule.limits.input_tokens_per_minute), (Some(9), Some(5)));
    let team = &compiled.snapshot.teams[0];
    let member = &team.members[0];
    let limits = (member.limits.requests_per_minute, member.limits.output_tokens_per_minute);
    assert_eq!((&*member.user, limits, team.blocked), ("alice", (Some(9), Some(5)), false));
    assert_eq!(compiled.said("t", Reason::LastGoodKept).len(), 1);
}
