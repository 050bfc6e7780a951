//! Rates that a gateway sets for many: for each user, end user, tag, model and so on, or for all calls together. And the
//! classes by which scarce rates of upstreams are shared.

use crate::label_selector::LabelSelector;
use crate::limits::Limits;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One rule about rates. A call must fit all rules that apply to it, and the limits of its key and team. Calls with the
/// master key are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.requestsPerMinute) || has(self.tokensPerMinute) || has(self.inputTokensPerMinute) || has(self.outputTokensPerMinute) || has(self.parallelRequests)")
    .message("say at least one limit"))]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Name of the rule, in answers and findings. Example: `end-users`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// The calls that the rule counts; all parts must match. Default: all calls of the gateway. Example: `{models: ["gpt-4*"]}`.
    #[serde(default, skip_serializing_if = "RateLimitScope::is_empty")]
    pub applies_to: RateLimitScope,

    /// What each has the limits for itself. End users and tags are told apart by namespace; a call without an end user,
    /// or without a tag, is not counted by a rule for each of them. Default: all calls share the limits. Example: `EndUser`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<RateLimitPer>,

    /// Requests in any minute. Default: unlimited. Example: `60`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub requests_per_minute: Option<i64>,

    /// Tokens, input and output together, in any minute. Default: unlimited. Example: `100000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub tokens_per_minute: Option<i64>,

    /// Input tokens in any minute. Default: unlimited. Example: `80000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub input_tokens_per_minute: Option<i64>,

    /// Output tokens in any minute. Default: unlimited. Example: `20000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub output_tokens_per_minute: Option<i64>,

    /// Requests at the same time. Default: unlimited. Example: `8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub parallel_requests: Option<i64>,
}

impl RateLimit {
    /// The bounds, without what they are for.
    pub fn limits(&self) -> Limits {
        let RateLimit {
            name: _,
            applies_to: _,
            per: _,
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

/// Which calls a rule about rates counts. All parts must match; an empty one means everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitScope {
    /// Calls of keys in namespaces with these labels. Default: all namespaces. Example: `{matchLabels: {llm: allowed}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,

    /// Calls of keys with these labels. Example: `{matchLabels: {env: dev}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_selector: Option<LabelSelector>,

    /// Calls of keys whose team has these labels. Example: `{matchLabels: {tier: free}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_selector: Option<LabelSelector>,

    /// Calls of keys of these users. Example: `[alice@example.com]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 253)))]
    pub users: Vec<String>,

    /// Calls that name these end users. Example: `[customer-17]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 253)))]
    pub end_users: Vec<String>,

    /// Calls with one of these tags, of the key or of the request. With `per: Tag` only these tags are counted.
    /// Example: `[batch]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 128)))]
    pub tags: Vec<String>,

    /// Calls to these public model names; a name may end in `*`. Example: `["gpt-4*"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 253)))]
    pub models: Vec<String>,
}

impl RateLimitScope {
    /// Whether nothing is selected, which means everything.
    pub fn is_empty(&self) -> bool {
        *self == RateLimitScope::default()
    }
}

/// What each has limits of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RateLimitPer {
    /// Each virtual key.
    Key,
    /// Each team.
    Team,
    /// Each user that keys name.
    User,
    /// Each end user that requests name.
    EndUser,
    /// Each tag, of keys and of requests.
    Tag,
    /// Each public model name.
    Model,
    /// Each namespace.
    Namespace,
}

/// A class of keys and its share of scarce rates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Priority {
    /// Name of the class, as keys and teams name it in `priority`. Example: `production`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// The part of each deployment's and account's rates that the class keeps when they are scarce, in percent. What all
    /// classes leave is for keys without a class. Example: `75`.
    #[schemars(range(min = 1, max = 100))]
    pub share_percent: i32,
}
