//! One contract for allocators that are told reports: the books that the operator keeps, and the script in a real server.
//! The same scenarios for both, and random histories in which the script must decide as the books do, number by number.

mod common;

use common::{Books, Contract, HOUR, Shared, day, rolling};
use proptest::prelude::*;
use tollgate_allocator::{Answer, Mode, Period, ReplicaId, Report, Terms, Unit};
use tollgate_faults::{seeds, this_test};
use tollgate_harness::RedisServer;

/// Runs a scenario against both.
fn both(scenario: fn(&mut dyn Contract)) {
    scenario(&mut Books::default());
    if let Some(server) = RedisServer::start([]) {
        scenario(&mut Shared::new(&server));
    }
}

fn terms(limit: i64, period: Period) -> Terms {
    Terms { unit: Unit::NanoUsd, limit, mode: Mode::Hard, period, reset_token: None }
}

/// A replica's account.
struct Replica {
    id: ReplicaId,
    report: Report,
}

impl Replica {
    /// `at`: the replica's clock, unix seconds.
    fn new(name: &str, terms: &Terms, at: i64) -> Replica {
        let report = Report {
            budget: "ns/Budget/b".to_owned(),
            unit: terms.unit,
            reset_token: terms.reset_token.clone(),
            span: terms.period.span(at),
            returned: 0,
            used: 0,
            held: 0,
            refused: 0,
            wanted: 0,
            last: false,
        };
        Replica { id: ReplicaId(name.to_owned()), report }
    }

    fn tell(&self, allocator: &mut dyn Contract, terms: &Terms) -> Answer {
        allocator.sync(terms, &self.id, &self.report).0
    }

    fn want(&mut self, total: i64, allocator: &mut dyn Contract, terms: &Terms) -> Answer {
        self.report.wanted = total;
        self.tell(allocator, terms)
    }
}

#[test]
fn what_is_granted_never_passes_the_limit_and_the_last_of_it_is_recalled() {
    both(|allocator| {
        let terms = terms(1000, Period::Lifetime);
        let now = allocator.now();
        let (mut a, mut b) = (Replica::new("a", &terms, now), Replica::new("b", &terms, now));
        b.tell(allocator, &terms);
        assert_eq!(a.want(10, allocator, &terms).granted, 250, "half of the room, shared by two");
        assert_eq!(a.want(10, allocator, &terms).granted, 250, "who has enough gets no more");
        assert_eq!(b.want(740, allocator, &terms).granted, 740);
        let short = b.want(760, allocator, &terms);
        assert_eq!((short.granted, short.tight, short.charged_elsewhere), (750, true, 250));
        // The other learns of it, gives back what it does not hold, and that is there to be had.
        assert!(a.want(0, allocator, &terms).tight);
        (a.report.returned, a.report.used) = (240, 10);
        a.tell(allocator, &terms);
        assert_eq!(b.want(760, allocator, &terms).granted, 760);
    });
}

#[test]
fn each_period_has_its_own_books_and_a_day_after_its_end_none_opens_again() {
    both(|allocator| {
        let terms = terms(100, day());
        let now = allocator.now();
        let mut today = Replica::new("a", &terms, now);
        let mut tomorrow = Replica::new("a", &terms, now + 24 * HOUR);
        assert_eq!(today.want(100, allocator, &terms).granted, 100);
        assert_eq!(tomorrow.want(100, allocator, &terms).granted, 100);
        // A clock that is days behind opens a day; what is over for a day is forgotten at the next word.
        let mut late = Replica::new("b", &terms, now - 72 * HOUR);
        late.want(100, allocator, &terms);
        today.tell(allocator, &terms);
        let answer = late.want(100, allocator, &terms);
        assert!(answer.unknown && answer.granted == 0, "{answer:?}");
    });
}

#[test]
fn buckets_of_a_rolling_window_count_until_they_expire() {
    both(|allocator| {
        let terms = terms(100, rolling());
        let now = allocator.now();
        let mut early = Replica::new("a", &terms, now);
        early.want(60, allocator, &terms);
        early.report.used = 60;
        early.tell(allocator, &terms);
        let mut later = Replica::new("a", &terms, now + HOUR);
        let answer = later.want(60, allocator, &terms);
        assert_eq!((answer.granted, answer.used_elsewhere), (40, 60));
        later.report.returned = 40;
        later.tell(allocator, &terms);
        let mut last = Replica::new("a", &terms, now + 26 * HOUR);
        assert_eq!(last.want(100, allocator, &terms).granted, 100);
    });
}

#[test]
fn a_closed_account_is_charged_whole_until_its_process_proves_less() {
    both(|allocator| {
        let terms = terms(100, Period::Lifetime);
        let now = allocator.now();
        let mut gone = Replica::new("gone", &terms, now);
        let other = Replica::new("other", &terms, now);
        gone.want(80, allocator, &terms);
        allocator.silence(&gone.id);
        assert_eq!(other.tell(allocator, &terms).used_elsewhere, 80);
        let answer = gone.want(90, allocator, &terms);
        assert_eq!((answer.granted, answer.closed), (80, true), "nothing is granted any more");
        (gone.report.used, gone.report.last) = (30, true);
        assert_eq!(allocator.sync(&terms, &gone.id, &gone.report).1, 50);
        assert_eq!(other.tell(allocator, &terms).used_elsewhere, 30);
        assert_eq!(allocator.sync(&terms, &gone.id, &gone.report).1, 0, "said twice, counted once");
    });
}

#[test]
fn many_closed_accounts_are_added_up_and_stay_charged() {
    both(|allocator| {
        let terms = terms(1_000_000, Period::Lifetime);
        let now = allocator.now();
        for number in 0..200 {
            let mut replica = Replica::new(&format!("r{number}"), &terms, now);
            replica.want(10, allocator, &terms);
            (replica.report.used, replica.report.last) = (10, true);
            replica.tell(allocator, &terms);
        }
        assert_eq!(Replica::new("x", &terms, now).tell(allocator, &terms).used_elsewhere, 2000);
    });
}

#[test]
fn other_terms_get_nothing_and_lose_nothing() {
    both(|allocator| {
        let mut terms = terms(100, Period::Lifetime);
        let now = allocator.now();
        let mut replica = Replica::new("a", &terms, now);
        replica.want(50, allocator, &terms);
        terms.reset_token = Some(String::new());
        replica.report.used = 20;
        let answer = replica.want(90, allocator, &terms);
        assert_eq!((answer.granted, answer.unknown), (50, true), "what it has it has");
        let mut anew = Replica::new("a", &terms, now);
        assert_eq!(anew.want(100, allocator, &terms).granted, 100, "a new token begins anew");
        let mut stranger = Replica::new("a", &Terms { unit: Unit::Tokens, ..terms.clone() }, now);
        assert!(stranger.want(1, allocator, &terms).unknown);
    });
}

#[test]
fn a_soft_budget_grants_nothing_and_tells_what_was_used() {
    both(|allocator| {
        let terms = Terms { mode: Mode::Soft, ..terms(100, Period::Lifetime) };
        let now = allocator.now();
        let (mut a, b) = (Replica::new("a", &terms, now), Replica::new("b", &terms, now));
        a.report.used = 120;
        a.want(500, allocator, &terms);
        let answer = b.tell(allocator, &terms);
        assert_eq!((answer.granted, answer.used_elsewhere, answer.tight), (0, 120, false));
    });
}

#[test]
fn the_largest_limit_is_counted_to_the_nano_dollar() {
    both(|allocator| {
        let terms = terms(tollgate_redis::MOST, Period::Lifetime);
        let now = allocator.now();
        let (mut a, mut b) = (Replica::new("a", &terms, now), Replica::new("b", &terms, now));
        assert_eq!(a.want(terms.limit - 1, allocator, &terms).granted, terms.limit - 1);
        a.report.used = terms.limit - 1;
        a.tell(allocator, &terms);
        let answer = b.want(5, allocator, &terms);
        assert_eq!((answer.granted, answer.used_elsewhere), (1, terms.limit - 1));
    });
}

/// A step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Want {
        replica: usize,
        more: i64,
    },
    Spend {
        replica: usize,
        amount: i64,
    },
    GiveBack {
        replica: usize,
    },
    /// A report of earlier comes again.
    Again {
        report: usize,
    },
    /// The process dies; the next one proves what it spent, or does not.
    Die {
        replica: usize,
        proves: bool,
    },
    /// A replica is silent for so long that it is taken for gone.
    Silence {
        replica: usize,
    },
    Limit {
        limit: i64,
    },
    Soft {
        soft: bool,
    },
    Token {
        token: u8,
    },
    /// The replica's clock goes to another stretch of time.
    Hours {
        replica: usize,
        hours: i64,
    },
    /// The server forgets what it can.
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    let replica = 0usize..3;
    prop_oneof![
        6 => (replica.clone(), 1i64..200).prop_map(|(replica, more)| Step::Want { replica, more }),
        4 => (replica.clone(), 1i64..120).prop_map(|(replica, amount)| Step::Spend { replica, amount }),
        2 => replica.clone().prop_map(|replica| Step::GiveBack { replica }),
        3 => (0usize..50).prop_map(|report| Step::Again { report }),
        1 => (replica.clone(), any::<bool>()).prop_map(|(replica, proves)| Step::Die { replica, proves }),
        1 => replica.clone().prop_map(|replica| Step::Silence { replica }),
        1 => (100i64..2000).prop_map(|limit| Step::Limit { limit }),
        1 => any::<bool>().prop_map(|soft| Step::Soft { soft }),
        1 => (0u8..3).prop_map(|token| Step::Token { token }),
        1 => (replica, -80i64..30).prop_map(|(replica, hours)| Step::Hours { replica, hours }),
        1 => Just(Step::Forget),
    ]
}

fn period() -> impl Strategy<Value = Period> {
    prop_oneof![Just(Period::Lifetime), Just(rolling()), Just(day())]
}

#[test]
fn the_script_decides_as_the_books_do() {
    let Some(server) = RedisServer::start([]) else { return };
    let shared = std::cell::RefCell::new(Shared::new(&server));
    let strategy = (period(), any::<bool>(), prop::collection::vec(step(), 1..80));
    let case = std::cell::Cell::new(0);
    seeds::property(this_test!(), 192, &strategy, |(period, large, steps)| {
        case.set(case.get() + 1);
        compare(&mut shared.borrow_mut(), case.get(), period, large, steps)
    });
}

/// One history, told to both.
fn compare(shared: &mut Shared, case: u32, period: Period, large: bool, steps: Vec<Step>) -> Result<(), TestCaseError> {
    // Also with numbers that a double only just holds.
    let scale = if large { 4_400_000_000_001 } else { 1 };
    let mut terms = terms(1000 * scale, period);
    let mut boots = 0;
    let now = shared.now();
    let budget = format!("ns/Budget/{case}");
    let mut start = |terms: &Terms, at: i64| {
        boots += 1;
        let mut replica = Replica::new(&format!("c{case}r{boots}"), terms, at);
        replica.report.budget.clone_from(&budget);
        replica
    };
    let mut replicas = [start(&terms, now), start(&terms, now), start(&terms, now)];
    let mut granted = [0i64; 3];
    let mut told: Vec<(ReplicaId, Report)> = Vec::new();
    let mut books = Books::default();
    for step in steps {
        let mut tell = |id: &ReplicaId, report: &Report, terms: &Terms| {
            let (answer, adjusted, asked) = shared.sync_at(terms, id, report);
            let expected = books.sync_at(terms, id, report, &asked);
            prop_assert_eq!((&answer, adjusted), (&expected.0, expected.1), "{:?} of {:?}", report, id);
            Ok(answer)
        };
        match step {
            Step::Want { replica, more } => {
                let one = &mut replicas[replica];
                one.report.wanted = granted[replica] + more * scale;
                one.report.refused = if more % 3 == 0 { more * scale } else { 0 };
                told.push((one.id.clone(), one.report.clone()));
                granted[replica] = tell(&one.id, &one.report, &terms)?.granted;
            }
            Step::Spend { replica, amount } => {
                let one = &mut replicas[replica];
                if terms.mode == Mode::Soft
                    || one.report.used + amount * scale <= granted[replica] - one.report.returned
                {
                    one.report.used += amount * scale;
                }
            }
            Step::GiveBack { replica } => {
                let one = &mut replicas[replica];
                one.report.returned = (granted[replica] - one.report.used).max(one.report.returned);
                tell(&one.id, &one.report, &terms)?;
            }
            Step::Again { report } => {
                if let Some((id, report)) = told.get(report) {
                    tell(id, report, &terms)?;
                }
            }
            Step::Die { replica, proves } => {
                let at = replicas[replica].report.span.starts_at;
                let dead = std::mem::replace(&mut replicas[replica], start(&terms, at.max(now)));
                granted[replica] = 0;
                if proves {
                    tell(&dead.id, &Report { last: true, ..dead.report }, &terms)?;
                }
            }
            Step::Silence { replica } => shared.silence(&replicas[replica].id),
            Step::Limit { limit } => terms.limit = limit * scale,
            Step::Soft { soft } => terms.mode = if soft { Mode::Soft } else { Mode::Hard },
            Step::Token { token } => terms.reset_token = (token > 0).then(|| "x".repeat(usize::from(token) - 1)),
            Step::Hours { replica, hours } => {
                replicas[replica] = start(&terms, now + hours * HOUR);
                granted[replica] = 0;
            }
            Step::Forget => shared.command(&["SCRIPT", "FLUSH"]),
        }
    }
    // What is shown of it.
    let read = shared.runtime.block_on(shared.store.books([budget.as_str()])).unwrap().remove(&budget);
    let now = shared.now();
    prop_assert_eq!(read.unwrap_or_default().totals(&terms, now), books.budget.totals(&terms, now));
    Ok(())
}
