//! Conditions of a status, as Kubernetes tools read them: positive, one per type, each with the generation it speaks of.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::TimestampText;

/// One statement about an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What the statement is about: `Accepted`, `ResolvedRefs`, `Programmed`, `Ready`, and `Active` of a VirtualKey or
    /// `Available` of a Budget.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 64))]
    pub type_: String,

    /// Whether it holds.
    pub status: ConditionStatus,

    /// The generation of the object that the statement speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,

    /// When `status` changed last.
    pub last_transition_time: TimestampText,

    /// Why, in one CamelCase word that stays the same between versions. Example: `SecretNotFound`.
    #[schemars(length(min = 1, max = 128))]
    pub reason: String,

    /// Why, for humans, in one line.
    #[schemars(length(max = 4096))]
    pub message: String,
}

/// Whether a statement holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody can tell yet.
    Unknown,
}
