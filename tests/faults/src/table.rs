//! The table of what runs told, and what is wrong with it. Pure.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use crate::list::{FAULTS, Fault, Level};
use crate::run::{Money, Run};

/// Where a document holds the table.
const BEGIN: &str = "<!-- faults: begin, written by tests/run chaos -->";
const END: &str = "<!-- faults: end -->";

/// What was told, by fault.
#[derive(Debug, Default)]
pub struct Table {
    runs: BTreeMap<&'static str, Vec<Run>>,
    levels: Vec<Level>,
}

impl Table {
    /// Reads lines of [`Run::tell`], of tests of these levels.
    ///
    /// # Errors
    /// A line is none, or tells of a fault that is not in the list.
    pub fn read(text: &str, levels: &[Level]) -> Result<Table, String> {
        let mut runs: BTreeMap<&'static str, Vec<Run>> = BTreeMap::new();
        for line in text.lines() {
            let run: Run = serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
            let fault = FAULTS.iter().find(|fault| fault.id == run.fault);
            let fault = fault.ok_or_else(|| format!("fault `{}` is not in the list", run.fault))?;
            runs.entry(fault.id).or_default().push(run);
        }
        Ok(Table { runs, levels: levels.to_vec() })
    }

    fn faults(&self) -> impl Iterator<Item = (&'static Fault, Option<Sum>)> {
        let of_levels = FAULTS.iter().filter(|fault| self.levels.contains(&fault.level));
        of_levels.map(|fault| (fault, self.runs.get(fault.id).map(|runs| Sum::of(runs))))
    }

    /// What keeps the promises from being shown; empty: they are.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (fault, sum) in self.faults() {
            let mut wrong = |what: &str| problems.push(format!("{} ({}): {what}", fault.id, fault.test));
            let Some(Sum { times, calls, money, refusals, rows_lost, overspend }) = sum else {
                wrong("no test told of it");
                continue;
            };
            if times == 0 || calls == 0 {
                wrong("nothing happened");
            }
            if fault.shows.money && money.is_none() {
                wrong("nobody looked at the money");
            }
            if overspend > 0 {
                wrong(&format!("{overspend} nano-USD above the limit"));
            }
            match refusals {
                None if fault.shows.refusals => wrong("nobody looked for false refusals"),
                Some(1..) => wrong("calls were refused although there was money"),
                _ => {}
            }
            match rows_lost {
                None if fault.shows.rows => wrong("nobody counted rows"),
                Some(1..) => wrong("rows are lost"),
                _ => {}
            }
        }
        problems
    }
}

/// All runs of one fault.
struct Sum {
    times: u64,
    calls: u64,
    money: Option<Money>,
    overspend: i64,
    refusals: Option<u64>,
    rows_lost: Option<u64>,
}

impl Sum {
    fn of(runs: &[Run]) -> Sum {
        let mut sum = Sum { times: 0, calls: 0, money: None, overspend: 0, refusals: None, rows_lost: None };
        for Run { fault: _, times, calls, money, rows_lost } in runs {
            sum.times += times;
            sum.calls += calls;
            sum.rows_lost = add(sum.rows_lost, *rows_lost);
            let Some(money) = money else { continue };
            // Of each run: what one spent too much another did not spend too little.
            sum.overspend += money.overspend();
            sum.refusals = add(sum.refusals, money.false_refusals);
            let Money { limit, billed, counted, false_refusals: _, unavailable } = sum.money.unwrap_or_default();
            sum.money = Some(Money {
                limit: limit + money.limit,
                billed: billed + money.billed,
                counted: counted + money.counted,
                false_refusals: None,
                unavailable: unavailable + money.unavailable,
            });
        }
        sum
    }
}

fn add(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (None, None) => None,
        (one, other) => Some(one.unwrap_or_default() + other.unwrap_or_default()),
    }
}

/// USD without needless zeros.
fn usd(nano: i64) -> String {
    let sign = if nano < 0 { "-" } else { "" };
    let nano = nano.unsigned_abs();
    let text = format!("{sign}${}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000);
    match text.trim_end_matches('0') {
        whole if whole.ends_with('.') => whole.trim_end_matches('.').to_owned(),
        exact => exact.to_owned(),
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| what is hurt | fault | level | times | calls | overspend | over-count | false refusals | 503 | rows lost |"
        )?;
        writeln!(f, "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        let (mut all_times, mut all_calls) = (0, 0);
        for (fault, sum) in self.faults() {
            let Fault { id: _, hurt, what, level, test: _, shows: _ } = fault;
            let Some(Sum { times, calls, money, overspend, refusals, rows_lost }) = sum else {
                writeln!(f, "| {hurt} | {what} | {level} | 0 | | | | | | |")?;
                continue;
            };
            all_times += times;
            all_calls += calls;
            let overspend = or_dash(money.map(|_| usd(overspend)));
            let over_count = or_dash(money.map(|money| usd(money.over_count() / times.max(1) as i64)));
            let unavailable = or_dash(money.map(|money| money.unavailable));
            let (refusals, rows_lost) = (or_dash(refusals), or_dash(rows_lost));
            writeln!(
                f,
                "| {hurt} | {what} | {level} | {times} | {calls} | {overspend} | {over_count} | {refusals} | {unavailable} | {rows_lost} |"
            )?;
        }
        writeln!(f, "\n{all_times} faults, {all_calls} calls.")
    }
}

/// A document with the table in its place, and the tests that make each fault.
///
/// # Errors
/// It has no place.
pub fn insert(document: &str, table: &Table) -> Result<String, String> {
    let no_place = || format!("the document has no lines `{BEGIN}` and `{END}`");
    let (before, rest) = document.split_once(BEGIN).ok_or_else(no_place)?;
    let (_, after) = rest.split_once(END).ok_or_else(no_place)?;
    let mut text = format!("{before}{BEGIN}\n{table}\n");
    for level in &table.levels {
        let mut tests: Vec<&str> =
            FAULTS.iter().filter(|fault| fault.level == *level).map(|fault| fault.test).collect();
        tests.dedup();
        let _ = writeln!(text, "Tests at the level `{level}`: `{}`.\n", tests.join("`, `"));
    }
    Ok(format!("{text}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::Shows;

    const PROCESS: [Level; 1] = [Level::Process];

    /// A line for each fault of a level, as good ones are.
    fn good(level: Level) -> Vec<Run> {
        let of_level = FAULTS.iter().filter(|fault| fault.level == level);
        let run = |fault: &Fault| {
            let Shows { money, refusals, rows } = fault.shows;
            let figures =
                Money { limit: 100, billed: 90, counted: 95, false_refusals: refusals.then_some(0), unavailable: 2 };
            Run { money: money.then_some(figures), rows_lost: rows.then_some(0), ..Run::of(fault.id, 7) }
        };
        of_level.map(run).collect()
    }

    fn read(runs: &[Run]) -> Table {
        let lines: Vec<String> = runs.iter().map(|run| serde_json::to_string(run).unwrap()).collect();
        Table::read(&lines.join("\n"), &PROCESS).unwrap()
    }

    fn with_money() -> usize {
        let of_level = FAULTS.iter().filter(|fault| fault.level == Level::Process);
        of_level.clone().position(|fault| fault.shows.refusals && fault.shows.rows).unwrap()
    }

    #[test]
    fn a_fault_that_nobody_told_of_is_a_problem() {
        let mut runs = good(Level::Process);
        assert_eq!(read(&runs).problems(), Vec::<String>::new());
        let missing = runs.pop().unwrap();
        let problems = read(&runs).problems();
        assert!(matches!(&problems[..], [one] if one.starts_with(&missing.fault)), "{problems:?}");
    }

    #[test]
    fn what_breaks_a_promise_is_a_problem_also_where_another_run_kept_it() {
        let at = with_money();
        let broken: [fn(&mut Run); 6] = [
            |run| run.money.as_mut().unwrap().billed = 101,
            |run| run.money.as_mut().unwrap().false_refusals = Some(1),
            |run| run.money.as_mut().unwrap().false_refusals = None,
            |run| run.rows_lost = Some(1),
            |run| run.rows_lost = None,
            |run| run.calls = 0,
        ];
        for (number, breaks) in broken.into_iter().enumerate() {
            let mut runs = good(Level::Process);
            breaks(&mut runs[at]);
            assert_eq!(read(&runs).problems().len(), 1, "{number}");
        }
        let mut runs = good(Level::Process);
        let mut second = runs[at].clone();
        second.money.as_mut().unwrap().billed = 101;
        runs.push(second);
        assert_eq!(read(&runs).problems().len(), 1);
    }

    #[test]
    fn figures_are_those_of_the_runs_and_over_count_is_that_of_one_fault() {
        let at = with_money();
        let mut runs = good(Level::Process);
        runs[at].times = 4;
        runs[at].money.as_mut().unwrap().counted = 98;
        let text = read(&runs).to_string();
        let line = text.lines().find(|line| line.contains(FAULTS[at].what)).unwrap();
        assert!(line.ends_with("| process | 4 | 7 | $0 | $0.000000002 | 0 | 2 | 0 |"), "{line}");
        assert_eq!([usd(1_500_000_000), usd(-20), usd(3_000_000_000)], ["$1.5", "-$0.00000002", "$3"]);
    }

    #[test]
    fn the_table_takes_the_place_of_the_one_before() {
        let table = read(&good(Level::Process));
        let document = insert(&format!("a\n{BEGIN}\nstale\n{END}\nb\n"), &table).unwrap();
        assert!(
            document.starts_with("a\n") && document.ends_with(&format!("{END}\nb\n")) && !document.contains("stale")
        );
        assert_eq!(insert(&document, &table).unwrap(), document);
        assert!(insert("nothing", &table).is_err());
        assert!(Table::read(r#"{"fault": "no such", "times": 1, "calls": 1}"#, &PROCESS).is_err());
    }
}
