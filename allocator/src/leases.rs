//! Leases of rate limits from one counter that all replicas share. A replica takes a part of the window that is open ahead
//! of use, and lets calls through within it; it asks for more before that is used up, for exactly what is needed near the
//! limit, and gives back what it does not use. This is the counter; what replicas do is in the data plane. Pure; the script
//! in Redis does the same, and is held to it by a test.
//!
//! What keeps a limit: a replica says what it holds, which it lowers before it says so, and the counter gives no more than
//! is left of the limit. So at any moment what replicas may use of a window adds up to the limit at most, whatever message
//! or answer is lost, doubled or late. No clocks are compared: a replica is told how long the window still lasts, counted
//! from before it asked, so that it never uses what it holds after the window has ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::size::{grant, is_ample};

/// Length of a window.
pub const WINDOW_MS: i64 = 60_000;

/// Places of calls under way are held for so long after the last word; those of a replica that died are free then.
pub const PLACES_MS: i64 = 15_000;

/// Whoever holds what it does not use gives it back sooner; one that is silent for so long has died. What it holds counts
/// as used.
pub const SILENT_MS: i64 = 3_000;

/// Somebody waits: for so long others give back what they do not use, and nobody is given more than is needed.
pub const TIGHT_MS: i64 = 500;

/// Numbers that the script counts exactly.
pub const MOST_COUNTED: i64 = 9_000_000_000_000_000;

/// What a replica says of one limit, and what it wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The same in all replicas.
    pub limit: Arc<str>,
    /// Whoever counts: never the same again after it forgot what it holds.
    pub account: Arc<str>,
    /// It limits calls under way, and has no windows.
    pub at_once: bool,
    /// The limit; or less, where more is wanted only if all that is held stays below that.
    pub most: i64,
    /// Grows with each word of the account: an older one that comes late is nothing new.
    pub seq: i64,
    /// Of which window it holds something; 0: of none.
    pub window: i64,
    /// By its own clock that window goes on.
    pub is_open: bool,
    /// How long ago that window began.
    pub age_ms: i64,
    /// What it may use of it, with what it has used.
    pub held: i64,
    /// What it let through without asking, while nobody answered, and which still counts.
    pub beside: i64,
    /// Of both.
    pub used: i64,
    /// How much more is wanted. 0: nothing.
    pub wanted: i64,
    /// Less than this is of no use to those who wait. 0: nobody waits.
    pub least: i64,
    /// Use of about a second.
    pub burn: i64,
}

/// What the counter says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The one that is open now.
    pub window: i64,
    /// What the account may use of it, with what it has used, and with what it let through without asking.
    pub held: i64,
    /// What nobody holds.
    pub room: i64,
    /// Used by others, as they said last; of those that are silent, what they hold.
    pub elsewhere: i64,
    /// Held by others and not used yet.
    pub idle: i64,
    pub ends_in_ms: i64,
    /// Somebody was left waiting by this answer, and others are asked to give back what they do not use.
    pub recalls: bool,
}

/// One limit.
#[derive(Clone, Debug, Default)]
pub struct Counter {
    /// Of the window, by the counter's clock.
    began_ms: Option<i64>,
    tight_until_ms: i64,
    accounts: BTreeMap<Arc<str>, Account>,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    seq: i64,
    held: i64,
    used: i64,
    /// When it spoke last.
    seen_ms: i64,
}

impl Account {
    /// What of it is used at least.
    fn used(&self, now_ms: i64) -> i64 {
        if now_ms < self.seen_ms + SILENT_MS { self.used } else { self.held.max(self.used) }
    }
}

/// The only window of places.
const FOREVER: i64 = 1;

impl Counter {
    /// Takes what a replica says, and gives what it wants as far as there is room. `now_ms`: the counter's clock.
    pub fn ask(&mut self, ask: &Ask, now_ms: i64) -> Answer {
        let window = if ask.at_once {
            self.accounts.retain(|_, account| now_ms < account.seen_ms + PLACES_MS);
            FOREVER
        } else {
            self.window(ask, now_ms)
        };
        let ends_in_ms = if ask.at_once { PLACES_MS } else { window + WINDOW_MS - now_ms };
        let is_new = self.accounts.get(&ask.account).is_none_or(|account| account.seq < ask.seq);
        if is_new {
            let still = ask.at_once || ask.window == window || ask.is_open;
            let (held, used) = if still { (ask.held + ask.beside, ask.used) } else { (ask.beside, ask.beside) };
            let account = Account { seq: ask.seq, held, used, seen_ms: now_ms };
            self.accounts.insert(ask.account.clone(), account);
        }
        let others = || self.accounts.iter().filter(|(account, _)| **account != ask.account).map(|(_, other)| other);
        let elsewhere: i64 = others().map(|other| other.used(now_ms)).sum();
        let idle: i64 = others().map(|other| (other.held - other.used(now_ms)).max(0)).sum();
        let standing = |account: &Account| (account.held, (account.held - account.used).max(0));
        let (own, unused) = self.accounts.get(&ask.account).map_or((0, 0), standing);
        let room = ask.most - others().map(|other| other.held).sum::<i64>() - own;
        if is_ample(room, ask.most) {
            // Whoever waits gets it, and more.
            self.tight_until_ms = 0;
        }
        let is_tight = self.tight_until_ms > now_ms;
        let given = if is_new { given(ask, (room, unused), is_tight, self.accounts.len()) } else { 0 };
        let recalls = is_new && ask.least > 0 && given < ask.wanted && idle > 0;
        if recalls {
            self.tight_until_ms = now_ms + TIGHT_MS;
        }
        if let Some(account) = self.accounts.get_mut(&ask.account) {
            account.held += given;
        }
        Answer { window, held: own + given, room: room - given, elsewhere, idle, ends_in_ms, recalls }
    }

    /// The window that is open, or begins with this ask. Its name is when it began.
    fn window(&mut self, ask: &Ask, now_ms: i64) -> i64 {
        // One that begins more than its length from now was counted by another clock.
        let goes_on = |began: &i64| now_ms < began + WINDOW_MS && *began <= now_ms + WINDOW_MS;
        if let Some(began_ms) = self.began_ms.filter(goes_on) {
            return began_ms;
        }
        // One that goes on elsewhere was lost here.
        let age_ms = if ask.is_open { ask.age_ms.clamp(0, WINDOW_MS - 1) } else { 0 };
        let began_ms = now_ms - age_ms;
        *self = Counter { began_ms: Some(began_ms), ..Counter::default() };
        began_ms
    }
}

/// `unused`: of what the account holds. Who waits may ask once more although enough for all of them was on its way.
fn given(ask: &Ask, (room, unused): (i64, i64), is_tight: bool, replicas: usize) -> i64 {
    let given = match is_tight {
        // Nothing ahead of use.
        true if ask.least == 0 => 0,
        true => ask.wanted.min(room).max(0),
        false => grant(ask.most, room, ask.wanted, ask.burn, replicas, unused),
    };
    if given < ask.least { 0 } else { given }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(account: &str, seq: i64) -> Ask {
        Ask { limit: "key a/b requests".into(), account: account.into(), most: 100, seq, ..Ask::default() }
    }

    fn wants(account: &str, seq: i64, wanted: i64) -> Ask {
        Ask { wanted, least: wanted, ..ask(account, seq) }
    }

    #[test]
    fn much_is_given_while_there_is_much_and_exactly_what_is_needed_at_the_end() {
        let mut counter = Counter::default();
        let first = counter.ask(&wants("a", 1, 1), 1_000);
        assert_eq!((first.window, first.held, first.room, first.ends_in_ms), (1_000, 50, 50, WINDOW_MS));
        let second = counter.ask(&wants("b", 1, 1), 2_000);
        assert_eq!((second.window, second.held, second.ends_in_ms), (1_000, 12, 59_000));
        let held = Ask { window: 1_000, held: 12, used: 12, ..wants("b", 2, 30) };
        assert_eq!(counter.ask(&held, 2_000).held, 42);
        // Not all that is left is of use.
        let more = Ask { window: 1_000, held: 42, used: 42, ..wants("b", 3, 9) };
        let short = counter.ask(&more, 2_000);
        assert_eq!((short.held, short.room, short.idle, short.recalls), (42, 8, 50, true));
        // Who has something idle gives it back, and it is there for who waits, and for nobody ahead of use.
        let back = Ask { window: 1_000, held: 39, used: 39, seq: 2, ..ask("a", 2) };
        assert_eq!(counter.ask(&back, 2_000).room, 19);
        let ahead = Ask { window: 1_000, held: 39, used: 39, wanted: 1, ..ask("a", 3) };
        assert_eq!(counter.ask(&ahead, 2_000).held, 39);
        assert_eq!(counter.ask(&Ask { seq: 4, ..more }, 2_000).held, 51);
        // Where much came back nobody waits any more.
        let all = Ask { window: 1_000, seq: 4, ..ask("a", 4) };
        assert_eq!(counter.ask(&all, 2_000).room, 49);
        let more = Ask { window: 1_000, held: 51, used: 51, ..wants("b", 5, 1) };
        assert_eq!(counter.ask(&more, 2_000).held, 51 + 49 / 4);
    }

    #[test]
    fn who_asks_again_before_it_used_anything_does_not_hold_more_than_half() {
        let mut counter = Counter::default();
        assert_eq!(counter.ask(&wants("a", 1, 1), 1_000).held, 50);
        let again = Ask { window: 1_000, held: 50, used: 2, ..wants("a", 2, 1) };
        assert_eq!(counter.ask(&again, 1_000).held, 51);
        // What it uses is made up for.
        let later = Ask { window: 1_000, held: 51, used: 41, ..wants("a", 3, 1) };
        assert_eq!(counter.ask(&later, 1_000).held, 51 + (49 + 10) / 2 - 10);
        // Where little is left the same goes for what it uses in a second.
        let last = Ask { window: 1_000, held: 90, used: 80, burn: 8, ..wants("a", 4, 1) };
        assert_eq!(counter.ask(&last, 1_000).held, 91);
    }

    #[test]
    fn a_window_ends_and_nothing_of_it_counts_in_the_next() {
        let mut counter = Counter::default();
        counter.ask(&wants("a", 1, 100), 1_000);
        let later = Ask { window: 1_000, held: 100, used: 100, ..wants("a", 2, 1) };
        let same = counter.ask(&later, 60_999);
        assert_eq!((same.held, same.room, same.idle, same.recalls, same.ends_in_ms), (100, 0, 0, false, 1));
        let next = counter.ask(&Ask { seq: 3, ..later }, 61_000);
        assert_eq!((next.window, next.held), (61_000, 50));
    }

    #[test]
    fn what_was_forgotten_is_told_again_with_its_window() {
        let mut counter = Counter::default();
        let told = Ask { window: 777, is_open: true, age_ms: 20_000, held: 60, used: 50, ..ask("a", 9) };
        let answer = counter.ask(&told, 100_000);
        assert_eq!((answer.window, answer.held, answer.room, answer.ends_in_ms), (80_000, 60, 40, 40_000));
        // One whose window is over by its own clock has nothing in this one; what it let through alone it has.
        let over = Ask { window: 778, held: 60, beside: 7, used: 57, ..ask("b", 4) };
        assert_eq!(counter.ask(&over, 100_000).held, 7);
        assert_eq!(counter.ask(&ask("c", 1), 100_000).elsewhere, 57);
    }

    #[test]
    fn a_word_that_comes_late_changes_nothing() {
        let mut counter = Counter::default();
        let old = wants("a", 1, 10);
        counter.ask(&old, 1_000);
        let back = Ask { window: 1_000, ..ask("a", 2) };
        assert_eq!(counter.ask(&back, 1_000).room, 100);
        let late = counter.ask(&old, 1_000);
        assert_eq!((late.held, late.room), (0, 100));
    }

    #[test]
    fn places_are_free_when_their_replica_is_silent() {
        let mut counter = Counter::default();
        let places = |account: &str, seq| Ask { at_once: true, most: 4, ..wants(account, seq, 4) };
        assert_eq!(counter.ask(&places("a", 1), 0).held, 4);
        assert_eq!(counter.ask(&places("b", 1), PLACES_MS - 1).held, 0);
        assert_eq!(counter.ask(&places("b", 2), PLACES_MS).held, 4);
        // Who comes back has what it says it has.
        let back = Ask { held: 3, used: 3, wanted: 0, least: 0, ..places("a", 2) };
        let answer = counter.ask(&back, PLACES_MS);
        assert_eq!((answer.window, answer.held, answer.room), (FOREVER, 3, -3));
    }

    #[test]
    fn nobody_waits_for_what_a_process_held_that_died() {
        let mut counter = Counter::default();
        counter.ask(&wants("a", 1, 60), 0);
        let waits = |counter: &mut Counter, seq, now_ms| {
            let answer = counter.ask(&wants("b", seq, 50), now_ms);
            (answer.elsewhere, answer.idle, answer.recalls)
        };
        assert_eq!(waits(&mut counter, 1, SILENT_MS - 1), (0, 60, true));
        assert_eq!(waits(&mut counter, 2, SILENT_MS), (60, 0, false));
    }

    #[test]
    fn a_clock_that_was_set_back_far_begins_a_window() {
        let mut counter = Counter::default();
        counter.ask(&wants("a", 1, 100), 10_000_000);
        assert_eq!(counter.ask(&ask("b", 1), 9_999_000).window, 10_000_000, "a little: it goes on");
        assert_eq!(counter.ask(&ask("b", 2), 9_000_000).window, 9_000_000);
    }
}
