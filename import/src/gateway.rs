//! The LLMGateway: master key, defaults for all calls, logs.

use tollgate_crds::{GatewayDefaults, LLMGatewaySpec, LogFormat, LogLevel, SecretSource};

use crate::block::Item;
use crate::context::Context;
use crate::environment::{Resolved, variable_name};
use crate::node::Node;
use crate::rate;
use crate::retry;
use crate::secret::Secrets;
use crate::settings::{Home, Settings};

/// Attempts of a call that a gateway allows by itself, and at most.
const USUAL_ATTEMPTS: i32 = 6;
const MOST_ATTEMPTS: i32 = 32;

/// The gateway, but for the number of attempts, which the groups decide.
pub fn gateway(settings: &mut Settings, secrets: &mut Secrets, context: &mut Context<'_>) -> LLMGatewaySpec {
    let drop_params = settings.take("drop_params", &[Home::Litellm], context);
    let drop_params = drop_params.and_then(|item| context.boolean(&item));
    let usual = GatewayDefaults::default();
    let defaults = GatewayDefaults {
        drop_unsupported_params: drop_params.unwrap_or(usual.drop_unsupported_params),
        retries: retry::retries(settings, context),
        timeouts: retry::timeouts(settings, context),
        cooldown: retry::cooldown(settings, context),
        budget_exceeded_status: exceeded_status(settings, context).unwrap_or(usual.budget_exceeded_status),
        ..usual
    };
    let mut gateway = LLMGatewaySpec {
        default: true,
        master_key: master_key(settings, secrets, context),
        defaults,
        rate_limits: rate::rules(settings, context),
        priorities: rate::priorities(settings, context),
        ..LLMGatewaySpec::default()
    };
    let verbose = settings.take("set_verbose", &[Home::Litellm, Home::Router], context);
    if verbose.and_then(|item| context.boolean(&item)) == Some(true) {
        gateway.telemetry.logs.level = LogLevel::Debug;
    }
    let json = settings.take("json_logs", &[Home::Litellm], context);
    if json.and_then(|item| context.boolean(&item)) == Some(false) {
        gateway.telemetry.logs.format = LogFormat::Human;
    }
    let metrics = settings.take("require_auth_for_metrics_endpoint", &[Home::Litellm], context);
    gateway.telemetry.metrics.require_auth = metrics.and_then(|item| context.boolean(&item)).unwrap_or(false);
    gateway
}

/// The status of a spent budget: LiteLLM takes any.
fn exceeded_status(settings: &mut Settings, context: &mut Context<'_>) -> Option<i32> {
    let item = settings.take("budget_exceeded_status_code", &[Home::Litellm], context)?;
    let status = context.small(&item, 400, 599)?;
    if matches!(status, 422 | 429) {
        return Some(status);
    }
    let message = format!("a spent budget answers 429 or 422, not {status}: it is 429 now");
    context.notes.warn(item.path, message, "");
    None
}

/// Raises the number of attempts to what retries and fallbacks of the groups may need.
pub fn allow_attempts(gateway: &mut LLMGatewaySpec, needed: i32) {
    gateway.defaults.max_attempts = needed.clamp(USUAL_ATTEMPTS, MOST_ATTEMPTS);
}

fn master_key(settings: &mut Settings, secrets: &mut Secrets, context: &mut Context<'_>) -> Option<SecretSource> {
    const PURPOSE: &str = "tollgate-master";
    let Some(item) = settings.take("master_key", &[Home::General], context) else {
        let own = context.environment.first_of(&["LITELLM_MASTER_KEY"]);
        if let Some((variable, value @ Resolved::Text(_))) = own {
            return Some(secrets.refer(Some(&variable), PURPOSE, "key", value, None));
        }
        let hint = "set LITELLM_MASTER_KEY when you serve, or write VirtualKeys";
        context.notes.warn("general_settings.master_key", "there is no master key, so that nobody can call yet", hint);
        return None;
    };
    let Item { path, node } = &item;
    let value = context.secret(&item).filter(|value| *value != Resolved::Text(String::new()))?;
    let variable = match node {
        Node::Text(text) => variable_name(text),
        _ => None,
    };
    if variable.is_none() && context.environment.is_known_later() {
        let message = "the master key stands in the file, and now in a Secret of the output";
        context.notes.warn(path, message, "keep the output out of version control, or write os.environ/NAME first");
    }
    Some(secrets.refer(variable, PURPOSE, "key", value, None))
}
