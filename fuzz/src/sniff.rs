//! A relayed stream: the same goes on and the same is seen of it however it was cut; a watched one is not changed,
//! and of an edited one nothing is but the model's name and the usage event that the client did not ask for.

use bytes::Bytes;
use tollgate_dialects::Dialect;
use tollgate_dialects::sniff::{SniffOptions, StreamEnd, StreamSniffer};
use tollgate_dialects::splice;
use tollgate_dialects::sse::Event;
use tollgate_dialects::usage::UsageQuirks;

use crate::cuts::deliveries;
use crate::document::{self, Fields};
use crate::{events, usage};

const PUBLIC_MODEL: &str = "our \"größter\"";

/// # Panics
/// When it is not so.
pub fn check(input: &[u8]) {
    for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
        let watch = SniffOptions { counts_text: true, ..SniffOptions::watch(dialect) };
        let watched = check_watching(&watch, input);
        let quirks = UsageQuirks { reasoning_outside_completion: true };
        check_watching(&SniffOptions { quirks, ..watch.clone() }, input);
        for (drop_usage, renames) in [(true, false), (false, true), (true, true)] {
            let model = renames.then(|| splice::json_string(PUBLIC_MODEL));
            let options = SniffOptions { drop_usage, model, ..watch.clone() };
            let (passed, edited) = relay_however_cut(&options, input);
            check_edits(&options, input, &passed);
            assert_eq!((&edited.usage, &edited.partial_usage), (&watched.usage, &watched.partial_usage));
            assert_eq!((edited.absurd, edited.done, &edited.error), (watched.absurd, watched.done, &watched.error));
        }
    }
}

fn check_watching(options: &SniffOptions, input: &[u8]) -> StreamEnd {
    let (passed, end) = relay_however_cut(options, input);
    assert_eq!(passed, input, "a watched stream is changed");
    check_end(&end, input);
    end
}

fn relay_however_cut(options: &SniffOptions, input: &[u8]) -> (Vec<u8>, StreamEnd) {
    let [whole, single, pieces] = deliveries(input);
    let expected = relay(options, &whole);
    let is_edited = options.drop_usage || options.model.is_some();
    // An Anthropic stream has one beginning. The model of a second one is ours only as long as the slices are.
    let begins_again = || options.dialect == Dialect::Anthropic && options.model.is_some() && beginnings(input) > 1;
    for chunks in [single, pieces] {
        let (passed, end) = relay(options, &chunks);
        // The line feed after an edited event's last carriage return may come too late to be edited with it.
        let same = passed == expected.0
            || begins_again()
            || is_edited && events::decode(&[&passed]) == events::decode(&[&expected.0]);
        assert!(same, "{options:?}\n{}\n{}", passed.escape_ascii(), expected.0.escape_ascii());
        assert_eq!(end, expected.1, "{options:?}");
    }
    expected
}

fn beginnings(input: &[u8]) -> usize {
    let begins = |event: &Event| [&event.name, &event.data].iter().any(|text| has_word(text, b"message_start"));
    events::decode(&[input]).iter().filter(|event| begins(event)).count()
}

fn has_word(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

fn relay(options: &SniffOptions, chunks: &[&[u8]]) -> (Vec<u8>, StreamEnd) {
    let mut sniffer = StreamSniffer::new(options.clone());
    let mut passed = Vec::new();
    for chunk in chunks {
        sniffer.push(Bytes::copy_from_slice(chunk), &mut |bytes| passed.extend_from_slice(&bytes));
    }
    let end = sniffer.finish(&mut |bytes| passed.extend_from_slice(&bytes));
    (passed, end)
}

fn check_end(end: &StreamEnd, input: &[u8]) {
    assert!(end.usage.is_none() || end.partial_usage.is_none());
    assert!(!end.absurd || end.usage.is_none() && end.partial_usage.is_none(), "absurd, but believed");
    for told in [&end.usage, &end.partial_usage].into_iter().flatten() {
        usage::check_figures(told);
    }
    assert!(end.text_bytes <= input.len() as u64);
}

fn check_edits(options: &SniffOptions, input: &[u8], passed: &[u8]) {
    let mut left = events::decode(&[passed]).into_iter().peekable();
    for came in events::decode(&[input]) {
        if left.peek().is_some_and(|went| *went == came || is_renamed(options, &came, went)) {
            left.next();
        } else {
            assert!(options.drop_usage && is_usage(&came), "changed or lost: {came:?}, instead: {:?}", left.peek());
        }
    }
    assert_eq!(left.next(), None, "made up");
}

/// Whether `went` is `came` with our name of the model.
fn is_renamed(options: &SniffOptions, came: &Event, went: &Event) -> bool {
    if options.model.is_none() || came.name != went.name {
        return false;
    }
    let (Some(came_fields), Some(went_fields)) = (Fields::of(&came.data), Fields::of(&went.data)) else {
        return is_replaced(&came.data, &went.data);
    };
    match options.dialect {
        Dialect::OpenAi => model_differs(&came_fields, &went_fields),
        Dialect::Anthropic => {
            let (Some(came), Some(went)) = (came_fields.get("message"), went_fields.get("message")) else {
                return false;
            };
            let messages = (Fields::of(came.get().as_bytes()), Fields::of(went.get().as_bytes()));
            let (Some(came), Some(went)) = messages else { return false };
            came_fields.without(&["message"]) == went_fields.without(&["message"]) && model_differs(&came, &went)
        }
    }
}

/// Whether nothing but the model's name differs, and one of it is ours now.
fn model_differs(came: &Fields<'_>, went: &Fields<'_>) -> bool {
    came.without(&["model"]) == went.without(&["model"])
        && went.all("model").any(|model| document::string(model).as_deref() == Some(PUBLIC_MODEL))
}

/// Whether our name stands in place of a string. An event that is broken behind its model's name is renamed all the
/// same, since no more of it is read.
fn is_replaced(came: &[u8], went: &[u8]) -> bool {
    let ours = splice::json_string(PUBLIC_MODEL);
    let starts = 0..=went.len().saturating_sub(ours.len());
    starts.into_iter().filter(|at| went[*at..].starts_with(&ours)).any(|at| {
        let (before, after) = (&went[..at], &went[at + ours.len()..]);
        let replaced = came.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        replaced.is_some_and(|replaced| serde_json::from_slice::<String>(replaced).is_ok())
    })
}

/// Whether an event tells a usage and no answer.
fn is_usage(event: &Event) -> bool {
    let Some(fields) = Fields::of(&event.data) else { return false };
    let is_object = fields.all("usage").any(|usage| usage.get().starts_with('{'));
    let has_choices = fields.get("choices").is_some_and(|choices| {
        serde_json::from_str::<Vec<serde::de::IgnoredAny>>(choices.get()).map_or(true, |choices| !choices.is_empty())
    });
    is_object && !has_choices
}
