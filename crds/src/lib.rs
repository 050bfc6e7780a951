//! The custom resources of Tollgate: what users write, as Rust types and as CustomResourceDefinitions. Types only: they
//! say what a document may look like. What it means, and whether it fits the others, is decided where resources are
//! compiled. Nothing here does I/O.
//!
//! Texts that stand for something else (durations, money, moments) are kept as text, so that one odd value becomes one
//! finding with a path and never the loss of the whole object; their `get` says what they stand for.

#![forbid(unsafe_code)]
// The lint takes the columns of `#[kube(printcolumn(..), printcolumn(..))]` for one list of attributes.
#![allow(clippy::duplicated_attributes)]

mod allowed_namespaces;
mod attribution;
mod bounded;
mod budget;
mod budget_terms;
mod cancel_billing;
mod condition;
mod crd;
mod decimal;
mod duration;
mod endpoint;
mod gateway_defaults;
mod label_selector;
mod limits;
mod llm_gateway;
mod model_deployment;
mod pod_template;
mod price_unit;
mod pricing;
mod provider_account;
mod rate_limit;
mod reference;
mod resource;
mod retries;
mod route_group;
mod team;
mod telemetry;
mod time;
mod timeouts;
mod virtual_key;

pub use allowed_namespaces::{AllowedNamespaces, NamespacesFrom};
pub use attribution::{Attribution, CREDENTIAL_HEADERS};
pub use budget::{
    AllocatorUnavailable, Boost, Budget, BudgetPer, BudgetScope, BudgetSpec, BudgetStatus, ExhaustedAction, Threshold,
    WhenExhausted, WhenLow,
};
pub use budget_terms::{BudgetTerms, BudgetUnit, CalendarPeriod, Enforcement, Lifetime, Period};
pub use cancel_billing::CancelBilling;
pub use condition::{Condition, ConditionStatus};
pub use crd::all_crds;
pub use decimal::{DecimalText, InvalidDecimal};
pub use duration::{DurationText, InvalidDuration};
pub use endpoint::{Endpoint, Header};
pub use gateway_defaults::{GatewayDefaults, Unpriced};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
pub use label_selector::{LabelExpression, LabelOperator, LabelSelector};
pub use limits::{KeyLimits, Limits, ModelLimits};
pub use llm_gateway::{
    Autoscaling, Egress, GatewayService, LLMGateway, LLMGatewaySpec, LLMGatewayStatus, Listener, ListenerTls,
    PostgresStore, PriceOverlay, Prices, ServiceType, Stores,
};
pub use model_deployment::{
    JsonFields, ModelDeployment, ModelDeploymentSpec, ModelDeploymentStatus, Parameters, Probe, ProbeMode,
};
pub use pod_template::{
    EnvironmentVariable, PodResources, PodTemplate, TaintEffect, Toleration, TolerationOperator, TopologySpread,
    WhenUnsatisfiable,
};
pub use price_unit::{PRICE_UNITS, PriceUnit};
pub use pricing::{PerMillionTokens, Pricing, Rate, ServiceTier};
pub use provider_account::{
    AccountCredential, ProviderAccount, ProviderAccountSpec, ProviderAccountStatus, WorkloadIdentity,
};
pub use rate_limit::{Priority, RateLimit, RateLimitPer, RateLimitScope};
pub use reference::{BackendKind, BackendRef, ConfigMapKeyRef, LocalRef, ObjectRef, SecretKeyRef, SecretSource};
pub use resource::Resource;
pub use retries::{Backoff, Cooldown, ErrorClass, Retries};
pub use route_group::{
    Affinity, AffinityBy, Canary, Fallback, Mirror, RouteGroup, RouteGroupSpec, RouteGroupStatus, Strategy, Target,
};
pub use team::{KeyDefaults, Member, MemberRole, Team, TeamSpec, TeamStatus};
pub use telemetry::{LogFormat, LogLevel, Logs, Metrics, Otlp, Telemetry};
pub use time::{InvalidTime, TimeZoneText, TimestampText};
pub use timeouts::Timeouts;
pub use virtual_key::{KeyPolicy, KeySecret, Rotation, VirtualKey, VirtualKeySpec, VirtualKeyStatus};

/// The API group of all our kinds.
pub const GROUP: &str = "tollgate.dev";

/// The only version so far.
pub const VERSION: &str = "v1alpha1";

/// What documents write as `apiVersion`.
pub const API_VERSION: &str = "tollgate.dev/v1alpha1";
