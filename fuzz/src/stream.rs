//! A provider's stream gives the same events however it was cut, in an order that has an end; told on each surface it
//! is a stream that says the same text.

use std::collections::BTreeMap;

use tollgate_dialects::Dialect;
use tollgate_dialects::chat::{DecodeError, Event, StreamDecoder, StreamEncoder, StreamOptions, Surface};

use crate::cuts::deliveries;
use crate::{document, events, usage};

/// # Panics
/// When it is not so.
pub fn check(input: &[u8]) {
    for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
        let [whole, single, pieces] = deliveries(input);
        let told = decode(dialect, &whole);
        assert_eq!(decode(dialect, &single), told);
        assert_eq!(decode(dialect, &pieces), told);
        let (events, failure) = told;
        check_order(&events, failure.is_none());
        for surface in [Surface::OpenAiChat, Surface::OpenAiCompletions, Surface::AnthropicMessages] {
            check_surface(surface, &events);
        }
    }
}

/// The events of a stream, and why it could not be read on.
fn decode(dialect: Dialect, chunks: &[&[u8]]) -> (Vec<Event>, Option<DecodeError>) {
    let mut decoder = StreamDecoder::new(dialect);
    let mut events = Vec::new();
    for chunk in chunks {
        if let Err(error) = decoder.feed(chunk, &mut events) {
            return (events, Some(error));
        }
    }
    decoder.finish(&mut events);
    (events, None)
}

fn check_order(events: &[Event], was_read: bool) {
    let ends = |event: &Event| matches!(event, Event::End | Event::Error(_));
    let end = events.iter().position(ends);
    assert_eq!(end.is_some(), was_read, "{events:?}");
    assert!(end.is_none_or(|end| end + 1 == events.len()), "more after the end: {events:?}");
    for event in events {
        if let Event::Usage(told) = event {
            usage::check_figures(told);
        }
    }
}

fn check_surface(surface: Surface, events: &[Event]) {
    let options =
        StreamOptions { model: "our \"model\"".to_owned(), created: 1_700_000_000, include_usage: true, id: None };
    let mut encoder = StreamEncoder::new(surface, options);
    let mut told = Vec::new();
    for event in events {
        encoder.encode(event, &mut told);
    }
    encoder.finish(&mut told);
    let written = || String::from_utf8_lossy(&told).into_owned();
    for event in events::decode(&[&told]) {
        assert!(event.data == "[DONE]" || document::is_object(&event.data), "{surface:?}: {}", written());
    }
    if surface == Surface::OpenAiCompletions {
        return;
    }
    let (again, failure) = decode(surface.dialect(), &[&told]);
    assert_eq!(failure, None, "{surface:?}: {}", written());
    let failed = |events: &[Event]| matches!(events.last(), Some(Event::Error(_)));
    assert_eq!(failed(&again), failed(events), "{surface:?}: {again:?}: {}", written());
    let (mut expected, mut texts) = (texts(events), texts(&again));
    if surface == Surface::AnthropicMessages {
        // It has a place for one choice.
        expected.retain(|choice, _| *choice == 0);
        texts.retain(|choice, _| *choice == 0);
    }
    assert_eq!(texts, expected, "{surface:?}: {}", written());
}

/// The text of each choice.
fn texts(events: &[Event]) -> BTreeMap<u32, String> {
    let mut texts = BTreeMap::<u32, String>::new();
    for event in events {
        if let Event::Text { choice, text } = event {
            texts.entry(*choice).or_default().push_str(text);
        }
    }
    texts
}
