//! So many a second, and a few at once after a pause. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// What is left to be taken.
#[derive(Debug)]
pub struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// Full: `burst` may be taken at once.
    pub fn new(rate: u32, burst: u32, now: Instant) -> Bucket {
        Bucket { rate: f64::from(rate), burst: f64::from(burst), tokens: f64::from(burst), at: now }
    }

    /// Also what is not there yet: the next wait the longer.
    pub fn take(&mut self, now: Instant) {
        self.tokens = self.at_moment(now) - 1.0;
        self.at = now;
    }

    /// When the next may be taken.
    pub fn ready_at(&self) -> Instant {
        let missing = (1.0 - self.tokens).max(0.0);
        self.at + Duration::from_secs_f64(missing / self.rate)
    }

    /// How many may be taken now.
    pub fn available(&self, now: Instant) -> u32 {
        self.at_moment(now).max(0.0) as u32
    }

    fn at_moment(&self, now: Instant) -> f64 {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        (self.tokens + earned).min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_followed_by_the_rate() {
        let begun = Instant::now();
        let mut bucket = Bucket::new(200, 40, begun);
        for left in (0..40).rev() {
            assert!(bucket.ready_at() <= begun);
            bucket.take(begun);
            assert_eq!(bucket.available(begun), left);
        }
        let wait = bucket.ready_at() - begun;
        assert_eq!(wait.as_millis(), 5);
        // What is taken before its time is waited for.
        bucket.take(begun);
        assert_eq!((bucket.ready_at() - begun).as_millis(), 10);
        // After a long pause the burst is whole again, and no more.
        let later = begun + Duration::from_secs(3_600);
        for _ in 0..40 {
            bucket.take(later);
        }
        assert!(bucket.ready_at() > later);
    }
}
