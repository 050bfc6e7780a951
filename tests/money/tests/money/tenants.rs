//! Caps above caps: parents of budgets, the platform's cap over every tenant, and a boost that ends by itself.

use tollgate_harness::{Call, Object, Stage, Step, Tokens, json, objects, patiently};
use tollgate_money_tests::books::Books;
use tollgate_money_tests::gauges::{budget, wait_until_idle};
use tollgate_money_tests::setup::chat;

/// What one call of these tests costs: 100 tokens of input, 10 of output.
const EACH: i64 = 350_000;

/// Room for ten of them and what an eleventh would hold at most.
const TEN: &str = "0.0045";

fn each() -> Step {
    Step::usage("x", Tokens::new(100, 10)).repeat(10_000)
}

fn key(name: &str, env: &str) -> Object {
    objects::key(name, &objects::key_text(name)).set("metadata.labels", json!({"env": env}))
}

fn ask(stage: &Stage, name: &str) -> Call {
    stage.gateway.chat("m").key(&objects::key_text(name)).json(&chat("m", "Hello", 20))
}

async fn until_refused(stage: &Stage, names: [&str; 2]) -> (String, i64) {
    for answered in 0..1_000 {
        let reply = ask(stage, names[answered % 2]).send().await;
        if reply.status != 200 {
            assert_eq!(reply.header("x-tollgate-error"), Some("budget_exhausted"), "{}", reply.text());
            return (reply.text(), answered as i64);
        }
    }
    panic!("never refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_is_spent_by_its_children_and_by_what_it_selects_itself() {
    let mut stage = Stage::start(|mock| {
        let child = |env: &str| {
            objects::budget(env, "1")
                .set("spec.appliesTo", json!({"keySelector": {"matchLabels": {"env": env}}}))
                .set("spec.parentRef", json!({"name": "parent"}))
        };
        let parent = objects::budget("parent", TEN).set("spec.appliesTo", json!({"users": ["somebody-else"]}));
        vec![
            objects::deployment("m", mock),
            key("one", "dev"),
            key("two", "prod"),
            key("three", "lab"),
            child("dev"),
            child("prod"),
            parent,
        ]
    })
    .await;
    stage.mock.script("up-m", [each()]);
    let (refusal, answered) = until_refused(&stage, ["one", "two"]).await;
    assert!(refusal.contains("default/Budget/parent"), "{refusal}");
    assert!(answered * EACH <= 4_500_000 && answered >= 9, "{answered}");
    ask(&stage, "three").send().await.expect(200);
    wait_until_idle(&stage.gateway).await;
    let of = |name: &'static str| budget(&stage.gateway, name);
    assert_eq!(of("/parent").await.spent, answered * EACH);
    assert_eq!(of("/dev").await.spent + of("/prod").await.spent, answered * EACH, "a refusal holds in none");
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_platforms_cap_binds_each_tenant_that_it_selects() {
    let mut stage = Stage::start(|mock| {
        let namespace = |name: &str, llm: &str| {
            Object::new("Namespace", name, json!({}))
                .set("apiVersion", "v1")
                .unset("metadata.namespace")
                .set("metadata.labels", json!({"llm": llm}))
        };
        let key = |name: &str| objects::key(name, &objects::key_text(name)).set("metadata.namespace", name);
        let cap = objects::budget("cap", TEN)
            .set("spec.appliesTo", json!({"namespaceSelector": {"matchLabels": {"llm": "allowed"}}}))
            .set("spec.per", "Namespace");
        // A tenant's own, larger one does not help.
        let own = objects::budget("own", "100").set("metadata.namespace", "red");
        vec![
            objects::gateway().set("spec.allowedNamespaces", json!({"from": "All"})),
            objects::deployment("m", mock).set("spec.allowedNamespaces", json!({"from": "All"})),
            namespace("red", "allowed"),
            namespace("blue", "allowed"),
            namespace("green", "other"),
            key("red"),
            key("blue"),
            key("green"),
            cap,
            own,
        ]
    })
    .await;
    stage.mock.script("up-m", [each()]);
    let (refusal, answered) = until_refused(&stage, ["red", "red"]).await;
    assert!(refusal.contains("default/Budget/cap/red"), "{refusal}");
    for _ in 0..12 {
        ask(&stage, "green").send().await.expect(200);
    }
    ask(&stage, "blue").send().await.expect(200);
    wait_until_idle(&stage.gateway).await;
    assert_eq!(budget(&stage.gateway, "/cap/red").await.spent, answered * EACH);
    assert_eq!(budget(&stage.gateway, "/cap/blue").await.spent, EACH);
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

/// So many seconds from now, on the second.
fn soon(seconds: u64) -> (jiff::Timestamp, String) {
    let until = jiff::Timestamp::now() + std::time::Duration::from_secs(seconds);
    let until = jiff::Timestamp::from_second(until.as_second()).expect("a time of today");
    (until, until.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_boost_ends_by_itself() {
    let (_, until) = soon(12);
    let mut stage = Stage::start(|mock| {
        let low = objects::budget("low", "0.0001").set("spec.boost", json!({"amount": "1", "until": until}));
        vec![objects::deployment("m", mock), key("one", "dev"), low]
    })
    .await;
    stage.mock.script("up-m", [each()]);
    ask(&stage, "one").send().await.expect(200);
    let refused = async {
        loop {
            let reply = ask(&stage, "one").send().await;
            if reply.status == 429 {
                return reply.text();
            }
            assert_eq!(reply.status, 200, "{}", reply.text());
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let refusal = patiently("the end of the boost", refused).await;
    assert!(refusal.contains("default/Budget/low"), "{refusal}");
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_boost_ends_also_while_the_configuration_cannot_be_read() {
    let (until, text) = soon(12);
    let mut stage = Stage::start(|mock| {
        let low = objects::budget("low", TEN).set("spec.boost", json!({"amount": "1", "until": text}));
        vec![objects::deployment("m", mock), key("one", "dev"), low]
    })
    .await;
    stage.mock.script("up-m", [each()]);
    ask(&stage, "one").send().await.expect(200);
    assert_eq!(budget(&stage.gateway, "/low").await.limit, 1_004_500_000);
    stage.gateway.take_config_away();
    let over = async {
        while jiff::Timestamp::now() < until {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    patiently("the end of the boost", over).await;
    // What is left of the limit without it is there, and no more.
    let (refusal, answered) = until_refused(&stage, ["one", "one"]).await;
    assert!(refusal.contains("default/Budget/low"), "{refusal}");
    assert!((8..=10).contains(&answered), "{answered}");
    let stands = budget(&stage.gateway, "/low").await;
    assert_eq!((stands.spent, stands.limit), ((answered + 1) * EACH, 4_500_000));
    stage.gateway.bring_config_back();
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}
