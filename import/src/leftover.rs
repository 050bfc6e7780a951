//! What is left of a file when everything that has an equivalent was taken: one note for each, with what to do instead.

use crate::block::Item;
use crate::context::Context;
use crate::node::Node;
use crate::settings::{Home, Settings};

/// Settings people are likely to miss: what becomes of them, and what to do.
const KNOWN: [(&str, &str, &str); 43] = [
    ("agent_list", "(agents) is not supported yet", ""),
    ("agents", "is not supported yet", ""),
    ("alerting", "is not supported yet", "metrics at /metrics can raise alerts"),
    ("alerting_threshold", "is not supported yet", ""),
    ("allowed_fails_policy", "is not supported: all failures count alike", "allowed_fails is"),
    ("allow_requests_on_db_unavailable", "is not needed: there is no database on the way of a call", ""),
    ("allowed_ips", "is not supported yet", ""),
    ("audit_log_callbacks", "is not supported yet", ""),
    ("background_health_checks", "has no equivalent: failures of calls are enough to pass an upstream over", ""),
    ("blocked_ips", "is not supported yet", ""),
    ("budget_manager", "is not needed: budgets are always counted", "write Budgets, or budgets of keys and teams"),
    ("cache", "is not supported yet: every call reaches a provider", ""),
    ("cache_params", "is not supported yet: every call reaches a provider", ""),
    ("cache_responses", "is not supported yet: every call reaches a provider", ""),
    ("callbacks", "is not supported yet; metrics for Prometheus are always at /metrics", ""),
    ("cost_per_token", "is not supported yet", "write input_cost_per_token into the entries of model_list"),
    ("custom_auth", "is not supported: code of LiteLLM cannot be loaded", ""),
    ("database_connection_pool_limit", "is not needed: there is no database", ""),
    (
        "database_url",
        "is not read: keys, teams and spend in LiteLLM's database stay there",
        "write Teams and VirtualKeys; keyHash takes over a key by its SHA-256",
    ),
    ("default_team_settings", "is not supported yet", ""),
    ("default_litellm_params", "is not supported yet", "write them into the entries of model_list"),
    ("enable_pre_call_checks", "is not supported yet", ""),
    ("enable_tag_filtering", "is not supported yet", "targets of a RouteGroup can have conditions on tags"),
    ("failure_callback", "is not supported yet; metrics for Prometheus are always at /metrics", ""),
    ("guardrails", "is not supported yet: nothing looks into prompts", ""),
    ("health_check_interval", "has no equivalent yet", ""),
    (
        "max_fallbacks",
        "has no equivalent: the attempts of a call are bounded as a whole",
        "set maxAttempts in the LLMGateway",
    ),
    ("max_parallel_requests", "is not supported for all keys together", "write it into keys and deployments"),
    ("mcp_servers", "is not supported yet", ""),
    ("pass_through_endpoints", "is not supported yet", ""),
    ("policies", "is not supported yet", ""),
    ("pre_call_rules", "is not supported: code of LiteLLM cannot be loaded", ""),
    ("prompts", "is not supported yet", ""),
    ("provider_budget_config", "is not supported yet", "a Budget with appliesTo.providers counts one provider"),
    ("proxy_batch_write_at", "is not needed: spend is written as it happens", ""),
    ("redis_host", "is not needed: one process counts by itself", ""),
    ("redis_password", "is not needed: one process counts by itself", ""),
    ("redis_port", "is not needed: one process counts by itself", ""),
    ("redis_url", "is not needed: one process counts by itself", ""),
    ("store_model_in_db", "is not supported: models are what files say", "files are read again when they change"),
    ("success_callback", "is not supported yet; metrics for Prometheus are always at /metrics", ""),
    ("telemetry", "is not needed: nothing is ever sent to anyone", ""),
    ("track_cost_per_model", "is not needed: cost is always tracked, for every model", ""),
];

/// Notes all that is left.
pub fn note(settings: Settings, context: &mut Context<'_>) {
    for (home, key, item) in settings.rest() {
        if home == Home::Root && key == "include" {
            note_includes(item, context);
            continue;
        }
        match KNOWN.iter().find(|(known, ..)| *known == key) {
            Some((_, what, hint)) => context.unsupported(&item.path, what, hint),
            None if home == Home::Root => context.unsupported(&item.path, "is not known, or not supported yet", ""),
            None => context.unsupported(&item.path, "is not known, or has no equivalent; it is left out", ""),
        }
    }
}

/// Only the one file is given to us; others would be lost without a word.
fn note_includes(item: Item, context: &mut Context<'_>) {
    for item in item.each() {
        let file = match &item.node {
            Node::Text(file) => file.as_str(),
            _ => "another file",
        };
        let hint = "put what it holds into this file";
        context.notes.error(item.path, format!("included files are not read; `{file}` is missing"), hint);
    }
}
