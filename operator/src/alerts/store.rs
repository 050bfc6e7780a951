//! I/O: what was told of a gateway's budgets, in a ConfigMap beside it. Written only over the version that was read. Holds
//! no URL.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{Api, PostParams};
use tollgate_alerts::State;

use crate::facts::Named;
use crate::metrics::Metrics;
use crate::names::{GATEWAY_LABEL, MANAGER, labels};

/// Entry of the ConfigMap.
const ENTRY: &str = "alerts.json";

/// Why it was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("`{0}` was changed by somebody else")]
    Conflict(String),
    #[error("`{name}`: {source}")]
    Api { name: String, source: Box<kube::Error> },
}

/// The way to it.
pub struct Store {
    api: Api<ConfigMap>,
    metrics: Metrics,
    name: String,
    labels: BTreeMap<String, String>,
    owner: OwnerReference,
    version: Option<String>,
}

impl Store {
    /// Reads what was told. What cannot be understood was not told: better twice than never. `uid`: of the LLMGateway.
    ///
    /// # Errors
    /// The API server says no.
    pub async fn load(
        client: &Client,
        (namespace, gateway): &Named,
        uid: &str,
        metrics: Metrics,
    ) -> Result<(Store, State), StoreError> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let name = format!("tollgate-{gateway}-alerts");
        let found = api.get_opt(&name).await;
        let found = found.map_err(|source| StoreError::Api { name: name.clone(), source: Box::new(source) })?;
        let owner = OwnerReference {
            api_version: tollgate_crds::API_VERSION.to_owned(),
            kind: "LLMGateway".to_owned(),
            name: gateway.clone(),
            uid: uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        // Not the label of tables, which proxies follow.
        let mut labels = labels(gateway, "alerts");
        labels.remove(GATEWAY_LABEL);
        let version = found.as_ref().and_then(|found| found.metadata.resource_version.clone());
        let text = found.as_ref().and_then(|found| found.data.as_ref()?.get(ENTRY));
        let state = match text.map(|text| serde_json::from_str(text)) {
            None => State::default(),
            Some(Ok(state)) => state,
            Some(Err(error)) => {
                tracing::error!(%error, "`{name}` cannot be read; who was told of budgets may be told again");
                State::default()
            }
        };
        Ok((Store { api, metrics, name, labels, owner, version }, state))
    }

    /// Writes over the version that was read or written here last.
    ///
    /// # Errors
    /// Somebody else wrote, or the API server says no: what is there is not known.
    pub async fn save(&mut self, state: &State) -> Result<(), StoreError> {
        let object = ConfigMap {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.labels.clone()),
                resource_version: self.version.clone(),
                owner_references: Some(vec![self.owner.clone()]),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(
                ENTRY.to_owned(),
                serde_json::to_string(state).expect("names and numbers are JSON"),
            )])),
            ..ConfigMap::default()
        };
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let written = match self.version {
            Some(_) => self.api.replace(&self.name, &parameters, &object).await,
            None => self.api.create(&parameters, &object).await,
        };
        self.metrics.wrote("ConfigMap", &written);
        match written {
            Ok(written) => {
                self.version = written.metadata.resource_version;
                Ok(())
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                Err(StoreError::Conflict(self.name.clone()))
            }
            Err(source) => Err(StoreError::Api { name: self.name.clone(), source: Box::new(source) }),
        }
    }
}
