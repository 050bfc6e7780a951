//! What is written is read again: for all that documents can compile to, and for changes of one key.

use std::sync::Arc;

use proptest::prelude::*;
use tollgate_snapshot::wire::{self, Last, ShardDigits, Tables};
use tollgate_snapshot::{Members, ObjectRef, Snapshot};

use crate::generated::{Key, Plan, plan};
use crate::parts::{Cluster, SEALING, changed, read_again, write};

/// The same snapshot with policies and budgets in an order that does not depend on how it came about. All else is read
/// in the order in which it was written.
pub fn canonical(snapshot: &Snapshot) -> Snapshot {
    fn order<T: std::fmt::Debug + Clone>(all: &[T]) -> (Vec<T>, Vec<u32>) {
        let mut sorted: Vec<(String, usize)> =
            all.iter().enumerate().map(|(at, one)| (format!("{one:?}"), at)).collect();
        sorted.sort();
        let mut positions = vec![0; all.len()];
        for (position, (_, at)) in (0u32..).zip(&sorted) {
            positions[*at] = position;
        }
        (sorted.iter().map(|(_, at)| all[*at].clone()).collect(), positions)
    }
    let (policies, policy_at) = order(&snapshot.policies);
    let (budgets, budget_at) = order(&snapshot.budgets);
    let mut canonical = Snapshot { policies, budgets, ..snapshot.clone() };
    for key in &mut canonical.keys {
        key.policy = policy_at[key.policy as usize];
        key.budgets.iter_mut().for_each(|budget| *budget = budget_at[*budget as usize]);
    }
    canonical
}

fn write_after(last: &Snapshot, tables: &Tables, snapshot: &Snapshot, before: Option<ShardDigits>) -> Tables {
    wire::write(snapshot, &[], SEALING, before, Some(Last { snapshot: last, tables }))
}

/// How many shards were not taken from the tables before.
fn new_shards(before: &Tables, after: &Tables) -> usize {
    let is_taken = |content| before.keys.iter().any(|part| Arc::ptr_eq(&part.content, content));
    after.keys.iter().filter(|part| !is_taken(&part.content)).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_again(plan in plan()) {
        let snapshot = plan.world().compile().snapshot;
        for before in [None, Some(ShardDigits::None), Some(ShardDigits::One), Some(ShardDigits::Two)] {
            let tables = wire::write(&snapshot, &[], SEALING, before, None);
            let read = read_again(&tables);
            prop_assert_eq!(canonical(&read), canonical(&snapshot));
            prop_assert_eq!(&wire::write(&snapshot, &[], SEALING, before, None), &tables, "the same texts each time");
            prop_assert_eq!(&wire::write(&read, &[], SEALING, Some(tables.shard_digits), None), &tables, "nothing is left to write");
        }
    }

    #[test]
    fn what_was_written_last_changes_no_text(plan in plan(), next in plan()) {
        let (last, snapshot) = (plan.world().compile().snapshot, next.world().compile().snapshot);
        for before in [None, Some(ShardDigits::One), Some(ShardDigits::Two)] {
            let tables = wire::write(&last, &[], SEALING, before, None);
            for snapshot in [&last, &snapshot] {
                let anew = wire::write(snapshot, &[], SEALING, before, None);
                prop_assert_eq!(write_after(&last, &tables, snapshot, before), anew);
            }
            let same = write_after(&last, &tables, &last, before);
            prop_assert_eq!(new_shards(&tables, &same), 0);
        }
    }

    #[test]
    fn what_was_read_last_changes_nothing_that_is_read(plan in plan(), next in plan()) {
        let (last, snapshot) = (plan.world().compile().snapshot, next.world().compile().snapshot);
        for digits in [None, Some(ShardDigits::One), Some(ShardDigits::Two)] {
            let tables = wire::write(&last, &[], SEALING, digits, None);
            let (last, read) = (Cluster::of(&tables), read_again(&tables));
            let (same, unneeded) = last.read_after(&last, &read);
            prop_assert_eq!(canonical(&same.unwrap().snapshot), canonical(&read));
            prop_assert_eq!(unneeded, tables.keys.len(), "no shard changed");
            let next = Cluster::of(&wire::write(&snapshot, &[], SEALING, digits, None));
            let (again, _) = next.read_after(&last, &read);
            prop_assert_eq!(canonical(&again.unwrap().snapshot), canonical(&snapshot));
        }
    }

    #[test]
    fn an_object_is_a_member_if_it_is_in_use(plan in plan()) {
        let world = plan.world();
        let compiled = world.compile();
        let members = Members::of(&compiled.snapshot);
        for document in &world.documents {
            let object = document.object_ref();
            let told = compiled.findings.iter().any(|finding| {
                finding.object == object && finding.severity == tollgate_snapshot::Severity::Error
            });
            if matches!(object.kind, "VirtualKey" | "ModelDeployment" | "Team") {
                prop_assert!(members.contains(&object) || told, "{object}");
            }
            let gone = ObjectRef { name: "gone".to_owned(), ..object };
            prop_assert!(!members.contains(&gone));
        }
    }
}

proptest! {
    // Each compiles more than a thousand keys several times.
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_change_of_one_key_changes_one_shard(plan in plan(), which in any::<prop::sample::Index>()) {
        // Enough keys for 16 shards, and one more like one that is there: its namespace, team, models and user are known.
        let plan = Plan { bulk: 1_200, ..plan };
        let like = match plan.keys.is_empty() {
            true => Key::default(),
            // Those that it replaced have hashes of their own, in other shards.
            false => Key { replaced: 0, ..plan.keys[which.index(plan.keys.len())].clone() },
        };
        let with = |key: Option<Key>| {
            let snapshot = Plan { one_more: key, ..plan.clone() }.world().compile().snapshot;
            (write(&snapshot), snapshot)
        };
        let (without, snapshot) = with(None);
        prop_assert_eq!(without.shard_digits, ShardDigits::One);
        prop_assert_eq!(without.keys.len(), 16);
        prop_assert_eq!(canonical(&read_again(&without)), canonical(&snapshot));
        let (added, more) = with(Some(like.clone()));
        let is_served = more.keys.len() > snapshot.keys.len();
        prop_assert_eq!(changed(&without.policy, &added.policy), Vec::<String>::new());
        prop_assert_eq!(changed(&without.keys, &added.keys).len(), usize::from(is_served));
        for edited in [
            Key { disabled: !like.disabled, ..like.clone() },
            Key { expires: !like.expires, ..like.clone() },
            Key { rate: Some(like.rate.unwrap_or(0) + 1), ..like.clone() },
            Key { own_budget: Some(like.own_budget.unwrap_or(0) + 1), budget_refs: Vec::new(), ..like.clone() },
        ] {
            let (edited, snapshot) = with(Some(edited));
            if snapshot.keys.len() != more.keys.len() {
                // With it its namespace may be new, and a budget for each namespace has one more.
                continue;
            }
            prop_assert_eq!(changed(&added.policy, &edited.policy), Vec::<String>::new());
            let after = write_after(&more, &added, &snapshot, None);
            prop_assert_eq!(&after, &edited);
            prop_assert!(new_shards(&added, &after) <= 1, "shards that did not change are not written again");
            let (read, unneeded) = Cluster::of(&edited).read_after(&Cluster::of(&added), &read_again(&added));
            prop_assert_eq!(canonical(&read.unwrap().snapshot), canonical(&snapshot));
            prop_assert!(unneeded >= 15, "shards that did not change are not read again");
            let changed = changed(&added.keys, &edited.keys);
            prop_assert!(changed.len() <= 1 && (!is_served || changed.len() == 1), "{changed:?}");
        }
    }
}
