//! How long what an answer says is: the text that somebody counts where no usage is told. Texts, thoughts, refusals, and
//! names and arguments of tools count, as characters of UTF-8; ids, kinds, signatures and what a search found do not.

use std::ops::ControlFlow;

use crate::dialect::Dialect;
use crate::json::{self, Field, Kind};
use crate::output::string_length;

/// Fields within what is said that are no output of the model.
const SILENT: [&[u8]; 9] =
    [b"type", b"id", b"index", b"role", b"signature", b"data", b"url", b"format", b"encrypted_content"];

/// Bytes of what an answer says: OpenAI's `choices`, Anthropic's `content`.
pub(crate) fn in_answer(dialect: Dialect, output: &[u8]) -> u64 {
    let mut heard = Heard::default();
    heard.answer(dialect, output);
    heard.bytes
}

/// Counts what the events of a stream say. Most of them have one text, in the same place as the event before: such an event
/// is not read.
#[derive(Debug)]
pub(crate) struct Counter {
    /// Where the text of an earlier event began; 0: none is known.
    start: usize,
    /// What was before it, and behind it up to the first space.
    before: [u8; BEFORE],
    behind: [u8; BEHIND],
    /// At least the quote that ends it.
    behind_length: usize,
}

const BEFORE: usize = 16;
const BEHIND: usize = 48;

impl Default for Counter {
    fn default() -> Counter {
        Counter { start: 0, before: [0; BEFORE], behind: [0; BEHIND], behind_length: 0 }
    }
}

impl Counter {
    /// Bytes of what an event with this data says.
    #[inline]
    pub fn count(&mut self, dialect: Dialect, data: &[u8]) -> u64 {
        match self.known_place(data) {
            Some(bytes) => bytes,
            None => self.read(dialect, data),
        }
    }

    #[inline]
    fn known_place(&self, data: &[u8]) -> Option<u64> {
        // What was before ends with the opening quote: within a text it would be escaped.
        let before = data.get(self.start.checked_sub(BEFORE)?..self.start)?;
        if before != self.before {
            return None;
        }
        let rest = &data[self.start..];
        let (text, behind) = rest.split_at(string_length(rest));
        behind.starts_with(&self.behind[..self.behind_length]).then(|| length(text))
    }

    #[inline(never)]
    fn read(&mut self, dialect: Dialect, data: &[u8]) -> u64 {
        let mut heard = Heard::default();
        heard.event(dialect, data);
        if let Some(text) = heard.only {
            self.remember(data, text.as_ptr() as usize - data.as_ptr() as usize, text.len());
        }
        heard.bytes
    }

    fn remember(&mut self, data: &[u8], start: usize, length: usize) {
        let Some(before) = start.checked_sub(BEFORE).and_then(|from| data[from..].first_chunk()) else { return };
        let behind = &data[start + length..];
        let behind = behind.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let behind = &behind[..behind.len().min(BEHIND)];
        self.start = start;
        self.before = *before;
        self.behind[..behind.len()].copy_from_slice(behind);
        self.behind_length = behind.len();
    }
}

/// What was said.
#[derive(Debug, Default)]
struct Heard<'a> {
    bytes: u64,
    texts: u32,
    /// The only text.
    only: Option<&'a [u8]>,
}

impl<'a> Heard<'a> {
    fn event(&mut self, dialect: Dialect, data: &'a [u8]) {
        match dialect {
            Dialect::OpenAi => {
                let Ok([Some(choices)]) = json::find(data, ["choices"]) else { return };
                self.answer(dialect, choices.of(data));
            }
            Dialect::Anthropic => {
                let Ok(parts) = json::find(data, ["content_block", "delta"]) else { return };
                parts.into_iter().flatten().filter(|part| part.kind == Kind::Object).for_each(|part| {
                    self.block(part.of(data));
                });
            }
        }
    }

    fn answer(&mut self, dialect: Dialect, output: &'a [u8]) {
        // What is no array of objects says nothing that can be read.
        let _ = json::elements(output, |element, kind| {
            if kind == Kind::Object {
                match dialect {
                    Dialect::OpenAi => self.choice(element.of(output)),
                    Dialect::Anthropic => self.block(element.of(output)),
                }
            }
            ControlFlow::Continue(())
        });
    }

    fn choice(&mut self, choice: &'a [u8]) {
        let _ = json::fields(choice, |key, field| match key {
            b"text" => self.value(field, choice),
            b"message" | b"delta" if field.kind == Kind::Object => self.message(field.of(choice)),
            _ => {}
        });
    }

    fn message(&mut self, message: &'a [u8]) {
        // Some servers send their thoughts under both names.
        let mut thoughts = Heard::default();
        let _ = json::fields(message, |key, field| match key {
            b"content" | b"refusal" | b"tool_calls" | b"function_call" | b"audio" => self.value(field, message),
            b"reasoning_content" | b"reasoning" => {
                let mut thought = Heard::default();
                thought.value(field, message);
                if thought.bytes > thoughts.bytes {
                    thoughts = thought;
                }
            }
            _ => {}
        });
        if thoughts.texts > 0 {
            self.only = thoughts.only.filter(|_| self.texts == 0);
            self.bytes += thoughts.bytes;
            self.texts += thoughts.texts;
        }
    }

    /// A block of Anthropic's, or what is added to one.
    fn block(&mut self, block: &'a [u8]) {
        let _ = json::fields(block, |key, field| match key {
            b"text" | b"thinking" | b"partial_json" | b"name" => self.value(field, block),
            // The arguments of a tool. `{}`: they follow.
            b"input" if field.value.len() > 2 => {
                self.bytes += field.value.len() as u64;
                (self.texts, self.only) = (self.texts + 1, None);
            }
            _ => {}
        });
    }

    /// All texts of a value.
    fn value(&mut self, field: Field, of: &'a [u8]) {
        self.any(field.kind, field.of(of));
    }

    fn any(&mut self, kind: Kind, value: &'a [u8]) {
        match kind {
            Kind::String => self.text(&value[1..value.len() - 1]),
            Kind::Array => {
                let _ = json::elements(value, |element, kind| {
                    self.any(kind, element.of(value));
                    ControlFlow::Continue(())
                });
            }
            Kind::Object => {
                let _ = json::fields(value, |key, field| {
                    if !SILENT.contains(&key) {
                        self.value(field, value);
                    }
                });
            }
            Kind::Null | Kind::True | Kind::False | Kind::Number => {}
        }
    }

    /// `text`: between its quotes.
    fn text(&mut self, text: &'a [u8]) {
        if text.is_empty() {
            return;
        }
        self.only = Some(text).filter(|_| self.texts == 0);
        self.texts += 1;
        self.bytes += length(text);
    }
}

/// Bytes of a text in UTF-8, its escapes resolved.
fn length(text: &[u8]) -> u64 {
    let (mut rest, mut length) = (text, 0);
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let escape = &rest[at..];
        let (written, meant) = match (escape.get(1), escape.get(2..6)) {
            (Some(b'u'), Some(digits)) => (6, code_length(digits)),
            _ => (2, 1),
        };
        length += at + meant;
        rest = &escape[written.min(escape.len())..];
    }
    (length + rest.len()) as u64
}

/// Of a character that is written as four hexadecimal digits; of half a pair half of it.
fn code_length(digits: &[u8]) -> usize {
    let code = std::str::from_utf8(digits).ok().and_then(|digits| u16::from_str_radix(digits, 16).ok());
    match code.unwrap_or_default() {
        0..0x80 => 1,
        0x80..0x800 | 0xD800..0xE000 => 2,
        0x800.. => 3,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_said_counts_and_what_is_around_it_does_not() {
        let cases = [
            (Dialect::OpenAi, json!([{"index": 0, "message": {"role": "assistant", "content": "Hello"}}]), 5),
            (Dialect::OpenAi, json!([{"message": {"content": "ab"}}, {"message": {"content": "cde"}}]), 5),
            (Dialect::OpenAi, json!([{"text": "old", "finish_reason": "stop", "logprobs": {"tokens": ["old"]}}]), 3),
            (
                Dialect::OpenAi,
                json!([{"message": {"content": null, "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{\"a\":1}"}}
                ]}}]),
                3 + 7,
            ),
            (
                Dialect::OpenAi,
                json!([{"message": {"content": "a", "reasoning": "hmm", "reasoning_content": "hmm"}}]),
                4,
            ),
            (
                Dialect::OpenAi,
                json!([{"message": {"content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "yes"}
                ]}}]),
                5,
            ),
            (Dialect::OpenAi, json!([{"message": {"audio": {"id": "a", "data": "AAAA", "transcript": "hi"}}}]), 2),
            (Dialect::OpenAi, json!("text"), 0),
            (Dialect::Anthropic, json!([{"type": "text", "text": "Hi"}, {"type": "thinking", "thinking": "hm"}]), 4),
            (Dialect::Anthropic, json!([{"type": "tool_use", "id": "t1", "name": "now", "input": {"a": 1}}]), 3 + 7),
            (
                Dialect::Anthropic,
                json!([{"type": "web_search_tool_result", "content": [{"title": "long", "url": "http://a"}]}]),
                0,
            ),
        ];
        for (dialect, output, bytes) in cases {
            assert_eq!(in_answer(dialect, output.to_string().as_bytes()), bytes, "{output}");
        }
    }

    #[test]
    fn a_text_is_as_long_as_its_characters() {
        for text in ["", "plain", "a\nb\"c\\", "h\u{e9}llo", "\u{6f22}\u{5b57}", "\u{1f600}!"] {
            let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            let quoted = json!(text).to_string();
            assert_eq!(length(&quoted.as_bytes()[1..quoted.len() - 1]), text.len() as u64, "{text}");
            assert_eq!(length(escaped.as_bytes()), text.len() as u64, "{escaped}");
        }
        for cut in ["a\\", "a\\u00", "\\u12G4"] {
            assert!(length(cut.as_bytes()) <= cut.len() as u64);
        }
    }

    fn chunk(delta: Value) -> String {
        let choice = json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}]);
        format!("{{\"id\":\"chatcmpl-1\",\"model\":\"m\",\"choices\":{choice},\"usage\":null}}")
    }

    /// What each event counts for, of one counter, and of one that knows no place.
    fn counted(dialect: Dialect, events: &[String]) -> (Vec<u64>, Vec<u64>) {
        let mut counter = Counter::default();
        let counted = events.iter().map(|data| counter.count(dialect, data.as_bytes())).collect();
        (counted, events.iter().map(|data| Counter::default().count(dialect, data.as_bytes())).collect())
    }

    #[test]
    fn a_place_that_is_known_changes_nothing() {
        let said = ["Hi", " there", "", "a \"b\"", "\u{6f22}", "x", "\\", "end"];
        let mut events = vec![chunk(json!({"role": "assistant", "content": ""}))];
        events.extend(said.iter().map(|text| chunk(json!({"content": text}))));
        events.push(chunk(json!({"content": "ab", "reasoning": "cd"})));
        events.push(chunk(json!({"reasoning": "cd"})));
        events.push(chunk(json!({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]})));
        events.push(chunk(json!({})));
        events.extend(["[DONE]", "", "{", "no"].map(str::to_owned));
        let (known, read) = counted(Dialect::OpenAi, &events);
        assert_eq!(known, read);
        let lengths: Vec<u64> = said.iter().map(|text| text.len() as u64).collect();
        assert_eq!((&known[1..9], &known[9..]), (&*lengths, &[4, 2, 2, 0, 0, 0, 0, 0][..]));

        let delta = |delta: &str| format!("{{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{delta}}}");
        let events = [
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#.to_owned(),
            delta(r#"{"type":"text_delta","text":"Hello"}"#),
            delta(r#"{"type":"text_delta","text":" you"}   "#),
            delta(r#"{"type":"text_delta","text":"\n"}"#),
            delta(r#"{"type":"input_json_delta","partial_json":"{\"a"}"#),
            delta(r#"{"type":"thinking_delta","thinking":"hm"}"#),
            delta(r#"{"type":"signature_delta","signature":"EqQBCgIYAhIM"}"#),
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}"#.to_owned(),
        ];
        let (known, read) = counted(Dialect::Anthropic, &events);
        assert_eq!(known, read);
        assert_eq!(known, [0, 5, 4, 1, 3, 2, 0, 0]);
    }

    #[test]
    fn the_next_text_in_the_same_place_is_not_read() {
        let mut counter = Counter::default();
        assert_eq!(counter.count(Dialect::OpenAi, chunk(json!({"content": "Hello"})).as_bytes()), 5);
        assert_eq!(counter.known_place(chunk(json!({"content": "you"})).as_bytes()), Some(3));
        assert_eq!(counter.known_place(chunk(json!({"content": "a\n\"b"})).as_bytes()), Some(4));
        assert_eq!(counter.known_place(chunk(json!({"content": "a", "refusal": "b"})).as_bytes()), None);
    }
}
