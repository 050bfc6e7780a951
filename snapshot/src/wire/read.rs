//! A snapshot out of the texts that a manifest names.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::again::{self, Before, Counted};
use super::credentials::Sealed;
use super::manifest::{Manifest, PartRef, SecretRef};
use super::shard::{KeyRow, ModelsRow, PolicyRow, Text};
use super::text::lines;
use super::{FORMAT, policy, shard};
use crate::model::{
    Budget, BudgetRules, Credential, Deployment, Key, KnownRules, ModelSet, Name, Period, Policy, Snapshot,
};

/// What was read.
#[derive(Clone)]
pub struct Read {
    /// As it was written, but for the order of policies and budgets.
    pub snapshot: Snapshot,
    /// Sorted by id.
    pub credentials: Vec<Credential>,
    /// What the operator shows when it asks for something that only it may know; empty: nobody may.
    pub token: Arc<str>,
    /// What a newer writer wrote and this reader does not understand; all else is in use.
    pub left_out: Vec<LeftOut>,
}

/// A record that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Kind and name of the object, as in `ModelDeployment team-a/gpt-4o`.
    pub object: String,
    pub error: String,
}

/// Why there is no snapshot. The last good one stays in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It may come: parts arrive one by one.
    #[error("`{part}` is missing")]
    Missing { part: String },
    /// It may come: the part is of another generation than the manifest.
    #[error("`{part}` is not what the manifest names: its sha256 differs")]
    OtherContent { part: String },
    #[error("`{part}` cannot be read: {error}")]
    Unreadable { part: String, error: String },
    #[error("`{part}` has format {format}, which is newer than this version understands")]
    NewerFormat { part: String, format: u32 },
}

impl ReadError {
    /// Whether parts that are still under way may cure it.
    pub fn is_incomplete(&self) -> bool {
        match self {
            ReadError::Missing { .. } | ReadError::OtherContent { .. } => true,
            ReadError::Unreadable { .. } | ReadError::NewerFormat { .. } => false,
        }
    }
}

/// The snapshot that the manifest names. `text` gives what the object of that name holds, if it is there. `before`: its
/// shards that are the same are taken from there; the texts of [`Before::unneeded`] are not asked for then.
///
/// # Errors
/// A part is missing, is not the one that the manifest names, or cannot be understood.
pub fn read<'t>(
    manifest: &Manifest,
    text: impl Fn(&str) -> Option<&'t str>,
    before: Option<Before<'_>>,
) -> Result<Read, ReadError> {
    let Manifest { format, generation: _, written_by: _, gateway, policy, keys, credentials, shard_digits: _ } =
        manifest;
    if *format > FORMAT {
        let part = super::names::manifest(&gateway.name);
        return Err(ReadError::NewerFormat { part, format: *format });
    }
    let get = |name: &str| text(name).ok_or_else(|| ReadError::Missing { part: name.to_owned() });
    // All are looked at before the first is read: what is still under way is found out at little cost.
    let policy = policy.iter().map(|part| Ok((part, get(&part.name)?))).collect::<Result<Vec<_>, ReadError>>()?;
    let unchanged = before.map(|before| before.unchanged(manifest)).unwrap_or_default();
    let unneeded = again::names(&unchanged);
    let keys = keys.iter().filter(|part| !unneeded.contains(&*part.name));
    let keys = keys.map(|part| Ok((part, get(&part.name)?))).collect::<Result<Vec<_>, ReadError>>()?;
    let secrets = credentials.iter().map(|part| Ok((part, get(&part.name)?))).collect::<Result<Vec<_>, ReadError>>()?;
    for (PartRef { name, sha256, bytes }, text) in policy.iter().chain(&keys) {
        if text.len() != *bytes || super::text::sha256(text) != *sha256 {
            return Err(ReadError::OtherContent { part: name.clone() });
        }
    }
    for (SecretRef { name, sha256 }, text) in &secrets {
        if super::text::sha256(text) != *sha256 {
            return Err(ReadError::OtherContent { part: name.clone() });
        }
    }

    let mut reader = Reader::default();
    lines(policy.iter().map(|(part, text)| (part.name.as_str(), *text)), |part, line| reader.policy_line(part, line))?;
    reader.link(policy.last().map_or("", |(part, _)| &part.name))?;
    lines(keys.iter().map(|(part, text)| (part.name.as_str(), *text)), |part, line| reader.key_line(part, line))?;
    if let Some(before) = before {
        let mut counted = Counted::new(before.snapshot);
        for (keys, parts) in unchanged {
            counted.take(&mut reader, &parts[0].name, keys)?;
        }
    }
    let (snapshot, left_out) = reader.finish();

    let mut token = String::new();
    let mut values = BTreeMap::new();
    for (SecretRef { name, .. }, text) in secrets {
        // The error's own text may repeat what stands there.
        let error = || unreadable(name, "it is not of the form of credentials");
        let sealed: Sealed = serde_json::from_str(text).map_err(|_| error())?;
        if token.is_empty() {
            token = sealed.token;
        }
        values.extend(sealed.credentials);
    }
    let credentials = values.into_iter().map(|(id, value)| Credential { id, value }).collect();
    Ok(Read { snapshot, credentials, token: token.into(), left_out })
}

pub(super) fn unreadable(part: &str, error: impl ToString) -> ReadError {
    ReadError::Unreadable { part: part.to_owned(), error: error.to_string() }
}

/// What was read so far, and what is still looked up by name or number.
#[derive(Default)]
pub(super) struct Reader {
    snapshot: Snapshot,
    left_out: Vec<LeftOut>,
    /// Deployments by the number that routes count; `None`: left out.
    deployments: Vec<Option<u32>>,
    namespaces: HashMap<Name, u32, RandomState>,
    /// By `namespace/name`.
    teams: HashMap<Name, u32, RandomState>,
    /// By reference.
    budgets: HashMap<Name, u32, RandomState>,
    rules: KnownRules,
    policies: HashMap<Policy, u32, RandomState>,
    /// Of the shard that is being read, by number.
    policies_here: Vec<u32>,
    budgets_here: Vec<u32>,
    /// Texts that many records have, each once.
    texts: HashSet<Name, RandomState>,
}

impl Reader {
    fn policy_line(&mut self, part: &str, line: &str) -> Result<(), ReadError> {
        let policy::Line { gateway, deployment, route, namespace, team, budget } =
            serde_json::from_str(line).map_err(|error| unreadable(part, error))?;
        if let Some(gateway) = gateway {
            self.snapshot.gateway = gateway;
        }
        if let Some(raw) = deployment {
            self.deployment(part, raw)?;
        }
        self.snapshot.routes.extend(route);
        self.snapshot.namespaces.extend(namespace);
        self.snapshot.teams.extend(team);
        if let Some(raw) = budget {
            let budget = match serde_json::from_str(raw.get()) {
                Ok(budget) => budget,
                Err(error) => self.denied(part, serde_json::from_str(raw.get()), &error)?,
            };
            self.take_budget(budget);
        }
        Ok(())
    }

    /// A dialect or a unit of prices that only newer versions know: nothing can be called, or priced, without it.
    fn deployment(&mut self, part: &str, raw: &RawValue) -> Result<(), ReadError> {
        #[derive(Deserialize)]
        struct Named {
            namespace: String,
            name: String,
        }
        let number = match serde_json::from_str::<Deployment>(raw.get()) {
            Ok(deployment) => {
                self.snapshot.deployments.push(deployment);
                Some(index(self.snapshot.deployments.len() - 1))
            }
            Err(error) => {
                let Named { namespace, name } =
                    serde_json::from_str(raw.get()).map_err(|_| unreadable(part, &error))?;
                let object = format!("ModelDeployment {namespace}/{name}");
                self.left_out.push(LeftOut { object, error: error.to_string() });
                None
            }
        };
        self.deployments.push(number);
        Ok(())
    }

    /// A budget whose unit or period only newer versions know: where it is Hard, nothing may be spent.
    fn denied(
        &mut self,
        part: &str,
        understood: serde_json::Result<Understood>,
        error: &serde_json::Error,
    ) -> Result<Budget, ReadError> {
        let Understood { id, hard, models, providers, tags, end_users, of_one_key } =
            understood.map_err(|_| unreadable(part, error))?;
        self.left_out.push(LeftOut { object: format!("Budget {id}"), error: error.to_string() });
        let denied = BudgetRules {
            hard,
            period: Period::Lifetime,
            models,
            providers,
            tags,
            end_users,
            denied: true,
            ..BudgetRules::default()
        };
        Ok(Budget { id, limit: 0, of_one_key, rules: denied.into() })
    }

    /// Its index; one that is known already is not taken again.
    pub fn take_budget(&mut self, mut budget: Budget) -> u32 {
        let next = index(self.snapshot.budgets.len());
        let at = *self.budgets.entry(policy::reference(&budget)).or_insert(next);
        if at == next {
            self.rules.share(&mut budget);
            self.snapshot.budgets.push(budget);
        }
        at
    }

    /// The policy is whole: puts indices in place of what was counted, and makes ready what keys are looked up in.
    fn link(&mut self, last_part: &str) -> Result<(), ReadError> {
        let Snapshot { routes, namespaces, teams, .. } = &mut self.snapshot;
        let count = routes.len();
        let is_route = |index: &u32| (*index as usize) < count;
        for route in routes.iter_mut() {
            let deployment = |number: u32| self.deployments.get(number as usize).copied().flatten();
            route.targets.retain_mut(|target| match deployment(target.deployment) {
                Some(index) => {
                    target.deployment = index;
                    true
                }
                None => false,
            });
            if !route.fallbacks.iter().flat_map(|fallback| &fallback.routes).all(is_route) {
                return Err(unreadable(last_part, format!("a fallback of `{}` is not there", route.name)));
            }
        }
        for (at, namespace) in namespaces.iter().enumerate() {
            if !namespace.exact.iter().chain(&namespace.prefixes).all(|(_, index)| is_route(index)) {
                return Err(unreadable(last_part, format!("a route of namespace `{}` is not there", namespace.name)));
            }
            self.namespaces.insert(namespace.name.clone(), index(at));
        }
        let count = teams.len();
        if let Some(team) = teams.iter().find(|team| team.above.iter().any(|above| *above as usize >= count)) {
            return Err(unreadable(last_part, format!("a team above `{}` is not there", team.name)));
        }
        for (at, team) in teams.iter().enumerate() {
            self.teams.insert(format!("{}/{}", team.namespace, team.name).into(), index(at));
        }
        Ok(())
    }

    fn key_line(&mut self, part: &str, line: &str) -> Result<(), ReadError> {
        match serde_json::from_str::<shard::Line<'_, Budget>>(line) {
            Ok(record) => self.key_record(part, record),
            Err(error) => {
                let record: shard::Line<'_, Understood> =
                    serde_json::from_str(line).map_err(|_| unreadable(part, &error))?;
                let shard::Line { shard, policy, shared_budget, budget, key } = record;
                let budget = match budget {
                    Some(budget) => Some(self.denied(part, Ok(budget), &error)?),
                    None => return Err(unreadable(part, error)),
                };
                self.key_record(part, shard::Line { shard, policy, shared_budget, budget, key })
            }
        }
    }

    fn key_record(&mut self, part: &str, record: shard::Line<'_, Budget>) -> Result<(), ReadError> {
        let shard::Line { shard, policy, shared_budget, budget, key } = record;
        if shard.is_some() {
            self.policies_here.clear();
            self.budgets_here.clear();
        }
        if let Some(row) = policy {
            let policy = self.policy(part, row)?;
            let at = self.take_policy(policy);
            self.policies_here.push(at);
        }
        if let Some(Text(reference)) = shared_budget {
            let at = self.shared_budget(part, &reference)?;
            self.budgets_here.push(at);
        }
        if let Some(budget) = budget {
            let at = self.take_budget(budget);
            self.budgets_here.push(at);
        }
        if let Some(row) = key {
            let key = self.key(part, row)?;
            self.take_key(key);
        }
        Ok(())
    }

    pub fn take_key(&mut self, key: Key) {
        self.snapshot.keys.push(key);
    }

    /// Its index; one that is known already is not taken again.
    pub fn take_policy(&mut self, policy: Policy) -> u32 {
        let next = index(self.policies.len());
        *self.policies.entry(policy).or_insert(next)
    }

    pub fn shared_budget(&self, part: &str, reference: &str) -> Result<u32, ReadError> {
        look_up(&self.budgets, part, "budget", reference)
    }

    pub fn namespace(&self, part: &str, name: &str) -> Result<u32, ReadError> {
        look_up(&self.namespaces, part, "namespace", name)
    }

    /// `name`: `namespace/name`.
    pub fn team(&self, part: &str, name: &str) -> Result<u32, ReadError> {
        look_up(&self.teams, part, "team", name)
    }

    fn policy(&mut self, part: &str, row: PolicyRow<'_>) -> Result<Policy, ReadError> {
        let PolicyRow {
            namespace,
            team,
            models,
            aliases,
            limits,
            per_model,
            rate_limits,
            priority,
            tags,
            labels,
            max_output_tokens,
        } = row;
        let Text(namespace) = namespace;
        let team = team.map(|Text(team)| self.team(part, &team)).transpose()?;
        let namespace = self.namespace(part, &namespace)?;
        let mut name = |Text(text): Text<'_>| self.text(&text);
        Ok(Policy {
            namespace,
            team,
            models: models.map(|ModelsRow { exact, prefixes }| ModelSet {
                exact: exact.into_iter().map(&mut name).collect(),
                prefixes: prefixes.into_iter().map(&mut name).collect(),
            }),
            aliases: aliases.into_iter().map(|(asked, meant)| (name(asked), name(meant))).collect(),
            limits,
            per_model: per_model.into_iter().map(|(model, limits)| (name(model), limits)).collect(),
            rate_limits: rate_limits.into_iter().map(&mut name).collect(),
            priority: priority.map(&mut name),
            tags: tags.into_iter().map(&mut name).collect(),
            labels: labels.into_iter().map(|(label, value)| (name(label), name(value))).collect(),
            max_output_tokens,
        })
    }

    fn key(&mut self, part: &str, row: KeyRow<'_>) -> Result<Key, ReadError> {
        let KeyRow { hash, name, policy, user, budgets, disabled, expires_at } = row;
        let Text(name) = name;
        let missing = |what: &str| unreadable(part, format!("a {what} of key `{name}` is not there"));
        let policy = *self.policies_here.get(policy as usize).ok_or_else(|| missing("policy"))?;
        let budget = |number: &u32| self.budgets_here.get(*number as usize).copied().ok_or_else(|| missing("budget"));
        let budgets = budgets.iter().map(budget).collect::<Result<Vec<u32>, ReadError>>()?;
        let user = user.map(|Text(user)| self.text(&user));
        Ok(Key { hash, name: (*name).into(), policy, user, budgets, disabled, expires_at })
    }

    fn text(&mut self, text: &str) -> Name {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let name = Name::from(text);
        self.texts.insert(name.clone());
        name
    }

    fn finish(self) -> (Snapshot, Vec<LeftOut>) {
        let mut policies: Vec<(Policy, u32)> = self.policies.into_iter().collect();
        policies.sort_unstable_by_key(|(_, index)| *index);
        let mut snapshot = self.snapshot;
        snapshot.policies = policies.into_iter().map(|(policy, _)| policy).collect();
        snapshot.keys.sort_by_key(|key| key.hash);
        snapshot.keys.shrink_to_fit();
        snapshot.budgets.shrink_to_fit();
        (snapshot, self.left_out)
    }
}

fn look_up(all: &HashMap<Name, u32, RandomState>, part: &str, kind: &str, name: &str) -> Result<u32, ReadError> {
    let found = all.get(name).copied();
    found.ok_or_else(|| unreadable(part, format!("{kind} `{name}` is not there")))
}

/// What can be understood of a budget whose unit or period cannot.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Understood {
    id: Name,
    hard: bool,
    models: Option<ModelSet>,
    providers: Vec<Name>,
    tags: Vec<Name>,
    end_users: Vec<Name>,
    of_one_key: bool,
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("there are fewer than 2^32 of a kind")
}
