//! What a deployment's calls cost, where the price table does not know it or is not right for it.

use crate::decimal::DecimalText;
use crate::duration::DurationText;
use crate::price_unit::PriceUnit;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Own prices. `like` is the base, the rest replaces single rates of it; or nothing costs anything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.free) || !self.free || !(has(self.perMillionTokens) || has(self.like) || (has(self.rates) && self.rates.size() > 0))")
        .message("free excludes perMillionTokens, like and rates"),
    validation = Rule::new("(has(self.free) && self.free) || has(self.perMillionTokens) || has(self.like) || (has(self.rates) && self.rates.size() > 0)")
        .message("set at least one of perMillionTokens, free, like, rates")
)]
#[serde(rename_all = "camelCase")]
pub struct Pricing {
    /// The usual rates, in USD for a million tokens. Example: `{input: "0.10", output: "0.30"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_million_tokens: Option<PerMillionTokens>,

    /// Calls cost nothing. Default: false.
    #[serde(default)]
    pub free: bool,

    /// A model of the price table, as `provider/model`, whose prices hold here too. Example: `azure/gpt-4o`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub like: Option<String>,

    /// Further rates, by what they count and when they hold.
    /// Example: `[{unit: OutputImage, price: "0.04"}, {unit: InputToken, price: "5", per: 1000000, aboveInputTokens: 200000}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rates: Vec<Rate>,
}

/// USD for a million tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PerMillionTokens {
    /// Input. Example: `"0.10"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<DecimalText>,

    /// Output. Example: `"0.30"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<DecimalText>,

    /// Input that the provider found in its prompt cache. Default: the rate of input. Example: `"0.01"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<DecimalText>,

    /// Input that the provider wrote into its prompt cache. Default: the rate of input. Example: `"0.125"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<DecimalText>,
}

/// One rate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// What is counted. Example: `OutputImage`.
    pub unit: PriceUnit,

    /// USD for `per` units. Example: `"0.04"`.
    pub price: DecimalText,

    /// How many units the price is for. Default: 1. Example: `1000000`.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub per: i64,

    /// Holds for calls with more input tokens than this, then for the whole call. Default: 0. Example: `200000`.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub above_input_tokens: i64,

    /// Holds for calls that are served in this tier. Default: calls served the usual way. Example: `Batch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<ServiceTier>,

    /// Holds for cache writes that live this long. Default: the provider's usual time. Example: `1h`.
    #[serde(rename = "cacheTTL", default, skip_serializing_if = "Option::is_none")]
    pub cache_ttl: Option<DurationText>,
}

fn one() -> i64 {
    1
}

/// Ways to be served that have prices of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ServiceTier {
    /// Answered within hours, at a discount.
    Batch,
    /// Answered when there is room, at a discount.
    Flex,
    /// Answered first, at a surcharge.
    Priority,
    /// Between the usual way and `Priority`.
    Balanced,
    /// The fastest way.
    Ultrafast,
    /// For decisions with short answers.
    Decisions,
}
