//! How keys are spread over shards.

use tollgate_snapshot::wire::{self, ShardDigits, Tables};
use tollgate_snapshot::{KeyHash, Snapshot};

use crate::documents::World;
use crate::parts::{SEALING, read_again};

/// A snapshot of so many keys, made of one that was compiled.
fn keys(count: usize) -> Snapshot {
    let yaml = "
kind: VirtualKey
metadata: {name: k}
spec: {budget: {limit: '1', period: {lifetime: {}}}, secret: {name: s}}
";
    let one = World::read(yaml).compile().snapshot;
    let key = &one.keys[0];
    let all = (0..count).map(|at| {
        let name = format!("key-{at:06}");
        tollgate_snapshot::model::Key { hash: KeyHash::of(name.as_bytes()), name: name.into(), ..key.clone() }
    });
    let mut keys: Vec<_> = all.collect();
    keys.sort_by_key(|key| key.hash);
    let policies = if keys.is_empty() { Vec::new() } else { one.policies.clone() };
    Snapshot { keys, policies, ..one }
}

fn write(snapshot: &Snapshot, before: Option<ShardDigits>) -> Tables {
    wire::write(snapshot, &[], SEALING, before, None)
}

#[test]
fn shards_are_as_many_as_the_number_of_keys_asks_for() {
    for (count, digits, shards) in [
        (0, ShardDigits::None, 0),
        (1_000, ShardDigits::None, 1),
        (1_001, ShardDigits::One, 16),
        (16_001, ShardDigits::Two, 256),
    ] {
        let snapshot = keys(count);
        let tables = write(&snapshot, None);
        assert_eq!((tables.shard_digits, tables.keys.len()), (digits, shards), "{count}");
        let read = read_again(&tables);
        assert_eq!((read.keys, read.policies), (snapshot.keys, snapshot.policies), "{count}");
    }
}

#[test]
fn one_key_more_or_less_never_moves_all_keys_to_and_fro() {
    let border = write(&keys(1_000), None).shard_digits;
    let above = write(&keys(1_001), Some(border)).shard_digits;
    assert_eq!((border, above), (ShardDigits::None, ShardDigits::One));
    for count in [1_001, 1_000, 999, 501] {
        assert_eq!(write(&keys(count), Some(above)).shard_digits, above, "{count}");
    }
    let below = write(&keys(500), Some(above)).shard_digits;
    assert_eq!(below, ShardDigits::None);
    for count in [500, 501, 999, 1_000] {
        assert_eq!(write(&keys(count), Some(below)).shard_digits, below, "{count}");
    }
    assert_eq!(write(&keys(3), Some(ShardDigits::Two)).shard_digits, ShardDigits::None, "all at once");
}

#[test]
fn names_of_shards_say_which_hashes_are_in_them() {
    let tables = write(&keys(20_000), None);
    for part in &tables.keys {
        let prefix = part.name.strip_prefix("tollgate-default-keys-").unwrap();
        let hashes = part.content.lines().filter_map(|line| line.strip_prefix("{\"key\":{\"hash\":\""));
        assert!(hashes.clone().count() > 30 && hashes.clone().all(|hash| hash.starts_with(prefix)), "{}", part.name);
    }
    let total: usize = tables.keys.iter().map(|part| part.content.len()).sum();
    println!("{} bytes for each key", total / 20_000);
}

#[test]
fn an_empty_snapshot_has_a_policy_and_the_token() {
    let tables = write(&Snapshot::default(), None);
    assert_eq!((tables.policy.len(), tables.keys.len(), tables.credentials.len()), (1, 0, 1));
    assert_eq!(read_again(&tables), Snapshot::default());
}
