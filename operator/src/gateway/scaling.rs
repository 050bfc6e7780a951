//! How many proxies there are while nodes are emptied, and while the load changes.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget,
    ResourceMetricSource,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use tollgate_crds::{Autoscaling, LLMGateway};

use super::children::{metadata, replicas, selector};
use crate::names;

/// For more than one proxy: with one, it would keep its node from ever being emptied, or protect nothing.
pub(super) fn disruption_budget(gateway: &LLMGateway) -> Option<PodDisruptionBudget> {
    let most = match &gateway.spec.autoscaling {
        Some(autoscaling) => autoscaling.max_replicas,
        None => replicas(&gateway.spec)?,
    };
    (most > 1).then(|| PodDisruptionBudget {
        metadata: metadata(gateway),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(selector(&gateway.name_any())),
                ..LabelSelector::default()
            }),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}

pub(super) fn autoscaler(gateway: &LLMGateway) -> Option<HorizontalPodAutoscaler> {
    let Autoscaling { min_replicas, max_replicas, target_cpu_percent } = gateway.spec.autoscaling.as_ref()?;
    Some(HorizontalPodAutoscaler {
        metadata: metadata(gateway),
        spec: Some(HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: "Deployment".to_owned(),
                name: names::proxies(&gateway.name_any()),
            },
            min_replicas: Some(*min_replicas),
            max_replicas: *max_replicas,
            metrics: Some(vec![MetricSpec {
                type_: "Resource".to_owned(),
                resource: Some(ResourceMetricSource {
                    name: "cpu".to_owned(),
                    target: MetricTarget {
                        type_: "Utilization".to_owned(),
                        average_utilization: Some(*target_cpu_percent),
                        ..MetricTarget::default()
                    },
                }),
                ..MetricSpec::default()
            }]),
            behavior: None,
        }),
        status: None,
    })
}
