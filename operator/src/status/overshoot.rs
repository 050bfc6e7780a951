//! The most that calls in flight can spend above the limit of a Soft budget. It admits while what is settled is below the
//! limit, so what is above is what ran at that moment; several proxies learn of each other's spend some seconds later.
//! Pure.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use foldhash::fast::RandomState;
use tollgate_snapshot::model::{Budget, BudgetUnit, Deployment, Key, ModelSet, Name, Policy, Snapshot};
use tollgate_snapshot::price::{Bounds, CacheWrites, PriceSheet, Unit};

use super::index::budget_object;
use super::reach::{self, Reaches};

/// Calls that the other proxies may have begun and ended before one hears of them: those of two windows of a minute, as
/// one may end and the next begin in these seconds.
const WINDOWS: u64 = 2;

/// Web searches of one call, where they cost something.
const WEB_SEARCHES: u64 = 10;

/// Input of a model whose context is not known: a body is not larger (`--max-body`), and no tokenizer makes more tokens of
/// a text than it has bytes.
const BODY_TOKENS: u64 = 32 << 20;

/// What a header makes Anthropic's models read that have a price for more than their usual context.
const LONG_CONTEXT: u64 = 1_000_000;

/// How many calls, at most: at once, and unheard of.
fn calls(snapshot: &Snapshot, keys: &[&Key], proxies: u64) -> Option<u64> {
    let mut sum: u64 = 0;
    // Keys of one team share its limit.
    let mut of_team: HashMap<u32, u64> = HashMap::new();
    for key in keys {
        let Policy { team, limits, .. } = snapshot.policies.get(key.policy as usize)?;
        let team_limits = team.and_then(|team| Some((team, snapshot.teams.get(team as usize)?.limits)));
        let rate = |limits: tollgate_snapshot::model::Limits| limits.requests_per_minute;
        let rate = rate(*limits).into_iter().chain(team_limits.and_then(|(_, limits)| rate(limits))).min();
        let unheard = match (proxies, rate) {
            (..=1, _) => 0,
            (_, Some(rate)) => rate.saturating_mul(WINDOWS),
            (_, None) => return None,
        };
        sum = sum.saturating_add(unheard);
        let of_all = team_limits.and_then(|(team, limits)| Some((team, limits.parallel_requests?)));
        match (limits.parallel_requests, of_all) {
            (Some(own), None) => sum = sum.saturating_add(own),
            (own, Some((team, most))) => {
                let together = of_team.entry(team).or_default();
                *together = together.saturating_add(own.unwrap_or(most)).min(most);
            }
            (None, None) => return None,
        }
    }
    let at_once = of_team.values().fold(sum, |sum, together| sum.saturating_add(*together));
    Some(at_once.saturating_mul(proxies.max(1)))
}

/// The dearest call that a deployment can serve, with one answer. `None`: nothing bounds its output.
fn dearest(deployment: &Deployment, unit: BudgetUnit) -> Option<i64> {
    let price = deployment.price.as_deref();
    let context = deployment.max_input_tokens.map(|usual| context(usual, price));
    let input_tokens = context.unwrap_or(BODY_TOKENS);
    // What a model writes is part of its context.
    let output_tokens = deployment.max_output_tokens.or(context);
    match unit {
        BudgetUnit::Requests => Some(1),
        BudgetUnit::Tokens => i64::try_from(input_tokens.saturating_add(output_tokens?)).ok(),
        BudgetUnit::Usd => {
            // What has no price is booked with none: all of some deployments, the output of embeddings, searches of most.
            let Some(price) = price else { return Some(0) };
            let charges_for = |units: &[Unit]| units.iter().any(|unit| price.charges_for(*unit));
            let output = [Unit::OutputToken, Unit::ReasoningToken, Unit::OutputImageToken, Unit::OutputAudioToken];
            let bounds = Bounds {
                input_tokens: if charges_for(&[Unit::InputToken]) { input_tokens } else { 0 },
                output_tokens: if charges_for(&output) { output_tokens? } else { 0 },
                choices: 1,
                web_searches: if charges_for(&[Unit::WebSearch]) { WEB_SEARCHES } else { 0 },
                audio: true,
                audio_output: true,
                images: true,
                cache_writes: CacheWrites::OneHour,
                ..Bounds::default()
            };
            price.worst_case(&bounds).map(|worst| worst.0)
        }
    }
}

/// What a model can read at once. `usual`: without words that ask for more.
fn context(usual: u64, price: Option<&PriceSheet>) -> u64 {
    let is_more_priced = price.is_some_and(|price| price.rows().iter().any(|row| row.from_input_tokens > usual));
    if is_more_priced { usual.max(LONG_CONTEXT) } else { usual }
}

/// The larger; `None` where one has no bound.
fn larger(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    Some(one?.max(other?))
}

/// The Soft Budgets of a gateway. Sorted out once for all of them: there may be thousands, and each binds few of a hundred
/// thousand keys.
pub struct Overshoots<'a> {
    snapshot: &'a Snapshot,
    /// By namespace and name.
    bound: HashMap<(&'a str, &'a str), Bound<'a>>,
    has_low_models: bool,
    asked: RefCell<Asked<'a>>,
}

/// What was found out for Budgets that were asked for.
struct Asked<'a> {
    reaches: Reaches<'a>,
    /// By unit and deployment.
    dearest: HashMap<(BudgetUnit, u32), Option<i64>, RandomState>,
    /// By unit, which calls count, and what may be reached.
    reached: HashMap<(BudgetUnit, Vec<Counted<'a>>, u32), Reached, RandomState>,
}

/// Which calls a row of a Budget counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Counted<'a> {
    models: Option<&'a ModelSet>,
    /// None: all.
    providers: &'a [Name],
}

/// What keys can do to a Budget.
#[derive(Clone, Copy)]
struct Reached {
    /// Some call of theirs asks for what it counts.
    counts: bool,
    /// The dearest one.
    most: Option<i64>,
}

impl<'a> Asked<'a> {
    /// The dearest call of those deployments whose provider is counted.
    fn most(
        &mut self,
        snapshot: &Snapshot,
        unit: BudgetUnit,
        providers: &[Name],
        deployments: impl IntoIterator<Item = u32>,
    ) -> Option<i64> {
        let mut most = Some(0);
        for at in deployments {
            let Some(deployment) = snapshot.deployments.get(at as usize) else { continue };
            if providers.is_empty() || providers.contains(&deployment.provider) {
                let own = self.dearest.entry((unit, at)).or_insert_with(|| dearest(deployment, unit));
                most = larger(most, *own);
            }
        }
        most
    }

    fn reached(&mut self, snapshot: &Snapshot, unit: BudgetUnit, counted: &[Counted<'a>], policy: u32) -> Reached {
        let number = self.reaches.of(policy);
        let place = (unit, counted.to_vec(), number);
        if let Some(known) = self.reached.get(&place) {
            return *known;
        }
        let mut reached = Reached { counts: false, most: Some(0) };
        for Counted { models, providers } in counted {
            let reach = self.reaches.get(number);
            if reach.asks_for(*models) {
                let deployments = reach.deployments.clone();
                let most = self.most(snapshot, unit, providers, deployments);
                reached = Reached { counts: true, most: larger(reached.most, most) };
            }
        }
        self.reached.insert(place, reached);
        reached
    }
}

/// What a Soft Budget binds.
#[derive(Default)]
pub struct Bound<'a> {
    rows: Vec<&'a Budget>,
    /// Those that are not disabled.
    keys: Vec<&'a Key>,
}

impl<'a> Overshoots<'a> {
    pub fn new(snapshot: &'a Snapshot) -> Overshoots<'a> {
        let mut bound: HashMap<(&str, &str), Bound<'a>> = HashMap::new();
        let of_soft = |row: &'a Budget| if row.hard { None } else { budget_object(&row.id) };
        let objects: Vec<Option<(&str, &str)>> = snapshot.budgets.iter().map(of_soft).collect();
        for (row, object) in snapshot.budgets.iter().zip(&objects) {
            if let Some(object) = object {
                bound.entry(*object).or_default().rows.push(row);
            }
        }
        let keys = snapshot.keys.iter().filter(|key| !key.disabled && !bound.is_empty());
        let mut under = Vec::new();
        for key in keys.collect::<Vec<_>>() {
            under.extend(key.budgets.iter().filter_map(|at| *objects.get(*at as usize)?));
            // One Budget may bind a key with several rows.
            under.sort_unstable();
            under.dedup();
            for object in under.drain(..) {
                bound.entry(object).or_default().keys.push(key);
            }
        }
        let reaches = Reaches::new(snapshot);
        let asked = Asked { reaches, dearest: HashMap::default(), reached: HashMap::default() };
        let has_low_models = !bound.is_empty() && snapshot.budgets.iter().any(|row| row.when_low.is_some());
        Overshoots { snapshot, bound, has_low_models, asked: RefCell::new(asked) }
    }

    /// `None`: no such Budget, or a Hard one.
    pub fn bound<'s>(&'s self, budget: (&'s str, &'s str)) -> Option<&'s Bound<'a>> {
        self.bound.get(&budget)
    }

    /// In the unit of the budget; `None`: nothing bounds it. `proxies`: of the gateway.
    pub fn of(&self, Bound { rows, keys }: &Bound<'a>, proxies: u32) -> Option<i64> {
        let unit = rows.first()?.unit;
        let mut counted: Vec<Counted<'a>> = Vec::new();
        for row in rows {
            let one = Counted { models: row.models.as_ref(), providers: &row.providers };
            if !counted.contains(&one) {
                counted.push(one);
            }
        }
        let asked = &mut *self.asked.borrow_mut();
        let cheaper = self.instead(keys);
        let mut most_instead = Some(0);
        for Counted { providers, .. } in &counted {
            most_instead = larger(most_instead, asked.most(self.snapshot, unit, providers, cheaper.iter().copied()));
        }
        let mut most = Some(0);
        let mut spending = Vec::new();
        // Most keys have the policy of the one before.
        let mut last = None;
        for key in keys {
            let Reached { counts, most: own } = match last {
                Some((policy, reached)) if policy == key.policy => reached,
                _ => asked.reached(self.snapshot, unit, &counted, key.policy),
            };
            last = Some((key.policy, Reached { counts, most: own }));
            let own = if counts { larger(own, most_instead) } else { Some(0) };
            // Of calls that cost nothing there may be any number.
            if own != Some(0) {
                spending.push(*key);
                most = larger(most, own);
            }
        }
        if spending.is_empty() {
            return Some(0);
        }
        let calls = calls(self.snapshot, &spending, u64::from(proxies))?;
        Some(most?.saturating_mul(i64::try_from(calls).unwrap_or(i64::MAX)))
    }

    /// The deployments that are called in the place of others when little is left of some budget of these keys. They need
    /// not be allowed.
    fn instead(&self, keys: &[&Key]) -> Vec<u32> {
        if !self.has_low_models {
            return Vec::new();
        }
        let Snapshot { namespaces, policies, budgets, .. } = self.snapshot;
        let mut routes = BTreeSet::new();
        for key in keys {
            let policy = policies.get(key.policy as usize);
            let Some(namespace) = policy.and_then(|policy| namespaces.get(policy.namespace as usize)) else { continue };
            let rows = key.budgets.iter().filter_map(|at| budgets.get(*at as usize));
            let models = rows.filter_map(|row| row.when_low.as_ref()).flat_map(|when_low| &when_low.models);
            routes.extend(models.filter_map(|model| reach::find_route(namespace, model)));
        }
        reach::behind(self.snapshot, routes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_snapshot::model::{BudgetRules, Limits, Namespace, Route, Target, Team, WhenLow};
    use tollgate_snapshot::price::{Part, PriceTable};

    fn limits(parallel_requests: Option<u64>, requests_per_minute: Option<u64>) -> Limits {
        Limits { parallel_requests, requests_per_minute, ..Limits::default() }
    }

    fn route(deployment: u32) -> Route {
        Route { targets: vec![Target { deployment, ..Target::default() }], ..Route::default() }
    }

    /// Keys under one budget of tokens, with their own limits and whether they are of the team; a call has 100 tokens.
    fn overshoot(keys: &[(Limits, bool)], team: Limits, proxies: u32) -> Option<i64> {
        let deployment =
            Deployment { max_input_tokens: Some(90), max_output_tokens: Some(10), ..Deployment::default() };
        let rules = BudgetRules { unit: BudgetUnit::Tokens, ..BudgetRules::default() };
        let all = || Some(ModelSet::new(["*"]));
        let snapshot = Snapshot {
            deployments: vec![deployment],
            routes: vec![route(0)],
            namespaces: vec![Namespace { exact: vec![("m".into(), 0)], ..Namespace::default() }],
            teams: vec![Team { limits: team, ..Team::default() }],
            budgets: vec![Budget { id: "n/Budget/b".into(), rules: rules.into(), ..Budget::default() }],
            policies: keys
                .iter()
                .map(|(limits, in_team)| Policy {
                    limits: *limits,
                    team: in_team.then_some(0),
                    models: all(),
                    ..Policy::default()
                })
                .collect(),
            keys: (0..keys.len()).map(|at| Key { policy: at as u32, budgets: vec![0], ..Key::default() }).collect(),
            ..Snapshot::default()
        };
        let overshoots = Overshoots::new(&snapshot);
        overshoots.of(overshoots.bound(("n", "b")).unwrap(), proxies)
    }

    #[test]
    fn it_is_what_can_be_in_flight_and_unheard_of() {
        let none = Limits::default();
        let eight = limits(Some(8), None);
        for (keys, team, proxies, expected, why) in [
            (vec![(eight, false)], none, 1, Some(800), "eight calls of one key"),
            (vec![(eight, false), (eight, false)], none, 1, Some(1_600), "of two"),
            (vec![(eight, false), (none, false)], none, 1, None, "one key may have any number"),
            (
                vec![(none, true), (eight, true)],
                limits(Some(10), None),
                1,
                Some(1_000),
                "a team's keys share its limit",
            ),
            (vec![(limits(Some(2), None), true)], limits(Some(10), None), 1, Some(200), "and need not reach it"),
            (vec![(eight, false)], none, 2, None, "another proxy may have any number of calls in some seconds"),
            (
                vec![(limits(Some(8), Some(60)), false)],
                none,
                2,
                Some(2 * (8 + 120) * 100),
                "each proxy counts for itself",
            ),
            (vec![], none, 3, Some(0), "no key, no call"),
        ] {
            assert_eq!(overshoot(&keys, team, proxies), expected, "{why}");
        }
    }

    /// A deployment of a model of the price table.
    fn listed(provider: &str, model: &str) -> Deployment {
        let known = PriceTable::embedded().find(provider, model, None).expect("the table has it");
        Deployment {
            provider: provider.into(),
            max_input_tokens: known.max_input_tokens,
            max_output_tokens: known.max_output_tokens,
            price: Some(known.sheet().into()),
            ..Deployment::default()
        }
    }

    fn own(price: Option<PriceSheet>, max_output_tokens: Option<u64>) -> Deployment {
        Deployment { provider: "vllm".into(), price: price.map(Into::into), max_output_tokens, ..Deployment::default() }
    }

    fn stated(parts: &[(Unit, &str)]) -> Option<PriceSheet> {
        let part = |(unit, usd)| Part { unit, usd, per: 1_000_000, above_input_tokens: None, service_tier: None };
        let parts: Vec<Part<'_>> = parts.iter().copied().map(part).collect();
        Some(PriceSheet::from_parts("test", &parts).unwrap())
    }

    #[test]
    fn the_dearest_call_is_that_of_what_costs_something() {
        const CENT: i64 = 10_000_000;
        let (input, output) = ((Unit::InputToken, "1"), (Unit::OutputToken, "10"));
        let body = (BODY_TOKENS as i64) * 1_000;
        for (deployment, usd, tokens, why) in [
            // 128,000 x 4.25 + 16,384 x 17, in priority.
            (listed("openai", "gpt-4o"), Some(822_528_000), Some(144_384), "searches have no price"),
            // 200,000 x 3.5 + 100,000 x 14, and ten searches.
            (listed("openai", "o3"), Some(220 * CENT), Some(300_000), "searches have one"),
            (listed("openai", "text-embedding-3-small"), Some(163_820), Some(16_382), "embeddings write nothing"),
            (own(Some(PriceSheet::free()), None), Some(0), None, "it is free"),
            (own(None, None), Some(0), None, "it has no price"),
            (own(stated(&[input]), None), Some(body), None, "a body bounds what is read"),
            (own(stated(&[input, output]), Some(1_000)), Some(body + CENT), Some(body / 1_000 + 1_000), "and a field"),
            (own(stated(&[input, output]), None), None, None, "nothing bounds what is written"),
        ] {
            assert_eq!(dearest(&deployment, BudgetUnit::Usd), usd, "{why}");
            assert_eq!(dearest(&deployment, BudgetUnit::Tokens), tokens, "{why}");
            assert_eq!(dearest(&deployment, BudgetUnit::Requests), Some(1), "{why}");
        }
        let long = Deployment { provider: "bedrock".into(), ..listed("bedrock", "claude-sonnet-4-5-20250929-v1:0") };
        assert_eq!(dearest(&long, BudgetUnit::Tokens), Some(1_064_000), "more than its usual context has a price");
    }

    /// One key for some of `4o`, `3o`, `emb`, `own` (whose output has no bound) and `free`, with three calls at once.
    fn of_one(may_call: &[&str], models: &[&str], providers: &[&str], low: Option<&str>) -> Option<i64> {
        let named = [
            ("3o", listed("openai", "o3")),
            ("4o", listed("openai", "gpt-4o")),
            ("emb", listed("openai", "text-embedding-3-small")),
            ("free", own(Some(PriceSheet::free()), None)),
            ("own", own(stated(&[(Unit::OutputToken, "10")]), None)),
        ];
        let exact = named.iter().zip(0..).map(|((name, _), route)| (Name::from(*name), route)).collect();
        let rules = BudgetRules {
            models: (!models.is_empty()).then(|| ModelSet::new(models.iter().copied())),
            providers: providers.iter().map(|provider| Name::from(*provider)).collect(),
            ..BudgetRules::default()
        };
        let when_low = low.map(|model| WhenLow { below_percent: 10, models: vec![model.into()] });
        let other = BudgetRules { when_low, hard: true, ..BudgetRules::default() };
        let budget = |id: &str, rules: BudgetRules| Budget { id: id.into(), rules: rules.into(), ..Budget::default() };
        let snapshot = Snapshot {
            routes: (0..named.len() as u32).map(route).collect(),
            deployments: named.into_iter().map(|(_, deployment)| deployment).collect(),
            namespaces: vec![Namespace { name: "n".into(), exact, prefixes: Vec::new() }],
            budgets: vec![budget("n/Budget/b", rules), budget("n/Budget/other", other)],
            policies: vec![Policy {
                models: Some(ModelSet::new(may_call.iter().copied())),
                limits: limits(Some(3), None),
                ..Policy::default()
            }],
            keys: vec![Key { budgets: vec![0, 1], ..Key::default() }],
            ..Snapshot::default()
        };
        let overshoots = Overshoots::new(&snapshot);
        overshoots.of(overshoots.bound(("n", "b")).unwrap(), 1)
    }

    #[test]
    fn only_what_its_keys_may_reach_and_it_counts_is_looked_at() {
        let (of_o3, of_4o) = (Some(6_600_000_000), Some(2_467_584_000));
        for (may_call, models, providers, low, expected, why) in [
            (&["3o"][..], &[][..], &[][..], None, of_o3, "a model of others has no bound"),
            (&["3o", "4o", "emb", "free"], &[], &[], None, of_o3, "the dearest of several"),
            (&["4o"], &["4o"], &[], None, of_4o, "one is counted"),
            (&["4o", "own"], &["4o"], &[], None, None, "clients may name `own` as what follows `4o`"),
            (&["4o", "own"], &[], &["openai"], None, of_4o, "another provider does not count"),
            (&["free", "own"], &[], &["openai"], None, Some(0), "no call counts"),
            (&["own"], &["4o"], &[], None, Some(0), "none asks for it"),
            (&["free"], &[], &[], None, Some(0), "calls cost nothing"),
            (&["*"], &[], &[], None, None, "one has no bound"),
            (&["4o"], &[], &[], Some("3o"), of_o3, "another is called where little is left"),
            (&["free"], &["4o"], &[], Some("3o"), Some(0), "but only where the call counts"),
        ] {
            assert_eq!(of_one(may_call, models, providers, low), expected, "{why}");
        }
    }
}
