//! Durations as resources write them: `500ms`, `30s`, `1h30m`, `720h`. The text is kept as given, so that a value which
//! the schema would refuse becomes a finding with a field path, not the loss of the whole object.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::Duration;
use thiserror::Error;

/// A duration as text: one to four numbers, each with a unit of `h`, `m`, `s`, `ms`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DurationText(String);

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidDuration {
    #[error("`{0}` is not a duration; write a number and a unit of h, m, s or ms, as in 30s or 1h30m")]
    Malformed(String),
    #[error("the duration `{0}` is too long")]
    TooLong(String),
}

/// What the schema accepts; units are those that CEL's `duration()` reads too.
const PATTERN: &str = "^([0-9]{1,7}(h|m|s|ms)){1,4}$";

/// Go's and CEL's durations end here: 2^63 nanoseconds, about 292 years.
const LONGEST_MS: u64 = i64::MAX as u64 / 1_000_000;

impl DurationText {
    pub fn new(text: impl Into<String>) -> DurationText {
        DurationText(text.into())
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The duration it stands for.
    ///
    /// # Errors
    /// [`InvalidDuration`] for what the schema would refuse, and for more than 292 years.
    pub fn get(&self) -> Result<Duration, InvalidDuration> {
        let malformed = || InvalidDuration::Malformed(self.0.clone());
        let mut rest = self.0.as_str();
        let mut total_ms: u64 = 0;
        let mut parts = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            if number.is_empty() || number.len() > 7 || parts == 4 {
                return Err(malformed());
            }
            let number: u64 = number.parse().map_err(|_| malformed())?;
            let (unit_ms, tail) = split_unit(tail).ok_or_else(malformed)?;
            total_ms += number * unit_ms;
            parts += 1;
            rest = tail;
        }
        if parts == 0 {
            return Err(malformed());
        }
        if total_ms > LONGEST_MS {
            return Err(InvalidDuration::TooLong(self.0.clone()));
        }
        Ok(Duration::from_millis(total_ms))
    }
}

/// The unit at the start of `text` in milliseconds, and what follows it. `ms` before `m`, which it begins with.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    const UNITS: [(&str, u64); 4] = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    UNITS.iter().find_map(|(unit, ms)| text.strip_prefix(unit).map(|rest| (*ms, rest)))
}

impl From<&str> for DurationText {
    fn from(text: &str) -> DurationText {
        DurationText::new(text)
    }
}

impl JsonSchema for DurationText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "DurationText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 40, "pattern": PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_users_write_them() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("10m", 600_000),
            ("720h", 2_592_000_000),
            ("1h30m", 5_400_000),
            ("1m500ms", 60_500),
            ("0s", 0),
            ("1h1m1s1ms", 3_661_001),
        ] {
            assert_eq!(DurationText::new(text).get(), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_said_so() {
        for text in ["", "30", "s", "-1s", "1.5s", "1d", "1 s", "30S", "1h1h1h1h1h", "12345678s", "１s"] {
            assert_eq!(DurationText::new(text).get(), Err(InvalidDuration::Malformed(text.to_owned())), "{text}");
        }
        assert_eq!(DurationText::new("9999999h").get(), Err(InvalidDuration::TooLong("9999999h".to_owned())));
    }

    #[test]
    fn the_pattern_and_the_reader_agree() {
        let pattern = regex::Regex::new(PATTERN).expect("the pattern is a regular expression");
        for text in ["500ms", "1h30m", "0s", "", "30", "1d", "1.5s", "1h1h1h1h1h", "12345678s", "1ms1s", "ms"] {
            assert_eq!(DurationText::new(text).get().is_ok(), pattern.is_match(text), "{text}");
        }
    }
}
