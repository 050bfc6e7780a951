//! What only a running cluster can tell about an object: Secrets that may not be read, and what the operator wrote into
//! its status. Pure.

use std::collections::BTreeMap;

use serde_json::Value;
use tollgate_snapshot::compile::Standing;
use tollgate_snapshot::{GatewayName, ObjectRef, Severity};

use crate::config::cluster::{SecretUse, Seen};

/// One thing to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    pub severity: Severity,
    /// Without a name: all objects of the kind.
    pub object: ObjectRef,
    /// CamelCase.
    pub reason: String,
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl Remark {
    pub fn error(object: ObjectRef, reason: &str, message: String, hint: impl Into<String>) -> Remark {
        Remark { severity: Severity::Error, object, reason: reason.to_owned(), message, hint: hint.into() }
    }

    pub fn warning(object: ObjectRef, reason: &str, message: String, hint: impl Into<String>) -> Remark {
        Remark { severity: Severity::Warning, ..Remark::error(object, reason, message, hint) }
    }
}

impl std::fmt::Display for Remark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Remark { severity, object, reason, message, hint } = self;
        f.write_str(match severity {
            Severity::Error => "error: ",
            Severity::Warning => "warning: ",
        })?;
        if !object.name.is_empty() {
            write!(f, "{object}: ")?;
        }
        f.write_str(message)?;
        if !hint.is_empty() {
            write!(f, " ({hint})")?;
        }
        write!(f, " [{reason}]")
    }
}

/// Secrets that may not be read: what they hold is taken for granted, and that is said.
pub fn forbidden<'a>(
    wanted: &'a BTreeMap<(String, String), SecretUse>,
    seen: &'a BTreeMap<(String, String), Seen>,
) -> impl Iterator<Item = Remark> + 'a {
    wanted.iter().filter(|(place, _)| matches!(seen.get(*place), Some(Seen::Forbidden))).map(|(place, wanted)| {
        let (namespace, name) = place;
        let keys: Vec<String> = wanted.keys.iter().map(|key| format!("`{key}`")).collect();
        let object = ObjectRef { kind: "Secret", namespace: namespace.clone(), name: name.clone() };
        let message = format!("you may not read it; taken to have {}, for {}", keys.join(", "), wanted.by);
        Remark::warning(object, "NotReadable", message, "")
    })
}

/// What the operator says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub object: ObjectRef,
    /// How often the spec changed.
    generation: i64,
    /// Of which generation the status speaks; `None`: there is none yet.
    observed: Option<i64>,
    /// Those that are False: type, reason, message.
    unmet: Vec<(String, String, String)>,
    /// Of a gateway: the operator runs it, or what it ran before.
    is_served: bool,
}

/// What the reason of a gateway's `Programmed` is while proxies have tables, or are about to.
const RUNS: [&str; 3] = ["Pending", "ProxyRefused", "LastGoodKept"];

impl State {
    /// From an object of `kind` as the API server has it.
    pub fn of(kind: &'static str, value: &Value) -> State {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &value["metadata"];
        let conditions = value["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let unmet = conditions.iter().filter(|condition| condition["status"] == "False");
        let unmet =
            unmet.map(|condition| (text(&condition["type"]), text(&condition["reason"]), text(&condition["message"])));
        let met = |type_: &str| conditions.iter().find(|condition| condition["type"] == type_);
        let is_true = |condition: Option<&Value>| condition.is_some_and(|condition| condition["status"] == "True");
        let (accepted, programmed) = (met("Accepted"), met("Programmed"));
        let runs = programmed.is_some_and(|condition| RUNS.iter().any(|reason| condition["reason"] == *reason));
        State {
            is_served: is_true(accepted) || is_true(programmed) || runs,
            object: ObjectRef { kind, namespace: text(&metadata["namespace"]), name: text(&metadata["name"]) },
            generation: metadata["generation"].as_i64().unwrap_or_default(),
            observed: value["status"]["observedGeneration"].as_i64(),
            unmet: unmet.collect(),
        }
    }
}

/// Which gateways the operator cannot run, as their states say it: what is left to choose is chosen among the others. `home`:
/// the operator's namespace, of whose gateways nothing bad is thought before they have a status.
pub fn standing(states: &[State], home: Option<&str>) -> Standing {
    let is_unserved = |state: &&State| {
        let is_new_at_home = state.observed.is_none() && home == Some(&*state.object.namespace);
        state.object.kind == "LLMGateway" && !state.is_served && !is_new_at_home
    };
    let name =
        |state: &State| GatewayName { namespace: state.object.namespace.clone(), name: state.object.name.clone() };
    Standing { unserved: states.iter().filter(is_unserved).map(name).collect(), home: home.map(str::to_owned) }
}

/// What is worth telling of the states. `has_error`: whether the object has a finding that explains it.
pub fn of_states(states: &[State], has_error: impl Fn(&ObjectRef) -> bool) -> Vec<Remark> {
    if !states.is_empty() && states.iter().all(|state| state.observed.is_none()) {
        let object = ObjectRef { kind: "", namespace: String::new(), name: String::new() };
        let message = "no object has a status".to_owned();
        return vec![Remark::warning(object, "NotObserved", message, "is the operator running?")];
    }
    let mut remarks = Vec::new();
    for State { object, generation, observed, unmet, is_served: _ } in states {
        if observed.is_none_or(|observed| observed < *generation) {
            let message = "the operator has not looked at this version yet".to_owned();
            remarks.push(Remark::warning(object.clone(), "NotObserved", message, ""));
            continue;
        }
        if has_error(object) {
            continue;
        }
        // `Ready` sums up the others.
        let others = unmet.iter().filter(|(type_, ..)| type_ != "Ready").count();
        for (type_, reason, message) in unmet.iter().filter(|(type_, ..)| others == 0 || type_ != "Ready") {
            let message = format!("{type_} is False: {message}");
            remarks.push(Remark::warning(object.clone(), reason, message, ""));
        }
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn state(name: &str, value: &Value) -> State {
        let mut value = value.clone();
        value["metadata"]["namespace"] = "a".into();
        value["metadata"]["name"] = name.into();
        State::of("Team", &value)
    }

    #[test]
    fn conditions_that_no_finding_explains_are_told_and_ready_only_alone() {
        let condition =
            |type_: &str, reason: &str| json!({"type": type_, "status": "False", "reason": reason, "message": "why"});
        let with = |conditions: Value| json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 2, "conditions": conditions}});
        let states = [
            state("probed", &with(json!([condition("Ready", "Unauthorized")]))),
            state("swapping", &with(json!([condition("Programmed", "Pending"), condition("Ready", "Pending")]))),
            state("explained", &with(json!([condition("Accepted", "InvalidValue")]))),
            state("fine", &with(json!([{"type": "Ready", "status": "True", "reason": "Ready", "message": ""}]))),
            state("new", &json!({"metadata": {"generation": 3}, "status": {"observedGeneration": 2}})),
        ];
        let remarks = of_states(&states, |object| object.name == "explained");
        let lines: Vec<String> = remarks.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "warning: Team a/probed: Ready is False: why [Unauthorized]",
                "warning: Team a/swapping: Programmed is False: why [Pending]",
                "warning: Team a/new: the operator has not looked at this version yet [NotObserved]",
            ]
        );
    }

    #[test]
    fn gateways_that_the_operator_cannot_run_are_known_by_their_status() {
        let gateway = |namespace: &str, name: &str, conditions: &[(&str, &str, &str)]| {
            let conditions: Vec<Value> = conditions
                .iter()
                .map(|(type_, status, reason)| json!({"type": type_, "status": status, "reason": reason}))
                .collect();
            let status = if conditions.is_empty() {
                json!({})
            } else {
                json!({"observedGeneration": 1, "conditions": conditions})
            };
            let metadata = json!({"namespace": namespace, "name": name, "generation": 1});
            State::of("LLMGateway", &json!({"metadata": metadata, "status": status}))
        };
        let states = [
            gateway("a", "fine", &[("Accepted", "True", "Accepted"), ("Programmed", "False", "NoProxies")]),
            gateway(
                "a",
                "refused",
                &[("Accepted", "False", "NamespaceNotPrepared"), ("Programmed", "False", "NoProxies")],
            ),
            gateway("a", "spoiled", &[("Accepted", "False", "InvalidValue"), ("Programmed", "False", "LastGoodKept")]),
            gateway("a", "runs", &[("Accepted", "False", "InvalidValue"), ("Programmed", "True", "Programmed")]),
            gateway("a", "new", &[]),
            gateway("home", "new", &[]),
            state("team", &json!({"metadata": {"generation": 1}})),
        ];
        let unserved = |home: Option<&str>| -> Vec<String> {
            standing(&states, home).unserved.iter().map(ToString::to_string).collect()
        };
        assert_eq!(unserved(Some("home")), ["a/new", "a/refused"]);
        assert_eq!(unserved(None), ["a/new", "a/refused", "home/new"]);
        assert_eq!(standing(&states, Some("home")).home.as_deref(), Some("home"));
    }

    #[test]
    fn a_cluster_without_any_status_gets_one_line() {
        let bare = json!({"metadata": {"generation": 1}});
        let remarks = of_states(&[state("a", &bare), state("b", &bare)], |_| false);
        assert_eq!(remarks.len(), 1);
        assert_eq!(remarks[0].to_string(), "warning: no object has a status (is the operator running?) [NotObserved]");
    }
}
