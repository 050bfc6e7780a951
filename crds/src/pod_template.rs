//! What a gateway's pods may be given: labels, resources, scheduling, further environment. Not a whole pod template: the
//! rest is what keeps the proxies safe.

use crate::bounded;
use crate::reference::{ConfigMapKeyRef, SecretKeyRef};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Settings of the proxies' pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Further labels of the pods. Example: `{team: platform}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "bounded::labels")]
    pub labels: BTreeMap<String, String>,

    /// Further annotations of the pods. Example: `{example.com/scrape: "true"}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "bounded::annotations")]
    pub annotations: BTreeMap<String, String>,

    /// Requests and limits of CPU and memory. Example: `{requests: {cpu: 500m, memory: 64Mi}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<PodResources>,

    /// Labels of the nodes that the pods may run on. Example: `{kubernetes.io/arch: amd64}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "bounded::labels")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints of nodes that the pods accept. Example: `[{key: dedicated, operator: Equal, value: llm, effect: NoSchedule}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,

    /// How pods are spread over nodes and zones. Example: `[{topologyKey: topology.kubernetes.io/zone}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub topology_spread: Vec<TopologySpread>,

    /// Name of the PriorityClass. Default: the cluster's. Example: `high`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,

    /// Further environment variables. Example: `[{name: HTTPS_PROXY, value: "http://proxy:3128"}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub env: Vec<EnvironmentVariable>,
}

/// CPU and memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodResources {
    /// What the scheduler sets aside, by resource. Example: `{cpu: 500m, memory: 64Mi}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "bounded::quantities")]
    pub requests: BTreeMap<String, String>,

    /// What a pod may use at most, by resource. Example: `{memory: 256Mi}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "bounded::quantities")]
    pub limits: BTreeMap<String, String>,
}

/// A taint that pods accept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// Name of the taint. Default: every taint, with `operator: Exists`. Example: `dedicated`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 317))]
    pub key: Option<String>,

    /// How the taint's value is compared. Default: `Equal`.
    #[serde(default)]
    pub operator: TolerationOperator,

    /// Value of the taint, with `operator: Equal`. Example: `llm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,

    /// What the taint does. Default: all effects. Example: `NoSchedule`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,

    /// How long a pod stays on a node with a NoExecute taint, in seconds. Default: for ever. Example: `300`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub toleration_seconds: Option<i64>,
}

/// How a taint's value is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TolerationOperator {
    /// The values are equal.
    #[default]
    Equal,
    /// Any value.
    Exists,
}

/// What a taint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// No new pods.
    NoSchedule,
    /// No new pods where it can be avoided.
    PreferNoSchedule,
    /// No pods.
    NoExecute,
}

/// How pods are spread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopologySpread {
    /// Label of the nodes whose values are the places to spread over. Example: `topology.kubernetes.io/zone`.
    #[schemars(length(min = 1, max = 317))]
    pub topology_key: String,

    /// Largest difference of the number of pods between two places. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_skew: i32,

    /// What happens to a pod that would make the difference larger. Default: `ScheduleAnyway`.
    #[serde(default)]
    pub when_unsatisfiable: WhenUnsatisfiable,
}

fn one() -> i32 {
    1
}

/// What happens to a pod that cannot be spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum WhenUnsatisfiable {
    /// It runs all the same.
    #[default]
    ScheduleAnyway,
    /// It waits.
    DoNotSchedule,
}

/// An environment variable. Exactly one of `value`, `secretRef`, `configMapRef`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("(has(self.value) ? 1 : 0) + (has(self.secretRef) ? 1 : 0) + (has(self.configMapRef) ? 1 : 0) == 1")
    .message("exactly one of value, secretRef, configMapRef must be set"))]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentVariable {
    /// Name of the variable. Example: `HTTPS_PROXY`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Its value. No secrets here. Example: `http://proxy:3128`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub value: Option<String>,

    /// The entry of a Secret that holds its value. Example: `{name: proxy, key: url}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,

    /// The entry of a ConfigMap that holds its value. Example: `{name: proxy, key: url}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ConfigMapKeyRef>,
}
