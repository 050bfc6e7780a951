//! Rates and calls at once, per key, model, team and deployment (litellm.md ERR-7, HDR-7; resources.md).

use tollgate_harness::{KEY, Response, Stage, Step, Tokens, json, objects};

fn rate_limited(reply: &Response, scope: &str, kind: &str) {
    let error = reply.json()["error"].clone();
    let message = error["message"].as_str().expect("a message");
    assert!(message.starts_with(&format!("Rate limit exceeded for {scope}: ")), "{message}");
    assert!(message.contains(&format!("Limit type: {kind}. Current limit: ")), "{message}");
    assert!(message.contains("Limit resets at: 20") && message.ends_with(" UTC"), "{message}");
    assert_eq!(reply.header("rate_limit_type"), Some(kind));
    let reset = reply.header("reset_at").expect("when the window ends");
    assert!(
        reset.starts_with("20") && reset.ends_with(" UTC") && reset.len() == "2026-01-31 12:00:00 UTC".len(),
        "{reset}"
    );
    if kind != "max_parallel_requests" {
        let reset = reply.header(&format!("x-ratelimit-reset-{kind}")).and_then(|reset| reset.strip_suffix('s'));
        assert_eq!(reset, reply.header("retry-after"));
    }
    let after: u64 = reply.header("retry-after").and_then(|after| after.parse().ok()).expect("retry-after");
    assert!((1..=60).contains(&after), "{after}");
}

#[tokio::test]
async fn requests_per_minute_of_a_key() {
    let stage = Stage::start(|mock| {
        vec![objects::deployment("m", mock), objects::caller().set("spec.limits", json!({"requestsPerMinute": 3}))]
    })
    .await;
    for left in ["2", "1", "0"] {
        let reply = stage.gateway.chat("m").send().await.expect(200);
        assert_eq!(reply.header("x-ratelimit-api_key-limit-requests"), Some("3"));
        assert_eq!(reply.header("x-ratelimit-api_key-remaining-requests"), Some(left));
        assert_eq!(
            (reply.header("x-ratelimit-limit-requests"), reply.header("x-ratelimit-remaining-requests")),
            (Some("3"), Some(left))
        );
        let reset = reply.header("x-ratelimit-reset-requests").expect("when the window ends");
        assert!(
            reset
                .strip_suffix('s')
                .and_then(|seconds| seconds.parse::<u64>().ok())
                .is_some_and(|seconds| (1..=60).contains(&seconds)),
            "{reset}"
        );
    }
    let reply = stage.gateway.chat("m").send().await.expect(429);
    rate_limited(&reply, "api_key", "requests");
    assert_eq!(reply.header("x-ratelimit-api_key-remaining-requests"), Some("0"));
    assert_eq!(stage.mock.requests().len(), 3);
    stage.finish().await;
}

#[tokio::test]
async fn tokens_per_minute_of_a_key_count_what_was_really_used() {
    let stage = Stage::start(|mock| {
        vec![objects::deployment("m", mock), objects::caller().set("spec.limits", json!({"tokensPerMinute": 2000}))]
    })
    .await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(900, 100)).repeat(2)]);
    let first = stage.gateway.chat("m").send().await.expect(200);
    assert_eq!(first.header("x-ratelimit-api_key-limit-tokens"), Some("2000"));
    let second = stage.gateway.chat("m").send().await.expect(200);
    let left: u64 =
        second.header("x-ratelimit-api_key-remaining-tokens").and_then(|left| left.parse().ok()).expect("a number");
    assert!(left <= 1000, "the first call's 1000 tokens are counted: {left}");
    let reply = stage.gateway.chat("m").send().await.expect(429);
    rate_limited(&reply, "api_key", "tokens");
    stage.finish().await;
}

#[tokio::test]
async fn tokens_that_a_request_may_use_are_counted_before_it_is_sent() {
    let stage = Stage::start(|mock| {
        vec![objects::deployment("m", mock), objects::caller().set("spec.limits", json!({"tokensPerMinute": 1000}))]
    })
    .await;
    let body = |cap: u64| json!({"model": "m", "max_tokens": cap, "messages": [{"role": "user", "content": "Hi"}]});
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(90, 10)).repeat(3)]);
    stage.gateway.chat("m").json(&body(900)).send().await.expect(200);
    let reply = stage.gateway.chat("m").json(&body(1000)).send().await.expect(429);
    rate_limited(&reply, "api_key", "tokens");
    stage.gateway.chat("m").json(&body(800)).send().await.expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn an_image_in_a_request_is_no_text() {
    let stage = Stage::start(|mock| {
        let limits = json!({"tokensPerMinute": 100_000});
        let limited = objects::anthropic("c", mock).set("spec.limits", limits.clone());
        vec![objects::deployment("m", mock), limited, objects::caller().set("spec.limits", limits)]
    })
    .await;
    let data = "iVBORw0KGgo/".repeat(70_000);
    let url = json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{data}")}});
    let source = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}});
    for (model, path, part) in [("m", "/v1/chat/completions", url), ("c", "/v1/messages", source)] {
        let of = |part| json!({"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": [part]}]});
        let image = stage.gateway.post(path).key(KEY).json(&of(part));
        let small = stage.gateway.post(path).key(KEY).json(&of(json!({"type": "text", "text": "Hi"})));
        let usual = || Step::usage("x", Tokens::new(1100, 10));
        stage.mock.script(format!("up-{model}"), [usual().gate(model), usual()]);
        let image = tokio::spawn(image.send());
        tollgate_harness::patiently("the image at the provider", stage.mock.wait_at_gate(model, 1)).await;
        // While it is reserved, others fit the limits of the key and of the deployment.
        small.send().await.expect(200);
        stage.mock.open_gate(model);
        image.await.expect("it ends").expect(200);
    }
    stage.finish().await;
}

#[tokio::test]
async fn a_call_that_may_use_more_than_the_limit_passes_a_window_that_is_empty() {
    let limits =
        [("tokens", "tokensPerMinute"), ("output", "outputTokensPerMinute"), ("input", "inputTokensPerMinute")];
    let stage = Stage::start(|mock| {
        let key = |(name, field): &(&str, &str)| {
            objects::key(name, &objects::key_text(name)).set("spec.limits", json!({*field: 100}))
        };
        [objects::deployment("m", mock)].into_iter().chain(limits.iter().map(key)).collect()
    })
    .await;
    let body = json!({"model": "m", "max_tokens": 5000, "messages": [{"role": "user", "content": "x".repeat(1000)}]});
    let ask = |name: &str| stage.gateway.chat("m").key(&objects::key_text(name)).json(&body);
    for (name, _) in limits {
        stage.mock.script("up-m", [Step::usage("x", Tokens::new(30, 30)).gate(name), Step::usual()]);
        let first = tokio::spawn(ask(name).send());
        stage.mock.wait_at_gate(name, 1).await;
        // While it is not known what it uses, it has all of the limit.
        ask(name).send().await.expect(429);
        stage.mock.open_gate(name);
        first.await.expect("it ends").expect(200);
        let small = json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]});
        let reply = stage.gateway.chat("m").key(&objects::key_text(name)).json(&small).send().await;
        assert_eq!(reply.status, 200, "{name}: the real count is what it used: {}", reply.text());
    }
    stage.finish().await;
}

#[tokio::test]
async fn calls_at_once_of_a_key_and_a_stream_counts_until_it_ends() {
    let stage = Stage::start(|mock| {
        vec![objects::deployment("m", mock), objects::caller().set("spec.limits", json!({"parallelRequests": 2}))]
    })
    .await;
    stage.mock.script("up-m", [Step::usual().gate("open").repeat(2)]);
    let unary = tokio::spawn(stage.gateway.chat("m").send());
    let stream = tokio::spawn(async_stream(stage.gateway.chat_stream("m")));
    stage.mock.wait_at_gate("open", 2).await;
    let reply = stage.gateway.chat("m").send().await.expect(429);
    rate_limited(&reply, "api_key", "max_parallel_requests");
    stage.mock.open_gate("open");
    unary.await.expect("it ends").expect(200);
    stream.await.expect("it ends");
    stage.gateway.chat("m").send().await.expect(200);
    stage.finish().await;
}

async fn async_stream(call: tollgate_harness::Call) {
    call.stream().await.rest().await;
}

#[tokio::test]
async fn a_slot_comes_back_when_its_client_leaves() {
    let stage = Stage::start(|mock| {
        vec![objects::deployment("m", mock), objects::caller().set("spec.limits", json!({"parallelRequests": 1}))]
    })
    .await;
    let cut =
        tollgate_harness::Cut { after_events: Some(2), how: tollgate_harness::CutHow::Hang, ..Default::default() };
    stage.mock.script("up-m", [tollgate_harness::Reply { cut: Some(cut), ..Default::default() }]);
    let mut stream = stage.gateway.chat_stream("m").stream().await;
    stream.next().await.expect("an event");
    stage.gateway.chat("m").send().await.expect(429);
    drop(stream);
    stage.mock.wait_for_invoice(1).await;
    stage.gateway.chat("m").send().await.expect(200);
    stage.finish_flagged().await;
}

#[tokio::test]
async fn a_slot_is_free_when_its_client_is_gone_though_the_provider_works_on() {
    let stage = Stage::start(|mock| {
        let limited = json!({"parallelRequests": 1});
        let budget = json!({"limit": "100", "period": {"lifetime": {}}});
        vec![
            objects::deployment("m", mock),
            objects::deployment("one", mock).set("spec.limits", limited.clone()),
            objects::caller().set("spec.limits", limited).set("spec.budget", budget),
        ]
    })
    .await;
    let gone = async |stage: &Stage, count: usize| {
        let seen = async {
            while !stage.gateway.metrics().await.contains(&format!("tollgate_client_gone_total {count}\n")) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tollgate_harness::patiently("the client to be gone", seen).await;
    };
    // A stream that a hard budget reads on, and calls that nothing was answered to.
    let cut = tollgate_harness::Cut {
        after_events: Some(2),
        how: tollgate_harness::CutHow::Gate("stream".into()),
        ..Default::default()
    };
    stage.mock.script(
        "up-m",
        [tollgate_harness::Reply { cut: Some(cut), ..Default::default() }.into(), Step::usual().gate("on").repeat(2)],
    );
    let mut stream = stage.gateway.chat_stream("m").stream().await;
    stream.next().await.expect("an event");
    stage.gateway.chat("m").send().await.expect(429);
    drop(stream);
    gone(&stage, 1).await;
    for (count, call) in [(1, stage.gateway.chat("m")), (2, stage.gateway.chat_stream("m"))] {
        let call = tokio::spawn(async move { drop(call.try_send().await) });
        stage.mock.wait_at_gate("on", count).await;
        call.abort();
        gone(&stage, count + 1).await;
    }
    // The provider works for it all the same.
    stage.mock.script("up-one", [Step::usual().gate("on")]);
    let call = stage.gateway.chat("one");
    let call = tokio::spawn(async move { drop(call.try_send().await) });
    stage.mock.wait_at_gate("on", 3).await;
    call.abort();
    gone(&stage, 4).await;
    let full = stage.gateway.chat("one").send().await.expect(429);
    assert_eq!(full.header("x-tollgate-error"), Some("deployments_full"));
    stage.gateway.chat("m").send().await.expect(200);
    stage.mock.open_gate("stream");
    stage.mock.open_gate("on");
    stage.finish().await;
}

#[tokio::test]
async fn limits_per_model_of_a_key() {
    let stage = Stage::start(|mock| {
        let limits = json!({"requestsPerMinute": 100, "perModel": [{"model": "a", "requestsPerMinute": 1}]});
        vec![
            objects::deployment("m", mock).set("spec.modelNames", json!(["a", "b"])),
            objects::caller().set("spec.limits", limits),
        ]
    })
    .await;
    let reply = stage.gateway.chat("a").send().await.expect(200);
    assert_eq!(reply.header("x-ratelimit-model_per_key-remaining-requests"), Some("0"));
    assert_eq!(reply.header("x-litellm-key-remaining-requests-a"), Some("0"), "HDR-7");
    let reply = stage.gateway.chat("a").send().await.expect(429);
    rate_limited(&reply, "model_per_key", "requests");
    let reply = stage.gateway.chat("b").send().await.expect(200);
    assert_eq!(reply.header("x-ratelimit-api_key-remaining-requests"), Some("98"), "a refused call counts nowhere");
    stage.finish().await;
}

#[tokio::test]
async fn clients_of_anthropic_are_told_in_its_words() {
    let stage = Stage::start(|mock| {
        let limits = json!({"requestsPerMinute": 1, "tokensPerMinute": 5000, "outputTokensPerMinute": 4000});
        vec![objects::anthropic("a", mock), objects::caller().set("spec.limits", limits)]
    })
    .await;
    stage.mock.script("up-a", [Step::usage("x", Tokens::new(90, 10))]);
    let told = |reply: &Response, kind: &str| {
        let field = |what: &str| reply.header(&format!("anthropic-ratelimit-{kind}-{what}")).map(str::to_owned);
        let reset = field("reset");
        let is_time = |reset: &str| reset.starts_with("20") && reset.len() == "2026-01-31T12:00:00Z".len();
        assert!(reset.as_deref().is_none_or(is_time), "{reset:?}");
        assert_eq!(reset.is_some(), field("limit").is_some());
        field("limit").zip(field("remaining"))
    };
    let numbers = |limit: &str, remaining: &str| Some((limit.to_owned(), remaining.to_owned()));
    let reply = stage.gateway.message("a").send().await.expect(200);
    assert_eq!(told(&reply, "requests"), numbers("1", "0"));
    assert_eq!(told(&reply, "tokens"), numbers("5000", "4900"));
    assert_eq!(told(&reply, "output-tokens"), numbers("4000", "3990"));
    assert_eq!(told(&reply, "input-tokens"), None);
    let reply = stage.gateway.message("a").send().await.expect(429);
    assert_eq!((told(&reply, "requests"), told(&reply, "tokens")), (numbers("1", "0"), None));
    let reply = stage.gateway.chat("a").send().await.expect(429);
    assert_eq!(told(&reply, "requests"), None, "in OpenAI's words");
    stage.finish().await;
}

#[tokio::test]
async fn to_count_tokens_counts_as_a_request_and_no_tokens() {
    let stage = Stage::start(|mock| {
        let limits = json!({"requestsPerMinute": 3, "tokensPerMinute": 10});
        vec![
            objects::anthropic("native", mock),
            objects::deployment("other", mock),
            objects::caller().set("spec.limits", limits),
        ]
    })
    .await;
    let ask = |model: &str| {
        let said = "Hello ".repeat(100);
        let body = json!({"model": model, "messages": [{"role": "user", "content": said}]});
        stage.gateway.post("/v1/messages/count_tokens").key(tollgate_harness::KEY).json(&body)
    };
    let reply = ask("native").send().await.expect(200);
    assert_eq!(reply.header("x-ratelimit-api_key-remaining-requests"), Some("2"));
    assert_eq!(reply.header("x-ratelimit-api_key-remaining-tokens"), Some("10"));
    ask("other").send().await.expect(200);
    ask("native").send().await.expect(200);
    for model in ["native", "other"] {
        let reply = ask(model).send().await.expect(429);
        assert_eq!(reply.json()["type"], "error");
        rate_limited(&reply, "api_key", "requests");
    }
    assert_eq!(stage.mock.requests().len(), 2);
    stage.finish().await;
}

#[tokio::test]
async fn limits_of_a_team_are_shared_by_its_keys() {
    let stage = Stage::start(|mock| {
        let member =
            |name: &str| objects::key(name, &objects::key_text(name)).set("spec.teamRef", json!({"name": "squad"}));
        let team = objects::team("squad").set("spec.limits", json!({"requestsPerMinute": 2}));
        vec![objects::deployment("m", mock), team, member("one"), member("two")]
    })
    .await;
    let ask = |name: &str| stage.gateway.chat("m").key(&objects::key_text(name)).send();
    ask("one").await.expect(200);
    let reply = ask("two").await.expect(200);
    assert_eq!(reply.header("x-ratelimit-team-remaining-requests"), Some("0"));
    rate_limited(&ask("one").await.expect(429), "team", "requests");
    stage.finish().await;
}

#[tokio::test]
async fn a_team_gives_its_keys_limits() {
    let stage = Stage::start(|mock| {
        let member =
            |name: &str| objects::key(name, &objects::key_text(name)).set("spec.teamRef", json!({"name": "squad"}));
        let team = objects::team("squad").set("spec.keyDefaults", json!({"limits": {"requestsPerMinute": 1}}));
        vec![objects::deployment("m", mock), team, member("one"), member("two")]
    })
    .await;
    for name in ["one", "two"] {
        stage.gateway.chat("m").key(&objects::key_text(name)).send().await.expect(200);
        stage.gateway.chat("m").key(&objects::key_text(name)).send().await.expect(429);
    }
    stage.finish().await;
}

#[tokio::test]
async fn a_full_deployment_is_passed_over() {
    let stage = Stage::start(|mock| {
        let small = objects::deployment("small", mock).set("spec.limits", json!({"requestsPerMinute": 2}));
        let large = objects::deployment("large", mock).set("spec.priority", 1);
        vec![small.set("spec.modelNames", json!(["both"])), large.set("spec.modelNames", json!(["both"]))]
    })
    .await;
    for _ in 0..5 {
        stage.gateway.chat("both").send().await.expect(200);
    }
    let models: Vec<String> =
        stage.mock.requests().iter().map(|seen| seen.json()["model"].as_str().expect("a model").to_owned()).collect();
    assert_eq!(models, ["up-small", "up-small", "up-large", "up-large", "up-large"]);
    stage.finish().await;
}

#[tokio::test]
async fn a_lone_deployment_that_is_full_is_429_with_a_time() {
    let stage =
        Stage::start(|mock| vec![objects::deployment("m", mock).set("spec.limits", json!({"parallelRequests": 1}))])
            .await;
    stage.mock.script("up-m", [Step::usual().gate("open")]);
    let first = tokio::spawn(stage.gateway.chat("m").send());
    stage.mock.wait_at_gate("open", 1).await;
    let reply = stage.gateway.chat("m").send().await.expect(429);
    assert!(reply.header("retry-after").is_some());
    stage.mock.open_gate("open");
    first.await.expect("it ends").expect(200);
    stage.finish().await;
}

#[tokio::test]
async fn limits_hold_under_concurrency() {
    let stage = Stage::start(|mock| {
        vec![objects::deployment("m", mock), objects::caller().set("spec.limits", json!({"requestsPerMinute": 20}))]
    })
    .await;
    let calls: Vec<_> = (0..60).map(|_| tokio::spawn(stage.gateway.chat("m").send())).collect();
    let mut statuses = Vec::new();
    for call in calls {
        statuses.push(call.await.expect("it ends").status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 20);
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 40);
    stage.finish().await;
}

#[tokio::test]
async fn counts_survive_an_edit_of_the_configuration() {
    let mut stage = Stage::start(|mock| {
        vec![objects::deployment("m", mock), objects::caller().set("spec.limits", json!({"requestsPerMinute": 1}))]
    })
    .await;
    stage.gateway.chat("m").send().await.expect(200);
    stage.edit(|objects| objects.push(objects::key("another", &objects::key_text("another")))).await;
    stage.gateway.chat("m").send().await.expect(429);
    stage.finish().await;
}

#[tokio::test]
async fn the_master_key_has_no_limits() {
    let stage = Stage::start(|mock| {
        vec![objects::deployment("m", mock), objects::caller().set("spec.limits", json!({"requestsPerMinute": 1}))]
    })
    .await;
    for _ in 0..5 {
        stage.gateway.chat("m").key(tollgate_harness::MASTER_KEY).send().await.expect(200);
    }
    stage.finish().await;
}
