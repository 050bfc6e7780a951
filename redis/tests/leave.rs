//! Books that leave a real server: from the mark on nothing is granted, what is read then is all that may be spent, and an
//! allocator that goes on with it never passes the limit.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Contract, GATEWAY, Shared, nothing_of, replica};
use tollgate_allocator::{Asker, Budget, Mode, Period, ReplicaId, Report, Terms, Unit};
use tollgate_faults::{seeds, this_test};
use tollgate_harness::{PATIENCE, RedisServer};
use tollgate_redis::shard_of;

const ID: &str = "ns/Budget/b";
const LIMIT: i64 = 1_000;

fn terms() -> Terms {
    Terms { unit: Unit::NanoUsd, limit: LIMIT, mode: Mode::Hard, period: Period::Lifetime, reset_token: None }
}

fn report() -> Report {
    nothing_of(ID, &terms(), 0)
}

fn key(what: &str) -> String {
    format!("tollgate:{{{GATEWAY}#{}}}:{what}", shard_of(ID))
}

fn leave(shared: &Shared) {
    shared.runtime.block_on(shared.store.leave()).unwrap();
}

fn kept(shared: &Shared) -> BTreeSet<String> {
    shared.runtime.block_on(shared.store.kept()).unwrap()
}

fn books(shared: &Shared) -> BTreeMap<String, Budget> {
    shared.runtime.block_on(shared.store.books([ID])).unwrap()
}

#[test]
fn from_the_mark_on_nothing_is_granted_and_everything_is_taken() {
    let Some(server) = RedisServer::start([]) else { return };
    let mut shared = Shared::new(&server);
    let a = replica("a.1");
    let (_, decided) = shared.tell(&terms(), &a, &Report { wanted: 100, ..report() });
    assert_eq!(decided.answer.granted, 500);
    leave(&shared);
    let (_, decided) = shared.tell(&terms(), &a, &Report { used: 80, returned: 300, wanted: 600, ..report() });
    assert_eq!((decided.answer.granted, decided.denied), (500, true), "who asks hears that nobody decides");
    let totals = books(&shared)[ID].totals(&terms(), 0);
    assert_eq!((totals.used, totals.charged), (80, 200));
    shared.runtime.block_on(shared.store.stay()).unwrap();
    let (_, decided) = shared.tell(&terms(), &a, &Report { used: 80, returned: 300, wanted: 600, ..report() });
    assert_eq!((decided.answer.granted, decided.denied), (900, false));
}

#[test]
fn who_spoke_lately_is_known_and_what_is_forgotten_leaves_the_mark() {
    let Some(server) = RedisServer::start([]) else { return };
    let mut shared = Shared::new(&server);
    let now_ms = shared.now() * 1_000;
    shared.sync(&terms(), &replica("a.1"), &Report { wanted: 100, ..report() });
    shared.sync(&terms(), &replica("gone.1"), &Report { wanted: 100, ..report() });
    shared.silence(&replica("gone.1"));
    let speakers = shared.runtime.block_on(shared.store.speakers(now_ms)).unwrap();
    assert_eq!(speakers, BTreeSet::from([replica("a.1")]));
    leave(&shared);
    shared.runtime.block_on(shared.store.wipe(&kept(&shared))).unwrap();
    assert_eq!((books(&shared), kept(&shared)), Default::default());
    let (_, decided) = shared.tell(&terms(), &replica("b.1"), &Report { wanted: 100, ..report() });
    assert_eq!((decided.answer.granted, decided.denied), (0, true));
}

/// Names of budgets are kept as long as their books, however long nobody told of them.
#[test]
fn a_budget_is_known_as_long_as_it_has_books() {
    let Some(server) = RedisServer::start([]) else { return };
    let mut shared = Shared::new(&server);
    let sign = Report { budget: other_of_the_shard(), ..report() };
    shared.sync(&terms(), &replica("a.1"), &Report { wanted: 100, ..report() });
    // An hour later: another budget of the shard is told of.
    shared.command(&["ZADD", &key("changed"), "1", ID]);
    shared.sync(&terms(), &replica("a.1"), &sign);
    let (changed, _) = shared.runtime.block_on(shared.store.changed_since(0)).unwrap();
    assert_eq!(changed, BTreeSet::from([sign.budget.clone()]));
    assert_eq!(kept(&shared), BTreeSet::from([ID.to_owned(), sign.budget.clone()]));
    // Two days after its last period.
    shared.command(&["ZADD", &key("kept"), "1", ID]);
    shared.sync(&terms(), &replica("a.1"), &sign);
    assert_eq!(kept(&shared), BTreeSet::from([sign.budget]));
}

fn other_of_the_shard() -> String {
    let mut names = (0..).map(|number| format!("ns/Budget/{number}"));
    names.find(|name| shard_of(name) == shard_of(ID)).expect("names fall to all shards")
}

/// A budget that nobody told of since the server lost something: what nobody explained is charged before it leaves.
#[test]
fn what_was_lost_is_charged_before_the_books_leave() {
    let Some(server) = RedisServer::start([]) else { return };
    let mut shared = Shared::new(&server);
    shared.sync(&terms(), &replica("a.1"), &Report { wanted: 100, ..report() });
    let budget = key(&format!("budget:{ID}"));
    shared.command(&["HSET", &budget, "u", "1", "c:1", "7 300 a.1"]);
    let terms_of = |_: &str| Some(terms());
    for _ in 0..2 {
        let read = books(&shared);
        shared.runtime.block_on(shared.store.resolve(&read, &replica("operator"), &terms_of, PATIENCE)).unwrap();
        assert_eq!(books(&shared)[ID].totals(&terms(), 0).charged, 500 + 300);
    }
}

/// The server, and the books as they were read from it, under the names that replicas had there.
struct Allocators {
    server: Shared,
    books: Option<Budget>,
}

impl Allocators {
    /// `late`: by who does not know that the books are elsewhere.
    fn granted(&mut self, replica: &ReplicaId, report: &Report, late: bool) -> i64 {
        match &mut self.books {
            Some(budget) if !late => {
                budget.sync(&terms(), Asker { replica, replicas: 3, now_ms: 0 }, report).answer.granted
            }
            _ => self.server.tell(&terms(), replica, report).1.answer.granted,
        }
    }
}

/// Replicas spend what they were granted while the books move from a server to the operator's, at any moment; some go on
/// to ask the server.
#[test]
fn whenever_the_books_leave_the_limit_holds() {
    let Some(server) = RedisServer::start([]) else { return };
    seeds::histories(this_test!(), 48, |seed| {
        server.command("FLUSHALL");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut allocators = Allocators { server: Shared::new(&server), books: None };
        // What each has of its grants, told and gave back.
        let mut all: Vec<(ReplicaId, i64, Report)> =
            (0..3).map(|number| (replica(&format!("r{number}.1")), 0, report())).collect();
        let (mark, take) = (random.usize(..60), random.usize(..20));
        for step in 0..120 {
            if step == mark {
                leave(&allocators.server);
            }
            if step == mark + take {
                let read = books(&allocators.server).remove(ID).unwrap_or_default();
                let text = serde_json::to_string(&read).unwrap();
                allocators.books = Some(serde_json::from_str(&text).unwrap());
            }
            let at = random.usize(..all.len());
            let (replica, granted, report) = &mut all[at];
            let left = *granted - report.returned - report.used;
            match random.u8(..8) {
                0..=2 => report.used += random.i64(0..=left),
                3 => report.returned += random.i64(0..=left),
                _ => {}
            }
            report.wanted = report.used + report.returned + random.i64(0..200);
            let late = random.u8(..4) == 0;
            match random.u8(..6) {
                // Nobody hears of it, or only the allocator does.
                0 => {}
                1 => _ = allocators.granted(replica, report, late),
                _ => *granted = (*granted).max(allocators.granted(replica, report, late)),
            }
            let may_spend: i64 = all.iter().map(|(_, granted, report)| granted - report.returned).sum();
            assert!(may_spend <= LIMIT, "{may_spend} of {LIMIT} at step {step}");
        }
    });
}
