//! How a request is told to one provider: the upstream's model id and what is odd about the
//! provider, as data. A quirk is a row in the catalogue, never code that knows a provider's name.

use serde::{Deserialize, Serialize};

/// How to encode a request.
#[derive(Clone, Copy, Debug)]
pub struct EncodeOptions<'a> {
    /// The model's id at the provider.
    pub model: &'a str,
    /// Used where the dialect requires a maximum (Anthropic) and the client gave none.
    pub default_max_tokens: u64,
    /// Leave out what the provider cannot do, instead of refusing the request.
    pub drop_unsupported: bool,
    pub quirks: &'a Quirks,
}

/// What is odd about a provider or a model. The default is the plainest provider of the dialect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "snake_case")]
pub struct Quirks {
    /// OpenAI dialect: the field for the most output tokens.
    pub max_tokens_field: MaxTokensField,
    /// OpenAI dialect: the server refuses `stream_options`.
    pub no_stream_usage: bool,
    /// OpenAI dialect: the server takes Anthropic's `cache_control` on content and tools.
    pub cache_control: bool,
    /// OpenAI dialect: the server wants its own reasoning back (`reasoning_content`,
    /// `thinking_blocks`) with the history.
    pub reasoning_history: bool,
    /// OpenAI dialect: the server takes `top_k`.
    pub top_k: bool,
    /// OpenAI dialect: content that is all text must be one string.
    pub flat_text: bool,
    /// Anthropic dialect: the model has structured output and strict tools of its own; without it,
    /// a JSON answer is a forced tool call.
    pub structured_output: bool,
    /// Anthropic dialect: how a reasoning effort is told.
    pub thinking: ThinkingStyle,
    /// Parameters the model refuses, by their name in the provider's dialect, such as
    /// `temperature`.
    pub refuses: Vec<String>,
}

/// The name of the maximum in the OpenAI dialect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    /// What compatible servers know.
    #[default]
    MaxTokens,
    /// What OpenAI's reasoning models require.
    MaxCompletionTokens,
}

/// How an effort is told in the Anthropic dialect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThinkingStyle {
    /// `thinking.budget_tokens`.
    #[default]
    Budget,
    /// `thinking.type: adaptive` with `output_config.effort`.
    Adaptive,
}

/// Why a request cannot be told in a dialect. Both are the client's to solve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The provider cannot do what these ask for.
    #[error("the model's provider does not support: {}", params.join(", "))]
    Unsupported {
        /// Names or paths, in the client's dialect.
        params: Vec<String>,
    },
    /// The request makes no sense to the dialect.
    #[error("{message}")]
    Invalid { message: String, param: Option<String> },
}

/// Collects what a dialect cannot express while a request is encoded.
#[derive(Debug, Default)]
pub(crate) struct Unsupported(Vec<String>);

impl Unsupported {
    pub(crate) fn add(&mut self, param: impl Into<String>) {
        let param = param.into();
        if !self.0.contains(&param) {
            self.0.push(param);
        }
    }

    /// # Errors
    /// When there is anything, and it may not be dropped.
    pub(crate) fn settle(self, drop: bool) -> Result<(), EncodeError> {
        if drop || self.0.is_empty() { Ok(()) } else { Err(EncodeError::Unsupported { params: self.0 }) }
    }
}

impl MaxTokensField {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

impl Quirks {
    pub(crate) fn refuses(&self, param: &str) -> bool {
        self.refuses.iter().any(|refused| refused == param)
    }
}
