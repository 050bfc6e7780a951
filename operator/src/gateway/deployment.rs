//! The Deployment of the proxies. Its pod template holds only what describes pods: a proxy learns everything else
//! through its watch, without a restart.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapKeySelector, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    HTTPGetAction, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
    SecretKeySelector, SecretVolumeSource, SecurityContext, Sysctl, Toleration, TopologySpreadConstraint, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use tollgate_crds::{
    EnvironmentVariable, LLMGateway, LogFormat, LogLevel, Logs, PodResources, PodTemplate, TaintEffect,
    TolerationOperator, TopologySpread, WhenUnsatisfiable,
};

use super::children::{PROXY, STATUS_PORT, metadata, replicas, selector};
use crate::names;
use crate::settings::Settings;

/// The image's user.
const USER: i64 = 65_532;

/// Where the ledger is. It lives as long as the pod.
const DATA: &str = "/var/lib/tollgate";

/// Where the last good tables are, in memory because they hold credentials.
const CACHE: &str = "/run/tollgate";

/// Twice what the largest tables that are planned for take.
const CACHE_SIZE: &str = "128Mi";

/// Where certificates are, one folder for each listener.
const TLS: &str = "/etc/tollgate/tls";

/// Streams may take the proxy's 600 s, and it keeps accepting for some seconds before it counts them.
const GRACE_SECONDS: i64 = 630;

/// Below are ports of root, unless the pod says otherwise.
const FIRST_UNPRIVILEGED_PORT: i32 = 1_024;

/// What `kubectl rollout undo` may want.
const REVISIONS: i32 = 3;

pub(super) fn of(gateway: &LLMGateway, settings: &Settings) -> Deployment {
    let selector = selector(&gateway.name_any());
    Deployment {
        metadata: metadata(gateway),
        spec: Some(DeploymentSpec {
            replicas: replicas(&gateway.spec),
            revision_history_limit: Some(REVISIONS),
            selector: LabelSelector { match_labels: Some(selector), ..LabelSelector::default() },
            // A new proxy serves before an old one goes.
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: template(gateway, settings),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn template(gateway: &LLMGateway, settings: &Settings) -> PodTemplateSpec {
    let name = gateway.name_any();
    let usual = PodTemplate::default();
    let PodTemplate {
        labels,
        annotations,
        resources,
        node_selector,
        tolerations,
        topology_spread,
        priority_class_name,
        env,
    } = gateway.spec.pod_template.as_ref().unwrap_or(&usual);
    // Ours win: the selector and the watches of the operator need them.
    let mut all_labels = labels.clone();
    all_labels.extend(names::labels(&name, PROXY));
    let mut annotations = annotations.clone();
    if gateway.spec.stores.redis.is_some() {
        // Who hands out budgets a proxy decides when it starts: with another one, all are started again.
        annotations.insert(names::ALLOCATOR_ANNOTATION.to_owned(), "redis".to_owned());
    }
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(all_labels),
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(settings.proxy_service_account.clone()),
            automount_service_account_token: Some(true),
            // The variables of Services would be taken for flags: a Service named tollgate makes TOLLGATE_PORT.
            enable_service_links: Some(false),
            security_context: Some(pod_security(gateway)),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            node_selector: Some(node_selector.clone()).filter(|labels| !labels.is_empty()),
            tolerations: Some(tolerations.iter().map(toleration).collect()).filter(|all: &Vec<_>| !all.is_empty()),
            topology_spread_constraints: Some(spread(topology_spread, &name)),
            priority_class_name: priority_class_name.clone(),
            containers: vec![Container {
                name: PROXY.to_owned(),
                image: Some(settings.image.clone()),
                args: Some(arguments(gateway)),
                env: Some(environment(&gateway.spec.telemetry.logs, env)),
                ports: Some(ports(gateway)),
                resources: Some(requirements(resources.as_ref())),
                readiness_probe: Some(probe("/health/readiness", 2, 2)),
                liveness_probe: Some(probe("/health/liveness", 10, 3)),
                security_context: Some(SecurityContext {
                    allow_privilege_escalation: Some(false),
                    read_only_root_filesystem: Some(true),
                    capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
                    ..SecurityContext::default()
                }),
                volume_mounts: Some(mounts(gateway)),
                ..Container::default()
            }],
            volumes: Some(volumes(gateway)),
            ..PodSpec::default()
        }),
    }
}

fn pod_security(gateway: &LLMGateway) -> PodSecurityContext {
    let needs_low_ports = gateway.spec.listeners.iter().any(|listener| listener.port < FIRST_UNPRIVILEGED_PORT);
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        // One of the sysctls that every Pod Security level allows.
        sysctls: needs_low_ports
            .then(|| vec![Sysctl { name: "net.ipv4.ip_unprivileged_port_start".to_owned(), value: "0".to_owned() }]),
        ..PodSecurityContext::default()
    }
}

fn arguments(gateway: &LLMGateway) -> Vec<String> {
    let namespace = gateway.namespace().unwrap_or_default();
    let mut arguments = vec!["dataplane".to_owned(), format!("--gateway={namespace}/{}", gateway.name_any())];
    for listener in &gateway.spec.listeners {
        arguments.push(format!("--listen={}={}", listener.name, listener.port));
        if listener.tls.is_some() {
            arguments.push(format!("--tls={}={TLS}/{}", listener.name, listener.name));
        }
    }
    arguments.push(format!("--status-port={STATUS_PORT}"));
    arguments.push(format!("--data={DATA}"));
    arguments.push(format!("--cache={CACHE}"));
    arguments
}

/// Ours and the user's. Of two with one name the user's: servers refuse to apply a list that has both.
fn environment(logs: &Logs, further: &[EnvironmentVariable]) -> Vec<EnvVar> {
    let Logs { format, level } = logs;
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let format = match format {
        LogFormat::Json => "json",
        LogFormat::Human => "text",
    };
    [("TOLLGATE_LOG", level), ("TOLLGATE_LOG_FORMAT", format)]
        .into_iter()
        .filter(|(name, _)| further.iter().all(|variable| variable.name != *name))
        .map(|(name, value)| EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None })
        .chain(further.iter().map(variable))
        .collect()
}

fn variable(variable: &EnvironmentVariable) -> EnvVar {
    let EnvironmentVariable { name, value, secret_ref, config_map_ref } = variable;
    let value_from = (secret_ref.is_some() || config_map_ref.is_some()).then(|| EnvVarSource {
        secret_key_ref: secret_ref.as_ref().map(|reference| SecretKeySelector {
            name: reference.name.clone(),
            key: reference.key.clone(),
            optional: None,
        }),
        config_map_key_ref: config_map_ref.as_ref().map(|reference| ConfigMapKeySelector {
            name: reference.name.clone(),
            key: reference.key.clone(),
            optional: None,
        }),
        ..EnvVarSource::default()
    });
    EnvVar { name: name.clone(), value: value.clone(), value_from }
}

/// Numbers only: what a listener may be called is no name of a container's port.
fn ports(gateway: &LLMGateway) -> Vec<ContainerPort> {
    let mut ports: Vec<ContainerPort> = gateway
        .spec
        .listeners
        .iter()
        .map(|listener| ContainerPort {
            container_port: listener.port,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        })
        .collect();
    ports.push(ContainerPort {
        name: Some("status".to_owned()),
        container_port: STATUS_PORT,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    });
    ports
}

fn requirements(resources: Option<&PodResources>) -> ResourceRequirements {
    let quantities = |named: &BTreeMap<String, String>| -> Option<BTreeMap<String, Quantity>> {
        let all: BTreeMap<_, _> = named.iter().map(|(name, value)| (name.clone(), Quantity(value.clone()))).collect();
        Some(all).filter(|all| !all.is_empty())
    };
    let usual;
    let PodResources { requests, limits } = match resources {
        Some(resources) => resources,
        None => {
            let named = |pairs: &[(&str, &str)]| {
                pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
            };
            usual = PodResources {
                requests: named(&[("cpu", "100m"), ("memory", "64Mi")]),
                limits: named(&[("memory", "512Mi")]),
            };
            &usual
        }
    };
    ResourceRequirements { claims: None, requests: quantities(requests), limits: quantities(limits) }
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(STATUS_PORT),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn mounts(gateway: &LLMGateway) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: Option<bool>| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only,
        ..VolumeMount::default()
    };
    let mut mounts = vec![mount("data", DATA, None), mount("cache", CACHE, None)];
    for listener in gateway.spec.listeners.iter().filter(|listener| listener.tls.is_some()) {
        let name = tls_volume(&listener.name);
        mounts.push(mount(&name, &format!("{TLS}/{}", listener.name), Some(true)));
    }
    mounts
}

fn volumes(gateway: &LLMGateway) -> Vec<Volume> {
    let mut volumes = vec![
        Volume { name: "data".to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() },
        Volume {
            name: "cache".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                medium: Some("Memory".to_owned()),
                size_limit: Some(Quantity(CACHE_SIZE.to_owned())),
            }),
            ..Volume::default()
        },
    ];
    for listener in &gateway.spec.listeners {
        let Some(tls) = &listener.tls else { continue };
        volumes.push(Volume {
            name: tls_volume(&listener.name),
            secret: Some(SecretVolumeSource {
                secret_name: Some(tls.certificate_ref.name.clone()),
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    volumes
}

fn tls_volume(listener: &str) -> String {
    format!("tls-{listener}")
}

/// Over nodes and zones where they can be, unless the user says how.
fn spread(stated: &[TopologySpread], gateway: &str) -> Vec<TopologySpreadConstraint> {
    let usual = ["kubernetes.io/hostname", "topology.kubernetes.io/zone"].map(|key| TopologySpread {
        topology_key: key.to_owned(),
        max_skew: 1,
        when_unsatisfiable: WhenUnsatisfiable::ScheduleAnyway,
    });
    let constraints = if stated.is_empty() { &usual[..] } else { stated };
    constraints
        .iter()
        .map(|TopologySpread { topology_key, max_skew, when_unsatisfiable }| TopologySpreadConstraint {
            topology_key: topology_key.clone(),
            max_skew: *max_skew,
            when_unsatisfiable: match when_unsatisfiable {
                WhenUnsatisfiable::ScheduleAnyway => "ScheduleAnyway",
                WhenUnsatisfiable::DoNotSchedule => "DoNotSchedule",
            }
            .to_owned(),
            label_selector: Some(LabelSelector { match_labels: Some(selector(gateway)), ..LabelSelector::default() }),
            // Else pods of the revision that goes would be counted too, and the new ones end up lopsided.
            match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
            ..TopologySpreadConstraint::default()
        })
        .collect()
}

fn toleration(stated: &tollgate_crds::Toleration) -> Toleration {
    let tollgate_crds::Toleration { key, operator, value, effect, toleration_seconds } = stated;
    Toleration {
        key: key.clone(),
        operator: Some(
            match operator {
                TolerationOperator::Equal => "Equal",
                TolerationOperator::Exists => "Exists",
            }
            .to_owned(),
        ),
        value: value.clone(),
        effect: effect.map(|effect| {
            match effect {
                TaintEffect::NoSchedule => "NoSchedule",
                TaintEffect::PreferNoSchedule => "PreferNoSchedule",
                TaintEffect::NoExecute => "NoExecute",
            }
            .to_owned()
        }),
        toleration_seconds: *toleration_seconds,
    }
}
