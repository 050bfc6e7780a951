//! The most that calls in flight can spend above the limit of a Soft budget. It admits while what is settled is below the
//! limit, so what is above is what ran at that moment; several proxies learn of each other's spend some seconds later.
//! Pure.

use std::cell::RefCell;
use std::collections::HashMap;

use super::index::budget_object;
use tollgate_snapshot::model::{Budget, BudgetUnit, Deployment, Key, Policy, Snapshot};
use tollgate_snapshot::price::{Bounds, CacheWrites};

/// Calls that the other proxies may have begun and ended before one hears of them: those of two windows of a minute, as
/// one may end and the next begin in these seconds.
const WINDOWS: u64 = 2;

/// Web searches of one call.
const WEB_SEARCHES: u64 = 10;

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

/// The dearest call that a deployment can serve, with one answer. `None`: not known.
fn dearest(deployment: &Deployment, unit: BudgetUnit) -> Option<i64> {
    if unit == BudgetUnit::Requests {
        return Some(1);
    }
    let (input_tokens, output_tokens) = (deployment.max_input_tokens?, deployment.max_output_tokens?);
    if unit == BudgetUnit::Tokens {
        return i64::try_from(input_tokens.saturating_add(output_tokens)).ok();
    }
    // What has no price is booked with none.
    let Some(price) = &deployment.price else { return Some(0) };
    let bounds = Bounds {
        input_tokens,
        output_tokens,
        choices: 1,
        web_searches: WEB_SEARCHES,
        audio: true,
        audio_output: true,
        images: true,
        cache_writes: CacheWrites::OneHour,
        ..Bounds::default()
    };
    price.worst_case(&bounds).map(|worst| worst.0)
}

/// The Soft Budgets of a gateway. Sorted out once for all of them: there may be thousands, and each binds few of a hundred
/// thousand keys.
pub struct Overshoots<'a> {
    snapshot: &'a Snapshot,
    /// By namespace and name.
    bound: HashMap<(&'a str, &'a str), Bound<'a>>,
    /// The dearest call of those that were asked for.
    dearest: RefCell<HashMap<Served<'a>, Option<i64>>>,
}

/// Unit of a budget, and the providers that it counts calls of; none: all.
type Served<'a> = (u8, Vec<&'a str>);

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
        Overshoots { snapshot, bound, dearest: RefCell::default() }
    }

    /// `None`: no such Budget, or a Hard one.
    pub fn bound<'s>(&'s self, budget: (&'s str, &'s str)) -> Option<&'s Bound<'a>> {
        self.bound.get(&budget)
    }

    /// In the unit of the budget; `None`: nothing bounds it. `proxies`: of the gateway.
    pub fn of(&self, Bound { rows, keys }: &Bound<'a>, proxies: u32) -> Option<i64> {
        let unit = rows.first()?.unit;
        let calls = calls(self.snapshot, keys, u64::from(proxies))?;
        let is_any = rows.iter().any(|row| row.providers.is_empty());
        let listed = rows.iter().filter(|_| !is_any).flat_map(|row| &row.providers);
        let mut providers: Vec<&str> = listed.map(|provider| &**provider).collect();
        providers.sort_unstable();
        providers.dedup();
        let mut known = self.dearest.borrow_mut();
        let most = *known.entry((unit as u8, providers)).or_insert_with_key(|(_, providers)| {
            let serves = |deployment: &&Deployment| is_any || providers.contains(&&*deployment.provider);
            let served = self.snapshot.deployments.iter().filter(serves);
            served.map(|deployment| dearest(deployment, unit)).try_fold(0, |most, one| Some(most.max(one?)))
        });
        Some(most?.saturating_mul(i64::try_from(calls).unwrap_or(i64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_snapshot::model::{BudgetRules, Limits, Team};

    fn limits(parallel_requests: Option<u64>, requests_per_minute: Option<u64>) -> Limits {
        Limits { parallel_requests, requests_per_minute, ..Limits::default() }
    }

    /// Keys under one budget of tokens, with their own limits and whether they are of the team; a call has 100 tokens.
    fn overshoot(keys: &[(Limits, bool)], team: Limits, proxies: u32) -> Option<i64> {
        let deployment =
            Deployment { max_input_tokens: Some(90), max_output_tokens: Some(10), ..Deployment::default() };
        let rules = BudgetRules { unit: BudgetUnit::Tokens, ..BudgetRules::default() };
        let snapshot = Snapshot {
            deployments: vec![deployment],
            teams: vec![Team { limits: team, ..Team::default() }],
            budgets: vec![Budget { id: "n/Budget/b".into(), rules: rules.into(), ..Budget::default() }],
            policies: keys
                .iter()
                .map(|(limits, in_team)| Policy { limits: *limits, team: in_team.then_some(0), ..Policy::default() })
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

    #[test]
    fn a_model_without_a_known_context_is_not_bounded() {
        let deployment = Deployment { max_output_tokens: Some(10), ..Deployment::default() };
        assert_eq!(dearest(&deployment, BudgetUnit::Usd), None);
        assert_eq!(dearest(&deployment, BudgetUnit::Requests), Some(1));
        let unpriced = Deployment { max_input_tokens: Some(90), ..deployment };
        assert_eq!((dearest(&unpriced, BudgetUnit::Usd), dearest(&unpriced, BudgetUnit::Tokens)), (Some(0), Some(100)));
    }
}
