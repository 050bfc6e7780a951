//! The tables of one gateway in the cluster: what is there, and how it becomes what was compiled. Parts first, then the
//! manifest that names them, then what it names no more is deleted. Every write carries the resourceVersion of what was
//! read, so that whoever computed from an older state, such as a leader that does not know yet that it is none, is
//! refused; then all is read and computed again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::json;
use tollgate_snapshot::GatewayName;
use tollgate_snapshot::wire::{self, Manifest, Part, Sealing, ShardDigits, Tables, names};

use crate::metrics::Metrics;
use crate::names::{MANAGER, labels};

/// Writes of one gateway at once.
const AT_ONCE: usize = 8;

/// Bytes of randomness in the salt and in the token.
const RANDOM: usize = 32;

/// The gateway that owns tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub gateway: GatewayName,
    pub uid: String,
}

/// An object that holds a part of the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    resource_version: String,
    uid: String,
    /// Of the text that it holds.
    sha256: String,
}

/// What is in the cluster.
#[derive(Debug)]
pub struct Live {
    owner: Owner,
    config_maps: HashMap<String, Held>,
    secrets: HashMap<String, Held>,
    manifest: Option<Manifest>,
    salt: String,
    token: Arc<str>,
}

/// What was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub generation: u64,
    /// How many objects were written or deleted.
    pub writes: usize,
}

/// Why tables are not written.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Somebody else wrote meanwhile: read again and compute again.
    #[error("`{0}` was changed by somebody else")]
    Conflict(String),
    #[error("`{0}` is there and belongs to somebody else")]
    Taken(String),
    #[error("{what} `{name}`: {source}")]
    Api { what: &'static str, name: String, source: Box<kube::Error> },
    #[error("no randomness for the salt of the credentials")]
    Random,
}

impl PublishError {
    fn of(what: &'static str, name: &str) -> impl FnOnce(kube::Error) -> PublishError {
        move |source| match &source {
            // 404: it was deleted meanwhile.
            kube::Error::Api(status) if matches!(status.code, 404 | 409) => PublishError::Conflict(name.to_owned()),
            _ => PublishError::Api { what, name: name.to_owned(), source: Box::new(source) },
        }
    }

    /// CamelCase, for conditions.
    pub fn reason(&self) -> &'static str {
        match self {
            PublishError::Conflict(_) => "Conflict",
            PublishError::Taken(_) => "NameTaken",
            PublishError::Api { source, .. } => match &**source {
                kube::Error::Api(status) if status.code == 403 => "Forbidden",
                _ => "NotPublished",
            },
            PublishError::Random => "NotPublished",
        }
    }
}

/// How objects with tables are written. One place, so that each is counted.
struct Writer<'a> {
    config_maps: Api<ConfigMap>,
    secrets: Api<Secret>,
    metrics: &'a Metrics,
}

impl<'a> Writer<'a> {
    fn new(client: &Client, namespace: &str, metrics: &'a Metrics) -> Writer<'a> {
        Writer {
            config_maps: Api::namespaced(client.clone(), namespace),
            secrets: Api::namespaced(client.clone(), namespace),
            metrics,
        }
    }
}

impl Live {
    /// Reads what is there, and the snapshot that it makes, where it is whole.
    ///
    /// # Errors
    /// The API server says no, or the random source does.
    pub async fn load(
        client: &Client,
        owner: Owner,
        metrics: &Metrics,
    ) -> Result<(Live, Option<wire::Read>), PublishError> {
        let GatewayName { namespace, name } = &owner.gateway;
        let Writer { config_maps, secrets, .. } = Writer::new(client, namespace, metrics);
        let selector = format!("{}={name},{}", names::GATEWAY_LABEL, names::TABLES_LABEL);
        let found = config_maps.list(&ListParams::default().labels(&selector)).await;
        let found = found.map_err(PublishError::of("list ConfigMaps of", name))?;

        let mut texts: HashMap<String, String> = HashMap::new();
        let mut live = Live {
            config_maps: HashMap::new(),
            secrets: HashMap::new(),
            manifest: None,
            salt: String::new(),
            token: "".into(),
            owner: owner.clone(),
        };
        for object in found {
            let text = object.data.unwrap_or_default().into_values().next().unwrap_or_default();
            let name = object.metadata.name.clone().unwrap_or_default();
            live.config_maps.insert(name.clone(), held(&object.metadata, &text));
            texts.insert(name, text);
        }
        // By name: roles allow these and no list.
        for name in names::all_credentials(name) {
            let secret = secrets.get_opt(&name).await.map_err(PublishError::of("read Secret", &name))?;
            let Some(secret) = secret else { continue };
            if !is_ours(&secret.metadata, &owner.gateway.name) {
                return Err(PublishError::Taken(name));
            }
            let value = secret.data.unwrap_or_default().remove(names::CREDENTIALS_ENTRY).unwrap_or_default();
            let text = String::from_utf8(value.0).unwrap_or_default();
            live.secrets.insert(name.clone(), held(&secret.metadata, &text));
            texts.insert(name, text);
        }
        let manifest = names::manifest(name);
        live.manifest = texts.get(&manifest).and_then(|text| match Manifest::parse(&manifest, text) {
            Ok(manifest) => Some(manifest),
            Err(error) => {
                tracing::warn!(%error, gateway = %owner.gateway, "the manifest cannot be used: {error}");
                None
            }
        });
        let read = live.manifest.as_ref().and_then(|manifest| {
            let read = wire::read(manifest, |name| texts.get(name).map(String::as_str));
            read.inspect_err(|error| {
                tracing::warn!(%error, gateway = %owner.gateway, "the tables that are there are not whole: {error}");
            })
            .ok()
        });
        let first = texts.get(&names::credentials(name, 0)).map(String::as_str);
        live.seal(first)?;
        Ok((live, read))
    }

    /// Takes salt and token from the first Secret, or makes them.
    fn seal(&mut self, credentials: Option<&str>) -> Result<(), PublishError> {
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Kept {
            salt: String,
            token: String,
        }
        let Kept { salt, token } = credentials.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        self.salt = if salt.is_empty() { random()? } else { salt };
        self.token = if token.is_empty() { random()?.into() } else { token.into() };
        Ok(())
    }

    pub fn sealing(&self) -> Sealing<'_> {
        Sealing { salt: &self.salt, token: &self.token }
    }

    /// With what the operator asks proxies.
    pub fn token(&self) -> Arc<str> {
        self.token.clone()
    }

    pub fn shard_digits(&self) -> Option<ShardDigits> {
        self.manifest.as_ref().map(|manifest| manifest.shard_digits)
    }

    /// Of what is there; 0: nothing yet.
    pub fn generation(&self) -> u64 {
        self.manifest.as_ref().map_or(0, |manifest| manifest.generation)
    }

    /// Whether an object of this name may be one of the tables.
    pub fn concerns(&self, name: &str) -> bool {
        let gateway = &self.owner.gateway.name;
        let prefixes = [names::manifest(gateway), names::keys(gateway, "", 0)];
        let numbered = [format!("tollgate-{gateway}-policy-"), format!("tollgate-{gateway}-credentials-")];
        prefixes[0] == name || name.starts_with(&prefixes[1]) || numbered.iter().any(|prefix| name.starts_with(prefix))
    }

    /// Names of the Secrets that are there.
    pub fn secret_names(&self) -> Vec<String> {
        self.secrets.keys().cloned().collect()
    }

    /// Whether an object of the tables is another than what was written or read last. `resource_version`: what was seen;
    /// `None`: it is gone.
    pub fn is_foreign(&self, name: &str, resource_version: Option<&str>) -> bool {
        let held = self.config_maps.get(name).or_else(|| self.secrets.get(name));
        match (held, resource_version) {
            (None, None) => false,
            (None, Some(_)) | (Some(_), None) => true,
            // Watches may be behind what was written here.
            (Some(held), Some(seen)) => is_newer(seen, &held.resource_version),
        }
    }

    /// Makes it so. Writes nothing where it is so already.
    ///
    /// # Errors
    /// Of the first write that failed. What is there is not known any more: load it again.
    pub async fn publish(
        &mut self,
        client: &Client,
        tables: &Tables,
        metrics: &Metrics,
    ) -> Result<Published, PublishError> {
        let gateway = self.owner.gateway.clone();
        let writer = Writer::new(client, &gateway.namespace, metrics);
        let Tables { policy, keys, credentials, shard_digits: _ } = tables;
        let config_map = |part, table, entry| (part, table, entry);
        let parts = policy.iter().map(|part| config_map(part, names::POLICY, names::POLICY_ENTRY));
        let parts = parts.chain(keys.iter().map(|part| config_map(part, names::KEYS, names::KEYS_ENTRY)));
        let is_other = |held: &HashMap<String, Held>, part: &Part| {
            held.get(&part.name).is_none_or(|held| held.sha256 != part.sha256)
        };
        let parts: Vec<_> = parts.filter(|(part, ..)| is_other(&self.config_maps, part)).collect();
        let sealed: Vec<&Part> = credentials.iter().filter(|part| is_other(&self.secrets, part)).collect();
        let mut writes = parts.len() + sealed.len();

        let owner = &self.owner;
        let held = &self.secrets;
        let written = stream::iter(sealed)
            .map(async |part: &Part| Ok((part.name.clone(), writer.secret(owner, held.get(&part.name), part).await?)));
        let written: Vec<(String, Held)> = written.buffer_unordered(AT_ONCE).try_collect().await?;
        self.secrets.extend(written);
        let held = &self.config_maps;
        let written = stream::iter(parts).map(async |(part, table, entry): (&Part, &'static str, &'static str)| {
            let text = &part.content;
            Ok((
                part.name.clone(),
                writer.config_map(owner, held.get(&part.name), &part.name, table, entry, text, &part.sha256).await?,
            ))
        });
        let written: Vec<(String, Held)> = written.buffer_unordered(AT_ONCE).try_collect().await?;
        self.config_maps.extend(written);

        let version = env!("CARGO_PKG_VERSION");
        let manifest = Manifest::of(tables, self.generation() + 1, version, gateway.clone());
        if !self.manifest.as_ref().is_some_and(|before| before.same_content(&manifest)) {
            let name = names::manifest(&gateway.name);
            let held = self.config_maps.get(&name);
            let text = manifest.to_text();
            let written =
                writer.config_map(&self.owner, held, &name, names::MANIFEST, names::MANIFEST_ENTRY, &text, "").await?;
            self.config_maps.insert(name, written);
            self.manifest = Some(manifest);
            writes += 1;
        }
        writes += self.delete_stale(&writer, tables).await?;
        Ok(Published { generation: self.generation(), writes })
    }

    /// Deletes what the manifest does not name any more. Secrets stay, empty: the operator may not delete any.
    async fn delete_stale(&mut self, writer: &Writer<'_>, tables: &Tables) -> Result<usize, PublishError> {
        let manifest = names::manifest(&self.owner.gateway.name);
        let is_named =
            |name: &str| name == manifest || tables.policy.iter().chain(&tables.keys).any(|part| part.name == *name);
        let stale: Vec<String> = self.config_maps.keys().filter(|name| !is_named(name)).cloned().collect();
        let mut writes = stale.len();
        for name in stale {
            if let Some(held) = self.config_maps.remove(&name) {
                writer.delete(&name, &held).await?;
            }
        }
        let unused = |name: &str| !tables.credentials.iter().any(|part| part.name == *name);
        let emptied = Part { name: String::new(), content: String::new(), sha256: String::new() };
        let unused: Vec<String> = self
            .secrets
            .iter()
            .filter(|(name, held)| unused(name) && !held.sha256.is_empty())
            .map(|(name, _)| name.clone())
            .collect();
        writes += unused.len();
        for name in unused {
            let part = Part { name: name.clone(), ..emptied.clone() };
            let written = writer.secret(&self.owner, self.secrets.get(&name), &part).await?;
            self.secrets.insert(name, written);
        }
        Ok(writes)
    }
}

impl Writer<'_> {
    #[allow(clippy::too_many_arguments)]
    async fn config_map(
        &self,
        owner: &Owner,
        held: Option<&Held>,
        name: &str,
        table: &str,
        entry: &str,
        text: &str,
        sha256: &str,
    ) -> Result<Held, PublishError> {
        let object = ConfigMap {
            metadata: metadata(owner, held, name, table),
            data: Some(BTreeMap::from([(entry.to_owned(), text.to_owned())])),
            ..ConfigMap::default()
        };
        let written = match held {
            Some(_) => self.config_maps.replace(name, &parameters(), &object).await,
            None => self.config_maps.create(&parameters(), &object).await,
        };
        self.metrics.wrote("ConfigMap", &written);
        let written = match written {
            Err(error) if held.is_none() && is_conflict(&error) => {
                return Err(self.taken(
                    self.config_maps.get_metadata(name).await.map(|found| found.metadata),
                    owner,
                    name,
                ));
            }
            written => written.map_err(PublishError::of("write ConfigMap", name))?,
        };
        Ok(Held { sha256: sha256.to_owned(), ..held_version(&written.metadata) })
    }

    async fn secret(&self, owner: &Owner, held: Option<&Held>, part: &Part) -> Result<Held, PublishError> {
        let Part { name, content, sha256 } = part;
        let metadata = metadata(owner, held, name, names::CREDENTIALS);
        let written = match held {
            // Not replaced but patched: roles allow no more.
            Some(_) => {
                let patch = json!({
                    "metadata": metadata,
                    "data": {names::CREDENTIALS_ENTRY: ByteString(content.clone().into_bytes())},
                });
                let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
                self.secrets.patch(name, &parameters, &Patch::Merge(patch)).await
            }
            None => {
                let data =
                    BTreeMap::from([(names::CREDENTIALS_ENTRY.to_owned(), ByteString(content.clone().into_bytes()))]);
                let object =
                    Secret { metadata, data: Some(data), type_: Some("Opaque".to_owned()), ..Secret::default() };
                self.secrets.create(&parameters(), &object).await
            }
        };
        self.metrics.wrote("Secret", &written);
        let written = written.map_err(PublishError::of("write Secret", name))?;
        Ok(Held { sha256: sha256.clone(), ..held_version(&written.metadata) })
    }

    async fn delete(&self, name: &str, held: &Held) -> Result<(), PublishError> {
        let preconditions =
            Preconditions { uid: Some(held.uid.clone()), resource_version: Some(held.resource_version.clone()) };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let deleted = self.config_maps.delete(name, &parameters).await;
        self.metrics.wrote("ConfigMap", &deleted);
        deleted.map(|_| ()).map_err(PublishError::of("delete ConfigMap", name))
    }

    /// Why something cannot be created that is there already.
    fn taken(&self, found: Result<ObjectMeta, kube::Error>, owner: &Owner, name: &str) -> PublishError {
        match found {
            Ok(metadata) if !is_ours(&metadata, &owner.gateway.name) => PublishError::Taken(name.to_owned()),
            // Ours, and not seen when it was listed.
            Ok(_) | Err(_) => PublishError::Conflict(name.to_owned()),
        }
    }
}

fn metadata(owner: &Owner, held: Option<&Held>, name: &str, table: &str) -> ObjectMeta {
    let gateway = &owner.gateway;
    let mut labels = labels(&gateway.name, "tables");
    labels.insert(names::TABLES_LABEL.to_owned(), table.to_owned());
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(gateway.namespace.clone()),
        labels: Some(labels),
        resource_version: held.map(|held| held.resource_version.clone()),
        owner_references: Some(vec![OwnerReference {
            api_version: tollgate_crds::API_VERSION.to_owned(),
            kind: "LLMGateway".to_owned(),
            name: gateway.name.clone(),
            uid: owner.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

/// Whether it was made here, for a gateway of this name: nothing of others is ever overwritten.
fn is_ours(metadata: &ObjectMeta, gateway: &str) -> bool {
    let label = |name: &str| metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
    label("app.kubernetes.io/managed-by") == Some(MANAGER) && label(names::GATEWAY_LABEL) == Some(gateway)
}

fn held(metadata: &ObjectMeta, text: &str) -> Held {
    let sha256 = if text.is_empty() { String::new() } else { sha256(text) };
    Held { sha256, ..held_version(metadata) }
}

fn held_version(metadata: &ObjectMeta) -> Held {
    Held {
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        sha256: String::new(),
    }
}

fn sha256(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether one resourceVersion is later than the other. They count up in one sequence; what is no number differs.
fn is_newer(seen: &str, held: &str) -> bool {
    match (seen.parse::<u64>(), held.parse::<u64>()) {
        (Ok(seen), Ok(held)) => seen > held,
        _ => seen != held,
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

fn random() -> Result<String, PublishError> {
    use base64::Engine;
    let mut bytes = [0; RANDOM];
    getrandom::fill(&mut bytes).map_err(|_| PublishError::Random)?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}
