//! What budgets promise, through the whole ledger: never over the limit, never a false refusal, and back after restart.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use common::{NOON_MS, attempt, exact, hard, hold, noon, options, spent, view};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use tollgate_faults::{seeds, this_test};
use tollgate_ledger::{
    Amounts, AttemptStart, Boost, BudgetTerms, CalendarUnit, Hold, LastEnd, Ledger, LetThrough, Mode, OpenError,
    Options, Period, Refusal, Settlement, Unit, Writer,
};

fn open(options: Options) -> (Ledger, Writer) {
    let (ledger, mut writers, _) = Ledger::open(options).unwrap();
    (ledger, writers.remove(0))
}

fn day() -> Period {
    Period::Calendar { unit: CalendarUnit::Day, time_zone: "UTC".to_owned() }
}

#[test]
fn a_hard_budget_admits_to_its_limit_then_says_reserved_then_exhausted() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(options(folder.path(), 1));
    let budgets = [ledger.budget(&hard("b", 100))];
    let first = hold(&mut writer, &attempt(1, 60), &budgets).unwrap();
    assert!(matches!(
        hold(&mut writer, &attempt(2, 60), &budgets),
        Err(Refusal::Reserved { held: 60, limit: 100, .. })
    ));
    first.settle(exact(30));
    let second = hold(&mut writer, &attempt(3, 70), &budgets).unwrap();
    assert_eq!(budgets[0].hard_left(), Some(0));
    second.settle(exact(70));
    match hold(&mut writer, &attempt(4, 1), &budgets) {
        Err(Refusal::Exhausted { spent, limit, asked, resets_at, budget }) => {
            assert_eq!((spent, limit, asked, resets_at, budget.id()), (100, 100, 1, None, "b"));
        }
        other => panic!("{other:?}"),
    }
    hold(&mut writer, &attempt(4, 500), &[]).unwrap().release(0, 0);
}

#[test]
fn a_call_that_one_budget_refuses_holds_nothing_in_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(options(folder.path(), 1));
    let requests = BudgetTerms { unit: Unit::Requests, ..hard("requests", 1) };
    let tokens = BudgetTerms { unit: Unit::Tokens, ..hard("tokens", 1000) };
    let wide = ledger.budget(&hard("wide", 1000));
    let budgets = [ledger.budget(&requests), wide.clone(), ledger.budget(&tokens), wide];
    hold(&mut writer, &attempt(1, 10), &budgets).unwrap().settle(exact(4));
    assert!(matches!(hold(&mut writer, &attempt(2, 10), &budgets), Err(Refusal::Exhausted { .. })));
    let left: Vec<_> = ledger.views().into_iter().map(|view| (view.id, view.spent, view.held)).collect();
    assert_eq!(left, [("requests".into(), 1, 0), ("tokens".into(), 5, 0), ("wide".into(), 4, 0)]);
}

#[test]
fn what_costs_nothing_passes_a_budget_of_money_that_is_spent_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(options(folder.path(), 1));
    for (name, mode, unit, passes) in [
        ("hard", Mode::Hard, Unit::NanoUsd, true),
        ("soft", Mode::Soft, Unit::NanoUsd, true),
        ("hard tokens", Mode::Hard, Unit::Tokens, false),
        ("soft tokens", Mode::Soft, Unit::Tokens, false),
        ("hard requests", Mode::Hard, Unit::Requests, false),
        ("soft requests", Mode::Soft, Unit::Requests, false),
    ] {
        let budgets = [ledger.budget(&BudgetTerms { mode, unit, ..hard(name, 10) })];
        let hold_of = |nano_usd| Amounts { nano_usd, tokens: 10, requests: 10 };
        let spends = AttemptStart { hold: hold_of(10), ..attempt(1, 0) };
        let actual = Settlement { actual: hold_of(10), ..exact(10) };
        hold(&mut writer, &spends, &budgets).unwrap().settle(actual);
        assert!(matches!(hold(&mut writer, &attempt(2, 1), &budgets), Err(Refusal::Exhausted { .. })), "{name}");
        let free = hold(&mut writer, &attempt(3, 0), &budgets);
        assert_eq!(free.is_ok(), passes, "{name}");
        if let Ok(free) = free {
            free.settle(exact(0));
        }
        assert_eq!(spent(&ledger, name), 10, "{name}");
    }
    assert_eq!(ledger.counters().bound_violations, 0);
}

#[test]
fn a_soft_budget_admits_while_settled_is_below_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(options(folder.path(), 1));
    let budgets = [ledger.budget(&BudgetTerms { mode: Mode::Soft, ..hard("soft", 100) })];
    let holds: Vec<Hold> = (0..5).map(|id| hold(&mut writer, &attempt(id, 80), &budgets).unwrap()).collect();
    holds.into_iter().for_each(|hold| hold.settle(exact(80)));
    assert!(matches!(hold(&mut writer, &attempt(9, 1), &budgets), Err(Refusal::Exhausted { spent: 400, .. })));
    assert_eq!(ledger.counters().bound_violations, 0);
}

#[test]
fn more_than_the_hold_is_booked_in_full_counted_and_stops_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(options(folder.path(), 1));
    let budgets = [ledger.budget(&hard("b", 100))];
    hold(&mut writer, &attempt(1, 10), &budgets).unwrap().settle(exact(250));
    assert!(matches!(hold(&mut writer, &attempt(2, 1), &budgets), Err(Refusal::Exhausted { spent: 250, .. })));
    assert_eq!(ledger.counters().bound_violations, 1);
    drop((ledger, writer, budgets));
    let (ledger, mut writer) = open(options(folder.path(), 1));
    let budgets = [ledger.budget(&hard("b", 100))];
    assert!(matches!(hold(&mut writer, &attempt(2, 1), &budgets), Err(Refusal::Exhausted { spent: 250, .. })));
}

#[test]
fn a_changed_limit_counts_at_once_and_a_reset_token_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(options(folder.path(), 1));
    let budgets = [ledger.budget(&hard("b", 100))];
    hold(&mut writer, &attempt(1, 60), &budgets).unwrap().settle(exact(60));
    ledger.update(&hard("b", 50));
    assert!(matches!(
        hold(&mut writer, &attempt(2, 1), &budgets),
        Err(Refusal::Exhausted { spent: 60, limit: 50, .. })
    ));
    ledger.update(&hard("b", 61));
    hold(&mut writer, &attempt(3, 1), &budgets).unwrap().release(500, 0);
    let reset = BudgetTerms { reset_token: Some("again".to_owned()), ..hard("b", 61) };
    assert!(Arc::ptr_eq(&ledger.budget(&reset), &budgets[0]), "the same id is the same budget");
    hold(&mut writer, &attempt(4, 61), &budgets).unwrap().settle(exact(7));
    assert_eq!(spent(&ledger, "b"), 7);
    ledger.update(&hard("b", 100));
    hold(&mut writer, &attempt(5, 40), &budgets).unwrap().settle(exact(1));
    assert_eq!(spent(&ledger, "b"), 61, "the old token has its old books");
}

#[test]
fn a_boost_ends_at_its_moment_with_nobody_to_say_so() {
    const UNTIL: i64 = NOON_MS / 1000 + 60;
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(options(folder.path(), 1));
    let boosted = |id, amount| BudgetTerms { boost: Some(Boost { amount, until: UNTIL }), ..hard(id, 100) };
    let budgets = [ledger.budget(&boosted("b", 900))];
    let at = |ms: i64, amount| AttemptStart { started_at_ms: UNTIL * 1000 + ms, ..attempt(1, amount) };
    hold(&mut writer, &at(-2, 300), &budgets).unwrap().settle(exact(300));
    let (part, mut let_through) = (Amounts { nano_usd: 10, ..Amounts::default() }, LetThrough::default());
    let mut grows = writer.try_hold_part(&at(-1, 500), part, &budgets, &mut let_through).unwrap();
    let to = |nano_usd| Amounts { nano_usd, ..Amounts::default() };
    writer.extend(&mut grows, to(20), UNTIL * 1000 - 1, true).unwrap();
    assert!(writer.extend(&mut grows, to(30), UNTIL * 1000, true).is_err(), "what is in flight grows no more");
    grows.settle(exact(20));
    assert!(matches!(hold(&mut writer, &at(0, 1), &budgets), Err(Refusal::Exhausted { spent: 320, limit: 100, .. })));
    assert_eq!((budgets[0].limit(), view(&ledger, "b").limit), (100, 1000), "a view is of the ledger's clock");
    // The same terms once more, of the same configuration read again by a clock that is behind.
    ledger.update(&boosted("b", 900));
    assert!(hold(&mut writer, &at(1, 1), &budgets).is_err());
    // Another boost is one.
    ledger.update(&BudgetTerms { boost: Some(Boost { amount: 221, until: UNTIL + 60 }), ..hard("b", 100) });
    hold(&mut writer, &at(2, 1), &budgets).unwrap().settle(exact(1));
    assert!(matches!(hold(&mut writer, &at(60_000, 1), &budgets), Err(Refusal::Exhausted { limit: 100, .. })));
    // Also where nobody calls before, and for one that is soft.
    let late = [ledger.budget(&BudgetTerms { mode: Mode::Soft, ..boosted("late", 900) })];
    hold(&mut writer, &at(-1, 150), &late).unwrap().settle(exact(150));
    assert!(matches!(hold(&mut writer, &at(0, 1), &late), Err(Refusal::Exhausted { spent: 150, limit: 100, .. })));
}

#[test]
fn members_lose_a_boost_too_and_one_that_comes_later_has_none() {
    const UNTIL: i64 = NOON_MS / 1000 + 60;
    static CLOCK: AtomicI64 = AtomicI64::new(NOON_MS);
    CLOCK.store(NOON_MS, SeqCst);
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(Options { clock: || CLOCK.load(SeqCst), ..options(folder.path(), 1) });
    let members =
        ledger.members(&BudgetTerms { boost: Some(Boost { amount: 900, until: UNTIL }), ..hard("b", 100) }, false);
    let now = |amount| AttemptStart { started_at_ms: CLOCK.load(SeqCst), ..attempt(1, amount) };
    let early = [ledger.member(&members, "early").unwrap()];
    hold(&mut writer, &now(300), &early).unwrap().settle(exact(300));
    CLOCK.store(UNTIL * 1000, SeqCst);
    let late = [ledger.member(&members, "late").unwrap()];
    assert!(matches!(hold(&mut writer, &now(1), &early), Err(Refusal::Exhausted { limit: 100, .. })));
    assert!(hold(&mut writer, &now(101), &late).is_err());
    hold(&mut writer, &now(100), &late).unwrap().settle(exact(100));
    assert_eq!((view(&ledger, "b/early").limit, view(&ledger, "b/late").limit), (100, 100));
}

#[test]
fn an_attempt_belongs_to_the_period_of_its_hold_and_periods_never_reopen() {
    const DAY_MS: i64 = 86_400_000;
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(options(folder.path(), 1));
    let budgets = [ledger.budget(&BudgetTerms { period: day(), ..hard("b", 100) })];
    let on = |days: i64, amount| AttemptStart { started_at_ms: NOON_MS + days * DAY_MS, ..attempt(1, amount) };
    let today = hold(&mut writer, &on(0, 90), &budgets).unwrap();
    let tomorrow = hold(&mut writer, &on(1, 100), &budgets).unwrap();
    today.settle(exact(90));
    tomorrow.settle(exact(95));
    // The clock goes back: it is still tomorrow.
    assert!(matches!(hold(&mut writer, &on(0, 10), &budgets), Err(Refusal::Exhausted { spent: 95, .. })));
    drop((ledger, writer, budgets));
    let (ledger, mut writer) = open(options(folder.path(), 1));
    let budgets = [ledger.budget(&BudgetTerms { period: day(), ..hard("b", 100) })];
    assert!(matches!(hold(&mut writer, &on(0, 10), &budgets), Err(Refusal::Exhausted { spent: 95, .. })));
    hold(&mut writer, &on(2, 100), &budgets).unwrap().release(0, 0);
}

#[test]
fn a_rolling_budget_forgets_bucket_by_bucket() {
    const HOUR_MS: i64 = 3_600_000;
    let folder = tempfile::tempdir().unwrap();
    let terms = BudgetTerms { period: Period::Rolling { seconds: 86_400 }, ..hard("b", 100) };
    let at = |hours: i64, amount| AttemptStart { started_at_ms: NOON_MS + hours * HOUR_MS, ..attempt(1, amount) };
    let (ledger, mut writer) = open(options(folder.path(), 1));
    let budgets = [ledger.budget(&terms)];
    hold(&mut writer, &at(0, 60), &budgets).unwrap().settle(exact(60));
    hold(&mut writer, &at(5, 40), &budgets).unwrap().settle(exact(30));
    match hold(&mut writer, &at(23, 11), &budgets) {
        Err(Refusal::Exhausted { spent: 90, resets_at, .. }) => {
            assert_eq!(
                resets_at,
                Some(NOON_MS / 1000 + 25 * 3600),
                "the bucket of noon ends at one and counts for a day"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(hold(&mut writer, &at(24, 11), &budgets), Err(Refusal::Exhausted { .. })));
    let late = hold(&mut writer, &at(25, 70), &budgets).unwrap();
    // Held in one bucket, settled during the next: what was not used is there again.
    assert!(matches!(hold(&mut writer, &at(26, 20), &budgets), Err(Refusal::Reserved { .. })));
    late.settle(exact(10));
    hold(&mut writer, &at(26, 60), &budgets).unwrap().settle(exact(20));
    drop((ledger, writer, budgets));
    let (ledger, mut writer) = open(options(folder.path(), 1));
    let budgets = [ledger.budget(&terms)];
    assert!(matches!(hold(&mut writer, &at(26, 41), &budgets), Err(Refusal::Exhausted { spent: 60, .. })));
    hold(&mut writer, &at(26, 40), &budgets).unwrap().release(0, 0);
    hold(&mut writer, &at(30, 70), &budgets).unwrap().release(0, 0);
}

#[test]
fn a_bucket_that_is_over_is_shown_as_long_as_it_counts_also_when_nobody_calls() {
    static HOURS: AtomicI64 = AtomicI64::new(0);
    const HOUR: i64 = 3600;
    let folder = tempfile::tempdir().unwrap();
    let clock = || NOON_MS + HOURS.load(SeqCst) * HOUR * 1000;
    let (ledger, mut writer) = open(Options { clock, ..options(folder.path(), 1) });
    let terms = BudgetTerms { period: Period::Rolling { seconds: 24 * HOUR }, ..hard("b", 100) };
    let budgets = [ledger.budget(&terms)];
    hold(&mut writer, &attempt(1, 60), &budgets).unwrap().settle(exact(60));
    let held = hold(&mut writer, &attempt(2, 30), &budgets).unwrap();
    let shown = |hours| {
        HOURS.store(hours, SeqCst);
        let view = view(&ledger, "b");
        (view.spent, view.held, view.resets_at.map(|at| (at - NOON_MS / 1000) / HOUR))
    };
    for hours in [0, 1, 3, 24] {
        assert_eq!(shown(hours), (60, 30, Some(25)), "after {hours} h");
    }
    held.settle(exact(10));
    assert_eq!(shown(24), (70, 0, Some(25)));
    assert_eq!(shown(25), (0, 0, Some(26 + 24)), "it is over: the bucket of now is the first that counts");
}

#[test]
fn eight_threads_never_overspend_and_are_never_refused_falsely() {
    const LIMIT: i64 = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let (ledger, writers, _) = Ledger::open(Options { segment_bytes: 65_536, ..options(folder.path(), 8) }).unwrap();
    let settling = AtomicI64::new(0);
    std::thread::scope(|scope| {
        for (seed, mut writer) in writers.into_iter().enumerate() {
            let (ledger, settling) = (ledger.clone(), &settling);
            scope.spawn(move || {
                let budgets = [ledger.budget(&hard("small", LIMIT)), ledger.budget(&hard("large", i64::MAX / 2))];
                let mut random = fastrand::Rng::with_seed(seed as u64);
                for id in 0..1500 {
                    let amount = random.i64(1..400);
                    match hold(&mut writer, &attempt(id, amount), &budgets) {
                        Ok(hold) => {
                            let actual = random.i64(0..=amount / 8);
                            settling.fetch_add(actual, SeqCst);
                            assert!(settling.load(SeqCst) <= LIMIT);
                            hold.settle(exact(actual));
                        }
                        Err(Refusal::Exhausted { .. }) => {
                            assert!(settling.load(SeqCst) + amount > LIMIT, "money was there");
                        }
                        Err(Refusal::Reserved { .. }) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    for budget in ["small", "large"] {
        let view = view(&ledger, budget);
        assert_eq!((view.spent, view.held), (settling.load(SeqCst), 0));
    }
    assert!(spent(&ledger, "small") > LIMIT - 400, "the budget could be used up");
    ledger.flush().unwrap();
    let booked: i64 = common::rows(folder.path()).iter().map(|row| row.1).sum();
    assert_eq!(booked, settling.load(SeqCst));
}

#[test]
fn fifty_agents_on_a_small_budget_all_get_their_turn() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, writer) = open(options(folder.path(), 1));
    let budget = ledger.budget(&hard("b", 1000));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let writer = std::rc::Rc::new(std::cell::RefCell::new(writer));
    let agents = (0..50).map(|id| {
        let (writer, budget) = (writer.clone(), budget.clone());
        local.spawn_local(async move {
            loop {
                let tried = writer.borrow_mut().try_hold(&attempt(id, 400), std::slice::from_ref(&budget));
                match tried {
                    Ok(hold) => {
                        tokio::task::yield_now().await;
                        return hold.settle(exact(12));
                    }
                    Err(Refusal::Reserved { budget, .. }) => budget.wait_for_release().await,
                    Err(Refusal::Pending(grant)) => grant.wait().await,
                    Err(refusal) => panic!("{refusal:?}"),
                }
            }
        })
    });
    let agents: Vec<_> = agents.collect();
    runtime.block_on(local.run_until(async {
        for agent in agents {
            agent.await.unwrap();
        }
    }));
    assert_eq!((view(&ledger, "b").spent, view(&ledger, "b").held), (600, 0));
}

#[test]
fn a_second_process_is_refused_and_told_who_has_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let first = Ledger::open(options(folder.path(), 1)).unwrap();
    match Ledger::open(options(folder.path(), 1)) {
        Err(OpenError::InUse { by, .. }) => assert_eq!(by, format!("process {}", std::process::id())),
        other => panic!("{other:?}"),
    }
    drop(first);
    assert!(Ledger::open(options(folder.path(), 1)).is_ok());
}

#[test]
fn a_full_journal_refuses_with_a_reason_and_a_full_disk_does_not_crash() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("ledger.sqlite")).unwrap();
    let (ledger, mut writer) = open(Options { max_segments: 4, ..options(folder.path(), 1) });
    let mut reason = None;
    for id in 0..1000 {
        match hold(&mut writer, &attempt(id, 1), &[]) {
            Ok(hold) => hold.settle(exact(1)),
            Err(Refusal::Unavailable { reason: why }) => {
                reason = Some(why);
                break;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(reason.unwrap().contains("segments that are not copied"), "serving went on to the bound, then says why");
    assert!(ledger.flush().is_err());
    assert!(ledger.counters().copy_failures > 0);
    std::fs::remove_dir(folder.path().join("ledger.sqlite")).unwrap();
    ledger.flush().unwrap();
    hold(&mut writer, &attempt(5000, 1), &[]).unwrap().settle(exact(1));
    ledger.flush().unwrap();
    let rows = common::rows(folder.path());
    assert!(rows.len() >= 46 && rows.last().unwrap().0 == 5000, "what waited was copied, nothing is lost");
}

/// The reference: plain integers.
#[derive(Clone, Debug, Default)]
struct Model {
    spent: i64,
    held: i64,
    limit: i64,
}

#[derive(Clone, Debug)]
enum Step {
    Hold { amount: i64, in_both: bool },
    Settle { which: usize, percent: i64 },
    Release { which: usize },
    Charge { which: usize },
    Drop { which: usize },
    Limit { limit: i64 },
    Kill,
    Stop,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..400i64, any::<bool>()).prop_map(|(amount, in_both)| Step::Hold { amount, in_both }),
        5 => (any::<usize>(), 0..130i64).prop_map(|(which, percent)| Step::Settle { which, percent }),
        1 => any::<usize>().prop_map(|which| Step::Release { which }),
        1 => any::<usize>().prop_map(|which| Step::Charge { which }),
        1 => any::<usize>().prop_map(|which| Step::Drop { which }),
        1 => (0..3000i64).prop_map(|limit| Step::Limit { limit }),
        1 => Just(Step::Kill),
        1 => Just(Step::Stop),
    ]
}

#[test]
fn books_agree_with_plain_integers_over_any_interleaving() {
    seeds::property(this_test!(), 24, &prop::collection::vec(step(), 1..60), history);
}

fn history(steps: Vec<Step>) -> TestCaseResult {
    let folder = tempfile::tempdir().unwrap();
    let fast = || Options { clock: noon, ..options(folder.path(), 1) };
    let (mut ledger, mut writer) = open(fast());
    let mut models = [Model { limit: 1500, ..Model::default() }, Model { limit: 900, ..Model::default() }];
    let mut terms = [hard("a", 1500), hard("b", 900)];
    let mut budgets = [ledger.budget(&terms[0]), ledger.budget(&terms[1])];
    let mut holds: Vec<(Hold, i64, usize)> = Vec::new();
    let mut booked = 0;
    for (id, step) in steps.into_iter().enumerate() {
        match step {
            Step::Hold { amount, in_both } => {
                let count = if in_both { 2 } else { 1 };
                let fits = |model: &Model| model.spent + model.held + amount.max(1) <= model.limit;
                match hold(&mut writer, &attempt(id as u128, amount), &budgets[..count]) {
                    Ok(hold) => {
                        prop_assert!(models[..count].iter().all(fits), "overspent");
                        models[..count].iter_mut().for_each(|model| model.held += amount);
                        holds.push((hold, amount, count));
                    }
                    Err(Refusal::Exhausted { budget, .. }) => {
                        let model = &models[usize::from(budget.id() == "b")];
                        prop_assert!(model.spent + amount.max(1) > model.limit, "refused falsely");
                    }
                    Err(Refusal::Reserved { budget, held, .. }) => {
                        let model = &models[usize::from(budget.id() == "b")];
                        prop_assert!(!fits(model) && model.spent + amount.max(1) <= model.limit);
                        prop_assert_eq!(held, model.held);
                    }
                    Err(other) => prop_assert!(false, "{other:?}"),
                }
            }
            Step::Settle { which, .. } | Step::Release { which } | Step::Charge { which } | Step::Drop { which } => {
                if holds.is_empty() {
                    continue;
                }
                let (hold, amount, count) = holds.swap_remove(which % holds.len());
                let actual = match step {
                    Step::Settle { percent, .. } => amount * percent / 100,
                    Step::Release { .. } => 0,
                    _ => amount,
                };
                match step {
                    Step::Settle { .. } => hold.settle(exact(actual)),
                    Step::Release { .. } => hold.release(429, 3),
                    Step::Charge { .. } => hold.charge(0, 3),
                    _ => drop(hold),
                }
                booked += actual;
                for model in &mut models[..count] {
                    model.held -= amount;
                    model.spent += actual;
                }
            }
            Step::Limit { limit } => {
                terms[1].limit = limit;
                models[1].limit = limit;
                ledger.update(&terms[1]);
            }
            Step::Kill | Step::Stop => {
                // What is in flight when a process dies is charged its hold by the next.
                for (hold, amount, count) in holds.drain(..) {
                    std::mem::forget(hold);
                    booked += amount;
                    for model in &mut models[..count] {
                        model.held -= amount;
                        model.spent += amount;
                    }
                }
                let stopped = matches!(step, Step::Stop);
                drop((writer, budgets));
                if stopped {
                    ledger.close().unwrap();
                } else {
                    drop(ledger);
                }
                let (opened, mut writers, report) = Ledger::open(fast()).unwrap();
                prop_assert_eq!(report.last_end, if stopped { LastEnd::Stopped } else { LastEnd::Killed });
                prop_assert_eq!((report.damaged_slots, report.adjustments), (0, 0));
                (ledger, writer) = (opened, writers.remove(0));
                budgets = [ledger.budget(&terms[0]), ledger.budget(&terms[1])];
            }
        }
        for (model, id) in models.iter().zip(["a", "b"]) {
            let view = view(&ledger, id);
            prop_assert_eq!((view.spent, view.held), (model.spent, model.held));
        }
    }
    holds.clear();
    drop((writer, budgets));
    ledger.flush().unwrap();
    let rows = common::rows(folder.path());
    let in_flight: i64 = models[0].held;
    prop_assert_eq!(rows.iter().map(|row| row.1).sum::<i64>(), booked + in_flight);
    prop_assert_eq!(common::daily(folder.path()), (rows.len() as i64, booked + in_flight));
    ledger.close().unwrap();
    Ok(())
}

#[test]
fn amounts_that_make_no_sense_neither_overflow_nor_refund() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(options(folder.path(), 1));
    let budgets = [ledger.budget(&hard("b", i64::MAX))];
    let absurd = |nano_usd| AttemptStart { hold: Amounts { nano_usd, ..Amounts::default() }, ..attempt(1, 0) };
    hold(&mut writer, &absurd(-50), &budgets).unwrap().settle(exact(-70));
    assert_eq!(spent(&ledger, "b"), 0);
    hold(&mut writer, &absurd(i64::MAX), &budgets).unwrap().settle(exact(3));
    assert_eq!(spent(&ledger, "b"), 3);
}
