//! Rates and calls at once, in memory. A window is one atomic word, so a check is one compare-and-swap; what is taken
//! is given back by whoever holds the guard, never by a timer. Windows are fixed minutes that begin with the first
//! request in them, as LiteLLM's do. In a cluster a proxy lets through its share of a limit: see [`crate::share`]; with a
//! counter in Redis what it has leased of it: see [`crate::exact`].

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use tollgate_dialects::usage;
use tollgate_snapshot::model::Limits;

use crate::exact::ByLease;
use crate::lease::{Pressure, Wanted};
use crate::share::Shared;

/// Length of a window, seconds.
pub const WINDOW_SECONDS: u64 = 60;

/// A count in the minute that began with its first entry. Upper 24 bits: the minute's start in seconds since the
/// process began (194 days, then it wraps and a window begins early, once); lower 40 bits: the count.
#[derive(Debug, Default)]
struct Window(AtomicU64);

const COUNT_BITS: u32 = 40;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const START_MASK: u64 = (1 << (64 - COUNT_BITS)) - 1;

/// A limit that nothing reaches: what is taken is counted and no more.
pub const ONLY_COUNTED: u64 = COUNT_MASK;

impl Window {
    /// Adds `amount` if the sum stays within `limit`. `now`: seconds since the process began, at least 1.
    fn take(&self, amount: u64, limit: u64, now: u64) -> Result<(u64, Room), Room> {
        let mut word = self.0.load(Relaxed);
        loop {
            let (start, count) = open(word, now);
            let sum = count.saturating_add(amount);
            if sum > limit {
                return Err(Room { left: limit.saturating_sub(count), resets_in: resets_in(start, now) });
            }
            let next = (start << COUNT_BITS) | sum.min(COUNT_MASK);
            match self.0.compare_exchange_weak(word, next, Relaxed, Relaxed) {
                Ok(_) => return Ok((start, Room { left: limit - sum, resets_in: resets_in(start, now) })),
                Err(seen) => word = seen,
            }
        }
    }

    /// Corrects what was taken in the window that began at `start`; a window that has passed needs no correction. Whether
    /// it was still open.
    fn correct(&self, start: u64, taken: u64, actual: u64) -> bool {
        let mut word = self.0.load(Relaxed);
        while word >> COUNT_BITS == start {
            let count = (word & COUNT_MASK).saturating_sub(taken).saturating_add(actual).min(COUNT_MASK);
            match self.0.compare_exchange_weak(word, (start << COUNT_BITS) | count, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(seen) => word = seen,
            }
        }
        false
    }

    /// What was used in the open minute, and seconds until it ends; 0 without one.
    fn used(&self, now: u64) -> (u64, u64) {
        let word = self.0.load(Relaxed);
        match open(word, now) {
            (_, 0) => (0, 0),
            (start, count) => (count, resets_in(start, now)),
        }
    }
}

/// Start and count of the window that is open at `now`.
fn open(word: u64, now: u64) -> (u64, u64) {
    let now = now & START_MASK;
    let start = word >> COUNT_BITS;
    if word == 0 || now.wrapping_sub(start) & START_MASK >= WINDOW_SECONDS {
        (now, 0)
    } else {
        (start, word & COUNT_MASK)
    }
}

fn resets_in(start: u64, now: u64) -> u64 {
    WINDOW_SECONDS.saturating_sub((now & START_MASK).wrapping_sub(start) & START_MASK).max(1)
}

/// What a window has left.
struct Room {
    left: u64,
    /// Seconds.
    resets_in: u64,
}

/// What one key, team, deployment, account, user and so on has used. Outlives snapshots. All in one cache line: a call
/// touches most of it, and ten thousand of them are cold.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Usage {
    /// By [`LimitType`], but for calls at once.
    windows: [Window; 4],
    parallel: AtomicU64,
    /// Unix seconds of the last call of a key; 0: none in this process.
    last_used: AtomicI64,
    /// Set where other proxies have a part of its limits.
    shared: OnceLock<Box<Shared>>,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitType {
    Requests,
    Tokens,
    InputTokens,
    OutputTokens,
    MaxParallelRequests,
}

impl LimitType {
    pub const ALL: [LimitType; 5] = [
        LimitType::Requests,
        LimitType::Tokens,
        LimitType::InputTokens,
        LimitType::OutputTokens,
        LimitType::MaxParallelRequests,
    ];

    /// As LiteLLM writes it in texts and headers.
    pub fn as_str(self) -> &'static str {
        match self {
            LimitType::Requests => "requests",
            LimitType::Tokens => "tokens",
            LimitType::InputTokens => "input_tokens",
            LimitType::OutputTokens => "output_tokens",
            LimitType::MaxParallelRequests => "max_parallel_requests",
        }
    }

    /// The limit of this type.
    pub fn of(self, limits: &Limits) -> Option<u64> {
        match self {
            LimitType::Requests => limits.requests_per_minute,
            LimitType::Tokens => limits.tokens_per_minute,
            LimitType::InputTokens => limits.input_tokens_per_minute,
            LimitType::OutputTokens => limits.output_tokens_per_minute,
            LimitType::MaxParallelRequests => limits.parallel_requests,
        }
    }
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitScope {
    ModelPerKey,
    Key,
    Team,
    TeamMember,
    User,
    EndUser,
    Tag,
    Model,
    Namespace,
    /// All calls that a rule of the gateway counts.
    Gateway,
}

impl LimitScope {
    /// As LiteLLM writes it in texts and headers.
    pub fn as_str(self) -> &'static str {
        match self {
            LimitScope::ModelPerKey => "model_per_key",
            LimitScope::Key => "api_key",
            LimitScope::Team => "team",
            LimitScope::TeamMember => "team_member",
            LimitScope::User => "user",
            LimitScope::EndUser => "end_user",
            LimitScope::Tag => "tag",
            LimitScope::Model => "model",
            LimitScope::Namespace => "namespace",
            LimitScope::Gateway => "gateway",
        }
    }
}

/// Tokens that a call will use, as far as can be said before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    pub input: u64,
    /// `None`: the client set no cap.
    pub output: Option<u64>,
}

/// The most output tokens that are reserved for a call without a cap: most answers have fewer.
const UNCAPPED_OUTPUT: u64 = 1_024;

/// The cap for a call that has none, where limits of tokens are so small that one answer could pass them many times over:
/// what is reserved of the smallest of them. `None`: none is small.
pub fn small_output(limits: &Limits) -> Option<u64> {
    let limits = [limits.tokens_per_minute, limits.output_tokens_per_minute];
    let reserved = limits.into_iter().flatten().map(|limit| limit / 4);
    reserved.filter(|reserved| *reserved < UNCAPPED_OUTPUT).min()
}

impl Estimate {
    /// What to reserve of a limit. Of a call without a cap on its output a quarter of the limit at most (LiteLLM RL-2), so
    /// that a small limit lets more than one through. Never more than the limit: what a call may come to at most is no
    /// reason to refuse it for ever, and what it came to counts when it is known.
    fn of(self, limit_type: LimitType, limit: u64) -> u64 {
        let output = || self.output.unwrap_or_else(|| UNCAPPED_OUTPUT.min(limit / 4));
        // A limit of 0 lets nothing through.
        let most = limit.max(1);
        match limit_type {
            LimitType::Requests | LimitType::MaxParallelRequests => 1,
            LimitType::Tokens => self.input.saturating_add(output()).min(most),
            LimitType::InputTokens => self.input.min(most),
            LimitType::OutputTokens => output().min(most),
        }
    }
}

/// Tokens that a call has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    pub input: u64,
    pub output: u64,
}

impl Spent {
    /// `ignore_cached`: those that the provider read from its cache do not count.
    pub fn new(usage: &usage::Usage, ignore_cached: bool) -> Spent {
        let cached = if ignore_cached { usage.cache_read_tokens } else { 0 };
        Spent { input: usage.input_tokens.saturating_sub(cached), output: usage.output_tokens }
    }

    fn of(self, limit_type: LimitType) -> u64 {
        match limit_type {
            LimitType::Requests | LimitType::MaxParallelRequests => 1,
            LimitType::Tokens => self.input.saturating_add(self.output),
            LimitType::InputTokens => self.input,
            LimitType::OutputTokens => self.output,
        }
    }
}

/// A limit that would be passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    pub limit_type: LimitType,
    pub limit: u64,
    pub remaining: u64,
    /// Seconds.
    pub resets_in: u64,
    /// Only this proxy's share is used up, and more of the limit may be had in a moment.
    pub of_share: bool,
}

/// What is left of a limit after a call was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub limit: u64,
    pub left: u64,
    /// Seconds until the window ends; 0 of calls at once.
    pub resets_in: u64,
}

/// Of a deployment and its account; seldom both have limits, and every call carries the room for them.
pub type Permits = smallvec::SmallVec<[Permit; 1]>;

/// What a call took of one window.
#[derive(Clone, Copy, Debug)]
struct Taken {
    /// 0: nothing was taken.
    limit: u64,
    left: u64,
    amount: u64,
    /// [`SETTLED`], or the start of the window; with [`LEASED`] the window of a lease.
    start: u32,
    resets_in: u32,
}

/// No start: those have 24 bits.
const SETTLED: u32 = u32::MAX;

/// Taken of a lease. Its windows have 16 bits.
const LEASED: u32 = 1 << 31;

/// Beside [`LEASED`]: borrowed.
const BORROWED: u32 = 1 << 30;

const NOTHING: Taken = Taken { limit: 0, left: 0, amount: 0, start: SETTLED, resets_in: 0 };

/// A call that counts. Dropping it frees its parallel slot, as [`Permit::leave`] does before; its tokens stay as reserved unless [`Permit::settle`] was
/// called.
#[derive(Debug)]
pub struct Permit {
    usage: Arc<Usage>,
    requests: Taken,
    tokens: Taken,
    /// Input and output apart; few have such limits.
    split: Option<Box<[Taken; 2]>>,
    place: Place,
}

/// Of calls at once.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// 0: none is held.
    limit: u64,
    /// How many more fit.
    left: u32,
    by: CountedBy,
}

/// Who counts a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CountedBy {
    Process,
    Lease,
    /// A lease that has lent it.
    Lender,
}

const NO_PLACE: Place = Place { limit: 0, left: 0, by: CountedBy::Process };

/// What a class of keys may have of a limit.
#[derive(Clone, Copy, Debug)]
pub struct ClassShare {
    /// Over all proxies: counts where a counter gives leases.
    pub share: u64,
    /// Of what this proxy lets through: counts elsewhere.
    pub here: u64,
    /// Of the limit. While it is low more than the share is let in, and counted.
    pub pressure: Pressure,
}

/// Up to where calls are let in. A trait, so that nothing is asked about classes where there are none.
trait Bound: Copy {
    fn limit(self) -> u64;

    fn by_lease(self, amount: u64) -> Wanted;

    /// What this proxy lets through where no lease counts.
    fn here(self, limit_type: LimitType, shared: Option<&Shared>) -> u64;

    /// For clients, where no lease counts.
    fn shown(self) -> u64;

    /// Whose shares an operator moves.
    fn whole(self) -> Option<u64>;
}

/// All of a limit.
#[derive(Clone, Copy)]
struct Whole(u64);

impl Bound for Whole {
    fn limit(self) -> u64 {
        self.0
    }

    fn by_lease(self, amount: u64) -> Wanted {
        Wanted { limit: self.0, amount, pressure: None }
    }

    fn here(self, limit_type: LimitType, shared: Option<&Shared>) -> u64 {
        shared.map_or(self.0, |shared| shared.cap(limit_type, self.0))
    }

    fn shown(self) -> u64 {
        self.0
    }

    fn whole(self) -> Option<u64> {
        Some(self.0)
    }
}

impl Bound for ClassShare {
    fn limit(self) -> u64 {
        self.share
    }

    fn by_lease(self, amount: u64) -> Wanted {
        Wanted { limit: self.share, amount, pressure: Some(self.pressure) }
    }

    fn here(self, _: LimitType, _: Option<&Shared>) -> u64 {
        match self.pressure {
            Pressure::Low => ONLY_COUNTED,
            Pressure::Unsure | Pressure::High => self.here,
        }
    }

    fn shown(self) -> u64 {
        self.here
    }

    fn whole(self) -> Option<u64> {
        None
    }
}

impl Place {
    fn new(limit: u64, left: u64, by: CountedBy) -> Place {
        Place { limit: limit.max(1), left: u32::try_from(left).unwrap_or(u32::MAX), by }
    }
}

impl Usage {
    /// Notes a call. `now`: Unix seconds.
    pub fn note(&self, now: i64) {
        self.last_used.store(now, Relaxed);
    }

    /// Unix seconds of the last call that was noted.
    pub fn last_used(&self) -> Option<i64> {
        Some(self.last_used.load(Relaxed)).filter(|at| *at != 0)
    }

    /// Makes its limits those of several proxies.
    pub fn share(&self, shared: impl FnOnce() -> Box<Shared>) {
        self.shared.get_or_init(shared);
    }

    pub fn shared(&self) -> Option<&Shared> {
        self.shared.get().map(|shared| &**shared)
    }

    /// What this proxy may let through of a limit: by leases all of it.
    pub fn cap(&self, limit_type: LimitType, limit: u64) -> u64 {
        let shared = self.shared().filter(|shared| !shared.is_leased());
        shared.map_or(limit, |shared| shared.cap(limit_type, limit))
    }

    /// This proxy's share of a limit, which counts where no counter gives leases.
    pub fn part(&self, limit_type: LimitType, limit: u64) -> u64 {
        self.shared().map_or(limit, |shared| shared.cap(limit_type, limit))
    }

    /// Whether less than `line` of a limit was used by all before `permit` was taken of it by a lease. `None`: it was not
    /// taken by a lease.
    pub fn pressure(&self, limit_type: LimitType, line: u64, permit: &Permit, now: u64) -> Option<Pressure> {
        let shared = self.shared().filter(|_| permit.is_leased(limit_type))?;
        // What was let through while no counter was there.
        let line = line.saturating_sub(self.used_beside(limit_type, now).0);
        Some(shared.lease(limit_type)?.pressure(permit.amount(limit_type), line, shared.now_ms()))
    }

    /// A call waits to hear whether less than `line` of a limit is used.
    pub fn doubt(&self, limit_type: LimitType, line: u64) {
        if let Some(shared) = self.shared() {
            shared.doubt(limit_type, line);
        }
    }

    /// Lets a call in that may use `tokens`, or says which limit is in the way (nothing is counted then).
    pub fn take(self: &Arc<Usage>, limits: &Limits, tokens: Estimate, now: u64) -> Result<Permit, Reached> {
        self.take_each(now, |limit_type| {
            let limit = limit_type.of(limits)?;
            Some((Whole(limit), tokens.of(limit_type, limit)))
        })
    }

    /// Lets a call of a class in. `whole`: what it took of the limits that the class has a share of. `share`: of a limit.
    pub fn take_share(
        self: &Arc<Usage>,
        whole: &Permit,
        now: u64,
        share: impl Fn(LimitType) -> Option<ClassShare>,
    ) -> Result<Permit, Reached> {
        self.take_each(now, |limit_type| Some((share(limit_type)?, whole.amount(limit_type))))
    }

    /// `bound`: of a limit, and how much of it is to be taken.
    fn take_each<B: Bound>(
        self: &Arc<Usage>,
        now: u64,
        bound: impl Fn(LimitType) -> Option<(B, u64)>,
    ) -> Result<Permit, Reached> {
        let mut permit =
            Permit { usage: self.clone(), requests: NOTHING, tokens: NOTHING, split: None, place: NO_PLACE };
        if let Some((bound, _)) = bound(LimitType::MaxParallelRequests) {
            permit.place = self.take_place(bound)?;
        }
        if let Some((bound, amount)) = bound(LimitType::Requests) {
            permit.requests = self.take_of(LimitType::Requests, bound, amount, now)?;
        }
        if let Some((bound, amount)) = bound(LimitType::Tokens) {
            // A call that is refused counts nowhere.
            permit.tokens = self.take_of(LimitType::Tokens, bound, amount, now).inspect_err(|_| permit.refund())?;
        }
        for (at, limit_type) in SPLIT.into_iter().enumerate() {
            let Some((bound, amount)) = bound(limit_type) else { continue };
            let taken = self.take_of(limit_type, bound, amount, now).inspect_err(|_| permit.refund())?;
            permit.split.get_or_insert_with(|| Box::new([NOTHING; 2]))[at] = taken;
        }
        Ok(permit)
    }

    fn take_place(&self, bound: impl Bound) -> Result<Place, Reached> {
        let (limit_type, limit) = (LimitType::MaxParallelRequests, bound.limit());
        let cap = match self.shared() {
            None => bound.here(limit_type, None),
            Some(shared) => match shared.take_leased(limit_type, bound.by_lease(1)) {
                Some(ByLease::Taken(taken)) => {
                    let by = if taken.is_borrowed { CountedBy::Lender } else { CountedBy::Lease };
                    return Ok(Place::new(limit, taken.left, by));
                }
                Some(ByLease::Refused(reached)) => return Err(reached),
                Some(ByLease::Beside(used)) => bound.here(limit_type, Some(shared)).saturating_sub(used),
                Some(ByLease::Nothing) | None => bound.here(limit_type, Some(shared)),
            },
        };
        match self.parallel.fetch_update(Relaxed, Relaxed, |open| (open < cap).then_some(open + 1)) {
            Ok(open) => {
                let left = cap - open - 1;
                self.notice(limit_type, bound, left);
                Ok(Place::new(limit, left, CountedBy::Process))
            }
            Err(_) => {
                let of_share = self.notice_refusal(limit_type, bound, 1);
                Err(Reached { limit_type, limit: bound.shown(), remaining: 0, resets_in: 1, of_share })
            }
        }
    }

    fn take_of(&self, limit_type: LimitType, bound: impl Bound, amount: u64, now: u64) -> Result<Taken, Reached> {
        let limit = bound.limit();
        let cap = match self.shared() {
            None => bound.here(limit_type, None),
            Some(shared) => match shared.take_leased(limit_type, bound.by_lease(amount)) {
                Some(ByLease::Taken(taken)) => {
                    let borrowed = if taken.is_borrowed { BORROWED } else { 0 };
                    let start = LEASED | borrowed | u32::from(taken.window);
                    return Ok(Taken { limit, left: taken.left, amount, start, resets_in: taken.resets_in as u32 });
                }
                Some(ByLease::Nothing) => return Ok(Taken { limit, left: limit, ..NOTHING }),
                Some(ByLease::Refused(reached)) => return Err(reached),
                Some(ByLease::Beside(used)) => bound.here(limit_type, Some(shared)).saturating_sub(used),
                None => bound.here(limit_type, Some(shared)),
            },
        };
        match self.windows[limit_type as usize].take(amount, cap, now) {
            Ok((start, Room { left, resets_in })) => {
                self.notice(limit_type, bound, left);
                Ok(Taken { limit, left, amount, start: start as u32, resets_in: resets_in as u32 })
            }
            Err(Room { left, resets_in }) => {
                let of_share = self.notice_refusal(limit_type, bound, amount);
                Err(Reached { limit_type, limit: bound.shown(), remaining: left, resets_in, of_share })
            }
        }
    }

    fn notice(&self, limit_type: LimitType, bound: impl Bound, left: u64) {
        if let (Some(shared), Some(limit)) = (self.shared(), bound.whole()) {
            shared.taken(limit_type, limit, left);
        }
    }

    /// Whether it is worth a wait.
    #[cold]
    fn notice_refusal(&self, limit_type: LimitType, bound: impl Bound, amount: u64) -> bool {
        match (self.shared(), bound.whole()) {
            (Some(shared), Some(limit)) => shared.refused(limit_type, limit, amount),
            (None, _) | (_, None) => false,
        }
    }

    /// What was used of a limit in the open minute (of calls at once: those under way), and seconds until it ends.
    pub fn used(&self, limit_type: LimitType, now: u64) -> (u64, u64) {
        let (beside, resets_in) = self.used_beside(limit_type, now);
        let Some((shared, lease)) = self.shared().and_then(|shared| Some((shared, shared.lease(limit_type)?))) else {
            return (beside, resets_in);
        };
        let now_ms = shared.now_ms();
        let at_once = limit_type == LimitType::MaxParallelRequests;
        match lease.used(at_once, now_ms) {
            0 => (beside, resets_in),
            used if at_once => (beside + used, 0),
            used => (beside + used, resets_in.max(lease.resets_in(now_ms))),
        }
    }

    /// The same without what was taken of leases.
    pub fn used_beside(&self, limit_type: LimitType, now: u64) -> (u64, u64) {
        match limit_type {
            LimitType::MaxParallelRequests => (self.parallel.load(Relaxed), 0),
            _ => self.windows[limit_type as usize].used(now),
        }
    }

    /// Whether forgetting it changes nothing.
    pub fn is_idle(&self, now: u64) -> bool {
        LimitType::ALL.iter().all(|limit_type| self.used(*limit_type, now).0 == 0)
            && self.shared().is_none_or(Shared::is_untold)
    }
}

const SPLIT: [LimitType; 2] = [LimitType::InputTokens, LimitType::OutputTokens];

impl Permit {
    /// Replaces the reserved tokens by what was used.
    pub fn settle(&mut self, spent: Spent) {
        settle(&self.usage, LimitType::Tokens, &mut self.tokens, spent);
        if let Some(split) = &mut self.split {
            for (taken, limit_type) in split.iter_mut().zip(SPLIT) {
                settle(&self.usage, limit_type, taken, spent);
            }
        }
    }

    /// As if the call had not been let in.
    pub fn refund(&mut self) {
        self.settle(Spent::default());
        if self.requests.start != SETTLED {
            correct(&self.usage, LimitType::Requests, &self.requests, 0);
            self.requests.start = SETTLED;
        }
    }

    /// What is left of a limit, if there is one.
    pub fn left(&self, limit_type: LimitType) -> Option<Left> {
        let taken = match limit_type {
            LimitType::Requests => &self.requests,
            LimitType::Tokens => &self.tokens,
            LimitType::InputTokens => self.split.as_ref().map(|split| &split[0])?,
            LimitType::OutputTokens => self.split.as_ref().map(|split| &split[1])?,
            LimitType::MaxParallelRequests => {
                let Place { limit, left, by: _ } = self.place;
                return (limit != 0).then_some(Left { limit, left: u64::from(left), resets_in: 0 });
            }
        };
        let Taken { limit, left, amount: _, start: _, resets_in } = *taken;
        (limit != 0).then_some(Left { limit, left, resets_in: u64::from(resets_in) })
    }

    /// Whether what it took of a limit is of a lease, and not settled.
    pub fn is_leased(&self, limit_type: LimitType) -> bool {
        let start = match limit_type {
            LimitType::Requests => self.requests.start,
            LimitType::Tokens => self.tokens.start,
            LimitType::InputTokens => self.split.as_ref().map_or(SETTLED, |split| split[0].start),
            LimitType::OutputTokens => self.split.as_ref().map_or(SETTLED, |split| split[1].start),
            LimitType::MaxParallelRequests => return self.place.by == CountedBy::Lease,
        };
        start != SETTLED && start & LEASED != 0
    }

    /// What the call itself took of a limit.
    pub fn amount(&self, limit_type: LimitType) -> u64 {
        match limit_type {
            LimitType::Requests => self.requests.amount,
            LimitType::Tokens => self.tokens.amount,
            LimitType::InputTokens => self.split.as_ref().map_or(0, |split| split[0].amount),
            LimitType::OutputTokens => self.split.as_ref().map_or(0, |split| split[1].amount),
            LimitType::MaxParallelRequests => u64::from(self.place.limit != 0),
        }
    }
}

fn settle(usage: &Usage, limit_type: LimitType, taken: &mut Taken, spent: Spent) {
    if taken.start == SETTLED {
        return;
    }
    let actual = spent.of(limit_type);
    if correct(usage, limit_type, taken, actual) {
        taken.left = taken.left.saturating_add(taken.amount).saturating_sub(actual);
    }
    taken.start = SETTLED;
}

/// Whether its window was still open.
fn correct(usage: &Usage, limit_type: LimitType, taken: &Taken, actual: u64) -> bool {
    let Taken { amount, start, .. } = *taken;
    if start & LEASED != 0 {
        let Some(shared) = usage.shared() else { return false };
        let Some(lease) = shared.lease(limit_type) else { return false };
        let was_open = match start & BORROWED {
            0 => lease.correct(start as u16, amount, actual),
            _ => lease.correct_borrowed(start as u16, amount, actual),
        };
        if was_open && actual < amount {
            shared.freed(limit_type);
        }
        return was_open;
    }
    usage.windows[limit_type as usize].correct(u64::from(start), amount, actual)
}

impl Permit {
    /// Frees its parallel slot. What else it counts stays.
    pub fn leave(&mut self) {
        let Place { limit, left: _, by } = std::mem::replace(&mut self.place, NO_PLACE);
        if limit == 0 {
            return;
        }
        if by == CountedBy::Process {
            self.usage.parallel.fetch_sub(1, Relaxed);
            return;
        }
        let limit_type = LimitType::MaxParallelRequests;
        let Some(shared) = self.usage.shared() else { return };
        if let Some(lease) = shared.lease(limit_type) {
            if by == CountedBy::Lender {
                lease.leave_borrowed()
            } else {
                lease.leave()
            }
            shared.freed(limit_type);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(requests: Option<u64>, tokens: Option<u64>, parallel: Option<u64>) -> Limits {
        Limits {
            requests_per_minute: requests,
            tokens_per_minute: tokens,
            parallel_requests: parallel,
            ..Limits::default()
        }
    }

    fn tokens(input: u64) -> Estimate {
        Estimate { input, output: Some(0) }
    }

    fn used(usage: &Usage, now: u64) -> (u64, u64) {
        (usage.used(LimitType::Requests, now).0, usage.used(LimitType::Tokens, now).0)
    }

    #[test]
    fn a_window_begins_with_its_first_request_and_ends_a_minute_later() {
        let usage = Arc::new(Usage::default());
        let limits = limits(Some(2), None, None);
        assert!(usage.take(&limits, tokens(0), 100).is_ok());
        assert!(usage.take(&limits, tokens(0), 130).is_ok());
        let refused = usage.take(&limits, tokens(0), 159).unwrap_err();
        let limit_type = LimitType::Requests;
        assert_eq!(refused, Reached { limit_type, limit: 2, remaining: 0, resets_in: 1, of_share: false });
        assert!(usage.take(&limits, tokens(0), 160).is_ok());
    }

    #[test]
    fn tokens_are_reserved_and_settled_to_what_was_used() {
        let usage = Arc::new(Usage::default());
        let limits = limits(None, Some(100), None);
        let mut permit = usage.take(&limits, tokens(90), 1).unwrap();
        assert_eq!(usage.take(&limits, tokens(20), 1).unwrap_err().limit_type, LimitType::Tokens);
        permit.settle(Spent { input: 6, output: 4 });
        assert_eq!((used(&usage, 1).1, permit.left(LimitType::Tokens).unwrap().left), (10, 90));
        permit.settle(Spent { input: 60, output: 40 });
        assert_eq!(used(&usage, 1).1, 10, "a call is settled once");
        assert!(usage.take(&limits, tokens(90), 1).is_ok());
    }

    #[test]
    fn input_and_output_are_counted_apart() {
        let usage = Arc::new(Usage::default());
        let limits =
            Limits { input_tokens_per_minute: Some(100), output_tokens_per_minute: Some(40), ..Limits::default() };
        let mut permit = usage.take(&limits, Estimate { input: 80, output: Some(30) }, 1).unwrap();
        let refused = usage.take(&limits, Estimate { input: 21, output: Some(0) }, 1).unwrap_err();
        assert_eq!((refused.limit_type, refused.limit, refused.remaining), (LimitType::InputTokens, 100, 20));
        let refused = usage.take(&limits, Estimate { input: 20, output: Some(11) }, 1).unwrap_err();
        assert_eq!((refused.limit_type, refused.remaining), (LimitType::OutputTokens, 10));
        assert_eq!(usage.used(LimitType::InputTokens, 1).0, 80, "a call that is refused counts nowhere");
        permit.settle(Spent { input: 50, output: 40 });
        assert_eq!(usage.used(LimitType::InputTokens, 1).0, 50);
        assert_eq!(permit.left(LimitType::InputTokens), Some(Left { limit: 100, left: 50, resets_in: 60 }));
        let refused = usage.take(&limits, Estimate { input: 0, output: Some(1) }, 1).unwrap_err();
        assert_eq!(refused.limit_type, LimitType::OutputTokens);
    }

    #[test]
    fn a_call_without_a_cap_reserves_no_more_than_a_quarter() {
        let uncapped = Estimate { input: 10, output: None };
        assert_eq!(uncapped.of(LimitType::Tokens, 400), 110);
        assert_eq!(uncapped.of(LimitType::Tokens, 1_000_000), 10 + UNCAPPED_OUTPUT);
        assert_eq!(uncapped.of(LimitType::OutputTokens, 4), 1);
        assert_eq!(uncapped.of(LimitType::InputTokens, 40), 10);
    }

    #[test]
    fn what_small_limits_reserve_is_the_cap_of_a_call_without_one() {
        let limits = |tokens, output| Limits {
            tokens_per_minute: tokens,
            output_tokens_per_minute: output,
            input_tokens_per_minute: Some(8),
            ..Limits::default()
        };
        assert_eq!(small_output(&limits(None, None)), None);
        assert_eq!(small_output(&limits(Some(4096), Some(100_000))), None);
        assert_eq!(small_output(&limits(Some(4095), None)), Some(1023));
        assert_eq!(small_output(&limits(Some(3000), Some(400))), Some(100));
    }

    #[test]
    fn no_call_reserves_more_than_a_limit_and_none_nothing() {
        let large = Estimate { input: 500, output: Some(9_000) };
        for limit_type in [LimitType::Tokens, LimitType::InputTokens, LimitType::OutputTokens] {
            assert_eq!((large.of(limit_type, 200), large.of(limit_type, 0)), (200, 1), "{limit_type:?}");
        }
    }

    #[test]
    fn cached_tokens_count_unless_they_are_ignored() {
        let usage =
            usage::Usage { input_tokens: 100, output_tokens: 7, cache_read_tokens: 60, ..usage::Usage::default() };
        assert_eq!(Spent::new(&usage, false), Spent { input: 100, output: 7 });
        assert_eq!(Spent::new(&usage, true), Spent { input: 40, output: 7 });
    }

    #[test]
    fn a_refused_call_counts_nowhere() {
        let usage = Arc::new(Usage::default());
        let limits = limits(Some(10), Some(5), Some(1));
        drop(usage.take(&limits, tokens(3), 1).unwrap());
        assert!(usage.take(&limits, tokens(3), 1).is_err());
        assert_eq!(used(&usage, 1), (1, 3));
        assert!(usage.take(&limits, tokens(2), 1).is_ok(), "the parallel slot of the refused call is free again");
    }

    #[test]
    fn a_settlement_after_its_window_changes_nothing() {
        let usage = Arc::new(Usage::default());
        let limits = limits(None, Some(100), None);
        let mut late = usage.take(&limits, tokens(50), 1).unwrap();
        let _next = usage.take(&limits, tokens(70), 70).unwrap();
        late.settle(Spent { input: 1, output: 0 });
        assert_eq!(used(&usage, 70).1, 70);
    }

    #[test]
    fn parallel_slots_come_back_when_the_permit_is_dropped() {
        let usage = Arc::new(Usage::default());
        let limits = limits(None, None, Some(1));
        let permit = usage.take(&limits, tokens(0), 1).unwrap();
        assert_eq!(usage.take(&limits, tokens(0), 1).unwrap_err().limit_type, LimitType::MaxParallelRequests);
        assert!(!usage.is_idle(1_000));
        drop(permit);
        assert!(usage.is_idle(1));
        assert!(usage.take(&limits, tokens(0), 1).is_ok());
    }

    #[test]
    fn many_threads_never_pass_the_limit() {
        let usage = Arc::new(Usage::default());
        let limits = limits(Some(1000), None, None);
        let admitted: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| usage.take(&limits, tokens(0), 5).is_ok()).count()))
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(admitted, 1000);
    }

    #[test]
    fn a_usage_is_one_cache_line() {
        assert_eq!(std::mem::size_of::<Usage>(), 64);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Whatever comes and goes: no window lets more through than its limit, and what was reserved and given back leaves
        /// no trace.
        #[test]
        fn no_window_is_passed(
            steps in proptest::collection::vec((0u64..40, 0u64..30, 0u64..30, 0u8..4), 1..60),
            limit in 1u64..100,
        ) {
            let limits = Limits {
                requests_per_minute: Some(limit),
                tokens_per_minute: Some(limit),
                input_tokens_per_minute: Some(limit / 2 + 1),
                output_tokens_per_minute: Some(limit / 2 + 1),
                parallel_requests: Some(5),
            };
            let usage = Arc::new(Usage::default());
            let mut now = 1;
            let mut open: Vec<Permit> = Vec::new();
            for (wait, input, output, what) in steps {
                now += wait;
                match what {
                    0 | 1 => open.extend(usage.take(&limits, Estimate { input, output: Some(output) }, now)),
                    2 => {
                        if let Some(mut permit) = open.pop() {
                            // Never above what was reserved.
                            let input = input.min(permit.amount(LimitType::InputTokens));
                            permit.settle(Spent { input, output: 0 });
                        }
                    }
                    _ => {
                        if let Some(mut permit) = open.pop() {
                            permit.refund();
                        }
                    }
                }
                for limit_type in LimitType::ALL {
                    let most = limit_type.of(&limits).unwrap();
                    prop_assert!(usage.used(limit_type, now).0 <= most, "{limit_type:?}");
                }
            }
            for mut permit in open {
                permit.refund();
            }
            prop_assert_eq!(usage.used(LimitType::MaxParallelRequests, now).0, 0);
        }
    }
}
