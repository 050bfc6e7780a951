//! Budgets from all places they are written in (Budget objects, keys, teams, members, defaults for keys) as accounts with
//! a limit, and as the rows that keys are bound to.
//!
//! An account is what the ledger counts. A row is an account as some keys see it: a parent counts, beside its own calls,
//! those that a child of it counts, so one account may have rows with different filters. A key has one row per account,
//! or several where no single filter says which calls count; a call that several let through counts once.

use std::collections::{BTreeMap, HashMap};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use foldhash::fast::RandomState;
use tollgate_crds::{
    AllocatorUnavailable, Boost, BudgetPer, BudgetScope, BudgetSpec, BudgetTerms, Enforcement, ExhaustedAction,
    SecretKeyRef, SecretSource, Threshold, WhenExhausted, WhenLow,
};

use super::credential;
use super::endpoint;
use super::gateway::Gateway;
use super::input::{Document, Input, Labels, Mode, Object};
use super::objects::{Everything, Grants, age};
use super::previous::Previous;
use super::report::{Report, Subject};
use super::route::{self, Routes};
use super::selecting::Selecting;
use super::values::{Reader, budget_unit, unite};
use crate::finding::Reason;
use crate::model::{self, Budget, BudgetRules, CalendarUnit, Credential, KnownRules, ModelSet, Name, PerCall, Period};

/// Which calls of a key a row counts. What is empty holds for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Filter {
    models: Option<ModelSet>,
    providers: Vec<Name>,
    tags: Vec<Name>,
    end_users: Vec<Name>,
}

impl Filter {
    /// The filter that lets through what either does. `None`: it takes both.
    fn or(&self, other: &Filter) -> Option<Filter> {
        if self.covers(other) {
            return Some(self.clone());
        }
        if other.covers(self) {
            return Some(other.clone());
        }
        let differ = [
            self.models != other.models,
            self.providers != other.providers,
            self.tags != other.tags,
            self.end_users != other.end_users,
        ];
        if differ.into_iter().filter(|differ| *differ).count() > 1 {
            return None;
        }
        let models = match (&self.models, &other.models) {
            (Some(a), Some(b)) => Some(unite(a, b)),
            (None, _) | (_, None) => None,
        };
        Some(Filter {
            models,
            providers: either(&self.providers, &other.providers),
            tags: either(&self.tags, &other.tags),
            end_users: either(&self.end_users, &other.end_users),
        })
    }

    /// Whether it lets through all that the other does, as far as that is easily seen.
    fn covers(&self, other: &Filter) -> bool {
        let Filter { models, providers, tags, end_users } = self;
        let listed = |own: &[Name], other: &[Name]| own.is_empty() || own == other;
        (models.is_none() || *models == other.models)
            && listed(providers, &other.providers)
            && listed(tags, &other.tags)
            && listed(end_users, &other.end_users)
    }

    fn is_all(&self) -> bool {
        *self == Filter::default()
    }
}

/// What is in either list; nothing, which stands for all, where one is empty.
fn either(a: &[Name], b: &[Name]) -> Vec<Name> {
    if a.is_empty() || b.is_empty() {
        return Vec::new();
    }
    let mut both: Vec<Name> = a.iter().chain(b).cloned().collect();
    both.sort();
    both.dedup();
    both
}

/// What a budget says about its amount.
#[derive(Clone, Debug)]
struct Terms {
    limit: i64,
    unit: crate::model::BudgetUnit,
    hard: bool,
    period: Period,
    /// Nothing may be spent, because what is written cannot be used.
    denied: bool,
    boost: Option<model::Boost>,
}

/// Every call of a key is held in all budgets above the one that it is under. More is a mistake, or no good will.
const MOST_ABOVE: usize = 32;

/// Budgets that one call can be held in: as many as the ledger writes down for an attempt. A call under more is refused, so
/// a key whose every call would be is not used, and somebody is told.
pub const MOST_OF_A_CALL: usize = 16;

/// Budget objects that may count calls of a key, most of them only some. The key has a row for each.
const MOST_OF_A_KEY: usize = 128;

/// Keys of a namespace under too many budgets whose budgets are all looked at, to tell which of them are too many.
const MOST_LOOKED_AT: usize = 16;

/// A key is under so many budgets that its calls cannot be held in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany {
    pub most: usize,
    /// Whether each of them counts every call.
    pub every_call: bool,
}

/// A Budget object.
#[derive(Debug)]
struct Defined<'a> {
    object: &'a Object<BudgetSpec>,
    id: String,
    terms: Terms,
    filter: Filter,
    parent: Option<usize>,
    per: Option<BudgetPer>,
    /// False where it selects what another gateway decides on: it binds nothing here.
    binds: bool,
    reset_token: Option<Name>,
    thresholds: Vec<model::Threshold>,
}

/// The key that budgets are looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder<'k> {
    pub namespace: &'k str,
    pub name: &'k str,
    pub labels: &'k Labels,
    pub user: Option<&'k str>,
    pub tags: &'k [String],
    /// Namespace, name, labels.
    pub team: Option<(&'k str, &'k str, &'k Labels)>,
}

/// All budgets.
#[derive(Debug)]
pub(super) struct Budgets<'a> {
    defined: Vec<Defined<'a>>,
    grants: Grants<'a>,
    gateway_namespace: Name,
    /// Of each budget: itself and those above it, each once.
    chains: Vec<Vec<usize>>,
    /// Budgets of the gateway's namespace that may select keys of every namespace.
    from_above: Selecting<'a>,
    /// Those that may select keys of the namespace that was asked for last, beside these: keys are sorted by it.
    selecting: (String, Selecting<'a>),
    /// What was selected last by nothing but calls, and its rows: most keys of a namespace have the same.
    last: (Vec<usize>, Vec<u32>),
    /// Those that are too many for a key, and which key that is.
    beyond: BTreeMap<usize, (TooMany, String)>,
    /// Keys of this namespace whose budgets were all looked at.
    looked_at: usize,
    rows: Vec<Budget>,
    rules: KnownRules,
    /// By budget, of all of whose calls count and that have no members.
    row_of_all: Vec<Option<u32>>,
    row_of_object: HashMap<(usize, Option<Name>, Filter), u32, RandomState>,
    row_of_team: HashMap<InTeam, Option<u32>, RandomState>,
    /// URLs that are called when thresholds are passed, by their ids.
    webhooks: BTreeMap<Name, Arc<str>>,
}

/// A budget that is written into a team: the team's position, and that of the member whose it is.
type InTeam = (usize, Option<usize>);

impl<'a> Budgets<'a> {
    pub fn compile(
        everything: &Everything<'a>,
        grants: Grants<'a>,
        gateway: &Gateway<'_>,
        input: &Input<'_>,
        previous: &Previous<'_>,
        report: &mut Report,
    ) -> Budgets<'a> {
        let mut positions = Vec::with_capacity(everything.budgets.len());
        let mut defined = Vec::with_capacity(everything.budgets.len());
        let mut webhooks = BTreeMap::new();
        for object in everything.budgets.iter() {
            let budget = define(object, gateway, input, previous, &mut webhooks, report);
            positions.push(budget.is_some().then_some(defined.len()));
            defined.extend(budget);
        }
        let mut budgets = Budgets {
            defined,
            grants,
            gateway_namespace: gateway.compiled.namespace.clone(),
            chains: Vec::new(),
            from_above: Selecting::default(),
            selecting: (String::new(), Selecting::default()),
            last: (Vec::new(), Vec::new()),
            beyond: BTreeMap::new(),
            looked_at: 0,
            rows: Vec::new(),
            rules: KnownRules::default(),
            row_of_all: Vec::new(),
            row_of_object: HashMap::default(),
            row_of_team: HashMap::default(),
            webhooks,
        };
        budgets.link_parents(everything, &positions, report);
        budgets.row_of_all = vec![None; budgets.defined.len()];
        budgets.chains = (0..budgets.defined.len()).map(|at| budgets.chain(at)).collect();
        let everywhere = budgets.of_namespace(&budgets.gateway_namespace);
        let everywhere = everywhere.filter(|at| budgets.scope(*at).namespace_selector.is_none());
        budgets.from_above = Selecting::new(everywhere.map(|at| (at, budgets.scope(at))).collect());
        budgets
    }

    /// Models to call instead that are not there. Where a budget binds other namespaces, some of them may have it.
    pub fn report_low_models(&self, routes: &Routes, report: &mut Report) {
        for Defined { object, .. } in &self.defined {
            let subject = object.subject();
            let Some(WhenLow { models, .. }) = &object.spec.when_low else { continue };
            let is_looked_at = |namespace: &&model::Namespace| {
                *subject.namespace == *self.gateway_namespace || *namespace.name == *subject.namespace
            };
            for (number, name) in models.iter().enumerate() {
                let mut namespaces = routes.namespaces.iter().filter(is_looked_at);
                if namespaces.all(|namespace| route::find(namespace, name).is_none()) {
                    let message = format!("no model is called `{name}` in namespace `{}`", subject.namespace);
                    report.warning(subject, Reason::NotFound, format!("spec.whenLow.models[{number}]"), message);
                }
            }
        }
    }

    /// The rows, and the URLs that they name, sorted by id.
    pub fn into_rows(mut self, gateway: &Gateway<'_>) -> (Vec<Budget>, Vec<Credential>) {
        // Budgets that no key is under yet are there to be seen.
        for at in 0..self.defined.len() {
            let Defined { object, per, binds, .. } = &self.defined[at];
            if per.is_none() && *binds && gateway.admits(&object.meta.namespace) {
                let filter = self.defined[at].filter.clone();
                self.row(at, None, filter);
            }
        }
        let webhooks = self.webhooks.into_iter().map(|(id, value)| Credential { id, value }).collect();
        (self.rows, webhooks)
    }

    fn link_parents(&mut self, everything: &Everything<'a>, positions: &[Option<usize>], report: &mut Report) {
        for at in 0..self.defined.len() {
            let object = self.defined[at].object;
            let Some(reference) = &object.spec.parent_ref else { continue };
            let subject = object.subject();
            let objects = &everything.budgets;
            let found = self.grants.resolve(
                objects,
                reference,
                subject,
                "spec.parentRef",
                |spec| &spec.allowed_namespaces,
                report,
            );
            self.defined[at].parent = found.and_then(|found| positions[found]);
            if self.defined[at].parent.is_none() {
                if found.is_some() {
                    let message = format!("Budget `{}` cannot be used; its own findings say why", reference.name);
                    report.error(subject, Reason::NotFound, "spec.parentRef", message);
                }
                self.deny_if_hard(at);
            }
        }
        for at in 0..self.defined.len() {
            if self.chain(at).last().is_some_and(|last| self.defined[*last].parent == Some(at))
                && self.defined[at].parent.is_some()
            {
                let message = "the budgets above it lead back to it";
                report.error(self.defined[at].object.subject(), Reason::Cycle, "spec.parentRef", message);
            } else if self.chain(at).len() > MOST_ABOVE + 1 {
                let message =
                    format!("more than {MOST_ABOVE} budgets stand above it; those further up are not looked at");
                report.error(self.defined[at].object.subject(), Reason::InvalidValue, "spec.parentRef", message);
                self.deny_if_hard(at);
            } else if let Some(parent) = self.defined[at].parent {
                self.report_above(at, parent, report);
            }
        }
    }

    /// What the missing parent would allow is not known, so nothing is.
    fn deny_if_hard(&mut self, at: usize) {
        if self.defined[at].terms.hard {
            self.defined[at].terms.limit = 0;
            self.defined[at].terms.boost = None;
        }
    }

    fn report_above(&self, child: usize, parent: usize, report: &mut Report) {
        let (below, above) = (&self.defined[child], &self.defined[parent]);
        let of = |Terms { limit, unit, hard: _, period, denied: _, boost: _ }: &Terms| {
            (*unit, length_seconds(period), *limit)
        };
        if is_above(of(&below.terms), of(&above.terms)) {
            let message = format!("its limit is above that of Budget `{}`, which binds it too", above.object.meta.name);
            report.warning(below.object.subject(), Reason::AboveParent, "spec.limit", message);
        }
    }

    /// A team's budget that is never reached, because that of the team above is less.
    pub fn report_above_team(
        &self,
        (below, above): (usize, usize),
        name_above: &str,
        subject: Subject<'_>,
        report: &mut Report,
    ) {
        let row = |at: usize| self.row_of_team.get(&(at, None)).copied().flatten().map(|row| &self.rows[row as usize]);
        let of = |budget: &Budget| (budget.unit, length_seconds(&budget.period), budget.limit);
        if row(below).zip(row(above)).is_some_and(|(below, above)| is_above(of(below), of(above))) {
            let message = format!("its limit is above that of Team `{name_above}`, which binds it too");
            report.warning(subject, Reason::AboveParent, "spec.budget.limit", message);
        }
    }

    /// The budget and those above it, each once, as far as they are looked at.
    fn chain(&self, start: usize) -> Vec<usize> {
        let mut chain = vec![start];
        let mut at = start;
        while let Some(above) = self.defined[at].parent {
            if chain.contains(&above) || chain.len() > MOST_ABOVE + 1 {
                break;
            }
            chain.push(above);
            at = above;
        }
        chain
    }

    /// Makes room for so many budgets of single keys.
    pub fn reserve(&mut self, of_keys: usize) {
        self.rows.reserve(of_keys + self.defined.len());
    }

    /// A budget that one key has for itself.
    pub fn own_row(
        &mut self,
        id: String,
        terms: &BudgetTerms,
        field: &str,
        subject: Subject<'_>,
        previous: &Previous<'_>,
        report: &mut Report,
    ) -> Option<u32> {
        let budget = written(id, terms, field, subject, previous, report)?;
        Some(self.push(Budget { of_one_key: true, ..budget }))
    }

    /// A budget that several keys share and that is written into a team: made once.
    pub fn shared_row(
        &mut self,
        place: InTeam,
        member: Option<&str>,
        terms: &BudgetTerms,
        subject: Subject<'_>,
        previous: &Previous<'_>,
        report: &mut Report,
    ) -> Option<u32> {
        if let Some(row) = self.row_of_team.get(&place) {
            return *row;
        }
        let mut id = format!("{}/Team/{}", subject.namespace, subject.name);
        let mut field = "spec.budget".to_owned();
        if let (Some(user), (_, Some(at))) = (member, place) {
            id = format!("{id}/{user}");
            field = format!("spec.members[{at}].budget");
        }
        let budget = written(id, terms, &field, subject, previous, report);
        let row = budget.map(|budget| self.push(budget));
        self.row_of_team.insert(place, row);
        row
    }

    /// Budget objects that count calls of the key: those it names first, then those that select it. `others`: budgets of
    /// other kinds that count every call of it.
    ///
    /// # Errors
    /// There are more than its calls can be held in. Looks no further then: there may be thousands.
    pub fn select(&mut self, holder: Holder<'_>, named: &[usize], others: usize) -> Result<Vec<usize>, TooMany> {
        if self.selecting.0 != holder.namespace {
            self.selecting = (holder.namespace.to_owned(), self.selecting(holder.namespace));
            self.looked_at = 0;
        }
        let of_calls = MOST_OF_A_CALL.saturating_sub(others);
        let mut every = named.iter().filter(|at| self.counts_every_call(**at, holder)).count();
        let mut selected = named.to_vec();
        let mut too_many = None;
        self.each_selecting(holder, |at| {
            if named.contains(&at) {
                return ControlFlow::Continue(());
            }
            selected.push(at);
            every += usize::from(self.counts_every_call(at, holder));
            if every > of_calls {
                too_many = Some(TooMany { most: MOST_OF_A_CALL, every_call: true });
            } else if selected.len() > MOST_OF_A_KEY {
                too_many = Some(TooMany { most: MOST_OF_A_KEY, every_call: false });
            }
            if too_many.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match too_many {
            Some(too_many) => {
                self.look_beyond(holder, named, others, too_many);
                Err(too_many)
            }
            None => {
                selected[named.len()..].sort_unstable();
                Ok(selected)
            }
        }
    }

    /// Of the budgets of a key that has too many, remembers which are beyond: those that it does not name, younger ones
    /// first, as far as they are of the kind that there are too many of.
    fn look_beyond(&mut self, holder: Holder<'_>, named: &[usize], others: usize, too_many: TooMany) {
        if self.looked_at == MOST_LOOKED_AT {
            return;
        }
        self.looked_at += 1;
        let is_of_kind = |at: usize| !too_many.every_call || self.counts_every_call(at, holder);
        let mut selected = Vec::new();
        self.each_selecting(holder, |at| {
            if !named.contains(&at) && is_of_kind(at) {
                selected.push(at);
            }
            ControlFlow::Continue(())
        });
        selected.sort_unstable_by_key(|at| (age(self.defined[*at].object.meta.created_at), *at));
        let taken = named.iter().filter(|at| is_of_kind(**at)).count();
        let taken = if too_many.every_call { taken + others } else { taken };
        for at in selected.into_iter().skip(too_many.most.saturating_sub(taken)) {
            let key = || (too_many, format!("{}/{}", holder.namespace, holder.name));
            self.beyond.entry(at).or_insert_with(key);
        }
    }

    /// Says of each budget that is too many for a key that it is.
    pub fn report_beyond(&self, report: &mut Report) {
        for (at, (TooMany { most, every_call }, key)) in &self.beyond {
            let why = match every_call {
                true => "a call can be held in",
                false => "may count calls of a key",
            };
            let message = format!(
                "more budgets select VirtualKey `{key}` (and maybe others) than the {most} that {why}; no call of it is admitted"
            );
            let subject = self.defined[*at].object.subject();
            report.error(subject, Reason::TooManyBudgets, "spec.appliesTo", message).hint =
                "select fewer keys, or have one budget with `per`".to_owned();
        }
    }

    /// Whether it selects every key of its namespace, so that to name it changes nothing.
    pub fn selects_every_key(&self, at: usize) -> bool {
        let BudgetScope { key_selector, team_selector, users, .. } = self.scope(at);
        key_selector.is_none() && team_selector.is_none() && users.is_empty()
    }

    /// A budget that keys name although it selects all of them: whoever wrote that meant something else.
    pub fn report_named(&self, at: usize, report: &mut Report) {
        let message = "keys name it in budgetRefs, but without appliesTo.keySelector, teamSelector or users it binds every \
                       key of the namespace";
        report.warning(self.defined[at].object.subject(), Reason::InvalidValue, "spec.appliesTo", message).hint =
            "a keySelector that selects no key leaves it to those that name it".to_owned();
    }

    /// Whether a row counts every call of the keys that have it.
    pub fn is_for_every_call(&self, row: u32) -> bool {
        self.rows[row as usize].counts_every_call()
    }

    /// Whether it counts every call of the key.
    fn counts_every_call(&self, at: usize, holder: Holder<'_>) -> bool {
        let Defined { binds, filter, per, .. } = &self.defined[at];
        let Filter { models, providers, tags, end_users } = filter;
        let has_member = match per {
            None | Some(BudgetPer::Key | BudgetPer::Namespace) => true,
            Some(BudgetPer::Team) => holder.team.is_some(),
            Some(BudgetPer::User) => holder.user.is_some(),
            Some(BudgetPer::EndUser | BudgetPer::Tag | BudgetPer::Model | BudgetPer::Provider) => false,
        };
        let every_tag = tags.is_empty() || has_one(holder.tags, tags);
        *binds && has_member && models.is_none() && providers.is_empty() && end_users.is_empty() && every_tag
    }

    /// Rows of Budget objects that bind the key, each with its parents. `selected`: as [`Budgets::select`] has it.
    pub fn rows_of(&mut self, holder: Holder<'_>, selected: Vec<usize>) -> Vec<u32> {
        if selected == self.last.0 && holder.tags.is_empty() && !selected.is_empty() {
            return self.last.1.clone();
        }
        let mut bound: Vec<(usize, Filter)> = Vec::with_capacity(selected.len());
        for &at in &selected {
            let Defined { binds, filter, .. } = &self.defined[at];
            if !binds {
                continue;
            }
            // Calls of a key with one of the tags have it, whatever else they bring.
            let has_tag = has_one(holder.tags, &filter.tags);
            for &above in &self.chains[at] {
                let mut filter = filter.clone();
                if has_tag && self.defined[above].per != Some(BudgetPer::Tag) {
                    filter.tags.clear();
                }
                let mut rows = bound.iter_mut().filter(|(other, _)| *other == above);
                let known = rows.find_map(|(_, counted)| counted.or(&filter).map(|either| (counted, either)));
                match known {
                    Some((counted, either)) => *counted = either,
                    None => bound.push((above, filter)),
                }
            }
        }
        let mut rows = Vec::with_capacity(bound.len());
        let mut is_anybodys = holder.tags.is_empty();
        for (at, filter) in bound {
            let member = match self.defined[at].per {
                None => None,
                Some(per) => match self.member(at, per, holder) {
                    Member::OfCall => None,
                    Member::Of(member) => {
                        is_anybodys = false;
                        Some(member)
                    }
                    Member::Nobody => {
                        is_anybodys = false;
                        continue;
                    }
                },
            };
            rows.push(self.row(at, member, filter));
        }
        if is_anybodys {
            self.last = (selected, rows.clone());
        }
        rows
    }

    /// The Budget object of that name in the namespace.
    pub fn find(&self, namespace: &str, name: &str) -> Option<usize> {
        let compare = |budget: &Defined<'_>| {
            (budget.object.meta.namespace.as_str(), budget.object.meta.name.as_str()).cmp(&(namespace, name))
        };
        self.defined.binary_search_by(compare).ok()
    }

    /// Calls `see` for each budget that selects the key, in no order, until it breaks.
    fn each_selecting(&self, holder: Holder<'_>, mut see: impl FnMut(usize) -> ControlFlow<()>) {
        for selecting in [&self.from_above, &self.selecting.1] {
            let seen = selecting.each_candidate(holder, |at| match self.selects(at, holder) {
                true => see(at),
                false => ControlFlow::Continue(()),
            });
            if seen.is_break() {
                return;
            }
        }
    }

    /// Positions of the budgets of a namespace.
    fn of_namespace(&self, namespace: &str) -> Range<usize> {
        let first = self.defined.partition_point(|budget| budget.object.meta.namespace.as_str() < namespace);
        let count = self.defined[first..].partition_point(|budget| budget.object.meta.namespace == namespace);
        first..first + count
    }

    fn scope(&self, at: usize) -> &'a BudgetScope {
        &self.defined[at].object.spec.applies_to
    }

    /// What may select keys of the namespace beside [`Budgets::from_above`].
    fn selecting(&self, namespace: &str) -> Selecting<'a> {
        let labels = self.grants.labels(namespace);
        let from_above = self.of_namespace(&self.gateway_namespace).filter(|at| {
            let selector = &self.scope(*at).namespace_selector;
            selector.as_ref().is_some_and(|selector| selector.matches(labels))
        });
        let own = match *namespace == *self.gateway_namespace {
            true => 0..0,
            false => self.of_namespace(namespace),
        };
        Selecting::new(from_above.chain(own).map(|at| (at, self.scope(at))).collect())
    }

    fn selects(&self, at: usize, holder: Holder<'_>) -> bool {
        let BudgetScope {
            key_selector,
            team_selector,
            namespace_selector: _,
            users,
            // Only calls tell these.
            end_users: _,
            tags: _,
            models: _,
            providers: _,
        } = &self.defined[at].object.spec.applies_to;
        key_selector.as_ref().is_none_or(|selector| selector.matches(holder.labels))
            && team_selector
                .as_ref()
                .is_none_or(|selector| holder.team.is_some_and(|(_, _, labels)| selector.matches(labels)))
            && (users.is_empty() || holder.user.is_some_and(|user| users.iter().any(|listed| listed == user)))
    }

    fn member(&self, at: usize, per: BudgetPer, holder: Holder<'_>) -> Member {
        let owner = self.defined[at].object.meta.namespace.as_str();
        // Names of another namespace carry it, for two namespaces may have keys of the same name.
        let named = |namespace: &str, name: &str| {
            Member::Of(if namespace == owner { name.into() } else { format!("{namespace}/{name}").into() })
        };
        match per {
            BudgetPer::Key => named(holder.namespace, holder.name),
            BudgetPer::Team => holder.team.map_or(Member::Nobody, |(namespace, name, _)| named(namespace, name)),
            BudgetPer::User => holder.user.map_or(Member::Nobody, |user| Member::Of(user.into())),
            BudgetPer::Namespace => Member::Of(holder.namespace.into()),
            BudgetPer::EndUser | BudgetPer::Tag | BudgetPer::Model | BudgetPer::Provider => Member::OfCall,
        }
    }

    fn row(&mut self, at: usize, member: Option<Name>, filter: Filter) -> u32 {
        let is_plain = member.is_none() && filter.is_all();
        if let Some(row) = self.row_of_all[at].filter(|_| is_plain) {
            return row;
        }
        let key = (at, member, filter);
        if let Some(row) = self.row_of_object.get(&key) {
            return *row;
        }
        let (_, member, filter) = &key;
        let Defined { object, id, terms, per, reset_token, .. } = &self.defined[at];
        let id = match member {
            Some(member) => format!("{id}/{member}").into(),
            None => id.as_str().into(),
        };
        let Terms { limit, unit, hard, ref period, denied, boost } = *terms;
        let Filter { models, providers, tags, end_users } = filter.clone();
        let rules = BudgetRules {
            unit,
            hard,
            period: period.clone(),
            models,
            providers,
            tags,
            end_users,
            per: per.and_then(per_call),
            reset_token: reset_token.clone(),
            allow_unavailable: object.spec.on_allocator_unavailable == Some(AllocatorUnavailable::Allow),
            deny_unavailable: !hard && object.spec.on_allocator_unavailable == Some(AllocatorUnavailable::Deny),
            when_low: object.spec.when_low.as_ref().map(when_low),
            throttle_percent: throttle(&object.spec.when_exhausted).filter(|_| !hard),
            thresholds: self.defined[at].thresholds.clone(),
            denied,
            boost,
        };
        let of_one_key = *per == Some(BudgetPer::Key);
        let row = self.push(Budget { id, limit, of_one_key, rules: rules.into() });
        match is_plain {
            true => self.row_of_all[at] = Some(row),
            false => _ = self.row_of_object.insert(key, row),
        }
        row
    }

    fn push(&mut self, mut budget: Budget) -> u32 {
        self.rules.share(&mut budget);
        let row = u32::try_from(self.rows.len()).expect("there are fewer than 2^32 budgets");
        self.rows.push(budget);
        row
    }
}

/// Whether a key has one of the tags.
fn has_one(tags: &[String], listed: &[Name]) -> bool {
    tags.iter().any(|tag| listed.iter().any(|listed| **listed == **tag))
}

/// Whose part of a budget with `per` a key uses.
enum Member {
    Of(Name),
    /// Nobody's: the key has none of what there is a budget for each of.
    Nobody,
    /// Only calls tell.
    OfCall,
}

fn per_call(per: BudgetPer) -> Option<PerCall> {
    match per {
        BudgetPer::EndUser => Some(PerCall::EndUser),
        BudgetPer::Tag => Some(PerCall::Tag),
        BudgetPer::Model => Some(PerCall::Model),
        BudgetPer::Provider => Some(PerCall::Provider),
        BudgetPer::Key | BudgetPer::Team | BudgetPer::User | BudgetPer::Namespace => None,
    }
}

/// `None`: it binds nothing, because it cannot be read and is not Hard.
fn define<'a>(
    object: &'a Object<BudgetSpec>,
    gateway: &Gateway<'_>,
    input: &Input<'_>,
    previous: &Previous<'_>,
    webhooks: &mut BTreeMap<Name, Arc<str>>,
    report: &mut Report,
) -> Option<Defined<'a>> {
    let BudgetSpec {
        limit,
        unit,
        period,
        enforcement,
        applies_to,
        per,
        parent_ref: _,
        thresholds,
        when_low: _,
        when_exhausted: _,
        boost,
        reset_token,
        on_allocator_unavailable: _,
        allowed_namespaces: _,
    } = &object.spec;
    let subject = object.subject();
    report_unused(&object.spec, input.mode, subject, report);
    let binds = check_scope(applies_to, gateway, subject, report);
    let id = format!("{}/Budget/{}", object.meta.namespace, object.meta.name);
    let mut reader = Reader::new(report, subject);
    let models = reader.model_set("spec.appliesTo.models", &applies_to.models);
    reader.broken = false;
    let own_limit = reader.amount(|| "spec.limit".to_owned(), limit, *unit);
    let period = reader.period(|| "spec.period".to_owned(), period);
    let boost = boost.as_ref().and_then(|boost| compile_boost(boost, *unit, input.now, &mut reader));
    let hard = *enforcement == Enforcement::Hard;
    let terms = match (own_limit, period) {
        (Some(limit), Some(period)) => Terms { limit, unit: budget_unit(*unit), hard, period, denied: false, boost },
        (own_limit, _) => kept_or_denied(&id, own_limit, boost, (hard, budget_unit(*unit)), subject, previous, report)?,
    };
    let filter = Filter {
        models,
        providers: providers(&applies_to.providers, subject, report),
        tags: sorted(&applies_to.tags),
        end_users: sorted(&applies_to.end_users),
    };
    let reset_token = reset_token.as_deref().map(Name::from);
    let thresholds = compile_thresholds(thresholds, input, subject, webhooks, report);
    Some(Defined { object, id, terms, filter, parent: None, per: *per, binds, reset_token, thresholds })
}

/// The terms of a budget whose own cannot be read: the last good ones, but never a higher limit than is written, and no
/// boost but the one that is written still; without any, a Hard budget allows nothing. That it allowed nothing before, for the same cause, is no good state.
fn kept_or_denied(
    id: &str,
    own_limit: Option<i64>,
    own_boost: Option<model::Boost>,
    (hard, unit): (bool, crate::model::BudgetUnit),
    subject: Subject<'_>,
    previous: &Previous<'_>,
    report: &mut Report,
) -> Option<Terms> {
    if let Some(last) = previous.budget_of_any_member(id) {
        if !last.denies() {
            report.last_good(subject, "");
        }
        let limit = own_limit.filter(|_| last.unit == unit).map_or(last.limit, |limit| limit.min(last.limit));
        let boost = own_boost.filter(|boost| last.boost == Some(*boost) && last.unit == unit);
        let (hard, period) = (hard || last.hard, last.period.clone());
        return Some(Terms { limit, unit: last.unit, hard, period, denied: last.denied, boost });
    }
    hard.then_some(Terms { limit: 0, unit, hard, period: Period::Lifetime, denied: true, boost: None })
}

/// A budget out of terms that stand in another object.
fn written(
    id: String,
    terms: &BudgetTerms,
    field: &str,
    subject: Subject<'_>,
    previous: &Previous<'_>,
    report: &mut Report,
) -> Option<Budget> {
    let BudgetTerms { limit, unit, period, enforcement } = terms;
    let mut reader = Reader::new(report, subject);
    let own_limit = reader.amount(|| format!("{field}.limit"), limit, *unit);
    let period = reader.period(|| format!("{field}.period"), period);
    let hard = *enforcement == Enforcement::Hard;
    let Terms { limit, unit, hard, period, denied, boost } = match (own_limit, period) {
        (Some(limit), Some(period)) => {
            Terms { limit, unit: budget_unit(*unit), hard, period, denied: false, boost: None }
        }
        (own_limit, _) => kept_or_denied(&id, own_limit, None, (hard, budget_unit(*unit)), subject, previous, report)?,
    };
    let rules = BudgetRules { unit, hard, period, denied, boost, ..BudgetRules::default() };
    Some(Budget { id: id.into(), limit, of_one_key: false, rules: rules.into() })
}

/// A webhook that cannot be called leaves its threshold to the Event and the metric.
fn compile_thresholds(
    thresholds: &[Threshold],
    input: &Input<'_>,
    subject: Subject<'_>,
    webhooks: &mut BTreeMap<Name, Arc<str>>,
    report: &mut Report,
) -> Vec<model::Threshold> {
    let mut compiled = Vec::with_capacity(thresholds.len());
    for (at, Threshold { percent, webhook }) in thresholds.iter().enumerate() {
        let Ok(percent) = u32::try_from(*percent) else { continue };
        let webhook = webhook.as_ref().and_then(|SecretSource { secret_ref }| {
            let url =
                webhook_url(secret_ref, input, subject, &format!("spec.thresholds[{at}].webhook.secretRef"), report)?;
            let id = credential::id(subject.namespace, secret_ref);
            webhooks.insert(id.clone(), url);
            Some(id)
        });
        compiled.push(model::Threshold { percent, webhook });
    }
    compiled
}

/// A URL out of a Secret. Nothing of it is in a message: who may call it may write there.
fn webhook_url(
    reference: &SecretKeyRef,
    input: &Input<'_>,
    subject: Subject<'_>,
    field: &str,
    report: &mut Report,
) -> Option<Arc<str>> {
    let (secret, url) = credential::read(input, reference, subject, field, report)?;
    let SecretKeyRef { name, key } = reference;
    // What follows a `?` belongs to the receiver.
    let Ok(endpoint) = endpoint::parse(url.split('?').next().unwrap_or_default()) else {
        let message = format!("entry `{key}` of Secret `{name}` is no URL that begins with http:// or https://");
        report.error(subject, Reason::InvalidValue, field, message);
        return None;
    };
    if let Some(why) = endpoint::refusal(&endpoint.host, input.mode) {
        let message = format!("the host in entry `{key}` of Secret `{name}` may not be called: {why}");
        report.error(subject, Reason::HostNotAllowed, field, message);
        return None;
    }
    if input.mode == Mode::Cluster && !credential::is_annotated(secret, &endpoint.host) {
        let message = format!("Secret `{name}` does not allow the host in its entry `{key}`");
        report.error(subject, Reason::CredentialHostNotAllowed, field, message).hint =
            "whoever owns the Secret can annotate it with tollgate.dev/hosts: and the host".to_owned();
        return None;
    }
    Some(url)
}

fn when_low(WhenLow { below_percent, models }: &WhenLow) -> model::WhenLow {
    model::WhenLow {
        below_percent: u32::try_from(*below_percent).unwrap_or(0).min(100),
        models: models.iter().map(|model| model.as_str().into()).collect(),
    }
}

fn throttle(WhenExhausted { action, percent }: &WhenExhausted) -> Option<u32> {
    match action {
        ExhaustedAction::Block => None,
        ExhaustedAction::Throttle => {
            percent.and_then(|percent| u32::try_from(percent).ok()).map(|one| one.clamp(1, 99))
        }
    }
}

/// When compiling again gives another result although nothing changed: the earliest end of a boost. Unix seconds.
pub fn next_change(documents: &[Document], now: i64) -> Option<i64> {
    let ends = documents.iter().filter_map(|document| match document {
        Document::Budget(object) => {
            let until = object.spec.boost.as_ref()?.until.as_ref()?;
            Some(until.as_str().parse::<jiff::Timestamp>().ok()?.as_second())
        }
        _ => None,
    });
    ends.filter(|end| *end > now).min()
}

fn compile_boost(
    boost: &Boost,
    unit: tollgate_crds::BudgetUnit,
    now: i64,
    reader: &mut Reader<'_, '_>,
) -> Option<model::Boost> {
    let Boost { amount, until } = boost;
    let Some(until) = until else {
        reader.invalid("spec.boost.until", "a boost needs an end; it is not given without one");
        return None;
    };
    let until = reader.moment("spec.boost.until", until)?;
    let amount = reader.amount(|| "spec.boost.amount".to_owned(), amount, unit)?;
    (now < until).then_some(model::Boost { amount, until })
}

/// Whether the scope can select any call of this gateway.
fn check_scope(scope: &BudgetScope, gateway: &Gateway<'_>, subject: Subject<'_>, report: &mut Report) -> bool {
    let BudgetScope {
        key_selector: _,
        team_selector: _,
        namespace_selector,
        users: _,
        end_users: _,
        tags: _,
        models: _,
        providers: _,
    } = scope;
    let own = &gateway.compiled.namespace;
    let selects_namespaces = namespace_selector.is_some() && *subject.namespace != **own;
    let is_of_another_gateway = selects_namespaces && gateway.is_gateway_namespace(subject.namespace);
    if selects_namespaces && !is_of_another_gateway {
        let message = format!("only budgets in the gateway's namespace `{own}` select namespaces");
        report.error(subject, Reason::InvalidValue, "spec.appliesTo.namespaceSelector", message);
    }
    !is_of_another_gateway
}

fn sorted(listed: &[String]) -> Vec<Name> {
    let mut names: Vec<Name> = listed.iter().map(|one| one.as_str().into()).collect();
    names.sort();
    names.dedup();
    names
}

fn providers(listed: &[String], subject: Subject<'_>, report: &mut Report) -> Vec<Name> {
    let mut ids: Vec<Name> = Vec::with_capacity(listed.len());
    for (at, id) in listed.iter().enumerate() {
        // Kept even where nobody knows it: to drop it might leave the list empty, which means all.
        let known = super::provider::find(id, &format!("spec.appliesTo.providers[{at}]"), subject, report);
        ids.push(known.map_or(id.as_str(), |provider| provider.id).into());
    }
    ids.sort();
    ids.dedup();
    ids
}

fn report_unused(spec: &BudgetSpec, mode: Mode, subject: Subject<'_>, report: &mut Report) {
    let BudgetSpec { enforcement, when_exhausted, on_allocator_unavailable, .. } = spec;
    let WhenExhausted { action, percent } = when_exhausted;
    match (action, percent, enforcement) {
        (ExhaustedAction::Throttle, _, Enforcement::Hard) => {
            let message = "only a Soft budget is slowed down; under this one calls are refused when nothing is left";
            report.warning(subject, Reason::InvalidValue, "spec.whenExhausted.action", message);
        }
        (ExhaustedAction::Throttle, None, _) => {
            let message = "the share to admit is missing; calls are refused when nothing is left";
            report.warning(subject, Reason::InvalidValue, "spec.whenExhausted.percent", message);
        }
        (ExhaustedAction::Throttle, Some(_), Enforcement::Soft) | (ExhaustedAction::Block, ..) => {}
    }
    if mode == Mode::Standalone && on_allocator_unavailable.is_some() {
        let message = "standalone, nobody else has to be asked";
        report.not_yet(subject, "spec.onAllocatorUnavailable", message);
    }
}

/// Whether a limit is above one that binds it too. Unit, seconds of the period, limit.
fn is_above(below: (crate::model::BudgetUnit, i64, i64), above: (crate::model::BudgetUnit, i64, i64)) -> bool {
    below.0 == above.0 && below.1 <= above.1 && below.2 > above.2
}

/// For comparisons only.
fn length_seconds(period: &Period) -> i64 {
    const HOUR: i64 = 3_600;
    match period {
        Period::Calendar { unit, .. } => match unit {
            CalendarUnit::Hour => HOUR,
            CalendarUnit::Day => 24 * HOUR,
            CalendarUnit::Week => 7 * 24 * HOUR,
            CalendarUnit::Month => 28 * 24 * HOUR,
            CalendarUnit::Year => 365 * 24 * HOUR,
        },
        Period::Rolling { seconds } => *seconds,
        Period::Lifetime => i64::MAX,
    }
}
