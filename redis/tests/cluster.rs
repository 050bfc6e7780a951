//! A server in cluster mode: one node that has all slots, and two that share them.

mod common;

use std::sync::Arc;

use common::GATEWAY;
use tollgate_allocator::{Batch, Mode, Period, ReplicaId, Report, Terms, Unit};
use tollgate_harness::{PATIENCE, RedisServer};
use tollgate_redis::{Address, GatewayKeys, Memory, SHARDS, Store};

fn terms() -> Terms {
    Terms { unit: Unit::NanoUsd, limit: 1000, mode: Mode::Hard, period: Period::Lifetime, reset_token: None }
}

/// Reports about budgets of all shards.
fn reports() -> Vec<Report> {
    let report = |number| Report {
        budget: format!("ns/Budget/{number}"),
        unit: Unit::NanoUsd,
        reset_token: None,
        span: terms().period.span(0),
        returned: 0,
        used: 7,
        held: 0,
        refused: 0,
        wanted: 10,
        last: false,
    };
    (0..200).map(report).collect()
}

async fn share(server: &RedisServer) {
    let address = Address::parse(&server.url()).unwrap();
    let store = Store::open(&address, GatewayKeys::new(GATEWAY)).await.unwrap();
    assert!(store.is_cluster());
    let replica = ReplicaId("a".to_owned());
    let batches = [Batch { replica: replica.clone(), reports: reports() }];
    let mut memory = Memory::default();
    let terms_of = |_: &str| Some(terms());
    let exchanged = store.exchange(&batches, &mut memory, &[0; SHARDS], Some(&replica), &terms_of, PATIENCE).await;
    assert!(exchanged.failed.is_none(), "{:?}", exchanged.failed);
    assert_eq!(exchanged.decided.len(), 200, "every budget is answered");
    let shards: std::collections::BTreeSet<usize> = exchanged.headers.iter().map(|(shard, _)| *shard).collect();
    assert_eq!(shards.len(), SHARDS);
    let ids: Vec<String> = reports().into_iter().map(|report| report.budget).collect();
    let books = store.books(ids.iter().map(String::as_str)).await.unwrap();
    assert_eq!(books.len(), 200);
    let totals = books["ns/Budget/17"].totals(&terms(), 0);
    assert_eq!((totals.used, totals.charged), (7, 7));
    let (changed, now_ms) = store.changed_since(0).await.unwrap();
    assert_eq!(changed.len(), 200);
    assert_eq!(store.kept().await.unwrap(), changed);
    assert!(store.changed_since(now_ms + 60_000).await.unwrap().0.is_empty());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn one_node_of_a_cluster_serves_all_shards() {
    let Some(node) = RedisServer::start(["--cluster-enabled", "yes"]) else { return };
    node.command("CLUSTER ADDSLOTSRANGE 0 16383");
    node.wait_for("CLUSTER INFO", "cluster_state:ok");
    runtime().block_on(share(&node));
}

#[test]
fn nodes_of_a_cluster_share_the_shards() {
    let nodes: Vec<Arc<RedisServer>> =
        (0..2).filter_map(|_| RedisServer::start(["--cluster-enabled", "yes"])).map(Arc::new).collect();
    let [first, second] = &nodes[..] else { return };
    first.command("CLUSTER ADDSLOTSRANGE 0 8000");
    second.command("CLUSTER ADDSLOTSRANGE 8001 16383");
    second.command("CLUSTER SET-CONFIG-EPOCH 2");
    let port = second.address().port();
    first.command(&format!("CLUSTER MEET 127.0.0.1 {port}"));
    first.wait_for("CLUSTER INFO", "cluster_state:ok");
    second.wait_for("CLUSTER INFO", "cluster_state:ok");
    runtime().block_on(share(first));
    for node in [first, second] {
        assert!(!node.command("KEYS *budget*").contains("*0\r\n"), "both have budgets");
    }
}
