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
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
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
    #[error("{what} `{name}`: {}", said(.source))]
    Api { what: &'static str, name: String, source: Box<kube::Error> },
    #[error("no randomness for the salt of the credentials")]
    Random,
}

/// Without what a server's answer has for programs.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
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

/// A text that a ConfigMap is to hold.
#[derive(Clone, Copy)]
struct Text<'a> {
    name: &'a str,
    /// Value of the label.
    table: &'static str,
    entry: &'static str,
    content: &'a str,
    sha256: &'a str,
}

impl<'a> Text<'a> {
    fn of(part: &'a Part, table: &'static str, entry: &'static str) -> Text<'a> {
        let Part { name, content, sha256 } = part;
        Text { name, table, entry, content, sha256 }
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
            let read = wire::read(manifest, |name| texts.get(name).map(String::as_str), None);
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
        let policy = policy.iter().map(|part| Text::of(part, names::POLICY, names::POLICY_ENTRY));
        let keys = keys.iter().map(|part| Text::of(part, names::KEYS, names::KEYS_ENTRY));
        let is_other = |held: Option<&Held>, sha256: &str| held.is_none_or(|held| held.sha256 != sha256);
        let texts: Vec<Text<'_>> =
            policy.chain(keys).filter(|text| is_other(self.config_maps.get(text.name), text.sha256)).collect();
        let sealed: Vec<&Part> =
            credentials.iter().filter(|part| is_other(self.secrets.get(&part.name), &part.sha256)).collect();
        let mut writes = texts.len() + sealed.len();

        let written = sealed.into_iter().map(|part| writer.secret(&self.owner, self.secrets.get(&part.name), part));
        let written = stream::iter(written.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        self.secrets.extend(written.try_collect::<Vec<_>>().await?);
        let written =
            texts.into_iter().map(|text| writer.config_map(&self.owner, self.config_maps.get(text.name), text));
        let written = stream::iter(written.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        self.config_maps.extend(written.try_collect::<Vec<_>>().await?);

        let version = env!("CARGO_PKG_VERSION");
        let manifest = Manifest::of(tables, self.generation() + 1, version, gateway.clone());
        if !self.manifest.as_ref().is_some_and(|before| before.same_content(&manifest)) {
            let name = names::manifest(&gateway.name);
            let content = manifest.to_text();
            let text = Text {
                name: &name,
                table: names::MANIFEST,
                entry: names::MANIFEST_ENTRY,
                content: &content,
                sha256: "",
            };
            let written = writer.config_map(&self.owner, self.config_maps.get(&name), text).await?;
            self.config_maps.extend([written]);
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
        let emptied = Part { name: String::new(), content: "".into(), sha256: String::new() };
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
            self.secrets.extend([written]);
        }
        Ok(writes)
    }
}

impl Writer<'_> {
    /// The name with what it holds now.
    async fn config_map(
        &self,
        owner: &Owner,
        held: Option<&Held>,
        text: Text<'_>,
    ) -> Result<(String, Held), PublishError> {
        let Text { name, table, entry, content, sha256 } = text;
        let object = ConfigMap {
            metadata: metadata(owner, held, name, table),
            data: Some(BTreeMap::from([(entry.to_owned(), content.to_owned())])),
            ..ConfigMap::default()
        };
        let written = match held {
            Some(_) => self.config_maps.replace(name, &parameters(), &object).await,
            None => self.config_maps.create(&parameters(), &object).await,
        };
        self.metrics.wrote("ConfigMap", &written);
        if let (Err(error), None) = (&written, held)
            && is_conflict(error)
        {
            let found = self.config_maps.get_metadata(name).await;
            return Err(taken(found.map(|found| found.metadata), owner, name));
        }
        let written = written.map_err(PublishError::of("write ConfigMap", name))?;
        Ok((name.to_owned(), Held { sha256: sha256.to_owned(), ..held_version(&written.metadata) }))
    }

    /// The name with what it holds now.
    async fn secret(&self, owner: &Owner, held: Option<&Held>, part: &Part) -> Result<(String, Held), PublishError> {
        let Part { name, content, sha256 } = part;
        let metadata = metadata(owner, held, name, names::CREDENTIALS);
        let data = BTreeMap::from([(names::CREDENTIALS_ENTRY.to_owned(), ByteString(content.as_bytes().to_vec()))]);
        let written = match held {
            // Not replaced but patched: roles allow no more.
            Some(_) => {
                let patch = json!({"metadata": metadata, "data": data});
                let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
                self.secrets.patch(name, &parameters, &Patch::Merge(patch)).await
            }
            None => {
                let type_ = Some("Opaque".to_owned());
                let object = Secret { metadata, data: Some(data), type_, ..Secret::default() };
                self.secrets.create(&parameters(), &object).await
            }
        };
        self.metrics.wrote("Secret", &written);
        let written = written.map_err(PublishError::of("write Secret", name))?;
        Ok((name.clone(), Held { sha256: sha256.clone(), ..held_version(&written.metadata) }))
    }

    async fn delete(&self, name: &str, held: &Held) -> Result<(), PublishError> {
        let preconditions =
            Preconditions { uid: Some(held.uid.clone()), resource_version: Some(held.resource_version.clone()) };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let deleted = self.config_maps.delete(name, &parameters).await;
        self.metrics.wrote("ConfigMap", &deleted);
        deleted.map(|_| ()).map_err(PublishError::of("delete ConfigMap", name))
    }
}

/// Why something cannot be created that is there already.
fn taken(found: Result<ObjectMeta, kube::Error>, owner: &Owner, name: &str) -> PublishError {
    match found {
        Ok(metadata) if !is_ours(&metadata, &owner.gateway.name) => PublishError::Taken(name.to_owned()),
        // Ours, and not seen when it was listed.
        Ok(_) | Err(_) => PublishError::Conflict(name.to_owned()),
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

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tollgate_snapshot::compile::{ConfigMaps, Document, KeyHashes, Meta, Object, Secrets, Standing};

    use super::*;
    use crate::tables::compiled::{Asked, compile};
    use crate::testing::FakeApi;
    use crate::world::Objects;

    const CONFIG_MAPS: &str = "/api/v1/namespaces/n/configmaps";

    fn owner() -> Owner {
        Owner { gateway: GatewayName { namespace: "n".into(), name: "g".into() }, uid: "gateway-uid".into() }
    }

    /// Tables with a key for each of these numbers.
    fn tables(live: &Live, keys: &[u32]) -> Arc<Tables> {
        let mut objects = Objects::default();
        let gateway = Object { meta: Meta::new("n", "g"), spec: serde_json::from_value(json!({})).unwrap() };
        let mut documents = vec![Document::LLMGateway(Box::new(gateway))];
        for number in keys {
            let spec = json!({"models": ["m"], "keyHash": format!("sha256:{number:064x}")});
            let meta = Meta::new("n", format!("key-{number}"));
            documents
                .push(Document::VirtualKey(Box::new(Object { meta, spec: serde_json::from_value(spec).unwrap() })));
        }
        objects.put_documents(documents);
        let asked = Asked {
            gateway: live.owner.gateway.clone(),
            previous: None,
            salt: live.salt.clone(),
            token: live.token(),
            shard_digits: live.shard_digits(),
            written: None,
        };
        let (secrets, config_maps, hashes) = (Secrets::default(), ConfigMaps::default(), KeyHashes::default());
        let (_, mut tables) = compile(&objects, &secrets, &config_maps, &hashes, Standing::default(), &[asked], 0);
        tables.remove(&live.owner.gateway).expect("it was asked for")
    }

    async fn load(client: &Client) -> Live {
        Live::load(client, owner(), &Metrics::default()).await.unwrap().0
    }

    async fn publish(live: &mut Live, client: &Client, keys: &[u32]) -> Result<Published, PublishError> {
        let tables = tables(live, keys);
        live.publish(client, &tables, &Metrics::default()).await
    }

    fn generation(api: &FakeApi) -> Value {
        let state = api.state();
        let text = state.objects[&format!("{CONFIG_MAPS}/tollgate-g-manifest")]["data"]["manifest.json"].clone();
        serde_json::from_str::<Value>(text.as_str().unwrap()).unwrap()["generation"].clone()
    }

    #[tokio::test]
    async fn parts_come_first_and_the_manifest_last() {
        let api = FakeApi::default();
        let client = api.client();
        let mut live = load(&client).await;
        let published = publish(&mut live, &client, &[1]).await.unwrap();
        assert_eq!(published.generation, 1);
        let writes = api.state().take_writes();
        assert_eq!(writes.len(), published.writes);
        assert!(writes.iter().all(|write| write.starts_with("POST")), "{writes:?}");
        assert_eq!(writes.iter().filter(|write| write.ends_with("/secrets")).count(), 1, "{writes:?}");
        let state = api.state();
        let last = state
            .objects
            .values()
            .max_by_key(|object| object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap());
        let last = last.unwrap();
        assert_eq!(last["metadata"]["name"], "tollgate-g-manifest");
        assert_eq!(last["metadata"]["ownerReferences"][0]["uid"], "gateway-uid");
        assert_eq!(last["metadata"]["labels"]["tollgate.dev/tables"], "manifest");
    }

    #[tokio::test]
    async fn what_is_there_is_not_written_again() {
        let api = FakeApi::default();
        let client = api.client();
        let mut live = load(&client).await;
        publish(&mut live, &client, &[1]).await.unwrap();
        api.state().asked.clear();
        assert_eq!(publish(&mut live, &client, &[1]).await.unwrap(), Published { generation: 1, writes: 0 });
        assert!(api.state().asked.is_empty());
        // Nor by whoever comes after.
        let mut other = load(&client).await;
        assert_eq!((&other.salt, &other.token), (&live.salt, &live.token));
        api.state().asked.clear();
        assert_eq!(publish(&mut other, &client, &[1]).await.unwrap(), Published { generation: 1, writes: 0 });
        assert!(api.state().asked.is_empty());
    }

    #[tokio::test]
    async fn one_key_more_writes_its_shard_and_the_manifest() {
        let api = FakeApi::default();
        let client = api.client();
        let mut live = load(&client).await;
        publish(&mut live, &client, &[1]).await.unwrap();
        api.state().asked.clear();
        let published = publish(&mut live, &client, &[1, 2]).await.unwrap();
        assert_eq!(published, Published { generation: 2, writes: 2 });
        let writes = api.state().take_writes();
        let expected = ["tollgate-g-keys", "tollgate-g-manifest"].map(|name| format!("PUT {CONFIG_MAPS}/{name}"));
        assert_eq!(writes, expected);
    }

    #[tokio::test]
    async fn who_was_deposed_cannot_undo_what_is_newer() {
        let api = FakeApi::default();
        let (old, new) = (api.client(), api.client());
        let mut deposed = load(&old).await;
        publish(&mut deposed, &old, &[1]).await.unwrap();
        let mut leader = load(&new).await;
        publish(&mut leader, &new, &[1, 2]).await.unwrap();

        let error = publish(&mut deposed, &old, &[1, 3]).await.unwrap_err();
        assert!(matches!(error, PublishError::Conflict(_)), "{error}");
        assert_eq!(generation(&api), 2);
        let (live, read) = Live::load(&new, owner(), &Metrics::default()).await.unwrap();
        let keys: Vec<String> = read.unwrap().snapshot.keys.iter().map(|key| key.name.to_string()).collect();
        assert_eq!((live.generation(), keys), (2, vec!["key-1".to_owned(), "key-2".to_owned()]));
    }

    #[tokio::test]
    async fn what_belongs_to_others_is_never_overwritten() {
        let api = FakeApi::default();
        let path = format!("{CONFIG_MAPS}/tollgate-g-manifest");
        let foreign = json!({"metadata": {"namespace": "n", "name": "tollgate-g-manifest"}, "data": {"a": "b"}});
        api.put(&path, foreign);
        let client = api.client();
        let mut live = load(&client).await;
        let error = publish(&mut live, &client, &[1]).await.unwrap_err();
        assert_eq!(error.reason(), "NameTaken");
        assert_eq!(api.state().objects[&path]["data"], json!({"a": "b"}));
    }

    #[tokio::test]
    async fn a_part_that_the_manifest_names_no_more_is_deleted_after_it() {
        let api = FakeApi::default();
        let client = api.client();
        let mut live = load(&client).await;
        publish(&mut live, &client, &[1]).await.unwrap();
        // Left by whoever was killed between the manifest and this.
        let stale = format!("{CONFIG_MAPS}/tollgate-g-policy-7");
        let labels = json!({"tollgate.dev/gateway": "g", "tollgate.dev/tables": "policy"});
        api.put(&stale, json!({"metadata": {"namespace": "n", "name": "tollgate-g-policy-7", "labels": labels}}));
        let mut live = load(&client).await;
        api.state().asked.clear();
        assert_eq!(publish(&mut live, &client, &[1]).await.unwrap().writes, 1);
        assert_eq!(api.state().take_writes(), [format!("DELETE {stale}")]);
        assert!(!api.state().objects.contains_key(&stale));
    }

    #[tokio::test]
    async fn changes_of_others_are_told_from_echoes() {
        let api = FakeApi::default();
        let client = api.client();
        let mut live = load(&client).await;
        publish(&mut live, &client, &[1]).await.unwrap();
        let name = "tollgate-g-manifest";
        let version = live.config_maps[name].resource_version.clone();
        assert!(live.concerns(name) && !live.concerns("tollgate-other-manifest"));
        assert!(!live.is_foreign(name, Some(&version)));
        assert!(!live.is_foreign(name, Some("0")), "an older one that comes late");
        assert!(live.is_foreign(name, Some("1000")));
        assert!(live.is_foreign(name, None), "it is gone");
        assert!(live.is_foreign("tollgate-g-policy-9", Some("1000")), "one that nobody here wrote");
        assert!(!live.is_foreign("tollgate-g-policy-9", None));
    }
}
