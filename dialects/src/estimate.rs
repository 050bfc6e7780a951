//! Guesses at the input tokens of a request: for `count_tokens` where the provider has no counter, and for what limits of
//! rates reserve.
//!
//! An estimate and told as one; never used for money.

use memchr::memchr;

use crate::chat::{Block, Part, Request, Source, Tool};
use crate::head::Modalities;

/// Bytes of text or JSON that make about one token with today's tokenizers: four letters of English,
/// one or two signs of Chinese.
const BYTES_PER_TOKEN: u64 = 4;

/// Tokens that mark the start and the end of a message.
const TOKENS_PER_MESSAGE: u64 = 4;

/// Tokens of a picture of the size providers scale to.
const TOKENS_PER_IMAGE: u64 = 1_600;

/// Base64 bytes of an ordinary page of a PDF, and its tokens as text and picture.
const BYTES_PER_PAGE: u64 = 80_000;
const TOKENS_PER_PAGE: u64 = 2_000;

/// Base64 bytes of audio that make a token: 10 tokens are a second of compressed speech.
const AUDIO_BYTES_PER_TOKEN: u64 = 200;

/// Shorter strings are not looked at: as text they come to few tokens too. Bytes.
const SHORTEST_DATA: usize = 1 << 10;

/// What is looked at of either end of a string. Bytes.
const SAMPLE: usize = 128;

/// About how many tokens a body has that is not read any further: by its bytes, but for images, audio and files that are in
/// it as base64. A body that has no such parts is not looked at. `modalities`: what it has.
pub fn body_tokens(body: &[u8], modalities: &Modalities) -> u64 {
    let length = body.len() as u64;
    let Modalities { images, audio, files, videos, elsewhere: _ } = *modalities;
    if images == 0 && audio == 0 && files == 0 && videos == 0 {
        return length / BYTES_PER_TOKEN;
    }
    let data = data_bytes(body);
    // Which of them the data is of is not known: what has the most tokens.
    let media = if files > 0 || videos > 0 {
        data.div_ceil(BYTES_PER_PAGE) * TOKENS_PER_PAGE
    } else if audio > 0 {
        data.div_ceil(AUDIO_BYTES_PER_TOKEN)
    } else {
        0
    };
    let images = u64::from(images).saturating_mul(TOKENS_PER_IMAGE);
    ((length - data) / BYTES_PER_TOKEN).saturating_add(media).saturating_add(images)
}

/// Bytes of the strings that are base64, by themselves or in a `data:` URL.
fn data_bytes(body: &[u8]) -> u64 {
    let mut data = 0;
    let mut start = 0;
    for quote in memchr::memchr_iter(b'"', body) {
        if quote - start >= SHORTEST_DATA && is_data(&body[start..quote]) {
            data += quote - start;
        }
        start = quote + 1;
    }
    data as u64
}

/// Whether a long string is base64, by its ends.
fn is_data(text: &[u8]) -> bool {
    let text = match text.strip_prefix(b"data:").zip(memchr(b',', &text[..SAMPLE * 2])) {
        Some((_, comma)) => &text[comma + 1..],
        None => text,
    };
    // Some write `/` as `\/`, or break lines.
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_=\\".contains(byte);
    text.len() > SAMPLE && text[..SAMPLE].iter().chain(&text[text.len() - SAMPLE..]).all(is_base64)
}

/// About how many tokens the input of `request` has; at least 1.
pub fn count_tokens_estimate(request: &Request) -> u64 {
    let mut text = 0;
    let mut other = 0;
    for message in &request.messages {
        other += TOKENS_PER_MESSAGE;
        for block in &message.content {
            add(block, &mut text, &mut other);
        }
    }
    for tool in &request.tools {
        other += TOKENS_PER_MESSAGE;
        text += match tool {
            Tool::Function(function) => {
                let schema = function.schema.as_ref().map_or(0, |schema| schema.get().len());
                function.name.len() + function.description.as_ref().map_or(0, String::len) + schema
            }
            Tool::Native { raw, .. } => raw.get().len(),
        } as u64;
    }
    (text.div_ceil(BYTES_PER_TOKEN) + other).max(1)
}

fn add(block: &Block, text: &mut u64, other: &mut u64) {
    match &block.part {
        Part::Text(said) => *text += said.len() as u64,
        Part::Image(_) => *other += TOKENS_PER_IMAGE,
        Part::Document(document) => match &document.source {
            Source::Text(said) => *text += said.len() as u64,
            Source::Base64 { data, .. } => *other += (data.len() as u64).div_ceil(BYTES_PER_PAGE) * TOKENS_PER_PAGE,
            Source::Url(_) | Source::FileId(_) => *other += TOKENS_PER_PAGE,
        },
        Part::Audio(audio) => *other += (audio.data.len() as u64).div_ceil(AUDIO_BYTES_PER_TOKEN),
        Part::ToolCall(call) => *text += (call.name.len() + call.arguments.len()) as u64,
        Part::ToolResult(result) => {
            for block in &result.content {
                add(block, text, other);
            }
        }
        Part::Thinking(thinking) => *text += thinking.text.len() as u64,
        Part::RedactedThinking(data) => *text += data.len() as u64,
        Part::Native { raw, .. } => *text += raw.get().len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{Surface, decode_request};
    use crate::head::{Operation, read_head};

    /// Of a chat, or of Anthropic's messages, with one part besides a text. How far it is from `tokens` and the text's.
    fn differs(operation: Operation, part: &str, tokens: u64) -> u64 {
        let text = "What is this? ".repeat(100);
        let around = r#"{"messages":[{"role":"user","content":[{"type":"text","text":""},]}]}"#.len() + text.len();
        let body =
            format!(r#"{{"messages":[{{"role":"user","content":[{{"type":"text","text":"{text}"}},{part}]}}]}}"#);
        let head = read_head(operation, body.as_bytes()).expect("a request");
        body_tokens(body.as_bytes(), &head.modalities).abs_diff(around as u64 / 4 + tokens)
    }

    #[test]
    fn data_in_a_body_counts_as_what_it_is() {
        let data = "iVBORw0KGgo/+A==".repeat(50_000);
        let escaped = data.replace('/', r"\/");
        let long = data.len() as u64;
        let url =
            |data: &str| format!(r#"{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{data}"}}}}"#);
        for (operation, part, tokens) in [
            (Operation::Chat, url(&data), TOKENS_PER_IMAGE),
            (Operation::Chat, url(&escaped), TOKENS_PER_IMAGE),
            (Operation::Chat, format!("{},{}", url(&data), url(&data)), 2 * TOKENS_PER_IMAGE),
            (
                Operation::Messages,
                format!(r#"{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{data}"}}}}"#),
                TOKENS_PER_IMAGE,
            ),
            (
                Operation::Chat,
                format!(r#"{{"type":"input_audio","input_audio":{{"data":"{data}","format":"mp3"}}}}"#),
                long / AUDIO_BYTES_PER_TOKEN,
            ),
            (
                Operation::Chat,
                format!(r#"{{"type":"file","file":{{"filename":"x.pdf","file_data":"{data}"}}}}"#),
                long / BYTES_PER_PAGE * TOKENS_PER_PAGE,
            ),
            // Elsewhere.
            (
                Operation::Chat,
                r#"{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}"#.to_owned(),
                TOKENS_PER_IMAGE,
            ),
        ] {
            let differs = differs(operation, &part, tokens);
            assert!(differs < 50, "{differs}: {}", &part[..60]);
        }
    }

    #[test]
    fn text_counts_as_text_beside_an_image_and_alone() {
        let image = r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}"#;
        let words = "Some words that are no data. ".repeat(1000);
        let encoded = "AAAA".repeat(1000);
        for (part, tokens) in [
            (format!(r#"{image},{{"type":"text","text":"{words}"}}"#), TOKENS_PER_IMAGE + words.len() as u64 / 4),
            // Without anything that data is of, it is what the model reads.
            (format!(r#"{{"type":"text","text":"{encoded}"}}"#), 1000),
        ] {
            assert!(differs(Operation::Chat, &part, tokens) < 50, "{}", &part[..60]);
        }
    }

    fn estimate(body: &str) -> u64 {
        count_tokens_estimate(&decode_request(Surface::AnthropicMessages, body.as_bytes()).unwrap())
    }

    #[test]
    fn text_counts_by_its_bytes_and_pictures_by_number() {
        assert_eq!(estimate(r#"{"model":"m","messages":[{"role":"user","content":"12345678"}]}"#), 2 + 4);
        let image = r#"{"type":"image","source":{"type":"url","url":"https://x/y.png"}}"#;
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{image},{image}]}}]}}"#);
        assert_eq!(estimate(&body), 2 * TOKENS_PER_IMAGE + 4);
    }

    #[test]
    fn system_prompts_tools_and_results_count() {
        let body = r#"{"model":"m","system":"1234","tools":[{"name":"abcd","input_schema":{}}],"messages":[
            {"role":"user","content":[{"type":"tool_result","tool_use_id":"x","content":"123456"}]}]}"#;
        // 4 + 4 + 2 + 6 bytes are 4 tokens; two messages and a tool.
        assert_eq!(estimate(body), 4 + 3 * TOKENS_PER_MESSAGE);
    }
}
