//! When periods begin and end, by tables: time zones, clock changes, leap days.

use jiff::Timestamp;
use proptest::prelude::*;
use tollgate_allocator::{CalendarUnit, Period};
use tollgate_faults::{seeds, this_test};

fn at(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_second()
}

fn calendar(unit: CalendarUnit, time_zone: &str) -> Period {
    Period::Calendar { unit, time_zone: time_zone.to_owned() }
}

#[test]
fn calendar_periods_follow_the_clocks_of_their_zone() {
    use CalendarUnit::{Day, Hour, Month, Week, Year};
    for (unit, zone, moment, label, starts_at, ends_at) in [
        (Day, "UTC", "2026-11-21T23:59:59Z", "2026-11-21", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"),
        (Day, "Europe/Vienna", "2026-11-21T23:30:00Z", "2026-11-22", "2026-11-21T23:00:00Z", "2026-11-22T23:00:00Z"),
        // Days of 23 and 25 hours.
        (Day, "Europe/Vienna", "2026-03-29T12:00:00Z", "2026-03-29", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
        (Day, "Europe/Vienna", "2026-10-25T12:00:00Z", "2026-10-25", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
        // Clocks that jump over midnight: the day begins at one.
        (Day, "Africa/Cairo", "2026-04-24T10:00:00Z", "2026-04-24", "2026-04-23T22:00:00Z", "2026-04-24T21:00:00Z"),
        (Day, "UTC", "2028-02-29T12:00:00Z", "2028-02-29", "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"),
        (Hour, "UTC", "2026-11-21T14:59:59Z", "2026-11-21T14+00:00", "2026-11-21T14:00:00Z", "2026-11-21T15:00:00Z"),
        // The hour that the clock shows twice is two hours.
        (
            Hour,
            "Europe/Vienna",
            "2026-10-25T00:30:00Z",
            "2026-10-25T02+02:00",
            "2026-10-25T00:00:00Z",
            "2026-10-25T01:00:00Z",
        ),
        (
            Hour,
            "Europe/Vienna",
            "2026-10-25T01:30:00Z",
            "2026-10-25T02+01:00",
            "2026-10-25T01:00:00Z",
            "2026-10-25T02:00:00Z",
        ),
        (
            Hour,
            "Asia/Kolkata",
            "2026-11-21T14:10:00Z",
            "2026-11-21T19+05:30",
            "2026-11-21T13:30:00Z",
            "2026-11-21T14:30:00Z",
        ),
        (Week, "UTC", "2026-11-22T23:00:00Z", "2026-W47", "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"),
        (Week, "UTC", "2027-01-01T00:00:00Z", "2026-W53", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"),
        (Month, "UTC", "2028-02-29T00:00:00Z", "2028-02", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
        (Month, "America/New_York", "2026-12-01T04:59:59Z", "2026-11", "2026-11-01T04:00:00Z", "2026-12-01T05:00:00Z"),
        (Year, "Pacific/Auckland", "2025-12-31T11:00:00Z", "2026", "2025-12-31T11:00:00Z", "2026-12-31T11:00:00Z"),
    ] {
        let span = calendar(unit, zone).span(at(moment));
        assert_eq!(
            (span.label.as_str(), span.starts_at, span.ends_at),
            (label, at(starts_at), at(ends_at)),
            "{unit:?} {zone} {moment}"
        );
    }
}

#[test]
fn a_rolling_window_has_buckets_that_expire_whole() {
    let day = Period::Rolling { seconds: 86_400 };
    let bucket = day.span(at("2026-11-21T13:20:00Z"));
    assert_eq!((bucket.starts_at, bucket.ends_at), (at("2026-11-21T13:00:00Z"), at("2026-11-21T14:00:00Z")));
    assert_eq!(bucket.counts_until, at("2026-11-22T14:00:00Z"));
    let later = |text: &str| (day.span(at(text)), at(text));
    for (moment, counts) in
        [("2026-11-21T15:00:00Z", true), ("2026-11-22T13:59:59Z", true), ("2026-11-22T14:00:00Z", false)]
    {
        let (current, now) = later(moment);
        assert_eq!(day.counts(&bucket, &current, now), counts, "{moment}");
    }
}

#[test]
fn an_unknown_zone_counts_by_utc() {
    let moment = at("2026-11-21T23:30:00Z");
    let (odd, utc) = (calendar(CalendarUnit::Day, "Mars/Olympus"), calendar(CalendarUnit::Day, "UTC"));
    assert_eq!(odd.span(moment), utc.span(moment));
}

#[test]
fn periods_cover_time_without_gap_or_overlap() {
    use CalendarUnit::{Day, Hour, Month, Week, Year};
    let zones = vec!["UTC", "Europe/Vienna", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Tehran"];
    let units = vec![Hour, Day, Week, Month, Year];
    let moments = (-2_000_000_000i64..7_000_000_000, prop::sample::select(units), prop::sample::select(zones));
    seeds::property(this_test!(), 256, &moments, |(seconds, unit, zone)| {
        let period = calendar(unit, zone);
        let span = period.span(seconds);
        prop_assert!(span.starts_at <= seconds && seconds < span.ends_at);
        prop_assert_eq!(&period.span(span.starts_at), &span);
        prop_assert_eq!(&period.span(span.ends_at - 1), &span);
        prop_assert_eq!(period.span(span.ends_at).starts_at, span.ends_at);
        Ok(())
    });
}
