//! How patient a client is with a server: an answer has 25 ms; each try after one that was late has twice as long; after
//! a while without any the server counts as away, and tries are further apart.

use std::time::Duration;

use tokio::time::Instant;

use crate::connection::StoreError;

/// An answer has this long; each further try after one that was late twice as long.
const DEADLINE: Duration = Duration::from_millis(25);

const LONGEST_DEADLINE: Duration = Duration::from_secs(1);

/// Without an answer for so long, calls do not wait for one.
pub const AWAY: Duration = Duration::from_millis(250);

/// While there is none, tries are this far apart: first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// After so many tries another server may be there by the same name.
const MANY: u32 = 6;

/// What is known of failures.
#[derive(Debug, Default)]
pub struct Breaker(Option<Failing>);

/// Since when there was no answer.
#[derive(Debug)]
struct Failing {
    since: Instant,
    tries: u32,
    /// It was said in the log.
    said: bool,
}

/// What to do after a failure.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try again after this.
    Again(Duration),
    /// The server is away; try again after this. `first`: it was not before.
    Away { pause: Duration, first: bool },
}

impl Breaker {
    /// How long the next answer may take.
    pub fn deadline(&self) -> Duration {
        match &self.0 {
            None => DEADLINE,
            Some(failing) => (DEADLINE * 2u32.saturating_pow(failing.tries.min(10))).min(LONGEST_DEADLINE),
        }
    }

    /// Whether to connect anew after this failure.
    pub fn is_hopeless(&self, error: &StoreError) -> bool {
        !matches!(error, StoreError::Late(_)) || self.0.as_ref().is_some_and(|failing| failing.tries > MANY)
    }

    pub fn failed(&mut self, error: &StoreError) -> Verdict {
        let failing = self.0.get_or_insert_with(|| Failing { since: Instant::now(), tries: 0, said: false });
        failing.tries += 1;
        if failing.since.elapsed() < AWAY {
            let is_late = matches!(error, StoreError::Late(_));
            return Verdict::Again(if is_late { Duration::ZERO } else { FIRST_PAUSE });
        }
        let first = !std::mem::replace(&mut failing.said, true);
        let pause = (FIRST_PAUSE * 2u32.saturating_pow(failing.tries.min(10))).min(LONGEST_PAUSE);
        Verdict::Away { pause: pause.mul_f64(0.75 + chance() / 2.0), first }
    }

    /// Where it was away: for how long.
    pub fn answered(&mut self) -> Option<Duration> {
        let Failing { since, said, .. } = self.0.take()?;
        said.then(|| since.elapsed())
    }
}

/// From 0 to 1, so that not all proxies come back at once.
fn chance() -> f64 {
    use std::hash::{BuildHasher, Hasher};
    let bits = std::hash::RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
