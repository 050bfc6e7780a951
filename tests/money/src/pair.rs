//! Two gateways, one Hard budget that they share through Redis, agents that spend it to its end, and what came of it. I/O.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tollgate_faults::{Money, Run};
use tollgate_harness::{
    Call, Gateway, KEY, Object, PATIENCE, SpendRow, Stage, Starter, Step, Tokens, documents, json, ledger_rows,
    objects, patiently,
};

use crate::books::{Books, Mode, total};
use crate::gauges::{nano, sum, wait_for, wait_until_idle};
use crate::setup::{caller, chat, hard};

/// A call's cost, nano-USD: 50 tokens in, 100 out.
pub const COST: i64 = 50 * 2_500 + 100 * 10_000;

/// Refusals show USD to a hundredth of a cent: so much more or less, nano-USD.
const ROUNDED: i64 = 50_000;

/// Pause of an agent that was told that there is no allocator.
const UNAVAILABLE: Duration = Duration::from_millis(50);

/// The gateways, and those who call them.
pub struct Pair {
    pub stage: Stage,
    pub other: Gateway,
    pub ends: Arc<Ends>,
    agents: Vec<JoinHandle<()>>,
    /// Nano-USD.
    pub limit: i64,
}

/// How agents ended.
#[derive(Debug, Default)]
pub struct Ends {
    pub answered: AtomicUsize,
    /// What was said to be spent, of each that was told so. Nano-USD.
    pub exhausted: Mutex<Vec<i64>>,
    /// Refused because there was no allocator.
    pub unavailable: AtomicUsize,
    others: Mutex<Vec<String>>,
}

/// What was found when all had ended.
pub struct Found {
    pub rows: Vec<SpendRow>,
    /// Nano-USD.
    pub billed: i64,
    /// What the budget said is spent when it was refused last, or what the rows say where that is more.
    pub counted: i64,
    /// What a call holds.
    pub hold: i64,
}

impl Pair {
    /// The same configuration and folders of their own; each has its own way to Redis.
    pub async fn start(urls: [&str; 2], limit: &str) -> Pair {
        // So long that a slow machine makes no refusal.
        Pair::start_waiting(urls, limit, "20s").await
    }

    /// The same, where money in flight is waited for so long.
    pub async fn start_waiting(urls: [&str; 2], limit: &str, reserved_wait: &str) -> Pair {
        let [url, other_url] = urls;
        let stage = Stage::start(|mock| {
            let streams = objects::deployment("v", mock).set("spec.provider", "vllm");
            let gateway = gateway().set("spec.defaults.reservedWait", reserved_wait);
            vec![
                objects::deployment("m", mock),
                streams,
                gateway,
                objects::secret_of("redis", url),
                caller(hard(limit)),
            ]
        })
        .await;
        let mut others = stage.objects.clone();
        let redis = objects::secret_of("redis", other_url);
        others.retain(|object| object.id() != redis.id());
        others.push(redis);
        let other = Starter::default().file("config.yaml", documents(&others)).start().await;
        stage.mock.script("up-m", [Step::usage("x", Tokens::new(50, 100)).delay_ms(2).repeat(100_000)]);
        for gateway in [&stage.gateway, &other] {
            wait_for(gateway, "Redis is trusted", is_trusted).await;
        }
        Pair { stage, other, ends: Arc::default(), agents: Vec::new(), limit: nano(limit) }
    }

    /// Begins to spend at the first gateway.
    pub fn spend_at_first(&mut self, agents: usize) {
        self.spend_at(self.stage.gateway.address(), agents, true);
    }

    /// Begins to spend at the second; where it may go away, its agents may go with it.
    pub fn spend_at_second(&mut self, agents: usize, survives: bool) {
        self.spend_at(self.other.address(), agents, survives);
    }

    fn spend_at(&mut self, address: SocketAddr, agents: usize, survives: bool) {
        let begun = (0..agents).map(|_| tokio::spawn(agent(address, self.ends.clone(), survives)));
        self.agents.extend(begun);
    }

    /// Waits until the provider has billed this share of the limit.
    pub async fn wait_for_bills(&self, percent: i64) {
        let wait = async {
            while Books::default().invoice_total(&self.stage.mock) < self.limit * percent / 100 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        patiently("the bills", wait).await;
    }

    /// Waits until somebody was told that there is no allocator.
    pub async fn wait_for_unavailable(&self) {
        let wait = async {
            while self.ends.unavailable.load(Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        patiently("a call above what was granted", wait).await;
    }

    /// Waits until a gateway has noticed that Redis may have lost what it knew.
    pub async fn wait_for_lost_tail(&self) {
        let noticed = async {
            let name = "tollgate_allocator_lost_tails_total";
            while sum(&self.stage.gateway.metrics().await, name) + sum(&self.other.metrics().await, name) < 1.0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        patiently("the news of the loss", noticed).await;
    }

    /// Waits until the budget is spent, and compares limit, refusals, rows and invoice. Tells of the fault, if this is one
    /// of the list.
    ///
    /// # Panics
    /// A promise of Hard is broken.
    pub async fn judge(mut self, fault: Option<&str>) -> Found {
        for agent in self.agents.drain(..) {
            agent.await.expect("an agent ends well");
        }
        let others = self.ends.others.lock().expect("no holder panics").clone();
        assert!(others.is_empty(), "{others:?}");
        let mut rows = Vec::new();
        for gateway in [&mut self.stage.gateway, &mut self.other] {
            wait_until_idle(gateway).await;
            gateway.stop().await;
            rows.extend(ledger_rows(gateway.data()));
        }
        let invoice = self.stage.mock.invoice();
        let billed = Books::default().invoice_total(&self.stage.mock);
        let exhausted = self.ends.exhausted.lock().expect("no holder panics").clone();
        let shown = exhausted.iter().copied().max().unwrap_or_default();
        let counted = if shown - ROUNDED > total(&rows) { shown } else { total(&rows) };
        let hold = rows.iter().map(|row| row.held_nano_usd).max().expect("rows");
        let false_refusals = exhausted.iter().filter(|spent| *spent + hold <= self.limit).count();
        let unavailable = self.ends.unavailable.load(Relaxed);
        println!(
            "limit {}, billed {billed}, counted {counted}, a call holds {hold}, {unavailable} times 503",
            self.limit
        );
        if let Some(fault) = fault {
            let money = Money {
                limit: self.limit,
                billed,
                counted,
                false_refusals: Some(false_refusals as u64),
                unavailable: unavailable as u64,
            };
            Run::of(fault, invoice.len()).money(money).rows_lost(invoice.len().saturating_sub(rows.len())).tell();
        }
        let faults = Books::default().faults(&rows, &invoice, |_| Mode::Hard);
        assert!(faults.is_empty(), "{} faults in the books:\n{}", faults.len(), faults.join("\n"));
        assert!(billed <= total(&rows), "billed {billed}, booked {}", total(&rows));
        assert!(counted <= self.limit, "counted {counted} of {}", self.limit);
        assert_eq!(false_refusals, 0, "refused with {exhausted:?} of {} spent; a call holds {hold}", self.limit);
        Found { rows, billed, counted, hold }
    }
}

/// A gateway that counts in a Redis.
fn gateway() -> Object {
    objects::gateway().set("spec.stores", json!({"redis": {"secretRef": {"name": "redis", "key": "api-key"}}}))
}

fn is_trusted(metrics: &str) -> bool {
    sum(metrics, "tollgate_allocator_up") == 1.0 && sum(metrics, "tollgate_allocator_doubt") == 0.0
}

/// What a refusal says is spent.
fn spent_of(text: &str) -> i64 {
    let spent = text.split("Current cost: ").nth(1).and_then(|rest| rest.split(',').next());
    nano(spent.unwrap_or_else(|| panic!("no cost in {text}")).trim_start_matches('$'))
}

/// Calls until the budget is exhausted. A gateway that is gone ends it where `survives` is false.
async fn agent(address: SocketAddr, ends: Arc<Ends>, survives: bool) {
    let body = chat("m", "Hello", 100);
    let begun = tokio::time::Instant::now();
    let other = |text: String| ends.others.lock().expect("no holder panics").push(text);
    while begun.elapsed() < 2 * PATIENCE {
        let reply = match Call::new(address, "POST", "/v1/chat/completions").key(KEY).json(&body).try_send().await {
            Ok(reply) => reply,
            Err(error) if survives => return other(error.to_string()),
            Err(_) => return,
        };
        match (reply.status, reply.header("x-tollgate-error")) {
            (200, _) => drop(ends.answered.fetch_add(1, Relaxed)),
            (_, Some("budget_exhausted")) => {
                return ends.exhausted.lock().expect("no holder panics").push(spent_of(&reply.text()));
            }
            (_, Some("budget_unavailable")) => {
                ends.unavailable.fetch_add(1, Relaxed);
                tokio::time::sleep(UNAVAILABLE).await;
            }
            (status, _) => return other(format!("{status} {}", reply.text())),
        }
    }
    other("it is neither served nor refused".to_owned());
}
