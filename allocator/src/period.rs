//! When a budget begins anew: calendar periods in a time zone, rolling windows in 24 buckets, or never. Pure functions
//! of unix seconds; nothing here is called for each request, the end of the current period is kept with its account.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span as Duration, Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

/// The period of a budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Period {
    /// `time_zone` is an IANA name; one that is unknown counts as UTC.
    Calendar {
        unit: CalendarUnit,
        time_zone: String,
    },
    /// The last so many seconds, in 24 buckets; each expires whole, its end plus the duration later.
    Rolling {
        seconds: i64,
    },
    Lifetime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CalendarUnit {
    Hour,
    Day,
    /// From Monday.
    Week,
    Month,
    Year,
}

/// What a stretch of time is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    Hour,
    Day,
    Week,
    Month,
    Year,
    Bucket,
    Lifetime,
}

/// One period, or one bucket of a rolling window. Unix seconds; the end is outside.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    pub kind: Kind,
    pub starts_at: i64,
    pub ends_at: i64,
    /// What was spent in it counts until then.
    pub counts_until: i64,
    pub label: String,
}

/// Buckets of a rolling window: precise enough to be useful, few enough to sum.
const BUCKETS: i64 = 24;

impl Period {
    /// The stretch that a moment lies in.
    pub fn span(&self, at: i64) -> Span {
        match self {
            Period::Calendar { unit, time_zone } => calendar(*unit, &zone(time_zone), at),
            Period::Rolling { seconds } => {
                let duration = (*seconds).max(1);
                let width = (duration + BUCKETS - 1) / BUCKETS;
                let starts_at = at.div_euclid(width) * width;
                let ends_at = starts_at + width;
                let label = format!("{} to {}", compact(duration), instant(ends_at));
                Span { kind: Kind::Bucket, starts_at, ends_at, counts_until: ends_at + duration, label }
            }
            Period::Lifetime => Span {
                kind: Kind::Lifetime,
                starts_at: 0,
                ends_at: i64::MAX,
                counts_until: i64::MAX,
                label: "lifetime".to_owned(),
            },
        }
    }

    /// Whether what was spent in `earlier` counts against a limit now, in `current`.
    pub fn counts(&self, earlier: &Span, current: &Span, now: i64) -> bool {
        if earlier.kind != current.kind {
            return false;
        }
        match self {
            // A changed time zone shifts the ends: what overlaps counts whole.
            Period::Calendar { .. } => earlier.starts_at < current.ends_at && earlier.ends_at > current.starts_at,
            Period::Rolling { seconds } => earlier.ends_at.saturating_add(*seconds) > now.max(current.starts_at),
            Period::Lifetime => true,
        }
    }
}

fn zone(name: &str) -> TimeZone {
    if name.is_empty() || name == "UTC" {
        return TimeZone::UTC;
    }
    TimeZone::get(name).unwrap_or_else(|error| {
        tracing::error!(%error, "time zone `{name}` is not known: its budgets count by UTC");
        TimeZone::UTC
    })
}

fn calendar(unit: CalendarUnit, zone: &TimeZone, at: i64) -> Span {
    let timestamp = Timestamp::from_second(at.clamp(MIN_SECOND, MAX_SECOND)).expect("clamped into jiff's range");
    let local = zone.to_datetime(timestamp);
    let date = local.date();
    let (kind, starts_at, ends_at, label) = match unit {
        CalendarUnit::Hour => {
            // By the offset of the moment, so that the hour a clock shows twice in autumn is two hours.
            let offset = i64::from(zone.to_offset(timestamp).seconds());
            let start = (timestamp.as_second() + offset).div_euclid(3600) * 3600 - offset;
            let sign = if offset < 0 { '-' } else { '+' };
            let (hours, minutes) = (offset.abs() / 3600, offset.abs() % 3600 / 60);
            let label = format!("{date}T{:02}{sign}{hours:02}:{minutes:02}", local.hour());
            return Span {
                kind: Kind::Hour,
                starts_at: start,
                ends_at: start + 3600,
                counts_until: start + 3600,
                label,
            };
        }
        CalendarUnit::Day => (Kind::Day, date, shift(date, 1.day()), date.to_string()),
        CalendarUnit::Week => {
            let monday = shift(date, (-i64::from(date.weekday().to_monday_zero_offset())).days());
            let week = date.iso_week_date();
            (Kind::Week, monday, shift(monday, 7.days()), format!("{}-W{:02}", week.year(), week.week()))
        }
        CalendarUnit::Month => {
            let first = date.first_of_month();
            (Kind::Month, first, shift(first, 1.month()), format!("{:04}-{:02}", date.year(), date.month()))
        }
        CalendarUnit::Year => {
            let first = date.first_of_year();
            (Kind::Year, first, shift(first, 1.year()), format!("{:04}", date.year()))
        }
    };
    let ends_at = midnight(zone, ends_at);
    Span { kind, starts_at: midnight(zone, starts_at), ends_at, counts_until: ends_at, label }
}

/// 1900 and 2200: what is outside is a broken clock.
const MIN_SECOND: i64 = -2_208_988_800;
const MAX_SECOND: i64 = 7_258_118_400;

fn shift(date: Date, by: Duration) -> Date {
    date.saturating_add(by)
}

/// The first moment of a day; where clocks jump over midnight, the moment they jump.
fn midnight(zone: &TimeZone, date: Date) -> i64 {
    let datetime = DateTime::from_parts(date, Time::midnight());
    zone.to_ambiguous_timestamp(datetime).compatible().map_or(i64::MAX, |moment| moment.as_second())
}

fn compact(seconds: i64) -> String {
    match seconds {
        _ if seconds % 86_400 == 0 => format!("{}d", seconds / 86_400),
        _ if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        _ if seconds % 60 == 0 => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

fn instant(at: i64) -> String {
    Timestamp::from_second(at.clamp(MIN_SECOND, MAX_SECOND))
        .map_or_else(|_| at.to_string(), |moment| moment.to_string())
}
