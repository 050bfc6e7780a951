//! The rates that a gateway sets for many, and its classes of keys. Which keys a rule counts by their labels is decided
//! here, so that proxies need no labels of teams and namespaces; what only a call tells (its end user, its tags, its
//! model) they look at themselves.

use tollgate_crds::{LabelSelector, Priority, RateLimit, RateLimitPer, RateLimitScope};

use super::input::Labels;
use super::report::{Report, Subject};
use super::values::{Reader, kept_limits};
use crate::finding::Reason;
use crate::model::{self, Limits, Name};

/// The rules that count some keys only, by labels.
#[derive(Debug, Default)]
pub(super) struct Rules<'a>(Vec<Rule<'a>>);

#[derive(Debug)]
struct Rule<'a> {
    name: Name,
    namespace: Option<&'a LabelSelector>,
    key: Option<&'a LabelSelector>,
    team: Option<&'a LabelSelector>,
}

impl Rules<'_> {
    /// Names of those that count calls of a key. `team`: labels of its team.
    pub fn selecting(&self, namespace: &Labels, team: Option<&Labels>, key: &Labels) -> Vec<Name> {
        let selects = |rule: &&Rule<'_>| {
            rule.namespace.is_none_or(|selector| selector.matches(namespace))
                && rule.key.is_none_or(|selector| selector.matches(key))
                && rule.team.is_none_or(|selector| team.is_some_and(|labels| selector.matches(labels)))
        };
        self.0.iter().filter(selects).map(|rule| rule.name.clone()).collect()
    }
}

/// `previous`: the rules that were in use last.
pub(super) fn compile<'a>(
    rules: &'a [RateLimit],
    previous: &[model::RateLimit],
    subject: Subject<'_>,
    report: &mut Report,
) -> (Vec<model::RateLimit>, Rules<'a>) {
    let mut compiled: Vec<model::RateLimit> = Vec::with_capacity(rules.len());
    let mut selecting = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        let RateLimit { name, applies_to, per, .. } = rule;
        let field = format!("spec.rateLimits[{at}]");
        if compiled.iter().any(|other| *other.name == **name) {
            report.error(subject, Reason::Duplicate, format!("{field}.name"), "another rule has this name");
            continue;
        }
        let RateLimitScope { namespace_selector, key_selector, team_selector, users, end_users, tags, models } =
            applies_to;
        let mut reader = Reader::new(report, subject);
        let models = reader.model_set(&format!("{field}.appliesTo.models"), models);
        reader.broken = false;
        let mut limits = reader.limits(&field, rule.limits());
        if reader.broken {
            let last = previous.iter().find(|last| *last.name == **name);
            limits = kept_limits(&rule.limits(), limits, last.map_or_else(Limits::default, |last| last.limits));
            if last.is_some() {
                report.last_good(subject, field.as_str());
            }
        }
        if limits.is_unlimited() {
            report.error(subject, Reason::InvalidValue, field, "the rule limits nothing: say at least one limit");
            continue;
        }
        let name = Name::from(name.as_str());
        let names = |texts: &[String]| texts.iter().map(|text| text.as_str().into()).collect();
        let of_some_keys = namespace_selector.is_some() || key_selector.is_some() || team_selector.is_some();
        if of_some_keys {
            selecting.push(Rule {
                name: name.clone(),
                namespace: namespace_selector.as_ref(),
                key: key_selector.as_ref(),
                team: team_selector.as_ref(),
            });
        }
        compiled.push(model::RateLimit {
            name,
            per: per.map_or(model::RateLimitPer::All, limited),
            of_some_keys,
            users: names(users),
            end_users: names(end_users),
            tags: names(tags),
            models,
            limits,
        });
    }
    (compiled, Rules(selecting))
}

fn limited(per: RateLimitPer) -> model::RateLimitPer {
    match per {
        RateLimitPer::Key => model::RateLimitPer::Key,
        RateLimitPer::Team => model::RateLimitPer::Team,
        RateLimitPer::User => model::RateLimitPer::User,
        RateLimitPer::EndUser => model::RateLimitPer::EndUser,
        RateLimitPer::Tag => model::RateLimitPer::Tag,
        RateLimitPer::Model => model::RateLimitPer::Model,
        RateLimitPer::Namespace => model::RateLimitPer::Namespace,
    }
}

/// Shares that cannot be: the first classes keep theirs, as far as there is something left.
pub(super) fn priorities(priorities: &[Priority], subject: Subject<'_>, report: &mut Report) -> Vec<model::Priority> {
    let mut compiled: Vec<model::Priority> = Vec::with_capacity(priorities.len());
    let mut left = 100;
    for (at, Priority { name, share_percent }) in priorities.iter().enumerate() {
        let field = format!("spec.priorities[{at}]");
        if compiled.iter().any(|other| *other.name == **name) {
            report.error(subject, Reason::Duplicate, format!("{field}.name"), "another class has this name");
            continue;
        }
        let wanted = u8::try_from(*share_percent).unwrap_or(0);
        let share_percent = wanted.min(left);
        if !(1..=100).contains(&wanted) {
            let message = "a share is between 1 and 100 percent; the class keeps nothing";
            report.error(subject, Reason::InvalidValue, format!("{field}.sharePercent"), message);
        } else if share_percent < wanted {
            let message = format!("the shares add up to more than 100 percent; {left} are left for this class");
            report.error(subject, Reason::InvalidValue, format!("{field}.sharePercent"), message);
        }
        left -= share_percent;
        compiled.push(model::Priority { name: name.as_str().into(), share_percent });
    }
    compiled
}

/// The class of a key, if the gateway has it.
pub(super) fn class(
    stated: Option<&str>,
    priorities: &[model::Priority],
    field: &str,
    subject: Subject<'_>,
    report: &mut Report,
) -> Option<Name> {
    let stated = stated?;
    let found = priorities.iter().find(|priority| *priority.name == *stated);
    if found.is_none() {
        let message = format!("the gateway has no class `{stated}` in its priorities; it counts as none");
        report.warning(subject, Reason::NotFound, field, message);
    }
    found.map(|priority| priority.name.clone())
}
