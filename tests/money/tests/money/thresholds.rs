//! Who is told that a budget passed a share of its limit: a metric, and a webhook that gets it at least once, also when it
//! is away for a moment, and not again after a restart.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tollgate_harness::{
    Gateway, RedisServer, Stage, Starter, Step, Tokens, Value, documents, json, objects, patiently,
};
use tollgate_money_tests::books::Books;
use tollgate_money_tests::gauges::{sum, wait_for};
use tollgate_money_tests::setup::chat;

/// Takes one message and answers with this status.
async fn receive(listener: &TcpListener, status: &str) -> Value {
    let receiving = async {
        let (mut stream, _) = listener.accept().await.expect("somebody calls");
        let mut seen = Vec::new();
        loop {
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).await.expect("the message is readable");
            assert!(read > 0, "a message ends with its body");
            seen.extend_from_slice(&buffer[..read]);
            let text = String::from_utf8_lossy(&seen).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let Ok(body) = body.parse::<Value>() else { continue };
            assert!(head.starts_with("POST /hook?secret=part HTTP/1.1\r\n"), "{head}");
            stream
                .write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())
                .await
                .expect("answered");
            return body;
        }
    };
    patiently("a message", receiving).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_told_once_for_each_share_and_a_restart_does_not_repeat_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hook?secret=part", listener.local_addr().expect("it has an address"));
    let mut stage = Stage::start(|mock| {
        let webhook = json!({"secretRef": {"name": "alerts", "key": "api-key"}});
        let budget = objects::budget("b", "0.0045").set(
            "spec.thresholds",
            json!([{"percent": 10}, {"percent": 20, "webhook": webhook}, {"percent": 60, "webhook": webhook}]),
        );
        vec![objects::deployment("m", mock), objects::secret_of("alerts", &url), budget]
    })
    .await;
    // A call costs 0.00035, 7.8 % of the limit.
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 10)).repeat(100)]);
    let name = "tollgate_budget_thresholds_total";
    for _ in 0..3 {
        stage.gateway.chat("m").json(&chat("m", "Hello", 20)).send().await.expect(200);
    }
    let first = receive(&listener, "503 Service Unavailable").await;
    let again = receive(&listener, "200 OK").await;
    assert_eq!(first, again, "what was not taken comes again, as it was");
    assert_eq!(
        (&again["percent"], &again["budget"], &again["limit"]),
        (&json!(20), &json!("default/b"), &json!("0.0045"))
    );
    assert_eq!((&again["spent"], &again["unit"]), (&json!("0.00105"), &json!("USD")));
    let text = again["text"].as_str().expect("a text, as Slack wants it");
    assert!(text.starts_with("Budget `default/b` has passed 20 %: $0.00105 of $0.0045 are spent"), "{text}");
    wait_for(&stage.gateway, "two shares", |text| sum(text, name) == 2.0).await;

    stage.gateway.restart().await;
    for _ in 0..5 {
        stage.gateway.chat("m").json(&chat("m", "Hello", 20)).send().await.expect(200);
    }
    let next = receive(&listener, "204 No Content").await;
    assert_eq!(next["percent"], 60, "those before are not told again: {next}");
    wait_for(&stage.gateway, "one share since the start", |text| sum(text, name) == 1.0).await;
    assert!(!stage.gateway.log().contains("secret=part"), "URLs are secrets");
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_no_call_fits_into_any_more_is_told_as_at_its_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hook?secret=part", listener.local_addr().expect("it has an address"));
    let mut stage = Stage::start(|mock| {
        let webhook = json!({"secretRef": {"name": "alerts", "key": "api-key"}});
        let end = json!([{"percent": 100, "webhook": webhook}]);
        let budget = objects::budget("b", "0.0045").set("spec.thresholds", end);
        vec![objects::deployment("m", mock), objects::secret_of("alerts", &url), budget]
    })
    .await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 10)).repeat(100)]);
    let mut answered = 0;
    let refusal = loop {
        let reply = stage.gateway.chat("m").json(&chat("m", "Hello", 20)).send().await;
        if reply.status != 200 {
            break reply;
        }
        answered += 1;
    };
    assert_eq!((refusal.status, refusal.header("x-tollgate-error")), (429, Some("budget_exhausted")));
    let told = receive(&listener, "200 OK").await;
    assert!(answered * 350_000 < 4_500_000, "something is left");
    let text = told["text"].as_str().expect("a text");
    assert!(text.starts_with("Budget `default/b` is near its limit and refuses calls: $0.00"), "{text}");
    assert_eq!((&told["percent"], &told["nearLimit"]), (&json!(100), &json!(true)));
    wait_for(&stage.gateway, "it is told once", |text| sum(text, "tollgate_budget_thresholds_total") == 1.0).await;
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

/// Waits until a gateway noted that these shares were told, and has nothing left to send.
async fn wait_until_told(gateway: &Gateway, percents: &Value) {
    let told = async {
        loop {
            let kept = std::fs::read_to_string(gateway.data().join("alerts.json")).unwrap_or_default();
            let kept: Value = kept.parse().unwrap_or_default();
            if kept["told"]["default/Budget/b"]["percents"] == *percents && kept["waiting"] == json!([]) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    patiently("all is told", told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_gateways_with_one_redis_one_tells_and_a_restart_does_not_repeat_it() {
    let Some(redis) = RedisServer::start([]) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hook?secret=part", listener.local_addr().expect("it has an address"));
    let mut stage = Stage::start(|mock| {
        let webhook = json!({"secretRef": {"name": "alerts", "key": "api-key"}});
        let thresholds = json!([{"percent": 20, "webhook": webhook}, {"percent": 60, "webhook": webhook}]);
        let stores = json!({"redis": {"secretRef": {"name": "redis", "key": "api-key"}}});
        vec![
            objects::deployment("m", mock),
            objects::gateway().set("spec.stores", stores),
            objects::secret_of("redis", &redis.url()),
            objects::secret_of("alerts", &url),
            objects::budget("b", "0.0045").set("spec.thresholds", thresholds),
        ]
    })
    .await;
    let mut other = Starter::default().file("config.yaml", documents(&stage.objects)).start().await;
    for gateway in [&stage.gateway, &other] {
        wait_for(gateway, "Redis is trusted", |text| {
            sum(text, "tollgate_allocator_up") == 1.0 && sum(text, "tollgate_allocator_doubt") == 0.0
        })
        .await;
    }
    // A call costs 0.00035, 7.8 % of the limit: no gateway alone passes a share.
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 10)).repeat(100)]);
    let ask = async |gateway: &Gateway| {
        gateway.chat("m").json(&chat("m", "Hello", 20)).send().await.expect(200);
    };
    for _ in 0..2 {
        ask(&stage.gateway).await;
        ask(&other).await;
    }
    assert_eq!(receive(&listener, "200 OK").await["percent"], 20);
    for gateway in [&stage.gateway, &other] {
        wait_until_told(gateway, &json!([20])).await;
    }
    stage.gateway.restart().await;
    for _ in 0..2 {
        ask(&stage.gateway).await;
        ask(&other).await;
    }
    assert_eq!(receive(&listener, "200 OK").await["percent"], 60);
    for gateway in [&stage.gateway, &other] {
        wait_until_told(gateway, &json!([20, 60])).await;
    }
    let more = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(more.is_err(), "each was told once");
    let name = "tollgate_budget_thresholds_total";
    let told = sum(&stage.gateway.metrics().await, name) + sum(&other.metrics().await, name);
    assert!((1.0..=2.0).contains(&told), "{told}: the first may have been told by a process that ended");
    stage.gateway.stop().await;
    other.stop().await;
}
