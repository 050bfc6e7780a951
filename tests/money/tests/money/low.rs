//! What happens when little or nothing is left: cheaper models first, and calls that go on slowly.

use tollgate_harness::{Stage, Step, Tokens, json, objects};
use tollgate_money_tests::books::{Books, Mode};
use tollgate_money_tests::gauges::{budget, wait_until_idle};
use tollgate_money_tests::setup::{chat, soft};

/// What one call of these tests costs: 100 tokens of input, 10 of output.
const EACH: i64 = 350_000;

fn each() -> Step {
    Step::usage("x", Tokens::new(100, 10))
}

/// The deployments that served, one for each call that is made.
async fn served(stage: &Stage, model: &str, calls: usize) -> Vec<String> {
    let before = stage.mock.invoice().len();
    for _ in 0..calls {
        stage.gateway.chat(model).json(&chat(model, "Hello", 20)).send().await.expect(200);
    }
    let billed = stage.mock.invoice().into_iter().skip(before).filter(|row| row.billed);
    billed.map(|row| row.model.trim_start_matches("up-").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cheaper_models_are_called_first_when_little_is_left() {
    let mut stage = Stage::start(|mock| {
        // Little is left from the third call on: 0.00105 of 0.004 are spent.
        let low = objects::budget("low", "0.004")
            .set("spec.whenLow", json!({"belowPercent": 75, "models": ["cheap", "nobody-has-it"]}));
        let key = objects::caller().set("spec.models", json!(["m"]));
        vec![objects::deployment("m", mock), objects::deployment("cheap", mock), low, key]
    })
    .await;
    stage.mock.script("up-m", [each().repeat(10_000)]);
    stage.mock.script("up-cheap", [each().repeat(2), Step::error(500).repeat(10_000)]);
    assert_eq!(served(&stage, "m", 3).await, ["m"; 3]);
    wait_until_idle(&stage.gateway).await;
    assert_eq!(budget(&stage.gateway, "/low").await.spent, 3 * EACH);
    assert_eq!(served(&stage, "m", 2).await, ["cheap"; 2], "they need no grant on the key");
    stage.gateway.chat("cheap").json(&chat("cheap", "Hello", 20)).send().await.expect(403);
    assert_eq!(served(&stage, "m", 2).await, ["m"; 2], "where they fail, what was asked for serves");
    wait_until_idle(&stage.gateway).await;
    assert_eq!(budget(&stage.gateway, "/low").await.spent, 7 * EACH, "it counts what the cheaper ones cost");
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_the_cheaper_model_gets_it_and_one_without_a_price_is_passed_over() {
    let mut stage = Stage::start(|mock| {
        let low = objects::budget("low", "0.004")
            .set("spec.whenLow", json!({"belowPercent": 100, "models": ["odd", "cheap"]}));
        let odd = objects::deployment("odd", mock).unset("spec.pricing");
        vec![objects::deployment("m", mock), objects::deployment("cheap", mock), odd, low]
    })
    .await;
    stage.mock.script("up-m", [each().repeat(10_000)]);
    stage.mock.script("up-cheap", [each().repeat(10_000)]);
    assert_eq!(served(&stage, "cheap", 1).await, ["cheap"]);
    wait_until_idle(&stage.gateway).await;
    assert_eq!(served(&stage, "m", 2).await, ["cheap"; 2], "a hard budget refuses what has no price");
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soft_budget_that_is_spent_goes_on_slowly() {
    let mut stage = Stage::start(|mock| {
        let slow = objects::budget("slow", "0.001")
            .set("spec.enforcement", "Soft")
            .set("spec.whenExhausted", json!({"action": "Throttle", "percent": 10}));
        vec![objects::deployment("m", mock), slow]
    })
    .await;
    stage.mock.script("up-m", [each().repeat(10_000)]);
    let ask = || stage.gateway.chat("m").json(&chat("m", "Hello", 20)).send();
    for _ in 0..3 {
        ask().await.expect(200);
        wait_until_idle(&stage.gateway).await;
    }
    // Three calls in what counts as a minute: a tenth of that is less than one a minute, and one there is.
    ask().await.expect(200);
    for _ in 0..5 {
        let refusal = ask().await.expect(429);
        assert_eq!(refusal.header("x-tollgate-error"), Some("budget_throttled"), "{}", refusal.text());
        assert!(refusal.text().contains("default/Budget/slow"), "{}", refusal.text());
        assert_ne!(refusal.header("x-should-retry"), Some("false"));
        let after: u64 = refusal.header("retry-after").and_then(|after| after.parse().ok()).expect("retry-after");
        assert!((1..=60).contains(&after), "{after}");
    }
    wait_until_idle(&stage.gateway).await;
    assert_eq!(budget(&stage.gateway, "/slow").await.spent, 4 * EACH);
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn attempts_of_a_call_are_one_call_to_a_budget_that_goes_on_slowly() {
    let mut stage = Stage::start(|mock| {
        let slow = objects::budget("slow", "0.0003")
            .set("spec.enforcement", "Soft")
            .set("spec.whenExhausted", json!({"action": "Throttle", "percent": 10}));
        let never = objects::route("r", ["m"]).set("spec.cooldown", json!({"enabled": false}));
        vec![objects::deployment("m", mock), never, slow]
    })
    .await;
    let ask = || stage.gateway.chat("r").json(&chat("r", "Hello", 20)).send();
    stage.mock.script("up-m", [each(), Step::error(500), Step::close(), each()]);
    ask().await.expect(200);
    wait_until_idle(&stage.gateway).await;
    let reply = ask().await.expect(200);
    assert_eq!(reply.header("x-litellm-attempted-retries"), Some("2"));
    let refusal = ask().await.expect(429);
    assert_eq!(refusal.header("x-tollgate-error"), Some("budget_throttled"), "{}", refusal.text());
    wait_until_idle(&stage.gateway).await;
    let rows = Books::default().assert_flagged(&mut stage.gateway, &stage.mock, |_| Mode::Soft).await;
    assert_eq!(rows.len(), 4);
}

#[tokio::test]
async fn without_it_a_soft_budget_that_is_spent_refuses() {
    let mut stage =
        Stage::start(|mock| vec![objects::deployment("m", mock), tollgate_money_tests::setup::caller(soft("0.0003"))])
            .await;
    stage.mock.script("up-m", [each().repeat(10)]);
    stage.gateway.chat("m").json(&chat("m", "Hello", 20)).send().await.expect(200);
    wait_until_idle(&stage.gateway).await;
    let refusal = stage.gateway.chat("m").json(&chat("m", "Hello", 20)).send().await.expect(429);
    assert_eq!(refusal.header("x-tollgate-error"), Some("budget_exhausted"));
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}
