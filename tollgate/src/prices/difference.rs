//! How two prices of a model differ. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use tollgate_snapshot::price::{OffPeak, PriceSheet, Row, Unit};

use super::words;

/// Something of a price that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// What the rate is for, in words.
    pub rate: String,
    /// The prices are for so many units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per: Option<u64>,
    /// USD, decimal text; absent: there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
    /// Change in hundredths of a percent, rounded towards zero; absent where there is nothing to compare with.
    #[serde(skip)]
    pub basis_points: Option<i128>,
}

/// In the order of units and conditions; empty where calls cost the same.
pub fn of_sheets(old: Option<&PriceSheet>, new: Option<&PriceSheet>) -> Vec<Difference> {
    let mut rows: BTreeMap<(Unit, String), [Option<&Row>; 2]> = BTreeMap::new();
    for (side, sheet) in [old, new].into_iter().enumerate() {
        for row in sheet.map(PriceSheet::rows).unwrap_or_default() {
            rows.entry((row.unit, words::of_row(row))).or_default()[side] = Some(row);
        }
    }
    let mut differences = Vec::new();
    for ((unit, rate), [old, new]) in rows {
        if old.map(|row| row.rate) == new.map(|row| row.rate) {
            continue;
        }
        let price = |row: Option<&Row>| row.map(|row| words::price(unit, row.rate));
        let basis_points = match (old, new) {
            (Some(old), Some(new)) if old.rate.0 > 0 => {
                (new.rate.0 - old.rate.0).checked_mul(10_000).map(|change| change / old.rate.0)
            }
            _ => None,
        };
        let (old, new) = (price(old), price(new));
        differences.push(Difference { rate, per: Some(words::per(unit)), old, new, basis_points });
    }
    let factors = |sheet: Option<&PriceSheet>| -> BTreeMap<String, String> {
        let all = sheet.map(PriceSheet::multipliers).unwrap_or_default().iter();
        all.map(|factor| (factor.name.to_string(), thousandths(factor.parts_per_million))).collect()
    };
    let (before, after) = (factors(old), factors(new));
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let (old, new) = (before.get(name).cloned(), after.get(name).cloned());
        if old != new {
            let rate = format!("factor {}", name.replace('_', " "));
            differences.push(Difference { rate, per: None, old, new, basis_points: None });
        }
    }
    let hours = |sheet: Option<&PriceSheet>| {
        let hours = sheet.map(PriceSheet::off_peak).unwrap_or_default();
        (!hours.is_empty()).then(|| hours.iter().map(window).collect::<Vec<_>>().join(", "))
    };
    let (old, new) = (hours(old), hours(new));
    if old != new {
        differences.push(Difference { rate: "off-peak hours".to_owned(), per: None, old, new, basis_points: None });
    }
    differences
}

/// A factor as people write it: `1.1`.
fn thousandths(parts_per_million: u32) -> String {
    let text = format!("{}.{:06}", parts_per_million / 1_000_000, parts_per_million % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `Mon Tue 10:00-00:00`
fn window(hours: &OffPeak) -> String {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let OffPeak { weekdays, from_minute, to_minute } = hours;
    let days = DAYS.iter().enumerate().filter(|(day, _)| weekdays >> day & 1 == 1).map(|(_, name)| *name);
    let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
    format!("{} {}-{}", days.collect::<Vec<_>>().join(" "), time(*from_minute), time(*to_minute))
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Difference { rate, per, old, new, basis_points } = self;
        let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        write!(f, "{rate}: {} → {}", shown(old), shown(new))?;
        if *per == Some(1_000_000) {
            f.write_str(" per million")?;
        }
        match basis_points {
            None => Ok(()),
            Some(points) => {
                let sign = if *points < 0 { "-" } else { "+" };
                write!(f, " ({sign}{}.{:02}%)", points.abs() / 100, points.abs() % 100)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_snapshot::price::Multiplier;

    fn sheet(rows: &[&str], factor: Option<u32>) -> PriceSheet {
        let rows = rows.iter().map(|row| Row::parse(row).unwrap()).collect();
        let factors = factor.map(|parts_per_million| Multiplier { name: "us".into(), parts_per_million });
        PriceSheet::new("x".into(), rows, Vec::new(), factors.into_iter().collect())
    }

    #[test]
    fn only_what_differs_is_told_and_in_usd_per_million_tokens() {
        let old = sheet(&["in 0.0000025", "out 0.00001", "out 0.000005 tier=batch", "oimg 0.04"], None);
        let new = sheet(&["in 0.0000022", "out 0.00001", "cr 0.000001 from=272001", "oimg 0.05"], Some(1_100_000));
        let lines: Vec<String> = of_sheets(Some(&old), Some(&new)).iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "input token: 2.5 → 2.2 per million (-12.00%)",
                "output token, batch: 5 → - per million",
                "cache read token, from 272001 input tokens: - → 1 per million",
                "output image: 0.04 → 0.05 (+25.00%)",
                "factor us: - → 1.1",
            ]
        );
        assert_eq!(of_sheets(Some(&old), Some(&old)), []);
        assert_eq!(of_sheets(None, Some(&sheet(&["in 0.000001"], None))).len(), 1);
    }

    #[test]
    fn versions_do_not_count() {
        let one = sheet(&["in 1"], None);
        assert_eq!(of_sheets(Some(&one), Some(&one.named("another"))), []);
    }
}
