//! Rates and calls at once, in memory. A window is one atomic word, so a check is one compare-and-swap; what is taken
//! is given back by whoever holds the guard, never by a timer. Windows are fixed minutes that begin with the first
//! request in them, as LiteLLM's do.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use tollgate_snapshot::model::Limits;

/// Length of a window, seconds.
pub const WINDOW_SECONDS: u64 = 60;

/// A count in the minute that began with its first entry. Upper 24 bits: the minute's start in seconds since the
/// process began (194 days, then it wraps and a window begins early, once); lower 40 bits: the count.
#[derive(Debug, Default)]
struct Window(AtomicU64);

const COUNT_BITS: u32 = 40;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const START_MASK: u64 = (1 << (64 - COUNT_BITS)) - 1;

impl Window {
    /// Adds `amount` if the sum stays within `limit`. `now`: seconds since the process began, at least 1.
    fn take(&self, amount: u64, limit: u64, now: u64) -> Result<Taken, Full> {
        let mut word = self.0.load(Relaxed);
        loop {
            let (start, count) = open(word, now);
            let sum = count.saturating_add(amount);
            if sum > limit {
                return Err(Full { remaining: limit.saturating_sub(count), resets_in: resets_in(start, now) });
            }
            let next = (start << COUNT_BITS) | sum.min(COUNT_MASK);
            match self.0.compare_exchange_weak(word, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(Taken { start, remaining: limit - sum, resets_in: resets_in(start, now) }),
                Err(seen) => word = seen,
            }
        }
    }

    /// Corrects what was taken in the window that began at `start`; a window that has passed needs no correction.
    fn correct(&self, start: u64, taken: u64, actual: u64) {
        let mut word = self.0.load(Relaxed);
        while word >> COUNT_BITS == start {
            let count = (word & COUNT_MASK).saturating_sub(taken).saturating_add(actual).min(COUNT_MASK);
            match self.0.compare_exchange_weak(word, (start << COUNT_BITS) | count, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(seen) => word = seen,
            }
        }
    }

    fn used(&self, now: u64) -> u64 {
        open(self.0.load(Relaxed), now).1
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

struct Taken {
    start: u64,
    remaining: u64,
    resets_in: u64,
}

struct Full {
    remaining: u64,
    resets_in: u64,
}

/// What one key, team, deployment or account has used. Outlives snapshots. All in one cache line: a call touches all of
/// it, and ten thousand of them are cold.
#[derive(Debug, Default)]
#[repr(align(32))]
pub struct Usage {
    requests: Window,
    tokens: Window,
    parallel: AtomicU64,
    /// Unix seconds of the last call of a key; 0: none in this process.
    last_used: AtomicI64,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitType {
    Requests,
    Tokens,
    MaxParallelRequests,
}

impl LimitType {
    /// As LiteLLM writes it in texts and headers.
    pub fn as_str(self) -> &'static str {
        match self {
            LimitType::Requests => "requests",
            LimitType::Tokens => "tokens",
            LimitType::MaxParallelRequests => "max_parallel_requests",
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
}

/// What is left after a call was let in, for the headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    pub requests: Option<(u64, u64)>,
    pub tokens: Option<(u64, u64)>,
    /// Seconds until the requests' window ends.
    pub requests_reset: u64,
    pub tokens_reset: u64,
}

/// Of a deployment and its account; seldom both have limits, and every call carries the room for them.
pub type Permits = smallvec::SmallVec<[Permit; 1]>;

/// A call that counts. Dropping it frees its parallel slot; its tokens stay as reserved unless [`Permit::settle`] was
/// called.
#[derive(Debug)]
pub struct Permit {
    usage: std::sync::Arc<Usage>,
    parallel: bool,
    /// Start of the tokens' window and what was reserved there.
    tokens: Option<(u64, u64)>,
    /// Start of the requests' window.
    request: Option<u64>,
    pub remaining: Remaining,
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

    /// Lets a call in that may use `tokens`, or says which limit is in the way (nothing is counted then).
    pub fn take(self: &std::sync::Arc<Usage>, limits: &Limits, tokens: u64, now: u64) -> Result<Permit, Reached> {
        let mut permit = Permit {
            usage: self.clone(),
            parallel: false,
            tokens: None,
            request: None,
            remaining: Remaining::default(),
        };
        if let Some(limit) = limits.parallel_requests {
            let entered = self.parallel.fetch_update(Relaxed, Relaxed, |open| (open < limit).then_some(open + 1));
            if entered.is_err() {
                return Err(Reached { limit_type: LimitType::MaxParallelRequests, limit, remaining: 0, resets_in: 1 });
            }
            permit.parallel = true;
        }
        if let Some(limit) = limits.requests_per_minute {
            let taken = self.requests.take(1, limit, now).map_err(|full| full.reached(LimitType::Requests, limit))?;
            permit.request = Some(taken.start);
            permit.remaining.requests = Some((limit, taken.remaining));
            permit.remaining.requests_reset = taken.resets_in;
        }
        if let Some(limit) = limits.tokens_per_minute {
            match self.tokens.take(tokens, limit, now) {
                Ok(taken) => {
                    permit.tokens = Some((taken.start, tokens));
                    permit.remaining.tokens = Some((limit, taken.remaining));
                    permit.remaining.tokens_reset = taken.resets_in;
                }
                Err(full) => {
                    // A call that is refused counts nowhere.
                    permit.refund();
                    return Err(full.reached(LimitType::Tokens, limit));
                }
            }
        }
        Ok(permit)
    }

    /// Requests and tokens of the open minute.
    pub fn used(&self, now: u64) -> (u64, u64) {
        (self.requests.used(now), self.tokens.used(now))
    }
}

impl Full {
    fn reached(self, limit_type: LimitType, limit: u64) -> Reached {
        Reached { limit_type, limit, remaining: self.remaining, resets_in: self.resets_in }
    }
}

impl Permit {
    /// Replaces the reserved tokens by what was used.
    pub fn settle(&mut self, tokens: u64) {
        if let Some((start, reserved)) = self.tokens.take() {
            self.usage.tokens.correct(start, reserved, tokens);
        }
    }

    /// As if the call had not been let in.
    pub fn refund(&mut self) {
        self.settle(0);
        if let Some(start) = self.request.take() {
            self.usage.requests.correct(start, 1, 0);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.parallel {
            self.usage.parallel.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn limits(requests: Option<u64>, tokens: Option<u64>, parallel: Option<u64>) -> Limits {
        Limits { requests_per_minute: requests, tokens_per_minute: tokens, parallel_requests: parallel }
    }

    #[test]
    fn a_window_begins_with_its_first_request_and_ends_a_minute_later() {
        let usage = Arc::new(Usage::default());
        let limits = limits(Some(2), None, None);
        assert!(usage.take(&limits, 0, 100).is_ok());
        assert!(usage.take(&limits, 0, 130).is_ok());
        let refused = usage.take(&limits, 0, 159).unwrap_err();
        assert_eq!(refused, Reached { limit_type: LimitType::Requests, limit: 2, remaining: 0, resets_in: 1 });
        assert!(usage.take(&limits, 0, 160).is_ok());
    }

    #[test]
    fn tokens_are_reserved_and_settled_to_what_was_used() {
        let usage = Arc::new(Usage::default());
        let limits = limits(None, Some(100), None);
        let mut permit = usage.take(&limits, 90, 1).unwrap();
        assert_eq!(usage.take(&limits, 20, 1).unwrap_err().limit_type, LimitType::Tokens);
        permit.settle(10);
        assert_eq!(usage.used(1).1, 10);
        assert!(usage.take(&limits, 90, 1).is_ok());
    }

    #[test]
    fn a_refused_call_counts_nowhere() {
        let usage = Arc::new(Usage::default());
        let limits = limits(Some(10), Some(5), Some(1));
        assert!(usage.take(&limits, 6, 1).is_err());
        assert_eq!(usage.used(1), (0, 0));
        assert!(usage.take(&limits, 5, 1).is_ok(), "the parallel slot of the refused call is free again");
    }

    #[test]
    fn a_settlement_after_its_window_changes_nothing() {
        let usage = Arc::new(Usage::default());
        let limits = limits(None, Some(100), None);
        let mut late = usage.take(&limits, 50, 1).unwrap();
        let _next = usage.take(&limits, 70, 70).unwrap();
        late.settle(1);
        assert_eq!(usage.used(70).1, 70);
    }

    #[test]
    fn parallel_slots_come_back_when_the_permit_is_dropped() {
        let usage = Arc::new(Usage::default());
        let limits = limits(None, None, Some(1));
        let permit = usage.take(&limits, 0, 1).unwrap();
        assert_eq!(usage.take(&limits, 0, 1).unwrap_err().limit_type, LimitType::MaxParallelRequests);
        drop(permit);
        assert!(usage.take(&limits, 0, 1).is_ok());
    }

    #[test]
    fn many_threads_never_pass_the_limit() {
        let usage = Arc::new(Usage::default());
        let limits = limits(Some(1000), None, None);
        let admitted: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| usage.take(&limits, 0, 5).is_ok()).count()))
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(admitted, 1000);
    }
}
