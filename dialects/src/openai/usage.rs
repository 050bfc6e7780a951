//! OpenAI's `usage`, written. Reading it is `usage.rs`.

use crate::Usage;
use crate::chat::write::Members;

/// The `usage` object: totals that include the cached tokens, as OpenAI counts, with the names
/// LiteLLM gives to cache writes, which OpenAI has none for.
pub(crate) fn encode_usage(usage: &Usage) -> Members<'_> {
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
        // At the top level of a reply, not here.
        service_tier: _,
        // The provider's price is ours to read; a client is told ours in a header.
        provider_cost_usd: _,
    } = usage;
    let written = cache_write_5m_tokens.saturating_add(*cache_write_1h_tokens);
    let mut input = Members::new().with("cached_tokens", *cache_read_tokens);
    if written > 0 {
        input.push("cache_creation_tokens", written);
        let ages = Members::new()
            .with("ephemeral_5m_input_tokens", *cache_write_5m_tokens)
            .with("ephemeral_1h_input_tokens", *cache_write_1h_tokens);
        input.push("cache_creation_token_details", ages);
    }
    if *audio_input_tokens > 0 {
        input.push("audio_tokens", *audio_input_tokens);
    }
    if *image_input_tokens > 0 {
        input.push("image_tokens", *image_input_tokens);
    }
    let mut output = Members::new().with("reasoning_tokens", *reasoning_tokens);
    if *audio_output_tokens > 0 {
        output.push("audio_tokens", *audio_output_tokens);
    }
    if *image_output_tokens > 0 {
        output.push("image_tokens", *image_output_tokens);
    }
    let mut members = Members::new()
        .with("prompt_tokens", *input_tokens)
        .with("completion_tokens", *output_tokens)
        .with("total_tokens", input_tokens.saturating_add(*output_tokens))
        .with("prompt_tokens_details", input)
        .with("completion_tokens_details", output);
    if written > 0 {
        members.push("cache_creation_input_tokens", written);
    }
    if *cache_read_tokens > 0 {
        members.push("cache_read_input_tokens", *cache_read_tokens);
    }
    if *web_searches > 0 {
        members.push("server_tool_use", Members::new().with("web_search_requests", *web_searches));
    }
    members
}
