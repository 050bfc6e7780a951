//! The cap on output that is sent along where the client names none: the least of all that bound it, and never in the
//! place of one that the client named.

use tollgate_harness::{Stage, json, objects};
use tollgate_money_tests::books::Books;
use tollgate_money_tests::gauges::nano;
use tollgate_money_tests::setup::{caller, chat, hard, soft};

/// The cap that the provider saw last.
fn sent(stage: &Stage) -> Option<u64> {
    let body = stage.last_seen().json();
    body["max_tokens"].as_u64().or(body["max_completion_tokens"].as_u64())
}

#[tokio::test]
async fn it_is_the_least_of_the_keys_and_the_gateways() {
    for (of_gateway, of_key, expected) in [(500, None, 500), (500, Some(300), 300), (200, Some(300), 200)] {
        let mut stage = Stage::start(|mock| {
            let key = caller(hard("100"));
            let key = match of_key {
                Some(cap) => key.set("spec.maxOutputTokens", cap),
                None => key,
            };
            let gateway = objects::gateway().set("spec.defaults.maxOutputTokens", of_gateway);
            vec![objects::deployment("m", mock), gateway, key]
        })
        .await;
        stage.gateway.chat("m").send().await.expect(200);
        assert_eq!(sent(&stage), Some(expected), "gateway {of_gateway}, key {of_key:?}");
        // What the client names is what is sent, also above these.
        stage.gateway.chat("m").json(&chat("m", "Hello", 700)).send().await.expect(200);
        assert_eq!(sent(&stage), Some(700));
        Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
    }
}

#[tokio::test]
async fn it_is_a_share_of_what_is_left_and_a_soft_budget_needs_none() {
    let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), caller(hard("0.02"))]).await;
    stage.gateway.chat("m").send().await.expect(200);
    // A quarter of what is left, at 0.00001 USD for a token of output.
    let most = u64::try_from(nano("0.02") / 4 / 10_000).expect("positive");
    let cap = sent(&stage).expect("a cap is sent along");
    assert!((16..=most).contains(&cap), "{cap} of at most {most}");
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;

    let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), caller(soft("0.02"))]).await;
    stage.gateway.chat("m").send().await.expect(200);
    assert_eq!(sent(&stage), None);
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn a_cap_that_the_client_named_is_refused_rather_than_cut() {
    let mut stage = Stage::start(|mock| {
        let gateway = objects::gateway().set("spec.defaults.reservedWait", "10ms");
        vec![objects::deployment("m", mock), gateway, caller(hard("0.02"))]
    })
    .await;
    let refusal = stage.gateway.chat("m").json(&chat("m", "Hello", 5_000)).send().await.expect(429);
    assert_eq!(refusal.json()["error"]["type"], json!("budget_exceeded"), "{}", refusal.text());
    assert!(stage.mock.requests().is_empty());
    stage.gateway.chat("m").json(&chat("m", "Hello", 1_000)).send().await.expect(200);
    assert_eq!(sent(&stage), Some(1_000));
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}
