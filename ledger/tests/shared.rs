//! Budgets of several processes whose limit one allocator hands out: never over it together, all of it usable, and
//! nothing lost when one of them dies or the allocator is away.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use common::{NOON_MS, attempt, exact, hard, options};
use tollgate_allocator::{Asker, Budget as Allocated, Terms};
use tollgate_ledger::{
    Allocation, Amounts, AttemptStart, Boost, Budget, BudgetTerms, Hold, Ledger, Mode, Options, Refusal, Writer,
};

/// One clock for all tests of this file; it only goes on.
static CLOCK_MS: AtomicI64 = AtomicI64::new(NOON_MS);

fn clock() -> i64 {
    CLOCK_MS.load(SeqCst)
}

/// The allocator of one budget.
struct Allocator {
    terms: Terms,
    budget: Allocated,
    adjusted: i64,
    away: bool,
}

impl Allocator {
    fn new(terms: &BudgetTerms) -> Allocator {
        Allocator { terms: terms.shared(clock() / 1000), budget: Allocated::default(), adjusted: 0, away: false }
    }

    /// One exchange, as a transport would do it.
    fn exchange(&mut self, process: &Process) {
        for batch in process.ledger.due() {
            if self.away {
                process.ledger.unanswered();
                continue;
            }
            let mut answers = Vec::new();
            for report in &batch.reports {
                let asker = Asker { replica: &batch.replica, replicas: 2, now_ms: clock() };
                let synced = self.budget.sync(&self.terms, asker, report);
                self.adjusted += synced.adjusted;
                answers.push(synced.answer);
            }
            answers.extend(self.budget.recall(&process.terms.id, &self.terms, &batch.replica, clock()));
            process.ledger.answered(&batch.replica, &answers);
        }
    }

    fn charged(&self) -> i64 {
        self.budget.totals(&self.terms, clock() / 1000).charged
    }

    fn used(&self) -> i64 {
        self.budget.totals(&self.terms, clock() / 1000).used
    }
}

/// A process that spends.
struct Process {
    folder: Arc<tempfile::TempDir>,
    ledger: Ledger,
    writer: Writer,
    budgets: Vec<Arc<Budget>>,
    terms: BudgetTerms,
}

impl Process {
    fn start(terms: &BudgetTerms) -> Process {
        Process::start_in(Arc::new(tempfile::tempdir().unwrap()), terms)
    }

    fn start_in(folder: Arc<tempfile::TempDir>, terms: &BudgetTerms) -> Process {
        let options = Options { clock, allocation: Allocation::Shared, ..options(folder.path(), 1) };
        let (ledger, mut writers, _) = Ledger::open(options).unwrap();
        let budgets = vec![ledger.budget(terms)];
        Process { folder, ledger, writer: writers.remove(0), budgets, terms: terms.clone() }
    }

    /// Dies, and starts again in the same folder.
    fn kill(self) -> Process {
        let Process { folder, ledger, writer, budgets, terms } = self;
        drop((ledger, writer, budgets));
        Process::start_in(folder, &terms)
    }

    /// Holds, or says why not, after all that can be had from the allocator and from `others`.
    fn hold(&mut self, id: u128, amount: i64, allocator: &mut Allocator, others: &[&Process]) -> Result<Hold, Refusal> {
        self.hold_part(id, amount, amount, allocator, others)
    }

    /// The same for a part of `all`.
    fn hold_part(
        &mut self,
        id: u128,
        all: i64,
        part: i64,
        allocator: &mut Allocator,
        others: &[&Process],
    ) -> Result<Hold, Refusal> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        // Other tests move the clock too: rounds, not time.
        let mut patience = 40;
        loop {
            let mut start = attempt(id, all);
            start.started_at_ms = clock();
            let part = Amounts { nano_usd: part, ..start.hold };
            match self.writer.try_hold_part(&start, part, &self.budgets, &mut tollgate_ledger::LetThrough::default()) {
                Err(Refusal::Pending(grant)) => {
                    allocator.exchange(self);
                    runtime.block_on(grant.wait());
                }
                Err(Refusal::Reserved { .. }) if patience > 0 => {
                    patience -= 1;
                    for other in others {
                        allocator.exchange(other);
                    }
                    allocator.exchange(self);
                    let budget = self.budgets[0].clone();
                    runtime.block_on(budget.wait_for_release());
                }
                other => return other,
            }
            CLOCK_MS.fetch_add(50, SeqCst);
        }
    }

    /// Holds more, after all that can be had from the allocator and from `others`.
    fn extend(&self, hold: &mut Hold, to: i64, allocator: &mut Allocator, others: &[&Process]) -> bool {
        for _ in 0..100 {
            if self.writer.extend(hold, Amounts { nano_usd: to, ..hold.amounts() }, clock(), true).is_ok() {
                return true;
            }
            for process in others.iter().chain([&self]) {
                allocator.exchange(process);
            }
            // The thread of the grants takes the answers over, and syncs what it writes.
            std::thread::sleep(Duration::from_millis(10));
            CLOCK_MS.fetch_add(50, SeqCst);
        }
        false
    }
}

#[test]
fn who_stops_has_one_last_word() {
    let terms = hard("b", 1000);
    let mut allocator = Allocator::new(&terms);
    let mut a = Process::start(&terms);
    a.hold(1, 100, &mut allocator, &[]).unwrap().settle(exact(60));
    a.ledger.end();
    allocator.exchange(&a);
    assert_eq!((allocator.used(), allocator.charged()), (60, 60));
    // The thread of the grants takes the answer over, and opens nothing that would have to be told of.
    let grants = a.ledger.counters().grants;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(5));
        assert!(a.ledger.is_told());
        allocator.exchange(&a);
    }
    assert_eq!(a.ledger.counters().grants, grants);
}

#[test]
fn what_a_stream_holds_grows_by_what_others_give_back_and_no_further() {
    let terms = hard("b", 1000);
    let mut allocator = Allocator::new(&terms);
    let (mut a, mut b) = (Process::start(&terms), Process::start(&terms));
    b.hold(1, 300, &mut allocator, &[&a]).unwrap().settle(exact(300));
    let mut stream = a.hold_part(2, 2000, 100, &mut allocator, &[&b]).unwrap();
    assert!(a.extend(&mut stream, 700, &mut allocator, &[&b]), "what nobody else needs");
    assert!(!a.extend(&mut stream, 701, &mut allocator, &[&b]), "there is no more");
    assert!(allocator.charged() <= 1000, "{}", allocator.charged());
    // What it holds is charged if nobody settles it any more.
    std::mem::forget(stream);
    let a = a.kill();
    allocator.exchange(&a);
    assert_eq!((allocator.used(), allocator.charged()), (1000, 1000));
}

#[test]
fn without_the_allocator_a_stream_goes_on_only_where_that_is_allowed() {
    for allows in [false, true] {
        let terms = BudgetTerms { allow_unavailable: allows, ..hard("b", 1000) };
        let mut allocator = Allocator::new(&terms);
        let mut a = Process::start(&terms);
        let mut stream = a.hold_part(1, 2000, 100, &mut allocator, &[]).unwrap();
        allocator.away = true;
        assert_eq!(a.extend(&mut stream, 2000, &mut allocator, &[]), allows);
        let cost = stream.amounts().nano_usd;
        stream.settle(exact(cost));
        assert_eq!(cost, if allows { 2000 } else { 100 });
    }
}

#[test]
fn two_processes_spend_the_whole_limit_and_no_more() {
    let terms = hard("b", 1000);
    let mut allocator = Allocator::new(&terms);
    let (mut a, mut b) = (Process::start(&terms), Process::start(&terms));
    let mut spent = 0;
    for id in 0..40 {
        for turn in 0..2 {
            let (one, other) = if turn == 0 { (&mut a, &b) } else { (&mut b, &a) };
            match one.hold(id * 2 + turn, 30, &mut allocator, &[other]) {
                Ok(hold) => {
                    hold.settle(exact(30));
                    spent += 30;
                }
                Err(Refusal::Exhausted { limit: 1000, .. }) => {
                    assert!(spent + 30 > 1000, "refused at {spent} although there was room");
                }
                Err(other) => panic!("{other:?} at {spent}"),
            }
            assert!(spent <= 1000 && allocator.charged() <= 1000);
        }
    }
    assert_eq!(spent, 990, "all that whole calls can use");
}

#[test]
fn a_call_that_does_not_fit_any_more_is_told_until_one_is_admitted() {
    let terms = hard("b", 100);
    let mut allocator = Allocator::new(&terms);
    let mut process = Process::start(&terms);
    process.hold(1, 95, &mut allocator, &[]).unwrap().settle(exact(95));
    for (id, amount) in [(2, 20), (3, 10), (4, 15)] {
        match process.hold(id, amount, &mut allocator, &[]) {
            Err(Refusal::Exhausted { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    let told = |process: &Process, allocator: &mut Allocator| {
        CLOCK_MS.fetch_add(3_000, SeqCst);
        allocator.exchange(process);
        allocator.budget.totals(&allocator.terms, clock() / 1000).refused
    };
    assert_eq!(told(&process, &mut allocator), 10, "the least that would not fit");
    assert_eq!(told(&process, &mut allocator), 10, "nothing was admitted since");
    process.hold(5, 5, &mut allocator, &[]).unwrap().settle(exact(5));
    assert_eq!(told(&process, &mut allocator), 0);
}

#[test]
fn allowance_that_no_call_holds_is_given_back_to_who_waits() {
    let terms = hard("b", 100);
    let mut allocator = Allocator::new(&terms);
    let (mut a, mut b) = (Process::start(&terms), Process::start(&terms));
    let held = a.hold(1, 10, &mut allocator, &[]).unwrap();
    let all = b.hold(2, 90, &mut allocator, &[&a]).unwrap();
    match b.hold(3, 5, &mut allocator, &[&a]) {
        Err(Refusal::Reserved { limit: 100, .. }) => {}
        other => panic!("{other:?}"),
    }
    held.settle(exact(0));
    all.settle(exact(40));
    b.hold(4, 60, &mut allocator, &[&a]).unwrap().settle(exact(60));
    for process in [&a, &b] {
        CLOCK_MS.fetch_add(3_000, SeqCst);
        allocator.exchange(process);
    }
    assert_eq!(allocator.used(), 100);
    assert_eq!(b.ledger.views()[0].spent, 100);
}

#[test]
fn two_whose_calls_wait_do_not_keep_from_each_other_what_one_of_them_needs() {
    let terms = hard("b", 100);
    let mut allocator = Allocator::new(&terms);
    let mut processes = [Process::start(&terms), Process::start(&terms)];
    for (id, process) in processes.iter_mut().enumerate() {
        process.hold(id as u128, 50, &mut allocator, &[]).unwrap().settle(exact(0));
    }
    assert_eq!(allocator.charged(), 100, "each has a half, and no call holds any of it");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (mut served, mut exhausted) = (0, 0);
    // Both have a call that needs more than a half, all the time.
    for round in 0..200 {
        for (at, process) in processes.iter_mut().enumerate() {
            let mut start = attempt(1_000 + round * 2 + at as u128, 60);
            start.started_at_ms = clock();
            match process.writer.try_hold(&start, &process.budgets) {
                Ok(hold) => {
                    hold.settle(exact(60));
                    served += 1;
                }
                Err(Refusal::Exhausted { .. }) => exhausted += 1,
                Err(Refusal::Pending(_) | Refusal::Reserved { .. }) => {
                    // As with many calls: at every exchange one is known to wait.
                    let known =
                        async { tokio::time::timeout(Duration::from_millis(200), process.ledger.urgent()).await };
                    let _ = runtime.block_on(known);
                    allocator.exchange(process);
                    // And a look in between, before anybody asks anew.
                    process.ledger.due();
                }
                Err(other) => panic!("{other:?}"),
            }
            assert!(allocator.charged() <= 100);
        }
        CLOCK_MS.fetch_add(25, SeqCst);
        if exhausted > 4 {
            break;
        }
    }
    assert_eq!(served, 1, "one of the two is served, and no more than one");
    assert!(exhausted > 4, "and then both are told that it is spent");
}

#[test]
fn a_process_that_dies_is_charged_what_it_held_and_gives_the_rest_back() {
    let terms = hard("b", 1000);
    let mut allocator = Allocator::new(&terms);
    let mut a = Process::start(&terms);
    a.hold(1, 100, &mut allocator, &[]).unwrap().settle(exact(40));
    let in_flight = a.hold(2, 25, &mut allocator, &[]).unwrap();
    let charged = allocator.charged();
    assert!(charged >= 65, "{charged}");
    // As a killed process leaves it: the hold is never settled.
    std::mem::forget(in_flight);
    let first = a.ledger.due()[0].replica.clone();
    allocator.budget.close(&first);
    assert_eq!(allocator.used(), charged, "charged whole until it proves less");
    let b = a.kill();
    allocator.exchange(&b);
    assert_eq!((allocator.used(), allocator.adjusted), (65, charged - 65));
    assert!(b.ledger.due().iter().all(|batch| batch.reports.is_empty()), "told once");
}

#[test]
fn what_was_spent_while_the_limit_was_its_own_is_told_until_it_is_heard() {
    let terms = hard("b", 1000);
    let folder = Arc::new(tempfile::tempdir().unwrap());
    for stops in [true, false] {
        let options = Options { clock, ..options(folder.path(), 1) };
        let (ledger, mut writers, _) = Ledger::open(options).unwrap();
        let budgets = [ledger.budget(&terms)];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let hold = loop {
            let start = AttemptStart { started_at_ms: clock(), ..attempt(u128::from(stops), 40) };
            match writers[0].try_hold(&start, &budgets) {
                Err(Refusal::Pending(grant)) => runtime.block_on(grant.wait()),
                other => break other.unwrap(),
            }
        };
        match stops {
            true => {
                hold.settle(exact(40));
                drop(writers);
                ledger.close().unwrap();
            }
            // It dies with a call on its way, which is charged what it holds.
            false => std::mem::forget(hold),
        }
    }
    let mut allocator = Allocator::new(&terms);
    allocator.away = true;
    let shared = Process::start_in(folder, &terms);
    allocator.exchange(&shared);
    // Nobody heard it: the next process tells it too, with what this one did.
    let shared = shared.kill();
    allocator.away = false;
    allocator.exchange(&shared);
    assert_eq!((allocator.used(), allocator.charged()), (80, 80));
    // That it was heard is on the disk before a grant is.
    let mut shared = shared;
    shared.hold(7, 20, &mut allocator, &[]).unwrap().settle(exact(20));
    let shared = shared.kill();
    allocator.exchange(&shared);
    assert_eq!((allocator.used(), allocator.charged()), (100, 100));
    assert!(shared.ledger.due().iter().all(|batch| batch.reports.is_empty()), "told once");
}

#[test]
fn without_the_allocator_hard_refuses_and_soft_admits() {
    let terms = hard("b", 1000);
    let mut allocator = Allocator::new(&terms);
    let mut process = Process::start(&terms);
    process.hold(1, 10, &mut allocator, &[]).unwrap().settle(exact(10));
    allocator.away = true;
    // What it has allowance for it may spend.
    process.hold(2, 10, &mut allocator, &[]).unwrap().settle(exact(10));
    assert!(matches!(process.hold(3, 900, &mut allocator, &[]), Err(Refusal::Unavailable { .. })));
    allocator.away = false;
    CLOCK_MS.fetch_add(100, SeqCst);
    allocator.exchange(&process);
    process.hold(4, 900, &mut allocator, &[]).unwrap().settle(exact(900));

    let soft = BudgetTerms { mode: Mode::Soft, allow_unavailable: true, ..hard("s", 100) };
    let mut allocator = Allocator::new(&soft);
    allocator.away = true;
    let mut process = Process::start(&soft);
    process.hold(1, 500, &mut allocator, &[]).unwrap().settle(exact(50));

    let strict = BudgetTerms { mode: Mode::Soft, ..hard("d", 100) };
    let mut allocator = Allocator::new(&strict);
    let mut process = Process::start(&strict);
    process.hold(1, 50, &mut allocator, &[]).unwrap().settle(exact(50));
    allocator.away = true;
    allocator.exchange(&process);
    assert!(matches!(process.hold(2, 10, &mut allocator, &[]), Err(Refusal::Unavailable { .. })));
    allocator.away = false;
    CLOCK_MS.fetch_add(3_000, SeqCst);
    allocator.exchange(&process);
    process.hold(3, 10, &mut allocator, &[]).unwrap().settle(exact(10));

    let allowed = BudgetTerms { allow_unavailable: true, ..hard("h", 100) };
    let mut allocator = Allocator::new(&allowed);
    allocator.away = true;
    let mut process = Process::start(&allowed);
    process.hold(1, 60, &mut allocator, &[]).unwrap().settle(exact(60));
    allocator.away = false;
    CLOCK_MS.fetch_add(3_000, SeqCst);
    allocator.exchange(&process);
    assert_eq!(allocator.used(), 60, "what was spent without asking counts");
}

#[test]
fn soft_budgets_know_what_others_used() {
    let terms = BudgetTerms { mode: Mode::Soft, ..hard("s", 100) };
    let mut allocator = Allocator::new(&terms);
    let (mut a, mut b) = (Process::start(&terms), Process::start(&terms));
    a.hold(1, 10, &mut allocator, &[]).unwrap().settle(exact(120));
    b.hold(2, 10, &mut allocator, &[]).unwrap().settle(exact(1));
    CLOCK_MS.fetch_add(3_000, SeqCst);
    allocator.exchange(&a);
    allocator.exchange(&b);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    // The answer is taken over by the ledger's thread.
    runtime.block_on(async {
        while b.ledger.views()[0].spent != 121 {
            tokio::task::yield_now().await;
        }
    });
    loop {
        match b.hold(3, 10, &mut allocator, &[]) {
            Err(Refusal::Exhausted { spent: 121, limit: 100, .. }) => break,
            Err(other) => panic!("{other:?}"),
            // Admission reads what the thread writes a moment later.
            Ok(hold) => hold.release(0, 0),
        }
    }
}

/// A process that used 10, was taken for dead, heard of it and used 300 more.
fn taken_for_dead(terms: &BudgetTerms, allocator: &mut Allocator) -> Process {
    let mut process = Process::start(terms);
    process.hold(1, 100, allocator, &[]).unwrap().settle(exact(10));
    let replica = process.ledger.due()[0].replica.clone();
    allocator.budget.close(&replica);
    CLOCK_MS.fetch_add(31_000, SeqCst);
    allocator.exchange(&process);
    process.hold(2, 300, allocator, &[]).unwrap().settle(exact(300));
    process
}

#[test]
fn who_was_taken_for_dead_goes_on_as_another() {
    let terms = hard("b", 1000);
    let mut allocator = Allocator::new(&terms);
    let process = taken_for_dead(&terms, &mut allocator);
    let replicas = allocator.budget.books[0].accounts.len();
    assert_eq!(replicas, 2);
    for _ in 0..3 {
        CLOCK_MS.fetch_add(3_000, SeqCst);
        allocator.exchange(&process);
    }
    assert_eq!(allocator.used(), 310);
}

#[test]
fn who_was_taken_for_dead_and_then_dies_is_charged_what_it_used_as_each() {
    let terms = hard("b", 1000);
    let mut allocator = Allocator::new(&terms);
    let process = taken_for_dead(&terms, &mut allocator).kill();
    allocator.exchange(&process);
    assert_eq!((allocator.used(), allocator.charged()), (310, 310));
}

#[test]
fn a_process_that_stops_in_good_order_leaves_what_it_used() {
    let terms = hard("b", 1000);
    let mut allocator = Allocator::new(&terms);
    let mut process = Process::start(&terms);
    process.hold(1, 100, &mut allocator, &[]).unwrap().settle(exact(40));
    process.ledger.end();
    assert!(!process.ledger.is_told());
    allocator.exchange(&process);
    assert!(process.ledger.is_told());
    assert_eq!((allocator.used(), allocator.charged(), allocator.adjusted), (40, 40, 0));
}

/// A budget of 100 with a boost of 900 that ends in a minute.
fn boosted() -> (BudgetTerms, i64) {
    let until = clock() / 1000 + 60;
    (BudgetTerms { boost: Some(Boost { amount: 900, until }), ..hard("b", 100) }, until * 1000)
}

/// Others move the clock too: it only goes on.
fn pass(until_ms: i64) {
    CLOCK_MS.fetch_max(until_ms, SeqCst);
}

#[test]
fn after_a_boost_nothing_is_spent_that_was_granted_under_it() {
    let (terms, until_ms) = boosted();
    let mut allocator = Allocator::new(&terms);
    let [mut one, mut two] = [Process::start(&terms), Process::start(&terms)];
    one.hold(1, 20, &mut allocator, &[]).unwrap().settle(exact(20));
    two.hold(2, 30, &mut allocator, &[]).unwrap().settle(exact(30));
    assert!(allocator.charged() > 200, "both have much more than they used: {}", allocator.charged());
    allocator.away = true;
    pass(until_ms);
    for process in [&mut one, &mut two] {
        let refusal = process.hold(3, 1, &mut allocator, &[]);
        assert!(matches!(refusal, Err(Refusal::Unavailable { .. })), "{refusal:?}");
    }
    // It is back, and does not know yet that the boost is over: what it grants is not taken.
    allocator.away = false;
    for _ in 0..10 {
        CLOCK_MS.fetch_add(50, SeqCst);
        allocator.exchange(&one);
        let start = AttemptStart { started_at_ms: clock(), ..attempt(4, 1) };
        let refusal = one.writer.try_hold(&start, &one.budgets);
        assert!(matches!(refusal, Err(Refusal::Pending(_) | Refusal::Reserved { .. })), "{refusal:?}");
    }
    allocator.terms = terms.shared(clock() / 1000);
    // What is left of the limit without it can be used to the end, by either.
    one.hold(5, 25, &mut allocator, &[&two]).unwrap().settle(exact(25));
    two.hold(6, 25, &mut allocator, &[&one]).unwrap().settle(exact(25));
    let refusal = one.hold(7, 1, &mut allocator, &[&two]);
    assert!(matches!(refusal, Err(Refusal::Exhausted { limit: 100, .. })), "{refusal:?}");
    assert_eq!((allocator.used(), allocator.charged()), (100, 100));
}

#[test]
fn a_boost_that_is_taken_away_before_its_end_is_given_back_too() {
    let (terms, _) = boosted();
    let mut allocator = Allocator::new(&terms);
    let [mut one, mut two] = [Process::start(&terms), Process::start(&terms)];
    one.hold(1, 20, &mut allocator, &[]).unwrap().settle(exact(20));
    two.hold(2, 30, &mut allocator, &[]).unwrap().settle(exact(30));
    allocator.away = true;
    let lower = BudgetTerms { boost: None, ..terms };
    one.ledger.update(&lower);
    let refusal = one.hold(3, 1, &mut allocator, &[]);
    assert!(matches!(refusal, Err(Refusal::Unavailable { .. })), "{refusal:?}");
}

#[test]
fn a_lowered_limit_stops_admission_at_once_and_a_raised_one_admits() {
    let terms = hard("b", 1000);
    let mut allocator = Allocator::new(&terms);
    let mut process = Process::start(&terms);
    process.hold(1, 50, &mut allocator, &[]).unwrap().settle(exact(50));
    let lower = BudgetTerms { limit: 60, ..terms.clone() };
    process.ledger.update(&lower);
    allocator.terms.limit = 60;
    assert!(matches!(process.hold(2, 20, &mut allocator, &[]), Err(Refusal::Exhausted { limit: 60, .. })));
    process.ledger.update(&terms);
    allocator.terms.limit = 1000;
    process.hold(3, 20, &mut allocator, &[]).unwrap().settle(exact(20));
}
