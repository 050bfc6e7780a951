//! OpenAI's shapes, also as Azure serves them: reading chat and text completion requests, and rendering answers, stream
//! chunks and errors. Pure: the clock is an argument.

use serde_json::{Map, Value, json};

use crate::generation::{Ask, Call, Finish, Generation, Tool, ToolChoice};
use crate::script::{Reply, UsageAt, UsageScript};
use crate::stream::{Brings, Event};
use crate::tokens::{self, Tokens};

/// What an answer needs beside the generation.
pub(crate) struct Context {
    /// Seconds since 1970.
    pub created: u64,
    pub azure: bool,
    /// `/completions` instead of `/chat/completions`.
    pub text_completion: bool,
}

/// Why a request is refused with 400.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invalid {
    pub message: String,
    pub param: Option<&'static str>,
}

impl Invalid {
    pub fn new(message: impl Into<String>, param: &'static str) -> Invalid {
        Invalid { message: message.into(), param: Some(param) }
    }
}

/// Reads `/chat/completions`.
///
/// # Errors
/// [`Invalid`] if there are no messages or a tool choice names no tool.
pub(crate) fn read_chat(body: &Value, model: &str, body_bytes: usize) -> Result<Ask, Invalid> {
    let messages = body["messages"]
        .as_array()
        .filter(|messages| !messages.is_empty())
        .ok_or_else(|| Invalid::new("Missing required parameter: 'messages'.", "messages"))?;
    let mut ask = read_common(body, model)?;
    let (mut bytes, mut images) = (0, 0);
    for message in messages {
        let text = content(&message["content"], &mut bytes, &mut images);
        bytes += json_bytes(&message["tool_calls"]);
        ask.tool_result = None;
        match message["role"].as_str() {
            Some("user") => ask.said = text,
            Some("tool" | "function") => ask.tool_result = Some(text),
            _ => {}
        }
    }
    bytes += json_bytes(&body["tools"]);
    ask.input.input = tokens::input_tokens(bytes, messages.len() as u64, images, body_bytes as u64);
    ask.max_output = body["max_completion_tokens"].as_u64().or_else(|| body["max_tokens"].as_u64());
    ask.thinking = false;
    ask.logprobs = body["logprobs"].as_bool().unwrap_or(false);
    for tool in body["tools"].as_array().into_iter().flatten() {
        let function = &tool["function"];
        let name = function["name"].as_str().unwrap_or_default().to_string();
        ask.tools.push(Tool { name, schema: function["parameters"].clone() });
    }
    ask.tool_choice = match &body["tool_choice"] {
        Value::String(choice) if choice == "required" => ToolChoice::Any,
        Value::Object(choice) => match choice.get("function").and_then(|function| function["name"].as_str()) {
            Some(name) => ToolChoice::Named(name.to_string()),
            None => ToolChoice::Auto,
        },
        _ => ToolChoice::Auto,
    };
    if let ToolChoice::Named(name) = &ask.tool_choice
        && !ask.tools.iter().any(|tool| tool.name == *name)
    {
        return Err(Invalid::new(format!("Tool choice '{name}' not found in 'tools' parameter."), "tool_choice"));
    }
    ask.schema = match body["response_format"]["type"].as_str() {
        Some("json_object") => Some(json!({})),
        Some("json_schema") => Some(body["response_format"]["json_schema"]["schema"].clone()),
        _ => None,
    };
    Ok(ask)
}

/// Reads `/completions`.
///
/// # Errors
/// [`Invalid`] if there is no prompt.
pub(crate) fn read_completion(body: &Value, model: &str, body_bytes: usize) -> Result<Ask, Invalid> {
    let mut ask = read_common(body, model)?;
    let prompts =
        prompts(&body["prompt"]).ok_or_else(|| Invalid::new("Missing required parameter: 'prompt'.", "prompt"))?;
    ask.input.input = prompts.iter().map(Prompt::tokens).sum::<u64>().min(body_bytes as u64);
    ask.choices *= prompts.len() as u64;
    ask.max_output = body["max_tokens"].as_u64();
    if let Some(Prompt::Text(text)) = prompts.into_iter().next() {
        ask.said = text;
    }
    Ok(ask)
}

/// One prompt or one embedding input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    Text(String),
    /// Token ids: each is one token.
    Tokens(Vec<u64>),
}

impl Prompt {
    pub fn tokens(&self) -> u64 {
        match self {
            Prompt::Text(text) => tokens::data_tokens(text),
            Prompt::Tokens(ids) => ids.len() as u64,
        }
    }
}

/// Reads a string, a list of strings, a list of token ids, or a list of those. `None`: none of them, or empty.
pub(crate) fn prompts(value: &Value) -> Option<Vec<Prompt>> {
    let ids = |items: &[Value]| items.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>();
    match value {
        Value::String(text) => Some(vec![Prompt::Text(text.clone())]),
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => match ids(items) {
            Some(ids) => Some(vec![Prompt::Tokens(ids)]),
            None => items
                .iter()
                .map(|item| match item {
                    Value::String(text) => Some(Prompt::Text(text.clone())),
                    Value::Array(items) => ids(items).map(Prompt::Tokens),
                    _ => None,
                })
                .collect(),
        },
        _ => None,
    }
}

fn read_common(body: &Value, model: &str) -> Result<Ask, Invalid> {
    let choices = match &body["n"] {
        Value::Null => 1,
        n => n.as_u64().filter(|n| (1..=128).contains(n)).ok_or_else(|| Invalid::new("Invalid value for 'n'.", "n"))?,
    };
    let stops = match &body["stop"] {
        Value::String(stop) => vec![stop.clone()],
        Value::Array(stops) => stops.iter().filter_map(Value::as_str).map(str::to_string).collect(),
        _ => Vec::new(),
    };
    Ok(Ask {
        model: model.to_string(),
        stream: body["stream"].as_bool().unwrap_or(false),
        include_usage: body["stream_options"]["include_usage"].as_bool().unwrap_or(false),
        stops,
        choices,
        mock_response: body["mock_response"].as_str().map(str::to_string),
        ..Ask::default()
    })
}

/// The text of a message's content; counts its bytes and images.
fn content(content: &Value, bytes: &mut u64, images: &mut u64) -> String {
    let mut text = String::new();
    match content {
        Value::String(whole) => text.push_str(whole),
        Value::Array(parts) => {
            for part in parts {
                match part["text"].as_str() {
                    Some(piece) => text.push_str(piece),
                    None => *images += 1,
                }
            }
        }
        _ => {}
    }
    *bytes += text.len() as u64;
    text
}

pub(crate) fn json_bytes(value: &Value) -> u64 {
    match value {
        Value::Null => 0,
        value => value.to_string().len() as u64,
    }
}

/// OpenAI's `usage`. Cache writes have no field there; they are part of `prompt_tokens`.
pub(crate) fn usage(tokens: &Tokens) -> Value {
    json!({
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input.saturating_add(tokens.output),
        "prompt_tokens_details": {"cached_tokens": tokens.cache_read, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": tokens.reasoning, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    })
}

/// What the script lets the answer say about usage; `None`: nothing.
pub(crate) fn told_usage(script: &UsageScript, counted: Value) -> Option<Value> {
    match script {
        UsageScript::Counted | UsageScript::Tokens(_) => Some(counted),
        UsageScript::Missing => None,
        UsageScript::Raw(value) => Some(value.clone()),
    }
}

fn finish_reason(made: &Generation, reply: &Reply) -> String {
    reply.finish_reason.clone().unwrap_or_else(|| {
        match made.finish {
            Finish::Stop | Finish::StopSequence(_) => "stop",
            Finish::Length => "length",
            Finish::ToolCalls => "tool_calls",
        }
        .to_string()
    })
}

fn head(made: &Generation, context: &Context, chunk: bool) -> Map<String, Value> {
    let (prefix, object) = match (context.text_completion, chunk) {
        (true, _) => ("cmpl", "text_completion"),
        (false, false) => ("chatcmpl", "chat.completion"),
        (false, true) => ("chatcmpl", "chat.completion.chunk"),
    };
    let mut head = Map::new();
    head.insert("id".into(), json!(format!("{prefix}-mock{:08}", made.seq)));
    head.insert("object".into(), json!(object));
    head.insert("created".into(), json!(context.created));
    head.insert("model".into(), json!(made.model));
    head.insert("system_fingerprint".into(), json!("fp_tollgate_mock"));
    head
}

fn call_id(call: &Call) -> String {
    if call.whole_id { call.id.clone() } else { format!("call_{}", call.id) }
}

fn content_filter() -> Value {
    let safe = json!({"filtered": false, "severity": "safe"});
    json!({"hate": safe, "self_harm": safe, "sexual": safe, "violence": safe})
}

/// The unary answer.
pub(crate) fn render(made: &Generation, ask: &Ask, reply: &Reply, context: &Context) -> Value {
    let mut body = head(made, context, false);
    let text = made.text();
    let finish = finish_reason(made, reply);
    let choices: Vec<Value> = (0..made.choices)
        .map(|index| {
            let mut choice = if context.text_completion {
                json!({"index": index, "text": text, "logprobs": null, "finish_reason": finish})
            } else {
                let message = message(made, &text);
                json!({"index": index, "message": message, "logprobs": logprobs(&made.pieces, ask), "finish_reason": finish})
            };
            if context.azure {
                choice["content_filter_results"] = content_filter();
            }
            choice
        })
        .collect();
    body.insert("choices".into(), choices.into());
    if context.azure {
        body.insert(
            "prompt_filter_results".into(),
            json!([{"prompt_index": 0, "content_filter_results": content_filter()}]),
        );
    } else if !context.text_completion {
        body.insert("service_tier".into(), json!("default"));
    }
    if let Some(usage) = told_usage(&reply.usage, usage(&made.tokens)) {
        body.insert("usage".into(), usage);
    }
    body.extend(reply.extra.clone());
    Value::Object(body)
}

fn message(made: &Generation, text: &str) -> Value {
    let content = if text.is_empty() && !made.calls.is_empty() { Value::Null } else { json!(text) };
    let mut message = json!({"role": "assistant", "content": content, "refusal": null, "annotations": []});
    if let Some(thinking) = &made.thinking {
        message["reasoning_content"] = json!(thinking);
    }
    if !made.calls.is_empty() {
        let calls = made.calls.iter().map(|call| {
            json!({"id": call_id(call), "type": "function", "function": {"name": call.name, "arguments": call.arguments}})
        });
        message["tool_calls"] = calls.collect();
    }
    message
}

fn logprobs(pieces: &[String], ask: &Ask) -> Value {
    if !ask.logprobs {
        return Value::Null;
    }
    let content = pieces
        .iter()
        .map(|piece| json!({"token": piece, "logprob": -0.25, "bytes": piece.as_bytes(), "top_logprobs": []}));
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}

/// Bytes of tool arguments in one stream fragment.
const ARGUMENT_FRAGMENT: usize = 12;

/// The stream's chunks, `[DONE]` excluded.
pub(crate) fn render_stream(made: &Generation, ask: &Ask, reply: &Reply, context: &Context) -> Vec<Event> {
    let mut events = Vec::new();
    let mut push = |choices: Value, brings: Brings| {
        let mut chunk = head(made, context, true);
        chunk.insert("choices".into(), choices);
        if ask.include_usage {
            chunk.insert("usage".into(), Value::Null);
        }
        if !context.azure && !context.text_completion {
            chunk.insert("service_tier".into(), json!("default"));
        }
        chunk.extend(reply.extra.clone());
        events.push(Event::new(None, Value::Object(chunk), brings));
    };
    let finish = finish_reason(made, reply);
    for index in 0..made.choices {
        if context.text_completion {
            for piece in &made.pieces {
                push(
                    json!([{"index": index, "text": piece, "logprobs": null, "finish_reason": null}]),
                    Brings::Content,
                );
            }
            push(json!([{"index": index, "text": "", "logprobs": null, "finish_reason": finish}]), Brings::Nothing);
            continue;
        }
        let mut delta = |delta: Value, logprobs: Value, brings: Brings| {
            push(json!([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": null}]), brings);
        };
        let opening = if made.calls.is_empty() { json!("") } else { Value::Null };
        delta(json!({"role": "assistant", "content": opening, "refusal": null}), Value::Null, Brings::Nothing);
        for piece in made.thinking.iter().flat_map(|thinking| tokens::split(thinking)) {
            delta(json!({"reasoning_content": piece}), Value::Null, Brings::Reasoning);
        }
        for piece in &made.pieces {
            delta(json!({"content": piece}), logprobs(std::slice::from_ref(piece), ask), Brings::Content);
        }
        for (at, call) in made.calls.iter().enumerate() {
            let function = json!({"name": call.name, "arguments": ""});
            let first = json!({"index": at, "id": call_id(call), "type": "function", "function": function});
            delta(json!({"tool_calls": [first]}), Value::Null, Brings::Content);
            for fragment in fragments(&call.arguments, ARGUMENT_FRAGMENT) {
                let next = json!({"index": at, "function": {"arguments": fragment}});
                delta(json!({"tool_calls": [next]}), Value::Null, Brings::Content);
            }
        }
        push(json!([{"index": index, "delta": {}, "logprobs": null, "finish_reason": finish}]), Brings::Nothing);
    }
    if context.azure {
        // Azure's first chunk has no choices, no id and no model: only the verdict on the prompt.
        let filter = json!([{"prompt_index": 0, "content_filter_results": content_filter()}]);
        let first = json!({
            "id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": filter,
        });
        events.insert(0, Event::new(None, first, Brings::Nothing));
    }
    place_usage(&mut events, made, ask, reply, context);
    events
}

fn place_usage(events: &mut Vec<Event>, made: &Generation, ask: &Ask, reply: &Reply, context: &Context) {
    let Some(usage) = told_usage(&reply.usage, usage(&made.tokens)) else { return };
    let mut last = || {
        let mut chunk = head(made, context, true);
        chunk.insert("choices".into(), json!([]));
        chunk.insert("usage".into(), usage.clone());
        chunk.extend(reply.extra.clone());
        events.push(Event { usage: true, ..Event::new(None, Value::Object(chunk), Brings::Nothing) });
    };
    match reply.usage_at {
        UsageAt::Usual if ask.include_usage => last(),
        UsageAt::Usual => {}
        UsageAt::Twice => {
            last();
            last();
        }
        UsageAt::First | UsageAt::Every => {
            let count = if reply.usage_at == UsageAt::First { 1 } else { events.len() };
            for event in events.iter_mut().take(count) {
                event.data["usage"] = usage.clone();
                event.usage = true;
            }
        }
    }
}

/// Pieces of at least `size` bytes, cut between characters.
pub(crate) fn fragments(text: &str, size: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let at = rest.char_indices().map(|(at, _)| at).find(|at| *at >= size).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(at);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// An error body. `kind` and `code` default to what the status implies.
pub(crate) fn error(status: u16, message: &str, kind: Option<&str>, code: Option<&str>, param: Option<&str>) -> Value {
    let (usual_kind, usual_code) = match status {
        401 => ("invalid_request_error", Some("invalid_api_key")),
        403 => ("invalid_request_error", None),
        404 => ("invalid_request_error", Some("model_not_found")),
        429 => ("rate_limit_error", Some("rate_limit_exceeded")),
        400..=499 => ("invalid_request_error", None),
        _ => ("server_error", None),
    };
    json!({"error": {
        "message": message, "type": kind.unwrap_or(usual_kind), "param": param, "code": code.or(usual_code),
    }})
}

/// `/models`.
pub(crate) fn models(models: &[String], created: u64) -> Value {
    json!({"object": "list", "data": models.iter().map(|id| model(id, created)).collect::<Vec<_>>()})
}

/// `/models/{id}`.
pub(crate) fn model(id: &str, created: u64) -> Value {
    json!({"id": id, "object": "model", "created": created, "owned_by": "tollgate-mock"})
}
