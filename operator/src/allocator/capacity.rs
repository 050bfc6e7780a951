//! How much the books of one gateway may hold. An account is a budget's in one process of a proxy. Up to [`CEILING`] they
//! are served in time, as measured (docs/kubernetes/figures.md); above it the gateway says that it is degraded. Objects of
//! the API server hold a megabyte: long before, books take no new accounts, so that those that are there go on. Pure.

use std::collections::{BTreeMap, BTreeSet};

use tollgate_allocator::{Budget, ReplicaId, Report};

use super::BUDGETS;
use crate::facts::AllocationFact;

/// Accounts that are in use at once.
pub const CEILING: usize = 2_000;

/// Below this again, nothing is said any more. A tenth less, so that it is not said in turns.
const SERVED_AGAIN: usize = CEILING * 9 / 10;

/// A shard of so many bytes takes no new account: a third of what an object holds, so that accounts which are there find
/// room for their next periods.
const FULL: usize = 350_000;

/// Here nothing at all is added.
pub const OVERFULL: usize = 900_000;

/// What an account adds beside its names, about.
const ACCOUNT_BYTES: usize = 400;

/// How long periods that are over are kept for late reports, and in a full shard. Seconds.
const KEPT: i64 = 86_400;
const KEPT_IN_FULL: i64 = 600;

/// What is known of sizes.
#[derive(Debug, Default)]
pub struct Capacity {
    /// Bytes of each shard: as written last, and what was added since.
    sizes: [usize; BUDGETS.count],
    /// How many writes there were before the last one of each.
    written: [u64; BUDGETS.count],
    writes: u64,
    accounts: usize,
    is_degraded: bool,
    /// Somebody was turned away since the last count.
    is_full: bool,
}

impl Capacity {
    /// The books were read.
    pub fn loaded(&mut self, budgets: &BTreeMap<String, Budget>) {
        self.sizes = [0; BUDGETS.count];
        for (id, budget) in budgets {
            let text = serde_json::to_string(budget).expect("names and numbers are JSON");
            self.sizes[BUDGETS.shard_of(id)] += text.len() + id.len();
        }
    }

    pub fn is_written(&mut self, shard: usize, bytes: usize) {
        self.writes += 1;
        self.written[shard] = self.writes;
        self.sizes[shard] = bytes;
    }

    /// Those that were not written longest first.
    pub fn oldest(&self, shards: &BTreeSet<usize>) -> Vec<usize> {
        let mut shards: Vec<usize> = shards.iter().copied().collect();
        shards.sort_by_key(|shard| self.written[*shard]);
        shards
    }

    /// Whether the report's account is there or may be made. `budget`: its books, where there are any.
    pub fn has_room(&mut self, budget: Option<&Budget>, report: &Report, replica: &ReplicaId) -> bool {
        let mut of_replica =
            budget.iter().flat_map(|budget| &budget.books).filter(|books| books.accounts.contains_key(replica));
        let is_known = of_replica.clone().next().is_some();
        if of_replica.any(|books| books.span.starts_at == report.span.starts_at) {
            return true;
        }
        let size = &mut self.sizes[BUDGETS.shard_of(&report.budget)];
        let most = if is_known { OVERFULL } else { FULL };
        if *size >= most {
            self.is_full = true;
            return false;
        }
        *size += ACCOUNT_BYTES + report.budget.len() + replica.0.len();
        true
    }

    /// How long a shard keeps periods that are over. Seconds.
    pub fn keeps(&self, shard: usize) -> i64 {
        if self.sizes[shard] >= FULL { KEPT_IN_FULL } else { KEPT }
    }

    /// Counts accounts that are open.
    pub fn count(&mut self, budgets: &BTreeMap<String, Budget>) -> AllocationFact {
        let books = budgets.values().flat_map(|budget| &budget.books);
        self.accounts = books.flat_map(|books| books.accounts.values()).filter(|account| !account.closed).count();
        self.is_degraded = self.accounts > if self.is_degraded { SERVED_AGAIN } else { CEILING };
        let is_full = std::mem::take(&mut self.is_full);
        AllocationFact { is_degraded: self.is_degraded || is_full, is_full, ..AllocationFact::default() }
    }

    /// As counted last.
    pub fn accounts(&self) -> usize {
        self.accounts
    }
}

#[cfg(test)]
mod tests {
    use tollgate_allocator::{Asker, Mode, Period, Terms, Unit};

    use super::*;

    const TERMS: Terms = Terms {
        unit: Unit::NanoUsd,
        limit: 1_000,
        mode: Mode::Hard,
        period: Period::Rolling { seconds: 86_400 },
        reset_token: None,
    };

    fn report(budget: &str, at: i64) -> Report {
        Report {
            budget: budget.to_owned(),
            unit: Unit::NanoUsd,
            reset_token: None,
            span: TERMS.period.span(at),
            returned: 0,
            used: 0,
            held: 0,
            wanted: 1,
            refused: 0,
            last: false,
        }
    }

    fn ask(budgets: &mut BTreeMap<String, Budget>, report: &Report, replica: &ReplicaId) {
        let asker = Asker { replica, replicas: 1, now_ms: 0 };
        budgets.entry(report.budget.clone()).or_default().sync(&TERMS, asker, report);
    }

    #[test]
    fn above_the_ceiling_it_is_degraded_until_a_tenth_is_gone() {
        let (mut budgets, mut capacity) = (BTreeMap::new(), Capacity::default());
        let replica = ReplicaId("a".to_owned());
        for number in 0..CEILING {
            ask(&mut budgets, &report(&number.to_string(), 0), &replica);
        }
        assert_eq!(capacity.count(&budgets), AllocationFact::default());
        ask(&mut budgets, &report("one more", 0), &replica);
        let degraded = AllocationFact { is_degraded: true, ..AllocationFact::default() };
        assert_eq!((capacity.count(&budgets), capacity.accounts()), (degraded, CEILING + 1));
        for number in 0..CEILING / 10 {
            budgets.remove(&number.to_string());
        }
        assert_eq!(capacity.count(&budgets), degraded);
        // A closed one is in use no more.
        assert!(budgets.get_mut("one more").unwrap().close(&replica));
        assert_eq!(capacity.count(&budgets), AllocationFact::default());
    }

    #[test]
    fn a_full_shard_takes_nobody_new_and_serves_those_that_are_there() {
        let (mut budgets, mut capacity) = (BTreeMap::new(), Capacity::default());
        let (old, new) = (ReplicaId("old".to_owned()), ReplicaId("new".to_owned()));
        let first = report("b", 0);
        assert!(capacity.has_room(None, &first, &old));
        ask(&mut budgets, &first, &old);
        let shard = BUDGETS.shard_of("b");
        capacity.is_written(shard, FULL);
        let known = || budgets.get("b");
        assert!(capacity.has_room(known(), &first, &old));
        assert!(capacity.has_room(known(), &report("b", 86_400), &old), "its next period");
        assert!(!capacity.has_room(known(), &first, &new));
        let full = AllocationFact { is_degraded: true, is_full: true, ..AllocationFact::default() };
        assert_eq!(capacity.count(&budgets), full);
        assert_eq!(capacity.count(&budgets), AllocationFact::default(), "nobody came since");
        capacity.is_written(shard, OVERFULL);
        assert!(capacity.has_room(known(), &first, &old));
        assert!(!capacity.has_room(known(), &report("b", 86_400), &old));
        assert_eq!((capacity.keeps(shard), capacity.keeps((shard + 1) % BUDGETS.count)), (KEPT_IN_FULL, KEPT));
    }

    /// What accounts are taken to add is not less than what they do.
    #[test]
    fn no_shard_grows_to_what_an_object_cannot_hold() {
        let (mut budgets, mut capacity) = (BTreeMap::new(), Capacity::default());
        let replica = |number: usize| ReplicaId(format!("default-7c9f8d6b5-{number:05}/0123456789abcdef.{number}"));
        let mut refused = 0;
        for number in 0..20_000 {
            let report = report("team-a/Budget/shared", 1_700_000_000);
            if !capacity.has_room(budgets.get(&report.budget), &report, &replica(number)) {
                refused += 1;
                continue;
            }
            ask(&mut budgets, &report, &replica(number));
        }
        let bytes = serde_json::to_string(&budgets).unwrap().len();
        assert!(refused > 0 && bytes < FULL, "{bytes} bytes, {refused} refused");
    }
}
