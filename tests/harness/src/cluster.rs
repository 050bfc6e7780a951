//! What the operator does for one gateway, as far as proxies see it: compiles resources and writes their tables into a
//! [`FakeApi`], parts first and the manifest last. I/O.

use tollgate_mock::{Mock, Options};
use tollgate_snapshot::compile::{
    Document, Input, KeyHashes, Meta, Mode, Object as Compiled, Secret, Secrets, compile,
};
use tollgate_snapshot::wire::{self, GatewayName, Manifest, Part, Sealing, Tables, names};

use crate::kubernetes::{FakeApi, NAMESPACE};
use crate::objects::{self, Object};
use crate::{Value, json};

/// What the operator shows to proxies.
pub const OPERATOR_TOKEN: &str = "operator-token-0123456789abcdef";

/// An API server with the tables of the gateway `default`, and a provider behind them.
pub struct Cluster {
    pub api: FakeApi,
    pub mock: Mock,
    /// What the tables are made of.
    pub objects: Vec<Object>,
    pub generation: u64,
}

impl Cluster {
    /// Nothing is written yet. The objects are those of [`crate::Stage`] and what `more` adds.
    pub async fn start(more: impl FnOnce(&Mock) -> Vec<Object>) -> Cluster {
        let mock = Mock::start(Options::default()).await.expect("the mock listens");
        let mut objects = vec![objects::gateway(), objects::secret(), objects::caller()];
        objects.extend(more(&mock));
        Cluster { api: FakeApi::start().await, mock, objects, generation: 0 }
    }

    /// With one OpenAI-compatible deployment, named `m`, and everything written.
    pub async fn one() -> Cluster {
        let mut cluster = Cluster::start(|mock| vec![objects::deployment("m", mock)]).await;
        cluster.publish();
        cluster
    }

    /// Replaces the object of the same kind and name, or adds it.
    pub fn set(&mut self, object: Object) {
        self.objects.retain(|other| other.id() != object.id());
        self.objects.push(object);
    }

    pub fn remove(&mut self, kind: &str, name: &str) {
        self.objects.retain(|object| object.id() != (kind, name));
    }

    /// The tables as they would be written now, and their manifest, of the next generation.
    pub fn tables(&mut self) -> (Tables, Manifest) {
        let mut documents = Vec::new();
        let mut secrets = Secrets::default();
        for object in &self.objects {
            match document(object.value()) {
                Written::Document(document) => documents.push(document),
                Written::Secret(secret) => {
                    secrets.insert(secret);
                }
            }
        }
        // The rules of a folder, so that the provider may be on this machine.
        let hashes = KeyHashes::default();
        let compiled = compile(Input::new(&documents, &secrets, &hashes, Mode::Standalone, 0));
        let sealing = Sealing { salt: "salt", token: OPERATOR_TOKEN };
        let tables = wire::write(&compiled.snapshot, &compiled.credentials, sealing, None, None);
        self.generation += 1;
        let gateway = GatewayName { namespace: NAMESPACE.to_owned(), name: "default".to_owned() };
        let manifest = Manifest::of(&tables, self.generation, "0.1.0", gateway);
        (tables, manifest)
    }

    /// Writes everything, as the operator does.
    pub fn publish(&mut self) -> u64 {
        let (tables, manifest) = self.tables();
        self.write_parts(&tables);
        self.write_manifest(&manifest);
        self.generation
    }

    pub fn write_parts(&self, tables: &Tables) {
        let Tables { policy, keys, credentials, shard_digits: _ } = tables;
        let kinds = [(policy, names::POLICY, names::POLICY_ENTRY), (keys, names::KEYS, names::KEYS_ENTRY)];
        for (parts, kind, entry) in kinds {
            for Part { name, content, sha256: _ } in parts {
                self.api.put_config_map(name, labels(kind), entry, content);
            }
        }
        for Part { name, content, sha256: _ } in credentials {
            self.api.put_secret(name, names::CREDENTIALS_ENTRY, content);
        }
    }

    /// Writes the parts that differ from what is there, as the operator does.
    pub fn write_changed_parts(&self, tables: &Tables) {
        let is_new =
            |entry: &str, part: &Part| self.api.config_map(&part.name, entry).is_none_or(|is| *is != *part.content);
        let Tables { policy, keys, credentials, shard_digits } = tables;
        let policy = policy.iter().filter(|part| is_new(names::POLICY_ENTRY, part)).cloned().collect();
        let keys = keys.iter().filter(|part| is_new(names::KEYS_ENTRY, part)).cloned().collect();
        let credentials = credentials.clone();
        self.write_parts(&Tables { policy, keys, credentials, shard_digits: *shard_digits });
    }

    pub fn write_manifest(&self, manifest: &Manifest) {
        let name = names::manifest("default");
        self.api.put_config_map(&name, labels(names::MANIFEST), names::MANIFEST_ENTRY, &manifest.to_text());
    }
}

fn labels(kind: &str) -> Value {
    json!({names::GATEWAY_LABEL: "default", names::TABLES_LABEL: kind})
}

enum Written {
    Document(Document),
    Secret(Secret),
}

/// What a document of the tests says to the compiler.
fn document(value: &Value) -> Written {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let metadata = &value["metadata"];
    let meta = Meta::new(text(&metadata["namespace"]), text(&metadata["name"]));
    let kind = value["kind"].as_str().expect("objects have kinds");
    if kind == "Secret" {
        let entries = value["stringData"].as_object().expect("Secrets of tests have stringData");
        let data = entries.iter().map(|(key, value)| (key.clone(), text(value).into())).collect();
        return Written::Secret(Secret { meta, data });
    }
    fn object<S: serde::de::DeserializeOwned>(meta: Meta, spec: &Value) -> Box<Compiled<S>> {
        let spec = serde_json::from_value(spec.clone()).unwrap_or_else(|error| panic!("{error}: {spec}"));
        Box::new(Compiled { meta, spec })
    }
    let spec = &value["spec"];
    Written::Document(match kind {
        "LLMGateway" => Document::LLMGateway(object(meta, spec)),
        "ProviderAccount" => Document::ProviderAccount(object(meta, spec)),
        "ModelDeployment" => Document::ModelDeployment(object(meta, spec)),
        "RouteGroup" => Document::RouteGroup(object(meta, spec)),
        "Team" => Document::Team(object(meta, spec)),
        "VirtualKey" => Document::VirtualKey(object(meta, spec)),
        "Budget" => Document::Budget(object(meta, spec)),
        other => panic!("no such kind: {other}"),
    })
}
