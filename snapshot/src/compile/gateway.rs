//! The gateway that the snapshot is for: which of the `LLMGateway` documents, its defaults filled in, and who may attach.

use std::sync::Arc;

use tollgate_crds::{
    Attribution, CREDENTIAL_HEADERS, Egress, GatewayDefaults, LLMGatewaySpec, Listener, ListenerTls, LocalRef,
    LogFormat, LogLevel, Logs, Metrics, ObjectRef, PostgresStore, Prices, SecretKeyRef, SecretSource, Stores,
    Telemetry, Unpriced,
};

use super::attachment::{self, Gateways};
use super::credential;
use super::input::{Input, Mode, Object};
use super::objects::{Grants, Objects, age};
use super::rate_limit::{self, Rules};
use super::report::{Report, Subject};
use super::values::Reader;
use crate::finding::Reason;
use crate::model::{self, GatewayName, KeyHash, Name};

/// Shorter keys can be guessed.
pub(super) const SHORTEST_KEY: usize = 20;

/// Proxies of a gateway that says nothing about their number.
const USUAL_REPLICAS: i32 = 2;

/// What a Secret of type `kubernetes.io/tls` has.
const CERTIFICATE_ENTRIES: [&str; 2] = ["tls.crt", "tls.key"];

/// How the URL of a Redis or Valkey may begin.
const REDIS_SCHEMES: [&str; 5] = ["redis://", "rediss://", "valkey://", "valkeys://", "unix:"];

/// Scripts in Redis count in doubles. In the unit of the budget: nano-USD, tokens, requests.
const LARGEST_IN_REDIS: i64 = 9_000_000_000_000_000;

/// The gateway, and what decides who attaches to it.
#[derive(Debug)]
pub(super) struct Gateway<'a> {
    pub compiled: model::Gateway,
    /// URLs of its stores, by the ids of their credentials.
    pub urls: Vec<(Name, Arc<str>)>,
    /// Which rates count which keys.
    pub rules: Rules<'a>,
    gateways: Gateways<'a>,
    scope: Scope<'a>,
    mode: Mode,
}

/// Whom the gateway shares the documents with.
#[derive(Clone, Copy, Debug)]
enum Scope<'a> {
    /// Nobody: what does not attach to it is a mistake. `None`: no document describes it.
    Alone(Option<&'a Object<LLMGatewaySpec>>),
    /// Others: what does not attach to it is theirs. `None`: it is gone.
    OneOfMany(Option<&'a Object<LLMGatewaySpec>>),
}

impl<'a> Gateway<'a> {
    pub fn compile(
        input: &Input<'a>,
        gateways: &Objects<'a, LLMGatewaySpec>,
        grants: Grants<'a>,
        report: &mut Report,
    ) -> Gateway<'a> {
        let all = Gateways::of_sorted(gateways.iter().collect(), grants, input.standing);
        let (scope, object) = match input.gateway {
            Some(name) => {
                let object = all.get(name);
                if let Some(object) = object {
                    report_default(object, &all, report);
                }
                (Scope::OneOfMany(object), object)
            }
            None => {
                let object = choose(gateways, input.mode, report);
                (Scope::Alone(object), object)
            }
        };
        let mut urls = Vec::new();
        let (compiled, rules) = match (object, input.gateway) {
            (Some(object), _) => compile(object, input, &mut urls, report),
            (None, Some(GatewayName { namespace, name })) => {
                let (namespace, name) = (namespace.as_str().into(), name.as_str().into());
                (model::Gateway { namespace, name, ..model::Gateway::default() }, Rules::default())
            }
            (None, None) => {
                let namespace = input.default_namespace.into();
                (model::Gateway { namespace, ..model::Gateway::default() }, Rules::default())
            }
        };
        Gateway { compiled, urls, rules, gateways: all, scope, mode: input.mode }
    }

    /// Whether objects of the namespace may attach at all.
    pub fn admits(&self, namespace: &str) -> bool {
        match self.scope {
            Scope::Alone(None) => true,
            Scope::Alone(Some(gateway)) | Scope::OneOfMany(Some(gateway)) => self.gateways.admits(gateway, namespace),
            Scope::OneOfMany(None) => false,
        }
    }

    /// As [`Gateway::admits`], with a finding where the owner will wonder why it is not.
    pub fn admits_object(&self, subject: Subject<'_>, report: &mut Report) -> bool {
        let admitted = self.admits(subject.namespace);
        if !admitted && let Scope::Alone(_) = self.scope {
            attachment::report_not_admitted(&self.name(), false, subject, report);
        }
        admitted
    }

    /// Whether an object is served by this gateway; a finding where its owner will wonder why it is not.
    pub fn serves(&self, reference: Option<&ObjectRef>, subject: Subject<'_>, report: &mut Report) -> bool {
        let this = match self.scope {
            Scope::OneOfMany(this) => this,
            Scope::Alone(_) => return self.serves_alone(reference, subject, report),
        };
        let found = self.gateways.find(reference, subject).ok();
        found.zip(this).is_some_and(|(found, this)| std::ptr::eq(found, this))
    }

    /// Whether another gateway serves it.
    pub fn is_elsewhere(&self, reference: Option<&ObjectRef>, subject: Subject<'_>) -> bool {
        match self.scope {
            Scope::Alone(_) => false,
            Scope::OneOfMany(this) => {
                let found = self.gateways.find(reference, subject).ok();
                found.is_some_and(|found| this.is_none_or(|this| !std::ptr::eq(found, this)))
            }
        }
    }

    /// Whether findings about an object of a kind without `gatewayRef` belong to this gateway.
    pub fn concerns(&self, subject: Subject<'_>) -> bool {
        match self.scope {
            Scope::Alone(_) => true,
            Scope::OneOfMany(this) => this.is_some_and(|this| self.gateways.concerns(this, subject)),
        }
    }

    /// Whether it is the namespace of any gateway.
    pub fn is_gateway_namespace(&self, namespace: &str) -> bool {
        *self.compiled.namespace == *namespace || self.gateways.is_gateway_namespace(namespace)
    }

    /// Its changes of prices, and the object that says them; `None` where no document describes it.
    pub fn prices(&self) -> Option<(Subject<'a>, &'a Prices)> {
        let (Scope::Alone(object) | Scope::OneOfMany(object)) = self.scope;
        object.map(|object| (object.subject(), &object.spec.prices))
    }

    /// Says where classes of keys have nothing to share.
    pub fn report_idle_priorities(&self, deployments: &[model::Deployment], report: &mut Report) {
        let (Scope::Alone(object) | Scope::OneOfMany(object)) = self.scope;
        let Some(object) = object.filter(|_| !self.compiled.priorities.is_empty()) else { return };
        let is_limited = |deployment: &model::Deployment| {
            let account = deployment.account.as_ref();
            !deployment.limits.is_unlimited() || account.is_some_and(|account| !account.limits.is_unlimited())
        };
        if !deployments.iter().any(is_limited) {
            let message = "no deployment and no account has limits; there is nothing to share";
            report.warning(object.subject(), Reason::InvalidValue, "spec.priorities", message);
        }
    }

    fn serves_alone(&self, reference: Option<&ObjectRef>, subject: Subject<'_>, report: &mut Report) -> bool {
        if let Some(ObjectRef { name, namespace }) = reference {
            let namespace = namespace.as_deref().unwrap_or(subject.namespace);
            let is_this = *self.compiled.namespace == *namespace && *self.compiled.name == **name;
            let other = GatewayName { namespace: namespace.to_owned(), name: name.clone() };
            if !is_this && self.gateways.get(&other).is_none() {
                attachment::report_missing(&other, subject, report);
                return false;
            }
            if !is_this {
                if self.mode == Mode::Standalone {
                    let message = format!("only LLMGateway `{}` is served", self.name());
                    report.error(subject, Reason::NotSupportedYet, "spec.gatewayRef", message);
                }
                return false;
            }
        }
        let admitted = self.admits(subject.namespace);
        if !admitted {
            attachment::report_not_admitted(&self.name(), reference.is_some(), subject, report);
        }
        admitted
    }

    /// Lowers limits that are larger than the gateway's store can count.
    pub fn bound_limits(&self, budgets: &mut [model::Budget], report: &mut Report) {
        let (Scope::Alone(Some(object)) | Scope::OneOfMany(Some(object))) = self.scope else { return };
        if self.compiled.redis.is_none() {
            return;
        }
        for budget in budgets.iter_mut().filter(|budget| budget.limit > LARGEST_IN_REDIS) {
            budget.limit = LARGEST_IN_REDIS;
            let message =
                format!("budget `{}` counts up to 9,000,000 USD (or 9 * 10^15), its limit is larger", budget.id);
            report.warning(object.subject(), Reason::InvalidValue, "spec.stores.redis", message).hint =
                "Redis counts exactly so far; split the budget".to_owned();
        }
    }

    fn name(&self) -> GatewayName {
        let model::Gateway { namespace, name, .. } = &self.compiled;
        GatewayName { namespace: namespace.to_string(), name: name.to_string() }
    }
}

/// Of several that are marked, each but the one that is taken says so itself; where none is marked, the one that is taken.
/// One that cannot be run has something else to say first.
fn report_default(object: &Object<LLMGatewaySpec>, all: &Gateways<'_>, report: &mut Report) {
    let Some(default) = all.default_gateway() else { return };
    let is_default = std::ptr::eq(object, default);
    if object.spec.default && !is_default && !all.passes_over(object) {
        report_default_already(object, default, report);
    } else if is_default && !object.spec.default && all.has_choice() {
        let message = "of several LLMGateways none is marked default; objects that name none attach to this one";
        report.warning(object.subject(), Reason::Duplicate, "spec.default", message).hint =
            "mark one with spec.default: true".to_owned();
    }
}

fn report_default_already(object: &Object<LLMGatewaySpec>, default: &Object<LLMGatewaySpec>, report: &mut Report) {
    let message = format!("LLMGateway `{}/{}` is the default already", default.meta.namespace, default.meta.name);
    report.error(object.subject(), Reason::Duplicate, "spec.default", message);
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
        if other.spec.default {
            report_default_already(other, chosen, report);
        } else if mode == Mode::Standalone {
            let (namespace, name) = (&chosen.meta.namespace, &chosen.meta.name);
            let message = format!("one gateway is served, which is LLMGateway `{namespace}/{name}`");
            report.error(other.subject(), Reason::NotSupportedYet, "", message);
        }
    }
    Some(chosen)
}

fn compile<'a>(
    object: &'a Object<LLMGatewaySpec>,
    input: &Input<'_>,
    urls: &mut Vec<(Name, Arc<str>)>,
    report: &mut Report,
) -> (model::Gateway, Rules<'a>) {
    let subject = object.subject();
    // What describes pods and their Service is the operator's; it changes nothing of what is compiled.
    let LLMGatewaySpec {
        default: _,
        allowed_namespaces: _,
        replicas,
        autoscaling,
        listeners,
        service: _,
        master_key,
        defaults,
        attribution,
        rate_limits,
        priorities,
        stores,
        telemetry,
        // Read where prices are.
        prices: _,
        egress,
        pod_template: _,
    } = &object.spec;
    report_certificates(listeners, input, subject, report);
    if input.mode == Mode::Standalone {
        report_logs(&telemetry.logs, subject, report);
    }
    report_stores(stores, telemetry, subject, report);
    let postgres = stores.postgres.as_ref().map(|store| postgres(store, input, subject, urls, report));
    let redis = stores.redis.as_ref().map(|source| redis(source, input, subject, urls, report));
    let master_key = master_key.as_ref().and_then(|source| {
        let (_, value) = credential::read(input, &source.secret_ref, subject, "spec.masterKey.secretRef", report)?;
        if value.len() < SHORTEST_KEY {
            let message = format!("the master key is shorter than {SHORTEST_KEY} characters and can be guessed");
            report.warning(subject, Reason::WeakKey, "spec.masterKey", message);
        }
        Some(KeyHash::of(value.as_bytes()))
    });
    let Telemetry { logs: _, otlp: _, metrics: Metrics { require_auth } } = telemetry;
    let Egress { allowed_hosts } = egress;
    let last = input.previous.map_or(&[][..], |previous| &previous.gateway.rate_limits);
    let (rate_limits, rules) = rate_limit::compile(rate_limits, last, subject, report);
    let priorities = rate_limit::priorities(priorities, subject, report);
    let replicas =
        autoscaling.as_ref().map_or_else(|| replicas.unwrap_or(USUAL_REPLICAS), |scaling| scaling.max_replicas);
    let Attribution { end_user_headers, tag_headers } = attribution;
    let compiled = model::Gateway {
        namespace: object.meta.namespace.as_str().into(),
        name: object.meta.name.as_str().into(),
        master_key,
        allowed_hosts: allowed_hosts.iter().map(|host| host.as_str().into()).collect(),
        metrics_require_auth: *require_auth,
        postgres,
        redis,
        replicas: match input.mode {
            Mode::Standalone => 0,
            Mode::Cluster => u32::try_from(replicas).unwrap_or(0),
        },
        end_user_headers: headers(end_user_headers, "spec.attribution.endUserHeaders", subject, report)
            .map(|name| name.to_ascii_lowercase().into())
            .collect(),
        tag_headers: headers(tag_headers, "spec.attribution.tagHeaders", subject, report).map(Name::from).collect(),
        rate_limits,
        priorities,
        ..defaults_of(defaults, Reader::new(report, subject))
    };
    (compiled, rules)
}

/// Names of headers that may tell something of a call, each once.
fn headers<'a>(
    names: &'a [String],
    field: &str,
    subject: Subject<'_>,
    report: &mut Report,
) -> impl Iterator<Item = &'a str> {
    let mut known: Vec<&str> = Vec::new();
    for name in names {
        let is_header = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_header) {
            report.error(subject, Reason::InvalidValue, field, format!("`{name}` is not the name of a header"));
        } else if CREDENTIAL_HEADERS.iter().any(|credential| credential.eq_ignore_ascii_case(name)) {
            let message = format!("`{name}` holds a credential, which must not become a name in rows");
            report.error(subject, Reason::InvalidValue, field, message);
        } else if !known.iter().any(|other| other.eq_ignore_ascii_case(name)) {
            known.push(name);
        }
    }
    known.into_iter()
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
        count_cached_tokens,
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
        ignore_cached_tokens: *count_cached_tokens == Some(false),
        timeouts: reader.timeouts(&field("timeouts"), timeouts),
        retries: reader.retries(&field("retries"), retries.as_ref(), &usual.retries),
        cooldown: reader.cooldown(&field("cooldown"), cooldown.as_ref(), usual.cooldown),
        ..usual
    }
}

/// Says which certificates there are not. In a cluster the kubelet brings them to the proxies, and waits where there are
/// none; whether anybody else may read them does not matter then.
fn report_certificates(listeners: &[Listener], input: &Input<'_>, subject: Subject<'_>, report: &mut Report) {
    for (at, Listener { name: _, port: _, tls }) in listeners.iter().enumerate() {
        let Some(ListenerTls { certificate_ref: LocalRef { name } }) = tls else { continue };
        if input.mode == Mode::Cluster && input.secrets.unread(subject.namespace, name).is_some() {
            continue;
        }
        for entry in CERTIFICATE_ENTRIES {
            let reference = SecretKeyRef { name: name.clone(), key: entry.to_owned() };
            let field = format!("spec.listeners[{at}].tls.certificateRef");
            if credential::read(input, &reference, subject, &field, report).is_none() {
                break;
            }
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

/// A URL that cannot be read is a finding and no end of the store: rows wait for it.
fn postgres(
    store: &PostgresStore,
    input: &Input<'_>,
    subject: Subject<'_>,
    urls: &mut Vec<(Name, Arc<str>)>,
    report: &mut Report,
) -> model::PostgresStore {
    let PostgresStore { secret_ref, retention_days } = store;
    let credential = credential::id(subject.namespace, secret_ref);
    let field = "spec.stores.postgres.secretRef";
    if let Some((_, url)) = credential::read(input, secret_ref, subject, field, report) {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            report.error(subject, Reason::InvalidValue, field, "the URL does not begin with postgres://");
        } else {
            urls.push((credential.clone(), url));
        }
    }
    let days = retention_days.map(i64::from);
    let days = Reader::new(report, subject).at_least("spec.stores.postgres.retentionDays", 1, days);
    model::PostgresStore { credential, retention_days: days.and_then(|days| u32::try_from(days).ok()).unwrap_or(0) }
}

/// A URL that cannot be read is a finding and no end of the store: budgets get no allowance until it can.
fn redis(
    source: &SecretSource,
    input: &Input<'_>,
    subject: Subject<'_>,
    urls: &mut Vec<(Name, Arc<str>)>,
    report: &mut Report,
) -> Name {
    let SecretSource { secret_ref } = source;
    let credential = credential::id(subject.namespace, secret_ref);
    let field = "spec.stores.redis.secretRef";
    if let Some((_, url)) = credential::read(input, secret_ref, subject, field, report) {
        if REDIS_SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
            urls.push((credential.clone(), url));
        } else {
            report.error(subject, Reason::InvalidValue, field, "the URL does not begin with redis:// or rediss://");
        }
    }
    credential
}

fn report_stores(stores: &Stores, telemetry: &Telemetry, subject: Subject<'_>, report: &mut Report) {
    let Stores { redis: _, postgres: _, cache } = stores;
    if cache.is_some() {
        report.not_yet(subject, "spec.stores.cache", "cache is not used yet");
    }
    if telemetry.otlp.is_some() {
        report.not_yet(subject, "spec.telemetry.otlp", "traces are not exported yet");
    }
}
