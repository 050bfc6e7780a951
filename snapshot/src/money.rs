//! Money as integers: [`NanoUsd`] is what is booked, [`Rate`] is what a unit costs. Both are read from decimal text;
//! floats never touch them. Rates are rounded up when read, amounts are rounded up once per attempt (see
//! [`crate::price`]); nothing here rounds anything down except the display for people.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// 10^-18 USD in one nano-USD.
pub(crate) const ATTO_PER_NANO: i128 = 1_000_000_000;
const NANO_PER_USD: i64 = 1_000_000_000;
const NANO_DECIMALS: i32 = 9;
const ATTO_DECIMALS: i32 = 18;

/// An amount in 10^-9 USD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NanoUsd(pub i64);

/// What one unit (a token, a second, an image, a request) costs, in 10^-18 USD. Never negative when parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(pub i128);

/// Why a text is not an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("not a decimal number; write for example \"25\" or \"0.10\"")]
    NotDecimal,
    #[error("more than nine decimals; the smallest amount is 0.000000001 USD")]
    TooFine,
    #[error("the amount is too large")]
    TooLarge,
    #[error("a price must not be negative")]
    Negative,
}

impl NanoUsd {
    pub const ZERO: NanoUsd = NanoUsd(0);
    pub const MAX: NanoUsd = NanoUsd(i64::MAX);

    /// An amount in USD from decimal text: `25`, `0.10`, `-1.5`, `1.2e-05`. Always exact.
    ///
    /// # Errors
    /// Text that is no number, has more than nine decimals, or exceeds about 9.2 billion USD.
    pub fn parse(text: &str) -> Result<NanoUsd, MoneyError> {
        let parsed = Scaled::parse(text, NANO_DECIMALS)?;
        if parsed.rounded {
            return Err(MoneyError::TooFine);
        }
        parsed.nano()
    }

    /// As [`NanoUsd::parse`], but digits beyond the ninth decimal round up. For costs that a provider reports.
    ///
    /// # Errors
    /// Text that is no number or exceeds about 9.2 billion USD.
    pub fn parse_rounding_up(text: &str) -> Result<NanoUsd, MoneyError> {
        Scaled::parse(text, NANO_DECIMALS)?.nano()
    }

    /// 10^-18 USD to the next nano-USD above; `None` beyond the range of an `i64`.
    pub(crate) fn from_atto_rounding_up(atto: i128) -> Option<NanoUsd> {
        // Up to 18 USD, so nearly always: a division of machine words instead of 128 bits.
        if let Ok(small) = u64::try_from(atto) {
            return i64::try_from(small.div_ceil(ATTO_PER_NANO as u64)).ok().map(NanoUsd);
        }
        i64::try_from(div_ceil(atto, ATTO_PER_NANO)).ok().map(NanoUsd)
    }

    pub fn checked_add(self, other: NanoUsd) -> Option<NanoUsd> {
        self.0.checked_add(other.0).map(NanoUsd)
    }

    pub fn checked_sub(self, other: NanoUsd) -> Option<NanoUsd> {
        self.0.checked_sub(other.0).map(NanoUsd)
    }

    pub fn checked_mul(self, factor: i64) -> Option<NanoUsd> {
        self.0.checked_mul(factor).map(NanoUsd)
    }

    pub fn saturating_add(self, other: NanoUsd) -> NanoUsd {
        NanoUsd(self.0.saturating_add(other.0))
    }

    pub fn saturating_sub(self, other: NanoUsd) -> NanoUsd {
        NanoUsd(self.0.saturating_sub(other.0))
    }

    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The exact amount in USD without sign of currency or trailing zeros: `0.00375`, `25`, `-1.5`.
    pub fn to_decimal_text(self) -> String {
        let mut text = Vec::with_capacity(32);
        self.push_decimal_text(&mut text);
        text.into_iter().map(char::from).collect()
    }

    /// The same, behind other text.
    pub fn push_decimal_text(self, out: &mut Vec<u8>) {
        // Several of these are in the head of every answer: without `format!`.
        let (whole, fraction) = (self.0.unsigned_abs() / 1_000_000_000, self.0.unsigned_abs() % 1_000_000_000);
        if self.0 < 0 {
            out.push(b'-');
        }
        let mut buffer = itoa::Buffer::new();
        out.extend_from_slice(buffer.format(whole).as_bytes());
        if fraction > 0 {
            // A digit in front keeps the zeros behind it.
            let digits = buffer.format(1_000_000_000 + fraction as u32).as_bytes();
            let zeros = digits.iter().rev().take_while(|digit| **digit == b'0').count();
            out.push(b'.');
            out.extend_from_slice(&digits[1..digits.len() - zeros]);
        }
    }
}

/// For people: two to four decimals, rounded half up; `<$0.0001` for less than can be shown.
impl fmt::Display for NanoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NANO_PER_SHOWN: u64 = 100_000;
        let sign = if self.0 < 0 { "-" } else { "" };
        let shown = (self.0.unsigned_abs() + NANO_PER_SHOWN / 2) / NANO_PER_SHOWN;
        if shown == 0 && self.0 != 0 {
            return write!(f, "{sign}<$0.0001");
        }
        let (dollars, fraction) = (shown / 10_000, shown % 10_000);
        if fraction % 100 == 0 {
            write!(f, "{sign}${dollars}.{:02}", fraction / 100)
        } else if fraction % 10 == 0 {
            write!(f, "{sign}${dollars}.{:03}", fraction / 10)
        } else {
            write!(f, "{sign}${dollars}.{fraction:04}")
        }
    }
}

impl Rate {
    pub const ZERO: Rate = Rate(0);

    /// USD per unit from decimal text, also with an exponent. Digits beyond the 18th decimal round up.
    ///
    /// # Errors
    /// Text that is no number, is negative, or is too large.
    pub fn parse(text: &str) -> Result<Rate, MoneyError> {
        Rate::parse_per(text, 1)
    }

    /// USD per million units, as price lists print it.
    ///
    /// # Errors
    /// As [`Rate::parse`].
    pub fn parse_per_million(text: &str) -> Result<Rate, MoneyError> {
        Rate::parse_per(text, 1_000_000)
    }

    /// USD per `units`. `units` of 0 counts as 1.
    ///
    /// # Errors
    /// As [`Rate::parse`].
    pub fn parse_per(text: &str, units: u64) -> Result<Rate, MoneyError> {
        let atto = Scaled::parse(text, ATTO_DECIMALS)?.value;
        if atto < 0 {
            return Err(MoneyError::Negative);
        }
        // Rounding up twice gives the same integer as rounding up once: ceil(ceil(x) / n) = ceil(x / n).
        Ok(Rate(div_ceil(atto, i128::from(units.max(1)))))
    }

    /// 10^-18 USD for so many units; `None` when it does not fit.
    pub(crate) fn times(self, quantity: u64) -> Option<i128> {
        self.0.checked_mul(i128::from(quantity))
    }

    /// What so many units cost, rounded up to a nano-USD; [`NanoUsd::MAX`] when it does not fit.
    pub fn cost_of(self, quantity: u64) -> NanoUsd {
        self.times(quantity).and_then(NanoUsd::from_atto_rounding_up).unwrap_or(NanoUsd::MAX)
    }

    /// How many units this amount pays for; `u64::MAX` when the rate is 0.
    pub fn units_for(self, amount: NanoUsd) -> u64 {
        if amount.0 <= 0 {
            return if self.0 == 0 { u64::MAX } else { 0 };
        }
        let atto = i128::from(amount.0) * ATTO_PER_NANO;
        atto.checked_div(self.0).map_or(u64::MAX, |units| u64::try_from(units).unwrap_or(u64::MAX))
    }

    /// USD per unit, exact: `0.0000025`.
    pub fn to_decimal_text(self) -> String {
        decimal_text(self.0, ATTO_DECIMALS)
    }

    /// USD per million units, exact, as price lists print it: `2.5`.
    pub fn to_per_million_text(self) -> String {
        decimal_text(self.0, ATTO_DECIMALS - 6)
    }
}

/// As decimal text in USD per unit: JSON numbers of this size do not survive every reader.
impl Serialize for Rate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_decimal_text())
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Rate::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A decimal number as an integer of 10^-decimals.
struct Scaled {
    value: i128,
    /// Digits were lost; `value` is the next integer above.
    rounded: bool,
}

impl Scaled {
    fn parse(text: &str, decimals: i32) -> Result<Scaled, MoneyError> {
        // Beyond this no further digit fits; later ones only decide whether to round up.
        const MANTISSA_LIMIT: i128 = 10i128.pow(36);
        let (negative, digits) = match text.as_bytes() {
            [b'-', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let (mut mantissa, mut exponent, mut lost) = (0i128, 0i32, false);
        let (mut seen_digit, mut seen_point) = (false, false);
        let mut rest = digits;
        while let [byte, tail @ ..] = rest {
            match byte {
                b'0'..=b'9' => {
                    seen_digit = true;
                    let digit = i128::from(byte - b'0');
                    if mantissa < MANTISSA_LIMIT {
                        mantissa = mantissa * 10 + digit;
                        exponent -= i32::from(seen_point);
                    } else {
                        lost |= digit != 0;
                        exponent += i32::from(!seen_point);
                    }
                }
                b'.' if seen_digit && !seen_point && tail.first().is_some_and(u8::is_ascii_digit) => seen_point = true,
                b'e' | b'E' if seen_digit => {
                    exponent = exponent.checked_add(parse_exponent(tail)?).ok_or(MoneyError::TooLarge)?;
                    break;
                }
                _ => return Err(MoneyError::NotDecimal),
            }
            rest = tail;
        }
        if !seen_digit {
            return Err(MoneyError::NotDecimal);
        }
        let mantissa = if negative { -mantissa } else { mantissa };
        let shift = decimals + exponent;
        if mantissa == 0 {
            return Ok(Scaled { value: 0, rounded: lost });
        }
        if shift >= 0 {
            let factor = 10i128.checked_pow(shift.unsigned_abs()).ok_or(MoneyError::TooLarge)?;
            let value = mantissa.checked_mul(factor).ok_or(MoneyError::TooLarge)?;
            return Ok(Scaled { value: value + i128::from(lost && !negative), rounded: lost });
        }
        // A divisor beyond the mantissa's range leaves only the rounding.
        let divisor = 10i128.checked_pow(shift.unsigned_abs()).unwrap_or(i128::MAX);
        let rounded = lost || mantissa % divisor != 0;
        let floor = mantissa.div_euclid(divisor);
        // What was lost lies further from zero, so above the mantissa only where that is positive.
        let above = mantissa % divisor != 0 || (lost && !negative);
        Ok(Scaled { value: floor + i128::from(above), rounded })
    }

    fn nano(self) -> Result<NanoUsd, MoneyError> {
        i64::try_from(self.value).map(NanoUsd).map_err(|_| MoneyError::TooLarge)
    }
}

fn parse_exponent(bytes: &[u8]) -> Result<i32, MoneyError> {
    let (negative, digits) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || digits.len() > 3 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(MoneyError::NotDecimal);
    }
    let value = digits.iter().fold(0, |value, digit| value * 10 + i32::from(digit - b'0'));
    Ok(if negative { -value } else { value })
}

pub(crate) fn div_ceil(value: i128, divisor: i128) -> i128 {
    value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)
}

fn decimal_text(value: i128, decimals: i32) -> String {
    let unit = 10u128.pow(decimals.unsigned_abs());
    let sign = if value < 0 { "-" } else { "" };
    let (whole, fraction) = (value.unsigned_abs() / unit, value.unsigned_abs() % unit);
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    let digits = format!("{fraction:0width$}", width = decimals as usize);
    format!("{sign}{whole}.{}", digits.trim_end_matches('0'))
}

// One US dollar, for callers that count in dollars.
impl NanoUsd {
    /// Whole dollars.
    pub fn from_usd(dollars: i64) -> Option<NanoUsd> {
        dollars.checked_mul(NANO_PER_USD).map(NanoUsd)
    }
}

impl std::iter::Sum for NanoUsd {
    /// Saturates.
    fn sum<I: Iterator<Item = NanoUsd>>(amounts: I) -> NanoUsd {
        amounts.fold(NanoUsd::ZERO, NanoUsd::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_read_exactly_or_refused() {
        let cases = [
            ("25", Ok(25_000_000_000)),
            ("0.10", Ok(100_000_000)),
            ("0.000000001", Ok(1)),
            ("0.0000000010", Ok(1)),
            ("-1.5", Ok(-1_500_000_000)),
            ("1e3", Ok(1_000_000_000_000)),
            ("1.2E-05", Ok(12_000)),
            ("9223372036.854775807", Ok(i64::MAX)),
            ("9223372036.854775808", Err(MoneyError::TooLarge)),
            ("0.0000000001", Err(MoneyError::TooFine)),
            ("1e999", Err(MoneyError::TooLarge)),
            ("", Err(MoneyError::NotDecimal)),
            ("-", Err(MoneyError::NotDecimal)),
            (".5", Err(MoneyError::NotDecimal)),
            ("5.", Err(MoneyError::NotDecimal)),
            ("1.2.3", Err(MoneyError::NotDecimal)),
            ("1,000", Err(MoneyError::NotDecimal)),
            ("+1", Err(MoneyError::NotDecimal)),
            (" 1", Err(MoneyError::NotDecimal)),
            ("1e", Err(MoneyError::NotDecimal)),
            ("1e1.5", Err(MoneyError::NotDecimal)),
            ("NaN", Err(MoneyError::NotDecimal)),
            ("inf", Err(MoneyError::NotDecimal)),
        ];
        for (text, expected) in cases {
            assert_eq!(NanoUsd::parse(text), expected.map(NanoUsd), "{text:?}");
        }
    }

    #[test]
    fn a_reported_cost_rounds_up() {
        assert_eq!(NanoUsd::parse_rounding_up("0.0000000001"), Ok(NanoUsd(1)));
        assert_eq!(NanoUsd::parse_rounding_up("1.0000000011"), Ok(NanoUsd(1_000_000_002)));
        assert_eq!(NanoUsd::parse_rounding_up("1e-300"), Ok(NanoUsd(1)));
        assert_eq!(NanoUsd::parse_rounding_up("-0.0000000019"), Ok(NanoUsd(-1)));
        let negative = format!("-0.214748364{}3", "0".repeat(40));
        assert_eq!(NanoUsd::parse_rounding_up(&negative), Ok(NanoUsd(-214_748_364)));
        let long = format!("0.{}1", "0".repeat(90));
        assert_eq!(NanoUsd::parse_rounding_up(&long), Ok(NanoUsd(1)));
        let longer = format!("1.{}{}", "0".repeat(90), "1");
        assert_eq!(NanoUsd::parse_rounding_up(&longer), Ok(NanoUsd(1_000_000_001)));
    }

    #[test]
    fn rates_round_up_beyond_eighteen_decimals() {
        let cases = [
            ("0.0000025", 2_500_000_000_000),
            ("2.5e-06", 2_500_000_000_000),
            ("0.000000000000000001", 1),
            ("0.000000000000000000000001", 1),
            ("0.00000010000000000000001", 100_000_000_001),
            ("0", 0),
            ("0.0", 0),
        ];
        for (text, atto) in cases {
            assert_eq!(Rate::parse(text), Ok(Rate(atto)), "{text}");
        }
        assert_eq!(Rate::parse("-1"), Err(MoneyError::Negative));
        assert_eq!(Rate::parse_per_million("2.50"), Rate::parse("0.0000025"));
        assert_eq!(Rate::parse_per("10", 3), Ok(Rate(3_333_333_333_333_333_334)));
    }

    #[test]
    fn people_see_two_to_four_decimals() {
        let cases = [
            (3_271_100_000, "$3.2711"),
            (25_000_000_000, "$25.00"),
            (100_000_000, "$0.10"),
            (125_000_000, "$0.125"),
            (3_750_000, "$0.0038"),
            (1, "<$0.0001"),
            (0, "$0.00"),
            (-1_500_000_000, "-$1.50"),
            (i64::MAX, "$9223372036.8548"),
            (999_999_999, "$1.00"),
        ];
        for (nano, text) in cases {
            assert_eq!(NanoUsd(nano).to_string(), text);
        }
        assert_eq!(NanoUsd(3_750_000).to_decimal_text(), "0.00375");
        assert_eq!(NanoUsd(i64::MIN).to_decimal_text(), "-9223372036.854775808");
        for nano in [0, 1, -1, 10, 999_999_999, 1_000_000_000, 25_000_000_000, -1_500_000_000, 41_762_500, i64::MAX] {
            assert_eq!(NanoUsd(nano).to_decimal_text(), decimal_text(i128::from(nano), 9));
        }
        assert_eq!(Rate(2_500_000_000_000).to_per_million_text(), "2.5");
    }

    #[test]
    fn amounts_are_integers_in_json_and_rates_are_texts() {
        assert_eq!(serde_json::to_string(&NanoUsd(-7)).unwrap(), "-7");
        assert_eq!(serde_json::from_str::<NanoUsd>("7").unwrap(), NanoUsd(7));
        assert!(serde_json::from_str::<NanoUsd>("7.5").is_err());
        assert_eq!(serde_json::to_string(&Rate(1)).unwrap(), "\"0.000000000000000001\"");
    }

    #[test]
    fn an_amount_buys_whole_units_only() {
        assert_eq!(Rate(3_000_000_000).units_for(NanoUsd(10)), 3);
        assert_eq!(Rate::ZERO.units_for(NanoUsd(0)), u64::MAX);
        assert_eq!(Rate(1).units_for(NanoUsd(-1)), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn text_and_back_is_the_same_amount(nano: i64, atto in 0i128..i128::from(i64::MAX)) {
            prop_assert_eq!(NanoUsd::parse(&NanoUsd(nano).to_decimal_text()), Ok(NanoUsd(nano)));
            prop_assert_eq!(Rate::parse(&Rate(atto).to_decimal_text()), Ok(Rate(atto)));
            prop_assert_eq!(Rate::parse_per_million(&Rate(atto).to_per_million_text()), Ok(Rate(atto)));
        }

        #[test]
        fn a_digit_however_far_behind_an_amount_counts_upwards(nano: i32, zeros in 0usize..60, digit in 1u8..=9) {
            let (nano, sign) = (i64::from(nano), if nano < 0 { "-" } else { "" });
            let (whole, fraction) = (nano.unsigned_abs() / 1_000_000_000, nano.unsigned_abs() % 1_000_000_000);
            let text = format!("{sign}{whole}.{fraction:09}{}{digit}", "0".repeat(zeros));
            let above = NanoUsd(nano + i64::from(nano >= 0));
            prop_assert_eq!(NanoUsd::parse_rounding_up(&text), Ok(above), "{}", text);
        }

        #[test]
        fn rounding_up_never_loses_and_never_adds_a_whole_nano(atto in 0i128..i128::from(i64::MAX) * ATTO_PER_NANO) {
            let nano = i128::from(NanoUsd::from_atto_rounding_up(atto).unwrap().0) * ATTO_PER_NANO;
            prop_assert!(nano >= atto && nano - atto < ATTO_PER_NANO);
        }
    }
}
