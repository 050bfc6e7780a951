//! The snapshot as the hot path reads it: hash lookups, prepared header values and URLs, and the live state (limits,
//! health, budgets) that outlives a snapshot because it belongs to names, not to generations. Built away from the
//! cores, swapped whole, never changed.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hashbrown::HashTable;
use http::HeaderValue;
use tollgate_dialects::head::Operation;
use tollgate_dialects::usage::UsageQuirks;
use tollgate_ledger::{BudgetTerms, Ledger, NameId, PostgresTarget};
use tollgate_snapshot::catalogue::PriceCap;
use tollgate_snapshot::condition::{Condition, Fault};
use tollgate_snapshot::model::{self, AuthStyle, Endpoint, KeyHash, Name, PerCall, Snapshot, Surface};
use tollgate_snapshot::price::Unit;
use tollgate_snapshot::{Credential, catalogue};

use crate::attribution;
use crate::cooldown::Health;
use crate::exact::Counting;
use crate::limits::Usage;
use crate::metrics::{Label, Registry};
use crate::names::NameHash;
use crate::outgoing::Mode;
use crate::parameters::Effects;
use crate::priority::{self, Classes};
use crate::rules::{self, Bound, Group};
use crate::share::{Hub, Shared};
use crate::shared_budgets::RedisLink;
use crate::slice::Speed;
use crate::told::Told;
use crate::upstream::Target;
use crate::which::Which;

/// One snapshot, indexed.
#[derive(Debug)]
pub struct Tables {
    pub generation: u64,
    pub snapshot: Snapshot,
    keys: HashTable<u32>,
    namespaces: Vec<NamespaceIndex>,
    /// Index of the gateway's own namespace, for the master key.
    pub home: Option<u32>,
    pub deployments: Vec<DeploymentEntry>,
    pub routes: Vec<RouteEntry>,
    pub teams: Vec<TeamEntry>,
    /// Made at the first use: most keys of many rest.
    key_states: Vec<OnceLock<Box<KeyState>>>,
    budgets: Vec<OnceLock<Arc<tollgate_ledger::Budget>>>,
    /// Of budgets that have one for each member.
    members: HashMap<u32, Arc<tollgate_ledger::Members>, foldhash::fast::RandomState>,
    /// What every call must know of its budgets, packed: the budgets themselves are large and cold.
    pub budget_kinds: Vec<BudgetKind>,
    /// Of the gateway's rules for each model, by rule and route.
    pub model_usages: Vec<Vec<Arc<Usage>>>,
    /// Percent, by class; the last is of keys without a class. Empty: there are no classes.
    pub shares: Vec<u64>,
    /// Some budget names models to call first when little is left of it.
    pub has_low_models: bool,
    /// Headers that say who is behind a call, where the gateway names some.
    pub told: Option<Box<Told>>,
    pub master: KeyState,
}

/// The part of a budget that decides how a call is held.
#[derive(Clone, Copy, Debug)]
pub struct BudgetKind {
    pub hard: bool,
    pub unit: model::BudgetUnit,
    /// Only some models or providers count: ask the budget.
    pub scoped: bool,
    /// What the call brings decides whether it counts, or in which of many.
    pub by_call: bool,
    /// An amount of USD that one key has for itself, for all of its calls.
    pub keys_own: bool,
}

#[derive(Debug, Default)]
struct NamespaceIndex {
    exact: HashMap<Name, u32, foldhash::fast::RandomState>,
}

/// A deployment, ready to be called.
#[derive(Debug)]
pub struct DeploymentEntry {
    pub state: Arc<DeploymentState>,
    pub account: Option<Arc<Usage>>,
    /// By class. Empty: there are none, or the deployment has no limits.
    pub classes: Classes,
    pub account_classes: Classes,
    pub target: Target,
    /// `host` or `host:port`.
    pub authority: HeaderValue,
    /// Header values that carry a credential, with weights; empty: called without.
    pub credentials: Vec<PreparedCredential>,
    pub paths: Paths,
    /// `namespace/name`
    pub id: Name,
    pub label: Label,
    pub name_id: NameId,
    pub provider_id: NameId,
    /// The provider's name of the model; `None` where it is a pattern.
    pub model_id: Option<NameId>,
    /// Where the price comes from, for rows.
    pub price_version: NameId,
    /// How its usage differs from its dialect's.
    pub usage_quirks: UsageQuirks,
    /// What its own parameters change of a call's worst case.
    pub effects: Effects,
    /// The provider says what a call cost, and is believed.
    pub trusts_reported_cost: bool,
    /// Of the provider: see [`catalogue::Provider`].
    pub model_fields: &'static [&'static str],
    pub dear_fields: &'static [&'static str],
    /// Models whose calls nothing bounds.
    pub unbounded: Which,
    /// Models that what a search finds is input of.
    pub reads: Which,
    pub price_cap: Option<PriceCap>,
    pub headers: DeploymentHeaders,
    pub extra_headers: Vec<(http::HeaderName, HeaderValue)>,
    /// Whom probes of it are booked to.
    pub prober: KeyState,
}

/// What a deployment tells clients about itself.
#[derive(Debug)]
pub struct DeploymentHeaders {
    pub api_base: HeaderValue,
    /// Header fields, as they are sent.
    pub lines: Box<[u8]>,
}

impl DeploymentHeaders {
    fn new(deployment: &model::Deployment, id: &str, api_base: &str) -> DeploymentHeaders {
        let name = format!("{}/{}", deployment.provider, deployment.model);
        let fields = [("id", id), ("name", &name), ("api-base", api_base)];
        let region = deployment.region.as_deref().map(|region| ("region", region));
        let mut lines = Vec::new();
        for (field, value) in fields.into_iter().chain(region) {
            for part in [&b"x-litellm-model-"[..], field.as_bytes(), b": ", header_value(value).as_bytes(), b"\r\n"] {
                lines.extend_from_slice(part);
            }
        }
        DeploymentHeaders { api_base: header_value(api_base), lines: lines.into() }
    }
}

#[derive(Debug)]
pub struct PreparedCredential {
    pub weight: u32,
    pub header: http::HeaderName,
    pub value: HeaderValue,
}

/// Request targets of one deployment. `None` where the model is a pattern: built for each call then.
#[derive(Debug)]
pub struct Paths {
    pub chat: Option<http::Uri>,
    pub completions: Option<http::Uri>,
    pub embeddings: Option<http::Uri>,
    pub messages: Option<http::Uri>,
    pub count_tokens: Option<http::Uri>,
    /// The list of models.
    pub models: Option<http::Uri>,
}

/// What a deployment did and does. Outlives snapshots.
#[derive(Debug, Default)]
pub struct DeploymentState {
    pub usage: Arc<Usage>,
    pub health: Health,
    /// Attempts under way, over all cores.
    pub in_flight: AtomicU64,
    /// How fast its streams come, where what is held of them grows.
    pub speed: Speed,
}

#[derive(Debug)]
pub struct RouteEntry {
    pub label: Label,
    pub name_id: NameId,
    /// Clients choose what stands for its `*`.
    pub is_pattern: bool,
    pub group: HeaderValue,
    /// In the order of the route's targets.
    pub targets: Box<[TargetEntry]>,
}

/// What a choice among targets looks at, close together: deployments are large, and most of a route's are not chosen.
#[derive(Debug)]
pub struct TargetEntry {
    pub state: Arc<DeploymentState>,
    /// By operation: whether the deployment can serve it.
    serves: [bool; Operation::ALL.len()],
    /// It is for some calls only.
    pub is_conditional: bool,
    /// `None` where it cannot be read.
    pub condition: Option<Box<Condition>>,
}

impl TargetEntry {
    pub fn serves(&self, operation: Operation) -> bool {
        self.serves[operation as usize]
    }
}

#[derive(Debug)]
pub struct TeamEntry {
    pub usage: Arc<Usage>,
    pub label: Label,
    pub name_id: NameId,
}

/// The live side of a key, made at its first use.
#[derive(Debug, Default)]
pub struct KeyState {
    pub usage: Arc<Usage>,
    /// One for each entry of the policy's `per_model`.
    pub per_model: Vec<Arc<Usage>>,
    /// What else may bind its calls.
    pub bound: Box<[Bound]>,
    pub name_id: NameId,
    pub user_id: NameId,
    pub namespace_id: NameId,
    /// The key's own, as one name.
    pub tags: NameId,
}

/// State that belongs to names and lives as long as the process.
#[derive(Debug, Default)]
pub struct Persistent {
    usages: Mutex<HashMap<String, Arc<Usage>>>,
    deployments: Mutex<HashMap<Name, Arc<DeploymentState>>>,
    endpoints: Mutex<HashMap<Endpoint, usize>>,
    pub redis: RedisLink,
    /// End users and tags, by what they are called before the name.
    groups: Mutex<HashMap<String, Arc<Group>>>,
    /// Set where several proxies have the limits together.
    pub hub: Option<Arc<Hub>>,
}

/// The name of those that find no room in a group.
const CROWD: &str = "crowd";

/// What the names of groups begin with, and no others: behind the last `#` stands who of them it is.
const GROUP: &str = "names of ";

impl Persistent {
    /// Of a proxy that is one of several, of which an operator knows. The default is one that is alone.
    pub fn of_several() -> Persistent {
        Persistent { hub: Some(Arc::default()), ..Persistent::default() }
    }

    /// Of a process that may be one of several, of which only their Redis knows.
    pub fn of_equals() -> Persistent {
        Persistent { hub: Some(Arc::new(Hub::of_equals())), ..Persistent::default() }
    }

    /// Whether a counter gives leases of limits now.
    pub fn has_leases(&self) -> bool {
        self.hub.as_ref().is_some_and(|hub| hub.exact.counting() == Counting::Leases)
    }

    /// `namespace/name` and Unix seconds of the last call of keys that were used at `after` or later. `after`: Unix
    /// seconds.
    pub fn used_since(&self, after: i64) -> Vec<(String, i64)> {
        let usages = lock(&self.usages);
        let used = usages.iter().filter_map(|(name, usage)| {
            let key = name.strip_prefix("key ")?;
            let at = usage.last_used().filter(|at| *at >= after)?;
            Some((key.to_owned(), at))
        });
        used.collect()
    }

    /// Usage of a key, team or account, by a name that tells kinds apart.
    fn usage(&self, name: String) -> Arc<Usage> {
        lock(&self.usages).entry(name).or_default().clone()
    }

    /// The same, of something that has limits, which other proxies may have too.
    pub fn limited(&self, name: String, limits: &model::Limits) -> Arc<Usage> {
        if limits.is_unlimited() || self.hub.is_none() {
            return self.usage(name);
        }
        let shared: Arc<str> = name.as_str().into();
        let usage = self.usage(name);
        self.share(&usage, || shared);
        usage
    }

    fn share(&self, usage: &Arc<Usage>, name: impl FnOnce() -> Arc<str>) {
        if let Some(hub) = &self.hub {
            usage.share(|| Box::new(Shared::new(name(), hub.clone(), usage)));
        }
    }

    /// End users or tags of one rule in one namespace.
    pub fn group(&self, prefix: &str) -> Arc<Group> {
        let mut groups = lock(&self.groups);
        if let Some(group) = groups.get(prefix) {
            return group.clone();
        }
        let group = Arc::new(Group { prefix: prefix.into(), ..Group::default() });
        groups.insert(prefix.to_owned(), group.clone());
        group
    }

    /// The usage of one of them. `now`: seconds since the process began.
    pub fn member(&self, group: &Group, name: NameHash, now: u64) -> Arc<Usage> {
        let Group { prefix, names } = group;
        names.usage(name, now, |usage, name| {
            self.share(usage, || match name {
                Some(name) => format!("{GROUP}{prefix}#{name:032x}").into(),
                None => format!("{GROUP}{prefix}#{CROWD}").into(),
            });
        })
    }

    /// The usage that proxies know by this name. `now`: seconds since the process began.
    pub fn find(&self, name: &str, now: u64) -> Option<Arc<Usage>> {
        let Some((prefix, member)) = name.strip_prefix(GROUP).and_then(|group| group.rsplit_once('#')) else {
            let usage = self.usage(name.to_owned());
            self.share(&usage, || name.into());
            return Some(usage);
        };
        let group = self.group(prefix);
        if member == CROWD {
            let crowd = group.names.crowd();
            self.share(&crowd, || name.into());
            return Some(crowd);
        }
        Some(self.member(&group, NameHash::from_str_radix(member, 16).ok()?, now))
    }

    fn deployment(&self, id: &Name, limits: &model::Limits) -> Arc<DeploymentState> {
        let usage = self.limited(format!("deployment {id}"), limits);
        let new = || Arc::new(DeploymentState { usage, ..DeploymentState::default() });
        lock(&self.deployments).entry(id.clone()).or_insert_with(new).clone()
    }

    /// What the classes have used of a deployment or account.
    fn classes(&self, priorities: &[model::Priority], limits: &model::Limits, whose: &str) -> Classes {
        if priorities.is_empty() || limits.is_unlimited() {
            return Classes::default();
        }
        let names = priorities.iter().map(|priority| &*priority.name).chain([""]);
        names.map(|name| self.limited(format!("class {name} of {whose}"), limits)).collect()
    }

    fn endpoint(&self, endpoint: &Endpoint) -> usize {
        let mut endpoints = lock(&self.endpoints);
        let next = endpoints.len();
        *endpoints.entry(endpoint.clone()).or_insert(next)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What tables are built with.
#[derive(Clone, Debug)]
pub struct Builder {
    pub ledger: Ledger,
    pub registry: Arc<Registry>,
    pub persistent: Arc<Persistent>,
}

impl Builder {
    /// Indexes a snapshot. Limits of budgets in use change with it at once.
    pub fn build(&self, generation: u64, snapshot: Snapshot, credentials: &[Credential]) -> Tables {
        let values: HashMap<&str, &Credential> = credentials.iter().map(|one| (&*one.id, one)).collect();
        let mut keys = HashTable::with_capacity(snapshot.keys.len());
        for (index, key) in snapshot.keys.iter().enumerate() {
            keys.insert_unique(bucket(&key.hash), index as u32, |other| bucket(&snapshot.keys[*other as usize].hash));
        }
        let namespaces = snapshot
            .namespaces
            .iter()
            .map(|namespace| NamespaceIndex { exact: namespace.exact.iter().cloned().collect() })
            .collect();
        let home = snapshot.namespaces.iter().position(|namespace| namespace.name == snapshot.gateway.namespace);
        if let Some(hub) = &self.persistent.hub {
            hub.expect(snapshot.gateway.replicas);
        }
        let priorities = &snapshot.gateway.priorities;
        let deployments: Vec<DeploymentEntry> =
            snapshot.deployments.iter().map(|deployment| self.deployment(deployment, &values, priorities)).collect();
        let routes = snapshot.routes.iter().map(|route| self.route(route, &snapshot, &deployments)).collect();
        let teams = snapshot
            .teams
            .iter()
            .map(|team| {
                let id: Name = format!("{}/{}", team.namespace, team.name).into();
                TeamEntry {
                    usage: self.persistent.limited(format!("team {id}"), &team.limits),
                    label: self.registry.label(&team.name),
                    name_id: self.ledger.intern(&id),
                }
            })
            .collect();
        let value = |id: &str| values.get(id).map(|credential| credential.value.clone());
        self.persistent.redis.follow(generation, &snapshot.gateway, value);
        if let Some(hub) = self.persistent.hub.as_ref().filter(|_| self.persistent.redis.in_use()) {
            hub.exact.begin();
        }
        let mut members = HashMap::default();
        for (index, budget) in (0u32..).zip(&snapshot.budgets) {
            match budget.per {
                None => self.ledger.update(&terms(budget)),
                Some(per) => {
                    let private = matches!(per, PerCall::EndUser | PerCall::Tag);
                    members.insert(index, self.ledger.members(&terms(budget), private));
                }
            }
        }
        if generation > 0 {
            // Before the first configuration nothing is known about where rows go.
            self.ledger.send_rows_to(postgres_target(&snapshot.gateway, &values));
        }
        Tables {
            generation,
            keys,
            namespaces,
            home: home.map(|index| index as u32),
            deployments,
            routes,
            teams,
            key_states: (0..snapshot.keys.len()).map(|_| OnceLock::new()).collect(),
            budgets: (0..snapshot.budgets.len()).map(|_| OnceLock::new()).collect(),
            members,
            told: Told::of(&snapshot.gateway),
            has_low_models: snapshot.budgets.iter().any(|budget| budget.when_low.is_some()),
            budget_kinds: snapshot
                .budgets
                .iter()
                .map(|budget| {
                    let scoped = budget.models.is_some() || !budget.providers.is_empty();
                    let by_call = !budget.tags.is_empty() || !budget.end_users.is_empty() || budget.per.is_some();
                    let is_usd = budget.unit == model::BudgetUnit::Usd;
                    let keys_own = budget.of_one_key && is_usd && !scoped && !by_call;
                    BudgetKind { hard: budget.hard, unit: budget.unit, scoped, by_call, keys_own }
                })
                .collect(),
            model_usages: rules::of_models(&snapshot, &self.persistent),
            shares: priority::shares(priorities),
            master: KeyState {
                name_id: self.ledger.intern(MASTER_KEY_NAME),
                namespace_id: self.ledger.intern(&snapshot.gateway.namespace),
                ..KeyState::default()
            },
            snapshot,
        }
    }

    fn route(&self, route: &model::Route, snapshot: &Snapshot, deployments: &[DeploymentEntry]) -> RouteEntry {
        let target = |target: &model::Target| {
            let index = target.deployment as usize;
            let condition = target.when.as_deref().and_then(|text| {
                // `compile` lets none of these through; what compiled these tables may be of another version.
                let warn =
                    |fault: &Fault| tracing::warn!(route = %route.name, %fault, "no call passes a condition: {fault}");
                Condition::parse(text).inspect_err(warn).ok()
            });
            TargetEntry {
                state: deployments[index].state.clone(),
                serves: Operation::ALL.map(|operation| Mode::of(operation, &snapshot.deployments[index]).is_some()),
                is_conditional: target.when.is_some(),
                condition: condition.map(Box::new),
            }
        };
        RouteEntry {
            label: self.registry.label(&route.name),
            name_id: self.ledger.intern(&route.name),
            is_pattern: route.name.ends_with('*'),
            group: header_value(&route.name),
            targets: route.targets.iter().map(target).collect(),
        }
    }

    fn deployment(
        &self,
        deployment: &model::Deployment,
        values: &HashMap<&str, &Credential>,
        priorities: &[model::Priority],
    ) -> DeploymentEntry {
        let id: Name = format!("{}/{}", deployment.namespace, deployment.name).into();
        let endpoint = &deployment.endpoint;
        let host = if endpoint.host.contains(':') { format!("[{}]", endpoint.host) } else { endpoint.host.to_string() };
        let standard = if endpoint.tls { 443 } else { 80 };
        let authority = if endpoint.port == standard { host } else { format!("{host}:{}", endpoint.port) };
        let scheme = if endpoint.tls { "https" } else { "http" };
        let credentials = deployment
            .credentials
            .iter()
            .filter_map(|used| {
                let value = &values.get(&*used.id)?.value;
                let (header, text) = match deployment.auth {
                    AuthStyle::Bearer => (http::header::AUTHORIZATION, format!("Bearer {value}")),
                    AuthStyle::ApiKey => (http::HeaderName::from_static("api-key"), value.to_string()),
                    AuthStyle::XApiKey => (http::HeaderName::from_static("x-api-key"), value.to_string()),
                    AuthStyle::None => return None,
                };
                let mut value = HeaderValue::try_from(text).ok()?;
                value.set_sensitive(true);
                Some(PreparedCredential { weight: used.weight.max(1), header, value })
            })
            .collect();
        let provider = catalogue::find(&deployment.provider);
        let quirk = |word| provider.is_some_and(|provider| provider.quirk(word).is_some());
        DeploymentEntry {
            effects: Effects::of(&deployment.parameters),
            usage_quirks: UsageQuirks { reasoning_outside_completion: quirk("reasoning_outside_output") },
            trusts_reported_cost: quirk("usage_cost_field"),
            model_fields: provider.map_or(&[], |provider| &provider.model_fields),
            dear_fields: provider.map_or(&[], |provider| &provider.dear_fields),
            unbounded: match deployment.price.as_ref().is_some_and(|price| price.charges_for(Unit::CitationToken)) {
                true => Which::All,
                false => provider.map_or(Which::None, |provider| Which::of(&provider.unbounded, &deployment.model)),
            },
            reads: provider.map_or(Which::None, |provider| Which::of(&provider.reads, &deployment.model)),
            price_cap: provider.and_then(|provider| provider.price_cap),
            state: self.persistent.deployment(&id, &deployment.limits),
            account: deployment
                .account
                .as_ref()
                .map(|account| self.persistent.limited(format!("account {}", account.id), &account.limits)),
            classes: self.persistent.classes(priorities, &deployment.limits, &format!("deployment {id}")),
            account_classes: deployment.account.as_ref().map_or_else(Classes::default, |account| {
                self.persistent.classes(priorities, &account.limits, &format!("account {}", account.id))
            }),
            target: Target { id: self.persistent.endpoint(endpoint), endpoint: endpoint.clone() },
            credentials,
            paths: Paths::of(deployment),
            label: self.registry.label(&id),
            name_id: self.ledger.intern(&id),
            provider_id: self.ledger.intern(&deployment.provider),
            model_id: (!deployment.model.contains('*')).then(|| self.ledger.intern(&deployment.model)),
            price_version: deployment
                .price
                .as_ref()
                .map(|price| self.ledger.intern(price.version()))
                .unwrap_or_default(),
            headers: DeploymentHeaders::new(deployment, &id, &format!("{scheme}://{authority}{}", endpoint.path)),
            extra_headers: deployment
                .headers
                .iter()
                .filter_map(|(name, value)| {
                    Some((http::HeaderName::try_from(&**name).ok()?, HeaderValue::try_from(&**value).ok()?))
                })
                .collect(),
            authority: header_value(&authority),
            prober: KeyState {
                name_id: self.ledger.intern(PROBE_NAME),
                namespace_id: self.ledger.intern(&deployment.namespace),
                ..KeyState::default()
            },
            id,
        }
    }
}

/// What the master key is called in rows and metrics.
pub const MASTER_KEY_NAME: &str = "litellm_proxy_master_key";

/// What probes of the operator are called in rows, where calls have the name of their key.
pub const PROBE_NAME: &str = "tollgate_probe";

impl Paths {
    fn of(deployment: &model::Deployment) -> Paths {
        let path = |operation| {
            let model = &deployment.model;
            if model.contains('*') { None } else { request_target(deployment, operation, model) }
        };
        Paths {
            chat: path("/chat/completions"),
            completions: path("/completions"),
            embeddings: path("/embeddings"),
            messages: path("/messages"),
            count_tokens: path("/messages/count_tokens"),
            models: models_target(deployment),
        }
    }
}

/// Path and query of an operation at a deployment.
pub fn request_target(deployment: &model::Deployment, operation: &str, model: &str) -> Option<http::Uri> {
    let base = &deployment.endpoint.path;
    let text = match deployment.surface {
        Surface::OpenAi => format!("{base}{operation}"),
        // Anthropic's base has no version in it, as its SDKs write it; one that has is taken as it is.
        Surface::Anthropic if base.ends_with("/v1") => format!("{base}{operation}"),
        Surface::Anthropic => format!("{base}/v1{operation}"),
        Surface::Azure => {
            let model: String = model.bytes().map(percent_encode).collect();
            match deployment.api_version.as_deref() {
                Some(version) => format!("{base}/openai/deployments/{model}{operation}?api-version={version}"),
                None => format!("{base}/openai/deployments/{model}{operation}"),
            }
        }
    };
    http::Uri::try_from(text).ok()
}

/// Path and query of a deployment's list of models.
fn models_target(deployment: &model::Deployment) -> Option<http::Uri> {
    let base = &deployment.endpoint.path;
    match (deployment.surface, deployment.api_version.as_deref()) {
        (Surface::OpenAi | Surface::Anthropic, _) => request_target(deployment, "/models", ""),
        // Not below one of its deployments: the resource lists what it could deploy.
        (Surface::Azure, Some(version)) => format!("{base}/openai/models?api-version={version}").try_into().ok(),
        (Surface::Azure, None) => format!("{base}/openai/models").try_into().ok(),
    }
}

fn percent_encode(byte: u8) -> String {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => (byte as char).to_string(),
        _ => format!("%{byte:02X}"),
    }
}

fn header_value(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// The hash is uniform already: its own first bytes choose the bucket.
fn bucket(hash: &KeyHash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hash.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn postgres_target(gateway: &model::Gateway, values: &HashMap<&str, &Credential>) -> Option<PostgresTarget> {
    let model::PostgresStore { credential, retention_days } = gateway.postgres.as_ref()?;
    Some(PostgresTarget {
        url: values.get(&**credential).map(|credential| credential.value.clone()),
        gateway: format!("{}/{}", gateway.namespace, gateway.name).into(),
        retention_days: *retention_days,
    })
}

pub(crate) fn terms(budget: &model::Budget) -> BudgetTerms {
    use tollgate_ledger::{Boost, CalendarUnit, Mode, Period, Unit};
    BudgetTerms {
        id: budget.id.to_string(),
        unit: match budget.unit {
            model::BudgetUnit::Usd => Unit::NanoUsd,
            model::BudgetUnit::Tokens => Unit::Tokens,
            model::BudgetUnit::Requests => Unit::Requests,
        },
        limit: budget.limit,
        boost: budget.boost.map(|model::Boost { amount, until }| Boost { amount, until }),
        mode: if budget.hard { Mode::Hard } else { Mode::Soft },
        period: match &budget.period {
            model::Period::Calendar { unit, time_zone } => Period::Calendar {
                unit: match unit {
                    model::CalendarUnit::Hour => CalendarUnit::Hour,
                    model::CalendarUnit::Day => CalendarUnit::Day,
                    model::CalendarUnit::Week => CalendarUnit::Week,
                    model::CalendarUnit::Month => CalendarUnit::Month,
                    model::CalendarUnit::Year => CalendarUnit::Year,
                },
                time_zone: time_zone.to_string(),
            },
            model::Period::Rolling { seconds } => Period::Rolling { seconds: *seconds },
            model::Period::Lifetime => Period::Lifetime,
        },
        reset_token: budget.reset_token.as_deref().map(str::to_owned),
        allow_unavailable: if budget.hard { budget.allow_unavailable } else { !budget.deny_unavailable },
        throttle_percent: budget.throttle_percent,
    }
}

impl Tables {
    /// The key with this hash.
    pub fn find_key(&self, hash: &KeyHash) -> Option<u32> {
        // Equal digests of 256 bits: comparing them tells nothing about any key's text.
        self.keys.find(bucket(hash), |index| self.snapshot.keys[*index as usize].hash == *hash).copied()
    }

    /// The route a name leads to in a namespace: the exact name, else the longest pattern.
    pub fn find_route(&self, namespace: u32, name: &str) -> Option<u32> {
        let index = namespace as usize;
        if let Some(route) = self.namespaces[index].exact.get(name) {
            return Some(*route);
        }
        let prefixes = &self.snapshot.namespaces[index].prefixes;
        prefixes.iter().find(|(prefix, _)| name.starts_with(&**prefix)).map(|(_, route)| *route)
    }

    /// The namespace with this name.
    pub fn find_namespace(&self, name: &str) -> Option<u32> {
        self.snapshot.namespaces.iter().position(|namespace| &*namespace.name == name).map(|index| index as u32)
    }

    /// The live state of a key.
    pub fn key_state(&self, key: u32, builder: &Builder) -> &KeyState {
        self.key_states[key as usize].get_or_init(|| {
            let key = &self.snapshot.keys[key as usize];
            let policy = &self.snapshot.policies[key.policy as usize];
            let namespace = &self.snapshot.namespaces[policy.namespace as usize].name;
            let id = format!("{namespace}/{}", key.name);
            let state = KeyState {
                per_model: policy
                    .per_model
                    .iter()
                    .map(|(model, limits)| builder.persistent.limited(format!("key {id} model {model}"), limits))
                    .collect(),
                bound: rules::of_key(&self.snapshot, key, policy, &builder.persistent),
                name_id: builder.ledger.intern(&id),
                user_id: key.user.as_deref().map_or_else(NameId::default, |user| builder.ledger.intern(user)),
                namespace_id: builder.ledger.intern(namespace),
                tags: attribution::of_key(&builder.ledger, &policy.tags),
                usage: builder.persistent.limited(format!("key {id}"), &policy.limits),
            };
            Box::new(state)
        })
    }

    /// The class of a key; 0 where there are none.
    pub fn class_of(&self, key: Option<&model::Key>) -> usize {
        let Some(none) = self.shares.len().checked_sub(1) else { return 0 };
        let class = key.and_then(|key| self.snapshot.policies[key.policy as usize].priority.as_ref());
        let priorities = &self.snapshot.gateway.priorities;
        class.and_then(|class| priorities.iter().position(|priority| priority.name == *class)).unwrap_or(none)
    }

    /// The live side of a budget.
    pub fn budget(&self, budget: u32, builder: &Builder) -> &Arc<tollgate_ledger::Budget> {
        let terms = || terms(&self.snapshot.budgets[budget as usize]);
        self.budgets[budget as usize].get_or_init(|| builder.ledger.budget(&terms()))
    }

    /// Of a budget that has one for each member.
    pub fn members(&self, budget: u32) -> Option<&Arc<tollgate_ledger::Members>> {
        self.members.get(&budget)
    }
}
