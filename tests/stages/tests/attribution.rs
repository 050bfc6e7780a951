//! Headers of a gateway's own that say who is behind a call and what it is for, wherever that matters: budgets, rates,
//! conditions of targets, rows (litellm.md CU-1, TAG-1, #11083).

use tollgate_harness::{Call, Object, Stage, Value, json, objects};

const BODY: fn() -> Value = || json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});

fn by_header(stage: &Stage, header: &str, value: &str) -> Call {
    stage.gateway.chat("m").header(header, value)
}

fn by_body(stage: &Stage, user: &str) -> Call {
    let mut body = BODY();
    body["user"] = json!(user);
    stage.gateway.chat("m").json(&body)
}

fn per(name: &str, per: &str, requests: u64) -> Object {
    let spec = json!({"limit": requests.to_string(), "unit": "Requests", "period": {"lifetime": {}}, "per": per});
    Object::new("Budget", name, spec)
}

#[tokio::test]
async fn a_budget_for_each_end_user_binds_whoever_a_header_names() {
    let stage = Stage::start(|mock| {
        let headers = json!({"endUserHeaders": ["X-OpenWebUI-User-Id", "X-OpenWebUI-User-Email"]});
        vec![
            objects::deployment("m", mock),
            objects::gateway().set("spec.attribution", headers),
            per("each", "EndUser", 2),
        ]
    })
    .await;
    by_header(&stage, "x-openwebui-user-id", "alice").send().await.expect(200);
    // The body names the same one; the header goes before it.
    by_body(&stage, "somebody").header("X-OpenWebUI-User-Id", "alice").send().await.expect(200);
    let refusal = by_header(&stage, "x-openwebui-user-id", "alice").send().await.expect(429);
    assert!(refusal.text().contains("default/Budget/each/alice"), "{}", refusal.text());
    by_body(&stage, "alice").send().await.expect(429);
    by_header(&stage, "x-openwebui-user-email", "alice").send().await.expect(429);
    by_header(&stage, "x-openwebui-user-email", "bob@example.com").send().await.expect(200);
    // LiteLLM's own header goes before those of the gateway.
    by_header(&stage, "x-openwebui-user-id", "alice").header("x-litellm-end-user-id", "carol").send().await.expect(200);
    let rows = stage.finish().await;
    // Rows of one millisecond have no order.
    let mut users: Vec<&str> = rows.iter().map(|row| row.end_user.as_str()).collect();
    users.sort_unstable();
    assert_eq!(users, ["alice", "alice", "bob@example.com", "carol"]);
}

#[tokio::test]
async fn the_fields_that_litellm_knows_name_end_users_and_tags_and_stay_here() {
    let stage = Stage::start(|mock| {
        let tag = per("nightly", "Tag", 2).set("spec.appliesTo", json!({"tags": ["nightly"]}));
        vec![objects::openai("m", mock), objects::anthropic("c", mock), per("each", "EndUser", 2), tag]
    })
    .await;
    let ask = |model: &str, fields: &Value| {
        let mut body = json!({"model": model, "messages": [{"role": "user", "content": "Hi"}]});
        for (key, value) in fields.as_object().expect("fields") {
            body[key] = value.clone();
        }
        stage.gateway.chat(model).json(&body)
    };
    for (user, fields) in [
        ("alice", json!({"safety_identifier": "alice"})),
        ("bob", json!({"litellm_metadata": {"user": "bob"}})),
        ("17", json!({"user": 17, "safety_identifier": "alice"})),
    ] {
        ask("m", &fields).send().await.expect(200);
        // The other dialect is sent what it has words for.
        ask("c", &fields).send().await.expect(200);
        let refusal = ask("m", &fields).send().await.expect(429);
        assert!(refusal.text().contains(&format!("default/Budget/each/{user}")), "{}", refusal.text());
    }
    let tagged = json!({"litellm_metadata": {"tags": ["nightly"]}});
    ask("m", &tagged).send().await.expect(200);
    ask("c", &tagged).send().await.expect(200);
    let refusal = ask("m", &tagged).send().await.expect(429);
    assert!(refusal.text().contains("default/Budget/nightly/nightly"), "{}", refusal.text());
    for request in stage.mock.requests() {
        assert!(request.json()["litellm_metadata"].is_null(), "{request:?}");
    }
    let rows = stage.finish().await;
    assert_eq!(rows.iter().filter(|row| row.tags == r#"["nightly"]"#).count(), 2);
    assert_eq!(rows.iter().filter(|row| row.end_user == "17").count(), 2);
}

#[tokio::test]
async fn rates_conditions_and_rows_see_what_headers_say_and_an_edit_changes_it() {
    let rules = json!([
        {"name": "customers", "per": "EndUser", "requestsPerMinute": 2},
        {"name": "apollo", "appliesTo": {"tags": ["X-Project: apollo"]}, "requestsPerMinute": 2},
    ]);
    let mut stage = Stage::start(|mock| {
        let headers = json!({"endUserHeaders": ["X-Customer"], "tagHeaders": ["X-Project", "User-Agent"]});
        let mut route = objects::route("m", ["a", "b"]).value().clone();
        for (at, when) in
            ["'User-Agent: claude-cli' in request.tags || request.endUser == 'vip'", "true"].iter().enumerate()
        {
            route["spec"]["targets"][at]["when"] = json!(when);
            route["spec"]["targets"][at]["priority"] = json!(at);
        }
        vec![
            objects::deployment("a", mock),
            objects::deployment("b", mock),
            Object::new("RouteGroup", "m", route["spec"].clone()),
            objects::gateway().set("spec.attribution", headers).set("spec.rateLimits", rules.clone()),
        ]
    })
    .await;
    let reply = by_header(&stage, "x-customer", "José").send().await.expect(200);
    assert_eq!(reply.header("x-ratelimit-end_user-remaining-requests"), Some("1"));
    by_header(&stage, "x-customer", "José").send().await.expect(200);
    by_header(&stage, "x-customer", "José").send().await.expect(429);
    by_header(&stage, "x-customer", "vip").send().await.expect(200);
    by_header(&stage, "user-agent", "claude-cli/2.1").header("x-project", "apollo").send().await.expect(200);
    by_header(&stage, "x-project", "apollo").send().await.expect(200);
    let refusal = by_header(&stage, "x-project", "apollo").send().await.expect(429);
    assert!(refusal.text().contains("apollo"), "{}", refusal.text());
    stage
        .edit(|objects| {
            let gateway = objects.iter_mut().find(|object| object.id().0 == "LLMGateway").expect("a gateway");
            *gateway = gateway.clone().unset("spec.attribution");
        })
        .await;
    by_header(&stage, "x-customer", "José").header("x-project", "apollo").send().await.expect(200);
    let rows = stage.finish().await;
    let mut told: Vec<(&str, &str, &str)> =
        rows.iter().map(|row| (&*row.deployment, &*row.end_user, &*row.tags)).collect();
    told.sort_unstable();
    let (a, b) = ("default/a", "default/b");
    assert_eq!(
        told,
        [
            (a, "", r#"["User-Agent: claude-cli","User-Agent: claude-cli/2.1","X-Project: apollo"]"#),
            (a, "vip", "[]"),
            (b, "", r#"["X-Project: apollo"]"#),
            (b, "", "[]"),
            (b, "José", "[]"),
            (b, "José", "[]"),
        ]
    );
}
