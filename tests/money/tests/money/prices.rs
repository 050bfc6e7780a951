//! Prices of a gateway: what overlays make of a call's cost, which price a row names, and factors on the whole cost.

use tollgate_harness::{Response, Stage, Step, Tokens, Value, json, objects, price_versions};
use tollgate_money_tests::gauges::nano;
use tollgate_money_tests::setup::{caller, hard, tries_once};

fn cost(reply: &Response) -> Option<i64> {
    reply.header("x-litellm-response-cost").map(nano)
}

fn overlays(overlays: Value) -> tollgate_harness::Object {
    tries_once().set("spec.prices", json!({ "overlays": overlays }))
}

#[tokio::test]
async fn the_overlays_of_when_a_call_began_are_what_it_costs_and_its_row_names_them() {
    let own = json!({"name": "own", "provider": "openai-compatible",
        "pricing": {"perMillionTokens": {"input": "1", "output": "10"}}});
    let before = overlays(json!([own]));
    let after = overlays(json!([own, {"name": "margin", "surchargePercent": "50"}]));
    let mut stage =
        Stage::start(|mock| vec![before, objects::deployment("m", mock).unset("spec.pricing"), caller(hard("1"))])
            .await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 10)).gate("go").repeat(2)]);
    let first = tokio::spawn(stage.gateway.chat("m").send());
    tollgate_harness::patiently("it at the provider", stage.mock.wait_at_gate("go", 1)).await;
    stage
        .edit(|objects| {
            let at = objects.iter().position(|object| object.id() == after.id()).expect("the gateway is there");
            objects[at] = after;
        })
        .await;
    stage.mock.open_gate("go");
    let first = first.await.expect("it ends").expect(200);
    let second = stage.gateway.chat("m").send().await.expect(200);
    assert_eq!((cost(&first), cost(&second)), (Some(200_000), Some(300_000)));
    let metrics = stage.gateway.metrics().await;
    let info = metrics.lines().find(|line| line.starts_with("tollgate_price_info{")).expect("the price is told");
    stage.gateway.stop().await;
    let versions = price_versions(stage.gateway.data());
    let [first, second] = &versions[..] else { panic!("{versions:?}") };
    assert!(first.starts_with("overlay own #"), "{first}");
    assert!(second.starts_with("overlay margin (+50%) over overlay own #"), "{second}");
    assert!(info.contains(&format!("version=\"{second}\"")), "{info}");
}

#[tokio::test]
async fn a_fast_call_and_one_bound_to_a_place_cost_their_factor() {
    let like = json!({"like": "anthropic/claude-opus-4-8"});
    let mut stage = Stage::start(|mock| {
        vec![tries_once(), objects::anthropic("a", mock).set("spec.pricing", like), caller(hard("1"))]
    })
    .await;
    stage.mock.script("up-a", [Step::usage("x", Tokens::new(100, 10)).repeat(4)]);
    let body =
        json!({"model": "a", "max_tokens": 20, "messages": [{"role": "user", "content": "\"speed\": \"fast\""}]});
    let mut costs = Vec::new();
    for more in [
        json!({}),
        json!({"speed": "fast"}),
        json!({"speed": "standard", "inference_geo": "us"}),
        json!({"speed": "fast", "inference_geo": "us"}),
    ] {
        let mut body = body.clone();
        let fields = more.as_object().expect("fields").clone();
        body.as_object_mut().expect("an object").extend(fields);
        let reply = stage.gateway.message("a").json(&body).send().await.expect(200);
        costs.push(cost(&reply).expect("a cost"));
    }
    // 100 tokens at $5 and 10 at $25 for a million.
    assert_eq!(costs, [750_000, 1_500_000, 825_000, 1_650_000]);
    stage.gateway.stop().await;
    for row in tollgate_harness::ledger_rows(stage.gateway.data()) {
        assert!(row.held_nano_usd >= row.cost_nano_usd, "{row:?}");
    }
}
