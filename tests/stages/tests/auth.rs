//! Keys: where they may stand, what is said about bad ones, what they allow (litellm.md AUTH-1, ERR-2, 3, 5).

use tollgate_harness::{KEY, MASTER_KEY, Stage, UPSTREAM_KEY, Value, json, objects};

#[tokio::test]
async fn a_key_is_taken_from_every_header_that_clients_use() {
    let stage = Stage::one().await;
    let bearer = format!("Bearer {KEY}");
    for (header, value) in [
        ("authorization", bearer.as_str()),
        ("x-api-key", KEY),
        ("api-key", KEY),
        ("x-litellm-api-key", bearer.as_str()),
        ("x-litellm-api-key", KEY),
    ] {
        let reply = stage.gateway.chat("m").without("authorization").header(header, value).send().await;
        assert_eq!(reply.status, 200, "{header}: {}", reply.text());
    }
    stage.finish().await;
}

#[tokio::test]
async fn of_several_keys_our_own_header_wins() {
    let stage = Stage::one().await;
    let wrong = "sk-stage-unknown-0123456789abcdef";
    stage.gateway.chat("m").key(wrong).header("x-litellm-api-key", KEY).send().await.expect(200);
    stage.gateway.chat("m").header("x-litellm-api-key", wrong).send().await.expect(401);
    stage.gateway.chat("m").header("x-api-key", wrong).send().await.expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn no_key_and_an_unknown_key_are_told_apart() {
    let stage = Stage::one().await;
    let reply = stage.gateway.chat("m").without("authorization").send().await.expect(401);
    let error = &reply.json()["error"];
    assert_eq!((&error["type"], &error["code"]), (&json!("auth_error"), &json!("401")));
    assert!(
        error["message"].as_str().is_some_and(|text| text.starts_with("Authentication Error, No api key passed in.")),
        "{error}"
    );
    assert!(reply.header("www-authenticate").is_some());

    let unknown = "sk-stage-unknown-0123456789abcdef";
    let reply = stage.gateway.chat("m").key(unknown).send().await.expect(401);
    assert_eq!(reply.json()["error"]["type"], "token_not_found_in_db");
    assert!(!reply.text().contains(unknown), "a key is never repeated");
    assert!(!stage.gateway.log().contains(unknown) && !stage.gateway.log().contains(KEY), "nor logged");
    assert!(stage.mock.requests().is_empty());
    stage.finish().await;
}

#[tokio::test]
async fn expired_and_disabled_keys_say_so_to_who_holds_them() {
    let stage = Stage::start(|mock| {
        vec![
            objects::deployment("m", mock),
            objects::key("old", &objects::key_text("old")).set("spec.expiresAt", "2020-01-02T03:04:05Z"),
            objects::key("off", &objects::key_text("off")).set("spec.disabled", true),
            objects::key("later", &objects::key_text("later")).set("spec.expiresAt", "2999-01-01T00:00:00Z"),
        ]
    })
    .await;
    let error = stage.gateway.chat("m").key(&objects::key_text("old")).send().await.expect(401).json()["error"].take();
    assert_eq!(error["type"], "expired_key");
    assert!(
        error["message"].as_str().is_some_and(|text| text.contains("Expired") && text.contains("2020-01-02T03:04:05Z")),
        "{error}"
    );
    let error = stage.gateway.chat("m").key(&objects::key_text("off")).send().await.expect(401).json()["error"].take();
    assert!(error["message"].as_str().is_some_and(|text| text.contains("disabled")), "{error}");
    stage.gateway.chat("m").key(&objects::key_text("later")).send().await.expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn a_key_that_expires_while_the_gateway_runs_is_refused_from_then_on() {
    let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(2);
    let seconds = soon.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let stage = Stage::start(|mock| {
        let at = utc(seconds);
        vec![
            objects::deployment("m", mock),
            objects::key("brief", &objects::key_text("brief")).set("spec.expiresAt", at),
        ]
    })
    .await;
    let refused = async {
        loop {
            let reply = stage.gateway.chat("m").key(&objects::key_text("brief")).send().await;
            if reply.status == 401 {
                return reply.json()["error"]["type"].clone();
            }
            assert_eq!(reply.status, 200, "{}", reply.text());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    assert_eq!(tollgate_harness::patiently("the expiry", refused).await, "expired_key");
    stage.finish().await;
}

/// RFC 3339 from Unix seconds (days to date by the civil calendar).
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[tokio::test]
async fn a_blocked_team_blocks_its_keys() {
    let mut stage = Stage::start(|mock| {
        vec![
            objects::deployment("m", mock),
            objects::team("squad"),
            objects::key("member", &objects::key_text("member")).set("spec.teamRef", json!({"name": "squad"})),
        ]
    })
    .await;
    let member = objects::key_text("member");
    stage.gateway.chat("m").key(&member).send().await.expect(200);
    stage
        .edit(|objects| {
            for object in objects.iter_mut().filter(|object| object.id() == ("Team", "squad")) {
                *object = object.clone().set("spec.blocked", true);
            }
        })
        .await;
    let reply = stage.gateway.chat("m").key(&member).send().await.expect(401);
    assert!(reply.text().contains("squad") && reply.text().contains("blocked"), "{}", reply.text());
    stage.gateway.chat("m").send().await.expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn the_master_key_calls_everything_and_sees_everything() {
    let stage = Stage::one().await;
    stage.gateway.chat("m").key(MASTER_KEY).send().await.expect(200);
    stage.gateway.chat("default/m").key(MASTER_KEY).send().await.expect(200);
    assert_eq!(stage.gateway.health().await["healthy_count"], 1);
    stage.finish().await;
}

#[tokio::test]
async fn a_clients_key_never_reaches_a_provider() {
    let stage = Stage::start(|mock| {
        vec![objects::deployment("m", mock), objects::anthropic("claude", mock), objects::azure("az", mock)]
    })
    .await;
    for header in ["authorization", "x-api-key", "api-key", "x-litellm-api-key"] {
        for model in ["m", "claude", "az"] {
            stage.gateway.chat(model).without("authorization").header(header, KEY).send().await.expect(200);
        }
        stage.gateway.message("claude").without("x-api-key").header(header, KEY).send().await.expect(200);
    }
    for seen in stage.mock.requests() {
        for (name, value) in &seen.headers {
            assert!(!value.contains(KEY), "{} has the client's key in {name}", seen.path);
            assert!(!name.starts_with("x-litellm-"), "{name} is between the client and us");
        }
        assert!(seen.headers.iter().any(|(_, value)| value.contains(UPSTREAM_KEY)), "{:?}", seen.headers);
        assert!(!String::from_utf8_lossy(&seen.body).contains(KEY));
    }
    stage.finish().await;
}

#[tokio::test]
async fn other_headers_of_the_client_stay_here() {
    let stage = Stage::one().await;
    let call = stage
        .gateway
        .chat("m")
        .header("cookie", "a=b")
        .header("x-forwarded-for", "10.0.0.1")
        .header("openai-organization", "org-1");
    call.header("x-custom", "1").header("accept-encoding", "gzip, br").send().await.expect(200);
    let seen = stage.last_seen();
    for name in ["cookie", "x-forwarded-for", "x-custom", "openai-organization"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert!(seen.header("accept-encoding").is_none_or(|value| value == "identity"), "answers must come uncompressed");
    stage.finish().await;
}

#[tokio::test]
async fn models_are_allowed_by_name_and_by_prefix_and_by_alias() {
    let stage = Stage::start(|mock| {
        let names = json!(["gpt-4o", "gpt-4.1", "llama", "org/x"]);
        vec![
            objects::deployment("m", mock).set("spec.modelNames", names),
            objects::key("exact", &objects::key_text("exact")).set("spec.models", json!(["llama"])),
            objects::key("prefix", &objects::key_text("prefix")).set("spec.models", json!(["gpt-4*", "org/*"])),
            objects::key("alias", &objects::key_text("alias"))
                .set("spec.models", json!(["llama"]))
                .set("spec.modelAliases", json!({"fast": "llama", "sly": "gpt-4o"})),
        ]
    })
    .await;
    for (key, model, status) in [
        ("exact", "llama", 200),
        ("exact", "gpt-4o", 403),
        ("prefix", "gpt-4o", 200),
        ("prefix", "gpt-4.1", 200),
        ("prefix", "org/x", 200),
        ("prefix", "llama", 403),
        ("alias", "fast", 200),
        ("alias", "llama", 200),
        ("alias", "sly", 403),
    ] {
        let reply = stage.gateway.chat(model).key(&objects::key_text(key)).send().await;
        assert_eq!(reply.status, status, "{key} {model}: {}", reply.text());
        if status == 403 {
            let error = &reply.json()["error"];
            assert_eq!(
                (&error["type"], &error["code"], &error["param"]),
                (&json!("key_model_access_denied"), &json!("403"), &json!("model"))
            );
        } else {
            assert_eq!(reply.json()["model"], model, "the name that was asked for, also of an alias");
        }
    }
    stage.finish().await;
}

#[tokio::test]
async fn key_and_team_must_both_allow_and_neither_is_none() {
    let stage = Stage::start(|mock| {
        let member = |name: &str, models: Value| {
            objects::key(name, &objects::key_text(name))
                .set("spec.teamRef", json!({"name": "squad"}))
                .set("spec.models", models)
        };
        vec![
            objects::deployment("m", mock).set("spec.modelNames", json!(["a", "b"])),
            objects::team("squad").set("spec.models", json!(["a"])),
            member("all", json!([])),
            member("both", json!(["a", "b"])),
            objects::key("none", &objects::key_text("none")).set("spec.models", json!([])),
        ]
    })
    .await;
    let ask = |key: &str, model: &str| stage.gateway.chat(model).key(&objects::key_text(key)).send();
    ask("all", "a").await.expect(200);
    let refused = ask("all", "b").await.expect(403);
    assert_eq!(refused.json()["error"]["type"], "team_model_access_denied");
    ask("both", "a").await.expect(200);
    ask("both", "b").await.expect(403);
    ask("none", "a").await.expect(403);
    stage.finish().await;
}
