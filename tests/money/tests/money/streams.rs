//! Streams whose provider bills only what it sent: held slice by slice under Hard budgets, ended when nothing is left, and
//! charged no less than their bill whatever happens to them.

use std::time::Duration;

use tollgate_harness::{
    Call, CancelBilling, Cut, CutHow, KEY, Mock, Object, Options, RawSocket, Reply, SpendRow, Stage, Starter, Step,
    Streaming, Tokens, UsageScript, Value, json, objects, patiently,
};
use tollgate_money_tests::books::{Books, Mode, total};
use tollgate_money_tests::gauges::{BudgetGauge, budget, nano, sum, wait_for, wait_until_idle};
use tollgate_money_tests::kills::kill_under;
use tollgate_money_tests::setup::{caller, chat, hard, streamed, tries_once};

/// Nano-USD of a token of output.
const OUTPUT: i64 = 10_000;

/// Output tokens that a long stream holds at first, where nothing is known of its deployment; the least that it does; and
/// those that may be ahead of what arrived.
const FIRST: i64 = 2048;
const LEAST: i64 = 1536;
const LEAD: i64 = 512;

/// Far more than any answer here.
const CAP: u64 = 20_000;

/// A server that stops when the connection is closed.
fn vllm(name: &str, mock: &Mock) -> Object {
    objects::deployment(name, mock).set("spec.provider", "vllm")
}

/// `words` tokens, one in each event, at a pace that a reader can follow.
fn talk(words: usize) -> Reply {
    Reply { chunks: Some(words), chunk_delay_ms: 2, ..Reply::default() }
}

fn cut(after_events: usize, how: CutHow) -> Option<Cut> {
    Some(Cut { after_events: Some(after_events), how, ..Cut::default() })
}

fn long_stream(stage: &Stage, model: &str) -> Call {
    stage.gateway.post("/v1/chat/completions").key(KEY).json(&streamed(chat(model, "Tell me a long story.", CAP)))
}

/// What such a call holds without any output: its input at the dearest rate.
fn input_hold(model: &str) -> i64 {
    let body = streamed(chat(model, "Tell me a long story.", CAP)).to_string();
    (body.len() as i64 + 256) * 3_125
}

async fn held(stage: &Stage) -> i64 {
    budget(&stage.gateway, "/caller").await.held
}

async fn gauge(stage: &Stage) -> BudgetGauge {
    budget(&stage.gateway, "/caller").await
}

/// Stops, and holds the ledger against the invoice: exact where the usage was seen, else between the bill and the hold.
async fn close(stage: &mut Stage, limit: i64) -> Vec<SpendRow> {
    wait_until_idle(&stage.gateway).await;
    let gauge = gauge(stage).await;
    let violations = sum(&stage.gateway.metrics().await, "tollgate_bound_violation_total");
    let rows = Books::default().assert_flagged(&mut stage.gateway, &stage.mock, |_| Mode::Hard).await;
    let (ledger, invoice) = (total(&rows), Books::default().invoice_total(&stage.mock));
    assert_eq!((gauge.spent, gauge.held, violations), (ledger, 0, 0.0));
    assert!(invoice <= ledger && ledger <= limit, "billed {invoice}, booked {ledger}, limit {limit}");
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_long_streams_fit_where_the_longest_of_each_would_not() {
    const STREAMS: usize = 50;
    let limit = "2.5";
    let mut stage = Stage::start(|mock| vec![vllm("v", mock), tries_once(), caller(hard(limit))]).await;
    assert!(STREAMS as i64 * CAP as i64 * OUTPUT > 3 * nano(limit), "whole caps do not fit");
    let reply = Reply { cut: cut(40, CutHow::Gate("all".into())), chunk_delay_ms: 10, ..talk(150) };
    stage.mock.script("up-v", [Step::from(reply).repeat(STREAMS as u32)]);
    let streams: Vec<_> = (0..STREAMS)
        .map(|_| {
            let call = long_stream(&stage, "v");
            tokio::spawn(async move { call.stream().await.rest().await })
        })
        .collect();
    // All of them at once.
    patiently("all under way", stage.mock.wait_at_gate("all", STREAMS)).await;
    let at_once = held(&stage).await;
    assert!(at_once >= STREAMS as i64 * FIRST * OUTPUT && at_once <= nano(limit), "{at_once}");
    stage.mock.open_gate("all");
    for stream in streams {
        let events = stream.await.expect("it ends well");
        assert!(events.last().is_some_and(|event| event.is_done()), "{:?}", events.last());
        assert!(events.iter().all(|event| !event.data.contains("\"error\"")), "none is ended");
    }
    wait_until_idle(&stage.gateway).await;
    let rows = Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
    assert_eq!(rows.len(), STREAMS);
}

/// Reads a stream that ends before its time, and gives the data of its last event but `[DONE]`.
async fn ended(stream: &mut Streaming) -> Value {
    let events = stream.rest().await;
    assert!(!stream.broken, "it is ended, not broken");
    let last = events.iter().rev().find(|event| !event.is_done()).expect("events");
    last.json()
}

#[tokio::test]
async fn a_stream_is_ended_when_the_budget_has_nothing_left_for_it() {
    let limit = "0.05";
    let mut stage = Stage::start(|mock| vec![vllm("v", mock), tries_once(), caller(hard(limit))]).await;
    stage.mock.script("up-v", [talk(CAP as usize)]);
    let mut stream = long_stream(&stage, "v").stream().await;
    let error = ended(&mut stream).await;
    assert_eq!(error["error"]["code"], "budget_exhausted", "{error}");
    assert_eq!(error["error"]["type"], "budget_exceeded", "{error}");
    let text = error["error"]["message"].as_str().expect("a text");
    assert!(text.contains("default/VirtualKey/caller") && text.contains("nothing left"), "{text}");
    assert!(stream.text().ends_with("data: [DONE]\n\n"), "clients wait for it");
    let bills = patiently("the cancel", stage.mock.wait_for_invoice(1)).await;
    assert!(bills[0].client_gone && bills[0].output_tokens > 100, "{bills:?}");
    let metrics = stage.gateway.metrics().await;
    assert_eq!(sum(&metrics, "tollgate_budget_ended_streams_total"), 1.0);
    let refused = stage.gateway.post("/v1/chat/completions").key(KEY).json(&chat("v", "More", 1000)).send().await;
    assert_eq!((refused.status, refused.header("x-tollgate-error")), (429, Some("budget_exhausted")));
    let rows = close(&mut stage, nano(limit)).await;
    assert_eq!((rows.len(), rows[0].outcome.as_str()), (1, "charged"));
    assert!(rows[0].cost_nano_usd > nano("0.045"), "it went on to the end of the budget: {rows:?}");
}

#[tokio::test]
async fn every_dialect_is_told_why_its_stream_ends() {
    let mut stage = Stage::start(|mock| {
        let claude = objects::anthropic("a", mock).set("spec.cancelBilling", "Stops");
        vec![
            vllm("v", mock),
            claude,
            tries_once(),
            caller(hard("0.07")),
            objects::key("other", &objects::key_text("other")).set("spec.budget", hard("0.07")),
        ]
    })
    .await;
    stage.mock.script("up-v", [talk(CAP as usize)]);
    stage.mock.script("up-a", [talk(CAP as usize)]);
    // Translated, and as it comes.
    for (model, key) in [("v", KEY.to_owned()), ("a", objects::key_text("other"))] {
        let body = streamed(chat(model, "Tell me a long story.", CAP));
        let call = stage.gateway.post("/v1/messages").key(&key).header("anthropic-version", "2023-06-01").json(&body);
        let mut stream = call.stream().await;
        let events = stream.rest().await;
        let last = events.last().expect("events");
        assert_eq!(last.name.as_deref(), Some("error"), "{model}: {last:?}");
        assert_eq!(last.json()["type"], "error");
        let text = last.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(text.contains("nothing left"), "{model}: {text}");
        assert!(!events.iter().any(|event| event.name.as_deref() == Some("message_stop")), "{model}: it is not whole");
    }
    patiently("the cancels", stage.mock.wait_for_invoice(2)).await;
    wait_until_idle(&stage.gateway).await;
    let rows = Books::default().assert_flagged(&mut stage.gateway, &stage.mock, |_| Mode::Hard).await;
    assert!(rows.len() == 2 && rows.iter().all(|row| row.outcome == "charged"), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_race_for_the_rest_of_a_budget_spend_no_more_than_it() {
    const STREAMS: usize = 12;
    let limit = "0.4";
    let mut stage = Stage::start(|mock| {
        let team = objects::team("squad").set("spec.budget", hard("5"));
        let key = caller(hard(limit)).set("spec.teamRef", json!({"name": "squad"}));
        vec![vllm("v", mock), tries_once(), team, key]
    })
    .await;
    stage.mock.script("up-v", [Step::from(Reply { chunk_delay_ms: 6, ..talk(900) }).repeat(STREAMS as u32)]);
    let streams: Vec<_> = (0..STREAMS)
        .map(|_| {
            let call = long_stream(&stage, "v");
            tokio::spawn(async move { ended(&mut call.stream().await).await })
        })
        .collect();
    let mut cut_short = 0;
    for stream in streams {
        let last = stream.await.expect("it ends well");
        let code = last["error"]["code"].as_str().unwrap_or_default().to_owned();
        cut_short += usize::from(code == "budget_exhausted" || code == "budget_reserved");
    }
    assert!(cut_short > 0, "all of them together cost more than there is");
    let rows = close(&mut stage, nano(limit)).await;
    assert_eq!(rows.len(), STREAMS);
    assert_eq!(rows.iter().filter(|row| row.outcome == "charged").count(), cut_short);
}

/// A long stream, and another call that holds all the rest of their budget.
async fn stream_beside_a_holder(limit: &str, words: usize) -> (Stage, Streaming, tokio::task::JoinHandle<u16>) {
    let stage =
        Stage::start(|mock| vec![vllm("v", mock), objects::deployment("m", mock), tries_once(), caller(hard(limit))])
            .await;
    // How fast it answers is known from the one before.
    let stands_still = Reply { cut: cut(2, CutHow::Gate("stream".into())), ..talk(words) };
    stage.mock.script("up-v", [talk(1_000), stands_still]);
    stage.mock.script("up-m", [Step::text("Done.").gate("holder")]);
    long_stream(&stage, "v").stream().await.rest().await;
    wait_until_idle(&stage.gateway).await;
    let body = streamed(chat("v", "Tell me a long story.", 60_000));
    let mut stream = stage.gateway.post("/v1/chat/completions").key(KEY).json(&body).stream().await;
    stream.next().await.expect("an event");
    let gauge = gauge(&stage).await;
    // Less than the smallest step is left beside it.
    let cap = (gauge.limit - gauge.spent - gauge.held - input_hold("m")) / OUTPUT;
    let holder = stage.gateway.post("/v1/chat/completions").key(KEY).json(&chat("m", "Wait.", cap as u64));
    let holder = tokio::spawn(async move { holder.send().await.status });
    patiently("the other call at the provider", stage.mock.wait_at_gate("holder", 1)).await;
    stage.mock.open_gate("stream");
    (stage, stream, holder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_waits_for_money_that_others_only_hold() {
    let (mut stage, mut stream, holder) = stream_beside_a_holder("1", 4_000).await;
    let seen = stream.text().matches("word").count();
    // More than is ever held beyond what came, where nobody waits.
    while stream.text().matches("word").count() < seen + 400 {
        stream.next().await.expect("it goes on");
    }
    stage.mock.open_gate("holder");
    let events = stream.rest().await;
    assert!(events.last().is_some_and(|event| event.is_done()) && !stream.text().contains("\"error\""), "it is whole");
    assert_eq!(stream.text().matches("word").count(), 4_000, "nothing is lost");
    assert_eq!(holder.await.expect("it ends well"), 200);
    wait_until_idle(&stage.gateway).await;
    assert_eq!(sum(&stage.gateway.metrics().await, "tollgate_budget_ended_streams_total"), 0.0);
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_hold_to_the_end_is_told_apart_from_what_is_spent() {
    let (mut stage, mut stream, holder) = stream_beside_a_holder("1", CAP as usize).await;
    let error = ended(&mut stream).await;
    assert_eq!(error["error"]["code"], "budget_reserved", "{error}");
    let text = error["error"]["message"].as_str().expect("a text");
    assert!(text.contains("calls in flight hold") && text.contains("default/VirtualKey/caller"), "{text}");
    stage.mock.open_gate("holder");
    assert_eq!(holder.await.expect("it ends well"), 200);
    let rows = close(&mut stage, nano("1")).await;
    assert_eq!(rows.iter().filter(|row| row.outcome == "charged").count(), 1, "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_come_at_once_wait_for_each_other_and_are_whole() {
    let limit = "0.05";
    let waits = || tries_once().set("spec.defaults.reservedWait", "5s");
    let mut stage = Stage::start(|mock| vec![vllm("v", mock), waits(), caller(hard(limit))]).await;
    stage.mock.script("up-v", [Step::from(Reply { chunk_delay_ms: 0, ..talk(700) }).repeat(3)]);
    let body = streamed(chat("v", "Tell me a long story.", 3_000));
    let streams: Vec<_> = (0..3)
        .map(|_| {
            let call = stage.gateway.post("/v1/chat/completions").key(KEY).json(&body);
            tokio::spawn(async move { call.stream().await.rest().await })
        })
        .collect();
    for stream in streams {
        let events = stream.await.expect("it ends well");
        assert!(events.iter().all(|event| !event.data.contains("\"error\"")), "{:?}", events.last());
    }
    wait_until_idle(&stage.gateway).await;
    let rows = Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
    assert_eq!(rows.len(), 3);
}

#[tokio::test]
async fn a_budget_that_is_too_small_for_the_usual_slice_starts_with_a_small_one() {
    let waits = || tries_once().set("spec.defaults.reservedWait", "5s");
    let mut stage = Stage::start(|mock| vec![vllm("v", mock), waits(), caller(hard("0.02"))]).await;
    stage.mock.script("up-v", [talk(20)]);
    let mut stream = long_stream(&stage, "v").stream().await;
    let (held, least) = (held(&stage).await, input_hold("v") + LEAST * OUTPUT);
    assert!((least..=nano("0.02")).contains(&held), "{held}, at least {least}");
    stream.rest().await;
    wait_until_idle(&stage.gateway).await;
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn an_answer_that_is_all_here_already_is_not_cut_and_costs_what_it_used() {
    let mut stage = Stage::start(|mock| vec![vllm("v", mock), tries_once(), caller(hard("0.02"))]).await;
    // More bytes than there is money for tokens, and far less tokens. The first read does not take all of it.
    let event = |content: &str| json!({"model": "m", "choices": [{"index": 0, "delta": {"content": content}}]});
    let quiet = json!({"model": "m", "choices": [], "a_padding": "x".repeat(24 << 10)});
    let usage = json!({"model": "m", "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 600, "total_tokens": 610}});
    let text: String =
        [event(&"x".repeat(3_000)), quiet, usage].iter().map(|event| format!("data: {event}\n\n")).collect();
    let (body, content_type) = (Some(format!("{text}data: [DONE]\n\n").into()), Some("text/event-stream".into()));
    let bill = Some(Tokens::new(10, 600));
    stage.mock.script("up-v", [Reply { body, content_type, bill, ..Reply::default() }]);
    let answer = long_stream(&stage, "v").send().await.expect(200);
    assert!(answer.text().contains(&"x".repeat(3_000)) && !answer.text().contains("\"error\""));
    wait_until_idle(&stage.gateway).await;
    let rows = Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
    assert_eq!(rows[0].cost_nano_usd, 10 * 2_500 + 600 * OUTPUT);
}

#[tokio::test]
async fn a_client_that_leaves_pays_for_what_was_sent_and_little_more() {
    let mut stage = Stage::start(|mock| vec![vllm("v", mock), tries_once(), caller(hard("1"))]).await;
    stage.mock.script("up-v", [Reply { cut: cut(300, CutHow::Hang), ..talk(400) }]);
    let mut stream = long_stream(&stage, "v").stream().await;
    while stream.text().matches("word").count() < 200 {
        stream.next().await.expect("an event");
    }
    drop(stream);
    let bills = patiently("the cancel", stage.mock.wait_for_invoice(1)).await;
    assert!(bills[0].client_gone, "{bills:?}");
    let input = input_hold("v");
    let rows = close(&mut stage, nano("1")).await;
    assert_eq!((rows.len(), rows[0].outcome.as_str()), (1, "charged"));
    let output = rows[0].cost_nano_usd - input;
    // A word is at most eight bytes, and each event has one more.
    let expected = (200 + LEAD) * OUTPUT..(300 * 9 + 30 + LEAD) * OUTPUT;
    assert!(expected.contains(&output), "{output} {rows:?}");
    assert_eq!(rows[0].held_nano_usd, input + CAP as i64 * OUTPUT, "the row says what it could have come to");
}

#[tokio::test]
async fn kill_9_in_mid_stream_charges_what_was_held_then() {
    let mut stage = Stage::start(|mock| vec![vllm("v", mock), tries_once(), caller(hard("1"))]).await;
    stage
        .mock
        .script("up-v", [Step::from(Reply { cut: cut(400, CutHow::Gate("never".into())), ..talk(500) }).repeat(3)]);
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = long_stream(&stage, "v").stream().await;
        while stream.text().matches("word").count() < 350 {
            stream.next().await.expect("an event");
        }
        streams.push(stream);
    }
    let before = gauge(&stage).await;
    assert!(before.held > 3 * (350 * 7 + LEAD) * OUTPUT, "it grew with the streams: {before:?}");
    kill_under(&mut stage, streams).await;
    stage.gateway.chat("v").send().await.expect(200);
    let rows = close(&mut stage, nano("1")).await;
    let recovered: Vec<&SpendRow> = rows.iter().filter(|row| row.outcome == "recovered").collect();
    let cost: i64 = recovered.iter().map(|row| row.cost_nano_usd).sum();
    let whole: i64 = recovered.iter().map(|row| row.held_nano_usd).sum();
    // A stream that went on between the look and the kill may hold a step more.
    assert!(recovered.len() == 3 && cost >= before.held && cost < whole, "{before:?} {rows:?}");
}

/// What a stream of this call holds when its first event came.
async fn holds(stage: &Stage, body: &Value) -> i64 {
    let model = body["model"].as_str().expect("a model");
    let name = format!("hold-{model}-{}", stage.mock.requests().len());
    let reply = Reply { cut: cut(2, CutHow::Gate(name.clone())), ..talk(5) };
    stage.mock.script(format!("up-{model}"), [reply]);
    let mut stream = stage.gateway.post("/v1/chat/completions").key(KEY).json(body).stream().await;
    stream.next().await.expect("an event");
    let held = held(stage).await;
    stage.mock.open_gate(&name);
    stream.rest().await;
    wait_until_idle(&stage.gateway).await;
    held
}

#[tokio::test]
async fn where_output_may_be_billed_that_is_not_seen_the_whole_cap_is_held() {
    let mut stage = Stage::start(|mock| {
        let stops = |name: &str| objects::deployment(name, mock).set("spec.cancelBilling", "Stops");
        let account = |name: &str, says: &str| {
            let spec = json!({
                "provider": "openai-compatible", "endpoint": {"baseURL": format!("{}/v1", mock.url())},
                "credentials": [{"name": "one", "secretRef": {"name": "provider", "key": "api-key"}}],
                "cancelBilling": says,
            });
            Object::new("ProviderAccount", name, spec)
        };
        let of = |name: &str, account: &str| {
            let deployment = objects::deployment(name, mock).set("spec.accountRef", json!({"name": account}));
            deployment.unset("spec.provider").unset("spec.endpoint").unset("spec.credential")
        };
        vec![
            objects::deployment("full", mock),
            vllm("said-full", mock).set("spec.cancelBilling", "Full"),
            vllm("known", mock),
            stops("said"),
            account("stopping", "Stops"),
            account("going-on", "Full"),
            of("of-account", "stopping"),
            of("of-full-account", "going-on"),
            of("over-account", "going-on").set("spec.cancelBilling", "Stops"),
            stops("thinks").set("spec.capabilities", json!(["reasoning"])),
            stops("talks").set("spec.capabilities", json!(["vision"])),
            stops("forced").set("spec.parameters", json!({"forced": {"reasoning_effort": "high"}})),
            caller(hard("50")),
            tries_once(),
        ]
    })
    .await;
    let mut wrong = Vec::new();
    let base = streamed(chat("known", "Hi", CAP));
    let with = |field: &str, value: Value| {
        let mut body = base.clone();
        body[field] = value;
        body
    };
    let tool = json!([{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]);
    let whole = CAP as i64 * OUTPUT;
    let mut cases: Vec<(Value, i64)> = vec![
        (base.clone(), FIRST * OUTPUT),
        (with("max_tokens", json!(FIRST)), FIRST * OUTPUT),
        (with("max_tokens", json!(50)), 50 * OUTPUT),
        (with("max_tokens", json!(CAP - 1)), FIRST * OUTPUT),
        (with("n", json!(3)), 3 * FIRST * OUTPUT),
        (with("logprobs", json!(true)), FIRST * OUTPUT),
        (with("tools", tool), whole),
        (with("reasoning_effort", json!("low")), whole),
        (with("include_reasoning", json!(false)), whole),
        (with("chat_template_kwargs", json!({"enable_thinking": true})), whole),
        (with("thinking", json!({"type": "enabled"})), whole),
        (with("messages", json!([{"role": "user", "content": "Why do we think? Give a reason."}])), FIRST * OUTPUT),
    ];
    for (model, sliced) in [
        ("full", false),
        ("said-full", false),
        ("said", true),
        ("of-account", true),
        ("of-full-account", false),
        ("over-account", true),
        ("thinks", false),
        ("talks", true),
        ("forced", false),
    ] {
        cases.push((with("model", json!(model)), if sliced { FIRST * OUTPUT } else { whole }));
    }
    for (body, expected) in cases {
        // What the deployment adds to the request is input, too.
        let added = if body["model"] == "forced" { r#""reasoning_effort":"high","#.len() } else { 0 };
        let input = (body.to_string().len() + added) as i64 * 3_125 + 256 * 3_125;
        let held = holds(&stage, &body).await;
        if held != input + expected {
            wrong.push(format!("{} tokens, not {}: {body}", (held - input) / OUTPUT, expected / OUTPUT));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    close(&mut stage, nano("50")).await;
}

#[tokio::test]
async fn near_the_end_of_a_period_the_whole_cap_is_held() {
    let period = json!({"limit": "50", "period": {"rolling": "1h"}});
    let mut stage = Stage::start(|mock| vec![vllm("v", mock), caller(period), tries_once()]).await;
    // A bucket of an hour's budget is over in 150 s, and a call may take ten minutes.
    let body = streamed(chat("v", "Hi", CAP));
    let input = (body.to_string().len() as i64 + 256) * 3_125;
    assert_eq!(holds(&stage, &body).await, input + CAP as i64 * OUTPUT);
    close(&mut stage, nano("50")).await;
}

#[tokio::test]
async fn a_provider_that_bills_to_the_end_is_read_to_its_usage() {
    let options = Options { cancel_billing: CancelBilling::Full, ..Options::default() };
    let objects = |mock: &Mock| vec![objects::deployment("m", mock), tries_once(), caller(hard("1"))];
    let mut stage = Stage::start_with(Starter::default(), options, objects).await;
    stage.mock.script("up-m", [talk(300)]);
    let mut stream = long_stream(&stage, "m").stream().await;
    assert_eq!(held(&stage).await, input_hold("m") + CAP as i64 * OUTPUT);
    stream.next().await.expect("an event");
    drop(stream);
    wait_until_idle(&stage.gateway).await;
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_whole_cap() {
    let mut stage = Stage::start(|mock| vec![vllm("v", mock), tries_once(), caller(hard("1"))]).await;
    // Large events of which little is output: what is not read soon fills the socket.
    let padding = json!({"a_padding": "x".repeat(16 << 10)});
    let extra = padding.as_object().expect("an object").clone();
    stage.mock.script("up-v", [Reply { extra, ..talk(CAP as usize) }]);
    let body = streamed(chat("v", "Tell me a long story.", CAP)).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut socket = RawSocket::connect(stage.gateway.address()).await;
    socket.send(head).await;
    let whole = input_hold("v") + CAP as i64 * OUTPUT;
    let holds_all = |text: &str| {
        let budgets = tollgate_money_tests::gauges::budgets_in(text);
        budgets.iter().any(|(id, gauge)| id.ends_with("/caller") && gauge.held == whole)
    };
    wait_for(&stage.gateway, "the whole cap to be held", holds_all).await;
    drop(socket);
    patiently("the cancel", stage.mock.wait_for_invoice(1)).await;
    let rows = close(&mut stage, nano("1")).await;
    assert_eq!((rows.len(), rows[0].outcome.as_str()), (1, "charged"));
}

#[tokio::test]
async fn where_nobody_knows_what_was_made_the_whole_cap_is_charged() {
    let mut stage = Stage::start(|mock| {
        let silent = vllm("silent", mock).set("spec.timeouts", json!({"idle": "300ms"}));
        vec![vllm("closed", mock), vllm("unary", mock), silent, tries_once(), caller(hard("1"))]
    })
    .await;
    stage.mock.script("up-closed", [Reply { cut: cut(3, CutHow::Close), ..talk(9) }]);
    stage.mock.script("up-silent", [Reply { cut: cut(3, CutHow::Hang), ..talk(9) }]);
    stage.mock.script("up-unary", [Reply { content_type: Some("application/json".to_owned()), ..talk(9) }]);
    for model in ["closed", "silent", "unary"] {
        long_stream(&stage, model).send().await;
    }
    let rows = close(&mut stage, nano("1")).await;
    let charged = |model: &str| {
        let row = rows.iter().find(|row| row.model == model).expect("a row");
        assert_eq!(row.outcome, "charged", "{row:?}");
        (row.cost_nano_usd - input_hold(model)) / OUTPUT
    };
    assert_eq!((charged("closed"), charged("silent"), charged("unary")), (FIRST, CAP as i64, CAP as i64));
}

/// Whatever ends a stream, at whatever moment: nothing is held afterwards, and its row costs no less than its bill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_given_up_or_cut_anywhere_leave_nothing_behind() {
    const STREAMS: usize = 60;
    let limit = "12";
    let mut stage = Stage::start(|mock| vec![vllm("v", mock), tries_once(), caller(hard(limit))]).await;
    let mut random = fastrand::Rng::with_seed(11);
    let steps: Vec<Step> = (0..STREAMS)
        .map(|_| {
            let reply = Reply { chunk_delay_ms: random.u64(1..6), ..talk(random.usize(1..250)) };
            let after = random.usize(0..200);
            match random.u8(..8) {
                0 => Reply { cut: cut(after, CutHow::Close), ..reply }.into(),
                1 => Reply { cut: cut(after, CutHow::Reset), ..reply }.into(),
                2 => Reply { cut: cut(after, CutHow::Error), ..reply }.into(),
                3 => Reply { cut: cut(after, CutHow::Hang), ..reply }.into(),
                4 => Reply { usage: UsageScript::Missing, ..reply }.into(),
                5 => Step::error(500),
                _ => reply.into(),
            }
        })
        .collect();
    stage.mock.script("up-v", steps);
    let clients: Vec<_> = (0..STREAMS)
        .map(|_| {
            let (call, leaves) = (long_stream(&stage, "v"), Duration::from_millis(random.u64(0..900)));
            tokio::spawn(async move {
                // Who stays long enough sees the end.
                let _ = tokio::time::timeout(leaves, call.try_send()).await;
            })
        })
        .collect();
    for client in clients {
        client.await.expect("a client ends well");
    }
    stage.mock.wait_for_in_flight(0).await;
    let rows = close(&mut stage, nano(limit)).await;
    assert!(rows.iter().all(|row| row.outcome != "dropped"), "every attempt was ended by somebody: {rows:#?}");
    assert!(rows.iter().any(|row| row.outcome == "charged") && rows.iter().any(|row| row.outcome == "exact"));
}
