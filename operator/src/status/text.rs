//! Texts of statuses that are ready to print.

use crate::facts::SpendFact;
use jiff::tz::TimeZone;
use jiff::{RoundMode, Timestamp, ToSpan, Unit, ZonedRound};
use tollgate_crds::{
    Boost, BudgetScope, BudgetSpec, BudgetTerms, BudgetUnit, CalendarPeriod, LabelOperator, LabelSelector, Period,
};
use tollgate_snapshot::money::NanoUsd;

/// The schema of most texts allows 1,024 characters, of a scope 256.
const LONGEST_NAMES: usize = 1_000;
const LONGEST_SCOPE: usize = 250;

/// What may be spent in a period. Example: `$50.00/month`.
pub fn limit(terms: &BudgetTerms) -> String {
    amount_per(terms.limit.as_str(), terms.unit, &terms.period)
}

/// As [`limit`], of a Budget: with its boost while that lasts, and until when it does, in Unix seconds.
pub fn budget_limit(spec: &BudgetSpec, now: i64) -> (String, Option<i64>) {
    let BudgetSpec { limit, unit, period, boost, .. } = spec;
    let boosted = boost.as_ref().and_then(|Boost { amount, until }| {
        let until = until.as_ref()?.as_str().parse::<Timestamp>().ok()?.as_second();
        let limit = sum(limit.as_str(), amount.as_str(), *unit).filter(|_| now < until)?;
        Some((limit, until))
    });
    match boosted {
        Some((limit, until)) => (amount_per(&limit, *unit, period), Some(until)),
        None => (amount_per(limit.as_str(), *unit, period), None),
    }
}

/// `None`: one of them is no amount.
fn sum(one: &str, other: &str, unit: BudgetUnit) -> Option<String> {
    match unit {
        BudgetUnit::Usd => {
            let (one, other) = (NanoUsd::parse(one).ok()?, NanoUsd::parse(other).ok()?);
            Some(one.saturating_add(other).to_decimal_text())
        }
        BudgetUnit::Tokens | BudgetUnit::Requests => {
            let (one, other): (i64, i64) = (one.parse().ok()?, other.parse().ok()?);
            Some(one.saturating_add(other).to_string())
        }
    }
}

fn amount_per(limit: &str, unit: BudgetUnit, period: &Period) -> String {
    let amount = match unit {
        BudgetUnit::Usd => format!("${}", cents(limit)),
        BudgetUnit::Tokens | BudgetUnit::Requests => counted(limit, unit),
    };
    let period = match period {
        Period { calendar: Some(calendar), .. } => match calendar {
            CalendarPeriod::Hour => "/hour",
            CalendarPeriod::Day => "/day",
            CalendarPeriod::Week => "/week",
            CalendarPeriod::Month => "/month",
            CalendarPeriod::Year => "/year",
        }
        .to_owned(),
        Period { rolling: Some(rolling), .. } => format!("/{}", rolling.as_str()),
        Period { .. } => String::new(),
    };
    amount + &period
}

/// A number and what it counts; money is not counted.
fn counted(number: &str, unit: BudgetUnit) -> String {
    let (one, many) = match unit {
        BudgetUnit::Usd => ("", ""),
        BudgetUnit::Tokens => (" token", " tokens"),
        BudgetUnit::Requests => (" request", " requests"),
    };
    format!("{number}{}", if number == "1" { one } else { many })
}

/// At least two digits behind the point, as money is written.
fn cents(amount: &str) -> String {
    match amount.split_once('.') {
        None => format!("{amount}.00"),
        Some((_, decimals)) if decimals.len() == 1 => format!("{amount}0"),
        Some(_) => amount.to_owned(),
    }
}

/// What was used of a budget. Example: `$3.2711`.
pub fn spent(spend: SpendFact, unit: BudgetUnit) -> String {
    amount(spend.used, unit)
}

/// An amount of a budget's unit: money to a hundredth of a cent, rounded up. Example: `$3.2711`.
pub fn amount(amount: i64, unit: BudgetUnit) -> String {
    const NANO_PER_UNIT: i64 = 100_000;
    match unit {
        BudgetUnit::Usd => {
            let shown = amount.div_euclid(NANO_PER_UNIT) + i64::from(amount.rem_euclid(NANO_PER_UNIT) > 0);
            let decimals = format!("{:04}", shown.rem_euclid(10_000));
            let decimals = decimals.strip_suffix("00").unwrap_or(&decimals);
            format!("${}.{decimals}", shown.div_euclid(10_000))
        }
        BudgetUnit::Tokens | BudgetUnit::Requests => amount.to_string(),
    }
}

/// For a condition: what is left, and what a call would have needed.
pub fn near_limit(spend: SpendFact, unit: BudgetUnit) -> String {
    let left = spend.limit.saturating_sub(spend.used).saturating_sub(spend.held).max(0);
    let verb = if unit == BudgetUnit::Usd || left == 1 { "is" } else { "are" };
    let [left, needed] = [left, spend.refused].map(|one| counted(&amount(one, unit), unit));
    format!("{left} {verb} left, and calls are refused: the last ones had to reserve {needed} or more")
}

/// What was used of the limit; 100% only where nothing is left. Example: `7%`.
pub fn used_percent(SpendFact { used, limit, .. }: SpendFact) -> String {
    let (used, limit) = (i128::from(used), i128::from(limit.max(1)));
    let percent = if used >= limit { used * 100 / limit } else { ((used * 100 + limit / 2) / limit).min(99) };
    format!("{percent}%")
}

/// When a budget of this period begins anew, as a date (hours: a time), and in Unix seconds. `None`: it does not at one
/// moment, or the time zone is not known.
pub fn resets(period: &Period, now: Timestamp) -> Option<(String, i64)> {
    let calendar = period.calendar?;
    let zone = match &period.time_zone {
        None => TimeZone::UTC,
        Some(name) => TimeZone::get(name.as_str()).ok()?,
    };
    let local = now.to_zoned(zone.clone());
    let today = local.date();
    let next = match calendar {
        CalendarPeriod::Hour => {
            let next = local.round(ZonedRound::new().smallest(Unit::Hour).mode(RoundMode::Trunc)).ok()?;
            let next = next.checked_add(1.hour()).ok()?;
            return Some((next.strftime("%Y-%m-%dT%H:%M%:z").to_string(), next.timestamp().as_second()));
        }
        CalendarPeriod::Day => today.tomorrow().ok()?,
        CalendarPeriod::Week => today.checked_add((7 - today.weekday().to_monday_zero_offset()).days()).ok()?,
        CalendarPeriod::Month => today.first_of_month().checked_add(1.month()).ok()?,
        CalendarPeriod::Year => today.first_of_year().checked_add(1.year()).ok()?,
    };
    Some((next.to_string(), next.to_zoned(zone).ok()?.timestamp().as_second()))
}

/// A price per million. Example: `$2.50`.
pub fn price(per_million: &str) -> String {
    format!("${}", cents(per_million))
}

/// Names with commas between them, cut with `...` where there are too many.
pub fn names<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let mut text = String::new();
    for name in names {
        if !text.is_empty() {
            text.push(',');
        }
        if text.len() + name.len() > LONGEST_NAMES {
            text.push_str("...");
            break;
        }
        text.push_str(name);
    }
    text
}

/// Which calls a budget binds. Example: `keys env=dev, models gpt-4*`.
pub fn scope(scope: &BudgetScope) -> String {
    let BudgetScope { key_selector, team_selector, namespace_selector, users, end_users, tags, models, providers } =
        scope;
    let mut parts = Vec::new();
    for (what, chosen) in [("keys", key_selector), ("teams", team_selector), ("namespaces", namespace_selector)] {
        if let Some(selector) = chosen {
            parts.push(format!("{what} {}", selector_text(selector)));
        }
    }
    for (what, list) in
        [("users", users), ("end users", end_users), ("tags", tags), ("models", models), ("providers", providers)]
    {
        if !list.is_empty() {
            parts.push(format!("{what} {}", list.join("|")));
        }
    }
    let mut text = if parts.is_empty() { "all".to_owned() } else { parts.join(", ") };
    if text.len() > LONGEST_SCOPE {
        let end = (0..=LONGEST_SCOPE - 3).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    text
}

fn selector_text(selector: &LabelSelector) -> String {
    let LabelSelector { match_labels, match_expressions } = selector;
    let equal = match_labels.iter().map(|(name, value)| format!("{name}={value}"));
    let expressions = match_expressions.iter().map(|expression| {
        let values = expression.values.join("|");
        match expression.operator {
            LabelOperator::In => format!("{} in {values}", expression.key),
            LabelOperator::NotIn => format!("{} not in {values}", expression.key),
            LabelOperator::Exists => expression.key.clone(),
            LabelOperator::DoesNotExist => format!("no {}", expression.key),
        }
    });
    let all: Vec<String> = equal.chain(expressions).collect();
    if all.is_empty() { "all".to_owned() } else { all.join(" ") }
}

#[cfg(test)]
mod tests {
    use tollgate_crds::{DecimalText, DurationText, Lifetime};

    use super::*;

    #[test]
    fn limits_read_like_prices() {
        let month = || Period { calendar: Some(CalendarPeriod::Month), ..Period::default() };
        let rolling = || Period { rolling: Some(DurationText::new("24h")), ..Period::default() };
        let lifetime = || Period { lifetime: Some(Lifetime {}), ..Period::default() };
        for (amount, unit, period, text) in [
            ("50", BudgetUnit::Usd, month(), "$50.00/month"),
            ("0.5", BudgetUnit::Usd, rolling(), "$0.50/24h"),
            ("0.125", BudgetUnit::Usd, lifetime(), "$0.125"),
            ("1000", BudgetUnit::Tokens, month(), "1000 tokens/month"),
            ("7", BudgetUnit::Requests, lifetime(), "7 requests"),
            ("1", BudgetUnit::Requests, month(), "1 request/month"),
        ] {
            let enforcement = tollgate_crds::Enforcement::Hard;
            let terms = BudgetTerms { limit: DecimalText::new(amount), unit, period, enforcement };
            assert_eq!(limit(&terms), text);
        }
    }

    #[test]
    fn what_is_left_has_its_unit() {
        for (unit, used, refused, text) in [
            (
                BudgetUnit::Usd,
                980_000_000,
                50_000_000,
                "$0.02 is left, and calls are refused: the last ones had to reserve $0.05",
            ),
            (
                BudgetUnit::Tokens,
                999_999_700,
                412,
                "300 tokens are left, and calls are refused: the last ones had to reserve 412 tokens",
            ),
            (
                BudgetUnit::Tokens,
                999_999_999,
                2,
                "1 token is left, and calls are refused: the last ones had to reserve 2 tokens",
            ),
        ] {
            let spend = SpendFact { used, refused, limit: 1_000_000_000, ..SpendFact::default() };
            assert_eq!(near_limit(spend, unit), format!("{text} or more"));
        }
    }

    #[test]
    fn periods_end_where_the_calendar_says() {
        let now: Timestamp = "2026-11-28T23:30:00Z".parse().unwrap();
        let period = |calendar, zone: Option<&str>| Period {
            calendar: Some(calendar),
            time_zone: zone.map(Into::into),
            ..Period::default()
        };
        for (calendar, zone, date, moment) in [
            (CalendarPeriod::Hour, None, "2026-11-29T00:00+00:00", "2026-11-29T00:00:00Z"),
            (CalendarPeriod::Day, None, "2026-11-29", "2026-11-29T00:00:00Z"),
            (CalendarPeriod::Day, Some("Europe/Vienna"), "2026-11-30", "2026-11-29T23:00:00Z"),
            (CalendarPeriod::Week, None, "2026-11-30", "2026-11-30T00:00:00Z"),
            (CalendarPeriod::Month, None, "2026-12-01", "2026-12-01T00:00:00Z"),
            (CalendarPeriod::Year, None, "2027-01-01", "2027-01-01T00:00:00Z"),
        ] {
            let moment: Timestamp = moment.parse().unwrap();
            let expected = Some((date.to_owned(), moment.as_second()));
            assert_eq!(resets(&period(calendar, zone), now), expected, "{calendar:?} {zone:?}");
        }
        assert_eq!(resets(&period(CalendarPeriod::Day, Some("Nowhere")), now), None);
        assert_eq!(resets(&Period { lifetime: Some(Lifetime {}), ..Period::default() }, now), None);
    }

    #[test]
    fn a_scope_says_whom_it_binds() {
        assert_eq!(scope(&BudgetScope::default()), "all");
        let selector =
            LabelSelector { match_labels: [("env".to_owned(), "dev".to_owned())].into(), ..LabelSelector::default() };
        let bound = BudgetScope {
            key_selector: Some(selector),
            models: vec!["gpt-4*".into(), "llama".into()],
            ..BudgetScope::default()
        };
        assert_eq!(scope(&bound), "keys env=dev, models gpt-4*|llama");
        let many = BudgetScope { users: vec!["somebody@example.com".into(); 50], ..BudgetScope::default() };
        assert!(scope(&many).ends_with("...") && scope(&many).len() <= LONGEST_SCOPE);
    }

    #[test]
    fn names_are_cut_where_they_are_too_many() {
        assert_eq!(names(["a", "b"]), "a,b");
        assert!(names(["0123456789"; 200]).ends_with(",..."));
    }
}
