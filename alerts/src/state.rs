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

/// The share that says that a budget is at its end. Percent.
const END: u32 = 100;

/// Where a budget stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing<'a> {
    /// `namespace/Budget/name`, and `/member` for `per`.
    pub budget: &'a str,
    pub unit: BudgetUnit,
    pub spent: i64,
    /// By calls in flight.
    pub held: i64,
    /// The least that a call had to reserve which was refused since one was admitted; 0: none was.
    pub refused: i64,
    pub limit: i64,
    /// Tells periods apart, for people too; empty where periods do not begin anew at one moment.
    pub period: &'a str,
    /// Unix seconds.
    pub resets_at: Option<i64>,
}

/// Whether so little is left of a budget that calls are refused. A call that asks for most of a budget says nothing about
/// others. `committed`: settled or held; `refused`: as in [`Standing`].
pub fn is_near_limit(committed: i64, refused: i64, limit: i64) -> bool {
    refused > 0 && committed >= limit / 2 && committed.saturating_add(refused) > limit
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
    /// That it is at its end was told because it refuses calls, although something is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    near_limit: Option<NearLimit>,
}

/// Where a budget stood when no call fitted into what was left.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct NearLimit {
    spent: i64,
    limit: i64,
}

impl Told {
    /// Whether a share that was told is no news when it happens again. A budget that refused all calls is at its end until
    /// its limit is another, or less is spent.
    fn holds(&self, standing: &Standing<'_>, percent: u32) -> bool {
        let is_near = |near: NearLimit| near.limit == standing.limit && standing.spent >= near.spent;
        is_passed(standing, percent) || percent == END && self.near_limit.is_some_and(is_near)
    }
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
        let before = told.clone();
        told.percents.retain(|percent| before.holds(standing, *percent));
        told.near_limit = told.near_limit.filter(|_| told.percents.contains(&END));
        for Threshold { percent, webhook } in thresholds {
            let is_near = *percent == END && !is_passed(standing, END);
            let is_so = if is_near { standing.is_near_limit() } else { is_passed(standing, *percent) };
            if !is_so || !told.percents.insert(*percent) {
                continue;
            }
            if is_near {
                told.near_limit = Some(NearLimit { spent: standing.spent, limit: standing.limit });
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
        let percents = told.iter().flat_map(|told| &told.percents);
        let told = told.cloned().unwrap_or_default();
        percents.filter(|percent| !told.holds(standing, **percent)).map(|percent| event(standing, *percent)).collect()
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

impl Standing<'_> {
    /// As [`is_near_limit`].
    fn is_near_limit(&self) -> bool {
        is_near_limit(self.spent.saturating_add(self.held), self.refused, self.limit)
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
    let Standing { budget, unit, spent, held: _, refused, limit, period, resets_at } = standing;
    let (name, member) = names(budget);
    let member = member.map(|member| format!(" (`{member}`)")).unwrap_or_default();
    let (spent, limit) = (amount(*spent, *unit), amount(*limit, *unit));
    let period = if period.is_empty() { String::new() } else { format!(" in {period}") };
    let reset = resets_at.and_then(moment).map(|at| format!("; it resets at {at}")).unwrap_or_default();
    if is_passed(standing, percent) {
        return format!("Budget `{name}`{member} has passed {percent} %: {spent} of {limit} are spent{period}{reset}");
    }
    let refused = amount(*refused, *unit);
    format!(
        "Budget `{name}`{member} is near its limit and refuses calls: {spent} of {limit} are spent{period}, and the last \
         calls had to reserve {refused} or more{reset}"
    )
}

/// `text` is what Slack and those who follow it show; the rest is for programs.
fn body(standing: &Standing<'_>, percent: u32, id: &str, text: &str) -> Value {
    let Standing { budget, unit, spent, held: _, refused: _, limit, period, resets_at } = standing;
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
        "nearLimit": !is_passed(standing, percent),
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
        Standing {
            budget,
            unit: BudgetUnit::Usd,
            spent,
            held: 0,
            refused: 0,
            limit: 20_000_000_000,
            period,
            resets_at: Some(NOW + 3_600),
        }
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
    fn a_budget_that_refuses_calls_before_its_end_is_told_as_at_its_end_once() {
        let mut state = State::default();
        let at = |spent, refused, limit| Standing { refused, limit, ..standing(spent, "2026-11-28") };
        const LIMIT: i64 = 20_000_000_000;
        for (standing, told) in [
            (at(19_500_000_000, 0, LIMIT), vec![80]),
            (at(19_500_000_000, 500_000_000, LIMIT), vec![]),
            (at(19_500_000_000, 600_000_000, LIMIT), vec![100]),
            // A smaller one was admitted, then nothing fits again, then it is spent.
            (at(19_600_000_000, 0, LIMIT), vec![]),
            (at(19_600_000_000, 600_000_000, LIMIT), vec![]),
            (at(20_000_000_000, 0, LIMIT), vec![]),
            // Raised, and at its end again.
            (at(20_000_000_000, 0, 2 * LIMIT), vec![]),
            (at(39_800_000_000, 0, 2 * LIMIT), vec![80]),
            (at(39_800_000_000, 300_000_000, 2 * LIMIT), vec![100]),
            // A rolling one, of which something expired.
            (at(39_000_000_000, 0, 2 * LIMIT), vec![]),
            (at(39_000_000_000, 1_300_000_000, 2 * LIMIT), vec![100]),
            // A call that wants nearly all of a budget says nothing of others.
            (Standing { period: "2026-11-29", ..at(1_000_000_000, 19_500_000_000, LIMIT) }, vec![]),
        ] {
            let undone = state.undone(&standing);
            assert_eq!(percents(&state.look(&standing, &rules(), NOW)), told, "{standing:?}");
            assert!(undone.iter().all(|event| !state.undone(&standing).contains(event)));
            let text = serde_json::to_string(&state).unwrap();
            state = serde_json::from_str(&text).unwrap();
        }
        let body = &state.waiting[0].body;
        let text = "Budget `team-a/daily` is near its limit and refuses calls: $19.5 of $20 are spent in 2026-11-28, and \
                    the last calls had to reserve $0.6 or more; it resets at 2026-11-21T13:00:00Z";
        assert_eq!((&body["text"], &body["percent"], &body["nearLimit"]), (&json!(text), &json!(100), &json!(true)));
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
            "budget": "team-a/daily", "member": "keys/k", "percent": 100, "nearLimit": false, "spent": "20.5", "limit": "20", "unit": "USD",
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
