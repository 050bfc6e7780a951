//! What this process may use of one limit: a lease of a counter that all proxies share (`tollgate_ledger::leases`). The
//! hot path takes from it with one compare-and-swap; one task asks for more, and gives back. A class of keys has a lease of
//! its share of a limit, and borrows more while the lease of the whole says that the limit is low: see [`Pressure`]. Pure:
//! time is an argument, milliseconds of a clock that only rises, never 0.

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tollgate_ledger::leases::{Answer, Ask, MOST_COUNTED, WINDOW_MS};

/// Who was left without is asked for again after this.
const AGAIN_MS: u64 = 20;

/// What was used is told after this where nothing else is to be told.
const TELL_MS: u64 = 1_000;

/// Places are told again after this, so that they are not taken for those of a process that died.
const RENEW_MS: u64 = 3_000;

/// What nobody used for so long is given back.
const IDLE_MS: u64 = 2_000;

/// Below this part of the limit, what is left of it is scarce.
const SCARCE: i64 = 5;

/// What was heard of a limit says for so long that it is used up to the line above which classes have their shares.
const PRESSURE_MS: u64 = 100;

/// Use is averaged over at least this.
const BURN_MS: u64 = 250;

const TOTAL_BITS: u32 = 48;
const TOTAL_MASK: u64 = (1 << TOTAL_BITS) - 1;

/// A lease of one limit.
#[derive(Debug, Default)]
pub struct Lease {
    /// Upper 16 bits: which window, as counted here. Lower 48: what was used of it and what was given back, so that giving
    /// back is a use that never ends, and no call races with it.
    taken: AtomicU64,
    /// The same of what was given; where the windows differ nothing is there to be taken.
    given: AtomicU64,
    /// Of what is taken.
    returned: AtomicU64,
    /// What was let in without it, of the window in the upper bits.
    borrowed: AtomicU64,
    ends_ms: AtomicU64,
    /// As the counter said last.
    elsewhere: AtomicU64,
    /// The same with what others hold and did not use.
    held_elsewhere: AtomicU64,
    answered_ms: AtomicU64,
    /// More is asked for when less than this is left.
    low: AtomicU64,
    /// Of calls that wait: all, and the least of them; 0: none.
    wanted: AtomicU64,
    least: AtomicU64,
    most: AtomicU64,
    /// Little of the limit is left: what comes free here is told at once.
    is_scarce: AtomicBool,
    /// When the counter answered last, not all of the limit was used.
    is_left: AtomicBool,
    is_freed: AtomicBool,
    is_low: AtomicBool,
    is_recalled: AtomicBool,
    is_forgotten: AtomicBool,
    /// Somebody waits to hear whether less than this is used.
    line: AtomicU64,
    is_doubted: AtomicBool,
    told: Mutex<Told>,
}

/// What only the task that asks looks at.
#[derive(Debug, Default)]
struct Told {
    window: i64,
    seq: i64,
    /// What was asked last is not answered yet.
    is_asked: bool,
    began_ms: u64,
    at_ms: u64,
    used: u64,
    held: u64,
    beside: u64,
    /// Nothing is asked for who waits before this.
    again_ms: u64,
    /// The same of doubts.
    doubt_again_ms: u64,
    /// Who waited takes what was given until this.
    taken_by_ms: u64,
    /// When it was seen that more was used, or more was given.
    moved_ms: u64,
    moved: u64,
    burn: u64,
    burn_since_ms: u64,
    burn_from: u64,
}

/// What was taken of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Which window.
    pub window: u16,
    /// What is left of the limit, as far as is known.
    pub left: u64,
    /// Seconds.
    pub resets_in: u64,
    /// It was not of the lease.
    pub is_borrowed: bool,
}

/// Whether a limit is used up to the line above which classes of keys have their shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Not even if others use all that they hold. What is taken while it is so adds up to the line at most over all
    /// processes, since what they hold does.
    Low,
    /// Others hold something that they may have used or not; or nobody was asked of late.
    Unsure,
    High,
}

/// What is to be taken.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub limit: u64,
    pub amount: u64,
    /// Where the limit is a share: of the whole. While that is low more than the share is let in, and counted.
    pub pressure: Option<Pressure>,
}

/// What becomes of what is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    Borrowed {
        taken: Taken,
        /// That is to be told now.
        is_asked: bool,
    },
    /// It is asked for.
    Wanted,
    /// Nothing is to be had, whoever waits. Not final: it may be heard in a moment that it can be borrowed.
    UsedUp { is_final: bool },
}

/// Whose lease it is.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    pub limit: &'a Arc<str>,
    pub account: &'a Arc<str>,
    pub at_once: bool,
    /// What was let through without it and still counts.
    pub beside: u64,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
struct Wishes {
    most: u64,
    wanted: u64,
    least: u64,
}

/// What is to be asked now.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Ask(Ask),
    /// Not yet.
    PutOff,
    Nothing,
}

fn pack(window: u16, total: u64) -> u64 {
    u64::from(window) << TOTAL_BITS | total.min(TOTAL_MASK)
}

fn unpack(word: u64) -> (u16, u64) {
    ((word >> TOTAL_BITS) as u16, word & TOTAL_MASK)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(MOST_COUNTED).min(MOST_COUNTED)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl Lease {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self, now_ms: u64) -> bool {
        now_ms < self.ends_ms.load(Acquire)
    }

    /// Takes `amount` if it is here and fits the limit, which may have been lowered.
    pub fn take(&self, amount: u64, most: u64, now_ms: u64) -> Option<Taken> {
        self.take_beside(0, amount, most, now_ms)
    }

    /// The same of a share of a limit, of which others may have borrowed more than there is.
    pub fn take_share(&self, amount: u64, most: u64, now_ms: u64) -> Option<Taken> {
        self.take_beside(self.borrowed() + self.elsewhere.load(Relaxed), amount, most, now_ms)
    }

    /// `others`: what is used of the limit, but not of this lease.
    #[inline]
    fn take_beside(&self, others: u64, amount: u64, most: u64, now_ms: u64) -> Option<Taken> {
        let mut word = self.taken.load(Acquire);
        loop {
            let (window, total) = unpack(word);
            let (given_in, given) = unpack(self.given.load(Acquire));
            let sum = total.saturating_add(amount);
            let used = sum.saturating_sub(self.returned.load(Relaxed));
            if given_in != window || sum > given || used.saturating_add(others) > most || !self.is_open(now_ms) {
                return None;
            }
            match self.taken.compare_exchange_weak(word, pack(window, sum), AcqRel, Acquire) {
                Ok(_) => {
                    let left = most.saturating_sub(used).saturating_sub(self.elsewhere.load(Relaxed));
                    return Some(Taken { window, left, resets_in: self.resets_in(now_ms), is_borrowed: false });
                }
                Err(seen) => word = seen,
            }
        }
    }

    /// Where [`Lease::take`] finds too little: borrows it or asks for it.
    pub fn otherwise(&self, Wanted { limit, amount, pressure }: Wanted, now_ms: u64) -> Otherwise {
        if pressure == Some(Pressure::Low) {
            if let Some(taken) = self.borrow(amount, limit, now_ms) {
                // Others may hold what is not there any more, or be given it.
                let is_asked = self.is_left.load(Relaxed) && self.least.load(Acquire) == 0;
                if is_asked {
                    self.want(1, limit);
                }
                return Otherwise::Borrowed { taken, is_asked };
            }
            // No more than that a window begins, in which it counts.
            self.want(1, limit);
            return Otherwise::Wanted;
        }
        if amount > limit || self.is_used_up(amount, limit, now_ms) {
            return Otherwise::UsedUp { is_final: pressure != Some(Pressure::Unsure) };
        }
        self.want(amount, limit);
        Otherwise::Wanted
    }

    /// Takes what is not here, and may not be had at all, in a window that is open: others have less for it as soon as it
    /// is told.
    fn borrow(&self, amount: u64, most: u64, now_ms: u64) -> Option<Taken> {
        let window = unpack(self.taken.load(Acquire)).0;
        if unpack(self.given.load(Acquire)).0 != window || !self.is_open(now_ms) {
            return None;
        }
        let more = |word| {
            let (borrowed_in, total) = unpack(word);
            // Another window may have begun meanwhile.
            let is_over = borrowed_in.wrapping_sub(window).cast_signed() > 0;
            let before = if borrowed_in == window { total } else { 0 };
            (!is_over).then(|| pack(window, before.saturating_add(amount)))
        };
        self.borrowed.fetch_update(AcqRel, Acquire, more).ok()?;
        let (left, resets_in) = (self.remaining(most, now_ms), self.resets_in(now_ms));
        Some(Taken { window, left, resets_in, is_borrowed: true })
    }

    /// What was borrowed in the window that was open last.
    fn borrowed(&self) -> u64 {
        let (window, total) = unpack(self.borrowed.load(Acquire));
        if window == unpack(self.taken.load(Acquire)).0 { total } else { 0 }
    }

    /// Whether so little is here that more should be asked for; says so once.
    pub fn runs_low(&self) -> bool {
        let low = self.low.load(Relaxed);
        if low == 0 {
            return false;
        }
        let left = unpack(self.given.load(Relaxed)).1.saturating_sub(unpack(self.taken.load(Relaxed)).1);
        left < low && !self.is_low.swap(true, Relaxed)
    }

    /// Corrects what was taken; of a window that has passed nothing is to be corrected. Whether it was still open.
    pub fn correct(&self, window: u16, taken: u64, actual: u64) -> bool {
        correct(&self.taken, window, taken, actual)
    }

    /// The same of what was borrowed.
    pub fn correct_borrowed(&self, window: u16, taken: u64, actual: u64) -> bool {
        correct(&self.borrowed, window, taken, actual)
    }

    /// Something came free that the counter believes to be used. Whether it is to be told now: where more is used than the
    /// limit, because it was borrowed, nobody gets it.
    pub fn is_worth_telling(&self) -> bool {
        let used = || self.standing().0 + self.borrowed() + self.elsewhere.load(Relaxed);
        let is_left = || used() < self.most.load(Relaxed);
        self.is_scarce.load(Relaxed) && is_left() && !self.is_freed.swap(true, Relaxed)
    }

    /// Gives a place back, whenever it was taken.
    pub fn leave(&self) {
        leave(&self.taken);
    }

    /// The same of one that was borrowed.
    pub fn leave_borrowed(&self) {
        leave(&self.borrowed);
    }

    /// What is used in the window that is open. Of places: always.
    pub fn used(&self, at_once: bool, now_ms: u64) -> u64 {
        if !at_once && !self.is_open(now_ms) {
            return 0;
        }
        self.standing().0 + self.borrowed()
    }

    /// Whether something is held that others could use.
    pub fn holds(&self, now_ms: u64) -> bool {
        let (taken, given) = (unpack(self.taken.load(Acquire)), unpack(self.given.load(Acquire)));
        self.is_open(now_ms) && taken.0 == given.0 && taken.1 < given.1
    }

    /// Until the window ends. Seconds, at least 1.
    pub fn resets_in(&self, now_ms: u64) -> u64 {
        self.ends_ms.load(Relaxed).saturating_sub(now_ms).div_ceil(1_000).max(1)
    }

    /// What is left of the limit, as far as is known: also what others hold and do not use.
    pub fn remaining(&self, most: u64, now_ms: u64) -> u64 {
        if !self.is_open(now_ms) {
            return most;
        }
        let used = self.standing().0 + self.borrowed();
        most.saturating_sub(used).saturating_sub(self.elsewhere.load(Relaxed))
    }

    /// Whether the counter said a moment ago that so much is not to be had, whoever gives back what he does not use.
    pub fn is_used_up(&self, amount: u64, most: u64, now_ms: u64) -> bool {
        let is_fresh = now_ms <= self.answered_ms.load(Acquire).saturating_add(AGAIN_MS);
        is_fresh && self.is_open(now_ms) && self.remaining(most, now_ms) < amount
    }

    /// Whether less than `line`, above which classes have their shares, was used before a call that took `amount` just now.
    pub fn pressure(&self, amount: u64, line: u64, now_ms: u64) -> Pressure {
        let before = self.standing().0.saturating_sub(amount);
        if before.saturating_add(self.held_elsewhere.load(Acquire)) < line {
            return Pressure::Low;
        }
        let is_fresh = now_ms <= self.answered_ms.load(Acquire).saturating_add(PRESSURE_MS);
        let is_used = before.saturating_add(self.elsewhere.load(Relaxed)) >= line;
        if is_fresh && is_used { Pressure::High } else { Pressure::Unsure }
    }

    /// A call waits to hear whether less than `line` is used; others give back what they do not use.
    pub fn doubt(&self, line: u64) {
        self.line.store(line, Relaxed);
        self.is_doubted.store(true, Release);
    }

    /// A call waits for so much.
    pub fn want(&self, amount: u64, most: u64) {
        self.most.store(most, Relaxed);
        let less = |least: u64| Some(if least == 0 { amount } else { least.min(amount) });
        let _ = self.least.fetch_update(AcqRel, Acquire, less);
        let more = |wanted: u64| Some(wanted.saturating_add(amount).min(most));
        let _ = self.wanted.fetch_update(AcqRel, Acquire, more);
    }

    /// The limit, for what is asked without a call that waits.
    pub fn note(&self, most: u64) {
        self.most.store(most, Relaxed);
    }

    /// Whether a recall would bring something, or what others believe to be idle is not.
    pub fn is_worth_a_recall(&self, now_ms: u64) -> bool {
        let (used, held) = self.standing();
        let told = self.told();
        let is_told_idle = told.held + told.beside > told.used;
        self.is_open(now_ms) && now_ms >= told.taken_by_ms && (held > used || is_told_idle)
    }

    /// Others wait: what is not used is to be given back.
    pub fn recall(&self) {
        self.is_recalled.store(true, Relaxed);
    }

    /// The counter may have forgotten what is held.
    pub fn forget(&self) {
        self.is_forgotten.store(true, Relaxed);
    }

    /// What is to be asked now. Nothing before what was asked is answered, or said to be unanswered.
    pub fn next(&self, whose: Whose<'_>, now_ms: u64) -> Next {
        let whose = self.with_borrowed(whose, now_ms);
        let Whose { at_once, beside, .. } = whose;
        let mut told = self.told();
        let is_open = self.is_open(now_ms);
        let waits = self.least.load(Acquire) != 0;
        if told.is_asked || waits && now_ms < told.again_ms {
            return if waits { Next::PutOff } else { Next::Nothing };
        }
        let is_low = self.is_low.swap(false, Relaxed) && is_open;
        let doubts = self.is_doubted.load(Acquire) && now_ms >= told.doubt_again_ms;
        let is_recalled = self.is_recalled.swap(false, Relaxed) && is_open;
        let is_forgotten = self.is_forgotten.swap(false, Relaxed);
        let is_freed = self.is_freed.swap(false, Relaxed);
        told.look(self.used(true, now_ms), now_ms);
        let is_idle = is_open && now_ms >= told.moved_ms + IDLE_MS && self.holds(now_ms);
        if is_recalled || is_idle {
            self.give_back();
        }
        let (used, held) = self.standing();
        let age_ms = now_ms.saturating_sub(told.at_ms);
        let is_new = used + beside != told.used || held != told.held;
        let lasts = is_open || at_once && held > 0 || beside > 0;
        let is_due = waits
            || is_low
            || doubts
            || is_recalled
            || is_idle
            || lasts && (is_forgotten || is_new && (is_freed || age_ms >= TELL_MS))
            // Who is silent for longer is taken for dead, and all that it holds for used.
            || is_open && held > used && age_ms >= IDLE_MS
            || at_once && held > 0 && age_ms >= RENEW_MS;
        if !is_due {
            return if self.is_doubted.load(Acquire) { Next::PutOff } else { Next::Nothing };
        }
        self.is_doubted.store(false, Release);
        let most = self.most.load(Relaxed);
        let wishes = if waits {
            let (wanted, least) = (self.wanted.swap(0, AcqRel), self.least.swap(0, AcqRel));
            // What came free meanwhile is here for who waits.
            let here = if is_open { held.saturating_sub(used) } else { 0 };
            let missing = |amount: u64| amount.saturating_sub(here).max(1);
            Wishes { most, wanted: missing(wanted.max(least)), least: missing(least) }
        } else if doubts && !is_low {
            // Below the line nothing is to be had while others hold so much: they are asked to give it back.
            Wishes { most: self.line.load(Relaxed), wanted: 1, least: 1 }
        } else {
            Wishes { most, wanted: u64::from(is_low), least: 0 }
        };
        Next::Ask(self.ask(&mut told, whose, (used, held), wishes, now_ms))
    }

    /// Gives all back that is not used, for good.
    pub fn last(&self, whose: Whose<'_>, now_ms: u64) -> Option<Ask> {
        let mut told = self.told();
        if told.window == 0 || !self.is_open(now_ms) {
            return None;
        }
        let whose = self.with_borrowed(whose, now_ms);
        self.give_back();
        let standing = self.standing();
        let wishes = Wishes { most: self.most.load(Relaxed), wanted: 0, least: 0 };
        Some(self.ask(&mut told, whose, standing, wishes, now_ms))
    }

    /// What was borrowed counts as what was let through without asking.
    fn with_borrowed<'a>(&self, whose: Whose<'a>, now_ms: u64) -> Whose<'a> {
        let lasts = whose.at_once || self.is_open(now_ms);
        Whose { beside: whose.beside + if lasts { self.borrowed() } else { 0 }, ..whose }
    }

    fn ask(
        &self,
        told: &mut Told,
        whose: Whose<'_>,
        (used, held): (u64, u64),
        Wishes { most, wanted, least }: Wishes,
        now_ms: u64,
    ) -> Ask {
        let Whose { limit, account, at_once, beside } = whose;
        let began_ms = told.began_ms;
        told.seq += 1;
        told.is_asked = true;
        (told.used, told.held, told.beside, told.at_ms) = (used + beside, held, beside, now_ms);
        Ask {
            limit: limit.clone(),
            account: account.clone(),
            at_once,
            most: signed(most),
            seq: told.seq,
            window: told.window,
            is_open: self.is_open(now_ms),
            age_ms: signed(now_ms.saturating_sub(began_ms)),
            held: signed(held),
            beside: signed(beside),
            used: signed(used + beside),
            wanted: signed(wanted),
            least: signed(least),
            burn: signed(told.burn),
        }
    }

    /// What is used of the window, and what is held of it: at least that.
    fn standing(&self) -> (u64, u64) {
        let (taken, given) = (unpack(self.taken.load(Acquire)).1, unpack(self.given.load(Acquire)).1);
        let returned = self.returned.load(Acquire);
        let used = taken.saturating_sub(returned);
        (used, given.saturating_sub(returned).max(used))
    }

    /// Takes all that is left for good.
    fn give_back(&self) {
        let mut word = self.taken.load(Acquire);
        loop {
            let (window, total) = unpack(word);
            let (given_in, given) = unpack(self.given.load(Acquire));
            if given_in != window || given <= total {
                return;
            }
            match self.taken.compare_exchange_weak(word, pack(window, given), AcqRel, Acquire) {
                Ok(_) => {
                    self.returned.fetch_add(given - total, AcqRel);
                    return;
                }
                Err(seen) => word = seen,
            }
        }
    }

    /// Takes over what the counter said. `asked_ms`: before it was asked.
    pub fn answered(&self, ask: &Ask, answer: &Answer, asked_ms: u64, now_ms: u64) {
        let mut told = self.told();
        told.is_asked = false;
        let most = signed(self.most.load(Relaxed));
        let room = most - ask.most + answer.room;
        let is_doubt = ask.most < most;
        // Before more can be taken here.
        self.held_elsewhere.store(unsigned(ask.most - answer.room - answer.held), Release);
        let net = unsigned(answer.held - ask.beside);
        // One less: the counter's clock has gone on since its last full millisecond.
        let ends_ms = asked_ms + unsigned(answer.ends_in_ms - 1);
        let is_same = told.window == answer.window;
        if is_same {
            let (window, given) = unpack(self.given.load(Acquire));
            let given = given.max(net + self.returned.load(Acquire));
            self.ends_ms.store(ends_ms, Release);
            self.given.store(pack(window, given), Release);
        } else {
            let carried = self.begin(ask.is_open && !ask.at_once);
            let window = unpack(self.taken.load(Acquire)).0;
            self.ends_ms.store(ends_ms, Release);
            self.given.store(pack(window, net.max(carried)), Release);
            told.window = answer.window;
            told.began_ms = ends_ms.saturating_sub(unsigned(WINDOW_MS));
            (told.moved, told.moved_ms) = (carried, now_ms);
            (told.burn_from, told.burn_since_ms) = (carried, now_ms);
        }
        let before = if is_same || ask.is_open { unsigned(ask.held) } else { 0 };
        let more = net.saturating_sub(before);
        let is_left = ask.least > 0 && more < unsigned(ask.wanted);
        let again_ms = if is_left { now_ms + AGAIN_MS } else { 0 };
        if is_doubt {
            told.doubt_again_ms = again_ms;
        } else {
            told.again_ms = again_ms;
        }
        if more > 0 {
            // Who waited may wait for another limit too before he takes it.
            told.moved_ms = now_ms;
        }
        if ask.least > 0 && more > 0 {
            told.taken_by_ms = now_ms + AGAIN_MS;
        }
        if room <= 0 || ask.wanted > 0 && more == 0 && !is_doubt {
            self.low.store(0, Relaxed);
        } else if more > 0 {
            let (used, held) = self.standing();
            self.low.store((held - used) / 4, Relaxed);
        }
        told.held = net;
        self.is_scarce.store(room <= most / SCARCE, Relaxed);
        self.is_left.store(ask.used + answer.elsewhere < most, Relaxed);
        self.elsewhere.store(unsigned(answer.elsewhere), Relaxed);
        self.answered_ms.store(now_ms, Release);
    }

    /// Nobody answered.
    pub fn unanswered(&self, ask: &Ask) {
        self.told().is_asked = false;
        self.forget();
        // Who doubts asks again.
        let is_doubt = ask.most < signed(self.most.load(Relaxed));
        if ask.least > 0 && !is_doubt {
            let (wanted, least) = (unsigned(ask.wanted), unsigned(ask.least));
            let _ = self.least.compare_exchange(0, least, AcqRel, Acquire);
            let more = |known: u64| Some(known.saturating_add(wanted));
            let _ = self.wanted.fetch_update(AcqRel, Acquire, more);
        }
    }

    /// Begins a window of which nothing is given yet. With `carries` what was used counts in it too: says how much.
    fn begin(&self, carries: bool) -> u64 {
        let returned = self.returned.load(Acquire);
        let mut word = self.taken.load(Acquire);
        loop {
            let (window, total) = unpack(word);
            let next = window.wrapping_add(1);
            // Nobody takes from here on: the windows differ.
            self.given.store(pack(next, 0), Release);
            let carried = if carries { total.saturating_sub(returned) } else { 0 };
            match self.taken.compare_exchange_weak(word, pack(next, carried), AcqRel, Acquire) {
                Ok(_) => {
                    self.returned.store(0, Release);
                    if carries && unpack(self.borrowed.load(Acquire)).0 == window {
                        let carry = |word| Some(pack(next, unpack(word).1));
                        let _ = self.borrowed.fetch_update(AcqRel, Acquire, carry);
                    }
                    return carried;
                }
                Err(seen) => word = seen,
            }
        }
    }
}

/// Whether the window was still open.
fn correct(word_of: &AtomicU64, window: u16, taken: u64, actual: u64) -> bool {
    let mut word = word_of.load(Acquire);
    while unpack(word).0 == window {
        let total = unpack(word).1.saturating_sub(taken).saturating_add(actual);
        match word_of.compare_exchange_weak(word, pack(window, total), AcqRel, Acquire) {
            Ok(_) => return true,
            Err(seen) => word = seen,
        }
    }
    false
}

fn leave(word_of: &AtomicU64) {
    let less = |word| Some(pack(unpack(word).0, unpack(word).1.saturating_sub(1)));
    let _ = word_of.fetch_update(AcqRel, Acquire, less);
}

impl Told {
    /// Notices how fast it is used. `used`: also in windows that have passed.
    fn look(&mut self, used: u64, now_ms: u64) {
        if used != self.moved {
            (self.moved, self.moved_ms) = (used, now_ms);
        }
        let since_ms = now_ms.saturating_sub(self.burn_since_ms);
        let more = used.saturating_sub(self.burn_from);
        if since_ms < BURN_MS {
            self.burn = self.burn.max(more);
            return;
        }
        self.burn = (more.saturating_mul(1_000) / since_ms).max(self.burn / 2);
        (self.burn_from, self.burn_since_ms) = (used, now_ms);
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod way;
