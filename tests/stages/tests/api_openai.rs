//! What OpenAI's and Azure's clients send and get (litellm.md API-1, 2, 3, 5, 7, 8, 27; clients.md 4.2).

use base64::Engine;
use tollgate_harness::{
    Action, Cut, CutHow, Event, KEY, MASTER_KEY, Reply, Stage, Step, Tokens, ToolCall, UsageScript, Value, json,
    objects,
};

fn data(events: &[Event]) -> Vec<Value> {
    events.iter().filter(|event| !event.data.is_empty() && !event.is_done()).map(Event::json).collect()
}

fn said(events: &[Event]) -> String {
    data(events)
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn a_reply_has_the_name_that_was_asked_for_and_the_provider_the_name_it_knows() {
    let stage = Stage::one().await;
    let reply = stage.gateway.chat("m").send().await.expect(200);
    assert_eq!(reply.json()["model"], "m");
    assert_eq!(stage.last_seen().json()["model"], "up-m");
    assert_eq!(reply.header("content-type"), Some("application/json"));
    stage.finish().await;
}

#[tokio::test]
async fn every_byte_of_a_request_but_its_model_reaches_the_provider() {
    let stage = Stage::one().await;
    let body = |model: &str| {
        format!(
            "{{ \"zeta\":1.50e+02,\"model\" : \"{model}\", \"big\":12345678901234567890123, \"messages\":[{{\"content\":\"h\\u00e9\\/llo\",\
             \"role\":\"user\",\"x_unknown\":{{\"b\":1,\"a\":[1.0,-0]}}}}],\n\t\"temperature\":0.10,\"top_k\":5, \"unknown_param\": null}}"
        )
    };
    let sent =
        stage.gateway.post("/v1/chat/completions").key(KEY).header("content-type", "application/json").body(body("m"));
    sent.send().await.expect(200);
    assert_eq!(String::from_utf8_lossy(&stage.last_seen().body), body("up-m"));
    stage.finish().await;
}

#[tokio::test]
async fn every_byte_of_a_reply_but_its_model_reaches_the_client() {
    let stage = Stage::one().await;
    let body = |model: &str| {
        format!(
            "{{\"id\":\"x\", \"extra_field\" : {{\"z\":1.10,\"a\":1e5}},\"model\":\"{model}\",\n \"choices\":[{{\"index\":0,\"message\":\
             {{\"role\":\"assistant\",\"content\":\"\\u00fc\\/\"}},\"finish_reason\":\"stop\"}}],\
             \"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}, \"created\":1700000000}}"
        )
    };
    let reply = Reply { body: Some(body("up-m-2025-01-01").into()), bill: Some(Tokens::new(7, 3)), ..Reply::default() };
    stage.mock.script("up-m", [reply]);
    let reply = stage.gateway.chat("m").send().await.expect(200);
    assert_eq!(reply.text(), body("m"));
    stage.finish().await;
}

#[tokio::test]
async fn a_stream_has_the_name_that_was_asked_for_in_every_chunk() {
    let stage = Stage::one().await;
    stage.mock.script("up-m", [Step::text("one two three")]);
    let mut stream = stage.gateway.chat_stream("m").stream().await;
    let events = stream.rest().await;
    assert_eq!(said(&events), "one two three");
    assert!(data(&events).iter().all(|chunk| chunk["model"] == "m"), "{}", stream.text());
    assert_eq!(stage.last_seen().json()["model"], "up-m");
    stage.finish().await;
}

#[tokio::test]
async fn a_stream_is_shaped_as_the_sdks_want_it() {
    let stage = Stage::one().await;
    let mut stream = stage.gateway.chat_stream("m").stream().await;
    assert_eq!(stream.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(stream.header("cache-control"), Some("no-cache"));
    assert_eq!(stream.header("x-accel-buffering"), Some("no"));
    assert_eq!((stream.header("content-length"), stream.header("content-encoding")), (None, None));
    let events = stream.rest().await;
    assert!(!stream.broken);
    assert!(stream.text().ends_with("data: [DONE]\n\n"), "{}", stream.text());
    assert_eq!(events.iter().filter(|event| event.is_done()).count(), 1);
    for event in &events {
        assert_eq!(
            (&event.name, &event.id, &event.retry),
            (&None, &None, &None),
            "OpenAI's streams have data lines only"
        );
    }
    for chunk in data(&events) {
        assert!(chunk["choices"].is_array(), "a chunk without choices ends the run of some clients: {chunk}");
    }
    stage.finish().await;
}

#[tokio::test]
async fn the_usage_chunk_reaches_only_those_who_asked_but_is_always_asked_for() {
    let stage = Stage::one().await;
    let mut stream = stage.gateway.chat_stream("m").stream().await;
    let events = stream.rest().await;
    assert_eq!(stage.last_seen().json()["stream_options"]["include_usage"], true);
    for chunk in data(&events) {
        assert!(
            chunk["usage"].is_null() && chunk["choices"].as_array().is_some_and(|choices| !choices.is_empty()),
            "{chunk}"
        );
    }

    let body = json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}, "messages": [{"role": "user", "content": "Hi"}]});
    let mut stream = stage.gateway.chat("m").json(&body).stream().await;
    let chunks = data(&stream.rest().await);
    let last = chunks.last().expect("chunks");
    assert_eq!(last["choices"], json!([]));
    assert!(last["usage"]["prompt_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{last}");
    assert!(chunks[..chunks.len() - 1].iter().all(|chunk| chunk["usage"].is_null()));
    stage.finish().await;
}

#[tokio::test]
async fn usage_that_the_client_declined_is_asked_for_and_left_out_again() {
    let stage = Stage::one().await;
    let body = json!({"model": "m", "stream": true, "stream_options": {"include_usage": false, "x": 1}, "messages": [{"role": "user", "content": "Hi"}]});
    let mut stream = stage.gateway.chat("m").json(&body).stream().await;
    let events = stream.rest().await;
    assert!(data(&events).iter().all(|chunk| chunk["usage"].is_null()), "{}", stream.text());
    assert_eq!(stage.last_seen().json()["stream_options"], json!({"include_usage": true, "x": 1}));
    stage.finish().await;
}

#[tokio::test]
async fn events_are_passed_on_when_they_come_and_not_collected() {
    let stage = Stage::one().await;
    let cut = Cut { after_events: Some(3), how: CutHow::Gate("rest".into()), ..Cut::default() };
    stage.mock.script("up-m", [Reply { text: Some("a b c d e f".into()), cut: Some(cut), ..Reply::default() }]);
    let mut stream = stage.gateway.chat_stream("m").stream().await;
    stage.mock.wait_at_gate("rest", 1).await;
    let early = [stream.next().await.expect("an event"), stream.next().await.expect("an event")];
    assert!(said(&early).starts_with('a'), "{early:?}");
    stage.mock.open_gate("rest");
    assert!(stream.rest().await.last().is_some_and(Event::is_done));
    stage.finish().await;
}

#[tokio::test]
async fn streams_of_any_framing_arrive_whole() {
    use tollgate_harness::Separator;
    let stage = Stage::one().await;
    let replies = [
        Reply { write_bytes: Some(1), ..Reply::default() },
        Reply { write_bytes: Some(7), separator: Separator::CrLf, ..Reply::default() },
        Reply { comment: Some("keep".into()), ..Reply::default() },
        Reply { padding_bytes: 100_000, ..Reply::default() },
        Reply { usage_at: tollgate_harness::UsageAt::Twice, ..Reply::default() },
    ];
    for reply in replies {
        stage.mock.script("up-m", [Reply { text: Some("eins zwei drei ü".into()), ..reply }]);
        let mut stream = stage.gateway.chat_stream("m").stream().await;
        let events = stream.rest().await;
        assert_eq!(said(&events), "eins zwei drei ü", "{}", stream.text());
        assert!(events.last().is_some_and(Event::is_done), "{}", stream.text());
    }
    stage.finish().await;
}

#[tokio::test]
async fn an_error_before_the_first_event_is_an_ordinary_error() {
    let stage = Stage::one().await;
    stage.mock.script("up-m", [Step::error(500).repeat(3)]);
    let reply = stage.gateway.chat_stream("m").send().await.expect(500);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert!(reply.json()["error"]["message"].is_string());
    stage.finish().await;
}

#[tokio::test]
async fn a_cut_in_mid_stream_is_an_error_chunk_and_done_with_status_200() {
    let stage = Stage::one().await;
    for how in [CutHow::Close, CutHow::Reset] {
        let cut = Cut { after_events: Some(3), how, ..Cut::default() };
        stage.mock.script("up-m", [Reply { text: Some("a b c d e f".into()), cut: Some(cut), ..Reply::default() }]);
        let mut stream = stage.gateway.chat_stream("m").stream().await;
        let events = stream.rest().await;
        assert!(!stream.broken, "the HTTP answer itself ends well");
        let [.., error, done] = &events[..] else { panic!("{events:?}") };
        assert!(done.is_done());
        let error = &error.json()["error"];
        assert!(
            error["message"].is_string() && error["code"].is_string() && error["type"] == "internal_server_error",
            "{error}"
        );
        assert!(said(&events[..events.len() - 2]).starts_with('a'), "what came before was passed on");
    }
    stage.finish_flagged().await;
}

#[tokio::test]
async fn an_error_event_of_the_provider_reaches_the_client_once() {
    let stage = Stage::one().await;
    let cut = Cut { after_events: Some(2), how: CutHow::Error, ..Cut::default() };
    stage.mock.script("up-m", [Reply { text: Some("a b c".into()), cut: Some(cut), ..Reply::default() }]);
    let mut stream = stage.gateway.chat_stream("m").stream().await;
    let events = stream.rest().await;
    let errors = data(&events).iter().filter(|chunk| chunk["error"].is_object()).count();
    assert_eq!(errors, 1, "{}", stream.text());
    stage.finish_flagged().await;
}

#[tokio::test]
async fn a_silent_stream_ends_with_an_error_after_the_idle_timeout() {
    let stage =
        Stage::start(|mock| vec![objects::deployment("m", mock).set("spec.timeouts", json!({"idle": "300ms"}))]).await;
    let cut = Cut { after_events: Some(2), how: CutHow::Hang, ..Cut::default() };
    stage.mock.script("up-m", [Reply { text: Some("a b c".into()), cut: Some(cut), ..Reply::default() }]);
    let mut stream = stage.gateway.chat_stream("m").stream().await;
    let events = stream.rest().await;
    assert!(data(&events).iter().any(|chunk| chunk["error"].is_object()), "{}", stream.text());
    assert!(events.last().is_some_and(Event::is_done));
    stage.mock.wait_for_in_flight(0).await;
    stage.finish_flagged().await;
}

#[tokio::test]
async fn tools_and_parallel_calls_pass_through() {
    let stage = Stage::one().await;
    let calls = ["first", "second"].map(|name| ToolCall {
        name: name.into(),
        arguments: Some(json!({"q": name})),
        ..ToolCall::default()
    });
    let reply = Reply { tool_calls: calls.to_vec(), ..Reply::default() };
    stage.mock.script("up-m", [reply.clone(), reply]);
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}});
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "tools": [tool("first"), tool("second")]});
    let unary = stage.gateway.chat("m").json(&body).send().await.expect(200).json();
    assert_eq!(unary["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(unary["choices"][0]["message"]["tool_calls"].as_array().map(Vec::len), Some(2));
    body["stream"] = json!(true);
    let chunks = data(&stage.gateway.chat("m").json(&body).stream().await.rest().await);
    let deltas: Vec<&Value> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array()).flatten().collect();
    assert!(deltas.iter().all(|delta| delta["index"].is_u64()));
    let arguments = |index: u64| -> String {
        deltas
            .iter()
            .filter(|delta| delta["index"] == index)
            .filter_map(|delta| delta["function"]["arguments"].as_str())
            .collect()
    };
    assert_eq!((arguments(0).as_str(), arguments(1).as_str()), (r#"{"q":"first"}"#, r#"{"q":"second"}"#));
    stage.finish().await;
}

#[tokio::test]
async fn text_completions_reach_providers_that_have_them() {
    let stage = Stage::one().await;
    let body = json!({"model": "m", "prompt": ["one", "two"], "max_tokens": 5});
    let reply = stage.gateway.post("/v1/completions").key(KEY).json(&body).send().await.expect(200).json();
    assert_eq!((&reply["object"], &reply["model"]), (&json!("text_completion"), &json!("m")));
    assert_eq!(stage.last_seen().path, "/v1/completions");
    assert_eq!(stage.last_seen().json()["prompt"], json!(["one", "two"]));
    let body = json!({"model": "m", "prompt": [1, 2, 3], "stream": true});
    let mut stream = stage.gateway.post("/v1/completions").key(KEY).json(&body).stream().await;
    let chunks = data(&stream.rest().await);
    assert!(chunks.iter().all(|chunk| chunk["choices"][0]["text"].is_string()), "{}", stream.text());
    stage.finish().await;
}

#[tokio::test]
async fn text_completions_are_bridged_to_providers_that_only_chat() {
    let stage = Stage::start(|mock| vec![objects::anthropic("m", mock)]).await;
    stage.mock.script("up-m", [Step::text("bridged answer"), Step::text("bridged answer")]);
    let body = json!({"model": "m", "prompt": "Say something", "max_tokens": 20});
    let reply = stage.gateway.post("/v1/completions").key(KEY).json(&body).send().await.expect(200).json();
    assert_eq!(reply["object"], "text_completion");
    assert_eq!(reply["choices"][0]["text"], "bridged answer");
    assert_eq!(stage.last_seen().path, "/v1/messages");
    let body = json!({"model": "m", "prompt": "Say something", "max_tokens": 20, "stream": true});
    let mut stream = stage.gateway.post("/v1/completions").key(KEY).json(&body).stream().await;
    let events = stream.rest().await;
    let text: String =
        data(&events).iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str().map(str::to_owned)).collect();
    assert_eq!(text, "bridged answer", "{}", stream.text());
    assert!(events.last().is_some_and(Event::is_done));
    stage.finish().await;
}

#[tokio::test]
async fn embeddings_take_texts_token_arrays_and_base64() {
    let stage = Stage::one().await;
    let embed = |body: Value| stage.gateway.post("/v1/embeddings").key(KEY).json(&body).send();
    let reply = embed(json!({"model": "m", "input": "hello", "dimensions": 4})).await.expect(200).json();
    assert_eq!((&reply["model"], &reply["object"]), (&json!("m"), &json!("list")));
    assert_eq!(reply["data"][0]["embedding"].as_array().map(Vec::len), Some(4));

    let reply = embed(json!({"model": "m", "input": ["a", "b"], "dimensions": 4, "encoding_format": "base64"}))
        .await
        .expect(200)
        .json();
    let encoded = reply["data"][1]["embedding"].as_str().expect("base64 when it is asked for");
    assert_eq!(base64::engine::general_purpose::STANDARD.decode(encoded).expect("base64").len(), 16);

    embed(json!({"model": "m", "input": [[1, 2, 3], [4]], "dimensions": 4})).await.expect(200);
    assert_eq!(stage.last_seen().json()["input"], json!([[1, 2, 3], [4]]), "token arrays pass as they are");
    assert_eq!(stage.last_seen().path, "/v1/embeddings");
    stage.finish().await;
}

#[tokio::test]
async fn embeddings_of_a_provider_without_them_are_refused_in_words() {
    let stage = Stage::start(|mock| vec![objects::anthropic("m", mock)]).await;
    let reply = stage
        .gateway
        .post("/v1/embeddings")
        .key(KEY)
        .json(&json!({"model": "m", "input": "x"}))
        .send()
        .await
        .expect(400);
    assert!(
        reply.json()["error"]["message"].as_str().is_some_and(|text| text.contains("embeddings")),
        "{}",
        reply.text()
    );
    assert!(stage.mock.requests().is_empty());
    stage.finish().await;
}

#[tokio::test]
async fn lists_of_models_show_what_the_key_may_call() {
    let stage = Stage::start(|mock| {
        vec![
            objects::deployment("alpha", mock),
            objects::deployment("beta", mock),
            objects::deployment("wild", mock).set("spec.modelNames", json!(["wild-*"])),
            objects::key("narrow", &objects::key_text("narrow"))
                .set("spec.models", json!(["alpha"]))
                .set("spec.modelAliases", json!({"fast": "alpha"})),
        ]
    })
    .await;
    let ids = |reply: &Value| -> Vec<String> {
        reply["data"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|row| row["id"].as_str().expect("ids").to_owned())
            .collect()
    };
    let all = stage.gateway.get("/v1/models").key(KEY).send().await.expect(200).json();
    assert_eq!(all["object"], "list");
    assert_eq!(ids(&all), ["alpha", "beta"]);
    for row in all["data"].as_array().expect("a list") {
        assert_eq!(
            (&row["object"], &row["created"], &row["owned_by"]),
            (&json!("model"), &json!(1_677_610_602), &json!("openai"))
        );
    }
    let narrow = objects::key_text("narrow");
    for path in ["/v1/models", "/models", "/openai/v1/models"] {
        assert_eq!(
            ids(&stage.gateway.get(path).key(&narrow).send().await.expect(200).json()),
            ["alpha", "fast"],
            "{path}"
        );
    }
    assert_eq!(
        ids(&stage.gateway.get("/v1/models").key(MASTER_KEY).send().await.expect(200).json()),
        ["alpha", "beta"]
    );
    stage.gateway.get("/v1/models/alpha").key(&narrow).send().await.expect(200);
    stage.gateway.get("/v1/models/beta").key(&narrow).send().await.expect(404);
    stage.gateway.get("/v1/models").send().await.expect(401);
    stage.finish().await;
}

#[tokio::test]
async fn every_alias_of_a_path_works() {
    let stage =
        Stage::start(|mock| vec![objects::deployment("m", mock).set("spec.modelNames", json!(["m", "org/m"]))]).await;
    for (path, model) in [
        ("/v1/chat/completions", Some("m")),
        ("/chat/completions", Some("m")),
        ("/openai/v1/chat/completions", Some("m")),
        ("/openai/deployments/m/chat/completions?api-version=2025-03-01-preview", None),
        ("/openai/deployments/org%2Fm/chat/completions", None),
        ("/openai/deployments/org/m/chat/completions", None),
        ("/engines/m/chat/completions", None),
        ("/v1/engines/m/chat/completions", None),
    ] {
        let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
        if let Some(model) = model {
            body["model"] = json!(model);
        }
        let reply = stage.gateway.post(path).key(KEY).json(&body).send().await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        assert_eq!(stage.last_seen().json()["model"], "up-m", "{path}");
        assert_eq!(stage.last_seen().query, "", "the client's query is its own");
    }
    stage.finish().await;
}

#[tokio::test]
async fn azure_clients_name_the_model_in_the_path_and_send_api_key() {
    let stage = Stage::one().await;
    let path = "/openai/deployments/m/chat/completions?api-version=2025-03-01-preview";
    let body = json!({"messages": [{"role": "user", "content": "Hi"}]});
    let reply = stage.gateway.post(path).header("api-key", KEY).json(&body).send().await.expect(200);
    assert_eq!(reply.json()["model"], "m");
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "stream": true});
    let mut stream = stage.gateway.post(path).header("api-key", KEY).json(&body).stream().await;
    assert!(stream.rest().await.last().is_some_and(Event::is_done));
    let body = json!({"input": "x", "dimensions": 4});
    stage
        .gateway
        .post("/openai/deployments/m/embeddings?api-version=1")
        .header("api-key", KEY)
        .json(&body)
        .send()
        .await
        .expect(200);
    let error = stage
        .gateway
        .post(path)
        .header("api-key", "sk-wrong-0123456789abcdef")
        .json(&body)
        .send()
        .await
        .expect(401)
        .json();
    assert!(error["error"]["code"].is_string(), "Azure's errors have OpenAI's shape: {error}");
    stage.finish().await;
}

#[tokio::test]
async fn the_model_of_the_path_wins_over_what_the_body_says() {
    let stage = Stage::start(|mock| {
        let openai = objects::deployment("m", mock).set("spec.modelNames", json!(["m", "up-m"]));
        vec![openai, objects::anthropic("claude", mock), objects::azure("az", mock)]
    })
    .await;
    for (path, model, upstream) in
        [("m", "m", "up-m"), ("up-m", "up-m", "up-m"), ("claude", "claude", "up-claude"), ("az", "az", "up-az")]
    {
        for said in [None, Some(json!(null)), Some(json!("whatever")), Some(json!(upstream))] {
            let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
            if let Some(said) = &said {
                body["model"] = said.clone();
            }
            let path = format!("/openai/deployments/{path}/chat/completions?api-version=2025-03-01-preview");
            let reply = stage.gateway.post(&path).key(KEY).json(&body).send().await.expect(200);
            assert_eq!(reply.json()["model"], model, "{path} {said:?}");
            assert_eq!(stage.last_seen().json()["model"], upstream, "{path} {said:?}");
        }
    }
    let body = json!({"model": null, "messages": [{"role": "user", "content": "Hi"}]});
    let error = stage.gateway.post("/v1/chat/completions").key(KEY).json(&body).send().await.expect(400);
    assert_eq!(error.header("x-tollgate-error"), Some("model_missing"));
    stage.finish().await;
}

#[tokio::test]
async fn azure_providers_get_their_deployment_in_the_path_and_their_key_in_api_key() {
    let stage = Stage::start(|mock| vec![objects::azure("az", mock)]).await;
    let reply = stage.gateway.chat("az").send().await.expect(200);
    assert_eq!(reply.json()["model"], "az");
    let seen = stage.last_seen();
    assert_eq!(seen.path, "/openai/deployments/up-az/chat/completions");
    assert_eq!(seen.query, "api-version=2025-04-01-preview");
    assert_eq!((seen.header("api-key"), seen.header("authorization")), (Some(tollgate_harness::UPSTREAM_KEY), None));
    let mut stream = stage.gateway.chat_stream("az").stream().await;
    let events = stream.rest().await;
    assert!(events.last().is_some_and(Event::is_done));
    assert!(data(&events).iter().all(|chunk| chunk["choices"].is_array()));
    stage.finish().await;
}

#[tokio::test]
async fn deployment_parameters_are_defaults_forced_or_dropped() {
    let parameters =
        json!({"defaults": {"temperature": 0.2, "seed": 7}, "forced": {"top_p": 0.9}, "drop": ["logit_bias"]});
    let stage = Stage::start(|mock| vec![objects::deployment("m", mock).set("spec.parameters", parameters)]).await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 1, "top_p": 0.1, "logit_bias": {"1": 1}});
    stage.gateway.chat("m").json(&body).send().await.expect(200);
    let seen = stage.last_seen().json();
    assert_eq!((&seen["temperature"], &seen["seed"], &seen["top_p"]), (&json!(1), &json!(7), &json!(0.9)));
    assert!(seen.get("logit_bias").is_none());
    stage.finish().await;
}

#[tokio::test]
async fn cached_and_reasoning_tokens_are_booked_as_the_provider_reports_them() {
    let stage = Stage::one().await;
    let tokens = Tokens { input: 1000, output: 500, cache_read: 600, reasoning: 300, ..Tokens::default() };
    stage.mock.script("up-m", [Step::usage("x", tokens), Step::usage("x", tokens)]);
    let reply = stage.gateway.chat("m").send().await.expect(200);
    // 400 × 2,500 + 600 × 250 + 500 × 10,000 nano-USD.
    assert_eq!(reply.header("x-litellm-response-cost").map(|cost| cost.trim_end_matches('0')), Some("0.00615"));
    stage.gateway.chat_stream("m").stream().await.rest().await;
    let rows = stage.finish().await;
    assert!(rows.iter().all(|row| row.cost_nano_usd == 6_150_000 && row.reasoning_tokens == 300), "{rows:#?}");
}

#[tokio::test]
async fn a_reply_without_usage_is_booked_as_an_estimate() {
    let stage = Stage::one().await;
    let silent = Reply { usage: UsageScript::Missing, ..Reply::default() };
    stage.mock.script("up-m", [silent.clone(), silent]);
    stage.gateway.chat("m").send().await.expect(200);
    stage.gateway.chat_stream("m").stream().await.rest().await;
    let rows = stage.finish_flagged().await;
    assert_eq!(rows.iter().map(|row| row.outcome.as_str()).collect::<Vec<_>>(), ["estimated", "estimated"]);
    assert!(rows.iter().all(|row| row.cost_nano_usd > 0));
}

#[tokio::test]
async fn a_client_that_leaves_stops_the_provider_and_is_booked() {
    let stage = Stage::one().await;
    let cut = Cut { after_events: Some(3), how: CutHow::Gate("never".into()), ..Cut::default() };
    stage.mock.script(
        "up-m",
        [Step::from(Action::Reply(Box::new(Reply {
            text: Some("a b c d e".into()),
            cut: Some(cut),
            ..Reply::default()
        })))],
    );
    let mut stream = stage.gateway.chat_stream("m").stream().await;
    stream.next().await.expect("an event");
    drop(stream);
    let rows = stage.mock.wait_for_invoice(1).await;
    assert!(rows[0].client_gone, "the provider's connection was closed: {rows:?}");
    let rows = stage.finish_flagged().await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].outcome, "estimated");
}
