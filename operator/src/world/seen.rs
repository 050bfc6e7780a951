//! What is remembered of an object's status: enough to know whether another one would differ, and what conditions were
//! before. Slim, because there is one for each of a hundred thousand keys.

use std::hash::BuildHasher;

use crate::facts::KeyFact;
use foldhash::fast::FixedState;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tollgate_crds::{
    BudgetStatus, Condition, ConditionStatus, LLMGatewayStatus, ModelDeploymentStatus, ProviderAccountStatus,
    RouteGroupStatus, TeamStatus, TimestampText, VirtualKeyStatus,
};

/// A status as it was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// [`digest`] of it; 0: there is none.
    pub digest: u64,
    /// The same without its [`FIGURES`].
    pub solid: u64,
    /// `status.observedGeneration`
    pub generation: Option<i64>,
    pub conditions: Vec<SeenCondition>,
    /// The generated key of a VirtualKey.
    pub key: Option<Box<KeyFact>>,
    /// `status.lastUsedAt` of a VirtualKey, Unix seconds.
    pub last_used_at: Option<i64>,
    /// `status.lastProbeAt` of a ModelDeployment, Unix seconds.
    pub last_probe_at: Option<i64>,
    /// `status.p50` of a ModelDeployment.
    pub p50: Option<Box<str>>,
    /// `status.resetToken` of a Budget.
    pub reset_token: Option<Box<str>>,
    /// What was used; `None`: nothing.
    pub figures: Option<Box<Figures>>,
}

/// Fields of a status that say what was used, as they were seen: they stand until somebody knows better.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Figures {
    pub spent: Option<String>,
    pub used_percent: Option<String>,
    pub held: Option<String>,
    pub requests: Option<i64>,
    pub tokens: Option<i64>,
}

/// A condition as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenCondition {
    pub type_: Box<str>,
    pub status: ConditionStatus,
    pub reason: Box<str>,
    /// Its last transition.
    pub since: TimestampText,
}

impl SeenCondition {
    pub(crate) fn of(condition: &Condition) -> SeenCondition {
        SeenCondition {
            type_: condition.type_.as_str().into(),
            status: condition.status,
            reason: condition.reason.as_str().into(),
            since: condition.last_transition_time.clone(),
        }
    }
}

impl Seen {
    pub(super) fn read(kind: &str, status: Option<&Value>) -> Seen {
        let Some(status) = status else { return Seen::default() };
        let digest = match kind {
            "LLMGateway" => digest_of::<LLMGatewayStatus>(status),
            "ProviderAccount" => digest_of::<ProviderAccountStatus>(status),
            "ModelDeployment" => digest_of::<ModelDeploymentStatus>(status),
            "RouteGroup" => digest_of::<RouteGroupStatus>(status),
            "Team" => digest_of::<TeamStatus>(status),
            "VirtualKey" => digest_of::<VirtualKeyStatus>(status),
            _ => digest_of::<BudgetStatus>(status),
        };
        let solid = match kind {
            "LLMGateway" => solid_of::<LLMGatewayStatus>(status),
            "ProviderAccount" => solid_of::<ProviderAccountStatus>(status),
            "ModelDeployment" => solid_of::<ModelDeploymentStatus>(status),
            "RouteGroup" => solid_of::<RouteGroupStatus>(status),
            "Team" => solid_of::<TeamStatus>(status),
            "VirtualKey" => solid_of::<VirtualKeyStatus>(status),
            _ => solid_of::<BudgetStatus>(status),
        };
        let conditions = status.get("conditions").map(Vec::<Condition>::deserialize);
        let conditions = conditions.and_then(Result::ok).unwrap_or_default();
        let key = (kind == "VirtualKey").then(|| VirtualKeyStatus::deserialize(status).ok()).flatten();
        let key = key.as_ref().and_then(KeyFact::of_status);
        let moment = |field: &str| {
            let text = status.get(field)?.as_str()?;
            Some(text.parse::<jiff::Timestamp>().ok()?.as_second())
        };
        Seen {
            digest,
            solid,
            generation: status.get("observedGeneration").and_then(Value::as_i64),
            conditions: conditions.iter().map(SeenCondition::of).collect(),
            key: key.map(Box::new),
            last_used_at: moment("lastUsedAt"),
            last_probe_at: moment("lastProbeAt"),
            p50: text_of(status, "p50"),
            reset_token: text_of(status, "resetToken"),
            figures: Figures::deserialize(status).ok().filter(|figures| *figures != Figures::default()).map(Box::new),
        }
    }

    pub fn condition(&self, type_: &str) -> Option<&SeenCondition> {
        self.conditions.iter().find(|condition| *condition.type_ == *type_)
    }
}

/// A field of a status that is a text.
pub fn text_of(status: &Value, field: &str) -> Option<Box<str>> {
    status.get(field).and_then(Value::as_str).map(Into::into)
}

fn solid_of<S: DeserializeOwned + Serialize>(status: &Value) -> u64 {
    S::deserialize(status).ok().and_then(|status| serde_json::to_value(status).ok()).map_or(0, |status| solid(&status))
}

/// Fields that move with every call: a status that differs in these alone is written after all others.
const FIGURES: [&str; 8] = ["spent", "usedPercent", "held", "lastUsedAt", "lastProbeAt", "p50", "requests", "tokens"];

/// As [`digest`], without figures.
pub fn solid(status: &Value) -> u64 {
    let mut status = status.clone();
    if let Some(fields) = status.as_object_mut() {
        fields.retain(|name, _| !FIGURES.contains(&name.as_str()));
    }
    digest(&status)
}

fn digest_of<S: DeserializeOwned + Serialize>(status: &Value) -> u64 {
    S::deserialize(status).map_or(0, |status| digest(&status))
}

/// Tells statuses apart. Of the fields that this version knows.
pub fn digest<S: Serialize>(status: &S) -> u64 {
    // Most are not longer.
    let mut text = Vec::with_capacity(1 << 10);
    serde_json::to_writer(&mut text, status).expect("statuses are made of what JSON has");
    // Never written down: it may be another in another version.
    FixedState::default().hash_one(text)
}
