//! What an upstream says a call used, in one shape for every dialect.
//!
//! Figures are the provider's; nothing is estimated here. A figure that cannot be true makes the
//! whole report absurd, so that money falls back to the hold instead of to a guess.

use serde::{Deserialize, Serialize};

/// Tokens and units of one answer. Totals include their parts: cached tokens are within
/// `input_tokens`, reasoning tokens within `output_tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// All input tokens, those read from and written to a prompt cache included.
    pub input_tokens: u64,
    /// All output tokens, reasoning included.
    pub output_tokens: u64,
    /// Input tokens served from a prompt cache.
    pub cache_read_tokens: u64,
    /// Input tokens written to a cache that lives five minutes.
    pub cache_write_5m_tokens: u64,
    /// Input tokens written to a cache that lives one hour.
    pub cache_write_1h_tokens: u64,
    /// Output tokens spent on reasoning.
    pub reasoning_tokens: u64,
    /// Input tokens that encode audio.
    pub audio_input_tokens: u64,
    /// Output tokens that encode audio.
    pub audio_output_tokens: u64,
    /// Input tokens that encode images.
    pub image_input_tokens: u64,
    /// Output tokens that encode images.
    pub image_output_tokens: u64,
    /// Web searches the provider ran for the answer.
    pub web_searches: u64,
    /// The service tier that served the call, as the provider names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<Box<str>>,
    /// The provider's own price of the call in USD, as decimal text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_cost_usd: Option<Box<str>>,
}
