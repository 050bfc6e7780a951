//! Amounts and rates from decimal text are what the text says, digit by digit, and are told as text that is read as
//! the same.

use tollgate_snapshot::money::{MoneyError, NanoUsd, Rate};

/// From here on digits are left out: 10^18 USD for a token.
const ROUNDED: i128 = 10i128.pow(36);

/// As many digits are read exactly; more say only that there is a rest.
const READ_DIGITS: usize = 36;

/// # Panics
/// When they are not.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let number = Decimal::of(text);
    if number.as_ref().is_some_and(|number| number.negative && number.digits.len() > READ_DIGITS) {
        // Which way a debt of so many digits is rounded in its last one is of no matter.
        return;
    }
    let nano = number.as_ref().map(|number| number.scaled(9));
    match (NanoUsd::parse_rounding_up(text), &nano) {
        (Ok(amount), Some((Some(expected), _))) => assert_eq!(i128::from(amount.0), *expected),
        (Err(MoneyError::TooLarge), Some((expected, _))) => assert!(expected.is_none_or(|n| i64::try_from(n).is_err())),
        (Err(MoneyError::NotDecimal), None) => {}
        (read, expected) => panic!("{read:?}, expected {expected:?}"),
    }
    match (NanoUsd::parse(text), &nano) {
        (Ok(amount), Some((Some(expected), true))) => {
            assert_eq!(i128::from(amount.0), *expected);
            assert_eq!(NanoUsd::parse(&amount.to_decimal_text()), Ok(amount));
            let _ = amount.to_string();
        }
        (Err(MoneyError::TooFine), Some((expected, exact))) => {
            assert!(!exact || expected.is_none_or(|nano| i64::try_from(nano).is_err()));
        }
        (Err(MoneyError::NotDecimal), None) => {}
        (Err(MoneyError::TooLarge), Some((expected, _))) => assert!(expected.is_none_or(|n| i64::try_from(n).is_err())),
        (read, expected) => panic!("{read:?}, expected {expected:?}"),
    }
    let atto = number.as_ref().map(|number| number.scaled(18));
    match (Rate::parse(text), &atto) {
        (Ok(rate), Some((Some(expected), _))) if *expected >= ROUNDED => assert!(rate.0 >= ROUNDED),
        (Ok(rate), Some((Some(expected), _))) => {
            assert_eq!(rate.0, *expected);
            assert_eq!(Rate::parse(&rate.to_decimal_text()), Ok(rate));
            let _ = (rate.to_per_million_text(), rate.units_for(NanoUsd::MAX));
            for units in [0, 1, 3, 1_000_000, u64::MAX] {
                let per = Rate::parse_per(text, units).expect("read before").0;
                let units = i128::from(units.max(1));
                // Rounded up: one less would be too little.
                assert!((per - 1).checked_mul(units).is_none_or(|least| least < rate.0));
                assert!(per.checked_mul(units).is_none_or(|enough| enough >= rate.0));
            }
        }
        (Err(MoneyError::Negative), Some(_)) => assert!(text.starts_with('-')),
        (Err(MoneyError::TooLarge), Some((expected, _))) => assert!(expected.is_none_or(|atto| atto > ROUNDED)),
        (Err(MoneyError::NotDecimal), None) => {}
        (read, expected) => panic!("{read:?}, expected {expected:?}"),
    }
}

/// A number as written: its digits, and how many of them are behind the point once the exponent is done.
struct Decimal {
    negative: bool,
    digits: String,
    decimals: i64,
}

impl Decimal {
    /// `-?digits[.digits][e[+-]1 to 3 digits]`
    fn of(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix('-');
        let (mantissa, exponent) = match unsigned.unwrap_or(text).split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Some(exponent)),
            None => (unsigned.unwrap_or(text), None),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (mantissa, None),
        };
        let exponent: i64 = match exponent {
            Some(text) => {
                let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
                if !are_digits(digits) || digits.len() > 3 {
                    return None;
                }
                text.parse().ok()?
            }
            None => 0,
        };
        if !are_digits(whole) || !fraction.is_none_or(are_digits) {
            return None;
        }
        let fraction = fraction.unwrap_or("");
        let decimals = fraction.len() as i64 - exponent;
        Some(Self { negative: unsigned.is_some(), digits: format!("{whole}{fraction}"), decimals })
    }

    /// The number in units of 10^-`decimals`, rounded up, and whether it is exact; `None` beyond an `i128`.
    fn scaled(&self, decimals: i64) -> (Option<i128>, bool) {
        let behind = self.decimals - decimals;
        let zeros = "0".repeat(usize::try_from(-behind).unwrap_or(0));
        let cut = self.digits.len().saturating_sub(usize::try_from(behind).unwrap_or(0));
        let (kept, lost) = self.digits.split_at(cut);
        let exact = lost.bytes().all(|digit| digit == b'0');
        let kept = format!("{kept}{zeros}");
        let kept = kept.trim_start_matches('0');
        let whole = if kept.is_empty() { Some(0) } else { kept.parse::<i128>().ok() };
        let rounded = whole.map(|whole| match (self.negative, exact) {
            (true, _) => -whole,
            (false, true) => whole,
            (false, false) => whole.saturating_add(1),
        });
        (rounded, exact)
    }
}

fn are_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
