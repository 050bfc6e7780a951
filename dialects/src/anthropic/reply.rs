//! A `message`, read and written.

use super::JSON_TOOL;
use super::content::{decode_part, encode_tool_use};
use super::usage::encode_usage;
use crate::Dialect;
use crate::Usage;
use crate::chat::read::{DecodeError, Fields};
use crate::chat::write::{Json, Members};
use crate::chat::{Choice, Part, Reply, ReplyOptions, StopReason, Thinking, shown_id};
use crate::error::decode_stream_error;
use crate::usage::usage_of_anthropic;

pub(crate) fn decode_reply(body: &[u8]) -> Result<Reply, DecodeError> {
    let mut fields = Fields::of_body(body)?;
    if let Some(error) = fields.take("error") {
        let message = format!("is an error: {}", decode_stream_error(error.text()).message);
        return Err(DecodeError::body(message));
    }
    let mut content = Vec::new();
    let mut calls = false;
    let mut answer = None;
    for block in fields.need("content")?.array()? {
        let mut parts = block.fields()?;
        let kind = parts.need_string("type")?;
        match decode_part(&kind, parts)? {
            Some(Part::ToolCall(call)) if call.name == JSON_TOOL => {
                answer = Some(call.arguments);
            }
            Some(part) => {
                calls |= matches!(part, Part::ToolCall(_));
                content.push(part);
            }
            None => content.push(Part::Native { dialect: Dialect::Anthropic, raw: block.raw() }),
        }
    }
    let answered = answer.is_some();
    if let Some(answer) = answer {
        // What a model says before it answers in JSON would spoil the JSON.
        content.retain(|part| calls || !matches!(part, Part::Text(_)));
        content.push(Part::Text(answer));
    }
    let stop = fields.lenient_string("stop_reason").map(stop_reason);
    let usage = fields.take("usage").and_then(|usage| usage_of_anthropic(usage.text().as_bytes()).ok().flatten());
    Ok(Reply {
        id: fields.lenient_string("id").unwrap_or_default(),
        model: fields.lenient_string("model").unwrap_or_default(),
        choices: vec![Choice {
            index: 0,
            content,
            stop: stop.map(|stop| without_json_tool(stop, answered, calls)),
            stop_sequence: fields.lenient_string("stop_sequence"),
        }],
        usage,
    })
}

pub(super) fn stop_reason(name: String) -> StopReason {
    match name.as_str() {
        "end_turn" => StopReason::EndTurn,
        "max_tokens" => StopReason::MaxTokens,
        "stop_sequence" => StopReason::StopSequence,
        "tool_use" => StopReason::ToolUse,
        "refusal" => StopReason::Refusal,
        "pause_turn" => StopReason::PauseTurn,
        "model_context_window_exceeded" => StopReason::ContextWindow,
        _ => StopReason::Other(name),
    }
}

/// The reason a client sees: an answer through the reserved tool is an answer, not a call.
pub(super) fn without_json_tool(stop: StopReason, answered: bool, calls: bool) -> StopReason {
    match stop {
        StopReason::ToolUse if answered && !calls => StopReason::EndTurn,
        stop => stop,
    }
}

/// Anthropic's word for a reason.
pub(super) fn stop_name(stop: &StopReason) -> &'static str {
    match stop {
        StopReason::EndTurn | StopReason::Other(_) => "end_turn",
        StopReason::MaxTokens => "max_tokens",
        StopReason::StopSequence => "stop_sequence",
        StopReason::ToolUse => "tool_use",
        StopReason::Refusal => "refusal",
        StopReason::PauseTurn => "pause_turn",
        StopReason::ContextWindow => "model_context_window_exceeded",
    }
}

pub(crate) fn encode_reply(reply: &Reply, options: &ReplyOptions<'_>) -> Vec<u8> {
    let Reply { id, model: _, choices, usage } = reply;
    let none = Choice::default();
    // Anthropic has one answer; several are refused before they are asked for.
    let Choice { index: _, content, stop, stop_sequence } = choices.first().unwrap_or(&none);
    let id = options.id.map_or_else(|| shown_id("msg_", id), str::to_owned);
    let content: Vec<_> = content.iter().filter_map(encode_part).collect();
    // Its clients read the counts without asking whether they are there.
    let zero = Usage::default();
    let usage = encode_usage(usage.as_ref().unwrap_or(&zero));
    message(&id, options.model, Json::Array(content), stop_members(stop.as_ref(), stop_sequence.as_deref()))
        .with("usage", usage)
        .to_bytes()
}

/// What an answer and the start of a stream have in common.
pub(super) fn message<'a>(
    id: &'a str,
    model: &'a str,
    content: Json<'a>,
    (stop_reason, stop_sequence): (Json<'a>, Json<'a>),
) -> Members<'a> {
    Members::new()
        .with("id", id)
        .with("type", "message")
        .with("role", "assistant")
        .with("model", model)
        .with("content", content)
        .with("stop_reason", stop_reason)
        .with("stop_sequence", stop_sequence)
}

pub(super) fn stop_members<'a>(stop: Option<&StopReason>, sequence: Option<&'a str>) -> (Json<'a>, Json<'a>) {
    let reason = stop.map_or("end_turn", stop_name);
    (Json::from(reason), sequence.map_or(Json::Null, Json::from))
}

fn encode_part(part: &Part) -> Option<Json<'_>> {
    Some(match part {
        Part::Text(text) if text.is_empty() => return None,
        Part::Text(text) => Members::typed("text").with("text", text).into(),
        Part::Thinking(Thinking { text, signature }) => {
            // Another provider's thinking has no proof; an empty one is what clients expect to send
            // back, and what is dropped then.
            let signature = signature.as_deref().unwrap_or("");
            Members::typed("thinking").with("thinking", text).with("signature", signature).into()
        }
        Part::RedactedThinking(data) => Members::typed("redacted_thinking").with("data", data).into(),
        Part::ToolCall(call) => encode_tool_use(call).into(),
        Part::Native { dialect: Dialect::Anthropic, raw } => raw.into(),
        Part::Image(_) | Part::Document(_) | Part::Audio(_) | Part::ToolResult(_) | Part::Native { .. } => return None,
    })
}
