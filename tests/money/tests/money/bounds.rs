//! What is billed beyond the tokens of a text: what a provider reports itself, what it finds in the web, what it guesses in
//! vain. Under a Hard budget each is within what was held, or refused before anybody is asked.

use tollgate_harness::{
    KEY, Mock, Object, Reply, SpendRow, Stage, Step, UsageScript, Value, json, ledger_rows, objects,
};
use tollgate_money_tests::gauges::{nano, sum, wait_until_idle};
use tollgate_money_tests::setup::{caller, chat, hard, soft, streamed, tries_once};

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";

fn with(mut body: Value, fields: Value) -> Value {
    let fields = fields.as_object().expect("fields").clone();
    body.as_object_mut().expect("an object").extend(fields);
    body
}

/// A deployment of this provider, whose model is called so there.
fn at(name: &str, provider: &str, model: &str, mock: &Mock) -> Object {
    objects::deployment(name, mock).set("spec.provider", provider).set("spec.model", model)
}

/// The same, priced like a model of the list.
fn like(deployment: Object, model: &str) -> Object {
    deployment.unset("spec.pricing").set("spec.pricing", json!({"like": model}))
}

/// An answer that tells this usage.
fn used(usage: Value) -> Step {
    Reply { usage: UsageScript::Raw(usage), ..Reply::default() }.into()
}

async fn ask(stage: &Stage, path: &str, body: &Value) -> tollgate_harness::Response {
    stage.gateway.post(path).key(KEY).header("anthropic-version", "2023-06-01").json(body).send().await
}

/// Stops; nothing cost more than was held for it, and all of it no more than the limit.
async fn within(mut stage: Stage, limit: &str) -> Vec<SpendRow> {
    wait_until_idle(&stage.gateway).await;
    assert_eq!(sum(&stage.gateway.metrics().await, "tollgate_bound_violation_total"), 0.0);
    stage.gateway.stop().await;
    let rows = ledger_rows(stage.gateway.data());
    assert!(rows.iter().all(|row| row.outcome == "exact" && row.cost_nano_usd <= row.held_nano_usd), "{rows:#?}");
    assert!(rows.iter().map(|row| row.cost_nano_usd).sum::<i64>() <= nano(limit), "{rows:#?}");
    rows
}

/// What rows held, the least first: calls of one millisecond have no order.
fn held(rows: &[SpendRow]) -> Vec<i64> {
    let mut held: Vec<i64> = rows.iter().map(|row| row.held_nano_usd).collect();
    held.sort_unstable();
    held
}

#[tokio::test]
async fn a_router_is_told_the_rates_that_were_held_and_what_it_reports_is_within_them() {
    let rates = |prompt: &str, completion: &str| json!({"prompt": prompt, "completion": completion, "request": "0"});
    // What the deployment says, what the call says, and what the router is told.
    let cases = [
        (None, json!({}), json!({"max_price": rates("2.5", "10")})),
        (None, json!({"stream": true}), json!({"max_price": rates("2.5", "10")})),
        (None, json!({"provider": null}), json!({"max_price": rates("2.5", "10")})),
        (
            Some(json!({"sort": "price", "max_price": {"prompt": 1, "completion": 99}})),
            json!({}),
            json!({"sort": "price", "max_price": {"prompt": 1, "completion": "10", "request": "0"}}),
        ),
    ];
    let stage = Stage::start(|mock| {
        let plain = at("m", "openrouter", "vendor/model", mock);
        let own = cases.iter().find_map(|(own, ..)| own.clone()).expect("one has its own");
        let forced =
            at("own", "openrouter", "vendor/model", mock).set("spec.parameters", json!({"forced": {"provider": own}}));
        vec![plain, forced, caller(hard("1")), tries_once()]
    })
    .await;
    // As dear as the caps allow: 50 tokens of input, and all of the output.
    let usage = json!({"prompt_tokens": 50, "completion_tokens": 100, "total_tokens": 150, "cost": 0.001125});
    stage.mock.script("vendor/model", [used(usage).repeat(20)]);
    for (own, fields, expected) in &cases {
        let model = if own.is_some() { "own" } else { "m" };
        ask(&stage, CHAT, &with(chat(model, "Hello", 100), fields.clone())).await.expect(200);
        let sent = stage.mock.requests().pop().expect("it was sent").json();
        assert_eq!(sent["provider"], *expected, "{fields}");
    }
    let rows = within(stage, "1").await;
    assert!(rows.iter().all(|row| row.cost_nano_usd == 1_125_000), "{rows:#?}");
}

#[tokio::test]
async fn only_hard_budgets_of_usd_cap_what_a_router_pays() {
    for budget in [soft("1"), json!({"limit": "100000", "unit": "Tokens", "period": {"lifetime": {}}})] {
        let stage =
            Stage::start(|mock| vec![at("m", "openrouter", "vendor/model", mock), caller(budget.clone())]).await;
        ask(&stage, CHAT, &chat("m", "Hello", 100)).await.expect(200);
        assert!(stage.mock.requests()[0].json().get("provider").is_none(), "{budget}");
    }
}

#[tokio::test]
async fn a_fee_of_the_router_alone_is_not_taken_for_the_cost() {
    let mut stage = Stage::start(|mock| vec![at("m", "openrouter", "vendor/model", mock), caller(hard("1"))]).await;
    let usage = json!({"prompt_tokens": 50, "completion_tokens": 100, "cost": 0.00005, "is_byok": true,
        "cost_details": {"upstream_inference_cost": 0.001}});
    stage.mock.script("vendor/model", [used(usage).repeat(2)]);
    for body in [chat("m", "Hello", 100), streamed(chat("m", "Hello", 100))] {
        ask(&stage, CHAT, &body).await.expect(200);
    }
    wait_until_idle(&stage.gateway).await;
    stage.gateway.stop().await;
    for row in ledger_rows(stage.gateway.data()) {
        assert_eq!((row.outcome.as_str(), row.cost_nano_usd), ("exact", 50 * 2_500 + 100 * 10_000), "{row:?}");
    }
}

#[tokio::test]
async fn what_nothing_bounds_is_refused_before_anybody_is_asked() {
    let mut stage = Stage::start(|mock| {
        let priced_by_citations = like(objects::deployment("cites", mock), "perplexity/sonar-deep-research");
        vec![
            at("online", "openrouter", "vendor/model:online", mock),
            at("any", "openrouter", "*", mock).set("spec.modelNames", json!(["any/*"])),
            at("deep", "perplexity", "sonar-deep-research", mock),
            at("pro", "perplexity", "sonar-pro", mock),
            at("router", "openrouter", "vendor/model", mock),
            at("compound", "groq", "groq/compound-mini", mock),
            objects::anthropic("claude", mock),
            priced_by_citations,
            tries_once(),
            caller(hard("9")),
        ]
    })
    .await;
    let tool = |kind: &str| json!({"tools": [{"type": kind, "name": "x", "max_uses": 1}]});
    let refused = [
        (CHAT, chat("online", "Hi", 9)),
        (CHAT, chat("any/vendor/model:online", "Hi", 9)),
        (CHAT, chat("deep", "Hi", 9)),
        (CHAT, chat("compound", "Hi", 9)),
        (CHAT, chat("cites", "Hi", 9)),
        (CHAT, with(chat("pro", "Hi", 9), json!({"web_search_options": {"search_type": "pro"}}))),
        (CHAT, with(chat("router", "Hi", 9), json!({"web_search_options": {}}))),
        // The size of its context is not known.
        (MESSAGES, with(chat("claude", "Hi", 9), tool("web_search_20250305"))),
        (MESSAGES, with(chat("claude", "Hi", 9), tool("code_execution_20250825"))),
        (CHAT, with(chat("router", "Hi", 9), tool("web_search"))),
    ];
    for (path, body) in &refused {
        let answer = ask(&stage, path, body).await.expect(403);
        assert_eq!(answer.header("x-tollgate-error"), Some("cost_unbounded"), "{body}");
    }
    assert_eq!(stage.mock.requests().len(), 0);
    for body in [chat("any/vendor/model", "Hi", 9), chat("router", "Hi", 9)] {
        ask(&stage, CHAT, &body).await.expect(200);
    }
    stage.edit(|objects| *objects.last_mut().expect("the key") = caller(soft("9"))).await;
    for (path, body) in &refused[..8] {
        ask(&stage, path, body).await.expect(200);
    }
    stage.gateway.stop().await;
}

#[tokio::test]
async fn what_is_found_in_the_web_is_held_as_often_as_the_model_can_read_its_context() {
    // Of claude-sonnet-4-5, USD for a million: 3.75 a token written to a cache, 15 a token of output; a search 0.01 each.
    const CONTEXT: i64 = 200_000;
    let search = |fields: Value| with(json!({"type": "web_search_20250305", "name": "web_search"}), fields);
    let fetch = |fields: Value| with(json!({"type": "web_fetch_20250910", "name": "web_fetch"}), fields);
    let cases = [
        // Tools, turns after the first, searches that are held.
        (json!([search(json!({"max_uses": 1}))]), 2, 10),
        (json!([search(json!({"max_uses": 3})), fetch(json!({"max_uses": 2}))]), 6, 10),
        (json!([fetch(json!({"max_uses": 2}))]), 3, 0),
        (json!([search(json!({"max_uses": 40}))]), 9, 40),
        (json!([search(json!({}))]), 9, 10),
        (json!([{"type": "web_search_20260209", "name": "web_search", "max_uses": 1}]), 9, 10),
        (json!([{"name": "web_search", "input_schema": {"type": "object"}}]), 0, 10),
    ];
    let stage = Stage::start(|mock| {
        vec![like(objects::anthropic("a", mock), "anthropic/claude-sonnet-4-5"), caller(hard("60")), tries_once()]
    })
    .await;
    let mut expected = Vec::new();
    for (tools, turns, searches) in &cases {
        // As dear as it can be: each turn writes a full context.
        let input = 100 + turns * CONTEXT;
        let usage = json!({"input_tokens": 100, "cache_creation_input_tokens": input - 100, "output_tokens": 16,
            "server_tool_use": {"web_search_requests": if *turns > 0 { *searches } else { 0 }}});
        stage.mock.script("up-a", [used(usage)]);
        let body = with(chat("a", "What is new?", 16), json!({"tools": tools}));
        ask(&stage, MESSAGES, &body).await.expect(200);
        let text = body.to_string().len() as i64 + 256;
        expected.push((text + turns * CONTEXT) * 3_750 + 16 * 15_000 + searches * 10_000_000);
    }
    // A header makes the context longer.
    let body = with(chat("a", "What is new?", 16), json!({"tools": [fetch(json!({"max_uses": 1}))]}));
    let call = stage.gateway.post(MESSAGES).key(KEY).header("anthropic-version", "2023-06-01");
    call.header("anthropic-beta", "context-1m-2025-08-07").json(&body).send().await.expect(200);
    expected.push((body.to_string().len() as i64 + 256 + 2 * 1_000_000) * 3_750 + 16 * 15_000);
    expected.sort_unstable();
    assert_eq!(held(&within(stage, "60").await), expected);
}

#[tokio::test]
async fn a_model_that_reads_what_its_search_finds_holds_its_context() {
    // 1.25 USD a million of input, 10 of output; a search 0.01.
    let stage = Stage::start(|mock| {
        let reads = at("reads", "openai", "gpt-5-search-api", mock).unset("spec.pricing");
        let frees = at("frees", "openai", "gpt-4o-search-preview", mock).unset("spec.pricing");
        vec![reads, frees, caller(hard("3")), tries_once()]
    })
    .await;
    let usage = json!({"prompt_tokens": 200_000, "completion_tokens": 16, "total_tokens": 200_016});
    stage.mock.script("gpt-5-search-api", [used(usage)]);
    for model in ["reads", "frees"] {
        ask(&stage, CHAT, &chat(model, "What is new?", 16)).await.expect(200);
    }
    let rows = within(stage, "3").await;
    let held = |model: &str| rows.iter().find(|row| row.model == model).expect("a row").held_nano_usd;
    assert!(held("reads") > 272_000 * 1_250 && held("frees") < 30_000_000, "{rows:#?}");
}

#[tokio::test]
async fn a_prediction_that_does_not_come_true_is_held_as_output() {
    let guess = "x".repeat(900);
    let mut body = chat("m", "Change a letter.", 16);
    body["prediction"] = json!({"type": "content", "content": guess});
    let prediction = body["prediction"].to_string().len() as i64;
    let stage = Stage::start(|mock| vec![objects::openai("m", mock), caller(hard("0.5")), tries_once()]).await;
    let usage = json!({"prompt_tokens": 20, "completion_tokens": 916, "total_tokens": 936,
        "completion_tokens_details": {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 900}});
    stage.mock.script("up-m", [used(usage).repeat(2)]);
    let mut expected = Vec::new();
    for body in [body.clone(), streamed(body.clone())] {
        ask(&stage, CHAT, &body).await.expect(200);
        expected.push((body.to_string().len() as i64 + 256) * 3_125 + (16 + prediction) * 10_000);
    }
    let rows = within(stage, "0.5").await;
    assert_eq!(held(&rows), expected);
    assert!(rows.iter().all(|row| row.cost_nano_usd == 20 * 2_500 + 916 * 10_000), "{rows:#?}");
}
