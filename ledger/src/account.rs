//! The live numbers of one budget in one period of this boot: what is committed (settled and held), what of it is
//! settled, and how far it may go. Atomics only; durable copies are the grants log's and the journal's.

use std::sync::atomic::{
    AtomicI64, AtomicU32, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::{Arc, Weak};

use tokio::sync::Notify;

use crate::allowance::Elsewhere;
use crate::budget::Budget;
use tollgate_allocator::Span;
use tollgate_allocator::Unit;

/// Added to `committed` when the period is over: every reservation that races with it fails.
const SEAL: i64 = 1 << 62;

/// Above it, `committed` carries the seal. Limits and sums stay far below.
const SEALED_FROM: i64 = 1 << 61;

/// Added beside the seal when attempts in flight may not hold more either.
const CLOSE: i64 = 1 << 61;

/// Above it, `committed` carries both.
const CLOSED_FROM: i64 = SEAL + CLOSE;

/// One account. `id` names it in the journal and in the grants log.
#[derive(Debug)]
pub struct Account {
    pub id: u32,
    /// Of the replica of this process that an allocator elsewhere knows it by.
    pub suffix: u32,
    pub unit: Unit,
    /// Reset token of the terms it was opened under.
    pub token: Option<String>,
    pub span: Span,
    /// Unix milliseconds, the end of the span.
    pub ends_at_ms: i64,
    /// From then on a hold looks whether something is over: the span, or before it a boost. Unix milliseconds.
    looks_at_ms: AtomicI64,
    pub budget: Weak<Budget>,
    pub releases: Arc<Releases>,
    /// What an allocator elsewhere says of it; unused where the limit is this process's own.
    pub elsewhere: Elsewhere,
    totals: Totals,
    bounds: Bounds,
}

/// Who waits for calls in flight to settle.
#[derive(Debug, Default)]
pub struct Releases {
    pub waiting: AtomicU32,
    pub notify: Notify,
}

/// Written by every attempt: a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Totals {
    committed: AtomicI64,
    used: AtomicI64,
}

/// Read by every attempt, written by grants.
#[derive(Debug)]
#[repr(align(64))]
struct Bounds {
    /// How far `committed` may go: the durable grant, or the limit where that is less.
    ceiling: AtomicI64,
    granted: AtomicI64,
    /// Less room than this below the ceiling: time to ask for more.
    refill_below: AtomicI64,
}

/// Why an amount was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdded {
    Full,
    Sealed,
}

impl Account {
    /// An account with nothing in it, and no room.
    pub fn new(
        id: u32,
        suffix: u32,
        unit: Unit,
        token: Option<String>,
        span: Span,
        budget: Weak<Budget>,
        releases: Arc<Releases>,
    ) -> Account {
        Account {
            id,
            suffix,
            unit,
            token,
            ends_at_ms: span.ends_at.saturating_mul(1000),
            looks_at_ms: AtomicI64::new(span.ends_at.saturating_mul(1000)),
            span,
            budget,
            releases,
            elsewhere: Elsewhere::default(),
            totals: Totals::default(),
            bounds: Bounds {
                ceiling: AtomicI64::new(0),
                granted: AtomicI64::new(0),
                refill_below: AtomicI64::new(i64::MIN),
            },
        }
    }

    /// The same account as it was when nobody had it any more: so much was used.
    pub fn resumed(mut self, used: i64) -> Account {
        self.totals = Totals { committed: AtomicI64::new(used), used: AtomicI64::new(used) };
        self
    }

    /// From when on a hold looks whether the span or a boost is over. Unix milliseconds.
    pub fn looks_at_ms(&self) -> i64 {
        self.looks_at_ms.load(Relaxed)
    }

    /// A boost of its budget is over then; `i64::MAX`: there is none.
    pub fn look_at(&self, at_ms: i64) {
        self.looks_at_ms.store(at_ms.min(self.ends_at_ms), Relaxed);
    }

    /// Commits an amount under the ceiling. `Ok(true)`: committed, and the grant runs low.
    ///
    /// # Errors
    /// `Full` when the ceiling is in the way (nothing is added, also not a part), `Sealed` when the period is over. An
    /// amount of 0 needs room for 1: who has spent everything calls nothing, also not what is free.
    pub fn try_hold(&self, amount: i64) -> Result<bool, NotAdded> {
        let mut committed = self.totals.committed.load(Relaxed);
        loop {
            if committed >= SEALED_FROM {
                return Err(NotAdded::Sealed);
            }
            let ceiling = self.bounds.ceiling.load(Acquire);
            if committed.saturating_add(amount.max(1)) > ceiling {
                return Err(NotAdded::Full);
            }
            let after = committed + amount;
            match self.totals.committed.compare_exchange_weak(committed, after, AcqRel, Relaxed) {
                Ok(_) => return Ok(ceiling - after < self.bounds.refill_below.load(Relaxed)),
                Err(now) => committed = now,
            }
        }
    }

    /// Commits an amount whatever the ceiling.
    ///
    /// # Errors
    /// `Sealed` when the period is over.
    pub fn hold(&self, amount: i64) -> Result<(), NotAdded> {
        let mut committed = self.totals.committed.load(Relaxed);
        loop {
            if committed >= SEALED_FROM {
                return Err(NotAdded::Sealed);
            }
            match self.totals.committed.compare_exchange_weak(committed, committed + amount, AcqRel, Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => committed = now,
            }
        }
    }

    /// Commits more for an attempt that holds something here, under the ceiling. Also after the end of the period, whose
    /// attempt it is: with what is left of its allowance. `Ok(true)`: committed, and the grant runs low.
    ///
    /// # Errors
    /// `Full` when the ceiling is in the way (nothing is added, also not a part), `Sealed` when what is left of the
    /// allowance is another account's.
    pub fn extend(&self, more: i64) -> Result<bool, NotAdded> {
        let mut committed = self.totals.committed.load(Relaxed);
        loop {
            if committed >= CLOSED_FROM {
                return Err(NotAdded::Sealed);
            }
            let ceiling = self.bounds.ceiling.load(Acquire);
            let after = plain(committed).saturating_add(more);
            if after > ceiling {
                return Err(NotAdded::Full);
            }
            match self.totals.committed.compare_exchange_weak(committed, committed + more, AcqRel, Relaxed) {
                Ok(_) => return Ok(ceiling - after < self.bounds.refill_below.load(Relaxed)),
                Err(now) => committed = now,
            }
        }
    }

    /// Replaces a hold by what was really used, also where that is more.
    pub fn settle(&self, held: i64, actual: i64) {
        if actual != 0 {
            self.totals.used.fetch_add(actual, Relaxed);
        }
        self.totals.committed.fetch_add(actual - held, AcqRel);
        if self.releases.waiting.load(Relaxed) > 0 {
            self.releases.notify.notify_waiters();
        }
    }

    /// Ends the account for new holds; those in flight settle as ever.
    pub fn seal(&self) {
        self.raise(SEALED_FROM, SEAL);
    }

    /// Ends a sealed account for those in flight too: from now on what is committed only falls. For one whose allowance
    /// beyond that goes to another.
    pub fn close(&self) {
        self.seal();
        self.raise(CLOSED_FROM, CLOSE);
    }

    /// Adds a mark to `committed`, once.
    fn raise(&self, from: i64, mark: i64) {
        let mut committed = self.totals.committed.load(Acquire);
        while committed < from {
            match self.totals.committed.compare_exchange_weak(committed, committed + mark, AcqRel, Acquire) {
                Ok(_) => return,
                Err(now) => committed = now,
            }
        }
    }

    pub fn is_sealed(&self) -> bool {
        self.totals.committed.load(Acquire) >= SEALED_FROM
    }

    /// Settled and held.
    pub fn committed(&self) -> i64 {
        self.taken() - self.elsewhere.returned()
    }

    /// Of the allowance: settled, held, and given back.
    pub fn taken(&self) -> i64 {
        plain(self.totals.committed.load(Acquire))
    }

    /// Commits for good what is left of an allowance, and says how much that was: no hold gets it any more.
    pub fn take_idle(&self, granted: i64) -> i64 {
        let mut committed = self.totals.committed.load(Acquire);
        loop {
            let idle = granted.saturating_sub(plain(committed));
            if idle <= 0 {
                return 0;
            }
            match self.totals.committed.compare_exchange_weak(committed, committed + idle, AcqRel, Acquire) {
                Ok(_) => return idle,
                Err(now) => committed = now,
            }
        }
    }

    /// Settled.
    pub fn used(&self) -> i64 {
        self.totals.used.load(Relaxed)
    }

    /// The durable allowance.
    pub fn granted(&self) -> i64 {
        self.bounds.granted.load(Acquire)
    }

    /// Publishes a grant that is durable.
    pub fn set_granted(&self, granted: i64, refill_below: i64) {
        self.bounds.granted.store(granted, Release);
        self.bounds.refill_below.store(refill_below, Relaxed);
    }

    /// Publishes how far holds may go.
    pub fn set_ceiling(&self, ceiling: i64) {
        self.bounds.ceiling.store(ceiling, Release);
    }
}

/// `committed` without its marks.
fn plain(committed: i64) -> i64 {
    match committed {
        CLOSED_FROM.. => committed - SEAL - CLOSE,
        SEALED_FROM.. => committed - SEAL,
        _ => committed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_allocator::Period;

    fn account(ceiling: i64) -> Account {
        let account = Account::new(1, 0, Unit::NanoUsd, None, Period::Lifetime.span(0), Weak::new(), Arc::default());
        account.set_ceiling(ceiling);
        account
    }

    #[test]
    fn holds_fit_under_the_ceiling_and_come_back_when_settled() {
        let account = account(100);
        assert_eq!(account.try_hold(60), Ok(false));
        assert_eq!(account.try_hold(41), Err(NotAdded::Full));
        assert_eq!(account.try_hold(40), Ok(false));
        account.settle(60, 10);
        assert_eq!((account.committed(), account.used()), (50, 10));
        assert_eq!(account.try_hold(50), Ok(false));
        assert_eq!(account.try_hold(0), Err(NotAdded::Full), "nothing left is nothing left");
    }

    #[test]
    fn more_than_the_hold_is_booked_in_full_and_stops_admission() {
        let account = account(100);
        account.try_hold(50).unwrap();
        account.settle(50, 170);
        assert_eq!((account.committed(), account.used()), (170, 170));
        assert_eq!(account.try_hold(0), Err(NotAdded::Full));
    }

    #[test]
    fn a_sealed_account_settles_but_never_holds() {
        let account = account(100);
        account.try_hold(50).unwrap();
        account.seal();
        account.seal();
        assert_eq!(account.try_hold(1), Err(NotAdded::Sealed));
        assert_eq!(account.hold(1), Err(NotAdded::Sealed));
        assert_eq!(account.committed(), 50);
        account.settle(50, 20);
        assert_eq!((account.committed(), account.used()), (20, 20));
    }

    #[test]
    fn what_is_held_grows_under_the_ceiling_also_after_the_end_and_not_once_closed() {
        let account = account(100);
        account.try_hold(50).unwrap();
        assert_eq!(account.extend(51), Err(NotAdded::Full));
        assert_eq!(account.extend(20), Ok(false));
        account.seal();
        assert_eq!((account.extend(31), account.extend(10)), (Err(NotAdded::Full), Ok(false)));
        account.close();
        account.close();
        account.seal();
        assert_eq!((account.extend(1), account.try_hold(1)), (Err(NotAdded::Sealed), Err(NotAdded::Sealed)));
        assert_eq!((account.committed(), account.is_sealed()), (80, true));
        account.settle(80, 15);
        assert_eq!((account.committed(), account.used()), (15, 15));
    }

    #[test]
    fn eight_threads_never_hold_more_than_the_ceiling() {
        let account = account(1000);
        std::thread::scope(|scope| {
            for seed in 0..8 {
                let account = &account;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    for _ in 0..5000 {
                        let hold = random.i64(0..300);
                        if account.try_hold(hold).is_ok() {
                            let more = random.i64(0..100);
                            let held = hold + if account.extend(more).is_ok() { more } else { 0 };
                            assert!(account.committed() <= 1000);
                            account.settle(held, 0);
                        }
                    }
                });
            }
        });
        assert_eq!(account.committed(), 0);
    }
}
