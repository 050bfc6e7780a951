//! Texts and numbers of resources as what they stand for: durations, moments, amounts, rates per minute, public model
//! names. The schema has checked them where there is one; files come here unchecked.

use std::sync::LazyLock;

use tollgate_crds as crds;
use tollgate_crds::{BudgetUnit, CalendarPeriod, DecimalText, DurationText, TimestampText};

use crate::model::{self, CalendarUnit, Cooldown, ErrorClass, Limits, ModelSet, Name, Period, Retries, Timeouts};
use crate::money::NanoUsd;

use super::report::{Report, Subject};
use crate::finding::Reason;

/// The time zone of almost all periods.
static UTC: LazyLock<Name> = LazyLock::new(|| "UTC".into());

/// Buckets of a rolling period: each must last a second at least.
const ROLLING_BUCKETS: u64 = 24;

/// Reports what is wrong with a value, and remembers that something was.
pub(super) struct Reader<'r, 's> {
    pub report: &'r mut Report,
    pub subject: Subject<'s>,
    pub broken: bool,
}

impl<'r, 's> Reader<'r, 's> {
    pub fn new(report: &'r mut Report, subject: Subject<'s>) -> Reader<'r, 's> {
        Reader { report, subject, broken: false }
    }

    pub fn invalid(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.broken = true;
        self.report.error(self.subject, Reason::InvalidValue, field, message);
    }

    pub fn exactly_one(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.broken = true;
        self.report.error(self.subject, Reason::ExactlyOne, field, message);
    }

    pub fn duration_ms(&mut self, field: &str, text: Option<&DurationText>) -> Option<u64> {
        match text?.get() {
            Ok(duration) => Some(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
            Err(error) => {
                self.invalid(field, error.to_string());
                None
            }
        }
    }

    /// `None` where the value is missing or below `least`.
    pub fn at_least(&mut self, field: &str, least: i64, value: Option<i64>) -> Option<u64> {
        let value = value?;
        if value < least {
            self.invalid(field, format!("{value} is too small; the least is {least}"));
            return None;
        }
        u64::try_from(value).ok()
    }

    pub fn limits(&mut self, field: &str, limits: crds::Limits) -> Limits {
        let crds::Limits {
            requests_per_minute,
            tokens_per_minute,
            input_tokens_per_minute,
            output_tokens_per_minute,
            parallel_requests,
        } = limits;
        Limits {
            requests_per_minute: self.limit(field, "requestsPerMinute", requests_per_minute),
            tokens_per_minute: self.limit(field, "tokensPerMinute", tokens_per_minute),
            input_tokens_per_minute: self.limit(field, "inputTokensPerMinute", input_tokens_per_minute),
            output_tokens_per_minute: self.limit(field, "outputTokensPerMinute", output_tokens_per_minute),
            parallel_requests: self.limit(field, "parallelRequests", parallel_requests),
        }
    }

    fn limit(&mut self, field: &str, name: &str, value: Option<i64>) -> Option<u64> {
        match value {
            Some(..1) => self.at_least(&format!("{field}.{name}"), 1, value),
            _ => value.and_then(|value| u64::try_from(value).ok()),
        }
    }

    pub fn timeouts(&mut self, field: &str, timeouts: &crds::Timeouts) -> Timeouts {
        let crds::Timeouts { connect, first_byte, idle, total } = timeouts;
        let mut read = |name: &str, text: &Option<DurationText>| {
            let text = text.as_ref()?;
            self.duration_ms(&format!("{field}.{name}"), Some(text))
        };
        Timeouts {
            connect_ms: read("connect", connect),
            first_byte_ms: read("firstByte", first_byte),
            idle_ms: read("idle", idle),
            total_ms: read("total", total),
        }
    }

    /// What is not written comes from `wider`.
    pub fn retries(&mut self, field: &str, retries: Option<&crds::Retries>, wider: &Retries) -> Retries {
        let Some(crds::Retries { attempts, errors, backoff }) = retries else { return wider.clone() };
        let backoff = backoff.clone().unwrap_or_default();
        let crds::Backoff { initial, max } = &backoff;
        let attempts = self.at_least(&format!("{field}.attempts"), 0, attempts.map(i64::from));
        let initial = self.duration_ms(&format!("{field}.backoff.initial"), initial.as_ref());
        let max = self.duration_ms(&format!("{field}.backoff.max"), max.as_ref());
        let initial_backoff_ms = initial.unwrap_or(wider.initial_backoff_ms);
        Retries {
            attempts: attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(wider.attempts),
            errors: if errors.is_empty() { wider.errors.clone() } else { error_classes(errors) },
            initial_backoff_ms,
            max_backoff_ms: max.unwrap_or(wider.max_backoff_ms).max(initial_backoff_ms),
        }
    }

    /// What is not written comes from `wider`; a cooldown that somebody wrote rests a lone upstream too.
    pub fn cooldown(&mut self, field: &str, cooldown: Option<&crds::Cooldown>, wider: Cooldown) -> Cooldown {
        let Some(crds::Cooldown { failures, window, duration }) = cooldown else { return wider };
        let failures = self.at_least(&format!("{field}.failures"), 1, failures.map(i64::from));
        Cooldown {
            failures: failures.and_then(|failures| u32::try_from(failures).ok()).unwrap_or(wider.failures),
            window_ms: self.duration_ms(&format!("{field}.window"), window.as_ref()).unwrap_or(wider.window_ms),
            duration_ms: self.duration_ms(&format!("{field}.duration"), duration.as_ref()).unwrap_or(wider.duration_ms),
            even_alone: true,
        }
    }

    /// Nano-USD, tokens or requests.
    pub fn amount(&mut self, field: impl FnOnce() -> String, text: &DecimalText, unit: BudgetUnit) -> Option<i64> {
        let text = match text.get() {
            Ok(text) => text,
            Err(error) => {
                self.invalid(field(), error.to_string());
                return None;
            }
        };
        let amount = match unit {
            BudgetUnit::Usd => NanoUsd::parse(text).map(|amount| amount.0).map_err(|error| error.to_string()),
            BudgetUnit::Tokens | BudgetUnit::Requests => whole_number(text),
        };
        amount.map_err(|message| self.invalid(field(), message)).ok()
    }

    pub fn period(&mut self, field: impl Fn() -> String, period: &crds::Period) -> Option<Period> {
        let crds::Period { calendar, time_zone, rolling, lifetime } = period;
        if time_zone.is_some() && calendar.is_none() {
            self.invalid(format!("{}.timeZone", field()), "timeZone belongs beside calendar only");
        }
        match (calendar, rolling, lifetime) {
            (Some(unit), None, None) => {
                let time_zone = match time_zone {
                    Some(time_zone) => self.time_zone(&format!("{}.timeZone", field()), time_zone)?,
                    None => UTC.clone(),
                };
                Some(Period::Calendar { unit: calendar_unit(*unit), time_zone })
            }
            (None, Some(duration), None) => {
                let field = format!("{}.rolling", field());
                let seconds = self.duration_ms(&field, Some(duration))? / 1_000;
                if seconds < ROLLING_BUCKETS {
                    self.invalid(field, format!("a rolling period lasts {ROLLING_BUCKETS}s at least"));
                    return None;
                }
                Some(Period::Rolling { seconds: i64::try_from(seconds).ok()? })
            }
            (None, None, Some(crds::Lifetime {})) => Some(Period::Lifetime),
            _ => {
                self.exactly_one(field(), "exactly one of calendar, rolling, lifetime must be set");
                None
            }
        }
    }

    fn time_zone(&mut self, field: &str, text: &crds::TimeZoneText) -> Option<Name> {
        let known = match text.get() {
            Ok(name) => jiff::tz::TimeZone::get(name).map_err(|_| format!("no time zone is called `{name}`")),
            Err(error) => Err(error.to_string()),
        };
        match known {
            Ok(_) => Some(text.as_str().into()),
            Err(message) => {
                self.invalid(field, message);
                None
            }
        }
    }

    /// Unix seconds.
    pub fn moment(&mut self, field: &str, text: &TimestampText) -> Option<i64> {
        match text.get() {
            Ok(moment) => Some(match moment.duration_since(std::time::UNIX_EPOCH) {
                Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                Err(_) => 0,
            }),
            Err(error) => {
                self.invalid(field, error.to_string());
                None
            }
        }
    }

    /// Whether a text can be a public name: not empty, and a `*` at its end only.
    pub fn public_name(&mut self, field: impl FnOnce() -> String, name: &str) -> bool {
        let fault = match name.find('*') {
            _ if name.is_empty() => "a model name must not be empty",
            Some(at) if at + 1 < name.len() => "a model name may have one `*`, at its end",
            _ if name.bytes().any(|byte| byte.is_ascii_control()) => "a model name must not have control characters",
            _ => return true,
        };
        self.invalid(field(), format!("`{name}`: {fault}"));
        false
    }

    /// `None` for an empty list. What cannot be a name is left out; a list of such names only allows nothing, for to
    /// drop it would allow everything.
    pub fn model_set(&mut self, field: &str, names: &[String]) -> Option<ModelSet> {
        if names.is_empty() {
            return None;
        }
        let mut good = Vec::with_capacity(names.len());
        for (at, name) in names.iter().enumerate() {
            if self.public_name(|| format!("{field}[{at}]"), name) {
                good.push(name.as_str());
            }
        }
        Some(ModelSet::new(good))
    }
}

/// Limits whose text could not be read as they were before; all others as they are written.
pub(super) fn kept_limits(written: &crds::Limits, read: Limits, last: Limits) -> Limits {
    let crds::Limits {
        requests_per_minute,
        tokens_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        parallel_requests,
    } = written;
    let keep = |written: Option<i64>, read: Option<u64>, last: Option<u64>| match (written, read) {
        (Some(_), None) => last,
        (Some(_) | None, read) => read,
    };
    Limits {
        requests_per_minute: keep(*requests_per_minute, read.requests_per_minute, last.requests_per_minute),
        tokens_per_minute: keep(*tokens_per_minute, read.tokens_per_minute, last.tokens_per_minute),
        input_tokens_per_minute: keep(
            *input_tokens_per_minute,
            read.input_tokens_per_minute,
            last.input_tokens_per_minute,
        ),
        output_tokens_per_minute: keep(
            *output_tokens_per_minute,
            read.output_tokens_per_minute,
            last.output_tokens_per_minute,
        ),
        parallel_requests: keep(*parallel_requests, read.parallel_requests, last.parallel_requests),
    }
}

/// Names that both allow.
pub(super) fn intersect(a: &ModelSet, b: &ModelSet) -> ModelSet {
    let exact = a.exact.iter().filter(|name| b.contains(name)).chain(b.exact.iter().filter(|name| a.contains(name)));
    let mut exact: Vec<Name> = exact.cloned().collect();
    exact.sort();
    exact.dedup();
    let narrower = |one: &ModelSet, other: &ModelSet| -> Vec<Name> {
        let within = |prefix: &Name| other.prefixes.iter().any(|wide| prefix.starts_with(&**wide));
        one.prefixes.iter().filter(|prefix| within(prefix)).cloned().collect()
    };
    let mut prefixes = narrower(a, b);
    prefixes.extend(narrower(b, a));
    prefixes.sort();
    prefixes.dedup();
    ModelSet { exact, prefixes }
}

/// Names that either allows.
pub(super) fn unite(a: &ModelSet, b: &ModelSet) -> ModelSet {
    let join = |one: &[Name], other: &[Name]| -> Vec<Name> {
        let mut all: Vec<Name> = one.iter().chain(other).cloned().collect();
        all.sort();
        all.dedup();
        all
    };
    ModelSet { exact: join(&a.exact, &b.exact), prefixes: join(&a.prefixes, &b.prefixes) }
}

pub(super) fn error_classes(classes: &[crds::ErrorClass]) -> Vec<ErrorClass> {
    let mut all = Vec::with_capacity(classes.len());
    for class in classes {
        let class = match class {
            crds::ErrorClass::Any => ErrorClass::Any,
            crds::ErrorClass::RateLimit => ErrorClass::RateLimit,
            crds::ErrorClass::Timeout => ErrorClass::Timeout,
            crds::ErrorClass::ServerError => ErrorClass::ServerError,
            crds::ErrorClass::Connect => ErrorClass::Connect,
            crds::ErrorClass::Authentication => ErrorClass::Authentication,
            crds::ErrorClass::ContextWindow => ErrorClass::ContextWindow,
            crds::ErrorClass::ContentPolicy => ErrorClass::ContentPolicy,
        };
        if !all.contains(&class) {
            all.push(class);
        }
    }
    all
}

pub(super) fn budget_unit(unit: BudgetUnit) -> model::BudgetUnit {
    match unit {
        BudgetUnit::Usd => model::BudgetUnit::Usd,
        BudgetUnit::Tokens => model::BudgetUnit::Tokens,
        BudgetUnit::Requests => model::BudgetUnit::Requests,
    }
}

fn calendar_unit(unit: CalendarPeriod) -> CalendarUnit {
    match unit {
        CalendarPeriod::Hour => CalendarUnit::Hour,
        CalendarPeriod::Day => CalendarUnit::Day,
        CalendarPeriod::Week => CalendarUnit::Week,
        CalendarPeriod::Month => CalendarUnit::Month,
        CalendarPeriod::Year => CalendarUnit::Year,
    }
}

fn whole_number(text: &str) -> Result<i64, String> {
    let whole = match text.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|digit| digit == b'0') => whole,
        Some(_) => return Err(format!("`{text}` is not a whole number")),
        None => text,
    };
    whole.parse().map_err(|_| format!("`{text}` is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(names: &[&str]) -> ModelSet {
        ModelSet::new(names.iter().copied())
    }

    #[test]
    fn whole_numbers_may_have_empty_fractions() {
        assert_eq!(whole_number("12"), Ok(12));
        assert_eq!(whole_number("12.000"), Ok(12));
        assert!(whole_number("12.5").is_err());
    }

    #[test]
    fn two_sets_intersect_to_the_narrower_pattern() {
        assert_eq!(intersect(&set(&["gpt-4*"]), &set(&["gpt-*"])), set(&["gpt-4*"]));
        assert_eq!(intersect(&set(&["gpt-4*", "chat"]), &set(&["gpt-4o", "llama"])), set(&["gpt-4o"]));
        assert_eq!(intersect(&set(&["*"]), &set(&["a", "b*"])), set(&["a", "b*"]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn intersection_and_union_agree_with_membership(
            a in proptest::collection::vec("[ab]{0,2}\\*?", 0..4),
            b in proptest::collection::vec("[ab]{0,2}\\*?", 0..4),
            name in "[ab]{0,4}",
        ) {
            let (a, b) = (ModelSet::new(a.iter().map(String::as_str)), ModelSet::new(b.iter().map(String::as_str)));
            prop_assert_eq!(intersect(&a, &b).contains(&name), a.contains(&name) && b.contains(&name));
            prop_assert_eq!(unite(&a, &b).contains(&name), a.contains(&name) || b.contains(&name));
        }
    }
}
