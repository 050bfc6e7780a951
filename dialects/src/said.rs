//! Whether an answer says something: a text, a thought, a call of a tool, an image. Then output tokens were used, whatever
//! its usage tells. Looked at in answers whose usage tells none, and in the first events of a stream.

use std::ops::ControlFlow;

use crate::dialect::Dialect;
use crate::json::{self, Field, Kind};
use crate::output::text_bytes;

/// Whether the output of an answer says something: OpenAI's `choices` (also those of an event), Anthropic's `content`.
pub(crate) fn in_answer(dialect: Dialect, output: &[u8]) -> bool {
    let mut is_said = false;
    // What is no array of objects says nothing that can be read.
    let _ = json::elements(output, |element, kind| {
        let element = element.of(output);
        is_said |= kind == Kind::Object
            && match dialect {
                Dialect::OpenAi => in_choice(element),
                Dialect::Anthropic => in_part(element),
            };
        if is_said { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    is_said
}

/// Whether the data of an event says something. Anthropic's: those about blocks of content.
pub(crate) fn in_event(dialect: Dialect, data: &[u8]) -> bool {
    match dialect {
        Dialect::OpenAi => {
            let Ok([Some(choices)]) = json::find(data, ["choices"]) else { return false };
            in_answer(dialect, choices.of(data))
        }
        Dialect::Anthropic => {
            let Ok(parts) = json::find(data, ["content_block", "delta"]) else { return false };
            parts.into_iter().flatten().any(|part| part.kind == Kind::Object && in_part(part.of(data)))
        }
    }
}

fn in_choice(choice: &[u8]) -> bool {
    let Ok([text, message, delta]) = json::find(choice, ["text", "message", "delta"]) else { return false };
    let is_part = |part: Option<Field>| part.is_some_and(|part| part.kind == Kind::Object && in_part(part.of(choice)));
    text.is_some_and(|text| text_bytes(text.of(choice)) > 0) || is_part(message) || is_part(delta)
}

/// Whether a part has a text beside those that say what it is.
fn in_part(part: &[u8]) -> bool {
    let mut is_said = false;
    let read = json::fields(part, |key, field| {
        is_said |= !matches!(key, b"role" | b"name" | b"type") && text_bytes(field.of(part)) > 0;
    });
    read.is_ok() && is_said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_text_says_something_and_what_only_has_a_form_does_not() {
        let cases = [
            (Dialect::OpenAi, r#"[{"message":{"role":"assistant","content":"Hi"}}]"#, true),
            (Dialect::OpenAi, r#"[{"message":{"content":null,"tool_calls":[{"function":{"name":"now"}}]}}]"#, true),
            (Dialect::OpenAi, r#"[{"message":{"content":"","reasoning_content":"hm"}}]"#, true),
            (Dialect::OpenAi, r#"[{"message":{"content":null,"refusal":"No."}}]"#, true),
            (Dialect::OpenAi, r#"[{"message":{"content":""}},{"message":{"content":[{"text":"b"}]}}]"#, true),
            (Dialect::OpenAi, r#"[{"text":"old"}]"#, true),
            (Dialect::OpenAi, r#"[{"delta":{"content":"a"}}]"#, true),
            (
                Dialect::OpenAi,
                r#"[{"message":{"role":"assistant","content":"","refusal":null,"tool_calls":[]},"finish_reason":"content_filter"}]"#,
                false,
            ),
            (Dialect::OpenAi, r#"[{"text":"","finish_reason":"stop"}]"#, false),
            (Dialect::OpenAi, "[]", false),
            (Dialect::OpenAi, "null", false),
            (Dialect::OpenAi, r#"["text"]"#, false),
            (Dialect::Anthropic, r#"[{"type":"text","text":"Hi"}]"#, true),
            (Dialect::Anthropic, r#"[{"type":"tool_use","id":"t1","name":"now","input":{}}]"#, true),
            (Dialect::Anthropic, r#"[{"type":"text","text":""}]"#, false),
            (Dialect::Anthropic, "[]", false),
        ];
        for (dialect, output, is_said) in cases {
            assert_eq!(in_answer(dialect, output.as_bytes()), is_said, "{output}");
        }
    }

    #[test]
    fn an_event_says_something_once_it_brings_output() {
        let cases = [
            (Dialect::OpenAi, r#"{"id":"c","choices":[{"delta":{"role":"assistant","content":""}}]}"#, false),
            (Dialect::OpenAi, r#"{"id":"c","choices":[{"delta":{},"finish_reason":"stop"}]}"#, false),
            (Dialect::OpenAi, r#"{"choices":[{"delta":{"content":" "}}]}"#, true),
            (Dialect::OpenAi, r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c1"}]}}]}"#, true),
            (Dialect::OpenAi, "cut", false),
            (
                Dialect::Anthropic,
                r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
                false,
            ),
            (
                Dialect::Anthropic,
                r#"{"type":"content_block_start","content_block":{"type":"tool_use","id":"t","name":"n","input":{}}}"#,
                true,
            ),
            (Dialect::Anthropic, r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"H"}}"#, true),
            (Dialect::Anthropic, r#"{"type":"content_block_stop","index":0}"#, false),
        ];
        for (dialect, data, is_said) in cases {
            assert_eq!(in_event(dialect, data.as_bytes()), is_said, "{data}");
        }
    }
}
