//! What one cluster of the size that is planned for costs: compiling it, writing its tables, reading them, and doing so
//! again after one key has changed. Times and memory of a release build:
//! `cargo run --release -p tollgate-snapshot --example scale [keys [budgets [models [namespaces]]]]`.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::time::Instant;

use serde_json::json;
use tollgate_snapshot::compile::{Compiled, Document, Input, KeyHashes, Meta, Mode, Object, Secret, Secrets, compile};
use tollgate_snapshot::wire::{self, Before, Last, Manifest, Read, Sealing, Tables};
use tollgate_snapshot::{GatewayName, KeyHash, Members, ObjectRef};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 10;
const TEAMS: usize = 10;
const SEALING: Sealing<'_> = Sealing { salt: "salt", token: "token" };

/// What an operator holds of a cluster.
struct Cluster {
    /// As lists of the API server bring them: each kind by namespace and name.
    documents: Vec<Document>,
    secrets: Secrets,
    key_hashes: KeyHashes,
    gateway: GatewayName,
}

impl Cluster {
    fn new(keys: usize, budgets: usize, models: usize, namespaces: usize) -> Result<Cluster, Box<dyn Error>> {
        let gateway = GatewayName { namespace: "ns-0".into(), name: "default".into() };
        let (secrets, key_hashes) = (Secrets::default(), KeyHashes::default());
        let mut cluster = Cluster { documents: Vec::new(), secrets, key_hashes, gateway };
        let spec = json!({"default": true, "allowedNamespaces": {"from": "All"}});
        let meta = Meta::new("ns-0", "default");
        cluster.add(Document::LLMGateway(Box::new(Object { meta, spec: serde_json::from_value(spec)? })));
        for at in 0..models {
            let (namespace, name) = (format!("ns-{}", at % namespaces), format!("model-{at}"));
            let data = BTreeMap::from([("key".to_owned(), format!("sk-{at:040}").into())]);
            cluster.secrets.insert(Secret { meta: Meta::new(&namespace, &name), data });
            let spec = json!({
                "provider": "openai",
                "model": "gpt-4o",
                "credential": {"secretRef": {"name": name, "key": "key"}},
                "limits": {"requestsPerMinute": 600},
            });
            let meta = Meta::new(namespace, name);
            cluster.add(Document::ModelDeployment(Box::new(Object { meta, spec: serde_json::from_value(spec)? })));
        }
        for at in 0..TEAMS * namespaces {
            let meta = Meta::new(format!("ns-{}", at % namespaces), format!("team-{at}"));
            let spec = json!({"models": ["model-*"], "budget": {"limit": "2000", "period": {"calendar": "Month"}}});
            cluster.add(Document::Team(Box::new(Object { meta, spec: serde_json::from_value(spec)? })));
        }
        for at in 0..budgets {
            let meta = Meta::new(format!("ns-{}", at % namespaces), format!("budget-{at}"));
            let spec = json!({
                "limit": "500",
                "period": {"calendar": "Month"},
                "appliesTo": {"keySelector": {"matchLabels": {"project": format!("project-{at}")}}},
            });
            cluster.add(Document::Budget(Box::new(Object { meta, spec: serde_json::from_value(spec)? })));
        }
        let mut names: Vec<(String, usize)> =
            (0..keys).map(|at| (format!("ns-{}/key-{at}", at % namespaces), at)).collect();
        names.sort_unstable();
        for (_, at) in names {
            cluster.add_key(at, budgets, models, namespaces)?;
        }
        Ok(cluster)
    }

    /// Half of the keys have a budget of their own; each is in a team, in a project with a budget, and has a user.
    fn add_key(&mut self, at: usize, budgets: usize, models: usize, namespaces: usize) -> Result<(), Box<dyn Error>> {
        let here = at % namespaces;
        let nearby = |count: usize| here + namespaces * (at / namespaces % (count / namespaces).max(1));
        let mut spec = json!({
            "teamRef": {"name": format!("team-{}", nearby(TEAMS * namespaces))},
            "user": format!("user-{}@example.com", at % 20_000),
            "models": [format!("model-{}", nearby(models))],
            "limits": {"requestsPerMinute": 60},
            "secret": {"name": format!("key-{at}")},
        });
        if at.is_multiple_of(2) {
            spec["budget"] = json!({"limit": "25", "period": {"calendar": "Month"}});
        }
        let mut meta = Meta::new(format!("ns-{here}"), format!("key-{at}"));
        meta.labels.insert("project".to_owned(), format!("project-{}", nearby(budgets)));
        self.key_hashes.insert(&meta.namespace, &meta.name, KeyHash::of(meta.name.as_bytes()));
        self.add(Document::VirtualKey(Box::new(Object { meta, spec: serde_json::from_value(spec)? })));
        Ok(())
    }

    fn add(&mut self, document: Document) {
        self.documents.push(document);
    }

    fn compile(&self) -> Compiled {
        let mut input = Input::new(&self.documents, &self.secrets, &self.key_hashes, Mode::Cluster, 0);
        input.gateway = Some(&self.gateway);
        compile(input)
    }
}

/// The best of some rounds, in milliseconds, and the last result.
fn measured<T>(what: &str, mut work: impl FnMut() -> T) -> T {
    let mut best = f64::MAX;
    let mut result = None;
    for _ in 0..ROUNDS {
        // The one before is gone first, as it would be in use.
        drop(result.take());
        let start = Instant::now();
        result = Some(work());
        best = best.min(start.elapsed().as_secs_f64() * 1e3);
    }
    println!("{what:<44} {best:>8.1} ms");
    result.expect("there is more than one round")
}

/// Resident memory, MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|number| number.trim().parse().ok());
    kib.unwrap_or(0.0) / 1024.0
}

fn main() -> Result<(), Box<dyn Error>> {
    let number = |at: usize, usual: usize| std::env::args().nth(at).map_or(Ok(usual), |text| text.parse());
    let (keys, budgets, models, namespaces) =
        (number(1, 100_000)?, number(2, 5_000)?, number(3, 500)?, number(4, 100)?);
    let start = resident();
    let mut cluster = Cluster::new(keys, budgets, models, namespaces)?;
    println!("{keys} keys, {budgets} budgets, {models} models, {namespaces} namespaces");
    println!("{:<44} {:>8.1} MiB", "documents and hashes", resident() - start);

    let before = resident();
    let Compiled { snapshot, credentials, webhooks: _, findings } = measured("compile", || cluster.compile());
    let told = findings.len();
    println!(
        "  {} keys, {} policies, {} budgets, {} routes, {told} findings",
        snapshot.keys.len(),
        snapshot.policies.len(),
        snapshot.budgets.len(),
        snapshot.routes.len()
    );
    println!("{:<44} {:>8.1} MiB", "snapshot, findings and what is left over", resident() - before);
    measured("members", || {
        Members::of(&snapshot).contains(&ObjectRef {
            kind: "VirtualKey",
            namespace: "ns-0".into(),
            name: "key-0".into(),
        })
    });

    let tables = measured("write", || wire::write(&snapshot, &credentials, SEALING, None, None));
    let manifest = Manifest::of(&tables, 1, "0.1.0", cluster.gateway.clone());
    let Tables { policy, keys: shards, credentials: secrets, .. } = &tables;
    let largest = |parts: &[wire::Part]| parts.iter().map(|part| part.content.len()).max().unwrap_or(0) / 1_000;
    let total = |parts: &[wire::Part]| parts.iter().map(|part| part.content.len()).sum::<usize>() as f64 / 1e6;
    println!("  policy: {} parts, {:.1} MB, at most {} kB", policy.len(), total(policy), largest(policy));
    println!("  keys: {} parts, {:.1} MB, at most {} kB", shards.len(), total(shards), largest(shards));
    println!("  credentials: {} parts; manifest: {} kB", secrets.len(), manifest.to_text().len() / 1_000);

    let texts: HashMap<&str, &str> =
        policy.iter().chain(shards).chain(secrets).map(|part| (&*part.name, &*part.content)).collect();
    let before = resident();
    let Read { snapshot: read, .. } = measured("read", || {
        wire::read(&manifest, |name| texts.get(name).copied(), None).expect("it was written just now")
    });
    println!("{:<44} {:>8.1} MiB", "snapshot that was read", resident() - before);
    assert_eq!(read.keys.len(), snapshot.keys.len());
    let is_edited = |document: &&mut Document| document.kind() == "VirtualKey" && document.meta().name == "key-0";
    if let Some(Document::VirtualKey(object)) = cluster.documents.iter_mut().find(is_edited) {
        object.spec.disabled = true;
    }
    let last = Last { snapshot: &snapshot, tables: &tables };
    let start = Instant::now();
    let compiled = cluster.compile();
    let after = wire::write(&compiled.snapshot, &compiled.credentials, SEALING, Some(tables.shard_digits), Some(last));
    println!("{:<44} {:>8.1} ms", "one key edited, until its tables are there", start.elapsed().as_secs_f64() * 1e3);
    measured("write, where one key was edited", || {
        wire::write(&compiled.snapshot, &compiled.credentials, SEALING, Some(tables.shard_digits), Some(last))
    });
    let before = Before { manifest: &manifest, snapshot: &read };
    let manifest = Manifest::of(&after, 2, "0.1.0", cluster.gateway.clone());
    let unneeded = before.unneeded(&manifest);
    let all = after.policy.iter().chain(&after.keys).chain(&after.credentials);
    let texts: HashMap<&str, &str> =
        all.filter(|part| !unneeded.contains(&*part.name)).map(|part| (&*part.name, &*part.content)).collect();
    measured("read, where one key was edited", || {
        wire::read(&manifest, |name| texts.get(name).copied(), Some(before)).expect("it was written just now")
    });
    let parts = |tables: &Tables| -> Vec<wire::Part> { [&*tables.policy, &*tables.keys].concat() };
    let changed = parts(&after).iter().zip(&parts(&tables)).filter(|(after, before)| after != before).count();
    println!("  parts that changed: {changed}");
    Ok(())
}
