//! A cluster as a configuration, as its operator compiles it: objects that were read from the API server, files that
//! would be applied on top, and the Secrets that both refer to. Pure; `crate::cluster` does the reading.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use tollgate_crds::{KeyPolicy, SecretKeyRef};
use tollgate_snapshot::compile::{
    Compiled, Document, Gateways, Input, KeyHashes, Labels, Meta, Mode, Secret, Standing, Unread, compile,
};
use tollgate_snapshot::model::{Gateway, GatewayName, KeyHash, Snapshot};
use tollgate_snapshot::{Finding, ObjectRef, Reason, Severity};

use super::document::{self, Parsed};
use super::files::File;
use super::load::{self, Gathered, Placed, Settings};

/// The label of a Secret that the operator generated, and the name of its VirtualKey.
const GENERATED_FOR: &str = "tollgate.dev/virtualkey";

/// Where a Secret says which further hosts its values may be sent to.
const HOSTS: &str = "tollgate.dev/hosts";

/// Which namespaces could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    /// Only these: of the others nobody can say what they have.
    Only(BTreeSet<String>),
}

impl Scope {
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Scope::All => true,
            Scope::Only(names) => names.contains(namespace),
        }
    }
}

/// A Secret that objects refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretUse {
    /// Entries that are read.
    pub keys: BTreeSet<String>,
    /// The first object that names it.
    pub by: ObjectRef,
    /// The operator writes a key into it.
    pub is_generated: bool,
}

/// What a look at a Secret showed. Those that do not exist are left out.
pub enum Seen {
    Secret(Secret),
    /// It may not be read, so that nobody can say whether it exists.
    Forbidden,
}

/// What became of them.
pub struct Judged {
    /// One for each gateway.
    pub snapshots: Vec<Snapshot>,
    pub findings: Vec<Placed>,
}

/// The objects of a cluster, with those of files in their places.
pub struct Overlaid {
    gathered: Gathered,
    files: Vec<File>,
    scope: Scope,
}

impl Overlaid {
    /// `objects`: what the API server has, of our kinds. An object that a file holds counts as the file has it.
    pub fn new(
        objects: Vec<document::Read>,
        namespaces: BTreeMap<String, Labels>,
        scope: Scope,
        files: Vec<File>,
        settings: &Settings<'_>,
    ) -> Overlaid {
        let mut gathered = load::gather(&files, settings);
        for (name, labels) in namespaces {
            gathered.namespaces.entry(name).or_insert(labels);
        }
        for document::Read { object, parsed, findings, at: _ } in objects {
            if gathered.entries.contains_key(&object) {
                continue;
            }
            gathered.findings.extend(findings.into_iter().map(|finding| Placed { finding, file: None, at: None }));
            if let Some(Parsed::Resource(document)) = parsed {
                gathered.documents.push(document);
            }
        }
        Overlaid { gathered, files, scope }
    }

    /// Whether a file holds the object.
    pub fn is_of_a_file(&self, object: &ObjectRef) -> bool {
        self.gathered.entries.contains_key(object)
    }

    pub fn documents(&self) -> &[Document] {
        &self.gathered.documents
    }

    /// Secrets that the API server must be asked for, by namespace and name.
    pub fn wanted_secrets(&self) -> BTreeMap<(String, String), SecretUse> {
        let mut wanted = secret_uses(&self.gathered.documents);
        wanted.retain(|(namespace, name), _| self.gathered.secrets.get(namespace, name).is_none());
        wanted
    }

    /// ConfigMaps with prices that the API server must be asked for, by namespace and name.
    pub fn wanted_config_maps(&self) -> BTreeSet<(String, String)> {
        let mut wanted = BTreeSet::new();
        for document in &self.gathered.documents {
            let Document::LLMGateway(gateway) = document else { continue };
            for reference in gateway.spec.prices.overlays.iter().filter_map(|overlay| overlay.config_map_ref.as_ref()) {
                let namespace = &gateway.meta.namespace;
                if self.gathered.config_maps.get(namespace, &reference.name).is_none() {
                    wanted.insert((namespace.clone(), reference.name.clone()));
                }
            }
        }
        wanted
    }

    /// What became of one of them; `None`: it may not be read. Those that do not exist are left out.
    pub fn add_config_map(&mut self, namespace: &str, name: &str, entries: Option<BTreeMap<String, Arc<str>>>) {
        match entries {
            Some(entries) => self.gathered.config_maps.insert(namespace, name, entries),
            None => self.gathered.config_maps.insert_unread(namespace, name, Unread::Forbidden),
        }
    }

    /// Compiles for a cluster. `seen`: what became of `wanted`, the [`Overlaid::wanted_secrets`]. `standing`: which gateways
    /// the operator runs.
    pub fn compile(
        mut self,
        wanted: &BTreeMap<(String, String), SecretUse>,
        seen: BTreeMap<(String, String), Seen>,
        standing: &Standing,
        settings: &Settings<'_>,
    ) -> Judged {
        let mut assumed = HashSet::new();
        for ((namespace, name), seen) in seen {
            let secret = match seen {
                Seen::Secret(secret) => secret,
                Seen::Forbidden => {
                    let keys = wanted.get(&(namespace.clone(), name.clone())).map(|wanted| &wanted.keys);
                    let stand_in = stand_in(&namespace, &name, keys.into_iter().flatten());
                    assumed.insert((namespace, name));
                    stand_in
                }
            };
            self.gathered.secrets.insert(secret);
        }
        let key_hashes = self.key_hashes(&assumed);
        let Overlaid { gathered, files, scope } = self;
        let (snapshots, findings) = compile_each(&gathered, &key_hashes, &scope, standing, settings);
        let mut placed = gathered.findings;
        let judged = findings.into_iter().map(|finding| doubt(finding, &gathered.documents, &scope));
        placed.extend(judged.map(|finding| load::place(finding, &gathered.entries, &files)));
        load::sort(&mut placed);
        Judged { snapshots, findings: placed }
    }

    /// Of the keys that the operator generated, and a stand-in for those that it would generate for files.
    fn key_hashes(&mut self, assumed: &HashSet<(String, String)>) -> KeyHashes {
        let mut hashes = KeyHashes::default();
        let Gathered { documents, secrets, entries, findings, .. } = &mut self.gathered;
        for document in &*documents {
            let Document::VirtualKey(key) = document else { continue };
            let Some(wanted) = &key.spec.secret else { continue };
            let Meta { namespace, name, .. } = &key.meta;
            let stand_in = || KeyHash::of(format!("{namespace}/{name}").as_bytes());
            let object = document.object_ref();
            match secrets.get(namespace, &wanted.name) {
                Some(_) if assumed.contains(&(namespace.clone(), wanted.name.clone())) => {
                    hashes.insert(namespace, name, stand_in());
                }
                Some(secret) => {
                    let is_ours = secret.meta.labels.get(GENERATED_FOR).is_some_and(|owner| owner == name);
                    if wanted.policy == KeyPolicy::Generate && !is_ours {
                        let finding = load::not_ours(&object, &wanted.name);
                        findings.push(Placed { finding, file: None, at: None });
                    } else if let Some(value) = secret.data.get(&wanted.key) {
                        hashes.insert(namespace, name, KeyHash::of(value.trim().as_bytes()));
                    }
                }
                None if wanted.policy == KeyPolicy::Generate && entries.contains_key(&object) => {
                    hashes.insert(namespace, name, stand_in());
                }
                None => {}
            }
        }
        hashes
    }
}

/// A snapshot for each gateway, and all findings, as the operator has them. Where no gateway can be seen, one that takes
/// everything stands for it: whoever looks may be a tenant.
fn compile_each(
    gathered: &Gathered,
    key_hashes: &KeyHashes,
    scope: &Scope,
    standing: &Standing,
    settings: &Settings<'_>,
) -> (Vec<Snapshot>, Vec<Finding>) {
    let Gathered { documents, secrets, config_maps, namespaces, .. } = gathered;
    let compile_for = |gateway: Option<&GatewayName>| {
        compile(Input {
            documents: documents.iter().collect(),
            gateway,
            standing,
            secrets,
            config_maps,
            prices: settings.prices,
            namespaces,
            mode: Mode::Cluster,
            mock_endpoint: None,
            key_hashes,
            previous: None,
            default_namespace: settings.default_namespace,
            now: settings.now,
        })
    };
    let gateways = Gateways::new(documents, namespaces, standing);
    let names: Vec<GatewayName> = gateways.names().collect();
    if names.is_empty() && *scope != Scope::All {
        let Compiled { snapshot, findings, .. } = compile_for(None);
        return (vec![snapshot], findings);
    }
    let (mut snapshots, mut findings) = (Vec::new(), Vec::new());
    findings.extend(documents.iter().filter_map(|document| gateways.of(document).err()).map(|finding| *finding));
    for name in &names {
        let compiled = compile_for(Some(name));
        snapshots.push(compiled.snapshot);
        findings.extend(compiled.findings);
    }
    // What several gateways say of one object is said once.
    let mut said = HashSet::new();
    findings.retain(|finding| {
        let Finding { object, severity: _, reason, field, message, hint: _ } = finding;
        said.insert((object.clone(), *reason, field.clone(), message.clone()))
    });
    // The default one first: whoever names none means it.
    let default = gateways.default_name();
    snapshots.sort_by_key(|snapshot| {
        let Gateway { namespace, name, .. } = &snapshot.gateway;
        !default.as_ref().is_some_and(|default| *default.namespace == **namespace && *default.name == **name)
    });
    (snapshots, findings)
}

/// All Secrets that this version reads or writes for the documents.
pub fn secret_uses(documents: &[Document]) -> BTreeMap<(String, String), SecretUse> {
    let mut uses: BTreeMap<(String, String), SecretUse> = BTreeMap::new();
    for document in documents {
        let mut add = |name: &str, key: &str, is_generated: bool| {
            let place = (document.meta().namespace.clone(), name.to_owned());
            let by = || SecretUse { keys: BTreeSet::new(), by: document.object_ref(), is_generated: false };
            let uses = uses.entry(place).or_insert_with(by);
            uses.keys.insert(key.to_owned());
            uses.is_generated |= is_generated;
        };
        let mut read = |SecretKeyRef { name, key }: &SecretKeyRef| add(name, key, false);
        match document {
            Document::LLMGateway(object) => {
                let stores = &object.spec.stores;
                object.spec.master_key.iter().chain(&stores.redis).for_each(|source| read(&source.secret_ref));
                stores.postgres.iter().for_each(|store| read(&store.secret_ref));
                let tls = object.spec.listeners.iter().filter_map(|listener| listener.tls.as_ref());
                for certificate in tls.map(|tls| &tls.certificate_ref.name) {
                    add(certificate, "tls.crt", false);
                    add(certificate, "tls.key", false);
                }
            }
            Document::ProviderAccount(object) => {
                object.spec.credentials.iter().filter_map(|credential| credential.secret_ref.as_ref()).for_each(read);
            }
            Document::ModelDeployment(object) => {
                object.spec.credential.iter().for_each(|source| read(&source.secret_ref));
            }
            Document::VirtualKey(object) => {
                if let Some(secret) = &object.spec.secret {
                    add(&secret.name, &secret.key, secret.policy == KeyPolicy::Generate);
                }
            }
            Document::Budget(object) => {
                let webhooks = object.spec.thresholds.iter().filter_map(|threshold| threshold.webhook.as_ref());
                webhooks.for_each(|source| read(&source.secret_ref));
            }
            Document::RouteGroup(_) | Document::Team(_) => {}
        }
    }
    uses
}

/// A Secret in the place of one that may not be read: it is taken to be as the objects need it.
fn stand_in<'k>(namespace: &str, name: &str, keys: impl Iterator<Item = &'k String>) -> Secret {
    let mut meta = Meta::new(namespace, name);
    meta.annotations.insert(HOSTS.to_owned(), "*".to_owned());
    let data = keys.map(|key| (key.clone(), format!("https://stands.for/{namespace}/{name}/{key}").into())).collect();
    Secret { meta, data }
}

/// What was found wrong with a reference into a namespace that could not be read is no error: nobody knows.
fn doubt(mut finding: Finding, documents: &[Document], scope: &Scope) -> Finding {
    let is_reference = matches!(finding.reason, Reason::NotFound | Reason::NotGranted | Reason::NotAttached);
    if *scope == Scope::All || finding.severity == Severity::Warning || !is_reference {
        return finding;
    }
    if finding.reason == Reason::NotAttached {
        finding.severity = Severity::Warning;
        finding.message.push_str("; that may be otherwise, since you may not read all namespaces");
        return finding;
    }
    let referring = documents.iter().find(|document| document.object_ref() == finding.object);
    let Some(namespace) = referring.and_then(|document| namespace_at(document, &finding.field)) else { return finding };
    if !scope.contains(&namespace) {
        finding.severity = Severity::Warning;
        finding.message =
            format!("it cannot be told whether this is granted: you may not read namespace `{namespace}`");
        finding.hint =
            format!("`kubectl describe {} {}` shows what the operator says", finding.object.kind, finding.object.name);
    }
    finding
}

/// The `namespace` of the reference at a path such as `spec.targets[0].modelDeploymentRef`.
fn namespace_at(document: &Document, field: &str) -> Option<String> {
    let spec = match document {
        Document::LLMGateway(object) => serde_json::to_value(&object.spec),
        Document::ProviderAccount(object) => serde_json::to_value(&object.spec),
        Document::ModelDeployment(object) => serde_json::to_value(&object.spec),
        Document::RouteGroup(object) => serde_json::to_value(&object.spec),
        Document::Team(object) => serde_json::to_value(&object.spec),
        Document::VirtualKey(object) => serde_json::to_value(&object.spec),
        Document::Budget(object) => serde_json::to_value(&object.spec),
    };
    let path = field.strip_prefix("spec.")?.replace(['.', '['], "/").replace(']', "");
    let spec = spec.ok()?;
    Some(spec.pointer(&format!("/{path}/namespace"))?.as_str()?.to_owned())
}
