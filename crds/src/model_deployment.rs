//! `ModelDeployment`: one model at one upstream, and the public names it answers to.

use crate::allowed_namespaces::AllowedNamespaces;
use crate::bounded;
use crate::cancel_billing::CancelBilling;
use crate::condition::Condition;
use crate::duration::DurationText;
use crate::endpoint::Endpoint;
use crate::limits::Limits;
use crate::pricing::Pricing;
use crate::reference::{BackendRef, ObjectRef, SecretSource};
use crate::time::TimestampText;
use crate::timeouts::Timeouts;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Free-form JSON fields of a request body.
pub type JsonFields = serde_json::Map<String, serde_json::Value>;

/// How one upstream model is reached and used. Exactly one of `accountRef`, `provider`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "tollgate.dev",
    version = "v1alpha1",
    kind = "ModelDeployment",
    plural = "modeldeployments",
    shortname = "mdep",
    category = "tollgate",
    namespaced,
    cel,
    status = "ModelDeploymentStatus",
    derive = "PartialEq",
    doc = "One model at one upstream: where it is, what it costs, how much it takes, and the public names it answers to.",
    selectable = ".spec.model",
    selectable = ".spec.provider",
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether a probe of the model succeeded"
    ),
    printcolumn(
        name = "PROVIDER",
        type_ = "string",
        json_path = ".status.provider",
        description = "The provider, of its account or its own"
    ),
    printcolumn(
        name = "MODEL",
        type_ = "string",
        json_path = ".spec.model",
        description = "The provider's id of the model"
    ),
    printcolumn(name = "NAMES", type_ = "string", json_path = ".status.names", description = "Public names"),
    printcolumn(
        name = "P50",
        type_ = "string",
        json_path = ".status.p50",
        description = "Median time to the first byte"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was created"
    ),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        priority = 1,
        description = "Why it is ready or not"
    ),
    printcolumn(
        name = "LAST-PROBE",
        type_ = "date",
        json_path = ".status.lastProbeAt",
        priority = 1,
        description = "Time since the last probe"
    ),
    printcolumn(
        name = "IN/1M",
        type_ = "string",
        json_path = ".status.inputPrice",
        priority = 1,
        description = "Price of a million input tokens"
    ),
    printcolumn(
        name = "OUT/1M",
        type_ = "string",
        json_path = ".status.outputPrice",
        priority = 1,
        description = "Price of a million output tokens"
    ),
    printcolumn(
        name = "SPENT",
        type_ = "string",
        json_path = ".status.spent",
        priority = 1,
        description = "Spent this month"
    )
)]
#[x_kube(
    validation = Rule::new("has(self.accountRef) != has(self.provider)")
        .message("exactly one of accountRef, provider must be set"),
    validation = Rule::new("has(self.provider) || !(has(self.credential) || has(self.backendRef) || has(self.endpoint))")
        .message("credential, backendRef and endpoint belong beside provider only; an account brings its own"),
    validation = Rule::new("!(has(self.backendRef) && has(self.endpoint))")
        .message("set backendRef or endpoint, not both"),
    validation = Rule::new("has(self.gatewayRef) == has(oldSelf.gatewayRef) && (!has(self.gatewayRef) || self.gatewayRef == oldSelf.gatewayRef)")
        .message("gatewayRef is immutable; delete the object and create it again")
)]
#[serde(rename_all = "camelCase")]
pub struct ModelDeploymentSpec {
    /// The ProviderAccount that brings provider, endpoint and credentials. Not beside `provider`.
    /// Example: `{name: azure-eu, namespace: platform}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_ref: Option<ObjectRef>,

    /// The provider, by its name in the catalogue: decides dialect, address and how credentials are sent. Any
    /// OpenAI-compatible server: `openai-compatible`. Not beside `accountRef`. Example: `openai`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub provider: Option<String>,

    /// The provider's API key. Default: called without one. Example: `{secretRef: {name: openai, key: api-key}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<SecretSource>,

    /// A Service of this namespace that serves the model. Not beside `endpoint`. Example: `{name: vllm, port: 8000}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_ref: Option<BackendRef>,

    /// Where the provider is called. Default: its own address from the catalogue. Not beside `backendRef`.
    /// Example: `{baseURL: "http://10.0.0.7:8000/v1"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,

    /// The provider's own id of the model; for Azure the name of the deployment. A `*` stands for what the `*` of the
    /// public name matched. Example: `meta-llama/Llama-3-70b`.
    #[schemars(length(min = 1, max = 253))]
    pub model: String,

    /// Public names that clients ask for; a name may end in `*`. Deployments with the same public name form a group.
    /// Default: the name of this object. Example: `[llama, "llama-*"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub model_names: Vec<String>,

    /// What calls cost. Default: what the price table says of the provider's model.
    /// Example: `{perMillionTokens: {input: "0.10", output: "0.30"}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pricing: Option<Pricing>,

    /// What the upstream takes; a full deployment is passed over. Default: unlimited.
    /// Example: `{requestsPerMinute: 600, parallelRequests: 64}`.
    #[serde(default, skip_serializing_if = "Limits::is_unlimited")]
    pub limits: Limits,

    /// How long calls may take. Default: what the route group, then the gateway say. Example: `{connect: 2s, total: 10m}`.
    #[serde(default, skip_serializing_if = "Timeouts::is_empty")]
    pub timeouts: Timeouts,

    /// Changes to the request on its way to the upstream. Example: `{defaults: {temperature: 0.2}, drop: [logit_bias]}`.
    #[serde(default, skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,

    /// Order within a group: lower is tried first, and higher only when nothing lower is left. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: i32,

    /// Share of the calls among deployments of the same priority. Default: 1. Example: `10`.
    #[serde(default = "one")]
    #[schemars(range(max = 1_000_000))]
    #[x_kube(validation = Rule::new("self > 0").message("weight must be greater than 0"))]
    pub weight: i32,

    /// Where the model runs, for routing and reports. Example: `eu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub region: Option<String>,

    /// Own words for routing, budgets and reports. Example: `[internal]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 128)))]
    pub tags: Vec<String>,

    /// How it is found out whether the upstream works. Default: `{mode: Models, interval: 30s}`.
    #[serde(default)]
    pub probe: Probe,

    /// What the model can do beyond text; `reasoning`: it may think without showing it. Default: what the price table says.
    /// Example: `[vision, function_calling]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64), regex(pattern = "^[a-z][a-z0-9_]*$")))]
    pub capabilities: Vec<String>,

    /// Most output tokens of one call. Default: what the price table says of the model. Example: `8192`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_output_tokens: Option<i64>,

    /// What the provider bills of a stream whose connection is closed. `Stops`: what it made until then, and it sends output
    /// as it makes it; Hard budgets then hold the output of streams bit by bit. `Full`: the answer to its end, all of which
    /// is held at once. Hard budgets rely on it: say `Stops` only where it is known. Default: what its
    /// account says, else the catalogue. Example: `Stops`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_billing: Option<CancelBilling>,

    /// Namespaces whose keys may ask for the model's names and whose RouteGroups may target it.
    /// Default: `{from: Same}`.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,

    /// The gateway that serves the model. Immutable. Default: the one that is marked `default`.
    /// Example: `{name: default, namespace: tollgate}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_ref: Option<ObjectRef>,
}

fn one() -> i32 {
    1
}

/// Changes to a request body.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Parameters {
    /// Fields that are set where the client does not set them; any JSON. Example: `{temperature: 0.2}`.
    #[serde(default, skip_serializing_if = "JsonFields::is_empty")]
    #[schemars(schema_with = "bounded::free_form_object")]
    pub defaults: JsonFields,

    /// Fields that are set whatever the client says; any JSON. Example: `{top_p: 0.9}`.
    #[serde(default, skip_serializing_if = "JsonFields::is_empty")]
    #[schemars(schema_with = "bounded::free_form_object")]
    pub forced: JsonFields,

    /// Fields that are removed. Example: `[logit_bias]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 128)))]
    pub drop: Vec<String>,
}

impl Parameters {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        *self == Parameters::default()
    }
}

/// How an upstream is probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// `Models`: lists the upstream's models, which costs nothing. `Completion`: a tiny call, which costs and is booked
    /// to the namespace. `None`: no probe. Default: `Models`.
    #[serde(default)]
    pub mode: ProbeMode,

    /// Time between two probes. Default: 30s.
    #[serde(default = "default_probe_interval")]
    pub interval: DurationText,
}

fn default_probe_interval() -> DurationText {
    DurationText::new("30s")
}

impl Default for Probe {
    fn default() -> Probe {
        Probe { mode: ProbeMode::default(), interval: default_probe_interval() }
    }
}

/// Ways to probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ProbeMode {
    /// Lists the upstream's models.
    #[default]
    Models,
    /// Makes a tiny call.
    Completion,
    /// Does nothing.
    None,
}

/// What is known about a deployment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelDeploymentStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,

    /// `Accepted`, `ResolvedRefs`, `Programmed`, `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,

    /// The provider, of its account or its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub provider: Option<String>,

    /// Public names, ready to print. Example: `llama,llama-*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub names: Option<String>,

    /// Median time to the first byte, ready to print. Example: `412ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub p50: Option<String>,

    /// When the upstream was probed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe_at: Option<TimestampText>,

    /// Price of a million input tokens, ready to print. Example: `$2.50`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub input_price: Option<String>,

    /// Price of a million output tokens, ready to print. Example: `$10.00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub output_price: Option<String>,

    /// Spent this month (UTC) by attempts that it answered, ready to print. Example: `$12.40`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub spent: Option<String>,
}
