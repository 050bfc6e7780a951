//! Hard budgets under many agents at once: never above the limit, and no refusal while the money is there.

use std::sync::Arc;

use tollgate_harness::{Call, KEY, Response, Stage, Step, Tokens, Value, json, objects, patiently};
use tollgate_money_tests::books::{Books, total};
use tollgate_money_tests::gauges::{BudgetGauge, budget, nano, wait_until_idle};
use tollgate_money_tests::setup::{caller, chat, hard, soft};

const AGENTS: usize = 50;

/// A gateway that waits so long for money in flight that a slow machine makes no refusal.
fn patient() -> tollgate_harness::Object {
    objects::gateway().set("spec.defaults.reservedWait", "20s")
}

/// Every agent calls until it is refused. Gives the refusals, and how many calls were answered.
async fn until_refused(stage: &Stage, agents: usize, body: &Value) -> (Vec<Response>, usize) {
    let address = stage.gateway.address();
    let body = Arc::new(body.clone());
    let agents: Vec<_> = (0..agents)
        .map(|_| {
            let body = body.clone();
            tokio::spawn(async move {
                let mut answered = 0;
                loop {
                    let reply = Call::new(address, "POST", "/v1/chat/completions").key(KEY).json(&body).send().await;
                    if reply.status != 200 {
                        return (reply, answered);
                    }
                    answered += 1;
                }
            })
        })
        .collect();
    let mut refusals = Vec::new();
    let mut sum = 0;
    for agent in agents {
        let (refusal, answered) = agent.await.expect("an agent ends well");
        refusals.push(refusal);
        sum += answered;
    }
    (refusals, sum)
}

/// All agents ended by `budget_exhausted`; nothing is held; what is left does not suffice for one more smallest call.
async fn assert_used_up(stage: &mut Stage, refusals: &[Response], answered: usize, limit: i64) {
    for refusal in refusals {
        let why = refusal.header("x-tollgate-error");
        assert_eq!((refusal.status, why), (429, Some("budget_exhausted")), "a false refusal: {}", refusal.text());
    }
    wait_until_idle(&stage.gateway).await;
    let gauge: BudgetGauge = budget(&stage.gateway, "/caller").await;
    assert_eq!((gauge.held, gauge.limit), (0, limit));
    let invoice = Books::default().invoice_total(&stage.mock);
    let rows = Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
    assert_eq!((invoice, gauge.spent), (total(&rows), total(&rows)));
    assert!(invoice <= limit, "billed {invoice} above the limit of {limit}");
    assert_eq!(rows.len(), answered, "every answer has its row");
    let smallest = rows.iter().map(|row| row.held_nano_usd).min().expect("rows");
    assert!(
        gauge.spent + smallest > limit,
        "refused with {} of {limit} spent and a smallest hold of {smallest}",
        gauge.spent
    );
    assert!(smallest < limit / 10, "the smallest hold {smallest} is a large part of the limit {limit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_agents_without_a_cap_use_a_small_budget_up_and_no_more() {
    let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), patient(), caller(hard("0.05"))]).await;
    let body =
        json!({"model": "m", "messages": [{"role": "user", "content": "Hello, who are you and what can you do?"}]});
    let (refusals, answered) = until_refused(&stage, AGENTS, &body).await;
    assert!(answered >= 50, "{answered} answers");
    for seen in stage.mock.requests() {
        let sent = seen.json();
        let cap = sent["max_tokens"].as_u64().or(sent["max_completion_tokens"].as_u64());
        assert!(cap.is_some_and(|cap| cap >= 16), "a cap is sent along, and not below the least: {sent}");
    }
    assert_used_up(&mut stage, &refusals, answered, nano("0.05")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_of_many_agents_does_not_reserve_everything() {
    let stage = Stage::start(|mock| vec![objects::deployment("m", mock), caller(hard("0.5"))]).await;
    stage.mock.script("up-m", [Step::usual().gate("go").repeat(20)]);
    let calls: Vec<_> = (0..20).map(|_| tokio::spawn(stage.gateway.chat("m").send())).collect();
    patiently("all twenty at the provider", stage.mock.wait_at_gate("go", 20)).await;
    let gauge = budget(&stage.gateway, "/caller").await;
    assert!(gauge.held > 0 && gauge.held <= gauge.limit, "{gauge:?}");
    stage.mock.open_gate("go");
    for call in calls {
        call.await.expect("it ends").expect(200);
    }
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_with_caps_uses_a_budget_up_and_no_more() {
    let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), patient(), caller(hard("0.05"))]).await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(50, 100)).repeat(10_000)]);
    let (refusals, answered) = until_refused(&stage, AGENTS, &chat("m", "Hello", 100)).await;
    assert_used_up(&mut stage, &refusals, answered, nano("0.05")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soft_budget_is_passed_by_calls_in_flight_at_most() {
    const IN_FLIGHT: usize = 20;
    let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), caller(soft("0.001"))]).await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 10)).gate("go").repeat(IN_FLIGHT as u32)]);
    let calls: Vec<_> = (0..IN_FLIGHT).map(|_| tokio::spawn(stage.gateway.chat("m").send())).collect();
    patiently("all at the provider", stage.mock.wait_at_gate("go", IN_FLIGHT)).await;
    stage.mock.open_gate("go");
    for call in calls {
        call.await.expect("it ends").expect(200);
    }
    wait_until_idle(&stage.gateway).await;
    let each = 350_000;
    let gauge = budget(&stage.gateway, "/caller").await;
    assert_eq!((gauge.spent, gauge.held), (IN_FLIGHT as i64 * each, 0));
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 10)).repeat(1000)]);
    let (refusals, answered) = until_refused(&stage, AGENTS, &chat("m", "Hello", 50)).await;
    assert_eq!(answered, 0, "over the limit, nobody is admitted");
    assert!(refusals.iter().all(|reply| reply.header("x-tollgate-error") == Some("budget_exhausted")));
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soft_budget_in_a_burst_ends_within_its_agents_calls_of_the_limit() {
    let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), caller(soft("0.03"))]).await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 10)).repeat(10_000)]);
    let (_, answered) = until_refused(&stage, AGENTS, &chat("m", "Hello", 50)).await;
    wait_until_idle(&stage.gateway).await;
    let spent = budget(&stage.gateway, "/caller").await.spent;
    assert_eq!(spent, answered as i64 * 350_000);
    assert!(spent >= nano("0.03") && spent < nano("0.03") + AGENTS as i64 * 350_000, "{spent}");
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}
