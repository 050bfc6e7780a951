//! The Service in front of the proxies: each listener's port, and 80 and 443 where they are free, so that clients need no
//! port in the address.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use tollgate_crds::{LLMGateway, Listener, ServiceType};

use super::children::{metadata, selector};
use crate::names;

const HTTP: i32 = 80;
const HTTPS: i32 = 443;

pub(super) fn of(gateway: &LLMGateway) -> Service {
    let mut metadata = metadata(gateway);
    let annotations = &gateway.spec.service.annotations;
    metadata.annotations = Some(annotations.clone()).filter(|annotations| !annotations.is_empty());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(
                match gateway.spec.service.type_ {
                    ServiceType::ClusterIp => "ClusterIP",
                    ServiceType::NodePort => "NodePort",
                    ServiceType::LoadBalancer => "LoadBalancer",
                }
                .to_owned(),
            ),
            selector: Some(selector(&gateway.name_any())),
            ports: Some(ports(&gateway.spec.listeners)),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn ports(listeners: &[Listener]) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> =
        listeners.iter().map(|listener| port(listener.name.clone(), listener.port, listener)).collect();
    for (usual, is_tls) in [(HTTP, false), (HTTPS, true)] {
        let first = listeners.iter().find(|listener| listener.tls.is_some() == is_tls);
        let is_free = listeners.iter().all(|listener| listener.port != usual);
        if let Some(listener) = first.filter(|_| is_free) {
            let name = free_name(&format!("port-{usual}"), listeners);
            ports.push(port(name, usual, listener));
        }
    }
    ports
}

fn port(name: String, number: i32, listener: &Listener) -> ServicePort {
    ServicePort {
        name: Some(name),
        port: number,
        target_port: Some(IntOrString::Int(listener.port)),
        protocol: Some("TCP".to_owned()),
        app_protocol: Some(scheme(listener).to_owned()),
        node_port: None,
    }
}

/// `wanted`, with a letter more for each listener that is called so.
fn free_name(wanted: &str, listeners: &[Listener]) -> String {
    let mut name = wanted.to_owned();
    while listeners.iter().any(|listener| listener.name == name) {
        name.push('x');
    }
    name
}

fn scheme(listener: &Listener) -> &'static str {
    if listener.tls.is_some() { "https" } else { "http" }
}

/// Where clients inside the cluster call the gateway: the first listener, without a port where none is needed. `None`
/// without listeners.
pub fn address(gateway: &LLMGateway) -> Option<String> {
    let listeners = &gateway.spec.listeners;
    let listener = listeners.first()?;
    let namespace = gateway.namespace().unwrap_or_default();
    let host = format!("{}://{}.{namespace}.svc", scheme(listener), names::proxies(&gateway.name_any()));
    let usual = if listener.tls.is_some() { HTTPS } else { HTTP };
    let is_mapped = ports(listeners)
        .iter()
        .any(|port| port.port == usual && port.target_port == Some(IntOrString::Int(listener.port)));
    Some(if is_mapped { host } else { format!("{host}:{}", listener.port) })
}
