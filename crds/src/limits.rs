//! Rates and parallel calls that an upstream, a team or a key is held to.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Upper bounds; what is absent is unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Requests in any minute. Default: unlimited. Example: `600`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub requests_per_minute: Option<i64>,

    /// Tokens, input and output together, in any minute. Default: unlimited. Example: `400000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub tokens_per_minute: Option<i64>,

    /// Input tokens in any minute, those of a prompt cache included unless the gateway does not count them. Default: unlimited.
    /// Example: `300000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub input_tokens_per_minute: Option<i64>,

    /// Output tokens in any minute, reasoning included. Default: unlimited. Example: `100000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub output_tokens_per_minute: Option<i64>,

    /// Requests at the same time. Default: unlimited. Example: `64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub parallel_requests: Option<i64>,
}

/// Upper bounds of a key, over all models and for some of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyLimits {
    /// Requests in any minute. Default: unlimited. Example: `60`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub requests_per_minute: Option<i64>,

    /// Tokens, input and output together, in any minute. Default: unlimited. Example: `100000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub tokens_per_minute: Option<i64>,

    /// Input tokens in any minute, those of a prompt cache included unless the gateway does not count them. Default: unlimited.
    /// Example: `80000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub input_tokens_per_minute: Option<i64>,

    /// Output tokens in any minute, reasoning included. Default: unlimited. Example: `20000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub output_tokens_per_minute: Option<i64>,

    /// Requests at the same time. Default: unlimited. Example: `8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub parallel_requests: Option<i64>,

    /// Further bounds for calls to single models; a call must fit these and those above.
    /// Example: `[{model: gpt-4o, requestsPerMinute: 10}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["model".to_owned()]))]
    pub per_model: Vec<ModelLimits>,
}

/// Upper bounds of a key for one model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelLimits {
    /// Public name of the model, after aliases; may end in `*`. Example: `gpt-4o`.
    #[schemars(length(min = 1, max = 253))]
    pub model: String,

    /// Requests to this model in any minute. Default: unlimited. Example: `10`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub requests_per_minute: Option<i64>,

    /// Tokens of this model, input and output together, in any minute. Default: unlimited. Example: `50000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub tokens_per_minute: Option<i64>,

    /// Input tokens of this model in any minute, those of a prompt cache included unless the gateway does not count them. Default: unlimited.
    /// Example: `40000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub input_tokens_per_minute: Option<i64>,

    /// Output tokens of this model in any minute, reasoning included. Default: unlimited. Example: `10000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub output_tokens_per_minute: Option<i64>,

    /// Requests to this model at the same time. Default: unlimited. Example: `2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub parallel_requests: Option<i64>,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == Limits::default()
    }
}

impl KeyLimits {
    /// Whether nothing is limited, for no model.
    pub fn is_unlimited(&self) -> bool {
        *self == KeyLimits::default()
    }

    /// The bounds over all models.
    pub fn overall(&self) -> Limits {
        let KeyLimits {
            requests_per_minute,
            tokens_per_minute,
            input_tokens_per_minute,
            output_tokens_per_minute,
            parallel_requests,
            per_model: _,
        } = *self;
        Limits {
            requests_per_minute,
            tokens_per_minute,
            input_tokens_per_minute,
            output_tokens_per_minute,
            parallel_requests,
        }
    }
}

impl ModelLimits {
    /// The bounds, without the model they are for.
    pub fn limits(&self) -> Limits {
        let ModelLimits {
            model: _,
            requests_per_minute,
            tokens_per_minute,
            input_tokens_per_minute,
            output_tokens_per_minute,
            parallel_requests,
        } = *self;
        Limits {
            requests_per_minute,
            tokens_per_minute,
            input_tokens_per_minute,
            output_tokens_per_minute,
            parallel_requests,
        }
    }
}
