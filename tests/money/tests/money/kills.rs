//! `kill -9` at named moments and at random ones, then a restart on the same folder. Hard: nothing billed is missing, the
//! cap holds over all boots. Prints the figures.

use tollgate_faults::{seeds, this_test};
use tollgate_harness::{Cut, CutHow, Reply, SpendRow, Stage, Step, Tokens, objects, patiently};
use tollgate_money_tests::books::{Books, attempt_id, total};
use tollgate_money_tests::gauges::{budget, nano, wait_until_idle};
use tollgate_money_tests::kills::{Figures, Table, judge, kill_under, random_kills, touch};
use tollgate_money_tests::setup::{caller, chat, hard};

const LIMIT: &str = "1";

async fn stage() -> Stage {
    Stage::start(|mock| vec![objects::deployment("m", mock), caller(hard(LIMIT))]).await
}

fn outcomes(rows: &[SpendRow]) -> Vec<&str> {
    rows.iter().map(|row| row.outcome.as_str()).collect()
}

/// Spends once, so that there is something that must survive. Gives its cost.
async fn spend(stage: &Stage) -> i64 {
    let reply = stage.gateway.chat("m").send().await.expect(200);
    nano(reply.header("x-litellm-response-cost").expect("a cost"))
}

/// The budget, once a call has used it since the start.
async fn touched(stage: &Stage) -> tollgate_money_tests::gauges::BudgetGauge {
    wait_until_idle(&stage.gateway).await;
    budget(&stage.gateway, "/caller").await
}

async fn finish(what: &str, stage: &mut Stage) -> (Figures, Vec<SpendRow>) {
    judge(what, 1, stage, &Books::default(), nano(LIMIT)).await
}

/// Every open attempt became a row at its hold.
fn assert_recovered(rows: &[SpendRow], count: usize) {
    let recovered: Vec<&SpendRow> = rows.iter().filter(|row| row.outcome == "recovered").collect();
    assert_eq!(recovered.len(), count, "{:?}", outcomes(rows));
    for row in recovered {
        assert!(row.held_nano_usd > 0 && row.cost_nano_usd == row.held_nano_usd, "charged at its hold: {row:?}");
    }
}

async fn killed_when_all_is_settled() -> Figures {
    let mut stage = stage().await;
    let mut settled = Vec::new();
    for _ in 0..5 {
        settled.push(stage.gateway.chat("m").send().await.expect(200));
    }
    let before = budget(&stage.gateway, "/caller").await;
    stage.gateway.kill().await;
    stage.gateway.restart().await;
    // Headers go on from where they were.
    let reply = stage.gateway.chat("m").send().await.expect(200);
    let cost = nano(reply.header("x-litellm-response-cost").expect("a cost"));
    assert_eq!(reply.header("x-litellm-key-spend").map(nano), Some(before.spent + cost));
    let (figures, rows) = finish("all settled", &mut stage).await;
    for reply in &settled {
        let id = attempt_id(reply, 1);
        assert!(rows.iter().any(|row| row.attempt_id == id && row.outcome == "exact"), "the row of {id} survives");
    }
    assert_eq!((rows.len(), figures.over_count_per_kill()), (6, 0));
    assert_eq!(total(&rows), before.spent + cost);
    figures
}

async fn killed_before_headers() -> Figures {
    let mut stage = stage().await;
    let spent = spend(&stage).await;
    stage.mock.script("up-m", [Step::usual().gate("never").repeat(6)]);
    let calls: Vec<_> = (0..6)
        .map(|at| {
            tokio::spawn(if at % 2 == 0 { stage.gateway.chat("m") } else { stage.gateway.chat_stream("m") }.try_send())
        })
        .collect();
    patiently("all at the provider", stage.mock.wait_at_gate("never", 6)).await;
    let before = budget(&stage.gateway, "/caller").await;
    stage.gateway.kill().await;
    for call in calls {
        assert!(call.await.expect("it ends").is_err(), "nobody answered");
    }
    stage.mock.clear_script();
    stage.gateway.restart().await;
    let again = spend(&stage).await;
    let after = touched(&stage).await;
    assert_eq!(
        (after.spent, after.held),
        (spent + before.held + again, 0),
        "holds in flight are charged, no more and no less"
    );
    let (figures, rows) = finish("before headers", &mut stage).await;
    assert_recovered(&rows, 6);
    figures
}

async fn killed_in_mid_stream() -> Figures {
    let mut stage = stage().await;
    let spent = spend(&stage).await;
    let cut = Cut { after_events: Some(4), how: CutHow::Gate("never".into()), ..Cut::default() };
    stage.mock.script("up-m", [Step::from(Reply { cut: Some(cut), chunks: Some(10), ..Reply::default() }).repeat(3)]);
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = stage.gateway.chat_stream("m").stream().await;
        stream.next().await.expect("a first event");
        streams.push(stream);
    }
    let before = budget(&stage.gateway, "/caller").await;
    kill_under(&mut stage, streams).await;
    let again = spend(&stage).await;
    assert_eq!(touched(&stage).await.spent, spent + before.held + again);
    let (figures, rows) = finish("in mid stream", &mut stage).await;
    assert_recovered(&rows, 3);
    figures
}

/// The answer was read by the gateway, its client got it or not: the row is there once, exact or recovered.
async fn killed_right_after_the_answer() -> Figures {
    let mut stage = stage().await;
    let calls: Vec<_> = (0..8).map(|_| tokio::spawn(stage.gateway.chat("m").try_send())).collect();
    patiently("bills", stage.mock.wait_for_invoice(4)).await;
    stage.gateway.kill().await;
    let mut answered = Vec::new();
    for call in calls {
        answered.extend(call.await.expect("it ends").ok().filter(|reply| reply.status == 200));
    }
    stage.mock.wait_for_in_flight(0).await;
    stage.gateway.restart().await;
    spend(&stage).await;
    let (figures, rows) = finish("right after answers", &mut stage).await;
    for reply in &answered {
        let id = attempt_id(reply, 1);
        let found: Vec<&SpendRow> = rows.iter().filter(|row| row.attempt_id == id).collect();
        assert!(matches!(found[..], [row] if row.outcome == "exact"), "what a client was told is booked: {found:?}");
    }
    figures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_loses_no_row_and_no_cent_and_never_passes_the_cap() {
    let named = [
        ("gateway-settled", killed_when_all_is_settled().await),
        ("gateway-before-headers", killed_before_headers().await),
        ("gateway-mid-stream", killed_in_mid_stream().await),
        ("gateway-after-answers", killed_right_after_the_answer().await),
    ];
    named.iter().for_each(|(fault, figures)| figures.tell(fault));
    judge_all(&named.map(|(_, figures)| figures));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_random_lose_no_row_and_no_cent_and_never_pass_the_cap() {
    // A budget that is used up on the way, and one that lasts.
    for (limit, rounds) in [("0.06", 4), ("5", 3)] {
        for seed in seeds::seeds(1) {
            println!("{}", this_test!().replay(seed));
            let figures = random_kills(seed, rounds, limit).await;
            figures.tell("gateway-random");
            judge_all(&[figures]);
        }
    }
}

fn judge_all(figures: &[Figures]) {
    println!("{}", Table(figures));
    for figures in figures {
        assert_eq!((figures.overspend(), figures.false_refusals), (0, 0), "{figures:?}");
    }
}

#[tokio::test]
async fn a_clean_stop_charges_nothing_extra() {
    let mut stage = stage().await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 10)).repeat(3)]);
    for boot in 1..=3 {
        let reply = stage.gateway.chat("m").json(&chat("m", "Hello", 20)).send().await.expect(200);
        assert_eq!(reply.header("x-litellm-key-spend").map(nano), Some(boot * 350_000));
        let gauge = touched(&stage).await;
        assert_eq!((gauge.spent, gauge.held), (boot * 350_000, 0));
        stage.gateway.restart().await;
    }
    let rows = Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
    assert_eq!((rows.len(), total(&rows)), (3, 1_050_000));
}

#[tokio::test]
async fn a_stop_right_after_the_start_is_a_clean_stop() {
    for _ in 0..5 {
        let mut stage = stage().await;
        // `stop` panics where the signal ended the process instead of being heard.
        stage.gateway.stop().await;
    }
}

#[tokio::test]
async fn a_budget_is_in_the_metrics_after_a_start_before_any_call() {
    for kill in [true, false] {
        let mut stage = stage().await;
        spend(&stage).await;
        let before = touched(&stage).await;
        if kill {
            stage.gateway.kill().await;
        }
        stage.gateway.restart().await;
        let after = tollgate_money_tests::gauges::budgets(&stage.gateway).await;
        let of_caller: Vec<_> =
            after.iter().filter(|(id, _)| id.ends_with("/caller")).map(|(_, gauge)| *gauge).collect();
        assert_eq!(of_caller, [before], "an alert on a budget must not fall silent because of a restart");
    }
}

#[tokio::test]
async fn a_stop_while_streams_run_finishes_them_and_books_them() {
    let mut stage = stage().await;
    let cut = Cut { after_events: Some(3), how: CutHow::Gate("go".into()), ..Cut::default() };
    stage.mock.script("up-m", [Step::from(Reply { cut: Some(cut), chunks: Some(8), ..Reply::default() }).repeat(4)]);
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = stage.gateway.chat_stream("m").stream().await;
        stream.next().await.expect("a first event");
        streams.push(stream);
    }
    stage.gateway.terminate();
    stage.mock.open_gate("go");
    for mut stream in streams {
        let events = stream.rest().await;
        assert!(!stream.broken && events.last().is_some_and(tollgate_harness::Event::is_done), "{}", stream.text());
    }
    assert!(stage.gateway.wait().await.success());
    stage.gateway.restart().await;
    wait_until_idle(&stage.gateway).await;
    let rows = Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
    assert_eq!(outcomes(&rows), ["exact"; 4]);
}

#[tokio::test]
async fn an_exhausted_budget_is_exhausted_after_a_kill() {
    let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), caller(hard("0.002"))]).await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 10)).repeat(100)]);
    let body = chat("m", "Hello", 20);
    touch(&stage).await;
    while stage.gateway.chat("m").json(&body).send().await.status == 200 {}
    let served = stage.mock.requests().len();
    stage.gateway.kill().await;
    stage.gateway.restart().await;
    let reply = stage.gateway.chat("m").json(&body).send().await.expect(429);
    assert_eq!(reply.header("x-tollgate-error"), Some("budget_exhausted"));
    assert_eq!(stage.mock.requests().len(), served);
    let (figures, _) = judge("exhausted", 1, &mut stage, &Books::default(), nano("0.002")).await;
    assert_eq!(figures.over_count_per_kill(), 0);
}
