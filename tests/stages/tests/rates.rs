//! Rates by more than key and team: users, members of teams, end users, tags, models, namespaces, all calls; input and
//! output tokens apart; and classes of keys at scarce upstreams (litellm.md RL-1, RL-2, RL-5, ERR-7, HDR-7).

use tollgate_harness::{Call, Object, Response, Stage, Step, Tokens, Value, json, objects};

/// The answer of a limit that is reached, as LiteLLM writes it.
fn refused(reply: &Response, scope: &str, value: &str, kind: &str, limit: u64) {
    let message = reply.json()["error"]["message"].as_str().expect("a message").to_owned();
    let expected =
        format!("Rate limit exceeded for {scope}: {value}. Limit type: {kind}. Current limit: {limit}, Remaining: ");
    assert!(message.starts_with(&expected), "{message}");
    assert!(message.contains("Limit resets at: 20") && message.ends_with(" UTC"), "{message}");
    assert_eq!(reply.header("rate_limit_type"), Some(kind));
    assert!(reply.header("reset_at").is_some());
    let after: u64 = reply.header("retry-after").and_then(|after| after.parse().ok()).expect("retry-after");
    assert!((1..=60).contains(&after), "{after}");
    let limit = limit.to_string();
    assert_eq!(reply.header(&format!("x-ratelimit-{scope}-limit-{kind}")), Some(limit.as_str()));
    assert!(reply.header(&format!("x-ratelimit-{scope}-remaining-{kind}")).is_some());
}

fn left(reply: &Response, scope: &str, kind: &str) -> u64 {
    let name = format!("x-ratelimit-{scope}-remaining-{kind}");
    reply.header(&name).and_then(|left| left.parse().ok()).unwrap_or_else(|| panic!("no {name}"))
}

fn gateway(rules: Value) -> Object {
    objects::gateway().set("spec.rateLimits", rules)
}

/// A key of that name and what else it has.
fn key(name: &str) -> Object {
    objects::key(name, &objects::key_text(name))
}

fn ask(stage: &Stage, key: &str, model: &str) -> Call {
    stage.gateway.chat(model).key(&objects::key_text(key))
}

#[tokio::test]
async fn each_user_has_the_rate_over_all_keys() {
    let stage = Stage::start(|mock| {
        let rules = json!([{"name": "users", "per": "User", "requestsPerMinute": 2}]);
        vec![
            objects::deployment("m", mock),
            gateway(rules),
            key("one").set("spec.user", "alice"),
            key("two").set("spec.user", "alice"),
            key("three").set("spec.user", "bob"),
        ]
    })
    .await;
    let reply = ask(&stage, "one", "m").send().await.expect(200);
    assert_eq!((left(&reply, "user", "requests"), reply.header("x-ratelimit-user-limit-requests")), (1, Some("2")));
    assert_eq!(reply.header("x-ratelimit-remaining-requests"), Some("1"), "OpenAI's name for the tightest");
    ask(&stage, "two", "m").send().await.expect(200);
    refused(&ask(&stage, "one", "m").send().await.expect(429), "user", "alice", "requests", 2);
    ask(&stage, "three", "m").send().await.expect(200);
    // A key without a user is not counted.
    for _ in 0..3 {
        stage.gateway.chat("m").send().await.expect(200);
    }
    stage.finish().await;
}

#[tokio::test]
async fn a_member_of_a_team_and_the_teams_above_have_limits() {
    let stage = Stage::start(|mock| {
        let company = objects::team("company").set("spec.limits", json!({"requestsPerMinute": 4}));
        let members = json!([{"user": "alice", "limits": {"requestsPerMinute": 2}}]);
        let squad =
            objects::team("squad").set("spec.members", members).set("spec.parentRef", json!({"name": "company"}));
        let other = objects::team("other").set("spec.parentRef", json!({"name": "company"}));
        let of = |name: &str, user: &str, team: &str| {
            key(name).set("spec.user", user).set("spec.teamRef", json!({"name": team}))
        };
        vec![
            objects::deployment("m", mock),
            company,
            squad,
            other,
            of("one", "alice", "squad"),
            of("two", "alice", "squad"),
            of("three", "alice", "other"),
        ]
    })
    .await;
    let reply = ask(&stage, "one", "m").send().await.expect(200);
    assert_eq!((left(&reply, "team_member", "requests"), left(&reply, "team", "requests")), (1, 3));
    ask(&stage, "two", "m").send().await.expect(200);
    refused(&ask(&stage, "one", "m").send().await.expect(429), "team_member", "alice", "requests", 2);
    // In the other team the user is no such member; the company's limit counts both teams, and no call that was refused.
    ask(&stage, "three", "m").send().await.expect(200);
    ask(&stage, "three", "m").send().await.expect(200);
    refused(&ask(&stage, "three", "m").send().await.expect(429), "team", "company", "requests", 4);
    stage.finish().await;
}

#[tokio::test]
async fn each_end_user_has_the_rate_however_it_is_named() {
    let stage = Stage::start(|mock| {
        let rules = json!([{"name": "customers", "per": "EndUser", "requestsPerMinute": 2}]);
        vec![objects::deployment("m", mock), gateway(rules)]
    })
    .await;
    let by_body = |user: &str| {
        let body = json!({"model": "m", "user": user, "messages": [{"role": "user", "content": "Hi"}]});
        stage.gateway.chat("m").json(&body)
    };
    let reply = by_body("customer-1").send().await.expect(200);
    assert_eq!(left(&reply, "end_user", "requests"), 1);
    stage.gateway.chat("m").header("x-litellm-end-user-id", "customer-1").send().await.expect(200);
    refused(&by_body("customer-1").send().await.expect(429), "end_user", "customer-1", "requests", 2);
    by_body("customer-2").send().await.expect(200);
    for _ in 0..3 {
        let reply = stage.gateway.chat("m").send().await.expect(200);
        assert!(reply.header("x-ratelimit-end_user-limit-requests").is_none(), "a call without one is not counted");
    }
    stage.finish().await;
}

#[tokio::test]
async fn each_tag_has_the_rate_and_a_call_counts_at_all_of_its_tags() {
    let stage = Stage::start(|mock| {
        let rules = json!([{"name": "tags", "per": "Tag", "appliesTo": {"tags": ["batch", "nightly"]}, "requestsPerMinute": 2}]);
        vec![objects::deployment("m", mock), gateway(rules), key("jobs").set("spec.tags", json!(["batch"]))]
    })
    .await;
    ask(&stage, "jobs", "m").header("x-litellm-tags", "nightly, other").send().await.expect(200);
    let body =
        json!({"model": "m", "metadata": {"tags": ["nightly"]}, "messages": [{"role": "user", "content": "Hi"}]});
    stage.gateway.chat("m").json(&body).send().await.expect(200);
    refused(&stage.gateway.chat("m").json(&body).send().await.expect(429), "tag", "nightly", "requests", 2);
    let reply = ask(&stage, "jobs", "m").send().await.expect(200);
    assert_eq!(left(&reply, "tag", "requests"), 0, "batch: the call that nightly refused counts nowhere");
    refused(&ask(&stage, "jobs", "m").send().await.expect(429), "tag", "batch", "requests", 2);
    for _ in 0..3 {
        stage.gateway.chat("m").header("x-litellm-tags", "other").send().await.expect(200);
    }
    stage.finish().await;
}

#[tokio::test]
async fn each_model_namespace_and_all_together_have_rates() {
    let stage = Stage::start(|mock| {
        let rules = json!([
            {"name": "models", "per": "Model", "appliesTo": {"models": ["a*"]}, "requestsPerMinute": 2},
            {"name": "tenants", "per": "Namespace", "requestsPerMinute": 5},
            {"name": "everything", "requestsPerMinute": 6, "parallelRequests": 50},
        ]);
        let deployment = objects::deployment("m", mock).set("spec.modelNames", json!(["a", "ab", "b"]));
        vec![deployment, gateway(rules), key("one")]
    })
    .await;
    let reply = stage.gateway.chat("a").send().await.expect(200);
    let of_scopes = ["model", "namespace", "gateway"].map(|scope| left(&reply, scope, "requests"));
    assert_eq!((of_scopes, left(&reply, "gateway", "max_parallel_requests")), ([1, 4, 5], 49));
    ask(&stage, "one", "a").send().await.expect(200);
    refused(&stage.gateway.chat("a").send().await.expect(429), "model", "a", "requests", 2);
    stage.gateway.chat("ab").send().await.expect(200);
    stage.gateway.chat("b").send().await.expect(200);
    stage.gateway.chat("b").send().await.expect(200);
    refused(&stage.gateway.chat("b").send().await.expect(429), "namespace", "default", "requests", 5);
    // The master key is nobody's tenant.
    stage.gateway.chat("b").key(tollgate_harness::MASTER_KEY).send().await.expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn a_rule_counts_only_the_keys_that_it_selects() {
    let stage = Stage::start(|mock| {
        let rules = json!([{
            "name": "free", "per": "Key", "requestsPerMinute": 1,
            "appliesTo": {"keySelector": {"matchLabels": {"tier": "free"}}},
        }]);
        vec![
            objects::deployment("m", mock),
            gateway(rules),
            key("poor")
                .set("metadata.labels", json!({"tier": "free"}))
                .set("spec.limits", json!({"requestsPerMinute": 50})),
            key("rich").set("metadata.labels", json!({"tier": "paid"})),
        ]
    })
    .await;
    let reply = ask(&stage, "poor", "m").send().await.expect(200);
    assert_eq!(left(&reply, "api_key", "requests"), 0, "the tighter of its own limit and the rule's");
    refused(&ask(&stage, "poor", "m").send().await.expect(429), "api_key", "poor", "requests", 1);
    for _ in 0..3 {
        ask(&stage, "rich", "m").send().await.expect(200);
    }
    stage.finish().await;
}

#[tokio::test]
async fn input_and_output_tokens_are_counted_apart_and_settled_to_the_real_count() {
    let stage = Stage::start(|mock| {
        let limits = json!({"inputTokensPerMinute": 2000, "outputTokensPerMinute": 400});
        vec![objects::deployment("m", mock), objects::caller().set("spec.limits", limits)]
    })
    .await;
    stage
        .mock
        .script("up-m", [Step::usage("x", Tokens::new(900, 100)).repeat(2), Step::usage("x", Tokens::new(10, 150))]);
    let reply = stage.gateway.chat("m").send().await.expect(200);
    assert_eq!((left(&reply, "api_key", "input_tokens"), left(&reply, "api_key", "output_tokens")), (1100, 300));
    stage.gateway.chat("m").send().await.expect(200);
    let body = |cap: u64| json!({"model": "m", "max_tokens": cap, "messages": [{"role": "user", "content": "Hi"}]});
    let reply = stage.gateway.chat("m").json(&body(201)).send().await.expect(429);
    refused(&reply, "api_key", "caller", "output_tokens", 400);
    let reply = stage.gateway.chat("m").json(&body(200)).send().await.expect(200);
    assert_eq!((left(&reply, "api_key", "input_tokens"), left(&reply, "api_key", "output_tokens")), (190, 50));
    let long = "x".repeat(4 * 300);
    let body = json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": long}]});
    refused(&stage.gateway.chat("m").json(&body).send().await.expect(429), "api_key", "caller", "input_tokens", 2000);
    stage.finish().await;
}

#[tokio::test]
async fn a_call_without_a_cap_gets_one_where_a_limit_of_tokens_is_small() {
    let stage = Stage::start(|mock| {
        let limits = |limit: u64| json!({"outputTokensPerMinute": limit});
        let rules = json!([{"name": "trials", "per": "User", "tokensPerMinute": 2000}]);
        vec![
            objects::deployment("m", mock),
            objects::deployment("scarce", mock).set("spec.limits", limits(120)),
            gateway(rules),
            key("small").set("spec.limits", limits(400)),
            key("large").set("spec.limits", limits(4096)),
            key("trial").set("spec.user", "alice").set("spec.limits", limits(100_000)),
        ]
    })
    .await;
    let cap = |stage: &Stage| {
        let body = stage.last_seen().json();
        let cap = body.get("max_tokens").or(body.get("max_completion_tokens"));
        cap.cloned().unwrap_or_default()
    };
    for (key, model, expected) in [
        ("small", "m", json!(100)),
        ("large", "m", Value::Null),
        ("trial", "m", json!(500)),
        ("large", "scarce", json!(30)),
        ("small", "scarce", json!(30)),
    ] {
        ask(&stage, key, model).send().await.expect(200);
        assert_eq!(cap(&stage), expected, "{key} at {model}");
    }
    let body = |more: Value| {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        ask(&stage, "small", "m").json(&body)
    };
    // The client's own word stays, and several answers share what was reserved.
    body(json!({"max_tokens": 150})).send().await.expect(200);
    assert_eq!(cap(&stage), json!(150));
    body(json!({"n": 2})).send().await.expect(200);
    assert_eq!(cap(&stage), json!(50));
    stage.finish().await;
}

#[tokio::test]
async fn a_stream_is_settled_at_its_end() {
    let stage = Stage::start(|mock| {
        let limits = json!({"tokensPerMinute": 5000});
        vec![objects::deployment("m", mock), objects::caller().set("spec.limits", limits)]
    })
    .await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(900, 100)).repeat(2)]);
    stage.gateway.chat_stream("m").stream().await.rest().await;
    let reply = stage.gateway.chat("m").send().await.expect(200);
    assert_eq!(left(&reply, "api_key", "tokens"), 3000, "a thousand of each");
    stage.finish().await;
}

#[tokio::test]
async fn tokens_from_a_providers_cache_need_not_count() {
    let stage = Stage::start(|mock| {
        let limits = json!({"tokensPerMinute": 5000, "inputTokensPerMinute": 5000});
        let gateway = objects::gateway().set("spec.defaults.countCachedTokens", false);
        vec![objects::deployment("m", mock), gateway, objects::caller().set("spec.limits", limits)]
    })
    .await;
    stage.mock.script("up-m", [Step::usage("x", Tokens { cache_read: 800, ..Tokens::new(900, 100) })]);
    let reply = stage.gateway.chat("m").send().await.expect(200);
    assert_eq!((left(&reply, "api_key", "tokens"), left(&reply, "api_key", "input_tokens")), (4800, 4900));
    stage.finish().await;
}

#[tokio::test]
async fn limits_per_model_take_patterns() {
    let stage = Stage::start(|mock| {
        let per_model = json!([{"model": "a*", "requestsPerMinute": 2}, {"model": "ab", "requestsPerMinute": 1}]);
        vec![
            objects::deployment("m", mock).set("spec.modelNames", json!(["a", "ab", "ac"])),
            objects::caller().set("spec.limits", json!({"perModel": per_model})),
        ]
    })
    .await;
    stage.gateway.chat("ab").send().await.expect(200);
    refused(&stage.gateway.chat("ab").send().await.expect(429), "model_per_key", "ab", "requests", 1);
    stage.gateway.chat("a").send().await.expect(200);
    stage.gateway.chat("ac").send().await.expect(200);
    refused(&stage.gateway.chat("a").send().await.expect(429), "model_per_key", "a", "requests", 2);
    stage.finish().await;
}

#[tokio::test]
async fn an_account_that_is_full_is_429_and_says_of_what() {
    let stage = Stage::start(|mock| {
        let spec = json!({
            "provider": "openai-compatible",
            "endpoint": {"baseURL": format!("{}/v1", mock.url())},
            "credentials": [{"name": "one", "secretRef": {"name": "provider", "key": "api-key"}}],
            "limits": {"outputTokensPerMinute": 100},
        });
        let on_account = |name: &str| {
            let deployment = objects::deployment(name, mock).set("spec.accountRef", json!({"name": "shared"}));
            deployment.unset("spec.provider").unset("spec.endpoint").unset("spec.credential")
        };
        vec![Object::new("ProviderAccount", "shared", spec), on_account("a"), on_account("b")]
    })
    .await;
    stage.mock.script("up-a", [Step::usage("x", Tokens::new(10, 90))]);
    stage.gateway.chat("a").send().await.expect(200);
    let body = json!({"model": "b", "max_tokens": 20, "messages": [{"role": "user", "content": "Hi"}]});
    let reply = stage.gateway.chat("b").json(&body).send().await.expect(429);
    assert_eq!(reply.header("rate_limit_type"), Some("output_tokens"));
    assert!(reply.header("retry-after").is_some() && reply.header("reset_at").is_some());
    let message = reply.json()["error"]["message"].as_str().expect("a message").to_owned();
    assert!(
        message.starts_with("All deployments of model `b` are at their own rate limits. Limit type: output_tokens."),
        "{message}"
    );
    stage.finish().await;
}

#[tokio::test]
async fn classes_of_keys_share_an_upstream_that_is_scarce() {
    let stage = Stage::start(|mock| {
        let classes = json!([{"name": "production", "sharePercent": 70}, {"name": "batch", "sharePercent": 10}]);
        vec![
            objects::deployment("m", mock).set("spec.limits", json!({"requestsPerMinute": 10})),
            objects::gateway().set("spec.priorities", classes),
            objects::team("jobs").set("spec.priority", "batch"),
            key("nightly").set("spec.teamRef", json!({"name": "jobs"})),
            key("shop").set("spec.priority", "production"),
            key("toy"),
        ]
    })
    .await;
    let send = async |key: &str, count: usize| {
        let mut admitted = 0;
        for _ in 0..count {
            match ask(&stage, key, "m").send().await.status {
                200 => admitted += 1,
                429 => {}
                other => panic!("status {other}"),
            }
        }
        admitted
    };
    assert_eq!(send("nightly", 10).await, 8, "borrowed while it is not scarce");
    assert_eq!(send("toy", 1).await, 1, "a fifth is for keys without a class, which have used nothing");
    assert_eq!(send("nightly", 1).await, 0);
    assert_eq!(send("shop", 3).await, 1, "the last one");
    stage.finish().await;
}
