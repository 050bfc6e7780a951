//! What a deployment's own parameters change of a call is held too; and what costs something although it failed is booked.

use tollgate_harness::{Failure, Mock, Object, Reply, Stage, Tokens, Value, json, objects};
use tollgate_money_tests::books::Books;
use tollgate_money_tests::gauges::{sum, wait_until_idle};
use tollgate_money_tests::setup::{caller, chat, hard, tries_once};

/// Nano-USD of a token of output, and of input at its dearest.
const OUTPUT: i64 = 10_000;
const INPUT: i64 = 3_125;

fn with(name: &str, mock: &Mock, parameters: Value) -> Object {
    objects::deployment(name, mock).set("spec.parameters", parameters)
}

#[tokio::test]
async fn what_parameters_make_of_a_call_is_held() {
    let mut stage = Stage::start(|mock| {
        let forced = |name: &str, fields: Value| with(name, mock, json!({"forced": fields}));
        vec![
            forced("more", json!({"max_tokens": 300})),
            forced("less", json!({"max_tokens": 30})),
            with("usual", mock, json!({"defaults": {"max_tokens": 40}})),
            forced("answers", json!({"n": 3})),
            with("unbounded", mock, json!({"drop": ["max_tokens"]})),
            with("bounded", mock, json!({"drop": ["max_tokens"]})).set("spec.maxOutputTokens", 500),
            with("again", mock, json!({"drop": ["max_tokens"], "defaults": {"max_tokens": 60}})),
            forced("longer", json!({"note": "x".repeat(1000)})),
            caller(hard("50")),
            tries_once(),
        ]
    })
    .await;
    // A model that talks as long as it may.
    let none = |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]});
    let cases = [
        ("more", chat("more", "Hello", 50), 300, 300),
        ("more", none("more"), 300, 300),
        ("less", chat("less", "Hello", 50), 50, 30),
        ("usual", chat("usual", "Hello", 50), 50, 50),
        ("usual", none("usual"), 40, 40),
        ("answers", chat("answers", "Hello", 50), 150, 150),
        ("bounded", chat("bounded", "Hello", 50), 500, 400),
        ("again", chat("again", "Hello", 50), 60, 60),
        ("again", none("again"), 60, 60),
    ];
    for (model, body, held, used) in &cases {
        stage.mock.script(format!("up-{model}"), [Reply { chunks: Some(400), ..Reply::default() }]);
        let answer = stage.gateway.post("/v1/chat/completions").key(tollgate_harness::KEY).json(body).send().await;
        let usage = answer.expect(200).json()["usage"]["completion_tokens"].clone();
        assert_eq!(usage, *used, "{body}, of which {held} are held");
    }
    let body = chat("unbounded", "Hello", 50);
    let refused = stage.gateway.post("/v1/chat/completions").key(tollgate_harness::KEY).json(&body).send().await;
    assert_eq!(
        (refused.status, refused.header("x-tollgate-error")),
        (403, Some("cost_unbounded")),
        "{}",
        refused.text()
    );
    let long = chat("longer", "Hello", 50);
    stage.gateway.post("/v1/chat/completions").key(tollgate_harness::KEY).json(&long).send().await.expect(200);
    wait_until_idle(&stage.gateway).await;
    assert_eq!(sum(&stage.gateway.metrics().await, "tollgate_bound_violation_total"), 0.0);
    let rows = Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
    let mut held: Vec<(String, i64)> = rows.iter().map(|row| (row.model.clone(), row.held_nano_usd)).collect();
    let hold =
        |body: &Value, added: i64, output: i64| (body.to_string().len() as i64 + 256 + added) * INPUT + output * OUTPUT;
    let added = |model: &str| match model {
        "more" | "usual" => r#""max_tokens":300,"#.len() as i64 - i64::from(model == "usual"),
        "less" | "again" => r#""max_tokens":30,"#.len() as i64,
        "answers" => r#""n":3,"#.len() as i64,
        "longer" => r#""note":"","#.len() as i64 + 1000,
        _ => 0,
    };
    let mut expected: Vec<(String, i64)> = cases
        .iter()
        .map(|(model, body, held, _)| ((*model).to_owned(), hold(body, added(model), *held)))
        .chain([("longer".to_owned(), hold(&long, added("longer"), 50))])
        .collect();
    held.sort();
    expected.sort();
    assert_eq!(held, expected);
}

#[tokio::test]
async fn an_error_that_tells_a_usage_is_booked() {
    let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), caller(hard("1")), tries_once()]).await;
    let body = json!({
        "error": {"message": "the answer was filtered", "type": "invalid_request_error", "code": "content_filter"},
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
    });
    let bill = Some(Tokens::new(9, 4));
    let failure = Failure { status: Some(400), body: Some(body.to_string().into()), bill, ..Failure::default() };
    stage.mock.script("up-m", [failure]);
    stage.gateway.chat("m").send().await.expect(400);
    let rows = Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
    assert_eq!((rows.len(), rows[0].outcome.as_str(), rows[0].output_tokens, rows[0].status), (1, "exact", 4, 400));
}
