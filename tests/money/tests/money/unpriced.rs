//! What has no price, or no bound: refused under Hard before anybody is asked, flagged under Soft.

use tollgate_harness::{Object, Stage, Value, json, ledger_rows, objects};
use tollgate_money_tests::books::Books;
use tollgate_money_tests::gauges::{budget, sum, wait_until_idle};
use tollgate_money_tests::setup::{caller, hard, soft, tries_once};

async fn unpriced(budget: Value) -> Stage {
    Stage::start(|mock| vec![objects::deployment("m", mock).unset("spec.pricing"), caller(budget)]).await
}

#[tokio::test]
async fn a_hard_budget_refuses_a_model_without_a_price() {
    let mut stage = unpriced(hard("1")).await;
    let reply = stage.gateway.chat("m").send().await.expect(403);
    assert_eq!(reply.header("x-tollgate-error"), Some("price_unknown"));
    assert_eq!(reply.json()["error"]["code"], "price_unknown");
    assert!(reply.text().contains('m'), "{}", reply.text());
    stage.gateway.chat_stream("m").send().await.expect(403);
    assert_eq!(stage.mock.requests().len(), 0);
    stage.gateway.stop().await;
    assert_eq!(ledger_rows(stage.gateway.data()), []);
}

#[tokio::test]
async fn a_hard_budget_of_tokens_or_requests_needs_no_price() {
    for unit in ["Tokens", "Requests"] {
        let mut stage = unpriced(json!({"limit": "100000", "unit": unit, "period": {"lifetime": {}}})).await;
        stage.gateway.chat("m").send().await.expect(200);
        stage.gateway.stop().await;
        let rows = ledger_rows(stage.gateway.data());
        assert_eq!((rows.len(), rows[0].outcome.as_str(), rows[0].cost_nano_usd), (1, "unpriced", 0), "{unit}");
    }
}

#[tokio::test]
async fn a_soft_budget_books_it_as_unpriced() {
    let mut stage = unpriced(soft("1")).await;
    let reply = stage.gateway.chat("m").send().await.expect(200);
    assert!(matches!(reply.header("x-litellm-response-cost"), Some("0" | "0.0")), "{:?}", reply.headers);
    stage.gateway.chat_stream("m").stream().await.rest().await;
    wait_until_idle(&stage.gateway).await;
    assert_eq!(sum(&stage.gateway.metrics().await, "tollgate_unpriced_total"), 2.0);
    assert_eq!(budget(&stage.gateway, "/caller").await.spent, 0);
    stage.gateway.stop().await;
    let rows = ledger_rows(stage.gateway.data());
    assert_eq!(rows.len(), 2);
    for (row, bill) in rows.iter().zip(stage.mock.invoice()) {
        assert_eq!((row.outcome.as_str(), row.cost_nano_usd), ("unpriced", 0), "{row:?}");
        assert_eq!((row.input_tokens, row.output_tokens), (bill.input_tokens as i64, bill.output_tokens as i64));
    }
}

fn with_part(model: &str, part: Value) -> Value {
    json!({"model": model, "max_tokens": 20, "messages": [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, part]}]})
}

#[tokio::test]
async fn files_and_videos_have_no_bound_and_a_hard_budget_refuses_them() {
    let parts = [
        json!({"type": "file", "file": {"file_id": "file-abc"}}),
        json!({"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}),
    ];
    let mut stage =
        Stage::start(|mock| vec![objects::openai("m", mock), objects::anthropic("a", mock), caller(hard("1"))]).await;
    for part in &parts {
        let reply = stage.gateway.chat("m").json(&with_part("m", part.clone())).send().await.expect(403);
        assert_eq!(reply.header("x-tollgate-error"), Some("cost_unbounded"), "{part}");
    }
    let document =
        json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}});
    let reply = stage.gateway.message("a").json(&with_part("a", document)).send().await.expect(403);
    assert_eq!(reply.header("x-tollgate-error"), Some("cost_unbounded"));
    assert_eq!(stage.mock.requests().len(), 0);
    stage.edit(|objects| *objects.last_mut().expect("the key") = caller(soft("1"))).await;
    for part in parts {
        stage.gateway.chat("m").json(&with_part("m", part)).send().await.expect(200);
    }
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn images_are_bounded_by_the_providers_formula() {
    let image = || json!({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}});
    let mut stage = Stage::start(|mock| {
        vec![objects::openai("known", mock), objects::deployment("unknown", mock), caller(hard("1"))]
    })
    .await;
    stage.gateway.chat("known").json(&with_part("known", image())).send().await.expect(200);
    let reply = stage.gateway.chat("unknown").json(&with_part("unknown", image())).send().await.expect(403);
    assert_eq!(reply.header("x-tollgate-error"), Some("cost_unbounded"));
    assert_eq!(stage.mock.requests().len(), 1);
    let rows = Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
    // 85 tokens at least is what the provider took for it.
    assert!(rows[0].input_tokens >= 85 && rows[0].cost_nano_usd <= rows[0].held_nano_usd, "{:?}", rows[0]);
}

/// A model that only its input has a price of, and a gateway.
async fn priced_in_part(budget: Value, gateway: Object) -> Stage {
    let part = json!({"perMillionTokens": {"input": "2"}});
    Stage::start(|mock| {
        vec![gateway, objects::deployment("m", mock).unset("spec.pricing").set("spec.pricing", part), caller(budget)]
    })
    .await
}

#[tokio::test]
async fn a_price_that_does_not_cover_the_output_is_as_good_as_none() {
    let mut stage = priced_in_part(hard("1"), tries_once()).await;
    let reply = stage.gateway.chat("m").send().await.expect(403);
    assert_eq!(reply.header("x-tollgate-error"), Some("price_unknown"));
    assert_eq!(stage.mock.requests().len(), 0);
    stage.gateway.stop().await;

    let mut stage = priced_in_part(soft("1"), tries_once()).await;
    stage.gateway.chat("m").send().await.expect(200);
    assert_eq!(sum(&stage.gateway.metrics().await, "tollgate_unpriced_total"), 1.0);
    stage.gateway.stop().await;
    let [row] = &ledger_rows(stage.gateway.data())[..] else { panic!("one row") };
    // What is known is booked: two millionths of a dollar for each token of input.
    assert_eq!((row.outcome.as_str(), row.cost_nano_usd), ("unpriced", row.input_tokens * 2_000), "{row:?}");
}

#[tokio::test]
async fn a_gateway_that_denies_what_has_no_price_does_so_under_every_budget() {
    let denies = || tries_once().set("spec.defaults.unpriced", "Deny");
    for budget in [soft("1"), json!({"limit": "100000", "unit": "Tokens", "period": {"lifetime": {}}})] {
        let mut stage = Stage::start(|mock| {
            vec![denies(), objects::deployment("m", mock).unset("spec.pricing"), caller(budget.clone())]
        })
        .await;
        let reply = stage.gateway.chat("m").send().await.expect(403);
        assert_eq!(reply.header("x-tollgate-error"), Some("price_unknown"), "{budget}");
        assert_eq!(sum(&stage.gateway.metrics().await, "tollgate_unpriced_total"), 0.0);
        stage.gateway.stop().await;
    }
    let mut stage = priced_in_part(soft("1"), denies()).await;
    stage.gateway.chat("m").send().await.expect(403);
    assert_eq!(stage.mock.requests().len(), 0);
    stage.gateway.stop().await;
}

#[tokio::test]
async fn without_a_price_a_hard_budget_of_tokens_binds_all_the_same() {
    let budget = json!({"limit": "100000", "unit": "Tokens", "period": {"lifetime": {}}});
    let mut stage = unpriced(budget).await;
    let file = json!({"type": "file", "file": {"file_id": "file-abc"}});
    let reply = stage.gateway.chat("m").json(&with_part("m", file)).send().await.expect(403);
    assert_eq!(reply.header("x-tollgate-error"), Some("cost_unbounded"));
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]});
    stage.gateway.chat("m").json(&body).send().await.expect(200);
    let sent = stage.mock.requests().pop().expect("one was sent").json();
    let cap = sent["max_tokens"].as_u64().or(sent["max_completion_tokens"].as_u64());
    assert!(cap.is_some_and(|cap| cap <= 4_096), "{sent}");
    stage.gateway.stop().await;
}
