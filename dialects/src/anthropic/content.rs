//! Anthropic's content blocks, read and written.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Dialect;
use crate::chat::read::{DecodeError, Fields, Node};
use crate::chat::write::{Json, Members};
use crate::chat::{Block, Document, Image, Part, Raw, Source, Thinking, ToolCall, ToolResult};

/// Reads `content`: a string, or an array of blocks.
pub(super) fn decode_content(node: &Node<'_>) -> Result<Vec<Block>, DecodeError> {
    if node.is_string() {
        let text = node.string()?;
        return Ok(if text.is_empty() { Vec::new() } else { vec![Block::text(text)] });
    }
    if !node.is_array() {
        return Err(node.wrong("must be a string or an array of blocks"));
    }
    node.array()?.iter().map(decode_block).collect()
}

/// What a tool answers. It holds no results of other tools, so nesting ends here.
fn decode_result_content(node: &Node<'_>) -> Result<Vec<Block>, DecodeError> {
    if node.is_array() {
        for block in node.array()? {
            let kind = block.fields()?.take("type");
            if kind.is_some_and(|kind| kind.string().is_ok_and(|kind| kind == "tool_result")) {
                return Err(block.wrong("is a tool result within a tool result"));
            }
        }
    }
    decode_content(node)
}

fn decode_block(node: &Node<'_>) -> Result<Block, DecodeError> {
    let mut fields = node.fields()?;
    let kind = fields.need_string("type")?;
    let cache_control = fields.take_raw("cache_control");
    let part = decode_part(&kind, fields)?;
    let part = part.unwrap_or_else(|| Part::Native { dialect: Dialect::Anthropic, raw: node.raw() });
    Ok(Block { part, cache_control })
}

/// A block of the kinds that other dialects know; `None` for the others.
pub(super) fn decode_part(kind: &str, mut fields: Fields<'_>) -> Result<Option<Part>, DecodeError> {
    Ok(Some(match kind {
        "text" => Part::Text(fields.need_string("text")?),
        "image" => match decode_source(fields.need_fields("source")?)? {
            Some(source) => Part::Image(Image { source, detail: None }),
            None => return Ok(None),
        },
        "document" => match decode_source(fields.need_fields("source")?)? {
            Some(source) => Part::Document(Document { source, title: fields.take_string("title")? }),
            None => return Ok(None),
        },
        "tool_use" => Part::ToolCall(decode_tool_use(fields)?),
        "tool_result" => {
            let call_id = fields.need_string("tool_use_id")?;
            let content = fields.take("content").map(|content| decode_result_content(&content)).transpose()?;
            let is_error = fields.take_bool("is_error")?.unwrap_or(false);
            Part::ToolResult(ToolResult { call_id, content: content.unwrap_or_default(), is_error })
        }
        "thinking" => {
            let text = fields.take_string("thinking")?.unwrap_or_default();
            let signature = fields.take_string("signature")?.filter(|signature| !signature.is_empty());
            Part::Thinking(Thinking { text, signature })
        }
        "redacted_thinking" => Part::RedactedThinking(fields.need_string("data")?),
        _ => return Ok(None),
    }))
}

fn decode_tool_use(mut fields: Fields<'_>) -> Result<ToolCall, DecodeError> {
    let input = match fields.take("input") {
        Some(input) if input.is_object() => input.text().to_owned(),
        // Some clients send back what they never parsed.
        Some(input) if input.is_string() => input.string()?,
        Some(input) => return Err(input.wrong("must be an object")),
        None => String::new(),
    };
    Ok(ToolCall::new(fields.need_string("id")?, fields.need_string("name")?, input))
}

/// `None` for a source only Anthropic has.
fn decode_source(mut fields: Fields<'_>) -> Result<Option<Source>, DecodeError> {
    Ok(Some(match fields.need_string("type")?.as_str() {
        "base64" => Source::Base64 { media_type: fields.need_string("media_type")?, data: fields.need_string("data")? },
        "url" => Source::Url(fields.need_string("url")?),
        "file" => Source::FileId(fields.need_string("file_id")?),
        "text" => Source::Text(fields.need_string("data")?),
        _ => return Ok(None),
    }))
}

/// A block for a request or a reply; `None` when there is nothing to tell.
///
/// `missing` is told the kinds that Anthropic has no block for.
pub(super) fn encode_block<'a>(block: &'a Block, missing: &mut dyn FnMut(&str)) -> Option<Json<'a>> {
    let members = match &block.part {
        // An empty text block is refused.
        Part::Text(text) if text.trim().is_empty() => return None,
        Part::Text(text) => Members::typed("text").with("text", text),
        Part::Image(Image { source, detail: _ }) => Members::typed("image").with("source", encode_source(source)),
        Part::Document(Document { source, title }) => {
            let title = title.as_ref().filter(|title| !title.is_empty());
            Members::typed("document").with("source", encode_source(source)).maybe("title", title)
        }
        Part::ToolCall(call) => encode_tool_use(call),
        Part::ToolResult(result) => encode_tool_result(result, missing),
        // Only what Anthropic signed may be sent back to it.
        Part::Thinking(Thinking { signature: None, .. }) => return None,
        Part::Thinking(Thinking { text, signature: Some(signature) }) => {
            // No mark: thinking cannot carry one.
            return Some(Members::typed("thinking").with("thinking", text).with("signature", signature).into());
        }
        Part::RedactedThinking(data) => {
            return Some(Members::typed("redacted_thinking").with("data", data).into());
        }
        Part::Audio(_) => {
            missing("messages: audio");
            return None;
        }
        Part::Native { dialect: Dialect::Anthropic, raw } => return Some(raw.into()),
        Part::Native { raw, .. } => {
            missing(&format!("messages: {}", crate::openai::type_of(raw.get())));
            return None;
        }
    };
    Some(members.maybe("cache_control", block.cache_control.as_ref()).into())
}

pub(super) fn encode_tool_use(call: &ToolCall) -> Members<'_> {
    let ToolCall { id, name, arguments } = call;
    Members::typed("tool_use").with("id", call_id(id)).with("name", name).with("input", input_object(arguments))
}

fn encode_tool_result<'a>(result: &'a ToolResult, missing: &mut dyn FnMut(&str)) -> Members<'a> {
    let ToolResult { call_id: id, content, is_error } = result;
    let content = match content.as_slice() {
        [Block { part: Part::Text(text), cache_control: None }] if !text.trim().is_empty() => Some(Json::from(text)),
        blocks => {
            let blocks: Vec<_> = blocks.iter().filter_map(|block| encode_block(block, missing)).collect();
            (!blocks.is_empty()).then_some(Json::Array(blocks))
        }
    };
    Members::typed("tool_result")
        .with("tool_use_id", call_id(id))
        .maybe("content", content)
        .maybe("is_error", is_error.then_some(true))
}

fn encode_source(source: &Source) -> Members<'_> {
    match source {
        Source::Base64 { media_type, data } => match decoded_text(media_type, data) {
            Some(text) => text_source().with("data", text),
            None => Members::typed("base64").with("media_type", media_type).with("data", data),
        },
        Source::Url(url) => Members::typed("url").with("url", url),
        Source::FileId(id) => Members::typed("file").with("file_id", id),
        Source::Text(text) => text_source().with("data", text),
    }
}

fn text_source<'a>() -> Members<'a> {
    Members::typed("text").with("media_type", "text/plain")
}

/// Plain text that came as base64: Anthropic takes base64 of pictures and PDFs only.
fn decoded_text(media_type: &str, data: &str) -> Option<String> {
    if !media_type.starts_with("text/") {
        return None;
    }
    String::from_utf8(STANDARD.decode(data).ok()?).ok()
}

/// An id Anthropic takes: letters, digits, `_` and `-`. The same for a call and its result.
fn call_id(id: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    if id.is_empty() { "_".to_owned() } else { id.chars().map(legal).collect() }
}

/// Arguments as the object Anthropic requires. What is no object, because a model was cut off or
/// wrote bad JSON, is wrapped under the name Anthropic's documentation of fine-grained tool
/// streaming proposes, so that a tool refuses it and a model sees what it wrote.
fn input_object<'a>(arguments: &str) -> Json<'a> {
    match Raw::parse(arguments) {
        Ok(raw) if raw.get().starts_with('{') => Json::from(raw),
        _ => Members::new().with("INVALID_JSON", arguments.to_owned()).into(),
    }
}
