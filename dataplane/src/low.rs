//! Cheaper models first where little is left: what a budget's `whenLow` names, in the place of what the client asked for.
//! Looked at only where some budget of the tables has it; costs a few lookups by name for a call that is led elsewhere.

use smallvec::SmallVec;

use crate::admit::Admitted;
use crate::core::Core;
use crate::hold::{self, Budgets};
use crate::mentions::Mentions;

/// Models that are tried before what was asked for. More would leave it no attempt.
const MOST: usize = 4;

/// Routes to try before the one that was asked for; none where enough is left, or where one of these was asked for.
pub fn preferred(core: &Core, admitted: &Admitted) -> SmallVec<[u32; 4]> {
    let mut routes = SmallVec::new();
    let tables = &admitted.caller.tables;
    let (Some(key), Some(policy)) = (admitted.caller.key(), admitted.caller.policy()) else { return routes };
    // Which deployment will serve is not known yet: its provider is taken to be that of the first.
    let Some(first) = tables.snapshot.routes[admitted.route as usize].targets.first() else { return routes };
    let deployment = &tables.snapshot.deployments[first.deployment as usize];
    for &index in &key.budgets {
        let row = &tables.snapshot.budgets[index as usize];
        let Some(when_low) = &row.when_low else { continue };
        if !hold::binds(row, &admitted.model, deployment) {
            continue;
        }
        let mut budgets = Budgets::new();
        if tables.budget_kinds[index as usize].by_call {
            // One that has no room for another member refuses the call, a moment later.
            let _ = Mentions::of(admitted).add(core, admitted, index, deployment, &mut budgets);
        } else {
            budgets.push(tables.budget(index, &core.shared.builder).clone());
        }
        if !budgets.iter().any(|budget| is_low(budget.spent(), budget.limit(), when_low.below_percent)) {
            continue;
        }
        for name in &when_low.models {
            let Some(route) = tables.find_route(policy.namespace, name) else { continue };
            if route == admitted.route {
                return SmallVec::new();
            }
            // What a pattern stands for is known only where the client named it.
            let targets = &tables.snapshot.routes[route as usize].targets;
            let is_whole = |target: &tollgate_snapshot::model::Target| {
                !tables.snapshot.deployments[target.deployment as usize].model.contains('*')
            };
            if !routes.contains(&route) && targets.iter().all(is_whole) {
                routes.push(route);
            }
        }
    }
    routes.truncate(MOST);
    routes
}

/// Whether less than so many percent of the limit are left of what is settled.
fn is_low(spent: i64, limit: i64, below_percent: u32) -> bool {
    i128::from(limit.saturating_sub(spent)) * 100 < i128::from(limit) * i128::from(below_percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_is_less_than_the_share_that_is_named() {
        for (spent, limit, percent, low) in
            [(0, 100, 10, false), (90, 100, 10, false), (91, 100, 10, true), (100, 100, 10, true), (1, 100, 100, true)]
        {
            assert_eq!(is_low(spent, limit, percent), low, "{spent} of {limit}, below {percent} %");
        }
        assert!(!is_low(i64::MAX / 100, i64::MAX, 99), "nothing overflows");
    }
}
