//! A request body is taken if and only if a plain reading of it is sane, that reading and ours agree, and what is sent
//! on after an edit is the same document but for the edit.

use bytes::Bytes;
use serde_json::value::RawValue;
use tollgate_dialects::head::{Head, MAX_COUNT, Operation, read_head};
use tollgate_dialects::splice::{self, Splice, ask_for_usage};

use crate::document::{self, Fields};

const OPERATIONS: [Operation; 5] =
    [Operation::Chat, Operation::Completions, Operation::Embeddings, Operation::Messages, Operation::CountTokens];

/// Fields that must not be there twice, beside the one that holds the content.
const ONCE: [&str; 22] = [
    "model",
    "system",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "best_of",
    "num_retries",
    "user",
    "metadata",
    "litellm_metadata",
    "safety_identifier",
    "service_tier",
    "tools",
    "tags",
    "fallbacks",
    "timeout",
    "api_base",
    "base_url",
    "api_key",
    "mock_response",
];

/// The name that is put in place of the model's; needs escapes and is not ASCII.
const OTHER_MODEL: &str = "vendor/\"größer\"\\1";

/// # Panics
/// When it does not.
pub fn check(input: &[u8]) {
    let is_object = document::is_object(input);
    let fields = Fields::of(input);
    for operation in OPERATIONS {
        let head = read_head(operation, input);
        assert!(is_object || head.is_err(), "{operation}: taken, but no JSON object");
        // Keys whose escapes name no character have no plain reading.
        let Some(fields) = &fields else { continue };
        if !is_object {
            continue;
        }
        let Some(sane) = is_sane(operation, fields) else { continue };
        assert_eq!(head.is_ok(), sane, "{operation}: {head:?}");
        if let Ok(head) = head {
            check_reading(&head, fields, input);
            check_edits(&head, fields, operation, input);
        }
    }
}

/// Whether the fields that are acted on are there once and of their types; `None` if the other parser cannot say.
fn is_sane(operation: Operation, fields: &Fields<'_>) -> Option<bool> {
    let once = ONCE.iter().copied().chain([operation.content_field()]);
    let repeated = once.into_iter().any(|key| fields.all(key).count() > 1);
    let options_are_sane = match fields.get("stream_options") {
        Some(options) if options.get().starts_with('{') => {
            let options = Fields::of(options.get().as_bytes())?;
            let mut told = options.all("include_usage");
            told.next().is_none_or(|value| matches!(value.get(), "true" | "false" | "null")) && told.next().is_none()
        }
        options => options.is_none_or(is_null),
    };
    let text_is_content = matches!(operation, Operation::Completions | Operation::Embeddings);
    let content = |value: &RawValue| value.get().starts_with('[') || text_is_content && value.get().starts_with('"');
    let is = |key: &str, sane: &dyn Fn(&RawValue) -> bool| fields.get(key).is_none_or(sane);
    let count = |least: u64| move |value: &RawValue| is_null(value) || count_of(value).is_some_and(|n| n >= least);
    Some(
        !repeated
            && options_are_sane
            && fields.get(operation.content_field()).is_some_and(content)
            && is("model", &|value| is_null(value) || document::string(value).is_some())
            && is("stream", &|value| matches!(value.get(), "true" | "false" | "null"))
            && is("max_tokens", &count(0))
            && is("max_completion_tokens", &count(0))
            && is("num_retries", &count(0))
            && is("n", &count(1))
            && is("best_of", &count(1))
            && is("user", &|value| {
                is_null(value) || value.get().starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit())
            })
            && is("service_tier", &|value| is_null(value) || value.get().starts_with('"'))
            && is("metadata", &|value| is_null(value) || value.get().starts_with('{')),
    )
}

fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// A count that is believed.
fn count_of(value: &RawValue) -> Option<u64> {
    let digits = value.get().bytes().all(|byte| byte.is_ascii_digit());
    value.get().parse().ok().filter(|count| digits && *count <= MAX_COUNT)
}

fn check_reading(head: &Head, fields: &Fields<'_>, body: &[u8]) {
    let value = |key: &str| fields.get(key).filter(|value| !is_null(value));
    let text = |key: &str| value(key).and_then(document::string);
    let count = |key: &str| value(key).and_then(count_of);
    assert_eq!(head.model(body).map(|model| model.into_owned()), text("model"));
    assert_eq!(head.streams(), value("stream").is_some_and(|stream| stream.get() == "true"));
    assert_eq!(head.output_cap(Operation::Chat), count("max_completion_tokens").max(count("max_tokens")));
    assert_eq!(head.output_cap(Operation::Messages), count("max_tokens"));
    assert_eq!(head.num_retries_value, count("num_retries"));
    let n = count("n").unwrap_or(1);
    assert_eq!((u64::from(head.n), u64::from(head.best_of)), (n, count("best_of").unwrap_or(1)));
    assert!(head.answers() >= n.max(1));
    assert_eq!(head.service_tier(body).map(|tier| tier.into_owned()), text("service_tier"));
    if let Some(user) = text("user").filter(|user| !user.is_empty()) {
        assert_eq!(head.end_user(body).as_deref(), Some(user.as_str()));
    }
    assert_eq!(head.layout.fields as usize, fields.0.len());
    assert_eq!(head.api_key.is_some(), fields.get("api_key").is_some());
    assert_eq!(head.tools.map(|tools| tools.of(body)), fields.get("tools").map(|tools| tools.get().as_bytes()));
    let _ = head.tags(body);
}

fn check_edits(head: &Head, fields: &Fields<'_>, operation: Operation, body: &[u8]) {
    let body = Bytes::copy_from_slice(body);
    let mut edits = Splice::default();
    match head.model {
        Some(model) => edits.replace(model.value, splice::json_string(OTHER_MODEL)),
        None => edits.insert("model", splice::json_string(OTHER_MODEL)),
    }
    let sent = edits.clone().apply(&body, head.layout).into_bytes();
    let sent_fields = edited(operation, &sent, OTHER_MODEL);
    assert_eq!(sent_fields.without(&["model"]), fields.without(&["model"]));

    let ours = [("metadata", head.metadata), ("tags", head.tags), ("user", head.user), ("tools", head.tools)];
    ours.iter().filter_map(|(_, field)| *field).for_each(|field| edits.remove(field));
    let asked = ask_for_usage(&mut edits, head, &body);
    assert_eq!(asked, head.include_usage != Some(true));
    let sent = edits.apply(&body, head.layout).into_bytes();
    let sent_fields = edited(operation, &sent, OTHER_MODEL);
    let others = ["model", "stream_options", "metadata", "tags", "user", "tools"];
    assert_eq!(sent_fields.without(&others), fields.without(&others));
    assert!(ours.iter().all(|(key, _)| sent_fields.get(key).is_none()));
    let read = read_head(operation, &sent).expect("read before");
    assert_eq!(read.include_usage, Some(true));
    let options = |fields: &Fields<'_>| -> Vec<(String, String)> {
        let Some(options) = fields.get("stream_options").and_then(|value| Fields::of(value.get().as_bytes())) else {
            return Vec::new();
        };
        options.without(&["include_usage"]).iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    };
    assert_eq!(options(&sent_fields), options(fields), "other stream options");
}

/// What was sent: a body that is taken again, with that model.
fn edited<'t>(operation: Operation, sent: &'t [u8], model: &str) -> Fields<'t> {
    assert!(document::is_object(sent), "no JSON any more: {}", String::from_utf8_lossy(sent));
    let head = read_head(operation, sent).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(sent)));
    assert_eq!(head.model(sent).as_deref(), Some(model));
    Fields::of(sent).expect("an object")
}
