//! Which key is looked at when. Pure: time is an argument, in Unix seconds as rotation has it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::facts::Named;

/// First and longest wait after a failure, in seconds.
const FIRST_RETRY: i64 = 1;
const LAST_RETRY: i64 = 300;

/// What waits for somebody: a Secret in the way, a binding. In seconds.
const BLOCKED: i64 = 10;

/// All keys that are generated.
#[derive(Debug, Default)]
pub struct Rounds {
    /// When each key is due.
    keys: BTreeMap<Named, Option<i64>>,
    due: BTreeSet<(i64, Named)>,
    /// Keys that are being looked at, and whether they changed meanwhile.
    busy: HashMap<Named, bool>,
    failures: HashMap<Named, u32>,
    /// Where the slow round is.
    last: Option<Named>,
}

impl Rounds {
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key is due at `at`, whatever was said before.
    pub fn put(&mut self, key: Named, at: Option<i64>) {
        if let Some(changed) = self.busy.get_mut(&key) {
            *changed = true;
        }
        if let Some(Some(before)) = self.keys.insert(key.clone(), at) {
            self.due.remove(&(before, key.clone()));
        }
        if let Some(at) = at {
            self.due.insert((at, key));
        }
    }

    /// Something happened to the key's Secret: it is due now, if it is there.
    pub fn touch(&mut self, key: Named, now: i64) {
        if self.keys.contains_key(&key) {
            self.put(key, Some(now));
        }
    }

    pub fn remove(&mut self, key: &Named) {
        if let Some(Some(at)) = self.keys.remove(key) {
            self.due.remove(&(at, key.clone()));
        }
        self.failures.remove(key);
    }

    /// Only these are left.
    pub fn retain(&mut self, is_there: impl Fn(&Named) -> bool) {
        let gone: Vec<Named> = self.keys.keys().filter(|key| !is_there(key)).cloned().collect();
        gone.iter().for_each(|key| self.remove(key));
    }

    /// A key that is due and not being looked at.
    pub fn take(&mut self, now: i64) -> Option<Named> {
        let due = self.due.iter().take_while(|(at, _)| *at <= now);
        let key = due.map(|(_, key)| key).find(|key| !self.busy.contains_key(*key))?.clone();
        self.begin(&key);
        Some(key)
    }

    /// The next key of the slow round, which finds what no watch told.
    pub fn take_next(&mut self) -> Option<Named> {
        use std::ops::Bound::{Excluded, Unbounded};
        let after = self.last.clone();
        let after = after.as_ref().map_or(Unbounded, Excluded);
        let next = self.keys.range::<Named, _>((after, Unbounded)).next().map(|(key, _)| key.clone());
        self.last = next.clone();
        let key = next?;
        if self.busy.contains_key(&key) {
            return None;
        }
        self.begin(&key);
        Some(key)
    }

    fn begin(&mut self, key: &Named) {
        self.put(key.clone(), None);
        self.busy.insert(key.clone(), false);
    }

    /// The look at the key is over; it is due at `next`. Says whether it changed meanwhile and is due at once.
    pub fn settled(&mut self, key: &Named, next: Option<i64>) {
        self.failures.remove(key);
        self.end(key, next);
    }

    pub fn blocked(&mut self, key: &Named, now: i64) {
        self.end(key, Some(now + BLOCKED));
    }

    pub fn failed(&mut self, key: &Named, now: i64) {
        let failures = self.failures.entry(key.clone()).or_default();
        let delay = (FIRST_RETRY << (*failures).min(16)).min(LAST_RETRY);
        *failures += 1;
        self.end(key, Some(now + delay));
    }

    fn end(&mut self, key: &Named, next: Option<i64>) {
        let changed = self.busy.remove(key).unwrap_or_default();
        // What was put meanwhile knows more; what is gone stays gone.
        if !changed && self.keys.contains_key(key) {
            self.put(key.clone(), next);
        }
    }

    /// When [`Rounds::take`] has something next.
    pub fn next(&self) -> Option<i64> {
        self.due.iter().find(|(_, key)| !self.busy.contains_key(key)).map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Named {
        ("n".to_owned(), name.to_owned())
    }

    #[test]
    fn due_keys_come_in_order_and_each_once() {
        let mut rounds = Rounds::default();
        rounds.put(key("b"), Some(20));
        rounds.put(key("a"), Some(10));
        rounds.put(key("c"), None);
        assert_eq!((rounds.next(), rounds.take(9)), (Some(10), None));
        assert_eq!([rounds.take(20), rounds.take(20), rounds.take(20)], [Some(key("a")), Some(key("b")), None]);
        rounds.settled(&key("a"), Some(90));
        assert_eq!(rounds.next(), Some(90));
    }

    #[test]
    fn a_key_that_changed_while_it_was_looked_at_is_looked_at_again() {
        let mut rounds = Rounds::default();
        rounds.put(key("a"), Some(1));
        rounds.take(1);
        rounds.put(key("a"), Some(2));
        assert_eq!(rounds.take(2), None, "one look at a time");
        rounds.settled(&key("a"), None);
        assert_eq!(rounds.take(2), Some(key("a")));
        rounds.remove(&key("a"));
        rounds.settled(&key("a"), Some(3));
        assert_eq!((rounds.len(), rounds.next()), (0, None), "it is gone");
    }

    #[test]
    fn a_touched_key_is_due_unless_it_is_gone() {
        let mut rounds = Rounds::default();
        rounds.put(key("a"), None);
        rounds.touch(key("a"), 5);
        rounds.touch(key("gone"), 5);
        assert_eq!([rounds.take(5), rounds.take(5)], [Some(key("a")), None]);
    }

    #[test]
    fn failures_wait_longer_each_time() {
        let mut rounds = Rounds::default();
        rounds.put(key("a"), Some(0));
        let mut waits = Vec::new();
        let mut now = 0;
        for _ in 0..11 {
            rounds.take(now).expect("it is due");
            rounds.failed(&key("a"), now);
            let next = rounds.next().expect("it is tried again");
            waits.push(next - now);
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn the_slow_round_meets_every_key() {
        let mut rounds = Rounds::default();
        ["a", "b", "c"].iter().for_each(|name| rounds.put(key(name), None));
        let mut met = Vec::new();
        for _ in 0..8 {
            let Some(next) = rounds.take_next() else { continue };
            met.push(next.1.clone());
            rounds.settled(&next, None);
        }
        assert_eq!(met, ["a", "b", "c", "a", "b", "c"]);
    }
}
