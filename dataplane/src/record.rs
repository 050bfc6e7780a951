//! What is remembered of a call while it runs, and counted once when it ends.

use std::time::{Duration, Instant};

use http::HeaderValue;
use tollgate_ledger::LetThrough;

use crate::booking::Booked;
use crate::metrics::{Bank, CallLabels, DurationLabels, Label};

/// The story of one call.
#[derive(Clone, Debug)]
pub struct Record {
    /// `x-request-id` and `x-litellm-call-id`.
    pub call_id: HeaderValue,
    /// Upper bits of the ids of its attempts.
    pub id: u128,
    pub arrived: Instant,
    pub operation: &'static str,
    pub model: Label,
    pub deployment: Label,
    pub team: Label,
    /// All attempts, over retries and fallbacks.
    pub attempts: u32,
    pub retries: u32,
    pub fallbacks: u32,
    /// Time spent waiting for providers.
    pub provider: Duration,
    pub first_token: Option<Duration>,
    /// Spent budgets that go on slowly count it once.
    pub let_through: LetThrough,
}

impl Record {
    /// Begins the record of a call that arrived now.
    pub fn new(operation: &'static str, arrived: Instant, unix_ms: i64) -> Record {
        let id = call_id(unix_ms);
        Record {
            call_id: format_id(id),
            id,
            arrived,
            operation,
            model: Label::default(),
            deployment: Label::default(),
            team: Label::default(),
            attempts: 0,
            retries: 0,
            fallbacks: 0,
            provider: Duration::ZERO,
            first_token: None,
            let_through: LetThrough::default(),
        }
    }

    /// Counts the call as ended at `now`.
    pub fn count(&self, bank: &Bank, now: Instant, status: u16, booked: Option<&Booked>) {
        let elapsed = now.duration_since(self.arrived);
        let labels = CallLabels {
            operation: self.operation,
            model: self.model,
            deployment: self.deployment,
            team: self.team,
            status,
        };
        let series = bank.call(labels);
        series.requests.add(1);
        if status == 200 {
            let durations = bank.durations(DurationLabels { operation: self.operation, deployment: self.deployment });
            durations.whole.observe(elapsed);
            durations.provider.observe(self.provider);
            durations.overhead.observe(elapsed.saturating_sub(self.provider));
            if let Some(first) = self.first_token {
                durations.first_token.observe(first);
            }
        }
        if let Some(Booked { usage, cost, .. }) = booked {
            series.spend_nano_usd.add(cost.total.0.max(0) as u64);
            series.input_tokens.add(usage.input_tokens);
            series.output_tokens.add(usage.output_tokens);
            series.cache_read_tokens.add(usage.cache_read_tokens);
            series.cache_write_tokens.add(usage.cache_write_5m_tokens + usage.cache_write_1h_tokens);
            series.reasoning_tokens.add(usage.reasoning_tokens);
        }
    }
}

/// A UUID of version 7: milliseconds, then chance.
fn call_id(unix_ms: i64) -> u128 {
    let time = (unix_ms as u128 & 0xffff_ffff_ffff) << 80;
    let random = fastrand::u128(..) & 0x0fff_3fff_ffff_ffff_ffff;
    time | random | (0x7 << 76) | (0x2 << 62)
}

fn format_id(id: u128) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; 36];
    let mut shift = 128;
    for (at, byte) in text.iter_mut().enumerate() {
        if !matches!(at, 8 | 13 | 18 | 23) {
            shift -= 4;
            *byte = DIGITS[(id >> shift) as usize & 0xf];
        }
    }
    HeaderValue::from_bytes(&text).expect("hexadecimal digits and hyphens are valid in a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_id_is_a_uuid_of_version_7_that_begins_with_the_time() {
        let text = format_id(call_id(0x0123_4567_89ab));
        let text = text.to_str().unwrap();
        assert_eq!(text.len(), 36);
        assert!(text.starts_with("01234567-89ab-7"), "{text}");
        assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{text}");
        assert_ne!(call_id(1), call_id(1));
    }
}
