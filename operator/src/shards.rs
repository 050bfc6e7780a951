//! I/O: the books of a gateway's budgets in the cluster: some ConfigMaps, each with the budgets whose id falls to it.
//! Written only over the version that was read.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use tollgate_allocator::Budget;

use crate::facts::Named;
use crate::metrics::Metrics;
use crate::names::{MANAGER, labels};

/// ConfigMaps of one gateway. Few enough to be written at once, enough that none grows to its limit.
pub const SHARDS: usize = 16;

/// Label of the ConfigMaps: the gateway's name. Not the one of tables, which proxies follow.
pub const LABEL: &str = "tollgate.dev/allocations";

/// Entry of a ConfigMap.
const ENTRY: &str = "budgets.json";

/// Why books were not read or written.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// Somebody else wrote meanwhile: read again and decide again.
    #[error("`{0}` was changed by somebody else")]
    Conflict(String),
    #[error("the books in `{name}` cannot be read: {reason}")]
    Damaged { name: String, reason: String },
    #[error("`{name}`: {source}")]
    Api { name: String, source: Box<kube::Error> },
}

/// The way to the books of one gateway.
pub struct Shards {
    api: Api<ConfigMap>,
    metrics: Metrics,
    gateway: String,
    owner: OwnerReference,
    versions: HashMap<usize, String>,
}

impl Shards {
    /// Reads all books of a gateway. `uid`: of the LLMGateway, which owns them.
    ///
    /// # Errors
    /// The API server says no, or what is there is not what was written: then nothing may be granted.
    pub async fn load(
        client: &Client,
        gateway: &Named,
        uid: &str,
        metrics: Metrics,
    ) -> Result<(Shards, BTreeMap<String, Budget>), ShardError> {
        let (namespace, name) = gateway;
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let found = api.list(&ListParams::default().labels(&format!("{LABEL}={name}"))).await;
        let found = found.map_err(|source| ShardError::Api { name: LABEL.to_owned(), source: Box::new(source) })?;
        let owner = OwnerReference {
            api_version: tollgate_crds::API_VERSION.to_owned(),
            kind: "LLMGateway".to_owned(),
            name: name.clone(),
            uid: uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        let mut shards = Shards { api, metrics, gateway: name.clone(), owner, versions: HashMap::new() };
        let mut budgets = BTreeMap::new();
        for object in found {
            let Some(at) = (0..SHARDS).find(|at| object.metadata.name.as_deref() == Some(&*shards.name(*at))) else {
                continue;
            };
            let text = object.data.as_ref().and_then(|data| data.get(ENTRY)).map_or("{}", String::as_str);
            let read: BTreeMap<String, Budget> = serde_json::from_str(text)
                .map_err(|error| ShardError::Damaged { name: shards.name(at), reason: error.to_string() })?;
            budgets.extend(read);
            shards.versions.insert(at, object.metadata.resource_version.unwrap_or_default());
        }
        Ok((shards, budgets))
    }

    /// Writes shards, each over the version that was read or written here last.
    ///
    /// # Errors
    /// [`ShardError`]; what is there is not known any more.
    pub async fn write(
        &mut self,
        shards: &BTreeSet<usize>,
        budgets: &BTreeMap<String, Budget>,
    ) -> Result<(), ShardError> {
        let store = &*self;
        let shards: Vec<usize> = shards.iter().copied().collect();
        let written = stream::iter(shards).map(|at| async move { Ok((at, store.write_one(at, budgets).await?)) });
        let written: Vec<(usize, String)> = written.buffer_unordered(SHARDS).try_collect().await?;
        self.versions.extend(written);
        Ok(())
    }

    /// Answers with the new version.
    async fn write_one(&self, at: usize, budgets: &BTreeMap<String, Budget>) -> Result<String, ShardError> {
        let name = self.name(at);
        let of_shard: BTreeMap<&str, &Budget> =
            budgets.iter().filter(|(id, _)| shard_of(id) == at).map(|(id, budget)| (id.as_str(), budget)).collect();
        let text = serde_json::to_string(&of_shard).expect("names and numbers are JSON");
        let mut labels = labels(&self.gateway, "budgets");
        labels.remove(crate::names::GATEWAY_LABEL);
        labels.insert(LABEL.to_owned(), self.gateway.clone());
        let version = self.versions.get(&at).cloned();
        let object = ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(labels),
                resource_version: version.clone(),
                owner_references: Some(vec![self.owner.clone()]),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(ENTRY.to_owned(), text)])),
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
        format!("tollgate-{}-budgets-{at:x}", self.gateway)
    }
}

/// Which shard a budget is in. The same in every version.
pub fn shard_of(budget: &str) -> usize {
    use sha2::Digest;
    usize::from(sha2::Sha256::digest(budget.as_bytes())[0]) % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_spread_over_shards_and_stay_in_theirs() {
        let mut counts = [0; SHARDS];
        for number in 0..16_000 {
            counts[shard_of(&format!("team-{}/VirtualKey/key-{number}", number % 7))] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        assert_eq!(["a/Budget/b", "team-a/Team/research"].map(shard_of), [1, 9]);
    }
}
