//! How a Soft budget that is spent goes on: with a share of the rate at which it admitted calls before. The usual rate is
//! what this process admitted in the period, over the time from the first of these calls until the limit was reached (a
//! minute at least). Calls are spread: one for each interval, and one a minute at least. Atomics only.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::AcqRel, Ordering::Relaxed};

const MINUTE_MS: i64 = 60_000;

/// Spent budgets that have let a call through slowly. Its further attempts are no further calls to them.
#[derive(Clone, Debug, Default)]
pub struct LetThrough(Vec<u64>);

impl LetThrough {
    /// `budget`: its place in the order of budgets, which no other has.
    pub(crate) fn by(&self, budget: u64) -> bool {
        self.0.contains(&budget)
    }

    pub(crate) fn note(&mut self, budget: u64) {
        self.0.push(budget);
    }
}

#[derive(Debug, Default)]
pub struct Throttle {
    /// 0: nothing is let through.
    percent: AtomicU32,
    /// Calls that were admitted, and when the first was. Unix milliseconds; 0: none was.
    calls: AtomicI64,
    since_ms: AtomicI64,
    /// Between two calls that are let through; 0: the limit is not reached.
    interval_ms: AtomicI64,
    /// When the next call is let through.
    next_ms: AtomicI64,
}

impl Throttle {
    pub fn new(percent: Option<u32>) -> Throttle {
        Throttle { percent: AtomicU32::new(percent.unwrap_or(0)), ..Throttle::default() }
    }

    pub fn set_percent(&self, percent: Option<u32>) {
        if self.percent.swap(percent.unwrap_or(0), Relaxed) != percent.unwrap_or(0) {
            self.interval_ms.store(0, Relaxed);
        }
    }

    pub fn is_on(&self) -> bool {
        self.percent.load(Relaxed) > 0
    }

    /// A period begins.
    pub fn begin(&self) {
        for one in [&self.calls, &self.since_ms, &self.interval_ms, &self.next_ms] {
            one.store(0, Relaxed);
        }
    }

    /// A call was admitted below the limit.
    pub fn admitted(&self, at_ms: i64) {
        if self.since_ms.load(Relaxed) == 0 {
            self.since_ms.store(at_ms, Relaxed);
        }
        self.calls.fetch_add(1, Relaxed);
        if self.interval_ms.load(Relaxed) != 0 {
            // The limit was raised.
            self.interval_ms.store(0, Relaxed);
        }
    }

    /// A call above the limit.
    ///
    /// # Errors
    /// It has to wait for so many milliseconds.
    pub fn take(&self, at_ms: i64) -> Result<(), i64> {
        let interval = self.interval(at_ms);
        loop {
            let next = self.next_ms.load(Relaxed);
            let wait = next.saturating_sub(at_ms);
            // A clock that was set back does not close the budget for longer.
            if (1..=interval).contains(&wait) {
                return Err(wait);
            }
            if self.next_ms.compare_exchange(next, at_ms.saturating_add(interval), AcqRel, Relaxed).is_ok() {
                return Ok(());
            }
        }
    }

    fn interval(&self, at_ms: i64) -> i64 {
        let known = self.interval_ms.load(Relaxed);
        if known != 0 {
            return known;
        }
        let percent = i64::from(self.percent.load(Relaxed)).max(1);
        let calls = self.calls.load(Relaxed);
        let since = self.since_ms.load(Relaxed);
        let time = if since == 0 { MINUTE_MS } else { at_ms.saturating_sub(since).max(MINUTE_MS) };
        let interval = match calls {
            0 => MINUTE_MS,
            calls => (time.saturating_mul(100) / calls.saturating_mul(percent)).clamp(1, MINUTE_MS),
        };
        self.interval_ms.store(interval, Relaxed);
        interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_795_262_400_000;

    #[test]
    fn a_share_of_the_usual_rate_is_let_through() {
        for (calls, over_ms, percent, interval) in [
            // 60 a minute for ten minutes: 10 % are 6 a minute.
            (600, 600_000, 10, 10_000),
            // Too short to say: as if it had taken a minute.
            (600, 1_000, 10, 1_000),
            (600, 600_000, 50, 2_000),
            // One a minute at least.
            (1, 600_000, 1, 60_000),
            (0, 0, 10, 60_000),
        ] {
            let throttle = Throttle::new(Some(percent));
            (0..calls).for_each(|at| throttle.admitted(START + at * over_ms / calls));
            let end = START + over_ms;
            assert_eq!(throttle.take(end), Ok(()), "the first");
            assert_eq!(throttle.take(end), Err(interval), "{calls} calls in {over_ms} ms, {percent} %");
            assert_eq!(throttle.take(end + interval - 1), Err(1));
            assert_eq!(throttle.take(end + interval), Ok(()));
            let minute = (1..=60_000).filter(|ms| throttle.take(end + interval + ms).is_ok()).count() as i64;
            assert_eq!(minute, 60_000 / interval);
        }
    }

    #[test]
    fn a_new_period_and_a_clock_that_goes_back_do_not_close_it() {
        let throttle = Throttle::new(Some(10));
        (0..60).for_each(|at| throttle.admitted(START + at));
        assert_eq!(throttle.take(START), Ok(()));
        assert!(throttle.take(START).is_err());
        assert_eq!(throttle.take(START - 3_600_000), Ok(()));
        throttle.begin();
        assert_eq!(throttle.take(START), Ok(()));
        assert_eq!(throttle.take(START), Err(60_000), "nothing was usual in the new period");
    }
}
