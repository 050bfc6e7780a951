//! I/O: what a leader must not forget, in some ConfigMaps beside the gateway, each with what falls to it by name. Written
//! only over the version that was read, so that of two who believe to lead one is refused.

use std::collections::HashMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use serde::de::DeserializeOwned;

use crate::facts::Named;
use crate::metrics::Metrics;
use crate::names::{MANAGER, labels};

/// Writes under way at once.
const AT_ONCE: usize = 16;

/// A kind of such ConfigMaps.
#[derive(Debug)]
pub struct Series {
    /// Part of their names. Example: `budgets`.
    pub what: &'static str,
    /// Their label, with the gateway's name. Not the one of tables, which proxies follow.
    pub label: &'static str,
    /// The entry that holds the text.
    pub entry: &'static str,
    /// How many there are for one gateway. For ever: names fall to them by it.
    pub count: usize,
}

impl Series {
    /// Which of them a name falls to. The same in every version.
    pub fn shard_of(&self, name: &str) -> usize {
        use sha2::Digest;
        usize::from(sha2::Sha256::digest(name.as_bytes())[0]) % self.count
    }
}

/// Why something was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// Somebody else wrote meanwhile: read again and decide again.
    #[error("`{0}` was changed by somebody else")]
    Conflict(String),
    #[error("`{name}` cannot be read: {reason}")]
    Damaged { name: String, reason: String },
    #[error("`{name}`: {source}")]
    Api { name: String, source: Box<kube::Error> },
}

/// The way to those of one gateway.
pub struct Shards {
    series: &'static Series,
    api: Api<ConfigMap>,
    metrics: Metrics,
    gateway: String,
    owner: OwnerReference,
    versions: HashMap<usize, String>,
}

impl Shards {
    /// Reads all that are there. `uid`: of the LLMGateway, which owns them.
    ///
    /// # Errors
    /// The API server says no, or what is there is not what was written: then nothing may be decided.
    pub async fn load<T: DeserializeOwned>(
        client: &Client,
        series: &'static Series,
        gateway: &Named,
        uid: &str,
        metrics: Metrics,
    ) -> Result<(Shards, Vec<(usize, T)>), ShardError> {
        let (namespace, name) = gateway;
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let found = api.list(&ListParams::default().labels(&format!("{}={name}", series.label))).await;
        let found = found.map_err(|source| ShardError::Api { name: series.label.to_owned(), source: Box::new(source) });
        let owner = OwnerReference {
            api_version: tollgate_crds::API_VERSION.to_owned(),
            kind: "LLMGateway".to_owned(),
            name: name.clone(),
            uid: uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        let mut shards = Shards { series, api, metrics, gateway: name.clone(), owner, versions: HashMap::new() };
        let mut all = Vec::new();
        for object in found? {
            let is_it = |at: &usize| object.metadata.name.as_deref() == Some(&*shards.name(*at));
            let Some(at) = (0..series.count).find(is_it) else { continue };
            let text = object.data.as_ref().and_then(|data| data.get(series.entry)).map_or("{}", String::as_str);
            let read = serde_json::from_str(text)
                .map_err(|error| ShardError::Damaged { name: shards.name(at), reason: error.to_string() })?;
            all.push((at, read));
            shards.versions.insert(at, object.metadata.resource_version.unwrap_or_default());
        }
        Ok((shards, all))
    }

    /// Writes texts, each over the version that was read or written here last.
    ///
    /// # Errors
    /// [`ShardError`]; of those that were written, nothing is known but that they may have been.
    pub async fn write(&mut self, texts: Vec<(usize, String)>) -> Result<(), ShardError> {
        let store = &*self;
        let written = stream::iter(texts).map(|(at, text)| async move { Ok((at, store.write_one(at, text).await?)) });
        let written: Vec<(usize, String)> = written.buffer_unordered(AT_ONCE).try_collect().await?;
        self.versions.extend(written);
        Ok(())
    }

    /// Answers with the new version.
    async fn write_one(&self, at: usize, text: String) -> Result<String, ShardError> {
        let Series { what, label, entry, count: _ } = self.series;
        let name = self.name(at);
        let mut labels = labels(&self.gateway, what);
        labels.remove(crate::names::GATEWAY_LABEL);
        labels.insert((*label).to_owned(), self.gateway.clone());
        let version = self.versions.get(&at).cloned();
        let object = ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(labels),
                resource_version: version.clone(),
                owner_references: Some(vec![self.owner.clone()]),
                ..ObjectMeta::default()
            },
            data: Some([((*entry).to_owned(), text)].into()),
            ..ConfigMap::default()
        };
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let written = match version {
            Some(_) => self.api.replace(&name, &parameters, &object).await,
            None => self.api.create(&parameters, &object).await,
        };
        self.metrics.wrote("ConfigMap", &written);
        match written {
            Ok(written) => Ok(written.metadata.resource_version.unwrap_or_default()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Err(ShardError::Conflict(name)),
            Err(source) => Err(ShardError::Api { name, source: Box::new(source) }),
        }
    }

    fn name(&self, at: usize) -> String {
        format!("tollgate-{}-{}-{at:x}", self.gateway, self.series.what)
    }
}

#[cfg(test)]
mod tests {
    use crate::allocator::BUDGETS;

    #[test]
    fn names_spread_over_shards_and_stay_in_theirs() {
        let mut counts = [0; 16];
        for number in 0..16_000 {
            counts[BUDGETS.shard_of(&format!("team-{}/VirtualKey/key-{number}", number % 7))] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        assert_eq!(["a/Budget/b", "team-a/Team/research"].map(|name| BUDGETS.shard_of(name)), [1, 9]);
    }
}
