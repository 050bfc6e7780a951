//! Response headers that users script against, and request headers that steer a call (litellm.md HDR-1 to 3, 5 to 8,
//! AUTH-2).

use tollgate_harness::{Failure, KEY, MASTER_KEY, Object, Reply, Response, Stage, Step, Tokens, json, objects};

fn has(reply: &Response, name: &str) -> String {
    reply.header(name).unwrap_or_else(|| panic!("no {name} in {:?}", reply.headers)).to_owned()
}

#[tokio::test]
async fn a_reply_says_who_answered_it() {
    let stage = Stage::start(|mock| {
        vec![objects::deployment("m", mock).set("spec.region", "eu").set("spec.modelNames", json!(["public"]))]
    })
    .await;
    let reply = stage.gateway.chat("public").send().await.expect(200);
    assert!(has(&reply, "x-litellm-model-id").contains('m'));
    assert!(has(&reply, "x-litellm-model-name").contains("up-m"));
    assert_eq!(has(&reply, "x-litellm-model-group"), "public");
    let base = has(&reply, "x-litellm-model-api-base");
    assert!(base.starts_with(&stage.mock.url()) && !base.contains('?'), "{base}");
    assert_eq!(has(&reply, "x-litellm-model-region"), "eu");
    assert!(!has(&reply, "x-litellm-version").is_empty());
    let id = has(&reply, "x-litellm-call-id");
    assert_eq!(has(&reply, "x-request-id"), id);
    let again = stage.gateway.chat("public").send().await.expect(200);
    assert_ne!(has(&again, "x-litellm-call-id"), id);
    stage.finish().await;
}

#[tokio::test]
async fn the_cost_of_a_reply_is_in_its_headers_and_in_the_ledger() {
    let stage = Stage::one().await;
    stage
        .mock
        .script("up-m", [Step::usage("x", Tokens { input: 100, output: 10, cache_read: 40, ..Tokens::default() })]);
    let reply = stage.gateway.chat("m").send().await.expect(200);
    let amount = |name: &str| -> i64 {
        let text = has(&reply, name);
        assert!(!text.contains(['e', 'E']), "a decimal number that every script can read: {text}");
        let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
        format!("{whole}{fraction:0<9}").parse().unwrap_or_else(|_| panic!("{name}: {text}"))
    };
    let [input, output, read] = [60 * 2_500, 10 * 10_000, 40 * 250];
    assert_eq!(amount("x-litellm-response-cost"), input + output + read);
    assert_eq!(amount("x-litellm-response-cost-original"), input + output + read);
    assert_eq!(amount("x-litellm-response-cost-output"), output);
    assert_eq!(amount("x-litellm-response-cost-cache-read"), read);
    let rows = stage.finish().await;
    assert_eq!(rows[0].cost_nano_usd, input + output + read);
}

#[tokio::test]
async fn a_stream_sends_its_headers_before_its_cost_is_known() {
    let stage = Stage::one().await;
    let mut stream = stage.gateway.chat_stream("m").stream().await;
    assert_eq!(stream.header("x-litellm-response-cost"), Some("0.0"));
    for name in [
        "x-litellm-call-id",
        "x-litellm-model-id",
        "x-litellm-model-group",
        "x-litellm-attempted-retries",
        "x-litellm-version",
    ] {
        assert!(stream.header(name).is_some(), "{name}");
    }
    stream.rest().await;
    stage.finish().await;
}

#[tokio::test]
async fn a_key_sees_its_spend_budget_and_limits() {
    let stage = Stage::start(|mock| {
        vec![
            objects::deployment("m", mock),
            objects::caller()
                .set("spec.budget", json!({"limit": "25", "period": {"calendar": "Month"}}))
                .set("spec.limits", json!({"requestsPerMinute": 60, "tokensPerMinute": 100000})),
        ]
    })
    .await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 10)).repeat(2)]);
    let first = stage.gateway.chat("m").send().await.expect(200);
    let second = stage.gateway.chat("m").send().await.expect(200);
    assert_eq!(has(&first, "x-litellm-key-max-budget").parse::<f64>().expect("a number"), 25.0);
    // After each call: 100 × 2,500 + 10 × 10,000 nano-USD.
    assert_eq!(has(&first, "x-litellm-key-spend").parse::<f64>().expect("a number"), 0.00035);
    assert_eq!(has(&second, "x-litellm-key-spend").parse::<f64>().expect("a number"), 0.0007);
    assert_eq!(
        (has(&first, "x-litellm-key-rpm-limit"), has(&first, "x-litellm-key-tpm-limit")),
        ("60".into(), "100000".into())
    );
    let master = stage.gateway.chat("m").key(MASTER_KEY).send().await.expect(200);
    assert_eq!((master.header("x-litellm-key-max-budget"), master.header("x-litellm-key-rpm-limit")), (None, None));
    stage.finish().await;
}

/// A namespace with a label `llm`, and a key in it of the same name.
fn tenant(name: &str) -> [Object; 2] {
    let namespace = Object::new("Namespace", name, json!({}))
        .set("apiVersion", "v1")
        .unset("metadata.namespace")
        .set("metadata.labels", json!({"llm": "yes"}));
    [namespace, objects::key(name, &objects::key_text(name)).set("metadata.namespace", name)]
}

#[tokio::test]
async fn a_key_sees_no_spend_but_its_own() {
    let stage = Stage::start(|mock| {
        let all = json!({"from": "All"});
        let platform = json!({"namespaceSelector": {"matchLabels": {"llm": "yes"}}});
        let each = objects::budget("each", "7").set("spec.per", "Key");
        let mut objects = vec![
            objects::gateway().set("spec.allowedNamespaces", all.clone()),
            objects::deployment("m", mock).set("spec.allowedNamespaces", all),
            objects::budget("platform", "0.0009").set("spec.appliesTo", platform).set("spec.enforcement", "Soft"),
            each.set("spec.appliesTo", json!({"keySelector": {"matchLabels": {"own": "yes"}}})),
            objects::team("red").set("spec.budget", json!({"limit": "20", "period": {"lifetime": {}}})),
            objects::key("member", &objects::key_text("member")).set("spec.teamRef.name", "red"),
            objects::key("alone", &objects::key_text("alone")).set("metadata.labels", json!({"own": "yes"})),
            objects::caller().set("spec.teamRef.name", "red"),
        ];
        objects.extend(tenant("t1"));
        objects.extend(tenant("t2"));
        objects
    })
    .await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 10)).repeat(8)]);
    let ask = |key: &str| stage.gateway.chat("m").key(&objects::key_text(key));
    let told = |reply: &Response| {
        let of = |name: &str| reply.header(name).map(str::to_owned);
        (of("x-litellm-key-spend"), of("x-litellm-key-max-budget"))
    };
    for _ in 0..2 {
        assert_eq!(told(&ask("t1").send().await.expect(200)), (None, None));
        assert_eq!(told(&stage.gateway.chat("m").send().await.expect(200)), (None, None), "it is the team's");
    }
    assert_eq!(told(&ask("member").send().await.expect(200)), (None, None));
    for spent in ["0.00035", "0.0007"] {
        let reply = ask("alone").send().await.expect(200);
        assert_eq!(told(&reply), (Some(spent.to_owned()), Some("7".to_owned())));
    }
    ask("t2").send().await.expect(200);
    // What the tenants together spent is told to neither: not by errors either.
    for tenant in ["t1", "t2"] {
        let reply = ask(tenant).send().await.expect(429);
        let message = reply.json()["error"]["message"].as_str().expect("a message").to_owned();
        assert_eq!(message, "Budget has been exceeded! Budget: `default/Budget/platform`. It does not reset.");
    }
    stage.finish().await;
}

#[tokio::test]
async fn attempts_and_timeouts_are_told() {
    let stage = Stage::one().await;
    stage.mock.script("up-m", [Step::error(500)]);
    let reply = stage.gateway.chat("m").header("x-litellm-timeout", "30").send().await.expect(200);
    assert_eq!(has(&reply, "x-litellm-attempted-retries"), "1");
    assert_eq!(has(&reply, "x-litellm-max-retries"), "2");
    assert_eq!(has(&reply, "x-litellm-attempted-fallbacks"), "0");
    assert_eq!(has(&reply, "x-litellm-timeout").parse::<f64>().expect("a number"), 30.0);
    for name in ["x-litellm-response-duration-ms", "x-litellm-overhead-duration-ms"] {
        assert!(has(&reply, name).parse::<f64>().is_ok_and(|ms| ms >= 0.0), "{name}");
    }
    stage.finish().await;
}

#[tokio::test]
async fn headers_of_the_provider_are_echoed_under_its_prefix() {
    let stage = Stage::one().await;
    let headers = [
        ("x-ratelimit-limit-requests", "500"),
        ("x-ratelimit-remaining-tokens", "9000"),
        ("openai-processing-ms", "12"),
        ("set-cookie", "a=b"),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    stage.mock.script("up-m", [Reply { headers: headers.clone().into(), ..Reply::default() }]);
    let reply = stage.gateway.chat("m").send().await.expect(200);
    assert_eq!(has(&reply, "llm_provider-openai-processing-ms"), "12");
    assert_eq!(has(&reply, "llm_provider-x-ratelimit-limit-requests"), "500");
    assert!(has(&reply, "llm_provider-x-request-id").starts_with("req_mock"));
    assert_eq!(
        has(&reply, "x-ratelimit-limit-requests"),
        "500",
        "normalised to the top level where we have no limit of our own"
    );
    assert_eq!(has(&reply, "x-ratelimit-remaining-tokens"), "9000");
    assert_eq!((reply.header("set-cookie"), reply.header("llm_provider-set-cookie")), (None, None));
    stage.mock.script("up-m", [Failure { status: Some(400), headers: headers.into(), ..Failure::default() }]);
    let error = stage.gateway.chat("m").send().await.expect(400);
    assert_eq!(has(&error, "llm_provider-openai-processing-ms"), "12");
    stage.finish().await;
}

#[tokio::test]
async fn security_headers_are_on_everything() {
    let stage = Stage::one().await;
    let mut replies = vec![
        stage.gateway.chat("m").send().await,
        stage.gateway.chat("nope").send().await,
        stage.gateway.get("/nothing").send().await,
    ];
    for path in ["/v1/models", "/health/liveliness", "/health/readiness", "/metrics", "/"] {
        replies.push(stage.gateway.get(path).key(KEY).send().await);
    }
    for reply in replies {
        assert_eq!(has(&reply, "x-frame-options"), "DENY");
        assert_eq!(has(&reply, "content-security-policy"), "frame-ancestors 'none'");
        assert_eq!(has(&reply, "x-content-type-options"), "nosniff");
        assert!(reply.header("server").is_none());
    }
    stage.finish().await;
}

#[tokio::test]
async fn an_error_costs_nothing_and_says_so() {
    let stage = Stage::one().await;
    let reply = stage.gateway.chat("nope").send().await.expect(400);
    assert_eq!(has(&reply, "x-litellm-response-cost").parse::<f64>().expect("a number"), 0.0);
    assert!(!has(&reply, "x-litellm-call-id").is_empty());
    stage.finish().await;
}

#[tokio::test]
async fn a_clients_timeout_is_kept() {
    let stage = Stage::one().await;
    stage.mock.script("up-m", [Step::hang()]);
    let begun = std::time::Instant::now();
    let reply = stage.gateway.chat("m").header("x-litellm-timeout", "0.4").send().await.expect(408);
    let took = begun.elapsed();
    assert!(took >= std::time::Duration::from_millis(400) && took < std::time::Duration::from_secs(5), "{took:?}");
    assert_eq!(reply.json()["error"]["type"], "timeout_error");
    stage.mock.wait_for_in_flight(0).await;
    stage.finish_flagged().await;
}

#[tokio::test]
async fn a_clients_stream_timeout_is_for_streams_only() {
    let stage = Stage::one().await;
    stage.mock.script("up-m", [Step::hang()]);
    let reply = stage.gateway.chat_stream("m").header("x-litellm-stream-timeout", "0.3").send().await;
    assert_eq!(reply.status, 408, "{}", reply.text());
    stage.mock.script("up-m", [Step::usual().delay_ms(500)]);
    stage.gateway.chat("m").header("x-litellm-stream-timeout", "0.3").send().await.expect(200);
    stage.finish_flagged().await;
}

#[tokio::test]
async fn a_client_may_ask_for_no_retries() {
    let stage = Stage::one().await;
    stage.mock.script("up-m", [Step::error(500)]);
    stage.gateway.chat("m").header("x-litellm-num-retries", "0").send().await.expect(500);
    assert_eq!(stage.mock.requests().len(), 1);
    stage.finish().await;
}

#[tokio::test]
async fn a_clients_call_id_is_kept() {
    let stage = Stage::one().await;
    let reply = stage.gateway.chat("m").header("x-litellm-call-id", "my-id-1").send().await.expect(200);
    assert_eq!((has(&reply, "x-litellm-call-id"), has(&reply, "x-request-id")), ("my-id-1".into(), "my-id-1".into()));
    let error = stage.gateway.chat("nope").header("x-litellm-call-id", "my-id-2").send().await.expect(400);
    assert_eq!(has(&error, "x-litellm-call-id"), "my-id-2");
    stage.finish().await;
}

#[tokio::test]
async fn anthropics_clients_find_their_request_id() {
    let stage = Stage::start(|mock| vec![objects::anthropic("claude", mock)]).await;
    let reply = stage.gateway.message("claude").send().await.expect(200);
    assert_eq!(has(&reply, "request-id"), has(&reply, "x-request-id"));
    stage.finish().await;
}
