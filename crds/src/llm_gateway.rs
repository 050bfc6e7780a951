//! `LLMGateway`: one set of proxies, its Service, and what holds for all calls through it.

use crate::allowed_namespaces::AllowedNamespaces;
use crate::attribution::Attribution;
use crate::bounded;
use crate::condition::Condition;
use crate::decimal::DecimalText;
use crate::gateway_defaults::GatewayDefaults;
use crate::pod_template::PodTemplate;
use crate::pricing::Pricing;
use crate::rate_limit::{Priority, RateLimit};
use crate::reference::{ConfigMapKeyRef, LocalRef, SecretKeyRef, SecretSource};
use crate::telemetry::Telemetry;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a gateway runs and what holds for all calls through it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "tollgate.dev",
    version = "v1alpha1",
    kind = "LLMGateway",
    plural = "llmgateways",
    shortname = "lgw",
    category = "tollgate",
    namespaced,
    cel,
    status = "LLMGatewayStatus",
    derive = "PartialEq",
    doc = "A gateway: its proxies, listeners and Service, who may attach to it, and defaults for all calls.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether the gateway serves"
    ),
    printcolumn(
        name = "ADDRESS",
        type_ = "string",
        json_path = ".status.address",
        description = "Where clients call it"
    ),
    printcolumn(
        name = "PROXIES",
        type_ = "string",
        json_path = ".status.proxies",
        description = "Ready proxies, of all"
    ),
    printcolumn(name = "KEYS", type_ = "integer", json_path = ".status.keys", description = "Keys that work at it"),
    printcolumn(
        name = "GENERATION",
        type_ = "integer",
        json_path = ".status.programmedGeneration",
        description = "Generation of the tables that every proxy runs"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was created"
    )
)]
#[x_kube(validation = Rule::new("!(has(self.replicas) && has(self.autoscaling))")
    .message("set replicas or autoscaling, not both"))]
#[serde(rename_all = "camelCase")]
pub struct LLMGatewaySpec {
    /// Objects that name no `gatewayRef` attach to this gateway, where `allowedNamespaces` lets them. Default: false.
    #[serde(default)]
    pub default: bool,

    /// Namespaces whose objects may attach to the gateway. Default: `{from: Same}`. Example: `{from: All}`.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,

    /// Number of proxies. Not beside `autoscaling`. Default: 2 without `autoscaling`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,

    /// Lets the number of proxies follow the load. Not beside `replicas`. Default: none.
    /// Example: `{minReplicas: 2, maxReplicas: 20, targetCPUPercent: 70}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,

    /// Ports that clients call. Default: `[{name: http, port: 4000}]`.
    #[serde(default = "default_listeners")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".to_owned()]),
        validation = Rule::new("self.all(one, self.exists_one(other, other.port == one.port))")
            .message("two listeners cannot have the same port")
    )]
    pub listeners: Vec<Listener>,

    /// The Service in front of the proxies. Default: `{type: ClusterIP}`.
    #[serde(default)]
    pub service: GatewayService,

    /// The key that may do everything. Default: none; nobody is administrator.
    /// Example: `{secretRef: {name: tollgate-master, key: key}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master_key: Option<SecretSource>,

    /// What holds for all calls where nothing closer says otherwise. Example: `{unpriced: Deny, maxOutputTokens: 4096}`.
    #[serde(default)]
    pub defaults: GatewayDefaults,

    /// Headers that say who is behind a call and what it is for. Default: only those of LiteLLM, and what is in the body.
    /// Example: `{endUserHeaders: [X-OpenWebUI-User-Id], tagHeaders: [X-Project]}`.
    #[serde(default, skip_serializing_if = "Attribution::is_empty")]
    pub attribution: Attribution,

    /// Rates for all calls, or for each user, end user, tag, model and so on. Default: none.
    /// Example: `[{name: end-users, per: EndUser, requestsPerMinute: 20}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub rate_limits: Vec<RateLimit>,

    /// Classes of keys, and what each keeps of the rates of deployments and accounts when they are scarce. While less than
    /// 80 % of a rate is used, every class may use what others leave. Default: none; who comes first is served.
    /// Example: `[{name: production, sharePercent: 75}, {name: batch, sharePercent: 10}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub priorities: Vec<Priority>,

    /// Databases. Default: none; budgets are counted by the operator. Example: `{redis: {secretRef: {name: redis, key: url}}}`.
    #[serde(default, skip_serializing_if = "Stores::is_empty")]
    pub stores: Stores,

    /// Logs, traces, metrics. Example: `{logs: {format: JSON, level: Info}}`.
    #[serde(default)]
    pub telemetry: Telemetry,

    /// Prices beside the built-in table. Default: none.
    /// Example: `{overlays: [{name: contract, provider: openai, discountPercent: "12"}]}`.
    #[serde(default, skip_serializing_if = "Prices::is_empty")]
    pub prices: Prices,

    /// What deployments may call. Default: `{allowedHosts: ["*"]}`.
    #[serde(default)]
    pub egress: Egress,

    /// Settings of the proxies' pods. Example: `{resources: {requests: {cpu: 500m, memory: 64Mi}}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

fn default_listeners() -> Vec<Listener> {
    vec![Listener { name: "http".to_owned(), port: 4000, tls: None }]
}

impl Default for LLMGatewaySpec {
    fn default() -> LLMGatewaySpec {
        LLMGatewaySpec {
            default: false,
            allowed_namespaces: AllowedNamespaces::default(),
            replicas: None,
            autoscaling: None,
            listeners: default_listeners(),
            service: GatewayService::default(),
            master_key: None,
            defaults: GatewayDefaults::default(),
            attribution: Attribution::default(),
            rate_limits: Vec::new(),
            priorities: Vec::new(),
            stores: Stores::default(),
            telemetry: Telemetry::default(),
            prices: Prices::default(),
            egress: Egress::default(),
            pod_template: None,
        }
    }
}

/// How the number of proxies follows the load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas")
    .message("minReplicas must not be above maxReplicas"))]
#[serde(rename_all = "camelCase")]
pub struct Autoscaling {
    /// Fewest proxies. Default: 2.
    #[serde(default = "default_min_replicas")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: i32,

    /// Most proxies. Example: `20`.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,

    /// CPU that the proxies should use, in percent of what they request. Default: 70.
    #[serde(rename = "targetCPUPercent", default = "default_target_cpu_percent")]
    #[schemars(range(min = 1, max = 100))]
    pub target_cpu_percent: i32,
}

fn default_min_replicas() -> i32 {
    2
}

fn default_target_cpu_percent() -> i32 {
    70
}

/// A port that clients call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Name of the port. Example: `http`.
    #[schemars(length(min = 1, max = 15), regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,

    /// Number of the port. Example: `4000`.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// Serves HTTPS instead of HTTP. Default: HTTP. Example: `{certificateRef: {name: gateway-tls}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
}

/// How a listener serves HTTPS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// A Secret of type `kubernetes.io/tls`, in the same namespace. Example: `{name: gateway-tls}`.
    pub certificate_ref: LocalRef,
}

/// The Service in front of the proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayService {
    /// How the Service can be reached. Default: `ClusterIP`.
    #[serde(rename = "type", default)]
    pub type_: ServiceType,

    /// Annotations of the Service, for load balancers. Example: `{example.com/internal: "true"}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "bounded::annotations")]
    pub annotations: BTreeMap<String, String>,
}

/// How a Service can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Inside the cluster.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// At a port of every node.
    NodePort,
    /// At an address of the cloud.
    LoadBalancer,
}

/// Databases of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stores {
    /// URL of a Redis or Valkey that counts budgets and limits for all proxies.
    /// Example: `{secretRef: {name: redis, key: url}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<SecretSource>,

    /// A PostgreSQL that keeps a row of each attempt, and sums of each day.
    /// Example: `{secretRef: {name: postgres, key: url}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresStore>,

    /// URL of a Redis or Valkey that keeps cached answers. Example: `{secretRef: {name: cache, key: url}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<SecretSource>,
}

impl Stores {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Stores::default()
    }
}

/// A PostgreSQL for rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PostgresStore {
    /// The entry of a Secret that holds the URL, `postgres://USER:PASSWORD@HOST/DATABASE?sslmode=verify-full`.
    /// Example: `{name: postgres, key: url}`.
    pub secret_ref: SecretKeyRef,

    /// Days that rows are kept, today with them; sums of days stay. Default: for ever. Example: `90`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 36500))]
    pub retention_days: Option<i32>,
}

/// Prices beside the built-in table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Prices {
    /// What the gateway's models cost instead of, or relative to, the built-in table. They are applied in their order,
    /// each to what those before it left; `pricing` of a ModelDeployment comes last.
    /// Example: `[{name: contract, provider: openai, discountPercent: "12"}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub overlays: Vec<PriceOverlay>,
}

impl Prices {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Prices::default()
    }
}

/// One change of prices. Exactly one of `pricing`, `discountPercent`, `surchargePercent`, `configMapRef`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("(has(self.pricing) ? 1 : 0) + (has(self.discountPercent) ? 1 : 0) + (has(self.surchargePercent) ? 1 : 0) + (has(self.configMapRef) ? 1 : 0) == 1")
    .message("exactly one of pricing, discountPercent, surchargePercent, configMapRef must be set"))]
#[serde(rename_all = "camelCase")]
pub struct PriceOverlay {
    /// Name of the change, in the ledger and in reports. Example: `contract`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// Only for models of this provider. Default: of every provider. Example: `openai`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub provider: Option<String>,

    /// Only for these models, by the provider's own names; they may end in `*`. Default: all. Example: `["gpt-5*"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub models: Vec<String>,

    /// Prices in the place of those before: single rates, all of another model (`like`), or none (`free`).
    /// Example: `{perMillionTokens: {input: "2.00", output: "8.00"}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pricing: Option<Pricing>,

    /// So many percent less than before, on every rate; at most 100, with at most four decimals. Example: `"12.5"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discount_percent: Option<DecimalText>,

    /// So many percent more than before, on every rate; at most 1000, with at most four decimals. Example: `"3"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surcharge_percent: Option<DecimalText>,

    /// The entry of a ConfigMap that holds whole prices of models, a line each, in the form of the built-in table
    /// (`tollgate prices show MODEL --output lines` prints it). Example: `{name: contract-prices, key: prices.jsonl}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ConfigMapKeyRef>,
}

/// What deployments may call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Egress {
    /// Hosts that any deployment of the gateway may call; `*.example.com` stands for all below `example.com`, `*` for
    /// all. Link-local addresses are never allowed, loopback only standalone. Default: `["*"]`.
    #[serde(default = "default_allowed_hosts")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 253)))]
    pub allowed_hosts: Vec<String>,
}

fn default_allowed_hosts() -> Vec<String> {
    vec!["*".to_owned()]
}

impl Default for Egress {
    fn default() -> Egress {
        Egress { allowed_hosts: default_allowed_hosts() }
    }
}

/// What is known about a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LLMGatewayStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,

    /// `Accepted`, `ResolvedRefs`, `Programmed`, `Ready`, `WithinCapacity`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,

    /// Where clients call it. Example: `default.tollgate.svc:4000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub address: Option<String>,

    /// Ready proxies, of all, ready to print. Example: `2/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub proxies: Option<String>,

    /// Number of proxies, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub replicas: Option<i32>,

    /// Label selector of the proxies' pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub selector: Option<String>,

    /// Keys that work at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub keys: Option<i64>,

    /// Generation of the tables that every ready proxy runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub programmed_generation: Option<i64>,
}
