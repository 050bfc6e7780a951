//! One hard budget, two gateways and a real Redis between them: never above the limit, no refusal while there is money,
//! and books that equal the invoice; whatever is killed, cut off or full meanwhile.

use std::sync::atomic::Ordering::Relaxed;

use tollgate_harness::{Call, KEY, RedisServer, Reply, SmallDisk, Wire, patiently};
use tollgate_money_tests::books::total;
use tollgate_money_tests::pair::{COST, Found, Pair};
use tollgate_money_tests::setup::{chat, streamed};

const AGENTS: usize = 50;

/// Enough for a fault in the middle.
const LIMIT: &str = "2";

async fn pair(server: &RedisServer) -> Pair {
    Pair::start([&server.url(), &server.url()], LIMIT).await
}

fn url(wire: &Wire) -> String {
    format!("redis://{}", wire.address())
}

fn spend_at_both(pair: &mut Pair) {
    pair.spend_at_first(AGENTS / 2);
    pair.spend_at_second(AGENTS / 2, true);
}

/// Two gateways at a server, with calls on their way at both.
async fn busy_pair(server: &RedisServer) -> Pair {
    let mut pair = pair(server).await;
    spend_at_both(&mut pair);
    pair.wait_for_bills(20).await;
    pair
}

/// Nothing was lost, and nothing is out of reach.
async fn judge_all_spent(pair: Pair, fault: &str) {
    let limit = pair.limit;
    let found = pair.judge(Some(fault)).await;
    assert_all_spent(&found, limit);
}

/// All of it can be spent: what is left would not have done for a call.
fn assert_all_spent(found: &Found, limit: i64) {
    let spent = total(&found.rows);
    assert!(spent + found.hold > limit, "{spent} of {limit} were spent and nobody got the rest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_agents_at_two_gateways_use_one_budget_up_and_no_more() {
    let Some(server) = RedisServer::start([]) else { return };
    let mut pair = Pair::start([&server.url(), &server.url()], "0.3").await;
    let (ends, limit) = (pair.ends.clone(), pair.limit);
    spend_at_both(&mut pair);
    let found = pair.judge(None).await;
    assert_eq!(ends.exhausted.lock().unwrap().len(), AGENTS);
    assert_eq!(ends.unavailable.load(Relaxed), 0, "{ends:?}");
    assert_eq!(total(&found.rows), found.billed, "the ledgers are the invoice to the nano-dollar");
    assert!(found.rows.iter().all(|row| matches!(row.outcome.as_str(), "exact" | "released")), "{:#?}", found.rows);
    assert_all_spent(&found, limit);
    assert_eq!(found.billed, ends.answered.load(Relaxed) as i64 * COST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_gets_what_another_gateway_has_and_does_not_use() {
    const WORDS: usize = 2_000;
    let Some(server) = RedisServer::start([]) else { return };
    let pair = Pair::start_waiting([&server.url(), &server.url()], "0.2", "3s").await;
    // Its grant is far more than a call.
    let call = |address| Call::new(address, "POST", "/v1/chat/completions").key(KEY);
    call(pair.other.address()).json(&chat("m", "Hello", 100)).send().await.expect(200);
    pair.stage.mock.script("up-v", [Reply { chunks: Some(WORDS), chunk_delay_ms: 2, ..Reply::default() }]);
    let body = streamed(chat("v", "Tell me a long story.", 60_000));
    let mut stream = call(pair.stage.gateway.address()).json(&body).stream().await;
    stream.rest().await;
    assert_eq!(stream.text().matches("word").count(), WORDS, "{}", &stream.text()[stream.text().len() - 600..]);
    let limit = pair.limit;
    let found = pair.judge(None).await;
    assert!(found.billed <= total(&found.rows) && total(&found.rows) <= limit);
    assert!(found.rows.iter().all(|row| row.outcome == "exact"), "{:#?}", found.rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_killed_beside_another() {
    let Some(server) = RedisServer::start([]) else { return };
    let mut pair = pair(&server).await;
    pair.spend_at_first(AGENTS / 2);
    pair.spend_at_second(AGENTS / 2, false);
    pair.wait_for_bills(20).await;
    pair.other.kill().await;
    pair.other.restart().await;
    pair.spend_at_second(AGENTS / 2, true);
    // The new process proves what the one before used.
    judge_all_spent(pair, "redis-gateway-killed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_and_forgets_everything() {
    let Some(mut server) = RedisServer::start([]) else { return };
    let pair = busy_pair(&server).await;
    server.kill();
    pair.wait_for_unavailable().await;
    server.restart();
    judge_lost_tail(pair, "redis-killed-empty").await;
}

/// The loss was noticed. What was given back in that moment, and nobody was told, may count twice: a part of a grant.
async fn judge_lost_tail(mut pair: Pair, fault: &str) {
    let limit = pair.limit;
    pair.wait_for_lost_tail().await;
    pair.spend_at_first(1);
    let found = pair.judge(Some(fault)).await;
    let left = limit - total(&found.rows);
    assert!(left <= limit / 4, "{left} of {limit} is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_and_remembers() {
    let Some(mut server) = RedisServer::start(["--appendonly", "yes"]) else { return };
    let pair = busy_pair(&server).await;
    server.kill();
    pair.wait_for_unavailable().await;
    server.restart();
    judge_lost_tail(pair, "redis-killed-disk").await;
}

/// How often a server has decided about the one budget it has.
fn sequence(server: &RedisServer) -> String {
    let keys = server.command("KEYS tollgate:*:budget:*");
    let key = keys.lines().find(|line| line.starts_with("tollgate:")).unwrap_or_else(|| panic!("no budget: {keys}"));
    server.command(&format!("HGET {key} q"))
}

async fn wait_for_a_decision(server: &RedisServer) {
    let before = sequence(server);
    let decided = async {
        while sequence(server) == before {
            tokio::task::yield_now().await;
        }
    };
    patiently("a decision", decided).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_before_its_answer_arrives() {
    let Some(mut server) = RedisServer::start([]) else { return };
    let wires = [Wire::to(server.address()), Wire::to(server.address())];
    let mut pair = Pair::start([&url(&wires[0]), &url(&wires[1])], LIMIT).await;
    spend_at_both(&mut pair);
    pair.wait_for_bills(20).await;
    wires.iter().for_each(Wire::hold_answers);
    wait_for_a_decision(&server).await;
    wires.iter().for_each(Wire::wait_for_held_answer);
    server.kill();
    wires.iter().for_each(Wire::sever);
    pair.wait_for_unavailable().await;
    server.restart();
    judge_lost_tail(pair, "redis-killed-before-answer").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_fails_over_to_a_replica_that_lacks_the_tail() {
    let Some(mut first) = RedisServer::start([]) else { return };
    let stream = Wire::to(first.address());
    let port = stream.address().port().to_string();
    let Some(second) = RedisServer::start(["--replicaof", "127.0.0.1", &port]) else { return };
    second.wait_for("INFO replication", "master_link_status:up");
    let both = format!("{},{}", first.url(), second.address());
    let mut pair = Pair::start([&both, &both], LIMIT).await;
    spend_at_both(&mut pair);
    pair.wait_for_bills(10).await;
    // What is decided from now on only the first knows, and dies with it.
    stream.hold_answers();
    wait_for_a_decision(&first).await;
    first.kill();
    stream.sever();
    second.command("REPLICAOF NO ONE");
    judge_lost_tail(pair, "redis-failover").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_cut_off_from_redis() {
    let Some(server) = RedisServer::start([]) else { return };
    let wire = Wire::to(server.address());
    let mut pair = Pair::start([&server.url(), &url(&wire)], LIMIT).await;
    spend_at_both(&mut pair);
    pair.wait_for_bills(20).await;
    wire.cut();
    // It spends what it was granted; then it may not go on.
    pair.wait_for_unavailable().await;
    wire.mend();
    judge_all_spent(pair, "redis-partition").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_silent_for_a_while() {
    let Some(server) = RedisServer::start([]) else { return };
    let pair = busy_pair(&server).await;
    server.pause();
    pair.wait_for_unavailable().await;
    server.resume();
    judge_all_spent(pair, "redis-silent").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_has_no_space_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::mount(folder.path(), "4m") else {
        eprintln!("SKIPPED: redis_has_no_space_left: no small tmpfs can be mounted here (needs root)");
        return;
    };
    let place = folder.path().to_str().expect("a path of ASCII").to_owned();
    let Some(server) = RedisServer::start(["--appendonly", "yes", "--dir", &place]) else { return };
    let pair = busy_pair(&server).await;
    let filler = disk.fill();
    pair.wait_for_unavailable().await;
    drop(filler);
    disk.empty();
    judge_all_spent(pair, "redis-disk-full").await;
    drop(server);
}
