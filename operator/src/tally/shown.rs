//! Which totals are worth a look at the statuses: a status is a write to the API server, and those of a busy key move with
//! every call. Shown is what begins, what moved by a tenth, what has come to rest, and each five minutes the others; so
//! many a second for a gateway, longest waiting first. Pure: time is an argument.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tollgate_allocator::tally::{Of, Totals};

/// After so long without a change it is taken for the last one. More than the pause between two questions.
const REST: Duration = Duration::from_secs(3);

/// What moves all the time is shown this often.
const MOVING: Duration = Duration::from_secs(300);

/// Of all statuses only so many figures are written in a second (`status::queue`).
const PER_SECOND: usize = 20;

/// Namespace and name of one thing.
pub type Thing = (Of, String);

/// What waits to be shown, and what was.
#[derive(Debug, Default)]
pub struct Shown {
    waiting: HashMap<Thing, Change>,
    shown: HashMap<Thing, (Totals, Instant)>,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    since: Instant,
    last: Instant,
}

impl Shown {
    pub fn changed(&mut self, thing: Thing, now: Instant) {
        self.waiting.entry(thing).or_insert(Change { since: now, last: now }).last = now;
    }

    /// What to show in this second. `totals`: as they are now.
    pub fn take(&mut self, now: Instant, totals: impl Fn(&Thing) -> Totals) -> Vec<(Thing, Totals)> {
        let is_due = |(thing, change): &(&Thing, &Change)| {
            let Some((shown, at)) = self.shown.get(*thing) else { return true };
            now.saturating_duration_since(change.last) >= REST
                || now.saturating_duration_since(*at) >= MOVING
                || has_moved(shown, &totals(thing))
        };
        let mut due: Vec<(&Thing, &Change)> = self.waiting.iter().filter(is_due).collect();
        due.sort_by_key(|(_, change)| change.since);
        let due: Vec<Thing> = due.into_iter().take(PER_SECOND).map(|(thing, _)| thing.clone()).collect();
        let mut taken = Vec::with_capacity(due.len());
        for thing in due {
            let totals = totals(&thing);
            self.waiting.remove(&thing);
            self.shown.insert(thing.clone(), (totals, now));
            taken.push((thing, totals));
        }
        // What rests needs no memory: its next change is a beginning.
        self.shown
            .retain(|thing, (_, at)| self.waiting.contains_key(thing) || now.saturating_duration_since(*at) < MOVING);
        taken
    }
}

fn has_moved(shown: &Totals, now: &Totals) -> bool {
    let pairs = [(shown.requests, now.requests), (shown.tokens, now.tokens), (shown.nano_usd, now.nano_usd)];
    shown.month != now.month || pairs.iter().any(|(shown, now)| now.abs_diff(*shown) > shown.unsigned_abs() / 10)
}

#[cfg(test)]
mod tests {
    use tollgate_allocator::tally::Month;

    use super::*;

    fn thing(number: usize) -> Thing {
        (Of::Key, format!("n/{number}"))
    }

    fn totals(requests: i64) -> Totals {
        Totals { month: Month(202_611), requests, tokens: 0, nano_usd: 0 }
    }

    #[test]
    fn a_beginning_a_tenth_and_a_rest_are_shown() {
        let begun = Instant::now();
        let mut shown = Shown::default();
        let mut at = |seconds: f64, changes: bool, requests: i64| {
            let now = begun + Duration::from_secs_f64(seconds);
            if changes {
                shown.changed(thing(1), now);
            }
            shown.take(now, |_| totals(requests)).first().map(|(_, totals)| totals.requests)
        };
        assert_eq!(at(0.0, true, 100), Some(100), "the first");
        assert_eq!(at(1.0, true, 110), None, "not a tenth more");
        assert_eq!(at(2.0, true, 111), Some(111));
        assert_eq!(at(3.0, true, 112), None);
        assert_eq!(at(5.9, false, 112), None);
        assert_eq!(at(6.0, false, 112), Some(112), "it rests");
        assert_eq!(at(9.0, false, 112), None, "and is shown");
        for second in 10..306 {
            assert_eq!(at(f64::from(second), true, 113), None);
        }
        assert_eq!(at(306.0, true, 114), Some(114), "it moves on and on");
    }

    #[test]
    fn of_a_hundred_thousand_that_all_move_twenty_are_shown_each_second_each_in_its_turn() {
        let begun = Instant::now();
        let mut shown = Shown::default();
        let keys: Vec<Thing> = (0..100_000).map(thing).collect();
        let mut names = Vec::new();
        for second in 1..=6 {
            let now = begun + Duration::from_secs(second);
            for (number, key) in keys.iter().enumerate() {
                shown.changed(key.clone(), now + Duration::from_nanos(number as u64));
            }
            let taken = shown.take(now, |_| totals(second as i64));
            assert_eq!(taken.len(), PER_SECOND);
            names.extend(taken.into_iter().map(|(thing, _)| thing));
        }
        assert_eq!(names, keys[..6 * PER_SECOND]);
    }

    #[test]
    fn what_rests_is_not_remembered() {
        let begun = Instant::now();
        let mut shown = Shown::default();
        shown.changed(thing(1), begun);
        assert_eq!(shown.take(begun, |_| totals(1)).len(), 1);
        shown.take(begun + MOVING * 2, |_| totals(1));
        assert!(shown.shown.is_empty() && shown.waiting.is_empty());
    }
}
