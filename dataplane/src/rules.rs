//! The limits of a call beside those of its key, its model and its team: of the member of a team, of the teams above,
//! and the rules of the gateway. Which of them count calls of a key is decided at the key's first use; most keys have
//! none, and a call of theirs looks at an empty list.

use std::borrow::Cow;
use std::sync::Arc;

use tollgate_snapshot::model::{Key, Limits, Name, Policy, RateLimit, RateLimitPer, Snapshot, Team};

use crate::admit::{Admitted, RequestPermits, take};
use crate::call::Call;
use crate::error::Result;
use crate::limits::{Estimate, LimitScope, Usage};
use crate::names::{self, Names};
use crate::tables::{Persistent, Tables};

/// The most tags of a call that are counted: clients choose how many there are.
const MOST_TAGS: usize = 32;

/// A limit that may bind calls of a key.
#[derive(Debug)]
pub struct Bound {
    scope: LimitScope,
    limits: Limits,
    /// Index into the gateway's rules; `None`: a team's, which counts all calls of the key.
    rule: Option<u32>,
    whose: Whose,
}

/// Who has the limits for themselves.
#[derive(Debug)]
enum Whose {
    /// Always the same for the key.
    One {
        value: Name,
        usage: Arc<Usage>,
    },
    /// The model of the call.
    Model,
    EndUser(Arc<Group>),
    Tag(Arc<Group>),
}

/// Names of end users or tags of one rule in one namespace.
#[derive(Debug, Default)]
pub struct Group {
    /// What the names are called in other proxies too.
    pub prefix: Arc<str>,
    pub names: Names,
}

/// Those that may bind calls of a key.
pub fn of_key(snapshot: &Snapshot, key: &Key, policy: &Policy, persistent: &Persistent) -> Box<[Bound]> {
    let mut bound = Vec::new();
    let team = policy.team.map(|team| &snapshot.teams[team as usize]);
    if let Some(team) = team {
        of_team(snapshot, team, key, persistent, &mut bound);
    }
    for (at, rule) in snapshot.gateway.rate_limits.iter().enumerate() {
        let of_user = |user: &Name| key.user.as_ref() == Some(user);
        let is_selected = !rule.of_some_keys || policy.rate_limits.contains(&rule.name);
        if is_selected && (rule.users.is_empty() || rule.users.iter().any(of_user)) {
            bound.extend(of_rule(snapshot, at, rule, key, policy, team, persistent));
        }
    }
    bound.into()
}

fn of_team(snapshot: &Snapshot, team: &Team, key: &Key, persistent: &Persistent, bound: &mut Vec<Bound>) {
    let above = team.above.iter().map(|above| &snapshot.teams[*above as usize]);
    for (distance, team) in std::iter::once(team).chain(above).enumerate() {
        let Team { namespace, name, limits, members, .. } = team;
        // The team itself is counted with the key.
        if distance > 0 && !limits.is_unlimited() {
            let usage = persistent.limited(format!("team {namespace}/{name}"), limits);
            let whose = Whose::One { value: name.clone(), usage };
            bound.push(Bound { scope: LimitScope::Team, limits: *limits, rule: None, whose });
        }
        let Some(user) = &key.user else { continue };
        if let Ok(at) = members.binary_search_by(|member| (*member.user).cmp(&**user)) {
            let limits = members[at].limits;
            let usage = persistent.limited(format!("team {namespace}/{name} member {user}"), &limits);
            let whose = Whose::One { value: user.clone(), usage };
            bound.push(Bound { scope: LimitScope::TeamMember, limits, rule: None, whose });
        }
    }
}

fn of_rule(
    snapshot: &Snapshot,
    at: usize,
    rule: &RateLimit,
    key: &Key,
    policy: &Policy,
    team: Option<&Team>,
    persistent: &Persistent,
) -> Option<Bound> {
    let RateLimit { name, per, limits, .. } = rule;
    let namespace = &snapshot.namespaces[policy.namespace as usize].name;
    let one = |value: &Name, id: String| {
        let usage = persistent.limited(format!("rule {name} {id}"), limits);
        Whose::One { value: value.clone(), usage }
    };
    let group = |what: &str| persistent.group(&format!("rule {name} {what} {namespace}"));
    let (scope, whose) = match per {
        RateLimitPer::All => (LimitScope::Gateway, one(name, "all".to_owned())),
        RateLimitPer::Key => (LimitScope::Key, one(&key.name, format!("key {namespace}/{}", key.name))),
        RateLimitPer::Team => {
            let Team { namespace, name, .. } = team?;
            (LimitScope::Team, one(name, format!("team {namespace}/{name}")))
        }
        RateLimitPer::User => {
            let user = key.user.as_ref()?;
            (LimitScope::User, one(user, format!("user {user}")))
        }
        RateLimitPer::Namespace => (LimitScope::Namespace, one(namespace, format!("namespace {namespace}"))),
        RateLimitPer::Model => (LimitScope::Model, Whose::Model),
        RateLimitPer::EndUser => (LimitScope::EndUser, Whose::EndUser(group("end-user"))),
        RateLimitPer::Tag => (LimitScope::Tag, Whose::Tag(group("tag"))),
    };
    Some(Bound { scope, limits: *limits, rule: u32::try_from(at).ok(), whose })
}

/// The usages of all rules for each model, by rule and route.
pub fn of_models(snapshot: &Snapshot, persistent: &Persistent) -> Vec<Vec<Arc<Usage>>> {
    let of_rule = |rule: &RateLimit| {
        let is_wanted = rule.per == RateLimitPer::Model;
        let routes = snapshot.routes.iter().filter(|_| is_wanted);
        let id = |route: &tollgate_snapshot::model::Route| {
            format!("rule {} model {} {}", rule.name, route.owner, route.name)
        };
        routes.map(|route| persistent.limited(id(route), &rule.limits)).collect()
    };
    snapshot.gateway.rate_limits.iter().map(of_rule).collect()
}

/// What a call tells of itself, read once and only if a rule asks for it.
struct Facts<'a> {
    call: &'a Call,
    policy: &'a Policy,
    end_user: Option<Option<Cow<'a, str>>>,
    tags: Option<Vec<Cow<'a, str>>>,
}

impl<'a> Facts<'a> {
    fn end_user(&mut self) -> Option<&str> {
        self.end_user.get_or_insert_with(|| self.call.end_user()).as_deref()
    }

    /// Those of the key first, each once.
    fn tags(&mut self) -> &[Cow<'a, str>] {
        self.tags.get_or_insert_with(|| {
            let Facts { call, policy, .. } = self;
            let of_key = policy.tags.iter().map(|tag| Cow::Borrowed(&**tag));
            let of_options = call.options.tags.iter().map(|tag| Cow::Borrowed(tag.as_str()));
            let mut tags: Vec<Cow<'a, str>> = Vec::new();
            for tag in of_key.chain(of_options).chain(call.head.tags(&call.body)) {
                if tags.len() < MOST_TAGS && !tags.contains(&tag) {
                    tags.push(tag);
                }
            }
            tags
        })
    }

    /// Whether a rule counts the call.
    fn fit(&mut self, rule: &RateLimit, model: &str) -> bool {
        let is_one_of = |names: &[Name], text: &str| names.iter().any(|name| **name == *text);
        rule.models.as_ref().is_none_or(|models| models.contains(model))
            && (rule.end_users.is_empty() || self.end_user().is_some_and(|user| is_one_of(&rule.end_users, user)))
            && (rule.tags.is_empty() || self.tags().iter().any(|tag| is_one_of(&rule.tags, tag)))
    }
}

/// Counts a call against the limits that bind it.
///
/// # Errors
/// 429; what was taken before is in `permits`.
pub fn take_all(
    bound: &[Bound],
    admitted: &Admitted,
    tokens: Estimate,
    now: u64,
    persistent: &Persistent,
    permits: &mut RequestPermits,
) -> Result<()> {
    let tables = &*admitted.caller.tables;
    let Some(policy) = admitted.caller.policy() else { return Ok(()) };
    let mut facts = Facts { call: &admitted.call, policy, end_user: None, tags: None };
    for Bound { scope, limits, rule, whose } in bound {
        let rule = rule.map(|at| (at, &tables.snapshot.gateway.rate_limits[at as usize]));
        if rule.is_some_and(|(_, rule)| !facts.fit(rule, &admitted.model)) {
            continue;
        }
        let mut count = |usage: &Arc<Usage>, value: &str| {
            let permit = take(usage, limits, tokens, now, *scope, || shown(value))?;
            permits.bound_output(limits);
            permits.further.push((*scope, permit));
            Result::Ok(())
        };
        match whose {
            Whose::One { value, usage } => count(usage, value)?,
            Whose::Model => {
                let route = admitted.route as usize;
                if let Some(usage) = rule.and_then(|(at, _)| of_model(tables, at, route)) {
                    count(usage, &tables.snapshot.routes[route].name)?;
                }
            }
            Whose::EndUser(group) => {
                if let Some(user) = facts.end_user().filter(|user| !user.is_empty()) {
                    count(&persistent.member(group, names::hash(user), now), user)?;
                }
            }
            Whose::Tag(group) => {
                let counted = rule.map_or(&[][..], |(_, rule)| &rule.tags);
                for tag in facts.tags() {
                    if counted.is_empty() || counted.iter().any(|name| **name == **tag) {
                        count(&persistent.member(group, names::hash(tag), now), tag)?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn of_model(tables: &Tables, rule: u32, route: usize) -> Option<&Arc<Usage>> {
    tables.model_usages.get(rule as usize)?.get(route)
}

/// A client's text in an error: bounded, without control characters.
fn shown(text: &str) -> String {
    text.chars().filter(|one| !one.is_control()).take(128).collect()
}
