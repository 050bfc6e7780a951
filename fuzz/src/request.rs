//! A request that is read can be told in each dialect, and what is told is a request that the gateway itself would take:
//! read again it is told the same.

use std::sync::LazyLock;

use tollgate_dialects::Dialect;
use tollgate_dialects::chat::{
    EncodeError, EncodeOptions, MaxTokensField, Quirks, Request, Surface, ThinkingStyle, decode_request, encode_request,
};
use tollgate_dialects::estimate::count_tokens_estimate;
use tollgate_dialects::head::{Operation, read_head};

use crate::document;

const MODEL: &str = "upstream-model";

/// The plainest provider, one that can do everything, and one that can do little.
static QUIRKS: LazyLock<[Quirks; 3]> = LazyLock::new(|| {
    let able = Quirks {
        max_tokens_field: MaxTokensField::MaxCompletionTokens,
        cache_control: true,
        reasoning_history: true,
        top_k: true,
        structured_output: true,
        thinking: ThinkingStyle::Adaptive,
        ..Quirks::default()
    };
    let poor = Quirks {
        no_stream_usage: true,
        flat_text: true,
        refuses: vec!["temperature".to_owned(), "tool_choice".to_owned()],
        ..Quirks::default()
    };
    [Quirks::default(), able, poor]
});

/// # Panics
/// When it is not so.
pub fn check(input: &[u8]) {
    for surface in [Surface::OpenAiChat, Surface::OpenAiCompletions, Surface::AnthropicMessages] {
        let Ok(request) = decode_request(surface, input) else { continue };
        assert!(count_tokens_estimate(&request) >= 1);
        // What the gateway acts on was read before, and refused where it is there twice.
        if read_head(operation_of(surface), input).is_err() {
            continue;
        }
        for quirks in QUIRKS.iter() {
            for drop_unsupported in [false, true] {
                let options = EncodeOptions { model: MODEL, default_max_tokens: 4_096, drop_unsupported, quirks };
                check_dialect(Dialect::OpenAi, &request, &options);
                check_dialect(Dialect::Anthropic, &request, &options);
            }
        }
    }
}

fn operation_of(surface: Surface) -> Operation {
    match surface {
        Surface::OpenAiChat => Operation::Chat,
        Surface::OpenAiCompletions => Operation::Completions,
        Surface::AnthropicMessages => Operation::Messages,
    }
}

fn check_dialect(dialect: Dialect, request: &Request, options: &EncodeOptions<'_>) {
    let surface = match dialect {
        Dialect::OpenAi => Surface::OpenAiChat,
        Dialect::Anthropic => Surface::AnthropicMessages,
    };
    let told = match encode_request(dialect, request, options) {
        Ok(told) => told,
        Err(EncodeError::Unsupported { params }) => {
            assert!(!options.drop_unsupported && !params.is_empty(), "{params:?}");
            return;
        }
        Err(EncodeError::Invalid { .. }) => return,
    };
    let text = || String::from_utf8_lossy(&told).into_owned();
    assert!(document::is_object(&told), "{dialect}: {}", text());
    let head = read_head(operation_of(surface), &told).unwrap_or_else(|error| panic!("{dialect}: {error}: {}", text()));
    assert_eq!(head.model(&told).as_deref(), Some(MODEL), "{}", text());
    assert_eq!(head.streams(), request.stream, "{}", text());
    // What is said in vain, such as an empty thought, is gone the second time; nothing more may go.
    let second = tell_again(dialect, surface, &told, options);
    let third = tell_again(dialect, surface, &second, options);
    assert_eq!(String::from_utf8_lossy(&third), String::from_utf8_lossy(&second), "{dialect}");
}

fn tell_again(dialect: Dialect, surface: Surface, told: &[u8], options: &EncodeOptions<'_>) -> Vec<u8> {
    let text = String::from_utf8_lossy(told);
    let request = decode_request(surface, told).unwrap_or_else(|error| panic!("{dialect}: {error}: {text}"));
    encode_request(dialect, &request, options).unwrap_or_else(|error| panic!("{dialect}: {error}: {text}"))
}
