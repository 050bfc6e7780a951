//! The counter of rate limits in a real server: it decides as the one in memory does, number by number, whatever is asked;
//! in cluster mode too; and says so when it has lost what was there.

mod common;

use std::collections::HashMap;

use common::GATEWAY;
use proptest::prelude::*;
use tollgate_allocator::leases::{Answer, Ask, Counter, PLACES_MS, WINDOW_MS};
use tollgate_harness::{PATIENCE, RedisServer};
use tollgate_redis::{Address, GatewayKeys, LeaseStore, SHARDS, shard_of};

fn ask(limit: &str, account: &str, seq: i64) -> Ask {
    Ask { limit: limit.into(), account: account.into(), most: 100, seq, wanted: 1, least: 1, ..Ask::default() }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A server, and a connection to set what is in it.
struct Shared {
    runtime: tokio::runtime::Runtime,
    store: LeaseStore,
    raw: redis::Connection,
}

impl Shared {
    fn new(server: &RedisServer) -> Shared {
        let runtime = runtime();
        let address = Address::parse(&server.url()).unwrap();
        let open = LeaseStore::open(&address, GatewayKeys::new(GATEWAY), "r".to_owned());
        let store = runtime.block_on(open).unwrap();
        let raw = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        Shared { runtime, store, raw }
    }

    /// As if the server had been there for long.
    fn trust(&mut self) {
        for shard in 0..SHARDS {
            let life = format!("tollgate:{{{GATEWAY}#{shard}}}:rates:life");
            redis::cmd("SET").arg(life).arg(1).query::<()>(&mut self.raw).unwrap();
        }
    }

    /// The answer, and the server's clock.
    fn ask(&self, ask: &Ask) -> (Answer, i64) {
        let leased = self.runtime.block_on(self.store.exchange(std::slice::from_ref(ask), 0, PATIENCE));
        assert!(leased.failed.is_none(), "{:?}", leased.failed);
        (leased.answers[0].expect("it is answered"), leased.headers[0].1.now_ms)
    }

    /// So much time passes for one limit: what is noted of it is older. All at once, so that it ends before or after, as a
    /// whole.
    fn age(&mut self, limit: &str, ms: i64) {
        const AGE: &str = r"
            local all = redis.call('HGETALL', KEYS[1])
            for at = 1, #all, 2 do
              local field, value, is_place = all[at], all[at + 1], ARGV[2] == '1'
              local rest, since = string.match(value, '^(.-)(%d+)$')
              if not (field == 's' and is_place) then
                redis.call('HSET', KEYS[1], field, rest .. string.format('%.0f', since - ARGV[1]))
              end
            end";
        let key = format!("tollgate:{{{GATEWAY}#{}}}:rate:{limit}", shard_of(limit));
        let is_place = u8::from(limit.ends_with("places"));
        redis::cmd("EVAL").arg(AGE).arg(1).arg(key).arg(ms).arg(is_place).query::<()>(&mut self.raw).unwrap();
    }
}

/// One ask of a history. What an account says of itself may be anything: the counters must agree all the same.
#[derive(Clone, Debug)]
struct Said {
    limit: usize,
    account: usize,
    seq_back: bool,
    window: u8,
    is_open: bool,
    numbers: [i64; 5],
    wanted: i64,
    least: i64,
    wait_ms: i64,
}

fn said() -> impl Strategy<Value = Said> {
    let numbers = [0..60i64, 0..20i64, 0..80i64, 0..70i64, 0..90_000i64];
    let wait = prop_oneof![4 => Just(0i64), 2 => 0..1_000i64, 1 => 0..20_000i64, 1 => 0..90_000i64];
    let who = (0..4usize, 0..3usize, prop::bool::weighted(0.1), 0..3u8, any::<bool>());
    (who, numbers, 0..60i64, 0..60i64, wait).prop_map(
        |((limit, account, seq_back, window, is_open), numbers, wanted, least, wait_ms)| Said {
            limit,
            account,
            seq_back,
            window,
            is_open,
            numbers,
            wanted,
            least: least.min(wanted),
            wait_ms,
        },
    )
}

const LIMITS: [&str; 4] = ["key a/b requests", "key {a}/b tokens", "team ü requests", "key a/b places"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_script_decides_as_the_counter_in_memory(history in proptest::collection::vec(said(), 1..60)) {
        let Some(server) = RedisServer::start([]) else { return Ok(()) };
        let mut shared = Shared::new(&server);
        shared.trust();
        let mut counters: HashMap<usize, Counter> = HashMap::new();
        let mut aged: HashMap<usize, i64> = HashMap::new();
        let mut windows: HashMap<usize, i64> = HashMap::new();
        for (at, said) in history.into_iter().enumerate() {
            let Said { limit, account, seq_back, window, is_open, numbers, wanted, least, wait_ms } = said;
            let [held, beside, used, burn, age_ms] = numbers;
            shared.age(LIMITS[limit], wait_ms);
            *aged.entry(limit).or_default() += wait_ms;
            let is_places = limit == 3;
            // What was noted is older there; here the clock goes on.
            let ahead = aged[&limit];
            let known = windows.get(&limit).copied().unwrap_or(0);
            let told = |ahead: i64| match window {
                0 => 0,
                1 if known == 0 || is_places => known,
                1 => known - ahead,
                _ => 77,
            };
            let seq = if seq_back { 0 } else { at as i64 + 1 };
            let of_server = Ask {
                at_once: is_places, window: told(ahead), is_open, age_ms, held, beside, used, wanted, least, burn,
                ..ask(LIMITS[limit], &account.to_string(), seq)
            };
            let (mut answer, now_ms) = shared.ask(&of_server);
            if !is_places {
                answer.window += ahead;
            }
            let in_memory = Ask { window: told(0), ..of_server };
            let expected = counters.entry(limit).or_default().ask(&in_memory, now_ms + ahead);
            prop_assert_eq!(answer, expected, "{:?}", in_memory);
            windows.insert(limit, answer.window);
        }
    }
}

#[test]
fn a_server_that_is_new_gives_nothing_at_first_and_everything_it_keeps_ends_by_itself() {
    let Some(server) = RedisServer::start([]) else { return };
    let mut shared = Shared::new(&server);
    let exchange = |shared: &Shared| {
        let asks = [ask("key a/b requests", "a", 1), Ask { at_once: true, ..ask("key a/b places", "a", 1) }];
        shared.runtime.block_on(shared.store.exchange(&asks, u16::MAX, PATIENCE))
    };
    let leased = exchange(&shared);
    assert!(leased.headers.iter().all(|(_, header)| header.is_young));
    assert_eq!(leased.headers.len(), SHARDS);
    assert_eq!(leased.headers.iter().find_map(|(_, header)| header.members), Some(1));
    assert!(leased.answers.iter().flatten().all(|answer| answer.held == 0 && answer.room == 100));
    shared.trust();
    let (given, _) = shared.ask(&ask("key a/b requests", "a", 2));
    assert_eq!((given.held, given.room), (50, 50));
    let keys: Vec<String> = redis::cmd("KEYS").arg("*:rate*").query(&mut shared.raw).unwrap();
    assert!(keys.len() > SHARDS, "{keys:?}");
    for key in keys.iter().filter(|key| !key.ends_with(":life")) {
        let left: i64 = redis::cmd("PTTL").arg(key).query(&mut shared.raw).unwrap();
        let most = if key.contains(":rate:") { WINDOW_MS.max(PLACES_MS) } else { 3_600_000 };
        assert!(left > 0 && left <= most, "{key}: {left} ms");
    }
}

#[test]
fn who_waits_is_seen_by_all_who_look_at_the_shard() {
    let Some(server) = RedisServer::start([]) else { return };
    let mut shared = Shared::new(&server);
    shared.trust();
    let limit = "key a/b requests";
    shared.ask(&ask(limit, "a", 1));
    let (answer, _) = shared.ask(&Ask { wanted: 60, least: 60, ..ask(limit, "b", 1) });
    assert!(answer.recalls && answer.held == 0 && answer.idle == 50);
    let looked = shared.runtime.block_on(shared.store.exchange(&[], 1 << shard_of(limit), PATIENCE));
    assert_eq!(looked.headers[0].1.tight, [limit]);
}

fn share_in_cluster(nodes: &[RedisServer]) {
    let (first, runtime) = (&nodes[0], runtime());
    let address = Address::parse(&first.url()).unwrap();
    let open = |name: &str| LeaseStore::open(&address, GatewayKeys::new(GATEWAY), name.to_owned());
    let (one, other) = (runtime.block_on(open("one")).unwrap(), runtime.block_on(open("other")).unwrap());
    assert!(one.is_cluster());
    let limits: Vec<String> = (0..200).map(|number| format!("key a/{number} requests")).collect();
    let asks = |account: &str| -> Vec<Ask> { limits.iter().map(|limit| ask(limit, account, 1)).collect() };
    // Until it is not young any more.
    let began = std::time::Instant::now();
    loop {
        let looked = runtime.block_on(one.exchange(&[], u16::MAX, PATIENCE));
        assert!(looked.failed.is_none(), "{:?}", looked.failed);
        if looked.headers.iter().all(|(_, header)| !header.is_young) {
            break;
        }
        assert!(began.elapsed() < PATIENCE);
    }
    let given = |store: &LeaseStore, account: &str| -> Vec<i64> {
        let leased = runtime.block_on(store.exchange(&asks(account), 0, PATIENCE));
        assert!(leased.failed.is_none(), "{:?}", leased.failed);
        leased.answers.into_iter().map(|answer| answer.expect("all are answered").held).collect()
    };
    assert_eq!(given(&one, "one"), vec![50; 200]);
    assert_eq!(given(&other, "other"), vec![12; 200]);
    for node in nodes {
        assert!(!node.command("KEYS *rate:*").contains("*0\r\n"), "all have limits");
    }
}

#[test]
fn one_node_of_a_cluster_counts_all_limits() {
    let Some(node) = RedisServer::start(["--cluster-enabled", "yes"]) else { return };
    node.command("CLUSTER ADDSLOTSRANGE 0 16383");
    node.wait_for("CLUSTER INFO", "cluster_state:ok");
    share_in_cluster(&[node]);
}

#[test]
fn nodes_of_a_cluster_share_the_limits() {
    let nodes: Vec<RedisServer> = (0..2).filter_map(|_| RedisServer::start(["--cluster-enabled", "yes"])).collect();
    let [first, second] = &nodes[..] else { return };
    first.command("CLUSTER ADDSLOTSRANGE 0 8000");
    second.command("CLUSTER ADDSLOTSRANGE 8001 16383");
    second.command("CLUSTER SET-CONFIG-EPOCH 2");
    first.command(&format!("CLUSTER MEET 127.0.0.1 {}", second.address().port()));
    first.wait_for("CLUSTER INFO", "cluster_state:ok");
    second.wait_for("CLUSTER INFO", "cluster_state:ok");
    share_in_cluster(&nodes);
}
