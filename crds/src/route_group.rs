//! `RouteGroup`: a public model name and the deployments behind it, where one name in common is not enough.

use crate::allowed_namespaces::AllowedNamespaces;
use crate::condition::Condition;
use crate::duration::DurationText;
use crate::reference::ObjectRef;
use crate::retries::{Cooldown, ErrorClass, Retries};
use crate::timeouts::Timeouts;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How calls to a public name are routed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "tollgate.dev",
    version = "v1alpha1",
    kind = "RouteGroup",
    plural = "routegroups",
    shortname = "rg",
    category = "tollgate",
    namespaced,
    cel,
    status = "RouteGroupStatus",
    derive = "PartialEq",
    doc = "A public model name and how calls to it are spread over deployments, retried and sent elsewhere.",
    selectable = ".spec.strategy",
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether at least one target works"
    ),
    printcolumn(name = "MODEL", type_ = "string", json_path = ".status.names", description = "Public names"),
    printcolumn(
        name = "TARGETS",
        type_ = "string",
        json_path = ".status.targets",
        description = "Ready targets, of all"
    ),
    printcolumn(
        name = "STRATEGY",
        type_ = "string",
        json_path = ".spec.strategy",
        description = "How targets are chosen"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was created"
    ),
    printcolumn(
        name = "FALLBACKS",
        type_ = "string",
        json_path = ".status.fallbacks",
        priority = 1,
        description = "Models that are tried when all targets failed"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct RouteGroupSpec {
    /// Public names that clients ask for; a name may end in `*`. Default: the name of this object.
    /// Example: `[chat, gpt-3.5-turbo]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub model_names: Vec<String>,

    /// Further names that clients may ask for, which lists of models do not show. Example: `[chat-latest]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub aliases: Vec<String>,

    /// Keeps all names of the group out of lists of models; they can be called all the same. Default: false.
    #[serde(default)]
    pub hidden: bool,

    /// How a target is chosen among those of the lowest priority. Default: `WeightedShuffle`.
    #[serde(default)]
    pub strategy: Strategy,

    /// The deployments behind the names; each at most once.
    /// Example: `[{name: main, modelDeploymentRef: {name: gpt-4o}, weight: 80}]`.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".to_owned()]),
        validation = Rule::new("self.all(one, self.exists_one(other, other.modelDeploymentRef == one.modelDeploymentRef))")
            .message("a modelDeploymentRef may appear in one target only")
    )]
    pub targets: Vec<Target>,

    /// Models to try when all targets failed in a certain way. What is written here needs no grant on the key.
    /// Example: `[{name: long, errors: [ContextWindow], models: [gpt-4o]}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub fallbacks: Vec<Fallback>,

    /// Further attempts within the group. Default: the gateway's `defaults.retries`. Example: `{attempts: 2}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,

    /// How long calls may take. Default: the gateway's `defaults.timeouts`; a deployment's own come first.
    /// Example: `{total: 2m}`.
    #[serde(default, skip_serializing_if = "Timeouts::is_empty")]
    pub timeouts: Timeouts,

    /// When a target that fails is passed over. Default: the gateway's `defaults.cooldown`.
    /// Example: `{failures: 3, window: 1m, duration: 5s}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<Cooldown>,

    /// Sends a small part of the calls to another deployment first. Default: none.
    /// Example: `{modelDeploymentRef: {name: gpt-5}, percent: 5}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,

    /// Sends a copy of a part of the calls to another deployment and drops its answers. Default: none.
    /// Example: `{modelDeploymentRef: {name: gpt-5}, percent: 1}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,

    /// Keeps the calls of one caller at one target, for the sake of its prompt cache. Default: none.
    /// Example: `{by: EndUser, ttl: 1h}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// Namespaces whose keys may ask for the group's names. Default: `{from: Same}`.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,
}

/// How a target is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Strategy {
    /// At random, in proportion to the weights.
    #[default]
    WeightedShuffle,
    /// The one with the fewest calls in flight.
    LeastBusy,
    /// The one that answered fastest of late.
    LowestLatency,
    /// The cheapest one.
    LowestCost,
    /// The one that is furthest from its limits.
    UsageBased,
    /// In the order of the list.
    Ordered,
}

/// One deployment of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Name of the target in logs and metrics. Example: `main`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// The deployment. Example: `{name: gpt-4o}`.
    pub model_deployment_ref: ObjectRef,

    /// Share of the calls among targets of the same priority. Default: the deployment's own. Example: `80`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    #[x_kube(validation = Rule::new("self > 0").message("weight must be greater than 0"))]
    pub weight: Option<i32>,

    /// Lower is tried first, and higher only when nothing lower is left. Default: the deployment's own. Example: `1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: Option<i32>,

    /// Condition of the target, in a part of CEL over `request.{tags,headers,model,endUser}` and
    /// `key.{name,namespace,team,user,labels}`: `==`, `<`, `in`, `&&`, `||`, `!`, `? :`, `size`, `has`, `contains`, `startsWith`
    /// and `endsWith`, nested 16 deep at most. No loops, no arithmetic, no regular expressions. Default: always. Example:
    /// `'eu' in request.tags`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub when: Option<String>,
}

/// Where calls go that failed in a certain way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fallback {
    /// Name of the fallback in logs and metrics. Example: `long`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// Failures that lead here. Example: `[ContextWindow]`.
    #[schemars(length(min = 1, max = 8))]
    pub errors: Vec<ErrorClass>,

    /// Public model names to try, in this order. Example: `[gpt-4o]`.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 253)))]
    pub models: Vec<String>,
}

/// A deployment on trial.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Canary {
    /// The deployment on trial. Example: `{name: gpt-5}`.
    pub model_deployment_ref: ObjectRef,

    /// How many of a hundred calls it gets first. Example: `5`.
    #[schemars(range(min = 0, max = 100))]
    pub percent: i32,
}

/// A deployment that gets copies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// The deployment that gets copies. Example: `{name: gpt-5}`.
    pub model_deployment_ref: ObjectRef,

    /// How many of a hundred calls are copied. Copies cost money, which is booked to the group's namespace. Example: `1`.
    #[schemars(range(min = 0, max = 100))]
    pub percent: i32,
}

/// What keeps calls together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("(self.by == 'Header') == has(self.header)")
    .message("header belongs beside `by: Header`, and only there"))]
#[serde(rename_all = "camelCase")]
pub struct Affinity {
    /// What calls must have in common. Default: `Key`.
    #[serde(default)]
    pub by: AffinityBy,

    /// The header that calls must have in common, with `by: Header`. Example: `x-session-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub header: Option<String>,

    /// How long after its last call a caller stays where it is. Default: 1h.
    #[serde(default = "default_affinity_ttl")]
    pub ttl: DurationText,
}

fn default_affinity_ttl() -> DurationText {
    DurationText::new("1h")
}

/// What calls must have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AffinityBy {
    /// The virtual key.
    #[default]
    Key,
    /// The end user that the request names.
    EndUser,
    /// A request header.
    Header,
}

/// What is known about a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteGroupStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,

    /// `Accepted`, `ResolvedRefs`, `Programmed`, `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,

    /// Public names, ready to print. Example: `chat,gpt-3.5-turbo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub names: Option<String>,

    /// Ready targets, of all, ready to print. Example: `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub targets: Option<String>,

    /// Models of the fallbacks, ready to print. Example: `llama,gpt-4o`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub fallbacks: Option<String>,
}
