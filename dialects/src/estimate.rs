//! A guess at the input tokens of a request, for `count_tokens` where the provider has no counter.
//!
//! An estimate and told as one; never used for money.

use crate::chat::{Block, Part, Request, Source, Tool};

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
        // A token for about 200 bytes: 10 tokens are a second of compressed speech.
        Part::Audio(audio) => *other += (audio.data.len() as u64).div_ceil(200),
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
