//! `ProviderAccount`: an address and credentials that deployments share. Each is looked at once, used or not, so that its
//! owner sees what is wrong with it.

use tollgate_crds::{AccountCredential, ProviderAccountSpec};

use super::input::Object;
use super::objects::Objects;
use super::provider;
use super::report::Report;
use super::upstream::{Judge, Listed, Refusal, Upstream};
use super::values::Reader;
use crate::finding::Reason;
use crate::model;

/// In the order of the objects.
pub(super) fn compile_all(
    accounts: &Objects<'_, ProviderAccountSpec>,
    judge: &mut Judge<'_, '_>,
) -> Vec<Result<Upstream, Refusal>> {
    accounts.iter().map(|object| compile(object, judge)).collect()
}

fn compile(object: &Object<ProviderAccountSpec>, judge: &mut Judge<'_, '_>) -> Result<Upstream, Refusal> {
    let subject = object.subject();
    let ProviderAccountSpec { provider, endpoint, credentials, limits, allowed_namespaces: _ } = &object.spec;
    let provider = provider::find(provider, "spec.provider", subject, judge.report);
    let stated = provider::stated(endpoint.as_ref(), subject, judge.report);
    let listed = list(object, credentials, judge.report);
    let mut reader = Reader::new(judge.report, subject);
    let limits = reader.limits("spec.limits", limits.clone());
    let broken = reader.broken;
    let (Some(provider), Some(stated), false) = (provider, stated, broken) else { return Err(Refusal::Broken) };
    let upstream = judge.upstream(provider, stated, &listed, "spec.credentials", subject)?;
    let id = format!("{}/{}", object.meta.namespace, object.meta.name).into();
    Ok(Upstream { account: Some(model::Account { id, limits }), ..upstream })
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
