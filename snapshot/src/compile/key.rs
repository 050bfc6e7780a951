//! `VirtualKey`: who may call what, and which budgets bind them. Ten thousand keys are usual, so a key costs a few small
//! allocations; what keys have in common is one policy.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use foldhash::fast::RandomState;
use tollgate_crds::{BudgetTerms, KeyLimits, KeyPolicy, KeySecret, LocalRef, ModelLimits, Rotation, VirtualKeySpec};

use super::budget::{Budgets, Holder, MOST_OF_A_CALL, TooMany};
use super::credential;
use super::gateway::{Gateway, SHORTEST_KEY};
use super::input::{Input, Mode, Object, ReplacedKey};
use super::names::Names;
use super::objects::{Everything, Grants, Objects, age};
use super::previous::Previous;
use super::rate_limit;
use super::report::{Report, Subject};
use super::route::{self, Routes};
use super::team::Team;
use super::values::{Reader, kept_limits};
use crate::finding::Reason;
use crate::model::{Key, KeyHash, Limits, ModelSet, Name, Policy};

/// Keys and their policies.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// Sorted by hash.
    pub keys: Vec<Key>,
    pub policies: Vec<Policy>,
}

/// A key that this gateway serves.
#[derive(Debug)]
pub(super) struct Served<'a> {
    pub object: &'a Object<VirtualKeySpec>,
    hash: KeyHash,
    /// Those that the key in use replaced.
    replaced: Replaced<'a>,
}

type Replaced<'a> = Cow<'a, [ReplacedKey]>;

/// The keys of this gateway whose hash is known, each hash once. Routes need their namespaces, keys need the routes.
pub(super) fn find_served<'a>(
    keys: &Objects<'a, VirtualKeySpec>,
    gateway: &Gateway<'a>,
    input: &Input<'a>,
    previous: &Previous<'_>,
    report: &mut Report,
) -> Vec<Served<'a>> {
    let mut served: Vec<Served<'a>> = Vec::with_capacity(keys.len());
    for object in keys.iter() {
        let subject = object.subject();
        if !gateway.serves(object.spec.gateway_ref.as_ref(), subject, report) {
            continue;
        }
        if let Some((hash, replaced)) = hash(object, input, previous, report) {
            served.push(Served { object, hash, replaced: Cow::Borrowed(replaced) });
        }
    }
    let mut first: HashMap<KeyHash, usize, RandomState> = HashMap::default();
    first.reserve(served.len());
    let mut refused = vec![false; served.len()];
    for at in 0..served.len() {
        let Some(other) = first.insert(served[at].hash, at) else { continue };
        // Names are in order, so that of the same age the first name stays.
        let is_older =
            |a: usize, b: usize| age(served[a].object.meta.created_at) < age(served[b].object.meta.created_at);
        let (stays, goes) = if is_older(at, other) { (at, other) } else { (other, at) };
        first.insert(served[at].hash, stays);
        refused[goes] = true;
        // Which key it is must not be said: whoever wrote this one may not know the other.
        let message = "an older VirtualKey has the same key; this one is refused";
        report.error(served[goes].object.subject(), Reason::Duplicate, "spec", message);
    }
    let mut at = 0;
    served.retain(|_| {
        at += 1;
        !refused[at - 1]
    });
    // After all keys in use: none of these takes a hash from one.
    for Served { replaced, .. } in served.iter_mut().filter(|key| !key.replaced.is_empty()) {
        replaced.to_mut().retain(|one| first.insert(one.hash, usize::MAX).is_none());
    }
    served
}

fn hash<'a>(
    object: &Object<VirtualKeySpec>,
    input: &Input<'a>,
    previous: &Previous<'_>,
    report: &mut Report,
) -> Option<(KeyHash, &'a [ReplacedKey])> {
    let alone = |hash| (hash, &[][..]);
    let subject = object.subject();
    let VirtualKeySpec { secret, key_hash, .. } = &object.spec;
    match (secret, key_hash) {
        (None, Some(text)) => {
            let hash = KeyHash::parse(text).filter(|_| text.starts_with("sha256:")).or_else(|| {
                let message = "keyHash must be `sha256:` and 64 hexadecimal digits";
                report.error(subject, Reason::InvalidValue, "spec.keyHash", message);
                last_hash(object, previous, report)
            });
            hash.map(alone)
        }
        (Some(KeySecret { name, key, policy }), None) => {
            let known = input.key_hashes.get(subject.namespace, subject.name);
            let is_there = || input.secrets.get(subject.namespace, name).is_some();
            match policy {
                KeyPolicy::Generate if known.is_none() => {
                    let message = "the key is not generated yet";
                    let finding = report.error(subject, Reason::NotFound, "spec.secret", message);
                    if is_there() {
                        finding.hint = format!("to use the value that Secret `{name}` holds, write policy: Adopt");
                    }
                    None
                }
                KeyPolicy::Adopt if known.is_none() || is_there() => {
                    let field = "spec.secret";
                    let reference = tollgate_crds::SecretKeyRef { name: name.clone(), key: key.clone() };
                    let (_, value) = credential::read(input, &reference, subject, field, report)?;
                    if value.len() < SHORTEST_KEY {
                        let message = format!("the key is shorter than {SHORTEST_KEY} characters and can be guessed");
                        report.warning(subject, Reason::WeakKey, field, message);
                    }
                    Some(alone(KeyHash::of(value.as_bytes())))
                }
                KeyPolicy::Generate | KeyPolicy::Adopt => known,
            }
        }
        (Some(_), Some(_)) | (None, None) => {
            let message = "exactly one of secret, keyHash must be set";
            report.error(subject, Reason::ExactlyOne, "spec", message);
            last_hash(object, previous, report).map(alone)
        }
    }
}

fn last_hash(object: &Object<VirtualKeySpec>, previous: &Previous<'_>, report: &mut Report) -> Option<KeyHash> {
    let (last, _) = previous.key(&object.meta.namespace, &object.meta.name)?;
    report.last_good(object.subject(), "spec.keyHash");
    Some(last.hash)
}

/// What keys are compiled against.
pub(super) struct Work<'w, 'a> {
    pub everything: &'w Everything<'a>,
    pub teams: &'w [Team<'a>],
    pub budgets: &'w mut Budgets<'a>,
    pub routes: &'w Routes,
    pub grants: Grants<'a>,
    pub previous: &'w Previous<'a>,
    pub gateway: &'w Gateway<'a>,
    pub mode: Mode,
    pub known: Known<'a>,
}

/// Policies so far.
#[derive(Debug, Default)]
pub(super) struct Known<'a> {
    policies: HashMap<Policy, u32, RandomState>,
    /// By what keys say, where there was nothing to report: most keys say what another one said.
    said: HashMap<Said<'a>, u32, RandomState>,
    /// The namespace that was asked for last, and its index: keys are sorted by it.
    namespace: Option<(&'a str, u32)>,
    names: Names<'a>,
    /// Budgets that keys name although they select every key.
    named: BTreeSet<usize>,
}

impl<'a> Known<'a> {
    /// Its index. `said`: what keys say that have it.
    fn insert(&mut self, policy: Policy, said: Option<Said<'a>>) -> u32 {
        let next = index(self.policies.len());
        let index = *self.policies.entry(policy).or_insert(next);
        self.said.extend(said.map(|said| (said, index)));
        index
    }
}

/// Everything that decides what the policy of a key is, and what there is to report about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Said<'a> {
    namespace: u32,
    team: Option<usize>,
    models: &'a [String],
    aliases: &'a BTreeMap<String, String>,
    limits: Limits,
    tags: &'a [String],
    labels: &'a BTreeMap<String, String>,
    cap: Option<u64>,
    priority: Option<&'a str>,
}

impl<'a> Work<'_, 'a> {
    pub fn compile(mut self, served: &[Served<'a>], report: &mut Report) -> Keys {
        self.team_budgets(report);
        self.budgets.report_low_models(self.routes, report);
        let mut keys = Vec::with_capacity(served.len());
        self.budgets.reserve(served.iter().filter(|key| key.object.spec.budget.is_some()).count());
        for Served { object, hash, replaced } in served {
            let Some(key) = self.key(object, *hash, report) else { continue };
            for ReplacedKey { hash, ends_at } in replaced.iter() {
                let expires_at = Some(key.expires_at.map_or(*ends_at, |end| end.min(*ends_at)));
                keys.push(Key { hash: *hash, expires_at, ..key.clone() });
            }
            keys.push(key);
        }
        self.budgets.report_beyond(report);
        for &budget in &self.known.named {
            self.budgets.report_named(budget, report);
        }
        let keys = sorted(keys);
        let mut policies: Vec<(Policy, u32)> = self.known.policies.into_iter().collect();
        policies.sort_unstable_by_key(|(_, index)| *index);
        Keys { keys, policies: policies.into_iter().map(|(policy, _)| policy).collect() }
    }

    fn key(&mut self, object: &'a Object<VirtualKeySpec>, hash: KeyHash, report: &mut Report) -> Option<Key> {
        let VirtualKeySpec {
            team_ref,
            user,
            models,
            model_aliases,
            limits,
            priority,
            budget,
            budget_refs,
            disabled,
            expires_at,
            rotation,
            guardrails,
            tags,
            max_output_tokens,
            secret: _,
            key_hash: _,
            gateway_ref: _,
        } = &object.spec;
        let subject = object.subject();
        report_unused(rotation.as_ref().filter(|_| self.mode == Mode::Standalone), guardrails, subject, report);
        let team = match team_ref {
            Some(reference) => {
                let teams = &self.everything.teams;
                let field = "spec.teamRef";
                // Without its team a key would be without the team's bounds: it is not used.
                let at =
                    self.grants.resolve(teams, reference, subject, field, |spec| &spec.allowed_namespaces, report)?;
                Some(at)
            }
            None => None,
        };
        let mut reader = Reader::new(report, subject);
        // A moment that cannot be read may be over: the key is.
        let expires_at = expires_at.as_ref().map(|text| reader.moment("spec.expiresAt", text).unwrap_or(0));
        reader.broken = false;
        let overall = reader.limits("spec.limits", limits.overall());
        let cap = reader.at_least("spec.maxOutputTokens", 1, *max_output_tokens);
        let is_broken = reader.broken;
        let namespace = self.namespace(subject.namespace);
        let said = Said {
            namespace,
            team,
            models,
            aliases: model_aliases,
            limits: overall,
            tags,
            labels: &object.meta.labels,
            cap,
            priority: priority.as_deref(),
        };
        let named = self.named_budgets(object, budget_refs, report);
        let is_plain = limits.per_model.is_empty() && !is_broken;
        let policy = match self.known.said.get(&said).copied().filter(|_| is_plain) {
            Some(said_before) => said_before,
            None => {
                let reported = report.len();
                let policy = self.policy(object, said, is_broken, report)?;
                // All is told of a key whose budget is missing, but nothing is made for it.
                named.as_ref()?;
                let is_all_said = is_plain && report.len() == reported;
                self.known.insert(policy, is_all_said.then_some(said))
            }
        };
        let budgets = self.budgets(object, budget.as_ref(), &named?, team, report)?;
        let user = user.as_deref().map(|user| self.known.names.intern(user));
        Some(Key { hash, name: subject.name.into(), policy, user, budgets, disabled: *disabled, expires_at })
    }

    /// `is_broken`: of the limits that `said` has, some could not be read.
    fn policy(
        &mut self,
        object: &'a Object<VirtualKeySpec>,
        said: Said<'a>,
        is_broken: bool,
        report: &mut Report,
    ) -> Option<Policy> {
        let Said { namespace, team, models, aliases, mut limits, tags, labels, mut cap, priority } = said;
        let subject = object.subject();
        let mut reader = Reader::new(report, subject);
        let models = reader.model_set("spec.models", models);
        reader.broken = is_broken;
        let mut per_model = read_model_limits(&object.spec.limits, &mut reader);
        if reader.broken {
            let (_, last) = self.previous.key(subject.namespace, subject.name)?;
            report.last_good(subject, "spec.limits");
            limits = kept_limits(&object.spec.limits.overall(), limits, last.limits);
            for (at, stated) in object.spec.limits.per_model.iter().enumerate() {
                let before = last.per_model.iter().find(|(model, _)| **model == *stated.model);
                let before = before.map_or_else(Limits::default, |(_, limits)| *limits);
                per_model[at].1 = kept_limits(&stated.limits(), per_model[at].1, before);
            }
            cap = cap.or(object.spec.max_output_tokens.and(last.max_output_tokens));
        }
        let team_object = team.map(|at| &self.teams[at]);
        if let Some(team) = team_object {
            limits = fill(limits, team.key_limits);
        }
        let team_models = team_object.and_then(|team| team.compiled.models.as_ref());
        self.report_models(object, models.as_ref(), team_models, report);
        let priorities = &self.gateway.compiled.priorities;
        let priority = rate_limit::class(priority, priorities, "spec.priority", subject, report)
            .or_else(|| team_object.and_then(|team| team.priority.clone()));
        let of_team = team_object.map(|team| &team.object.meta.labels);
        let rate_limits = self.gateway.rules.selecting(self.grants.labels(subject.namespace), of_team, labels);
        let models = match (models, team_models) {
            // Neither says anything: nothing is allowed.
            (None, None) => Some(ModelSet::default()),
            (own, _) => own,
        };
        let names = &mut self.known.names;
        let mut pair = |(name, value): (&'a String, &'a String)| (names.intern(name), names.intern(value));
        Some(Policy {
            namespace,
            team: team.map(index),
            models,
            aliases: aliases.iter().map(&mut pair).collect(),
            limits,
            per_model,
            rate_limits,
            priority,
            labels: labels.iter().map(&mut pair).collect(),
            tags: tags.iter().map(|tag| names.intern(tag)).collect(),
            max_output_tokens: cap,
        })
    }

    fn namespace(&mut self, name: &'a str) -> u32 {
        match self.known.namespace {
            Some((last, index)) if last == name => index,
            _ => {
                let found = self.routes.namespace(name);
                let index = found.expect("routes were compiled for the namespaces of all keys");
                self.known.namespace = Some((name, index));
                index
            }
        }
    }

    /// `None`: a budget that it names does not exist, so that nobody knows what it may spend.
    fn named_budgets(
        &mut self,
        object: &Object<VirtualKeySpec>,
        named: &[LocalRef],
        report: &mut Report,
    ) -> Option<Vec<usize>> {
        let subject = object.subject();
        let mut found = Vec::with_capacity(named.len());
        for (at, LocalRef { name }) in named.iter().enumerate() {
            match (self.everything.budgets.get(subject.namespace, name), self.budgets.find(subject.namespace, name)) {
                (None, _) => {
                    let message = format!("Budget `{name}` does not exist in namespace `{}`", subject.namespace);
                    report.error(subject, Reason::NotFound, format!("spec.budgetRefs[{at}]"), message);
                    return None;
                }
                (Some(_), Some(budget)) if !found.contains(&budget) => {
                    found.push(budget);
                    if self.budgets.selects_every_key(budget) {
                        self.known.named.insert(budget);
                    }
                }
                (Some(_), _) => {}
            }
        }
        Some(found)
    }

    /// The key's own first, then those it names and those that select it, then its team's. `None`: so many that no call
    /// could be held in all of them.
    fn budgets(
        &mut self,
        object: &'a Object<VirtualKeySpec>,
        own: Option<&BudgetTerms>,
        named: &[usize],
        team: Option<usize>,
        report: &mut Report,
    ) -> Option<Vec<u32>> {
        let subject = object.subject();
        if own.is_some() && !object.spec.budget_refs.is_empty() {
            let message = "budget and budgetRefs exclude each other; both bind the key";
            report.warning(subject, Reason::ExactlyOne, "spec.budgetRefs", message);
        }
        let team_object = team.map(|at| self.teams[at].object);
        let user = object.spec.user.as_deref();
        let holder = Holder {
            namespace: subject.namespace,
            name: subject.name,
            labels: &object.meta.labels,
            user,
            tags: &object.spec.tags,
            team: team_object.map(|team| (&*team.meta.namespace, &*team.meta.name, &team.meta.labels)),
        };
        let mut of_teams = Vec::new();
        for &at in team.map_or(&[][..], |at| &self.teams[at].chain) {
            self.bind_team(at, user, &mut of_teams, report);
        }
        let default = team_object.and_then(|team| team.spec.key_defaults.budget.as_ref());
        let own = match (own, default, team_object) {
            (Some(terms), _, _) => Some((terms, "spec.budget", subject)),
            (None, Some(terms), Some(team)) if object.spec.budget_refs.is_empty() => {
                Some((terms, "spec.keyDefaults.budget", team.subject()))
            }
            (None, _, _) => None,
        };
        let others = of_teams.len() + usize::from(own.is_some());
        let selected = match self.budgets.select(holder, named, others) {
            Ok(selected) => selected,
            Err(too_many) => {
                report_too_many(too_many, subject, report);
                return None;
            }
        };
        let mut rows = Vec::with_capacity(others + selected.len());
        if let Some((terms, field, of)) = own {
            let id = format!("{}/VirtualKey/{}", subject.namespace, subject.name);
            rows.extend(self.budgets.own_row(id, terms, field, of, self.previous, report));
        }
        rows.extend(self.budgets.rows_of(holder, selected));
        rows.extend(of_teams);
        // Parents count too.
        let is_too_many = || rows.iter().filter(|row| self.budgets.is_for_every_call(**row)).count() > MOST_OF_A_CALL;
        if rows.len() > MOST_OF_A_CALL && is_too_many() {
            report_too_many(TooMany { most: MOST_OF_A_CALL, every_call: true }, subject, report);
            return None;
        }
        Some(rows)
    }

    /// What the team has for all its keys, and for all keys of this user.
    fn bind_team(&mut self, at: usize, user: Option<&str>, rows: &mut Vec<u32>, report: &mut Report) {
        let Team { object: team, members, .. } = &self.teams[at];
        let subject = team.subject();
        let member = user.and_then(|user| members.get(user)).copied();
        let of_member = member.and_then(|member| team.spec.members[member].budget.as_ref());
        if let Some(terms) = of_member {
            rows.extend(self.budgets.shared_row((at, member), user, terms, subject, self.previous, report));
        }
        if let Some(terms) = &team.spec.budget {
            rows.extend(self.budgets.shared_row((at, None), None, terms, subject, self.previous, report));
        }
    }

    /// Budgets of teams are there to be seen before any key is under them.
    fn team_budgets(&mut self, report: &mut Report) {
        for at in 0..self.teams.len() {
            if self.gateway.admits(&self.teams[at].object.meta.namespace) {
                self.bind_team(at, None, &mut Vec::new(), report);
            }
        }
        for team in self.teams {
            let Team { object, chain, .. } = team;
            let Some(&above) = chain.get(1) else { continue };
            let name = &self.teams[above].object.meta.name;
            self.budgets.report_above_team((chain[0], above), name, object.subject(), report);
        }
    }

    fn report_models(
        &self,
        object: &Object<VirtualKeySpec>,
        own: Option<&ModelSet>,
        team: Option<&ModelSet>,
        report: &mut Report,
    ) {
        let subject = object.subject();
        let is_empty = |set: &ModelSet| set.exact.is_empty() && set.prefixes.is_empty();
        if own.or(team).is_none_or(is_empty) {
            let message = "the key may ask for no model";
            report.warning(subject, Reason::NoModels, "spec.models", message).hint =
                "list public model names in spec.models, or name a team that allows some".to_owned();
        }
        let at = self.routes.namespace(subject.namespace);
        let namespace = at.map(|at| &self.routes.namespaces[at as usize]);
        for name in own.map_or(&[][..], |own| &own.exact) {
            if team.is_some_and(|team| !team.contains(name)) {
                let message = format!("the team does not allow model `{name}`");
                report.warning(subject, Reason::NotGranted, "spec.models", message);
            } else if namespace.is_none_or(|namespace| route::find(namespace, name).is_none()) {
                let message = format!("no model is called `{name}` in namespace `{}`", subject.namespace);
                report.warning(subject, Reason::NotFound, "spec.models", message);
            }
        }
        for (asked, meant) in &object.spec.model_aliases {
            let is_allowed = own.is_none_or(|own| own.contains(meant)) && team.is_none_or(|team| team.contains(meant));
            if !is_allowed {
                let message = format!("`{asked}` stands for `{meant}`, which the key may not ask for");
                report.warning(subject, Reason::NotGranted, format!("spec.modelAliases.{asked}"), message);
            }
        }
    }
}

/// By hash. What is compared lies close together, and each key is moved once.
fn sorted(keys: Vec<Key>) -> Vec<Key> {
    let begin = |KeyHash(bytes): &KeyHash| u64::from_be_bytes(*bytes.first_chunk().expect("a hash has 32 bytes"));
    let mut places: Vec<(u64, usize)> = keys.iter().enumerate().map(|(at, key)| (begin(&key.hash), at)).collect();
    places.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| keys[a.1].hash.cmp(&keys[b.1].hash)));
    let mut keys: Vec<Option<Key>> = keys.into_iter().map(Some).collect();
    places.into_iter().map(|(_, at)| keys[at].take().expect("each place is named once")).collect()
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("there are fewer than 2^32 objects")
}

fn report_too_many(TooMany { most, every_call }: TooMany, subject: Subject<'_>, report: &mut Report) {
    let message = match every_call {
        true => format!(
            "more than {most} budgets count each of its calls, and a call is held in {most} at most; the key is not used"
        ),
        false => format!(
            "more than {most} budgets may count its calls, and a key can be under {most} at most; the key is not used"
        ),
    };
    report.error(subject, Reason::TooManyBudgets, "", message).hint =
        "its own, its team's, those that select it, and their parents count: let them select fewer keys".to_owned();
}

fn read_model_limits(limits: &KeyLimits, reader: &mut Reader<'_, '_>) -> Vec<(Name, Limits)> {
    let mut per_model = Vec::with_capacity(limits.per_model.len());
    for (at, stated) in limits.per_model.iter().enumerate() {
        let ModelLimits { model, .. } = stated;
        let field = format!("spec.limits.perModel[{at}]");
        reader.public_name(|| format!("{field}.model"), model);
        per_model.push((model.as_str().into(), reader.limits(&field, stated.limits())));
    }
    per_model
}

/// `limits`, and where they say nothing the team's defaults.
fn fill(limits: Limits, defaults: Limits) -> Limits {
    Limits {
        requests_per_minute: limits.requests_per_minute.or(defaults.requests_per_minute),
        tokens_per_minute: limits.tokens_per_minute.or(defaults.tokens_per_minute),
        input_tokens_per_minute: limits.input_tokens_per_minute.or(defaults.input_tokens_per_minute),
        output_tokens_per_minute: limits.output_tokens_per_minute.or(defaults.output_tokens_per_minute),
        parallel_requests: limits.parallel_requests.or(defaults.parallel_requests),
    }
}

fn report_unused(rotation: Option<&Rotation>, guardrails: &[String], subject: Subject<'_>, report: &mut Report) {
    if rotation.is_some() {
        report.not_yet(subject, "spec.rotation", "standalone, keys are not replaced by themselves");
    }
    if !guardrails.is_empty() {
        report.not_yet(subject, "spec.guardrails", "there are no guardrails yet; calls of the key pass none");
    }
}
