//! `max_budget` and `budget_duration` of the whole gateway as a Budget. Soft, as LiteLLM holds its budgets.

use tollgate_crds::{
    AllowedNamespaces, BudgetScope, BudgetSpec, BudgetUnit, CalendarPeriod, DecimalText, DurationText, Enforcement,
    Lifetime, Period, TimeZoneText, WhenExhausted,
};

use crate::context::Context;
use crate::settings::{Home, Settings};

/// Digits of a limit that a resource takes behind the point.
const MOST_PLACES: i32 = 24;

/// The budget of all calls, where the file sets one.
pub fn budget(settings: &mut Settings, context: &mut Context<'_>) -> Option<BudgetSpec> {
    let amount = settings.take("max_budget", &[Home::Litellm], context);
    let duration = settings.take("budget_duration", &[Home::Litellm], context);
    let zone = settings.take("timezone", &[Home::Litellm], context);
    for key in ["budget_reset_time", "budget_reset_at"] {
        let Some(item) = settings.take(key, &[Home::Litellm], context) else { continue };
        if context.text(&item).is_none_or(|time| time != "00:00") {
            context.unsupported(&item.path, "is not supported: periods begin at midnight", "");
        } else if duration.is_none() {
            context.unsupported(&item.path, "needs budget_duration", "");
        }
    }
    let Some(amount) = amount else {
        for item in [duration, zone].into_iter().flatten() {
            context.unsupported(&item.path, "does nothing without max_budget", "");
        }
        return None;
    };
    let limit = context.decimal(&amount)?;
    if limit.places() > MOST_PLACES {
        context.unexpected(&amount, "an amount of money");
        return None;
    }
    let mut period = match &duration {
        None => lifetime(),
        Some(item) => {
            let text = context.text(item)?;
            match period(&text) {
                Some((period, is_aligned)) => {
                    if !is_aligned {
                        let message =
                            format!("`{text}` counts what was spent in the time up to now; it has no fixed beginning");
                        context.notes.warn(&item.path, message, "1h, 1d, 7d, 30d and 1y are periods of the calendar");
                    }
                    period
                }
                None => {
                    context.unexpected(item, "a duration such as 30d");
                    return None;
                }
            }
        }
    };
    if let Some(item) = zone {
        if period.calendar.is_some() {
            period.time_zone = context.text(&item).map(TimeZoneText::new);
        } else {
            context.unsupported(&item.path, "matters only to periods of the calendar", "");
        }
    }
    let limit = DecimalText::new(limit.text());
    if limit.get().is_err() {
        context.unexpected(&amount, "an amount below 10^15");
        return None;
    }
    Some(BudgetSpec {
        limit,
        unit: BudgetUnit::Usd,
        period,
        enforcement: Enforcement::Soft,
        applies_to: BudgetScope::default(),
        per: None,
        parent_ref: None,
        thresholds: Vec::new(),
        when_low: None,
        when_exhausted: WhenExhausted::default(),
        boost: None,
        reset_token: None,
        on_allocator_unavailable: None,
        allowed_namespaces: AllowedNamespaces::default(),
    })
}

fn lifetime() -> Period {
    Period { lifetime: Some(Lifetime {}), ..Period::default() }
}

/// LiteLLM resets `30d` on the first of the month, `7d` on Monday, and so on; what it counts from midnight in other
/// steps becomes rolling. The flag: whether the period begins where LiteLLM's does.
fn period(text: &str) -> Option<(Period, bool)> {
    let calendar = |period| Some((Period { calendar: Some(period), ..Period::default() }, true));
    let text = text.trim().to_ascii_lowercase();
    match text.as_str() {
        "hourly" | "1h" | "60m" | "3600s" => return calendar(CalendarPeriod::Hour),
        "daily" | "1d" | "24h" | "86400s" => return calendar(CalendarPeriod::Day),
        "weekly" | "7d" | "1w" => return calendar(CalendarPeriod::Week),
        "monthly" | "30d" | "1mo" => return calendar(CalendarPeriod::Month),
        "yearly" | "1y" | "12mo" | "365d" => return calendar(CalendarPeriod::Year),
        _ => {}
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok().filter(|number| *number > 0)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        "mo" => 30 * 86_400,
        "y" => 365 * 86_400,
        _ => return None,
    };
    let seconds = number.checked_mul(seconds)?;
    let rolling = if seconds % 3_600 == 0 { format!("{}h", seconds / 3_600) } else { format!("{seconds}s") };
    let rolling = DurationText::new(rolling);
    rolling.get().ok()?;
    Some((Period { rolling: Some(rolling), ..Period::default() }, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_become_the_periods_that_litellm_resets_by() {
        for (text, expected) in [
            ("1h", "hour"),
            ("24h", "day"),
            ("1d", "day"),
            ("daily", "day"),
            ("7d", "week"),
            ("30d", "month"),
            ("1mo", "month"),
            ("Monthly", "month"),
            ("1y", "year"),
            ("90d", "2160h"),
            ("2w", "336h"),
            ("45s", "45s"),
            ("90m", "5400s"),
            ("0d", "none"),
            ("d", "none"),
            ("", "none"),
            ("5 parsecs", "none"),
            ("99999999999999999999d", "none"),
        ] {
            let read = match period(text) {
                None => "none".to_owned(),
                Some((Period { calendar: Some(calendar), .. }, true)) => format!("{calendar:?}").to_lowercase(),
                Some((Period { rolling: Some(rolling), .. }, false)) => rolling.as_str().to_owned(),
                Some(other) => panic!("{other:?}"),
            };
            assert_eq!(read, expected, "{text}");
        }
    }
}
