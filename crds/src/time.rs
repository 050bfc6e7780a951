//! Moments and time zones as text: `2027-06-30T00:00:00Z`, `Europe/Vienna`. Kept as given; looked up where they are used.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::SystemTime;
use thiserror::Error;

/// A moment in RFC 3339 text, with its offset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimestampText(String);

/// The name of a time zone of the IANA database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimeZoneText(String);

/// Why a text is no moment or no time zone.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidTime {
    #[error("`{0}` is not a time; write it as in 2027-06-30T00:00:00Z")]
    Timestamp(String),
    #[error("`{0}` is not a time zone; write its name as in Europe/Vienna")]
    TimeZone(String),
}

const TIMESTAMP_PATTERN: &str =
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$";
const TIME_ZONE_PATTERN: &str = "^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}$";

impl TimestampText {
    pub fn new(text: impl Into<String>) -> TimestampText {
        TimestampText(text.into())
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The moment it names.
    ///
    /// # Errors
    /// [`InvalidTime::Timestamp`] when the text names none.
    pub fn get(&self) -> Result<SystemTime, InvalidTime> {
        let moment: jiff::Timestamp = self.0.parse().map_err(|_| InvalidTime::Timestamp(self.0.clone()))?;
        Ok(moment.into())
    }
}

impl TimeZoneText {
    pub fn new(text: impl Into<String>) -> TimeZoneText {
        TimeZoneText(text.into())
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, once it has the shape of one; whether such a zone exists is for the caller to find out.
    ///
    /// # Errors
    /// [`InvalidTime::TimeZone`] for what the schema would refuse.
    pub fn get(&self) -> Result<&str, InvalidTime> {
        let part = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte))
        };
        if self.0.len() <= 64 && self.0.split('/').count() <= 3 && self.0.split('/').all(part) {
            Ok(&self.0)
        } else {
            Err(InvalidTime::TimeZone(self.0.clone()))
        }
    }
}

impl From<&str> for TimestampText {
    fn from(text: &str) -> TimestampText {
        TimestampText::new(text)
    }
}

impl From<&str> for TimeZoneText {
    fn from(text: &str) -> TimeZoneText {
        TimeZoneText::new(text)
    }
}

impl JsonSchema for TimestampText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "TimestampText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time", "maxLength": 40, "pattern": TIMESTAMP_PATTERN })
    }
}

impl JsonSchema for TimeZoneText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "TimeZoneText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 64, "pattern": TIME_ZONE_PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_timestamp_names_a_moment_whatever_its_offset() {
        let moment = UNIX_EPOCH + Duration::from_secs(1_814_313_600);
        for text in ["2027-06-30T00:00:00Z", "2027-06-30T02:00:00+02:00"] {
            assert_eq!(TimestampText::new(text).get(), Ok(moment), "{text}");
        }
    }

    #[test]
    fn a_text_that_names_no_moment_is_said_so() {
        for text in ["", "tomorrow", "2027-06-30", "2027-13-30T00:00:00Z", "2027-06-30T00:00:00"] {
            assert_eq!(TimestampText::new(text).get(), Err(InvalidTime::Timestamp(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn time_zones_have_the_shape_of_the_iana_names() {
        let pattern = regex::Regex::new(TIME_ZONE_PATTERN).expect("the pattern is a regular expression");
        for text in ["UTC", "Europe/Vienna", "America/Argentina/Buenos_Aires", "Etc/GMT+5"] {
            assert_eq!(TimeZoneText::new(text).get(), Ok(text));
            assert!(pattern.is_match(text), "{text}");
        }
        for text in ["", "/", "Europe/", "../etc/passwd", "a b", "a/b/c/d"] {
            assert!(TimeZoneText::new(text).get().is_err(), "{text}");
            assert!(!pattern.is_match(text), "{text}");
        }
    }
}
