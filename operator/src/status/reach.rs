//! Which deployments calls of keys may come to: those behind the names that key and team allow, and behind the fallbacks
//! of these, which a client may name as well. Found out once for all keys that may ask for the same. Pure.

use std::collections::{BTreeSet, HashMap};

use foldhash::fast::RandomState;
use tollgate_snapshot::model::{ModelSet, Namespace, Policy, Snapshot};

/// What keys may ask for, and what may serve them.
#[derive(Debug, Default)]
pub struct Reach<'a> {
    /// Public names, and what stands before the `*` of patterns.
    names: Vec<(&'a str, Is)>,
    /// Indices, sorted.
    pub deployments: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Is {
    Name,
    Pattern,
}

impl Reach<'_> {
    /// Whether some call of these keys asks for one of the models; `None`: for any.
    pub fn asks_for(&self, models: Option<&ModelSet>) -> bool {
        let Some(models) = models else { return !self.names.is_empty() };
        self.names.iter().any(|(name, is)| match is {
            Is::Name => models.contains(name),
            Is::Pattern => meets(models, name),
        })
    }
}

/// What keys of the same namespace have for the same sets of key and team.
type Allowed<'a> = (u32, Option<&'a ModelSet>, Option<&'a ModelSet>);

/// Of all policies that were asked for.
pub struct Reaches<'a> {
    snapshot: &'a Snapshot,
    of_policy: Vec<Option<u32>>,
    known: HashMap<Allowed<'a>, u32, RandomState>,
    all: Vec<Reach<'a>>,
}

impl<'a> Reaches<'a> {
    pub fn new(snapshot: &'a Snapshot) -> Reaches<'a> {
        Reaches { snapshot, of_policy: Vec::new(), known: HashMap::default(), all: Vec::new() }
    }

    /// The number of what keys of this policy may reach, for [`Reaches::get`].
    pub fn of(&mut self, policy: u32) -> u32 {
        let at = policy as usize;
        if self.of_policy.is_empty() {
            self.of_policy = vec![None; self.snapshot.policies.len()];
        }
        if let Some(Some(known)) = self.of_policy.get(at) {
            return *known;
        }
        let allowed = self.snapshot.policies.get(at).map(|Policy { namespace, team, models, .. }| {
            let team = team.and_then(|team| self.snapshot.teams.get(team as usize));
            (*namespace, models.as_ref(), team.and_then(|team| team.models.as_ref()))
        });
        let allowed = allowed.unwrap_or((u32::MAX, None, None));
        let next = u32::try_from(self.all.len()).expect("there are fewer than 2^32 policies");
        let number = *self.known.entry(allowed).or_insert(next);
        if number == next {
            self.all.push(reach(self.snapshot, allowed));
        }
        if let Some(of_policy) = self.of_policy.get_mut(at) {
            *of_policy = Some(number);
        }
        number
    }

    pub fn get(&self, number: u32) -> &Reach<'a> {
        &self.all[number as usize]
    }
}

fn reach<'a>(snapshot: &'a Snapshot, (namespace, of_key, of_team): Allowed<'a>) -> Reach<'a> {
    let Some(namespace) = snapshot.namespaces.get(namespace as usize) else { return Reach::default() };
    let (first, other) = match (of_key, of_team) {
        // Names lead to fewer than patterns may.
        (Some(key), Some(team)) if !key.prefixes.is_empty() => (team, Some(key)),
        (Some(key), team) => (key, team),
        (None, Some(team)) => (team, None),
        // Neither says anything: nothing is allowed.
        (None, None) => return Reach::default(),
    };
    let mut names = BTreeSet::new();
    let mut routes = BTreeSet::new();
    for name in first.exact.iter().filter(|name| other.is_none_or(|other| other.contains(name))) {
        if let Some(route) = find_route(namespace, name) {
            names.insert((&**name, Is::Name));
            routes.insert(route);
        }
    }
    for wanted in &first.prefixes {
        let exact = namespace.exact.iter().filter(|(name, _)| name.starts_with(&**wanted));
        for (name, route) in exact.filter(|(name, _)| other.is_none_or(|other| other.contains(name))) {
            names.insert((&**name, Is::Name));
            routes.insert(*route);
        }
        for (there, route) in &namespace.prefixes {
            let narrower = if there.len() > wanted.len() { there } else { wanted };
            let meet = narrower.starts_with(&**there) && narrower.starts_with(&**wanted);
            if meet && other.is_none_or(|other| meets(other, narrower)) {
                names.insert((&**narrower, Is::Pattern));
                routes.insert(*route);
            }
        }
    }
    Reach { names: names.into_iter().collect(), deployments: behind(snapshot, routes) }
}

/// The route for a name: the exact name, else the longest pattern.
pub fn find_route(namespace: &Namespace, name: &str) -> Option<u32> {
    let Namespace { name: _, exact, prefixes } = namespace;
    match exact.binary_search_by(|(probe, _)| (**probe).cmp(name)) {
        Ok(at) => Some(exact[at].1),
        Err(_) => prefixes.iter().find(|(prefix, _)| name.starts_with(&**prefix)).map(|(_, route)| *route),
    }
}

/// The deployments of routes and of all their fallbacks, sorted.
pub fn behind(snapshot: &Snapshot, routes: BTreeSet<u32>) -> Vec<u32> {
    let (mut seen, mut deployments) = (routes.clone(), BTreeSet::new());
    let mut open: Vec<u32> = routes.into_iter().collect();
    while let Some(at) = open.pop() {
        let Some(route) = snapshot.routes.get(at as usize) else { continue };
        deployments.extend(route.targets.iter().map(|target| target.deployment));
        let fallbacks = route.fallbacks.iter().flat_map(|fallback| &fallback.routes);
        open.extend(fallbacks.copied().filter(|route| seen.insert(*route)));
    }
    deployments.into_iter().collect()
}

/// Whether the set has a name that begins so.
fn meets(set: &ModelSet, prefix: &str) -> bool {
    let ModelSet { exact, prefixes } = set;
    exact.iter().any(|name| name.starts_with(prefix))
        || prefixes.iter().any(|own| own.starts_with(prefix) || prefix.starts_with(&**own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_snapshot::model::{ErrorClass, Fallback, Route, Target, Team};

    fn route(deployment: u32, fallback: Option<u32>) -> Route {
        let fallback = fallback.map(|route| Fallback { errors: vec![ErrorClass::Any], routes: vec![route] });
        let targets = vec![Target { deployment, ..Target::default() }];
        Route { targets, fallbacks: fallback.into_iter().collect(), ..Route::default() }
    }

    /// Names `a` (falls back to `b`, and that to `a`), `b`, `c`, `x/1`, and the patterns `x/*` and `*`, each with a
    /// deployment of its own.
    fn reached(key: Option<&[&str]>, team: Option<&[&str]>) -> (Vec<u32>, bool) {
        let set = |models: &[&str]| ModelSet::new(models.iter().copied());
        let exact = ["a", "b", "c", "x/1"].into_iter().zip(0..).map(|(name, route)| (name.into(), route)).collect();
        let prefixes = vec![("x/".into(), 4), ("".into(), 5)];
        let snapshot = Snapshot {
            routes: (0..6).map(|at| route(at, [Some(1), Some(0)].get(at as usize).copied().flatten())).collect(),
            namespaces: vec![Namespace { name: "n".into(), exact, prefixes }],
            teams: vec![Team { models: team.map(set), ..Team::default() }],
            policies: vec![Policy { team: Some(0), models: key.map(set), ..Policy::default() }],
            ..Snapshot::default()
        };
        let mut reaches = Reaches::new(&snapshot);
        let number = reaches.of(0);
        assert_eq!(reaches.of(0), number);
        let reach = reaches.get(number);
        (reach.deployments.clone(), reach.asks_for(Some(&ModelSet::new(["x/1"]))))
    }

    #[test]
    fn a_key_reaches_what_it_and_its_team_allow() {
        for (key, team, deployments, asks_for_x1, why) in [
            (None, None, &[][..], false, "nobody allows anything"),
            (Some(&["c"][..]), None, &[2], false, "a name"),
            (Some(&["a"]), None, &[0, 1], false, "and its fallbacks"),
            (Some(&["*"]), Some(&["c"][..]), &[2], false, "the team allows less"),
            (Some(&["c", "b"]), Some(&["c"]), &[2], false, "so it does of names"),
            (None, Some(&["c"]), &[2], false, "the team alone"),
            (Some(&["x/*"]), None, &[3, 4, 5], true, "names and patterns behind a pattern"),
            (Some(&["x/9"]), None, &[4], false, "the longest pattern has a name"),
            (Some(&["c*"]), Some(&["x/*"]), &[], false, "they do not meet"),
            (Some(&["*"]), None, &[0, 1, 2, 3, 4, 5], true, "everything"),
        ] {
            assert_eq!(reached(key, team), (deployments.to_vec(), asks_for_x1), "{why}");
        }
    }
}
