//! How much may be spent per period: shared by Budget objects and by the budgets written into keys, teams and members.

use crate::decimal::DecimalText;
use crate::duration::DurationText;
use crate::time::TimeZoneText;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A budget of one owner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetTerms {
    /// How much may be spent in a period, as decimal text in `unit`. Example: `"25"`.
    pub limit: DecimalText,

    /// What is counted. Default: `USD`.
    #[serde(default)]
    pub unit: BudgetUnit,

    /// When counting starts again. Example: `{calendar: Month}`.
    pub period: Period,

    /// `Hard`: never exceeded, calls reserve their worst case first. `Soft`: calls are admitted while less than the
    /// limit is spent, so that calls in flight may exceed it. Default: `Hard`.
    #[serde(default)]
    pub enforcement: Enforcement,
}

/// When a budget starts again. Exactly one of `calendar`, `rolling`, `lifetime`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(has(self.calendar) ? 1 : 0) + (has(self.rolling) ? 1 : 0) + (has(self.lifetime) ? 1 : 0) == 1")
        .message("exactly one of calendar, rolling, lifetime must be set"),
    validation = Rule::new("!has(self.timeZone) || has(self.calendar)")
        .message("timeZone belongs beside calendar only")
)]
#[serde(rename_all = "camelCase")]
pub struct Period {
    /// Starts again with each hour, day, week (Monday), month or year. Example: `Month`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calendar: Option<CalendarPeriod>,

    /// Time zone in which calendar periods begin, by its IANA name. Default: UTC. Example: `Europe/Vienna`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<TimeZoneText>,

    /// Counts what was spent in the time up to now, in 24 steps. Example: `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling: Option<DurationText>,

    /// Never starts again. Written as `lifetime: {}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Lifetime>,
}

/// A period without an end. Has no fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Lifetime {}

/// Periods of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum CalendarPeriod {
    /// Each full hour.
    Hour,
    /// Each midnight.
    Day,
    /// Each Monday.
    Week,
    /// The first of each month.
    Month,
    /// The first of January.
    Year,
}

/// What a budget counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum BudgetUnit {
    /// US dollars.
    #[default]
    #[serde(rename = "USD")]
    Usd,
    /// Tokens, input and output.
    Tokens,
    /// Requests.
    Requests,
}

/// How strictly a budget is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Enforcement {
    /// Never exceeded.
    #[default]
    Hard,
    /// May be exceeded by the calls in flight.
    Soft,
}
