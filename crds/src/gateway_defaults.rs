//! What holds for all calls of a gateway where nothing closer says otherwise.

use crate::duration::DurationText;
use crate::retries::{Cooldown, Retries};
use crate::timeouts::Timeouts;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Defaults of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.minOutputTokens <= self.maxOutputTokens")
    .message("minOutputTokens must not be above maxOutputTokens"))]
#[serde(rename_all = "camelCase")]
pub struct GatewayDefaults {
    /// Calls to models without a known price. `Deny`: refused. `Allow`: admitted and counted as unpriced; a Hard budget
    /// refuses them all the same. Default: `Allow`.
    #[serde(default)]
    pub unpriced: Unpriced,

    /// Removes parameters that the upstream is known not to take, instead of letting it refuse the call. Default: true.
    #[serde(default = "default_drop_unsupported_params")]
    pub drop_unsupported_params: bool,

    /// Most output tokens of a call that names no number, where neither model nor key has a lower one. Default: 4096.
    #[serde(default = "default_max_output_tokens")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_output_tokens: i64,

    /// A call that a budget would cut below this number of output tokens is refused instead. Default: 16.
    #[serde(default = "default_min_output_tokens")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub min_output_tokens: i64,

    /// Further attempts after a failure. Default: 2 after RateLimit, Timeout, ServerError or Connect.
    /// Example: `{attempts: 2}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,

    /// How long calls may take. Example: `{connect: 2s, firstByte: 30s, idle: 20s, total: 10m}`.
    #[serde(default, skip_serializing_if = "Timeouts::is_empty")]
    pub timeouts: Timeouts,

    /// When an upstream that fails is passed over. Default: 5s after 3 failures within 1m.
    /// Example: `{failures: 3, window: 1m, duration: 5s}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<Cooldown>,

    /// Most attempts of one call, over retries and fallbacks. Default: 6.
    #[serde(default = "default_max_attempts")]
    #[schemars(range(min = 1, max = 32))]
    pub max_attempts: i32,

    /// Status of the answer when a budget is exhausted: 429, or 422 for clients that retry every 429. Default: 429.
    #[serde(default = "default_budget_exceeded_status")]
    #[x_kube(validation = Rule::new("self == 429 || self == 422").message("budgetExceededStatus must be 429 or 422"))]
    pub budget_exceeded_status: i32,

    /// How long a call waits for money that calls in flight hold, before it is refused. Default: 2s.
    #[serde(default = "default_reserved_wait")]
    pub reserved_wait: DurationText,

    /// Whether input tokens that the provider read from its prompt cache count against rates of tokens. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count_cached_tokens: Option<bool>,
}

fn default_drop_unsupported_params() -> bool {
    true
}

fn default_max_output_tokens() -> i64 {
    4096
}

fn default_min_output_tokens() -> i64 {
    16
}

fn default_max_attempts() -> i32 {
    6
}

fn default_budget_exceeded_status() -> i32 {
    429
}

fn default_reserved_wait() -> DurationText {
    DurationText::new("2s")
}

impl Default for GatewayDefaults {
    fn default() -> GatewayDefaults {
        GatewayDefaults {
            unpriced: Unpriced::default(),
            drop_unsupported_params: default_drop_unsupported_params(),
            max_output_tokens: default_max_output_tokens(),
            min_output_tokens: default_min_output_tokens(),
            retries: None,
            timeouts: Timeouts::default(),
            cooldown: None,
            max_attempts: default_max_attempts(),
            budget_exceeded_status: default_budget_exceeded_status(),
            reserved_wait: default_reserved_wait(),
            count_cached_tokens: None,
        }
    }
}

/// Calls to models without a known price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Unpriced {
    /// Admitted and counted.
    #[default]
    Allow,
    /// Refused.
    Deny,
}
