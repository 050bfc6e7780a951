//! The allocator's books by examples and by random histories.

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use tollgate_allocator::{Answer, Asker, Budget, CalendarUnit, Mode, Period, ReplicaId, Report, Synced, Terms, Unit};
use tollgate_faults::{seeds, this_test};

const DAY_MS: i64 = 86_400_000;

fn terms(limit: i64, period: Period) -> Terms {
    Terms { unit: Unit::NanoUsd, limit, mode: Mode::Hard, period, reset_token: None }
}

fn day() -> Period {
    Period::Calendar { unit: CalendarUnit::Day, time_zone: "UTC".to_owned() }
}

/// A replica that asks of a budget.
struct Replica {
    id: ReplicaId,
    report: Report,
}

impl Replica {
    fn new(name: &str, terms: &Terms, now_ms: i64) -> Replica {
        Replica {
            id: ReplicaId(name.to_owned()),
            report: Report {
                budget: "ns/Budget/b".to_owned(),
                unit: terms.unit,
                reset_token: terms.reset_token.clone(),
                span: terms.period.span(now_ms / 1000),
                returned: 0,
                used: 0,
                held: 0,
                refused: 0,
                wanted: 0,
                last: false,
            },
        }
    }

    fn sync(&self, budget: &mut Budget, terms: &Terms, now_ms: i64) -> Synced {
        budget.sync(terms, Asker { replica: &self.id, replicas: 2, now_ms }, &self.report)
    }

    fn want(&mut self, total: i64, budget: &mut Budget, terms: &Terms, now_ms: i64) -> Answer {
        self.report.wanted = total;
        self.sync(budget, terms, now_ms).answer
    }
}

#[test]
fn what_is_granted_never_passes_the_limit_and_the_last_of_it_is_recalled() {
    let terms = terms(1000, Period::Lifetime);
    let mut budget = Budget::default();
    let (mut a, mut b) = (Replica::new("a", &terms, 0), Replica::new("b", &terms, 0));
    assert_eq!(a.want(10, &mut budget, &terms, 0).granted, 250, "half of the room, shared by two");
    assert_eq!(a.want(10, &mut budget, &terms, 0).granted, 250, "who has enough gets no more");
    assert_eq!(b.want(740, &mut budget, &terms, 0).granted, 740);
    let short = b.want(760, &mut budget, &terms, 0);
    assert_eq!((short.granted, short.tight, short.charged_elsewhere), (750, true, 250));
    // The other learns of it, gives back what it does not hold, and that is there to be had.
    let told = a.want(0, &mut budget, &terms, 1);
    assert!(told.tight);
    a.report.returned = 240;
    a.report.used = 10;
    a.sync(&mut budget, &terms, 2);
    assert_eq!(b.want(760, &mut budget, &terms, 3).granted, 760);
    assert_eq!(budget.totals(&terms, 0).charged, 770);
}

#[test]
fn each_period_has_its_own_books_and_none_opens_again() {
    let terms = terms(100, day());
    let mut budget = Budget::default();
    let mut first = Replica::new("a", &terms, DAY_MS);
    assert_eq!(first.want(100, &mut budget, &terms, DAY_MS).granted, 100);
    let mut next = Replica::new("a", &terms, 2 * DAY_MS);
    assert_eq!(next.want(100, &mut budget, &terms, 2 * DAY_MS).granted, 100);
    assert!(!budget.forget(3 * DAY_MS / 1000));
    assert!(budget.forget(4 * DAY_MS / 1000));
    let late = first.sync(&mut budget, &terms, 4 * DAY_MS).answer;
    assert!(late.unknown && late.granted == 0, "a clock that is days behind opens no day again");
}

#[test]
fn buckets_of_a_rolling_window_count_until_they_expire() {
    let terms = terms(100, Period::Rolling { seconds: 24 * 3600 });
    let hour_ms = 3_600_000;
    let mut budget = Budget::default();
    let mut early = Replica::new("a", &terms, 0);
    early.want(60, &mut budget, &terms, 0);
    early.report.used = 60;
    early.sync(&mut budget, &terms, 0);
    let mut later = Replica::new("a", &terms, hour_ms);
    let answer = later.want(60, &mut budget, &terms, hour_ms);
    assert_eq!((answer.granted, answer.used_elsewhere), (40, 60));
    let after = 26 * hour_ms;
    let mut last = Replica::new("a", &terms, after);
    later.report.returned = 40;
    later.sync(&mut budget, &terms, after);
    assert_eq!(last.want(100, &mut budget, &terms, after).granted, 100);
}

#[test]
fn a_closed_account_is_charged_whole_until_its_process_proves_less() {
    let terms = terms(100, Period::Lifetime);
    let mut budget = Budget::default();
    let mut gone = Replica::new("gone", &terms, 0);
    gone.want(80, &mut budget, &terms, 0);
    assert!(budget.close(&gone.id));
    assert!(!budget.close(&gone.id));
    assert_eq!(budget.totals(&terms, 0).used, 80);
    let answer = gone.want(90, &mut budget, &terms, 0);
    assert_eq!((answer.granted, answer.closed), (80, true), "nothing is granted any more");
    gone.report.used = 30;
    gone.report.last = true;
    assert_eq!(gone.sync(&mut budget, &terms, 0).adjusted, 50);
    assert_eq!(budget.totals(&terms, 0).used, 30);
    assert_eq!(gone.sync(&mut budget, &terms, 0).adjusted, 0, "said twice, counted once");
}

#[test]
fn many_closed_accounts_are_added_up_and_stay_charged() {
    let terms = terms(1_000_000, Period::Lifetime);
    let mut budget = Budget::default();
    for number in 0..200 {
        let mut replica = Replica::new(&format!("r{number}"), &terms, 0);
        replica.want(10, &mut budget, &terms, 0);
        replica.report.used = 10;
        replica.report.last = true;
        replica.sync(&mut budget, &terms, 0);
    }
    assert_eq!(budget.totals(&terms, 0).used, 2000);
    assert!(budget.books[0].accounts.len() <= 65);
}

#[test]
fn other_terms_get_nothing_and_lose_nothing() {
    let mut terms = terms(100, Period::Lifetime);
    let mut budget = Budget::default();
    let mut replica = Replica::new("a", &terms, 0);
    replica.want(50, &mut budget, &terms, 0);
    terms.reset_token = Some("new".to_owned());
    replica.report.used = 20;
    let answer = replica.want(90, &mut budget, &terms, 0);
    assert_eq!((answer.granted, answer.unknown), (50, true), "what it has it has");
    let mut anew = Replica::new("a", &terms, 0);
    assert_eq!(anew.want(100, &mut budget, &terms, 0).granted, 100, "a new token begins anew");
    let mut stranger = Replica::new("a", &Terms { unit: Unit::Tokens, ..terms.clone() }, 0);
    assert!(stranger.want(1, &mut budget, &terms, 0).unknown);
}

#[test]
fn a_soft_budget_grants_nothing_and_tells_what_was_used() {
    let terms = Terms { mode: Mode::Soft, ..terms(100, Period::Lifetime) };
    let mut budget = Budget::default();
    let (mut a, b) = (Replica::new("a", &terms, 0), Replica::new("b", &terms, 0));
    a.report.used = 120;
    a.want(500, &mut budget, &terms, 0);
    let answer = b.sync(&mut budget, &terms, 0).answer;
    assert_eq!((answer.granted, answer.used_elsewhere, answer.tight), (0, 120, false));
}

#[test]
fn the_state_survives_json() {
    let terms = terms(100, day());
    let mut budget = Budget::default();
    Replica::new("a", &terms, DAY_MS).want(50, &mut budget, &terms, DAY_MS);
    let text = serde_json::to_string(&budget).unwrap();
    let read: Budget = serde_json::from_str(&text).unwrap();
    assert_eq!(read.totals(&terms, DAY_MS / 1000), budget.totals(&terms, DAY_MS / 1000));
}

/// A step of a random history.
#[derive(Clone, Debug)]
enum Step {
    /// A report that may come late or never, and its answer too.
    Want {
        replica: usize,
        more: i64,
        is_heard: bool,
        is_answered: bool,
    },
    Spend {
        replica: usize,
        amount: i64,
    },
    GiveBack {
        replica: usize,
    },
    /// A report of earlier comes again, or for the first time.
    Again {
        report: usize,
    },
    /// The process dies; the next one proves what it spent, or does not.
    Die {
        replica: usize,
        proves: bool,
    },
    Close {
        replica: usize,
    },
    Limit {
        limit: i64,
    },
    /// The allocator dies: what is not durable is gone.
    Restart,
    /// The allocator's clock jumps.
    Jump {
        ms: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let replica = 0usize..3;
    prop_oneof![
        4 => (replica.clone(), 1i64..200, prop::bool::weighted(0.8), prop::bool::weighted(0.8)).prop_map(
            |(replica, more, is_heard, is_answered)| Step::Want { replica, more, is_heard, is_answered }
        ),
        4 => (replica.clone(), 1i64..120).prop_map(|(replica, amount)| Step::Spend { replica, amount }),
        2 => replica.clone().prop_map(|replica| Step::GiveBack { replica }),
        2 => (0usize..50).prop_map(|report| Step::Again { report }),
        1 => (replica.clone(), any::<bool>()).prop_map(|(replica, proves)| Step::Die { replica, proves }),
        1 => replica.prop_map(|replica| Step::Close { replica }),
        1 => (100i64..2000).prop_map(|limit| Step::Limit { limit }),
        1 => Just(Step::Restart),
        1 => (-3 * DAY_MS..3 * DAY_MS).prop_map(|ms| Step::Jump { ms }),
    ]
}

#[test]
fn whatever_happens_the_highest_limit_there_was_holds() {
    seeds::property(this_test!(), 512, &prop::collection::vec(step(), 1..120), history);
}

fn history(steps: Vec<Step>) -> TestCaseResult {
    let mut terms = terms(1000, Period::Lifetime);
    let mut highest = terms.limit;
    let mut budget = Budget::default();
    let mut boots = 0;
    let mut start = |terms: &Terms| {
        boots += 1;
        (Replica::new(&format!("r{boots}"), terms, 0), 0i64)
    };
    let mut replicas = [start(&terms), start(&terms), start(&terms)];
    let mut told: Vec<(ReplicaId, Report)> = Vec::new();
    let mut spent = 0;
    let mut now_ms = 0;
    for step in steps {
        now_ms += 500;
        match step {
            Step::Want { replica, more, is_heard, is_answered } => {
                let (replica, granted) = &mut replicas[replica];
                replica.report.wanted = *granted + more;
                told.push((replica.id.clone(), replica.report.clone()));
                if !is_heard {
                    continue;
                }
                let answer = replica.sync(&mut budget, &terms, now_ms).answer;
                prop_assert!(answer.granted >= *granted, "grants only grow");
                prop_assert!(answer.granted - replica.report.returned + answer.charged_elsewhere <= highest);
                if is_answered {
                    *granted = answer.granted;
                }
            }
            Step::Spend { replica, amount } => {
                let (replica, granted) = &mut replicas[replica];
                if replica.report.used + amount <= *granted - replica.report.returned {
                    replica.report.used += amount;
                    spent += amount;
                }
            }
            Step::GiveBack { replica } => {
                let (replica, granted) = &mut replicas[replica];
                replica.report.returned = *granted - replica.report.used;
            }
            Step::Again { report } => {
                if let Some((id, report)) = told.get(report) {
                    budget.sync(&terms, Asker { replica: id, replicas: 3, now_ms }, report);
                }
            }
            Step::Die { replica, proves } => {
                let (dead, _) = std::mem::replace(&mut replicas[replica], start(&terms));
                let last = Report { last: true, ..dead.report };
                told.push((dead.id.clone(), last.clone()));
                if proves {
                    budget.sync(&terms, Asker { replica: &dead.id, replicas: 3, now_ms }, &last);
                }
            }
            Step::Close { replica } => {
                budget.close(&replicas[replica].0.id);
            }
            Step::Limit { limit } => {
                terms.limit = limit;
                highest = highest.max(limit);
            }
            Step::Restart => {
                let text = serde_json::to_string(&budget).unwrap();
                budget = serde_json::from_str(&text).unwrap();
            }
            Step::Jump { ms } => {
                now_ms += ms;
                budget.forget(now_ms.div_euclid(1000));
            }
        }
        prop_assert!(spent <= highest, "{} spent of {}", spent, highest);
        let totals = budget.totals(&terms, 0);
        prop_assert!(totals.charged <= highest && totals.used <= totals.charged);
    }
    Ok(())
}
