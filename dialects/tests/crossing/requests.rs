//! Requests: what a client of one dialect sends, and what the provider of the other gets.

use serde_json::{Value, json};
use tollgate_dialects::Dialect;
use tollgate_dialects::chat::{
    EncodeError, EncodeOptions, MaxTokensField, Quirks, Surface, ThinkingStyle, decode_request, encode_request,
};

fn told(surface: Surface, dialect: Dialect, body: Value, quirks: &Quirks, drop: bool) -> Result<Value, EncodeError> {
    let request = decode_request(surface, body.to_string().as_bytes()).expect("the request is well formed");
    let options = EncodeOptions { model: "up", default_max_tokens: 4096, drop_unsupported: drop, quirks };
    let bytes = encode_request(dialect, &request, &options)?;
    Ok(serde_json::from_slice(&bytes).expect("an encoded request is JSON"))
}

/// What an Anthropic provider gets of an OpenAI client's `fields`.
fn to_anthropic(fields: Value) -> Value {
    to_anthropic_with(fields, &Quirks::default(), false).expect("all is supported")
}

fn to_anthropic_with(fields: Value, quirks: &Quirks, drop: bool) -> Result<Value, EncodeError> {
    told(Surface::OpenAiChat, Dialect::Anthropic, with_defaults(fields), quirks, drop)
}

fn to_openai(fields: Value) -> Value {
    to_openai_with(fields, &Quirks::default(), false).expect("all is supported")
}

fn to_openai_with(fields: Value, quirks: &Quirks, drop: bool) -> Result<Value, EncodeError> {
    told(Surface::AnthropicMessages, Dialect::OpenAi, with_defaults(fields), quirks, drop)
}

fn with_defaults(fields: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    for (key, value) in fields.as_object().expect("fields are an object") {
        body[key] = value.clone();
    }
    body
}

fn unsupported(result: Result<Value, EncodeError>) -> Vec<String> {
    match result {
        Err(EncodeError::Unsupported { params }) => params,
        other => panic!("expected unsupported parameters, got {other:?}"),
    }
}

fn weather_tool() -> Value {
    json!({"type": "function", "function": {"name": "weather", "description": "d", "parameters":
        {"type": "object", "properties": {"city": {"type": "string"}}}}})
}

#[test]
fn an_openai_parameter_becomes_anthropics() {
    let user = json!([{"role": "user", "content": [{"type": "text", "text": "hi"}]}]);
    let base = json!({"model": "up", "max_tokens": 4096, "messages": user});
    let cases = [
        (json!({}), json!({})),
        (json!({"max_tokens": 7}), json!({"max_tokens": 7})),
        (json!({"max_completion_tokens": 8, "max_tokens": 7}), json!({"max_tokens": 8})),
        (json!({"stop": "a"}), json!({"stop_sequences": ["a"]})),
        (json!({"stop": ["a", "b"]}), json!({"stop_sequences": ["a", "b"]})),
        (json!({"temperature": 0.5, "top_k": 3}), json!({"temperature": 0.5, "top_k": 3})),
        (json!({"temperature": 1.7}), json!({"temperature": 1})),
        (json!({"top_p": 0.9}), json!({"top_p": 0.9})),
        (json!({"top_p": 1}), json!({})),
        (json!({"user": "u-1"}), json!({"metadata": {"user_id": "u-1"}})),
        (json!({"user": 17}), json!({"metadata": {"user_id": "17"}})),
        (json!({"user": "ann@example.com"}), json!({})),
        (json!({"user": "+1 555 010 9999"}), json!({})),
        (json!({"safety_identifier": "s"}), json!({"metadata": {"user_id": "s"}})),
        (json!({"service_tier": "auto"}), json!({"service_tier": "auto"})),
        (json!({"service_tier": "default"}), json!({"service_tier": "standard_only"})),
        (json!({"stream": true, "stream_options": {"include_usage": true}}), json!({"stream": true})),
        (
            json!({"n": 1, "logprobs": false, "presence_penalty": 0.0, "frequency_penalty": 0, "logit_bias": {}}),
            json!({}),
        ),
        (json!({"store": true, "metadata": {"a": "b"}, "seed": null}), json!({})),
        (json!({"tool_choice": "auto", "tools": []}), json!({})),
        (json!({"response_format": {"type": "text"}}), json!({})),
        (json!({"reasoning_effort": "none"}), json!({})),
        (json!({"reasoning_effort": "medium"}), json!({"thinking": {"type": "enabled", "budget_tokens": 2048}})),
        (
            json!({"reasoning_effort": "high", "max_tokens": 2000}),
            json!({"max_tokens": 2000, "thinking": {"type": "enabled", "budget_tokens": 1999}}),
        ),
        (json!({"reasoning_effort": "high", "max_tokens": 1000}), json!({"max_tokens": 1000})),
        (
            json!({"reasoning_effort": "high"}),
            json!({"max_tokens": 8192, "thinking": {"type": "enabled", "budget_tokens": 4096}}),
        ),
        (
            json!({"thinking": {"type": "enabled", "budget_tokens": 9000}}),
            json!({"max_tokens": 13096, "thinking": {"type": "enabled", "budget_tokens": 9000}}),
        ),
    ];
    for (fields, changes) in cases {
        let mut expected = base.clone();
        for (key, value) in changes.as_object().unwrap() {
            expected[key] = value.clone();
        }
        assert_eq!(to_anthropic(fields.clone()), expected, "{fields}");
    }
}

#[test]
fn an_anthropic_parameter_becomes_openais() {
    let base = json!({"model": "up", "messages": [{"role": "user", "content": "hi"}]});
    let long = "u".repeat(100);
    let cases = [
        (json!({}), json!({})),
        (json!({"max_tokens": 7}), json!({"max_tokens": 7})),
        (json!({"stop_sequences": ["a"]}), json!({"stop": ["a"]})),
        (json!({"temperature": 0.5, "top_p": 0.9}), json!({"temperature": 0.5, "top_p": 0.9})),
        (json!({"metadata": {"user_id": long}}), json!({"user": &long[..64]})),
        (json!({"service_tier": "standard_only"}), json!({"service_tier": "default"})),
        (json!({"stream": true}), json!({"stream": true, "stream_options": {"include_usage": true}})),
        (json!({"context_management": {"edits": []}}), json!({})),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 10000}}), json!({"reasoning_effort": "high"})),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 2000}}), json!({"reasoning_effort": "medium"})),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}), json!({"reasoning_effort": "low"})),
        (json!({"thinking": {"type": "disabled"}}), json!({})),
        (
            json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}),
            json!({"reasoning_effort": "xhigh"}),
        ),
        (
            json!({"system": "be kind"}),
            json!({"messages": [
            {"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]}),
        ),
    ];
    for (fields, changes) in cases {
        let mut expected = base.clone();
        for (key, value) in changes.as_object().unwrap() {
            expected[key] = value.clone();
        }
        assert_eq!(to_openai(fields.clone()), expected, "{fields}");
    }
}

#[test]
fn what_anthropic_lacks_is_listed_or_dropped() {
    let fields = json!({"n": 2, "logprobs": true, "seed": 1, "brand_new": 1, "service_tier": "flex", "stop": [" "],
        "tools": [{"type": "web_search_preview"}], "reasoning_effort": "low", "temperature": 0.2});
    let mut listed = unsupported(to_anthropic_with(fields.clone(), &Quirks::default(), false));
    listed.sort();
    let expected =
        ["brand_new", "logprobs", "n", "seed", "service_tier", "stop", "temperature", "tools: web_search_preview"];
    assert_eq!(listed, expected);

    let dropped = to_anthropic_with(fields, &Quirks::default(), true).unwrap();
    let keys: Vec<_> = dropped.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["max_tokens", "messages", "model", "thinking"]);
}

#[test]
fn what_openai_lacks_is_listed_or_dropped() {
    let fields = json!({"top_k": 4, "mcp_servers": [{}], "tools": [{"type": "web_search_20250305", "name": "s"}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"},
            {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}},
            {"type": "search_result", "source": "s", "title": "t", "content": []}]}]});
    let listed = unsupported(to_openai_with(fields.clone(), &Quirks::default(), false));
    let expected =
        ["messages: document by URL", "messages: search_result", "tools: web_search_20250305", "top_k", "mcp_servers"];
    assert_eq!(listed, expected);
    let dropped = to_openai_with(fields, &Quirks::default(), true).unwrap();
    assert_eq!(dropped, json!({"model": "up", "messages": [{"role": "user", "content": "x"}]}));
}

#[test]
fn quirks_change_what_is_sent() {
    let quirks: Quirks = serde_json::from_value(json!({"max_tokens_field": "max_completion_tokens",
        "no_stream_usage": true, "top_k": true, "refuses": ["temperature"]}))
    .unwrap();
    assert_eq!(quirks.max_tokens_field, MaxTokensField::MaxCompletionTokens);
    let fields = json!({"max_tokens": 5, "stream": true, "top_k": 4, "temperature": 0.5});
    assert_eq!(unsupported(to_openai_with(fields.clone(), &quirks, false)), ["temperature"]);
    let sent = to_openai_with(fields, &quirks, true).unwrap();
    let expected = json!({"model": "up", "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 5, "stream": true, "top_k": 4});
    assert_eq!(sent, expected);
}

#[test]
fn an_adaptive_model_is_told_the_effort() {
    let quirks = Quirks { thinking: ThinkingStyle::Adaptive, ..Quirks::default() };
    let sent = to_anthropic_with(json!({"reasoning_effort": "minimal"}), &quirks, false).unwrap();
    assert_eq!(sent["thinking"], json!({"type": "adaptive"}));
    assert_eq!(sent["output_config"], json!({"effort": "low"}));
}

#[test]
fn system_prompts_leave_the_turns_and_equal_roles_become_one_turn() {
    let sent = to_anthropic(json!({"messages": [
        {"role": "system", "content": "one"},
        {"role": "user", "content": "a"},
        {"role": "developer", "content": [{"type": "text", "text": "two", "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "content": "b", "name": "bob"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": ["c"]}]}));
    assert_eq!(
        sent["system"],
        json!([{"type": "text", "text": "one"},
        {"type": "text", "text": "two", "cache_control": {"type": "ephemeral"}}])
    );
    assert_eq!(
        sent["messages"],
        json!([{"role": "user", "content": [
        {"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "text", "text": "c"}]}])
    );
}

#[test]
fn a_system_prompt_alone_is_said_by_the_user_and_nothing_at_all_is_an_error() {
    let sent = to_anthropic(json!({"messages": [{"role": "system", "content": "say hi"}]}));
    assert_eq!(sent["messages"], json!([{"role": "user", "content": [{"type": "text", "text": "say hi"}]}]));
    assert_eq!(sent.get("system"), None);
    let nothing = to_anthropic_with(json!({"messages": [{"role": "user", "content": " "}]}), &Quirks::default(), true);
    assert!(matches!(nothing, Err(EncodeError::Invalid { param: Some(param), .. }) if param == "messages"));
}

#[test]
fn a_started_answer_ends_without_white_space() {
    let sent = to_anthropic(json!({"messages": [{"role": "user", "content": "x"},
        {"role": "assistant", "content": "It is \n"}]}));
    assert_eq!(sent["messages"][1], json!({"role": "assistant", "content": [{"type": "text", "text": "It is"}]}));
}

#[test]
fn pictures_and_files_cross_both_ways() {
    let openai = json!([
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}}]);
    let anthropic = json!([
        {"type": "text", "text": "look"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}, "title": "a.pdf"}]);
    let sent = to_anthropic(json!({"messages": [{"role": "user", "content": openai}]}));
    assert_eq!(sent["messages"][0]["content"], anthropic);
    let sent = to_openai(json!({"messages": [{"role": "user", "content": anthropic}]}));
    assert_eq!(sent["messages"][0]["content"], openai);
}

#[test]
fn odd_pictures_and_files_are_understood() {
    let sent = to_anthropic(json!({"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": "data:image/jpg;charset=x;base64,AAAA"},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,aGk=", "filename": "a.txt"}}]}]}));
    assert_eq!(
        sent["messages"][0]["content"],
        json!([
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "AAAA"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}, "title": "a.txt"}])
    );
    let audio = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
        {"type": "file", "file": {"file_id": "file-1"}}]}]});
    assert_eq!(
        unsupported(to_anthropic_with(audio, &Quirks::default(), false)),
        ["messages: audio", "messages: file id"]
    );
    let text = json!([{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}}]);
    let sent = to_openai(json!({"messages": [{"role": "user", "content": text}]}));
    assert_eq!(sent["messages"][0]["content"], json!([{"type": "text", "text": "hi"}]));
}

#[test]
fn tools_and_choices_cross_both_ways() {
    let anthropic_tool = json!({"name": "weather", "description": "d", "input_schema":
        {"type": "object", "properties": {"city": {"type": "string"}}}});
    let named = json!({"type": "function", "function": {"name": "weather"}});
    let cases = [
        (json!("auto"), json!({"type": "auto"})),
        (json!("required"), json!({"type": "any"})),
        (json!("none"), json!({"type": "none"})),
        (named, json!({"type": "tool", "name": "weather"})),
    ];
    for (openai, anthropic) in cases {
        let sent = to_anthropic(json!({"tools": [weather_tool()], "tool_choice": openai}));
        assert_eq!(sent["tools"], json!([anthropic_tool]));
        assert_eq!(sent["tool_choice"], anthropic);
        let sent = to_openai(json!({"tools": [anthropic_tool], "tool_choice": anthropic}));
        assert_eq!(sent["tools"], json!([weather_tool()]));
        assert_eq!(sent["tool_choice"], openai);
    }
    let sent = to_anthropic(json!({"tools": [weather_tool()], "parallel_tool_calls": false}));
    assert_eq!(sent["tool_choice"], json!({"type": "auto", "disable_parallel_tool_use": true}));
    let one = json!({"type": "any", "disable_parallel_tool_use": true});
    let sent = to_openai(json!({"tools": [anthropic_tool], "tool_choice": one}));
    assert_eq!((&sent["tool_choice"], &sent["parallel_tool_calls"]), (&json!("required"), &json!(false)));
}

#[test]
fn a_schema_keeps_its_bytes_and_gets_the_type_anthropic_wants() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[
        {"type":"function","function":{"name":"a","parameters":{"type":"object","z":1.50,"a":1e2}}},
        {"type":"function","function":{"name":"b","parameters":{"properties":{}}}},
        {"type":"function","function":{"name":"c"}}]}"#;
    let request = decode_request(Surface::OpenAiChat, body.as_bytes()).unwrap();
    let quirks = Quirks::default();
    let options = EncodeOptions { model: "up", default_max_tokens: 1, drop_unsupported: false, quirks: &quirks };
    let sent = String::from_utf8(encode_request(Dialect::Anthropic, &request, &options).unwrap()).unwrap();
    let expected = r#""tools":[{"name":"a","input_schema":{"type":"object","z":1.50,"a":1e2}},{"name":"b","input_schema":{"type":"object","properties":{}}},{"name":"c","input_schema":{"type":"object","properties":{}}}]"#;
    assert!(sent.contains(expected), "{sent}");
}

#[test]
fn parallel_calls_and_their_results_cross_to_anthropic() {
    let sent = to_anthropic(json!({"tools": [weather_tool()], "messages": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call.1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Rome\"}"}},
            {"id": "b", "type": "function", "function": {"name": "weather", "arguments": ""}},
            {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{\"ci"}}]},
        {"role": "user", "content": "and?"},
        {"role": "tool", "tool_call_id": "call.1", "content": "sun"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "rain"},
            {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]},
        {"role": "tool", "tool_call_id": "c", "content": ""}]}));
    assert_eq!(
        sent["messages"][1],
        json!({"role": "assistant", "content": [
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Rome"}},
        {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
        {"type": "tool_use", "id": "c", "name": "weather", "input": {"INVALID_JSON": "{\"ci"}}]})
    );
    assert_eq!(
        sent["messages"][2],
        json!({"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "call_1", "content": "sun"},
        {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "rain"},
            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}]},
        {"type": "tool_result", "tool_use_id": "c"},
        {"type": "text", "text": "and?"}]})
    );
}

#[test]
fn results_come_before_what_the_user_says_to_openai() {
    let sent = to_openai(json!({"messages": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": [{"type": "text", "text": "ok"},
            {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Rome", "a": 1.50}},
            {"type": "tool_use", "id": "b", "name": "weather", "input": {}}]},
        {"role": "user", "content": [
            {"type": "text", "text": "and?"},
            {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "sun"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}]},
            {"type": "tool_result", "tool_use_id": "b", "is_error": true, "content": "no such city"}]}]}));
    let call = |id: &str, arguments: &str| {
        json!({"id": id, "type": "function",
        "function": {"name": "weather", "arguments": arguments}})
    };
    assert_eq!(
        sent["messages"],
        json!([
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "ok", "tool_calls": [call("a", r#"{"a":1.5,"city":"Rome"}"#), call("b", "{}")]},
        {"role": "tool", "tool_call_id": "a", "content": "sun"},
        {"role": "tool", "tool_call_id": "b", "content": "Error: no such city"},
        {"role": "user", "content": [{"type": "text", "text": "Attached to the result of tool call a:"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
            {"type": "text", "text": "and?"}]}])
    );
}

#[test]
fn a_history_of_calls_without_tools_forbids_calls() {
    let sent = to_anthropic(json!({"messages": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "1"}]}));
    assert_eq!(sent["tools"], json!([{"name": "f", "input_schema": {"type": "object"}}]));
    assert_eq!(sent["tool_choice"], json!({"type": "none"}));
}

#[test]
fn thinking_goes_back_to_who_signed_it_only() {
    let history = json!({"messages": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "y", "reasoning_content": "hm", "thinking_blocks": [
            {"type": "thinking", "thinking": "hm", "signature": "sig"}, {"type": "redacted_thinking", "data": "zz"}]},
        {"role": "user", "content": "z"},
        {"role": "assistant", "content": "v", "reasoning_content": "unsigned"},
        {"role": "user", "content": "w"}]});
    let sent = to_anthropic(history);
    let anthropic = json!([{"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "zz"}, {"type": "text", "text": "y"}]);
    assert_eq!(sent["messages"][1]["content"], anthropic);
    assert_eq!(sent["messages"][3]["content"], json!([{"type": "text", "text": "v"}]));

    let back = json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": anthropic}]});
    let plain = to_openai(back.clone());
    assert_eq!(plain["messages"][1], json!({"role": "assistant", "content": "y"}));
    let kept = to_openai_with(back, &Quirks { reasoning_history: true, ..Quirks::default() }, false).unwrap();
    assert_eq!(
        kept["messages"][1],
        json!({"role": "assistant", "content": "y", "reasoning_content": "hm",
        "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "redacted_thinking", "data": "zz"}]})
    );
}

#[test]
fn an_effort_gives_way_where_anthropic_cannot_think() {
    let forced = json!({"reasoning_effort": "low", "tools": [weather_tool()], "tool_choice": "required"});
    assert_eq!(to_anthropic(forced).get("thinking"), None);
    let unexplained = json!({"reasoning_effort": "low", "tools": [weather_tool()], "messages": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "1"}]});
    assert_eq!(to_anthropic(unexplained.clone()).get("thinking"), None);
    let mut explained = unexplained;
    explained["messages"][1]["thinking_blocks"] = json!([{"type": "thinking", "thinking": "t", "signature": "s"}]);
    assert_eq!(to_anthropic(explained)["thinking"], json!({"type": "enabled", "budget_tokens": 1024}));
}

#[test]
fn a_json_answer_is_a_forced_call_or_native() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": true}});
    let sent = to_anthropic(json!({"response_format": format}));
    assert_eq!(sent["tool_choice"], json!({"type": "tool", "name": "tollgate_json_output"}));
    assert_eq!(sent["tools"][0]["input_schema"], schema);

    let sent = to_anthropic(json!({"response_format": {"type": "json_object"}}));
    assert_eq!(sent["tools"][0]["input_schema"], json!({"type": "object", "additionalProperties": true}));

    let sent = to_anthropic(json!({"response_format": format, "tools": [weather_tool()]}));
    assert_eq!(sent["tool_choice"], json!({"type": "any"}));
    assert_eq!(sent["tools"].as_array().unwrap().len(), 2);

    let native = Quirks { structured_output: true, ..Quirks::default() };
    let mut strict_tool = weather_tool();
    strict_tool["function"]["strict"] = json!(true);
    let sent = to_anthropic_with(json!({"response_format": format, "tools": [strict_tool]}), &native, false).unwrap();
    assert_eq!(sent["output_config"], json!({"format": {"type": "json_schema", "schema": schema}}));
    assert_eq!(sent["tools"][0]["strict"], json!(true));
    assert_eq!(sent.get("tool_choice"), None);
}

#[test]
fn an_anthropic_schema_is_strict_where_openai_takes_it() {
    let closed = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
        "additionalProperties": false});
    let open = json!({"type": "object", "properties": {"a": closed}});
    for (schema, strict) in [(closed.clone(), true), (open, false)] {
        for fields in [
            json!({"output_config": {"format": {"type": "json_schema", "schema": schema}}}),
            json!({"output_format": {"type": "json_schema", "schema": schema}}),
        ] {
            let sent = to_openai(fields);
            let expected = json!({"name": "response", "schema": schema, "strict": strict});
            assert_eq!(sent["response_format"], json!({"type": "json_schema", "json_schema": expected}));
        }
    }
}

#[test]
fn cache_marks_are_kept_where_they_mean_something() {
    let mark = json!({"type": "ephemeral", "ttl": "1h"});
    let sent = to_anthropic(json!({
        "tools": [{"type": "function", "cache_control": mark, "function": {"name": "f", "parameters": {"type": "object"}}}],
        "messages": [{"role": "system", "content": "s", "cache_control": mark},
            {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": mark}]}]}));
    for place in [&sent["tools"][0], &sent["system"][0], &sent["messages"][0]["content"][0]] {
        assert_eq!(place["cache_control"], mark);
    }
    let body = json!({"system": [{"type": "text", "text": "s", "cache_control": mark}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": mark}]}]});
    let plain = to_openai(body.clone());
    assert_eq!(plain["messages"], json!([{"role": "system", "content": "s"}, {"role": "user", "content": "x"}]));
    let kept = to_openai_with(body, &Quirks { cache_control: true, ..Quirks::default() }, false).unwrap();
    let text = |text: &str| json!([{"type": "text", "text": text, "cache_control": mark}]);
    let expected = json!([{"role": "system", "content": text("s")}, {"role": "user", "content": text("x")}]);
    assert_eq!(kept["messages"], expected);
}

#[test]
fn several_texts_are_one_string_for_servers_that_want_that() {
    let quirks = Quirks { flat_text: true, ..Quirks::default() };
    let system = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let sent = to_openai_with(json!({"system": system}), &quirks, false).unwrap();
    assert_eq!(sent["messages"][0]["content"], json!("a\n\nb"));
    assert_eq!(to_openai(json!({"system": system}))["messages"][0]["content"], system);
}

#[test]
fn a_text_completion_becomes_a_chat() {
    for prompt in [json!("once"), json!(["once"])] {
        let body = json!({"model": "m", "prompt": prompt, "max_tokens": 5, "stop": ["x"], "seed": 1, "echo": false});
        let sent = told(Surface::OpenAiCompletions, Dialect::OpenAi, body.clone(), &Quirks::default(), true).unwrap();
        let expected = json!({"model": "up", "messages": [{"role": "user", "content": "once"}], "max_tokens": 5,
            "stop": ["x"], "seed": 1});
        assert_eq!(sent, expected);
    }
    let body = json!({"model": "m", "prompt": "once", "suffix": "end", "best_of": 3, "logprobs": 2});
    for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
        let mut listed =
            unsupported(told(Surface::OpenAiCompletions, dialect, body.clone(), &Quirks::default(), false));
        listed.sort();
        assert_eq!(listed, ["best_of", "logprobs", "suffix"]);
    }
}

#[test]
fn a_text_completion_says_nothing_of_its_chat_but_the_prompt() {
    let same = json!({"seed": 1, "n": 2, "logit_bias": {"5": -1}, "presence_penalty": 0.5, "min_p": 0.1});
    let foreign = json!({"messages": [{"role": "system", "content": "x"}], "tools": [weather_tool()],
        "tool_choice": "auto", "parallel_tool_calls": true, "max_completion_tokens": 9, "reasoning_effort": "soon",
        "thinking": 1, "response_format": {"type": "xml"}, "top_logprobs": 3, "modalities": ["audio"]});
    let mut body = json!({"model": "m", "prompt": "once", "max_tokens": 5});
    for (key, value) in same.as_object().unwrap().iter().chain(foreign.as_object().unwrap()) {
        body[key] = value.clone();
    }
    let request = decode_request(Surface::OpenAiCompletions, body.to_string().as_bytes()).unwrap();
    let quirks = Quirks { max_tokens_field: MaxTokensField::MaxCompletionTokens, ..Quirks::default() };
    let options = EncodeOptions { model: "up", default_max_tokens: 1, drop_unsupported: true, quirks: &quirks };
    let bytes = encode_request(Dialect::OpenAi, &request, &options).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.matches("messages").count(), 1, "{text}");
    let mut expected = json!({"model": "up", "messages": [{"role": "user", "content": "once"}],
        "max_completion_tokens": 5});
    for (key, value) in same.as_object().unwrap() {
        expected[key] = value.clone();
    }
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    let mut listed = unsupported(told(Surface::OpenAiCompletions, Dialect::OpenAi, body, &quirks, false));
    listed.sort();
    let mut foreign: Vec<_> = foreign.as_object().unwrap().keys().cloned().collect();
    foreign.sort();
    assert_eq!(listed, foreign);
}

#[test]
fn a_turn_of_nothing_but_what_is_left_out_is_left_out_too() {
    let quirks = Quirks::default();
    let audio = json!({"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}});
    let file = json!({"type": "file", "file": {"file_id": "file-1"}});
    let odd = json!({"type": "hologram"});
    for (part, name) in [(audio, "messages: audio"), (file, "messages: file id"), (odd, "messages: hologram")] {
        let lost = json!({"role": "user", "content": [part]});
        let alone = json!({"messages": [lost]});
        assert_eq!(unsupported(to_anthropic_with(alone.clone(), &quirks, false)), [name]);
        match to_anthropic_with(alone, &quirks, true) {
            Err(EncodeError::Invalid { param, .. }) => assert_eq!(param.as_deref(), Some("messages")),
            other => panic!("a request without a message was told: {other:?}"),
        }
        // The turns around it are one then, because roles alternate.
        let among = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            lost, {"role": "assistant", "content": "c"}, {"role": "user", "content": "d"}]});
        let text = |role: &str, texts: &[&str]| {
            let content: Vec<_> = texts.iter().map(|text| json!({"type": "text", "text": text})).collect();
            json!({"role": role, "content": content})
        };
        let sent = to_anthropic_with(among, &quirks, true).unwrap();
        let expected = json!([text("user", &["a"]), text("assistant", &["b", "c"]), text("user", &["d"])]);
        assert_eq!(sent["messages"], expected);
    }
}

#[test]
fn instructions_alone_are_said_by_the_user_even_before_empty_ones() {
    let sent =
        to_anthropic(json!({"messages": [{"role": "system", "content": "a"}, {"role": "system", "content": "b"},
        {"role": "system", "content": ""}]}));
    assert_eq!(sent["system"], json!([{"type": "text", "text": "a"}]));
    assert_eq!(sent["messages"], json!([{"role": "user", "content": [{"type": "text", "text": "b"}]}]));
}

#[test]
fn a_result_without_its_call_reaches_the_provider_that_judges_it() {
    let orphan = json!({"messages": [{"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "t", "content": "Sunny"}]}]});
    let sent = to_openai(orphan.clone());
    assert_eq!(sent["messages"], json!([{"role": "tool", "tool_call_id": "t", "content": "Sunny"}]));
    let sent =
        told(Surface::AnthropicMessages, Dialect::Anthropic, with_defaults(orphan.clone()), &Quirks::default(), false);
    assert_eq!(sent.unwrap()["messages"], orphan["messages"]);
}

#[test]
fn results_within_results_are_refused_however_deep() {
    let open = r#"{"type":"tool_result","tool_use_id":"a","content":["#;
    let content = format!("[{}{}]", open.repeat(50_000), "]}".repeat(50_000));
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":{content}}}]}}"#);
    let error = decode_request(Surface::AnthropicMessages, body.as_bytes()).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("messages[0].content[0].content[0]"));
}

#[test]
fn a_wrong_request_names_its_field() {
    use Surface::{AnthropicMessages, OpenAiChat, OpenAiCompletions};
    let cases: [(Surface, &str, &str); 22] = [
        (OpenAiChat, "", "request_body"),
        (OpenAiChat, "{", "request_body"),
        (OpenAiChat, "[]", "request_body"),
        (OpenAiChat, r#"{"model":"m"}"#, "messages"),
        (OpenAiChat, r#"{"messages":[]}"#, "model"),
        (OpenAiChat, r#"{"model":1,"messages":[]}"#, "model"),
        (OpenAiChat, r#"{"model":"m","messages":[]}"#, "messages"),
        (OpenAiChat, r#"{"model":"m","messages":"x"}"#, "messages"),
        (OpenAiChat, r#"{"model":"m","messages":[{"role":"user","content":"x"},3]}"#, "messages[1]"),
        (OpenAiChat, r#"{"model":"m","messages":[{"role":"bot"}]}"#, "messages[0].role"),
        (OpenAiChat, r#"{"model":"m","messages":[{"role":"user","content":7}]}"#, "messages[0].content"),
        (OpenAiChat, r#"{"model":"m","messages":[{"role":"user","content":[{}]}]}"#, "messages[0].content[0].type"),
        (OpenAiChat, r#"{"model":"m","messages":[{"role":"tool","content":"x"}]}"#, "messages[0].tool_call_id"),
        (OpenAiChat, r#"{"model":"m","messages":[{"role":"user"}],"temperature":"hot"}"#, "temperature"),
        (OpenAiChat, r#"{"model":"m","messages":[{"role":"user"}],"max_tokens":-1}"#, "max_tokens"),
        (
            OpenAiChat,
            r#"{"model":"m","messages":[{"role":"user"}],"response_format":{"type":"xml"}}"#,
            "response_format.type",
        ),
        (OpenAiCompletions, r#"{"model":"m","prompt":["a","b"]}"#, "prompt"),
        (OpenAiCompletions, r#"{"model":"m","prompt":[1,2]}"#, "prompt"),
        (OpenAiCompletions, r#"{"model":"m","prompt":[[1],[2]]}"#, "prompt"),
        (AnthropicMessages, r#"{"model":"m","messages":[{"role":"user"}]}"#, "messages[0].content"),
        (
            AnthropicMessages,
            r#"{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[{}]}"#,
            "tools[0].name",
        ),
        (
            AnthropicMessages,
            r#"{"model":"m","messages":[{"role":"user","content":"x"}],"tool_choice":"any"}"#,
            "tool_choice",
        ),
    ];
    for (surface, body, param) in cases {
        let error = decode_request(surface, body.as_bytes()).expect_err(body);
        assert_eq!(error.param.as_deref(), Some(param), "{body}: {error}");
    }
}
