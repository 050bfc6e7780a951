//! `RouteGroup`: what stands behind its names. Which names those are, and who may ask for them, is decided beside, where
//! all names of a namespace meet.

use tollgate_crds::{Affinity, Canary, Fallback, Mirror, ObjectRef, RouteGroupSpec, Strategy, Target};

use super::deployment::Deployments;
use super::gateway::Gateway;
use super::input::Object;
use super::objects::{Everything, Grants};
use super::previous::Previous;
use super::report::{Report, Subject};
use super::values::{Reader, error_classes};
use crate::condition::Condition;
use crate::finding::Reason;
use crate::model::{self, Cooldown, ErrorClass, Name, Retries, Timeouts};

/// A group, ready but for its fallbacks, which are names until all names are known.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub object: &'a Object<RouteGroupSpec>,
    pub names: Vec<&'a str>,
    pub aliases: Vec<&'a str>,
    pub strategy: model::Strategy,
    pub targets: Vec<model::Target>,
    pub fallbacks: Vec<NamedFallback>,
    pub retries: Retries,
    pub timeouts: Timeouts,
    pub cooldown: Cooldown,
}

/// A fallback before its models are found.
#[derive(Debug)]
pub(super) struct NamedFallback {
    pub errors: Vec<ErrorClass>,
    /// Where each is written, and what.
    pub models: Vec<(String, Name)>,
}

/// All groups whose namespace may attach to the gateway.
pub(super) fn compile_all<'a>(
    everything: &Everything<'a>,
    deployments: &Deployments<'a>,
    gateway: &Gateway<'a>,
    grants: Grants<'a>,
    previous: &Previous<'_>,
    report: &mut Report,
) -> Vec<Group<'a>> {
    let mut groups = Vec::with_capacity(everything.groups.len());
    for object in everything.groups.iter() {
        if !gateway.admits_object(object.subject(), report) {
            continue;
        }
        let work = Work { object, everything, deployments, gateway, grants };
        if !work.is_elsewhere() {
            groups.push(work.compile(previous, report));
        }
    }
    groups
}

struct Work<'w, 'a> {
    object: &'a Object<RouteGroupSpec>,
    everything: &'w Everything<'a>,
    deployments: &'w Deployments<'a>,
    gateway: &'w Gateway<'a>,
    grants: Grants<'a>,
}

impl<'a> Work<'_, 'a> {
    fn compile(&self, previous: &Previous<'_>, report: &mut Report) -> Group<'a> {
        let RouteGroupSpec {
            model_names,
            aliases,
            hidden: _,
            strategy,
            targets,
            fallbacks,
            retries,
            timeouts,
            cooldown,
            canary,
            mirror,
            affinity,
            allowed_namespaces: _,
        } = &self.object.spec;
        let subject = self.object.subject();
        report_unused(canary.as_ref(), mirror.as_ref(), affinity.as_ref(), subject, report);
        let strategy = compile_strategy(*strategy, subject, report);
        let mut reader = Reader::new(report, subject);
        let retries = reader.retries("spec.retries", retries.as_ref(), &self.gateway.compiled.retries);
        let timeouts = reader.timeouts("spec.timeouts", timeouts);
        let cooldown = reader.cooldown("spec.cooldown", cooldown.as_ref(), self.gateway.compiled.cooldown);
        let mut names = public_names("spec.modelNames", model_names, &mut reader);
        if model_names.is_empty() {
            names.push(self.object.meta.name.as_str());
        }
        let mut aliases = public_names("spec.aliases", aliases, &mut reader);
        aliases.retain(|alias| !names.contains(alias));
        let fallbacks = compile_fallbacks(fallbacks, &mut reader);
        let targets = self.targets(targets, &mut reader);
        let broken = reader.broken;
        let group =
            Group { object: self.object, names, aliases, strategy, targets, fallbacks, retries, timeouts, cooldown };
        let last = if broken { previous.route_of_group(subject.namespace, subject.name) } else { None };
        let group = match last {
            Some((snapshot, route)) => {
                report.last_good(subject, "");
                self.last_good(group, snapshot, route)
            }
            None => group,
        };
        if group.targets.is_empty() && !broken {
            let message = "no target can be used; only its fallbacks are tried";
            report.error(subject, Reason::Unreachable, "spec.targets", message);
        }
        group
    }

    /// Whether other gateways serve all of its targets that any gateway serves.
    fn is_elsewhere(&self) -> bool {
        let (mut here, mut elsewhere) = (false, false);
        for Target { model_deployment_ref: ObjectRef { name, namespace }, .. } in &self.object.spec.targets {
            let namespace = namespace.as_deref().unwrap_or(&self.object.meta.namespace);
            let Some(object) = self.everything.deployments.get(namespace, name) else { continue };
            match self.gateway.is_elsewhere(object.spec.gateway_ref.as_ref(), object.subject()) {
                true => elsewhere = true,
                false => here = true,
            }
        }
        elsewhere && !here
    }

    /// What stood behind the names before the edit was broken, but for deployments that are gone.
    fn last_good(&self, group: Group<'a>, snapshot: &model::Snapshot, route: &model::Route) -> Group<'a> {
        let mut targets = Vec::with_capacity(route.targets.len());
        for target in &route.targets {
            let Some(last) = snapshot.deployments.get(target.deployment as usize) else { continue };
            if let Some(deployment) = self.deployments.find(&last.namespace, &last.name) {
                let owner = &self.deployments.sources[deployment as usize].object;
                let allowed = &owner.spec.allowed_namespaces;
                if self.grants.admits(allowed, &owner.meta.namespace, &self.object.meta.namespace) {
                    targets.push(model::Target { deployment, ..target.clone() });
                }
            }
        }
        let model_of =
            |index: &u32| snapshot.routes.get(*index as usize).map(|route| (String::new(), route.name.clone()));
        let fallbacks = route.fallbacks.iter().map(|fallback| NamedFallback {
            errors: fallback.errors.clone(),
            models: fallback.routes.iter().filter_map(model_of).collect(),
        });
        Group {
            strategy: route.strategy,
            targets,
            fallbacks: fallbacks.collect(),
            retries: route.retries.clone(),
            timeouts: route.timeouts,
            cooldown: route.cooldown,
            ..group
        }
    }

    /// In order of priority; of the same priority as they are listed.
    fn targets(&self, targets: &[Target], reader: &mut Reader<'_, '_>) -> Vec<model::Target> {
        let mut compiled: Vec<model::Target> = Vec::with_capacity(targets.len());
        for (at, target) in targets.iter().enumerate() {
            let Target { name: _, model_deployment_ref, weight, priority, when } = target;
            let field = format!("spec.targets[{at}]");
            let reference_field = format!("{field}.modelDeploymentRef");
            let objects = &self.everything.deployments;
            let allowed = self.grants.resolve(
                objects,
                model_deployment_ref,
                reader.subject,
                &reference_field,
                |spec| &spec.allowed_namespaces,
                reader.report,
            );
            let Some(object) = allowed.map(|at| objects.at(at)) else { continue };
            let Some(deployment) = self.deployments.find(&object.meta.namespace, &object.meta.name) else {
                if self.gateway.is_elsewhere(object.spec.gateway_ref.as_ref(), object.subject()) {
                    continue;
                }
                let message =
                    format!("ModelDeployment `{}` cannot be used; its own findings say why", object.meta.name);
                reader.report.error(reader.subject, Reason::NotFound, reference_field, message);
                continue;
            };
            if compiled.iter().any(|other| other.deployment == deployment) {
                let message = format!("ModelDeployment `{}` is a target already", object.meta.name);
                reader.report.error(reader.subject, Reason::Duplicate, reference_field, message);
                continue;
            }
            let source = &self.deployments.sources[deployment as usize];
            let weight = match weight {
                None => source.weight,
                Some(weight) => match u32::try_from(*weight) {
                    Ok(weight) if weight > 0 => weight,
                    _ => {
                        reader.invalid(format!("{field}.weight"), "weight must be greater than 0");
                        continue;
                    }
                },
            };
            let when = match when.as_deref().map(str::trim) {
                Some("") => {
                    reader.invalid(format!("{field}.when"), "the condition is empty; leave it out for always");
                    continue;
                }
                Some("false") => {
                    let message = "the condition never holds";
                    reader.report.warning(reader.subject, Reason::Unreachable, format!("{field}.when"), message);
                    Some("false".into())
                }
                Some("true") | None => None,
                Some(condition) => match Condition::parse(condition) {
                    Ok(_) => Some(condition.into()),
                    Err(fault) => {
                        reader.invalid(format!("{field}.when"), fault.to_string());
                        continue;
                    }
                },
            };
            compiled.push(model::Target { deployment, weight, priority: priority.unwrap_or(source.priority), when });
        }
        compiled.sort_by_key(|target| target.priority);
        compiled
    }
}

fn compile_strategy(strategy: Strategy, subject: Subject<'_>, report: &mut Report) -> model::Strategy {
    match strategy {
        Strategy::WeightedShuffle => model::Strategy::WeightedShuffle,
        Strategy::LeastBusy => model::Strategy::LeastBusy,
        Strategy::Ordered => model::Strategy::Ordered,
        Strategy::LowestLatency | Strategy::LowestCost | Strategy::UsageBased => {
            let message = format!("strategy {strategy:?} is not there yet; WeightedShuffle is used instead");
            report.not_yet(subject, "spec.strategy", message);
            model::Strategy::WeightedShuffle
        }
    }
}

fn public_names<'a>(field: &str, names: &'a [String], reader: &mut Reader<'_, '_>) -> Vec<&'a str> {
    let mut good: Vec<&str> = Vec::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        if reader.public_name(|| format!("{field}[{at}]"), name) && !good.contains(&name.as_str()) {
            good.push(name);
        }
    }
    good
}

fn compile_fallbacks(fallbacks: &[Fallback], reader: &mut Reader<'_, '_>) -> Vec<NamedFallback> {
    let mut compiled: Vec<NamedFallback> = Vec::with_capacity(fallbacks.len());
    for (at, Fallback { name: _, errors, models }) in fallbacks.iter().enumerate() {
        let field = format!("spec.fallbacks[{at}]");
        if errors.is_empty() || models.is_empty() {
            let missing = if errors.is_empty() { "errors" } else { "models" };
            reader.invalid(format!("{field}.{missing}"), "the list is empty, so that this fallback does nothing");
            continue;
        }
        let named =
            models.iter().enumerate().map(|(at, model)| (format!("{field}.models[{at}]"), model.as_str().into()));
        compiled.push(NamedFallback { errors: error_classes(errors), models: named.collect() });
    }
    compiled
}

fn report_unused(
    canary: Option<&Canary>,
    mirror: Option<&Mirror>,
    affinity: Option<&Affinity>,
    subject: Subject<'_>,
    report: &mut Report,
) {
    for (field, is_set) in
        [("canary", canary.is_some()), ("mirror", mirror.is_some()), ("affinity", affinity.is_some())]
    {
        if is_set {
            report.not_yet(
                subject,
                format!("spec.{field}"),
                format!("{field} is not there yet; calls go to the targets"),
            );
        }
    }
}
