//! The task between a spender and a server that answers late, or not at all.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tollgate_allocator::{Answer, Batch, Mode, Period, ReplicaId, Report, Terms, Unit};
use tollgate_harness::{PATIENCE, RedisServer};
use tollgate_redis::{Address, Client, CounterValues, Counters, Spender};

/// A spender with one account, that wants all there is.
#[derive(Clone, Default)]
struct Wishes(Arc<State>);

#[derive(Default)]
struct State {
    answers: Mutex<Vec<Answer>>,
    unanswered: AtomicUsize,
    urgent: Notify,
}

fn terms() -> Terms {
    Terms { unit: Unit::NanoUsd, limit: 1000, mode: Mode::Hard, period: Period::Lifetime, reset_token: None }
}

impl Spender for Wishes {
    fn replica(&self) -> ReplicaId {
        ReplicaId("a.1".to_owned())
    }

    fn due(&self) -> Vec<Batch> {
        let report = Report {
            budget: "ns/Budget/b".to_owned(),
            unit: Unit::NanoUsd,
            reset_token: None,
            span: terms().period.span(0),
            returned: 0,
            used: 0,
            held: 0,
            refused: 0,
            wanted: 1000,
            last: false,
        };
        vec![Batch { replica: self.replica(), reports: vec![report] }]
    }

    fn answered(&self, _: &ReplicaId, answers: &[Answer]) {
        self.0.answers.lock().unwrap().extend_from_slice(answers);
    }

    fn unanswered(&self) {
        self.0.unanswered.fetch_add(1, Relaxed);
    }

    async fn urgent(&self) {
        self.0.urgent.notified().await;
    }

    fn recalled(&self, _: &[String]) {}

    fn tell_all(&self) {}

    fn terms(&self, _: &str) -> Option<Terms> {
        Some(terms())
    }
}

impl Wishes {
    fn granted(&self) -> i64 {
        self.0.answers.lock().unwrap().iter().map(|answer| answer.granted).max().unwrap_or(0)
    }
}

/// Runs a client beside a test. It ends with the test.
fn start(server: &RedisServer) -> (Wishes, Arc<Counters>, watch::Sender<Option<Address>>) {
    let address = watch::Sender::new(Some(Address::parse(&server.url()).unwrap()));
    let (wishes, counters) = (Wishes::default(), Arc::new(Counters::default()));
    let client = Client::new(address.subscribe(), "ns/gw", wishes.clone(), counters.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::spawn(move || runtime.block_on(client.run()));
    (wishes, counters, address)
}

fn wait_until(counters: &Counters, what: &str, holds: impl Fn(CounterValues) -> bool) {
    let begun = Instant::now();
    while !holds(counters.values()) {
        assert!(begun.elapsed() < PATIENCE, "{what}: {:?}", counters.values());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn answers_that_come_late_do_not_prolong_a_doubt() {
    let Some(server) = RedisServer::start([]) else { return };
    let begun = Instant::now();
    let (wishes, counters, _address) = start(&server);
    wait_until(&counters, "the first answer", |values| values.asked > 0);
    for _ in 0..5 {
        let failed = counters.values().failed;
        server.pause();
        wait_until(&counters, "an answer is late", |values| values.failed > failed);
        server.resume();
        let asked = counters.values().asked;
        wait_until(&counters, "an answer", |values| values.asked > asked);
    }
    wait_until(&counters, "the server is believed", |values| !values.doubt);
    assert!(begun.elapsed() < Duration::from_secs(20), "one that lives has told: {:?}", begun.elapsed());
    wait_until(&counters, "all is granted", |_| wishes.granted() == 1000);
    assert!(counters.values().denied > 0, "not before");
}

#[test]
fn a_server_that_does_not_answer_is_told_to_who_waits_soon() {
    let Some(server) = RedisServer::start([]) else { return };
    let (wishes, counters, address) = start(&server);
    wait_until(&counters, "the server is believed", |values| values.up && !values.doubt);
    server.pause();
    let (begun, before) = (Instant::now(), wishes.0.unanswered.load(Relaxed));
    wait_until(&counters, "it is away", |values| !values.up);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(wishes.0.unanswered.load(Relaxed) > before);
    server.resume();
    wait_until(&counters, "it is back", |values| values.up);
    assert_eq!(counters.values().lost_tails, 0, "it has lost nothing");
    // A new address, as when a password changes, is the same server.
    address.send_replace(Some(Address::parse(&format!("{}/0", server.url())).unwrap()));
    let asked = counters.values().asked;
    wait_until(&counters, "it answers there", |values| values.asked > asked + 2);
    assert_eq!((counters.values().lost_tails, wishes.granted()), (0, 1000));
}
