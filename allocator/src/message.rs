//! What replica and allocator tell each other about one account. Totals of the account, never differences.

use serde::{Deserialize, Serialize};

use crate::period::Span;
use crate::terms::Unit;

/// One start of one process. A process that starts again is another replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReplicaId(pub String);

/// A replica's account of a budget in a period, and what it wishes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Id of the budget: `namespace/Kind/name`, and `/member` where there is one for each.
    pub budget: String,
    pub unit: Unit,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_token: Option<String>,
    pub span: Span,
    /// Of all it was granted, so much was given back and can not be spent any more. Only grows.
    pub returned: i64,
    /// Settled. Only grows.
    pub used: i64,
    /// Held by calls in flight.
    pub held: i64,
    /// The total of grants that it would like to have; not above what it has: it wants nothing.
    pub wanted: i64,
    /// The least that a call had to reserve which was refused since one was admitted last, because less is left of the
    /// limit; 0: none was. Nothing is decided by it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused: i64,
    /// The process has ended, or spends no more, and `used` is all that it spent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last: bool,
}

fn is_zero(amount: &i64) -> bool {
    *amount == 0
}

/// What the allocator answers to one report.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    pub budget: String,
    pub span: Span,
    /// The total of grants. Never less than in an earlier answer.
    pub granted: i64,
    pub limit: i64,
    /// Settled in other accounts, and what closed ones are charged.
    pub used_elsewhere: i64,
    /// What other accounts may spend or have spent. With what this one may, never above the limit of a Hard budget.
    pub charged_elsewhere: i64,
    /// Somebody waits for allowance: give back what no call holds, and report again in a moment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tight: bool,
    /// The account gets nothing any more. Who spends goes on as another replica.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// The allocator has no budget of this unit, reset token and period, or not yet: nothing is granted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
}

/// Reports of one replica. Without any it is a sign of life, whose answer may recall allowance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    pub replica: ReplicaId,
    pub reports: Vec<Report>,
}

/// Answers to one replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    pub replica: ReplicaId,
    pub answers: Vec<Answer>,
}

/// What an allocator that calls its replicas sends: answers to what it was told last. The replica replies as soon as it
/// has something to tell, and after `wait_ms` at the latest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exchange {
    #[serde(default)]
    pub answers: Vec<Answers>,
    #[serde(default)]
    pub wait_ms: u64,
}

/// What the replica replies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchanged {
    pub batches: Vec<Batch>,
}
