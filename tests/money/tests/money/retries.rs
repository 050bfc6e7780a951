//! Retries and fallbacks: one hold and one row for each attempt, each with its own truth.

use tollgate_harness::{Object, SpendRow, Stage, Step, Tokens, json, objects};
use tollgate_money_tests::books::{Books, Mode, deployment_of, total};
use tollgate_money_tests::gauges::{budget, nano, wait_until_idle};
use tollgate_money_tests::setup::{caller, hard, soft};

fn story(rows: &[SpendRow]) -> Vec<(&str, i64, &str, i64)> {
    let mut story: Vec<_> =
        rows.iter().map(|row| (deployment_of(row), row.attempt_no, row.outcome.as_str(), row.status)).collect();
    story.sort_by_key(|(_, number, _, _)| *number);
    story
}

async fn stage(budget: tollgate_harness::Value, more: impl FnOnce(Object) -> Vec<Object>) -> Stage {
    Stage::start(|mock| {
        let route = objects::route("r", ["a", "b"]).set("spec.cooldown", json!({"enabled": false}));
        let mut all = vec![objects::deployment("a", mock), objects::deployment("b", mock), caller(budget)];
        all.extend(more(route));
        all
    })
    .await
}

#[tokio::test]
async fn each_attempt_has_its_own_row() {
    for (budget_of, unknown) in [(hard("1"), "charged"), (soft("1"), "estimated")] {
        let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), caller(budget_of)]).await;
        stage.mock.script("up-m", [Step::error(500), Step::close(), Step::usage("x", Tokens::new(20, 5))]);
        let reply = stage.gateway.chat("m").send().await.expect(200);
        assert_eq!(
            reply.header("x-litellm-response-cost").map(nano),
            Some(100_000),
            "the cost of the attempt that answered"
        );
        wait_until_idle(&stage.gateway).await;
        let gauge = budget(&stage.gateway, "/caller").await;
        let mode = if unknown == "charged" { Mode::Hard } else { Mode::Soft };
        let rows = Books::default().assert_flagged(&mut stage.gateway, &stage.mock, |_| mode).await;
        assert_eq!(story(&rows), [("m", 1, "released", 500), ("m", 2, unknown, 502), ("m", 3, "exact", 200)]);
        assert_eq!(gauge.spent, total(&rows));
    }
}

#[tokio::test]
async fn a_fallback_is_an_attempt_of_its_own_at_its_own_price() {
    let mut stage = Stage::start(|mock| {
        let dear = json!({"perMillionTokens": {"input": "25", "output": "100"}});
        let route = |name: &str| objects::route(name, [if name == "first" { "a" } else { "b" }]);
        let first = route("first")
            .set("spec.fallbacks", json!([{"name": "elsewhere", "errors": ["Any"], "models": ["second"]}]));
        vec![
            objects::deployment("a", mock),
            objects::deployment("b", mock).set("spec.pricing", dear),
            first,
            route("second"),
            caller(hard("1")),
        ]
    })
    .await;
    stage.mock.script("up-a", [Step::error(500).repeat(3)]);
    stage.mock.script("up-b", [Step::usage("x", Tokens::new(20, 5))]);
    let reply = stage.gateway.chat("first").send().await.expect(200);
    assert_eq!(reply.header("x-litellm-response-cost").map(nano), Some(1_000_000));
    let dear = tollgate_money_tests::price::Price::flat(tollgate_money_tests::price::Rates::new("25", "100"));
    let rows = Books::default().price("b", dear).assert_exact(&mut stage.gateway, &stage.mock).await;
    let exact: Vec<_> = story(&rows).into_iter().filter(|(_, _, outcome, _)| *outcome == "exact").collect();
    assert_eq!(exact, [("b", rows.len() as i64, "exact", 200)]);
}

#[tokio::test]
async fn a_hold_that_was_charged_leaves_less_for_the_next_attempt() {
    // Enough for one hold of the call, not for two: the retry needs its own and does not get it.
    let mut stage = stage(hard("0.002"), |route| vec![route]).await;
    for upstream in ["up-a", "up-b"] {
        stage.mock.script(upstream, [Step::close()]);
    }
    let body = json!({"model": "r", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]});
    let reply = stage.gateway.chat("r").json(&body).send().await;
    assert!(reply.status >= 400, "{}", reply.text());
    wait_until_idle(&stage.gateway).await;
    let rows = Books::default().assert_flagged(&mut stage.gateway, &stage.mock, |_| Mode::Hard).await;
    assert_eq!((rows.len(), rows[0].outcome.as_str()), (1, "charged"), "{rows:#?}");
    assert!(total(&rows) <= nano("0.002"));
}

#[tokio::test]
async fn a_timeout_charges_the_hold_and_the_retry_is_exact() {
    let mut stage = Stage::start(|mock| {
        let gateway = objects::gateway().set("spec.defaults.timeouts", json!({"firstByte": "300ms"}));
        vec![objects::deployment("m", mock), gateway, caller(hard("1"))]
    })
    .await;
    stage.mock.script("up-m", [Step::hang(), Step::usual()]);
    stage.gateway.chat_stream("m").stream().await.rest().await;
    wait_until_idle(&stage.gateway).await;
    let rows = Books::default().assert_flagged(&mut stage.gateway, &stage.mock, |_| Mode::Hard).await;
    let outcomes: Vec<_> = story(&rows).into_iter().map(|(_, number, outcome, _)| (number, outcome)).collect();
    assert_eq!(outcomes, [(1, "charged"), (2, "exact")]);
}
