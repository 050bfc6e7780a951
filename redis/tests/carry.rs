//! Books of another allocator that are brought into a real server: what was spent there counts, who was granted something
//! there may still give it back, and bringing them twice changes nothing.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use common::{GATEWAY, HOUR, Shared, day, exchange, nothing_of, replica, rolling};
use tollgate_allocator::{Asker, Budget, Mode, Period, Report, Terms, Unit};
use tollgate_harness::{PATIENCE, RedisServer};
use tollgate_redis::{Address, GatewayKeys, Memory, SHARDS, Store};

const ID: &str = "ns/Budget/b";

fn terms(period: Period) -> Terms {
    Terms { unit: Unit::NanoUsd, limit: 1_000, mode: Mode::Hard, period, reset_token: None }
}

fn report(terms: &Terms, at: i64) -> Report {
    nothing_of(ID, terms, at)
}

/// Somebody is granted something by the books.
fn want(budget: &mut Budget, terms: &Terms, name: &str, report: Report, now: i64) -> i64 {
    let asker = Asker { replica: &replica(name), replicas: 1, now_ms: now * 1_000 };
    budget.sync(terms, asker, &report).answer.granted
}

fn carry(shared: &Shared, books: &BTreeMap<String, Budget>, terms: &Terms) -> BTreeSet<String> {
    let of = |id: &str| (id == ID).then(|| terms.clone());
    shared.runtime.block_on(shared.store.carry(books, &of, PATIENCE)).unwrap()
}

fn charged(shared: &mut Shared, terms: &Terms) -> i64 {
    use common::Contract;
    let now = shared.now();
    let read = shared.runtime.block_on(shared.store.books([ID])).unwrap();
    read.get(ID).map_or(0, |budget| budget.totals(terms, now).charged)
}

#[test]
fn what_was_spent_counts_and_what_was_granted_may_come_back() {
    use common::Contract;
    let Some(server) = RedisServer::start([]) else { return };
    let mut shared = Shared::new(&server);
    let terms = terms(day());
    let now = shared.now();
    let mut budget = Budget::default();
    // One that lives, one that is gone, and many that were added up.
    assert_eq!(want(&mut budget, &terms, "lives.1", Report { wanted: 300, ..report(&terms, now) }, now), 500);
    want(&mut budget, &terms, "lives.1", Report { used: 120, returned: 100, ..report(&terms, now) }, now);
    assert_eq!(want(&mut budget, &terms, "gone.1", Report { wanted: 50, ..report(&terms, now) }, now), 300);
    budget.close(&replica("gone.1"));
    for number in 0..70 {
        let last = Report { used: 1, last: true, ..report(&terms, now) };
        want(&mut budget, &terms, &format!("old.{number:02}"), last, now);
    }
    assert!(budget.books[0].closed > 0);
    let expected = budget.totals(&terms, now);
    assert_eq!((expected.charged, expected.used), (400 + 300 + 70, 120 + 300 + 70));
    let other = ("ns/Budget/unknown".to_owned(), budget.clone());
    let books = BTreeMap::from([(ID.to_owned(), budget), other]);
    for _ in 0..2 {
        assert_eq!(carry(&shared, &books, &terms), BTreeSet::from([ID.to_owned()]), "the other has no terms");
        assert_eq!(charged(&mut shared, &terms), expected.charged);
    }
    // Others get what is left, not more.
    let (answer, _) = shared.sync(&terms, &replica("new.1"), &Report { wanted: 400, ..report(&terms, now) });
    assert_eq!((answer.granted, answer.charged_elsewhere), (230, 770));
    // The next process of a data folder tells what the one before it used.
    let last = Report { used: 150, last: true, ..report(&terms, now) };
    shared.sync(&terms, &replica("lives.1"), &last);
    let (answer, _) = shared.sync(&terms, &replica("new.1"), &Report { wanted: 700, ..report(&terms, now) });
    assert_eq!((answer.granted, answer.charged_elsewhere), (480, 520));
    // Brought once more, because nobody knows that it was: what came back stays.
    carry(&shared, &books, &terms);
    assert_eq!(charged(&mut shared, &terms), 1_000);
}

#[test]
fn a_last_word_that_comes_first_is_not_forgotten() {
    use common::Contract;
    let Some(server) = RedisServer::start([]) else { return };
    let mut shared = Shared::new(&server);
    let terms = terms(Period::Lifetime);
    let now = shared.now();
    let mut budget = Budget::default();
    assert_eq!(want(&mut budget, &terms, "a.1", Report { wanted: 10, ..report(&terms, now) }, now), 500);
    shared.sync(&terms, &replica("a.1"), &Report { used: 40, last: true, ..report(&terms, now) });
    carry(&shared, &BTreeMap::from([(ID.to_owned(), budget)]), &terms);
    assert_eq!(charged(&mut shared, &terms), 40);
}

#[test]
fn buckets_of_a_window_are_brought_one_by_one() {
    use common::Contract;
    let Some(server) = RedisServer::start([]) else { return };
    let mut shared = Shared::new(&server);
    let terms = terms(rolling());
    let now = shared.now();
    let mut budget = Budget::default();
    for (hours, used) in [(30, 1), (20, 10), (5, 100)] {
        let then = now - hours * HOUR;
        want(&mut budget, &terms, "a.1", Report { used, ..report(&terms, then) }, then);
    }
    carry(&shared, &BTreeMap::from([(ID.to_owned(), budget.clone())]), &terms);
    assert_eq!(charged(&mut shared, &terms), 110);
    assert_eq!(budget.totals(&terms, now).charged, 110);
}

/// What was brought into a server that nobody knows is there before anybody gets anything, and does not keep it in doubt.
#[test]
fn a_new_server_gives_nothing_before_it_has_the_books() {
    let Some(server) = RedisServer::start([]) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = Address::parse(&server.url()).unwrap();
    let store = runtime.block_on(Store::open(&address, GatewayKeys::new(GATEWAY))).unwrap();
    let terms = terms(Period::Lifetime);
    let mut budget = Budget::default();
    want(&mut budget, &terms, "a.1", Report { wanted: 900, ..report(&terms, 0) }, 0);
    let begun = Instant::now();
    let of = |_: &str| Some(terms.clone());
    runtime.block_on(store.carry(&BTreeMap::from([(ID.to_owned(), budget)]), &of, PATIENCE)).unwrap();
    let (mut memory, mut told) = (Memory::default(), [0; SHARDS]);
    let wants = Report { wanted: 500, ..report(&terms, 0) };
    let granted = loop {
        let (header, decided) = exchange(&runtime, &store, &mut memory, &told, &terms, &replica("b.1"), &wants);
        if !header.doubt {
            break decided.answer.granted;
        }
        assert_eq!(decided.answer.granted, 0);
        told = [header.epoch; SHARDS];
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert_eq!(granted, 100);
    assert!(begun.elapsed().as_secs() < 20, "who brought the books is not waited for");
}
