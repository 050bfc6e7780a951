//! Kills gateways and counts what it cost: the same machine for the everyday test and for the long one. I/O.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tollgate_faults::{Money, Run};
use tollgate_harness::{
    Call, Cut, CutHow, KEY, Reply, SpendRow, Stage, Step, Streaming, UsageScript, json, ledger_rows, objects,
};

use crate::books::{Books, Mode, total};
use crate::gauges::{BudgetGauge, budget, wait_until_idle};
use crate::setup::{caller, hard, tries_once};

/// Agents that call without pause while the gateway is killed.
const CLIENTS: usize = 8;

/// Steps scripted for a round; what comes after is answered as usual.
const STEPS: usize = 600;

/// Kills the gateway under streams, whose clients see it, and starts it again when the provider sees it too.
pub async fn kill_under(stage: &mut Stage, streams: Vec<Streaming>) {
    stage.gateway.kill().await;
    for mut stream in streams {
        stream.rest().await;
        assert!(stream.broken, "the client sees that its stream was cut");
    }
    stage.mock.wait_for_in_flight(0).await;
    stage.gateway.restart().await;
}

/// What one way to fail came to. Amounts in nano-USD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub what: String,
    pub kills: usize,
    /// Requests that the provider saw.
    pub requests: usize,
    pub rows: usize,
    /// Rows that a start found open.
    pub recovered: usize,
    /// What those were charged.
    pub recovered_cost: i64,
    pub limit: i64,
    pub invoice: i64,
    pub ledger: i64,
    /// Refusals although the money was there.
    pub false_refusals: usize,
}

impl Figures {
    /// What the provider billed above the limit; 0 is what Hard promises.
    pub fn overspend(&self) -> i64 {
        (self.invoice - self.limit).max(0)
    }

    /// Tells what came of a fault of the list.
    pub fn tell(&self, fault: &str) {
        let Figures { kills, requests, rows, limit, invoice, ledger, false_refusals, .. } = self;
        let money = Money {
            limit: *limit,
            billed: *invoice,
            counted: *ledger,
            false_refusals: Some(*false_refusals as u64),
            unavailable: 0,
        };
        Run::of(fault, *requests).times(*kills).money(money).rows_lost(requests.saturating_sub(*rows)).tell();
    }

    /// The most that the ledger charged beyond the bills because of each kill: attempts in flight, at their holds.
    pub fn over_count_per_kill(&self) -> i64 {
        self.recovered_cost / self.kills.max(1) as i64
    }
}

/// Figures as lines of a table.
pub struct Table<'a>(pub &'a [Figures]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| kill -9 | kills | requests | rows | recovered | limit USD | invoice USD | ledger USD | overspend | over-count per kill USD | false refusals |"
        )?;
        writeln!(f, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        let usd = |nano: i64| format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000);
        for figures in self.0 {
            let Figures {
                what,
                kills,
                requests,
                rows,
                recovered,
                recovered_cost: _,
                limit,
                invoice,
                ledger,
                false_refusals,
            } = figures;
            let (limit, invoice, ledger) = (usd(*limit), usd(*invoice), usd(*ledger));
            let (over, count) = (usd(figures.overspend()), usd(figures.over_count_per_kill()));
            writeln!(
                f,
                "| {what} | {kills} | {requests} | {rows} | {recovered} | {limit} | {invoice} | {ledger} | {over} | {count} | {false_refusals} |"
            )?;
        }
        Ok(())
    }
}

/// Calls once, so that the gateway shows the budget, and gives how it stands then. The call may be refused.
pub async fn touch(stage: &Stage) -> BudgetGauge {
    stage.gateway.chat("m").send().await;
    wait_until_idle(&stage.gateway).await;
    budget(&stage.gateway, "/caller").await
}

/// Stops the gateway and holds its books over all its boots against the invoice and the limit.
///
/// # Panics
/// A promise of Hard is broken.
pub async fn judge(what: &str, kills: usize, stage: &mut Stage, books: &Books, limit: i64) -> (Figures, Vec<SpendRow>) {
    wait_until_idle(&stage.gateway).await;
    let gauge = budget(&stage.gateway, "/caller").await;
    stage.gateway.stop().await;
    let rows = ledger_rows(stage.gateway.data());
    let invoice = stage.mock.invoice();
    let faults = books.faults(&rows, &invoice, |_| Mode::Hard);
    assert!(faults.is_empty(), "{what}: {} faults in the books:\n{}", faults.len(), faults.join("\n"));
    let recovered: Vec<&SpendRow> = rows.iter().filter(|row| row.outcome == "recovered").collect();
    let figures = Figures {
        what: what.to_owned(),
        kills,
        requests: invoice.len(),
        rows: rows.len(),
        recovered: recovered.len(),
        recovered_cost: recovered.iter().map(|row| row.cost_nano_usd).sum(),
        limit,
        invoice: books.invoice_total(&stage.mock),
        ledger: total(&rows),
        false_refusals: 0,
    };
    assert!(figures.ledger <= limit, "{what}: the ledger is above the limit: {figures:?}");
    assert!(figures.invoice <= figures.ledger, "{what}: billed more than was booked: {figures:?}");
    assert_eq!(gauge.spent, figures.ledger, "{what}: the budget (left) is not the sum of all rows over all boots");
    (figures, rows)
}

/// Kills a gateway at random moments while [`CLIENTS`] agents spend, `rounds` times, and judges it.
///
/// # Panics
/// A promise of Hard is broken. The text names the seed.
pub async fn random_kills(seed: u64, rounds: usize, limit: &str) -> Figures {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut stage = Stage::start(|mock| vec![objects::deployment("m", mock), tries_once(), caller(hard(limit))]).await;
    let limit = crate::gauges::nano(limit);
    let refused = Arc::new(AtomicUsize::new(0));
    let mut false_refusals = 0;
    touch(&stage).await;
    for round in 0..rounds {
        stage.mock.script("up-m", (0..STEPS).map(|_| random_step(&mut random)));
        let stopping = Arc::new(AtomicBool::new(false));
        let address = stage.gateway.address();
        let agents: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (stopping, refused, random) = (stopping.clone(), refused.clone(), random.fork());
                tokio::spawn(async move { agent(address, &stopping, &refused, random).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(random.u64(5..250))).await;
        let before = budget(&stage.gateway, "/caller").await;
        stage.gateway.kill().await;
        stopping.store(true, Relaxed);
        for agent in agents {
            agent.await.expect("an agent ends well");
        }
        stage.mock.wait_for_in_flight(0).await;
        stage.mock.clear_script();
        stage.gateway.restart().await;
        let after = touch(&stage).await;
        let invoice = books().invoice_total(&stage.mock);
        let context =
            format!("seed {seed}, round {round}: {before:?} before the kill, {after:?} after, invoice {invoice}");
        assert_eq!(after.held, 0, "{context}");
        assert!(after.spent >= before.spent, "what was settled is lost: {context}");
        assert!(after.spent >= invoice, "billed, but not booked: {context}");
        assert!(after.spent <= limit, "above the limit: {context}");
        // One whole hold below the limit, nobody could have been refused.
        if refused.swap(0, Relaxed) > 0 && after.spent + LARGEST_HOLD <= limit {
            false_refusals += 1;
        }
    }
    let (figures, _) =
        judge(&format!("at random, {CLIENTS} agents, seed {seed}"), rounds, &mut stage, &books(), limit).await;
    Figures { false_refusals, ..figures }
}

fn books() -> Books {
    Books::default()
}

/// Tokens that each agent's call may answer with.
const MAX_TOKENS: u64 = 60;

/// Above the hold of an agent's call, nano-USD: fewer than 600 bytes of input at the dearest rate, and its output.
const LARGEST_HOLD: i64 = 600 * 3_125 + MAX_TOKENS as i64 * 10_000;

/// Calls until told to stop, the gateway is gone, or nothing is left.
async fn agent(address: std::net::SocketAddr, stopping: &AtomicBool, refused: &AtomicUsize, mut random: fastrand::Rng) {
    while !stopping.load(Relaxed) {
        let stream = random.bool();
        let body = json!({"model": "m", "stream": stream, "max_tokens": MAX_TOKENS, "messages": [{"role": "user", "content": "Hello"}]});
        let call = Call::new(address, "POST", "/v1/chat/completions").key(KEY).json(&body).try_send();
        // Every fourth hangs up at some moment.
        let patience = if random.u8(..4) == 0 { random.u64(..30) } else { 10_000 };
        match tokio::time::timeout(Duration::from_millis(patience), call).await {
            Ok(Ok(reply)) if reply.header("x-tollgate-error") == Some("budget_exhausted") => {
                refused.fetch_add(1, Relaxed);
                return;
            }
            Ok(Err(_)) if stopping.load(Relaxed) => return,
            // A provider that failed, a gateway that is being killed, a client that left: go on.
            _ => tokio::task::yield_now().await,
        }
        if random.u8(..3) == 0 {
            tokio::time::sleep(Duration::from_millis(random.u64(..5))).await;
        }
    }
}

fn random_step(random: &mut fastrand::Rng) -> Step {
    let reply = Reply { chunks: Some(random.usize(1..20)), chunk_delay_ms: random.u64(..4), ..Reply::default() };
    let cut =
        |how, random: &mut fastrand::Rng| Some(Cut { after_events: Some(random.usize(..6)), how, ..Cut::default() });
    let step: Step = match random.u8(..16) {
        0 => Step::error(500),
        1 => Step::close(),
        2 => Step::reset(),
        3 => Reply { usage: UsageScript::Missing, ..reply }.into(),
        4 => Reply { cut: cut(CutHow::Close, random), ..reply }.into(),
        5 => Reply { cut: cut(CutHow::Reset, random), ..reply }.into(),
        6 => Reply { done: Some(0), ..reply }.into(),
        _ => reply.into(),
    };
    step.delay_ms(if random.bool() { 0 } else { random.u64(..25) })
}
