//! The catalogue's words for what is odd about a provider, as the dialects know it.

use tollgate_dialects::chat::{MaxTokensField, Quirks};

use crate::catalogue::Provider;

/// Words about usage and cost are none of the dialects' business: whoever prices an answer asks the catalogue for them.
pub(super) fn of(provider: &Provider) -> Quirks {
    let mut quirks = Quirks::default();
    for (word, value) in provider.quirks() {
        match (word, value) {
            ("max_tokens_field", "max_completion_tokens") => {
                quirks.max_tokens_field = MaxTokensField::MaxCompletionTokens
            }
            ("no_stream_options", _) => quirks.no_stream_usage = true,
            _ => {}
        }
    }
    quirks
}
