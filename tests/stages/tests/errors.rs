//! What clients are told when something goes wrong (litellm.md ERR-1 to 8, 10, 12 to 14; clients.md 4.2 rows 8 to 10).

use tollgate_harness::{Failure, Mock, Object, Options, Redirect, Reply, Response, Stage, Step, Value, json, objects};

fn error(reply: &Response) -> Value {
    let json = reply.json();
    let error = json["error"].clone();
    assert!(error["message"].is_string() && error["type"].is_string() && error["code"].is_string(), "{json}");
    assert!(error.as_object().is_some_and(|error| error.contains_key("param")), "{json}");
    error
}

fn failure(status: u16, message: &str) -> Failure {
    Failure { status: Some(status), message: Some(message.into()), ..Failure::default() }
}

#[tokio::test]
async fn an_unknown_model_is_a_bad_request_with_a_code() {
    let stage = Stage::one().await;
    for call in [stage.gateway.chat("nope"), stage.gateway.chat_stream("nope")] {
        let reply = call.send().await.expect(400);
        let error = error(&reply);
        assert_eq!(
            (&error["type"], &error["code"], &error["param"]),
            (&json!("invalid_request_error"), &json!("model_not_found"), &json!("model"))
        );
        let message = error["message"].as_str().expect("a message");
        assert!(
            message.starts_with("You passed in model=nope. There are no healthy deployments for this model"),
            "{message}"
        );
    }
    stage.finish().await;
}

#[tokio::test]
async fn a_statuses_of_providers_reach_clients_with_litellms_types() {
    let stage = Stage::start(|mock| vec![objects::deployment("m", mock), no_cooldown()]).await;
    for (status, kind) in [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "invalid_request_error"),
        (409, "invalid_request_error"),
        (422, "invalid_request_error"),
        (429, "throttling_error"),
        (500, "internal_server_error"),
        (502, "internal_server_error"),
        (503, "internal_server_error"),
    ] {
        stage.mock.script("up-m", [failure(status, "the provider's own words")]);
        let reply = stage.gateway.chat("m").header("x-litellm-num-retries", "0").send().await;
        assert_eq!(reply.status, status, "{}", reply.text());
        let error = error(&reply);
        assert_eq!((&error["type"], &error["code"]), (&json!(kind), &json!(status.to_string())), "{status}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains("the provider's own words")), "{error}");
    }
    stage.finish().await;
}

/// Deployments are never benched, so that one error says nothing about the next call.
fn no_cooldown() -> Object {
    let retries = json!({"attempts": 2, "backoff": {"initial": "1ms", "max": "5ms"}});
    let defaults = json!({"retries": retries, "cooldown": {"duration": "0s"}});
    objects::gateway().set("spec.defaults", defaults)
}

#[tokio::test]
async fn which_errors_are_tried_again() {
    let stage = Stage::start(|mock| vec![objects::deployment("m", mock), no_cooldown()]).await;
    for (status, calls) in [
        (400, 1),
        (401, 1),
        (403, 1),
        (404, 1),
        (422, 1),
        (408, 3),
        (409, 3),
        (429, 3),
        (500, 3),
        (502, 3),
        (503, 3),
        (504, 3),
        (529, 3),
    ] {
        stage.mock.clear();
        stage.mock.script("up-m", [Step::error(status).repeat(3)]);
        let reply = stage.gateway.chat("m").send().await;
        assert_eq!((reply.status, stage.mock.requests().len()), (status, calls), "{}", reply.text());
    }
    stage.mock.clear();
    stage.finish().await;
}

#[tokio::test]
async fn an_unprocessable_request_of_a_provider_passes() {
    let stage = Stage::start(|mock| vec![objects::openai("m", mock)]).await;
    stage.mock.script("up-m", [failure(422, "unprocessable")]);
    let reply = stage.gateway.chat("m").send().await.expect(422);
    assert!(error(&reply)["message"].as_str().is_some_and(|text| text.contains("unprocessable")));
    stage.finish().await;
}

#[tokio::test]
async fn param_and_headers_of_a_providers_error_are_kept() {
    let stage = Stage::one().await;
    let body =
        r#"{"error":{"message":"bad temperature","type":"invalid_request_error","param":"temperature","code":"x"}}"#;
    let headers = [("retry-after", "7"), ("x-request-id", "req_1")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    stage.mock.script("up-m", [Failure { status: Some(400), body: Some(body.into()), headers, ..Failure::default() }]);
    let reply = stage.gateway.chat("m").send().await.expect(400);
    assert_eq!(error(&reply)["param"], "temperature");
    assert_eq!(reply.header("llm_provider-retry-after"), Some("7"));
    assert_eq!(reply.header("llm_provider-x-request-id"), Some("req_1"));
    assert_eq!(reply.header("retry-after"), None, "the provider's wish is not ours (ERR-10)");
    stage.finish().await;
}

#[tokio::test]
async fn a_context_that_is_too_long_is_recognised() {
    let stage = Stage::one().await;
    let texts = [
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
        "prompt is too long: 250000 tokens > 200000 maximum",
    ];
    for text in texts {
        stage.mock.script("up-m", [failure(400, text)]);
        let reply = stage.gateway.chat("m").send().await.expect(400);
        assert!(error(&reply)["message"].as_str().is_some_and(|message| message.contains(text)), "{}", reply.text());
    }
    assert_eq!(stage.mock.requests().len(), texts.len(), "nothing is tried again");
    stage.finish().await;
}

#[tokio::test]
async fn content_that_a_provider_refuses_is_a_bad_request() {
    let stage = Stage::one().await;
    let refused = Failure { code: Some("content_filter".into()), ..failure(400, "The response was filtered") };
    stage.mock.script("up-m", [refused]);
    let reply = stage.gateway.chat("m").send().await.expect(400);
    assert_eq!(error(&reply)["type"], "invalid_request_error");
    assert_eq!(stage.mock.requests().len(), 1);
    stage.finish().await;
}

#[tokio::test]
async fn unknown_paths_and_methods_say_detail() {
    let stage = Stage::one().await;
    assert_eq!(stage.gateway.post("/v1/nothing").send().await.expect(404).json()["detail"], "Not Found");
    assert_eq!(
        stage.gateway.get("/v1/chat/completions").send().await.expect(405).json()["detail"],
        "Method Not Allowed"
    );
    let reply = stage.gateway.get("/v1/models/nope").key(tollgate_harness::KEY).send().await.expect(404);
    assert_eq!(error(&reply)["code"], "model_not_found");
    stage.finish().await;
}

#[tokio::test]
async fn a_spent_budget_is_429_and_says_not_to_try_again() {
    let stage = Stage::start(|mock| {
        let budget = json!({"limit": "0.0004", "period": {"lifetime": {}}, "enforcement": "Soft"});
        vec![objects::deployment("m", mock), objects::caller().set("spec.budget", budget)]
    })
    .await;
    stage.mock.script("up-m", [Step::usage("x", tollgate_harness::Tokens::new(100, 20))]);
    stage.gateway.chat("m").send().await.expect(200);
    let reply = stage.gateway.chat("m").send().await.expect(429);
    let error = error(&reply);
    assert_eq!((&error["type"], &error["code"]), (&json!("budget_exceeded"), &json!("budget_exhausted")));
    let message = error["message"].as_str().expect("a message");
    assert!(
        message.starts_with("Budget has been exceeded! Current cost: ") && message.contains("Max budget: "),
        "{message}"
    );
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    assert_eq!(stage.mock.requests().len(), 1);
    stage.finish().await;
}

#[tokio::test]
async fn a_refusal_says_what_the_call_had_to_reserve_and_when_a_budget_is_not_valid() {
    let stage = Stage::start(|mock| {
        let key = |name, budget| objects::key(name, &objects::key_text(name)).set("spec.budget", budget);
        let broken = json!({"limit": "5", "period": {"calendar": "Day", "timeZone": "Mars/Olympus"}});
        vec![
            objects::deployment("m", mock),
            key("small", json!({"limit": "1", "period": {"lifetime": {}}})),
            key("tokens", json!({"limit": "1000", "unit": "Tokens", "period": {"lifetime": {}}})),
            key("broken", broken),
        ]
    })
    .await;
    let ask = async |key: &str| {
        let body = json!({"model": "m", "max_tokens": 20_000_000, "messages": [{"role": "user", "content": "Hello"}]});
        let reply = stage.gateway.chat("m").key(&objects::key_text(key)).json(&body).send().await.expect(429);
        assert_eq!(error(&reply)["code"], "budget_exhausted");
        error(&reply)["message"].as_str().expect("a message").to_owned()
    };
    let small = ask("small").await;
    let starts = "Budget has been exceeded! Current cost: $0.00, Max budget: $1.00. Budget: `default/VirtualKey/small`. \
                  The call had to reserve $200.00";
    assert!(small.starts_with(starts), "{small}");
    assert!(small.ends_with(", with $1.00 left. It does not reset."), "{small}");
    let tokens = ask("tokens").await;
    assert!(tokens.contains("The call had to reserve 20000") && tokens.contains(", with 1000 tokens left"), "{tokens}");
    let broken = ask("broken").await;
    let said = "Budget: `default/VirtualKey/broken`. The budget is not valid as it is written, so nothing may be spent under it.";
    assert!(broken.starts_with("Budget has been exceeded! ") && broken.ends_with(said), "{broken}");
    assert_eq!(stage.mock.requests().len(), 0);
    stage.finish().await;
}

#[tokio::test]
async fn the_status_of_a_spent_budget_is_a_setting() {
    let stage = Stage::start(|mock| {
        let budget = json!({"limit": "0.0000001", "period": {"lifetime": {}}});
        let gateway = objects::gateway().set("spec.defaults.budgetExceededStatus", 422);
        vec![objects::deployment("m", mock), objects::caller().set("spec.budget", budget), gateway]
    })
    .await;
    let reply = stage.gateway.chat("m").send().await.expect(422);
    assert_eq!(error(&reply)["type"], "budget_exceeded");
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    assert!(stage.mock.requests().is_empty());
    stage.finish().await;
}

#[tokio::test]
async fn all_deployments_cooling_is_429_with_a_time() {
    let stage = Stage::start(|mock| {
        let route = objects::route("pair", ["a", "b"])
            .set("spec.cooldown", json!({"failures": 1, "window": "1m", "duration": "5s"}));
        vec![objects::deployment("a", mock), objects::deployment("b", mock), route]
    })
    .await;
    stage.mock.script("*", [Step::error(429).repeat(2)]);
    let call = || stage.gateway.chat("pair");
    call().send().await.expect(429);
    assert_eq!(stage.mock.requests().len(), 2);
    let reply = call().send().await.expect(429);
    let error = error(&reply);
    assert_eq!(error["type"], "all_deployments_in_cooldown");
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains("default/a") && message.contains("default/b"), "the message lists them: {message}");
    assert!(
        reply
            .header("retry-after")
            .and_then(|after| after.parse::<u64>().ok())
            .is_some_and(|after| (1..=5).contains(&after))
    );
    assert_eq!(stage.mock.requests().len(), 2, "nobody was asked");
    stage.finish().await;
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let trap = Mock::start(Options::default()).await.expect("the trap listens");
    let stage = Stage::one().await;
    for status in [301, 302, 307, 308] {
        let location = format!("{}/v1/chat/completions", trap.url());
        let redirect = Redirect { location, status: Some(status) };
        stage.mock.script("up-m", [Step::from(tollgate_harness::Action::Redirect(redirect)).repeat(3)]);
        let reply = stage.gateway.chat("m").send().await.expect(502);
        assert_eq!((reply.header("location"), reply.header("llm_provider-location")), (None, None));
    }
    assert!(trap.requests().is_empty(), "a credential must not follow a redirect");
    stage.finish_flagged().await;
}

#[tokio::test]
async fn an_html_error_page_becomes_an_error_of_the_clients_dialect() {
    let stage = Stage::one().await;
    let page = "<html><head><title>502 Bad Gateway</title></head><body><script>alert(1)</script></body></html>";
    let html = Failure {
        status: Some(502),
        body: Some(page.into()),
        content_type: Some("text/html".into()),
        ..Failure::default()
    };
    stage.mock.script("up-m", [Step::from(html).repeat(3)]);
    let reply = stage.gateway.chat("m").send().await.expect(502);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    error(&reply);
    stage.finish().await;
}

#[tokio::test]
async fn empty_and_odd_error_bodies_become_errors_too() {
    let stage = Stage::one().await;
    for body in [
        "",
        "null",
        "[]",
        "{}",
        "{\"error\":\"plain text\"}",
        "{\"error\":{}}",
        "{\"detail\":\"x\"}",
        "\"text\"",
        "\u{0}\u{1}",
        "{\"error\":{\"message\":5}}",
    ] {
        stage
            .mock
            .script("up-m", [Failure { status: Some(400), body: Some(body.to_owned().into()), ..Failure::default() }]);
        let reply = stage.gateway.chat("m").send().await;
        assert_eq!(reply.status, 400, "{body:?}");
        assert!(!error(&reply)["message"].as_str().expect("a message").is_empty(), "{body:?}");
    }
    stage.finish().await;
}

#[tokio::test]
async fn a_huge_error_body_is_cut() {
    let stage = Stage::one().await;
    let huge = Failure { status: Some(400), message: Some("x".repeat(3_000_000)), ..Failure::default() };
    stage.mock.script("up-m", [huge]);
    let reply = stage.gateway.chat("m").send().await.expect(400);
    assert!(reply.body.len() < 100_000, "{} bytes", reply.body.len());
    error(&reply);
    stage.gateway.chat("m").send().await.expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_a_bad_gateway() {
    let gone = Mock::start(Options::default()).await.expect("it listens");
    let stage = Stage::start(|_| vec![objects::deployment("m", &gone)]).await;
    gone.stop().await;
    let reply = stage.gateway.chat("m").send().await.expect(502);
    assert_eq!(error(&reply)["type"], "internal_server_error");
    assert!(!reply.text().contains(tollgate_harness::UPSTREAM_KEY));
    stage.finish().await;
}

#[tokio::test]
async fn providers_that_break_off_are_bad_gateways_and_are_booked() {
    let stage = Stage::start(|mock| vec![objects::deployment("m", mock), no_cooldown()]).await;
    let short = Reply { content_length: Some(1_000_000), ..Reply::default() };
    let steps: [Step; 6] = [
        Step::close(),
        Step::reset(),
        Step::raw("not HTTP at all\r\n\r\n"),
        Step::raw("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\n{{{{"),
        short.into(),
        Reply { gzip: true, ..Reply::default() }.into(),
    ];
    for step in steps {
        stage.mock.script("up-m", [step.clone()]);
        let reply = stage.gateway.chat("m").header("x-litellm-num-retries", "0").send().await;
        assert_eq!(reply.status, 502, "{step:?}: {}", reply.text());
        error(&reply);
    }
    stage.finish_flagged().await;
}

#[tokio::test]
async fn a_slow_provider_is_a_timeout() {
    let stage = Stage::start(|mock| {
        vec![objects::deployment("m", mock).set("spec.timeouts", json!({"total": "300ms"})), no_cooldown()]
    })
    .await;
    stage.mock.script("up-m", [Step::hang()]);
    let reply = stage.gateway.chat("m").send().await.expect(408);
    assert_eq!(error(&reply)["type"], "timeout_error");
    stage.mock.script(
        "up-m",
        [Reply { text: Some("x".repeat(100)), write_bytes: Some(1), write_delay_ms: 20, ..Reply::default() }],
    );
    stage.gateway.chat("m").send().await.expect(408);
    stage.finish_flagged().await;
}

#[tokio::test]
async fn a_stream_without_its_first_byte_in_time_is_a_timeout() {
    let stage = Stage::start(|mock| {
        vec![objects::deployment("m", mock).set("spec.timeouts", json!({"firstByte": "300ms"})), no_cooldown()]
    })
    .await;
    stage.mock.script("up-m", [Step::hang()]);
    stage.gateway.chat_stream("m").header("x-litellm-num-retries", "0").send().await.expect(408);
    stage.mock.script("up-m", [Step::usual().delay_ms(600)]);
    stage.gateway.chat("m").send().await.expect(200);
    stage.finish_flagged().await;
}
