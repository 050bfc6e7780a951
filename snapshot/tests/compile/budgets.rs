//! Which budgets bind which key, and how much they allow.

use tollgate_snapshot::Reason;
use tollgate_snapshot::compile::{Compiled, Mode};
use tollgate_snapshot::model::{Boost, CalendarUnit, Period};

use crate::keys::world;
use crate::world::{Ask, World};

fn compile(yaml: &str) -> Compiled {
    world(&format!("{yaml}\n---\nkind: VirtualKey\nmetadata: {{name: k, labels: {{env: dev}}}}\nspec: {{models: [chat], user: alice, secret: {{name: s}}}}")).compile()
}

fn budget(name: &str, spec: &str) -> String {
    format!("kind: Budget\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n")
}

const DAY: &str = "period: {calendar: Day}";

#[test]
fn a_budget_binds_what_it_selects() {
    for (scope, binds) in [
        ("", true),
        ("appliesTo: {keySelector: {matchLabels: {env: dev}}}", true),
        ("appliesTo: {keySelector: {matchLabels: {env: prod}}}", false),
        ("appliesTo: {users: [alice]}", true),
        ("appliesTo: {users: [bob]}", false),
        ("appliesTo: {teamSelector: {}}", false),
        ("appliesTo: {keySelector: {matchLabels: {env: dev}}, users: [bob]}", false),
        // What only a call tells is asked of the call.
        ("appliesTo: {endUsers: [x]}", true),
        ("appliesTo: {tags: [x]}", true),
    ] {
        let compiled = compile(budget("b", &format!("limit: '1', {DAY}, {scope}")).trim_end_matches("---\n"));
        assert_eq!(compiled.budget_ids_of("k") == ["default/Budget/b"], binds, "{scope}");
    }
}

#[test]
fn each_member_has_a_budget_of_its_own() {
    for (per, id) in [
        ("Key", Some("default/Budget/b/k")),
        ("User", Some("default/Budget/b/alice")),
        ("Namespace", Some("default/Budget/b/default")),
        ("Team", None),
        // Only calls tell whose.
        ("Model", Some("default/Budget/b")),
        ("Provider", Some("default/Budget/b")),
        ("EndUser", Some("default/Budget/b")),
        ("Tag", Some("default/Budget/b")),
    ] {
        let compiled = compile(budget("b", &format!("limit: '1', {DAY}, per: {per}")).trim_end_matches("---\n"));
        assert_eq!(compiled.budget_ids_of("k").first().copied(), id, "{per}");
        let of_call = matches!(per, "Model" | "Provider" | "EndUser" | "Tag");
        let row = compiled.budgets_of("k").first().map(|row| row.per.is_some());
        assert_eq!(row, id.map(|_| of_call), "{per}");
        assert_eq!(compiled.summary(), Vec::<String>::new(), "{per}");
    }
}

#[test]
fn what_calls_must_bring_is_in_the_row_unless_the_key_brings_it() {
    let key = |name: &str, tags: &str| {
        format!(
            "---\nkind: VirtualKey\nmetadata: {{name: {name}}}\nspec: {{models: ['*'], tags: [{tags}], secret: {{name: s}}}}\n"
        )
    };
    let budget = |name: &str, more: &str| {
        format!("---\nkind: Budget\nmetadata: {{name: {name}}}\nspec: {{limit: '1', {DAY}, {more}}}\n")
    };
    let yaml = [
        key("plain", "other"),
        key("tagged", "red, other"),
        budget("ends", "appliesTo: {endUsers: [two, one, one]}"),
        budget("tags", "appliesTo: {tags: [red, blue]}"),
        budget("tags-each", "appliesTo: {tags: [red, blue]}, per: Tag"),
    ]
    .concat();
    let compiled = World::read(&yaml[4..]).compile();
    let rows = |key: &str| -> Vec<(String, Vec<String>, Vec<String>)> {
        let texts = |list: &[tollgate_snapshot::model::Name]| list.iter().map(|one| one.to_string()).collect();
        let rows = compiled.budgets_of(key);
        rows.iter().map(|row| (row.id.to_string(), texts(&row.tags), texts(&row.end_users))).collect()
    };
    let row = |id: &str, tags: &[&str], end_users: &[&str]| {
        let texts = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        (format!("default/Budget/{id}"), texts(tags), texts(end_users))
    };
    let listed = ["blue", "red"];
    let (ends, each) = (row("ends", &[], &["one", "two"]), row("tags-each", &listed, &[]));
    assert_eq!(rows("plain"), [ends.clone(), row("tags", &listed, &[]), each.clone()]);
    assert_eq!(rows("tagged"), [ends, row("tags", &[], &[]), each], "which of its tags a call has, each counts apart");
    assert_eq!(compiled.summary(), Vec::<String>::new());
}

#[test]
fn a_parent_counts_exactly_what_either_child_counts() {
    let child = |name: &str, scope: &str| {
        budget(name, &format!("limit: '1', {DAY}, appliesTo: {{{scope}}}, parentRef: {{name: parent}}"))
    };
    let yaml = [
        child("a", "models: ['gpt-*'], endUsers: [x]"),
        child("b", "models: [llama], tags: [t]"),
        child("c", "models: [llama], tags: [u]"),
        budget("parent", "limit: '10', period: {calendar: Year}, appliesTo: {users: [bob]}"),
    ]
    .concat();
    let compiled = compile(yaml.trim_end_matches("---\n"));
    let parents: Vec<_> =
        compiled.budgets_of("k").into_iter().filter(|row| &*row.id == "default/Budget/parent").collect();
    assert_eq!(parents.len(), 2, "no single filter lets through what either lets through, and nothing else");
    assert_eq!((parents[0].tags.len(), parents[0].end_users.len()), (0, 1));
    assert_eq!((parents[1].tags.len(), parents[1].end_users.len()), (2, 0), "b and c differ in one thing only");
}

#[test]
fn amounts_and_periods_are_read_exactly() {
    let utc = |unit| Period::Calendar { unit, time_zone: "UTC".into() };
    for (spec, limit, boost, period) in [
        ("limit: '0.10', period: {calendar: Month}", 100_000_000, None, utc(CalendarUnit::Month)),
        ("limit: '5000', unit: Tokens, period: {rolling: 24h}", 5_000, None, Period::Rolling { seconds: 86_400 }),
        ("limit: '7', unit: Requests, period: {lifetime: {}}", 7, None, Period::Lifetime),
        (
            "limit: '1', period: {calendar: Day}, boost: {amount: '2', until: '2099-01-01T00:00:00Z'}",
            1_000_000_000,
            Some(Boost { amount: 2_000_000_000, until: 4_070_908_800 }),
            utc(CalendarUnit::Day),
        ),
        (
            "limit: '1', period: {calendar: Day}, boost: {amount: '2', until: '2020-01-01T00:00:00Z'}",
            1_000_000_000,
            None,
            utc(CalendarUnit::Day),
        ),
    ] {
        let compiled = compile(budget("b", spec).trim_end_matches("---\n"));
        let found = compiled.budgets_of("k")[0];
        assert_eq!((found.limit, found.boost, &found.period), (limit, boost, &period), "{spec}");
        assert_eq!(compiled.summary(), Vec::<String>::new(), "{spec}");
    }
}

#[test]
fn a_hard_budget_that_cannot_be_read_allows_nothing() {
    for spec in [
        "limit: '-1', period: {calendar: Day}",
        "limit: '0.0000000001', period: {calendar: Day}",
        "limit: '1.5', unit: Tokens, period: {calendar: Day}",
        "limit: '1', period: {}",
        "limit: '1', period: {calendar: Day, lifetime: {}}",
        "limit: '1', period: {rolling: 3s}",
        "limit: '1', period: {calendar: Day, timeZone: Mars/Olympus}",
        "limit: '1', period: {calendar: Day}, parentRef: {name: gone}",
        "limit: '1', period: {calendar: Day}, parentRef: {name: gone, namespace: other}",
    ] {
        let hard = compile(budget("b", spec).trim_end_matches("---\n"));
        assert_eq!((hard.budgets_of("k")[0].limit, hard.errors().len()), (0, 1), "{spec}: {:?}", hard.errors());
        let soft = compile(budget("b", &format!("{spec}, enforcement: Soft")).trim_end_matches("---\n"));
        assert!(soft.budgets_of("k").iter().all(|budget| budget.limit > 0), "{spec}");
        assert_eq!(soft.errors().len(), 1, "{spec}");
    }
}

#[test]
fn parents_count_what_their_children_count() {
    let yaml = [
        budget(
            "child",
            &format!("limit: '1', {DAY}, appliesTo: {{models: ['gpt-*']}}, per: Key, parentRef: {{name: parent}}"),
        ),
        budget("parent", "limit: '10', period: {calendar: Year}, appliesTo: {users: [bob], models: [llama]}"),
    ]
    .concat();
    let compiled = compile(yaml.trim_end_matches("---\n"));
    assert_eq!(compiled.budget_ids_of("k"), ["default/Budget/child/k", "default/Budget/parent"]);
    let parent = compiled.budgets_of("k")[1];
    let models = parent.models.as_ref().unwrap();
    assert!(models.contains("gpt-4o") && !models.contains("llama"), "the parent itself does not select this key");
}

#[test]
fn a_parent_that_selects_the_key_too_counts_both() {
    let yaml = [
        budget("child", &format!("limit: '1', {DAY}, appliesTo: {{models: ['gpt-*']}}, parentRef: {{name: parent}}")),
        budget("parent", "limit: '10', period: {calendar: Year}, appliesTo: {models: [llama]}"),
    ]
    .concat();
    let compiled = compile(yaml.trim_end_matches("---\n"));
    assert_eq!(compiled.budget_ids_of("k"), ["default/Budget/child", "default/Budget/parent"], "once each");
    let models = compiled.budgets_of("k")[1].models.clone().unwrap();
    assert!(models.contains("gpt-4o") && models.contains("llama") && !models.contains("chat"));
}

#[test]
fn budgets_above_each_other_in_a_circle_are_told() {
    let yaml = [
        budget("a", &format!("limit: '1', {DAY}, parentRef: {{name: b}}")),
        budget("b", &format!("limit: '1', {DAY}, parentRef: {{name: a}}")),
    ]
    .concat();
    let compiled = compile(yaml.trim_end_matches("---\n"));
    assert_eq!(compiled.budget_ids_of("k"), ["default/Budget/a", "default/Budget/b"]);
    assert_eq!(
        compiled.summary(),
        ["Error Cycle Budget default/a spec.parentRef", "Error Cycle Budget default/b spec.parentRef"]
    );
}

#[test]
fn a_child_above_its_parent_is_told() {
    let yaml = [
        budget("child", &format!("limit: '20', {DAY}, parentRef: {{name: parent}}")),
        budget("parent", "limit: '10', period: {calendar: Year}"),
    ]
    .concat();
    assert_eq!(
        compile(yaml.trim_end_matches("---\n")).summary(),
        ["Warning AboveParent Budget default/child spec.limit"]
    );
}

#[test]
fn a_budget_of_the_gateways_namespace_binds_every_namespace() {
    let yaml = "
kind: LLMGateway
metadata: {name: default, namespace: tollgate}
spec: {default: true, allowedNamespaces: {from: All}}
---
kind: Namespace
metadata: {name: a, labels: {llm: allowed}}
---
kind: Budget
metadata: {name: all, namespace: tollgate}
spec: {limit: '10', period: {calendar: Month}, appliesTo: {namespaceSelector: {matchLabels: {llm: allowed}}}, per: Key}
---
kind: Budget
metadata: {name: mine, namespace: a}
spec: {limit: '10', period: {calendar: Month}, appliesTo: {namespaceSelector: {}}}
---
kind: VirtualKey
metadata: {name: ka, namespace: a}
spec: {models: ['x*'], secret: {name: s}}
---
kind: VirtualKey
metadata: {name: kb, namespace: b}
spec: {models: ['x*'], secret: {name: s}}
";
    let compiled = World::read(yaml).compile();
    assert_eq!(compiled.budget_ids_of("ka"), ["a/Budget/mine", "tollgate/Budget/all/a/ka"]);
    assert_eq!(compiled.budget_ids_of("kb"), Vec::<&str>::new());
    assert_eq!(compiled.said("mine", Reason::InvalidValue).len(), 1);
}

#[test]
fn teams_and_their_members_have_budgets() {
    let yaml = "
kind: Team
metadata: {name: t}
spec:
  models: [chat]
  budget: {limit: '100', period: {calendar: Month}}
  keyDefaults: {budget: {limit: '5', period: {calendar: Day}, enforcement: Soft}}
  members: [{user: alice, budget: {limit: '10', period: {calendar: Month}}}]
---
kind: VirtualKey
metadata: {name: hers}
spec: {teamRef: {name: t}, user: alice, secret: {name: s}}
---
kind: VirtualKey
metadata: {name: own}
spec: {teamRef: {name: t}, budget: {limit: '1', period: {lifetime: {}}}, secret: {name: s2}}
";
    let compiled = world(yaml).compile();
    assert_eq!(compiled.budget_ids_of("hers"), ["default/VirtualKey/hers", "default/Team/t/alice", "default/Team/t"]);
    assert!(!compiled.budgets_of("hers")[0].hard);
    assert_eq!(compiled.budget_ids_of("own"), ["default/VirtualKey/own", "default/Team/t"]);
    assert_eq!(compiled.budgets_of("own")[0].limit, 1_000_000_000);
    assert_eq!(compiled.summary(), Vec::<String>::new());
}

#[test]
fn thresholds_name_webhooks_that_their_secrets_allow() {
    let world = |mode, secret: &str| {
        let yaml = format!(
            "kind: Budget\nmetadata: {{name: b}}\nspec: {{limit: '1', {DAY}, thresholds: [{{percent: 80}}, \
             {{percent: 100, webhook: {{secretRef: {{name: alerts, key: url}}}}}}]}}\n---\n{secret}"
        );
        World { mode, ..World::read(&yaml) }
    };
    let secret = |url: &str, hosts: &str| {
        format!(
            "kind: Secret\nmetadata: {{name: alerts, annotations: {{tollgate.dev/hosts: '{hosts}'}}}}\nstringData: {{url: '{url}'}}"
        )
    };
    const FIELD: &str = "Budget default/b spec.thresholds[1].webhook.secretRef";
    let url = "https://hooks.example.com/x?token=secret-part";
    for (mode, secret, reason) in [
        (Mode::Cluster, secret(url, "hooks.example.com"), None),
        (Mode::Standalone, secret(url, ""), None),
        (Mode::Standalone, secret("http://127.0.0.1:9/x", ""), None),
        (Mode::Cluster, secret(url, "other.example.com"), Some("CredentialHostNotAllowed")),
        (Mode::Cluster, secret("http://127.0.0.1:9/x", "*"), Some("HostNotAllowed")),
        (Mode::Cluster, secret("https://169.254.169.254/x", "*"), Some("HostNotAllowed")),
        (Mode::Standalone, secret("secret-part", ""), Some("InvalidValue")),
        (Mode::Standalone, "kind: Namespace\nmetadata: {name: default}".to_owned(), Some("NotFound")),
    ] {
        let compiled = world(mode, &secret).compile();
        let said: Vec<String> = reason.map(|reason| format!("Error {reason} {FIELD}")).into_iter().collect();
        let of_webhook: Vec<String> = compiled.summary().into_iter().filter(|line| line.ends_with(FIELD)).collect();
        assert_eq!(of_webhook, said, "{mode:?} {secret}");
        let row = compiled.snapshot.budgets.iter().find(|row| &*row.id == "default/Budget/b").unwrap();
        let thresholds: Vec<(u32, bool)> =
            row.thresholds.iter().map(|one| (one.percent, one.webhook.is_some())).collect();
        assert_eq!(thresholds, [(80, false), (100, reason.is_none())]);
        let ids: Vec<&str> = compiled.webhooks.iter().map(|webhook| &*webhook.id).collect();
        assert_eq!(ids, ["default/alerts/url"][..usize::from(reason.is_none())]);
        let told = format!("{:?} {:?} {:?}", compiled.findings, compiled.snapshot, compiled.webhooks);
        assert!(!told.contains("secret-part"), "a URL is a secret");
    }
}

#[test]
fn what_happens_when_little_or_nothing_is_left_is_in_the_row() {
    for (spec, low, throttle, said) in [
        (
            "whenLow: {belowPercent: 10, models: [chat, m2]}",
            Some((10, 2)),
            None,
            vec!["Warning NotFound Budget default/b spec.whenLow.models[1]"],
        ),
        ("enforcement: Soft, whenExhausted: {action: Throttle, percent: 25}", None, Some(25), vec![]),
        (
            "enforcement: Soft, whenExhausted: {action: Throttle}",
            None,
            None,
            vec!["Warning InvalidValue Budget default/b spec.whenExhausted.percent"],
        ),
        (
            "whenExhausted: {action: Throttle, percent: 25}",
            None,
            None,
            vec!["Warning InvalidValue Budget default/b spec.whenExhausted.action"],
        ),
        ("whenExhausted: {action: Block}", None, None, vec![]),
    ] {
        let compiled = compile(budget("b", &format!("limit: '1', {DAY}, {spec}")).trim_end_matches("---\n"));
        let row = compiled.budgets_of("k")[0];
        let found = row.when_low.as_ref().map(|low| (low.below_percent, low.models.len()));
        assert_eq!((found, row.throttle_percent), (low, throttle), "{spec}");
        assert_eq!(compiled.summary(), said, "{spec}");
    }
}

#[test]
fn who_may_go_on_while_nobody_can_be_asked_is_in_the_row() {
    for (spec, allow, deny) in [
        ("", false, false),
        ("onAllocatorUnavailable: Deny", false, false),
        ("enforcement: Soft", false, false),
        ("enforcement: Soft, onAllocatorUnavailable: Deny", false, true),
        ("enforcement: Soft, onAllocatorUnavailable: Allow", true, false),
    ] {
        let compiled = compile(budget("b", &format!("limit: '1', {DAY}, {spec}")).trim_end_matches("---\n"));
        let row = compiled.budgets_of("k")[0];
        assert_eq!((row.allow_unavailable, row.deny_unavailable), (allow, deny), "{spec}");
        let changes_nothing = spec.contains("onAllocatorUnavailable");
        assert_eq!(compiled.said("b", Reason::NotSupportedYet).len(), usize::from(changes_nothing), "standalone");
    }
}

#[test]
fn budgets_above_budgets_have_an_end() {
    let budget = |at: usize, more: &str| {
        format!(
            "---\nkind: Budget\nmetadata: {{name: b{at:02}}}\nspec: {{limit: '1', period: {{lifetime: {{}}}}{more}}}\n"
        )
    };
    let mut yaml: String = (0..40).map(|at| budget(at, &format!(", parentRef: {{name: b{:02}}}", at + 1))).collect();
    yaml.push_str(&budget(40, ""));
    let compiled = World::read(&yaml[4..]).compile();
    let denied = compiled.snapshot.budgets.iter().filter(|budget| budget.limit == 0).count();
    let told = compiled.findings.iter().filter(|finding| finding.reason == Reason::InvalidValue).count();
    assert_eq!((compiled.snapshot.budgets.len(), denied, told), (41, 8, 8), "{:?}", compiled.errors());
}

#[test]
fn a_budget_finds_its_keys_by_whatever_it_selects_them_with() {
    let key = |name: &str, labels: &str, spec: &str| {
        format!(
            "---\nkind: VirtualKey\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {{models: ['*'], secret: {{name: s}}{spec}}}\n"
        )
    };
    let budget = |name: &str, scope: &str| {
        format!(
            "---\nkind: Budget\nmetadata: {{name: {name}}}\nspec: {{limit: '1', period: {{lifetime: {{}}}}, appliesTo: {{{scope}}}}}\n"
        )
    };
    let yaml = [
        "---\nkind: Team\nmetadata: {name: t, labels: {unit: lab}}\nspec: {models: ['*']}\n".to_owned(),
        key("plain", "", ""),
        key("full", "env: dev, tier: one", ", user: alice, tags: [red, blue], teamRef: {name: t}"),
        budget("all", ""),
        budget("by-user", "users: [bob, alice]"),
        budget("by-label", "keySelector: {matchLabels: {env: dev}}"),
        budget("by-two-labels", "keySelector: {matchLabels: {env: dev, tier: two}}"),
        budget("by-expression", "keySelector: {matchExpressions: [{key: tier, operator: Exists}]}"),
        budget("by-absence", "keySelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}"),
        budget("by-tag", "tags: [green, blue]"),
        budget("by-end-user", "endUsers: [x]"),
        budget("by-team", "teamSelector: {matchLabels: {unit: lab}}"),
        budget("by-user-and-label", "users: [alice], keySelector: {matchLabels: {env: prod}}"),
    ]
    .concat();
    let compiled = World::read(&yaml[4..]).compile();
    let ids = |key: &str| -> Vec<String> {
        compiled.budget_ids_of(key).iter().map(|id| id.rsplit('/').next().unwrap().to_owned()).collect()
    };
    // Tags and end users may come with any call.
    assert_eq!(ids("plain"), ["all", "by-absence", "by-end-user", "by-tag"]);
    assert_eq!(ids("full"), ["all", "by-end-user", "by-expression", "by-label", "by-tag", "by-team", "by-user"]);
}

/// Budgets `b00`, `b01` and so on, all with the same scope.
fn many(count: usize, scope: &str) -> String {
    (0..count).map(|at| budget(&format!("b{at:02}"), &format!("limit: '1', {DAY}, appliesTo: {{{scope}}}"))).collect()
}

#[test]
fn a_key_under_more_budgets_than_a_call_can_be_held_in_is_not_used_and_all_is_told() {
    let fits = compile(many(16, "").trim_end_matches("---\n"));
    assert_eq!((fits.budget_ids_of("k").len(), fits.summary()), (16, Vec::<String>::new()));

    let compiled = compile(many(19, "").trim_end_matches("---\n"));
    assert!(compiled.key("k").is_none(), "a call of it would pass a cap");
    let too_many = |name: &str, field: &str| format!("Error TooManyBudgets {name}{field}");
    let expected = [
        too_many("Budget default/b16", " spec.appliesTo"),
        too_many("Budget default/b17", " spec.appliesTo"),
        too_many("Budget default/b18", " spec.appliesTo"),
        too_many("VirtualKey default/k", " "),
    ];
    assert_eq!(compiled.summary(), expected);
    let said = &compiled.said("b16", Reason::TooManyBudgets)[0].message;
    assert!(said.starts_with("more budgets select VirtualKey `default/k` (and maybe others) than the 16"), "{said}");
}

#[test]
fn the_youngest_budgets_are_those_beyond() {
    let yaml: String = (0..18)
        .map(|at| {
            let created = if at == 3 { 2 } else { 1 };
            format!(
                "kind: Budget\nmetadata: {{name: b{at:02}, createdAt: {created}}}\nspec: {{limit: '1', {DAY}}}\n---\n"
            )
        })
        .collect();
    let compiled = compile(yaml.trim_end_matches("---\n"));
    let told = ["b03", "b16", "b17"].map(|name| compiled.said(name, Reason::TooManyBudgets).len());
    assert_eq!(told, [1, 0, 1], "of those that are as old, the last by name");
}

#[test]
fn budgets_of_some_calls_are_as_many_as_are_needed_within_reason() {
    // One call counts in few of these.
    let compiled = compile(many(60, "models: [chat]").trim_end_matches("---\n"));
    assert_eq!((compiled.budget_ids_of("k").len(), compiled.errors()), (60, Vec::<String>::new()));
    let compiled = compile(many(129, "tags: [t]").trim_end_matches("---\n"));
    assert!(compiled.key("k").is_none());
    assert_eq!(
        (compiled.said("k", Reason::TooManyBudgets).len(), compiled.said("b99", Reason::TooManyBudgets).len()),
        (1, 1)
    );
}

#[test]
fn what_else_binds_a_key_counts_too() {
    let key = |more: &str| {
        format!("kind: VirtualKey\nmetadata: {{name: own}}\nspec: {{models: [chat], secret: {{name: s}}{more}}}\n---\n")
    };
    let own = ", budget: {limit: '1', period: {calendar: Day}}";
    let compiled = compile((key(own) + &many(16, "")).trim_end_matches("---\n"));
    assert!(compiled.key("own").is_none() && compiled.key("k").is_some());
    assert_eq!(compiled.said("b15", Reason::TooManyBudgets).len(), 1);

    // Parents that nothing selects.
    let child = |at: usize| budget(&format!("c{at}"), &format!("limit: '1', {DAY}, parentRef: {{name: p{at}}}"));
    let parent = |at: usize| budget(&format!("p{at}"), &format!("limit: '1', {DAY}, appliesTo: {{users: [nobody]}}"));
    let compiled = compile((0..9).map(|at| child(at) + &parent(at)).collect::<String>().trim_end_matches("---\n"));
    assert!(compiled.key("k").is_none(), "nine budgets and nine parents");
    assert_eq!(compiled.said("k", Reason::TooManyBudgets).len(), 1);
}

#[test]
fn a_budget_that_keys_name_and_that_binds_all_of_them_is_told() {
    let key = "kind: VirtualKey\nmetadata: {name: names}\nspec: {models: [chat], secret: {name: s}, budgetRefs: [{name: all}, {name: some}]}\n---\n";
    let some = budget("some", &format!("limit: '1', {DAY}, appliesTo: {{users: [bob]}}"));
    let compiled =
        compile((key.to_owned() + &budget("all", &format!("limit: '1', {DAY}")) + &some).trim_end_matches("---\n"));
    assert_eq!(compiled.summary(), ["Warning InvalidValue Budget default/all spec.appliesTo"]);
    assert_eq!(compiled.budget_ids_of("k"), ["default/Budget/all"]);
}

#[test]
fn a_selector_finds_its_keys_by_any_of_its_labels() {
    let selector = |name: &str, selector: &str| {
        budget(name, &format!("limit: '1', {DAY}, appliesTo: {{keySelector: {{{selector}}}}}"))
    };
    // All of the first keys want `env`, so that another label tells them apart.
    let yaml = [
        selector("both", "matchLabels: {env: dev, project: one}"),
        selector("other", "matchLabels: {env: dev, project: two}"),
        selector("in", "matchExpressions: [{key: project, operator: In, values: [one, one, two]}]"),
        selector("in-none", "matchExpressions: [{key: project, operator: In, values: [three]}]"),
        selector("exists", "matchExpressions: [{key: project, operator: Exists}]"),
        selector("not", "matchExpressions: [{key: project, operator: NotIn, values: [two]}]"),
        "kind: VirtualKey\nmetadata: {name: a, labels: {env: dev, project: one}}\nspec: {models: [chat], secret: {name: s}}\n---\n".to_owned(),
        "kind: VirtualKey\nmetadata: {name: b, labels: {project: two}}\nspec: {models: [chat], secret: {name: s2}}\n---\n".to_owned(),
    ]
    .concat();
    let compiled = compile(yaml.trim_end_matches("---\n"));
    let ids = |key: &str| -> Vec<String> {
        compiled.budget_ids_of(key).iter().map(|id| id.rsplit('/').next().unwrap().to_owned()).collect()
    };
    assert_eq!(ids("a"), ["both", "exists", "in", "not"]);
    assert_eq!(ids("b"), ["exists", "in"]);
    assert_eq!(ids("k"), ["not"], "its labels are others");
}
