//! Decimal text without floats: reads what YAML writes (`5e-07`, `.5`, `1_000`), moves the point, prints plain digits.

/// A number ≥ 0: `digits` × 10^-`scale`, without zeros at either end that say nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decimal {
    digits: String,
    scale: i32,
}

/// More than any price has; bounds what a hostile exponent may cost.
const MOST_DIGITS: i32 = 60;

impl Decimal {
    /// `None` for what is no number, is negative, or has more than 60 digits before or after the point.
    pub fn parse(text: &str) -> Option<Decimal> {
        let text = text.trim().replace('_', "");
        let text = text.strip_prefix('+').unwrap_or(&text);
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !is_digits(whole) || !is_digits(fraction) {
            return None;
        }
        let scale = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
        let number = Decimal { digits: format!("{whole}{fraction}"), scale }.normal();
        let length = i32::try_from(number.digits.len()).ok()?;
        (number.scale <= MOST_DIGITS && length.checked_sub(number.scale)? <= MOST_DIGITS).then_some(number)
    }

    /// Times 10^`places`.
    pub fn shifted(mut self, places: i32) -> Decimal {
        self.scale -= places;
        self.normal()
    }

    pub fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    /// How many digits stand behind the point.
    pub fn places(&self) -> i32 {
        self.scale.max(0)
    }

    /// The number times 10^`places`, if that is whole and fits.
    pub fn scaled(&self, places: i32) -> Option<i64> {
        let Decimal { digits, scale } = self.clone().shifted(places);
        if scale > 0 {
            return None;
        }
        let zeros = usize::try_from(-scale).ok()?;
        format!("0{digits}{}", "0".repeat(zeros)).parse().ok()
    }

    /// Plain digits: `0.5`, `25`, `0`.
    pub fn text(&self) -> String {
        if self.scale <= 0 {
            let zeros = usize::try_from(-self.scale).unwrap_or(0);
            return if self.is_zero() { "0".to_owned() } else { format!("{}{}", self.digits, "0".repeat(zeros)) };
        }
        let places = usize::try_from(self.scale).unwrap_or(0);
        // One digit at least before the point.
        let padded = format!("{:0>width$}", self.digits, width = places + 1);
        let (whole, fraction) = padded.split_at(padded.len() - places);
        format!("{whole}.{fraction}")
    }

    fn normal(self) -> Decimal {
        let digits = self.digits.trim_start_matches('0');
        let kept = digits.trim_end_matches('0');
        if kept.is_empty() {
            return Decimal { digits: String::new(), scale: 0 };
        }
        let dropped = i32::try_from(digits.len() - kept.len()).unwrap_or(0);
        Decimal { digits: kept.to_owned(), scale: self.scale - dropped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_price_per_token_becomes_one_per_million_to_the_last_digit() {
        for (per_token, per_million) in [
            ("5e-07", "0.5"),
            ("5E-7", "0.5"),
            ("0.0000005", "0.5"),
            ("0.00000250", "2.5"),
            ("2.5e-6", "2.5"),
            (".000003", "3"),
            ("3e-06", "3"),
            ("1.5e-05", "15"),
            ("0.00006", "60"),
            ("7.5e-08", "0.075"),
            ("1.23456789012345678e-7", "0.123456789012345678"),
            ("1", "1000000"),
            ("1_0", "10000000"),
            ("0", "0"),
            ("0.0", "0"),
            ("0e5", "0"),
            ("+1e-6", "1"),
        ] {
            let read = Decimal::parse(per_token).map(|price| price.shifted(6).text());
            assert_eq!(read.as_deref(), Some(per_million), "{per_token}");
        }
    }

    #[test]
    fn what_is_no_price_is_none() {
        for text in ["", ".", "-1", "1e", "e5", "abc", "1.2.3", "0x10", ".inf", "nan", "1e999999999", "1e-99", "１"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    #[test]
    fn scaled_is_whole_or_nothing() {
        let number = Decimal::parse("0.25").unwrap();
        assert_eq!((number.scaled(2), number.scaled(1), number.scaled(3)), (Some(25), None, Some(250)));
        assert_eq!(number.places(), 2);
        assert_eq!(Decimal::parse("1e30").unwrap().scaled(0), None);
        assert_eq!(Decimal::parse("600").unwrap().scaled(0), Some(600));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn moving_the_point_there_and_back_changes_nothing(whole in 0u64..1_000_000, fraction in 0u64..1_000_000_000) {
            let text = format!("{whole}.{fraction:09}");
            let number = Decimal::parse(&text).unwrap();
            prop_assert_eq!(&number.clone().shifted(6).shifted(-6), &number);
            let nano = number.scaled(9).unwrap();
            prop_assert_eq!(nano, i64::try_from(whole * 1_000_000_000 + fraction).unwrap());
            prop_assert_eq!(Decimal::parse(&number.text()).unwrap(), number);
        }
    }
}
