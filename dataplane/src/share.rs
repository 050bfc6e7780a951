//! A proxy's share of limits that several proxies have together. Who leads the operators tells shares
//! (`tollgate_ledger::rates`); here they are kept, and what is told back is gathered: of limits that are near, that
//! refused somebody, or of which a share other than the usual one was told. The hot path reads one number.
//!
//! The usual share is limit / proxies, at least 1. Nobody's word for [`AWAY`]: what is above the usual share is given up;
//! some minutes later, when whatever others counted has passed, what is below it is taken back.
//!
//! Where a counter in Redis gives leases ([`crate::exact`]), shares count only while it does not answer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tollgate_ledger::rates::{AWAY_MS, RETURN_MS, Report, Share, Told};

use crate::exact::{ByLease, Counting, Exact, Leases};
use crate::lease::{Lease, Wanted};
use crate::limits::{LimitType, Usage};

/// After this without a word of the leader its shares are not believed any more. Above the time in which another one
/// takes over.
pub const AWAY: Duration = Duration::from_millis(AWAY_MS);

/// After this who has less than the usual share takes it.
const RETURN: Duration = Duration::from_millis(RETURN_MS);

/// The usual share.
const UNTOLD: u64 = u64::MAX;

/// How long a call waits for more of a limit when this proxy's share is used up. The leader needs some milliseconds.
pub const PATIENCE: Duration = Duration::from_millis(250);

/// How long it waits for a lease. The counter answers within milliseconds, or is soon known to be away; a machine that is
/// too busy for that should refuse nobody.
const PATIENCE_FOR_LEASES: Duration = Duration::from_secs(1);

/// Calls wait while the leader has had less than [`PATIENCE`] to do something about a refusal; if it did not, the limit is
/// used up, and it is tried again after this.
const RETRY_MS: u64 = 5_000;

/// Who has not said anything for so long does not lead.
const LED: Duration = Duration::from_secs(3);

/// The most limits that are told of at once; those that follow are told of next.
const MOST_REPORTS: usize = 4_096;

/// Shares of one process.
#[derive(Debug)]
pub struct Hub {
    began: Instant,
    /// An operator moves shares.
    has_leader: bool,
    /// How many proxies there are; 0: not known.
    replicas: AtomicU64,
    /// What is to be told of.
    listed: Mutex<Vec<Weak<Usage>>>,
    /// Something should be told now.
    pub urgent: Notify,
    /// Shares changed.
    pub changed: Notify,
    leader: Mutex<Leader>,
    /// Leases of a counter, where there is one.
    pub exact: Exact,
}

impl Default for Hub {
    fn default() -> Hub {
        Hub {
            began: Instant::now(),
            has_leader: true,
            replicas: AtomicU64::default(),
            listed: Mutex::default(),
            urgent: Notify::new(),
            changed: Notify::new(),
            leader: Mutex::default(),
            exact: Exact::default(),
        }
    }
}

/// Whose word is believed.
#[derive(Debug, Default)]
struct Leader {
    name: String,
    heard_at: Option<Instant>,
}

/// The part of a [`Usage`] that other proxies share.
#[derive(Debug)]
pub struct Shared {
    /// The same in every proxy.
    name: Arc<str>,
    hub: Arc<Hub>,
    usage: Weak<Usage>,
    /// By [`LimitType`].
    kinds: [Kind; LimitType::ALL.len()],
    is_listed: AtomicBool,
    leases: OnceLock<Box<Leases>>,
}

#[derive(Debug)]
struct Kind {
    share: AtomicU64,
    /// As it was last asked for; 0: never.
    limit: AtomicU64,
    /// What did not fit since it was last told.
    refused: AtomicU64,
    /// A share was told, and it was not said yet that it holds.
    is_unsaid: AtomicBool,
    /// When something did not fit for the first time since; milliseconds of the hub's clock, 0: never.
    refused_at: AtomicU64,
}

impl Default for Kind {
    fn default() -> Kind {
        let is_unsaid = false.into();
        Kind { share: UNTOLD.into(), limit: 0.into(), refused: 0.into(), is_unsaid, refused_at: 0.into() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// Of processes that nobody leads: only a counter knows of all of them.
    pub fn of_equals() -> Hub {
        Hub { has_leader: false, ..Hub::default() }
    }

    /// The clock of leases: milliseconds since this was made, never 0.
    pub fn now_ms(&self) -> u64 {
        self.ms_of(Instant::now())
    }

    pub fn ms_of(&self, moment: Instant) -> u64 {
        moment.saturating_duration_since(self.began).as_millis() as u64 + 1
    }

    /// How long a call waits for more of a limit.
    pub fn patience(&self) -> Duration {
        match self.exact.counting() {
            Counting::Leases => PATIENCE_FOR_LEASES,
            Counting::Shares | Counting::Away => PATIENCE,
        }
    }

    /// So many processes spoke to the counter of late. A leader knows it better.
    pub fn counted(&self, replicas: u64) {
        if !self.has_leader {
            self.replicas.store(replicas.max(1), Relaxed);
        }
    }

    /// How many proxies the gateway should have, for as long as nobody tells how many there are.
    pub fn expect(&self, replicas: u32) {
        if self.has_leader && lock(&self.leader).heard_at.is_none() {
            self.replicas.store(u64::from(replicas), Relaxed);
        }
    }

    /// How many proxies share limits, as far as is known.
    pub fn replicas(&self) -> u64 {
        self.replicas.load(Relaxed).max(1)
    }

    /// Takes over what the leader tells. `find`: the usage of a name. Whether whoever asked wants to know at once: shares
    /// changed, or nothing was told to it yet.
    pub fn hear(&self, told: &Told, now: Instant, find: impl Fn(&str) -> Option<Arc<Usage>>) -> bool {
        let mut leader = lock(&self.leader);
        let is_new = leader.heard_at.is_none() || leader.name != told.leader;
        if is_new {
            leader.name.clone_from(&told.leader);
        }
        leader.heard_at = Some(now);
        drop(leader);
        let before = self.replicas.swap(told.replicas.max(1), Relaxed);
        let mut changed = is_new || before != told.replicas.max(1);
        for Share { limit, share } in &told.shares {
            let Some((name, limit_type)) = parse(limit) else { continue };
            let Some(usage) = find(name) else { continue };
            let Some(shared) = usage.shared() else { continue };
            let kind = &shared.kinds[limit_type as usize];
            kind.share.store(share.unwrap_or(UNTOLD), Relaxed);
            kind.is_unsaid.store(true, Relaxed);
            kind.refused_at.store(0, Relaxed);
            shared.list();
            changed = true;
        }
        if changed {
            self.changed.notify_waiters();
        }
        changed
    }

    fn is_led(&self) -> bool {
        lock(&self.leader).heard_at.is_some_and(|heard_at| heard_at.elapsed() < LED)
    }

    /// What the leader should know now. `now`: seconds since the process began.
    pub fn reports(&self, now: u64) -> Vec<Report> {
        let mut listed = std::mem::take(&mut *lock(&self.listed));
        let mut reports = Vec::new();
        let mut kept = Vec::with_capacity(listed.len());
        while let Some(weak) = listed.pop() {
            let Some(usage) = weak.upgrade() else { continue };
            let Some(shared) = usage.shared() else { continue };
            if reports.len() >= MOST_REPORTS {
                kept.push(weak);
                break;
            }
            let mut is_worth_it = false;
            for limit_type in LimitType::ALL {
                is_worth_it |= shared.report(&usage, limit_type, now, &mut reports);
            }
            if is_worth_it {
                kept.push(weak);
            } else {
                shared.is_listed.store(false, Relaxed);
            }
        }
        let mut list = lock(&self.listed);
        // Those that were not told of come first next time: the end is taken first.
        kept.append(&mut list);
        kept.append(&mut listed);
        *list = kept;
        reports
    }

    /// Called now and then: nobody may have said anything for long.
    pub fn notice_absence(&self, now: Instant) {
        let Some(heard_at) = lock(&self.leader).heard_at else { return };
        let silence = now.saturating_duration_since(heard_at);
        if silence < AWAY {
            return;
        }
        let is_over = silence >= RETURN;
        let listed: Vec<Weak<Usage>> = lock(&self.listed).clone();
        for usage in listed.iter().filter_map(Weak::upgrade) {
            let Some(shared) = usage.shared() else { continue };
            for kind in &shared.kinds {
                let (share, limit) = (kind.share.load(Relaxed), kind.limit.load(Relaxed));
                if share != UNTOLD && (is_over || share >= self.usual(limit)) {
                    kind.share.store(UNTOLD, Relaxed);
                }
            }
        }
    }

    fn usual(&self, limit: u64) -> u64 {
        (limit / self.replicas()).max(1)
    }
}

impl Shared {
    pub fn new(name: Arc<str>, hub: Arc<Hub>, usage: &Arc<Usage>) -> Shared {
        let (usage, kinds) = (Arc::downgrade(usage), Default::default());
        Shared { name, hub, usage, kinds, is_listed: false.into(), leases: OnceLock::new() }
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Those that were used.
    pub fn leases(&self) -> Option<&Leases> {
        self.leases.get().map(|leases| &**leases)
    }

    /// That of a limit, where it was used.
    pub fn lease(&self, limit_type: LimitType) -> Option<&Lease> {
        self.leases()?.find(limit_type)
    }

    /// Takes by a lease. `None`: only shares count.
    pub fn take_leased(&self, limit_type: LimitType, wanted: Wanted) -> Option<ByLease> {
        let counting = self.hub.exact.counting();
        if counting == Counting::Shares {
            return None;
        }
        let leases = self.leases.get_or_init(|| self.hub.exact.leases());
        Some(leases.take(&self.hub, &self.usage, limit_type, wanted, counting))
    }

    /// A call waits to hear whether less than `line` of a limit is used.
    pub fn doubt(&self, limit_type: LimitType, line: u64) {
        if let Some(leases) = self.leases() {
            leases.doubt(&self.hub, &self.usage, limit_type, line);
        }
    }

    /// Something that was taken by a lease came free.
    pub fn freed(&self, limit_type: LimitType) {
        if let Some(leases) = self.leases() {
            leases.freed(&self.hub, &self.usage, limit_type);
        }
    }

    pub fn now_ms(&self) -> u64 {
        self.hub.now_ms()
    }

    /// Whether leases count now.
    pub fn is_leased(&self) -> bool {
        self.hub.exact.counting() == Counting::Leases
    }

    /// What this proxy may let through by its share.
    pub fn cap(&self, limit_type: LimitType, limit: u64) -> u64 {
        match self.kinds[limit_type as usize].share.load(Relaxed) {
            UNTOLD => self.hub.usual(limit).min(limit),
            share => share.min(limit),
        }
    }

    /// Whether all shares are the usual ones, and nothing is held that others could use.
    pub fn is_untold(&self) -> bool {
        self.leases().is_none_or(|leases| !leases.hold(self.now_ms()))
            && self.kinds.iter().all(|kind| kind.share.load(Relaxed) == UNTOLD)
    }

    /// Something was taken, and `left` of this proxy's share is left.
    pub fn taken(&self, limit_type: LimitType, limit: u64, left: u64) {
        let cap = self.cap(limit_type, limit);
        if left.saturating_mul(2) < cap && self.is_of_several(limit_type) {
            self.near(limit_type, limit, left, cap);
        }
    }

    #[cold]
    fn near(&self, limit_type: LimitType, limit: u64, left: u64, cap: u64) {
        self.kinds[limit_type as usize].limit.store(limit, Relaxed);
        // Before it is gone, so that more is here in time.
        if self.list() || left.saturating_mul(4) < cap && cap < limit {
            self.hub.urgent.notify_one();
        }
    }

    /// Something did not fit. Whether more of the limit may be had in a moment.
    pub fn refused(&self, limit_type: LimitType, limit: u64, amount: u64) -> bool {
        if !self.is_of_several(limit_type) {
            return false;
        }
        let kind = &self.kinds[limit_type as usize];
        kind.limit.store(limit, Relaxed);
        kind.refused.fetch_add(amount, Relaxed);
        self.list();
        self.hub.urgent.notify_one();
        if self.cap(limit_type, limit) >= limit || amount > limit || !self.hub.is_led() {
            return false;
        }
        let now = self.hub.began.elapsed().as_millis() as u64 + 1;
        let since = match kind.refused_at.load(Relaxed) {
            0 => 0,
            first => now - first.min(now),
        };
        if since == 0 || since > RETRY_MS {
            kind.refused_at.store(now, Relaxed);
            return true;
        }
        since < PATIENCE.as_millis() as u64
    }

    fn is_of_several(&self, limit_type: LimitType) -> bool {
        // Where nobody leads, nobody would ever ask what is to be told.
        self.hub.has_leader && self.hub.replicas() > 1 || self.kinds[limit_type as usize].share.load(Relaxed) != UNTOLD
    }

    /// Whether it was not on the list.
    fn list(&self) -> bool {
        let is_new = !self.is_listed.swap(true, Relaxed);
        if is_new {
            lock(&self.hub.listed).push(self.usage.clone());
        }
        is_new
    }

    /// Adds what is to be said of one limit; false where there is nothing.
    fn report(&self, usage: &Usage, limit_type: LimitType, now: u64, reports: &mut Vec<Report>) -> bool {
        let kind = &self.kinds[limit_type as usize];
        let limit = kind.limit.load(Relaxed);
        let told = kind.share.load(Relaxed);
        let is_unsaid = kind.is_unsaid.swap(false, Relaxed);
        if limit == 0 && told == UNTOLD && !is_unsaid {
            return false;
        }
        let share = if limit == 0 { told } else { self.cap(limit_type, limit) };
        let (used, resets_in) = usage.used(limit_type, now);
        let refused = kind.refused.swap(0, Relaxed);
        if told == UNTOLD && !is_unsaid && refused == 0 && used.saturating_mul(2) <= share {
            return false;
        }
        reports.push(Report {
            limit: format!("{} {}", self.name, limit_type.as_str()),
            most: limit,
            share,
            is_usual: told == UNTOLD,
            used,
            resets_in_ms: resets_in * 1_000,
            refused,
            at_once: limit_type == LimitType::MaxParallelRequests,
        });
        true
    }
}

/// The name of a usage, and which of its limits.
pub fn parse(limit: &str) -> Option<(&str, LimitType)> {
    let (name, kind) = limit.rsplit_once(' ')?;
    let limit_type = LimitType::ALL.into_iter().find(|limit_type| limit_type.as_str() == kind)?;
    Some((name, limit_type))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Estimate;
    use tollgate_snapshot::model::Limits;

    const TEN: Limits = Limits {
        requests_per_minute: Some(10),
        tokens_per_minute: None,
        input_tokens_per_minute: None,
        output_tokens_per_minute: None,
        parallel_requests: None,
    };

    fn shared(hub: &Arc<Hub>) -> Arc<Usage> {
        let usage = Arc::new(Usage::default());
        usage.share(|| Box::new(Shared::new("key a/b".into(), hub.clone(), &usage)));
        usage
    }

    fn told(replicas: u64, share: Option<Option<u64>>) -> Told {
        let shares = share.map(|share| Share { limit: "key a/b requests".to_owned(), share });
        Told { leader: "one".to_owned(), replicas, shares: shares.into_iter().collect(), wait_ms: 0 }
    }

    fn admitted(usage: &Arc<Usage>, now: u64) -> usize {
        (0..100).filter(|_| usage.take(&TEN, Estimate::default(), now).is_ok()).count()
    }

    #[test]
    fn a_proxy_alone_has_the_whole_limit_and_says_nothing() {
        let hub = Arc::new(Hub::default());
        let usage = shared(&hub);
        assert_eq!(admitted(&usage, 1), 10);
        assert!(hub.reports(1).is_empty());
    }

    #[test]
    fn a_proxy_that_was_told_nothing_takes_the_usual_part() {
        let hub = Arc::new(Hub::default());
        hub.expect(3);
        let usage = shared(&hub);
        assert_eq!(admitted(&usage, 1), 3);
        let reports = hub.reports(1);
        assert_eq!((reports.len(), reports[0].used, reports[0].refused), (1, 3, 97));
        assert_eq!((reports[0].most, reports[0].share, reports[0].is_usual), (10, 3, true));
        assert_eq!(&reports[0].limit, "key a/b requests");
    }

    #[test]
    fn what_is_told_holds_and_is_told_back() {
        let hub = Arc::new(Hub::default());
        let usage = shared(&hub);
        let now = Instant::now();
        let find = |_: &str| Some(usage.clone());
        assert!(hub.hear(&told(2, None), now, find), "the first word is answered at once");
        assert!(!hub.hear(&told(2, None), now, find));
        assert!(hub.hear(&told(2, Some(Some(8))), now, find));
        assert_eq!(admitted(&usage, 1), 8);
        assert_eq!(hub.reports(1)[0].share, 8);
        // Less than was used: nobody is let in, and nothing is taken back.
        hub.hear(&told(2, Some(Some(0))), now, find);
        assert_eq!((admitted(&usage, 2), usage.used(LimitType::Requests, 2).0), (0, 8));
        assert!(!usage.is_idle(100), "a share that was told must not be forgotten");
        hub.hear(&told(2, Some(None)), now, find);
        assert_eq!(admitted(&usage, 61), 5);
        hub.reports(61);
        assert!(hub.reports(200).is_empty(), "what is usual and idle is not told");
    }

    #[test]
    fn a_call_is_worth_a_wait_where_only_the_share_is_used_up() {
        // Exactly so many: the wait is told by the first one that does not fit.
        let takes =
            |usage: &Arc<Usage>, count: usize| (0..count).all(|_| usage.take(&TEN, Estimate::default(), 1).is_ok());
        let of_share = |usage: &Arc<Usage>| usage.take(&TEN, Estimate::default(), 1).unwrap_err().of_share;
        let hub = Arc::new(Hub::default());
        hub.expect(2);
        let usage = shared(&hub);
        assert!(takes(&usage, 5));
        assert!(!of_share(&usage), "nobody leads who could give more");
        let find = |_: &str| Some(usage.clone());
        hub.hear(&told(2, None), Instant::now(), find);
        assert!(of_share(&usage));
        hub.hear(&told(2, Some(Some(7))), Instant::now(), find);
        assert!(takes(&usage, 2));
        assert!(of_share(&usage));
        hub.hear(&told(2, Some(Some(10))), Instant::now(), find);
        assert!(takes(&usage, 3));
        assert!(!of_share(&usage), "it has all of the limit");
    }

    #[test]
    fn without_a_leader_shares_become_the_usual_ones() {
        let hub = Arc::new(Hub::default());
        let (much, little) = (shared(&hub), shared(&hub));
        let now = Instant::now();
        hub.hear(&told(2, Some(Some(9))), now, |_| Some(much.clone()));
        hub.hear(&told(2, Some(Some(1))), now, |_| Some(little.clone()));
        let caps = || [&much, &little].map(|usage| usage.cap(LimitType::Requests, 10));
        admitted(&much, 1);
        admitted(&little, 1);
        hub.notice_absence(now + AWAY / 2);
        assert_eq!(caps(), [9, 1]);
        hub.notice_absence(now + AWAY);
        assert_eq!(caps(), [5, 1], "what is above is given up at once");
        hub.notice_absence(now + RETURN);
        assert_eq!(caps(), [5, 5], "what is below is taken when all windows have passed");
    }
}
