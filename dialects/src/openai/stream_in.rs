//! The chunks of a chat completion, read.
//!
//! Servers differ in what they leave out: ids, names, indexes of tool calls, roles, the last line.
//! What is unclear is read so that no call is lost or doubled.

use super::content::decode_thinking;
use super::decode::arguments_text;
use super::reply::{decode_stop, made_up_call_id, read_usage};
use crate::Usage;
use crate::chat::read::{DecodeError, Fields, Node};
use crate::chat::{Event, Part, StopReason};
use crate::error::decode_stream_error;

/// The most choices and tool calls of one answer that are believed.
const MOST: u64 = 1 << 12;

#[derive(Debug, Default)]
pub(crate) struct ChunkDecoder {
    started: bool,
    id: String,
    choices: Vec<ChoiceState>,
    /// The latest figures: some servers tell them with every chunk.
    usage: Option<Usage>,
    tier: Option<String>,
}

#[derive(Debug)]
struct ChoiceState {
    index: u32,
    calls: Vec<CallState>,
    refused: bool,
    stopped: bool,
}

#[derive(Debug)]
struct CallState {
    /// The server's index of the call, not unique with every server.
    index: u64,
    id: String,
    any_arguments: bool,
}

impl ChunkDecoder {
    pub(crate) fn decode(&mut self, data: &str, out: &mut Vec<Event>) -> Result<(), DecodeError> {
        if data.starts_with("[DONE]") {
            self.end(out);
            return Ok(());
        }
        let mut fields = Fields::of_text(data)?;
        if fields.take("error").is_some() {
            out.push(Event::Error(decode_stream_error(data)));
            return Ok(());
        }
        let choices = fields.take_array("choices")?;
        self.usage = fields.take("usage").and_then(|usage| read_usage(usage.text())).or(self.usage.take());
        self.tier = fields.lenient_string("service_tier").or(self.tier.take());
        // Azure begins with a chunk that has its filter's verdict and neither id nor model; the
        // answer starts with the next.
        let id = fields.lenient_string("id").unwrap_or_default();
        let is_answer = !choices.is_empty() || !id.is_empty();
        if is_answer && !self.started {
            self.started = true;
            self.id.clone_from(&id);
            let model = fields.lenient_string("model").unwrap_or_default();
            out.push(Event::Start { id, model, usage: None });
        }
        for choice in choices {
            self.choice(&choice, out)?;
        }
        Ok(())
    }

    /// The bytes are over without `[DONE]`: whether the answer was whole all the same.
    pub(crate) fn finish(&mut self, out: &mut Vec<Event>) -> bool {
        let whole = !self.choices.is_empty() && self.choices.iter().all(|choice| choice.stopped);
        if whole {
            self.end(out);
        }
        whole
    }

    fn end(&mut self, out: &mut Vec<Event>) {
        for choice in &mut self.choices {
            choice.complete_calls(out);
        }
        if let Some(mut usage) = self.usage.take() {
            if let Some(tier) = self.tier.take() {
                usage.service_tier.get_or_insert(tier.into());
            }
            out.push(Event::Usage(usage));
        }
        out.push(Event::End);
    }

    fn choice(&mut self, node: &Node<'_>, out: &mut Vec<Event>) -> Result<(), DecodeError> {
        let mut fields = node.fields()?;
        let index = fields.take_u64("index")?.unwrap_or(0);
        if index >= MOST {
            return Err(node.wrong("has an index that cannot be true"));
        }
        let index = index as u32;
        let position = match self.choices.iter().position(|choice| choice.index == index) {
            Some(position) => position,
            None => {
                self.choices.push(ChoiceState { index, calls: Vec::new(), refused: false, stopped: false });
                self.choices.len() - 1
            }
        };
        let id = &self.id;
        let choice = &mut self.choices[position];
        if let Some(delta) = fields.take_fields("delta")? {
            choice.delta(delta, id, out)?;
        }
        if let (Some(stop), sequence) = decode_stop(&mut fields) {
            choice.stop(stop, sequence, out);
        }
        Ok(())
    }
}

impl ChoiceState {
    fn delta(&mut self, mut delta: Fields<'_>, id: &str, out: &mut Vec<Event>) -> Result<(), DecodeError> {
        let choice = self.index;
        let blocks = delta.take_array("thinking_blocks")?;
        let text = delta.lenient_string("reasoning_content").or_else(|| delta.lenient_string("reasoning"));
        let text = text.filter(|text| !text.is_empty());
        if let Some(text) = text {
            out.push(Event::Thinking { choice, text });
        }
        for block in blocks {
            let mut block = block.fields()?;
            let kind = block.need_string("type")?;
            match decode_thinking(&kind, block)? {
                // The text came as `reasoning_content`.
                Part::Thinking(thinking) => {
                    if let Some(signature) = thinking.signature {
                        out.push(Event::ThinkingSignature { choice, signature });
                    }
                }
                Part::RedactedThinking(data) => out.push(Event::RedactedThinking { choice, data }),
                _ => {}
            }
        }
        if let Some(content) = delta.take("content") {
            for block in super::content::decode_content(&content)? {
                match block.part {
                    Part::Text(text) if !text.is_empty() => out.push(Event::Text { choice, text }),
                    Part::Thinking(thinking) if !thinking.text.is_empty() => {
                        out.push(Event::Thinking { choice, text: thinking.text });
                    }
                    _ => {}
                }
            }
        }
        if let Some(text) = delta.take_string("refusal")?.filter(|text| !text.is_empty()) {
            self.refused = true;
            out.push(Event::Text { choice, text });
        }
        for call in delta.take_array("tool_calls")? {
            self.tool_call(&call, id, out)?;
        }
        Ok(())
    }

    fn tool_call(&mut self, node: &Node<'_>, reply_id: &str, out: &mut Vec<Event>) -> Result<(), DecodeError> {
        let mut fields = node.fields()?;
        let index = fields.take_u64("index")?;
        let id = fields.take_string("id")?.filter(|id| !id.is_empty());
        let mut function = fields.take_fields("function")?;
        let name = match &mut function {
            Some(function) => function.take_string("name")?.filter(|name| !name.is_empty()),
            None => None,
        };
        let json = function.as_mut().map(arguments_text).transpose()?.unwrap_or_default();
        let known = match (index, &id) {
            // The last one wins: a server that says 0 for every call means the newest.
            (Some(index), _) => self.calls.iter().rposition(|call| call.index == index),
            (None, Some(id)) => self.calls.iter().rposition(|call| call.id == *id),
            (None, None) => self.calls.len().checked_sub(1).filter(|_| name.is_none()),
        };
        // A new name under another id is another call, whatever its index says.
        let known = known.filter(|position| {
            let other = id.as_ref().is_some_and(|id| self.calls[*position].id != *id);
            !(other && name.is_some())
        });
        let position = match (known, name) {
            (Some(position), _) => position,
            (None, Some(name)) => {
                let position = self.calls.len();
                if position as u64 >= MOST {
                    return Err(node.wrong("is one tool call too many"));
                }
                let id = id.unwrap_or_else(|| made_up_call_id(reply_id, position));
                let event = Event::ToolCall { choice: self.index, index: position as u32, id: id.clone(), name };
                out.push(event);
                self.calls.push(CallState { index: index.unwrap_or(position as u64), id, any_arguments: false });
                position
            }
            (None, None) if json.is_empty() => return Ok(()),
            (None, None) => return Err(node.wrong("continues a tool call that has not begun")),
        };
        if !json.is_empty() {
            self.calls[position].any_arguments = true;
            out.push(Event::ToolArguments { choice: self.index, index: position as u32, json });
        }
        Ok(())
    }

    fn stop(&mut self, reason: StopReason, stop_sequence: Option<String>, out: &mut Vec<Event>) {
        if self.stopped {
            return;
        }
        self.stopped = true;
        self.complete_calls(out);
        let reason = reason.with_tool_calls(!self.calls.is_empty());
        let reason = if self.refused { StopReason::Refusal } else { reason };
        out.push(Event::Stop { choice: self.index, reason, stop_sequence });
    }

    /// A call without arguments means an empty object, also to clients that parse what they got.
    fn complete_calls(&mut self, out: &mut Vec<Event>) {
        for (position, call) in self.calls.iter_mut().enumerate().filter(|(_, call)| !call.any_arguments) {
            call.any_arguments = true;
            let index = position as u32;
            out.push(Event::ToolArguments { choice: self.index, index, json: "{}".to_owned() });
        }
    }
}
