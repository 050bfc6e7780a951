//! When which proxy is asked what it runs. Pure: time is an argument.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// After a publication: the first question, and the longest wait between two while a proxy is behind.
const FIRST: Duration = Duration::from_millis(50);
const BEHIND: Duration = Duration::from_secs(1);

/// A proxy that cannot be reached; another one of its gateway may well be.
const UNREACHABLE: Duration = Duration::from_secs(5);

/// A proxy that runs what it should.
const SETTLED: Duration = Duration::from_secs(30);

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Current,
    Behind,
    None,
}

#[derive(Debug)]
struct Turn {
    next: Instant,
    wait: Duration,
    /// It is being asked, and was to be asked again meanwhile.
    asked: Option<bool>,
}

/// The turns of all proxies, by a key of the caller's.
#[derive(Debug)]
pub struct Pace<K>(HashMap<K, Turn>);

impl<K> Default for Pace<K> {
    fn default() -> Pace<K> {
        Pace(HashMap::new())
    }
}

impl<K: Clone + Eq + std::hash::Hash> Pace<K> {
    /// Asks at once: it is new, or became ready.
    pub fn now(&mut self, proxy: K, now: Instant) {
        self.soon(proxy, now, Duration::ZERO);
    }

    /// There is something new for it to run.
    pub fn published(&mut self, proxy: K, now: Instant) {
        self.soon(proxy, now, FIRST);
    }

    fn soon(&mut self, proxy: K, now: Instant, delay: Duration) {
        let turn = self.0.entry(proxy).or_insert(Turn { next: now + delay, wait: FIRST, asked: None });
        turn.wait = FIRST;
        match &mut turn.asked {
            Some(again) => *again = true,
            None => turn.next = turn.next.min(now + delay),
        }
    }

    /// Only these are left.
    pub fn retain(&mut self, is_there: impl Fn(&K) -> bool) {
        self.0.retain(|proxy, _| is_there(proxy));
    }

    /// Whom to ask now, `room` at most. Each waits for its [`Pace::answered`] then.
    pub fn take(&mut self, now: Instant, room: usize) -> Vec<K> {
        let due = self.0.iter_mut().filter(|(_, turn)| turn.asked.is_none() && turn.next <= now);
        let mut due: Vec<(&K, &mut Turn)> = due.collect();
        due.sort_by_key(|(_, turn)| turn.next);
        due.truncate(room);
        let ask = |(proxy, turn): (&K, &mut Turn)| {
            turn.asked = Some(false);
            proxy.clone()
        };
        due.into_iter().map(ask).collect()
    }

    pub fn answered(&mut self, proxy: &K, answer: Answer, now: Instant) {
        let Some(turn) = self.0.get_mut(proxy) else { return };
        let again = turn.asked.take().unwrap_or_default();
        let (wait, longest) = match answer {
            _ if again => (FIRST, BEHIND),
            Answer::Current => (SETTLED, SETTLED),
            Answer::Behind => (turn.wait, BEHIND),
            Answer::None => (turn.wait, UNREACHABLE),
        };
        turn.next = now + wait;
        turn.wait = (wait * 3 / 2).min(longest);
    }

    /// When [`Pace::take`] has something next. `None`: when something else happens first.
    pub fn next(&self) -> Option<Instant> {
        self.0.values().filter(|turn| turn.asked.is_none()).map(|turn| turn.next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds from the first question to each further one, all answered with `answer`.
    fn times(answer: Answer, count: usize) -> Vec<u128> {
        let begun = Instant::now();
        let mut pace = Pace::default();
        pace.now("a", begun);
        let mut times = Vec::new();
        for _ in 0..count {
            let now = pace.next().expect("it has a turn");
            assert_eq!(pace.take(now, 9), ["a"]);
            assert_eq!(pace.next(), None, "it is being asked");
            pace.answered(&"a", answer, now);
            times.push((now - begun).as_millis());
        }
        times
    }

    #[test]
    fn a_proxy_that_is_behind_is_asked_soon_and_then_each_second() {
        assert_eq!(times(Answer::Behind, 5), [0, 50, 125, 237, 406]);
        let times = times(Answer::Behind, 20);
        assert_eq!(times[19] - times[18], 1_000);
    }

    #[test]
    fn one_that_runs_it_is_asked_twice_a_minute_and_one_that_is_away_each_five_seconds() {
        assert_eq!(times(Answer::Current, 3), [0, 30_000, 60_000]);
        let away = times(Answer::None, 30);
        assert_eq!(away[29] - away[28], 5_000);
    }

    #[test]
    fn a_publication_is_asked_about_after_50_ms_even_when_it_comes_during_a_question() {
        let begun = Instant::now();
        let mut pace = Pace::default();
        pace.now("a", begun);
        pace.take(begun, 9);
        pace.answered(&"a", Answer::Current, begun);
        pace.published("a", begun);
        assert_eq!(pace.next(), Some(begun + FIRST));
        pace.take(begun + FIRST, 9);
        pace.published("a", begun + FIRST);
        pace.answered(&"a", Answer::Current, begun + FIRST);
        assert_eq!(pace.next(), Some(begun + FIRST * 2), "what it answered may be older than the publication");
    }

    #[test]
    fn room_is_kept_and_the_longest_waiting_goes_first() {
        let begun = Instant::now();
        let mut pace = Pace::default();
        for (proxy, delay) in [("c", 2), ("a", 0), ("b", 1)] {
            pace.now(proxy, begun + Duration::from_millis(delay));
        }
        let later = begun + Duration::from_secs(1);
        assert_eq!(pace.take(later, 2), ["a", "b"]);
        pace.retain(|proxy| *proxy != "c");
        assert_eq!(pace.take(later, 2), [""; 0]);
    }
}
