//! Whole answers: what a provider of one dialect says, and what the client of the other gets.

use serde_json::{Value, json};
use tollgate_dialects::Dialect;
use tollgate_dialects::chat::{ReplyOptions, Surface, decode_reply, encode_reply};

const OPTIONS: ReplyOptions<'_> = ReplyOptions { model: "shown", created: 1_700_000_000, id: None };

fn told(dialect: Dialect, surface: Surface, reply: Value) -> Value {
    let reply = decode_reply(dialect, reply.to_string().as_bytes()).expect("the reply is well formed");
    serde_json::from_slice(&encode_reply(surface, &reply, &OPTIONS)).expect("an encoded reply is JSON")
}

fn anthropic(content: Value, stop: &str) -> Value {
    json!({"id": "msg_01X", "type": "message", "role": "assistant", "model": "claude", "content": content,
        "stop_reason": stop, "stop_sequence": null, "usage": {"input_tokens": 10, "output_tokens": 5}})
}

fn openai(message: Value, finish: &str) -> Value {
    json!({"id": "chatcmpl-X", "object": "chat.completion", "created": 1, "model": "gpt", "choices": [
        {"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}})
}

#[test]
fn an_anthropic_answer_is_an_openai_completion() {
    let reply = json!({"id": "msg_01X", "type": "message", "role": "assistant", "model": "claude",
        "content": [{"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "redacted_thinking", "data": "zz"},
            {"type": "text", "text": "Hello "}, {"type": "text", "text": "there", "citations": []},
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"b": 1, "a": 2}},
            {"type": "tool_use", "id": "toolu_2", "name": "g", "input": {}}],
        "stop_reason": "tool_use", "stop_sequence": null,
        "usage": {"input_tokens": 10, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 30,
            "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
            "output_tokens": 5, "service_tier": "standard"}});
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let expected = json!({"id": "chatcmpl-01X", "object": "chat.completion", "created": 1_700_000_000,
        "model": "shown", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello there",
            "refusal": null, "reasoning_content": "hm", "thinking_blocks": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"}, {"type": "redacted_thinking", "data": "zz"}],
            "tool_calls": [call("toolu_1", "f", r#"{"a":2,"b":1}"#), call("toolu_2", "g", "{}")]},
            "logprobs": null, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 140, "completion_tokens": 5, "total_tokens": 145,
            "prompt_tokens_details": {"cached_tokens": 100, "cache_creation_tokens": 30,
                "cache_creation_token_details": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}},
            "completion_tokens_details": {"reasoning_tokens": 0},
            "cache_creation_input_tokens": 30, "cache_read_input_tokens": 100},
        "service_tier": "default"});
    assert_eq!(told(Dialect::Anthropic, Surface::OpenAiChat, reply), expected);
}

#[test]
fn an_openai_completion_is_an_anthropic_answer() {
    let reply = json!({"id": "chatcmpl-X", "object": "chat.completion", "created": 1, "model": "gpt", "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello",
            "reasoning_content": "hm", "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"b\": 1.50}"}},
                {"type": "function", "function": {"name": "g", "arguments": ""}},
                {"id": "call_3", "type": "function", "function": {"name": "h", "arguments": "{\"cut"}}]}}],
        "usage": {"prompt_tokens": 140, "completion_tokens": 5, "total_tokens": 145,
            "prompt_tokens_details": {"cached_tokens": 100}}});
    let expected = json!({"id": "msg_X", "type": "message", "role": "assistant", "model": "shown", "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "Hello"},
            {"type": "tool_use", "id": "call_1", "name": "f", "input": {"b": 1.5}},
            {"type": "tool_use", "id": "call_X-1", "name": "g", "input": {}},
            {"type": "tool_use", "id": "call_3", "name": "h", "input": {"INVALID_JSON": "{\"cut"}}],
        "stop_reason": "tool_use", "stop_sequence": null,
        "usage": {"input_tokens": 40, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 100,
            "output_tokens": 5}});
    assert_eq!(told(Dialect::OpenAi, Surface::AnthropicMessages, reply), expected);
}

#[test]
fn reasons_to_stop_cross_both_ways() {
    let cases = [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("stop_sequence", "stop"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("pause_turn", "stop"),
        ("model_context_window_exceeded", "length"),
        ("something_new", "stop"),
    ];
    for (reason, finish) in cases {
        let reply = anthropic(json!([{"type": "text", "text": "x"}]), reason);
        let told = told(Dialect::Anthropic, Surface::OpenAiChat, reply);
        assert_eq!(told["choices"][0]["finish_reason"], finish, "{reason}");
    }
    let cases = [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("function_call", "tool_use"),
        ("content_filter", "refusal"),
        ("eos", "end_turn"),
        ("something_new", "end_turn"),
    ];
    for (finish, reason) in cases {
        let told = told(Dialect::OpenAi, Surface::AnthropicMessages, openai(json!({"content": "x"}), finish));
        assert_eq!(told["stop_reason"], reason, "{finish}");
    }
}

#[test]
fn a_stop_sequence_that_a_server_names_is_told() {
    let mut reply = openai(json!({"content": "x"}), "stop");
    reply["choices"][0]["stop_reason"] = json!("END");
    let told = told(Dialect::OpenAi, Surface::AnthropicMessages, reply);
    assert_eq!((&told["stop_reason"], &told["stop_sequence"]), (&json!("stop_sequence"), &json!("END")));
}

#[test]
fn a_refusal_is_text_and_a_reason() {
    let told = told(
        Dialect::OpenAi,
        Surface::AnthropicMessages,
        openai(json!({"content": null, "refusal": "I will not"}), "stop"),
    );
    assert_eq!(told["content"], json!([{"type": "text", "text": "I will not"}]));
    assert_eq!(told["stop_reason"], "refusal");
}

#[test]
fn a_json_answer_through_the_reserved_tool_is_text() {
    let content = json!([{"type": "text", "text": "Here:"},
        {"type": "tool_use", "id": "t", "name": "tollgate_json_output", "input": {"a": 1}}]);
    let told = told(Dialect::Anthropic, Surface::OpenAiChat, anthropic(content, "tool_use"));
    assert_eq!(told["choices"][0]["message"]["content"], r#"{"a":1}"#);
    assert_eq!(told["choices"][0]["finish_reason"], "stop");
    assert_eq!(told["choices"][0]["message"].get("tool_calls"), None);
}

#[test]
fn a_text_completion_has_the_text_only() {
    let content =
        json!([{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "upon a time"}]);
    let mut told = told(Dialect::Anthropic, Surface::OpenAiCompletions, anthropic(content, "max_tokens"));
    told["usage"].take();
    let expected = json!({"id": "cmpl-01X", "object": "text_completion", "created": 1_700_000_000, "model": "shown",
        "choices": [{"text": "upon a time", "index": 0, "logprobs": null, "finish_reason": "length"}], "usage": null});
    assert_eq!(told, expected);
}

#[test]
fn an_answer_with_no_content_stays_an_answer() {
    let told_openai = told(Dialect::Anthropic, Surface::OpenAiChat, anthropic(json!([]), "end_turn"));
    assert_eq!(told_openai["choices"][0]["message"]["content"], "");
    let told_anthropic = told(Dialect::OpenAi, Surface::AnthropicMessages, openai(json!({"content": null}), "stop"));
    assert_eq!(told_anthropic["content"], json!([]));
}

#[test]
fn what_is_no_answer_is_refused() {
    for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
        for body in ["", "<html>", "null", "[]", "{}", r#"{"error":{"message":"no"}}"#, r#"{"choices":3,"content":3}"#]
        {
            assert!(decode_reply(dialect, body.as_bytes()).is_err(), "{dialect}: {body}");
        }
        let deep = "[".repeat(100_000);
        assert!(decode_reply(dialect, deep.as_bytes()).is_err());
        assert!(decode_reply(dialect, b"{\"id\":\"\xff\"}").is_err());
    }
}

#[test]
fn a_given_id_is_shown() {
    let reply = decode_reply(Dialect::OpenAi, openai(json!({"content": "x"}), "stop").to_string().as_bytes()).unwrap();
    for surface in [Surface::OpenAiChat, Surface::OpenAiCompletions, Surface::AnthropicMessages] {
        let options = ReplyOptions { id: Some("mine"), ..OPTIONS };
        let told: Value = serde_json::from_slice(&encode_reply(surface, &reply, &options)).unwrap();
        assert_eq!(told["id"], "mine");
    }
}
