//! One compilation of all gateways: pure, on a thread of its own, because a hundred thousand keys take a moment.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tollgate_crds::KeyPolicy;
use tollgate_snapshot::compile::{
    self, ConfigMaps, Gateways, Input, KeyHashes, Meta, Mode, ReplacedKey, Secrets, Standing, Unread,
};
use tollgate_snapshot::wire::{self, Last, Sealing, ShardDigits, Tables};
use tollgate_snapshot::{Credential, Finding, GatewayName, ObjectRef, Severity, Snapshot};

use crate::facts::Known;
use crate::world::Objects;

/// What compile needs to know of one gateway.
pub struct Asked {
    pub gateway: GatewayName,
    /// The last good snapshot.
    pub previous: Option<Arc<Snapshot>>,
    pub salt: String,
    pub token: Arc<str>,
    pub shard_digits: Option<ShardDigits>,
    /// The texts of `previous`, where it was compiled here.
    pub written: Option<Arc<Tables>>,
}

/// What came out, but for the texts that are to be written.
#[derive(Default)]
pub struct Compiled {
    /// What was known of the gateways.
    pub standing: Standing,
    pub snapshots: BTreeMap<GatewayName, Arc<Snapshot>>,
    /// URLs that are told of budgets.
    pub webhooks: BTreeMap<GatewayName, Arc<[Credential]>>,
    /// By object, errors first.
    pub findings: HashMap<ObjectRef, Vec<Finding>>,
    pub errors: usize,
    pub warnings: usize,
}

/// Compiles for each of the gateways, and writes down the tables of each.
pub fn compile(
    objects: &Objects,
    secrets: &Secrets,
    config_maps: &ConfigMaps,
    hashes: &KeyHashes,
    standing: Standing,
    asked: &[Asked],
    now: i64,
) -> (Compiled, BTreeMap<GatewayName, Arc<Tables>>) {
    let mut findings: Vec<Finding> = Vec::new();
    let mut snapshots = BTreeMap::new();
    let mut webhooks = BTreeMap::new();
    let mut tables = BTreeMap::new();
    for Asked { gateway, previous, salt, token, shard_digits, written } in asked {
        let input = Input {
            gateway: Some(gateway),
            standing: &standing,
            config_maps,
            namespaces: objects.namespaces(),
            previous: previous.as_deref(),
            ..Input::new(objects.documents(), secrets, hashes, Mode::Cluster, now)
        };
        let compile::Compiled { snapshot, credentials, webhooks: urls, findings: found } = compile::compile(input);
        webhooks.insert(gateway.clone(), urls.into());
        let last = previous.as_deref().zip(written.as_deref()).map(|(snapshot, tables)| Last { snapshot, tables });
        let texts = wire::write(&snapshot, &credentials, Sealing { salt, token }, *shard_digits, last);
        tables.insert(gateway.clone(), Arc::new(texts));
        snapshots.insert(gateway.clone(), Arc::new(snapshot));
        findings.extend(found);
    }
    let gateways = Gateways::new(objects.documents(), objects.namespaces(), &standing);
    findings
        .extend(objects.documents().iter().filter_map(|document| gateways.of(document).err().map(|finding| *finding)));
    findings.extend(objects.iter().flat_map(|(_, record)| record.findings.iter().cloned()));
    findings.extend(objects.unreadable().flat_map(|(_, record)| record.findings.iter().cloned()));
    (Compiled { standing, webhooks, ..gather(snapshots, findings) }, tables)
}

/// The same finding of several gateways is one.
fn gather(snapshots: BTreeMap<GatewayName, Arc<Snapshot>>, mut findings: Vec<Finding>) -> Compiled {
    let key = |finding: &Finding| (finding.severity, finding.reason);
    findings.sort_by(|a, b| {
        (&a.object, key(a), &a.field, &a.message, &a.hint).cmp(&(&b.object, key(b), &b.field, &b.message, &b.hint))
    });
    findings.dedup();
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let warnings = findings.len() - errors;
    let mut by_object: HashMap<ObjectRef, Vec<Finding>> = HashMap::new();
    for finding in findings {
        by_object.entry(finding.object.clone()).or_default().push(finding);
    }
    Compiled { snapshots, findings: by_object, errors, warnings, ..Compiled::default() }
}

/// The hashes of keys as compile takes them. Where nobody looked at a key yet, its status remembers it: a new leader must
/// not take keys away until it has. Of a key that a Secret of its owner holds, only as long as that one cannot be read.
pub fn hashes(objects: &Objects, known: &Known, secrets: &Secrets) -> KeyHashes {
    let mut hashes = KeyHashes::default();
    for (object, record) in objects.keys() {
        let Meta { namespace, name, .. } = &object.meta;
        let Some(secret) = &object.spec.secret else { continue };
        let counts = match secret.policy {
            KeyPolicy::Generate => true,
            KeyPolicy::Adopt => matches!(secrets.unread(namespace, &secret.name), Some(Unread::Failed(_))),
        };
        let Some(fact) = known.key(namespace, name, record).filter(|_| counts) else { continue };
        let Some(hash) = fact.hash else { continue };
        hashes.insert(namespace, name, hash);
        if let Some((hash, ends_at)) = fact.previous {
            hashes.insert_replaced(namespace, name, ReplacedKey { hash, ends_at });
        }
    }
    hashes
}
