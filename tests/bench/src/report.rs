//! The table: one row per metric and leg, and whether a floor was missed. Knows no measurement.

use std::fmt::Write as _;

use crate::statistics::Ratio;

/// What a row must keep. Floors fail a checked run, goals are only told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    pub floor: Option<f64>,
    pub goal: Option<f64>,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub metric: String,
    pub leg: String,
    pub value: String,
    pub nginx: String,
    pub ratio: Option<Ratio>,
    /// What the limits are compared with: the ratio, or the value itself.
    pub judged: Option<f64>,
    pub limits: Limits,
    /// Why the windows of this row count as zero.
    pub zero: Option<String>,
}

impl Row {
    pub fn missed(&self) -> bool {
        match (self.limits.floor, self.judged) {
            _ if self.zero.is_some() => true,
            (Some(floor), Some(judged)) => judged > floor,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    fn verdict(&self) -> String {
        if let Some(reason) = &self.zero {
            return format!("**ZERO**: {}", reason.replace(['|', '\n', '\r'], " "));
        }
        match (self.judged, self.limits.floor, self.limits.goal) {
            (Some(judged), _, Some(goal)) if judged <= goal => "goal".to_owned(),
            (Some(judged), Some(floor), _) if judged <= floor => "floor".to_owned(),
            (_, Some(_), _) => "**missed**".to_owned(),
            _ => String::new(),
        }
    }
}

/// All rows with what a reader must know of the run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub notes: Vec<String>,
    pub rows: Vec<Row>,
}

impl Report {
    pub fn missed(&self) -> bool {
        self.rows.iter().any(Row::missed)
    }

    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for note in &self.notes {
            writeln!(text, "- {note}").expect("a String takes every write");
        }
        text.push_str("\n| metric | leg | value | nginx | ratio (middle half) | floor | goal | |\n|---|---|---|---|---|---|---|---|\n");
        for row in &self.rows {
            let limit = |limit: Option<f64>| limit.map(|limit| format!("{limit}")).unwrap_or_default();
            let ratio = row.ratio.map(|ratio| ratio.to_string()).unwrap_or_default();
            writeln!(
                text,
                "| {} | {} | {} | {} | {ratio} | {} | {} | {} |",
                row.metric,
                row.leg,
                row.value,
                row.nginx,
                limit(row.limits.floor),
                limit(row.limits.goal),
                row.verdict()
            )
            .expect("a String takes every write");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(judged: Option<f64>, zero: Option<&str>) -> Row {
        Row {
            metric: "m".into(),
            leg: "l".into(),
            value: "v".into(),
            nginx: "n".into(),
            ratio: None,
            judged,
            limits: Limits { floor: Some(1.4), goal: Some(1.2) },
            zero: zero.map(str::to_owned),
        }
    }

    #[test]
    fn a_floor_is_missed_by_more_than_it_by_nothing_measured_and_by_a_failure() {
        assert!(!row(Some(1.4), None).missed());
        assert!(row(Some(1.41), None).missed());
        assert!(row(None, None).missed());
        assert!(row(Some(0.5), Some("1 failure")).missed());
    }

    #[test]
    fn the_verdict_tells_the_best_limit_that_was_kept() {
        let verdicts = [Some(1.1), Some(1.3), Some(1.5)].map(|judged| row(judged, None).verdict());
        assert_eq!(verdicts, ["goal", "floor", "**missed**"]);
    }
}
