//! The events of a `/v1/messages` stream, read.

use super::JSON_TOOL;
use super::reply::{stop_reason, without_json_tool};
use crate::chat::Event;
use crate::chat::read::{DecodeError, Fields};
use crate::error::decode_stream_error;
use crate::usage::{AnthropicFigures, Figures};

/// The most content blocks of one answer that are believed.
const MOST_BLOCKS: usize = 1 << 12;

#[derive(Debug, Default)]
pub(crate) struct ChunkDecoder {
    blocks: Vec<BlockState>,
    calls: u32,
    /// The answer came through the reserved tool.
    answered: bool,
    /// The reason to stop was told.
    stopped: bool,
    figures: AnthropicFigures,
}

#[derive(Debug)]
struct BlockState {
    index: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Text,
    Thinking {
        signature: String,
    },
    /// `initial` is what the block began with, told at its end if no pieces came.
    Tool {
        call: u32,
        initial: String,
        any: bool,
    },
    /// The reserved tool, whose input is the answer's text.
    Answer {
        initial: String,
        any: bool,
    },
    /// Only Anthropic has it.
    Foreign,
}

impl ChunkDecoder {
    pub(crate) fn decode(&mut self, data: &str, out: &mut Vec<Event>) -> Result<(), DecodeError> {
        let mut fields = Fields::of_text(data)?;
        match fields.need_string("type")?.as_str() {
            "message_start" => self.start(fields.need_fields("message")?, out),
            "content_block_start" => {
                let index = fields.take_u64("index")?.unwrap_or(0);
                self.block_start(index, fields.need_fields("content_block")?, out)
            }
            "content_block_delta" => {
                let index = fields.take_u64("index")?.unwrap_or(0);
                self.delta(index, fields.need_fields("delta")?, out)
            }
            "content_block_stop" => {
                let index = fields.take_u64("index")?.unwrap_or(0);
                if let Some(position) = self.position(index) {
                    let block = self.blocks.remove(position);
                    block.kind.stop(out);
                }
                Ok(())
            }
            "message_delta" => self.message_delta(fields, out),
            "message_stop" => {
                self.end(out);
                Ok(())
            }
            "error" => {
                out.push(Event::Error(decode_stream_error(data)));
                Ok(())
            }
            // `ping`, and what may come.
            _ => Ok(()),
        }
    }

    /// The bytes are over without `message_stop`: whether the answer was whole all the same.
    pub(crate) fn finish(&mut self, out: &mut Vec<Event>) -> bool {
        if self.stopped {
            self.end(out);
        }
        self.stopped
    }

    fn end(&mut self, out: &mut Vec<Event>) {
        if let Ok(Some(usage)) = std::mem::take(&mut self.figures).usage() {
            out.push(Event::Usage(usage));
        }
        out.push(Event::End);
    }

    fn start(&mut self, mut message: Fields<'_>, out: &mut Vec<Event>) -> Result<(), DecodeError> {
        self.take_figures(&mut message);
        out.push(Event::Start {
            id: message.lenient_string("id").unwrap_or_default(),
            model: message.lenient_string("model").unwrap_or_default(),
            usage: self.figures.clone().usage().ok().flatten(),
        });
        Ok(())
    }

    fn take_figures(&mut self, fields: &mut Fields<'_>) {
        if let Some(usage) = fields.take("usage") {
            // Figures that cannot be true are not told; what is charged is decided elsewhere.
            let _ = self.figures.take_all(usage.text().as_bytes());
        }
    }

    fn position(&self, index: u64) -> Option<usize> {
        self.blocks.iter().rposition(|block| block.index == index)
    }

    fn block_start(&mut self, index: u64, mut block: Fields<'_>, out: &mut Vec<Event>) -> Result<(), DecodeError> {
        let choice = 0;
        let kind = match block.need_string("type")?.as_str() {
            "text" => {
                let text = block.take_string("text")?.filter(|text| !text.is_empty());
                out.extend(text.map(|text| Event::Text { choice, text }));
                Kind::Text
            }
            "thinking" => {
                let text = block.take_string("thinking")?.filter(|text| !text.is_empty());
                out.extend(text.map(|text| Event::Thinking { choice, text }));
                Kind::Thinking { signature: block.take_string("signature")?.unwrap_or_default() }
            }
            "redacted_thinking" => {
                out.push(Event::RedactedThinking { choice, data: block.need_string("data")? });
                Kind::Foreign
            }
            "tool_use" => {
                let initial = block.take("input").map_or("{}", |input| input.text()).to_owned();
                let name = block.need_string("name")?;
                if name == JSON_TOOL {
                    self.answered = true;
                    Kind::Answer { initial, any: false }
                } else {
                    let call = self.calls;
                    self.calls += 1;
                    out.push(Event::ToolCall { choice, index: call, id: block.need_string("id")?, name });
                    Kind::Tool { call, initial, any: false }
                }
            }
            _ => Kind::Foreign,
        };
        if self.blocks.len() >= MOST_BLOCKS {
            return Err(DecodeError { message: "the stream opens too many blocks".to_owned(), param: None });
        }
        self.blocks.push(BlockState { index, kind });
        Ok(())
    }

    fn delta(&mut self, index: u64, mut delta: Fields<'_>, out: &mut Vec<Event>) -> Result<(), DecodeError> {
        let choice = 0;
        let Some(position) = self.position(index) else { return Ok(()) };
        let kind = &mut self.blocks[position].kind;
        match (delta.need_string("type")?.as_str(), kind) {
            ("text_delta", _) => {
                let text = delta.need_string("text")?;
                if !text.is_empty() {
                    out.push(Event::Text { choice, text });
                }
            }
            ("thinking_delta", _) => {
                let text = delta.need_string("thinking")?;
                if !text.is_empty() {
                    out.push(Event::Thinking { choice, text });
                }
            }
            ("signature_delta", Kind::Thinking { signature }) => {
                signature.push_str(&delta.need_string("signature")?);
            }
            ("input_json_delta", Kind::Tool { call, any, .. }) => {
                let json = delta.need_string("partial_json")?;
                if !json.is_empty() {
                    *any = true;
                    out.push(Event::ToolArguments { choice, index: *call, json });
                }
            }
            ("input_json_delta", Kind::Answer { any, .. }) => {
                let text = delta.need_string("partial_json")?;
                if !text.is_empty() {
                    *any = true;
                    out.push(Event::Text { choice, text });
                }
            }
            // Citations, and what may come.
            _ => {}
        }
        Ok(())
    }

    fn message_delta(&mut self, mut fields: Fields<'_>, out: &mut Vec<Event>) -> Result<(), DecodeError> {
        self.take_figures(&mut fields);
        let Some(mut delta) = fields.take_fields("delta")? else { return Ok(()) };
        if let Some(name) = delta.take_string("stop_reason")? {
            self.stopped = true;
            let reason = without_json_tool(stop_reason(name), self.answered, self.calls > 0);
            out.push(Event::Stop { choice: 0, reason, stop_sequence: delta.take_string("stop_sequence")? });
        }
        Ok(())
    }
}

impl Kind {
    fn stop(self, out: &mut Vec<Event>) {
        let choice = 0;
        match self {
            Self::Thinking { signature } if !signature.is_empty() => {
                out.push(Event::ThinkingSignature { choice, signature });
            }
            // A call without pieces has the input it began with, an empty object as a rule.
            Self::Tool { call, initial, any: false } => {
                out.push(Event::ToolArguments { choice, index: call, json: initial });
            }
            Self::Answer { initial, any: false } => out.push(Event::Text { choice, text: initial }),
            Self::Text | Self::Thinking { .. } | Self::Tool { .. } | Self::Answer { .. } | Self::Foreign => {}
        }
    }
}
