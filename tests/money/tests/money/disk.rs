//! A data folder without space: Hard calls are refused or served from what was granted, never for nothing; when there is
//! space again, all goes on. Needs root for a small tmpfs; says loudly when it has none.

use std::path::Path;
use std::process::{Command, Stdio};

use tollgate_faults::{Money, Run};
use tollgate_harness::{Response, SmallDisk, SpendRow, Stage, Value, json, objects, patiently};
use tollgate_money_tests::books::{Books, total};
use tollgate_money_tests::gauges::{nano, wait_until_idle};
use tollgate_money_tests::setup::{caller, chat, hard, key};

const LIMIT: &str = "0.5";

/// Keys whose first grant is asked for when the disk is full: far more than fit into the rest of the log's last block.
const LATE_KEYS: usize = 120;

/// Tells what a full disk came to, for so many keys that each have [`LIMIT`]. No call was told that it is spent.
fn tell(fault: &str, keys: usize, unavailable: usize, rows: &[SpendRow], stage: &Stage) {
    let seen = stage.mock.requests().len();
    let money = Money {
        limit: nano(LIMIT) * keys as i64,
        billed: Books::default().invoice_total(&stage.mock),
        counted: total(rows),
        false_refusals: Some(0),
        unavailable: unavailable as u64,
    };
    Run::of(fault, seen).money(money).rows_lost(seen.saturating_sub(rows.len())).tell();
}

async fn ask(stage: &Stage, body: &Value) -> Response {
    stage.gateway.chat("m").json(body).send().await
}

#[tokio::test]
async fn a_full_disk_refuses_what_it_cannot_promise_and_recovers() {
    let late: Vec<String> = (0..LATE_KEYS).map(|at| format!("late-{at}")).collect();
    let mut stage = Stage::start(|mock| {
        let keys = late.iter().map(|name| key(name, hard(LIMIT)));
        keys.chain([objects::deployment("m", mock), caller(hard(LIMIT))]).collect()
    })
    .await;
    stage.gateway.stop().await;
    let folder = stage.gateway.data().to_owned();
    let Some(disk) = SmallDisk::mount(&folder, "48m") else {
        eprintln!(
            "SKIPPED: a_full_disk_refuses_what_it_cannot_promise_and_recovers: no small tmpfs can be mounted here (needs root)"
        );
        return;
    };
    stage.gateway.restart().await;
    let body = chat("m", "Hello", 50);
    ask(&stage, &body).await.expect(200);
    let filler = disk.fill();
    let (mut served, mut refused) = (0, Vec::new());
    for name in &late {
        let reply = stage.gateway.chat("m").key(&objects::key_text(name)).json(&body).send().await;
        match (reply.status, reply.header("x-tollgate-error")) {
            (200, _) => served += 1,
            (503, Some("budget_unavailable")) => refused.push(name),
            (status, why) => panic!("{status} {why:?} on a full disk: {}", reply.text()),
        }
    }
    println!("on a full disk: {served} first grants still fitted, {} calls were refused with 503", refused.len());
    assert!(!refused.is_empty(), "no call was ever refused");
    ask(&stage, &body).await.expect(200);
    let live = stage.gateway.get("/health/liveliness").send().await;
    assert_eq!(live.status, 200, "it lives: {}", live.text());
    assert_eq!(stage.mock.requests().len(), served + 2, "what is refused is not sent");
    drop(filler);
    disk.empty();
    for name in &refused {
        let recovered = async {
            while stage.gateway.chat("m").key(&objects::key_text(name)).json(&body).send().await.status != 200 {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        patiently("the gateway to recover", recovered).await;
    }
    wait_until_idle(&stage.gateway).await;
    let rows = Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
    tell("gateway-disk-full", LATE_KEYS + 1, refused.len(), &rows, &stage);
    assert_eq!(rows.len(), LATE_KEYS + 2);
}

#[tokio::test]
async fn a_start_on_a_full_disk_fails_or_refuses_and_never_serves_for_nothing() {
    let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), caller(hard(LIMIT))]).await;
    let body = json!({"model": "m", "max_tokens": 20, "messages": [{"role": "user", "content": "Hello"}]});
    stage.gateway.stop().await;
    let folder = stage.gateway.data().to_owned();
    let Some(disk) = SmallDisk::mount(&folder, "48m") else {
        eprintln!(
            "SKIPPED: a_start_on_a_full_disk_fails_or_refuses_and_never_serves_for_nothing: no small tmpfs can be mounted here (needs root)"
        );
        return;
    };
    stage.gateway.restart().await;
    ask(&stage, &body).await.expect(200);
    stage.gateway.kill().await;
    disk.fill();
    let started = start_again(&stage, &folder);
    match started {
        // It says so and ends.
        Started::Ended { stderr } => assert!(!stderr.contains("panicked"), "{stderr}"),
        Started::Serves => {}
    }
    disk.empty();
    stage.gateway.restart().await;
    ask(&stage, &body).await.expect(200);
    let rows = Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
    tell("gateway-start-disk-full", 1, 0, &rows, &stage);
    assert_eq!(rows.len(), 2, "the row of before the kill is there");
}

enum Started {
    Ended { stderr: String },
    Serves,
}

/// Starts a gateway on the folder as a process of its own, and looks what becomes of it.
fn start_again(stage: &Stage, folder: &Path) -> Started {
    let mut command = Command::new(tollgate_harness::binary());
    command.arg("serve").arg("--config").arg(stage.gateway.config()).args([
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--cores",
        "2",
    ]);
    command.arg("--data").arg(folder).env("TOLLGATE_MASTER_KEY", tollgate_harness::MASTER_KEY);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the gateway starts");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(3);
    while std::time::Instant::now() < end {
        if child.try_wait().expect("a child can be asked").is_some() {
            let output = child.wait_with_output().expect("its last words");
            return Started::Ended { stderr: String::from_utf8_lossy(&output.stderr).into_owned() };
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    Started::Serves
}
