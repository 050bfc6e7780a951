//! A folder of YAML, read and compiled: what tests start from.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tollgate_snapshot::GatewayName;
use tollgate_snapshot::compile::{
    Compiled, ConfigMaps, Document, Input, KeyHashes, Labels, Meta, Mode, Object, Secret, Secrets, Standing, compile,
};
use tollgate_snapshot::model::{Endpoint, KeyHash, Snapshot};
use tollgate_snapshot::price::PriceTable;

/// 2026-11-21, noon.
pub const NOW: i64 = 1_795_262_400;

/// Everything that `compile` is given.
#[derive(Clone, Debug)]
pub struct World {
    pub documents: Vec<Document>,
    pub secrets: Secrets,
    pub config_maps: ConfigMaps,
    pub namespaces: BTreeMap<String, Labels>,
    pub key_hashes: KeyHashes,
    pub mode: Mode,
    pub now: i64,
    pub previous: Option<Snapshot>,
    pub gateway: Option<GatewayName>,
    pub standing: Standing,
}

impl World {
    pub fn empty() -> World {
        World {
            documents: Vec::new(),
            secrets: Secrets::default(),
            config_maps: ConfigMaps::default(),
            namespaces: BTreeMap::new(),
            key_hashes: KeyHashes::default(),
            mode: Mode::Standalone,
            now: NOW,
            previous: None,
            gateway: None,
            standing: Standing::default(),
        }
    }

    /// Documents without a namespace are of `default`. Every VirtualKey with a `secret` has been generated.
    pub fn read(yaml: &str) -> World {
        let mut world = World::empty();
        let values: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("the YAML of a test is valid");
        for value in values {
            world.add(value);
        }
        world
    }

    pub fn add(&mut self, value: Value) {
        let metadata = &value["metadata"];
        let meta = Meta {
            namespace: metadata["namespace"].as_str().unwrap_or("default").to_owned(),
            name: metadata["name"].as_str().expect("a document has a name").to_owned(),
            labels: text_map(&metadata["labels"]),
            annotations: text_map(&metadata["annotations"]),
            created_at: metadata["createdAt"].as_i64(),
            deleting: metadata["deleting"].as_bool().unwrap_or(false),
        };
        let spec = &value["spec"];
        let kind = value["kind"].as_str().expect("a document has a kind");
        let document = match kind {
            "Namespace" => {
                self.namespaces.insert(meta.name, meta.labels);
                return;
            }
            "Secret" => {
                let data = text_map(&value["stringData"]);
                let data = data.into_iter().map(|(entry, value)| (entry, Arc::from(value))).collect();
                self.secrets.insert(Secret { meta, data });
                return;
            }
            "ConfigMap" => {
                let data = text_map(&value["data"]);
                let data = data.into_iter().map(|(entry, value)| (entry, Arc::from(value))).collect();
                self.config_maps.insert(&meta.namespace, &meta.name, data);
                return;
            }
            "LLMGateway" => Document::LLMGateway(object(meta, spec)),
            "ProviderAccount" => Document::ProviderAccount(object(meta, spec)),
            "ModelDeployment" => Document::ModelDeployment(object(meta, spec)),
            "RouteGroup" => Document::RouteGroup(object(meta, spec)),
            "Team" => Document::Team(object(meta, spec)),
            "VirtualKey" => {
                let hash = KeyHash::of(format!("{}/{}", meta.namespace, meta.name).as_bytes());
                self.key_hashes.insert(&meta.namespace, &meta.name, hash);
                Document::VirtualKey(object(meta, spec))
            }
            "Budget" => Document::Budget(object(meta, spec)),
            other => panic!("no kind is called {other}"),
        };
        self.documents.push(document);
    }

    pub fn compile(&self) -> Compiled {
        compile(Input {
            documents: self.documents.iter().collect(),
            gateway: self.gateway.as_ref(),
            standing: &self.standing,
            secrets: &self.secrets,
            config_maps: &self.config_maps,
            prices: *PriceTable::embedded(),
            namespaces: &self.namespaces,
            mode: self.mode,
            mock_endpoint: Some(mock_endpoint()),
            key_hashes: &self.key_hashes,
            previous: self.previous.as_ref(),
            default_namespace: "default",
            now: self.now,
        })
    }
}

pub fn mock_endpoint() -> Endpoint {
    Endpoint { tls: false, host: "127.0.0.1".into(), port: 4010, path: "/v1".into() }
}

fn object<S: DeserializeOwned>(meta: Meta, spec: &Value) -> Box<Object<S>> {
    let spec = serde_json::from_value(spec.clone()).unwrap_or_else(|error| panic!("{}: {error}", meta.name));
    Box::new(Object { meta, spec })
}

fn text_map(value: &Value) -> Labels {
    let fields = value.as_object().into_iter().flatten();
    fields.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}
