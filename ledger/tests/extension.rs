//! Attempts that hold a part of what they may cost and more as they go on: never above a limit, never in one budget
//! without the others, and after a crash they are charged what they held, which is no less than what they used.

mod common;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use common::{NOON_MS, attempt, exact, hard, hold, hold_part, options, rows, spent, view};
use proptest::prelude::*;
use tollgate_ledger::{
    Amounts, AttemptStart, Budget, BudgetTerms, CalendarUnit, Hold, Ledger, Mode, Period, Unit, Writer,
};

fn open(folder: &Path) -> (Ledger, Writer) {
    let (ledger, mut writers, _) = Ledger::open(options(folder, 1)).unwrap();
    (ledger, writers.remove(0))
}

fn part(nano_usd: i64) -> Amounts {
    Amounts { nano_usd, tokens: 1, requests: 1 }
}

/// Tries until it is not the disk that is waited for.
fn extend(writer: &Writer, hold: &mut Hold, to: Amounts, now_ms: i64) -> bool {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match writer.extend(hold, to, now_ms, true) {
            Ok(()) => return true,
            Err(short) => {
                let budget = short.budget.expect("the ledger has it");
                let left = budget.hard_left().expect("only hard ones are short");
                let wanted = match budget.unit() {
                    Unit::NanoUsd => to.nano_usd - hold.amounts().nano_usd,
                    Unit::Tokens => to.tokens - hold.amounts().tokens,
                    Unit::Requests => 0,
                };
                if left < wanted {
                    return false;
                }
                assert!(std::time::Instant::now() < deadline, "no grant came although {left} are left");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }
}

#[test]
fn more_is_held_in_all_budgets_or_in_none() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(folder.path());
    let tokens = BudgetTerms { unit: Unit::Tokens, ..hard("tokens", 8) };
    let requests = BudgetTerms { unit: Unit::Requests, ..hard("requests", 1) };
    let soft = BudgetTerms { mode: Mode::Soft, ..hard("soft", 5) };
    let budgets = [&hard("wide", 1000), &tokens, &requests, &soft].map(|terms| ledger.budget(terms));
    let mut one = hold_part(&mut writer, &attempt(1, 100), part(10), &budgets).unwrap();
    let held = |id| view(&ledger, id).held;
    assert_eq!((held("wide"), held("tokens"), held("requests"), held("soft")), (10, 1, 1, 10));
    assert!(extend(&writer, &mut one, Amounts { tokens: 8, ..part(90) }, NOON_MS));
    assert_eq!((held("wide"), held("tokens"), held("requests"), held("soft")), (90, 8, 1, 90));
    let short = writer.extend(&mut one, Amounts { tokens: 9, ..part(95) }, NOON_MS, true).unwrap_err();
    assert_eq!(short.budget.as_ref().map(|budget| budget.id()), Some("tokens"));
    assert_eq!((held("wide"), held("tokens"), one.amounts()), (90, 8, Amounts { tokens: 8, ..part(90) }));
    one.charge_up_to(Amounts { tokens: 3, ..part(40) }, 200, 0);
    let ends = |id| (view(&ledger, id).spent, view(&ledger, id).held);
    assert_eq!((ends("wide"), ends("tokens"), ends("requests"), ends("soft")), ((40, 0), (3, 0), (1, 0), (40, 0)));
    ledger.flush().unwrap();
    assert_eq!(rows(folder.path()), [(1, 40, "charged".to_owned())]);
}

#[test]
fn what_can_have_been_used_is_never_charged_above_the_hold() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(folder.path());
    let budgets = [ledger.budget(&hard("b", 100))];
    hold_part(&mut writer, &attempt(1, 100), part(10), &budgets).unwrap().charge_up_to(part(50), 200, 0);
    assert_eq!(spent(&ledger, "b"), 10);
}

#[test]
fn a_process_that_dies_leaves_what_was_held_last() {
    let folder = tempfile::tempdir().unwrap();
    for (round, torn) in [false, true].into_iter().enumerate() {
        let (ledger, mut writer) = open(folder.path());
        let budgets = [ledger.budget(&hard("b", 1000))];
        let mut one = hold_part(&mut writer, &attempt(round as u128, 100), part(10), &budgets).unwrap();
        assert!(extend(&writer, &mut one, part(35), NOON_MS));
        std::mem::forget(one);
        drop((ledger, writer, budgets));
        if torn {
            tear_marks(folder.path());
        }
    }
    let (ledger, _writer) = open(folder.path());
    ledger.budget(&hard("b", 1000));
    ledger.flush().unwrap();
    // Where the last store was cut in two, nobody knows: the worst case.
    let booked = rows(folder.path());
    assert_eq!(booked, [(0, 35, "recovered".to_owned()), (1, 100, "recovered".to_owned())]);
    assert_eq!(spent(&ledger, "b"), 135);
}

/// As a death in the middle of a store leaves it.
fn tear_marks(folder: &Path) {
    for file in std::fs::read_dir(folder.join("journal")).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.chunks_exact_mut(256).skip(1).filter(|slot| slot[180] == 0xe5).for_each(|slot| slot[190] ^= 1);
        std::fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn after_the_end_of_its_period_an_attempt_goes_on_with_what_is_left_of_its_allowance() {
    const DAY_MS: i64 = 86_400_000;
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(folder.path());
    let day = Period::Calendar { unit: CalendarUnit::Day, time_zone: "UTC".to_owned() };
    let budgets = [ledger.budget(&BudgetTerms { period: day, ..hard("b", 100) })];
    let now = NOON_MS + 60_000;
    assert!(budgets[0].lasts(now, now + 3_600_000) && !budgets[0].lasts(now, now + DAY_MS), "before the first use");
    let mut one = hold_part(&mut writer, &attempt(1, 100), part(10), &budgets).unwrap();
    assert!(budgets[0].lasts(now, now + 3_600_000) && !budgets[0].lasts(now, now + DAY_MS));
    let tomorrow = AttemptStart { started_at_ms: NOON_MS + DAY_MS, ..attempt(2, 100) };
    let two = hold(&mut writer, &tomorrow, &budgets).unwrap();
    // Half of the limit was granted to the first day, and nothing more will be.
    writer.extend(&mut one, part(50), NOON_MS + DAY_MS, true).unwrap();
    writer.extend(&mut one, part(51), NOON_MS + DAY_MS, true).unwrap_err();
    one.settle(exact(50));
    two.settle(exact(100));
    assert_eq!(view(&ledger, "b").held, 0);
}

#[test]
fn what_an_older_bucket_does_not_hold_is_not_promised_twice() {
    const HOUR_MS: i64 = 3_600_000;
    let folder = tempfile::tempdir().unwrap();
    let (ledger, mut writer) = open(folder.path());
    let budgets = [ledger.budget(&BudgetTerms { period: Period::Rolling { seconds: 86_400 }, ..hard("b", 100) })];
    let mut one = hold_part(&mut writer, &attempt(1, 100), part(10), &budgets).unwrap();
    let later = AttemptStart { started_at_ms: NOON_MS + 2 * HOUR_MS, ..attempt(2, 90) };
    let two = hold(&mut writer, &later, &budgets).unwrap();
    writer.extend(&mut one, part(11), NOON_MS + 2 * HOUR_MS, true).unwrap_err();
    one.settle(exact(10));
    two.settle(exact(90));
    assert_eq!((view(&ledger, "b").spent, view(&ledger, "b").held), (100, 0));
}

#[test]
fn eight_threads_extend_and_never_overspend() {
    const LIMIT: i64 = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let (ledger, writers, _) =
        Ledger::open(tollgate_ledger::Options { segment_bytes: 65_536, ..options(folder.path(), 8) }).unwrap();
    std::thread::scope(|scope| {
        for (seed, mut writer) in writers.into_iter().enumerate() {
            let ledger = ledger.clone();
            scope.spawn(move || {
                let budgets = [ledger.budget(&hard("small", LIMIT)), ledger.budget(&hard("large", i64::MAX / 2))];
                let mut random = fastrand::Rng::with_seed(seed as u64);
                for id in 0..600 {
                    let all = random.i64(10..400);
                    let Ok(mut one) = hold_part(&mut writer, &attempt(id, all), part(all / 10), &budgets) else {
                        break;
                    };
                    while one.amounts().nano_usd < all && random.u8(..8) > 0 {
                        let to = (one.amounts().nano_usd + random.i64(1..=all)).min(all);
                        if !extend(&writer, &mut one, part(to), NOON_MS) {
                            break;
                        }
                        let left = budgets[0].hard_left().unwrap();
                        assert!(left >= 0, "{left}");
                    }
                    let actual = random.i64(0..=one.amounts().nano_usd);
                    one.settle(exact(actual));
                }
            });
        }
    });
    let view = view(&ledger, "small");
    assert!(view.held == 0 && view.spent <= LIMIT, "{view:?}");
    assert!(view.spent > LIMIT - 1000, "it could be used up: {view:?}");
}

/// What happens to the attempts of a test, by turns.
#[derive(Clone, Debug)]
enum Step {
    Hold {
        all: i64,
        part: i64,
    },
    Extend {
        which: prop::sample::Index,
        by: i64,
    },
    /// Up to what is held, in percent.
    Use {
        which: prop::sample::Index,
        percent: i64,
    },
    Settle {
        which: prop::sample::Index,
    },
    Charge {
        which: prop::sample::Index,
    },
    Drop {
        which: prop::sample::Index,
    },
    Limit {
        tokens: i64,
    },
    Crash,
    Stop,
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        4 => (1..400i64, 1..100i64).prop_map(|(all, part)| Step::Hold { all, part: (all * part / 100).max(1) }),
        6 => (which(), 1..120i64).prop_map(|(which, by)| Step::Extend { which, by }),
        5 => (which(), 0..=100i64).prop_map(|(which, percent)| Step::Use { which, percent }),
        3 => which().prop_map(|which| Step::Settle { which }),
        1 => which().prop_map(|which| Step::Charge { which }),
        1 => which().prop_map(|which| Step::Drop { which }),
        1 => (400..1500i64).prop_map(|tokens| Step::Limit { tokens }),
        1 => Just(Step::Crash),
        1 => Just(Step::Stop),
    ]
}

/// An attempt in flight. Never has it used more than it holds: whoever relays holds first.
struct Flight {
    id: u128,
    all: i64,
    hold: Hold,
    used: i64,
}

const LIMIT: i64 = 1000;

fn budgets(ledger: &Ledger, tokens: i64) -> [Arc<Budget>; 2] {
    [ledger.budget(&hard("money", LIMIT)), ledger.budget(&BudgetTerms { unit: Unit::Tokens, ..hard("tokens", tokens) })]
}

fn both(amount: i64) -> Amounts {
    Amounts { nano_usd: amount, tokens: amount, requests: 1 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_interleaving_keeps_the_invoice_below_the_ledger_and_the_ledger_below_the_limit(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut tokens = LIMIT;
        let (mut ledger, mut writer) = open(folder.path());
        let mut both_budgets = budgets(&ledger, tokens);
        let mut flights: Vec<Flight> = Vec::new();
        // What each attempt cost at its provider, and what its row must say.
        let mut invoice: HashMap<u128, i64> = HashMap::new();
        let mut expected: HashMap<u128, (i64, &str)> = HashMap::new();
        for (id, step) in steps.into_iter().enumerate() {
            let id = id as u128;
            let pick = |flights: &Vec<Flight>, which: prop::sample::Index| {
                (!flights.is_empty()).then(|| which.index(flights.len()))
            };
            match step {
                Step::Hold { all, part } => {
                    let start = AttemptStart { hold: both(all), ..attempt(id, all) };
                    if let Ok(hold) = hold_part(&mut writer, &start, both(part), &both_budgets) {
                        flights.push(Flight { id, all, hold, used: 0 });
                    }
                }
                Step::Extend { which, by } => {
                    let Some(at) = pick(&flights, which) else { continue };
                    let Flight { all, hold, .. } = &mut flights[at];
                    let (before, to) = (hold.amounts(), (hold.amounts().nano_usd + by).min(*all));
                    let room = both_budgets.iter().map(|budget| budget.hard_left().unwrap()).min().unwrap();
                    let extended = extend(&writer, hold, both(to), NOON_MS);
                    prop_assert_eq!(extended, to == before.nano_usd || to - before.nano_usd <= room);
                    prop_assert_eq!(hold.amounts(), if extended { both(to) } else { before });
                }
                Step::Use { which, percent } => {
                    let Some(at) = pick(&flights, which) else { continue };
                    let Flight { hold, used, .. } = &mut flights[at];
                    *used = (*used).max(hold.amounts().nano_usd * percent / 100);
                }
                Step::Settle { which } => {
                    let Some(at) = pick(&flights, which) else { continue };
                    let Flight { id, hold, used, .. } = flights.swap_remove(at);
                    hold.settle(tollgate_ledger::Settlement { actual: both(used), ..exact(used) });
                    invoice.insert(id, used);
                    expected.insert(id, (used, "exact"));
                }
                Step::Charge { which } => {
                    let Some(at) = pick(&flights, which) else { continue };
                    let Flight { id, hold, used, .. } = flights.swap_remove(at);
                    let most = (used + 5).min(hold.amounts().nano_usd);
                    hold.charge_up_to(both(used + 5), 200, 0);
                    invoice.insert(id, used);
                    expected.insert(id, (most, "charged"));
                }
                Step::Drop { which } => {
                    let Some(at) = pick(&flights, which) else { continue };
                    let Flight { id, hold, used, .. } = flights.swap_remove(at);
                    expected.insert(id, (hold.amounts().nano_usd, "dropped"));
                    invoice.insert(id, used);
                    drop(hold);
                }
                Step::Limit { tokens: new } => {
                    tokens = new;
                    both_budgets = budgets(&ledger, tokens);
                }
                Step::Crash | Step::Stop => {
                    let stops = matches!(step, Step::Stop);
                    for Flight { id, hold, used, .. } in flights.drain(..) {
                        invoice.insert(id, used);
                        expected.insert(id, (hold.amounts().nano_usd, "recovered"));
                        std::mem::forget(hold);
                    }
                    drop(writer);
                    if stops {
                        ledger.clone().close().unwrap();
                    }
                    drop((ledger, both_budgets));
                    (ledger, writer) = open(folder.path());
                    both_budgets = budgets(&ledger, tokens);
                }
            }
            let sum: i64 = expected.values().map(|(cost, _)| cost).sum();
            let held: i64 = flights.iter().map(|flight| flight.hold.amounts().nano_usd).sum();
            for id in ["money", "tokens"] {
                let view = view(&ledger, id);
                prop_assert_eq!((view.spent, view.held), (sum, held), "{}", id);
            }
            prop_assert!(sum + held <= LIMIT);
        }
        for Flight { id, hold, used, .. } in flights {
            hold.settle(tollgate_ledger::Settlement { actual: both(used), ..exact(used) });
            invoice.insert(id, used);
            expected.insert(id, (used, "exact"));
        }
        ledger.flush().unwrap();
        let rows = rows(folder.path());
        prop_assert_eq!(rows.len(), expected.len());
        for (id, cost, outcome) in &rows {
            prop_assert_eq!((*cost, outcome.as_str()), expected[id]);
            prop_assert!(*cost >= invoice[id]);
        }
        prop_assert_eq!((view(&ledger, "money").held, view(&ledger, "tokens").held), (0, 0));
        prop_assert_eq!(ledger.counters().bound_violations, 0);
    }
}
