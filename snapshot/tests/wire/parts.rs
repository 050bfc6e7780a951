//! Tables as the objects of a cluster, with the manifest that names them; and what a reader makes of parts that are
//! missing, of another generation, or damaged.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tollgate_snapshot::wire::{self, Before, Manifest, Part, Read, ReadError, Sealing, ShardDigits, Tables, names};
use tollgate_snapshot::{GatewayName, KeyHash, Snapshot};

use crate::documents::World;

pub const SEALING: Sealing<'_> = Sealing { salt: "salt", token: "operators-token" };

/// Everything that lies in a cluster.
#[derive(Clone)]
pub struct Cluster {
    pub manifest: Manifest,
    pub texts: BTreeMap<String, String>,
}

impl Cluster {
    pub fn of(tables: &Tables) -> Cluster {
        let gateway = GatewayName { namespace: "tollgate".into(), name: "default".into() };
        let Tables { policy, keys, credentials, shard_digits: _ } = tables;
        let all = policy.iter().chain(keys).chain(credentials);
        let texts: BTreeMap<String, String> = all.map(|part| (part.name.clone(), part.content.to_string())).collect();
        assert_eq!(texts.len(), policy.len() + keys.len() + credentials.len(), "no two parts have the same name");
        Cluster { manifest: Manifest::of(tables, 1, "0.1.0", gateway), texts }
    }

    pub fn read(&self) -> Result<Read, ReadError> {
        wire::read(&self.manifest, |name| self.texts.get(name).map(String::as_str), None)
    }

    /// As [`Cluster::read`] after `before`, of which `snapshot` was read, without the texts that are not needed then. Also
    /// how many were not.
    pub fn read_after(&self, before: &Cluster, snapshot: &Snapshot) -> (Result<Read, ReadError>, usize) {
        let before = Before { manifest: &before.manifest, snapshot };
        let unneeded = before.unneeded(&self.manifest);
        let text = |name: &str| {
            assert!(!unneeded.contains(name), "{name} is not needed");
            self.texts.get(name).map(String::as_str)
        };
        (wire::read(&self.manifest, text, Some(before)), unneeded.len())
    }

    /// Changes each line of all parts of the policy and of keys, and the manifest with them.
    pub fn edit_lines(&mut self, edit: impl Fn(&str) -> Vec<String>) {
        for part in self.manifest.policy.iter_mut().chain(&mut self.manifest.keys) {
            let text = self.texts.get_mut(&part.name).unwrap();
            *text = text.lines().flat_map(&edit).map(|line| line + "\n").collect();
            part.bytes = text.len();
            part.sha256 = KeyHash::of(text.as_bytes()).to_string();
        }
    }
}

/// What is different between two writings, by name.
pub fn changed(before: &[Part], after: &[Part]) -> Vec<String> {
    let texts = |parts: &[Part]| -> BTreeMap<String, String> {
        parts.iter().map(|part| (part.name.clone(), part.content.to_string())).collect()
    };
    let (before, after) = (texts(before), texts(after));
    let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    names.filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

pub fn write(snapshot: &Snapshot) -> Tables {
    wire::write(snapshot, &[], SEALING, None, None)
}

/// As [`Cluster::read`], where it must work.
pub fn read_again(tables: &Tables) -> Snapshot {
    let Read { snapshot, left_out, .. } = Cluster::of(tables).read().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(left_out, []);
    snapshot
}

fn small() -> Cluster {
    let world = World::read(
        "
kind: Secret
metadata: {name: s}
stringData: {key: sk-hidden}
---
kind: ModelDeployment
metadata: {name: chat}
spec: {provider: openai, model: gpt-4o, credential: {secretRef: {name: s, key: key}}}
---
kind: VirtualKey
metadata: {name: k}
spec: {models: [chat], budget: {limit: '1', period: {calendar: Day}}, secret: {name: k}}
",
    );
    let compiled = world.compile();
    Cluster::of(&wire::write(&compiled.snapshot, &compiled.credentials, SEALING, None, None))
}

#[test]
fn credentials_and_the_token_travel_in_secrets_only() {
    let cluster = small();
    let read = cluster.read().unwrap();
    let credentials: Vec<(&str, &str)> = read.credentials.iter().map(|one| (&*one.id, &*one.value)).collect();
    assert_eq!((credentials, &*read.token), (vec![("default/s/key", "sk-hidden")], SEALING.token));
    for (name, text) in &cluster.texts {
        let is_secret = *name == names::credentials("default", 0);
        assert_eq!(text.contains("sk-hidden"), is_secret, "{name}");
        assert_eq!(text.contains(SEALING.token), is_secret, "{name}");
    }
    assert!(!cluster.manifest.to_text().contains("sk-hidden"));
    let names: Vec<&str> = cluster.manifest.names().collect();
    assert_eq!(names, ["tollgate-default-policy-0", "tollgate-default-keys", "tollgate-default-credentials-0"]);
}

#[test]
fn the_salt_hides_what_the_hash_would_tell() {
    let sealed = |salt| {
        let sealing = Sealing { salt, token: "t" };
        wire::write(&Snapshot::default(), &[], sealing, None, None).credentials[0].sha256.clone()
    };
    assert_ne!(sealed("one"), sealed("other"));
    assert_eq!(sealed("one"), sealed("one"));
}

#[test]
fn each_part_is_waited_for_by_name() {
    let whole = small();
    for name in whole.manifest.names() {
        let mut cluster = whole.clone();
        let text = cluster.texts.remove(name).unwrap();
        let missing = cluster.read().err().unwrap();
        assert_eq!(missing, ReadError::Missing { part: name.to_owned() });
        cluster.texts.insert(name.to_owned(), text.replacen('k', "K", 1));
        let other = cluster.read().err().unwrap();
        assert_eq!(other, ReadError::OtherContent { part: name.to_owned() });
        assert!(missing.is_incomplete() && other.is_incomplete());
    }
}

#[test]
fn nonsense_is_told_by_the_name_of_its_part_and_without_what_stands_there() {
    let whole = small();
    let nonsense = "sk-hidden and nonsense\n";
    let sha256 = KeyHash::of(nonsense.as_bytes()).to_string();
    for name in whole.manifest.names().map(str::to_owned) {
        let mut cluster = whole.clone();
        let Manifest { policy, keys, credentials, .. } = &mut cluster.manifest;
        for part in policy.iter_mut().chain(keys).filter(|part| part.name == name) {
            (part.sha256, part.bytes) = (sha256.clone(), nonsense.len());
        }
        for part in credentials.iter_mut().filter(|part| part.name == name) {
            part.sha256 = sha256.clone();
        }
        cluster.texts.insert(name.clone(), nonsense.to_owned());
        let error = cluster.read().err().unwrap();
        assert!(matches!(&error, ReadError::Unreadable { part, .. } if *part == name), "{error}");
        assert!(!error.is_incomplete() && !error.to_string().contains("sk-hidden"), "{error}");
    }
}

#[test]
fn what_is_counted_must_be_there() {
    for (from, to) in [
        ("\"policy\":0", "\"policy\":7"),
        ("\"budgets\":[0]", "\"budgets\":[7]"),
        ("{\"policy\":{\"namespace\":\"default\"", "{\"policy\":{\"namespace\":\"gone\""),
        ("[[\"chat\",0]]", "[[\"chat\",7]]"),
        ("{\"budget\":", "{\"sharedBudget\":\"default/Budget/gone\",\"budget\":"),
    ] {
        let mut cluster = small();
        let before = cluster.texts.clone();
        cluster.edit_lines(|line| vec![line.replace(from, to)]);
        assert_ne!(cluster.texts, before, "{from} is there");
        let error = cluster.read().err().unwrap();
        assert!(matches!(error, ReadError::Unreadable { .. }), "{to}: {error}");
    }
}

#[test]
fn nothing_prints_a_credential() {
    let tables = wire::write(&Snapshot::default(), &[], SEALING, None, None);
    assert!(!format!("{tables:?}").contains(SEALING.token));
}

#[test]
fn many_credentials_fill_several_secrets() {
    let credential = |at: usize| tollgate_snapshot::Credential {
        id: format!("default/s{at:05}/key").into(),
        value: "\"".repeat(1_000).into(),
    };
    let all: Vec<_> = (0..3_000).map(credential).collect();
    let tables = wire::write(&Snapshot::default(), &all, SEALING, None, None);
    assert_eq!(tables.credentials.len(), 7);
    assert!(tables.credentials.iter().all(|part| part.content.len() < 900_000));
    let read = Cluster::of(&tables).read().unwrap();
    assert_eq!((read.credentials, &*read.token), (all, SEALING.token));
}

#[test]
fn a_policy_of_any_size_is_cut_into_pieces_that_fit() {
    let mut yaml: String = (0..400)
        .map(|at| format!("kind: ModelDeployment\nmetadata: {{name: m{at:03}}}\nspec: {{provider: mock, model: m, pricing: {{like: openai/gpt-4o}}}}\n---\n"))
        .collect();
    let long = "x".repeat(2_000_000);
    yaml.push_str(&format!("kind: ModelDeployment\nmetadata: {{name: long}}\nspec: {{provider: mock, model: m, pricing: {{free: true}}, parameters: {{defaults: {{note: {long}}}}}}}"));
    let snapshot = World::read(&yaml).compile().snapshot;
    let tables = write(&snapshot);
    assert!(tables.policy.len() > 3 && tables.policy.iter().all(|part| part.content.len() <= 900_000));
    assert_eq!(read_again(&tables), snapshot);
    assert_eq!(tables.keys, [], "no shard without a key");
}

#[test]
fn a_shard_of_any_size_is_cut_into_pieces_that_fit() {
    let key = |name: &str, length: usize| {
        let label = "y".repeat(length);
        format!(
            "---\nkind: VirtualKey\nmetadata: {{name: {name}, labels: {{l: {label}}}}}\nspec: {{secret: {{name: s}}}}\n"
        )
    };
    let yaml: String = (0..4).map(|at| key(&format!("k{at}"), 2_500_000)).collect();
    let snapshot = World::read(&yaml).compile().snapshot;
    let tables = write(&snapshot);
    assert_eq!(tables.shard_digits, ShardDigits::Two);
    assert!(tables.keys.len() >= 12 && tables.keys.iter().all(|part| part.content.len() <= 900_000));
    let read = read_again(&tables);
    assert_eq!(read.keys.len(), 4);
    assert_eq!(crate::round_trip::canonical(&read), crate::round_trip::canonical(&snapshot));
}

/// What may happen to a line.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Gone,
    Twice,
    /// Its numbers are others.
    Numbers(u32),
    /// A character is missing.
    Shorter(usize),
}

/// Whoever uses a snapshot indexes without looking.
fn is_whole(snapshot: &Snapshot) -> bool {
    let Snapshot { gateway: _, deployments, routes, namespaces, teams, budgets, policies, keys } = snapshot;
    let is_in = |index: u32, length: usize| (index as usize) < length;
    let route = |index: &u32| is_in(*index, routes.len());
    routes.iter().all(|one| one.targets.iter().all(|target| is_in(target.deployment, deployments.len())))
        && routes.iter().flat_map(|one| &one.fallbacks).flat_map(|fallback| &fallback.routes).all(route)
        && namespaces.iter().flat_map(|one| one.exact.iter().chain(&one.prefixes)).all(|(_, index)| route(index))
        && policies
            .iter()
            .all(|one| is_in(one.namespace, namespaces.len()) && one.team.is_none_or(|team| is_in(team, teams.len())))
        && keys
            .iter()
            .all(|key| is_in(key.policy, policies.len()) && key.budgets.iter().all(|one| is_in(*one, budgets.len())))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damaged_tables_are_refused_or_whole(
        plan in crate::generated::plan(),
        which in any::<prop::sample::Index>(),
        damage in prop_oneof![
            Just(Damage::Gone),
            Just(Damage::Twice),
            (0..12u32).prop_map(Damage::Numbers),
            any::<usize>().prop_map(Damage::Shorter),
        ],
    ) {
        let mut cluster = Cluster::of(&write(&plan.world().compile().snapshot));
        let all: Vec<String> = cluster.texts.values().flat_map(|text| text.lines()).map(str::to_owned).collect();
        let chosen = &all[which.index(all.len())];
        cluster.edit_lines(|line| match damage {
            _ if line != chosen => vec![line.to_owned()],
            Damage::Gone => vec![],
            Damage::Twice => vec![line.to_owned(), line.to_owned()],
            Damage::Numbers(number) => {
                let is_index = |at: usize| at > 0 && matches!(line.as_bytes()[at - 1], b':' | b'[' | b',');
                let other = |(at, c): (usize, char)| match c.is_ascii_digit() && is_index(at) {
                    true => number.to_string(),
                    false => c.to_string(),
                };
                vec![line.char_indices().map(other).collect()]
            }
            Damage::Shorter(at) => {
                let characters = line.chars().count().max(1);
                vec![line.chars().enumerate().filter(|(number, _)| *number != at % characters).map(|(_, c)| c).collect()]
            }
        });
        match cluster.read() {
            Ok(read) => prop_assert!(is_whole(&read.snapshot)),
            Err(error) => prop_assert!(matches!(error, ReadError::Unreadable { .. }), "{error}"),
        }
    }
}
