//! The chunks of a chat completion, written as SDKs expect them.
//!
//! Every chunk has `choices`; ids and names of tool calls come once; usage is last, with no choices,
//! and only if asked for; `[DONE]` ends it, exactly so, and no event has an `id:` line.

use super::encode_usage;
use super::reply::{finish_reason, shown_tier};
use crate::Usage;
use crate::chat::write::{Json, Members};
use crate::chat::{Event, StreamOptions, shown_id};
use crate::error::ErrorBody;

#[derive(Debug)]
pub(crate) struct ChunkEncoder {
    options: StreamOptions,
    id: String,
    choices: Vec<ChoiceState>,
    usage: Option<Usage>,
}

#[derive(Debug)]
struct ChoiceState {
    index: u32,
    /// The text of the piece of thinking at hand: its proof is told with all of it.
    thinking: String,
    stopped: bool,
}

pub(crate) fn write_done(out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: [DONE]\n\n");
}

/// SDKs raise on a top-level `error`; `[DONE]` behind it is what LiteLLM's clients saw.
pub(crate) fn write_stream_error(error: &ErrorBody, out: &mut Vec<u8>) {
    Members::new().with("error", error.openai()).write_data_line(out);
    write_done(out);
}

impl ChunkEncoder {
    pub(crate) fn new(options: StreamOptions) -> Self {
        let id = options.id.clone().unwrap_or_else(|| shown_id("chatcmpl-", ""));
        Self { options, id, choices: Vec::new(), usage: None }
    }

    pub(crate) fn encode(&mut self, event: &Event, out: &mut Vec<u8>) {
        match event {
            Event::Start { id, .. } => {
                if self.options.id.is_none() {
                    self.id = shown_id("chatcmpl-", id);
                }
                self.begun(0, out);
            }
            Event::Text { choice, text } => self.delta(*choice, Members::new().with("content", text), out),
            Event::Thinking { choice, text } => {
                self.begun(*choice, out).thinking.push_str(text);
                self.delta(*choice, Members::new().with("reasoning_content", text), out);
            }
            Event::ThinkingSignature { choice, signature } => {
                let text = std::mem::take(&mut self.begun(*choice, out).thinking);
                let block = Members::typed("thinking").with("thinking", text).with("signature", signature);
                self.delta(*choice, Members::new().with("thinking_blocks", vec![block]), out);
            }
            Event::RedactedThinking { choice, data } => {
                let block = Members::typed("redacted_thinking").with("data", data);
                self.delta(*choice, Members::new().with("thinking_blocks", vec![block]), out);
            }
            Event::ToolCall { choice, index, id, name } => {
                let function = Members::new().with("name", name).with("arguments", "");
                let call = Members::new().with("index", *index).with("id", id).with("type", "function");
                self.delta(*choice, calls(call.with("function", function)), out);
            }
            Event::ToolArguments { choice, index, json } => {
                let function = Members::new().with("arguments", json);
                self.delta(*choice, calls(Members::new().with("index", *index).with("function", function)), out);
            }
            Event::Stop { choice, reason, .. } => {
                let state = self.begun(*choice, out);
                if !std::mem::replace(&mut state.stopped, true) {
                    self.chunk(choice_of(*choice, Members::new(), Json::from(finish_reason(reason))), out);
                }
            }
            Event::Usage(usage) => self.usage = Some(usage.clone()),
            // The stream's own encoder tells these.
            Event::Error(_) | Event::End => {}
        }
    }

    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        if let (true, Some(usage)) = (self.options.include_usage, &self.usage) {
            let chunk = self.head().with("choices", Json::Array(Vec::new())).with("usage", encode_usage(usage));
            chunk.maybe("service_tier", usage.service_tier.as_deref().map(shown_tier)).write_data_line(out);
        }
        write_done(out);
    }

    /// The state of a choice; its first chunk has the role.
    fn begun(&mut self, index: u32, out: &mut Vec<u8>) -> &mut ChoiceState {
        let position = match self.choices.iter().position(|choice| choice.index == index) {
            Some(position) => position,
            None => {
                let delta = Members::new().with("role", "assistant").with("content", "");
                self.chunk(choice_of(index, delta, Json::Null), out);
                self.choices.push(ChoiceState { index, thinking: String::new(), stopped: false });
                self.choices.len() - 1
            }
        };
        &mut self.choices[position]
    }

    fn delta(&mut self, choice: u32, delta: Members<'_>, out: &mut Vec<u8>) {
        self.begun(choice, out);
        self.chunk(choice_of(choice, delta, Json::Null), out);
    }

    fn chunk(&self, choice: Members<'_>, out: &mut Vec<u8>) {
        self.head().with("choices", vec![choice]).write_data_line(out);
    }

    fn head(&self) -> Members<'_> {
        Members::new()
            .with("id", &self.id)
            .with("object", "chat.completion.chunk")
            .with("created", self.options.created)
            .with("model", &self.options.model)
    }
}

fn choice_of<'a>(index: u32, delta: Members<'a>, finish_reason: Json<'a>) -> Members<'a> {
    Members::new().with("index", index).with("delta", delta).with("finish_reason", finish_reason)
}

fn calls(call: Members<'_>) -> Members<'_> {
    Members::new().with("tool_calls", vec![call])
}
