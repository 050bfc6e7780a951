//! A live budget: its terms, the account of the current period, and what counts besides it. Outlives snapshots; a
//! budget with the same id is the same budget. Admission reads atomics; everything else is behind `books`, which the
//! grants thread, changed terms and refusals take, never an admission that succeeds.

use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU8, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, fence,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use crate::account::{Account, NotAdded, Releases};
use crate::durable::Era;
use crate::terms::{BudgetTerms, BudgetView};
use crate::throttle::{LetThrough, Throttle};
use tollgate_allocator::{Answer, Mode, Unit};
use tollgate_allocator::{Period, Span};

/// A wake-up can be missed between a refusal and the wait for it; then the wait ends this much later.
const MISSED_RELEASE: Duration = Duration::from_millis(20);

/// The same for a grant: a full queue to the grants thread, mostly.
const MISSED_GRANT: Duration = Duration::from_millis(50);

/// An allocator's word that nothing is left is believed so long before it is asked again. Milliseconds.
const EXHAUSTED_FRESH_MS: i64 = 1_000;

/// Its word that others have what is left.
const RESERVED_FRESH_MS: i64 = 100;

/// One budget of this process.
pub struct Budget {
    id: Arc<str>,
    /// Budgets of a call are held in this order.
    pub(crate) order: u64,
    mode: AtomicU8,
    unit: AtomicU8,
    /// In force.
    limit: AtomicI64,
    /// When a boost that is in `limit` is over, unix milliseconds; `i64::MAX`: none is in it.
    boosted_until_ms: AtomicI64,
    /// A boost is over, and the allocator has not shown yet that it knows.
    distrusts: AtomicBool,
    /// What counts against the limit besides the current account: closed boots, older buckets.
    carried: AtomicI64,
    /// The part of `carried` that calls in flight hold, which began in older buckets.
    carried_held: AtomicI64,
    /// The limit is handed out by an allocator elsewhere.
    is_shared: bool,
    current: ArcSwapOption<Account>,
    pub(crate) asks: Asks,
    throttle: Throttle,
    /// A Soft budget that admits nothing while its allocator does not answer.
    denies_unavailable: AtomicBool,
    granted: Arc<Notify>,
    releases: Arc<Releases>,
    books: Mutex<Books>,
    /// A call came since it was last looked whether any does.
    seen: AtomicBool,
}

/// What callers want of the grants thread.
#[derive(Debug, Default)]
pub(crate) struct Asks {
    /// A request is in its queue.
    pub queued: AtomicBool,
    /// Sum of what is asked for.
    pub amount: AtomicI64,
    /// The last grant failed: the disk.
    pub failed: AtomicBool,
    /// The grants thread waits for the end of a boost.
    pub timed: AtomicBool,
}

/// What is behind the atomics.
#[derive(Debug)]
pub(crate) struct Books {
    pub terms: BudgetTerms,
    /// Other accounts of this boot that still count, or may.
    pub older: Vec<Arc<Account>>,
    /// What earlier boots used.
    pub closed: Vec<Closed>,
    /// An account of this boot that goes on with the next call.
    pub resume: Option<Resume>,
    /// The terms changed in a way that the current account does not fit.
    pub reopen: bool,
    pub burn: Burn,
}

/// What earlier boots used of a budget in a stretch of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    pub era: Arc<Era>,
    pub amount: i64,
}

/// An account of this boot that nobody has in memory. Nothing is held in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resume {
    pub account: u32,
    pub era: Arc<Era>,
    pub used: i64,
}

/// What a budget has behind it when it is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Past {
    pub closed: Vec<Closed>,
    pub resume: Option<Resume>,
}

/// How fast the budget was spent, for the size of the next chunk.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Burn {
    pub at_ms: i64,
    pub committed: i64,
}

/// A grant on its way.
#[derive(Debug)]
pub struct GrantWait {
    granted: OwnedNotified,
}

impl GrantWait {
    /// Until the grant was decided, or a moment has passed; then try again. Dropping it costs nothing.
    pub async fn wait(self) {
        let _ = tokio::time::timeout(MISSED_GRANT, self.granted).await;
    }
}

/// What [`Budget::try_hold`] found.
pub(crate) enum Decision {
    /// Held. `refill`: the grant runs low.
    Held {
        account: Arc<Account>,
        refill: bool,
    },
    Exhausted,
    /// Spent, and not one of the calls that go on all the same.
    Throttled {
        retry_after_ms: i64,
    },
    Reserved {
        held: i64,
    },
    /// More allowance, or the account of a new period, is needed.
    Wanting,
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budget").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Budget {
    pub(crate) fn new(order: u64, terms: BudgetTerms, past: Past, is_shared: bool, now: i64) -> Budget {
        let Past { closed, resume } = past;
        let (older, burn) = Default::default();
        let books = Books { terms: terms.clone(), older, closed, resume, reopen: false, burn };
        let carried = past_amount(&books, &terms.period.span(now), now);
        Budget {
            id: terms.id.as_str().into(),
            order,
            mode: AtomicU8::new(mode_number(terms.mode)),
            unit: AtomicU8::new(unit_number(terms.unit)),
            limit: AtomicI64::new(terms.limit_at(now)),
            boosted_until_ms: AtomicI64::new(boosted_until_ms(&terms, now)),
            distrusts: AtomicBool::new(false),
            carried: AtomicI64::new(carried),
            carried_held: AtomicI64::new(0),
            is_shared,
            current: ArcSwapOption::empty(),
            asks: Asks::default(),
            throttle: Throttle::new(terms.throttle_percent),
            denies_unavailable: AtomicBool::new(denies_unavailable(&terms)),
            granted: Arc::default(),
            releases: Arc::default(),
            books: Mutex::new(books),
            seen: AtomicBool::new(true),
        }
    }

    /// The id of its terms.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The same, not copied.
    pub(crate) fn shared_id(&self) -> &Arc<str> {
        &self.id
    }

    /// A call wants it.
    pub(crate) fn see(&self) {
        if !self.seen.load(Relaxed) {
            self.seen.store(true, Relaxed);
        }
    }

    /// Whether a call wanted it since this was asked last.
    pub(crate) fn was_seen(&self) -> bool {
        self.seen.swap(false, Relaxed)
    }

    /// Whether nothing is held in it, and nobody but it and the grants thread has its accounts. (Attempts that hold nothing
    /// have them too.)
    pub(crate) fn is_idle(&self) -> bool {
        let is_idle = |account: &Arc<Account>, others: usize| {
            let is_left = Arc::strong_count(account) <= others;
            // What the last who had it settled is to be seen.
            fence(Acquire);
            is_left && account.committed() == account.used()
        };
        // The one in `current`, the copy of it here, and that of the grants thread.
        self.current.load_full().is_none_or(|current| is_idle(&current, 3))
            && self.books().older.iter().all(|older| is_idle(older, 2))
    }

    /// All accounts of this boot.
    pub(crate) fn accounts(&self) -> Vec<Arc<Account>> {
        self.books().older.iter().cloned().chain(self.current.load_full()).collect()
    }

    /// All that is to be known of a budget that nobody has: exactly what it would go on with. `era`: of its accounts.
    /// `None`: nothing of it counts any more.
    pub(crate) fn into_past(self, now: i64, era: impl Fn(u32) -> Option<Arc<Era>>) -> Option<Past> {
        let Budget { current, books, .. } = self;
        let Books { older, mut closed, mut resume, .. } = books.into_inner().unwrap_or_else(PoisonError::into_inner);
        for account in older {
            closed.extend(era(account.id).map(|era| Closed { era, amount: account.used() }));
        }
        if let Some(account) = current.into_inner() {
            account.seal();
            resume = era(account.id).map(|era| Resume { account: account.id, era, used: account.used() });
        }
        closed.retain(|closed| closed.amount > 0 && closed.era.span.counts_until > now);
        let resume = resume.filter(|resume| resume.era.span.counts_until > now);
        (resume.is_some() || !closed.is_empty()).then_some(Past { closed, resume })
    }

    pub fn unit(&self) -> Unit {
        match self.unit.load(Relaxed) {
            0 => Unit::NanoUsd,
            1 => Unit::Tokens,
            _ => Unit::Requests,
        }
    }

    pub fn mode(&self) -> Mode {
        if self.mode.load(Relaxed) == 0 { Mode::Hard } else { Mode::Soft }
    }

    /// In the budget's unit.
    pub fn limit(&self) -> i64 {
        self.limit.load(Relaxed)
    }

    /// What a Hard budget has left beside everything settled and held; below 0 after an over-run or a lowered limit.
    /// `None` for a Soft one. Before the first use of a period: what was left then.
    pub fn hard_left(&self) -> Option<i64> {
        if self.mode() == Mode::Soft {
            return None;
        }
        let committed = self.current.load().as_ref().map_or(0, |account| account.committed());
        Some(self.limit().saturating_sub(self.carried.load(Relaxed)).saturating_sub(committed))
    }

    /// Whether the period of an attempt that starts now, unix milliseconds, goes on until then.
    pub fn lasts(&self, now_ms: i64, until_ms: i64) -> bool {
        if let Some(account) = self.current.load().as_ref().filter(|account| now_ms < account.ends_at_ms) {
            return until_ms < account.ends_at_ms;
        }
        let ends_at = self.books().terms.period.span(now_ms.div_euclid(1000)).ends_at;
        until_ms < ends_at.saturating_mul(1000)
    }

    /// Until a call in flight settles, or a moment passed; then try again. The caller bounds how often.
    pub async fn wait_for_release(&self) {
        let _waiting = Waiting::begin(&self.releases);
        let _ = tokio::time::timeout(MISSED_RELEASE, self.releases.notify.notified()).await;
    }

    /// Where it stands at a moment, unix milliseconds, and for how long what was granted lasts.
    pub fn view_and_pace(&self, now_ms: i64) -> BudgetView {
        let current = self.current.load_full().filter(|_| self.is_shared && self.mode() == Mode::Hard);
        let is_live = |account: &Arc<Account>| now_ms < account.ends_at_ms;
        let lasts_ms = current.filter(is_live).and_then(|account| account.elsewhere.lasts_ms(&account, now_ms));
        BudgetView { lasts_ms, ..self.view(now_ms.div_euclid(1000)) }
    }

    /// Where it stands at a moment, unix seconds.
    pub fn view(&self, now: i64) -> BudgetView {
        let books = self.books();
        // An account of other terms counts no more, although the next one is not open yet.
        let current = self.current.load_full().filter(|account| fits(&books, account));
        let is_live = current.as_ref().is_some_and(|account| now < account.span.ends_at);
        let span = self.span(&books, current.as_deref(), now);
        // A bucket that is over counts on, although nobody has opened the next one.
        let current = current.filter(|account| is_live || counts(&books, account, &span, now));
        // Elsewhere all that counts is summed, the older accounts of this process too.
        let counted = current.as_ref().filter(|_| self.is_shared).map(|account| account.elsewhere.used());
        let mut spent: i64 = counted.unwrap_or_else(|| past_amount(&books, &span, now));
        let mut held = 0;
        for account in books.older.iter().filter(|account| counts(&books, account, &span, now)).chain(&current) {
            let is_counted = self.is_shared && current.as_ref().is_some_and(|current| current.id != account.id);
            spent += if is_counted { 0 } else { account.used() };
            held += account.committed() - account.used();
        }
        BudgetView {
            id: self.id.to_string(),
            spent,
            held: held.max(0),
            limit: books.terms.limit_at(now),
            unit: books.terms.unit,
            mode: books.terms.mode,
            resets_at: resets_at(&books, current.as_deref(), &span, now),
            period_label: span.label,
            refused: current.as_ref().map_or(0, |account| {
                let used = account.used();
                account.elsewhere.refused(used, account.committed() - used)
            }),
            lasts_ms: None,
            is_known: !self.is_shared
                || current.is_some_and(|account| is_live && account.elsewhere.answered_at_ms() > 0),
        }
    }

    /// The stretch that is under way: of the current account, unless that is over.
    fn span(&self, books: &Books, current: Option<&Account>, now: i64) -> Span {
        match current {
            Some(account) if now < account.span.ends_at => account.span.clone(),
            Some(_) | None => books.terms.period.span(now),
        }
    }

    /// When something of what is spent stops counting. Unix seconds.
    pub(crate) fn resets_at(&self, now: i64) -> Option<i64> {
        let books = self.books();
        let current = self.current.load_full();
        let span = self.span(&books, current.as_deref(), now);
        resets_at(&books, current.as_deref(), &span, now)
    }

    /// Settled in the current period, in the budget's unit, as of the last grant or refusal where older buckets count.
    pub fn spent(&self) -> i64 {
        self.current.load().as_ref().map_or_else(|| self.carried.load(Relaxed), |account| self.settled(account))
    }

    fn settled(&self, account: &Account) -> i64 {
        let carried = self.carried.load(Relaxed).saturating_sub(self.carried_held.load(Relaxed));
        carried.saturating_add(account.used())
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn current(&self) -> Option<Arc<Account>> {
        self.current.load_full()
    }

    pub(crate) fn releases(&self) -> &Arc<Releases> {
        &self.releases
    }

    /// Registers for the next grant. Before the try whose failure it follows, so that no grant is missed.
    pub(crate) fn grant_wait(&self) -> GrantWait {
        GrantWait { granted: self.granted.clone().notified_owned() }
    }

    /// Wakes who waits for a grant, and who waits for room.
    pub(crate) fn announce(&self) {
        self.granted.notify_waiters();
        self.releases.notify.notify_waiters();
    }

    /// Takes the terms over. A limit that was raised counts at once, so does one that was lowered. Whether the period
    /// begins anew because the reset token is another.
    pub(crate) fn update(&self, terms: &BudgetTerms, now: i64) -> bool {
        let mut books = self.books();
        if books.terms == *terms {
            return false;
        }
        let is_reset = books.terms.reset_token != terms.reset_token;
        let (limit, before) = (terms.limit_at(now), self.limit());
        let raised = limit > before || books.terms.mode != terms.mode;
        if books.terms.wants_another_account(terms) {
            books.reopen = true;
            if let Some(account) = self.current.load_full() {
                account.seal();
            }
        }
        books.terms = terms.clone();
        self.limit.store(limit, Relaxed);
        let was_boosted = self.boosted_until_ms.swap(boosted_until_ms(terms, now), Relaxed) != i64::MAX;
        self.mode.store(mode_number(terms.mode), Relaxed);
        self.unit.store(unit_number(terms.unit), Relaxed);
        self.throttle.set_percent(terms.throttle_percent);
        self.denies_unavailable.store(denies_unavailable(terms), Relaxed);
        self.time(&books);
        if was_boosted && limit < before {
            self.give_back(&books);
        }
        self.refresh(&books, now);
        drop(books);
        if raised {
            self.announce();
        }
        is_reset
    }

    /// Ends a boost that is over at this moment, unix milliseconds, whether anybody brings other terms or not.
    pub(crate) fn look(&self, now_ms: i64) {
        if now_ms >= self.boosted_until_ms.load(Relaxed) {
            self.end_boost(now_ms);
        }
    }

    #[cold]
    fn end_boost(&self, now_ms: i64) {
        let books = self.books();
        if now_ms < self.boosted_until_ms.load(Relaxed) {
            return;
        }
        self.limit.store(books.terms.limit, Relaxed);
        self.boosted_until_ms.store(i64::MAX, Relaxed);
        self.time(&books);
        self.give_back(&books);
        self.refresh(&books, now_ms.div_euclid(1000));
        drop(books);
        tracing::info!(budget = %self.id, "the boost of budget `{}` is over", self.id);
        // Who waits for allowance is to find out that there is none.
        self.announce();
    }

    /// Unix milliseconds; `i64::MAX`: there is no boost.
    pub(crate) fn boosted_until_ms(&self) -> i64 {
        self.boosted_until_ms.load(Relaxed)
    }

    /// Tells its accounts when to look.
    fn time(&self, books: &Books) {
        let until_ms = self.boosted_until_ms.load(Relaxed);
        books.older.iter().chain(&self.current.load_full()).for_each(|account| account.look_at(until_ms));
    }

    /// The limit fell because a boost is over. What was granted under it is given back where an allocator elsewhere did:
    /// others may have spent meanwhile what is left, so all that is spent from now on is granted anew, by the lower limit.
    fn give_back(&self, books: &Books) {
        if !self.is_shared {
            return;
        }
        self.distrusts.store(true, Release);
        books.older.iter().chain(&self.current.load_full()).for_each(|account| account.give_back());
    }

    /// Whether what an answer grants may be of a boost that is over: from the end of one until the allocator has answered
    /// with a limit that is no higher than the one in force.
    pub(crate) fn distrusts(&self, answer: &Answer) -> bool {
        if !self.distrusts.load(Acquire) {
            return false;
        }
        if !answer.unknown && answer.limit <= self.limit() {
            self.distrusts.store(false, Release);
            return false;
        }
        true
    }

    /// Counts anew what is carried, and how far holds may go.
    pub(crate) fn refresh(&self, books: &Books, now: i64) {
        let Some(account) = self.current.load_full() else { return };
        if self.is_shared {
            let elsewhere = &account.elsewhere;
            self.carried.store(elsewhere.used(), Relaxed);
            let room = self.limit().saturating_sub(elsewhere.charged()).saturating_add(elsewhere.returned());
            account.set_ceiling(match books.terms.mode {
                Mode::Hard => account.granted().min(elsewhere.granted()).min(room),
                Mode::Soft => i64::MAX,
            });
            return;
        }
        let Carried { used, held } = carried(books, &account.span, now);
        let carried = used.saturating_add(held);
        self.carried_held.store(held, Relaxed);
        self.carried.store(carried, Relaxed);
        account.set_ceiling(match books.terms.mode {
            Mode::Hard => account.granted().min(self.limit().saturating_sub(carried)),
            Mode::Soft => i64::MAX,
        });
    }

    /// Installs the account of a period; the one before was sealed.
    pub(crate) fn install(&self, books: &mut Books, account: Arc<Account>, now: i64) {
        if let Some(previous) = self.current.swap(Some(account.clone())) {
            books.older.push(previous);
        }
        books.reopen = false;
        books.resume = None;
        self.throttle.begin();
        // Those that can never count again go when their last hold has settled.
        books.older.retain(|older| older.span.counts_until > now || older.committed() != older.used());
        self.time(books);
        self.refresh(books, now);
    }

    /// Holds an amount, or says why not. No money is held always: it is of a call that costs nothing. `at_ms`: when the
    /// attempt starts, unix milliseconds. `let_through`: of its call.
    pub(crate) fn try_hold(&self, amount: i64, at_ms: i64, let_through: &mut LetThrough) -> Decision {
        let Some(account) = self.current.load_full() else { return Decision::Wanting };
        if at_ms >= account.looks_at_ms() {
            if at_ms >= account.ends_at_ms {
                return Decision::Wanting;
            }
            self.look(at_ms);
        }
        if amount == 0 && self.unit() == Unit::NanoUsd {
            // What costs nothing takes nothing, however much is spent.
            return match account.hold(0) {
                Ok(()) => Decision::Held { account, refill: false },
                Err(_) => Decision::Wanting,
            };
        }
        if self.mode() == Mode::Soft {
            if self.settled(&account) >= self.limit() {
                self.recount(at_ms.div_euclid(1000));
                if account.is_sealed() {
                    // Its terms are over: the next account decides.
                    return Decision::Wanting;
                }
                if self.settled(&account) >= self.limit() {
                    if !self.throttle.is_on() {
                        return Decision::Exhausted;
                    }
                    if !let_through.by(self.order) {
                        if let Err(retry_after_ms) = self.throttle.take(at_ms) {
                            return Decision::Throttled { retry_after_ms };
                        }
                        let_through.note(self.order);
                    }
                }
            } else if self.throttle.is_on() {
                self.throttle.admitted(at_ms);
            }
            return match account.hold(amount) {
                Ok(()) => Decision::Held { account, refill: false },
                Err(_) => Decision::Wanting,
            };
        }
        for recounted in [false, true] {
            match account.try_hold(amount) {
                Ok(refill) => return Decision::Held { account, refill },
                Err(NotAdded::Sealed) => return Decision::Wanting,
                Err(NotAdded::Full) => {}
            }
            let needed = amount.max(1);
            let (limit, carried) = (self.limit(), self.carried.load(Acquire));
            // `used` before `committed`: what settles in between must not look as if it left no room.
            let used = account.used();
            let committed = account.committed();
            let room = limit.saturating_sub(carried);
            if committed.saturating_add(needed) <= room {
                return self.wanting_or_reserved(&account, limit, needed, at_ms);
            }
            if !recounted {
                // Older buckets settle and expire without telling; look before refusing.
                self.recount(at_ms.div_euclid(1000));
                continue;
            }
            let older = self.carried_held.load(Relaxed);
            if used.saturating_add(needed) > room.saturating_add(older) {
                let is_old = self.is_shared && at_ms - account.elsewhere.answered_at_ms() > EXHAUSTED_FRESH_MS;
                return if is_old { Decision::Wanting } else { Decision::Exhausted };
            }
            return Decision::Reserved { held: (committed - used).max(0).saturating_add(older) };
        }
        Decision::Wanting
    }

    /// There is room that this process has no allowance for. Reserved where the allocator has just said that others
    /// have it; else it is asked.
    fn wanting_or_reserved(&self, account: &Account, limit: i64, needed: i64, at_ms: i64) -> Decision {
        let elsewhere = &account.elsewhere;
        let is_new = at_ms - elsewhere.answered_at_ms() <= RESERVED_FRESH_MS;
        let (charged, committed) = (elsewhere.charged(), account.committed());
        if self.is_shared && is_new && charged.saturating_add(committed).saturating_add(needed) > limit {
            let held = (charged - elsewhere.used()).saturating_add(committed - account.used());
            return Decision::Reserved { held };
        }
        Decision::Wanting
    }

    /// Whether calls go on while the allocator does not answer.
    pub(crate) fn allows_unavailable(&self) -> bool {
        self.books().terms.allow_unavailable
    }

    /// Whether nothing is admitted while the allocator does not answer, also what there is room for.
    pub(crate) fn denies_unavailable(&self) -> bool {
        self.denies_unavailable.load(Relaxed)
    }

    /// Whether its limit is handed out by an allocator elsewhere.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Whether nothing of it counts any more and nothing is held. Its account is ended for good then.
    pub(crate) fn is_over(&self, now: i64) -> bool {
        let books = self.books();
        let is_done = |account: &Account| account.span.counts_until <= now && account.committed() == account.used();
        let current = self.current.load_full();
        let is_over = current.as_deref().is_none_or(is_done)
            && books.older.iter().all(|older| is_done(older))
            && books.resume.iter().all(|resume| resume.era.span.counts_until <= now)
            && books.closed.iter().all(|closed| closed.amount == 0 || closed.era.span.counts_until <= now);
        if let Some(current) = current.filter(|_| is_over) {
            current.seal();
            // Who came between: it goes on.
            return is_done(&current);
        }
        is_over
    }

    fn recount(&self, now: i64) {
        let books = self.books();
        self.refresh(&books, now);
    }

    pub(crate) fn set_failed(&self, failed: bool) {
        self.asks.failed.store(failed, Release);
    }
}

/// What counts besides the account of `current`.
#[derive(Clone, Copy, Debug, Default)]
struct Carried {
    used: i64,
    /// By calls in flight that began in older buckets.
    held: i64,
}

fn carried(books: &Books, current: &Span, now: i64) -> Carried {
    let mut carried = Carried { used: closed_amount(books, current, now), held: 0 };
    for older in books.older.iter().filter(|older| counts(books, older, current, now)) {
        // What it holds beyond is promised to the current one from here on.
        older.close();
        let used = older.used();
        carried.used = carried.used.saturating_add(used);
        carried.held = carried.held.saturating_add((older.committed() - used).max(0));
    }
    carried
}

/// Whether an older account of this boot counts in the current span.
pub(crate) fn counts(books: &Books, older: &Account, current: &Span, now: i64) -> bool {
    older.unit == books.terms.unit
        && older.token == books.terms.reset_token
        && books.terms.period.counts(&older.span, current, now)
}

/// Whether an account counts what the terms count now.
fn fits(books: &Books, account: &Account) -> bool {
    account.unit == books.terms.unit && account.token == books.terms.reset_token
}

pub(crate) fn closed_amount(books: &Books, current: &Span, now: i64) -> i64 {
    books
        .closed
        .iter()
        .filter(|closed| era_counts(&books.terms, &closed.era, current, now))
        .fold(0, |sum: i64, closed| sum.saturating_add(closed.amount))
}

/// The same, with the account that goes on with the next call.
fn past_amount(books: &Books, current: &Span, now: i64) -> i64 {
    let resume = books.resume.as_ref().filter(|resume| era_counts(&books.terms, &resume.era, current, now));
    closed_amount(books, current, now).saturating_add(resume.map_or(0, |resume| resume.used))
}

/// Whether what was used in an era counts in the current span.
pub(crate) fn era_counts(terms: &BudgetTerms, era: &Era, current: &Span, now: i64) -> bool {
    era.token == terms.reset_token && era.unit == terms.unit && terms.period.counts(&era.span, current, now)
}

/// Of a budget's terms alone, unix seconds.
pub(crate) fn ends_at(terms: &BudgetTerms, span: &Span) -> Option<i64> {
    match &terms.period {
        Period::Lifetime => None,
        Period::Calendar { .. } => Some(span.ends_at),
        Period::Rolling { seconds } => Some(span.ends_at.saturating_add(*seconds)),
    }
}

fn resets_at(books: &Books, current: Option<&Account>, span: &Span, now: i64) -> Option<i64> {
    match &books.terms.period {
        Period::Lifetime => None,
        Period::Calendar { .. } => Some(span.ends_at),
        Period::Rolling { seconds } => {
            let older = books.older.iter().map(|account| &**account).chain(current);
            let older = older.filter(|account| counts(books, account, span, now)).map(|account| &account.span);
            let closed = books.closed.iter().filter(|closed| closed.amount > 0).map(|closed| &closed.era.span);
            let closed = closed.chain(books.resume.as_ref().map(|resume| &resume.era.span));
            older
                .chain(closed)
                .filter(|span| span.kind == tollgate_allocator::Kind::Bucket)
                .map(|span| span.ends_at + seconds)
                .chain([span.ends_at + seconds])
                .filter(|at| *at > now)
                .min()
        }
    }
}

/// Unix milliseconds; `i64::MAX`: there is no boost at this moment.
fn boosted_until_ms(terms: &BudgetTerms, now: i64) -> i64 {
    terms.boost_at(now).map_or(i64::MAX, |boost| boost.until.saturating_mul(1000))
}

fn denies_unavailable(terms: &BudgetTerms) -> bool {
    terms.mode == Mode::Soft && !terms.allow_unavailable
}

fn mode_number(mode: Mode) -> u8 {
    match mode {
        Mode::Hard => 0,
        Mode::Soft => 1,
    }
}

fn unit_number(unit: Unit) -> u8 {
    match unit {
        Unit::NanoUsd => 0,
        Unit::Tokens => 1,
        Unit::Requests => 2,
    }
}

/// Counts a waiter while it waits.
struct Waiting<'a>(&'a Releases);

impl Waiting<'_> {
    fn begin(releases: &Releases) -> Waiting<'_> {
        releases.waiting.fetch_add(1, Relaxed);
        Waiting(releases)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}
