//! What was told of which budget, and what is still to be delivered. Pure: where budgets stand and the time are arguments.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tollgate_snapshot::model::{BudgetUnit, Name, Threshold};
use tollgate_snapshot::money::NanoUsd;

/// Deliveries that wait; the oldest are given up first. A receiver that is away for days must not fill the store.
const MOST_WAITING: usize = 256;

/// After this a delivery is given up. Seconds.
const PATIENCE: i64 = 24 * 3_600;

/// Between two tries: doubled from the first to the second. Seconds.
const FIRST_PAUSE: i64 = 1;
const LONGEST_PAUSE: i64 = 300;

/// Where a budget stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing<'a> {
    /// `namespace/Budget/name`, and `/member` for `per`.
    pub budget: &'a str,
    pub unit: BudgetUnit,
    pub spent: i64,
    pub limit: i64,
    /// Tells periods apart, for people too; empty where periods do not begin anew at one moment.
    pub period: &'a str,
    /// Unix seconds.
    pub resets_at: Option<i64>,
}

/// A budget passed a share of its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossing {
    pub budget: String,
    pub percent: u32,
    /// One line for people.
    pub text: String,
    /// The same in all processes that see it.
    pub event: String,
}

/// What is to be sent to a webhook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// The same in each try, so that a receiver can tell repetitions.
    pub id: String,
    pub webhook: Name,
    pub body: Value,
    /// Unix seconds.
    pub since: i64,
    #[serde(default)]
    pub tries: u32,
    #[serde(default)]
    pub next_at: i64,
}

impl Delivery {
    /// Of the crossing that it tells of.
    pub fn event(&self) -> &str {
        self.id.rsplit_once(' ').map_or(&*self.id, |(event, _)| event)
    }
}

/// Budget, period and percent.
fn event(standing: &Standing<'_>, percent: u32) -> String {
    format!("{} {} {percent}", standing.budget, standing.period)
}

/// What was told of a budget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Told {
    period: String,
    percents: BTreeSet<u32>,
}

/// All that must survive a restart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    told: BTreeMap<String, Told>,
    waiting: Vec<Delivery>,
}

impl State {
    /// Compares where a budget stands with what was told of it: what is to be told now is told by the caller, and counts
    /// as told. `now`: Unix seconds.
    pub fn look(&mut self, standing: &Standing<'_>, thresholds: &[Threshold], now: i64) -> Vec<Crossing> {
        let mut crossings = Vec::new();
        let before = self.told.get(standing.budget);
        let mut told = before.filter(|told| told.period == standing.period).cloned().unwrap_or_default();
        told.period = standing.period.to_owned();
        told.percents.retain(|percent| is_passed(standing, *percent));
        for Threshold { percent, webhook } in thresholds {
            if !is_passed(standing, *percent) || !told.percents.insert(*percent) {
                continue;
            }
            let (text, event) = (sentence(standing, *percent), event(standing, *percent));
            if let Some(webhook) = webhook {
                let id = format!("{event} {now}");
                let body = body(standing, *percent, &id, &text);
                let webhook = webhook.clone();
                self.waiting.push(Delivery { id, webhook, body, since: now, tries: 0, next_at: now });
            }
            crossings.push(Crossing { budget: standing.budget.to_owned(), percent: *percent, text, event });
        }
        match told.percents.is_empty() {
            true => _ = self.told.remove(standing.budget),
            false => _ = self.told.insert(standing.budget.to_owned(), told),
        }
        let excess = self.waiting.len().saturating_sub(MOST_WAITING);
        for lost in self.waiting.drain(..excess) {
            tracing::error!(webhook = %lost.webhook, "too many messages wait for webhooks: one to `{}` is given up", lost.webhook);
        }
        crossings
    }

    /// Events that were told in this period, and may now happen again, because less is spent or the limit was raised.
    pub fn undone(&self, standing: &Standing<'_>) -> Vec<String> {
        let told = self.told.get(standing.budget).filter(|told| told.period == standing.period);
        let percents = told.into_iter().flat_map(|told| &told.percents);
        percents.filter(|percent| !is_passed(standing, **percent)).map(|percent| event(standing, *percent)).collect()
    }

    /// Forgets budgets that are not there any more.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.told.retain(|budget, _| is_there(budget));
    }

    /// What is to be sent now.
    pub fn due(&self, now: i64) -> Vec<Delivery> {
        self.waiting.iter().filter(|delivery| delivery.next_at <= now).cloned().collect()
    }

    /// Takes note of how a try went.
    pub fn settle(&mut self, delivery: &Delivery, delivered: bool, now: i64) {
        let Some(at) =
            self.waiting.iter().position(|other| other.id == delivery.id && other.webhook == delivery.webhook)
        else {
            return;
        };
        if delivered {
            self.waiting.remove(at);
            return;
        }
        let waiting = &mut self.waiting[at];
        if now.saturating_sub(waiting.since) >= PATIENCE {
            tracing::error!(webhook = %waiting.webhook, "webhook `{}` cannot be reached for a day: its message is given up", waiting.webhook);
            self.waiting.remove(at);
            return;
        }
        waiting.next_at = now + (FIRST_PAUSE << waiting.tries.min(16)).min(LONGEST_PAUSE);
        waiting.tries += 1;
    }
}

fn is_passed(standing: &Standing<'_>, percent: u32) -> bool {
    standing.spent > 0 && i128::from(standing.spent) * 100 >= i128::from(standing.limit) * i128::from(percent)
}

/// `namespace/name`, and the member.
fn names(budget: &str) -> (String, Option<&str>) {
    let mut parts = budget.splitn(4, '/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(namespace), Some(_), Some(name), member) => (format!("{namespace}/{name}"), member),
        _ => (budget.to_owned(), None),
    }
}

fn number(units: i64, unit: BudgetUnit) -> String {
    match unit {
        BudgetUnit::Usd => NanoUsd(units).to_decimal_text(),
        BudgetUnit::Tokens | BudgetUnit::Requests => units.to_string(),
    }
}

fn amount(units: i64, unit: BudgetUnit) -> String {
    match unit {
        BudgetUnit::Usd => format!("${}", number(units, unit)),
        BudgetUnit::Tokens => format!("{units} tokens"),
        BudgetUnit::Requests => format!("{units} requests"),
    }
}

fn sentence(standing: &Standing<'_>, percent: u32) -> String {
    let Standing { budget, unit, spent, limit, period, resets_at } = standing;
    let (name, member) = names(budget);
    let member = member.map(|member| format!(" (`{member}`)")).unwrap_or_default();
    let (spent, limit) = (amount(*spent, *unit), amount(*limit, *unit));
    let period = if period.is_empty() { String::new() } else { format!(" in {period}") };
    let reset = resets_at.and_then(moment).map(|at| format!("; it resets at {at}")).unwrap_or_default();
    format!("Budget `{name}`{member} has passed {percent} %: {spent} of {limit} are spent{period}{reset}")
}

/// `text` is what Slack and those who follow it show; the rest is for programs.
fn body(standing: &Standing<'_>, percent: u32, id: &str, text: &str) -> Value {
    let Standing { budget, unit, spent, limit, period, resets_at } = standing;
    let (name, member) = names(budget);
    let unit_name = match unit {
        BudgetUnit::Usd => "USD",
        BudgetUnit::Tokens => "Tokens",
        BudgetUnit::Requests => "Requests",
    };
    json!({
        "text": text,
        "type": "budget.threshold",
        "id": id,
        "budget": name,
        "member": member,
        "percent": percent,
        "spent": number(*spent, *unit),
        "limit": number(*limit, *unit),
        "unit": unit_name,
        "period": period,
        "resetsAt": resets_at.and_then(moment),
    })
}

fn moment(seconds: i64) -> Option<String> {
    jiff::Timestamp::from_second(seconds).ok().map(|at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_262_400;

    fn standing(spent: i64, period: &str) -> Standing<'_> {
        let budget = "team-a/Budget/daily";
        Standing { budget, unit: BudgetUnit::Usd, spent, limit: 20_000_000_000, period, resets_at: Some(NOW + 3_600) }
    }

    fn rules() -> Vec<Threshold> {
        vec![
            Threshold { percent: 80, webhook: None },
            Threshold { percent: 100, webhook: Some("team-a/alerts/url".into()) },
        ]
    }

    fn percents(crossings: &[Crossing]) -> Vec<u32> {
        crossings.iter().map(|crossing| crossing.percent).collect()
    }

    #[test]
    fn each_share_is_told_once_in_a_period_and_a_restart_does_not_repeat_it() {
        let mut state = State::default();
        for (spent, period, told) in [
            (15_999_999_999, "2026-11-28", vec![]),
            (16_000_000_000, "2026-11-28", vec![80]),
            (17_000_000_000, "2026-11-28", vec![]),
            (20_000_000_001, "2026-11-28", vec![100]),
            (21_000_000_000, "2026-11-28", vec![]),
            // The next period, which nobody saw begin.
            (20_000_000_000, "2026-11-29", vec![80, 100]),
            // A limit that was raised, or a bucket that expired, and passed again.
            (16_000_000_000, "2026-11-29", vec![]),
            (20_000_000_000, "2026-11-29", vec![100]),
            (0, "2026-11-29", vec![]),
        ] {
            assert_eq!(percents(&state.look(&standing(spent, period), &rules(), NOW)), told, "{spent} {period}");
            let text = serde_json::to_string(&state).unwrap();
            state = serde_json::from_str(&text).unwrap();
        }
        assert_eq!(state.told, BTreeMap::new());
        assert_eq!(state.waiting.len(), 3);
    }

    #[test]
    fn a_message_says_it_for_people_and_for_programs() {
        let mut state = State::default();
        let standing = Standing { budget: "team-a/Budget/daily/keys/k", ..standing(20_500_000_000, "2026-11-28") };
        let crossings = state.look(&standing, &rules(), NOW);
        let text = "Budget `team-a/daily` (`keys/k`) has passed 100 %: $20.5 of $20 are spent in 2026-11-28; \
                    it resets at 2026-11-21T13:00:00Z";
        assert_eq!(crossings[1].text, text);
        let expected = json!({
            "text": text, "type": "budget.threshold", "id": format!("team-a/Budget/daily/keys/k 2026-11-28 100 {NOW}"),
            "budget": "team-a/daily", "member": "keys/k", "percent": 100, "spent": "20.5", "limit": "20", "unit": "USD",
            "period": "2026-11-28", "resetsAt": "2026-11-21T13:00:00Z",
        });
        assert_eq!(state.due(NOW)[0].body, expected);
        let event = "team-a/Budget/daily/keys/k 2026-11-28 100";
        assert_eq!((&*crossings[1].event, state.due(NOW)[0].event()), (event, event));
        assert!(state.undone(&standing).is_empty());
        assert_eq!(state.undone(&Standing { spent: 16_000_000_000, ..standing }), [event]);
    }

    #[test]
    fn what_was_not_delivered_is_tried_again_with_growing_pauses_for_a_day() {
        let mut state = State::default();
        state.look(&standing(20_000_000_000, ""), &rules(), NOW);
        let mut now = NOW;
        let mut pauses = Vec::new();
        while let Some(delivery) = state.due(now).pop() {
            state.settle(&delivery, false, now);
            let Some(next) = state.waiting.first() else { break };
            pauses.push(next.next_at - now);
            assert!(state.due(next.next_at - 1).is_empty());
            now = next.next_at;
        }
        assert_eq!(pauses[..10], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert!(now - NOW >= PATIENCE && now - NOW < PATIENCE + LONGEST_PAUSE, "{}", now - NOW);

        state.look(&standing(0, ""), &rules(), NOW);
        state.look(&standing(20_000_000_000, ""), &rules(), NOW);
        let delivery = state.due(NOW).pop().unwrap();
        state.settle(&delivery, true, NOW);
        assert_eq!(state.due(i64::MAX), []);
    }

    #[test]
    fn messages_that_wait_have_a_bound() {
        let mut state = State::default();
        for at in 0..2 * MOST_WAITING as i64 {
            state.look(&standing(0, ""), &rules(), NOW + at);
            state.look(&standing(20_000_000_000, ""), &rules(), NOW + at);
        }
        assert_eq!(state.waiting.len(), MOST_WAITING);
        assert_eq!(state.waiting[0].since, NOW + MOST_WAITING as i64, "the oldest went");
    }
}
