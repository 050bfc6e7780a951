//! A `chat.completion`, read and written.

use super::content::{decode_content, decode_thinking, encode_thinking};
use super::decode::arguments_text;
use super::encode_usage;
use crate::Usage;
use crate::chat::read::{DecodeError, Fields, Node};
use crate::chat::write::{Json, Members};
use crate::chat::{Choice, Part, Reply, ReplyOptions, StopReason, Thinking, ToolCall, shown_id};
use crate::error::decode_stream_error;
use crate::usage::{UsageQuirks, usage_of_openai};

pub(crate) fn decode_reply(body: &[u8]) -> Result<Reply, DecodeError> {
    let mut fields = Fields::of_body(body)?;
    if let Some(error) = fields.take("error") {
        // Some servers answer 200 with an error.
        let message = format!("is an error: {}", decode_stream_error(error.text()).message);
        return Err(DecodeError::body(message));
    }
    let mut reply = Reply {
        id: fields.lenient_string("id").unwrap_or_default(),
        model: fields.lenient_string("model").unwrap_or_default(),
        choices: Vec::new(),
        usage: fields.take("usage").and_then(|usage| read_usage(usage.text())),
    };
    let tier = fields.lenient_string("service_tier");
    if let (Some(usage), Some(tier)) = (&mut reply.usage, tier) {
        usage.service_tier.get_or_insert(tier.into());
    }
    for choice in fields.need("choices")?.array()? {
        reply.choices.push(decode_choice(&choice, &reply.id)?);
    }
    reply.choices.sort_by_key(|choice| choice.index);
    Ok(reply)
}

/// Figures that cannot be true are as good as none here; what is charged is decided elsewhere.
pub(super) fn read_usage(text: &str) -> Option<Usage> {
    usage_of_openai(text.as_bytes(), UsageQuirks::default()).ok().flatten()
}

fn decode_choice(node: &Node<'_>, reply_id: &str) -> Result<Choice, DecodeError> {
    let mut fields = node.fields()?;
    let index = fields.take_u64("index")?.and_then(|index| u32::try_from(index).ok()).unwrap_or(0);
    let mut message = fields.need_fields("message")?;
    let mut content = Vec::new();
    for block in message.take_array("thinking_blocks")? {
        let mut block = block.fields()?;
        let kind = block.need_string("type")?;
        content.push(decode_thinking(&kind, block)?);
    }
    let reasoning = message.lenient_string("reasoning_content").or_else(|| message.lenient_string("reasoning"));
    if let (true, Some(text)) = (content.is_empty(), reasoning.filter(|text| !text.is_empty())) {
        content.push(Part::Thinking(Thinking { text, signature: None }));
    }
    if let Some(text) = message.take("content") {
        content.extend(decode_content(&text)?.into_iter().map(|block| block.part));
    }
    let mut refused = false;
    if let Some(refusal) = message.take_string("refusal")?.filter(|text| !text.is_empty()) {
        content.push(Part::Text(refusal));
        refused = true;
    }
    let calls = message.take_array("tool_calls")?;
    let any_calls = !calls.is_empty();
    for (position, call) in calls.iter().enumerate() {
        content.push(Part::ToolCall(decode_tool_call(call, position, reply_id)?));
    }
    let (stop, stop_sequence) = decode_stop(&mut fields);
    let stop = stop.map(|stop| stop.with_tool_calls(any_calls));
    let stop = if refused { Some(StopReason::Refusal) } else { stop };
    Ok(Choice { index, content, stop, stop_sequence })
}

fn decode_tool_call(node: &Node<'_>, position: usize, reply_id: &str) -> Result<ToolCall, DecodeError> {
    let mut call = node.fields()?;
    let id = call.take_string("id")?.filter(|id| !id.is_empty());
    let id = id.unwrap_or_else(|| made_up_call_id(reply_id, position));
    let mut function = call.need_fields("function")?;
    let arguments = arguments_text(&mut function)?;
    Ok(ToolCall::new(id, function.need_string("name")?, arguments))
}

/// An id for a call whose server gives none: clients match results to calls by it.
pub(super) fn made_up_call_id(reply_id: &str, position: usize) -> String {
    shown_id("call_", &format!("{reply_id}-{position}"))
}

/// The reason a choice ended, and the stop sequence where the server (vLLM) says which.
pub(super) fn decode_stop(choice: &mut Fields<'_>) -> (Option<StopReason>, Option<String>) {
    let sequence = choice.take("stop_reason").filter(Node::is_string).and_then(|node| node.string().ok());
    let stop = choice.lenient_string("finish_reason").map(|reason| match reason.as_str() {
        "stop" if sequence.is_some() => StopReason::StopSequence,
        "stop" | "eos" | "eos_token" | "end_turn" => StopReason::EndTurn,
        "length" | "max_tokens" | "max_length" | "model_length" => StopReason::MaxTokens,
        "tool_calls" | "function_call" | "tool_use" => StopReason::ToolUse,
        "content_filter" | "safety" => StopReason::Refusal,
        _ => StopReason::Other(reason),
    });
    let sequence = sequence.filter(|_| stop == Some(StopReason::StopSequence));
    (stop, sequence)
}

/// OpenAI's word for a reason; clients know these four only.
pub(crate) fn finish_reason(stop: &StopReason) -> &'static str {
    match stop {
        StopReason::EndTurn | StopReason::StopSequence | StopReason::PauseTurn | StopReason::Other(_) => "stop",
        StopReason::MaxTokens | StopReason::ContextWindow => "length",
        StopReason::ToolUse => "tool_calls",
        StopReason::Refusal => "content_filter",
    }
}

pub(crate) fn encode_reply(reply: &Reply, options: &ReplyOptions<'_>) -> Vec<u8> {
    let Reply { id, model: _, choices, usage } = reply;
    let id = options.id.map_or_else(|| shown_id("chatcmpl-", id), str::to_owned);
    let choices: Vec<_> = choices.iter().map(encode_choice).collect();
    let mut body = Members::new()
        .with("id", id)
        .with("object", "chat.completion")
        .with("created", options.created)
        .with("model", options.model)
        .with("choices", choices);
    if let Some(usage) = usage {
        body.push("usage", encode_usage(usage));
        if let Some(tier) = &usage.service_tier {
            body.push("service_tier", shown_tier(tier));
        }
    }
    body.to_bytes()
}

/// Anthropic's name of the ordinary tier is not among those OpenAI's clients know.
pub(super) fn shown_tier(tier: &str) -> &str {
    if tier == "standard" { "default" } else { tier }
}

fn encode_choice(choice: &Choice) -> Members<'_> {
    let Choice { index, content, stop, stop_sequence: _ } = choice;
    let mut text: Option<String> = None;
    let mut reasoning: Option<String> = None;
    let mut thinking = Vec::new();
    let mut calls = Vec::new();
    for part in content {
        match part {
            Part::Text(piece) => text.get_or_insert_default().push_str(piece),
            Part::Thinking(Thinking { text, .. }) => reasoning.get_or_insert_default().push_str(text),
            Part::ToolCall(call) => {
                let function = Members::new().with("name", &call.name).with("arguments", &call.arguments);
                calls.push(Members::new().with("id", &call.id).with("type", "function").with("function", function));
            }
            // Pieces of a provider's own tools, which OpenAI's clients have no place for; their text
            // is beside them.
            Part::Image(_)
            | Part::Document(_)
            | Part::Audio(_)
            | Part::ToolResult(_)
            | Part::RedactedThinking(_)
            | Part::Native { .. } => {}
        }
        thinking.extend(encode_thinking(part));
    }
    let content = match text {
        Some(text) => Json::from(text),
        None if calls.is_empty() => Json::from(""),
        None => Json::Null,
    };
    let mut message = Members::new().with("role", "assistant").with("content", content).with("refusal", Json::Null);
    if let Some(reasoning) = reasoning.filter(|text| !text.is_empty()) {
        message.push("reasoning_content", reasoning);
    }
    if !thinking.is_empty() {
        message.push("thinking_blocks", thinking);
    }
    if !calls.is_empty() {
        message.push("tool_calls", calls);
    }
    Members::new()
        .with("index", *index)
        .with("message", message)
        .with("logprobs", Json::Null)
        .with("finish_reason", stop.as_ref().map_or("stop", finish_reason))
}
