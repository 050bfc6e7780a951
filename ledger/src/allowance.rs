//! Budgets whose limit is handed out elsewhere: what the allocator has told of an account, and what this process tells
//! it. Transport is not here: whoever brings one takes reports from [`Allowances::due`] and gives back answers.
//!
//! Allowance that is given back is committed like a hold that never ends, so a call that races with it finds no room.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU32, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tollgate_allocator::{Answer, Batch, Mode, ReplicaId, Report, Span};

use crate::account::Account;
use crate::durable::{BooksId, Era};
use crate::pace::Pace;

/// What changed is told this often. Milliseconds.
const CHANGED_MS: i64 = 2_000;

/// While somebody waits for allowance.
const TIGHT_MS: i64 = 250;

/// What did not change.
const UNCHANGED_MS: i64 = 30_000;

/// Calls here waited so long, and nothing came: what is idle is too little for them, and may be what others lack.
const STUCK_MS: i64 = 500;

/// After giving it back nothing is asked for, so that one of the others gets all of it.
const QUIET_MS: i64 = 250;

/// A budget that cannot be served asks no more often than this.
const ASK_MS: i64 = 20;

/// What the allocator told of an account. Written by answers, read where a hold finds no room.
#[derive(Debug, Default)]
pub struct Elsewhere {
    granted: AtomicI64,
    charged: AtomicI64,
    used: AtomicI64,
    answered_at_ms: AtomicI64,
    tight: AtomicBool,
    /// Given back: also in the account's committed total.
    returned: AtomicI64,
    /// The total that would serve who waits now.
    wanted: AtomicI64,
    /// Somebody waits.
    urgent: AtomicBool,
    /// The least amount that was refused because less is left of the limit, and what was settled then; 0: none.
    refused: AtomicI64,
    refused_at_used: AtomicI64,
    told: Mutex<Told>,
}

/// What was told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    at_ms: i64,
    numbers: Numbers,
    last: bool,
    /// Since when calls wait without any growth of the grant, and what the grant was.
    waits_since: Option<(i64, i64)>,
    /// Nothing is asked for until then.
    quiet_until_ms: i64,
    pace: Pace,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Numbers {
    returned: i64,
    used: i64,
    held: i64,
    wanted: i64,
    refused: i64,
}

impl Elsewhere {
    pub fn granted(&self) -> i64 {
        self.granted.load(Acquire)
    }

    pub fn charged(&self) -> i64 {
        self.charged.load(Relaxed)
    }

    pub fn used(&self) -> i64 {
        self.used.load(Relaxed)
    }

    pub fn returned(&self) -> i64 {
        self.returned.load(Acquire)
    }

    pub fn answered_at_ms(&self) -> i64 {
        self.answered_at_ms.load(Relaxed)
    }

    /// Asks for a total. `urgent`: a call waits for it.
    pub fn want(&self, total: i64, urgent: bool) {
        self.wanted.fetch_max(total, AcqRel);
        if urgent {
            self.urgent.store(true, Release);
        }
    }

    /// A call was refused because less is left of the limit than it had to reserve. `used`: what is settled.
    pub fn refuse(&self, amount: i64, used: i64) {
        let is_first = self.refused_at_used.swap(used, Relaxed) != used;
        let least = |before: i64| Some(if is_first || before == 0 { amount } else { before.min(amount) });
        // Always sets something.
        let _ = self.refused.fetch_update(Relaxed, Relaxed, least);
    }

    /// The least that was refused since a call was admitted; 0: none was.
    pub fn refused(&self, used: i64, held: i64) -> i64 {
        let is_so = held == 0 && self.refused_at_used.load(Relaxed) == used;
        if is_so { self.refused.load(Relaxed) } else { 0 }
    }

    /// For how long what the account has left of its allowance lasts, if it is used as in the last minute. Milliseconds;
    /// `None`: it is not used, or the account grants nothing any more.
    pub fn lasts_ms(&self, account: &Account, now_ms: i64) -> Option<i64> {
        if account.is_sealed() {
            return None;
        }
        let used = account.used();
        let mut told = lock(&self.told);
        told.pace.note(used, now_ms);
        told.pace.lasts_ms(self.granted() - account.taken(), used, now_ms)
    }

    /// Takes an answer over. False: it is older than what is known.
    fn take(&self, answer: &Answer, at_ms: i64) {
        self.granted.fetch_max(answer.granted, AcqRel);
        self.charged.store(answer.charged_elsewhere, Relaxed);
        self.used.store(answer.used_elsewhere, Relaxed);
        self.tight.store(answer.tight, Relaxed);
        self.answered_at_ms.store(at_ms, Relaxed);
        // What could not be granted is asked for again by who still waits.
        self.wanted.store(0, Relaxed);
    }
}

/// An account that the allocator has to hear of.
#[derive(Clone, Debug)]
struct Live {
    replica: ReplicaId,
    budget: Arc<str>,
    account: Arc<Account>,
}

/// An account of a process that ended.
#[derive(Clone, Debug)]
pub struct Ended {
    pub boot: u64,
    pub suffix: u32,
    pub books: BooksId,
    pub used: i64,
}

/// All accounts whose limit is handed out elsewhere.
#[derive(Debug)]
pub struct Allowances {
    folder: String,
    boot: u64,
    /// Grows when the allocator closed the accounts of a process that lives.
    suffix: AtomicU32,
    live: Mutex<Vec<Live>>,
    ended: Mutex<Vec<(ReplicaId, Report)>>,
    /// That those of ended processes are told is to be remembered.
    untold: AtomicBool,
    /// A call waits for allowance.
    pub urgent: Notify,
    /// The allocator did not answer; cleared by the next answer.
    pub away: AtomicBool,
    /// The process stops: accounts are closed with what they used.
    ends: AtomicBool,
}

impl Allowances {
    /// `folder`: names the data folder, whose processes follow one another. `untold`: see [`Allowances::take_told`].
    pub fn new(folder: String, boot: u64, ended: Vec<Ended>, untold: bool) -> Allowances {
        let ended = ended
            .into_iter()
            .map(|Ended { boot, suffix, books, used }| (replica(&folder, boot, suffix), last_report(books, used)))
            .collect();
        Allowances {
            folder,
            boot,
            suffix: AtomicU32::new(0),
            live: Mutex::default(),
            ended: Mutex::new(ended),
            untold: AtomicBool::new(untold),
            urgent: Notify::new(),
            away: AtomicBool::new(false),
            ends: AtomicBool::new(false),
        }
    }

    /// Who new accounts belong to.
    pub fn replica(&self) -> ReplicaId {
        replica(&self.folder, self.boot, self.suffix())
    }

    /// Of that. Whoever sees an account sealed that the allocator closed sees the one that is not of its replica: two of one
    /// replica and period would be one to the allocator.
    pub fn suffix(&self) -> u32 {
        self.suffix.load(Acquire)
    }

    /// An account was opened.
    pub fn opened(&self, budget: &str, account: Arc<Account>) {
        let mut live = lock(&self.live);
        if self.ends.load(Acquire) {
            account.seal();
        }
        let replica = replica(&self.folder, self.boot, account.suffix);
        live.push(Live { replica, budget: budget.into(), account });
    }

    /// Ids of the budgets that it has something to tell of.
    pub fn live(&self) -> HashSet<Arc<str>> {
        lock(&self.live).iter().map(|live| live.budget.clone()).collect()
    }

    /// Closes all accounts: what they used is told as their last word.
    pub fn end(&self) {
        self.ends.store(true, Release);
        lock(&self.live).iter().for_each(|live| live.account.seal());
        self.urgent.notify_one();
    }

    /// For how long the allowance lasts that lasts least, of all hard budgets, also of members that calls brought.
    /// Milliseconds; `None`: none is used.
    pub fn lasts_ms(&self, now_ms: i64) -> Option<i64> {
        let live = lock(&self.live);
        let is_hard = |account: &Account| account.budget.upgrade().is_some_and(|budget| budget.mode() == Mode::Hard);
        let accounts = live.iter().map(|live| &live.account).filter(|account| is_hard(account));
        accounts.filter_map(|account| account.elsewhere.lasts_ms(account, now_ms)).min()
    }

    /// Whether all accounts were closed for good: the process stops.
    pub fn has_ended(&self) -> bool {
        self.ends.load(Acquire)
    }

    /// Whether the allocator has heard the last word of every account.
    pub fn is_told(&self) -> bool {
        lock(&self.live).iter().all(|live| lock(&live.account.elsewhere.told).last)
    }

    /// What the allocator should hear now. Always with a batch of this replica, also an empty one: the answer may recall what is not used.
    pub fn due(&self, now_ms: i64) -> Vec<Batch> {
        let mut batches: HashMap<ReplicaId, Vec<Report>> = HashMap::from([(self.replica(), Vec::new())]);
        for (replica, report) in lock(&self.ended).iter() {
            batches.entry(replica.clone()).or_default().push(report.clone());
        }
        lock(&self.live).retain(|live| {
            let Live { replica, budget, account } = live;
            let is_over = account.is_sealed() && account.committed() == account.used();
            if is_over && lock(&account.elsewhere.told).last {
                return false;
            }
            if let Some(report) = report(budget, account, is_over, now_ms) {
                batches.entry(replica.clone()).or_default().push(report);
            }
            true
        });
        batches.into_iter().map(|(replica, reports)| Batch { replica, reports }).collect()
    }

    /// Takes answers over, and says whose allowance changed: accounts by their budgets' ids.
    pub fn answered(&self, replica: &ReplicaId, answers: &[Answer], now_ms: i64) -> Vec<Arc<Account>> {
        self.away.store(false, Relaxed);
        let mut changed = Vec::new();
        lock(&self.ended).retain(|(other, report)| {
            other != replica || !answers.iter().any(|answer| is_about(answer, &report.budget, &report.span))
        });
        let by_budget: HashMap<&str, Vec<&Answer>> = answers.iter().fold(HashMap::new(), |mut map, answer| {
            map.entry(answer.budget.as_str()).or_insert_with(Vec::new).push(answer);
            map
        });
        for live in lock(&self.live).iter().filter(|live| live.replica == *replica) {
            let answers = by_budget.get(&*live.budget).map(Vec::as_slice).unwrap_or_default();
            let Some(answer) = answers.iter().find(|answer| is_about(answer, &live.budget, &live.account.span)) else {
                continue;
            };
            // One by one with the end of a boost: what it gives back, and what comes here, is all that was granted.
            let mut told = lock(&live.account.elsewhere.told);
            if live.account.budget.upgrade().is_some_and(|budget| budget.distrusts(answer)) {
                give_back(&live.account, answer.granted);
            }
            live.account.elsewhere.take(answer, now_ms);
            told.last |= answer.closed && live.account.is_sealed() && live.account.committed() == live.account.used();
            drop(told);
            if answer.closed && !live.account.is_sealed() {
                // Taken for dead: what is in flight settles there, what comes goes on elsewhere.
                if self.replica() == *replica {
                    self.suffix.fetch_add(1, AcqRel);
                    tracing::warn!("the allocator took this process for gone: it goes on as another replica");
                }
                live.account.seal();
            }
            changed.push(live.account.clone());
        }
        changed
    }

    /// Once: the allocator has heard what the ended processes used, and nothing says so yet on the disk.
    pub fn take_told(&self) -> bool {
        self.untold.load(Relaxed) && lock(&self.ended).is_empty() && self.untold.swap(false, AcqRel)
    }

    /// Somebody waits for allowance of these budgets: what no call here holds is given back with the next report.
    pub fn recalled(&self, budgets: &[String]) {
        for live in lock(&self.live).iter().filter(|live| budgets.iter().any(|id| **id == *live.budget)) {
            live.account.elsewhere.tight.store(true, Relaxed);
        }
    }

    /// All accounts are due, also those that did not change.
    pub fn tell_all(&self) {
        for live in lock(&self.live).iter() {
            let mut told = lock(&live.account.elsewhere.told);
            told.at_ms = 0;
            told.quiet_until_ms = 0;
        }
    }

    /// No answer came. Who waits is told.
    pub fn unanswered(&self) -> Vec<Arc<Account>> {
        self.away.store(true, Release);
        lock(&self.live).iter().map(|live| live.account.clone()).collect()
    }
}

fn replica(folder: &str, boot: u64, suffix: u32) -> ReplicaId {
    ReplicaId(if suffix == 0 { format!("{folder}.{boot}") } else { format!("{folder}.{boot}.{suffix}") })
}

fn last_report(books: BooksId, used: i64) -> Report {
    let BooksId { budget, era } = books;
    let Era { token, unit, span } = Era::clone(&era);
    Report {
        budget: budget.to_string(),
        unit,
        reset_token: token,
        span,
        returned: 0,
        used,
        held: 0,
        wanted: 0,
        refused: 0,
        last: true,
    }
}

fn is_about(answer: &Answer, budget: &str, span: &Span) -> bool {
    answer.budget == budget && answer.span.starts_at == span.starts_at && answer.span.ends_at == span.ends_at
}

/// What is to be told of an account now, if anything.
fn report(budget: &str, account: &Account, is_over: bool, now_ms: i64) -> Option<Report> {
    let elsewhere = &account.elsewhere;
    let mut told = lock(&elsewhere.told);
    let since = now_ms.saturating_sub(told.at_ms);
    let tight = elsewhere.tight.load(Relaxed);
    let urgent = elsewhere.urgent.load(Acquire);
    if now_ms < told.quiet_until_ms && !account.is_sealed() {
        return None;
    }
    let granted = elsewhere.granted();
    // Who waits keeps what it has, but not for ever: two that each keep too little would both wait without end.
    let is_stuck = match told.waits_since {
        // Between two tries of a call nobody is seen to wait, for a moment.
        Some((begun, grant)) if grant == granted && (urgent || since < TIGHT_MS) => {
            urgent && tight && now_ms.saturating_sub(begun) >= STUCK_MS
        }
        _ => {
            told.waits_since = urgent.then_some((now_ms, granted));
            false
        }
    };
    if is_stuck {
        told.waits_since = None;
        told.quiet_until_ms = now_ms.saturating_add(QUIET_MS);
    }
    if is_stuck || (!urgent && tight && since >= TIGHT_MS) || account.is_sealed() {
        give_back(account, granted);
    }
    // `used` before `committed`: a settlement in between must not make `held` look smaller than it is.
    let used = account.used();
    told.pace.note(used, now_ms);
    let held = account.committed().saturating_sub(used).max(0);
    let wanted = if is_stuck { 0 } else { elsewhere.wanted.load(Relaxed) };
    let refused = elsewhere.refused(used, held);
    let numbers = Numbers { returned: elsewhere.returned(), used, held, wanted, refused };
    let changed = numbers != told.numbers || (is_over && !told.last);
    let due = (urgent && since >= ASK_MS)
        || (tight && since >= TIGHT_MS)
        || (changed && (since >= CHANGED_MS || is_over))
        || since >= UNCHANGED_MS;
    if !due {
        return None;
    }
    elsewhere.urgent.store(false, Release);
    *told = Told { at_ms: now_ms, numbers, ..*told };
    let Numbers { returned, used, held, wanted, refused } = numbers;
    Some(Report {
        budget: budget.to_owned(),
        unit: account.unit,
        reset_token: account.token.clone(),
        span: account.span.clone(),
        returned,
        used,
        held,
        wanted: if account.is_sealed() { 0 } else { wanted },
        refused,
        last: is_over,
    })
}

impl Account {
    /// Gives back what no call holds. It is told with the next report.
    pub fn give_back(&self) {
        let _told = lock(&self.elsewhere.told);
        give_back(self, self.elsewhere.granted());
    }
}

/// Gives back what no call holds of so much.
fn give_back(account: &Account, granted: i64) {
    let returned = account.take_idle(granted);
    if returned > 0 {
        account.elsewhere.returned.fetch_add(returned, AcqRel);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
