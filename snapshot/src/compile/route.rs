//! Who gets what for which name. In each namespace a name means its RouteGroup, else its deployments with that public
//! name (the implicit group), else what another namespace offers to it; the more exact name before the pattern.
//!
//! ```text
//! name in namespace n ─┬─ RouteGroup of n ─────────────── local
//!                      ├─ deployments of n ────────────── local, hides all below
//!                      └─ the oldest offer of others ──── RouteGroup, else deployments that admit n
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::deployment::Deployments;
use super::gateway::Gateway;
use super::group::Group;
use super::input::Meta;
use super::objects::{Grants, age};
use super::report::{Report, Subject};
use crate::finding::Reason;
use crate::model::{self, Fallback, Name, Namespace, Route};

/// Routes, and the names of each namespace.
#[derive(Debug, Default)]
pub(super) struct Routes {
    pub routes: Vec<Route>,
    /// Sorted by name.
    pub namespaces: Vec<Namespace>,
}

impl Routes {
    /// Index of the namespace.
    pub fn namespace(&self, name: &str) -> Option<u32> {
        let at = self.namespaces.binary_search_by(|namespace| (*namespace.name).cmp(name)).ok()?;
        u32::try_from(at).ok()
    }
}

/// The route for a name in a namespace: the exact name, else the longest pattern.
pub(super) fn find(namespace: &Namespace, name: &str) -> Option<u32> {
    let Namespace { name: _, exact, prefixes } = namespace;
    match exact.binary_search_by(|(probe, _)| (**probe).cmp(name)) {
        Ok(at) => Some(exact[at].1),
        Err(_) => prefixes.iter().find(|(prefix, _)| name.starts_with(&**prefix)).map(|(_, route)| *route),
    }
}

/// What a namespace has for a name.
#[derive(Clone, Debug)]
enum Offer<'g> {
    Group {
        group: usize,
        hidden: bool,
    },
    /// Indices of deployments, in order.
    Deployments(&'g [u32]),
}

/// The names of one namespace that its own objects give.
type Own<'g> = BTreeMap<&'g str, Offer<'g>>;

/// Everything that names are made of.
struct Work<'w, 'a> {
    groups: &'w [Group<'a>],
    deployments: &'w Deployments<'a>,
    gateway: &'w Gateway<'a>,
    grants: Grants<'a>,
    routes: Vec<Route>,
    /// Namespace and name of the owner, public name, and the deployments of an implicit group → route.
    known: HashMap<(String, Name, Vec<u32>), u32>,
    /// Routes of groups that still lack their fallbacks.
    of_groups: Vec<(u32, usize)>,
}

/// `callers`: namespaces of keys, which may have no objects of their own.
pub(super) fn compile<'a>(
    groups: &[Group<'a>],
    deployments: &Deployments<'a>,
    callers: &BTreeSet<&'a str>,
    gateway: &Gateway<'a>,
    grants: Grants<'a>,
    report: &mut Report,
) -> Routes {
    let mut implicit: BTreeMap<&str, BTreeMap<&str, Vec<u32>>> = BTreeMap::new();
    for (index, source) in (0u32..).zip(&deployments.sources) {
        let names = implicit.entry(&source.object.meta.namespace).or_default();
        for name in &source.public_names {
            names.entry(name).or_default().push(index);
        }
    }
    let own = own_names(groups, &implicit, deployments, report);
    let mut namespaces: BTreeSet<&str> = own.keys().copied().collect();
    namespaces.extend(callers.iter().copied());
    let own_namespace = gateway.compiled.namespace.clone();
    namespaces.insert(&own_namespace);
    let mut work =
        Work { groups, deployments, gateway, grants, routes: Vec::new(), known: HashMap::new(), of_groups: Vec::new() };
    let imports = work.imports(&namespaces, &own, &implicit, report);
    let mut compiled = Vec::with_capacity(namespaces.len());
    for namespace in &namespaces {
        let mut names: BTreeMap<&str, u32> = BTreeMap::new();
        for (name, offer) in own.get(namespace).into_iter().flatten() {
            names.insert(name, work.route(namespace, name, offer));
        }
        for (name, (owner, offer)) in imports.get(namespace).into_iter().flatten() {
            names.insert(name, work.route(owner, name, &offer.as_offer()));
        }
        compiled.push(look_up_table(namespace, &names));
    }
    work.link_fallbacks(&compiled, report);
    Routes { routes: work.routes, namespaces: compiled }
}

fn look_up_table(namespace: &str, names: &BTreeMap<&str, u32>) -> Namespace {
    let (mut exact, mut prefixes) = (Vec::new(), Vec::new());
    for (name, route) in names {
        match name.strip_suffix('*') {
            Some(prefix) => prefixes.push((Name::from(prefix), *route)),
            None => exact.push((Name::from(*name), *route)),
        }
    }
    prefixes.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
    Namespace { name: namespace.into(), exact, prefixes }
}

/// Names by namespace: RouteGroups before deployments, the oldest of two RouteGroups.
fn own_names<'g>(
    groups: &'g [Group<'_>],
    implicit: &'g BTreeMap<&'g str, BTreeMap<&'g str, Vec<u32>>>,
    deployments: &Deployments<'_>,
    report: &mut Report,
) -> BTreeMap<&'g str, Own<'g>> {
    let mut own: BTreeMap<&str, Own<'g>> = BTreeMap::new();
    let mut oldest_first: Vec<usize> = (0..groups.len()).collect();
    oldest_first.sort_by_key(|at| seniority(&groups[*at].object.meta));
    // All names before all aliases: an alias never takes a name from its group.
    for is_alias in [false, true] {
        for &at in &oldest_first {
            let group = &groups[at];
            let names = own.entry(&group.object.meta.namespace).or_default();
            for &name in if is_alias { &group.aliases } else { &group.names } {
                if let Some(Offer::Group { group: first, .. }) = names.get(name) {
                    let field = if is_alias { "spec.aliases" } else { "spec.modelNames" };
                    let message =
                        format!("RouteGroup `{}` has the name `{name}` already", groups[*first].object.meta.name);
                    report.error(group.object.subject(), Reason::Duplicate, field, message);
                    continue;
                }
                names.insert(name, Offer::Group { group: at, hidden: is_alias || group.object.spec.hidden });
            }
        }
    }
    for (namespace, names) in implicit {
        let own = own.entry(namespace).or_default();
        for (name, members) in names {
            match own.get(name) {
                Some(Offer::Group { group, .. }) => {
                    report_hidden_members(&groups[*group], name, members, deployments, report);
                }
                Some(Offer::Deployments(_)) | None => {
                    own.insert(name, Offer::Deployments(members));
                }
            }
        }
    }
    own
}

/// Deployments that nobody reaches by their name, because a group has it that does not list them.
fn report_hidden_members(
    group: &Group<'_>,
    name: &str,
    members: &[u32],
    deployments: &Deployments<'_>,
    report: &mut Report,
) {
    for &member in members {
        if group.targets.iter().all(|target| target.deployment != member) {
            let subject = deployments.sources[member as usize].object.subject();
            let message = format!(
                "RouteGroup `{}` has the name `{name}` and does not list this deployment",
                group.object.meta.name
            );
            report.warning(subject, Reason::Shadowed, "spec.modelNames", message);
        }
    }
}

/// Older objects first, then by name.
fn seniority(meta: &Meta) -> (i64, &str, &str) {
    (age(meta.created_at), &meta.namespace, &meta.name)
}

/// What one namespace takes from another for a name.
#[derive(Clone, Debug)]
enum Import {
    Group { group: usize, hidden: bool },
    Deployments(Vec<u32>),
}

impl Import {
    fn as_offer(&self) -> Offer<'_> {
        match self {
            Import::Group { group, hidden } => Offer::Group { group: *group, hidden: *hidden },
            Import::Deployments(members) => Offer::Deployments(members),
        }
    }
}

/// Guest → name → owner and what it offers.
type Imports<'g> = BTreeMap<&'g str, BTreeMap<&'g str, (&'g str, Import)>>;

impl<'a> Work<'_, 'a> {
    fn imports<'g>(
        &self,
        guests: &BTreeSet<&'g str>,
        own: &BTreeMap<&'g str, Own<'g>>,
        implicit: &'g BTreeMap<&'g str, BTreeMap<&'g str, Vec<u32>>>,
        report: &mut Report,
    ) -> Imports<'g>
    where
        'a: 'g,
    {
        let mut imports = Imports::new();
        for (&owner, names) in own {
            for (&name, offer) in names {
                for &guest in guests.iter().filter(|guest| **guest != owner && self.gateway.admits(guest)) {
                    let members = implicit.get(owner).and_then(|names| names.get(name)).map_or(&[][..], Vec::as_slice);
                    let Some(import) = self.import(owner, guest, offer, members) else { continue };
                    if let Some(local) = own.get(guest).and_then(|names| covering(names, name)) {
                        self.report_shadow(local, name, owner, report);
                        continue;
                    }
                    let taken = imports.entry(guest).or_default();
                    match taken.get(name) {
                        Some((first, other)) if self.first_of(other) <= self.first_of(&import) => {
                            self.report_outdone(&import, name, first, guest, report);
                        }
                        Some((_, other)) => {
                            self.report_outdone(other, name, owner, guest, report);
                            taken.insert(name, (owner, import));
                        }
                        None => {
                            taken.insert(name, (owner, import));
                        }
                    }
                }
            }
        }
        imports
    }

    /// What `owner` offers to `guest` for a name: its group, or else those of its deployments that admit the guest.
    fn import(&self, owner: &str, guest: &str, offer: &Offer<'_>, members: &[u32]) -> Option<Import> {
        if let Offer::Group { group, hidden } = offer
            && self.grants.admits(&self.groups[*group].object.spec.allowed_namespaces, owner, guest)
        {
            return Some(Import::Group { group: *group, hidden: *hidden });
        }
        let admitted = members.iter().copied().filter(|member| {
            let allowed = &self.deployments.sources[*member as usize].object.spec.allowed_namespaces;
            self.grants.admits(allowed, owner, guest)
        });
        let admitted: Vec<u32> = admitted.collect();
        (!admitted.is_empty()).then_some(Import::Deployments(admitted))
    }

    /// The oldest object behind an import.
    fn first_of(&self, import: &Import) -> (i64, &'a str, &'a str) {
        match import {
            Import::Group { group, .. } => seniority(&self.groups[*group].object.meta),
            Import::Deployments(members) => {
                let metas = members.iter().map(|member| &self.deployments.sources[*member as usize].object.meta);
                metas.map(seniority).min().unwrap_or((i64::MAX, "", ""))
            }
        }
    }

    fn subject_of(&self, offer: &Offer<'_>) -> Subject<'a> {
        match offer {
            Offer::Group { group, .. } => self.groups[*group].object.subject(),
            Offer::Deployments(members) => {
                let first = members.first().expect("a name has a deployment that brought it");
                self.deployments.sources[*first as usize].object.subject()
            }
        }
    }

    fn report_shadow(&self, local: &Offer<'_>, name: &str, owner: &str, report: &mut Report) {
        let message = format!("hides `{name}`, which namespace `{owner}` offers");
        report.warning(self.subject_of(local), Reason::Shadowed, "spec.modelNames", message);
    }

    fn report_outdone(&self, import: &Import, name: &str, by: &str, guest: &str, report: &mut Report) {
        let message = format!("namespace `{guest}` gets `{name}` from namespace `{by}`, whose offer is older");
        report.warning(self.subject_of(&import.as_offer()), Reason::Shadowed, "spec.modelNames", message);
    }

    /// The route for a name that `owner` has, made on first use.
    fn route(&mut self, owner: &str, name: &str, offer: &Offer<'_>) -> u32 {
        let members = match offer {
            Offer::Group { .. } => Vec::new(),
            Offer::Deployments(members) => members.to_vec(),
        };
        let key = (owner.to_owned(), Name::from(name), members);
        if let Some(index) = self.known.get(&key) {
            return *index;
        }
        let index = u32::try_from(self.routes.len()).expect("there are fewer than 2^32 names");
        let route = match offer {
            Offer::Group { group, hidden } => {
                self.of_groups.push((index, *group));
                self.explicit(name, *group, *hidden)
            }
            Offer::Deployments(members) => self.implicit(owner, name, members),
        };
        self.routes.push(route);
        self.known.insert(key, index);
        index
    }

    fn explicit(&self, name: &str, group: usize, hidden: bool) -> Route {
        let Group { object, strategy, targets, retries, timeouts, cooldown, .. } = &self.groups[group];
        Route {
            name: name.into(),
            owner: format!("{}/{}", object.meta.namespace, object.meta.name).into(),
            explicit: true,
            strategy: *strategy,
            targets: targets.clone(),
            fallbacks: Vec::new(),
            retries: retries.clone(),
            timeouts: *timeouts,
            cooldown: *cooldown,
            hidden,
        }
    }

    fn implicit(&self, owner: &str, name: &str, members: &[u32]) -> Route {
        let target = |member: &u32| {
            let source = &self.deployments.sources[*member as usize];
            model::Target { deployment: *member, weight: source.weight, priority: source.priority, when: None }
        };
        let mut targets: Vec<model::Target> = members.iter().map(target).collect();
        targets.sort_by_key(|target| target.priority);
        let model::Gateway { retries, cooldown, .. } = &self.gateway.compiled;
        Route {
            name: name.into(),
            owner: format!("{owner}/{name}").into(),
            explicit: false,
            strategy: model::Strategy::WeightedShuffle,
            targets,
            fallbacks: Vec::new(),
            retries: retries.clone(),
            timeouts: model::Timeouts::default(),
            cooldown: *cooldown,
            hidden: false,
        }
    }

    /// Names in fallbacks mean what they mean in the group's own namespace, whoever calls.
    fn link_fallbacks(&mut self, namespaces: &[Namespace], report: &mut Report) {
        let mut linked: BTreeMap<usize, Vec<Fallback>> = BTreeMap::new();
        for &(index, group) in &self.of_groups {
            let fallbacks = linked.entry(group).or_insert_with(|| link(&self.groups[group], namespaces, report));
            self.routes[index as usize].fallbacks = fallbacks.clone();
        }
        self.report_cycles(&linked, report);
    }

    /// Calls end all the same, for their attempts are counted; but their owner should know.
    fn report_cycles(&self, linked: &BTreeMap<usize, Vec<Fallback>>, report: &mut Report) {
        let group_of: HashMap<u32, usize> = self.of_groups.iter().copied().collect();
        let next = |group: usize| {
            let fallbacks = linked.get(&group).into_iter().flatten();
            let routes = fallbacks.flat_map(|fallback| fallback.routes.iter());
            routes.filter_map(|route| group_of.get(route).copied()).collect::<BTreeSet<usize>>()
        };
        for &start in linked.keys() {
            let mut seen = BTreeSet::new();
            let mut open: Vec<usize> = next(start).into_iter().collect();
            while let Some(group) = open.pop() {
                if group == start {
                    let message = "its fallbacks lead back to it; a call goes around until its attempts are used up";
                    report.warning(self.groups[start].object.subject(), Reason::Cycle, "spec.fallbacks", message);
                    break;
                }
                if seen.insert(group) {
                    open.extend(next(group));
                }
            }
        }
    }
}

fn link(group: &Group<'_>, namespaces: &[Namespace], report: &mut Report) -> Vec<Fallback> {
    let subject = group.object.subject();
    let at = namespaces.binary_search_by(|namespace| (*namespace.name).cmp(subject.namespace));
    let namespace = at.ok().map(|at| &namespaces[at]);
    let mut fallbacks = Vec::with_capacity(group.fallbacks.len());
    for fallback in &group.fallbacks {
        let mut routes = Vec::with_capacity(fallback.models.len());
        for (field, model) in &fallback.models {
            match namespace.and_then(|namespace| find(namespace, model)) {
                Some(route) if !routes.contains(&route) => routes.push(route),
                Some(_) => {}
                None => {
                    let message = format!("no model is called `{model}` in namespace `{}`", subject.namespace);
                    report.error(subject, Reason::NotFound, field.as_str(), message);
                }
            }
        }
        if !routes.is_empty() {
            fallbacks.push(Fallback { errors: fallback.errors.clone(), routes });
        }
    }
    fallbacks
}

/// What a namespace has of its own that is as exact as the name, or a pattern around it.
fn covering<'n, 'g>(own: &'n Own<'g>, name: &str) -> Option<&'n Offer<'g>> {
    let prefix = name.strip_suffix('*').unwrap_or(name);
    let around = |pattern: &str| pattern.strip_suffix('*').is_some_and(|wide| prefix.starts_with(wide));
    own.get(name).or_else(|| own.iter().find(|(pattern, _)| around(pattern)).map(|(_, offer)| offer))
}
