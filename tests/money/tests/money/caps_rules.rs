//! The rules around a cap: several budgets at once, other units, limits that change, and what a refusal says.

use std::time::{Duration, Instant};

use tollgate_harness::{Call, Object, Response, Stage, Step, Tokens, Value, json, objects, patiently};
use tollgate_money_tests::books::Books;
use tollgate_money_tests::gauges::{budget, nano, wait_until_idle};
use tollgate_money_tests::setup::{caller, chat, hard, key};

/// What one call of these tests costs: 100 tokens of input, 10 of output.
const EACH: i64 = 350_000;

fn each() -> Step {
    Step::usage("x", Tokens::new(100, 10)).repeat(10_000)
}

fn why(reply: &Response) -> Option<&str> {
    reply.header("x-tollgate-error")
}

fn ask(stage: &Stage, name: &str) -> Call {
    stage.gateway.chat("m").key(&objects::key_text(name)).json(&chat("m", "Hello", 20))
}

/// Asks one after the other until refused; gives the refusal and how many were answered.
async fn spend_all(mut call: impl FnMut() -> Call) -> (Response, i64) {
    for answered in 0..10_000 {
        let reply = call().send().await;
        if reply.status != 200 {
            return (reply, answered);
        }
    }
    panic!("never refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_and_team_must_both_have_room_and_a_refusal_holds_in_neither() {
    let mut stage = Stage::start(|mock| {
        let member = |name: &str, limit: &str| key(name, hard(limit)).set("spec.teamRef", json!({"name": "squad"}));
        let team = objects::team("squad").set("spec.budget", hard("0.010"));
        vec![objects::deployment("m", mock), team, member("rich", "1"), member("poor", "0.004")]
    })
    .await;
    stage.mock.script("up-m", [each()]);
    let (refusal, poor) = spend_all(|| ask(&stage, "poor")).await;
    assert!(refusal.text().contains("poor"), "it names the budget: {}", refusal.text());
    let (refusal, rich) = spend_all(|| ask(&stage, "rich")).await;
    assert!(refusal.text().contains("squad"), "it names the budget: {}", refusal.text());
    let tasks: Vec<_> =
        (0..20).map(|at| tokio::spawn(ask(&stage, if at % 2 == 0 { "rich" } else { "poor" }).send())).collect();
    for task in tasks {
        assert_eq!(task.await.expect("it ends").status, 429);
    }
    wait_until_idle(&stage.gateway).await;
    let of = |name: &'static str| budget(&stage.gateway, name);
    assert_eq!((of("/rich").await.spent, of("/poor").await.spent), (rich * EACH, poor * EACH));
    assert_eq!(of("/squad").await.spent, (rich + poor) * EACH, "what keys spend counts at their team, once");
    assert!((rich + poor) * EACH <= nano("0.010") && poor * EACH <= nano("0.004"));
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_of_requests_admits_exactly_so_many() {
    let mut stage = Stage::start(|mock| {
        let terms = json!({"limit": "5", "unit": "Requests", "period": {"lifetime": {}}});
        vec![objects::deployment("m", mock), caller(terms)]
    })
    .await;
    let calls: Vec<_> = (0..30).map(|_| tokio::spawn(stage.gateway.chat("m").send())).collect();
    let mut answered = 0;
    for call in calls {
        let reply = call.await.expect("it ends");
        match reply.status {
            200 => answered += 1,
            status => assert_eq!((status, why(&reply)), (429, Some("budget_exhausted")), "{}", reply.text()),
        }
    }
    assert_eq!((answered, stage.mock.requests().len()), (5, 5));
    let gauge = budget(&stage.gateway, "/caller").await;
    assert_eq!((gauge.spent, gauge.held, gauge.limit), (5, 0, 5));
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn a_budget_of_tokens_counts_what_was_used() {
    let mut stage = Stage::start(|mock| {
        let terms = json!({"limit": "2000", "unit": "Tokens", "period": {"lifetime": {}}});
        vec![objects::deployment("m", mock), caller(terms)]
    })
    .await;
    stage.mock.script("up-m", [each()]);
    let (refusal, answered) = spend_all(|| stage.gateway.chat("m").json(&chat("m", "Hello", 20))).await;
    assert_eq!(why(&refusal), Some("budget_exhausted"));
    let gauge = budget(&stage.gateway, "/caller").await;
    assert_eq!((gauge.spent, gauge.limit), (answered * 110, 2000));
    let rows = Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
    assert!(gauge.spent <= 2000 && rows.len() as i64 == answered);
}

#[tokio::test]
async fn an_exhausted_budget_refuses_at_once_and_says_which_and_until_when() {
    let mut stage = Stage::start(|mock| {
        let daily = json!({"limit": "0.002", "period": {"calendar": "Day"}});
        let gateway = objects::gateway().set("spec.defaults.reservedWait", "20s");
        vec![objects::deployment("m", mock), gateway, caller(daily)]
    })
    .await;
    stage.mock.script("up-m", [each()]);
    spend_all(|| stage.gateway.chat("m").json(&chat("m", "Hello", 20))).await;
    let asked = Instant::now();
    let reply = stage.gateway.chat("m").json(&chat("m", "Hello", 20)).send().await.expect(429);
    assert!(asked.elapsed() < Duration::from_secs(5), "it does not wait for the 20 s of `reservedWait`");
    assert_eq!((why(&reply), reply.header("x-should-retry")), (Some("budget_exhausted"), Some("false")));
    let error = &reply.json()["error"];
    let message = error["message"].as_str().expect("a message");
    assert_eq!((error["type"].as_str(), error["code"].as_str()), (Some("budget_exceeded"), Some("budget_exhausted")));
    assert!(message.contains("caller"), "it names the budget: {message}");
    assert!(message.contains("T00:00:00") || message.contains("00:00:00"), "it says when the day ends: {message}");
    let reply = stage.gateway.message("m").send().await;
    assert_eq!(
        (reply.status, reply.json()["type"].as_str().map(str::to_owned)),
        (429, Some("error".to_owned())),
        "{}",
        reply.text()
    );
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn the_status_of_an_exhausted_budget_is_a_setting() {
    let stage = Stage::start(|mock| {
        let gateway = objects::gateway().set("spec.defaults.budgetExceededStatus", 422);
        vec![objects::deployment("m", mock), gateway, caller(hard("0.000001"))]
    })
    .await;
    let reply = stage.gateway.chat("m").send().await.expect(422);
    assert_eq!((why(&reply), stage.mock.requests().len()), (Some("budget_exhausted"), 0));
}

async fn tight(wait: &str) -> Stage {
    // Enough for one call's hold, not for two.
    let stage = Stage::start(|mock| {
        let gateway = objects::gateway().set("spec.defaults.reservedWait", wait);
        vec![objects::deployment("m", mock), gateway, caller(hard("0.002"))]
    })
    .await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 10)).gate("go").repeat(2)]);
    stage
}

#[tokio::test]
async fn money_that_calls_hold_is_waited_for_then_refused_with_retry_after() {
    let mut stage = tight("200ms").await;
    let body = chat("m", "Hello", 20);
    let first = tokio::spawn(stage.gateway.chat("m").json(&body).send());
    patiently("the first at the provider", stage.mock.wait_at_gate("go", 1)).await;
    let asked = Instant::now();
    let reply = stage.gateway.chat("m").json(&body).send().await.expect(429);
    assert!(asked.elapsed() >= Duration::from_millis(200), "{:?}", asked.elapsed());
    assert_eq!(why(&reply), Some("budget_reserved"));
    assert!(reply.header("retry-after").is_some_and(|after| after.parse::<u64>().is_ok()), "{:?}", reply.headers);
    assert_ne!(reply.header("x-should-retry"), Some("false"));
    assert!(reply.text().contains("caller"), "it names the budget: {}", reply.text());
    stage.mock.open_gate("go");
    first.await.expect("it ends").expect(200);
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn who_waits_for_held_money_is_served_when_it_is_released() {
    let mut stage = tight("20s").await;
    let body = chat("m", "Hello", 20);
    let first = tokio::spawn(stage.gateway.chat("m").json(&body).send());
    patiently("the first at the provider", stage.mock.wait_at_gate("go", 1)).await;
    let second = tokio::spawn(stage.gateway.chat("m").json(&body).send());
    tollgate_money_tests::gauges::wait_for(&stage.gateway, "the second to arrive", |text| {
        tollgate_money_tests::gauges::sum(text, "tollgate_in_flight_requests") >= 2.0
    })
    .await;
    assert_eq!(stage.mock.requests().len(), 1, "the second has no hold yet");
    stage.mock.open_gate("go");
    first.await.expect("it ends").expect(200);
    second.await.expect("it ends").expect(200);
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

fn shared_budget(limit: &str, token: Option<&str>) -> Object {
    let object = objects::budget("shared", limit);
    match token {
        Some(token) => object.set("spec.resetToken", token),
        None => object,
    }
}

/// Puts another object of the same kind and name in its place.
fn replace(objects: &mut [Object], new: Object) {
    let at = objects.iter().position(|object| object.id() == new.id()).expect("it is there");
    objects[at] = new;
}

#[tokio::test]
async fn a_limit_is_raised_and_lowered_while_it_runs() {
    let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), shared_budget("0.004", None)]).await;
    stage.mock.script("up-m", [each()]);
    let call = |stage: &Stage| stage.gateway.chat("m").json(&chat("m", "Hello", 20));
    let (_, first) = spend_all(|| call(&stage)).await;
    assert!(first >= 1 && first * EACH <= nano("0.004"));
    stage.edit(|objects| replace(objects, shared_budget("0.010", None))).await;
    let (_, second) = spend_all(|| call(&stage)).await;
    assert!(second >= 1 && (first + second) * EACH <= nano("0.010"), "{first} {second}");
    stage.edit(|objects| replace(objects, shared_budget("0.002", None))).await;
    let reply = call(&stage).send().await.expect(429);
    assert_eq!(why(&reply), Some("budget_exhausted"));
    let gauge = budget(&stage.gateway, "/shared").await;
    assert_eq!((gauge.spent, gauge.limit), ((first + second) * EACH, nano("0.002")), "nothing is forgotten");
    stage.edit(|objects| replace(objects, shared_budget("0.020", None))).await;
    call(&stage).send().await.expect(200);
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn who_waits_for_held_money_is_served_when_the_limit_is_raised() {
    let mut stage = Stage::start(|mock| {
        let gateway = objects::gateway().set("spec.defaults.reservedWait", "10s");
        vec![objects::deployment("m", mock), gateway, shared_budget("0.002", None)]
    })
    .await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 10)).gate("go").repeat(2)]);
    let body = chat("m", "Hello", 20);
    let first = tokio::spawn(stage.gateway.chat("m").json(&body).send());
    patiently("the first at the provider", stage.mock.wait_at_gate("go", 1)).await;
    let second = tokio::spawn(stage.gateway.chat("m").json(&body).send());
    tollgate_money_tests::gauges::wait_for(&stage.gateway, "the second to arrive", |text| {
        tollgate_money_tests::gauges::sum(text, "tollgate_in_flight_requests") >= 2.0
    })
    .await;
    stage.edit(|objects| replace(objects, shared_budget("1", None))).await;
    let both = stage.mock.wait_at_gate("go", 2);
    let served = tokio::time::timeout(Duration::from_secs(5), both).await;
    stage.mock.open_gate("go");
    assert!(served.is_ok(), "a raised limit counts at once, also for who waits");
    first.await.expect("it ends").expect(200);
    second.await.expect("it ends").expect(200);
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn a_limit_that_is_changed_right_after_the_start_counts() {
    for _ in 0..3 {
        let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), shared_budget("1", None)]).await;
        // Waits for the generation of the edit.
        stage.edit(|objects| replace(objects, shared_budget("0.000001", None))).await;
        stage.gateway.chat("m").send().await.expect(429);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_is_lowered_in_mid_flight_lets_those_calls_finish() {
    let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), shared_budget("1", None)]).await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 10)).gate("go").repeat(5)]);
    let calls: Vec<_> =
        (0..5).map(|_| tokio::spawn(stage.gateway.chat("m").json(&chat("m", "Hi", 20)).send())).collect();
    patiently("all at the provider", stage.mock.wait_at_gate("go", 5)).await;
    stage.edit(|objects| replace(objects, shared_budget("0.000001", None))).await;
    let reply = stage.gateway.chat("m").json(&chat("m", "Hi", 20)).send().await.expect(429);
    assert!(matches!(why(&reply), Some("budget_exhausted" | "budget_reserved")), "{}", reply.text());
    stage.mock.open_gate("go");
    for call in calls {
        call.await.expect("it ends").expect(200);
    }
    wait_until_idle(&stage.gateway).await;
    assert_eq!(budget(&stage.gateway, "/shared").await.spent, 5 * EACH);
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

async fn reset(enforcement: &str) -> Stage {
    let shared = |token| shared_budget("0.002", token).set("spec.enforcement", enforcement);
    let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), shared(None)]).await;
    stage.mock.script("up-m", [each()]);
    let call = |stage: &Stage| stage.gateway.chat("m").json(&chat("m", "Hello", 20));
    let (_, first) = spend_all(|| call(&stage)).await;
    stage.edit(|objects| replace(objects, shared(Some("ticket-1")))).await;
    let (_, second) = spend_all(|| call(&stage)).await;
    assert_eq!(first, second, "as much again");
    assert_eq!(budget(&stage.gateway, "/shared").await.spent, second * EACH);
    // The same token again is no reset, not even over a restart.
    stage.gateway.restart().await;
    call(&stage).send().await.expect(429);
    stage
}

#[tokio::test]
async fn a_new_reset_token_starts_a_hard_budget_again() {
    let mut stage = reset("Hard").await;
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn a_new_reset_token_starts_a_soft_budget_again() {
    let mut stage = reset("Soft").await;
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn a_new_reset_token_shows_at_once() {
    let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), shared_budget("0.01", None)]).await;
    stage.gateway.chat("m").send().await.expect(200);
    stage.edit(|objects| replace(objects, shared_budget("0.01", Some("ticket-1")))).await;
    assert_eq!(budget(&stage.gateway, "/shared").await.spent, 0);
}

#[tokio::test]
async fn a_budget_of_one_model_leaves_the_others_alone() {
    let mut stage = Stage::start(|mock| {
        let dear = objects::budget("dear", "0.002").set("spec.appliesTo", json!({"models": ["m"]}));
        vec![objects::deployment("m", mock), objects::deployment("other", mock), dear]
    })
    .await;
    stage.mock.script("up-m", [each()]);
    let (refusal, _) = spend_all(|| stage.gateway.chat("m").json(&chat("m", "Hello", 20))).await;
    assert!(refusal.text().contains("dear"), "{}", refusal.text());
    let other: Value = chat("other", "Hello", 20);
    stage.gateway.chat("other").json(&other).send().await.expect(200);
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}
