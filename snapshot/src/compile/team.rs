//! `Team`: bounds that several keys share, those of the teams above included.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use tollgate_crds::{KeyDefaults, Member, MemberRole, TeamSpec};

use super::gateway::Gateway;
use super::input::Object;
use super::objects::{Everything, Grants, Objects};
use super::previous::Previous;
use super::rate_limit;
use super::report::{Report, Subject};
use super::values::{Reader, intersect, kept_limits};
use crate::finding::Reason;
use crate::model::{self, Limits, ModelSet, Name, Policy, TeamMember};

/// More is a mistake, or no good will.
const MOST_ABOVE: usize = 32;

/// A team and what its keys get.
#[derive(Debug)]
pub(super) struct Team<'a> {
    pub object: &'a Object<TeamSpec>,
    pub compiled: model::Team,
    pub key_limits: Limits,
    /// The class of its keys that name none.
    pub priority: Option<Name>,
    /// By user; of several entries for one the first.
    pub members: HashMap<&'a str, usize, RandomState>,
    /// The team itself first, then those above it; positions among the teams.
    pub chain: Vec<usize>,
}

/// In the order of the objects, so that positions are the same.
pub(super) fn compile_all<'a>(
    everything: &Everything<'a>,
    grants: Grants<'a>,
    gateway: &Gateway<'_>,
    previous: &Previous<'_>,
    report: &mut Report,
) -> Vec<Team<'a>> {
    let objects = &everything.teams;
    let parents: Vec<Parent> = objects.iter().map(|object| parent(object, objects, grants, report)).collect();
    let mut teams: Vec<Team<'a>> = objects.iter().map(|object| own(object, gateway, previous, report)).collect();
    for (at, team) in teams.iter_mut().enumerate() {
        team.chain = chain(at, &parents, team.object.subject(), report);
    }
    let own: Vec<model::Team> = teams.iter().map(|team| team.compiled.clone()).collect();
    for team in &mut teams {
        for &above in &team.chain[1..] {
            bind(&mut team.compiled, &own[above]);
        }
        let is_orphan = |at: &usize| matches!(parents[*at], Parent::Missing);
        let is_too_deep = team.chain.len() > MOST_ABOVE + 1;
        if is_too_deep {
            let message = format!("more than {MOST_ABOVE} teams stand above it; those further up are not looked at");
            report.error(team.object.subject(), Reason::InvalidValue, "spec.parentRef", message);
        }
        // What a team that is not looked at would forbid is not known, so everything is.
        team.compiled.blocked |= is_too_deep || team.chain.iter().any(is_orphan);
        let limits_something = |above: &&usize| {
            let above = &own[**above];
            !above.limits.is_unlimited() || !above.members.is_empty()
        };
        team.compiled.above =
            team.chain[1..].iter().filter(limits_something).filter_map(|above| u32::try_from(*above).ok()).collect();
        if let Some(&above) = team.chain.get(1) {
            report_above(&own[team.chain[0]], &own[above], team.object.subject(), report);
        }
    }
    teams
}

/// Those that the gateway has a use for, in the same order: teams that may have keys at it, those of its keys, and those
/// above. Policies name them by their new positions.
pub(super) fn of_gateway(teams: Vec<Team<'_>>, gateway: &Gateway<'_>, policies: &mut [Policy]) -> Vec<model::Team> {
    let mut is_wanted: Vec<bool> = teams.iter().map(|team| gateway.admits(&team.object.meta.namespace)).collect();
    for team in policies.iter().filter_map(|policy| policy.team) {
        is_wanted[team as usize] = true;
    }
    for at in 0..teams.len() {
        if is_wanted[at] {
            teams[at].chain.iter().for_each(|above| is_wanted[*above] = true);
        }
    }
    let mut next = 0;
    let positions: Vec<u32> = is_wanted
        .iter()
        .map(|is_wanted| {
            next += u32::from(*is_wanted);
            next - u32::from(*is_wanted)
        })
        .collect();
    for team in policies.iter_mut().filter_map(|policy| policy.team.as_mut()) {
        *team = positions[*team as usize];
    }
    let wanted = teams.into_iter().zip(is_wanted).filter(|(_, is_wanted)| *is_wanted);
    let mut wanted: Vec<model::Team> = wanted.map(|(team, _)| team.compiled).collect();
    for above in wanted.iter_mut().flat_map(|team| &mut team.above) {
        *above = positions[*above as usize];
    }
    wanted
}

/// Limits that are never reached, because those of the team above are less.
fn report_above(below: &model::Team, above: &model::Team, subject: Subject<'_>, report: &mut Report) {
    let Limits {
        requests_per_minute,
        tokens_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        parallel_requests,
    } = below.limits;
    for (field, own, bound) in [
        ("requestsPerMinute", requests_per_minute, above.limits.requests_per_minute),
        ("tokensPerMinute", tokens_per_minute, above.limits.tokens_per_minute),
        ("inputTokensPerMinute", input_tokens_per_minute, above.limits.input_tokens_per_minute),
        ("outputTokensPerMinute", output_tokens_per_minute, above.limits.output_tokens_per_minute),
        ("parallelRequests", parallel_requests, above.limits.parallel_requests),
    ] {
        if own.zip(bound).is_some_and(|(own, bound)| own > bound) {
            let message = format!("its limit is above that of Team `{}`, which binds it too", above.name);
            report.warning(subject, Reason::AboveParent, format!("spec.limits.{field}"), message);
        }
    }
}

/// What is above a team.
#[derive(Clone, Copy, Debug)]
enum Parent {
    None,
    At(usize),
    Missing,
}

fn parent<'a>(
    object: &Object<TeamSpec>,
    objects: &Objects<'a, TeamSpec>,
    grants: Grants<'a>,
    report: &mut Report,
) -> Parent {
    let Some(reference) = &object.spec.parent_ref else { return Parent::None };
    let subject = object.subject();
    let found = grants.resolve(objects, reference, subject, "spec.parentRef", |spec| &spec.allowed_namespaces, report);
    found.map_or(Parent::Missing, Parent::At)
}

/// The team and those above it, each once.
fn chain(start: usize, parents: &[Parent], subject: Subject<'_>, report: &mut Report) -> Vec<usize> {
    let mut chain = vec![start];
    let mut at = start;
    while let Parent::At(above) = parents[at] {
        if above == start {
            let message = "the teams above it lead back to it; the bounds of all of them apply";
            report.error(subject, Reason::Cycle, "spec.parentRef", message);
        }
        if chain.contains(&above) || chain.len() > MOST_ABOVE + 1 {
            break;
        }
        chain.push(above);
        at = above;
    }
    chain
}

/// Makes `team` at least as strict as the one above.
fn bind(team: &mut model::Team, above: &model::Team) {
    let least = |own: Option<u64>, above: Option<u64>| own.into_iter().chain(above).min();
    team.models = both(team.models.as_ref(), above.models.as_ref());
    team.blocked |= above.blocked;
    team.limits = Limits {
        requests_per_minute: least(team.limits.requests_per_minute, above.limits.requests_per_minute),
        tokens_per_minute: least(team.limits.tokens_per_minute, above.limits.tokens_per_minute),
        input_tokens_per_minute: least(team.limits.input_tokens_per_minute, above.limits.input_tokens_per_minute),
        output_tokens_per_minute: least(team.limits.output_tokens_per_minute, above.limits.output_tokens_per_minute),
        parallel_requests: least(team.limits.parallel_requests, above.limits.parallel_requests),
    };
}

fn both(a: Option<&ModelSet>, b: Option<&ModelSet>) -> Option<ModelSet> {
    match (a, b) {
        (Some(a), Some(b)) => Some(intersect(a, b)),
        (Some(one), None) | (None, Some(one)) => Some(one.clone()),
        (None, None) => None,
    }
}

/// What the team says itself.
fn own<'a>(
    object: &'a Object<TeamSpec>,
    gateway: &Gateway<'_>,
    previous: &Previous<'_>,
    report: &mut Report,
) -> Team<'a> {
    // The budget is compiled with the other budgets; metadata changes nothing, as its description says.
    let TeamSpec {
        models,
        budget: _,
        limits,
        key_defaults: KeyDefaults { budget: _, limits: key_limits },
        members,
        parent_ref: _,
        priority,
        blocked,
        metadata: _,
        allowed_namespaces: _,
    } = &object.spec;
    let subject = object.subject();
    for (at, Member { user: _, role, budget: _, limits: _ }) in members.iter().enumerate() {
        if *role != MemberRole::Member {
            let message = "roles change nothing yet: nobody manages keys through the gateway";
            report.not_yet(subject, format!("spec.members[{at}].role"), message);
        }
    }
    let mut reader = Reader::new(report, subject);
    let models = reader.model_set("spec.models", models);
    reader.broken = false;
    let mut limits = reader.limits("spec.limits", limits.clone());
    let key_limits = reader.limits("spec.keyDefaults.limits", key_limits.clone());
    let mut by_user: HashMap<&str, usize, RandomState> = HashMap::default();
    let mut limited = Vec::new();
    for (at, member) in members.iter().enumerate() {
        let is_first = *by_user.entry(member.user.as_str()).or_insert(at) == at;
        let limits = reader.limits(&format!("spec.members[{at}].limits"), member.limits.clone());
        if is_first && !member.limits.is_unlimited() {
            limited.push((at, limits));
        }
    }
    let mut blocked = *blocked;
    if reader.broken {
        match previous.team(subject.namespace, subject.name) {
            Some(last) => {
                limits = kept_limits(&object.spec.limits, limits, last.limits);
                for (at, limits) in &mut limited {
                    let before = last.members.iter().find(|before| *before.user == *members[*at].user);
                    let before = before.map_or_else(Limits::default, |before| before.limits);
                    *limits = kept_limits(&members[*at].limits, *limits, before);
                }
                report.last_good(subject, "spec.limits");
            }
            // Without bounds that can be read nobody is let through.
            None => blocked = true,
        }
    }
    let mut limited: Vec<TeamMember> =
        limited.into_iter().map(|(at, limits)| TeamMember { user: members[at].user.as_str().into(), limits }).collect();
    limited.sort_unstable_by(|a, b| a.user.cmp(&b.user));
    let compiled = model::Team {
        namespace: object.meta.namespace.as_str().into(),
        name: object.meta.name.as_str().into(),
        models,
        limits,
        members: limited,
        above: Vec::new(),
        blocked,
    };
    let priorities = &gateway.compiled.priorities;
    let priority = rate_limit::class(priority.as_deref(), priorities, "spec.priority", subject, report);
    Team { object, compiled, key_limits, priority, members: by_user, chain: Vec::new() }
}
