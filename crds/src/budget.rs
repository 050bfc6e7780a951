//! `Budget`: how much may be spent per period, by whom, and what happens when it is low or gone.

use crate::allowed_namespaces::AllowedNamespaces;
use crate::budget_terms::{BudgetUnit, Enforcement, Period};
use crate::condition::Condition;
use crate::decimal::DecimalText;
use crate::label_selector::LabelSelector;
use crate::reference::{ObjectRef, SecretSource};
use crate::time::TimestampText;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much, of what, for whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "tollgate.dev",
    version = "v1alpha1",
    kind = "Budget",
    plural = "budgets",
    shortname = "bud",
    category = "tollgate",
    namespaced,
    cel,
    status = "BudgetStatus",
    derive = "PartialEq",
    doc = "How much may be spent per period, by which calls, and what happens when it is low or gone.",
    selectable = ".spec.enforcement",
    selectable = ".spec.unit",
    printcolumn(
        name = "AVAILABLE",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Available")].status"#,
        description = "Whether calls can be admitted under it"
    ),
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
        name = "HELD",
        type_ = "string",
        json_path = ".status.held",
        description = "Reserved for calls in flight"
    ),
    printcolumn(
        name = "RESETS",
        type_ = "string",
        json_path = ".status.resets",
        description = "When the next period begins"
    ),
    printcolumn(name = "MODE", type_ = "string", json_path = ".spec.enforcement", description = "Hard or Soft"),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was created"
    ),
    printcolumn(
        name = "SCOPE",
        type_ = "string",
        json_path = ".status.scope",
        priority = 1,
        description = "Which calls it binds"
    ),
    printcolumn(
        name = "BOUND",
        type_ = "string",
        json_path = ".status.maxOvershoot",
        priority = 1,
        description = "Most that can be spent above the limit"
    ),
    printcolumn(
        name = "KEYS",
        type_ = "integer",
        json_path = ".status.keys",
        priority = 1,
        description = "Keys that it binds"
    )
)]
#[x_kube(
    validation = Rule::new("!has(self.whenExhausted) || self.whenExhausted.action != 'Throttle' || self.enforcement == 'Soft'")
        .message("whenExhausted.action Throttle works only with enforcement Soft"),
    validation = Rule::new("!has(self.onAllocatorUnavailable) || self.onAllocatorUnavailable != 'Allow' || self.enforcement == 'Soft'")
        .message("onAllocatorUnavailable Allow works only with enforcement Soft")
)]
#[serde(rename_all = "camelCase")]
pub struct BudgetSpec {
    /// How much may be spent in a period, as decimal text in `unit`. Example: `"20"`.
    pub limit: DecimalText,

    /// What is counted. Immutable. Default: `USD`.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("unit is immutable; delete the object and create it again"))]
    pub unit: BudgetUnit,

    /// When counting starts again. Example: `{calendar: Day, timeZone: Europe/Vienna}`.
    pub period: Period,

    /// `Hard`: never exceeded, calls reserve their worst case first. `Soft`: calls are admitted while less than the
    /// limit is spent, so that calls in flight may exceed it; `status.maxOvershoot` says by how much. Default: `Hard`.
    #[serde(default)]
    pub enforcement: Enforcement,

    /// Which calls it binds; all parts must match. Default: all calls of this namespace, or of the whole gateway in the
    /// gateway's own namespace. Example: `{keySelector: {matchLabels: {env: dev}}, models: ["gpt-4*"]}`.
    #[serde(default, skip_serializing_if = "BudgetScope::is_empty")]
    pub applies_to: BudgetScope,

    /// A budget of its own for each of these, instead of one that they share. Default: shared. Example: `Key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<BudgetPer>,

    /// The budget above; what is spent here counts there too, and both must fit. Example: `{name: research-year}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_ref: Option<ObjectRef>,

    /// Shares of the limit at which somebody is told. Example: `[{percent: 80}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["percent".to_owned()]))]
    pub thresholds: Vec<Threshold>,

    /// Cheaper models to prefer when little is left. Default: none. Example: `{belowPercent: 10, models: [llama]}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_low: Option<WhenLow>,

    /// What happens when nothing is left. Default: `{action: Block}`.
    #[serde(default)]
    pub when_exhausted: WhenExhausted,

    /// More for a while. Default: none. Example: `{amount: "10", until: "2026-12-31T00:00:00Z"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boost: Option<Boost>,

    /// Any text; a change of it starts the current period again from zero, and is audited. Example: `ticket-1234`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub reset_token: Option<String>,

    /// What happens when nobody can say how much is left. Default: `Deny` for Hard, `Allow` for Soft.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_allocator_unavailable: Option<AllocatorUnavailable>,

    /// Namespaces whose budgets may name this one as parent. Default: `{from: Same}`.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,
}

/// Which calls a budget binds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetScope {
    /// Keys with these labels. Example: `{matchLabels: {env: dev}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_selector: Option<LabelSelector>,

    /// Keys of teams with these labels. Example: `{matchLabels: {unit: research}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_selector: Option<LabelSelector>,

    /// Namespaces with these labels. Only in the gateway's own namespace. Example: `{matchLabels: {llm: allowed}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,

    /// Keys of these users. Example: `[alice@example.com]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 253)))]
    pub users: Vec<String>,

    /// Calls that name these end users. Example: `[customer-17]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 253)))]
    pub end_users: Vec<String>,

    /// Calls with one of these tags. Example: `[notebook]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 128)))]
    pub tags: Vec<String>,

    /// Calls to these public model names; a name may end in `*`. Example: `["gpt-4*"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 253)))]
    pub models: Vec<String>,

    /// Calls to these providers. Example: `[openai]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 64)))]
    pub providers: Vec<String>,
}

impl BudgetScope {
    /// Whether nothing is selected, which means everything.
    pub fn is_empty(&self) -> bool {
        *self == BudgetScope::default()
    }
}

/// What each gets a budget of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum BudgetPer {
    /// Each virtual key.
    Key,
    /// Each team.
    Team,
    /// Each user that keys name.
    User,
    /// Each end user that requests name.
    EndUser,
    /// Each tag.
    Tag,
    /// Each public model name.
    Model,
    /// Each provider.
    Provider,
    /// Each namespace.
    Namespace,
}

/// A share of the limit at which somebody is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Threshold {
    /// Spent of the limit, in percent. Example: `80`.
    #[schemars(range(min = 1, max = 1000))]
    pub percent: i32,

    /// A URL that is told, beside the Event and the metric. Example: `{secretRef: {name: alerts, key: url}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<SecretSource>,
}

/// What to prefer when little is left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WhenLow {
    /// Little is left when less than this share of the limit is, in percent. Example: `10`.
    #[schemars(range(min = 1, max = 100))]
    pub below_percent: i32,

    /// Public model names that are tried first, in this order, as the key's namespace knows them. They need no grant on
    /// the key. Where all fail, or one of them was asked for, what was asked for is called. Example: `[llama]`.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 253)))]
    pub models: Vec<String>,
}

/// What happens when nothing is left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("(self.action == 'Throttle') == has(self.percent)")
    .message("percent belongs beside `action: Throttle`, and only there"))]
#[serde(rename_all = "camelCase")]
pub struct WhenExhausted {
    /// `Block`: calls are refused until the next period. `Throttle`: `percent` of the usual rate is admitted; only with
    /// enforcement Soft. Default: `Block`.
    #[serde(default)]
    pub action: ExhaustedAction,

    /// Share of the usual rate of calls that `Throttle` admits, in percent: of the calls per minute that were admitted in
    /// this period before the limit was reached. One call a minute is always admitted. Example: `10`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 99))]
    pub percent: Option<i32>,
}

/// What happens when nothing is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ExhaustedAction {
    /// Calls are refused.
    #[default]
    Block,
    /// Calls are slowed down.
    Throttle,
}

/// More for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.until)").message("a boost needs an end: set until"))]
#[serde(rename_all = "camelCase")]
pub struct Boost {
    /// How much is added to the limit, as decimal text in the budget's unit. Example: `"10"`.
    pub amount: DecimalText,

    /// When the boost ends; must be set. Example: `2026-12-31T00:00:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<TimestampText>,
}

/// What happens when nobody can say how much is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AllocatorUnavailable {
    /// Calls are refused once what was granted is spent.
    Deny,
    /// Calls are admitted, and counted later.
    Allow,
}

/// What is known about a budget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,

    /// `Accepted`, `ResolvedRefs`, `Programmed`, `Ready`, `Available`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,

    /// Spent in this period, ready to print. Example: `$3.2711`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub spent: Option<String>,

    /// What may be spent in a period, ready to print. Example: `$20.00/day`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub limit: Option<String>,

    /// Spent of the limit, ready to print. Example: `16%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub used_percent: Option<String>,

    /// Reserved for calls in flight, ready to print. Example: `$0.12`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub held: Option<String>,

    /// Date of the next period's beginning. Example: `2026-12-01`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub resets: Option<String>,

    /// Which calls it binds, ready to print. Example: `keys env=dev, models gpt-4*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub scope: Option<String>,

    /// Most that can be spent above the limit, ready to print: `$0.00` for Hard, `unbounded` for Soft where some key may
    /// have any number of calls at once, or nothing bounds the output of a model that it may call. Example: `$1.80`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub max_overshoot: Option<String>,

    /// Keys that it binds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub keys: Option<i64>,

    /// The `spec.resetToken` that was acted on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub reset_token: Option<String>,
}
