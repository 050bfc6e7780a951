//! Shards that are as they were read last: their keys are taken out of that snapshot, which costs a tenth of reading
//! their texts. What they name outside of the shard is looked up anew.

use std::collections::HashSet;

use super::manifest::{Manifest, PartRef};
use super::read::Reader;
use super::shard::{Pieces, by_prefix};
use super::{ReadError, policy};
use crate::model::{Key, Policy, Snapshot};

/// A snapshot, and the manifest that it was read by with nothing left out.
#[derive(Clone, Copy)]
pub struct Before<'a> {
    pub manifest: &'a Manifest,
    pub snapshot: &'a Snapshot,
}

/// A shard that is the same in both manifests: its keys, and its parts in the new one.
pub(super) type Unchanged<'a, 'm> = (&'a [Key], &'m [PartRef]);

/// Of all parts.
pub(super) fn names<'m>(shards: &[Unchanged<'_, 'm>]) -> HashSet<&'m str> {
    shards.iter().flat_map(|(_, parts)| *parts).map(|part| part.name.as_str()).collect()
}

impl<'a> Before<'a> {
    /// Names of the parts with keys whose texts are not needed to read this manifest.
    pub fn unneeded<'m>(&self, manifest: &'m Manifest) -> HashSet<&'m str> {
        names(&self.unchanged(manifest))
    }

    /// In order.
    pub(super) fn unchanged<'m>(&self, manifest: &'m Manifest) -> Vec<Unchanged<'a, 'm>> {
        let Before { manifest: before, snapshot } = self;
        let digits = manifest.shard_digits;
        if before.gateway != manifest.gateway || before.shard_digits != digits {
            return Vec::new();
        }
        let name: fn(&PartRef) -> &str = |part| &part.name;
        let mut old = Pieces::new(&before.gateway.name, digits, &before.keys, name);
        let mut new = Pieces::new(&manifest.gateway.name, digits, &manifest.keys, name);
        by_prefix(&snapshot.keys, digits)
            .filter_map(|(prefix, keys)| {
                let (old, new) = (old.of_shard(prefix), new.of_shard(prefix));
                (!new.is_empty() && old == new).then_some((keys, new))
            })
            .collect()
    }
}

/// What was counted in the snapshot before, by what is counted now.
pub(super) struct Counted<'a> {
    snapshot: &'a Snapshot,
    policies: Vec<Option<u32>>,
    budgets: Vec<Option<u32>>,
}

impl<'a> Counted<'a> {
    pub fn new(snapshot: &'a Snapshot) -> Counted<'a> {
        Counted { snapshot, policies: vec![None; snapshot.policies.len()], budgets: vec![None; snapshot.budgets.len()] }
    }

    /// Takes keys of the snapshot before.
    ///
    /// # Errors
    /// What they name is not there any more. Then their text, which says the same, cannot be read either.
    pub fn take(&mut self, reader: &mut Reader, part: &str, keys: &[Key]) -> Result<(), ReadError> {
        for key in keys {
            let policy = self.policy(reader, part, key.policy)?;
            let budgets = key.budgets.iter().map(|budget| self.budget(reader, part, *budget));
            let budgets = budgets.collect::<Result<Vec<u32>, ReadError>>()?;
            reader.take_key(Key { policy, budgets, ..key.clone() });
        }
        Ok(())
    }

    fn policy(&mut self, reader: &mut Reader, part: &str, before: u32) -> Result<u32, ReadError> {
        let known = &mut self.policies[before as usize];
        if let Some(known) = known {
            return Ok(*known);
        }
        let Snapshot { policies, namespaces, teams, .. } = self.snapshot;
        let policy = &policies[before as usize];
        let namespace = &namespaces[policy.namespace as usize].name;
        let namespace = reader.namespace(part, namespace)?;
        let team = policy.team.map(|team| {
            let team = &teams[team as usize];
            reader.team(part, &format!("{}/{}", team.namespace, team.name))
        });
        let policy = Policy { namespace, team: team.transpose()?, ..policy.clone() };
        Ok(*known.insert(reader.take_policy(policy)))
    }

    fn budget(&mut self, reader: &mut Reader, part: &str, before: u32) -> Result<u32, ReadError> {
        let known = &mut self.budgets[before as usize];
        if let Some(known) = known {
            return Ok(*known);
        }
        let budget = &self.snapshot.budgets[before as usize];
        let at = match budget.of_one_key {
            true => reader.take_budget(budget.clone()),
            false => reader.shared_budget(part, &policy::reference(budget))?,
        };
        Ok(*known.insert(at))
    }
}
