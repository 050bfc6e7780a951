//! What happens after a failed attempt: which failures are tried again, how often, how soon, and when an upstream rests.

use crate::duration::DurationText;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Further attempts in the same group of targets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retries {
    /// Extra attempts after the first. All attempts of a call, over retries and fallbacks, stay within the gateway's
    /// `maxAttempts`. Default: 2. Example: `2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub attempts: Option<i32>,

    /// Failures that are tried again. Default: `[RateLimit, Timeout, ServerError, Connect]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub errors: Vec<ErrorClass>,

    /// How long to wait between attempts. An upstream's own `retry-after` counts too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
}

/// Waiting times that double from `initial` to `max`, with jitter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backoff {
    /// Wait before the first extra attempt. Default: 500ms. Example: `500ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<DurationText>,

    /// Longest wait. Default: 8s. Example: `8s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<DurationText>,
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ErrorClass {
    /// Every failure that another entry of the same list does not name.
    Any,
    /// The upstream refused because of its rate limits.
    RateLimit,
    /// No answer in time.
    Timeout,
    /// The upstream failed: a status of 500 or more, or a broken answer.
    ServerError,
    /// No connection.
    Connect,
    /// The upstream refused our credential.
    Authentication,
    /// The input is longer than the model takes.
    ContextWindow,
    /// The upstream refused the content.
    ContentPolicy,
}

/// When an upstream that fails is passed over, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cooldown {
    /// Failures within `window` that start a cooldown. Default: 3. Example: `3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub failures: Option<i32>,

    /// How far back failures count. Default: 1m. Example: `1m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<DurationText>,

    /// How long the upstream is passed over; `0s` switches cooldowns off. Default: 5s. Example: `5s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<DurationText>,
}
