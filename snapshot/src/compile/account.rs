//! `ProviderAccount`: an address and credentials that deployments share. Each is looked at once, used or not, so that its
//! owner sees what is wrong with it.

use std::collections::HashSet;

use tollgate_crds::{AccountCredential, ModelDeploymentSpec, ObjectRef, ProviderAccountSpec};

use super::gateway::Gateway;
use super::input::Object;
use super::objects::{Everything, Objects};
use super::provider;
use super::report::{Report, Subject};
use super::upstream::{Judge, Listed, Refusal, Upstream};
use super::values::Reader;
use crate::finding::Reason;
use crate::model;

/// In the order of the objects. One that is other gateways' business is not looked at: what may be called differs.
pub(super) fn compile_all(everything: &Everything<'_>, judge: &mut Judge<'_, '_>) -> Vec<Result<Upstream, Refusal>> {
    let used = Used::by(&everything.deployments, judge.gateway);
    let compile = |object: &Object<ProviderAccountSpec>| match used.concerns(object.subject(), judge.gateway) {
        true => compile(object, judge),
        false => Err(Refusal::Withdrawn),
    };
    everything.accounts.iter().map(compile).collect()
}

/// Namespaces and names of the accounts that deployments use.
#[derive(Default)]
struct Used<'a> {
    here: HashSet<(&'a str, &'a str)>,
    elsewhere: HashSet<(&'a str, &'a str)>,
}

impl<'a> Used<'a> {
    fn by(deployments: &Objects<'a, ModelDeploymentSpec>, gateway: &Gateway<'_>) -> Used<'a> {
        let mut used = Used::default();
        for object in deployments.iter() {
            let Some(ObjectRef { name, namespace }) = &object.spec.account_ref else { continue };
            let account = (namespace.as_deref().unwrap_or(&object.meta.namespace), name.as_str());
            match gateway.is_elsewhere(object.spec.gateway_ref.as_ref(), object.subject()) {
                true => used.elsewhere.insert(account),
                false => used.here.insert(account),
            };
        }
        used
    }

    /// One that nobody uses is looked at where it could be used, so that its owner sees what is wrong with it.
    fn concerns(&self, subject: Subject<'_>, gateway: &Gateway<'_>) -> bool {
        let account = (subject.namespace, subject.name);
        self.here.contains(&account) || !self.elsewhere.contains(&account) && gateway.concerns(subject)
    }
}

fn compile(object: &Object<ProviderAccountSpec>, judge: &mut Judge<'_, '_>) -> Result<Upstream, Refusal> {
    let subject = object.subject();
    let ProviderAccountSpec { provider, endpoint, credentials, limits, cancel_billing, allowed_namespaces: _ } =
        &object.spec;
    let provider = provider::find(provider, "spec.provider", subject, judge.report);
    let stated = provider::stated(endpoint.as_ref(), subject, judge.report);
    let listed = list(object, credentials, judge.report);
    let mut reader = Reader::new(judge.report, subject);
    let limits = reader.limits("spec.limits", limits.clone());
    let broken = reader.broken;
    let (Some(provider), Some(stated), false) = (provider, stated, broken) else { return Err(Refusal::Broken) };
    let upstream = judge.upstream(provider, stated, &listed, "spec.credentials", subject)?;
    let id = format!("{}/{}", object.meta.namespace, object.meta.name).into();
    Ok(Upstream { account: Some(model::Account { id, limits }), ..upstream }.with(*cancel_billing))
}

fn list<'a>(
    object: &Object<ProviderAccountSpec>,
    credentials: &'a [AccountCredential],
    report: &mut Report,
) -> Vec<Listed<'a>> {
    let subject = object.subject();
    let mut listed: Vec<Listed<'a>> = Vec::with_capacity(credentials.len());
    for (at, credential) in credentials.iter().enumerate() {
        let AccountCredential { name: _, secret_ref, workload_identity, weight } = credential;
        let field = format!("spec.credentials[{at}]");
        let reference = match (secret_ref, workload_identity) {
            (Some(reference), None) => reference,
            (None, Some(_)) => {
                let message = "workload identity is not spoken yet; this credential is not used";
                report.error(subject, Reason::NotSupportedYet, format!("{field}.workloadIdentity"), message);
                continue;
            }
            (Some(_), Some(_)) | (None, None) => {
                report.error(
                    subject,
                    Reason::ExactlyOne,
                    field,
                    "exactly one of secretRef, workloadIdentity must be set",
                );
                continue;
            }
        };
        let Some(weight) = u32::try_from(*weight).ok().filter(|weight| *weight > 0) else {
            report.error(subject, Reason::InvalidValue, format!("{field}.weight"), "weight must be greater than 0");
            continue;
        };
        if listed.iter().any(|other| other.reference == reference) {
            let message = "the same entry of the same Secret is listed already";
            report.error(subject, Reason::Duplicate, format!("{field}.secretRef"), message);
            continue;
        }
        listed.push(Listed { reference, weight, field: format!("{field}.secretRef") });
    }
    listed
}
