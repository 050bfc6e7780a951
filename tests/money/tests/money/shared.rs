//! One hard budget, two gateways and a real Redis between them: never above the limit, no refusal while there is money,
//! and books that equal the invoice; also when a gateway or Redis is killed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tollgate_harness::{
    Call, Gateway, KEY, Object, PATIENCE, RedisServer, SpendRow, Stage, Starter, Step, Tokens, documents, json,
    ledger_rows, objects, patiently,
};
use tollgate_money_tests::books::{Books, Mode, total};
use tollgate_money_tests::gauges::{budget, nano, sum, wait_for, wait_until_idle};
use tollgate_money_tests::setup::{caller, chat, hard};

const AGENTS: usize = 50;

/// A call's cost and its hold, nano-USD: 50 tokens in, 100 out; the body's bytes are a bound of the input.
const COST: i64 = 50 * 2_500 + 100 * 10_000;

/// A gateway that counts in a Redis, and waits so long for money in flight that a slow machine makes no refusal.
fn gateway() -> Object {
    objects::gateway()
        .set("spec.defaults.reservedWait", "20s")
        .set("spec.stores", json!({"redis": {"secretRef": {"name": "redis", "key": "api-key"}}}))
}

/// Two gateways with the same configuration and data folders of their own.
async fn two(server: &RedisServer, limit: &str) -> (Stage, Gateway) {
    let url = server.url();
    let stage = Stage::start(|mock| {
        vec![objects::deployment("m", mock), gateway(), objects::secret_of("redis", &url), caller(hard(limit))]
    })
    .await;
    let other = Starter::default().file("config.yaml", documents(&stage.objects)).start().await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(50, 100)).delay_ms(2).repeat(100_000)]);
    for gateway in [&stage.gateway, &other] {
        wait_for(gateway, "Redis is trusted", is_trusted).await;
    }
    (stage, other)
}

fn is_trusted(metrics: &str) -> bool {
    sum(metrics, "tollgate_allocator_up") == 1.0 && sum(metrics, "tollgate_allocator_doubt") == 0.0
}

/// How agents ended.
#[derive(Debug, Default)]
struct Ends {
    answered: AtomicUsize,
    exhausted: AtomicUsize,
    /// Refused because there was no allocator.
    unavailable: AtomicUsize,
    others: Mutex<Vec<String>>,
}

/// Calls until the budget is exhausted. A gateway that is gone ends it where `survives` is false.
async fn agent(address: SocketAddr, ends: Arc<Ends>, survives: bool) {
    let body = chat("m", "Hello", 100);
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < 2 * PATIENCE {
        match Call::new(address, "POST", "/v1/chat/completions").key(KEY).json(&body).try_send().await {
            Ok(reply) if reply.status == 200 => {
                ends.answered.fetch_add(1, Relaxed);
            }
            Ok(reply) if reply.header("x-tollgate-error") == Some("budget_exhausted") => {
                ends.exhausted.fetch_add(1, Relaxed);
                return;
            }
            Ok(reply) if reply.header("x-tollgate-error") == Some("budget_unavailable") => {
                ends.unavailable.fetch_add(1, Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(reply) => {
                ends.others.lock().expect("no holder panics").push(format!("{} {}", reply.status, reply.text()));
                return;
            }
            Err(error) if survives => {
                ends.others.lock().expect("no holder panics").push(error.to_string());
                return;
            }
            Err(_) => return,
        }
    }
    ends.others.lock().expect("no holder panics").push("it is neither served nor refused".to_owned());
}

fn agents(number: usize, address: SocketAddr, ends: &Arc<Ends>, survives: bool) -> Vec<tokio::task::JoinHandle<()>> {
    (0..number).map(|_| tokio::spawn(agent(address, ends.clone(), survives))).collect()
}

/// Waits until the provider has billed so much.
async fn billed(stage: &Stage, nano_usd: i64) {
    let wait = async {
        while (Books::default().invoice_total(&stage.mock)) < nano_usd {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    patiently("the bills", wait).await;
}

/// Stops both and gives all rows.
async fn rows_of(stage: &mut Stage, other: &mut Gateway) -> Vec<SpendRow> {
    let mut rows = Vec::new();
    for gateway in [&mut stage.gateway, other] {
        wait_until_idle(gateway).await;
        gateway.stop().await;
        rows.extend(ledger_rows(gateway.data()));
    }
    let faults = Books::default().faults(&rows, &stage.mock.invoice(), |_| Mode::Hard);
    assert!(faults.is_empty(), "{} faults in the books:\n{}", faults.len(), faults.join("\n"));
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_agents_at_two_gateways_use_one_budget_up_and_no_more() {
    let Some(server) = RedisServer::start([]) else { return };
    let (mut stage, mut other) = two(&server, "0.3").await;
    let limit = nano("0.3");
    let ends = Arc::new(Ends::default());
    let mut all = agents(AGENTS / 2, stage.gateway.address(), &ends, true);
    all.extend(agents(AGENTS / 2, other.address(), &ends, true));
    for agent in all {
        agent.await.expect("an agent ends well");
    }
    let others = ends.others.lock().expect("no holder panics").clone();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!((ends.exhausted.load(Relaxed), ends.unavailable.load(Relaxed)), (AGENTS, 0), "{ends:?}");
    let rows = rows_of(&mut stage, &mut other).await;
    let invoice = Books::default().invoice_total(&stage.mock);
    assert_eq!(total(&rows), invoice, "the ledgers are the invoice to the nano-dollar");
    assert!(rows.iter().all(|row| matches!(row.outcome.as_str(), "exact" | "released")), "{rows:#?}");
    assert!(invoice <= limit, "billed {invoice} above the limit of {limit}");
    let hold = rows.iter().map(|row| row.held_nano_usd).max().expect("rows");
    assert!(invoice + hold > limit, "refused with {invoice} of {limit} spent and a hold of {hold}");
    assert_eq!(invoice, ends.answered.load(Relaxed) as i64 * COST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_and_a_killed_redis_overspend_nothing() {
    let Some(mut server) = RedisServer::start([]) else { return };
    let (mut stage, mut other) = two(&server, "2").await;
    let limit = nano("2");
    let ends = Arc::new(Ends::default());
    let mut all = agents(AGENTS / 2, stage.gateway.address(), &ends, true);
    all.extend(agents(AGENTS / 2, other.address(), &ends, false));
    billed(&stage, limit / 5).await;
    other.kill().await;
    other.restart().await;
    all.extend(agents(AGENTS / 2, other.address(), &ends, true));
    billed(&stage, limit * 2 / 5).await;
    // Nothing of it is on a disk: all that it knew is gone.
    server.kill();
    server.restart();
    for agent in all {
        agent.await.expect("an agent ends well");
    }
    let others = ends.others.lock().expect("no holder panics").clone();
    assert!(others.is_empty(), "{others:?}");
    let found = sum(&stage.gateway.metrics().await, "tollgate_allocator_lost_tails_total")
        + sum(&other.metrics().await, "tollgate_allocator_lost_tails_total");
    assert!(found >= 1.0, "the loss was noticed");
    let gauge = budget(&stage.gateway, "/caller").await;
    let rows = rows_of(&mut stage, &mut other).await;
    let invoice = Books::default().invoice_total(&stage.mock);
    println!("limit {limit}, invoice {invoice}, ledger {}, {gauge:?}, {ends:?}", total(&rows));
    assert!(invoice <= limit && total(&rows) <= limit, "billed {invoice}, booked {} of {limit}", total(&rows));
    assert!(total(&rows) >= invoice);
    // What a gateway had given back, and nobody was told, may count twice: a part of a grant, never more.
    let left = limit - total(&rows);
    assert!(left <= limit / 4, "{left} of {limit} is left");
}
