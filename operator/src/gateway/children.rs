//! From an LLMGateway to the objects that run it. Pure: what is here decides, `reconcile` carries it out. Nothing of what
//! is routed is looked at, so that no change of routing restarts a pod.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tollgate_crds::{LLMGateway, LLMGatewaySpec};

use super::child::Kind;
use super::{deployment, network_policy, scaling, service};
use crate::facts::Problem;
use crate::names;
use crate::settings::Settings;

/// Where proxies serve the kubelet, Prometheus and the operator.
pub const STATUS_PORT: i32 = 4001;

/// Names of Services end at 63 characters, and ours begin with `tollgate-`.
const LONGEST_NAME: usize = 63 - "tollgate-".len();

/// Proxies where the spec says nothing.
const USUAL_REPLICAS: i32 = 2;

/// All that runs for one gateway. `None`: must not be there.
#[derive(Clone, Debug, PartialEq)]
pub struct Children {
    pub deployment: Deployment,
    pub service: Service,
    pub network_policy: NetworkPolicy,
    pub disruption_budget: Option<PodDisruptionBudget>,
    pub autoscaler: Option<HorizontalPodAutoscaler>,
}

impl Children {
    /// Each kind as JSON, in the order in which they are made: the Service first, so that its name is known before pods.
    pub fn objects(&self) -> Vec<(Kind, Option<Value>)> {
        let Children { deployment, service, network_policy, disruption_budget, autoscaler } = self;
        vec![
            (Kind::Service, Some(stamped(service))),
            (Kind::NetworkPolicy, Some(stamped(network_policy))),
            (Kind::Deployment, Some(stamped(deployment))),
            (Kind::PodDisruptionBudget, disruption_budget.as_ref().map(stamped)),
            (Kind::HorizontalPodAutoscaler, autoscaler.as_ref().map(stamped)),
        ]
    }
}

/// The annotation that says what was applied last: a field that is not wanted any more is seen by this alone.
pub const APPLIED: &str = "tollgate.dev/applied";

fn stamped(object: &impl serde::Serialize) -> Value {
    let mut object =
        serde_json::to_value(object).expect("objects of Kubernetes have text keys only, so they are always JSON");
    let digest = Sha256::digest(object.to_string());
    let stamp: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    object["metadata"]["annotations"][APPLIED] = Value::String(stamp);
    object
}

/// What `gateway` needs.
///
/// # Errors
/// A name or a port that no Service or pod can have.
pub fn children(gateway: &LLMGateway, settings: &Settings) -> Result<Children, Problem> {
    check(gateway)?;
    Ok(Children {
        deployment: deployment::of(gateway, settings),
        service: service::of(gateway),
        network_policy: network_policy::of(gateway),
        disruption_budget: scaling::disruption_budget(gateway),
        autoscaler: scaling::autoscaler(gateway),
    })
}

fn check(gateway: &LLMGateway) -> Result<(), Problem> {
    let name = gateway.name_any();
    let is_label = name.len() <= LONGEST_NAME && !name.contains('.');
    if !is_label {
        let message = format!(
            "no Service can be named after `{name}`; the name of a gateway has at most {LONGEST_NAME} characters and no dots"
        );
        return Err(Problem { reason: "InvalidName", message });
    }
    if let Some(listener) = gateway.spec.listeners.iter().find(|listener| listener.port == STATUS_PORT) {
        let message = format!(
            "listener `{}` cannot have port {STATUS_PORT}, where proxies serve health and metrics",
            listener.name
        );
        return Err(Problem { reason: "PortTaken", message });
    }
    Ok(())
}

/// Name, namespace, labels and owner of every child.
pub(super) fn metadata(gateway: &LLMGateway) -> ObjectMeta {
    let name = gateway.name_any();
    ObjectMeta {
        name: Some(names::proxies(&name)),
        namespace: gateway.namespace(),
        labels: Some(names::labels(&name, PROXY)),
        owner_references: Some(gateway.controller_owner_ref(&()).into_iter().collect()),
        ..ObjectMeta::default()
    }
}

/// The component that children are.
pub(super) const PROXY: &str = "proxy";

/// What tells the pods of a gateway from all others. A Deployment can never change it.
pub(super) fn selector(gateway: &str) -> BTreeMap<String, String> {
    [("app.kubernetes.io/component", PROXY), (names::GATEWAY_LABEL, gateway)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// [`selector`] as text, as the scale subresource and kubectl read it.
pub fn selector_text(gateway: &str) -> String {
    let terms: Vec<String> = selector(gateway).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    terms.join(",")
}

/// How many proxies; `None` where an autoscaler decides.
pub(super) fn replicas(spec: &LLMGatewaySpec) -> Option<i32> {
    match &spec.autoscaling {
        Some(_) => None,
        None => Some(spec.replicas.unwrap_or(USUAL_REPLICAS)),
    }
}
