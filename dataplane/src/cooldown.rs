//! Which deployments are benched. A deployment that failed too often in a window is passed over for a while; a refusal
//! that says "not now" or "not with this credential" benches at once where another deployment can serve instead
//! (LiteLLM RT-50 to RT-53). Pure but for the atomics: time is an argument.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tollgate_snapshot::model::Cooldown;

/// What one deployment did lately. Outlives snapshots.
#[derive(Debug, Default)]
pub struct Health {
    /// Milliseconds since the process began; 0: never benched.
    benched_until: AtomicU64,
    /// Start of the window of failures, and how many: upper 40 bits milliseconds, lower 24 bits the count.
    failures: AtomicU64,
}

const COUNT_BITS: u32 = 24;

impl Health {
    /// Milliseconds until the deployment is tried again; `None` when it is not benched.
    pub fn benched_for(&self, now_ms: u64) -> Option<u64> {
        let until = self.benched_until.load(Relaxed);
        (until > now_ms).then(|| until - now_ms)
    }

    /// Counts a failure. True when it benched the deployment.
    ///
    /// `at_once`: the provider said that trying again soon is of no use. `alone`: no other deployment could serve, so
    /// only repeated failures bench. `asked_ms`: the provider's own Retry-After.
    pub fn failed(&self, cooldown: &Cooldown, at_once: bool, alone: bool, asked_ms: Option<u64>, now_ms: u64) -> bool {
        let duration = match asked_ms {
            Some(asked) if asked <= 60_000 => cooldown.duration_ms.max(asked),
            _ => cooldown.duration_ms,
        };
        if cooldown.duration_ms == 0 {
            return false;
        }
        let count = self.count_failure(cooldown.window_ms, now_ms);
        if (alone || !at_once) && count < u64::from(cooldown.failures.max(1)) {
            return false;
        }
        self.failures.store(0, Relaxed);
        self.benched_until.fetch_max(now_ms + duration, Relaxed);
        true
    }

    fn count_failure(&self, window_ms: u64, now_ms: u64) -> u64 {
        let add = |word: u64| {
            let (start, count) = (word >> COUNT_BITS, word & ((1 << COUNT_BITS) - 1));
            let open = word != 0 && now_ms.saturating_sub(start) < window_ms;
            let (start, count) = if open { (start, count + 1) } else { (now_ms, 1) };
            Some((start << COUNT_BITS) | count)
        };
        let before = self.failures.fetch_update(Relaxed, Relaxed, add).unwrap_or_else(|word| word);
        add(before).map_or(1, |word| word & ((1 << COUNT_BITS) - 1))
    }

    /// A success closes the window.
    pub fn succeeded(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Cooldown = Cooldown { failures: 3, window_ms: 60_000, duration_ms: 5_000, even_alone: false };

    #[test]
    fn the_third_failure_in_a_window_benches() {
        let health = Health::default();
        assert!(!health.failed(&RULE, false, false, None, 1_000));
        assert!(!health.failed(&RULE, false, false, None, 2_000));
        assert!(health.failed(&RULE, false, false, None, 3_000));
        assert_eq!(health.benched_for(3_000), Some(5_000));
        assert_eq!(health.benched_for(8_000), None);
    }

    #[test]
    fn failures_far_apart_or_after_a_success_do_not_add_up() {
        let health = Health::default();
        for at in [1_000, 62_000, 123_000, 184_000] {
            assert!(!health.failed(&RULE, false, false, None, at));
        }
        health.succeeded();
        assert!(!health.failed(&RULE, false, false, None, 184_001));
        assert!(!health.failed(&RULE, false, false, None, 184_002));
    }

    #[test]
    fn a_refusal_benches_at_once_unless_nobody_else_could_serve() {
        let health = Health::default();
        assert!(!health.failed(&RULE, true, true, None, 1_000));
        assert!(health.failed(&RULE, true, false, Some(20_000), 1_000));
        assert_eq!(health.benched_for(1_000), Some(20_000));
    }

    #[test]
    fn a_duration_of_zero_never_benches() {
        let health = Health::default();
        let never = Cooldown { duration_ms: 0, ..RULE };
        assert!((0..10).all(|_| !health.failed(&never, true, false, None, 1_000)));
    }
}
