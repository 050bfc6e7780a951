//! Every path of every provider, unary and streamed, in its faithful shape.

mod client;

use client::{ANTHROPIC, CHAT, MESSAGES, call, chat, message, mock, post};
use serde_json::{Value, json};
use tollgate_mock::{Mock, Options, Reply, Step, Surface, Tokens, ToolCall};

const GREETING: &str = "Hello! This is Tollgate's built-in mock provider. You said: hi";

#[tokio::test]
async fn chat_answers_in_openais_shape() {
    let mock = mock().await;
    for path in [CHAT, "/chat/completions"] {
        let answer = post(&mock, path, &[], &chat("hi", json!({}))).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        assert!(answer.header("x-request-id").is_some());
        let body = answer.json();
        assert_eq!((&body["object"], &body["model"]), (&json!("chat.completion"), &json!("m")));
        assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
        assert!(body["created"].is_u64() && body["system_fingerprint"].is_string());
        let choice = &body["choices"][0];
        assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!(GREETING), &json!("stop")));
        // "hi" is 2 bytes: 1 token, and 3 for its message; the answer has 10 words.
        assert_eq!(body["usage"]["prompt_tokens"], 4);
        assert_eq!(body["usage"]["completion_tokens"], 10);
        assert_eq!(body["usage"]["total_tokens"], 14);
        assert_eq!(body["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
        assert_eq!(body["usage"]["completion_tokens_details"]["reasoning_tokens"], 0);
    }
}

#[tokio::test]
async fn a_chat_stream_is_valid_and_tells_usage_only_when_asked() {
    let mock = mock().await;
    for asked in [false, true] {
        let options = if asked { json!({"include_usage": true}) } else { Value::Null };
        let answer = post(&mock, CHAT, &[], &chat("hi", json!({"stream": true, "stream_options": options}))).await;
        assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
        assert_eq!(answer.header("content-length"), None);
        assert!(answer.whole);
        let mut events = answer.events();
        assert_eq!(events.pop(), Some(json!("[DONE]")));
        if asked {
            let last = events.pop().unwrap();
            assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(10)));
        }
        assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
        let last = events.last().unwrap();
        assert_eq!((&last["choices"][0]["delta"], &last["choices"][0]["finish_reason"]), (&json!({}), &json!("stop")));
        let text: String = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(text, GREETING);
        for event in &events {
            assert_eq!(event["object"], "chat.completion.chunk");
            assert_eq!(event["id"], events[0]["id"]);
            assert_eq!(event.get("usage"), asked.then_some(&Value::Null));
        }
    }
}

#[tokio::test]
async fn limits_stops_and_choices_are_honoured() {
    let mock = mock().await;
    let limited = post(&mock, CHAT, &[], &chat("hi", json!({"max_completion_tokens": 2, "n": 3}))).await.json();
    assert_eq!(limited["choices"].as_array().unwrap().len(), 3);
    assert_eq!(limited["choices"][2]["index"], 2);
    assert_eq!(limited["choices"][2]["message"]["content"], "Hello! This");
    assert_eq!(limited["choices"][2]["finish_reason"], "length");
    assert_eq!(limited["usage"]["completion_tokens"], 6);
    let stopped = post(&mock, CHAT, &[], &chat("hi", json!({"stop": " is"}))).await.json();
    assert_eq!(stopped["choices"][0]["message"]["content"], "Hello! This");
    let odd = post(&mock, CHAT, &[], &chat("hi", json!({"n": 0}))).await;
    assert_eq!((odd.status, &odd.json()["error"]["param"]), (400, &json!("n")));
}

fn tools() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    json!([tool("weather"), tool("time")])
}

#[tokio::test]
async fn a_forced_tool_is_called_with_arguments_of_its_schema() {
    let mock = mock().await;
    let choice = json!({"type": "function", "function": {"name": "time"}});
    let body = chat("hi", json!({"tools": tools(), "tool_choice": choice}));
    let answer = post(&mock, CHAT, &[], &body).await.json();
    let message = &answer["choices"][0]["message"];
    assert_eq!((&message["content"], &answer["choices"][0]["finish_reason"]), (&Value::Null, &json!("tool_calls")));
    assert_eq!(message["tool_calls"][0]["type"], "function");
    assert_eq!(message["tool_calls"][0]["function"], json!({"name": "time", "arguments": "{\"city\":\"city\"}"}));
    assert!(message["tool_calls"][0]["id"].as_str().unwrap().starts_with("call_"));
}

#[tokio::test]
async fn parallel_tool_calls_stream_in_fragments() {
    let mock = mock().await;
    let calls = ["weather", "time"].map(|name| ToolCall { name: name.into(), ..ToolCall::default() });
    mock.script("m", [Reply { tool_calls: calls.into(), ..Reply::default() }]);
    let events = post(&mock, CHAT, &[], &chat("hi", json!({"stream": true, "tools": tools()}))).await.events();
    for (index, name) in ["weather", "time"].into_iter().enumerate() {
        let fragments: Vec<&Value> = events
            .iter()
            .map(|event| &event["choices"][0]["delta"]["tool_calls"][0])
            .filter(|fragment| fragment["index"] == index)
            .collect();
        assert!(fragments.len() > 2);
        assert_eq!((&fragments[0]["type"], &fragments[0]["function"]["name"]), (&json!("function"), &json!(name)));
        assert!(fragments[0]["id"].is_string());
        for fragment in &fragments[1..] {
            assert!(fragment.get("id").is_none() && fragment["function"].get("name").is_none(), "{fragment}");
        }
        let arguments: String =
            fragments.iter().map(|fragment| fragment["function"]["arguments"].as_str().unwrap()).collect();
        assert_eq!(serde_json::from_str::<Value>(&arguments).unwrap(), json!({"city": "city"}));
    }
}

#[tokio::test]
async fn structured_output_satisfies_its_schema() {
    let mock = mock().await;
    let schema = json!({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]});
    let format = json!({"type": "json_schema", "json_schema": {"name": "person", "strict": true, "schema": schema}});
    let answer = post(&mock, CHAT, &[], &chat("hi", json!({"response_format": format}))).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "{\"age\":1}");
    let format = json!({"format": {"type": "json_schema", "schema": schema}});
    let answer = post(&mock, MESSAGES, ANTHROPIC, &message("hi", json!({"output_config": format}))).await.json();
    assert_eq!(answer["content"][0]["text"], "{\"age\":1}");
}

#[tokio::test]
async fn mock_response_is_said_and_costs_ten_and_twenty() {
    let mock = mock().await;
    let answer = post(&mock, CHAT, &[], &chat("hi", json!({"mock_response": "yes"}))).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "yes");
    assert_eq!((&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]), (&json!(10), &json!(20)));
    let row = mock.wait_for_invoice(1).await.remove(0);
    assert_eq!((row.input_tokens, row.output_tokens), (10, 20));
}

#[tokio::test]
async fn text_completions_take_prompts_and_token_lists() {
    let mock = mock().await;
    let body = json!({"model": "m", "prompt": ["hi", "ho"]});
    let answer = post(&mock, "/v1/completions", &[], &body).await.json();
    assert_eq!((&answer["object"], answer["choices"].as_array().unwrap().len()), (&json!("text_completion"), 2));
    assert_eq!(answer["choices"][0]["text"], GREETING);
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
    let body = json!({"model": "m", "prompt": [1, 2, 3], "stream": true, "stream_options": {"include_usage": true}});
    let mut events = post(&mock, "/v1/completions", &[], &body).await.events();
    assert_eq!(events.pop(), Some(json!("[DONE]")));
    assert_eq!(events.pop().unwrap()["usage"]["prompt_tokens"], 3);
    assert!(events.iter().all(|event| event["choices"][0]["text"].is_string()));
}

#[tokio::test]
async fn embeddings_are_billed_for_input_only() {
    let mock = mock().await;
    let body = json!({"model": "e", "input": ["hello", [1, 2]], "dimensions": 4});
    let answer = post(&mock, "/v1/embeddings", &[], &body).await.json();
    assert_eq!(answer["data"][1]["embedding"].as_array().unwrap().len(), 4);
    assert_eq!(answer["usage"], json!({"prompt_tokens": 4, "total_tokens": 4}));
    let body = json!({"model": "e", "input": "hello", "encoding_format": "base64"});
    let answer = post(&mock, "/v1/embeddings", &[], &body).await.json();
    // 1,536 floats of 4 bytes, in base64.
    assert_eq!(answer["data"][0]["embedding"].as_str().unwrap().len(), 8192);
    let rows = mock.wait_for_invoice(2).await;
    assert_eq!((rows[0].surface, rows[0].input_tokens, rows[0].output_tokens), (Surface::Embeddings, 4, 0));
}

#[tokio::test]
async fn models_take_the_shape_of_the_client() {
    let mock = mock().await;
    let list = call(&mock, "GET", "/v1/models", &[], b"").await.json();
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!("mock-gpt")));
    let list = call(&mock, "GET", "/v1/models", ANTHROPIC, b"").await.json();
    assert_eq!((&list["has_more"], &list["data"][0]["type"]), (&json!(false), &json!("model")));
    assert_eq!(call(&mock, "GET", "/v1/models/mock-gpt", &[], b"").await.json()["object"], "model");
    assert_eq!(call(&mock, "GET", "/v1/models/none", &[], b"").await.status, 404);
    assert!(mock.invoice().iter().all(|row| !row.billed));
}

#[tokio::test]
async fn azure_wants_a_key_and_a_version() {
    let mock = mock().await;
    let body = chat("hi", json!({}));
    let path = "/openai/deployments/my%2Fgpt/chat/completions?api-version=2024-10-21";
    let answer = post(&mock, path, &[("api-key", "k")], &body).await.json();
    assert_eq!(answer["model"], "my/gpt");
    assert_eq!(answer["choices"][0]["content_filter_results"]["hate"]["filtered"], false);
    assert_eq!(post(&mock, path, &[], &body).await.status, 401);
    assert_eq!(post(&mock, path, &[("authorization", "Bearer t")], &body).await.status, 200);
    let unversioned = "/openai/deployments/my-gpt/chat/completions";
    assert_eq!(post(&mock, unversioned, &[("api-key", "k")], &body).await.status, 404);
    let stream = post(&mock, path, &[("api-key", "k")], &chat("hi", json!({"stream": true}))).await.events();
    assert_eq!(stream[0]["choices"], json!([]));
    assert!(stream[0]["prompt_filter_results"].is_array());
    let versionless = post(&mock, "/openai/v1/chat/completions", &[("api-key", "k")], &body).await.json();
    assert_eq!(versionless["model"], "m");
}

#[tokio::test]
async fn messages_answer_in_anthropics_shape() {
    let mock = mock().await;
    let answer = post(&mock, MESSAGES, ANTHROPIC, &message("hi", json!({}))).await;
    assert!(answer.header("request-id").is_some());
    let body = answer.json();
    assert_eq!((&body["type"], &body["role"], &body["model"]), (&json!("message"), &json!("assistant"), &json!("c")));
    assert_eq!(body["content"], json!([{"type": "text", "text": GREETING}]));
    assert_eq!((&body["stop_reason"], &body["stop_sequence"]), (&json!("end_turn"), &Value::Null));
    assert_eq!(body["usage"]["input_tokens"], 4);
    assert_eq!(body["usage"]["output_tokens"], 10);
    assert_eq!(body["usage"]["cache_creation"]["ephemeral_5m_input_tokens"], 0);

    let refused = post(&mock, MESSAGES, &[], &message("hi", json!({}))).await;
    assert_eq!((refused.status, &refused.json()["error"]["type"]), (400, &json!("invalid_request_error")));
    let unlimited = post(&mock, MESSAGES, ANTHROPIC, &message("hi", json!({"max_tokens": null}))).await;
    assert_eq!((unlimited.status, &unlimited.json()["type"]), (400, &json!("error")));
    let stopped = post(&mock, MESSAGES, ANTHROPIC, &message("hi", json!({"stop_sequences": [" is"]}))).await.json();
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!(" is")));
}

#[tokio::test]
async fn a_message_stream_with_thinking_and_a_tool_keeps_anthropics_order() {
    let mock = mock().await;
    let tool =
        json!({"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}});
    let extra = json!({
        "stream": true, "thinking": {"type": "enabled", "budget_tokens": 1024}, "tools": [tool],
        "tool_choice": {"type": "any"},
    });
    let answer = post(&mock, MESSAGES, ANTHROPIC, &message("hi", extra)).await;
    let events = answer.events();
    let mut types: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    types.dedup();
    assert_eq!(
        types,
        [
            "message_start",
            "content_block_start",
            "ping",
            "content_block_delta",
            "content_block_stop",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    assert_eq!(events[0]["message"]["content"], json!([]));
    assert_eq!(events[0]["message"]["usage"]["output_tokens"], 1);
    let pieces = |kind: &str| -> String { events.iter().filter_map(|event| event["delta"][kind].as_str()).collect() };
    assert_eq!(serde_json::from_str::<Value>(&pieces("partial_json")).unwrap(), json!({"city": "city"}));
    assert!(!pieces("thinking").is_empty() && !pieces("signature").is_empty());
    let last = &events[events.len() - 2];
    assert_eq!(last["delta"]["stop_reason"], "tool_use");
    let row = mock.wait_for_invoice(1).await.remove(0);
    assert_eq!(last["usage"]["output_tokens"], row.output_tokens);
    assert!(row.reasoning > 0 && row.reasoning < row.output_tokens);
    assert!(!answer.text().contains("[DONE]"));
}

#[tokio::test]
async fn marked_prompts_are_written_to_the_cache_and_then_read() {
    let mock = mock().await;
    let request = |ttl: &str| {
        let control = json!({"type": "ephemeral", "ttl": ttl});
        let system =
            json!([{"type": "text", "text": "a long system prompt ".repeat(20) + ttl, "cache_control": control}]);
        message("hi", json!({"system": system}))
    };
    let first = post(&mock, MESSAGES, ANTHROPIC, &request("5m")).await.json();
    let again = post(&mock, MESSAGES, ANTHROPIC, &request("5m")).await.json();
    post(&mock, MESSAGES, ANTHROPIC, &request("1h")).await;
    let written = &first["usage"]["cache_creation"]["ephemeral_5m_input_tokens"];
    assert!(written.as_u64().unwrap() > 50);
    assert_eq!(&again["usage"]["cache_read_input_tokens"], written);
    assert_eq!(again["usage"]["cache_creation_input_tokens"], 0);
    let rows = mock.wait_for_invoice(3).await;
    assert_eq!(json!(rows[0].cache_write_5m), *written);
    assert_eq!(json!(rows[1].cache_read), *written);
    assert!(rows[2].cache_write_1h > 50 && rows[2].cache_write_5m == 0);
    assert_eq!(
        first["usage"]["input_tokens"].as_u64().unwrap() + written.as_u64().unwrap(),
        rows[0].input_tokens,
        "the row counts the total, the answer leaves the cached part out"
    );
}

#[tokio::test]
async fn counting_tokens_is_free() {
    let mock = mock().await;
    let counted = post(&mock, "/v1/messages/count_tokens", ANTHROPIC, &message("hi", json!({}))).await.json();
    assert_eq!(counted, json!({"input_tokens": 4}));
    let row = mock.wait_for_invoice(1).await.remove(0);
    assert_eq!((row.surface, row.billed, row.completed), (Surface::CountTokens, false, true));
}

#[tokio::test]
async fn bad_requests_are_refused_and_free() {
    let mock = Mock::start(Options { key: Some("sk-good".into()), ..Options::default() }).await.unwrap();
    let good = [("authorization", "Bearer sk-good")];
    assert_eq!(call(&mock, "POST", CHAT, &good, b"{").await.status, 400);
    assert_eq!(post(&mock, CHAT, &good, &json!({"messages": []})).await.json()["error"]["param"], "model");
    assert_eq!(post(&mock, CHAT, &good, &json!({"model": "m"})).await.json()["error"]["param"], "messages");
    let bad = post(&mock, CHAT, &[("authorization", "Bearer sk-bad")], &chat("hi", json!({}))).await;
    assert_eq!((bad.status, &bad.json()["error"]["code"]), (401, &json!("invalid_api_key")));
    assert_eq!(call(&mock, "GET", CHAT, &good, b"").await.status, 405);
    assert_eq!(post(&mock, "/v1/nothing", &good, &json!({})).await.status, 404);
    let rows = mock.wait_for_invoice(6).await;
    assert!(rows.iter().all(|row| !row.billed && row.completed && row.input_tokens == 0));
    assert_eq!(post(&mock, CHAT, &good, &chat("hi", json!({}))).await.status, 200);
}

#[tokio::test]
async fn reasoning_and_scripted_usage_reach_the_client_and_the_invoice() {
    let mock = mock().await;
    let tokens = Tokens { input: 1000, output: 200, cache_read: 600, reasoning: 64, ..Tokens::default() };
    mock.script("m", [Step::usage("ok", tokens)]);
    let body = post(&mock, CHAT, &[], &chat("hi", json!({}))).await.json();
    assert_eq!(body["usage"]["prompt_tokens"], 1000);
    assert_eq!(body["usage"]["prompt_tokens_details"]["cached_tokens"], 600);
    assert_eq!(body["usage"]["completion_tokens_details"]["reasoning_tokens"], 64);
    let row = mock.wait_for_invoice(1).await.remove(0);
    assert_eq!((row.input_tokens, row.output_tokens, row.cache_read, row.reasoning), (1000, 200, 600, 64));
    assert!(row.usage_sent && row.billed && row.completed);
}
