//! What a Deployment says about its pods. Pure.

use serde_json::Value;

use crate::facts::Problem;
use crate::settings::Settings;

/// Pods that are there.
pub(super) fn replicas(deployment: &Value) -> i32 {
    let replicas = deployment["status"]["replicas"].as_i64().unwrap_or(0);
    i32::try_from(replicas).unwrap_or(i32::MAX)
}

/// Whether its pods cannot be made.
pub(super) fn is_refused(deployment: &Value) -> bool {
    condition(deployment, "ReplicaFailure", "True").is_some()
}

/// Why it does not get ready, where it says so itself.
pub(super) fn problem(deployment: &Value, settings: &Settings) -> Option<Problem> {
    if let Some(refused) = condition(deployment, "ReplicaFailure", "True") {
        let message = refused["message"].as_str().unwrap_or_default();
        let account = &settings.proxy_service_account;
        if message.contains(&format!("serviceaccount \"{account}\" not found")) {
            let namespace = deployment["metadata"]["namespace"].as_str().unwrap_or_default();
            return Some(not_prepared(namespace, account));
        }
        return Some(Problem { reason: "PodsRefused", message: format!("pods cannot be made: {message}") });
    }
    let stuck = condition(deployment, "Progressing", "False")?;
    let message = stuck["message"].as_str().unwrap_or_default();
    Some(Problem { reason: "RolloutStuck", message: format!("pods do not get ready: {message}") })
}

fn condition<'a>(deployment: &'a Value, type_: &str, status: &str) -> Option<&'a Value> {
    let conditions = deployment["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == type_ && condition["status"] == status)
}

/// What an admin has to do once for a namespace that a gateway runs in.
pub(super) fn not_prepared(namespace: &str, account: &str) -> Problem {
    Problem {
        reason: "NamespaceNotPrepared",
        message: format!(
            "ServiceAccount `{account}` does not exist in namespace `{namespace}`; apply the proxies' ServiceAccount, Role and \
             RoleBinding there (the chart does for its own namespace)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::tests::settings;
    use serde_json::json;

    fn deployment(type_: &str, status: &str, message: &str) -> Value {
        json!({
            "metadata": {"namespace": "team-a"},
            "status": {"replicas": 1, "conditions": [{"type": type_, "status": status, "message": message}]},
        })
    }

    #[test]
    fn a_missing_service_account_is_told_as_what_to_do() {
        let message = "pods \"tollgate-5\" is forbidden: error looking up service account team-a/tollgate-proxy: \
                       serviceaccount \"tollgate-proxy\" not found";
        let deployment = deployment("ReplicaFailure", "True", message);
        assert!(is_refused(&deployment));
        assert_eq!(problem(&deployment, &settings()), Some(not_prepared("team-a", "tollgate-proxy")));
    }

    #[test]
    fn quotas_and_stuck_rollouts_are_problems_and_progress_is_none() {
        let problem =
            |type_, status| problem(&deployment(type_, status, "why"), &settings()).map(|problem| problem.reason);
        assert_eq!(problem("ReplicaFailure", "True"), Some("PodsRefused"));
        assert_eq!(problem("Progressing", "False"), Some("RolloutStuck"));
        assert_eq!(problem("Progressing", "True"), None);
        assert_eq!(problem("Available", "False"), None);
    }
}
