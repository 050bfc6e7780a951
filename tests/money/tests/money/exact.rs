//! Where the usage was seen, ledger, headers and gauges equal the invoice to the nano-dollar.

use tollgate_harness::{
    Call, Mock, Object, Reply, Response, SpendRow, Stage, Step, Tokens, UsageScript, Value, json, objects,
};
use tollgate_money_tests::books::{Books, attempt_id, total};
use tollgate_money_tests::gauges::{self, budget, nano, wait_until_idle};
use tollgate_money_tests::price::{Price, Rates};
use tollgate_money_tests::setup::{caller, chat, hard, soft, streamed};

/// Its prices are in the gateway's own table, under their real names.
fn listed(object: Object, model: &str) -> Object {
    object.set("spec.model", model).unset("spec.pricing")
}

fn rates(object: Object, rates: Value) -> Object {
    object.set("spec.pricing", json!({"rates": rates}))
}

fn million(unit: &str, price: &str) -> Value {
    json!({"unit": unit, "price": price, "per": 1_000_000})
}

fn priced_deployments(mock: &Mock) -> Vec<Object> {
    let tier =
        |unit: &str, price: &str| json!({"unit": unit, "price": price, "per": 1_000_000, "aboveInputTokens": 1000});
    vec![
        objects::deployment("plain", mock),
        objects::azure("azure", mock),
        rates(
            objects::openai("fine", mock),
            json!([
                million("InputToken", "0.0375"),
                million("OutputToken", "0.150007"),
                million("CacheReadToken", "0.00000000013")
            ]),
        ),
        rates(
            objects::deployment("tiered", mock),
            json!([
                million("InputToken", "1.25"),
                million("OutputToken", "10"),
                million("CacheReadToken", "0.31"),
                tier("InputToken", "2.5"),
                tier("OutputToken", "15"),
                tier("CacheReadToken", "0.625"),
            ]),
        ),
        rates(
            objects::deployment("thinking", mock),
            json!([million("InputToken", "2"), million("OutputToken", "8"), million("ReasoningToken", "12.34567")]),
        ),
        rates(
            objects::anthropic("hour", mock),
            json!([
                million("InputToken", "3"), million("OutputToken", "15"), million("CacheReadToken", "0.30"),
                million("CacheWriteToken", "3.75"),
                {"unit": "CacheWriteToken", "price": "6", "per": 1_000_000, "cacheTTL": "1h"},
            ]),
        ),
        listed(objects::openai("gpt-4o", mock), "gpt-4o"),
        listed(objects::anthropic("claude-sonnet-4-5", mock), "claude-sonnet-4-5"),
        objects::openai("large", mock).set("spec.pricing", json!({"like": "openai/gpt-5.5"})),
    ]
}

fn books() -> Books {
    let tiered = Price::flat(Rates::new("1.25", "10").cached("0.31", "1.25", "1.25"));
    let sonnet = Price::flat(Rates::new("3", "15").cached("0.30", "3.75", "6"));
    let large = Price::flat(Rates::new("5", "30").cached("0.5", "5", "5"));
    Books::default()
        .price("fine", Price::flat(Rates::new("0.0375", "0.150007").cached("0.00000000013", "0.0375", "0.0375")))
        .price("tiered", tiered.above(1000, Rates::new("2.5", "15").cached("0.625", "2.5", "2.5")))
        .price("thinking", Price::flat(Rates::new("2", "8").reasoning("12.34567")))
        .price("hour", sonnet)
        .price("gpt-4o", Price::flat(Rates::new("2.5", "10").cached("1.25", "2.5", "2.5")))
        .price("claude-sonnet-4-5", sonnet)
        .price("large", large.above(272_000, Rates::new("10", "45").cached("1", "10", "10")))
}

/// Deployment, whether it speaks Anthropic's dialect, what it says it used.
fn usages() -> Vec<(&'static str, bool, Tokens)> {
    let cached = |input, output, cache_read| Tokens { cache_read, ..Tokens::new(input, output) };
    let written = |input, output, cache_read, cache_write_5m, cache_write_1h| Tokens {
        cache_read,
        cache_write_5m,
        cache_write_1h,
        ..Tokens::new(input, output)
    };
    let thought = |input, output, reasoning| Tokens { reasoning, ..Tokens::new(input, output) };
    vec![
        ("plain", false, Tokens::new(1, 1)),
        ("plain", false, cached(1234, 56, 1024)),
        ("plain", false, Tokens::new(2, 0)),
        ("azure", false, cached(1234, 56, 1024)),
        ("fine", false, Tokens::new(1, 0)),
        ("fine", false, cached(1023, 333, 511)),
        ("fine", false, cached(7, 0, 7)),
        ("tiered", false, cached(1000, 10, 999)),
        ("tiered", false, cached(1001, 10, 999)),
        ("tiered", false, Tokens::new(1001, 0)),
        ("thinking", false, thought(10, 100, 99)),
        ("thinking", false, thought(10, 1, 1)),
        ("hour", true, written(8300, 400, 5000, 2000, 1000)),
        ("hour", true, written(1000, 1, 0, 0, 1000)),
        ("hour", true, Tokens::new(17, 3)),
        ("gpt-4o", false, cached(1000, 200, 600)),
        ("claude-sonnet-4-5", true, written(8300, 400, 5000, 2000, 1000)),
        ("large", false, Tokens::new(300_000, 1000)),
        ("large", false, Tokens::new(272_000, 1000)),
    ]
}

/// An answer without output says nothing, else nobody would believe it.
fn said(tokens: &Tokens) -> &'static str {
    if tokens.output == 0 { "" } else { "a b c" }
}

fn call(stage: &Stage, model: &str, anthropic: bool, tokens: &Tokens, stream: bool) -> Call {
    // So long that what the provider counts stays within the bound of bytes.
    let mut body = chat(model, &"x ".repeat(tokens.input as usize / 2 + 1), tokens.output.max(16));
    if tokens.cache_write_1h > 0 {
        let text = body["messages"][0]["content"].take();
        body["messages"][0]["content"] =
            json!([{"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]);
    }
    let body = if stream { streamed(body) } else { body };
    let path = if anthropic { "/v1/messages" } else { "/v1/chat/completions" };
    let call = stage.gateway.post(path).key(tollgate_harness::KEY).json(&body);
    if anthropic { call.header("anthropic-version", "2023-06-01") } else { call }
}

fn find<'a>(rows: &'a [SpendRow], reply: &Response) -> &'a SpendRow {
    let id = attempt_id(reply, 1);
    rows.iter().find(|row| row.attempt_id == id).unwrap_or_else(|| panic!("no row of attempt {id}"))
}

#[tokio::test]
async fn unary_answers_cost_what_was_billed_and_headers_and_gauges_say_so() {
    let mut stage =
        Stage::start(|mock| priced_deployments(mock).into_iter().chain([caller(hard("1000"))]).collect()).await;
    let (books, mut answered) = (books(), Vec::new());
    for (model, anthropic, tokens) in usages() {
        let upstream =
            if matches!(model, "gpt-4o" | "claude-sonnet-4-5") { model.to_owned() } else { format!("up-{model}") };
        stage.mock.script(upstream, [Step::usage(said(&tokens), tokens)]);
        let reply = call(&stage, model, anthropic, &tokens, false).send().await.expect(200);
        let cost = books.price_of(model).cost(&tokens);
        let said = reply.header("x-litellm-response-cost").map(nano);
        assert_eq!(said, Some(cost), "{model} {tokens:?}");
        let so_far: i64 = answered.iter().map(|(_, cost)| cost).sum::<i64>() + cost;
        assert_eq!(reply.header("x-litellm-key-spend").map(nano), Some(so_far), "{model} {tokens:?}");
        answered.push((reply, cost));
    }
    let gauge = budget(&stage.gateway, "/caller").await;
    let metrics = stage.gateway.metrics().await;
    assert_eq!(gauges::sum(&metrics, "tollgate_bound_violation_total"), 0.0);
    assert_eq!(gauges::sum(&metrics, "tollgate_ledger_charged_total"), 0.0);
    let rows = books.assert_exact(&mut stage.gateway, &stage.mock).await;
    for (reply, cost) in &answered {
        let row = find(&rows, reply);
        assert_eq!((row.cost_nano_usd, row.status, row.attempt_no), (*cost, 200, 1), "{row:?}");
        assert!(row.cost_nano_usd <= row.held_nano_usd, "the hold was a bound: {row:?}");
    }
    assert_eq!((gauge.spent, gauge.held), (total(&rows), 0));
}

#[tokio::test]
async fn streams_cost_what_was_billed() {
    let mut stage =
        Stage::start(|mock| priced_deployments(mock).into_iter().chain([caller(hard("1000"))]).collect()).await;
    let books = books();
    for (model, anthropic, tokens) in usages() {
        let upstream =
            if matches!(model, "gpt-4o" | "claude-sonnet-4-5") { model.to_owned() } else { format!("up-{model}") };
        stage.mock.script(upstream, [Step::usage(said(&tokens), tokens)]);
        call(&stage, model, anthropic, &tokens, true).stream().await.rest().await;
    }
    wait_until_idle(&stage.gateway).await;
    let gauge = budget(&stage.gateway, "/caller").await;
    assert_eq!(gauges::sum(&stage.gateway.metrics().await, "tollgate_bound_violation_total"), 0.0);
    let rows = books.assert_exact(&mut stage.gateway, &stage.mock).await;
    assert_eq!((rows.len(), gauge.spent), (usages().len(), total(&rows)));
}

#[tokio::test]
async fn a_soft_budget_and_none_at_all_book_the_same() {
    for budget in [Some(soft("1000")), None] {
        let key = budget.map_or_else(objects::caller, caller);
        let mut stage = Stage::start(|mock| priced_deployments(mock).into_iter().chain([key]).collect()).await;
        for (model, anthropic, tokens) in usages() {
            let upstream =
                if matches!(model, "gpt-4o" | "claude-sonnet-4-5") { model.to_owned() } else { format!("up-{model}") };
            stage.mock.script(upstream, [Step::usage(said(&tokens), tokens).repeat(2)]);
            call(&stage, model, anthropic, &tokens, false).send().await.expect(200);
            call(&stage, model, anthropic, &tokens, true).stream().await.rest().await;
        }
        wait_until_idle(&stage.gateway).await;
        books().assert_exact(&mut stage.gateway, &stage.mock).await;
    }
}

#[tokio::test]
async fn a_client_of_the_other_dialect_pays_the_same() {
    let mut stage =
        Stage::start(|mock| priced_deployments(mock).into_iter().chain([caller(hard("1000"))]).collect()).await;
    let books = books();
    for (model, anthropic, tokens) in usages() {
        let upstream =
            if matches!(model, "gpt-4o" | "claude-sonnet-4-5") { model.to_owned() } else { format!("up-{model}") };
        stage.mock.script(upstream, [Step::usage(said(&tokens), tokens).repeat(2)]);
        let cost = books.price_of(model).cost(&tokens);
        let reply = call(&stage, model, !anthropic, &tokens, false).send().await.expect(200);
        assert_eq!(reply.header("x-litellm-response-cost").map(nano), Some(cost), "{model} {tokens:?}");
        call(&stage, model, !anthropic, &tokens, true).stream().await.rest().await;
    }
    wait_until_idle(&stage.gateway).await;
    books.assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn embeddings_and_completions_cost_what_was_billed() {
    let mut stage = Stage::start(|mock| {
        let embedding = rates(objects::openai("embedding", mock), json!([million("InputToken", "0.02")]));
        vec![embedding, objects::deployment("words", mock), caller(hard("10"))]
    })
    .await;
    let books = Books::default().price("embedding", Price::flat(Rates::new("0.02", "0")));
    let send = |path: &str, body: Value| stage.gateway.post(path).key(tollgate_harness::KEY).json(&body).send();
    let mut said = 0;
    for input in [json!("one text"), json!(["two", "texts of some length"]), json!([[1, 2, 3], [4]])] {
        let reply = send("/v1/embeddings", json!({"model": "embedding", "input": input})).await.expect(200);
        said += nano(reply.header("x-litellm-response-cost").expect("a cost"));
    }
    let reply =
        send("/v1/completions", json!({"model": "words", "prompt": "Say it", "max_tokens": 5})).await.expect(200);
    said += nano(reply.header("x-litellm-response-cost").expect("a cost"));
    let rows = books.assert_exact(&mut stage.gateway, &stage.mock).await;
    assert_eq!((rows.len(), total(&rows)), (4, said));
}

#[tokio::test]
async fn the_tier_that_served_decides_on_the_price() {
    let mut stage = Stage::start(|mock| {
        let large = |name: &str| objects::openai(name, mock).set("spec.pricing", json!({"like": "openai/gpt-5.5"}));
        vec![large("flex"), large("priority"), caller(hard("100"))]
    })
    .await;
    let flex = Price::flat(Rates::new("2.5", "15")).above(272_000, Rates::new("5", "22.5"));
    let books = Books::default().price("flex", flex).price("priority", Price::flat(Rates::new("12.5", "75")));
    for (name, tokens, cost) in [
        ("flex", Tokens::new(300_000, 1000), 1_522_500_000),
        ("flex", Tokens::new(1000, 1000), 17_500_000),
        ("priority", Tokens::new(1000, 1000), 87_500_000),
    ] {
        let extra = json!({"service_tier": name}).as_object().expect("fields").clone();
        let reply = Reply { text: Some("a".into()), usage: UsageScript::Tokens(tokens), extra, ..Reply::default() };
        stage.mock.script(format!("up-{name}"), [reply.clone(), reply]);
        let mut body = chat(name, &"x".repeat(tokens.input as usize), 1000);
        // Asked for the dearest, so that it is what is held; what served is what is paid.
        body["service_tier"] = json!("priority");
        let reply = stage.gateway.chat(name).json(&body).send().await.expect(200);
        assert_eq!(reply.header("x-litellm-response-cost").map(nano), Some(cost), "{name}");
        stage.gateway.chat(name).json(&streamed(body)).stream().await.rest().await;
    }
    wait_until_idle(&stage.gateway).await;
    books.assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn more_than_the_hold_is_booked_in_full_and_counted() {
    let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), caller(hard("0.01"))]).await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(1_000_000, 10))]);
    let reply = stage.gateway.chat("m").send().await.expect(200);
    assert_eq!(reply.header("x-litellm-response-cost"), Some("2.5001"));
    assert_eq!(gauges::sum(&stage.gateway.metrics().await, "tollgate_bound_violation_total"), 1.0);
    let reply = stage.gateway.chat("m").send().await.expect(429);
    assert_eq!(reply.header("x-tollgate-error"), Some("budget_exhausted"), "the next admission stops");
    let rows = Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
    assert_eq!(total(&rows), 2_500_100_000);
}

#[tokio::test]
async fn a_free_model_costs_nothing_and_its_row_is_exact() {
    let mut stage = Stage::start(|mock| {
        let free = objects::deployment("free", mock).set("spec.pricing", json!({"free": true}));
        vec![free, caller(hard("0.000000001"))]
    })
    .await;
    let reply = stage.gateway.chat("free").send().await.expect(200);
    assert_eq!(reply.header("x-litellm-response-cost").map(nano), Some(0));
    let books = Books::default().price("free", Price::flat(Rates::new("0", "0")));
    books.assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn a_free_model_passes_a_budget_that_is_spent_and_one_without_a_price_does_not() {
    let mut stage = Stage::start(|mock| {
        let free = objects::deployment("free", mock).set("spec.pricing", json!({"free": true}));
        let unpriced = objects::deployment("unpriced", mock).unset("spec.pricing");
        let key = |name: &str, budget: Value| objects::key(name, &objects::key_text(name)).set("spec.budget", budget);
        vec![objects::deployment("m", mock), free, unpriced, key("hard", hard("0.002")), key("soft", soft("0.002"))]
    })
    .await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 15)).repeat(20)]);
    for (key, unpriced) in [("hard", 403), ("soft", 429)] {
        let ask = async |model: &str| {
            let body = json!({"model": model, "max_tokens": 15, "messages": [{"role": "user", "content": "Hello"}]});
            stage.gateway.chat(model).key(&objects::key_text(key)).json(&body).send().await
        };
        let mut answered = 0;
        while ask("m").await.status == 200 {
            answered += 1;
            assert!(answered < 6, "each costs a fifth");
        }
        ask("free").await.expect(200);
        ask("m").await.expect(429);
        // What is not known is not free.
        ask("unpriced").await.expect(unpriced);
    }
    let books = Books::default().price("free", Price::flat(Rates::new("0", "0")));
    books.assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn the_price_of_when_a_call_began_is_what_it_costs() {
    let priced = |mock: &Mock, input: &str| {
        objects::deployment("m", mock)
            .set("spec.pricing", json!({"perMillionTokens": {"input": input, "output": "10"}}))
    };
    let mut stage = Stage::start(|mock| vec![priced(mock, "1"), caller(hard("1"))]).await;
    let dearer = priced(&stage.mock, "2");
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 10)).gate("go").repeat(2)]);
    let before = tokio::spawn(stage.gateway.chat("m").send());
    tollgate_harness::patiently("it at the provider", stage.mock.wait_at_gate("go", 1)).await;
    stage
        .edit(|objects| {
            let at = objects.iter().position(|object| object.id() == dearer.id()).expect("it is there");
            objects[at] = dearer;
        })
        .await;
    stage.mock.open_gate("go");
    let before = before.await.expect("it ends").expect(200);
    let after = stage.gateway.chat("m").send().await.expect(200);
    let cost = |reply: &Response| reply.header("x-litellm-response-cost").map(nano);
    assert_eq!((cost(&before), cost(&after)), (Some(200_000), Some(300_000)));
    stage.gateway.stop().await;
    let rows = tollgate_harness::ledger_rows(stage.gateway.data());
    assert_eq!((find(&rows, &before).cost_nano_usd, find(&rows, &after).cost_nano_usd), (200_000, 300_000));
}
