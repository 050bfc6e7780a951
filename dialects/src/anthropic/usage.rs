//! Anthropic's `usage`, written. Reading it is `usage.rs`.

use crate::Usage;
use crate::chat::write::Members;

/// The `usage` object, in which `input_tokens` leaves out what a cache was read or written.
pub(super) fn encode_usage(usage: &Usage) -> Members<'_> {
    let Usage {
        input_tokens,
        output_tokens,
        cache_read_tokens,
        cache_write_5m_tokens,
        cache_write_1h_tokens,
        // Within `output_tokens`, which Anthropic does not split.
        reasoning_tokens: _,
        // Anthropic has no such parts.
        audio_input_tokens: _,
        audio_output_tokens: _,
        image_input_tokens: _,
        image_output_tokens: _,
        web_searches,
        service_tier,
        // The provider's price is ours to read.
        provider_cost_usd: _,
    } = usage;
    let written = cache_write_5m_tokens.saturating_add(*cache_write_1h_tokens);
    let uncached = input_tokens.saturating_sub(*cache_read_tokens).saturating_sub(written);
    let mut members = Members::new()
        .with("input_tokens", uncached)
        .with("cache_creation_input_tokens", written)
        .with("cache_read_input_tokens", *cache_read_tokens);
    if written > 0 {
        let ages = Members::new()
            .with("ephemeral_5m_input_tokens", *cache_write_5m_tokens)
            .with("ephemeral_1h_input_tokens", *cache_write_1h_tokens);
        members.push("cache_creation", ages);
    }
    members.push("output_tokens", *output_tokens);
    if *web_searches > 0 {
        members.push("server_tool_use", Members::new().with("web_search_requests", *web_searches));
    }
    let tier = service_tier.as_deref().map(|tier| if tier == "default" { "standard" } else { tier });
    members.maybe("service_tier", tier)
}
