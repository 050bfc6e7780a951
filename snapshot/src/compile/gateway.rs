//! The gateway that the snapshot is for: which of the `LLMGateway` documents, its defaults filled in, and who may attach.

use tollgate_crds::{
    AllowedNamespaces, Egress, GatewayDefaults, LLMGatewaySpec, Listener, ListenerTls, LogFormat, LogLevel, Logs,
    Metrics, ObjectRef, Prices, Stores, Telemetry, Unpriced,
};

use super::credential;
use super::input::{Input, Mode, Object};
use super::objects::{Grants, Objects, age};
use super::report::{Report, Subject};
use super::values::Reader;
use crate::finding::Reason;
use crate::model::{self, KeyHash};

/// Shorter keys can be guessed.
pub(super) const SHORTEST_KEY: usize = 20;

/// The port that `serve` listens on unless its flag says otherwise.
const USUAL_PORT: i32 = 4000;

/// The gateway, and what decides who attaches to it.
#[derive(Debug)]
pub(super) struct Gateway<'a> {
    pub compiled: model::Gateway,
    allowed: Option<&'a AllowedNamespaces>,
    grants: Grants<'a>,
}

impl<'a> Gateway<'a> {
    pub fn compile(
        input: &Input<'a>,
        gateways: &Objects<'a, LLMGatewaySpec>,
        grants: Grants<'a>,
        report: &mut Report,
    ) -> Gateway<'a> {
        match choose(gateways, input.mode, report) {
            Some(object) => Gateway {
                compiled: compile(object, input, report),
                allowed: Some(&object.spec.allowed_namespaces),
                grants,
            },
            None => {
                let compiled =
                    model::Gateway { namespace: input.default_namespace.into(), ..model::Gateway::default() };
                Gateway { compiled, allowed: None, grants }
            }
        }
    }

    /// Whether objects of the namespace may attach at all.
    pub fn admits(&self, namespace: &str) -> bool {
        self.allowed.is_none_or(|allowed| self.grants.admits(allowed, &self.compiled.namespace, namespace))
    }

    /// Whether an object is served by this gateway; a finding where its owner will wonder why it is not.
    pub fn serves(
        &self,
        reference: Option<&ObjectRef>,
        subject: Subject<'_>,
        gateways: &Objects<'a, LLMGatewaySpec>,
        mode: Mode,
        report: &mut Report,
    ) -> bool {
        if let Some(ObjectRef { name, namespace }) = reference {
            let namespace = namespace.as_deref().unwrap_or(subject.namespace);
            let is_this = *self.compiled.namespace == *namespace && *self.compiled.name == **name;
            if !is_this && gateways.get(namespace, name).is_none() {
                let message = format!("LLMGateway `{namespace}/{name}` does not exist");
                report.error(subject, Reason::NotFound, "spec.gatewayRef", message);
                return false;
            }
            if !is_this {
                if mode == Mode::Standalone {
                    let message =
                        format!("only LLMGateway `{}/{}` is served", self.compiled.namespace, self.compiled.name);
                    report.error(subject, Reason::NotSupportedYet, "spec.gatewayRef", message);
                }
                return false;
            }
        }
        let admitted = self.admits(subject.namespace);
        if !admitted {
            let model::Gateway { namespace, name, .. } = &self.compiled;
            let field = if reference.is_some() { "spec.gatewayRef" } else { "metadata.namespace" };
            let message =
                format!("LLMGateway `{namespace}/{name}` does not let namespace `{}` attach", subject.namespace);
            report.error(subject, Reason::NotGranted, field, message).hint =
                "its owner can allow the namespace in spec.allowedNamespaces".to_owned();
        }
        admitted
    }
}

/// The one marked `default`, or the only one; the oldest of several.
fn choose<'a>(
    gateways: &Objects<'a, LLMGatewaySpec>,
    mode: Mode,
    report: &mut Report,
) -> Option<&'a Object<LLMGatewaySpec>> {
    let marked = |object: &&'a Object<LLMGatewaySpec>| object.spec.default;
    let oldest =
        |objects: Vec<&'a Object<LLMGatewaySpec>>| objects.into_iter().min_by_key(|object| age(object.meta.created_at));
    let any_marked = gateways.iter().any(|object| object.spec.default);
    let chosen =
        if any_marked { oldest(gateways.iter().filter(marked).collect()) } else { oldest(gateways.iter().collect()) }?;
    for other in gateways.iter().filter(|other| !std::ptr::eq(*other, chosen)) {
        let (namespace, name) = (&chosen.meta.namespace, &chosen.meta.name);
        if other.spec.default {
            let message = format!("LLMGateway `{namespace}/{name}` is the default already");
            report.error(other.subject(), Reason::Duplicate, "spec.default", message);
        } else if mode == Mode::Standalone {
            let message = format!("one gateway is served, which is LLMGateway `{namespace}/{name}`");
            report.error(other.subject(), Reason::NotSupportedYet, "", message);
        }
    }
    Some(chosen)
}

fn compile(object: &Object<LLMGatewaySpec>, input: &Input<'_>, report: &mut Report) -> model::Gateway {
    let subject = object.subject();
    // What describes pods, their number and their Service is the operator's; it changes nothing of what is compiled.
    let LLMGatewaySpec {
        default: _,
        allowed_namespaces: _,
        replicas: _,
        autoscaling: _,
        listeners,
        service: _,
        master_key,
        defaults,
        stores,
        telemetry,
        prices,
        egress,
        pod_template: _,
    } = &object.spec;
    if input.mode == Mode::Standalone {
        report_listeners(listeners, subject, report);
        report_logs(&telemetry.logs, subject, report);
    }
    report_stores(stores, telemetry, prices, subject, report);
    let master_key = master_key.as_ref().and_then(|source| {
        let (_, value) =
            credential::read(input.secrets, &source.secret_ref, subject, "spec.masterKey.secretRef", report)?;
        if value.len() < SHORTEST_KEY {
            let message = format!("the master key is shorter than {SHORTEST_KEY} characters and can be guessed");
            report.warning(subject, Reason::WeakKey, "spec.masterKey", message);
        }
        Some(KeyHash::of(value.as_bytes()))
    });
    let Telemetry { logs: _, otlp: _, metrics: Metrics { require_auth } } = telemetry;
    let Egress { allowed_hosts } = egress;
    model::Gateway {
        namespace: object.meta.namespace.as_str().into(),
        name: object.meta.name.as_str().into(),
        master_key,
        allowed_hosts: allowed_hosts.iter().map(|host| host.as_str().into()).collect(),
        metrics_require_auth: *require_auth,
        ..defaults_of(defaults, Reader::new(report, subject))
    }
}

/// Values that cannot be used give way to the built-in ones, one by one.
fn defaults_of(defaults: &GatewayDefaults, mut reader: Reader<'_, '_>) -> model::Gateway {
    let GatewayDefaults {
        unpriced,
        drop_unsupported_params,
        max_output_tokens,
        min_output_tokens,
        retries,
        timeouts,
        cooldown,
        max_attempts,
        budget_exceeded_status,
        reserved_wait,
    } = defaults;
    let usual = model::Gateway::default();
    let field = |name: &str| format!("spec.defaults.{name}");
    let max_output_tokens = reader.at_least(&field("maxOutputTokens"), 1, Some(*max_output_tokens));
    let min_output_tokens = reader.at_least(&field("minOutputTokens"), 1, Some(*min_output_tokens));
    let max_attempts = reader.at_least(&field("maxAttempts"), 1, Some(i64::from(*max_attempts)));
    let budget_exceeded_status = match budget_exceeded_status {
        422 => 422,
        429 => 429,
        other => {
            reader.invalid(field("budgetExceededStatus"), format!("{other} is neither 429 nor 422"));
            usual.budget_exceeded_status
        }
    };
    let max_output_tokens = max_output_tokens.unwrap_or(usual.max_output_tokens);
    let mut min_output_tokens = min_output_tokens.unwrap_or(usual.min_output_tokens);
    if min_output_tokens > max_output_tokens {
        reader.invalid(field("minOutputTokens"), "minOutputTokens must not be above maxOutputTokens");
        min_output_tokens = max_output_tokens;
    }
    model::Gateway {
        deny_unpriced: matches!(unpriced, Unpriced::Deny),
        drop_unsupported_parameters: *drop_unsupported_params,
        max_output_tokens,
        min_output_tokens,
        max_attempts: max_attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(usual.max_attempts),
        budget_exceeded_status,
        reserved_wait_ms: reader
            .duration_ms(&field("reservedWait"), Some(reserved_wait))
            .unwrap_or(usual.reserved_wait_ms),
        timeouts: reader.timeouts(&field("timeouts"), timeouts),
        retries: reader.retries(&field("retries"), retries.as_ref(), &usual.retries),
        cooldown: reader.cooldown(&field("cooldown"), cooldown.as_ref(), usual.cooldown),
        ..usual
    }
}

fn report_listeners(listeners: &[Listener], subject: Subject<'_>, report: &mut Report) {
    for (at, Listener { name: _, port, tls }) in listeners.iter().enumerate() {
        let field = format!("spec.listeners[{at}]");
        if let Some(ListenerTls { certificate_ref: _ }) = tls {
            report.not_yet(subject, format!("{field}.tls"), "standalone, only HTTP is served");
        } else if at > 0 {
            report.not_yet(subject, field, "standalone, one listener is served");
        } else if *port != USUAL_PORT {
            let message = "standalone, the port is that of the flag --port";
            report.not_yet(subject, format!("{field}.port"), message);
        }
    }
}

fn report_logs(logs: &Logs, subject: Subject<'_>, report: &mut Report) {
    let Logs { format, level } = logs;
    if *format != LogFormat::default() {
        report.not_yet(subject, "spec.telemetry.logs.format", "standalone, flags decide how logs are written");
    }
    if *level != LogLevel::default() {
        report.not_yet(subject, "spec.telemetry.logs.level", "standalone, flags decide what is logged");
    }
}

fn report_stores(stores: &Stores, telemetry: &Telemetry, prices: &Prices, subject: Subject<'_>, report: &mut Report) {
    let Stores { redis, postgres, cache } = stores;
    for (name, store) in [("redis", redis), ("postgres", postgres), ("cache", cache)] {
        if store.is_some() {
            report.not_yet(subject, format!("spec.stores.{name}"), format!("{name} is not used yet"));
        }
    }
    if telemetry.otlp.is_some() {
        report.not_yet(subject, "spec.telemetry.otlp", "traces are not exported yet");
    }
    let Prices { overlays } = prices;
    if !overlays.is_empty() {
        report.not_yet(subject, "spec.prices.overlays", "price overlays are not read yet; state prices in deployments");
    }
}
