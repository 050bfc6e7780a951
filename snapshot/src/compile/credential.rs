//! Values out of Secrets: which Secret, which entry, and whether it may be sent where it would go. What is read ends up
//! beside the snapshot, never in it, and in no message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tollgate_crds::SecretKeyRef;

use super::endpoint;
use super::input::{Input, Mode, Secret, Unread};
use super::report::{Report, Subject};
use crate::catalogue::Provider;
use crate::finding::Reason;
use crate::model::{Credential, Deployment, Name};
use crate::wire::credentials::{self, ROOM};

/// The annotation of a Secret that names further hosts its values may be sent to, with commas between them.
const HOSTS: &str = "tollgate.dev/hosts";

/// No provider's credential is longer. Bytes.
const LONGEST: usize = 8 << 10;

/// What the credentials of one namespace may take of the room that there is in a cluster. Bytes.
const ROOM_OF_NAMESPACE: usize = ROOM / 8;

/// All credentials that deployments use, and the URLs of stores, each once.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    /// Ids of URLs of stores.
    urls: BTreeSet<Name>,
    values: BTreeMap<Name, Arc<str>>,
    taken: usize,
    taken_by_namespace: BTreeMap<String, usize>,
}

impl Credentials {
    /// # Errors
    /// In a cluster there is no room for it, so that it is not used. For people.
    pub fn insert(&mut self, mode: Mode, id: Name, value: Arc<str>) -> Result<(), String> {
        if mode == Mode::Cluster && !self.values.contains_key(&id) {
            if value.len() > LONGEST {
                return Err(format!("the credential is longer than {LONGEST} bytes"));
            }
            let size = credentials::size_of(&id, &value);
            let namespace = id.split('/').next().unwrap_or_default();
            let of_namespace = self.taken_by_namespace.entry(namespace.to_owned()).or_default();
            if *of_namespace + size > ROOM_OF_NAMESPACE || self.taken + size > ROOM {
                return Err("the gateway has no room for more credentials".to_owned());
            }
            *of_namespace += size;
            self.taken += size;
        }
        self.values.insert(id, value);
        Ok(())
    }

    /// URLs of the gateway's stores. The first to come: there is room for them.
    pub fn insert_urls(&mut self, urls: Vec<(Name, Arc<str>)>) {
        for (id, url) in urls {
            self.taken += credentials::size_of(&id, &url);
            self.urls.insert(id.clone());
            self.values.insert(id, url);
        }
    }

    /// The URLs of stores and those that the deployments use, sorted by id: an account that nobody uses keeps its own to itself.
    pub fn used_by(mut self, deployments: &[Deployment]) -> Vec<Credential> {
        let used: BTreeSet<&Name> = deployments
            .iter()
            .flat_map(|deployment| &deployment.credentials)
            .map(|credential| &credential.id)
            .chain(&self.urls)
            .collect();
        self.values.retain(|id, _| used.contains(id));
        self.values.into_iter().map(|(id, value)| Credential { id, value }).collect()
    }
}

/// `namespace/secret/key`
pub(super) fn id(namespace: &str, reference: &SecretKeyRef) -> Name {
    format!("{namespace}/{}/{}", reference.name, reference.key).into()
}

/// The entry that `reference` names, in the namespace of the subject, and its Secret. White space around it is not part
/// of it: editors and `echo` leave line ends.
pub(super) fn read<'a>(
    input: &Input<'a>,
    reference: &SecretKeyRef,
    subject: Subject<'_>,
    field: &str,
    report: &mut Report,
) -> Option<(&'a Secret, Arc<str>)> {
    let SecretKeyRef { name, key } = reference;
    let Some(secret) = input.secrets.get(subject.namespace, name) else {
        if let Some(why) = input.secrets.unread(subject.namespace, name) {
            report_unread(name, why, subject, field, report);
            return None;
        }
        let message = format!("Secret `{name}` does not exist in namespace `{}`", subject.namespace);
        report.error(subject, Reason::NotFound, field, message);
        return None;
    };
    let Some(value) = secret.data.get(key) else {
        let message = format!("Secret `{name}` has no entry `{key}`");
        let there: Vec<&str> = secret.data.keys().map(String::as_str).collect();
        let finding = report.error(subject, Reason::SecretKeyMissing, field, message);
        if !there.is_empty() {
            finding.hint = format!("it has: {}", there.join(", "));
        }
        return None;
    };
    let trimmed = value.trim();
    if trimmed.is_empty() {
        report.error(subject, Reason::SecretKeyMissing, field, format!("entry `{key}` of Secret `{name}` is empty"));
        return None;
    }
    if input.mode == Mode::Cluster && has_variable(trimmed) {
        let message = format!("entry `{key}` of Secret `{name}` is a variable, and in a cluster none is filled in");
        report.error(subject, Reason::VariableMissing, field, message).hint =
            "write the value itself into the Secret".to_owned();
        return None;
    }
    let text = if trimmed.len() == value.len() { value.clone() } else { trimmed.into() };
    Some((secret, text))
}

fn report_unread(name: &str, why: &Unread, subject: Subject<'_>, field: &str, report: &mut Report) {
    let namespace = subject.namespace;
    match why {
        Unread::Forbidden => {
            let message = format!("the operator may not read Secret `{name}` in namespace `{namespace}`");
            report.error(subject, Reason::SecretForbidden, field, message).hint =
                format!("a RoleBinding in namespace `{namespace}` must let it get and watch Secret `{name}`");
        }
        Unread::Failed(why) => {
            let message = format!("Secret `{name}` in namespace `{namespace}` could not be read yet: {why}");
            report.error(subject, Reason::SecretUnread, field, message);
        }
    }
}

/// Whether there is a `${NAME}` in it, as documents in folders have.
fn has_variable(value: &str) -> bool {
    value.split("${").skip(1).any(|rest| {
        let name = rest.split_once('}').map_or("", |(name, _)| name);
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

/// As [`read`], for what is sent in a header.
pub(super) fn read_for_header<'a>(
    input: &Input<'a>,
    reference: &SecretKeyRef,
    subject: Subject<'_>,
    field: &str,
    report: &mut Report,
) -> Option<(&'a Secret, Arc<str>)> {
    let (secret, value) = read(input, reference, subject, field, report)?;
    if !value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        let message =
            format!("entry `{}` of Secret `{}` has characters that no header can carry", reference.key, reference.name);
        report.error(subject, Reason::InvalidValue, field, message);
        return None;
    }
    Some((secret, value))
}

/// Whether values of the Secret may be sent to the host: a folder has one owner, but in a cluster only the host of the
/// provider's row and what the Secret's own annotation names.
pub(super) fn may_go_to(mode: Mode, provider: &Provider, secret: &Secret, host: &str) -> bool {
    match mode {
        Mode::Standalone => true,
        Mode::Cluster => {
            let own = provider.host().is_some_and(|own| own.eq_ignore_ascii_case(host));
            own || is_annotated(secret, host)
        }
    }
}

/// Whether the Secret's own annotation names the host.
pub(super) fn is_annotated(secret: &Secret, host: &str) -> bool {
    let annotated = secret.meta.annotations.get(HOSTS).map_or("", String::as_str);
    endpoint::is_listed(annotated.split(','), host)
}
