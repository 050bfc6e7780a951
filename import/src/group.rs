//! Deployments of one public name, and the RouteGroups for those that need more than sharing calls by weight.

use std::collections::BTreeMap;

use tollgate_crds::{AllowedNamespaces, Cooldown, ObjectRef, Retries, RouteGroupSpec, Strategy, Target, Timeouts};

use crate::block::{Block, Item};
use crate::context::Context;
use crate::deployment::Entry;
use crate::fallback::Fallbacks;
use crate::name::Names;
use crate::node::Node;
use crate::retry;
use crate::settings::{Home, Settings};
use crate::share;

/// Names that clients ask for, and the entries behind them, by position.
#[derive(Debug)]
struct Group {
    name: String,
    aliases: Vec<String>,
    hidden_aliases: Vec<String>,
    members: Vec<usize>,
    /// There is no `model_name` like it, so that it exists only as a RouteGroup.
    is_own: bool,
}

/// What holds for all groups.
pub struct Routing {
    pub retries: Option<Retries>,
    pub cooldown: Option<Cooldown>,
}

/// The RouteGroups with their names, and the largest number of attempts that a call may need.
pub struct Routes {
    pub groups: Vec<(String, RouteGroupSpec)>,
    pub most_attempts: i32,
}

/// Makes the RouteGroups, and settles the shares of the entries.
pub fn route(entries: &mut [Entry], settings: &mut Settings, routing: &Routing, context: &mut Context<'_>) -> Routes {
    let mut groups = gather(entries);
    let strategy = strategy(settings, context);
    for group in &groups {
        let mut members: Vec<&mut Entry> = entries.iter_mut().filter(|entry| entry.group == group.name).collect();
        if strategy == Strategy::WeightedShuffle || members.iter().any(|entry| entry.share.weight.is_some()) {
            share::settle(&mut members, context);
        } else {
            share::order(&mut members);
        }
    }
    if let Some(item) = settings.take("model_group_alias", &[Home::Router, Home::Litellm], context) {
        for (alias, item) in Block::open(item, context).rest() {
            add_alias(&mut groups, alias, item, context);
        }
    }
    let mut policies = BTreeMap::new();
    if let Some(item) = settings.take("model_group_retry_policy", &[Home::Router], context) {
        for (group, item) in Block::open(item, context).rest() {
            if groups.iter().any(|present| present.name == group) {
                policies.insert(group, retry::policy(item, context));
            } else {
                context.notes.error(item.path, format!("no entry of model_list has the name `{group}`"), "");
            }
        }
    }
    let mut fallbacks = Fallbacks::read(settings, context);
    let mut names = Names::default();
    let mut routes = Routes { groups: Vec::new(), most_attempts: retry::attempts_of(routing.retries.as_ref(), 0) };
    for group in &groups {
        let members: Vec<&Entry> = group.members.iter().map(|at| &entries[*at]).collect();
        let policy = policies.remove(&group.name);
        let spec = spec(group, &members, policy, strategy, routing, &mut fallbacks, context);
        let retries = spec.retries.as_ref().or(routing.retries.as_ref());
        let models = spec.fallbacks.iter().map(|fallback| fallback.models.len()).max().unwrap_or(0);
        routes.most_attempts = routes.most_attempts.max(retry::attempts_of(retries, models));
        if is_needed(group, &spec) {
            routes.groups.push((names.unique(&group.name), spec));
        }
    }
    fallbacks.finish(|model| groups.iter().any(|group| group.answers(model)), context);
    routes
}

impl Group {
    fn answers(&self, model: &str) -> bool {
        let matches = |name: &str| match name.strip_suffix('*') {
            Some(prefix) => model.starts_with(prefix),
            None => model == name,
        };
        matches(&self.name) || self.aliases.iter().chain(&self.hidden_aliases).any(|alias| matches(alias))
    }
}

fn gather(entries: &[Entry]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        match groups.iter_mut().find(|group| group.name == entry.group) {
            Some(group) => group.members.push(at),
            None => groups.push(Group {
                name: entry.group.clone(),
                aliases: Vec::new(),
                hidden_aliases: Vec::new(),
                members: vec![at],
                is_own: false,
            }),
        }
    }
    groups
}

/// `alias: group`, `alias: {model: group, hidden: true}`, or `alias: [group, group]`, which shares calls among them.
fn add_alias(groups: &mut Vec<Group>, alias: String, item: Item, context: &mut Context<'_>) {
    if groups.iter().any(|group| group.name == alias) {
        context.notes.error(item.path, format!("`{alias}` is a name of model_list too; the alias is left out"), "");
        return;
    }
    let mut is_hidden = false;
    let wanted: Vec<(String, String)> = match &item.node {
        Node::Map(_) => {
            let path = item.path.clone();
            let mut block = Block::open(item, context);
            is_hidden = block.take("hidden").and_then(|item| context.boolean(&item)).unwrap_or(false);
            let model = block.take("model").and_then(|item| Some((item.path.clone(), context.text(&item)?)));
            if model.is_none() {
                context.notes.error(path, "the alias names no model", "");
            }
            for (_, item) in block.rest() {
                context.unsupported(&item.path, "is not known of an alias", "");
            }
            model.into_iter().collect()
        }
        Node::List(_) => {
            let items = item.each();
            items.iter().filter_map(|item| Some((item.path.clone(), context.text(item)?))).collect()
        }
        _ => context.text(&item).map(|model| (item.path.clone(), model)).into_iter().collect(),
    };
    let mut found = Vec::new();
    for (path, model) in &wanted {
        match groups.iter().position(|group| !group.is_own && group.name == *model) {
            Some(at) => found.push(at),
            None => context.notes.error(path, format!("no entry of model_list has the name `{model}`"), ""),
        }
    }
    match found.as_slice() {
        [] => {}
        [at] => {
            let group = &mut groups[*at];
            if is_hidden { group.hidden_aliases.push(alias) } else { group.aliases.push(alias) }
        }
        several => {
            let mut members: Vec<usize> = several.iter().flat_map(|at| groups[*at].members.iter().copied()).collect();
            members.sort_unstable();
            members.dedup();
            groups.push(Group { name: alias, aliases: Vec::new(), hidden_aliases: Vec::new(), members, is_own: true });
        }
    }
}

fn strategy(settings: &mut Settings, context: &mut Context<'_>) -> Strategy {
    let Some(item) = settings.take("routing_strategy", &[Home::Router, Home::Litellm], context) else {
        return Strategy::default();
    };
    let Some(word) = context.text(&item) else { return Strategy::default() };
    let word = word.replace('_', "-");
    match word.trim_end_matches("-v2").trim_end_matches("-routing") {
        "simple-shuffle" | "simple" => Strategy::WeightedShuffle,
        "least-busy" => Strategy::LeastBusy,
        "usage-based" => Strategy::UsageBased,
        "latency-based" | "lowest-latency" => Strategy::LowestLatency,
        "cost-based" | "lowest-cost" => Strategy::LowestCost,
        _ => {
            let hint = "simple-shuffle, least-busy, usage-based-routing, latency-based-routing, cost-based-routing";
            context.notes.error(item.path, format!("there is no strategy `{word}`; simple-shuffle is used"), hint);
            Strategy::default()
        }
    }
}

fn spec(
    group: &Group,
    members: &[&Entry],
    policy: Option<Retries>,
    strategy: Strategy,
    routing: &Routing,
    fallbacks: &mut Fallbacks,
    context: &mut Context<'_>,
) -> RouteGroupSpec {
    let names: Vec<&str> =
        std::iter::once(&group.name).chain(&group.aliases).chain(&group.hidden_aliases).map(String::as_str).collect();
    let target = |entry: &&Entry| Target {
        name: entry.name.clone(),
        model_deployment_ref: ObjectRef { name: entry.name.clone(), namespace: None },
        ..Target::default()
    };
    RouteGroupSpec {
        model_names: std::iter::once(&group.name).chain(&group.aliases).cloned().collect(),
        aliases: group.hidden_aliases.clone(),
        hidden: false,
        // With one target there is nothing to choose.
        strategy: if members.len() > 1 { strategy } else { Strategy::default() },
        targets: members.iter().map(target).collect(),
        fallbacks: fallbacks.of(&names, context),
        retries: policy.or_else(|| retries(group, members, routing, context)),
        timeouts: Timeouts::default(),
        cooldown: cooldown(group, members, routing, context),
        canary: None,
        mirror: None,
        affinity: None,
        allowed_namespaces: AllowedNamespaces::default(),
    }
}

/// The most that a member asks for: a group has one number.
fn retries(group: &Group, members: &[&Entry], routing: &Routing, context: &mut Context<'_>) -> Option<Retries> {
    let most = members.iter().filter_map(|entry| entry.retries).max()?;
    for entry in members.iter().filter(|entry| !group.is_own && entry.retries != Some(most)) {
        let message = format!("{most} retries hold for all deployments of `{}`", entry.group);
        context.notes.warn(format!("{}.litellm_params.num_retries", entry.path), message, "");
    }
    Some(Retries { attempts: Some(most), ..routing.retries.clone().unwrap_or_default() })
}

/// The longest that a member asks for: a group has one duration.
fn cooldown(group: &Group, members: &[&Entry], routing: &Routing, context: &mut Context<'_>) -> Option<Cooldown> {
    let length = |cooldown: &Cooldown| cooldown.duration.as_ref().and_then(|duration| duration.get().ok());
    let longest = members.iter().filter_map(|entry| entry.cooldown.as_ref()).max_by_key(|cooldown| length(cooldown))?;
    for entry in members.iter().filter(|entry| !group.is_own && entry.cooldown.as_ref() != Some(longest)) {
        let duration = longest.duration.as_ref().map_or("", |duration| duration.as_str());
        let message = format!("a cooldown of {duration} holds for all deployments of `{}`", entry.group);
        context.notes.warn(format!("{}.litellm_params.cooldown_time", entry.path), message, "");
    }
    Some(Cooldown { duration: longest.duration.clone(), ..routing.cooldown.clone().unwrap_or_default() })
}

/// Whether the group says more than its deployments do by themselves.
fn is_needed(group: &Group, spec: &RouteGroupSpec) -> bool {
    group.is_own
        || spec.model_names.len() > 1
        || !spec.aliases.is_empty()
        || spec.strategy != Strategy::default()
        || !spec.fallbacks.is_empty()
        || spec.retries.is_some()
        || spec.cooldown.is_some()
}
