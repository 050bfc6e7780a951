//! Budgets that have one for each member, seen as one: what all have spent, and how near to its limit the nearest is. Pure.

use std::collections::HashMap;

use super::index::budget_object;
use crate::facts::{Known, SpendFact};

/// All members of a Budget that have been used in the present period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Members {
    pub count: usize,
    /// Those that have spent their limit.
    pub exhausted: usize,
    /// Sums; the limit is that of one member.
    pub all: SpendFact,
    /// The member that is nearest to its limit.
    pub fullest: SpendFact,
}

impl Members {
    /// By namespace and name of the Budget.
    pub fn of_all(known: &Known) -> HashMap<(&str, &str), Members> {
        let mut all: HashMap<(&str, &str), Members> = HashMap::new();
        for (id, spend) in known.spend.values().flat_map(|budgets| budgets.iter()) {
            let Some(object) = budget_object(id) else { continue };
            // The Budget itself is not one of its members.
            if id.len() > object.0.len() + "/Budget/".len() + object.1.len() {
                all.entry(object).or_default().add(*spend);
            }
        }
        all
    }

    fn add(&mut self, spend: SpendFact) {
        let Members { count, exhausted, all, fullest } = self;
        if *count == 0 || spend.used > fullest.used {
            *fullest = spend;
        }
        *count += 1;
        *exhausted += usize::from(spend.is_spent());
        all.used = all.used.saturating_add(spend.used);
        all.charged = all.charged.saturating_add(spend.charged);
        all.held = all.held.saturating_add(spend.held);
        all.limit = spend.limit;
    }

    /// For a condition.
    pub fn sentence(&self) -> String {
        let Members { count, exhausted, .. } = self;
        match exhausted {
            0 => format!("none of the {count} members in use has spent its limit"),
            _ => format!("{exhausted} of the {count} members in use have spent their limit"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_summed_and_the_fullest_is_known() {
        let spend = |used| SpendFact { used, charged: used + 1, held: 1, refused: 0, limit: 100, period_starts_at: 0 };
        let mut known = Known::default();
        let gateway = ("n".to_owned(), "g".to_owned());
        let budgets = [("n/Budget/b/alice", 40), ("n/Budget/b/x/y", 100), ("n/Budget/c", 7), ("n/VirtualKey/k", 9)];
        known.spend.insert(gateway, HashMap::from(budgets.map(|(id, used)| (id.to_owned(), spend(used)))).into());
        let all = Members::of_all(&known);
        let sum = SpendFact { used: 140, charged: 142, held: 2, refused: 0, limit: 100, period_starts_at: 0 };
        let expected = Members { count: 2, exhausted: 1, all: sum, fullest: spend(100) };
        assert_eq!(all, HashMap::from([(("n", "b"), expected)]));
        assert_eq!(expected.sentence(), "1 of the 2 members in use have spent their limit");
    }
}
