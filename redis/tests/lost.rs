//! Servers that lose what they wrote last: restarted without a disk, or replaced by one that lacks the tail. A Hard budget
//! gets nothing until the books are whole again, and then not a nano-dollar more than its limit.

mod common;

use std::time::{Duration, Instant};

use common::{GATEWAY, Shared, exchange, exchange_within};
use proptest::prelude::*;
use tokio::runtime::Runtime;
use tollgate_allocator::{Batch, Mode, Period, ReplicaId, Report, Terms, Unit};
use tollgate_faults::{seeds, this_test};
use tollgate_harness::{PATIENCE, RedisServer};
use tollgate_redis::{Address, GatewayKeys, Header, Memory, SHARDS, Store};

const BUDGET: &str = "ns/Budget/b";

/// Where [`BUDGET`] is.
const SHARD: usize = 5;

fn terms(limit: i64) -> Terms {
    Terms { unit: Unit::NanoUsd, limit, mode: Mode::Hard, period: Period::Lifetime, reset_token: None }
}

/// A process that spends and remembers.
struct Process {
    runtime: Runtime,
    store: Store,
    memory: Memory,
    told: [i64; SHARDS],
    id: ReplicaId,
    report: Report,
    granted: i64,
}

impl Process {
    fn start(name: &str, server: &RedisServer, terms: &Terms) -> Process {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = connect(&runtime, server);
        let report = Report {
            budget: BUDGET.to_owned(),
            unit: terms.unit,
            reset_token: None,
            span: terms.period.span(0),
            returned: 0,
            used: 0,
            held: 0,
            refused: 0,
            wanted: 0,
            last: false,
        };
        let (memory, told, id) = (Memory::default(), [0; SHARDS], ReplicaId(name.to_owned()));
        Process { runtime, store, memory, told, id, report, granted: 0 }
    }

    /// As a client does when the connection broke.
    fn connect(&mut self, server: &RedisServer) {
        self.store = connect(&self.runtime, server);
    }

    fn want(&mut self, total: i64, terms: &Terms) -> Header {
        self.report.wanted = total;
        self.tell(terms)
    }

    fn tell(&mut self, terms: &Terms) -> Header {
        let Process { runtime, store, memory, told, id, report, granted } = self;
        let (header, decided) = exchange(runtime, store, memory, told, terms, id, report);
        assert!(decided.answer.granted >= *granted || header.doubt, "grants only grow");
        *granted = (*granted).max(decided.answer.granted);
        header
    }

    /// All that it has to tell was told.
    fn confirm(&mut self, epoch: i64) {
        self.told = [epoch; SHARDS];
        let batches: [Batch; 0] = [];
        let sign = self.store.exchange(&batches, &mut self.memory, &self.told, Some(&self.id), &|_| None, PATIENCE);
        let exchanged = self.runtime.block_on(sign);
        assert!(exchanged.failed.is_none(), "{:?}", exchanged.failed);
    }
}

fn connect(runtime: &Runtime, server: &RedisServer) -> Store {
    let address = Address::parse(&server.url()).unwrap();
    runtime.block_on(Store::open(&address, GatewayKeys::new(GATEWAY))).unwrap()
}

/// Waits until the server is believed.
fn wait_for_trust(processes: &mut [&mut Process], terms: &Terms) {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE * 2 {
        let mut doubt = false;
        for process in processes.iter_mut() {
            let header = process.tell(terms);
            process.confirm(header.epoch);
            doubt |= header.doubt;
        }
        if !doubt {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the server is never believed");
}

#[test]
fn a_server_that_was_killed_without_a_disk_gets_its_books_back_from_who_lives() {
    let Some(mut server) = RedisServer::start([]) else { return };
    let terms = terms(1000);
    Shared::new(&server);
    let mut a = Process::start("a", &server, &terms);
    let mut b = Process::start("b", &server, &terms);
    let mut ended = Process::start("ended", &server, &terms);
    ended.want(150, &terms);
    (ended.report.used, ended.report.last) = (100, true);
    ended.tell(&terms);
    b.want(200, &terms);
    a.want(500, &terms);
    let (of_a, of_b) = (a.granted, b.granted);
    // What was given back after the last word of the other does not count twice.
    b.report.returned = 30;
    server.restart();
    a.connect(&server);
    b.connect(&server);
    let mut new = Process::start("new", &server, &terms);
    let begun = Instant::now();
    assert!(new.want(1000, &terms).doubt);
    assert_eq!(new.granted, 0, "nothing is granted by a server that may have forgotten");
    wait_for_trust(&mut [&mut a, &mut b, &mut new], &terms);
    assert!(begun.elapsed() >= Duration::from_secs(4), "others had time to tell: {:?}", begun.elapsed());
    new.want(1000, &terms);
    assert_eq!((a.granted, b.granted), (of_a, of_b));
    assert_eq!(new.granted, 1000 - 100 - of_a - (of_b - 30), "all that is left, and the ended one is not forgotten");
}

#[test]
fn a_replica_of_the_server_that_lacks_the_tail_does_not_grant_it_again() {
    let Some(mut first) = RedisServer::start([]) else { return };
    let port = first.address().port().to_string();
    let Some(second) = RedisServer::start(["--replicaof", "127.0.0.1", &port]) else { return };
    second.wait_for("INFO replication", "master_link_status:up");
    let terms = terms(1000);
    Shared::new(&first);
    let mut a = Process::start("a", &first, &terms);
    let mut b = Process::start("b", &first, &terms);
    a.want(100, &terms);
    b.want(100, &terms);
    let before_tail = a.granted;
    // Both are replicated; then the replica hears nothing more.
    let replicated = first.command("WAIT 1 10000");
    assert!(replicated.contains(":1"), "{replicated}");
    second.pause();
    a.want(700, &terms);
    assert!(a.granted > before_tail);
    first.kill();
    second.resume();
    second.command("REPLICAOF NO ONE");
    a.connect(&second);
    b.connect(&second);
    assert!(b.want(1000, &terms).doubt, "whoever speaks first");
    let of_b = b.granted;
    wait_for_trust(&mut [&mut a, &mut b], &terms);
    b.want(1000, &terms);
    assert_eq!(b.granted + a.granted, 1000);
    assert!(b.granted > of_b);
}

#[test]
fn a_budget_that_was_thrown_out_is_missed_by_its_sequence() {
    let Some(server) = RedisServer::start([]) else { return };
    let terms = terms(1000);
    let mut shared = Shared::new(&server);
    let mut a = Process::start("a", &server, &terms);
    a.want(600, &terms);
    shared.command(&["DEL", &format!("tollgate:{{{GATEWAY}#{SHARD}}}:budget:{BUDGET}")]);
    let header = a.want(900, &terms);
    assert!(header.doubt && header.lost);
    assert_eq!(a.granted, 600);
    wait_for_trust(&mut [&mut a], &terms);
    a.want(900, &terms);
    assert_eq!(a.granted, 900);
}

#[test]
fn a_replica_that_missed_the_whole_doubt_still_has_what_it_was_granted() {
    let Some(mut server) = RedisServer::start([]) else { return };
    let terms = terms(1000);
    Shared::new(&server);
    let mut a = Process::start("a", &server, &terms);
    let mut b = Process::start("b", &server, &terms);
    b.want(100, &terms);
    a.want(300, &terms);
    let of_a = a.granted;
    server.restart();
    b.connect(&server);
    wait_for_trust(&mut [&mut b], &terms);
    // `b` did not know of it, and the server neither.
    a.connect(&server);
    a.tell(&terms);
    b.want(1000, &terms);
    assert_eq!((a.granted, b.granted), (of_a, 1000 - of_a));
}

/// A step of a history in which the server loses its tail.
#[derive(Clone, Debug)]
enum Step {
    Want {
        process: usize,
        more: i64,
    },
    Spend {
        process: usize,
        amount: i64,
    },
    GiveBack {
        process: usize,
    },
    /// A report goes out, and its answer never comes.
    Unanswered {
        process: usize,
        more: i64,
    },
    Die {
        process: usize,
        proves: bool,
    },
    Save,
    /// The server is what it was at the last `Save`, or empty. `by`: who heard of it last.
    Lose {
        all: bool,
        by: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let process = 0usize..3;
    prop_oneof![
        5 => (process.clone(), 1i64..200).prop_map(|(process, more)| Step::Want { process, more }),
        4 => (process.clone(), 1i64..120).prop_map(|(process, amount)| Step::Spend { process, amount }),
        3 => process.clone().prop_map(|process| Step::GiveBack { process }),
        2 => (process.clone(), 1i64..200).prop_map(|(process, more)| Step::Unanswered { process, more }),
        1 => (process.clone(), any::<bool>()).prop_map(|(process, proves)| Step::Die { process, proves }),
        1 => Just(Step::Save),
        2 => (any::<bool>(), process).prop_map(|(all, by)| Step::Lose { all, by }),
    ]
}

#[test]
fn whatever_the_server_loses_the_limit_holds() {
    let Some(server) = RedisServer::start([]) else { return };
    let shared = std::cell::RefCell::new(Shared::new(&server));
    let boots = std::cell::Cell::new(0);
    seeds::property(this_test!(), 128, &prop::collection::vec(step(), 1..60), |steps| {
        history(&server, &mut shared.borrow_mut(), &boots, steps)
    });
}

fn history(
    server: &RedisServer,
    shared: &mut Shared,
    boots: &std::cell::Cell<u32>,
    steps: Vec<Step>,
) -> Result<(), TestCaseError> {
    let terms = terms(1000);
    let key = |what: &str| format!("tollgate:{{{GATEWAY}#{SHARD}}}:{what}");
    let budget = key(&format!("budget:{BUDGET}"));
    shared.command(&["FLUSHALL"]);
    shared.trust();
    let start = || {
        boots.set(boots.get() + 1);
        Process::start(&format!("p{}", boots.get()), server, &terms)
    };
    let mut processes = [start(), start(), start()];
    let mut saved: Option<Vec<u8>> = None;
    let mut spent = 0;
    for step in steps {
        match step {
            Step::Want { process, more } => {
                let one = &mut processes[process];
                one.want(one.granted + more, &terms);
            }
            Step::Spend { process, amount } => {
                let one = &mut processes[process];
                if one.report.used + amount <= one.granted - one.report.returned {
                    one.report.used += amount;
                    spent += amount;
                }
            }
            Step::GiveBack { process } => {
                let one = &mut processes[process];
                one.report.returned = one.granted - one.report.used;
                one.report.wanted = 0;
                one.tell(&terms);
            }
            Step::Unanswered { process, more } => {
                let one = &mut processes[process];
                one.report.wanted = one.granted + more;
                let Process { runtime, store, memory, told, id, report, .. } = one;
                exchange_within(Duration::ZERO, runtime, store, memory, told, &terms, id, report);
            }
            Step::Die { process, proves } => {
                let mut dead = std::mem::replace(&mut processes[process], start());
                if proves {
                    dead.report.last = true;
                    dead.memory = Memory::default();
                    dead.tell(&terms);
                }
            }
            Step::Save => {
                saved = redis::cmd("DUMP").arg(&budget).query(&mut shared.raw).unwrap();
            }
            Step::Lose { all, by } => {
                processes[by].tell(&terms);
                shared.command(&["DEL", &budget, &key("tight"), &key("changed")]);
                if let Some(saved) = saved.as_ref().filter(|_| !all) {
                    redis::cmd("RESTORE").arg(&budget).arg(0).arg(saved).query::<()>(&mut shared.raw).unwrap();
                }
                saved = None;
                shared.command(&["HSET", &key("life"), "inc", "another"]);
                for process in &mut processes {
                    prop_assert!(process.tell(&terms).doubt);
                }
                // As if time had passed.
                shared.command(&["HSET", &key("life"), "begun", "1"]);
            }
        }
        prop_assert!(spent <= 1000, "{} spent", spent);
        let may_spend: i64 = processes.iter().map(|one| one.granted - one.report.returned - one.report.used).sum();
        prop_assert!(spent + may_spend <= 1000, "{} spent, {} may be", spent, may_spend);
    }
    Ok(())
}
