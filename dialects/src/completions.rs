//! `/v1/completions` told as a chat: the prompt is a user's message, the answer's text a
//! completion. Only a surface; upstreams that have the path are passed through to.

use crate::Usage;
use crate::chat::read::{DecodeError, Fields, Node};
use crate::chat::write::{Json, Members};
use crate::chat::{
    Block, Choice, Event, Message, Part, Reply, ReplyOptions, Request, Role, StreamOptions, Surface, shown_id,
};
use crate::openai::{encode_usage, finish_reason, take_sampling, write_done};

pub(crate) fn decode_request(body: &[u8]) -> Result<Request, DecodeError> {
    let mut fields = Fields::of_body(body)?;
    let model = fields.need_string("model")?;
    let prompt = decode_prompt(&fields.need("prompt")?)?;
    let messages = vec![Message::new(Role::User, vec![Block::text(prompt)])];
    let mut request = Request::new(Surface::OpenAiCompletions, model, messages);
    request.max_tokens = fields.take_u64("max_tokens")?;
    take_sampling(&mut fields, &mut request)?;
    request.extra = fields.rest();
    Ok(request)
}

fn decode_prompt(node: &Node<'_>) -> Result<String, DecodeError> {
    let text = if node.is_string() {
        node.string()?
    } else {
        let list = node.array().map_err(|_| node.wrong("must be a string or an array"))?;
        match list.as_slice() {
            [one] if one.is_string() => one.string()?,
            [] => String::new(),
            [first, ..] if first.is_string() => {
                return Err(
                    node.wrong("holds several prompts; this model is a chat model, which answers one at a time")
                );
            }
            _ => return Err(node.wrong("holds tokens; this model is a chat model, which needs text")),
        }
    };
    if text.is_empty() { Err(node.wrong("must not be empty")) } else { Ok(text) }
}

pub(crate) fn encode_reply(reply: &Reply, options: &ReplyOptions<'_>) -> Vec<u8> {
    let Reply { id, model: _, choices, usage } = reply;
    let id = options.id.map_or_else(|| shown_id("cmpl-", id), str::to_owned);
    let choices: Vec<_> = choices.iter().map(encode_choice).collect();
    Members::new()
        .with("id", id)
        .with("object", "text_completion")
        .with("created", options.created)
        .with("model", options.model)
        .with("choices", choices)
        .maybe("usage", usage.as_ref().map(encode_usage))
        .to_bytes()
}

/// Tool calls and thinking have no place in a text completion.
fn encode_choice(choice: &Choice) -> Members<'_> {
    let Choice { index, content, stop, stop_sequence: _ } = choice;
    let mut text = String::new();
    for part in content {
        if let Part::Text(piece) = part {
            text.push_str(piece);
        }
    }
    let reason = stop.as_ref().map_or("stop", finish_reason);
    choice_of(*index, Json::from(text), Json::from(reason))
}

fn choice_of<'a>(index: u32, text: Json<'a>, finish_reason: Json<'a>) -> Members<'a> {
    Members::new()
        .with("text", text)
        .with("index", index)
        .with("logprobs", Json::Null)
        .with("finish_reason", finish_reason)
}

/// The chunks of a text completion, written.
#[derive(Debug)]
pub(crate) struct ChunkEncoder {
    options: StreamOptions,
    id: String,
    usage: Option<Usage>,
}

impl ChunkEncoder {
    pub(crate) fn new(options: StreamOptions) -> Self {
        let id = options.id.clone().unwrap_or_else(|| shown_id("cmpl-", ""));
        Self { options, id, usage: None }
    }

    pub(crate) fn encode(&mut self, event: &Event, out: &mut Vec<u8>) {
        match event {
            Event::Start { id, .. } if self.options.id.is_none() => self.id = shown_id("cmpl-", id),
            Event::Text { choice, text } => self.chunk(choice_of(*choice, Json::from(text), Json::Null), out),
            Event::Stop { choice, reason, .. } => {
                self.chunk(choice_of(*choice, Json::from(""), Json::from(finish_reason(reason))), out);
            }
            Event::Usage(usage) => self.usage = Some(usage.clone()),
            Event::Start { .. }
            | Event::Thinking { .. }
            | Event::ThinkingSignature { .. }
            | Event::RedactedThinking { .. }
            | Event::ToolCall { .. }
            | Event::ToolArguments { .. }
            | Event::Error(_)
            | Event::End => {}
        }
    }

    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        if let (true, Some(usage)) = (self.options.include_usage, &self.usage) {
            let chunk = self.head().with("choices", Json::Array(Vec::new())).with("usage", encode_usage(usage));
            chunk.write_data_line(out);
        }
        write_done(out);
    }

    fn chunk(&self, choice: Members<'_>, out: &mut Vec<u8>) {
        self.head().with("choices", vec![choice]).write_data_line(out);
    }

    fn head(&self) -> Members<'_> {
        Members::new()
            .with("id", &self.id)
            .with("object", "text_completion")
            .with("created", self.options.created)
            .with("model", &self.options.model)
    }
}
