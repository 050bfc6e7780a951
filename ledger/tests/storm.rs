//! Real ledgers, and the operator's books under two leaders that know nothing of each other, over a network that loses,
//! doubles, delays and reorders; processes die, leaders forget, replicas are cut off, clocks jump over days. Whatever the
//! order: no day is granted or spent above its limit, not a nano-dollar is lost, and when the storm is over all that is
//! left can be had. One test in this file: its clock is everybody's.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use common::{NOON_MS, attempt, exact, hard, options};
use tollgate_allocator::{Answer, Asker, Batch, Budget as Allocated, ReplicaId, Terms};
use tollgate_faults::{seeds, this_test};
use tollgate_ledger::{
    Allocation, AttemptStart, Budget, BudgetTerms, CalendarUnit, Hold, Ledger, Options, Period, Refusal, Writer,
};

/// Small beside what is asked for, so that it is reached on most days.
const LIMIT: i64 = 2_000;
const HOUR_MS: i64 = 3_600_000;
const PROCESSES: usize = 3;
const STEPS: usize = 600;

static CLOCK_MS: AtomicI64 = AtomicI64::new(NOON_MS);

fn clock() -> i64 {
    CLOCK_MS.load(SeqCst)
}

fn terms() -> BudgetTerms {
    BudgetTerms {
        period: Period::Calendar { unit: CalendarUnit::Day, time_zone: "UTC".to_owned() },
        ..hard("ns/Budget/b", LIMIT)
    }
}

/// A process that spends.
struct Process {
    folder: Arc<tempfile::TempDir>,
    ledger: Ledger,
    writer: Writer,
    budget: Arc<Budget>,
    is_cut_off: bool,
}

impl Process {
    fn start(folder: Arc<tempfile::TempDir>) -> Process {
        let options = Options { clock, allocation: Allocation::Shared, ..options(folder.path(), 1) };
        let (ledger, mut writers, _) = Ledger::open(options).unwrap();
        let budget = ledger.budget(&terms());
        Process { folder, ledger, writer: writers.remove(0), budget, is_cut_off: false }
    }
}

/// What a leader believes to be written, and which version that was.
#[derive(Clone, Default)]
struct Known {
    books: Allocated,
    version: u64,
}

/// A replica, and what it is told.
type Told = (ReplicaId, Vec<Answer>);

struct World {
    random: fastrand::Rng,
    terms: Terms,
    processes: Vec<Process>,
    durable: Known,
    leaders: [Known; 2],
    /// On their way, to come in any order.
    reports: Vec<Batch>,
    answers: Vec<Told>,
    in_flight: Vec<(usize, i64, Hold)>,
    spent: i64,
    attempts: u128,
    /// The latest that the clock ever said. No day begins again, so this is everybody's day in the end.
    latest_ms: i64,
}

impl World {
    fn new(seed: u64) -> World {
        CLOCK_MS.store(NOON_MS, SeqCst);
        let start = |_| Process::start(Arc::new(tempfile::tempdir().unwrap()));
        World {
            random: fastrand::Rng::with_seed(seed),
            terms: terms().shared(clock() / 1000),
            processes: (0..PROCESSES).map(start).collect(),
            durable: Known::default(),
            leaders: [Known::default(), Known::default()],
            reports: Vec::new(),
            answers: Vec::new(),
            in_flight: Vec::new(),
            spent: 0,
            attempts: 0,
            latest_ms: NOON_MS,
        }
    }

    fn step(&mut self) {
        let at = self.random.usize(..PROCESSES);
        match self.random.u8(..60) {
            0..=15 => self.hold(at),
            16..=25 => self.settle(),
            26..=33 => self.tell(at),
            34..=43 => self.hear(),
            44..=51 => self.answer(),
            52 => {
                let lost = self.random.usize(..self.reports.len() + self.answers.len() + 1);
                if lost < self.reports.len() {
                    self.reports.swap_remove(lost);
                } else if lost - self.reports.len() < self.answers.len() {
                    self.answers.swap_remove(lost - self.reports.len());
                }
            }
            53 => self.processes[at].is_cut_off = self.random.bool(),
            54 => self.kill(at),
            55 => self.close(at),
            // Also backwards, and over days.
            56 if self.random.u8(..4) == 0 => {
                let ms = self.random.i64(-30 * HOUR_MS..30 * HOUR_MS);
                self.pass(ms);
            }
            _ => {
                let ms = self.random.i64(1..2_000);
                self.pass(ms);
            }
        }
    }

    fn pass(&mut self, ms: i64) {
        let now = CLOCK_MS.fetch_add(ms, SeqCst) + ms;
        self.latest_ms = self.latest_ms.max(now);
    }

    /// One try, which nobody waits for.
    fn hold(&mut self, at: usize) {
        let amount = self.random.i64(1..200);
        let start = self.start(amount);
        let Process { writer, budget, .. } = &mut self.processes[at];
        if let Ok(hold) = writer.try_hold(&start, std::slice::from_ref(budget)) {
            self.in_flight.push((at, amount, hold));
        }
    }

    fn start(&mut self, amount: i64) -> AttemptStart {
        self.attempts += 1;
        AttemptStart { started_at_ms: clock(), ..attempt(self.attempts, amount) }
    }

    fn settle(&mut self) {
        if self.in_flight.is_empty() {
            return;
        }
        let (_, amount, hold) = self.in_flight.swap_remove(self.random.usize(..self.in_flight.len()));
        if self.random.u8(..5) == 0 {
            hold.release(500, 1);
        } else {
            let actual = self.random.i64(0..=amount);
            hold.settle(exact(actual));
            self.spent += actual;
        }
    }

    /// A process says what it needs.
    fn tell(&mut self, at: usize) {
        if self.processes[at].is_cut_off {
            self.processes[at].ledger.unanswered();
        } else {
            self.reports.extend(self.processes[at].ledger.due());
        }
    }

    /// A report arrives at one of the leaders; it may come again.
    fn hear(&mut self) {
        if self.reports.is_empty() {
            return;
        }
        let which = self.random.usize(..self.reports.len());
        let batch =
            if self.random.u8(..4) == 0 { self.reports[which].clone() } else { self.reports.swap_remove(which) };
        let leader = self.random.usize(..2);
        if let Some(told) = self.decide(leader, &batch) {
            self.answers.push(told);
        }
    }

    /// What is answered once it is written; nothing where somebody else wrote meanwhile.
    fn decide(&mut self, leader: usize, Batch { replica, reports }: &Batch) -> Option<Told> {
        let mut books = self.leaders[leader].books.clone();
        let sync = |report| books.sync(&self.terms, Asker { replica, replicas: PROCESSES, now_ms: clock() }, report);
        let mut answers: Vec<Answer> = reports.iter().map(sync).map(|synced| synced.answer).collect();
        answers.extend(books.recall(&terms().id, &self.terms, replica, clock()));
        self.write(leader, books).then(|| (replica.clone(), answers))
    }

    fn write(&mut self, leader: usize, books: Allocated) -> bool {
        let is_current = self.leaders[leader].version == self.durable.version;
        if is_current {
            self.durable = Known { books, version: self.durable.version + 1 };
        }
        self.leaders[leader] = self.durable.clone();
        is_current
    }

    /// An answer arrives at whoever has its replica; it may come again.
    fn answer(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let which = self.random.usize(..self.answers.len());
        let (replica, answers) =
            if self.random.u8(..4) == 0 { self.answers[which].clone() } else { self.answers.swap_remove(which) };
        for process in self.processes.iter().filter(|process| !process.is_cut_off) {
            process.ledger.answered(&replica, &answers);
        }
    }

    /// `kill -9`: what is in flight is charged by the process that starts in the folder.
    fn kill(&mut self, at: usize) {
        let (lost, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.in_flight).into_iter().partition(|(of, _, _)| *of == at);
        self.in_flight = kept;
        for (_, amount, hold) in lost {
            std::mem::forget(hold);
            self.spent += amount;
        }
        let folder = self.processes[at].folder.clone();
        let dead = self.processes.remove(at);
        drop(dead);
        self.processes.insert(at, Process::start(folder));
    }

    /// A leader takes a replica for gone, whether or not it is.
    fn close(&mut self, at: usize) {
        let Some(replica) = self.processes[at].ledger.replica() else { return };
        let leader = self.random.usize(..2);
        let mut books = self.leaders[leader].books.clone();
        if books.close(&replica) {
            self.write(leader, books);
        }
    }

    /// Of no day more is out or spent than its limit.
    fn check(&self) {
        for books in &self.durable.books.books {
            let of_account =
                |account: &tollgate_allocator::Account| (account.granted - account.returned).max(account.used);
            let charged = books.closed + books.accounts.values().map(of_account).sum::<i64>();
            assert!(charged <= LIMIT, "{charged} of {LIMIT} are out for {}", books.span.label);
        }
    }

    /// All talk until nothing changes; who is gone without a word is charged what it was granted.
    fn calm(&mut self) {
        CLOCK_MS.store(self.latest_ms, SeqCst);
        for process in &mut self.processes {
            process.is_cut_off = false;
        }
        (0..PROCESSES).for_each(|at| self.exchange(at));
        let living: Vec<ReplicaId> = self.processes.iter().filter_map(|process| process.ledger.replica()).collect();
        let accounts = self.durable.books.books.iter().flat_map(|books| books.accounts.keys());
        let gone: Vec<ReplicaId> = accounts.filter(|replica| !living.contains(replica)).cloned().collect();
        let mut books = self.durable.books.clone();
        for replica in &gone {
            books.close(replica);
        }
        self.leaders[0] = self.durable.clone();
        self.write(0, books);
        // What did not change is told every thirty seconds: who was taken for gone hears of it then, says with the next word
        // what it really used, and others hear of that when they tell again.
        for ms in [4_000, 4_000, 31_000, 4_000, 31_000] {
            self.pass(ms);
            for at in 0..PROCESSES {
                self.exchange(at);
            }
        }
    }

    fn exchange(&mut self, at: usize) {
        for batch in self.processes[at].ledger.due() {
            // The first try may only show that the other leader wrote.
            let told = self.decide(0, &batch).or_else(|| self.decide(0, &batch));
            let (replica, answers) = told.expect("it has read what is written");
            self.processes[at].ledger.answered(&replica, &answers);
        }
    }

    /// What the books say was spent of all days.
    fn used(&self) -> i64 {
        let of_books = |books: &tollgate_allocator::Books| {
            let of_account = |account: &tollgate_allocator::Account| match account.closed {
                true => (account.granted - account.returned).max(account.used),
                false => account.used,
            };
            books.closed + books.accounts.values().map(of_account).sum::<i64>()
        };
        self.durable.books.books.iter().map(of_books).sum()
    }

    /// What is left of the day can be had.
    fn spend_the_rest(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let rest = LIMIT - self.durable.books.totals(&self.terms, clock() / 1000).used;
        if rest <= 0 {
            return;
        }
        let start = self.start(rest);
        for _ in 0..100 {
            let Process { writer, budget, .. } = &mut self.processes[0];
            match writer.try_hold(&start, std::slice::from_ref(budget)) {
                Ok(hold) => {
                    hold.settle(exact(rest));
                    self.spent += rest;
                    return;
                }
                Err(Refusal::Pending(grant)) => {
                    self.exchange(0);
                    runtime.block_on(grant.wait());
                }
                Err(Refusal::Reserved { .. }) => {
                    (0..PROCESSES).for_each(|at| self.exchange(at));
                    let budget = self.processes[0].budget.clone();
                    runtime.block_on(budget.wait_for_release());
                }
                Err(other) => panic!("{rest} of {LIMIT} is left and cannot be had: {other:?}"),
            }
            self.pass(50);
        }
        panic!("{rest} of {LIMIT} is left and nobody gives it");
    }
}

#[test]
fn whatever_comes_in_whatever_order_the_limit_of_each_day_holds() {
    seeds::histories(this_test!(), 12, |seed| {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
            world.check();
        }
        for (_, amount, hold) in std::mem::take(&mut world.in_flight) {
            hold.settle(exact(amount));
            world.spent += amount;
        }
        world.calm();
        world.check();
        assert!(world.used() >= world.spent, "{} spent, {} in the books", world.spent, world.used());
        world.spend_the_rest();
        world.calm();
        world.check();
        assert!(world.used() >= world.spent, "{} spent, {} in the books", world.spent, world.used());
    });
}
