//! Anthropic's dialect in and out, and crossings with OpenAI's (litellm.md API-15, 16; clients.md 4.2 rows 6, 7, 8, 15).

use tollgate_harness::{Cut, CutHow, Event, KEY, Reply, Stage, Step, ToolCall, Value, json, objects};

async fn claude() -> Stage {
    Stage::start(|mock| vec![objects::anthropic("claude", mock)]).await
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().filter_map(|event| event.name.as_deref()).collect()
}

/// Anthropic's order: start, blocks one after the other, delta, stop; pings anywhere.
fn assert_anthropic_order(events: &[Event]) {
    let names: Vec<&str> = names(events).into_iter().filter(|name| *name != "ping").collect();
    assert_eq!(
        names.len(),
        events.iter().filter(|event| event.name.as_deref() != Some("ping")).count(),
        "every event is named"
    );
    assert_eq!(
        (names[0], names[names.len() - 2], names[names.len() - 1]),
        ("message_start", "message_delta", "message_stop")
    );
    let mut open = None;
    for event in &events[1..] {
        let json = event.json();
        assert_eq!(json["type"], event.name.as_deref().expect("a name"));
        match event.name.as_deref() {
            Some("content_block_start") => {
                assert_eq!(open.replace(json["index"].as_u64()), None, "one block at a time")
            }
            Some("content_block_delta") => assert_eq!(open, Some(json["index"].as_u64())),
            Some("content_block_stop") => assert_eq!(open.take(), Some(json["index"].as_u64())),
            _ => {}
        }
    }
    assert_eq!(open, None);
}

#[tokio::test]
async fn a_message_passes_byte_for_byte_but_for_the_model() {
    let stage = claude().await;
    let body = |model: &str| {
        format!(
            "{{\"max_tokens\":50, \"model\":\"{model}\",\"system\":[{{\"type\":\"text\",\"text\":\"be \\u00e9\",\"cache_control\":{{\"type\":\"ephemeral\"}}}}],\
             \"messages\":[{{\"role\":\"user\",\"content\":[{{\"text\":\"hi\",\"type\":\"text\",\"cache_control\":{{\"ttl\":\"5m\",\"type\":\"ephemeral\"}}}}]}}],\
             \"unknown\":{{\"z\":1.0,\"a\":2e1}},\"temperature\":1.0}}"
        )
    };
    let call = stage
        .gateway
        .post("/v1/messages?beta=true")
        .header("x-api-key", KEY)
        .header("content-type", "application/json");
    let call = call
        .header("anthropic-version", "2023-06-01")
        .header("anthropic-beta", "a-1,b-2")
        .header("anthropic-beta", "c-3");
    let reply = call.body(body("claude")).send().await.expect(200);
    let seen = stage.last_seen();
    assert_eq!(String::from_utf8_lossy(&seen.body), body("up-claude"));
    assert_eq!(seen.path, "/v1/messages");
    let betas: Vec<&str> =
        seen.headers.iter().filter(|(name, _)| name == "anthropic-beta").map(|(_, value)| value.as_str()).collect();
    assert_eq!(betas, ["a-1,b-2", "c-3"]);
    assert_eq!(seen.header("anthropic-version"), Some("2023-06-01"));
    assert_eq!((seen.header("x-api-key"), seen.header("authorization")), (Some(tollgate_harness::UPSTREAM_KEY), None));
    let json = reply.json();
    assert_eq!(
        (&json["type"], &json["role"], &json["model"]),
        (&json!("message"), &json!("assistant"), &json!("claude"))
    );
    let rows = stage.finish().await;
    assert!(rows[0].cache_write_tokens > 0, "cache writes are booked: {rows:?}");
}

#[tokio::test]
async fn a_reply_passes_byte_for_byte_but_for_the_model() {
    let stage = claude().await;
    let body = |model: &str| {
        format!(
            "{{\"id\":\"msg_1\",\"type\":\"message\", \"role\":\"assistant\",\"model\":\"{model}\",\"content\":[{{\"type\":\"thinking\",\
             \"thinking\":\"hm\",\"signature\":\"EqQB\\/+==\"}},{{\"type\":\"text\",\"text\":\"hi\"}}],\"stop_reason\":\"end_turn\",\
             \"stop_sequence\":null,\"zzz\":1.50,\"usage\":{{\"input_tokens\":9,\"output_tokens\":4}}}}"
        )
    };
    let bill = Some(tollgate_harness::Tokens::new(9, 4));
    stage.mock.script("up-claude", [Reply { body: Some(body("up-claude-dated").into()), bill, ..Reply::default() }]);
    assert_eq!(stage.gateway.message("claude").send().await.expect(200).text(), body("claude"));
    stage.finish().await;
}

#[tokio::test]
async fn a_stream_of_messages_keeps_its_order_and_has_no_done() {
    let stage = claude().await;
    stage.mock.script(
        "up-claude",
        [Reply { text: Some("one two".into()), thinking: Some("let me see".into()), ..Reply::default() }],
    );
    let body =
        json!({"model": "claude", "max_tokens": 50, "stream": true, "messages": [{"role": "user", "content": "Hi"}]});
    let mut stream = stage.gateway.message("claude").json(&body).stream().await;
    assert_eq!(stream.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let events = stream.rest().await;
    assert_anthropic_order(&events);
    assert!(!stream.text().contains("[DONE]"));
    assert_eq!(events[0].json()["message"]["model"], "claude");
    stage.finish().await;
}

#[tokio::test]
async fn the_version_is_filled_in_where_a_client_sends_none() {
    let stage = claude().await;
    stage.gateway.message("claude").without("anthropic-version").send().await.expect(200);
    assert_eq!(stage.last_seen().header("anthropic-version"), Some("2023-06-01"));
    stage.finish().await;
}

#[tokio::test]
async fn errors_have_anthropics_shape() {
    let stage = claude().await;
    let check = |reply: &tollgate_harness::Response, kind: &str| {
        let json = reply.json();
        assert_eq!((&json["type"], &json["error"]["type"]), (&json!("error"), &json!(kind)), "{json}");
        assert!(json["error"]["message"].is_string());
        assert!(reply.header("request-id").is_some() && reply.header("x-request-id").is_some());
        assert_eq!(json["request_id"].as_str(), reply.header("request-id"));
    };
    check(&stage.gateway.message("claude").without("x-api-key").send().await.expect(401), "authentication_error");
    check(&stage.gateway.message("nope").send().await.expect(400), "not_found_error");
    check(&stage.gateway.message("claude").body("{").send().await.expect(400), "invalid_request_error");
    stage.mock.script("up-claude", [Step::error(429).repeat(3)]);
    check(&stage.gateway.message("claude").send().await.expect(429), "rate_limit_error");
    stage.mock.script("up-claude", [Step::error(529).repeat(3)]);
    check(&stage.gateway.message("claude").send().await.expect(529), "overloaded_error");
    stage.finish().await;
}

#[tokio::test]
async fn a_cut_in_mid_stream_is_an_error_event() {
    let stage = claude().await;
    let cut = Cut { after_events: Some(3), how: CutHow::Close, ..Cut::default() };
    stage.mock.script("up-claude", [Reply { cut: Some(cut), ..Reply::default() }]);
    let body =
        json!({"model": "claude", "max_tokens": 50, "stream": true, "messages": [{"role": "user", "content": "Hi"}]});
    let mut stream = stage.gateway.message("claude").json(&body).stream().await;
    let events = stream.rest().await;
    let last = events.last().expect("events");
    assert_eq!(last.name.as_deref(), Some("error"), "{}", stream.text());
    assert_eq!(last.json()["type"], "error");
    assert!(last.json()["error"]["type"].is_string());
    stage.finish_flagged().await;
}

#[tokio::test]
async fn tokens_are_counted_by_the_provider_where_it_can() {
    let stage = claude().await;
    let body = json!({"model": "claude", "messages": [{"role": "user", "content": "Hello there"}]});
    let reply =
        stage.gateway.post("/v1/messages/count_tokens").header("x-api-key", KEY).json(&body).send().await.expect(200);
    assert!(reply.json()["input_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{}", reply.text());
    assert_eq!(stage.last_seen().path, "/v1/messages/count_tokens");
    assert_eq!(stage.last_seen().json()["model"], "up-claude");
    let rows = stage.finish().await;
    assert!(rows.iter().all(|row| row.cost_nano_usd == 0), "counting is free: {rows:?}");
}

#[tokio::test]
async fn tokens_are_estimated_here_where_the_provider_cannot() {
    let stage = Stage::one().await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hello there"}]});
    let reply = stage
        .gateway
        .post("/v1/messages/count_tokens")
        .header("x-api-key", KEY)
        .json(&body)
        .send()
        .await
        .expect(200)
        .json();
    assert!(reply["input_tokens"].as_u64().is_some_and(|tokens| (1..60).contains(&tokens)), "{reply}");
    assert_eq!(reply["litellm_count_source"], "local_estimate");
    assert!(stage.mock.requests().is_empty());
    stage.finish().await;
}

const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

#[tokio::test]
async fn openai_clients_reach_anthropic_models() {
    let stage = claude().await;
    let body = json!({
        "model": "claude", "max_completion_tokens": 40, "stop": ["END"], "temperature": 0.5,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "And kind."},
            {"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{PIXEL}")}}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{\"at\":\"it\"}"}},
                {"id": "call_2", "type": "function", "function": {"name": "look", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "a dot"},
            {"role": "tool", "tool_call_id": "call_2", "content": "nothing"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}}],
        "tool_choice": "auto",
    });
    stage.mock.script("up-claude", [Step::text("A dot.")]);
    let reply = stage.gateway.chat("claude").json(&body).send().await.expect(200).json();
    assert_eq!((&reply["object"], &reply["model"]), (&json!("chat.completion"), &json!("claude")));
    assert_eq!(reply["choices"][0]["message"]["content"], "A dot.");
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");
    assert!(reply["usage"]["prompt_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{reply}");

    let seen = stage.last_seen().json();
    assert_eq!(
        (&seen["max_tokens"], &seen["stop_sequences"], &seen["model"]),
        (&json!(40), &json!(["END"]), &json!("up-claude"))
    );
    let system = seen["system"].to_string();
    assert!(system.contains("Be brief.") && system.contains("And kind."), "{system}");
    let messages = seen["messages"].as_array().expect("messages");
    let roles: Vec<&str> = messages.iter().filter_map(|message| message["role"].as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "user"], "both tool results are one message: {seen}");
    assert_eq!(
        messages[0]["content"][1]["source"],
        json!({"type": "base64", "media_type": "image/png", "data": PIXEL})
    );
    assert_eq!(
        (&messages[1]["content"][0]["type"], &messages[1]["content"][0]["input"]),
        (&json!("tool_use"), &json!({"at": "it"}))
    );
    assert_eq!(messages[1]["content"][1]["input"], json!({}));
    let results: Vec<&Value> =
        messages[2]["content"].as_array().expect("blocks").iter().map(|block| &block["tool_use_id"]).collect();
    assert_eq!(results, [&json!("call_1"), &json!("call_2")]);
    assert_eq!(seen["tools"][0]["input_schema"]["properties"]["at"]["type"], "string");
    stage.finish().await;
}

#[tokio::test]
async fn openai_clients_stream_tools_from_anthropic_models() {
    let stage = claude().await;
    let call =
        |name: &str| ToolCall { name: name.into(), arguments: Some(json!({"name": name})), ..ToolCall::default() };
    stage.mock.script(
        "up-claude",
        [Reply { text: Some("Let me see.".into()), tool_calls: vec![call("a"), call("b")], ..Reply::default() }],
    );
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}});
    let body = json!({"model": "claude", "stream": true, "stream_options": {"include_usage": true}, "messages": [{"role": "user", "content": "Hi"}], "tools": [tool("a"), tool("b")]});
    let mut stream = stage.gateway.chat("claude").json(&body).stream().await;
    let events = stream.rest().await;
    assert!(events.last().is_some_and(Event::is_done), "{}", stream.text());
    let chunks: Vec<Value> = events.iter().filter(|event| !event.is_done()).map(Event::json).collect();
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"
        && chunk["choices"].is_array()
        && chunk["model"] == "claude"));
    let text: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect();
    assert_eq!(text, "Let me see.");
    let deltas: Vec<&Value> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array()).flatten().collect();
    for (index, name) in [(0, "a"), (1, "b")] {
        let of_call: Vec<&&Value> = deltas.iter().filter(|delta| delta["index"] == index).collect();
        assert_eq!((&of_call[0]["function"]["name"], &of_call[0]["type"]), (&json!(name), &json!("function")));
        assert!(
            of_call[0]["id"].is_string() && of_call[1..].iter().all(|delta| delta.get("id").is_none()),
            "{of_call:?}"
        );
        let arguments: String = of_call.iter().filter_map(|delta| delta["function"]["arguments"].as_str()).collect();
        assert_eq!(serde(&arguments), json!({"name": name}));
    }
    let finish: Vec<&Value> =
        chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).filter(|reason| !reason.is_null()).collect();
    assert_eq!(finish, [&json!("tool_calls")]);
    let usage = &chunks.last().expect("chunks")["usage"];
    assert!(usage["completion_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{usage}");
    stage.finish().await;
}

fn serde(text: &str) -> Value {
    text.parse().unwrap_or_else(|error| panic!("not JSON ({error}): {text:?}"))
}

#[tokio::test]
async fn openai_clients_read_anthropic_errors_in_their_own_shape() {
    let stage = claude().await;
    stage.mock.script("up-claude", [Step::error(400)]);
    let reply = stage.gateway.chat("claude").send().await.expect(400).json();
    assert_eq!(
        (&reply["error"]["type"], &reply["error"]["code"]),
        (&json!("invalid_request_error"), &json!("400")),
        "{reply}"
    );
    let cut = Cut { after_events: Some(4), how: CutHow::Close, ..Cut::default() };
    stage.mock.script("up-claude", [Reply { cut: Some(cut), ..Reply::default() }]);
    let mut stream = stage.gateway.chat_stream("claude").stream().await;
    let events = stream.rest().await;
    let [.., error, done] = &events[..] else { panic!("{events:?}") };
    assert!(done.is_done() && error.json()["error"]["message"].is_string(), "{}", stream.text());
    stage.finish_flagged().await;
}

#[tokio::test]
async fn anthropic_clients_reach_openai_models() {
    let stage = Stage::one().await;
    let call = |name: &str| ToolCall { name: name.into(), arguments: Some(json!({"q": 1})), ..ToolCall::default() };
    stage.mock.script(
        "up-m",
        [Reply { text: Some("Wait.".into()), tool_calls: vec![call("look"), call("look")], ..Reply::default() }],
    );
    let body = json!({
        "model": "m", "max_tokens": 60, "stop_sequences": ["END"], "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "a dot"}, {"type": "text", "text": "Well?"}]},
        ],
        "tools": [{"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any"},
    });
    let reply = stage.gateway.message("m").json(&body).send().await.expect(200).json();
    assert_eq!(
        (&reply["type"], &reply["role"], &reply["model"]),
        (&json!("message"), &json!("assistant"), &json!("m"))
    );
    assert_eq!(reply["stop_reason"], "tool_use");
    let kinds: Vec<&Value> = reply["content"].as_array().expect("blocks").iter().map(|block| &block["type"]).collect();
    assert_eq!(kinds, [&json!("text"), &json!("tool_use"), &json!("tool_use")]);
    assert_eq!(reply["content"][1]["input"], json!({"q": 1}));
    assert!(reply["usage"]["output_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{reply}");

    let seen = stage.last_seen();
    assert_eq!(seen.path, "/v1/chat/completions");
    assert!(seen.header("anthropic-version").is_none(), "Anthropic's headers are for Anthropic");
    let seen = seen.json();
    let roles: Vec<&str> =
        seen["messages"].as_array().expect("messages").iter().filter_map(|message| message["role"].as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "user"], "{seen}");
    assert_eq!(seen["messages"][1]["content"][1]["image_url"]["url"], format!("data:image/png;base64,{PIXEL}"));
    assert_eq!(seen["messages"][2]["tool_calls"][0]["function"]["arguments"], "{}");
    assert_eq!(seen["messages"][3]["tool_call_id"], "toolu_1");
    assert_eq!((&seen["stop"], &seen["tool_choice"]), (&json!(["END"]), &json!("required")));
    assert_eq!(seen["tools"][0]["function"]["name"], "look");
    stage.finish().await;
}

#[tokio::test]
async fn anthropic_clients_stream_from_openai_models() {
    let stage = Stage::one().await;
    let call = |name: &str| ToolCall { name: name.into(), arguments: Some(json!({"q": name})), ..ToolCall::default() };
    stage.mock.script(
        "up-m",
        [Reply { text: Some("one two".into()), tool_calls: vec![call("a"), call("b")], ..Reply::default() }],
    );
    let tool = |name: &str| json!({"name": name, "input_schema": {"type": "object"}});
    let body = json!({"model": "m", "max_tokens": 60, "stream": true, "messages": [{"role": "user", "content": "Hi"}], "tools": [tool("a"), tool("b")]});
    let mut stream = stage.gateway.message("m").json(&body).stream().await;
    let events = stream.rest().await;
    assert_anthropic_order(&events);
    assert!(!stream.text().contains("[DONE]"));
    let starts: Vec<Value> =
        events.iter().filter(|event| event.name.as_deref() == Some("content_block_start")).map(Event::json).collect();
    let kinds: Vec<&Value> = starts.iter().map(|start| &start["content_block"]["type"]).collect();
    assert_eq!(kinds, [&json!("text"), &json!("tool_use"), &json!("tool_use")], "{}", stream.text());
    let partial: String = events
        .iter()
        .map(Event::json)
        .filter(|event| event["index"] == 2)
        .filter_map(|event| event["delta"]["partial_json"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(serde(&partial), json!({"q": "b"}));
    let delta = events.iter().find(|event| event.name.as_deref() == Some("message_delta")).expect("a delta").json();
    assert_eq!(delta["delta"]["stop_reason"], "tool_use");
    assert!(delta["usage"]["output_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{delta}");
    stage.finish().await;
}

#[tokio::test]
async fn models_have_anthropics_shape_for_its_clients() {
    let stage = claude().await;
    let reply = stage
        .gateway
        .get("/v1/models")
        .header("x-api-key", KEY)
        .header("anthropic-version", "2023-06-01")
        .send()
        .await
        .expect(200)
        .json();
    assert_eq!((&reply["has_more"], &reply["first_id"]), (&json!(false), &json!("claude")));
    assert_eq!((&reply["data"][0]["type"], &reply["data"][0]["display_name"]), (&json!("model"), &json!("claude")));
    stage.finish().await;
}
