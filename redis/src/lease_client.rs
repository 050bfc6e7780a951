//! The task that keeps a process's rate limits and the server together: asks where a call waits or a lease runs low, and
//! hands back what was given. A server that does not answer for a quarter of a second is away: who holds the leases then
//! counts by other means until it is back.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tollgate_allocator::leases::{Answer, Ask};

use crate::address::Address;
use crate::breaker::{AWAY, Breaker, Verdict};
use crate::connection::StoreError;
use crate::counters::Counters;
use crate::keys::{GatewayKeys, SHARDS};
use crate::leases::{AllShards, LeaseHeader, LeaseStore, Leased};

/// How often shards in which something is held are looked at: who waits there is heard of.
const LOOK: Duration = Duration::from_millis(50);

/// A sign of life to all shards. What comes back says whether the server is the same, and how many replicas there are.
const SIGN: Duration = Duration::from_secs(1);

/// The same while one may have lost what was there.
const SIGN_TO_YOUNG: Duration = Duration::from_millis(100);

/// What was put off is asked after this.
const AGAIN: Duration = Duration::from_millis(20);

const ALL: AllShards = AllShards::MAX;
const _: () = assert!(AllShards::BITS as usize == SHARDS, "one bit for each shard");

/// What is to be asked now.
#[derive(Debug, Default)]
pub struct Due {
    pub asks: Vec<Ask>,
    /// More is to be asked in a moment.
    pub is_put_off: bool,
    /// In which shards something is held.
    pub shards: AllShards,
}

/// Who holds leases.
pub trait Holder: Send + Sync {
    /// What is to be asked now. It is asked at once, and answered before this is called again.
    fn due(&self) -> Due;
    /// In the order of the asks; `None`: not answered. `asked_at`: before it was asked.
    fn answered(&self, asks: &[Ask], answers: &[Option<Answer>], asked_at: std::time::Instant);
    /// Somebody waits for these limits: what is not used is to be given back.
    fn recalled(&self, limits: &[String]);
    /// The server may have forgotten: all that is held is to be told again.
    fn tell_all(&self);
    /// What the server says counts. `replicas`: how many there are.
    fn trust(&self, replicas: u64);
    /// Nobody answers, or it may have forgotten.
    fn away(&self);
    /// Until a call waits, or a lease runs low. Cancel-safe.
    fn urgent(&self) -> impl Future<Output = ()> + Send;
    /// All that is held and not used, given back for good.
    fn last(&self) -> Vec<Ask>;
}

/// Keeps one holder and one server together.
pub struct LeaseClient<H> {
    addresses: watch::Receiver<Option<Address>>,
    /// Of the server that was tried last, for people.
    address: String,
    keys: GatewayKeys,
    replica: String,
    holder: H,
    counters: Arc<Counters>,
    /// Of each shard, as it answered last; 0: never.
    lives: [i64; SHARDS],
    young: [bool; SHARDS],
    replicas: u64,
    breaker: Breaker,
}

impl<H: Holder> LeaseClient<H> {
    /// `addresses`: where the server is; a new one is gone to at once. `gateway`: `namespace/name`, whose limits these are.
    /// `replica`: a name that no other process has.
    pub fn new(
        addresses: watch::Receiver<Option<Address>>,
        gateway: &str,
        replica: String,
        holder: H,
        counters: Arc<Counters>,
    ) -> LeaseClient<H> {
        LeaseClient {
            addresses,
            address: String::new(),
            keys: GatewayKeys::new(gateway),
            replica,
            holder,
            counters,
            lives: [0; SHARDS],
            young: [false; SHARDS],
            replicas: 1,
            breaker: Breaker::default(),
        }
    }

    /// Until `stop` ends; then what is not used is given back, if the server is there. Cancelling it loses nothing but
    /// time: what is held is free when its window ends.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let Some(address) = self.addresses.borrow_and_update().clone() else {
                // It is not known yet, because its Secret is missing.
                self.away();
                let changed = tokio::select! {
                    changed = tokio::time::timeout(AWAY, self.addresses.changed()) => changed,
                    () = stop.as_mut() => return,
                };
                if let Ok(Err(_)) = changed {
                    return stop.await;
                }
                continue;
            };
            self.address = address.to_string();
            let opened = tokio::select! {
                opened = LeaseStore::open(&address, self.keys.clone(), self.replica.clone()) => opened,
                () = stop.as_mut() => return,
            };
            match opened {
                Ok(store) => {
                    // Whoever answers now may be another one than before.
                    self.holder.tell_all();
                    tokio::select! {
                        () = self.serve(&store) => {}
                        () = stop.as_mut() => {
                            store.exchange(&self.holder.last(), 0, self.breaker.deadline()).await;
                            return;
                        }
                    }
                }
                Err(error) => tokio::select! {
                    () = self.failed(&error) => {}
                    () = stop.as_mut() => return,
                },
            }
        }
    }

    /// Until the connection is of no use any more.
    async fn serve(&mut self, store: &LeaseStore) {
        let mut next_sign = Instant::now();
        let mut next_look = next_sign;
        let mut wake = next_sign;
        loop {
            if self.addresses.has_changed().unwrap_or(false) {
                return;
            }
            tokio::select! {
                () = self.holder.urgent() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
            let begun = Instant::now();
            let Due { asks, is_put_off, shards: held } = self.holder.due();
            let mut shards = 0;
            // However often it is asked meanwhile: who waits in another shard is heard of.
            if begun >= next_look {
                shards = held;
                next_look = begun + LOOK;
            }
            if begun >= next_sign {
                shards = ALL;
                next_sign = begun + SIGN;
            }
            wake = match (is_put_off, held) {
                (true, _) => begun + AGAIN,
                (false, 0) => next_sign,
                (false, _) => next_look.min(next_sign),
            };
            if asks.is_empty() && shards == 0 {
                continue;
            }
            let leased = store.exchange(&asks, shards, self.breaker.deadline()).await;
            let failed = self.take(&asks, leased, begun);
            if self.young.contains(&true) {
                next_sign = next_sign.min(begun + SIGN_TO_YOUNG);
                wake = wake.min(next_sign);
            }
            if let Some(error) = failed {
                self.failed(&error).await;
                next_sign = Instant::now();
                wake = next_sign;
                if self.breaker.is_hopeless(&error) {
                    // Another server may be there now, by the same name.
                    return;
                }
            }
        }
    }

    /// Hands over what was given, and what is said of shards.
    fn take(&mut self, asks: &[Ask], leased: Leased, begun: Instant) -> Option<StoreError> {
        let Leased { answers, headers, failed } = leased;
        let mut tight = Vec::new();
        let mut is_other = false;
        for (shard, LeaseHeader { now_ms: _, life, is_young, members, tight: waited_for }) in headers {
            is_other |= self.lives[shard] != 0 && self.lives[shard] != life;
            self.lives[shard] = life;
            self.young[shard] = is_young;
            self.replicas = members.unwrap_or(self.replicas);
            tight.extend(waited_for);
        }
        if is_other {
            tracing::warn!(
                "{} has lost what was counted of rate limits: what proxies hold is told again",
                self.address
            );
            self.counters.lost_tails.fetch_add(1, Relaxed);
            self.holder.tell_all();
        }
        if failed.is_none() {
            self.counters.answered_after(begun.elapsed());
            if let Some(away) = self.breaker.answered() {
                tracing::info!("{} answers about rate limits again, after {} ms", self.address, away.as_millis());
            }
            if self.young.contains(&true) {
                self.away();
            } else {
                if !self.counters.up.swap(true, Relaxed) {
                    tracing::info!("rate limits are counted over all proxies by {}", self.address);
                }
                self.holder.trust(self.replicas);
            }
        }
        // After it was said who is trusted: calls that wait look at once.
        self.holder.answered(asks, &answers, begun.into_std());
        if !tight.is_empty() {
            self.holder.recalled(&tight);
        }
        failed
    }

    fn away(&self) {
        self.counters.up.store(false, Relaxed);
        self.holder.away();
    }

    /// Counts a failure, and waits a moment where there were many.
    async fn failed(&mut self, error: &StoreError) {
        self.counters.failed.fetch_add(1, Relaxed);
        let (pause, first) = match self.breaker.failed(error) {
            Verdict::Again(pause) => return tokio::time::sleep(pause).await,
            Verdict::Away { pause, first } => (pause, first),
        };
        if first {
            tracing::warn!(
                %error,
                "{} does not answer about rate limits, each proxy lets its part of them through: {error}",
                self.address
            );
        }
        self.away();
        tokio::time::sleep(pause).await;
    }
}
