//! Who may call the proxies: anybody at the listeners, pods of the cluster at the status port (the operator and
//! Prometheus; the kubelet is let in by every network). Proxies may call anything: providers, databases and the API server
//! are anywhere, and in a namespace that denies egress by default this is what lets them.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use tollgate_crds::LLMGateway;

use super::children::{STATUS_PORT, metadata, selector};

pub(super) fn of(gateway: &LLMGateway) -> NetworkPolicy {
    let port = |number: i32| NetworkPolicyPort {
        port: Some(IntOrString::Int(number)),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    };
    let listeners = gateway.spec.listeners.iter().map(|listener| port(listener.port)).collect();
    NetworkPolicy {
        metadata: metadata(gateway),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(selector(&gateway.name_any())),
                ..LabelSelector::default()
            }),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule { from: None, ports: Some(listeners) },
                NetworkPolicyIngressRule {
                    from: Some(vec![NetworkPolicyPeer {
                        namespace_selector: Some(LabelSelector::default()),
                        ..NetworkPolicyPeer::default()
                    }]),
                    ports: Some(vec![port(STATUS_PORT)]),
                },
            ]),
            egress: Some(vec![NetworkPolicyEgressRule::default()]),
        }),
    }
}
