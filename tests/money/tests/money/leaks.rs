//! Requests that are given up at many moments leave nothing behind: no hold, no slot, no gauge.

use std::time::Duration;

use tollgate_harness::{Cut, CutHow, KEY, RawSocket, Reply, Stage, Step, json, objects, patiently};
use tollgate_money_tests::books::{Books, Mode};
use tollgate_money_tests::gauges::{budgets, sum, wait_for, wait_until_idle};
use tollgate_money_tests::setup::{hard, soft, streamed, tries_once};

/// Calls at once that the key may have; fewer than are given up, so that a leaked slot shows.
const SLOTS: usize = 4;

fn request(body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn stage(soft_too: bool) -> Stage {
    Stage::start(|mock| {
        let budget = if soft_too { soft("100") } else { hard("100") };
        let limits = json!({"parallelRequests": SLOTS, "tokensPerMinute": 100_000_000});
        let key = objects::caller()
            .set("spec.budget", budget)
            .set("spec.limits", limits)
            .set("spec.teamRef", json!({"name": "squad"}));
        let team = objects::team("squad")
            .set("spec.budget", hard("100"))
            .set("spec.limits", json!({"parallelRequests": SLOTS}));
        vec![objects::deployment("m", mock), key, team, objects::budget("all", "100"), tries_once()]
    })
    .await
}

/// All slots are free, nothing is held, nothing is in flight; and the books are whole.
async fn assert_nothing_left(stage: &mut Stage, given_up: usize) {
    stage.mock.clear_script();
    wait_until_idle(&stage.gateway).await;
    for (id, gauge) in budgets(&stage.gateway).await {
        assert_eq!(gauge.held, 0, "{id}");
    }
    stage.mock.script("up-m", [Step::usual().gate("last").repeat(SLOTS as u32)]);
    let calls: Vec<_> = (0..SLOTS).map(|_| tokio::spawn(stage.gateway.chat("m").send())).collect();
    patiently("all slots to be free", stage.mock.wait_at_gate("last", SLOTS)).await;
    stage.mock.open_gate("last");
    for call in calls {
        call.await.expect("it ends").expect(200);
    }
    wait_until_idle(&stage.gateway).await;
    let spent: Vec<i64> = budgets(&stage.gateway).await.values().map(|gauge| gauge.spent).collect();
    let rows = Books::default().assert_flagged(&mut stage.gateway, &stage.mock, |_| Mode::Hard).await;
    assert!(rows.len() <= given_up + SLOTS, "{} rows", rows.len());
    assert!(rows.iter().all(|row| row.outcome != "dropped"), "every attempt was ended by somebody: {rows:#?}");
    let total = tollgate_money_tests::books::total(&rows);
    assert_eq!(spent, [total; 3], "key, team and shared budget all hold the sum of the rows");
}

#[tokio::test]
async fn requests_given_up_before_their_body_is_complete() {
    let mut stage = stage(false).await;
    let whole = request(&json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]}).to_string());
    let step = (whole.len() / 40).max(1);
    let mut given_up = 0;
    for end in (1..whole.len()).step_by(step) {
        let mut socket = RawSocket::connect(stage.gateway.address()).await;
        socket.send(&whole.as_bytes()[..end]).await;
        drop(socket);
        given_up += 1;
    }
    assert!(given_up > 30);
    assert_eq!(stage.mock.requests().len(), 0, "what is not complete is not sent");
    assert_nothing_left(&mut stage, 0).await;
}

#[tokio::test]
async fn requests_given_up_after_a_while() {
    let mut stage = stage(false).await;
    stage.mock.script(
        "up-m",
        [Step::from(Reply { chunks: Some(10), chunk_delay_ms: 2, ..Reply::default() }).delay_ms(5).repeat(1000)],
    );
    let mut given_up = 0;
    for stream in [false, true] {
        for micros in (0..60_000).step_by(1_500) {
            let body = json!({"model": "m", "max_tokens": 20, "messages": [{"role": "user", "content": "Hello"}]});
            let body = if stream { streamed(body) } else { body };
            let call = stage.gateway.chat("m").json(&body).try_send();
            let _ = tokio::time::timeout(Duration::from_micros(micros), call).await;
            given_up += 1;
        }
    }
    assert_nothing_left(&mut stage, given_up).await;
}

#[tokio::test]
async fn streams_given_up_after_each_event() {
    for soft_too in [false, true] {
        let mut stage = stage(soft_too).await;
        stage.mock.script(
            "up-m",
            [Step::from(Reply { chunks: Some(8), chunk_delay_ms: 1, ..Reply::default() }).repeat(1000)],
        );
        let mut given_up = 0;
        for events in 0..10 {
            // The slot of the one before is free only when it was seen to be gone.
            wait_for(&stage.gateway, "a free slot", |text| sum(text, "tollgate_in_flight_requests") < SLOTS as f64)
                .await;
            let mut stream = stage.gateway.chat_stream("m").stream().await;
            for _ in 0..events {
                stream.next().await;
            }
            drop(stream);
            given_up += 1;
        }
        assert_nothing_left(&mut stage, given_up).await;
    }
}

#[tokio::test]
async fn clients_that_read_slowly_and_then_leave() {
    let mut stage = stage(false).await;
    // More than all buffers on the way take, so that the gateway itself must wait for its client.
    let large = Reply { text: Some("word ".repeat(200)), padding_bytes: 6 << 20, ..Reply::default() };
    stage.mock.script("up-m", [Step::from(large).repeat(SLOTS as u32)]);
    let mut sockets = Vec::new();
    for _ in 0..SLOTS {
        let mut socket = RawSocket::connect(stage.gateway.address()).await;
        let body =
            streamed(json!({"model": "m", "max_tokens": 300, "messages": [{"role": "user", "content": "Hello"}]}));
        socket.send(request(&body.to_string())).await;
        socket.read_until("HTTP/1.1 200").await;
        sockets.push(socket);
    }
    assert_eq!(stage.gateway.chat("m").send().await.status, 429, "all slots are taken");
    drop(sockets);
    assert_nothing_left(&mut stage, SLOTS).await;
}

#[tokio::test]
async fn calls_given_up_while_they_wait_for_money() {
    let mut stage = Stage::start(|mock| {
        let gateway = tries_once().set("spec.defaults.reservedWait", "20s");
        vec![objects::deployment("m", mock), gateway, objects::caller().set("spec.budget", hard("0.002"))]
    })
    .await;
    stage.mock.script("up-m", [Step::usual().gate("go")]);
    let body = json!({"model": "m", "max_tokens": 20, "messages": [{"role": "user", "content": "Hello"}]});
    let first = tokio::spawn(stage.gateway.chat("m").json(&body).send());
    patiently("the first at the provider", stage.mock.wait_at_gate("go", 1)).await;
    let waiting: Vec<_> = (0..10).map(|_| tokio::spawn(stage.gateway.chat("m").json(&body).try_send())).collect();
    wait_for(&stage.gateway, "ten more", |text| sum(text, "tollgate_in_flight_requests") >= 11.0).await;
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    for task in waiting {
        let _ = task.await;
    }
    // The first, and the one that asks.
    let open = |text: &str| sum(text, "tollgate_open_connections");
    wait_for(&stage.gateway, "ten that left", |text| open(text) <= 2.0).await;
    stage.mock.open_gate("go");
    first.await.expect("it ends").expect(200);
    wait_until_idle(&stage.gateway).await;
    // Whoever left while it waited for money begins nothing any more.
    let rows = Books::default().assert_flagged(&mut stage.gateway, &stage.mock, |_| Mode::Hard).await;
    assert_eq!(
        stage.mock.requests().len(),
        1,
        "calls that nobody waits for were sent, and paid for: {} rows",
        rows.len()
    );
}

#[tokio::test]
async fn a_client_that_leaves_does_not_leave_its_retries_running() {
    let mut stage =
        Stage::start(|mock| vec![objects::deployment("m", mock), objects::caller().set("spec.budget", hard("1"))])
            .await;
    stage.mock.script("up-m", [Step::error(500).gate("go"), Step::usual(), Step::usual()]);
    let call = tokio::spawn(stage.gateway.chat("m").try_send());
    patiently("the first at the provider", stage.mock.wait_at_gate("go", 1)).await;
    call.abort();
    wait_for(&stage.gateway, "the client to be gone", |text| sum(text, "tollgate_client_gone_total") >= 1.0).await;
    stage.mock.open_gate("go");
    wait_until_idle(&stage.gateway).await;
    assert_eq!(stage.mock.requests().len(), 1);
    let rows = Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
    assert_eq!(rows.len(), 1);
}

#[tokio::test]
async fn an_abandoned_stream_that_hangs_is_counted_while_it_is_read() {
    let mut stage = stage(false).await;
    let cut = Cut { after_events: Some(3), how: CutHow::Gate("go".into()), ..Cut::default() };
    stage.mock.script("up-m", [Step::from(Reply { cut: Some(cut), ..Reply::default() }).repeat(2)]);
    for _ in 0..2 {
        let mut stream = stage.gateway.chat_stream("m").stream().await;
        stream.next().await.expect("an event");
    }
    wait_for(&stage.gateway, "both clients to be gone", |text| sum(text, "tollgate_client_gone_total") >= 2.0).await;
    let held: Vec<i64> = budgets(&stage.gateway).await.values().map(|gauge| gauge.held).collect();
    assert!(held.iter().all(|held| *held > 0), "their money is still held: {held:?}");
    stage.mock.open_gate("go");
    assert_nothing_left(&mut stage, 2).await;
}
