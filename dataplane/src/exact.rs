//! Limits that are exact over several proxies, because one counter in Redis gives leases of them. Here are the leases of
//! this process, which of them the task that talks to the counter must look at, and what holds while nobody answers: the
//! shares of [`crate::share`].

use std::collections::HashMap;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::Notify;
use tollgate_ledger::leases::{Answer, Ask};
use tollgate_redis::{Due, Holder, shard_of};

use crate::core;
use crate::lease::{Lease, Next, Otherwise, Wanted, Whose};
use crate::limits::{LimitType, Reached, Usage};
use crate::share::{self, Hub};

/// How often all leases are looked through.
const LOOK_MS: u64 = 250;

/// The most that is asked at once.
const MOST_ASKS: usize = 4_096;

/// Who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Counting {
    /// Each process for itself, or by shares: no counter is configured.
    Shares = 0,
    /// The counter gives leases.
    Leases = 1,
    /// It does not answer: what is held is used up, then shares count.
    Away = 2,
}

/// The leases of a process.
#[derive(Debug)]
pub struct Exact {
    counting: AtomicU8,
    /// To be asked about now.
    listed: Mutex<Vec<Weak<Usage>>>,
    urgent: Notify,
    /// Which process it is, with no other of the name.
    process: u64,
    accounts: AtomicU64,
    active: Mutex<Active>,
}

/// What the task knows.
#[derive(Debug, Default)]
struct Active {
    usages: HashMap<Arc<str>, Weak<Usage>>,
    next_look_ms: u64,
    shards: u16,
    /// What is asked now.
    asked: Vec<(Arc<Usage>, LimitType)>,
}

/// Leases of all limits of one usage.
#[derive(Debug)]
pub struct Leases {
    account: Arc<str>,
    /// What the counter calls the limits. By [`LimitType`], as below.
    names: [OnceLock<Arc<str>>; LimitType::ALL.len()],
    leases: [OnceLock<Box<Lease>>; LimitType::ALL.len()],
    is_listed: AtomicBool,
    is_active: AtomicBool,
}

/// What became of taking by a lease.
#[derive(Debug)]
pub enum ByLease {
    Taken(crate::lease::Taken),
    /// Nothing was to be taken, and nothing is here to take it of.
    Nothing,
    Refused(Reached),
    /// Shares count, and so much was used already by the lease.
    Beside(u64),
}

impl Default for Exact {
    fn default() -> Exact {
        Exact {
            counting: AtomicU8::new(Counting::Shares as u8),
            listed: Mutex::default(),
            urgent: Notify::new(),
            process: random(),
            accounts: AtomicU64::new(0),
            active: Mutex::default(),
        }
    }
}

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Exact {
    pub fn counting(&self) -> Counting {
        match self.counting.load(Acquire) {
            0 => Counting::Shares,
            1 => Counting::Leases,
            _ => Counting::Away,
        }
    }

    /// There is a counter. Until it answers, or is known to be away, calls wait for it.
    pub fn begin(&self) {
        let (shares, leases) = (Counting::Shares as u8, Counting::Leases as u8);
        let _ = self.counting.compare_exchange(shares, leases, AcqRel, Acquire);
    }

    /// Whether it is another now.
    fn count(&self, counting: Counting) -> bool {
        self.counting.swap(counting as u8, AcqRel) != counting as u8
    }

    /// A name of this process that no other has.
    pub fn process(&self) -> String {
        format!("{:016x}", self.process)
    }

    /// Those of a usage.
    pub fn leases(&self) -> Box<Leases> {
        let account = self.accounts.fetch_add(1, Relaxed);
        Box::new(Leases {
            account: format!("{:016x}.{account}", self.process).into(),
            names: Default::default(),
            leases: Default::default(),
            is_listed: false.into(),
            is_active: false.into(),
        })
    }

    fn list(&self, leases: &Leases, usage: &Weak<Usage>) {
        if !leases.is_listed.swap(true, AcqRel) {
            lock(&self.listed).push(usage.clone());
        }
        self.urgent.notify_one();
    }
}

impl Leases {
    fn lease(&self, limit_type: LimitType) -> &Lease {
        self.leases[limit_type as usize].get_or_init(Box::default)
    }

    /// That of a limit, where it was ever used.
    pub fn find(&self, limit_type: LimitType) -> Option<&Lease> {
        self.leases[limit_type as usize].get().map(|lease| &**lease)
    }

    /// Whether anything is held that others could use.
    pub fn hold(&self, now_ms: u64) -> bool {
        self.leases.iter().any(|lease| lease.get().is_some_and(|lease| lease.holds(now_ms)))
    }

    /// Takes of a limit. Never inline: most processes have no counter.
    #[inline(never)]
    pub fn take(
        &self,
        hub: &Hub,
        usage: &Weak<Usage>,
        limit_type: LimitType,
        wanted: Wanted,
        counting: Counting,
    ) -> ByLease {
        let Wanted { limit, amount, pressure } = wanted;
        let now_ms = hub.now_ms();
        let lease = self.lease(limit_type);
        let at_once = limit_type == LimitType::MaxParallelRequests;
        let taken = match pressure {
            None => lease.take(amount, limit, now_ms),
            Some(_) => lease.take_share(amount, limit, now_ms),
        };
        if let Some(taken) = taken {
            if lease.runs_low() {
                lease.note(limit);
                hub.exact.list(self, usage);
            }
            return ByLease::Taken(taken);
        }
        if counting != Counting::Leases {
            // What shares let through is told when the counter is back.
            hub.exact.list(self, usage);
            return ByLease::Beside(lease.used(at_once, now_ms));
        }
        if amount == 0 {
            return ByLease::Nothing;
        }
        let of_share = match lease.otherwise(wanted, now_ms) {
            Otherwise::Borrowed { taken, is_asked } => {
                if is_asked {
                    hub.exact.list(self, usage);
                }
                return ByLease::Taken(taken);
            }
            Otherwise::Wanted => {
                hub.exact.list(self, usage);
                true
            }
            Otherwise::UsedUp { is_final } => !is_final,
        };
        let resets_in = if at_once { 1 } else { lease.resets_in(now_ms) };
        let remaining = lease.remaining(limit, now_ms);
        ByLease::Refused(Reached { limit_type, limit, remaining, resets_in, of_share })
    }

    /// A call waits to hear whether less than `line` of a limit is used.
    pub fn doubt(&self, hub: &Hub, usage: &Weak<Usage>, limit_type: LimitType, line: u64) {
        if let Some(lease) = self.find(limit_type) {
            lease.doubt(line);
            hub.exact.list(self, usage);
        }
    }

    /// Something that was taken came free: others may wait for it.
    pub fn freed(&self, hub: &Hub, usage: &Weak<Usage>, limit_type: LimitType) {
        if self.find(limit_type).is_some_and(Lease::is_worth_telling) {
            hub.exact.list(self, usage);
        }
    }

    fn whose(&self, name: &str, limit_type: LimitType, beside: u64) -> Whose<'_> {
        let limit = self.names[limit_type as usize].get_or_init(|| format!("{name} {}", limit_type.as_str()).into());
        Whose { limit, account: &self.account, at_once: limit_type == LimitType::MaxParallelRequests, beside }
    }
}

/// The way of the task to the leases.
pub struct LeaseHolder {
    shared: Arc<core::Shared>,
    hub: Arc<Hub>,
}

impl LeaseHolder {
    pub fn new(shared: Arc<core::Shared>, hub: Arc<Hub>) -> LeaseHolder {
        LeaseHolder { shared, hub }
    }

    /// Adds what is to be asked about a usage. `None`: nothing of it is held or used any more; else whether something is to
    /// be asked soon.
    fn ask(&self, usage: &Arc<Usage>, active: &mut Active, asks: &mut Vec<Ask>) -> Option<bool> {
        let (leases, name) = usage.shared().and_then(|shared| Some((shared.leases()?, shared.name())))?;
        let now_ms = self.hub.now_ms();
        let now = self.shared.started.elapsed().as_secs() + 1;
        let (mut is_put_off, mut is_there) = (false, false);
        for limit_type in LimitType::ALL {
            let Some(lease) = leases.find(limit_type) else { continue };
            let beside = usage.used_beside(limit_type, now).0;
            let whose = leases.whose(name, limit_type, beside);
            match lease.next(whose, now_ms) {
                Next::Ask(ask) => {
                    is_there = true;
                    asks.push(ask);
                    active.asked.push((usage.clone(), limit_type));
                }
                Next::PutOff => is_put_off = true,
                Next::Nothing => is_there |= lease.holds(now_ms) || lease.used(whose.at_once, now_ms) + beside > 0,
            }
        }
        if is_there || is_put_off {
            active.shards |= leases.shards(name);
        }
        (is_there || is_put_off).then_some(is_put_off)
    }
}

impl Leases {
    /// The shards of the limits that are used.
    fn shards(&self, name: &str) -> u16 {
        let used = LimitType::ALL.into_iter().filter(|limit_type| self.find(*limit_type).is_some());
        used.fold(0, |all, limit_type| all | 1 << shard_of(self.whose(name, limit_type, 0).limit))
    }
}

impl Holder for LeaseHolder {
    fn due(&self) -> Due {
        let exact = &self.hub.exact;
        let mut active = lock(&exact.active);
        let mut due = Due::default();
        active.asked.clear();
        let mut listed = std::mem::take(&mut *lock(&exact.listed));
        let mut later = Vec::new();
        while let Some(weak) = listed.pop() {
            if due.asks.len() >= MOST_ASKS {
                later.push(weak);
                break;
            }
            let Some(usage) = weak.upgrade() else { continue };
            let Some((leases, name)) = usage.shared().and_then(|shared| Some((shared.leases()?, shared.name()))) else {
                continue;
            };
            leases.is_listed.store(false, Release);
            if !leases.is_active.swap(true, AcqRel) {
                active.usages.insert(name.clone(), weak.clone());
            }
            if self.ask(&usage, &mut active, &mut due.asks) == Some(true) && !leases.is_listed.swap(true, AcqRel) {
                later.push(weak);
            }
        }
        due.is_put_off = !later.is_empty();
        if due.is_put_off {
            later.append(&mut listed);
            lock(&exact.listed).append(&mut later);
        }
        let now_ms = self.hub.now_ms();
        // Who waits first, but not for ever.
        let patience_ms = if due.asks.is_empty() { 0 } else { LOOK_MS };
        if now_ms >= active.next_look_ms + patience_ms {
            active.next_look_ms = now_ms + LOOK_MS;
            active.shards = 0;
            let usages: Vec<(Arc<str>, Weak<Usage>)> = active.usages.drain().collect();
            for (name, weak) in usages {
                let Some(usage) = weak.upgrade() else { continue };
                if due.asks.len() >= MOST_ASKS || self.ask(&usage, &mut active, &mut due.asks).is_some() {
                    active.usages.insert(name, weak);
                } else if let Some(leases) = usage.shared().and_then(|shared| shared.leases()) {
                    leases.is_active.store(false, Release);
                }
            }
        }
        due.shards = active.shards;
        due
    }

    fn answered(&self, asks: &[Ask], answers: &[Option<Answer>], asked_at: Instant) {
        let hub = &*self.hub;
        let asked = std::mem::take(&mut lock(&hub.exact.active).asked);
        let (asked_ms, now_ms) = (hub.ms_of(asked_at), hub.now_ms());
        for (((usage, limit_type), ask), answer) in asked.iter().zip(asks).zip(answers) {
            let Some(leases) = usage.shared().and_then(|shared| shared.leases()) else { continue };
            let lease = leases.lease(*limit_type);
            match answer {
                Some(answer) => lease.answered(ask, answer, asked_ms, now_ms),
                None => {
                    lease.unanswered(ask);
                    hub.exact.list(leases, &Arc::downgrade(usage));
                }
            }
        }
        hub.changed.notify_waiters();
    }

    fn recalled(&self, limits: &[String]) {
        let hub = &*self.hub;
        let active = lock(&hub.exact.active);
        for limit in limits {
            let Some((name, limit_type)) = share::parse(limit) else { continue };
            let Some(usage) = active.usages.get(name).and_then(Weak::upgrade) else { continue };
            let Some(leases) = usage.shared().and_then(|shared| shared.leases()) else { continue };
            if let Some(lease) = leases.find(limit_type).filter(|lease| lease.is_worth_a_recall(hub.now_ms())) {
                lease.recall();
                hub.exact.list(leases, &Arc::downgrade(&usage));
            }
        }
    }

    fn tell_all(&self) {
        let hub = &*self.hub;
        let active = lock(&hub.exact.active);
        for usage in active.usages.values().filter_map(Weak::upgrade) {
            let Some(leases) = usage.shared().and_then(|shared| shared.leases()) else { continue };
            LimitType::ALL.iter().filter_map(|limit_type| leases.find(*limit_type)).for_each(Lease::forget);
            hub.exact.list(leases, &Arc::downgrade(&usage));
        }
    }

    fn trust(&self, replicas: u64) {
        self.hub.counted(replicas);
        if self.hub.exact.count(Counting::Leases) {
            self.hub.changed.notify_waiters();
        }
    }

    fn away(&self) {
        if self.hub.exact.count(Counting::Away) {
            self.hub.changed.notify_waiters();
        }
    }

    async fn urgent(&self) {
        self.hub.exact.urgent.notified().await;
    }

    fn last(&self) -> Vec<Ask> {
        let hub = &*self.hub;
        let active = lock(&hub.exact.active);
        let now_ms = hub.now_ms();
        let mut asks = Vec::new();
        for usage in active.usages.values().filter_map(Weak::upgrade) {
            let Some((leases, name)) = usage.shared().and_then(|shared| Some((shared.leases()?, shared.name()))) else {
                continue;
            };
            for limit_type in LimitType::ALL {
                let Some(lease) = leases.find(limit_type) else { continue };
                asks.extend(lease.last(leases.whose(name, limit_type, 0), now_ms));
            }
        }
        asks
    }
}
