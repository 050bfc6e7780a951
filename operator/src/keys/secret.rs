//! I/O: the Secret of a generated key. Made by POST and changed with the resourceVersion it was read at, so that one that
//! is not ours is never written, and a change of somebody else's is never lost.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde_json::json;
use tollgate_crds::VirtualKey;
use tollgate_snapshot::KeyHash;

use super::plan::Found;
use crate::facts::Problem;
use crate::names::MANAGER;

/// The label that names the VirtualKey of a Secret.
pub const LABEL: &str = "tollgate.dev/virtualkey";

/// Longest value of a label.
const LONGEST_LABEL: usize = 63;

/// Whose key it is, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub namespace: String,
    /// Of the VirtualKey.
    pub name: String,
    pub uid: String,
    /// Name of the Secret, and its entry.
    pub secret: String,
    pub entry: String,
}

/// Why a Secret cannot be read or written.
#[derive(Debug)]
pub enum Failed {
    /// Somebody has to do something.
    Problem(Problem),
    /// Somebody else wrote first.
    Raced,
    /// It passes.
    Server(kube::Error),
}

/// A Secret as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub found: Found,
    /// The public beginning of the key that it holds.
    pub prefix: Option<String>,
    resource_version: Option<String>,
}

impl Place {
    /// # Errors
    /// [`Failed`]; never [`Failed::Raced`].
    pub async fn read(&self, client: &Client) -> Result<Read, Failed> {
        let secret = self.api(client).get_opt(&self.secret).await.map_err(|error| self.failed(error, "read"))?;
        let Some(secret) = secret else {
            return Ok(Read { found: Found::Missing, prefix: None, resource_version: None });
        };
        let is_ours = secret.labels().get(LABEL).is_some_and(|label| *label == label_of(&self.name))
            && secret.owner_references().iter().any(|owner| owner.uid == self.uid);
        let value = secret.data.as_ref().and_then(|data| data.get(&self.entry));
        let key =
            value.and_then(|value| std::str::from_utf8(&value.0).ok()).map(str::trim).filter(|key| !key.is_empty());
        let found = match key {
            _ if !is_ours => Found::Foreign,
            Some(key) => Found::Holds(KeyHash::of(key.as_bytes())),
            None => Found::Empty,
        };
        let prefix = key.filter(|_| is_ours).map(super::text::prefix);
        Ok(Read { found, prefix, resource_version: secret.metadata.resource_version })
    }

    /// Writes the key where `read` was seen.
    ///
    /// # Errors
    /// [`Failed::Raced`] when what is there is not what was read any more.
    pub async fn write(&self, client: &Client, read: &Read, key: &str) -> Result<(), Failed> {
        let value = ByteString(key.as_bytes().to_vec());
        let written = match &read.resource_version {
            None => {
                self.api(client)
                    .create(&PostParams { field_manager: manager(), ..PostParams::default() }, &self.with(value))
                    .await
            }
            Some(version) => {
                let change = json!({"metadata": {"resourceVersion": version}, "data": {self.entry.as_str(): value}});
                let parameters = PatchParams { field_manager: manager(), ..PatchParams::default() };
                self.api(client).patch(&self.secret, &parameters, &Patch::Merge(change)).await
            }
        };
        written.map(drop).map_err(|error| self.failed(error, "write"))
    }

    fn with(&self, value: ByteString) -> Secret {
        let labels = [
            ("app.kubernetes.io/name", "tollgate".to_owned()),
            ("app.kubernetes.io/part-of", "tollgate".to_owned()),
            ("app.kubernetes.io/managed-by", MANAGER.to_owned()),
            (LABEL, label_of(&self.name)),
        ];
        let mut owner = VirtualKey::new(&self.name, Default::default());
        owner.metadata.uid = Some(self.uid.clone());
        Secret {
            metadata: ObjectMeta {
                name: Some(self.secret.clone()),
                namespace: Some(self.namespace.clone()),
                labels: Some(labels.map(|(name, value)| (name.to_owned(), value)).into()),
                owner_references: Some(owner.controller_owner_ref(&()).into_iter().collect()),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(BTreeMap::from([(self.entry.clone(), value)])),
            ..Secret::default()
        }
    }

    fn api(&self, client: &Client) -> Api<Secret> {
        Api::namespaced(client.clone(), &self.namespace)
    }

    fn failed(&self, error: kube::Error, verb: &str) -> Failed {
        let (secret, namespace) = (&self.secret, &self.namespace);
        let status = match error {
            kube::Error::Api(status) => status,
            error => return Failed::Server(error),
        };
        match status.code {
            // A create of what is there, or a change of what is not as it was.
            409 | 404 if verb == "write" => Failed::Raced,
            403 => Failed::Problem(Problem {
                reason: "SecretForbidden",
                message: format!(
                    "the operator may not {verb} Secret `{secret}`; to make keys it needs create, get, patch and watch of \
                     Secrets in namespace `{namespace}` (the chart's value secrets.generate.namespaces)"
                ),
            }),
            400 | 422 => Failed::Problem(Problem {
                reason: "SecretInvalid",
                message: format!("the API server refuses Secret `{secret}`: {}", status.message),
            }),
            _ => Failed::Server(kube::Error::Api(status)),
        }
    }
}

fn manager() -> Option<String> {
    Some(MANAGER.to_owned())
}

/// Names of resources may be longer than labels: then their beginning, and a digest of the whole.
fn label_of(name: &str) -> String {
    if name.len() <= LONGEST_LABEL {
        return name.to_owned();
    }
    let digest = KeyHash::of(name.as_bytes()).to_string();
    format!("{}-{}", &name[..LONGEST_LABEL - 17], &digest[..16])
}
