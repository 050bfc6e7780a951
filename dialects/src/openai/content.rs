//! OpenAI's content parts and data URLs, read and written.

use crate::Dialect;
use crate::chat::read::{DecodeError, Fields, Node};
use crate::chat::write::{Json, Members};
use crate::chat::{Audio, Block, Document, Image, Part, Source, Thinking};

/// Reads `content`: a string, or an array of parts.
pub(super) fn decode_content(content: &Node<'_>) -> Result<Vec<Block>, DecodeError> {
    if content.is_string() {
        let text = content.string()?;
        return Ok(if text.is_empty() { Vec::new() } else { vec![Block::text(text)] });
    }
    if !content.is_array() {
        return Err(content.wrong("must be a string or an array of parts"));
    }
    content.array()?.iter().map(decode_part).collect()
}

fn decode_part(node: &Node<'_>) -> Result<Block, DecodeError> {
    if node.is_string() {
        return Ok(Block::text(node.string()?));
    }
    let mut fields = node.fields()?;
    let kind = fields.need_string("type")?;
    let cache_control = fields.take_raw("cache_control");
    let part = match kind.as_str() {
        "text" | "input_text" | "output_text" => Part::Text(fields.need_string("text")?),
        "refusal" => Part::Text(fields.need_string("refusal")?),
        "image_url" => decode_image(&fields.need("image_url")?)?,
        "file" => decode_file(fields.need_fields("file")?)?,
        "input_audio" => {
            let mut audio = fields.need_fields("input_audio")?;
            Part::Audio(Audio { data: audio.need_string("data")?, format: audio.need_string("format")? })
        }
        "thinking" | "redacted_thinking" => decode_thinking(&kind, fields)?,
        _ => Part::Native { dialect: Dialect::OpenAi, raw: node.raw() },
    };
    Ok(Block { part, cache_control })
}

/// One of LiteLLM's `thinking_blocks`, which have Anthropic's shape.
pub(super) fn decode_thinking(kind: &str, mut fields: Fields<'_>) -> Result<Part, DecodeError> {
    if kind == "redacted_thinking" {
        return Ok(Part::RedactedThinking(fields.need_string("data")?));
    }
    let signature = fields.take_string("signature")?.filter(|signature| !signature.is_empty());
    Ok(Part::Thinking(Thinking { text: fields.take_string("thinking")?.unwrap_or_default(), signature }))
}

/// Anthropic's shape of a piece of thinking, which LiteLLM's clients know as `thinking_blocks`.
pub(super) fn encode_thinking(part: &Part) -> Option<Members<'_>> {
    match part {
        Part::Thinking(Thinking { text, signature: Some(signature) }) => {
            Some(Members::typed("thinking").with("thinking", text).with("signature", signature))
        }
        Part::RedactedThinking(data) => Some(Members::typed("redacted_thinking").with("data", data)),
        _ => None,
    }
}

fn decode_image(node: &Node<'_>) -> Result<Part, DecodeError> {
    // The documented object, or the bare URL that some clients send.
    let (url, detail) = if node.is_string() {
        (node.string()?, None)
    } else {
        let mut fields = node.fields()?;
        (fields.need_string("url")?, fields.take_string("detail")?)
    };
    let source = match split_data_url(&url) {
        Some((media_type, data)) => Source::Base64 { media_type, data },
        None => Source::Url(url),
    };
    Ok(Part::Image(Image { source, detail }))
}

fn decode_file(mut file: Fields<'_>) -> Result<Part, DecodeError> {
    let title = file.take_string("filename")?;
    let source = match file.take_string("file_data")? {
        Some(data) => match split_data_url(&data) {
            Some((media_type, data)) => Source::Base64 { media_type, data },
            // OpenAI's own clients also send the bare base64 of a PDF.
            None => Source::Base64 { media_type: "application/pdf".to_owned(), data },
        },
        // LiteLLM's clients put a URL where OpenAI has an id.
        None => match file.need_string("file_id")? {
            url if url.starts_with("https://") || url.starts_with("http://") => Source::Url(url),
            id => Source::FileId(id),
        },
    };
    Ok(Part::Document(Document { source, title }))
}

/// `data:image/png;base64,AAAA` as its media type and base64; `None` when `url` is no such thing.
fn split_data_url(url: &str) -> Option<(String, String)> {
    let rest = url.strip_prefix("data:")?;
    let (head, data) = rest.split_once(',')?;
    let head = head.strip_suffix(";base64")?;
    let media_type = head.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let media_type = match media_type.as_str() {
        // Not a registered type, though many clients send it; Anthropic refuses it.
        "image/jpg" => "image/jpeg".to_owned(),
        "" => "application/octet-stream".to_owned(),
        _ => media_type,
    };
    Some((media_type, data.to_owned()))
}

/// The data URL of some base64.
fn data_url(media_type: &str, data: &str) -> String {
    format!("data:{media_type};base64,{data}")
}

/// A content part; `None` when OpenAI has no such part.
pub(super) fn encode_block(block: &Block, keep_mark: bool) -> Option<Json<'_>> {
    let part = match &block.part {
        Part::Text(text) => Members::typed("text").with("text", text),
        Part::Image(Image { source, detail }) => {
            let url = match source {
                Source::Base64 { media_type, data } => data_url(media_type, data),
                Source::Url(url) => url.clone(),
                Source::FileId(_) | Source::Text(_) => return None,
            };
            let image = Members::new().with("url", url).maybe("detail", detail.as_ref());
            Members::typed("image_url").with("image_url", image)
        }
        Part::Document(Document { source, title }) => encode_document(source, title.as_ref())?,
        Part::Audio(Audio { data, format }) => {
            let audio = Members::new().with("data", data).with("format", format);
            Members::typed("input_audio").with("input_audio", audio)
        }
        Part::Native { dialect: Dialect::OpenAi, raw } => return Some(Json::from(raw)),
        Part::Native { .. }
        | Part::ToolCall(_)
        | Part::ToolResult(_)
        | Part::Thinking(_)
        | Part::RedactedThinking(_) => return None,
    };
    Some(Json::Object(part.maybe("cache_control", block.cache_control.as_ref().filter(|_| keep_mark))))
}

fn encode_document<'a>(source: &'a Source, title: Option<&'a String>) -> Option<Members<'a>> {
    let file = match source {
        Source::Base64 { media_type, data } => {
            // OpenAI requires a name with the data.
            let name = title.map_or("document", String::as_str);
            Members::new().with("filename", name).with("file_data", data_url(media_type, data))
        }
        Source::FileId(id) => Members::new().maybe("filename", title).with("file_id", id),
        Source::Text(text) => return Some(Members::typed("text").with("text", text)),
        Source::Url(_) => return None,
    };
    Some(Members::typed("file").with("file", file))
}

/// `content` of blocks: one string where that says everything, else an array of parts. `missing`
/// is told each block that OpenAI has no part for.
pub(super) fn encode_content<'a>(
    blocks: &[&'a Block],
    keep_marks: bool,
    flat: bool,
    mut missing: impl FnMut(&'a Block),
) -> Json<'a> {
    let mut parts = Vec::new();
    let mut texts = Vec::new();
    let mut marked = false;
    for block in blocks.iter().copied() {
        let Some(part) = encode_block(block, keep_marks) else {
            missing(block);
            continue;
        };
        if let Part::Text(text) = &block.part {
            texts.push(text.as_str());
        }
        marked |= keep_marks && block.cache_control.is_some();
        parts.push(part);
    }
    let all_text = texts.len() == parts.len();
    match texts.as_slice() {
        [] if parts.is_empty() => Json::from(""),
        [text] if all_text && !marked => Json::from(*text),
        _ if all_text && flat => Json::from(texts.join("\n\n")),
        _ => Json::Array(parts),
    }
}
