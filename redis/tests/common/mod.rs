//! The allocators under contract, behind one trait.
#![allow(dead_code, reason = "each test file uses its part")]

use std::time::Duration;

use tokio::runtime::Runtime;
use tollgate_allocator::{Answer, Asker, Batch, Budget, CalendarUnit, Period, ReplicaId, Report, Terms};
use tollgate_harness::{PATIENCE, RedisServer};
use tollgate_redis::{Address, Decided, Exchanged, GatewayKeys, Header, Memory, SHARDS, Store};

pub const HOUR: i64 = 3_600;

/// Of every test.
pub const GATEWAY: &str = "ns/gw";

pub fn day() -> Period {
    Period::Calendar { unit: CalendarUnit::Day, time_zone: "UTC".to_owned() }
}

pub fn rolling() -> Period {
    Period::Rolling { seconds: 24 * HOUR }
}

pub fn replica(name: &str) -> ReplicaId {
    ReplicaId(name.to_owned())
}

/// Of a replica that used and wants nothing, in the period of a moment.
pub fn nothing_of(budget: &str, terms: &Terms, at: i64) -> Report {
    Report {
        budget: budget.to_owned(),
        unit: terms.unit,
        reset_token: None,
        span: terms.period.span(at),
        returned: 0,
        used: 0,
        held: 0,
        wanted: 0,
        refused: 0,
        last: false,
    }
}

/// An allocator that is told reports.
pub trait Contract {
    /// Its clock, unix seconds.
    fn now(&mut self) -> i64;
    /// The answer, and by how much a closed account was charged too much.
    fn sync(&mut self, terms: &Terms, replica: &ReplicaId, report: &Report) -> (Answer, i64);
    /// The replica has not spoken for so long that it is gone.
    fn silence(&mut self, replica: &ReplicaId);
}

/// With what the server decided.
pub struct Asked {
    pub now_ms: i64,
    pub replicas: usize,
    pub gone: Vec<ReplicaId>,
}

/// The books that the operator keeps for one budget, as text between any two words: a process may die there.
#[derive(Default)]
pub struct Books {
    pub budget: Budget,
    replicas: std::collections::BTreeSet<ReplicaId>,
    silent: Vec<ReplicaId>,
}

impl Books {
    pub fn sync_at(&mut self, terms: &Terms, replica: &ReplicaId, report: &Report, asked: &Asked) -> (Answer, i64) {
        self.budget.forget(asked.now_ms.div_euclid(1000));
        for gone in &asked.gone {
            self.budget.close(gone);
        }
        let asker = Asker { replica, replicas: asked.replicas, now_ms: asked.now_ms };
        let synced = self.budget.sync(terms, asker, report);
        (synced.answer, synced.adjusted)
    }
}

impl Contract for Books {
    fn now(&mut self) -> i64 {
        now_ms() / 1000
    }

    fn sync(&mut self, terms: &Terms, replica: &ReplicaId, report: &Report) -> (Answer, i64) {
        self.replicas.insert(replica.clone());
        let gone = std::mem::take(&mut self.silent);
        let asked = Asked { now_ms: now_ms(), replicas: self.replicas.len(), gone };
        let synced = self.sync_at(terms, replica, report, &asked);
        let text = serde_json::to_string(&self.budget).unwrap();
        let tight_until_ms = self.budget.tight_until_ms;
        self.budget = Budget { tight_until_ms, ..serde_json::from_str(&text).unwrap() };
        synced
    }

    fn silence(&mut self, replica: &ReplicaId) {
        self.silent.push(replica.clone());
    }
}

fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64
}

/// A real server, known for long, that has lost nothing.
pub struct Shared {
    pub runtime: Runtime,
    pub store: Store,
    pub memory: Memory,
    pub told: [i64; SHARDS],
    pub raw: redis::Connection,
}

impl Shared {
    pub fn new(server: &RedisServer) -> Shared {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let address = Address::parse(&server.url()).unwrap();
        let store = runtime.block_on(Store::open(&address, GatewayKeys::new(GATEWAY))).unwrap();
        let raw = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        let mut shared = Shared { runtime, store, memory: Memory::default(), told: [0; SHARDS], raw };
        shared.trust();
        shared
    }

    /// As if the server had been there for long.
    pub fn trust(&mut self) {
        let info: String = redis::cmd("INFO").arg("replication").query(&mut self.raw).unwrap();
        let id = info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap().trim().to_owned();
        for shard in 0..SHARDS {
            let life = format!("tollgate:{{{GATEWAY}#{shard}}}:life");
            self.command(&["HSET", &life, "inc", &id, "epoch", "1", "begun", "0", "doubt", "0"]);
        }
    }

    pub fn command(&mut self, words: &[&str]) {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query::<redis::Value>(&mut self.raw).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    }

    /// One report of a replica with no memory.
    pub fn sync_at(&mut self, terms: &Terms, replica: &ReplicaId, report: &Report) -> (Answer, i64, Asked) {
        let mut memory = Memory::default();
        let (header, Decided { answer, adjusted, gone, .. }) =
            exchange(&self.runtime, &self.store, &mut memory, &self.told, terms, replica, report);
        assert!(!header.doubt);
        let gone = gone.into_iter().map(ReplicaId).collect();
        (answer, adjusted, Asked { now_ms: header.now_ms, replicas: header.replicas, gone })
    }

    /// One report of a replica that remembers.
    pub fn tell(&mut self, terms: &Terms, replica: &ReplicaId, report: &Report) -> (Header, Decided) {
        exchange(&self.runtime, &self.store, &mut self.memory, &self.told, terms, replica, report)
    }
}

pub fn exchange(
    runtime: &Runtime,
    store: &Store,
    memory: &mut Memory,
    told: &[i64; SHARDS],
    terms: &Terms,
    replica: &ReplicaId,
    report: &Report,
) -> (Header, Decided) {
    let exchanged = exchange_within(PATIENCE, runtime, store, memory, told, terms, replica, report);
    assert!(exchanged.failed.is_none(), "{:?}", exchanged.failed);
    let (_, header) = exchanged.headers.into_iter().next().unwrap();
    let (_, decided) = exchanged.decided.into_iter().next().unwrap();
    (header, decided)
}

#[expect(clippy::too_many_arguments, reason = "all that there is")]
pub fn exchange_within(
    deadline: Duration,
    runtime: &Runtime,
    store: &Store,
    memory: &mut Memory,
    told: &[i64; SHARDS],
    terms: &Terms,
    replica: &ReplicaId,
    report: &Report,
) -> Exchanged {
    let batch = Batch { replica: replica.clone(), reports: vec![report.clone()] };
    let terms_of = |_: &str| Some(terms.clone());
    runtime.block_on(store.exchange(&[batch], memory, told, None, &terms_of, deadline))
}

impl Contract for Shared {
    fn now(&mut self) -> i64 {
        let (seconds, _): (i64, i64) = redis::cmd("TIME").query(&mut self.raw).unwrap();
        seconds
    }

    fn sync(&mut self, terms: &Terms, replica: &ReplicaId, report: &Report) -> (Answer, i64) {
        let (answer, adjusted, _) = self.sync_at(terms, replica, report);
        (answer, adjusted)
    }

    fn silence(&mut self, replica: &ReplicaId) {
        for shard in 0..SHARDS {
            self.command(&["HSET", &format!("tollgate:{{{GATEWAY}#{shard}}}:members"), &replica.0, "0 0"]);
        }
    }
}
