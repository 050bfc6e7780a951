//! `VirtualKey`: one credential that clients call with, what it may do and what it may spend.

use crate::bounded;
use crate::budget_terms::BudgetTerms;
use crate::condition::Condition;
use crate::duration::DurationText;
use crate::limits::KeyLimits;
use crate::reference::{LocalRef, ObjectRef};
use crate::time::TimestampText;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a key may do. Exactly one of `secret`, `keyHash`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "tollgate.dev",
    version = "v1alpha1",
    kind = "VirtualKey",
    plural = "virtualkeys",
    shortname = "vk",
    category = "tollgate",
    namespaced,
    cel,
    status = "VirtualKeyStatus",
    derive = "PartialEq",
    doc = "One credential that clients call the gateway with: which models, how much, how fast, until when.",
    selectable = ".spec.user",
    selectable = ".spec.teamRef.name",
    printcolumn(
        name = "ACTIVE",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Active")].status"#,
        description = "Whether the key works: not expired, disabled or exhausted"
    ),
    printcolumn(name = "TEAM", type_ = "string", json_path = ".status.team", description = "The team it belongs to"),
    printcolumn(name = "SPENT", type_ = "string", json_path = ".status.spent", description = "Spent in this period"),
    printcolumn(
        name = "LIMIT",
        type_ = "string",
        json_path = ".status.limit",
        description = "What may be spent in a period"
    ),
    printcolumn(
        name = "USED%",
        type_ = "string",
        json_path = ".status.usedPercent",
        description = "Spent of the limit"
    ),
    printcolumn(
        name = "RESETS",
        type_ = "string",
        json_path = ".status.resets",
        description = "When the next period begins"
    ),
    printcolumn(
        name = "LAST-USED",
        type_ = "date",
        json_path = ".status.lastUsedAt",
        description = "Time since the last call"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was created"
    ),
    printcolumn(
        name = "KEY",
        type_ = "string",
        json_path = ".status.keyPrefix",
        priority = 1,
        description = "The public beginning of the key"
    ),
    printcolumn(
        name = "REQUESTS",
        type_ = "integer",
        json_path = ".status.requests",
        priority = 1,
        description = "Requests this month"
    ),
    printcolumn(
        name = "TOKENS",
        type_ = "integer",
        json_path = ".status.tokens",
        priority = 1,
        description = "Tokens this month, input and output"
    ),
    printcolumn(
        name = "EXPIRES",
        type_ = "string",
        json_path = ".spec.expiresAt",
        priority = 1,
        description = "When the key ends"
    ),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Active")].reason"#,
        priority = 1,
        description = "Why it is active or not"
    )
)]
#[x_kube(
    validation = Rule::new("has(self.secret) != has(self.keyHash)")
        .message("exactly one of secret, keyHash must be set"),
    validation = Rule::new("!(has(self.budget) && has(self.budgetRefs) && self.budgetRefs.size() > 0)")
        .message("set budget or budgetRefs, not both"),
    validation = Rule::new("!has(self.rotation) || has(self.secret)")
        .message("rotation belongs beside secret only: a key that exists elsewhere cannot be rotated here"),
    validation = Rule::new("has(self.gatewayRef) == has(oldSelf.gatewayRef) && (!has(self.gatewayRef) || self.gatewayRef == oldSelf.gatewayRef)")
        .message("gatewayRef is immutable; delete the object and create it again")
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualKeySpec {
    /// The team the key belongs to; its models, limits and budget bind the key too. Default: no team.
    /// Example: `{name: research}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_ref: Option<ObjectRef>,

    /// Who uses the key; spending is attributed to them. Example: `alice@example.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub user: Option<String>,

    /// Public model names that the key may call, within what the team allows; a name may end in `*`. Default: all that
    /// the team allows; without a team, none. Example: `["gpt-4o", chat]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 253)))]
    pub models: Vec<String>,

    /// Own names of the key for models. Resolved first; the result must be allowed. Example: `{fast: llama}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "bounded::model_aliases")]
    pub model_aliases: BTreeMap<String, String>,

    /// Rates and parallel calls of the key. Default: unlimited, but for the team's. Example: `{requestsPerMinute: 60}`.
    #[serde(default, skip_serializing_if = "KeyLimits::is_unlimited")]
    pub limits: KeyLimits,

    /// The class of the key, one of the gateway's `priorities`: its share of the rates of deployments and accounts when they
    /// are scarce. Default: the team's. Example: `production`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub priority: Option<String>,

    /// A budget of its own. Default: the team's `keyDefaults.budget`. Example: `{limit: "25", period: {calendar: Month}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetTerms>,

    /// Budgets of this namespace that bind the key, beside those whose `appliesTo` selects it. Not beside `budget`.
    /// Example: `[{name: dev-daily}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub budget_refs: Vec<LocalRef>,

    /// Refuses every call with the key. Default: false.
    #[serde(default)]
    pub disabled: bool,

    /// When the key ends. Default: never. Example: `2027-06-30T00:00:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<TimestampText>,

    /// Replaces the key regularly. Only beside `secret`. Default: never. Example: `{every: 720h, overlap: 24h}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,

    /// Names of Guardrails that every call of the key passes. Example: `[no-secrets]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub guardrails: Vec<String>,

    /// Tags of every call with the key, for routing, budgets and reports. Example: `[notebook]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 128)))]
    pub tags: Vec<String>,

    /// Most output tokens of a call that names no number, under a Hard budget. Default: the gateway's. Example: `2048`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_output_tokens: Option<i64>,

    /// The Secret that a generated key is written into, or that an existing one is read from. Example: `{name: ci-key}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<KeySecret>,

    /// The SHA-256 of a key that exists elsewhere, in hexadecimal. The key itself is never stored.
    /// Example: `sha256:` and 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    #[x_kube(validation = Rule::new("self.matches('^sha256:[0-9a-f]{64}$')")
        .message("keyHash must be `sha256:` and 64 lower case hexadecimal digits"))]
    pub key_hash: Option<String>,

    /// The gateway that the key works at. Immutable. Default: the one that is marked `default`.
    /// Example: `{name: default, namespace: tollgate}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_ref: Option<ObjectRef>,
}

/// Where a key lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeySecret {
    /// Name of the Secret, in the same namespace. One that Tollgate did not make is never overwritten. Example: `ci-key`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Entry of the Secret. Default: `key`.
    #[serde(default = "default_secret_entry")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,

    /// `Generate`: Tollgate makes a key and writes it. `Adopt`: the value that is there is the key. Default: `Generate`.
    #[serde(default)]
    pub policy: KeyPolicy,
}

fn default_secret_entry() -> String {
    "key".to_owned()
}

/// Who makes the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum KeyPolicy {
    /// Tollgate does, and writes it into the Secret.
    #[default]
    Generate,
    /// The Secret holds it already.
    Adopt,
}

/// Regular replacement of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("duration(self.overlap) < duration(self.every)")
    .message("overlap must be shorter than every"))]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// How long a key is used before a new one replaces it. Example: `720h`.
    pub every: DurationText,

    /// How long the old key works beside the new one; shorter than `every`. Default: 1h. Example: `24h`.
    #[serde(default = "default_overlap")]
    pub overlap: DurationText,
}

fn default_overlap() -> DurationText {
    DurationText::new("1h")
}

/// What is known about a key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualKeyStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,

    /// `Accepted`, `ResolvedRefs`, `Programmed`, `Ready`, `Active`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,

    /// Name of the team, `-` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub team: Option<String>,

    /// Spent in this period, ready to print; of a key without a budget of its own, this month (UTC). Example: `$3.2711`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub spent: Option<String>,

    /// What may be spent in a period, ready to print. Example: `$50.00/month`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub limit: Option<String>,

    /// Spent of the limit, ready to print. Example: `7%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub used_percent: Option<String>,

    /// Date of the next period's beginning. Example: `2026-12-01`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub resets: Option<String>,

    /// When the key was used last, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<TimestampText>,

    /// The public beginning of the key. Example: `sk-tg-4f9a`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub key_prefix: Option<String>,

    /// Requests this month (UTC), as budgets count them: attempts that a provider answered or was charged for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub requests: Option<i64>,

    /// Tokens this month (UTC), input and output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub tokens: Option<i64>,

    /// SHA-256 of the key in use, as in `spec.keyHash`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    pub key_hash: Option<String>,

    /// When the key in use was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_at: Option<TimestampText>,

    /// SHA-256 of the key before it, which works until `previousKeyEndsAt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    pub previous_key_hash: Option<String>,

    /// When the key before the one in use ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_key_ends_at: Option<TimestampText>,

    /// Name of the Secret that holds the generated key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub secret_name: Option<String>,

    /// The value of the annotation `tollgate.dev/rotate` that was acted on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub rotation_request: Option<String>,
}
