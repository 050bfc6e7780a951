//! Which gateways there are, and which objects attach to which. VirtualKeys and ModelDeployments attach to one: the one
//! they name, else the default one, where it admits their namespace. The other kinds name none: they serve every gateway
//! that admits their namespace.

use std::collections::BTreeMap;

use tollgate_crds::{LLMGatewaySpec, ObjectRef as Reference};

use super::input::{Document, Labels, Object, Standing};
use super::objects::{Grants, age};
use super::report::{Report, Subject};
use crate::finding::{Finding, Reason};
use crate::model::GatewayName;

/// All gateways, but for those that are being deleted: nothing attaches to them any more. Do not compile for one of
/// these; its proxies serve on with what they have until they are gone.
#[derive(Debug)]
pub struct Gateways<'a> {
    /// Sorted by namespace and name.
    all: Vec<&'a Object<LLMGatewaySpec>>,
    /// Those of them that are passed over where another one can be had.
    unserved: Vec<&'a Object<LLMGatewaySpec>>,
    default: Option<&'a Object<LLMGatewaySpec>>,
    grants: Grants<'a>,
}

impl<'a> Gateways<'a> {
    /// `namespaces`: labels by namespace.
    pub fn new(
        documents: impl IntoIterator<Item = &'a Document>,
        namespaces: &'a BTreeMap<String, Labels>,
        standing: &Standing,
    ) -> Gateways<'a> {
        let gateways = documents.into_iter().filter_map(|document| match document {
            Document::LLMGateway(object) if !object.meta.deleting => Some(&**object),
            _ => None,
        });
        let mut all: Vec<&'a Object<LLMGatewaySpec>> = gateways.collect();
        all.sort_by(|a, b| (&a.meta.namespace, &a.meta.name).cmp(&(&b.meta.namespace, &b.meta.name)));
        Gateways::of_sorted(all, Grants { namespaces }, standing)
    }

    pub(super) fn of_sorted(
        all: Vec<&'a Object<LLMGatewaySpec>>,
        grants: Grants<'a>,
        standing: &Standing,
    ) -> Gateways<'a> {
        let is_unserved = |object: &&'a Object<LLMGatewaySpec>| standing.unserved.contains(&name_of(object));
        let mut unserved: Vec<_> = all.iter().copied().filter(is_unserved).collect();
        if unserved.len() == all.len() {
            unserved.clear();
        }
        let rank = |object: &&'a Object<LLMGatewaySpec>| {
            let is_at_home = standing.home.as_ref() == Some(&object.meta.namespace);
            (!object.spec.default, !is_at_home, age(object.meta.created_at))
        };
        let is_served = |object: &&'a Object<LLMGatewaySpec>| !is_one_of(&unserved, object);
        let default = all.iter().copied().filter(is_served).min_by_key(rank);
        Gateways { all, unserved, default, grants }
    }

    /// Sorted by namespace and name.
    pub fn names(&self) -> impl Iterator<Item = GatewayName> + '_ {
        self.all.iter().map(|object| name_of(object))
    }

    /// Whether objects that may attach to several gateways count on this one: it is not one that is passed over.
    pub fn is_served(&self, gateway: &GatewayName) -> bool {
        self.get(gateway).is_some_and(|gateway| !self.passes_over(gateway))
    }

    /// The one that objects attach to which name none: one that is marked `default` goes before the others, one of the
    /// operator's own namespace before those elsewhere, an older one before a younger one.
    pub fn default_name(&self) -> Option<GatewayName> {
        self.default.map(name_of)
    }

    /// Where the object attaches: VirtualKeys and ModelDeployments to exactly one gateway, a gateway to itself, other
    /// kinds to any number. Compile for each of these and join the findings; equal ones are one.
    ///
    /// # Errors
    /// The finding that says why it attaches to none. No compilation repeats it.
    pub fn of(&self, document: &Document) -> Result<Vec<GatewayName>, Box<Finding>> {
        let mut report = Report::default();
        let meta = document.meta();
        let subject = Subject { kind: document.kind(), namespace: &meta.namespace, name: &meta.name };
        let reference = match document {
            Document::LLMGateway(_) => {
                return Ok(vec![GatewayName { namespace: meta.namespace.clone(), name: meta.name.clone() }]);
            }
            Document::ModelDeployment(object) => object.spec.gateway_ref.as_ref(),
            Document::VirtualKey(object) => object.spec.gateway_ref.as_ref(),
            Document::RouteGroup(_) | Document::ProviderAccount(_) | Document::Team(_) | Document::Budget(_) => {
                let names: Vec<GatewayName> =
                    self.all.iter().filter(|gateway| self.concerns(gateway, subject)).map(|one| name_of(one)).collect();
                if !names.is_empty() {
                    return Ok(names);
                }
                self.report_none(subject, &mut report);
                return Err(only_finding(report));
            }
        };
        match self.find(reference, subject) {
            Ok(gateway) => Ok(vec![name_of(gateway)]),
            Err(refusal) => {
                self.report(refusal, reference, subject, &mut report);
                Err(only_finding(report))
            }
        }
    }

    /// Whether another one is had instead where one can be chosen.
    pub(super) fn passes_over(&self, gateway: &Object<LLMGatewaySpec>) -> bool {
        is_one_of(&self.unserved, gateway)
    }

    pub(super) fn get(&self, gateway: &GatewayName) -> Option<&'a Object<LLMGatewaySpec>> {
        self.find_named(&gateway.namespace, &gateway.name)
    }

    pub(super) fn default_gateway(&self) -> Option<&'a Object<LLMGatewaySpec>> {
        self.default
    }

    /// Whether several gateways are served, so that one of them should be marked `default`.
    pub(super) fn has_choice(&self) -> bool {
        self.all.len() - self.unserved.len() > 1
    }

    pub(super) fn is_gateway_namespace(&self, namespace: &str) -> bool {
        self.all.iter().any(|object| object.meta.namespace == namespace)
    }

    /// The gateway that an object with this `gatewayRef`, or without one, attaches to.
    pub(super) fn find(
        &self,
        reference: Option<&Reference>,
        subject: Subject<'_>,
    ) -> Result<&'a Object<LLMGatewaySpec>, Unattached<'a>> {
        let gateway = match reference {
            Some(Reference { name, namespace }) => {
                let namespace = namespace.as_deref().unwrap_or(subject.namespace);
                self.find_named(namespace, name).ok_or(Unattached::NoSuchGateway)?
            }
            None => self.default.ok_or(Unattached::NoDefault)?,
        };
        if self.admits(gateway, subject.namespace) { Ok(gateway) } else { Err(Unattached::NotAdmitted(gateway)) }
    }

    /// Whether an object of a kind without `gatewayRef` is looked at for the gateway. What only works through others that
    /// refer to it is looked at somewhere in any case, so that its owner sees what is wrong with it. A gateway that is not
    /// served has a say only where no other one has.
    pub(super) fn concerns(&self, gateway: &Object<LLMGatewaySpec>, subject: Subject<'_>) -> bool {
        let is_admitted = |gateway: &Object<LLMGatewaySpec>| self.admits(gateway, subject.namespace);
        let is_served = |gateway: &Object<LLMGatewaySpec>| !self.passes_over(gateway);
        let works_through_others = subject.kind != "RouteGroup";
        if is_admitted(gateway) {
            return is_served(gateway) || !self.all.iter().any(|one| is_served(one) && is_admitted(one));
        }
        works_through_others && is_served(gateway) && !self.all.iter().any(|one| is_admitted(one))
    }

    pub(super) fn admits(&self, gateway: &Object<LLMGatewaySpec>, namespace: &str) -> bool {
        self.grants.admits(&gateway.spec.allowed_namespaces, &gateway.meta.namespace, namespace)
    }

    fn find_named(&self, namespace: &str, name: &str) -> Option<&'a Object<LLMGatewaySpec>> {
        let compare = |object: &&Object<LLMGatewaySpec>| {
            (object.meta.namespace.as_str(), object.meta.name.as_str()).cmp(&(namespace, name))
        };
        self.all.binary_search_by(compare).ok().map(|at| self.all[at])
    }

    fn report(
        &self,
        refusal: Unattached<'_>,
        reference: Option<&Reference>,
        subject: Subject<'_>,
        report: &mut Report,
    ) {
        match (refusal, reference) {
            (Unattached::NoSuchGateway, Some(Reference { name, namespace })) => {
                let namespace = namespace.as_deref().unwrap_or(subject.namespace);
                let gateway = GatewayName { namespace: namespace.to_owned(), name: name.clone() };
                report_missing(&gateway, subject, report);
            }
            (Unattached::NoSuchGateway | Unattached::NoDefault, _) => self.report_none(subject, report),
            (Unattached::NotAdmitted(gateway), reference) => {
                report_not_admitted(&name_of(gateway), reference.is_some(), subject, report);
            }
        }
    }

    fn report_none(&self, subject: Subject<'_>, report: &mut Report) {
        let has_reference = matches!(subject.kind, "VirtualKey" | "ModelDeployment");
        let (message, hint) = if self.all.is_empty() {
            ("there is no LLMGateway", "create one")
        } else {
            (
                "no LLMGateway lets this namespace attach",
                "the owner of one can allow the namespace in spec.allowedNamespaces",
            )
        };
        let field = if has_reference { "spec.gatewayRef" } else { "metadata.namespace" };
        report.error(subject, Reason::NotAttached, field, message).hint = hint.to_owned();
    }
}

/// Why an object attaches to no gateway.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unattached<'a> {
    NoSuchGateway,
    /// The object names none, and there is none.
    NoDefault,
    NotAdmitted(&'a Object<LLMGatewaySpec>),
}

pub(super) fn report_missing(gateway: &GatewayName, subject: Subject<'_>, report: &mut Report) {
    let message = format!("LLMGateway `{gateway}` does not exist");
    report.error(subject, Reason::NotFound, "spec.gatewayRef", message);
}

/// `is_named`: the object names the gateway, so that the name is to blame as well.
pub(super) fn report_not_admitted(gateway: &GatewayName, is_named: bool, subject: Subject<'_>, report: &mut Report) {
    let field = if is_named { "spec.gatewayRef" } else { "metadata.namespace" };
    let message = format!("LLMGateway `{gateway}` does not let namespace `{}` attach", subject.namespace);
    report.error(subject, Reason::NotGranted, field, message).hint =
        "its owner can allow the namespace in spec.allowedNamespaces".to_owned();
}

fn name_of(object: &Object<LLMGatewaySpec>) -> GatewayName {
    GatewayName { namespace: object.meta.namespace.clone(), name: object.meta.name.clone() }
}

fn is_one_of(gateways: &[&Object<LLMGatewaySpec>], gateway: &Object<LLMGatewaySpec>) -> bool {
    gateways.iter().any(|one| std::ptr::eq(*one, gateway))
}

fn only_finding(report: Report) -> Box<Finding> {
    Box::new(report.into_findings().pop().expect("what does not attach has a finding that says why"))
}
