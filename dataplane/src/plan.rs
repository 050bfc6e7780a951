//! Which deployment is tried next. Pure: health, load and chance are arguments or atomics read once; the one retry loop
//! in [`crate::attempt`] asks here before every attempt.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tollgate_snapshot::model::{ErrorClass, Limits, Retries, Route, Strategy};

use smallvec::SmallVec;

use crate::limits::{Estimate, Permit, Permits, Reached, Usage};
use crate::priority;
use crate::tables::{Tables, TargetEntry};

/// What to do next within a route.
pub enum Pick {
    Deployment(Picked),
    /// Every target that could serve is benched; milliseconds until the first is tried again.
    AllBenched {
        deployments: Vec<u32>,
        retry_after_ms: u64,
    },
    /// Every target that could serve is at its own limits.
    AllFull(Reached),
    /// What would be chosen is at the end of this proxy's lease of its limits, and more was asked for.
    Waiting,
    /// No target takes this call.
    None,
}

/// A deployment that counts this call against its limits.
pub struct Picked {
    pub deployment: u32,
    /// Of the deployment and of its account.
    pub permits: Permits,
}

/// Places in a list of targets; most routes have few.
type Places = SmallVec<[usize; 8]>;

/// What is known of a call when the next deployment is chosen.
pub struct Choice<'a> {
    pub tables: &'a Tables,
    pub route: &'a Route,
    /// In the order of the route's targets.
    pub targets: &'a [TargetEntry],
    /// By target: whether its condition holds.
    pub eligible: &'a dyn Fn(usize) -> bool,
    /// Deployments that should not be asked again, because they refused in a way that another try does not change.
    pub refused: &'a [u32],
    /// The deployments this call has asked in this route, in their order: those it has asked least are preferred.
    pub tried: &'a [u32],
    /// Tokens that count against the deployments' limits.
    pub tokens: Estimate,
    /// Index of the class of the call's key.
    pub class: usize,
    pub uptime_ms: u64,
    /// A lease that is used up is worth a wait.
    pub waits: bool,
}

/// Chooses a deployment: lowest priority value first; within one priority by the strategy; benched, full and refused
/// ones are passed over while another can serve.
pub fn pick(choice: &Choice<'_>, random: &mut fastrand::Rng) -> Pick {
    let targets: Places = (0..choice.route.targets.len()).filter(|index| (choice.eligible)(*index)).collect();
    if targets.is_empty() {
        return Pick::None;
    }
    let refused = |index: usize| choice.refused.contains(&choice.route.targets[index].deployment);
    let mut open: Places = targets.iter().copied().filter(|index| !refused(*index)).collect();
    if open.is_empty() {
        return Pick::None;
    }
    let mut benched = Vec::new();
    let mut soonest = u64::MAX;
    open.retain(|index| {
        let deployment = choice.route.targets[*index].deployment;
        match choice.targets[*index].state.health.benched_for(choice.uptime_ms) {
            None => true,
            Some(left) => {
                benched.push(deployment);
                soonest = soonest.min(left);
                false
            }
        }
    });
    if open.is_empty() {
        return Pick::AllBenched { deployments: benched, retry_after_ms: soonest };
    }
    let mut full: Option<Reached> = None;
    while !open.is_empty() {
        let position = choose(choice, &open, random);
        let index = open.swap_remove(position);
        let deployment = choice.route.targets[index].deployment;
        match enter(choice, deployment) {
            Ok(permits) => return Pick::Deployment(Picked { deployment, permits }),
            Err(Reached { of_share: true, .. }) if choice.waits => return Pick::Waiting,
            Err(reached) => full = Some(full.filter(|other| other.resets_in <= reached.resets_in).unwrap_or(reached)),
        }
    }
    match full {
        Some(reached) => Pick::AllFull(reached),
        None => Pick::None,
    }
}

/// Position in `open` of the one to try.
fn choose(choice: &Choice<'_>, open: &[usize], random: &mut fastrand::Rng) -> usize {
    let targets = &choice.route.targets;
    let best = open.iter().map(|index| targets[*index].priority).min().unwrap_or_default();
    let mut candidates: Places = (0..open.len()).filter(|position| targets[open[*position]].priority == best).collect();
    if candidates.len() > 1 && !choice.tried.is_empty() {
        // How often it was asked, then whether it was the last: all get their turn, none twice in a row.
        let asked = |position: usize| {
            let deployment = targets[open[position]].deployment;
            let times = choice.tried.iter().filter(|tried| **tried == deployment).count();
            (times, choice.tried.last() == Some(&deployment))
        };
        let least = candidates.iter().map(|position| asked(*position)).min().unwrap_or_default();
        candidates.retain(|position| asked(*position) == least);
    }
    let load = |position: usize| choice.targets[open[position]].state.in_flight.load(Relaxed);
    match choice.route.strategy {
        Strategy::Ordered => candidates[0],
        Strategy::LeastBusy => candidates.into_iter().min_by_key(|position| load(*position)).unwrap_or_default(),
        Strategy::WeightedShuffle => {
            let weight = |position: usize| u64::from(targets[open[position]].weight);
            let sum: u64 = candidates.iter().map(|position| weight(*position)).sum();
            if sum == 0 {
                return candidates[random.usize(..candidates.len())];
            }
            let mut left = random.u64(..sum);
            for position in &candidates {
                let share = weight(*position);
                if left < share {
                    return *position;
                }
                left -= share;
            }
            candidates[0]
        }
    }
}

/// Counts the call against the deployment's and its account's limits, or says which one is reached.
fn enter(choice: &Choice<'_>, deployment: u32) -> Result<Permits, Reached> {
    let mut permits = Permits::new();
    // A call that one limit refuses counts at none.
    enter_each(choice, deployment, &mut permits).inspect_err(|_| permits.iter_mut().for_each(Permit::refund))?;
    Ok(permits)
}

fn enter_each(choice: &Choice<'_>, deployment: u32, permits: &mut Permits) -> Result<(), Reached> {
    let entry = &choice.tables.deployments[deployment as usize];
    let model = &choice.tables.snapshot.deployments[deployment as usize];
    let now = choice.uptime_ms / 1000 + 1;
    let mut enter = |usage: &Arc<Usage>, limits: &Limits, classes: &[Arc<Usage>]| {
        let permit = usage.take(limits, choice.tokens, now)?;
        permits.push(permit);
        if let Some(class) = classes.get(choice.class)
            && let Some(permit) = permits.last()
        {
            let share = choice.tables.shares[choice.class];
            let permit = priority::take(class, share, (usage, limits), permit, now)?;
            permits.push(permit);
        }
        Ok(())
    };
    if !model.limits.is_unlimited() {
        enter(&entry.state.usage, &model.limits, &entry.classes)?;
    }
    if let (Some(usage), Some(account)) = (&entry.account, &model.account)
        && !account.limits.is_unlimited()
    {
        enter(usage, &account.limits, &entry.account_classes)?;
    }
    Ok(())
}

/// Whether a failure of this class may be tried again within its route.
pub fn may_retry(retries: &Retries, class: ErrorClass) -> bool {
    retries.errors.contains(&class) || retries.errors.contains(&ErrorClass::Any)
}

/// The routes to fall back to after a failure of this class: those written for the class, else those for any failure.
pub fn fallbacks(route: &Route, class: ErrorClass) -> &[u32] {
    let written = |wanted: ErrorClass| route.fallbacks.iter().find(|fallback| fallback.errors.contains(&wanted));
    written(class).or_else(|| written(ErrorClass::Any)).map_or(&[], |fallback| &fallback.routes)
}

/// How long to wait before try number `retry` (0 is the first repetition). Nothing when another deployment can serve at
/// once; else what the provider asked for, within a minute; else exponential with jitter (LiteLLM RT-43).
pub fn backoff_ms(
    retries: &Retries,
    retry: u32,
    another: bool,
    asked_ms: Option<u64>,
    random: &mut fastrand::Rng,
) -> u64 {
    if another {
        return 0;
    }
    let mut jitter = |base: u64| base + random.u64(..=(base / 4).max(1));
    match asked_ms {
        Some(asked @ 1..=60_000) => jitter(asked),
        _ => {
            let exponential = retries.initial_backoff_ms.saturating_mul(1 << retry.min(16));
            jitter(exponential.min(retries.max_backoff_ms))
        }
    }
}
