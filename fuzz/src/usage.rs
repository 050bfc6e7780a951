//! A usage that is believed has figures that can be true, and costs what a sheet says: never less than nothing, parts
//! that sum to the whole, no less for more tokens, and no more than what is held for it.

use std::sync::LazyLock;

use serde_json::Value;
use tollgate_dialects::usage::{Usage, UsageQuirks, read_unary, usage_of_anthropic, usage_of_openai};
use tollgate_dialects::{Dialect, json};
use tollgate_snapshot::money::NanoUsd;
use tollgate_snapshot::price::{Bounds, CostContext, PriceSheet, PriceTable};

/// The most tokens of one answer that are believed.
const MOST_TOKENS: u64 = 1 << 31;

/// Sheets with tiers, long contexts, caches, audio and searches among them.
static SHEETS: LazyLock<Vec<PriceSheet>> = LazyLock::new(|| {
    let models = ["gpt-4o", "gpt-4o-audio-preview", "claude-sonnet-4-5", "gemini-2.5-pro", "gpt-5", "o3"];
    let sheets: Vec<_> = models.iter().filter_map(|model| PriceTable::embedded().get(model)).collect();
    assert!(sheets.len() >= 3, "the table has hardly any of {models:?}");
    sheets.iter().map(|model| model.sheet()).collect()
});

/// # Panics
/// When it is not so.
pub fn check(input: &[u8]) {
    for reasoning_outside_completion in [false, true] {
        let quirks = UsageQuirks { reasoning_outside_completion };
        for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
            let notes = read_unary(dialect, input, quirks);
            assert!(!notes.absurd || notes.usage.is_none());
            assert_eq!(notes.layout.is_some(), json::fields(input, |_, _| {}).is_ok());
            if let Some(usage) = &notes.usage {
                check_figures(usage);
                check_cost(usage);
            }
        }
        let read = usage_of_openai(input, quirks);
        if let Ok(Some(usage)) = &read {
            check_figures(usage);
            check_cost(usage);
        }
        if let Ok(told) = serde_json::from_slice::<Value>(input) {
            let absurd = ["prompt_tokens", "completion_tokens", "total_tokens"].iter().any(|key| is_absurd(&told, key));
            assert!(!absurd || has_repeated_keys(input) || read.is_err(), "believed: {read:?}");
        }
    }
    let read = usage_of_anthropic(input);
    if let Ok(Some(usage)) = &read {
        check_figures(usage);
        check_cost(usage);
    }
    if let Ok(told) = serde_json::from_slice::<Value>(input) {
        let absurd = ["input_tokens", "output_tokens"].iter().any(|key| is_absurd(&told, key));
        assert!(!absurd || has_repeated_keys(input) || read.is_err(), "believed: {read:?}");
    }
}

/// Whether a figure is told that no count of tokens can be.
fn is_absurd(usage: &Value, key: &str) -> bool {
    usage.get(key).is_some_and(|told| !told.is_null() && told.as_u64().is_none_or(|count| count > MOST_TOKENS))
}

fn has_repeated_keys(object: &[u8]) -> bool {
    let mut keys = std::collections::HashSet::new();
    let mut repeated = false;
    let _ = json::fields(object, |key, _| repeated |= !keys.insert(key.to_vec()));
    repeated
}

/// # Panics
/// When parts exceed their whole, or anything is more than is believed.
pub(crate) fn check_figures(usage: &Usage) {
    let Usage {
        input_tokens,
        output_tokens,
        cache_read_tokens,
        cache_write_5m_tokens,
        cache_write_1h_tokens,
        reasoning_tokens,
        audio_input_tokens,
        audio_output_tokens,
        image_input_tokens,
        image_output_tokens,
        web_searches,
        service_tier: _,
        provider_cost_usd,
    } = usage;
    assert!(*input_tokens <= MOST_TOKENS && *output_tokens <= MOST_TOKENS && *web_searches <= MOST_TOKENS, "{usage:?}");
    assert!(cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens <= *input_tokens, "{usage:?}");
    assert!(audio_input_tokens + image_input_tokens <= *input_tokens, "{usage:?}");
    assert!(reasoning_tokens <= output_tokens, "{usage:?}");
    assert!(audio_output_tokens + image_output_tokens <= *output_tokens, "{usage:?}");
    assert!(provider_cost_usd.as_deref().is_none_or(|cost| !cost.starts_with('-')), "{usage:?}");
}

fn check_cost(usage: &Usage) {
    for sheet in SHEETS.iter() {
        for trust_reported_cost in [false, true] {
            let context = CostContext { trust_reported_cost, ..CostContext::default() };
            let Ok(cost) = sheet.cost(usage, &context) else { continue };
            let parts =
                [cost.input, cost.cache_read, cost.cache_write, cost.output, cost.reasoning, cost.tools, cost.other];
            assert!(parts.iter().all(|part| *part >= NanoUsd::ZERO), "{cost:?}");
            assert_eq!(parts.into_iter().sum::<NanoUsd>(), cost.total);
            let more = Usage { output_tokens: usage.output_tokens + 1, ..usage.clone() };
            let dearer = sheet.cost(&more, &context).expect("priced before");
            assert!(dearer.total >= cost.total, "{dearer:?} for one token more than {cost:?}");
        }
        let bounds = Bounds {
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            web_searches: usage.web_searches,
            audio: true,
            audio_output: true,
            images: true,
            ..Bounds::default()
        };
        let own_tier = Usage { service_tier: None, ..usage.clone() };
        if let (Some(hold), Ok(cost)) = (sheet.worst_case(&bounds), sheet.cost(&own_tier, &CostContext::default())) {
            assert!(cost.total <= hold, "{cost:?} of {usage:?}, held {hold:?}");
        }
    }
}
