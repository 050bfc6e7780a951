//! How much output an event of a stream can stand for: an upper bound of its tokens, for holds that grow as a stream goes
//! on. No tokenizer makes more tokens of a text than it has bytes, so the bytes of all strings where an event has its
//! output are counted, whatever they are called: text, names and arguments of tools, thoughts, log probabilities. Escapes
//! are longer than what they stand for. And one more, for a token that shows as nothing.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::dialect::Dialect;

static CHOICES: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"choices\""));
static DELTA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"delta\""));

/// How Anthropic begins what is not output in nearly all deltas.
const KINDS: [&[u8]; 3] =
    [br#"{"type":"text_delta","#, br#"{"type":"input_json_delta","#, br#"{"type":"thinking_delta","#];

/// The most output tokens that an event with this data can stand for.
pub fn tokens_at_most(dialect: Dialect, data: &[u8]) -> u64 {
    let (finder, kinds) = match dialect {
        Dialect::OpenAi => (&CHOICES, &[][..]),
        Dialect::Anthropic => (&DELTA, &KINDS[..]),
    };
    // Quotes within a string are escaped: what is found is a key, at whatever depth, or a whole value.
    let (mut rest, mut bytes, mut is_found) = (data, 0, false);
    while let Some(at) = finder.find(rest) {
        rest = rest[at + finder.needle().len()..].trim_ascii_start();
        let Some(value) = rest.strip_prefix(b":") else { continue };
        let value = value.trim_ascii_start();
        let kind = kinds.iter().find(|kind| value.starts_with(kind)).map_or(0, |kind| kind.len());
        let read = read_value(value, kind);
        bytes += read.bytes;
        rest = &value[read.length..];
        is_found = true;
    }
    if !is_found {
        // An event of another shape.
        bytes = read_value(data, 0).bytes;
    }
    1 + bytes
}

/// Bytes of all strings in a value that are no keys, as they are written.
pub(crate) fn text_bytes(value: &[u8]) -> u64 {
    read_value(value, 0).bytes
}

struct Read {
    /// Of the value.
    length: usize,
    /// Between the quotes of strings that are no keys, as they are written.
    bytes: u64,
}

/// Reads a value to its end, or the end of the data. `skip`: so much of it is not looked at, the beginning of an object.
fn read_value(json: &[u8], skip: usize) -> Read {
    let (mut at, mut bytes, mut depth) = (skip, 0, u32::from(skip > 0));
    while let Some(byte) = json.get(at) {
        at += 1;
        match byte {
            b'"' => {
                let length = string_length(&json[at..]);
                at = (at + length + 1).min(json.len());
                if json[at..].iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b':') {
                    bytes += length as u64;
                }
            }
            b'[' | b'{' => {
                depth += 1;
                continue;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            break;
        }
    }
    Read { length: at, bytes }
}

/// How many bytes of `text` belong to the string that it begins in; all where it does not end.
pub(crate) fn string_length(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(ahead) = memchr::memchr2(b'"', b'\\', text.get(at..).unwrap_or_default()) {
        at += ahead;
        if text[at] == b'"' {
            return at;
        }
        at += 2;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn openai(choices: Value) -> u64 {
        let data = format!("{{\"id\":\"chatcmpl-1\",\"model\":\"m\",\"choices\":{choices}}}");
        tokens_at_most(Dialect::OpenAi, data.as_bytes())
    }

    #[test]
    fn all_that_a_choice_says_counts_and_nothing_before_it() {
        let long = r#"{"id":"a-very-long-id","object":"chat.completion.chunk","choices":[],"usage":null}"#;
        assert_eq!(tokens_at_most(Dialect::OpenAi, long.as_bytes()), 1);
        assert_eq!(openai(json!([{"index": 0, "delta": {"content": "Hello"}, "finish_reason": null}])), 6);
        assert_eq!(openai(json!([{"delta": {"content": ""}}])), 1);
        let two = json!([{"index": 0, "delta": {"content": "ab"}}, {"index": 1, "delta": {"content": "cde"}}]);
        assert_eq!(openai(two), 6);
        let call =
            json!({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "now", "arguments": "{\"a\":1}"}}]});
        assert_eq!(openai(json!([{"delta": call}])), 1 + 2 + 3 + 9);
        assert_eq!(openai(json!([{"delta": {"reasoning_content": "hm", "content": null}}])), 3);
        let probable = json!({"content": [{"token": "He", "logprob": -0.1, "bytes": [72, 101], "top_logprobs": []}]});
        assert_eq!(openai(json!([{"delta": {"content": "He"}, "logprobs": probable}])), 5);
        assert_eq!(openai(json!([{"text": "old", "index": 0}])), 4);
    }

    #[test]
    fn an_event_of_another_shape_counts_whole() {
        let cases = [
            (Dialect::OpenAi, r#"{"output":"abc","more":["de"]}"#, 6),
            (Dialect::OpenAi, r#"{"choices" : [{"delta":{"content" : "abc"}}]}"#, 4),
            (Dialect::OpenAi, r#"{"choices":[{"delta":{"content":"cut"#, 4),
            (Dialect::OpenAi, r#"{"choices":[{"delta":{"content":"cut\"#, 5),
            (Dialect::OpenAi, r#"[DONE]"#, 1),
            (
                Dialect::Anthropic,
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}"#,
                3,
            ),
            (
                Dialect::Anthropic,
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\""}}"#,
                4,
            ),
            (Dialect::Anthropic, r#"{"delta": {"type": "text_delta", "text": "Hi"}}"#, 13),
            (Dialect::Anthropic, r#"{"type":"content_block_start","content_block":{"text":"Hi"}}"#, 1 + 19 + 2),
            (Dialect::Anthropic, r#"{"type":"ping"}"#, 5),
        ];
        for (dialect, data, expected) in cases {
            assert_eq!(tokens_at_most(dialect, data.as_bytes()), expected, "{data}");
        }
    }

    /// Bytes of all texts in a document, keys left out.
    fn texts(value: &Value) -> u64 {
        match value {
            Value::String(text) => text.len() as u64,
            Value::Array(elements) => elements.iter().map(texts).sum(),
            Value::Object(fields) => fields.values().map(texts).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
    }

    fn document() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof!["\\PC{0,9}".prop_map(Value::from), any::<i32>().prop_map(Value::from), Just(Value::Null)];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-z:\"\\\\]{0,6}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_text_is_left_out(choices in document(), pretty in any::<bool>()) {
            let value = json!({"id": "x", "choices": choices});
            let data = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let counted = tokens_at_most(Dialect::OpenAi, data.as_bytes());
            prop_assert!(counted > texts(&choices));
            prop_assert!(counted <= 1 + data.len() as u64);
        }

        #[test]
        fn any_bytes_are_counted(data in prop::collection::vec(any::<u8>(), 0..80)) {
            for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
                prop_assert!(tokens_at_most(dialect, &data) <= 1 + data.len() as u64);
            }
        }
    }
}
