//! Budgets that have one for each member: opened when they are used, bounded in number, and forgotten when they are over.

mod common;

use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use common::{NOON_MS, attempt, exact, hard, hold, options, spent};
use tollgate_ledger::{
    AttemptStart, BudgetTerms, CalendarUnit, Ledger, MOST_MEMBERS, Options, Period, Refusal, TooMany,
};

static CLOCK_MS: AtomicI64 = AtomicI64::new(NOON_MS);

fn clock() -> i64 {
    CLOCK_MS.load(SeqCst)
}

fn daily(limit: i64) -> BudgetTerms {
    let period = Period::Calendar { unit: CalendarUnit::Day, time_zone: "UTC".to_owned() };
    BudgetTerms { period, ..hard("b", limit) }
}

#[test]
fn members_keep_what_they_spent_over_a_restart_and_follow_new_terms() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let (ledger, mut writers, _) = Ledger::open(options(folder.path(), 1)).unwrap();
        (ledger, writers.remove(0))
    };
    let (ledger, mut writer) = open();
    let members = ledger.members(&hard("b", 100), false);
    let alice = ledger.member(&members, "alice").unwrap();
    hold(&mut writer, &attempt(1, 60), &[alice]).unwrap().settle(exact(60));
    drop(writer);
    ledger.close().unwrap();

    let (ledger, mut writer) = open();
    let members = ledger.members(&hard("b", 100), false);
    assert_eq!(spent(&ledger, "b/alice"), 60, "seen before it is used");
    let (alice, bob) = (ledger.member(&members, "alice").unwrap(), ledger.member(&members, "bob").unwrap());
    assert!(matches!(
        hold(&mut writer, &attempt(2, 60), std::slice::from_ref(&alice)),
        Err(Refusal::Exhausted { spent: 60, limit: 100, .. })
    ));
    hold(&mut writer, &attempt(3, 60), &[bob]).unwrap().release(0, 0);
    ledger.members(&hard("b", 120), false);
    hold(&mut writer, &attempt(4, 60), &[alice]).unwrap().settle(exact(60));
}

#[test]
fn those_that_clients_name_are_seen_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writers, _) = Ledger::open(options(folder.path(), 1)).unwrap();
    let members = ledger.members(&hard("b", 100), true);
    for (at, (name, cost)) in [("a", 10), ("b", 30), ("c", 20)].into_iter().enumerate() {
        let member = ledger.member(&members, name).unwrap();
        hold(&mut writers[0], &attempt(at as u128, 50), &[member]).unwrap().settle(exact(cost));
    }
    let views: Vec<(String, i64)> = ledger.views().into_iter().map(|view| (view.id, view.spent)).collect();
    assert_eq!(views, [("b".to_owned(), 30)]);
}

#[test]
fn there_is_room_again_when_the_period_is_over_and_no_old_period_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { clock, ..options(folder.path(), 1) };
    let (ledger, mut writers, _) = Ledger::open(options).unwrap();
    let members = ledger.members(&daily(100), true);
    let now = |id: u128| AttemptStart { started_at_ms: clock(), ..attempt(id, 60) };
    let first = ledger.member(&members, "first").unwrap();
    hold(&mut writers[0], &now(1), &[first]).unwrap().settle(exact(60));
    for at in 1..MOST_MEMBERS {
        ledger.member(&members, &at.to_string()).unwrap();
    }
    // Members that spent nothing make room at once, the one that did does not.
    ledger.member(&members, "new").unwrap();
    let again = ledger.member(&members, "first").unwrap();
    assert!(matches!(hold(&mut writers[0], &now(2), &[again]), Err(Refusal::Exhausted { spent: 60, .. })));

    CLOCK_MS.fetch_add(86_400_000, SeqCst);
    let kept: Vec<_> =
        (2..).map(|at: usize| ledger.member(&members, &format!("kept-{at}"))).map_while(Result::ok).collect();
    assert_eq!(kept.len(), MOST_MEMBERS, "all others went, and those that somebody has stay");
    assert_eq!(ledger.member(&members, "one more").map(|_| ()), Err(TooMany));
    drop(kept);
    CLOCK_MS.fetch_add(2_000, SeqCst);
    ledger.member(&members, "one more").unwrap();

    // The clock goes back into the day that is over: what is spent counts in the new one all the same.
    CLOCK_MS.fetch_sub(86_400_000, SeqCst);
    let first = ledger.member(&members, "first").unwrap();
    hold(&mut writers[0], &now(3), &[first]).unwrap().settle(exact(10));
    assert_eq!(ledger.views()[0].period_label, "2026-11-22");
}
