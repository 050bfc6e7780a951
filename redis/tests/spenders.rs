//! One contract for all allocators, as those who spend see it: a ledger by itself, ledgers that the operator's books serve,
//! and ledgers that a real server serves. Whatever is held, settled, released and killed: what is spent never passes the
//! limit, nobody is refused while the money is there, and in the end all of it can be used. So it is with the limit in force
//! when a boost ends that only the clock ends.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use common::{GATEWAY, Shared};
use tollgate_allocator::{Asker, Batch, Budget as Allocated};
use tollgate_faults::seeds::Test;
use tollgate_faults::{seeds, this_test};
use tollgate_harness::{PATIENCE, RedisServer};
use tollgate_ledger::{
    Allocation, Amounts, AttemptStart, Boost, Budget, BudgetTerms, Hold, Ledger, Mode, Options, Outcome, Period,
    Refusal, Settlement, Unit, Writer,
};
use tollgate_redis::{Address, GatewayKeys, Memory, SHARDS, Store};

const LIMIT: i64 = 10_000;

/// One clock for all tests of this file; it only goes on.
static CLOCK_MS: AtomicI64 = AtomicI64::new(1_795_262_400_000);

fn clock() -> i64 {
    CLOCK_MS.load(SeqCst)
}

fn terms() -> BudgetTerms {
    BudgetTerms {
        id: "ns/Budget/b".to_owned(),
        unit: Unit::NanoUsd,
        limit: LIMIT,
        boost: None,
        mode: Mode::Hard,
        period: Period::Lifetime,
        reset_token: None,
        allow_unavailable: false,
        throttle_percent: None,
    }
}

/// Who hands out the limit.
trait Allocator {
    fn allocation(&self) -> Allocation;
    /// Hears what is due at a process, and answers.
    fn exchange(&mut self, process: &mut Process);
}

/// The ledger itself.
struct Own;

impl Allocator for Own {
    fn allocation(&self) -> Allocation {
        Allocation::Own
    }

    fn exchange(&mut self, _: &mut Process) {}
}

/// The operator's books, which are text between two exchanges, and until when somebody is short, which is not.
struct Operator {
    books: String,
    tight_until_ms: i64,
    /// By so much its clock is behind when it looks whether a boost is over. Seconds.
    lag: i64,
}

impl Allocator for Operator {
    fn allocation(&self) -> Allocation {
        Allocation::Shared
    }

    fn exchange(&mut self, process: &mut Process) {
        let (id, terms) = (process.terms.id.clone(), process.terms.shared(clock() / 1000 - self.lag));
        let mut budget: Allocated = serde_json::from_str(&self.books).unwrap();
        budget.tight_until_ms = self.tight_until_ms;
        for batch in process.ledger.due() {
            let asker = Asker { replica: &batch.replica, replicas: 3, now_ms: clock() };
            let sync = |report| budget.sync(&terms, asker, report).answer;
            let mut answers: Vec<_> = batch.reports.iter().map(sync).collect();
            answers.extend(budget.recall(&id, &terms, &batch.replica, clock()));
            process.ledger.answered(&batch.replica, &answers);
        }
        self.books = serde_json::to_string(&budget).unwrap();
        self.tight_until_ms = budget.tight_until_ms;
    }
}

/// A real server.
struct Redis {
    runtime: tokio::runtime::Runtime,
    store: Store,
}

impl Redis {
    fn new(server: &RedisServer) -> Redis {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let address = Address::parse(&server.url()).unwrap();
        Shared::new(server).trust();
        let store = runtime.block_on(Store::open(&address, GatewayKeys::new(GATEWAY))).unwrap();
        Redis { runtime, store }
    }
}

impl Allocator for Redis {
    fn allocation(&self) -> Allocation {
        Allocation::Shared
    }

    fn exchange(&mut self, process: &mut Process) {
        let Process { ledger, memory, terms, .. } = process;
        let batches: Vec<Batch> = ledger.due();
        let replica = ledger.replica().unwrap();
        let terms_of = |_: &str| Some(terms.shared(clock() / 1000));
        let exchange = self.store.exchange(&batches, memory, &[1; SHARDS], Some(&replica), &terms_of, PATIENCE);
        let exchanged = self.runtime.block_on(exchange);
        assert!(exchanged.failed.is_none(), "{:?}", exchanged.failed);
        for answers in &exchanged.answers {
            ledger.answered(&answers.replica, &answers.answers);
        }
        for (_, header) in &exchanged.headers {
            assert!(!header.doubt);
            ledger.recalled(&header.tight);
        }
    }
}

/// A process that spends.
struct Process {
    folder: Arc<tempfile::TempDir>,
    ledger: Ledger,
    writer: Writer,
    budget: Arc<Budget>,
    memory: Memory,
    terms: BudgetTerms,
}

impl Process {
    fn start(folder: Arc<tempfile::TempDir>, allocation: Allocation, terms: &BudgetTerms) -> Process {
        let options = Options { clock, allocation, kernel_boot: [1; 16], ..Options::new(folder.path(), 1) };
        let (ledger, mut writers, _) = Ledger::open(options).unwrap();
        let budget = ledger.budget(terms);
        let (memory, terms) = (Memory::default(), terms.clone());
        Process { folder, ledger, writer: writers.remove(0), budget, memory, terms }
    }

    /// Dies, and starts again in the same folder.
    fn kill(self, allocation: Allocation) -> Process {
        let Process { folder, ledger, writer, budget, memory: _, terms } = self;
        drop((ledger, writer, budget));
        Process::start(folder, allocation, &terms)
    }
}

fn exact(nano_usd: i64) -> Settlement {
    Settlement {
        actual: Amounts { nano_usd, tokens: 0, requests: 1 },
        input_tokens: 0,
        output_tokens: 0,
        cache_read_tokens: 0,
        cache_write_tokens: 0,
        reasoning_tokens: 0,
        status: 200,
        outcome: Outcome::Exact,
        duration_ms: 1,
        first_byte_ms: 1,
    }
}

/// Holds at one of the processes, after all that can be had from the allocator and from the others. Also when: unix
/// milliseconds.
fn hold(
    processes: &mut [Process],
    at: usize,
    id: u128,
    amount: i64,
    allocator: &mut dyn Allocator,
) -> Result<(Hold, i64), Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut patience = 60;
    loop {
        let amounts = Amounts { nano_usd: amount, tokens: 0, requests: 1 };
        let start = AttemptStart { attempt_id: id, started_at_ms: clock(), hold: amounts, ..AttemptStart::default() };
        let Process { writer, budget, .. } = &mut processes[at];
        match writer.try_hold(&start, std::slice::from_ref(budget)) {
            Err(Refusal::Pending(grant)) => {
                allocator.exchange(&mut processes[at]);
                runtime.block_on(grant.wait());
            }
            Err(Refusal::Reserved { .. }) if patience > 0 => {
                patience -= 1;
                processes.iter_mut().for_each(|process| allocator.exchange(process));
                let budget = processes[at].budget.clone();
                runtime.block_on(budget.wait_for_release());
            }
            other => return other.map(|hold| (hold, start.started_at_ms)),
        }
        CLOCK_MS.fetch_add(50, SeqCst);
    }
}

/// One random history. `lower`: most of its limit is a boost, which ends on the way.
fn history(allocator: &mut dyn Allocator, number: usize, seed: u64, lower: bool) {
    let mut random = fastrand::Rng::with_seed(seed);
    let until = clock() / 1000 + 10;
    let terms = match lower {
        true => {
            let low = random.i64(500..LIMIT);
            BudgetTerms { limit: low, boost: Some(Boost { amount: LIMIT - low, until }), ..terms() }
        }
        false => terms(),
    };
    let limit_at = |at_ms: i64| terms.limit_at(at_ms / 1000);
    let allocation = allocator.allocation();
    let folder = || Arc::new(tempfile::tempdir().unwrap());
    let mut processes: Vec<Process> = (0..number).map(|_| Process::start(folder(), allocation, &terms)).collect();
    let mut in_flight: Vec<(usize, i64, Hold)> = Vec::new();
    let mut spent = 0;
    let held = |in_flight: &[(usize, i64, Hold)]| in_flight.iter().map(|(_, amount, _)| amount).sum::<i64>();
    for id in 0..200u128 {
        let at = random.usize(..number);
        match random.u8(..20) {
            0..=9 => {
                let amount = random.i64(1..400);
                let highest = limit_at(clock());
                match hold(&mut processes, at, id, amount, allocator) {
                    Ok((hold, at_ms)) => {
                        in_flight.push((at, amount, hold));
                        let held = held(&in_flight);
                        assert!(spent + held <= limit_at(at_ms), "seed {seed}: {spent} spent, {held} held");
                    }
                    Err(Refusal::Exhausted { limit, .. }) => {
                        assert!(limit <= highest, "seed {seed}: {limit} is not in force any more");
                        assert!(spent + amount > limit, "seed {seed}: refused {amount} with {spent} spent");
                    }
                    Err(Refusal::Reserved { limit, .. }) => {
                        let held = held(&in_flight);
                        assert!(limit <= highest, "seed {seed}: {limit} is not in force any more");
                        assert!(spent + held + amount > limit, "seed {seed}: {spent} spent, {held} held, {amount}");
                    }
                    Err(other) => panic!("seed {seed}: {other:?}"),
                }
            }
            10..=17 if !in_flight.is_empty() => {
                let (_, amount, hold) = in_flight.swap_remove(random.usize(..in_flight.len()));
                if random.u8(..5) == 0 {
                    hold.release(500, 1);
                } else {
                    let actual = random.i64(0..=amount);
                    hold.settle(exact(actual));
                    spent += actual;
                }
            }
            18 => {
                // What is in flight there is charged.
                let (lost, kept): (Vec<_>, Vec<_>) = in_flight.into_iter().partition(|(of, _, _)| *of == at);
                in_flight = kept;
                spent += held(&lost);
                drop(lost);
                let process = processes.remove(at);
                let mut process = process.kill(allocation);
                // What the dead one used is told; who dies again before is charged what it was granted.
                allocator.exchange(&mut process);
                processes.insert(at, process);
            }
            _ => {
                CLOCK_MS.fetch_add(1_000, SeqCst);
                allocator.exchange(&mut processes[at]);
            }
        }
        assert!(spent + held(&in_flight) <= LIMIT, "seed {seed}: {spent} spent, {} held", held(&in_flight));
    }
    for (_, amount, hold) in in_flight.drain(..) {
        hold.settle(exact(amount));
        spent += amount;
    }
    CLOCK_MS.fetch_max(until * 1000, SeqCst);
    let rest = limit_at(clock()) - spent;
    if rest > 0 {
        match hold(&mut processes, 0, 1_000, rest, allocator) {
            Ok((hold, _)) => hold.settle(exact(rest)),
            Err(other) => panic!("seed {seed}: {rest} is left and cannot be had: {other:?}"),
        }
    }
}

/// Also with a boost, in every other history. One after the other: each moves the clock.
fn histories(test: Test, count: u64, number: usize, mut allocator: impl FnMut(u64) -> Box<dyn Allocator>) {
    seeds::histories(test, count, |seed| {
        history(&mut *allocator(seed), number, seed, false);
        if seed % 2 == 0 {
            history(&mut *allocator(seed), number, seed, true);
        }
    });
}

#[test]
fn a_ledger_by_itself_keeps_the_contract() {
    histories(this_test!(), 8, 1, |_| Box::new(Own));
}

#[test]
fn ledgers_that_the_operators_books_serve_keep_the_contract() {
    let books = serde_json::to_string(&Allocated::default()).unwrap();
    histories(this_test!(), 8, 3, |seed| {
        Box::new(Operator { books: books.clone(), tight_until_ms: 0, lag: seed as i64 % 3 })
    });
}

#[test]
fn ledgers_that_a_server_serves_keep_the_contract() {
    let Some(server) = RedisServer::start([]) else { return };
    histories(this_test!(), 3, 3, |_| {
        server.command("FLUSHALL");
        Box::new(Redis::new(&server))
    });
}
