//! The task that keeps a ledger's budgets and the server together: tells what is due, at once where a call waits, and
//! hands back what was decided. An answer has 25 ms; one that is late is asked for again with more patience, and after a
//! quarter of a second without any, who waits is told that there is no allocator.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tollgate_allocator::{Answer, Batch, ReplicaId, Terms};

use crate::address::Address;
use crate::breaker::{AWAY, Breaker, Verdict};
use crate::connection::StoreError;
use crate::counters::Counters;
use crate::decode::Header;
use crate::keys::{GatewayKeys, SHARDS};
use crate::memory::Memory;
use crate::store::{Exchanged, Store};

/// How often it is looked what changed.
const LOOK: Duration = Duration::from_millis(250);

/// A budget that asked a moment ago is asked for again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A sign of life to each shard. What comes back says who waits for allowance, and whether the server is the same.
const SIGN: Duration = Duration::from_millis(500);

/// Who spends: a ledger whose limits are handed out elsewhere.
pub trait Spender: Send + Sync {
    /// Who it is now.
    fn replica(&self) -> ReplicaId;
    /// What is to be told now.
    fn due(&self) -> Vec<Batch>;
    /// What was decided.
    fn answered(&self, replica: &ReplicaId, answers: &[Answer]);
    /// Nothing was.
    fn unanswered(&self);
    /// Until a call waits for allowance. Cancel-safe.
    fn urgent(&self) -> impl Future<Output = ()> + Send;
    /// Somebody waits for allowance of these budgets: what no call holds is to be given back.
    fn recalled(&self, budgets: &[String]);
    /// All accounts are due, also those that did not change.
    fn tell_all(&self);
    /// Of a budget.
    fn terms(&self, budget: &str) -> Option<Terms>;
}

/// Keeps one spender and one server together.
pub struct Client<S> {
    addresses: watch::Receiver<Option<Address>>,
    /// Of the server that was tried last, for people.
    address: String,
    keys: GatewayKeys,
    spender: S,
    counters: Arc<Counters>,
    memory: Memory,
    /// Of each shard, as it answered last.
    epochs: [i64; SHARDS],
    doubts: [bool; SHARDS],
    /// Of which epoch everything was told.
    told: [i64; SHARDS],
    /// Everything is on its way, or was never told.
    tells_all: bool,
    breaker: Breaker,
}

impl<S: Spender> Client<S> {
    /// `addresses`: where the server is; a new one is gone to at once, and is taken for the same server. `gateway`:
    /// `namespace/name`, whose budgets these are.
    pub fn new(
        addresses: watch::Receiver<Option<Address>>,
        gateway: &str,
        spender: S,
        counters: Arc<Counters>,
    ) -> Client<S> {
        Client {
            addresses,
            address: String::new(),
            keys: GatewayKeys::new(gateway),
            spender,
            counters,
            memory: Memory::default(),
            epochs: [0; SHARDS],
            doubts: [false; SHARDS],
            told: [0; SHARDS],
            tells_all: false,
            breaker: Breaker::default(),
        }
    }

    /// For ever. Cancelling it loses nothing: what was told may be told again.
    pub async fn run(mut self) -> std::convert::Infallible {
        loop {
            let Some(address) = self.addresses.borrow_and_update().clone() else {
                // It is not known yet, because its Secret is missing.
                self.spender.unanswered();
                let changed = tokio::time::timeout(AWAY, self.addresses.changed()).await;
                if let Ok(Err(_)) = changed {
                    std::future::pending::<()>().await;
                }
                continue;
            };
            self.address = address.to_string();
            match Store::open(&address, self.keys.clone()).await {
                Ok(mut store) => {
                    self.connected(&mut store).await;
                    self.serve(&store).await;
                }
                Err(error) => self.failed(&error).await,
            }
        }
    }

    async fn connected(&mut self, store: &mut Store) {
        let kind = if store.is_cluster() { "the cluster" } else { "the server" };
        tracing::info!("budgets are shared through {kind} at {}", self.address);
        match store.eviction().await {
            Ok(None) => {}
            Ok(Some(policy)) => tracing::error!(
                "{} may throw away what budgets have spent when its memory is full: set maxmemory-policy to noeviction, \
                 it is {policy}",
                self.address
            ),
            Err(error) => tracing::debug!(%error, "the server does not tell its memory policy"),
        }
    }

    /// Until the connection is of no use any more.
    async fn serve(&mut self, store: &Store) {
        let mut next_sign = Instant::now();
        let mut look = Duration::ZERO;
        loop {
            let wake = (Instant::now() + look).min(next_sign.max(Instant::now()));
            if self.addresses.has_changed().unwrap_or(false) {
                return;
            }
            let is_urgent = tokio::select! {
                () = self.spender.urgent() => true,
                () = tokio::time::sleep_until(wake) => false,
            };
            let signs = Instant::now() >= next_sign;
            let batches: Vec<Batch> =
                self.spender.due().into_iter().filter(|batch| !batch.reports.is_empty()).collect();
            look = if is_urgent { LOOK_AGAIN } else { LOOK };
            if batches.is_empty() && !signs {
                continue;
            }
            let replica = self.spender.replica();
            let spender = &self.spender;
            let deadline = self.breaker.deadline();
            let begun = Instant::now();
            let exchanged = store
                .exchange(
                    &batches,
                    &mut self.memory,
                    &self.told,
                    signs.then_some(&replica),
                    &|budget| spender.terms(budget),
                    deadline,
                )
                .await;
            if signs {
                next_sign = begun + SIGN;
            }
            let all_answered = exchanged.failed.is_none();
            let was_all = std::mem::take(&mut self.tells_all);
            let failed = self.take(exchanged);
            match failed {
                None => self.answered(begun.elapsed()),
                Some(error) => {
                    // What it was about is told again.
                    self.spender.tell_all();
                    self.tells_all = true;
                    self.failed(&error).await;
                    next_sign = Instant::now();
                    look = Duration::ZERO;
                    if self.breaker.is_hopeless(&error) {
                        // Another server may be there now, by the same name.
                        return;
                    }
                }
            }
            if was_all && all_answered && !self.tells_all {
                self.told = self.epochs;
                next_sign = Instant::now();
            }
        }
    }

    /// Hands over what was decided.
    fn take(&mut self, exchanged: Exchanged) -> Option<StoreError> {
        let Exchanged { answers, headers, decided, failed } = exchanged;
        for answers in &answers {
            if !answers.answers.is_empty() {
                self.spender.answered(&answers.replica, &answers.answers);
            }
        }
        let mut denied = 0;
        for (replica, one) in &decided {
            let budget = &one.answer.budget;
            denied += u64::from(one.denied);
            if one.adjusted > 0 {
                self.counters.adjusted.fetch_add(1, Relaxed);
                tracing::info!(%budget, adjusted = one.adjusted, "a proxy that ended proved that it spent less of `{budget}` than it was charged");
            }
            for gone in &one.gone {
                tracing::info!(%budget, "replica `{gone}` is silent: `{budget}` is charged what it was granted");
            }
            if one.late {
                tracing::warn!(%budget, "the server had lost what replica `{}` was granted of `{budget}`; it is told again", replica.0);
            }
        }
        let mut tight = Vec::new();
        for (shard, header) in headers {
            self.note(shard, &header);
            tight.extend(header.tight);
        }
        if !tight.is_empty() {
            self.spender.recalled(&tight);
        }
        if denied > 0 {
            self.counters.denied.fetch_add(denied, Relaxed);
            self.spender.unanswered();
        }
        failed
    }

    /// Takes over what is said of a shard.
    fn note(&mut self, shard: usize, header: &Header) {
        let (had_doubt, is_first) = (self.doubts.contains(&true), self.epochs[shard] == 0);
        if self.epochs[shard] != header.epoch {
            self.epochs[shard] = header.epoch;
            self.tells_all = true;
            self.spender.tell_all();
        }
        // Each shard finds it out for itself.
        if header.lost && !is_first && !had_doubt {
            self.counters.lost_tails.fetch_add(1, Relaxed);
        }
        self.doubts[shard] = header.doubt;
        let has_doubt = self.doubts.contains(&true);
        self.counters.doubt.store(has_doubt, Relaxed);
        if has_doubt && !had_doubt {
            tracing::warn!(
                "{} is new, was started again or was replaced, and may have lost what it wrote last: hard budgets get \
                 nothing until every proxy has told what it knows",
                self.address
            );
        } else if had_doubt && !has_doubt {
            tracing::info!("what {} says of budgets is complete again", self.address);
        }
    }

    fn answered(&mut self, took: Duration) {
        self.counters.answered_after(took);
        self.counters.up.store(true, Relaxed);
        if let Some(away) = self.breaker.answered() {
            tracing::info!("{} answers again, after {} ms", self.address, away.as_millis());
        }
    }

    /// Counts a failure, and waits a moment where there were many.
    async fn failed(&mut self, error: &StoreError) {
        self.counters.failed.fetch_add(1, Relaxed);
        let (pause, first) = match self.breaker.failed(error) {
            Verdict::Again(pause) => return tokio::time::sleep(pause).await,
            Verdict::Away { pause, first } => (pause, first),
        };
        if first {
            tracing::warn!(%error, "{} does not answer about budgets: {error}", self.address);
        }
        self.counters.up.store(false, Relaxed);
        self.spender.unanswered();
        // Who asks for the first time meanwhile should not wait for an answer that nobody will give.
        let until = Instant::now() + pause;
        while Instant::now() < until {
            tokio::select! {
                () = self.spender.urgent() => {
                    self.spender.unanswered();
                    tokio::time::sleep(LOOK_AGAIN.min(until.saturating_duration_since(Instant::now()))).await;
                }
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}
