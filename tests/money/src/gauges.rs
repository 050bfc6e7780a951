//! The gateway's own figures, read from `/metrics`. I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use tollgate_harness::{Gateway, patiently};

/// A budget as the metrics show it: nano-USD, tokens or requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetGauge {
    pub spent: i64,
    pub held: i64,
    pub limit: i64,
}

/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Decimal text of USD to nano-USD; numbers of other units stay what they are.
///
/// # Panics
/// It is finer than a nano-dollar.
pub fn nano(text: &str) -> i64 {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    assert!(part.len() <= 9, "finer than a nano-dollar: {text}");
    sign * format!("{whole}{part:0<9}").parse::<i64>().expect("a decimal number")
}

/// Name, labels and value of each sample.
fn samples(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        Some((name, labels.trim_end_matches('}'), value))
    })
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let start = labels.find(&format!("{name}=\""))? + name.len() + 2;
    labels[start..].split('"').next()
}

/// Sum of all series of a name.
pub fn sum(text: &str, name: &str) -> f64 {
    samples(text).filter(|(known, _, _)| *known == name).filter_map(|(_, _, value)| value.parse::<f64>().ok()).sum()
}

/// All budgets, by id.
pub fn budgets_in(text: &str) -> BTreeMap<String, BudgetGauge> {
    let mut budgets: BTreeMap<String, BudgetGauge> = BTreeMap::new();
    for (name, labels, value) in samples(text) {
        let Some(field) = name.strip_prefix("tollgate_budget_") else { continue };
        let (Some(id), Some(unit)) = (label(labels, "budget"), label(labels, "unit")) else { continue };
        let value = if unit == "USD" { nano(value) } else { value.parse().expect("a whole number") };
        let budget = budgets.entry(id.to_owned()).or_default();
        match field {
            "spent" => budget.spent = value,
            "held" => budget.held = value,
            "limit" => budget.limit = value,
            _ => {}
        }
    }
    budgets
}

/// All budgets, by id.
pub async fn budgets(gateway: &Gateway) -> BTreeMap<String, BudgetGauge> {
    budgets_in(&gateway.metrics().await)
}

/// The budget whose id ends like this.
///
/// # Panics
/// There is none, or more than one.
pub async fn budget(gateway: &Gateway, name: &str) -> BudgetGauge {
    let all = budgets(gateway).await;
    let mut found = all.iter().filter(|(id, _)| id.ends_with(name)).map(|(_, budget)| *budget);
    match (found.next(), found.next()) {
        (Some(budget), None) => budget,
        _ => panic!("not one budget ends with `{name}`: {all:?}"),
    }
}

/// Waits until nothing is held, in no budget, and no deployment has an attempt under way.
pub async fn wait_until_idle(gateway: &Gateway) {
    let mut last = String::new();
    let idle = async {
        loop {
            let text = gateway.metrics().await;
            let busy: Vec<&str> = text.lines().filter(|line| is_busy(line)).collect();
            if busy.is_empty() {
                return;
            }
            last = busy.join("\n");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    if tokio::time::timeout(tollgate_harness::PATIENCE, idle).await.is_err() {
        panic!("the gateway does not come to rest:\n{last}");
    }
}

fn is_busy(line: &str) -> bool {
    let watched = ["tollgate_budget_held", "tollgate_in_flight_requests", "tollgate_deployment_in_flight"];
    let ours = watched.iter().any(|name| line.starts_with(name));
    ours && line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).is_some_and(|value| value != 0.0)
}

/// Waits until something is true of the metrics.
pub async fn wait_for(gateway: &Gateway, what: &str, mut holds: impl FnMut(&str) -> bool) {
    let wait = async {
        while !holds(&gateway.metrics().await) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    patiently(what, wait).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_as_they_are_written() {
        let text = "# HELP x\ntollgate_budget_spent{budget=\"key/a\",unit=\"USD\",period=\"\"} 0.000000012\n\
                    tollgate_budget_held{budget=\"key/a\",unit=\"USD\",period=\"\"} 0\n\
                    tollgate_budget_limit{budget=\"t\",unit=\"tokens\",period=\"\"} 70\nx_total 3\nx_total{a=\"b\"} 4\n";
        let budgets = budgets_in(text);
        assert_eq!(budgets["key/a"], BudgetGauge { spent: 12, held: 0, limit: 0 });
        assert_eq!(budgets["t"].limit, 70);
        assert_eq!(sum(text, "x_total"), 7.0);
        assert_eq!((nano("1.5"), nano("-0.000000001"), nano("2")), (1_500_000_000, -1, 2_000_000_000));
        assert!(!is_busy("tollgate_budget_held{budget=\"a\"} 0") && is_busy("tollgate_budget_held{budget=\"a\"} 0.1"));
    }
}
