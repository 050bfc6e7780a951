//! Amounts of money and prices as decimal text: `25`, `0.10`, `0.0000025`. Never a float, never negative. The text is
//! kept as given; what it is worth is decided where money is counted.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use thiserror::Error;

/// A decimal number ≥ 0 as text: up to 15 digits, and up to 24 after the point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DecimalText(String);

/// Why a text is no decimal number.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidDecimal {
    #[error("`{0}` is not a decimal number ≥ 0 with at most 15 digits and 24 decimals, as in \"25\" or \"0.10\"")]
    Malformed(String),
}

/// No sign: prices and limits are never below zero. 24 decimals: the price table has rates that small.
const PATTERN: &str = r"^[0-9]{1,15}(\.[0-9]{1,24})?$";

impl DecimalText {
    pub fn new(text: impl Into<String>) -> DecimalText {
        DecimalText(text.into())
    }

    /// The text as it was written, unchecked.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, once it is known to be digits with an optional point and digits.
    ///
    /// # Errors
    /// [`InvalidDecimal`] for what the schema would refuse.
    pub fn get(&self) -> Result<&str, InvalidDecimal> {
        let (whole, fraction) = match self.0.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (self.0.as_str(), None),
        };
        let digits = |text: &str, most: usize| {
            !text.is_empty() && text.len() <= most && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if digits(whole, 15) && fraction.is_none_or(|fraction| digits(fraction, 24)) {
            Ok(&self.0)
        } else {
            Err(InvalidDecimal::Malformed(self.0.clone()))
        }
    }
}

impl From<&str> for DecimalText {
    fn from(text: &str) -> DecimalText {
        DecimalText::new(text)
    }
}

impl JsonSchema for DecimalText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "DecimalText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 40, "pattern": PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_digits_with_an_optional_fraction() {
        for text in ["0", "25", "2000", "0.10", "0.000000000000000000000001", "999999999999999"] {
            assert_eq!(DecimalText::new(text).get(), Ok(text));
        }
    }

    #[test]
    fn negative_and_odd_numbers_are_refused_by_reader_and_pattern() {
        let pattern = regex::Regex::new(PATTERN).expect("the pattern is a regular expression");
        for text in ["", "-1", "+1", "1e3", "1.", ".5", "1,5", "1.2.3", "1000000000000000", " 1", "NaN", "١"] {
            assert_eq!(DecimalText::new(text).get(), Err(InvalidDecimal::Malformed(text.to_owned())), "{text}");
            assert!(!pattern.is_match(text), "{text}");
        }
    }
}
