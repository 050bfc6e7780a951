//! An answer that is read can be told on each surface, with the same text for each choice that the surface shows and
//! the same usage.

use tollgate_dialects::Dialect;
use tollgate_dialects::chat::{Choice, Part, Reply, ReplyOptions, Surface, decode_reply, encode_reply};
use tollgate_dialects::usage::{UsageQuirks, read_unary};

use crate::{document, usage};

const OPTIONS: ReplyOptions<'static> = ReplyOptions { model: "our \"model\"", created: 1_700_000_000, id: None };

/// # Panics
/// When it is not so.
pub fn check(input: &[u8]) {
    for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
        let Ok(reply) = decode_reply(dialect, input) else { continue };
        reply.usage.iter().for_each(usage::check_figures);
        check_surface(Surface::OpenAiChat, &reply, &reply.choices);
        check_surface(Surface::AnthropicMessages, &reply, &reply.choices[..reply.choices.len().min(1)]);
        let told = encode_reply(Surface::OpenAiCompletions, &reply, &OPTIONS);
        assert!(document::is_object(&told), "{}", String::from_utf8_lossy(&told));
    }
}

/// `shown` are the choices that the surface has a place for.
fn check_surface(surface: Surface, reply: &Reply, shown: &[Choice]) {
    let told = encode_reply(surface, reply, &OPTIONS);
    let written = || String::from_utf8_lossy(&told).into_owned();
    assert!(document::is_object(&told), "{}", written());
    let notes = read_unary(surface.dialect(), &told, UsageQuirks::default());
    assert!(!notes.absurd, "{}", written());
    assert_eq!(notes.model.and_then(|model| model.text(&told)).as_deref(), Some(OPTIONS.model), "{}", written());
    if let Some(usage) = &reply.usage {
        let told = notes.usage.unwrap_or_else(|| panic!("usage is lost: {}", written()));
        let tokens = (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens);
        assert_eq!((told.input_tokens, told.output_tokens, told.cache_read_tokens), tokens, "{}", written());
    }
    let again = decode_reply(surface.dialect(), &told).unwrap_or_else(|error| panic!("{error}: {}", written()));
    if !shown.is_empty() {
        assert_eq!(texts(&again.choices), texts(shown), "{}", written());
    }
}

/// The text of each choice, and the names of the tools it calls.
fn texts(choices: &[Choice]) -> Vec<(String, Vec<&str>)> {
    let mut told = Vec::new();
    for choice in choices {
        let (mut text, mut calls) = (String::new(), Vec::new());
        for part in &choice.content {
            match part {
                Part::Text(piece) => text.push_str(piece),
                Part::ToolCall(call) => calls.push(call.name.as_str()),
                _ => {}
            }
        }
        told.push((text, calls));
    }
    told
}
