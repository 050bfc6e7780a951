//! `ModelDeployment`: one upstream model, ready to be called.

use std::collections::HashMap;
use std::sync::Arc;

use tollgate_crds::{
    BackendKind, BackendRef, JsonFields, ModelDeploymentSpec, Parameters, Probe, ProbeMode, ProviderAccountSpec,
};
use tollgate_dialects::Dialect;
use tollgate_dialects::chat::Quirks;

use super::input::{Meta, Mode, Object};
use super::objects::{Everything, Grants, Objects};
use super::overlay::Overlays;
use super::previous::Previous;
use super::pricing::{self, Priced};
use super::provider::{self, Stated};
use super::quirks;
use super::report::{Report, Subject};
use super::shown;
use super::upstream::{Judge, Listed, Refusal, Upstream};
use super::values::Reader;
use crate::catalogue;
use crate::finding::Reason;
use crate::model::{self, Deployment, Endpoint, Name, Surface};
use crate::price::{PriceSheet, Unit};

/// The deployments that are served, and which object each is.
#[derive(Debug, Default)]
pub(super) struct Deployments<'a> {
    pub compiled: Vec<Deployment>,
    /// As long as `compiled`.
    pub sources: Vec<Source<'a>>,
    by_object: HashMap<(&'a str, &'a str), u32>,
}

/// What routes need to know of a deployment.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub object: &'a Object<ModelDeploymentSpec>,
    /// Never empty.
    pub public_names: Vec<&'a str>,
    pub weight: u32,
    pub priority: i32,
}

impl Deployments<'_> {
    pub fn find(&self, namespace: &str, name: &str) -> Option<u32> {
        self.by_object.get(&(namespace, name)).copied()
    }
}

/// All deployments that this gateway serves.
pub(super) fn compile_all<'a>(
    everything: &Everything<'a>,
    accounts: &[Result<Upstream, Refusal>],
    grants: Grants<'a>,
    prices: &Overlays<'_>,
    previous: &Previous<'_>,
    judge: &mut Judge<'_, 'a>,
) -> Deployments<'a> {
    let mut deployments = Deployments::default();
    let mut quirks = HashMap::new();
    for object in everything.deployments.iter() {
        let subject = object.subject();
        if !judge.gateway.serves(object.spec.gateway_ref.as_ref(), subject, judge.report) {
            continue;
        }
        let mut work = Work {
            object,
            accounts,
            account_objects: &everything.accounts,
            grants,
            prices,
            previous,
            quirks: &mut quirks,
        };
        let compiled = work.compile(judge).or_else(|refusal| work.last_good(refusal, judge));
        let Ok(compiled) = compiled else { continue };
        let Some(source) = source(object, judge.report) else { continue };
        let index = u32::try_from(deployments.compiled.len()).expect("there are fewer than 2^32 objects");
        deployments.by_object.insert((&object.meta.namespace, &object.meta.name), index);
        deployments.compiled.push(compiled);
        deployments.sources.push(source);
    }
    deployments
}

/// `None` where it has no name that anybody could ask for.
fn source<'a>(object: &'a Object<ModelDeploymentSpec>, report: &mut Report) -> Option<Source<'a>> {
    let ModelDeploymentSpec { model_names, model, weight, priority, .. } = &object.spec;
    let mut reader = Reader::new(report, object.subject());
    let mut public_names = Vec::with_capacity(model_names.len().max(1));
    for (at, name) in model_names.iter().enumerate() {
        if reader.public_name(|| format!("spec.modelNames[{at}]"), name) && !public_names.contains(&name.as_str()) {
            public_names.push(name.as_str());
        }
    }
    if model_names.is_empty() {
        public_names.push(&object.meta.name);
    }
    if model.contains('*') && !public_names.iter().any(|name| name.ends_with('*')) {
        let message = "the `*` stands for what the `*` of a public name matched, and no public name has one";
        reader.report.warning(reader.subject, Reason::InvalidValue, "spec.model", message);
    }
    let weight = match u32::try_from(*weight) {
        Ok(weight) if weight > 0 => weight,
        _ => {
            reader.invalid("spec.weight", "weight must be greater than 0; it counts as 1");
            1
        }
    };
    (!public_names.is_empty()).then_some(Source { object, public_names, weight, priority: *priority })
}

/// One object being compiled.
struct Work<'w, 'a, 'p> {
    object: &'a Object<ModelDeploymentSpec>,
    accounts: &'w [Result<Upstream, Refusal>],
    account_objects: &'w Objects<'a, ProviderAccountSpec>,
    grants: Grants<'a>,
    prices: &'w Overlays<'w>,
    previous: &'w Previous<'p>,
    /// By provider: they are shared.
    quirks: &'w mut HashMap<&'static str, Arc<Quirks>>,
}

impl<'a> Work<'_, 'a, '_> {
    fn subject(&self) -> Subject<'a> {
        self.object.subject()
    }

    fn compile(&mut self, judge: &mut Judge<'_, 'a>) -> Result<Deployment, Refusal> {
        let subject = self.subject();
        let ModelDeploymentSpec {
            account_ref: _,
            provider: _,
            credential: _,
            backend_ref: _,
            endpoint: _,
            model,
            model_names: _,
            pricing,
            limits,
            timeouts,
            parameters,
            priority: _,
            weight: _,
            region,
            tags,
            probe,
            capabilities,
            max_output_tokens,
            cancel_billing,
            allowed_namespaces: _,
            gateway_ref: _,
        } = &self.object.spec;
        report_unused(probe, capabilities, judge.input.mode, subject, judge.report);
        // Everything is read before the first refusal, so that all findings come at once.
        let upstream = self.upstream(judge);
        let mut reader = Reader::new(judge.report, subject);
        if model.is_empty() {
            reader.invalid("spec.model", "the provider's id of the model is missing");
        }
        let limits = reader.limits("spec.limits", limits.clone());
        let timeouts = reader.timeouts("spec.timeouts", timeouts);
        let own_cap = reader.at_least("spec.maxOutputTokens", 1, *max_output_tokens);
        let parameters = compile_parameters(parameters, &mut reader);
        let broken = reader.broken;
        let upstream = upstream?;
        let priced = pricing::price(pricing.as_ref(), upstream.provider, model, self.prices, subject, judge.report);
        let (Some(Priced { sheet, max_input_tokens, max_output_tokens, is_doubtful }), false) = (priced, broken) else {
            return Err(Refusal::Broken);
        };
        let sheet = sheet.map(Arc::new);
        let price = if is_doubtful { self.last_price(upstream.provider.id).or(sheet) } else { sheet };
        let upstream = upstream.with(*cancel_billing);
        let Upstream { provider, endpoint, api_version, headers, credentials, account, cancel_stops_billing } =
            upstream;
        let shows_output = shown::shows_output(&self.object.spec, &parameters, provider.id, self.prices);
        let always_searches = price.as_ref().is_some_and(|price| price.charges_for(Unit::WebSearch))
            && self.searches_unasked(provider.id);
        Ok(Deployment {
            namespace: self.object.meta.namespace.as_str().into(),
            name: self.object.meta.name.as_str().into(),
            provider: provider.id.into(),
            dialect: match provider.surface {
                Surface::OpenAi | Surface::Azure => Dialect::OpenAi,
                Surface::Anthropic => Dialect::Anthropic,
            },
            surface: provider.surface,
            endpoint,
            api_version,
            model: model.as_str().into(),
            auth: provider.auth,
            credentials,
            headers,
            price,
            limits,
            account,
            timeouts,
            parameters,
            max_output_tokens: own_cap.or(max_output_tokens),
            max_input_tokens,
            region: region.as_deref().map(Name::from),
            tags: tags.iter().map(|tag| tag.as_str().into()).collect(),
            native: provider.native,
            quirks: self.quirks.entry(provider.id).or_insert_with(|| Arc::new(quirks::of(provider))).clone(),
            image_token_bound: provider.image_token_bound,
            cancel_stops_billing,
            shows_output: cancel_stops_billing && shows_output,
            always_searches,
            probe: match probe.mode {
                ProbeMode::Models => model::Probe::Models,
                ProbeMode::Completion => model::Probe::Completion,
                ProbeMode::None => model::Probe::None,
            },
        })
    }

    /// Whether the model, or the one that it is priced like, searches with every call.
    fn searches_unasked(&self, provider: &str) -> bool {
        let ModelDeploymentSpec { model, pricing, .. } = &self.object.spec;
        let like = pricing.as_ref().and_then(|pricing| pricing.like.as_deref());
        let like = like.and_then(|like| self.prices.known_like(like));
        let like = like.as_ref().map(|like| (&*like.provider, &*like.key));
        [Some((provider, model.as_str())), like]
            .into_iter()
            .flatten()
            .any(|(provider, model)| catalogue::find(provider).is_some_and(|known| known.always_searches(model)))
    }

    /// What the same model cost before an overlay of the gateway was broken.
    fn last_price(&self, provider: &str) -> Option<Arc<PriceSheet>> {
        let Meta { namespace, name, .. } = &self.object.meta;
        let last = self.previous.deployment(namespace, name)?;
        let is_same = *last.provider == *provider && *last.model == *self.object.spec.model;
        last.price.clone().filter(|_| is_same)
    }

    /// What the object said before its edit was broken, as far as it may still be done.
    fn last_good(&self, refusal: Refusal, judge: &mut Judge<'_, 'a>) -> Result<Deployment, Refusal> {
        let subject = self.subject();
        if refusal == Refusal::Withdrawn {
            return Err(refusal);
        }
        let last = self.previous.deployment(subject.namespace, subject.name).ok_or(refusal)?;
        let provider = catalogue::find(&last.provider).ok_or(refusal)?;
        let is_mock = judge.input.mock_endpoint.as_ref() == Some(&last.endpoint) && provider.base_url.is_none();
        if !is_mock {
            judge.check_host(&last.endpoint.host, subject)?;
        }
        let credentials = judge.still_usable(provider, &last.endpoint.host, &last.credentials);
        if credentials.is_empty() && !last.credentials.is_empty() {
            return Err(Refusal::Withdrawn);
        }
        judge.report.last_good(subject, "");
        Ok(Deployment { credentials, ..last.clone() })
    }

    fn upstream(&self, judge: &mut Judge<'_, 'a>) -> Result<Upstream, Refusal> {
        let subject = self.subject();
        let ModelDeploymentSpec { account_ref, provider, credential, backend_ref, endpoint, .. } = &self.object.spec;
        let provider = match (account_ref, provider) {
            (Some(reference), None) => {
                let fields = [
                    ("credential", credential.is_some()),
                    ("backendRef", backend_ref.is_some()),
                    ("endpoint", endpoint.is_some()),
                ];
                if let Some((field, _)) = fields.iter().find(|(_, is_set)| *is_set) {
                    let message = format!("{field} belongs beside provider only; an account brings its own");
                    judge.report.error(subject, Reason::ExactlyOne, format!("spec.{field}"), message);
                    return Err(Refusal::Broken);
                }
                let field = "spec.accountRef";
                let accounts = self.account_objects;
                let at = self.grants.resolve(
                    accounts,
                    reference,
                    subject,
                    field,
                    |spec| &spec.allowed_namespaces,
                    judge.report,
                );
                let at = at.ok_or(Refusal::Withdrawn)?;
                let account = &self.accounts[at];
                if account.is_err() {
                    let message =
                        format!("ProviderAccount `{}` cannot be used; its own findings say why", reference.name);
                    judge.report.error(subject, Reason::NotFound, "spec.accountRef", message);
                }
                return account.clone();
            }
            (None, Some(provider)) => provider,
            (Some(_), Some(_)) | (None, None) => {
                let message = "exactly one of accountRef, provider must be set";
                judge.report.error(subject, Reason::ExactlyOne, "spec", message);
                return Err(Refusal::Broken);
            }
        };
        let provider = provider::find(provider, "spec.provider", subject, judge.report);
        let stated = provider::stated(endpoint.as_ref(), subject, judge.report);
        let (provider, stated) = (provider.ok_or(Refusal::Broken)?, stated.ok_or(Refusal::Broken)?);
        let stated = match backend_ref {
            Some(_) if endpoint.is_some() => {
                judge.report.error(subject, Reason::ExactlyOne, "spec", "set backendRef or endpoint, not both");
                return Err(Refusal::Broken);
            }
            Some(backend) => {
                let endpoint = self.backend(backend, provider, judge)?;
                Stated { endpoint: Some(endpoint), ..stated }
            }
            None => stated,
        };
        let listed = credential.as_ref().map(|source| Listed {
            reference: &source.secret_ref,
            weight: 1,
            field: "spec.credential.secretRef".to_owned(),
        });
        judge.upstream(provider, stated, listed.as_slice(), "spec.credential", subject)
    }

    fn backend(
        &self,
        backend: &BackendRef,
        provider: &'static catalogue::Provider,
        judge: &mut Judge<'_, 'a>,
    ) -> Result<Endpoint, Refusal> {
        let subject = self.subject();
        let BackendRef { kind: BackendKind::Service, name, port } = backend;
        let is_label = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        let Some(port) = u16::try_from(*port).ok().filter(|port| *port != 0 && is_label(name)) else {
            let message = format!("`{name}:{port}` is not the name and port of a Service");
            judge.report.error(subject, Reason::InvalidValue, "spec.backendRef", message);
            return Err(Refusal::Broken);
        };
        let host = match judge.input.mode {
            Mode::Cluster => format!("{name}.{}.svc", subject.namespace),
            Mode::Standalone => {
                let message = format!("standalone, there are no Services; the host `{name}` is called instead");
                judge.report.not_yet(subject, "spec.backendRef", message);
                name.clone()
            }
        };
        Ok(Endpoint { tls: false, host: host.into(), port, path: provider::usual_path(provider) })
    }
}

fn compile_parameters(parameters: &Parameters, reader: &mut Reader<'_, '_>) -> model::Parameters {
    let Parameters { defaults, forced, drop } = parameters;
    for (name, _) in forced.iter().filter(|(name, _)| drop.contains(name)) {
        reader.invalid("spec.parameters.drop", format!("`{name}` is forced and dropped at the same time"));
    }
    let is_ours = |name: &&String| matches!(name.as_str(), "model" | "stream" | "messages");
    for name in defaults.keys().chain(forced.keys()).chain(drop).filter(is_ours) {
        reader.invalid(
            "spec.parameters",
            format!("`{name}` decides what the call is, and cannot be set or dropped here"),
        );
    }
    let texts = |fields: &JsonFields| {
        fields.iter().map(|(name, value)| (name.as_str().into(), value.to_string().into())).collect()
    };
    model::Parameters {
        defaults: texts(defaults),
        forced: texts(forced),
        drop: drop.iter().map(|name| name.as_str().into()).collect(),
    }
}

fn report_unused(probe: &Probe, capabilities: &[String], mode: Mode, subject: Subject<'_>, report: &mut Report) {
    let Probe { mode: probing, interval } = probe;
    let is_unusual = *probing == ProbeMode::Completion || *interval != Probe::default().interval;
    if is_unusual && mode == Mode::Standalone {
        report.not_yet(subject, "spec.probe", "standalone, upstreams are not probed; failed calls start cooldowns");
    }
    if !capabilities.is_empty() {
        report.not_yet(subject, "spec.capabilities", "capabilities do not change how calls are routed yet");
    }
}
