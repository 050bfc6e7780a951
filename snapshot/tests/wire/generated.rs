//! Documents of all kinds that refer to each other in all ways, made by proptest.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};
use tollgate_snapshot::compile::ReplacedKey;
use tollgate_snapshot::{GatewayName, KeyHash};

use crate::documents::World;

/// What there is. Numbers choose among what has the same number, modulo how many there are.
#[derive(Clone, Debug)]
pub struct Plan {
    pub deployments: Vec<Deployment>,
    pub groups: Vec<(usize, Vec<usize>, Vec<usize>)>,
    pub teams: Vec<Team>,
    pub budgets: Vec<Budget>,
    pub keys: Vec<Key>,
    /// So many plain keys beside them.
    pub bulk: usize,
    pub one_more: Option<Key>,
    /// Compile for one of two gateways.
    pub of_many: bool,
}

#[derive(Clone, Debug)]
pub struct Deployment {
    namespace: usize,
    names: Vec<usize>,
    all: bool,
    rate: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Team {
    namespace: usize,
    parent: Option<usize>,
    models: Vec<usize>,
    budget: Option<u64>,
    key_budget: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Budget {
    namespace: usize,
    limit: u64,
    unit: usize,
    period: usize,
    per: Option<usize>,
    models: Vec<usize>,
    parent: Option<usize>,
    user: Option<usize>,
}

#[derive(Clone, Debug, Default)]
pub struct Key {
    pub namespace: usize,
    pub team: Option<usize>,
    pub user: Option<usize>,
    pub models: Vec<usize>,
    pub label: Option<usize>,
    pub own_budget: Option<u64>,
    pub budget_refs: Vec<usize>,
    pub rate: Option<u64>,
    pub disabled: bool,
    pub expires: bool,
    pub replaced: usize,
}

const NAMESPACES: [&str; 3] = ["tollgate", "team-a", "team-b"];
const MODELS: [&str; 5] = ["gpt", "llama", "chat", "gpt-*", "o*"];
const USERS: [&str; 3] = ["alice@example.com", "b\"ob", "zoë\u{1}"];

fn models() -> impl Strategy<Value = Vec<usize>> {
    vec(0..MODELS.len(), 0..4)
}

pub fn plan() -> impl Strategy<Value = Plan> {
    let deployment = (0..3usize, vec(0..MODELS.len(), 1..3), any::<bool>(), option::of(1..100u64))
        .prop_map(|(namespace, names, all, rate)| Deployment { namespace, names, all, rate });
    let group = (0..3usize, vec(0..6usize, 1..4), models());
    let money = || option::of(0..100u64);
    let team = (0..3usize, option::of(0..4usize), models(), money(), money()).prop_map(
        |(namespace, parent, models, budget, key_budget)| Team { namespace, parent, models, budget, key_budget },
    );
    let budget = (
        0..3usize,
        0..100u64,
        0..3usize,
        0..4usize,
        option::of(0..5usize),
        models(),
        option::of(0..5usize),
        option::of(0..3usize),
    )
        .prop_map(|(namespace, limit, unit, period, per, models, parent, user)| Budget {
            namespace,
            limit,
            unit,
            period,
            per,
            models,
            parent,
            user,
        });
    Strategy::prop_map(
        (vec(deployment, 0..6), vec(group, 0..3), vec(team, 0..4), vec(budget, 0..5), vec(key(), 0..12), any::<bool>()),
        |(deployments, groups, teams, budgets, keys, of_many)| Plan {
            deployments,
            groups,
            teams,
            budgets,
            keys,
            bulk: 0,
            one_more: None,
            of_many,
        },
    )
}

fn key() -> impl Strategy<Value = Key> {
    let who = (0..3usize, option::of(0..4usize), option::of(0..3usize), models(), option::of(0..2usize));
    let money = (option::of(0..100u64), vec(0..5usize, 0..3), option::of(1..100u64));
    (who, money, any::<bool>(), any::<bool>(), 0..3usize).prop_map(|(who, money, disabled, expires, replaced)| {
        let (namespace, team, user, models, label) = who;
        let (own_budget, budget_refs, rate) = money;
        let budget_refs = if own_budget.is_some() { Vec::new() } else { budget_refs };
        Key { namespace, team, user, models, label, own_budget, budget_refs, rate, disabled, expires, replaced }
    })
}

fn names(numbers: &[usize]) -> Vec<&'static str> {
    let mut names: Vec<&str> = numbers.iter().map(|number| MODELS[*number]).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn terms(limit: u64) -> Value {
    json!({"limit": limit.to_string(), "period": {"calendar": "Month", "timeZone": "Europe/Vienna"}})
}

fn document(kind: &str, namespace: usize, name: &str, labels: Value, spec: Value) -> Value {
    json!({"kind": kind, "metadata": {"namespace": NAMESPACES[namespace], "name": name, "labels": labels}, "spec": spec})
}

impl Plan {
    pub fn world(&self) -> World {
        let mut world = World::empty();
        for namespace in NAMESPACES {
            world.add(json!({"kind": "Namespace", "metadata": {"name": namespace}}));
        }
        let gateway = json!({
            "default": true,
            "allowedNamespaces": {"from": "All"},
            "rateLimits": [
                {"name": "customers", "per": "EndUser", "requestsPerMinute": 5, "appliesTo": {"models": ["gpt*"]}},
                {"name": "some", "tokensPerMinute": 9, "appliesTo": {"keySelector": {"matchLabels": {"label": "value-0"}}}},
            ],
            "priorities": [{"name": "first", "sharePercent": 60}],
        });
        world.add(document("LLMGateway", 0, "default", json!({}), gateway));
        if self.of_many {
            world.add(document("LLMGateway", 1, "other", json!({}), json!({"allowedNamespaces": {"from": "All"}})));
            world.gateway = Some(GatewayName { namespace: NAMESPACES[0].into(), name: "default".into() });
        }
        for (at, Deployment { namespace, names: numbers, all, rate }) in self.deployments.iter().enumerate() {
            let mut spec = json!({
                "provider": "mock", "model": "m", "modelNames": names(numbers), "pricing": {"like": "openai/gpt-4o"},
                "allowedNamespaces": {"from": if *all { "All" } else { "Same" }},
            });
            if let Some(rate) = rate {
                spec["limits"] = json!({"requestsPerMinute": rate});
            }
            world.add(document("ModelDeployment", *namespace, &format!("m{at}"), json!({}), spec));
        }
        for (at, (namespace, targets, fallbacks)) in self.groups.iter().enumerate() {
            let targets: Vec<Value> = targets
                .iter()
                .enumerate()
                .map(|(at, target)| {
                    let owner = self.deployments.get(*target).map_or(0, |deployment| deployment.namespace);
                    let reference = json!({"name": format!("m{target}"), "namespace": NAMESPACES[owner]});
                    json!({"name": format!("t{at}"), "modelDeploymentRef": reference, "priority": target % 2})
                })
                .collect();
            let mut spec = json!({"modelNames": [format!("group-{at}")], "targets": targets, "strategy": "Ordered"});
            if !fallbacks.is_empty() {
                spec["fallbacks"] = json!([{"name": "f", "errors": ["Any"], "models": names(fallbacks)}]);
            }
            world.add(document("RouteGroup", *namespace, &format!("g{at}"), json!({}), spec));
        }
        for (at, Team { namespace, parent, models, budget, key_budget }) in self.teams.iter().enumerate() {
            let mut spec = json!({"models": names(models), "allowedNamespaces": {"from": "All"}});
            if let Some(parent) = parent {
                let owner = self.teams.get(*parent).map_or(0, |team| team.namespace);
                spec["parentRef"] = json!({"name": format!("t{parent}"), "namespace": NAMESPACES[owner]});
            }
            if let Some(limit) = budget {
                spec["budget"] = terms(*limit);
                spec["limits"] = json!({"outputTokensPerMinute": limit});
            }
            if let Some(limit) = key_budget {
                spec["members"] = json!([{"user": USERS[0], "limits": {"requestsPerMinute": limit}}]);
                spec["keyDefaults"] = json!({"budget": terms(*limit)});
            }
            world.add(document("Team", *namespace, &format!("t{at}"), json!({}), spec));
        }
        for (at, budget) in self.budgets.iter().enumerate() {
            world.add(self.budget(at, budget));
        }
        for (at, key) in self.keys.iter().enumerate() {
            self.add_key(&mut world, &format!("k{at}"), key);
        }
        for at in 0..self.bulk {
            self.add_key(&mut world, &format!("bulk-{at}"), &Key { models: vec![at % 3], ..Key::default() });
        }
        if let Some(key) = &self.one_more {
            self.add_key(&mut world, "one-more", key);
        }
        world
    }

    fn budget(&self, at: usize, budget: &Budget) -> Value {
        let Budget { namespace, limit, unit, period, per, models, parent, user } = budget;
        let mut applies_to = json!({"models": names(models)});
        if let Some(user) = user {
            applies_to["users"] = json!([USERS[*user]]);
        }
        let unit = ["USD", "Tokens", "Requests"][*unit];
        let periods = [
            json!({"calendar": "Day"}),
            json!({"rolling": "24h"}),
            json!({"lifetime": {}}),
            json!({"calendar": "Year"}),
        ];
        let mut spec = json!({
            "limit": limit.to_string(),
            "unit": unit,
            "period": periods[*period],
            "appliesTo": applies_to,
            "allowedNamespaces": {"from": "All"},
        });
        if limit % 3 == 1 {
            spec["boost"] = json!({"amount": "7", "until": "2099-01-01T00:00:00Z"});
        }
        if let Some(per) = per {
            spec["per"] = ["Key", "User", "Team", "Namespace", "Model"][*per].into();
        }
        if let Some(parent) = parent {
            let owner = self.budgets.get(*parent).map_or(0, |budget| budget.namespace);
            spec["parentRef"] = json!({"name": format!("b{parent}"), "namespace": NAMESPACES[owner]});
        }
        document("Budget", *namespace, &format!("b{at}"), json!({}), spec)
    }

    fn add_key(&self, world: &mut World, name: &str, key: &Key) {
        let Key { namespace, team, user, models, label, own_budget, budget_refs, rate, disabled, expires, replaced } =
            key;
        let mut spec = json!({"models": names(models), "disabled": disabled, "secret": {"name": name}});
        if let Some(team) = team {
            let owner = self.teams.get(*team).map_or(0, |team| team.namespace);
            spec["teamRef"] = json!({"name": format!("t{team}"), "namespace": NAMESPACES[owner]});
        }
        if let Some(user) = user {
            spec["user"] = json!(USERS[*user]);
            spec["priority"] = json!("first");
        }
        if let Some(limit) = own_budget {
            spec["budget"] = terms(*limit);
        }
        if !budget_refs.is_empty() {
            let names = budget_refs.iter().map(|number| json!({"name": format!("b{number}")}));
            spec["budgetRefs"] = names.collect();
        }
        if let Some(rate) = rate {
            spec["limits"] = json!({"requestsPerMinute": rate, "perModel": [{"model": "gpt", "requestsPerMinute": 1}]});
        }
        if *expires {
            spec["expiresAt"] = json!("2027-01-01T00:00:00Z");
        }
        let labels = label.map_or(json!({}), |label| json!({"label": format!("value-{label}")}));
        world.add(document("VirtualKey", *namespace, name, labels, spec));
        for number in 0..*replaced {
            let hash = KeyHash::of(format!("{name} {number}").as_bytes());
            let ends_at = 1_800_000_000 + number as i64;
            world.key_hashes.insert_replaced(NAMESPACES[*namespace], name, ReplacedKey { hash, ends_at });
        }
    }
}
