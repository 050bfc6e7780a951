//! Which model deployment is probed when. Pure: time is an argument.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use tokio::time::Instant;

use crate::facts::Named;

/// Between the beginnings of two probes, whosever they are.
pub const PACE: Duration = Duration::from_millis(200);

/// Longest wait while probes of a deployment fail; longer only where its interval is.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

/// Shortest interval, whatever the spec says.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(5);

/// No proxy could say anything, or the one asked does not know the deployment yet.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const LONGEST_ASK_AGAIN: Duration = Duration::from_secs(30);

/// What a deployment wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub interval: Duration,
    /// Another one is probed at once: something about the deployment or its credential changed.
    pub version: u64,
}

/// What came of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    Good,
    Bad,
    /// Nothing that says anything about the deployment.
    Nothing,
}

#[derive(Debug)]
struct Turn {
    wanted: Wanted,
    next: Option<Instant>,
    failures: u32,
    silences: u32,
}

/// All deployments that are probed.
#[derive(Debug, Default)]
pub struct Schedule {
    turns: HashMap<Named, Turn>,
    due: BTreeSet<(Instant, Named)>,
}

impl Schedule {
    /// These are the deployments now.
    pub fn set(&mut self, all: BTreeMap<Named, Wanted>, now: Instant) {
        let gone: Vec<Named> = self.turns.keys().filter(|name| !all.contains_key(*name)).cloned().collect();
        for name in gone {
            self.put(&name, None);
            self.turns.remove(&name);
        }
        for (name, wanted) in all {
            match self.turns.get_mut(&name) {
                None => {
                    self.turns.insert(name.clone(), Turn { wanted, next: None, failures: 0, silences: 0 });
                    self.put(&name, Some(now));
                }
                Some(turn) if turn.wanted.version != wanted.version => {
                    *turn = Turn { wanted, next: turn.next, failures: 0, silences: 0 };
                    self.put(&name, Some(now));
                }
                Some(turn) => turn.wanted = wanted,
            }
        }
    }

    /// The one that waited longest, of those that are due.
    pub fn take(&mut self, now: Instant) -> Option<(Named, u64)> {
        let name = self.due.iter().next().filter(|(at, _)| *at <= now).map(|(_, name)| name.clone())?;
        self.put(&name, None);
        let version = self.turns.get(&name)?.wanted.version;
        Some((name, version))
    }

    /// A probe of this version is over.
    pub fn done(&mut self, name: &Named, version: u64, came: Came, now: Instant) {
        let Some(turn) = self.turns.get_mut(name) else { return };
        // It was changed meanwhile, and is due already.
        if turn.wanted.version != version || turn.next.is_some() {
            return;
        }
        let interval = turn.wanted.interval.max(SHORTEST_INTERVAL);
        let delay = match came {
            Came::Good => {
                (turn.failures, turn.silences) = (0, 0);
                spread(name, interval)
            }
            Came::Bad => {
                turn.silences = 0;
                turn.failures += 1;
                let longer = interval.saturating_mul(1 << (turn.failures - 1).min(16));
                spread(name, longer.min(LONGEST_BACKOFF.max(interval)))
            }
            Came::Nothing => {
                let delay = ASK_AGAIN.saturating_mul(1 << turn.silences.min(16)).min(LONGEST_ASK_AGAIN);
                turn.silences += 1;
                delay
            }
        };
        self.put(name, Some(now + delay));
    }

    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    fn put(&mut self, name: &Named, next: Option<Instant>) {
        let Some(turn) = self.turns.get_mut(name) else { return };
        if let Some(before) = std::mem::replace(&mut turn.next, next) {
            self.due.remove(&(before, name.clone()));
        }
        self.due.extend(next.map(|at| (at, name.clone())));
    }
}

/// A tenth less or more, another one for each deployment: those that began together do not stay together.
fn spread(name: &Named, delay: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let share = (hasher.finish() % 1_000) as f64 / 1_000.0;
    delay.mul_f64(0.9 + share / 5.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Named {
        ("team-a".to_owned(), name.to_owned())
    }

    fn all(names: &[&str], version: u64) -> BTreeMap<Named, Wanted> {
        let wanted = Wanted { interval: Duration::from_secs(30), version };
        names.iter().map(|name| (named(name), wanted)).collect()
    }

    /// Seconds from now to the next probe, for a tenth around `about`.
    fn assert_about(schedule: &Schedule, now: Instant, about: f64) {
        let wait = (schedule.next().expect("something is due") - now).as_secs_f64();
        assert!((about * 0.899..=about * 1.101).contains(&wait), "{wait} is not about {about}");
    }

    #[test]
    fn a_new_deployment_is_probed_at_once_and_then_at_its_interval() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.set(all(&["a"], 1), now);
        assert_eq!(schedule.take(now), Some((named("a"), 1)));
        assert_eq!((schedule.take(now), schedule.next()), (None, None), "it is being probed");
        schedule.done(&named("a"), 1, Came::Good, now);
        assert_about(&schedule, now, 30.0);
        schedule.set(all(&["a"], 1), now);
        assert_about(&schedule, now, 30.0);
    }

    #[test]
    fn a_change_is_probed_at_once_even_during_a_probe() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.set(all(&["a"], 1), now);
        schedule.take(now);
        schedule.set(all(&["a"], 2), now);
        assert_eq!(schedule.take(now), Some((named("a"), 2)));
        schedule.done(&named("a"), 1, Came::Bad, now);
        assert_eq!(schedule.next(), None, "what came is of a version that is not wanted any more");
        schedule.done(&named("a"), 2, Came::Good, now);
        assert_about(&schedule, now, 30.0);
    }

    #[test]
    fn failing_deployments_are_probed_less_and_less_and_recovered_ones_as_before() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.set(all(&["a"], 1), now);
        for about in [30.0, 60.0, 120.0, 240.0, 300.0, 300.0] {
            let at = schedule.next().expect("it is probed again");
            schedule.take(at);
            schedule.done(&named("a"), 1, Came::Bad, at);
            assert_about(&schedule, at, about);
        }
        let at = schedule.next().expect("it is probed again");
        schedule.take(at);
        schedule.done(&named("a"), 1, Came::Good, at);
        assert_about(&schedule, at, 30.0);
    }

    #[test]
    fn a_proxy_that_cannot_say_is_asked_again_soon() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.set(all(&["a"], 1), now);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let at = schedule.next().expect("it is probed again");
            schedule.take(at);
            schedule.done(&named("a"), 1, Came::Nothing, at);
            waits.push((schedule.next().expect("it is probed again") - at).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn those_that_began_together_drift_apart_and_gone_ones_are_not_probed() {
        let now = Instant::now();
        let names: Vec<String> = (0..50).map(|at| at.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut schedule = Schedule::default();
        schedule.set(all(&names, 1), now);
        while let Some((name, version)) = schedule.take(now) {
            schedule.done(&name, version, Came::Good, now);
        }
        let times: BTreeSet<Instant> = schedule.due.iter().map(|(at, _)| *at).collect();
        assert!(times.len() > 40, "{}", times.len());
        schedule.set(BTreeMap::new(), now);
        assert_eq!(schedule.next(), None);
    }
}
