//! Anthropic's shapes: reading Messages requests (prompt caching included), and rendering answers, stream events and
//! errors. Pure, but for the set of cached prefixes it is handed.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use base64::Engine;
use serde_json::{Map, Value, json};

use crate::generation::{Ask, Call, Finish, Generation, Tool, ToolChoice};
use crate::openai::{Invalid, fragments, json_bytes, told_usage};
use crate::script::{Reply, UsageAt, UsageScript};
use crate::stream::{Brings, Event};
use crate::tokens::{self, Tokens};

/// Reads `/messages`. Prefixes marked with `cache_control` are looked up in `cached` and added to it.
///
/// # Errors
/// [`Invalid`] if there are no messages, or no `max_tokens`, which Anthropic requires.
pub(crate) fn read(body: &Value, model: &str, body_bytes: usize, cached: &mut HashSet<u64>) -> Result<Ask, Invalid> {
    let max_output = body["max_tokens"].as_u64().filter(|most| *most > 0);
    let max_output = max_output.ok_or_else(|| Invalid::new("max_tokens: Field required", "max_tokens"))?;
    let mut ask = Ask {
        model: model.to_string(),
        stream: body["stream"].as_bool().unwrap_or(false),
        max_output: Some(max_output),
        choices: 1,
        thinking: matches!(body["thinking"]["type"].as_str(), Some("enabled" | "adaptive")),
        mock_response: body["mock_response"].as_str().map(str::to_string),
        input: count(body, body_bytes)?,
        ..Ask::default()
    };
    price_cache(body, model, cached, &mut ask.input);
    ask.stops =
        body["stop_sequences"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect();
    for message in body["messages"].as_array().into_iter().flatten() {
        let result = blocks(&message["content"]).into_iter().find(|block| block["type"] == "tool_result");
        ask.tool_result = result.map(|block| texts(&block["content"]));
        if message["role"] == "user" {
            ask.said = texts(&message["content"]);
        }
    }
    for tool in body["tools"].as_array().into_iter().flatten() {
        let name = tool["name"].as_str().unwrap_or_default().to_string();
        ask.tools.push(Tool { name, schema: tool["input_schema"].clone() });
    }
    ask.tool_choice = match (body["tool_choice"]["type"].as_str(), body["tool_choice"]["name"].as_str()) {
        (Some("any"), _) => ToolChoice::Any,
        (Some("tool"), Some(name)) => ToolChoice::Named(name.to_string()),
        _ => ToolChoice::Auto,
    };
    let format =
        [&body["output_config"]["format"], &body["output_format"]].into_iter().find(|format| format.is_object());
    ask.schema = format.map(|format| format["schema"].clone());
    Ok(ask)
}

/// Counts the input of a request: `/messages/count_tokens`, and the base of `/messages`.
///
/// # Errors
/// [`Invalid`] if there are no messages.
pub(crate) fn count(body: &Value, body_bytes: usize) -> Result<Tokens, Invalid> {
    let messages = body["messages"]
        .as_array()
        .filter(|messages| !messages.is_empty())
        .ok_or_else(|| Invalid::new("messages: at least one message is required", "messages"))?;
    let mut bytes = texts(&body["system"]).len() as u64 + json_bytes(&body["tools"]);
    let mut images = 0;
    for message in messages {
        bytes += texts(&message["content"]).len() as u64;
        for block in blocks(&message["content"]) {
            match block["type"].as_str() {
                Some("image" | "document") => images += 1,
                Some("tool_use") => bytes += json_bytes(&block["input"]),
                Some("tool_result") => bytes += texts(&block["content"]).len() as u64,
                _ => {}
            }
        }
    }
    Ok(Tokens::new(tokens::input_tokens(bytes, messages.len() as u64, images, body_bytes as u64), 0))
}

fn blocks(content: &Value) -> Vec<&Value> {
    content.as_array().into_iter().flatten().collect()
}

/// The texts of a content, a string or blocks, one after the other.
fn texts(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        _ => blocks(content).into_iter().filter_map(|block| block["text"].as_str()).collect(),
    }
}

/// Splits the input as prompt caching would: up to the last block marked with `cache_control`, in the order tools,
/// system, messages, the prefix is read if it was seen before, else written, for 5 minutes or an hour as its mark says.
fn price_cache(body: &Value, model: &str, cached: &mut HashSet<u64>, input: &mut Tokens) {
    let mut hasher = DefaultHasher::new();
    model.hash(&mut hasher);
    let (mut bytes, mut prefix) = (0, None);
    let contents = blocks(&body["messages"]).into_iter().flat_map(|message| blocks(&message["content"]));
    for block in blocks(&body["tools"]).into_iter().chain(blocks(&body["system"])).chain(contents) {
        let mut unmarked = block.clone();
        if let Value::Object(fields) = &mut unmarked {
            fields.remove("cache_control");
        }
        unmarked.to_string().hash(&mut hasher);
        bytes += json_bytes(&unmarked);
        if block["cache_control"].is_object() {
            prefix = Some((hasher.finish(), bytes, block["cache_control"]["ttl"] == "1h"));
        }
    }
    let Some((hash, bytes, hour)) = prefix else { return };
    let tokens = bytes.div_ceil(4).min(input.input);
    match (cached.insert(hash), hour) {
        (false, _) => input.cache_read = tokens,
        (true, true) => input.cache_write_1h = tokens,
        (true, false) => input.cache_write_5m = tokens,
    }
}

/// Anthropic's `usage`: `input_tokens` leaves the cached ones out.
pub(crate) fn usage(tokens: &Tokens) -> Value {
    json!({
        "input_tokens": tokens.uncached_input(),
        "output_tokens": tokens.output,
        "cache_read_input_tokens": tokens.cache_read,
        "cache_creation_input_tokens": tokens.cache_write_5m + tokens.cache_write_1h,
        "cache_creation": {
            "ephemeral_5m_input_tokens": tokens.cache_write_5m,
            "ephemeral_1h_input_tokens": tokens.cache_write_1h,
        },
        "service_tier": "standard",
    })
}

fn stop_reason(made: &Generation, reply: &Reply) -> (String, Value) {
    let (reason, sequence) = match &made.finish {
        Finish::Stop => ("end_turn", Value::Null),
        Finish::Length => ("max_tokens", Value::Null),
        Finish::StopSequence(stop) => ("stop_sequence", json!(stop)),
        Finish::ToolCalls => ("tool_use", Value::Null),
    };
    (reply.finish_reason.clone().unwrap_or_else(|| reason.to_string()), sequence)
}

/// A thinking block's signature: opaque to clients, who must send it back unchanged.
fn signature(thinking: &str) -> String {
    let mut hasher = DefaultHasher::new();
    thinking.hash(&mut hasher);
    base64::engine::general_purpose::STANDARD.encode(format!("tollgate-mock:{:016x}", hasher.finish()))
}

fn call_id(call: &Call) -> String {
    if call.whole_id { call.id.clone() } else { format!("toolu_{}", call.id) }
}

/// The input of a tool call; scripted nonsense becomes an empty object, since the block holds JSON.
fn call_input(call: &Call) -> Value {
    serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}))
}

fn message(made: &Generation, content: Vec<Value>) -> Map<String, Value> {
    let mut body = Map::new();
    body.insert("id".into(), json!(format!("msg_mock{:08}", made.seq)));
    body.insert("type".into(), json!("message"));
    body.insert("role".into(), json!("assistant"));
    body.insert("model".into(), json!(made.model));
    body.insert("content".into(), content.into());
    body.insert("stop_reason".into(), Value::Null);
    body.insert("stop_sequence".into(), Value::Null);
    body
}

/// The unary answer.
pub(crate) fn render(made: &Generation, reply: &Reply) -> Value {
    let mut content = Vec::new();
    if let Some(thinking) = &made.thinking {
        content.push(json!({"type": "thinking", "thinking": thinking, "signature": signature(thinking)}));
    }
    let text = made.text();
    if !text.is_empty() {
        content.push(json!({"type": "text", "text": text}));
    }
    for call in &made.calls {
        content.push(json!({"type": "tool_use", "id": call_id(call), "name": call.name, "input": call_input(call)}));
    }
    let mut body = message(made, content);
    let (reason, sequence) = stop_reason(made, reply);
    body.insert("stop_reason".into(), json!(reason));
    body.insert("stop_sequence".into(), sequence);
    if let Some(usage) = told_usage(&reply.usage, usage(&made.tokens)) {
        body.insert("usage".into(), usage);
    }
    body.extend(reply.extra.clone());
    Value::Object(body)
}

/// Bytes of tool input in one stream fragment.
const INPUT_FRAGMENT: usize = 12;

/// The stream's events, in Anthropic's order.
pub(crate) fn render_stream(made: &Generation, reply: &Reply) -> Vec<Event> {
    let mut start = message(made, Vec::new());
    let opening = told_usage(&reply.usage, usage(&Tokens { output: 1, reasoning: 0, ..made.tokens }));
    let whole_usage_first = reply.usage_at == UsageAt::First;
    if let Some(opening) = &opening {
        let told = if whole_usage_first { usage_or_raw(made, reply) } else { opening.clone() };
        start.insert("usage".into(), told);
    }
    start.extend(reply.extra.clone());
    let mut events = vec![Event {
        usage: whole_usage_first && opening.is_some(),
        ..event("message_start", json!({"message": start}), Brings::Nothing)
    }];

    let mut index = 0;
    let mut block = |opening: Value, deltas: Vec<(Value, Brings)>| {
        let start = json!({"index": index, "content_block": opening});
        events.push(event("content_block_start", start, Brings::Nothing));
        if index == 0 {
            events.push(event("ping", json!({}), Brings::Nothing));
        }
        for (delta, brings) in deltas {
            events.push(event("content_block_delta", json!({"index": index, "delta": delta}), brings));
        }
        events.push(event("content_block_stop", json!({"index": index}), Brings::Nothing));
        index += 1;
    };
    if let Some(thinking) = &made.thinking {
        let mut deltas: Vec<(Value, Brings)> = tokens::split(thinking)
            .into_iter()
            .map(|piece| (json!({"type": "thinking_delta", "thinking": piece}), Brings::Reasoning))
            .collect();
        deltas.push((json!({"type": "signature_delta", "signature": signature(thinking)}), Brings::Nothing));
        block(json!({"type": "thinking", "thinking": "", "signature": ""}), deltas);
    }
    if !made.pieces.is_empty() {
        let text = |piece: &String| (json!({"type": "text_delta", "text": piece}), Brings::Content);
        block(json!({"type": "text", "text": ""}), made.pieces.iter().map(text).collect());
    }
    for call in &made.calls {
        // As the real API does: an empty first delta, then the input in pieces.
        let mut deltas = vec![(json!({"type": "input_json_delta", "partial_json": ""}), Brings::Content)];
        for piece in fragments(&call.arguments, INPUT_FRAGMENT) {
            deltas.push((json!({"type": "input_json_delta", "partial_json": piece}), Brings::Content));
        }
        block(json!({"type": "tool_use", "id": call_id(call), "name": call.name, "input": {}}), deltas);
    }

    let (reason, sequence) = stop_reason(made, reply);
    let mut delta = json!({"delta": {"stop_reason": reason, "stop_sequence": sequence}});
    let tells = reply.usage != UsageScript::Missing && !whole_usage_first;
    if tells {
        delta["usage"] = usage_or_raw(made, reply);
    }
    let last = Event { usage: tells, ..event("message_delta", delta, Brings::Nothing) };
    if reply.usage_at == UsageAt::Twice {
        events.push(last.clone());
    }
    events.push(last);
    events.push(event("message_stop", json!({}), Brings::Nothing));
    if reply.usage_at == UsageAt::Every && reply.usage != UsageScript::Missing {
        for event in &mut events {
            event.data["usage"] = usage_or_raw(made, reply);
            event.usage = true;
        }
    }
    events
}

fn usage_or_raw(made: &Generation, reply: &Reply) -> Value {
    told_usage(&reply.usage, usage(&made.tokens)).unwrap_or_default()
}

/// An event; its data repeats the name as `type`.
fn event(name: &'static str, mut data: Value, brings: Brings) -> Event {
    data["type"] = json!(name);
    Event::new(Some(name), data, brings)
}

/// An error body. `kind` defaults to what the status implies.
pub(crate) fn error(status: u16, message: &str, kind: Option<&str>, seq: u64) -> Value {
    let usual = match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        504 => "timeout_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    };
    json!({
        "type": "error",
        "error": {"type": kind.unwrap_or(usual), "message": message},
        "request_id": format!("req_mock{seq:08}"),
    })
}

/// `/models` for clients that send `anthropic-version`.
pub(crate) fn models(models: &[String]) -> Value {
    json!({
        "data": models.iter().map(|id| model(id)).collect::<Vec<_>>(),
        "has_more": false, "first_id": models.first(), "last_id": models.last(),
    })
}

/// `/models/{id}` for those.
pub(crate) fn model(id: &str) -> Value {
    json!({"type": "model", "id": id, "display_name": id, "created_at": "2026-01-01T00:00:00Z"})
}
