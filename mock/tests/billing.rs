//! The invoice: what is billed to clients that stay and to clients that leave; and control over HTTP.

mod client;

use client::{ANTHROPIC, CHAT, MESSAGES, call, chat, message, mock, open, post, read_until};
use serde_json::{Value, json};
use tollgate_mock::{CancelBilling, Cut, CutHow, InvoiceRow, Mock, Options, Reply, Step, Tokens, UsageScript};

const TOKENS: Tokens =
    Tokens { input: 100, output: 50, cache_read: 40, cache_write_5m: 10, cache_write_1h: 5, reasoning: 0 };

/// Streams ten words worth 50 tokens, and leaves after four of them.
async fn leave_in_the_middle(cancel_billing: CancelBilling) -> InvoiceRow {
    let mock = Mock::start(Options { cancel_billing, ..Options::default() }).await.unwrap();
    let reply = Reply {
        chunks: Some(10),
        usage: UsageScript::Tokens(TOKENS),
        cut: Some(Cut { after_events: Some(5), how: CutHow::Gate("never".into()), ..Cut::default() }),
        ..Reply::default()
    };
    mock.script("m", [reply]);
    let body = chat("hi", json!({"stream": true, "stream_options": {"include_usage": true}}));
    let mut socket = open(mock.addr(), CHAT, &[("x-request-id", "abc")], &body).await;
    mock.wait_at_gate("never", 1).await;
    read_until(&mut socket, "word4").await;
    drop(socket);
    mock.wait_for_invoice(1).await.remove(0)
}

#[tokio::test]
async fn a_client_that_leaves_pays_what_was_produced() {
    let row = leave_in_the_middle(CancelBilling::Stops).await;
    assert_eq!((row.input_tokens, row.output_tokens, row.cache_read), (100, 20, 40));
    assert_eq!((row.cache_write_5m, row.cache_write_1h), (10, 5));
    assert!(row.client_gone && row.billed && row.stream && !row.completed && !row.usage_sent);
    assert_eq!((row.status, row.request_id.as_deref()), (Some(200), Some("abc")));
    assert!(row.bytes_sent > 0);
}

#[tokio::test]
async fn or_everything_where_the_provider_does_not_stop() {
    let row = leave_in_the_middle(CancelBilling::Full).await;
    assert_eq!((row.input_tokens, row.output_tokens), (100, 50));
    assert!(row.client_gone && !row.completed);
}

#[tokio::test]
async fn a_computed_answer_is_billed_even_if_nobody_reads_it() {
    let mock = mock().await;
    let hang = Cut { after_bytes: Some(3), how: CutHow::Hang, ..Cut::default() };
    mock.script("m", [Reply { usage: UsageScript::Tokens(TOKENS), cut: Some(hang), ..Reply::default() }]);
    let mut socket = open(mock.addr(), CHAT, &[], &chat("hi", json!({}))).await;
    read_until(&mut socket, "\r\n\r\n").await;
    drop(socket);
    let row = mock.wait_for_invoice(1).await.remove(0);
    assert_eq!((row.input_tokens, row.output_tokens), (100, 50));
    assert!(row.client_gone && row.billed && !row.completed);
}

#[tokio::test]
async fn the_bill_may_differ_from_what_the_answer_says() {
    let mock = mock().await;
    let liar = Reply { usage: UsageScript::Tokens(TOKENS), bill: Some(Tokens::new(7, 8)), ..Reply::default() };
    mock.script("c", [liar]);
    let said = post(&mock, MESSAGES, ANTHROPIC, &message("hi", json!({}))).await.json();
    assert_eq!((&said["usage"]["input_tokens"], &said["usage"]["output_tokens"]), (&json!(45), &json!(50)));
    let row = mock.wait_for_invoice(1).await.remove(0);
    assert_eq!((row.input_tokens, row.output_tokens), (7, 8));
}

#[tokio::test]
async fn every_completed_answer_says_what_it_costs() {
    let mock = mock().await;
    let requests = [
        (CHAT, &[][..], chat("some words to count", json!({}))),
        (CHAT, &[], chat("some words", json!({"stream": true, "n": 2, "stream_options": {"include_usage": true}}))),
        (MESSAGES, ANTHROPIC, message("and others", json!({"stream": true, "thinking": {"type": "enabled"}}))),
        (MESSAGES, ANTHROPIC, message("and more", json!({}))),
    ];
    for (at, (path, headers, body)) in requests.into_iter().enumerate() {
        let answer = post(&mock, path, headers, &body).await;
        let told = if body["stream"] == true {
            let events = answer.events();
            events.into_iter().map(|event| event["usage"].clone()).rfind(Value::is_object).expect("usage")
        } else {
            answer.json()["usage"].clone()
        };
        let row = mock.wait_for_invoice(at + 1).await.remove(at);
        let input = told["prompt_tokens"].as_u64().or_else(|| told["input_tokens"].as_u64());
        let output = told["completion_tokens"].as_u64().or_else(|| told["output_tokens"].as_u64());
        assert_eq!((input, output), (Some(row.input_tokens), Some(row.output_tokens)), "{path}");
        assert!(row.completed && row.usage_sent && !row.client_gone);
        assert_eq!(row.bytes_sent, answer.body.len() as u64);
    }
}

#[tokio::test]
async fn the_mock_is_controlled_over_http() {
    let mock = mock().await;
    let script =
        json!({"model": "m", "steps": [{"reply": {"text": "scripted"}, "repeat": 2}, {"error": {"status": 503}}]});
    assert_eq!(post(&mock, "/_mock/script", &[], &script).await.json(), json!({"steps": 2}));
    let said = post(&mock, CHAT, &[("x-request-id", "r1")], &chat("hi", json!({}))).await.json();
    assert_eq!(said["choices"][0]["message"]["content"], "scripted");
    assert_eq!(call(&mock, "DELETE", "/_mock/script", &[], b"").await.status, 200);
    assert_eq!(post(&mock, CHAT, &[], &chat("hi", json!({}))).await.status, 200);

    let status = call(&mock, "GET", "/_mock/wait?rows=2&in_flight=0", &[], b"").await.json();
    assert_eq!(status, json!({"in_flight": 0, "requests": 2, "rows": 2, "scripted": 0}));
    let rows = call(&mock, "GET", "/_mock/invoice", &[], b"").await.json();
    let rows: Vec<InvoiceRow> = serde_json::from_value(rows["rows"].clone()).unwrap();
    assert_eq!(rows, mock.invoice());
    let seen = call(&mock, "GET", "/_mock/requests", &[], b"").await.json();
    assert_eq!((&seen["requests"][0]["path"], &seen["requests"][0]["method"]), (&json!(CHAT), &json!("POST")));
    assert_eq!(mock.requests()[0].header("x-request-id"), Some("r1"));
    assert_eq!(mock.requests()[0].json()["model"], "m");

    for (method, path) in [("DELETE", "/_mock/invoice"), ("DELETE", "/_mock/requests"), ("POST", "/_mock/gate/g")] {
        assert_eq!(call(&mock, method, path, &[], b"").await.status, 200, "{path}");
    }
    assert!(mock.invoice().is_empty() && mock.requests().is_empty());
    mock.script("m", [Step::text("open").gate("g")]);
    assert_eq!(post(&mock, CHAT, &[], &chat("hi", json!({}))).await.status, 200);
    let bad = post(&mock, "/_mock/script", &[], &json!({"steps": [{"replay": {}}]})).await;
    assert_eq!(bad.status, 400);
    assert_eq!(call(&mock, "GET", "/_mock/wait?rowz=1", &[], b"").await.status, 400);
    assert_eq!(call(&mock, "GET", "/_mock/nothing", &[], b"").await.status, 404);
}

#[tokio::test]
async fn only_the_newest_requests_and_rows_are_remembered() {
    let mock = Mock::start(Options { keep_requests: 2, keep_invoice: 2, ..Options::default() }).await.unwrap();
    for _ in 0..3 {
        post(&mock, CHAT, &[], &chat("hi", json!({}))).await;
    }
    let rows = mock.wait_for_invoice(3).await;
    assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(mock.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_runs_in_a_task_until_cancelled_on_many_threads() {
    let (ready, addr) = tokio::sync::oneshot::channel();
    let (cancel, cancelled) = tokio::sync::oneshot::channel::<()>();
    let announce = move |addr| ready.send(addr).expect("the test waits");
    let running = tokio::spawn(Mock::run(Options::default(), announce, async {
        let _ = cancelled.await;
    }));
    let addr = addr.await.unwrap();
    let mut socket = open(addr, CHAT, &[], &chat("hi", json!({}))).await;
    read_until(&mut socket, "Hello!").await;
    cancel.send(()).unwrap();
    running.await.unwrap().unwrap();
}
