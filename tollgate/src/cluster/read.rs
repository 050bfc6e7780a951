//! I/O: what is read from the API server. Lists come in pages; a list that is forbidden for the whole cluster is tried
//! for the namespaces that were asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1;
use kube::api::{GetParams, ListParams, Request};
use kube::{Client, Resource as _};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tollgate_crds::{Budget, LLMGateway, ModelDeployment, ProviderAccount, Resource, RouteGroup, Team, VirtualKey};
use tollgate_snapshot::ObjectRef;
use tollgate_snapshot::compile::{Labels, Meta, Secret};

use super::remark::{Remark, State};
use crate::config::cluster::{Scope, SecretUse, Seen};
use crate::config::document;

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// Questions that are open at the API server at once.
pub const AT_ONCE: usize = 16;

/// Everything but Secrets.
pub struct Found {
    pub objects: Vec<document::Read>,
    pub states: Vec<State>,
    pub namespaces: BTreeMap<String, Labels>,
    pub scope: Scope,
    pub remarks: Vec<Remark>,
}

/// Reads all resources that may be read. `own`: where to look when the whole cluster may not be listed.
///
/// # Errors
/// The API server cannot be reached, or does not know our kinds.
pub async fn resources(client: &Client, own: &[String]) -> anyhow::Result<Found> {
    let own: BTreeSet<String> = own.iter().cloned().collect();
    let mut found = Found {
        objects: Vec::new(),
        states: Vec::new(),
        namespaces: BTreeMap::new(),
        scope: Scope::All,
        remarks: Vec::new(),
    };
    for kind in Resource::KINDS {
        let values = match list::<serde_json::Value>(client, &url_of(kind, None)).await {
            Ok(values) => values,
            Err(error) if is_forbidden(&error) => {
                found.scope = Scope::Only(own.clone());
                of_namespaces(client, kind, &own, &mut found.remarks).await?
            }
            Err(error) if code(&error) == Some(404) => anyhow::bail!(
                "the cluster does not know {kind}; install the definitions (`tollgate crds | kubectl apply --server-side -f -`)"
            ),
            Err(error) => return Err(error).with_context(|| format!("cannot list {kind}")),
        };
        for value in values {
            found.states.push(State::of(kind, &value));
            found.objects.push(document::read_value(kind, value));
        }
    }
    found.namespaces = namespaces(client, &own).await?;
    Ok(found)
}

async fn of_namespaces(
    client: &Client,
    kind: &'static str,
    own: &BTreeSet<String>,
    remarks: &mut Vec<Remark>,
) -> anyhow::Result<Vec<serde_json::Value>> {
    let mut values = Vec::new();
    for namespace in own {
        match list(client, &url_of(kind, Some(namespace))).await {
            Ok(more) => values.extend::<Vec<serde_json::Value>>(more),
            Err(error) if is_forbidden(&error) => {
                let object = ObjectRef { kind, namespace: namespace.clone(), name: String::new() };
                let message = format!("you may not list objects of kind {kind} in namespace `{namespace}`");
                remarks.push(Remark::warning(object, "NotReadable", message, "the role `tollgate-view` allows it"));
            }
            Err(error) => return Err(error).with_context(|| format!("cannot list {kind} in `{namespace}`")),
        }
    }
    Ok(values)
}

/// Labels of namespaces: of all, or of those that may be read.
async fn namespaces(client: &Client, own: &BTreeSet<String>) -> anyhow::Result<BTreeMap<String, Labels>> {
    let url = v1::Namespace::url_path(&(), None);
    let found = match list::<v1::Namespace>(client, &url).await {
        Ok(all) => all,
        Err(error) if is_forbidden(&error) => {
            let mut found = Vec::new();
            for name in own {
                match get::<v1::Namespace>(client, &url, name).await {
                    Ok(namespace) => found.push(namespace),
                    Err(error) if matches!(code(&error), Some(403 | 404)) => {}
                    Err(error) => return Err(error).with_context(|| format!("cannot read namespace `{name}`")),
                }
            }
            found
        }
        Err(error) => return Err(error).context("cannot list namespaces"),
    };
    let labelled = |namespace: v1::Namespace| {
        (namespace.metadata.name.unwrap_or_default(), namespace.metadata.labels.unwrap_or_default())
    };
    Ok(found.into_iter().map(labelled).collect())
}

/// Looks at Secrets one by one. Those that do not exist are left out.
///
/// # Errors
/// The API server cannot be reached.
pub async fn secrets(
    client: &Client,
    wanted: &BTreeMap<(String, String), SecretUse>,
) -> anyhow::Result<BTreeMap<(String, String), Seen>> {
    let looks = wanted.keys().map(|(namespace, name)| async move {
        let url = v1::Secret::url_path(&(), Some(namespace));
        let seen = match get::<v1::Secret>(client, &url, name).await {
            Ok(secret) => Some(Seen::Secret(decoded(namespace, name, secret))),
            Err(error) if is_forbidden(&error) => Some(Seen::Forbidden),
            Err(error) if code(&error) == Some(404) => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read Secret `{namespace}/{name}`")),
        };
        Ok(seen.map(|seen| ((namespace.clone(), name.clone()), seen)))
    });
    let looks: Vec<_> = looks.collect();
    futures_util::stream::iter(looks)
        .buffer_unordered(AT_ONCE)
        .try_filter_map(|seen| async move { Ok(seen) })
        .try_collect()
        .await
}

/// The entries of a ConfigMap; `Some(None)`: it may not be read, `None`: there is none.
///
/// # Errors
/// The API server cannot be reached.
pub async fn config_map(
    client: &Client,
    namespace: &str,
    name: &str,
) -> anyhow::Result<Option<Option<BTreeMap<String, Arc<str>>>>> {
    let url = v1::ConfigMap::url_path(&(), Some(namespace));
    match get::<v1::ConfigMap>(client, &url, name).await {
        Ok(found) => {
            let entries = found.data.unwrap_or_default().into_iter();
            Ok(Some(Some(entries.map(|(entry, text)| (entry, text.into())).collect())))
        }
        Err(error) if is_forbidden(&error) => Ok(Some(None)),
        Err(error) if code(&error) == Some(404) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read ConfigMap `{namespace}/{name}`")),
    }
}

/// Entries that are no text are left out, as the operator leaves them out.
fn decoded(namespace: &str, name: &str, secret: v1::Secret) -> Secret {
    let v1::Secret { metadata, data, .. } = secret;
    let text = |(key, bytes): (String, k8s_openapi::ByteString)| Some((key, String::from_utf8(bytes.0).ok()?.into()));
    let meta = Meta {
        labels: metadata.labels.unwrap_or_default(),
        annotations: metadata.annotations.unwrap_or_default(),
        ..Meta::new(namespace, name)
    };
    Secret { meta, data: data.unwrap_or_default().into_iter().filter_map(text).collect() }
}

fn url_of(kind: &str, namespace: Option<&str>) -> String {
    match kind {
        "LLMGateway" => LLMGateway::url_path(&(), namespace),
        "ProviderAccount" => ProviderAccount::url_path(&(), namespace),
        "ModelDeployment" => ModelDeployment::url_path(&(), namespace),
        "RouteGroup" => RouteGroup::url_path(&(), namespace),
        "Team" => Team::url_path(&(), namespace),
        "VirtualKey" => VirtualKey::url_path(&(), namespace),
        _ => Budget::url_path(&(), namespace),
    }
}

#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: PageMeta,
    items: Vec<T>,
}

#[derive(Default, Deserialize)]
struct PageMeta {
    #[serde(rename = "continue", default)]
    next: Option<String>,
}

/// All pages of a list.
pub async fn list<T: DeserializeOwned>(client: &Client, url: &str) -> Result<Vec<T>, kube::Error> {
    list_where(client, url, None).await
}

/// Those with the labels.
pub async fn list_where<T: DeserializeOwned>(
    client: &Client,
    url: &str,
    labels: Option<&str>,
) -> Result<Vec<T>, kube::Error> {
    let mut all = Vec::new();
    let mut parameters = ListParams::default().limit(PAGE);
    parameters.label_selector = labels.map(str::to_owned);
    loop {
        let request = Request::new(url).list(&parameters).map_err(kube::Error::BuildRequest)?;
        let Page { metadata, items } = client.request::<Page<T>>(request).await?;
        all.extend(items);
        match metadata.next.filter(|next| !next.is_empty()) {
            Some(next) => parameters = parameters.continue_token(&next),
            None => return Ok(all),
        }
    }
}

/// One object.
pub async fn get<T: DeserializeOwned>(client: &Client, url: &str, name: &str) -> Result<T, kube::Error> {
    let request = Request::new(url).get(name, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
    client.request(request).await
}

/// The HTTP status of an answer.
pub fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

pub fn is_forbidden(error: &kube::Error) -> bool {
    code(error) == Some(403)
}
