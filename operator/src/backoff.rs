//! How long to wait before something that failed is tried again: longer each time, with some chance in it, so that many
//! do not come back at once.

use std::time::Duration;

/// Delays that double.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// For watches and whatever a server in trouble should not see too often: back within five seconds.
    pub fn of_server() -> Backoff {
        Backoff::new(Duration::from_millis(250), Duration::from_secs(5))
    }

    pub fn new(first: Duration, most: Duration) -> Backoff {
        Backoff { first, most, failures: 0 }
    }

    /// After success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The next delay: half of it by chance.
    pub fn next_delay(&mut self) -> Duration {
        let whole = self.first.saturating_mul(1 << self.failures.min(16)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        let mut random = [0; 4];
        // Without randomness the delay is the longest.
        let share =
            getrandom::fill(&mut random).map_or(1.0, |()| f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX));
        whole / 2 + (whole / 2).mul_f64(share)
    }

    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_begin_anew_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for most in [100, 200, 400, 800, 1000, 1000] {
            let delay = backoff.next_delay().as_millis();
            assert!((most / 2..=most).contains(&delay), "{delay} of {most}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
