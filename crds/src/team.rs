//! `Team`: who keys belong to, and what all of them together may do.

use crate::allowed_namespaces::AllowedNamespaces;
use crate::bounded;
use crate::budget_terms::BudgetTerms;
use crate::condition::Condition;
use crate::limits::Limits;
use crate::reference::ObjectRef;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the keys of a team may do together, and what each gets that says nothing itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "tollgate.dev",
    version = "v1alpha1",
    kind = "Team",
    plural = "teams",
    shortname = "team",
    category = "tollgate",
    namespaced,
    cel,
    status = "TeamStatus",
    derive = "PartialEq",
    doc = "Who keys belong to: allowed models, a common budget and limits, members, and defaults for each key.",
    printcolumn(name = "KEYS", type_ = "integer", json_path = ".status.keys", description = "Keys of the team"),
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
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was created"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct TeamSpec {
    /// Public model names that the team's keys may call; a name may end in `*`. Default: the team sets no bound, and
    /// each key must name its models. Example: `["gpt-4*", chat]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 253)))]
    pub models: Vec<String>,

    /// What all keys of the team may spend together. Default: no bound. Example: `{limit: "2000", period: {calendar: Month}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetTerms>,

    /// Rates and parallel calls of all keys of the team together. Default: unlimited. Example: `{requestsPerMinute: 3000}`.
    #[serde(default, skip_serializing_if = "Limits::is_unlimited")]
    pub limits: Limits,

    /// What each key of the team gets that does not say it itself. Example: `{limits: {parallelRequests: 8}}`.
    #[serde(default, skip_serializing_if = "KeyDefaults::is_empty")]
    pub key_defaults: KeyDefaults,

    /// Who is in the team. Example: `[{user: alice@example.com, role: Admin}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["user".to_owned()]))]
    pub members: Vec<Member>,

    /// The team or organisation above; its models, limits and budget bind this team too. Example: `{name: company}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_ref: Option<ObjectRef>,

    /// The class of the team's keys that name none, one of the gateway's `priorities`. Default: no class. Example: `batch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub priority: Option<String>,

    /// Refuses every call of the team's keys. Default: false.
    #[serde(default)]
    pub blocked: bool,

    /// Your own notes; they appear in reports and change nothing. Example: `{costCentre: "4711"}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "bounded::annotations")]
    pub metadata: BTreeMap<String, String>,

    /// Namespaces whose keys and teams may be under this team. Default: `{from: Same}`.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,
}

/// Defaults of a team's keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyDefaults {
    /// Budget of each key that has neither `budget` nor `budgetRefs`. Example: `{limit: "50", period: {calendar: Month}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetTerms>,

    /// Limits of each key, for those that the key does not set. Example: `{parallelRequests: 8}`.
    #[serde(default, skip_serializing_if = "Limits::is_unlimited")]
    pub limits: Limits,
}

impl KeyDefaults {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == KeyDefaults::default()
    }
}

/// One person in a team.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Who, as keys name them in `user`. Example: `alice@example.com`.
    #[schemars(length(min = 1, max = 253))]
    pub user: String,

    /// `Admin` may manage the team's keys, `Member` may use them. Default: `Member`.
    #[serde(default)]
    pub role: MemberRole,

    /// What all keys of this user in the team may spend together. Default: no bound of its own.
    /// Example: `{limit: "100", period: {calendar: Month}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetTerms>,

    /// Rates and parallel calls of all keys of this user in the team together. Default: unlimited.
    /// Example: `{requestsPerMinute: 100}`.
    #[serde(default, skip_serializing_if = "Limits::is_unlimited")]
    pub limits: Limits,
}

/// What a member may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum MemberRole {
    /// Uses the team's keys.
    #[default]
    Member,
    /// Manages the team's keys.
    Admin,
}

/// What is known about a team.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TeamStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,

    /// `Accepted`, `ResolvedRefs`, `Programmed`, `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,

    /// Keys of the team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub keys: Option<i64>,

    /// Spent in this period, ready to print; of a team without a budget, by its own keys this month (UTC).
    /// Example: `$311.20`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub spent: Option<String>,

    /// What may be spent in a period, ready to print. Example: `$2000.00/month`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub limit: Option<String>,

    /// Spent of the limit, ready to print. Example: `16%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub used_percent: Option<String>,

    /// Date of the next period's beginning. Example: `2026-12-01`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub resets: Option<String>,
}
