//! The events of a `/v1/messages` stream, written as SDKs expect them.
//!
//! Blocks come one after the other, each started, filled and stopped; usage and the reason to stop
//! come at the end, when both are known. Every event has its `event:` line; there is no `[DONE]`.

use super::reply::{message, stop_members};
use super::usage::encode_usage;
use crate::Usage;
use crate::chat::write::{Json, Members};
use crate::chat::{Event, Raw, StopReason, StreamOptions, shown_id};
use crate::error::ErrorBody;

#[derive(Debug)]
pub(crate) struct ChunkEncoder {
    options: StreamOptions,
    started: bool,
    /// The next block's index.
    next: u64,
    open: Open,
    /// Tool calls that began while another was open and not yet whole.
    waiting: Vec<Call>,
    stop: Option<(StopReason, Option<String>)>,
    usage: Usage,
}

/// The block being filled.
#[derive(Debug)]
enum Open {
    None,
    Text,
    Thinking,
    Tool(Call),
}

#[derive(Debug)]
struct Call {
    index: u32,
    id: String,
    name: String,
    /// What came of its arguments so far.
    json: String,
}

pub(crate) fn write_stream_error(error: &ErrorBody, out: &mut Vec<u8>) {
    write_event("error", &error.anthropic(), out);
}

fn write_event(name: &str, data: &Members<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
    data.write_data_line(out);
}

impl ChunkEncoder {
    pub(crate) fn new(options: StreamOptions) -> Self {
        Self {
            options,
            started: false,
            next: 0,
            open: Open::None,
            waiting: Vec::new(),
            stop: None,
            usage: Usage::default(),
        }
    }

    pub(crate) fn encode(&mut self, event: &Event, out: &mut Vec<u8>) {
        match event {
            Event::Start { id, usage, .. } => {
                if let Some(usage) = usage {
                    self.usage = usage.clone();
                }
                self.start(id, out);
            }
            // Anthropic has one answer.
            Event::Text { choice, .. }
            | Event::Thinking { choice, .. }
            | Event::ThinkingSignature { choice, .. }
            | Event::RedactedThinking { choice, .. }
            | Event::ToolCall { choice, .. }
            | Event::ToolArguments { choice, .. }
            | Event::Stop { choice, .. }
                if *choice != 0 => {}
            Event::Text { text, .. } => {
                if !matches!(self.open, Open::Text) {
                    self.open_block(Open::Text, Members::typed("text").with("text", ""), out);
                }
                self.delta(Members::typed("text_delta").with("text", text), out);
            }
            Event::Thinking { text, .. } => {
                self.open_thinking(out);
                self.delta(Members::typed("thinking_delta").with("thinking", text), out);
            }
            Event::ThinkingSignature { signature, .. } => {
                self.open_thinking(out);
                self.delta(Members::typed("signature_delta").with("signature", signature), out);
                self.close(out);
            }
            Event::RedactedThinking { data, .. } => {
                self.open_block(Open::None, Members::typed("redacted_thinking").with("data", data), out);
                self.block_stop(out);
            }
            Event::ToolCall { index, id, name, .. } => {
                let call = Call { index: *index, id: id.clone(), name: name.clone(), json: String::new() };
                self.tool_call(call, out);
            }
            Event::ToolArguments { index, json, .. } => self.arguments(*index, json, out),
            Event::Stop { reason, stop_sequence, .. } => {
                self.stop.get_or_insert((reason.clone(), stop_sequence.clone()));
            }
            Event::Usage(usage) => self.usage = usage.clone(),
            // The stream's own encoder tells these.
            Event::Error(_) | Event::End => {}
        }
    }

    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        self.start("", out);
        self.close(out);
        let (reason, sequence) = match &self.stop {
            Some((reason, sequence)) => (Some(reason), sequence.as_deref()),
            None => (None, None),
        };
        let (reason, sequence) = stop_members(reason, sequence);
        let delta = Members::new().with("stop_reason", reason).with("stop_sequence", sequence);
        let event = Members::typed("message_delta").with("delta", delta).with("usage", encode_usage(&self.usage));
        write_event("message_delta", &event, out);
        write_event("message_stop", &Members::typed("message_stop"), out);
    }

    /// Once, before anything else.
    fn start(&mut self, id: &str, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let id = self.options.id.clone().unwrap_or_else(|| shown_id("msg_", id));
        let message = message(&id, &self.options.model, Json::Array(Vec::new()), (Json::Null, Json::Null))
            .with("usage", encode_usage(&self.usage));
        write_event("message_start", &Members::typed("message_start").with("message", message), out);
    }

    fn open_thinking(&mut self, out: &mut Vec<u8>) {
        if !matches!(self.open, Open::Thinking) {
            let block = Members::typed("thinking").with("thinking", "").with("signature", "");
            self.open_block(Open::Thinking, block, out);
        }
    }

    fn open_block(&mut self, open: Open, block: Members<'_>, out: &mut Vec<u8>) {
        self.start("", out);
        self.close(out);
        self.write_start(block, out);
        self.open = open;
    }

    fn write_start(&self, block: Members<'_>, out: &mut Vec<u8>) {
        let event = Members::typed("content_block_start").with("index", self.next).with("content_block", block);
        write_event("content_block_start", &event, out);
    }

    fn delta(&self, delta: Members<'_>, out: &mut Vec<u8>) {
        let event = Members::typed("content_block_delta").with("index", self.next).with("delta", delta);
        write_event("content_block_delta", &event, out);
    }

    fn block_stop(&mut self, out: &mut Vec<u8>) {
        write_event("content_block_stop", &Members::typed("content_block_stop").with("index", self.next), out);
        self.next += 1;
        self.open = Open::None;
    }

    /// Ends the open block and tells the calls that waited for it.
    fn close(&mut self, out: &mut Vec<u8>) {
        if !matches!(self.open, Open::None) {
            self.block_stop(out);
        }
        for call in std::mem::take(&mut self.waiting) {
            self.open_tool(call, out);
            self.block_stop(out);
        }
    }

    fn open_tool(&mut self, call: Call, out: &mut Vec<u8>) {
        let block = Members::typed("tool_use").with("id", &call.id).with("name", &call.name);
        self.write_start(block.with("input", Members::new()), out);
        if !call.json.is_empty() {
            self.arguments_delta(&call.json, out);
        }
        self.open = Open::Tool(call);
    }

    fn arguments_delta(&self, json: &str, out: &mut Vec<u8>) {
        self.delta(Members::typed("input_json_delta").with("partial_json", json), out);
    }

    /// Servers may write several calls at once, piece by piece; Anthropic's clients read one block
    /// after the other. So a call whose forerunner is not whole waits for it.
    fn tool_call(&mut self, call: Call, out: &mut Vec<u8>) {
        self.start("", out);
        match &self.open {
            Open::Tool(open) if !open.is_whole() => self.waiting.push(call),
            _ => {
                self.close(out);
                self.open_tool(call, out);
            }
        }
    }

    fn arguments(&mut self, index: u32, json: &str, out: &mut Vec<u8>) {
        if let Open::Tool(open) = &mut self.open
            && open.index == index
        {
            open.json.push_str(json);
            self.arguments_delta(json, out);
            self.advance(out);
        } else if let Some(call) = self.waiting.iter_mut().find(|call| call.index == index) {
            call.json.push_str(json);
        }
    }

    /// Goes on to the next call that waits, as long as the open one is whole.
    fn advance(&mut self, out: &mut Vec<u8>) {
        while !self.waiting.is_empty() && matches!(&self.open, Open::Tool(open) if open.is_whole()) {
            let next = self.waiting.remove(0);
            self.block_stop(out);
            self.open_tool(next, out);
        }
    }
}

impl Call {
    fn is_whole(&self) -> bool {
        // The end is looked at first, so that long arguments are not parsed at every piece.
        self.json.trim_end().ends_with('}') && Raw::parse(self.json.as_str()).is_ok()
    }
}
